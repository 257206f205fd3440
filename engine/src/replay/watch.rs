//! What the session may know of a turn while it is polled, without waiting for it: code that blocks
//! its thread cannot tell anything itself.
//!
//! ```text
//!   poll of the turn   ├──────────────────────────────────┤
//!   a body's code          ├────┤        ├─────┤
//!   the function's     ├───┤    ├────────┤     ├──────────┤   each stretch by itself
//! ```
//!
//! Bodies have timeouts of their own, from their beginnings on. The function has its timeout for
//! each stretch of a poll that is its own; if it waits for something foreign, for that and the
//! stretch that follows together. While it waits for what it has asked of its context it has none:
//! that is not its code's time.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::command::at;
use crate::model::entry::{FunctionEnd, SourceLocation};
use crate::model::retry::Retry;

/// A body that should have ended so long ago, while its turn is still being polled, blocks its
/// thread.
pub(crate) const STUCK_AFTER: Duration = Duration::from_secs(5);
/// A poll that has lasted so long is one that does not come back.
const LONG_POLL: Duration = Duration::from_secs(1);

/// Whose code a poll that does not come back is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blocker {
    /// The body of this command.
    RunningAttempt(u32),
    /// The workflow's function.
    Function,
}

/// One attempt that runs in place.
#[derive(Debug, Clone)]
pub(crate) struct RunningAttempt {
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

impl RunningAttempt {
    pub(crate) fn source_location(&self) -> SourceLocation {
        SourceLocation { name: self.name.to_string(), at: at(self.location), version: self.version }
    }
}

/// A number that may be missing: it and one, or 0.
#[derive(Debug, Default)]
struct Maybe(AtomicU64);

impl Maybe {
    fn set(&self, value: Option<u64>) {
        let stored = value.map_or(0, |value| value.saturating_add(1));
        self.0.store(stored, Ordering::Relaxed);
    }

    fn set_span(&self, span: Duration) {
        self.set(Some(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)));
    }

    fn get(&self) -> Option<u64> {
        self.0.load(Ordering::Relaxed).checked_sub(1)
    }

    fn span(&self) -> Option<Duration> {
        self.get().map(Duration::from_nanos)
    }
}

/// See the module. One for each turn. Instants are in monotonic time.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Since when the turn is being polled.
    polled_since: Maybe,
    /// Since when the function's own code has been running in this poll.
    function_since: Maybe,
    /// The command whose body's code runs.
    body: Maybe,
    /// Since when the function has been waiting for what it did not ask of its context.
    foreign_since: Maybe,
    /// How long the function may take.
    timeout: Maybe,
    /// The first failed step that the function has seen since it asked last.
    failed_at: Maybe,
    bodies: Mutex<BTreeMap<u32, RunningAttempt>>,
}

impl Watch {
    fn bodies(&self) -> MutexGuard<'_, BTreeMap<u32, RunningAttempt>> {
        // Nobody's code runs under the lock.
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn poll_begins(&self, now: Duration) {
        self.function_since.set_span(now);
        self.polled_since.set_span(now);
    }

    pub(crate) fn poll_ends(&self) {
        self.polled_since.set(None);
        self.function_since.set(None);
        self.body.set(None);
    }

    /// The code of a body has the thread.
    pub(crate) fn enters_body(&self, number: u32) {
        self.body.set(Some(u64::from(number)));
        self.function_since.set(None);
    }

    /// The function has it again.
    pub(crate) fn leaves_body(&self, now: Duration) {
        self.body.set(None);
        self.function_since.set_span(now);
    }

    /// How long the function may take.
    pub(crate) fn set_timeout(&self, timeout: Duration) {
        self.timeout.set_span(timeout);
    }

    /// The function waits for something foreign since then, or no more.
    pub(crate) fn waits_foreign(&self, since: Option<Duration>) {
        match since {
            Some(since) => self.foreign_since.set_span(since),
            None => self.foreign_since.set(None),
        }
    }

    /// The entry of the first failed step that the function has seen since it asked last.
    pub(crate) fn has_failed_at(&self, index: Option<u32>) {
        self.failed_at.set(index.map(u64::from));
    }

    /// The function asks for a command.
    pub(crate) fn asks(&self) {
        self.foreign_since.set(None);
        self.failed_at.set(None);
    }

    /// How the function has come to where it is.
    pub(crate) fn function_end(&self) -> FunctionEnd {
        let failed_at = self.failed_at.get();
        FunctionEnd {
            failed_at: failed_at.and_then(|index| u32::try_from(index).ok()),
            went_on: None,
        }
    }

