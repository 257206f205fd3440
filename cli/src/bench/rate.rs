//! Runs and steps a second, and how long each takes.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use stepwell::model::run::Stats;
use stepwell::{Client, Engine};
use tokio::sync::oneshot;

use super::Bench;
use super::figures::Figures;
use super::load::{Load, Measured, Warm, drive};
use super::rig::{Mode, Rig};
use super::workflow::{Pulse, StepTimes, equipped};
use crate::connection::{asked, opened};
use crate::failure::CommandError;
use crate::process::{Process, rss_bytes};

/// Measures the rate; engine, worker and client are three processes, or one.
pub(crate) async fn measure(
    bench: &Bench,
    dir: &Path,
    figures: &mut Figures,
) -> Result<(), CommandError> {
    match bench.mode {
        Mode::Served => served(bench, dir, figures).await,
        Mode::Embedded => embedded(bench.load, dir, figures).await,
    }
}

async fn served(bench: &Bench, dir: &Path, figures: &mut Figures) -> Result<(), CommandError> {
    let load = bench.load;
    let mut rig = Rig::start(Mode::Served, dir, load.in_flight, bench.session_timeout).await?;
    let watcher = rig.client().await?;
    let numbers =
        [load.steps as usize, load.in_flight as usize, load.seconds as usize, load.payload]
            .map(|n| n.to_string());
    let [steps, in_flight, seconds, payload] = &numbers;
    let args = [
        "bench-client",
        "--server",
        &rig.address,
        "--steps",
        steps,
        "--in-flight",
        in_flight,
        "--seconds",
        seconds,
        "--payload",
        payload,
    ];
    let mut client =
        Process::spawn("client", args.map(OsString::from).to_vec(), &dir.join("client.log"))?;
    client.ready::<Warm>().await?;
    rig.step_times().await?;
    let before = stats(&watcher).await?;
    let begin = crate::clock::now();
    tokio::time::sleep(Duration::from_secs(load.seconds)).await;
    let after = stats(&watcher).await?;
    let window = crate::clock::now().duration_since(begin);
    let times = rig.step_times().await?;
    (figures.rss_bytes_server, figures.rss_bytes_worker) = (rig.rss_engine(), rig.rss_worker());
    let measured: Measured = client.said(Duration::from_secs(load.seconds + 60)).await?;
    client.close().await?;
    drop(watcher);
    rig.close().await?;
    told(figures, &measured, times, window, &before, &after);
    Ok(())
}

async fn embedded(load: Load, dir: &Path, figures: &mut Figures) -> Result<(), CommandError> {
    let data = dir.join("data");
    let engine = Engine::open(&data).await.map_err(|e| opened(&e))?;
    let pulse = Pulse::new();
    let worker = equipped(engine.worker(), load.in_flight, &pulse)
        .start()
        .map_err(|e| CommandError::fault("the worker does not start").caused_by(&e))?;
    let client = engine.client();
    let watcher = engine.client();
    let (opens, opened) = oneshot::channel();
    let watching = async {
        let _ = opened.await;
        pulse.take();
        let before = stats(&watcher).await?;
        let begin = crate::clock::now();
        tokio::time::sleep(Duration::from_secs(load.seconds)).await;
        let after = stats(&watcher).await?;
        let window = crate::clock::now().duration_since(begin);
        Ok::<_, CommandError>((before, after, window, pulse.take(), rss_bytes(std::process::id())))
    };
    let driving = drive(&client, load, || {
        let _ = opens.send(());
    });
    let (measured, watched) = tokio::join!(driving, watching);
    let (before, after, window, times, rss) = watched?;
    worker.drain().await;
    drop((client, watcher));
    engine.close().await;
    figures.rss_bytes_server = rss;
    told(figures, &measured, times, window, &before, &after);
    Ok(())
}

async fn stats(client: &Client) -> Result<Stats, CommandError> {
    client.stats().await.map_err(|e| asked(&e))
}

fn told(
    figures: &mut Figures,
    measured: &Measured,
    times: StepTimes,
    window: Duration,
    before: &Stats,
    after: &Stats,
) {
    let steps = after.steps.saturating_sub(before.steps);
    let bytes = after.wal_bytes.saturating_sub(before.wal_bytes);
    let rate =
        |n: u64, seconds: f64| (seconds > 0.0).then(|| (n as f64 / seconds * 10.0).round() / 10.0);
    figures.seconds = measured.seconds;
    figures.runs = Some(measured.runs);
    figures.runs_per_s = rate(measured.runs, measured.seconds);
    figures.steps_per_s = rate(steps, window.as_secs_f64());
    figures.run_p50_us = measured.run_p50_us;
    figures.run_p99_us = measured.run_p99_us;
    figures.step_p50_us = times.step_p50_us;
    figures.step_p99_us = times.step_p99_us;
    figures.wal_bytes_per_step =
        (steps > 0).then(|| (bytes as f64 / steps as f64 * 10.0).round() / 10.0);
    figures.errors = measured.errors;
}
