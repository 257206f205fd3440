//! **An attempt is recorded once, as it was made, and the next one waits.**
//!
//! Source: `Retry`: attempts are numbered from 1, each wait follows from the policy and from how
//! many attempts failed before, and no attempt is made before its instant; a failure is final only
//! if the policy says so, and one that says when to come back uses up no retry (A12, A14, A40).
//! Instants are compared to the millisecond. W6: what is reported again is recorded once. After a
//! cancel request everything is counted anew, so what comes then is not looked at.

use std::collections::BTreeMap;

use stepwell::Retry;
use stepwell::model::dead::Superseded;
use stepwell::model::entry::{AttemptFailed, Entry};
use stepwell::model::id::{CommandIndex, RunId, RunNo};
use stepwell::model::time::Time;
use stepwell::wire::message::Message;

use super::Findings;
use crate::durable::{Durable, DurableRun};

const NAME: &str = "an attempt is recorded once, as it was made";
const EARLY: &str = "a failed attempt waits for its instant";
const POLICY: &str = "attempts follow their policy";

/// When something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// In simulated milliseconds, what was skipped counted.
    pub(crate) passed_ms: u64,
    /// In which life of the server: engine time of the next one begins somewhat ahead.
    pub(crate) server_life: u32,
}

/// What workers said of attempts, and since when their failures are durable.
#[derive(Default)]
pub(super) struct Attempts {
    said: BTreeMap<(RunNo, CommandIndex, u32), Option<Retry>>,
    /// When failures were told first.
    said_at: BTreeMap<(RunNo, CommandIndex, u32), Moment>,
    failed_ms: BTreeMap<(RunNo, CommandIndex), u64>,
}

impl Attempts {
    pub(super) fn reported(&mut self, now: Moment, message: &Message) {
        match message {
            Message::StepCompletedReport(r) => {
                self.said.entry((r.run, r.number, r.attempt)).or_default();
            }
            Message::AttemptFailedReport(r) => {
                let attempt = (r.run, r.number, r.attempt);
                self.said.insert(attempt, Some(r.retry));
                self.said_at.entry(attempt).or_insert(now);
            }
            _ => {}
        }
    }

    /// An attempt begins where all clocks are right: then the whole wait has passed since the
    /// failure before was told, if that was in the same life of the server.
    pub(super) fn begins(
        &self,
        durable: &Durable,
        (id, number, attempt): (RunId, CommandIndex, u32),
        now: Moment,
        findings: &mut Findings<'_>,
    ) {
        let no = durable.index.get(&id);
        let Some((no, run)) = no.and_then(|no| Some((no, durable.runs.get(no)?))) else {
            return;
        };
        let is_cancelled = |entry: &Entry| matches!(entry, Entry::CancelRequested(_));
        if run.entries.iter().any(is_cancelled) {
            return;
        }
        let before = run.entries.iter().find_map(|entry| match entry {
            Entry::AttemptFailed(e) if e.number == number && e.attempt + 1 == attempt => Some(e),
            _ => None,
        });
        let said_at = self.said_at.get(&(*no, number, attempt - 1));
        let (Some(before), Some(said_at)) = (before, said_at) else {
            return;
        };
        if said_at.server_life != now.server_life {
            return;
        }
        let wait_ms = before.retry_at.since(before.at).as_millis() as u64;
        let waited_ms = now.passed_ms.saturating_sub(said_at.passed_ms);
        if waited_ms < wait_ms {
            findings.report(
                EARLY,
                format!(
                    "{}: attempt {attempt} at step {number} begins {waited_ms} ms after the failure before it was told, and was to wait for {wait_ms} ms",
                    run.name()
                ),
            );
        }
    }

