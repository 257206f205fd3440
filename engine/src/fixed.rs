//! What a rename must not change: every number and string of the engine that reaches a disk, a hash
//! or another system, compared with `golden/fixed.txt`.
//!
//! The labels in that file are plain English and no identifiers, so that identifiers may change and
//! the file may not. With `UPDATE_GOLDEN=1` the file is written anew; a line of it that changes is
//! a change of format, and needs what a change of format needs.

use std::fmt::Write;

use bytes::Bytes;

use crate::model::batch::{self, BatchCounts, BatchNo, Span};
use crate::model::chain;
use crate::model::dead::{AuditAction, UNREGISTERED_WORKFLOW, WORKER_LOST};
use crate::model::entry::{
    AttemptFailed, CancelRequested, Cancelled, Completed, Died, Discarded, Entry, FunctionEnd,
    InputEdited, Redriven, SourceLocation, Started, StepCompleted, StepFailed, TimerArmed,
    TimerFired,
};
use crate::model::failure::{Failure, FailureKind, ONCE, PANIC, PAYLOAD, TIMEOUT_CLASS};
use crate::model::id::{
    CommandIndex, LeaseNo, MemoKey, Namespace, ProcessInstance, RequestId, RunId, RunNo, Token,
};
use crate::model::payload::Payload;
use crate::model::queue::{QueueSettings, RateLimit};
use crate::model::request::{Caller, Refusal, StartRun};
use crate::model::retry::Retry;
use crate::model::run::{Outcome, RunState};
use crate::model::schedule::{CronTimes, EveryTimes, Overlap, ScheduleSpec, ScheduleState, When};
use crate::model::time::Time;
use crate::model::unique::{Unique, UniqueKey};
use crate::numbered::later;
use crate::tables::applied_request::AppliedRequestRecord;
use crate::tables::batch::{BatchRecord, FollowUpRecord};
use crate::tables::expiry::{Expires, Expiry, ExpiryMark, ExpiryMarkKey};
use crate::tables::memo::{MemoRecord, MemoWait};
use crate::tables::unique::UniqueRecord;
use crate::tables::{
    AppliedRequestKey, AuditKey, AuditRecord, DeadKey, DeadRecord, EndedBatchKey, FollowUpKey,
    GenerationKey, GenerationRecord, IndexKey, IndexRecord, JournalKey, LeaseKey, LeaseRecord,
    Mark, MarkKey, MemoResultKey, MovedKey, MovedRecord, OpenBatchKey, PoolKey, PoolRecord,
    QueueKey, QueueRecord, QueuedKey, QueuedRecord, Record, ScheduleKey, ScheduleRecord,
    ScheduleStateKey, StoppedKey, StoppedRecord, TableKey, Tally, TallyKey, TimerKey, TimerRecord,
    UniqueHolderKey,
};
use crate::wire::message::{Answer, Message, Request};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The lines of the golden file, as this code makes them.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn section(&mut self, title: &str) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        let _ = writeln!(self.0, "{gap}# {title}");
    }

    fn bytes(&mut self, label: &str, bytes: impl AsRef<[u8]>) {
        self.text(label, hex(bytes.as_ref()));
    }

    /// A record: as this version writes it, and read from what a later version would write, which
    /// has one field more in everything.
    fn record<R: Record + PartialEq + std::fmt::Debug>(&mut self, label: &str, record: R) {
        let later = later::write(|| record.to_bytes());
        assert_ne!(later, record.to_bytes(), "{label}");
        assert_eq!(R::from_bytes(&later).as_ref(), Ok(&record), "{label} of a later version");
        self.bytes(label, record.to_bytes());
    }

    fn text(&mut self, label: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{label} = {value}");
    }
}

const RUN: RunNo = RunNo(0x0102);
const SPACE: Namespace = Namespace(3);
const HASH: u128 = 0x0405;
const TOKEN: Token = Token { store: 7, epoch: 2, lease: LeaseNo(9) };

