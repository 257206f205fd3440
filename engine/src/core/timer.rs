//! Timers: a window in memory over the stored ones of waiting runs, and those of leased runs.
//!
//! A waiting run has one stored timer, its earliest; one that waits for memo keys has it at the end
//! of time (`memo.rs`). When that is due the run becomes queued; which of its timers are due is
//! decided when it is leased. Timers never fire early in engine time (T1).

use std::collections::{BTreeMap, BTreeSet};

use super::Core;
use super::output::{Output, StoreRead};
use crate::canary::canary;
use crate::model::entry::{Entry, TimerFired};
use crate::model::id::RunNo;
use crate::model::run::RunState;
use crate::model::time::Time;
use crate::tables::{TimerKey, TimerRecord};

/// Stored timers held in memory at most.
const WINDOW_MAX: usize = 4_096;
/// With fewer, more are read.
const WINDOW_LOW: usize = 512;
/// So late, for the canary that is late.
const LATE: std::time::Duration = std::time::Duration::from_secs(20);
/// Timers fired in one transition at most.
const FIRE_MAX: usize = 256;

/// The earliest stored timers.
#[derive(Debug)]
pub(super) struct Timers {
    window: BTreeMap<(Time, RunNo), TimerRecord>,
    /// All stored timers before this one are in the window.
    read_to: (Time, RunNo),
    /// Whether there are none behind `read_to`.
    tail_in_memory: bool,
    reading: bool,
    /// Timers were stored behind `read_to` while a read was under way: its end is not the end.
    grown: bool,
    /// What was stored behind `read_to` while a read was under way, which may have been too early
    /// to see it.
    late: BTreeMap<(Time, RunNo), TimerRecord>,
    /// What was taken away behind `read_to` while a read was under way, which may have seen it.
    gone: BTreeSet<(Time, RunNo)>,
    /// No stored timer is before this instant.
    cursor: Time,
}

impl Timers {
    /// A window that begins at the stored cursor.
    pub(super) fn open(cursor: Time) -> Self {
        Self {
            window: BTreeMap::new(),
            read_to: (cursor, RunNo(0)),
            tail_in_memory: false,
            reading: false,
            grown: false,
            late: BTreeMap::new(),
            gone: BTreeSet::new(),
            cursor,
        }
    }

    /// The instant before which there are no stored timers.
    pub(super) fn cursor(&self) -> Time {
        self.window.keys().next().map_or(self.cursor, |(due, _)| self.cursor.min(*due))
    }

    /// How many are in memory.
    pub(super) fn len(&self) -> usize {
        self.window.len() + self.late.len()
    }

    /// When to look next; at once if timers must be read first.
    pub(super) fn next_due(&self) -> Option<Time> {
        let must_read = !self.tail_in_memory && !self.reading && self.window.len() < WINDOW_LOW;
        if must_read {
            return Some(Time(0));
        }
        let late = canary!("a timer fires late");
        let noticed = |due: Time| if late { due.after(LATE) } else { due };
        let first = self.window.keys().next().map(|(due, _)| *due);
        first.filter(|due| *due < Time::NEVER).map(noticed)
    }

    /// The timers in memory.
    #[cfg(any(test, feature = "inspect"))]
    pub(super) fn keys(&self) -> impl Iterator<Item = (Time, RunNo)> + '_ {
        for key in self.window.keys() {
            assert!(
                self.tail_in_memory || *key < self.read_to,
                "the timers in memory are those read"
            );
        }
        self.window.keys().copied()
    }

    fn insert(&mut self, key: (Time, RunNo), record: TimerRecord) {
        self.cursor = self.cursor.min(key.0);
        if key < self.read_to || (self.tail_in_memory && self.window.len() < WINDOW_MAX) {
            self.window.insert(key, record);
        } else if self.tail_in_memory {
            // From here on the window ends where its last timer does.
            self.tail_in_memory = false;
            self.read_to =
                self.window.keys().next_back().map_or(self.read_to, |(t, r)| (*t, RunNo(r.0 + 1)));
            if key < self.read_to {
                self.window.insert(key, record);
            }
        } else {
            self.grown = true;
            if self.reading {
                self.gone.remove(&key);
                self.late.insert(key, record);
            }
        }
    }

    fn remove(&mut self, key: (Time, RunNo)) {
        self.window.remove(&key);
        self.late.remove(&key);
        if self.reading {
            self.gone.insert(key);
        }
    }

    fn loaded(&mut self, rows: Vec<(Time, RunNo, TimerRecord)>, end: bool) {
        self.reading = false;
        if let Some((due, no, _)) = rows.last() {
            self.read_to = self.read_to.max((*due, RunNo(no.0 + 1)));
        }
        self.tail_in_memory = end && !self.grown;
        let gone = std::mem::take(&mut self.gone);
        let read = rows
            .into_iter()
            .map(|(due, no, record)| ((due, no), record))
            .filter(|(key, _)| !gone.contains(key));
        self.window.extend(read);
        let late = std::mem::take(&mut self.late);
        self.window.extend(late.into_iter().filter(|(key, _)| *key < self.read_to));
    }
}

