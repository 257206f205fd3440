//! What is deleted when its time is over, in the order of time, so that nobody has to look for it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use stepwell_storage::Space;

use super::key::head;
use super::{Empty, FixedSpace, KeyPart, Record, Table, TableKey, TableValue};
use crate::model::id::Namespace;
use crate::model::time::Time;
use crate::numbered::Undecodable;

/// What a row of the table stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Expires {
    /// A unique key that is held for a time.
    Unique = 1,
    /// A batch that has ended.
    Batch = 2,
    /// The first result for a memo key.
    Memo = 3,
}

impl KeyPart for Expires {
    const BYTES: usize = u8::BYTES;

    fn put(self, into: &mut Vec<u8>) {
        (self as u8).put(into);
    }

    fn take(rest: &mut &[u8]) -> Option<Self> {
        let number = u8::take(rest)?;
        [Self::Unique, Self::Batch, Self::Memo].into_iter().find(|expires| *expires as u8 == number)
    }
}

/// Something that expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expiry {
    /// When.
    pub at: Time,
    /// What.
    pub what: Expires,
    /// Whose it is.
    pub namespace: Namespace,
    /// The hash it is stored under.
    pub hash: u128,
}

/// How far expired things have been deleted: nothing is before this instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ExpiryMark {
    /// The instant.
    pub at: Time,
}

impl Record for ExpiryMark {
    const WHAT: &'static str = "ExpiryMark";
}

/// A key of the table: under the bare number of the table lies the mark, before all that expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExpiryKey {
    /// Of the mark.
    Mark,
    /// Of a row that stands for something that expires.
    Due(Expiry),
}

/// What is stored under an [`ExpiryKey`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpiryRecord {
    /// Under [`ExpiryKey::Mark`].
    Mark(ExpiryMark),
    /// Under [`ExpiryKey::Due`]: the key says everything.
    Due,
}

/// The key of the one [`ExpiryMark`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExpiryMarkKey;

impl TableKey for ExpiryKey {
    const TABLE: Table = Table::Expiry;
    const PARTS_BYTES: usize = Expiry::PARTS_BYTES;
    type Record = ExpiryRecord;

    fn put_parts(&self, into: &mut Vec<u8>) {
        match self {
            Self::Mark => ExpiryMarkKey.put_parts(into),
            Self::Due(expiry) => expiry.put_parts(into),
        }
    }

    fn from_parts(parts: &[u8]) -> Option<Self> {
        let mark = ExpiryMarkKey::from_parts(parts).map(|_| Self::Mark);
        mark.or_else(|| Expiry::from_parts(parts).map(Self::Due))
    }

    fn read_record(&self, value: &Bytes) -> Result<ExpiryRecord, Undecodable> {
        match self {
            Self::Mark => ExpiryMark::from_value(value).map(ExpiryRecord::Mark),
            Self::Due(_) => Empty::from_value(value).map(|_| ExpiryRecord::Due),
        }
    }
}

impl TableValue for ExpiryRecord {
    fn to_value(&self) -> Bytes {
        match self {
            Self::Mark(mark) => mark.to_value(),
            Self::Due => Empty.to_value(),
        }
    }

    /// Without the key, by its form. [`ExpiryKey`] knows better.
    fn from_value(value: &Bytes) -> Result<Self, Undecodable> {
        if value.is_empty() { Ok(Self::Due) } else { ExpiryMark::from_value(value).map(Self::Mark) }
    }
}

impl TableKey for ExpiryMarkKey {
    const TABLE: Table = Table::Expiry;
    const PARTS_BYTES: usize = 0;
    type Record = ExpiryMark;

    fn put_parts(&self, _: &mut Vec<u8>) {}

    fn from_parts(parts: &[u8]) -> Option<Self> {
        parts.is_empty().then_some(Self)
    }
}

impl FixedSpace for ExpiryMarkKey {
    const SPACE: Space = ExpiryKey::SPACE;
}

impl TableKey for Expiry {
    const TABLE: Table = Table::Expiry;
    const PARTS_BYTES: usize = Time::BYTES + Expires::BYTES + Namespace::BYTES + u128::BYTES;
    type Record = Empty;

    fn put_parts(&self, into: &mut Vec<u8>) {
        self.at.put(into);
        self.what.put(into);
        self.namespace.put(into);
        self.hash.put(into);
    }

    fn from_parts(parts: &[u8]) -> Option<Self> {
        let mut rest = parts;
        let expiry = Self {
            at: KeyPart::take(&mut rest)?,
            what: KeyPart::take(&mut rest)?,
            namespace: KeyPart::take(&mut rest)?,
            hash: KeyPart::take(&mut rest)?,
        };
        rest.is_empty().then_some(expiry)
    }
}

impl FixedSpace for Expiry {
    const SPACE: Space = ExpiryKey::SPACE;
}

impl Expiry {
    /// The end of what expires before an instant: keys of this instant and later ones lie behind
    /// it.
    pub fn from(at: Time) -> Bytes {
        let mut bytes = head(Table::Expiry, Time::BYTES);
        at.put(&mut bytes);
        bytes.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        let row = Expiry { at: Time(1), what: Expires::Batch, namespace: Namespace(2), hash: 3 };
        let key = row.to_bytes();
        assert_eq!(hex(&key), "0000160000000000000001020000000200000000000000000000000000000003");
        assert_eq!(ExpiryKey::from_bytes(&key), Some(ExpiryKey::Due(row)));
        let mark = ExpiryMarkKey.to_bytes();
        assert_eq!(ExpiryKey::from_bytes(&mark), Some(ExpiryKey::Mark));
        let (one, two) = (Expiry::from(Time(1)), Expiry::from(Time(2)));
        assert!(mark < Expiry::from(Time(0)) && one < key && key < two);
        assert_eq!(hex(&ExpiryMark { at: Time(5) }.to_bytes()), "9105");
    }
}
