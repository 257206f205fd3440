//! **An item of a batch handler is in a call once.**
//!
//! Source: `Worker::register_batch`, and invariant I1 of the batch handler. That each item has its own outcome is checked by
//! the workload's proof and by what the outside world holds under the item's key.

use std::collections::BTreeSet;

use stepwell::model::id::RunId;

use super::Bench;

const NAME: &str = "an item is in a call once";

/// A batch handler was called with these runs, in these attempts.
pub(super) fn handled(host: &str, items: &[(RunId, u32)], bench: &mut Bench<'_>) {
    let runs: BTreeSet<RunId> = items.iter().map(|(run, _)| *run).collect();
    if runs.len() != items.len() {
        bench.charge(NAME, format!("{host} called its handler with {items:?}"));
    }
}
