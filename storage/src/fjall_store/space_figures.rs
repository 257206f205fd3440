//! Figures that are dear to find out.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How old a figure may be.
const GLANCE: Duration = Duration::from_secs(1);

/// A figure that takes thousands of system calls to find out, looked up once a second at most.
#[derive(Default)]
pub(super) struct SpaceFigures(Mutex<Option<(Instant, u64)>>);

impl SpaceFigures {
    #[expect(clippy::disallowed_methods, reason = "a figure for people; nothing is decided by it")]
    pub(super) fn get(&self, look: impl FnOnce() -> u64) -> u64 {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match *last {
            Some((at, found)) if now.duration_since(at) < GLANCE => found,
            _ => {
                let found = look();
                *last = Some((now, found));
                found
            }
        }
    }
}
