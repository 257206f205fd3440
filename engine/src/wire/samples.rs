//! A full sample of each frame, request and reply, and what must hold for all of them.
//!
//! What protocol 2 says is recorded in `golden/frames.txt`. With `UPDATE_GOLDEN=1` the file is
//! written anew; a line of it that changes is a change of the protocol.

use bytes::Bytes;

use super::frame;
use super::handshake::Protocols;
use super::message::*;
use crate::model::batch::{BatchCounts, BatchNo, BatchSummary, Span};
use crate::model::dead::{
    AuditAction, AuditCursor, AuditEntry, DeadCursor, DeadFilter, DeadLetter,
};
use crate::model::entry::{FunctionEnd, SourceLocation};
use crate::model::failure::Failure;
use crate::model::id::{
    CommandIndex, LeaseNo, MemoKey, Namespace, ProcessInstance, RequestId, RunId, RunNo, SessionId,
    Token,
};
use crate::model::payload::Payload;
use crate::model::queue::{QueueChange, QueueSettings, QueueSummary, RateLimit};
use crate::model::request::{ListRuns, NoSuchRun, StartRun};
use crate::model::retry::Retry;
use crate::model::run::{InMemory, OutcomeCompleted, RunState, RunSummary, Stats};
use crate::model::schedule::{
    CronTimes, Occurrence, Overlap, ScheduleInfo, ScheduleSpec, ScheduleState,
};
use crate::model::time::Time;
use crate::model::unique::{Unique, UniqueKey};

const RUN: RunNo = RunNo(0x0102);
const ID: RunId = RunId(0x0405);
const TOKEN: Token = Token { store: 7, epoch: 2, lease: LeaseNo(9) };
const NUMBER: CommandIndex = CommandIndex(3);
const AT: Time = Time(1_000);

/// The hello of a worker of protocol 1, as it was recorded then, without its length.
pub(crate) const HELLO_V1: &[u8] = b"\x01\x98\x01\x94\x00\xa3ann\xc4\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x03\xc0\xc0\xc4\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x04\xa2b1\x91\x92\xa5order\x01\x91\x92\xa1q\x08\x91\x93\x01\x93\x07\x02\x09\x03";

