//! **Every answer is one that a single engine, doing one call after the other, could have given.**
//!
//! Source: the public API (`Client`): what a start, a cancel, a resume, an outcome and a status promise, and rule R1: an
//! answer is durable when it leaves. Checked as linearizability: for each run there must be one order of all calls about
//! it, which keeps every call between its beginning and its answer, in which the model below gives the very answers that
//! were given. Runs do not know each other, so each is looked at alone.
//!
//! ```text
//!   absent ──start──► live ──cancel──► live, asked to stop
//!                      │ by itself        │ by itself
//!                      └──► ended ◄───────┘      as its journal says; `cancelled` only if it was asked to stop
//! ```
//!
//! - A start begins a run that is absent, finds the one of its workflow and input, and is refused by any other.
//! - A cancel is acknowledged while the run lives. It is a request: the run may complete or die all the same. Its journal
//!   holds it, though, whatever comes after.
//! - The journal is the last to be asked, and must fit the order too: so a call that was acknowledged and forgotten shows.
//! - A call without an answer may have taken effect at any time since, or never. One that was answered may have gone out
//!   over more than one connection: it may have taken effect while it was under way *before* the copy that was answered
//!   came in (a start is told that it found the run that it began itself), and where the network repeats frames late, also
//!   afterwards.

mod search;
mod story;
#[cfg(test)]
mod tests;

use stepwell::model::command::Refusal;
use stepwell::model::entry::Entry;
use stepwell::model::payload::Payload;
use stepwell::model::run::{Outcome, RunState};

use self::search::{Op, Verdict};
use super::Bench;
use crate::durable::{Durable, DurableRun};
use crate::plan::Settings;
use crate::told::{Answer, Asked, Call, Calls, run_id};

const NAME: &str = "an order of the calls explains the answers";

/// What the checker did, for the report.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// Calls that were explained.
    pub(crate) calls: u64,
    /// Of these, how many have no answer.
    pub(crate) unknown: u64,
    /// Runs whose calls have too many orders to try them all.
    pub(crate) given_up: u64,
}

pub(super) fn at_the_end(
    durable: &Durable,
    calls: &Calls,
    settings: &Settings,
    bench: &mut Bench<'_>,
) -> Checked {
    let mut checked = Checked::default();
    let repeats = settings.late_copies_per_mille > 0 || settings.duplicates_per_mille > 0;
    for (name, calls) in &calls.of {
        // A name means another run once the first has outlived its retention; which call was about which is not told.
        if durable.was_forgotten(run_id(name)) {
            continue;
        }
        let journal = durable.run_of(run_id(name)).and_then(Held::of);
        let history = History::new(calls.clone(), journal, repeats);
        match history.verdict() {
            Verdict::Explained => {
                let unknown = |call: &&Call| call.answer == Answer::Unknown;
                checked.calls += calls.len() as u64;
                checked.unknown += calls.iter().filter(unknown).count() as u64;
            }
            Verdict::Unexplained => bench.charge(NAME, history.story(name)),
            Verdict::GivenUp => checked.given_up += 1,
        }
    }
    checked
}

/// A run as its journal holds it in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    workflow: String,
    input: Payload,
    asked: bool,
    entries: u32,
    end: Option<Outcome>,
}

impl Held {
    fn of(run: &DurableRun) -> Option<Self> {
        let started = run.started()?;
        let asked = |entry: &Entry| matches!(entry, Entry::CancelRequested(_));
        Some(Self {
            workflow: started.workflow.clone(),
            input: started.input.clone(),
            asked: run.entries.iter().any(asked),
            entries: run.entries.len() as u32,
            end: run.outcome(),
        })
    }
}

/// The calls about one run, and what became of it.
#[derive(Debug, Clone)]
struct History {
    calls: Vec<Call>,
    journal: Option<Held>,
    /// What the starts ask for, each once. A run began as one of them.
    kinds: Vec<(String, Payload)>,
    /// The network repeats frames, also after their answers.
    repeats: bool,
}

