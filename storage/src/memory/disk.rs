//! The disk that outlives the handles.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::faults::{Fate, Faults, Planned};
use crate::group::{Group, Submissions};
use crate::identity::{Epoch, Identity, StoreId};
use crate::receipt::{Receipt, Seq};
use crate::refusal::{CommitFailure, OpenRefusal, ReadFailure};
use crate::store::{Row, Scan, Space, Usage};
use crate::write_batch::{Op, WriteBatch};

/// A simulated disk. Clones are handles on the same one.
#[derive(Clone, Default)]
pub struct MemDisk(Arc<Mutex<Disk>>);

/// What a crash did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Crash {
    /// Batches that were submitted and not acknowledged.
    pub unacknowledged: u64,
    /// How many of them survived, from the first one on.
    pub kept: u64,
}

impl MemDisk {
    /// An empty disk.
    pub fn new() -> MemDisk {
        MemDisk::default()
    }

    /// Plans faults.
    pub fn faults(&self) -> Faults<'_> {
        Faults(self)
    }

    /// Cuts the power: what was acknowledged stays; of what was submitted beyond it a prefix stays,
    /// of `cut` modulo one more than the batches there are. The handle is dead.
    pub fn power_loss(&self, cut: u64) -> Crash {
        self.lock().crash(cut, "the machine lost power")
    }

    /// Kills the process. A store in memory cannot tell what a kernel would have kept, so it is as
    /// free as a power cut.
    pub fn crash_process(&self, cut: u64) -> Crash {
        self.lock().crash(cut, "the process was killed")
    }

    /// The last batch on the disk.
    pub fn committed_seq(&self) -> Seq {
        self.lock().committed
    }

    /// The store on it, and how often it was opened; none before the first time.
    pub fn identity(&self) -> Option<Identity> {
        let disk = self.lock();
        disk.store.map(|store| Identity { store, epoch: disk.epoch })
    }

    /// All that is durable, in order.
    pub fn content(&self) -> Vec<(Space, Row)> {
        let disk = self.lock();
        let rows = |(space, rows): (&Space, &Rows)| {
            let space = *space;
            let row = move |(key, value): (&Bytes, &Bytes)| {
                (space, Row { key: key.clone(), value: value.clone() })
            };
            rows.iter().map(row).collect::<Vec<_>>()
        };
        disk.spaces.iter().flat_map(rows).collect()
    }

    /// A number made of all that is durable, and of its order: equal disks have equal ones, in
    /// every process and build.
    pub fn digest(&self) -> u64 {
        let disk = self.lock();
        let mut digest = Digest::new();
        digest.number(disk.committed.0);
        for (space, rows) in &disk.spaces {
            digest.bytes(space.to_string().as_bytes());
            for (key, value) in rows {
                digest.bytes(key);
                digest.bytes(value);
            }
        }
        digest.0
    }

    /// Changes what is stored behind the store's back, as a failing disk would. None removes the
    /// row.
    pub fn tamper(&self, space: Space, key: impl Into<Bytes>, value: Option<Bytes>) {
        let mut disk = self.lock();
        let rows = disk.spaces.entry(space).or_default();
        match value {
            Some(value) => rows.insert(key.into(), value),
            None => rows.remove(&key.into()),
        };
    }

    /// A panic of a user's assertion in a simulated process must not take the disk from the next
    /// one.
    pub(super) fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Rows = BTreeMap<Bytes, Bytes>;

/// The platters, and what each handle on them has in the air.
#[derive(Default)]
pub(super) struct Disk {
    store: Option<StoreId>,
    epoch: Epoch,
    committed: Seq,
    /// A generation exists while it has an entry, if an empty one.
    spaces: BTreeMap<Space, Rows>,
    handles: BTreeMap<Epoch, Handle>,
    pub(super) faults: Planned,
}

/// One opening.
pub(super) struct Handle {
    pub(super) submissions: Submissions,
    pub(super) usage: Usage,
    in_flight: Group,
    released: bool,
}

impl Handle {
    /// Ends it for a commit that failed. What was queued behind that commit can no longer become
    /// durable.
    fn fail(&mut self, failure: CommitFailure) -> CommitFailure {
        self.take_air();
        self.submissions.end(failure)
    }

    /// What is submitted and neither on the platters nor given up, in order.
    fn take_air(&mut self) -> Vec<(Seq, WriteBatch)> {
        let mut air = std::mem::take(&mut self.in_flight).batches;
        air.extend(self.submissions.drain());
        air
    }

    fn is_idle(&self) -> bool {
        self.in_flight.batches.is_empty() && self.submissions.is_idle()
    }
}

impl Disk {
    pub(super) fn acquire(&mut self, new: StoreId) -> Result<Identity, OpenRefusal> {
        if self.faults.full {
            return Err(OpenRefusal::Full { cause: FULL.to_owned() });
        }
        self.epoch = Epoch(self.epoch.0 + 1);
        self.handles.retain(|_, handle| !handle.released);
        for (held, handle) in &mut self.handles {
            handle.submissions.end(CommitFailure::Fenced { held: *held, current: self.epoch });
            handle.take_air();
        }
        let submissions = Submissions::after(self.committed);
        let handle = Handle {
            submissions,
            usage: Usage::default(),
            in_flight: Group::default(),
            released: false,
        };
        self.handles.insert(self.epoch, handle);
        Ok(Identity { store: *self.store.get_or_insert(new), epoch: self.epoch })
    }

    pub(super) fn handle(&mut self, epoch: Epoch) -> &mut Handle {
        self.handles.get_mut(&epoch).expect("a handle's record lives as long as the handle")
    }

