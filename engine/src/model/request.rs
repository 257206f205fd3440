//! What clients ask of the engine, and how it says no.

use serde::{Deserialize, Serialize};

use super::batch::BatchNo;
use super::id::{CommandIndex, Namespace, RequestId, RunId, Token};
use super::payload::Payload;
use super::run::RunState;
use super::schedule::span_text;
use super::setters::setters;
use super::time::Time;
use super::unique::UniqueKey;
use crate::numbered::numbered;

/// Travels with every request.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct Caller {
    /// Whose runs are meant.
    pub namespace: Namespace,
    /// Who asks.
    pub principal: String,
    /// The id of the request, the same in every retry of it.
    pub request_id: RequestId,
    /// W3C trace context.
    pub traceparent: Option<String>,
}

/// Start a run, unless one of this id exists.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct StartRun {
    /// The run.
    pub id: RunId,
    /// The name its id was made of, if any.
    pub name: Option<String>,
    /// The workflow's name.
    pub workflow: String,
    /// The workflow's version as the starter knows it.
    pub version: u32,
    /// The queue its turns go through.
    pub queue: String,
    /// 0 to 9, 0 first.
    pub priority: u8,
    /// Does not run before this many milliseconds have passed.
    pub delay_ms: u64,
    /// What the function gets.
    pub input: Payload,
    /// Only workers that offer all of these get it.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Unless another run holds this key.
    #[serde(default)]
    pub unique: Option<UniqueKey>,
}

/// A run of a call that could not be started, and so none of the call was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct Offender {
    /// Its place in the call, from 0.
    pub at: u32,
    /// Its id.
    pub id: RunId,
    /// Why not.
    pub reason: Refusal,
}

/// The runs for which nothing of a call was started.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offenders(pub Vec<Offender>);

impl std::fmt::Display for Offenders {
    /// The first three of them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const TOLD: usize = 3;
        for (index, offender) in self.0.iter().take(TOLD).enumerate() {
            let and = if index > 0 { "; " } else { "" };
            write!(f, "{and}number {} of the call: {}", offender.at + 1, offender.reason)?;
        }
        match self.0.len() > TOLD {
            true => f.write_str("; and others"),
            false => Ok(()),
        }
    }
}

/// Which runs to list, newest first. What is not set fits all of them.
///
/// ```
/// use stepwell::RunState;
/// use stepwell::model::request::ListRuns;
///
/// let list = ListRuns::default().workflow("checkout").state(RunState::Dead).limit(100);
/// assert_eq!(list.before, None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ListRuns {
    /// Only runs in this state.
    pub state: Option<RunState>,
    /// Only runs of this workflow.
    pub workflow: Option<String>,
    /// Only runs started before this one (the last of the page before).
    pub before: Option<u64>,
    /// At most this many rows; at most [`PAGE_ROWS_MAX`](super::limits::PAGE_ROWS_MAX).
    pub limit: u32,
    /// Only runs of this batch.
    #[serde(default)]
    pub batch: Option<BatchNo>,
    /// Only this run and those started after it.
    #[serde(default)]
    pub from: Option<u64>,
}

impl ListRuns {
    setters! {
        state: Option<RunState>,
        workflow: Option<String>,
        /// The number is the run's place in the order of starts.
        before: Option<u64>,
        /// From 1 to 1,000 rows; a number outside that range counts as the nearer end of it. The
        /// default, 0, lists one row.
        limit: u32,
        batch: Option<BatchNo>,
        /// The number is the run's place in the order of starts.
        from: Option<u64>,
    }
}

