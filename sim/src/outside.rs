//! The outside world as the steps of workflows reach it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use stepwell::model::id::CommandIndex;
use stepwell::{RunId, Step};

use crate::checker::Attempt;
use crate::ledger::CallPlan;
use crate::plan::Point;
use crate::world::Host;

/// How long a call hangs, in the suites of others than the engine: in that, for ever.
const HANG: Duration = Duration::from_secs(20);

/// The outside world: providers, databases, mail servers, as one that remembers everything and
/// survives every crash.
///
/// A suite gives it to the workflows in place of their real clients
/// ([`SimWorker::world`](crate::SimWorker::world)). It is as unreliable as the seed says.
#[derive(Clone)]
pub struct Outside(Backend);

#[derive(Clone)]
enum Backend {
    /// The ledger, as a host of the simulation reaches it.
    Live(Arc<Host>),
    /// Nothing may be done: a replay of what has ended. Counts the calls that were made all the
    /// same.
    Closed(Arc<AtomicU64>),
}

/// Why a call to the outside world has no answer. Whether it had its effect is unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// It failed before its effect, or the reply was lost.
    #[error("{request}: the provider of `{effect}` does not answer")]
    NoAnswer {
        /// The effect.
        effect: String,
        /// What was asked for.
        request: String,
    },
    /// The call breaks the effect's own rule; the suite fails by it.
    #[error("{0}")]
    Wrong(String),
}

impl Outside {
    pub(crate) fn live(host: Arc<Host>) -> Self {
        Self(Backend::Live(host))
    }

    pub(crate) fn closed(calls: Arc<AtomicU64>) -> Self {
        Self(Backend::Closed(calls))
    }

    /// Simulated milliseconds since the beginning: for a downstream that is down for a time.
    pub fn now_ms(&self) -> u64 {
        match &self.0 {
            Backend::Live(host) => host.now_ms(),
            Backend::Closed(_) => 0,
        }
    }

    /// A bulk handler of the engine's own suite has been called with these runs, in these
    /// attempts.
    pub(crate) fn handles(&self, items: impl Iterator<Item = (RunId, u32)>) {
        if let Backend::Live(host) = &self.0 {
            let items: Vec<_> = items.collect();
            host.world.saw("calls of a bulk handler");
            if items.len() > 1 {
                host.world.saw("calls of a bulk handler with several items");
            }
            host.world.checkers().items_handled(host.now_ms(), &host.name, &items);
        }
    }

    /// Calls for `effect` under an idempotency key, which is [`Step::key`](stepwell::Step::key) if
    /// the step is to be safe. Answers with a number that is the same whenever the effect is found
    /// done.
    ///
    /// Takes 0 to 700 simulated milliseconds. Fails, hangs for 20 s (as behind a client's timeout)
    /// or panics as the seed says, three times a key at most.
    ///
    /// **Cancel safety**: dropped, it has had its effect or not.
    pub async fn call(
        &self,
        effect: &str,
        key: impl Into<String>,
        request: impl Serialize,
    ) -> Result<u64, CallError> {
        let key = key.into();
        let request = match serde_json::to_value(request) {
            Ok(serde_json::Value::String(text)) => text,
            Ok(value) => value.to_string(),
            Err(error) => {
                return Err(CallError::Wrong(format!("the request is not JSON: {error}")));
            }
        };
        match &self.0 {
            Backend::Live(host) => called(host, effect, key, request).await,
            Backend::Closed(calls) => {
                calls.fetch_add(1, Ordering::Relaxed);
                std::future::pending().await
            }
        }
    }
}

impl Outside {
    /// An attempt begins that must be gone after `hard`, and is told after `soft` if it listens. It
    /// ends when what this returns is dropped.
    pub(crate) fn watches(
        &self,
        step: &Step,
        soft: Option<Duration>,
        hard: Duration,
    ) -> AttemptWatch {
        let ms = |span: Duration| span.as_millis() as u64;
        let host = match &self.0 {
            Backend::Live(host) => host.clone(),
            Backend::Closed(calls) => {
                calls.fetch_add(1, Ordering::Relaxed);
                return AttemptWatch(None);
            }
        };
        let world = &host.world;
        let attempt = Attempt {
            of: format!("{}, attempt {}", step.key(), step.attempt()),
            host: host.name.clone(),
            began_ms: world.now_ms(),
            soft_ms: soft.map(ms),
            hard_ms: ms(hard),
            pauses: world.stood_still(),
            told: false,
        };
        let now = world.moment(host.now_ms());
        let right = world.has_right_clocks();
        let mut checkers = world.checkers();
        let id = checkers.limits.begins(attempt);
        let begins = (step.run(), step.number(), step.attempt());
        checkers.attempt_begins(world.now_ms(), begins, now, right);
        drop(checkers);
        AttemptWatch(Some((host, id)))
    }

