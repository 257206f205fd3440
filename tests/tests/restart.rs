//! An engine that dies under its workers and comes back.

use stepwell::{Client, secs};
use stepwell_tests::process_spec::{EngineSpec, WorkerSpec};
use stepwell_tests::workflow::{LONG, Long};
use tokio::time::sleep;

use crate::host::{Host, count, effects};

// A restart of the engine (an upgrade, say) must not cost a step that has run for hours: the worker
// holds its lease while the engine is away, the engine keeps it reserved when it opens, and the
// report is taken under the next token.
#[tokio::test]
async fn an_engine_restart_under_a_long_step_does_not_run_it_twice() {
    let directory = tempfile::tempdir().unwrap();
    let mut spec = EngineSpec::new(directory.path().join("data"));
    let (mut engine, server) = Host::engine(&spec).await;
    spec.listen = server.clone();
    let world = directory.path().join("effects");
    let mut worker = Host::worker(&WorkerSpec {
        server: server.clone(),
        slots: 4,
        grace: secs(1),
        effects: world.clone(),
    });
    let client = Client::connect(&server).await.unwrap();
    let run = client.start(LONG, &Long { work: secs(3) }).name("long").await.unwrap();
    worker.says("begun work").await;

    engine.kill();
    engine.ended().await;
    // The outage itself: worker and client meet a closed port, and keep trying.
    sleep(secs(1)).await;
    let (engine, _) = Host::engine(&spec).await;

    assert_eq!(run.outcome().await.unwrap(), "both done");
    let lines = effects(&world);
    assert_eq!((count(&lines, "begun work"), count(&lines, "done work")), (1, 1), "{lines:#?}");
    assert_eq!(count(&lines, "begun after"), 1, "{lines:#?}");
    let stats = client.stats().await.unwrap();
    assert_eq!((stats.sessions_lost, stats.refused_late), (0, 0), "{stats:?}");
    worker.close().await;
    engine.close().await;
}
