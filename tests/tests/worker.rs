//! A worker that dies.

use stepwell::{Client, millis, secs};
use stepwell_tests::order::{EngineOrder, WorkerOrder};
use stepwell_tests::workflow::{LONG, Long};
use tokio::time::Instant;

use crate::host::{Host, count, effects};

// A39. R6 and R3: a killed process closes its connection, which tells more than the session time-out would; its runs go to the
// next worker after the short grace for broken connections. The step is done again, and the world can tell by its key.
#[tokio::test]
async fn the_step_of_a_killed_worker_is_done_again_by_another_under_the_same_key() {
    let directory = tempfile::tempdir().unwrap();
    let mut order = EngineOrder::new(directory.path().join("data"));
    (order.session_timeout, order.disconnect_grace) = (secs(60), millis(500));
    let grace = order.disconnect_grace;
    let (engine, server) = Host::engine(&order).await;
    let world = directory.path().join("effects");
    let order = WorkerOrder {
        server: server.clone(),
        slots: 4,
        grace: secs(1),
        effects: world.clone(),
    };
    let mut first = Host::worker(&order);
    let client = Client::connect(&server).await.unwrap();
    let run = client.start(LONG, &Long { work: secs(1) }).await.unwrap();
    let begun = first.says("begun work").await;
    let mut second = Host::worker(&order);
    second.says("working").await;

    first.kill();
    let killed_at = Instant::now();
    assert_eq!(second.says("begun work").await, begun, "the same key");
    let taken = killed_at.elapsed();
    assert!(
        taken >= grace && taken < grace + secs(2),
        "redelivered after {taken:?}"
    );

    assert_eq!(run.outcome().await.unwrap(), "both done");
    let lines = effects(&world);
    assert_eq!(
        (count(&lines, "begun work"), count(&lines, "done work")),
        (2, 1),
        "{lines:#?}"
    );
    assert_eq!(count(&lines, &begun), 2, "{lines:#?}");
    let stats = client.stats().await.unwrap();
    assert_eq!((stats.sessions_lost, stats.regrants), (1, 1), "{stats:?}");
    second.close().await;
    engine.close().await;
}