    /// The body of a memoized step begins.
    pub(crate) fn finds(&self, step: &Step) {
        if let Backend::Live(host) = &self.0 {
            let mut checkers = host.world.checkers();
            checkers.memo_begins(host.world.now_ms(), step.run(), step.number());
        }
    }

    /// Waits on the host's clock.
    pub(crate) async fn rest(&self, span: Duration) {
        match &self.0 {
            Backend::Live(host) => host.rest(span).await,
            Backend::Closed(_) => std::future::pending().await,
        }
    }
}

/// An attempt that runs. Dropping it tells that it is gone.
pub(crate) struct AttemptWatch(Option<(Arc<Host>, u64)>);

impl AttemptWatch {
    /// It was told of its soft timeout.
    pub(crate) fn told(&mut self) {
        if let Some((host, id)) = &self.0 {
            let world = &host.world;
            world.saw("soft timeouts reported");
            let pauses = world.stood_still();
            world.checkers().soft_timeout_told(world.now_ms(), *id, pauses);
        }
    }

    /// It has cleaned up.
    pub(crate) fn cleaned(&mut self) {
        if let Some((host, _)) = &self.0 {
            host.world.saw("attempts that cleaned up");
        }
    }
}

impl Drop for AttemptWatch {
    fn drop(&mut self) {
        if let Some((host, id)) = self.0.take() {
            let world = &host.world;
            // What dies with its host proves nothing.
            let pauses = match world.is_crashing() {
                true => u64::MAX,
                false => world.stood_still(),
            };
            world.checkers().attempt_ends(world.now_ms(), id, pauses);
        }
    }
}

async fn called(
    host: &Arc<Host>,
    effect: &str,
    key: String,
    request: String,
) -> Result<u64, CallError> {
    let (world, place) = (&host.world, (effect, key.as_str()));
    let no_answer = || CallError::NoAnswer { effect: effect.to_owned(), request: request.clone() };
    let step = step_of(&key);
    if step.is_some_and(|(run, _)| world.checkers().durable.is_forgotten(run)) {
        // Its worker was away for longer than the run was kept, and than the world remembers keys.
        world.saw("step bodies of forgotten runs");
        return Err(no_answer());
    }
    let seed = world.plan.seed;
    let (nth, plan, takes_ms) = world.ledger().begin(seed, &world.plan.settings, place);
    host.line(format_args!("calls for `{effect}` of {request} under {key}, call {nth}: {plan:?}"));
    let asked = format!("{effect}: {request}");
    let record = host.record_call(step.map(|(run, _)| run), &key, &asked, nth, plan);
    if let Some((run, step)) = step {
        world.checkers().body_started(host.now_ms(), run, step);
    }
    host.rest(Duration::from_millis(takes_ms / 2)).await;
    match plan {
        CallPlan::Failed => {
            record.ends("failed");
            world.saw("calls that failed");
            return Err(no_answer());
        }
        CallPlan::Hangs => {
            world.saw("calls that hung");
            if world.program.is_engine {
                std::future::pending::<()>().await;
            }
            host.rest(HANG).await;
            record.ends("timed out");
            return Err(no_answer());
        }
        CallPlan::Panics => {
            record.ends("panicked");
            world.saw("steps that panicked");
            // Not through the panic hook, which is there for panics that nobody planned.
            std::panic::resume_unwind(Box::new("the plan says so"));
        }
        CallPlan::Answered | CallPlan::ReplyLost => {}
    }
    host.passes(&Point::before_effect(effect)).await;
    let before = world.ledger().absorbed();
    let value = world.ledger().effect((seed, host.now_ms()), place, &request);
    record.effect(world.ledger().absorbed() > before);
    host.line(format_args!("effect `{effect}` of {request} under {key}"));
    let value = value.map_err(|wrong| {
        let (checker, now_ms) = (wrong.checker, host.now_ms());
        world.checkers().report(checker, now_ms, wrong.text.clone());
        CallError::Wrong(wrong.text)
    })?;
    world.effect_happened();
    host.passes(&Point::after_effect(effect)).await;
    host.rest(Duration::from_millis(takes_ms / 2)).await;
    if plan == CallPlan::ReplyLost {
        record.ends("reply lost");
        world.saw("replies lost");
        return Err(no_answer());
    }
    record.ends("answered");
    Ok(value)
}

/// The run and step that a key names, if it is a step's own.
fn step_of(key: &str) -> Option<(RunId, CommandIndex)> {
    let (run, step) = key.rsplit_once('-')?;
    Some((run.parse().ok()?, CommandIndex(step.parse().ok()?)))
}

impl std::fmt::Debug for Outside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Backend::Live(_) => "Outside(live)",
            Backend::Closed(_) => "Outside(closed)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_known_by_its_key() {
        let run = RunId(77);
        assert_eq!(step_of(&format!("{run}-3")), Some((run, CommandIndex(3))));
        assert_eq!(step_of("order-17"), None);
    }
}
