//! What is durable, as it follows from the batches that were committed: the engine's records, read.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use stepwell::QueueSettings;
use stepwell::keys::applied_request::AppliedRequestRecord;
use stepwell::keys::batch::{self, BatchRecord};
use stepwell::keys::memo::{self, MemoRecord};
use stepwell::keys::unique::UniqueRecord;
use stepwell::keys::{
    self, AuditRecord, Family, IndexRecord, LeaseRecord, Mark, MovedRecord, PoolRecord,
    QueueRecord, QueuedRecord, Record, ScheduleRecord, ScheduleState, StoppedRecord, Tally,
    TimerRecord, journal,
};
use stepwell::model::batch::{BatchNo, batch_hash};
use stepwell::model::calendar::Calendar;
use stepwell::model::chain;
use stepwell::model::dead::Superseded;
use stepwell::model::entry::{Entry, Started};
use stepwell::model::id::{CommandIndex, Namespace, RequestId, RunId, RunNo, Token};
use stepwell::model::payload::Payload;
use stepwell::model::run::{Outcome, OutcomeCancelled, OutcomeCompleted, OutcomeDead, RunState};
use stepwell::model::time::Time;
use stepwell_storage::{Op, Row, Space};

use crate::state_rows::{self, StateRows};

/// A run's journal.
#[derive(Debug, Clone, Default)]
pub(crate) struct DurableRun {
    /// As stored, with their chain.
    pub(crate) stored: Vec<Bytes>,
    pub(crate) entries: Vec<Entry>,
    /// Where its journal is.
    pub(crate) generation: u32,
    chain: u64,
}

impl DurableRun {
    /// Entry 0.
    pub(crate) fn started(&self) -> Option<&Started> {
        match self.entries.first() {
            Some(Entry::Started(started)) => Some(started),
            _ => None,
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.entries.last().is_some_and(Entry::ends)
    }

    /// Whether it was cancelled before it was ever dispatched.
    pub(crate) fn was_cancelled_in_line(&self) -> bool {
        matches!(
            &self.entries[..],
            [Entry::Started(_), Entry::CancelRequested(_), Entry::Cancelled(_)]
        )
    }

    /// The name it was started under, or its id.
    pub(crate) fn name(&self) -> String {
        self.started()
            .map(|started| started.name.clone().unwrap_or_else(|| started.id.to_string()))
            .unwrap_or_default()
    }

    /// The entry that ended it: what operators did with a dead letter since is not looked at.
    pub(crate) fn end(&self) -> Option<(usize, &Entry)> {
        let is_act = |entry: &Entry| matches!(entry, Entry::InputEdited(_) | Entry::Discarded(_));
        let at = self.entries.iter().rposition(|entry| !is_act(entry))?;
        Some((at, &self.entries[at])).filter(|(_, entry)| entry.ends())
    }

    /// When it died, if it has not been redriven since.
    pub(crate) fn died_at(&self) -> Option<Time> {
        match self.end()?.1 {
            Entry::Died(died) => Some(died.at),
            _ => None,
        }
    }

    /// Its state, if it has ended.
    pub(crate) fn state_if_ended(&self) -> Option<RunState> {
        match self.entries.last()? {
            Entry::Completed(_) => Some(RunState::Completed),
            Entry::Died(_) | Entry::InputEdited(_) => Some(RunState::Dead),
            Entry::Cancelled(_) => Some(RunState::Cancelled),
            Entry::Discarded(_) => Some(RunState::Discarded),
            _ => None,
        }
    }

    /// All outcomes that it ever had: redriven, it may have another one.
    pub(crate) fn outcomes(&self) -> Vec<Outcome> {
        let died = self.entries.iter().filter_map(|entry| match entry {
            Entry::Died(e) => Some(OutcomeDead { failure: e.failure.clone() }.into()),
            _ => None,
        });
        died.chain(self.outcome()).collect()
    }

    /// What its function gets.
    pub(crate) fn input(&self) -> Option<&Payload> {
        let edited = self.entries.iter().rev().find_map(|entry| match entry {
            Entry::InputEdited(edited) => Some(&edited.input),
            _ => None,
        });
        edited.or(self.started().map(|started| &started.input))
    }

    /// How it ended.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        match self.end()?.1 {
            Entry::Completed(e) => Some(OutcomeCompleted { output: e.output.clone() }.into()),
            Entry::Died(e) => Some(OutcomeDead { failure: e.failure.clone() }.into()),
            Entry::Cancelled(_) => Some(OutcomeCancelled {}.into()),
            _ => None,
        }
    }

    /// Whether a step or timer has its outcome.
    pub(crate) fn resolves(&self, number: CommandIndex) -> bool {
        let superseded = Superseded::of((0..).zip(&self.entries));
        (0..).zip(&self.entries).any(|(index, entry)| {
            entry.resolves() && entry.number() == Some(number) && !superseded.covers(index, entry)
        })
    }
}

