//! Machines to run a store on: one in memory, and one whose disk is imaged when its power is cut.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stepwell_storage::conformance::Harness;
use stepwell_storage::{
    FjallStore, MemDisk, MemOptions, MemStore, OpenRefusal, Options, Receipt, Row, Scan, Space,
    Store, WriteBatch, block_on,
};
use tempfile::TempDir;

/// Entropy of every store made here; it is also the store's id.
pub(crate) const ENTROPY: u64 = 0x5eed;

pub(crate) fn options() -> Options {
    Options { entropy: ENTROPY, cache_bytes: 1 << 20, ..Options::default() }
}

pub(crate) fn put(space: Space, key: &str, value: &str) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put(space, key.to_owned(), value.to_owned());
    batch
}

pub(crate) fn commit(store: &dyn Store) -> Receipt {
    block_on(store.commit()).unwrap()
}

/// Everything that a store shows, in order.
pub(crate) fn content(store: &dyn Store) -> Vec<(Space, Row)> {
    let generations = block_on(store.generations()).unwrap().into_iter().map(Space::Generation);
    let rows = |space| {
        block_on(store.scan(Scan::range(space, "", "")))
            .unwrap()
            .into_iter()
            .map(move |row| (space, row))
    };
    [Space::LongLived, Space::ShortLived].into_iter().chain(generations).flat_map(rows).collect()
}

/// The in-memory machine.
#[derive(Default)]
pub(crate) struct MemMachine {
    pub(crate) disk: MemDisk,
}

impl Harness for MemMachine {
    fn open(&mut self) -> Arc<dyn Store> {
        self.open_beside().unwrap()
    }

    fn open_beside(&mut self) -> Result<Arc<dyn Store>, OpenRefusal> {
        let options = MemOptions { entropy: ENTROPY, ..MemOptions::default() };
        Ok(Arc::new(MemStore::acquire(&self.disk, options)?))
    }

    fn crash(&mut self, _store: Arc<dyn Store>, cut: u64) {
        self.disk.power_loss(cut);
    }
}

/// A machine with a disk that can lose its power.
///
/// fjall syncs when it is dropped, so that dropping loses nothing. A power cut is therefore an
/// image: the directory is copied while the store still has it open, its write-ahead log cut
/// somewhere behind what was synced, and the copy is the disk from then on.
pub(crate) struct DiskMachine {
    pub(crate) options: Options,
    disk: TempDir,
    path: PathBuf,
    images: u32,
}

impl Default for DiskMachine {
    fn default() -> Self {
        let disk = tempfile::tempdir().unwrap();
        let path = disk.path().join("0");
        DiskMachine { options: options(), disk, path, images: 0 }
    }
}

impl DiskMachine {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Cuts the power in the middle of the commit of all that is pending.
    ///
    /// Nothing is known about what the page cache wrote of it: here, the first `cut` bytes, modulo
    /// one more than there are.
    pub(crate) fn cut_power(&mut self, store: &dyn Store, cut: u64) {
        let watermark = std::fs::read(self.path.join("watermark")).unwrap();
        let log = write_ahead_log(&self.path.join("db"));
        let synced = position(&log);
        while store.committed() < store.submitted() {
            commit(store);
        }
        let written = position(&log);
        self.images += 1;
        let image = self.disk.path().join(self.images.to_string());
        copy(&self.path, &image, &log, synced + cut % (written - synced + 1));
        // The mark is written after the sync that did not come to its end.
        std::fs::write(image.join("watermark"), watermark).unwrap();
        self.path = image;
    }
}

impl Harness for DiskMachine {
    fn open(&mut self) -> Arc<dyn Store> {
        self.open_beside().unwrap()
    }

    fn open_beside(&mut self) -> Result<Arc<dyn Store>, OpenRefusal> {
        Ok(Arc::new(FjallStore::open(&self.path, self.options.clone())?))
    }

    fn crash(&mut self, store: Arc<dyn Store>, cut: u64) {
        self.cut_power(&*store, cut);
    }
}

/// Copies a store's directory, its write-ahead log only up to `log_bytes`.
pub(crate) fn copy(from: &Path, to: &Path, log: &Path, log_bytes: u64) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target, log, log_bytes);
        } else if path == log {
            // Sparse and of 64 MiB: only its used part is worth reading.
            let mut head = Vec::new();
            File::open(&path).unwrap().take(log_bytes).read_to_end(&mut head).unwrap();
            File::create(&target).unwrap().write_all(&head).unwrap();
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

/// Copies a store's directory while the store is open and idle.
pub(crate) fn image(from: &Path, to: &Path) {
    let log = write_ahead_log(&from.join("db"));
    copy(from, to, &log, position(&log));
}

/// The file of the write-ahead log that is being written.
pub(crate) fn write_ahead_log(db: &Path) -> PathBuf {
    let logs = std::fs::read_dir(db).unwrap().map(|entry| entry.unwrap().path());
    let number = |path: &PathBuf| path.file_stem()?.to_str()?.parse::<u64>().ok();
    logs.filter(|path| path.extension().is_some_and(|extension| extension == "jnl"))
        .max_by_key(number)
        .unwrap()
}

/// How far this process has written an open file: right after a synced commit, how far it is
/// synced.
pub(crate) fn position(path: &Path) -> u64 {
    let path = path.canonicalize().unwrap();
    let mut position = None;
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        let fd = entry.unwrap().path();
        if std::fs::read_link(&fd).is_ok_and(|target| target == path) {
            let info = std::fs::read_to_string(
                Path::new("/proc/self/fdinfo").join(fd.file_name().unwrap()),
            )
            .unwrap();
            let pos = info.lines().find_map(|line| line.strip_prefix("pos:")).unwrap();
            position = position.max(Some(pos.trim().parse().unwrap()));
        }
    }
    position.expect("the log is open")
}
