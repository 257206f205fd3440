//! **The most urgent run goes first, and one dispatch in so many goes to the oldest.**
//!
//! Source: the core's invariant L4. Of all that is queued and that its worker can take, a run that
//! is leased is of the smallest priority, or it is the oldest; and of as many leases in a row as
//! the queue's setting says, one went to the oldest, in each life of the engine; and so of those to
//! one worker, while it has one session. Not so often that priorities mean nothing: at most two in
//! so many overtake a more urgent one (one for the queue, one for the worker).
//!
//! The engine decides before what it decides is durable. So a run counts as queued here only if
//! another lease, of an earlier instant, became durable after it was in line; one that is leased
//! at the same instant does not count as passed over, and those of one instant may have been chosen
//! in any order. Between choosing a run and leasing it, the worker it was chosen for may leave, or
//! its queue be paused or limited, and others get other runs meanwhile, at the same instant: so
//! what one instant passes over counts once, and one of each is forgiven.

use std::collections::{BTreeMap, BTreeSet};

use stepwell::model::id::{ProcessInstance, RunNo};
use stepwell::model::time::Time;
use stepwell::tables::{LeaseRecord, QueuedRecord};

use super::Findings;
use super::admission::Admissions;
use crate::durable::{Durable, QueuePosition};

const URGENT: &str = "the most urgent run goes first";
const SHARE: &str = "the oldest run has its share";
const OF_WORKER: &str = "the oldest run has its share of each worker";
/// Runs that killed so many workers are leased alone, out of line.
const ALONE: u32 = 2;

#[derive(Default)]
pub(super) struct Shares {
    /// Positions in queues, and the instant of the first lease that became durable after each.
    known: BTreeMap<QueuePosition, Time>,
    /// How many of the changes of places have been looked at.
    seen: usize,
    queues: BTreeMap<u32, Queue>,
}

#[derive(Default)]
struct Queue {
    /// Leases of the last instant: what they passed over may be leased yet, at the same instant.
    open: Vec<Passing>,
    epoch: u64,
    every: u32,
    leases: u64,
    /// Instants at which a more urgent run was overtaken.
    overtaking: u64,
    /// Instants in a row whose leases passed over an older run.
    streak: u64,
    /// The same of each worker alone.
    streaks: BTreeMap<ProcessInstance, u64>,
    /// Runs that were passed over by one that was neither more urgent nor the oldest.
    wronged: BTreeMap<RunNo, Time>,
}

/// A lease, and what it passed over.
struct Passing {
    at: Time,
    run: RunNo,
    to: ProcessInstance,
    more_urgent: BTreeSet<RunNo>,
    older: BTreeSet<RunNo>,
}

impl Shares {
    /// A process asks for a session, or is told that it has one: what it is owed is counted anew.
    pub(super) fn session_begins(&mut self, who: ProcessInstance) {
        for queue in self.queues.values_mut() {
            queue.streaks.remove(&who);
        }
    }

    /// A run is leased that was not.
    pub(super) fn leased(
        &mut self,
        durable: &Durable,
        lease: &LeaseRecord,
        admissions: &Admissions,
        findings: &mut Findings<'_>,
    ) {
        for position in &durable.waiting_changes[self.seen..] {
            match durable.waiting.contains_key(position) {
                true => {
                    self.known.entry(*position).or_insert(lease.at);
                }
                false => {
                    self.known.remove(position);
                }
            }
        }
        self.seen = durable.waiting_changes.len();
        let every = durable.settings_of(lease.queue).oldest_every();
        let queue = self.queues.entry(lease.queue).or_default();
        if (queue.epoch, queue.every) != (lease.token.epoch, every) {
            *queue = Queue { epoch: lease.token.epoch, every, ..Queue::default() };
        }
        for passing in &mut queue.open {
            passing.more_urgent.remove(&lease.run);
            passing.older.remove(&lease.run);
        }
        if queue.open.first().is_some_and(|open| open.at < lease.at) {
            queue.close(durable, findings);
        }
        if lease.deaths >= ALONE {
            return;
        }
        let passed = |(position, record): &(&QueuePosition, &QueuedRecord)| {
            record.deaths < ALONE
                && !record.avoid.contains(&lease.build)
                && admissions.offers(lease.process, &record.tags)
                && admissions.knows(lease.process, &record.workflow)
                && self.known.get(position).is_some_and(|known| *known < lease.at)
                && durable.runs.get(&record.run).is_some_and(|run| !run.has_ended())
        };
        let of =
            |rows: &mut dyn Iterator<Item = (&QueuePosition, &QueuedRecord)>| -> BTreeSet<RunNo> {
                let found = rows.filter(passed);
                found.map(|(_, record)| record.run).collect()
            };
        // A long line is looked through only as far as it was passed over.
        let (at, first) = (lease.queue, |priority| (lease.queue, priority, 0));
        let more_urgent = of(&mut durable.waiting.range(first(0)..first(lease.priority)));
        let older = |priority| {
            let until = (at, priority, lease.sequence);
            of(&mut durable.waiting.range(first(priority)..until))
        };
        queue.open.push(Passing {
            at: lease.at,
            run: lease.run,
            to: lease.process,
            more_urgent,
            older: (0..=9).flat_map(older).collect(),
        });
    }

