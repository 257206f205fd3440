//! **An order about a queue or a schedule acts once.**
//!
//! Source: the core's invariants N1 and N2, and the clients' calls: a copy of an order that comes late does not undo what was
//! ordered since. What is durable of queues and schedules changes only with an order that was never carried out before, which
//! is recorded in the same batch; the network repeats such orders at once, late, and over other connections.

use std::collections::{BTreeMap, BTreeSet};

use stepwell::QueueSettings;
use stepwell::keys::ScheduleRecord;
use stepwell::model::id::CommandId;

use super::Bench;
use crate::durable::Durable;

const NAME: &str = "an order acts once";

/// What follows from the rows of queues, schedules and orders.
#[derive(Default)]
pub(super) struct Orders {
    known: BTreeSet<CommandId>,
    queues: BTreeMap<u32, QueueSettings>,
    /// A schedule, and whether it is paused.
    schedules: BTreeMap<u32, (ScheduleRecord, bool)>,
    /// In the batch at hand: what was changed, and how many orders were carried out.
    changes: Vec<String>,
    orders: usize,
}

impl Orders {
    /// How many orders were carried out.
    pub(super) fn count(&self) -> u64 {
        self.known.len() as u64
    }

    pub(super) fn carried_out(&mut self, command: CommandId, bench: &mut Bench<'_>) {
        self.orders += 1;
        if !self.known.insert(command) {
            bench.charge(NAME, format!("{command} is carried out again"));
        }
    }

    pub(super) fn queue_set(&mut self, durable: &Durable, queue: u32) {
        let settings = durable.settings_of(queue);
        let before = self.queues.insert(queue, settings);
        if before.unwrap_or_default() != settings {
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
        if before != after {
            let is_paused = after.map(|(_, is_paused)| is_paused);
            let text = format!("schedule {number} is another, paused: {is_paused:?}");
            self.changes.push(text);
        }
    }

    pub(super) fn batch_ended(&mut self, bench: &mut Bench<'_>) {
        let (changes, orders) = (std::mem::take(&mut self.changes), self.orders);
        self.orders = 0;
        if changes.len() > orders {
            bench.charge(
                NAME,
                format!("{orders} orders were carried out: {changes:?}"),
            );
        }
    }
}
