//! **Only deaths in a row, without progress, make a suspect; and a suspect is leased alone.**
//!
//! Source: ARCHITECTURE.md, the death of a worker: progress clears a suspect; after two deaths in a
//! row it is leased alone; if that worker dies too it is a dead letter.

use std::collections::{BTreeMap, BTreeSet};

use stepwell::model::entry::Entry;
use stepwell::model::id::RunNo;
use stepwell::tables::LeaseRecord;

use super::Findings;
use super::liveness::Liveness;
use crate::durable::{Durable, DurableRun};

const NAME: &str = "progress clears a suspect";
const ALONE: &str = "a suspect is leased alone";
/// Deaths in a row from which on a run is leased alone.
const DEATHS_MAX: u32 = 2;

/// The last lease of each run.
#[derive(Default)]
pub(super) struct Suspects(BTreeMap<RunNo, LeaseRecord>);

impl Suspects {
    pub(super) fn leased(&mut self, durable: &Durable, slot: u32) {
        if let Some(lease) = durable.leases.get(&slot) {
            self.0.insert(lease.run, lease.clone());
        }
    }

    /// A run is back in its queue, with this many deaths.
    pub(super) fn queued(
        &self,
        durable: &Durable,
        no: RunNo,
        deaths: u32,
        liveness: &Liveness,
        findings: &mut Findings<'_>,
    ) {
        let (Some(lease), Some(run)) = (self.0.get(&no), durable.runs.get(&no)) else {
            return;
        };
        let moved_on = made_progress(run, lease, run.entries.len());
        if moved_on && deaths > 1 {
            findings.report(
                NAME,
                format!(
                    "{} is suspected of {deaths} deaths, and made progress in between",
                    run.name()
                ),
            );
        }
        if deaths > if moved_on { 0 } else { lease.deaths } {
            liveness.buries(lease.process, &run.name(), findings);
        }
    }

    /// A run may be a dead letter because its workers were lost.
    pub(super) fn appended(
        &self,
        durable: &Durable,
        no: RunNo,
        index: u32,
        liveness: &Liveness,
        findings: &mut Findings<'_>,
    ) {
        let (Some(lease), Some(run)) = (self.0.get(&no), durable.runs.get(&no)) else {
            return;
        };
        let Entry::Died(died) = &run.entries[index as usize] else {
            return;
        };
        if died.failure.class != stepwell::model::dead::WORKER_LOST {
            return;
        }
        if lease.deaths < DEATHS_MAX || made_progress(run, lease, index as usize) {
            findings.report(
                NAME,
                format!("{} is dead, and made progress under its last lease", run.name()),
            );
        }
        liveness.buries(lease.process, &run.name(), findings);
    }
}

/// Whether anything but the engine's own doing was added under a lease.
fn made_progress(run: &DurableRun, lease: &LeaseRecord, until: usize) -> bool {
    let under = run.entries.iter().take(until).skip(lease.entries as usize);
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
pub(super) fn batch_ended(
    durable: &Durable,
    touched: &BTreeSet<RunNo>,
    findings: &mut Findings<'_>,
) {
    for lease in durable.leases.values() {
        if lease.deaths < DEATHS_MAX {
            continue;
        }
        // A lease from before a restart, whose worker came back without it, is still there until
        // its run has been read. It is not with that worker: where it is, it goes on under a token
        // of the new epoch first.
        let with = durable.leases.values().find(|other| {
            other.process == lease.process
                && other.run != lease.run
                && other.token.epoch <= lease.token.epoch
        });
        if let Some(other) = with
            && (touched.contains(&lease.run) || touched.contains(&other.run))
        {
            findings.report(
                ALONE,
                format!(
                    "run {} killed {} workers and is leased together with run {}",
                    lease.run, lease.deaths, other.run
                ),
            );
        }
    }
}
