//! **A batch's counts equal the truth, and one run follows it.**
//!
//! Source: `BatchBuilder::start`, and the core's invariants B1 to B3: at every commit the counts of a batch are those of its
//! runs; a batch ends in the commit in which it is sealed and its last run has ended, and what follows it begins in that
//! commit, once, with these counts.

use stepwell::keys::batch::BatchRecord;
use stepwell::model::batch::{BatchCounts, BatchEnded, BatchNo};
use stepwell::model::entry::Entry;

use super::Bench;
use crate::durable::{Durable, DurableRun};
use crate::workload::{FOLLOW, Follow};

const COUNTS: &str = "a batch's counts equal the truth";
const FOLLOWS: &str = "one run follows a batch";

/// What is durable of the runs of a batch.
fn counted(durable: &Durable, no: BatchNo) -> BatchCounts {
    let mut counts = BatchCounts::default();
    let mine = |run: &&DurableRun| run.started().is_some_and(|s| s.batch == Some(no));
    for run in durable.runs.values().filter(mine) {
        counts.total += 1;
        match run.entries.last() {
            Some(Entry::Completed(_)) => counts.completed += 1,
            Some(Entry::Died(_)) => counts.dead += 1,
            Some(Entry::Cancelled(_)) => counts.cancelled += 1,
            _ => {}
        }
    }
    counts
}

/// After each batch of the store.
pub(super) fn batch_ended(durable: &Durable, bench: &mut Bench<'_>) {
    for record in durable.batches.values() {
        equal(durable, record, bench);
        if record.sealed && record.counts.ended() == record.counts.total {
            bench.charge(
                FOLLOWS,
                format!(
                    "`{}` is sealed, all of it has ended, and it has not",
                    record.name
                ),
            );
        }
    }
    let mut followed = 0;
    for record in durable.ended_batches.values() {
        equal(durable, record, bench);
        followed += usize::from(record.follow_up.is_some());
        follows(durable, record, bench);
    }
    let is_follower = |run: &&DurableRun| {
        let started = run.started();
        started.is_some_and(|started| started.workflow == FOLLOW.name())
    };
    let followers = durable.runs.values().filter(is_follower).count();
    if followers != followed {
        bench.charge(
            FOLLOWS,
            format!("{followers} runs follow {followed} batches that have ended"),
        );
    }
}

fn equal(durable: &Durable, record: &BatchRecord, bench: &mut Bench<'_>) {
    let truth = counted(durable, record.no);
    if record.counts != truth {
        bench.charge(
            COUNTS,
            format!(
                "`{}` counts {:?}, it is {truth:?}",
                record.name, record.counts
            ),
        );
    }
}

fn follows(durable: &Durable, record: &BatchRecord, bench: &mut Bench<'_>) {
    let Some(id) = record.follow_up else { return };
    let counts = record.counts;
    if counts.ended() != counts.total {
        bench.charge(
            FOLLOWS,
            format!("`{}` has ended with {counts:?}", record.name),
        );
    }
    let Some(started) = durable.runs_of(id).find_map(DurableRun::started) else {
        return bench.charge(FOLLOWS, format!("nothing follows `{}`", record.name));
    };
    let told: Result<BatchEnded<u64>, _> = started.input.to();
    let told = told.map(|told| BatchCounts {
        total: told.total,
        completed: told.completed,
        dead: told.dead,
        cancelled: told.cancelled,
    });
    if told != Ok(counts) {
        bench.charge(
            FOLLOWS,
            format!(
                "what follows `{}` was told {told:?}, it is {counts:?}",
                record.name
            ),
        );
    }
}

/// What follows has seen what it was told.
pub(super) fn at_the_end(durable: &Durable, bench: &mut Bench<'_>) {
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
                bench.charge(FOLLOWS, format!("it saw {seen:?}, it is {counts:?}"));
            }
        }
    }
}
