//! What goes where: data on stdout, everything else on stderr, nothing told by colour alone.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use comfy_table::{CellAlignment, Table};
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde::Serialize;

use crate::failure::CommandError;

/// Where a command writes to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terminal {
    /// Data as one JSON document.
    pub(crate) json: bool,
}

impl Terminal {
    /// Prints the command's data: the document with `--json`, the text otherwise.
    pub(crate) fn data<T: Serialize>(
        self,
        document: &T,
        text: impl FnOnce() -> String,
    ) -> Result<(), CommandError> {
        let mut out = if self.json { json_text(document)? } else { text() };
        if !out.ends_with('\n') && !out.is_empty() {
            out.push('\n');
        }
        to_stdout(out.as_bytes())
    }

    /// Prints a line for people.
    pub(crate) fn note(self, line: impl std::fmt::Display) {
        let _ = writeln!(std::io::stderr(), "{line}");
    }

    /// Prints why the command failed.
    pub(crate) fn error(self, error: &CommandError) {
        let text = if self.json { format!("{}\n", error.json()) } else { error.text() };
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    /// Whether progress can be drawn in place.
    pub(crate) fn draws(self) -> bool {
        std::io::stderr().is_terminal()
    }
}

/// Shows that something takes long of which nobody knows how long.
pub(crate) fn spinner(terminal: Terminal, what: &'static str) -> ProgressBar {
    if !terminal.draws() || terminal.json {
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10))
        .with_message(what);
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

fn json_text<T: Serialize>(document: &T) -> Result<String, CommandError> {
    serde_json::to_string_pretty(document)
        .map_err(|e| CommandError::fault("the answer does not become JSON").caused_by(&e))
}

/// Writes data. A reader that has gone away (`| head`) is not an error.
pub(crate) fn to_stdout(bytes: &[u8]) -> Result<(), CommandError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CommandError::fault("stdout cannot be written").caused_by(&e))
        }
        _ => Ok(()),
    }
}

/// How a column is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    /// Words.
    Left(&'static str),
    /// Figures.
    Right(&'static str),
}

/// A table without borders: a heading, rows, two spaces between columns.
pub(crate) fn table(columns: &[Column], rows: Vec<Vec<String>>) -> String {
    let mut table = bare();
    table.set_header(columns.iter().map(|c| match c {
        Column::Left(name) | Column::Right(name) => *name,
    }));
    for row in rows {
        table.add_row(row);
    }
    for (index, column) in columns.iter().enumerate() {
        if let (Column::Right(_), Some(set)) = (column, table.column_mut(index)) {
            set.set_cell_alignment(CellAlignment::Right);
        }
    }
    trimmed(&table)
}

/// Names and values under each other.
pub(crate) fn pairs(rows: Vec<(&str, String)>) -> String {
    let mut table = bare();
    for (name, value) in rows {
        table.add_row(vec![name.to_owned(), value]);
    }
    trimmed(&table)
}

fn bare() -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(comfy_table::ContentArrangement::Disabled);
    table
}

/// The table's text without blanks at the ends of lines and the one before each line.
fn trimmed(table: &Table) -> String {
    let mut text = String::new();
    for line in table.to_string().lines() {
        text.push_str(line.strip_prefix(' ').unwrap_or(line).trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_bare() {
        let text = table(
            &[Column::Left("RUN"), Column::Right("ENTRIES")],
            vec![vec!["order-1".into(), "12".into()]],
        );
        assert_eq!(text, "RUN      ENTRIES\norder-1       12\n");
    }
}
