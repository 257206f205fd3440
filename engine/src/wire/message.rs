//! The frames, one struct each. Kind numbers are never used again; fields are only added at the
//! end.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use super::handshake::{Closing, Heartbeat, Hello, HelloV1, Welcome};
#[cfg(any(test, feature = "inspect"))]
pub use super::handshake::Later;
pub use super::request::*;
use crate::model::entry::{FunctionEnd, SourceLocation};
use crate::model::failure::Failure;
use crate::model::id::{CommandIndex, MemoKey, RunId, RunNo, Token};
use crate::model::payload::Payload;
use crate::model::request::Refusal;
use crate::model::retry::Retry;
use crate::model::time::Time;
use crate::numbered::numbered;

macro_rules! frames {
    (
        frozen { $($(#[$zmeta:meta])* $znumber:literal => $zname:ident),+ $(,)? }
        declared elsewhere { $($(#[$emeta:meta])* $enumber:literal => $ename:ident $(if $cfg:meta)?),+ $(,)? }
        $($(#[$meta:meta])* $number:literal => $name:ident { $($(#[$fmeta:meta])* $field:ident : $type:ty),* $(,)? }),+ $(,)?
    ) => {
        $(
            $(#[$meta])*
            #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
            pub struct $name { $($(#[$fmeta])* pub $field: $type),* }
        )+

        numbered! {
            /// One frame, either way.
            #[derive(Debug, Clone, PartialEq, Eq)]
            pub enum Message { $($(#[$zmeta])* $znumber => $zname,)+ $($(#[$emeta])* $enumber => $ename $(if $cfg)?,)+ $($(#[$meta])* $number => $name),+ }
        }

        impl Message {
            /// Whether its layout is frozen for ever: see [`handshake`](super::handshake).
            pub fn is_frozen(&self) -> bool {
                match self {
                    $(Self::$zname(_) => true,)+
                    $($(#[cfg($cfg)])? Self::$ename(_) => false,)+
                    $(Self::$name(_) => false,)+
                }
            }
        }
    };
}

/// A lease that a worker believes it still holds when it comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The run.
    pub run: RunNo,
    /// The token it was leased under.
    pub token: Token,
    /// How many entries of its journal the worker has.
    pub seen: u32,
}

/// Slots a worker offers to a queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueSlots {
    /// The queue's name.
    pub queue: String,
    /// How many runs of it at a time.
    pub slots: u32,
}

/// A workflow a worker can run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkflowOffer {
    /// The workflow's name.
    pub workflow: String,
    /// The version of its code.
    pub version: u32,
    /// What its code says of its runs.
    pub defaults: WorkflowDefaults,
}

impl WorkflowOffer {
    /// As tests offer it: version 1, of the queue `default`.
    #[cfg(any(test, feature = "inspect"))]
    pub fn test(workflow: &str) -> Self {
        let defaults = WorkflowDefaults { queue: "default".to_owned(), ..Default::default() };
        Self { workflow: workflow.to_owned(), version: 1, defaults }
    }
}

/// What the code of a workflow says of its runs. Each start carries its own: these are for those
/// who start a workflow without its code. The engine checks them and does not use them so far.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WorkflowDefaults {
    /// The queue they go through.
    pub queue: String,
    /// Tags that a worker must offer to get them.
    pub tags: Vec<String>,
    /// How long its function may run outside of steps, in milliseconds.
    pub timeout_ms: u64,
}

frames! {
    frozen {
        /// The hello of protocol 1.
        1 => HelloV1,
        /// Keep-alive, sent in both directions.
        3 => Heartbeat,
        /// The last frame before the sender closes.
        4 => Closing,
        /// The first frame of a connection, from the peer.
        5 => Hello,
        /// The engine's answer to a hello.
        6 => Welcome,
    }
    declared elsewhere {
        /// Client to engine: a request.
        50 => Call,
        /// Engine to client: what answers a call.
        51 => Reply,
        /// Either way, right after the welcome: a frame of protocol 3, which exists for tests only.
        250 => Later if any(test, feature = "inspect"),
    }

    /// Worker to engine, first after the welcome: what it can run, and what it holds. Answered by
    /// [`Registered`].
    7 => Register {
        /// The build of its code.
        build: String,
        /// Workflows it can run.
        workflows: Vec<WorkflowOffer>,
        /// Slots it offers.
        queues: Vec<QueueSlots>,
        /// Tags it offers: runs that ask for others go elsewhere.
        tags: Vec<String>,
        /// Leases it still holds from before.
        held: Vec<Held>,
    },
    /// Engine to worker: it may get runs from now on.
    8 => Registered {},

    /// Engine to worker: run this. Its journal follows in this and, if long, in further [`Journal`]
    /// frames.
    10 => Dispatch {
        /// The run.
        run: RunNo,
        /// The token of this lease.
        token: Token,
        /// Its id.
        id: RunId,
        /// How many entries its journal has.
        count: u32,
        /// The first of them as stored, from entry 0.
        entries: Vec<Bytes>,
        /// Engine time. A worker that goes on counting from what it heard long ago may be ahead of
        /// an engine whose clock stands or is slewed, and must not take a backoff for over that is
        /// not.
        #[serde(default)]
        now: Time,
    },
    /// Engine to worker: more of a run's journal.
    11 => Journal {
        /// The run.
        run: RunNo,
        /// The token of the lease.
        token: Token,
        /// The index of the first entry here.
        from: u32,
        /// Entries as stored.
        entries: Vec<Bytes>,
    },
    /// Engine to worker: this entry is now in the journal. Answers a report, or tells of a timer or
    /// a cancel request.
    12 => Appended {
        /// The run.
        run: RunNo,
        /// The token of the lease.
        token: Token,
        /// The entry's index.
        index: u32,
        /// The entry (not as stored: names and output are left out where the worker has them).
        entry: Bytes,
    },
    /// Engine to worker: the turn is over on the engine's side too; forget the run.
    13 => TurnEnded {
        /// The run.
        run: RunNo,
        /// The token of the lease.
        token: Token,
    },
    /// Engine to worker: the lease is not (or no longer) yours; drop the turn.
    14 => Revoked {
        /// The run.
        run: RunNo,
        /// The token that no longer counts.
        token: Token,
        /// Why.
        reason: Refusal,
    },
    /// Engine to worker: the held lease goes on under another token. Entries it has not seen follow
    /// as [`Journal`] frames up to `count`.
    15 => LeaseContinued {
        /// The run.
        run: RunNo,
        /// The token so far.
        old: Token,
        /// The token from now on.
        token: Token,
        /// How many entries the journal has now.
        count: u32,
    },
    /// Engine to worker: this report was refused, the lease goes on.
    16 => ReportRefused {
        /// The run.
        run: RunNo,
        /// The token of the lease.
        token: Token,
        /// The step it was about.
        number: CommandIndex,
        /// Why.
        reason: Refusal,
    },
    /// Worker to engine: a step ended well.
    20 => StepCompletedReport {
        /// The run.
        run: RunNo,
        /// The token of the lease.
        token: Token,
        /// The index of the command.
        number: CommandIndex,
        /// Where the code asked for the command.
        location: SourceLocation,
        /// Which attempt.
        attempt: u32,
        /// What it returned.
        output: Payload,
        /// The key, if it is a step whose first result is everybody's.
        #[serde(default)]
        memo: Option<MemoKey>,
    },
    /// Worker to engine: an attempt at a step failed. The engine decides by `retry` whether it was
    /// the last.
    21 => AttemptFailedReport {
        /// The run.
        run: RunNo,
        /// The token of the lease.
        token: Token,
        /// The index of the command.
        number: CommandIndex,
        /// Where the code asked for the command.
        location: SourceLocation,
        /// Which attempt.
        attempt: u32,
        /// Why.
        failure: Failure,
        /// The step's policy.
        retry: Retry,
    },
    /// Worker to engine: set a timer.
    22 => TimerRequested {
        /// The run.
        run: RunNo,
        /// The token of the lease.
        token: Token,
        /// The index of the command.
        number: CommandIndex,
        /// Where the code asked for the command.
        location: SourceLocation,
        /// Due after this many milliseconds.
        delay_ms: u64,
    },
    /// Worker to engine: nothing to do but wait; the slot is free.
    23 => TurnSuspended {
        /// The run.
        run: RunNo,
        /// The token of the lease.
        token: Token,
        /// How many entries of its journal the worker has seen.
        seen: u32,
        /// The first instant the function waits for. The journal alone does not tell: a timer or a
        /// backoff whose future was dropped stays open in it, and nobody waits for that.
        #[serde(default)]
        wakes_at: Time,
        /// Steps that have asked whether they may make a memoized attempt, and that
        /// the function waits for. If it waits for nothing else, `wakes_at` is the end of time.
        #[serde(default)]
        memos: Vec<CommandIndex>,
    },
    /// Worker to engine: the function returned.
    24 => TurnCompleted {
        /// The run.
        run: RunNo,
        /// The token of the lease.
        token: Token,
        /// What.
        output: Payload,
    },
    /// Worker to engine: the function failed.
    25 => TurnFailed {
        /// The run.
        run: RunNo,
        /// The token of the lease.
        token: Token,
        /// Why.
        failure: Failure,
        /// Whether it is an attempt at the whole function that failed, and is made again by the
        /// default policy: it asked no command at all before, or was ended at its limit.
        whole: bool,
        /// How the function came to it: what a redrive would have to supersede.
        #[serde(default)]
        end: Option<FunctionEnd>,
    },
    /// Worker to engine: code and journal disagree.
    26 => TurnMismatched {
        /// The run.
        run: RunNo,
        /// The token of the lease.
        token: Token,
        /// The entry they disagree at.
        index: u32,
        /// What the journal holds there.
        journal_holds: String,
        /// What the code asked.
        code_asked: String,
    },
    /// Worker to engine: requeue the run, which is unharmed (drain); it is queued at once.
    27 => Requeue {
        /// The run.
        run: RunNo,
        /// The token of the lease.
        token: Token,
    },
    /// Worker to engine: from now on I offer these slots (none while draining).
    28 => Offer {
        /// Slots per queue.
        queues: Vec<QueueSlots>,
    },
    /// Worker to engine: a step whose first result is everybody's wants to make an attempt.
    /// Answered with `AttemptMemo`, when nobody else makes one, or with `Appended`, when there is a
    /// result. Asking again changes nothing.
    35 => MemoRequested {
        /// The run.
        run: RunNo,
        /// The token of the lease.
        token: Token,
        /// The index of the command.
        number: CommandIndex,
        /// Where the code asked for the command.
        location: SourceLocation,
        /// The key.
        memo: MemoKey,
    },
    /// Engine to worker: make the attempt.
    36 => AttemptMemo {
        /// The run.
        run: RunNo,
        /// The token of the lease.
        token: Token,
        /// The index of the command.
        number: CommandIndex,
    },
    /// Worker to engine: the attempt is not made, or no longer. Engine to worker: so it is.
    37 => MemoReleased {
        /// The run.
        run: RunNo,
        /// The token of the lease.
        token: Token,
        /// The index of the command.
        number: CommandIndex,
    },
    /// Worker to engine: a page of the journal of a run that it holds, for an isolated step. Answered
    /// by [`JournalPage`].
    38 => JournalPageRequested {
        /// Matches the answer to the question, on this connection.
        page: u64,
        /// The run.
        run: RunNo,
        /// The token of the lease.
        token: Token,
        /// From this entry.
        from: u32,
        /// At most this many.
        limit: u32,
    },
    /// Engine to worker: a page of a journal.
    39 => JournalPage {
        /// The number of the question.
        page: u64,
        /// Entries, encoded without their chain.
        entries: Vec<Bytes>,
        /// Why there are none, if it was refused.
        refused: Option<Refusal>,
    },
}

impl Message {
    /// The role that a peer needs to send it; none for what every peer may send, and for what only
    /// the engine sends.
    pub fn role(&self) -> Option<Role> {
        match self {
            Self::Register(_)
            | Self::StepCompletedReport(_)
            | Self::AttemptFailedReport(_)
            | Self::TimerRequested(_)
            | Self::TurnSuspended(_)
            | Self::TurnCompleted(_)
            | Self::TurnFailed(_)
            | Self::TurnMismatched(_)
            | Self::Requeue(_)
            | Self::Offer(_)
            | Self::MemoRequested(_)
            | Self::MemoReleased(_)
            | Self::JournalPageRequested(_) => Some(Role::Work),
            Self::Call(call) => match &call.request {
                Requested::Known(request) => Some(request.role()),
                Requested::Unreadable { .. } => None,
            },
            Self::HelloV1(_)
            | Self::Hello(_)
            | Self::Welcome(_)
            | Self::Heartbeat(_)
            | Self::Closing(_)
            | Self::Registered(_)
            | Self::Reply(_)
            | Self::Dispatch(_)
            | Self::Journal(_)
            | Self::Appended(_)
            | Self::TurnEnded(_)
            | Self::Revoked(_)
            | Self::LeaseContinued(_)
            | Self::ReportRefused(_)
            | Self::AttemptMemo(_)
            | Self::JournalPage(_) => None,
            #[cfg(any(test, feature = "inspect"))]
            Self::Later(_) => None,
        }
    }
}