/// A run as the model knows it. Invariant: nothing leads back from `Ended` to `Live`, or to `Absent` from either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Absent,
    Live(Life),
    /// Its outcome is what the journal says.
    Ended(Life),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Life {
    /// What it was started as: one of the history's kinds.
    kind: usize,
    /// It was asked to stop.
    asked: bool,
    /// Its delay is not known to be over.
    delayed: bool,
    /// Its journal holds this much at least.
    entries: u32,
}

impl History {
    fn new(calls: Vec<Call>, journal: Option<Held>, repeats: bool) -> Self {
        let mut kinds: Vec<(String, Payload)> = Vec::new();
        for call in &calls {
            if let Asked::Start {
                workflow, input, ..
            } = &call.asked
                && !kinds.iter().any(|(w, i)| w == workflow && i == input)
            {
                kinds.push((workflow.clone(), input.clone()));
            }
        }
        Self {
            calls,
            journal,
            kinds,
            repeats,
        }
    }

    fn verdict(&self) -> Verdict {
        search::verdict(self, &self.ops(u64::MAX))
    }

    /// How the run ended, if it did.
    fn end(&self) -> Option<&Outcome> {
        self.journal.as_ref().and_then(|held| held.end.as_ref())
    }

    fn kind_of(&self, workflow: &str, input: &Payload) -> Option<usize> {
        let same = |(w, i): &(String, Payload)| w == workflow && i == input;
        self.kinds.iter().position(same)
    }

    /// The state and what it may have become by itself.
    fn with_time(&self, state: State) -> impl Iterator<Item = State> {
        let ended = match (state, self.end()) {
            (State::Live(life), Some(end)) => {
                let may = life.asked || !matches!(end, Outcome::OutcomeCancelled(_));
                may.then_some(State::Ended(life))
            }
            _ => None,
        };
        std::iter::once(state).chain(ended)
    }

    /// What an operation may make of a state; nothing if it cannot have happened then.
    fn after(&self, op: &Op, state: State) -> Vec<State> {
        let states = self.with_time(state);
        match op.call {
            None => states.filter(|state| self.is_held(*state)).collect(),
            Some(call) if op.answered => states
                .filter_map(|state| self.answered(&self.calls[call], state))
                .collect(),
            Some(call) => states
                .filter_map(|state| self.unanswered(&self.calls[call], state))
                .collect(),
        }
    }

    /// Whether the journal may say this in the end.
    fn is_held(&self, state: State) -> bool {
        match (&self.journal, state) {
            (None, State::Absent) => true,
            (Some(held), State::Live(life)) => held.end.is_none() && self.is(held, life),
            (Some(held), State::Ended(life)) => held.end.is_some() && self.is(held, life),
            _ => false,
        }
    }

    fn is(&self, held: &Held, life: Life) -> bool {
        self.kind_of(&held.workflow, &held.input) == Some(life.kind)
            && held.asked == life.asked
            && held.entries >= life.entries
    }

    /// A copy of a call has its effect, unseen. None where it has none.
    fn unanswered(&self, call: &Call, state: State) -> Option<State> {
        match (&call.asked, state) {
            (Asked::Start { .. }, State::Absent) => self.begun(call),
            (Asked::Cancel, State::Live(life)) if !life.asked => Some(State::Live(Life {
                asked: true,
                ..life
            })),
            _ => None,
        }
    }

    fn begun(&self, call: &Call) -> Option<State> {
        let Asked::Start {
            workflow,
            input,
            delayed,
        } = &call.asked
        else {
            return None;
        };
        let kind = self.kind_of(workflow, input)?;
        let (delayed, asked, entries) = (*delayed, false, 1);
        Some(State::Live(Life {
            kind,
            asked,
            delayed,
            entries,
        }))
    }

