//! The worker: runs workflows for an engine.
//!
//! ```text
//!   session (a thread of its own)             one task per run, on the caller's runtime
//!     heartbeats, frames, held turns ───────►  turn task: inbox ─► turn ─► the author's function
//!            ▲                                      │ reports, straight to the connection
//!            └──────────────── gone ────────────────┘
//! ```
//!
//! # The protocol of a worker, and what it relies on
//!
//! - **K1 Liveness is the session's.** Heartbeats come from a thread that no user code runs on. A
//!   function that blocks holds up its own runtime, not its session.
//! - **K2 A body starts only while the engine is near**: less than two thirds of the session
//!   timeout after anything was heard of it, connected or not. So a body that starts has at least
//!   a third of the timeout before another worker could start it too.
//! - **K3 A held turn goes on while the connection is away.** Its body runs, its reports wait. It
//!   is dropped one session timeout after the engine was last heard; or, if the connection broke
//!   (rather than fell silent) while the engine was near, one timeout after the break. An engine
//!   that restarts reserves its leases for as long, counted from its own start, which is later: so
//!   a restart of the engine under a long step does not run the step twice.
//! - **K4 A return lists what is held**: run, token, and how many entries are known without a gap.
//!   For each, the engine answers `LeaseContinued` (the rest of the journal follows; then the
//!   reports without an answer go out again, under the new token) or `Revoked`. What it does not
//!   answer within a session timeout is dropped.
//! - **K5 A report is sent under the token it belongs to, over the connection that token belongs
//!   to.** A turn that has not heard yet of its next token stays silent.
//! - **K6 What arrives twice or late changes nothing.** Frames for a run that is not held or under
//!   another token are dropped; a dispatch is matched against what is held and against the turns
//!   that ended last; entries are matched by index. A `LeaseContinued` for a turn that has been
//!   dropped meanwhile is answered with `Requeue`.
//! - **K7 A run is requeued only after its function is gone** from memory, so that two workers
//!   never run it at a time. Not so if it, or a step of it, blocks its thread past its timeout:
//!   see `stuck`.
//!
//! Draining: the worker offers no slots, starts no body, and requeues each run as soon as no body
//! of it runs and none of its reports is without an answer. What still runs after the grace is
//! dropped and requeued. Then it says goodbye.
//!
//! A worker also drains by itself, and then exits with [`STUCK_EXIT_CODE`] if the process is its
//! own, once a step, or a workflow's function outside of its steps, has blocked its thread for 5 s
//! past its timeout: the session's thread reports that attempt as failed.

mod outlet;
mod peer;
mod slots;
mod stuck;
#[cfg(test)]
mod tests;
mod turn_task;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};

use self::peer::{Introduction, Reached, WorkerPeer};
pub(crate) use self::peer::{PageWanted, SessionControl};
pub use self::slots::SLOTS_DEFAULT;
use self::slots::WorkerSlots;
use super::env::Env;
use super::isolated;
use super::link::{Dial, NetDial};
use super::session::{PeerSession, SessionError};
use crate::model::failure::Failure;
use crate::model::id::ProcessInstance;
use crate::model::limits::{NAME_BYTES_MAX, TAG_BYTES_MAX, TAGS_MAX};
use crate::model::name::{check_name, check_name_length};
use crate::model::request::BadName;
use crate::model::time::as_ms;
use crate::replay::isolated_step::IsolatedRunner;
use crate::replay::world::{Begin, Code, Registry, World};
use crate::wire::message::{WorkflowDefaults, WorkflowOffer};
use crate::workflow::{BulkHandler, BulkPolicy, Ctx, Item, Workflow, encode};

/// How long running steps may take to end once a worker drains, unless told otherwise.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(10);
/// The exit code of a worker process that left because a step, or a workflow's function, blocks its
/// thread past its timeout (`EX_TEMPFAIL`): a supervisor should start it again.
pub const STUCK_EXIT_CODE: i32 = 75;

/// Runs workflows for an engine.
///
/// ```no_run
/// use stepwell::{Ctx, Failure, Worker, Workflow};
///
/// const GREET: Workflow<String, String> = Workflow::new("greet");
///
/// async fn greet(ctx: Ctx, name: String) -> Result<String, Failure> {
///     ctx.step("say", |_| async { Ok::<_, std::io::Error>(format!("hello {name}")) }).await
/// }
///
/// # async fn run() -> Result<(), stepwell::WorkerError> {
/// Worker::connect("127.0.0.1:7400").register(GREET, greet).queue("default", 32).run_until_signal().await
/// # }
/// ```
#[must_use = "a worker does nothing until it is started"]
pub struct Worker {
    dial: Arc<dyn Dial>,
    env: Env,
    registry: Registry,
    workflows: Vec<WorkflowOffer>,
    slots: WorkerSlots,
    tags: Vec<String>,
    principal: String,
    build: String,
    grace: Duration,
    exits_when_stuck: Option<bool>,
}

