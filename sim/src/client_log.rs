//! What clients did and what they were told. A call without an answer is unknown and stays so.

use std::collections::BTreeMap;

use stepwell::ClientError;
use stepwell::model::dead::AuditAction;
use stepwell::model::id::{Namespace, RequestId, RunId, RunNo};
use stepwell::model::payload::Payload;
use stepwell::model::request::Refusal;
use stepwell::model::run::{Outcome, RunSummary, Stats};
use stepwell::model::time::Time;

use crate::plan::{Plan, Work};
use crate::world::Host;

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

/// What a call asks of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    /// To begin.
    Start { workflow: String, input: Payload, delayed: bool },
    /// To stop.
    Cancel,
    /// To go on.
    Resume,
    /// How it ended, now or once it has.
    Outcome { waits: bool },
    /// Where it is.
    Status,
    /// To do something with a dead letter.
    Operate { request_id: RequestId, action: AskedAction },
}

/// What is done with a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AskedAction {
    Redrive,
    Edit(Payload),
    Discard,
}

/// What a call was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Nothing: it may have taken effect, or take effect at any later time, or never.
    Unknown,
    /// That the engine has not looked at it and never will.
    NotAsked,
    /// The run exists; whether this call began it.
    Started(bool),
    /// It is done.
    Done,
    /// How the run ended, or that it has not.
    Outcome(Outcome),
    /// Where the run is.
    Status(RunSummary),
    /// No.
    Refused(Refusal),
}

/// When something happened: its place among all that calls and answers are, and the time of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment {
    pub(crate) order: u64,
    pub(crate) at_ms: u64,
}

/// A call about one run.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) client: String,
    pub(crate) asked: Asked,
    pub(crate) begun: Moment,
    /// When it was answered or given up, if it was.
    pub(crate) ended: Option<Moment>,
    pub(crate) answer: Answer,
}

/// Finds a call again.
#[derive(Debug, Clone)]
pub(crate) struct CallNo(String, usize);

/// When a run was forgotten after its retention, as places among all that calls and answers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forgotten {
    /// Not before this: then the engine gave it to the disk.
    pub(crate) from: u64,
    /// By then, since nothing that follows from it is told before it is durable.
    pub(crate) until: u64,
}

/// All calls about runs, by the runs' names, each list in the order in which they began.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    pub(crate) of: BTreeMap<String, Vec<Call>>,
    /// When runs were forgotten.
    pub(crate) forgotten: BTreeMap<RunNo, Forgotten>,
    /// Ids whose deletion is on its way to the disk, and since when.
    going: BTreeMap<RunId, u64>,
    /// One host runs after the other, so that this order is one that time allows.
    moments: u64,
}

/// The record.
#[derive(Debug, Default)]
pub(crate) struct ClientLog {
    pub(crate) jobs: Vec<Progress>,
    pub(crate) calls: Calls,
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
    /// The dead letters, newest first, at the end.
    pub(crate) letters: Option<Vec<RunNo>>,
    /// The audit entries, newest first, at the end.
    pub(crate) acts: Option<Vec<(Time, AuditAction)>>,
}

impl ClientLog {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self { jobs: vec![Progress::Waits; plan.jobs.len()], ..Self::default() }
    }

    /// Whether no job is left.
    pub(crate) fn is_over(&self) -> bool {
        self.jobs.iter().all(|job| *job == Progress::Over)
    }

    /// Whether a client other than the first has done all its jobs, after the faults.
    pub(crate) fn has_left(&self, plan: &Plan, client: u32, now_ms: u64) -> bool {
        let mut own = self.jobs.iter().zip(&plan.jobs);
        client > 1
            && now_ms > plan.settings.faults_end_ms
            && own.all(|(progress, job)| job.client != client || *progress == Progress::Over)
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
            self.wrong
                .push(format!("a client was told that {name} exists, and then that it does not"));
        }
    }
}

impl Host {
    /// A call is about to be made.
    pub(crate) fn begins_call(&self, name: &str, asked: Asked) -> CallNo {
        let mut told = self.world.client_log();
        let begun = told.calls.moment(self.now_ms());
        let calls = told.calls.of.entry(name.to_owned()).or_default();
        calls.push(Call {
            client: format!("{}.{}", self.name, self.life),
            asked,
            begun,
            ended: None,
            answer: Answer::Unknown,
        });
        CallNo(name.to_owned(), calls.len() - 1)
    }

    /// It has come back.
    pub(crate) fn ends_call(&self, CallNo(name, at): CallNo, answer: impl Into<Answer>) {
        let mut told = self.world.client_log();
        let ended = told.calls.moment(self.now_ms());
        let call = told.calls.of.get_mut(&name).and_then(|of| of.get_mut(at));
        if let Some(call) = call {
            call.ended = Some(ended);
            call.answer = answer.into();
        }
    }
}

impl Calls {
    /// The engine gives it to the disk that an id means nothing any more; again, if a crash took
    /// that.
    pub(crate) fn forgets(&mut self, id: RunId, at_ms: u64) {
        let from = self.moment(at_ms).order;
        self.going.insert(id, from);
    }

    /// That is durable.
    pub(crate) fn has_forgotten(&mut self, run: RunNo, id: RunId, at_ms: u64) {
        let until = self.moment(at_ms).order;
        let from = self.going.remove(&id).unwrap_or(until);
        self.forgotten.insert(run, Forgotten { from, until });
    }

    fn moment(&mut self, at_ms: u64) -> Moment {
        self.moments += 1;
        let order = self.moments;
        Moment { order, at_ms }
    }
}

impl From<&ClientError> for Answer {
    fn from(error: &ClientError) -> Self {
        match error {
            ClientError::Refused(refusal) => Self::Refused(refusal.clone()),
            ClientError::NotReachable { .. }
            | ClientError::HelloRefused { .. }
            | ClientError::Payload(_) => Self::NotAsked,
            ClientError::TimedOut { .. }
            | ClientError::Unreadable { .. }
            | ClientError::UnreadableAnswer { .. }
            | ClientError::Misfit { .. }
            | ClientError::Closed => Self::Unknown,
        }
    }
}

impl From<&Result<bool, ClientError>> for Answer {
    fn from(started: &Result<bool, ClientError>) -> Self {
        match started {
            Ok(started) => Self::Started(*started),
            Err(error) => error.into(),
        }
    }
}

impl From<&Result<(), ClientError>> for Answer {
    fn from(done: &Result<(), ClientError>) -> Self {
        match done {
            Ok(()) => Self::Done,
            Err(error) => error.into(),
        }
    }
}

impl From<&Result<Outcome, ClientError>> for Answer {
    fn from(outcome: &Result<Outcome, ClientError>) -> Self {
        match outcome {
            Ok(outcome) => Self::Outcome(outcome.clone()),
            Err(error) => error.into(),
        }
    }
}

impl From<&Result<RunSummary, ClientError>> for Answer {
    fn from(status: &Result<RunSummary, ClientError>) -> Self {
        match status {
            Ok(summary) => Self::Status(summary.clone()),
            Err(error) => error.into(),
        }
    }
}

/// The id of the run called `name`.
pub(crate) fn run_id(name: &str) -> RunId {
    RunId::from_name(Namespace::default(), name)
}
