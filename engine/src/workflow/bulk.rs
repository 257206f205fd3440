//! Bulk handlers: one call of a function handles many runs, each with an outcome of its own.
//!
//! ```text
//!   run ─► item ─┐                       ┌─► its own outcome
//!   run ─► item ─┼─► group ─► handler ───┼─► its own outcome
//!   run ─► item ─┘   (full, or wait_max) └─► its own outcome
//! ```
//!
//! Items are ordinary runs: each has its id, its journal, its retries, and is a dead letter by
//! itself. The function of such a run is one step, `item`, whose body joins the group that is being
//! gathered in this worker and is polled with the others of it. So a group needs no task of its
//! own, and is gone from memory with the last of its items.
//!
//! - **H1** An item is in one group for each attempt, and in a group once.
//! - **H2** The outcome at place `n` is that of the item at place `n`.
//! - **H3** What ends a call as a whole (a panic, its timeout, a wrong number of outcomes) fails
//!   the attempt of each of its items, and nothing else.
//! - **H4** The timeouts of a call count from when it begins, for the watch over blocked threads,
//!   too: an item that has waited for it has used up nothing of them.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use super::step::{SoftTimeout, Step, Timeouts, panic_text};
use crate::canary::canary;
use crate::model::failure::{Failure, FailureKind, PANIC, TIMEOUT_CLASS};
use crate::model::id::RunId;
use crate::model::payload::Payload;
use crate::model::retry::Retry;
use crate::replay::mismatch::span_text;
use crate::runtime::env::Clock;

/// An item's attempt ends this long after its call must have, if it has not.
const LEEWAY: Duration = Duration::from_secs(30);

/// When a bulk handler is called, and what becomes of items that fail.
#[derive(Debug, Clone, Copy)]
pub struct BulkPolicy {
    pub(crate) items_max: u32,
    pub(crate) wait_max: Duration,
    pub(crate) timeouts: Timeouts,
    pub(crate) retry: Retry,
}

impl BulkPolicy {
    /// Called with `items_max` items, or with what has come `wait_max` after the first of them.
    pub fn new(items_max: u32, wait_max: Duration) -> Self {
        Self {
            items_max: items_max.max(1),
            wait_max,
            timeouts: Timeouts::default(),
            retry: Retry::default(),
        }
    }

    /// Sets when the handler is told that time runs short ([`Call::until_soft_timeout`]), counted
    /// from its call. It comes no later than the [timeout](Self::timeout). Default: as for
    /// [a step](super::StepFuture::soft_timeout).
    #[must_use]
    pub fn soft_timeout(mut self, soft: Duration) -> Self {
        self.timeouts.soft = Some(soft);
        self
    }

    /// Sets how long one call may take, counted from when the handler is called: then the call is
    /// dropped, and each of its items has failed an attempt, retryably, with the class `timeout`.
    /// Default: as for [a step](super::StepFuture::timeout).
    ///
    /// A handler that never awaits cannot be dropped: 5 s later its worker reports the attempts as
    /// failed and leaves, as for [a step](super::StepFuture::timeout).
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.hard = Some(timeout);
        self
    }

    /// Sets when items that failed are tried again. Default: [`Retry::default`].
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// How long an item's attempt may take: it waits, then its call runs.
    pub(crate) fn attempt_timeout(&self) -> Duration {
        self.wait_max.saturating_add(self.timeouts.hard()).saturating_add(LEEWAY)
    }
}

/// One run, as a bulk handler gets it.
#[derive(Debug)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct Item<In> {
    /// What the run was started with.
    pub input: In,
    step: Step,
}

impl<In> Item<In> {
    /// The idempotency key: the same in all attempts at this item, and no other has it.
    pub fn key(&self) -> String {
        self.step.key()
    }

    /// Which attempt at this item this is, the first is 1.
    pub fn attempt(&self) -> u32 {
        self.step.attempt()
    }

    /// The run.
    pub fn run(&self) -> RunId {
        self.step.run()
    }

    /// The call that this item is in.
    pub fn call(&self) -> Call {
        Call(self.step.clone())
    }
}

/// One call of a bulk handler: what all of its items have in common.
#[derive(Debug, Clone)]
pub struct Call(Step);

