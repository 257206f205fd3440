//! Unique keys: a start whose key is held is answered with the run that holds it.
//!
//! A key is of a namespace and a workflow: an answer has the type of the workflow that was asked
//! for. The row of a key is written in the batch that starts its run and deleted in the batch in
//! which the run lets go of it: with its first lease (`Queued`) or with its end (both `Queued` and
//! `Running`). A key held for a time has a row among what expires as well, and is free at its
//! instant whether the row is still there or not.
//!
//! ```text
//!   start ──► index: is the id taken? ──► key: is it held? ──► begin, and take the key     (one transition)
//!                    yes: that run              yes: its holder
//! ```
//!
//! While a key is being read, the ids of the starts that wait for it stay as they were found:
//! whatever else asks for them waits behind. So what was read of an id is true when its key has
//! been read.
//!
//! # Invariants
//!
//! - **U1** A key has at most one holder, and its row names it.
//! - **U2** A start takes its key in the batch in which it begins.
//! - **U3** A run lets go of its key once. Once let go of, a key is not taken again by the same
//!   run, whatever becomes of it.

use std::collections::{BTreeMap, VecDeque};

use super::Core;
use super::load::Lookup;
use super::output::{Output, StoreRead};
use super::run::Run;
use crate::canary::canary;
use crate::model::id::{Namespace, RunId, RunNo};
use crate::model::request::{Damaged, StartRun};
use crate::model::time::Time;
use crate::model::unique::{Unique, UniqueKey};
use crate::tables::UniqueHolderKey;
use crate::tables::expiry::{Expires, Expiry};
use crate::tables::unique::UniqueRecord;

/// A key, in its namespace.
pub(super) type KeyId = (Namespace, u128);

/// A key that a run holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldKey {
    /// What it is stored under.
    pub hash: u128,
    /// Whether the first lease lets go of it, too.
    pub until_leased: bool,
}

impl HeldKey {
    /// The key that a run lets go of by itself, if it has one.
    pub fn of(workflow: &str, key: Option<&UniqueKey>) -> Option<Self> {
        let key = key?;
        let until_leased = match key.scope()? {
            Unique::UntilStarted => true,
            Unique::UntilEnded => false,
            Unique::For(_) => return None, // time lets go of it
        };
        Some(Self { hash: key.hash(workflow), until_leased })
    }
}

/// Keys that are being read.
#[derive(Debug, Default)]
pub(super) struct Uniques {
    reading: BTreeMap<KeyId, KeyRead>,
    /// The first run of this opening, for the canary that forgets the others.
    opened_at: RunNo,
}

/// Who waits for a key to be read.
#[derive(Debug, Default)]
struct KeyRead {
    waiting: VecDeque<Waiter>,
    /// It was taken or let go of since: the row that the read finds is no longer the truth, this
    /// is.
    known: Option<Option<UniqueRecord>>,
}

#[derive(Debug)]
pub(super) enum Waiter {
    /// The first start in line for this id.
    Id(RunId),
    /// A run of an atomic start.
    Atomic { start: u64, at: usize, run: Box<StartRun> },
}

impl Uniques {
    pub(super) fn opened_at(next: RunNo) -> Self {
        Self { opened_at: next, ..Self::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.reading.len()
    }

    fn changed(&mut self, key: KeyId, row: Option<UniqueRecord>) {
        if let Some(read) = self.reading.get_mut(&key) {
            read.known = Some(row);
        }
    }
}

/// Where the key of a start is, if it has one.
pub(super) fn key_id_of(namespace: Namespace, run: &StartRun) -> Option<KeyId> {
    let key = run.unique.as_ref()?;
    Some((namespace, key.hash(&run.workflow)))
}

impl Core {
    /// A start's id is free; its key is looked at next.
    pub(super) fn look_up_key(&mut self, key: KeyId, waiter: Waiter, out: &mut Output) {
        let read = self.uniques.reading.entry(key).or_insert_with(|| {
            let (namespace, hash) = key;
            out.read(StoreRead::Unique { namespace, hash });
            KeyRead::default()
        });
        read.waiting.push_back(waiter);
    }

