//! Answers the core's reads from a store. No tokio: a store's reads are futures, and who polls them
//! is not our business.

mod journals;
mod prefetch;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use stepwell_storage::{ReadFailure, Row, Scan, Space, Store};

use crate::core::output::StoreRead;
use crate::core::{GenerationRow, Input, Opened, ScheduleRow};
use crate::keys::applied_request::AppliedRequestRecord;
use crate::keys::batch::{BatchRecord, OpenBatchRow};
use crate::keys::expiry::{self, Expiry, ExpiryMark};
use crate::keys::journal;
use crate::keys::memo::MemoRecord;
use crate::keys::unique::UniqueRecord;
use crate::keys::{
    self, Family, GenerationRecord, IndexRecord, LeaseRecord, Mark, MovedRecord, PoolRecord,
    QueueRecord, QueuedRecord, Record, ScheduleRecord, ScheduleState, StoppedRecord, Tally,
    TimerRecord,
};
use crate::model::chain::CHAIN_BYTES;
use crate::model::entry::Entry;
use crate::model::id::{Namespace, RunId, RunNo};
use crate::model::run::RunState;
use crate::model::time::Time;
use crate::numbered::Undecodable;

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
    /// Keys are not of the form they must have.
    #[error("a stored key of family {family:?} is not well formed")]
    Key {
        /// Which family.
        family: Family,
    },
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

impl From<Undecodable> for Unreadable {
    fn from(undecodable: Undecodable) -> Self {
        Self::Record(undecodable)
    }
}

