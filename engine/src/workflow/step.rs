//! The future of `ctx.step`, and what its body gets.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::{BoxFuture, Either, select};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::isolation::Isolation;
use crate::canary::canary;
use crate::model::failure::{Failure, FailureKind, PANIC, PAYLOAD, TIMEOUT_CLASS};
use crate::model::id::{CommandIndex, MemoKey, RunId};
use crate::model::payload::Payload;
use crate::model::retry::Retry;
use crate::replay::command::Resolution;
use crate::replay::isolated_step::IsolatedAttempt;
use crate::replay::mismatch::span_text;
use crate::replay::shared::{Shared, Verdict};
use crate::replay::watch::Watch;
use crate::runtime::env::Clock;

/// How long an attempt may take before its soft timeout passes, unless told: 5 min.
pub const SOFT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(300);
/// How long an attempt may take before it is ended, unless told: 5 min 30 s.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(330);

/// The two timeouts of an attempt, as far as they were set.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Timeouts {
    pub(crate) soft: Option<Duration>,
    pub(crate) hard: Option<Duration>,
}

impl Timeouts {
    /// When the body is told, never later than [`hard`](Self::hard). One that is not set is as far
    /// before the other as by default (30 s), but no more than an eleventh of it.
    pub(crate) fn soft(self) -> Duration {
        let distance = TIMEOUT_DEFAULT.saturating_sub(SOFT_TIMEOUT_DEFAULT);
        match (self.soft, self.hard) {
            (Some(soft), _) => soft.min(self.hard()),
            (None, Some(hard)) => hard.saturating_sub(distance.min(hard / 11)),
            (None, None) => SOFT_TIMEOUT_DEFAULT,
        }
    }

    /// When the body is dropped.
    pub(crate) fn hard(self) -> Duration {
        let distance = TIMEOUT_DEFAULT.saturating_sub(SOFT_TIMEOUT_DEFAULT);
        match (self.soft, self.hard) {
            (_, Some(hard)) => hard,
            (Some(soft), None) => soft.saturating_add(distance),
            (None, None) => TIMEOUT_DEFAULT,
        }
    }
}

/// What a step's body gets: one attempt at one step.
#[derive(Clone)]
pub struct Step {
    run: RunId,
    number: u32,
    memo: Option<MemoKey>,
    attempt: u32,
    clock: Arc<dyn Clock>,
    soft: Duration,
    soft_at: Duration,
    watch: Arc<Watch>,
}

impl Step {
    /// From now on it has these timeouts: its body has waited for others, and begins with them.
    pub(crate) fn begins_anew(&mut self, soft: Duration, hard: Duration) {
        let now = self.clock.mono();
        (self.soft, self.soft_at) = (soft, now.saturating_add(soft));
        let hard_at = now.saturating_add(hard);
        self.watch.limits(self.number, hard, hard_at);
    }

    /// The idempotency key: the same in all attempts at this step, in whatever process, and no
    /// other step has it.
    ///
    /// Made of the run's id and the step's number: `run_…-3`. In
    /// [`Ctx::memoize`](super::Ctx::memoize) made of the namespace and the key, and the same in all
    /// runs: `once_…`.
    pub fn key(&self) -> String {
        idempotency_key(self.run, CommandIndex(self.number), self.memo)
    }

    /// Which attempt this is, the first is 1. An attempt that was cut short by a crash is made
    /// again under its number.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The run.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// The step's number within its run.
    pub fn number(&self) -> CommandIndex {
        CommandIndex(self.number)
    }

    /// Ends when the soft timeout of this attempt has passed: time to clean up, before the timeout
    /// ends the attempt.
    ///
    /// **Cancel safety**: may be dropped and asked for again.
    pub fn soft_timeout(&self) -> impl Future<Output = ()> + Send + 'static {
        self.clock.sleep(self.soft_at.saturating_sub(self.clock.mono()))
    }

    /// What `work` answers, unless the soft timeout of this attempt passes first: then `work` is
    /// dropped, and what is left of the time up to the timeout is for cleaning up.
    ///
    /// ```
    /// # use stepwell::{Ctx, Failure, Step};
    /// # struct Export;
    /// # impl Export {
    /// #     async fn write(&mut self) -> Result<u64, std::io::Error> { Ok(3) }
    /// #     async fn discard(self) -> Result<(), std::io::Error> { Ok(()) }
    /// # }
    /// # async fn begin(_: String) -> Result<Export, std::io::Error> { Ok(Export) }
    /// async fn export(s: Step) -> Result<u64, Failure> {
    ///     let mut export = begin(s.key()).await?;
    ///     match s.until_soft_timeout(export.write()).await {
    ///         Ok(rows) => Ok(rows?),
    ///         Err(passed) => {
    ///             export.discard().await?;
    ///             Err(passed.into()) // a failed attempt, made again by the step's policy
    ///         }
    ///     }
    /// }
    /// ```
    ///
    /// **Cancel safety**: dropping it drops `work`.
    pub async fn until_soft_timeout<F: Future>(&self, work: F) -> Result<F::Output, SoftTimeout> {
        // The work is polled first: what is done in time is done.
        match select(pin!(work), pin!(self.soft_timeout())).await {
            Either::Left((output, _)) => Ok(output),
            Either::Right(_) => Err(SoftTimeout { timeout: self.soft }),
        }
    }
}

