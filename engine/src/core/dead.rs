//! Dead letters: how a run becomes one, and what operators do with it.
//!
//! ```text
//!   Running, Queued ── dies ──► Dead ── edited ──► Dead ── discarded ──► Discarded
//!                                │ ▲
//!                 Queued ◄── redriven
//! ```
//!
//! No code of the user's runs on the way there. Whatever is done with a dead letter is an entry of
//! its journal and an audit entry ([`audit_log`](super::audit_log)), written in one batch.
//!
//! # Invariants
//!
//! - **D1** A row in the list of dead letters stands for a run whose state is dead, and for each
//!   there is one.
//! - **D2** A redrive supersedes the death, the failed steps that the function saw after it had
//!   asked for its last command, and all failed attempts of steps without an outcome. Nothing else:
//!   no finished step is run again, commands keep their numbers and so their keys. What the
//!   function does up to the first superseded entry is what it did before.
//! - **D3** After it the retries are counted anew, the workers lost too.
//! - **D4** A run whose function went on after it had seen the failure it ended with is not
//!   redriven: the commands it gave since have numbers, and keys, that other commands would get.
//! - **D5** An operator request takes effect once, however often it arrives.

use super::Core;
use super::asked::Asked;
use super::output::ReplyTo;
use super::output::{Note, Output};
use super::run::{Run, RunImage};
use crate::canary::canary;
use crate::model::dead::{AuditAction, WORKER_LOST};
use crate::model::entry::{Died, Discarded, Entry, FunctionEnd, InputEdited, Redriven};
use crate::model::failure::{Failure, FailureKind};
use crate::model::id::{ProcessInstance, RunId};
use crate::model::limits::{ACTS_PER_RUN_MAX, REASON_BYTES_MAX};
use crate::model::payload::{CODEC_MESSAGEPACK, Payload};
use crate::model::request::{BadInput, Caller, NotDead, PayloadTooLarge, Refusal, WentOn};
use crate::model::run::RunState;
use crate::model::time::Time;
use crate::tables::{DeadKey, DeadRecord};
use crate::wire::message::{Discard, DoneReply, EditInput, Redrive};

/// Characters of a failure's class in the listing of dead letters.
const CLASS_CHARS_MAX: usize = 256;
/// Where and how a run died.
pub(super) struct DeathCause {
    pub(super) from: RunState,
    pub(super) failure: Failure,
    /// How its function came to it, if it did.
    pub(super) end: Option<FunctionEnd>,
    /// The worker that had it, and its build.
    pub(super) worker: (ProcessInstance, String),
}

/// What is to be done with a dead letter.
#[derive(Debug)]
pub(super) enum DeadLetterAction {
    Edit(Payload),
    Redrive,
    Discard(String),
}

/// What an operator asks to be done with a dead letter, and where the answer goes.
#[derive(Debug)]
pub(super) struct OperatorRequest {
    pub(super) to: ReplyTo,
    pub(super) caller: Caller,
    pub(super) action: DeadLetterAction,
}

/// A request to do something with a dead letter.
pub(super) trait OnDeadLetter {
    /// The run, and what is to be done with it.
    fn action(self) -> (RunId, DeadLetterAction);
}

impl OnDeadLetter for EditInput {
    fn action(self) -> (RunId, DeadLetterAction) {
        (self.id, DeadLetterAction::Edit(self.input))
    }
}

impl OnDeadLetter for Redrive {
    fn action(self) -> (RunId, DeadLetterAction) {
        (self.id, DeadLetterAction::Redrive)
    }
}

impl OnDeadLetter for Discard {
    fn action(self) -> (RunId, DeadLetterAction) {
        (self.id, DeadLetterAction::Discard(cut(self.reason)))
    }
}

/// The failure of a run that killed its workers.
pub(super) fn worker_lost(deaths: u32) -> Failure {
    let why = format!(
        "killed its worker: {deaths} worker processes in a row were lost while they held this run, the last one held nothing else"
    );
    Failure::new(FailureKind::Terminal, WORKER_LOST, why)
}

impl Core {
    /// Ends a run as a dead letter.
    pub(super) fn die(&mut self, run: &mut Run, death: DeathCause, out: &mut Output) {
        let at = self.now();
        let DeathCause { from, failure, end, worker: (process, build) } = death;
        let record = DeadRecord {
            workflow: run.workflow.clone(),
            class: failure.class.chars().take(CLASS_CHARS_MAX).collect(),
            queue: run.queue.clone(),
        };
        out.note(Note::Died { id: run.id, reason: failure.to_string() });
        let end = end.map(|end| FunctionEnd {
            failed_at: end.failed_at.filter(|index| *index < run.next), // a worker may say anything
            ..end
        });
        out.append(run, &Entry::from(Died { at, failure, process, build, end }));
        out.put(&DeadKey { died_at: at, run: run.no }, &record);
        if !canary!("dead letters are not counted") {
            let queue = self.queue_number(&run.queue, out);
            self.shift(queue, from, RunState::Dead);
        }
        self.tell_end(run, out);
    }

