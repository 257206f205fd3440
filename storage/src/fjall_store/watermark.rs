//! The watermark: how far the store had come, written down outside of fjall's write-ahead log.
//!
//! A flipped bit in the header of a write-ahead-log batch is under no checksum. One in seven of
//! such flips makes fjall end its recovery early and open *without a word* with committed data
//! gone. The log cannot tell on itself; this file can.
//!
//! # Layout
//!
//! Two slots, at 0 and 4096, written in turn, each
//!
//! ```text
//!   0  magic "SWWM"    4  crc32c of what follows    8  store id    16  epoch    24  seq        (big-endian, 32 bytes)
//! ```
//!
//! The mark is the valid slot with the higher number. A slot is one sector, so that a power cut
//! leaves it old or new on the disks we know; should one tear, the other holds the commit before.
//! With no valid slot the store is refused as damaged: a watermark that cannot be read protects
//! nothing, and saying so once is better than never.
//!
//! # Never ahead, and how far behind
//!
//! It is written after the commit's sync, so no crash leaves it ahead of sound data. It is synced
//! about once a second and at closing. A loss is noticed if it reaches back beyond the last mark on
//! the disk: always after a kill, where the kernel keeps what was written; after a power cut, if it
//! reaches back by more than about a second. Losses within that last second, and damage that leaves
//! the *last* batch in place, are the window that stays undetected here; the chain over each run's
//! entries looks for the latter.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::identity::{Epoch, StoreId};
use crate::receipt::Seq;

const MAGIC: [u8; 4] = *b"SWWM";
const SLOT_BYTES: usize = 32;
const SLOT_AT: [u64; 2] = [0, 4096];
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// How far a store had come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct WatermarkRecord {
    pub(super) seq: Seq,
    pub(super) epoch: Epoch,
    pub(super) store: StoreId,
}

/// The file, held open by the committer.
pub(super) struct Watermark {
    file: File,
    slot: usize,
    synced_at: Instant,
}

impl Watermark {
    /// Reads the mark in the file: none if there is no file, an error text if it holds no valid
    /// one.
    pub(super) fn read(path: &Path) -> io::Result<Option<Result<WatermarkRecord, &'static str>>> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let slot = |at: u64| decode(bytes.get(at as usize..)?.get(..SLOT_BYTES)?);
        let mark = SLOT_AT.into_iter().filter_map(slot).max();
        Ok(Some(mark.ok_or("the watermark holds no valid record")))
    }

    /// Opens or creates the file and writes `mark` into both slots, durably.
    pub(super) fn start(path: &Path, mark: WatermarkRecord) -> io::Result<Watermark> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        let mut watermark = Watermark { file, slot: 0, synced_at: now() };
        // One after the other, each synced: at no moment is there no valid one.
        for _ in SLOT_AT {
            watermark.write(mark)?;
            watermark.sync()?;
        }
        Ok(watermark)
    }

    /// Notes a commit whose data is durable.
    pub(super) fn note(&mut self, mark: WatermarkRecord) -> io::Result<()> {
        self.write(mark)?;
        if now().duration_since(self.synced_at) >= SYNC_EVERY { self.sync() } else { Ok(()) }
    }

    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        self.synced_at = now();
        Ok(())
    }

    fn write(&mut self, mark: WatermarkRecord) -> io::Result<()> {
        self.slot ^= 1;
        self.file.write_all_at(&encode(mark), SLOT_AT[self.slot])
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "paces the sync of a file that only exists on a real disk; never simulated"
)]
fn now() -> Instant {
    Instant::now()
}

fn encode(mark: WatermarkRecord) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..4].copy_from_slice(&MAGIC);
    slot[8..16].copy_from_slice(&mark.store.0.to_be_bytes());
    slot[16..24].copy_from_slice(&mark.epoch.0.to_be_bytes());
    slot[24..32].copy_from_slice(&mark.seq.0.to_be_bytes());
    let sum = crc32c::crc32c(&slot[8..]);
    slot[4..8].copy_from_slice(&sum.to_be_bytes());
    slot
}

fn decode(slot: &[u8]) -> Option<WatermarkRecord> {
    let number = |at: usize| Some(u64::from_be_bytes(slot.get(at..at + 8)?.try_into().ok()?));
    let sum = u32::from_be_bytes(slot.get(4..8)?.try_into().ok()?);
    if slot[..4] != MAGIC || crc32c::crc32c(&slot[8..]) != sum {
        return None;
    }
    Some(WatermarkRecord {
        store: StoreId(number(8)?),
        epoch: Epoch(number(16)?),
        seq: Seq(number(24)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(seq: u64) -> WatermarkRecord {
        WatermarkRecord { seq: Seq(seq), epoch: Epoch(3), store: StoreId(0x0102_0304_0506_0708) }
    }

    #[test]
    fn the_record_keeps_its_bytes() {
        let golden = "5357574dfdf6b97401020304050607080000000000000003000000000000002a";
        let hex: String = encode(mark(42)).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, golden);
        assert_eq!(decode(&encode(mark(42))), Some(mark(42)));
    }

    // A power cut tears at most the slot that was being written.
    #[test]
    fn a_torn_slot_leaves_the_mark_before_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("watermark");
        assert_eq!(Watermark::read(&path).unwrap(), None);
        let mut watermark = Watermark::start(&path, mark(1)).unwrap();
        for seq in 2..40 {
            watermark.note(mark(seq)).unwrap();
            assert_eq!(Watermark::read(&path).unwrap(), Some(Ok(mark(seq))));
            let whole = std::fs::read(&path).unwrap();
            let mut torn = whole.clone();
            torn[SLOT_AT[watermark.slot] as usize + 20] ^= 1;
            std::fs::write(&path, &torn).unwrap();
            assert_eq!(Watermark::read(&path).unwrap(), Some(Ok(mark(seq - 1))));
            std::fs::write(&path, &whole).unwrap();
        }
    }

    #[test]
    fn a_file_without_a_valid_slot_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("watermark");
        for bytes in [&b""[..], b"SWWM", &[0; 8192]] {
            std::fs::write(&path, bytes).unwrap();
            assert!(matches!(Watermark::read(&path).unwrap(), Some(Err(_))));
        }
    }
}
