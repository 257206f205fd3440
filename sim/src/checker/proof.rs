//! **The workloads' own proofs.**
//!
//! Source: the workloads. A chain's result is the hash of all its steps in their order; a checkout's receipt is what its
//! steps recorded; a run dies only of what the plan says, or of workers that died under it one after the other.

use std::time::Duration;

use stepwell::Retry;
use stepwell::model::entry::Entry;
use stepwell::model::failure::Failure;
use stepwell::model::id::{RunNo, StepNo};

use super::Bench;
use crate::durable::{Durable, DurableRun};
use crate::ledger::Ledger;
use crate::plan::{ChainInput, Job, Order, Plan, Solo, TimedJob};
use crate::workload::{
    CALL, CHAIN, CHECKOUT, DECLINED, Receipt, SOLO, chain_expected, chain_request,
};

const NAME: &str = "the workload's proof holds";
/// The class of the failure of a run that lost too many workers.
pub(super) const WORKER_LOST: &str = "worker lost";

pub(super) fn at_the_end(durable: &Durable, ledger: &Ledger, plan: &Plan, bench: &mut Bench<'_>) {
    for (no, run) in &durable.runs {
        let Some(started) = run.started() else {
            continue;
        };
        let asked = |job: &TimedJob| match &job.job {
            Job::Start { name, .. } => Some(name) == started.name.as_ref(),
            Job::StartMany { runs, .. } => runs
                .iter()
                .any(|(name, _)| Some(name) == started.name.as_ref()),
            Job::SetSchedule(schedule) => started
                .name
                .as_ref()
                .is_some_and(|name| name.starts_with(&format!("schedule/{}/", schedule.name))),
            _ => false,
        };
        if !plan.jobs.iter().any(asked) {
            bench.charge(NAME, format!("{} was never asked for", run.name()));
        }
        let problem = match started.workflow.as_str() {
            name if name == CHAIN.name() => chain(*no, run, ledger),
            name if name == CHECKOUT.name() => checkout(run),
            name if name == SOLO.name() => solo(run),
            other => Err(format!("there is no workflow {other}")),
        };
        if let Err(problem) = problem {
            bench.charge(NAME, format!("{}: {problem}", run.name()));
        }
    }
}

fn input<T: serde::de::DeserializeOwned>(run: &DurableRun) -> Result<T, String> {
    let started = run.started().ok_or("no start")?;
    started.input.to().map_err(|error| error.to_string())
}

fn may_die(run: &DurableRun, failure: &Failure, planned: bool) -> Result<(), String> {
    match failure.class.as_str() {
        WORKER_LOST => Ok(()),
        DECLINED if planned => Ok(()),
        _ if gave_up(run, failure) => Ok(()),
        _ => Err(format!("it died of what nobody planned: {failure:?}")),
    }
}

/// Whether it failed for the last time so long after it had failed first that no retry was left: its clock has jumped. Of
/// steps with retries left the whole function is the last.
fn gave_up(run: &DurableRun, failure: &Failure) -> bool {
    let policy = Retry::default();
    let longest = Duration::from_millis(policy.backoff_max_ms * 2);
    let patience = Duration::from_millis(policy.give_up_after_ms).saturating_sub(longest);
    let ends = run.entries.iter().filter_map(|entry| match entry {
        Entry::StepFailed(end) if end.failure == *failure => Some((end.number, end.at)),
        Entry::Died(end) if end.failure == *failure => Some((StepNo::WHOLE, end.at)),
        _ => None,
    });
    ends.into_iter().any(|(number, ended_at)| {
        run.entries.iter().any(|entry| match entry {
            Entry::AttemptFailed(first) => {
                first.number == number && first.at.after(patience) <= ended_at
            }
            _ => false,
        })
    })
}