    /// An operator wants something done with a run.
    pub(super) fn operator_request(&mut self, ask: Asked<impl OnDeadLetter>, out: &mut Output) {
        let Asked { to, caller, request } = ask;
        let (id, action) = request.action();
        let request = OperatorRequest { to, caller, action };
        let namespace = request.caller.namespace;
        match self.check_request(&request) {
            Ok(()) => self.ask(namespace, id, super::load::Want::OperatorRequest(request), out),
            Err(reason) => out.refuse(request.to, reason),
        }
    }

    fn check_request(&self, request: &OperatorRequest) -> Result<(), Refusal> {
        crate::model::name::check_name_length("principal", &request.caller.principal)?;
        let DeadLetterAction::Edit(input) = &request.action else {
            return Ok(());
        };
        let (bytes, bytes_max) =
            (input.len() as u64, self.settings.limits.payload_bytes_max as u64);
        if bytes > bytes_max {
            return Err(PayloadTooLarge { bytes, bytes_max }.into());
        }
        let problem = match input.0.first() {
            None => "it is empty".to_owned(),
            Some(&CODEC_MESSAGEPACK) => return Ok(()),
            Some(codec) => format!("its codec {codec} is not known to this version"),
        };
        Err(BadInput { problem }.into())
    }

    /// The answer to an operator request about a run that is no dead letter.
    pub(super) fn no_dead_letter(
        run: &Run,
        state: RunState,
        request: &OperatorRequest,
        out: &mut Output,
    ) {
        let to = request.to;
        if run.acts.contains(&request.caller.request_id) {
            return out.reply(to, DoneReply {}); // D5
        }
        let reason = NotDead { id: run.id, state };
        out.refuse(to, reason);
    }

    /// Does what is wanted with a dead letter, unless it has been done.
    pub(super) fn follow_request(
        &mut self,
        image: RunImage,
        request: OperatorRequest,
        out: &mut Output,
    ) {
        let mut run = image.run;
        let to = request.to;
        let done = run.acts.contains(&request.caller.request_id)
            && !(canary!("a redrive given twice acts twice")
                && matches!(request.action, DeadLetterAction::Redrive));
        if !done && let Err(reason) = self.carry_out(&mut run, request, out) {
            return out.refuse(to, reason);
        }
        out.reply(to, DoneReply {});
    }

    fn carry_out(
        &mut self,
        run: &mut Run,
        request: OperatorRequest,
        out: &mut Output,
    ) -> Result<(), Refusal> {
        super::start::check_range(
            "the number of audit entries of one run",
            run.acts.len() as u64 + 1,
            ACTS_PER_RUN_MAX as u64,
        )?;
        let (at, caller) = (self.now(), request.caller);
        let died_at = run.death.map_or(at, |death| death.at);
        let rejoins = self.is_open(run.batch);
        let (kind, entry, detail) = entry_of(request.action, run, (at, died_at), rejoins, &caller)?;
        self.cleaner_must_keep(run.no);
        out.append(run, &entry);
        let name = run.name.clone().unwrap_or_default();
        self.record_audit(&caller, kind, (Some(run.id), name), detail, out);
        match kind {
            AuditAction::Redrive => {
                out.delete(&DeadKey { died_at, run: run.no });
                self.rejoined_batch(run);
                self.schedule_hears_redrive(run.no);
                let queue = self.queue_number(&run.queue, out);
                self.becomes_queued(queue, RunState::Dead);
                self.enqueue(run, out);
            }
            AuditAction::Discard => {
                if !canary!("a discarded run stays on the list") {
                    out.delete(&DeadKey { died_at, run: run.no });
                }
                let queue = self.queue_number(&run.queue, out);
                self.shift(queue, RunState::Dead, RunState::Discarded);
            }
            AuditAction::Edit | AuditAction::Resume | AuditAction::Cancel => {}
        }
        Ok(())
    }
}

/// The entry that does it, and what to tell of it.
fn entry_of(
    action: DeadLetterAction,
    run: &Run,
    (at, died_at): (Time, Time),
    rejoins: bool,
    caller: &Caller,
) -> Result<(AuditAction, Entry, String), Refusal> {
    let (principal, request_id) = (caller.principal.clone(), caller.request_id);
    Ok(match action {
        DeadLetterAction::Edit(input) => {
            let detail = format!("{} bytes", input.len());
            let entry = InputEdited { at, principal, request_id, input, died_at };
            (AuditAction::Edit, entry.into(), detail)
        }
        DeadLetterAction::Redrive => {
            let from = run.redrive_from();
            let mut from = from.map_err(|step| WentOn { id: run.id, step })?;
            if canary!("a redrive resets nothing") {
                from = run.next;
            }
            let entry = Redriven { at, principal, request_id, from, rejoins };
            (AuditAction::Redrive, entry.into(), String::new())
        }
        DeadLetterAction::Discard(reason) => {
            let entry = Discarded { at, principal, request_id, reason: reason.clone() };
            (AuditAction::Discard, entry.into(), reason)
        }
    })
}

/// What is kept of a reason.
pub(super) fn cut(mut text: String) -> String {
    if text.len() > REASON_BYTES_MAX {
        let mut end = REASON_BYTES_MAX;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}
