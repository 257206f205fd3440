//! Reduces a failing plan: fewest faults, jobs and unkindnesses that still fail in the same way.
//!
//! A plan is data, and what is decided underway is a hash of the seed and of what it is about, so
//! leaving a fault or a job out leaves the others as they are. Parts are left out in halves,
//! quarters and so on down to single ones (Zeller and Hildebrandt, "Simplifying and isolating
//! failure-inducing input", 2002), again and again until nothing more can go.

use std::sync::Arc;
use std::time::Duration;

use crate::plan::{Plan, Settings, TimedFault};
use crate::program::Program;
use crate::report::Report;
use crate::simulation::run_unless;
use crate::suite::Stopwatch;

/// A shrunk plan.
#[derive(Debug, Clone)]
pub struct Shrunk {
    /// What is left.
    pub plan: Plan,
    /// What it shows.
    pub report: Report,
    /// Plans that were run to find it.
    pub tried: u64,
}

/// Whether a report fails in the same way.
pub(crate) type Same = dyn Fn(&Report) -> bool;

/// Shrinks `plan` within `budget` of real time, to one that still fails as `same` says.
pub(crate) fn shrink(
    program: &Arc<Program>,
    plan: Plan,
    report: Report,
    budget: Duration,
    same: &Same,
) -> Shrunk {
    let mut search = Search {
        program,
        same,
        clock: Stopwatch::begin(),
        budget,
        best: Shrunk { plan, report, tried: 0 },
    };
    loop {
        let before = search.best.plan.clone();
        search.drop_parts(|plan| &mut plan.faults);
        search.drop_parts(|plan| &mut plan.script);
        search.drop_parts(|plan| &mut plan.jobs);
        search.soften();
        search.shorten();
        if search.best.plan == before || search.is_over() {
            return search.best;
        }
    }
}

struct Search<'a> {
    program: &'a Arc<Program>,
    same: &'a Same,
    clock: Stopwatch,
    budget: Duration,
    best: Shrunk,
}

impl Search<'_> {
    fn is_over(&self) -> bool {
        self.clock.passed() > self.budget
    }

    /// Runs `plan` and keeps it if it still fails in the same way.
    fn keeps(&mut self, plan: Plan) -> bool {
        if self.is_over() || plan == self.best.plan {
            return false;
        }
        self.best.tried += 1;
        // One play may take longer than all of the budget.
        let is_over = || self.is_over();
        let Some(report) = run_unless(plan.clone(), self.program.clone(), &is_over) else {
            return false;
        };
        if !(self.same)(&report) {
            return false;
        }
        (self.best.plan, self.best.report) = (plan, report);
        true
    }

    /// Leaves out what can be left out of a list.
    fn drop_parts<T: Clone>(&mut self, parts: impl Fn(&mut Plan) -> &mut Vec<T>) {
        let mut size = parts(&mut self.best.plan.clone()).len();
        while size > 0 {
            let mut at = 0;
            loop {
                let mut plan = self.best.plan.clone();
                let list = parts(&mut plan);
                if at >= list.len() {
                    break;
                }
                list.drain(at..(at + size).min(list.len()));
                if !self.keeps(plan) {
                    at += size;
                }
            }
            size /= 2;
        }
    }

    /// Makes the world kinder, one setting at a time.
    fn soften(&mut self) {
        let kinder: &[fn(&mut Settings)] = &[
            |s| s.duplicates_per_mille = 0,
            |s| s.late_copies_per_mille = 0,
            |s| s.splits_per_mille = 0,
            |s| s.failures_per_mille = 0,
            |s| s.lost_replies_per_mille = 0,
            |s| s.hangs_per_mille = 0,
            |s| s.panics_per_mille = 0,
            |s| s.clocks.clear(),
            |s| s.very_late_copies_per_mille = 0,
            |s| s.cut_replies_per_mille = 0,
            |s| s.sync_ms = 0,
            |s| s.latency_max_ms = 2,
            |s| s.slots = 1,
        ];
        for kinder in kinder {
            let mut plan = self.best.plan.clone();
            kinder(&mut plan.settings);
            self.keeps(plan);
        }
        // What no fault is of need not be listed.
        let mut plan = self.best.plan.clone();
        let kinds: Vec<_> = plan.faults.iter().map(|timed| timed.fault.kind).collect();
        plan.settings.kinds.retain(|kind| kinds.contains(kind));
        self.keeps(plan);
    }

    /// Makes faults shorter, and the phase of faults end after the last of them and of the jobs.
    fn shorten(&mut self) {
        for at in 0..self.best.plan.faults.len() {
            while let Some(shorter) = halved(self.best.plan.faults.get(at)) {
                let mut plan = self.best.plan.clone();
                if let Some(timed) = plan.faults.get_mut(at) {
                    timed.fault.span_ms = shorter;
                }
                if !self.keeps(plan) {
                    break;
                }
            }
        }
        let mut plan = self.best.plan.clone();
        let jobs = plan.jobs.iter().map(|timed| timed.at_ms);
        let faults = plan.faults.iter().map(|timed| timed.at_ms + timed.fault.span_ms);
        let last = jobs.chain(faults).max().unwrap_or_default() + 1;
        plan.settings.faults_end_ms = plan.settings.faults_end_ms.min(last);
        self.keeps(plan);
    }
}

fn halved(timed: Option<&TimedFault>) -> Option<u64> {
    let span_ms = timed?.fault.span_ms / 2;
    (span_ms > 0).then_some(span_ms)
}
