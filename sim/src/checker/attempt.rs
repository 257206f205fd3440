//! **An attempt is recorded once, as it was made, and the next one waits.**
//!
//! Source: `Retry`: attempts are numbered from 1, each wait follows from the policy and from how many attempts failed before,
//! and no attempt is made before its instant; a failure is final only if the policy says so. W6: what is reported again is
//! recorded once. After a cancel request everything is counted anew, so what comes then is not looked at.

use std::collections::BTreeMap;

use stepwell::Retry;
use stepwell::model::dead::Superseded;
use stepwell::model::entry::{AttemptFailed, Entry};
use stepwell::model::id::{RunNo, StepNo};
use stepwell::model::time::Time;
use stepwell::wire::message::Message;

use super::Bench;
use crate::durable::{Durable, DurableRun};

const NAME: &str = "an attempt is recorded once, as it was made";
const EARLY: &str = "a failed attempt waits for its instant";
const POLICY: &str = "attempts follow their policy";

/// What workers said of attempts, and since when their failures are durable.
#[derive(Default)]
pub(super) struct Attempts {
    said: BTreeMap<(RunNo, StepNo, u32), Option<Retry>>,
    failed_ms: BTreeMap<(RunNo, StepNo), u64>,
}

impl Attempts {
    pub(super) fn reported(&mut self, message: &Message) {
        match message {
            Message::StepCompletedReport(r) => {
                self.said.entry((r.run, r.number, r.attempt)).or_default();
            }
            Message::AttemptFailedReport(r) => {
                self.said
                    .insert((r.run, r.number, r.attempt), Some(r.retry));
            }
            _ => {}
        }
    }

    pub(super) fn appended(
        &mut self,
        durable: &Durable,
        no: RunNo,
        index: u32,
        bench: &mut Bench<'_>,
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
                    bench.charge(NAME, text);
                }
                return;
            }
            Entry::AttemptFailed(e) => (e.number, e.attempt, Some(e.retry_at)),
            Entry::StepFailed(e) => (e.number, e.attempt, None),
            Entry::StepCompleted(e) => (e.number, e.attempt, None),
            _ => return,
        };
        let failed_ms = match retry_at {
            Some(_) => self.failed_ms.insert((no, number), bench.now_ms),
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
        let told = format!(
            "{}: entry {index}, attempt {attempt} at step {number}",
            run.name()
        );
        if attempt as usize != failed.len() + 1 {
            let count = failed.len();
            bench.charge(NAME, format!("{told}, follows {count} failed ones"));
        }
        let said = self.said.get(&(no, number, attempt));
        if number != StepNo::WHOLE && said.is_none() {
            bench.charge(NAME, format!("{told}, was never reported"));
        }
        if let (Some(last), Some(failed_ms)) = (failed.last(), failed_ms) {
            // A worker goes by the engine's time where it has heard of it, and by its own monotonic clock in between. So
            // what passed by both of them together is never less than the wait, if not for a clock that is a little fast.
            let wait_ms = last.retry_at.since(last.at).as_millis() as u64;
            let real_ms = bench.now_ms.saturating_sub(failed_ms);
            let engine_ms = entry.at().since(last.at).as_millis() as u64;
            if real_ms + engine_ms < wait_ms * 98 / 100 {
                bench.charge(
                    EARLY,
                    format!("{told}, ended {real_ms} ms after the one before, which was to be followed after {wait_ms} ms"),
                );
            }
        }
        let policy = match number {
            StepNo::WHOLE => Some(Retry::default()),
            _ => said.copied().flatten(),
        };
        let failure = match entry {
            Entry::AttemptFailed(e) => &e.failure,
            Entry::StepFailed(e) => &e.failure,
            _ => return,
        };
        let next = policy.and_then(|policy| next(&policy, run, failure, number, (&failed, entry)));
        if policy.is_some() && next != retry_at {
            bench.charge(
                POLICY,
                format!("{told}, is made again at {retry_at:?}, the policy says {next:?}"),
            );
        }
    }
}

/// When the policy lets a failed attempt be made again.
fn next(
    policy: &Retry,
    run: &DurableRun,
    failure: &stepwell::Failure,
    number: StepNo,
    (before, entry): (&[&AttemptFailed], &Entry),
) -> Option<Time> {
    let counts = u32::from(failure.retry_after_ms.is_none());
    let counted = counts + before.iter().map(|e| u32::from(e.counted)).sum::<u32>();
    let attempt = before.len() as u32 + 1;
    let first_at = before.first().map_or(entry.at(), |first| first.at);
    policy.next(
        failure,
        (run.started()?.id, number),
        (attempt, counted),
        (entry.at(), first_at),
    )
}
