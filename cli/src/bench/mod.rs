//! `stepwell bench`: what this machine does, with what its disk can do beside it.

mod arrivals;
mod figures;
mod load;
mod queued;
mod rate;
mod replay;
mod rig;
mod starts;
mod suspended;
mod workflow;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

pub(crate) use load::BenchClient;
pub(crate) use workflow::BenchWorker;

use crate::failure::{Answer, CommandError};
use crate::quantity;
use crate::terminal::Terminal;
use figures::Figures;
use load::Load;
use rig::Mode;

/// Bytes of one raw append: what most disks write at once.
const RAW_APPEND_BYTES: usize = 4_096;
/// Key and envelope of a step's entry, beside its payload.
const ENTRY_BYTES: usize = 47;
/// How long each raw limit is measured.
const RAW_SECONDS: u64 = 1;

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Run the engine in the worker's process, or in its own process over TCP
    #[arg(long, value_enum, default_value = "served")]
    pub(crate) mode: Mode,
    #[command(flatten)]
    pub(crate) load: Load,
    /// Instead: put N runs into a long sleep, kill the engine, wait until it is there again
    #[arg(long, value_name = "N", conflicts_with = "replay", value_parser = clap::value_parser!(u64).range(1..))]
    suspended: Option<u64>,
    /// Instead: run N steps in a row, kill the engine (then the worker, then both) near the end,
    /// wait until it has finished
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(100..))]
    replay: Option<u32>,
    /// Instead: queue N runs (5,000 at least), dispatch some of them, start an urgent one
    /// behind them, kill the engine
    #[arg(long, value_name = "N", conflicts_with_all = ["replay", "suspended"], value_parser = clap::value_parser!(u64).range(5_000..))]
    queued: Option<u64>,
    /// Instead: start N runs a second at a steady pace, and measure how soon they begin
    #[arg(long, value_name = "N", conflicts_with_all = ["replay", "suspended", "queued"], value_parser = clap::value_parser!(u32).range(1..=20_000))]
    arrivals: Option<u32>,
    /// Measure that again with N slow runs queued in another queue
    #[arg(long, value_name = "N", requires = "arrivals", default_value_t = 0)]
    beside: u64,
    /// Instead: keep all slots busy for seconds each, and measure N calls of start
    #[arg(long, value_name = "N", conflicts_with_all = ["replay", "suspended", "queued", "arrivals"], value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    starts: Option<u64>,
    /// Consider a worker lost after this silence
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = quantity::span)]
    pub(crate) session_timeout: Duration,
    /// Measure on the disk of this directory [default: the temporary directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Bench {
    pub(crate) async fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        let fault = |e: std::io::Error| {
            CommandError::fault("there is no room for the measurement").caused_by(&e)
        };
        let stop = crate::process::told_to_stop();
        let mut builder = tempfile::Builder::new();
        builder.prefix("stepwell-bench-");
        let directory = match &self.dir {
            Some(dir) => builder.tempdir_in(dir),
            None => builder.tempdir(),
        };
        let directory = directory.map_err(fault)?;
        tokio::select! {
            figures = self.measure(directory.path()) => {
                let figures = figures?;
                terminal.data(&figures, || figures.text())?;
                Ok(if figures.errors == 0 { Answer::Yes } else { Answer::No })
            }
            () = stop => Err(CommandError::interrupted()),
        }
    }

    async fn measure(&self, dir: &Path) -> Result<Figures, CommandError> {
        let mut figures = self.heading();
        self.raw(dir, &mut figures)?;
        if let Some(per_s) = self.arrivals {
            arrivals::measure(self, dir, (per_s, self.beside), &mut figures).await?;
            return Ok(figures);
        }
        if let Some(count) = self.starts {
            starts::measure(self, dir, count, &mut figures).await?;
            return Ok(figures);
        }
        if let Some(count) = self.queued {
            queued::measure(self, dir, count, &mut figures).await?;
            return Ok(figures);
        }
        match (self.suspended, self.replay) {
            (Some(count), _) => suspended::measure(self, dir, count, &mut figures).await?,
            (None, Some(steps)) => replay::measure(self, dir, steps, &mut figures).await?,
            (None, None) => rate::measure(self, dir, &mut figures).await?,
        }
        Ok(figures)
    }

    fn heading(&self) -> Figures {
        let (measured, steps, in_flight) = match (self.suspended, self.replay) {
            _ if self.arrivals.is_some() => {
                ("arrivals", 1, u64::from(self.arrivals.unwrap_or_default()))
            }
            _ if self.starts.is_some() => ("starts", 1, self.starts.unwrap_or_default()),
            _ if self.queued.is_some() => ("queued", 1, self.queued.unwrap_or_default()),
            (Some(count), _) => ("suspended", 0, count),
            (None, Some(steps)) => ("replay", u64::from(steps), 1),
            (None, None) => ("rate", u64::from(self.load.steps), u64::from(self.load.in_flight)),
        };
        Figures {
            mode: if self.mode == Mode::Served { "served" } else { "embedded" }.to_owned(),
            measured: measured.to_owned(),
            steps,
            in_flight,
            payload_bytes: self.load.payload as u64,
            ..Figures::default()
        }
    }

    /// The raw limits, on the same disk, in the same minute.
    fn raw(&self, dir: &Path, figures: &mut Figures) -> Result<(), CommandError> {
        let round = |n: f64| (n * 10.0).round() / 10.0;
        let fault = |e: &dyn std::error::Error| {
            CommandError::fault("the disk cannot be measured").caused_by(e)
        };
        let appends =
            stepwell_storage::raw::append_fdatasync_per_s(dir, RAW_APPEND_BYTES, RAW_SECONDS);
        figures.raw_fdatasync_per_s = Some(round(appends.map_err(|e| fault(&e))?));
        let bytes = self.load.payload + ENTRY_BYTES;
        let commits = stepwell_storage::raw::fjall_synced_commits(dir, bytes, 1, RAW_SECONDS);
        let (p50, per_s) = commits.map_err(|e| fault(&e))?;
        figures.raw_fjall_commit_p50_us = Some(round(p50));
        figures.raw_fjall_commits_per_s = Some(round(per_s));
        Ok(())
    }
}
