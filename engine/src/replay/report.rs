//! What a turn tells the engine, until it is answered.

use crate::canary::canary;
use crate::model::entry::{Entry, FunctionEnd, SourceLocation};
use crate::model::failure::Failure;
use crate::model::id::{CommandIndex, MemoKey, RunNo, Token};
use crate::model::payload::Payload;
use crate::model::retry::Retry;
use crate::model::time::Time;
use crate::wire::message::{
    AttemptFailedReport, MemoReleased, MemoRequested, Message, StepCompletedReport, TimerRequested,
    TurnCompleted, TurnFailed, TurnMismatched, TurnSuspended,
};

use super::mismatch::Mismatch;

/// A report without the token it is made under, which may change before it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Report {
    StepCompleted {
        number: u32,
        location: SourceLocation,
        attempt: u32,
        output: Payload,
        /// Its key, if its first result is everybody's, and the step's policy: the engine may not
        /// be able to take it.
        memo: Option<(MemoKey, Retry)>,
    },
    AttemptFailed {
        number: u32,
        location: SourceLocation,
        attempt: u32,
        failure: Failure,
        retry: Retry,
    },
    TimerRequested {
        number: u32,
        location: SourceLocation,
        delay_ms: u64,
    },
    MemoRequested {
        number: u32,
        location: SourceLocation,
        attempt: u32,
        memo: MemoKey,
    },
    MemoReleased {
        number: u32,
    },
    Suspended {
        seen: u32,
        wakes_at: Time,
        memos: Vec<CommandIndex>,
    },
    Completed {
        output: Payload,
    },
    Failed {
        failure: Failure,
        whole: bool,
        end: FunctionEnd,
    },
    Mismatched(Mismatch),
}

impl Report {
    /// Whether the turn is over with it.
    pub(crate) fn ends_turn(&self) -> bool {
        !matches!(
            self,
            Self::StepCompleted { .. }
                | Self::AttemptFailed { .. }
                | Self::TimerRequested { .. }
                | Self::MemoRequested { .. }
                | Self::MemoReleased { .. }
        )
    }

    /// Whether `entry` is the engine's answer to it.
    pub(crate) fn is_answered_by(&self, entry: &Entry) -> bool {
        match (self, entry) {
            (
                Self::StepCompleted { number, attempt, .. }
                | Self::AttemptFailed { number, attempt, .. }
                | Self::MemoRequested { number, attempt, .. },
                entry,
            ) => {
                let (about, answered) = match entry {
                    Entry::StepCompleted(e) => (e.number, u32::MAX),
                    Entry::StepFailed(e) => (e.number, u32::MAX),
                    Entry::AttemptFailed(e) => (e.number, e.attempt),
                    _ => return false,
                };
                about.0 == *number && *attempt <= answered
            }
            (Self::TimerRequested { number, .. }, Entry::TimerArmed(e)) => e.number.0 == *number,
            (Self::TimerRequested { number, .. }, Entry::TimerFired(e)) => e.number.0 == *number,
            _ => false,
        }
    }

    /// The frame that tells it.
    pub(crate) fn message(&self, run: RunNo, token: Token) -> Message {
        match self.clone() {
            Self::StepCompleted { number, location, attempt, output, memo } => {
                StepCompletedReport {
                    run,
                    token,
                    number: CommandIndex(number),
                    location,
                    attempt,
                    output,
                    memo: memo.map(|(key, _)| key),
                }
                .into()
            }
            Self::AttemptFailed { number, location, attempt, failure, retry } => {
                AttemptFailedReport {
                    run,
                    token,
                    number: CommandIndex(number),
                    location,
                    attempt,
                    failure,
                    retry,
                }
                .into()
            }
            Self::TimerRequested { number, location, delay_ms } => {
                TimerRequested { run, token, number: CommandIndex(number), location, delay_ms }
                    .into()
            }
            Self::MemoRequested { number, location, memo, .. } => {
                MemoRequested { run, token, number: CommandIndex(number), location, memo }.into()
            }
            Self::MemoReleased { number } => {
                MemoReleased { run, token, number: CommandIndex(number) }.into()
            }
            Self::Suspended { seen, wakes_at, memos } => {
                TurnSuspended { run, token, seen, wakes_at, memos }.into()
            }
            Self::Completed { output } => TurnCompleted { run, token, output }.into(),
            Self::Failed { failure, whole, end } => {
                TurnFailed { run, token, failure, whole, end: Some(end) }.into()
            }
            Self::Mismatched(Mismatch { index, journal_holds, code_asked }) => {
                TurnMismatched { run, token, index, journal_holds, code_asked }.into()
            }
        }
    }
}

