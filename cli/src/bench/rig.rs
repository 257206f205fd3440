//! The engine and the worker under measurement, as processes that can be killed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stepwell::Client;

use super::workflow::{StepTimes, Working};
use crate::clock;
use crate::connection;
use crate::failure::CommandError;
use crate::process::{Process, cpu_time, rss_bytes};
use crate::serve::Listening;

/// How long a process may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long an engine may take to be there again.
const BACK_WITHIN: Duration = Duration::from_secs(120);

/// Where the engine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    // Within the worker's process.
    Embedded,
    // In a process of its own, over TCP.
    Served,
}

/// The processes.
#[derive(Debug)]
pub(crate) struct Rig {
    mode: Mode,
    dir: PathBuf,
    slots: u32,
    session_timeout: Duration,
    /// Where clients find the engine, the same in all its lives.
    pub(crate) address: String,
    engine: Process,
    /// `None` when the engine's process does the work itself.
    worker: Option<Process>,
}

impl Rig {
    /// Starts an engine on `dir`, and a worker.
    pub(crate) async fn start(
        mode: Mode,
        dir: &Path,
        slots: u32,
        session_timeout: Duration,
    ) -> Result<Self, CommandError> {
        let (engine, address) = engine(mode, dir, slots, "127.0.0.1:0", session_timeout).await?;
        let mut rig = Self {
            mode,
            dir: dir.to_owned(),
            slots,
            session_timeout,
            address,
            engine,
            worker: None,
        };
        rig.start_worker().await?;
        Ok(rig)
    }

    /// kill -9 the engine's process.
    pub(crate) async fn kill_engine(&mut self) -> Result<(), CommandError> {
        self.engine.kill().await
    }

    /// kill -9 the worker's process, if it is another one.
    pub(crate) async fn kill_worker(&mut self) -> Result<(), CommandError> {
        match &mut self.worker {
            Some(worker) => worker.kill().await,
            None => Ok(()),
        }
    }

    /// Starts the engine again on the same directory and address.
    pub(crate) async fn start_engine(&mut self) -> Result<(), CommandError> {
        let (engine, _) =
            engine(self.mode, &self.dir, self.slots, &self.address, self.session_timeout).await?;
        self.engine = engine;
        Ok(())
    }

    /// Starts a worker, where that is a process of its own.
    pub(crate) async fn start_worker(&mut self) -> Result<(), CommandError> {
        if self.mode == Mode::Served {
            let args =
                ["bench-worker", "--slots", &self.slots.to_string(), "--server", &self.address];
            let mut worker = Process::spawn(
                "worker",
                args.map(OsString::from).to_vec(),
                &self.dir.join("worker.log"),
            )?;
            worker.ready::<Working>().await?;
            self.worker = Some(worker);
        }
        Ok(())
    }

    /// A client, as soon as the engine answers.
    pub(crate) async fn client(&self) -> Result<Client, CommandError> {
        let begin = clock::now();
        loop {
            match connection::connect(&self.address).await {
                Err(error) if clock::now().duration_since(begin) > BACK_WITHIN => {
                    return Err(error);
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                Ok(client) => return Ok(client),
            }
        }
    }

    /// What the worker measured since it was asked last.
    pub(crate) async fn step_times(&mut self) -> Result<StepTimes, CommandError> {
        let worker = self.worker.as_mut().unwrap_or(&mut self.engine);
        worker.tell("times").await?;
        worker.said(ANSWER_WITHIN).await
    }

    /// Resident memory of the engine's process.
    pub(crate) fn rss_engine(&self) -> Option<u64> {
        rss_bytes(self.engine.pid())
    }

    /// What the engine's process has computed so far.
    pub(crate) fn cpu_engine(&self) -> Option<Duration> {
        cpu_time(self.engine.pid())
    }

    /// Resident memory of the worker's process, if it is another one.
    pub(crate) fn rss_worker(&self) -> Option<u64> {
        self.worker.as_ref().and_then(|worker| rss_bytes(worker.pid()))
    }

    /// Ends everything in peace.
    pub(crate) async fn close(self) -> Result<(), CommandError> {
        if let Some(worker) = self.worker {
            worker.close().await?;
        }
        self.engine.close().await
    }
}

async fn engine(
    mode: Mode,
    dir: &Path,
    slots: u32,
    listen: &str,
    session_timeout: Duration,
) -> Result<(Process, String), CommandError> {
    let data = dir.join("data");
    let log = dir.join("engine.log");
    match mode {
        Mode::Served => {
            let mut args: Vec<OsString> =
                ["serve", "--json", "--until-stdin-closes", "--listen", listen, "--data"]
                    .map(OsString::from)
                    .to_vec();
            args.push(data.into());
            args.push("--session-timeout".into());
            args.push(format!("{}ms", session_timeout.as_millis()).into());
            let mut engine = Process::spawn("server", args, &log)?;
            let ready: Listening = engine.ready().await?;
            Ok((engine, ready.listening))
        }
        Mode::Embedded => {
            let mut args = ["bench-worker", "--slots", &slots.to_string(), "--data"]
                .map(OsString::from)
                .to_vec();
            let address = format!("unix:{}", data.join("stepwell.sock").display());
            args.push(data.into());
            let mut engine = Process::spawn("engine", args, &log)?;
            engine.ready::<Working>().await?;
            Ok((engine, address))
        }
    }
}
