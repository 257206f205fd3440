//! Answers the core's reads from a store. No tokio: a store's reads are futures, and who polls them
//! is not our business.

mod journals;
mod prefetch;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use stepwell_storage::{ReadFailure, Row, Scan, Space, Store};

use crate::core::output::StoreRead;
use crate::core::{GenerationRow, Input, Opened, ScheduleRow};
use crate::model::chain::CHAIN_BYTES;
use crate::model::entry::Entry;
use crate::model::id::{Namespace, RunId, RunNo};
use crate::model::run::RunState;
use crate::model::time::Time;
use crate::numbered::Undecodable;
use crate::tables::batch::OpenBatchRow;
use crate::tables::expiry::{Expiry, ExpiryMarkKey};
use crate::tables::{
    self, AppliedRequestKey, AuditKey, BadRow, EndedBatchKey, FixedSpace, FollowUpKey,
    GenerationKey, GenerationRecord, IndexKey, JournalKey, LeaseKey, MarkKey, MemoResultKey,
    MovedKey, OpenBatchKey, PoolKey, PoolRecord, QueueKey, QueuedKey, QueuedRecord, ScheduleKey,
    ScheduleStateKey, StoppedKey, Table, TableKey, TallyKey, TimerKey, TimerRecord,
    UniqueHolderKey, journal,
};

pub use self::journals::{entries, generation_of, image};
pub use self::prefetch::Prefetched;

/// Rows read from a store in one go.
const PAGE_ROWS: usize = 1_024;

