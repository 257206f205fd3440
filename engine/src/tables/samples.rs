//! A row of each table, for golden tests and as seeds for fuzzing.

use super::applied_request::AppliedRequestRecord;
use super::batch::{BatchRecord, FollowUpRecord};
use super::expiry::{Expires, Expiry, ExpiryKey, ExpiryRecord};
use super::journal::JournalRow;
use super::memo::{MemoRecord, MemoWait};
use super::unique::UniqueRecord;
use super::*;
use crate::model::batch::{BatchCounts, BatchNo, Span};
use crate::model::id::{LeaseNo, MemoKey};
use crate::model::payload::Payload;
use crate::model::queue::RateLimit;
use crate::model::request::{Caller, StartRun};
use crate::model::schedule::{CronTimes, Overlap};
use crate::model::unique::{Unique, UniqueKey};

const NAMESPACE: Namespace = Namespace(3);
const HASH: u128 = 0x0405;
const RUN: RunNo = RunNo(0x0102);
const ID: RunId = RunId(0x0607);

/// A row of a table: no part of its key and no field of its record has its default, where it may
/// have another value.
pub fn sample(table: Table) -> TableRow {
    match table {
        Table::Tally => {
            let tally = Tally { format: 1, next_run: 2, next_sequence: 3, runs: vec![1, 0] };
            TableRow::Tally(TallyKey {}, tally)
        }
        Table::Index => {
            TableRow::Index(IndexKey { namespace: NAMESPACE, id: ID }, IndexRecord { run: RUN })
        }
        Table::Queue => {
            let rate = Some(RateLimit { count: 3, per_ms: 1_000, burst: 4 });
            let (paused, concurrency, oldest_every) = (true, Some(2), Some(5));
            let settings = QueueSettings { paused, concurrency, rate, oldest_every };
            TableRow::Queue(QueueKey { queue: 6 }, QueueRecord { name: "q".into(), settings })
        }
        Table::Stopped => {
            let record = StoppedRecord {
                state: RunState::Parked,
                reason: "a mismatch".into(),
                builds: vec!["b1".into()],
                at: Time(7),
                workflow: "order".into(),
            };
            TableRow::Stopped(StoppedKey { run: RUN }, record)
        }
        Table::Dead => {
            let (workflow, class, queue) = ("order".into(), "declined".into(), "q".into());
            let key = DeadKey { died_at: Time(5), run: RUN };
            TableRow::Dead(key, DeadRecord { workflow, class, queue })
        }
        Table::Queued => {
            let record = QueuedRecord {
                run: RUN,
                workflow: "order".into(),
                deaths: 1,
                avoid: vec!["b1".into()],
                tags: vec!["gpu".into()],
                since: Time(4),
            };
            TableRow::Queued(QueuedKey { queue: 6, priority: 2, sequence: 11 }, record)
        }
        Table::Lease => {
            let record = LeaseRecord {
                run: RUN,
                token: Token { store: 7, epoch: 2, lease: LeaseNo(9) },
                process: ProcessInstance(4),
                build: "b1".into(),
                workflow: "order".into(),
                queue: 6,
                priority: 2,
                sequence: 11,
                entries: 3,
                deaths: 1,
                avoid: vec!["b0".into()],
                tags: vec!["gpu".into()],
                since: Time(4),
                at: Time(5),
            };
            TableRow::Lease(LeaseKey { slot: 6 }, record)
        }
        Table::Timer => {
            let keys = vec![MemoKey(HASH)];
            let memo = MemoWait { namespace: NAMESPACE, keys, wakes_at: Some(Time(8)) };
            let record = TimerRecord {
                workflow: "order".into(),
                queue: 6,
                priority: 2,
                delayed: true,
                tags: vec!["gpu".into()],
                memo: Some(memo),
            };
            TableRow::Timer(TimerKey { due: Time(5), run: RUN }, record)
        }
        Table::Journal => {
            let row = Bytes::from_static(&[0, 1, 2, 3]);
            TableRow::Journal(JournalKey { run: RUN, entry: 7, part: 1 }, JournalRow(row))
        }
        Table::Generation => {
            TableRow::Generation(GenerationKey { generation: 6 }, GenerationRecord { first: RUN })
        }
        Table::Moved => TableRow::Moved(MovedKey { run: RUN }, MovedRecord { generation: 6 }),
        Table::Mark => {
            let (heads, timers) = (vec![(6, 2, 11)], Time(3));
            let mark = Mark { time: Time(1), heads, timers, rest: 4, audit: Time(5) };
            TableRow::Mark(MarkKey {}, mark)
        }
        Table::Pool => {
            let pool = PoolRecord { queued: 1, delayed: 2, suspended: 3, level: 4, at: Time(5) };
            TableRow::Pool(PoolKey { queue: 6 }, pool)
        }
        Table::Audit => {
            let record = AuditRecord {
                namespace: NAMESPACE,
                principal: "ann".into(),
                kind: AuditAction::Redrive,
                run: Some(ID),
                subject: "order-17".into(),
                detail: "why".into(),
                request_id: RequestId(14),
            };
            TableRow::Audit(AuditKey { at: Time(5), number: 12 }, record)
        }
        Table::Schedule => {
            let set_by = "ann".into();
            let record =
                ScheduleRecord { namespace: NAMESPACE, spec: schedule(), set_at: Time(2), set_by };
            TableRow::Schedule(ScheduleKey { schedule: 6 }, record)
        }
        Table::ScheduleState => {
            let state = ScheduleState {
                at: Time(1),
                paused_by: Some("ann".into()),
                next: Some(Time(3)),
                last: Some(Time(2)),
                last_run: Some(RUN),
                pending: vec![Time(4)],
                started: 5,
                skipped: 6,
                missed: 7,
            };
            TableRow::ScheduleState(ScheduleStateKey { schedule: 6 }, state)
        }
        Table::Unique => TableRow::Unique(
            UniqueHolderKey { namespace: NAMESPACE, hash: HASH },
            UniqueRecord { run: RUN, id: ID, until: Time(3) },
        ),
        Table::Memo => TableRow::Memo(
            MemoResultKey { namespace: NAMESPACE, hash: HASH },
            MemoRecord { run: RUN, entry: 2, until: Time(3) },
        ),
        Table::Batch => TableRow::Batch(OpenBatchKey { slot: 6 }, batch(None)),
        Table::Expiry => {
            let what = Expires::Batch;
            let due = Expiry { at: Time(5), what, namespace: NAMESPACE, hash: HASH };
            TableRow::Expiry(ExpiryKey::Due(due), ExpiryRecord::Due)
        }
        Table::EndedBatch => {
            let key = EndedBatchKey { namespace: NAMESPACE, hash: HASH };
            TableRow::EndedBatch(key, batch(Some(Time(10))))
        }
        Table::FollowUp => {
            let caller = Caller {
                namespace: NAMESPACE,
                principal: "ann".into(),
                request_id: RequestId(14),
                traceparent: Some("t".into()),
            };
            TableRow::FollowUp(FollowUpKey { slot: 6 }, FollowUpRecord { caller, run: start() })
        }
        Table::AppliedRequest => {
            let record = AppliedRequestRecord { number: 13, request_id: RequestId(14) };
            TableRow::AppliedRequest(AppliedRequestKey::of(13), record)
        }
    }
}

