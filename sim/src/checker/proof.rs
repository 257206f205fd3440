//! **The workloads' own proofs.**
//!
//! Source: the workloads. A chain's result is the hash of all its steps in their order; a
//! checkout's receipt is what its steps recorded; a run dies only of what the plan says, or of
//! workers that died under it one after the other.

use std::time::Duration;

use stepwell::Retry;
use stepwell::model::dead::{UNREGISTERED_WORKFLOW, WORKER_LOST};
use stepwell::model::entry::{Died, Entry};
use stepwell::model::failure::Failure;
use stepwell::model::id::{CommandIndex, RunNo};
use stepwell::model::payload::Payload;

use super::Findings;
use crate::durable::{Durable, DurableRun};
use crate::host::late_run;
use crate::ledger::Ledger;
use crate::plan::{
    Behavior, ChainInput, Ill, Job, Limited, Order, Plan, Poison, Shared, Solo, TimedJob,
};
use crate::workload::{
    CALL, CHAIN, CHECKOUT, CLEANED, DECLINED, Dose, ERRAND, FOLLOW, Found, ITEM, ItemInput,
    LIMITED, MEMO, ORPHAN, PLANNED, POISON, POISONED, RING, Receipt, SHARED, SOLO, chain_expected,
    chain_request, orphan_expected,
};

const NAME: &str = "the workload's proof holds";

/// Whether the engine let the run die, and not its function.
pub(super) fn is_by_engine(died: &Died) -> bool {
    matches!(died.failure.class.as_str(), WORKER_LOST | UNREGISTERED_WORKFLOW) && died.end.is_none()
}

pub(super) fn at_the_end(
    durable: &Durable,
    ledger: &Ledger,
    plan: &Plan,
    findings: &mut Findings<'_>,
) {
    for (no, run) in &durable.runs {
        let Some(started) = run.started() else {
            continue;
        };
        let asked = |job: &TimedJob| match &job.job {
            Job::Start { name, .. } => Some(name) == started.name.as_ref(),
            Job::StartMany { runs, .. } => {
                runs.iter().any(|(name, _)| Some(name) == started.name.as_ref())
            }
            Job::StartUnique { name, .. } => Some(name) == started.name.as_ref(),
            Job::AtomicStart { runs, .. } => {
                runs.iter().any(|(name, _)| Some(name) == started.name.as_ref())
            }
            Job::Batch { name, parts, .. } => {
                // What follows has no name; another checker knows it.
                let names = parts.iter().flatten().map(|(name, _)| Some(name));
                let is_follower = started.workflow == FOLLOW.name();
                let is_late = started.name == Some(late_run(name));
                is_follower
                    || is_late
                    || names.into_iter().any(|name| name == started.name.as_ref())
            }
            Job::SetSchedule(schedule) => started
                .name
                .as_ref()
                .is_some_and(|name| name.starts_with(&format!("schedule/{}/", schedule.name))),
            _ => false,
        };
        if !plan.jobs.iter().any(asked) {
            findings.report(NAME, format!("{} was never asked for", run.name()));
        }
        let problem = match started.workflow.as_str() {
            name if name == CHAIN.name() || name == ERRAND.name() => chain(*no, run, ledger),
            name if name == CHECKOUT.name() => checkout(run),
            name if name == SOLO.name() => solo(run),
            name if name == LIMITED.name() => limited(*no, run, ledger),
            name if name == POISON.name() => poison(run),
            name if name == ORPHAN.name() => orphan(*no, run, ledger),
            name if name == RING.name() => ring(*no, run, ledger),
            name if name == ITEM.name() => item(run),
            name if name == SHARED.name() => shared(run, ledger),
            name if name == FOLLOW.name() => Ok(()),
            other => Err(format!("there is no workflow {other}")),
        };
        if let Err(problem) = problem {
            findings.report(NAME, format!("{}: {problem}", run.name()));
        }
    }
}

fn input<T: serde::de::DeserializeOwned>(run: &DurableRun) -> Result<T, String> {
    let input = run.input().ok_or("no start")?;
    input.to().map_err(|error| error.to_string())
}