    /// The function's timeout, if its own code has been running past that for too long.
    pub(crate) fn function_overdue(&self, now: Duration) -> Option<Duration> {
        let timeout = self.timeout.span()?;
        let mut since = self.function_since.span()?;
        if let Some(foreign_since) = self.foreign_since.span() {
            since = since.min(foreign_since);
        }
        let overdue_at = since.saturating_add(timeout).saturating_add(STUCK_AFTER);
        (self.blocks(now) && overdue_at <= now).then_some(timeout)
    }

    pub(crate) fn begins(&self, number: u32, body: RunningAttempt) {
        self.bodies().insert(number, body);
    }

    /// A body that has begun should have ended by then instead.
    pub(crate) fn limits(&self, number: u32, hard: Duration, hard_at: Duration) {
        if let Some(body) = self.bodies().get_mut(&number) {
            (body.hard, body.hard_at) = (hard, hard_at);
        }
    }

    pub(crate) fn ends(&self, number: u32) {
        self.bodies().remove(&number);
    }

    /// Whether a body or the function has been past its timeout for too long.
    pub(crate) fn is_overdue(&self, now: Duration) -> bool {
        let first = self.bodies().values().map(|body| body.hard_at).min();
        first.is_some_and(|at| at.saturating_add(STUCK_AFTER) <= now)
            || self.function_overdue(now).is_some()
    }

    /// The bodies that are overdue, by their numbers.
    pub(crate) fn overdue(&self, now: Duration) -> Vec<(u32, RunningAttempt)> {
        let late = |body: &RunningAttempt| body.hard_at.saturating_add(STUCK_AFTER) <= now;
        let bodies = self.bodies();
        let overdue = bodies.iter().filter(|(_, body)| late(body));
        overdue.map(|(number, body)| (*number, body.clone())).collect()
    }

    /// Whether the turn is in a poll that does not come back.
    pub(crate) fn blocks(&self, now: Duration) -> bool {
        let since = self.polled_since.span();
        since.is_some_and(|since| since + LONG_POLL <= now)
    }

    /// Whose code that poll is in.
    pub(crate) fn blocker(&self, now: Duration) -> Option<Blocker> {
        let body = self.body.get().and_then(|body| u32::try_from(body).ok());
        self.blocks(now).then(|| body.map_or(Blocker::Function, Blocker::RunningAttempt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(hard_at: Duration) -> RunningAttempt {
        RunningAttempt {
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
        assert!(watch.overdue(at(14)).is_empty() && !watch.is_overdue(at(14)));
        assert!(watch.overdue(at(15)).len() == 1 && watch.is_overdue(at(15)));
        assert!(!watch.blocks(at(15)));
        watch.poll_begins(at(9));
        assert!(watch.blocks(at(15)));
        watch.poll_ends();
        assert!(!watch.blocks(at(16)));
        watch.ends(3);
        assert!(!watch.is_overdue(at(99)));
    }

    // A44: what the function itself takes is measured from where it got the thread, and what its
    // bodies take is not.
    #[test]
    fn the_function_has_its_limit_for_each_stretch_that_is_its_own() {
        let (watch, at) = (Watch::default(), Duration::from_secs);
        watch.set_timeout(at(30));
        watch.poll_begins(at(100));
        assert_eq!(watch.function_overdue(at(134)), None);
        assert_eq!(watch.function_overdue(at(135)), Some(at(30)));
        assert!(watch.is_overdue(at(135)));
        assert_eq!(watch.blocker(at(135)), Some(Blocker::Function));
        watch.enters_body(0);
        assert_eq!(watch.function_overdue(at(9_999)), None);
        assert_eq!(watch.blocker(at(135)), Some(Blocker::RunningAttempt(0)));
        watch.leaves_body(at(200));
        assert_eq!(watch.function_overdue(at(234)), None);
        assert_eq!(watch.function_overdue(at(235)), Some(at(30)));
    }

    // A function that waits, for whatever, blocks nothing.
    #[test]
    fn a_function_that_awaits_is_never_overdue() {
        let (watch, at) = (Watch::default(), Duration::from_secs);
        watch.set_timeout(at(30));
        assert!(!watch.is_overdue(at(9_999)), "never polled");
        watch.poll_begins(at(100));
        watch.poll_ends();
        watch.waits_foreign(Some(at(100)));
        assert!(!watch.is_overdue(at(9_999)));
        watch.poll_begins(at(120));
        assert!(!watch.is_overdue(at(134)));
        assert!(watch.is_overdue(at(135)), "it has waited before");
        watch.asks();
        assert!(!watch.is_overdue(at(154)) && watch.is_overdue(at(155)));
    }
}
