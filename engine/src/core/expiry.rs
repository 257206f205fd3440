//! What is deleted when its time is over: unique keys that were held for a time, batches that ended
//! long ago, results for memo keys.
//!
//! Each has a row under its instant, behind a mark before which there is none. When the first is
//! due, and at most once a minute, the engine looks behind the mark, [`PAGE`] rows at a time until
//! no more are due, so that the work is bounded by what expires and no scan passes over what was
//! deleted before. Nothing depends on it: a key or a result that has expired counts as gone,
//! whether its row is there or not; a batch that has ended is found until its row is deleted.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Core;
use super::output::{Output, StoreRead};
use super::unique::KeyId;
use crate::model::time::Time;
use crate::tables::expiry::{Expires, Expiry, ExpiryMark, ExpiryMarkKey};
use crate::tables::{Empty, EndedBatchKey, MemoResultKey, UniqueHolderKey};

/// Rows deleted in one transition at most.
const PAGE: usize = 256;
/// How often it is looked what has expired.
const INTERVAL: Duration = Duration::from_secs(60);

/// Looks for what has expired, a page at a time.
#[derive(Debug, Default)]
pub(super) struct Expiries {
    next_look: Duration,
    /// When the first one is due: at the end of time if there is none; none if that was not read to
    /// the end.
    first: Option<Time>,
    reading: bool,
    /// The first of those that were added while a page was being read.
    added: Option<Time>,
    /// What got a new row while a page was being read: what the page says of it may be old.
    renewed: BTreeSet<(Expires, KeyId)>,
}

impl Expiries {
    pub(super) fn opened(first: Option<Time>) -> Self {
        Self { first: Some(first.unwrap_or(Time(u64::MAX))), ..Self::default() }
    }
}

impl Core {
    /// Something will expire; never, at the instant zero.
    pub(super) fn expires(&mut self, row: Expiry, out: &mut Output) {
        if self.expiries.reading {
            self.expiries.renewed.insert((row.what, (row.namespace, row.hash)));
        }
        if row.at > Time(0) {
            self.expiries.first = self.expiries.first.map(|first| first.min(row.at));
            if self.expiries.reading {
                let added = &mut self.expiries.added;
                *added = Some(added.map_or(row.at, |added| added.min(row.at)));
            }
            out.put(&row, &Empty);
        }
    }

    pub(super) fn expires_at(&self) -> Option<Duration> {
        if self.expiries.reading {
            return None;
        }
        let due = match self.expiries.first {
            Some(Time(u64::MAX)) => return None,
            Some(first) => self.mono + first.since(self.now()),
            None => self.mono,
        };
        Some(due.max(self.expiries.next_look))
    }

    /// Looks what has expired, if it is time.
    pub(super) fn expire(&mut self, out: &mut Output) {
        if self.expires_at().is_none_or(|at| self.mono < at) {
            return;
        }
        self.expiries.next_look = self.mono + INTERVAL;
        self.read_expired(out);
    }

    fn read_expired(&mut self, out: &mut Output) {
        self.expiries.reading = true;
        out.read(StoreRead::Expired { until: self.now(), limit: PAGE });
    }

    /// Deletes what has expired; `first` is what expires next, if all of it was read.
    pub(super) fn expired_loaded(
        &mut self,
        rows: Vec<Expiry>,
        first: Option<Time>,
        out: &mut Output,
    ) {
        self.expiries.reading = false;
        let added = self.expiries.added.take().unwrap_or(Time(u64::MAX));
        self.expiries.first = first.map(|first| first.min(added));
        let renewed = std::mem::take(&mut self.expiries.renewed);
        let Some(last) = rows.last().copied() else {
            return;
        };
        for row in rows {
            out.delete(&row);
            if renewed.contains(&(row.what, (row.namespace, row.hash))) {
                continue;
            }
            let Expiry { namespace, hash, .. } = row;
            match row.what {
                Expires::Unique => out.delete(&UniqueHolderKey { namespace, hash }),
                Expires::Batch => out.delete(&EndedBatchKey { namespace, hash }),
                Expires::Memo => out.delete(&MemoResultKey { namespace, hash }),
            }
        }
        out.put(&ExpiryMarkKey, &ExpiryMark { at: last.at });
        if first.is_none() {
            self.read_expired(out);
        }
    }
}
