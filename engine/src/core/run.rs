//! What the core knows of a run: its header and a fold over its journal.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use super::unique::HeldKey;
use crate::canary::canary;
use crate::keys::StoppedRecord;
use crate::model::batch::BatchNo;
use crate::model::chain;
use crate::model::entry::{Entry, Started};
use crate::model::id::{Namespace, RunId, RunNo, StepNo};
use crate::model::payload::Payload;
use crate::model::run::{Outcome, OutcomeCancelled, OutcomeCompleted, OutcomeDead, RunState};
use crate::model::time::Time;
use crate::numbered::Undecodable;

/// A command that has entries but no outcome yet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OpenCommand {
    /// Attempts that have failed.
    pub attempts: u32,
    /// How many of them used up a retry (or the first try).
    pub counted: u32,
    /// When the first one failed.
    pub first_failed_at: Time,
    /// When it may be tried again.
    pub retry_at: Option<Time>,
    /// When its timer is due.
    pub due: Option<Time>,
}

/// Which commands have an outcome, and what is known of those that have none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Commands {
    /// All numbers below this one have an outcome.
    resolved_below: u32,
    resolved: BTreeSet<u32>,
    open: BTreeMap<StepNo, OpenCommand>,
}

impl Commands {
    /// Whether the command has an outcome.
    pub fn is_resolved(&self, number: StepNo) -> bool {
        number.0 < self.resolved_below || self.resolved.contains(&number.0)
    }

    /// What is known of a command without an outcome.
    pub fn open(&self, number: StepNo) -> Option<&OpenCommand> {
        self.open.get(&number)
    }

    /// Timers that are armed, with their instants.
    pub fn timers(&self) -> impl Iterator<Item = (StepNo, Time)> + '_ {
        self.open
            .iter()
            .filter_map(|(number, open)| Some((*number, open.due?)))
    }

    /// The instants at which something may happen by itself, in order. Not all of them are waited for: the future of
    /// a timer or a backoff may have been dropped.
    pub fn instants(&self) -> BTreeSet<Time> {
        self.open
            .values()
            .flat_map(|open| open.due.into_iter().chain(open.retry_at))
            .collect()
    }

    fn resolve(&mut self, number: StepNo) {
        assert!(
            !self.is_resolved(number),
            "S1: command {number} has one outcome"
        );
        self.open.remove(&number);
        if number.0 == self.resolved_below {
            self.resolved_below += 1;
            while self.resolved.remove(&self.resolved_below) {
                self.resolved_below += 1;
            }
        } else {
            self.resolved.insert(number.0);
        }
    }
}

/// A run as the core holds it while it is granted or being looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its number.
    pub no: RunNo,
    /// Its id.
    pub id: RunId,
    /// The name it was given.
    pub name: Option<String>,
    /// Whose it is.
    pub namespace: Namespace,
    /// Its workflow.
    pub workflow: String,
    /// Its queue's name.
    pub queue: String,
    /// Its priority.
    pub priority: u8,
    /// Where its journal is.
    pub generation: u32,
    /// The index of the next entry: how many there are.
    pub next: u32,
    /// The chain after the last entry.
    pub chain: u64,
    /// Its commands.
    pub commands: Commands,
    /// When it was started.
    pub started_at: Time,
    /// When its last entry was written.
    pub changed_at: Time,
    /// Not before this instant.
    pub not_before: Option<Time>,
    /// Whether a cancel request is in its journal.
    pub cancel_requested: bool,
    /// How it ended.
    pub ended: Option<Outcome>,
    /// The XXH3-128 hash of its input, to tell whether another start asks for the same.
    pub input_hash: u128,
    /// The unique key it holds; what is read of a run holds it only if the key's row says so.
    pub unique: Option<HeldKey>,
    /// The batch it belongs to.
    pub batch: Option<BatchNo>,
    /// Entry 0 as stored, while it is the only one and the run has not left memory: it need not be read to be handed out.
    pub first: Option<bytes::Bytes>,
}

impl Run {
    /// A run with an empty journal; `started` is yet to be appended.
    pub fn new(no: RunNo, generation: u32, started: &Started) -> Self {
        Self {
            no,
            id: started.id,
            name: started.name.clone(),
            namespace: started.namespace,
            workflow: started.workflow.clone(),
            queue: started.queue.clone(),
            priority: started.priority,
            generation,
            next: 0,
            chain: chain::root(started.id),
            commands: Commands::default(),
            started_at: started.at,
            changed_at: started.at,
            not_before: started.not_before,
            cancel_requested: false,
            ended: None,
            input_hash: hash_of(&started.input),
            unique: HeldKey::of(&started.workflow, started.unique.as_ref()),
            batch: started.batch,
            first: None,
        }
    }

