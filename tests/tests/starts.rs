//! What is required of starts: one at a time, many at once, with unique keys, as batches, and
//! handled together.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use stepwell::model::entry::Entry;
use stepwell::model::request::{NotAllStarted, TooMany};
use stepwell::{
    BatchEnded, BulkPolicy, Client, ClientError, Ctx, Engine, Failure, Item, Refusal, Retry,
    RunError, RunState, Unique, Worker, Workflow, hours, millis, secs,
};
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::host::{PATIENCE, until_stats};

const HELD: Workflow<u64, u64> = Workflow::new("held");
const FRAGILE: Workflow<u64, u64> = Workflow::new("fragile");
const RECORDS: Workflow<Vec<u64>, u64> = Workflow::new("records");
const REPORT: Workflow<BatchEnded<String>, (String, u64, u64)> = Workflow::new("report");
const ITEM: Workflow<u64, u64> = Workflow::new("item");

/// The items of a call of a bulk handler, and which attempts these are.
type Call = Vec<(u64, u32)>;

/// An engine in this process, without a worker yet.
async fn engine() -> (TempDir, Engine) {
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::open(directory.path().join("data")).await.unwrap();
    (directory, engine)
}

/// Bodies of `HELD` end when they are let.
fn held(worker: Worker, gate: &Arc<Semaphore>) -> Worker {
    let gate = gate.clone();
    worker.register(HELD, move |ctx: Ctx, number: u64| {
        let gate = gate.clone();
        async move {
            ctx.step("hold", move |_| {
                let gate = gate.clone();
                async move {
                    gate.acquire().await.unwrap().forget();
                    Ok::<u64, Failure>(number)
                }
            })
            .await
        }
    })
}

// A1: work that cannot run in a request becomes a job. A start that waited for its body, or for a
// slot, would make the request wait: here all handlers are busy with bodies that are held until all
// starts have answered.
#[tokio::test]
async fn a_start_answers_while_all_handlers_are_busy() {
    let (_directory, engine) = engine().await;
    let address = engine.listen("127.0.0.1:0").await.unwrap();
    let gate = Arc::new(Semaphore::new(0));
    let worker = held(Worker::connect(&address), &gate).queue("default", 4).start().unwrap();
    let client = Client::connect(&address).await.unwrap();
    let mut runs = Vec::new();
    for number in 0..4 {
        runs.push(client.start(HELD, &number).await.unwrap());
    }
    until_stats(&client, "all handlers are busy", |stats| stats.dispatches == 4).await;
    for number in 4..200 {
        let answer = timeout(PATIENCE, async { client.start(HELD, &number).await });
        runs.push(answer.await.unwrap().unwrap());
    }
    let stats = client.stats().await.unwrap();
    let counts = [RunState::Completed, RunState::Running, RunState::Queued];
    assert_eq!(counts.map(|state| stats.runs_in(state)), [0, 4, 196]);
    gate.add_permits(200);
    for (number, run) in (0..).zip(runs) {
        assert_eq!(run.outcome().await, Ok(number));
    }
    worker.drain().await;
    engine.close().await;
}