    pub(super) fn appended(
        &mut self,
        durable: &Durable,
        no: RunNo,
        index: u32,
        findings: &mut Findings<'_>,
    ) {
        let Some(run) = durable.runs.get(&no) else {
            return;
        };
        let (before, entry) = (&run.entries[..index as usize], &run.entries[index as usize]);
        let cancelled = |earlier: &Entry| matches!(earlier, Entry::CancelRequested(_));
        let is_anew = before.iter().any(cancelled);
        let (number, attempt, retry_at) = match entry {
            Entry::TimerArmed(armed) => {
                let again = |earlier: &Entry| matches!(earlier, Entry::TimerArmed(e) if e.number == armed.number);
                if !is_anew && before.iter().any(again) {
                    let number = armed.number;
                    let text = format!("{}: entry {index} arms timer {number} again", run.name());
                    findings.report(NAME, text);
                }
                return;
            }
            Entry::AttemptFailed(e) => (e.number, e.attempt, Some(e.retry_at)),
            Entry::StepFailed(e) => (e.number, e.attempt, None),
            Entry::StepCompleted(e) if e.attempt == 0 => return, // another step's: see `memo`
            Entry::StepCompleted(e) => (e.number, e.attempt, None),
            _ => return,
        };
        let failed_ms = match retry_at {
            Some(_) => self.failed_ms.insert((no, number), findings.now_ms),
            None => self.failed_ms.get(&(no, number)).copied(),
        };
        if is_anew {
            return;
        }
        // Redriven, it is counted anew.
        let superseded = Superseded::of((0..).zip(before));
        let failed: Vec<&AttemptFailed> = (0..)
            .zip(before)
            .filter(|(at, earlier)| !superseded.covers(*at, earlier))
            .filter_map(|(_, earlier)| match earlier {
                Entry::AttemptFailed(e) if e.number == number => Some(e),
                _ => None,
            })
            .collect();
        let told = format!("{}: entry {index}, attempt {attempt} at step {number}", run.name());
        if attempt as usize != failed.len() + 1 {
            let count = failed.len();
            findings.report(NAME, format!("{told}, follows {count} failed ones"));
        }
        let said = self.said.get(&(no, number, attempt));
        if number != CommandIndex::FUNCTION && said.is_none() {
            findings.report(NAME, format!("{told}, was never reported"));
        }
        if let (Some(last), Some(failed_ms)) = (failed.last(), failed_ms) {
            // A worker goes by the engine's time where it has heard of it, and by its own monotonic
            // clock in between. So what passed by both of them together is never less than the
            // wait, if not for a clock that is a little fast.
            let wait_ms = last.retry_at.since(last.at).as_millis() as u64;
            let real_ms = findings.now_ms.saturating_sub(failed_ms);
            let engine_ms = entry.at().since(last.at).as_millis() as u64;
            if real_ms + engine_ms < wait_ms * 98 / 100 {
                findings.report(
                    EARLY,
                    format!("{told}, ended {real_ms} ms after the one before, which was to be followed after {wait_ms} ms"),
                );
            }
        }
        if let Entry::AttemptFailed(e) = entry
            && e.counted != uses_up(&e.failure)
        {
            let text = format!("{told}, has counted: {}, after {:?}", e.counted, e.failure);
            findings.report(POLICY, text);
        }
        let policy = match number {
            CommandIndex::FUNCTION => Some(Retry::default()),
            _ => said.copied().flatten(),
        };
        let failure = match entry {
            Entry::AttemptFailed(e) => &e.failure,
            Entry::StepFailed(e) => &e.failure,
            _ => return,
        };
        let next = policy.and_then(|policy| next(&policy, run, failure, number, (&failed, entry)));
        if policy.is_some() && next != retry_at {
            findings.report(
                POLICY,
                format!("{told}, is made again at {retry_at:?}, the policy says {next:?}"),
            );
        }
    }
}

/// Whether a failure uses up a retry.
fn uses_up(failure: &stepwell::Failure) -> bool {
    failure.retry_after_ms.is_none()
}

/// When the policy lets a failed attempt be made again.
fn next(
    policy: &Retry,
    run: &DurableRun,
    failure: &stepwell::Failure,
    number: CommandIndex,
    (before, entry): (&[&AttemptFailed], &Entry),
) -> Option<Time> {
    let failures = before.iter().map(|e| &e.failure).chain([failure]);
    let counted = failures.filter(|failure| uses_up(failure)).count() as u32;
    let attempt = before.len() as u32 + 1;
    let first_at = before.first().map_or(entry.at(), |first| first.at);
    policy.next(failure, (run.started()?.id, number), (attempt, counted), (entry.at(), first_at))
}
