//! A failure of the user's code.

use super::dead::UNREGISTERED_WORKFLOW;
use super::time::as_ms;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest message or cause kept, in bytes; longer ones are cut with an ellipsis.
pub const FAILURE_TEXT_BYTES_MAX: usize = 2_048;
/// The stored class of an attempt that panicked.
pub const PANIC: &str = "panic";
/// The stored class of a value that cannot be a payload.
pub const PAYLOAD: &str = "payload";
/// The stored class of a run of [`Client::get_or_run`](crate::Client::get_or_run) that gave no
/// result.
pub const ONCE: &str = "once";
/// The stored class of an attempt that took too long.
pub const TIMEOUT_CLASS: &str = "time limit";

/// The displayed word of a stored class.
pub fn displayed_class(stored: &str) -> &str {
    match stored {
        TIMEOUT_CLASS => "timeout",
        UNREGISTERED_WORKFLOW => "unregistered workflow",
        ONCE => "memo",
        other => other,
    }
}

/// A failure in a line: its message and causes, after the displayed class if that says more than
/// the kind does. The path of a Rust type is left out.
pub fn displayed_failure(failure: &Failure) -> String {
    match displayed_class(&failure.class) {
        "retryable" | "terminal" | "retry after" | "cancelled" => failure.to_string(),
        class if class.is_empty() || class.contains("::") => failure.to_string(),
        class => format!("{class}: {failure}"),
    }
}

/// Whether a filter's word names a stored class, by the stored or by the displayed word.
#[cfg(feature = "server")]
pub(crate) fn is_class(word: &str, stored: &str) -> bool {
    word == stored || word == displayed_class(stored)
}

/// How many causes are kept.
pub const FAILURE_CAUSES_MAX: usize = 8;

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub enum FailureKind {
    /// Try again by the step's retry policy. The default of any error passed on with `?`.
    Retryable,
    /// Trying again cannot help.
    Terminal,
    /// The run was cancelled.
    Cancelled,
}

impl From<FailureKind> for u8 {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::Retryable => 1,
            FailureKind::Terminal => 2,
            FailureKind::Cancelled => 3,
        }
    }
}

impl TryFrom<u8> for FailureKind {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        match number {
            1 => Ok(Self::Retryable),
            2 => Ok(Self::Terminal),
            3 => Ok(Self::Cancelled),
            _ => Err(format!("failure kind {number} is not known to this version")),
        }
    }
}

/// Why a step or a workflow failed: what its code said, whether trying again can help, and when.
///
/// Any [`std::error::Error`] becomes a retryable failure by `?`, with its chain of sources as
/// `causes`. This type is deliberately not an `Error` itself, so that the blanket conversion can
/// exist.
///
/// ```
/// use stepwell::Failure;
///
/// fn parse(text: &str) -> Result<u32, Failure> {
///     let number: u32 = text.trim().parse()?; // retryable
///     if number == 0 {
///         return Err(Failure::terminal("zero is not a quantity"));
///     }
///     Ok(number)
/// }
/// assert!(parse("x").unwrap_err().is_retryable());
/// assert!(!parse("0").unwrap_err().is_retryable());
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct Failure {
    /// Whether trying again can help.
    pub kind: FailureKind,
    /// The sort of error, for filtering: a Rust type's name, `panic`, `time limit` (displayed as
    /// `timeout`), `process`, …
    pub class: String,
    /// What happened.
    pub message: String,
    /// Deeper causes, outermost first; at most [`FAILURE_CAUSES_MAX`].
    pub causes: Vec<String>,
    /// Not before this much time has passed, in milliseconds.
    pub retry_after_ms: Option<u64>,
}

impl Failure {
    /// A failure that is worth another attempt.
    pub fn retryable(message: impl std::fmt::Display) -> Self {
        Self::new(FailureKind::Retryable, "retryable", message)
    }

    /// A failure that is not worth another attempt: it is final at once.
    pub fn terminal(message: impl std::fmt::Display) -> Self {
        Self::new(FailureKind::Terminal, "terminal", message)
    }

