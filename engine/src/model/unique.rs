//! Unique keys: at most one run at a time holds one.

use super::time::as_ms;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

/// When a run releases its unique key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub enum Unique {
    /// Hold the key until a worker first runs the run, or until it ends before that.
    UntilStarted,
    /// Hold the key until the run ends.
    UntilEnded,
    /// Hold the key for this much engine time after the start, whether or not the run ends before.
    For(Duration),
}

/// A unique key as it travels and as the journal holds it. Keys are of a workflow: the same key of
/// another workflow is another key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct UniqueKey {
    /// The key.
    pub key: String,
    /// 1 until started, 2 until ended, 3 for a duration.
    pub scope: u8,
    /// The duration in milliseconds, if the key is held for one.
    pub ttl_ms: u64,
}

impl UniqueKey {
    /// `key`, held until `scope` says.
    pub fn new(key: impl Into<String>, scope: Unique) -> Self {
        let (number, ttl_ms) = match scope {
            Unique::UntilStarted => (1, 0),
            Unique::UntilEnded => (2, 0),
            Unique::For(ttl) => (3, as_ms(ttl)),
        };
        Self { key: key.into(), scope: number, ttl_ms }
    }

    /// Until when it is held; none if a later version wrote it.
    pub fn scope(&self) -> Option<Unique> {
        match self.scope {
            1 => Some(Unique::UntilStarted),
            2 => Some(Unique::UntilEnded),
            3 => Some(Unique::For(Duration::from_millis(self.ttl_ms))),
            _ => None,
        }
    }

    /// What it is stored under, in its namespace.
    pub fn hash(&self, workflow: &str) -> u128 {
        let mut bytes = Vec::with_capacity(8 + workflow.len() + self.key.len());
        bytes.extend_from_slice(&(workflow.len() as u64).to_be_bytes());
        bytes.extend_from_slice(workflow.as_bytes());
        bytes.extend_from_slice(self.key.as_bytes());
        XxHash3_128::oneshot(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_of_its_workflow() {
        let key = UniqueKey::new("invoice-17", Unique::UntilEnded);
        assert_eq!(key.hash("bill"), key.hash("bill"));
        assert_ne!(key.hash("bill"), key.hash("mail"));
        assert_ne!(
            UniqueKey::new("b", Unique::UntilStarted).hash("a"),
            UniqueKey::new("", Unique::UntilStarted).hash("ab")
        );
        for scope in [Unique::UntilStarted, Unique::UntilEnded, Unique::For(Duration::from_secs(5))]
        {
            assert_eq!(UniqueKey::new("k", scope).scope(), Some(scope));
        }
    }
}
