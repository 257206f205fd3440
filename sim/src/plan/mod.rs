//! The plan of a seed: all that chance decides before the run, as data.
//!
//! Settings, jobs and faults are drawn from streams of their own ([`Draw`]), each fault and each job from its own
//! again, so that leaving one out leaves the rest as it is. What is decided while the simulation runs (whether a frame is sent twice, how a call
//! to the outside world ends) is a hash of the seed and of what it is about, and so does not depend on what else happens.

mod clock;
mod fault;
mod job;
mod long;
mod settings;

use serde::{Deserialize, Serialize};

pub use self::clock::ClockError;
pub use self::fault::{Fault, FaultKind, TimedFault};
pub use self::job::{ChainInput, Job, Order, Solo, TimedJob, Work};
pub use self::settings::Settings;

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
        Self::of_settings(seed, Settings::draw(seed))
    }

    /// A plan in which nearly every run sleeps for hours, days or longer, several times.
    pub fn timer_heavy(seed: u64) -> Self {
        let settings = Settings {
            tick_ms: 10,
            skips_time: true,
            long_waits_per_mille: 950,
            ..Settings::draw(seed)
        };
        Self::of_settings(seed, settings)
    }

    fn of_settings(seed: u64, settings: Settings) -> Self {
        let mut jobs = job::draw_all(seed, &settings);
        long::lengthen(seed, &settings, &mut jobs);
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_data() {
        for seed in 0..50 {
            for plan in [Plan::of_seed(seed), Plan::timer_heavy(seed)] {
                let text = serde_json::to_string(&plan).unwrap();
                assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
            }
            assert_eq!(Plan::of_seed(seed), Plan::of_seed(seed));
            assert_ne!(Plan::of_seed(seed), Plan::of_seed(seed + 1));
        }
    }

    /// A share of the seeds has each: no setting stands still.
    #[test]
    fn seeds_draw_their_worlds_anew() {
        let plans: Vec<Plan> = (0..200).map(Plan::of_seed).collect();
        let counted = |of: &dyn Fn(&Plan) -> u64| {
            let values: std::collections::BTreeSet<u64> = plans.iter().map(of).collect();
            values.len()
        };
        assert_eq!(counted(&|plan| plan.settings.workers.into()), 5);
        assert_eq!(counted(&|plan| plan.settings.clients.into()), 3);
        assert_eq!(counted(&|plan| plan.settings.skips_time.into()), 2);
        assert!(counted(&|plan| plan.settings.tick_ms) >= 5);
        assert!(counted(&|plan| plan.faults.len() as u64) > 15);
        assert!(counted(&|plan| plan.settings.clocks.len() as u64) > 4);
        for kind in FaultKind::ALL {
            let with = plans
                .iter()
                .filter(|plan| plan.settings.kinds.contains(&kind));
            assert!((50..150).contains(&with.count()), "{kind:?}");
        }
    }
}