/// Why a worker did not start, or ended.
#[derive(Debug, thiserror::Error)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub enum WorkerError {
    /// There is nothing it could run.
    #[error("no workflow is registered: a worker without one would never get a run")]
    NothingRegistered,
    /// Two functions for one name.
    #[error("the workflow `{workflow}` is registered twice")]
    RegisteredTwice {
        /// Which.
        workflow: String,
    },
    /// A name that no engine would take.
    #[error(transparent)]
    BadName(#[from] BadName),
    /// More tags than a worker or a run may have.
    #[error("{tags} tags, more than {TAGS_MAX}")]
    TooManyTags {
        /// How many.
        tags: usize,
    },
    /// The engine does not want this worker.
    #[error(transparent)]
    Refused(SessionError),
    /// A step or a workflow's function blocks its thread past its timeout, so the worker has
    /// left.
    #[error(
        "the worker has left: a step or a workflow's function blocks its thread past its timeout"
    )]
    Stuck,
    /// The machine gave no thread, or no signals.
    #[error("the system refuses what a worker needs")]
    System(#[source] std::io::Error),
}

impl Worker {
    /// A worker for the engine at `address` (`HOST:PORT` or `unix:PATH`). It connects when started,
    /// and again whenever the connection is lost.
    pub fn connect(address: impl Into<String>) -> Self {
        let env = Env::real();
        Self::new(Arc::new(NetDial::new(env.clone(), address)), env)
    }

    /// A worker that reaches its engine by `dial`, in the world that `env` is.
    pub fn new(dial: Arc<dyn Dial>, env: Env) -> Self {
        Self {
            dial,
            env,
            registry: Registry::new(),
            workflows: Vec::new(),
            slots: WorkerSlots::default(),
            tags: Vec::new(),
            principal: "worker".to_owned(),
            build: "unknown".to_owned(),
            grace: GRACE_DEFAULT,
            exits_when_stuck: None,
        }
    }

    /// Sets who the worker is, for logs and records. Default `worker`.
    pub fn principal(mut self, principal: impl Into<String>) -> Self {
        self.principal = principal.into();
        self
    }

    /// Sets what code this is: a commit's hash, say. A run whose code and journal disagree is tried
    /// again on a build it has not failed on. Default `unknown`.
    pub fn build(mut self, build: impl Into<String>) -> Self {
        self.build = build.into();
        self
    }

    /// Registers the function of a workflow. What its steps need of the outside world (clients,
    /// pools) is captured here, so that a test can capture its own.
    pub fn register<In, Out, F, Fut>(mut self, workflow: Workflow<In, Out>, function: F) -> Self
    where
        In: DeserializeOwned + 'static,
        Out: Serialize + 'static,
        F: Fn(Ctx, In) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Out, Failure>> + Send + 'static,
    {
        let begin: Arc<Begin> = Arc::new(move |ctx, input| {
            let input =
                input.to::<In>().map_err(|error| Failure::terminal(error).class("input"))?;
            let world = ctx.world();
            let running = function(ctx, input);
            Ok(Box::pin(async move { encode(&running.await?, world.payload_bytes_max()) }))
        });
        self.knows(&workflow, begin);
        self.slots.has_function();
        self
    }

