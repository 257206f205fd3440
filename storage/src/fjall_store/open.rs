//! Opening: what is checked before the first byte is trusted.
//!
//! ```text
//!   claim the directory (lock, format)
//!     └─ no db? create db.new, start the watermark, rename it to db
//!   look at the files that fjall would remove or take for new
//!   open fjall ─ keyspaces there? records there? generations there? seals whole?
//!   compare with the watermark
//!   raise the epoch, durably
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use fjall::Database;

use super::directory::Directory;
use super::fault::{file_open_refusal, open_refusal};
use super::record::{COMMIT_KEY, CommitRecord, STORE_KEY, StoreRecord};
use super::tree::{LONG_LIVED, SHORT_LIVED, SYSTEM, Tree, read_record};
use super::watermark::{Watermark, WatermarkRecord};
use super::{Options, version_file};
use crate::identity::{Epoch, Identity, StoreId};
use crate::receipt::Seq;
use crate::refusal::OpenRefusal;

/// A store that has been opened. The tree is closed before the directory is unlocked.
pub(super) struct Opened {
    pub(super) tree: Tree,
    pub(super) watermark: Watermark,
    pub(super) identity: Identity,
    pub(super) committed: Seq,
    pub(super) directory: Directory,
}

pub(super) fn open(path: &Path, options: &Options) -> Result<Opened, OpenRefusal> {
    let directory = Directory::claim(path, options.create)?;
    if !exists(&directory.database())? {
        create(&directory, options)?;
    }
    let marked = read_watermark(&directory)?;
    version_file::check(&directory.database())?;
    let (tree, store, commit) = take_up(&directory.database(), options)?;
    if !options.restored {
        compare(marked, store.store, commit)?;
    }

    let store = if options.restored {
        StoreRecord { store: StoreId(options.entropy), ..store }
    } else {
        store
    };
    let commit = CommitRecord { epoch: Epoch(commit.epoch.0 + 1), ..commit };
    tree.identify(store, commit).map_err(|error| open_refusal(&error))?;
    let mark = WatermarkRecord { seq: commit.seq, epoch: commit.epoch, store: store.store };
    let watermark = Watermark::start(&directory.watermark(), mark)
        .map_err(|error| at(&directory.watermark())(error))?;
    drain_level_0(&tree);
    let identity = Identity { store: store.store, epoch: commit.epoch };
    Ok(Opened { tree, watermark, identity, committed: commit.seq, directory })
}

/// Makes a store in a directory beside its place and moves it there whole, so that a crash at any
/// point leaves either no `db`, or one with all its records.
fn create(directory: &Directory, options: &Options) -> Result<(), OpenRefusal> {
    if let Some(Ok(mark)) =
        Watermark::read(&directory.watermark()).map_err(at(&directory.watermark()))?
        && mark.epoch > Epoch(0)
    {
        let (db, seq) = (directory.database(), mark.seq);
        return Err(OpenRefusal::Damaged {
            what: format!("{} is gone; the store was at batch {seq}", db.display()),
        });
    }
    let new = directory.database_new();
    if exists(&new)? {
        std::fs::remove_dir_all(&new).map_err(at(&new))?;
    }
    let store = StoreRecord { store: StoreId(options.entropy), origin: options.entropy };
    let found = || Tree::new(Tree::database(&new, options)?, store.origin, options)?.found(store);
    found().map_err(|error| open_refusal(&error))?;
    let mark = WatermarkRecord { seq: Seq(0), epoch: Epoch(0), store: store.store };
    Watermark::start(&directory.watermark(), mark).map_err(at(&directory.watermark()))?;
    std::fs::rename(&new, directory.database()).map_err(at(&new))?;
    directory.sync()
}

