//! **Every answer is one that a single engine, doing one call after the other, could have given.**
//!
//! Source: the public API (`Client`): what a start, a cancel, a resume, an outcome and a status
//! promise, and rule R1: an answer is durable when it leaves. Checked as linearizability: for each
//! run there must be one order of all calls about it, which keeps every call between its beginning
//! and its answer, in which the model below gives the very answers that were given. Runs do not
//! know each other, so each is looked at alone.
//!
//! ```text
//!   absent ──start──► live ──cancel──► live, asked to stop
//!     ▲                │ by itself        │ by itself
//!     │                └──► ended ◄───────┘      as its journal says; `cancelled` only if it was asked to stop
//!     └──forgotten────────────┘
//!               live ◄── redrive ── dead ◄──► edit
//!                                   dead ── discard ──► discarded
//! ```
//!
//! - A start begins a run that is absent, finds the one of its workflow and input, and is refused
//!   by any other.
//! - A cancel is acknowledged while the run lives. It is a request: the run may complete or die all
//!   the same. Its journal holds it, though, whatever comes after.
//! - What operators do with a dead letter is in its journal, in its order, each request once:
//!   one that was acknowledged is the journal's next one, or has been done. One that was refused
//!   because the run is no dead letter, is none then.
//! - An outcome once told never changes, unless the run is redriven: each of its lives has its own.
//! - A run is forgotten once, after its end: between the moment at which the engine gave that to
//!   the disk and the one at which it was durable (`retention` has an eye on engine time). From
//!   then on nobody knows it, and a start begins another.
//! - The journal is the last to be asked, and must fit the order too: so a call that was
//!   acknowledged and forgotten shows.
//! - A call without an answer may have taken effect at any time since, or never. One that was
//!   answered may have gone out over more than one connection: it may have taken effect while it
//!   was under way *before* the copy that was answered came in (a start is told that it found the
//!   run that it began itself), and where the network repeats frames late, also afterwards.

mod search;
mod story;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use stepwell::model::dead::AuditAction;
use stepwell::model::entry::Entry;
use stepwell::model::id::{RequestId, RunId};
use stepwell::model::payload::Payload;
use stepwell::model::request::Refusal;
use stepwell::model::run::{Outcome, OutcomeDead, RunState};

use self::search::{Op, SearchItem, SearchVerdict};
use super::Findings;
use crate::client_log::{Answer, Asked, Call, Calls, Forgotten, run_id};
use crate::durable::{Durable, DurableRun};
use crate::plan::Settings;

const NAME: &str = "an order of the calls explains the answers";

/// What the checker did, for the report.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// Calls that were explained.
    pub(crate) calls: u64,
    /// Of these, how many have no answer.
    pub(crate) unknown: u64,
    /// Runs that were forgotten, and whose calls before and after are explained.
    pub(crate) forgotten: u64,
    /// Runs whose calls have too many orders to try them all.
    pub(crate) given_up: u64,
}

pub(super) fn at_the_end(
    durable: &Durable,
    calls: &Calls,
    settings: &Settings,
    findings: &mut Findings<'_>,
) -> Checked {
    let mut checked = Checked::default();
    let repeats = settings.late_copies_per_mille > 0 || settings.duplicates_per_mille > 0;
    // A name means another run once the first has outlived its retention.
    let mut lives: BTreeMap<RunId, (Vec<Held>, Vec<Forgotten>)> = BTreeMap::new();
    for (no, run) in &durable.runs {
        let Some((held, started)) = Held::of(run).zip(run.started()) else {
            continue;
        };
        let of_id = lives.entry(started.id).or_default();
        of_id.0.push(held);
        of_id.1.extend(calls.forgotten.get(no));
    }
    let forgotten_runs = &calls.forgotten;
    for (name, calls) in &calls.of {
        let (lives, forgotten) = lives.remove(&run_id(name)).unwrap_or_default();
        let forgotten_count = forgotten.len() as u64;
        let forgets = !forgotten_runs.is_empty();
        let history = CallHistory::new(calls.clone(), (lives, forgotten), (repeats, forgets));
        match history.verdict() {
            SearchVerdict::Explained => {
                checked.forgotten += forgotten_count;
                let unknown = |call: &&Call| call.answer == Answer::Unknown;
                checked.calls += calls.len() as u64;
                checked.unknown += calls.iter().filter(unknown).count() as u64;
            }
            SearchVerdict::Unexplained => findings.report(NAME, history.story(name)),
            SearchVerdict::GivenUp => checked.given_up += 1,
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
    /// What operators did: the entry, the request id, and what.
    acts: Vec<(u32, RequestId, AuditAction)>,
    /// How each life ended, and with which entry; the last one perhaps not.
    ends: Vec<Option<(u32, Outcome)>>,
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
            acts: acts_of(run),
            ends: ends_of(run),
        })
    }

    /// Which life of the run it is after so many requests of operators.
    fn life_after(&self, acts: u32) -> usize {
        let redrive = |act: &&(u32, RequestId, AuditAction)| act.2 == AuditAction::Redrive;
        let done = self.acts.iter().take(acts as usize);
        done.filter(redrive).count()
    }

    fn end_after(&self, acts: u32) -> Option<&(u32, Outcome)> {
        self.ends.get(self.life_after(acts))?.as_ref()
    }

    fn is_discarded_after(&self, acts: u32) -> bool {
        let last = acts.checked_sub(1).and_then(|at| self.acts.get(at as usize));
        last.is_some_and(|act| act.2 == AuditAction::Discard)
    }

    /// How many entries its journal has when it has ended, after so many requests of operators.
    fn entries_after(&self, acts: u32) -> u32 {
        let act = acts.checked_sub(1).and_then(|at| self.acts.get(at as usize));
        match act.filter(|act| act.2 != AuditAction::Redrive) {
            Some((index, ..)) => index + 1,
            None => self.end_after(acts).map_or(self.entries, |(index, _)| index + 1),
        }
    }

    fn place_of(&self, request_id: RequestId) -> Option<u32> {
        let at = self.acts.iter().position(|act| act.1 == request_id)?;
        Some(at as u32)
    }
}

