//! **An unregistered workflow is waited for.**
//!
//! Source: `EngineOptions::unregistered_workflow_after`: a run becomes a dead letter when it has
//! been queued for so long; less of it never, whatever the clocks say; and only while no worker
//! that registers its workflow is connected, and none was meanwhile, however busy it is.

use std::collections::{BTreeMap, BTreeSet};

use stepwell::model::dead::UNREGISTERED_WORKFLOW;
use stepwell::model::entry::Entry;
use stepwell::model::id::{ProcessInstance, RunNo};

use super::Findings;
use super::admission::Admissions;
use crate::durable::Durable;
use crate::plan::{FaultKind, Plan, TimedFault};

const NAME: &str = "an unregistered workflow is waited for";
const KNOWN: &str = "a workflow that a worker has registered is not unregistered";
/// The engine decides so long before its decision is durable, and ends a session so long before its
/// connection is gone, on a disk that is not slow.
const DECIDED_MS: u64 = 500;

/// Since when runs are in line; one that was requeued goes to its old place.
#[derive(Default)]
pub(super) struct Patience {
    queued_ms: BTreeMap<RunNo, u64>,
    /// How long is waited.
    pub(super) limit_ms: u64,
    /// That it is in line becomes durable this much later at most.
    pub(super) told_late_ms: u64,
    /// Workers that are registered, since when, and when those of the others ended that were.
    open_ms: BTreeMap<ProcessInstance, u64>,
    left_ms: BTreeMap<ProcessInstance, u64>,
}

/// On a slow disk: after the group that was under way, and its own. While engine time stands still,
/// because the engine opened ahead of the clock, it cannot make up for that.
pub(super) fn told_late_ms(plan: &Plan) -> u64 {
    let slow = |timed: &&TimedFault| timed.fault.kind == FaultKind::SlowDisk;
    let slow = plan.faults.iter().filter(slow);
    2 * slow.map(|timed| timed.fault.extent).max().unwrap_or(0)
}

impl Patience {
    /// A worker is told that it is registered.
    pub(super) fn registered(&mut self, now_ms: u64, who: ProcessInstance) {
        self.open_ms.entry(who).or_insert(now_ms);
    }

    /// The server's end of its connection is gone.
    pub(super) fn parted(&mut self, now_ms: u64, who: ProcessInstance) {
        if self.open_ms.remove(&who).is_some() {
            self.left_ms.insert(who, now_ms);
        }
    }

    /// Workers that were registered at some instant of the wait that ends now.
    fn were_there(&self, now_ms: u64) -> BTreeSet<ProcessInstance> {
        let decided_ms = now_ms.saturating_sub(DECIDED_MS + self.told_late_ms);
        let open = self.open_ms.iter().filter(|(_, since)| **since < decided_ms);
        let begun_ms = now_ms.saturating_sub(self.limit_ms * 98 / 100);
        let until = begun_ms + DECIDED_MS + self.told_late_ms;
        let left = self.left_ms.iter().filter(|(_, left)| **left > until);
        open.chain(left).map(|(who, _)| *who).collect()
    }

    pub(super) fn queued(&mut self, no: RunNo, findings: &Findings<'_>) {
        self.queued_ms.entry(no).or_insert(findings.now_ms);
    }

    pub(super) fn appended(
        &mut self,
        durable: &Durable,
        no: RunNo,
        index: u32,
        admissions: &Admissions,
        findings: &mut Findings<'_>,
    ) {
        let Some(run) = durable.runs.get(&no) else {
            return;
        };
        let died = match &run.entries[index as usize] {
            Entry::Died(died) => died,
            Entry::Redriven(_) => {
                self.queued_ms.remove(&no);
                return;
            }
            _ => return,
        };
        if died.failure.class != UNREGISTERED_WORKFLOW {
            return;
        }
        let workflow = run.started().map(|started| &started.workflow[..]);
        let knows = |who: &ProcessInstance| admissions.knows(*who, workflow.unwrap_or_default());
        if let Some(who) = self.were_there(findings.now_ms).into_iter().find(knows) {
            let text = format!("{} dies, and {who} knows {workflow:?}", run.name());
            findings.report(KNOWN, text);
        }
        let waited =
            self.queued_ms.get(&no).map_or(0, |queued| findings.now_ms.saturating_sub(*queued));
        // What passed by this and by engine time together is never less than the wait, if not for a
        // clock that is a little fast, and for a disk that is slow.
        let before = &run.entries[index as usize - 1];
        let engine_ms = died.at.since(before.at()).as_millis() as u64;
        if waited + engine_ms + self.told_late_ms < self.limit_ms * 98 / 100 {
            let text = format!(
                "{} dies {waited} ms after it is in line, {engine_ms} by engine time, and was to wait for {} ms",
                run.name(),
                self.limit_ms
            );
            findings.report(NAME, text);
        }
    }
}
