//! Schedules over long times, in the simulated world, and delays as long as there are.

use stepwell_sim::plan::{
    ChainInput, Fault, FaultKind, Job, Scheduled, TimedFault, TimedJob, Work,
};
use stepwell_sim::{Plan, Report, run};

const DAY_MS: u64 = 86_400_000;

fn chain() -> Work {
    let input = ChainInput { links: 1, salt: 1, sleeps_every: 2, sleep_ms: 0 };
    Work {
        workflow: "chain".to_owned(),
        input: serde_json::to_value(input).expect("an input is JSON"),
    }
}

/// A small world that skips time; of the seed only what is decided underway is left.
fn world(seed: u64, jobs: Vec<TimedJob>) -> Plan {
    let mut plan = Plan::from_seed(seed).calm();
    let settings = &mut plan.settings;
    settings.skips_time = true;
    settings.tick_ms = 10;
    settings.latency_max_ms = 2;
    settings.clocks.clear();
    settings.failures_per_mille = 0;
    settings.lost_replies_per_mille = 0;
    settings.hangs_per_mille = 0;
    settings.panics_per_mille = 0;
    settings.heal_max_ms = 300_000;
    plan.jobs = jobs;
    plan
}

fn at(at_ms: u64, job: Job) -> TimedJob {
    TimedJob { at_ms, client: 1, job }
}

fn daily(name: &str, cron: &str, zone: &str) -> Job {
    Job::SetSchedule(Box::new(Scheduled {
        name: name.to_owned(),
        work: chain(),
        cron: Some(cron.to_owned()),
        zone: zone.to_owned(),
        every_ms: 0,
        jitter_ms: 0,
        overlap: "skip".to_owned(),
        catch_up_ms: 3_600_000,
    }))
}

/// Restarts, power cuts, and a clock that is put forward and back by up to five minutes.
fn weather(plan: &mut Plan, until_ms: u64) {
    let kinds = [
        FaultKind::ServerKilled,
        FaultKind::WallBack,
        FaultKind::PowerLost,
        FaultKind::WallForward,
    ];
    plan.settings.faults_end_ms = until_ms;
    plan.faults = (1..)
        .map(|n| n * 1_700)
        .take_while(|at_ms| *at_ms < until_ms)
        .zip(kinds.into_iter().cycle())
        .map(|(at_ms, kind)| TimedFault {
            at_ms,
            fault: Fault {
                kind,
                host: "server".to_owned(),
                other: String::new(),
                span_ms: 200,
                extent: (at_ms * 7_919) % 300_000,
            },
        })
        .collect();
}

fn sound(report: &Report) {
    assert!(report.is_sound(), "{report}");
}

// A18, A19: a year in three zones and UTC, in the simulated world: under 140 restarts and power
// cuts, half of them of the server's clock put forward or back by up to five minutes, each day has
// its occurrence, once, each checked against an oracle that looks at every minute. Three of the
// four are at wall times that are skipped on some day. Every 15 minutes of a year are stepped by
// hand, in the engine's `a_year_of_schedules_has_every_occurrence_once`.
#[test]
fn a_year_of_days_in_three_zones_holds_under_restarts_and_wrong_clocks() {
    let jobs = [
        ("utc", "0 6 * * *", "UTC"),
        ("berlin", "30 2 * * *", "Europe/Berlin"),
        ("new-york", "30 2 * * *", "America/New_York"),
        ("lord-howe", "10 2 * * *", "Australia/Lord_Howe"),
    ];
    let jobs = jobs.map(|(name, cron, zone)| at(200, daily(name, cron, zone)));
    let mut plan = world(3, jobs.into());
    weather(&mut plan, 330_000);
    let report = run(plan);
    sound(&report);
    println!("{report}");
    let days = report.skipped_ms / DAY_MS;
    let runs = report.runs.values().sum::<u64>();
    assert!(days >= 365, "{report}");
    assert!((4 * (days - 1)..=4 * (days + 2)).contains(&runs), "{report}");
    assert!(report.faults[&FaultKind::PowerLost] >= 40, "{report}");
}

/// One run that is delayed.
fn delayed(delay_ms: u64) -> Plan {
    let start = Job::Start {
        name: "delayed".to_owned(),
        work: chain(),
        delay_ms,
        priority: 5,
        tags: Vec::new(),
    };
    world(5, vec![at(200, start)])
}

// A33: ninety days and ten years, across restarts, power cuts and clocks that are put forward and
// back: once, and never early (which the checkers of timers and starts see to).
#[test]
fn a_delay_of_ninety_days_and_one_of_ten_years_end_once_and_never_early() {
    for delay_ms in [90 * DAY_MS, 3_650 * DAY_MS] {
        let mut plan = delayed(delay_ms);
        weather(&mut plan, 40_000);
        let report = run(plan);
        sound(&report);
        assert_eq!(report.runs.values().sum::<u64>(), 1, "{report}");
        assert_eq!(report.runs["Completed"], 1, "{report}");
        assert!(report.skipped_ms > delay_ms - DAY_MS, "{report}");
    }
}