fn acts_of(run: &DurableRun) -> Vec<(u32, RequestId, AuditAction)> {
    let act = |(index, entry): (u32, &Entry)| match entry {
        Entry::Redriven(e) => Some((index, e.request_id, AuditAction::Redrive)),
        Entry::InputEdited(e) => Some((index, e.request_id, AuditAction::Edit)),
        Entry::Discarded(e) => Some((index, e.request_id, AuditAction::Discard)),
        _ => None,
    };
    (0..).zip(&run.entries).filter_map(act).collect()
}

fn ends_of(run: &DurableRun) -> Vec<Option<(u32, Outcome)>> {
    let mut ends = vec![None];
    for (index, entry) in (0..).zip(&run.entries) {
        let end: Option<Outcome> = match entry {
            Entry::Redriven(_) => {
                ends.push(None);
                continue;
            }
            Entry::Died(e) => {
                let failure = e.failure.clone();
                Some(OutcomeDead { failure }.into())
            }
            Entry::Completed(_) | Entry::Cancelled(_) => run.outcome(),
            _ => continue,
        };
        if let Some(last) = ends.last_mut() {
            *last = end.map(|end| (index, end));
        }
    }
    ends
}

/// The calls about one run, and what became of it.
#[derive(Debug, Clone)]
struct CallHistory {
    calls: Vec<Call>,
    /// The runs that had the name, one after the other, as their journals hold them in the end.
    lives: Vec<Held>,
    /// When they were forgotten; only the last may not have been.
    forgotten: Vec<Forgotten>,
    /// What the starts ask for, each once. A run began as one of them.
    kinds: Vec<(String, Payload)>,
    /// The network repeats frames, also after their answers.
    repeats: bool,
    /// Runs were forgotten in this world, of this name or another.
    forgets: bool,
}

/// A run as the model knows it. Invariant: nothing but a redrive leads back from `Ended` to `Live`,
/// and to `Absent` only the forgetting of a run that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum RunModel {
    /// So many runs of the name have been forgotten.
    Absent(usize),
    Live(RunLife),
    /// Its outcome is what the journal says.
    Ended(RunLife),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct RunLife {
    /// Which run of the name it is.
    nth: usize,
    /// What it was started as: one of the history's kinds.
    kind: usize,
    /// It was asked to stop.
    asked: bool,
    /// Its delay is not known to be over.
    delayed: bool,
    /// Its journal holds this much at least.
    entries: u32,
    /// How many requests of operators have been done.
    acts: u32,
}

impl CallHistory {
    fn new(
        calls: Vec<Call>,
        (lives, forgotten): (Vec<Held>, Vec<Forgotten>),
        (repeats, forgets): (bool, bool),
    ) -> Self {
        let mut kinds: Vec<(String, Payload)> = Vec::new();
        for call in &calls {
            if let Asked::Start { workflow, input, .. } = &call.asked
                && !kinds.iter().any(|(w, i)| w == workflow && i == input)
            {
                kinds.push((workflow.clone(), input.clone()));
            }
        }
        Self { calls, lives, forgotten, kinds, repeats, forgets }
    }

    fn verdict(&self) -> SearchVerdict {
        search::verdict(self, &self.ops(u64::MAX))
    }

