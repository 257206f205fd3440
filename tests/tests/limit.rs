//! Limits of steps that run in place, and leases.

use std::time::Duration;

use stepwell::model::entry::Entry as JournalEntry;
use stepwell::{Client, Engine, STUCK_EXIT_CODE, millis, secs};
use stepwell_tests::process_spec::{EngineSpec, WorkerSpec};
use stepwell_tests::workflow::{self, BLOCK, Block, EXPORT, JAM, LONG, Long, STALL, Stall, World};
use tokio::process::Command;
use tokio::time::{Instant, timeout};

use crate::host::{Host, PATIENCE, count, effects, until, until_stats, within};

/// The kinds of a run's entries.
async fn kinds(client: &Client, run: stepwell::RunId) -> Vec<&'static str> {
    let journal = client.journal(run).await.unwrap();
    journal.iter().map(JournalEntry::kind_name).collect()
}

// A44, and the rule of the timeout for what cannot be dropped: a step that blocks its thread has
// failed 5 s after its limit. Its worker says so itself, over a thread that the step cannot block,
// takes no more work, ends what runs besides and exits with a code of its own; the step is made
// again elsewhere, and what it returns in the end is refused.
#[tokio::test]
async fn a_worker_whose_thread_is_stuck_reports_the_attempt_and_exits_with_its_code() {
    let directory = tempfile::tempdir().unwrap();
    let mut spec = EngineSpec::new(directory.path().join("data"));
    spec.session_timeout = secs(60);
    let (engine, server) = Host::engine(&spec).await;
    let client = Client::connect(&server).await.unwrap();
    let world = directory.path().join("effects");
    let spec = WorkerSpec { server, slots: 4, grace: secs(20), effects: world.clone() };
    let mut first = Host::worker(&spec);
    let until_there = directory.path().join("go-on");
    let block = Block { hard: millis(300), until: until_there.clone() };
    let stuck = client.start(BLOCK, &block).await.unwrap();
    first.says("begun block").await;
    // It ends well in time, beside the thread that is stuck, after the worker has taken its leave.
    let beside = client.start(LONG, &Long { work: secs(9) }).await.unwrap();
    first.says("begun work").await;

    until("the attempt has failed", || async {
        kinds(&client, stuck.id()).await.contains(&"AttemptFailed")
    })
    .await;
    let mut second = Host::worker(&spec);
    second.says("begun block").await;
    assert_eq!(stuck.outcome().await.unwrap(), "attempt 2");
    let late = client.stats().await.unwrap().refused_late;
    std::fs::write(&until_there, "").unwrap();
    first.says("done block").await;
    until_stats(&client, "the late result is refused", |stats| stats.refused_late > late).await;

    let ended = first.ended().await;
    assert_eq!(ended.code, Some(STUCK_EXIT_CODE), "{ended:?}");
    assert!(ended.stderr.contains("blocks its thread"), "{ended:?}");
    assert_eq!(beside.outcome().await.unwrap(), "both done");
    let lines = effects(&world);
    assert_eq!(count(&lines, "begun work"), 1, "{lines:#?}");
    assert_eq!(
        kinds(&client, stuck.id()).await,
        ["Started", "AttemptFailed", "StepCompleted", "Completed"]
    );
    let journal = client.journal(stuck.id()).await.unwrap();
    let JournalEntry::AttemptFailed(failed) = &journal[1] else { panic!("{journal:?}") };
    assert_eq!(failed.failure.class, "time limit");
    assert!(failed.failure.message.contains("stuck"), "{}", failed.failure);
    assert_eq!(client.stats().await.unwrap().sessions_lost, 0);
    second.close().await;
    engine.close().await;
}

// A44: a function without steps that blocks its thread is an attempt that has failed, like a step
// that does.
#[tokio::test]
async fn a_function_without_steps_that_blocks_its_thread_is_a_failed_attempt_and_its_worker_exits()
{
    let kinds = ["Started", "AttemptFailed", "Completed"];
    let lines = a_function_blocks(false, &kinds).await;
    assert_eq!(count(&lines, "begun stall"), 2, "{lines:#?}");
}