fn chain(no: RunNo, run: &DurableRun, ledger: &Ledger) -> Result<(), String> {
    let input: ChainInput = input(run)?;
    let id = run.started().ok_or("no start")?.id;
    match run.entries.last() {
        Some(Entry::Completed(completed)) => {
            let value = |number| {
                ledger
                    .effect_of(no, CALL, &format!("{id}-{number}"))
                    .map_or(0, |effect| effect.value)
            };
            let (links, result) = chain_expected(&input, value);
            let found: u64 = completed.output.to().map_err(|error| error.to_string())?;
            if found != result {
                return Err(format!(
                    "the chain ends with {found:016x} instead of {result:016x}"
                ));
            }
            let requests: Vec<String> = (0..)
                .zip(links)
                .map(|(place, link)| chain_request(place, link))
                .collect();
            match ledger
                .effects_of(no, id)
                .map(|effect| &effect.request)
                .find(|request| !requests.contains(request))
            {
                Some(strange) => Err(format!("`{strange}` is no link of the chain")),
                None => Ok(()),
            }
        }
        Some(Entry::Died(died)) => may_die(run, &died.failure, false),
        Some(Entry::Cancelled(_)) => was_asked_to_stop(run),
        _ => Ok(()),
    }
}

fn was_asked_to_stop(run: &DurableRun) -> Result<(), String> {
    let asked = run
        .entries
        .iter()
        .any(|entry| matches!(entry, Entry::CancelRequested(_)));
    asked
        .then_some(())
        .ok_or_else(|| "it was cancelled and nobody asked for that".to_owned())
}

fn checkout(run: &DurableRun) -> Result<(), String> {
    let order: Order = input(run)?;
    let outputs = |name: &str| -> Vec<u64> {
        let mut found: Vec<(u32, u64)> = run
            .entries
            .iter()
            .filter_map(|entry| match entry {
                Entry::StepCompleted(step) if step.place.name == name => {
                    Some((step.number.0, step.output.to().unwrap_or(0)))
                }
                _ => None,
            })
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, value)| value).collect()
    };
    match run.entries.last() {
        Some(Entry::Completed(completed)) => {
            let receipt: Receipt = completed.output.to().map_err(|error| error.to_string())?;
            let steps = [
                (vec![receipt.reserved], "reserve"),
                (vec![receipt.quoted], "quote"),
                (vec![receipt.charged], "charge"),
                (receipt.mails, "mail"),
            ];
            for (told, name) in steps {
                let recorded = outputs(name);
                if recorded != told {
                    return Err(format!(
                        "the receipt has {told:?} for `{name}`, the journal {recorded:?}"
                    ));
                }
            }
            // An answer that came too late may be recorded; one that was taken in must be.
            if receipt
                .answer
                .is_some_and(|answer| !outputs("ask").contains(&answer))
            {
                return Err("the receipt has an answer that nobody gave".to_owned());
            }
            (!order.declined)
                .then_some(())
                .ok_or_else(|| "it completed with a declined card".to_owned())
        }
        Some(Entry::Died(died)) => may_die(run, &died.failure, order.declined),
        Some(Entry::Cancelled(_)) => {
            // A charge that is recorded after the request was pending then: the function saw it cancelled.
            let asked = |entry: &&Entry| !matches!(entry, Entry::CancelRequested(_));
            let charged = |entry: &Entry| matches!(entry, Entry::StepCompleted(step) if step.place.name == "charge");
            let charged = run.entries.iter().take_while(asked).any(charged);
            if charged && outputs("refund").is_empty() {
                return Err("it was cancelled, charged and not refunded".to_owned());
            }
            was_asked_to_stop(run)
        }
        _ => Ok(()),
    }
}

fn solo(run: &DurableRun) -> Result<(), String> {
    let input: Solo = input(run)?;
    match run.entries.last() {
        Some(Entry::Completed(completed)) => {
            let (found, pad): (u64, String) =
                completed.output.to().map_err(|error| error.to_string())?;
            let failures = run
                .entries
                .iter()
                .filter(|entry| matches!(entry, Entry::AttemptFailed(_)))
                .count();
            if found != input.answer || pad != input.pad || failures != input.failures as usize {
                return Err(format!("it answered {found} after {failures} failures"));
            }
            Ok(())
        }
        Some(Entry::Died(died)) => may_die(run, &died.failure, false),
        Some(Entry::Cancelled(_)) => was_asked_to_stop(run),
        _ => Ok(()),
    }
}