    /// How this life of the run ended, if it did.
    fn end(&self, life: RunLife) -> Option<&Outcome> {
        let (_, outcome) = self.journal_of(life)?.end_after(life.acts)?;
        Some(outcome)
    }

    fn journal_of(&self, life: RunLife) -> Option<&Held> {
        self.lives.get(life.nth)
    }

    /// The state of a run that has ended.
    fn end_state(&self, life: RunLife) -> Option<RunState> {
        let discarded = self.journal_of(life)?.is_discarded_after(life.acts);
        let end = state_of(self.end(life)?);
        Some(if discarded { RunState::Discarded } else { end })
    }

    /// Does the journal's next operator request, if that is `request_id`.
    fn act(&self, request_id: RequestId, life: RunLife) -> Option<RunModel> {
        let held = self.journal_of(life)?;
        let dead = self.end_state(life) == Some(RunState::Dead);
        if !dead || held.place_of(request_id)? != life.acts {
            return None;
        }
        let (index, _, kind) = held.acts[life.acts as usize];
        let acts = life.acts + 1;
        Some(match kind {
            AuditAction::Redrive => RunModel::Live(RunLife { acts, entries: index + 1, ..life }),
            _ => RunModel::Ended(RunLife { acts, ..life }),
        })
    }

    /// Whether the request has been carried out.
    fn has_acted(&self, request_id: RequestId, life: RunLife) -> bool {
        let place = self.journal_of(life).and_then(|held| held.place_of(request_id));
        place.is_some_and(|place| place < life.acts)
    }

    fn kind_of(&self, workflow: &str, input: &Payload) -> Option<usize> {
        let same = |(w, i): &(String, Payload)| w == workflow && i == input;
        self.kinds.iter().position(same)
    }

    /// The state and what it may have become by itself.
    fn with_time(&self, state: RunModel) -> impl Iterator<Item = RunModel> {
        let live = match state {
            RunModel::Live(life) => Some(life),
            _ => None,
        };
        let ended = live.filter(|life| match self.end(*life) {
            Some(Outcome::OutcomeCancelled(_)) => life.asked,
            end => end.is_some(),
        });
        std::iter::once(state).chain(ended.map(RunModel::Ended))
    }

    /// What an operation may make of a state; nothing if it cannot have happened then.
    fn after(&self, op: &Op, state: RunModel) -> Vec<RunModel> {
        let states = self.with_time(state);
        match op.what {
            SearchItem::Journal => states.filter(|state| self.is_held(*state)).collect(),
            SearchItem::Forgotten(nth) => {
                states.filter_map(|state| self.forgotten(nth, state)).collect()
            }
            SearchItem::Call(call) if op.answered => {
                states.filter_map(|state| self.answered(&self.calls[call], state)).collect()
            }
            SearchItem::Call(call) => {
                states.filter_map(|state| self.unanswered(&self.calls[call], state)).collect()
            }
        }
    }

    /// Whether the journal may say this in the end.
    fn is_held(&self, state: RunModel) -> bool {
        let last = |life: RunLife| life.nth + 1 == self.lives.len() && self.is(life);
        match state {
            RunModel::Absent(forgotten) => forgotten == self.lives.len(),
            RunModel::Live(life) => last(life) && self.end(life).is_none(),
            RunModel::Ended(life) => last(life) && self.end(life).is_some(),
        }
    }

    /// The run of this number is forgotten: it has ended, as its journal says.
    fn forgotten(&self, nth: usize, state: RunModel) -> Option<RunModel> {
        match state {
            RunModel::Ended(life) if life.nth == nth && self.is(life) => {
                Some(RunModel::Absent(nth + 1))
            }
            _ => None,
        }
    }

    /// Whether its journal is one of such a life.
    fn is(&self, life: RunLife) -> bool {
        let Some(held) = self.lives.get(life.nth) else {
            return false;
        };
        self.kind_of(&held.workflow, &held.input) == Some(life.kind)
            && held.asked == life.asked
            && held.entries >= life.entries
            && held.acts.len() as u32 == life.acts
    }

    /// A copy of a call has its effect, unseen. None where it has none.
    fn unanswered(&self, call: &Call, state: RunModel) -> Option<RunModel> {
        match (&call.asked, state) {
            (Asked::Start { .. }, RunModel::Absent(nth)) => self.begun(call, nth),
            (Asked::Cancel, RunModel::Live(life)) if !life.asked => {
                Some(RunModel::Live(RunLife { asked: true, ..life }))
            }
            (Asked::Operate { request_id, .. }, RunModel::Ended(life)) => {
                self.act(*request_id, life)
            }
            _ => None,
        }
    }

