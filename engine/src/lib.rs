//! Stepwell: a durable workflow engine in a library, or in one binary without a database.
//!
//! A **run** is an ordinary async function. The outcome of every step is written to the run's
//! journal, on disk, before the next step starts. When anything dies (the step, the worker, the
//! engine, the machine), the function is run again: finished steps return what was recorded, and
//! the work goes on where it stopped.
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use stepwell::{Ctx, Engine, Failure, Retry, Workflow, millis, secs};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Order { id: u64, cents: u64 }
//!
//! const CHECKOUT: Workflow<Order, String> = Workflow::new("checkout");
//!
//! async fn checkout(ctx: Ctx, order: Order) -> Result<String, Failure> {
//!     let charge = ctx
//!         .step("charge", |s| payments::charge(order.cents, s.key().to_string()))
//!         .retry(Retry::exponential(secs(2)).retries(5)) // 2, 4, 8, 16, 32 s: six attempts
//!         .soft_timeout(secs(30)).timeout(secs(40))
//!         .await?;
//!     ctx.sleep(millis(20)).await?; // or three days: a waiting run holds no slot and no memory
//!     ctx.step("thank", |_| async { Ok::<_, Failure>(()) }).await?;
//!     Ok(charge)
//! }
//! # mod payments {
//! #     pub async fn charge(cents: u64, key: String) -> Result<String, std::io::Error> {
//! #         Ok(format!("{cents} cents charged, once, by {}", key.len()))
//! #     }
//! # }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path();
//! let engine = Engine::open(path).await?;
//! let worker = engine.worker().register(CHECKOUT, checkout).queue("default", 32).start()?;
//! let run = engine.client().start(CHECKOUT, &Order { id: 17, cents: 1999 }).name("order-17").await?; // durable now
//! println!("{}", run.outcome().await?);
//! worker.drain().await;
//! engine.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # What it is not
//!
//! Not a consensus system: one node holds the truth. Not exactly-once towards the outside: a step
//! is *at-least-once in the world and exactly-once in the journal*; [`Step::key`] is the same for
//! all its attempts, to guard its outside effect with. Not a place for large data: payloads are 64
//! KiB unless set higher.
//!
//! # Limits
//!
//! | what | number |
//! |---|---|
//! | a payload (input, output of a step or run) | 64 KiB, by setting up to 16 MiB |
//! | entries in a journal | warns at 10,000; at 500,000 the run is paused until the limit is raised |
//! | runs started in one call | 10,000 |
//! | queues | 10,000; priorities 0 to 9 |
//! | tags of a run, of a worker | 8, of 64 bytes |
//! | a queue's concurrency limit, the count and burst of its rate limit | 1,000,000 |
//! | names of workflows, queues, steps | 128 bytes; of runs 256 |
//! | a delay | ten years |
//! | schedules | 10,000; an input of theirs 2 KiB; intervals from 1 s |
//! | ended runs are kept for | 7 days, by setting |
//!
//! # Map
//!
//! - [`workflow`]: what an author writes: [`Workflow`], [`Ctx`], steps, sleeps, [`join!`],
//!   [`select!`].
//! - [`Worker`] runs workflows, [`Client`] starts them and asks about them, over TCP or in the
//!   process of the engine.
//! - [`Engine`] (feature `server`): embedded, or listening.
//! - [`model`]: the nouns.
//! - [`runtime`]: the only code that touches tokio; [`runtime::env`] is where a simulation puts
//!   another world.
//!
//! # Features
//!
//! `worker` (default): the SDK, worker and client; no store. `server` (default): the engine with
//! the fjall store, and `calendar`, which reads cron expressions and knows the time zones. Without
//! any: the nouns alone. `inspect` is for the simulator and the fuzz targets: it shows the core, what
//! is stored and the protocol, none of which is kept stable.

/// Declares modules that are not for users: the simulator and the fuzz targets see them by the
/// feature `inspect`.
macro_rules! internal {
    ($($(#[$meta:meta])* $module:ident),+ $(,)?) => {
        $(
            #[cfg(feature = "inspect")]
            $(#[$meta])*
            pub mod $module;
            #[cfg(not(feature = "inspect"))]
            $(#[$meta])*
            #[allow(unreachable_pub, reason = "public by the feature `inspect`")]
            mod $module;
        )+
    };
}

internal! {
    #[cfg(any(feature = "server", feature = "inspect"))]
    core,
    numbered,
    #[cfg(any(feature = "server", feature = "inspect"))]
    store_reader,
    #[cfg(any(feature = "server", feature = "inspect"))]
    tables,
    #[cfg(any(feature = "worker", feature = "inspect"))]
    wire,
}

#[cfg(canary)]
pub mod canary;
#[cfg(not(canary))]
mod canary;
#[cfg(all(test, feature = "server"))]
mod fixed;
#[cfg(any(test, feature = "inspect"))]
pub mod fuzzing;
mod lenient;
pub mod model;
#[cfg(feature = "worker")]
mod replay;
#[cfg(feature = "worker")]
pub mod runtime;
#[cfg(feature = "worker")]
pub mod workflow;

pub use model::batch::{BatchEnded, BatchSummary};
pub use model::failure::Failure;
pub use model::id::RunId;
pub use model::limits::Limits;
pub use model::payload::Payload;
pub use model::queue::{QueueChange, QueueSettings, QueueSummary, RateLimit};
pub use model::request::Refusal;
pub use model::retry::Retry;
pub use model::run::{Outcome, RunState};
pub use model::schedule::Overlap;
pub use model::time::Time;
pub use model::unique::Unique;
pub use numbered::Undecodable;
#[cfg(feature = "worker")]
pub use runtime::client::{
    BatchBuilder, BatchCancelled, BatchStarted, Client, ClientError, Filled, Gateway, Queues, Run,
    RunError, ScheduleBuilder, ScheduleSet, Schedules, StartBuilder, StartMany,
};
#[cfg(feature = "server")]
pub use runtime::engine::{Engine, EngineOptions, OpenError};
#[cfg(feature = "server")]
pub use runtime::inspect::{StoreReport, store_check, store_dump};
#[cfg(feature = "worker")]
pub use runtime::session::SessionError;
#[cfg(feature = "worker")]
pub use runtime::worker::{STUCK_EXIT_CODE, Worker, WorkerError, WorkerHandle, WorkerStats};
#[cfg(feature = "worker")]
pub use workflow::{
    BulkPolicy, Call, Ctx, Isolation, Item, SoftTimeout, Step, Workflow, days, hours, join_all,
    millis, mins, secs,
};

/// The README's examples, compiled and run with the others.
#[cfg(all(doctest, feature = "server"))]
#[doc = include_str!("../../README.md")]
struct Readme;

/// The page about queues, likewise.
#[cfg(all(doctest, feature = "server"))]
#[doc = include_str!("../../docs/queues.md")]
struct QueuesPage;
/// Those of the pages.
#[cfg(all(doctest, feature = "server"))]
#[doc = include_str!("../../docs/timeouts.md")]
struct LimitsPage;
