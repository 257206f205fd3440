//! Who may write: the store's id and the epoch of the handle that holds it.
//!
//! A fencing token of the engine starts with these two numbers. The store id tells a store from the
//! copy of it that was restored from a backup; the epoch tells a handle from the one opened after
//! it. Together they make every token of the past recognisable as such.

use std::fmt;

/// Names one store for as long as its data lives.
///
/// Made once, from entropy that the caller supplies, when the store is created; a restored backup
/// is given a new one, so that workers that still live in the abandoned future are strangers to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StoreId(pub u64);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Counts how often a store was opened; every open raises it durably before it returns.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a handle is: this store, opened for this time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Identity {
    /// The store.
    pub store: StoreId,
    /// The opening. Handles with a lower one can never commit again.
    pub epoch: Epoch,
}
