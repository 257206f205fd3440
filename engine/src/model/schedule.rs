//! Schedules: what is started again and again, and when.
//!
//! An **occurrence** of a schedule has a *nominal time*, the instant its expression names. Its
//! run's id is made of the schedule's name and that instant, so that starting it twice is starting
//! it once.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use super::calendar::Calendar;
use super::id::{Namespace, RunId, RunNo};
use super::payload::Payload;
use super::request::StartRun;
use super::time::Time;
use crate::canary::canary;
use crate::numbered::numbered;

/// How many schedules there may be: each is held in memory, at most 4 KiB of it.
pub const SCHEDULES_MAX: usize = 10_000;
/// The largest input of a schedule's runs, in bytes: it is one row, and in memory.
pub const SCHEDULE_INPUT_BYTES_MAX: usize = 2_048;
/// The longest cron expression, in bytes.
pub const CRON_BYTES_MAX: usize = 256;
/// The shortest interval.
pub const EVERY_MIN: Duration = Duration::from_secs(1);
/// The longest interval, jitter or catch-up window.
pub const SPAN_MAX: Duration = Duration::from_secs(366 * 86_400);
/// The shortest catch-up window: what is late by less is not missed.
pub const CATCH_UP_MIN: Duration = Duration::from_secs(10);
/// The catch-up window unless told otherwise.
pub const CATCH_UP_DEFAULT: Duration = Duration::from_secs(3_600);
/// Occurrences that wait for the run before them, under `queue all`.
pub const PENDING_MAX: usize = 100;
/// Occurrences that one page of a backfill starts.
pub const BACKFILL_PAGE_MAX: u32 = 100;
/// Occurrences told in one call.
pub const NEXT_MAX: u32 = 1_000;
/// Rows of one page of a listing.
pub const SCHEDULE_ROWS_MAX: u32 = 100;
/// Occurrences of a cron expression that were missed are counted up to here, and no further.
pub const MISSED_COUNTED_MAX: u64 = 1_000;

/// At the wall times of a zone that a cron expression names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CronTimes {
    /// Five fields (minute, hour, day of month, month, day of week), or six with the second in
    /// front.
    pub expression: String,
    /// The name of the IANA time zone.
    pub zone: String,
}

/// Every so often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EveryTimes {
    /// The interval in milliseconds.
    pub every_ms: u64,
    /// One of the occurrences: the others are a whole number of intervals later.
    pub anchor: Time,
}

numbered! {
    /// When a schedule's occurrences are.
    #[derive(Debug, Clone, PartialEq, Eq)]
    #[cfg_attr(not(feature = "inspect"), non_exhaustive)]
    pub enum When {
        /// By a cron expression.
        1 => CronTimes,
        /// By an interval.
        2 => EveryTimes,
    }
}

/// What happens to an occurrence while the schedule's last run has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub enum Overlap {
    /// It is left out.
    #[default]
    Skip,
    /// It waits until the last run has ended; those after it are left out meanwhile.
    QueueOne,
    /// It waits its turn, behind [`PENDING_MAX`] others at most.
    QueueAll,
    /// The last run is asked to stop, and it starts at once.
    CancelOld,
    /// It starts at once, beside the others.
    Allow,
}

impl Overlap {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Skip, Self::QueueOne, Self::QueueAll, Self::CancelOld, Self::Allow];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::QueueOne => "queue-one",
            Self::QueueAll => "queue-all",
            Self::CancelOld => "cancel-old",
            Self::Allow => "allow",
        }
    }
}

impl std::str::FromStr for Overlap {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|policy| policy.as_str() == word)
            .ok_or_else(|| format!("`{word}` is not an overlap policy"))
    }
}

impl From<Overlap> for u8 {
    fn from(overlap: Overlap) -> Self {
        1 + Overlap::ALL.iter().position(|&policy| policy == overlap).map_or(0, |at| at as Self)
    }
}

impl TryFrom<u8> for Overlap {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        let at = usize::from(number).wrapping_sub(1);
        Self::ALL
            .get(at)
            .copied()
            .ok_or_else(|| format!("overlap policy {number} is not known to this version"))
    }
}

/// What a schedule starts, and when: all that its owner says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleSpec {
    /// Its name, unique in its namespace.
    pub name: String,
    /// The workflow its runs are of.
    pub workflow: String,
    /// The workflow's version as the owner knows it.
    pub version: u32,
    /// The queue their turns go through.
    pub queue: String,
    /// 0 to 9, 0 first.
    pub priority: u8,
    /// What their function gets.
    pub input: Payload,
    /// When.
    pub when: When,
    /// Each occurrence is put off by a part of this, drawn from the schedule and the nominal time;
    /// never beyond the next.
    pub jitter_ms: u64,
    /// What happens while the last run has not ended.
    pub overlap: Overlap,
    /// Of the occurrences missed within this time only the newest is started.
    pub catch_up_ms: u64,
    /// Its runs go only to workers that offer all of these.
    #[serde(default)]
    pub tags: Vec<String>,
}

/// How far a schedule is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct ScheduleState {
    /// When this was written.
    pub at: Time,
    /// Who paused it, if it is paused.
    pub paused_by: Option<String>,
    /// The nominal time of the next occurrence; none while it is paused, and if there is none any
    /// more.
    pub next: Option<Time>,
    /// The nominal time of the last run.
    pub last: Option<Time>,
    /// The last run.
    pub last_run: Option<RunNo>,
    /// Nominal times that wait for the last run to end.
    pub pending: Vec<Time>,
    /// Occurrences that were started, backfill not counted.
    pub started: u64,
    /// Occurrences left out because the last run had not ended.
    pub skipped: u64,
    /// Occurrences missed: the engine was away, or too many were waiting.
    pub missed: u64,
}

