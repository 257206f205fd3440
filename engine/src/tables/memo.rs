//! Where the first result for a memo key is.

use serde::{Deserialize, Serialize};

use super::Record;
use crate::model::id::{MemoKey, Namespace, RunNo};
use crate::model::time::Time;

/// The first result for a key: an entry in the journal of the run that came to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoRecord {
    /// The run.
    pub run: RunNo,
    /// The entry that holds the result. The run ends later than it was written, so that it is kept
    /// for as long.
    pub entry: u32,
    /// It counts until this instant.
    pub until: Time,
}

impl Record for MemoRecord {
    const WHAT: &'static str = "MemoRecord";
}

/// What a suspended run waits for besides time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoWait {
    /// Whose keys.
    pub namespace: Namespace,
    /// The keys, any of which wakes it.
    pub keys: Vec<MemoKey>,
    /// When it is woken whatever becomes of them.
    pub wakes_at: Option<Time>,
}

#[cfg(test)]
mod tests {
    use super::super::{MemoResultKey, TableKey};
    use super::*;

    #[test]
    fn golden_bytes() {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        let key = MemoResultKey { namespace: Namespace(1), hash: 2 };
        assert_eq!(hex(&key.to_bytes()), "0000140000000100000000000000000000000000000002");
        let record = MemoRecord { run: RunNo(1), entry: 2, until: Time(3) };
        assert_eq!(hex(&record.to_bytes()), "93010203");
        assert_eq!(MemoRecord::from_bytes(&record.to_bytes()).unwrap(), record);
    }
}
