//! How a command says that it could not do what it was asked: kind, message, causes, hint, and an
//! exit code.

use std::process::ExitCode;

use stepwell::model::id::RunId;
use stepwell::model::request::Refusal;

/// What the exit code tells: 0 done.
pub(crate) const DONE: u8 = 0;
/// It was not done, or the answer is no: refused, not found, the run failed, a promise was broken.
pub(crate) const NO: u8 = 1;
/// Wrong usage or bad input; nothing was done.
pub(crate) const USAGE: u8 = 2;
/// No engine could be reached.
pub(crate) const NOT_REACHABLE: u8 = 3;

/// How a command that did its work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Done.
    Yes,
    /// Done, and the answer is no.
    No,
}

impl From<Answer> for ExitCode {
    fn from(answer: Answer) -> Self {
        Self::from(match answer {
            Answer::Yes => DONE,
            Answer::No => NO,
        })
    }
}

/// Why a command did not do its work.
#[derive(Debug, Clone)]
pub(crate) struct CommandError {
    /// A word for programs: `not_reachable`, `bad_input`, `refused`, …
    pub(crate) kind: &'static str,
    /// One lower-case sentence, or several lines.
    pub(crate) message: String,
    /// Deeper causes, outermost first.
    pub(crate) causes: Vec<String>,
    /// What to do.
    pub(crate) hints: Vec<String>,
    /// The process ends with it.
    pub(crate) exit: u8,
}

impl CommandError {
    fn new(kind: &'static str, exit: u8, message: impl std::fmt::Display) -> Self {
        Self { kind, message: message.to_string(), causes: Vec::new(), hints: Vec::new(), exit }
    }

    /// What was given cannot be used.
    pub(crate) fn bad_input(message: impl std::fmt::Display) -> Self {
        Self::new("bad_input", USAGE, message)
    }

    /// The environment failed: a file, a process, a disk.
    pub(crate) fn fault(message: impl std::fmt::Display) -> Self {
        Self::new("fault", NO, message)
    }

    /// No engine answers.
    pub(crate) fn not_reachable(message: impl std::fmt::Display) -> Self {
        Self::new("not_reachable", NOT_REACHABLE, message)
    }

    /// The engine has stopped by itself.
    pub(crate) fn stopped(message: impl std::fmt::Display) -> Self {
        Self::new("stopped", NO, message)
    }

    /// A store that cannot be opened or does not hold what it should.
    pub(crate) fn store(message: impl std::fmt::Display) -> Self {
        Self::new("store", NO, message)
    }

    /// The answer is no, for a reason the engine knows nothing of.
    pub(crate) fn refused_as(kind: &'static str, message: impl std::fmt::Display) -> Self {
        Self::new(kind, NO, message)
    }

    /// Ctrl-C.
    pub(crate) fn interrupted() -> Self {
        Self::new("interrupted", NO, "interrupted; all processes that were started are stopped")
    }

    /// The engine said no.
    pub(crate) fn refused(refusal: &Refusal) -> Self {
        let error = Self::new(refused_kind(refusal), NO, refusal);
        match refusal {
            Refusal::NoSuchRun(_) => error
                .hint("give the run's id (`run_…`) or its name; `stepwell run list` prints them"),
            Refusal::IdTaken(taken) => {
                error.hint(format!("`stepwell run show {}` prints the existing run", taken.id))
            }
            Refusal::HasEnded(ended) => {
                error.hint(format!("`stepwell run show {}` prints how", ended.id))
            }
            Refusal::NotResumable(run) => {
                error.hint(format!("`stepwell run show {}` prints where it is", run.id))
            }
            Refusal::NoSuchQueue(_) => error.hint(
                "`stepwell queue list` prints the queues; `stepwell queue limit` creates one",
            ),
            Refusal::NoSuchSchedule(_) => {
                error.hint("`stepwell schedule list` prints the schedules there are")
            }
            Refusal::BadCron(_)
            | Refusal::UnknownZone(_)
            | Refusal::NeverFires(_)
            | Refusal::BadSpan(_)
            | Refusal::BadBackfill(_)
            | Refusal::ScheduleInputTooLarge(_) => Self { exit: USAGE, ..error },
            Refusal::BadName(_)
            | Refusal::BadRate(_)
            | Refusal::PayloadTooLarge(_)
            | Refusal::OutOfRange(_) => Self { exit: USAGE, ..error },
            Refusal::NotUnderstood(_) | Refusal::OfLaterVersion(_) => error.hint(
                "server and command are of two versions; `stepwell --version` prints this one's",
            ),
            Refusal::TooMany(_)
            | Refusal::StaleToken(_)
            | Refusal::JournalFull(_)
            | Refusal::Damaged(_)
            | Refusal::Poisoned(_)
            | Refusal::NotDead(_)
            | Refusal::WentOn(_)
            | Refusal::BadInput(_)
            | Refusal::NotAllStarted(_)
            | Refusal::NoSuchBatch(_)
            | Refusal::BatchSealed(_)
            | Refusal::OtherFollowUp(_)
            | Refusal::TooManySchedules(_) => error,
        }
    }

