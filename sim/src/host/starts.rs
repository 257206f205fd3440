//! A client that starts runs with unique keys, all of several or none, and batches.

use serde_json::Value;
use stepwell::model::request::Refusal;
use stepwell::{Client, ClientError, Workflow};

use super::client::{again, answer_of, begins, tell_start, unknown, wrong};
use crate::client_log::{Answer, Asked, CallNo, run_id};
use crate::draw::Draw;
use crate::plan::{Hold, Work};
use crate::workload::FOLLOW;
use crate::world::Host;

/// A start with a unique key: it may be answered with another run, which must have held the key
/// meanwhile.
pub(super) async fn unique(
    host: &Host,
    client: &Client,
    name: &str,
    (key, hold): (&str, Hold),
    work: Work,
) {
    let Some(workflow) = host.world.program.workflow(&work.workflow) else {
        return unknown(host, &work.workflow);
    };
    loop {
        let begun = host.world.checkers().keys_asked(&work.workflow, key);
        let call = host.begins_call(name, begins(&work, 0));
        let start = client.start(workflow, &work.input).name(name);
        match start.unique(key, hold.scope()).await {
            Ok(run) => {
                let (id, started) = (run.id(), run.started());
                host.line(format_args!("is told of {name}, key {key}: {id}, started: {started}"));
                // Answered with another run, it may have begun its own before: that stays unknown.
                if id == run_id(name) {
                    host.ends_call(call, Answer::Started(started));
                }
                let now_ms = host.now_ms();
                host.world.checkers().key_answered(now_ms, &begun, (name, id, started));
                return;
            }
            Err(ClientError::Refused(refusal)) => {
                return wrong(host, format!("the start of {name} was refused: {refusal}"));
            }
            Err(error) => {
                host.ends_call(call, &error);
                again(host).await;
            }
        }
    }
}

fn works(workflow: &str, runs: &[(String, Value)]) -> Vec<(String, Work)> {
    let work = |(name, input): &(String, Value)| {
        let (workflow, input) = (workflow.to_owned(), input.clone());
        (name.clone(), Work { workflow, input })
    };
    runs.iter().map(work).collect()
}

fn named(runs: Vec<(String, Value)>) -> Vec<(Option<String>, Value)> {
    let named = runs.into_iter().map(|(name, input)| (Some(name), input));
    named.collect()
}

fn begin_calls(host: &Host, works: &[(String, Work)]) -> Vec<CallNo> {
    let begin = |(name, work): &(String, Work)| host.begins_call(name, begins(work, 0));
    works.iter().map(begin).collect()
}

/// All answers of a call.
fn end_calls(
    host: &Host,
    calls: Vec<CallNo>,
    works: Vec<(String, Work)>,
    answers: Vec<Result<bool, Refusal>>,
) {
    for (((name, work), answer), call) in works.into_iter().zip(answers).zip(calls) {
        let answer = answer.map_err(ClientError::Refused);
        host.ends_call(call, &answer);
        match answer_of(answer) {
            Ok(answer) => tell_start(host, &name, work, answer),
            Err(error) => wrong(host, format!("the start of {name} was refused: {error}")),
        }
    }
}

/// Starts all of several runs, or none.
pub(super) async fn atomic(
    host: &Host,
    client: &Client,
    workflow: &str,
    runs: Vec<(String, Value)>,
) {
    let Some(known) = host.world.program.workflow(workflow) else {
        return unknown(host, workflow);
    };
    loop {
        let works = works(workflow, &runs);
        let calls = begin_calls(host, &works);
        let start = client.start_many(known, named(runs.clone()));
        match start.atomic().await {
            Ok(answers) if answers.iter().any(Result::is_err) => {
                let text = "an atomic start was answered in part";
                return wrong(host, text.to_owned());
            }
            Ok(answers) => {
                host.world.saw("calls that started all");
                let started = answers.into_iter().map(|answer| Ok(answer?.started()));
                return end_calls(host, calls, works, started.collect());
            }
            Err(error) => {
                let refused = matches!(error, ClientError::Refused(Refusal::NotAllStarted(_)));
                for call in calls {
                    host.ends_call(call, &error);
                }
                match error {
                    _ if refused => return host.world.saw("calls that started none"),
                    ClientError::Refused(refusal) => {
                        return wrong(host, format!("a call for all was refused: {refusal}"));
                    }
                    _ => again(host).await,
                }
            }
        }
    }
}

