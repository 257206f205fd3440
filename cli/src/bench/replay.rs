//! One long run, killed near its end: how soon it has finished after the restart.

use std::path::Path;
use std::time::{Duration, Instant};

use stepwell::model::id::RunId;
use stepwell::model::run::Outcome;

use super::Bench;
use super::figures::Figures;
use super::rig::{Mode, Rig};
use super::workflow::{SEQUENCE, Sequence};
use crate::clock;
use crate::connection::asked;
use crate::failure::CommandError;

/// The kill comes when this many percent of the steps are in the journal.
const KILL_AT_PERCENT: u64 = 99;
/// How often the journal's length is asked for.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// A run that has not finished by then never will.
const FINISH_WITHIN: Duration = Duration::from_secs(300);

/// Kills the engine, then (with further runs) the worker, then both at once. An embedded engine has
/// its worker in its own process, which is killed.
///
/// `finish_s` is the slower of the first two. With both killed, the leases of the dead worker stay
/// reserved for one session timeout, because an engine that opens cannot know that it is dead.
pub(crate) async fn measure(
    bench: &Bench,
    dir: &Path,
    steps: u32,
    figures: &mut Figures,
) -> Result<(), CommandError> {
    let mut rig = Rig::start(bench.mode, dir, 1, bench.session_timeout).await?;
    let id = nearly_done(&rig, bench, steps).await?;
    rig.kill_engine().await?;
    let begin = clock::now();
    rig.start_engine().await?;
    let engine_killed = finish(&rig, id, begin, figures).await?;
    figures.finish_s = Some(engine_killed);

    if bench.mode == Mode::Served {
        figures.finish_server_killed_s = Some(engine_killed);
        let id = nearly_done(&rig, bench, steps).await?;
        rig.kill_worker().await?;
        let begin = clock::now();
        rig.start_worker().await?;
        let worker_killed = finish(&rig, id, begin, figures).await?;
        figures.finish_worker_killed_s = Some(worker_killed);
        figures.finish_s = Some(engine_killed.max(worker_killed));

        let id = nearly_done(&rig, bench, steps).await?;
        rig.kill_engine().await?;
        rig.kill_worker().await?;
        let begin = clock::now();
        rig.start_engine().await?;
        rig.start_worker().await?;
        figures.finish_both_killed_s = Some(finish(&rig, id, begin, figures).await?);
    }
    rig.close().await
}

/// Starts a run and waits until most of it is done.
async fn nearly_done(rig: &Rig, bench: &Bench, steps: u32) -> Result<RunId, CommandError> {
    let client = rig.client().await?;
    let ask = Sequence { steps, payload: bench.load.payload, fail_at: None };
    let id = client.start(SEQUENCE, &ask).await.map_err(|e| asked(&e))?.id();
    let enough = u64::from(steps) * KILL_AT_PERCENT / 100;
    loop {
        let run = client.status(id).await.map_err(|e| asked(&e))?;
        if run.state.is_final() {
            return Err(CommandError::fault("the run was over before it could be killed")
                .hint("use a longer one: --replay 10000"));
        }
        if u64::from(run.entries) >= enough {
            return Ok(id);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits for the run's end; seconds since `begin`.
async fn finish(
    rig: &Rig,
    id: RunId,
    begin: Instant,
    figures: &mut Figures,
) -> Result<f64, CommandError> {
    let client = rig.client().await?;
    let outcome = tokio::time::timeout(FINISH_WITHIN, client.outcome(id, true)).await;
    let limit = clock::span(FINISH_WITHIN);
    let outcome = outcome
        .map_err(|_| CommandError::fault(format!("the run has not finished within {limit}")))?;
    if !matches!(outcome.map_err(|e| asked(&e))?, Outcome::OutcomeCompleted(_)) {
        figures.errors += 1;
    }
    Ok(clock::now().duration_since(begin).as_secs_f64())
}
