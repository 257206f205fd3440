//! Which seeds a suite plays.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

/// Seeds that must stay good, and fresh ones.
///
/// A bank is a TOML file, beside the plans that it names; one that is not there is empty:
///
/// ```toml
/// [[seed]]
/// seed = 17
/// why = "a charge was made twice: the key was drawn anew in each attempt"
///
/// [[plan]]
/// file = "plans/checkout-17.json"
/// why = "the same, reduced to one kill"
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seeds {
    pub(crate) bank: Option<PathBuf>,
    pub(crate) fresh: u64,
    pub(crate) from: Option<u64>,
    pub(crate) budget: Option<Duration>,
}

impl Seeds {
    /// This many fresh seeds, another range in each run of the suite, which is printed.
    pub fn fresh_only(count: u64) -> Self {
        Self { bank: None, fresh: count, from: None, budget: None }
    }

    /// The seeds and plans of a bank. The path is relative to the working directory, which is the
    /// package's for tests.
    pub fn bank(path: impl Into<PathBuf>) -> Self {
        Self { bank: Some(path.into()), ..Self::fresh_only(0) }
    }

    /// And this many fresh ones. `SIM_SEEDS` says otherwise.
    #[must_use]
    pub fn fresh(self, count: u64) -> Self {
        Self { fresh: count, ..self }
    }

    /// The first of the fresh ones, so that they are always the same. `SIM_FROM` says otherwise.
    #[must_use]
    pub fn from(self, seed: u64) -> Self {
        Self { from: Some(seed), ..self }
    }

    /// Begins no further fresh seed after this much real time; the first is run in any case. If
    /// it leaves some out, what [should be reached](crate::Suite::sometimes) in some seed and was
    /// not is told and not held against the suite.
    #[must_use]
    pub fn budget(self, budget: Duration) -> Self {
        Self { budget: Some(budget), ..self }
    }
}

impl Default for Seeds {
    /// 100 fresh ones.
    fn default() -> Self {
        Self::fresh_only(100)
    }
}

/// A bank, read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bank {
    #[serde(default)]
    pub(crate) seed: Vec<BankedSeed>,
    #[serde(default)]
    pub(crate) plan: Vec<BankedPlan>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BankedSeed {
    pub(crate) seed: u64,
    #[serde(default)]
    pub(crate) why: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BankedPlan {
    pub(crate) file: PathBuf,
    #[serde(default)]
    pub(crate) why: String,
}

impl Bank {
    /// Reads a bank; the paths of its plans become relative to the working directory.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => {
                return Err(format!("the bank {} cannot be read: {error}", path.display()));
            }
        };
        let mut bank: Self = toml::from_str(&text)
            .map_err(|error| format!("the bank {} is not understood: {error}", path.display()))?;
        let beside = path.parent().unwrap_or(Path::new(""));
        for plan in &mut bank.plan {
            plan.file = beside.join(&plan.file);
        }
        Ok(bank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bank_is_read_and_what_is_not_understood_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bank.toml");
        assert_eq!(Bank::read(&path), Ok(Bank::default()));
        std::fs::write(&path, "[[seed]]\nseed = 17\nwhy = 'x'\n[[plan]]\nfile = 'p.json'\n")
            .unwrap();
        let bank = Bank::read(&path).unwrap();
        assert_eq!(bank.seed[0].seed, 17);
        assert_eq!(bank.plan[0].file, directory.path().join("p.json"));
        std::fs::write(&path, "[[seeds]]\nseed = 17\n").unwrap();
        assert!(Bank::read(&path).unwrap_err().contains("unknown field"));
    }
}
