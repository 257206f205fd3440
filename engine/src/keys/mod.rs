//! The schema: everything that is stored, visible in one place.
//!
//! A key is the shard (2 bytes), the family's number (1 byte) and the family's own parts, all big
//! endian, so that the order of bytes is the order of values. A value is one positional MessagePack
//! record. Numbers are never used again; fields are only added at the end.
//!
//! | no. | family | space | key | value | written |
//! |---|---|---|---|---|---|
//! | 1 | tally | long-lived | – | [`Tally`] | with every batch that starts or ends runs |
//! | 2 | index | long-lived | namespace, run id | [`IndexRecord`] | at start |
//! | 3 | queue | long-lived | queue number | [`QueueRecord`] | when a queue is first named |
//! | 4 | stopped | long-lived | run number | [`StoppedRecord`] | when a run is parked or paused |
//! | 5 | dead | long-lived | died at, run number | [`DeadRecord`] | when a run dies |
//! | 6 | queued | short-lived | queue, priority, sequence | [`QueuedRecord`] | when a run waits for a worker |
//! | 7 | lease | short-lived | slot | [`LeaseRecord`] | once a turn |
//! | 8 | timer | short-lived | due, run number | [`TimerRecord`] | when a run is suspended |
//! | 9 | journal | generation | run number, entry, chunk | a stored entry, or a part | once an entry |
//! | 10 | generation | long-lived | generation | [`GenerationRecord`] | at the first start of a day |
//! | 11 | moved | long-lived | run number | [`MovedRecord`] | when a run outlives its generation |
//! | 12 | mark | long-lived | – | [`Mark`] | about once a second |
//! | 13 | pool | long-lived | queue number | [`PoolRecord`] | with every batch that moves runs of the queue |
//! | 15 | audit | long-lived | done at, number | [`AuditRecord`] | with each action of an operator |
//! | 19 | unique | long-lived | namespace, key's hash | [`UniqueRecord`](unique::UniqueRecord) | at a start with a unique key |
//! | 20 | memo | long-lived | namespace, key's hash | [`MemoRecord`](memo::MemoRecord) | with the first result for a memo key |
//! | 21 | batch | long-lived | slot | [`BatchRecord`](batch::BatchRecord) | with every batch that starts or ends runs of it |
//! | 22 | expiry | long-lived | instant, what, namespace, hash | nothing; without an instant [`ExpiryMark`](expiry::ExpiryMark) | with what expires |
//! | 23 | ended batch | long-lived | namespace, name's hash | [`BatchRecord`](batch::BatchRecord) | when a batch ends |
//! | 24 | follow-up | long-lived | slot | [`FollowUpRecord`](batch::FollowUpRecord) | when a batch gets its follow-up |
//! | 26 | applied request | long-lived | slot | [`AppliedRequestRecord`](applied_request::AppliedRequestRecord) | with each operator's request about a queue or a schedule |
//! | 17 | schedule | long-lived | schedule number | [`ScheduleRecord`] | when a schedule is set |
//! | 18 | schedule state | long-lived | schedule number | [`ScheduleState`] | with each occurrence, in the batch of its run |
//!
//! Scans never start where deletes happen: windows of lanes and timers go on behind the cursors
//! kept in [`Mark`]; slots of leases are used again, lowest first.

pub mod applied_request;
pub mod batch;
pub mod expiry;
pub mod journal;
pub mod memo;
pub mod unique;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::dead::AuditAction;
use crate::model::id::{Namespace, ProcessInstance, RequestId, RunId, RunNo, Token};
use crate::model::queue::QueueSettings;
use crate::model::run::RunState;
use crate::model::schedule::ScheduleSpec;
pub use crate::model::schedule::ScheduleState;
use crate::model::time::Time;
use crate::numbered::{Undecodable, decode_fields, encode_fields};

/// The number of the engine's stored format, beside the store's own.
pub const FORMAT: u32 = 1;

/// Lanes named in the [`Mark`], so that it fits a value however many queues there are.
pub const HEADS_MAX: usize = 128;

/// The shard every key begins with. A node has one.
pub const SHARD: u16 = 0;

