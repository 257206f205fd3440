//! **A redrive goes on where the run failed, and every action of an operator is done and recorded
//! once.**
//!
//! Source: D1 to D5 of the core's dead letters, and `Client::redrive`: finished steps are kept, the
//! failed one is tried again under its key; an edit counts from the next redrive on; what was
//! discarded is not listed; a request takes effect once, however often it arrives; and what an
//! operator was told is done is in the audit log.

use std::collections::{BTreeMap, BTreeSet};

use stepwell::model::dead::{AuditAction, Superseded};
use stepwell::model::entry::Entry;
use stepwell::model::id::{CommandIndex, RequestId, RunNo};
use stepwell::model::run::RunState;
use stepwell::model::time::Time;

use super::Findings;
use crate::client_log::ClientLog;
use crate::durable::{Durable, DurableRun};

const AGAIN: &str = "a redrive runs no finished step again";
const TRIES: &str = "a redrive tries again";
const ONCE: &str = "a request takes effect once";
const LIST: &str = "the dead letters are the dead runs";
const ACTS: &str = "every action of an operator is recorded once";

/// The operators' actions of the batch at hand.
#[derive(Default)]
pub(super) struct Audit {
    done: BTreeSet<(RunNo, RequestId)>,
    touched: bool,
}

impl Audit {
    pub(super) fn batch_begins(&mut self) {
        self.done.clear();
        self.touched = false;
    }

    /// An entry has become durable.
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
        let (before, entry) = (&run.entries[..index as usize], &run.entries[index as usize]);
        self.touched |= entry.ends() || entry.act().is_some();
        if let Some(request_id) = entry.act() {
            self.done.insert((no, request_id));
            if before.iter().any(|earlier| earlier.act() == Some(request_id)) {
                let text = format!("{}: {request_id} acts again with entry {index}", run.name());
                findings.report(ONCE, text);
            }
        }
        if let Some(number) = entry.number().filter(|number| *number != CommandIndex::FUNCTION)
            && finished_before_redrive(before, number)
        {
            let text = format!("{}: entry {index} is about step {number}: {entry:?}", run.name());
            findings.report(AGAIN, text);
        }
        tries_again(run, before, entry, findings);
    }

    /// What was done in a batch was recorded in it, and nothing else.
    pub(super) fn batch_ended(&self, durable: &Durable, findings: &mut Findings<'_>) {
        let mut recorded: BTreeMap<RequestId, u32> = BTreeMap::new();
        for act in durable.new_acts.values() {
            if !matches!(act.kind, AuditAction::Resume | AuditAction::Cancel) {
                *recorded.entry(act.request_id).or_default() += 1;
            }
        }
        for (no, request_id) in &self.done {
            let count = recorded.remove(request_id).unwrap_or(0);
            if count != 1 {
                let name = durable.runs.get(no).map(DurableRun::name);
                let text =
                    format!("{}: {request_id} is recorded {count} times", name.unwrap_or_default());
                findings.report(ACTS, text);
            }
        }
        for request_id in recorded.keys() {
            findings.report(ACTS, format!("{request_id} is recorded, and nothing was done"));
        }
        if self.touched {
            the_list_is_true(durable, findings);
        }
    }
}

/// Whether a step ended well before the run was redriven last.
fn finished_before_redrive(before: &[Entry], number: CommandIndex) -> bool {
    let redriven = before.iter().rposition(|entry| matches!(entry, Entry::Redriven(_)));
    let finished = |entry: &Entry| matches!(entry, Entry::StepCompleted(e) if e.number == number);
    redriven.is_some_and(|at| before[..at].iter().any(finished))
}

/// A run that died of a failed step which it passed on does not die of it again without trying it.
/// One that died because its workers were lost may: its function had not come to its end, so the
/// step stays failed until it has.
fn tries_again(run: &DurableRun, before: &[Entry], entry: &Entry, findings: &mut Findings<'_>) {
    let (Entry::Died(died), Some(Entry::Redriven(_))) = (entry, before.last()) else {
        return;
    };
    let deaths = before.iter().filter_map(|earlier| match earlier {
        Entry::Died(death) => Some(death),
        _ => None,
    });
    let passed_on = deaths.last().is_some_and(|death| death.end.is_some());
    let same =
        |earlier: &Entry| matches!(earlier, Entry::StepFailed(e) if e.failure == died.failure);
    if passed_on && died.end.is_some() && before.iter().any(same) {
        let text = format!("{} is redriven and dies at once of {:?}", run.name(), died.failure);
        findings.report(TRIES, text);
    }
}

/// D1
fn the_list_is_true(durable: &Durable, findings: &mut Findings<'_>) {
    let dead = |run: &DurableRun| match run.state_if_ended() {
        Some(RunState::Dead) => run.died_at(),
        _ => None,
    };
    let expected: BTreeSet<(Time, RunNo)> =
        durable.kept().filter_map(|(no, run)| Some((dead(run)?, *no))).collect();
    if durable.dead != expected {
        let odd: Vec<_> = durable.dead.symmetric_difference(&expected).collect();
        findings.report(
            LIST,
            format!("these are listed and not dead, or the other way round: {odd:?}"),
        );
    }
}

/// What clients were told in the end of dead letters and audit entries.
pub(super) fn at_the_end(durable: &Durable, told: &ClientLog, findings: &mut Findings<'_>) {
    if let Some(letters) = &told.letters {
        let held: Vec<RunNo> = durable.dead.iter().rev().map(|(_, no)| *no).collect();
        if *letters != held {
            findings.report(LIST, format!("the listing has {letters:?}, the store {held:?}"));
        }
    }
    if let Some(acts) = &told.acts {
        let held: Vec<(Time, AuditAction)> =
            durable.acts.iter().rev().map(|((at, _), act)| (*at, act.kind)).collect();
        if *acts != held {
            findings.report(ACTS, format!("the listing has {acts:?}, the store {held:?}"));
        }
    }
    for (no, run) in &durable.runs {
        let superseded = Superseded::of((0..).zip(&run.entries));
        let lives = run.entries.iter().filter(|entry| matches!(entry, Entry::Died(_))).count();
        let dead = usize::from(run.died_at().is_some());
        if lives != superseded.redrives() + dead {
            findings.report(
                ONCE,
                format!(
                    "run {no} died {lives} times and was redriven {} times",
                    superseded.redrives()
                ),
            );
        }
    }
}
