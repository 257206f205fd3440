//! Cancelling, parking, pausing and resuming.
//!
//! A cancel request is an entry of the journal: everything pending in the function answers with a
//! cancelled failure, in the same place in every replay, and what the function starts afterwards
//! runs normally, so that it can clean up. A run that was never dispatched has nothing to clean up
//! and is cancelled at once.

use super::Core;
use super::output::ReplyTo;
use super::output::{Note, Output};
use super::queue::QueuedItem;
use super::run::{Run, RunImage};
use crate::canary::canary;
use crate::model::dead::AuditAction;
use crate::model::entry::{CancelRequested, Cancelled, Entry};
use crate::model::id::RunNo;
use crate::model::request::{Caller, HasEnded, Refusal};
use crate::model::run::RunState;
use crate::tables::{StoppedKey, StoppedRecord};
use crate::wire::message::{DoneReply, Revoked, TurnMismatched};

/// Builds remembered of a run that does not go on.
const BUILDS_MAX: usize = 16;
/// The longest description of a side of a mismatch that is kept, in bytes.
const MISMATCH_PART_BYTES_MAX: usize = 256;

/// Why a leased run is stopped.
pub(super) enum StopReason {
    /// Its code and its journal disagree.
    Mismatch(TurnMismatched),
    /// At a limit.
    Paused(Refusal),
    /// Its worker says it waits, but there is nothing to wait for.
    WaitsForNothing,
}

impl Core {
    /// Stops a leased run where it is. Its journal is not changed.
    pub(super) fn stop_leased(&mut self, no: RunNo, why: StopReason, out: &mut Output) {
        let Some((lease, run)) = self.end_lease(no, out) else {
            return;
        };
        let build = lease.record.build.clone();
        let (state, reason) = match &why {
            StopReason::Mismatch(report) => (RunState::Parked, mismatch_text(&run, report, &build)),
            StopReason::Paused(limit) => (RunState::Paused, limit.to_string()),
            StopReason::WaitsForNothing => {
                let text = "its function waits for something that is neither a step nor a sleep, and nothing will wake it";
                (RunState::Paused, text.to_owned())
            }
        };
        match why {
            StopReason::Paused(reason) => match lease.holder {
                Some(session) => {
                    out.send(session, Revoked { run: no, token: lease.record.token, reason });
                }
                None => Self::end_turn(&lease, out),
            },
            StopReason::Mismatch(_) | StopReason::WaitsForNothing => Self::end_turn(&lease, out),
        }
        let mut builds = lease.record.avoid.clone();
        if state == RunState::Parked && !builds.contains(&build) {
            builds.push(build);
            let surplus = builds.len().saturating_sub(BUILDS_MAX);
            builds.drain(..surplus);
        }
        out.note(match state == RunState::Parked {
            true => Note::Parked { id: run.id, reason: reason.clone() },
            false => Note::Paused { id: run.id, reason: reason.clone() },
        });
        let workflow = run.workflow.clone();
        let record = StoppedRecord { state, reason, builds, at: self.now(), workflow };
        out.put(&StoppedKey { run: no }, &record);
        self.shift(lease.record.queue, RunState::Running, state);
        if state == RunState::Parked {
            // A worker that is away now is asked when it is back; one that came while the run was
            // leased is asked now.
            self.abilities_seen.clear();
            if self.other_build_waits(&record) {
                self.want(no, super::load::Want::TryBuild, out);
            }
        }
    }

    fn other_build_waits(&self, record: &StoppedRecord) -> bool {
        self.sessions.values().any(|session| session.could_try(record))
    }

    /// A parked run goes back into its queue if somebody serves that and can take it, with a build
    /// that it was not tried on. Otherwise it stays as it is, with its reason: who comes later is
    /// asked then.
    pub(super) fn try_build(&mut self, image: RunImage, out: &mut Output) {
        let (run, stopped) = (&image.run, &image.stopped);
        let parked = stopped.as_ref().filter(|record| record.state == RunState::Parked);
        let queue = self.queue_numbers.get(&run.queue);
        let (Some(record), Some(queue)) = (parked, queue) else {
            return;
        };
        let able = self.sessions.values().any(|session| {
            session.serves(*queue) && session.can_take(&run.workflow, &run.tags, &record.builds)
        });
        if able {
            self.resume_stopped(image, None, out);
        }
    }

    /// Whether a run is in line, in memory, and not for all builds.
    pub(super) fn avoids_builds(&self, image: &RunImage) -> bool {
        let run = &image.run;
        let queue = self.queue_numbers.get(&run.queue);
        let queue = queue.and_then(|number| self.queues.get(number));
        let item = queue.and_then(|queue| queue.find(run.no, run.priority));
        run.ended.is_none() && item.is_some_and(|item| !item.avoid.is_empty())
    }

    /// A run in line is for all builds again, at its place: who resumes it does not want to wait
    /// for another one.
    pub(super) fn avoid_nothing(
        &mut self,
        run: &Run,
        to: ReplyTo,
        caller: &Caller,
        out: &mut Output,
    ) {
        let number = self.queue_numbers.get(&run.queue);
        let queue = number.and_then(|number| self.queues.get_mut(number));
        let Some(mut item) = queue.and_then(|queue| queue.remove(run.no, run.priority)) else {
            return;
        };
        self.record_resume(run, caller, out);
        item.avoid.clear();
        self.enqueue_item(item, out);
        out.reply(to, DoneReply {});
    }