    /// Folds one more entry into what is known.
    pub fn apply(&mut self, entry: &Entry) {
        self.next += 1;
        self.changed_at = entry.at();
        match entry {
            Entry::Started(_) => {}
            Entry::StepCompleted(e) => self.commands.resolve(e.number),
            Entry::StepFailed(e) => self.commands.resolve(e.number),
            Entry::TimerFired(e) => self.commands.resolve(e.number),
            Entry::AttemptFailed(e) => {
                let open = self.commands.open.entry(e.number).or_default();
                if open.attempts == 0 {
                    open.first_failed_at = e.at;
                }
                open.attempts = e.attempt;
                if canary!("retries are counted anew") {
                    open.counted = 0;
                }
                open.counted += u32::from(e.counted);
                open.retry_at = Some(e.retry_at);
            }
            Entry::TimerArmed(e) => {
                self.commands.open.entry(e.number).or_default().due = Some(e.due)
            }
            Entry::CancelRequested(_) => {
                self.cancel_requested = true;
                self.commands.open.clear();
            }
            Entry::Completed(e) => {
                self.ended = Some(
                    OutcomeCompleted {
                        output: e.output.clone(),
                    }
                    .into(),
                );
            }
            Entry::Died(e) => {
                self.ended = Some(
                    OutcomeDead {
                        failure: e.failure.clone(),
                    }
                    .into(),
                )
            }
            Entry::Cancelled(_) => self.ended = Some(OutcomeCancelled {}.into()),
        }
    }

    /// The final state, if it has ended.
    pub fn ended_state(&self) -> Option<RunState> {
        match self.ended.as_ref()? {
            Outcome::OutcomeCompleted(_) => Some(RunState::Completed),
            Outcome::OutcomeDead(_) => Some(RunState::Dead),
            Outcome::OutcomeCancelled(_) => Some(RunState::Cancelled),
            Outcome::OutcomePending(_) => None,
        }
    }
}

/// The hash by which two inputs are taken for the same.
pub fn hash_of(input: &Payload) -> u128 {
    twox_hash::XxHash3_128::oneshot(&input.0)
}

/// Folds a journal, checking its chain.
#[derive(Debug)]
pub struct RunFold {
    no: RunNo,
    generation: u32,
    run: Option<Run>,
}

impl RunFold {
    /// A fold over the journal of `no`.
    pub fn new(no: RunNo, generation: u32) -> Self {
        Self {
            no,
            generation,
            run: None,
        }
    }

    /// Takes the next stored entry.
    pub fn push(&mut self, stored: &[u8]) -> Result<(), Undecodable> {
        let run = match &mut self.run {
            Some(run) => run,
            None => {
                let damaged = |cause: &str| Undecodable::Damaged {
                    what: "a journal",
                    cause: cause.to_owned(),
                };
                let body = stored
                    .split_last_chunk::<{ chain::CHAIN_BYTES }>()
                    .ok_or(Undecodable::Empty)?
                    .0;
                let Entry::Started(started) = Entry::decode(body)? else {
                    return Err(damaged("its first entry is not the start"));
                };
                self.run
                    .insert(Run::new(self.no, self.generation, &started))
            }
        };
        let (entry, sealed) = chain::open(run.chain, stored)?;
        if run.ended.is_some() {
            return Err(Undecodable::Damaged {
                what: "a journal",
                cause: "an entry follows its end".to_owned(),
            });
        }
        if let Some(number) = entry.number()
            && matches!(
                entry,
                Entry::StepCompleted(_) | Entry::StepFailed(_) | Entry::TimerFired(_)
            )
            && run.commands.is_resolved(number)
        {
            let cause = format!("command {number} has two outcomes");
            return Err(Undecodable::Damaged {
                what: "a journal",
                cause,
            });
        }
        run.apply(&entry);
        run.chain = sealed;
        Ok(())
    }

    /// The run, if there was a journal.
    pub fn finish(self) -> Option<Run> {
        self.run
    }
}

/// What a read of a run found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunImage {
    /// The run.
    pub run: Run,
    /// Why it is stopped, if it is.
    pub stopped: Option<StoppedRecord>,
    /// Until when it sleeps, if it does: the instant of its stored timer.
    pub sleeps: Option<Time>,
}
