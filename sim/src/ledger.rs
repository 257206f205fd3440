//! The outside world: what steps do to it, by effect and idempotency key. It survives every crash
//! of the simulation.
//!
//! It is as unfriendly as the plan says: a call fails before its effect, has its effect and loses
//! the reply, never ends, or panics in the caller's code. How the n-th call under a key ends is a
//! hash of (seed, effect, key, n), so that it does not depend on what else happens; from the fourth
//! call on every call is answered.

mod ring;

use std::collections::{BTreeMap, BTreeSet};

use stepwell::model::id::{RunId, RunNo};

use crate::draw::{Draw, hash};
use crate::plan::Settings;
use crate::workload::RING_EFFECT;

pub(crate) use self::ring::{Ask, AskWhat, Ring, unpaired};

/// The property that the ring is there for.
pub(crate) const RING_IS_ONE: &str = "the ring is one ring";
const AS_OFTEN: &str = "effects happen as often as they may";

/// An effect that must not happen: which property it breaks, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) checker: &'static str,
    pub(crate) text: String,
}

impl Wrong {
    fn as_often(text: String) -> Self {
        let checker = AS_OFTEN;
        Self { checker, text }
    }
}

/// Calls under one key that may go wrong.
const BAD_CALLS_MAX: u32 = 3;

/// What the outside world does with a call that it got before, and what is checked of it.
///
/// ```
/// use stepwell_sim::Effect;
/// let charge = Effect::once_per_key(); // a provider that honours idempotency keys
/// let mail = Effect::unguarded().once_per_request(); // one that does not, and yet nobody may get the same mail twice
/// # let _ = (charge, mail);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effect {
    guarded: bool,
    once_per_request: bool,
    optional: bool,
}

impl Effect {
    /// A second call under the same key changes nothing and gets the first answer. Checked: a key
    /// always comes with the same request.
    pub const fn once_per_key() -> Self {
        Self { guarded: true, once_per_request: false, optional: false }
    }

    /// Every call has its effect, whatever its key.
    pub const fn unguarded() -> Self {
        Self { guarded: false, once_per_request: false, optional: false }
    }

    /// Checked besides: the same request never has its effect twice. A step that may be repeated
    /// and whose effect is not guarded by a key is caught by this.
    #[must_use]
    pub const fn once_per_request(self) -> Self {
        Self { once_per_request: true, ..self }
    }

    /// It may rightly not happen after a crash, or happen only then, because it races with
    /// something, as with a timer. The idempotency check and the crash map look only that it does
    /// not happen more often.
    #[must_use]
    pub const fn optional(self) -> Self {
        Self { optional: true, ..self }
    }

    pub(crate) const fn is_optional(self) -> bool {
        self.optional
    }
}

/// An effect that has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Happened {
    /// Which effect.
    pub(crate) effect: String,
    /// Under which key.
    pub(crate) key: String,
    /// What was asked for.
    pub(crate) request: String,
    /// What was answered, to all calls that found it done.
    pub(crate) value: u64,
    /// When, in simulated milliseconds.
    pub(crate) at_ms: u64,
    /// Calls after the first that found it done.
    pub(crate) absorbed: u32,
    /// The run whose it is, once that is forgotten.
    pub(crate) of: Option<RunNo>,
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
    rules: BTreeMap<String, Effect>,
    happened: Vec<Happened>,
    /// The first of each effect and key.
    by_key: BTreeMap<(String, String), usize>,
    /// The first of each effect and request.
    by_request: BTreeMap<(String, String), usize>,
    calls: BTreeMap<(String, String), u32>,
    absorbed: u64,
    /// What one of the engine's workloads changes.
    ring: Ring,
    /// Runs that have outlived their retention: their keys mean something else from then on.
    forgotten: BTreeSet<RunNo>,
}

impl Ledger {
    /// An empty one.
    pub(crate) fn new(rules: BTreeMap<String, Effect>) -> Self {
        Self { rules, ..Self::default() }
    }

    /// A call begins: which one under its key it is, how it will end, and after how many
    /// milliseconds.
    pub(crate) fn begin(
        &mut self,
        seed: u64,
        settings: &Settings,
        (effect, key): (&str, &str),
    ) -> (u32, CallPlan, u64) {
        let calls = self.calls.entry((effect.to_owned(), key.to_owned())).or_default();
        *calls += 1;
        let mut draw = Draw::of(seed, format_args!("call {calls} {effect} {key}"));
        let takes_ms = if draw.chance(100) { draw.between(100, 700) } else { draw.between(0, 40) };
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
        (*calls, plan, takes_ms)
    }

