//! The urgent order: it arrives behind many queued runs and is dispatched before them.
//!
//! Runs queue up because somebody pauses the queue, for stocktaking say. When the queue goes on, its
//! dispatches are limited to a few a second until the urgent order has begun: so the journals tell
//! which run was dispatched before which, and not which of many workers was quicker. For as long as
//! that takes, nothing is killed; the server lives from the pause on.

use std::time::Duration;

use stepwell::model::entry::Entry;
use stepwell::model::id::{Namespace, RunId};
use stepwell::{QueueChange, RateLimit, Time};

use super::orders::Order;
use super::queue_time::{Span, began, first};
use super::scene_context::{SceneContext, Victim};
use super::workflow::{CHECKOUT, ORDERS};
use crate::clock;
use crate::failure::CommandError;

/// So many dispatches may go to others before an urgent run: one in ten is the oldest's.
pub(crate) const AHEAD_MAX: u64 = 9;
/// Runs queue up for this long.
const PAUSED: Duration = Duration::from_secs(2);
/// What was killed last is replaced by now.
const SETTLED: Duration = Duration::from_millis(200);
/// Dispatches one after the other, so far apart that it shows who came first.
const SLOWLY: RateLimit = RateLimit::new(1, Duration::from_millis(200));
/// How often it is asked whether the order has begun.
const LOOK: Duration = Duration::from_millis(10);
/// The queue is limited for at most this long.
const BEGINS_WITHIN: Duration = Duration::from_secs(10);

/// What the journals tell of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct UrgentFacts {
    /// Which order.
    pub(crate) order_id: String,
    /// Its priority, as its journal has it.
    pub(crate) priority: Option<u8>,
    /// Orders that were queued when it arrived.
    pub(crate) queued_before: u64,
    /// Those of them that were dispatched before it, or in the same millisecond.
    pub(crate) ahead: u64,
    /// From its start until it began, in milliseconds; none if it never did.
    pub(crate) waited_ms: Option<u64>,
    /// How long the other queued orders waited, in milliseconds, sorted.
    pub(crate) others_waited_ms: Vec<u64>,
}

/// Lets runs queue up, starts the order behind them with priority 0, and lets the queue go on. Returns
/// when the queue was not as usual: orders that waited then are no measure of how long orders wait.
pub(crate) async fn overtake(context: SceneContext, order: Order) -> Result<Span, CommandError> {
    let spared = context.spare(Victim::Server);
    moves(&context).await?;
    let from = now(&context).await?;
    context.insist(|client| async move { client.queues().pause(ORDERS).await }).await?;
    context.tell("queue orders paused: runs queue up");
    tokio::time::sleep(PAUSED).await;
    let all_spared = (spared, context.spare(Victim::Workers));
    tokio::time::sleep(SETTLED).await;
    start(&context, &order).await?;
    set(&context, Some(false), SLOWLY).await?;
    context
        .tell(format!("{} arrived behind them, priority 0; queue orders resumed", order.order_id));
    begins(&context, &order).await;
    drop(all_spared);
    set(&context, None, RateLimit::NONE).await?;
    let until = now(&context).await?;
    Ok(Span { from, until })
}

/// After a kill engine time stands for up to two seconds, until the clocks have come as far as it
/// had promised to be: what happens meanwhile happens in one instant, and nothing can be told of
/// its order.
async fn moves(context: &SceneContext) -> Result<(), CommandError> {
    let before = now(context).await?;
    while now(context).await? <= before {
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

async fn now(context: &SceneContext) -> Result<Time, CommandError> {
    let stats = context.insist(|client| async move { client.stats().await }).await?;
    Ok(stats.now)
}

/// By its name, so that it may be asked for again.
async fn start(context: &SceneContext, order: &Order) -> Result<(), CommandError> {
    let start = context.insist(|client| {
        let start = client.start(CHECKOUT, order).name(&order.order_id);
        async move { start.priority(0).await }
    });
    start.await.map(drop)
}

async fn set(
    context: &SceneContext,
    paused: Option<bool>,
    rate: RateLimit,
) -> Result<(), CommandError> {
    let change = QueueChange::default().paused(paused).rate(rate);
    context.insist(|client| async move { client.queues().set(ORDERS, change).await }).await
}

async fn begins(context: &SceneContext, order: &Order) {
    let begin = clock::now();
    let run = RunId::from_name(Namespace::default(), &order.order_id);
    while clock::now().duration_since(begin) < BEGINS_WITHIN {
        if context.client.status(run).await.is_ok_and(|r| r.entries > 1) {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Compares its journal with when the other orders were queued.
pub(crate) fn reconcile(order: &Order, journal: &[Entry], others: &[Span]) -> UrgentFacts {
    let mut facts = UrgentFacts { order_id: order.order_id.clone(), ..UrgentFacts::default() };
    let Some(Entry::Started(started)) = journal.first() else {
        return facts;
    };
    facts.priority = Some(started.priority);
    let begun = began(journal);
    facts.waited_ms = first(journal).map(|stand| stand.ms());
    let line = others.iter().filter(|s| s.from <= started.at && s.until > started.at);
    for stand in line {
        facts.queued_before += 1;
        facts.ahead += u64::from(begun.is_none_or(|at| stand.until <= at));
        facts.others_waited_ms.push(stand.ms());
    }
    facts.others_waited_ms.sort_unstable();
    facts
}

impl UrgentFacts {
    /// How many of the others were dispatched before it; none if it was not urgent, or never began.
    pub(crate) fn ahead_of_urgent(&self) -> Option<u64> {
        (self.priority == Some(0) && self.waited_ms.is_some()).then_some(self.ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::orders;
    use crate::demo::queue_time::tests::{begun, started};

    #[test]
    fn runs_dispatched_before_it_are_counted() {
        let order = &orders::read(None, Some(1)).unwrap()[0];
        let journal = [started(100, 0), begun(110)];
        let stand = |from, until| Span { from: Time(from), until: Time(until) };
        // Gone already; queued and behind; queued and before, in the same millisecond too; arrived
        // later.
        let others =
            [stand(10, 100), stand(20, 111), stand(30, 105), stand(40, 110), stand(101, 105)];
        let facts = reconcile(order, &journal, &others);
        assert_eq!((facts.queued_before, facts.ahead), (3, 2));
        assert_eq!(facts.waited_ms, Some(10));
        assert_eq!(facts.others_waited_ms, [70, 75, 91]);
        assert_eq!(facts.ahead_of_urgent(), Some(2));
        let late = reconcile(order, &[started(100, 5), begun(110)], &others);
        assert_eq!(late.ahead_of_urgent(), None, "its priority is an ordinary one");
    }

    #[test]
    fn one_that_never_began_was_overtaken_by_all() {
        let order = &orders::read(None, Some(1)).unwrap()[0];
        let stand = Span { from: Time(1), until: Time(200) };
        let facts = reconcile(order, &[started(100, 0)], &[stand]);
        assert_eq!((facts.queued_before, facts.ahead), (1, 1));
        assert_eq!(facts.ahead_of_urgent(), None);
    }
}