    /// Its process has let go of it. What it had in the air stays in the air for a crash to decide
    /// over, until the next open.
    pub(super) fn release(&mut self, epoch: Epoch) {
        let reason = CommitFailure::Unknown { cause: "the handle was dropped".to_owned() };
        let handle = self.handle(epoch);
        handle.submissions.end(reason);
        handle.released = true;
        if handle.is_idle() {
            self.handles.remove(&epoch);
        }
    }

    /// Takes the next group into the air; false if there is nothing to take.
    pub(super) fn begin(&mut self, epoch: Epoch) -> Result<bool, CommitFailure> {
        let handle = self.handle(epoch);
        let Some(group) = handle.submissions.take_group()? else {
            return Ok(false);
        };
        assert!(handle.in_flight.batches.is_empty(), "one commit at a time");
        handle.in_flight = group;
        Ok(true)
    }

    /// Brings the group in the air to the platters, unless a fault or a crash was quicker.
    pub(super) fn finish(&mut self, epoch: Epoch) -> Result<Receipt, CommitFailure> {
        self.handle(epoch).submissions.alive()?;
        let group = std::mem::take(&mut self.handle(epoch).in_flight);
        if let Some((failure, fate)) = self.planned_failure() {
            let kept = kept_of(fate, group.batches.len());
            self.write(group.batches.into_iter().take(kept));
            return Err(self.handle(epoch).fail(failure));
        }
        let (last, ops, bytes) = (group.last(), group.ops as u64, group.bytes as u64);
        self.write(group.batches);
        let handle = self.handle(epoch);
        handle.usage.commits += 1;
        handle.usage.ops += ops;
        handle.usage.wal_bytes_written += bytes;
        Ok(handle.submissions.applied(last))
    }

    pub(super) fn drop_generation(
        &mut self,
        epoch: Epoch,
        generation: u32,
    ) -> Result<(), CommitFailure> {
        self.handle(epoch).submissions.alive()?;
        if let Some((failure, fate)) = self.planned_failure() {
            if kept_of(fate, 1) == 1 {
                self.spaces.remove(&Space::Generation(generation));
            }
            return Err(self.handle(epoch).fail(failure));
        }
        self.spaces.remove(&Space::Generation(generation));
        Ok(())
    }

    /// The failure that is planned for this write, and what it leaves.
    fn planned_failure(&mut self) -> Option<(CommitFailure, Fate)> {
        if self.faults.full {
            return Some((CommitFailure::Full { cause: FULL.to_owned() }, Fate::Lost));
        }
        let fate = self.faults.commit.take()?;
        Some((CommitFailure::Unknown { cause: "the sync failed".to_owned() }, fate))
    }

    fn crash(&mut self, cut: u64, cause: &str) -> Crash {
        let mut air: Vec<(Seq, WriteBatch)> = Vec::new();
        for handle in self.handles.values_mut() {
            handle.submissions.end(CommitFailure::Unknown { cause: cause.to_owned() });
            air.append(&mut handle.take_air());
        }
        let unacknowledged = air.len() as u64;
        let kept = cut % (unacknowledged + 1);
        self.write(air.into_iter().take(kept as usize));
        Crash { unacknowledged, kept }
    }

    fn write(&mut self, batches: impl IntoIterator<Item = (Seq, WriteBatch)>) {
        for (seq, batch) in batches {
            assert_eq!(seq, self.committed.next(), "batches reach the disk in order");
            self.committed = seq;
            for op in batch {
                let rows = self.spaces.entry(op.space());
                match op {
                    Op::Put { key, value, .. } => drop(rows.or_default().insert(key, value)),
                    Op::Delete { key, .. } => drop(rows.and_modify(|rows| drop(rows.remove(&key)))),
                }
            }
        }
    }

    pub(super) fn get(&self, space: Space, key: &[u8]) -> Option<Bytes> {
        self.spaces.get(&space)?.get(key).cloned()
    }

    pub(super) fn rows<'a>(
        &'a self,
        scan: &Scan,
    ) -> Box<dyn Iterator<Item = Result<Row, ReadFailure>> + 'a> {
        let Some(rows) = self.spaces.get(&scan.space).filter(|_| !scan.is_void()) else {
            return Box::new(std::iter::empty());
        };
        let end = if scan.to.is_empty() { Bound::Unbounded } else { Bound::Excluded(&scan.to[..]) };
        let range = rows.range::<[u8], _>((Bound::Included(&scan.from[..]), end));
        let row =
            |(key, value): (&Bytes, &Bytes)| Ok(Row { key: key.clone(), value: value.clone() });
        if scan.reverse { Box::new(range.rev().map(row)) } else { Box::new(range.map(row)) }
    }

    pub(super) fn generations(&self) -> Vec<u32> {
        let number = |space: &Space| match space {
            Space::Generation(number) => Some(*number),
            Space::LongLived | Space::ShortLived => None,
        };
        self.spaces.keys().filter_map(number).collect()
    }

    pub(super) fn bytes(&self) -> u64 {
        let row = |(key, value): (&Bytes, &Bytes)| (key.len() + value.len()) as u64;
        self.spaces.values().flatten().map(row).sum()
    }
}

fn kept_of(fate: Fate, batches: usize) -> usize {
    match fate {
        Fate::Kept => batches,
        Fate::Partly(cut) => (cut % (batches as u64 + 1)) as usize,
        Fate::Lost => 0,
    }
}

const FULL: &str = "no space left on device";

/// FNV-1a: written out, because it must not change with a library or a build.
struct Digest(u64);

impl Digest {
    fn new() -> Digest {
        Digest(0xcbf2_9ce4_8422_2325)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.fold(bytes);
    }

    fn number(&mut self, number: u64) {
        self.fold(&number.to_le_bytes());
    }

    fn fold(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
