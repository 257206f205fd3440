//! Retries and timeouts in the whole engine, on simulated time: the clock of the test jumps to
//! whatever is due next.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use stepwell_storage::{MemDisk, MemOptions, MemStore};
use tokio::time::Instant;

use super::client::{Run, RunError};
use super::engine::{Engine, EngineOptions};
use super::env::{Clock, Env};
use super::fake_engine;
use super::worker::WorkerHandle;
use crate::model::entry::Entry;
use crate::model::failure::Failure;
use crate::model::id::CommandIndex;
use crate::model::retry::Retry;
use crate::model::time::Time;
use crate::workflow::{Ctx, Step, Workflow, hours, millis, secs};

const WORK: Workflow<u32, u32> = Workflow::new("work");

/// A wall clock that is right: engine time follows it.
struct Right(Instant);

impl Clock for Right {
    fn mono(&self) -> Duration {
        self.0.elapsed()
    }

    fn wall(&self) -> Time {
        Time(1_800_000_000_000).after(self.0.elapsed())
    }

    fn sleep(&self, span: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(span))
    }
}

pub(super) fn env() -> Env {
    Env { clock: Arc::new(Right(Instant::now())), ..fake_engine::env() }
}

/// What an attempt does.
type Body = Arc<dyn Fn(u32) -> Result<u32, Failure> + Send + Sync>;

/// An engine, a worker with one slot, and the instants at which attempts began.
struct Shop {
    engine: Engine,
    _worker: WorkerHandle,
    begun: Arc<Mutex<Vec<Instant>>>,
}

impl Shop {
    async fn open(retry: Retry, body: Body) -> Self {
        let store = MemStore::acquire(&MemDisk::new(), MemOptions::default()).unwrap();
        let options = EngineOptions { socket: false, ..EngineOptions::default() };
        let engine = options.open_on(env(), Arc::new(store)).await.unwrap();
        let begun = Arc::new(Mutex::new(Vec::new()));
        let noted = begun.clone();
        let function = move |ctx: Ctx, _: u32| {
            let (noted, body) = (noted.clone(), body.clone());
            async move {
                ctx.step("try", |s: Step| {
                    noted.lock().unwrap().push(Instant::now());
                    let body = body.clone();
                    async move { body(s.attempt()) }
                })
                .retry(retry)
                .await
            }
        };
        let worker = engine.worker().register(WORK, function);
        let worker = worker.queue("default", 1).start().unwrap();
        Self { engine, _worker: worker, begun }
    }

    /// Runs it; the waits in the journal, the waits as they were, and how it ended.
    async fn run(&self) -> (Vec<Duration>, Vec<Duration>, Result<u32, RunError>, Run<u32>) {
        let run = self.engine.client().start(WORK, &1).await.unwrap();
        let ended = run.outcome().await;
        let journal = self.engine.client().journal(run.id()).await.unwrap();
        let planned = journal.iter().filter_map(|entry| match entry {
            Entry::AttemptFailed(e) => Some(e.retry_at.since(e.at)),
            _ => None,
        });
        let begun = self.begun.lock().unwrap();
        let real = begun.windows(2).map(|pair| pair[1] - pair[0]).collect();
        (planned.collect(), real, ended, run)
    }
}

/// Never early; late by what it takes to be told, which costs no time here but the rounding of
/// clocks.
fn in_time(planned: &[Duration], real: &[Duration]) {
    assert_eq!(planned.len(), real.len());
    for (planned, real) in planned.iter().zip(real) {
        let late = real.checked_sub(*planned);
        assert!(late.is_some_and(|late| late <= millis(3)), "{real:?} instead of {planned:?}");
    }
}

fn fails() -> Body {
    Arc::new(|attempt| Err(Failure::retryable(format!("attempt {attempt}"))))
}

// A40: 2, 4, 8, 16, 32 s, six attempts, no more.
#[tokio::test(start_paused = true)]
async fn the_default_policy_waits_for_2_4_8_16_and_32_seconds() {
    let shop = Shop::open(Retry::default().jitter(0), fails()).await;
    let (planned, real, ended, _) = shop.run().await;
    assert_eq!(planned, [2, 4, 8, 16, 32].map(secs));
    in_time(&planned, &real);
    assert!(matches!(ended, Err(RunError::Failed(f)) if f.message == "attempt 6"));
}

