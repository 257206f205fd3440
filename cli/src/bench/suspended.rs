//! Many runs in a long sleep: what they cost, and how soon the engine is there again after it was
//! killed.

use std::path::Path;
use std::time::Duration;

use stepwell::Client;
use stepwell::model::run::RunState;

use super::Bench;
use super::figures::Figures;
use super::rig::Rig;
use super::workflow::{NAP, Nap, SEQUENCE, Sequence};
use crate::clock;
use crate::connection::asked;
use crate::failure::CommandError;

/// How long the runs sleep.
const NAP_MS: u64 = 30 * 86_400_000;
/// Runs started by one call.
const BATCH: u64 = 1_000;
/// Runs a worker takes at a time meanwhile.
const SLOTS: u32 = 512;
/// Without another run suspended for this long, the measurement gives up.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// Suspends `count` runs, kills the engine, and waits until a fresh run has completed.
pub(crate) async fn measure(
    bench: &Bench,
    dir: &Path,
    count: u64,
    figures: &mut Figures,
) -> Result<(), CommandError> {
    let mut rig = Rig::start(bench.mode, dir, SLOTS, bench.session_timeout).await?;
    let client = rig.client().await?;
    let begin = clock::now();
    start(&client, count, figures).await?;
    wait(&client, count).await?;
    figures.suspend_s = Some(clock::now().duration_since(begin).as_secs_f64());
    let stats = client.stats().await.map_err(|e| asked(&e))?;
    figures.disk_bytes_per_run =
        Some((stats.disk_bytes as f64 / count as f64 * 10.0).round() / 10.0);
    (figures.rss_bytes_server, figures.rss_bytes_worker) = (rig.rss_engine(), rig.rss_worker());
    drop(client);

    rig.kill_engine().await?;
    let begin = clock::now();
    rig.start_engine().await?;
    let client = rig.client().await?;
    fresh(&client, figures).await?;
    figures.ready_s = Some(clock::now().duration_since(begin).as_secs_f64());
    figures.rss_bytes_reopened = rig.rss_engine();
    let stats = client.stats().await.map_err(|e| asked(&e))?;
    figures.errors += count.abs_diff(stats.runs_in(RunState::Suspended));
    drop(client);
    rig.close().await
}

async fn start(client: &Client, count: u64, figures: &mut Figures) -> Result<(), CommandError> {
    let mut left = count;
    while left > 0 {
        let batch = left.min(BATCH);
        let naps = vec![(None, Nap { ms: NAP_MS }); usize::try_from(batch).unwrap_or_default()];
        let answers = client.start_many(NAP, naps).await.map_err(|e| asked(&e))?;
        figures.errors += answers.iter().filter(|answer| answer.is_err()).count() as u64;
        left -= batch;
    }
    Ok(())
}

async fn wait(client: &Client, count: u64) -> Result<(), CommandError> {
    let (mut most, mut moved_at) = (0, clock::now());
    loop {
        let suspended = client.stats().await.map_err(|e| asked(&e))?.runs_in(RunState::Suspended);
        if suspended >= count {
            return Ok(());
        }
        if suspended > most {
            (most, moved_at) = (suspended, clock::now());
        }
        if clock::now().duration_since(moved_at) > STUCK_AFTER {
            return Err(CommandError::fault(format!(
                "only {suspended} of {count} runs are suspended and nothing moves"
            )));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn fresh(client: &Client, figures: &mut Figures) -> Result<(), CommandError> {
    let run = client
        .start(SEQUENCE, &Sequence { steps: 1, payload: 100, fail_at: None })
        .await
        .map_err(|e| asked(&e))?;
    if run.outcome().await.is_err() {
        figures.errors += 1;
    }
    Ok(())
}
