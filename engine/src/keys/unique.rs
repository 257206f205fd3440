//! Who holds a unique key.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Family, KeyBuilder, Record};
use crate::model::id::{Namespace, RunId, RunNo};
use crate::model::time::Time;

/// A run that holds a unique key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UniqueRecord {
    /// Its number.
    pub run: RunNo,
    /// Its id: the run may have outlived its retention before the key is free.
    pub id: RunId,
    /// Until this instant; zero: until it begins its first turn or ends, when the row goes.
    pub until: Time,
}

impl Record for UniqueRecord {
    const WHAT: &'static str = "UniqueRecord";
}

/// Where it says who holds a key.
pub fn unique(namespace: Namespace, hash: u128) -> Bytes {
    KeyBuilder::new(Family::Unique)
        .part(&namespace.0.to_be_bytes())
        .part(&hash.to_be_bytes())
        .done()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        assert_eq!(hex(&unique(Namespace(1), 2)), "0000130000000100000000000000000000000000000002");
        let record = UniqueRecord { run: RunNo(1), id: RunId(2), until: Time(3) };
        assert_eq!(hex(&record.to_bytes()), "9301c4100000000000000000000000000000000203");
        assert_eq!(UniqueRecord::from_bytes(&record.to_bytes()).unwrap(), record);
    }
}
