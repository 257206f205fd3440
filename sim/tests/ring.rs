//! A ring that many runs change stays a ring, whatever goes wrong with them.

use std::collections::BTreeMap;

use stepwell_sim::plan::Job;
use stepwell_sim::{Plan, run};

fn is_of_ring(job: &Job) -> bool {
    match job {
        Job::Start { name, .. } | Job::Cancel { name } | Job::Wait { name } => {
            name.starts_with("ring-")
        }
        _ => false,
    }
}

/// Runs meet, are cancelled in the middle of a move, and lose their workers; the checkers look at
/// the ring after each swap.
#[test]
fn the_ring_stays_one_ring() {
    let (mut seen, mut runs) = (BTreeMap::new(), BTreeMap::new());
    let mut played = 0;
    for seed in 0..60 {
        let mut plan = Plan::from_seed(seed);
        plan.jobs.retain(|timed| is_of_ring(&timed.job));
        if plan.jobs.is_empty() {
            continue;
        }
        played += 1;
        let report = run(plan);
        assert!(report.is_sound(), "{report}");
        let add = |sum: &mut BTreeMap<String, u64>, counts: &BTreeMap<String, u64>| {
            for (what, count) in counts {
                *sum.entry(what.clone()).or_default() += count;
            }
        };
        add(&mut seen, &report.seen);
        add(&mut runs, &report.runs);
    }
    assert!((10..40).contains(&played), "{played}");
    for what in
        ["nodes moved along the ring", "swaps in the ring that lost a race", "effects absorbed"]
    {
        assert!(seen.contains_key(what), "never seen: {what}");
    }
    assert!(runs["Completed"] > 20 && runs["Cancelled"] > 3, "{runs:?}");
}