/// What an operation did.
pub(crate) enum Change {
    /// An entry was added.
    Appended { run: RunNo, index: u32 },
    /// The first result of a memoized step was written or deleted.
    Memo { key_id: (Namespace, u128), before: Option<MemoRecord> },
    /// A lease was written.
    Leased { slot: u32, before: Option<LeaseRecord> },
    /// An id was given a number.
    Indexed { id: RunId, run: RunNo, before: Option<RunNo> },
    /// A run is in line.
    Queued { run: RunNo, deaths: u32 },
    /// The counters were written.
    Tallied,
    /// A queue was named, or something was set on it.
    QueueSet { queue: u32 },
    /// A place of the run changed.
    Moved { run: RunNo },
    /// An id means nothing any more.
    Forgotten { run: RunNo },
    /// A batch changed.
    Batched,
    /// One that has ended is not there any more.
    BatchForgotten { batch: BatchNo },
    /// How far a schedule is was written, or the schedule deleted.
    Scheduled { number: u32 },
    /// An operator's request about a queue or a schedule was applied.
    RequestApplied { request_id: RequestId },
    /// Nothing that is looked at.
    Other,
}

/// A position in a queue: queue number, priority, sequence.
pub(crate) type QueuePosition = (u32, u8, u64);
/// A schedule as stored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DurableSchedule {
    pub(crate) record: ScheduleRecord,
    pub(crate) state: ScheduleState,
    /// When its next occurrence is to be started; follows from the other two.
    pub(crate) due: Option<Time>,
}

impl DurableSchedule {
    fn of(record: ScheduleRecord) -> Self {
        Self { record, state: ScheduleState::default(), due: None }
    }

    fn goes_on(&mut self, state: ScheduleState) {
        let (spec, next) = (&self.record.spec, state.next);
        let calendar = || Calendar::new(&spec.when).ok();
        self.due = match next.filter(|_| state.paused_by.is_none()) {
            Some(next) if spec.jitter_ms > 0 => {
                calendar().map(|calendar| spec.due(&calendar, next))
            }
            next => next,
        };
        self.state = state;
    }
}

