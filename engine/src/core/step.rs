//! What workers report while they run a turn: outcomes of steps, failed attempts, timers.
//!
//! Every report counts only under the run's current token (G3). A report that was committed before
//! is not committed again: the worker has its acknowledgement, or gets it with the entries it has
//! missed.

use super::Core;
use super::output::{Note, Output};
use super::run::Run;
use super::stop::StopReason;
use crate::canary::canary;
use crate::model::entry::{
    AttemptFailed, Entry, SourceLocation, StepCompleted, StepFailed, TimerArmed,
};
use crate::model::id::{RunNo, SessionId, Token};
use crate::model::limits::Limits;
use crate::model::payload::Payload;
use crate::model::request::{JournalFull, PayloadTooLarge, Refusal};
use crate::wire::message::{
    Appended, AttemptFailedReport, ReportRefused, StepCompletedReport, TimerRequested,
};

impl Core {
    pub(super) fn step_completed(
        &mut self,
        session: SessionId,
        report: StepCompletedReport,
        out: &mut Output,
    ) {
        let (no, token, number) = (report.run, report.token, report.number);
        let (now, limits) = (self.now(), self.settings.limits);
        let Some(lease) = self.current(session, no, token, out) else {
            return;
        };
        let Some(run) = &mut lease.run else { return };
        if run.commands.is_resolved(number) && !canary!("an outcome counts twice") {
            self.counts.repeated += 1;
            return;
        }
        let bytes = report.output.len();
        if bytes > limits.payload_bytes_max {
            let reason =
                PayloadTooLarge { bytes: bytes as u64, bytes_max: limits.payload_bytes_max as u64 };
            return out
                .send(session, ReportRefused { run: no, token, number, reason: reason.into() });
        }
        if run.next >= limits.journal_entries_max {
            return self.journal_is_full(no, out);
        }
        if report.memo.is_some() {
            return self.memo_completed(report, out);
        }
        let attempt = report.attempt;
        let entry = Entry::from(StepCompleted {
            at: now,
            number,
            location: report.location,
            attempt,
            output: report.output,
        });
        let armed = run.commands.open(number).and_then(|open| open.due);
        let index = out.append(run, &entry);
        Self::warn_if_long(run, limits, out);
        lease.made_progress();
        if let Some(due) = armed {
            self.armed.remove(&(due, no, number));
        }
        self.counts.steps += 1;
        let told = StepCompleted {
            at: now,
            number,
            location: SourceLocation::default(),
            attempt,
            output: Payload::default(),
        };
        Self::tell(session, (no, token), index, &told.into(), out);
        self.leave_memo((no, number), out);
    }

    pub(super) fn attempt_failed(
        &mut self,
        session: SessionId,
        report: AttemptFailedReport,
        out: &mut Output,
    ) {
        let (no, token, number) = (report.run, report.token, report.number);
        let (now, limits) = (self.now(), self.settings.limits);
        let Some(lease) = self.current(session, no, token, out) else {
            return;
        };
        let (process, build) = (lease.record.process, lease.record.build.clone());
        let Some(run) = &mut lease.run else { return };
        let open = run.commands.open(number).cloned().unwrap_or_default();
        let known = report.attempt <= open.attempts && !canary!("a failed attempt counts twice");
        if run.commands.is_resolved(number) || known {
            self.counts.repeated += 1;
            return;
        }
        if run.next >= limits.journal_entries_max {
            return self.journal_is_full(no, out);
        }
        let counts =
            report.failure.retry_after_ms.is_none() || canary!("a retry after uses up a retry");
        let attempt = open.attempts + 1;
        let counted = open.counted + u32::from(counts);
        let first_at = if open.attempts == 0 { now } else { open.first_failed_at };
        let next = report.retry.next(
            &report.failure,
            (run.id, number),
            (attempt, counted),
            (now, first_at),
        );
        let next = match canary!("the wait is one backoff short") && counts && counted > 1 {
            true => {
                next.map(|_| now.after(report.retry.backoff_jittered(run.id, number, counted - 1)))
            }
            false => next,
        };
        let (failure, location) = (report.failure.bounded(), report.location);
        let entry = match next {
            Some(retry_at) => Entry::from(AttemptFailed {
                at: now,
                number,
                location,
                attempt,
                failure,
                retry_at,
                counted: counts,
                process,
                build,
            }),
            None => {
                StepFailed { at: now, number, location, attempt, failure, process, build }.into()
            }
        };
        let index = out.append(run, &entry);
        Self::warn_if_long(run, limits, out);
        lease.made_progress();
        if next.is_none() {
            self.counts.steps += 1;
            if let Some(due) = open.due {
                self.armed.remove(&(due, no, number));
            }
        }
        Self::tell(session, (no, token), index, &entry, out);
        self.leave_memo((no, number), out);
    }

    pub(super) fn timer_requested(
        &mut self,
        session: SessionId,
        report: TimerRequested,
        out: &mut Output,
    ) {
        let (no, token, number) = (report.run, report.token, report.number);
        let (now, limits) = (self.now(), self.settings.limits);
        let Some(lease) = self.current(session, no, token, out) else {
            return;
        };
        let Some(run) = &mut lease.run else { return };
        if run.commands.is_resolved(number)
            || run.commands.open(number).is_some_and(|open| open.due.is_some())
                && !canary!("a timer is armed twice")
        {
            self.counts.repeated += 1;
            return;
        }
        if run.next >= limits.journal_entries_max {
            return self.journal_is_full(no, out);
        }
        let due = now.after(std::time::Duration::from_millis(report.delay_ms));
        let entry = Entry::from(TimerArmed { at: now, number, location: report.location, due });
        let index = out.append(run, &entry);
        Self::warn_if_long(run, limits, out);
        self.armed.insert((due, no, number));
        let told = TimerArmed { at: now, number, location: SourceLocation::default(), due };
        Self::tell(session, (no, token), index, &told.into(), out);
    }

    /// Warns once, when the journal has just reached the length.
    pub(super) fn warn_if_long(run: &Run, limits: Limits, out: &mut Output) {
        if run.next == limits.journal_entries_warn {
            out.note(Note::LongJournal { id: run.id, entries: run.next });
        }
    }

    /// The limit pauses the run; nothing of what is there is lost.
    pub(super) fn journal_is_full(&mut self, no: RunNo, out: &mut Output) {
        let Some(run) = self.leases.get(&no).and_then(|lease| lease.run.as_ref()) else {
            return;
        };
        let entries_max = self.settings.limits.journal_entries_max;
        let reason: Refusal = JournalFull { id: run.id, entries: run.next, entries_max }.into();
        self.stop_leased(no, StopReason::Paused(reason), out);
    }

    /// Tells a worker that an entry is in the journal now.
    pub(super) fn tell(
        session: SessionId,
        (run, token): (RunNo, Token),
        index: u32,
        entry: &Entry,
        out: &mut Output,
    ) {
        out.send(session, Appended { run, token, index, entry: entry.encode().into() });
    }
}
