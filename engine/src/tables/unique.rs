//! Who holds a unique key.

use serde::{Deserialize, Serialize};

use super::Record;
use crate::model::id::{RunId, RunNo};
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

#[cfg(test)]
mod tests {
    use super::super::{TableKey, UniqueHolderKey};
    use super::*;
    use crate::model::id::Namespace;

    #[test]
    fn golden_bytes() {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        let key = UniqueHolderKey { namespace: Namespace(1), hash: 2 };
        assert_eq!(hex(&key.to_bytes()), "0000130000000100000000000000000000000000000002");
        let record = UniqueRecord { run: RunNo(1), id: RunId(2), until: Time(3) };
        assert_eq!(hex(&record.to_bytes()), "9301c4100000000000000000000000000000000203");
        assert_eq!(UniqueRecord::from_bytes(&record.to_bytes()).unwrap(), record);
    }
}