fn batch(ended_at: Option<Time>) -> BatchRecord {
    BatchRecord {
        no: BatchNo(5),
        namespace: NAMESPACE,
        name: "n".into(),
        sealed: true,
        counts: BatchCounts { total: 6, completed: 1, dead: 2, cancelled: 3 },
        opened_at: Time(9),
        ended_at,
        follow_up: ended_at.map(|_| ID),
        span: Span { first: RunNo(4), last: RunNo(6) },
    }
}

fn input() -> Payload {
    Payload(Bytes::from_static(b"\x01\x2a"))
}

fn start() -> StartRun {
    let ttl = std::time::Duration::from_millis(17);
    StartRun {
        id: ID,
        name: Some("order-17".into()),
        workflow: "order".into(),
        version: 1,
        queue: "q".into(),
        priority: 5,
        delay_ms: 16,
        input: input(),
        tags: vec!["gpu".into()],
        unique: Some(UniqueKey::new("k", Unique::For(ttl))),
    }
}

fn schedule() -> ScheduleSpec {
    ScheduleSpec {
        name: "nightly".into(),
        workflow: "order".into(),
        version: 1,
        queue: "q".into(),
        priority: 5,
        input: input(),
        when: CronTimes { expression: "0 6 * * *".into(), zone: "UTC".into() }.into(),
        jitter_ms: 18,
        overlap: Overlap::QueueOne,
        catch_up_ms: 10_000,
        tags: vec!["gpu".into()],
    }
}
