//! What fjall's errors mean here.

use std::io::{Error as IoError, ErrorKind};
use std::path::Path;

use fjall::{Error, LsmError};

use crate::refusal::{CommitFailure, OpenRefusal, ReadFailure};

/// A failed write. Nothing is known about what of it is on the disk.
pub(super) fn commit_failure(error: &Error, directory: &Path) -> CommitFailure {
    let cause = text(error);
    match io_of(error) {
        Some(io) if no_room(io) => CommitFailure::Full { cause },
        // A flush in the background has failed before, and fjall keeps no reason. A full disk is
        // the one worth telling apart, since it ends when room is made.
        None if matches!(error, Error::Poisoned) => match probe(directory) {
            Err(io) if no_room(&io) => {
                CommitFailure::Full { cause: format!("a background write failed: {io}") }
            }
            _ => CommitFailure::Unknown { cause: "a background write failed earlier".to_owned() },
        },
        _ => CommitFailure::Unknown { cause },
    }
}

/// A failed write of one of our own files.
pub(super) fn file_commit_failure(error: &IoError, file: &str) -> CommitFailure {
    let cause = format!("{file}: {error}");
    if no_room(error) { CommitFailure::Full { cause } } else { CommitFailure::Unknown { cause } }
}

pub(super) fn read_failure(error: &Error) -> ReadFailure {
    match io_of(error) {
        // A file that ends early or is gone is not the disk's refusal: it is what is stored.
        Some(io)
            if !matches!(
                io.kind(),
                ErrorKind::UnexpectedEof | ErrorKind::NotFound | ErrorKind::InvalidData
            ) =>
        {
            ReadFailure::Io { cause: io.to_string() }
        }
        _ => ReadFailure::Damaged { what: text(error) },
    }
}

pub(super) fn open_refusal(error: &Error) -> OpenRefusal {
    match io_of(error) {
        Some(io) if no_room(io) => OpenRefusal::Full { cause: text(error) },
        Some(io) if io.kind() == ErrorKind::PermissionDenied => {
            OpenRefusal::Io { cause: text(error) }
        }
        _ => OpenRefusal::Damaged { what: text(error) },
    }
}

pub(super) fn file_open_refusal(error: &IoError, file: &Path) -> OpenRefusal {
    let cause = format!("{}: {error}", file.display());
    if no_room(error) { OpenRefusal::Full { cause } } else { OpenRefusal::Io { cause } }
}

/// Disk, quota or file-size limit: what an operator can make room for.
fn no_room(error: &IoError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}

fn io_of(error: &Error) -> Option<&IoError> {
    match error {
        Error::Io(io) | Error::Storage(LsmError::Io(io)) => Some(io),
        _ => None,
    }
}

fn text(error: &Error) -> String {
    match error {
        Error::Io(io) => io.to_string(),
        Error::Storage(inner) => format!("{inner:?}"),
        Error::JournalRecovery(inner) => format!("the write-ahead log: {inner:?}"),
        other => format!("{other:?}"),
    }
}

/// Tries to write a little, to learn whether there is room.
fn probe(directory: &Path) -> Result<(), IoError> {
    let path = directory.join("probe.tmp");
    let written = std::fs::write(&path, [0; 1 << 16]);
    // Nothing depends on its going away: the next probe overwrites it.
    let _ = std::fs::remove_file(&path);
    written
}
