//! The machine's monotonic clock. The command line is an edge: what it measures decides nothing
//! about a run.

use std::time::{Duration, Instant};

/// Now, on the monotonic clock.
#[expect(
    clippy::disallowed_methods,
    reason = "the edge: measurements and the pace of a demo, no decision about a run"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The wall clock in microseconds, which all processes of the machine read alike.
#[expect(
    clippy::disallowed_methods,
    reason = "the edge: what passes between two processes is measured, nothing is decided"
)]
pub(crate) fn wall_us() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// Microseconds since `then`, at most what fits.
pub(crate) fn micros_since(then: Instant) -> u32 {
    u32::try_from(now().duration_since(then).as_micros()).unwrap_or(u32::MAX)
}

/// A span for people: `850 ms`, `12.3 s`, `2 min 5 s`.
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 => format!("{} ms", span.as_millis()),
        1..120 => format!("{:.1} s", span.as_secs_f64()),
        120..7_200 => format!("{} min {} s", seconds / 60, seconds % 60),
        7_200..172_800 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// `2024-02-29T12:34:56.789Z` as `2024-02-29 12:34:56Z`.
pub(crate) fn seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((whole, _)) => format!("{}Z", whole.replace('T', " ")),
        None => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_well() {
        assert_eq!(span(Duration::from_millis(850)), "850 ms");
        assert_eq!(span(Duration::from_millis(12_340)), "12.3 s");
        assert_eq!(span(Duration::from_secs(125)), "2 min 5 s");
        assert_eq!(span(Duration::from_secs(90_000)), "25 h 0 min");
        assert_eq!(span(Duration::from_secs(700_000)), "8 d 2 h");
    }
}
