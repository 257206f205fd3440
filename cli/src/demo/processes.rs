//! The demo's victims: one server and three workers, real processes that are killed and started
//! again.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::clock;
use crate::failure::CommandError;
use crate::process::Process;
use crate::serve::Listening;

/// How many workers there are.
pub(crate) const WORKERS: usize = 3;
/// A worker not heard of for this long is gone. Short, so that the demo is.
const SESSION_TIMEOUT: &str = "2s";

/// The server and the workers.
#[derive(Debug)]
pub(crate) struct Processes {
    data: PathBuf,
    logs: PathBuf,
    provider: String,
    /// The server's address, the same in all its lives.
    pub(crate) address: String,
    server: Process,
    workers: Vec<Process>,
    /// How often each was killed.
    pub(crate) kills: Kills,
}

/// Kills, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Kills {
    /// Of workers.
    pub(crate) workers: u64,
    /// Of the server.
    pub(crate) servers: u64,
}

/// What a kill of the server looked like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServerKill {
    /// The process that was killed.
    pub(crate) pid: u32,
    /// From the kill until the next server listened.
    pub(crate) down: Duration,
}

impl Processes {
    /// Starts them all. The server keeps its data in `data`, all write what they have to say to
    /// `logs`.
    pub(crate) async fn start(
        data: &Path,
        logs: &Path,
        provider: &str,
    ) -> Result<Self, CommandError> {
        let (server, address) = serve(data, logs, "127.0.0.1:0").await?;
        let mut processes = Self {
            data: data.to_owned(),
            logs: logs.to_owned(),
            provider: provider.to_owned(),
            address,
            server,
            workers: Vec::new(),
            kills: Kills::default(),
        };
        for index in 0..WORKERS {
            processes.workers.push(processes.worker(index)?);
        }
        Ok(processes)
    }

    /// kill -9 worker `index` and starts another in its place. Returns the process id of the dead
    /// one.
    pub(crate) async fn kill_worker(&mut self, index: usize) -> Result<u32, CommandError> {
        let next = self.worker(index)?;
        let mut killed = std::mem::replace(&mut self.workers[index], next);
        let pid = killed.pid();
        killed.kill().await?;
        self.kills.workers += 1;
        Ok(pid)
    }

    /// kill -9 the server and starts it again on the same directory and port.
    pub(crate) async fn kill_server(&mut self) -> Result<ServerKill, CommandError> {
        let begin = clock::now();
        let pid = self.server.pid();
        self.server.kill().await?;
        self.kills.servers += 1;
        let (server, _) = serve(&self.data, &self.logs, &self.address).await?;
        self.server = server;
        Ok(ServerKill { pid, down: since(begin) })
    }

    /// An error if one of them has died by itself.
    pub(crate) fn check(&mut self) -> Result<(), CommandError> {
        for process in std::iter::once(&mut self.server).chain(&mut self.workers) {
            if let Some(status) = process.ended() {
                return Err(process.broken(&format!("died by itself ({status})")));
            }
        }
        Ok(())
    }

    /// Ends them in peace.
    pub(crate) async fn close(self) -> Result<(), CommandError> {
        for worker in self.workers {
            worker.close().await?;
        }
        self.server.close().await
    }

    fn worker(&self, index: usize) -> Result<Process, CommandError> {
        let args = ["demo-worker", "--server", &self.address, "--provider", &self.provider];
        let name = format!("worker {}", index + 1);
        let log = self.logs.join(format!("worker-{}.log", index + 1));
        Process::spawn(&name, args.map(OsString::from).to_vec(), &log)
    }
}

/// Starts a server and waits until it listens.
async fn serve(data: &Path, logs: &Path, listen: &str) -> Result<(Process, String), CommandError> {
    let mut args: Vec<OsString> =
        ["serve", "--json", "--until-stdin-closes", "--listen", listen, "--data"]
            .map(OsString::from)
            .to_vec();
    args.push(data.into());
    args.extend(["--session-timeout", SESSION_TIMEOUT].map(OsString::from));
    let mut server = Process::spawn("server", args, &logs.join("server.log"))?;
    let ready: Listening = server.ready().await?;
    Ok((server, ready.listening))
}

fn since(begin: Instant) -> Duration {
    clock::now().duration_since(begin)
}
