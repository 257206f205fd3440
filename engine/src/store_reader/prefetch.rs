//! Reads runs that stand side by side in one go.
//!
//! Dispatches of a long line ask for run after run of which nothing is in memory. For each of them
//! the store would be asked three times: for its first entry, for a second one, and whether it is
//! stopped. Runs that follow each other have neighbouring rows, so two ranges answer for all of
//! them. Nothing is guessed: what a range does not tell of a run beyond doubt is read as if there
//! were none.
//!
//! All reads that a core asks for at once see the same state of the store, whatever their order:
//! nothing is submitted between them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use stepwell_storage::Store;

use super::{Unreadable, first_of, scan};
use crate::canary::canary;
use crate::core::output::StoreRead;
use crate::model::id::RunNo;
use crate::tables::journal::{self, Joiner};
use crate::tables::{self, JournalKey, StoppedKey, StoppedRecord, TableKey};

/// Fewer runs are looked up one by one: a range costs what several look-ups do.
const TOGETHER_MIN: usize = 4;
/// So many are read at once, at most.
const TOGETHER_MAX: usize = 256;
/// Runs further apart than this are not neighbours: what lies between them would be read in vain.
const APART_MAX: u64 = 4;

/// What was read of runs before it is asked for.
#[derive(Debug, Default)]
pub struct Prefetched(BTreeMap<RunNo, Lone>);

/// A run whose journal holds one entry of one row.
#[derive(Debug)]
pub(super) struct Lone {
    pub(super) entry: Bytes,
    pub(super) stopped: Option<StoppedRecord>,
}

impl Prefetched {
    /// Reads what it can of runs that `reads` ask for.
    ///
    /// Damage that only some rows have is left to be found, and told, when those are read by
    /// themselves.
    pub async fn of(store: &dyn Store, reads: &[StoreRead]) -> Result<Self, Unreadable> {
        let mut prefetched = Self::default();
        for (generation, runs) in neighbours(reads) {
            match prefetched.add(store, generation, &runs).await {
                Err(error) if !error.is_local() => return Err(error),
                _ => {}
            }
        }
        Ok(prefetched)
    }

    /// What was read of a run. It is given once.
    pub(super) fn take(&mut self, run: RunNo) -> Option<Lone> {
        self.0.remove(&run)
    }

    async fn add(
        &mut self,
        store: &dyn Store,
        generation: u32,
        runs: &BTreeSet<RunNo>,
    ) -> Result<(), Unreadable> {
        let (Some(first), Some(last)) = (runs.first(), runs.last()) else {
            return Ok(());
        };
        let behind = RunNo(last.0 + 1);
        let mut stopped = stopped(store, *first, behind).await?;
        for (run, entry) in lone_entries(store, generation, *first, behind).await? {
            if runs.contains(&run) {
                let stopped = stopped.remove(&run);
                self.0.insert(run, Lone { entry, stopped });
            }
        }
        Ok(())
    }
}

/// Runs whose journals probably hold one entry each and lie side by side, with the generation they
/// are in.
fn neighbours(reads: &[StoreRead]) -> Vec<(u32, BTreeSet<RunNo>)> {
    let asked: BTreeSet<(u32, RunNo)> = reads
        .iter()
        .filter_map(|read| match read {
            StoreRead::Run { run, generation, moved: false, brief: true } => {
                Some((*generation, *run))
            }
            _ => None,
        })
        .collect();
    let mut groups: Vec<(u32, BTreeSet<RunNo>)> = Vec::new();
    for (generation, run) in asked {
        match groups.last_mut() {
            Some((same, runs))
                if *same == generation
                    && runs.len() < TOGETHER_MAX
                    && runs.last().is_some_and(|last| run.0 - last.0 <= APART_MAX) =>
            {
                runs.insert(run);
            }
            _ => groups.push((generation, BTreeSet::from([run]))),
        }
    }
    groups.retain(|(_, runs)| runs.len() >= TOGETHER_MIN);
    groups
}

