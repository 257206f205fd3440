//! The bank: plans that showed a bug, ours or a planted one, must be sound for ever.
//!
//! `tests/canaries --bank sim/bank` plays the same plans with the bug in: there each must show it.

use std::collections::BTreeSet;
use std::path::Path;

use stepwell_sim::{Options, Plan, Seeds, Sim, run};

const BANK: &str = "bank/bank.toml";

#[test]
fn plans_that_showed_a_bug_are_sound_without_it() {
    let suite = Sim::engine().seeds(Seeds::bank(BANK));
    let report = suite.check(Options::default()).expect("it can be played");
    println!("{report}");
    assert_eq!(report.failed, 0, "{report}");
    assert_eq!(report.seeds, plans_in("bank").len() as u64);
}

/// A plan may show that a seed is not the same twice, which need not be so at every second time.
#[test]
fn plans_in_the_bank_are_the_same_each_time() {
    for file in plans_in("bank") {
        let text = std::fs::read_to_string(Path::new("bank").join(&file)).expect("a plan");
        let plan: Plan = serde_json::from_str(&text).expect("a plan");
        let first = run(plan.clone()).trace_hash;
        for _ in 0..3 {
            assert_eq!(run(plan.clone()).trace_hash, first, "{file}");
        }
    }
}

/// A plan that nobody lists is never played.
#[test]
fn every_plan_in_the_bank_is_listed() {
    let text = std::fs::read_to_string(BANK).expect("the bank");
    let bank: toml::Table = text.parse().expect("TOML");
    let listed: BTreeSet<String> = bank["plan"]
        .as_array()
        .expect("plans")
        .iter()
        .map(|plan| plan["file"].as_str().expect("a file").to_owned())
        .collect();
    assert_eq!(listed, plans_in("bank"));
}

fn plans_in(directory: impl AsRef<Path>) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).expect("the bank");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string());
    names.map(|name| name.expect("a name")).filter(|name| name.ends_with(".json")).collect()
}
