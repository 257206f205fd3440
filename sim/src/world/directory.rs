//! The production store in a directory that outlives the server's lives: real files, real kills,
//! real power cuts.
//!
//! fjall syncs when it is dropped, so that dropping a store loses nothing that was written: that is
//! a kill. A power cut is an image: the directory is copied while the store still has it open, the
//! write-ahead log cut behind what was acknowledged, and the copy is the disk from then on.
//!
//! ```text
//!   write-ahead log   ──── acknowledged ────┬── written, its sync not answered ──┬── what queued behind ──┐
//!   a kill                                                                  stays│ is lost                │
//!   a power cut                             └─ cut anywhere ──────────────────────────────────────────────┘
//! ```

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stepwell_storage::{
    CommitFailure, Crash, FjallStore, OpenRefusal, Options, Receipt, Seq, Store, block_on,
};
use tempfile::TempDir;

use crate::plan::{FaultKind, Plan, Strike};

/// The machine's disk.
pub(super) struct Directory(Mutex<DirectoryState>);

struct DirectoryState {
    images: u32,
    entropy: u64,
    /// Whether power is ever cut: only then is it worth knowing where to.
    loses_power: bool,
    /// Kept here too, so that it is still open when its process is dead and its power goes.
    store: Option<Arc<FjallStore>>,
    /// What was acknowledged last, while the commit after it is on its way.
    on_its_way: Option<Extent>,
    /// The last batch that a crash has left, as far as is known.
    kept: Option<Seq>,
    /// Removed with the world, after the store is closed.
    home: TempDir,
}

/// How far the store was at some moment.
struct Extent {
    seq: Seq,
    /// The write-ahead log, how much of it is used, and the watermark; only where power is ever
    /// cut.
    files: Option<(PathBuf, u64, Vec<u8>)>,
}

impl Directory {
    /// An empty one.
    pub(super) fn new(plan: &Plan) -> Self {
        let home = home().unwrap_or_else(|e| panic!("no temporary directory: {e}"));
        let cuts = |kind| kind == FaultKind::PowerLost;
        let by_script = plan.script.iter().any(|s| s.strike == Strike::LosePower);
        Self(Mutex::new(DirectoryState {
            images: 0,
            entropy: crate::draw::hash(plan.seed, "store id"),
            loses_power: by_script || plan.faults.iter().any(|timed| cuts(timed.fault.kind)),
            store: None,
            on_its_way: None,
            kept: None,
            home,
        }))
    }

    /// Opens the store; the one before, if it is still open here, dies.
    pub(super) fn open(&self) -> Result<Arc<FjallStore>, OpenRefusal> {
        let mut state = self.state();
        state.store = None;
        state.on_its_way = None;
        let options =
            Options { entropy: state.entropy, cache_bytes: 1 << 20, ..Options::default() };
        let store = Arc::new(FjallStore::open(&state.path(), options)?);
        let (found, kept) = (store.committed(), state.kept.take());
        assert!(
            kept.is_none_or(|kept| kept == found),
            "the crash left batches up to {kept:?}, the store finds {found}"
        );
        state.store = Some(store.clone());
        Ok(store)
    }

    /// Writes all that is pending, and syncs it. Nobody may hear of it before
    /// [`Self::acknowledged`].
    pub(super) fn commit(&self, store: &FjallStore) -> Result<Receipt, CommitFailure> {
        let extent = self.state().extent(store);
        let receipt = block_on(store.commit())?;
        self.state().on_its_way = Some(extent);
        Ok(receipt)
    }

    /// The commit has been answered.
    pub(super) fn acknowledged(&self) {
        self.state().on_its_way = None;
    }

    /// The process is gone; the kernel keeps what it wrote.
    pub(super) fn process_killed(&self) -> Crash {
        let mut state = self.state();
        let Some(store) = state.store.take() else {
            return Crash { unacknowledged: 0, kept: 0 };
        };
        let acknowledged = state.acknowledged(&store);
        state.on_its_way = None;
        state.kept = Some(store.committed());
        Crash {
            unacknowledged: store.submitted().0 - acknowledged.0,
            kept: store.committed().0 - acknowledged.0,
        }
    }