// A44: and so is one that does it between two of its steps. What was done before is not done again.
#[tokio::test]
async fn a_function_that_blocks_its_thread_between_two_steps_is_a_failed_attempt_and_its_worker_exits()
 {
    let kinds = ["Started", "StepCompleted", "AttemptFailed", "StepCompleted", "Completed"];
    let lines = a_function_blocks(true, &kinds).await;
    assert_eq!(count(&lines, "begun before"), 1, "{lines:#?}");
}

/// Lets the first attempt at `STALL` block its worker's thread; the run's journal is then
/// `expected`. The world's lines.
async fn a_function_blocks(between: bool, expected: &[&str]) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let mut spec = EngineSpec::new(directory.path().join("data"));
    spec.session_timeout = secs(60);
    let (engine, server) = Host::engine(&spec).await;
    let client = Client::connect(&server).await.unwrap();
    let world = directory.path().join("effects");
    let spec = WorkerSpec { server, slots: 4, grace: secs(20), effects: world.clone() };
    let mut first = Host::worker(&spec);
    let until = directory.path().join("go-on");
    let stall = Stall { between, until: until.clone() };
    let stuck = client.start(STALL, &stall).await.unwrap();
    first.says("begun stall").await;
    // It keeps the worker until the thread has come back.
    let beside = client.start(LONG, &Long { work: secs(9) }).await.unwrap();
    first.says("begun work").await;

    crate::host::until("the attempt has failed", || async {
        kinds(&client, stuck.id()).await.contains(&"AttemptFailed")
    })
    .await;
    let second = Host::worker(&spec);
    assert_eq!(stuck.outcome().await.unwrap(), "attempt 2");
    let late = client.stats().await.unwrap().refused_late;
    std::fs::write(&until, "").unwrap();
    first.says("done stall").await;
    if !between {
        until_stats(&client, "the late result is refused", |stats| stats.refused_late > late).await;
    }

    let ended = first.ended().await;
    assert_eq!(ended.code, Some(STUCK_EXIT_CODE), "{ended:?}");
    assert!(ended.stderr.contains("blocks its thread"), "{ended:?}");
    assert_eq!(beside.outcome().await.unwrap(), "both done");
    assert_eq!(kinds(&client, stuck.id()).await, expected);
    let journal = client.journal(stuck.id()).await.unwrap();
    let failed = journal.iter().find_map(|entry| match entry {
        JournalEntry::AttemptFailed(failed) => Some(failed),
        _ => None,
    });
    let failure = &failed.unwrap().failure;
    assert_eq!(failure.class, "time limit");
    assert!(
        failure.message.contains("function is stuck") && failure.message.contains("300ms"),
        "{failure}"
    );
    assert_eq!(client.stats().await.unwrap().sessions_lost, 0);
    second.close().await;
    engine.close().await;
    effects(&world)
}

// A44: a call of a bulk handler that blocks its thread has failed 5 s past the limit of the call,
// for each of its items.
#[tokio::test]
async fn a_bulk_handler_that_blocks_its_thread_is_noticed_by_the_limit_of_its_call() {
    let directory = tempfile::tempdir().unwrap();
    let spec = EngineSpec::new(directory.path().join("data"));
    let (engine, server) = Host::engine(&spec).await;
    let client = Client::connect(&server).await.unwrap();
    let spec =
        WorkerSpec { server, slots: 4, grace: secs(1), effects: directory.path().join("effects") };
    let mut first = Host::worker(&spec);
    let until_there = directory.path().join("never");
    let two = vec![(None, until_there.clone()), (None, until_there)];
    let runs = client.start_many(JAM, two).await.unwrap();
    first.says("begun jam 2").await;
    let ended = first.ended().await;
    assert_eq!(ended.code, Some(STUCK_EXIT_CODE), "{ended:?}");
    let second = Host::worker(&spec);
    for run in runs {
        let run = run.unwrap();
        assert_eq!(run.outcome().await.unwrap(), 2);
        let journal = client.journal(run.id()).await.unwrap();
        let JournalEntry::AttemptFailed(failed) = &journal[1] else { panic!("{journal:?}") };
        assert_eq!(failed.failure.class, "time limit");
        let told = &failed.failure.message;
        assert!(told.contains("timeout of 300ms"), "{told}");
    }
    second.close().await;
    engine.close().await;
}

