//! A turn is one activation of a workflow function on a worker, from its call (with the journal
//! replayed) to its end: completed, failed, suspended, disagreed with its journal, or requeued.

use super::Core;
use super::dead::DeathCause;
use super::lease::Lease;
use super::output::Output;
use super::stop::StopReason;
use crate::canary::canary;
use crate::model::entry::{
    AttemptFailed, Cancelled, Completed, Entry, FunctionEnd, SourceLocation,
};
use crate::model::failure::{Failure, FailureKind, PAYLOAD};
use crate::model::id::{CommandIndex, SessionId};
use crate::model::retry::Retry;
use crate::model::run::RunState;
use crate::tables::TimerRecord;
use crate::wire::message::{Requeue, TurnCompleted, TurnFailed, TurnMismatched, TurnSuspended};

impl Core {
    pub(super) fn turn_completed(
        &mut self,
        session: SessionId,
        report: TurnCompleted,
        out: &mut Output,
    ) {
        if self.current(session, report.run, report.token, out).is_none() {
            return;
        }
        let (bytes, bytes_max) = (report.output.len(), self.settings.limits.payload_bytes_max);
        let Some((lease, mut run)) = self.end_lease(report.run, out) else {
            return;
        };
        Self::end_turn(&lease, out);
        if bytes > bytes_max {
            let why = format!(
                "the workflow's output has {bytes} bytes, more than the {bytes_max} allowed"
            );
            let failure = Failure::new(FailureKind::Terminal, PAYLOAD, why);
            let end = Some(FunctionEnd::default());
            return self.die(&mut run, death(&lease, failure, end), out);
        }
        out.append(&mut run, &Completed { at: self.now(), output: report.output }.into());
        self.shift(lease.record.queue, RunState::Running, RunState::Completed);
        self.tell_end(&run, out);
    }

    pub(super) fn turn_failed(&mut self, session: SessionId, report: TurnFailed, out: &mut Output) {
        if self.current(session, report.run, report.token, out).is_none() {
            return;
        }
        let Some((lease, mut run)) = self.end_lease(report.run, out) else {
            return;
        };
        Self::end_turn(&lease, out);
        let now = self.now();
        let failure = report.failure.bounded();
        if run.cancel_requested && failure.is_cancelled() {
            out.append(&mut run, &Entry::from(Cancelled { at: now }));
            self.shift(lease.record.queue, RunState::Running, RunState::Cancelled);
            return self.tell_end(&run, out);
        }
        // A workflow without steps is one implicit step, with the default retries.
        let open = run.commands.open(CommandIndex::FUNCTION).cloned().unwrap_or_default();
        let counts = failure.retry_after_ms.is_none();
        let (attempt, counted) = (open.attempts + 1, open.counted + u32::from(counts));
        let first_at = if open.attempts == 0 { now } else { open.first_failed_at };
        let whole = (run.id, CommandIndex::FUNCTION);
        let next = Retry::default().next(&failure, whole, (attempt, counted), (now, first_at));
        let (Some(retry_at), true) = (next, report.whole) else {
            return self.die(&mut run, death(&lease, failure, report.end), out);
        };
        let entry = Entry::from(AttemptFailed {
            at: now,
            number: CommandIndex::FUNCTION,
            location: SourceLocation { name: run.workflow.clone(), ..SourceLocation::default() },
            attempt,
            failure,
            retry_at,
            counted: counts,
            process: lease.record.process,
            build: lease.record.build.clone(),
        });
        out.append(&mut run, &entry);
        let (queue, priority) = (lease.record.queue, lease.record.priority);
        let record = TimerRecord {
            workflow: run.workflow,
            queue,
            priority,
            delayed: false,
            tags: run.tags,
            memo: None,
        };
        self.arm_stored(retry_at, run.no, record, out);
        self.shift(queue, RunState::Running, RunState::Suspended);
    }

    /// The worker says that only time can help. If the journal has grown behind its back, it cannot
    /// know.
    pub(super) fn turn_suspended(
        &mut self,
        session: SessionId,
        report: TurnSuspended,
        out: &mut Output,
    ) {
        let now = self.now();
        let Some(current) = self.current(session, report.run, report.token, out) else {
            return;
        };
        let Some(seen_all) = current.run.as_ref().map(|run| run.next <= report.seen) else {
            return;
        };
        let seen_all = seen_all || canary!("a turn suspends over what it has not seen");
        if !report.memos.is_empty() {
            return self.turn_waits_for_memo(&report, seen_all, out);
        }
        // Of the instants in the journal only the worker knows which are waited for. It names one
        // of them.
        let instants = current.run.as_ref().map(|run| run.commands.instants()).unwrap_or_default();
        let wakes_at = instants.range(report.wakes_at..).next().or(instants.last()).copied();
        if seen_all && wakes_at.is_none() {
            return self.stop_leased(report.run, StopReason::WaitsForNothing, out);
        }
        let Some((lease, run)) = self.end_lease(report.run, out) else {
            return;
        };
        Self::end_turn(&lease, out);
        match wakes_at.filter(|at| seen_all && *at > now) {
            Some(due) => {
                let (queue, priority) = (lease.record.queue, lease.record.priority);
                let record = TimerRecord {
                    workflow: run.workflow,
                    queue,
                    priority,
                    delayed: false,
                    tags: run.tags,
                    memo: None,
                };
                self.arm_stored(due, run.no, record, out);
                self.shift(queue, RunState::Running, RunState::Suspended);
            }
            None => {
                self.becomes_queued(lease.record.queue, RunState::Running);
                self.enqueue(&run, out);
            }
        }
    }

    pub(super) fn turn_mismatched(
        &mut self,
        session: SessionId,
        report: TurnMismatched,
        out: &mut Output,
    ) {
        if self.current(session, report.run, report.token, out).is_some() {
            self.stop_leased(report.run, StopReason::Mismatch(report), out);
        }
    }

    /// A draining worker requeues a run: it is queued at once, at its old place, and nobody is
    /// suspected.
    pub(super) fn requeue(&mut self, session: SessionId, report: Requeue, out: &mut Output) {
        if self.current(session, report.run, report.token, out).is_none() {
            return;
        }
        if let Some(lease) = self.leases.get(&report.run) {
            Self::end_turn(lease, out);
        }
        // The run is let go of first, so that returning it does not take it for still held.
        self.let_go(report.run);
        if !canary!("a requeued run is forgotten") {
            self.return_run(report.run, false, out);
        }
    }
}

/// The death of a run whose turn has ended.
fn death(lease: &Lease, failure: Failure, end: Option<FunctionEnd>) -> DeathCause {
    DeathCause {
        from: RunState::Running,
        failure,
        end,
        worker: (lease.record.process, lease.record.build.clone()),
    }
}