/// The records.
#[derive(Debug, Clone, Default)]
pub(crate) struct Durable {
    pub(crate) runs: BTreeMap<RunNo, DurableRun>,
    pub(crate) index: BTreeMap<RunId, RunNo>,
    pub(crate) leases: BTreeMap<u32, LeaseRecord>,
    /// Queued runs, by their places in line.
    pub(crate) waiting: BTreeMap<QueuePosition, QueuedRecord>,
    /// Positions that were taken or left, in order.
    pub(crate) waiting_changes: Vec<QueuePosition>,
    state_rows: StateRows,
    pub(crate) queues: BTreeMap<u32, QueueRecord>,
    pub(crate) pools: BTreeMap<u32, PoolRecord>,
    pub(crate) timers: BTreeMap<(Time, RunNo), TimerRecord>,
    pub(crate) stopped: BTreeMap<RunNo, StoppedRecord>,
    pub(crate) tally: Option<Tally>,
    /// Engine time has not passed this; and where queues and timers begin.
    pub(crate) mark: Option<Mark>,
    pub(crate) schedules: BTreeMap<u32, DurableSchedule>,
    /// Generations that the engine knows of.
    pub(crate) generations: BTreeSet<u32>,
    /// Generations that are to be dropped, and in which life of the server that was decided.
    pub(crate) doomed: BTreeMap<u32, u32>,
    /// How often the store was opened.
    pub(crate) lives: u32,
    /// Journals that were copied because they outlived their generation.
    pub(crate) moves: u64,
    /// Parts of long entries, by generation.
    parts: BTreeMap<(u32, RunNo, u32, u16), Bytes>,
    /// Journals that are being copied into another generation.
    copies: BTreeMap<(u32, RunNo), BTreeMap<u32, Bytes>>,
    /// The runs that an id was ever given to, in their order.
    named: BTreeMap<RunId, Vec<RunNo>>,
    forgotten: BTreeMap<RunNo, RunId>,
    newly_forgotten: Vec<(RunNo, RunId)>,
    /// Who holds unique keys.
    pub(crate) keys: BTreeMap<Bytes, UniqueRecord>,
    /// The first results of memoized steps.
    pub(crate) memos: BTreeMap<(Namespace, u128), MemoRecord>,
    /// Batches that have not ended, by their slots.
    pub(crate) batches: BTreeMap<u32, BatchRecord>,
    /// All that have ended, also those that are forgotten.
    pub(crate) ended_batches: BTreeMap<BatchNo, BatchRecord>,
    /// Those of them that are.
    pub(crate) forgotten_batches: BTreeSet<BatchNo>,
    /// How many runs of each batch had ended when most of them had: one that is redriven has not
    /// ended again.
    pub(crate) most_ended: BTreeMap<BatchNo, u64>,
    /// The tokens of all leases so far.
    pub(crate) tokens: BTreeSet<Token>,
    /// The list of dead letters.
    pub(crate) dead: BTreeSet<(Time, RunNo)>,
    /// What operators did.
    pub(crate) acts: BTreeMap<(Time, u64), AuditRecord>,
    /// Of these, what was recorded in the batch at hand.
    pub(crate) new_acts: BTreeMap<(Time, u64), AuditRecord>,
}

