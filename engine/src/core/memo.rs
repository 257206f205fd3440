//! Memoized steps: the first result under a key is the result of every step with that key.
//!
//! A key is of a namespace. Its row names the first result: an entry in the journal of the run that
//! came to it, written in the batch of that entry. The row is kept for the retention, like a run
//! that ended at that instant. Which step makes an attempt and which ones wait a moment is in
//! memory only, so that a first result costs one small row and such a wait nothing.
//!
//! ```text
//!   worker                    core                                          store
//!     asks (before each ──► is the key in memory? ── no ──► read the row ──► read the result in its journal
//!     attempt)                 │                                              │
//!     may try ◄── none holds ──┤                  told of the first result ◄──┘
//!     body                     │ others wait, in line            ▲
//!     succeeded ─────────────► first: entry and row, one batch ──┴─► entries of those who wait, without an attempt
//!     failed, gone, dropped ─► the next in line may try
//! ```
//!
//! A run that waits for longer than a moment is suspended and holds no slot: see `asleep.rs`.
//!
//! What is told to a run is an entry of its own journal (attempt 0: it made none, or its own did
//! not count), so that each journal is whole by itself.
//!
//! After a restart of the engine nobody holds a key: a worker that makes an attempt asks again when
//! it comes back, but another one may hold the key by then. Then two bodies run, and the result
//! that is committed first is the result. A run that slept has a row, which is read then: its keys
//! are looked at as if it had just asked.
//!
//! # Invariants
//!
//! - **E1** A key has one result as long as its row counts: the row does not change before its
//!   instant.
//! - **E2** Whoever is told a result under a key is told that of its row; so is one that comes with
//!   another result.
//! - **E3** At most one step holds a key, and only while no result is known. If steps wait and
//!   nothing is read, one holds it.
//! - **E4** What holds a key or waits for it is a step without an outcome of a leased run. A step
//!   that waits has its worker here: one that comes back asks again.
//! - **E5** No place outlives its lease, and a key without places and without runs that sleep for
//!   it is not in memory.
//! - **E6** A run that sleeps for memo keys has one timer, at the end of time, whose row names
//!   them. Once the rows have been read after an opening, each of its keys knows it, or it is being
//!   woken. If a key that runs sleep for has no result, is not being read and is held by nobody,
//!   one of them has been woken within the last second; after an opening, once the workers that
//!   held something have had time to come back.
//! - **E7** If a key has a result, the runs that sleep for it are being woken, so many at a time;
//!   none of them waits for another one to do anything.

mod asleep;
#[cfg(any(test, feature = "inspect"))]
mod check;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use self::asleep::Sleepers;
use super::Core;
use super::output::{Note, Output, StoreRead};
use super::unique::KeyId;
use crate::model::entry::NOT_ATTEMPTED;
use crate::canary::canary;
use crate::model::entry::{Entry, SourceLocation, StepCompleted};
use crate::model::id::{CommandIndex, RunNo, SessionId, Token};
use crate::model::payload::Payload;
use crate::model::request::{Damaged, Refusal};
use crate::model::time::Time;
use crate::tables::MemoResultKey;
use crate::tables::expiry::{Expires, Expiry};
use crate::tables::memo::MemoRecord;
use crate::wire::message::{
    AttemptMemo, MemoReleased, MemoRequested, ReportRefused, StepCompletedReport,
};

/// Steps told of a result in one transition at most.
const TELL_MAX: usize = 64;
/// Bytes of results told in one transition, softly.
const TELL_BYTES_MAX: usize = 1 << 20;

/// A step of a run.
type StepRef = (RunNo, CommandIndex);

/// Keys that somebody holds or waits for.
#[derive(Debug, Default)]
pub(super) struct Memos {
    keys: BTreeMap<KeyId, Key>,
    /// Where each step that holds or waits is.
    key_ids: BTreeMap<StepRef, KeyId>,
    /// Keys with a result that some have not been told.
    telling: BTreeSet<KeyId>,
    asleep: Sleepers,
    /// The first run of this opening.
    opened_at: RunNo,
}

