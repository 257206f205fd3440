//! A client that does its jobs of the plan, and one that asks about everything in the end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use stepwell::model::command::{ListRuns, Refusal};
use stepwell::model::payload::Payload;
use stepwell::model::run::Stats;
use stepwell::runtime::link::NetDial;
use stepwell::{Client, ClientError};

use super::SERVER;
use crate::plan::{ChainInput, Job, Work};
use crate::told::{OutcomeTold, Progress, StartAnswer, StartTold, run_id};
use crate::workload::{CHAIN, CHECKOUT, SOLO};
use crate::world::{Host, World};

/// How long a call may take.
const LIMIT: Duration = Duration::from_secs(3);
/// How long a call of the audit may take: a connection whose welcome was lost in the last cut is given up first.
const AUDIT_LIMIT: Duration = Duration::from_secs(15);
/// The wait before a start without an answer is repeated.
const AGAIN: Duration = Duration::from_millis(100);
/// How often it looks whether the end has come.
const LOOK: Duration = Duration::from_millis(50);
/// How often the engine is asked for its counts until it reads nothing.
const STATS_TRIES: u32 = 10;
/// Rows asked for at once in the end: few, so that pages are turned.
const PAGE: u32 = 7;

/// One life of client number `number`.
pub(crate) async fn ask(world: Arc<World>, number: u32) -> turmoil::Result {
    let host = Host::begin(&world, &format!("client-{number}"));
    let env = host.env();
    let client = Client::new(Arc::new(NetDial::new(env.clone(), SERVER)), env)
        .principal(host.name.clone())
        .limit(LIMIT);
    world.told().client_begins(&world.plan, number);
    for (index, job) in world.plan.jobs.iter().enumerate() {
        if job.client == number && world.told().jobs[index] == Progress::Waits {
            tokio::spawn(begin(host.clone(), client.clone(), index));
        }
    }
    loop {
        host.rest(LOOK).await;
        if number == 1
            && world.audit.load(Ordering::Relaxed)
            && !world.audited.load(Ordering::Relaxed)
        {
            // Again, if runs outlived their retention while they were counted.
            let forgotten = || world.court().durable.forgotten_count();
            loop {
                let before = forgotten();
                audit(&host, &client.clone().limit(AUDIT_LIMIT)).await;
                if forgotten() == before {
                    break;
                }
                world.told().listed.clear();
            }
            world.audited.store(true, Ordering::Relaxed);
        }
    }
}

/// One job, from its time to its end.
async fn begin(host: Arc<Host>, client: Client, index: usize) {
    let timed = host.world.plan.jobs[index].clone();
    host.rest(Duration::from_millis(
        timed.at_ms.saturating_sub(host.now_ms()),
    ))
    .await;
    host.world.told().jobs[index] = Progress::Runs(host.life);
    match timed.job {
        Job::Start {
            name,
            work,
            delay_ms,
            priority,
        } => start(&host, &client, &name, work, delay_ms, priority).await,
        Job::StartMany { chains } => start_many(&host, &client, chains).await,
        Job::Cancel { name } => cancel(&host, &client, &name).await,
        Job::Wait { name } => wait(&host, &client, &name).await,
        Job::Ask { name } => look(&host, &client, &name).await,
    }
    host.world.told().jobs[index] = Progress::Over;
}

