//! A suite: workflows, what is done with them, what goes wrong, and what must hold all the same.
//!
//! ```text
//!   bank, fresh seeds ──► plan (data) ──► simulate ──► report ──► all good: next
//!                                           ▲  │ every Nth twice, one in another process: the same trace, or it fails
//!                                           │  └── bad ──► shrink ──► plan.json, report.html, one line to play it again
//!                                           └──────────────────┘
//! ```

mod faults;
mod gate;
mod play;
mod seeds;
mod suite_report;
mod unreached;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use stepwell::{Worker, Workflow};

use crate::history::History;
use crate::idempotency::{CrashMap, Idempotency};
use crate::ledger::Effect;
use crate::outside::Outside;
use crate::plan::{ENGINE_ON_FJALL_PER_MILLE, Plan, Point, Scripted, Strike, Workload};
use crate::program::{Named, Program, SimWorker};
use crate::recording::Recording;
use crate::report::Report;
use crate::shrink::Shrunk;
use crate::simulation::{run_and_points_of, run_of, run_recorded_of, run_traced_of};

use self::play::Watch;

pub use self::faults::{FaultClass, Faults};
pub use self::play::{Options, Progress};
pub use self::seeds::Seeds;
pub use self::suite_report::{Failed, SuiteReport};

/// What chance from outside decides cannot be made smaller: the next run is another one.
const NOT_SHRUNK: &str = "not shrunk: this seed is not deterministic";

/// Where suites begin.
#[derive(Debug, Clone, Copy)]
pub struct Sim;

impl Sim {
    /// A suite of one's own workflows. The name is that of its plans and reports.
    pub fn suite(name: impl Into<String>) -> Suite {
        let name = name.into();
        Suite {
            program: Program::new(&name),
            faults: Faults::default(),
            seeds: Seeds::default(),
            workers: None,
            settles_within: None,
            script: Vec::new(),
            on_fjall_per_mille: 0,
        }
    }

    /// The engine's own suite: workflows that carry their own proof, under all faults.
    pub fn engine() -> Suite {
        Suite {
            program: Program::engine(),
            on_fjall_per_mille: ENGINE_ON_FJALL_PER_MILLE,
            ..Self::suite(crate::plan::ENGINE)
        }
    }
}

/// A suite of simulations. See [`Sim::suite`].
#[must_use = "a suite does nothing until it is run"]
pub struct Suite {
    program: Program,
    faults: Faults,
    seeds: Seeds,
    workers: Option<u32>,
    settles_within: Option<Duration>,
    script: Vec<Scripted>,
    on_fjall_per_mille: u64,
}

impl Suite {
    /// `count` workers with this code: production code, unchanged, to which [`SimWorker::world`] is
    /// given in place of its clients to the outside.
    ///
    /// Panics without a worker, and if they register no workflow.
    #[track_caller]
    pub fn workers(
        mut self,
        count: u32,
        register: impl Fn(SimWorker) -> SimWorker + Send + Sync + 'static,
    ) -> Self {
        assert!(count > 0, "a suite needs a worker");
        self.workers = Some(count);
        self.program.versions.clear();
        self.version(register)
    }

    /// The next version of the code, to which workers are swapped under running work
    /// ([`FaultClass::Deployed`](crate::FaultClass::Deployed)).
    #[track_caller]
    pub fn deploy(self, register: impl Fn(SimWorker) -> SimWorker + Send + Sync + 'static) -> Self {
        assert!(
            !self.program.versions.is_empty(),
            "the first version of the code is given by `workers`"
        );
        self.version(register)
    }

    #[track_caller]
    fn version(
        mut self,
        register: impl Fn(SimWorker) -> SimWorker + Send + Sync + 'static,
    ) -> Self {
        // Registered once for its names; nothing is connected.
        let outside = Outside::closed(Arc::default());
        let known = SimWorker::names(Worker::connect("nowhere:1"), outside, &register);
        assert!(
            !known.is_empty(),
            "the workers of suite `{}` register no workflow: call `register` on what they are given",
            self.program.name
        );
        self.program.workflows.extend(known);
        self.program.versions.push(Arc::new(register));
        self
    }

    /// What clients do. May be called several times.
    pub fn workload(mut self, draw: impl Fn(&mut Workload) + Send + Sync + 'static) -> Self {
        self.program.draws.push(Arc::new(draw));
        self
    }

    /// Lets clients start a workflow that no version of the code registers any more, or not yet.
    pub fn knows<In, Out>(mut self, workflow: Workflow<In, Out>) -> Self {
        self.program.knows(workflow);
        self
    }

    /// The same suite under another name.
    pub(crate) fn called(mut self, name: &str) -> Self {
        self.program.name = name.to_owned();
        self
    }

    /// What goes wrong. Default: [`Faults::swarm`].
    pub fn faults(self, faults: Faults) -> Self {
        Self { faults, ..self }
    }

