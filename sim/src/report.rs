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

/// Counts of runs by the kinds of their last entries, as counts by how the runs ended.
pub(crate) fn ends(runs: &BTreeMap<String, u64>) -> Vec<(&'static str, u64)> {
    let of = |kinds: &[&str]| -> u64 { kinds.iter().filter_map(|kind| runs.get(*kind)).sum() };
    let ends = [
        ("completed", of(&["Completed"])),
        // An edited input leaves a dead letter where it is.
        ("dead", of(&["Died", "InputEdited"])),
        ("discarded", of(&["Discarded"])),
        ("cancelled", of(&["Cancelled"])),
    ];
    let all: u64 = runs.values().sum();
    let ended: u64 = ends.iter().map(|(_, count)| count).sum();
    ends.into_iter().chain([("not ended", all - ended)]).filter(|(_, count)| *count > 0).collect()
}

/// `596 completed, 3 dead`.
pub(crate) fn counts_text(counts: impl IntoIterator<Item = (impl fmt::Display, u64)>) -> String {
    let counts = counts.into_iter().map(|(what, count)| format!("{count} {what}"));
    let text = counts.collect::<Vec<_>>().join(", ");
    if text.is_empty() { "none".to_owned() } else { text }
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
    /// How many runs ended how: `completed`, `dead`, `discarded`, `cancelled`, `not ended`. An end
    /// that no run had is left out.
    pub fn ends(&self) -> Vec<(&'static str, u64)> {
        ends(&self.runs)
    }

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
        writeln!(f, "  runs: {}", counts_text(self.ends()))?;
        let faults = self.faults.iter().map(|(kind, count)| (kind, *count));
        writeln!(f, "  faults: {}", counts_text(faults))?;
        let seen = self.seen.iter().map(|(what, count)| (what, *count));
        writeln!(f, "  seen: {}", counts_text(seen))?;
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