macro_rules! refusals {
    ($($(#[$meta:meta])* $number:literal => $name:ident { $($(#[$fmeta:meta])* $field:ident : $type:ty),* $(,)? } $message:literal),+ $(,)?) => {
        $(
            $(#[$meta])*
            #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
            #[error($message)]
            #[cfg_attr(not(feature = "inspect"), non_exhaustive)]
            pub struct $name { $($(#[$fmeta])* pub $field: $type),* }
        )+

        numbered! {
            /// How the engine says no. Nothing was changed by a call that got one.
            #[derive(Debug, Clone, PartialEq, Eq)]
            #[cfg_attr(not(feature = "inspect"), non_exhaustive)]
            pub enum Refusal { $($(#[$meta])* $number => $name),+; else OfLaterVersion }
        }

        impl std::fmt::Display for Refusal {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self { $(Self::$name(refusal) => refusal.fmt(f)),+ }
            }
        }

        impl std::error::Error for Refusal {}
    };
}

refusals! {
    /// A run of this id exists and is another one.
    1 => IdTaken {
        /// The run.
        id: RunId,
        /// What differs: `workflow`, `input` or `name`.
        differs: String,
        /// What the existing run has.
        existing: String,
        /// What was asked for.
        asked: String,
    } "the name is taken: {id} exists already with another {differs}: it has {existing}, the call asks for {asked}",
    /// No run of this id.
    2 => NoSuchRun {
        /// The run.
        id: RunId,
    } "there is no run {id}",
    /// A payload over the limit.
    3 => PayloadTooLarge {
        /// Its length.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    } "the payload has {bytes} bytes, more than the {bytes_max} allowed: pass an id and read the data in a step, or raise `payload_bytes_max` (`stepwell serve --payload-max`)",
    /// A name that is empty, too long or holds control characters.
    4 => BadName {
        /// Of what.
        what: String,
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: String,
    } "the {what} name `{name}` {problem}",
    /// The run has ended.
    5 => HasEnded {
        /// The run.
        id: RunId,
        /// How.
        state: RunState,
    } "{id} has ended already: it is {state}",
    /// The run is not in a state that allows this.
    6 => NotResumable {
        /// The run.
        id: RunId,
        /// Its state.
        state: RunState,
    } "{id} is {state}: only a parked or paused run can be resumed",
    /// More in one call than allowed.
    7 => TooMany {
        /// Of what.
        what: String,
        /// How many.
        count: u64,
        /// The limit.
        count_max: u64,
    } "{count} {what} in one call are more than the {count_max} allowed",
    /// The lease is not (or no longer) the current one.
    8 => StaleToken {
        /// The run.
        id: Option<RunId>,
        /// The step, if the report was about one.
        number: Option<CommandIndex>,
        /// The token of the report.
        token: Token,
        /// The current one, if there is one.
        current: Option<Token>,
    } "the report was made under token {token}, which is not the run's current one",
    /// The journal is full.
    9 => JournalFull {
        /// The run.
        id: RunId,
        /// Entries it holds.
        entries: u32,
        /// The limit.
        entries_max: u32,
    } "{id} holds {entries} entries and may hold {entries_max}: it is paused; raise `journal_entries_max` and resume it",
    /// What is stored about the run is damaged.
    10 => Damaged {
        /// The run.
        id: Option<RunId>,
        /// What disagrees with what.
        what: String,
    } "what is stored of the run is damaged: {what}; the run is stopped, others are not affected",
    /// The engine has stopped for good.
    11 => Poisoned {
        /// Why.
        cause: String,
    } "the engine has stopped and acknowledges nothing more: {cause}",
    /// A number out of its range.
    12 => OutOfRange {
        /// Of what.
        what: String,
        /// The number.
        value: u64,
        /// The largest allowed.
        max: u64,
    } "{what} {value} is out of range: at most {max}",
    /// The request makes no sense to this version.
    13 => NotUnderstood {
        /// Why.
        cause: String,
    } "the request is not understood: {cause}",
    /// A reason that this version does not know.
    14 => OfLaterVersion {
        /// Its number.
        number: u8,
    } "the engine is of a later version and has a reason of its own (number {number})",
    /// No queue of this name.
    20 => NoSuchQueue {
        /// The name.
        queue: String,
    } "there is no queue `{queue}`: nothing was ever started in it and no worker offers it",
    /// A rate limit out of its range.
    21 => BadRate {
        /// What was asked for.
        rate: String,
    } "the rate limit {rate} is out of range: 1 to 1,000,000 dispatches, in 1 ms to 1 day, burst 1 to 1,000,000",
    /// Only a dead letter can be edited, redriven or discarded.
    30 => NotDead {
        /// The run.
        id: RunId,
        /// Its state.
        state: RunState,
    } "{id} is {state}: it is not a dead letter",
    /// The workflow did more after it had seen the failure it died of.
    31 => WentOn {
        /// The run.
        id: RunId,
        /// The step that failed.
        step: CommandIndex,
    } "{id} cannot be redriven: its workflow went on after it had seen step {step} fail, and trying that step again would undo the order of what it did since; start another run instead",
    /// Bytes that are no payload.
    32 => BadInput {
        /// What is wrong with them.
        problem: String,
    } "the input is not a payload: {problem}",
    /// An atomic start, some of whose runs cannot be started.
    55 => NotAllStarted {
        /// Runs in the call.
        count: u64,
        /// How many of them cannot be started.
        offending: u64,
        /// The first of these, at most a hundred.
        offenders: Offenders,
    } "none of the {count} runs was started, because {offending} of them cannot be: {offenders}",
    /// No batch of this name.
    56 => NoSuchBatch {
        /// The name.
        name: String,
    } "there is no batch `{name}`",
    /// The batch takes no more runs.
    57 => BatchSealed {
        /// The name.
        name: String,
    } "the batch `{name}` is sealed and takes no more runs",
    /// The batch has another run to follow it.
    58 => OtherFollowUp {
        /// The batch.
        name: String,
        /// The workflow that follows it.
        existing: String,
        /// The one that was asked for.
        asked: String,
    } "the batch `{name}` is followed by `{existing}` already; the call asks for `{asked}`, or for another input",
    /// No schedule of this name.
    40 => NoSuchSchedule {
        /// The name.
        name: String,
    } "there is no schedule `{name}`",
    /// A cron expression that cannot be read.
    41 => BadCron {
        /// The expression.
        expression: String,
        /// Where it goes wrong: the number of the character, from 1.
        position: u32,
        /// What is wrong there, and what is expected.
        problem: String,
    } "the cron expression `{expression}` is wrong at character {position}: {problem}",
    /// A time zone that is not known.
    42 => UnknownZone {
        /// Its name.
        zone: String,
        /// Names that are near it.
        near: String,
    } "there is no time zone `{zone}`: did you mean {near}?",
    /// A span that is too short or too long.
    43 => BadSpan {
        /// Of what.
        what: String,
        /// The span, as text.
        span: String,
        /// The shortest allowed.
        min: String,
        /// The longest allowed.
        max: String,
    } "{what} is {span}: from {min} to {max} are allowed",
    /// A cron expression that names no day there is.
    44 => NeverFires {
        /// The expression.
        expression: String,
    } "the cron expression `{expression}` never matches",
    /// As many schedules as there may be.
    45 => TooManySchedules {
        /// The limit.
        count_max: u64,
    } "there are {count_max} schedules, and no more are allowed: remove one, or let one start several runs",
    /// A part of the past that cannot be filled.
    46 => BadBackfill {
        /// From.
        from: Time,
        /// To.
        to: Time,
        /// Why.
        problem: String,
    } "from {from} to {to} cannot be filled: {problem}",
    /// An input that does not fit a schedule.
    47 => ScheduleInputTooLarge {
        /// Its length.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    } "the input has {bytes} bytes, and that of a schedule at most {bytes_max}: pass an id and read the data in a step",
}

impl BadSpan {
    pub(crate) fn of(what: &str, ms: u64, min_ms: u64, max_ms: u64) -> Refusal {
        Self {
            what: what.to_owned(),
            span: span_text(ms),
            min: span_text(min_ms),
            max: span_text(max_ms),
        }
        .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A refusal is in replies, answers to starts, and what a worker is told: none of them must
    // become unreadable because an engine has a new reason.
    #[test]
    fn a_reason_of_a_later_version_is_told_by_its_number() {
        assert!(Refusal::KINDS.iter().all(|(number, _)| *number != 250));
        let found = Refusal::decode(&[250, 0x92, 1, 2]);
        assert_eq!(found, Ok(OfLaterVersion { number: 250 }.into()));
        let handed_on = found.map(|refusal| refusal.encode());
        assert_eq!(handed_on, Ok(vec![14, 0x91, 0xcc, 250]), "as this version says it");
        assert!(Refusal::decode(&[]).is_err());
    }
}
