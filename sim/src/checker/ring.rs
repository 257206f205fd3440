//! **The ring is one ring.**
//!
//! Source: rule R3 of the design, by a workload that carries its proof (`ledger::ring`). While runs
//! go on, the ledger looks at the ring after each swap. In the end every node is on it, but for
//! those that runs had taken which died, and each run that completed has put back as many as it
//! says.

use stepwell::model::entry::Entry;
use stepwell::model::id::RunNo;

use super::Findings;
use crate::durable::{Durable, DurableRun};
use crate::ledger::{Ledger, RING_IS_ONE};

/// What a run that completed says it has moved.
pub(super) fn moved(no: RunNo, run: &DurableRun, ledger: &Ledger) -> Result<(), String> {
    let (Some(Entry::Completed(completed)), Some(started)) = (run.entries.last(), run.started())
    else {
        return Ok(());
    };
    let told: u64 = completed.output.to().map_err(|error| error.to_string())?;
    match ledger.ring_returned(no, started.id) {
        Some(returned) if returned != told => {
            Err(format!("it says that it has moved {told} nodes, and has put back {returned}"))
        }
        _ => Ok(()),
    }
}

pub(super) fn at_the_end(durable: &Durable, ledger: &Ledger, findings: &mut Findings<'_>) {
    for (node, who) in ledger.ring().off() {
        let by = |run: &&DurableRun| {
            let started = run.started();
            started.is_some_and(|started| started.id.to_string() == *who)
        };
        let mut by = durable.runs.values().filter(by);
        // Nobody cleans up after a run that has died.
        let died = |run: &DurableRun| matches!(run.entries.last(), Some(Entry::Died(_)));
        if !by.clone().any(died) {
            let run = by.next().map(DurableRun::name).unwrap_or_default();
            findings.report(
                RING_IS_ONE,
                format!(
                    "node {node} is not on the ring: {run} took it, has ended, and did not die"
                ),
            );
        }
    }
}
