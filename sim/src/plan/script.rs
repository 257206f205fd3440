//! Faults at points of the program, for when chance is too blunt.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::fault::{Fault, FaultKind};
use super::settings::Settings;

/// How long a host is down.
const DOWN_MS: u64 = 300;

/// A point that the world passes, again and again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Point {
    /// A step calls for this effect, and nothing has happened yet.
    BeforeEffect(String),
    /// The effect has happened, and the step does not know yet.
    AfterEffect(String),
    /// A worker has handed a report (of a step, a timer, the end of a turn) to its network.
    Reported,
    /// The server is about to sync what it has.
    BeforeFsync,
    /// What it had is durable, and nobody was told.
    AfterFsync,
    /// The server has handed an acknowledgement (of a report) to its network.
    AfterAck,
    /// The server has dispatched a run to a worker.
    #[serde(rename = "HandedOut")]
    Dispatched,
}

impl Point {
    /// A step calls for this effect, and nothing has happened yet.
    pub fn before_effect(effect: impl Into<String>) -> Self {
        Self::BeforeEffect(effect.into())
    }

    /// The effect has happened, and the step does not know yet.
    pub fn after_effect(effect: impl Into<String>) -> Self {
        Self::AfterEffect(effect.into())
    }

    /// The server is about to sync.
    pub const fn before_fsync() -> Self {
        Self::BeforeFsync
    }

    /// The server has synced, and nobody was told.
    pub const fn after_fsync() -> Self {
        Self::AfterFsync
    }

    /// The server has acknowledged a report.
    pub const fn after_ack() -> Self {
        Self::AfterAck
    }

    /// A worker has reported, and has no answer.
    pub const fn after_report() -> Self {
        Self::Reported
    }

    /// The server has dispatched a run, and the worker does not know yet.
    pub const fn after_dispatch() -> Self {
        Self::Dispatched
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BeforeEffect(effect) => write!(f, "before the effect `{effect}`"),
            Self::AfterEffect(effect) => write!(f, "after the effect `{effect}`"),
            Self::Reported => f.write_str("after a report was sent"),
            Self::BeforeFsync => f.write_str("before a sync"),
            Self::AfterFsync => f.write_str("after a sync"),
            Self::AfterAck => f.write_str("after an acknowledgement was sent"),
            Self::Dispatched => f.write_str("after a run was dispatched"),
        }
    }
}

/// What strikes at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Strike {
    /// The worker that the point is about dies; its peers see the connection end. At a sync, the
    /// first worker.
    KillWorker,
    /// The same, and nobody is told.
    KillWorkerSilently,
    /// The server dies; what it had submitted and not synced is lost.
    KillServer,
    /// The server's machine dies; of what was not synced nothing survives.
    LosePower,
    /// All workers are swapped to the next version of the code.
    Deploy,
    /// Nothing passes between the server and the worker that the point is about, for twice the
    /// session timeout: the worker lives on, its work is given to others, and it hears of that
    /// afterwards. At a sync, the first worker.
    CutWorker,
    /// The worker that the point is about stands still for twice the session timeout, and then
    /// goes on where it was: a zombie, whose work has been given to others. At a sync, the first
    /// worker.
    PauseWorker,
    /// The next sync fails, and whether it has taken effect is unknown; before a sync, that very
    /// one. The production store has no such fault.
    FailSync,
}

impl Strike {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::KillWorker,
        Self::KillWorkerSilently,
        Self::KillServer,
        Self::LosePower,
        Self::Deploy,
        Self::CutWorker,
        Self::PauseWorker,
        Self::FailSync,
    ];

    /// The head of its column in a table.
    pub(crate) fn head(self) -> &'static str {
        match self {
            Self::KillWorker => "WORKER KILLED",
            Self::KillWorkerSilently => "WORKER KILLED SILENTLY",
            Self::KillServer => "SERVER KILLED",
            Self::LosePower => "POWER LOST",
            Self::Deploy => "DEPLOYED",
            Self::CutWorker => "PARTITIONED",
            Self::PauseWorker => "WORKER PAUSED",
            Self::FailSync => "SYNC FAILED",
        }
    }

    /// What it is, if it is about this worker. `chance` decides what is left open: whether a sync
    /// that fails has taken effect. All else strikes as hard as it can.
    pub(crate) fn fault(self, worker: String, settings: &Settings, chance: u64) -> Fault {
        let (server, nobody) = ("server".to_owned(), String::new());
        let (kind, host, other) = match self {
            Self::KillWorker => (FaultKind::WorkerKilled, worker, nobody),
            Self::KillWorkerSilently => (FaultKind::WorkerKilledSilently, worker, nobody),
            Self::KillServer => (FaultKind::ServerKilled, server, nobody),
            Self::LosePower => (FaultKind::PowerLost, server, nobody),
            Self::Deploy => (FaultKind::Deployed, String::new(), nobody),
            Self::CutWorker => (FaultKind::Partitioned, server, worker),
            Self::PauseWorker => (FaultKind::WorkerPaused, worker, nobody),
            Self::FailSync => (FaultKind::SyncFailed, server, nobody),
        };
        let span_ms = match self {
            Self::CutWorker | Self::PauseWorker => 2 * settings.session_timeout_ms,
            _ => DOWN_MS,
        };
        let extent = match self {
            Self::FailSync => chance,
            _ => 0,
        };
        Fault { kind, host, other, span_ms, extent }
    }

    /// Whether it is the server that dies.
    pub(crate) fn kills_server(self) -> bool {
        matches!(self, Self::KillServer | Self::LosePower)
    }

    /// Whether it is the worker that dies.
    pub(crate) fn kills_worker(self) -> bool {
        matches!(self, Self::KillWorker | Self::KillWorkerSilently)
    }
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KillWorker => "the worker is killed",
            Self::KillWorkerSilently => "the worker is killed silently",
            Self::KillServer => "the server is killed",
            Self::LosePower => "the power is lost",
            Self::Deploy => "another version of the code is deployed",
            Self::CutWorker => "the link to the worker is cut",
            Self::PauseWorker => "the worker stands still",
            Self::FailSync => "a sync fails",
        })
    }
}

/// A strike at the `nth` passing of a point, counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scripted {
    /// Where.
    pub point: Point,
    /// At which passing, over all hosts.
    pub nth: u32,
    /// What.
    pub strike: Strike,
}

impl fmt::Display for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, time {}: {}", self.point, self.nth, self.strike)
    }
}
