//! Memoized steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use stepwell::model::entry::Entry;
use stepwell::{
    Client, Ctx, Engine, Failure, Retry, Run, RunError, RunState, Worker, Workflow, millis, secs,
};
use stepwell_tests::process_spec::{EngineSpec, WorkerSpec};
use stepwell_tests::workflow::{DOOMED, RATE, Rate};

use crate::host::{Host, count, effects, until_stats};

const INVOICE: Workflow<u64, u64> = Workflow::new("invoice");
const MOODY: Workflow<u64, u64> = Workflow::new("moody");

/// Its first body fails, the others answer with a hundred and how many there were before.
fn rates(worker: Worker, done: &Arc<AtomicU64>) -> Worker {
    let done = done.clone();
    worker
        .register(INVOICE, move |ctx: Ctx, _number: u64| {
            let done = done.clone();
            async move {
                let fetch = |_| {
                    let nth = done.fetch_add(1, Ordering::SeqCst);
                    async move {
                        match nth {
                            0 => Err(Failure::retryable("not yet")),
                            nth => Ok(100 + nth),
                        }
                    }
                };
                let retry = Retry::fixed(millis(50)).retries(3);
                ctx.memoize("rate of 2026-03-01", fetch).retry(retry).await
            }
        })
        .queue("default", 16)
}

async fn attempts_of(client: &Client, run: &Run<u64>) -> Vec<u32> {
    let journal = client.journal(run.id()).await.unwrap();
    let attempt = |entry: &Entry| match entry {
        Entry::StepCompleted(step) => Some(step.attempt),
        _ => None,
    };
    journal.iter().filter_map(attempt).collect()
}

// A38: work guarded by a key, across runs: however many runs ask for it at a time, it is done once,
// and each gets the first result, also after a restart of the engine. A failed attempt passes it
// on.
#[tokio::test]
async fn the_second_call_gets_the_first_result() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::open(directory.path().join("data")).await.unwrap();
    let done = Arc::new(AtomicU64::new(0));
    let worker = rates(engine.worker(), &done).start().unwrap();
    let runs = (0..40).map(|number| (None, number)).collect();
    let mut told = Vec::new();
    for run in engine.client().start_many(INVOICE, runs).await.unwrap() {
        let run = run.unwrap();
        assert_eq!(run.outcome().await, Ok(101));
        told.extend(attempts_of(&engine.client(), &run).await);
    }
    assert_eq!(done.load(Ordering::SeqCst), 2, "one failed, one did not");
    told.sort_unstable();
    assert_eq!((told[38], told.len()), (0, 40), "one attempt: {told:?}");
    worker.drain().await;
    engine.close().await;
    let engine = Engine::open(directory.path().join("data")).await.unwrap();
    let worker = rates(engine.worker(), &done).start().unwrap();
    let late = engine.client().start(INVOICE, &41).await.unwrap();
    assert_eq!(late.outcome().await, Ok(101));
    assert_eq!(done.load(Ordering::SeqCst), 2);
    worker.drain().await;
    engine.close().await;
}

// A failure for good is that of one run. The next in line makes its own attempt, with its own body.
#[tokio::test]
async fn one_run_that_fails_for_good_does_not_fail_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::open(directory.path().join("data")).await.unwrap();
    let worker = engine
        .worker()
        .register(MOODY, |ctx: Ctx, number: u64| async move {
            let body = |_| async move {
                match number {
                    0 => Err(Failure::terminal("not with this one")),
                    number => Ok(number),
                }
            };
            ctx.memoize("mood", body).await
        })
        .queue("default", 1) // one after the other
        .start()
        .unwrap();
    let runs = (0..4).map(|number| (None, number)).collect();
    let mut runs = engine.client().start_many(MOODY, runs).await.unwrap().into_iter();
    let first = runs.next().unwrap().unwrap().outcome().await;
    assert!(matches!(first, Err(RunError::Failed(_))), "{first:?}");
    for run in runs {
        assert_eq!(run.unwrap().outcome().await, Ok(1));
    }
    worker.drain().await;
    engine.close().await;
}

/// An engine and a place for workers, each a process.
struct Shop {
    spec: EngineSpec,
    engine: Host,
    client: Client,
    directory: tempfile::TempDir,
}

