//! A client that does its jobs of the plan, and one that asks about everything in the end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use stepwell::model::dead::DeadFilter;
use stepwell::model::id::RequestId;
use stepwell::model::payload::Payload;
use stepwell::model::request::{ListRuns, Refusal};
use stepwell::model::run::Stats;
use stepwell::runtime::link::NetDial;
use stepwell::{Client, ClientError, QueueChange, RateLimit};

use super::{SERVER, schedule, starts};
use crate::client_log::{
    Asked, AskedAction, CallNo, OutcomeTold, Progress, StartAnswer, StartTold, run_id,
};
use crate::event::What;
use crate::plan::{Job, PlannedAction, Work};
use crate::world::{Host, World};

/// How long a call may take.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How long a call of the audit may take: a connection whose welcome was lost in the last cut is
/// given up first.
const AUDIT_TIMEOUT: Duration = Duration::from_secs(15);
/// The wait before a start without an answer is repeated.
const AGAIN: Duration = Duration::from_millis(100);
/// How often it looks whether the end has come.
const LOOK: Duration = Duration::from_millis(50);
/// So long after the faults queues stay limited.
const TIDY_MS: u64 = 5_000;
/// Schedules go on for so long after the faults; then they are removed, so that everything ends.
const SCHEDULES_GO_ON_MS: u64 = 3_000;
/// How often the engine is asked for its counts until it reads nothing.
const STATS_TRIES: u32 = 10;
/// Outcomes asked for at once in the end.
const AT_ONCE: usize = 16;
/// Rows asked for at once in the end: few, so that pages are turned.
const PAGE: u32 = 7;

/// One life of client number `number`. The first stays to the end, the others leave when they have
/// nothing left to do and nothing can happen to them any more.
pub(crate) async fn ask(world: Arc<World>, number: u32) -> turmoil::Result {
    let host = Host::begin(&world, &format!("client-{number}"));
    let env = host.env();
    let client = Client::new(Arc::new(NetDial::new(env.clone(), SERVER)), env)
        .principal(host.name.clone())
        .timeout(TIMEOUT);
    world.client_log().client_begins(&world.plan, number);
    for (index, job) in world.plan.jobs.iter().enumerate() {
        if job.client == number && world.client_log().jobs[index] == Progress::Waits {
            tokio::spawn(begin(host.clone(), client.clone(), index));
        }
    }
    loop {
        host.rest(LOOK).await;
        if world.client_log().has_left(&world.plan, number, host.now_ms()) {
            return Ok(());
        }
        if number == 1 && world.program.is_engine {
            tidy(&host, &client).await;
        }
        if number == 1 && host.now_ms() >= world.plan.settings.faults_end_ms + SCHEDULES_GO_ON_MS {
            schedule::remove_all(&host, &client).await;
        }
        if number == 1
            && world.audit.load(Ordering::Relaxed)
            && !world.audited.load(Ordering::Relaxed)
        {
            // Again, if runs outlived their retention while they were counted.
            let forgotten = || world.checkers().durable.forgotten_count();
            loop {
                let before = forgotten();
                audit(&host, &client.clone().timeout(AUDIT_TIMEOUT)).await;
                if forgotten() == before {
                    break;
                }
                world.client_log().listed.clear();
            }
            world.audited.store(true, Ordering::Relaxed);
        }
    }
}

/// One job, from its time to its end.
async fn begin(host: Arc<Host>, client: Client, index: usize) {
    let timed = host.world.plan.jobs[index].clone();
    host.rest(Duration::from_millis(timed.at_ms.saturating_sub(host.now_ms()))).await;
    host.world.client_log().jobs[index] = Progress::Runs(host.life);
    let (call, runs) = timed.job.brief();
    host.record(|_| What::Asked { job: index, call: call.to_owned(), runs });
    match timed.job {
        Job::Start { name, work, delay_ms, priority, tags } => {
            let how = (Duration::from_millis(delay_ms), priority, tags);
            start(&host, &client, &name, work, how).await;
        }
        Job::StartMany { workflow, runs } => start_many(&host, &client, &workflow, runs).await,
        Job::StartUnique { name, key, hold, work } => {
            starts::unique(&host, &client, &name, (&key, hold), work).await
        }
        Job::AtomicStart { workflow, runs } => {
            starts::atomic(&host, &client, &workflow, runs).await;
        }
        Job::Batch { name, workflow, parts, salt } => {
            starts::batch(&host, &client, (&name, &workflow), parts, salt).await
        }
        Job::Cancel { name } => cancel(&host, &client, &name).await,
        Job::CancelBatch { name, runs } => {
            starts::cancel_batch(&host, &client, &name, &runs).await;
        }
        Job::Wait { name } => wait(&host, &client, &name).await,
        Job::Ask { name } => look(&host, &client, &name).await,
        Job::SetQueue { queue, change } => {
            if client.queues().set(&queue, change).await.is_ok() {
                host.world.saw("queues set");
            }
        }
        Job::Gauges => gauges(&host, &client).await,
        Job::Act { name, act } => operate(&host, &client, &name, act).await,
        job => schedule::ask(&host, &client, job).await,
    }
    host.record(|_| What::Settled { job: index });
    host.world.client_log().jobs[index] = Progress::Over;
}

