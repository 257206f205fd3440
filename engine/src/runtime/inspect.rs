//! Looking into a store that no engine has open: `stepwell store check` and `stepwell store dump`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use stepwell_storage::{FjallStore, Options, Row, Space, Store};

use super::engine::OpenError;
use crate::core::run::RunFold;
use crate::keys::applied_request::AppliedRequestRecord;
use crate::keys::batch::{BatchRecord, FollowUpRecord};
use crate::keys::expiry::{self, ExpiryMark};
use crate::keys::journal::{self, Joiner};
use crate::keys::memo::MemoRecord;
use crate::keys::unique::UniqueRecord;
use crate::keys::{
    AuditRecord, DeadRecord, Family, GenerationRecord, IndexRecord, LeaseRecord, Mark, MovedRecord,
    PoolRecord, QueueRecord, QueuedRecord, Record, ScheduleRecord, ScheduleState, StoppedRecord,
    Tally, TimerRecord,
};
use crate::model::chain::CHAIN_BYTES;
use crate::model::entry::Entry;
use crate::model::id::RunNo;
use crate::store_reader::{Unreadable, all_rows};

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct StoreReport {
    /// Rows read, by family.
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
            let family = Family::from_key(&row.key);
            let name = family.map_or("unknown".to_owned(), |f| format!("{f:?}").to_lowercase());
            *report.rows.entry(name).or_default() += 1;
            let problem = match family {
                Some(Family::Journal) => journals.push(space, row, &mut report),
                Some(family) => decode(family, row).err(),
                None => Some("a key of no known family".to_owned()),
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
    fn push(&mut self, space: Space, row: &Row, report: &mut StoreReport) -> Option<String> {
        let (no, ..) = journal::parts_of(&row.key)?;
        if self.run.as_ref().is_none_or(|(current, ..)| *current != no) {
            let generation = if let Space::Generation(generation) = space { generation } else { 0 };
            self.finish(report);
            self.run = Some((no, Joiner::default(), RunFold::new(no, generation)));
            self.bad = false;
            report.runs += 1;
        }
        let (_, joiner, fold) = self.run.as_mut().filter(|_| !self.bad)?;
        let pushed = joiner.push(row).and_then(|whole| match whole {
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

fn decode(family: Family, row: &Row) -> Result<String, String> {
    fn text<R: Record + std::fmt::Debug>(value: &[u8]) -> Result<String, String> {
        R::from_bytes(value).map(|record| format!("{record:?}")).map_err(|e| e.to_string())
    }
    let value = &row.value;
    match family {
        Family::Tally => text::<Tally>(value),
        Family::Index => text::<IndexRecord>(value),
        Family::Queue => text::<QueueRecord>(value),
        Family::Stopped => text::<StoppedRecord>(value),
        Family::Dead => text::<DeadRecord>(value),
        Family::Queued => text::<QueuedRecord>(value),
        Family::Lease => text::<LeaseRecord>(value),
        Family::Timer => text::<TimerRecord>(value),
        Family::Generation => text::<GenerationRecord>(value),
        Family::Moved => text::<MovedRecord>(value),
        Family::Mark => text::<Mark>(value),
        Family::Pool => text::<PoolRecord>(value),
        Family::Audit => text::<AuditRecord>(value),
        Family::Schedule => text::<ScheduleRecord>(value),
        Family::ScheduleState => text::<ScheduleState>(value),
        Family::Journal => Ok(String::new()),
        Family::Unique => text::<UniqueRecord>(value),
        Family::Memo => text::<MemoRecord>(value),
        Family::Batch | Family::EndedBatch => text::<BatchRecord>(value),
        Family::Expiry if expiry::is_mark(&row.key) => text::<ExpiryMark>(value),
        Family::Expiry => Ok(String::new()),
        Family::FollowUp => text::<FollowUpRecord>(value),
        Family::AppliedRequest => text::<AppliedRequestRecord>(value),
    }
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
            let line = match Family::from_key(&row.key) {
                Some(Family::Journal) => match journal_line(row, &mut joiner) {
                    Some(line) => line,
                    None => return Ok(()),
                },
                Some(family) => {
                    let key = hex(row.key.get(3..).unwrap_or_default());
                    let record = decode(family, row)
                        .unwrap_or_else(|e| format!("{} ({e})", hex(&row.value)));
                    format!("{} {key} {record}", format!("{family:?}").to_lowercase())
                }
                None => format!("unknown {} {}", hex(&row.key), hex(&row.value)),
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

fn journal_line(row: &Row, joiner: &mut Option<(RunNo, Joiner)>) -> Option<String> {
    let (no, number, _) = journal::parts_of(&row.key)?;
    if joiner.as_ref().is_none_or(|(current, _)| *current != no) {
        *joiner = Some((no, Joiner::default()));
    }
    let (_, joiner) = joiner.as_mut()?;
    match joiner.push(row) {
        Ok(None) => None,
        Ok(Some(stored)) => {
            let body =
                stored.split_last_chunk::<CHAIN_BYTES>().map_or(&stored[..], |(body, _)| body);
            let entry = Entry::decode(body)
                .map_or_else(|e| format!("{} ({e})", hex(body)), |e| format!("{e:?}"));
            Some(format!("journal run {no} entry {number} {entry}"))
        }
        Err(problem) => {
            Some(format!("journal run {no} entry {number} {} ({problem})", hex(&row.value)))
        }
    }
}
