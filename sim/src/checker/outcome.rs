//! **An outcome once told never changes, unless the run is redriven.**
//!
//! Source: `Client::outcome`, and rule R1: an answer is durable when it leaves. A death that was
//! redriven stays in the journal.

use stepwell::model::entry::Entry;
use stepwell::model::run::Outcome;

use super::Findings;
use crate::client_log::{ClientLog, run_id};
use crate::durable::Durable;

const NAME: &str = "an outcome once told never changes";

pub(super) fn at_the_end(durable: &Durable, told: &ClientLog, findings: &mut Findings<'_>) {
    for answer in &told.outcomes {
        // More than one, if the name was used again after the retention.
        let runs = || durable.runs_of(run_id(&answer.name));
        let held: Vec<_> = runs().flat_map(|run| run.outcomes()).collect();
        // In the end is asked how all have ended; one that is redriven meanwhile has not.
        // So has another one that a late copy of its start begins under a name that was forgotten.
        let goes_on = matches!(answer.outcome, Outcome::OutcomePending(_));
        let redriven = |entry: &Entry| matches!(entry, Entry::Redriven(_));
        let again = runs().count() > 1 || runs().any(|run| run.entries.iter().any(redriven));
        let between = goes_on && again;
        if !held.contains(&answer.outcome) && !between {
            findings.report(
                NAME,
                format!(
                    "{} was told of {} at {} ms: {:?}; its journal ends with {held:?}",
                    answer.client, answer.name, answer.at_ms, answer.outcome
                ),
            );
        }
    }
}
