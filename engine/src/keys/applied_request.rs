//! Operators' requests about queues and schedules that were applied: the last ones, in a ring of
//! numbered slots.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Family, KeyBuilder, Record};
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

/// The key of an applied request; the one that is [`APPLIED_REQUESTS_KEPT`] older had the same.
pub fn applied_request(number: u64) -> Bytes {
    let slot = (number % APPLIED_REQUESTS_KEPT) as u32;
    KeyBuilder::new(Family::AppliedRequest).part(&slot.to_be_bytes()).done()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        assert_eq!(hex(&applied_request(APPLIED_REQUESTS_KEPT + 7)), "00001a00000007");
        let record = AppliedRequestRecord { number: 7, request_id: RequestId(5) };
        let bytes = record.to_bytes();
        assert_eq!(hex(&bytes), "9207c41000000000000000000000000000000005");
        assert_eq!(AppliedRequestRecord::from_bytes(&bytes).unwrap(), record);
    }
}
