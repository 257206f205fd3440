//! The gate: a seed is worth something only if it means the same every time, here and on any other
//! machine.

use std::process::Command;

use stepwell_sim::plan::Disk;
use stepwell_sim::{Plan, first_difference, run, run_traced};

/// Some, and two that are on the production store, whose threads and files must leave no mark.
fn seeds() -> impl Iterator<Item = u64> {
    let on_fjall = |seed: &u64| Plan::from_seed(*seed).settings.disk == Disk::Fjall;
    (100_000..100_008).chain((100_008..101_000).filter(on_fjall).take(2))
}

/// Anything that differs from one run to the next (the clock, an address, an iteration order) would
/// show here.
#[test]
fn a_seed_is_the_same_twice_in_one_process() {
    for seed in seeds() {
        let ((first, lines), (second, again)) =
            (run_traced(Plan::from_seed(seed)), run_traced(Plan::from_seed(seed)));
        assert_eq!(first_difference(&lines, &again), None, "seed {seed}");
        assert_eq!(first, second, "seed {seed}");
        assert_eq!(
            run(Plan::from_seed(seed)).trace_hash,
            first.trace_hash,
            "seed {seed}: looking must not change it"
        );
    }
}

/// What is the same within a process but not between two (a hash's random keys, an address) would
/// show here.
#[test]
fn a_seed_is_the_same_in_two_processes() {
    for seed in seeds() {
        let (report, lines) = run_traced(Plan::from_seed(seed));
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_of_the_gate", "--ignored", "--nocapture"])
            .env("SIM_GATE_SEED", seed.to_string())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&child.stdout);
        let again: Vec<String> =
            text.lines().filter_map(|line| line.strip_prefix("| ").map(str::to_owned)).collect();
        assert_eq!(first_difference(&lines, &again), None, "seed {seed}");
        assert!(text.contains(&format!("hash {:016x}", report.trace_hash)), "seed {seed}: {text}");
    }
}

/// Not a test: the other process.
#[test]
#[ignore = "the gate runs it in another process"]
fn child_of_the_gate() {
    let Ok(seed) = std::env::var("SIM_GATE_SEED") else {
        return;
    };
    let (report, lines) = run_traced(Plan::from_seed(seed.parse().unwrap()));
    println!();
    lines.iter().for_each(|line| println!("| {line}"));
    println!("hash {:016x}", report.trace_hash);
}

/// The gate itself must see a difference.
#[test]
fn other_seeds_differ() {
    let (a, b) = (run_traced(Plan::from_seed(1)).1, run_traced(Plan::from_seed(2)).1);
    assert!(first_difference(&a, &b).is_some());
}
