//! Runs that sleep until something becomes of memo keys: a slot is not held for a wait.
//!
//! ```text
//!   asks ──► waits in line ── a moment ──► suspended: a row at the end of time names its keys
//!     ▲                                      │ a key is free: one run is woken each second
//!     │                                      │ a key has a result: all are woken, some at a time
//!     └── running ◄── queued ◄───────────────┘ its own instant is due, it is cancelled
//! ```
//!
//! A run that is woken is promised nothing: it asks like any other, and may find that another run
//! came before it. It may come late (its queue is paused, all slots are taken) or not at all (it
//! was cancelled): therefore others are woken meanwhile. In memory are the keys of each run and
//! nothing else of it: to be woken, it is read.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Known, Memos};
use crate::canary::canary;
use crate::core::Core;
use crate::core::load::Want;
use crate::core::output::{Output, StoreRead};
use crate::core::run::RunImage;
use crate::core::unique::KeyId;
use crate::model::id::{MemoKey, RunNo};
use crate::model::run::RunState;
use crate::model::time::Time;
use crate::tables::TimerRecord;
use crate::tables::memo::MemoWait;
use crate::wire::message::TurnSuspended;

/// Runs that are read at a time to be woken.
const WAKING_MAX: usize = 64;
/// Rows read at a time after an opening.
const PAGE: usize = 256;
/// While a key stays free, another run is woken after this time.
const CALL_AGAIN: Duration = Duration::from_secs(1);

/// Runs that sleep, by the keys that wake them.
#[derive(Debug, Default)]
pub(super) struct Sleepers {
    /// Each of its keys.
    runs: BTreeSet<(RunNo, KeyId)>,
    /// When a run is woken whatever becomes of its keys.
    dues: BTreeMap<RunNo, Time>,
    next_due: BTreeSet<(Time, RunNo)>,
    /// Keys with a result whose sleeping runs are still to be woken.
    pub(super) keys_to_wake: BTreeSet<KeyId>,
    /// Runs to be woken because what is stored of their key cannot be read.
    runs_to_wake: BTreeSet<RunNo>,
    /// Runs that are being read to be woken.
    waking: BTreeSet<RunNo>,
    /// When keys that are free call another run.
    pub(super) calls: BTreeSet<(Duration, KeyId)>,
    /// Nobody is called before: whoever made an attempt when the engine ended may come back and ask
    /// again.
    calls_from: Duration,
    restore: Restore,
}

/// What was asleep when the engine ended.
#[derive(Debug, Default)]
struct Restore {
    from: RunNo,
    reading: bool,
    done: bool,
    /// Keys of the last page that are being read.
    keys: BTreeSet<KeyId>,
    /// Runs woken while a page was being read, which may have seen them asleep.
    gone: BTreeSet<RunNo>,
}

impl Sleepers {
    fn has_room(&self) -> bool {
        self.waking.len() < WAKING_MAX
    }

    fn may_read(&self) -> bool {
        let restore = &self.restore;
        !restore.done && !restore.reading && restore.keys.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.runs.len()
    }

    /// A key has been read.
    pub(super) fn key_is_read(&mut self, key_id: KeyId) {
        self.restore.keys.remove(&key_id);
    }
}

impl Memos {
    /// Whether runs are to be woken, or read, now.
    pub(super) fn has_to_wake(&self) -> bool {
        let asleep = &self.asleep;
        let some = !asleep.keys_to_wake.is_empty() || !asleep.runs_to_wake.is_empty();
        (some && asleep.has_room()) || asleep.may_read()
    }

    /// When a run is woken by its instant.
    pub(in crate::core) fn next_due(&self) -> Option<Time> {
        let first = self.asleep.next_due.first().map(|(due, _)| *due);
        first.filter(|_| self.asleep.has_room())
    }

    /// When a key that is free calls another run.
    pub(in crate::core) fn calls_at(&self) -> Option<Duration> {
        let first = self.asleep.calls.first().map(|(at, _)| *at);
        first.filter(|_| self.asleep.has_room())
    }

    /// Whether a run sleeps, by what is in memory, or is on its way to be woken, or is yet to be
    /// read.
    #[cfg(any(test, feature = "inspect"))]
    pub(in crate::core) fn knows_sleeper(&self, run: RunNo) -> bool {
        let asleep = &self.asleep;
        self.knows(run)
            || asleep.waking.contains(&run)
            || asleep.runs_to_wake.contains(&run)
            || !asleep.restore.done
    }

