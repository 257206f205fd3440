//! What an author writes against: [`Workflow`], [`Ctx`], steps, sleeps, joins.
//!
//! A workflow is an ordinary async function. Whatever it asks of its [`Ctx`] is numbered in the
//! order in which the code asks and recorded in the run's journal; when the function is run again,
//! it gets the recorded answers in the recorded order. So the function has to ask the same again
//! each time. It may branch on its input, on answers, on [`Ctx::now`] and [`Ctx::random`]. Clocks,
//! random numbers, files, networks and channels belong into steps.
//!
//! ```
//! use stepwell::{Ctx, Failure, Retry, Workflow, days, secs};
//!
//! #[derive(serde::Serialize, serde::Deserialize)]
//! pub struct Order { id: u64, cents: u64 }
//!
//! pub const CHECKOUT: Workflow<Order, String> = Workflow::new("checkout").version(3).queue("payments");
//!
//! # mod payments {
//! #     pub async fn charge(_: u64, _: u64, key: String) -> Result<String, std::io::Error> { Ok(key) }
//! # }
//! # mod mail {
//! #     pub async fn review<T>(_: &T, _: String) -> Result<(), std::io::Error> { Ok(()) }
//! # }
//! pub async fn checkout(ctx: Ctx, order: Order) -> Result<String, Failure> {
//!     let charge = ctx
//!         .step("charge", |s| payments::charge(order.id, order.cents, s.key()))
//!         .retry(Retry::exponential(secs(2)).retries(5)) // 2, 4, 8, 16, 32 s: six attempts
//!         .soft_timeout(secs(30)).timeout(secs(40))
//!         .await?;
//!     ctx.sleep(days(3)).await?;
//!     ctx.step("ask-for-review", |s| mail::review(&order, s.key())).await?;
//!     Ok(charge)
//! }
//! ```

mod bulk;
mod ctx;
mod definition;
mod isolation;
pub mod join;
mod span;
mod step;
mod timer;

pub(crate) use bulk::BulkHandler;
pub use bulk::{BulkPolicy, Call, Item};
pub use ctx::Ctx;
pub use definition::Workflow;
pub use isolation::Isolation;
pub use join::join_all;
pub use span::{days, hours, millis, mins, secs};
#[cfg(test)]
pub(crate) use step::idempotency_key;
pub use step::{SOFT_TIMEOUT_DEFAULT, SoftTimeout, Step, StepFuture, TIMEOUT_DEFAULT};
pub(crate) use step::{encode, over_time, panic_text};
pub use timer::SleepFuture;