    /// A failure that is worth another attempt, but not before `after` has passed (a rate limit,
    /// say).
    ///
    /// Such a failure uses up no retry; it is bounded by the policy's `give_up_after` instead.
    pub fn retry_after(after: Duration, message: impl std::fmt::Display) -> Self {
        Self {
            retry_after_ms: Some(as_ms(after)),
            ..Self::new(FailureKind::Retryable, "retry after", message)
        }
    }

    /// What a pending step or sleep answers once its run has been cancelled.
    pub fn cancelled(message: impl std::fmt::Display) -> Self {
        Self::new(FailureKind::Cancelled, "cancelled", message)
    }

    /// A failure of the given kind and class.
    pub fn new(kind: FailureKind, class: &str, message: impl std::fmt::Display) -> Self {
        Self {
            kind,
            class: class.to_owned(),
            message: cut(message.to_string()),
            causes: Vec::new(),
            retry_after_ms: None,
        }
    }

    /// The same failure under another class, for filtering.
    #[must_use]
    pub fn class(mut self, class: impl Into<String>) -> Self {
        self.class = cut(class.into());
        self
    }

    /// The same failure, cut to the limits: a worker may send anything.
    #[must_use]
    #[cfg_attr(
        not(any(feature = "server", feature = "inspect")),
        expect(dead_code, reason = "the engine's, and a worker has none")
    )]
    pub(crate) fn bounded(mut self) -> Self {
        self.causes.truncate(FAILURE_CAUSES_MAX);
        self.causes = self.causes.into_iter().map(cut).collect();
        Self { class: cut(self.class), message: cut(self.message), ..self }
    }

    /// Whether another attempt can help.
    pub fn is_retryable(&self) -> bool {
        self.kind == FailureKind::Retryable
    }

    /// Whether it says that the run was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.kind == FailureKind::Cancelled
    }
}

fn cut(mut text: String) -> String {
    if text.len() > FAILURE_TEXT_BYTES_MAX {
        let mut end = FAILURE_TEXT_BYTES_MAX - 3;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let class = std::any::type_name::<E>();
        let mut failure = Self::new(FailureKind::Retryable, class, &error);
        let mut source = error.source();
        while let Some(cause) = source {
            if failure.causes.len() == FAILURE_CAUSES_MAX {
                break;
            }
            failure.causes.push(cut(cause.to_string()));
            source = cause.source();
        }
        failure
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        for cause in &self.causes {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} ({}): {self}", self.kind, self.class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_displayed_after_its_class_if_that_says_more_than_the_kind() {
        for (class, displayed) in [
            ("time limit", "timeout: too slow"),
            ("declined", "declined: too slow"),
            ("retry after", "too slow"),
            ("shop::CallError", "too slow"),
        ] {
            let failure = Failure::terminal("too slow").class(class);
            assert_eq!(displayed_failure(&failure), displayed);
        }
    }

    #[test]
    fn stored_classes_are_displayed_by_their_words_of_today_and_found_by_both() {
        for (stored, displayed) in [
            ("time limit", "timeout"),
            ("unknown workflow", "unregistered workflow"),
            ("once", "memo"),
        ] {
            assert_eq!(displayed_class(stored), displayed);
            assert!(is_class(stored, stored) && is_class(displayed, stored));
        }
        assert_eq!(displayed_class("panic"), "panic");
        assert!(is_class("timeout", "timeout"), "a class of the user's own");
        assert!(!is_class("time limit", "timeout") && !is_class("timeout", "panic"));
    }

    #[test]
    fn long_messages_are_cut_at_a_character() {
        let failure = Failure::terminal("ä".repeat(5_000));
        assert!(failure.message.len() <= FAILURE_TEXT_BYTES_MAX);
        assert!(failure.message.ends_with('…'));
    }

    #[test]
    fn the_chain_of_sources_is_kept() {
        #[derive(Debug, thiserror::Error)]
        #[error("the card service does not answer")]
        struct Outer(#[source] std::num::ParseIntError);
        let failure = Failure::from(Outer("x".parse::<u8>().unwrap_err()));
        assert_eq!(
            failure.to_string(),
            "the card service does not answer: invalid digit found in string"
        );
        assert!(failure.is_retryable());
    }
}