#[derive(Debug)]
struct Key {
    known: Known,
    holder: Option<WaitingStep>,
    waiting: VecDeque<WaitingStep>,
    /// Runs that sleep until something becomes of it.
    asleep: BTreeSet<RunNo>,
    /// It has called one of them, and calls the next one then if it is still free.
    calls_at: Option<Duration>,
    /// Until when a result counted that does so no more, and whose rows may be there.
    before: Option<Time>,
}

/// What is known of a key's result.
#[derive(Debug)]
enum Known {
    /// It is being read.
    Reading(Option<MemoRecord>),
    /// There is none.
    Nothing,
    /// This one.
    Result(Payload),
}

/// A step that holds a key or waits.
#[derive(Debug)]
struct WaitingStep {
    asker: StepRef,
    location: SourceLocation,
    /// It comes with a result, of which it is not known yet whether it is the first.
    done: Option<ReportedResult>,
}

/// A result as it was reported.
#[derive(Debug)]
struct ReportedResult {
    attempt: u32,
    output: Payload,
}

impl Memos {
    pub(super) fn opened_at(next: RunNo) -> Self {
        Self { opened_at: next, ..Self::default() }
    }

    /// How many steps hold a key or wait.
    pub(super) fn len(&self) -> usize {
        self.key_ids.len() + self.asleep.len()
    }

    /// Whether a result is to be told to more of the steps that wait.
    pub(super) fn has_news(&self) -> bool {
        !self.telling.is_empty() || self.has_to_wake()
    }

    /// The place of a step that waits in line for an attempt, neither making one nor about to be
    /// told of a result.
    fn waits_at(&self, asker: StepRef) -> Option<KeyId> {
        let key_id = self.key_ids.get(&asker)?;
        let key = self.keys.get(key_id)?;
        let holds = key.holder.as_ref().is_some_and(|held| held.asker == asker);
        let waits = !holds && !matches!(key.known, Known::Result(_));
        waits.then_some(*key_id)
    }

    /// What is known of a key; if nothing is, it is read.
    fn key(&mut self, (namespace, hash): KeyId, out: &mut Output) -> &mut Key {
        self.keys.entry((namespace, hash)).or_insert_with(|| {
            out.read(StoreRead::Memo { namespace, hash });
            Key {
                known: Known::Reading(None),
                holder: None,
                waiting: VecDeque::new(),
                asleep: BTreeSet::new(),
                calls_at: None,
                before: None,
            }
        })
    }

    fn stop_calling(&mut self, key_id: KeyId) {
        let key = self.keys.get_mut(&key_id);
        if let Some(at) = key.and_then(|key| key.calls_at.take()) {
            self.asleep.calls.remove(&(at, key_id));
        }
    }

    /// A run's worker is away: its steps leave their lines, and keep what they hold (E4).
    pub(super) fn stop_waiting(&mut self, run: RunNo) {
        for (asker, key_id) in self.of_run(run) {
            if let Some(key) = self.keys.get_mut(&key_id)
                && key.holder.as_ref().is_none_or(|held| held.asker != asker)
            {
                key.waiting.retain(|waiter| waiter.asker != asker);
                self.key_ids.remove(&asker);
                self.forget(key_id);
            }
        }
    }

    fn of_run(&self, run: RunNo) -> Vec<(StepRef, KeyId)> {
        let key_ids = self.key_ids.range((run, CommandIndex(0))..=(run, CommandIndex(u32::MAX)));
        key_ids.map(|(asker, key_id)| (*asker, *key_id)).collect()
    }

    /// Takes a step out of its place.
    fn remove(&mut self, asker: StepRef) -> Option<KeyId> {
        let key_id = self.key_ids.remove(&asker)?;
        if let Some(key) = self.keys.get_mut(&key_id) {
            key.waiting.retain(|waiter| waiter.asker != asker);
            let holds = key.holder.as_ref().is_some_and(|held| held.asker == asker);
            if holds && !canary!("a memo claim is not passed on") {
                key.holder = None;
            }
        }
        Some(key_id)
    }

