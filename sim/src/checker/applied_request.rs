//! **An operator request about a queue or a schedule takes effect once, and it does.**
//!
//! Source: the core's invariants N1 and N2, and the clients' calls: what is recorded as carried out
//! is so in the same batch, and a copy of a request that comes late does not undo what was asked
//! since. What is durable of queues and schedules changes only with a request that was never
//! carried out before, which is recorded with it; the network repeats such requests at once, late,
//! and over other connections.

use std::collections::{BTreeMap, BTreeSet};

use stepwell::model::id::RequestId;
use stepwell::model::schedule::ScheduleSpec;
use stepwell::tables::ScheduleRecord;
use stepwell::wire::message::{Call, Message, Request, Requested};
use stepwell::{QueueChange, QueueSettings};

use super::Findings;
use crate::durable::Durable;

const NAME: &str = "an operator request takes effect once";
const ACTS: &str = "an operator request that is applied has its effect";

/// What follows from the rows of queues, schedules and applied requests.
#[derive(Default)]
pub(super) struct AppliedRequests {
    known: BTreeSet<RequestId>,
    queues: BTreeMap<u32, QueueSettings>,
    /// A schedule, and whether it is paused.
    schedules: BTreeMap<u32, (ScheduleRecord, bool)>,
    /// In the batch at hand: what was changed, and how many requests were applied.
    changes: Vec<String>,
    applied: Vec<RequestId>,
    /// What was durable in the course of it, before and after each of its changes.
    queues_seen: Vec<(u32, QueueSettings)>,
    schedules_seen: Vec<(String, Option<(ScheduleSpec, bool)>)>,
    /// What clients want.
    wanted: BTreeMap<RequestId, Wanted>,
}

/// What is so when a request is applied.
#[derive(Debug)]
enum Wanted {
    Queue(String, QueueChange),
    Set(Box<ScheduleSpec>),
    Paused(String, bool),
    Removed(String),
}

impl AppliedRequests {
    /// How many requests were applied.
    pub(super) fn count(&self) -> u64 {
        self.known.len() as u64
    }

    /// Whether this request was applied.
    pub(super) fn has_applied(&self, request_id: RequestId) -> bool {
        self.known.contains(&request_id)
    }

    /// A client makes a request, perhaps again.
    pub(super) fn given(&mut self, message: &Message) {
        let Message::Call(Call { request_id, request, .. }) = message else {
            return;
        };
        let Requested::Known(request) = request else {
            return;
        };
        let wanted = match request {
            Request::SetQueue(m) => Wanted::Queue(m.queue.clone(), m.change),
            Request::SetSchedule(m) => Wanted::Set(m.spec.clone()),
            Request::PauseSchedule(m) => Wanted::Paused(m.name.clone(), true),
            Request::ResumeSchedule(m) => Wanted::Paused(m.name.clone(), false),
            Request::RemoveSchedule(m) => Wanted::Removed(m.name.clone()),
            _ => return,
        };
        self.wanted.insert(*request_id, wanted);
    }

    pub(super) fn applied(&mut self, request_id: RequestId, findings: &mut Findings<'_>) {
        self.applied.push(request_id);
        if !self.known.insert(request_id) {
            findings.report(NAME, format!("{request_id} is carried out again"));
        }
    }

    pub(super) fn queue_set(&mut self, durable: &Durable, queue: u32) {
        let settings = durable.settings_of(queue);
        let before = self.queues.insert(queue, settings).unwrap_or_default();
        self.queues_seen.extend([(queue, before), (queue, settings)]);
        if before != settings {
            self.changes.push(format!("queue {queue} is {settings:?}"));
        }
    }

    /// A schedule was set, paused, resumed or removed; or only moved on.
    pub(super) fn scheduled(&mut self, durable: &Durable, number: u32) {
        let of = |schedule: &crate::durable::DurableSchedule| {
            let is_paused = schedule.state.paused_by.is_some();
            (schedule.record.clone(), is_paused)
        };
        let after = durable.schedules.get(&number).map(of);
        let before = match &after {
            Some(after) => self.schedules.insert(number, after.clone()),
            None => self.schedules.remove(&number),
        };
        for seen in [&before, &after] {
            let of = seen.as_ref().or(before.as_ref()).or(after.as_ref());
            let name = of.map(|(record, _)| record.spec.name.clone());
            let seen = seen.as_ref();
            let seen = seen.map(|(record, is_paused)| (record.spec.clone(), *is_paused));
            self.schedules_seen.extend(name.map(|name| (name, seen)));
        }
        if before != after {
            let is_paused = after.map(|(_, is_paused)| is_paused);
            let text = format!("schedule {number} is another, paused: {is_paused:?}");
            self.changes.push(text);
        }
    }

    pub(super) fn batch_ended(&mut self, durable: &Durable, findings: &mut Findings<'_>) {
        let changes = std::mem::take(&mut self.changes);
        let applied = std::mem::take(&mut self.applied);
        if changes.len() > applied.len() {
            let count = applied.len();
            findings.report(NAME, format!("{count} requests were applied: {changes:?}"));
        }
        for request_id in applied {
            let wanted = self.wanted.get(&request_id);
            if let Some(wanted) = wanted.filter(|wanted| !self.is_so(durable, wanted)) {
                findings
                    .report(ACTS, format!("{request_id} is carried out, and not so: {wanted:?}"));
            }
        }
        self.queues_seen.clear();
        self.schedules_seen.clear();
    }

    /// Whether it was so at some time in the course of the batch.
    fn is_so(&self, durable: &Durable, wanted: &Wanted) -> bool {
        if let Wanted::Queue(name, change) = wanted {
            let is_it = |queue: &u32| durable.queues.get(queue).is_some_and(|q| q.name == *name);
            let now = durable.queue_named(name).map(|record| record.settings);
            let seen = self.queues_seen.iter().filter(|(queue, _)| is_it(queue));
            let mut states = seen.map(|(_, settings)| *settings).chain(now);
            return states.any(|settings| fits(settings, change));
        }
        let name = match wanted {
            Wanted::Set(spec) => &spec.name,
            Wanted::Paused(name, _) | Wanted::Removed(name) => name,
            Wanted::Queue(..) => return false,
        };
        let mut schedules = durable.schedules.values();
        let now = schedules.find(|schedule| schedule.record.spec.name == *name);
        let now = now.map(|schedule| {
            let is_paused = schedule.state.paused_by.is_some();
            (schedule.record.spec.clone(), is_paused)
        });
        let seen = self.schedules_seen.iter().filter(|(of, _)| of == name);
        let mut states = seen.map(|(_, state)| state).chain([&now]);
        states.any(|state| match (wanted, state) {
            (Wanted::Set(spec), Some((is, _))) => *is == **spec,
            (Wanted::Paused(_, paused), Some((_, is))) => is == paused,
            (Wanted::Removed(_), None) => true,
            _ => false,
        })
    }
}

/// Whether a queue's settings are what a request asks for.
fn fits(settings: QueueSettings, change: &QueueChange) -> bool {
    let concurrency = |limit: u32| settings.concurrency == Some(limit).filter(|limit| *limit > 0);
    change.paused.is_none_or(|paused| settings.paused == paused)
        && change.concurrency.is_none_or(concurrency)
        && change.rate.is_none_or(|rate| settings.rate == Some(rate).filter(|rate| rate.count > 0))
        && (change.oldest_every.is_none() || settings.oldest_every == change.oldest_every)
}
