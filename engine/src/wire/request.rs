//! Requests: what a client asks, and what it is answered, each declared once.
//!
//! A request has a number, fields, the reply that answers it, and the role that it needs. The wire,
//! the engine's router, the command line and every gateway follow from [`Request`] by exhaustive
//! matches: a request that is forgotten in one of them does not compile.
//!
//! ```text
//!   client                                         engine
//!     │ Call(number, request id, Start) ──────────►  │
//!     │                                        [commit]
//!     │ ◄──────────────── Reply(number, StartReply)  │   or RefusedReply
//! ```
//!
//! A call number matches a reply to its call, on one connection. A request id is the same in every
//! repetition of a request, over any connection, and makes it act once. The namespace and the
//! principal are the session's, said once in its hello.

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::batch::BatchSummary;
use crate::model::dead::{AuditCursor, AuditEntry, DeadCursor, DeadFilter, DeadLetter};
use crate::model::id::{Namespace, RequestId, RunId};
use crate::model::payload::Payload;
use crate::model::queue::{QueueChange, QueueSummary};
use crate::model::request::{ListRuns, Refusal, StartRun};
use crate::model::run::{Outcome, RunSummary, Stats};
use crate::model::schedule::{Occurrence, ScheduleInfo, ScheduleSpec};
use crate::model::time::Time;
use crate::numbered::{InBytes, Undecodable, numbered};

/// What a peer must be allowed to do for a request or a frame. Declared here; enforced once there
/// are accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Look at runs, queues, schedules and counters.
    Read,
    /// Start runs, and look.
    Start,
    /// Change what runs, queues and schedules do, and start and look.
    Operate,
    /// Everything but work.
    Admin,
    /// Run workflows: for workers, bounded to named queues and workflows. No other role implies it,
    /// and it implies no other.
    Work,
}