impl Durable {
    /// Takes one operation. An error if its bytes cannot be what the engine writes, or contradict
    /// what is there.
    pub(crate) fn apply(&mut self, op: &Op) -> Result<Change, String> {
        let (key, value) = (op.key(), op.value());
        let family =
            Family::from_key(key).ok_or_else(|| format!("the key {key:?} is of no family"))?;
        let short = || format!("a key of family {family:?} is too short");
        let bad = |e: stepwell::numbered::Undecodable| e.to_string();
        Ok(match family {
            Family::Journal => {
                let Space::Generation(generation) = op.space() else {
                    return Err(format!("a row of a journal is in {}", op.space()));
                };
                match value {
                    Some(value) => self.journal(generation, key, value)?,
                    None => return Err("a row of a journal was deleted".to_owned()),
                }
            }
            Family::Lease => {
                let slot = keys::slot_of(key).ok_or_else(short)?;
                match value {
                    Some(value) => {
                        let record = LeaseRecord::from_bytes(value).map_err(bad)?;
                        self.tokens.insert(record.token);
                        let run = record.run;
                        let before = self.leases.insert(slot, record);
                        self.lease_ended(before.as_ref());
                        self.state_rows.changed(run, None, Some(RunState::Running));
                        Change::Leased { slot, before }
                    }
                    None => {
                        let before = self.leases.remove(&slot);
                        self.lease_ended(before.as_ref());
                        moved(before.map(|before| before.run))
                    }
                }
            }
            Family::Index => {
                let id = indexed(key).ok_or_else(short)?;
                let Some(value) = value else {
                    let run = self.index.remove(&id);
                    let run = run.ok_or_else(|| format!("{id} was forgotten twice"))?;
                    self.forgotten.insert(run, id);
                    self.newly_forgotten.push((run, id));
                    return Ok(Change::Forgotten { run });
                };
                let run = IndexRecord::from_bytes(value).map_err(bad)?.run;
                let named = self.named.entry(id).or_default();
                if !named.contains(&run) {
                    named.push(run);
                }
                Change::Indexed { id, run, before: self.index.insert(id, run) }
            }
            Family::Queued => match value {
                Some(value) => {
                    let record = QueuedRecord::from_bytes(value).map_err(bad)?;
                    let (run, deaths) = (record.run, record.deaths);
                    let position = position_of(key).ok_or_else(short)?;
                    self.waiting_changes.push(position);
                    let before = self.waiting.insert(position, record);
                    self.left_line(before.as_ref());
                    self.state_rows.changed(run, None, Some(RunState::Queued));
                    Change::Queued { run, deaths }
                }
                None => {
                    let position = position_of(key).ok_or_else(short)?;
                    self.waiting_changes.push(position);
                    let before = self.waiting.remove(&position);
                    self.left_line(before.as_ref());
                    moved(before.map(|before| before.run))
                }
            },
            Family::Queue => {
                let queue = keys::number_of(key).ok_or_else(short)?;
                let value = value.ok_or("a queue was deleted")?;
                let record = QueueRecord::from_bytes(value).map_err(bad)?;
                self.queues.insert(queue, record);
                Change::QueueSet { queue }
            }
            Family::Pool => {
                let queue = keys::number_of(key).ok_or_else(short)?;
                let value = value.ok_or("a queue's counts were deleted")?;
                let record = PoolRecord::from_bytes(value).map_err(bad)?;
                self.pools.insert(queue, record);
                Change::Tallied
            }
            Family::Timer => {
                let at = keys::time_and_run_of(key).ok_or_else(short)?;
                let record = value.map(|value| TimerRecord::from_bytes(value));
                let record = record.transpose().map_err(bad)?;
                let after = record.as_ref().map(state_rows::timed);
                let before = match record {
                    Some(record) => self.timers.insert(at, record),
                    None => self.timers.remove(&at),
                };
                let before = before.as_ref().map(state_rows::timed);
                self.state_rows.changed(at.1, before, after);
                moved(Some(at.1))
            }
            Family::Stopped => {
                let run = keys::run_of(key).ok_or_else(short)?;
                let record = value.map(|value| StoppedRecord::from_bytes(value));
                let record = record.transpose().map_err(bad)?;
                let after = record.as_ref().map(|record| record.state);
                let before = match record {
                    Some(record) => self.stopped.insert(run, record),
                    None => self.stopped.remove(&run),
                };
                let before = before.map(|before| before.state);
                self.state_rows.changed(run, before, after);
                moved(Some(run))
            }
            Family::Tally => {
                self.tally =
                    value.map(|value| Tally::from_bytes(value)).transpose().map_err(bad)?;
                Change::Tallied
            }
            Family::Mark => {
                self.mark = value.map(|value| Mark::from_bytes(value)).transpose().map_err(bad)?;
                Change::Other
            }
            Family::Generation => {
                let generation = keys::number_of(key).ok_or_else(short)?;
                if value.is_some() {
                    self.generations.insert(generation);
                } else {
                    self.generations.remove(&generation);
                    self.doomed.insert(generation, self.lives);
                    self.nobody_is_in(generation)?;
                }
                Change::Other
            }
            Family::Dead => {
                let at = keys::time_and_run_of(key).ok_or_else(short)?;
                match value {
                    Some(_) => self.dead.insert(at),
                    None => self.dead.remove(&at),
                };
                Change::Other
            }
            Family::Audit => {
                let at = keys::audit_of(key).ok_or_else(short)?;
                match value {
                    Some(value) => {
                        let record = AuditRecord::from_bytes(value).map_err(bad)?;
                        self.acts.insert(at, record.clone());
                        self.new_acts.insert(at, record);
                    }
                    None => {
                        self.acts.remove(&at);
                    }
                }
                Change::Other
            }
            Family::Moved => {
                let run = keys::run_of(key).ok_or_else(short)?;
                if let Some(value) = value {
                    self.moved(run, MovedRecord::from_bytes(value).map_err(bad)?.generation)?;
                }
                Change::Other
            }
            Family::Unique => match value {
                Some(value) => {
                    let record = UniqueRecord::from_bytes(value).map_err(bad)?;
                    self.keys.insert(key.clone(), record);
                    Change::Other
                }
                None => {
                    self.keys.remove(key);
                    Change::Other
                }
            },
            Family::Memo => {
                let key_id = memo::from_key(key).ok_or_else(short)?;
                let before = match value {
                    Some(value) => {
                        let record = MemoRecord::from_bytes(value).map_err(bad)?;
                        self.memos.insert(key_id, record)
                    }
                    None => self.memos.remove(&key_id),
                };
                Change::Memo { key_id, before }
            }
            Family::Batch => {
                let slot = keys::slot_of(key).ok_or_else(short)?;
                match value {
                    Some(value) => {
                        let record = BatchRecord::from_bytes(value).map_err(bad)?;
                        let most = self.most_ended.entry(record.no).or_default();
                        *most = record.counts.ended().max(*most);
                        self.batches.insert(slot, record);
                    }
                    None => {
                        self.batches.remove(&slot);
                    }
                }
                Change::Batched
            }
            Family::EndedBatch => {
                if let Some(value) = value {
                    let record = BatchRecord::from_bytes(value).map_err(bad)?;
                    if self.ended_batches.insert(record.no, record).is_some() {
                        return Err("a batch ended twice".to_owned());
                    }
                    return Ok(Change::Batched);
                }
                // One of its name may have ended before it, and is forgotten.
                let is_it = |record: &&BatchRecord| {
                    batch::ended(record.namespace, batch_hash(&record.name)) == *key
                        && !self.forgotten_batches.contains(&record.no)
                };
                let mut ended = self.ended_batches.values().rev();
                let batch = ended.find(is_it).map(|record| record.no);
                let batch = batch.ok_or("a batch was forgotten that had not ended")?;
                self.forgotten_batches.insert(batch);
                Change::BatchForgotten { batch }
            }
            Family::Expiry | Family::FollowUp => Change::Other,
            Family::AppliedRequest => {
                let value = value.ok_or("an applied request was deleted")?;
                let request_id = AppliedRequestRecord::from_bytes(value).map_err(bad)?.request_id;
                Change::RequestApplied { request_id }
            }
            Family::Schedule => {
                let number = keys::number_of(key).ok_or_else(short)?;
                let Some(value) = value else {
                    self.schedules.remove(&number);
                    return Ok(Change::Scheduled { number });
                };
                let record = ScheduleRecord::from_bytes(value).map_err(bad)?;
                self.schedules.insert(number, DurableSchedule::of(record));
                Change::Other // its state follows
            }
            Family::ScheduleState => {
                let number = keys::number_of(key).ok_or_else(short)?;
                match (value, self.schedules.get_mut(&number)) {
                    (None, _) => Change::Other,
                    (Some(_), None) => {
                        return Err(format!("schedule {number} has a state and is not there"));
                    }
                    (Some(value), Some(schedule)) => {
                        schedule.goes_on(ScheduleState::from_bytes(value).map_err(bad)?);
                        Change::Scheduled { number }
                    }
                }
            }
        })
    }

