//! What a seed showed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::plan::{FaultKind, Plan};
use crate::suite::Ready;

/// What is seen in a world whose server is on the production store.
pub(crate) const ON_FJALL: &str = "worlds on the production store";

/// Something that must hold did not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// The property.
    pub checker: String,
    /// When it was noticed, in simulated milliseconds.
    pub at_ms: u64,
    /// What was found.
    pub text: String,
}

/// What a seed showed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// A number made of all that happened, in order: the same for the same seed, or something is
    /// not simulated.
    pub trace_hash: u64,
    /// How many things happened.
    pub events: u64,
    /// Simulated time.
    pub simulated_ms: u64,
    /// Time by which all wall clocks were put forward while nothing could run; not counted above.
    pub skipped_ms: u64,
    /// How long it took until everything had ended after the faults were over.
    pub healed_in_ms: u64,
    /// Runs that ended, by how.
    pub runs: BTreeMap<String, u64>,
    /// Faults that struck, by kind.
    pub faults: BTreeMap<FaultKind, u64>,
    /// What else occurred.
    pub seen: BTreeMap<String, u64>,
    /// What the suite wants to see in some seed, and was seen in this one.
    #[serde(default)]
    pub reached: BTreeSet<String>,
    /// What did not hold; empty if all is well.
    pub violations: Vec<Violation>,
}

/// Writes a plan into a directory, and what it showed beside it.
pub(crate) fn write(suite: &Ready, plan: &Plan, directory: &Path) -> Result<Vec<PathBuf>, String> {
    let cannot = |path: &Path, error: std::io::Error| {
        format!("{} cannot be written: {error}", path.display())
    };
    std::fs::create_dir_all(directory).map_err(|error| cannot(directory, error))?;
    let file = directory.join(format!("{}-{}.json", suite.program.name, plan.seed));
    let text = serde_json::to_string_pretty(plan).map_err(|error| error.to_string())?;
    std::fs::write(&file, text).map_err(|error| cannot(&file, error))?;
    let recording = suite.record(plan.clone());
    let (page, data) = (file.with_extension("html"), file.with_extension("events.json"));
    std::fs::write(&page, recording.to_html()).map_err(|error| cannot(&page, error))?;
    std::fs::write(&data, recording.to_json()).map_err(|error| cannot(&data, error))?;
    Ok(vec![file, page, data])
}

impl Report {
    /// Whether everything held.
    pub fn is_sound(&self) -> bool {
        self.violations.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, trace_hash, events, simulated_ms, skipped_ms, .. } = self;
        writeln!(
            f,
            "seed {seed}: {events} events in {simulated_ms} ms and {skipped_ms} skipped, trace {trace_hash:016x}"
        )?;
        writeln!(f, "  runs {:?}", self.runs)?;
        writeln!(f, "  faults {:?}", self.faults)?;
        writeln!(f, "  seen {:?}", self.seen)?;
        for violation in &self.violations {
            writeln!(
                f,
                "  VIOLATED at {} ms: {}\n    {}",
                violation.at_ms, violation.checker, violation.text
            )?;
        }
        Ok(())
    }
}
