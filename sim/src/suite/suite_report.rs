//! What a suite showed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::plan::FaultKind;
use crate::report::{ON_FJALL, Violation, counts_text, ends};

/// What a suite showed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SuiteReport {
    /// Its name.
    pub suite: String,
    /// Seeds and plans that were run.
    pub seeds: u64,
    /// The first of the fresh seeds, if there were any.
    pub from: Option<u64>,
    /// How many of them failed.
    pub failed: u64,
    /// Which.
    pub failing_seeds: Vec<u64>,
    /// Seeds whose traces differed between two runs.
    pub non_deterministic: u64,
    /// Seeds that were run twice, to compare their traces.
    pub rerun: u64,
    /// How they differed.
    pub differences: Vec<String>,
    /// Real time, in seconds.
    pub seconds: f64,
    /// Simulations a minute.
    pub seeds_per_min: f64,
    /// Simulated seconds in a real one, time that was skipped not counted.
    pub sim_seconds_per_s: f64,
    /// Time that was skipped, in seconds.
    pub skipped_s: f64,
    /// What should have been reached and was not, in any seed.
    pub sometimes_unmet: Vec<String>,
    /// What was declared and never reached, in any seed, and what was in its place.
    #[serde(default)]
    pub unreached: Vec<String>,
    /// What else is worth a line.
    #[serde(default)]
    pub notes: Vec<String>,
    /// What the bank says of seeds that failed.
    pub known: Vec<String>,
    /// Runs, by the kinds of their last entries.
    pub runs: BTreeMap<String, u64>,
    /// Faults that struck, by kind.
    pub faults: BTreeMap<FaultKind, u64>,
    /// What else occurred.
    pub seen: BTreeMap<String, u64>,
    /// The first seed that failed, shrunk.
    pub failure: Option<Failed>,
    /// What was written.
    pub files: Vec<PathBuf>,
}

/// A failing seed, shrunk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failed {
    /// The seed.
    pub seed: u64,
    /// What did not hold.
    pub violations: Vec<Violation>,
    /// Faults of its plan before it was shrunk.
    pub faults_before: usize,
    /// Client operations of its plan before it was shrunk.
    pub client_operations_before: usize,
    /// The faults that are left.
    pub faults: Vec<String>,
    /// How many client operations are left.
    pub client_operations: usize,
    /// Plans that were run to shrink it.
    pub tried: u64,
    /// Real seconds that took.
    pub shrink_s: f64,
    /// Why it was not shrunk, if it was not.
    #[serde(default)]
    pub not_shrunk: Option<String>,
    /// The test that found it, if that is known.
    pub test: Option<String>,
}

impl SuiteReport {
    /// Whether all held: no seed failed, none differed from itself, and all was reached that should
    /// have been.
    pub fn is_sound(&self) -> bool {
        self.failed == 0
            && self.non_deterministic == 0
            && self.sometimes_unmet.is_empty()
            && self.unreached.is_empty()
    }

    /// The budget has ended it before all of `total` seeds were begun: what was not reached in
    /// those that were run may be in the others, and is not held against it.
    pub(super) fn is_cut_short(&mut self, total: u64) {
        let mut note = format!("the budget was used up after {} of {total} seeds", self.seeds);
        if !self.sometimes_unmet.is_empty() {
            let unmet = std::mem::take(&mut self.sometimes_unmet).join(", ");
            note = format!("{note}; not reached in them: {unmet}");
        }
        self.notes.push(note);
    }

    /// How many runs ended how: `completed`, `dead`, `discarded`, `cancelled`, `not ended`. An end
    /// that no run had is left out.
    pub fn ends(&self) -> Vec<(&'static str, u64)> {
        ends(&self.runs)
    }
}

impl fmt::Display for SuiteReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let struck: u64 = self.faults.values().sum();
        let on_fjall = match self.seen.get(ON_FJALL) {
            Some(count) => format!(" ({count} on the production store)"),
            None => String::new(),
        };
        write!(
            f,
            "suite `{}`: {} seeds{on_fjall}, {} failed, {} non-deterministic (of {} rerun); {struck} faults; runs: {}; {:.1} s, {:.0} seeds/min, {:.0} simulated s/s",
            self.suite,
            self.seeds,
            self.failed,
            self.non_deterministic,
            self.rerun,
            counts_text(self.ends()),
            self.seconds,
            self.seeds_per_min,
            self.sim_seconds_per_s,
        )?;
        if let Some(from) = self.from {
            write!(f, "; fresh seeds from {from}")?;
        }
        for note in &self.notes {
            write!(f, "\n{note}")?;
        }
        for problem in &self.unreached {
            write!(f, "\n\n{problem}")?;
        }
        for name in &self.sometimes_unmet {
            write!(f, "\n\nnever reached in any seed: {name}")?;
        }
        for difference in &self.differences {
            write!(f, "\n\nnot deterministic, {difference}")?;
        }
        for known in &self.known {
            write!(f, "\n\n{known}")?;
        }
        // One may be in the bank twice: as a seed, and as its shrunk plan.
        let seeds: BTreeSet<u64> = self.failing_seeds.iter().copied().collect();
        if seeds.len() > 1 {
            let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
            write!(f, "\n\nfailed seeds: {}", seeds.join(", "))?;
        }
        if let Some(failure) = &self.failure {
            failure.fmt(f)?;
        }
        for file in &self.files {
            let name = file.to_string_lossy();
            let what = match name.rsplit_once('.') {
                Some((_, "html")) => "page",
                Some((stem, _)) if stem.ends_with(".events") => "events",
                _ => "plan",
            };
            write!(f, "\n{what:<8} {}", file.display())?;
        }
        let plan = self.files.iter().find(|file| file.extension().is_some_and(|e| e == "json"));
        if let (Some(failure), Some(plan)) = (&self.failure, plan)
            && let Some(test) = &failure.test
        {
            let test = test.rsplit("::").next().unwrap_or(test);
            write!(f, "\nagain    SIM_PLAN={} cargo test {test}", plan.display())?;
            write!(f, "\nwhole    SIM_SEED={} cargo test {test}", failure.seed)?;
        }
        Ok(())
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n\nseed {} fails", self.seed)?;
        for violation in &self.violations {
            write!(
                f,
                "\n  at {} ms: broken: {}\n    {}",
                violation.at_ms, violation.checker, violation.text
            )?;
        }
        if let Some(why) = &self.not_shrunk {
            return writeln!(f, "\n\n{why}");
        }
        write!(
            f,
            "\n\nshrunk from {} faults and {} client operations to {} and {} in {:.1} s ({} plans run)",
            self.faults_before,
            self.client_operations_before,
            self.faults.len(),
            self.client_operations,
            self.shrink_s,
            self.tried
        )?;
        for fault in &self.faults {
            write!(f, "\n  {fault}")?;
        }
        writeln!(f)
    }
}
