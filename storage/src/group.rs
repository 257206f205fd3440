//! Group commit, without the I/O: what is submitted, what is taken for the next sync, what is
//! applied.
//!
//! ```text
//!   submit ──► pending 5 6 7 8 ──take_group──► in flight 3 4 ──applied──► in the tree
//!              └──────────────── overlay ─────────────────┘
//! ```
//!
//! There is no timer and no delay: a group is what queued up while the sync before it ran. One
//! batch alone is a group of one, and under load the groups grow by themselves to what the disk
//! makes worthwhile.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

use crate::canary::canary;
use crate::overlay::{Layer, Overlay};
use crate::receipt::{Receipt, Seq};
use crate::refusal::{CommitFailure, ReadFailure, SubmitRefusal};
use crate::store::{Scan, Space};
use crate::write_batch::{Op, WriteBatch};

/// A group takes no further batch once it has this many bytes: above it a sync is bound by the
/// bytes, not by the call, and waiting for a larger one only adds latency.
pub(crate) const GROUP_BYTES_MAX: usize = 4 << 20;

/// The same for changes, of which tiny ones would otherwise make a group of hundreds of thousands.
pub(crate) const GROUP_OPS_MAX: usize = 64 << 10;

/// What one handle has submitted and does not know to be durable, and whether it may go on.
///
/// Invariants: **F1** `committed <= taken <= submitted`. **F2** Numbers rise by one. **F3** Each
/// change of the batches `committed+1..=submitted` is in the overlay, unless a later one of them
/// replaced it there. **F4** Once ended, none of the numbers moves.
pub(crate) struct Submissions {
    pending: VecDeque<(Seq, WriteBatch)>,
    overlay: Overlay,
    submitted: Seq,
    taken: Seq,
    committed: Seq,
    ended: Option<CommitFailure>,
}

/// Batches that are written and synced together.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) batches: Vec<(Seq, WriteBatch)>,
    pub(crate) bytes: usize,
    pub(crate) ops: usize,
    /// The generations that it puts into, also where a later delete of the same key undoes the put:
    /// the first put into a generation makes it.
    pub(crate) generations: BTreeSet<u32>,
}

impl Submissions {
    /// For a store in which everything up to `committed` is durable.
    pub(crate) fn after(committed: Seq) -> Submissions {
        Submissions {
            pending: VecDeque::new(),
            overlay: Overlay::default(),
            submitted: committed,
            taken: committed,
            committed,
            ended: None,
        }
    }

    pub(crate) fn submitted(&self) -> Seq {
        self.submitted
    }

    pub(crate) fn committed(&self) -> Seq {
        self.committed
    }

    /// Takes a batch that has passed [`WriteBatch::check`]; the caller checks before it takes the
    /// lock.
    pub(crate) fn submit(&mut self, batch: WriteBatch) -> Result<Seq, SubmitRefusal> {
        if let Some(failure) = &self.ended {
            return Err(SubmitRefusal::Poisoned { reason: failure.to_string() });
        }
        let seq = self.submitted.next();
        for op in &batch {
            self.overlay.put(seq, op);
        }
        self.pending.push_back((seq, batch));
        self.submitted = seq;
        Ok(seq)
    }

    /// The next batches to write, in order; none if nothing is pending.
    pub(crate) fn take_group(&mut self) -> Result<Option<Group>, CommitFailure> {
        self.alive()?;
        let mut group = Group::default();
        while let Some((seq, batch)) = self.pending.pop_front() {
            if !group.takes(&batch) {
                self.pending.push_front((seq, batch));
                break;
            }
            self.taken = seq;
            group.push(seq, batch);
        }
        Ok((!group.batches.is_empty()).then_some(group))
    }

    /// Everything up to `through` is durable and in the tree below.
    pub(crate) fn applied(&mut self, through: Seq) -> Receipt {
        assert!(self.ended.is_none(), "F4: an ended handle moves no number");
        assert!(
            self.committed <= through && through <= self.taken,
            "F1: only what was taken can be applied"
        );
        self.committed = through;
        if through == self.submitted || canary!("reads miss what is in flight") {
            self.overlay.clear()
        } else {
            self.overlay.applied(through)
        }
        if canary!("acknowledged before the sync") {
            return Receipt::of(self.submitted);
        }
        Receipt::of(through)
    }

    /// The receipt of the last commit.
    pub(crate) fn receipt(&self) -> Result<Receipt, CommitFailure> {
        self.alive()?;
        Ok(Receipt::of(self.committed))
    }

    /// Ends the handle; the first failure stays. Gives the failure that holds.
    pub(crate) fn end(&mut self, failure: CommitFailure) -> CommitFailure {
        self.ended.get_or_insert(failure).clone()
    }

    pub(crate) fn alive(&self) -> Result<(), CommitFailure> {
        self.ended.clone().map_or(Ok(()), Err)
    }

    /// What is known of a key here: `None` sends the reader to the tree.
    pub(crate) fn get(
        &self,
        space: Space,
        key: &[u8],
    ) -> Result<Option<Option<Bytes>>, ReadFailure> {
        self.readable()?;
        Ok(self.overlay.get(space, key))
    }

    /// What to lay over the tree. Its snapshot is to be opened under the same lock.
    pub(crate) fn layer(&self, scan: &Scan) -> Result<Layer, ReadFailure> {
        self.readable()?;
        Ok(self.overlay.layer(scan))
    }