/// How a run is started: its delay, its priority, its tags.
type How = (Duration, u8, Vec<String>);

async fn start(host: &Host, client: &Client, name: &str, work: Work, how: How) {
    let (delay, priority, tags) = how;
    let Some(workflow) = host.world.program.workflow(&work.workflow) else {
        return unknown(host, &work.workflow);
    };
    loop {
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or_default();
        let call = host.begins_call(name, begins(&work, delay_ms));
        let answer = client
            .start(workflow, &work.input)
            .name(name)
            .delay(delay)
            .priority(priority)
            .tags(tags.clone())
            .await
            .map(|run| run.started());
        host.ends_call(call, &answer);
        match answer_of(answer) {
            Ok(answer) => return tell_start(host, name, work, answer),
            Err(error) => match error {
                ClientError::Refused(refusal) => {
                    return wrong(host, format!("the start of {name} was refused: {refusal}"));
                }
                _ => again(host).await,
            },
        }
    }
}

async fn start_many(host: &Host, client: &Client, workflow: &str, runs: Vec<(String, Value)>) {
    let Some(known) = host.world.program.workflow(workflow) else {
        return unknown(host, workflow);
    };
    loop {
        let named = runs.iter().map(|(name, input)| (Some(name.clone()), input.clone())).collect();
        let work = |input: &Value| Work { workflow: workflow.to_owned(), input: input.clone() };
        let calls =
            runs.iter().map(|(name, input)| host.begins_call(name, begins(&work(input), 0)));
        let calls: Vec<CallNo> = calls.collect();
        let answers = match client.start_many(known, named).await {
            Ok(answers) => answers,
            Err(ClientError::Refused(refusal)) => {
                return wrong(host, format!("a crowd was refused: {refusal}"));
            }
            Err(error) => {
                let unanswered = |call| host.ends_call(call, &error);
                calls.into_iter().for_each(unanswered);
                again(host).await;
                continue;
            }
        };
        for (((name, input), answer), call) in runs.iter().zip(answers).zip(calls) {
            let answer = answer.map(|run| run.started()).map_err(ClientError::Refused);
            host.ends_call(call, &answer);
            match answer_of(answer) {
                Ok(answer) => tell_start(host, name, work(input), answer),
                Err(error) => wrong(host, format!("the start of {name} was refused: {error}")),
            }
        }
        return;
    }
}

pub(super) fn begins(work: &Work, delay_ms: u64) -> Asked {
    Asked::Start { workflow: work.workflow.clone(), input: payload_of(work), delayed: delay_ms > 0 }
}

pub(super) fn unknown(host: &Host, workflow: &str) {
    let suite = &host.world.program.name;
    wrong(host, format!("the suite `{suite}` has no workflow `{workflow}`"));
}

/// An answer that settles the question.
pub(super) fn answer_of(answer: Result<bool, ClientError>) -> Result<StartAnswer, ClientError> {
    match answer {
        Ok(started) => Ok(StartAnswer::Exists { started }),
        Err(ClientError::Refused(Refusal::IdTaken(_))) => Ok(StartAnswer::Taken),
        Err(error) => Err(error),
    }
}

pub(super) fn tell_start(host: &Host, name: &str, work: Work, answer: StartAnswer) {
    host.tell(format_args!("is told of {name}: {answer:?}"), || What::ClientLog {
        run: name.to_owned(),
        answer: match answer {
            StartAnswer::Exists { started: true } => "it is started".to_owned(),
            StartAnswer::Exists { started: false } => "it was there already".to_owned(),
            StartAnswer::Taken => "another run has the name".to_owned(),
        },
    });
    host.world.client_log().starts.push(StartTold { name: name.to_owned(), work, answer });
}

pub(super) fn wrong(host: &Host, text: String) {
    host.note(format_args!("is told what cannot be right: {text}"));
    host.world.client_log().wrong.push(text);
}

