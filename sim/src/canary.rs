//! Who watches the checkers: bugs planted on purpose, one at a time, and how long it takes until a
//! seed shows each.
//!
//! A canary that no seed shows within its budget says that a checker, a fault or a workload is
//! missing. A seed that shows one is run once more while all of them sleep: what it shows then,
//! if anything, was not the canary's doing.
//!
//! The reduced plan of each is kept in a bank: the plan must show its canary, in any draw of seeds
//! that is still to come, and must be sound without it. A new build plays the bank, which takes
//! seconds; looking for them by seeds takes minutes.
//!
//! The canaries are there only in a build with `--cfg canary`; see `tests/canaries`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::report::Violation;

/// How long one canary is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Seeds, from 0 on.
    pub seeds: u64,
    /// Processor time, looked at between two seeds.
    pub cpu: Duration,
    /// Real time for shrinking the plan that caught it; none, and it is not shrunk.
    pub shrink: Duration,
    /// Plans in this directory are run before any seed.
    pub bank: Option<PathBuf>,
    /// Shrunk plans are written into this directory.
    pub keep: Option<PathBuf>,
    /// Every `.1`th canary from the `.0`th on, so that several processes may share the work.
    /// Default: all, (0, 1).
    pub share: (usize, usize),
}

impl Default for Budget {
    /// As many seeds as five minutes of processor time allow.
    fn default() -> Self {
        Self {
            seeds: u64::MAX,
            cpu: Duration::from_secs(300),
            shrink: Duration::ZERO,
            bank: None,
            keep: None,
            share: (0, 1),
        }
    }
}

/// What came of looking for one canary.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hunt {
    /// The planted bug.
    pub name: &'static str,
    /// The rule that it breaks.
    pub breaks: &'static str,
    /// Whether a seed showed it.
    pub caught: bool,
    /// Whether the plan in the bank showed it; otherwise seeds were run.
    pub banked: bool,
    /// How many seeds were run with it.
    pub seeds: u64,
    /// The processor time they took, in seconds.
    pub cpu_s: f64,
    /// The first property that did not hold.
    pub checker: Option<String>,
    /// What was found.
    pub text: Option<String>,
    /// Faults and strikes that are left of the catching plan when it is shrunk, if that was asked
    /// for.
    pub faults_after_shrink: Option<usize>,
    /// Real seconds that took.
    pub shrink_s: f64,
    /// What the same seed shows without it: anything here is another bug, and the canary is not
    /// caught.
    pub without: Vec<Violation>,
}

/// This build holds no canaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoCanaries;

impl std::fmt::Display for NoCanaries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("this build holds no canaries: they are compiled in with RUSTFLAGS=\"--cfg canary\" only")
    }
}

impl std::error::Error for NoCanaries {}

/// Where a canary's plan is in a bank.
pub fn plan_file(bank: &Path, name: &str) -> PathBuf {
    let mut file: String = name
        .chars()
        .filter(|letter| letter.is_ascii_alphanumeric() || *letter == ' ')
        .map(|letter| if letter == ' ' { '-' } else { letter })
        .collect();
    file.push_str(".json");
    bank.join(file)
}

/// Looks for the canaries whose names contain `pattern`, one after the other, and tells of each
/// when it is done with it.
#[cfg(not(canary))]
pub fn hunt_all(
    _pattern: &str,
    _budget: &Budget,
    _tell: impl FnMut(&Hunt),
) -> Result<Vec<Hunt>, NoCanaries> {
    Err(NoCanaries)
}

/// Looks for the canaries whose names contain `pattern`, one after the other, and tells of each
/// when it is done with it.
#[cfg(canary)]
pub fn hunt_all(
    pattern: &str,
    budget: &Budget,
    mut tell: impl FnMut(&Hunt),
) -> Result<Vec<Hunt>, NoCanaries> {
    let all = stepwell_storage::canary::ALL.iter().chain(stepwell::canary::ALL);
    let (from, every) = budget.share;
    let hunts =
        all.filter(|canary| canary.name.contains(pattern)).skip(from).step_by(every.max(1)).map(
            |canary| {
                let hunt = planted::hunt(canary, budget);
                tell(&hunt);
                hunt
            },
        );
    Ok(hunts.collect())
}

