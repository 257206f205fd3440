//! What is told of a history that no order explains: no call more than it takes.

use std::fmt::Write;

use stepwell::model::payload::Payload;
use stepwell::model::run::Outcome;
use twox_hash::XxHash3_64;

use super::search::{self, SearchVerdict, answered_at};
use crate::client_log::AskedAction;

use super::{Answer, Asked, Call, CallHistory, Held, RunLife, RunModel};

impl CallHistory {
    /// The calls in the order in which they began, a mark at the answer that nothing explains, and
    /// what would have been possible.
    pub(super) fn story(&self, name: &str) -> String {
        let cut = self.first_unexplained();
        let short = self.without_the_needless(cut);
        let culprit = |call: &Call| answered_at(call) == Some(cut);
        let mut told = match cut {
            u64::MAX => format!("{name}: no order of the calls explains its journal\n"),
            _ => format!("{name}: no order of the calls explains the answer marked `->`\n"),
        };
        let mut forgotten = (1..).zip(&self.forgotten).peekable();
        let mut forgets = |told: &mut String, before: u64| {
            while let Some((nth, _)) = forgotten.next_if(|(_, at)| at.from < before) {
                let _ = writeln!(told, "         engine       forgets run {nth} of the name");
            }
        };
        for call in short.calls.iter().filter(|call| call.begun.order < cut) {
            forgets(&mut told, call.begun.order);
            let mark = if culprit(call) { "->" } else { "  " };
            let until = match answered_at(call).filter(|at| *at <= cut).and(call.ended) {
                Some(ended) => ended.at_ms.to_string(),
                None => String::new(),
            };
            let answer = match until.is_empty() {
                true => "no answer".to_owned(),
                false => answer(&call.answer),
            };
            let asked = asked(&call.asked);
            let (client, from) = (&call.client, call.begun.at_ms);
            let _ = writeln!(
                told,
                "      {mark} {client:<12} {from:>7}..{until:<7} ms  {asked:<28} {answer}"
            );
        }
        forgets(&mut told, cut);
        if cut == u64::MAX {
            let journal = match self.lives.get(self.forgotten.len()) {
                Some(held) => Self::held(held),
                None => "no such run".to_owned(),
            };
            let _ = writeln!(told, "      -> {:<12} {:>7}  in the end: {journal}", "journal", "");
        }
        let possible = self.possible_before(cut);
        let _ = write!(told, "    until then it was, in every order: {possible}");
        told
    }

    /// The answer with which the history becomes one that no order explains; for ever: only the
    /// journal does not fit.
    fn first_unexplained(&self) -> u64 {
        let mut answers: Vec<u64> = self.calls.iter().filter_map(answered_at).collect();
        answers.sort_unstable();
        let unexplained = |cut: &u64| self.fails(*cut);
        answers.into_iter().find(unexplained).unwrap_or(u64::MAX)
    }

    fn fails(&self, cut: u64) -> bool {
        search::verdict(self, &self.ops(cut)) == SearchVerdict::Unexplained
    }

    /// Questions whose answers are not needed for the contradiction are left out. What may have
    /// changed the run stays.
    fn without_the_needless(&self, cut: u64) -> Self {
        let mut short = self.clone();
        let mut at = 0;
        while at < short.calls.len() {
            let call = &short.calls[at];
            let question =
                !matches!(call.asked, Asked::Start { .. } | Asked::Cancel | Asked::Operate { .. });
            let mut fewer = short.clone();
            fewer.calls.remove(at);
            if call.answer == Answer::NotAsked || (question && fewer.fails(cut)) {
                short = fewer;
            } else {
                at += 1;
            }
        }
        short
    }

    /// What the run may have been when all but the unexplained answer were given.
    fn possible_before(&self, cut: u64) -> String {
        let last = self.calls.iter().filter_map(answered_at).filter(|at| *at < cut).max();
        let before = match last {
            Some(last) => search::states_after(self, &self.ops(last)),
            None => [RunModel::Absent(0)].into(),
        };
        let mut texts: Vec<String> = before.into_iter().map(|state| self.state(state)).collect();
        texts.dedup();
        texts.join("; or ")
    }

    fn state(&self, state: RunModel) -> String {
        let life = |word: &str, life: RunLife| {
            let (workflow, input) = &self.kinds[life.kind];
            let asked = if life.asked { ", asked to stop" } else { "" };
            let acts = match life.acts {
                0 => String::new(),
                acts => format!(", after {acts} acts"),
            };
            format!("{word} as {workflow} {}{asked}{acts}", brief(input))
        };
        match state {
            RunModel::Absent(0) => "absent".to_owned(),
            RunModel::Absent(_) => "forgotten".to_owned(),
            RunModel::Live(alive) => life("live", alive),
            RunModel::Ended(ended) => {
                let end = self.end(ended).map(outcome).unwrap_or_default();
                format!("{}, {end}", life("ended", ended))
            }
        }
    }

    fn held(held: &Held) -> String {
        let asked = if held.asked { ", asked to stop" } else { "" };
        let end = held.ends.iter().map(|end| match end {
            Some((_, end)) => outcome(end),
            None => "not ended".to_owned(),
        });
        let end = end.collect::<Vec<_>>().join("; redriven, ");
        let (workflow, input) = (&held.workflow, brief(&held.input));
        format!("{workflow} {input}{asked}, entries {}, {end}", held.entries)
    }
}

fn asked(asked: &Asked) -> String {
    match asked {
        Asked::Start { workflow, input, delayed } => {
            let delayed = if *delayed { ", delayed" } else { "" };
            format!("start {workflow} {}{delayed}", brief(input))
        }
        Asked::Cancel => "cancel".to_owned(),
        Asked::Resume => "resume".to_owned(),
        Asked::Outcome { waits: true } => "outcome, once it has ended".to_owned(),
        Asked::Outcome { waits: false } => "outcome, now".to_owned(),
        Asked::Status => "status".to_owned(),
        Asked::Operate { request_id, action } => match action {
            AskedAction::Redrive => format!("redrive ({request_id})"),
            AskedAction::Edit(input) => format!("edit {} ({request_id})", brief(input)),
            AskedAction::Discard => format!("discard ({request_id})"),
        },
    }
}

fn answer(answer: &Answer) -> String {
    match answer {
        Answer::Unknown | Answer::NotAsked => "no answer".to_owned(),
        Answer::Started(true) => "began it".to_owned(),
        Answer::Started(false) => "exists already".to_owned(),
        Answer::Done => "done".to_owned(),
        Answer::Outcome(told) => outcome(told),
        Answer::Status(told) => format!("{}, entries {}", told.state, told.entries),
        Answer::Refused(refusal) => format!("refused: {refusal}"),
    }
}

fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::OutcomeCompleted(done) => format!("completed {}", brief(&done.output)),
        Outcome::OutcomeDead(dead) => format!("dead: {}", dead.failure),
        Outcome::OutcomeCancelled(_) => "cancelled".to_owned(),
        Outcome::OutcomePending(pending) => format!("pending: {}", pending.state),
    }
}

/// Long payloads are told apart by a few digits.
fn brief(payload: &Payload) -> String {
    let text = format!("{payload:?}");
    match text.len() {
        0..=16 => text,
        _ => format!("#{:08x}", XxHash3_64::oneshot(&payload.0) >> 32),
    }
}