    /// The effect happens, or is found done. An error if it must not happen; it has, then.
    pub(crate) fn effect(
        &mut self,
        (seed, at_ms): (u64, u64),
        (effect, key): (&str, &str),
        request: &str,
    ) -> Result<u64, Wrong> {
        let rule = self.rules.get(effect).copied();
        let rule = rule.unwrap_or(Effect::once_per_key());
        let place = (effect.to_owned(), key.to_owned());
        let before = self.by_key.get(&place).copied();
        if rule.guarded
            && let Some(happened) = before.and_then(|at| self.happened.get_mut(at))
        {
            happened.absorbed += 1;
            self.absorbed += 1;
            if happened.request != request {
                return Err(Wrong::as_often(format!(
                    "`{effect}`: the key {key} came with {} before and comes with {request} now",
                    happened.request
                )));
            }
            return Ok(happened.value);
        }
        let count = if rule.guarded { 0 } else { self.happened.len() };
        let of_ring = (effect == RING_EFFECT).then(|| {
            let who = key.rsplit_once('-').map_or(key, |(run, _)| run);
            self.ring.answer(who, request)
        });
        let value = match &of_ring {
            Some(answer) => answer.clone().unwrap_or_default(),
            None => hash(seed, format_args!("effect {effect} {key} {count}")),
        };
        let at = self.happened.len();
        self.by_key.entry(place).or_insert(at);
        self.happened.push(Happened {
            effect: effect.to_owned(),
            key: key.to_owned(),
            request: request.to_owned(),
            value,
            at_ms,
            absorbed: 0,
            of: None,
        });
        if let Some(Err(text)) = of_ring {
            let checker = RING_IS_ONE;
            return Err(Wrong { checker, text });
        }
        let asked = (effect.to_owned(), request.to_owned());
        let first = *self.by_request.entry(asked).or_insert(at);
        if rule.once_per_request && first != at {
            let first = &self.happened[first];
            return Err(Wrong::as_often(format!(
                "`{effect}` of {request} happened twice: at {} ms under the key {}, and at {at_ms} ms under {key}",
                first.at_ms, first.key
            )));
        }
        Ok(value)
    }

    /// The run is forgotten, and so are its keys.
    pub(crate) fn forget(&mut self, run: RunNo, id: RunId) {
        let prefix = prefix_of(id);
        self.forgotten.insert(run);
        self.ring.forget(&id.to_string());
        for happened in &mut self.happened {
            if happened.of.is_none() && happened.key.starts_with(&prefix) {
                happened.of = Some(run);
            }
        }
        let happened = &self.happened;
        let is_known = |at: &mut usize| happened.get(*at).is_some_and(|known| known.of.is_none());
        self.by_key.retain(|_, at| is_known(at));
        self.by_request.retain(|_, at| is_known(at));
    }

    /// The effects of a run that happened under its steps' own keys.
    pub(crate) fn effects_of(&self, run: RunNo, id: RunId) -> impl Iterator<Item = &Happened> {
        let prefix = prefix_of(id);
        let of = self.forgotten.contains(&run).then_some(run);
        self.happened
            .iter()
            .filter(move |happened| happened.of == of && happened.key.starts_with(&prefix))
    }

    /// The first effect of a step of a run.
    pub(crate) fn effect_of(&self, run: RunNo, effect: &str, key: &str) -> Option<&Happened> {
        if !self.forgotten.contains(&run) {
            let at = self.by_key.get(&(effect.to_owned(), key.to_owned()))?;
            return self.happened.get(*at);
        }
        self.happened.iter().find(|h| h.of == Some(run) && h.effect == effect && h.key == key)
    }

    /// The ring.
    pub(crate) fn ring(&self) -> &Ring {
        &self.ring
    }

    /// How many nodes a run has put back; not known of one that is forgotten.
    pub(crate) fn ring_returned(&self, run: RunNo, id: RunId) -> Option<u64> {
        let is_known = !self.forgotten.contains(&run);
        is_known.then(|| self.ring.returned(&id.to_string()))
    }

    /// Nodes moved along the ring, and swaps that found something else.
    pub(crate) fn ring_counts(&self) -> (u64, u64) {
        (self.ring.moved, self.ring.missed)
    }

    /// All effects, in the order in which they happened.
    pub(crate) fn happened(&self) -> &[Happened] {
        &self.happened
    }

    /// Calls that found their effect done.
    pub(crate) fn absorbed(&self) -> u64 {
        self.absorbed
    }
}

fn prefix_of(id: RunId) -> String {
    format!("{id}-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(rule: Effect) -> Ledger {
        Ledger::new(BTreeMap::from([("e".to_owned(), rule)]))
    }

    #[test]
    fn a_guarded_effect_happens_once_for_each_key() {
        let mut ledger = ledger(Effect::once_per_key());
        let first = ledger.effect((1, 5), ("e", "k"), "r").unwrap();
        assert_eq!(ledger.effect((1, 6), ("e", "k"), "r"), Ok(first));
        assert_eq!((ledger.happened().len(), ledger.absorbed()), (1, 1));
        assert!(ledger.effect((1, 7), ("e", "k"), "other").is_err());
        assert_ne!(ledger.effect((1, 8), ("e", "l"), "r"), Ok(first));
    }

    #[test]
    fn an_unguarded_effect_happens_each_time_and_is_noticed_if_that_is_wrong() {
        let mut free = ledger(Effect::unguarded());
        assert!(free.effect((1, 5), ("e", "k"), "r").is_ok());
        assert!(free.effect((1, 6), ("e", "k"), "r").is_ok());
        assert_eq!(free.happened().len(), 2);
        let mut once = ledger(Effect::unguarded().once_per_request());
        assert!(once.effect((1, 5), ("e", "k"), "r").is_ok());
        let told = once.effect((1, 6), ("e", "k2"), "r").unwrap_err();
        assert!(told.text.contains("happened twice: at 5 ms"), "{told:?}");
    }
}