    /// The machine stops in the middle of the commit of all that is pending, and the disk has of
    /// what was not acknowledged the first bytes, as many as `cut` says.
    pub(super) fn power_lost(&self, cut: u64) -> Crash {
        let mut state = self.state();
        let Some(store) = state.store.take() else {
            return Crash { unacknowledged: 0, kept: 0 };
        };
        match state.image(&store, cut) {
            Ok(crash) => crash,
            Err(error) => panic!("the disk cannot be imaged: {error}"),
        }
    }

    /// A panic of the engine's must not take the disk from the next life.
    fn state(&self) -> MutexGuard<'_, DirectoryState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DirectoryState {
    fn path(&self) -> PathBuf {
        self.home.path().join(self.images.to_string())
    }

    fn acknowledged(&self, store: &FjallStore) -> Seq {
        let before = self.on_its_way.as_ref();
        before.map_or(store.committed(), |extent| extent.seq)
    }

    fn extent(&self, store: &FjallStore) -> Extent {
        let files = || -> io::Result<_> {
            let log = write_ahead_log(&self.path().join("db"))?;
            let used = used(&log)?;
            Ok((log, used, std::fs::read(self.path().join("watermark"))?))
        };
        let files = self.loses_power.then(files).transpose();
        Extent {
            seq: store.committed(),
            files: files.unwrap_or_else(|e| panic!("the store's files cannot be read: {e}")),
        }
    }

    fn image(&mut self, store: &FjallStore, cut: u64) -> io::Result<Crash> {
        let acknowledged = match self.on_its_way.take() {
            Some(extent) => extent,
            None => self.extent(store),
        };
        let Some((log, synced, watermark)) = acknowledged.files else {
            return Err(io::Error::other("the plan has no power cut"));
        };
        // Every group that was written beyond it, and where it ends.
        let mut groups = vec![(store.committed(), used(&log)?)];
        while store.committed() < store.submitted() {
            block_on(store.commit()).map_err(io::Error::other)?;
            groups.push((store.committed(), used(&log)?));
        }
        let written = groups.last().map_or(synced, |(_, end)| *end);
        // Whole is one place among hundreds, and the one where something survives that nobody was
        // told of.
        let tail = written - synced;
        let keeps = match cut % 4 {
            0 => written,
            _ => synced + cut / 4 % (tail + 1),
        };
        let whole = groups.iter().filter(|(_, end)| *end <= keeps);
        let kept = whole.map(|(seq, _)| *seq).max().unwrap_or(acknowledged.seq);

        let from = self.path();
        self.images += 1;
        let to = self.path();
        // fjall may be tidying up in the background: the image is one of a moment in which it did
        // not.
        loop {
            let before = listing(&from)?;
            copy(&from, &to, &log, keeps)?;
            if listing(&from)? == before {
                break;
            }
            std::fs::remove_dir_all(&to)?;
        }
        // The mark is written after the sync that did not come to its end.
        std::fs::write(to.join("watermark"), watermark)?;
        self.kept = Some(kept);
        Ok(Crash {
            unacknowledged: store.submitted().0 - acknowledged.seq.0,
            kept: kept.0 - acknowledged.seq.0,
        })
    }
}

/// A temporary directory in memory where there is such a thing and nobody says otherwise: what a
/// power cut leaves is decided here, so that the syncs of this machine would only cost time.
fn home() -> io::Result<TempDir> {
    let memory = Path::new("/dev/shm");
    if std::env::var_os("TMPDIR").is_none() && memory.is_dir() {
        tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir())
    } else {
        tempfile::tempdir()
    }
}

/// Copies a store's directory, of its write-ahead log only the first `log_bytes`.
fn copy(from: &Path, to: &Path, log: &Path, log_bytes: u64) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let path = entry?.path();
        let Some(name) = path.file_name() else {
            continue;
        };
        let target = to.join(name);
        if path.is_dir() {
            copy(&path, &target, log, log_bytes)?;
        } else if path == log {
            // Sparse and of 64 MiB: only its used part is worth reading.
            io::copy(&mut File::open(&path)?.take(log_bytes), &mut File::create(&target)?)?;
        } else {
            std::fs::copy(&path, &target)?;
        }
    }
    Ok(())
}