/// The soft timeout of an attempt has passed. As a failure (by `?`) it is retryable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the attempt took longer than its soft timeout of {}", span_text(*.timeout))]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct SoftTimeout {
    /// The timeout.
    pub timeout: Duration,
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Step({}, attempt {})", self.key(), self.attempt)
    }
}

/// A step, recorded. See [`Ctx::step`](super::Ctx::step).
#[must_use = "a step does not run until it is awaited"]
pub struct StepFuture<F, Fut, T> {
    shared: Arc<Shared>,
    number: u32,
    /// Its key, if its first result is that of all runs.
    memo: Option<MemoKey>,
    body: F,
    running: Option<Pin<Box<Fut>>>,
    /// The attempt, if another process makes it.
    isolated_attempt: Option<BoxFuture<'static, Result<Payload, Failure>>>,
    /// Whether the session watches the body.
    watched: bool,
    /// When the attempt that runs is over, in monotonic time.
    hard_at: Duration,
    timeout_sleep: Option<BoxFuture<'static, ()>>,
    backoff: Option<BoxFuture<'static, ()>>,
    value: Option<T>,
    retry: Retry,
    timeouts: Timeouts,
    isolation: Isolation,
}

// Nothing in it is ever pinned in place: the running body is boxed.
impl<F, Fut, T> Unpin for StepFuture<F, Fut, T> {}

impl<F, Fut, T> StepFuture<F, Fut, T> {
    pub(crate) fn new(shared: Arc<Shared>, number: u32, body: F) -> Self {
        Self {
            shared,
            number,
            memo: None,
            body,
            running: None,
            isolated_attempt: None,
            watched: false,
            hard_at: Duration::MAX,
            timeout_sleep: None,
            backoff: None,
            value: None,
            retry: Retry::default(),
            timeouts: Timeouts::default(),
            isolation: Isolation::InPlace,
        }
    }

    /// The same, memoized under this key.
    pub(crate) fn memo(mut self, key: MemoKey) -> Self {
        self.shared.claims(self.number, key);
        self.memo = Some(key);
        self
    }

    /// Sets when failed attempts are made again. Default: [`Retry::default`].
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Sets when the body of an attempt is told that time runs short
    /// ([`Step::until_soft_timeout`]), counted from its beginning. It comes no later than the
    /// [timeout](Self::timeout). Default: the timeout less 30 s, or less an eleventh of it if that
    /// is shorter; 5 min if neither is set.
    pub fn soft_timeout(mut self, soft: Duration) -> Self {
        self.timeouts.soft = Some(soft);
        self
    }

    /// Sets how long an attempt may take: then the body is dropped, a retryable failure of class
    /// `timeout`. Default: 30 s more than the [soft timeout](Self::soft_timeout); 5 min 30 s if
    /// neither is set.
    ///
    /// Dropping stops a body at an await. A body that never awaits cannot be stopped this way: 5 s
    /// later its worker reports the attempt as failed and leaves (see
    /// [`STUCK_EXIT_CODE`](crate::runtime::worker::STUCK_EXIT_CODE)). Work of that kind belongs
    /// into a process of its own: [`isolation`](Self::isolation).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.hard = Some(timeout);
        self
    }

    /// Sets where attempts are made. Default: [`Isolation::InPlace`].
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = isolation;
        self
    }

    /// Drops the body, if one runs. Its destructors are the author's code and may panic, or block.
    fn stop_body(&mut self) {
        (self.timeout_sleep, self.backoff, self.isolated_attempt) = (None, None, None);
        if let Some(body) = self.running.take() {
            let _ = catch_unwind(AssertUnwindSafe(|| drop(body)));
        }
        if std::mem::take(&mut self.watched) {
            self.shared.watches_no_more(self.number);
        }
    }

    /// Has another process make the attempt, if the step is to run in one and there are such
    /// processes.
    fn sent_to_process(&mut self) -> bool {
        let (Isolation::Process { memory_bytes_max }, Some(isolated_runner)) =
            (self.isolation, &self.shared.world.isolated_runner)
        else {
            return false;
        };
        self.isolated_attempt = Some(isolated_runner.run(IsolatedAttempt {
            run: self.shared.started.id,
            workflow: self.shared.started.workflow.clone(),
            number: self.number,
            seen: self.shared.seen(),
            hard: self.timeouts.hard(),
            memory_bytes_max,
            payload_bytes_max: self.shared.world.payload_bytes_max(),
            now: self.shared.world.engine_now(),
        }));
        true
    }
}

