//! **A journal replays to the same result, and a replay does nothing.**
//!
//! Source: the design's rule of replay: the same code on the same journal gives the same commands,
//! resolved in the same order. Each journal, without its last entry, is handed to a real worker,
//! whose outside world is closed.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use stepwell::Worker;
use stepwell::model::entry::Entry;
use stepwell::model::id::{LeaseNo, RunNo, SessionId, Token};
use stepwell::model::time::Time;
use stepwell::runtime::env::{Clock, Entropy, Env, Exec, Listener, Net, Stream};
use stepwell::runtime::link::{Dial, Link};
use stepwell::wire::handshake::Protocols;
use stepwell::wire::message::{Dispatch, Message, Registered, TurnEnded, Welcome};

use super::Findings;
use crate::durable::{Durable, DurableRun};
use crate::outside::Outside;
use crate::program::Program;

const NAME: &str = "a journal replays to the same result";
/// No answer within this (simulated) time is none.
const PATIENCE: Duration = Duration::from_secs(10);
const HOUR_MS: u64 = 3_600_000;

pub(super) fn at_the_end(durable: &Durable, program: &Program, findings: &mut Findings<'_>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    match runtime {
        Ok(runtime) => runtime.block_on(replay_all(durable, program, findings)),
        Err(error) => findings.report(NAME, format!("no runtime: {error}")),
    }
}

/// A run may have been carried by several versions of the code: one that replays all of it is
/// enough.
async fn replay_all(durable: &Durable, program: &Program, findings: &mut Findings<'_>) {
    let mut left: Vec<(RunNo, &DurableRun)> = durable
        .runs
        .iter()
        .filter(|(_, run)| is_replayed(run))
        .map(|(no, run)| (*no, run))
        .collect();
    for version in (0..=program.newest()).rev() {
        let problems = replay_with(&left, program, version).await;
        left.retain(|(no, _)| problems.iter().any(|(of, _)| of == no));
        if version == 0 {
            for (no, problem) in problems {
                let name = durable.runs.get(&no).map(DurableRun::name);
                findings.report(NAME, format!("{}: {problem}", name.unwrap_or_default()));
            }
        }
    }
}

/// What goes wrong when these runs are replayed with a version of the code.
async fn replay_with(
    runs: &[(RunNo, &DurableRun)],
    program: &Program,
    version: usize,
) -> Vec<(RunNo, String)> {
    let (mut engine, link) = Link::pair();
    let dial = Arc::new(OneLink(Mutex::new(Some(link))));
    let bodies = Arc::new(AtomicU64::new(0));
    let env = Env {
        clock: Arc::new(Still(tokio::time::Instant::now())),
        entropy: Arc::new(Counter::default()),
        net: Arc::new(NoNet),
        exec: Arc::new(ReplayTasks),
        protocols: Protocols::OWN,
    };
    let outside = Outside::closed(bodies.clone());
    let worker = program.worker(Worker::new(dial, env), outside, version, 1_000);
    let Ok(_worker) = worker.build("replay").start() else {
        let told = |(no, _): &(RunNo, &DurableRun)| (*no, "the worker does not start".to_owned());
        return runs.iter().map(told).collect();
    };
    let _ = engine.receiver.recv().await; // its hello
    let _ = engine.sender.send(Welcome {
        protocol: Protocols::OWN.max,
        session: SessionId(1),
        store: 1,
        epoch: 1,
        heartbeat_ms: HOUR_MS,
        session_timeout_ms: 3 * HOUR_MS,
        payload_bytes_max: 1 << 20,
        now: Time(0),
    });
    let _ = engine.receiver.recv().await; // what it can run
    let _ = engine.sender.send(Registered {});
    let mut problems = Vec::new();
    for (no, run) in runs {
        let problem = replay(&mut engine, *no, run).await.err();
        let started = bodies.swap(0, Ordering::Relaxed);
        if let Some(problem) =
            problem.or_else(|| (started > 0).then(|| format!("{started} bodies of steps began")))
        {
            problems.push((*no, problem));
        }
    }
    problems
}

/// Whether the function itself ended the run.
fn is_replayed(run: &DurableRun) -> bool {
    match run.end().map(|(_, end)| end) {
        Some(Entry::Completed(_)) => true,
        Some(Entry::Died(died)) => !super::proof::is_by_engine(died),
        // One that was never dispatched is cancelled without its function.
        Some(Entry::Cancelled(_)) => !run.was_cancelled_in_line(),
        _ => false,
    }
}

async fn replay(engine: &mut Link, no: RunNo, run: &DurableRun) -> Result<(), String> {
    let end = run.end().map(|(at, end)| (end, &run.stored[..at]));
    let (Some(started), Some((end, stored))) = (run.started(), end) else {
        return Err("an empty journal".to_owned());
    };
    let token = Token { store: 1, epoch: 1, lease: LeaseNo(no.0) };
    let count = stored.len() as u32;
    let _ = engine.sender.send(Dispatch {
        run: no,
        token,
        id: started.id,
        count,
        entries: stored.to_vec(),
        now: Time(0),
    });
    let said = tokio::time::timeout(PATIENCE, async {
        loop {
            match engine.receiver.recv().await {
                Some(Message::Heartbeat(_) | Message::Offer(_)) => {}
                said => return said,
            }
        }
    });
    let said = said.await.map_err(|_| "the function does not go on".to_owned())?;
    let _ = engine.sender.send(TurnEnded { run: no, token });
    match (said, end) {
        (Some(Message::TurnCompleted(said)), Entry::Completed(end))
            if said.output == end.output =>
        {
            Ok(())
        }
        (Some(Message::TurnFailed(said)), Entry::Died(end)) if said.failure == end.failure => {
            Ok(())
        }
        (Some(Message::TurnFailed(said)), Entry::Cancelled(_)) if said.failure.is_cancelled() => {
            Ok(())
        }
        (said, end) => Err(format!("its journal ends with {end:?}, its replay with {said:?}")),
    }
}

struct OneLink(Mutex<Option<Link>>);

impl Dial for OneLink {
    fn dial(&self) -> BoxFuture<'static, io::Result<Link>> {
        let link = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        Box::pin(async move { link.ok_or_else(|| io::ErrorKind::ConnectionRefused.into()) })
    }

    fn address(&self) -> String {
        "a replay".to_owned()
    }
}

struct Still(tokio::time::Instant);

impl Clock for Still {
    fn mono(&self) -> Duration {
        self.0.elapsed()
    }

    fn wall(&self) -> Time {
        Time(0)
    }

    fn sleep(&self, span: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(span))
    }
}

#[derive(Default)]
struct Counter(AtomicU64);

impl Entropy for Counter {
    fn next_u64(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

struct NoNet;

impl Net for NoNet {
    fn connect(&self, _address: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }

    fn bind(&self, _address: &str) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}

struct ReplayTasks;

impl Exec for ReplayTasks {
    fn isolated(&self, _name: &str, future: BoxFuture<'static, ()>) -> io::Result<()> {
        tokio::spawn(future);
        Ok(())
    }
}