/// What a key is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Family {
    /// Counters.
    Tally = 1,
    /// Run id to run number.
    Index = 2,
    /// Queue number to name.
    Queue = 3,
    /// Parked and paused runs.
    Stopped = 4,
    /// Dead letters.
    Dead = 5,
    /// Runs that wait for a worker.
    Queued = 6,
    /// Runs that a worker holds.
    Lease = 7,
    /// Runs that wait for time to pass.
    Timer = 8,
    /// Journals.
    Journal = 9,
    /// Where each generation's run numbers begin.
    Generation = 10,
    /// Runs whose journal was copied to a later generation.
    Moved = 11,
    /// Engine time and cursors.
    Mark = 12,
    /// What each queue counts, and what is left of its rate limit.
    Pool = 13,
    /// What operators did.
    Audit = 15,
    /// Who holds a unique key.
    Unique = 19,
    /// The first results of memoized steps.
    Memo = 20,
    /// Batches that have not ended.
    Batch = 21,
    /// What is deleted when its time is over.
    Expiry = 22,
    /// Batches that have ended.
    EndedBatch = 23,
    /// What follows batches that have not ended.
    FollowUp = 24,
    /// Operators' requests that were applied, the last ones.
    AppliedRequest = 26,
    /// Schedules.
    Schedule = 17,
    /// How far schedules are.
    ScheduleState = 18,
}

impl Family {
    /// All families.
    pub const ALL: [Self; 23] = [
        Self::Tally,
        Self::Index,
        Self::Queue,
        Self::Stopped,
        Self::Dead,
        Self::Queued,
        Self::Lease,
        Self::Timer,
        Self::Journal,
        Self::Generation,
        Self::Moved,
        Self::Mark,
        Self::Pool,
        Self::Audit,
        Self::Unique,
        Self::Memo,
        Self::Batch,
        Self::Expiry,
        Self::EndedBatch,
        Self::FollowUp,
        Self::AppliedRequest,
        Self::Schedule,
        Self::ScheduleState,
    ];

    /// The family of a stored key.
    pub fn from_key(key: &[u8]) -> Option<Self> {
        let number = *key.get(2)?;
        Self::ALL.into_iter().find(|family| *family as u8 == number)
    }
}

/// Builds a key.
struct KeyBuilder(Vec<u8>);

impl KeyBuilder {
    fn new(family: Family) -> Self {
        let mut bytes = Vec::with_capacity(24);
        bytes.extend_from_slice(&SHARD.to_be_bytes());
        bytes.push(family as u8);
        Self(bytes)
    }

    fn part(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn done(self) -> Bytes {
        self.0.into()
    }
}

/// The bytes before which all keys of a family lie, behind `prefix`: the smallest key that is
/// larger than all of them.
pub fn end_of(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end.into()
}

/// The prefix of a whole family.
pub fn family(family: Family) -> Bytes {
    KeyBuilder::new(family).done()
}

/// Where the counters are.
pub fn tally() -> Bytes {
    family(Family::Tally)
}

/// Where engine time and the cursors are.
pub fn mark() -> Bytes {
    family(Family::Mark)
}

/// Where a run's number is.
pub fn index(namespace: Namespace, id: RunId) -> Bytes {
    KeyBuilder::new(Family::Index).part(&namespace.0.to_be_bytes()).part(&id.0.to_be_bytes()).done()
}

/// Where a queue's name is.
pub fn queue(number: u32) -> Bytes {
    KeyBuilder::new(Family::Queue).part(&number.to_be_bytes()).done()
}

/// Where a queue's counts are.
pub fn pool(queue: u32) -> Bytes {
    KeyBuilder::new(Family::Pool).part(&queue.to_be_bytes()).done()
}

/// Where it says why a run is stopped.
pub fn stopped(run: RunNo) -> Bytes {
    KeyBuilder::new(Family::Stopped).part(&run.0.to_be_bytes()).done()
}

/// Where a dead letter is.
pub fn dead(at: Time, run: RunNo) -> Bytes {
    KeyBuilder::new(Family::Dead).part(&at.0.to_be_bytes()).part(&run.0.to_be_bytes()).done()
}

/// Where a queued run waits.
pub fn queued(queue: u32, priority: u8, sequence: u64) -> Bytes {
    KeyBuilder::new(Family::Queued)
        .part(&queue.to_be_bytes())
        .part(&[priority])
        .part(&sequence.to_be_bytes())
        .done()
}

/// The prefix of one lane of a queue.
pub fn lane(queue: u32, priority: u8) -> Bytes {
    KeyBuilder::new(Family::Queued).part(&queue.to_be_bytes()).part(&[priority]).done()
}

/// The sequence in the key of a queued run.
pub fn sequence_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(8..16)?.try_into().ok()?))
}

