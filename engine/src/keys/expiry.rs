//! What is deleted when its time is over, in the order of time, so that nobody has to look for it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Family, KeyBuilder, Record};
use crate::model::id::Namespace;
use crate::model::time::Time;

/// What a row of the family stands for.
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

impl Expires {
    fn of(number: u8) -> Option<Self> {
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

/// Where it says that something expires.
pub fn expiry(expiry: Expiry) -> Bytes {
    KeyBuilder::new(Family::Expiry)
        .part(&expiry.at.0.to_be_bytes())
        .part(&[expiry.what as u8])
        .part(&expiry.namespace.0.to_be_bytes())
        .part(&expiry.hash.to_be_bytes())
        .done()
}

/// The first place of those that expire at an instant or later.
pub fn from(at: Time) -> Bytes {
    KeyBuilder::new(Family::Expiry).part(&at.0.to_be_bytes()).done()
}

/// Where the mark is: before all others.
pub fn mark() -> Bytes {
    super::family(Family::Expiry)
}

/// Whether a key of the family is the mark's.
pub fn is_mark(key: &[u8]) -> bool {
    key.len() == 3
}

/// What a key says.
pub fn from_key(key: &[u8]) -> Option<Expiry> {
    Some(Expiry {
        at: Time(u64::from_be_bytes(key.get(3..11)?.try_into().ok()?)),
        what: Expires::of(*key.get(11)?)?,
        namespace: Namespace(u32::from_be_bytes(key.get(12..16)?.try_into().ok()?)),
        hash: u128::from_be_bytes(key.get(16..32)?.try_into().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        let row = Expiry { at: Time(1), what: Expires::Batch, namespace: Namespace(2), hash: 3 };
        let key = expiry(row);
        assert_eq!(hex(&key), "0000160000000000000001020000000200000000000000000000000000000003");
        assert_eq!(from_key(&key), Some(row));
        assert!(mark() < from(Time(0)) && from(Time(1)) < key && key < from(Time(2)));
        assert_eq!(hex(&ExpiryMark { at: Time(5) }.to_bytes()), "9105");
    }
}