/// Whether the call has taken effect is unknown: it is made again.
pub(super) async fn again(host: &Host) {
    host.world.saw("starts with unknown outcome");
    host.rest(AGAIN).await;
}

async fn cancel(host: &Host, client: &Client, name: &str) {
    let acknowledged = host.world.client_log().is_acknowledged(name);
    let call = host.begins_call(name, Asked::Cancel);
    let answer = client.cancel(run_id(name), "the plan says so").await;
    host.ends_call(call, &answer);
    match answer {
        Ok(()) => {
            host.tell(format_args!("is told that {name} is asked to stop"), || What::ClientLog {
                run: name.to_owned(),
                answer: "it is asked to stop".to_owned(),
            });
            host.world.client_log().cancels.push(name.to_owned());
        }
        Err(error) => refused(host, name, acknowledged, &error),
    }
}

/// The same request, until it is answered.
async fn operate(host: &Host, client: &Client, name: &str, act: PlannedAction) {
    let (request_id, id) = (client.new_request_id(), run_id(name));
    loop {
        let acknowledged = host.world.client_log().is_acknowledged(name);
        let call = host.begins_call(name, asks(request_id, &act));
        let answer = match &act {
            PlannedAction::Redrive => client.redrive_as(request_id, id).await,
            PlannedAction::Discard => client.discard_as(request_id, id, "the plan says so").await,
            PlannedAction::Edit(input) => {
                client.edit_input_as(request_id, id, encoded(input)).await
            }
        };
        host.ends_call(call, &answer);
        match &answer {
            Ok(()) => {
                host.world.saw("operator requests on dead letters");
                return host.tell(format_args!("is told that {act:?} of {name} is done"), || {
                    What::ClientLog { run: name.to_owned(), answer: format!("{act:?} is done") }
                });
            }
            Err(ClientError::Refused(refusal)) => {
                if matches!(refusal, Refusal::WentOn(_)) {
                    host.world.saw("redrives refused, not redrivable");
                }
                let error = ClientError::Refused(refusal.clone());
                return refused(host, name, acknowledged, &error);
            }
            Err(_) => again(host).await,
        }
    }
}

fn asks(request_id: RequestId, act: &PlannedAction) -> Asked {
    let action = match act {
        PlannedAction::Redrive => AskedAction::Redrive,
        PlannedAction::Discard => AskedAction::Discard,
        PlannedAction::Edit(input) => AskedAction::Edit(encoded(input)),
    };
    Asked::Operate { request_id, action }
}

fn encoded(input: &Value) -> Payload {
    Payload::from_json(input)
        .unwrap_or_else(|error| panic!("an input of ours is a payload: {error}"))
}

async fn wait(host: &Host, client: &Client, name: &str) {
    let acknowledged = host.world.client_log().is_acknowledged(name);
    let call = host.begins_call(name, Asked::Outcome { waits: true });
    let answer = client.outcome(run_id(name), true).await;
    host.ends_call(call, &answer);
    match answer {
        Ok(outcome) => tell(host, name, outcome),
        Err(error) => refused(host, name, acknowledged, &error),
    }
}

/// A question about a run that had been acknowledged before (or not) got this error.
fn refused(host: &Host, name: &str, acknowledged: bool, error: &ClientError) {
    let forgotten = host.world.checkers().durable.was_forgotten(run_id(name));
    host.world.client_log().refused(name, acknowledged && !forgotten, error);
}

fn tell(host: &Host, name: &str, outcome: stepwell::model::run::Outcome) {
    let at_ms = host.now_ms();
    let kind = outcome.kind_name();
    host.tell(format_args!("is told the outcome of {name}: {kind}"), || What::ClientLog {
        run: name.to_owned(),
        answer: format!("its outcome: {kind}"),
    });
    let (name, client) = (name.to_owned(), host.name.clone());
    host.world.client_log().outcomes.push(OutcomeTold { name, client, at_ms, outcome });
}

/// Asks how the queues are. What is told must be true at some instant of the call.
async fn gauges(host: &Host, client: &Client) {
    let from = host.world.checkers().gauges_asked();
    if let Ok(queues) = client.queues().list().await {
        let mut checkers = host.world.checkers();
        checkers.gauges_told(host.now_ms(), from, &queues);
        drop(checkers);
        host.world.saw("gauges read");
    }
}

