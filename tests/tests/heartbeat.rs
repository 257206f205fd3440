//! Sessions live on heartbeats, in both directions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use stepwell::wire::message::{Heartbeat, Message};
use stepwell::{Client, Ctx, EngineOptions, Failure, RunId, Worker, Workflow};

use crate::host::PATIENCE;
use crate::peer::{Peer, hello, register, start};

const LONG: Workflow<(), u32> = Workflow::new("long");
/// Long enough for a machine with other work to do to send one heartbeat of five in it.
const TIMEOUT: Duration = Duration::from_secs(2);

// R6: liveness, not age, decides. While a long step runs nothing is said about its run for many
// session timeouts, on either side; only heartbeats tell the worker that the engine lives, and the
// engine that the worker does. Without one direction the worker would drop the step at the timeout
// and run it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_many_session_time_outs_long_runs_once() {
    let directory = tempfile::tempdir().unwrap();
    let options = EngineOptions::default()
        .heartbeat(Duration::from_millis(400))
        .session_timeout(TIMEOUT)
        .embedded(false);
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
                        tokio::time::sleep(Duration::from_secs(8)).await;
                        Ok::<_, Failure>(nth)
                    }
                })
                .await
            }
        })
        .start()
        .unwrap();
    let client = Client::connect(&address).await.unwrap();
    let run = client.start(LONG, &()).name("long").await.unwrap();
    // Without heartbeats it would begin again and again.
    let outcome = tokio::time::timeout(PATIENCE, run.outcome()).await;
    assert_eq!(outcome.expect("it ends"), Ok(1));
    assert_eq!(bodies.load(Ordering::SeqCst), 1, "bodies run");
    let stats = client.stats().await.unwrap();
    assert_eq!((stats.sessions_lost, stats.redeliveries), (0, 0));
    assert_eq!(stats.dispatches, 1, "dispatches");
    worker.drain().await;
    engine.close().await;
}

// R6. A worker that went silent without its connection ending loses its run although other peers
// keep the engine busy: what they say, more often than the engine looks at its sessions, must not
// put that look off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_worker_is_noticed_while_others_talk() {
    let directory = tempfile::tempdir().unwrap();
    let options = EngineOptions::default()
        .heartbeat(Duration::from_millis(400))
        .session_timeout(TIMEOUT)
        .embedded(false);
    let engine = options.open(directory.path().join("data")).await.unwrap();
    let address = engine.listen("127.0.0.1:0").await.unwrap();
    let (mut talker, _) = Peer::greeted(&address, hello(1)).await;
    let mut silent = Peer::registered(&address, hello(2), register("long", 1)).await;
    assert!(talker.send(&[start(1, "long", RunId(7), &())]).await);
    assert!(matches!(silent.next().await, Some(Message::Dispatch(_))));

    let talking = tokio::spawn(async move {
        while talker.send(&[Heartbeat { beat: 1 }.into()]).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let worker = Worker::connect(&address).register(LONG, async |_, ()| Ok(5)).start().unwrap();
    let client = Client::connect(&address).await.unwrap();
    let run = client.run::<u32>(RunId(7));
    let outcome = tokio::time::timeout(PATIENCE, run.outcome()).await;
    assert_eq!(outcome.expect("the run is taken from the silent worker"), Ok(5));
    assert_eq!(client.stats().await.unwrap().sessions_lost, 1);
    worker.drain().await;
    engine.close().await;
    talking.await.unwrap();
}