fn keys_of_rows(lines: &mut Lines) {
    lines.section("keys of rows");
    lines.bytes("tally", TallyKey {}.to_bytes());
    lines.bytes("index", IndexKey { namespace: SPACE, id: RunId(HASH) }.to_bytes());
    lines.bytes("queue", QueueKey { queue: 6 }.to_bytes());
    lines.bytes("stopped run", StoppedKey { run: RUN }.to_bytes());
    lines.bytes("dead letter", DeadKey { died_at: Time(5), run: RUN }.to_bytes());
    lines.bytes("queued run", QueuedKey { queue: 6, priority: 2, sequence: 11 }.to_bytes());
    lines.bytes("one priority of a queue", QueuedKey::lane(6, 2));
    lines.bytes("lease", LeaseKey { slot: 6 }.to_bytes());
    lines.bytes("timer", TimerKey { due: Time(5), run: RUN }.to_bytes());
    lines.bytes("journal", JournalKey { run: RUN, entry: 7, part: 1 }.to_bytes());
    lines.bytes("generation", GenerationKey { generation: 6 }.to_bytes());
    lines.bytes("moved run", MovedKey { run: RUN }.to_bytes());
    lines.bytes("mark", MarkKey {}.to_bytes());
    lines.bytes("counts of a queue", PoolKey { queue: 6 }.to_bytes());
    lines.bytes("audit entry", AuditKey { at: Time(5), number: 12 }.to_bytes());
    lines.bytes("unique key", UniqueHolderKey { namespace: SPACE, hash: HASH }.to_bytes());
    lines.bytes("memoized result", MemoResultKey { namespace: SPACE, hash: HASH }.to_bytes());
    lines.bytes("open batch", OpenBatchKey { slot: 6 }.to_bytes());
    lines.bytes("ended batch", EndedBatchKey { namespace: SPACE, hash: HASH }.to_bytes());
    lines.bytes("follow-up of a batch", FollowUpKey { slot: 6 }.to_bytes());
    for (label, what) in [
        ("expiry of a unique key", Expires::Unique),
        ("expiry of a batch", Expires::Batch),
        ("expiry of a memoized result", Expires::Memo),
    ] {
        let expiry = Expiry { at: Time(5), what, namespace: SPACE, hash: HASH };
        lines.bytes(label, expiry.to_bytes());
    }
    lines.bytes("mark of expiries", ExpiryMarkKey.to_bytes());
    lines.bytes("applied request", AppliedRequestKey::of(13).to_bytes());
    lines.bytes("schedule", ScheduleKey { schedule: 6 }.to_bytes());
    lines.bytes("state of a schedule", ScheduleStateKey { schedule: 6 }.to_bytes());
}

fn caller() -> Caller {
    Caller {
        namespace: SPACE,
        principal: "ann".into(),
        request_id: RequestId(14),
        traceparent: Some("t".into()),
    }
}

fn start() -> StartRun {
    StartRun {
        id: RunId(15),
        name: Some("order-17".into()),
        workflow: "order".into(),
        version: 1,
        queue: "q".into(),
        priority: 5,
        delay_ms: 16,
        input: input(),
        tags: vec!["gpu".into()],
        unique: Some(UniqueKey::new("k", Unique::For(std::time::Duration::from_millis(17)))),
    }
}

