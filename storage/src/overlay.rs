//! What is submitted and not yet in the tree below, laid over it.
//!
//! fjall shows a batch only after its sync, and a remote store later still, while the core reads
//! its own writes at once. Between submission and application a change lives here, as the last
//! value of its key.
//!
//! # Why a read never misses or splits a batch
//!
//! A store applies a group to its tree *first* and takes it out of the overlay *afterwards*, both
//! in the order of the numbers. So at every moment each submitted change is in the tree, in the
//! overlay, or in both.
//!
//! - **`get`** looks here first. A hit is the newest value there is, since a newer one would have
//!   replaced it. After a miss the tree is read at its latest: every change submitted before the
//!   look is in it by then, and if it holds a still newer one, then that was submitted while the
//!   call ran, and the call answers as if it had been made then.
//! - **`scan`** copies its part of the overlay *and* opens the snapshot of the tree under the lock
//!   that `submit` takes. No batch is submitted between the two, so the tree holds nothing newer
//!   than the copy: with `s` batches submitted, it holds those up to some `a <= s`, and the copy
//!   holds the last value of every key that `a+1..=s` changed (and of some that older ones did,
//!   which are in both, equal). Copy over tree is exactly the state after `s` batches, whole. What
//!   leaves the overlay later changes neither the copy nor the snapshot.
//!
//! The second is why taking the copy first and the snapshot some time later would not do: the
//! snapshot could hold a batch that the copy lacks, and where the two touch a key in common the
//! older copy would hide half of it.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use crate::receipt::Seq;
use crate::store::{Row, Scan, Space};
use crate::write_batch::Op;

/// The last submitted value of each key that may not be in the tree yet.
#[derive(Default)]
pub(crate) struct Overlay {
    /// Spaces with nothing in them are not kept, so that a read of a quiet space costs one lookup
    /// in a map of a few.
    spaces: BTreeMap<Space, BTreeMap<Bytes, Held>>,
}

struct Held {
    /// The batch that wrote it; it stays until that one is applied.
    seq: Seq,
    /// None: deleted.
    value: Option<Bytes>,
}

/// A part of an overlay in the order of a scan; no value means deleted.
pub(crate) type Layer = Vec<(Bytes, Option<Bytes>)>;

impl Overlay {
    pub(crate) fn put(&mut self, seq: Seq, op: &Op) {
        let held = Held { seq, value: op.value().cloned() };
        self.spaces.entry(op.space()).or_default().insert(op.key().clone(), held);
    }

    /// Forgets what the batches up to `through` wrote last.
    pub(crate) fn applied(&mut self, through: Seq) {
        self.spaces.retain(|_, keys| {
            keys.retain(|_, held| held.seq > through);
            !keys.is_empty()
        });
    }

    pub(crate) fn clear(&mut self) {
        self.spaces.clear();
    }

    /// The submitted value: `None` if nothing is known of the key, `Some(None)` if it is deleted.
    pub(crate) fn get(&self, space: Space, key: &[u8]) -> Option<Option<Bytes>> {
        Some(self.spaces.get(&space)?.get(key)?.value.clone())
    }

    /// The part that decides the first `limit` rows of a scan.
    ///
    /// It ends with the `limit`-th value: that many rows lie at or before it, so that no later key
    /// can be in the answer.
    pub(crate) fn layer(&self, scan: &Scan) -> Layer {
        let Some(keys) = self.spaces.get(&scan.space).filter(|_| !scan.is_void()) else {
            return Layer::new();
        };
        let end = if scan.to.is_empty() { Bound::Unbounded } else { Bound::Excluded(&scan.to[..]) };
        let range = keys.range::<[u8], _>((Bound::Included(&scan.from[..]), end));
        if scan.reverse { up_to(range.rev(), scan.limit) } else { up_to(range, scan.limit) }
    }
}

fn up_to<'a>(range: impl Iterator<Item = (&'a Bytes, &'a Held)>, limit: usize) -> Layer {
    let mut values = 0;
    let mut layer = Layer::new();
    for (key, held) in range {
        layer.push((key.clone(), held.value.clone()));
        values += usize::from(held.value.is_some());
        if values == limit {
            break;
        }
    }
    layer
}

