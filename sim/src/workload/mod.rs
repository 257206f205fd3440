//! Workflows that carry their own proof, and the outside world as their steps see it.

mod chain;
mod checkout;
mod solo;

use std::sync::Arc;
use std::time::Duration;

use stepwell::{Failure, Retry, Step, Worker, Workflow};

pub(crate) use self::chain::{expected as chain_expected, request as chain_request};
pub(crate) use self::checkout::{DECLINED, Receipt};
use crate::ledger::{CallPlan, no_answer};
use crate::plan::{ChainInput, Order, Solo};
use crate::world::Host;

/// Steps hashed onto one another.
pub(crate) const CHAIN: Workflow<ChainInput, u64> = Workflow::new("chain");
/// Concurrent steps, sleeps, compensation.
pub(crate) const CHECKOUT: Workflow<Order, Receipt> = Workflow::new("checkout");
/// No step at all.
pub(crate) const SOLO: Workflow<Solo, (u64, String)> = Workflow::new("solo");

/// The outside world.
#[derive(Clone)]
pub(crate) enum Outside {
    /// The ledger, as a host of the simulation reaches it.
    Live(Arc<Host>),
    /// Nothing may be done: a replay of what has ended. Counts the bodies that were started all the same.
    Closed(Arc<std::sync::atomic::AtomicU64>),
}

/// Registers all workloads.
pub(crate) fn register(worker: Worker, outside: &Outside) -> Worker {
    let (a, b) = (outside.clone(), outside.clone());
    worker
        .register(CHAIN, move |ctx, input| chain::chain(ctx, input, a.clone()))
        .register(CHECKOUT, move |ctx, order| {
            checkout::checkout(ctx, order, b.clone())
        })
        .register(SOLO, solo::solo)
}

/// The policy of all steps: more retries than calls can fail, soon.
fn retry() -> Retry {
    Retry::exponential(Duration::from_millis(100)).retries(8)
}

/// Attempts end within this time.
const HARD: Duration = Duration::from_millis(1_500);

impl Outside {
    /// One call under the step's key.
    async fn call(self, step: Step, request: String) -> Result<u64, Failure> {
        let host = match self {
            Self::Live(host) => host,
            Self::Closed(started) => {
                started.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                return Err(Failure::terminal(
                    "nothing may be done in a replay of what has ended",
                ));
            }
        };
        let (world, key) = (host.world.clone(), step.key());
        if world.court().durable.is_forgotten(step.run()) {
            // Its worker was away for longer than the run was kept, and than the world remembers keys.
            world.saw("bodies of forgotten runs");
            return Err(Failure::terminal("the run is forgotten"));
        }
        let (plan, takes_ms) = world
            .ledger()
            .begin(world.plan.seed, &world.plan.settings, &key);
        host.note(format_args!(
            "calls for `{request}` under {key}, attempt {}: {plan:?}",
            step.attempt()
        ));
        world
            .court()
            .body_started(host.now_ms(), step.run(), step.number());
        host.rest(Duration::from_millis(takes_ms / 2)).await;
        match plan {
            CallPlan::Failed => {
                world.saw("calls that failed");
                return Err(no_answer(&request));
            }
            CallPlan::Hangs => {
                world.saw("calls that hang");
                std::future::pending::<()>().await;
            }
            CallPlan::Panics => {
                world.saw("steps that panicked");
                // Not through the panic hook, which is there for panics that nobody planned.
                std::panic::resume_unwind(Box::new("the plan says so"));
            }
            CallPlan::Answered | CallPlan::ReplyLost => {}
        }
        let value = world.ledger().effect(world.plan.seed, &key, &request);
        host.note(format_args!("effect `{request}` under {key}"));
        let value = value.map_err(|problem| {
            world
                .court()
                .charge("one request per key", host.now_ms(), problem.clone());
            Failure::terminal(problem)
        })?;
        host.rest(Duration::from_millis(takes_ms / 2)).await;
        if plan == CallPlan::ReplyLost {
            world.saw("replies lost");
            return Err(no_answer(&request));
        }
        Ok(value)
    }
}
