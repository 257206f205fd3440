//! Workflows that carry their own proof, and the outside world as their steps see it.

mod chain;
mod checkout;
mod item;
mod limited;
mod poison;
mod ring;
mod shared;
mod solo;

use std::time::Duration;

use serde::Serialize;
use stepwell::{BatchEnded, Failure, Retry, Step, Workflow};

pub(crate) use self::chain::{expected as chain_expected, request as chain_request};
pub(crate) use self::checkout::{DECLINED, Receipt};
pub(crate) use self::item::{Follow, ItemInput};
pub(crate) use self::limited::{CLEANED, PLANNED};
pub(crate) use self::poison::{Dose, KILL, POISONED, orphan_expected};
pub(crate) use self::shared::Found;
use crate::outside::{CallError, Outside};
use crate::plan::{ChainInput, Limited, Order, Poison, RingInput, Shared, Solo};
use crate::program::SimWorker;

/// Steps hashed onto one another.
pub(crate) const CHAIN: Workflow<ChainInput, u64> = Workflow::new("chain");
/// Concurrent steps, sleeps, compensation.
pub(crate) const CHECKOUT: Workflow<Order, Receipt> = Workflow::new("checkout");
/// No step at all.
pub(crate) const SOLO: Workflow<Solo, (u64, String)> = Workflow::new("solo");
/// What dies, and may be redriven.
pub(crate) const POISON: Workflow<Poison, Dose> = Workflow::new("poison");
/// What only the second version of the code knows.
pub(crate) const ORPHAN: Workflow<u64, u64> = Workflow::new("orphan");

/// A step whose attempts are planned.
pub(crate) const LIMITED: Workflow<Limited, u64> = Workflow::new("limited");
/// Moves along a ring that all its runs share; answers with how many.
pub(crate) const RING: Workflow<RingInput, u64> = Workflow::new("ring");

/// Runs memoized steps.
pub(crate) const SHARED: Workflow<Shared, Vec<Found>> = Workflow::new("shared");

/// A chain in a queue of its own, which operators pause and limit.
pub(crate) const ERRAND: Workflow<ChainInput, u64> = Workflow::new("errand").queue("errands");
/// Handled by several, each with an outcome of its own.
pub(crate) const ITEM: Workflow<ItemInput, u64> = Workflow::new("item");
/// What follows a batch.
pub(crate) const FOLLOW: Workflow<BatchEnded<u64>, Follow> = Workflow::new("follow");

/// The effect that all other steps have.
pub(crate) const CALL: &str = "call";
/// What races with a customer's patience.
pub(crate) const ASK: &str = "ask";
/// The effect of steps that change the ring.
pub(crate) const RING_EFFECT: &str = "ring";
/// The effect of memoized steps.
pub(crate) const MEMO: &str = "once";

/// The effect of a workflow's step.
pub(crate) fn effect_of(workflow: &str, step: &str) -> &'static str {
    if workflow == RING.name() {
        RING_EFFECT
    } else if step == ASK {
        ASK
    } else {
        CALL
    }
}

/// Registers all workloads.
pub(crate) fn register(worker: SimWorker) -> SimWorker {
    let world = || worker.world();
    let (a, b, c, d, e, f, g, h) =
        (world(), world(), world(), world(), world(), world(), world(), world());
    worker
        .register(CHAIN, move |ctx, input| chain::chain(ctx, input, a.clone()))
        .register(CHECKOUT, move |ctx, order| checkout::checkout(ctx, order, b.clone()))
        .register(SOLO, solo::solo)
        .register(LIMITED, move |ctx, input| limited::limited(ctx, input, d.clone()))
        .register(RING, move |ctx, input| ring::ring(ctx, input, c.clone()))
        .register(ERRAND, move |ctx, input| chain::chain(ctx, input, e.clone()))
        .register(POISON, move |ctx, input| poison::poison(ctx, input, f.clone()))
        .register(SHARED, move |ctx, input| shared::shared(ctx, input, h.clone()))
        .register(FOLLOW, item::follow)
        .register_bulk(ITEM, item::policy(), move |items| item::handle(items, g.clone()))
}

/// The same in the version that is deployed later.
pub(crate) fn register_later(worker: SimWorker) -> SimWorker {
    let world = worker.world();
    register(worker).register(ORPHAN, move |ctx, salt| poison::orphan(ctx, salt, world.clone()))
}

/// The policy of all steps: more retries than calls can fail, soon.
fn retry() -> Retry {
    Retry::exponential(Duration::from_millis(100)).retries(8)
}

/// Attempts end within this time.
const HARD: Duration = Duration::from_millis(1_500);

/// One call under the step's key, in a step with this timeout.
async fn call(
    outside: Outside,
    step: Step,
    request: String,
    hard: Duration,
) -> Result<u64, Failure> {
    call_within(hard, CALL, outside, step, request).await
}

/// The same for another effect.
async fn call_for(
    effect: &str,
    outside: Outside,
    step: Step,
    request: impl Serialize,
) -> Result<u64, Failure> {
    call_within(HARD, effect, outside, step, request).await
}

async fn call_within(
    hard: Duration,
    effect: &str,
    outside: Outside,
    step: Step,
    request: impl Serialize,
) -> Result<u64, Failure> {
    let _watch = outside.watches(&step, None, hard);
    let answer = outside.call(effect, step.key(), &request).await;
    answer.map_err(|error| match error {
        CallError::NoAnswer { .. } => Failure::retryable(error).class("provider"),
        CallError::Wrong(problem) => Failure::terminal(problem),
    })
}
