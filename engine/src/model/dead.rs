//! Dead letters: how they are listed and filtered, what was done about them, and what a redrive
//! supersedes.

use serde::{Deserialize, Serialize};

use super::entry::Entry;
use super::id::{ProcessInstance, RunId, RunNo};
use super::setters::setters;
use super::time::Time;

/// The class of a run that killed its workers, one after the other.
pub const WORKER_LOST: &str = "worker lost";

/// The class of a run whose workflow no worker has registered for too long; stored.
pub const UNREGISTERED_WORKFLOW: &str = "unknown workflow";

/// Which dead letters are meant. What is not set fits all of them.
///
/// ```
/// use stepwell::model::dead::DeadFilter;
///
/// let filter = DeadFilter::default().workflow("checkout").class("timeout");
/// assert_eq!(filter.queue, None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeadFilter {
    /// Only of this queue.
    pub queue: Option<String>,
    /// Only of this workflow.
    pub workflow: Option<String>,
    /// Only of this error class.
    pub class: Option<String>,
    /// Only those that died at this instant or later.
    pub since: Option<Time>,
    /// Only those that died before this instant.
    pub before: Option<Time>,
}

impl DeadFilter {
    setters! {
        queue: Option<String>,
        workflow: Option<String>,
        class: Option<String>,
        /// Milliseconds of engine time.
        since: Option<Time>,
        /// Milliseconds of engine time.
        before: Option<Time>,
    }
}

/// Where a page of dead letters ended. The next one goes on behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct DeadCursor {
    /// When the last one died.
    pub died_at: Time,
    /// Its number.
    pub run: RunNo,
}

/// A dead letter as listings tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct DeadLetter {
    /// The run.
    pub id: RunId,
    /// The name it was given, if any.
    pub name: Option<String>,
    /// Its place in the order of starts.
    pub no: RunNo,
    /// The workflow's name.
    pub workflow: String,
    /// Its queue.
    pub queue: String,
    /// The error class.
    pub class: String,
    /// Why it died.
    pub message: String,
    /// When it was started.
    pub started_at: Time,
    /// When it died.
    pub died_at: Time,
    /// Entries in its journal.
    pub entries: u32,
    /// The worker process it last ran in; none if no worker ever did.
    pub process: Option<ProcessInstance>,
    /// The build that worker ran.
    pub build: String,
    /// How often it was redriven before.
    pub redriven: u32,
    /// Whether its input was edited.
    pub edited: bool,
}

/// What an operator did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub enum AuditAction {
    /// Gave a dead letter another input.
    Edit,
    /// Sent a dead letter back to work.
    Redrive,
    /// Took a dead letter off the list.
    Discard,
    /// Let a parked or paused run go on.
    Resume,
    /// Asked a run to stop.
    Cancel,
}

impl AuditAction {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Edit, Self::Redrive, Self::Discard, Self::Resume, Self::Cancel];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Edit => "edit",
            Self::Redrive => "redrive",
            Self::Discard => "discard",
            Self::Resume => "resume",
            Self::Cancel => "cancel",
        }
    }
}

impl std::fmt::Display for AuditAction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl From<AuditAction> for u8 {
    fn from(kind: AuditAction) -> Self {
        match kind {
            AuditAction::Edit => 1,
            AuditAction::Redrive => 2,
            AuditAction::Discard => 3,
            AuditAction::Resume => 4,
            AuditAction::Cancel => 5,
        }
    }
}

impl TryFrom<u8> for AuditAction {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|kind| u8::from(*kind) == number)
            .ok_or_else(|| format!("audit action {number} is not known to this version"))
    }
}

/// An entry of the audit log: what an operator did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct AuditEntry {
    /// When.
    pub at: Time,
    /// Who.
    pub principal: String,
    /// What.
    pub action: AuditAction,
    /// On which run, if on one.
    pub run: Option<RunId>,
    /// On what else, by its name (a queue, say), or the run's name.
    pub subject: String,
    /// Why, or what it was done with.
    pub detail: String,
}

/// Where a page of the audit log ended. The next one goes on behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct AuditCursor {
    /// When the last one was done.
    pub at: Time,
    /// Its number among all entries.
    pub number: u64,
}

/// Which entries of a journal count no more because the run was redriven.
///
/// Superseded are all deaths and all failed attempts before a redrive, and the failed steps from
/// the entry on that it names. Everything else stays: finished steps are not run again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Superseded(Vec<(u32, u32)>);

impl Superseded {
    /// What is superseded in a journal that holds these entries.
    pub fn of<'a>(entries: impl IntoIterator<Item = (u32, &'a Entry)>) -> Self {
        let redrives = entries.into_iter().filter_map(|(index, entry)| match entry {
            Entry::Redriven(redriven) => Some((redriven.from, index)),
            _ => None,
        });
        Self(redrives.collect())
    }

    /// Whether this entry, of this index, is.
    pub fn covers(&self, index: u32, entry: &Entry) -> bool {
        let before = |until: &u32| index < *until;
        match entry {
            Entry::StepFailed(_) => {
                self.0.iter().any(|(from, until)| *from <= index && before(until))
            }
            Entry::AttemptFailed(_) | Entry::Died(_) => {
                self.0.last().is_some_and(|(_, until)| before(until))
            }
            _ => false,
        }
    }

    /// How many redrives there were.
    pub fn redrives(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::entry::{Cancelled, Redriven, StepFailed};
    use crate::model::failure::Failure;
    use crate::model::id::{CommandIndex, RequestId};

    #[test]
    fn a_redrive_supersedes_the_failed_steps_from_its_entry_on() {
        let failed = |number| -> Entry {
            StepFailed {
                at: Time(1),
                number: CommandIndex(number),
                location: Default::default(),
                attempt: 1,
                failure: Failure::terminal("no"),
                process: ProcessInstance(1),
                build: String::new(),
            }
            .into()
        };
        let redriven: Entry = Redriven {
            at: Time(2),
            principal: String::new(),
            request_id: RequestId(1),
            from: 2,
            rejoins: false,
        }
        .into();
        let entries = [
            Cancelled { at: Time(0) }.into(),
            failed(0),
            failed(1),
            failed(2),
            redriven,
            failed(1),
        ];
        let superseded = Superseded::of((0..).zip(&entries));
        let covered: Vec<u32> = (0..)
            .zip(&entries)
            .filter(|(index, entry)| superseded.covers(*index, entry))
            .map(|(index, _)| index)
            .collect();
        assert_eq!(covered, [2, 3]);
    }

    #[test]
    fn audit_actions_keep_their_numbers() {
        for (number, kind) in (1..).zip(AuditAction::ALL) {
            assert_eq!(u8::from(kind), number);
            assert_eq!(AuditAction::try_from(number), Ok(kind));
        }
        assert!(AuditAction::try_from(99).is_err());
    }
}