impl<F, Fut, T, E> StepFuture<F, Fut, T>
where
    F: FnMut(Step) -> Fut,
    Fut: Future<Output = Result<T, E>>,
    T: Serialize + DeserializeOwned,
    E: Into<Failure>,
{
    /// Calls the author's function for attempt number `attempt`.
    fn start(&mut self, attempt: u32) -> Result<(), Failure> {
        let world = &self.shared.world;
        let (clock, now) = (world.clock.clone(), world.clock.mono());
        let age = world.isolated_step.get().map_or(Duration::ZERO, |only| only.age);
        let at = |limit: Duration| now.saturating_add(limit.saturating_sub(age));
        let soft_at = match canary!("the soft timeout is told after the timeout") {
            true => at(self.timeouts.hard()).saturating_add(Duration::from_millis(100)),
            false => at(self.timeouts.soft()),
        };
        self.hard_at = at(self.timeouts.hard());
        if self.sent_to_process() {
            return Ok(());
        }
        let (attempts, limits) = ((attempt, self.retry), (self.timeouts.hard(), self.hard_at));
        self.shared.watches(self.number, attempts, limits);
        self.watched = true;
        let step = Step {
            run: self.shared.started.id,
            number: self.number,
            memo: self.memo,
            attempt,
            clock,
            soft: self.timeouts.soft(),
            soft_at,
            watch: self.shared.watch(),
        };
        let body = self
            .shared
            .in_body(self.number, || catch_unwind(AssertUnwindSafe(|| (self.body)(step))));
        self.running = Some(Box::pin(body.map_err(|panic| panicked(panic.as_ref()))?));
        Ok(())
    }

    /// Polls the attempt; once it has ended in whatever way, answers with what is to be reported.
    fn poll_attempt(&mut self, cx: &mut Context<'_>) -> Poll<Result<Payload, Failure>> {
        if let Some(attempt) = &mut self.isolated_attempt {
            // The process that makes it ends it, too, at its timeout.
            return match ready!(attempt.as_mut().poll(cx)) {
                Ok(payload) => Poll::Ready(self.came_back(payload)),
                Err(failure) => Poll::Ready(Err(failure)),
            };
        }
        let polled = self.poll_body(cx);
        if polled.is_ready() || self.running.is_none() || canary!("the timeout does not fire") {
            return polled;
        }
        let clock = &self.shared.world.clock;
        let limit = self
            .timeout_sleep
            .get_or_insert_with(|| clock.sleep(self.hard_at.saturating_sub(clock.mono())));
        ready!(limit.as_mut().poll(cx));
        Poll::Ready(Err(over_time(self.timeouts.hard())))
    }

    /// A value that was made elsewhere.
    fn came_back(&mut self, payload: Payload) -> Result<Payload, Failure> {
        let bytes_max = self.shared.world.payload_bytes_max();
        if payload.len() > bytes_max {
            return Err(too_large(payload.len() as u64, bytes_max as u64));
        }
        let value = payload.to();
        self.value = Some(value.map_err(|e| Failure::terminal(e).class(PAYLOAD))?);
        Ok(payload)
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Payload, Failure>> {
        let Some(body) = self.running.as_mut() else {
            return Poll::Pending;
        };
        let bytes_max = self.shared.world.payload_bytes_max();
        let polled = self.shared.in_body(self.number, || {
            catch_unwind(AssertUnwindSafe(|| {
                body.as_mut().poll(cx).map(|ended| match ended {
                    Ok(value) => encode(&value, bytes_max).map(|payload| (value, payload)),
                    Err(error) => Err(error.into()),
                })
            }))
        });
        match polled {
            Ok(Poll::Ready(Ok((value, payload)))) => {
                self.value = Some(value);
                Poll::Ready(Ok(payload))
            }
            Ok(Poll::Ready(Err(failure))) => Poll::Ready(Err(failure)),
            Err(panic) => Poll::Ready(Err(panicked(panic.as_ref()))),
            Ok(Poll::Pending) => Poll::Pending,
        }
    }

    /// What the function sees: live the value itself, in replay what the record holds.
    fn answer(&mut self, resolution: Resolution) -> Poll<Result<T, Failure>> {
        match resolution {
            Resolution::Failed(failure) => Poll::Ready(Err(failure)),
            Resolution::Completed { index, own, output } => match self.value.take().filter(|_| own)
            {
                Some(value) => Poll::Ready(Ok(value)),
                None => match output.to() {
                    Ok(value) => Poll::Ready(Ok(value)),
                    Err(error) => {
                        self.shared.does_not_decode(self.number, index, &error);
                        Poll::Pending
                    }
                },
            },
            Resolution::Fired => Poll::Pending,
        }
    }
}

impl<F, Fut, T, E> Future for StepFuture<F, Fut, T>
where
    F: FnMut(Step) -> Fut,
    Fut: Future<Output = Result<T, E>>,
    T: Serialize + DeserializeOwned,
    E: Into<Failure>,
{
    type Output = Result<T, Failure>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            match this.shared.poll_step(this.number, cx.waker()) {
                Verdict::Wait => return Poll::Pending,
                Verdict::Resolved(resolution) => {
                    this.stop_body();
                    return this.answer(resolution);
                }
                Verdict::Backoff(left) => {
                    let wait =
                        this.backoff.get_or_insert_with(|| this.shared.world.clock.sleep(left));
                    ready!(wait.as_mut().poll(cx));
                    this.backoff = None;
                }
                Verdict::Start { attempt } => {
                    if let Err(failure) = this.start(attempt) {
                        this.stop_body();
                        this.shared.body_ended(this.number, Err(failure), this.retry);
                    }
                }
                Verdict::Failed(failure) => {
                    this.shared.body_ended(this.number, Err(failure), this.retry);
                }
                Verdict::Running => {
                    let ended = ready!(this.poll_attempt(cx));
                    this.stop_body();
                    if canary!("the slot is not free after a timeout")
                        && ended.as_ref().is_err_and(|f| f.class == TIMEOUT_CLASS)
                    {
                        return Poll::Pending;
                    }
                    this.shared.body_ended(this.number, ended, this.retry);
                }
            }
        }
    }
}

