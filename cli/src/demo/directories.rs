//! The directories of the demo.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::failure::CommandError;

/// The directories of the server's data and of the logs of all processes.
#[derive(Debug)]
pub(crate) struct Directories {
    /// The server's data.
    pub(crate) data: PathBuf,
    /// Of all processes.
    pub(crate) logs: PathBuf,
    /// Removed with it.
    _temporary: Option<TempDir>,
}

impl Directories {
    /// Makes room, at `data` if that is said; if it is to be kept, it is not removed.
    pub(crate) fn make(data: Option<PathBuf>, keep: bool) -> Result<Self, CommandError> {
        let fault = |e: std::io::Error| {
            CommandError::fault("there is no room for the demo's data").caused_by(&e)
        };
        let temporary =
            tempfile::Builder::new().prefix("stepwell-demo-").tempdir().map_err(fault)?;
        let (home, temporary) = if keep && data.is_none() {
            (temporary.keep(), None)
        } else {
            (temporary.path().to_owned(), Some(temporary))
        };
        let data = match data {
            Some(data) => {
                empty(&data)?;
                data
            }
            None => home.join("data"),
        };
        let logs = home.join("logs");
        for dir in [&data, &logs] {
            std::fs::create_dir_all(dir).map_err(fault)?;
        }
        Ok(Self { data, logs, _temporary: temporary })
    }
}

/// Refuses a directory with something in it: runs of an earlier demo would be found instead of
/// started.
fn empty(dir: &Path) -> Result<(), CommandError> {
    let is_empty = std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
    if is_empty || !dir.exists() {
        return Ok(());
    }
    Err(CommandError::bad_input(format!("{} is not an empty directory", dir.display()))
        .hint("the demo's runs are named after its orders: those of an earlier demo would be found instead of started"))
}
