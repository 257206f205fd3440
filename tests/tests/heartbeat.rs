//! Sessions live on heartbeats, in both directions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use stepwell::{Client, Ctx, EngineOptions, Failure, Worker, Workflow};

const LONG: Workflow<(), u32> = Workflow::new("long");

// R6: liveness, not age, decides. While a long step runs nothing is said about its run for many session time-outs, on either
// side; only heartbeats tell the worker that the engine lives, and the engine that the worker does. Without one direction the
// worker would drop the step at the time-out and run it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_many_session_time_outs_long_runs_once() {
    let directory = tempfile::tempdir().unwrap();
    let options = EngineOptions {
        heartbeat: Duration::from_millis(100),
        session_timeout: Duration::from_millis(500),
        embedded: false,
        ..EngineOptions::default()
    };
    let engine = options.open(directory.path().join("data")).await.unwrap();
    let address = engine.listen("127.0.0.1:0").await.unwrap();

    let bodies = Arc::new(AtomicU32::new(0));
    let counted = bodies.clone();
    let worker = Worker::connect(&address)
        .register(LONG, move |ctx: Ctx, ()| {
            let counted = counted.clone();
            async move {
                ctx.step("wait", |_| {
                    let nth = counted.fetch_add(1, Ordering::SeqCst) + 1;
                    async move {
                        tokio::time::sleep(Duration::from_secs(3)).await;
                        Ok::<_, Failure>(nth)
                    }
                })
                .await
            }
        })
        .start()
        .unwrap();
    let client = Client::connect(&address).await.unwrap();
    let run = client.start(LONG, &()).id("long").await.unwrap();
    // Without heartbeats it would begin again and again.
    let outcome = tokio::time::timeout(Duration::from_secs(20), run.outcome()).await;
    assert_eq!(outcome.expect("it ends"), Ok(1));
    assert_eq!(bodies.load(Ordering::SeqCst), 1, "bodies run");
    let stats = client.stats().await.unwrap();
    assert_eq!((stats.sessions_lost, stats.regrants), (0, 0));
    assert_eq!(stats.grants, 1, "grants given");
    worker.drain().await;
    engine.close().await;
}