/// Entries that are alone in their journals.
async fn lone_entries(
    store: &dyn Store,
    generation: u32,
    first: RunNo,
    behind: RunNo,
) -> Result<BTreeMap<RunNo, Bytes>, Unreadable> {
    // One row of each, and some that have more.
    let limit = 2 * (behind.0 - first.0) as usize;
    let [from, to] = [first, behind].map(|run| JournalKey::first(run, 0).to_bytes());
    let rows = store.scan(scan(journal::space(generation), from, to, limit)).await?;
    let cut = rows.len() == limit;
    let (mut found, mut counted) = (BTreeMap::new(), BTreeMap::<RunNo, usize>::new());
    for row in &rows {
        let Ok((key, row)) = tables::read_row::<JournalKey>(&row.key, &row.value) else {
            continue;
        };
        let count = counted.entry(key.run).or_default();
        *count += 1;
        match (*count, Joiner::default().push(&key, row)) {
            (1, Ok(Some(entry))) => {
                found.insert(key.run, entry);
            }
            _ if canary!("a journal that goes on is read as its first entry") => {}
            _ => {
                found.remove(&key.run);
            }
        }
    }
    if cut && let Some((last, _)) = counted.last_key_value() {
        found.remove(last); // it may have more rows
    }
    Ok(found)
}

/// Which runs of a range are stopped.
async fn stopped(
    store: &dyn Store,
    first: RunNo,
    behind: RunNo,
) -> Result<BTreeMap<RunNo, StoppedRecord>, Unreadable> {
    let [from, to] = [first, behind].map(|run| StoppedKey { run }.to_bytes());
    let limit = (behind.0 - first.0) as usize;
    let rows = first_of::<StoppedKey>(store, from, to, limit).await?;
    Ok(rows.into_iter().map(|(key, record)| (key.run, record)).collect())
}

#[cfg(test)]
mod tests {
    use stepwell_storage::{MemDisk, MemOptions, MemStore, WriteBatch, block_on};

    use super::*;
    use crate::model::run::RunState;
    use crate::model::time::Time;
    use crate::tables::{FixedSpace, TableValue};

    const GENERATION: u32 = 3;

    fn read(run: u64) -> StoreRead {
        StoreRead::Run { run: RunNo(run), generation: GENERATION, moved: false, brief: true }
    }

    fn reads(runs: impl IntoIterator<Item = u64>) -> Vec<StoreRead> {
        runs.into_iter().map(read).collect()
    }

    fn groups(reads: &[StoreRead]) -> Vec<Vec<u64>> {
        let groups = neighbours(reads).into_iter();
        let numbers = |runs: BTreeSet<RunNo>| runs.into_iter().map(|run| run.0).collect();
        groups.map(|(_, runs)| numbers(runs)).collect()
    }

    #[test]
    fn neighbours_are_read_together_and_others_by_themselves() {
        assert_eq!(groups(&reads([9, 7, 10, 8])), [vec![7, 8, 9, 10]]);
        assert!(groups(&reads([1, 2, 3])).is_empty(), "too few");
        assert!(groups(&reads([10, 20, 30, 40, 50])).is_empty(), "too far apart");
        let two_lines = reads([1, 5, 9, 13, 100, 101, 102, 103, 500]);
        let expected = [vec![1, 5, 9, 13], vec![100, 101, 102, 103]];
        assert_eq!(groups(&two_lines), expected);
        let many = groups(&reads(1..=300));
        let sizes: Vec<usize> = many.iter().map(Vec::len).collect();
        assert_eq!(sizes, [256, 44]);
    }

