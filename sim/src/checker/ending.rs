//! **Everything ends after the faults stop, and leaves nothing behind.**
//!
//! Source: the simulation's own promise: once all hosts are up and all links are whole, every run
//! ends within the stated simulated time; then no lease, queued row, timer or stopped run is left,
//! and the engine has nothing in memory but the sessions of those who are there.

use stepwell::model::run::InMemory;

use super::Findings;
use crate::client_log::{ClientLog, Progress};
use crate::durable::Durable;

pub(super) fn at_the_end(
    durable: &Durable,
    told: &ClientLog,
    name: &str,
    in_time: bool,
    findings: &mut Findings<'_>,
) {
    for (no, run) in durable.runs.iter().filter(|(_, run)| !run.has_ended()) {
        let last = run.entries.last().map(|entry| entry.kind_name());
        findings.report(
            name,
            format!(
                "{} has not ended: it is in {:?}, its last entry is {last:?}",
                run.name(),
                durable.stored_states(*no)
            ),
        );
    }
    for (no, stopped) in &durable.stopped {
        findings.report(name, format!("run {no} is {}: {}", stopped.state, stopped.reason));
    }
    let open = told.jobs.iter().filter(|job| **job != Progress::Over).count();
    if open > 0 {
        findings.report(name, format!("{open} calls of clients have no answer"));
    }
    if !in_time && durable.runs.values().all(|run| run.has_ended()) && open == 0 {
        findings.report(name, "nobody answers the last questions".to_owned());
    }
    if let Some(stats) = told.stats.as_ref().filter(|_| in_time) {
        nothing_in_memory(&stats.in_memory, findings);
    }
    for lease in durable.leases.values() {
        findings.report(name, format!("a lease is left over: run {}", lease.run));
    }
    for run in durable.waiting.values().map(|record| &record.run) {
        findings.report(name, format!("a queued row is left over: run {run}"));
    }
    for (due, run) in durable.timers.keys() {
        findings.report(name, format!("a timer is left over: run {run}, due {due}"));
    }
}

/// What the engine said it had in memory when it was asked last.
fn nothing_in_memory(held: &InMemory, findings: &mut Findings<'_>) {
    let expected = InMemory { sessions: held.sessions, ..InMemory::default() };
    if *held != expected {
        findings.report(
            "everything ends after the faults stop",
            format!("the engine has something in memory: {held:?}"),
        );
    }
}
