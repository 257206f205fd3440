//! What every store must do, as cases that run over any of them.
//!
//! A store brings a [`Harness`] and runs [`all`]; the name of each case is a claim of the port.
//! There is no expectation in here that the in-memory store, which is the readable model, does not
//! meet.

mod crash;
mod generation;
mod order;
mod read;

use std::sync::Arc;

use bytes::Bytes;

use crate::refusal::OpenRefusal;
use crate::store::{Row, Scan, Space, Store};
use crate::wait::block_on;
use crate::{Receipt, Seq, WriteBatch};

/// How a store under test is opened, closed and broken.
pub trait Harness {
    /// Opens the store, at first an empty one; the handle before it is closed or crashed.
    fn open(&mut self) -> Arc<dyn Store>;

    /// Opens it while another handle is in use.
    fn open_beside(&mut self) -> Result<Arc<dyn Store>, OpenRefusal>;

    /// Ends the handle as a power cut would. Of what was submitted and not acknowledged, a prefix
    /// may be kept, chosen by `cut` as finely as the harness can.
    fn crash(&mut self, store: Arc<dyn Store>, cut: u64);
}

/// A case: its name, and what it does with a fresh harness.
pub type Case = (&'static str, fn(&mut dyn Harness));

/// Every case.
pub const CASES: &[&[Case]] = &[order::CASES, read::CASES, generation::CASES, crash::CASES];

/// Runs every case, each over a harness of its own.
///
/// # Panics
///
/// With the name of the first case that does not hold.
pub fn all<H: Harness>(mut fresh: impl FnMut() -> H) {
    for (name, case) in CASES.iter().copied().flatten() {
        let told = Told(name);
        case(&mut fresh());
        std::mem::forget(told);
    }
}

struct Told(&'static str);

impl Drop for Told {
    fn drop(&mut self) {
        eprintln!("the case does not hold: {}", self.0);
    }
}

/// One put.
fn put(space: Space, key: &str, value: &str) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put(space, key.to_owned(), value.to_owned());
    batch
}

fn submit(store: &dyn Store, batch: WriteBatch) -> Seq {
    store.submit(batch).expect("a sound handle takes a batch within the limits")
}

/// Commits until everything submitted is durable.
fn commit(store: &dyn Store) -> Receipt {
    let target = store.submitted();
    loop {
        let receipt = block_on(store.commit()).expect("a sound handle commits");
        if receipt.covers(target) {
            return receipt;
        }
    }
}

fn get(store: &dyn Store, space: Space, key: &str) -> Option<Bytes> {
    block_on(store.get(space, key.as_bytes())).expect("a sound handle reads")
}

fn scan(store: &dyn Store, scan: Scan) -> Vec<Row> {
    block_on(store.scan(scan)).expect("a sound handle reads")
}

/// The rows of a space as text, `key=value` each.
fn text(store: &dyn Store, space: Space) -> String {
    rows_text(&scan(store, Scan::range(space, "", "")))
}

fn rows_text(rows: &[Row]) -> String {
    let row = |row: &Row| {
        format!("{}={}", String::from_utf8_lossy(&row.key), String::from_utf8_lossy(&row.value))
    };
    rows.iter().map(row).collect::<Vec<_>>().join(" ")
}

/// Runs `check` while the writes are submitted only, once they are committed, and after reopening.
fn in_all_places(
    harness: &mut dyn Harness,
    writes: &dyn Fn(&dyn Store),
    check: &dyn Fn(&dyn Store),
) {
    let store = harness.open();
    writes(&*store);
    check(&*store);
    commit(&*store);
    check(&*store);
    drop(store);
    check(&*harness.open());
}
