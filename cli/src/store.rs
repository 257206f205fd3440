//! `stepwell store …`: look at a store that no engine has open.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::failure::{Answer, CommandError};
use crate::terminal::Terminal;

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Read everything and verify checksums, chains and references
    Check(Directory),
    /// Print every row, one a line
    Dump(Directory),
}

#[derive(Debug, Args)]
pub(crate) struct Directory {
    /// The data directory
    dir: PathBuf,
}

impl StoreCommand {
    pub(crate) async fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        match self {
            Self::Check(directory) => check(&directory, terminal).await,
            Self::Dump(directory) => dump(&directory).await,
        }
    }
}