    fn begun(&self, call: &Call, nth: usize) -> Option<RunModel> {
        let Asked::Start { workflow, input, delayed } = &call.asked else {
            return None;
        };
        let kind = self.kind_of(workflow, input)?;
        let (delayed, asked, entries) = (*delayed, false, 1);
        Some(RunModel::Live(RunLife { nth, kind, asked, delayed, entries, acts: 0 }))
    }

    /// A call is answered as it was: what the state becomes, if it is one in which this answer is
    /// right.
    fn answered(&self, call: &Call, state: RunModel) -> Option<RunModel> {
        let ended = |told: RunState| match state {
            RunModel::Ended(life) => (self.end_state(life) == Some(told)).then_some(state),
            _ => None,
        };
        let mine = || self.begun(call, 0)?.life().map(|life| life.kind);
        match (&call.asked, &call.answer) {
            (_, Answer::Refused(refusal)) => match refusal {
                Refusal::NoSuchRun(_) if !matches!(call.asked, Asked::Start { .. }) => {
                    matches!(state, RunModel::Absent(_)).then_some(state)
                }
                Refusal::IdTaken(_) => (state.life()?.kind != mine()?).then_some(state),
                Refusal::HasEnded(refusal) if call.asked == Asked::Cancel => ended(refusal.state),
                Refusal::NotResumable(refusal) if call.asked == Asked::Resume => {
                    match refusal.state {
                        RunState::Parked | RunState::Paused => None,
                        told if told.is_final() => ended(told),
                        told => self.lives_as(told, state),
                    }
                }
                Refusal::NotDead(refusal) => {
                    let Asked::Operate { request_id, .. } = &call.asked else {
                        return None;
                    };
                    let acted = self.has_acted(*request_id, state.life()?);
                    match refusal.state {
                        _ if acted => None,
                        RunState::Dead => None,
                        told if told.is_final() => ended(told),
                        told => self.lives_as(told, state),
                    }
                }
                Refusal::WentOn(_) => ended(RunState::Dead),
                refusal => is_at_fault(refusal).then_some(state),
            },
            (Asked::Operate { request_id, .. }, Answer::Done) => match state {
                _ if self.has_acted(*request_id, state.life()?) => Some(state),
                RunModel::Ended(life) => self.act(*request_id, life),
                _ => None,
            },
            (Asked::Start { .. }, Answer::Started(true)) => match state {
                RunModel::Absent(nth) => self.begun(call, nth),
                RunModel::Live(_) | RunModel::Ended(_) => None,
            },
            (Asked::Start { .. }, Answer::Started(false)) => {
                (state.life()?.kind == mine()?).then_some(state)
            }
            (Asked::Cancel, Answer::Done) => match state {
                RunModel::Live(life) => Some(RunModel::Live(RunLife { asked: true, ..life })),
                RunModel::Absent(_) | RunModel::Ended(_) => None,
            },
            (Asked::Resume, Answer::Done) => matches!(state, RunModel::Live(_)).then_some(state),
            (Asked::Outcome { waits }, Answer::Outcome(outcome)) => match outcome {
                Outcome::OutcomePending(_) if *waits => None,
                Outcome::OutcomePending(pending) => self.lives_as(pending.state, state),
                told => match state {
                    RunModel::Ended(life) if self.end(life) == Some(told) => Some(state),
                    _ => None,
                },
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
    fn lives_as(&self, told: RunState, state: RunModel) -> Option<RunModel> {
        let RunModel::Live(life) = state else {
            return None;
        };
        match told {
            RunState::Delayed => (life.delayed && life.entries == 1).then_some(state),
            told if told.is_final() => None,
            _ => Some(RunModel::Live(RunLife { delayed: false, ..life })),
        }
    }

    /// Journals never get shorter, and one that has ended never longer.
    fn has_grown(&self, workflow: &str, entries: u32, state: RunModel) -> Option<RunModel> {
        let life = state.life()?;
        let ends_with = self.journal_of(life).map_or(0, |held| match state {
            RunModel::Ended(life) => held.entries_after(life.acts),
            _ => held.end_after(life.acts).map_or(held.entries, |(at, _)| at + 1),
        });
        let fits = match state {
            RunModel::Ended(_) => entries == ends_with,
            _ => (life.entries..=ends_with).contains(&entries),
        };
        if !fits || self.kinds[life.kind].0 != workflow {
            return None;
        }
        Some(match state {
            RunModel::Live(life) => RunModel::Live(RunLife { entries, ..life }),
            other => other,
        })
    }
}

impl RunModel {
    fn life(self) -> Option<RunLife> {
        match self {
            Self::Absent(_) => None,
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