fn input() -> Payload {
    Payload(Bytes::from_static(b"\x01\x2a"))
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

fn records(lines: &mut Lines) {
    lines.section("values of rows");
    let settings = QueueSettings {
        paused: true,
        concurrency: Some(2),
        rate: Some(RateLimit { count: 3, per_ms: 1_000, burst: 4 }),
        oldest_every: Some(5),
    };
    let (at, workflow, tags) = (Time(5), || "order".to_owned(), || vec!["gpu".to_owned()]);
    lines.record("tally", Tally { format: 1, next_run: 2, next_sequence: 3, runs: vec![4, 5] });
    lines.record("index", IndexRecord { run: RUN });
    lines.record("queue", QueueRecord { name: "q".into(), settings });
    lines.record(
        "stopped run",
        StoppedRecord {
            state: RunState::Parked,
            reason: "r".into(),
            builds: vec!["b".into()],
            at,
            workflow: workflow(),
        },
    );
    lines.record(
        "dead letter",
        DeadRecord { workflow: workflow(), class: "io".into(), queue: "q".into() },
    );
    lines.record(
        "queued run",
        QueuedRecord {
            run: RUN,
            workflow: workflow(),
            deaths: 1,
            avoid: vec!["b".into()],
            tags: tags(),
            since: at,
        },
    );
    lines.record(
        "lease",
        LeaseRecord {
            run: RUN,
            token: TOKEN,
            process: ProcessInstance(19),
            build: "b".into(),
            workflow: workflow(),
            queue: 6,
            priority: 2,
            sequence: 11,
            entries: 20,
            deaths: 1,
            avoid: vec!["b".into()],
            tags: tags(),
            since: at,
            at: Time(21),
        },
    );
    let wait = MemoWait { namespace: SPACE, keys: vec![MemoKey(22)], wakes_at: Some(Time(23)) };
    lines.record(
        "timer",
        TimerRecord {
            workflow: workflow(),
            queue: 6,
            priority: 2,
            delayed: true,
            tags: tags(),
            memo: Some(wait),
        },
    );
    lines.record("generation", GenerationRecord { first: RUN });
    lines.record("moved run", MovedRecord { generation: 6 });
    lines.record(
        "mark",
        Mark { time: at, heads: vec![(6, 2, 11)], timers: Time(24), rest: 25, audit: Time(26) },
    );
    lines.record(
        "counts of a queue",
        PoolRecord { queued: 1, delayed: 2, suspended: 3, level: 4, at },
    );
    lines.record(
        "audit entry",
        AuditRecord {
            namespace: SPACE,
            principal: "ann".into(),
            kind: AuditAction::Redrive,
            run: Some(RunId(15)),
            subject: "s".into(),
            detail: "d".into(),
            request_id: RequestId(14),
        },
    );
    lines.record("unique key", UniqueRecord { run: RUN, id: RunId(15), until: at });
    lines.record("memoized result", MemoRecord { run: RUN, entry: 7, until: at });
    lines.record(
        "batch",
        BatchRecord {
            no: BatchNo(27),
            namespace: SPACE,
            name: "b".into(),
            sealed: true,
            counts: BatchCounts { total: 4, completed: 1, dead: 2, cancelled: 1 },
            opened_at: at,
            ended_at: Some(Time(28)),
            follow_up: Some(RunId(15)),
            span: Span { first: RUN, last: RunNo(29) },
        },
    );
    lines.record("follow-up", FollowUpRecord { caller: caller(), run: start() });
    lines.record("mark of expiries", ExpiryMark { at });
    lines.record("applied request", AppliedRequestRecord { number: 13, request_id: RequestId(14) });
    lines.record(
        "schedule",
        ScheduleRecord { namespace: SPACE, spec: schedule(), set_at: at, set_by: "ann".into() },
    );
    lines.bytes("interval", When::from(EveryTimes { every_ms: 30, anchor: at }).encode());
    lines.record(
        "state of a schedule",
        ScheduleState {
            at,
            paused_by: Some("ann".into()),
            next: Some(Time(31)),
            last: Some(Time(32)),
            last_run: Some(RUN),
            pending: vec![Time(33)],
            started: 34,
            skipped: 35,
            missed: 36,
        },
    );
    lines.bytes("retry policy", {
        let mut bytes = Vec::new();
        crate::numbered::encode_fields(&Retry::default(), &mut bytes);
        bytes
    });
}

fn entries() -> Vec<(&'static str, Entry)> {
    let (at, request_id, number) = (Time(5), RequestId(14), CommandIndex(37));
    let (process, build) = (ProcessInstance(19), || "b".to_owned());
    let principal = || "ann".to_owned();
    let location =
        || SourceLocation { name: "charge".into(), at: "order.rs:41".into(), version: 2 };
    let failure = || Failure {
        causes: vec!["c".into()],
        retry_after_ms: Some(38),
        ..Failure::terminal("no").class("io")
    };
    let run = start();
    vec![
        (
            "started",
            Started {
                at,
                id: run.id,
                name: run.name,
                namespace: SPACE,
                workflow: run.workflow,
                version: run.version,
                queue: run.queue,
                priority: run.priority,
                principal: principal(),
                request_id,
                traceparent: Some("t".into()),
                input: run.input,
                not_before: Some(Time(39)),
                tags: run.tags,
                unique: run.unique,
                batch: Some(BatchNo(27)),
            }
            .into(),
        ),
        (
            "step completed",
            StepCompleted { at, number, location: location(), attempt: 2, output: input() }.into(),
        ),
        (
            "step failed",
            StepFailed {
                at,
                number,
                location: location(),
                attempt: 2,
                failure: failure(),
                process,
                build: build(),
            }
            .into(),
        ),
        (
            "attempt failed",
            AttemptFailed {
                at,
                number,
                location: location(),
                attempt: 2,
                failure: failure(),
                retry_at: Time(40),
                counted: true,
                process,
                build: build(),
            }
            .into(),
        ),
        ("timer armed", TimerArmed { at, number, location: location(), due: Time(41) }.into()),
        ("timer fired", TimerFired { at, number }.into()),
        (
            "cancel requested",
            CancelRequested { at, principal: principal(), reason: "r".into() }.into(),
        ),
        ("completed", Completed { at, output: input() }.into()),
        (
            "died",
            Died {
                at,
                failure: failure(),
                process,
                build: build(),
                end: Some(FunctionEnd { failed_at: Some(42), went_on: Some(number) }),
            }
            .into(),
        ),
        ("cancelled", Cancelled { at }.into()),
        (
            "redriven",
            Redriven { at, principal: principal(), request_id, from: 43, rejoins: true }.into(),
        ),
        (
            "input edited",
            InputEdited {
                at,
                principal: principal(),
                request_id,
                input: input(),
                died_at: Time(44),
            }
            .into(),
        ),
        (
            "discarded",
            Discarded { at, principal: principal(), request_id, reason: "r".into() }.into(),
        ),
    ]
}

fn journal(lines: &mut Lines) {
    lines.section("journal entries, kind and fields");
    let entries = entries();
    assert_eq!(entries.len(), Entry::KINDS.len(), "a sample of each kind of entry");
    for (label, entry) in &entries {
        let later = later::write(|| entry.encode());
        assert_eq!(Entry::decode(&later).as_ref(), Ok(entry), "{label} of a later version");
        lines.bytes(label, entry.encode());
    }
    let (stored, chain) = chain::sealed(chain::root(RunId(15)), &entries[5].1);
    lines.bytes("a chained entry", stored);
    lines.text("its chain", chain);
}

fn names(lines: &mut Lines) {
    lines.section("ids, derived names and hashes");
    lines.text("run id", RunId(1));
    lines.text("process instance", ProcessInstance(1));
    lines.text("request id", RequestId(1));
    lines.text("memo key", MemoKey(1));
    lines.text("run of a name", RunId::from_name(SPACE, "order-17"));
    lines.text("memo key of a name", MemoKey::of(SPACE, "rate"));
    lines.text(
        "run that a client gets or starts",
        crate::runtime::client::get_or_run::run_name("order", "rate"),
    );
    lines.text("run of a schedule", schedule().run_name(Time(1_700_000_000_000)));
    lines.text("follow-up of a batch", batch::follow_up_id(SPACE, "b", BatchNo(27)));
    lines.text("hash of a batch", format!("{:x}", batch::batch_hash("b")));
    let unique = UniqueKey::new("k", Unique::UntilStarted);
    lines.text("hash of a unique key", format!("{:x}", unique.hash("order")));
    for (label, scope) in [
        ("unique while queued", Unique::UntilStarted),
        ("unique while running", Unique::UntilEnded),
        ("unique for a time", Unique::For(std::time::Duration::from_millis(17))),
    ] {
        lines.text(label, UniqueKey::new("k", scope).scope);
    }
    let key = |memo| crate::workflow::idempotency_key(RunId(1), CommandIndex(3), memo);
    lines.text("idempotency key of a step", key(None));
    lines.text("idempotency key of a memoized step", key(Some(MemoKey(1))));
    lines.text("token", TOKEN);
    let wait = Retry::default().backoff_jittered(RunId(1), CommandIndex(2), 3);
    lines.text("jitter of a retry", wait.as_millis());
}

fn classes(lines: &mut Lines) {
    lines.section("stored failure classes");
    lines.text("a worker was lost", WORKER_LOST);
    lines.text("the workflow is not registered", UNREGISTERED_WORKFLOW);
    lines.text("a timeout", TIMEOUT_CLASS);
    lines.text("an isolated process ended", crate::runtime::isolated::PROCESS);
    lines.text("a panic", PANIC);
    lines.text("a payload", PAYLOAD);
    lines.text("a memoized run", ONCE);
    for (label, failure) in [
        ("a retryable failure", Failure::retryable("")),
        ("a terminal failure", Failure::terminal("")),
        ("a failure with a time", Failure::retry_after(std::time::Duration::ZERO, "")),
        ("a cancelled failure", Failure::cancelled("")),
    ] {
        lines.text(label, failure.class);
    }
}

fn numbers(lines: &mut Lines) {
    lines.section("numbers of enumerations");
    let states = [
        ("delayed", RunState::Delayed),
        ("queued", RunState::Queued),
        ("running", RunState::Running),
        ("suspended", RunState::Suspended),
        ("parked", RunState::Parked),
        ("paused", RunState::Paused),
        ("completed", RunState::Completed),
        ("dead", RunState::Dead),
        ("cancelled", RunState::Cancelled),
        ("discarded", RunState::Discarded),
    ];
    assert_eq!(states.len(), RunState::ALL.len());
    for (label, state) in states {
        lines.text(&format!("state {label}"), u8::from(state));
    }
    for (label, kind) in [
        ("edit", AuditAction::Edit),
        ("redrive", AuditAction::Redrive),
        ("discard", AuditAction::Discard),
        ("resume", AuditAction::Resume),
        ("cancel", AuditAction::Cancel),
    ] {
        lines.text(&format!("audit action {label}"), u8::from(kind));
    }
    for (label, kind) in [
        ("retryable", FailureKind::Retryable),
        ("terminal", FailureKind::Terminal),
        ("cancelled", FailureKind::Cancelled),
    ] {
        lines.text(&format!("failure {label}"), u8::from(kind));
    }
    for (label, overlap) in [
        ("skip", Overlap::Skip),
        ("queue one", Overlap::QueueOne),
        ("queue all", Overlap::QueueAll),
        ("cancel old", Overlap::CancelOld),
        ("allow", Overlap::Allow),
    ] {
        lines.text(&format!("overlap {label}"), u8::from(overlap));
    }
    lines.text("command index of a whole function", CommandIndex::FUNCTION);
}

/// Numbers beside the names their kinds have in the code. The names are not in the file: a kind is
/// renamed freely, and its number stays.
fn kinds(lines: &mut Lines) {
    lines.section("numbers of kinds");
    let list = |kinds: &[(u8, &str)]| {
        let mut numbers: Vec<u8> = kinds.iter().map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        let texts: Vec<String> = numbers.iter().map(u8::to_string).collect();
        texts.join(" ")
    };
    lines.text("entries", list(Entry::KINDS));
    lines.text("outcomes", list(Outcome::KINDS));
    lines.text("schedule times", list(When::KINDS));
    let then = |kind: &&(u8, &str)| kind.1 != "OfLaterVersion";
    let refusals: Vec<(u8, &str)> = Refusal::KINDS.iter().filter(then).copied().collect();
    lines.text("refusals", list(&refusals));
    // Requests and replies were frames; the hello and the welcome of then were 1 and 2.
    let since = ["Hello", "Welcome", "Register", "Registered", "JournalPageRequested"];
    let since = [&since[..], &["JournalPage", "Call", "Reply", "Later"]].concat();
    let then = |kind: &&(u8, &str)| !since.contains(&kind.1);
    let mut frames: Vec<(u8, &str)> = Message::KINDS.iter().filter(then).copied().collect();
    frames.push((2, "the welcome of protocol 1"));
    lines.text("frames of protocol 1", list(&[&frames, Request::KINDS, Answer::KINDS].concat()));
}

#[test]
fn nothing_that_is_stored_or_hashed_has_changed() {
    let mut lines = Lines::default();
    keys_of_rows(&mut lines);
    records(&mut lines);
    journal(&mut lines);
    names(&mut lines);
    classes(&mut lines);
    numbers(&mut lines);
    kinds(&mut lines);
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/fixed.txt");
    if std::env::var("UPDATE_GOLDEN").is_ok_and(|value| value == "1") {
        std::fs::write(&file, &lines.0).unwrap();
    }
    let golden = std::fs::read_to_string(&file).unwrap();
    for (line, (now, then)) in (1..).zip(lines.0.lines().zip(golden.lines())) {
        assert_eq!(now, then, "line {line} of golden/fixed.txt: stored bytes have changed");
    }
    assert_eq!(lines.0, golden, "lines were added or taken away");
}