    /// What is set on a queue.
    pub(crate) fn settings_of(&self, queue: u32) -> QueueSettings {
        self.queues.get(&queue).map_or_else(QueueSettings::default, |record| record.settings)
    }

    /// The queue of this name.
    pub(crate) fn queue_named(&self, name: &str) -> Option<&QueueRecord> {
        self.queues.values().find(|record| record.name == name)
    }

    /// A generation goes: all that is left in it has been forgotten.
    pub(crate) fn nobody_is_in(&self, generation: u32) -> Result<(), String> {
        let left = |(no, run): &(&RunNo, &DurableRun)| {
            run.generation == generation && !self.forgotten.contains_key(no)
        };
        match self.runs.iter().find(left) {
            Some((_, run)) => Err(format!(
                "generation {generation} is dropped with the journal of {}",
                run.name()
            )),
            None => Ok(()),
        }
    }

    /// A run's journal is in another generation from now on.
    fn moved(&mut self, no: RunNo, generation: u32) -> Result<(), String> {
        let copy = self.copies.remove(&(generation, no)).unwrap_or_default();
        let run =
            self.runs.get_mut(&no).ok_or_else(|| format!("run {no} was moved and is not there"))?;
        if run.generation == generation {
            return Ok(());
        }
        if !copy.into_iter().map(|(index, stored)| (index as usize, stored)).eq(run
            .stored
            .iter()
            .cloned()
            .enumerate())
        {
            return Err(format!(
                "the copy of run {no} in generation {generation} is not its journal"
            ));
        }
        run.generation = generation;
        self.moves += 1;
        Ok(())
    }

