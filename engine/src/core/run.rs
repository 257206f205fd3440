//! What the core knows of a run: its header and a fold over its journal.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use super::unique::HeldKey;
use crate::canary::canary;
use crate::model::batch::BatchNo;
use crate::model::chain;
use crate::model::dead::{UNREGISTERED_WORKFLOW, WORKER_LOST};
use crate::model::entry::{Died, Entry, FunctionEnd, Started};
use crate::model::id::{CommandIndex, Namespace, RequestId, RunId, RunNo};
use crate::model::payload::Payload;
use crate::model::run::{Outcome, OutcomeCancelled, OutcomeCompleted, OutcomeDead, RunState};
use crate::model::time::Time;
use crate::numbered::Undecodable;
use crate::tables::StoppedRecord;

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
    open: BTreeMap<CommandIndex, OpenCommand>,
}

impl Commands {
    /// Whether the command has an outcome.
    pub fn is_resolved(&self, number: CommandIndex) -> bool {
        number.0 < self.resolved_below || self.resolved.contains(&number.0)
    }

    /// What is known of a command without an outcome.
    pub fn open(&self, number: CommandIndex) -> Option<&OpenCommand> {
        self.open.get(&number)
    }

    /// Timers that are armed, with their instants.
    pub fn timers(&self) -> impl Iterator<Item = (CommandIndex, Time)> + '_ {
        self.open.iter().filter_map(|(number, open)| Some((*number, open.due?)))
    }

    /// The instants at which something may happen by itself, in order. Not all of them are waited
    /// for: the future of a timer or a backoff may have been dropped.
    pub fn instants(&self) -> BTreeSet<Time> {
        self.open.values().flat_map(|open| open.due.into_iter().chain(open.retry_at)).collect()
    }

    /// Its outcome is superseded: it may have another one.
    fn unresolve(&mut self, number: CommandIndex) {
        if number.0 < self.resolved_below {
            self.resolved.extend(number.0 + 1..self.resolved_below);
            self.resolved_below = number.0;
        } else {
            self.resolved.remove(&number.0);
        }
    }

    /// All that has no outcome is tried as if for the first time. Timers stay armed.
    fn begin_anew(&mut self) {
        self.open.retain(|_, open| {
            let due = open.due;
            *open = OpenCommand { due, ..OpenCommand::default() };
            due.is_some()
        });
    }

    fn resolve(&mut self, number: CommandIndex) {
        assert!(!self.is_resolved(number), "S1: command {number} has one outcome");
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

/// A run as the core holds it while it is leased or being looked at.
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
    /// Only workers that offer all of these get it.
    pub tags: Vec<String>,
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
    /// Its death, while it is one.
    pub death: Option<Death>,
    /// Whether somebody took it off the list of dead letters.
    pub discarded: bool,
    /// Failed steps that are not superseded: the entry and the step of each.
    pub failed: Vec<(u32, CommandIndex)>,
    /// The entry behind the last one that was the first about its command.
    pub first_told: u32,
    /// How often it was redriven.
    pub redriven: u32,
    /// Whether its input was edited.
    pub edited: bool,
    /// The operator requests that changed it: each takes effect once.
    pub acts: Vec<RequestId>,
    /// Commands below this number have been told of.
    told_below: u32,
    /// The XXH3-128 hash of its input, to tell whether another start asks for the same.
    pub input_hash: u128,
    /// The unique key it holds; what is read of a run holds it only if the key's row says so.
    pub unique: Option<HeldKey>,
    /// The batch it belongs to, unless that had ended when it was redriven.
    pub batch: Option<BatchNo>,
    /// Entry 0 as stored, while it is the only one and the run has not left memory: it need not be
    /// read to be dispatched.
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
            tags: started.tags.clone(),
            generation,
            next: 0,
            chain: chain::root(started.id),
            commands: Commands::default(),
            started_at: started.at,
            changed_at: started.at,
            not_before: started.not_before,
            cancel_requested: false,
            ended: None,
            death: None,
            discarded: false,
            failed: Vec::new(),
            first_told: 0,
            redriven: 0,
            edited: false,
            acts: Vec::new(),
            told_below: 0,
            input_hash: hash_of(&started.input),
            unique: HeldKey::of(&started.workflow, started.unique.as_ref()),
            batch: started.batch,
            first: None,
        }
    }

    /// Folds one more entry into what is known.
    pub fn apply(&mut self, entry: &Entry) {
        let index = self.next;
        self.next += 1;
        self.changed_at = entry.at();
        self.acts.extend(entry.act());
        if let Some(number) = entry.number().filter(|number| *number != CommandIndex::FUNCTION)
            && number.0 >= self.told_below
        {
            (self.told_below, self.first_told) = (number.0 + 1, self.next);
        }
        match entry {
            Entry::Started(_) => {}
            Entry::StepCompleted(e) => self.commands.resolve(e.number),
            Entry::StepFailed(e) => {
                self.commands.resolve(e.number);
                self.failed.push((index, e.number));
            }
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
                self.ended = Some(OutcomeCompleted { output: e.output.clone() }.into());
            }
            Entry::Died(e) => {
                self.death = Some(Death::of(index, e));
                self.ended = Some(OutcomeDead { failure: e.failure.clone() }.into())
            }
            Entry::Cancelled(_) => self.ended = Some(OutcomeCancelled {}.into()),
            Entry::Redriven(e) => self.redrive(e.from, e.rejoins),
            Entry::InputEdited(_) => self.edited = true,
            Entry::Discarded(_) => self.discarded = true,
        }
    }

    /// Takes back what a redrive supersedes.
    fn redrive(&mut self, from: u32, rejoins: bool) {
        let kept = self.failed.partition_point(|(index, _)| *index < from);
        for (_, number) in self.failed.drain(kept..) {
            self.commands.unresolve(number);
        }
        if canary!("a redrive runs finished steps again") {
            self.commands = Commands::default();
        }
        self.commands.begin_anew();
        (self.ended, self.death) = (None, None);
        self.batch = self.batch.filter(|_| rejoins);
        self.redriven += 1;
    }

    /// Whether it is on the list of dead letters.
    pub fn is_dead_letter(&self) -> bool {
        self.death.is_some() && !self.discarded
    }

    /// Whether `entry` may be the next one. Nothing follows the end but what operators do with a
    /// dead letter.
    pub fn may_go_on_with(&self, entry: &Entry) -> bool {
        match entry {
            Entry::Redriven(_) | Entry::InputEdited(_) | Entry::Discarded(_) => {
                self.is_dead_letter()
            }
            Entry::Started(_) | Entry::StepCompleted(_) | Entry::StepFailed(_) | Entry::AttemptFailed(_) | Entry::TimerArmed(_) | Entry::TimerFired(_) | Entry::CancelRequested(_) | Entry::Completed(_) | Entry::Died(_) | Entry::Cancelled(_) => self.ended.is_none(),
        }
    }

    /// From which entry on a redrive supersedes failed steps, or the step after whose failure the
    /// workflow went on.
    ///
    /// The worker that ran the function has said how it came to its end. Deaths that older versions
    /// recorded do not tell: then the journal is gone by, which knows of a command only once
    /// something has become of it.
    pub fn redrive_from(&self) -> Result<u32, CommandIndex> {
        let Some(death) = self.death else {
            return Ok(self.next);
        };
        match death.end {
            Some(end) => match (end.went_on, end.failed_at) {
                (Some(step), _) => Err(step),
                (None, Some(failed_at)) => Ok(failed_at.min(death.index)),
                (None, None) => Ok(death.index),
            },
            None if death.by_engine => Ok(death.index),
            None => {
                let last = self.failed.iter().find(|(at, _)| *at + 1 >= self.first_told);
                match (last, self.failed.last()) {
                    (Some((at, _)), _) => Ok(*at),
                    (None, Some((_, step))) => Err(*step),
                    (None, None) => Ok(death.index),
                }
            }
        }
    }

    /// The final state, if it has ended.
    pub fn ended_state(&self) -> Option<RunState> {
        match self.ended.as_ref()? {
            Outcome::OutcomeCompleted(_) => Some(RunState::Completed),
            Outcome::OutcomeDead(_) if self.discarded => Some(RunState::Discarded),
            Outcome::OutcomeDead(_) => Some(RunState::Dead),
            Outcome::OutcomeCancelled(_) => Some(RunState::Cancelled),
            Outcome::OutcomePending(_) => None,
        }
    }
}

/// A death that nothing has superseded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Death {
    /// Its entry.
    pub index: u32,
    /// When.
    pub at: Time,
    /// How the function came to it, if it did.
    pub end: Option<FunctionEnd>,
    /// Whether the engine ended the run, and not its function.
    pub by_engine: bool,
}

impl Death {
    fn of(index: u32, died: &Died) -> Self {
        let class = died.failure.class.as_str();
        Self {
            index,
            at: died.at,
            end: died.end,
            by_engine: died.end.is_none() && matches!(class, WORKER_LOST | UNREGISTERED_WORKFLOW),
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
        Self { no, generation, run: None }
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
                self.run.insert(Run::new(self.no, self.generation, &started))
            }
        };
        let (entry, sealed) = chain::open(run.chain, stored)?;
        if !run.may_go_on_with(&entry) {
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
            return Err(Undecodable::Damaged { what: "a journal", cause });
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
