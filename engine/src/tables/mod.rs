//! The schema: everything that is stored, visible in one place.
//!
//! A key is the shard (2 bytes), the table's number (1 byte) and the table's own parts, all big
//! endian, so that the order of bytes is the order of values. A value is one positional MessagePack
//! record. Numbers are never used again; fields are only added at the end.
//!
//! | no. | table | space | key | value | written |
//! |---|---|---|---|---|---|
//! | 1 | tally | long-lived | – | [`Tally`] | with every batch that starts or ends runs |
//! | 2 | index | long-lived | namespace, run id | [`IndexRecord`] | at start |
//! | 3 | queue | long-lived | queue number | [`QueueRecord`] | when a queue is first named |
//! | 4 | stopped | long-lived | run number | [`StoppedRecord`] | when a run is parked or paused |
//! | 5 | dead | long-lived | died at, run number | [`DeadRecord`] | when a run dies |
//! | 6 | queued | short-lived | queue, priority, sequence | [`QueuedRecord`] | when a run waits for a worker |
//! | 7 | lease | short-lived | slot | [`LeaseRecord`] | once a turn |
//! | 8 | timer | short-lived | due, run number | [`TimerRecord`] | when a run is suspended |
//! | 9 | journal | generation | run number, entry, part | [`JournalRow`]: a stored entry, or a part | once an entry |
//! | 10 | generation | long-lived | generation | [`GenerationRecord`] | at the first start of a day |
//! | 11 | moved | long-lived | run number | [`MovedRecord`] | when a run outlives its generation |
//! | 12 | mark | long-lived | – | [`Mark`] | about once a second |
//! | 13 | pool | long-lived | queue number | [`PoolRecord`] | with every batch that moves runs of the queue |
//! | 15 | audit | long-lived | done at, number | [`AuditRecord`] | with each action of an operator |
//! | 17 | schedule | long-lived | schedule number | [`ScheduleRecord`] | when a schedule is set |
//! | 18 | schedule-state | long-lived | schedule number | [`ScheduleState`] | with each occurrence, in the batch of its run |
//! | 19 | unique | long-lived | namespace, key's hash | [`UniqueRecord`] | at a start with a unique key |
//! | 20 | memo | long-lived | namespace, key's hash | [`MemoRecord`] | with the first result for a memo key |
//! | 21 | batch | long-lived | slot | [`BatchRecord`] | with every batch that starts or ends runs of it |
//! | 22 | expiry | long-lived | instant, kind, namespace, hash | [`Empty`]; without any part [`ExpiryMark`](expiry::ExpiryMark) | with a row that expires |
//! | 23 | ended-batch | long-lived | namespace, name's hash | [`BatchRecord`] | when a batch ends |
//! | 24 | follow-up | long-lived | slot | [`FollowUpRecord`] | when a batch gets its follow-up |
//! | 26 | applied-request | long-lived | slot | [`AppliedRequestRecord`] | with each operator's request about a queue or a schedule |
//!
//! Scans never start where deletes happen: windows of lanes and timers go on behind the cursors
//! kept in [`Mark`]; slots of leases are used again, lowest first.
//!
//! # Adding a table
//!
//! A line in `tables!`, below. Then the compiler asks for the rest: whether it is read at open
//! (`store_reader.rs`), which invariants hold of its rows (`core/invariants.rs`), how a scenario
//! prints it (`core/scenarios.rs`), what the simulation's mirror makes of it
//! (`sim/src/durable.rs`), and a sample (`samples.rs`), which is round-tripped and compared with
//! its golden bytes. `store check`, `store dump`, the fuzz targets and the proofs of the keys'
//! order follow from the line itself.

pub mod applied_request;
pub mod batch;
mod declare;
pub mod expiry;
pub mod journal;
mod key;
pub mod memo;
mod record;
#[cfg(any(test, feature = "inspect"))]
pub mod samples;
#[cfg(test)]
mod tests;
pub mod unique;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
#[cfg(any(test, feature = "inspect"))]
use stepwell_storage::Op;
use stepwell_storage::Space;

