//! **A queue's limits hold, exactly, and its pause; and a run goes only where its tags are
//! offered.**
//!
//! Source: the core's invariants A1 (a new grant leaves at most as many granted as the concurrency
//! limit says), A2 (in any span of engine time at most the burst and the rate's share of it) and A3
//! (none while the queue is paused), by the settings that are durable before the grant, in the
//! order of what is durable; and `StartBuilder::tags`. A run that goes on with a worker that came
//! back is not granted anew.

use std::collections::{BTreeMap, BTreeSet};

use stepwell::RateLimit;
use stepwell::keys::GrantedRecord;
use stepwell::model::id::Incarnation;
use stepwell::model::time::Time;
use stepwell::wire::message::Hello;

use super::Bench;
use crate::durable::Durable;

const LIMIT: &str = "a queue's concurrency limit holds";
const RATE: &str = "a queue's rate limit holds";
const PAUSE: &str = "a paused queue hands nothing out";
const TAGS: &str = "a run goes only where its tags are offered";
const TIME: &str = "grants are made in the order of engine time";

/// What was granted, and who offers what.
#[derive(Default)]
pub(super) struct Admissions {
    /// New grants of each queue since its rate limit was set to what it is.
    since: BTreeMap<u32, (Option<RateLimit>, Vec<Time>)>,
    tags: BTreeMap<Incarnation, BTreeSet<String>>,
    workflows: BTreeMap<Incarnation, BTreeSet<String>>,
    latest: Time,
}

impl Admissions {
    /// A worker says what it offers.
    pub(super) fn hello(&mut self, hello: &Hello) {
        let tags = hello.tags.iter().cloned().collect();
        self.tags.insert(hello.incarnation, tags);
        let known = hello.workflows.iter().map(|offer| offer.workflow.clone());
        self.workflows.insert(hello.incarnation, known.collect());
    }

    /// Whether a worker process knows this workflow.
    pub(super) fn knows(&self, who: Incarnation, workflow: &str) -> bool {
        let known = self.workflows.get(&who);
        known.is_some_and(|known| known.contains(workflow))
    }

    /// Whether a worker process offers these tags.
    pub(super) fn offers(&self, who: Incarnation, tags: &[String]) -> bool {
        let offered = self.tags.get(&who);
        tags.iter().all(|tag| offered.is_some_and(|offered| offered.contains(tag)))
    }

    /// A run is granted that was not.
    pub(super) fn granted(
        &mut self,
        durable: &Durable,
        grant: &GrantedRecord,
        bench: &mut Bench<'_>,
    ) {
        let run = durable.runs.get(&grant.run);
        let name = || run.map(|run| run.name()).unwrap_or_default();
        if grant.at < self.latest {
            let text = format!("{} at {}, after {}", name(), grant.at, self.latest);
            bench.charge(TIME, text);
        }
        self.latest = self.latest.max(grant.at);
        let tags = run.and_then(|run| run.started()).map(|s| &s.tags[..]);
        if !self.offers(grant.incarnation, tags.unwrap_or_default()) {
            let text = format!("{} asks for {tags:?}, and is granted elsewhere", name());
            bench.charge(TAGS, text);
        }
        let settings = durable.settings_of(grant.queue);
        if settings.paused {
            bench.charge(PAUSE, format!("{} is granted", name()));
        }
        let granted = durable.granted.values();
        let granted = granted.filter(|held| held.queue == grant.queue).count();
        if let Some(limit) = settings.concurrency.filter(|limit| granted > *limit as usize) {
            let text = format!("{} is granted as number {granted} of {limit}", name());
            bench.charge(LIMIT, text);
        }
        self.count(settings.rate, grant, bench);
    }

    fn count(&mut self, rate: Option<RateLimit>, grant: &GrantedRecord, bench: &mut Bench<'_>) {
        let (of, grants) = self.since.entry(grant.queue).or_default();
        if *of != rate {
            (*of, *grants) = (rate, Vec::new());
        }
        grants.push(grant.at);
        let Some(rate) = rate else { return };
        for (index, from) in grants.iter().enumerate() {
            let count = (grants.len() - index) as u64;
            let span_ms = grant.at.0.saturating_sub(from.0);
            let allowed = u64::from(rate.burst) * rate.per_ms + u64::from(rate.count) * span_ms;
            if count * rate.per_ms > allowed {
                let text = format!("{count} in {span_ms} ms, and the limit is {rate}");
                return bench.charge(RATE, text);
            }
        }
    }

    /// An operator has set something: if it is the rate, it is counted anew.
    pub(super) fn set(&mut self, durable: &Durable, queue: u32) {
        let rate = durable.settings_of(queue).rate;
        let known = self.since.entry(queue).or_default();
        if known.0 != rate {
            *known = (rate, Vec::new());
        }
    }
}
