//! Queues: what an operator sets, and what is told of them.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::limits::{QUEUE_BURST_MAX, QUEUE_RATE_PERIOD_MS_MAX};
use super::setters::setters;
use super::time::Time;

/// Every so many dispatches of a queue one goes to the run that has waited longest, unless the
/// queue says otherwise.
pub const OLDEST_EVERY_DEFAULT: u32 = 10;

/// A limit on a queue's dispatches per period: a token bucket. In any span there are at most
/// `burst` dispatches and the rate's share of the span, in engine time, across restarts too.
///
/// ```
/// use stepwell::{RateLimit, secs};
///
/// let rate = RateLimit::new(100, secs(1)).burst(20);
/// assert_eq!(rate.to_string(), "100/s, burst 20");
/// ```
///
/// The engine refuses a limit that is out of range, as
/// [`BadRate`](super::request::BadRate): `count` and `burst` go from 1 to 1,000,000, the period
/// from 1 ms to one day. A `count` of 0 takes a limit away, see [`NONE`](Self::NONE).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RateLimit {
    /// Dispatches in each period.
    pub count: u32,
    /// The period, in milliseconds.
    pub per_ms: u64,
    /// Dispatches at once, after a quiet time.
    pub burst: u32,
}

impl RateLimit {
    /// No limit: takes away the one that a queue has.
    pub const NONE: Self = Self { count: 0, per_ms: 1, burst: 1 };

    /// A limit of `count` dispatches in each period of length `per`, of which all may go at once
    /// after a quiet time. `per` is rounded down to whole milliseconds.
    #[must_use]
    pub const fn new(count: u32, per: Duration) -> Self {
        let ms = per.as_millis();
        let per_ms = if ms > u64::MAX as u128 { u64::MAX } else { ms as u64 };
        Self { count, per_ms, burst: count }
    }

    /// Sets [`burst`](field@Self::burst). Default: as many dispatches as in a period.
    #[must_use]
    pub const fn burst(mut self, burst: u32) -> Self {
        self.burst = burst;
        self
    }

    #[cfg_attr(
        not(any(feature = "server", feature = "inspect")),
        expect(dead_code, reason = "the engine's, and a worker has none")
    )]
    /// What a full bucket holds, in units of which a dispatch takes `per_ms` and a millisecond
    /// brings `count`.
    pub(crate) fn full(&self) -> u64 {
        u64::from(self.burst) * self.per_ms
    }

    #[cfg_attr(
        not(any(feature = "server", feature = "inspect")),
        expect(dead_code, reason = "the engine's, and a worker has none")
    )]
    /// Whether all of it is in range: what is refused cannot overflow.
    pub(crate) fn is_in_range(&self) -> bool {
        (1..=QUEUE_BURST_MAX).contains(&self.count)
            && (1..=QUEUE_BURST_MAX).contains(&self.burst)
            && (1..=QUEUE_RATE_PERIOD_MS_MAX).contains(&self.per_ms)
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (per, unit) = match self.per_ms {
            ms if ms % 86_400_000 == 0 => (ms / 86_400_000, "d"),
            ms if ms % 3_600_000 == 0 => (ms / 3_600_000, "h"),
            ms if ms % 60_000 == 0 => (ms / 60_000, "m"),
            ms if ms % 1_000 == 0 => (ms / 1_000, "s"),
            ms => (ms, "ms"),
        };
        let per = if per == 1 { String::new() } else { per.to_string() };
        write!(f, "{}/{per}{unit}, burst {}", self.count, self.burst)
    }
}

/// What an operator has set on a queue. **Durability**: survives a kill and a power cut once it is
/// acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct QueueSettings {
    /// Nothing is dispatched. Running runs go on, and starts are taken.
    pub paused: bool,
    /// Runs running at once, over all workers. Runs that wait do not count.
    pub concurrency: Option<u32>,
    /// The limit on dispatches in a period.
    pub rate: Option<RateLimit>,
    /// One dispatch in so many goes to the run that has waited longest, whatever its priority; 0:
    /// none does. Default [`OLDEST_EVERY_DEFAULT`].
    pub oldest_every: Option<u32>,
}

