//! The plan of a seed: all that chance decides before the run, as data.
//!
//! Settings, jobs and faults are drawn from streams of their own ([`Draw`]), each fault and each
//! job from its own again, so that leaving one out leaves the rest as it is. What is decided while
//! the simulation runs (whether a frame is sent twice, how a call to the outside world ends) is a
//! hash of the seed and of what it is about, and so does not depend on what else happens.

mod clock;
mod fault;
mod job;
mod limited;
mod long;
mod memo;
mod poison;
mod ring;
mod schedule;
mod script;
mod settings;
mod short_runs;
mod starts;
mod workload;

use serde::{Deserialize, Serialize};

use crate::draw::Draw;

pub use self::clock::ClockError;
pub use self::fault::{Fault, FaultKind, TimedFault};
pub use self::job::{ChainInput, Job, Order, Solo, TimedJob, Work};
pub use self::limited::{Behavior, Limited};
pub use self::memo::Shared;
pub use self::poison::{Ill, PlannedAction, Poison};
pub use self::ring::RingInput;
pub use self::schedule::Scheduled;
pub use self::script::{Point, Scripted, Strike};
pub use self::settings::{Disk, Settings};
pub use self::starts::Hold;
pub use self::workload::Workload;

/// The name of the engine's own suite.
pub const ENGINE: &str = "engine";

/// So many of a thousand seeds of the engine's own suite are run on the production store.
pub(crate) const ENGINE_ON_FJALL_PER_MILLE: u64 = 40;

/// Within this time everything ends in the suites of others than the engine, unless they say
/// otherwise.
const SETTLES_MS: u64 = 300_000;

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
    pub fn from_seed(seed: u64) -> Self {
        Self::for_engine(seed, |_| {}).on_fjall_by_chance(ENGINE_ON_FJALL_PER_MILLE)
    }

    /// A plan in which nearly every run sleeps for hours, days or longer, several times.
    pub fn timer_heavy(seed: u64) -> Self {
        Self::for_engine(seed, |settings| {
            settings.tick_ms = 10;
            settings.skips_time = true;
            settings.long_waits_per_mille = 950;
            settings.heal_max_ms = settings.heal_max_ms.max(180_000);
        })
    }

    pub(crate) fn for_engine(seed: u64, limit: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::draw(seed);
        limit(&mut settings);
        let mut jobs = job::draw_all(seed, &settings);
        jobs.extend(ring::draw_all(seed, &settings));
        jobs.sort_by_key(|job| job.at_ms);
        long::lengthen(seed, &settings, &mut jobs);
        short_runs::draw_all(seed, &settings, &mut jobs);
        jobs.extend(starts::draw_all(seed, &settings));
        jobs.extend(schedule::draw_all(seed, &settings));
        jobs.extend(memo::draw_all(seed, &settings));
        jobs.sort_by_key(|job| job.at_ms);
        let faults = fault::draw_all(seed, &settings);
        let mut script = poison::draw_kills(seed, &jobs);
        script.extend(memo::draw_strikes(seed, &jobs));
        Self { suite: ENGINE.to_owned(), seed, settings, jobs, faults, script }
    }

    /// The plan of a seed of another suite, whose jobs `draw` collects.
    pub(crate) fn drawn(
        suite: &str,
        seed: u64,
        limit: impl FnOnce(&mut Settings),
        draw: impl FnOnce(&mut Workload),
    ) -> Self {
        let mut settings = Settings::draw(seed);
        settings.heal_max_ms = SETTLES_MS;
        // Waits are the suite's own: whatever they are, nobody wants to sit through them.
        settings.skips_time = true;
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
        Self { faults: Vec::new(), ..self }
    }

    /// The same, in so many of a thousand seeds on the production store. Always the same where
    /// power cannot be cut on it: that needs Linux.
    pub(crate) fn on_fjall_by_chance(self, per_mille: u64) -> Self {
        let drawn = Draw::of(self.seed, "production store").chance(per_mille);
        if drawn && cfg!(target_os = "linux") { self.on_fjall() } else { self }
    }

    /// Whether its disk cannot be read at some time.
    pub(crate) fn fails_to_read(&self) -> bool {
        let fails = |timed: &TimedFault| timed.fault.kind == FaultKind::ReadFailed;
        self.faults.iter().any(fails)
    }

    /// The same on the production store, without the faults that only the simulated disk has.
    #[must_use]
    pub fn on_fjall(mut self) -> Self {
        let has = |kind| !{
            matches!(kind, FaultKind::SyncFailed | FaultKind::DiskFull | FaultKind::ReadFailed)
        };
        self.faults.retain(|timed| has(timed.fault.kind));
        self.script.retain(|s| s.strike != Strike::FailSync);
        self.settings.disk = Disk::Fjall;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_data() {
        for seed in 0..50 {
            for plan in [Plan::from_seed(seed), Plan::timer_heavy(seed)] {
                let text = serde_json::to_string(&plan).unwrap();
                assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
            }
            assert_eq!(Plan::from_seed(seed), Plan::from_seed(seed));
            assert_ne!(Plan::from_seed(seed), Plan::from_seed(seed + 1));
        }
    }

    /// A share of the engine's seeds is run on the production store, and draws all else as it
    /// would on the other.
    #[test]
    #[cfg(target_os = "linux")]
    fn some_seeds_are_on_the_production_store() {
        let plans: Vec<Plan> = (0..1_000).map(Plan::from_seed).collect();
        let real = |plan: &&Plan| plan.settings.disk == Disk::Fjall;
        assert!((25..60).contains(&plans.iter().filter(real).count()));
        for plan in plans.iter().filter(real) {
            let drawn = Plan::for_engine(plan.seed, |_| {});
            assert_eq!(drawn.settings.disk, Disk::Simulated);
            assert_eq!(drawn.jobs, plan.jobs);
            assert_eq!(drawn.on_fjall(), *plan);
        }
    }

    /// A share of the seeds has each: no setting stands still.
    #[test]
    fn seeds_draw_their_worlds_anew() {
        let plans: Vec<Plan> = (0..200).map(Plan::from_seed).collect();
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
            let with = plans.iter().filter(|plan| plan.settings.kinds.contains(&kind));
            assert!((50..150).contains(&with.count()), "{kind:?}");
        }
    }
}