// A42: the soft timeout is a word to the step, which is still there to clean up: in the worker, and
// in a process of its own.
#[tokio::test]
async fn a_step_cleans_up_when_its_soft_timeout_has_passed() {
    let directory = tempfile::tempdir().unwrap();
    let spec = EngineSpec::new(directory.path().join("data"));
    let (engine, server) = Host::engine(&spec).await;
    let client = Client::connect(&server).await.unwrap();
    let spec =
        WorkerSpec { server, slots: 4, grace: secs(1), effects: directory.path().join("effects") };
    let mut worker = Host::worker(&spec);
    for isolated in [false, true] {
        let run = client.start(EXPORT, &isolated).await.unwrap();
        worker.says("begun export").await;
        worker.says("cleaned export").await;
        assert_eq!(run.outcome().await, Ok(2), "the second attempt");
        let journal = client.journal(run.id()).await.unwrap();
        let JournalEntry::AttemptFailed(failed) = &journal[1] else { panic!("{journal:?}") };
        let told = &failed.failure.message;
        assert!(told.contains("soft timeout of 300ms"), "{told}");
    }
    worker.close().await;
    engine.close().await;
}

async fn signal(host: &Host, name: &str) {
    let pid = host.pid().to_string();
    let sent = Command::new("kill").args([name, &pid]).status().await;
    assert!(sent.unwrap().success());
}

/// How long a worker may be silent.
const LEASE: Duration = secs(2);

// A39: a worker that stands still, its connection open, loses its lease with the session timeout,
// and within a second more the next one has the run. The first learns it when it goes on, and drops
// what it did.
#[tokio::test]
async fn a_worker_that_stands_still_loses_its_run_to_the_next() {
    within(LEASE + secs(1), a_standstill_is_made_up_for).await;
}

/// How long it takes from a worker's standstill to the next attempt at its step.
async fn a_standstill_is_made_up_for() -> Duration {
    let directory = tempfile::tempdir().unwrap();
    let mut spec = EngineSpec::new(directory.path().join("data"));
    spec.session_timeout = LEASE;
    let (engine, server) = Host::engine(&spec).await;
    let client = Client::connect(&server).await.unwrap();
    let world = directory.path().join("effects");
    let spec = WorkerSpec { server, slots: 4, grace: secs(1), effects: world.clone() };
    let mut first = Host::worker(&spec);
    let run = client.start(LONG, &Long { work: secs(6) }).await.unwrap();
    let begun = first.says("begun work").await;
    let mut second = Host::worker(&spec);
    until_stats(&client, "both are there", |stats| stats.workers == 2).await;
    let stopped_at = Instant::now();
    signal(&first, "-STOP").await;
    assert_eq!(second.says("begun work").await, begun, "the same key");
    let taken = stopped_at.elapsed();
    // Its last heartbeat was on its way before.
    assert!(taken > LEASE / 2, "redelivered after {taken:?}");
    signal(&first, "-CONT").await;
    assert_eq!(run.outcome().await.unwrap(), "both done");
    assert_eq!(
        kinds(&client, run.id()).await,
        ["Started", "StepCompleted", "StepCompleted", "Completed"]
    );
    until("the first is told that its lease is revoked", || async {
        first.log().contains("revoked") || first.log().contains("turns are dropped")
    })
    .await;
    let lines = effects(&world);
    assert_eq!(count(&lines, "begun after"), 1, "{lines:#?}");
    second.close().await;
    first.close().await;
    engine.close().await;
    taken
}

// A worker in somebody's program does not end that program: it reports, refuses more work, and
// tells whoever asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedded_worker_with_a_stuck_thread_leaves_and_the_program_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::open(directory.path().join("data")).await.unwrap();
    let world = World::new(directory.path().join("effects"), |_| {});
    let worker = workflow::register(engine.worker(), &world).grace(millis(100)).start().unwrap();
    let client = engine.client();
    let until_there = directory.path().join("go-on");
    let block = Block { hard: millis(100), until: until_there.clone() };
    let run = client.start(BLOCK, &block).await.unwrap();
    timeout(PATIENCE, worker.finished()).await.expect("it leaves");
    assert_eq!(worker.stats().stuck, 1);
    assert_eq!(kinds(&client, run.id()).await, ["Started", "AttemptFailed"]);
    let next = workflow::register(engine.worker(), &world).start().unwrap();
    assert_eq!(run.outcome().await.unwrap(), "attempt 2");
    std::fs::write(&until_there, "").unwrap();
    next.drain().await;
    engine.close().await;
}