    /// Registers a bulk handler: one call handles as many runs of the workflow as have come
    /// together, each with an outcome of its own. It answers one outcome for each item, in their
    /// order.
    ///
    /// Offers `items_max` slots of the workflow's queue, beside those of other handlers and
    /// functions, unless [`queue`](Self::queue) says otherwise: with fewer no group is ever full,
    /// and each waits for `wait_max`.
    ///
    /// Items are ordinary runs: of a hundred, three fail, ninety-seven have ended, and three are
    /// tried again or are dead letters. A panic of the handler, its timeout, or a wrong number
    /// of outcomes fails the attempt of each of its items. Items of a lost worker come again one by
    /// one, in whatever group is gathered then.
    ///
    /// **Cancel safety**: a run that is cancelled while it waits leaves its group; one that is
    /// cancelled while the handler runs leaves the call as it is, and its outcome is not looked at.
    /// The call is dropped with the last of its items.
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
        let bulk = Arc::new(BulkHandler::new(self.env.clock.clone(), policy, handler));
        let begin: Arc<Begin> = Arc::new(move |ctx, input| {
            // One that cannot be read is found out here: no handler ever gets it.
            input.to::<In>().map_err(|error| Failure::terminal(error).class("input"))?;
            let (input, bulk, world) = (input.clone(), bulk.clone(), ctx.world());
            let limit = policy.attempt_timeout();
            Ok(Box::pin(async move {
                let handled = ctx
                    .step("item", |step| bulk.clone().handle(step, input.clone()))
                    .retry(policy.retry)
                    .soft_timeout(limit)
                    .timeout(limit)
                    .await?;
                encode(&handled, world.payload_bytes_max())
            }))
        });
        self.knows(&workflow, begin);
        self.slots.has_bulk_handler(workflow.queue_name(), policy.items_max);
        self
    }

    fn knows<In, Out>(&mut self, workflow: &Workflow<In, Out>, begin: Arc<Begin>) {
        let (name, version) = (workflow.name().to_owned(), workflow.code_version());
        let code = Code { version, timeout: workflow.function_timeout(), begin };
        self.registry.insert(name.clone(), code);
        let defaults = WorkflowDefaults {
            queue: workflow.queue_name().to_owned(),
            tags: workflow.tag_names().iter().map(|tag| (*tag).to_owned()).collect(),
            timeout_ms: as_ms(workflow.function_timeout()),
        };
        self.workflows.push(WorkflowOffer { workflow: name, version, defaults });
    }

    /// Takes runs of this queue, at most `slots` at a time. May be called for several queues.
    ///
    /// Default: 32 of `default` for what is [registered](Self::register), and `items_max` more of
    /// its queue for each [bulk handler](Self::register_bulk). A queue that is named here has the
    /// slots that are named; once one is, `default` is served only if it is named, too.
    pub fn queue(mut self, queue: impl Into<String>, slots: u32) -> Self {
        self.slots.name(queue.into(), slots);
        self
    }

    /// Offers a tag: runs that ask for it ([`StartBuilder::tags`](crate::StartBuilder::tags)) come
    /// here, and all that ask for none. May be called for up to 8 tags.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        let tag = tag.into();
        if !self.tags.contains(&tag) {
            self.tags.push(tag);
        }
        self
    }

    /// Sets how long steps that run may take to end when the worker drains. Default 10 s.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Sets whether the process exits, with [`STUCK_EXIT_CODE`], once a step, or a workflow's
    /// function, has blocked its thread past its timeout and the worker has drained. Default:
    /// yes for [`run_until_signal`](Self::run_until_signal), no for [`start`](Self::start), where
    /// the process is not the worker's alone, and never for a worker of an
    /// [`Engine`](crate::Engine) in the same process.
    ///
    /// A worker that does not exit leaves all the same: it reports the attempt as failed, gives its
    /// runs back, takes no more work, logs an error, and [`WorkerHandle::finished`] ends. Its
    /// blocked thread stays.
    pub fn exit_when_stuck(mut self, exits: bool) -> Self {
        self.exits_when_stuck = Some(exits);
        self
    }

    /// Starts it. Its connection gets a thread of its own; functions run on the current tokio
    /// runtime.
    ///
    /// It does not wait for the engine: see [`WorkerHandle::connected`]. Dropping the handle does
    /// not stop the worker.
    ///
    /// In the process of an isolated step (see [`Isolation::Process`](crate::Isolation::Process))
    /// it does not return: it runs that step, and the process ends. There, a runtime of the
    /// `current_thread` flavor that it is called on stands still;
    /// [`run_until_signal`](Self::run_until_signal) does not have that effect.
    ///
    /// Panics outside of a tokio runtime.
    pub fn start(mut self) -> Result<WorkerHandle, WorkerError> {
        if self.serves_a_step(true)? {
            loop {
                std::thread::park();
            }
        }
        self.launch()
    }

    /// In the process of an isolated step, serves that, if it is one of its workflows'. A worker
    /// without it does nothing there.
    #[cfg(unix)]
    fn serves_a_step(&mut self, blocks: bool) -> Result<bool, WorkerError> {
        let Some(socket) = isolated::marker().filter(|_| self.env.exec.has_processes()) else {
            return Ok(false);
        };
        if !self.registry.keys().any(|name| isolated::is_of(name)) {
            self.dial = Arc::new(isolated::Nowhere);
            return Ok(false);
        }
        let world = World::new(self.env.clock.clone(), self.registry.clone());
        isolated::serve(&self.env, socket, world, blocks).map_err(WorkerError::System)?;
        Ok(true)
    }

    #[cfg(not(unix))]
    fn serves_a_step(&mut self, _blocks: bool) -> Result<bool, WorkerError> {
        Ok(false)
    }

    fn launch(self) -> Result<WorkerHandle, WorkerError> {
        self.check()?;
        let queues = self.slots.offered();
        let Self {
            dial,
            env,
            registry,
            workflows,
            slots: _,
            tags,
            principal,
            build,
            grace,
            exits_when_stuck,
        } = self;
        let process = ProcessInstance(env.entropy.next_u128());
        let introduction = Introduction {
            principal,
            protocols: env.protocols,
            process,
            build,
            workflows,
            queues,
            tags,
            grace,
        };
        let (controls, from_handles) = mpsc::unbounded_channel();
        let world = World::new(env.clock.clone(), registry);
        let world = Arc::new(world.with_isolated_runner(isolated_runner(&env, &controls)));
        let (reached, is_reached) = watch::channel(None);
        let (ended, has_ended) = watch::channel(());
        let runtime = tokio::runtime::Handle::current();
        let peer = WorkerPeer::new(introduction, world.clone(), runtime, reached, controls.clone());
        let session = PeerSession::new(env.clone(), dial, peer, from_handles);
        let after = world.clone();
        let run = async move {
            session.run().await;
            if after.counts.stuck.load(Ordering::Relaxed) > 0 {
                leaves_stuck(exits_when_stuck.unwrap_or(false));
            }
            drop(ended);
        };
        env.exec.isolated("stepwell-session", Box::pin(run)).map_err(WorkerError::System)?;
        Ok(WorkerHandle { controls, reached: is_reached, ended: has_ended, world, process })
    }

    /// Starts it, and drains it when the process gets SIGTERM or SIGINT.
    ///
    /// Errors: those of [`start`](Self::start); if the engine refuses the worker's first hello; and
    /// [`WorkerError::Stuck`] if the worker has left by itself and the process does not exit
    /// ([`exit_when_stuck`](Self::exit_when_stuck)).
    pub async fn run_until_signal(mut self) -> Result<(), WorkerError> {
        if self.serves_a_step(false)? {
            return std::future::pending().await;
        }
        self.exits_when_stuck.get_or_insert(true);
        let handle = self.launch()?;
        let mut signal = std::pin::pin!(signal());
        tokio::select! {
            biased;
            got = &mut signal => got.map_err(WorkerError::System)?,
            reached = handle.connected() => {
                if let Err(refused) = reached {
                    handle.stop();
                    return Err(WorkerError::Refused(refused));
                }
                tokio::select! {
                    biased;
                    got = &mut signal => got.map_err(WorkerError::System)?,
                    () = handle.finished() => return Err(WorkerError::Stuck),
                }
            }
        }
        tracing::info!("draining");
        handle.drain().await;
        Ok(())
    }

    fn check(&self) -> Result<(), WorkerError> {
        if self.workflows.is_empty() {
            return Err(WorkerError::NothingRegistered);
        }
        let workflows = self.workflows.iter().map(|offer| ("workflow", &offer.workflow));
        let queues = self.slots.offered();
        let queues = queues.iter().map(|slots| ("queue", &slots.queue));
        let defaults = self.workflows.iter().map(|offer| ("queue", &offer.defaults.queue));
        let named = workflows.chain(queues).chain(defaults);
        for (what, name) in named.chain([("build", &self.build)]) {
            check_name(what, name, NAME_BYTES_MAX)?;
        }
        check_name_length("principal", &self.principal)?;
        let defaults = self.workflows.iter().map(|offer| &offer.defaults.tags);
        for tags in defaults.chain([&self.tags]) {
            for tag in tags {
                check_name("tag", tag, TAG_BYTES_MAX)?;
            }
            if tags.len() > TAGS_MAX {
                return Err(WorkerError::TooManyTags { tags: tags.len() });
            }
        }
        for (index, offer) in self.workflows.iter().enumerate() {
            if self.workflows[..index].iter().any(|earlier| earlier.workflow == offer.workflow) {
                return Err(WorkerError::RegisteredTwice { workflow: offer.workflow.clone() });
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Worker of {} workflows for {}", self.workflows.len(), self.dial.address())
    }
}

/// A worker that runs. Dropping it does not stop the worker.
#[derive(Clone)]
pub struct WorkerHandle {
    controls: mpsc::UnboundedSender<SessionControl>,
    reached: watch::Receiver<Reached>,
    ended: watch::Receiver<()>,
    world: Arc<World>,
    process: ProcessInstance,
}

impl WorkerHandle {
    /// Takes no more work, lets the steps that run end (within the grace), reports them,
    /// requeues its runs, and leaves.
    ///
    /// **Cancel safety**: the worker drains even if this future is dropped.
    pub async fn drain(&self) {
        let _ = self.controls.send(SessionControl::Drain);
        self.finished().await;
    }

    /// Drops its functions, requeues all its runs, and leaves. Returns at once; wait with
    /// [`finished`](Self::finished).
    pub fn stop(&self) {
        let _ = self.controls.send(SessionControl::Stop);
    }

    /// Ends once the worker has left, or its runtime is gone.
    pub async fn finished(&self) {
        let mut ended = self.ended.clone();
        while ended.changed().await.is_ok() {}
    }

    /// Ends once the engine has welcomed the worker. A worker that cannot reach it goes on trying,
    /// and so does this.
    ///
    /// Errors: [`SessionError::HelloRefused`] if the engine refuses it (the worker goes on trying,
    /// every 5 s), and [`SessionError::NotReachable`] if the worker has ended before.
    pub async fn connected(&self) -> Result<(), SessionError> {
        let mut reached = self.reached.clone();
        loop {
            match reached.borrow_and_update().clone() {
                Some(Err(SessionError::NotReachable { .. })) | None => {}
                Some(answer) => return answer,
            }
            if reached.changed().await.is_err() {
                let cause = "the worker has ended".to_owned();
                return Err(SessionError::NotReachable { address: "the engine".to_owned(), cause });
            }
        }
    }

    /// This life of the worker, as the engine's records name it.
    pub fn process(&self) -> ProcessInstance {
        self.process
    }

    /// What it has done so far.
    pub fn stats(&self) -> WorkerStats {
        let counts = &self.world.counts;
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        WorkerStats {
            turns: read(&counts.turns),
            attempts: read(&counts.bodies),
            steps: read(&counts.steps),
            replayed: read(&counts.replayed),
            suspended: read(&counts.suspended),
            mismatches: read(&counts.mismatches),
            revoked: read(&counts.revoked),
            dropped: read(&counts.dropped),
            requeued: read(&counts.requeued),
            stuck: read(&counts.stuck),
        }
    }
}

impl std::fmt::Debug for WorkerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WorkerHandle({})", self.process)
    }
}

