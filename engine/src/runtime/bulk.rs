//! Bulk handlers in the whole engine, on simulated time: what ends a call as a whole, and when.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use stepwell_storage::{MemDisk, MemOptions, MemStore};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::client::Run;
use super::engine::{Engine, EngineOptions};
use super::retry_tests::env;
use super::worker::WorkerHandle;
use crate::model::entry::{AttemptFailed, Entry};
use crate::model::failure::Failure;
use crate::model::retry::Retry;
use crate::workflow::{BulkPolicy, Item, Workflow, millis, secs};

const ITEM: Workflow<u64, u64> = Workflow::new("item");
type Outcomes = Vec<Result<u64, Failure>>;

/// A hundred items, or what has come half a second after the first; tried again 10 ms later.
fn policy() -> BulkPolicy {
    let retry = Retry::fixed(millis(10)).retries(3).jitter(0);
    BulkPolicy::new(100, millis(500)).retry(retry)
}

/// An engine, a worker with a bulk handler, and how many items each call of it had, and when.
struct Shop {
    engine: Engine,
    _worker: WorkerHandle,
    calls: Arc<Mutex<Vec<(usize, Instant)>>>,
}

impl Shop {
    async fn open<F, Fut>(policy: BulkPolicy, handler: F) -> Self
    where
        F: Fn(Vec<Item<u64>>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Outcomes> + Send + 'static,
    {
        let store = MemStore::acquire(&MemDisk::new(), MemOptions::default()).unwrap();
        let options = EngineOptions { socket: false, ..EngineOptions::default() };
        let engine = options.open_on(env(), Arc::new(store)).await.unwrap();
        let calls: Arc<Mutex<Vec<(usize, Instant)>>> = Arc::default();
        let noted = calls.clone();
        let handler = move |items: Vec<Item<u64>>| {
            noted.lock().unwrap().push((items.len(), Instant::now()));
            handler(items)
        };
        let worker = engine.worker().register_bulk(ITEM, policy, handler);
        let _worker = worker.start().unwrap();
        Self { engine, _worker, calls }
    }

    async fn start(&self, runs: u64) -> Vec<Run<u64>> {
        let runs = (0..runs).map(|n| (None, n)).collect();
        let runs = self.engine.client().start_many(ITEM, runs).await.unwrap();
        runs.into_iter().map(Result::unwrap).collect()
    }

    /// The attempt of this run that failed: it is its only one, and is followed by one that
    /// succeeds.
    async fn failed_once(&self, run: &Run<u64>) -> AttemptFailed {
        let journal = self.engine.client().journal(run.id()).await.unwrap();
        let kinds: Vec<&str> = journal.iter().map(Entry::kind_name).collect();
        let expected = ["Started", "AttemptFailed", "StepCompleted", "Completed"];
        assert_eq!(kinds, expected);
        match &journal[1] {
            Entry::AttemptFailed(failed) => failed.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// The sizes of all calls so far.
    fn sizes(&self) -> Vec<usize> {
        let calls = self.calls.lock().unwrap();
        calls.iter().map(|(items, _)| *items).collect()
    }
}

fn all_well(items: &[Item<u64>]) -> Outcomes {
    items.iter().map(|item| Ok(item.input * 2)).collect()
}

fn is_first(items: &[Item<u64>]) -> bool {
    items.iter().all(|item| item.attempt() == 1)
}

/// The first call answers what `first` makes of the outcomes.
async fn miscounted(first: fn(&mut Outcomes)) {
    let handler = move |items: Vec<Item<u64>>| async move {
        let mut outcomes = all_well(&items);
        if is_first(&items) {
            first(&mut outcomes);
        }
        outcomes
    };
    let shop = Shop::open(policy(), handler).await;
    let runs = shop.start(4).await;
    for (number, run) in (0..).zip(&runs) {
        assert_eq!(run.outcome().await, Ok(number * 2));
        let failed = shop.failed_once(run).await;
        assert_eq!(failed.failure.class, "batch");
        assert!(failed.failure.message.contains("for 4 items"));
    }
    assert_eq!(shop.sizes(), [4, 4]);
}

// A21: nobody can say whose the outcomes are if there are too few or too many of them: none of them
// counts.
#[tokio::test(start_paused = true)]
async fn a_call_with_one_outcome_too_few_fails_one_attempt_of_each_item() {
    miscounted(|outcomes| drop(outcomes.pop())).await;
    miscounted(|outcomes| drop(outcomes.remove(0))).await;
}

// A21: likewise.
#[tokio::test(start_paused = true)]
async fn a_call_with_one_outcome_too_many_fails_one_attempt_of_each_item() {
    miscounted(|outcomes| outcomes.push(Ok(9))).await;
}

// A41: a call that hangs has its own timeout, from when the handler was called, and its items
// are free then.
#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_ends_at_its_timeout_and_fails_one_attempt_of_each_item() {
    let handler = |items: Vec<Item<u64>>| async move {
        if is_first(&items) {
            std::future::pending::<()>().await;
        }
        all_well(&items)
    };
    let (soft, hard) = (secs(2), secs(3));
    let shop = Shop::open(policy().soft_timeout(soft).timeout(hard), handler).await;
    let runs = shop.start(3).await;
    for (number, run) in (0..).zip(&runs) {
        assert_eq!(run.outcome().await, Ok(number * 2));
        let failed = shop.failed_once(run).await;
        assert_eq!(failed.failure.class, "time limit");
        assert!(failed.failure.message.ends_with("timeout of 3s"));
    }
    let calls = shop.calls.lock().unwrap().clone();
    let [(3, first), (3, again)] = calls[..] else { panic!("{calls:?}") };
    // Limit, backoff, and the wait for the group to be full; and a few milliseconds to tell it.
    let expected = hard + millis(10) + millis(500);
    let late = (again - first).checked_sub(expected);
    assert!(late.is_some_and(|late| late < millis(20)), "{late:?} late");
}

/// When a handler was told of its soft timeout, counted from its call.
async fn told_after(policy: BulkPolicy) -> Duration {
    let told = Arc::new(Mutex::new(None));
    let tell = told.clone();
    let handler = move |items: Vec<Item<u64>>| {
        let (tell, called) = (tell.clone(), Instant::now());
        async move {
            if !is_first(&items) {
                return all_well(&items);
            }
            let call = items[0].call();
            let Err(passed) =
                call.until_soft_timeout(std::future::pending::<std::convert::Infallible>()).await;
            *tell.lock().unwrap() = Some(called.elapsed());
            tokio::time::sleep(millis(100)).await; // it cleans up
            items.iter().map(|_| Err(passed.into())).collect()
        }
    };
    let shop = Shop::open(policy, handler).await;
    for run in shop.start(2).await {
        run.outcome().await.unwrap();
        let failed = shop.failed_once(&run).await;
        let message = failed.failure.message;
        assert!(message.contains("longer than its soft timeout"), "{message}");
    }
    told.lock().unwrap().take().unwrap()
}

// A42: a bulk handler is told at its soft timeout, and has the time up to the timeout to clean up.
#[tokio::test(start_paused = true)]
async fn a_bulk_handler_is_told_at_its_soft_timeout() {
    let after = told_after(policy().soft_timeout(secs(2)).timeout(secs(3))).await;
    assert!(after >= secs(2) && after <= secs(2) + millis(2), "{after:?}");
    let after = told_after(policy()).await;
    assert!(after >= secs(300) && after <= secs(300) + millis(2), "{after:?}");
}

// A21: an item that is cancelled while its group is gathered is not in the call, and the others
// have their own outcomes.
#[tokio::test(start_paused = true)]
async fn an_item_that_leaves_before_the_call_is_not_in_it() {
    let called = Arc::new(Notify::new());
    let tell = called.clone();
    let handler = move |items: Vec<Item<u64>>| {
        tell.notify_one();
        async move { all_well(&items) }
    };
    let shop = Shop::open(policy(), handler).await;
    let runs = shop.start(3).await;
    tokio::time::sleep(millis(100)).await; // of half a second
    assert!(shop.sizes().is_empty());
    runs[1].cancel("not wanted").await.unwrap();
    called.notified().await;
    assert_eq!(runs[0].outcome().await, Ok(0));
    assert_eq!(runs[2].outcome().await, Ok(4));
    assert!(runs[1].outcome().await.is_err());
    assert_eq!(shop.sizes(), [2]);
}
