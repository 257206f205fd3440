//! **One outside effect for each key, and none for what does not exist.**
//!
//! Source: rule R3 of the design: a step gets an idempotency key that is the same for all its
//! attempts; and rule R1: a run is dispatched only once its start is durable.

use std::collections::BTreeMap;

use stepwell::model::entry::Entry;
use stepwell::model::id::RunId;

use super::Findings;
use crate::durable::Durable;
use crate::ledger::Ledger;
use crate::workload::{SHARED, effect_of};

const NAME: &str = "one effect for each key";
const GHOST: &str = "no effect for what does not exist";

/// A body began.
pub(super) fn body_started(durable: &Durable, run: RunId, findings: &mut Findings<'_>) {
    if durable.run_of(run).is_none() && !durable.was_forgotten(run) {
        findings.report(GHOST, format!("a step of {run} began, and its start is not durable"));
    }
}

/// What the journals hold is what the world answered; nothing was charged twice.
pub(super) fn at_the_end(durable: &Durable, ledger: &Ledger, findings: &mut Findings<'_>) {
    for (no, run) in &durable.runs {
        let Some(started) = run.started() else {
            continue;
        };
        if started.workflow == SHARED.name() {
            continue; // its keys are not its own: see `memo`
        }
        for entry in &run.entries {
            let Entry::StepCompleted(step) = entry else {
                continue;
            };
            let key = format!("{}-{}", started.id, step.number);
            let recorded: Option<u64> = step.output.to().ok();
            let name = effect_of(&started.workflow, &step.location.name);
            let effect = ledger.effect_of(*no, name, &key);
            if effect.map(|effect| effect.value) != recorded {
                findings.report(
                    NAME,
                    format!(
                        "{}: step {} recorded {recorded:?}, the world has {effect:?}",
                        run.name(),
                        step.number
                    ),
                );
            }
        }
        let mut requests: BTreeMap<&str, u32> = BTreeMap::new();
        for effect in ledger.effects_of(*no, started.id) {
            *requests.entry(effect.request.as_str()).or_default() += 1;
        }
        for (request, count) in requests.into_iter().filter(|(_, count)| *count > 1) {
            findings.report(
                NAME,
                format!("{}: `{request}` happened {count} times under different keys", run.name()),
            );
        }
    }
}