    /// A key without places is not kept (E5), unless it is being read.
    fn forget(&mut self, key_id: KeyId) {
        let empty =
            |key: &Key| key.holder.is_none() && key.waiting.is_empty() && key.asleep.is_empty();
        let reading = |key: &Key| matches!(key.known, Known::Reading(_));
        if self.keys.get(&key_id).is_some_and(|key| empty(key) && !reading(key)) {
            self.stop_calling(key_id);
            self.keys.remove(&key_id);
            self.telling.remove(&key_id);
            self.asleep.keys_to_wake.remove(&key_id);
        }
    }
}

impl Core {
    /// A step wants to make an attempt. Asked again, it changes nothing.
    pub(super) fn memo_requested(
        &mut self,
        session: SessionId,
        ask: MemoRequested,
        out: &mut Output,
    ) {
        let MemoRequested { run, token, number, location, memo } = ask;
        let Some(lease) = self.current(session, run, token, out) else {
            return;
        };
        let Some(known) = &lease.run else { return };
        if known.commands.is_resolved(number) {
            self.counts.repeated += 1;
            return; // its worker has the entry, or gets it with those that it has missed
        }
        let (key, asker) = ((known.namespace, memo.0), (run, number));
        let waiter = WaitingStep { asker, location, done: None };
        match self.memos.key_ids.get(&asker) {
            Some(at) if *at == key => {
                let held = self.memos.keys.get(&key).and_then(|key| key.holder.as_ref());
                if held.is_some_and(|held| held.asker == asker) {
                    out.send(session, AttemptMemo { run, token, number });
                }
            }
            _ => {
                self.leave_memo(asker, out);
                self.wait_for_memo(key, waiter, out);
            }
        }
    }

    /// An attempt is not made, or no longer.
    pub(super) fn memo_released(
        &mut self,
        session: SessionId,
        report: &MemoReleased,
        out: &mut Output,
    ) {
        let (run, token, number) = (report.run, report.token, report.number);
        if self.current(session, run, token, out).is_some() {
            self.leave_memo((run, number), out);
            out.send(session, MemoReleased { run, token, number });
        }
    }

    /// A step has come to a result. If it is not known whether another one was first, that is read
    /// before (E1).
    pub(super) fn memo_completed(&mut self, report: StepCompletedReport, out: &mut Output) {
        let asker = (report.run, report.number);
        let lease = self.leases.get(&report.run);
        let namespace = lease.and_then(|lease| lease.run.as_ref().map(|run| run.namespace));
        let (Some(namespace), Some(memo)) = (namespace, report.memo) else {
            return;
        };
        let key = (namespace, memo.0);
        let waiter = WaitingStep {
            asker,
            location: report.location,
            done: Some(ReportedResult { attempt: report.attempt, output: report.output }),
        };
        if canary!("the second result of a memo key counts") {
            self.memos.remove(asker);
            return self.first_result(key, waiter, out);
        }
        // A place that it has already is taken by the same step with its result.
        if let Some(before) = self.memos.remove(asker)
            && before != key
        {
            self.pass_on(before, out);
        }
        self.wait_for_memo(key, waiter, out);
    }

    fn wait_for_memo(&mut self, key_id: KeyId, waiter: WaitingStep, out: &mut Output) {
        self.memos.key_ids.insert(waiter.asker, key_id);
        self.memos.key(key_id, out).waiting.push_back(waiter);
        self.serve_memo(key_id, out);
    }

    /// A step's attempt has ended without a result, or is not made.
    pub(super) fn leave_memo(&mut self, asker: StepRef, out: &mut Output) {
        if let Some(key_id) = self.memos.remove(asker) {
            self.pass_on(key_id, out);
        }
    }

    /// The lease of a run is over, and so are its places (E5).
    pub(super) fn leave_memos(&mut self, run: RunNo, out: &mut Output) {
        let key_ids = self.memos.of_run(run);
        for (asker, _) in &key_ids {
            self.memos.remove(*asker); // all of them first, so that none is passed on to another of the same run
        }
        for (_, key_id) in key_ids {
            self.pass_on(key_id, out);
        }
    }

    fn pass_on(&mut self, key_id: KeyId, out: &mut Output) {
        let key = self.memos.keys.get(&key_id);
        if key.is_some_and(|key| matches!(key.known, Known::Nothing)) {
            self.attempt_next_memo(key_id, out);
        }
        self.memos.forget(key_id);
    }

