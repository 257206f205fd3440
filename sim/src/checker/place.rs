//! **A run that has not ended is in exactly one place.**
//!
//! Source: the core's invariant Q1: queued, leased, timer or stopped. In none it would be lost, in
//! two it would run twice. One that has ended is in none, but for one that was cancelled in line:
//! its row goes when its turn comes.

use std::collections::BTreeSet;

use stepwell::model::id::RunNo;
use stepwell::model::run::RunState;

use super::Findings;
use crate::durable::Durable;

const NAME: &str = "a run is in exactly one place";

pub(super) fn batch_ended(
    durable: &Durable,
    touched: &BTreeSet<RunNo>,
    findings: &mut Findings<'_>,
) {
    for no in touched {
        let Some(run) = durable.runs.get(no) else {
            findings.report(NAME, format!("run {no} has a place and no journal"));
            continue;
        };
        let states = durable.stored_states(*no);
        let ghost = run.was_cancelled_in_line() && states == [RunState::Queued];
        if states.len() != usize::from(!run.has_ended()) && !ghost {
            findings.report(
                NAME,
                format!(
                    "{} {} and is in {states:?}",
                    run.name(),
                    if run.has_ended() { "has ended" } else { "goes on" }
                ),
            );
        }
    }
}