/// Why a read found nothing usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The store does not answer.
    #[error("the store cannot be read")]
    Store(#[source] ReadFailure),
    /// The store answers with something that is not ours.
    #[error("what is stored is damaged")]
    Record(#[source] Undecodable),
    /// A row is not one of the table it was looked for in.
    #[error("what is stored is damaged")]
    Row(#[source] BadRow),
}

impl Unreadable {
    /// Whether only the asked record is bad and the store as such answers. A disk that cannot be
    /// read is not a damaged run: the engine stops and says why, instead of taking the run for
    /// lost.
    pub fn is_local(&self) -> bool {
        !matches!(self, Self::Store(ReadFailure::Poisoned { .. } | ReadFailure::Io { .. }))
    }

    /// The message with its causes.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text
    }
}

impl From<ReadFailure> for Unreadable {
    fn from(failure: ReadFailure) -> Self {
        Self::Store(failure)
    }
}

impl From<BadRow> for Unreadable {
    fn from(bad: BadRow) -> Self {
        match bad {
            BadRow::Record(undecodable) => Self::Record(undecodable),
            bad @ (BadRow::Unknown | BadRow::Space { .. } | BadRow::Key { .. }) => Self::Row(bad),
        }
    }
}

impl From<Undecodable> for Unreadable {
    fn from(undecodable: Undecodable) -> Self {
        Self::Record(undecodable)
    }
}

/// The record under a key.
async fn record<K: FixedSpace>(
    store: &dyn Store,
    key: &K,
) -> Result<Option<K::Record>, Unreadable> {
    let value = store.get(K::SPACE, &key.to_bytes()).await?;
    Ok(value.map(|value| key.read_record(&value)).transpose()?)
}

fn scan(space: Space, from: Bytes, to: Bytes, limit: usize) -> Scan {
    Scan { space, from, to, limit, reverse: false }
}

/// Reads all rows between two keys, a page at a time.
pub async fn all_rows(
    store: &dyn Store,
    space: Space,
    from: Bytes,
    to: Bytes,
    mut each: impl FnMut(&Row) -> Result<(), Unreadable> + Send,
) -> Result<(), Unreadable> {
    let mut from = from;
    loop {
        let rows = store.scan(scan(space, from.clone(), to.clone(), PAGE_ROWS)).await?;
        for row in &rows {
            each(row)?;
        }
        match rows.last() {
            Some(last) if rows.len() == PAGE_ROWS => {
                from = [&last.key[..], &[0]].concat().into();
            }
            _ => return Ok(()),
        }
    }
}

/// Reads all rows of a table, a page at a time.
async fn all_of<K: FixedSpace>(
    store: &dyn Store,
    mut each: impl FnMut(K, K::Record) + Send,
) -> Result<(), Unreadable> {
    let from = K::TABLE.prefix();
    let to = tables::end_of(&from);
    let read = |row: &Row| {
        let (key, record) = tables::read_row(&row.key, &row.value)?;
        each(key, record);
        Ok(())
    };
    all_rows(store, K::SPACE, from, to, read).await
}

/// Reads the first rows of a table from a key on.
async fn first_of<K: FixedSpace>(
    store: &dyn Store,
    from: Bytes,
    to: Bytes,
    limit: usize,
) -> Result<Vec<(K, K::Record)>, Unreadable> {
    let found = store.scan(scan(K::SPACE, from, to, limit)).await?;
    let mut rows = Vec::with_capacity(found.len());
    for row in &found {
        rows.push(tables::read_row(&row.key, &row.value)?);
    }
    Ok(rows)
}

/// What is needed to open a core.
pub async fn open(store: &dyn Store) -> Result<Opened, Unreadable> {
    let identity = store.identity();
    let mut opened =
        Opened { store: identity.store.0, epoch: identity.epoch.0, ..Opened::default() };
    opened.spaces = store.generations().await?;
    for table in Table::ALL {
        open_table(store, table, &mut opened).await?;
    }
    let has = |number: &u32| opened.pools.iter().any(|(pool, _)| pool == number);
    let uncounted: BTreeSet<u32> = opened.queues.iter().map(|(number, _)| *number).collect();
    let uncounted: BTreeSet<u32> = uncounted.into_iter().filter(|n| !has(n)).collect();
    if !uncounted.is_empty() {
        opened.uncounted = counted_pools(store, &opened, &uncounted).await?;
    }
    Ok(opened)
}

/// What an opening reads of a table: rows of which there are few, however many runs there are.
async fn open_table(
    store: &dyn Store,
    table: Table,
    opened: &mut Opened,
) -> Result<(), Unreadable> {
    match table {
        Table::Tally => opened.tally = record(store, &TallyKey {}).await?,
        Table::Mark => opened.mark = record(store, &MarkKey {}).await?,
        Table::Queue => {
            let each = |key: QueueKey, record| opened.queues.push((key.queue, record));
            all_of(store, each).await?;
        }
        Table::Pool => {
            let each = |key: PoolKey, record| opened.pools.push((key.queue, record));
            all_of(store, each).await?;
        }
        Table::Generation => {
            let each = |key: GenerationKey, record: GenerationRecord| {
                opened.generations.push((key.generation, record.first));
            };
            all_of(store, each).await?;
        }
        Table::Schedule => opened.schedules = schedules(store).await?,
        Table::Lease => {
            let each = |key: LeaseKey, record| opened.leases.push((key.slot, record));
            all_of(store, each).await?;
        }
        Table::Batch => opened.batches = open_batches(store).await?,
        Table::AppliedRequest => {
            let each = |_: AppliedRequestKey, record| opened.applied.push(record);
            all_of(store, each).await?;
        }
        Table::Expiry => {
            let first = expiries(store, 1).await?;
            opened.first_expiry = first.first().map(|row| row.at);
        }
        // Read with the rows that they belong to: schedules, open batches.
        Table::ScheduleState | Table::FollowUp => {}
        // Read from their cursors on when they are wanted: lanes when a worker offers slots, timers
        // when they may be due, audit entries and dead letters when they may be old, or are asked
        // for, stopped runs when there is a new build.
        Table::Queued | Table::Timer | Table::Audit | Table::Dead | Table::Stopped => {}
        // Looked up one by one: by run id, run number, or the hash of a key or a name.
        Table::Index | Table::Journal | Table::Moved => {}
        Table::Unique | Table::Memo | Table::EndedBatch => {}
    }
    Ok(())
}

/// What queues count of which that was never written: their store is older than these counts.
async fn counted_pools(
    store: &dyn Store,
    opened: &Opened,
    uncounted: &BTreeSet<u32>,
) -> Result<Vec<(u32, PoolRecord)>, Unreadable> {
    let mut pools: BTreeMap<u32, PoolRecord> =
        uncounted.iter().map(|n| (*n, PoolRecord::default())).collect();
    let mut queued = Vec::new();
    let waits = |key: QueuedKey, record: QueuedRecord| {
        if uncounted.contains(&key.queue) {
            queued.push((key.queue, record.run));
        }
    };
    all_of(store, waits).await?;
    let mut births: Vec<(RunNo, u32)> = opened.generations.iter().map(|(g, r)| (*r, *g)).collect();
    births.sort_unstable();
    for (number, run) in queued {
        // A run that was cancelled in line has left its row there.
        let born = births.iter().rev().find(|(first, _)| *first <= run);
        let birth = (born.map_or(0, |(_, generation)| *generation), true);
        let image = image(store, run, birth).await?;
        if image.is_some_and(|image| image.run.ended.is_none()) {
            pools.entry(number).or_default().queued += 1;
        }
    }
    let sleeps = |_: TimerKey, timer: TimerRecord| match pools.get_mut(&timer.queue) {
        Some(pool) if timer.delayed => pool.delayed += 1,
        Some(pool) => pool.suspended += 1,
        None => {}
    };
    all_of(store, sleeps).await?;
    Ok(pools.into_iter().collect())
}

/// All schedules, and how far they are.
async fn schedules(store: &dyn Store) -> Result<Vec<ScheduleRow>, Unreadable> {
    let mut states = BTreeMap::new();
    let each = |key: ScheduleStateKey, state| {
        states.insert(key.schedule, state);
    };
    all_of(store, each).await?;
    let mut rows: Vec<ScheduleRow> = Vec::new();
    let each = |key: ScheduleKey, record| {
        let state = states.remove(&key.schedule).unwrap_or_default();
        rows.push((key.schedule, record, state));
    };
    all_of(store, each).await?;
    Ok(rows)
}

/// The number of a run.
pub async fn index(
    store: &dyn Store,
    namespace: Namespace,
    id: RunId,
) -> Result<Option<RunNo>, Unreadable> {
    Ok(record(store, &IndexKey { namespace, id }).await?.map(|found| found.run))
}

/// Answers one read, if need be from what was read ahead. A read that fails for the whole store is
/// an error; damage to one run is part of the answer.
pub async fn answer(
    store: &dyn Store,
    read: StoreRead,
    prefetched: &mut Prefetched,
) -> Result<Input, Unreadable> {
    let local = |error: Unreadable| {
        if error.is_local() { Ok(error.chain()) } else { Err(error) }
    };
    Ok(match read {
        StoreRead::Index { namespace, id } => {
            let found = match index(store, namespace, id).await {
                Ok(found) => Ok(found),
                Err(error) => Err(local(error)?),
            };
            Input::IndexLoaded { namespace, id, found }
        }
        StoreRead::Run { run, generation, moved, brief } => {
            let birth = (generation, moved);
            let lone = prefetched.take(run).filter(|_| brief);
            let found = match journals::image_of(store, run, birth, brief, lone).await {
                Ok(found) => Ok(found),
                Err(error) => Err(local(error)?),
            };
            Input::RunLoaded { run, found }
        }
        StoreRead::Queued { queue, priority, from, limit } => {
            queued(store, (queue, priority), from, limit).await?
        }
        StoreRead::Timers { from, limit } => timers(store, from, limit).await?,
        StoreRead::Stopped { from, limit } => stopped(store, from, limit).await?,
        StoreRead::Generation { generation, from, limit } => {
            match generation_page(store, generation, from, limit).await {
                Ok(page) => page,
                Err(error) => Input::CleaningFailed { generation, what: local(error)? },
            }
        }
        StoreRead::Audit { from, limit } => audit(store, from, limit).await?,
        StoreRead::MemoWaits { from, limit } => {
            match timers(store, (Time::NEVER, from), limit).await? {
                Input::TimersLoaded { rows, end } => {
                    let rows = rows.into_iter();
                    Input::MemoWaitsLoaded {
                        rows: rows.map(|(_, run, record)| (run, record.memo)).collect(),
                        end,
                    }
                }
                other => other,
            }
        }
        StoreRead::Unique { namespace, hash } => {
            let found = match record(store, &UniqueHolderKey { namespace, hash }).await {
                Ok(found) => Ok(found),
                Err(error) => Err(local(error)?),
            };
            Input::UniqueLoaded { namespace, hash, found }
        }
        StoreRead::Memo { namespace, hash } => {
            let found = match record(store, &MemoResultKey { namespace, hash }).await {
                Ok(found) => Ok(found),
                Err(error) => Err(local(error)?),
            };
            Input::MemoLoaded { namespace, hash, found }
        }
        StoreRead::MemoResult { namespace, hash, run, birth, entry } => {
            let found = match journals::output_of(store, run, birth, entry).await {
                Ok(found) => Ok(found),
                Err(error) => Err(local(error)?),
            };
            Input::MemoResultLoaded { namespace, hash, found }
        }
        StoreRead::Batch { namespace, hash } => {
            let found = match record(store, &EndedBatchKey { namespace, hash }).await {
                Ok(found) => Ok(found),
                Err(error) => Err(local(error)?),
            };
            Input::BatchLoaded { namespace, hash, found }
        }
        StoreRead::Expired { until, limit } => expired(store, until, limit).await?,
        StoreRead::Copy { run, generation } => {
            match entries(store, generation, run, (0, u32::MAX), usize::MAX).await {
                Ok(entries) => Input::RunCopied { run, entries },
                Err(error) => Input::CleaningFailed { generation, what: local(error)? },
            }
        }
    })
}

/// What expires first, behind the mark.
async fn expiries(store: &dyn Store, limit: usize) -> Result<Vec<Expiry>, Unreadable> {
    let mark = record(store, &ExpiryMarkKey).await?;
    let from = Expiry::from(mark.unwrap_or_default().at);
    let rows = first_of::<Expiry>(store, from, end_of_all::<Expiry>(), limit).await?;
    Ok(rows.into_iter().map(|(expiry, _)| expiry).collect())
}

/// The end of all keys of a table.
fn end_of_all<K: TableKey>() -> Bytes {
    tables::end_of(&K::TABLE.prefix())
}

/// What has expired, and what comes next.
async fn expired(store: &dyn Store, until: Time, limit: usize) -> Result<Input, Unreadable> {
    let mut rows = expiries(store, limit).await?;
    let later = rows.iter().find(|row| row.at > until).map(|row| row.at);
    let first = later.or((rows.len() < limit).then_some(Time(u64::MAX)));
    rows.retain(|row| row.at <= until);
    Ok(Input::ExpiredLoaded { rows, first })
}

/// Batches that have not ended.
async fn open_batches(store: &dyn Store) -> Result<Vec<OpenBatchRow>, Unreadable> {
    let mut open = Vec::new();
    let each = |key: OpenBatchKey, record| {
        open.push(OpenBatchRow { slot: key.slot, record, follow_up: None })
    };
    all_of(store, each).await?;
    for batch in &mut open {
        batch.follow_up = record(store, &FollowUpKey { slot: batch.slot }).await?;
    }
    Ok(open)
}

async fn queued(
    store: &dyn Store,
    lane: (u32, u8),
    from: u64,
    limit: usize,
) -> Result<Input, Unreadable> {
    let (queue, priority) = lane;
    let from = QueuedKey { queue, priority, sequence: from }.to_bytes();
    let end = tables::end_of(&QueuedKey::lane(queue, priority));
    let rows = first_of::<QueuedKey>(store, from, end, limit).await?;
    let end = rows.len() < limit;
    let rows = rows.into_iter().map(|(key, record)| (key.sequence, record)).collect();
    Ok(Input::QueuedLoaded { queue, priority, rows, end })
}

async fn timers(store: &dyn Store, from: (Time, RunNo), limit: usize) -> Result<Input, Unreadable> {
    let from = TimerKey { due: from.0, run: from.1 }.to_bytes();
    let rows = first_of::<TimerKey>(store, from, end_of_all::<TimerKey>(), limit).await?;
    let end = rows.len() < limit;
    let rows = rows.into_iter().map(|(key, record)| (key.due, key.run, record)).collect();
    Ok(Input::TimersLoaded { rows, end })
}

async fn stopped(store: &dyn Store, from: RunNo, limit: usize) -> Result<Input, Unreadable> {
    let from = StoppedKey { run: from }.to_bytes();
    let rows = first_of::<StoppedKey>(store, from, end_of_all::<StoppedKey>(), limit).await?;
    let end = rows.len() < limit;
    let rows = rows.into_iter().map(|(key, record)| (key.run, record)).collect();
    Ok(Input::StoppedLoaded { rows, end })
}

/// Reads the keys of audit entries. A damaged record does not keep its row from being deleted.
async fn audit(store: &dyn Store, from: Time, limit: usize) -> Result<Input, Unreadable> {
    let from = AuditKey { at: from, number: 0 }.to_bytes();
    let found = store.scan(scan(AuditKey::SPACE, from, end_of_all::<AuditKey>(), limit)).await?;
    let end = found.len() < limit;
    let keys = found.iter().map(|row| tables::read_key(&row.key));
    let rows = keys.map(|key| key.map(|AuditKey { at, number }| (at, number)));
    Ok(Input::AuditLoaded { rows: rows.collect::<Result<_, _>>()?, end })
}

/// The next runs of a generation: a seek for each, so that long journals cost no more than short
/// ones.
async fn generation_page(
    store: &dyn Store,
    generation: u32,
    from: RunNo,
    limit: usize,
) -> Result<Input, Unreadable> {
    let (space, mut from, mut rows) = (journal::space(generation), from, Vec::new());
    while rows.len() < limit {
        let first = JournalKey::first(from, 0).to_bytes();
        let found = store.scan(scan(space, first, Bytes::new(), 1)).await?;
        let Some(first) = found.first() else {
            return Ok(Input::GenerationLoaded { generation, rows, end: true });
        };
        let JournalKey { run, .. } = tables::read_key(&first.key)?;
        from = RunNo(run.0 + 1);
        // What was copied before goes on in its new place; what is left here is old.
        let moved = record(store, &MovedKey { run }).await?.map(|moved| moved.generation);
        if moved.is_some_and(|moved| moved != generation) {
            continue;
        }
        let Some(Entry::Started(started)) = first_entry(store, generation, run).await? else {
            let cause = format!("run number {run} does not begin with its start");
            return Err(Undecodable::Damaged { what: "a journal", cause }.into());
        };
        // A run that was dropped with the page before a crash has no records any more, nor is it
        // counted.
        if index(store, started.namespace, started.id).await? != Some(run) {
            continue;
        }
        let last = last_entry(store, generation, run).await?;
        let ended = last.as_ref().and_then(|entry| match entry {
            Entry::Completed(e) => Some((RunState::Completed, e.at)),
            Entry::Died(e) => Some((RunState::Dead, e.at)),
            Entry::InputEdited(e) => Some((RunState::Dead, e.at)),
            Entry::Discarded(e) => Some((RunState::Discarded, e.at)),
            Entry::Cancelled(e) => Some((RunState::Cancelled, e.at)),
            _ => None,
        });
        let died_at = last.as_ref().and_then(|entry| match entry {
            Entry::Died(e) => Some(e.at),
            Entry::InputEdited(e) => Some(e.died_at),
            _ => None,
        });
        rows.push(GenerationRow {
            run,
            namespace: started.namespace,
            id: started.id,
            moved: moved.is_some(),
            ended,
            died_at,
        });
    }
    Ok(Input::GenerationLoaded { generation, rows, end: false })
}

/// Reads a stored entry without checking its chain.
pub fn decode(stored: &[u8]) -> Option<Entry> {
    Entry::decode(stored.split_last_chunk::<CHAIN_BYTES>()?.0).ok()
}

async fn first_entry(
    store: &dyn Store,
    generation: u32,
    run: RunNo,
) -> Result<Option<Entry>, Unreadable> {
    Ok(entries(store, generation, run, (0, 1), usize::MAX)
        .await?
        .first()
        .and_then(|stored| decode(stored)))
}

/// How many whole entries a journal has.
pub async fn count(store: &dyn Store, generation: u32, run: RunNo) -> Result<u32, Unreadable> {
    Ok(last_number(store, generation, run).await?.map_or(0, |number| number + 1))
}

/// The last whole entry of a journal, without checking the chain.
pub async fn last_entry(
    store: &dyn Store,
    generation: u32,
    run: RunNo,
) -> Result<Option<Entry>, Unreadable> {
    let Some(number) = last_number(store, generation, run).await? else {
        return Ok(None);
    };
    let found = entries(store, generation, run, (number, number + 1), usize::MAX).await?;
    Ok(found.first().and_then(|stored| decode(stored)))
}

async fn last_number(
    store: &dyn Store,
    generation: u32,
    run: RunNo,
) -> Result<Option<u32>, Unreadable> {
    let space = journal::space(generation);
    let mut end = JournalKey::first(RunNo(run.0 + 1), 0).to_bytes();
    loop {
        let from = JournalKey::first(run, 0).to_bytes();
        let rows =
            store.scan(Scan { space, from, to: end.clone(), limit: 1, reverse: true }).await?;
        let Some(last) = rows.first() else {
            return Ok(None);
        };
        let JournalKey { entry, .. } = tables::read_key(&last.key)?;
        let first = JournalKey::first(run, entry).to_bytes();
        // Parts whose first row never came do not make an entry.
        if store.get(space, &first).await?.is_some() {
            return Ok(Some(entry));
        }
        end = first;
    }
}
