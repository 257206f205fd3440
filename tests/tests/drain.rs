//! A worker that is told to go.

use stepwell::{Client, RunState, millis, secs};
use stepwell_tests::order::{EngineOrder, WorkerOrder};
use stepwell_tests::workflow::{LONG, Long, SLEEPER};
use tokio::time::{Instant, timeout};

use crate::host::{Host, count, effects, until_stats};

/// So long that no grant comes back by waiting for it.
const SESSION_TIMEOUT: std::time::Duration = secs(60);

// A deployment restarts all workers. If their grants came back only with the session time-out, each deployment would
// stop all runs for as long; and if steps were cut short, each would do them twice.
#[tokio::test]
async fn a_drained_worker_ends_its_steps_and_gives_its_grants_back_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut order = EngineOrder::new(directory.path().join("data"));
    order.session_timeout = SESSION_TIMEOUT;
    let (engine, server) = Host::engine(&order).await;
    let client = Client::connect(&server).await.unwrap();
    let world = directory.path().join("effects");
    let order = WorkerOrder {
        server,
        slots: 8,
        grace: secs(3),
        effects: world.clone(),
    };
    let mut first = Host::worker(&order);

    // Four whose step ends within the grace, one whose step does not, three that wait, and three behind them in line.
    let mut runs = Vec::new();
    for number in 0..3 {
        client.start(SLEEPER, &number).await.unwrap();
    }
    until_stats(&client, "three sleep", |stats| {
        stats.runs_in(RunState::Suspended) == 3
    })
    .await;
    for _ in 0..4 {
        runs.push(
            client
                .start(LONG, &Long { work: millis(800) })
                .await
                .unwrap(),
        );
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
    let ended = timeout(secs(8), first.ended())
        .await
        .expect("it leaves after its grace");
    assert_eq!(ended.code, Some(0), "{ended:?}");

    let gone_at = Instant::now();
    let mut second = Host::worker(&order);
    for run in &runs {
        run.outcome().await.unwrap();
    }
    second.says("begun work").await;
    let taken = gone_at.elapsed();
    assert!(
        taken < SESSION_TIMEOUT / 6,
        "all was there for the next worker after {taken:?}"
    );

    let lines = effects(&world);
    assert_eq!(count(&lines, "begun after"), 7, "{lines:#?}");
    assert_eq!(count(&lines, "done work"), 7, "{lines:#?}");
    // Each step once; only the one that outlived the grace was begun again, under the same key.
    assert_eq!(count(&lines, "begun work"), 9, "{lines:#?}");
    assert_eq!(
        count(&lines, &format!("begun work {}-0", endless.id())),
        2,
        "{lines:#?}"
    );
    let after = client.stats().await.unwrap();
    assert_eq!(
        (after.sessions_lost, after.regrants, after.refused_late),
        (0, 0, 0),
        "{before:?} {after:?}"
    );
    assert_eq!(after.runs_in(RunState::Dead), 0);
    second.kill();
    engine.close().await;
}
