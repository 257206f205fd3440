//! Orders about queues and schedules: a request takes effect once, however often it arrives.
//!
//! What is done with a run is remembered in its journal. A queue and a schedule have none, and a
//! schedule may be gone when a copy of an old order about it comes: by itself after a lost
//! connection, or late, over another one. So the commands of the last [`ORDERS_KEPT`] orders are
//! remembered by the engine, each in a slot of a ring that is written in the batch that carries the
//! order out. A copy is answered with how things are now.
//!
//! ```text
//!   pause (cmd 1) ──► paused      resume (cmd 2) ──► goes on      pause (cmd 1), late ──► goes on
//! ```
//!
//! # Invariants
//!
//! - **N1** An order that is among the last ones changes nothing when it comes again.
//! - **N2** What an order changes and that it was carried out is written in one batch.
//!
//! An order that was refused changed nothing and is not remembered. One that never arrived acts
//! when it does, however late. A caller whose request id is zero has named none, and each of its
//! orders is a new one.

use std::collections::{BTreeSet, VecDeque};

use stepwell_storage::Space;

use super::Core;
use super::output::Output;
use crate::canary::canary;
use crate::keys::Record;
use crate::keys::order::{OrderRecord, order};
use crate::model::id::RequestId;
use crate::model::limits::ORDERS_KEPT;
use crate::model::request::Caller;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Orders {
    next: u64,
    /// From the oldest to the newest.
    kept: VecDeque<RequestId>,
    known: BTreeSet<RequestId>,
}

impl Orders {
    pub(super) fn restore(mut rows: Vec<OrderRecord>) -> Self {
        rows.sort_unstable_by_key(|row| row.number);
        let mut orders = Self::default();
        for row in rows {
            orders.next = row.number + 1;
            orders.keep(row.request_id);
        }
        orders
    }

    fn keep(&mut self, request_id: RequestId) {
        self.kept.push_back(request_id);
        self.known.insert(request_id);
        if self.kept.len() as u64 > ORDERS_KEPT
            && let Some(oldest) = self.kept.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

impl Core {
    /// Whether this order was carried out before (N1).
    pub(super) fn was_ordered(&self, caller: &Caller) -> bool {
        self.orders.known.contains(&caller.request_id)
            && !canary!("a late copy of an order acts again")
    }

    /// An order is carried out. Call it in the transition that does it (N2).
    pub(super) fn remember_order(&mut self, caller: &Caller, out: &mut Output) {
        let request_id = caller.request_id;
        if request_id == RequestId::default() || self.was_ordered(caller) {
            return;
        }
        let number = self.orders.next;
        self.orders.next += 1;
        self.orders.keep(request_id);
        let record = OrderRecord { number, request_id };
        out.put(Space::Lasting, order(number), record.to_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_orders_are_known_and_older_ones_are_not() {
        let rows = |from: u64| {
            let row =
                |number| OrderRecord { number, request_id: RequestId(u128::from(number) + 1) };
            (from..from + ORDERS_KEPT).map(row).collect::<Vec<_>>()
        };
        let mut rows = rows(100);
        rows.rotate_left(50); // as they lie in the ring
        let mut orders = Orders::restore(rows);
        assert_eq!(orders.next, 100 + ORDERS_KEPT);
        assert!(orders.known.contains(&RequestId(101)));
        orders.keep(RequestId(1));
        assert!(!orders.known.contains(&RequestId(101)));
        assert!(orders.known.contains(&RequestId(102)));
        assert_eq!(orders.kept.len(), orders.known.len());
    }
}
