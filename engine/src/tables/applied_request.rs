//! Operator requests about queues and schedules that were applied: the last ones, in a ring of
//! numbered slots.

use serde::{Deserialize, Serialize};

use super::{AppliedRequestKey, Record};
use crate::model::id::RequestId;
use crate::model::limits::APPLIED_REQUESTS_KEPT;

/// A request that was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedRequestRecord {
    /// Its place among all of them.
    pub number: u64,
    /// Its id, the same in every copy of it.
    pub request_id: RequestId,
}

impl Record for AppliedRequestRecord {
    const WHAT: &'static str = "AppliedRequestRecord";
}

impl AppliedRequestKey {
    /// The key of an applied request; the one that is [`APPLIED_REQUESTS_KEPT`] older had the same.
    pub fn of(number: u64) -> Self {
        Self { slot: (number % APPLIED_REQUESTS_KEPT) as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::super::TableKey;
    use super::*;

    #[test]
    fn golden_bytes() {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        assert_eq!(
            hex(&AppliedRequestKey::of(APPLIED_REQUESTS_KEPT + 7).to_bytes()),
            "00001a00000007"
        );
        let record = AppliedRequestRecord { number: 7, request_id: RequestId(5) };
        let bytes = record.to_bytes();
        assert_eq!(hex(&bytes), "9207c41000000000000000000000000000000005");
        assert_eq!(AppliedRequestRecord::from_bytes(&bytes).unwrap(), record);
    }
}
