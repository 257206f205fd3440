//! Many queued runs: what they cost, how fast they are dispatched beside a few, how soon
//! the engine is there again after it was killed, and how long an urgent run takes behind them.

use std::path::Path;
use std::time::Duration;

use stepwell::{Client, QueueChange};

use super::Bench;
use super::figures::Figures;
use super::rig::Rig;
use super::workflow::{SEQUENCE, Sequence};
use crate::clock;
use crate::connection::asked;
use crate::failure::CommandError;

const QUEUE: &str = "default";
/// The short line.
const FEW: u64 = 1_000;
/// How often the short line is worked off in one turn, at most; as often as makes as many
/// dispatches as the long line's.
const ROUNDS_MAX: u64 = 50;
/// Of the long line so many are dispatched in one turn: enough that what this leaves to be merged
/// is part of it.
const MANY: u64 = 80_000;
/// How often the two take turns: what the machine does besides meets both.
const TURNS: u64 = 3;
/// Runs started by one call.
const BATCH: u64 = 1_000;
/// Runs the worker takes at a time.
const SLOTS: u32 = 64;
/// How often is looked. A short line is worked off in some 30 ms: looking less often would be seen
/// in its rate.
const LOOK: Duration = Duration::from_millis(1);
/// An engine that uses less than a tenth of a core for this long is at rest.
const REST: Duration = Duration::from_millis(300);
/// For its rest is waited this long at most.
const REST_WITHIN: Duration = Duration::from_secs(20);
/// Without another dispatch for this long, the measurement gives up.
const STUCK_AFTER: Duration = Duration::from_secs(60);
const WORK: Sequence = Sequence { steps: 1, payload: 100, fail_at: None };

/// Queues `count` runs behind a paused queue, and lets them go; in turns with an engine of its own
/// whose line is short.
pub(crate) async fn measure(
    bench: &Bench,
    dir: &Path,
    count: u64,
    figures: &mut Figures,
) -> Result<(), CommandError> {
    let start_rig = async |name: &str| {
        let dir = dir.join(name);
        let made = std::fs::create_dir(&dir);
        made.map_err(|e| CommandError::fault(format!("cannot make {}: {e}", dir.display())))?;
        Rig::start(bench.mode, &dir, SLOTS, bench.session_timeout).await
    };
    let mut long = start_rig("long").await?;
    let client = long.client().await?;
    pause(&client, true).await?;
    let begin = clock::now();
    start(&client, count, figures).await?;
    figures.queue_s = Some(clock::now().duration_since(begin).as_secs_f64());
    (figures.rss_bytes_server, figures.rss_bytes_worker) = (long.rss_engine(), long.rss_worker());

    let short = start_rig("short").await?;
    let beside = short.client().await?;
    let many = (count / TURNS / 2).clamp(1, MANY);
    let rounds = many.div_ceil(FEW).min(ROUNDS_MAX);
    let (mut few_s, mut many_s) = (0.0, 0.0);
    for _ in 0..TURNS {
        rest(&long).await;
        for _ in 0..rounds {
            pause(&beside, true).await?;
            start(&beside, FEW, figures).await?;
            few_s += dispatch(&beside, FEW).await?;
            empty(&beside, QUEUE).await?;
        }
        many_s += dispatch(&client, many).await?;
        pause(&client, true).await?;
    }
    figures.dispatches_per_s_few = rate(TURNS * rounds * FEW, few_s);
    figures.dispatches_per_s = rate(TURNS * many, many_s);
    drop(beside);
    short.close().await?;

    pause(&client, false).await?;
    figures.urgent_ms = Some(urgent(&client, figures).await?);
    let stats = client.stats().await.map_err(|e| asked(&e))?;
    figures.disk_bytes_per_run = Some((stats.disk_bytes as f64 / count as f64).round());
    drop(client);

    long.kill_engine().await?;
    let begin = clock::now();
    long.start_engine().await?;
    let client = long.client().await?;
    urgent(&client, figures).await?;
    figures.ready_s = Some(clock::now().duration_since(begin).as_secs_f64());
    figures.rss_bytes_reopened = long.rss_engine();
    drop(client);
    long.close().await
}

/// Waits until an engine has done what it owes: the short line must not be measured beside it.
async fn rest(rig: &Rig) {
    let begin = clock::now();
    let mut before = rig.cpu_engine();
    while clock::now().duration_since(begin) < REST_WITHIN {
        tokio::time::sleep(REST).await;
        let after = rig.cpu_engine();
        match (before, after) {
            (Some(before), Some(after)) if after.saturating_sub(before) * 10 >= REST => {}
            _ => return,
        }
        before = after;
    }
}

fn rate(count: u64, seconds: f64) -> Option<f64> {
    (seconds > 0.0).then(|| (count as f64 / seconds * 10.0).round() / 10.0)
}

async fn pause(client: &Client, paused: bool) -> Result<(), CommandError> {
    let change = QueueChange::default().paused(paused).create(true);
    let set = client.queues().set(QUEUE, change).await;
    set.map_err(|e| asked(&e))
}

async fn start(client: &Client, count: u64, figures: &mut Figures) -> Result<(), CommandError> {
    let mut left = count;
    while left > 0 {
        let batch = left.min(BATCH);
        let runs = vec![(None, WORK); usize::try_from(batch).unwrap_or_default()];
        let answers = client.start_many(SEQUENCE, runs).await;
        let answers = answers.map_err(|e| asked(&e))?;
        figures.errors += answers.iter().filter(|answer| answer.is_err()).count() as u64;
        left -= batch;
    }
    Ok(())
}

/// Lets go, and tells how long it takes until so many have been dispatched.
async fn dispatch(client: &Client, count: u64) -> Result<f64, CommandError> {
    let dispatches = async || {
        let stats = client.stats().await.map_err(|e| asked(&e))?;
        Ok::<u64, CommandError>(stats.dispatches)
    };
    let until = dispatches().await? + count;
    let begin = clock::now();
    pause(client, false).await?;
    let (mut most, mut moved_at) = (0, begin);
    loop {
        let now = dispatches().await?;
        let passed = clock::now().duration_since(begin);
        if now >= until {
            return Ok(passed.as_secs_f64());
        }
        if now > most {
            (most, moved_at) = (now, clock::now());
        }
        if clock::now().duration_since(moved_at) > STUCK_AFTER {
            let left = until - now;
            return Err(CommandError::fault(format!(
                "{left} of {count} runs are not dispatched and nothing moves"
            )));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until a queue is empty.
pub(super) async fn empty(client: &Client, queue: &str) -> Result<(), CommandError> {
    loop {
        let queue = client.queues().show(queue).await.map_err(|e| asked(&e))?;
        if queue.queued + queue.running == 0 {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// How long an urgent run takes, in milliseconds, from its start to its outcome.
async fn urgent(client: &Client, figures: &mut Figures) -> Result<f64, CommandError> {
    let begin = clock::now();
    let run = client.start(SEQUENCE, &WORK).priority(0).await;
    let run = run.map_err(|e| asked(&e))?;
    if run.outcome().await.is_err() {
        figures.errors += 1;
    }
    let ms = clock::now().duration_since(begin).as_secs_f64() * 1e3;
    Ok((ms * 10.0).round() / 10.0)
}