    #[test]
    fn what_may_have_moved_or_goes_on_is_not_read_ahead() {
        let changed = |change: fn(&mut StoreRead)| {
            let mut reads = reads(1..=8);
            reads.iter_mut().skip(3).for_each(change);
            groups(&reads)
        };
        let moves = |read: &mut StoreRead| {
            if let StoreRead::Run { moved, .. } = read {
                *moved = true;
            }
        };
        let goes_on = |read: &mut StoreRead| {
            if let StoreRead::Run { brief, .. } = read {
                *brief = false;
            }
        };
        assert!(changed(moves).is_empty());
        assert!(changed(goes_on).is_empty());
        let elsewhere = |read: &mut StoreRead| {
            if let StoreRead::Run { generation, .. } = read {
                *generation = GENERATION + 1;
            }
        };
        assert_eq!(changed(elsewhere), [vec![4, 5, 6, 7, 8]]);
    }

    fn store_of(rows: impl IntoIterator<Item = (u64, u32, u16, Vec<u8>)>) -> MemStore {
        let store = MemStore::acquire(&MemDisk::new(), MemOptions::default());
        let store = store.expect("the disk opens");
        let mut batch = WriteBatch::new();
        for (run, entry, part, value) in rows {
            let key = JournalKey { run: RunNo(run), entry, part };
            batch.put(journal::space(GENERATION), key.to_bytes(), value);
        }
        let stopped = StoppedRecord {
            state: RunState::Paused,
            reason: "a test".to_owned(),
            builds: Vec::new(),
            at: Time(1),
            workflow: "w".to_owned(),
        };
        let key = StoppedKey { run: RunNo(5) };
        batch.put(StoppedKey::SPACE, key.to_bytes(), stopped.to_value());
        store.submit(batch).expect("it fits");
        store
    }

    #[test]
    fn only_journals_of_one_row_are_taken_from_a_range() {
        let short = |run| (run, 0, 0, vec![0, run as u8]);
        let rows = [
            short(1),
            short(2),
            (2, 1, 0, vec![0, 22]),            // goes on
            (3, 0, 0, vec![1, 9, 0, 0, 0, 3]), // its first entry has a second row
            (3, 0, 1, vec![33; 8]),
            short(4),
            (4, 1, 1, vec![44]), // a part of an entry that never became whole
            short(5),
            short(6),              // not asked for
            (7, 1, 0, vec![0, 7]), // does not begin with its first entry
            short(9),
        ];
        let store = store_of(rows);
        let asked = reads([1, 2, 3, 4, 5, 7, 8, 9]);
        let mut prefetched = block_on(Prefetched::of(&store, &asked)).expect("the store answers");
        let mut taken = Vec::new();
        for run in 1..=10 {
            if let Some(lone) = prefetched.take(RunNo(run)) {
                taken.push((run, lone.entry.to_vec(), lone.stopped.is_some()));
            }
        }
        let expected = [(1, vec![1], false), (5, vec![5], true), (9, vec![9], false)];
        assert_eq!(taken, expected);
        assert!(prefetched.take(RunNo(1)).is_none(), "given once");
    }

    #[test]
    fn a_range_that_is_cut_off_tells_nothing_of_its_last_run() {
        // Journals that go on fill the range before its end.
        let mut rows = Vec::new();
        for run in 1..=4u64 {
            let entries = if run == 1 { 7 } else { 2 };
            rows.extend((0..entries).map(|entry| (run, entry, 0, vec![0, run as u8])));
        }
        let store = store_of(rows);
        let asked = reads(1..=4);
        let prefetched = block_on(Prefetched::of(&store, &asked)).expect("the store answers");
        assert!(prefetched.0.is_empty(), "{prefetched:?}");
    }

    #[test]
    fn damage_is_left_to_who_reads_the_run_by_itself() {
        let store = store_of((1..=4).map(|run| (run, 0, 0, vec![0, run as u8])));
        let mut batch = WriteBatch::new();
        let key = StoppedKey { run: RunNo(2) };
        batch.put(StoppedKey::SPACE, key.to_bytes(), vec![0xff]);
        store.submit(batch).expect("it fits");
        let prefetched =
            block_on(Prefetched::of(&store, &reads(1..=4))).expect("no reason to stop");
        assert!(prefetched.0.is_empty(), "{prefetched:?}");
    }
}