impl<F, Fut, T> Drop for StepFuture<F, Fut, T> {
    fn drop(&mut self) {
        self.stop_body();
        self.shared.abandon(self.number);
    }
}

impl<F, Fut, T> std::fmt::Debug for StepFuture<F, Fut, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "step {}", self.number)
    }
}

/// A value as a payload; the failure is final, because another attempt would meet the same type and
/// the same timeout.
pub(crate) fn encode<T: Serialize + ?Sized>(
    value: &T,
    bytes_max: usize,
) -> Result<Payload, Failure> {
    let payload = Payload::of(value).map_err(|e| Failure::terminal(e).class(PAYLOAD))?;
    if payload.len() > bytes_max {
        return Err(too_large(payload.len() as u64, bytes_max as u64));
    }
    Ok(payload)
}

/// The failure of whatever returned more than a payload may hold.
pub(crate) fn too_large(bytes: u64, bytes_max: u64) -> Failure {
    let refusal = crate::model::request::PayloadTooLarge { bytes, bytes_max };
    Failure::terminal(refusal).class(PAYLOAD)
}

/// The failure that a panic in a step is.
fn panicked(panic: &(dyn Any + Send)) -> Failure {
    Failure::new(FailureKind::Retryable, PANIC, panic_text(panic))
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}

/// The idempotency key of a step.
pub(crate) fn idempotency_key(run: RunId, number: CommandIndex, memo: Option<MemoKey>) -> String {
    match memo {
        Some(memo) => memo.to_string(),
        None => format!("{run}-{number}"),
    }
}

/// The failure of an attempt that took too long.
pub(crate) fn over_time(hard: Duration) -> Failure {
    let text = format!("the attempt took longer than its timeout of {}", span_text(hard));
    Failure::new(FailureKind::Retryable, TIMEOUT_CLASS, text)
}
