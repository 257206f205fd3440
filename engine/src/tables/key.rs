//! Keys: the parts they are made of, and what every key of a table can do.

use std::fmt::Debug;

use bytes::Bytes;
use stepwell_storage::Space;

use super::{Table, TableValue};
use crate::model::id::{Namespace, RunId, RunNo};
use crate::model::time::Time;
use crate::numbered::Undecodable;

/// The shard every key begins with. A node has one.
pub const SHARD: u16 = 0;

/// Bytes before the parts of a key: the shard and the table's number.
pub const HEAD_BYTES: usize = 3;

/// The key of a row, which says where the row is and what its record is.
///
/// The order of keys is the order of their bytes.
pub trait TableKey: Debug + Clone + Ord + Send + Sync + 'static {
    /// The table whose rows have such keys.
    const TABLE: Table;
    /// Bytes of the parts behind the table's number, at most.
    const PARTS_BYTES: usize;
    /// What is stored under the key.
    type Record: TableValue;

    /// Appends the parts.
    fn put_parts(&self, into: &mut Vec<u8>);

    /// Reads what `put_parts` wrote; none if the bytes are fewer, more or others.
    fn from_parts(parts: &[u8]) -> Option<Self>;

    /// Reads the record that is stored under this key.
    fn read_record(&self, value: &Bytes) -> Result<Self::Record, Undecodable> {
        Self::Record::from_value(value)
    }

    /// The stored key, in one allocation.
    fn to_bytes(&self) -> Bytes {
        let mut bytes = head(Self::TABLE, Self::PARTS_BYTES);
        self.put_parts(&mut bytes);
        bytes.into()
    }

    /// Reads a stored key; none if it is of another table or shard, or of the wrong length.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (head, parts) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        Self::from_parts(parts).filter(|_| *head == head_of(Self::TABLE))
    }
}

/// A key of a table that lies in one space, whatever its rows are about: all tables but the
/// journals.
pub trait FixedSpace: TableKey {
    /// The space of the table.
    const SPACE: Space;
}

/// A part of a key: big endian, so that the order of bytes is the order of values.
pub trait KeyPart: Copy {
    /// Its bytes.
    const BYTES: usize;

    /// Appends it.
    fn put(self, into: &mut Vec<u8>);

    /// Takes it from the front of what is left of a key.
    fn take(rest: &mut &[u8]) -> Option<Self>;
}

macro_rules! number_parts {
    ($($number:ty),+) => {
        $(impl KeyPart for $number {
            const BYTES: usize = size_of::<$number>();

            fn put(self, into: &mut Vec<u8>) {
                into.extend_from_slice(&self.to_be_bytes());
            }

            fn take(rest: &mut &[u8]) -> Option<Self> {
                let (part, behind) = rest.split_first_chunk()?;
                *rest = behind;
                Some(Self::from_be_bytes(*part))
            }
        })+
    };
}
number_parts!(u8, u16, u32, u64, u128);

macro_rules! wrapped_parts {
    ($($part:ident($number:ty)),+) => {
        $(impl KeyPart for $part {
            const BYTES: usize = size_of::<$number>();

            fn put(self, into: &mut Vec<u8>) {
                self.0.put(into);
            }

            fn take(rest: &mut &[u8]) -> Option<Self> {
                <$number>::take(rest).map($part)
            }
        })+
    };
}
wrapped_parts!(Namespace(u32), RunId(u128), RunNo(u64), Time(u64));

impl Table {
    /// What all keys of the table begin with, and no other key does.
    pub fn prefix(self) -> Bytes {
        Bytes::copy_from_slice(&head_of(self))
    }

    /// The table of a stored key; none if this version knows no such table, or it is of another
    /// shard.
    pub fn from_key(key: &[u8]) -> Option<Self> {
        let head = key.first_chunk::<HEAD_BYTES>()?;
        Self::numbered(head[2]).filter(|table| *head == head_of(*table))
    }
}

fn head_of(table: Table) -> [u8; HEAD_BYTES] {
    let [high, low] = SHARD.to_be_bytes();
    [high, low, table as u8]
}

/// The beginning of a key, with room for `parts_bytes` more.
pub(super) fn head(table: Table, parts_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + parts_bytes);
    bytes.extend_from_slice(&head_of(table));
    bytes
}

/// The end of all keys that begin with `prefix`: the smallest key that is larger than each of them.
pub fn end_of(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end.into()
}
