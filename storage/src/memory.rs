//! The store in memory: the readable model of what a store promises, and the disk of a simulated
//! machine.
//!
//! A [`MemDisk`] is what survives: clone it, keep it outside the simulated process, and open a
//! [`MemStore`] on it as often as that process lives. What a crash leaves is decided by the numbers
//! and faults that the simulation hands in; there is no clock, no randomness and no I/O in here, so
//! that equal inputs give equal disks.

mod disk;
mod faults;

pub use disk::{Crash, MemDisk};
pub use faults::{Fate, Faults};

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::group::Submissions;
use crate::identity::{Epoch, Identity, StoreId};
use crate::overlay::merge;
use crate::receipt::{Receipt, Seq};
use crate::refusal::{CommitFailure, OpenRefusal, ReadFailure, SubmitRefusal};
use crate::store::{BoxFuture, Row, Scan, Space, Store, Usage};
use crate::write_batch::WriteBatch;
use disk::Disk;

/// Lets time pass in the world of the caller.
pub type Pause = Arc<dyn Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync>;

/// How a [`MemStore`] is opened.
#[derive(Clone)]
pub struct MemOptions {
    /// What the store id is made of, if this open creates the store.
    pub entropy: u64,
    /// How long a sync takes. Default: no time.
    pub sync_time: Duration,
    /// How to wait that long. Default: not at all.
    pub pause: Pause,
}

impl Default for MemOptions {
    fn default() -> Self {
        let pause: Pause = Arc::new(|_| Box::pin(ready(())));
        MemOptions { entropy: 0, sync_time: Duration::ZERO, pause }
    }
}

/// A handle on a [`MemDisk`]: one opening of the store by one process.
///
/// Opening the disk again fences it.
pub struct MemStore {
    disk: MemDisk,
    identity: Identity,
    options: MemOptions,
}

impl MemStore {
    /// Opens the store on `disk`, creating it if there is none, and fences every handle opened
    /// before.
    ///
    /// What older handles had submitted and not committed is gone.
    pub fn acquire(disk: &MemDisk, options: MemOptions) -> Result<MemStore, OpenRefusal> {
        let identity = disk.lock().acquire(StoreId(options.entropy))?;
        Ok(MemStore { disk: disk.clone(), identity, options })
    }

    fn epoch(&self) -> Epoch {
        self.identity.epoch
    }

    /// Works on what this handle submitted.
    fn with<T>(&self, work: impl FnOnce(&mut Submissions) -> T) -> T {
        work(&mut self.disk.lock().handle(self.epoch()).submissions)
    }

    async fn commit_group(&self) -> Result<Receipt, CommitFailure> {
        if !self.disk.lock().begin(self.epoch())? {
            return self.with(|submissions| submissions.receipt());
        }
        self.sync().await;
        self.disk.lock().finish(self.epoch())
    }

    /// The time of a sync. A future that is dropped in here leaves the group's outcome open, which
    /// ends the handle.
    async fn sync(&self) {
        let time = self.options.sync_time + self.disk.lock().faults.sync_delay;
        if time.is_zero() {
            return;
        }
        let abandoned = Abandoned(self);
        (self.options.pause)(time).await;
        std::mem::forget(abandoned);
    }

    async fn commit_all(&self) -> Result<Receipt, CommitFailure> {
        let target = self.submitted();
        loop {
            let receipt = self.commit_group().await?;
            if receipt.covers(target) {
                return Ok(receipt);
            }
        }
    }
}

struct Abandoned<'a>(&'a MemStore);

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        let cause = "the commit was abandoned during its sync".to_owned();
        self.0.with(|submissions| submissions.end(CommitFailure::Unknown { cause }));
    }
}

impl Store for MemStore {
    fn identity(&self) -> Identity {
        self.identity
    }

    fn submit(&self, batch: WriteBatch) -> Result<Seq, SubmitRefusal> {
        batch.check()?;
        self.with(|submissions| submissions.submit(batch))
    }

    fn commit(&self) -> BoxFuture<'_, Result<Receipt, CommitFailure>> {
        Box::pin(self.commit_group())
    }

    fn submitted(&self) -> Seq {
        self.with(|submissions| submissions.submitted())
    }

    fn committed(&self) -> Seq {
        self.with(|submissions| submissions.committed())
    }

    fn get(&self, space: Space, key: &[u8]) -> BoxFuture<'_, Result<Option<Bytes>, ReadFailure>> {
        Box::pin(ready(read(&mut self.disk.lock(), self.epoch(), |disk, epoch| {
            let over = disk.handle(epoch).submissions.get(space, key)?;
            Ok(over.unwrap_or_else(|| disk.get(space, key)))
        })))
    }

    fn scan(&self, scan: Scan) -> BoxFuture<'_, Result<Vec<Row>, ReadFailure>> {
        Box::pin(ready(read(&mut self.disk.lock(), self.epoch(), |disk, epoch| {
            let layer = disk.handle(epoch).submissions.layer(&scan)?;
            merge(layer, disk.rows(&scan), &scan)
        })))
    }

    fn generations(&self) -> BoxFuture<'_, Result<Vec<u32>, ReadFailure>> {
        Box::pin(ready(read(&mut self.disk.lock(), self.epoch(), |disk, _| Ok(disk.generations()))))
    }

    fn drop_generation(&self, generation: u32) -> BoxFuture<'_, Result<(), CommitFailure>> {
        Box::pin(async move {
            self.commit_all().await?;
            self.sync().await;
            self.disk.lock().drop_generation(self.epoch(), generation)
        })
    }

    fn usage(&self) -> Usage {
        let mut disk = self.disk.lock();
        let disk_bytes = disk.bytes();
        Usage { disk_bytes, ..disk.handle(self.epoch()).usage }
    }
}

fn read<T>(
    disk: &mut Disk,
    epoch: Epoch,
    read: impl FnOnce(&mut Disk, Epoch) -> Result<T, ReadFailure>,
) -> Result<T, ReadFailure> {
    disk.handle(epoch).submissions.readable()?;
    disk.faults.take_read_failure()?;
    read(disk, epoch)
}

impl Drop for MemStore {
    fn drop(&mut self) {
        self.disk.lock().release(self.epoch());
    }
}