fn may_die(run: &DurableRun, failure: &Failure, planned: bool) -> Result<(), String> {
    match failure.class.as_str() {
        WORKER_LOST => Ok(()),
        // All workers know the others, and the count runs only while one of them serves the queue.
        UNREGISTERED_WORKFLOW if is_orphan(run) => Ok(()),
        DECLINED if planned => Ok(()),
        _ if gave_up(run, failure) => Ok(()),
        _ => Err(format!("it died of what nobody planned: {failure:?}")),
    }
}

fn is_orphan(run: &DurableRun) -> bool {
    let started = run.started();
    started.is_some_and(|started| started.workflow == ORPHAN.name())
}

/// Whether it failed for the last time so long after it had failed first that no retry was left:
/// its clock has jumped. Of steps with retries left the whole function is the last.
fn gave_up(run: &DurableRun, failure: &Failure) -> bool {
    let policy = Retry::default();
    let longest = Duration::from_millis(policy.backoff_max_ms * 2);
    let patience = Duration::from_millis(policy.give_up_after_ms).saturating_sub(longest);
    let ends = run.entries.iter().filter_map(|entry| match entry {
        Entry::StepFailed(end) if end.failure == *failure => Some((end.number, end.at)),
        Entry::Died(end) if end.failure == *failure => Some((CommandIndex::FUNCTION, end.at)),
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
    match run.end().map(|(_, end)| end) {
        Some(Entry::Completed(completed)) => {
            let value = |number| {
                ledger
                    .effect_of(no, CALL, &format!("{id}-{number}"))
                    .map_or(0, |effect| effect.value)
            };
            let (links, result) = chain_expected(&input, value);
            let found: u64 = completed.output.to().map_err(|error| error.to_string())?;
            if found != result {
                return Err(format!("the chain ends with {found:016x} instead of {result:016x}"));
            }
            let requests: Vec<String> =
                (0..).zip(links).map(|(place, link)| chain_request(place, link)).collect();
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
    let asked = run.entries.iter().any(|entry| matches!(entry, Entry::CancelRequested(_)));
    asked.then_some(()).ok_or_else(|| "it was cancelled and nobody asked for that".to_owned())
}

fn checkout(run: &DurableRun) -> Result<(), String> {
    let order: Order = input(run)?;
    let outputs = |name: &str| -> Vec<u64> {
        let mut found: Vec<(u32, u64)> = run
            .entries
            .iter()
            .filter_map(|entry| match entry {
                Entry::StepCompleted(step) if step.location.name == name => {
                    Some((step.number.0, step.output.to().unwrap_or(0)))
                }
                _ => None,
            })
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, value)| value).collect()
    };
    match run.end().map(|(_, end)| end) {
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
            if receipt.answer.is_some_and(|answer| !outputs("ask").contains(&answer)) {
                return Err("the receipt has an answer that nobody gave".to_owned());
            }
            (!order.declined)
                .then_some(())
                .ok_or_else(|| "it completed with a declined card".to_owned())
        }
        Some(Entry::Died(died)) => may_die(run, &died.failure, order.declined),
        Some(Entry::Cancelled(_)) => {
            // A charge that is recorded after the request was pending then: the function saw it
            // cancelled.
            let asked = |entry: &&Entry| !matches!(entry, Entry::CancelRequested(_));
            let charged = |entry: &Entry| matches!(entry, Entry::StepCompleted(step) if step.location.name == "charge");
            let charged = run.entries.iter().take_while(asked).any(charged);
            if charged && outputs("refund").is_empty() {
                return Err("it was cancelled, charged and not refunded".to_owned());
            }
            was_asked_to_stop(run)
        }
        _ => Ok(()),
    }
}

fn ring(no: RunNo, run: &DurableRun, ledger: &Ledger) -> Result<(), String> {
    match run.end().map(|(_, end)| end) {
        Some(Entry::Completed(_)) => super::ring::moved(no, run, ledger),
        Some(Entry::Died(died)) => may_die(run, &died.failure, false),
        Some(Entry::Cancelled(_)) => was_asked_to_stop(run),
        _ => Ok(()),
    }
}

/// An item dies of what it is doomed to, and of nothing that befell its neighbours.
fn item(run: &DurableRun) -> Result<(), String> {
    let input = input_of_last_life(run).ok_or("no start")?;
    let input: ItemInput = input.to().map_err(|error| error.to_string())?;
    match run.end().map(|(_, end)| end) {
        Some(Entry::Completed(_)) if input.doomed => {
            Err("it completed and was to fail for good".to_owned())
        }
        Some(Entry::Completed(completed)) => {
            let told: u64 = completed.output.to().map_err(|error| error.to_string())?;
            let outcome = run.entries.iter().find_map(|entry| match entry {
                Entry::StepCompleted(step) => step.output.to::<u64>().ok(),
                _ => None,
            });
            let failed = |entry: &&Entry| matches!(entry, Entry::AttemptFailed(_));
            let failures = last_life(run).iter().filter(failed).count();
            if outcome != Some(told) || failures < input.failures as usize {
                return Err(format!(
                    "it answered {told} after {failures} failures, its step {outcome:?}"
                ));
            }
            Ok(())
        }
        Some(Entry::Died(died)) => may_die(run, &died.failure, input.doomed),
        Some(Entry::Cancelled(_)) => was_asked_to_stop(run),
        _ => Ok(()),
    }
}

fn solo(run: &DurableRun) -> Result<(), String> {
    let input: Solo = input(run)?;
    match run.end().map(|(_, end)| end) {
        Some(Entry::Completed(completed)) => {
            let (found, pad): (u64, String) =
                completed.output.to().map_err(|error| error.to_string())?;
            let failed = |entry: &&Entry| matches!(entry, Entry::AttemptFailed(_));
            let failures = last_life(run).iter().filter(failed).count();
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

/// It returned what its steps recorded, and all of that is what the world answered under the key.
fn shared(run: &DurableRun, ledger: &Ledger) -> Result<(), String> {
    let input: Shared = input(run)?;
    let mut recorded: Vec<(u32, Found)> = Vec::new();
    for entry in &run.entries {
        if let Entry::StepCompleted(step) = entry {
            let found: Found = step.output.to().map_err(|error| error.to_string())?;
            let happened = ledger.happened().iter().any(|happened| {
                happened.effect == MEMO
                    && happened.request == step.location.name
                    && happened.value == found.value
            });
            if !happened {
                return Err(format!("{found:?} never happened"));
            }
            recorded.push((step.number.0, found));
        }
    }
    recorded.sort_by_key(|(number, _)| *number);
    let recorded: Vec<Found> = recorded.into_iter().map(|(_, found)| found).collect();
    match run.end().map(|(_, end)| end) {
        Some(Entry::Completed(completed)) => {
            let returned: Vec<Found> = completed.output.to().map_err(|e| e.to_string())?;
            (returned == recorded && returned.len() == input.keys.len())
                .then_some(())
                .ok_or_else(|| format!("it returned {returned:?} instead of {recorded:?}"))
        }
        Some(Entry::Cancelled(_)) => was_asked_to_stop(run),
        Some(Entry::Died(died)) => may_die(run, &died.failure, false),
        _ => Ok(()),
    }
}

/// The entries since it was redriven last: from then on its attempts are counted anew.
fn last_life(run: &DurableRun) -> &[Entry] {
    let redriven = |entry: &Entry| matches!(entry, Entry::Redriven(_));
    let at = run.entries.iter().rposition(redriven);
    &run.entries[at.unwrap_or(0)..]
}

/// The attempts failed as planned, in their order, and no others before the call.
fn limited(no: RunNo, run: &DurableRun, ledger: &Ledger) -> Result<(), String> {
    let input: Limited = input(run)?;
    let mut failures = last_life(run).iter().filter_map(|entry| match entry {
        Entry::AttemptFailed(failed) => Some(&failed.failure),
        Entry::StepFailed(failed) => Some(&failed.failure),
        _ => None,
    });
    let end = run.entries.last();
    if let Some(Entry::Died(died)) = end
        && (died.failure.class == WORKER_LOST || gave_up(run, &died.failure))
    {
        return Ok(());
    }
    if let Some(Entry::Cancelled(_)) = end {
        return was_asked_to_stop(run);
    }
    for (nth, deed) in input.deeds.iter().enumerate() {
        let failure = failures.next();
        if !failure.is_some_and(|failure| fits(*deed, failure)) {
            return Err(format!("attempt {} was to be {deed:?}, not {failure:?}", nth + 1));
        }
    }
    match end {
        Some(Entry::Completed(completed)) if !input.dies => {
            let key = format!("{}-0", run.started().ok_or("no start")?.id);
            let value = ledger.effect_of(no, CALL, &key).map(|effect| effect.value);
            (completed.output.to().ok() == value)
                .then_some(())
                .ok_or_else(|| format!("it returned something else than {value:?}"))
        }
        Some(Entry::Died(died)) if input.dies => match failures.next() {
            None => Ok(()),
            Some(more) => Err(format!("one attempt more was made: {more:?}, {:?}", died.failure)),
        },
        Some(Entry::Completed(_) | Entry::Died(_)) => Err(format!("it was to die: {}", input.dies)),
        _ => Ok(()),
    }
}

/// A worker that stood still may find the timeout passed together with the soft timeout.
fn fits(deed: Behavior, failure: &Failure) -> bool {
    let classes: &[&str] = match deed {
        Behavior::Fails => &[PLANNED],
        Behavior::ComesLater { .. } => &["retry after"],
        Behavior::Hangs => &["time limit"],
        Behavior::CleansUp { .. } => &[CLEANED, "time limit"],
    };
    classes.contains(&failure.class.as_str())
}

/// The function that ended it had the input that was edited last before it was redriven last.
fn input_of_last_life(run: &DurableRun) -> Option<&Payload> {
    let redriven = run.entries.iter().rposition(|entry| matches!(entry, Entry::Redriven(_)));
    let before = &run.entries[..redriven.unwrap_or(0)];
    let edited = before.iter().rev().find_map(|entry| match entry {
        Entry::InputEdited(edited) => Some(&edited.input),
        _ => None,
    });
    edited.or(run.started().map(|started| &started.input))
}

fn poison(run: &DurableRun) -> Result<(), String> {
    let input = input_of_last_life(run).ok_or("no start")?;
    let input: Result<Poison, _> = input.to();
    match (run.end().map(|(_, end)| end), input) {
        (Some(Entry::Completed(completed)), Ok(input)) => {
            let dose: Dose = completed.output.to().map_err(|error| error.to_string())?;
            let own = input.ill == Ill::Own && !input.cured;
            if own || dose.salt != input.salt || dose.before.len() != input.before as usize + 1 {
                return Err(format!("it answered {dose:?} for {input:?}"));
            }
            Ok(())
        }
        (Some(Entry::Completed(_)), Err(error)) => {
            Err(format!("it completed with an input that nobody reads: {error}"))
        }
        (Some(Entry::Died(died)), Ok(input)) => {
            let poisoned =
                died.failure.class == POISONED && (!input.cured || failed_before_edit(run, died));
            let tired = input.ill == Ill::Retries; // of the provider
            if poisoned || tired {
                return Ok(());
            }
            may_die(run, &died.failure, false)
        }
        (Some(Entry::Died(died)), Err(_)) if died.failure.class == "input" => Ok(()),
        (Some(Entry::Died(died)), Err(_)) => may_die(run, &died.failure, false),
        (Some(Entry::Cancelled(_)), _) => was_asked_to_stop(run),
        _ => Ok(()),
    }
}

/// Whether the step that it died of had failed with an earlier input. A redrive supersedes what the
/// run died of before, which may have been the loss of its workers: the step's failure stays.
fn failed_before_edit(run: &DurableRun, died: &Died) -> bool {
    let edited = |entry: &Entry| matches!(entry, Entry::InputEdited(_));
    let edited = run.entries.iter().rposition(edited).unwrap_or(0);
    let failed = |entry: &Entry| matches!(entry, Entry::StepFailed(e) if e.failure == died.failure);
    run.entries[..edited].iter().any(failed)
}

fn orphan(no: RunNo, run: &DurableRun, ledger: &Ledger) -> Result<(), String> {
    let id = run.started().ok_or("no start")?.id;
    let input = input_of_last_life(run).ok_or("no start")?;
    match run.end().map(|(_, end)| end) {
        Some(Entry::Completed(completed)) => {
            let salt: u64 = input.to().map_err(|error| error.to_string())?;
            let found: u64 = completed.output.to().map_err(|error| error.to_string())?;
            let value =
                ledger.effect_of(no, CALL, &format!("{id}-0")).map_or(0, |effect| effect.value);
            (found == orphan_expected(salt, value))
                .then_some(())
                .ok_or_else(|| format!("it answered {found:016x}"))
        }
        Some(Entry::Died(died)) => may_die(run, &died.failure, false),
        Some(Entry::Cancelled(_)) => was_asked_to_stop(run),
        _ => Ok(()),
    }
}
