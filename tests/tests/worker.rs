//! A worker that dies, or seems to.

use std::sync::Arc;
use std::time::Duration;

use stepwell::model::entry::{Entry, SourceLocation};
use stepwell::model::id::CommandIndex;
use stepwell::model::request::Refusal;
use stepwell::wire::message::{Dispatch, Held, Message, Register, StepCompletedReport};
use stepwell::{
    Client, Ctx, EngineOptions, Failure, Payload, RunId, Worker, WorkerHandle, Workflow, millis,
    secs,
};
use stepwell_tests::process_spec::{EngineSpec, WorkerSpec};
use stepwell_tests::workflow::{LONG, Long};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::host::{Host, count, effects, until_stats, within};
use crate::peer::{Peer, hello, register, start};

/// What a worker may be away for after its connection broke.
const GRACE: Duration = millis(500);

// A39. R6 and R3: a killed process closes its connection, which tells more than the session
// timeout would; its runs go to the next worker after the short grace for broken connections,
// within a second more. The step is done again, and the world can tell by its key.
#[tokio::test]
async fn the_step_of_a_killed_worker_is_done_again_by_another_under_the_same_key() {
    within(GRACE + secs(1), a_kill_is_made_up_for).await;
}

/// How long it takes from the kill of a worker to the next attempt at its step.
async fn a_kill_is_made_up_for() -> Duration {
    let directory = tempfile::tempdir().unwrap();
    let mut spec = EngineSpec::new(directory.path().join("data"));
    (spec.session_timeout, spec.disconnect_grace) = (secs(60), GRACE);
    let (engine, server) = Host::engine(&spec).await;
    let world = directory.path().join("effects");
    let spec =
        WorkerSpec { server: server.clone(), slots: 4, grace: secs(1), effects: world.clone() };
    let mut first = Host::worker(&spec);
    let client = Client::connect(&server).await.unwrap();
    let run = client.start(LONG, &Long { work: secs(5) }).await.unwrap();
    let begun = first.says("begun work").await;
    let mut second = Host::worker(&spec);
    until_stats(&client, "both are there", |stats| stats.workers == 2).await;

    let killed_at = Instant::now();
    first.kill();
    assert_eq!(second.says("begun work").await, begun, "the same key");
    let taken = killed_at.elapsed();
    assert!(taken >= GRACE, "redelivered after {taken:?}");

    assert_eq!(run.outcome().await.unwrap(), "both done");
    let lines = effects(&world);
    assert_eq!((count(&lines, "begun work"), count(&lines, "done work")), (2, 1), "{lines:#?}");
    assert_eq!(count(&lines, &begun), 2, "{lines:#?}");
    let stats = client.stats().await.unwrap();
    assert_eq!((stats.sessions_lost, stats.redeliveries), (1, 1), "{stats:?}");
    second.close().await;
    engine.close().await;
    taken
}

const ONE_STEP: Workflow<(), u32> = Workflow::new("one step");

/// A step's result under a lease.
fn result(dispatched: &Dispatch, output: u32) -> Message {
    StepCompletedReport {
        run: dispatched.run,
        token: dispatched.token,
        number: CommandIndex(0),
        location: SourceLocation::default(),
        attempt: 1,
        output: Payload::of(&output).unwrap(),
        memo: None,
    }
    .into()
}

/// The next message must be a revocation that names the token.
async fn is_revoked(peer: &mut Peer, dispatched: &Dispatch) {
    match peer.next().await {
        Some(Message::Revoked(revoked)) => {
            assert_eq!((revoked.run, revoked.token), (dispatched.run, dispatched.token));
            let Refusal::StaleToken(stale) = &revoked.reason else { panic!("{revoked:?}") };
            assert_eq!(stale.token, dispatched.token);
        }
        other => panic!("not revoked: {other:?}"),
    }
}

// A39: a worker that was given up is not dead, perhaps. It comes back with the result of its
// attempt, while the next one makes the step and when the run has ended: it is refused each time,
// and the run's result is the other's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_late_result_of_a_worker_that_was_given_up_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let options =
        EngineOptions::default().session_timeout(secs(2)).heartbeat(millis(400)).embedded(false);
    let engine = options.open(directory.path().join("data")).await.unwrap();
    let address = engine.listen("127.0.0.1:0").await.unwrap();
    let offer = || register(ONE_STEP.name(), 1);
    let (mut client, _) = Peer::greeted(&address, hello(1)).await;
    let mut silent = Peer::registered(&address, hello(2), offer()).await;
    assert!(client.send(&[start(1, ONE_STEP.name(), RunId(7), &())]).await);
    let Some(Message::Dispatch(dispatched)) = silent.next().await else {
        panic!("nothing is dispatched")
    };
    // Its connection is whole, and it says nothing: not even that it is there.
    let gate = Arc::new(Semaphore::new(0));
    let next = next_worker(&address, &gate);
    let why = silent.closed_with().await;
    assert!(why.contains("nothing was heard"), "{why}");

    let client = Client::connect(&address).await.unwrap();
    until_stats(&client, "the next one has it", |stats| stats.dispatches == 2).await;
    let no_slots = || Register { queues: Vec::new(), ..offer() };
    let mut back = Peer::registered(&address, hello(2), no_slots()).await;
    assert!(back.send(&[result(&dispatched, 1)]).await);
    is_revoked(&mut back, &dispatched).await;
    assert_eq!(client.stats().await.unwrap().refused_late, 1);

    gate.add_permits(1);
    assert_eq!(client.run::<u32>(RunId(7)).outcome().await, Ok(2));
    assert!(back.send(&[result(&dispatched, 1)]).await);
    is_revoked(&mut back, &dispatched).await;
    // It says itself what it believes to hold.
    let held = Held { run: dispatched.run, token: dispatched.token, seen: 1 };
    let believes = Register { held: vec![held], ..no_slots() };
    let mut back = Peer::registered(&address, hello(2), believes).await;
    is_revoked(&mut back, &dispatched).await;
    let stats = client.stats().await.unwrap();
    assert_eq!((stats.refused_late, stats.steps), (3, 1), "{stats:?}");
    assert_eq!((stats.sessions_lost, stats.redeliveries), (1, 1), "{stats:?}");
    let journal = client.journal(RunId(7)).await.unwrap();
    let completed = journal.iter().filter_map(|entry| match entry {
        Entry::StepCompleted(step) => Some(step.output.to::<u32>().unwrap()),
        _ => None,
    });
    assert_eq!(completed.collect::<Vec<_>>(), [2]);
    next.drain().await;
    engine.close().await;
}

/// Its step returns 2 when it is let.
fn next_worker(address: &str, gate: &Arc<Semaphore>) -> WorkerHandle {
    let gate = gate.clone();
    let body = move |ctx: Ctx, ()| {
        let gate = gate.clone();
        async move {
            let step = ctx.step("only", |_| {
                let gate = gate.clone();
                async move {
                    gate.acquire().await.unwrap().forget();
                    Ok::<_, Failure>(2)
                }
            });
            step.await
        }
    };
    let worker = Worker::connect(address).register(ONE_STEP, body);
    worker.start().unwrap()
}
