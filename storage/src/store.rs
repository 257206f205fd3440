//! The port: what the engine asks of a store, and all that it may rely on.
//!
//! ```text
//!   the core            the committer                 the disk
//!      │ submit(batch) ──► seq 7                          │
//!      │ submit(batch) ──► seq 8                          │
//!      │ get, scan see both                               │
//!      │                      commit() ── 7, 8 ─────────► │ write, sync
//!      │                      receipt(8) ◄─────────────── │
//!      │ actions of 7 and 8 leave                         │
//! ```
//!
//! 1. **Ordered and prefix-closed.** Batches become durable in the order of their numbers. What
//!    survives a crash is a prefix of what was submitted, cut between two batches, and holds all
//!    that a receipt covered.
//! 2. **Seen at once.** `get` and `scan` of the handle see every batch submitted before they were
//!    called, whole.
//! 3. **Fenced.** A handle whose store was opened again never gets another receipt.
//! 4. **A failed commit ends the handle.** Afterwards no call of it succeeds; what was in flight
//!    stays unknown until the store is opened again.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

use crate::identity::Identity;
use crate::receipt::{Receipt, Seq};
use crate::refusal::{CommitFailure, ReadFailure, SubmitRefusal};
use crate::write_batch::WriteBatch;

/// A future that a trait object can return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where a key lives.
///
/// An LSM tree is one file set per space, so that space decides what deletes cost: a queue beside
/// long-lived records would bury them under its tombstones. The numbers are stored and never change
/// their meaning.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Space {
    /// Number 0: long-lived records.
    LongLived,
    /// Number 1: short-lived records, deleted one by one.
    ShortLived,
    /// Number 2 and its own number: records that are dropped together, whole.
    ///
    /// It exists from the commit of the first put into it until [`Store::drop_generation`].
    Generation(u32),
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Space::LongLived => f.write_str("lasting"),
            Space::ShortLived => f.write_str("passing"),
            Space::Generation(number) => write!(f, "generation {number}"),
        }
    }
}

/// What to read, in key order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scan {
    /// Where.
    pub space: Space,
    /// The first key, inclusive. Empty: from the beginning.
    pub from: Bytes,
    /// The end, exclusive. Empty: to the end of the space.
    pub to: Bytes,
    /// The most rows. Zero gives none.
    pub limit: usize,
    /// From the end backwards.
    pub reverse: bool,
}

impl Scan {
    /// Everything from `from` (inclusive) to `to` (exclusive), forwards, without a limit.
    pub fn range(space: Space, from: impl Into<Bytes>, to: impl Into<Bytes>) -> Scan {
        Scan { space, from: from.into(), to: to.into(), limit: usize::MAX, reverse: false }
    }

    /// Everything whose key begins with `prefix`.
    pub fn prefix(space: Space, prefix: impl Into<Bytes>) -> Scan {
        let from = prefix.into();
        let to = prefix_end(&from);
        Scan::range(space, from, to)
    }

    /// The same with at most `limit` rows.
    #[must_use]
    pub fn limit(self, limit: usize) -> Scan {
        Scan { limit, ..self }
    }

    /// The same from the end backwards.
    #[must_use]
    pub fn reversed(self) -> Scan {
        Scan { reverse: true, ..self }
    }

    /// Whether no key can be in it.
    pub(crate) fn is_void(&self) -> bool {
        self.limit == 0 || (!self.to.is_empty() && self.from >= self.to)
    }
}

/// The first key after all that begin with `prefix`; empty (the end of the space) if there is none.
fn prefix_end(prefix: &[u8]) -> Bytes {
    match prefix.iter().rposition(|byte| *byte != u8::MAX) {
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            Bytes::from(end)
        }
        None => Bytes::new(),
    }
}

/// One record.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Row {
    /// Its key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
}

/// What a store takes up and has done, for the metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Bytes on the disk, as of a second ago at most.
    pub disk_bytes: u64,
    /// Bytes this handle has handed to the write-ahead log.
    pub wal_bytes_written: u64,
    /// Groups this handle has committed.
    pub commits: u64,
    /// Changes this handle has committed.
    pub ops: u64,
}

/// An ordered key-value store with atomic, durable, fenced commits.
pub trait Store: Send + Sync + 'static {
    /// Which store this is, and which opening of it.
    fn identity(&self) -> Identity;

    /// Hands over a batch, to be committed after all submitted before it.
    ///
    /// It is seen at once by `get` and `scan` of this handle, and is durable only with a receipt
    /// that covers its number. Never blocks on I/O. An empty batch is taken and numbered like any
    /// other.
    ///
    /// Errors: a batch beyond the limits, or a handle that has ended ([`SubmitRefusal`]).
    fn submit(&self, batch: WriteBatch) -> Result<Seq, SubmitRefusal>;

    /// Makes everything submitted so far durable, as one group.
    ///
    /// A backlog beyond about 4 MiB is split: the receipt says how far this commit got. With
    /// nothing pending it returns the receipt of the last commit at once. One caller at a time, the
    /// committer.
    ///
    /// Durability: what the receipt covers survives a power cut. Cancel safety: a future that was
    /// polled and dropped before it was done ends the handle, since its outcome is unknown.
    fn commit(&self) -> BoxFuture<'_, Result<Receipt, CommitFailure>>;

    /// The last batch submitted.
    fn submitted(&self) -> Seq;

    /// The last batch that is durable.
    fn committed(&self) -> Seq;

    /// The value under `key`.
    ///
    /// Reads happen when the call is made, or later; never earlier. A generation that does not
    /// exist is empty.
    fn get(&self, space: Space, key: &[u8]) -> BoxFuture<'_, Result<Option<Bytes>, ReadFailure>>;

    /// The rows of a range, in key order, as they are at one moment: no batch is seen by half.
    fn scan(&self, scan: Scan) -> BoxFuture<'_, Result<Vec<Row>, ReadFailure>>;

    /// The generations that exist, in rising order; those that only an uncommitted batch puts into
    /// are not among them.
    fn generations(&self) -> BoxFuture<'_, Result<Vec<u32>, ReadFailure>>;

    /// Drops a generation with all that is in it; one that does not exist is dropped already.
    ///
    /// It commits what is pending first, so that it happens after everything submitted before it.
    /// What is submitted to the generation while this runs may be dropped with it. Called by the
    /// committer, as `commit` is.
    ///
    /// Durability: when it returns, the drop survives a power cut; before that, the generation is
    /// there whole or not at all.
    fn drop_generation(&self, generation: u32) -> BoxFuture<'_, Result<(), CommitFailure>>;

    /// What the store takes up and has done.
    fn usage(&self) -> Usage;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_scan_ends_before_the_next_prefix() {
        assert_eq!(prefix_end(b"ab"), Bytes::from_static(b"ac"));
        assert_eq!(prefix_end(b"a\xff\xff"), Bytes::from_static(b"b"));
        assert_eq!(prefix_end(b"\xff"), Bytes::new());
        assert_eq!(prefix_end(b""), Bytes::new());
    }
}
