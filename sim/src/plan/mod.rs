//! The plan of a seed: all that chance decides before the run, as data.
//!
//! Settings, jobs and faults are drawn from streams of their own ([`Draw`]), each fault and each job from its own
//! again, so that leaving one out leaves the rest as it is. What is decided while the simulation runs (whether a frame is sent twice, how a call
//! to the outside world ends) is a hash of the seed and of what it is about, and so does not depend on what else happens.

mod fault;
mod job;
mod settings;

use serde::{Deserialize, Serialize};

pub use self::fault::{Fault, FaultKind, TimedFault};
pub use self::job::{ChainInput, Job, Order, Solo, TimedJob, Work};
pub(crate) use self::settings::{CLIENTS, WORKERS};
pub use self::settings::{Disk, Settings};

use crate::draw::Draw;

/// The plan of one simulated run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What it is drawn from, and what is decided underway.
    pub seed: u64,
    /// How the world is made.
    pub settings: Settings,
    /// What clients do.
    pub jobs: Vec<TimedJob>,
    /// What goes wrong.
    pub faults: Vec<TimedFault>,
}

impl Plan {
    /// The plan of a seed.
    pub fn of_seed(seed: u64) -> Self {
        let settings = Settings::draw(&mut Draw::of(seed, "settings"));
        let jobs = job::draw_all(seed, &settings);
        let faults = fault::draw_all(seed, &settings);
        Self {
            seed,
            settings,
            jobs,
            faults,
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

    /// The same on the production store, without the faults that only the simulated disk has.
    #[must_use]
    pub fn on_fjall(mut self) -> Self {
        let has = |kind| !matches!(kind, FaultKind::SyncFailed | FaultKind::DiskFull);
        self.faults.retain(|timed| has(timed.fault.kind));
        self.settings.disk = Disk::Fjall;
        self
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
