//! A handle on one run.

use std::marker::PhantomData;

use serde::de::DeserializeOwned;

use super::Client;
use super::error::{ClientError, RunError};
use crate::model::id::RunId;
use crate::model::run::{Outcome, RunSummary};

/// A run, wherever it is in its life. Cheap to clone; dropping it does nothing to the run.
pub struct Run<Out> {
    client: Client,
    id: RunId,
    started: bool,
    output: PhantomData<fn() -> Out>,
}

impl<Out> Run<Out> {
    pub(super) fn new(client: Client, id: RunId, started: bool) -> Self {
        Self { client, id, started, output: PhantomData }
    }

    /// Its id.
    pub fn id(&self) -> RunId {
        self.id
    }

    /// Whether the call that gave this handle started it; `false` if it existed already.
    pub fn started(&self) -> bool {
        self.started
    }

    /// Where it is in its life.
    pub async fn status(&self) -> Result<RunSummary, ClientError> {
        self.client.status(self.id).await
    }

    /// Asks it to stop. Answers once the request is durable, not once it has stopped.
    pub async fn cancel(&self, reason: &str) -> Result<(), ClientError> {
        self.client.cancel(self.id, reason).await
    }
}

impl<Out: DeserializeOwned> Run<Out> {
    /// Waits, for as long as it takes, until it has ended.
    ///
    /// **Cancel safety**: may be dropped and asked for again.
    pub async fn outcome(&self) -> Result<Out, RunError> {
        match self.client.outcome(self.id, true).await? {
            Outcome::OutcomeCompleted(completed) => Ok(completed.output.to()?),
            Outcome::OutcomeDead(dead) => Err(RunError::Failed(dead.failure)),
            Outcome::OutcomeCancelled(_) => Err(RunError::Cancelled),
            Outcome::OutcomePending(_) => {
                Err(RunError::Client(ClientError::Misfit { kind: "OutcomePending" }))
            }
        }
    }
}

impl<Out> Clone for Run<Out> {
    fn clone(&self) -> Self {
        Self::new(self.client.clone(), self.id, self.started)
    }
}

impl<Out> std::fmt::Debug for Run<Out> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Run({})", self.id)
    }
}
