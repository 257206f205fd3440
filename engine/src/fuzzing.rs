//! What strangers may send and disks may hold: the bodies of the fuzz targets in `fuzz/`.
//!
//! They also run in ordinary tests, over the committed corpus and over bytes drawn at random.

use bytes::{Bytes, BytesMut};
use stepwell_storage::Row;

use crate::core::fuzz_world::{DrillStep, FuzzWorld};
use crate::core::run::RunFold;
use crate::keys::batch::{BatchRecord, FollowUpRecord};
use crate::keys::expiry::ExpiryMark;
use crate::keys::journal::{self, Joiner};
use crate::keys::unique::UniqueRecord;
use crate::keys::{
    self, DeadRecord, Family, GenerationRecord, IndexRecord, LeaseRecord, Mark, MovedRecord,
    PoolRecord, QueueRecord, QueuedRecord, Record, StoppedRecord, Tally, TimerRecord,
};
use crate::model::chain;
use crate::model::entry::Entry;
use crate::model::id::{Namespace, RunId, RunNo};
use crate::model::time::Time;
use crate::wire::frame::{self, FRAME_BYTES_MAX};
use crate::wire::message::Message;

/// Steps of one run of [`core_inputs`] at most.
const DRILL_STEPS_MAX: usize = 400;

/// A target: its name, and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 4] = [
    ("frames", frames),
    ("stored", stored),
    ("key_order", key_order),
    ("core_inputs", core_inputs),
];

/// Bytes from a connection: no panic, and what decodes is encoded to an equal message.
pub fn frames(data: &[u8]) {
    let mut buffer = BytesMut::from(data);
    while let Ok(Some(message)) = frame::decode(&mut buffer, FRAME_BYTES_MAX) {
        says_the_same_again(&message);
    }
    if let Ok(message) = Message::decode(data) {
        says_the_same_again(&message);
    }
}

fn says_the_same_again(message: &Message) {
    let mut bytes = Vec::new();
    frame::encode(message, &mut bytes);
    let again = frame::decode(&mut BytesMut::from(&bytes[..]), FRAME_BYTES_MAX);
    assert_eq!(again, Ok(Some(message.clone())), "a message is what was sent");
}

/// Bytes from a disk: no panic, and what decodes is encoded to an equal record.
pub fn stored(data: &[u8]) {
    record::<Tally>(data);
    record::<IndexRecord>(data);
    record::<QueueRecord>(data);
    record::<StoppedRecord>(data);
    record::<DeadRecord>(data);
    record::<QueuedRecord>(data);
    record::<LeaseRecord>(data);
    record::<TimerRecord>(data);
    record::<GenerationRecord>(data);
    record::<MovedRecord>(data);
    record::<Mark>(data);
    record::<PoolRecord>(data);
    record::<UniqueRecord>(data);
    record::<BatchRecord>(data);
    record::<FollowUpRecord>(data);
    record::<ExpiryMark>(data);
    if let Ok(entry) = Entry::decode(data) {
        assert_eq!(
            Entry::decode(&entry.encode()).as_ref(),
            Ok(&entry),
            "an entry is what was written"
        );
        folds(&entry);
    }
    let _ = chain::open(7, data);
    let _ =
        (Family::from_key(data), keys::sequence_of(data), keys::slot_of(data), keys::run_of(data));
    let _ = (
        keys::time_and_run_of(data),
        keys::number_of(data),
        keys::expiry::from_key(data),
        journal::parts_of(data),
    );
    joins(data);
}

fn record<R: Record + PartialEq + std::fmt::Debug>(data: &[u8]) {
    if let Ok(found) = R::from_bytes(data) {
        assert_eq!(
            R::from_bytes(&found.to_bytes()).as_ref(),
            Ok(&found),
            "a record is what was written"
        );
    }
}

