//! fjall's version files, checked before fjall reads them.
//!
//! Each keyspace lists its tables in a version file `v7`, and `current` beside it holds the number
//! and an XXH3 checksum of that file. fjall writes the checksum and never compares it: a flipped
//! bit in a table count opens with the rows of those tables gone, and some others make its reader
//! panic, or abort the process. A missing `current` makes it remove the keyspace as one that was
//! never finished. All of that is found here.
//!
//! ```text
//!   current:  number (8)   xxh3-128 of v{number} (16)   kind of checksum, 0 (1)     little-endian
//! ```

use std::fs::{read, read_dir};
use std::io::ErrorKind;
use std::path::Path;

use twox_hash::XxHash3_128;

use super::fault::file_open_refusal;
use crate::refusal::OpenRefusal;

/// Refuses a database of which fjall would lose, remove or take for new what was there.
pub(super) fn check(db: &Path) -> Result<(), OpenRefusal> {
    // Without this one fjall would take the directory for a new database and start over.
    if file(&db.join("version"))?.is_none() {
        return Err(missing(&db.join("version")));
    }
    let keyspaces = db.join("keyspaces");
    let refuse = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => missing(&keyspaces),
        _ => file_open_refusal(&error, &keyspaces),
    };
    for entry in read_dir(&keyspaces).map_err(refuse)? {
        check_keyspace(&entry.map_err(refuse)?.path())?;
    }
    Ok(())
}

fn check_keyspace(path: &Path) -> Result<(), OpenRefusal> {
    let number =
        path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<u64>().ok());
    if number.is_none() {
        return Err(damaged(format!("{} is not a keyspace", path.display())));
    }
    let current = path.join("current");
    let Some(bytes) = file(&current)? else {
        // One that has no tables either was being made, or being removed, when the process died.
        let has_tables =
            read_dir(path.join("tables")).is_ok_and(|mut tables| tables.next().is_some());
        return if has_tables { Err(missing(&current)) } else { Ok(()) };
    };
    let (number, sum) =
        decode(&bytes).ok_or_else(|| damaged(format!("{} is torn", current.display())))?;
    let version = path.join(format!("v{number}"));
    let listed = file(&version)?.ok_or_else(|| missing(&version))?;
    if XxHash3_128::oneshot(&listed) != sum {
        return Err(damaged(format!("{} does not fit its checksum", version.display())));
    }
    Ok(())
}

fn decode(current: &[u8]) -> Option<(u64, u128)> {
    let number = u64::from_le_bytes(current.get(..8)?.try_into().ok()?);
    let sum = u128::from_le_bytes(current.get(8..24)?.try_into().ok()?);
    (current.get(24) == Some(&0)).then_some((number, sum))
}

fn file(path: &Path) -> Result<Option<Vec<u8>>, OpenRefusal> {
    match read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file_open_refusal(&error, path)),
    }
}

fn missing(path: &Path) -> OpenRefusal {
    damaged(format!("{} is missing", path.display()))
}

fn damaged(what: String) -> OpenRefusal {
    OpenRefusal::Damaged { what }
}
