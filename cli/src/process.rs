//! Processes of this very binary: servers, workers and clients that a demo or a measurement starts
//! and kills.
//!
//! A child's stdin is its lifeline: it stops when the pipe closes, so that no child outlives a
//! parent that was killed. It stands in a process group of its own, so that Ctrl-C reaches the
//! parent alone, which then ends it.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::CommandError;

/// How long a child may take to say that it is ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long a child may take to end after its lifeline was cut.
const END_WITHIN: Duration = Duration::from_secs(15);
/// How much of a log an error quotes.
const LOG_LINES: usize = 8;

/// A child. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    log: PathBuf,
    child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts this binary with `args`; its stderr is appended to `log`.
    pub(crate) fn spawn(name: &str, args: Vec<OsString>, log: &Path) -> Result<Self, CommandError> {
        let fault = |e: &dyn std::error::Error| {
            CommandError::fault(format!("the {name} cannot be started")).caused_by(e)
        };
        let program = std::env::current_exe().map_err(|e| fault(&e))?;
        let stderr =
            OpenOptions::new().create(true).append(true).open(log).map_err(|e| fault(&e))?;
        let mut command = Command::new(program);
        command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .kill_on_drop(true);
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command.spawn().map_err(|e| fault(&e))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(CommandError::fault(format!("the {name} has no pipes")));
        };
        Ok(Self {
            name: name.to_owned(),
            log: log.to_owned(),
            child,
            stdin,
            stdout: BufReader::new(stdout).lines(),
        })
    }

    /// The process id, while it lives.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// The next line of its stdout, as JSON.
    pub(crate) async fn said<T: DeserializeOwned>(
        &mut self,
        within: Duration,
    ) -> Result<T, CommandError> {
        match tokio::time::timeout(within, self.stdout.next_line()).await {
            Ok(Ok(Some(line))) => serde_json::from_str(&line)
                .map_err(|e| self.broken("said what is not understood").caused_by(&e)),
            Ok(Ok(None)) => Err(self.broken("ended unexpectedly")),
            Ok(Err(e)) => Err(self.broken("cannot be heard").caused_by(&e)),
            Err(_) => Err(self.broken(&format!("said nothing for {}", crate::clock::span(within)))),
        }
    }

    /// The line that says that it is ready.
    pub(crate) async fn ready<T: DeserializeOwned>(&mut self) -> Result<T, CommandError> {
        self.said(READY_WITHIN).await
    }

    /// Writes a line to its stdin.
    pub(crate) async fn tell(&mut self, line: &str) -> Result<(), CommandError> {
        let line = format!("{line}\n");
        let told = async {
            self.stdin.write_all(line.as_bytes()).await?;
            self.stdin.flush().await
        };
        told.await.map_err(|e: std::io::Error| self.broken("cannot be told anything").caused_by(&e))
    }

    /// Whether it has ended by itself.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// kill -9, and waits until it is gone.
    pub(crate) async fn kill(&mut self) -> Result<(), CommandError> {
        self.child.kill().await.map_err(|e| self.broken("cannot be killed").caused_by(&e))
    }

    /// Cuts the lifeline and waits for a clean end.
    pub(crate) async fn close(self) -> Result<(), CommandError> {
        let Self { name, log, mut child, stdin, stdout } = self;
        drop(stdin);
        let ended = tokio::time::timeout(END_WITHIN, child.wait()).await;
        drop(stdout);
        match ended {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(broken(&name, &log, &format!("ended with {status}"))),
            Ok(Err(e)) => Err(broken(&name, &log, "cannot be waited for").caused_by(&e)),
            Err(_) => {
                let _ = child.kill().await;
                Err(broken(
                    &name,
                    &log,
                    &format!("did not end within {}", crate::clock::span(END_WITHIN)),
                ))
            }
        }
    }

    /// What it said last, as an error.
    pub(crate) fn broken(&self, what: &str) -> CommandError {
        broken(&self.name, &self.log, what)
    }
}

fn broken(name: &str, log: &Path, what: &str) -> CommandError {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let error = CommandError::fault(format!("the {name} {what}"));
    lines
        .iter()
        .skip(lines.len().saturating_sub(LOG_LINES))
        .fold(error, |error, line| error.cause(line))
}

/// The child's side: ends when the parent is gone, ignoring what it says.
pub(crate) async fn lifeline_cut() {
    let mut stdin = tokio::io::stdin();
    let mut heard = [0u8; 64];
    while matches!(stdin.read(&mut heard).await, Ok(n) if n > 0) {}
}

/// The child's side: the parent's next line, `None` when it is gone.
pub(crate) async fn heard(lines: &mut Lines<BufReader<tokio::io::Stdin>>) -> Option<String> {
    lines.next_line().await.ok().flatten()
}

/// What the parent says, line by line.
pub(crate) fn hearing() -> Lines<BufReader<tokio::io::Stdin>> {
    BufReader::new(tokio::io::stdin()).lines()
}

/// Waits for Ctrl-C, or for SIGTERM: what a service manager and a CI that has waited long enough
/// send. From the call on, not only once it is awaited, neither ends this process by itself.
pub(crate) fn told_to_stop() -> impl Future<Output = ()> {
    let signals = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
    async move {
        let [interrupted, terminated] = signals.map(async |signal| match signal {
            Ok(mut signal) => signal.recv().await,
            Err(_) => std::future::pending().await,
        });
        tokio::select! {
            biased;
            _ = interrupted => {}
            _ = terminated => {}
        }
    }
}

/// The resident memory of a process, in bytes; `None` where there is no `/proc`.
pub(crate) fn rss_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1_024)
}

/// What a process has computed so far, where the system tells.
pub(crate) fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?; // the name before may hold anything
    let mut ticks = fields.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (ticks.next()?.parse().ok()?, ticks.next()?.parse().ok()?);
    Some(Duration::from_millis((user + system) * 10)) // a tick is 1/100 s on all of Linux's ports
}
