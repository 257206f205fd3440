//! Reading all there is, to learn whether it can be read.

use super::FjallStore;
use super::fault::read_failure;
use crate::refusal::ReadFailure;
use crate::store::{Scan, Space};

/// What a walk over a store found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CheckReport {
    /// One for each space.
    pub spaces: Vec<SpaceReport>,
}

/// What a walk over a space found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpaceReport {
    /// The space.
    pub space: Space,
    /// Rows that could be read.
    pub rows: u64,
    /// Bytes of their keys.
    pub key_bytes: u64,
    /// Bytes of their values.
    pub value_bytes: u64,
    /// What could not be read. The walk of a space ends with its first failure.
    pub failure: Option<ReadFailure>,
}

impl CheckReport {
    /// Whether everything could be read.
    pub fn is_sound(&self) -> bool {
        self.spaces.iter().all(|space| space.failure.is_none())
    }
}

impl FjallStore {
    /// Reads every committed row once, from one snapshot, with fjall's checksums.
    ///
    /// It takes as long as reading the disk does. What the rows mean is not looked at.
    pub fn check(&self) -> CheckReport {
        let snapshot = self.tree.snapshot();
        let mut report = CheckReport::default();
        for space in self.tree.spaces() {
            let mut found =
                SpaceReport { space, rows: 0, key_bytes: 0, value_bytes: 0, failure: None };
            for row in self.tree.rows(&snapshot, &Scan::range(space, "", "")) {
                match row {
                    Ok(row) => {
                        found.rows += 1;
                        found.key_bytes += row.key.len() as u64;
                        found.value_bytes += row.value.len() as u64;
                    }
                    Err(error) => {
                        found.failure = Some(read_failure(&error));
                        break;
                    }
                }
            }
            report.spaces.push(found);
        }
        report
    }
}
