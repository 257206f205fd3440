//! Retention: ended runs are kept for a time and then dropped a generation at a time.
//!
//! Journals are born in the generation of their start day. Once a whole generation is old enough,
//! its runs are looked at, a page at a time: of those that ended long enough ago the small records
//! are deleted; the others are copied to the current generation. Then the generation is dropped
//! whole, which costs next to nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use super::Core;
use super::output::{Action, Output, StoreRead};
use crate::canary::canary;
use crate::model::id::{Namespace, RunId, RunNo};
use crate::model::run::RunState;
use crate::model::time::Time;
use crate::tables::{DeadKey, GenerationKey, IndexKey, MovedKey, MovedRecord};

/// How long ended runs are kept unless said otherwise.
pub const RETENTION_DEFAULT: Duration = Duration::from_secs(7 * 86_400);
/// How long dead letters are kept unless said otherwise.
pub const DEAD_RETENTION_DEFAULT: Duration = Duration::from_secs(30 * 86_400);
/// Runs looked at in one transition.
const PAGE: usize = 128;
/// How often it is looked whether a generation is old enough.
const INTERVAL: Duration = Duration::from_secs(60);

/// A run whose journal is in a generation, as the runtime read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerationRow {
    /// Its number.
    pub run: RunNo,
    /// Whose it is.
    pub namespace: Namespace,
    /// Its id.
    pub id: RunId,
    /// Whether it was copied here; otherwise it was born here, or is a part of a copy that was
    /// never finished.
    pub moved: bool,
    /// How and when it ended, if it has.
    pub ended: Option<(RunState, Time)>,
    /// When it died, if it is a dead letter: it was edited since, perhaps.
    pub died_at: Option<Time>,
}

/// Works on one generation at a time.
#[derive(Debug, Default)]
pub(super) struct Cleaner {
    next_look: Duration,
    /// The generation being emptied.
    current: Option<u32>,
    /// Generations that were emptied by an engine that ended before it had dropped them.
    emptied: Vec<u32>,
    /// Generations with damage in them: kept, and not looked at again before the next opening.
    kept: BTreeSet<u32>,
    /// Runs that must be copied before the next page.
    copying: Vec<RunNo>,
    /// Dead letters that something was done with while the page they may be on was read.
    acted_on: BTreeSet<RunNo>,
    /// Whether the run being copied has changed since its entries were asked for.
    copy_is_stale: bool,
    /// Where the next page begins, once all are copied; none at the end.
    next_page: Option<RunNo>,
}

impl Cleaner {
    /// A generation's record goes first and the generation itself is dropped once that is durable.
    /// If the engine ends between the two, nobody knows of it any more: it is dropped now.
    /// Generations are emptied from the oldest on, and a number below the newest is never used
    /// again, so none that is being written to is meant.
    pub(super) fn open(known: &[(u32, RunNo)], spaces: Vec<u32>) -> Self {
        let newest = known.iter().map(|(generation, _)| *generation).max();
        let is_known = |space: &u32| known.iter().any(|(generation, _)| generation == space);
        let mut emptied = spaces;
        emptied.retain(|space| Some(*space) < newest && !is_known(space));
        if canary!("a generation emptied before the engine ended is forgotten") {
            emptied.clear();
        }
        Self { emptied, ..Self::default() }
    }
}

impl Cleaner {
    pub(super) fn is_at_work(&self) -> bool {
        self.current.is_some()
    }
}

impl Core {
    pub(super) fn cleans_at(&self) -> Option<Duration> {
        // While one is being emptied, reads carry it on.
        self.cleaner.current.is_none().then_some(self.cleaner.next_look)
    }

    /// Starts to empty the oldest generation, if its time has come.
    pub(super) fn clean(&mut self, out: &mut Output) {
        if self.mono < self.cleaner.next_look || self.cleaner.current.is_some() {
            return;
        }
        self.cleaner.next_look = self.mono + INTERVAL;
        for generation in std::mem::take(&mut self.cleaner.emptied) {
            out.action(Action::DropGeneration { generation });
        }
        let candidates =
            self.generations.values().copied().filter(|g| !self.cleaner.kept.contains(g));
        let oldest = candidates.min();
        let newest = self.generations.values().copied().max();
        let Some(oldest) = oldest.filter(|oldest| Some(*oldest) != newest) else {
            return;
        };
        let end = Time((u64::from(oldest) + 1) * 86_400_000);
        if end.after(self.settings.retention) > self.now() {
            return;
        }
        self.cleaner.current = Some(oldest);
        out.read(StoreRead::Generation { generation: oldest, from: RunNo(0), limit: PAGE });
    }

