//! **What is told of queues is what is there.**
//!
//! Source: `QueueSummary`: depth, running, delayed, suspended, the age of the oldest queued run
//! and the settings are all of one instant, and that instant lies between the question and its
//! answer. Checked against what was durable: the answer must be the state after one of the changes
//! that became durable meanwhile, for all queues at once.

use std::collections::BTreeMap;

use stepwell::model::time::Time;
use stepwell::{QueueSettings, QueueSummary};

use super::Findings;
use crate::durable::Durable;

const NAME: &str = "what is told of queues is what is there";

/// What there is to tell of one queue.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Gauge {
    settings: QueueSettings,
    queued: u64,
    running: u64,
    delayed: u64,
    suspended: u64,
    oldest_since: Option<Time>,
}

type State = BTreeMap<String, Gauge>;

/// States that were durable while somebody asked.
#[derive(Default)]
pub(super) struct Gauges {
    states: Vec<State>,
    watched: bool,
}

impl Gauges {
    /// A question begins: tells where in the states.
    pub(super) fn asked(&mut self, durable: &Durable) -> usize {
        self.watched = true;
        self.add(durable);
        self.states.len() - 1
    }

    /// Something has become durable.
    pub(super) fn changed(&mut self, durable: &Durable) {
        if self.watched {
            self.add(durable);
        }
    }

    fn add(&mut self, durable: &Durable) {
        let state = state(durable);
        if self.states.last() != Some(&state) {
            self.states.push(state);
        }
    }

    /// The question that began at `from` is answered.
    pub(super) fn told(&self, from: usize, queues: &[QueueSummary], findings: &mut Findings<'_>) {
        let told: State = queues.iter().map(gauge).collect();
        if !self.states[from..].contains(&told) {
            let text = format!(
                "{told:?} is told, and of {} states since the question none is that; the last is {:?}",
                self.states.len() - from,
                self.states.last()
            );
            findings.report(NAME, text);
        }
    }
}

fn gauge(told: &QueueSummary) -> (String, Gauge) {
    let gauge = Gauge {
        settings: told.settings,
        queued: told.queued,
        running: told.running,
        delayed: told.delayed,
        suspended: told.suspended,
        oldest_since: told.oldest_since,
    };
    (told.name.clone(), gauge)
}

fn state(durable: &Durable) -> State {
    let mut gauges: BTreeMap<u32, Gauge> = durable
        .queues
        .iter()
        .map(|(number, record)| {
            let settings = record.settings;
            let gauge = Gauge { settings, ..Gauge::default() };
            (*number, gauge)
        })
        .collect();
    for ((queue, ..), record) in &durable.waiting {
        let gauge = gauges.entry(*queue).or_default();
        let lives = durable.runs.get(&record.run).is_some_and(|run| !run.has_ended());
        gauge.queued += u64::from(lives);
        let oldest = gauge.oldest_since.unwrap_or(record.since);
        gauge.oldest_since = Some(oldest.min(record.since));
    }
    for lease in durable.leases.values() {
        gauges.entry(lease.queue).or_default().running += 1;
    }
    for timer in durable.timers.values() {
        let gauge = gauges.entry(timer.queue).or_default();
        match timer.delayed {
            true => gauge.delayed += 1,
            false => gauge.suspended += 1,
        }
    }
    let named = gauges.into_iter().map(|(number, mut gauge)| {
        gauge.oldest_since = gauge.oldest_since.filter(|_| gauge.queued > 0);
        let record = durable.queues.get(&number);
        (record.map_or(String::new(), |record| record.name.clone()), gauge)
    });
    named.collect()
}