    /// The store is opened again.
    pub(crate) fn opens(&mut self) {
        self.lives += 1;
    }

    /// Whether this run has outlived its retention, and no other has its id.
    pub(crate) fn is_forgotten(&self, id: RunId) -> bool {
        !self.index.contains_key(&id) && self.was_forgotten(id)
    }

    /// Whether a run of this id has outlived its retention.
    pub(crate) fn was_forgotten(&self, id: RunId) -> bool {
        let numbers = self.named.get(&id);
        numbers.is_some_and(|numbers| numbers.iter().any(|no| self.forgotten.contains_key(no)))
    }

    pub(crate) fn forgotten_count(&self) -> usize {
        self.forgotten.len()
    }

    /// Those that have been since this was asked last.
    pub(crate) fn take_forgotten(&mut self) -> Vec<(RunNo, RunId)> {
        std::mem::take(&mut self.newly_forgotten)
    }

    /// All runs that are not forgotten.
    pub(crate) fn kept(&self) -> impl Iterator<Item = (&RunNo, &DurableRun)> {
        self.runs.iter().filter(|(no, _)| !self.forgotten.contains_key(no))
    }

    /// All runs of an id, also those that are forgotten.
    pub(crate) fn runs_of(&self, id: RunId) -> impl Iterator<Item = &DurableRun> {
        let numbers = self.named.get(&id).map_or(&[][..], Vec::as_slice);
        numbers.iter().filter_map(|no| self.runs.get(no))
    }

    fn journal(&mut self, generation: u32, key: &Bytes, value: &Bytes) -> Result<Change, String> {
        let (no, index, part) = journal::parts_of(key).ok_or("a key of a journal is too short")?;
        if part > 0 {
            self.parts.insert((generation, no, index, part), value.clone());
            return Ok(Change::Other);
        }
        let stored = self.join(generation, (no, index), key, value)?;
        if self.runs.get(&no).is_some_and(|run| run.generation != generation) {
            self.copies.entry((generation, no)).or_default().insert(index, stored);
            return Ok(Change::Other);
        }
        let run = self.runs.entry(no).or_default();
        run.generation = generation;
        if let Some(before) = run.stored.get(index as usize) {
            return Err(format!(
                "entry {index} of run {no} was written again{}",
                if *before == stored { "" } else { ", with other bytes" }
            ));
        }
        if index as usize != run.stored.len() {
            return Err(format!(
                "entry {index} of run {no} follows entry {}",
                run.stored.len().wrapping_sub(1)
            ));
        }
        let ended = run.state_if_ended();
        if index == 0 {
            let entry = stored
                .split_last_chunk::<{ chain::CHAIN_BYTES }>()
                .and_then(|(entry, _)| Entry::decode(entry).ok());
            let Some(Entry::Started(started)) = entry else {
                return Err(format!("run {no} does not begin with its start"));
            };
            run.chain = chain::root(started.id);
        }
        let (entry, chain) = chain::open(run.chain, &stored)
            .map_err(|e| format!("entry {index} of run {no}: {e}"))?;
        let may = match ended {
            None => entry.act().is_none(),
            Some(RunState::Dead) => entry.act().is_some(),
            Some(_) => false,
        };
        if !may {
            return Err(format!("entry {index} of run {no} follows its end: {entry:?}"));
        }
        run.chain = chain;
        run.stored.push(stored);
        run.entries.push(entry);
        Ok(Change::Appended { run: no, index })
    }