impl Call {
    /// Ends when the soft timeout of this call has passed: time to clean up, before the timeout
    /// ends the call.
    ///
    /// **Cancel safety**: may be dropped and asked for again.
    pub fn soft_timeout(&self) -> impl Future<Output = ()> + Send + 'static {
        self.0.soft_timeout()
    }

    /// What `work` answers, unless the soft timeout of this call passes first: then `work` is
    /// dropped, and what is left of the time up to the timeout is for cleaning up.
    ///
    /// ```
    /// # use stepwell::{Failure, Item};
    /// # async fn insert(_: &[Item<u64>]) -> Vec<Result<u64, Failure>> { Vec::new() }
    /// # async fn roll_back() {}
    /// async fn handle(items: Vec<Item<u64>>) -> Vec<Result<u64, Failure>> {
    ///     match items[0].call().until_soft_timeout(insert(&items)).await {
    ///         Ok(outcomes) => outcomes,
    ///         Err(passed) => {
    ///             roll_back().await;
    ///             items.iter().map(|_| Err(passed.into())).collect() // made again, each by its policy
    ///         }
    ///     }
    /// }
    /// ```
    ///
    /// **Cancel safety**: dropping it drops `work`.
    pub async fn until_soft_timeout<F: Future>(&self, work: F) -> Result<F::Output, SoftTimeout> {
        self.0.until_soft_timeout(work).await
    }
}

type Handler<In, Out> =
    dyn Fn(Vec<Item<In>>) -> BoxFuture<'static, Vec<Result<Out, Failure>>> + Send + Sync;
/// The outcomes of a call by the places of its items, each to be taken once.
type CallOutcomes<Out> = Result<Arc<Mutex<Vec<Option<Result<Out, Failure>>>>>, Failure>;

/// Gathers items of one workflow into groups.
pub(crate) struct BulkHandler<In, Out> {
    clock: Arc<dyn Clock>,
    policy: BulkPolicy,
    handler: Arc<Handler<In, Out>>,
    /// Its items hold it.
    gathering: Mutex<Weak<Group<Out>>>,
}

/// Items that are handled together.
struct Group<Out> {
    members: Arc<Members>,
    call: Shared<BoxFuture<'static, CallOutcomes<Out>>>,
}

/// In the order in which they came; none where one has left again.
type Waiting = Vec<Option<(Step, Payload)>>;

#[derive(Default)]
struct Members {
    /// None once the handler has been called.
    waiting: Mutex<Option<Waiting>>,
    full: Notify,
}

impl<In, Out> BulkHandler<In, Out>
where
    In: DeserializeOwned + Send + 'static,
    Out: Send + 'static,
{
    pub(crate) fn new<F, Fut>(clock: Arc<dyn Clock>, policy: BulkPolicy, handler: F) -> Self
    where
        F: Fn(Vec<Item<In>>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Vec<Result<Out, Failure>>> + Send + 'static,
    {
        Self {
            clock,
            policy,
            handler: Arc::new(move |items| Box::pin(handler(items))),
            gathering: Mutex::new(Weak::new()),
        }
    }

    /// One attempt at one item: with a group, to its own outcome.
    pub(crate) async fn handle(
        self: Arc<Self>,
        step: Step,
        input: Payload,
    ) -> Result<Out, Failure> {
        let (group, place) = self.join(step, input);
        let _member = Member { members: group.members.clone(), place };
        let outcomes = group.call.clone().await?;
        let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = outcomes.get_mut(place).and_then(Option::take);
        mine.unwrap_or_else(|| Err(Failure::retryable("the item was not in its group's call")))
    }

    /// Puts an item into the group that is being gathered, or into a new one.
    fn join(&self, step: Step, input: Payload) -> (Arc<Group<Out>>, usize) {
        let mut gathering = self.gathering.lock().unwrap_or_else(PoisonError::into_inner);
        let mut item = Some((step, input));
        if let Some(group) = gathering.upgrade()
            && let Some(place) = group.members.admit(&mut item, self.policy.items_max)
        {
            return (group, place);
        }
        let members =
            Arc::new(Members { waiting: Mutex::new(Some(vec![item])), full: Notify::new() });
        if self.policy.items_max == 1 {
            members.full.notify_one();
        }
        let call = self.call(members.clone()).boxed().shared();
        let group = Arc::new(Group { members, call });
        *gathering = Arc::downgrade(&group);
        (group, 0)
    }

    /// Waits for the group to be full, or for its time, and calls the handler once.
    fn call(
        &self,
        members: Arc<Members>,
    ) -> impl Future<Output = CallOutcomes<Out>> + Send + 'static {
        let (clock, policy, handler) = (self.clock.clone(), self.policy, self.handler.clone());
        async move {
            let waited = clock.sleep(policy.wait_max);
            tokio::select! {
                biased;
                () = members.full.notified() => {}
                () = waited => {}
            }
            let mut members = members.close();
            for (step, _) in members.iter_mut().flatten() {
                step.begins_anew(policy.timeouts.soft(), policy.timeouts.hard());
            }
            let count = members.len();
            let (places, items) = items_of(members)?;
            let called = AssertUnwindSafe(async { handler(items).await }).catch_unwind();
            let limit = clock.sleep(policy.timeouts.hard());
            let answered = tokio::select! {
                biased;
                answered = called => answered.map_err(|panic| {
                    Failure::new(FailureKind::Retryable, PANIC, panic_text(panic.as_ref()))
                })?,
                () = limit => return Err(over_time(policy.timeouts.hard())),
            };
            spread(count, &places, answered)
        }
    }
}