    pub(super) fn unique_loaded(
        &mut self,
        key: KeyId,
        found: Result<Option<UniqueRecord>, String>,
        out: &mut Output,
    ) {
        loop {
            // Each of those that wait may begin and be leased at once: what one of them writes is
            // in one batch.
            self.close_if_full(out);
            let Some(read) = self.uniques.reading.get_mut(&key) else {
                return;
            };
            let row = match &read.known {
                Some(known) => Ok(known.clone()),
                None => found.clone(),
            };
            let Some(waiter) = read.waiting.pop_front() else {
                self.uniques.reading.remove(&key);
                return;
            };
            match waiter {
                Waiter::Id(id) => self.serve_first(key.0, id, row, out),
                Waiter::Atomic { start, at, run } => {
                    let held =
                        row.clone().map(|row| row.filter(|row| self.holds(row)).map(|row| row.id));
                    let before = row.ok().flatten();
                    self.decide_atomic((start, at), run, held, before, out);
                }
            }
        }
    }

    /// Whether the run of this row holds its key still.
    fn holds(&self, row: &UniqueRecord) -> bool {
        if canary!("unique keys are forgotten at a restart") && row.run < self.uniques.opened_at {
            return false;
        }
        row.until == Time(0) || row.until > self.now()
    }

    /// The key of the first start in line for `id` has been read: it is answered, or begins.
    fn serve_first(
        &mut self,
        namespace: Namespace,
        id: RunId,
        row: Result<Option<UniqueRecord>, String>,
        out: &mut Output,
    ) {
        let mut lookups = self.lookups.remove(&(namespace, id)).unwrap_or_default();
        if let Some(no) = self.begun_meanwhile.remove(&(namespace, id)) {
            return self.resolve_lookups((namespace, id), Ok(Some(no)), lookups, out);
        }
        if lookups.is_empty() {
            return;
        }
        let (start, at, run) = match lookups.remove(0) {
            Lookup::Start { start, at, run } => (start, at, run),
            // What waits for a key is the first that waits for its id: the others ask afresh.
            first @ (Lookup::Occurrence(_) | Lookup::Want(_)) => {
                let all = std::iter::once(first).chain(lookups);
                return all.for_each(|lookup| self.lookup(namespace, id, lookup, out));
            }
        };
        let mut begun = None;
        match row {
            Err(what) => {
                let reason = Damaged { id: None, what };
                self.answer_start(start, at, id, Err(reason.into()), out);
            }
            Ok(Some(row)) if self.holds(&row) => {
                self.answer_start(start, at, row.id, Ok(false), out)
            }
            Ok(before) => begun = self.begin_run(start, at, *run, before.as_ref(), out),
        }
        self.resolve_lookups((namespace, id), Ok(begun), lookups, out);
    }

    /// A run that begins takes its key (U2); `before` is the row that is there, of a holder whose
    /// time is over.
    pub(super) fn take_key(
        &mut self,
        (run, id): (RunNo, RunId),
        key: KeyId,
        unique: &UniqueKey,
        before: Option<&UniqueRecord>,
        out: &mut Output,
    ) {
        let (namespace, hash) = key;
        let row = |at| Expiry { at, what: Expires::Unique, namespace, hash };
        if let Some(before) = before.filter(|before| before.until > Time(0)) {
            out.delete(&row(before.until));
        }
        let until = match unique.scope() {
            Some(Unique::For(ttl)) => self.now().after(ttl).max(Time(1)),
            _ => Time(0),
        };
        let record = UniqueRecord { run, id, until };
        out.put(&UniqueHolderKey { namespace, hash }, &record);
        self.uniques.changed(key, Some(record));
        self.expires(row(until), out);
    }

    /// A run is leased: a key that was held until then is free.
    pub(super) fn release_key_leased(&mut self, run: &mut Run, out: &mut Output) {
        if run.unique.is_some_and(|held| held.until_leased) {
            self.release_key(run, out);
            run.unique = None;
        }
    }

    /// A run lets go of its key (U3).
    pub(super) fn release_key(&mut self, run: &Run, out: &mut Output) {
        let Some(held) = run.unique else { return };
        if canary!("a unique key is never let go of") {
            return;
        }
        out.delete(&UniqueHolderKey { namespace: run.namespace, hash: held.hash });
        self.uniques.changed((run.namespace, held.hash), None);
    }
}
