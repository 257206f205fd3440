//! Orders about queues and schedules that were carried out: the last ones, in a ring of numbered
//! slots.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Family, KeyBuilder, Record};
use crate::model::id::RequestId;
use crate::model::limits::ORDERS_KEPT;

/// An order that was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderRecord {
    /// Its place among all of them.
    pub number: u64,
    /// Its id, the same in every copy of it.
    pub request_id: RequestId,
}

impl Record for OrderRecord {
    const WHAT: &'static str = "OrderRecord";
}

/// Where an order is, and where the one was that is so much older.
pub fn order(number: u64) -> Bytes {
    let slot = (number % ORDERS_KEPT) as u32;
    KeyBuilder::new(Family::Order).part(&slot.to_be_bytes()).done()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        assert_eq!(hex(&order(ORDERS_KEPT + 7)), "00001a00000007");
        let record = OrderRecord { number: 7, request_id: RequestId(5) };
        let bytes = record.to_bytes();
        assert_eq!(hex(&bytes), "9207c41000000000000000000000000000000005");
        assert_eq!(OrderRecord::of_bytes(&bytes).unwrap(), record);
    }
}