impl Core {
    /// Stores the timer of a waiting run.
    pub(super) fn arm_stored(
        &mut self,
        due: Time,
        no: RunNo,
        record: TimerRecord,
        out: &mut Output,
    ) {
        out.put(&TimerKey { due, run: no }, &record);
        if due < self.mark.timers {
            self.mark_dirty = true;
        }
        self.timers.insert((due, no), record);
    }

    /// Takes the stored timer of a waiting run away.
    pub(super) fn disarm_stored(&mut self, due: Time, no: RunNo, out: &mut Output) {
        out.delete(&TimerKey { due, run: no });
        self.timers.remove((due, no));
    }

    /// Arms the timers of a run that is leased now.
    pub(super) fn arm_timers(&mut self, no: RunNo) {
        let Some(run) = self.leases.get(&no).and_then(|lease| lease.run.as_ref()) else {
            return;
        };
        self.armed.extend(run.commands.timers().map(|(number, due)| (due, no, number)));
    }

    /// Fires what is due for leased runs.
    pub(super) fn fire_armed(&mut self, out: &mut Output) {
        let (now, limits) = (self.now(), self.settings.limits);
        for _ in 0..FIRE_MAX {
            let Some((due, no, number)) =
                self.armed.first().copied().filter(|(due, _, _)| *due <= now)
            else {
                return;
            };
            assert!(due <= now, "T1: no timer fires early");
            self.armed.pop_first();
            let Some(lease) = self.leases.get_mut(&no) else {
                continue;
            };
            let Some(run) = &mut lease.run else {
                continue;
            };
            if run.commands.open(number).is_none_or(|open| open.due != Some(due)) {
                continue; // a cancel request came before it
            }
            let entry = Entry::from(TimerFired { at: now, number });
            let index = out.append(run, &entry);
            Self::warn_if_long(run, limits, out);
            lease.made_progress();
            if canary!("the worker is not told of its timer") {
                continue;
            }
            if let Some(session) = lease.holder {
                Self::tell(session, (no, lease.record.token), index, &entry, out);
            }
        }
    }

    /// Queues waiting runs whose timer is due, and reads further timers.
    pub(super) fn fire_timers(&mut self, out: &mut Output) {
        let now = self.now();
        for _ in 0..FIRE_MAX {
            let Some(entry) = self.timers.window.first_entry().filter(|entry| {
                let early = canary!("a delayed run starts early") && entry.get().delayed;
                let due = entry.key().0;
                let late = canary!("a timer fires late") && due.after(LATE) > now;
                (due <= now && !late) || early
            }) else {
                break;
            };
            let ((due, no), record) = entry.remove_entry();
            self.timers.cursor = self.timers.cursor.max(due);
            out.delete(&TimerKey { due, run: no });
            self.changed_while_read(no);
            let from = if record.delayed && !canary!("a delayed run is counted as a suspended one")
            {
                RunState::Delayed
            } else {
                RunState::Suspended
            };
            self.becomes_queued(record.queue, from);
            let needs = (record.workflow, record.tags);
            let item = self.arrival(no, record.queue, record.priority, needs);
            self.enqueue_item(item, out);
        }
        let timers = &mut self.timers;
        if !timers.tail_in_memory && !timers.reading && timers.window.len() < WINDOW_LOW {
            timers.reading = true;
            timers.grown = false;
            out.read(StoreRead::Timers { from: timers.read_to, limit: WINDOW_MAX - WINDOW_LOW });
        }
    }

    pub(super) fn timers_loaded(&mut self, rows: Vec<(Time, RunNo, TimerRecord)>, end: bool) {
        self.timers.loaded(rows, end);
    }
}
