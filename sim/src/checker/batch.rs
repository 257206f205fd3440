//! **A batch's counts equal the truth, and one run follows it.**
//!
//! Source: `BatchBuilder::start`, and the core's invariants B1 to B4: at every commit the counts of
//! a batch are those of its runs; a batch ends in the commit in which it is sealed and its last run
//! has ended, and what follows it begins in that commit, once, with these counts; one that is
//! sealed gets no more runs. A run that is redriven before its batch has ended goes on for it; one
//! that is redriven afterwards does not change it.

use std::collections::BTreeMap;

use stepwell::model::batch::{BatchCounts, BatchEnded, BatchNo};
use stepwell::model::entry::Entry;
use stepwell::model::id::RunNo;
use stepwell::tables::batch::BatchRecord;

use super::Findings;
use crate::durable::{Durable, DurableRun};
use crate::workload::{FOLLOW, Follow};

const COUNTS: &str = "a batch's counts equal the truth";
const SEALED: &str = "a sealed batch gets no more runs";
const ASKED: &str = "a batch that is cancelled is asked to stop";
const FOLLOWS: &str = "one run follows a batch";

/// Runs of batches that were redriven.
#[derive(Default)]
pub(super) struct Batches {
    /// Those whose batch had ended, and with which entry: for their batch they are what they were
    /// before it.
    alone: BTreeMap<RunNo, usize>,
    /// How often one went on for its batch.
    pub(super) rejoined: u64,
    /// How many runs those had that are sealed, when that was durable.
    sealed: BTreeMap<BatchNo, u64>,
}

impl Batches {
    /// An entry has become durable. The rows of a batch that ended before it were.
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
        let batch = run.started().and_then(|started| started.batch);
        let (Some(batch), Entry::Redriven(redriven)) = (batch, &run.entries[index as usize]) else {
            return;
        };
        let is_over = durable.ended_batches.contains_key(&batch);
        match is_over {
            true => {
                self.alone.entry(no).or_insert(index as usize);
            }
            false => self.rejoined += 1,
        }
        if redriven.rejoins == is_over {
            let (name, says) = (run.name(), redriven.rejoins);
            findings.report(
                COUNTS,
                format!(
                    "{name} is redriven, its batch is over: {is_over}, it goes on for it: {says}"
                ),
            );
        }
    }

    /// How many runs left their batch.
    pub(super) fn left(&self) -> u64 {
        self.alone.len() as u64
    }

    /// What is durable of the runs of a batch.
    fn counted(&self, durable: &Durable, no: BatchNo) -> BatchCounts {
        let mut counts = BatchCounts::default();
        let mine = |run: &&DurableRun| run.started().is_some_and(|s| s.batch == Some(no));
        for (no, run) in durable.runs.iter().filter(|(_, run)| mine(run)) {
            counts.total += 1;
            let until = self.alone.get(no).copied().unwrap_or(run.entries.len());
            let is_act =
                |entry: &&Entry| matches!(entry, Entry::InputEdited(_) | Entry::Discarded(_));
            match run.entries[..until].iter().rev().find(|e| !is_act(e)) {
                Some(Entry::Completed(_)) => counts.completed += 1,
                Some(Entry::Died(_)) => counts.dead += 1,
                Some(Entry::Cancelled(_)) => counts.cancelled += 1,
                _ => {}
            }
        }
        counts
    }

    /// After each write batch.
    pub(super) fn batch_ended(&mut self, durable: &Durable, findings: &mut Findings<'_>) {
        let (open, ended) = (durable.batches.values(), durable.ended_batches.values());
        for record in open.chain(ended).filter(|record| record.sealed) {
            let (name, total) = (&record.name, record.counts.total);
            let before = *self.sealed.entry(record.no).or_insert(total);
            if total != before {
                let text = format!("`{name}` had {before} runs when it was sealed, now {total}");
                findings.report(SEALED, text);
            }
        }
        for record in durable.batches.values() {
            self.equal(durable, record, findings);
            if record.sealed && record.counts.ended() == record.counts.total {
                findings.report(
                    FOLLOWS,
                    format!("`{}` is sealed, all of it has ended, and it has not", record.name),
                );
            }
        }
        let mut followed = 0;
        for record in durable.ended_batches.values() {
            self.equal(durable, record, findings);
            followed += usize::from(record.follow_up.is_some());
            follows(durable, record, findings);
        }
        let is_follower = |run: &&DurableRun| {
            let started = run.started();
            started.is_some_and(|started| started.workflow == FOLLOW.name())
        };
        let followers = durable.runs.values().filter(is_follower).count();
        if followers != followed {
            findings.report(
                FOLLOWS,
                format!("{followers} runs follow {followed} batches that have ended"),
            );
        }
    }

    fn equal(&self, durable: &Durable, record: &BatchRecord, findings: &mut Findings<'_>) {
        let truth = self.counted(durable, record.no);
        if record.counts != truth {
            findings.report(
                COUNTS,
                format!("`{}` counts {:?}, it is {truth:?}", record.name, record.counts),
            );
        }
    }
}

