//! The store on disk: fjall, with what fjall leaves to its users.
//!
//! fjall brings the trees, the write-ahead log, atomic batches and compaction. Added here: group
//! commit, reading what is in flight, the lock of the directory, the format number, the epoch, and
//! the watermark that notices lost commits.
//!
//! ```text
//!   submit ──► pending ─┐                         ┌─► lasting, passing, gen-… (fjall trees)
//!      get, scan ◄──────┴── overlay               │
//!                           commit ── one batch, ─┴─► write-ahead log ── fdatasync ──► watermark ──► receipt
//! ```

mod check;
mod directory;
mod fault;
mod open;
mod record;
mod space_figures;
mod tree;
mod version_file;
mod watermark;

pub use check::{CheckReport, SpaceReport};

use std::future::ready;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::group::{Group, Submissions};
use crate::identity::Identity;
use crate::overlay::merge;
use crate::receipt::{Receipt, Seq};
use crate::refusal::{CommitFailure, OpenRefusal, ReadFailure, SubmitRefusal};
use crate::store::{BoxFuture, Row, Scan, Space, Store, Usage};
use crate::write_batch::WriteBatch;
use directory::Directory;
use fault::{commit_failure, file_commit_failure, read_failure};
use record::CommitRecord;
use space_figures::SpaceFigures;
use tree::Tree;
use watermark::{Watermark, WatermarkRecord};

/// How a [`FjallStore`] is opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// What a new store id is made of. To be drawn anew for every open; used when the store is
    /// created or `restored`.
    pub entropy: u64,
    /// Creates the store if there is none, in a directory that is absent or empty. Default: yes.
    pub create: bool,
    /// Takes the data as a restored backup: it may be behind its watermark or have none, and gets a
    /// new store id, by which all that still lives in the abandoned future is a stranger. Default:
    /// no.
    pub restored: bool,
    /// Bytes of the block cache. Default: 64 MiB.
    pub cache_bytes: u64,
    /// Bytes of the write-ahead log on the disk, beyond the file that is being written; they are
    /// what an open after a kill has to read, at about 0.5 s for 64 MiB. Default: 128 MiB, at least
    /// 64 MiB.
    pub wal_bytes_max: u64,
    /// Bytes of one memtable. Up to five of them exist for each space in the worst case, one in
    /// general. A space keeps the size it was created with. Default: 16 MiB.
    pub memtable_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            entropy: 0,
            create: true,
            restored: false,
            cache_bytes: 64 << 20,
            wal_bytes_max: 128 << 20,
            memtable_bytes: 16 << 20,
        }
    }
}

/// A store in a directory, held by this process alone.
///
/// `commit`, `drop_generation` and the reads do their I/O on the calling thread, when they are
/// called or polled first: a commit takes an `fdatasync` (0.1 ms and up), a read 7 µs from the
/// cache and 80 µs from the disk. Call `commit` from a thread of its own.
///
/// Durability: what a receipt covers survives a power cut, if the disk honours `fdatasync`. What
/// was submitted and not covered may survive either, as a prefix of whole groups.
pub struct FjallStore {
    submissions: Mutex<Submissions>,
    writer: Mutex<Writer>,
    identity: Identity,
    disk_bytes: SpaceFigures,
    // The order of the last two matters: the tree is closed before the directory is unlocked.
    tree: Tree,
    directory: Directory,
}

/// What only the committer touches.
struct Writer {
    watermark: Watermark,
    usage: Usage,
}

impl FjallStore {
    /// Opens the store in the directory `path`, and raises its epoch durably.
    ///
    /// Takes milliseconds, plus reading the write-ahead log after a kill (0.5 s for each 64 MiB).
    ///
    /// Errors: see [`OpenRefusal`]; each has a hint for the operator. A refused store is not
    /// written to, except that generations without a record are removed and unfinished
    /// write-ahead-log tails are cut.
    pub fn open(path: &Path, options: Options) -> Result<FjallStore, OpenRefusal> {
        let opened = open::open(path, &options)?;
        Ok(FjallStore {
            submissions: Mutex::new(Submissions::after(opened.committed)),
            writer: Mutex::new(Writer { watermark: opened.watermark, usage: Usage::default() }),
            identity: opened.identity,
            disk_bytes: SpaceFigures::default(),
            tree: opened.tree,
            directory: opened.directory,
        })
    }