/// Where a lease is.
pub fn lease(slot: u32) -> Bytes {
    KeyBuilder::new(Family::Lease).part(&slot.to_be_bytes()).done()
}

/// The slot in the key of a lease.
pub fn slot_of(key: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(key.get(3..7)?.try_into().ok()?))
}

/// Where a timer is.
pub fn timer(due: Time, run: RunNo) -> Bytes {
    KeyBuilder::new(Family::Timer).part(&due.0.to_be_bytes()).part(&run.0.to_be_bytes()).done()
}

/// The instant and the run in the key of a timer (or of a dead letter).
pub fn time_and_run_of(key: &[u8]) -> Option<(Time, RunNo)> {
    let time = u64::from_be_bytes(key.get(3..11)?.try_into().ok()?);
    let run = u64::from_be_bytes(key.get(11..19)?.try_into().ok()?);
    Some((Time(time), RunNo(run)))
}

/// Where it says with which run a generation begins.
pub fn generation(generation: u32) -> Bytes {
    KeyBuilder::new(Family::Generation).part(&generation.to_be_bytes()).done()
}

/// The number in a key of 4 bytes behind the family: queue, slot or generation.
pub fn number_of(key: &[u8]) -> Option<u32> {
    slot_of(key)
}

/// The run number in a key that has just that.
pub fn run_of(key: &[u8]) -> Option<RunNo> {
    Some(RunNo(u64::from_be_bytes(key.get(3..11)?.try_into().ok()?)))
}

/// Where it says to which generation a run was copied.
pub fn moved(run: RunNo) -> Bytes {
    KeyBuilder::new(Family::Moved).part(&run.0.to_be_bytes()).done()
}

/// Where an act is.
pub fn audit(at: Time, number: u64) -> Bytes {
    KeyBuilder::new(Family::Audit).part(&at.0.to_be_bytes()).part(&number.to_be_bytes()).done()
}

/// The instant and the number in the key of an act.
pub fn audit_of(key: &[u8]) -> Option<(Time, u64)> {
    time_and_run_of(key).map(|(at, number)| (at, number.0))
}

/// Where a schedule is.
pub fn schedule(number: u32) -> Bytes {
    KeyBuilder::new(Family::Schedule).part(&number.to_be_bytes()).done()
}

/// Where it says how far a schedule is.
pub fn schedule_state(number: u32) -> Bytes {
    KeyBuilder::new(Family::ScheduleState).part(&number.to_be_bytes()).done()
}

/// A stored record: positional MessagePack.
pub trait Record: Serialize + DeserializeOwned {
    /// Its name in messages.
    const WHAT: &'static str;

    /// Its bytes.
    fn to_bytes(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(64);
        encode_fields(self, &mut bytes);
        bytes.into()
    }

