//! Steps that run in another process, as the replay sees it: here what is asked of whoever can do
//! that, there what the process is told to be.

use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::model::failure::Failure;
use crate::model::id::RunId;
use crate::model::payload::Payload;
use crate::model::time::Time;

/// One attempt at an isolated step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IsolatedAttempt {
    /// The run.
    pub(crate) run: RunId,
    /// Its workflow.
    pub(crate) workflow: String,
    /// The index of the command.
    pub(crate) number: u32,
    /// The function has seen so many entries of its journal when it asks for this attempt: a replay
    /// of exactly these asks for it too.
    pub(crate) seen: u32,
    /// The attempt ends then, counted from now.
    pub(crate) hard: Duration,
    /// The memory it may use.
    pub(crate) memory_bytes_max: Option<u64>,
    /// The largest output.
    pub(crate) payload_bytes_max: usize,
    /// Engine time.
    pub(crate) now: Time,
}

/// Runs steps in other processes.
pub(crate) trait IsolatedRunner: Send + Sync {
    /// Makes the attempt. Dropping the future ends whatever makes it.
    fn run(&self, attempt: IsolatedAttempt) -> BoxFuture<'static, Result<Payload, Failure>>;
}

/// What a process for one step knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IsolatedStep {
    /// The index of the command.
    pub(crate) number: u32,
    /// How much of the attempt's time had passed when the process was told.
    pub(crate) age: Duration,
}
