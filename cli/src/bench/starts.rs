//! How long a call of start takes while all slots are busy for seconds: what a request waits
//! that leaves work behind.
//!
//! The calls are made one after another over one connection, as a request would make them, and the
//! runs that they start are as slow as those that hold the slots.

use std::path::Path;
use std::time::Duration;

use stepwell::{Client, QueueSummary};

use super::Bench;
use super::figures::{Figures, percentile};
use super::rig::Rig;
use super::workflow::{BenchExport, EXPORT, EXPORTS_AT_ONCE};
use crate::clock;
use crate::connection::asked;
use crate::failure::CommandError;

/// How long a handler is busy.
const HANDLER_MS: u64 = 5_000;
/// Runs the worker takes at a time in the queue that is not used here.
const SLOTS: u32 = 1;
/// Calls that are not counted: until everything is in its stride.
const WARM_UP: u64 = 100;
/// How long it may take until all slots have a run.
const BUSY_WITHIN: Duration = Duration::from_secs(10);
/// How often is looked.
const LOOK: Duration = Duration::from_millis(5);

/// Makes `count` calls of start, with all slots busy.
pub(crate) async fn measure(
    bench: &Bench,
    dir: &Path,
    count: u64,
    figures: &mut Figures,
) -> Result<(), CommandError> {
    let mut rig = Rig::start(bench.mode, dir, SLOTS, bench.session_timeout).await?;
    let client = rig.client().await?;
    // Twice as many as there are slots: they stay busy.
    for _ in 0..WARM_UP.max(2 * u64::from(EXPORTS_AT_ONCE)) {
        start(&client).await?;
    }
    figures.errors += u64::from(!are_busy(&client).await?);
    let begin = clock::now();
    let mut calls = Vec::new();
    for _ in 0..count {
        let call_at = clock::now();
        start(&client).await?;
        calls.push(clock::micros_since(call_at));
    }
    figures.seconds = clock::now().duration_since(begin).as_secs_f64();
    (figures.call_p50_us, figures.call_p99_us) =
        (percentile(&mut calls, 50), percentile(&mut calls, 99));
    // The slots are busy still, or something else was measured.
    figures.errors += u64::from(!are_busy(&client).await?);
    figures.beside_queued = Some(exports(&client).await?.queued);
    (figures.rss_bytes_server, figures.rss_bytes_worker) = (rig.rss_engine(), rig.rss_worker());
    drop(client);
    rig.kill_worker().await?;
    rig.kill_engine().await
}

async fn start(client: &Client) -> Result<(), CommandError> {
    let started = client.start(EXPORT, &BenchExport { ms: HANDLER_MS }).await;
    started.map(|_| ()).map_err(|e| asked(&e))
}

async fn exports(client: &Client) -> Result<QueueSummary, CommandError> {
    let queue = client.queues().show(EXPORT.queue_name()).await;
    queue.map_err(|e| asked(&e))
}

/// Whether all slots are busy and more waits for them: at once, or as soon as the next runs are
/// on their way.
async fn are_busy(client: &Client) -> Result<bool, CommandError> {
    let begin = clock::now();
    loop {
        let exports = exports(client).await?;
        if exports.running == u64::from(EXPORTS_AT_ONCE) && exports.queued > 0 {
            return Ok(true);
        }
        if clock::now().duration_since(begin) > BUSY_WITHIN {
            return Ok(false);
        }
        tokio::time::sleep(LOOK).await;
    }
}
