//! A closed loop: so many runs in flight, each ended one replaced by another.
//!
//! The generator shares the machine with what it measures. It uses one connection, and all runs
//! that have ended while it was busy are replaced by one call.

use std::time::{Duration, Instant};

use clap::Args;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::FuturesUnordered;
use serde::{Deserialize, Serialize};
use stepwell::model::request::Refusal;
use stepwell::{Client, Run};

use super::figures::percentile;
use super::workflow::{SEQUENCE, Sequence, say};
use crate::clock;
use crate::connection;
use crate::failure::{Answer, CommandError};

/// Not counted: until everything is in its stride.
const WARM_UP: Duration = Duration::from_secs(1);
/// After the window, this long for what is still in flight.
const DRAIN_WITHIN: Duration = Duration::from_secs(30);

/// What the loop does.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Load {
    /// Steps of a run
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) steps: u32,
    /// Runs at a time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) in_flight: u32,
    /// How long to measure, after a second of warming up
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seconds: u64,
    /// How many bytes a step returns
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    pub(crate) payload: usize,
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Runs that completed in the window.
    pub(crate) runs: u64,
    /// Starts refused, runs that did not complete.
    pub(crate) errors: u64,
    /// Length of the window.
    pub(crate) seconds: f64,
    /// Median.
    pub(crate) run_p50_us: Option<u64>,
    /// 99th percentile.
    pub(crate) run_p99_us: Option<u64>,
}

enum Event {
    Started { at: Instant, answers: Option<Vec<Result<Run<u32>, Refusal>>>, asked: usize },
    Ended { at: Instant, well: bool },
}

/// Runs the loop; calls `warm` when the window opens.
pub(crate) async fn drive(client: &Client, load: Load, warm: impl FnOnce()) -> Measured {
    let mut state = Loop {
        client,
        load,
        pending: FuturesUnordered::new(),
        open: false,
        measured: Measured::default(),
        samples: Vec::new(),
    };
    let begin = clock::now();
    state.start(load.in_flight as usize);
    state.run_until(begin + WARM_UP).await;
    warm();
    let begin = clock::now();
    state.open = true;
    state.run_until(begin + Duration::from_secs(load.seconds)).await;
    state.open = false;
    state.measured.seconds = clock::now().duration_since(begin).as_secs_f64();
    state.drain().await;
    let Loop { mut measured, mut samples, .. } = state;
    measured.run_p50_us = percentile(&mut samples, 50);
    measured.run_p99_us = percentile(&mut samples, 99);
    measured
}

struct Loop<'a> {
    client: &'a Client,
    load: Load,
    pending: FuturesUnordered<BoxFuture<'a, Event>>,
    open: bool,
    measured: Measured,
    samples: Vec<u32>,
}

impl Loop<'_> {
    /// One call that starts `count` runs.
    fn start(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        let ask = Sequence { steps: self.load.steps, payload: self.load.payload, fail_at: None };
        let client = self.client;
        self.pending.push(
            async move {
                let at = clock::now();
                let answers = client.start_many(SEQUENCE, vec![(None, ask); count]).await.ok();
                Event::Started { at, answers, asked: count }
            }
            .boxed(),
        );
    }

    async fn run_until(&mut self, end: Instant) {
        let timeout = tokio::time::sleep_until(end.into());
        tokio::pin!(timeout);
        loop {
            tokio::select! {
                biased;
                () = &mut timeout => return,
                Some(event) = self.pending.next() => {
                    let mut ended = self.take(event);
                    // All that is there by now, without waiting.
                    while let Some(Some(event)) = self.pending.next().now_or_never() {
                        ended += self.take(event);
                    }
                    self.start(ended);
                }
            }
        }
    }

    /// Takes one event; answers how many runs are to be replaced.
    fn take(&mut self, event: Event) -> usize {
        match event {
            Event::Ended { at, well } => {
                if self.open && well {
                    self.measured.runs += 1;
                    self.samples.push(clock::micros_since(at));
                }
                self.measured.errors += u64::from(!well);
                1
            }
            Event::Started { answers: None, asked, .. } => {
                self.measured.errors += asked as u64;
                asked
            }
            Event::Started { at, answers: Some(answers), .. } => {
                let mut refused = 0;
                for answer in answers {
                    match answer {
                        Ok(run) => self.pending.push(
                            async move { Event::Ended { at, well: run.outcome().await.is_ok() } }
                                .boxed(),
                        ),
                        Err(_) => refused += 1,
                    }
                }
                self.measured.errors += refused as u64;
                refused
            }
        }
    }

    /// Waits for what is in flight, without replacing it.
    async fn drain(&mut self) {
        let all = async {
            while let Some(event) = self.pending.next().await {
                self.take(event);
            }
        };
        if tokio::time::timeout(DRAIN_WITHIN, all).await.is_err() {
            self.measured.errors += self.pending.len() as u64;
        }
    }
}

/// `stepwell bench-client`: the client of a measurement.
#[derive(Debug, Args)]
pub(crate) struct BenchClient {
    /// The server's address
    #[arg(long, value_name = "ADDR")]
    server: String,
    #[command(flatten)]
    load: Load,
}

/// What the client says when the window opens.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Warm {
    /// It does.
    pub(crate) warm: bool,
}

impl BenchClient {
    /// Says when the window opens and what was measured when it has closed.
    pub(crate) async fn execute(self) -> Result<Answer, CommandError> {
        let client = connection::connect(&self.server).await?;
        let mut said = Ok(());
        let measured = drive(&client, self.load, || said = say(&Warm { warm: true })).await;
        said?;
        say(&measured)?;
        Ok(Answer::Yes)
    }
}
