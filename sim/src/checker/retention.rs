//! **What has not ended for long enough is kept, and what is dropped leaves nothing behind.**
//!
//! Source: the retention of the design: ended runs are kept for seven days of engine time, dead
//! letters for thirty; a generation is dropped when all that is left in it has ended and is
//! forgotten; what outlives its generation is copied first, whole. A batch that has ended is kept
//! for seven days.

use stepwell::core::{DEAD_RETENTION_DEFAULT, RETENTION_DEFAULT};
use stepwell::model::batch::BatchNo;
use stepwell::model::id::RunNo;
use stepwell::model::run::RunState;
use stepwell::model::time::Time;

use super::Findings;
use crate::durable::Durable;

pub(super) const NAME: &str = "a run is kept for its retention";
const BATCH: &str = "a batch is kept for its retention";
const LEFT: &str = "what is dropped leaves nothing behind";

/// These are not found by their ids any more.
///
/// `latest` is what engine time cannot have passed, by all that the server's clocks have shown.
pub(super) fn batch_ended(
    durable: &Durable,
    forgotten: &[RunNo],
    latest: Option<Time>,
    findings: &mut Findings<'_>,
) {
    for no in forgotten {
        let (Some(run), Some(mark)) = (durable.runs.get(no), &durable.mark) else {
            findings.report(NAME, format!("run {no} is forgotten and was not known"));
            continue;
        };
        let ended_at = run.entries.last().filter(|entry| entry.ends()).map(|entry| entry.at());
        // Engine time is before the mark.
        let by = latest.map_or(mark.time, |latest| latest.min(mark.time));
        let kept = match run.state_if_ended() {
            Some(RunState::Dead) => DEAD_RETENTION_DEFAULT,
            _ => RETENTION_DEFAULT,
        };
        if ended_at.is_none_or(|at| at.after(kept) > by) {
            findings.report(
                NAME,
                format!("{} is forgotten by {by}, it ended at {ended_at:?}", run.name()),
            );
        }
    }
}

/// This batch is not found by its name any more.
pub(super) fn batch_forgotten(
    durable: &Durable,
    batch: BatchNo,
    latest: Option<Time>,
    findings: &mut Findings<'_>,
) {
    let record = durable.ended_batches.get(&batch);
    let ended_at = record.and_then(|record| record.ended_at);
    let until = ended_at.map(|at| at.after(RETENTION_DEFAULT));
    if until.is_none_or(|until| latest.is_some_and(|latest| until > latest)) {
        let name = record.map(|record| &record.name);
        let text = format!("{name:?} is forgotten by {latest:?}, it ended at {ended_at:?}");
        findings.report(BATCH, text);
    }
}

/// The disk has no generation that the engine does not know of, but for those that are just being
/// dropped.
pub(super) fn nothing_is_left_behind(
    durable: &Durable,
    generations: &[u32],
    findings: &mut Findings<'_>,
) {
    for generation in generations {
        let known = durable.generations.contains(generation);
        let going = durable.doomed.get(generation) == Some(&durable.lives);
        if !known && !going {
            findings.report(
                LEFT,
                format!("generation {generation} is on the disk and nobody knows of it"),
            );
        }
    }
}
