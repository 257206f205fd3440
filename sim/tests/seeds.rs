//! The engine under chaos, seed by seed.
//!
//! `SIM_SEEDS` sets how many seeds are run (300), `SIM_FROM` the first (0); `SIM_SEED` plays one
//! alone. The seeds are shared out over tests of their own, so that they run on all cores.
// A3: seeds in which servers are killed and lose power with acknowledgements under way.
// `tests/requirements A3` plays a thousand of them (`SIM_SEEDS=1000`).

use std::collections::BTreeMap;
use std::fmt::Write;

use stepwell_sim::plan::FaultKind;
use stepwell_sim::{Plan, run, run_recorded};

const SEEDS: u64 = 300;
const SHARES: u64 = 6;
/// Where the pages of seeds that failed go.
const REPORTS: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/reports");

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// Runs every `SHARES`-th seed.
fn play(share: u64) {
    let (from, seeds) = (number("SIM_FROM").unwrap_or(0), number("SIM_SEEDS").unwrap_or(SEEDS));
    let seeds: Vec<u64> = match number("SIM_SEED") {
        Some(seed) if share == 0 => vec![seed],
        Some(_) => Vec::new(),
        None => (from..from + seeds).filter(|seed| seed % SHARES == share).collect(),
    };
    let (mut failed, mut faults) = (String::new(), BTreeMap::<FaultKind, u64>::new());
    for seed in &seeds {
        let report = run(Plan::from_seed(*seed));
        if !report.is_sound() {
            let page = run_recorded(Plan::from_seed(*seed)).write(REPORTS);
            let _ = writeln!(
                failed,
                "{report}  page: {}",
                page.map_or_else(|error| error.to_string(), |page| page.html.display().to_string())
            );
            let _ = writeln!(
                failed,
                "  again: SIM_SEED={seed} cargo test -p stepwell-sim --test seeds"
            );
            let _ = writeln!(
                failed,
                "  trace: cargo run -p stepwell-sim --example seeds -- {seed} trace\n"
            );
        }
        report.faults.iter().for_each(|(kind, count)| *faults.entry(*kind).or_default() += count);
    }
    assert!(failed.is_empty(), "{failed}");
    println!("{} seeds, faults {faults:?}", seeds.len());
    if seeds.len() >= 50 {
        let missing: Vec<FaultKind> =
            FaultKind::ALL.into_iter().filter(|kind| !faults.contains_key(kind)).collect();
        assert!(
            missing.is_empty(),
            "faults that never struck in {} seeds: {missing:?}",
            seeds.len()
        );
    }
}

#[test]
fn nothing_is_lost_or_done_twice_share_1() {
    play(0);
}

#[test]
fn nothing_is_lost_or_done_twice_share_2() {
    play(1);
}

#[test]
fn nothing_is_lost_or_done_twice_share_3() {
    play(2);
}

#[test]
fn nothing_is_lost_or_done_twice_share_4() {
    play(3);
}

#[test]
fn nothing_is_lost_or_done_twice_share_5() {
    play(4);
}

#[test]
fn nothing_is_lost_or_done_twice_share_6() {
    play(5);
}