    /// A call is answered as it was: what the state becomes, if it is one in which this answer is right.
    fn answered(&self, call: &Call, state: State) -> Option<State> {
        let ended = |told: RunState| {
            let right = self.end().map(state_of) == Some(told);
            matches!(state, State::Ended(_)).then_some(())?;
            right.then_some(state)
        };
        match (&call.asked, &call.answer) {
            (_, Answer::Refused(refusal)) => match refusal {
                Refusal::NoSuchRun(_) if !matches!(call.asked, Asked::Start { .. }) => {
                    (state == State::Absent).then_some(state)
                }
                Refusal::IdTaken(_) => {
                    let mine = self.begun(call)?.life()?.kind;
                    (state.life()?.kind != mine).then_some(state)
                }
                Refusal::HasEnded(refusal) if call.asked == Asked::Cancel => ended(refusal.state),
                Refusal::NotResumable(refusal) if call.asked == Asked::Resume => {
                    match refusal.state {
                        RunState::Parked | RunState::Paused => None,
                        told if told.is_final() => ended(told),
                        told => self.lives_as(told, state),
                    }
                }
                refusal => is_at_fault(refusal).then_some(state),
            },
            (Asked::Start { .. }, Answer::Started(true)) => {
                (state == State::Absent).then(|| self.begun(call))?
            }
            (Asked::Start { .. }, Answer::Started(false)) => {
                let mine = self.begun(call)?.life()?.kind;
                (state.life()?.kind == mine).then_some(state)
            }
            (Asked::Cancel, Answer::Done) => match state {
                State::Live(life) => Some(State::Live(Life {
                    asked: true,
                    ..life
                })),
                State::Absent | State::Ended(_) => None,
            },
            (Asked::Resume, Answer::Done) => matches!(state, State::Live(_)).then_some(state),
            (Asked::Outcome { waits }, Answer::Outcome(outcome)) => match outcome {
                Outcome::OutcomePending(_) if *waits => None,
                Outcome::OutcomePending(pending) => self.lives_as(pending.state, state),
                told => {
                    let right = matches!(state, State::Ended(_)) && self.end() == Some(told);
                    right.then_some(state)
                }
            },
            (Asked::Status, Answer::Status(told)) => {
                let state = match told.state.is_final() {
                    true => ended(told.state)?,
                    false => self.lives_as(told.state, state)?,
                };
                self.has_grown(told.workflow.as_str(), told.entries, state)
            }
            _ => None,
        }
    }

    /// A run that has not ended is told to be in this state of its life.
    fn lives_as(&self, told: RunState, state: State) -> Option<State> {
        let State::Live(life) = state else {
            return None;
        };
        match told {
            RunState::Scheduled => (life.delayed && life.entries == 1).then_some(state),
            told if told.is_final() => None,
            _ => Some(State::Live(Life {
                delayed: false,
                ..life
            })),
        }
    }

    /// Journals never get shorter, and one that has ended never longer.
    fn has_grown(&self, workflow: &str, entries: u32, state: State) -> Option<State> {
        let life = state.life()?;
        let ends_with = self.journal.as_ref().map_or(0, |held| held.entries);
        let fits = match state {
            State::Ended(_) => entries == ends_with,
            _ => (life.entries..=ends_with).contains(&entries),
        };
        if !fits || self.kinds[life.kind].0 != workflow {
            return None;
        }
        Some(match state {
            State::Live(life) => State::Live(Life { entries, ..life }),
            other => other,
        })
    }
}

impl State {
    fn life(self) -> Option<Life> {
        match self {
            Self::Absent => None,
            Self::Live(life) | Self::Ended(life) => Some(life),
        }
    }
}

/// The call itself was at fault, whatever the run was.
fn is_at_fault(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::PayloadTooLarge(_)
            | Refusal::BadName(_)
            | Refusal::TooMany(_)
            | Refusal::OutOfRange(_)
            // Another run of the call was at fault.
            | Refusal::NotAllStarted(_)
    )
}

fn state_of(outcome: &Outcome) -> RunState {
    match outcome {
        Outcome::OutcomeCompleted(_) => RunState::Completed,
        Outcome::OutcomeDead(_) => RunState::Dead,
        Outcome::OutcomeCancelled(_) => RunState::Cancelled,
        Outcome::OutcomePending(pending) => pending.state,
    }
}