    /// Workers that held something when the engine ended may come back until then.
    pub(in crate::core) fn call_from(&mut self, mono: Duration) {
        self.asleep.calls_from = mono;
    }

    fn knows(&self, run: RunNo) -> bool {
        let first = self.asleep.runs.range((run, FIRST)..).next();
        first.is_some_and(|(of, _)| *of == run)
    }

    fn falls_asleep(&mut self, run: RunNo, key_id: KeyId, out: &mut Output) {
        self.asleep.runs.insert((run, key_id));
        self.key(key_id, out).asleep.insert(run);
    }

    /// A run is woken by something, or is about to be.
    pub(in crate::core) fn wakes(&mut self, run: RunNo) {
        let asleep = &mut self.asleep;
        if asleep.restore.reading {
            asleep.restore.gone.insert(run);
        }
        if let Some(due) = asleep.dues.remove(&run) {
            asleep.next_due.remove(&(due, run));
        }
        while let Some((of, key_id)) = self.asleep.runs.range((run, FIRST)..).next().copied()
            && of == run
        {
            self.asleep.runs.remove(&(run, key_id));
            if let Some(key) = self.keys.get_mut(&key_id) {
                key.asleep.remove(&run);
            }
            self.forget(key_id);
        }
    }

    /// The reading of a run that was to be woken is over.
    pub(in crate::core) fn woken(&mut self, run: RunNo) {
        self.asleep.waking.remove(&run);
    }
}

/// Before all keys.
const FIRST: KeyId = (crate::model::id::Namespace(0), 0);

impl Core {
    /// The worker says that others make the attempts for which the run waits. If one of them may be
    /// made by it now, or has a result, it cannot know.
    pub(in crate::core) fn turn_waits_for_memo(
        &mut self,
        report: &TurnSuspended,
        seen_all: bool,
        out: &mut Output,
    ) {
        let (no, now) = (report.run, self.now());
        let waits = |number| self.memos.waits_at((no, number));
        let key_ids: Option<BTreeSet<KeyId>> = report.memos.iter().map(|n| waits(*n)).collect();
        let run = self.leases.get(&no).and_then(|held| held.run.as_ref());
        let instants = run.map(|run| run.commands.instants()).unwrap_or_default();
        let wakes_at = instants.range(report.wakes_at..Time::NEVER).next().copied();
        let key_ids = key_ids.filter(|_| seen_all && wakes_at.is_none_or(|at| at > now));
        for key_id in key_ids.iter().flatten() {
            self.memos.falls_asleep(no, *key_id, out); // before its places are passed on
        }
        let Some((lease, run)) = self.end_lease(no, out) else {
            return;
        };
        Self::end_turn(&lease, out);
        let queue = lease.record.queue;
        let Some(key_ids) = key_ids else {
            self.becomes_queued(queue, RunState::Running);
            return self.enqueue(&run, out);
        };
        self.sleeps_until(no, wakes_at);
        let memo = MemoWait {
            namespace: run.namespace,
            keys: key_ids.iter().map(|(_, hash)| MemoKey(*hash)).collect(),
            wakes_at,
        };
        let record = TimerRecord {
            workflow: run.workflow,
            queue,
            priority: lease.record.priority,
            delayed: false,
            tags: run.tags,
            memo: Some(memo),
        };
        self.arm_stored(Time::NEVER, no, record, out);
        self.shift(queue, RunState::Running, RunState::Suspended);
    }

    fn sleeps_until(&mut self, run: RunNo, wakes_at: Option<Time>) {
        if let Some(due) = wakes_at {
            self.memos.asleep.dues.insert(run, due);
            self.memos.asleep.next_due.insert((due, run));
        }
    }

    /// If no step makes an attempt at a key, and none in line could, one of the sleeping runs is
    /// woken (E6).
    pub(super) fn call_for_memo(&mut self, key_id: KeyId, out: &mut Output) {
        let (mono, calls_from) = (self.mono, self.memos.asleep.calls_from);
        let Some(key) = self.memos.keys.get_mut(&key_id) else {
            return;
        };
        let is_free = matches!(key.known, Known::Nothing) && key.holder.is_none();
        if !is_free || key.calls_at.is_some() {
            return;
        }
        let Some(run) = key.asleep.first().copied() else {
            return;
        };
        let again = match mono < calls_from {
            true => calls_from,
            false => mono + CALL_AGAIN,
        };
        key.calls_at = Some(again);
        self.memos.asleep.calls.insert((again, key_id));
        if mono >= calls_from {
            self.wake(run, out);
        }
    }

