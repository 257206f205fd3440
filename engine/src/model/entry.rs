//! Journal entries: what is known for ever about a run, in the order in which it became known.
//!
//! Entry 0 is [`Started`]. An entry that *resolves* something (a step's outcome, a fired timer, a cancel request) is
//! handed to the workflow function in journal order, exactly one between two polls, live and in replay; the others
//! only tell the engine and people what happened on the way.

use serde::{Deserialize, Serialize};

use super::batch::BatchNo;
use super::failure::Failure;
use super::id::{CommandId, Incarnation, Namespace, RunId, StepNo};
use super::payload::Payload;
use super::time::Time;
use super::unique::UniqueKey;
use crate::numbered::numbered;

/// The run began to exist. Always entry 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// When, and the first answer of `ctx.now()`.
    pub at: Time,
    /// The run.
    pub id: RunId,
    /// The name it was given, if any.
    pub name: Option<String>,
    /// Whose it is.
    pub namespace: Namespace,
    /// The workflow's name.
    pub workflow: String,
    /// The workflow's version as the starter knew it.
    pub version: u32,
    /// The queue its turns go through.
    pub queue: String,
    /// 0 to 9, 0 first.
    pub priority: u8,
    /// Who started it.
    pub principal: String,
    /// The command that started it.
    pub command: CommandId,
    /// W3C trace context of the starter.
    pub traceparent: Option<String>,
    /// What the function gets.
    pub input: Payload,
    /// Not granted before this instant.
    #[serde(default)]
    pub not_before: Option<Time>,
    /// The unique key it took.
    #[serde(default)]
    pub unique: Option<UniqueKey>,
    /// The batch it belongs to.
    #[serde(default)]
    pub batch: Option<BatchNo>,
}

/// Where in the code a command was given, for people.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Place {
    /// The name the author gave it; empty for a timer.
    pub name: String,
    /// File and line, `order.rs:41`.
    pub at: String,
    /// The workflow's version that ran.
    pub version: u32,
}

/// A step ended well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepCompleted {
    /// When it was committed.
    pub at: Time,
    /// Which command.
    pub number: StepNo,
    /// Where in the code.
    pub place: Place,
    /// Which attempt, the first is 1.
    pub attempt: u32,
    /// What it returned.
    pub output: Payload,
}

/// A step ended badly, after its retries. The workflow sees the failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepFailed {
    /// When it was committed.
    pub at: Time,
    /// Which command.
    pub number: StepNo,
    /// Where in the code.
    pub place: Place,
    /// How many attempts were made.
    pub attempt: u32,
    /// Why the last one failed.
    pub failure: Failure,
}

/// One attempt at a step failed and another will be made. Resolves nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptFailed {
    /// When it was committed.
    pub at: Time,
    /// Which command; [`StepNo::WHOLE`] if it was the function itself.
    pub number: StepNo,
    /// Where in the code.
    pub place: Place,
    /// Which attempt, the first is 1.
    pub attempt: u32,
    /// Why.
    pub failure: Failure,
    /// Not tried again before this instant.
    pub retry_at: Time,
    /// Whether it used up a retry.
    pub counted: bool,
    /// The worker process it failed in.
    pub incarnation: Incarnation,
    /// The build that worker ran.
    pub build: String,
}

/// A timer was set. Resolves nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerArmed {
    /// When it was committed.
    pub at: Time,
    /// Which command.
    pub number: StepNo,
    /// Where in the code.
    pub place: Place,
    /// When it is due.
    pub due: Time,
}

/// A timer was due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerFired {
    /// When it was committed; not before it was due.
    pub at: Time,
    /// Which command.
    pub number: StepNo,
}

/// Somebody asked the run to stop. Everything pending in the function answers with a cancelled failure; what it
/// starts afterwards runs normally, so that it can clean up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelRequested {
    /// When it was committed.
    pub at: Time,
    /// Who asked.
    pub principal: String,
    /// Why.
    pub reason: String,
}

/// The function returned. The last entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completed {
    /// When it was committed.
    pub at: Time,
    /// What it returned.
    pub output: Payload,
}

