//! Engine time: the only clock a decision about a run is made by.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An instant of engine time: milliseconds since 1970-01-01T00:00:00Z.
///
/// Engine time follows the machine's monotonic clock, is slewed to its wall clock, and never goes
/// backwards, not even across restarts.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Time(pub u64);

/// A span in whole milliseconds; the longest there is, if it is longer.
pub(crate) fn as_ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl Time {
    /// The end of time, which is not reached.
    pub const NEVER: Self = Self(u64::MAX);

    /// The instant `span` later; the end of time at most.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(as_ms(span)))
    }

    /// How long ago `earlier` was; zero if it is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The day this instant falls on, counted from 1970-01-01 in UTC.
    #[must_use]
    pub fn day(self) -> u32 {
        u32::try_from(self.0 / 86_400_000).unwrap_or(u32::MAX)
    }
}

impl std::fmt::Display for Time {
    /// RFC 3339 in UTC, with milliseconds (proleptic Gregorian; the civil-from-days algorithm of
    /// Howard Hinnant).
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (days, ms) = ((self.0 / 86_400_000) as i64, self.0 % 86_400_000);
        let z = days + 719_468;
        let era = z.div_euclid(146_097);
        let doe = z.rem_euclid(146_097);
        let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let day = doy - (153 * mp + 2) / 5 + 1;
        let month = if mp < 10 { mp + 3 } else { mp - 9 };
        let year = yoe + era * 400 + i64::from(month <= 2);
        let (s, ms) = (ms / 1_000, ms % 1_000);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{ms:03}Z",
            s / 3_600,
            s / 60 % 60,
            s % 60
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_rfc_3339() {
        assert_eq!(Time(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Time(1_709_210_096_789).to_string(), "2024-02-29T12:34:56.789Z");
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Time(5).after(Duration::MAX), Time(u64::MAX));
        assert_eq!(Time(5).since(Time(9)), Duration::ZERO);
    }
}
