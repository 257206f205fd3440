//! What happened, as data: the events of which a report is drawn.
//!
//! Events are made only when a plan is recorded ([`run_recorded`](crate::run_recorded)); looking at
//! a simulation changes nothing in it, and a plain seed pays nothing for them. Runs are called by
//! the names clients gave them.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::plan::FaultKind;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in simulated milliseconds. Hosts live in the grain of a tick: causes come first in the
    /// list, not always in time.
    pub at_ms: u64,
    /// On which host; empty for the simulation itself.
    pub host: String,
    /// In which life of it, from 1; 0 for the simulation itself.
    pub life: u32,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// A frame on its way. Connection, number and direction name it: TCP keeps the order, so that the
/// third frame that went in is the third that comes out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Who gets it.
    pub peer: String,
    /// The number of the connection, over the whole simulation.
    pub connection: u32,
    /// The number of the frame on it, in this direction, copies counted.
    pub number: u32,
    /// The message's kind, `Dispatch`.
    pub kind: Cow<'static, str>,
    /// Whether it is a copy.
    #[serde(default, skip_serializing_if = "Copies::is_first")]
    pub copy: Copies,
    /// The runs it is about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<String>,
    /// The token of the lease it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The entry it is about, or how many there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<u32>,
    /// The step it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u32>,
    /// The client's call number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_number: Option<u64>,
    /// What else it says.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
}

/// Which of several equal frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Copies {
    /// The one that was meant.
    #[default]
    First,
    /// Sent twice, one after the other.
    Twice,
    /// Sent again later, perhaps over another connection.
    Late,
}

impl Copies {
    fn is_first(&self) -> bool {
        *self == Self::First
    }
}

/// An entry of a run's journal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EntryAt {
    /// The run.
    pub run: String,
    /// The entry's index.
    pub index: u32,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// A process begins.
    LifeBegan,
    /// A process ends.
    LifeEnded {
        /// How, in words.
        how: String,
    },
    /// A host's wall clock stands so far ahead of simulated time (behind it, if negative) from now
    /// on.
    Clock {
        /// How far, in milliseconds.
        offset_ms: i64,
    },
    /// A connection was asked for; without a number it was refused.
    Dialled {
        /// Where to.
        peer: String,
        /// The connection.
        connection: Option<u32>,
    },
    /// A connection was accepted.
    Accepted {
        /// Where from.
        peer: String,
        /// The connection.
        connection: u32,
    },
    /// A frame was given to the network.
    Sent(Frame),
    /// A frame has arrived whole.
    Received {
        /// Who sent it.
        peer: String,
        /// The connection.
        connection: u32,
        /// Its number on it, as in [`Frame::number`].
        number: u32,
    },
    /// Something goes wrong on purpose.
    FaultStruck {
        /// What.
        kind: FaultKind,
        /// With which other host too, where it is about a link.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        other: String,
        /// For how long.
        span_ms: u64,
        /// How bad it is.
        extent: u64,
    },
    /// It is over.
    FaultOver {
        /// What.
        kind: FaultKind,
        /// With which other host too.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        other: String,
    },
    /// The phase of faults is over: every host comes up, every link is whole.
    Mended,
    /// A batch of writes was given to the disk.
    Submitted {
        /// Its sequence number.
        seq: u64,
        /// How many writes.
        ops: u32,
        /// The journal entries among them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        entries: Vec<EntryAt>,
    },
    /// Everything up to this sequence number is on disk: the sync watermark rose.
    Committed {
        /// The sequence number.
        seq: u64,
        /// How many batches.
        batches: u32,
    },
    /// A sync failed.
    CommitFailed {
        /// Why.
        text: String,
    },
    /// An entry of a journal is on disk.
    EntryDurable {
        /// The run.
        run: String,
        /// The entry's index.
        index: u32,
        /// Its kind, `StepCompleted`.
        kind: String,
        /// The step's name, if it is about one.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        name: String,
        /// The batch it was in.
        seq: u64,
    },
    /// A run was lent to a worker; it is on disk.
    LeaseBegan {
        /// The run.
        run: String,
        /// The fencing token.
        token: String,
        /// The worker's host.
        holder: String,
    },
    /// A lease is over; it is on disk.
    LeaseEnded {
        /// The run.
        run: String,
        /// The fencing token.
        token: String,
        /// What became of the run, in words.
        how: String,
    },
    /// A step's body calls the outside world.
    CallBegan {
        /// The number of the call, over the whole simulation.
        call: u64,
        /// The run.
        run: String,
        /// The idempotency key.
        key: String,
        /// What is asked for.
        request: String,
        /// Which attempt at the step.
        attempt: u32,
        /// How the call will end, as the plan says.
        plan: String,
    },
    /// The outside world was changed, or the change was found made already.
    CallEffect {
        /// The call.
        call: u64,
        /// Whether an earlier call under the key had made the change.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        again: bool,
    },
    /// A call is over.
    CallEnded {
        /// The call.
        call: u64,
        /// How.
        how: String,
    },
    /// A client begins a job of the plan.
    Asked {
        /// The job's index in the plan.
        job: usize,
        /// What, in a word.
        call: String,
        /// About which runs.
        runs: Vec<String>,
    },
    /// A client is told something.
    ClientLog {
        /// About which run.
        run: String,
        /// What.
        answer: String,
    },
    /// The job is over, answered or not.
    Settled {
        /// The job's index in the plan.
        job: usize,
    },
    /// A checker complains. What it complains about stands before it.
    Violated {
        /// The property.
        checker: String,
        /// What was found.
        text: String,
    },
    /// Anything else, in words.
    Noted {
        /// The words.
        text: String,
    },
}

impl What {
    /// The runs it is about.
    pub fn runs(&self) -> &[String] {
        match self {
            Self::Sent(frame) => &frame.runs,
            Self::Asked { runs, .. } => runs,
            Self::EntryDurable { run, .. }
            | Self::LeaseBegan { run, .. }
            | Self::LeaseEnded { run, .. }
            | Self::CallBegan { run, .. }
            | Self::ClientLog { run, .. } => std::slice::from_ref(run),
            _ => &[],
        }
    }
}