/// An entry with a right chain may still not belong where it is.
fn folds(entry: &Entry) {
    let mut fold = RunFold::new(RunNo(1), 1);
    let mut chained = chain::root(RunId(1));
    for entry in [entry, entry, entry] {
        let (bytes, next) = chain::sealed(chained, entry);
        chained = next;
        if fold.push(&bytes).is_err() {
            return;
        }
    }
}

/// Rows in any order and of any content.
fn joins(data: &[u8]) {
    let mut joiner = Joiner::from(u32::from(data.first().copied().unwrap_or(0) & 3));
    let mut rest = data;
    while let Some((head, tail)) = rest.split_first_chunk::<4>() {
        let (length, tail) = (usize::from(head[2]).min(tail.len()), tail);
        let entry = if head[0] == 255 { u32::MAX } else { u32::from(head[0] & 3) };
        let part = if head[1] == 255 { u16::MAX } else { u16::from(head[1] & 3) };
        let (value, tail) = tail.split_at(length);
        let row =
            Row { key: journal::row(RunNo(1), entry, part), value: Bytes::copy_from_slice(value) };
        if joiner.push(&row).is_err() {
            return;
        }
        rest = tail;
    }
}

/// The order of keys is the order of what they are made of, and parts come back out.
pub fn key_order(data: &[u8]) {
    let mut numbers = data.chunks(8).map(|chunk| {
        let mut bytes = [0; 8];
        bytes[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(bytes)
    });
    let mut next = || numbers.next().unwrap_or(0);
    let [a, b, c, d] = [(next(), next()), (next(), next()), (next(), next()), (next(), next())];
    let low = |pair: (u64, u64)| (pair.0 as u32, pair.1 as u32);
    same_order(a, b, |(due, run)| keys::timer(Time(due), RunNo(run)));
    same_order(a, b, |(at, run)| keys::dead(Time(at), RunNo(run)));
    same_order(a.0, b.0, |run| keys::stopped(RunNo(run)));
    same_order(a.0, b.0, |run| keys::moved(RunNo(run)));
    same_order(low(a).0, low(b).0, keys::lease);
    same_order(low(a).0, low(b).0, keys::queue);
    same_order(low(a).0, low(b).0, keys::generation);
    let place = |x: (u64, u64), y: (u64, u64)| (low(x).0, x.1 as u8, y.0);
    same_order(place(a, c), place(b, d), |(queue, priority, at)| keys::queued(queue, priority, at));
    let row = |x: (u64, u64), y: (u64, u64)| (x.0, low(x).1, y.0 as u16);
    same_order(row(a, c), row(b, d), |(run, entry, part)| journal::row(RunNo(run), entry, part));
    let id = |x: (u64, u64), y: u64| (low(x).0, u128::from(x.1) << 64 | u128::from(y));
    same_order(id(a, c.0), id(b, d.0), |(namespace, id)| {
        keys::index(Namespace(namespace), RunId(id))
    });

    let key = keys::queued(low(a).0, a.1 as u8, b.0);
    assert_eq!(keys::sequence_of(&key), Some(b.0));
    assert!(key.starts_with(&keys::lane(low(a).0, a.1 as u8)), "a lane has all its runs");
    assert!(
        key < keys::end_of(&keys::lane(low(a).0, a.1 as u8)),
        "a lane ends behind all its runs"
    );
    assert_eq!(
        keys::time_and_run_of(&keys::timer(Time(a.0), RunNo(a.1))),
        Some((Time(a.0), RunNo(a.1)))
    );
    assert_eq!(keys::run_of(&keys::stopped(RunNo(a.0))), Some(RunNo(a.0)));
    assert_eq!(keys::slot_of(&keys::lease(low(a).0)), Some(low(a).0));
    let (run, entry, part) = row(a, c);
    assert_eq!(
        journal::parts_of(&journal::row(RunNo(run), entry, part)),
        Some((RunNo(run), entry, part))
    );
}

fn same_order<T: Ord + Copy + std::fmt::Debug>(a: T, b: T, key: impl Fn(T) -> Bytes) {
    assert_eq!(key(a).cmp(&key(b)), a.cmp(&b), "keys are in the order of {a:?} and {b:?}");
}

/// Any sequence of inputs: the invariants hold after each. The first byte chooses the settings;
/// four bytes are a step; what follows four times 255 are frames, which the workers send.
pub fn core_inputs(data: &[u8]) {
    let Some((seed, data)) = data.split_first() else {
        return;
    };
    let mut fuzz_world = FuzzWorld::new(*seed);
    let chunks: Vec<&[u8]> = data.chunks(4).collect();
    let end = chunks.iter().position(|chunk| *chunk == [255; 4]);
    let step = |chunk: &&[u8]| -> Option<DrillStep> {
        let [a, b, c, d] = <[u8; 4]>::try_from(*chunk).ok()?;
        Some((a, b, c, d))
    };
    let steps: Vec<DrillStep> = chunks[..end.unwrap_or(chunks.len())]
        .iter()
        .filter_map(step)
        .take(DRILL_STEPS_MAX)
        .collect();
    fuzz_world.run(&steps);
    let Some(frames) = end.and_then(|end| data.get(4 * (end + 1)..)) else {
        return fuzz_world.finish();
    };
    let mut buffer = BytesMut::from(frames);
    while let Ok(Some(message)) = frame::decode(&mut buffer, FRAME_BYTES_MAX) {
        fuzz_world.say(message);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn corpus() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus")
    }

    /// What a fuzzer once found interesting stays tested.
    #[test]
    fn the_corpus_holds() {
        for (name, target) in TARGETS {
            let mut files: Vec<_> = std::fs::read_dir(corpus().join(name))
                .unwrap()
                .map(|file| file.unwrap().path())
                .collect();
            files.sort();
            assert!(!files.is_empty(), "{name} has a corpus");
            for file in files {
                target(&std::fs::read(&file).unwrap());
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_are_read_without_a_panic(data in prop::collection::vec(any::<u8>(), 0..200)) {
            frames(&data);
            stored(&data);
            key_order(&data);
        }

        /// Bytes drawn at random seldom decode: here is one of ours, changed in a few places.
        #[test]
        fn damaged_bytes_are_read_without_a_panic(
            pick in any::<prop::sample::Index>(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let seeds = super::seeds::all();
            let (name, bytes) = pick.get(&seeds);
            let mut bytes = bytes.clone();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(cut.index(2 * bytes.len()) + 1);
            match *name {
                "frames" => frames(&bytes),
                _ => stored(&bytes),
            }
        }
    }

    /// `cargo test -p stepwell fuzzing -- --ignored` writes what the corpus begins with.
    #[test]
    #[ignore = "writes files"]
    fn write_the_corpus() {
        for (at, (name, bytes)) in super::seeds::all().into_iter().enumerate() {
            let folder = corpus().join(name);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(format!("seed-{at:02}")), bytes).unwrap();
        }
    }
}

/// Well-formed bytes to begin with.
#[cfg(test)]
mod seeds {
    use super::*;
    use crate::model::entry::{
        AttemptFailed, Completed, SourceLocation, Started, StepCompleted, TimerArmed,
    };
    use crate::model::failure::Failure;
    use crate::model::id::{
        CommandIndex, LeaseNo, MemoKey, ProcessInstance, RequestId, SessionId, Token,
    };
    use crate::model::payload::Payload;
    use crate::model::request::{Caller, NoSuchRun, StartRun};
    use crate::model::retry::Retry;
    use crate::model::run::RunState;
    use crate::model::unique::{Unique, UniqueKey};
    use crate::wire::message::{
        AskBatch, AtomicStart, AttemptFailedReport, AttemptMemo, Cancel, Dispatch, Held, Hello,
        MemoReleased, MemoRequested, PROTOCOL, QueueSlots, RefusedReply, Start, StartBatch,
        StepCompletedReport, TurnSuspended, Welcome, WorkflowOffer,
    };

    const TOKEN: Token = Token { store: 7, epoch: 2, lease: LeaseNo(9) };

    fn caller() -> Caller {
        Caller { principal: "ann".into(), request_id: RequestId(3), ..Caller::default() }
    }

    fn location() -> SourceLocation {
        SourceLocation { name: "charge".into(), at: "order.rs:41".into(), version: 2 }
    }

    fn messages() -> Vec<Message> {
        let run = StartRun {
            id: RunId(5),
            name: Some("order-17".into()),
            workflow: "order".into(),
            version: 1,
            queue: "q".into(),
            priority: 5,
            delay_ms: 0,
            input: Payload(Bytes::from_static(b"\x01\x2a")),
            tags: vec!["gpu".into()],
            unique: Some(UniqueKey::new("k", Unique::Running)),
        };
        let again = run.clone();
        let (run_no, number, output) =
            (RunNo(1), CommandIndex(0), Payload(Bytes::from_static(b"\x01\xc0")));
        vec![
            Hello {
                protocol: PROTOCOL,
                caller: caller(),
                credentials: None,
                process: ProcessInstance(4),
                build: "b1".into(),
                workflows: vec![WorkflowOffer { workflow: "order".into(), version: 1 }],
                queues: vec![QueueSlots { queue: "q".into(), slots: 8 }],
                held: vec![Held { run: run_no, token: TOKEN, seen: 3 }],
                tags: vec!["gpu".into()],
            }
            .into(),
            Welcome {
                protocol: PROTOCOL,
                session: SessionId(1),
                store: 7,
                epoch: 2,
                heartbeat_ms: 2_000,
                session_timeout_ms: 10_000,
                payload_bytes_max: 65_536,
                now: Time(1_000),
                suspends_for_memo: true,
            }
            .into(),
            Dispatch {
                run: run_no,
                token: TOKEN,
                id: RunId(5),
                count: 1,
                entries: vec![Bytes::from_static(b"x")],
                now: Time(1_000),
            }
            .into(),
            StepCompletedReport {
                run: run_no,
                token: TOKEN,
                number,
                location: location(),
                attempt: 1,
                output,
                memo: None,
            }
            .into(),
            AttemptFailedReport {
                run: run_no,
                token: TOKEN,
                number,
                location: location(),
                attempt: 1,
                failure: Failure::retryable("no answer"),
                retry: Retry::default(),
            }
            .into(),
            TurnSuspended {
                run: run_no,
                token: TOKEN,
                seen: 3,
                wakes_at: Time(9),
                memos: vec![number],
            }
            .into(),
            Start { call_number: 1, caller: caller(), runs: vec![run] }.into(),
            Cancel { call_number: 2, caller: caller(), id: RunId(5), reason: "no".into() }.into(),
            RefusedReply { call_number: 2, reason: NoSuchRun { id: RunId(5) }.into() }.into(),
            AtomicStart {
                call_number: 3,
                caller: caller(),
                runs: vec![again.clone(), again.clone()],
            }
            .into(),
            StartBatch {
                call_number: 4,
                caller: caller(),
                name: "b".into(),
                runs: vec![again.clone()],
                follow_up: Some(Box::new(StartRun { name: None, unique: None, ..again })),
                seal: true,
            }
            .into(),
            AskBatch { call_number: 5, caller: caller(), name: "b".into() }.into(),
            MemoRequested {
                run: run_no,
                token: TOKEN,
                number,
                location: location(),
                memo: MemoKey::of(Namespace(0), "rate"),
            }
            .into(),
            AttemptMemo { run: run_no, token: TOKEN, number }.into(),
            MemoReleased { run: run_no, token: TOKEN, number }.into(),
        ]
    }

    fn entries() -> Vec<Entry> {
        let started = Started {
            at: Time(1),
            id: RunId(1),
            name: None,
            namespace: Namespace(0),
            workflow: "order".into(),
            version: 1,
            queue: "q".into(),
            priority: 5,
            principal: "ann".into(),
            request_id: RequestId(3),
            traceparent: None,
            input: Payload::default(),
            not_before: Some(Time(5)),
            tags: Vec::new(),
            unique: None,
            batch: None,
        };
        let failed = AttemptFailed {
            at: Time(3),
            number: CommandIndex(1),
            location: location(),
            attempt: 1,
            failure: Failure::terminal("no"),
            retry_at: Time(9),
            counted: true,
            process: ProcessInstance(4),
            build: "b1".into(),
        };
        let output = Payload::default();
        vec![
            started.into(),
            StepCompleted {
                at: Time(2),
                number: CommandIndex(0),
                location: location(),
                attempt: 1,
                output: output.clone(),
            }
            .into(),
            failed.into(),
            TimerArmed { at: Time(4), number: CommandIndex(2), location: location(), due: Time(8) }
                .into(),
            Completed { at: Time(5), output }.into(),
        ]
    }

    fn records() -> Vec<Bytes> {
        let (run, workflow) = (RunNo(1), "order".to_owned());
        vec![
            Tally { format: 1, next_run: 2, next_sequence: 3, runs: vec![0; RunState::ALL.len()] }
                .to_bytes(),
            Mark {
                time: Time(1),
                heads: vec![(1, 5, 9)],
                timers: Time(3),
                rest: 4,
                audit: Time(5),
            }
            .to_bytes(),
            QueuedRecord {
                run,
                workflow: workflow.clone(),
                deaths: 1,
                avoid: vec!["b1".into()],
                tags: vec!["gpu".into()],
                since: Time(4),
            }
            .to_bytes(),
            LeaseRecord {
                run,
                token: TOKEN,
                process: ProcessInstance(4),
                build: "b1".into(),
                workflow,
                queue: 1,
                priority: 5,
                sequence: 9,
                entries: 3,
                deaths: 0,
                avoid: vec![],
                tags: vec!["gpu".into()],
                since: Time(4),
                at: Time(5),
            }
            .to_bytes(),
        ]
    }

    /// Rows as [`joins`] cuts them: a long entry in three parts, then a short one.
    fn rows() -> Vec<u8> {
        let mut bytes = vec![0, 0, 9, 0, 1, 12, 0, 0, 0, 1, 2, 3, 4];
        bytes.extend([0, 1, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        bytes.extend([1, 0, 3, 0, 0, 1, 2]);
        bytes
    }

    /// Each frame as a later version would write it, which has one field more in everything.
    #[test]
    fn frames_of_a_later_version_are_read() {
        for message in messages() {
            let later = crate::numbered::later::write(|| message.encode());
            assert_ne!(later, message.encode());
            assert_eq!(Message::decode(&later), Ok(message));
        }
    }

    pub(super) fn all() -> Vec<(&'static str, Vec<u8>)> {
        let mut seeds: Vec<(&'static str, Vec<u8>)> = Vec::new();
        for message in messages() {
            let mut bytes = Vec::new();
            frame::encode(&message, &mut bytes);
            seeds.push(("frames", bytes));
        }
        for entry in entries() {
            seeds.push(("stored", entry.encode()));
            seeds.push(("stored", chain::sealed(7, &entry).0));
        }
        seeds.extend(records().into_iter().map(|record| ("stored", record.to_vec())));
        seeds.push(("stored", rows()));
        seeds.push(("key_order", (0..64).collect()));
        seeds.push(("key_order", vec![255; 64]));
        seeds.push(("core_inputs", [&[0], &(0..=239).collect::<Vec<u8>>()[..]].concat()));
        seeds.push(("core_inputs", (0..400u32).map(|n| (n * 37 + n / 7) as u8).collect()));
        let mut said = vec![0, 0, 0, 0, 200, 0, 1, 1, 200];
        said.extend([255; 4]);
        messages().iter().for_each(|message| frame::encode(message, &mut said));
        seeds.push(("core_inputs", said));
        seeds
    }
}