// A2: a dead downstream must not hurt the request path. It refuses everything: every start succeeds
// all the same; once it heals, every job completes.
#[tokio::test]
async fn a_downstream_that_refuses_everything_stops_no_start() {
    let (_directory, engine) = engine().await;
    let (heals, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (up, count) = (heals.clone(), refused.clone());
    let worker = engine.worker().register(FRAGILE, move |ctx: Ctx, number: u64| {
        let (up, count) = (up.clone(), count.clone());
        async move {
            let call = move |_| {
                let (up, count) = (up.clone(), count.clone());
                async move {
                    if up.load(Ordering::SeqCst) {
                        return Ok(number);
                    }
                    count.fetch_add(1, Ordering::SeqCst);
                    Err(Failure::retryable("connection refused"))
                }
            };
            let patient = Retry::fixed(millis(20)).retries(100_000);
            ctx.step("call", call).retry(patient).await
        }
    });
    let worker = worker.queue("default", 64).start().unwrap();
    let client = engine.client();
    let starts = (0..300).map(|number| {
        let client = client.clone();
        async move { client.start(FRAGILE, &number).await }
    });
    let runs: Vec<_> = join_all(starts).await.into_iter().map(Result::unwrap).collect();
    until_stats(&client, "some attempts fail", |_| refused.load(Ordering::SeqCst) > 300).await;
    assert_eq!(client.stats().await.unwrap().runs_in(RunState::Completed), 0);
    heals.store(true, Ordering::SeqCst);
    for (number, run) in (0..).zip(runs) {
        assert_eq!(timeout(PATIENCE, run.outcome()).await.unwrap(), Ok(number));
    }
    worker.drain().await;
    engine.close().await;
}

// The key is held by one of many that ask for it at the same time; all others are told which. Once
// it has ended, the key is free for another.
#[tokio::test]
async fn a_crowd_with_one_unique_key_is_one_run() {
    let (_directory, engine) = engine().await;
    let gate = Arc::new(Semaphore::new(0));
    let worker = held(engine.worker(), &gate).queue("default", 4).start().unwrap();
    let start = |client: Client, number: u64| async move {
        client.start(HELD, &number).unique("invoice-17", Unique::UntilEnded).await.unwrap()
    };
    let crowd = join_all((0..50).map(|number| start(engine.client(), number))).await;
    let ids: BTreeSet<_> = crowd.iter().map(|run| run.id()).collect();
    let started = crowd.iter().filter(|run| run.started()).count();
    assert_eq!((ids.len(), started), (1, 1));
    gate.add_permits(2);
    crowd[0].outcome().await.unwrap();
    let next = start(engine.client(), 51).await;
    assert!(next.started() && !ids.contains(&next.id()));
    assert_eq!(next.outcome().await, Ok(51));
    worker.drain().await;
    engine.close().await;
}

// What is durable of a key is not forgotten by an engine that is opened again, and neither is what
// ended before.
#[tokio::test]
async fn a_unique_key_is_held_across_a_restart_of_the_engine() {
    let (directory, engine) = engine().await;
    let client = engine.client();
    let running = client.start(HELD, &1).unique("a", Unique::UntilEnded).await.unwrap();
    let queued = client.start(HELD, &2).unique("b", Unique::UntilStarted).await.unwrap();
    let timed = client.start(HELD, &3).unique("c", Unique::For(hours(1))).await.unwrap();
    timed.cancel("no longer").await.unwrap();
    queued.cancel("no longer").await.unwrap();
    drop(client);
    engine.close().await;
    let engine = Engine::open(directory.path().join("data")).await.unwrap();
    let client = engine.client();
    let again = |key: &str, scope| client.start(HELD, &9).unique(key, scope);
    assert_eq!(again("a", Unique::UntilStarted).await.unwrap().id(), running.id());
    assert_eq!(again("c", Unique::UntilStarted).await.unwrap().id(), timed.id());
    assert!(again("b", Unique::UntilStarted).await.unwrap().started());
    engine.close().await;
}

// A49: a run lets go of its key once. Redriven while another run holds the key, and read back from
// the store after a restart, it ends without taking the key from that run.
#[tokio::test]
async fn a_redriven_run_that_is_read_back_takes_no_key_from_another() {
    let (directory, engine) = engine().await;
    let (tries, gate) = (Arc::new(AtomicU64::new(0)), Arc::new(Semaphore::new(0)));
    let worker = |engine: &Engine| {
        let shared = (tries.clone(), gate.clone());
        let worker = engine.worker().register(FRAGILE, move |ctx: Ctx, number: u64| {
            let (tries, gate) = shared.clone();
            async move {
                let first = tries.fetch_add(1, Ordering::SeqCst) == 0;
                let wait = number > 1;
                let once_more = move |_| {
                    let gate = gate.clone();
                    async move {
                        if first {
                            return Err(Failure::terminal("the first time"));
                        }
                        if wait {
                            gate.acquire().await.unwrap().forget();
                        }
                        Ok(number)
                    }
                };
                ctx.step("once more", once_more).await
            }
        });
        worker.queue("default", 4).start().unwrap()
    };
    let start = async |client: &Client, number: u64| {
        let start = client.start(FRAGILE, &number);
        start.unique("k", Unique::UntilEnded).await.unwrap()
    };
    let serving = worker(&engine);
    let first = start(&engine.client(), 1).await;
    assert!(matches!(first.outcome().await, Err(RunError::Failed(_))));
    serving.drain().await;
    engine.client().redrive(first.id()).await.unwrap();
    let second = start(&engine.client(), 2).await;
    assert!(second.started());
    engine.close().await;

    let engine = Engine::open(directory.path().join("data")).await.unwrap();
    let client = engine.client();
    let serving = worker(&engine);
    let read_back = client.run::<u64>(first.id());
    assert_eq!(read_back.outcome().await, Ok(1));
    let third = start(&client, 3).await;
    assert_eq!((third.started(), third.id()), (false, second.id()));
    gate.add_permits(2);
    assert_eq!(third.outcome().await, Ok(2));
    let fourth = start(&client, 4).await;
    assert!(fourth.started());
    assert_eq!(fourth.outcome().await, Ok(4));
    serving.drain().await;
    engine.close().await;
}

// A bulk start may be atomic: one name among a thousand is taken by another job, and
// nothing is started; the refusal says which. Too many for one commit are refused with the figures.
#[tokio::test]
async fn a_thousand_starts_are_atomic() {
    let (_directory, engine) = engine().await;
    let client = engine.client();
    client.start(HELD, &7).name("order-500").await.unwrap();
    let orders = |count: u64| -> Vec<(Option<String>, u64)> {
        (0..count).map(|n| (Some(format!("order-{n}")), n)).collect()
    };
    let refused = client.start_many(HELD, orders(1_000)).atomic().await;
    let Err(ClientError::Refused(Refusal::NotAllStarted(NotAllStarted {
        count, offenders, ..
    }))) = refused
    else {
        panic!("{refused:?}")
    };
    let at: Vec<u32> = offenders.0.iter().map(|offender| offender.at).collect();
    assert_eq!((count, at), (1_000, vec![500]));
    let stats = client.stats().await.unwrap();
    assert_eq!(stats.runs_in(RunState::Queued), 1, "only the one before");

    let mut fitting = orders(1_001);
    fitting.remove(500);
    let started = client.start_many(HELD, fitting).atomic().await.unwrap();
    assert!(started.iter().all(|run| run.as_ref().unwrap().started()));
    let stats = client.stats().await.unwrap();
    assert_eq!(stats.runs_in(RunState::Queued), 1_001);

    let refused = client.start_many(HELD, orders(2_000)).atomic().await;
    let Err(ClientError::Refused(Refusal::TooMany(TooMany { count, count_max, .. }))) = refused
    else {
        panic!("{refused:?}")
    };
    assert_eq!((count, count_max), (6_001, 4_032));
    engine.close().await;
}

// A20: batching, 100,000 records by 100. A thousand runs in one call, as a batch; the run that
// follows is started once, and is told how they ended.
#[tokio::test]
async fn a_hundred_thousand_records_by_a_hundred_and_one_run_that_follows() {
    let (_directory, engine) = engine().await;
    let seen = Arc::new(AtomicU64::new(0));
    let reports = Arc::new(AtomicU64::new(0));
    let (sum, told) = (seen.clone(), reports.clone());
    let worker = engine
        .worker()
        .register(RECORDS, move |ctx: Ctx, records: Vec<u64>| {
            let sum = sum.clone();
            async move {
                let import = move |_| {
                    sum.fetch_add(records.len() as u64, Ordering::SeqCst);
                    let broken = records.contains(&77_777);
                    let total = records.iter().sum::<u64>();
                    async move {
                        match broken {
                            true => Err(Failure::terminal("record 77,777 is broken")),
                            false => Ok(total),
                        }
                    }
                };
                ctx.step("import", import).await
            }
        })
        .register(REPORT, move |_ctx, ended: BatchEnded<String>| {
            told.fetch_add(1, Ordering::SeqCst);
            async move { Ok((ended.input, ended.completed, ended.dead)) }
        });
    let worker = worker.queue("default", 64).start().unwrap();
    let client = engine.client();
    let records = |from: u64| (from..from + 100).collect::<Vec<u64>>();
    let runs = (0..1_000).map(|n| (Some(format!("import-{n}")), records(n * 100)));
    let batch =
        client.batch("import").starts(RECORDS, runs.collect()).then(REPORT, &"ann".to_owned());
    let started = batch.start().await.unwrap();
    assert!(started.runs.iter().all(|run| run.as_ref().unwrap().started()));
    let last = started.runs.last().unwrap().as_ref().unwrap();
    assert_eq!(last.outcome().await, Ok((99_900..100_000).sum()));
    let ended = async {
        loop {
            let batch = client.batch_status("import").await.unwrap();
            if batch.ended_at.is_some() {
                return batch;
            }
            tokio::task::yield_now().await;
        }
    };
    let batch = timeout(PATIENCE, ended).await.unwrap();
    assert_eq!((batch.counts.total, batch.counts.completed, batch.counts.dead), (1_000, 999, 1));
    let follow_up = client.run::<(String, u64, u64)>(batch.follow_up.unwrap());
    assert_eq!(follow_up.outcome().await, Ok(("ann".to_owned(), 999, 1)));
    assert_eq!(seen.load(Ordering::SeqCst), 100_000);
    assert_eq!(reports.load(Ordering::SeqCst), 1);
    worker.drain().await;
    engine.close().await;
}

// A20, A21: a bulk handler gets a hundred items in one attempt; three fail. Ninety-seven are
// final, only three are tried again, in a call of their own; one of them fails for good and is a
// dead letter, alone.
#[tokio::test]
async fn of_a_hundred_items_three_fail_and_only_they_are_tried_again() {
    let (_directory, engine) = engine().await;
    let client = engine.client();
    let runs = (0..100).map(|n| (Some(format!("item-{n}")), n)).collect();
    let runs = client.start_many(ITEM, runs).await.unwrap();
    let calls: Arc<Mutex<Vec<Call>>> = Arc::default();
    let (noted, bad) = (calls.clone(), [3, 50, 99]);
    let handler = move |items: Vec<Item<u64>>| {
        let call = items.iter().map(|item| (item.input, item.attempt()));
        noted.lock().unwrap().push(call.collect());
        async move {
            let outcome = |item: Item<u64>| match (bad.contains(&item.input), item.attempt()) {
                (true, 1) => Err(Failure::retryable("not yet")),
                (true, _) if item.input == 50 => Err(Failure::terminal("never")),
                _ => Ok(item.input * 2),
            };
            items.into_iter().map(outcome).collect()
        }
    };
    // A call with fewer than a hundred waits for others, so that the first has all of them.
    let policy = BulkPolicy::new(100, secs(5)).retry(Retry::fixed(millis(10)).retries(3));
    let worker = engine.worker().register_bulk(ITEM, policy, handler).start().unwrap();
    for (number, run) in (0..).zip(&runs) {
        let outcome = run.as_ref().unwrap().outcome().await;
        match number {
            50 => assert!(matches!(outcome, Err(RunError::Failed(_))), "{outcome:?}"),
            _ => assert_eq!(outcome, Ok(number * 2)),
        }
    }
    let calls = calls.lock().unwrap().clone();
    let sizes: Vec<usize> = calls.iter().map(Vec::len).collect();
    assert_eq!(sizes, [100, 3]);
    let again: BTreeSet<(u64, u32)> = calls[1].iter().copied().collect();
    assert_eq!(again, BTreeSet::from([(3, 2), (50, 2), (99, 2)]));
    let stats = client.stats().await.unwrap();
    let ended = (stats.runs_in(RunState::Completed), stats.runs_in(RunState::Dead));
    assert_eq!(ended, (99, 1));
    worker.drain().await;
    engine.close().await;
}

// A21: a handler that panics fails the attempt of each of its items, and nothing else: they come
// again, and end well.
#[tokio::test]
async fn a_panic_of_a_bulk_handler_fails_one_attempt_of_each_item() {
    let (_directory, engine) = engine().await;
    let client = engine.client();
    let handler = |items: Vec<Item<u64>>| async move {
        let first = items.iter().all(|item| item.attempt() == 1);
        assert!(!first, "planned");
        items.into_iter().map(|item| Ok(item.input)).collect()
    };
    // A call with fewer than four waits for others, so that the first has all of them.
    let policy = BulkPolicy::new(4, secs(5)).retry(Retry::fixed(millis(10)).retries(3));
    let runs = (0..4).map(|n| (None, n)).collect();
    let runs = client.start_many(ITEM, runs).await.unwrap();
    let worker = engine.worker().register_bulk(ITEM, policy, handler).start().unwrap();
    for (number, run) in (0..).zip(runs) {
        let run = run.unwrap();
        assert_eq!(run.outcome().await, Ok(number));
        let journal = client.journal(run.id()).await.unwrap();
        let failed: Vec<&str> = journal
            .iter()
            .filter_map(|entry| match entry {
                Entry::AttemptFailed(failed) => Some(failed.failure.class.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(failed, ["panic"], "one attempt of item {number}");
    }
    worker.drain().await;
    engine.close().await;
}

// A38: work guarded by a key, across runs: however many runs ask for it at a time, it is done once,
// and each gets the first result. So it is after a restart of the engine.
#[tokio::test]
async fn a_memoized_step_runs_once_for_all_runs() {
    const RATE: Workflow<String, u64> = Workflow::new("rate").queue("rates");
    const INVOICE: Workflow<u64, u64> = Workflow::new("invoice");
    let (directory, engine) = engine().await;
    let done = Arc::new(AtomicU64::new(0));
    let workers = |engine: &Engine| {
        let (client, done) = (engine.client(), done.clone());
        let worker = engine.worker().register(RATE, move |ctx: Ctx, _day: String| {
            let done = done.clone();
            async move {
                let fetch = move |_| {
                    let nth = done.fetch_add(1, Ordering::SeqCst);
                    async move { Ok::<u64, Failure>(100 + nth) }
                };
                ctx.step("fetch", fetch).await
            }
        });
        let worker = worker.register(INVOICE, move |ctx: Ctx, number: u64| {
            let client = client.clone();
            async move {
                let day = format!("day, as invoice {number} knows it");
                ctx.step("rate", |_| client.get_or_run("2026-03-01", RATE, &day)).await
            }
        });
        worker.queue("default", 8).queue("rates", 1).start().unwrap()
    };
    let worker = workers(&engine);
    let runs = (0..40).map(|number| (None, number)).collect();
    for run in engine.client().start_many(INVOICE, runs).await.unwrap() {
        assert_eq!(run.unwrap().outcome().await, Ok(100));
    }
    worker.drain().await;
    engine.close().await;
    let engine = Engine::open(directory.path().join("data")).await.unwrap();
    let worker = workers(&engine);
    let late = engine.client().start(INVOICE, &41).await.unwrap();
    assert_eq!(late.outcome().await, Ok(100));
    assert_eq!(done.load(Ordering::SeqCst), 1);
    worker.drain().await;
    engine.close().await;
}
