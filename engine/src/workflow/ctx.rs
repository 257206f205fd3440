//! The context: all that a workflow function may ask.

use std::borrow::Cow;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::step::{Step, StepFuture};
use super::timer::SleepFuture;
use crate::model::entry::CommandKind;
use crate::model::failure::Failure;
use crate::model::id::RunId;
use crate::model::time::Time;
use crate::replay::shared::Shared;
use crate::replay::world::World;

/// What a workflow function asks the engine through. Cheap to clone.
///
/// **Determinism**: `step`, `sleep` and `random` give out numbers in the order of the calls, so they belong into the
/// workflow function and not into a step's body, where they panic (which fails the step).
#[derive(Clone)]
pub struct Ctx {
    shared: Arc<Shared>,
}

impl Ctx {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// What the worker knows.
    pub(crate) fn world(&self) -> Arc<World> {
        self.shared.world.clone()
    }

    /// Asks for a step: a piece of work with an effect in the world, whose outcome is recorded.
    ///
    /// `body` is called once for each attempt, and its future is polled in place, so that it may borrow. What it returns
    /// is committed to the journal before this future resolves; when the function is run again, the body does not run
    /// and the recorded value is the answer. The body is at-least-once in the world (a crash can hit between effect and
    /// record), so it guards its effect with [`Step::key`].
    ///
    /// Defaults: [`Retry::default`](crate::Retry) (six attempts), 5 min soft and 5 min 30 s hard limit for each attempt.
    ///
    /// **Determinism**: the step gets its number when this is called, not when the future is polled. The same code must
    /// call it with the same name at the same number. It runs when first polled, and only if there is no recorded
    /// outcome.
    ///
    /// **Durability**: once it has resolved, its outcome survives a kill and a power cut.
    ///
    /// **Cancel safety**: dropping the future stops the body at its next await; the number stays used up. An outcome
    /// that was under way already is recorded and never looked at.
    ///
    /// Errors: the failure of the last attempt, or a cancelled failure once the run has been cancelled.
    #[track_caller]
    pub fn step<F, Fut, T, E>(
        &self,
        name: impl Into<Cow<'static, str>>,
        body: F,
    ) -> StepFuture<F, Fut, T>
    where
        F: FnMut(Step) -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send,
        T: Serialize + DeserializeOwned + Send,
        E: Into<Failure>,
    {
        let number = self.shared.ask(
            CommandKind::Step,
            name.into(),
            Duration::ZERO,
            Location::caller(),
        );
        StepFuture::new(self.shared.clone(), number, body)
    }

    /// Waits for `span` of engine time, across restarts of everything. A waiting run holds no slot and no memory.
    ///
    /// The due time is recorded when the engine arms the timer: a replay does not start the wait again. Never early;
    /// precision is that of the engine, some milliseconds.
    ///
    /// **Determinism**: takes a number when called, as a step does.
    ///
    /// Errors: a cancelled failure once the run has been cancelled.
    #[track_caller]
    pub fn sleep(&self, span: Duration) -> SleepFuture {
        let number = self.shared.ask(
            CommandKind::Timer,
            Cow::Borrowed(""),
            span,
            Location::caller(),
        );
        SleepFuture::new(self.shared.clone(), number, span)
    }

    /// The time as this run knows it: when the entry it saw last was committed, at first when the run was started.
    ///
    /// **Determinism**: recorded; the same at the same place in each replay. It does not move on between two awaits.
    pub fn now(&self) -> Time {
        self.shared.now()
    }

    /// 64 bits drawn from the run's id and the number of draws so far. Not for secrets.
    ///
    /// **Determinism**: derived; the same at the same place in each replay.
    #[track_caller]
    pub fn random(&self) -> u64 {
        self.shared.random()
    }

    /// The run's id.
    pub fn run_id(&self) -> RunId {
        self.shared.started.id
    }

    /// The name the run was started under, if it was given one.
    pub fn run_name(&self) -> Option<&str> {
        self.shared.started.name.as_deref()
    }

    /// Who started the run.
    pub fn principal(&self) -> &str {
        &self.shared.started.principal
    }

    /// Which attempt at the whole function this is, the first is 1. More than 1 only for a function that failed before
    /// it asked for anything: later failures are those of its steps.
    pub fn attempt(&self) -> u32 {
        self.shared.whole_attempt
    }

    /// Whether somebody asked the run to stop, as far as this function can know by now.
    ///
    /// **Determinism**: recorded.
    pub fn is_cancelled(&self) -> bool {
        self.shared.is_cancelled()
    }
}

impl std::fmt::Debug for Ctx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ctx({})", self.run_id())
    }
}
