//! Stepwell's storage.

mod batch;
mod identity;
mod receipt;
mod refusal;
mod store;

pub use batch::{BATCH_BYTES_MAX, BATCH_OPS_MAX, Batch, KEY_BYTES_MAX, Op, VALUE_BYTES_MAX};
pub use identity::{Epoch, Identity, StoreId};
pub use receipt::{Receipt, Seq};
pub use refusal::{CommitFailure, OpenRefusal, ReadFailure, SubmitRefusal};
pub use store::{BoxFuture, Row, Scan, Space, Store, Usage};