// A12: the attempts that are made, and when, are those of the policy, its jitter included: it is
// drawn from run, step and attempt, so that anyone can say beforehand what it will be.
#[tokio::test(start_paused = true)]
async fn attempts_are_made_at_the_policys_instants_to_the_millisecond() {
    let policy = Retry::exponential(millis(700)).retries(7).cap(secs(9));
    let shop = Shop::open(policy, fails()).await;
    let (planned, real, ended, run) = shop.run().await;
    let said: Vec<Duration> = (1..=7)
        .map(|attempt| policy.backoff_jittered(run.id(), CommandIndex(0), attempt))
        .collect();
    assert_eq!(planned, said);
    for (wait, plain) in planned.iter().zip([700, 1_400, 2_800, 5_600, 9_000, 9_000, 9_000]) {
        let (least, most) = (millis(plain * 8 / 10), millis(plain * 12 / 10));
        assert!((least..=most).contains(wait), "{wait:?} for {plain} ms");
    }
    let mut spread = planned[4..].to_vec();
    spread.dedup();
    assert_eq!(spread.len(), 3, "no two waits are the same: {planned:?}");
    in_time(&planned, &real);
    assert!(matches!(ended, Err(RunError::Failed(f)) if f.message == "attempt 8"));
}

// A14: being rate-limited is no fault of the step: it waits as long as it is told to and still has
// all its retries.
#[tokio::test(start_paused = true)]
async fn retry_after_30_seconds_is_not_early_and_uses_up_no_retry() {
    let body: Body = Arc::new(|attempt| match attempt {
        1..=3 => Err(Failure::retry_after(secs(30), "slow down")),
        4 | 5 => Err(Failure::retryable("broken")),
        attempt => Ok(attempt),
    });
    let shop = Shop::open(Retry::fixed(secs(1)).retries(2).jitter(0), body).await;
    let (planned, real, ended, _) = shop.run().await;
    assert_eq!(planned, [30, 30, 30, 1, 1].map(secs));
    in_time(&planned, &real);
    assert_eq!(ended, Ok(6));
}

// A14: but not for ever.
#[tokio::test(start_paused = true)]
async fn retry_after_is_bounded_by_a_day() {
    let body: Body = Arc::new(|_| Err(Failure::retry_after(hours(5), "come back tomorrow")));
    let shop = Shop::open(Retry::default(), body).await;
    let (planned, _, ended, _) = shop.run().await;
    // At 0, 5, 10, 15 and 20 hours; 25 would be too late.
    assert_eq!(planned, [hours(5); 4]);
    assert!(matches!(ended, Err(RunError::Failed(f)) if f.class == "retry after"));
}

const HANG: Workflow<u32, u32> = Workflow::new("hang");
const QUICK: Workflow<u32, u32> = Workflow::new("quick");

// A44: a downstream that hangs for ever takes its slot for as long as the timeout allows, and
// not a moment longer.
#[tokio::test(start_paused = true)]
async fn a_slot_is_free_at_the_timeout_of_a_step_that_hangs() {
    let store = MemStore::acquire(&MemDisk::new(), MemOptions::default()).unwrap();
    let options = EngineOptions { socket: false, ..EngineOptions::default() };
    let engine = options.open_on(env(), Arc::new(store)).await.unwrap();
    let hang = |ctx: Ctx, _: u32| async move {
        ctx.step("hang", |_| std::future::pending::<Result<u32, Failure>>())
            .soft_timeout(secs(20))
            .timeout(secs(40))
            .await
    };
    let quick = |ctx: Ctx, n: u32| async move {
        ctx.step("quick", |_| async move { Ok::<_, Failure>(n) }).await
    };
    let worker = engine.worker().register(HANG, hang).register(QUICK, quick);
    let _worker = worker.queue("default", 2).start().unwrap();
    let client = engine.client();
    let began = Instant::now();
    for n in 0..2 {
        client.start(HANG, &n).await.unwrap();
    }
    let behind: Vec<_> = (0..50).map(|n| (None, n)).collect();
    for run in client.start_many(QUICK, behind).await.unwrap() {
        run.unwrap().outcome().await.unwrap();
    }
    let taken = began.elapsed();
    assert!(
        taken >= secs(40) && taken < secs(41),
        "all slots were taken, and fifty runs behind them ended after {taken:?}"
    );
}
