//! **An atomic start starts all of its runs or none, at every commit.**
//!
//! Source: `StartMany::atomic`, and the core's invariants M1 and M2. The names that only
//! this call uses all exist, or none of them does, after every batch that becomes durable.

use std::collections::BTreeSet;

use super::Findings;
use crate::durable::Durable;
use crate::plan::{Job, Plan};

const NAME: &str = "an atomic start starts all or none";
/// Names that no other call uses begin with this.
const OWN: &str = "together-";

/// The names that exist.
#[derive(Debug, Default)]
pub(super) struct AtomicCalls {
    begun: BTreeSet<String>,
    /// Whether any began with this batch.
    changed: bool,
}

impl AtomicCalls {
    pub(super) fn began(&mut self, name: &str) {
        if name.starts_with(OWN) {
            self.begun.insert(name.to_owned());
            self.changed = true;
        }
    }

    pub(super) fn batch_ended(&mut self, plan: &Plan, findings: &mut Findings<'_>) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        for timed in &plan.jobs {
            let Job::AtomicStart { runs, .. } = &timed.job else {
                continue;
            };
            let own = runs.iter().filter(|(name, _)| name.starts_with(OWN));
            let (there, missing): (Vec<&str>, Vec<&str>) =
                own.map(|(name, _)| name.as_str()).partition(|name| self.begun.contains(*name));
            if !there.is_empty() && !missing.is_empty() {
                findings.report(NAME, format!("{there:?} were started, {missing:?} were not"));
            }
        }
    }
}

/// Looks at the names of runs that begin.
pub(super) fn name_of(durable: &Durable, no: stepwell::model::id::RunNo) -> Option<String> {
    durable.runs.get(&no)?.started()?.name.clone()
}