/// Lays `layer` over the rows of the tree, which come in the order of the scan, and gives the first
/// rows of both.
pub(crate) fn merge<E>(
    layer: Layer,
    tree: impl Iterator<Item = Result<Row, E>>,
    scan: &Scan,
) -> Result<Vec<Row>, E> {
    let mut layer = layer.into_iter().peekable();
    let mut tree = tree.peekable();
    let mut rows = Vec::new();
    while rows.len() < scan.limit {
        let over = match (layer.peek(), tree.peek()) {
            (None, None) => break,
            (Some(_), None) => true,
            (Some((over, _)), Some(Ok(row))) => {
                if *over == row.key {
                    tree.next();
                    true
                } else {
                    (*over < row.key) != scan.reverse
                }
            }
            (_, Some(_)) => false,
        };
        if over {
            if let Some((key, Some(value))) = layer.next() {
                rows.push(Row { key, value });
            }
        } else if let Some(row) = tree.next() {
            rows.push(row?);
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(ops: &[(u64, &'static str, Option<&'static str>)]) -> Overlay {
        let mut overlay = Overlay::default();
        for (seq, key, value) in ops {
            let key = Bytes::from_static(key.as_bytes());
            let op = match value {
                Some(value) => Op::Put {
                    space: Space::LongLived,
                    key,
                    value: Bytes::from_static(value.as_bytes()),
                },
                None => Op::Delete { space: Space::LongLived, key },
            };
            overlay.put(Seq(*seq), &op);
        }
        overlay
    }

    fn row(key: &'static str, value: &'static str) -> Row {
        Row { key: Bytes::from_static(key.as_bytes()), value: Bytes::from_static(value.as_bytes()) }
    }

    fn merged(overlay: &Overlay, tree: &[Row], scan: &Scan) -> Vec<Row> {
        let mut tree = tree.to_vec();
        if scan.reverse {
            tree.reverse();
        }
        merge(overlay.layer(scan), tree.into_iter().map(Ok::<_, ()>), scan).unwrap()
    }

    #[test]
    fn the_overlay_wins_and_its_deletes_hide() {
        let over =
            overlay(&[(1, "a", Some("A")), (1, "c", None), (2, "d", Some("D")), (2, "z", None)]);
        let tree = [row("b", "b"), row("c", "c"), row("d", "d"), row("e", "e")];
        let all = Scan::range(Space::LongLived, "", "");
        let expected = [row("a", "A"), row("b", "b"), row("d", "D"), row("e", "e")];
        assert_eq!(merged(&over, &tree, &all), expected);
        assert_eq!(merged(&over, &tree, &all.clone().limit(2)), expected[..2]);

        let mut backwards = expected.to_vec();
        backwards.reverse();
        assert_eq!(merged(&over, &tree, &all.clone().reversed()), backwards);
        assert_eq!(merged(&over, &tree, &all.reversed().limit(3)), backwards[..3]);
    }

    #[test]
    fn an_applied_batch_leaves_only_what_it_wrote_last() {
        let mut over =
            overlay(&[(1, "a", Some("old")), (1, "b", Some("b")), (2, "a", Some("new"))]);
        over.applied(Seq(1));
        assert_eq!(over.get(Space::LongLived, b"b"), None);
        assert_eq!(over.get(Space::LongLived, b"a"), Some(Some(Bytes::from_static(b"new"))));
        over.applied(Seq(2));
        assert!(over.spaces.is_empty());
    }

    #[test]
    fn an_error_of_the_tree_ends_the_scan() {
        let over = overlay(&[(1, "a", Some("A"))]);
        let scan = Scan::range(Space::LongLived, "", "");
        let tree = [Ok(row("b", "b")), Err("damaged")];
        assert_eq!(merge(over.layer(&scan), tree.into_iter(), &scan), Err("damaged"));
    }
}