use self::applied_request::AppliedRequestRecord;
use self::batch::{BatchRecord, FollowUpRecord};
use self::declare::tables;
use self::expiry::{ExpiryKey, ExpiryRecord};
use self::journal::JournalRow;
#[cfg(feature = "inspect")]
pub use self::key::SHARD;
pub use self::key::{FixedSpace, HEAD_BYTES, KeyPart, TableKey, end_of};
use self::memo::MemoRecord;
pub use self::record::{Empty, Record, TableValue};
use self::unique::UniqueRecord;
use crate::model::dead::AuditAction;
use crate::model::id::{Namespace, ProcessInstance, RequestId, RunId, RunNo, Token};
use crate::model::queue::QueueSettings;
use crate::model::run::RunState;
use crate::model::schedule::ScheduleSpec;
pub use crate::model::schedule::ScheduleState;
use crate::model::time::Time;
use crate::numbered::Undecodable;

/// The number of the records' format, beside the store's own.
///
/// Versions of format 1 refuse records that have a field more than they know, without saying why;
/// from 2 on a field that is not known is skipped. The bytes are the same.
pub const FORMAT: u32 = 2;

/// The oldest format of records that this version opens. It goes on as [`FORMAT`].
pub const FORMAT_OLDEST: u32 = 1;

/// Lanes named in the [`Mark`], so that it fits a value however many queues there are.
pub const HEADS_MAX: usize = 128;

tables! {
    /// Counters.
    1 => Tally "tally": long_lived, TallyKey {} => Tally;
    /// Run ids and their run numbers.
    2 => Index "index": long_lived, IndexKey { namespace: Namespace, id: RunId } => IndexRecord;
    /// Names and settings of queues.
    3 => Queue "queue": long_lived, QueueKey { queue: u32 } => QueueRecord;
    /// Parked and paused runs.
    4 => Stopped "stopped": long_lived, StoppedKey { run: RunNo } => StoppedRecord;
    /// Dead letters.
    5 => Dead "dead": long_lived, DeadKey { died_at: Time, run: RunNo } => DeadRecord;
    /// Runs that wait for a worker.
    6 => Queued "queued": short_lived,
        QueuedKey { queue: u32, priority: u8, sequence: u64 } => QueuedRecord;
    /// Runs that a worker holds.
    7 => Lease "lease": short_lived, LeaseKey { slot: u32 } => LeaseRecord;
    /// Runs that wait for time to pass.
    8 => Timer "timer": short_lived, TimerKey { due: Time, run: RunNo } => TimerRecord;
    /// Journals.
    9 => Journal "journal": generation,
        JournalKey { run: RunNo, entry: u32, part: u16 } => JournalRow;
    /// The first run number of each generation.
    10 => Generation "generation": long_lived,
        GenerationKey { generation: u32 } => GenerationRecord;
    /// Runs whose journal was copied to a later generation.
    11 => Moved "moved": long_lived, MovedKey { run: RunNo } => MovedRecord;
    /// Engine time and cursors.
    12 => Mark "mark": long_lived, MarkKey {} => Mark;
    /// Counts of queues, and what is left of their rate limits.
    13 => Pool "pool": long_lived, PoolKey { queue: u32 } => PoolRecord;
    /// What operators did.
    15 => Audit "audit": long_lived, AuditKey { at: Time, number: u64 } => AuditRecord;
    /// Schedules.
    17 => Schedule "schedule": long_lived, ScheduleKey { schedule: u32 } => ScheduleRecord;
    /// How far schedules are.
    18 => ScheduleState "schedule-state": long_lived,
        ScheduleStateKey { schedule: u32 } => ScheduleState;
    /// Runs that hold unique keys.
    19 => Unique "unique": long_lived,
        UniqueHolderKey { namespace: Namespace, hash: u128 } => UniqueRecord;
    /// First results for memo keys.
    20 => Memo "memo": long_lived,
        MemoResultKey { namespace: Namespace, hash: u128 } => MemoRecord;
    /// Batches that have not ended.
    21 => Batch "batch": long_lived, OpenBatchKey { slot: u32 } => BatchRecord;
    /// Rows that are deleted when their time is over.
    22 => Expiry "expiry": long_lived, ExpiryKey => ExpiryRecord;
    /// Batches that have ended.
    23 => EndedBatch "ended-batch": long_lived,
        EndedBatchKey { namespace: Namespace, hash: u128 } => BatchRecord;
    /// What follows batches that have not ended.
    24 => FollowUp "follow-up": long_lived, FollowUpKey { slot: u32 } => FollowUpRecord;
    /// The last of the operators' requests that were applied.
    26 => AppliedRequest "applied-request": long_lived,
        AppliedRequestKey { slot: u32 } => AppliedRequestRecord;
}

/// A visitor of all tables, by the types of their keys: see [`Table::each`].
pub trait EachTable {
    /// Is called once for each table.
    fn table<K: TableKey>(&mut self);
}