    pub(super) fn generation_loaded(
        &mut self,
        generation: u32,
        rows: Vec<GenerationRow>,
        end: bool,
        out: &mut Output,
    ) {
        if self.cleaner.current != Some(generation) {
            return;
        }
        let last = rows.last().map(|row| row.run);
        let mut undecided = 0;
        for row in rows {
            if !row.moved && self.birth_of(row.run).0 != generation {
                continue; // a copy that a crash cut off: the run is elsewhere
            }
            let old = |state: RunState, at: Time| {
                at.after(self.retention_of(state)) <= self.now()
                    || canary!("a run is forgotten before its retention")
            };
            // Somebody has its number already and will look at it: it is kept, as if it had not
            // ended long enough ago.
            let asked = self.lookups.contains_key(&(row.namespace, row.id))
                || self.mailboxes.contains_key(&row.run)
                || self.cleaner.acted_on.contains(&row.run);
            match row.ended {
                Some((state, at)) if old(state, at) && !asked => {
                    undecided += u64::from(state == RunState::Dead);
                    self.drop_records(&row, state, at, out);
                }
                _ if canary!("what outlives its generation is not copied") => {}
                _ => self.cleaner.copying.push(row.run),
            }
        }
        if undecided > 0 {
            out.note(super::output::Note::LettersForgotten { count: undecided });
        }
        self.cleaner.acted_on.clear();
        self.cleaner.next_page = last.filter(|_| !end).map(|last| RunNo(last.0 + 1));
        self.copy_next(generation, out);
    }

    /// For how long a run that has ended so is kept.
    fn retention_of(&self, state: RunState) -> Duration {
        match state == RunState::Dead {
            true => self.dead_retention(),
            false => self.settings.retention,
        }
    }

    /// For how long dead letters and audit entries are kept.
    pub(super) fn dead_retention(&self) -> Duration {
        self.settings.dead_retention.max(self.settings.retention)
    }

    fn drop_records(&mut self, row: &GenerationRow, state: RunState, at: Time, out: &mut Output) {
        out.delete(&IndexKey { namespace: row.namespace, id: row.id });
        out.delete(&MovedKey { run: row.run });
        if state == RunState::Dead {
            out.delete(&DeadKey { died_at: row.died_at.unwrap_or(at), run: row.run });
        }
        self.count(state, -1);
    }

    fn copy_next(&mut self, generation: u32, out: &mut Output) {
        if let Some(run) = self.cleaner.copying.last().copied() {
            self.cleaner.copy_is_stale = false;
            return out.read(StoreRead::Copy { run, generation });
        }
        if let Some(from) = self.cleaner.next_page.take() {
            return out.read(StoreRead::Generation { generation, from, limit: PAGE });
        }
        // All that is left in it is no longer needed. The first run number stays known to later
        // generations only.
        self.cleaner.current = None;
        self.cleaner.next_look = self.mono;
        out.delete(&GenerationKey { generation });
        self.generations.retain(|_, kept| *kept != generation);
        out.action(Action::DropGeneration { generation });
    }

    /// A dead letter is worked on. What a page that is being read tells of it may be no longer
    /// true.
    pub(super) fn cleaner_must_keep(&mut self, no: RunNo) {
        if self.cleaner.current.is_some() {
            self.cleaner.acted_on.insert(no);
        }
    }

    /// A run changes, or may change: what was read of it to be copied is no longer the truth.
    pub(super) fn invalidate_copy(&mut self, no: RunNo) {
        if self.cleaner.copying.last() == Some(&no) {
            self.cleaner.copy_is_stale = true;
        }
    }

    /// Nothing is thrown away that cannot be read.
    pub(super) fn cleaning_failed(&mut self, generation: u32, what: String, out: &mut Output) {
        if self.cleaner.current == Some(generation) {
            self.cleaner.current = None;
            self.cleaner.copying.clear();
            self.cleaner.kept.insert(generation);
            out.note(super::output::Note::NotCleaned { generation, what });
        }
    }

    /// Writes a copy of a run that outlives its generation.
    pub(super) fn run_copied(&mut self, no: RunNo, entries: &[Bytes], out: &mut Output) {
        let Some(from) = self.cleaner.current else {
            return;
        };
        let Some(target) = self.generations.values().copied().max() else {
            return;
        };
        let held = self.leases.get_mut(&no).and_then(|lease| lease.run.as_mut());
        let grew = held.as_ref().is_some_and(|run| run.next as usize != entries.len());
        if grew || self.cleaner.copy_is_stale || self.mailboxes.contains_key(&no) {
            self.cleaner.copy_is_stale = false;
            return out.read(StoreRead::Copy { run: no, generation: from }); // it changed meanwhile
        }
        if let Some(run) = held {
            run.generation = target;
        }
        for (index, stored) in entries.iter().enumerate() {
            if out.is_full() {
                self.seal(out);
                out.close_batch();
            }
            out.put_entry(target, no, index as u32, stored.to_vec());
        }
        if let Some(run) = self.fresh.get_mut(&no) {
            run.generation = target;
        }
        out.put(&MovedKey { run: no }, &MovedRecord { generation: target });
        self.cleaner.copying.pop();
        self.copy_next(from, out);
    }
}
