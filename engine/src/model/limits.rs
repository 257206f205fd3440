//! Every limit has a name, a number and a reason. Reaching one refuses the call or the step that
//! would exceed it; it never ends what is already there.

use serde::{Deserialize, Serialize};

use super::setters::setters;

/// The largest setting of `payload_bytes_max`.
pub const PAYLOAD_BYTES_CEILING: usize = 16 << 20;

/// How many runs one call may start: a frame of small inputs stays small.
pub const START_MANY_MAX: usize = 10_000;

/// How many queues there may be: each costs memory for ever.
pub const QUEUES_MAX: usize = 10_000;

/// The longest workflow, queue, step, principal or build name, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// How many tags a run may ask for, or a worker offer: they are in each of its records.
pub const TAGS_MAX: usize = 8;

/// The longest tag, in bytes.
pub const TAG_BYTES_MAX: usize = 64;

/// The largest concurrency limit, and the most dispatches in a rate limit's period or burst.
pub const QUEUE_BURST_MAX: u32 = 1_000_000;

/// The longest period of a rate limit: a day.
pub const QUEUE_RATE_PERIOD_MS_MAX: u64 = 86_400_000;

/// The longest trace context of a caller, in bytes: it is in the first entry of each run of the
/// call.
pub const TRACEPARENT_BYTES_MAX: usize = 256;

/// The longest reason of a cancel or a discard that is kept, in bytes; the rest is cut off.
pub const REASON_BYTES_MAX: usize = 512;

/// The longest unique key, in bytes.
pub const UNIQUE_KEY_BYTES_MAX: usize = 256;

/// How many writes an atomic start may take: what fits one write batch, and
/// some room. A run takes three, with a unique key four, five if it is held while the run is in
/// line, and six if for a time; each queue one, and one more if it is new.
pub const ATOMIC_START_WRITES_MAX: usize = 4_032;

/// How many bytes an atomic start may write: inputs, names, tags twice, and 320 for
/// each run.
pub const ATOMIC_START_BYTES_MAX: usize = 900 << 10;

/// How many operator requests about queues and schedules are remembered, so that a copy that
/// comes late does nothing.
pub const APPLIED_REQUESTS_KEPT: u64 = 4_096;

/// How many batches may be open at a time: their progress is held in memory.
pub const BATCHES_OPEN_MAX: usize = 4_096;

/// How many runs a batch may have.
pub const BATCH_RUNS_MAX: u64 = 1_000_000;

/// The longest input of the run that follows a batch, in bytes: it is held in memory while the
/// batch is open.
pub const FOLLOW_UP_BYTES_MAX: usize = 2_048;

/// How many rows one page of a listing may have.
pub const PAGE_ROWS_MAX: u32 = 1_000;

/// How many times one run may be edited, redriven and discarded: each time is an entry of
/// its journal.
pub const ACTS_PER_RUN_MAX: usize = 1_000;

/// The limits an operator may set.
///
/// ```
/// use stepwell::Limits;
///
/// let limits = Limits::default().payload_bytes_max(1 << 20);
/// assert_eq!(limits.journal_entries_max, 500_000);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Limits {
    /// The largest input or output of a step or run, in bytes. Default 64 KiB, at most 16 MiB.
    pub payload_bytes_max: usize,
    /// From this many entries on a run's journal draws a warning. Default 10,000.
    pub journal_entries_warn: u32,
    /// At this many entries the next step is refused and the run is paused. Default 500,000.
    pub journal_entries_max: u32,
}

impl Limits {
    setters! {
        /// Default 64 KiB, from 1 KiB to 16 MiB.
        payload_bytes_max: usize,
        /// Default 10,000.
        journal_entries_warn: u32,
        /// Default 500,000.
        journal_entries_max: u32,
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            payload_bytes_max: 64 << 10,
            journal_entries_warn: 10_000,
            journal_entries_max: 500_000,
        }
    }
}
