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
use crate::model::id::{MemoKey, RunId};
use crate::model::time::Time;
use crate::replay::shared::Shared;
use crate::replay::world::World;

/// What a workflow function asks the engine through. Cheap to clone.
///
/// **Determinism**: `step`, `sleep` and `random` give out numbers in the order of the calls, so
/// they belong into the workflow function and not into a step's body, where they panic (which fails
/// the step).
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

    /// Asks for a step: a piece of work with an outside effect, whose outcome is recorded.
    ///
    /// `body` is called once for each attempt, and its future is polled in place, so that it may
    /// borrow. What it returns is committed to the journal before this future resolves; when the
    /// function is run again, the body does not run and the recorded value is the answer. The body
    /// is at-least-once in the world (a crash can hit between its outside effect and the record),
    /// so it guards that effect with [`Step::key`].
    ///
    /// Defaults: [`Retry::default`](crate::Retry) (six attempts), 5 min soft and 5 min 30 s timeout
    /// for each attempt.
    ///
    /// **Determinism**: the step gets its number when this is called, not when the future is
    /// polled. The same code must call it with the same name at the same number. It runs when first
    /// polled, and only if there is no recorded outcome.
    ///
    /// **Durability**: once it has resolved, its outcome survives a kill and a power cut.
    ///
    /// **Cancel safety**: dropping the future stops the body at its next await; the number stays
    /// used up. An outcome that was under way already is recorded and never looked at.
    ///
    /// Errors: the failure of the last attempt, or a cancelled failure once the run has been
    /// cancelled.
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
        let number =
            self.shared.ask(CommandKind::Step, name.into(), Duration::ZERO, Location::caller());
        StepFuture::new(self.shared.clone(), number, body)
    }

    /// Asks for a step whose first result is everybody's: of all steps with this key, in whatever
    /// run or process, the first that succeeds gives the result to all of them.
    ///
    /// ```
    /// # use stepwell::{Ctx, Failure};
    /// # async fn fetch(_: String) -> Result<u64, std::io::Error> { Ok(3) }
    /// # async fn convert(ctx: Ctx) -> Result<u64, Failure> {
    /// let rate: u64 = ctx
    ///     .memoize("rate of 2026-03-01", |s| async move { fetch(s.key()).await })
    ///     .await?;
    /// # Ok(rate)
    /// # }
    /// ```
    ///
    /// In all else it is a [`step`](Self::step), which is called as the key: it has a number,
    /// attempts, retries and timeouts of its own, and its result is recorded in this run's journal.
    /// Before each attempt the engine is asked. It answers with the result if there is one;
    /// otherwise one attempt at a time is made, and the other steps wait in line for its result.
    /// They are told of it; nobody polls. If it fails, if its worker is lost, or if its run no
    /// longer wants it, the next in line makes an attempt, with its own body. A step that fails for
    /// good fails its own run and no other.
    ///
    /// The key is of the namespace, not of the workflow: the same text must mean the same work and
    /// the same type. It has 128 bytes at most. The result is kept for the engine's retention (7
    /// days by default), counted from when it was committed; then the work is done again, under the
    /// same [`Step::key`].
    ///
    /// A run that waits for longer than a moment holds no slot, as if it slept. Its timeouts count
    /// from when its body begins. For work of many minutes that thousands wait for,
    /// [`Client::get_or_run`](crate::Client::get_or_run) runs a workflow of its own, in a queue of
    /// its own.
    ///
    /// **Determinism**: takes a number when called, as a step does. The key must be the same in
    /// each replay.
    ///
    /// **Durability**: the first result and that it is the first are committed at once. After a
    /// restart of the engine two bodies may run at a time, if one of them went on without it; as
    /// ever a body may also run twice if its worker is lost. The result that is committed first is
    /// the result, of the other bodies as well. [`Step::key`] is the same in all of them.
    ///
    /// **Cancel safety**: dropping the future stops the body, or the wait, and the next in line
    /// makes an attempt.
    ///
    /// Errors: the failure of this step's last attempt; a cancelled failure once the run has been
    /// cancelled; a retryable failure of class `once` for each attempt while the stored result
    /// cannot be read. A result of another type parks the run, like a recorded outcome of another
    /// type.
    #[track_caller]
    pub fn memoize<F, Fut, T, E>(
        &self,
        key: impl Into<Cow<'static, str>>,
        body: F,
    ) -> StepFuture<F, Fut, T>
    where
        F: FnMut(Step) -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send,
        T: Serialize + DeserializeOwned + Send,
        E: Into<Failure>,
    {
        let key = key.into();
        let memo = MemoKey::of(self.shared.started.namespace, &key);
        let number = self.shared.ask(CommandKind::Step, key, Duration::ZERO, Location::caller());
        StepFuture::new(self.shared.clone(), number, body).memo(memo)
    }

    /// Waits for `span` of engine time, across restarts of everything. A waiting run holds no slot
    /// and no memory.
    ///
    /// The due time is recorded when the engine arms the timer: a replay does not start the wait
    /// again. Never early; precision is that of the engine, some milliseconds.
    ///
    /// **Determinism**: takes a number when called, as a step does.
    ///
    /// Errors: a cancelled failure once the run has been cancelled.
    #[track_caller]
    pub fn sleep(&self, span: Duration) -> SleepFuture {
        let number =
            self.shared.ask(CommandKind::Timer, Cow::Borrowed(""), span, Location::caller());
        SleepFuture::new(self.shared.clone(), number, span)
    }

    /// The time as this run knows it: when the entry it saw last was committed, at first when the
    /// run was started.
    ///
    /// **Determinism**: recorded; the same at the same place in each replay. It does not move on
    /// between two awaits.
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

    /// Which attempt at the whole function this is, the first is 1. More than 1 only for a function
    /// that failed before it asked for anything, or ended at its timeout
    /// ([`Workflow::timeout`](crate::Workflow::timeout)): other failures are those of its steps.
    ///
    /// **Determinism**: recorded. Before the steps that were recorded when an attempt failed, it
    /// answers what it did then.
    pub fn attempt(&self) -> u32 {
        self.shared.whole_attempt()
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
