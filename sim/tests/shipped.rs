//! The suites that come with Stepwell, one for each class of what happens to jobs in production.

use std::collections::BTreeSet;

use stepwell_sim::plan::FaultKind;
use stepwell_sim::{FaultClass, Options, Shipped, SuiteReport};

/// What shows that steps failed and were tried again.
const RETRIED: [&str; 4] =
    ["calls that failed", "calls that hung", "steps that panicked", "replies lost"];
/// What shows that messages came twice and late.
const DUPLICATED: [&str; 4] = [
    "frames sent twice",
    "frames sent again late",
    "frames sent again late over another connection",
    "replies cut off after their commit",
];

/// Runs `seeds` seeds of the suite of a class, all of which must be sound, and in which all that
/// belongs to the class must have happened, and nothing else.
fn plays(name: &str, class: FaultClass, seeds: u64) {
    let suite = Shipped::named(name).expect("it is shipped").suite();
    let directory = tempfile::tempdir().expect("a directory");
    let options = Options {
        seeds: Some(seeds),
        from: Some(0),
        report: Some(directory.path().to_owned()),
        ..Options::default()
    };
    let report = suite.check(options).expect("it can be played");
    println!("{report}\n{:?}\n{:?}", report.faults, report.seen);
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.seeds, seeds);
    assert!(report.runs.get("Completed") > Some(&0), "{report}");
    let of_class = FaultKind::ALL.into_iter().filter(|k| k.class() == class);
    let struck: BTreeSet<FaultKind> = report.faults.keys().copied().collect();
    assert_eq!(struck, of_class.collect(), "{report}");
    saw(&report, &RETRIED, class == FaultClass::Retried);
    saw(&report, &DUPLICATED, class == FaultClass::Duplicated);
}

fn saw(report: &SuiteReport, what: &[&str], all: bool) {
    for what in what {
        let count = report.seen.get(*what).copied().unwrap_or_default();
        assert_eq!(count > 0, all, "{what}: {count}, {report}");
    }
}

// A36: a job may be retried.
#[test]
fn the_suite_of_retries_holds_and_strikes_with_nothing_else() {
    plays("retried", FaultClass::Retried, 12);
}

// A36: a job may be delivered twice.
#[test]
fn the_suite_of_duplicates_holds_and_strikes_with_nothing_else() {
    plays("duplicated", FaultClass::Duplicated, 12);
}

// A36: a job may be delayed.
#[test]
fn the_suite_of_delays_holds_and_strikes_with_nothing_else() {
    plays("delayed", FaultClass::Delayed, 12);
}

// A36: a job may be killed in the middle.
#[test]
fn the_suite_of_kills_holds_and_strikes_with_nothing_else() {
    plays("killed", FaultClass::Killed, 12);
}

// A36: a job may run on code that was deployed over it.
#[test]
fn the_suite_of_deployments_holds_and_strikes_with_nothing_else() {
    plays("deployed", FaultClass::Deployed, 12);
}

// A36: each class has its switch and its suite, and each kind of fault its class.
#[test]
fn every_class_has_a_suite() {
    for class in FaultClass::ALL {
        let name = format!("{class:?}").to_lowercase();
        assert!(Shipped::named(&name).is_some(), "{name}");
    }
}