    pub(super) fn record_resume(&mut self, run: &Run, caller: &Caller, out: &mut Output) {
        let subject = (Some(run.id), run.name.clone().unwrap_or_default());
        self.record_audit(caller, AuditAction::Resume, subject, String::new(), out);
    }

    /// A parked or paused run goes back into its queue: asked for by somebody, or to be tried on
    /// another build.
    pub(super) fn resume_stopped(
        &mut self,
        image: RunImage,
        asker: Option<ReplyTo>,
        out: &mut Output,
    ) {
        let run = &image.run;
        let Some(stopped) = image.stopped.as_ref() else {
            return;
        };
        out.delete(&StoppedKey { run: run.no });
        let queue = self.queue_number(&run.queue, out);
        self.becomes_queued(queue, stopped.state);
        let mut item: QueuedItem = self.arrival_of(run, queue);
        if asker.is_none() {
            item.avoid = stopped.builds.clone();
        }
        self.enqueue_item(item, out);
        if let Some(to) = asker {
            out.reply(to, DoneReply {});
        }
    }

    pub(super) fn cancel_leased(
        &mut self,
        no: RunNo,
        asker: Option<ReplyTo>,
        caller: Caller,
        reason: String,
        out: &mut Output,
    ) {
        let now = self.now();
        let Some(lease) = self.leases.get_mut(&no) else {
            return;
        };
        let Some(run) = &mut lease.run else { return };
        if !run.cancel_requested && !canary!("a cancel is lost") {
            for (number, due) in run.commands.timers() {
                self.armed.remove(&(due, no, number));
            }
            let entry =
                Entry::from(CancelRequested { at: now, principal: caller.principal, reason });
            let index = out.append(run, &entry);
            if let Some(holder) = lease.holder {
                Self::tell(holder, (no, lease.record.token), index, &entry, out);
            }
        }
        Self::tell_done(asker, out);
    }

    fn tell_done(asker: Option<ReplyTo>, out: &mut Output) {
        if let Some(to) = asker {
            out.reply(to, DoneReply {});
        }
    }

    /// Who stops a run in whose place its schedule starts the next one, and why.
    pub(super) fn replaced() -> (Caller, String) {
        let caller = Caller { principal: "schedule".to_owned(), ..Caller::default() };
        (caller, "the next occurrence of its schedule is due".to_owned())
    }

    pub(super) fn cancel_waiting(
        &mut self,
        image: RunImage,
        asker: Option<ReplyTo>,
        caller: Caller,
        reason: String,
        out: &mut Output,
    ) {
        let state = Self::state_of(&image);
        let RunImage { mut run, stopped, sleeps } = image;
        if state.is_final() {
            let reason = HasEnded { id: run.id, state };
            if let Some(to) = asker {
                out.refuse(to, reason);
            }
            return;
        }
        if let Some(due) = sleeps {
            self.disarm_stored(due, run.no, out);
            self.memos.wakes(run.no);
        }
        if stopped.is_some() {
            out.delete(&StoppedKey { run: run.no });
        }
        Self::tell_done(asker, out);
        let at = self.now();
        let queue = self.queue_number(&run.queue, out);
        if run.next == 1 {
            // Never dispatched with anything to undo.
            self.leave_line(&run, out);
            out.append(
                &mut run,
                &Entry::from(CancelRequested { at, principal: caller.principal, reason }),
            );
            out.append(&mut run, &Entry::from(Cancelled { at }));
            self.shift(queue, state, RunState::Cancelled);
            return self.tell_end(&run, out);
        }
        if !run.cancel_requested {
            out.append(
                &mut run,
                &Entry::from(CancelRequested { at, principal: caller.principal, reason }),
            );
        }
        if state != RunState::Queued {
            self.becomes_queued(queue, state);
            self.enqueue(&run, out);
        }
    }
}

/// The message reads like a diff: what the journal holds, what the code asked, what was not
/// changed, what to do.
fn mismatch_text(run: &Run, report: &TurnMismatched, build: &str) -> String {
    format!(
        "{id} cannot continue: its code took another path than its journal\n\n  \
         entry {index} holds    {holds}\n  the code asked{pad}    {asked}, build {build}\n\n\
         Its journal is unchanged. The run is parked; other runs are not affected. The usual cause is a changed \
         workflow: a step was added, removed, renamed or moved while the run was on its way.\n\n\
         hint: deploy workers whose code fits the journal: the run is tried once on every new build\n\
         hint: `stepwell run resume {id}` tries again on any build\n\
         hint: `stepwell run show {id}` prints what was recorded",
        id = run.id,
        index = report.index,
        holds = cut(&report.journal_holds),
        asked = cut(&report.code_asked),
        pad = " ".repeat(report.index.to_string().len().saturating_sub(2)),
    )
}

/// A worker may say anything; the reason must fit a record.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(MISMATCH_PART_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
