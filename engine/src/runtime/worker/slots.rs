//! Which slots a worker offers, of which queues.
//!
//! What [`Worker::queue`](super::Worker::queue) names counts as it is named. Other queues follow
//! from what is registered: a bulk handler has a slot of its queue for each item of a call, and
//! functions have 32 slots of `default`, if no queue is named at all. A worker of nothing but bulk
//! handlers does not serve `default`: it would be there for workflows that it does not know.

use crate::wire::message::QueueSlots;

/// Slots a worker offers to its queue unless told otherwise.
pub const SLOTS_DEFAULT: u32 = 32;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct WorkerSlots {
    named: Vec<QueueSlots>,
    of_bulk_handlers: Vec<QueueSlots>,
    has_functions: bool,
}

impl WorkerSlots {
    /// So many of this queue, and no others of it. The last word counts.
    pub(super) fn name(&mut self, queue: String, slots: u32) {
        self.named.retain(|known| known.queue != queue);
        self.named.push(QueueSlots { queue, slots });
    }

    /// A function was registered.
    pub(super) fn has_function(&mut self) {
        self.has_functions = true;
    }

    /// A bulk handler was registered, whose calls have so many items.
    pub(super) fn has_bulk_handler(&mut self, queue: &str, items_max: u32) {
        add(&mut self.of_bulk_handlers, queue, items_max);
    }

    /// All that is offered.
    pub(super) fn offered(&self) -> Vec<QueueSlots> {
        let mut implied = self.of_bulk_handlers.clone();
        if self.named.is_empty() && self.has_functions {
            add(&mut implied, "default", SLOTS_DEFAULT);
        }
        let is_named = |queue: &str| self.named.iter().any(|named| named.queue == queue);
        implied.retain(|implied| !is_named(&implied.queue));
        self.named.iter().cloned().chain(implied).collect()
    }
}

fn add(slots: &mut Vec<QueueSlots>, queue: &str, more: u32) {
    match slots.iter_mut().find(|known| known.queue == queue) {
        Some(known) => known.slots = known.slots.saturating_add(more),
        None => slots.push(QueueSlots { queue: queue.to_owned(), slots: more }),
    }
}

#[cfg(test)]
mod tests {
    use crate::model::failure::Failure;
    use crate::runtime::fake_engine::{FakeEngine, env};
    use crate::runtime::worker::Worker;
    use crate::workflow::{BulkPolicy, Ctx, Item, Workflow, millis};

    const GREET: Workflow<u64, u64> = Workflow::new("greet");
    const INSERT: Workflow<u64, u64> = Workflow::new("insert").queue("inserts");
    const UPDATE: Workflow<u64, u64> = Workflow::new("update").queue("inserts");
    const HERE: Workflow<u64, u64> = Workflow::new("here");

    fn greets(worker: Worker) -> Worker {
        worker.register(GREET, |_: Ctx, n: u64| async move { Ok(n) })
    }

    fn handles(worker: Worker, workflow: Workflow<u64, u64>, items_max: u32) -> Worker {
        let policy = BulkPolicy::new(items_max, millis(10));
        worker.register_bulk(workflow, policy, |items: Vec<Item<u64>>| async move {
            items.iter().map(|item| Ok::<_, Failure>(item.input)).collect()
        })
    }

    /// What such a worker tells the engine that it offers.
    async fn offered(with: impl FnOnce(Worker) -> Worker) -> Vec<(String, u32)> {
        let (mut engine, dial) = FakeEngine::new();
        let worker = with(Worker::new(dial, env())).start().unwrap();
        let queues = engine.accept_worker().await.register().queues.clone();
        worker.stop();
        queues.into_iter().map(|q| (q.queue, q.slots)).collect()
    }

    async fn offers(with: impl FnOnce(Worker) -> Worker, expected: &[(&str, u32)]) {
        let expected = expected.iter().map(|(queue, slots)| ((*queue).to_owned(), *slots));
        assert_eq!(offered(with).await, expected.collect::<Vec<_>>());
    }

    // A45: what a bulk handler needs comes on top of what the worker offers without it.
    #[tokio::test(start_paused = true)]
    async fn a_bulk_handler_takes_no_slots_from_functions() {
        offers(greets, &[("default", 32)]).await;
        let with = |worker| handles(greets(worker), INSERT, 100);
        offers(with, &[("inserts", 100), ("default", 32)]).await;
        let with = |worker| greets(handles(worker, HERE, 100));
        offers(with, &[("default", 132)]).await;
    }

    // A21: two bulk handlers of one queue can both be full at a time.
    #[tokio::test(start_paused = true)]
    async fn bulk_handlers_of_one_queue_have_slots_for_all_their_items() {
        let both = |worker| handles(handles(worker, INSERT, 100), UPDATE, 20);
        offers(both, &[("inserts", 120)]).await;
    }

    // What is named counts, whether before or after a handler is registered.
    #[tokio::test(start_paused = true)]
    async fn a_queue_that_is_named_has_the_slots_that_are_named() {
        let before = |worker: Worker| handles(greets(worker.queue("inserts", 7)), INSERT, 100);
        offers(before, &[("inserts", 7)]).await;
        let after = |worker| handles(greets(worker), INSERT, 100).queue("mail", 3);
        offers(after, &[("mail", 3), ("inserts", 100)]).await;
    }
}
