//! The fjall database: which keyspaces it has, how a group is written into it, how it is read.
//!
//! Three keyspaces (`lasting`, `passing`, `system`) and one for each generation. Families of
//! records are prefixes within them, not keyspaces of their own: each keyspace may hold five
//! memtables, and fjall's limit over all of them is read by nothing.
//!
//! A generation is *there* when its record in `system` is. Creation makes the keyspace first, and
//! the record with the first put; dropping removes the record first, and the keyspace after it. A
//! crash in between leaves a keyspace without a record, which holds nothing that was acknowledged
//! and is removed at the next open.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::{PoisonError, RwLock};

use bytes::Bytes;
use fjall::{
    Database, Error, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Readable,
    Slice, Snapshot,
};

use super::record::{
    COMMIT_KEY, CommitRecord, GENERATION_PREFIX, SEAL_KEY, STORE_KEY, StoreRecord, generation_key,
    generation_of, seal,
};
use super::{Options, record};
use crate::group::Group;
use crate::store::{Row, Scan, Space};
use crate::write_batch::{KEY_BYTES_MAX, Op};

/// Keyspace names.
pub(super) const LONG_LIVED: &str = "lasting";
pub(super) const SHORT_LIVED: &str = "passing";
pub(super) const SYSTEM: &str = "system";
const GENERATION: &str = "gen-";

/// `system` is overwritten in place, a few keys over and over: a flush of it is always tiny,
/// whatever was written.
const SYSTEM_MEMTABLE_BYTES: u64 = 4 << 20;

/// fjall takes no smaller limit, since its write-ahead-log files have this size.
const WAL_BYTES_MIN: u64 = 64 << 20;

/// Threads that flush and compact: as many as there are cores, within these bounds.
///
/// fjall's first one leaves compacting to the others: it puts the request back into the queue and
/// takes it out again, on and on, until one of them is free. A flush makes as many requests as
/// there are threads. So of two, one spins as long as the other compacts; of three, only while two
/// keyspaces are compacted at once. One alone would let flushes wait.
const WORKERS_MIN: usize = 3;
const WORKERS_MAX: usize = 4;

/// How much the threads that flush and compact stand back behind those that commit, on Linux.
///
/// Compacting takes a core for a second or so after every few dozen megabytes written. With an
/// equal share of a small machine it slows down what people wait for. At 5 it still gets a third of
/// what another thread gets.
#[cfg(target_os = "linux")]
const NICE: i32 = 5;

/// What fjall's write-ahead log adds to a batch and to an item: tags, lengths, checksum, trailer.
const WAL_BATCH_BYTES: u64 = 26;
const WAL_ITEM_BYTES: u64 = 21;

/// Lowers the priority of this thread, and of those it makes. Where it cannot be, all is as fast,
/// only less even.
fn behind_the_others() {
    #[cfg(target_os = "linux")] // elsewhere this is a matter of the whole process
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::debug!(%error, "flushing and compacting have the priority of everything else");
    }
}

pub(super) struct Tree {
    db: Database,
    long_lived: Keyspace,
    short_lived: Keyspace,
    pub(super) system: Keyspace,
    generations: RwLock<BTreeMap<u32, Keyspace>>,
    origin: u64,
    memtable_bytes: u64,
}