    /// What the outside world does with calls for `effect`. Default: [`Effect::once_per_key`]. If
    /// no seed calls for it, the suite fails, unless it is [optional](Effect::optional): it is
    /// misspelt, perhaps.
    pub fn effect(mut self, effect: impl Into<String>, rule: Effect) -> Self {
        self.program.effects.insert(effect.into(), rule);
        self
    }

    /// Something that holds at every instant; looked at whenever anything was committed or done
    /// outside.
    pub fn always(
        mut self,
        name: impl Into<String>,
        rule: impl Fn(&History<'_>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.program.always.push(named(name, rule));
        self
    }

    /// Something that is so at the end of at least one of the seeds. If it never is, the suite
    /// fails: it does not test what it seems to, unless its [budget](Seeds::budget) left seeds out.
    pub fn sometimes(
        mut self,
        name: impl Into<String>,
        rule: impl Fn(&History<'_>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.program.sometimes.push(named(name, rule));
        self
    }

    /// Strikes at a point of the program, at its first passing, in every seed. If no seed passes
    /// it, the suite fails.
    pub fn at(self, point: Point, strike: Strike) -> Self {
        self.at_nth(point, 1, strike)
    }

    /// Strikes at the `nth` passing of a point, counted from 1 over all hosts, in every seed.
    pub fn at_nth(mut self, point: Point, nth: u32, strike: Strike) -> Self {
        self.script.push(Scripted { point, nth, strike });
        self
    }

    /// Everything ends within this simulated time after the faults are over. Default: five minutes.
    pub fn eventually(mut self, name: impl Into<String>, within: Duration) -> Self {
        self.program.ending = name.into();
        self.settles_within = Some(within);
        self
    }

    /// Runs so many of a thousand seeds on the production store, in a temporary directory: real
    /// files, kills and power cuts. Its syncs and reads do not fail and there is always room, so
    /// such a seed is without these faults. Default: none; 40 in the engine's own suite. Only Linux
    /// tells what a power cut needs to know; elsewhere it changes nothing.
    #[track_caller]
    pub fn on_fjall(self, per_mille: u64) -> Self {
        assert!(per_mille <= 1_000, "there are a thousand in a thousand");
        Self { on_fjall_per_mille: per_mille, ..self }
    }

    /// Which seeds are run. Default: 100 fresh ones.
    pub fn seeds(self, seeds: Seeds) -> Self {
        Self { seeds, ..self }
    }

    /// Runs it, as the body of a test: prints a line, or panics with the reason, the shrunk plan,
    /// the report and the line that runs it again.
    ///
    /// The environment: `SIM_SEED=N` runs one seed, `SIM_PLAN=FILE` one plan, `SIM_SEEDS=N` that
    /// many fresh seeds, `SIM_FROM=N` from that one on, `SIM_JOBS=N` so many at a time,
    /// `SIM_REPORT=DIR` puts plans and reports there, also of what is good if it was asked for
    /// alone.
    #[track_caller]
    pub fn run(self) {
        let name = self.program.name.clone();
        // Not in a closure: the panic names the line of the test.
        let options = match Options::from_env() {
            Ok(options) => options,
            Err(problem) => panic!("suite `{name}`: {problem}"),
        };
        match self.check(options) {
            Ok(report) if report.is_sound() => println!("{report}"),
            Ok(report) => panic!("{report}"),
            Err(problem) => panic!("suite `{name}`: {problem}"),
        }
    }

    /// Runs one plan, which was written by a run of this suite.
    #[track_caller]
    pub fn replay(self, plan: impl Into<PathBuf>) {
        let name = self.program.name.clone();
        let options = Options { plan: Some(plan.into()), ..Options::default() };
        match self.check(options) {
            Ok(report) if report.is_sound() => println!("{report}"),
            Ok(report) => panic!("{report}"),
            Err(problem) => panic!("suite `{name}`: {problem}"),
        }
    }

    /// Runs it and tells what it showed. An error says why it cannot be run.
    ///
    /// Every ten seconds of real time a line on stderr tells how far it is.
    pub fn check(self, options: Options) -> Result<SuiteReport, String> {
        gate::play_as_child(&self.ready());
        play::play(&self.ready(), &self.seeds, &options, &Watch::Lines)
    }

    /// The same, and in place of these lines `watch` is called after each seed.
    pub fn check_with(
        self,
        options: Options,
        watch: impl Fn(&Progress) + Sync,
    ) -> Result<SuiteReport, String> {
        gate::play_as_child(&self.ready());
        play::play(&self.ready(), &self.seeds, &options, &Watch::Call(&watch))
    }

    /// Shrinks a plan that fails, within `budget` of real time, to one that fails in the same way.
    /// An error says why not: it does not fail, say.
    pub fn shrink(self, plan: Plan, budget: Duration) -> Result<Shrunk, String> {
        let suite = self.ready();
        let report = suite.simulate(plan.clone());
        let Some(first) = report.violations.first() else {
            return Err("the plan does not fail".to_owned());
        };
        if let Some(difference) = gate::twice(&suite, &plan, &report) {
            return Err(format!("{NOT_SHRUNK}: {difference}"));
        }
        let checker = first.checker.clone();
        let same = move |report: &Report| {
            let first = report.violations.first();
            first.is_some_and(|violation| violation.checker == checker)
        };
        Ok(crate::shrink::shrink(&suite.program, plan, report, budget, &same))
    }

    /// The plan of a seed.
    pub fn plan(&self, seed: u64) -> Plan {
        self.ready().plan(seed)
    }

    /// Runs a plan and takes down all that happens, for a report.
    pub fn record(&self, plan: Plan) -> Recording {
        self.ready().record(plan)
    }

    /// **The idempotency check**: for each outside effect of one run of each workflow, the worker
    /// is killed right after the effect and before its record, the step is done again, and the
    /// outside world is compared with that of a calm run. Tells the steps that are not safe to
    /// repeat. An error says why there is no report: an effect was declared that is never called,
    /// say.
    pub fn idempotency(self, seed: u64) -> Result<Idempotency, String> {
        let suite = self.ready();
        let idempotency = crate::idempotency::idempotency(&suite, seed)?;
        let called = idempotency.steps.iter().map(|step| step.effect.as_str());
        suite.calls_all(seed, called.collect())?;
        Ok(idempotency)
    }

    /// **The crash map**: each point that one run of each workflow passes is struck once with each
    /// of `strikes`; the run must end as it does when all is calm, and the outside world must be
    /// the same.
    pub fn crash_map(self, seed: u64, strikes: &[Strike]) -> Result<CrashMap, String> {
        crate::idempotency::crash_map(&self.ready(), seed, strikes)
    }

    fn ready(&self) -> Ready {
        Ready {
            program: Arc::new(self.program.clone()),
            faults: self.faults.clone(),
            workers: self.workers,
            settles_within: self.settles_within,
            script: self.script.clone(),
            on_fjall_per_mille: self.on_fjall_per_mille,
        }
    }
}

impl std::fmt::Debug for Suite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Suite({})", self.program.name)
    }
}

