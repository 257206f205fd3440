//! **What is answered is true of what was asked.**
//!
//! Source: rule R1 of the design, and the clients' calls: a request that is acknowledged is carried
//! out, and that is durable; an outcome is that of the run that was asked about. Which request an
//! answer is to is known by its number, as clients give them: a client never gives one twice.

use std::collections::BTreeMap;

use stepwell::model::entry::Entry;
use stepwell::model::id::{RequestId, RunId};
use stepwell::model::run::Outcome;
use stepwell::wire::message::{Answer, Answered, Call, Message, Reply, Request, Requested};

use super::Findings;
use super::applied_request::AppliedRequests;
use crate::durable::{Durable, DurableRun};

const NAME: &str = "what is answered is true of what was asked";

/// What clients asked for, by host and number.
#[derive(Default)]
pub(super) struct Requests {
    known: BTreeMap<(String, u64), AskedRequest>,
}

#[derive(Debug, Clone, Copy)]
enum AskedRequest {
    /// Something of a queue or a schedule.
    OperatorRequest(RequestId),
    Cancel(RunId),
    Operate(RunId, RequestId),
    Outcome(RunId),
}

impl Requests {
    /// A client sends something, perhaps again.
    pub(super) fn sent(&mut self, host: &str, message: &Message) {
        let Message::Call(Call { call_number, request_id, request, .. }) = message else {
            return;
        };
        let Requested::Known(request) = request else {
            return;
        };
        let asked = match request {
            Request::SetQueue(_)
            | Request::SetSchedule(_)
            | Request::PauseSchedule(_)
            | Request::ResumeSchedule(_)
            | Request::RemoveSchedule(_) => AskedRequest::OperatorRequest(*request_id),
            Request::Cancel(m) => AskedRequest::Cancel(m.id),
            Request::Redrive(m) => AskedRequest::Operate(m.id, *request_id),
            Request::EditInput(m) => AskedRequest::Operate(m.id, *request_id),
            Request::Discard(m) => AskedRequest::Operate(m.id, *request_id),
            Request::AskOutcome(m) => AskedRequest::Outcome(m.id),
            _ => return,
        };
        self.known.insert((host.to_owned(), *call_number), asked);
    }

    /// The server answers.
    pub(super) fn answered(
        &self,
        durable: &Durable,
        applied: &AppliedRequests,
        (to, message): (&str, &Message),
        findings: &mut Findings<'_>,
    ) {
        let Message::Reply(Reply { call_number, answer }) = message else {
            return;
        };
        let Answered::Known(answer) = answer else {
            return findings.report(NAME, format!("{to} is sent an answer that is not readable"));
        };
        let outcome = match answer {
            Answer::DoneReply(_) | Answer::ScheduleReply(_) => None,
            Answer::OutcomeReply(m) => Some(&m.outcome),
            _ => return,
        };
        let Some(asked) = self.known.get(&(to.to_owned(), *call_number)) else {
            return;
        };
        let holds =
            |run: RunId, is_it: &dyn Fn(&DurableRun) -> bool| durable.runs_of(run).any(is_it);
        let is_true = match (*asked, outcome) {
            (AskedRequest::OperatorRequest(request_id), None) => {
                request_id == RequestId::default() || applied.has_applied(request_id)
            }
            (AskedRequest::Cancel(run), None) => holds(run, &|run| {
                let is_asked = |entry: &Entry| matches!(entry, Entry::CancelRequested(_));
                run.entries.iter().any(is_asked)
            }),
            (AskedRequest::Operate(run, request_id), None) => {
                holds(run, &|run| run.entries.iter().any(|entry| entry.act() == Some(request_id)))
            }
            (AskedRequest::Outcome(_), Some(Outcome::OutcomePending(_))) => true,
            (AskedRequest::Outcome(run), Some(outcome)) => {
                holds(run, &|run| run.outcomes().contains(outcome))
            }
            _ => false,
        };
        if !is_true {
            let text = format!("{to} is answered {message:?} to {asked:?}");
            findings.report(NAME, text);
        }
    }
}
