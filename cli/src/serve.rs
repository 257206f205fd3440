//! `stepwell serve`: the engine as a process of its own.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use stepwell::EngineOptions;
use stepwell::model::limits::{Limits, PAYLOAD_BYTES_CEILING};
use tokio::signal::unix::{SignalKind, signal};

use crate::connection::{SERVER, opened};
use crate::failure::{Answer, CommandError};
use crate::process;
use crate::quantity;
use crate::terminal::{self, Terminal};

/// The smallest setting of `payload_bytes_max`.
const PAYLOAD_BYTES_FLOOR: usize = 1 << 10;

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The data directory; created if missing
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Listen on this address; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = SERVER)]
    listen: String,
    /// Consider a worker lost after this silence; its runs go to other workers
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = quantity::span)]
    session_timeout: Duration,
    /// Keep ended runs for this long
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = quantity::span)]
    retention: Duration,
    /// Keep dead letters that were neither redriven nor discarded, and audit entries, for this long
    #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = quantity::span)]
    dead_retention: Duration,
    /// Turn a queued run into a dead letter when no worker has registered its workflow for this
    /// long
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = quantity::span)]
    unregistered_workflow_after: Duration,
    /// The largest input or output of a step or run, at most 16MiB
    #[arg(long, value_name = "BYTES", default_value = "64KiB", value_parser = payload_bytes)]
    payload_max: usize,
    /// Pause a run whose journal has this many entries
    #[arg(long, value_name = "N", default_value_t = Limits::default().journal_entries_max, value_parser = clap::value_parser!(u32).range(1..))]
    journal_max: u32,
    /// Warn of an unserved queue (queued work that no connected worker offers) after this time
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = quantity::span)]
    unserved_queue_after: Duration,
    /// Accept a machine's clock that is far from the time the store last saw
    #[arg(long)]
    accept_clock: bool,
    /// Stop when stdin closes
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

/// What `serve --json` says on stdout, in one line, once it listens.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Listening {
    /// The real address.
    pub(crate) listening: String,
    /// The data directory.
    pub(crate) data: PathBuf,
    /// The process.
    pub(crate) pid: u32,
}

impl Serve {
    pub(crate) async fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        let signals = Signals::listen()?;
        let engine = self.options().open(&self.data).await.map_err(|e| opened(&e))?;
        let listening = engine.listen(&self.listen).await.map_err(|e| {
            CommandError::fault(format!("cannot listen on {}", self.listen))
                .caused_by(&e)
                .hint(match e.kind() {
                    std::io::ErrorKind::AddrInUse => "another process listens there: choose an address with --listen HOST:PORT",
                    _ => "--listen takes HOST:PORT, an address of this machine and a port from 0 to 65535",
                })
        })?;
        if terminal.json {
            let line = Listening { listening, data: self.data.clone(), pid: std::process::id() };
            let line = serde_json::to_string(&line).unwrap_or_default();
            terminal::to_stdout(format!("{line}\n").as_bytes())?;
        } else {
            terminal.note(format!("listening on {listening}, data in {}", self.data.display()));
        }
        tokio::select! {
            reason = engine.stopped() => {
                // What is not durable by now was never acknowledged: there is nothing left to save.
                return Err(stopped(&reason));
            }
            () = signals.received() => {}
            () = process::lifeline_cut(), if self.until_stdin_closes => {}
        }
        engine.close().await;
        if !terminal.json {
            terminal.note("closed");
        }
        Ok(Answer::Yes)
    }

    fn options(&self) -> EngineOptions {
        let limits = Limits::default()
            .payload_bytes_max(self.payload_max)
            .journal_entries_max(self.journal_max);
        EngineOptions::default()
            .limits(limits)
            .session_timeout(self.session_timeout)
            .heartbeat(self.session_timeout / 5)
            .retention(self.retention)
            .dead_retention(self.dead_retention)
            .unregistered_workflow_after(self.unregistered_workflow_after)
            .accept_clock(self.accept_clock)
            .unserved_queue_after(self.unserved_queue_after)
            .embedded(false)
    }
}

fn stopped(reason: &str) -> CommandError {
    let error = CommandError::stopped("the engine has stopped itself: a write to its store failed")
        .cause(reason);
    error
        .hint("nothing that was acknowledged is lost; make room or mend the disk, then start it again")
        .hint("`stepwell store check DIR` reads and verifies everything")
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> Result<Self, CommandError> {
        let fault =
            |e: std::io::Error| CommandError::fault("signals cannot be listened for").caused_by(&e);
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(fault)?,
            interrupt: signal(SignalKind::interrupt()).map_err(fault)?,
        })
    }

    async fn received(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn payload_bytes(text: &str) -> Result<usize, String> {
    let bytes = quantity::bytes(text)?;
    if (PAYLOAD_BYTES_FLOOR..=PAYLOAD_BYTES_CEILING).contains(&bytes) {
        Ok(bytes)
    } else {
        Err("from 1KiB to 16MiB are allowed".to_owned())
    }
}
