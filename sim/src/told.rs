//! What clients did and what they were told. A call without an answer is unknown and stays so.

use std::collections::BTreeMap;

use stepwell::ClientError;
use stepwell::model::command::Refusal;
use stepwell::model::id::{Namespace, RunId};
use stepwell::model::run::{Outcome, RunSummary, Stats};

use crate::plan::{Plan, Work};

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Not begun.
    Waits,
    /// Under way, in this life of its client.
    Runs(u32),
    /// Answered, or given up: its client died.
    Over,
}

/// The answer to a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StartAnswer {
    /// The run exists.
    Exists {
        /// Whether this call was told that it began it.
        started: bool,
    },
    /// Another run has the name.
    Taken,
}

/// A start and its answer.
#[derive(Debug, Clone)]
pub(crate) struct StartTold {
    pub(crate) name: String,
    pub(crate) work: Work,
    pub(crate) answer: StartAnswer,
}

/// An outcome and who was told it.
#[derive(Debug, Clone)]
pub(crate) struct OutcomeTold {
    pub(crate) name: String,
    pub(crate) client: String,
    pub(crate) at_ms: u64,
    pub(crate) outcome: Outcome,
}

/// The record.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) jobs: Vec<Progress>,
    pub(crate) starts: Vec<StartTold>,
    pub(crate) outcomes: Vec<OutcomeTold>,
    /// Cancels that were acknowledged.
    pub(crate) cancels: Vec<String>,
    /// Answers that can never be right.
    pub(crate) wrong: Vec<String>,
    /// The engine's counts, at the end.
    pub(crate) stats: Option<Stats>,
    /// What listings told, at the end.
    pub(crate) listed: BTreeMap<RunId, RunSummary>,
}

impl Told {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            jobs: vec![Progress::Waits; plan.jobs.len()],
            ..Self::default()
        }
    }

    /// Whether no job is left.
    pub(crate) fn is_over(&self) -> bool {
        self.jobs.iter().all(|job| *job == Progress::Over)
    }

    /// A client begins a life: what it did in the one before will never be answered.
    pub(crate) fn client_begins(&mut self, plan: &Plan, client: u32) {
        for (progress, job) in self.jobs.iter_mut().zip(&plan.jobs) {
            if job.client == client && matches!(progress, Progress::Runs(_)) {
                *progress = Progress::Over;
            }
        }
    }

    /// Whether somebody was told that the run of this name exists.
    pub(crate) fn is_acknowledged(&self, name: &str) -> bool {
        self.starts
            .iter()
            .any(|start| start.name == name && matches!(start.answer, StartAnswer::Exists { .. }))
    }

    /// A question about a run that had been acknowledged before (or not) got this error.
    pub(crate) fn refused(&mut self, name: &str, acknowledged: bool, error: &ClientError) {
        if acknowledged && matches!(error, ClientError::Refused(Refusal::NoSuchRun(_))) {
            self.wrong.push(format!(
                "a client was told that {name} exists, and then that it does not"
            ));
        }
    }
}

/// The id of the run called `name`.
pub(crate) fn run_id(name: &str) -> RunId {
    RunId::of_name(Namespace::default(), name)
}
