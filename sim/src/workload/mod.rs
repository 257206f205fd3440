//! Workflows that carry their own proof, and the outside world as their steps see it.

mod chain;
mod checkout;
mod item;
mod solo;

use std::time::Duration;

use stepwell::{BatchEnded, Failure, Retry, Step, Workflow};

pub(crate) use self::chain::{expected as chain_expected, request as chain_request};
pub(crate) use self::checkout::{DECLINED, Receipt};
pub(crate) use self::item::{Follow, ItemInput};
use crate::outside::{CallError, Outside};
use crate::plan::{ChainInput, Order, Solo};
use crate::program::SimWorker;

/// Steps hashed onto one another.
pub(crate) const CHAIN: Workflow<ChainInput, u64> = Workflow::new("chain");
/// Concurrent steps, sleeps, compensation.
pub(crate) const CHECKOUT: Workflow<Order, Receipt> = Workflow::new("checkout");
/// No step at all.
pub(crate) const SOLO: Workflow<Solo, (u64, String)> = Workflow::new("solo");

/// Handled by several, each with an outcome of its own.
pub(crate) const ITEM: Workflow<ItemInput, u64> = Workflow::new("item");
/// What follows a batch.
pub(crate) const FOLLOW: Workflow<BatchEnded<u64>, Follow> = Workflow::new("follow");

/// The effect that all steps have.
pub(crate) const CALL: &str = "call";

/// Registers all workloads.
pub(crate) fn register(worker: SimWorker) -> SimWorker {
    let (a, b, c) = (worker.world(), worker.world(), worker.world());
    worker
        .register(CHAIN, move |ctx, input| chain::chain(ctx, input, a.clone()))
        .register(CHECKOUT, move |ctx, order| {
            checkout::checkout(ctx, order, b.clone())
        })
        .register(SOLO, solo::solo)
        .register(FOLLOW, item::follow)
        .register_batch(ITEM, item::policy(), move |items| {
            item::handle(items, c.clone())
        })
}

/// The policy of all steps: more retries than calls can fail, soon.
fn retry() -> Retry {
    Retry::exponential(Duration::from_millis(100)).retries(8)
}

/// Attempts end within this time.
const HARD: Duration = Duration::from_millis(1_500);

/// One call under the step's key.
async fn call(outside: Outside, step: Step, request: String) -> Result<u64, Failure> {
    let answer = outside.call(CALL, step.key(), &request).await;
    answer.map_err(|error| match error {
        CallError::NoAnswer { .. } => Failure::retryable(error).class("provider"),
        CallError::Wrong(problem) => Failure::terminal(problem),
    })
}
