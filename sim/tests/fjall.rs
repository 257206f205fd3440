//! The same worlds on the production store, in a directory of this machine.
//!
//! `SIM_FJALL_SEEDS` sets how many seeds are run (6), `SIM_FROM` the first (0).

use stepwell_sim::plan::{Disk, FaultKind};
use stepwell_sim::{Options, Plan, Point, Shipped, Sim, Strike, first_difference, run_traced};

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| {
        let text = std::env::var(name).ok();
        text.map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
    };
    let from = number("SIM_FROM").unwrap_or(0);
    from..from + number("SIM_FJALL_SEEDS").unwrap_or(6)
}

/// What a crash left, as the trace tells it: the extent of the fault, and how many batches in the
/// air were kept.
fn crashes(lines: &[String]) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    let mut extent = None;
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        if line.contains(" strikes: ServerKilled") || line.contains(" strikes: PowerLost") {
            extent = words.last().and_then(|word| word.parse().ok());
        } else if let ["of", _, "batches", "in", "the", "air", kept, "were", "kept"] = words[..] {
            found.extend(extent.take().zip(kept.parse().ok()));
        }
    }
    found
}

/// Lines that tell how bad a crash was: the same number means something else on another disk.
fn is_about_the_extent(line: &str) -> bool {
    line.contains(": ServerKilled ") || line.contains(": PowerLost ")
}

/// The tie between the two disks: the simulated one, told what the real one kept of what was in the
/// air at each crash, leads to the very same world. So whatever holds on the one holds on the
/// other.
#[test]
fn the_production_store_and_the_simulated_disk_give_one_trace() {
    let mut kept = 0;
    for seed in seeds() {
        let plan = Plan::from_seed(seed).on_fjall();
        let (report, real) = run_traced(plan.clone());
        assert!(report.is_sound(), "{report}");

        let mut plan = plan;
        plan.settings.disk = Disk::Simulated;
        for (extent, left) in crashes(&real) {
            let fault = plan.faults.iter_mut().find(|timed| timed.fault.extent == extent);
            fault.expect("a fault that struck is in the plan").fault.extent = left;
            kept += left;
        }
        let (report, simulated) = run_traced(plan);
        assert!(report.is_sound(), "{report}");
        let without = |lines: Vec<String>| -> Vec<String> {
            lines.into_iter().filter(|line| !is_about_the_extent(line)).collect()
        };
        assert_eq!(first_difference(&without(real), &without(simulated)), None, "seed {seed}");
    }
    println!("{kept} batches were kept that nobody had been told of");
}

/// Its threads and its files leave no mark on what happens.
#[test]
fn a_seed_is_the_same_twice_on_the_production_store() {
    for seed in seeds().take(3) {
        let plan = Plan::from_seed(seed).on_fjall();
        let ((first, lines), (second, again)) = (run_traced(plan.clone()), run_traced(plan));
        assert_eq!(first_difference(&lines, &again), None, "seed {seed}");
        assert_eq!(first, second, "seed {seed}");
    }
}

/// A share of the engine's own seeds is run there without being asked for, and is counted.
#[test]
#[cfg(target_os = "linux")]
fn the_engine_suite_tells_how_many_worlds_were_on_the_production_store() {
    let real = |seed: &u64| Plan::from_seed(*seed).settings.disk == Disk::Fjall;
    let Some(seed) = (0..1_000).find(real) else {
        panic!("no seed is on the production store");
    };
    let options = Options { from: Some(seed), seeds: Some(1), ..Options::default() };
    let report = Sim::engine().check(options).expect("it can be run");
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.seen.get("worlds on the production store"), Some(&1));
    assert_eq!(report.rerun, 1, "each of these is run twice");
    assert!(report.to_string().contains("1 seeds (1 on the production store)"));
}

/// The suites of others are there only if they ask for it.
#[test]
#[cfg(target_os = "linux")]
fn a_suite_is_on_the_production_store_if_it_says_so() {
    let shop = || Shipped::named("checkout").expect("it is shipped").suite();
    for seed in 0..100 {
        assert_eq!(shop().plan(seed).settings.disk, Disk::Simulated);
    }
    let real = shop().on_fjall(1_000).at(Point::after_fsync(), Strike::LosePower);
    assert_eq!(real.plan(1).settings.disk, Disk::Fjall);
    let recording = real.record(real.plan(1));
    assert!(recording.report.is_sound(), "{}", recording.report);
    assert!(recording.report.faults.contains_key(&FaultKind::PowerLost));
}
