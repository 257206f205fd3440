//! **Only deaths in a row, without progress, make a suspect; and a suspect is granted alone.**
//!
//! Source: ARCHITECTURE.md, the death of a worker: progress clears a suspect; after two deaths in a
//! row it is granted alone; if that worker dies too it is a dead letter.

use std::collections::{BTreeMap, BTreeSet};

use stepwell::keys::GrantedRecord;
use stepwell::model::entry::Entry;
use stepwell::model::id::RunNo;

use super::Bench;
use super::line::Lines;
use crate::durable::{Durable, DurableRun};

const NAME: &str = "progress clears a suspect";
const ALONE: &str = "a suspect is granted alone";
/// Deaths in a row from which on a run is granted alone.
const DEATHS_MAX: u32 = 2;

/// The last grant of each run.
#[derive(Default)]
pub(super) struct Suspects(BTreeMap<RunNo, GrantedRecord>);

impl Suspects {
    pub(super) fn granted(&mut self, durable: &Durable, slot: u32) {
        if let Some(grant) = durable.granted.get(&slot) {
            self.0.insert(grant.run, grant.clone());
        }
    }

    /// A run is back in its queue, with this many deaths.
    pub(super) fn queued(
        &self,
        durable: &Durable,
        no: RunNo,
        deaths: u32,
        lines: &Lines,
        bench: &mut Bench<'_>,
    ) {
        let (Some(grant), Some(run)) = (self.0.get(&no), durable.runs.get(&no)) else {
            return;
        };
        let moved_on = made_progress(run, grant, run.entries.len());
        if moved_on && deaths > 1 {
            bench.charge(
                NAME,
                format!(
                    "{} is suspected of {deaths} deaths, and made progress in between",
                    run.name()
                ),
            );
        }
        if deaths > if moved_on { 0 } else { grant.deaths } {
            lines.buries(grant.incarnation, &run.name(), bench);
        }
    }

    /// A run may be a dead letter because its workers were lost.
    pub(super) fn appended(
        &self,
        durable: &Durable,
        no: RunNo,
        index: u32,
        lines: &Lines,
        bench: &mut Bench<'_>,
    ) {
        let (Some(grant), Some(run)) = (self.0.get(&no), durable.runs.get(&no)) else {
            return;
        };
        let Entry::Died(died) = &run.entries[index as usize] else {
            return;
        };
        if died.failure.class != stepwell::model::dead::WORKER_LOST {
            return;
        }
        if grant.deaths < DEATHS_MAX || made_progress(run, grant, index as usize) {
            bench.charge(
                NAME,
                format!("{} is dead, and made progress under its last grant", run.name()),
            );
        }
        lines.buries(grant.incarnation, &run.name(), bench);
    }
}

/// Whether anything but the engine's own doing was added under a grant.
fn made_progress(run: &DurableRun, grant: &GrantedRecord, until: usize) -> bool {
    let under = run.entries.iter().take(until).skip(grant.entries as usize);
    under.into_iter().any(|entry| {
        matches!(
            entry,
            Entry::StepCompleted(_)
                | Entry::StepFailed(_)
                | Entry::AttemptFailed(_)
                | Entry::TimerFired(_)
        )
    })
}

/// Nobody else is with a worker that holds a run which killed two.
pub(super) fn batch_ended(durable: &Durable, touched: &BTreeSet<RunNo>, bench: &mut Bench<'_>) {
    for grant in durable.granted.values() {
        if grant.deaths < DEATHS_MAX {
            continue;
        }
        // A grant from before a restart, whose worker came back without it, is still there until
        // its run has been read. It is not with that worker: where it is, it goes on under a token
        // of the new epoch first.
        let with = durable.granted.values().find(|other| {
            other.incarnation == grant.incarnation
                && other.run != grant.run
                && other.token.epoch <= grant.token.epoch
        });
        if let Some(other) = with
            && (touched.contains(&grant.run) || touched.contains(&other.run))
        {
            bench.charge(
                ALONE,
                format!(
                    "run {} killed {} workers and is granted together with run {}",
                    grant.run, grant.deaths, other.run
                ),
            );
        }
    }
}
