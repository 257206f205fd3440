//! Who may make an attempt at what is done once, as the engine says.

use std::collections::BTreeMap;

use stepwell::model::entry::Entry;
use stepwell::model::id::{Incarnation, Namespace, OnceKey, RunNo, StepNo, Token};
use stepwell::wire::message::{AskOnce, Message, OnceGranted, OnceReturned};

use super::Bench;
use crate::durable::Durable;

const ONE: &str = "one attempt at a once key is granted at a time";
/// So long is waited for the answer to what a worker has returned.
const ANSWER_MS: u64 = 3_000;

/// A step of a run.
type Asker = (RunNo, StepNo);

/// What was asked for and granted.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    /// Keys that were asked for and not returned since.
    asked: BTreeMap<(Asker, Token), OnceKey>,
    /// Returned, and not answered: how often.
    returned: BTreeMap<(Asker, Token), u32>,
    /// Attempts that may be made.
    granted: BTreeMap<Asker, Granted>,
    /// Two grants of a key: the first may have been returned, by a copy.
    suspected: Vec<Suspicion>,
}

#[derive(Debug)]
struct Granted {
    key: (Namespace, OnceKey),
    who: Incarnation,
    /// In this life of the server.
    life: u32,
}

#[derive(Debug)]
struct Suspicion {
    at_ms: u64,
    first: Asker,
    text: String,
}

impl Grants {
    /// A worker asks whether it may make an attempt.
    pub(crate) fn asked(&mut self, ask: &AskOnce) {
        self.asked
            .insert(((ask.run, ask.number), ask.token), ask.once);
    }

    /// A worker says how an attempt ended, or that it makes none.
    pub(crate) fn reported(&mut self, message: &Message) {
        let (asker, token) = match message {
            Message::AskOnce(ask) => return self.asked(ask),
            Message::OnceReturned(r) => {
                let of = ((r.run, r.number), r.token);
                *self.returned.entry(of).or_default() += 1;
                of
            }
            Message::StepCompletedReport(r) => ((r.run, r.number), r.token),
            Message::AttemptFailedReport(r) => ((r.run, r.number), r.token),
            _ => return,
        };
        self.asked.remove(&(asker, token));
        self.granted.remove(&asker);
    }

    /// The server answers that an attempt is returned: it may have been by a copy of what was said long ago.
    pub(crate) fn answered(&mut self, answer: &OnceReturned) {
        let asker = (answer.run, answer.number);
        if let Some(left) = self.returned.get_mut(&(asker, answer.token)) {
            *left = left.saturating_sub(1);
        }
        self.ends(asker);
    }

    /// The server has taken an attempt back, or refuses its report.
    pub(crate) fn ends(&mut self, asker: Asker) {
        self.granted.remove(&asker);
        self.suspected.retain(|suspicion| suspicion.first != asker);
    }

    /// The server grants an attempt.
    pub(crate) fn grants(&mut self, durable: &Durable, grant: &OnceGranted, bench: &Bench<'_>) {
        let (asker, token) = ((grant.run, grant.number), grant.token);
        let holder = durable.granted.values().find(|held| held.run == grant.run);
        let is_answered = self
            .returned
            .get(&(asker, token))
            .is_none_or(|left| *left == 0);
        let key = self.asked.get(&(asker, token)).copied();
        let started = durable.runs.get(&grant.run).and_then(|run| run.started());
        let (Some(key), Some(started), Some(holder)) = (key, started, holder) else {
            return; // it left late, and is nobody's any more
        };
        if !is_answered || holder.token != token {
            return;
        }
        let granted = Granted {
            key: (started.namespace, key),
            who: holder.incarnation,
            life: durable.lives,
        };
        let others = self.granted.iter().filter(|(other, held)| {
            **other != asker && held.key == granted.key && held.life == granted.life
        });
        let suspicions = others.map(|(first, held)| Suspicion {
            at_ms: bench.now_ms,
            first: *first,
            text: format!(
                "step {} of run {} may make an attempt, and so may step {} of run {} on {}",
                asker.1, asker.0, first.1, first.0, held.who
            ),
        });
        self.suspected.extend(suspicions.collect::<Vec<_>>());
        self.granted.insert(asker, granted);
    }

    /// After each batch.
    pub(crate) fn batch_ended(
        &mut self,
        durable: &Durable,
        fresh: &[(RunNo, u32)],
        bench: &mut Bench<'_>,
    ) {
        for (no, index) in fresh {
            let run = durable.runs.get(no);
            let entry = run.and_then(|run| run.entries.get(*index as usize));
            let number = match entry {
                Some(Entry::StepCompleted(e)) => e.number,
                Some(Entry::StepFailed(e)) => e.number,
                Some(Entry::AttemptFailed(e)) => e.number,
                _ => continue,
            };
            self.granted.remove(&(*no, number));
        }
        if !self.granted.is_empty() {
            let held: BTreeMap<RunNo, Incarnation> = durable
                .granted
                .values()
                .map(|held| (held.run, held.incarnation))
                .collect();
            self.granted.retain(|(run, _), granted| {
                granted.life == durable.lives && held.get(run) == Some(&granted.who)
            });
        }
        let now_ms = bench.now_ms;
        self.charge(|at_ms| at_ms + ANSWER_MS < now_ms, bench);
    }

    /// Whatever was not answered is what it seems.
    pub(crate) fn at_the_end(&mut self, bench: &mut Bench<'_>) {
        self.charge(|_| true, bench);
    }

    fn charge(&mut self, is_due: impl Fn(u64) -> bool, bench: &mut Bench<'_>) {
        let (due, left) = std::mem::take(&mut self.suspected)
            .into_iter()
            .partition(|suspicion: &Suspicion| is_due(suspicion.at_ms));
        self.suspected = left;
        let due: Vec<Suspicion> = due;
        for suspicion in due {
            bench.charge(ONE, suspicion.text);
        }
    }
}
