//! **A memo key has one result, and all steps with the key get it.**
//!
//! Source: `Ctx::memoize`, and the core's invariants E1 to E3. The first result for a key and its
//! row are committed in one batch; as long as the row counts it does not change, and whoever gets a
//! result gets that one: its entry tells of attempt 0. Each result says whose body came to it.
//!
//! At most one step at a time holds a key (may make an attempt, E3), in one life of the server: not
//! bodies are judged, which may go on in a worker that is given up, but what the server says. The
//! permission ends with what the worker says of the step next, with an entry about it, with a
//! refusal, or with the run's lease: when its row goes, or is another worker's. Under a new token
//! of the same worker it stays. A body begins only while its step holds the key. A run sleeps for
//! keys that it has asked for (E6); that it is woken shows in the end, when all runs must have
//! ended.

use std::collections::{BTreeMap, BTreeSet};

use stepwell::model::entry::{AttemptFailed, Entry, StepCompleted, StepFailed};
use stepwell::model::id::{CommandIndex, MemoKey, Namespace, ProcessInstance, RunId, RunNo, Token};
use stepwell::model::time::Time;
use stepwell::tables::LeaseRecord;
use stepwell::tables::memo::MemoRecord;
use stepwell::wire::message::{AttemptMemo, Message};

use super::Findings;
use crate::durable::Durable;
use crate::workload::{Found, SHARED};

const ONE: &str = "a memo key has one result";
const TOLD: &str = "all are told the first result";
const ALONE: &str = "one attempt at a memo key at a time";
const SLEEPS: &str = "a run sleeps for memo keys that it has asked for";
const LEAVE: &str = "a body of a memo key begins by the engine's leave";

/// Where a row is.
type KeyId = (Namespace, u128);

/// What is known of keys.
#[derive(Debug, Default)]
pub(super) struct Memos {
    /// Entries of the batch at hand.
    fresh: Vec<(RunNo, u32)>,
    /// Rows of the batch at hand, and what they were before.
    written: Vec<(KeyId, Option<MemoRecord>)>,
    /// Steps that have asked, under the token of their run, and have not said anything else since.
    asked: BTreeMap<Asker, AskedKey>,
    /// Keys that runs have ever asked for.
    wanted: BTreeSet<(RunNo, u128)>,
    /// Runs that sleep for keys.
    asleep: BTreeSet<RunNo>,
    /// How often one fell asleep.
    pub(super) slept: u64,
    /// Steps that ever held a key.
    leaves: BTreeSet<Asker>,
    /// Leases of runs, as they are stored.
    leases: BTreeMap<RunNo, Lease>,
    /// Results, those who were told of one, and those of them whose own did not count.
    pub(super) results: u64,
    pub(super) told: u64,
    pub(super) waited: u64,
}

/// A step of a run.
type Asker = (RunNo, CommandIndex);

#[derive(Debug)]
struct AskedKey {
    key: MemoKey,
    /// The life of the server in which it got leave.
    leave: Option<u32>,
}

#[derive(Debug)]
struct Lease {
    slot: u32,
    process: ProcessInstance,
    /// The tokens it has had, the current one last.
    tokens: Vec<Token>,
}

impl Memos {
    pub(super) fn appended(&mut self, durable: &Durable, no: RunNo, index: u32) {
        self.fresh.push((no, index));
        let entry = durable.runs.get(&no).and_then(|run| run.entries.get(index as usize));
        if let Some(
            Entry::StepCompleted(StepCompleted { number, .. })
            | Entry::StepFailed(StepFailed { number, .. })
            | Entry::AttemptFailed(AttemptFailed { number, .. }),
        ) = entry
        {
            self.asked.remove(&(no, *number));
        }
    }

    pub(super) fn written(&mut self, key_id: KeyId, before: Option<MemoRecord>) {
        self.written.push((key_id, before));
    }