async fn start(host: &Host, client: &Client, name: &str, work: Work, delay_ms: u64, priority: u8) {
    let delay = Duration::from_millis(delay_ms);
    loop {
        macro_rules! start {
            ($workflow:expr, $input:expr) => {
                client
                    .start($workflow, $input)
                    .id(name)
                    .delay(delay)
                    .priority(priority)
                    .await
                    .map(|run| run.started())
            };
        }
        let answer = match &work {
            Work::Chain(input) => start!(CHAIN, input),
            Work::Checkout(input) => start!(CHECKOUT, input),
            Work::Solo(input) => start!(SOLO, input),
        };
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

async fn start_many(host: &Host, client: &Client, chains: Vec<(String, ChainInput)>) {
    loop {
        let runs = chains
            .iter()
            .map(|(name, input)| (Some(name.clone()), input.clone()))
            .collect();
        let answers = match client.start_many(CHAIN, runs).await {
            Ok(answers) => answers,
            Err(ClientError::Refused(refusal)) => {
                return wrong(host, format!("a crowd was refused: {refusal}"));
            }
            Err(_) => {
                again(host).await;
                continue;
            }
        };
        for ((name, input), answer) in chains.into_iter().zip(answers) {
            match answer_of(
                answer
                    .map(|run| run.started())
                    .map_err(ClientError::Refused),
            ) {
                Ok(answer) => tell_start(host, &name, Work::Chain(input), answer),
                Err(error) => wrong(host, format!("the start of {name} was refused: {error}")),
            }
        }
        return;
    }
}

/// An answer that settles the question.
fn answer_of(answer: Result<bool, ClientError>) -> Result<StartAnswer, ClientError> {
    match answer {
        Ok(started) => Ok(StartAnswer::Exists { started }),
        Err(ClientError::Refused(Refusal::IdTaken(_))) => Ok(StartAnswer::Taken),
        Err(error) => Err(error),
    }
}

fn tell_start(host: &Host, name: &str, work: Work, answer: StartAnswer) {
    host.note(format_args!("is told of {name}: {answer:?}"));
    host.world.told().starts.push(StartTold {
        name: name.to_owned(),
        work,
        answer,
    });
}

fn wrong(host: &Host, text: String) {
    host.world.told().wrong.push(text);
}

/// Whether the call has taken effect is unknown: it is made again.
async fn again(host: &Host) {
    host.world.saw("starts with unknown outcome");
    host.rest(AGAIN).await;
}

async fn cancel(host: &Host, client: &Client, name: &str) {
    let acknowledged = host.world.told().is_acknowledged(name);
    match client.cancel(run_id(name), "the plan says so").await {
        Ok(()) => {
            host.note(format_args!("is told that {name} is asked to stop"));
            host.world.told().cancels.push(name.to_owned());
        }
        Err(error) => refused(host, name, acknowledged, &error),
    }
}

async fn wait(host: &Host, client: &Client, name: &str) {
    let acknowledged = host.world.told().is_acknowledged(name);
    match client.outcome(run_id(name), true).await {
        Ok(outcome) => tell(host, name, outcome),
        Err(error) => refused(host, name, acknowledged, &error),
    }
}

/// A question about a run that had been acknowledged before (or not) got this error.
fn refused(host: &Host, name: &str, acknowledged: bool, error: &ClientError) {
    let forgotten = host.world.court().durable.was_forgotten(run_id(name));
    host.world
        .told()
        .refused(name, acknowledged && !forgotten, error);
}

fn tell(host: &Host, name: &str, outcome: stepwell::model::run::Outcome) {
    let at_ms = host.now_ms();
    host.note(format_args!(
        "is told the outcome of {name}: {}",
        outcome.kind_name()
    ));
    let (name, client) = (name.to_owned(), host.name.clone());
    host.world.told().outcomes.push(OutcomeTold {
        name,
        client,
        at_ms,
        outcome,
    });
}

async fn look(host: &Host, client: &Client, name: &str) {
    let acknowledged = host.world.told().is_acknowledged(name);
    if let Err(error) = client.status(run_id(name)).await {
        refused(host, name, acknowledged, &error);
    }
}

/// Asks about everything that anybody was told of.
async fn audit(host: &Host, client: &Client) {
    let names: std::collections::BTreeSet<String> = host
        .world
        .told()
        .starts
        .iter()
        .map(|start| start.name.clone())
        .collect();
    for name in names {
        match client.outcome(run_id(&name), false).await {
            Ok(outcome) => tell(host, &name, outcome),
            Err(ClientError::Refused(Refusal::NoSuchRun(_)))
                if host.world.court().durable.was_forgotten(run_id(&name)) => {}
            Err(error) => host
                .world
                .told()
                .wrong
                .push(format!("the outcome of {name} is not to be had: {error}")),
        }
    }
    let mut before = None;
    loop {
        match client
            .list(ListRuns {
                before,
                limit: PAGE,
                ..ListRuns::default()
            })
            .await
        {
            Ok((rows, next)) => {
                host.world
                    .told()
                    .listed
                    .extend(rows.into_iter().map(|row| (row.id, row)));
                before = next;
            }
            Err(error) => {
                return host
                    .world
                    .told()
                    .wrong
                    .push(format!("the runs are not listed: {error}"));
            }
        }
        if before.is_none() {
            break;
        }
    }
    match stats_at_rest(host, client).await {
        Ok(stats) => host.world.told().stats = Some(stats),
        Err(error) => host
            .world
            .told()
            .wrong
            .push(format!("the counts are not to be had: {error}")),
    }
}

/// The engine's counts, once it reads nothing. Copies of old questions still arrive, and are read for.
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
    let encoded = match work {
        Work::Chain(input) => Payload::of(input),
        Work::Checkout(input) => Payload::of(input),
        Work::Solo(input) => Payload::of(input),
    };
    encoded.unwrap_or_else(|error| panic!("an input of ours is a payload: {error}"))
}
