//! How a store says no, one type for each operation.

use std::path::PathBuf;

use crate::identity::Epoch;
use crate::receipt::Seq;
use crate::store::Space;

/// Why a batch was not taken. Nothing of it is in the store, and no number was given out.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SubmitRefusal {
    /// Keys and values exceed [`WRITE_BATCH_BYTES_MAX`](crate::WRITE_BATCH_BYTES_MAX) together.
    #[error("the batch has {bytes} bytes, at most {bytes_max} are taken")]
    BatchTooLarge {
        /// What it has.
        bytes: usize,
        /// What it may have.
        bytes_max: usize,
    },
    /// More than [`WRITE_BATCH_OPS_MAX`](crate::WRITE_BATCH_OPS_MAX) changes.
    #[error("the batch has {ops} operations, at most {ops_max} are taken")]
    TooManyOps {
        /// What it has.
        ops: usize,
        /// What it may have.
        ops_max: usize,
    },
    /// A key has no bytes.
    #[error("a key in {space} is empty")]
    KeyEmpty {
        /// Where it was to be written.
        space: Space,
    },
    /// A key is longer than [`KEY_BYTES_MAX`](crate::KEY_BYTES_MAX).
    #[error("a key has {bytes} bytes, at most {bytes_max} are taken")]
    KeyTooLong {
        /// What it has.
        bytes: usize,
        /// What it may have.
        bytes_max: usize,
    },
    /// A value is longer than [`VALUE_BYTES_MAX`](crate::VALUE_BYTES_MAX).
    #[error("a value has {bytes} bytes, at most {bytes_max} are taken: cut it into chunks")]
    ValueTooLarge {
        /// What it has.
        bytes: usize,
        /// What it may have.
        bytes_max: usize,
    },
    /// An earlier commit of this handle failed; the store has to be opened again.
    #[error("the store takes nothing more until it is opened again: {reason}")]
    Poisoned {
        /// The failure that ended the handle.
        reason: String,
    },
}

/// How a commit failed. Each of them ends the handle: nothing is acknowledged by it again.
///
/// In none of the cases does the caller know that the data is *not* there. Only opening the store
/// again tells.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CommitFailure {
    /// The store was opened by another handle since.
    #[error("fenced: this handle holds epoch {held}, the store is at epoch {current}")]
    Fenced {
        /// The epoch of this handle.
        held: Epoch,
        /// The epoch of the store.
        current: Epoch,
    },
    /// The write or the sync failed, or was abandoned halfway.
    #[error("the outcome of a commit is unknown: {cause}")]
    Unknown {
        /// What the disk said.
        cause: String,
    },
    /// The disk, the quota or the file-size limit is exhausted. The outcome is as unknown as in
    /// [`Unknown`](CommitFailure::Unknown).
    #[error("no room for a commit: {cause}")]
    Full {
        /// What the disk said.
        cause: String,
    },
}

/// Why something could not be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadFailure {
    /// What is stored does not fit its checksum, or cannot be understood.
    #[error("stored data is damaged: {what}")]
    Damaged {
        /// What and where.
        what: String,
    },
    /// The disk refused.
    #[error("reading failed: {cause}")]
    Io {
        /// What the disk said.
        cause: String,
    },
    /// A commit of this handle failed. What it had submitted may or may not survive, so that
    /// nothing it could answer would be known to be true.
    #[error("the store answers nothing more until it is opened again: {reason}")]
    Poisoned {
        /// The failure that ended the handle.
        reason: String,
    },
}

/// Why a store was not opened. None of its records was changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenRefusal {
    /// Another process, or another handle in this one, has it open.
    #[error("the store is in use{}: {} is locked", holder_text(.holder), lock.display())]
    Locked {
        /// The lock file.
        lock: PathBuf,
        /// The process id that its holder wrote into it, if it could be read.
        holder: Option<u32>,
    },
    /// What lies at the path is something else.
    #[error("{} is not a stepwell store: {why}", path.display())]
    NotAStore {
        /// The path.
        path: PathBuf,
        /// How it is seen.
        why: String,
    },
    /// The store is written in a format that this build does not read.
    #[error("the store has format {found}, this build reads format {supported}")]
    Format {
        /// What the store says.
        found: u32,
        /// What this build reads.
        supported: u32,
    },
    /// What is stored cannot be, or cannot be read.
    #[error("the store is damaged: {what}")]
    Damaged {
        /// What and where.
        what: String,
    },
    /// The store has lost batches that were acknowledged: it ends at `store`, and had made
    /// everything up to `watermark` durable once.
    #[error(
        "the store has lost committed data: it ends at batch {store}, but everything up to batch {watermark} was durable once"
    )]
    Behind {
        /// The last batch that is there.
        store: Seq,
        /// The last batch that was known to be durable.
        watermark: Seq,
    },
    /// There is no room for the few bytes that opening writes.
    #[error("no room to open the store: {cause}")]
    Full {
        /// What the disk said.
        cause: String,
    },
    /// The disk refused.
    #[error("opening failed: {cause}")]
    Io {
        /// What the disk said, and about which file.
        cause: String,
    },
}

impl OpenRefusal {
    /// What the operator can do, in one line; shown below the message.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            OpenRefusal::Locked { .. } => {
                Some("stop that process; the lock goes with it and needs no cleaning up")
            }
            OpenRefusal::NotAStore { .. } => {
                Some("give an empty or absent directory to create a store in")
            }
            OpenRefusal::Format { found, supported } if found > supported => {
                Some("a newer build wrote it: use that one")
            }
            OpenRefusal::Format { .. } => {
                Some("open it once with a build that still reads this format")
            }
            OpenRefusal::Damaged { .. } | OpenRefusal::Behind { .. } => {
                Some("keep a copy of the directory, then restore a backup and open it as restored")
            }
            OpenRefusal::Full { .. } => {
                Some("make room on the disk and open it again; nothing was changed")
            }
            OpenRefusal::Io { .. } => None,
        }
    }
}

fn holder_text(holder: &Option<u32>) -> String {
    holder.map(|pid| format!(" by process {pid}")).unwrap_or_default()
}