/// A schedule as listings tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct ScheduleInfo {
    /// What it starts, and when.
    pub spec: ScheduleSpec,
    /// When it was set to this.
    pub set_at: Time,
    /// By whom.
    pub set_by: String,
    /// How far it is.
    pub state: ScheduleState,
}

/// An occurrence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct Occurrence {
    /// The instant the schedule names.
    pub nominal: Time,
    /// When it is started: later by its part of the jitter.
    pub due: Time,
}

/// Occurrences whose time has come.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct Passed {
    /// The newest of them, if it is not too old.
    pub newest: Option<Time>,
    /// How many others there were, at least.
    pub missed: u64,
    /// The first one whose time has not come.
    pub next: Option<Time>,
}

impl ScheduleSpec {
    /// The name of an occurrence's run.
    pub fn run_name(&self, nominal: Time) -> String {
        format!("schedule/{}/{}", self.name, nominal_text(nominal))
    }

    #[cfg_attr(
        not(any(feature = "server", feature = "inspect")),
        expect(dead_code, reason = "the engine's, and a worker has none")
    )]
    /// The run of an occurrence.
    pub(crate) fn run(&self, namespace: Namespace, nominal: Time, now: Time) -> StartRun {
        let name = self.run_name(nominal);
        let id = match canary!("an occurrence's run id is made of when it is started") {
            true => format!("{name} at {now}"),
            false => name.clone(),
        };
        StartRun {
            id: RunId::from_name(namespace, &id),
            name: Some(name),
            workflow: self.workflow.clone(),
            version: self.version,
            queue: self.queue.clone(),
            priority: self.priority,
            delay_ms: 0,
            input: self.input.clone(),
            tags: self.tags.clone(),
            unique: None,
        }
    }

    /// When an occurrence is started: a part of the jitter after its nominal time, never beyond the
    /// next one.
    pub fn due(&self, calendar: &Calendar, nominal: Time) -> Time {
        if self.jitter_ms == 0 {
            return nominal;
        }
        let room = match calendar.after(nominal) {
            Some(next) => (next.0 - nominal.0 - 1).min(self.jitter_ms),
            None => self.jitter_ms,
        };
        let mut bytes = self.name.clone().into_bytes();
        bytes.extend_from_slice(&nominal.0.to_be_bytes());
        let drawn = XxHash3_64::oneshot(&bytes) % room.saturating_add(1).max(1);
        Time(nominal.0.saturating_add(drawn))
    }

    /// What has come due at `now`, if `next` is the first occurrence that was not dealt with; none
    /// if that is not due.
    pub fn passed(&self, calendar: &Calendar, next: Time, now: Time) -> Option<Passed> {
        if self.due(calendar, next) > now {
            return None;
        }
        let mut newest = calendar.last_within(next, now).unwrap_or(next);
        if newest > next && self.due(calendar, newest) > now {
            let before = Time(newest.0 - 1);
            newest = calendar.last_within(next, before).unwrap_or(next);
        }
        let late = now.since(self.due(calendar, newest));
        let in_time = late <= Duration::from_millis(self.catch_up_ms);
        let older = calendar.count(next, newest, MISSED_COUNTED_MAX);
        Some(Passed {
            newest: in_time.then_some(newest),
            missed: older + u64::from(!in_time),
            next: calendar.after(newest),
        })
    }

    /// The next occurrences, from `first` on.
    pub fn occurrences(
        &self,
        calendar: &Calendar,
        first: Option<Time>,
        count: u32,
    ) -> Vec<Occurrence> {
        let nominals = std::iter::successors(first, |nominal| calendar.after(*nominal));
        let occurrence = |nominal| Occurrence { nominal, due: self.due(calendar, nominal) };
        nominals.map(occurrence).take(count as usize).collect()
    }
}

/// A nominal time as names hold it: RFC 3339 in UTC, milliseconds only where there are any.
pub fn nominal_text(nominal: Time) -> String {
    let text = nominal.to_string();
    match text.strip_suffix(".000Z") {
        Some(seconds) => format!("{seconds}Z"),
        None => text,
    }
}

/// A span in the largest unit that divides it: `15m`, `1d`.
pub fn span_text(ms: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let unit = UNITS.iter().find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{ms}ms"), |(unit, name)| format!("{}{name}", ms / unit))
}

impl std::fmt::Display for When {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::CronTimes(cron) => write!(f, "{} {}", cron.expression, cron.zone),
            Self::EveryTimes(every) => {
                write!(f, "every {}", span_text(every.every_ms))?;
                match every.anchor {
                    Time(0) => Ok(()),
                    anchor => write!(f, " from {}", nominal_text(anchor)),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_in_their_largest_unit() {
        let texts = [0, 1_500, 30_000, 900_000, 7_200_000, 86_400_000].map(span_text);
        assert_eq!(texts, ["0ms", "1500ms", "30s", "15m", "2h", "1d"]);
    }

    #[test]
    fn a_run_is_named_after_its_schedule_and_nominal_time() {
        assert_eq!(nominal_text(Time(1_772_344_800_000)), "2026-03-01T06:00:00Z");
        assert_eq!(nominal_text(Time(1_772_344_800_250)), "2026-03-01T06:00:00.250Z");
    }

    #[test]
    fn policies_are_told_by_their_word_and_number() {
        for (number, policy) in (1..).zip(Overlap::ALL) {
            assert_eq!(policy.as_str().parse(), Ok(policy));
            assert_eq!((u8::from(policy), Overlap::try_from(number)), (number, Ok(policy)));
        }
        assert!(Overlap::try_from(0).is_err() && Overlap::try_from(6).is_err());
    }
}
