//! Acts: what operators did, recorded in the batch that does it, so that there is none without the
//! other.
//!
//! They are kept as long as dead letters (30 days by default) and then deleted, from the oldest on,
//! behind a cursor that is kept in the mark: no scan starts where deletes happened.

use std::time::Duration;

use stepwell_storage::Space;

use super::Core;
use super::output::{Output, Read};
use crate::canary::canary;
use crate::keys::{self, ActRecord, Record};
use crate::model::dead::ActKind;
use crate::model::id::RunId;
use crate::model::request::Caller;
use crate::model::time::Time;

/// Acts looked at in one transition.
const PAGE: usize = 256;
/// How often it is looked whether acts are old enough.
const INTERVAL: Duration = Duration::from_secs(60);
/// Bits of an act's number that count within one opening of the store.
const COUNT_BITS: u32 = 24;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Acts {
    given: u64,
    /// No act is stored before this instant.
    pub(super) cursor: Time,
    next_look: Duration,
    reading: bool,
}

impl Acts {
    pub(super) fn open(cursor: Time) -> Self {
        Self { cursor, ..Self::default() }
    }
}

impl Core {
    /// No act is stored before this instant, for listings.
    pub fn acts_from(&self) -> Time {
        self.acts.cursor
    }

    /// Records what an operator does: on a run, or on something else that has a name. Call it in
    /// the transition that does it.
    pub(super) fn record_act(
        &mut self,
        caller: &Caller,
        kind: ActKind,
        (run, subject): (Option<RunId>, String),
        detail: String,
        out: &mut Output,
    ) {
        if canary!("an act is not recorded") {
            return;
        }
        self.acts.given += 1;
        let number = self.epoch << COUNT_BITS | self.acts.given;
        let record = ActRecord {
            namespace: caller.namespace,
            principal: caller.principal.clone(),
            kind,
            run,
            subject,
            detail,
            request_id: caller.request_id,
        };
        let at = self.now();
        if at < self.acts.cursor {
            self.acts.cursor = at;
            self.mark_dirty = true;
        }
        out.put(Space::Lasting, keys::act(at, number), record.to_bytes());
    }

    /// Looks for acts that are old enough to go.
    pub(super) fn forget_acts(&mut self, out: &mut Output) {
        let due = self.acts.cursor.after(self.dead_retention()) <= self.now();
        // One after the other: a generation that is being emptied is read page by page.
        let is_busy = self.acts.reading || self.cleaner.is_at_work();
        if self.mono < self.acts.next_look || is_busy || !due {
            return;
        }
        self.acts.reading = true;
        out.read(Read::Acts { from: self.acts.cursor, limit: PAGE });
    }

    /// Deletes those that are.
    pub(super) fn acts_loaded(&mut self, rows: Vec<(Time, u64)>, end: bool, out: &mut Output) {
        let now = self.now();
        let kept = self.dead_retention();
        let old = |at: Time| at.after(kept) <= now;
        self.acts.reading = false;
        let found = rows.len();
        let gone: Vec<(Time, u64)> = rows.into_iter().filter(|(at, _)| old(*at)).collect();
        let all_old = gone.len() == found;
        let last = gone.last().map(|(at, _)| *at);
        for (at, number) in gone {
            out.delete(Space::Lasting, keys::act(at, number));
        }
        // Behind the end none is old enough before a whole retention has passed since now.
        let oldest_kept = Time(now.0.saturating_sub(kept.as_millis() as u64));
        self.acts.cursor = match (all_old && !end, last) {
            (true, Some(last)) => self.acts.cursor.max(last),
            _ => self.acts.cursor.max(oldest_kept),
        };
        if last.is_some() {
            self.mark_dirty = true;
        }
        if end || !all_old {
            self.acts.next_look = self.mono + INTERVAL;
        }
    }
}