/// Once faults are over: what is paused goes on, and somewhat later what is limited, too. An old
/// command may come late that had never come before, so this is done again.
async fn tidy(host: &Host, client: &Client) {
    let over_ms = host.world.plan.settings.faults_end_ms;
    if host.now_ms() < over_ms {
        return;
    }
    let name = crate::workload::ERRAND.queue_name();
    let settings = {
        let checkers = host.world.checkers();
        checkers.durable.queue_named(name).map(|queue| queue.settings)
    };
    let Some(settings) = settings else { return };
    let late = host.now_ms() > over_ms + TIDY_MS;
    let limited = settings.concurrency.is_some() || settings.rate.is_some();
    if !(settings.paused || late && limited) {
        return;
    }
    let change = QueueChange::default()
        .paused(false)
        .concurrency(late.then_some(0))
        .rate(late.then_some(RateLimit::NONE));
    let _ = client.queues().set(name, change).await;
}

async fn look(host: &Host, client: &Client, name: &str) {
    let acknowledged = host.world.client_log().is_acknowledged(name);
    let call = host.begins_call(name, Asked::Status);
    let answer = client.status(run_id(name)).await;
    host.ends_call(call, &answer);
    if let Err(error) = answer {
        return refused(host, name, acknowledged, &error);
    }
    // Hardly ever is there anything to resume; the refusal tells where the run is as well.
    let call = host.begins_call(name, Asked::Resume);
    host.ends_call(call, &client.resume(run_id(name)).await);
    let call = host.begins_call(name, Asked::Outcome { waits: false });
    host.ends_call(call, &client.outcome(run_id(name), false).await);
}

async fn audit_outcome(host: &Host, client: &Client, name: &str) {
    let call = host.begins_call(name, Asked::Outcome { waits: false });
    let answer = client.outcome(run_id(name), false).await;
    host.ends_call(call, &answer);
    match answer {
        Ok(outcome) => tell(host, name, outcome),
        Err(ClientError::Refused(Refusal::NoSuchRun(_)))
            if host.world.checkers().durable.was_forgotten(run_id(name)) => {}
        Err(error) => host
            .world
            .client_log()
            .wrong
            .push(format!("the outcome of {name} is not to be had: {error}")),
    }
}

/// Asks about everything that anybody was told of.
async fn audit(host: &Host, client: &Client) {
    let names: std::collections::BTreeSet<String> = {
        let told = host.world.client_log();
        told.starts.iter().map(|start| start.name.clone()).collect()
    };
    let names: Vec<String> = names.into_iter().collect();
    for some in names.chunks(AT_ONCE) {
        join_all(some.iter().map(|name| audit_outcome(host, client, name))).await;
    }
    let mut before = None;
    loop {
        match client.list(ListRuns::default().before(before).limit(PAGE)).await {
            Ok((rows, next)) => {
                host.world.client_log().listed.extend(rows.into_iter().map(|row| (row.id, row)));
                before = next;
            }
            Err(error) => {
                return host
                    .world
                    .client_log()
                    .wrong
                    .push(format!("the runs are not listed: {error}"));
            }
        }
        if before.is_none() {
            break;
        }
    }
    if let Err(error) = list_letters_and_audit(host, client).await {
        let text = format!("the dead letters and audit entries are not listed: {error}");
        return host.world.client_log().wrong.push(text);
    }
    match stats_at_rest(host, client).await {
        Ok(stats) => host.world.client_log().stats = Some(stats),
        Err(error) => {
            host.world.client_log().wrong.push(format!("the counts are not to be had: {error}"))
        }
    }
}

async fn list_letters_and_audit(host: &Host, client: &Client) -> Result<(), ClientError> {
    let (mut letters, mut behind) = (Vec::new(), None);
    loop {
        let all = DeadFilter::default();
        let (page, next) = client.dead_letters(&all, behind, PAGE).await?;
        letters.extend(page.into_iter().map(|letter| letter.no));
        behind = next;
        if behind.is_none() {
            break;
        }
    }
    let (mut acts, mut behind) = (Vec::new(), None);
    loop {
        let (page, next) = client.audit(None, behind, PAGE).await?;
        acts.extend(page.into_iter().map(|act| (act.at, act.action)));
        behind = next;
        if behind.is_none() {
            break;
        }
    }
    let mut told = host.world.client_log();
    (told.letters, told.acts) = (Some(letters), Some(acts));
    Ok(())
}

/// The engine's counts, once it reads nothing. Copies of old questions still arrive, and are read
/// for.
async fn stats_at_rest(host: &Host, client: &Client) -> Result<Stats, ClientError> {
    let mut tries = 0;
    loop {
        let stats = client.stats().await?;
        tries += 1;
        if stats.in_memory.reads == 0 || tries == STATS_TRIES {
            return Ok(stats);
        }
        host.rest(LOOK).await;
    }
}

/// An input as it is stored.
pub(crate) fn payload_of(work: &Work) -> Payload {
    encoded(&work.input)
}
