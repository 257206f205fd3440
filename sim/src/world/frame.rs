//! What a frame means to the world between two hosts. Whoever adds a frame, a request or a reply
//! says it here.

use stepwell::model::id::{RunNo, Token};
use stepwell::wire::message::{Answer, Answered, Message, Reply, Request, Requested};

/// Whether a frame of the server tells of a commit.
pub(super) fn is_answer(message: &Message) -> bool {
    match message {
        Message::Dispatch(_)
        | Message::Appended(_)
        | Message::TurnEnded(_)
        | Message::LeaseContinued(_) => true,
        Message::Reply(Reply { answer: Answered::Unreadable { .. }, .. }) => false,
        Message::Reply(Reply { answer: Answered::Known(answer), .. }) => match answer {
            Answer::StartReply(_)
            | Answer::OutcomeReply(_)
            | Answer::StatusReply(_)
            | Answer::DoneReply(_) => true,
            Answer::ListReply(_)
            | Answer::JournalReply(_)
            | Answer::StatsReply(_)
            | Answer::RefusedReply(_)
            | Answer::QueuesReply(_)
            | Answer::LettersReply(_)
            | Answer::AuditReply(_)
            | Answer::BatchReply(_)
            | Answer::ScheduleReply(_)
            | Answer::SchedulesReply(_)
            | Answer::BackfillReply(_) => false,
        },
        Message::HelloV1(_)
        | Message::Hello(_)
        | Message::Welcome(_)
        | Message::Heartbeat(_)
        | Message::Closing(_)
        | Message::Register(_)
        | Message::Registered(_)
        | Message::Call(_)
        | Message::Journal(_)
        | Message::Revoked(_)
        | Message::ReportRefused(_)
        | Message::StepCompletedReport(_)
        | Message::AttemptFailedReport(_)
        | Message::TimerRequested(_)
        | Message::TurnSuspended(_)
        | Message::TurnCompleted(_)
        | Message::TurnFailed(_)
        | Message::TurnMismatched(_)
        | Message::Requeue(_)
        | Message::Offer(_)
        | Message::MemoRequested(_)
        | Message::AttemptMemo(_)
        | Message::MemoReleased(_)
        | Message::JournalPageRequested(_)
        | Message::JournalPage(_)
        | Message::Later(_) => false,
    }
}

/// Whether a frame is one that stands for itself. What is about the connection as such (hello,
/// welcome, registration, heartbeat, closing, offer) has no meaning outside its place, nor has what
/// is said of memoized steps.
pub(super) fn may_come_late(message: &Message) -> bool {
    match message {
        Message::Call(_)
        | Message::Reply(_)
        | Message::Dispatch(_)
        | Message::Journal(_)
        | Message::Appended(_)
        | Message::TurnEnded(_)
        | Message::Revoked(_)
        | Message::LeaseContinued(_)
        | Message::ReportRefused(_)
        | Message::StepCompletedReport(_)
        | Message::AttemptFailedReport(_)
        | Message::TimerRequested(_)
        | Message::TurnSuspended(_)
        | Message::TurnCompleted(_)
        | Message::TurnFailed(_)
        | Message::TurnMismatched(_)
        | Message::Requeue(_)
        | Message::JournalPageRequested(_)
        | Message::JournalPage(_) => true,
        Message::HelloV1(_)
        | Message::Hello(_)
        | Message::Welcome(_)
        | Message::Heartbeat(_)
        | Message::Closing(_)
        | Message::Register(_)
        | Message::Registered(_)
        | Message::Offer(_)
        | Message::MemoRequested(_)
        | Message::AttemptMemo(_)
        | Message::MemoReleased(_)
        | Message::Later(_) => false,
    }
}