impl Shop {
    async fn open() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut spec = EngineSpec::new(directory.path().join("data"));
        let (engine, server) = Host::engine(&spec).await;
        spec.listen = server.clone();
        Self { spec, engine, client: Client::connect(&server).await.unwrap(), directory }
    }

    fn worker(&self) -> Host {
        Host::worker(&WorkerSpec {
            server: self.spec.listen.clone(),
            slots: 1,
            grace: secs(1),
            effects: self.directory.path().join("effects"),
        })
    }

    async fn rate(&self, work: std::time::Duration) -> Run<String> {
        let rate = Rate { work, isolated: false };
        self.client.start(RATE, &rate).await.unwrap()
    }

    fn effects(&self) -> Vec<String> {
        effects(&self.directory.path().join("effects"))
    }

    async fn restart_engine(&mut self) {
        self.engine.killed().await;
        let (engine, _) = Host::engine(&self.spec).await;
        self.engine = engine;
    }
}

// A38: the worker of the attempt dies with it. Another one does the work, under the same key: the
// one that waited, or the first when it comes again before that is awake. Both get that result.
#[tokio::test]
async fn a_worker_that_dies_leaves_the_work_to_the_next_in_line() {
    let shop = Shop::open().await;
    let mut first = shop.worker();
    let held = shop.rate(secs(3)).await;
    let begun = first.says("begun rate").await;
    let mut second = shop.worker();
    let waits = shop.rate(millis(10)).await;
    until_stats(&shop.client, "one holds it, one waits", |stats| stats.in_memory.memos == 2).await;
    assert_eq!(count(&shop.effects(), "begun rate"), 1);
    first.kill();
    assert_eq!(second.says("begun rate").await, begun, "the same key");
    let by = waits.outcome().await.unwrap();
    let either = [&waits, &held].map(|run| run.id().to_string());
    assert!(either.contains(&by), "{by}");
    assert_eq!(held.outcome().await.unwrap(), by);
    let lines = shop.effects();
    assert_eq!((count(&lines, "begun rate"), count(&lines, "done rate")), (2, 1), "{lines:#?}");
    second.close().await;
    shop.engine.close().await;
}

// A38: the engine is killed while a body runs and while it knows a result. The body goes on without
// it, and whoever asks gets one result, before and after.
#[tokio::test]
async fn a_killed_engine_forgets_no_result() {
    let mut shop = Shop::open().await;
    let mut first = shop.worker();
    let one = shop.rate(secs(2)).await;
    first.says("begun rate").await;
    let second = shop.worker();
    let two = shop.rate(secs(2)).await;
    until_stats(&shop.client, "one holds it, one waits", |stats| stats.in_memory.memos == 2).await;
    shop.restart_engine().await;
    let by = one.outcome().await.unwrap();
    assert_eq!(two.outcome().await.unwrap(), by);
    let begun = count(&shop.effects(), "begun rate");
    assert!((1..=2).contains(&begun), "{begun}");
    shop.restart_engine().await;
    let three = shop.rate(secs(2)).await;
    assert_eq!(three.outcome().await.unwrap(), by);
    assert_eq!(count(&shop.effects(), "begun rate"), begun);
    first.close().await;
    second.close().await;
    shop.engine.close().await;
}

// A38: a run that waits for a key holds no slot: the one slot of a worker goes to other work, at
// once and however many wait. The engine is killed meanwhile. When the work is done, all get its
// result.
#[tokio::test]
async fn a_run_that_waits_for_a_key_holds_no_slot() {
    let mut shop = Shop::open().await;
    let mut first = shop.worker();
    let held = shop.rate(secs(8)).await;
    first.says("begun rate").await;
    let second = shop.worker();
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(shop.rate(millis(10)).await);
    }
    until_stats(&shop.client, "three sleep", |stats| stats.runs_in(RunState::Suspended) == 3).await;
    let one = shop.client.start(DOOMED, &1).await.unwrap();
    assert!(one.outcome().await.is_err(), "it had a slot");
    shop.restart_engine().await;
    let two = shop.client.start(DOOMED, &2).await.unwrap();
    assert!(two.outcome().await.is_err(), "it had a slot");
    let by = held.outcome().await.unwrap();
    for run in waiting {
        assert_eq!(run.outcome().await.unwrap(), by);
    }
    first.close().await;
    second.close().await;
    shop.engine.close().await;
}

// In a process of its own, too, which asks nobody: its worker did.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_isolated_memoized_step_runs_once() {
    let shop = Shop::open().await;
    let (first, second) = (shop.worker(), shop.worker());
    let rate = Rate { work: millis(100), isolated: true };
    let one = shop.client.start(RATE, &rate).await.unwrap();
    let two = shop.client.start(RATE, &rate).await.unwrap();
    let by = one.outcome().await.unwrap();
    assert_eq!(two.outcome().await.unwrap(), by);
    let lines = shop.effects();
    assert_eq!(count(&lines, "begun rate"), 1, "{lines:#?}");
    assert!(lines[0].contains("once_"), "{lines:#?}");
    first.close().await;
    second.close().await;
    shop.engine.close().await;
}