    pub(crate) fn readable(&self) -> Result<(), ReadFailure> {
        self.alive().map_err(|failure| ReadFailure::Poisoned { reason: failure.to_string() })
    }

    /// Whether nothing waits to be taken.
    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// Takes away what was never taken for a group: a crash decides over it.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = (Seq, WriteBatch)> {
        std::mem::take(&mut self.pending).into_iter()
    }
}

impl Group {
    fn takes(&self, batch: &WriteBatch) -> bool {
        self.batches.is_empty()
            || (self.bytes + batch.bytes() <= GROUP_BYTES_MAX
                && self.ops + batch.len() <= GROUP_OPS_MAX)
    }

    fn push(&mut self, seq: Seq, batch: WriteBatch) {
        self.bytes += batch.bytes();
        self.ops += batch.len();
        for op in &batch {
            if let Op::Put { space: Space::Generation(generation), .. } = op {
                self.generations.insert(*generation);
            }
        }
        self.batches.push((seq, batch));
    }

    /// The last batch in it.
    pub(crate) fn last(&self) -> Seq {
        self.batches.last().map_or(Seq(0), |(seq, _)| *seq)
    }

    /// The last change of each key, in key order.
    ///
    /// A tree that gives all of a write one version must not be handed two values for one key:
    /// which of them it would return is not defined. The order makes the inserts into its skip list
    /// cheap.
    #[cfg(any(feature = "fjall", test))]
    pub(crate) fn merged(self) -> Vec<Op> {
        let mut ops: Vec<Op> = Vec::with_capacity(self.ops);
        ops.extend(self.batches.into_iter().flat_map(|(_, batch)| batch));
        // Stable, so that of one key's changes the last one stays last.
        ops.sort_by(|a, b| (a.space(), a.key()).cmp(&(b.space(), b.key())));
        ops.dedup_by(|later, kept| {
            let same = (later.space(), later.key()) == (kept.space(), kept.key());
            if same {
                std::mem::swap(later, kept);
            }
            same
        });
        ops
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str) -> WriteBatch {
        let mut batch = WriteBatch::new();
        batch.put(Space::LongLived, key.to_owned(), value.to_owned());
        batch
    }

    #[test]
    fn a_group_is_all_that_was_pending_and_its_last_change_of_a_key_wins() {
        let mut subs = Submissions::after(Seq(10));
        assert_eq!(subs.submit(put("k", "1")), Ok(Seq(11)));
        assert_eq!(subs.submit(put("a", "1")), Ok(Seq(12)));
        assert_eq!(subs.submit(put("k", "2")), Ok(Seq(13)));
        let group = subs.take_group().unwrap().unwrap();
        assert_eq!((group.last(), group.ops), (Seq(13), 3));
        let mut expected = put("a", "1");
        expected.put(Space::LongLived, "k", "2");
        assert_eq!(group.merged(), expected.into_iter().collect::<Vec<_>>());
        assert!(subs.take_group().unwrap().is_none());
    }

    // What is in flight is not in the tree yet, so a reader has to find it here until it is.
    #[test]
    fn a_change_stays_visible_until_it_is_applied_and_a_newer_one_beyond_that() {
        let mut subs = Submissions::after(Seq(0));
        subs.submit(put("k", "1")).unwrap();
        subs.take_group().unwrap().unwrap();
        subs.submit(put("k", "2")).unwrap();
        assert_eq!(subs.get(Space::LongLived, b"k"), Ok(Some(Some(Bytes::from_static(b"2")))));
        assert_eq!(subs.applied(Seq(1)).seq(), Seq(1));
        assert_eq!(subs.get(Space::LongLived, b"k"), Ok(Some(Some(Bytes::from_static(b"2")))));
        subs.take_group().unwrap().unwrap();
        subs.applied(Seq(2));
        assert_eq!(subs.get(Space::LongLived, b"k"), Ok(None));
    }

    #[test]
    fn a_backlog_beyond_the_limit_is_split_between_batches() {
        let mut subs = Submissions::after(Seq(0));
        let mut big = WriteBatch::new();
        for i in 0..299u32 {
            big.put(Space::ShortLived, i.to_be_bytes().to_vec(), vec![0; 3_500]);
        }
        for _ in 0..9 {
            subs.submit(big.clone()).unwrap();
        }
        let mut lasts = Vec::new();
        while let Some(group) = subs.take_group().unwrap() {
            assert!(group.bytes <= GROUP_BYTES_MAX);
            lasts.push(group.last());
            subs.applied(group.last());
        }
        assert_eq!(lasts, [Seq(4), Seq(8), Seq(9)]);
    }

    #[test]
    fn an_ended_handle_takes_nothing_and_keeps_its_first_failure() {
        let mut subs = Submissions::after(Seq(0));
        subs.submit(put("k", "1")).unwrap();
        let first = CommitFailure::Full { cause: "no space left on device".into() };
        assert_eq!(subs.end(first.clone()), first);
        assert_eq!(subs.end(CommitFailure::Unknown { cause: "later".into() }), first);
        assert_eq!(
            subs.submit(put("k", "2")),
            Err(SubmitRefusal::Poisoned { reason: first.to_string() })
        );
        assert_eq!(subs.take_group().unwrap_err(), first);
        assert!(matches!(subs.get(Space::LongLived, b"k"), Err(ReadFailure::Poisoned { .. })));
    }
}
