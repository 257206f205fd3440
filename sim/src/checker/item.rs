//! **An item of a bulk handler is in a call once, and a call with a wrong number of outcomes has
//! none.**
//!
//! Source: `Worker::register_bulk`, and invariants H1 and H3 of the bulk handler. Some items make
//! their first call answer one outcome too few or too many: their first attempt never succeeds.
//! That each item has its own outcome is checked by the workload's proof and by what the outside
//! world holds under the item's key.

use std::collections::BTreeSet;

use stepwell::model::entry::{Entry, Started};
use stepwell::model::id::{RunId, RunNo};

use super::Findings;
use crate::durable::Durable;
use crate::workload::{ITEM, ItemInput};

const NAME: &str = "an item is in a call once";
const MISCOUNTED: &str = "a call with a wrong number of outcomes has none";

/// A bulk handler was called with these runs, in these attempts.
pub(super) fn handled(host: &str, items: &[(RunId, u32)], findings: &mut Findings<'_>) {
    let runs: BTreeSet<RunId> = items.iter().map(|(run, _)| *run).collect();
    if runs.len() != items.len() {
        findings.report(NAME, format!("{host} called its handler with {items:?}"));
    }
}

/// An entry has become durable.
pub(super) fn appended(durable: &Durable, no: RunNo, index: u32, findings: &mut Findings<'_>) {
    let Some(run) = durable.runs.get(&no) else {
        return;
    };
    let Entry::StepCompleted(step) = &run.entries[index as usize] else {
        return;
    };
    let is_item = |started: &&Started| started.workflow == ITEM.name() && step.attempt == 1;
    let input = run.started().filter(is_item);
    let input = input.and_then(|started| started.input.to::<ItemInput>().ok());
    if let Some(miscount) = input.and_then(|input| input.miscounts()) {
        let text = format!(
            "{}: entry {index} is the outcome of its first call, which answered {miscount:?}",
            run.name()
        );
        findings.report(MISCOUNTED, text);
    }
}
