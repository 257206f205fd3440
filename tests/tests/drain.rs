//! A worker that is told to go, and a queue that is to come to rest.

use std::sync::Arc;

use stepwell::{Client, Ctx, Engine, Failure, RunState, Workflow, millis, secs};
use stepwell_tests::process_spec::{EngineSpec, WorkerSpec};
use stepwell_tests::workflow::{LONG, Long, SLEEPER};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use crate::host::{Host, PATIENCE, count, effects, until_stats};

/// So long that no lease comes back by waiting for it.
const SESSION_TIMEOUT: std::time::Duration = secs(60);

// A deployment restarts all workers. If their leases came back only with the session timeout, each
// deployment would stop all runs for as long; and if steps were cut short, each would do them
// twice.
#[tokio::test]
async fn a_drained_worker_ends_its_steps_and_requeues_its_runs_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut spec = EngineSpec::new(directory.path().join("data"));
    spec.session_timeout = SESSION_TIMEOUT;
    let (engine, server) = Host::engine(&spec).await;
    let client = Client::connect(&server).await.unwrap();
    let world = directory.path().join("effects");
    let spec = WorkerSpec { server, slots: 8, grace: secs(3), effects: world.clone() };
    let mut first = Host::worker(&spec);

    // Four whose step ends within the grace, one whose step does not, three that wait, and three
    // behind them in line.
    let mut runs = Vec::new();
    for number in 0..3 {
        client.start(SLEEPER, &number).await.unwrap();
    }
    until_stats(&client, "three sleep", |stats| stats.runs_in(RunState::Suspended) == 3).await;
    for _ in 0..4 {
        runs.push(client.start(LONG, &Long { work: millis(800) }).await.unwrap());
    }
    let endless = client.start(LONG, &Long { work: secs(600) }).await.unwrap();
    for _ in 0..5 {
        first.says("begun work").await;
    }
    let before = client.stats().await.unwrap();
    first.terminate().await;
    // What is started from now on is not for the worker that goes.
    for _ in 0..3 {
        runs.push(client.start(LONG, &Long { work: millis(1) }).await.unwrap());
    }
    let ended = timeout(secs(8), first.ended()).await.expect("it leaves after its grace");
    assert_eq!(ended.code, Some(0), "{ended:?}");

    let gone_at = Instant::now();
    let mut second = Host::worker(&spec);
    for run in &runs {
        run.outcome().await.unwrap();
    }
    second.says("begun work").await;
    let taken = gone_at.elapsed();
    assert!(taken < SESSION_TIMEOUT / 6, "all was there for the next worker after {taken:?}");

    let lines = effects(&world);
    assert_eq!(count(&lines, "begun after"), 7, "{lines:#?}");
    assert_eq!(count(&lines, "done work"), 7, "{lines:#?}");
    // Each step once; only the one that outlived the grace was begun again, under the same key.
    assert_eq!(count(&lines, "begun work"), 9, "{lines:#?}");
    assert_eq!(count(&lines, &format!("begun work {}-0", endless.id())), 2, "{lines:#?}");
    let after = client.stats().await.unwrap();
    assert_eq!(
        (after.sessions_lost, after.redeliveries, after.refused_late),
        (0, 0, 0),
        "{before:?} {after:?}"
    );
    assert_eq!(after.runs_in(RunState::Dead), 0);
    second.kill();
    engine.close().await;
}

const GATED: Workflow<u64, u64> = Workflow::new("gated");

// An operator drains a queue to work on what its runs use. While a step runs, however long, it must
// not look as if all were over; no further run begins meanwhile, although slots are free; and
// what waits goes on when the queue is resumed.
#[tokio::test]
async fn a_drain_of_a_queue_ends_with_its_running_runs_and_begins_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::open(directory.path().join("data")).await.unwrap();
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    let worker = engine.worker().register(GATED, move |ctx: Ctx, n: u64| {
        let held = held.clone();
        async move {
            let hold = |_| {
                let held = held.clone();
                async move {
                    held.acquire().await.unwrap().forget();
                    Ok::<_, Failure>(n)
                }
            };
            ctx.step("hold", hold).await
        }
    });
    let worker = worker.queue("default", 4).start().unwrap();
    let client = engine.client();
    let mut running = Vec::new();
    for number in 0..2 {
        running.push(client.start(GATED, &number).await.unwrap());
    }
    until_stats(&client, "both run", |stats| stats.dispatches == 2).await;

    let queues = client.queues();
    let drain = queues.drain("default");
    tokio::pin!(drain);
    let paused = async {
        while !queues.show("default").await.unwrap().settings.paused {
            sleep(millis(5)).await;
        }
        client.start(GATED, &7).await.unwrap()
    };
    let behind = tokio::select! {
        biased;
        _ = &mut drain => panic!("two runs are running"),
        behind = paused => behind,
    };
    gate.add_permits(1);
    let one_ends =
        until_stats(&client, "one of them ends", |stats| stats.runs_in(RunState::Completed) == 1);
    tokio::select! {
        biased;
        _ = &mut drain => panic!("a run is still running"),
        _ = one_ends => {}
    }
    // It looks several times, and sees the other one.
    assert!(timeout(secs(1), &mut drain).await.is_err(), "one is running");
    gate.add_permits(1);
    timeout(PATIENCE, drain).await.unwrap().unwrap();

    let queue = queues.show("default").await.unwrap();
    assert!(queue.settings.paused);
    assert_eq!((queue.running, queue.queued, queue.slots), (0, 1, 4));
    let stats = client.stats().await.unwrap();
    assert_eq!((stats.dispatches, stats.runs_in(RunState::Completed)), (2, 2));
    for (number, run) in (0..).zip(running) {
        assert_eq!(run.outcome().await, Ok(number));
    }
    gate.add_permits(1);
    queues.resume("default").await.unwrap();
    assert_eq!(timeout(PATIENCE, behind.outcome()).await.unwrap(), Ok(7));
    worker.drain().await;
    engine.close().await;
}
