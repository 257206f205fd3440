//! The plan of a seed: all that chance decides before the run, as data.
//!
//! Settings, jobs and faults are drawn from streams of their own ([`Draw`]), each fault and each job from its own
//! again, so that leaving one out leaves the rest as it is. What is decided while the simulation runs (whether a frame is sent twice, how a call
//! to the outside world ends) is a hash of the seed and of what it is about, and so does not depend on what else happens.

mod fault;
mod job;
mod script;
mod settings;
mod workload;

use serde::{Deserialize, Serialize};

pub use self::fault::{Fault, FaultKind, TimedFault};
pub use self::job::{ChainInput, Job, Order, Solo, TimedJob, Work};
pub use self::script::{Point, Scripted, Strike};
pub use self::settings::Settings;
pub(crate) use self::settings::{CLIENTS, WORKERS};
pub use self::workload::Workload;

use crate::draw::Draw;

/// The name of the engine's own suite.
pub const ENGINE: &str = "engine";

/// The plan of one simulated run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Whose workflows it runs: the name of the suite.
    pub suite: String,
    /// What it is drawn from, and what is decided underway.
    pub seed: u64,
    /// How the world is made.
    pub settings: Settings,
    /// What clients do.
    pub jobs: Vec<TimedJob>,
    /// What goes wrong.
    pub faults: Vec<TimedFault>,
    /// What goes wrong at points of the program.
    #[serde(default)]
    pub script: Vec<Scripted>,
}

impl Plan {
    /// The plan of a seed of the engine's own suite.
    pub fn of_seed(seed: u64) -> Self {
        Self::of_engine(seed, |_| {})
    }

    pub(crate) fn of_engine(seed: u64, limit: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::draw(&mut Draw::of(seed, "settings"));
        limit(&mut settings);
        let jobs = job::draw_all(seed, &settings);
        let faults = fault::draw_all(seed, &settings);
        Self {
            suite: ENGINE.to_owned(),
            seed,
            settings,
            jobs,
            faults,
            script: Vec::new(),
        }
    }

    /// The plan of a seed of another suite, whose jobs `draw` collects.
    pub(crate) fn drawn(
        suite: &str,
        seed: u64,
        limit: impl FnOnce(&mut Settings),
        draw: impl FnOnce(&mut Workload),
    ) -> Self {
        let mut settings = Settings::draw(&mut Draw::of(seed, "settings"));
        limit(&mut settings);
        let mut workload = Workload::new(seed, &settings);
        draw(&mut workload);
        let faults = fault::draw_all(seed, &settings);
        Self {
            suite: suite.to_owned(),
            seed,
            settings,
            jobs: workload.into_jobs(),
            faults,
            script: Vec::new(),
        }
    }

    /// The same without faults.
    #[must_use]
    pub fn calm(self) -> Self {
        Self {
            faults: Vec::new(),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_data() {
        let plan = Plan::of_seed(7);
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
        assert_eq!(Plan::of_seed(7), plan);
        assert_ne!(Plan::of_seed(8), plan);
    }
}
