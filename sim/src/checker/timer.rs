//! **A timer never fires early, and it does fire.**
//!
//! Source: the core's invariant T1, in engine time: a run whose timer is due by all that was
//! written since, while the engine lived and wrote, is woken; and rule R4: engine time never goes
//! backwards, across restarts too. It is not ahead of all that the server's clocks have shown,
//! however they jump and drift; a delayed start waits like a timer.

use std::collections::BTreeMap;

use stepwell::model::entry::Entry;
use stepwell::model::id::RunNo;
use stepwell::model::time::Time;

use super::Findings;
use crate::durable::Durable;

const NAME: &str = "a timer never fires early";
const BACK: &str = "engine time never goes backwards";
const AHEAD: &str = "engine time is not ahead of the clocks";
const LATE: &str = "a timer that is due fires";
/// One that was due for so long, while the engine wrote so many batches, is late.
const OVERDUE_MS: u64 = 5_000;
const OVERDUE_BATCHES: u32 = 20;

/// Engine time as entries tell it, over all runs and all lives of the engine.
#[derive(Default)]
pub(super) struct EngineTime {
    last: Option<Time>,
    /// It cannot be later than this, by the clocks.
    pub(super) latest: Option<Time>,
    overdue: BTreeMap<(Time, RunNo), Overdue>,
}

/// Since when a timer is due, in which life of the server, and how many batches were written since.
struct Overdue {
    since_ms: u64,
    life: u32,
    batches: u32,
}

impl EngineTime {
    pub(super) fn appended(
        &mut self,
        durable: &Durable,
        no: RunNo,
        index: u32,
        findings: &mut Findings<'_>,
    ) {
        let entry = durable.runs.get(&no).and_then(|run| run.entries.get(index as usize));
        let Some(at) = entry.map(Entry::at) else {
            return;
        };
        if let Some(last) = self.last.filter(|last| *last > at) {
            findings.report(
                BACK,
                format!("entry {index} of run {no} is of {at}, another one was of {last} before"),
            );
        }
        if let Some(latest) = self.latest.filter(|latest| *latest < at) {
            findings.report(
                AHEAD,
                format!("entry {index} of run {no} is of {at}, the clocks allow {latest}"),
            );
        }
        self.last = self.last.max(Some(at));
    }

    /// What is stored of the clock is not passed by what is stored of runs.
    pub(super) fn batch_ended(&self, durable: &Durable, findings: &mut Findings<'_>) {
        let mark = durable.mark.as_ref().map(|mark| mark.time);
        if self.last > mark {
            findings.report(BACK, format!("the mark is {mark:?}, an entry is of {:?}", self.last));
        }
    }

    /// After each batch: what is due by what was written is attended to.
    pub(super) fn look_for_overdue(&mut self, durable: &Durable, findings: &mut Findings<'_>) {
        let Some(now) = self.last else { return };
        self.overdue.retain(|key, overdue| {
            durable.timers.contains_key(key) && overdue.life == durable.lives
        });
        for (key, _) in durable.timers.range(..=(now, RunNo(u64::MAX))) {
            let overdue = self.overdue.entry(*key).or_insert(Overdue {
                since_ms: findings.now_ms,
                life: durable.lives,
                batches: 0,
            });
            overdue.batches += 1;
            let is_late = findings.now_ms > overdue.since_ms + OVERDUE_MS;
            if is_late && overdue.batches > OVERDUE_BATCHES {
                let (due, run) = key;
                let text = format!(
                    "run {run} is due at {due} since {} ms, it is {now}, and it sleeps",
                    overdue.since_ms
                );
                findings.report(LATE, text);
                (overdue.since_ms, overdue.batches) = (findings.now_ms, 0);
            }
        }
    }
}

pub(super) fn appended(durable: &Durable, no: RunNo, index: u32, findings: &mut Findings<'_>) {
    let Some(run) = durable.runs.get(&no) else {
        return;
    };
    let (before, entry) = (&run.entries[..index as usize], &run.entries[index as usize]);
    if before.last().is_some_and(|last| last.at() > entry.at()) {
        findings
            .report(NAME, format!("{}: entry {index} is older than the one before it", run.name()));
    }
    let delayed = run.started().and_then(|started| started.not_before);
    let may_come_first =
        matches!(entry, Entry::Started(_) | Entry::CancelRequested(_) | Entry::Cancelled(_));
    if let Some(due) = delayed.filter(|due| !may_come_first && *due > entry.at())
        && !before.iter().any(|entry| matches!(entry, Entry::CancelRequested(_)))
    {
        findings.report(
            NAME,
            format!(
                "{}: entry {index} is of {}, and it was delayed until {due}",
                run.name(),
                entry.at()
            ),
        );
    }
    let Entry::TimerFired(fired) = entry else {
        return;
    };
    let armed = before.iter().find_map(|entry| match entry {
        Entry::TimerArmed(armed) if armed.number == fired.number => Some(armed),
        _ => None,
    });
    match armed {
        Some(armed) if armed.due <= fired.at => {}
        Some(armed) => findings.report(
            NAME,
            format!("{}: entry {index} fired at {}, due at {}", run.name(), fired.at, armed.due),
        ),
        None => findings
            .report(NAME, format!("{}: entry {index} fired and was never armed", run.name())),
    }
}