async fn record<R: Record>(
    store: &dyn Store,
    space: Space,
    key: Bytes,
) -> Result<Option<R>, Unreadable> {
    let bytes = store.get(space, &key).await?;
    Ok(bytes.map(|bytes| R::from_bytes(&bytes)).transpose()?)
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

/// What is needed to open a core.
pub async fn open(store: &dyn Store) -> Result<Opened, Unreadable> {
    let identity = store.identity();
    let mut opened =
        Opened { store: identity.store.0, epoch: identity.epoch.0, ..Opened::default() };
    opened.tally = record::<Tally>(store, Space::LongLived, keys::tally()).await?;
    opened.mark = record::<Mark>(store, Space::LongLived, keys::mark()).await?;
    opened.spaces = store.generations().await?;
    let bad = |family| Unreadable::Key { family };
    let prefix = keys::family(Family::Queue);
    all_rows(store, Space::LongLived, prefix.clone(), keys::end_of(&prefix), |row| {
        let number = keys::number_of(&row.key).ok_or(bad(Family::Queue))?;
        opened.queues.push((number, QueueRecord::from_bytes(&row.value)?));
        Ok(())
    })
    .await?;
    let prefix = keys::family(Family::Pool);
    all_rows(store, Space::LongLived, prefix.clone(), keys::end_of(&prefix), |row| {
        let number = keys::number_of(&row.key).ok_or(bad(Family::Pool))?;
        opened.pools.push((number, PoolRecord::from_bytes(&row.value)?));
        Ok(())
    })
    .await?;
    let prefix = keys::family(Family::Generation);
    all_rows(store, Space::LongLived, prefix.clone(), keys::end_of(&prefix), |row| {
        let number = keys::number_of(&row.key).ok_or(bad(Family::Generation))?;
        opened.generations.push((number, GenerationRecord::from_bytes(&row.value)?.first));
        Ok(())
    })
    .await?;
    opened.schedules = schedules(store).await?;
    let prefix = keys::family(Family::Lease);
    all_rows(store, Space::ShortLived, prefix.clone(), keys::end_of(&prefix), |row| {
        let slot = keys::slot_of(&row.key).ok_or(bad(Family::Lease))?;
        opened.leases.push((slot, LeaseRecord::from_bytes(&row.value)?));
        Ok(())
    })
    .await?;
    let has = |number: &u32| opened.pools.iter().any(|(pool, _)| pool == number);
    let uncounted: BTreeSet<u32> = opened.queues.iter().map(|(number, _)| *number).collect();
    let uncounted: BTreeSet<u32> = uncounted.into_iter().filter(|n| !has(n)).collect();
    if !uncounted.is_empty() {
        opened.uncounted = counted_pools(store, &opened, &uncounted).await?;
    }
    opened.batches = open_batches(store).await?;
    let prefix = keys::family(Family::AppliedRequest);
    let end = keys::end_of(&prefix);
    all_rows(store, Space::LongLived, prefix, end, |row| {
        opened.applied.push(AppliedRequestRecord::from_bytes(&row.value)?);
        Ok(())
    })
    .await?;
    let first = expiries(store, 1).await?;
    opened.first_expiry = first.first().map(|row| row.at);
    Ok(opened)
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
    let prefix = keys::family(Family::Queued);
    let end = keys::end_of(&prefix);
    all_rows(store, Space::ShortLived, prefix, end, |row| {
        let number = keys::number_of(&row.key).ok_or(Unreadable::Key { family: Family::Queued })?;
        if uncounted.contains(&number) {
            queued.push((number, QueuedRecord::from_bytes(&row.value)?.run));
        }
        Ok(())
    })
    .await?;
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
    let prefix = keys::family(Family::Timer);
    let end = keys::end_of(&prefix);
    all_rows(store, Space::ShortLived, prefix, end, |row| {
        let timer = TimerRecord::from_bytes(&row.value)?;
        match pools.get_mut(&timer.queue) {
            Some(pool) if timer.delayed => pool.delayed += 1,
            Some(pool) => pool.suspended += 1,
            None => {}
        }
        Ok(())
    })
    .await?;
    Ok(pools.into_iter().collect())
}

/// All schedules, and how far they are.
async fn schedules(store: &dyn Store) -> Result<Vec<ScheduleRow>, Unreadable> {
    let mut rows: Vec<ScheduleRow> = Vec::new();
    let mut states = BTreeMap::new();
    let space = Space::LongLived;
    let prefix = keys::family(Family::ScheduleState);
    let number = |row: &Row, family| keys::number_of(&row.key).ok_or(Unreadable::Key { family });
    all_rows(store, space, prefix.clone(), keys::end_of(&prefix), |row| {
        let state = ScheduleState::from_bytes(&row.value)?;
        states.insert(number(row, Family::ScheduleState)?, state);
        Ok(())
    })
    .await?;
    let prefix = keys::family(Family::Schedule);
    all_rows(store, space, prefix.clone(), keys::end_of(&prefix), |row| {
        let number = number(row, Family::Schedule)?;
        let state = states.remove(&number).unwrap_or_default();
        rows.push((number, ScheduleRecord::from_bytes(&row.value)?, state));
        Ok(())
    })
    .await?;
    Ok(rows)
}

/// The number of a run.
pub async fn index(
    store: &dyn Store,
    namespace: Namespace,
    id: RunId,
) -> Result<Option<RunNo>, Unreadable> {
    Ok(record::<IndexRecord>(store, Space::LongLived, keys::index(namespace, id))
        .await?
        .map(|found| found.run))
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
            let key = keys::unique::unique(namespace, hash);
            let found = match record::<UniqueRecord>(store, Space::LongLived, key).await {
                Ok(found) => Ok(found),
                Err(error) => Err(local(error)?),
            };
            Input::UniqueLoaded { namespace, hash, found }
        }
        StoreRead::Memo { namespace, hash } => {
            let key = keys::memo::memo(namespace, hash);
            let found = match record::<MemoRecord>(store, Space::LongLived, key).await {
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
            let key = keys::batch::ended(namespace, hash);
            let found = match record::<BatchRecord>(store, Space::LongLived, key).await {
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
    let mark = record::<ExpiryMark>(store, Space::LongLived, expiry::mark()).await?;
    let from = expiry::from(mark.unwrap_or_default().at);
    let to = keys::end_of(&keys::family(Family::Expiry));
    let found = store.scan(scan(Space::LongLived, from, to, limit)).await?;
    let rows = found
        .iter()
        .map(|row| expiry::from_key(&row.key).ok_or(Unreadable::Key { family: Family::Expiry }));
    rows.collect()
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
    let prefix = keys::family(Family::Batch);
    let end = keys::end_of(&prefix);
    all_rows(store, Space::LongLived, prefix, end, |row| {
        let slot = keys::slot_of(&row.key).ok_or(Unreadable::Key { family: Family::Batch })?;
        open.push(OpenBatchRow {
            slot,
            record: BatchRecord::from_bytes(&row.value)?,
            follow_up: None,
        });
        Ok(())
    })
    .await?;
    for batch in &mut open {
        let key = keys::batch::follow_up(batch.slot);
        batch.follow_up = record(store, Space::LongLived, key).await?;
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
    let end = keys::end_of(&keys::lane(queue, priority));
    let found = store
        .scan(scan(Space::ShortLived, keys::queued(queue, priority, from), end, limit))
        .await?;
    let mut rows = Vec::with_capacity(found.len());
    for row in &found {
        let sequence =
            keys::sequence_of(&row.key).ok_or(Unreadable::Key { family: Family::Queued })?;
        rows.push((sequence, QueuedRecord::from_bytes(&row.value)?));
    }
    Ok(Input::QueuedLoaded { queue, priority, rows, end: found.len() < limit })
}

async fn timers(store: &dyn Store, from: (Time, RunNo), limit: usize) -> Result<Input, Unreadable> {
    let end = keys::end_of(&keys::family(Family::Timer));
    let found =
        store.scan(scan(Space::ShortLived, keys::timer(from.0, from.1), end, limit)).await?;
    let mut rows = Vec::with_capacity(found.len());
    for row in &found {
        let (due, run) =
            keys::time_and_run_of(&row.key).ok_or(Unreadable::Key { family: Family::Timer })?;
        rows.push((due, run, TimerRecord::from_bytes(&row.value)?));
    }
    Ok(Input::TimersLoaded { rows, end: found.len() < limit })
}

async fn stopped(store: &dyn Store, from: RunNo, limit: usize) -> Result<Input, Unreadable> {
    let end = keys::end_of(&keys::family(Family::Stopped));
    let found = store.scan(scan(Space::LongLived, keys::stopped(from), end, limit)).await?;
    let mut rows = Vec::with_capacity(found.len());
    for row in &found {
        let run = keys::run_of(&row.key).ok_or(Unreadable::Key { family: Family::Stopped })?;
        rows.push((run, StoppedRecord::from_bytes(&row.value)?));
    }
    Ok(Input::StoppedLoaded { rows, end: found.len() < limit })
}

async fn audit(store: &dyn Store, from: Time, limit: usize) -> Result<Input, Unreadable> {
    let end = keys::end_of(&keys::family(Family::Audit));
    let found = store.scan(scan(Space::LongLived, keys::audit(from, 0), end, limit)).await?;
    let bad = Unreadable::Key { family: Family::Audit };
    let rows: Option<Vec<_>> = found.iter().map(|row| keys::audit_of(&row.key)).collect();
    Ok(Input::AuditLoaded { rows: rows.ok_or(bad)?, end: found.len() < limit })
}

/// The next runs of a generation: a seek for each, so that long journals cost no more than short
/// ones.
async fn generation_page(
    store: &dyn Store,
    generation: u32,
    from: RunNo,
    limit: usize,
) -> Result<Input, Unreadable> {
    let (space, mut from, mut rows) = (Space::Generation(generation), from, Vec::new());
    while rows.len() < limit {
        let found = store.scan(scan(space, journal::row(from, 0, 0), Bytes::new(), 1)).await?;
        let Some(first) = found.first() else {
            return Ok(Input::GenerationLoaded { generation, rows, end: true });
        };
        let (run, ..) =
            journal::parts_of(&first.key).ok_or(Unreadable::Key { family: Family::Journal })?;
        from = RunNo(run.0 + 1);
        // What was copied before goes on in its new place; what is left here is old.
        let moved = record::<MovedRecord>(store, Space::LongLived, keys::moved(run))
            .await?
            .map(|moved| moved.generation);
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
    let space = Space::Generation(generation);
    let mut end = journal::row(RunNo(run.0 + 1), 0, 0);
    loop {
        let from = journal::row(run, 0, 0);
        let rows =
            store.scan(Scan { space, from, to: end.clone(), limit: 1, reverse: true }).await?;
        let Some(last) = rows.first() else {
            return Ok(None);
        };
        let (_, number, _) =
            journal::parts_of(&last.key).ok_or(Unreadable::Key { family: Family::Journal })?;
        // Parts whose first row never came do not make an entry.
        if store.get(space, &journal::row(run, number, 0)).await?.is_some() {
            return Ok(Some(number));
        }
        end = journal::row(run, number, 0);
    }
}