fn follows(durable: &Durable, record: &BatchRecord, findings: &mut Findings<'_>) {
    let Some(id) = record.follow_up else { return };
    let counts = record.counts;
    if counts.ended() != counts.total {
        findings.report(FOLLOWS, format!("`{}` has ended with {counts:?}", record.name));
    }
    let Some(started) = durable.runs_of(id).find_map(DurableRun::started) else {
        return findings.report(FOLLOWS, format!("nothing follows `{}`", record.name));
    };
    let told: Result<BatchEnded<u64>, _> = started.input.to();
    let told = told.map(|told| BatchCounts {
        total: told.total,
        completed: told.completed,
        dead: told.dead,
        cancelled: told.cancelled,
    });
    if told != Ok(counts) {
        findings.report(
            FOLLOWS,
            format!("what follows `{}` was told {told:?}, it is {counts:?}", record.name),
        );
    }
}

/// Runs of the batch of this name that go on, and how long their journals are.
pub(super) fn going_on(durable: &Durable, name: &str) -> Vec<(RunNo, usize)> {
    let open = durable.batches.values().find(|batch| batch.name == name);
    let is_of = |run: &DurableRun| {
        let batch = run.started().and_then(|started| started.batch);
        batch.is_some() && batch == open.map(|open| open.no) && !run.has_ended()
    };
    let runs = durable.runs.iter().filter(|(_, run)| is_of(run));
    runs.map(|(no, run)| (*no, run.entries.len())).collect()
}

/// A client was told that these are asked to stop. One that ended is left, also if it was redriven
/// since.
pub(super) fn cancelled(
    durable: &Durable,
    name: &str,
    meant: &[(RunNo, usize)],
    findings: &mut Findings<'_>,
) {
    for (no, begun) in meant {
        let Some(run) = durable.runs.get(no) else {
            continue;
        };
        let is_asked = |entry: &Entry| matches!(entry, Entry::CancelRequested(_));
        let asked = run.entries.iter().any(is_asked);
        if !asked && !run.entries[*begun..].iter().any(Entry::ends) {
            let text = format!("{} of `{name}` goes on and was not asked", run.name());
            findings.report(ASKED, text);
        }
    }
}

/// What follows has seen what it was told.
pub(super) fn at_the_end(durable: &Durable, findings: &mut Findings<'_>) {
    for record in durable.ended_batches.values() {
        let Some(id) = record.follow_up else { continue };
        for run in durable.runs_of(id) {
            let Some(Entry::Completed(done)) = run.entries.last() else {
                continue;
            };
            let counts = record.counts;
            let ended = (counts.completed, counts.dead, counts.cancelled);
            let seen: Result<Follow, _> = done.output.to();
            let right = seen.as_ref().is_ok_and(|seen| {
                seen.batch == record.name && seen.total == counts.total && seen.ended == ended
            });
            if !right {
                findings.report(FOLLOWS, format!("it saw {seen:?}, it is {counts:?}"));
            }
        }
    }
}