/// Opens fjall's database and reads the store's own records from it.
fn take_up(
    path: &Path,
    options: &Options,
) -> Result<(Tree, StoreRecord, CommitRecord), OpenRefusal> {
    let db = open_database(path, options)?;
    if let Some(absent) =
        [LONG_LIVED, SHORT_LIVED, SYSTEM].into_iter().find(|name| !db.keyspace_exists(name))
    {
        return Err(damaged(format!("the keyspace {absent} is missing")));
    }
    let read = || -> fjall::Result<_> {
        let system = db.keyspace(SYSTEM, Default::default)?;
        let store = read_record(&system, STORE_KEY, StoreRecord::decode)?;
        Ok((store, read_record(&system, COMMIT_KEY, CommitRecord::decode)?))
    };
    let (store, commit) = read().map_err(|error| open_refusal(&error))?;
    let store = store.ok_or_else(|| damaged("the record of the store's id is missing"))?;
    let commit = commit.ok_or_else(|| damaged("the record of the last commit is missing"))?;

    let refuse = |error: fjall::Error| open_refusal(&error);
    let tree = Tree::new(db, store.origin, options).map_err(refuse)?;
    if let Some(missing) = tree.adopt_generations().map_err(refuse)?.first() {
        return Err(damaged(format!("generation {missing} is recorded and not there")));
    }
    match tree.broken_seal().map_err(refuse)? {
        Some(space) => {
            Err(damaged(format!("{space} has lost its first records, or is another store's")))
        }
        None => Ok((tree, store, commit)),
    }
}

/// fjall's manifest reader panics over some damaged files. Some of its panics abort; those end the
/// process.
fn open_database(path: &Path, options: &Options) -> Result<Database, OpenRefusal> {
    match catch_unwind(AssertUnwindSafe(|| Tree::database(path, options))) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(error)) => Err(open_refusal(&error)),
        Err(_) => Err(damaged(format!("the files in {} cannot be understood", path.display()))),
    }
}

fn read_watermark(
    directory: &Directory,
) -> Result<Result<WatermarkRecord, &'static str>, OpenRefusal> {
    let path = directory.watermark();
    Ok(Watermark::read(&path).map_err(at(&path))?.unwrap_or(Err("the watermark is missing")))
}

/// Whether the store is at least as far as it is known to have been.
fn compare(
    marked: Result<WatermarkRecord, &'static str>,
    store: StoreId,
    commit: CommitRecord,
) -> Result<(), OpenRefusal> {
    let mark = marked.map_err(damaged)?;
    if mark.store != store {
        return Err(damaged(format!(
            "the watermark belongs to store {}, the data to store {store}",
            mark.store
        )));
    }
    if commit.seq < mark.seq {
        return Err(OpenRefusal::Behind { store: commit.seq, watermark: mark.seq });
    }
    if commit.epoch < mark.epoch {
        let (found, known) = (commit.epoch, mark.epoch);
        return Err(damaged(format!(
            "it is at epoch {found}, but was opened under epoch {known} once"
        )));
    }
    Ok(())
}

/// Waits until fjall has compacted what a series of short lives left behind.
///
/// Each life leaves a table in level 0; from 20 of them on fjall slows each commit down and at 30
/// it stops them, and a process that is restarted for being slow then never gets out of it.
/// Bounded, because a slow store still beats none.
fn drain_level_0(tree: &Tree) {
    const ENOUGH: usize = 16;
    const PAUSE: Duration = Duration::from_millis(10);
    const PAUSES_MAX: u32 = 1_000;
    if tree.level_0_tables() < ENOUGH {
        return;
    }
    tracing::info!(
        tables = tree.level_0_tables(),
        "waiting for compaction before the store is ready"
    );
    for _ in 0..PAUSES_MAX {
        if tree.level_0_tables() < ENOUGH {
            return;
        }
        std::thread::sleep(PAUSE);
    }
    tracing::warn!(tables = tree.level_0_tables(), "compaction is behind: commits will be slow");
}

fn exists(path: &Path) -> Result<bool, OpenRefusal> {
    path.try_exists().map_err(at(path))
}

fn at(path: &Path) -> impl Fn(std::io::Error) -> OpenRefusal {
    let path = path.to_owned();
    move |error| file_open_refusal(&error, &path)
}

fn damaged(what: impl Into<String>) -> OpenRefusal {
    OpenRefusal::Damaged { what: what.into() }
}