/// Which spaces a table lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpaceKind {
    /// [`Space::LongLived`].
    LongLived,
    /// [`Space::ShortLived`].
    ShortLived,
    /// Some [`Space::Generation`].
    Generation,
}

impl SpaceKind {
    /// The kind of a space.
    pub fn of(space: Space) -> Self {
        match space {
            Space::LongLived => Self::LongLived,
            Space::ShortLived => Self::ShortLived,
            Space::Generation(_) => Self::Generation,
        }
    }
}

/// Why a stored row is not one of a table's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRow {
    /// No table of this version has such keys.
    #[error("a key of no known table")]
    Unknown,
    /// The table's rows are not in that space.
    #[error("a row of table {} is in space {space}", table.name())]
    Space {
        /// Which table.
        table: Table,
        /// Where the row was found.
        space: Space,
    },
    /// The key has not the parts that keys of the table have.
    #[error("a key of table {} is not well formed", table.name())]
    Key {
        /// Which table.
        table: Table,
    },
    /// The value is not the table's record.
    #[error(transparent)]
    Record(#[from] Undecodable),
}

impl BadRow {
    /// The table of a key that was found in `space`.
    fn table_in(space: Space, key: &[u8]) -> Result<Table, Self> {
        let table = Table::from_key(key).ok_or(Self::Unknown)?;
        if table.space() == SpaceKind::of(space) {
            Ok(table)
        } else {
            Err(Self::Space { table, space })
        }
    }
}

/// Reads a stored key of a table.
pub fn read_key<K: TableKey>(key: &[u8]) -> Result<K, BadRow> {
    K::from_bytes(key).ok_or(BadRow::Key { table: K::TABLE })
}

/// Reads a stored row of a table.
pub fn read_row<K: TableKey>(key: &[u8], value: &Bytes) -> Result<(K, K::Record), BadRow> {
    let key: K = read_key(key)?;
    let record = key.read_record(value)?;
    Ok((key, record))
}

#[cfg(any(test, feature = "inspect"))]
fn read_change<K: TableKey>(op: &Op) -> Result<(K, Option<K::Record>), BadRow> {
    let key: K = read_key(op.key())?;
    let record = op.value().map(|value| key.read_record(value)).transpose()?;
    Ok((key, record))
}

// One word a table, and never the same.
const _: () = {
    let mut at = 0;
    while at < Table::ALL.len() {
        let mut other = at + 1;
        while other < Table::ALL.len() {
            let (a, b) = (Table::ALL[at], Table::ALL[other]);
            assert!((a as u8) < b as u8, "tables are declared in the order of their numbers");
            assert!(!is_same(a.name().as_bytes(), b.name().as_bytes()), "names are distinct");
            other += 1;
        }
        at += 1;
    }
};

const fn is_same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

impl QueuedKey {
    /// What the keys of one lane of a queue begin with, and no others.
    pub fn lane(queue: u32, priority: u8) -> Bytes {
        let mut bytes = key::head(Table::Queued, Self::PARTS_BYTES);
        queue.put(&mut bytes);
        priority.put(&mut bytes);
        bytes.into()
    }
}