    fn wake(&mut self, run: RunNo, out: &mut Output) {
        self.memos.wakes(run);
        if canary!("a waiter of a memo key is never woken") {
            return;
        }
        self.memos.asleep.waking.insert(run);
        self.want(run, Want::Wake, out);
    }

    /// It has been read.
    pub(in crate::core) fn wake_loaded(&mut self, image: &RunImage, out: &mut Output) {
        let no = image.run.no;
        self.memos.woken(no);
        if image.run.ended.is_some() || image.sleeps != Some(Time::NEVER) {
            return; // something else has woken it
        }
        self.memos.wakes(no);
        self.disarm_stored(Time::NEVER, no, out);
        let queue = self.queue_number(&image.run.queue, out);
        self.becomes_queued(queue, RunState::Suspended);
        self.enqueue(&image.run, out);
    }

    /// Wakes some of those who are to be woken, and reads on after an opening.
    pub(in crate::core) fn wake_for_memos(&mut self, out: &mut Output) {
        let (now, mono) = (self.now(), self.mono);
        while self.memos.asleep.has_room()
            && let Some((at, key_id)) = self.memos.asleep.calls.first().copied()
            && at <= mono
        {
            self.memos.asleep.calls.remove(&(at, key_id));
            self.memos.stop_calling(key_id);
            self.call_for_memo(key_id, out);
        }
        while self.memos.asleep.has_room()
            && let Some((due, run)) = self.memos.asleep.next_due.first().copied()
            && due <= now
        {
            self.wake(run, out);
        }
        while self.memos.asleep.has_room()
            && let Some(run) = self.memos.asleep.runs_to_wake.pop_first()
        {
            self.wake(run, out);
        }
        while self.memos.asleep.has_room()
            && let Some(key_id) = self.memos.asleep.keys_to_wake.first().copied()
        {
            let key = self.memos.keys.get(&key_id);
            match key.and_then(|key| key.asleep.first().copied()) {
                Some(run) => self.wake(run, out),
                None => {
                    self.memos.asleep.keys_to_wake.remove(&key_id);
                    self.memos.forget(key_id);
                }
            }
        }
        self.read_memo_waits(out);
    }

    /// What is stored of a key cannot be read: the runs that sleep ask again, and are told.
    pub(super) fn wake_all(&mut self, runs: BTreeSet<RunNo>) {
        for run in runs {
            self.memos.wakes(run);
            self.memos.asleep.runs_to_wake.insert(run);
        }
    }

    fn read_memo_waits(&mut self, out: &mut Output) {
        if self.memos.asleep.may_read() {
            let restore = &mut self.memos.asleep.restore;
            restore.reading = true;
            out.read(StoreRead::MemoWaits { from: restore.from, limit: PAGE });
        }
    }

    /// Runs that slept when the engine ended. Those that have begun since are known.
    pub(in crate::core) fn memo_waits_loaded(
        &mut self,
        rows: Vec<(RunNo, Option<MemoWait>)>,
        end: bool,
        out: &mut Output,
    ) {
        let restore = &mut self.memos.asleep.restore;
        restore.reading = false;
        let gone = std::mem::take(&mut restore.gone);
        restore.done = end || canary!("who sleeps for a memo key is forgotten at a restart");
        if let Some((last, _)) = rows.last() {
            restore.from = RunNo(last.0 + 1);
            restore.done |= *last >= self.memos.opened_at;
        }
        if canary!("who sleeps for a memo key is forgotten at a restart") {
            return;
        }
        for (run, wait) in rows {
            let known = self.memos.knows(run) || self.memos.asleep.waking.contains(&run);
            let Some(wait) = wait.filter(|_| !known && !gone.contains(&run)) else {
                continue;
            };
            self.sleeps_until(run, wait.wakes_at);
            for key in wait.keys {
                let key_id = (wait.namespace, key.0);
                self.memos.falls_asleep(run, key_id, out);
                match self.memos.keys.get(&key_id).map(|key| &key.known) {
                    Some(Known::Reading(_)) => {
                        self.memos.asleep.restore.keys.insert(key_id);
                    }
                    _ => self.serve_memo(key_id, out),
                }
            }
        }
    }
}