    /// All that is leased is durable.
    pub(super) fn at_the_end(&mut self, durable: &Durable, findings: &mut Findings<'_>) {
        self.queues.values_mut().for_each(|queue| queue.close(durable, findings));
    }
}

impl Queue {
    /// The last instant is over.
    fn close(&mut self, durable: &Durable, findings: &mut Findings<'_>) {
        let every = u64::from(self.every);
        let name = |run: &RunNo| durable.runs.get(run).map(|run| run.name());
        let open = std::mem::take(&mut self.open);
        // In which order those of one instant were chosen is not told.
        let served = open.iter().filter(|passing| passing.older.is_empty());
        let served = served.count() as u64;
        let passed_over = open.len() as u64 > served;
        self.streak += u64::from(passed_over);
        if every > 0 && self.streak > every * (served + 1) {
            let older = open.iter().flat_map(|passing| &passing.older);
            let text = format!(
                "leases of {} instants in a row passed over older runs, and one in {every} goes to the oldest: {:?}",
                self.streak,
                older.map(name).collect::<BTreeSet<_>>()
            );
            findings.report(SHARE, text);
        }
        if served > 0 {
            self.streak = 0;
        }
        self.close_workers(every, &open, durable, findings);
        let overtakes = |passing: &Passing| !passing.more_urgent.is_empty();
        self.overtaking += u64::from(open.iter().any(overtakes));
        for passing in open {
            self.leases += 1;
            for wronged in passing.more_urgent.iter().filter(|_| !passing.older.is_empty()) {
                if self.wronged.insert(*wronged, passing.at).is_some_and(|at| at < passing.at) {
                    let (run, wronged) = (name(&passing.run), name(wronged));
                    let text =
                        format!("{run:?} is leased before {wronged:?}, and is not the oldest");
                    findings.report(URGENT, text);
                }
            }
        }
        let allowed = (2 * self.leases).checked_div(every).unwrap_or(0) + 2;
        if self.overtaking > allowed {
            let text = format!(
                "at {} instants some of {} leases overtook more urgent runs, and one in {every} goes to the oldest",
                self.overtaking, self.leases
            );
            findings.report(URGENT, text);
        }
    }

    /// Each worker's part of the last instant.
    fn close_workers(
        &mut self,
        every: u64,
        open: &[Passing],
        durable: &Durable,
        findings: &mut Findings<'_>,
    ) {
        let workers: BTreeSet<ProcessInstance> = open.iter().map(|passing| passing.to).collect();
        for who in workers {
            let own = || open.iter().filter(|passing| passing.to == who);
            let served = own().filter(|passing| passing.older.is_empty()).count() as u64;
            let streak = self.streaks.entry(who).or_default();
            *streak += u64::from(own().count() as u64 > served);
            if every > 0 && *streak > every * (served + 1) {
                let name = |run: &RunNo| durable.runs.get(run).map(|run| run.name());
                let older = own().flat_map(|passing| &passing.older).map(name);
                let text = format!(
                    "leases of {streak} instants in a row to {who} passed over older runs, and one in {every} goes to the oldest: {:?}",
                    older.collect::<BTreeSet<_>>()
                );
                findings.report(OF_WORKER, text);
            }
            if served > 0 {
                *streak = 0;
            }
        }
    }
}
