//! Batches of runs: those that are open lie in numbered slots that are used again, like leases, so
//! that an engine that opens reads as many rows as there are open batches; those that have ended
//! lie under their names.

use serde::{Deserialize, Serialize};

use super::Record;
use crate::model::batch::{BatchCounts, BatchNo, Span};
use crate::model::id::{Namespace, RunId};
use crate::model::request::{Caller, StartRun};
use crate::model::time::Time;

/// A batch: exact at every commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchRecord {
    /// Its number, which its runs carry.
    pub no: BatchNo,
    /// Whose it is.
    pub namespace: Namespace,
    /// Its name.
    pub name: String,
    /// Whether no more runs can be added.
    pub sealed: bool,
    /// Its progress.
    pub counts: BatchCounts,
    /// When it was opened.
    pub opened_at: Time,
    /// When it ended.
    pub ended_at: Option<Time>,
    /// The run that followed it.
    pub follow_up: Option<RunId>,
    /// Its first and its last run.
    #[serde(default)]
    pub span: Span,
}

impl Record for BatchRecord {
    const WHAT: &'static str = "BatchRecord";
}

/// The run that is to follow a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowUpRecord {
    /// Who asked for it.
    pub caller: Caller,
    /// What; its id is made of the batch's name and number.
    pub run: StartRun,
}

impl Record for FollowUpRecord {
    const WHAT: &'static str = "FollowUpRecord";
}

/// What is stored of a batch that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenBatchRow {
    /// Its slot.
    pub slot: u32,
    /// The batch.
    pub record: BatchRecord,
    /// What is to follow it.
    pub follow_up: Option<FollowUpRecord>,
}

#[cfg(test)]
mod tests {
    use super::super::{EndedBatchKey, FollowUpKey, OpenBatchKey, TableKey};
    use super::*;
    use crate::model::id::RunNo;

    #[test]
    fn golden_bytes() {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        assert_eq!(hex(&OpenBatchKey { slot: 7 }.to_bytes()), "00001500000007");
        assert_eq!(hex(&FollowUpKey { slot: 7 }.to_bytes()), "00001800000007");
        let ended = EndedBatchKey { namespace: Namespace(1), hash: 2 };
        assert_eq!(hex(&ended.to_bytes()), "0000170000000100000000000000000000000000000002");
        let record = BatchRecord {
            no: BatchNo(5),
            namespace: Namespace(0),
            name: "n".to_owned(),
            sealed: true,
            counts: BatchCounts { total: 3, completed: 1, dead: 1, cancelled: 0 },
            opened_at: Time(9),
            ended_at: None,
            follow_up: None,
            span: Span { first: RunNo(4), last: RunNo(6) },
        };
        let bytes = record.to_bytes();
        assert_eq!(hex(&bytes), "990500a16ec3940301010009c0c0920406");
        assert_eq!(BatchRecord::from_bytes(&bytes).unwrap(), record);
        // Before the span was noted.
        let older = [&[0x98], &bytes[1..bytes.len() - 3]].concat();
        let span = Span::default();
        assert_eq!(BatchRecord::from_bytes(&older).unwrap(), BatchRecord { span, ..record });
    }
}