/// Whether a frame asks something of a schedule: its copies are drawn from a stream of their own.
pub(super) fn is_of_schedule(message: &Message) -> bool {
    let Message::Call(call) = message else {
        return false;
    };
    let Requested::Known(request) = &call.request else {
        return false;
    };
    match request {
        Request::SetSchedule(_)
        | Request::AskSchedules(_)
        | Request::AskOccurrences(_)
        | Request::PauseSchedule(_)
        | Request::ResumeSchedule(_)
        | Request::RemoveSchedule(_)
        | Request::Backfill(_) => true,
        Request::Start(_)
        | Request::AskOutcome(_)
        | Request::AskStatus(_)
        | Request::AskList(_)
        | Request::AskJournal(_)
        | Request::Cancel(_)
        | Request::Resume(_)
        | Request::AskDead(_)
        | Request::AskStats(_)
        | Request::AskQueues(_)
        | Request::SetQueue(_)
        | Request::AskLetters(_)
        | Request::EditInput(_)
        | Request::Redrive(_)
        | Request::Discard(_)
        | Request::AskAudit(_)
        | Request::StartBatch(_)
        | Request::AskBatch(_)
        | Request::AtomicStart(_) => false,
    }
}

/// Whether a worker reports by it what became of a step or of a turn.
pub(super) fn is_report(message: &Message) -> bool {
    matches!(
        message,
        Message::StepCompletedReport(_)
            | Message::AttemptFailedReport(_)
            | Message::TimerRequested(_)
            | Message::TurnSuspended(_)
            | Message::TurnCompleted(_)
            | Message::TurnFailed(_)
    )
}

/// The name of what a frame says: of a call, that of its request.
pub(super) fn kind_name(message: &Message) -> &'static str {
    match message {
        Message::Call(call) => match &call.request {
            Requested::Known(request) => request.kind_name(),
            Requested::Unreadable { .. } => "Unreadable",
        },
        Message::Reply(reply) => match &reply.answer {
            Answered::Known(answer) => answer.kind_name(),
            Answered::Unreadable { .. } => "Unreadable",
        },
        message => message.kind_name(),
    }
}

/// What a message is about, for the trace.
pub(super) fn brief(message: &Message) -> String {
    let of = |run: RunNo, token: Token| format!(" run {run} lease {}.{}", token.epoch, token.lease);
    match message {
        Message::Hello(m) => format!(" speaks {}", m.protocols()),
        Message::Welcome(m) => format!(" {} protocol {}", m.session, m.protocol),
        Message::Register(m) => format!(" holds {}", m.held.len()),
        Message::Closing(m) => format!(" `{}`", m.reason),
        Message::Dispatch(m) => {
            format!("{}, {} of {}", of(m.run, m.token), m.entries.len(), m.count)
        }
        Message::Journal(m) => {
            format!("{}, {} from {}", of(m.run, m.token), m.entries.len(), m.from)
        }
        Message::Appended(m) => format!("{} entry {}", of(m.run, m.token), m.index),
        Message::TurnEnded(m) => of(m.run, m.token),
        Message::Revoked(m) => format!("{}: {}", of(m.run, m.token), m.reason),
        Message::LeaseContinued(m) => format!("{}, has {}", of(m.run, m.token), m.count),
        Message::ReportRefused(m) => format!("{} step {}", of(m.run, m.token), m.number),
        Message::StepCompletedReport(m) => format!("{} step {}", of(m.run, m.token), m.number),
        Message::AttemptFailedReport(m) => {
            format!("{} step {} attempt {}", of(m.run, m.token), m.number, m.attempt)
        }
        Message::TimerRequested(m) => format!("{} step {}", of(m.run, m.token), m.number),
        Message::TurnSuspended(m) => {
            format!("{} seen {} until {}", of(m.run, m.token), m.seen, m.wakes_at.0)
        }
        Message::TurnCompleted(m) => of(m.run, m.token),
        Message::TurnFailed(m) => of(m.run, m.token),
        Message::TurnMismatched(m) => format!("{} entry {}", of(m.run, m.token), m.index),
        Message::Requeue(m) => of(m.run, m.token),
        _ => String::new(),
    }
}
