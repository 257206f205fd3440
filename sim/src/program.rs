//! What runs in the world: workflows, by versions of their code, and what must hold of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use stepwell::{BulkPolicy, Ctx, Failure, Item, Worker, Workflow};

use crate::history::History;
use crate::ledger::Effect;
use crate::outside::Outside;
use crate::plan::{ENGINE, Plan, Settings, Workload};
use crate::workload;

/// Registers one version of the code.
pub(crate) type Register = dyn Fn(SimWorker) -> SimWorker + Send + Sync;
/// Draws what clients do.
pub(crate) type DrawJobs = dyn Fn(&mut Workload) + Send + Sync;
/// Something that holds or not.
pub(crate) type Rule = dyn Fn(&History<'_>) -> bool + Send + Sync;

/// A rule and its name.
#[derive(Clone)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) rule: Arc<Rule>,
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Program {
    /// The suite's name.
    pub(crate) name: String,
    /// Whether it is the engine's own, whose workflows carry their proof.
    pub(crate) is_engine: bool,
    /// The code, oldest first. Workers begin with the first; a deploy brings the next.
    pub(crate) versions: Vec<Arc<Register>>,
    /// What clients start, by name.
    pub(crate) workflows: BTreeMap<String, Workflow<Value, Value>>,
    /// What they do.
    pub(crate) draws: Vec<Arc<DrawJobs>>,
    /// The outside effects.
    pub(crate) effects: BTreeMap<String, Effect>,
    /// What holds at every instant.
    pub(crate) always: Vec<Named>,
    /// What is reached in some seed.
    pub(crate) sometimes: Vec<Named>,
    /// What it is called that everything ends.
    pub(crate) ending: String,
}

impl Program {
    /// Of a suite without anything.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            is_engine: false,
            versions: Vec::new(),
            workflows: BTreeMap::new(),
            draws: Vec::new(),
            effects: BTreeMap::new(),
            always: Vec::new(),
            sometimes: Vec::new(),
            ending: "everything ends after the faults stop".to_owned(),
        }
    }

    /// The engine's own suite: workloads that carry their own proof.
    pub(crate) fn engine() -> Self {
        let mut program = Self::new(ENGINE);
        program.is_engine = true;
        program.versions.push(Arc::new(workload::register));
        program.versions.push(Arc::new(workload::register_later));
        program.knows(workload::CHAIN);
        program.knows(workload::CHECKOUT);
        program.knows(workload::SOLO);
        program.knows(workload::LIMITED);
        program.knows(workload::POISON);
        program.knows(workload::ORPHAN);
        program.knows(workload::RING);
        program.knows(workload::SHARED);
        // It races with the customer's patience.
        let ask = Effect::once_per_key().optional();
        program.effects.insert(workload::ASK.to_owned(), ask);
        program.knows(workload::ERRAND);
        program.knows(workload::ITEM);
        program
    }

    /// Clients may start this.
    pub(crate) fn knows<In, Out>(&mut self, workflow: Workflow<In, Out>) {
        self.workflows.insert(workflow.name().to_owned(), untyped(workflow));
    }

    pub(crate) fn workflow(&self, name: &str) -> Option<Workflow<Value, Value>> {
        self.workflows.get(name).copied()
    }

    /// The newest version of the code.
    pub(crate) fn newest(&self) -> usize {
        self.versions.len().saturating_sub(1)
    }

    /// A worker with one version of the code, which offers `slots` of each of its workflows'
    /// queues.
    pub(crate) fn worker(
        &self,
        worker: Worker,
        outside: Outside,
        version: usize,
        slots: u32,
    ) -> Worker {
        let sim = SimWorker {
            worker: Some(worker.build(format!("version {}", version + 1))),
            outside,
            slots,
            queues: BTreeMap::new(),
            known: BTreeMap::new(),
        };
        let register = self.versions.get(version).or(self.versions.last());
        match register {
            Some(register) => register(sim).finish(),
            None => sim.finish(),
        }
    }

    /// The plan of a seed, in a world that `limit` has changed.
    pub(crate) fn plan(&self, seed: u64, limit: impl FnOnce(&mut Settings)) -> Plan {
        if self.is_engine {
            let mut plan = Plan::for_engine(seed, limit);
            plan.suite.clone_from(&self.name);
            return plan;
        }
        Plan::drawn(&self.name, seed, limit, |workload| {
            self.draws.iter().for_each(|draw| draw(workload));
        })
    }
}

fn untyped<In, Out>(workflow: Workflow<In, Out>) -> Workflow<Value, Value> {
    Workflow::new(workflow.name()).version(workflow.code_version()).queue(workflow.queue_name())
}

/// A worker of the simulation: the production worker, and the outside world for its steps.
pub struct SimWorker {
    /// Taken for a moment while a function is registered.
    worker: Option<Worker>,
    outside: Outside,
    slots: u32,
    queues: BTreeMap<String, u32>,
    known: BTreeMap<String, Workflow<Value, Value>>,
}

impl SimWorker {
    /// The workflows that `register` registers.
    pub(crate) fn names(
        worker: Worker,
        outside: Outside,
        register: &Register,
    ) -> BTreeMap<String, Workflow<Value, Value>> {
        register(Self {
            worker: Some(worker),
            outside,
            slots: 1,
            queues: BTreeMap::new(),
            known: BTreeMap::new(),
        })
        .known
    }

    /// The outside world, to be given to the workflows in place of their real clients.
    pub fn world(&self) -> Outside {
        self.outside.clone()
    }

    /// Registers the function of a workflow, as [`Worker::register`] does, and offers slots of the
    /// workflow's queue.
    #[must_use]
    pub fn register<In, Out, F, Fut>(mut self, workflow: Workflow<In, Out>, function: F) -> Self
    where
        In: DeserializeOwned + 'static,
        Out: Serialize + 'static,
        F: Fn(Ctx, In) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Out, Failure>> + Send + 'static,
    {
        self.worker = self.worker.map(|worker| worker.register(workflow, function));
        self.known.insert(workflow.name().to_owned(), untyped(workflow));
        let slots = self.slots;
        self.queues.entry(workflow.queue_name().to_owned()).or_insert(slots);
        self
    }

    /// Registers a bulk handler, as [`Worker::register_bulk`] does, and offers slots of the
    /// workflow's queue.
    #[must_use]
    pub fn register_bulk<In, Out, F, Fut>(
        mut self,
        workflow: Workflow<In, Out>,
        policy: BulkPolicy,
        handler: F,
    ) -> Self
    where
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + DeserializeOwned + Send + 'static,
        F: Fn(Vec<Item<In>>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Vec<Result<Out, Failure>>> + Send + 'static,
    {
        self.worker = self.worker.map(|worker| worker.register_bulk(workflow, policy, handler));
        self.known.insert(workflow.name().to_owned(), untyped(workflow));
        let slots = self.slots;
        self.queues.entry(workflow.queue_name().to_owned()).or_insert(slots);
        self
    }

    /// Offers this many slots of a queue. Default: as the seed says, of each registered workflow's
    /// queue.
    #[must_use]
    pub fn queue(mut self, queue: impl Into<String>, slots: u32) -> Self {
        self.queues.insert(queue.into(), slots);
        self
    }

    fn finish(self) -> Worker {
        let worker = self.worker.unwrap_or_else(|| unreachable!("it is put back at once"));
        self.queues.into_iter().fold(worker, |worker, (queue, slots)| worker.queue(queue, slots))
    }
}

impl std::fmt::Debug for SimWorker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimWorker({:?})", self.queues)
    }
}
