//! **One run for each unique key, as long as it is held.**
//!
//! Source: `StartBuilder::unique`, and the core's invariants U1 to U3: a run takes its key in the
//! commit that begins it and lets go of it in the one that leases it (`Queued`), ends it (`Queued`,
//! `Running`), or when its time is over, once: one that is redriven does not take it again. A start
//! that is answered with another run is answered with one that held the key at some moment while
//! the call was under way. The truth is taken from the journals and the leases; the rows of the
//! keys themselves are what is judged.

use std::collections::{BTreeMap, BTreeSet};

use stepwell::Unique;
use stepwell::model::entry::Started;
use stepwell::model::id::{Namespace, RunId, RunNo};
use stepwell::model::time::Time;
use stepwell::tables::UniqueHolderKey;

use super::Findings;
use crate::durable::Durable;

const NAME: &str = "one run for each unique key";

/// What follows from the journals and leases.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// The runs of each key, in the order in which they began.
    of: BTreeMap<UniqueHolderKey, Vec<RunNo>>,
    /// Runs that were leased at least once.
    leased: BTreeSet<RunNo>,
    /// Runs that have ended at least once.
    ended: BTreeSet<RunNo>,
    /// The latest instant that any entry names.
    latest: Time,
}

/// What is known when a call begins.
#[derive(Debug, Clone)]
pub(crate) struct KeysBegun {
    key: UniqueHolderKey,
    /// Runs that have let go of the key already.
    released: BTreeSet<RunId>,
}

fn key_of(started: &Started) -> Option<UniqueHolderKey> {
    let key = started.unique.as_ref()?;
    let hash = key.hash(&started.workflow);
    Some(UniqueHolderKey { namespace: started.namespace, hash })
}

impl Keys {
    pub(super) fn leased(&mut self, run: RunNo) {
        self.leased.insert(run);
    }

    /// An entry was added: a run that begins with a key must be alone with it.
    pub(super) fn appended(
        &mut self,
        durable: &Durable,
        no: RunNo,
        index: u32,
        findings: &mut Findings<'_>,
    ) {
        let Some(run) = durable.runs.get(&no) else {
            return;
        };
        if let Some(entry) = run.entries.get(index as usize) {
            self.latest = self.latest.max(entry.at());
            if entry.ends() {
                self.ended.insert(no);
            }
        }
        let Some((started, key)) = run
            .started()
            .filter(|_| index == 0)
            .and_then(|started| Some((started, key_of(started)?)))
        else {
            return;
        };
        let runs = self.of.entry(key).or_default();
        let before = runs.clone();
        runs.push(no);
        for other in before {
            if self.holds(durable, other, started.at) {
                let other = durable.runs.get(&other).map(|run| run.name());
                findings.report(NAME, format!("{} began while {other:?} held its key", run.name()));
            }
        }
    }

    /// Whether a run holds its key at an instant of engine time, by all that is durable.
    fn holds(&self, durable: &Durable, no: RunNo, now: Time) -> bool {
        let Some(run) = durable.runs.get(&no) else {
            return false;
        };
        let Some(started) = run.started() else {
            return false;
        };
        match started.unique.as_ref().and_then(|key| key.scope()) {
            Some(Unique::UntilStarted) => !self.leased.contains(&no) && !self.ended.contains(&no),
            Some(Unique::UntilEnded) => !self.ended.contains(&no),
            Some(Unique::For(ttl)) => started.at.after(ttl) > now,
            None => false,
        }
    }

    /// After each batch: the rows are those of the runs that hold a key.
    pub(super) fn batch_ended(&self, durable: &Durable, findings: &mut Findings<'_>) {
        for (key, runs) in &self.of {
            let holders = runs.iter().filter(|no| {
                let run = durable.runs.get(no);
                let started = run.and_then(|run| run.started());
                let scope = started.and_then(|s| s.unique.as_ref()?.scope());
                !matches!(scope, Some(Unique::For(_))) && self.holds(durable, **no, self.latest)
            });
            let holders: Vec<RunNo> = holders.copied().collect();
            let row = durable.keys.get(key).filter(|row| row.until == Time(0));
            let row: Vec<RunNo> = row.map(|row| row.run).into_iter().collect();
            if holders != row {
                findings.report(
                    NAME,
                    format!("a key is held by runs {holders:?}, its row says {row:?}"),
                );
            }
        }
    }

    /// A client is about to ask for a key.
    pub(super) fn asked(&self, durable: &Durable, workflow: &str, key: &str) -> KeysBegun {
        let hash =
            stepwell::model::unique::UniqueKey::new(key, Unique::UntilStarted).hash(workflow);
        let key = UniqueHolderKey { namespace: Namespace::default(), hash };
        let released = self.of.get(&key).into_iter().flatten().filter_map(|no| {
            let id = durable.runs.get(no)?.started()?.id;
            (!self.holds(durable, *no, self.latest)).then_some(id)
        });
        let released = released.collect();
        KeysBegun { key, released }
    }

    /// It was answered with this run.
    pub(super) fn answered(
        &self,
        durable: &Durable,
        begun: &KeysBegun,
        (name, id, started): (&str, RunId, bool),
        findings: &mut Findings<'_>,
    ) {
        let mine = crate::client_log::run_id(name);
        let ids = self.of.get(&begun.key).into_iter().flatten();
        let mut ids = ids.filter_map(|no| Some(durable.runs.get(no)?.started()?.id));
        let problem = if !ids.any(|known| known == id) {
            "it never had that key"
        } else if started && id != mine {
            "it is not the one that was to begin"
        } else if !started && id != mine && begun.released.contains(&id) {
            "it had let go of the key before the call began"
        } else {
            return;
        };
        let told = durable.run_of(id).map_or(id.to_string(), |run| run.name());
        findings.report(NAME, format!("the start of {name} was answered with {told}: {problem}"));
    }
}
