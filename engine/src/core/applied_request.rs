//! Operator requests about queues and schedules: each takes effect once, however often it
//! arrives.
//!
//! What is done with a run is remembered in its journal. A queue and a schedule have none, and a
//! schedule may be gone when a copy of an old request about it comes: by itself after a lost
//! connection, or late, over another one. So the ids of the last [`APPLIED_REQUESTS_KEPT`] requests
//! are remembered by the engine, each in a slot of a ring that is written in the batch that applies
//! the request. A copy is answered with how things are now.
//!
//! ```text
//!   pause (cmd 1) ──► paused      resume (cmd 2) ──► goes on      pause (cmd 1), late ──► goes on
//! ```
//!
//! # Invariants
//!
//! - **N1** A request that is among the last applied ones changes nothing when it comes again.
//! - **N2** What a request changes and that it was applied is written in one batch.
//!
//! A request that was refused changed nothing and is not remembered. One that never arrived takes
//! effect when it does, however late. A caller whose request id is zero has named none, and each of
//! its requests is a new one.

use std::collections::{BTreeSet, VecDeque};

use super::Core;
use super::output::Output;
use crate::canary::canary;
use crate::model::id::RequestId;
use crate::model::limits::APPLIED_REQUESTS_KEPT;
use crate::model::request::Caller;
use crate::tables::AppliedRequestKey;
use crate::tables::applied_request::AppliedRequestRecord;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct AppliedRequests {
    next: u64,
    /// From the oldest to the newest.
    kept: VecDeque<RequestId>,
    known: BTreeSet<RequestId>,
}

impl AppliedRequests {
    pub(super) fn restore(mut rows: Vec<AppliedRequestRecord>) -> Self {
        rows.sort_unstable_by_key(|row| row.number);
        let mut applied = Self::default();
        for row in rows {
            applied.next = row.number + 1;
            applied.keep(row.request_id);
        }
        applied
    }

    fn keep(&mut self, request_id: RequestId) {
        self.kept.push_back(request_id);
        self.known.insert(request_id);
        if self.kept.len() as u64 > APPLIED_REQUESTS_KEPT
            && let Some(oldest) = self.kept.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

impl Core {
    /// Whether this request was applied before (N1).
    pub(super) fn was_applied(&self, caller: &Caller) -> bool {
        self.applied.known.contains(&caller.request_id)
            && !canary!("a late copy of a request acts again")
    }

    /// A request is applied. Call it in the transition that does it (N2).
    pub(super) fn remember_applied(&mut self, caller: &Caller, out: &mut Output) {
        let request_id = caller.request_id;
        if request_id == RequestId::default() || self.was_applied(caller) {
            return;
        }
        let number = self.applied.next;
        self.applied.next += 1;
        self.applied.keep(request_id);
        let record = AppliedRequestRecord { number, request_id };
        out.put(&AppliedRequestKey::of(number), &record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_applied_requests_are_known_and_older_ones_are_not() {
        let rows = |from: u64| {
            let row = |number| AppliedRequestRecord {
                number,
                request_id: RequestId(u128::from(number) + 1),
            };
            (from..from + APPLIED_REQUESTS_KEPT).map(row).collect::<Vec<_>>()
        };
        let mut rows = rows(100);
        rows.rotate_left(50); // as they lie in the ring
        let mut applied = AppliedRequests::restore(rows);
        assert_eq!(applied.next, 100 + APPLIED_REQUESTS_KEPT);
        assert!(applied.known.contains(&RequestId(101)));
        applied.keep(RequestId(1));
        assert!(!applied.known.contains(&RequestId(101)));
        assert!(applied.known.contains(&RequestId(102)));
        assert_eq!(applied.kept.len(), applied.known.len());
    }
}
