//! What can be told about a run.

use serde::{Deserialize, Serialize};

use super::batch::BatchNo;
use super::failure::Failure;
use super::id::{ProcessInstance, RunId, RunNo};
use super::payload::Payload;
use super::time::Time;
use crate::numbered::numbered;

/// Every state a run can be in. Each is listed and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub enum RunState {
    /// Started with a delay, and not due yet.
    Delayed,
    /// Waits in its queue for a worker with a free slot.
    Queued,
    /// Leased to a worker, which runs it.
    Running,
    /// Waits for a timer or a backoff; holds no slot and no memory.
    Suspended,
    /// Its code and its journal disagree; waits for another build or `run resume`.
    Parked,
    /// Stopped by an operator or at a limit; waits for `run resume`.
    Paused,
    /// Ended: the function returned.
    Completed,
    /// Ended: a dead letter.
    Dead,
    /// Ended: cancelled.
    Cancelled,
    /// Ended: a dead letter that somebody took off the list.
    Discarded,
}

impl RunState {
    /// All states, in the order of a run's life.
    pub const ALL: [Self; 10] = [
        Self::Delayed,
        Self::Queued,
        Self::Running,
        Self::Suspended,
        Self::Parked,
        Self::Paused,
        Self::Completed,
        Self::Dead,
        Self::Cancelled,
        Self::Discarded,
    ];

    /// Whether the run has ended.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Dead | Self::Cancelled | Self::Discarded)
    }

    /// Its name, in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delayed => "delayed",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Suspended => "suspended",
            Self::Parked => "parked",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
            Self::Discarded => "discarded",
        }
    }
}

impl std::fmt::Display for RunState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for RunState {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == word)
            .ok_or_else(|| format!("`{word}` is not a state of a run"))
    }
}

impl From<RunState> for u8 {
    fn from(state: RunState) -> Self {
        1 + RunState::ALL.iter().position(|&s| s == state).map_or(0, |i| i as Self)
    }
}

impl TryFrom<u8> for RunState {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        let index = usize::from(number).wrapping_sub(1);
        Self::ALL
            .get(index)
            .copied()
            .ok_or_else(|| format!("run state {number} is not known to this version"))
    }
}

/// A run as listings and `status` tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct RunSummary {
    /// The run.
    pub id: RunId,
    /// The name it was given, if any.
    pub name: Option<String>,
    /// Its place in the order of starts.
    pub no: RunNo,
    /// The workflow's name.
    pub workflow: String,
    /// Its queue.
    pub queue: String,
    /// Where it is in its life.
    pub state: RunState,
    /// When it was started.
    pub started_at: Time,
    /// When its last entry was written.
    pub changed_at: Time,
    /// Entries in its journal.
    pub entries: u32,
    /// When it goes on by itself, if it waits for that.
    pub wakes_at: Option<Time>,
    /// Why it is dead, parked or paused: one line or several.
    pub reason: Option<String>,
    /// The worker process that holds it, if one does.
    pub process: Option<ProcessInstance>,
    /// The batch it belongs to, unless that had ended when it was redriven.
    #[serde(default)]
    pub batch: Option<BatchNo>,
}

/// The run's function returned this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct OutcomeCompleted {
    /// What it returned.
    pub output: Payload,
}

/// The run is a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct OutcomeDead {
    /// Why.
    pub failure: Failure,
}

/// The run was cancelled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct OutcomeCancelled {}

/// The run has not ended yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct OutcomePending {
    /// Where it is in its life.
    pub state: RunState,
}

numbered! {
    /// How a run ended, or that it has not.
    #[derive(Debug, Clone, PartialEq, Eq)]
    #[cfg_attr(not(feature = "inspect"), non_exhaustive)]
    pub enum Outcome {
        /// It returned.
        1 => OutcomeCompleted,
        /// It failed.
        2 => OutcomeDead,
        /// It was cancelled.
        3 => OutcomeCancelled,
        /// It goes on.
        4 => OutcomePending,
    }
}

/// Counts an engine keeps, as `stats` tells them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct Stats {
    /// Runs in each state, in the order of [`RunState::ALL`].
    pub runs: Vec<u64>,
    /// Reports refused because their token was not the run's current one, since the engine opened.
    pub refused_late: u64,
    /// Reports answered again because they had been committed before, since the engine opened.
    pub repeated: u64,
    /// Runs dispatched to workers since the engine opened.
    pub dispatches: u64,
    /// Runs that went back to their queues because the worker that held them was lost, since the
    /// engine opened.
    pub redeliveries: u64,
    /// Sessions lost without a goodbye, since the engine opened.
    pub sessions_lost: u64,
    /// Sessions connected now that offer at least one slot.
    pub workers: u64,
    /// Step outcomes committed since the engine opened.
    pub steps: u64,
    /// Recorded outcomes handed to workers for replay, since the engine opened.
    pub replayed: u64,
    /// The store's identity.
    pub store: u64,
    /// The epoch of this opening.
    pub epoch: u64,
    /// Bytes of the store on disk.
    pub disk_bytes: u64,
    /// Bytes handed to the write-ahead log since the engine opened.
    pub wal_bytes: u64,
    /// Commits since the engine opened.
    pub commits: u64,
    /// Engine time now.
    pub now: Time,
    /// What the engine has in memory now.
    #[serde(default)]
    pub in_memory: InMemory,
}

/// What an engine has in memory, counted. All but sessions and timers is about work under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct InMemory {
    /// Connections of workers and clients.
    pub sessions: u64,
    /// Runs that workers hold, or that are kept for workers that may come back.
    pub leases: u64,
    /// Queued runs that were started just now and need not be read.
    pub fresh: u64,
    /// Timers of suspended runs, the earliest ones.
    pub timers: u64,
    /// Timers of leased runs.
    pub armed: u64,
    /// Calls that wait for the end of a run.
    pub waiters: u64,
    /// Runs, ids and starts that wait for something to be read.
    pub reads: u64,
    /// Memoized steps that make their attempt, or wait for another step's.
    #[serde(default)]
    pub memos: u64,
}

impl Stats {
    /// Runs in one state.
    pub fn runs_in(&self, state: RunState) -> u64 {
        self.runs.get(usize::from(u8::from(state)) - 1).copied().unwrap_or(0)
    }
}
