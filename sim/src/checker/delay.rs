//! **A delayed run starts at or after its instant.**
//!
//! Source: `StartBuilder::delay`. In engine time, like all timers; a cancel may come before.

use stepwell::model::entry::Entry;
use stepwell::model::id::RunNo;

use super::Bench;
use crate::durable::Durable;

const NAME: &str = "a delayed run waits for its instant";

pub(super) fn appended(durable: &Durable, no: RunNo, index: u32, bench: &mut Bench<'_>) {
    let Some(run) = durable.runs.get(&no) else {
        return;
    };
    let Some(not_before) = run.started().and_then(|started| started.not_before) else {
        return;
    };
    let entry = &run.entries[index as usize];
    let cancelled = run.entries[..=index as usize]
        .iter()
        .any(|entry| matches!(entry, Entry::CancelRequested(_)));
    if index > 0 && !cancelled && entry.at() < not_before {
        bench.charge(
            NAME,
            format!(
                "{}: entry {index} ({}) is of {}, the run was to start at {not_before}",
                run.name(),
                entry.kind_name(),
                entry.at()
            ),
        );
    }
}