impl QueueSettings {
    /// One dispatch in so many goes to the oldest; 0: none does.
    pub fn oldest_every(&self) -> u32 {
        self.oldest_every.unwrap_or(OLDEST_EVERY_DEFAULT)
    }
}

/// What to set on a queue. What is `None` stays.
///
/// ```
/// use stepwell::{QueueChange, RateLimit, secs};
///
/// let slower = QueueChange::default().concurrency(4).rate(RateLimit::new(100, secs(1)));
/// let unlimited = QueueChange::default().concurrency(0).rate(RateLimit::NONE);
/// # let _ = (slower, unlimited);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct QueueChange {
    /// Whether it is paused.
    pub paused: Option<bool>,
    /// Runs running at once; 0 takes the limit away. Lowering it ends nothing: it only admits no
    /// more.
    pub concurrency: Option<u32>,
    /// The limit on dispatches in a period; [`RateLimit::NONE`] takes the limit away.
    pub rate: Option<RateLimit>,
    /// One dispatch in so many goes to the oldest; 0: none does.
    pub oldest_every: Option<u32>,
    /// Whether a queue that nobody has named yet begins to exist; refused otherwise.
    pub create: bool,
}

impl QueueChange {
    setters! {
        /// `None`: it stays as it is.
        paused: Option<bool>,
        /// 0 takes the limit away; `None`: it stays as it is.
        concurrency: Option<u32>,
        /// [`RateLimit::NONE`] takes the limit away; `None`: it stays as it is.
        rate: Option<RateLimit>,
        /// 0: no dispatch goes to the oldest; `None`: it stays as it is.
        oldest_every: Option<u32>,
        /// Default: a queue that does not exist is refused.
        create: bool,
    }
}

impl fmt::Display for QueueChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.rate.map(|rate| match rate.count {
            0 => "no rate limit".to_owned(),
            _ => format!("rate {rate}"),
        });
        let concurrency = self.concurrency.map(|limit| match limit {
            0 => "no concurrency limit".to_owned(),
            _ => format!("concurrency {limit}"),
        });
        let paused = self.paused.map(|paused| if paused { "paused" } else { "resumed" }.to_owned());
        let oldest = self.oldest_every.map(|every| match every {
            0 => "no share of the oldest".to_owned(),
            _ => format!("share of the oldest 1 in {every}"),
        });
        let parts: Vec<String> =
            [paused, concurrency, rate, oldest].into_iter().flatten().collect();
        f.write_str(&parts.join(", "))
    }
}

/// A queue as listings tell it: its settings, and gauges that are exact at the commit they are told
/// with.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct QueueSummary {
    /// Its name.
    pub name: String,
    /// What is set.
    pub settings: QueueSettings,
    /// Runs that wait for a worker.
    pub queued: u64,
    /// Runs that workers hold, or that are kept for workers that may come back.
    pub running: u64,
    /// Delayed runs that are not due. They count neither as queued nor as old.
    pub delayed: u64,
    /// Runs that wait for a timer or a backoff.
    pub suspended: u64,
    /// Since when the queued run waits that waits longest. Of a run whose worker was lost: since it
    /// was queued before.
    pub oldest_since: Option<Time>,
    /// Workers connected now that offer slots to it.
    pub workers: u64,
    /// Slots they offer.
    pub slots: u64,
    /// Why its queued runs, or some of them, are not dispatched: paused, at a limit, nobody offers
    /// it.
    pub reasons: Vec<String>,
    /// Engine time.
    pub now: Time,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_reads_as_it_is_typed() {
        let rate = |count, per_ms, burst| RateLimit { count, per_ms, burst }.to_string();
        assert_eq!(rate(100, 1_000, 20), "100/s, burst 20");
        assert_eq!(rate(1, 90_000, 1), "1/90s, burst 1");
        assert_eq!(rate(5, 250, 5), "5/250ms, burst 5");
    }
}
