//! **An outcome once told never changes, unless the run is redriven.**
//!
//! Source: `Client::outcome`, and rule R1: an answer is durable when it leaves. A death that was redriven stays in the journal.

use super::Bench;
use crate::durable::Durable;
use crate::told::{Told, run_id};

const NAME: &str = "an outcome once told never changes";

pub(super) fn at_the_end(durable: &Durable, told: &Told, bench: &mut Bench<'_>) {
    for answer in &told.outcomes {
        // More than one, if the name was used again after the retention.
        let held: Vec<_> = durable
            .runs_of(run_id(&answer.name))
            .flat_map(|run| run.outcomes())
            .collect();
        if !held.contains(&answer.outcome) {
            bench.charge(
                NAME,
                format!(
                    "{} was told of {} at {} ms: {:?}; its journal ends with {held:?}",
                    answer.client, answer.name, answer.at_ms, answer.outcome
                ),
            );
        }
    }
}
