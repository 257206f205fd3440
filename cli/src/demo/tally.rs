//! What the server counts, summed over its lives: a killed server forgets its counts, so they are
//! asked often.

use stepwell::QueueSummary;
use stepwell::model::run::Stats;

use super::exports::EXPORTS;
use super::queue_time::Span;
use super::workflow::ORDERS;

/// Counts over all epochs seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    past: Counts,
    last: Stats,
    queues: Vec<QueueSummary>,
    orders_started: u64,
    exports: u64,
    standstills: Vec<Span>,
}

/// Counts that start again at zero with each life of the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Outcomes answered from the journal.
    pub(crate) replayed: u64,
    /// Runs dispatched again because their worker was lost.
    pub(crate) redeliveries: u64,
    /// Late reports refused.
    pub(crate) refused_late: u64,
    /// Repeated reports answered again.
    pub(crate) repeated: u64,
    /// Sessions lost without a goodbye.
    pub(crate) sessions_lost: u64,
}

/// Runs of a queue that have not ended, as these gauges have it.
pub(crate) fn unfinished(queues: &[QueueSummary], name: &str) -> u64 {
    let queue = queues.iter().find(|queue| queue.name == name);
    queue.map_or(0, |q| q.queued + q.running + q.delayed + q.suspended)
}

impl Tally {
    /// Of a demo with so many exports.
    pub(crate) fn new(exports: u64) -> Self {
        Self { exports, ..Self::default() }
    }

    /// Takes the latest gauges, asked for when at least so many orders had been started.
    pub(crate) fn saw(&mut self, queues: Vec<QueueSummary>, orders_started: u64) {
        (self.queues, self.orders_started) = (queues, orders_started);
    }

    /// Takes the latest counts.
    pub(crate) fn heard(&mut self, stats: Stats) {
        if stats.epoch != self.last.epoch {
            self.past = self.counts();
            let (from, until) = (self.last.now, stats.now);
            if self.last.epoch > 0 {
                self.standstills.push(Span { from, until });
            }
        }
        self.last = stats;
    }

    /// The sums.
    pub(crate) fn counts(&self) -> Counts {
        Counts {
            replayed: self.past.replayed + self.last.replayed,
            redeliveries: self.past.redeliveries + self.last.redeliveries,
            refused_late: self.past.refused_late + self.last.refused_late,
            repeated: self.past.repeated + self.last.repeated,
            sessions_lost: self.past.sessions_lost + self.last.sessions_lost,
        }
    }

    /// When no spans can be measured: a server that was killed is followed by one whose time begins
    /// up to two seconds later, and stands there until the clocks have come as far.
    pub(crate) fn standstills(&self) -> &[Span] {
        &self.standstills
    }

    /// A queue's gauges, as last seen.
    pub(crate) fn queue(&self, name: &str) -> QueueSummary {
        let queue = self.queues.iter().find(|queue| queue.name == name);
        queue.cloned().unwrap_or_default()
    }

    /// Orders that have ended, as last seen. Too few, if one was started just then; never too many.
    pub(crate) fn orders_ended(&self) -> u64 {
        self.orders_started.saturating_sub(unfinished(&self.queues, ORDERS))
    }

    /// Exports that have ended, as last seen.
    pub(crate) fn exports_ended(&self) -> u64 {
        self.exports.saturating_sub(unfinished(&self.queues, EXPORTS))
    }

    /// Whether `orders` orders and all exports have ended, as last seen.
    pub(crate) fn all_ended(&self, orders: u64) -> bool {
        self.orders_ended() >= orders && self.exports_ended() >= self.exports
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stepwell::Time;

    /// A new epoch starts counting at zero; what was counted before must not be lost.
    #[test]
    fn counts_are_summed_over_epochs() {
        let mut tally = Tally::default();
        let heard = [(1, 3, 10), (1, 10, 20), (2, 0, 30), (2, 4, 40), (3, 1, 50)];
        for (epoch, replayed, now) in heard {
            tally.heard(Stats { epoch, replayed, now: Time(now), ..Stats::default() });
        }
        assert_eq!(tally.counts().replayed, 15);
        let between = |from, until| Span { from: Time(from), until: Time(until) };
        assert_eq!(tally.standstills(), [between(20, 30), between(40, 50)]);
    }

    #[test]
    fn what_has_ended_is_what_was_started_and_is_in_no_queue() {
        let mut tally = Tally::new(3);
        let queue = |name: &str, queued, running, suspended| QueueSummary {
            name: name.to_owned(),
            queued,
            running,
            suspended,
            ..QueueSummary::default()
        };
        tally.saw(vec![queue(ORDERS, 1, 2, 3), queue(EXPORTS, 1, 0, 0)], 10);
        assert_eq!((tally.orders_ended(), tally.exports_ended()), (4, 2));
        assert!(!tally.all_ended(4));
        tally.saw(vec![queue(ORDERS, 0, 0, 0)], 10);
        assert!(tally.all_ended(10) && !tally.all_ended(11));
    }
}
