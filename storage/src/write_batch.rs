//! The unit of atomicity: puts and deletes that happen together or not at all.

use bytes::Bytes;

use crate::refusal::SubmitRefusal;
use crate::store::Space;

/// The most bytes of keys and values in one batch: 1 MiB.
///
/// One batch is never split over two commits, so this bounds how far a commit group can overshoot
/// its own limit, and it is what a remote store can take in one statement.
pub const WRITE_BATCH_BYTES_MAX: usize = 1 << 20;

/// The most operations in one batch.
pub const WRITE_BATCH_OPS_MAX: usize = 4096;

/// The longest key.
pub const KEY_BYTES_MAX: usize = 512;

/// The longest value; longer payloads are cut into chunks by the caller.
///
/// Key and value together stay below 4 KiB. An item of a page or more can lose one page from its
/// middle in a power cut while its ends arrive, and fjall then refuses to open a store whose
/// acknowledged data is whole.
pub const VALUE_BYTES_MAX: usize = 3_500;

/// One change of one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Writes a value, over any earlier one.
    Put {
        /// Where.
        space: Space,
        /// Under which key.
        key: Bytes,
        /// What.
        value: Bytes,
    },
    /// Removes a key; it need not be there.
    Delete {
        /// Where.
        space: Space,
        /// Which key.
        key: Bytes,
    },
}

impl Op {
    /// Where the change happens.
    pub fn space(&self) -> Space {
        match self {
            Op::Put { space, .. } | Op::Delete { space, .. } => *space,
        }
    }

    /// The key that is changed.
    pub fn key(&self) -> &Bytes {
        match self {
            Op::Put { key, .. } | Op::Delete { key, .. } => key,
        }
    }

    /// The value that the key has afterwards.
    pub fn value(&self) -> Option<&Bytes> {
        match self {
            Op::Put { value, .. } => Some(value),
            Op::Delete { .. } => None,
        }
    }

    /// Bytes of key and value.
    pub fn bytes(&self) -> usize {
        self.key().len() + self.value().map_or(0, Bytes::len)
    }
}

/// Changes that become durable together or not at all, and are seen together or not at all.
///
/// Where a key occurs twice, the later change wins.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WriteBatch {
    ops: Vec<Op>,
    bytes: usize,
}

impl WriteBatch {
    /// An empty batch.
    pub fn new() -> WriteBatch {
        WriteBatch::default()
    }

    /// An empty batch with room for `ops` changes.
    pub fn with_capacity(ops: usize) -> WriteBatch {
        WriteBatch { ops: Vec::with_capacity(ops), bytes: 0 }
    }

    /// Writes `value` under `key`.
    pub fn put(&mut self, space: Space, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.push(Op::Put { space, key: key.into(), value: value.into() });
    }

    /// Removes `key`.
    pub fn delete(&mut self, space: Space, key: impl Into<Bytes>) {
        self.push(Op::Delete { space, key: key.into() });
    }

    /// Adds a change.
    pub fn push(&mut self, op: Op) {
        self.bytes += op.bytes();
        self.ops.push(op);
    }

    /// How many changes it holds.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The changes, in the order in which they were added.
    pub fn iter(&self) -> std::slice::Iter<'_, Op> {
        self.ops.iter()
    }

    /// Refuses what no store takes. Every `submit` asks it, so that a batch that is too large is
    /// refused in a test on the in-memory store as it is in production.
    pub fn check(&self) -> Result<(), SubmitRefusal> {
        if self.len() > WRITE_BATCH_OPS_MAX {
            return Err(SubmitRefusal::TooManyOps {
                ops: self.len(),
                ops_max: WRITE_BATCH_OPS_MAX,
            });
        }
        if self.bytes > WRITE_BATCH_BYTES_MAX {
            return Err(SubmitRefusal::BatchTooLarge {
                bytes: self.bytes,
                bytes_max: WRITE_BATCH_BYTES_MAX,
            });
        }
        self.ops.iter().try_for_each(check_op)
    }
}

impl<'a> IntoIterator for &'a WriteBatch {
    type Item = &'a Op;
    type IntoIter = std::slice::Iter<'a, Op>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl IntoIterator for WriteBatch {
    type Item = Op;
    type IntoIter = std::vec::IntoIter<Op>;

    fn into_iter(self) -> Self::IntoIter {
        self.ops.into_iter()
    }
}

fn check_op(op: &Op) -> Result<(), SubmitRefusal> {
    let key_bytes = op.key().len();
    if key_bytes == 0 {
        return Err(SubmitRefusal::KeyEmpty { space: op.space() });
    }
    if key_bytes > KEY_BYTES_MAX {
        return Err(SubmitRefusal::KeyTooLong { bytes: key_bytes, bytes_max: KEY_BYTES_MAX });
    }
    let value_bytes = op.value().map_or(0, Bytes::len);
    if value_bytes > VALUE_BYTES_MAX {
        return Err(SubmitRefusal::ValueTooLarge {
            bytes: value_bytes,
            bytes_max: VALUE_BYTES_MAX,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_at_its_limits_is_taken_and_one_beyond_them_is_refused() {
        let mut ops = WriteBatch::with_capacity(WRITE_BATCH_OPS_MAX);
        for i in 0..WRITE_BATCH_OPS_MAX {
            ops.put(Space::LongLived, (i as u32).to_be_bytes().to_vec(), Bytes::new());
        }
        assert_eq!(ops.check(), Ok(()));
        ops.delete(Space::LongLived, &b"one more"[..]);
        assert_eq!(
            ops.check(),
            Err(SubmitRefusal::TooManyOps {
                ops: WRITE_BATCH_OPS_MAX + 1,
                ops_max: WRITE_BATCH_OPS_MAX
            })
        );

        let mut bytes = WriteBatch::new();
        while bytes.bytes() + VALUE_BYTES_MAX < WRITE_BATCH_BYTES_MAX {
            bytes.put(Space::LongLived, &b"k"[..], vec![0; VALUE_BYTES_MAX]);
        }
        assert_eq!(bytes.check(), Ok(()));
        bytes.put(Space::LongLived, &b"k"[..], vec![0; VALUE_BYTES_MAX]);
        assert!(matches!(bytes.check(), Err(SubmitRefusal::BatchTooLarge { .. })));
    }

    #[test]
    fn keys_and_values_beyond_their_limits_are_refused() {
        let one = |key: usize, value: usize| {
            let mut batch = WriteBatch::new();
            batch.put(Space::ShortLived, vec![7; key], vec![7; value]);
            batch.check()
        };
        assert_eq!(one(KEY_BYTES_MAX, VALUE_BYTES_MAX), Ok(()));
        assert_eq!(one(0, 0), Err(SubmitRefusal::KeyEmpty { space: Space::ShortLived }));
        assert!(matches!(one(KEY_BYTES_MAX + 1, 0), Err(SubmitRefusal::KeyTooLong { .. })));
        assert!(matches!(one(1, VALUE_BYTES_MAX + 1), Err(SubmitRefusal::ValueTooLarge { .. })));
    }

    // The reason for the limits: an item of a page or more can be torn in its middle.
    const _: () = assert!(KEY_BYTES_MAX + VALUE_BYTES_MAX + 64 < 4096);
}