/// The run failed and is a dead letter. The last entry, unless it is redriven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Died {
    /// When it was committed.
    pub at: Time,
    /// Why.
    pub failure: Failure,
    /// The worker process it last ran in.
    pub incarnation: Incarnation,
    /// The build that worker ran.
    pub build: String,
}

/// The run ended because it was cancelled. The last entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancelled {
    /// When it was committed.
    pub at: Time,
}

numbered! {
    /// One entry of a run's journal.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum Entry {
        /// Entry 0.
        1 => Started,
        /// Resolves a step.
        2 => StepCompleted,
        /// Resolves a step.
        3 => StepFailed,
        /// On the way.
        4 => AttemptFailed,
        /// On the way.
        5 => TimerArmed,
        /// Resolves a timer.
        6 => TimerFired,
        /// Resolves all that is pending.
        7 => CancelRequested,
        /// The end.
        8 => Completed,
        /// The end.
        9 => Died,
        /// The end.
        10 => Cancelled,
    }
}

impl Entry {
    /// When it was committed.
    pub fn at(&self) -> Time {
        match self {
            Self::Started(e) => e.at,
            Self::StepCompleted(e) => e.at,
            Self::StepFailed(e) => e.at,
            Self::AttemptFailed(e) => e.at,
            Self::TimerArmed(e) => e.at,
            Self::TimerFired(e) => e.at,
            Self::CancelRequested(e) => e.at,
            Self::Completed(e) => e.at,
            Self::Died(e) => e.at,
            Self::Cancelled(e) => e.at,
        }
    }

    /// The command it is about, if it is about one.
    pub fn number(&self) -> Option<StepNo> {
        match self {
            Self::StepCompleted(e) => Some(e.number),
            Self::StepFailed(e) => Some(e.number),
            Self::AttemptFailed(e) => Some(e.number),
            Self::TimerArmed(e) => Some(e.number),
            Self::TimerFired(e) => Some(e.number),
            _ => None,
        }
    }

    /// Whether the workflow function sees it: one such entry is resolved between two polls.
    pub fn resolves(&self) -> bool {
        matches!(
            self,
            Self::StepCompleted(_)
                | Self::StepFailed(_)
                | Self::TimerFired(_)
                | Self::CancelRequested(_)
        )
    }

    /// Whether the run has ended with it.
    pub fn ends(&self) -> bool {
        matches!(
            self,
            Self::Completed(_) | Self::Died(_) | Self::Cancelled(_)
        )
    }

    /// The command's kind and place, where the entry tells.
    pub fn place(&self) -> Option<(CommandKind, &Place)> {
        match self {
            Self::StepCompleted(e) => Some((CommandKind::Step, &e.place)),
            Self::StepFailed(e) => Some((CommandKind::Step, &e.place)),
            Self::AttemptFailed(e) if e.number != StepNo::WHOLE => {
                Some((CommandKind::Step, &e.place))
            }
            Self::TimerArmed(e) => Some((CommandKind::Timer, &e.place)),
            _ => None,
        }
    }
}

/// The sorts of numbered commands a workflow gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandKind {
    /// `ctx.step`
    Step,
    /// `ctx.sleep`
    Timer,
}

impl std::fmt::Display for CommandKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Step => "step",
            Self::Timer => "timer",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_round_trip() {
        let entry = Entry::from(StepCompleted {
            at: Time(1),
            number: StepNo(3),
            place: Place {
                name: "charge".into(),
                at: "order.rs:41".into(),
                version: 2,
            },
            attempt: 1,
            output: Payload::of(&17).unwrap(),
        });
        assert_eq!(Entry::decode(&entry.encode()).unwrap(), entry);
    }

    #[test]
    fn an_unknown_kind_is_an_error() {
        assert!(Entry::decode(&[250, 0x90]).is_err());
        assert!(Entry::decode(&[]).is_err());
    }

    #[test]
    fn golden_bytes_of_a_step() {
        let entry = Entry::from(StepCompleted {
            at: Time(1_000),
            number: StepNo(3),
            place: Place {
                name: "charge".into(),
                at: "order.rs:41".into(),
                version: 2,
            },
            attempt: 1,
            output: Payload::of(&17).unwrap(),
        });
        let hex: String = entry.encode().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "0295cd03e80393a6636861726765ab6f726465722e72733a34310201c4020111"
        );
    }
}
