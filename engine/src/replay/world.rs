//! What all turns of one worker share: time, the gate before bodies, payload limits, counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::canary::canary;
use crate::model::failure::Failure;
use crate::model::limits::Limits;
use crate::model::payload::Payload;
use crate::model::time::Time;
use crate::replay::isolated_step::{IsolatedRunner, IsolatedStep};
use crate::runtime::env::Clock;
use crate::workflow::Ctx;

/// The future of a workflow function, its output encoded.
pub(crate) type Running = BoxFuture<'static, Result<Payload, Failure>>;

/// Decodes the input and calls the function. Runs the author's code.
pub(crate) type Begin = dyn Fn(Ctx, &Payload) -> Result<Running, Failure> + Send + Sync;

/// A workflow's code.
#[derive(Clone)]
pub(crate) struct Code {
    /// Its version.
    pub(crate) version: u32,
    /// How long the function may go without its context.
    pub(crate) timeout: Duration,
    /// The function.
    pub(crate) begin: Arc<Begin>,
}

/// Workflows by name.
pub(crate) type Registry = BTreeMap<String, Code>;

/// See the module.
pub(crate) struct World {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) registry: Registry,
    pub(crate) gate: Gate,
    pub(crate) engine_time: EngineTime,
    pub(crate) counts: Counts,
    /// The runner of isolated steps, where processes can be started. None: in place.
    pub(crate) isolated_runner: Option<Arc<dyn IsolatedRunner>>,
    /// The one step that this process is for, if it is an isolated step's.
    pub(crate) isolated_step: OnceLock<IsolatedStep>,
    payload_bytes_max: AtomicUsize,
}

impl World {
    pub(crate) fn new(clock: Arc<dyn Clock>, registry: Registry) -> Self {
        Self {
            clock,
            registry,
            gate: Gate::default(),
            engine_time: EngineTime::default(),
            counts: Counts::default(),
            isolated_runner: None,
            isolated_step: OnceLock::new(),
            payload_bytes_max: AtomicUsize::new(Limits::default().payload_bytes_max),
        }
    }

    /// The same, with a runner for isolated steps.
    pub(crate) fn with_isolated_runner(
        self,
        isolated_runner: Option<Arc<dyn IsolatedRunner>>,
    ) -> Self {
        Self { isolated_runner, ..self }
    }

    /// The largest payload, as the engine said in its welcome.
    pub(crate) fn payload_bytes_max(&self) -> usize {
        self.payload_bytes_max.load(Ordering::Relaxed)
    }

    pub(crate) fn set_payload_bytes_max(&self, bytes_max: u64) {
        self.payload_bytes_max
            .store(usize::try_from(bytes_max).unwrap_or(usize::MAX), Ordering::Relaxed);
    }

    /// Engine time now, or a little earlier; never later.
    pub(crate) fn engine_now(&self) -> Time {
        self.engine_time.at(self.clock.mono())
    }

    /// Whether a body may start now. If not, the gate's opening is told.
    pub(crate) fn may_start(&self) -> bool {
        self.gate.passes(&*self.clock)
    }
}

/// Bodies start only while it is open: for two thirds of the session timeout after the engine was
/// heard, and never again once the worker drains.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// Nanoseconds of monotonic time.
    open_until: AtomicU64,
    shut: AtomicBool,
    /// Somebody was not let through and must be told.
    waiting: AtomicBool,
}

impl Gate {
    /// Whether a body may start. If not, the next [`Self::open_until`] answers that somebody waits.
    pub(crate) fn passes(&self, clock: &dyn Clock) -> bool {
        if self.is_open(clock.mono()) {
            return true;
        }
        // It may be opened by another thread right now: either that one sees our flag, or we see
        // its instant.
        let waits = !canary!("the gate forgets who waits");
        self.waiting.store(waits, Ordering::SeqCst);
        self.is_open(clock.mono())
    }

    fn is_open(&self, mono: Duration) -> bool {
        let until = self.open_until.load(Ordering::SeqCst);
        !self.shut.load(Ordering::SeqCst) && mono.as_nanos() < u128::from(until)
    }

    /// Opens it until `mono`, and tells whether somebody has been waiting for that.
    pub(crate) fn open_until(&self, mono: Duration) -> bool {
        let until = u64::try_from(mono.as_nanos()).unwrap_or(u64::MAX);
        self.open_until.store(until, Ordering::SeqCst);
        self.waiting.swap(false, Ordering::SeqCst)
    }

    /// Closes it for good.
    pub(crate) fn shut(&self) {
        self.shut.store(true, Ordering::SeqCst);
    }
}

/// Estimates engine time from the last instant the engine told and the monotonic time that has
/// passed since it arrived. The way of the message makes it late, so the estimate is never ahead of
/// the engine.
#[derive(Debug, Default)]
pub(crate) struct EngineTime {
    /// Engine time less monotonic time, in milliseconds.
    ahead_ms: AtomicI64,
}

impl EngineTime {
    /// The engine said `at`, which arrived at `mono`.
    pub(crate) fn heard(&self, at: Time, mono: Duration) {
        let (at, mono) = (i128::from(at.0), mono.as_millis() as i128 + 1);
        self.ahead_ms.store(i64::try_from(at - mono).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn at(&self, mono: Duration) -> Time {
        let now = mono.as_millis() as i128 + i128::from(self.ahead_ms.load(Ordering::Relaxed));
        Time(u64::try_from(now).unwrap_or(0))
    }
}

/// What a worker has done since it started.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) turns: AtomicU64,
    pub(crate) bodies: AtomicU64,
    pub(crate) steps: AtomicU64,
    pub(crate) replayed: AtomicU64,
    pub(crate) mismatches: AtomicU64,
    pub(crate) suspended: AtomicU64,
    pub(crate) revoked: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) requeued: AtomicU64,
    /// Turns whose code ran on past its timeout because it blocks its thread.
    pub(crate) stuck: AtomicU64,
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_of_engine_time_is_never_ahead() {
        let time = EngineTime::default();
        time.heard(Time(1_000_000), Duration::from_micros(5_999));
        assert!(time.at(Duration::from_micros(5_999)) <= Time(1_000_000));
        assert!(time.at(Duration::from_micros(1_005_999)) <= Time(1_001_000));
        assert!(time.at(Duration::from_micros(1_008_000)) >= Time(1_001_000));
    }

    struct At(Duration);

    impl Clock for At {
        fn mono(&self) -> Duration {
            self.0
        }

        fn wall(&self) -> Time {
            Time(0)
        }

        fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
            Box::pin(std::future::pending())
        }
    }

    #[test]
    fn a_shut_gate_stays_shut() {
        let (gate, six) = (Gate::default(), Duration::from_secs(6));
        assert!(!gate.passes(&At(Duration::ZERO)));
        gate.open_until(six);
        assert!(gate.passes(&At(six - Duration::from_nanos(1))) && !gate.passes(&At(six)));
        gate.shut();
        gate.open_until(six * 10);
        assert!(!gate.passes(&At(Duration::ZERO)));
    }

    // Whoever was not let through is told, however short the gate was closed.
    #[test]
    fn a_gate_remembers_that_somebody_waits() {
        let (gate, at) = (Gate::default(), Duration::from_micros(5_999_900));
        assert!(!gate.open_until(at), "nobody has asked");
        assert!(!gate.passes(&At(at)));
        assert!(gate.open_until(at + Duration::from_micros(1)));
        assert!(!gate.open_until(at + Duration::from_secs(1)), "told once");
    }
}
