//! The store's own records: which store it is, how far it has come, which generations exist.
//!
//! | key | value | written |
//! |---|---|---|
//! | `store` | store id, origin (8 bytes each) | at creation; the id again when a backup is opened as restored |
//! | `commit` | seq, epoch (8 bytes each) | in every group |
//! | `gen/` number (4 bytes) | none | in the group of the first put into it; removed before the generation is |
//!
//! All in the keyspace `system`, big-endian. Fields are only added at their ends.
//!
//! And one **seal** in every keyspace, under a key that is longer than any caller's and sorts after
//! all of them, so that scans end before it. fjall opens a keyspace whose version file is gone as
//! an empty one; the seal is what is missed then. It holds the origin, which unlike the store id
//! never changes, so that a keyspace of another store is noticed too.

use crate::identity::{Epoch, StoreId};
use crate::receipt::Seq;
use crate::store::Space;
use crate::write_batch::KEY_BYTES_MAX;

pub(super) const STORE_KEY: &[u8] = b"store";
pub(super) const COMMIT_KEY: &[u8] = b"commit";
pub(super) const GENERATION_PREFIX: &[u8] = b"gen/";
pub(super) const SEAL_KEY: &[u8] = &[u8::MAX; KEY_BYTES_MAX + 8];

/// Which store it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct StoreRecord {
    pub(super) store: StoreId,
    /// The first id it had; what the seals hold.
    pub(super) origin: u64,
}

/// How far it has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CommitRecord {
    pub(super) seq: Seq,
    pub(super) epoch: Epoch,
}

impl StoreRecord {
    pub(super) fn encode(self) -> [u8; 16] {
        pair(self.store.0, self.origin)
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<StoreRecord> {
        let (store, origin) = unpair(bytes)?;
        Some(StoreRecord { store: StoreId(store), origin })
    }
}

impl CommitRecord {
    pub(super) fn encode(self) -> [u8; 16] {
        pair(self.seq.0, self.epoch.0)
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<CommitRecord> {
        let (seq, epoch) = unpair(bytes)?;
        Some(CommitRecord { seq: Seq(seq), epoch: Epoch(epoch) })
    }
}

pub(super) fn generation_key(generation: u32) -> [u8; 8] {
    let mut key = [0; 8];
    key[..4].copy_from_slice(GENERATION_PREFIX);
    key[4..].copy_from_slice(&generation.to_be_bytes());
    key
}

pub(super) fn generation_of(key: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(key.strip_prefix(GENERATION_PREFIX)?.try_into().ok()?))
}

/// The value of the seal: a magic, the origin, the number of the space, the number of the
/// generation. None is `system`.
pub(super) fn seal(origin: u64, space: Option<Space>) -> [u8; 21] {
    let (number, generation) = match space {
        Some(Space::LongLived) => (0, 0),
        Some(Space::ShortLived) => (1, 0),
        Some(Space::Generation(generation)) => (2, generation),
        None => (u8::MAX, 0),
    };
    let mut seal = [0; 21];
    seal[..8].copy_from_slice(b"stepwell");
    seal[8..16].copy_from_slice(&origin.to_be_bytes());
    seal[16] = number;
    seal[17..].copy_from_slice(&generation.to_be_bytes());
    seal
}

fn pair(a: u64, b: u64) -> [u8; 16] {
    (u128::from(a) << 64 | u128::from(b)).to_be_bytes()
}

fn unpair(bytes: &[u8]) -> Option<(u64, u64)> {
    let pair = u128::from_be_bytes(bytes.get(..16)?.try_into().ok()?);
    Some(((pair >> 64) as u64, pair as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_records_keep_their_bytes() {
        let store = StoreRecord { store: StoreId(0x0a0b), origin: 0x0c0d };
        assert_eq!(hex(&store.encode()), "0000000000000a0b0000000000000c0d");
        assert_eq!(StoreRecord::decode(&store.encode()), Some(store));

        let commit = CommitRecord { seq: Seq(258), epoch: Epoch(3) };
        assert_eq!(hex(&commit.encode()), "00000000000001020000000000000003");
        assert_eq!(CommitRecord::decode(&commit.encode()), Some(commit));

        assert_eq!(hex(&generation_key(20_000)), "67656e2f00004e20");
        assert_eq!(generation_of(&generation_key(20_000)), Some(20_000));
        assert_eq!(
            hex(&seal(1, Some(Space::Generation(2)))),
            "7374657077656c6c00000000000000010200000002"
        );
        assert_eq!(hex(&seal(1, None)), "7374657077656c6c0000000000000001ff00000000");
    }

    // A later build adds a field at the end; this one still reads what it knows.
    #[test]
    fn a_longer_record_is_read_and_a_shorter_one_is_not() {
        let longer =
            [&CommitRecord { seq: Seq(1), epoch: Epoch(2) }.encode()[..], &[9; 4]].concat();
        assert_eq!(
            CommitRecord::decode(&longer),
            Some(CommitRecord { seq: Seq(1), epoch: Epoch(2) })
        );
        assert_eq!(CommitRecord::decode(&longer[..15]), None);
    }

    #[test]
    fn the_seal_sorts_after_every_key_of_a_caller() {
        assert!(SEAL_KEY > &[u8::MAX; KEY_BYTES_MAX][..]);
    }
}