    pub(super) fn memo_loaded(
        &mut self,
        key_id: KeyId,
        found: Result<Option<MemoRecord>, String>,
        out: &mut Output,
    ) {
        let forgotten = |row: &MemoRecord| {
            canary!("a memo key is forgotten at a restart") && row.run < self.memos.opened_at
        };
        let found = found.map(|row| row.filter(|row| !forgotten(row)));
        self.memos.asleep.key_is_read(key_id);
        let now = self.now();
        let Some(key) = self.memos.keys.get_mut(&key_id) else {
            return;
        };
        match found {
            Ok(Some(row)) if row.until > now => {
                key.known = Known::Reading(Some(row));
                let (namespace, hash) = key_id;
                out.read(StoreRead::MemoResult {
                    namespace,
                    hash,
                    run: row.run,
                    birth: self.birth_of(row.run),
                    entry: row.entry,
                });
            }
            Ok(before) => {
                (key.known, key.before) = (Known::Nothing, before.map(|row| row.until));
                self.serve_memo(key_id, out);
            }
            Err(what) => self.memo_unreadable(key_id, &what, out),
        }
    }

    pub(super) fn memo_result_loaded(
        &mut self,
        key_id: KeyId,
        found: Result<Option<Payload>, String>,
        out: &mut Output,
    ) {
        let Some(key) = self.memos.keys.get_mut(&key_id) else {
            return;
        };
        let Known::Reading(Some(row)) = &key.known else {
            return;
        };
        let (run, until) = (row.run, row.until);
        match found {
            Ok(Some(output)) => key.known = Known::Result(output),
            // The run has outlived its retention: that was longer when the row was written.
            Ok(None) => (key.known, key.before) = (Known::Nothing, Some(until)),
            Err(what) => {
                let note = format!("it holds the first result for a memo key: {what}");
                out.note(Note::Damaged { run, what: note });
                return self.memo_unreadable(key_id, &what, out);
            }
        }
        self.serve_memo(key_id, out);
    }

    /// What is stored of a key cannot be read: the attempts fail, and may be made again.
    fn memo_unreadable(&mut self, key_id: KeyId, what: &str, out: &mut Output) {
        let Some(key) = self.memos.keys.get_mut(&key_id) else {
            return;
        };
        let asleep = std::mem::take(&mut key.asleep);
        self.wake_all(asleep);
        let Some(key) = self.memos.keys.remove(&key_id) else {
            return;
        };
        for waiter in key.holder.into_iter().chain(key.waiting) {
            self.memos.key_ids.remove(&waiter.asker);
            let (run, number) = waiter.asker;
            let reason: Refusal = Damaged {
                id: None,
                what: format!("the first result for the key `{}`: {what}", waiter.location.name),
            }
            .into();
            if let Some((session, token)) = self.where_leased(run) {
                out.send(session, ReportRefused { run, token, number, reason });
            }
        }
    }

    fn where_leased(&self, run: RunNo) -> Option<(SessionId, Token)> {
        let lease = self.leases.get(&run)?;
        Some((lease.holder?, lease.record.token))
    }

    /// Does what can be done for those in line, now that something has changed.
    fn serve_memo(&mut self, key_id: KeyId, out: &mut Output) {
        let Some(key) = self.memos.keys.get_mut(&key_id) else {
            return;
        };
        match &key.known {
            Known::Reading(_) => {}
            Known::Nothing => {
                let done = |waiter: &WaitingStep| waiter.done.is_some();
                if let Some(first) = key.waiting.iter().position(done)
                    && let Some(first) = key.waiting.remove(first)
                {
                    self.memos.key_ids.remove(&first.asker);
                    return self.first_result(key_id, first, out);
                }
                self.attempt_next_memo(key_id, out);
            }
            Known::Result(_) => {
                self.memos.telling.insert(key_id);
                self.tell_results(out);
            }
        }
        self.memos.forget(key_id);
    }