    /// The directory it lies in.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Held for moments: a few map operations, never I/O.
    fn submissions(&self) -> MutexGuard<'_, Submissions> {
        self.submissions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held for a whole commit.
    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn commit_group(&self, writer: &mut Writer) -> Result<Receipt, CommitFailure> {
        let taken = self.submissions().take_group()?;
        let Some(group) = taken else {
            return self.submissions().receipt();
        };
        let last = group.last();
        // A panic in between would leave the group neither in the tree nor pending.
        let unwinding = EndOnUnwind(self);
        let written = self.write(group, writer);
        std::mem::forget(unwinding);
        match written {
            Ok(()) => Ok(self.submissions().applied(last)),
            Err(failure) => Err(self.submissions().end(failure)),
        }
    }

    fn write(&self, group: Group, writer: &mut Writer) -> Result<(), CommitFailure> {
        let (last, ops) = (group.last(), group.ops as u64);
        let wal_bytes =
            self.tree.apply(group, self.record(last)).map_err(|error| self.failure(&error))?;
        self.note(last, writer)?;
        writer.usage.wal_bytes_written += wal_bytes;
        writer.usage.commits += 1;
        writer.usage.ops += ops;
        Ok(())
    }

    fn note(&self, seq: Seq, writer: &mut Writer) -> Result<(), CommitFailure> {
        let mark = WatermarkRecord { seq, epoch: self.identity.epoch, store: self.identity.store };
        writer.watermark.note(mark).map_err(|error| file_commit_failure(&error, "watermark"))
    }

    fn drop_now(&self, generation: u32) -> Result<(), CommitFailure> {
        let mut writer = self.writer();
        let target = self.submissions().submitted();
        while !self.commit_group(&mut writer)?.covers(target) {}
        let commit = self.record(self.submissions().committed());
        let unwinding = EndOnUnwind(self);
        let dropped = self.tree.drop_generation(generation, commit);
        std::mem::forget(unwinding);
        dropped.map_err(|error| self.submissions().end(self.failure(&error)))
    }

    fn record(&self, seq: Seq) -> CommitRecord {
        CommitRecord { seq, epoch: self.identity.epoch }
    }

    fn failure(&self, error: &fjall::Error) -> CommitFailure {
        commit_failure(error, self.directory.path())
    }

    fn get_now(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, ReadFailure> {
        let submitted = self.submissions().get(space, key)?;
        match submitted {
            Some(value) => Ok(value),
            None => self.tree.get(space, key).map_err(|error| read_failure(&error)),
        }
    }

    fn scan_now(&self, scan: &Scan) -> Result<Vec<Row>, ReadFailure> {
        // Both under one lock: see `overlay` for what would go wrong otherwise.
        let (layer, snapshot) = {
            let submissions = self.submissions();
            (submissions.layer(scan)?, self.tree.snapshot())
        };
        merge(layer, self.tree.rows(&snapshot, scan), scan).map_err(|error| read_failure(&error))
    }
}

struct EndOnUnwind<'a>(&'a FjallStore);

impl Drop for EndOnUnwind<'_> {
    fn drop(&mut self) {
        let cause = "the commit panicked".to_owned();
        self.0.submissions().end(CommitFailure::Unknown { cause });
    }
}

impl Store for FjallStore {
    fn identity(&self) -> Identity {
        self.identity
    }

    fn submit(&self, batch: WriteBatch) -> Result<Seq, SubmitRefusal> {
        batch.check()?;
        self.submissions().submit(batch)
    }

    fn commit(&self) -> BoxFuture<'_, Result<Receipt, CommitFailure>> {
        Box::pin(async { self.commit_group(&mut self.writer()) })
    }

    fn submitted(&self) -> Seq {
        self.submissions().submitted()
    }

    fn committed(&self) -> Seq {
        self.submissions().committed()
    }

    fn get(&self, space: Space, key: &[u8]) -> BoxFuture<'_, Result<Option<Bytes>, ReadFailure>> {
        Box::pin(ready(self.get_now(space, key)))
    }

    fn scan(&self, scan: Scan) -> BoxFuture<'_, Result<Vec<Row>, ReadFailure>> {
        Box::pin(ready(self.scan_now(&scan)))
    }

    fn generations(&self) -> BoxFuture<'_, Result<Vec<u32>, ReadFailure>> {
        let readable = self.submissions().readable();
        Box::pin(ready(readable.map(|()| self.tree.generations())))
    }

    fn drop_generation(&self, generation: u32) -> BoxFuture<'_, Result<(), CommitFailure>> {
        Box::pin(async move { self.drop_now(generation) })
    }

    fn usage(&self) -> Usage {
        Usage { disk_bytes: self.disk_bytes.get(|| self.directory.bytes()), ..self.writer().usage }
    }
}

impl Drop for FjallStore {
    fn drop(&mut self) {
        // The data is durable without it; only a loss before the next commit would go unnoticed.
        if let Err(error) = self.writer().watermark.sync() {
            tracing::warn!(%error, "the watermark could not be synced at closing");
        }
    }
}
