//! **Every step is committed once, and what is committed stays.**
//!
//! Source: the core's invariants J1 (entries are numbered without a gap and nothing follows the
//! last) and S1 (a command has at most one outcome), and the store's promise that what a receipt
//! covered is there after any crash.

use std::sync::Arc;

use stepwell::model::dead::Superseded;
use stepwell::model::id::RunNo;
use stepwell::store_reader;
use stepwell_storage::{OpenRefusal, Seq, Store, block_on};

use super::{Findings, retention};
use crate::durable::Durable;

const NAME: &str = "every step is committed once";

/// A row contradicts what is there.
pub(super) fn not_ours(problem: &str, seq: Seq, findings: &mut Findings<'_>) {
    findings.report(NAME, format!("batch {seq}: {problem}"));
}

/// An entry has become durable.
pub(super) fn appended(durable: &Durable, no: RunNo, index: u32, findings: &mut Findings<'_>) {
    let Some(run) = durable.runs.get(&no) else {
        return;
    };
    let (before, entry) = (&run.entries[..index as usize], &run.entries[index as usize]);
    if !entry.resolves() || entry.number().is_none() {
        return;
    }
    let superseded = Superseded::of((0..).zip(before));
    if (0..).zip(before).any(|(at, earlier)| {
        earlier.resolves() && earlier.number() == entry.number() && !superseded.covers(at, earlier)
    }) {
        findings
            .report(NAME, format!("{}: entry {index} is a second outcome: {entry:?}", run.name()));
    }
}

/// The disk holds what was committed, as the engine itself reads it.
pub(super) fn at_the_end(
    durable: &Durable,
    disk: Result<Arc<dyn Store>, OpenRefusal>,
    findings: &mut Findings<'_>,
) {
    let store = match disk {
        Ok(store) => store,
        Err(refusal) => return findings.report(NAME, format!("the disk does not open: {refusal}")),
    };
    let generations = match block_on(store.generations()) {
        Ok(generations) => generations,
        Err(failure) => {
            return findings.report(NAME, format!("the disk is not readable: {failure}"));
        }
    };
    for (no, run) in durable.kept() {
        let found = block_on(store_reader::entries(
            &*store,
            run.generation,
            *no,
            (0, u32::MAX),
            usize::MAX,
        ));
        if found.as_ref() != Ok(&run.stored) {
            let lengths = found.map(|found| found.len());
            findings.report(
                NAME,
                format!(
                    "{}: {} entries were committed, the disk holds {lengths:?}",
                    run.name(),
                    run.stored.len()
                ),
            );
        }
    }
    retention::nothing_is_left_behind(durable, &generations, findings);
}
