//! Time that nobody needs costs next to nothing, and is no reason for anything to go wrong.

use stepwell_sim::plan::{ChainInput, Job, TimedJob, Work};
use stepwell_sim::{Plan, run};

const DAY_MS: u64 = 86_400_000;

/// One run that sleeps for so long, three times.
fn sleeper(sleep_ms: u64) -> Plan {
    let mut plan = Plan::from_seed(1).calm();
    plan.settings.skips_time = true;
    plan.settings.clocks.clear();
    plan.jobs = vec![TimedJob {
        at_ms: 100,
        client: 1,
        job: Job::Start {
            name: "sleeper".to_owned(),
            work: Work {
                workflow: "chain".to_owned(),
                input: serde_json::to_value(ChainInput {
                    links: 3,
                    salt: 1,
                    sleeps_every: 1,
                    sleep_ms,
                })
                .expect("an input is JSON"),
            },
            delay_ms: 0,
            priority: 5,
            tags: Vec::new(),
        },
    }];
    plan
}

#[test]
fn a_sleep_of_thirty_days_is_skipped() {
    let report = run(sleeper(30 * DAY_MS));
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.runs["Completed"], 1, "{report}");
    assert!(report.simulated_ms < 60_000, "{report}");
    let (slept, moment) = (90 * DAY_MS, 60_000);
    assert!((slept - moment..slept + moment).contains(&report.skipped_ms), "{report}");
}

/// Without it, the world would be given up: the run does not end in time.
#[test]
fn time_is_skipped_only_where_the_plan_says_so() {
    let mut plan = sleeper(DAY_MS);
    plan.settings.skips_time = false;
    plan.settings.heal_max_ms = 1_000;
    let report = run(plan);
    assert_eq!(report.skipped_ms, 0);
    assert!(!report.is_sound());
}

/// Short waits are waited for: a skip is no reason to be late.
#[test]
fn a_moment_is_not_skipped() {
    let report = run(sleeper(1_500));
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.skipped_ms, 0);
}

#[test]
fn plans_full_of_long_waits_hold() {
    let mut skipped_ms = 0;
    for seed in 0..10 {
        let report = run(Plan::timer_heavy(seed));
        assert!(report.is_sound(), "{report}");
        skipped_ms += report.skipped_ms;
    }
    assert!(skipped_ms > 1_000 * DAY_MS, "{skipped_ms} ms");
}
