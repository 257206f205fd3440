//! Looking into a store that no engine has open: `stepwell store check` and `stepwell store dump`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use stepwell_storage::{FjallStore, Options, Row, Space, Store};

use super::engine::OpenError;
use crate::core::run::RunFold;
use crate::model::chain::CHAIN_BYTES;
use crate::model::entry::Entry;
use crate::model::id::RunNo;
use crate::store_reader::{Unreadable, all_rows};
use crate::tables::journal::{Joiner, JournalRow};
use crate::tables::{HEAD_BYTES, JournalKey, Table, TableRow};

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct StoreReport {
    /// Rows read, by the names of their tables.
    pub rows: BTreeMap<String, u64>,
    /// Runs whose journal was read and whose chain was verified.
    pub runs: u64,
    /// Entries in them.
    pub entries: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// What is damaged, a line each.
    pub damage: Vec<String>,
}

impl StoreReport {
    /// Whether nothing is damaged.
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty()
    }
}

fn open(path: &Path) -> Result<FjallStore, OpenError> {
    let options = Options { create: false, ..Options::default() };
    FjallStore::open(path, options)
        .map_err(|cause| OpenError::Store { path: path.to_owned(), cause })
}

async fn spaces(store: &FjallStore) -> Result<Vec<Space>, OpenError> {
    let generations = store.generations().await.map_err(|e| OpenError::Records(e.into()))?;
    Ok([Space::LongLived, Space::ShortLived]
        .into_iter()
        .chain(generations.into_iter().map(Space::Generation))
        .collect())
}

/// Reads everything in the store at `path`, decodes every record and verifies every journal's
/// chain.
///
/// Errors: the store does not open, or cannot be read at all; damage to single records is in the
/// report.
pub async fn store_check(path: impl AsRef<Path>) -> Result<StoreReport, OpenError> {
    let store = open(path.as_ref())?;
    let mut report = StoreReport::default();
    for space in spaces(&store).await? {
        let mut journals = JournalCheck::default();
        let read = all_rows(&store, space, bytes::Bytes::new(), bytes::Bytes::new(), |row| {
            report.bytes += (row.key.len() + row.value.len()) as u64;
            *report.rows.entry(name_of(row).to_owned()).or_default() += 1;
            let problem = match TableRow::read(space, &row.key, &row.value) {
                Ok(TableRow::Journal(key, row)) => journals.push(space, &key, row, &mut report),
                Ok(_) => None, // its record decodes
                Err(bad) => Some(bad.to_string()),
            };
            report.damage.extend(
                problem.map(|problem| format!("{space}: key {}: {problem}", hex(&row.key))),
            );
            Ok(())
        })
        .await;
        journals.finish(&mut report);
        if let Err(error) = read {
            report.damage.push(format!("{space}: {}", error.chain()));
        }
    }
    Ok(report)
}

#[derive(Default)]
struct JournalCheck {
    run: Option<(RunNo, Joiner, RunFold)>,
    bad: bool,
}

impl JournalCheck {
    fn push(
        &mut self,
        space: Space,
        key: &JournalKey,
        row: JournalRow,
        report: &mut StoreReport,
    ) -> Option<String> {
        let no = key.run;
        if self.run.as_ref().is_none_or(|(current, ..)| *current != no) {
            let generation = if let Space::Generation(generation) = space { generation } else { 0 };
            self.finish(report);
            self.run = Some((no, Joiner::default(), RunFold::new(no, generation)));
            self.bad = false;
            report.runs += 1;
        }
        let (_, joiner, fold) = self.run.as_mut().filter(|_| !self.bad)?;
        let pushed = joiner.push(key, row).and_then(|whole| match whole {
            Some(entry) => {
                report.entries += 1;
                fold.push(&entry)
            }
            None => Ok(()),
        });
        let problem = pushed.err()?;
        self.bad = true; // one line a run
        Some(format!("run number {no}: {problem}"))
    }

    fn finish(&mut self, report: &mut StoreReport) {
        if let Some((no, joiner, _)) = self.run.take().filter(|_| !self.bad)
            && !joiner.is_whole()
        {
            report.damage.push(format!("run number {no}: entry {} is cut off", joiner.next()));
        }
    }
}

/// The name of a row's table.
fn name_of(row: &Row) -> &'static str {
    Table::from_key(&row.key).map_or("unknown", Table::name)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Writes every record of the store at `path`, a line each, as text.
///
/// Errors: the store does not open, or `into` does not take more. What cannot be decoded is written
/// as hex.
pub async fn store_dump(
    path: impl AsRef<Path>,
    into: &mut (dyn Write + Send),
) -> Result<(), OpenError> {
    let store = open(path.as_ref())?;
    for space in spaces(&store).await? {
        let mut joiner: Option<(RunNo, Joiner)> = None;
        all_rows(&store, space, bytes::Bytes::new(), bytes::Bytes::new(), |row| {
            let line = match TableRow::read(space, &row.key, &row.value) {
                Ok(TableRow::Journal(key, row)) => match journal_line(&key, &row, &mut joiner) {
                    Some(line) => line,
                    None => return Ok(()),
                },
                Ok(read) => line_of(row, format_args!("{:?}", read.record())),
                Err(bad) => line_of(row, format_args!("{} ({bad})", hex(&row.value))),
            };
            writeln!(into, "{space} {line}").map_err(|e| {
                Unreadable::Store(stepwell_storage::ReadFailure::Io { cause: e.to_string() })
            })
        })
        .await
        .map_err(OpenError::Records)?;
    }
    Ok(())
}

fn line_of(row: &Row, record: std::fmt::Arguments<'_>) -> String {
    let parts = row.key.get(HEAD_BYTES..).unwrap_or_default();
    format!("{} {} {record}", name_of(row), hex(parts))
}

fn journal_line(
    key: &JournalKey,
    row: &JournalRow,
    joiner: &mut Option<(RunNo, Joiner)>,
) -> Option<String> {
    let (no, number) = (key.run, key.entry);
    if joiner.as_ref().is_none_or(|(current, _)| *current != no) {
        *joiner = Some((no, Joiner::default()));
    }
    let (_, joiner) = joiner.as_mut()?;
    match joiner.push(key, row.clone()) {
        Ok(None) => None,
        Ok(Some(stored)) => {
            let body =
                stored.split_last_chunk::<CHAIN_BYTES>().map_or(&stored[..], |(body, _)| body);
            let entry = Entry::decode(body)
                .map_or_else(|e| format!("{} ({e})", hex(body)), |e| format!("{e:?}"));
            Some(format!("journal run {no} entry {number} {entry}"))
        }
        Err(problem) => {
            Some(format!("journal run {no} entry {number} {} ({problem})", hex(&row.0)))
        }
    }
}