type Sample<T> = (&'static str, T);

fn text(text: &str) -> String {
    text.to_owned()
}

fn payload() -> Payload {
    Payload(Bytes::from_static(b"\x01\x2a"))
}

fn bytes() -> Vec<Bytes> {
    vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")]
}

fn location() -> SourceLocation {
    SourceLocation { name: text("charge"), at: text("order.rs:41"), version: 2 }
}

fn failure() -> Failure {
    Failure {
        causes: vec![text("the network is down")],
        retry_after_ms: Some(250),
        ..Failure::retryable("no answer")
    }
}

fn slots() -> Vec<QueueSlots> {
    vec![QueueSlots { queue: text("q"), slots: 8 }]
}

fn run() -> StartRun {
    StartRun {
        id: ID,
        name: Some(text("order-17")),
        workflow: text("order"),
        version: 1,
        queue: text("q"),
        priority: 5,
        delay_ms: 16,
        input: payload(),
        tags: vec![text("gpu")],
        unique: Some(UniqueKey::new("k", Unique::For(std::time::Duration::from_secs(5)))),
    }
}

fn answers_of_starts() -> Vec<StartAnswer> {
    let refused = Some(NoSuchRun { id: ID }.into());
    vec![
        StartAnswer { id: ID, started: true, refused: None },
        StartAnswer { id: RunId(1), started: false, refused },
    ]
}

fn summary() -> RunSummary {
    RunSummary {
        id: ID,
        name: Some(text("order-17")),
        no: RUN,
        workflow: text("order"),
        queue: text("q"),
        state: RunState::Suspended,
        started_at: AT,
        changed_at: Time(2_000),
        entries: 4,
        wakes_at: Some(Time(3_000)),
        reason: Some(text("it waits")),
        process: Some(ProcessInstance(4)),
        batch: Some(BatchNo(27)),
    }
}

fn list() -> ListRuns {
    ListRuns {
        state: Some(RunState::Dead),
        workflow: Some(text("order")),
        before: Some(9),
        limit: 10,
        batch: Some(BatchNo(2)),
        from: Some(1),
    }
}

fn rate() -> RateLimit {
    RateLimit { count: 3, per_ms: 1_000, burst: 4 }
}

fn schedule() -> ScheduleInfo {
    ScheduleInfo { spec: spec(), set_at: AT, set_by: text("ann"), state: schedule_state() }
}

fn spec() -> ScheduleSpec {
    ScheduleSpec {
        name: text("nightly"),
        workflow: text("order"),
        version: 1,
        queue: text("q"),
        priority: 5,
        input: payload(),
        when: CronTimes { expression: text("0 6 * * *"), zone: text("UTC") }.into(),
        jitter_ms: 18,
        overlap: Overlap::QueueOne,
        catch_up_ms: 10_000,
        tags: vec![text("gpu")],
    }
}

fn schedule_state() -> ScheduleState {
    ScheduleState {
        at: AT,
        paused_by: Some(text("ann")),
        next: Some(Time(31)),
        last: Some(Time(32)),
        last_run: Some(RUN),
        pending: vec![Time(33)],
        started: 34,
        skipped: 35,
        missed: 36,
    }
}

fn handshake() -> Vec<Sample<Message>> {
    let hello = Hello {
        protocol_min: 2,
        protocol_max: 2,
        process: ProcessInstance(4),
        namespace: Namespace(3),
        principal: text("ann"),
        credentials: Some(Bytes::from_static(b"secret")),
        proof: Some(Bytes::from_static(b"signed")),
    };
    let welcome = Welcome {
        protocol: 2,
        session: SessionId(1),
        store: 7,
        epoch: 2,
        heartbeat_ms: 2_000,
        session_timeout_ms: 10_000,
        payload_bytes_max: 65_536,
        now: AT,
    };
    let defaults =
        WorkflowDefaults { queue: text("q"), tags: vec![text("gpu")], timeout_ms: 330_000 };
    let register = Register {
        build: text("b1"),
        workflows: vec![WorkflowOffer { workflow: text("order"), version: 1, defaults }],
        queues: slots(),
        tags: vec![text("gpu")],
        held: vec![Held { run: RUN, token: TOKEN, seen: 3 }],
    };
    vec![
        ("hello of protocol 1", HelloV1 { protocol: 1 }.into()),
        ("heartbeat", Heartbeat { beat: 300 }.into()),
        ("closing", Closing { reason: text("done") }.into()),
        ("hello", hello.into()),
        ("welcome", welcome.into()),
        ("register", register.into()),
        ("registered", Registered {}.into()),
    ]
}

fn to_worker() -> Vec<Sample<Message>> {
    let (run, token) = (RUN, TOKEN);
    let reason = || NoSuchRun { id: ID }.into();
    let entry = Bytes::from_static(b"entry");
    vec![
        ("dispatch", Dispatch { run, token, id: ID, count: 2, entries: bytes(), now: AT }.into()),
        ("journal", Journal { run, token, from: 2, entries: bytes() }.into()),
        ("appended", Appended { run, token, index: 4, entry }.into()),
        ("turn ended", TurnEnded { run, token }.into()),
        ("revoked", Revoked { run, token, reason: reason() }.into()),
        (
            "lease continued",
            LeaseContinued { run, old: token, token: Token { epoch: 3, ..TOKEN }, count: 4 }.into(),
        ),
        ("report refused", ReportRefused { run, token, number: NUMBER, reason: reason() }.into()),
        ("attempt of a memoized step", AttemptMemo { run, token, number: NUMBER }.into()),
        (
            "page of a journal",
            JournalPage { page: 11, entries: bytes(), refused: Some(reason()) }.into(),
        ),
    ]
}

fn to_engine() -> Vec<Sample<Message>> {
    let (run, token, number, memo) = (RUN, TOKEN, NUMBER, MemoKey(22));
    let end = FunctionEnd { failed_at: Some(5), went_on: Some(NUMBER) };
    vec![
        (
            "step completed",
            StepCompletedReport {
                run,
                token,
                number,
                location: location(),
                attempt: 2,
                output: payload(),
                memo: Some(memo),
            }
            .into(),
        ),
        (
            "attempt failed",
            AttemptFailedReport {
                run,
                token,
                number,
                location: location(),
                attempt: 2,
                failure: failure(),
                retry: Retry::default(),
            }
            .into(),
        ),
        (
            "timer requested",
            TimerRequested { run, token, number, location: location(), delay_ms: 3_000 }.into(),
        ),
        (
            "turn suspended",
            TurnSuspended { run, token, seen: 3, wakes_at: Time(9), memos: vec![number] }.into(),
        ),
        ("turn completed", TurnCompleted { run, token, output: payload() }.into()),
        (
            "turn failed",
            TurnFailed { run, token, failure: failure(), whole: true, end: Some(end) }.into(),
        ),
        (
            "turn mismatched",
            TurnMismatched {
                run,
                token,
                index: 2,
                journal_holds: text("step `charge`"),
                code_asked: text("timer 3s"),
            }
            .into(),
        ),
        ("requeue", Requeue { run, token }.into()),
        ("offer", Offer { queues: slots() }.into()),
        (
            "memoized step requested",
            MemoRequested { run, token, number, location: location(), memo }.into(),
        ),
        ("memoized step released", MemoReleased { run, token, number }.into()),
        (
            "page of a journal requested",
            JournalPageRequested { page: 11, run, token, from: 2, limit: 9 }.into(),
        ),
    ]
}

fn requests() -> Vec<Sample<Request>> {
    let filter = DeadFilter {
        queue: Some(text("q")),
        workflow: Some(text("order")),
        class: Some(text("io")),
        since: Some(AT),
        before: Some(Time(2_000)),
    };
    let change = QueueChange {
        paused: Some(true),
        concurrency: Some(2),
        rate: Some(rate()),
        oldest_every: Some(5),
        create: true,
    };
    let (id, name) = (ID, || text("nightly"));
    vec![
        ("start", Start { runs: vec![run()] }.into()),
        ("ask for an outcome", AskOutcome { id, wait: true }.into()),
        ("ask for a status", AskStatus { id }.into()),
        ("ask for runs", AskList { list: list() }.into()),
        ("ask for a journal", AskJournal { id, from: 2, limit: 9 }.into()),
        ("cancel", Cancel { id, reason: text("no longer") }.into()),
        ("resume", Resume { id }.into()),
        ("ask for dead runs", AskDead { list: list() }.into()),
        ("ask for counters", AskStats {}.into()),
        ("ask for queues", AskQueues { queue: Some(text("q")) }.into()),
        ("set a queue", SetQueue { queue: text("q"), change }.into()),
        (
            "ask for dead letters",
            AskLetters { filter, behind: Some(DeadCursor { died_at: AT, run: RUN }), limit: 10 }
                .into(),
        ),
        ("edit an input", EditInput { id, input: payload() }.into()),
        ("redrive", Redrive { id }.into()),
        ("discard", Discard { id, reason: text("of no use") }.into()),
        (
            "ask for audit entries",
            AskAudit { run: Some(id), behind: Some(AuditCursor { at: AT, number: 8 }), limit: 10 }
                .into(),
        ),
        ("set a schedule", SetSchedule { spec: Box::new(spec()) }.into()),
        ("ask for schedules", AskSchedules { after: Some(name()), limit: 10 }.into()),
        ("ask for occurrences", AskOccurrences { name: name(), count: 3 }.into()),
        ("pause a schedule", PauseSchedule { name: name() }.into()),
        ("resume a schedule", ResumeSchedule { name: name() }.into()),
        ("remove a schedule", RemoveSchedule { name: name() }.into()),
        (
            "backfill a schedule",
            Backfill { name: name(), from: AT, to: Time(2_000), limit: 5 }.into(),
        ),
        (
            "start a batch",
            StartBatch {
                name: text("b"),
                runs: vec![run()],
                follow_up: Some(Box::new(run())),
                seal: true,
            }
            .into(),
        ),
        ("ask for a batch", AskBatch { name: text("b") }.into()),
        ("atomic start", AtomicStart { runs: vec![run()] }.into()),
    ]
}

fn queue() -> QueueSummary {
    QueueSummary {
        name: text("q"),
        settings: QueueSettings {
            paused: true,
            concurrency: Some(2),
            rate: Some(rate()),
            oldest_every: Some(5),
        },
        queued: 1,
        running: 2,
        delayed: 3,
        suspended: 4,
        oldest_since: Some(AT),
        workers: 5,
        slots: 6,
        reasons: vec![text("paused")],
        now: Time(2_000),
    }
}

fn letter() -> DeadLetter {
    DeadLetter {
        id: ID,
        name: Some(text("order-17")),
        no: RUN,
        workflow: text("order"),
        queue: text("q"),
        class: text("io"),
        message: text("no answer"),
        started_at: AT,
        died_at: Time(2_000),
        entries: 4,
        process: Some(ProcessInstance(4)),
        build: text("b1"),
        redriven: 1,
        edited: true,
    }
}

fn batch() -> BatchSummary {
    BatchSummary {
        name: text("b"),
        sealed: true,
        counts: BatchCounts { total: 4, completed: 1, dead: 2, cancelled: 1 },
        opened_at: AT,
        ended_at: Some(Time(2_000)),
        follow_up: Some(ID),
        no: BatchNo(27),
        span: Span { first: RunNo(1), last: RUN },
    }
}

fn stats() -> Stats {
    Stats {
        runs: vec![4, 5],
        refused_late: 1,
        repeated: 2,
        dispatches: 3,
        redeliveries: 4,
        sessions_lost: 5,
        workers: 6,
        steps: 7,
        replayed: 8,
        store: 9,
        epoch: 10,
        disk_bytes: 11,
        wal_bytes: 12,
        commits: 13,
        now: AT,
        in_memory: InMemory {
            sessions: 1,
            leases: 2,
            fresh: 3,
            timers: 4,
            armed: 5,
            waiters: 6,
            reads: 7,
            memos: 8,
        },
    }
}

fn replies() -> Vec<Sample<Answer>> {
    let audit = AuditEntry {
        at: AT,
        principal: text("ann"),
        action: AuditAction::Redrive,
        run: Some(ID),
        subject: text("order-17"),
        detail: text("from entry 3"),
    };
    let next = vec![Occurrence { nominal: AT, due: Time(1_018) }];
    vec![
        ("started", StartReply { runs: answers_of_starts() }.into()),
        ("outcome", OutcomeReply { outcome: OutcomeCompleted { output: payload() }.into() }.into()),
        ("status", StatusReply { run: summary() }.into()),
        ("runs", ListReply { runs: vec![summary()], next: Some(8) }.into()),
        ("journal", JournalReply { from: 2, count: 4, entries: bytes() }.into()),
        ("done", DoneReply {}.into()),
        ("counters", StatsReply { stats: stats() }.into()),
        ("refused", RefusedReply { reason: NoSuchRun { id: ID }.into() }.into()),
        ("queues", QueuesReply { queues: vec![queue()] }.into()),
        (
            "dead letters",
            LettersReply {
                letters: vec![letter()],
                next: Some(DeadCursor { died_at: AT, run: RUN }),
            }
            .into(),
        ),
        (
            "audit entries",
            AuditReply { entries: vec![audit], next: Some(AuditCursor { at: AT, number: 8 }) }
                .into(),
        ),
        ("batch", BatchReply { batch: batch(), runs: answers_of_starts() }.into()),
        ("schedule", ScheduleReply { schedule: Box::new(schedule()), changed: true, next }.into()),
        ("schedules", SchedulesReply { schedules: vec![schedule()], next: Some(text("n")) }.into()),
        ("backfilled", BackfillReply { started: 1, existed: 2, next: Some(Time(3_000)) }.into()),
    ]
}

fn call(request: Request) -> Message {
    Call {
        call_number: 12,
        request_id: RequestId(14),
        traceparent: Some(text("00-0af7-b7ad-01")),
        request: Requested::Known(request),
        on_behalf: None,
    }
    .into()
}

fn reply(answer: Answer) -> Message {
    Reply { call_number: 12, answer: answer.into() }.into()
}

/// A frame of each kind, and one for each request and each reply.
fn labelled() -> Vec<(String, Message)> {
    let frames = [handshake(), to_worker(), to_engine()].concat().into_iter();
    let frames = frames.map(|(label, frame)| (text(label), frame));
    let calls = requests().into_iter();
    let calls = calls.map(|(label, request)| (format!("call: {label}"), call(request)));
    let replies = replies().into_iter();
    let replies = replies.map(|(label, answer)| (format!("reply: {label}"), reply(answer)));
    frames.chain(calls).chain(replies).collect()
}

/// The same without their labels.
pub(crate) fn messages() -> Vec<Message> {
    labelled().into_iter().map(|(_, message)| message).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(hex: &str) -> Vec<u8> {
    let digits = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digits).collect()
}

fn sorted(kinds: impl IntoIterator<Item = u8>) -> Vec<u8> {
    let mut kinds: Vec<u8> = kinds.into_iter().collect();
    kinds.sort_unstable();
    kinds
}

fn numbers(kinds: &[(u8, &str)]) -> Vec<u8> {
    sorted(kinds.iter().map(|(number, _)| *number))
}

#[test]
fn each_kind_of_frame_request_and_reply_has_a_sample() {
    assert_eq!(sorted(requests().iter().map(|(_, r)| r.kind())), numbers(Request::KINDS));
    assert_eq!(sorted(replies().iter().map(|(_, a)| a.kind())), numbers(Answer::KINDS));
    let mut frames = sorted(messages().iter().map(Message::kind));
    frames.dedup();
    // That of a protocol which is to come exists for tests only.
    let mut kinds = numbers(Message::KINDS);
    assert_eq!(kinds.pop(), Some(250));
    assert_eq!(frames, kinds);
}

#[test]
fn nothing_that_protocol_2_says_has_changed() {
    let mut lines = String::new();
    for (label, message) in labelled() {
        let bytes = match &message {
            Message::HelloV1(_) => HELLO_V1.to_vec(),
            message => message.encode(),
        };
        lines.push_str(&format!("{label} = {}\n", hex(&bytes)));
    }
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/frames.txt");
    if std::env::var("UPDATE_GOLDEN").is_ok_and(|value| value == "1") {
        std::fs::write(&file, &lines).unwrap();
    }
    let golden = std::fs::read_to_string(&file).unwrap();
    for (line, (now, then)) in (1..).zip(lines.lines().zip(golden.lines())) {
        assert_eq!(now, then, "line {line} of golden/frames.txt: the protocol has changed");
    }
    assert_eq!(lines, golden, "lines were added or taken away");
    for ((label, message), line) in labelled().into_iter().zip(golden.lines()) {
        let (_, recorded) = line.split_once(" = ").unwrap();
        assert_eq!(Message::decode(&unhex(recorded)), Ok(message), "{label} as recorded");
    }
}

// A later version writes one field more in everything, at every depth; what is frozen stays.
#[test]
fn frames_of_a_later_version_are_read() {
    for (label, message) in labelled() {
        let (mut later, mut own) = (Vec::new(), Vec::new());
        frame::encode(&message, Protocols::LATER, &mut later);
        frame::encode(&message, Protocols::OWN, &mut own);
        assert_eq!(later == own, message.is_frozen(), "{label}");
        assert_eq!(Message::decode(&later[4..]), Ok(message), "{label} of a later version");
    }
}

// The other half: each field that was added later is missing in what an older version writes.
#[test]
fn a_frame_that_is_cut_short_is_refused_and_never_panics() {
    for (_, message) in labelled() {
        let whole = message.encode();
        for end in 0..whole.len() {
            if let Ok(found) = Message::decode(&whole[..end]) {
                assert_eq!(found, message, "only what is skipped may be missing");
            }
        }
    }
}

#[test]
fn the_hello_of_protocol_1_is_known_by_its_number() {
    assert_eq!(Message::decode(HELLO_V1), Ok(HelloV1 { protocol: 1 }.into()));
    // As the brief has it: a worker that knows nothing and holds nothing.
    let caller = (0, "worker", Bytes::from_static(&[9; 16]), None::<String>);
    let process = Bytes::from_static(&[8; 16]);
    let none: [u8; 0] = [];
    let hello = (1, caller, None::<Bytes>, process, "b", none, none, none, none);
    let bytes = [vec![1], rmp_serde::to_vec(&hello).unwrap()].concat();
    assert_eq!(Message::decode(&bytes), Ok(HelloV1 { protocol: 1 }.into()));
}

// Frozen for ever: any two versions read each other's. Not in a file that can be written anew.
#[test]
fn the_layout_of_the_handshake_is_frozen() {
    let bytes = |label: &str| {
        let all = handshake();
        let found = all.into_iter().find(|(other, _)| *other == label);
        hex(&found.map(|(_, message)| message.encode()).unwrap_or_default())
    };
    let id = "c41000000000000000000000000000000004";
    let hello = format!("05970202{id}03a3616e6ec406736563726574c4067369676e6564");
    assert_eq!(bytes("hello"), hello);
    assert_eq!(bytes("welcome"), "06980201070 2cd07d0cd2710ce00010000cd03e8".replace(' ', ""));
    assert_eq!(bytes("heartbeat"), "0391cd012c");
    assert_eq!(bytes("closing"), "0491a4646f6e65");
}

// What protocol 1 knows as kind 4: an array of one string.
#[test]
fn a_closing_is_read_by_protocol_1() {
    let closing = Message::from(Closing { reason: text("no") });
    assert_eq!(closing.encode(), b"\x04\x91\xa2no");
    let mut framed = Vec::new();
    frame::encode(&closing, Protocols::LATER, &mut framed);
    assert_eq!(framed, b"\x05\0\0\0\x04\x91\xa2no");
}

#[test]
fn who_a_gateway_acts_for_never_leaves_the_process() {
    let on_behalf = OnBehalf { namespace: Namespace(3), principal: text("ann") };
    let Message::Call(plain) = call(AskStats {}.into()) else { panic!("a call") };
    let acting = Call { on_behalf: Some(on_behalf), ..plain.clone() };
    for protocols in [Protocols::OWN, Protocols::LATER] {
        let (mut bytes, mut without) = (Vec::new(), Vec::new());
        frame::encode(&acting.clone().into(), protocols, &mut bytes);
        frame::encode(&plain.clone().into(), protocols, &mut without);
        assert_eq!(bytes, without, "nothing of it is written");
        assert_eq!(Message::decode(&bytes[4..]), Ok(plain.clone().into()));
    }
    // Nor is it read where a stranger writes it.
    let stranger = (12, RequestId(14), None::<String>, Bytes::from_static(b"\x30\x90"), (3, "ann"));
    let bytes = [vec![50], rmp_serde::to_vec(&stranger).unwrap()].concat();
    let Ok(Message::Call(read)) = Message::decode(&bytes) else { panic!("a call") };
    assert_eq!((read.on_behalf, read.request), (None, plain.request));
}
