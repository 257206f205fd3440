//! Batches: many runs, their progress, and one run that follows when all have ended.

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

use super::id::{Namespace, RunId, RunNo};
use super::payload::{CODEC_MESSAGEPACK, Payload};
use super::run::RunState;
use super::time::Time;
use crate::numbered::encode_fields;

/// A batch's place among all that were ever opened. It is never used again.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct BatchNo(pub u64);

/// How many runs of a batch have ended, by how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct BatchCounts {
    /// Runs in it.
    pub total: u64,
    /// Of these, how many have returned.
    pub completed: u64,
    /// How many are dead letters.
    pub dead: u64,
    /// How many were cancelled.
    pub cancelled: u64,
}

impl BatchCounts {
    /// Runs that have ended.
    pub fn ended(&self) -> u64 {
        self.completed + self.dead + self.cancelled
    }

    #[cfg_attr(
        not(any(feature = "server", feature = "inspect")),
        expect(dead_code, reason = "the engine's, and a worker has none")
    )]
    pub(crate) fn count(&mut self, state: RunState) {
        match state {
            RunState::Completed => self.completed += 1,
            RunState::Dead => self.dead += 1,
            RunState::Cancelled => self.cancelled += 1,
            _ => {}
        }
    }
}

/// A batch as `batch show` tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct BatchSummary {
    /// Its name.
    pub name: String,
    /// Whether no more runs can be added.
    pub sealed: bool,
    /// Its progress.
    pub counts: BatchCounts,
    /// When it was opened.
    pub opened_at: Time,
    /// When its last run ended, if it was sealed by then, or when it was sealed.
    pub ended_at: Option<Time>,
    /// The run that follows; there is one once the batch has ended, if one was asked for.
    pub follow_up: Option<RunId>,
    /// Its number, which its runs carry.
    #[serde(default)]
    pub no: BatchNo,
    /// Where its runs are in the order of starts: the first and the last of them. Other runs may be
    /// between them.
    #[serde(default)]
    pub span: Span,
}

/// The first and the last run of a batch. Zero is not known: older versions did not note it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct Span {
    /// The first.
    pub first: RunNo,
    /// The last so far.
    pub last: RunNo,
}

/// What the run gets that follows a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct BatchEnded<In> {
    /// The batch's name.
    pub batch: String,
    /// Runs in it.
    pub total: u64,
    /// Of these, how many returned.
    pub completed: u64,
    /// How many are dead letters.
    pub dead: u64,
    /// How many were cancelled.
    pub cancelled: u64,
    /// What the follow-up was given when the batch was started.
    pub input: In,
}

impl<In> BatchEnded<In> {
    /// The end of an empty batch, for who starts or tests the workflow of a follow-up by hand. The
    /// counts may be set.
    pub fn new(batch: impl Into<String>, input: In) -> Self {
        Self { batch: batch.into(), total: 0, completed: 0, dead: 0, cancelled: 0, input }
    }
}

/// What a batch is stored under, in its namespace.
pub fn batch_hash(name: &str) -> u128 {
    XxHash3_128::oneshot(name.as_bytes())
}

/// The id of the run that follows a batch. No run's name has it: names hold no control characters.
pub fn follow_up_id(namespace: Namespace, name: &str, no: BatchNo) -> RunId {
    RunId::from_name(namespace, &format!("\u{1}batch {} {name}", no.0))
}

#[cfg_attr(
    not(any(feature = "server", feature = "inspect")),
    expect(dead_code, reason = "the engine's, and a worker has none")
)]
/// The payload that is a [`BatchEnded`] around `input`, which stays encoded as it is.
pub(crate) fn ended_payload(name: &str, counts: BatchCounts, input: &Payload) -> Payload {
    /// A map of six.
    const MAP: u8 = 0x86;
    let mut bytes = vec![CODEC_MESSAGEPACK, MAP];
    let into = &mut bytes;
    encode_fields(&"batch", into);
    encode_fields(&name, into);
    let figures = [
        ("total", counts.total),
        ("completed", counts.completed),
        ("dead", counts.dead),
        ("cancelled", counts.cancelled),
    ];
    for (what, count) in figures {
        encode_fields(&what, into);
        encode_fields(&count, into);
    }
    encode_fields(&"input", into);
    into.extend_from_slice(input.0.get(1..).unwrap_or_default());
    Payload(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follow_up_reads_the_counts_and_its_input() {
        let counts = BatchCounts { total: 70_000, completed: 69_997, dead: 2, cancelled: 1 };
        let input = Payload::of(&("mail", 7)).unwrap();
        let found: BatchEnded<(String, u32)> =
            ended_payload("nightly", counts, &input).to().unwrap();
        let expected = BatchEnded {
            batch: "nightly".to_owned(),
            total: 70_000,
            completed: 69_997,
            dead: 2,
            cancelled: 1,
            input: ("mail".to_owned(), 7),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn a_name_used_again_has_another_follow_up() {
        let id = |no| follow_up_id(Namespace(0), "nightly", BatchNo(no));
        assert_ne!(id(1), id(2));
        assert_eq!(id(1), id(1));
    }
}
