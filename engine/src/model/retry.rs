//! When to try again.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use super::failure::Failure;
use super::id::{CommandIndex, RunId};
use super::time::{Time, as_ms};

/// A step's retry policy: exponential backoff with jitter.
///
/// The default waits 2, 4, 8, 16 and 32 s between six attempts, each wait up to 20 % shorter or
/// longer; before that, none is longer than 5 min. **Determinism**: the jitter is drawn from (run,
/// step, attempt), so that a policy gives the same times in every replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct Retry {
    /// The wait before the first retry, in milliseconds. Default 2,000.
    pub backoff_min_ms: u64,
    /// The longest wait, in milliseconds. Default 300,000.
    pub backoff_max_ms: u64,
    /// Each wait is the one before times this, in percent. Default 200.
    pub factor_percent: u32,
    /// How much shorter or longer a wait may be, in percent. Default 20.
    pub jitter_percent: u32,
    /// Retries after the first attempt. Default 5.
    pub retries: u32,
    /// No retry later than this after the first attempt, in milliseconds. Default 24 h.
    pub give_up_after_ms: u64,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            backoff_min_ms: 2_000,
            backoff_max_ms: 300_000,
            factor_percent: 200,
            jitter_percent: 20,
            retries: 5,
            give_up_after_ms: 86_400_000,
        }
    }
}

impl Retry {
    /// No retry: the first failure is final.
    pub fn never() -> Self {
        Self { retries: 0, ..Self::default() }
    }

    /// Waits `first`, twice that, four times that, …; 5 retries.
    pub fn exponential(first: Duration) -> Self {
        Self { backoff_min_ms: as_ms(first), ..Self::default() }
    }

    /// Waits `every` each time; 5 retries.
    pub fn fixed(every: Duration) -> Self {
        Self { backoff_min_ms: as_ms(every), factor_percent: 100, ..Self::default() }
    }

    /// Sets the number of retries after the first attempt.
    #[must_use]
    pub fn retries(self, retries: u32) -> Self {
        Self { retries, ..self }
    }

    /// Sets the longest wait, before its jitter.
    #[must_use]
    pub fn cap(self, backoff_max: Duration) -> Self {
        Self { backoff_max_ms: as_ms(backoff_max), ..self }
    }

    /// Sets how much shorter or longer a wait may be; 100 at most.
    #[must_use]
    pub fn jitter(self, percent: u32) -> Self {
        Self { jitter_percent: percent.min(100), ..self }
    }

    /// Sets the time after the first attempt from which on no retry is made.
    #[must_use]
    pub fn give_up_after(self, span: Duration) -> Self {
        Self { give_up_after_ms: as_ms(span), ..self }
    }

    /// The wait after attempt number `attempt` (the first is 1) has failed, without jitter.
    pub fn backoff(&self, attempt: u32) -> Duration {
        let mut wait = u128::from(self.backoff_min_ms);
        for _ in 1..attempt {
            if wait >= u128::from(self.backoff_max_ms) || self.factor_percent <= 100 {
                break;
            }
            wait = wait * u128::from(self.factor_percent) / 100;
        }
        Duration::from_millis(wait.min(u128::from(self.backoff_max_ms)) as u64)
    }

    /// The same wait with its jitter for this run and step.
    pub fn backoff_jittered(&self, run: RunId, step: CommandIndex, attempt: u32) -> Duration {
        let wait = self.backoff(attempt).as_millis() as u64;
        let percent = u64::from(self.jitter_percent.min(100));
        let mut seed = [0u8; 24];
        seed[..16].copy_from_slice(&run.0.to_be_bytes());
        seed[16..20].copy_from_slice(&step.0.to_be_bytes());
        seed[20..].copy_from_slice(&attempt.to_be_bytes());
        let drawn = u128::from(XxHash3_64::oneshot(&seed));
        let span = u128::from(wait) * u128::from(percent) * 2 / 100;
        let low = u128::from(wait) - span / 2;
        let jittered = low + ((drawn * (span + 1)) >> 64);
        Duration::from_millis(u64::try_from(jittered).unwrap_or(u64::MAX))
    }

    /// When to try again after `failure`, or `None` if it is final.
    ///
    /// `counted` is how many attempts used up a retry or the first try, this one included if it
    /// does (see [`Failure::retry_after`]); `attempt` is the number of this attempt; `first_at` is
    /// when the first one failed.
    pub fn next(
        &self,
        failure: &Failure,
        (run, step): (RunId, CommandIndex),
        (attempt, counted): (u32, u32),
        (now, first_at): (Time, Time),
    ) -> Option<Time> {
        if !failure.is_retryable() {
            return None;
        }
        let wait = match failure.retry_after_ms {
            Some(after) => Duration::from_millis(after),
            None if counted > self.retries => return None,
            None => self.backoff_jittered(run, step, attempt.min(counted.max(1))),
        };
        let at = now.after(wait);
        (at.since(first_at) <= Duration::from_millis(self.give_up_after_ms)).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_waits_are_the_documented_list() {
        let waits: Vec<u64> = (1..=5).map(|a| Retry::default().backoff(a).as_secs()).collect();
        assert_eq!(waits, [2, 4, 8, 16, 32]);
        assert_eq!(Retry::default().retries(20).backoff(15), Duration::from_secs(300));
    }

    #[test]
    fn jitter_stays_within_its_bounds_and_repeats() {
        let retry = Retry::default();
        for step in 0..500 {
            let wait = retry.backoff_jittered(RunId(7), CommandIndex(step), 1);
            assert!((1_600..=2_400).contains(&(wait.as_millis() as u64)), "{wait:?}");
            assert_eq!(wait, retry.backoff_jittered(RunId(7), CommandIndex(step), 1));
        }
    }

    #[test]
    fn retry_after_uses_up_no_retry_but_is_bounded() {
        let retry = Retry::default();
        let limited = Failure::retry_after(Duration::from_secs(30), "slow down");
        let at =
            retry.next(&limited, (RunId(1), CommandIndex(0)), (9, 0), (Time(1_000), Time(1_000)));
        assert_eq!(at, Some(Time(31_000)));
        let late = Time(1_000 + 86_400_000);
        assert_eq!(
            retry.next(&limited, (RunId(1), CommandIndex(0)), (9, 0), (late, Time(1_000))),
            None
        );
    }

    #[test]
    fn terminal_failures_are_final() {
        let next = Retry::default().next(
            &Failure::terminal("no"),
            (RunId(1), CommandIndex(0)),
            (1, 1),
            (Time(0), Time(0)),
        );
        assert_eq!(next, None);
    }

    #[test]
    fn five_retries_make_six_attempts() {
        let retry = Retry::default();
        let failed = Failure::retryable("no");
        let attempts = (1..=10).take_while(|&a| {
            retry.next(&failed, (RunId(1), CommandIndex(0)), (a, a), (Time(0), Time(0))).is_some()
        });
        assert_eq!(attempts.count(), 5);
    }
}
