//! Journal entries: what is known for ever about a run, in the order in which it became known.
//!
//! Entry 0 is [`Started`]. An entry that *resolves* something (a step's outcome, a fired timer, a
//! cancel request) is handed to the workflow function in journal order, exactly one between two
//! polls, live and in replay; the others only tell the engine and people what happened on the way.

use serde::{Deserialize, Serialize};

use super::batch::BatchNo;
use super::failure::Failure;
use super::id::{CommandIndex, Namespace, ProcessInstance, RequestId, RunId};
use super::payload::Payload;
use super::time::Time;
use super::unique::UniqueKey;
use crate::numbered::numbered;

/// The run began to exist. Always entry 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
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
    /// The id of the request that started it.
    pub request_id: RequestId,
    /// W3C trace context of the starter.
    pub traceparent: Option<String>,
    /// What the function gets.
    pub input: Payload,
    /// Does not run before this instant.
    #[serde(default)]
    pub not_before: Option<Time>,
    /// Only workers that offer all of these get it.
    #[serde(default)]
    pub tags: Vec<String>,
    /// The unique key it took.
    #[serde(default)]
    pub unique: Option<UniqueKey>,
    /// The batch it belongs to.
    #[serde(default)]
    pub batch: Option<BatchNo>,
}

/// Where in its source code a workflow asked for a command, for people to read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct SourceLocation {
    /// The name the author gave it; empty for a timer.
    pub name: String,
    /// File and line, `order.rs:41`.
    pub at: String,
    /// The workflow's version that ran.
    pub version: u32,
}

/// The attempt number of a memoized result that another run came to.
pub const NOT_ATTEMPTED: u32 = 0;

/// A step ended well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct StepCompleted {
    /// When it was committed.
    pub at: Time,
    /// The index of the command.
    pub number: CommandIndex,
    /// Where the code asked for the command.
    pub location: SourceLocation,
    /// Which attempt, the first is 1. 0 if another run came to the result: see
    /// [`Ctx::memoize`](crate::Ctx::memoize).
    pub attempt: u32,
    /// What it returned.
    pub output: Payload,
}

/// A step ended badly, after its retries. The workflow sees the failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct StepFailed {
    /// When it was committed.
    pub at: Time,
    /// The index of the command.
    pub number: CommandIndex,
    /// Where the code asked for the command.
    pub location: SourceLocation,
    /// How many attempts were made.
    pub attempt: u32,
    /// Why the last one failed.
    pub failure: Failure,
    /// The worker process it failed in.
    #[serde(default)]
    pub process: ProcessInstance,
    /// The build that worker ran.
    #[serde(default)]
    pub build: String,
}

/// One attempt at a step failed and another will be made. Resolves nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct AttemptFailed {
    /// When it was committed.
    pub at: Time,
    /// The command; [`CommandIndex::FUNCTION`] if it was the function itself.
    pub number: CommandIndex,
    /// Where the code asked for the command.
    pub location: SourceLocation,
    /// Which attempt, the first is 1.
    pub attempt: u32,
    /// Why.
    pub failure: Failure,
    /// Not tried again before this instant.
    pub retry_at: Time,
    /// Whether it used up a retry.
    pub counted: bool,
    /// The worker process it failed in.
    pub process: ProcessInstance,
    /// The build that worker ran.
    pub build: String,
}

/// A timer was set. Resolves nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct TimerArmed {
    /// When it was committed.
    pub at: Time,
    /// The index of the command.
    pub number: CommandIndex,
    /// Where the code asked for the command.
    pub location: SourceLocation,
    /// When it is due.
    pub due: Time,
}

/// A timer was due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct TimerFired {
    /// When it was committed; not before it was due.
    pub at: Time,
    /// The index of the command.
    pub number: CommandIndex,
}

/// Somebody asked the run to stop. Everything pending in the function answers with a cancelled
/// failure; what it starts afterwards runs normally, so that it can clean up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
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
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct Completed {
    /// When it was committed.
    pub at: Time,
    /// What it returned.
    pub output: Payload,
}

/// How a function came to its failure, as the worker that ran it saw it: what a redrive has to
/// supersede.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct FunctionEnd {
    /// The entry of the first failed step that the function saw after it had asked for its last
    /// command.
    pub failed_at: Option<u32>,
    /// The step whose failure it ended with although it had asked for further commands after it had
    /// seen it.
    pub went_on: Option<CommandIndex>,
}

/// The run failed and is a dead letter. The last entry, unless it is edited, redriven or discarded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct Died {
    /// When it was committed.
    pub at: Time,
    /// Why.
    pub failure: Failure,
    /// The worker process it last ran in.
    pub process: ProcessInstance,
    /// The build that worker ran.
    pub build: String,
    /// How its function came to the failure; none if it did not end by itself.
    #[serde(default)]
    pub end: Option<FunctionEnd>,
}

/// Somebody sent a dead letter back to work. Supersedes the death, the failed steps from `from` on
/// and all failed attempts of steps without an outcome; they stay in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct Redriven {
    /// When it was committed.
    pub at: Time,
    /// Who.
    pub principal: String,
    /// The id of the request that did it.
    pub request_id: RequestId,
    /// Failed steps from this entry on are superseded.
    pub from: u32,
    /// Its batch had not ended, and counts it among the runs that go on. Else it has left its
    /// batch: what older versions redrove has, too.
    #[serde(default)]
    pub rejoins: bool,
}

