//! Reads journals, and what is known of a run from its journal.
//!
//! A range over a store of many tables costs several times what a look-up does. Where it is known,
//! or likely, that there are few rows, they are looked up one by one; what does not fit the guess
//! is read as a range.

use bytes::Bytes;
use stepwell_storage::{Row, Store};

use super::prefetch::Lone;
use super::{PAGE_ROWS, Unreadable, all_rows, record, scan};
use crate::core::run::{Run, RunFold, RunImage};
use crate::model::chain::{self, CHAIN_BYTES};
use crate::model::entry::Entry;
use crate::model::id::RunNo;
use crate::model::payload::Payload;
use crate::model::time::Time;
use crate::numbered::Undecodable;
use crate::tables::journal::{self, Joiner, JournalKey, JournalRow};
use crate::tables::{
    self, BadRow, FixedSpace, MovedKey, StoppedKey, TableKey, TimerKey, UniqueHolderKey,
};

/// So few entries of a journal are looked up one by one.
const FEW_ENTRIES: u32 = 2;

/// Where a run's journal is now.
pub async fn generation_of(
    store: &dyn Store,
    run: RunNo,
    birth: (u32, bool),
) -> Result<u32, Unreadable> {
    let (generation, may_have_moved) = birth;
    if !may_have_moved {
        return Ok(generation);
    }
    let moved = record(store, &MovedKey { run }).await?;
    Ok(moved.map_or(generation, |moved| moved.generation))
}

/// A few entries of a journal, if all of them are there and of one row each.
async fn few_entries(
    store: &dyn Store,
    generation: u32,
    run: RunNo,
    (from, until): (u32, u32),
) -> Result<Option<Vec<Bytes>>, Unreadable> {
    let (mut joiner, mut found) = (Joiner::from(from), Vec::new());
    for row in few_rows(store, generation, run, (from, until)).await? {
        let Some((key, row)) = row else { return Ok(None) };
        match joiner.push(&key, row)? {
            Some(entry) => found.push(entry),
            None => return Ok(None),
        }
    }
    Ok(Some(found))
}

/// Entries of a journal as stored, from `from` on, until `until` or until `bytes_max` have been
/// read.
pub async fn entries(
    store: &dyn Store,
    generation: u32,
    run: RunNo,
    (from, until): (u32, u32),
    bytes_max: usize,
) -> Result<Vec<Bytes>, Unreadable> {
    if (1..=FEW_ENTRIES).contains(&until.saturating_sub(from))
        && let Some(found) = few_entries(store, generation, run, (from, until)).await?
        && found.iter().map(Bytes::len).sum::<usize>() < bytes_max
    {
        return Ok(found);
    }
    let mut joiner = Joiner::from(from);
    let (mut found, mut bytes) = (Vec::new(), 0);
    let mut start = JournalKey::first(run, from).to_bytes();
    let end = JournalKey::first(run, until).to_bytes();
    loop {
        let limit = PAGE_ROWS.min(8 + (until - joiner.next().min(until)) as usize);
        let space = journal::space(generation);
        let rows = store.scan(scan(space, start, end.clone(), limit)).await?;
        for row in &rows {
            if let Some(entry) = push(&mut joiner, row)? {
                bytes += entry.len();
                found.push(entry);
                if bytes >= bytes_max {
                    return Ok(found);
                }
            }
        }
        let Some(last) = rows.last().filter(|_| rows.len() == limit) else {
            break;
        };
        start = [&last.key[..], &[0]].concat().into();
    }
    whole(&joiner)?;
    Ok(found)
}

/// The first entry of a journal, if it is the only one and of one row.
///
/// Two look-ups, which cost a fraction of a scan in a store of many tables.
async fn lone_entry(
    store: &dyn Store,
    generation: u32,
    run: RunNo,
) -> Result<Option<Bytes>, Unreadable> {
    let mut rows = few_rows(store, generation, run, (0, 2)).await?.into_iter();
    match (rows.next().flatten(), rows.next().flatten()) {
        (Some((key, row)), None) => Ok(Joiner::default().push(&key, row)?),
        _ => Ok(None),
    }
}

/// The first rows of some entries.
async fn few_rows(
    store: &dyn Store,
    generation: u32,
    run: RunNo,
    (from, until): (u32, u32),
) -> Result<Vec<Option<(JournalKey, JournalRow)>>, Unreadable> {
    let mut rows = Vec::new();
    for entry in from..until {
        let key = JournalKey::first(run, entry);
        let value = store.get(journal::space(generation), &key.to_bytes()).await?;
        rows.push(value.map(|value| (key, JournalRow(value))));
    }
    Ok(rows)
}

/// Gives a joiner a stored row.
fn push(joiner: &mut Joiner, row: &Row) -> Result<Option<Bytes>, BadRow> {
    let (key, row) = tables::read_row(&row.key, &row.value)?;
    Ok(joiner.push(&key, row)?)
}