    /// After each batch: rows stay as they are, and entries are true to them.
    pub(super) fn batch_ended(
        &mut self,
        durable: &Durable,
        latest: Option<Time>,
        findings: &mut Findings<'_>,
    ) {
        for (key_id, before) in std::mem::take(&mut self.written) {
            let row = durable.memos.get(&key_id);
            if let Some(row) = row.filter(|row| before != Some(**row)) {
                self.results += 1;
                if let Err(problem) = is_first(durable, key_id, row, before) {
                    findings.report(ONE, problem);
                }
            }
            let goes_early = |before: &MemoRecord| latest.is_some_and(|now| before.until > now);
            if row.is_none() && before.as_ref().is_some_and(goes_early) {
                findings.report(ONE, format!("{before:?} is gone, and it is {latest:?}"));
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
            let key = MemoKey::of(started.namespace, &step.location.name);
            let row = durable.memos.get(&(started.namespace, key.0));
            self.told += u64::from(step.attempt == 0);
            if let Err(problem) = is_told(durable, (no, index), step, row) {
                findings.report(TOLD, format!("{}: entry {index}: {problem}", run.name()));
            }
        }
    }

    /// The row of a lease was written.
    pub(super) fn leased(&mut self, durable: &Durable, slot: u32, before: Option<&LeaseRecord>) {
        if let Some(before) = before {
            self.leaves_worker(durable, before.run);
        }
        let Some(row) = durable.leases.get(&slot) else {
            return;
        };
        let lease = self.leases.entry(row.run).or_insert_with(|| Lease {
            slot,
            process: row.process,
            tokens: Vec::new(),
        });
        if lease.tokens.last() != Some(&row.token) {
            lease.tokens.push(row.token);
        }
    }

    /// A run has left a place or come to one.
    pub(super) fn moved(&mut self, durable: &Durable, run: RunNo, findings: &mut Findings<'_>) {
        self.leaves_worker(durable, run);
        let timer = durable.timers.get(&(Time::NEVER, run));
        match timer.and_then(|timer| timer.memo.as_ref()) {
            None => {
                self.asleep.remove(&run);
            }
            Some(memo) if self.asleep.insert(run) => {
                self.slept += 1;
                let strange = memo.keys.iter().find(|key| !self.wanted.contains(&(run, key.0)));
                if memo.keys.is_empty() || strange.is_some() {
                    findings.report(SLEEPS, format!("run {run} sleeps for {memo:?}"));
                }
            }
            Some(_) => {}
        }
    }

    fn leaves_worker(&mut self, durable: &Durable, run: RunNo) {
        let Some(lease) = self.leases.get(&run) else {
            return;
        };
        let row = durable.leases.get(&lease.slot);
        if row.is_none_or(|row| (row.run, row.process) != (run, lease.process)) {
            self.leases.remove(&run);
            self.lease_ends(run);
        }
    }

    fn lease_ends(&mut self, run: RunNo) {
        let steps = (run, CommandIndex(0))..=(run, CommandIndex(u32::MAX));
        let ended: Vec<Asker> = self.asked.range(steps).map(|(asker, _)| *asker).collect();
        for asker in ended {
            self.asked.remove(&asker);
        }
    }

    /// A worker says something. What it says under another token than the current one is not heard.
    pub(super) fn reported(&mut self, message: &Message) {
        let (run, token, number) = match message {
            Message::MemoRequested(m) => (m.run, m.token, m.number),
            Message::MemoReleased(m) => (m.run, m.token, m.number),
            Message::StepCompletedReport(m) => (m.run, m.token, m.number),
            Message::AttemptFailedReport(m) => (m.run, m.token, m.number),
            _ => return,
        };
        let lease = self.leases.get(&run);
        if lease.and_then(|lease| lease.tokens.last()) != Some(&token) {
            return;
        }
        match message {
            Message::MemoRequested(ask) => {
                self.waited += 1;
                self.wanted.insert((run, ask.memo.0));
                let asked = self
                    .asked
                    .entry((run, number))
                    .or_insert(AskedKey { key: ask.memo, leave: None });
                if asked.key != ask.memo {
                    (asked.key, asked.leave) = (ask.memo, None);
                }
            }
            _ => {
                self.asked.remove(&(run, number));
            }
        }
    }

    /// The server lets a step make an attempt, or says something that ends one.
    pub(super) fn released(&mut self, message: &Message, life: u32, findings: &mut Findings<'_>) {
        match message {
            Message::AttemptMemo(leave) => self.gives_leave(leave, life, findings),
            Message::ReportRefused(refused) => {
                self.asked.remove(&(refused.run, refused.number));
            }
            _ => {}
        }
    }

    fn gives_leave(&mut self, leave: &AttemptMemo, life: u32, findings: &mut Findings<'_>) {
        let asker = (leave.run, leave.number);
        self.leaves.insert(asker);
        let lease = self.leases.get(&leave.run);
        if lease.is_none_or(|lease| !lease.tokens.contains(&leave.token)) {
            return; // that lease is over
        }
        let Some(asked) = self.asked.get_mut(&asker) else {
            return; // it does not want it any more, and has said so
        };
        asked.leave = Some(life);
        let key = asked.key;
        let holds = |(other, asked): &(&Asker, &AskedKey)| {
            **other != asker && asked.key == key && asked.leave == Some(life)
        };
        if let Some((other, _)) = self.asked.iter().find(holds) {
            let (step, of) = (asker.1, other.1);
            let text = format!(
                "step {step} of run {} was given leave for {key:?}, which step {of} of run {} has",
                asker.0, other.0
            );
            findings.report(ALONE, text);
        }
    }

    /// A body begins.
    pub(super) fn begins(
        &self,
        durable: &Durable,
        (run, number): (RunId, CommandIndex),
        findings: &mut Findings<'_>,
    ) {
        let no = durable.index.get(&run).copied();
        if no.is_some_and(|no| !self.leaves.contains(&(no, number))) {
            findings.report(LEAVE, format!("the body of step {number} of {run}"));
        }
    }
}

fn result_of<'a>(durable: &'a Durable, row: &MemoRecord) -> Option<&'a StepCompleted> {
    match durable.runs.get(&row.run)?.entries.get(row.entry as usize)? {
        Entry::StepCompleted(step) => Some(step),
        _ => None,
    }
}

/// A row that was written names an attempt's own result, and takes no other's place that counts.
fn is_first(
    durable: &Durable,
    key_id: KeyId,
    row: &MemoRecord,
    before: Option<MemoRecord>,
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
    if MemoKey::of(key_id.0, &step.location.name).0 != key_id.1 {
        return Err(format!("{row:?} is of another key, `{}`", step.location.name));
    }
    match before.filter(|before| before.until > step.at) {
        Some(before) => Err(format!(
            "`{}` got the result {row:?} at {}, and had {before:?}",
            step.location.name, step.at
        )),
        None => Ok(()),
    }
}

/// An entry is the first result itself, or tells of it.
fn is_told(
    durable: &Durable,
    at: (RunNo, u32),
    step: &StepCompleted,
    row: Option<&MemoRecord>,
) -> Result<(), String> {
    let key = &step.location.name;
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
