//! **The counts equal the truth.**
//!
//! Source: rule R8 of the design and the core's invariant C1: the tally equals the states of all
//! runs, at every commit that writes it.

use stepwell::model::id::RunNo;
use stepwell::model::run::RunState;

use super::Findings;
use crate::client_log::ClientLog;
use crate::durable::Durable;

const NAME: &str = "the counts equal the truth";

/// Runs that may be counted after each batch. With twice as many, it is after every second one, and
/// so on: what is wrong stays so.
const RUNS_PER_BATCH: usize = 500;

/// When was counted.
#[derive(Default)]
pub(super) struct Tallies {
    /// Something was written since.
    written: bool,
    /// Batches since.
    batches: usize,
}

impl Tallies {
    /// The engine has written what it counts.
    pub(super) fn written(&mut self) {
        self.written = true;
    }

    pub(super) fn batch_ended(&mut self, durable: &Durable, findings: &mut Findings<'_>) {
        self.batches += 1;
        if self.written && self.batches > durable.index.len() / RUNS_PER_BATCH {
            *self = Self::default();
            count(durable, findings);
        }
    }
}

fn count(durable: &Durable, findings: &mut Findings<'_>) {
    pools(durable, findings);
    let counted = durable.counted();
    if let Some(tally) = durable.tally.as_ref().filter(|tally| tally.runs != counted) {
        findings
            .report(NAME, format!("the tally says {:?}, the store holds {counted:?}", tally.runs));
    }
}

/// What each queue counts.
fn pools(durable: &Durable, findings: &mut Findings<'_>) {
    for (number, pool) in &durable.pools {
        let waiting = durable.waiting.iter().filter(|((queue, ..), _)| queue == number);
        let lives = |run: &RunNo| durable.runs.get(run).is_some_and(|run| !run.has_ended());
        let queued = waiting.filter(|(_, record)| lives(&record.run)).count() as u64;
        let timers = |delayed: bool| {
            let timers = durable.timers.values();
            let of = timers.filter(|timer| timer.queue == *number && timer.delayed == delayed);
            of.count() as u64
        };
        let counted = (queued, timers(true), timers(false));
        let told = (pool.queued, pool.delayed, pool.suspended);
        if told != counted {
            findings.report(
                NAME,
                format!("queue {number} says {told:?} (queued, delayed, suspended), the store holds {counted:?}"),
            );
        }
    }
}

/// What clients were told of all runs.
pub(super) fn at_the_end(durable: &Durable, told: &ClientLog, findings: &mut Findings<'_>) {
    let Some(stats) = &told.stats else { return };
    let counted = durable.counted();
    if stats.runs != counted {
        findings.report(
            NAME,
            format!("the engine counts {:?}, the store holds {counted:?}", stats.runs),
        );
    }
    let listed: Vec<u64> = RunState::ALL
        .iter()
        .map(|state| told.listed.values().filter(|row| row.state == *state).count() as u64)
        .collect();
    if listed != counted {
        findings.report(NAME, format!("the listing has {listed:?}, the store holds {counted:?}"));
    }
    for (id, row) in &told.listed {
        let entries = durable.run_of(*id).map_or(0, |run| run.entries.len());
        if row.entries as usize != entries {
            findings.report(
                NAME,
                format!("{id} is listed with {} entries and has {entries}", row.entries),
            );
        }
    }
}
