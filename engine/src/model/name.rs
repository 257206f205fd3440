//! What a name may be.

use super::limits::NAME_BYTES_MAX;
use super::request::BadName;

/// A name that may be empty, or else is like any other.
pub(crate) fn check_name_length(what: &str, name: &str) -> Result<(), BadName> {
    if name.is_empty() { Ok(()) } else { check_name(what, name, NAME_BYTES_MAX) }
}

/// A name: not empty, at most `bytes_max` long, without control characters.
pub(crate) fn check_name(what: &str, name: &str, bytes_max: usize) -> Result<(), BadName> {
    let problem = match name {
        "" => "is empty".to_owned(),
        _ if name.len() > bytes_max => format!("has {} bytes, more than {bytes_max}", name.len()),
        _ if name.chars().any(char::is_control) => "holds control characters".to_owned(),
        _ => return Ok(()),
    };
    let name = name.chars().take(64).collect();
    Err(BadName { what: what.to_owned(), name, problem })
}
