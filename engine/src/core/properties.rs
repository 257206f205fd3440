//! Any sequence of inputs keeps the numbered invariants, and everything ends once all is well.

use proptest::prelude::*;

use super::fuzz_world::{DRILL_STEP_KINDS, DrillStep, FuzzWorld};

/// Prints on one line, to be pasted into a regression below.
#[derive(Clone)]
struct DrillSteps(Vec<DrillStep>);

impl std::fmt::Debug for DrillSteps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "&{:?}", self.0)
    }
}

fn steps(count: usize) -> impl Strategy<Value = DrillSteps> {
    prop::collection::vec((0..DRILL_STEP_KINDS, any::<u8>(), any::<u8>(), any::<u8>()), 1..=count)
        .prop_map(DrillSteps)
}

fn fuzz_world(seed: u8, steps: &[DrillStep]) {
    let mut fuzz_world = FuzzWorld::new(seed);
    fuzz_world.run(steps);
    fuzz_world.finish();
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(96),
        max_shrink_iters: 20_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Q1, G1, G2, G3, J1, S1, T1, C1 and R1 after every step; then liveness.
    #[test]
    fn any_sequence_keeps_the_invariants(seed in any::<u8>(), steps in steps(250)) {
        fuzz_world(seed, &steps.0);
    }
}

// A run is asked to stop while it is read for the worker that came back with it: the worker is told of
// the request under its old token, and once more with the lease that continues.
#[test]
fn a_cancel_request_between_a_hello_and_its_continued_lease_is_told_twice() {
    fuzz_world(
        4,
        &[
            (9, 0, 0, 0),
            (0, 0, 0, 108),
            (0, 0, 0, 32),
            (0, 0, 0, 0),
            (0, 0, 0, 0),
            (0, 0, 0, 0),
            (0, 126, 0, 11),
            (0, 0, 0, 0),
            (0, 0, 0, 0),
            (0, 0, 0, 0),
            (0, 0, 0, 96),
            (51, 101, 247, 0),
            (14, 0, 0, 96),
            (0, 0, 0, 0),
            (43, 0, 0, 0),
            (9, 109, 0, 96),
            (16, 46, 0, 0),
            (52, 0, 0, 0),
            (40, 114, 0, 2),
            (9, 160, 0, 96),
            (16, 160, 0, 0),
        ],
    );
}

// The queues are asked for, and before the commit a run whose worker is lost leaves its state: what is
// told is from before.
#[test]
fn what_is_told_of_queues_is_from_between_two_inputs() {
    fuzz_world(
        0,
        &[
            (0, 87, 0, 96),
            (52, 0, 0, 0),
            (0, 0, 0, 96),
            (66, 21, 0, 0),
            (47, 100, 0, 0),
            (40, 3, 0, 0),
        ],
    );
}
