//! What is run for the measurement, and the worker process around it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use serde::{Deserialize, Serialize};
use stepwell::{Ctx, Engine, Failure, Worker, Workflow};

use super::figures::percentile;
use crate::clock;
use crate::connection::opened;
use crate::failure::{Answer, CommandError};
use crate::process;
use crate::terminal;

/// No-op steps, one after the other.
pub(crate) const SEQUENCE: Workflow<Sequence, u32> = Workflow::new("bench-sequence");
/// A long sleep.
pub(crate) const NAP: Workflow<Nap, ()> = Workflow::new("bench-nap");

/// One step, and how soon it began.
pub(crate) const ARRIVAL: Workflow<Arrival, ()> = Workflow::new("bench-arrival");
/// One slow step, in a queue of its own.
pub(crate) const EXPORT: Workflow<BenchExport, ()> =
    Workflow::new("bench-export").queue("bench-exports");
/// Exports run at a time.
pub(crate) const EXPORTS_AT_ONCE: u32 = 8;

/// What a sequence is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sequence {
    /// How many steps.
    pub(crate) steps: u32,
    /// How many bytes each returns.
    pub(crate) payload: usize,
    /// The step of this number fails for good.
    #[serde(default)]
    pub(crate) fail_at: Option<u32>,
}

/// How long to sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Nap {
    /// Milliseconds.
    pub(crate) ms: u64,
}

/// When a run was to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Arrival {
    /// On the machine's wall clock, in microseconds.
    pub(crate) at_us: u64,
}

/// How long a slow step takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BenchExport {
    /// Milliseconds.
    pub(crate) ms: u64,
}

async fn arrival(pulse: Arc<Pulse>, ctx: Ctx, ask: Arrival) -> Result<(), Failure> {
    pulse.begins(ask);
    ctx.step("work", async |_| Ok::<_, Failure>(())).await
}

async fn export(ctx: Ctx, ask: BenchExport) -> Result<(), Failure> {
    ctx.step("export", async |_| {
        tokio::time::sleep(Duration::from_millis(ask.ms)).await;
        Ok::<_, Failure>(())
    })
    .await
}

async fn sequence(pulse: Arc<Pulse>, ctx: Ctx, ask: Sequence) -> Result<u32, Failure> {
    let filler = "x".repeat(ask.payload);
    let last = AtomicU64::new(0);
    for number in 0..ask.steps {
        ctx.step("work", |_| {
            pulse.beat(&last);
            async {
                if ask.fail_at == Some(number) {
                    Err(Failure::terminal("told to fail"))
                } else {
                    Ok(filler.as_str().to_owned())
                }
            }
        })
        .await?;
    }
    Ok(ask.steps)
}

async fn nap(ctx: Ctx, ask: Nap) -> Result<(), Failure> {
    ctx.sleep(Duration::from_millis(ask.ms)).await
}

/// Times from one step's body to the next one's within a run.
#[derive(Debug)]
pub(crate) struct Pulse {
    begin: Instant,
    samples: Mutex<Vec<u32>>,
    starts: Mutex<Vec<u32>>,
}

/// What the worker measured.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct StepTimes {
    /// Median.
    pub(crate) step_p50_us: Option<u64>,
    /// 99th percentile.
    pub(crate) step_p99_us: Option<u64>,
    /// Arrivals that began.
    pub(crate) begun: u64,
    /// From when a run was to be started to the beginning of its function, median.
    pub(crate) start_p50_us: Option<u64>,
    /// The same, 99th percentile.
    pub(crate) start_p99_us: Option<u64>,
}