    /// An entry, of its first row and the parts that were written before it.
    fn join(
        &self,
        generation: u32,
        (no, index): (RunNo, u32),
        key: &Bytes,
        value: &Bytes,
    ) -> Result<Bytes, String> {
        let first = Row { key: key.clone(), value: value.clone() };
        let parts =
            self.parts.range((generation, no, index, 0)..=(generation, no, index, u16::MAX));
        let parts = parts.map(|((.., part), value)| Row {
            key: journal::row(no, index, *part),
            value: value.clone(),
        });
        let mut joiner = journal::Joiner::from(index);
        for row in std::iter::once(first).chain(parts) {
            if let Some(entry) = joiner.push(&row).map_err(|error| error.to_string())? {
                return Ok(entry);
            }
        }
        Err(format!("entry {index} of run {no} is durable and its parts are not"))
    }

    /// The run of this id.
    pub(crate) fn run_of(&self, id: RunId) -> Option<&DurableRun> {
        self.runs.get(self.index.get(&id)?)
    }

    /// How many entries all journals have.
    pub(crate) fn entry_count(&self) -> usize {
        self.runs.values().map(|run| run.entries.len()).sum()
    }

    /// Whether all runs have ended and nothing is left of them but their journals.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.runs.values().all(DurableRun::has_ended)
            && self.leases.is_empty()
            && self.waiting.is_empty()
            && self.timers.is_empty()
            && self.stopped.is_empty()
            && self.schedules.is_empty()
    }

    /// Whether a run is of a batch, or follows one.
    pub(crate) fn is_batched(&self, no: RunNo) -> bool {
        let started = self.runs.get(&no).and_then(|run| run.started());
        started.is_some_and(|started| started.batch.is_some() || started.name.is_none())
    }

    /// The states that the rows of a run that has not ended stand for.
    pub(crate) fn stored_states(&self, no: RunNo) -> &[RunState] {
        self.state_rows.of(no)
    }

    fn lease_ended(&mut self, before: Option<&LeaseRecord>) {
        if let Some(before) = before {
            self.state_rows.changed(before.run, Some(RunState::Running), None);
        }
    }

    fn left_line(&mut self, before: Option<&QueuedRecord>) {
        if let Some(before) = before {
            self.state_rows.changed(before.run, Some(RunState::Queued), None);
        }
    }

    /// Runs in each state, counted.
    pub(crate) fn counted(&self) -> Vec<u64> {
        let mut counts = vec![0; RunState::ALL.len()];
        for (no, run) in self.kept() {
            let state = run.state_if_ended().or_else(|| self.stored_states(*no).first().copied());
            if let Some(state) = state {
                counts[usize::from(u8::from(state)) - 1] += 1;
            }
        }
        counts
    }
}

/// The id that a batch makes mean nothing any more, if the operation does that.
pub(crate) fn forgets(op: &Op) -> Option<RunId> {
    let is_index = Family::from_key(op.key()) == Some(Family::Index);
    (is_index && op.value().is_none()).then(|| indexed(op.key())).flatten()
}

/// The id that a row of the index is about.
fn indexed(key: &[u8]) -> Option<RunId> {
    let id = key.get(7..23)?.try_into().ok()?;
    Some(RunId(u128::from_be_bytes(id)))
}

fn moved(run: Option<RunNo>) -> Change {
    run.map_or(Change::Other, |run| Change::Moved { run })
}

/// The place in the key of a queued run.
fn position_of(key: &[u8]) -> Option<QueuePosition> {
    let queue = keys::number_of(key)?;
    Some((queue, *key.get(7)?, keys::sequence_of(key)?))
}
