//! What a process is told to do.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stepwell::{EngineOptions, Limits};

use crate::workflow::Crash;

/// The argument of `stepwell-tests-host`, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ProcessSpec {
    /// Be an engine.
    Engine(EngineSpec),
    /// Be a worker.
    Worker(WorkerSpec),
    /// Be a client that waits for the outcome of a run of [`LEDGER`](crate::workflow::LEDGER) and
    /// tells it.
    Client {
        /// The engine.
        server: String,
        /// The run's name.
        run: String,
    },
    /// Be a program with an engine of its own, that runs [`CRASH`](crate::workflow::CRASH) once and
    /// tells its outcome.
    Embedded {
        /// The data directory.
        data: PathBuf,
        /// The file that stands for the world.
        effects: PathBuf,
        /// How the step's first attempt ends.
        how: Crash,
    },
    /// Judge a directory: see [`verdict`](crate::verdict).
    Judge {
        /// The directory.
        data: PathBuf,
        /// What was in it, a [`Content`](crate::verdict::Content) as JSON.
        content: PathBuf,
    },
}

/// An engine of its own process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EngineSpec {
    /// The data directory.
    pub data: PathBuf,
    /// Where to listen.
    pub listen: String,
    /// The session timeout.
    pub session_timeout: Duration,
    /// How long a worker may be away after its connection broke.
    pub disconnect_grace: Duration,
    /// The largest payload.
    pub payload_bytes_max: usize,
    /// Run inside this shell command, which ends with `exec "$@"`: limits of the system are set
    /// this way.
    pub shell: Option<String>,
}

impl EngineSpec {
    /// An engine with the defaults of a server, on a free port of this machine.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        let options = EngineOptions::default();
        Self {
            data: data.into(),
            listen: "127.0.0.1:0".to_owned(),
            session_timeout: options.session_timeout,
            disconnect_grace: options.disconnect_grace,
            payload_bytes_max: options.limits.payload_bytes_max,
            shell: None,
        }
    }

    /// The options that it means.
    pub fn options(&self) -> EngineOptions {
        EngineOptions::default()
            .session_timeout(self.session_timeout)
            .heartbeat(self.session_timeout / 5)
            .disconnect_grace(self.disconnect_grace)
            .embedded(false)
            .limits(Limits::default().payload_bytes_max(self.payload_bytes_max))
    }
}

/// A worker of its own process, of all [workflows](crate::workflow).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorkerSpec {
    /// The engine.
    pub server: String,
    /// Slots of the queue `default`.
    pub slots: u32,
    /// How long running steps may take to end when it drains.
    pub grace: Duration,
    /// The file that stands for the world: each attempt at a step appends a line to it.
    pub effects: PathBuf,
}