impl Pulse {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { begin: clock::now(), samples: Mutex::default(), starts: Mutex::default() })
    }

    /// A step's body starts; `last` is the run's own.
    fn beat(&self, last: &AtomicU64) {
        let now = clock::now().duration_since(self.begin).as_micros() as u64 + 1;
        let before = last.swap(now, Ordering::Relaxed);
        if before > 0 {
            let sample = u32::try_from(now - before).unwrap_or(u32::MAX);
            locked(&self.samples).push(sample);
        }
    }

    /// An arrival's function begins.
    fn begins(&self, ask: Arrival) {
        let waited = clock::wall_us().saturating_sub(ask.at_us);
        locked(&self.starts).push(u32::try_from(waited).unwrap_or(u32::MAX));
    }

    /// What was measured since the last call.
    pub(crate) fn take(&self) -> StepTimes {
        let mut samples = std::mem::take(&mut *locked(&self.samples));
        let mut starts = std::mem::take(&mut *locked(&self.starts));
        StepTimes {
            step_p50_us: percentile(&mut samples, 50),
            step_p99_us: percentile(&mut samples, 99),
            begun: starts.len() as u64,
            start_p50_us: percentile(&mut starts, 50),
            start_p99_us: percentile(&mut starts, 99),
        }
    }
}

fn locked(samples: &Mutex<Vec<u32>>) -> MutexGuard<'_, Vec<u32>> {
    samples.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A worker that runs what is measured.
pub(crate) fn equipped(worker: Worker, slots: u32, pulse: &Arc<Pulse>) -> Worker {
    let (pulse, arrivals) = (pulse.clone(), pulse.clone());
    worker
        .build("bench")
        .register(SEQUENCE, move |ctx, ask| sequence(pulse.clone(), ctx, ask))
        .register(NAP, nap)
        .register(ARRIVAL, move |ctx, ask| arrival(arrivals.clone(), ctx, ask))
        .register(EXPORT, export)
        .queue("default", slots)
        .queue(EXPORT.queue_name(), EXPORTS_AT_ONCE)
}

/// `stepwell bench-worker`: the worker of a measurement, or engine and worker in one process.
#[derive(Debug, Args)]
pub(crate) struct BenchWorker {
    /// The server's address
    #[arg(long, value_name = "ADDR", required_unless_present = "data")]
    server: Option<String>,
    /// Open the engine here instead
    #[arg(long, value_name = "DIR", conflicts_with = "server")]
    data: Option<PathBuf>,
    /// Runs at a time
    #[arg(long, value_name = "N", default_value_t = 512)]
    slots: u32,
}

/// What the worker says once it works.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Working {
    /// The process.
    pub(crate) pid: u32,
}

impl BenchWorker {
    /// Works until the parent is gone; answers each line with what was measured since the one
    /// before.
    pub(crate) async fn execute(self) -> Result<Answer, CommandError> {
        let pulse = Pulse::new();
        let (worker, engine) = match (&self.server, &self.data) {
            (_, Some(dir)) => {
                let engine = Engine::open(dir).await.map_err(|e| opened(&e))?;
                (engine.worker(), Some(engine))
            }
            (Some(server), None) => (Worker::connect(server), None),
            (None, None) => return Err(CommandError::bad_input("--server or --data is missing")),
        };
        let worker = equipped(worker, self.slots, &pulse)
            .start()
            .map_err(|e| CommandError::fault("the worker does not start").caused_by(&e))?;
        let connected = worker.connected().await;
        connected.map_err(|e| {
            CommandError::not_reachable("the engine does not take the worker").caused_by(&e)
        })?;
        say(&Working { pid: std::process::id() })?;
        let mut lines = process::hearing();
        while process::heard(&mut lines).await.is_some() {
            say(&pulse.take())?;
        }
        worker.drain().await;
        if let Some(engine) = engine {
            engine.close().await;
        }
        Ok(Answer::Yes)
    }
}

/// One line of JSON to the parent.
pub(crate) fn say<T: Serialize>(what: &T) -> Result<(), CommandError> {
    let line = serde_json::to_string(what)
        .map_err(|e| CommandError::fault("what is to be said is not JSON").caused_by(&e))?;
    terminal::to_stdout(format!("{line}\n").as_bytes())
}
