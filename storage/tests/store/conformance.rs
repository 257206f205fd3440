//! The one suite, over each store.

use stepwell_storage::conformance;

use crate::support::{DiskMachine, MemMachine};

#[test]
fn the_memory_store_conforms() {
    conformance::all(MemMachine::default);
}

#[test]
fn the_fjall_store_conforms() {
    conformance::all(DiskMachine::default);
}