/// Reports that have no answer yet, in the order in which they were made, each with the token it
/// was last sent under.
#[derive(Debug, Default)]
pub(crate) struct Outstanding(Vec<(Report, Option<Token>)>);

impl Outstanding {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether nothing would be lost if they were forgotten: they only ask.
    pub(crate) fn only_asks(&self) -> bool {
        self.0.iter().all(|(report, _)| matches!(report, Report::MemoRequested { .. }))
    }

    /// Adds a report. Whatever is told of a step after it has asked goes in the place of that.
    pub(crate) fn push(&mut self, report: Report) {
        if let Report::StepCompleted { number, .. }
        | Report::AttemptFailed { number, .. }
        | Report::MemoReleased { number } = &report
        {
            self.0.retain(|(earlier, _)| {
                !matches!(earlier, Report::MemoRequested { number: asked, .. } if asked == number)
            });
        }
        self.0.push((report, None));
    }

    /// The engine knows that an attempt is not made.
    pub(crate) fn is_returned(&mut self, number: u32) {
        self.0.retain(|(report, _)| {
            !matches!(report, Report::MemoReleased { number: returned } if *returned == number)
        });
    }

    /// Forgets what `entry` answers.
    pub(crate) fn answered_by(&mut self, entry: &Entry) {
        self.0.retain(|(report, _)| !report.is_answered_by(entry));
    }

    /// Takes back the report that ended the turn, if it has been made.
    pub(crate) fn withdraw_end(&mut self) -> Option<Report> {
        let at = self.0.iter().position(|(report, _)| report.ends_turn())?;
        Some(self.0.remove(at).0)
    }

    /// Takes back what was reported about a step.
    pub(crate) fn withdraw_step(&mut self, number: u32) -> Option<Report> {
        let at = self.0.iter().position(|(report, _)| match report {
            Report::StepCompleted { number: n, .. }
            | Report::AttemptFailed { number: n, .. }
            | Report::TimerRequested { number: n, .. } => *n == number,
            _ => false,
        })?;
        Some(self.0.remove(at).0)
    }

    /// Takes back the result of a memoized step.
    pub(crate) fn withdraw_result(&mut self, number: u32) -> Option<Report> {
        let at = self.0.iter().position(|(report, _)| {
            matches!(report, Report::StepCompleted { number: n, memo: Some(_), .. } if *n == number)
        })?;
        Some(self.0.remove(at).0)
    }

    /// Sends what has not been sent under `token` (W6), until `send` says no.
    pub(crate) fn flush(
        &mut self,
        run: RunNo,
        token: Token,
        mut send: impl FnMut(Message) -> bool,
    ) {
        for (report, sent) in &mut self.0 {
            let resend = !canary!("reports are not sent again") || sent.is_none();
            if *sent != Some(token) && resend {
                if !send(report.message(run, token)) {
                    return;
                }
                *sent = Some(token);
            }
        }
    }

    /// All of them.
    #[cfg(test)]
    pub(crate) fn all(&self) -> impl Iterator<Item = &Report> {
        self.0.iter().map(|(report, _)| report)
    }
}
