//! Stepwell's storage: an ordered key-value store with atomic, durable, fenced commits.
//!
//! It knows nothing of workflows. The engine hands it batches of puts and deletes and gets a
//! [`Receipt`] when they are durable; everything the engine lets out into the world waits for one.
//!
//! - [`Store`] is the port: `submit` (ordered, seen at once), `commit` (a group, synced), `get`,
//!   `scan`, and generations that are dropped whole.
//! - `FjallStore` (feature `fjall`, on by default) is the store on disk.
//! - [`MemStore`] on a [`MemDisk`] is the readable model, and the disk of a simulated machine:
//!   power cuts, kills, failed, partial and slow syncs, a full disk, all chosen by numbers that the
//!   simulation hands in.
//! - [`conformance`] is the suite that every store passes.
//! - `raw` (feature `fjall`) measures what the disk can do, to compare with.
//!
//! ```
//! use stepwell_storage::{MemDisk, MemOptions, MemStore, Space, Store, WriteBatch, block_on};
//!
//! let disk = MemDisk::new();
//! let store = MemStore::acquire(&disk, MemOptions::default())?;
//!
//! let mut batch = WriteBatch::new();
//! batch.put(Space::LongLived, "run/17", "queued");
//! batch.put(Space::Generation(1), "run/17/entry/0", "started");
//! let seq = store.submit(batch)?;
//! assert_eq!(block_on(store.get(Space::LongLived, b"run/17"))?.as_deref(), Some(&b"queued"[..]));
//!
//! let receipt = block_on(store.commit())?;
//! assert!(receipt.covers(seq)); // only now may anybody hear of it
//!
//! disk.power_loss(0);
//! let store = MemStore::acquire(&disk, MemOptions::default())?;
//! assert_eq!(store.committed(), seq);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it is not
//!
//! Not a database: no queries, no transactions that read, no second writer. Not a replicated store:
//! one process, one directory. Not asynchronous inside: the fjall store does its I/O on the thread
//! that calls, and there is no runtime in here. Not tolerant of a disk that lies about `fdatasync`.
//!
//! # Limits
//!
//! | what | limit | why |
//! |---|---|---|
//! | key | 1 to 512 bytes | with the value below one page |
//! | value | 3,500 bytes | an item of a page or more can be torn so that fjall refuses the whole store |
//! | write batch | 1 MiB, 4,096 operations | bounds how far a group overshoots; one statement of a remote store |
//! | commit group | 4 MiB, 65,536 operations | beyond it a sync is bound by its bytes |
//! | spaces | 2, and as many generations as files allow; tens are meant | up to 5 memtables of 16 MiB each, in the worst case |
//! | write-ahead log | 128 MiB and the file being written | 0.5 s of opening after a kill for each 64 MiB |
//! | undetected loss | the last second before a power cut | the watermark is synced once a second |

#[cfg(canary)]
pub mod canary;
#[cfg(not(canary))]
mod canary;
pub mod conformance;
#[cfg(feature = "fjall")]
mod fjall_store;
mod group;
mod identity;
mod memory;
mod overlay;
#[cfg(feature = "fjall")]
pub mod raw;
mod receipt;
mod refusal;
mod store;
mod wait;
mod write_batch;

#[cfg(feature = "fjall")]
pub use fjall_store::{CheckReport, FjallStore, Options, SpaceReport};
pub use identity::{Epoch, Identity, StoreId};
pub use memory::{Crash, Fate, Faults, MemDisk, MemOptions, MemStore, Pause};
pub use receipt::{Receipt, Seq};
pub use refusal::{CommitFailure, OpenRefusal, ReadFailure, SubmitRefusal};
pub use store::{BoxFuture, Row, Scan, Space, Store, Usage};
pub use wait::block_on;
pub use write_batch::{
    KEY_BYTES_MAX, Op, VALUE_BYTES_MAX, WRITE_BATCH_BYTES_MAX, WRITE_BATCH_OPS_MAX, WriteBatch,
};