    /// The first in line may make its attempt, if nobody does (E3).
    fn attempt_next_memo(&mut self, key_id: KeyId, out: &mut Output) {
        while let Some(key) = self.memos.keys.get_mut(&key_id)
            && (key.holder.is_none() || canary!("two bodies of a memo key at a time"))
            && let Some(next) = key.waiting.pop_front()
        {
            let (run, number) = next.asker;
            key.holder = Some(next);
            self.memos.stop_calling(key_id);
            if let Some((session, token)) = self.where_leased(run) {
                out.send(session, AttemptMemo { run, token, number });
            }
        }
        self.call_for_memo(key_id, out);
    }

    /// The entry and the row of a key's first result, in one batch.
    fn first_result(&mut self, key_id: KeyId, first: WaitingStep, out: &mut Output) {
        let (Some(done), (run, _)) = (first.done, first.asker) else {
            return;
        };
        let output = done.output.clone();
        let Some(entry) =
            self.complete(first.asker, first.location, done.attempt, done.output, out)
        else {
            return self.serve_memo(key_id, out);
        };
        let (namespace, hash) = key_id;
        let row = |at| Expiry { at, what: Expires::Memo, namespace, hash };
        let key = self.memos.keys.get_mut(&key_id);
        if let Some(before) = key.and_then(|key| key.before.take()) {
            out.delete(&row(before));
        }
        let until = self.now().after(self.settings.retention).max(Time(1));
        let record = MemoRecord { run, entry, until };
        out.put(&MemoResultKey { namespace, hash }, &record);
        self.expires(row(until), out);
        if let Some(key) = self.memos.keys.get_mut(&key_id) {
            key.known = Known::Result(output);
            if !canary!("the second result of a memo key counts") {
                key.waiting.extend(key.holder.take()); // what it comes to does not count any more
            }
        }
        self.serve_memo(key_id, out);
    }

    /// Tells some of the steps that wait what the result is.
    pub(super) fn tell_results(&mut self, out: &mut Output) {
        let (mut told, mut bytes) = (0, 0);
        while told < TELL_MAX
            && bytes < TELL_BYTES_MAX
            && let Some(key_id) = self.memos.telling.first().copied()
        {
            self.close_if_full(out);
            let key = self.memos.keys.get_mut(&key_id);
            let next = key.and_then(|key| match &key.known {
                Known::Result(output) => Some((key.waiting.pop_front()?, output.clone())),
                Known::Reading(_) | Known::Nothing => None,
            });
            let Some((waiter, output)) = next else {
                self.memos.telling.remove(&key_id);
                let key = self.memos.keys.get(&key_id);
                if key.is_some_and(|key| !key.asleep.is_empty()) {
                    self.memos.asleep.keys_to_wake.insert(key_id); // all of them (E7)
                }
                self.memos.forget(key_id);
                continue;
            };
            (told, bytes) = (told + 1, bytes + output.len());
            self.memos.key_ids.remove(&waiter.asker);
            self.complete(waiter.asker, waiter.location, NOT_ATTEMPTED, output, out);
        }
    }

    /// Completes a step of a leased run, and tells its worker: of its own result that it counts,
    /// of another what it is.
    fn complete(
        &mut self,
        (no, number): StepRef,
        location: SourceLocation,
        attempt: u32,
        output: Payload,
        out: &mut Output,
    ) -> Option<u32> {
        let (now, limits) = (self.now(), self.settings.limits);
        let lease = self.leases.get_mut(&no)?;
        let run = lease.run.as_mut()?;
        if run.commands.is_resolved(number) {
            return None;
        }
        if run.next >= limits.journal_entries_max {
            self.journal_is_full(no, out);
            return None;
        }
        let mut entry = StepCompleted { at: now, number, location, attempt, output };
        let due = run.commands.open(number).and_then(|open| open.due);
        let index = out.append(run, &Entry::from(entry.clone()));
        Self::warn_if_long(run, limits, out);
        lease.made_progress();
        let (holder, token) = (lease.holder, lease.record.token);
        if let Some(due) = due {
            self.armed.remove(&(due, no, number));
        }
        self.counts.steps += 1;
        if attempt != NOT_ATTEMPTED {
            (entry.location, entry.output) = (SourceLocation::default(), Payload::default());
        }
        if let Some(holder) = holder {
            Self::tell(holder, (no, token), index, &entry.into(), out);
        }
        Some(index)
    }
}
