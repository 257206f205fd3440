//! What is durable, as it follows from the batches that were committed: the engine's records, read.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use stepwell::QueueSettings;
use stepwell::model::batch::{BatchNo, batch_hash};
use stepwell::model::calendar::Calendar;
use stepwell::model::chain;
use stepwell::model::dead::Superseded;
use stepwell::model::entry::{Entry, Started};
use stepwell::model::id::{CommandIndex, Namespace, RequestId, RunId, RunNo, Token};
use stepwell::model::payload::Payload;
use stepwell::model::run::{Outcome, OutcomeCancelled, OutcomeCompleted, OutcomeDead, RunState};
use stepwell::model::time::Time;
use stepwell::tables::batch::BatchRecord;
use stepwell::tables::journal::{Joiner, JournalRow};
use stepwell::tables::memo::MemoRecord;
use stepwell::tables::unique::UniqueRecord;
use stepwell::tables::{
    AuditKey, AuditRecord, DeadKey, EndedBatchKey, GenerationKey, IndexKey, IndexRecord,
    JournalKey, LeaseKey, LeaseRecord, Mark, MarkKey, MemoResultKey, MovedKey, MovedRecord,
    OpenBatchKey, PoolKey, PoolRecord, QueueKey, QueueRecord, QueuedKey, QueuedRecord, ScheduleKey,
    ScheduleRecord, ScheduleState, ScheduleStateKey, StoppedKey, StoppedRecord, TableChange,
    TableKey, Tally, TallyKey, TimerKey, TimerRecord, UniqueHolderKey,
};
use stepwell_storage::{Op, Space};

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
    /// An operator request about a queue or a schedule was applied.
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
    parts: BTreeMap<(u32, JournalKey), JournalRow>,
    /// Journals that are being copied into another generation.
    copies: BTreeMap<(u32, RunNo), BTreeMap<u32, Bytes>>,
    /// The runs that an id was ever given to, in their order.
    named: BTreeMap<RunId, Vec<RunNo>>,
    forgotten: BTreeMap<RunNo, RunId>,
    newly_forgotten: Vec<(RunNo, RunId)>,
    /// Who holds unique keys.
    pub(crate) keys: BTreeMap<UniqueHolderKey, UniqueRecord>,
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
        let space = op.space();
        Ok(match TableChange::read(op).map_err(|bad| bad.to_string())? {
            TableChange::Journal(key, row) => {
                let Space::Generation(generation) = space else {
                    return Err(format!("a row of a journal is in {space}"));
                };
                let row = row.ok_or("a row of a journal was deleted")?;
                self.journal(generation, key, row)?
            }
            TableChange::Lease(LeaseKey { slot }, record) => {
                let run = record.as_ref().map(|record| record.run);
                self.tokens.extend(record.as_ref().map(|record| record.token));
                let before = replace(&mut self.leases, slot, record);
                self.lease_ended(before.as_ref());
                match run {
                    Some(run) => {
                        self.state_rows.changed(run, None, Some(RunState::Running));
                        Change::Leased { slot, before }
                    }
                    None => moved(before.map(|before| before.run)),
                }
            }
            TableChange::Index(IndexKey { id, .. }, Some(IndexRecord { run })) => {
                let named = self.named.entry(id).or_default();
                if !named.contains(&run) {
                    named.push(run);
                }
                Change::Indexed { id, run, before: self.index.insert(id, run) }
            }
            TableChange::Index(IndexKey { id, .. }, None) => {
                let run = self.index.remove(&id);
                let run = run.ok_or_else(|| format!("{id} was forgotten twice"))?;
                self.forgotten.insert(run, id);
                self.newly_forgotten.push((run, id));
                Change::Forgotten { run }
            }
            TableChange::Queued(QueuedKey { queue, priority, sequence }, record) => {
                let position = (queue, priority, sequence);
                let queued = record.as_ref().map(|record| (record.run, record.deaths));
                self.waiting_changes.push(position);
                let before = replace(&mut self.waiting, position, record);
                self.left_line(before.as_ref());
                match queued {
                    Some((run, deaths)) => {
                        self.state_rows.changed(run, None, Some(RunState::Queued));
                        Change::Queued { run, deaths }
                    }
                    None => moved(before.map(|before| before.run)),
                }
            }
            TableChange::Queue(QueueKey { queue }, record) => {
                self.queues.insert(queue, record.ok_or("a queue was deleted")?);
                Change::QueueSet { queue }
            }
            TableChange::Pool(PoolKey { queue }, record) => {
                self.pools.insert(queue, record.ok_or("a queue's counts were deleted")?);
                Change::Tallied
            }
            TableChange::Timer(TimerKey { due, run }, record) => {
                let after = record.as_ref().map(state_rows::timed);
                let before = replace(&mut self.timers, (due, run), record);
                let before = before.as_ref().map(state_rows::timed);
                self.state_rows.changed(run, before, after);
                moved(Some(run))
            }
            TableChange::Stopped(StoppedKey { run }, record) => {
                let after = record.as_ref().map(|record| record.state);
                let before = replace(&mut self.stopped, run, record);
                self.state_rows.changed(run, before.map(|before| before.state), after);
                moved(Some(run))
            }
            TableChange::Tally(TallyKey {}, record) => {
                self.tally = record;
                Change::Tallied
            }
            TableChange::Mark(MarkKey {}, record) => {
                self.mark = record;
                Change::Other
            }
            TableChange::Generation(GenerationKey { generation }, Some(_)) => {
                self.generations.insert(generation);
                Change::Other
            }
            TableChange::Generation(GenerationKey { generation }, None) => {
                self.generations.remove(&generation);
                self.doomed.insert(generation, self.lives);
                self.nobody_is_in(generation)?;
                Change::Other
            }
            TableChange::Dead(DeadKey { died_at, run }, record) => {
                match record {
                    Some(_) => self.dead.insert((died_at, run)),
                    None => self.dead.remove(&(died_at, run)),
                };
                Change::Other
            }
            TableChange::Audit(AuditKey { at, number }, record) => {
                self.new_acts.extend(record.clone().map(|record| ((at, number), record)));
                replace(&mut self.acts, (at, number), record);
                Change::Other
            }
            TableChange::Moved(MovedKey { run }, record) => {
                if let Some(MovedRecord { generation }) = record {
                    self.moved(run, generation)?;
                }
                Change::Other
            }
            TableChange::Unique(key, record) => {
                replace(&mut self.keys, key, record);
                Change::Other
            }
            TableChange::Memo(MemoResultKey { namespace, hash }, record) => {
                let key_id = (namespace, hash);
                let before = replace(&mut self.memos, key_id, record);
                Change::Memo { key_id, before }
            }
            TableChange::Batch(OpenBatchKey { slot }, record) => {
                if let Some(record) = &record {
                    let most = self.most_ended.entry(record.no).or_default();
                    *most = record.counts.ended().max(*most);
                }
                replace(&mut self.batches, slot, record);
                Change::Batched
            }
            TableChange::EndedBatch(_, Some(record)) => {
                if self.ended_batches.insert(record.no, record).is_some() {
                    return Err("a batch ended twice".to_owned());
                }
                Change::Batched
            }
            TableChange::EndedBatch(key, None) => {
                // One of its name may have ended before it, and is forgotten.
                let is_it = |record: &&BatchRecord| {
                    let (namespace, hash) = (record.namespace, batch_hash(&record.name));
                    EndedBatchKey { namespace, hash } == key
                        && !self.forgotten_batches.contains(&record.no)
                };
                let mut ended = self.ended_batches.values().rev();
                let batch = ended.find(is_it).map(|record| record.no);
                let batch = batch.ok_or("a batch was forgotten that had not ended")?;
                self.forgotten_batches.insert(batch);
                Change::BatchForgotten { batch }
            }
            TableChange::Expiry(..) | TableChange::FollowUp(..) => Change::Other,
            TableChange::AppliedRequest(_, record) => Change::RequestApplied {
                request_id: record.ok_or("an applied request was deleted")?.request_id,
            },
            TableChange::Schedule(ScheduleKey { schedule: number }, None) => {
                self.schedules.remove(&number);
                Change::Scheduled { number }
            }
            TableChange::Schedule(ScheduleKey { schedule: number }, Some(record)) => {
                self.schedules.insert(number, DurableSchedule::of(record));
                Change::Other // its state follows
            }
            TableChange::ScheduleState(_, None) => Change::Other,
            TableChange::ScheduleState(ScheduleStateKey { schedule: number }, Some(state)) => {
                let Some(schedule) = self.schedules.get_mut(&number) else {
                    return Err(format!("schedule {number} has a state and is not there"));
                };
                schedule.goes_on(state);
                Change::Scheduled { number }
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

    fn journal(
        &mut self,
        generation: u32,
        key: JournalKey,
        row: JournalRow,
    ) -> Result<Change, String> {
        let JournalKey { run: no, entry: index, part } = key;
        if part > 0 {
            self.parts.insert((generation, key), row);
            return Ok(Change::Other);
        }
        let stored = self.join(generation, key, row)?;
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
    fn join(&self, generation: u32, key: JournalKey, row: JournalRow) -> Result<Bytes, String> {
        let last = JournalKey { part: u16::MAX, ..key };
        let parts = self.parts.range((generation, key)..=(generation, last));
        let parts = parts.map(|((_, key), row)| (*key, row.clone()));
        let mut joiner = Joiner::from(key.entry);
        for (key, row) in std::iter::once((key, row)).chain(parts) {
            if let Some(entry) = joiner.push(&key, row).map_err(|error| error.to_string())? {
                return Ok(entry);
            }
        }
        let JournalKey { run, entry, .. } = key;
        Err(format!("entry {entry} of run {run} is durable and its parts are not"))
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
    match op {
        Op::Delete { key, .. } => IndexKey::from_bytes(key).map(|key| key.id),
        Op::Put { .. } => None,
    }
}

/// Writes or deletes a row; what was there before.
fn replace<K: Ord, R>(rows: &mut BTreeMap<K, R>, key: K, record: Option<R>) -> Option<R> {
    match record {
        Some(record) => rows.insert(key, record),
        None => rows.remove(&key),
    }
}

fn moved(run: Option<RunNo>) -> Change {
    run.map_or(Change::Other, |run| Change::Moved { run })
}
