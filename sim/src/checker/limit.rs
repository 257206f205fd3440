//! **Limits are kept, and told in time.**
//!
//! Source: `StepFuture::timeout`: at the soft timeout the body is told, at the timeout it is gone.
//! Bodies say when they begin, when they are told and when they are dropped, and say so by what
//! drops them, so that one that hangs is noticed by its silence. A host that has stood still in
//! between proves nothing; clocks may be a little slow.

use std::collections::BTreeMap;

use super::Findings;

const HARD: &str = "a body is gone at its timeout";
const SOFT: &str = "the soft timeout is told in time";
/// Ticks are at most 10 ms, and what is noticed at a tick has happened in the one before it.
const SLACK_MS: u64 = 40;

/// An attempt that runs.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    /// Whose: the step's key and the attempt's number.
    pub(crate) of: String,
    /// On which host.
    pub(crate) host: String,
    /// Since when.
    pub(crate) began_ms: u64,
    pub(crate) soft_ms: Option<u64>,
    pub(crate) hard_ms: u64,
    /// How often hosts had stood still when it began.
    pub(crate) pauses: u64,
    /// It was told that its soft timeout has passed.
    pub(crate) told: bool,
}

/// Those that run.
#[derive(Default)]
pub(crate) struct Limits {
    next: u64,
    open: BTreeMap<u64, Attempt>,
}

impl Limits {
    pub(crate) fn begins(&mut self, attempt: Attempt) -> u64 {
        self.next += 1;
        self.open.insert(self.next, attempt);
        self.next
    }

    pub(super) fn told(&mut self, id: u64, pauses: u64, findings: &mut Findings<'_>) {
        let open = self.open.get_mut(&id);
        let Some((attempt, soft_ms)) = open.and_then(|a| a.soft_ms.map(|soft_ms| (a, soft_ms)))
        else {
            return;
        };
        attempt.told = true;
        let after_ms = findings.now_ms.saturating_sub(attempt.began_ms);
        let early = after_ms + SLACK_MS < soft_ms * 98 / 100;
        let late = after_ms > most(soft_ms) && attempt.pauses == pauses;
        if early || late {
            let text = format!(
                "{} on {}: told after {after_ms} ms, its soft timeout is {soft_ms} ms, its timeout {} ms",
                attempt.of, attempt.host, attempt.hard_ms
            );
            findings.report(SOFT, text);
        }
    }

    /// It has ended, was dropped, or died with its host.
    pub(super) fn ends(&mut self, id: u64, pauses: u64, findings: &mut Findings<'_>) {
        if let Some(attempt) = self.open.remove(&id) {
            in_time(&attempt, pauses, findings);
        }
    }

    /// What still runs at the end must not be over its time.
    pub(super) fn at_the_end(&self, pauses: u64, findings: &mut Findings<'_>) {
        for attempt in self.open.values() {
            in_time(attempt, pauses, findings);
        }
    }
}

fn most(limit_ms: u64) -> u64 {
    limit_ms * 102 / 100 + SLACK_MS
}

fn in_time(attempt: &Attempt, pauses: u64, findings: &mut Findings<'_>) {
    let lasted_ms = findings.now_ms.saturating_sub(attempt.began_ms);
    let unheard = attempt.soft_ms.filter(|_| !attempt.told);
    if unheard.is_some_and(|soft_ms| lasted_ms > most(soft_ms)) && attempt.pauses == pauses {
        let text = format!(
            "{} on {}: ran for {lasted_ms} ms and was not told of its soft timeout of {} ms",
            attempt.of,
            attempt.host,
            unheard.unwrap_or_default()
        );
        findings.report(SOFT, text);
    }
    if lasted_ms > most(attempt.hard_ms) && attempt.pauses == pauses {
        let text = format!(
            "{} on {}: ran for {lasted_ms} ms, its timeout is {} ms",
            attempt.of, attempt.host, attempt.hard_ms
        );
        findings.report(HARD, text);
    }
}