impl Tree {
    /// Opens the database at `path`, or makes an empty one.
    pub(super) fn database(path: &Path, options: &Options) -> fjall::Result<Database> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = cores.clamp(WORKERS_MIN, WORKERS_MAX);
        let builder = Database::builder(path)
            .cache_size(options.cache_bytes)
            .max_journaling_size(options.wal_bytes_max.max(WAL_BYTES_MIN))
            .worker_threads(workers);
        // A thread has the priority of the one that made it.
        let opened = std::thread::scope(|scope| {
            let opening = std::thread::Builder::new().name("fjall:open".to_owned());
            let opening = opening.spawn_scoped(scope, || {
                behind_the_others();
                builder.open()
            });
            opening.map(std::thread::ScopedJoinHandle::join)
        });
        match opened {
            Ok(Ok(database)) => database,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes up a database whose keyspaces the caller has found to be there; the generations are
    /// added to it.
    pub(super) fn new(db: Database, origin: u64, options: &Options) -> fjall::Result<Tree> {
        let large = || KeyspaceCreateOptions::default().max_memtable_size(options.memtable_bytes);
        let small = || KeyspaceCreateOptions::default().max_memtable_size(SYSTEM_MEMTABLE_BYTES);
        Ok(Tree {
            long_lived: db.keyspace(LONG_LIVED, large)?,
            short_lived: db.keyspace(SHORT_LIVED, large)?,
            system: db.keyspace(SYSTEM, small)?,
            generations: RwLock::default(),
            origin,
            memtable_bytes: options.memtable_bytes,
            db,
        })
    }

    /// Writes the records of a new store and the seals of its keyspaces, durably.
    pub(super) fn found(&self, store: StoreRecord) -> fjall::Result<()> {
        let mut write = self.write();
        write.insert(&self.long_lived, SEAL_KEY, &seal(self.origin, Some(Space::LongLived)));
        write.insert(&self.short_lived, SEAL_KEY, &seal(self.origin, Some(Space::ShortLived)));
        write.insert(&self.system, SEAL_KEY, &seal(self.origin, None));
        write.insert(&self.system, STORE_KEY, &store.encode());
        write.commit(CommitRecord { seq: crate::Seq(0), epoch: crate::Epoch(0) }).map(drop)
    }

    /// Writes a group and how far the store has come with it, durably; gives the bytes of the
    /// write-ahead log.
    pub(super) fn apply(&self, group: Group, commit: CommitRecord) -> fjall::Result<u64> {
        let mut write = self.write();
        let mut born = self.bear(&group, &mut write)?;
        for op in group.merged() {
            let keyspace = match op.space() {
                Space::Generation(number) if born.contains_key(&number) => {
                    born.get(&number).cloned()
                }
                space => self.keyspace(space),
            };
            match (keyspace, op) {
                (Some(keyspace), Op::Put { key, value, .. }) => {
                    write.insert(&keyspace, &key, &value)
                }
                (Some(keyspace), Op::Delete { key, .. }) => write.remove(&keyspace, &key),
                (None, Op::Delete { .. }) => {}
                (None, Op::Put { space, .. }) => unreachable!("{space} was made above"),
            }
        }
        let bytes = write.commit(commit)?;
        // From here on readers find them; until here the overlay had all that is in them.
        self.generations.write().unwrap_or_else(PoisonError::into_inner).append(&mut born);
        Ok(bytes)
    }

    /// Makes the keyspaces of the generations that the group is the first to put into.
    fn bear(&self, group: &Group, write: &mut Write<'_>) -> fjall::Result<BTreeMap<u32, Keyspace>> {
        let mut born = BTreeMap::new();
        for generation in &group.generations {
            let space = Space::Generation(*generation);
            if self.keyspace(space).is_some() {
                continue;
            }
            let keyspace = self.make_generation(*generation)?;
            write.insert(&self.system, &generation_key(*generation), &[]);
            write.insert(&keyspace, SEAL_KEY, &seal(self.origin, Some(space)));
            born.insert(*generation, keyspace);
        }
        Ok(born)
    }

    fn make_generation(&self, generation: u32) -> fjall::Result<Keyspace> {
        let options = || KeyspaceCreateOptions::default().max_memtable_size(self.memtable_bytes);
        self.db.keyspace(&generation_name(generation), options)
    }

    /// Drops a generation, durably.
    pub(super) fn drop_generation(
        &self,
        generation: u32,
        commit: CommitRecord,
    ) -> fjall::Result<()> {
        let taken =
            self.generations.write().unwrap_or_else(PoisonError::into_inner).remove(&generation);
        let Some(keyspace) = taken else { return Ok(()) };
        let mut write = self.write();
        write.remove(&self.system, &generation_key(generation));
        write.commit(commit)?;
        self.db.delete_keyspace(keyspace)
    }

    /// Takes up the recorded generations and removes what an interrupted creation or drop left;
    /// gives the recorded ones that are missing.
    pub(super) fn adopt_generations(&self) -> fjall::Result<Vec<u32>> {
        let recorded = self.recorded_generations()?;
        let mut missing = Vec::new();
        let mut adopted = BTreeMap::new();
        for generation in &recorded {
            if self.db.keyspace_exists(&generation_name(*generation)) {
                adopted.insert(*generation, self.make_generation(*generation)?);
            } else {
                missing.push(*generation);
            }
        }
        for name in self.db.list_keyspace_names() {
            let stray = name.strip_prefix(GENERATION).is_some_and(|number| {
                !number.parse().is_ok_and(|number: u32| recorded.contains(&number))
            });
            if stray {
                tracing::info!(
                    keyspace = &*name,
                    "removing a generation that was being made or dropped"
                );
                let keyspace = self.db.keyspace(&name, KeyspaceCreateOptions::default)?;
                self.db.delete_keyspace(keyspace)?;
            }
        }
        *self.generations.write().unwrap_or_else(PoisonError::into_inner) = adopted;
        Ok(missing)
    }

    fn recorded_generations(&self) -> fjall::Result<Vec<u32>> {
        let mut recorded = Vec::new();
        for guard in self.system.prefix(GENERATION_PREFIX) {
            recorded.extend(generation_of(&guard.key()?));
        }
        Ok(recorded)
    }

    /// The first space whose seal is missing or not this store's; none if all are sound.
    pub(super) fn broken_seal(&self) -> fjall::Result<Option<String>> {
        if self.system.get(SEAL_KEY)?.as_deref() != Some(&seal(self.origin, None)) {
            return Ok(Some(SYSTEM.to_owned()));
        }
        for space in self.spaces() {
            let found =
                self.keyspace(space).map(|keyspace| keyspace.get(SEAL_KEY)).transpose()?.flatten();
            if found.as_deref() != Some(&seal(self.origin, Some(space))) {
                return Ok(Some(space.to_string()));
            }
        }
        Ok(None)
    }

    pub(super) fn spaces(&self) -> Vec<Space> {
        let generations = self.generations().into_iter().map(Space::Generation);
        [Space::LongLived, Space::ShortLived].into_iter().chain(generations).collect()
    }

    pub(super) fn generations(&self) -> Vec<u32> {
        self.generations.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    pub(super) fn keyspace(&self, space: Space) -> Option<Keyspace> {
        match space {
            Space::LongLived => Some(self.long_lived.clone()),
            Space::ShortLived => Some(self.short_lived.clone()),
            Space::Generation(number) => self
                .generations
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .get(&number)
                .cloned(),
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        self.db.snapshot()
    }

    /// The value of a key at its latest.
    ///
    /// Copied out, as rows are: fjall's slice keeps the block of 4 KiB that it was read from.
    pub(super) fn get(&self, space: Space, key: &[u8]) -> fjall::Result<Option<Bytes>> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Ok(None);
        }
        let Some(keyspace) = self.keyspace(space) else {
            return Ok(None);
        };
        Ok(keyspace.get(key)?.map(copy))
    }

    /// The rows of a range as a snapshot sees them, in the order of the scan.
    pub(super) fn rows(
        &self,
        snapshot: &Snapshot,
        scan: &Scan,
    ) -> Box<dyn Iterator<Item = fjall::Result<Row>>> {
        let Some(keyspace) = self.keyspace(scan.space).filter(|_| !scan.is_void()) else {
            return Box::new(std::iter::empty());
        };
        let from =
            if scan.from.is_empty() { Bound::Unbounded } else { Bound::Included(&scan.from[..]) };
        let to = if scan.to.is_empty() { SEAL_KEY } else { (&scan.to[..]).min(SEAL_KEY) };
        if &scan.from[..] >= to {
            return Box::new(std::iter::empty());
        }
        let range = snapshot.range::<&[u8], _>(&keyspace, (from, Bound::Excluded(to)));
        let row = |guard: fjall::Guard| {
            let (key, value) = guard.into_inner()?;
            Ok(Row { key: copy(key), value: copy(value) })
        };
        if scan.reverse { Box::new(range.rev().map(row)) } else { Box::new(range.map(row)) }
    }

    /// Tables in the first level, of the keyspace that has most of them. From 20 on fjall slows
    /// writes down.
    pub(super) fn level_0_tables(&self) -> usize {
        let of = |keyspace: &Keyspace| keyspace.l0_table_count();
        let generations = self.generations.read().unwrap_or_else(PoisonError::into_inner);
        [&self.long_lived, &self.short_lived, &self.system]
            .into_iter()
            .chain(generations.values())
            .map(of)
            .max()
            .unwrap_or(0)
    }

    /// Sets the records of which store it is and how far it has come, durably.
    pub(super) fn identify(&self, store: StoreRecord, commit: CommitRecord) -> fjall::Result<()> {
        let mut write = self.write();
        write.insert(&self.system, STORE_KEY, &store.encode());
        write.commit(commit).map(drop)
    }

    fn write(&self) -> Write<'_> {
        Write { batch: self.db.batch(), system: &self.system, wal_bytes: WAL_BATCH_BYTES }
    }
}