/// Somebody gave a dead letter another input. The last one counts; the first stays in [`Started`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct InputEdited {
    /// When it was committed.
    pub at: Time,
    /// Who.
    pub principal: String,
    /// The id of the request that did it.
    pub request_id: RequestId,
    /// What the function gets from now on.
    pub input: Payload,
    /// When the run died.
    pub died_at: Time,
}

/// Somebody took a dead letter off the list. The last entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct Discarded {
    /// When it was committed.
    pub at: Time,
    /// Who.
    pub principal: String,
    /// The id of the request that did it.
    pub request_id: RequestId,
    /// Why.
    pub reason: String,
}

/// The run ended because it was cancelled. The last entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct Cancelled {
    /// When it was committed.
    pub at: Time,
}

numbered! {
    /// One entry of a run's journal.
    #[derive(Debug, Clone, PartialEq, Eq)]
    #[cfg_attr(not(feature = "inspect"), non_exhaustive)]
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
        /// The way back from the dead letters.
        11 => Redriven,
        /// About a dead letter.
        12 => InputEdited,
        /// The end of a dead letter.
        13 => Discarded,
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
            Self::Redriven(e) => e.at,
            Self::InputEdited(e) => e.at,
            Self::Discarded(e) => e.at,
        }
    }

    /// The command it is about, if it is about one.
    pub fn number(&self) -> Option<CommandIndex> {
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

    /// Whether a run has ended whose last entry this is.
    pub fn ends(&self) -> bool {
        matches!(self, Self::Completed(_) | Self::Died(_) | Self::Cancelled(_))
            || matches!(self, Self::InputEdited(_) | Self::Discarded(_))
    }

    /// The id of the operator request that brought it about, if one did: it takes effect once.
    pub fn act(&self) -> Option<RequestId> {
        match self {
            Self::Redriven(e) => Some(e.request_id),
            Self::InputEdited(e) => Some(e.request_id),
            Self::Discarded(e) => Some(e.request_id),
            _ => None,
        }
    }

    /// The command's kind and source location, where the entry tells.
    pub fn source_location(&self) -> Option<(CommandKind, &SourceLocation)> {
        match self {
            Self::StepCompleted(e) => Some((CommandKind::Step, &e.location)),
            Self::StepFailed(e) => Some((CommandKind::Step, &e.location)),
            Self::AttemptFailed(e) if e.number != CommandIndex::FUNCTION => {
                Some((CommandKind::Step, &e.location))
            }
            Self::TimerArmed(e) => Some((CommandKind::Timer, &e.location)),
            _ => None,
        }
    }
}

/// The sorts of numbered commands a workflow gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
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
            number: CommandIndex(3),
            location: SourceLocation {
                name: "charge".into(),
                at: "order.rs:41".into(),
                version: 2,
            },
            attempt: 1,
            output: Payload::of(&17).unwrap(),
        });
        assert_eq!(Entry::decode(&entry.encode()).unwrap(), entry);
    }

    // Stores of the first format hold deaths and failed steps without what later versions add.
    #[test]
    fn entries_of_older_versions_are_read() {
        let failure = Failure::terminal("no");
        let short = (Time(1), failure.clone(), ProcessInstance(2), "b");
        let mut bytes = vec![9];
        crate::numbered::encode_fields(&short, &mut bytes);
        let Entry::Died(died) = Entry::decode(&bytes).unwrap() else {
            panic!("a death");
        };
        assert_eq!((died.failure, died.end), (failure.clone(), None));
        let short = (Time(1), "ops", RequestId(7), 5);
        let mut bytes = vec![11];
        crate::numbered::encode_fields(&short, &mut bytes);
        let Entry::Redriven(redriven) = Entry::decode(&bytes).unwrap() else {
            panic!("a redrive");
        };
        assert_eq!((redriven.from, redriven.rejoins), (5, false));
        let short = (Time(1), CommandIndex(3), SourceLocation::default(), 1, failure);
        let mut bytes = vec![3];
        crate::numbered::encode_fields(&short, &mut bytes);
        let Entry::StepFailed(failed) = Entry::decode(&bytes).unwrap() else {
            panic!("a failed step");
        };
        assert_eq!((failed.attempt, failed.build.as_str()), (1, ""));
    }

    #[test]
    fn golden_bytes_of_the_audit_entries() {
        let (at, principal, request_id) = (Time(1_000), "ops".to_owned(), RequestId(7));
        let hex = |entry: Entry| -> String {
            entry.encode().iter().map(|b| format!("{b:02x}")).collect()
        };
        let redriven =
            Redriven { at, principal: principal.clone(), request_id, from: 5, rejoins: true };
        let edited = InputEdited {
            at,
            principal: principal.clone(),
            request_id,
            input: Payload::of(&17).unwrap(),
            died_at: Time(900),
        };
        let discarded = Discarded { at, principal, request_id, reason: "old".into() };
        assert_eq!(
            hex(redriven.into()),
            "0b95cd03e8a36f7073c4100000000000000000000000000000000705c3"
        );
        assert_eq!(
            hex(edited.into()),
            "0c95cd03e8a36f7073c41000000000000000000000000000000007c4020111cd0384"
        );
        assert_eq!(
            hex(discarded.into()),
            "0d94cd03e8a36f7073c41000000000000000000000000000000007a36f6c64"
        );
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
            number: CommandIndex(3),
            location: SourceLocation {
                name: "charge".into(),
                at: "order.rs:41".into(),
                version: 2,
            },
            attempt: 1,
            output: Payload::of(&17).unwrap(),
        });
        let hex: String = entry.encode().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "0295cd03e80393a6636861726765ab6f726465722e72733a34310201c4020111");
    }
}
