//! `stepwell store …`: check or dump a store that no engine has open.

use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;
use stepwell::StoreReport;

use crate::connection::{opened, require_directory};
use crate::failure::{Answer, CommandError};
use crate::quantity::{bytes_text, counted, grouped};
use crate::terminal::{Column, Terminal, table};

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Read the whole store and verify each record and each journal's chain
    Check(Directory),
    /// Print every record, one per line
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
            Self::Dump(directory) => dump(&directory, terminal).await,
        }
    }
}

async fn check(directory: &Directory, terminal: Terminal) -> Result<Answer, CommandError> {
    require_directory(&directory.dir)?;
    let report = stepwell::store_check(&directory.dir).await.map_err(|e| opened(&e))?;
    let document = json!({
        "ok": report.is_sound(),
        "rows": report.rows,
        "runs": report.runs,
        "entries": report.entries,
        "bytes": report.bytes,
        "damage": report.damage,
    });
    terminal.data(&document, || text(&report))?;
    Ok(if report.is_sound() { Answer::Yes } else { Answer::No })
}

fn text(report: &StoreReport) -> String {
    let rows = report.rows.iter().map(|(name, rows)| vec![name.clone(), grouped(*rows)]).collect();
    let mut text = table(&[Column::Left("TABLE"), Column::Right("ROWS")], rows);
    text.push_str(&format!(
        "\n{} with {} verified, {}\n",
        counted(report.runs, "journal", "journals"),
        counted(report.entries, "entry", "entries"),
        bytes_text(report.bytes)
    ));
    for damage in &report.damage {
        text.push_str(&format!("damaged: {damage}\n"));
    }
    if report.is_sound() {
        text.push_str("the store is valid\n");
    }
    text
}

async fn dump(directory: &Directory, terminal: Terminal) -> Result<Answer, CommandError> {
    require_directory(&directory.dir)?;
    if terminal.json {
        let mut bytes = Vec::new();
        stepwell::store_dump(&directory.dir, &mut bytes).await.map_err(|e| opened(&e))?;
        let records: Vec<_> = String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect();
        terminal.data(&json!({ "records": records }), String::new)?;
    } else {
        let mut out = Reader(std::io::BufWriter::new(std::io::stdout()));
        stepwell::store_dump(&directory.dir, &mut out).await.map_err(|e| opened(&e))?;
        out.flush().map_err(|e| CommandError::fault("stdout cannot be written").caused_by(&e))?;
    }
    Ok(Answer::Yes)
}

/// Whoever reads the dump. Having gone away (`| head`) is not an error.
struct Reader<W>(W);

impl<W: Write> Write for Reader<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self.0.write(bytes) {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(bytes.len()),
            other => other,
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self.0.flush() {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }
}
