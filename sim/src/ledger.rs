//! The outside world: what steps do to it, by idempotency key. It survives every crash of the simulation.
//!
//! It is as unfriendly as the plan says: a call fails before its effect, has its effect and loses the reply, never ends,
//! or panics in the caller's code. How the n-th call under a key ends is a hash of (seed, key, n), so that it does not
//! depend on what else happens; from the fourth call on every call is answered.

use std::collections::BTreeMap;

use stepwell::Failure;
use stepwell::model::id::{RunId, RunNo};

use crate::draw::{Draw, hash};
use crate::plan::Settings;

/// Calls under one key that may go wrong.
const BAD_CALLS_MAX: u32 = 3;

/// One effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Effect {
    /// What was asked for first.
    pub(crate) request: String,
    /// What was answered, to all calls.
    pub(crate) value: u64,
    /// Calls after the first that found the effect done.
    pub(crate) absorbed: u32,
}

/// How a call will end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallPlan {
    /// Well.
    Answered,
    /// Without an effect.
    Failed,
    /// With an effect, and the reply is lost.
    ReplyLost,
    /// Never, and without an effect.
    Hangs,
    /// The caller's code panics before the effect.
    Panics,
}

/// The ledger.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    effects: BTreeMap<String, Effect>,
    calls: BTreeMap<String, u32>,
    /// Effects of runs that have outlived their retention: their keys mean something else from then on.
    forgotten: BTreeMap<RunNo, BTreeMap<String, Effect>>,
}

impl Ledger {
    /// A call begins: how it will end, and after how many milliseconds.
    pub(crate) fn begin(&mut self, seed: u64, settings: &Settings, key: &str) -> (CallPlan, u64) {
        let calls = self.calls.entry(key.to_owned()).or_default();
        *calls += 1;
        let mut draw = Draw::of(seed, format_args!("call {calls} {key}"));
        let takes_ms = if draw.chance(100) {
            draw.between(100, 700)
        } else {
            draw.between(0, 40)
        };
        let plan = if *calls > BAD_CALLS_MAX {
            CallPlan::Answered
        } else if draw.chance(settings.failures_per_mille) {
            CallPlan::Failed
        } else if draw.chance(settings.lost_replies_per_mille) {
            CallPlan::ReplyLost
        } else if draw.chance(settings.hangs_per_mille) {
            CallPlan::Hangs
        } else if draw.chance(settings.panics_per_mille) {
            CallPlan::Panics
        } else {
            CallPlan::Answered
        };
        (plan, takes_ms)
    }

    /// The effect happens, or is found done. An error if another request had it under this key.
    pub(crate) fn effect(&mut self, seed: u64, key: &str, request: &str) -> Result<u64, String> {
        if let Some(effect) = self.effects.get_mut(key) {
            effect.absorbed += 1;
            if effect.request != request {
                return Err(format!(
                    "key {key} asked for `{}` before and asks for `{request}` now",
                    effect.request
                ));
            }
            return Ok(effect.value);
        }
        let value = hash(seed, format_args!("effect {key}"));
        self.effects.insert(
            key.to_owned(),
            Effect {
                request: request.to_owned(),
                value,
                absorbed: 0,
            },
        );
        Ok(value)
    }

    /// The run is forgotten, and so are its keys.
    pub(crate) fn forget(&mut self, run: RunNo, id: RunId) {
        let prefix = prefix_of(id);
        let (of_run, others) = std::mem::take(&mut self.effects)
            .into_iter()
            .partition(|(key, _)| key.starts_with(&prefix));
        self.effects = others;
        self.forgotten.insert(run, of_run);
    }

    /// The effects of a run, by key.
    pub(crate) fn effects_of(
        &self,
        run: RunNo,
        id: RunId,
    ) -> impl Iterator<Item = (&String, &Effect)> {
        let prefix = prefix_of(id);
        self.forgotten
            .get(&run)
            .unwrap_or(&self.effects)
            .iter()
            .filter(move |(key, _)| key.starts_with(&prefix))
    }

    /// The effect of a step of a run.
    pub(crate) fn effect_of(&self, run: RunNo, key: &str) -> Option<&Effect> {
        self.forgotten.get(&run).unwrap_or(&self.effects).get(key)
    }

    /// All effects.
    pub(crate) fn effects(&self) -> impl Iterator<Item = &Effect> {
        let forgotten = self.forgotten.values().flat_map(BTreeMap::values);
        self.effects.values().chain(forgotten)
    }
}

fn prefix_of(id: RunId) -> String {
    format!("{id}-")
}

/// The failure of a call that did not work.
pub(crate) fn no_answer(what: &str) -> Failure {
    Failure::retryable(format!("{what}: the provider does not answer")).class("provider")
}