/// All files below a directory and how long they are.
fn listing(of: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(of)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => files.extend(listing(&entry.path())?),
            false => files.push((entry.path(), entry.metadata()?.len())),
        }
    }
    files.sort();
    Ok(files)
}

/// The file of the write-ahead log that is being written: the one with the highest number.
fn write_ahead_log(db: &Path) -> io::Result<PathBuf> {
    let mut newest: Option<(u64, PathBuf)> = None;
    for entry in std::fs::read_dir(db)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        if let Some(number) = number.filter(|_| path.extension().is_some_and(|e| e == "jnl")) {
            newest = newest.max(Some((number, path)));
        }
    }
    let (_, path) = newest.ok_or_else(|| io::Error::other("there is no write-ahead log"))?;
    path.canonicalize()
}

/// How far this process has written an open file: after a synced commit, how far it is synced.
fn used(path: &Path) -> io::Result<u64> {
    let mut used = None;
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let fd = entry?;
        if std::fs::read_link(fd.path()).is_ok_and(|target| target == path) {
            let info =
                std::fs::read_to_string(Path::new("/proc/self/fdinfo").join(fd.file_name()))?;
            let position = info.lines().find_map(|line| line.strip_prefix("pos:"));
            used = used.max(position.and_then(|text| text.trim().parse().ok()));
        }
    }
    used.ok_or_else(|| io::Error::other(format!("{} is not open", path.display())))
}

#[cfg(test)]
mod tests {
    use stepwell_storage::{Scan, Space, WriteBatch};

    use super::*;
    use crate::plan::{Fault, TimedFault};

    fn directory() -> Directory {
        let mut plan = Plan::from_seed(1).on_fjall().calm();
        plan.faults.push(TimedFault {
            at_ms: 0,
            fault: Fault {
                kind: FaultKind::PowerLost,
                host: "server".to_owned(),
                other: String::new(),
                span_ms: 0,
                extent: 0,
            },
        });
        Directory::new(&plan)
    }

    fn submit(store: &FjallStore, key: &str) {
        let mut batch = WriteBatch::new();
        batch.put(Space::LongLived, key.to_owned(), "v");
        store.submit(batch).unwrap();
    }

    fn keys(store: &FjallStore) -> Vec<String> {
        let rows = block_on(store.scan(Scan::range(Space::LongLived, "", ""))).unwrap();
        let key = |row: stepwell_storage::Row| String::from_utf8_lossy(&row.key).into_owned();
        rows.into_iter().map(key).collect()
    }

    /// Three batches: acknowledged, written, pending.
    fn three(directory: &Directory) {
        let store = directory.open().unwrap();
        submit(&store, "a");
        directory.commit(&store).unwrap();
        directory.acknowledged();
        submit(&store, "b");
        directory.commit(&store).unwrap();
        submit(&store, "c");
    }

    #[test]
    fn a_killed_process_leaves_what_it_wrote() {
        let directory = directory();
        three(&directory);
        let crash = directory.process_killed();
        assert_eq!((crash.unacknowledged, crash.kept), (2, 1));
        assert_eq!(keys(&directory.open().unwrap()), ["a", "b"]);
    }

    /// Wherever the log is cut, what is found is what was said, and never less than what was
    /// acknowledged.
    #[test]
    fn a_power_cut_leaves_a_prefix_of_what_was_not_acknowledged() {
        let mut seen = std::collections::BTreeSet::new();
        for cut in (1..1_200).step_by(37) {
            let directory = directory();
            three(&directory);
            let crash = directory.power_lost(cut);
            assert_eq!(crash.unacknowledged, 2);
            let left = &["a", "b", "c"][..=crash.kept as usize];
            assert_eq!(keys(&directory.open().unwrap()), left, "cut {cut}");
            seen.insert(crash.kept);
            // And it goes on from there.
            let store = directory.open().unwrap();
            submit(&store, "d");
            directory.commit(&store).unwrap();
        }
        assert_eq!(seen.len(), 3, "{seen:?}");
    }
}
