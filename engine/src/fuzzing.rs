//! What strangers may send and disks may hold: the bodies of the fuzz targets in `fuzz/`.
//!
//! They also run in ordinary tests, over the committed corpus and over bytes drawn at random.

use bytes::{Bytes, BytesMut};

use crate::core::fuzz_world::{DrillStep, FuzzWorld};
use crate::core::run::RunFold;
use crate::model::chain;
use crate::model::entry::Entry;
use crate::model::id::{RunId, RunNo};
use crate::model::time::Time;
use crate::tables::journal::{Joiner, JournalRow};
use crate::tables::{self, EachTable, JournalKey, KeyPart, QueuedKey, Table, TableKey, TableValue};
use crate::wire::frame::{self, FRAME_BYTES_MAX};
use crate::wire::handshake::Protocols;
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
    frame::encode(message, Protocols::OWN, &mut bytes);
    let again = frame::decode(&mut BytesMut::from(&bytes[..]), FRAME_BYTES_MAX);
    assert_eq!(again, Ok(Some(message.clone())), "a message is what was sent");
}

/// Bytes from a disk: no panic, and what decodes is encoded to an equal record.
pub fn stored(data: &[u8]) {
    Table::each(&mut Stored(data));
    if let Ok(entry) = Entry::decode(data) {
        assert_eq!(
            Entry::decode(&entry.encode()).as_ref(),
            Ok(&entry),
            "an entry is what was written"
        );
        folds(&entry);
    }
    let _ = chain::open(7, data);
    joins(data);
}

/// Bytes that may be a key of any table, or its record.
struct Stored<'a>(&'a [u8]);

impl EachTable for Stored<'_> {
    fn table<K: TableKey>(&mut self) {
        if let Some(key) = K::from_bytes(self.0) {
            assert_eq!(key.to_bytes(), self.0, "a key is what was written");
        }
        let data = Bytes::copy_from_slice(self.0);
        for key in keys_of::<K>(self.0) {
            if let Ok(found) = key.read_record(&data) {
                let again = key.read_record(&found.to_value());
                assert_eq!(again.as_ref(), Ok(&found), "a record is what was written");
            }
        }
    }
}

/// Keys of a table, made of bytes.
fn keys_of<K: TableKey>(data: &[u8]) -> Vec<K> {
    let mut parts = data.to_vec();
    parts.resize(K::PARTS_BYTES, 0);
    if K::TABLE == Table::Expiry {
        parts[Time::BYTES] = 1 + parts[Time::BYTES] % 3; // what expires
    }
    // Of one table without any parts there is a key as well.
    [&parts[..], &[]].into_iter().filter_map(K::from_parts).collect()
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
        let key = JournalKey { run: RunNo(1), entry, part };
        if joiner.push(&key, JournalRow(Bytes::copy_from_slice(value))).is_err() {
            return;
        }
        rest = tail;
    }
}

/// The order of keys is the order of what they are made of, parts come back out, and no key is one
/// of another table.
pub fn key_order(data: &[u8]) {
    Table::each(&mut KeyOrder(data));
    let [queue, priority] = [0, 1].map(|at| data.get(at).copied().unwrap_or(0));
    let queue = u32::from(queue);
    let key = QueuedKey { queue, priority, sequence: u64::from(priority) };
    let lane = QueuedKey::lane(queue, priority);
    assert!(key.to_bytes().starts_with(&lane), "a lane has all its runs");
    assert!(key.to_bytes() < tables::end_of(&lane), "a lane ends behind all its runs");
}

struct KeyOrder<'a>(&'a [u8]);

impl EachTable for KeyOrder<'_> {
    fn table<K: TableKey>(&mut self) {
        let (a, b) = self.0.split_at(self.0.len() / 2);
        let mut near = a.to_vec();
        near.resize(K::PARTS_BYTES, 0);
        // A neighbour, which differs in one byte.
        if let (Some(at), Some(byte)) = (a.first(), b.first()) {
            let at = usize::from(*at) % near.len().max(1);
            near.get_mut(at).into_iter().for_each(|part| *part = *byte);
        }
        let keys: Vec<K> = [a, b, &near].into_iter().flat_map(keys_of).collect();
        for a in &keys {
            let bytes = a.to_bytes();
            assert_eq!(K::from_bytes(&bytes).as_ref(), Some(a), "a key is what was written");
            assert_eq!(Table::from_key(&bytes), Some(K::TABLE), "a key is of one table");
            assert!(bytes.starts_with(&K::TABLE.prefix()), "a table has all its keys");
            assert!(bytes < tables::end_of(&K::TABLE.prefix()), "a table ends behind its keys");
            Table::each(&mut OnlyOf(K::TABLE, &bytes));
            for b in &keys {
                let order = bytes.cmp(&b.to_bytes());
                assert_eq!(order, a.cmp(b), "keys are in the order of {a:?} and {b:?}");
            }
        }
    }
}

/// A key, and the only table that has it.
struct OnlyOf<'a>(Table, &'a [u8]);

impl EachTable for OnlyOf<'_> {
    fn table<K: TableKey>(&mut self) {
        let Self(table, bytes) = *self;
        assert_eq!(K::from_bytes(bytes).is_some(), K::TABLE == table, "a key is of one table");
    }
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
    use crate::model::id::{CommandIndex, Namespace, ProcessInstance, RequestId};
    use crate::model::payload::Payload;
    use crate::tables::samples::sample;
    use crate::wire::samples;

    fn location() -> SourceLocation {
        SourceLocation { name: "charge".into(), at: "order.rs:41".into(), version: 2 }
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

    /// Rows as [`joins`] cuts them: a long entry in three parts, then a short one.
    fn rows() -> Vec<u8> {
        let mut bytes = vec![0, 0, 9, 0, 1, 12, 0, 0, 0, 1, 2, 3, 4];
        bytes.extend([0, 1, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        bytes.extend([1, 0, 3, 0, 0, 1, 2]);
        bytes
    }

    pub(super) fn all() -> Vec<(&'static str, Vec<u8>)> {
        let mut seeds: Vec<(&'static str, Vec<u8>)> = Vec::new();
        for message in samples::messages() {
            let mut bytes = Vec::new();
            frame::encode(&message, Protocols::OWN, &mut bytes);
            seeds.push(("frames", bytes));
        }
        for entry in entries() {
            seeds.push(("stored", entry.encode()));
            seeds.push(("stored", chain::sealed(7, &entry).0));
        }
        for table in Table::ALL {
            let (key, value) = sample(table).to_stored();
            let rows = [key, value].into_iter().filter(|bytes| !bytes.is_empty());
            seeds.extend(rows.map(|bytes| ("stored", bytes.to_vec())));
        }
        seeds.push(("stored", rows()));
        seeds.push(("key_order", (0..64).collect()));
        seeds.push(("key_order", vec![255; 64]));
        seeds.push(("core_inputs", [&[0], &(0..=239).collect::<Vec<u8>>()[..]].concat()));
        seeds.push(("core_inputs", (0..400u32).map(|n| (n * 37 + n / 7) as u8).collect()));
        let mut said = vec![0, 0, 0, 0, 200, 0, 1, 1, 200];
        said.extend([255; 4]);
        samples::messages().iter().for_each(|m| frame::encode(m, Protocols::OWN, &mut said));
        seeds.push(("core_inputs", said));
        seeds
    }
}