    /// The same, with the run called by the name the user gave it.
    pub(crate) fn calling(mut self, id: RunId, name: &str) -> Self {
        let id = id.to_string();
        if name != id {
            self.message = self.message.replace(&id, &format!("`{name}`"));
            self.hints = self.hints.iter().map(|hint| hint.replace(&id, name)).collect();
        }
        self
    }

    /// Adds the chain of sources of `error`.
    pub(crate) fn caused_by(mut self, error: &dyn std::error::Error) -> Self {
        let mut cause = Some(error);
        while let Some(error) = cause {
            let text = error.to_string();
            if self.causes.last() != Some(&text) {
                self.causes.push(text);
            }
            cause = error.source();
        }
        self
    }

    /// Adds a cause that is only known as text.
    pub(crate) fn cause(mut self, text: impl std::fmt::Display) -> Self {
        self.causes.push(text.to_string());
        self
    }

    /// Adds advice.
    pub(crate) fn hint(mut self, text: impl std::fmt::Display) -> Self {
        self.hints.push(text.to_string());
        self
    }

    /// The error for people.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("error: {}\n", self.message);
        for cause in &self.causes {
            text.push_str(&format!("  caused by: {cause}\n"));
        }
        for hint in &self.hints {
            text.push_str(&format!("hint: {hint}\n"));
        }
        text
    }

    /// The error for programs.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "error": {
                "kind": self.kind,
                "message": self.message,
                "causes": self.causes,
                "hints": self.hints,
                "exit_code": self.exit,
            }
        })
    }
}

fn refused_kind(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::IdTaken(_) => "name_taken",
        Refusal::NoSuchRun(_) => "no_such_run",
        Refusal::PayloadTooLarge(_) => "payload_too_large",
        Refusal::BadName(_) => "bad_name",
        Refusal::HasEnded(_) => "has_ended",
        Refusal::NotResumable(_) => "not_resumable",
        Refusal::Damaged(_) => "damaged",
        Refusal::Poisoned(_) => "stopped",
        Refusal::OutOfRange(_) => "out_of_range",
        Refusal::NoSuchQueue(_) => "no_such_queue",
        Refusal::BadRate(_) => "bad_rate",
        Refusal::NotDead(_) => "not_dead",
        Refusal::WentOn(_) => "not_redrivable",
        Refusal::BadInput(_) => "bad_input",
        Refusal::NoSuchSchedule(_) => "no_such_schedule",
        Refusal::BadCron(_) => "bad_cron",
        Refusal::UnknownZone(_) => "unknown_zone",
        Refusal::NeverFires(_) => "never_fires",
        Refusal::BadSpan(_) => "bad_span",
        Refusal::BadBackfill(_) => "bad_backfill",
        Refusal::TooManySchedules(_) => "too_many_schedules",
        Refusal::ScheduleInputTooLarge(_) => "schedule_input_too_large",
        Refusal::TooMany(_) => "too_many",
        Refusal::StaleToken(_) => "stale_token",
        Refusal::JournalFull(_) => "journal_full",
        Refusal::NotUnderstood(_) => "not_understood",
        Refusal::OfLaterVersion(_) => "later_version",
        Refusal::NotAllStarted(_) => "not_all_started",
        Refusal::NoSuchBatch(_) => "no_such_batch",
        Refusal::BatchSealed(_) => "batch_sealed",
        Refusal::OtherFollowUp(_) => "other_follow_up",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_as_kind_message_causes_hint() {
        let error = CommandError::not_reachable("no server answers at 127.0.0.1:1")
            .caused_by(&std::io::Error::other("connection refused"))
            .hint("start one with `stepwell serve --data DIR`");
        assert_eq!(
            error.text(),
            "error: no server answers at 127.0.0.1:1\n  caused by: connection refused\nhint: start one with `stepwell serve --data DIR`\n"
        );
        assert_eq!(error.json()["error"]["exit_code"], 3);
    }
}
