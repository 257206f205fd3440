//! What the session may know of the bodies of a turn while they run, without waiting for them: a body that blocks its
//! thread cannot tell anything itself.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::command::at;
use crate::model::entry::Place;
use crate::model::retry::Retry;

/// A body that should have ended so long ago, while its turn is still being polled, blocks its thread.
pub(crate) const STUCK_AFTER: Duration = Duration::from_secs(5);
/// A poll that has lasted so long is one that does not come back.
const LONG_POLL: Duration = Duration::from_secs(1);

/// One attempt that runs in place.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    pub(crate) name: Cow<'static, str>,
    pub(crate) location: &'static Location<'static>,
    pub(crate) version: u32,
    pub(crate) attempt: u32,
    pub(crate) retry: Retry,
    /// How long it may take.
    pub(crate) hard: Duration,
    /// When it should have ended, in monotonic time.
    pub(crate) hard_at: Duration,
}

impl Body {
    pub(crate) fn place(&self) -> Place {
        Place {
            name: self.name.to_string(),
            at: at(self.location),
            version: self.version,
        }
    }
}

/// See the module. One for each turn.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Since when the turn is being polled, in nanoseconds of monotonic time and one; 0 if it is not.
    polled_since: AtomicU64,
    bodies: Mutex<BTreeMap<u32, Body>>,
}

impl Watch {
    fn bodies(&self) -> MutexGuard<'_, BTreeMap<u32, Body>> {
        // Nobody's code runs under the lock.
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn poll_begins(&self, now: Duration) {
        let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.polled_since
            .store(nanos.saturating_add(1), Ordering::Relaxed);
    }

    pub(crate) fn poll_ends(&self) {
        self.polled_since.store(0, Ordering::Relaxed);
    }

    pub(crate) fn begins(&self, number: u32, body: Body) {
        self.bodies().insert(number, body);
    }

    pub(crate) fn ends(&self, number: u32) {
        self.bodies().remove(&number);
    }

    /// When the first of the bodies has been past its limit for too long.
    pub(crate) fn overdue_at(&self) -> Option<Duration> {
        let first = self.bodies().values().map(|body| body.hard_at).min();
        first.map(|at| at.saturating_add(STUCK_AFTER))
    }

    /// The bodies that are overdue, by their numbers.
    pub(crate) fn overdue(&self, now: Duration) -> Vec<(u32, Body)> {
        let late = |body: &Body| body.hard_at.saturating_add(STUCK_AFTER) <= now;
        let bodies = self.bodies();
        let overdue = bodies.iter().filter(|(_, body)| late(body));
        overdue
            .map(|(number, body)| (*number, body.clone()))
            .collect()
    }

    /// Whether the turn is in a poll that does not come back.
    pub(crate) fn blocks(&self, now: Duration) -> bool {
        match self.polled_since.load(Ordering::Relaxed) {
            0 => false,
            since => Duration::from_nanos(since - 1) + LONG_POLL <= now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(hard_at: Duration) -> Body {
        Body {
            name: "spin".into(),
            location: Location::caller(),
            version: 1,
            attempt: 1,
            retry: Retry::default(),
            hard: Duration::from_secs(1),
            hard_at,
        }
    }

    // A future that nobody polls is late, too, and blocks nothing.
    #[test]
    fn only_a_poll_that_lasts_blocks_a_thread() {
        let (watch, at) = (Watch::default(), Duration::from_secs);
        watch.begins(3, body(at(10)));
        assert_eq!(watch.overdue_at(), Some(at(15)));
        assert!(watch.overdue(at(14)).is_empty());
        assert_eq!(watch.overdue(at(15)).len(), 1);
        assert!(!watch.blocks(at(15)));
        watch.poll_begins(at(9));
        assert!(watch.blocks(at(15)));
        watch.poll_ends();
        assert!(!watch.blocks(at(16)));
        watch.ends(3);
        assert_eq!(watch.overdue_at(), None);
    }
}