/// A batch, part by part.
pub(super) async fn batch(
    host: &Host,
    client: &Client,
    (name, workflow): (&str, &str),
    parts: Vec<Vec<(String, Value)>>,
    salt: u64,
) {
    let Some(known) = host.world.program.workflow(workflow) else {
        return unknown(host, workflow);
    };
    let last = parts.len().saturating_sub(1);
    let input = parts.iter().flatten().map(|(_, input)| input.clone()).next();
    for (at, runs) in parts.into_iter().enumerate() {
        if !part(host, client, (name, known), runs, salt, at == last).await {
            return;
        }
    }
    host.world.saw("batches sealed");
    let comes_late = Draw::of(host.world.plan.seed, "part after the seal").chance(400);
    if let Some(input) = input.filter(|_| comes_late) {
        part_after_seal(host, client, (name, known), input).await;
    }
}

/// One run more for a batch that was told to be sealed: it is refused, unless the batch is
/// forgotten by then.
async fn part_after_seal(
    host: &Host,
    client: &Client,
    (name, workflow): (&str, Workflow<Value, Value>),
    input: Value,
) {
    let run = (Some(late_run(name)), input);
    let told = client.batch(name).starts(workflow, vec![run]).add().await;
    match told.map(|told| told.runs) {
        Ok(runs) if runs.iter().all(Result::is_err) => host.world.saw("runs refused by a seal"),
        Ok(_) if !host.world.checkers().durable.forgotten_batches.is_empty() => {}
        Ok(_) => wrong(host, format!("`{name}` is sealed and took a run")),
        Err(ClientError::Refused(Refusal::BatchSealed(_))) => {
            host.world.saw("runs refused by a seal");
        }
        Err(ClientError::Refused(refusal)) => {
            wrong(host, format!("a run for `{name}` was refused: {refusal}"));
        }
        Err(_) => {}
    }
}

/// The name of the run that comes after the seal.
pub(crate) fn late_run(batch: &str) -> String {
    format!("{batch}-late")
}

/// All runs of a batch are asked to stop. Which of them is not told: to the model each may have
/// been asked, or not.
pub(super) async fn cancel_batch(host: &Host, client: &Client, name: &str, runs: &[String]) {
    for run in runs {
        host.begins_call(run, Asked::Cancel);
    }
    let meant = host.world.checkers().batch_goes_on(name);
    match client.cancel_batch(name, "the plan says so").await {
        Ok(_) => {
            host.world.saw("batches cancelled");
            let mut checkers = host.world.checkers();
            checkers.batch_cancelled(host.now_ms(), name, &meant);
        }
        Err(ClientError::Refused(Refusal::NoSuchBatch(_))) => {}
        // Its runs are listed first, and a disk that cannot be read says so.
        Err(ClientError::Refused(Refusal::Damaged(_))) if host.world.plan.fails_to_read() => {
            host.world.saw("cancels of batches with unknown outcome");
        }
        Err(ClientError::Refused(refusal)) => {
            wrong(host, format!("the cancel of a batch was refused: {refusal}"));
        }
        Err(_) => host.world.saw("cancels of batches with unknown outcome"),
    }
}

async fn part(
    host: &Host,
    client: &Client,
    (name, workflow): (&str, Workflow<Value, Value>),
    runs: Vec<(String, Value)>,
    salt: u64,
    seals: bool,
) -> bool {
    loop {
        let works = works(workflow.name(), &runs);
        let calls = begin_calls(host, &works);
        let batch = client.batch(name).starts(workflow, named(runs.clone())).then(FOLLOW, &salt);
        let answered = match seals {
            true => batch.start().await,
            false => batch.add().await,
        };
        match answered {
            Ok(told) => {
                let started = told.runs.into_iter().map(|answer| Ok(answer?.started()));
                end_calls(host, calls, works, started.collect());
                return true;
            }
            Err(error) => {
                for call in calls {
                    host.ends_call(call, &error);
                }
                if let ClientError::Refused(refusal) = error {
                    wrong(host, format!("a part of a batch was refused: {refusal}"));
                    return false;
                }
                again(host).await;
            }
        }
    }
}