/// The items that are still there, and their places.
fn items_of<In: DeserializeOwned>(
    members: Waiting,
) -> Result<(Vec<usize>, Vec<Item<In>>), Failure> {
    let (mut places, mut items) = (Vec::new(), Vec::new());
    for (place, member) in members.into_iter().enumerate() {
        let Some((step, input)) = member else {
            continue;
        };
        let times = if canary!("an item is in its group twice") { 2 } else { 1 };
        for _ in 0..times {
            let step = step.clone();
            let input = input.to().map_err(|error| Failure::terminal(error).class("input"))?;
            places.push(place);
            items.push(Item { input, step });
        }
    }
    Ok((places, items))
}

/// Puts each outcome where its item is (H2).
fn spread<Out>(
    count: usize,
    places: &[usize],
    answered: Vec<Result<Out, Failure>>,
) -> CallOutcomes<Out> {
    let too_few = answered.len() < places.len();
    let counts = too_few && canary!("a call with too few outcomes counts");
    if answered.len() != places.len() && !counts {
        let text = format!(
            "the bulk handler answered {} outcomes for {} items",
            answered.len(),
            places.len()
        );
        return Err(Failure::retryable(text).class("batch"));
    }
    let mut answered = answered;
    if canary!("outcomes of items are mixed up") && !answered.is_empty() {
        answered.rotate_left(1);
    }
    let mut outcomes: Vec<_> = (0..count).map(|_| None).collect();
    for (place, outcome) in places.iter().zip(answered) {
        outcomes[*place] = Some(outcome);
    }
    Ok(Arc::new(Mutex::new(outcomes)))
}

impl Members {
    /// Takes an item in, unless the group is full or called already.
    fn admit(&self, item: &mut Option<(Step, Payload)>, items_max: u32) -> Option<usize> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = waiting.as_mut()?;
        let full = items_max as usize;
        // A group that everybody has left waits for nothing any more: nobody polls it.
        if waiting.len() >= full || waiting.iter().all(Option::is_none) {
            return None;
        }
        waiting.push(item.take());
        if waiting.len() == full {
            self.full.notify_one();
        }
        Some(waiting.len() - 1)
    }

    /// Takes in no more, and tells who is there.
    fn close(&self) -> Waiting {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.take().unwrap_or_default()
    }
}

/// An item's place in its group. Dropped before the call, the item is not in it.
struct Member {
    members: Arc<Members>,
    place: usize,
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut waiting = self.members.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = waiting.as_mut().and_then(|waiting| waiting.get_mut(self.place)) {
            *place = None;
        }
    }
}

fn over_time(limit: Duration) -> Failure {
    let limit = span_text(limit);
    let text = format!("the call of the bulk handler took longer than its timeout of {limit}");
    Failure::new(FailureKind::Retryable, TIMEOUT_CLASS, text)
}
