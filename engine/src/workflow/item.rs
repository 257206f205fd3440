//! Batch handlers: one call of a function handles many runs, each with an outcome of its own.
//!
//! ```text
//!   run ─► item ─┐                       ┌─► its own outcome
//!   run ─► item ─┼─► group ─► handler ───┼─► its own outcome
//!   run ─► item ─┘   (full, or wait_max) └─► its own outcome
//! ```
//!
//! Items are ordinary runs: each has its id, its journal, its retries, and is a dead letter by itself. The function of such
//! a run is one step, `item`, whose body joins the group that is being gathered in this worker and is polled with the others
//! of it. So a group needs no task of its own, and is gone from memory with the last of its items.
//!
//! - **I1** An item is in one group for each attempt, and in a group once.
//! - **I2** The outcome at place `n` is that of the item at place `n`.
//! - **I3** What ends a call as a whole (a panic, its limit, a wrong number of outcomes) fails the attempt of each of its
//!   items, and nothing else.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use super::step::{Step, panic_text};
use crate::canary::canary;
use crate::model::failure::{Failure, FailureKind};
use crate::model::id::RunId;
use crate::model::payload::Payload;
use crate::model::retry::Retry;
use crate::runtime::env::Clock;

/// How long one call of a batch handler may take unless told: 5 min.
pub const BATCH_LIMIT_DEFAULT: Duration = Duration::from_secs(300);
/// An item's attempt ends this long after its call must have, if it has not.
const LEEWAY: Duration = Duration::from_secs(30);

/// When a batch handler is called, and what becomes of items that fail.
#[derive(Debug, Clone, Copy)]
pub struct BatchPolicy {
    pub(crate) items_max: u32,
    pub(crate) wait_max: Duration,
    pub(crate) limit: Duration,
    pub(crate) retry: Retry,
}

impl BatchPolicy {
    /// Called with `items_max` items, or with what has come `wait_max` after the first of them.
    pub fn new(items_max: u32, wait_max: Duration) -> Self {
        Self {
            items_max: items_max.max(1),
            wait_max,
            limit: BATCH_LIMIT_DEFAULT,
            retry: Retry::default(),
        }
    }

    /// Sets how long one call may take; then it is dropped, and each of its items has failed an attempt. Default 5 min.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Sets when items that failed are tried again. Default: [`Retry::default`].
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// How long an item's attempt may take: it waits, then its call runs.
    pub(crate) fn attempt_limit(&self) -> Duration {
        self.wait_max + self.limit + LEEWAY
    }
}

/// One run, as a batch handler gets it.
#[derive(Debug)]
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
}

type Handler<In, Out> =
    dyn Fn(Vec<Item<In>>) -> BoxFuture<'static, Vec<Result<Out, Failure>>> + Send + Sync;
/// The outcomes of a call by the places of its items, each to be taken once.
type Outcomes<Out> = Result<Arc<Mutex<Vec<Option<Result<Out, Failure>>>>>, Failure>;

/// Gathers items of one workflow into groups.
pub(crate) struct Gatherer<In, Out> {
    clock: Arc<dyn Clock>,
    policy: BatchPolicy,
    handler: Arc<Handler<In, Out>>,
    /// Its items hold it.
    gathering: Mutex<Weak<Group<Out>>>,
}

/// Items that are handled together.
struct Group<Out> {
    members: Arc<Members>,
    call: Shared<BoxFuture<'static, Outcomes<Out>>>,
}

/// In the order in which they came; none where one has left again.
type Waiting = Vec<Option<(Step, Payload)>>;

#[derive(Default)]
struct Members {
    /// None once the handler has been called.
    waiting: Mutex<Option<Waiting>>,
    full: Notify,
}

impl<In, Out> Gatherer<In, Out>
where
    In: DeserializeOwned + Send + 'static,
    Out: Send + 'static,
{
    pub(crate) fn new<F, Fut>(clock: Arc<dyn Clock>, policy: BatchPolicy, handler: F) -> Self
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
        let _member = Member {
            members: group.members.clone(),
            place,
        };
        let outcomes = group.call.clone().await?;
        let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = outcomes.get_mut(place).and_then(Option::take);
        mine.unwrap_or_else(|| Err(Failure::retryable("the item was not in its group's call")))
    }

    /// Puts an item into the group that is being gathered, or into a new one.
    fn join(&self, step: Step, input: Payload) -> (Arc<Group<Out>>, usize) {
        let mut gathering = self
            .gathering
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut item = Some((step, input));
        if let Some(group) = gathering.upgrade()
            && let Some(place) = group.members.admit(&mut item, self.policy.items_max)
        {
            return (group, place);
        }
        let members = Arc::new(Members {
            waiting: Mutex::new(Some(vec![item])),
            full: Notify::new(),
        });
        if self.policy.items_max == 1 {
            members.full.notify_one();
        }
        let call = self.call(members.clone()).boxed().shared();
        let group = Arc::new(Group { members, call });
        *gathering = Arc::downgrade(&group);
        (group, 0)
    }

    /// Waits for the group to be full, or for its time, and calls the handler once.
    fn call(&self, members: Arc<Members>) -> impl Future<Output = Outcomes<Out>> + Send + 'static {
        let (clock, policy, handler) = (self.clock.clone(), self.policy, self.handler.clone());
        async move {
            let waited = clock.sleep(policy.wait_max);
            tokio::select! {
                biased;
                () = members.full.notified() => {}
                () = waited => {}
            }
            let members = members.close();
            let count = members.len();
            let (places, items) = items_of(members)?;
            let called = AssertUnwindSafe(async { handler(items).await }).catch_unwind();
            let limit = clock.sleep(policy.limit);
            let answered = tokio::select! {
                biased;
                answered = called => answered.map_err(|panic| {
                    Failure::new(FailureKind::Retryable, "panic", panic_text(panic.as_ref()))
                })?,
                () = limit => return Err(over_time(policy.limit)),
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
        let times = if canary!("an item is in its group twice") {
            2
        } else {
            1
        };
        for _ in 0..times {
            let step = step.clone();
            let input = input
                .to()
                .map_err(|error| Failure::terminal(error).class("input"))?;
            places.push(place);
            items.push(Item { input, step });
        }
    }
    Ok((places, items))
}

/// Puts each outcome where its item is (I2).
fn spread<Out>(
    count: usize,
    places: &[usize],
    answered: Vec<Result<Out, Failure>>,
) -> Outcomes<Out> {
    if answered.len() != places.len() {
        let text = format!(
            "the batch handler answered {} outcomes for {} items",
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
        let mut waiting = self
            .members
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = waiting
            .as_mut()
            .and_then(|waiting| waiting.get_mut(self.place))
        {
            *place = None;
        }
    }
}

fn over_time(limit: Duration) -> Failure {
    let text = format!("the call of the batch handler took longer than its limit of {limit:?}");
    Failure::new(FailureKind::Retryable, "time limit", text)
}