impl Role {
    /// Whether who has this role may do what needs `other`.
    pub fn includes(self, other: Self) -> bool {
        let rank = |role| match role {
            Self::Read => Some(1),
            Self::Start => Some(2),
            Self::Operate => Some(3),
            Self::Admin => Some(4),
            Self::Work => None,
        };
        match (rank(self), rank(other)) {
            (Some(own), Some(needed)) => own >= needed,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
}

/// A request, and the type of the reply to it.
pub trait Ask: Into<Request> {
    /// The role it needs.
    const ROLE: Role;
    /// What answers it, unless it is refused.
    type Reply: TryFrom<Answer, Error = Answer>;
}

macro_rules! requests {
    ($($(#[$meta:meta])* $number:literal => $name:ident($role:ident) -> $reply:ident {
        $($(#[$fmeta:meta])* $field:ident : $type:ty),* $(,)?
    }),+ $(,)?) => {
        $(
            $(#[$meta])*
            #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
            pub struct $name { $($(#[$fmeta])* pub $field: $type),* }

            impl Ask for $name {
                const ROLE: Role = Role::$role;
                type Reply = $reply;
            }
        )+

        numbered! {
            /// What a client asks.
            #[derive(Debug, Clone, PartialEq, Eq)]
            pub enum Request { $($(#[$meta])* $number => $name),+ }
        }

        impl Request {
            /// The role it needs.
            pub fn role(&self) -> Role {
                match self { $(Self::$name(_) => <$name as Ask>::ROLE),+ }
            }
        }
    };
}

macro_rules! replies {
    ($($(#[$meta:meta])* $number:literal => $name:ident {
        $($(#[$fmeta:meta])* $field:ident : $type:ty),* $(,)?
    }),+ $(,)?) => {
        $(
            $(#[$meta])*
            #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
            pub struct $name { $($(#[$fmeta])* pub $field: $type),* }

            impl TryFrom<Answer> for $name {
                type Error = Answer;

                fn try_from(answer: Answer) -> Result<Self, Answer> {
                    if let Answer::$name(reply) = answer { Ok(reply) } else { Err(answer) }
                }
            }
        )+

        numbered! {
            /// What answers a request.
            #[allow(clippy::enum_variant_names, reason = "each is named as the frame that it is in")]
            #[derive(Debug, Clone, PartialEq, Eq)]
            pub enum Answer { $($(#[$meta])* $number => $name),+ }
        }
    };
}

requests! {
    /// Starts runs.
    40 => Start(Start) -> StartReply {
        /// The runs.
        runs: Vec<StartRun>,
    },
    /// Asks how a run ended.
    41 => AskOutcome(Read) -> OutcomeReply {
        /// The run.
        id: RunId,
        /// Answer only once it has ended.
        wait: bool,
    },
    /// Asks where a run is in its life.
    42 => AskStatus(Read) -> StatusReply {
        /// The run.
        id: RunId,
    },
    /// Asks for a page of runs, newest first.
    43 => AskList(Read) -> ListReply {
        /// Which.
        list: ListRuns,
    },
    /// Asks for a page of a run's journal.
    44 => AskJournal(Read) -> JournalReply {
        /// The run.
        id: RunId,
        /// From this entry.
        from: u32,
        /// At most this many.
        limit: u32,
    },
    /// Asks a run to stop.
    45 => Cancel(Operate) -> DoneReply {
        /// The run.
        id: RunId,
        /// Why.
        reason: String,
    },
    /// Lets a parked or paused run go on.
    46 => Resume(Operate) -> DoneReply {
        /// The run.
        id: RunId,
    },
    /// Asks for a page of dead letters as runs, newest first.
    47 => AskDead(Read) -> ListReply {
        /// Which; its `state` is not looked at.
        list: ListRuns,
    },
    /// Asks for the engine's counters.
    48 => AskStats(Read) -> StatsReply {},
    /// Asks for queues and their gauges, by name.
    80 => AskQueues(Read) -> QueuesReply {
        /// Only this one.
        queue: Option<String>,
    },
    /// Sets something on a queue.
    81 => SetQueue(Operate) -> DoneReply {
        /// The queue's name.
        queue: String,
        /// What to set.
        change: QueueChange,
    },
    /// Asks for a page of the dead letters that fit a filter, newest first.
    90 => AskLetters(Read) -> LettersReply {
        /// Which.
        filter: DeadFilter,
        /// Behind this one.
        behind: Option<DeadCursor>,
        /// At most this many.
        limit: u32,
    },
    /// Gives a dead letter another input.
    91 => EditInput(Operate) -> DoneReply {
        /// The run.
        id: RunId,
        /// What its function gets from now on.
        input: Payload,
    },
    /// Sends a dead letter back to work.
    92 => Redrive(Operate) -> DoneReply {
        /// The run.
        id: RunId,
    },
    /// Takes a dead letter off the list.
    93 => Discard(Operate) -> DoneReply {
        /// The run.
        id: RunId,
        /// Why.
        reason: String,
    },
    /// Asks for a page of audit entries, newest first.
    94 => AskAudit(Read) -> AuditReply {
        /// Only what was done with this run.
        run: Option<RunId>,
        /// Behind this one.
        behind: Option<AuditCursor>,
        /// At most this many.
        limit: u32,
    },
    /// Creates a schedule or changes it.
    100 => SetSchedule(Operate) -> ScheduleReply {
        /// The schedule.
        spec: Box<ScheduleSpec>,
    },
    /// Asks for a page of schedules, by name.
    101 => AskSchedules(Read) -> SchedulesReply {
        /// Only those behind this name (the last of the page before).
        after: Option<String>,
        /// At most this many.
        limit: u32,
    },
    /// Asks for a schedule and its next occurrences.
    102 => AskOccurrences(Read) -> ScheduleReply {
        /// The schedule.
        name: String,
        /// At most this many.
        count: u32,
    },
    /// Pauses a schedule: no more occurrences start.
    103 => PauseSchedule(Operate) -> ScheduleReply {
        /// The schedule.
        name: String,
    },
    /// Resumes a schedule with the next occurrence from now.
    104 => ResumeSchedule(Operate) -> ScheduleReply {
        /// The schedule.
        name: String,
    },
    /// Removes a schedule; its runs go on.
    105 => RemoveSchedule(Operate) -> DoneReply {
        /// The schedule.
        name: String,
    },
    /// Starts occurrences of the past.
    106 => Backfill(Operate) -> BackfillReply {
        /// The schedule.
        name: String,
        /// Nominal times from here on.
        from: Time,
        /// And before this, which has passed.
        to: Time,
        /// At most this many.
        limit: u32,
    },
    /// Adds runs to a batch, which is opened if there is none of this name.
    110 => StartBatch(Start) -> BatchReply {
        /// The batch's name.
        name: String,
        /// The runs.
        runs: Vec<StartRun>,
        /// The run that follows when all have ended; its id is the engine's.
        follow_up: Option<Box<StartRun>>,
        /// These are all.
        seal: bool,
    },
    /// Asks for a batch's progress.
    111 => AskBatch(Read) -> BatchReply {
        /// The batch's name.
        name: String,
    },
    /// Starts all of these runs or none.
    112 => AtomicStart(Start) -> StartReply {
        /// The runs.
        runs: Vec<StartRun>,
    },
}

replies! {
    /// An answer for each run, in the order of the request.
    60 => StartReply {
        /// The answers.
        runs: Vec<StartAnswer>,
    },
    /// How the run ended, or that it has not.
    61 => OutcomeReply {
        /// How it ended, or that it has not.
        outcome: Outcome,
    },
    /// Where the run is in its life.
    62 => StatusReply {
        /// Where it is.
        run: RunSummary,
    },
    /// A page of runs.
    63 => ListReply {
        /// The page.
        runs: Vec<RunSummary>,
        /// Ask for `before` this number for the next page, if there may be more.
        next: Option<u64>,
    },
    /// A page of a run's journal.
    64 => JournalReply {
        /// The index of the first entry here.
        from: u32,
        /// How many entries the journal has.
        count: u32,
        /// Entries, encoded without their chain.
        entries: Vec<Bytes>,
    },
    /// The request was carried out.
    65 => DoneReply {},
    /// The counters.
    66 => StatsReply {
        /// The counts.
        stats: Stats,
    },
    /// The request was refused, and nothing was changed.
    67 => RefusedReply {
        /// Why.
        reason: Refusal,
    },
    /// The queues, by name.
    87 => QueuesReply {
        /// The queues.
        queues: Vec<QueueSummary>,
    },
    /// A page of dead letters.
    97 => LettersReply {
        /// The page.
        letters: Vec<DeadLetter>,
        /// Where to go on, if there may be more.
        next: Option<DeadCursor>,
    },
    /// A page of audit entries.
    98 => AuditReply {
        /// The page.
        entries: Vec<AuditEntry>,
        /// Where to go on, if there may be more.
        next: Option<AuditCursor>,
    },
    /// The batch as it is now, and an answer for each run of the request.
    117 => BatchReply {
        /// The batch.
        batch: BatchSummary,
        /// The answers, in the order of the request.
        runs: Vec<StartAnswer>,
    },
    /// The schedule as it is now.
    107 => ScheduleReply {
        /// The schedule as it is now.
        schedule: Box<ScheduleInfo>,
        /// Whether this call changed anything.
        changed: bool,
        /// Its next occurrences, if they were asked for.
        next: Vec<Occurrence>,
    },
    /// A page of schedules.
    108 => SchedulesReply {
        /// The page.
        schedules: Vec<ScheduleInfo>,
        /// Ask for those `after` this for the next page, if there may be more.
        next: Option<String>,
    },
    /// What became of a page of occurrences.
    109 => BackfillReply {
        /// Runs that were started.
        started: u64,
        /// Runs that were there already.
        existed: u64,
        /// Go on from here, if there is more.
        next: Option<Time>,
    },
}

impl Request {
    /// Whether it changes something; otherwise it only asks, and may be asked again without harm.
    pub fn changes(&self) -> bool {
        self.role() != Role::Read
    }
}

/// What arrives in an envelope. One that cannot be read concerns its call alone: the connection
/// goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readable<T> {
    /// This version knows it, and all that is in it.
    Known(T),
    /// It is of a later version, or holds a value of one, or is garbage.
    Unreadable {
        /// As it came.
        bytes: Vec<u8>,
        /// Why it does not decode.
        why: Undecodable,
    },
}

/// A request as it arrives. One that is not readable is refused.
pub type Requested = Readable<Request>;

/// An answer as it arrives. One that is not readable fails its call.
pub type Answered = Readable<Answer>;

impl<T: Serialize> Serialize for Readable<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Known(known) => known.serialize(serializer),
            Self::Unreadable { bytes, .. } => serializer.serialize_bytes(bytes),
        }
    }
}

macro_rules! readable {
    ($($type:ident),+) => {
        $(
            impl From<$type> for Readable<$type> {
                fn from(known: $type) -> Self {
                    Self::Known(known)
                }
            }

            impl<'de> Deserialize<'de> for Readable<$type> {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    deserializer.deserialize_bytes(InBytes(|bytes: &[u8]| {
                        Ok(match $type::decode(bytes) {
                            Ok(known) => Self::Known(known),
                            Err(why) => Self::Unreadable { bytes: bytes.to_vec(), why },
                        })
                    }))
                }
            }
        )+
    };
}
readable!(Request, Answer);

/// Who a gateway acts for in place of its session's principal.
///
/// It exists within a process only: it is never written to the wire and never read from it, and
/// only [`Gateway`](crate::Gateway) makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnBehalf {
    pub(crate) namespace: Namespace,
    pub(crate) principal: String,
}

/// Client to engine: a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Matches the reply to the call, on this connection.
    pub call_number: u64,
    /// Identifies the request across its repetitions.
    pub request_id: RequestId,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// The request.
    pub request: Requested,
    /// Who it is for, if that is not the session's principal.
    #[serde(skip)]
    pub on_behalf: Option<OnBehalf>,
}

/// Engine to client: what answers a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The number of the call.
    pub call_number: u64,
    /// The answer.
    pub answer: Answered,
}

/// A call as tests and scenarios make it, for any caller.
#[cfg(any(test, feature = "inspect"))]
pub(crate) fn call_as(
    call_number: u64,
    caller: crate::model::request::Caller,
    request: impl Into<Request>,
) -> super::message::Message {
    let crate::model::request::Caller { namespace, principal, request_id, traceparent } = caller;
    let request = Requested::Known(request.into());
    let on_behalf = Some(OnBehalf { namespace, principal });
    Call { call_number, request_id, traceparent, request, on_behalf }.into()
}

#[cfg(any(feature = "server", feature = "inspect"))]
impl BackfillReply {
    /// What became of a page. A run that is there already is that of its occurrence, whatever it
    /// was started with.
    pub(crate) fn of(runs: &[StartAnswer], next: Option<Time>) -> Answer {
        let refused = runs.iter().filter_map(|run| run.refused.as_ref());
        let mut others = refused.filter(|reason| !matches!(reason, Refusal::IdTaken(_)));
        if let Some(reason) = others.next().cloned() {
            return RefusedReply { reason }.into();
        }
        let started = runs.iter().filter(|run| run.started).count() as u64;
        Self { started, existed: runs.len() as u64 - started, next }.into()
    }
}

/// The answer to one start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartAnswer {
    /// The run.
    pub id: RunId,
    /// Whether this call started it; `false` if it existed already, the same.
    pub started: bool,
    /// Why not, if it was refused.
    pub refused: Option<Refusal>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_implied_by_no_other_role_and_implies_none() {
        let others = [Role::Read, Role::Start, Role::Operate, Role::Admin];
        for (index, role) in others.into_iter().enumerate() {
            assert!(!role.includes(Role::Work) && !Role::Work.includes(role));
            for (lower, other) in others.into_iter().enumerate() {
                assert_eq!(role.includes(other), lower <= index, "{role:?} and {other:?}");
            }
        }
        assert!(Role::Work.includes(Role::Work));
    }

    #[test]
    fn a_request_of_a_later_version_is_unreadable() {
        let bytes = rmp_serde::to_vec(&serde_bytes_of(&[250, 0x91, 7])).unwrap();
        let found: Requested = rmp_serde::from_slice(&bytes).unwrap();
        let why = Undecodable::UnknownKind { what: "Request", kind: 250 };
        assert_eq!(found, Requested::Unreadable { bytes: vec![250, 0x91, 7], why });
        assert_eq!(rmp_serde::to_vec(&found).unwrap(), bytes, "it is handed on as it came");
    }

    #[test]
    fn a_value_of_a_later_version_makes_its_request_unreadable_and_nothing_else() {
        // The overlap policy 9 of a schedule.
        let bytes = rmp_serde::to_vec(&serde_bytes_of(&[100, 0x91, 0x9a])).unwrap();
        let found: Requested = rmp_serde::from_slice(&bytes).unwrap();
        assert!(matches!(found, Requested::Unreadable { why: Undecodable::Fields { .. }, .. }));
        let empty = rmp_serde::to_vec(&serde_bytes_of(&[])).unwrap();
        let found: Answered = rmp_serde::from_slice(&empty).unwrap();
        assert_eq!(found, Answered::Unreadable { bytes: Vec::new(), why: Undecodable::Empty });
    }

    fn serde_bytes_of(bytes: &'static [u8]) -> Bytes {
        Bytes::from_static(bytes)
    }
}