/// A batch of fjall's that is always synced, and always says how far the store has come with it.
struct Write<'a> {
    batch: OwnedWriteBatch,
    system: &'a Keyspace,
    wal_bytes: u64,
}

impl Write<'_> {
    fn insert(&mut self, keyspace: &Keyspace, key: &[u8], value: &[u8]) {
        self.wal_bytes += WAL_ITEM_BYTES + (key.len() + value.len()) as u64;
        self.batch.insert(keyspace, key, value);
    }

    fn remove(&mut self, keyspace: &Keyspace, key: &[u8]) {
        self.wal_bytes += WAL_ITEM_BYTES + key.len() as u64;
        self.batch.remove(keyspace, key);
    }

    fn commit(mut self, commit: CommitRecord) -> fjall::Result<u64> {
        self.insert(self.system, COMMIT_KEY, &commit.encode());
        // Synced before it is visible; `persist` afterwards would have it the other way round.
        self.batch.durability(Some(PersistMode::SyncData)).commit()?;
        Ok(self.wal_bytes)
    }
}

/// Reads a record of `system`.
pub(super) fn read_record<T>(
    system: &Keyspace,
    key: &[u8],
    decode: impl FnOnce(&[u8]) -> Option<T>,
) -> Result<Option<T>, Error> {
    Ok(system.get(key)?.and_then(|value| decode(&value)))
}

fn generation_name(generation: u32) -> String {
    format!("{GENERATION}{generation:05}")
}

fn copy(slice: Slice) -> Bytes {
    Bytes::copy_from_slice(&slice)
}

const _: () = assert!(record::SEAL_KEY.len() > KEY_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    // These are names in a data directory and bytes in its files: a rename must not change them.
    #[test]
    fn names_in_a_directory_have_not_changed() {
        assert_eq!([LONG_LIVED, SHORT_LIVED, SYSTEM], ["lasting", "passing", "system"]);
        assert_eq!(generation_name(7), "gen-00007");
        let spaces = [Space::LongLived, Space::ShortLived, Space::Generation(7)];
        assert_eq!(spaces.map(|space| space.to_string()), ["lasting", "passing", "generation 7"]);
        let seals = spaces.map(|space| seal(5, Some(space)));
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        let expected = [("00", "00000000"), ("01", "00000000"), ("02", "00000007")]
            .map(|(number, rest)| format!("7374657077656c6c0000000000000005{number}{rest}"));
        assert_eq!(seals.map(|seal| hex(&seal)), expected);
    }
}
