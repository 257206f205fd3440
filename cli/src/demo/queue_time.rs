//! When runs were queued for a worker, as their journals tell it.
//!
//! The journal has no entry for a dispatch. But the first step of an order does nothing and is
//! committed at once, and a timer's firing is journaled in the very commit that hands its run out.

use std::collections::BTreeMap;

use stepwell::Time;
use stepwell::model::entry::Entry;

/// A stretch of engine time: one in which a run was queued, from when it was started, or its
/// timer was due, until it was dispatched; or one in which nothing is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// The first instant.
    pub(crate) from: Time,
    /// The last one.
    pub(crate) until: Time,
}

impl Span {
    /// Whether they have an instant in common.
    pub(crate) fn touches(&self, other: &Self) -> bool {
        self.from <= other.until && self.until >= other.from
    }

    /// Its length in milliseconds.
    pub(crate) fn ms(&self) -> u64 {
        self.until.0.saturating_sub(self.from.0)
    }
}

/// When a run began: when something was written to its journal first.
pub(crate) fn began(journal: &[Entry]) -> Option<Time> {
    journal.get(1).map(Entry::at)
}

/// From its start until it began.
pub(crate) fn first(journal: &[Entry]) -> Option<Span> {
    let from = journal.first()?.at();
    let until = began(journal)?;
    Some(Span { from, until })
}

/// Each time a run was queued: when it was started, and whenever a timer of it was due.
pub(crate) fn stands(journal: &[Entry]) -> Vec<Span> {
    let mut due = BTreeMap::new();
    let mut stands: Vec<Span> = first(journal).into_iter().collect();
    for entry in journal {
        match entry {
            Entry::TimerArmed(armed) => {
                due.insert(armed.number, armed.due);
            }
            Entry::TimerFired(fired) => {
                let from = due.get(&fired.number).copied().unwrap_or(fired.at);
                let until = fired.at;
                stands.push(Span { from, until });
            }
            _ => {}
        }
    }
    stands
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use stepwell::Payload;
    use stepwell::model::entry::{SourceLocation, Started, StepCompleted, TimerArmed, TimerFired};
    use stepwell::model::id::{CommandIndex, Namespace, RequestId, RunId};

    pub(crate) fn started(at: u64, priority: u8) -> Entry {
        Started {
            at: Time(at),
            id: RunId(1),
            name: None,
            namespace: Namespace::default(),
            workflow: "checkout".into(),
            version: 1,
            queue: "orders".into(),
            priority,
            principal: String::new(),
            request_id: RequestId(1),
            traceparent: None,
            input: Payload::of(&()).unwrap(),
            not_before: None,
            tags: Vec::new(),
            unique: None,
            batch: None,
        }
        .into()
    }

    pub(crate) fn begun(at: u64) -> Entry {
        StepCompleted {
            at: Time(at),
            number: CommandIndex(0),
            location: SourceLocation::default(),
            attempt: 1,
            output: Payload::of(&()).unwrap(),
        }
        .into()
    }

    #[test]
    fn a_run_is_queued_when_it_is_started_and_when_it_wakes() {
        let (number, location) = (CommandIndex(1), SourceLocation::default());
        let armed = TimerArmed { at: Time(20), number, location, due: Time(30) };
        let fired = TimerFired { at: Time(45), number };
        let journal = [started(10, 5), begun(15), armed.into(), fired.into()];
        let stand = |from, until| Span { from: Time(from), until: Time(until) };
        assert_eq!(stands(&journal), [stand(10, 15), stand(30, 45)]);
        assert_eq!(stands(&journal[..1]), []);
    }
}