fn named(
    name: impl Into<String>,
    rule: impl Fn(&History<'_>) -> bool + Send + Sync + 'static,
) -> Named {
    Named { name: name.into(), rule: Arc::new(rule) }
}

/// A suite that is being run.
pub(crate) struct Ready {
    pub(crate) program: Arc<Program>,
    faults: Faults,
    workers: Option<u32>,
    settles_within: Option<Duration>,
    script: Vec<Scripted>,
    on_fjall_per_mille: u64,
}

impl Ready {
    /// An error if an effect was declared that neither `called` holds nor the seed's own world
    /// calls for.
    fn calls_all(&self, seed: u64, called: BTreeSet<&str>) -> Result<(), String> {
        if unreached::uncalled(&self.program, &called).is_empty() {
            return Ok(());
        }
        let (_, passed) = self.simulate_and_points(self.plan(seed));
        let mut all = unreached::called(passed.keys());
        all.extend(called);
        match unreached::uncalled(&self.program, &all).first() {
            Some(problem) => Err(problem.clone()),
            None => Ok(()),
        }
    }

    /// The plan of a seed.
    pub(crate) fn plan(&self, seed: u64) -> Plan {
        let mut plan = self.program.plan(seed, |settings| {
            self.faults.limit(settings);
            if let Some(within) = self.settles_within {
                settings.heal_max_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
            }
            if let Some(workers) = self.workers {
                settings.workers = workers;
            }
        });
        plan.script.clone_from(&self.script);
        plan.on_fjall_by_chance(self.on_fjall_per_mille)
    }

    pub(crate) fn simulate(&self, plan: Plan) -> Report {
        run_of(plan, self.program.clone())
    }

    /// The same, and how often each point was passed.
    pub(crate) fn simulate_and_points(&self, plan: Plan) -> (Report, BTreeMap<Point, u32>) {
        run_and_points_of(plan, self.program.clone())
    }

    pub(crate) fn record(&self, plan: Plan) -> Recording {
        run_recorded_of(plan, self.program.clone())
    }

    pub(crate) fn simulate_traced(&self, plan: Plan) -> (Report, Vec<String>) {
        run_traced_of(plan, self.program.clone())
    }
}

/// Real time, which nothing in a simulation may see.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch(std::time::Instant);

impl Stopwatch {
    #[allow(clippy::disallowed_methods, reason = "it measures the simulator, from outside")]
    pub(crate) fn begin() -> Self {
        Self(std::time::Instant::now())
    }

    pub(crate) fn passed(&self) -> Duration {
        self.0.elapsed()
    }
}
