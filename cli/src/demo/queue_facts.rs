//! Two queues with slots of their own: what the journals tell of orders that arrived while exports
//! were queued.

use std::collections::BTreeSet;

use stepwell::Outcome;
use stepwell::model::entry::Entry;
use stepwell::model::id::{Namespace, RunId};

use super::exports::{self, PAGE_ROWS, PAGES};
use super::queue_time::{Span, began, first};
use super::scene_context::SceneContext;
use crate::failure::CommandError;

/// What is found of both queues. Spans are in milliseconds, lists of them sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct QueueFacts {
    /// Exports that were started.
    pub(crate) exports: u64,
    /// Exports that completed with all their rows, each page once in their journal.
    pub(crate) completed: u64,
    /// The most exports that were queued when an order arrived.
    pub(crate) queued_max: u64,
    /// How long each order waited that arrived while exports were queued, and that was measured.
    pub(crate) orders_waited_ms: Vec<u64>,
    /// How long each export waited.
    pub(crate) exports_waited_ms: Vec<u64>,
    /// How long the quickest export took, once it had begun: a run that waits for a slot of
    /// theirs waits about so long.
    pub(crate) export_ms_min: Option<u64>,
}

/// Follows each export, and compares when they were queued with when the orders were.
pub(crate) async fn reconcile(
    context: &SceneContext,
    exports: u64,
    orders: &[Span],
    unmeasured: &[Span],
) -> Result<QueueFacts, CommandError> {
    let mut facts = QueueFacts { exports, ..QueueFacts::default() };
    let mut line = Vec::new();
    for part in 1..=exports {
        let id = RunId::from_name(Namespace::default(), &exports::name_of(part));
        let Some((outcome, journal)) = context.run(id).await? else {
            continue;
        };
        facts.completed += u64::from(is_right(&outcome, &journal));
        let took = work(&journal).filter(|work| is_measured(work, unmeasured));
        let took = took.map(|work| work.ms());
        facts.export_ms_min = facts.export_ms_min.into_iter().chain(took).min();
        line.extend(first(&journal));
    }
    facts.exports_waited_ms = line.iter().map(Span::ms).collect();
    beside(&mut facts, &line, orders, unmeasured);
    facts.exports_waited_ms.sort_unstable();
    Ok(facts)
}

fn is_right(outcome: &Outcome, journal: &[Entry]) -> bool {
    let pages: Vec<_> = journal
        .iter()
        .filter(|e| matches!(e, Entry::StepCompleted(_)))
        .filter_map(Entry::number)
        .collect();
    let distinct: BTreeSet<_> = pages.iter().collect();
    let rows = match outcome {
        Outcome::OutcomeCompleted(done) => done.output.to::<u64>().ok(),
        _ => None,
    };
    let each_once = pages.len() as u64 == PAGES && distinct.len() == pages.len();
    each_once && rows == Some(PAGES * PAGE_ROWS)
}

/// From its first page to its end.
fn work(journal: &[Entry]) -> Option<Span> {
    let (from, end) = (began(journal)?, journal.last()?);
    let until = end.at();
    matches!(end, Entry::Completed(_)).then_some(Span { from, until })
}

fn is_measured(span: &Span, unmeasured: &[Span]) -> bool {
    !unmeasured.iter().any(|other| other.touches(span))
}

/// Orders that arrived while exports were queued.
fn beside(facts: &mut QueueFacts, exports: &[Span], orders: &[Span], unmeasured: &[Span]) {
    for order in orders.iter().filter(|order| is_measured(order, unmeasured)) {
        let queued = exports.iter().filter(|e| e.from <= order.from && e.until > order.from);
        let queued = queued.count() as u64;
        if queued > 0 {
            facts.queued_max = facts.queued_max.max(queued);
            facts.orders_waited_ms.push(order.ms());
        }
    }
    facts.orders_waited_ms.sort_unstable();
}

/// What so many of a hundred stay below, of a sorted list.
pub(crate) fn percentile(sorted: &[u64], percent: usize) -> Option<u64> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get(last * percent / 100).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use stepwell::Time;

    #[test]
    fn only_orders_that_came_in_beside_waiting_exports_count() {
        let stand = |from, until| Span { from: Time(from), until: Time(until) };
        let pause = stand(30, 40);
        let exports = [stand(0, 20), stand(0, 100)];
        // Beside two exports; beside one; in the pause; after the last export had begun.
        let orders = [stand(10, 13), stand(21, 26), stand(29, 31), stand(101, 102)];
        let mut facts = QueueFacts::default();
        beside(&mut facts, &exports, &orders, &[pause]);
        assert_eq!((facts.queued_max, &facts.orders_waited_ms[..]), (2, &[3, 5][..]));
    }

    #[test]
    fn percentiles_are_of_what_is_there() {
        assert_eq!(percentile(&[], 50), None);
        assert_eq!(percentile(&[7], 99), Some(7));
        let hundred: Vec<u64> = (1..=101).collect();
        assert_eq!(percentile(&hundred, 50), Some(51));
        assert_eq!(percentile(&hundred, 100), Some(101));
    }
}
