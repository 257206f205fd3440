//! What has happened so far, as a suite's own rules see it.

use serde::de::DeserializeOwned;
use stepwell::model::entry::Entry;
use stepwell::{Failure, Outcome};

use crate::durable::{Durable, DurableRun};
use crate::ledger::{Happened, Ledger};

/// The runs, as far as they are durable, and what was done to the outside world.
pub struct History<'a> {
    pub(crate) durable: &'a Durable,
    pub(crate) ledger: &'a Ledger,
    pub(crate) replays: u64,
    pub(crate) faults: u64,
    pub(crate) now_ms: u64,
}

impl<'a> History<'a> {
    /// All runs, in the order in which they were started.
    pub fn runs(&self) -> impl Iterator<Item = RunSeen<'a>> + use<'a> {
        self.durable.runs.values().map(RunSeen)
    }

    /// The run of this name, once its start is durable.
    pub fn run(&self, name: &str) -> Option<RunSeen<'a>> {
        self.runs().find(|run| run.name() == name)
    }

    /// What happened of an effect, in order.
    pub fn effects(&self, effect: &str) -> impl Iterator<Item = EffectSeen<'a>> + use<'a> {
        let effect = effect.to_owned();
        let happened = self.ledger.happened().iter();
        happened.filter(move |happened| happened.effect == effect).map(EffectSeen)
    }

    /// Recorded outcomes of steps and timers that workers replayed instead of running them again.
    pub fn replays(&self) -> u64 {
        self.replays
    }

    /// Calls to the outside world that found their effect done.
    pub fn absorbed(&self) -> u64 {
        self.ledger.absorbed()
    }

    /// Faults that have struck.
    pub fn faults(&self) -> u64 {
        self.faults
    }

    /// Simulated milliseconds since the beginning.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }
}

impl std::fmt::Debug for History<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "History of {} runs", self.durable.runs.len())
    }
}

/// A run and its journal.
#[derive(Clone, Copy)]
pub struct RunSeen<'a>(&'a DurableRun);

impl<'a> RunSeen<'a> {
    /// The name it was started under, or its id.
    pub fn name(&self) -> String {
        self.0.name()
    }

    /// Its workflow's name.
    pub fn workflow(&self) -> &'a str {
        self.0.started().map_or("", |started| started.workflow.as_str())
    }

    /// Its input, if it decodes as that.
    pub fn input<T: DeserializeOwned>(&self) -> Option<T> {
        self.0.started()?.input.to().ok()
    }

    /// Its journal.
    pub fn entries(&self) -> &'a [Entry] {
        &self.0.entries
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.0.has_ended()
    }

    /// What it returned, if it completed and that decodes.
    pub fn output<T: DeserializeOwned>(&self) -> Option<T> {
        match self.0.outcome()? {
            Outcome::OutcomeCompleted(completed) => completed.output.to().ok(),
            _ => None,
        }
    }

    /// What it died of, if it is a dead letter.
    pub fn failure(&self) -> Option<Failure> {
        match self.0.outcome()? {
            Outcome::OutcomeDead(dead) => Some(dead.failure),
            _ => None,
        }
    }

    /// Whether it ended as cancelled.
    pub fn is_cancelled(&self) -> bool {
        matches!(self.0.outcome(), Some(Outcome::OutcomeCancelled(_)))
    }

    /// How often a step of this name is recorded as completed.
    pub fn completed_steps(&self, name: &str) -> usize {
        let completed = |entry: &&Entry| matches!(entry, Entry::StepCompleted(step) if step.location.name == name);
        self.0.entries.iter().filter(completed).count()
    }
}

impl std::fmt::Debug for RunSeen<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} entries)", self.name(), self.0.entries.len())
    }
}

/// An effect that has happened.
#[derive(Clone, Copy)]
pub struct EffectSeen<'a>(&'a Happened);

impl<'a> EffectSeen<'a> {
    /// The key it happened under.
    pub fn key(&self) -> &'a str {
        &self.0.key
    }

    /// What was asked for, as text: JSON, unless it was a string.
    pub fn text(&self) -> &'a str {
        &self.0.request
    }

    /// What was asked for, if it decodes as that.
    pub fn request<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_str(&self.0.request)
            .or_else(|_| serde_json::from_value(self.0.request.clone().into()))
            .ok()
    }

    /// What was answered.
    pub fn value(&self) -> u64 {
        self.0.value
    }

    /// When it happened, in simulated milliseconds.
    pub fn at_ms(&self) -> u64 {
        self.0.at_ms
    }

    /// Later calls that found it done.
    pub fn absorbed(&self) -> u32 {
        self.0.absorbed
    }
}

impl std::fmt::Debug for EffectSeen<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} under {}", self.0.effect, self.0.request, self.0.key)
    }
}
