//! How soon a run begins after it was started, at a steady rate of arrivals, and whether a long
//! line of slow runs in another queue changes that.
//!
//! An open loop: a run is started at each instant of a fixed pace, whether the one before has been
//! answered or not, and the time counts from that instant to the first line of its function in the
//! worker. So a stall of the engine is counted in every run that should have been started during
//! it. Client and worker read the same machine's wall clock.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use stepwell::Client;
use tokio::time::MissedTickBehavior;

use super::Bench;
use super::figures::Figures;
use super::queued::empty;
use super::rig::Rig;
use super::workflow::{ARRIVAL, Arrival, BenchExport, EXPORT, EXPORTS_AT_ONCE, StepTimes};
use crate::clock;
use crate::connection::asked;
use crate::failure::CommandError;

const QUEUE: &str = "default";
/// Arrivals run at a time; more wait.
const SLOTS: u32 = 64;
/// Windows with nothing beside them, and as many with the slow runs.
const WINDOWS: usize = 5;
/// Not counted: until everything is in its stride.
const WARM_UP: Duration = Duration::from_secs(1);
/// How long a slow run takes.
const EXPORT_MS: u64 = 1_000;
/// Slow runs started by one call.
const BATCH: u64 = 1_000;

/// Starts `per_s` runs a second, with nothing else to do and beside `behind` slow runs of another
/// queue.
pub(crate) async fn measure(
    bench: &Bench,
    dir: &Path,
    (per_s, behind): (u32, u64),
    figures: &mut Figures,
) -> Result<(), CommandError> {
    let mut rig = Rig::start(bench.mode, dir, SLOTS, bench.session_timeout).await?;
    let client = rig.client().await?;
    let window = Duration::from_secs(bench.load.seconds);
    figures.seconds = window.as_secs_f64();
    arrive(&client, per_s, WARM_UP, figures).await?;
    let alone = windows(&mut rig, &client, (per_s, window), figures).await?;
    (figures.start_p50_us, figures.start_p99_us) = medians(&alone);
    figures.start_p99_us_spread = spread(&alone);
    if behind > 0 {
        queue_exports(&client, behind, figures).await?;
        let beside = windows(&mut rig, &client, (per_s, window), figures).await?;
        (figures.start_p50_us_beside, figures.start_p99_us_beside) = medians(&beside);
        let exports = client.queues().show(EXPORT.queue_name()).await;
        let exports = exports.map_err(|e| asked(&e))?;
        // The slots were busy and the line was long in all of the windows, or nothing was measured.
        let busy = exports.running == u64::from(EXPORTS_AT_ONCE) && exports.queued > 0;
        figures.errors += u64::from(!busy);
        figures.beside_queued = Some(exports.queued);
    }
    (figures.rss_bytes_server, figures.rss_bytes_worker) = (rig.rss_engine(), rig.rss_worker());
    drop(client);
    rig.kill_worker().await?;
    rig.kill_engine().await
}

async fn windows(
    rig: &mut Rig,
    client: &Client,
    (per_s, window): (u32, Duration),
    figures: &mut Figures,
) -> Result<Vec<StepTimes>, CommandError> {
    let mut measured = Vec::new();
    for _ in 0..WINDOWS {
        rig.step_times().await?;
        let started = arrive(client, per_s, window, figures).await?;
        let times = rig.step_times().await?;
        figures.errors += started.abs_diff(times.begun);
        measured.push(times);
    }
    Ok(measured)
}

/// Starts runs at a fixed pace and waits until all have ended; answers how many.
async fn arrive(
    client: &Client,
    per_s: u32,
    window: Duration,
    figures: &mut Figures,
) -> Result<u64, CommandError> {
    // Both clocks are read at one place: what lies between the reading and the first arrival counts
    // as waiting.
    let (begin, wall) = (tokio::time::Instant::from_std(clock::now()), clock::wall_us());
    let mut ticks = tokio::time::interval_at(begin, Duration::from_secs(1) / per_s);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut starts = FuturesUnordered::new();
    let mut started = 0;
    loop {
        tokio::select! {
            biased;
            due = ticks.tick() => {
                let passed = due.duration_since(begin);
                if passed >= window {
                    break;
                }
                let at_us = wall.saturating_add(u64::try_from(passed.as_micros()).unwrap_or(u64::MAX));
                starts.push(async move { client.start(ARRIVAL, &Arrival { at_us }).await.is_ok() });
                started += 1;
            }
            Some(well) = starts.next() => figures.errors += u64::from(!well),
        }
    }
    while let Some(well) = starts.next().await {
        figures.errors += u64::from(!well);
    }
    empty(client, QUEUE).await?;
    Ok(started)
}

async fn queue_exports(
    client: &Client,
    count: u64,
    figures: &mut Figures,
) -> Result<(), CommandError> {
    let mut left = count;
    while left > 0 {
        let batch = left.min(BATCH);
        let runs =
            vec![(None, BenchExport { ms: EXPORT_MS }); usize::try_from(batch).unwrap_or_default()];
        let answers = client.start_many(EXPORT, runs).await;
        let answers = answers.map_err(|e| asked(&e))?;
        figures.errors += answers.iter().filter(|answer| answer.is_err()).count() as u64;
        left -= batch;
    }
    Ok(())
}

/// The medians of what the windows measured.
fn medians(windows: &[StepTimes]) -> (Option<u64>, Option<u64>) {
    let median = |of: fn(&StepTimes) -> Option<u64>| {
        let mut values: Vec<u64> = windows.iter().filter_map(of).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied()
    };
    (median(|w| w.start_p50_us), median(|w| w.start_p99_us))
}

/// The smallest and the largest 99th percentile.
fn spread(windows: &[StepTimes]) -> Option<Range<u64>> {
    let values = || windows.iter().filter_map(|window| window.start_p99_us);
    Some(values().min()?..values().max()?)
}
