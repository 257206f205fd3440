//! The audit log: what operators did, recorded in the batch that does it, so that there is none
//! without the other.
//!
//! They are kept as long as dead letters (30 days by default) and then deleted, from the oldest on,
//! behind a cursor that is kept in the mark: no scan starts where deletes happened.

use std::time::Duration;

use super::Core;
use super::output::{Output, StoreRead};
use crate::canary::canary;
use crate::model::dead::AuditAction;
use crate::model::id::RunId;
use crate::model::request::Caller;
use crate::model::time::Time;
use crate::tables::{AuditKey, AuditRecord};

/// Entries looked at in one transition.
const PAGE: usize = 256;
/// How often the engine looks for entries that are old enough to go.
const INTERVAL: Duration = Duration::from_secs(60);
/// Bits of an entry's number that count within one opening of the store.
const COUNT_BITS: u32 = 24;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct AuditLog {
    given: u64,
    /// No entry is stored before this instant.
    pub(super) cursor: Time,
    next_look: Duration,
    reading: bool,
}

impl AuditLog {
    pub(super) fn open(cursor: Time) -> Self {
        Self { cursor, ..Self::default() }
    }
}

impl Core {
    /// No entry is stored before this instant, for listings.
    pub fn audit_from(&self) -> Time {
        self.audit.cursor
    }

    /// Records what an operator does: on a run, or on something else that has a name. Call it in
    /// the transition that does it.
    pub(super) fn record_audit(
        &mut self,
        caller: &Caller,
        kind: AuditAction,
        (run, subject): (Option<RunId>, String),
        detail: String,
        out: &mut Output,
    ) {
        if canary!("an audit entry is not recorded") {
            return;
        }
        self.audit.given += 1;
        let number = self.epoch << COUNT_BITS | self.audit.given;
        let record = AuditRecord {
            namespace: caller.namespace,
            principal: caller.principal.clone(),
            kind,
            run,
            subject,
            detail,
            request_id: caller.request_id,
        };
        let at = self.now();
        if at < self.audit.cursor {
            self.audit.cursor = at;
            self.mark_dirty = true;
        }
        out.put(&AuditKey { at, number }, &record);
    }

    /// Looks for entries that are old enough to go.
    pub(super) fn forget_audit(&mut self, out: &mut Output) {
        let due = self.audit.cursor.after(self.dead_retention()) <= self.now();
        // One after the other: a generation that is being emptied is read page by page.
        let is_busy = self.audit.reading || self.cleaner.is_at_work();
        if self.mono < self.audit.next_look || is_busy || !due {
            return;
        }
        self.audit.reading = true;
        out.read(StoreRead::Audit { from: self.audit.cursor, limit: PAGE });
    }

    /// Deletes those that are.
    pub(super) fn audit_loaded(&mut self, rows: Vec<(Time, u64)>, end: bool, out: &mut Output) {
        let now = self.now();
        let kept = self.dead_retention();
        let old = |at: Time| at.after(kept) <= now;
        self.audit.reading = false;
        let found = rows.len();
        let gone: Vec<(Time, u64)> = rows.into_iter().filter(|(at, _)| old(*at)).collect();
        let all_old = gone.len() == found;
        let last = gone.last().map(|(at, _)| *at);
        for (at, number) in gone {
            out.delete(&AuditKey { at, number });
        }
        // Behind the end none is old enough before a whole retention has passed since now.
        let oldest_kept = Time(now.0.saturating_sub(kept.as_millis() as u64));
        self.audit.cursor = match (all_old && !end, last) {
            (true, Some(last)) => self.audit.cursor.max(last),
            _ => self.audit.cursor.max(oldest_kept),
        };
        if last.is_some() {
            self.mark_dirty = true;
        }
        if end || !all_old {
            self.audit.next_look = self.mono + INTERVAL;
        }
    }
}