/// What a worker has done since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct WorkerStats {
    /// Turns begun.
    pub turns: u64,
    /// Bodies of steps started.
    pub attempts: u64,
    /// Bodies of steps that ended well.
    pub steps: u64,
    /// Recorded outcomes handed to functions in replay.
    pub replayed: u64,
    /// Turns suspended.
    pub suspended: u64,
    /// Turns whose code and journal disagreed.
    pub mismatches: u64,
    /// Leases the engine took back.
    pub revoked: u64,
    /// Turns dropped because the engine was away for too long.
    pub dropped: u64,
    /// Runs that this worker requeued.
    pub requeued: u64,
    /// Turns whose code blocked its thread past its timeout, when that was noticed first: the
    /// worker leaves.
    pub stuck: u64,
}

/// The runner of isolated steps, where processes can be started.
#[cfg(unix)]
fn isolated_runner(
    env: &Env,
    session: &mpsc::UnboundedSender<SessionControl>,
) -> Option<Arc<dyn IsolatedRunner>> {
    let processes = || Arc::new(isolated::Processes::new(env.clone(), session.clone()));
    env.exec.has_processes().then(|| processes() as _)
}

#[cfg(not(unix))]
fn isolated_runner(
    _: &Env,
    _: &mpsc::UnboundedSender<SessionControl>,
) -> Option<Arc<dyn IsolatedRunner>> {
    None
}

/// The last of a worker with a thread that is blocked. From the session's thread: the others may be
/// blocked, too.
fn leaves_stuck(exits: bool) {
    tracing::error!(
        exits,
        "the worker has left: a step or a workflow's function blocks its thread past its timeout. Such work belongs into a process of its own (`Isolation::Process`)"
    );
    if exits {
        eprintln!(
            "stepwell: a step or a workflow's function blocks its thread past its timeout; the worker exits with code {STUCK_EXIT_CODE}"
        );
        std::process::exit(STUCK_EXIT_CODE);
    }
}

#[cfg(unix)]
async fn signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        biased;
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

#[cfg(not(unix))]
async fn signal() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}
