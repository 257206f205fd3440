//! **Nothing leaves before it is durable.**
//!
//! Source: rule R1 of the design. Looked at where it counts: at the frames that leave the server.

use stepwell::model::batch::BatchSummary;
use stepwell::model::id::{RunId, RunNo, Token};
use stepwell::model::request::Refusal;
use stepwell::model::run::Outcome;
use stepwell::wire::message::{Answer, Answered, Message, StartAnswer};

use super::Findings;
use crate::durable::Durable;

const NAME: &str = "nothing leaves before it is durable";

pub(super) fn released(
    durable: &Durable,
    to: &str,
    message: &Message,
    findings: &mut Findings<'_>,
) {
    let missing = match message {
        Message::Dispatch(m) => {
            no_lease(durable, m.run, m.token).or_else(|| no_entry(durable, m.run, m.count))
        }
        Message::LeaseContinued(m) => {
            no_lease(durable, m.run, m.token).or_else(|| no_entry(durable, m.run, m.count))
        }
        Message::Appended(m) => no_entry(durable, m.run, m.index + 1),
        Message::TurnEnded(m) => durable
            .leases
            .values()
            .any(|lease| lease.token == m.token)
            .then(|| format!("the end of the turn of run {} under {}", m.run, m.token)),
        Message::Reply(reply) => match &reply.answer {
            Answered::Known(answer) => not_durable(durable, answer),
            Answered::Unreadable { .. } => Some("an answer that is not readable".to_owned()),
        },
        _ => None,
    };
    if let Some(missing) = missing {
        findings.report(
            NAME,
            format!("{to} is sent {}, and {missing} is not durable", message.kind_name()),
        );
    }
}

/// What an answer tells that is not durable.
fn not_durable(durable: &Durable, answer: &Answer) -> Option<String> {
    match answer {
        Answer::StartReply(m) => m.runs.iter().find_map(|answer| match &answer.refused {
            None => no_start(durable, answer.id),
            Some(Refusal::IdTaken(taken)) => no_start(durable, taken.id),
            Some(_) => None,
        }),
        Answer::BatchReply(m) => {
            let refused = |answer: &&StartAnswer| answer.refused.is_none();
            let missing =
                m.runs.iter().filter(refused).find_map(|answer| no_start(durable, answer.id));
            missing.or_else(|| no_batch(durable, &m.batch))
        }
        Answer::OutcomeReply(m) => no_outcome(durable, &m.outcome),
        Answer::StatusReply(m) => {
            no_start(durable, m.run.id).or_else(|| no_entry(durable, m.run.no, m.run.entries))
        }
        Answer::ScheduleReply(m) => {
            let (name, told) = (&m.schedule.spec.name, &m.schedule.state);
            let mut schedules = durable.schedules.values();
            schedules
                .any(|known| known.record.spec.name == *name && known.state.at < told.at)
                .then(|| format!("the state of `{name}` of {}", told.at))
        }
        Answer::ListReply(_)
        | Answer::JournalReply(_)
        | Answer::DoneReply(_)
        | Answer::StatsReply(_)
        | Answer::RefusedReply(_)
        | Answer::QueuesReply(_)
        | Answer::LettersReply(_)
        | Answer::AuditReply(_)
        | Answer::SchedulesReply(_)
        | Answer::BackfillReply(_) => None,
    }
}

fn no_lease(durable: &Durable, run: RunNo, token: Token) -> Option<String> {
    (!durable.tokens.contains(&token)).then(|| format!("the lease of run {run} under {token}"))
}

fn no_entry(durable: &Durable, no: RunNo, count: u32) -> Option<String> {
    let found = durable.runs.get(&no).map_or(0, |run| run.entries.len());
    (found < count as usize)
        .then(|| format!("entry {} of run {no} (of {found} entries)", count - 1))
}

fn no_start(durable: &Durable, id: RunId) -> Option<String> {
    // One that is forgotten was durable when this was said.
    (durable.run_of(id).is_none() && !durable.was_forgotten(id))
        .then(|| format!("the start of {id}"))
}

/// What is told of a batch is durable, or was: its runs only get more, and so many had ended once.
fn no_batch(durable: &Durable, told: &BatchSummary) -> Option<String> {
    let open = durable.batches.values();
    let known = open.chain(durable.ended_batches.values()).any(|record| {
        let counts = record.counts;
        let ended = durable.most_ended.get(&record.no).copied();
        record.name == told.name
            && counts.total >= told.counts.total
            && counts.ended().max(ended.unwrap_or(0)) >= told.counts.ended()
            && (record.sealed || !told.sealed)
            && (record.ended_at.is_some() || told.ended_at.is_none())
    });
    (!known).then(|| format!("what is told of the batch: {told:?}"))
}

fn no_outcome(durable: &Durable, outcome: &Outcome) -> Option<String> {
    if matches!(outcome, Outcome::OutcomePending(_)) {
        return None;
    }
    let found = durable.runs.values().any(|run| run.outcomes().contains(outcome));
    (!found).then(|| format!("the outcome {outcome:?}"))
}
