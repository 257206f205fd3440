//! Queues: their gauges, and what an operator sets on them.

use std::time::Duration;

use super::Client;
use super::error::ClientError;
use crate::model::queue::{QueueChange, QueueSummary};
use crate::wire::message::{AskQueues, SetQueue};

/// How often a drain asks which runs are still running.
const LOOK: Duration = Duration::from_millis(100);

/// The queues of an engine: see [`Client::queues`].
///
/// **Durability**: what is set survives a kill and a power cut once it has answered. It counts for
/// what is dispatched from then on; no running run is ended by it.
#[derive(Debug, Clone)]
pub struct Queues {
    client: Client,
}

impl Client {
    /// The queues: gauges, pause and resume, limits.
    ///
    /// ```no_run
    /// # async fn run(client: stepwell::Client) -> Result<(), stepwell::ClientError> {
    /// client.queues().pause("exports").await?;
    /// for queue in client.queues().list().await? {
    ///     println!("{}: {} queued, {} running", queue.name, queue.queued, queue.running);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn queues(&self) -> Queues {
        Queues { client: self.clone() }
    }
}

impl Queues {
    /// All queues, by name, all as of one instant.
    pub async fn list(&self) -> Result<Vec<QueueSummary>, ClientError> {
        self.ask(None).await
    }

    /// One queue.
    ///
    /// Errors: [`Refusal::NoSuchQueue`](crate::model::request::Refusal::NoSuchQueue).
    pub async fn show(&self, queue: &str) -> Result<QueueSummary, ClientError> {
        let found = self.ask(Some(queue.to_owned())).await?;
        let none = ClientError::Misfit { kind: "QueuesReply" };
        found.into_iter().next().ok_or(none)
    }

    /// Dispatches no more runs of a queue. Running ones go on, and starts are taken.
    ///
    /// Errors: [`Refusal::NoSuchQueue`](crate::model::request::Refusal::NoSuchQueue).
    pub async fn pause(&self, queue: &str) -> Result<(), ClientError> {
        let paused = Some(true);
        self.set(queue, QueueChange { paused, ..QueueChange::default() }).await
    }

    /// Dispatches runs of a queue again.
    ///
    /// Errors: [`Refusal::NoSuchQueue`](crate::model::request::Refusal::NoSuchQueue).
    pub async fn resume(&self, queue: &str) -> Result<(), ClientError> {
        let paused = Some(false);
        self.set(queue, QueueChange { paused, ..QueueChange::default() }).await
    }

    /// Pauses a queue and waits until none of its runs is running, however long that takes.
    ///
    /// **Cancel safety**: dropped, it leaves the queue paused.
    pub async fn drain(&self, queue: &str) -> Result<(), ClientError> {
        self.pause(queue).await?;
        while self.show(queue).await?.running > 0 {
            self.client.shared.env.clock.sleep(LOOK).await;
        }
        Ok(())
    }

    /// Sets what `change` names, and leaves the rest.
    ///
    /// Errors: [`Refusal::NoSuchQueue`](crate::model::request::Refusal::NoSuchQueue) unless
    /// `change.create`; [`Refusal::BadRate`](crate::model::request::Refusal::BadRate),
    /// [`Refusal::OutOfRange`](crate::model::request::Refusal::OutOfRange).
    pub async fn set(&self, queue: &str, change: QueueChange) -> Result<(), ClientError> {
        self.client.done(SetQueue { queue: queue.to_owned(), change }).await
    }

    async fn ask(&self, queue: Option<String>) -> Result<Vec<QueueSummary>, ClientError> {
        Ok(self.client.ask(AskQueues { queue }).await?.queues)
    }
}
