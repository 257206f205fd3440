//! **A damaged journal is noticed.**
//!
//! Source: ARCHITECTURE.md, what is stored: the chain over a journal is verified whenever the
//! journal is read. In the end one bit of each journal on the disk is turned, as a failing disk
//! would, and the journal is read as the engine reads it.

use std::collections::BTreeMap;

use bytes::Bytes;
use stepwell::model::id::RunNo;
use stepwell::store_reader;
use stepwell::tables::{JournalKey, TableKey, journal};
use stepwell_storage::{MemDisk, MemOptions, MemStore, Row, Space, block_on};

use super::Findings;
use crate::draw::Draw;
use crate::durable::{Durable, DurableRun};

const NAME: &str = "a damaged journal is noticed";

pub(super) fn at_the_end(
    durable: &Durable,
    seed: u64,
    disk: &MemDisk,
    findings: &mut Findings<'_>,
) {
    let Ok(store) = MemStore::acquire(disk, MemOptions::default()) else {
        return; // somebody else says so
    };
    let content = disk.content();
    let mut journals: BTreeMap<(Space, RunNo), Vec<&Row>> = BTreeMap::new();
    for (space, row) in &content {
        if let Some(key) = JournalKey::from_bytes(&row.key) {
            journals.entry((*space, key.run)).or_default().push(row);
        }
    }
    for (no, run) in durable.kept() {
        let space = journal::space(run.generation);
        let rows = journals.remove(&(space, *no)).unwrap_or_default();
        let rows: Vec<&Row> = rows.into_iter().filter(|row| is_of(row, *no, run)).collect();
        if rows.is_empty() {
            continue;
        }
        let mut draw = Draw::of(seed, format_args!("damage {no}"));
        let row = *draw.pick(&rows);
        let bit = draw.between(0, row.value.len() as u64 * 8 - 1) as usize;
        let mut damaged = row.value.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        disk.tamper(space, row.key.clone(), Some(Bytes::from(damaged)));
        if block_on(store_reader::image(&store, *no, (run.generation, false))).is_ok() {
            findings.report(
                NAME,
                format!("{}: bit {bit} of {row:?} was turned, and nobody noticed", run.name()),
            );
        }
        disk.tamper(space, row.key.clone(), Some(row.value.clone()));
    }
}

/// Whether it is a row of the journal. The parts of a long start that was lost with the power lie
/// beside it, and nobody reads them: its number was given again.
fn is_of(row: &Row, no: RunNo, run: &DurableRun) -> bool {
    let Some(key) = JournalKey::from_bytes(&row.key) else {
        return false;
    };
    let stored = run.stored.get(key.entry as usize).filter(|_| key.run == no);
    stored.is_some_and(|stored| {
        journal::rows(no, key.entry, stored.to_vec()).any(|(of_entry, _)| of_entry == key)
    })
}
