//! What can go wrong with a simulated disk, planned by the simulation.

use std::time::Duration;

use super::disk::MemDisk;
use crate::refusal::ReadFailure;

/// What became of a group whose commit failed. The handle is told that the outcome is unknown in
/// each case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It is on the disk, whole.
    Kept,
    /// A prefix of its batches is there: the number modulo one more than the batches.
    Partly(u64),
    /// Nothing of it is there.
    Lost,
}

/// The faults planned for a disk.
#[derive(Default)]
pub(super) struct Planned {
    pub(super) commit: Option<Fate>,
    pub(super) full: bool,
    pub(super) sync_delay: Duration,
    read: Option<ReadFailure>,
}

impl Planned {
    pub(super) fn take_read_failure(&mut self) -> Result<(), ReadFailure> {
        self.read.take().map_or(Ok(()), Err)
    }
}

/// Plans faults on a [`MemDisk`].
pub struct Faults<'a>(pub(super) &'a MemDisk);

impl Faults<'_> {
    /// Fails the next commit of something: its outcome is unknown to the handle, which ends.
    pub fn fail_next_commit(&self, fate: Fate) {
        self.0.lock().faults.commit = Some(fate);
    }

    /// The disk has no room: commits fail with `Full`, opening is refused, until
    /// [`make_room`](Faults::make_room).
    pub fn fill(&self) {
        self.0.lock().faults.full = true;
    }

    /// The disk has room again. A handle that met the full disk has ended all the same.
    pub fn make_room(&self) {
        self.0.lock().faults.full = false;
    }

    /// Every sync takes this much longer, until set to zero. It is waited by the pause of the
    /// handle's options.
    pub fn slow_sync(&self, delay: Duration) {
        self.0.lock().faults.sync_delay = delay;
    }

    /// No read is planned to fail any more.
    pub fn read_again(&self) {
        self.0.lock().faults.read = None;
    }

    /// How much longer a sync takes now.
    pub fn sync_delay(&self) -> Duration {
        self.0.lock().faults.sync_delay
    }

    /// Fails the next `get`, `scan` or `generations`, of whichever handle.
    pub fn fail_next_read(&self, failure: ReadFailure) {
        self.0.lock().faults.read = Some(failure);
    }
}