    /// Reads what `to_bytes` wrote.
    fn from_bytes(bytes: &[u8]) -> Result<Self, Undecodable> {
        decode_fields(Self::WHAT, bytes)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn golden_keys() {
        assert_eq!(
            hex(&index(Namespace(1), RunId(2))),
            "0000020000000100000000000000000000000000000002"
        );
        assert_eq!(hex(&queued(1, 2, 3)), "00000600000001020000000000000003");
        assert_eq!(hex(&lease(7)), "00000700000007");
        assert_eq!(hex(&pool(8)), "00000d00000008");
        assert_eq!(hex(&timer(Time(5), RunNo(6))), "00000800000000000000050000000000000006");
        assert_eq!(hex(&schedule(7)), "00001100000007");
        assert_eq!(hex(&schedule_state(7)), "00001200000007");
        assert_eq!(hex(&audit(Time(5), 6)), "00000f00000000000000050000000000000006");
        assert_eq!(audit_of(&audit(Time(5), 6)), Some((Time(5), 6)));
        assert_eq!(hex(&journal::row(RunNo(1), 2, 3)), "0000090000000000000001000000020003");
    }

    #[test]
    fn golden_records() {
        let tally = Tally { format: 1, next_run: 2, next_sequence: 3, runs: vec![1, 0] };
        assert_eq!(hex(&tally.to_bytes()), "94010203920100");
        let lease = LeaseRecord {
            run: RunNo(1),
            token: Token { store: 2, epoch: 3, lease: crate::model::id::LeaseNo(4) },
            process: ProcessInstance(5),
            build: "b".into(),
            workflow: "w".into(),
            queue: 6,
            priority: 7,
            sequence: 8,
            entries: 9,
            deaths: 0,
            avoid: vec![],
            tags: vec!["t".into()],
            since: Time(10),
            at: Time(11),
        };
        assert_eq!(
            hex(&lease.to_bytes()),
            "9e0193020304c41000000000000000000000000000000005a162a17706070809009091a1740a0b"
        );
        let pool = PoolRecord { queued: 1, delayed: 2, suspended: 3, level: 4, at: Time(5) };
        assert_eq!(hex(&pool.to_bytes()), "950102030405");
        let queue = QueueRecord {
            name: "q".into(),
            settings: QueueSettings {
                paused: true,
                concurrency: Some(2),
                ..QueueSettings::default()
            },
        };
        assert_eq!(hex(&queue.to_bytes()), "92a17194c302c0c0");
        let old = QueueRecord::from_bytes(&[0x91, 0xa1, 0x71]).unwrap();
        assert_eq!((old.name.as_str(), old.settings), ("q", QueueSettings::default()));
        assert_eq!(LeaseRecord::from_bytes(&lease.to_bytes()).unwrap(), lease);
    }

    #[test]
    fn golden_records_of_dead_letters_and_audit_entries() {
        let dead = DeadRecord { workflow: "w".into(), class: "c".into(), queue: "q".into() };
        assert_eq!(hex(&dead.to_bytes()), "93a177a163a171");
        let old = DeadRecord::from_bytes(&[0x92, 0xa1, b'w', 0xa1, b'c']).unwrap();
        assert_eq!(old.queue, "");
        let audit = AuditRecord {
            namespace: Namespace(1),
            principal: "ops".into(),
            kind: AuditAction::Redrive,
            run: Some(RunId(2)),
            subject: "n".into(),
            detail: String::new(),
            request_id: RequestId(3),
        };
        assert_eq!(
            hex(&audit.to_bytes()),
            "9701a36f707302c41000000000000000000000000000000002a16ea0c41000000000000000000000000000000003"
        );
    }

    #[test]
    fn golden_schedules() {
        use crate::model::schedule::{CronTimes, EveryTimes, Overlap, ScheduleSpec};
        let spec = ScheduleSpec {
            name: "n".into(),
            workflow: "w".into(),
            version: 1,
            queue: "q".into(),
            priority: 5,
            input: crate::model::payload::Payload(Bytes::from_static(&[1, 0xc0])),
            when: CronTimes { expression: "0 6 * * *".into(), zone: "UTC".into() }.into(),
            jitter_ms: 0,
            overlap: Overlap::QueueAll,
            catch_up_ms: 10_000,
            tags: Vec::new(),
        };
        let record =
            ScheduleRecord { namespace: Namespace(1), spec, set_at: Time(2), set_by: "p".into() };
        let bytes = record.to_bytes();
        assert_eq!(
            hex(&bytes),
            "94019aa16ea17701a17105c40201c0c4100192a9302036202a202a202aa35554430003cd271002a170"
        );
        assert_eq!(ScheduleRecord::from_bytes(&bytes).unwrap(), record);
        let every = EveryTimes { every_ms: 900_000, anchor: Time(0) };
        assert_eq!(hex(&crate::model::schedule::When::from(every).encode()), "0292ce000dbba000");
        let state = ScheduleState {
            at: Time(1),
            paused_by: None,
            next: Some(Time(3)),
            last: Some(Time(2)),
            last_run: Some(RunNo(7)),
            pending: vec![Time(4)],
            started: 5,
            skipped: 6,
            missed: 0,
        };
        assert_eq!(hex(&state.to_bytes()), "9901c00302079104050600");
        assert_eq!(ScheduleState::from_bytes(&state.to_bytes()).unwrap(), state);
    }

    #[test]
    fn the_order_of_keys_is_the_order_of_values() {
        let mut keys = vec![queued(1, 0, 255), queued(1, 0, 256), queued(1, 1, 0), queued(2, 0, 0)];
        let sorted = keys.clone();
        keys.sort();
        assert_eq!(keys, sorted);
        assert_eq!(end_of(&[0, 255]), Bytes::from_static(&[1]));
        assert_eq!(end_of(&[255]), Bytes::new());
    }
}
