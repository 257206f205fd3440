//! Stepwell's storage.

mod batch;
mod group;
mod identity;
mod memory;
mod overlay;
mod receipt;
mod refusal;
mod store;
mod wait;

pub use batch::{BATCH_BYTES_MAX, BATCH_OPS_MAX, Batch, KEY_BYTES_MAX, Op, VALUE_BYTES_MAX};
pub use identity::{Epoch, Identity, StoreId};
pub use memory::{Crash, Fate, Faults, MemDisk, MemOptions, MemStore, Pause};
pub use receipt::{Receipt, Seq};
pub use refusal::{CommitFailure, OpenRefusal, ReadFailure, SubmitRefusal};
pub use store::{BoxFuture, Row, Scan, Space, Store, Usage};
pub use wait::block_on;