macro_rules! records {
    ($($(#[$meta:meta])* $name:ident { $($(#[$fmeta:meta])* $field:ident : $type:ty),* $(,)? })+) => {
        $(
            $(#[$meta])*
            #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
            pub struct $name { $($(#[$fmeta])* pub $field: $type),* }

            impl Record for $name {
                const WHAT: &'static str = stringify!($name);
            }
        )+
    };
}

impl Record for ScheduleState {
    const WHAT: &'static str = "ScheduleState";
}

records! {
    /// Counters that are exact at every commit.
    Tally {
        /// [`FORMAT`].
        format: u32,
        /// The next run's number.
        next_run: u64,
        /// The next queued sequence.
        next_sequence: u64,
        /// Runs in each state, in the order of [`RunState::ALL`].
        runs: Vec<u64>,
    }

    /// Finds a run by its id.
    IndexRecord {
        /// Its number.
        run: RunNo,
    }

    /// A queue's name.
    QueueRecord {
        /// The name.
        name: String,
        /// What an operator has set.
        #[serde(default)]
        settings: QueueSettings,
    }

    /// What a queue counts, exact at every commit, and what is left of its rate limit. Leased runs
    /// are counted at open.
    PoolRecord {
        /// Runs that wait for a worker.
        queued: u64,
        /// Delayed runs that are not due.
        delayed: u64,
        /// Runs that wait for a timer or a backoff.
        suspended: u64,
        /// What the bucket held at `at`, in units of which a dispatch takes `per_ms` and a
        /// millisecond brings `count`.
        level: u64,
        /// When that was.
        at: Time,
    }

    /// Why a run is stopped.
    StoppedRecord {
        /// Parked or paused.
        state: RunState,
        /// Why, for people.
        reason: String,
        /// Builds on which it did not go on; another one is tried by itself.
        builds: Vec<String>,
        /// When.
        at: Time,
        /// Its workflow.
        workflow: String,
    }

    /// A dead letter, for the listing; everything else is in the journal.
    DeadRecord {
        /// The workflow.
        workflow: String,
        /// The failure's class.
        class: String,
        /// Its queue. Empty in what older versions wrote.
        #[serde(default)]
        queue: String,
    }

    /// What an operator did.
    AuditRecord {
        /// Whose runs or queues.
        namespace: Namespace,
        /// Who.
        principal: String,
        /// What.
        kind: AuditAction,
        /// On which run, if on one.
        run: Option<RunId>,
        /// On what else, by its name, or the run's name.
        subject: String,
        /// Why, or what it was done with.
        detail: String,
        /// The id of the request that did it.
        request_id: RequestId,
    }

    /// A run that waits for a worker.
    QueuedRecord {
        /// The run.
        run: RunNo,
        /// Its workflow.
        workflow: String,
        /// Workers lost in a row while they held it.
        deaths: u32,
        /// Builds not to give it to.
        avoid: Vec<String>,
        /// Only workers that offer all of these get it.
        #[serde(default)]
        tags: Vec<String>,
        /// Since when it has its place in line.
        #[serde(default)]
        since: Time,
    }

    /// A run that a worker holds.
    LeaseRecord {
        /// The run.
        run: RunNo,
        /// Under this token.
        token: Token,
        /// The instance of the worker process that holds the run.
        process: ProcessInstance,
        /// The build that process runs.
        build: String,
        /// Its workflow.
        workflow: String,
        /// Its queue.
        queue: u32,
        /// Its priority.
        priority: u8,
        /// Its place in the queue, to go back to.
        sequence: u64,
        /// Entries in its journal when it was leased: more of them mean progress.
        entries: u32,
        /// Workers lost in a row while they held it.
        deaths: u32,
        /// Builds not to give it to.
        avoid: Vec<String>,
        /// Only workers that offer all of these get it.
        #[serde(default)]
        tags: Vec<String>,
        /// Since when it had its place in line.
        #[serde(default)]
        since: Time,
        /// When it was leased; going on with a returned worker is no new lease.
        #[serde(default)]
        at: Time,
    }

    /// A run that waits for time to pass.
    TimerRecord {
        /// Its workflow.
        workflow: String,
        /// The queue it goes to then.
        queue: u32,
        /// Its priority.
        priority: u8,
        /// Whether it was never leased (a delayed start).
        delayed: bool,
        /// Only workers that offer all of these get it.
        #[serde(default)]
        tags: Vec<String>,
        /// The memo keys it waits for; then its instant is the end of time.
        #[serde(default)]
        memo: Option<memo::MemoWait>,
    }

    /// Where a generation's run numbers begin.
    GenerationRecord {
        /// The first run number of the generation.
        first: RunNo,
    }

    /// A run whose journal was copied to a later generation.
    MovedRecord {
        /// The generation it is in now.
        generation: u32,
    }

    /// Engine time and cursors.
    Mark {
        /// Engine time has not passed this instant.
        time: Time,
        /// Per queue and priority: no queued run before this sequence. At most [`HEADS_MAX`], those
        /// that wait longest.
        heads: Vec<(u32, u8, u64)>,
        /// No timer before this instant.
        timers: Time,
        /// In the lanes that `heads` does not name: no queued run before this sequence.
        #[serde(default)]
        rest: u64,
        /// No act before this instant.
        #[serde(default)]
        audit: Time,
    }

    /// A schedule.
    ScheduleRecord {
        /// Whose it is.
        namespace: Namespace,
        /// What it starts, and when.
        spec: ScheduleSpec,
        /// When it was set to this.
        set_at: Time,
        /// By whom.
        set_by: String,
    }
}

impl Default for PoolRecord {
    /// Of a queue without runs.
    fn default() -> Self {
        Self { queued: 0, delayed: 0, suspended: 0, level: 0, at: Time(0) }
    }
}
