//! **What is done once has one result, and all are told that one.**
//!
//! Source: `Ctx::once`, and the core's invariants E1 to E3. The first result for a key and its row are committed in one batch;
//! as long as the row counts it does not change, and whoever gets a result gets that one: its entry tells of attempt 0. Each
//! result says whose body came to it. At most one body of a key runs at a time, while the engine lives and has lost no
//! connection since shortly before the body began: what was granted may arrive after that, and the worker is given up later.

use std::collections::BTreeMap;

use stepwell::keys::once::OnceRecord;
use stepwell::model::entry::{Entry, StepCompleted};
use stepwell::model::id::{Namespace, OnceKey, RunNo};
use stepwell::model::time::Time;

use super::Bench;
use crate::durable::Durable;
use crate::workload::{Found, SHARED};

const ONE: &str = "what is done once has one result";
const TOLD: &str = "all are told the first result";
const ALONE: &str = "one body of a once key runs at a time";

/// Where a row is.
type Place = (Namespace, u128);

/// What is known of keys.
#[derive(Debug, Default)]
pub(super) struct Onces {
    /// Entries of the batch at hand.
    fresh: Vec<(RunNo, u32)>,
    /// Rows of the batch at hand, and what they were before.
    written: Vec<(Place, Option<OnceRecord>)>,
    /// Bodies that run.
    bodies: BTreeMap<u64, Body>,
    next: u64,
    /// Connections that were lost.
    losses: u64,
    /// When the last one was.
    lost_ms: Option<u64>,
    /// Results, those who were told of one, and those of them whose own did not count.
    pub(super) results: u64,
    pub(super) told: u64,
    pub(super) waited: u64,
}

#[derive(Debug)]
struct Body {
    key: String,
    of: String,
    /// The life of the server and the connections lost when it began.
    since: (u32, u64),
    /// A connection had been lost shortly before: its worker may be given up while it runs.
    excused: bool,
}

/// A worker whose connection is lost is given up within this time.
const GIVEN_UP_MS: u64 = 5_000;

impl Onces {
    pub(super) fn appended(&mut self, no: RunNo, index: u32) {
        self.fresh.push((no, index));
    }

    pub(super) fn written(&mut self, place: Place, before: Option<OnceRecord>) {
        self.written.push((place, before));
    }

    /// After each batch: rows stay as they are, and entries are true to them.
    pub(super) fn batch_ended(
        &mut self,
        durable: &Durable,
        latest: Option<Time>,
        bench: &mut Bench<'_>,
    ) {
        for (place, before) in std::mem::take(&mut self.written) {
            let row = durable.once.get(&place);
            if let Some(row) = row.filter(|row| before != Some(**row)) {
                self.results += 1;
                if let Err(problem) = is_first(durable, place, row, before) {
                    bench.charge(ONE, problem);
                }
            }
            let goes_early = |before: &OnceRecord| latest.is_some_and(|now| before.until > now);
            if row.is_none() && before.as_ref().is_some_and(goes_early) {
                bench.charge(ONE, format!("{before:?} is gone, and it is {latest:?}"));
            }
        }
        for (no, index) in std::mem::take(&mut self.fresh) {
            let Some(run) = durable.runs.get(&no) else {
                continue;
            };
            let (Some(started), Some(Entry::StepCompleted(step))) =
                (run.started(), run.entries.get(index as usize))
            else {
                continue;
            };
            // Of other workflows' own results it is not known which are of such steps.
            if step.attempt > 0 && started.workflow != SHARED.name() {
                continue;
            }
            let key = OnceKey::of(started.namespace, &step.place.name);
            let row = durable.once.get(&(started.namespace, key.0));
            self.told += u64::from(step.attempt == 0);
            if let Err(problem) = is_told(durable, (no, index), step, row) {
                bench.charge(TOLD, format!("{}: entry {index}: {problem}", run.name()));
            }
        }
    }

    /// A body begins.
    pub(super) fn begins(
        &mut self,
        key: String,
        of: String,
        life: u32,
        bench: &mut Bench<'_>,
    ) -> u64 {
        let since = (life, self.losses);
        let others = self.bodies.values();
        for other in
            others.filter(|other| other.key == key && other.since == since && !other.excused)
        {
            let text = format!("{of} began while {} ran, of the key {key}", other.of);
            bench.charge(ALONE, text);
        }
        self.next += 1;
        let lost_ms = self.lost_ms.map(|lost_ms| lost_ms + GIVEN_UP_MS);
        let body = Body {
            key,
            of,
            since,
            excused: lost_ms.is_some_and(|until| bench.now_ms < until),
        };
        self.bodies.insert(self.next, body);
        self.next
    }

    pub(super) fn ends(&mut self, id: u64) {
        self.bodies.remove(&id);
    }

    /// A connection is gone at the server's end, or will be.
    pub(super) fn lost(&mut self, now_ms: u64) {
        self.losses += 1;
        self.lost_ms = Some(now_ms);
    }

    /// Somebody asks whether it may make an attempt.
    pub(super) fn asked(&mut self) {
        self.waited += 1;
    }
}

fn result_of<'a>(durable: &'a Durable, row: &OnceRecord) -> Option<&'a StepCompleted> {
    match durable
        .runs
        .get(&row.run)?
        .entries
        .get(row.entry as usize)?
    {
        Entry::StepCompleted(step) => Some(step),
        _ => None,
    }
}

/// A row that was written names an attempt's own result, and takes no other's place that counts.
fn is_first(
    durable: &Durable,
    place: Place,
    row: &OnceRecord,
    before: Option<OnceRecord>,
) -> Result<(), String> {
    let step = result_of(durable, row).ok_or_else(|| format!("{row:?} names no result"))?;
    let started = durable.runs.get(&row.run).and_then(|run| run.started());
    let started = started.ok_or_else(|| format!("{row:?} names no run"))?;
    if started.workflow == SHARED.name() {
        let found: Found = step.output.to().map_err(|e| e.to_string())?;
        if (found.by, found.number, found.attempt) != (started.id, step.number.0, step.attempt) {
            return Err(format!("{row:?} is of the body of {found:?}"));
        }
    }
    if step.attempt == 0 {
        return Err(format!("{row:?} is of no attempt"));
    }
    if OnceKey::of(place.0, &step.place.name).0 != place.1 {
        return Err(format!("{row:?} is of another key, `{}`", step.place.name));
    }
    match before.filter(|before| before.until > step.at) {
        Some(before) => Err(format!(
            "`{}` got the result {row:?} at {}, and had {before:?}",
            step.place.name, step.at
        )),
        None => Ok(()),
    }
}

/// An entry is the first result itself, or tells of it.
fn is_told(
    durable: &Durable,
    at: (RunNo, u32),
    step: &StepCompleted,
    row: Option<&OnceRecord>,
) -> Result<(), String> {
    let key = &step.place.name;
    let row = row.ok_or_else(|| format!("a result of `{key}` without a row"))?;
    if step.attempt > 0 {
        return ((row.run, row.entry) == at)
            .then_some(())
            .ok_or_else(|| format!("a second result of `{key}`, which has {row:?}"));
    }
    match result_of(durable, row) {
        Some(first) if first.output != step.output => {
            Err(format!("`{key}` is told to be something else than {row:?}"))
        }
        _ => Ok(()),
    }
}