/// Whether no entry is cut off.
fn whole(joiner: &Joiner) -> Result<(), Unreadable> {
    if joiner.is_whole() {
        return Ok(());
    }
    let cause = format!("entry {} is cut off", joiner.next());
    let what = "a journal";
    Err(Undecodable::Damaged { what, cause }.into())
}

async fn fold_of(store: &dyn Store, generation: u32, run: RunNo) -> Result<RunFold, Unreadable> {
    let mut fold = RunFold::new(run, generation);
    let mut joiner = Joiner::default();
    all_rows(
        store,
        journal::space(generation),
        JournalKey::first(run, 0).to_bytes(),
        JournalKey::first(RunNo(run.0 + 1), 0).to_bytes(),
        |row| {
            if let Some(entry) = push(&mut joiner, row)? {
                fold.push(&entry)?;
            }
            Ok(())
        },
    )
    .await?;
    whole(&joiner)?;
    Ok(fold)
}

/// What a finished step returned, its link to the entry before it verified; none if the journal is
/// gone.
pub(super) async fn output_of(
    store: &dyn Store,
    run: RunNo,
    birth: (u32, bool),
    entry: u32,
) -> Result<Option<Payload>, Unreadable> {
    let generation = generation_of(store, run, birth).await?;
    let around = (entry.saturating_sub(1), entry.saturating_add(1));
    let found = entries(store, generation, run, around, usize::MAX).await?;
    let output = match &found[..] {
        [before, stored] => {
            let chain = before.last_chunk::<CHAIN_BYTES>();
            let chain = u64::from_le_bytes(chain.copied().unwrap_or_default());
            match chain::open(chain, stored)?.0 {
                Entry::StepCompleted(completed) => Some(completed.output),
                _ => None,
            }
        }
        _ => None,
    };
    if output.is_none() && found.is_empty() {
        let first = few_rows(store, generation, run, (0, 1)).await?;
        if first.iter().all(Option::is_none) {
            return Ok(None);
        }
    }
    let damaged = || Undecodable::Damaged {
        what: "a journal",
        cause: format!("entry {entry} is not the result of a step"),
    };
    output.map(Some).ok_or_else(|| damaged().into())
}

/// All that is known of a run, its chain verified.
pub async fn image(
    store: &dyn Store,
    run: RunNo,
    birth: (u32, bool),
) -> Result<Option<Box<RunImage>>, Unreadable> {
    image_of(store, run, birth, false, None).await
}

/// The same. `brief`: it is read from its place in line, and the guess is that its journal holds
/// one entry; `prefetched`: what is known of it already.
pub(super) async fn image_of(
    store: &dyn Store,
    run: RunNo,
    birth: (u32, bool),
    brief: bool,
    prefetched: Option<Lone>,
) -> Result<Option<Box<RunImage>>, Unreadable> {
    let generation = generation_of(store, run, birth).await?;
    let (lone, stopped) = match prefetched {
        Some(Lone { entry, stopped }) => (Some(entry), Some(stopped)),
        None if brief => (lone_entry(store, generation, run).await?, None),
        None => (None, None),
    };
    let fold = match lone {
        Some(entry) => {
            let mut fold = RunFold::new(run, generation);
            fold.push(&entry)?;
            fold
        }
        None => fold_of(store, generation, run).await?,
    };
    let Some(mut run) = fold.finish() else {
        return Ok(None);
    };
    if let Some(held) = run.unique {
        // Its journal does not tell whether it has let go of its key: the key's row does.
        let key = UniqueHolderKey { namespace: run.namespace, hash: held.hash };
        let row = record(store, &key).await?;
        run.unique = run.unique.filter(|_| row.is_some_and(|row| row.run == run.no));
    }
    let stopped = match (run.ended.is_some(), stopped) {
        (true, _) => None,
        (false, Some(known)) => known,
        (false, None) => record(store, &StoppedKey { run: run.no }).await?,
    };
    let sleeps = match stopped {
        Some(_) => None,
        None => sleeps(store, &run, brief).await?,
    };
    Ok(Some(Box::new(RunImage { run, stopped, sleeps })))
}

/// Which of the run's instants has a stored timer. Of a run that is read from its place in line it
/// is known that it does not wait for memo keys: a look-up less for each dispatch of a long line.
async fn sleeps(store: &dyn Store, run: &Run, in_line: bool) -> Result<Option<Time>, Unreadable> {
    if run.ended.is_some() {
        return Ok(None);
    }
    let delayed = run.not_before.filter(|_| run.next == 1);
    let never = (!in_line).then_some(Time::NEVER); // it waits for memo keys
    let instants = run.commands.instants().into_iter().chain(delayed);
    for due in instants.chain(never) {
        let key = TimerKey { due, run: run.no };
        if store.get(TimerKey::SPACE, &key.to_bytes()).await?.is_some() {
            return Ok(Some(due));
        }
    }
    Ok(None)
}