#[cfg(canary)]
mod planted {
    use std::sync::Arc;
    use std::time::Duration;

    use stepwell::canary::{Canary, select};

    use super::{Budget, Hunt};
    use crate::program::Program;
    use crate::shrink::shrink;
    use crate::suite::Stopwatch;
    use crate::{Plan, Report, run};

    /// Runs the plan in the bank, then seeds, until one shows the canary or the budget is used up.
    pub(super) fn hunt(canary: &Canary, budget: &Budget) -> Hunt {
        let begun = processor_time();
        let mut hunt = Hunt {
            name: canary.name,
            breaks: canary.breaks,
            caught: false,
            banked: false,
            seeds: 0,
            cpu_s: 0.0,
            checker: None,
            text: None,
            faults_after_shrink: None,
            shrink_s: 0.0,
            without: Vec::new(),
        };
        let mut caught_by = None;
        if let Some(plan) = banked(budget, canary.name) {
            hunt.banked = show(&mut hunt, &plan) && hunt.caught;
            caught_by = hunt.banked.then_some(plan);
        }
        while caught_by.is_none()
            && hunt.seeds < budget.seeds
            && processor_time().saturating_sub(begun) < budget.cpu
        {
            let plan = Plan::from_seed(hunt.seeds);
            hunt.seeds += 1;
            if show(&mut hunt, &plan) {
                caught_by = Some(plan);
            }
        }
        hunt.cpu_s = processor_time().saturating_sub(begun).as_secs_f64();
        if let (true, false, Some(plan)) = (hunt.caught, budget.shrink.is_zero(), caught_by) {
            let plan = reduce(&mut hunt, plan, budget.shrink);
            if let Some(bank) = &budget.keep {
                let text = serde_json::to_string_pretty(&plan).expect("a plan is data");
                let file = super::plan_file(bank, canary.name);
                std::fs::write(&file, text + "\n").unwrap_or_else(|error| {
                    panic!("{} cannot be written: {error}", file.display())
                });
            }
        }
        hunt
    }

    fn banked(budget: &Budget, name: &str) -> Option<Plan> {
        let file = super::plan_file(budget.bank.as_ref()?, name);
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => panic!("{} cannot be read: {error}", file.display()),
        };
        let plan = serde_json::from_str(&text);
        Some(plan.unwrap_or_else(|error| panic!("{} is no plan: {error}", file.display())))
    }

    /// Runs a plan with the canary, and if that shows anything, without it. Tells whether it
    /// showed anything.
    fn show(hunt: &mut Hunt, plan: &Plan) -> bool {
        select(Some(hunt.name));
        let shown = run(plan.clone()).violations;
        select(None);
        let Some(violation) = shown.into_iter().next() else {
            return false;
        };
        hunt.checker = Some(violation.checker);
        hunt.text = Some(violation.text);
        hunt.without = run(plan.clone()).violations;
        hunt.caught = hunt.without.is_empty();
        true
    }

    /// Shrinks the plan that caught it to one that fails by the same property.
    fn reduce(hunt: &mut Hunt, plan: Plan, budget: Duration) -> Plan {
        let clock = Stopwatch::begin();
        select(Some(hunt.name));
        let report = run(plan.clone());
        let checker = hunt.checker.clone();
        let same = move |report: &Report| {
            report.violations.first().map(|first| &first.checker) == checker.as_ref()
        };
        let program = Arc::new(Program::engine());
        let shrunk = shrink(&program, plan, report, budget, &same).plan;
        select(None);
        hunt.faults_after_shrink = Some(shrunk.faults.len() + shrunk.script.len());
        hunt.shrink_s = clock.passed().as_secs_f64();
        // What is left must be sound without the canary: a plan may fail in two ways.
        hunt.without = run(shrunk.clone()).violations;
        hunt.caught = hunt.without.is_empty();
        shrunk
    }

    /// What this thread has used of the processor; no time at all where the system does not tell.
    fn processor_time() -> Duration {
        let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let nanos = told.split(' ').next().and_then(|word| word.parse().ok());
        Duration::from_nanos(nanos.unwrap_or_default())
    }
}
