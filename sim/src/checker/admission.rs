//! **A queue's limits hold, exactly, and its pause; and a run goes only where its tags are
//! offered.**
//!
//! Source: the core's invariants L1 (a new lease leaves at most as many leased as the concurrency
//! limit says), L2 (in any span of engine time at most the burst and the rate's share of it) and L3
//! (none while the queue is paused), by the settings that are durable before the lease, in the
//! order of what is durable; and `StartBuilder::tags`. A run that goes on with a worker that came
//! back is not leased anew.

use std::collections::{BTreeMap, BTreeSet};

use stepwell::RateLimit;
use stepwell::model::id::ProcessInstance;
use stepwell::model::time::Time;
use stepwell::tables::LeaseRecord;
use stepwell::wire::message::Register;

use super::Findings;
use crate::durable::Durable;

const LIMIT: &str = "a queue's concurrency limit holds";
const RATE: &str = "a queue's rate limit holds";
const PAUSE: &str = "a paused queue dispatches nothing";
const TAGS: &str = "a run goes only where its tags are offered";
const TIME: &str = "leases begin in the order of engine time";

/// What was leased, and who offers what.
#[derive(Default)]
pub(super) struct Admissions {
    /// New leases of each queue since its rate limit was set to what it is.
    since: BTreeMap<u32, (Option<RateLimit>, Vec<Time>)>,
    tags: BTreeMap<ProcessInstance, BTreeSet<String>>,
    workflows: BTreeMap<ProcessInstance, BTreeSet<String>>,
    latest: Time,
}

impl Admissions {
    /// A worker says what it offers.
    pub(super) fn registers(&mut self, who: ProcessInstance, register: &Register) {
        let tags = register.tags.iter().cloned().collect();
        self.tags.insert(who, tags);
        let known = register.workflows.iter().map(|offer| offer.workflow.clone());
        self.workflows.insert(who, known.collect());
    }

    /// Whether a worker process knows this workflow.
    pub(super) fn knows(&self, who: ProcessInstance, workflow: &str) -> bool {
        let known = self.workflows.get(&who);
        known.is_some_and(|known| known.contains(workflow))
    }

    /// Whether a worker process offers these tags.
    pub(super) fn offers(&self, who: ProcessInstance, tags: &[String]) -> bool {
        let offered = self.tags.get(&who);
        tags.iter().all(|tag| offered.is_some_and(|offered| offered.contains(tag)))
    }

    /// A run is leased that was not.
    pub(super) fn leased(
        &mut self,
        durable: &Durable,
        lease: &LeaseRecord,
        findings: &mut Findings<'_>,
    ) {
        let run = durable.runs.get(&lease.run);
        let name = || run.map(|run| run.name()).unwrap_or_default();
        if lease.at < self.latest {
            let text = format!("{} at {}, after {}", name(), lease.at, self.latest);
            findings.report(TIME, text);
        }
        self.latest = self.latest.max(lease.at);
        let tags = run.and_then(|run| run.started()).map(|s| &s.tags[..]);
        if !self.offers(lease.process, tags.unwrap_or_default()) {
            let text = format!("{} asks for {tags:?}, and is leased elsewhere", name());
            findings.report(TAGS, text);
        }
        let settings = durable.settings_of(lease.queue);
        if settings.paused {
            findings.report(PAUSE, format!("{} is leased", name()));
        }
        let leases = durable.leases.values();
        let leased = leases.filter(|held| held.queue == lease.queue).count();
        if let Some(limit) = settings.concurrency.filter(|limit| leased > *limit as usize) {
            let text = format!("{} is leased as number {leased} of {limit}", name());
            findings.report(LIMIT, text);
        }
        self.count(settings.rate, lease, findings);
    }

    fn count(&mut self, rate: Option<RateLimit>, lease: &LeaseRecord, findings: &mut Findings<'_>) {
        let (of, leases) = self.since.entry(lease.queue).or_default();
        if *of != rate {
            (*of, *leases) = (rate, Vec::new());
        }
        leases.push(lease.at);
        let Some(rate) = rate else { return };
        for (index, from) in leases.iter().enumerate() {
            let count = (leases.len() - index) as u64;
            let span_ms = lease.at.0.saturating_sub(from.0);
            let allowed = u64::from(rate.burst) * rate.per_ms + u64::from(rate.count) * span_ms;
            if count * rate.per_ms > allowed {
                let text = format!("{count} in {span_ms} ms, and the limit is {rate}");
                return findings.report(RATE, text);
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
