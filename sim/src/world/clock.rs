//! A host's clocks: tokio's simulated time at the host's own rate, and a wall clock that may be
//! off, drift and jump.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use stepwell::core::clock::{ClockSample, EngineClock};
use stepwell::model::time::Time;
use stepwell::runtime::env::Clock;

use super::Host;
use crate::plan::ClockError;

const MILLION: i128 = 1_000_000;

/// Monotonic time starts at zero in each life.
pub(super) struct HostClock(pub(super) Arc<Host>);

impl Clock for HostClock {
    fn mono(&self) -> Duration {
        scaled(self.0.born.elapsed(), self.0.clock.mono_ppm)
    }

    fn wall(&self) -> Time {
        let host = &self.0;
        let wall = host.world.clocks().wall(&host.name, &host.world, host.now_ms());
        if host.name == "server" {
            let sample = ClockSample { mono: self.mono(), wall };
            host.world.server_reads(sample);
        }
        wall
    }

    fn sleep(&self, span: Duration) -> BoxFuture<'static, ()> {
        let real = unscaled(span, self.0.clock.mono_ppm);
        let host = self.0.clone();
        Box::pin(async move { host.rest(real).await })
    }
}

/// What a clock shows that is off by this much, after a span.
fn scaled(span: Duration, ppm: i64) -> Duration {
    if ppm == 0 {
        return span;
    }
    let nanos = span.as_nanos() as i128;
    Duration::from_nanos((nanos + nanos * i128::from(ppm) / MILLION) as u64)
}

/// After how long such a clock has moved on by a span; a little more rather than less.
fn unscaled(span: Duration, ppm: i64) -> Duration {
    if ppm == 0 {
        return span;
    }
    let nanos = span.as_nanos() as i128;
    let real = nanos * MILLION / (MILLION + i128::from(ppm)) + 2;
    Duration::from_nanos(u64::try_from(real).unwrap_or(u64::MAX))
}

/// All wall clocks, and engine time as it follows from what the server's clocks have shown.
#[derive(Debug, Default)]
pub(crate) struct Clocks {
    /// By how much all were put forward together.
    skipped_ms: u64,
    jumped_ms: BTreeMap<String, i64>,
    engine: Option<Shown>,
    /// The operator opens the next engine with a clock that is behind.
    consents: bool,
}

#[derive(Debug)]
struct Shown {
    clock: EngineClock,
    /// Engine time cannot be later than this.
    latest_micros: u128,
    sample: ClockSample,
    /// What had been skipped when the clock was read last.
    skipped_ms: u64,
}

/// What the server knows of the time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServerTime {
    /// Engine time, as it should be.
    pub(crate) engine: Time,
    /// The server's wall clock, when it was read last.
    pub(crate) wall: Time,
}

impl Clocks {
    /// What the wall clock of a host shows.
    pub(crate) fn wall(&self, host: &str, world: &super::World, now_ms: u64) -> Time {
        let settings = &world.plan.settings;
        let error = settings.clocks.get(host).copied().unwrap_or_default();
        let passed = i128::from(now_ms);
        let wall = i128::from(settings.epoch_ms)
            + i128::from(self.skipped_ms)
            + i128::from(error.offset_ms)
            + i128::from(self.jumped_ms.get(host).copied().unwrap_or(0))
            + passed
            + passed * i128::from(error.wall_ppm) / MILLION;
        Time(u64::try_from(wall).unwrap_or(0))
    }

    /// One wall clock jumps.
    pub(crate) fn jump(&mut self, host: &str, by_ms: i64) {
        *self.jumped_ms.entry(host.to_owned()).or_default() += by_ms;
    }

    /// Whether some wall clock has jumped.
    fn has_jumped(&self) -> bool {
        !self.jumped_ms.is_empty()
    }

    /// All wall clocks are put forward.
    pub(crate) fn skip(&mut self, by_ms: u64) {
        self.skipped_ms += by_ms;
    }

    pub(crate) fn skipped_ms(&self) -> u64 {
        self.skipped_ms
    }

    /// The server's process begins anew.
    pub(super) fn server_begins(&mut self) {
        self.engine = None;
    }

    /// The operator will open the engine although the clock is behind.
    pub(crate) fn consent(&mut self) {
        self.consents = true;
    }

    /// Whether the operator does, this once.
    pub(crate) fn consents(&self) -> bool {
        self.consents
    }

    pub(crate) fn withdraw_consent(&mut self) {
        self.consents = false;
    }

    fn read(&mut self, sample: ClockSample, mark: Time) {
        let (consents, skipped_ms) = (self.consents, self.skipped_ms);
        let wall_micros = u128::from(sample.wall.0) * 1_000;
        match &mut self.engine {
            Some(shown) => {
                shown.clock.advance(sample);
                let passed = sample.mono.saturating_sub(shown.sample.mono).as_micros() + 1;
                // Somewhat more than has passed, since a reading is rounded.
                shown.latest_micros = wall_micros.max(shown.latest_micros + passed);
                shown.sample = sample;
                shown.skipped_ms = skipped_ms;
            }
            None => {
                self.engine = Some(Shown {
                    clock: EngineClock::open(sample, mark, consents),
                    latest_micros: wall_micros.max(u128::from(mark.0) * 1_000),
                    sample,
                    skipped_ms,
                });
            }
        }
    }

    /// What the server knows of the time, if it has looked since the last skip.
    pub(crate) fn server(&self) -> Option<ServerTime> {
        let shown = self.engine.as_ref()?;
        (shown.skipped_ms == self.skipped_ms)
            .then(|| ServerTime { engine: shown.clock.now(), wall: shown.sample.wall })
    }

    /// Engine time when the running server looked last.
    pub(crate) fn engine(&self) -> Option<Time> {
        self.engine.as_ref().map(|shown| shown.clock.now())
    }

    /// Engine time cannot be later than this, by all that the clocks have shown.
    pub(crate) fn engine_latest(&self) -> Option<Time> {
        let shown = self.engine.as_ref()?;
        Some(Time(u64::try_from(shown.latest_micros / 1_000).unwrap_or(u64::MAX)))
    }
}

impl super::World {
    /// The server has looked at its clocks.
    fn server_reads(&self, sample: ClockSample) {
        let mark = match &self.checkers().durable.mark {
            Some(mark) => mark.time,
            None => Time(0),
        };
        self.clocks().read(sample, mark);
    }
}

impl super::World {
    /// Whether all clocks have been right so far.
    pub(crate) fn has_right_clocks(&self) -> bool {
        self.plan.settings.clocks.is_empty() && !self.clocks().has_jumped()
    }
}

/// The errors of a host's clocks.
pub(super) fn error_of(world: &super::World, host: &str) -> ClockError {
    let clocks = &world.plan.settings.clocks;
    clocks.get(host).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever sleeps for a span and looks at the clock again must find that the span has passed.
    #[test]
    fn a_sleep_is_as_long_as_the_clock_says() {
        for ppm in [-10_000, -200, 0, 1, 200, 10_000] {
            for begun in [0, 1, 999_983, 12_345_678_901] {
                for span in [0, 1, 7, 1_000_000, 300_000_000, 86_400_000_000_000] {
                    let (begun, span) = (Duration::from_nanos(begun), Duration::from_nanos(span));
                    let ended = begun + unscaled(span, ppm);
                    let shown = scaled(ended, ppm) - scaled(begun, ppm);
                    assert!(shown >= span, "{ppm} ppm: {shown:?} instead of {span:?}");
                    assert!(shown <= span + Duration::from_nanos(5), "{ppm}: {shown:?}");
                }
            }
        }
    }
}
