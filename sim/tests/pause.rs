//! Processes that stand still and go on where they were.

use stepwell_sim::plan::{ChainInput, Fault, FaultKind, Job, TimedFault, TimedJob, Work};
use stepwell_sim::{Plan, run};

/// How often a worker was told that a lease is not its any more.
const REVOKED: &str = "leases revoked from late workers";

/// Many chains, and this host stands still now and then, for so long.
fn paused(kind: FaultKind, host: &str, span_ms: u64) -> Plan {
    let mut plan = Plan::from_seed(3).calm();
    plan.settings.skips_time = false;
    plan.settings.workers = 2;
    plan.settings.clocks.clear();
    plan.settings.hangs_per_mille = 0;
    // What comes late comes from whoever stood still, and not from the network.
    plan.settings.cut_replies_per_mille = 0;
    plan.settings.duplicates_per_mille = 0;
    plan.settings.late_copies_per_mille = 0;
    plan.settings.very_late_copies_per_mille = 0;
    plan.jobs = (0..20)
        .map(|n| TimedJob {
            at_ms: 100 + 50 * n,
            client: 1,
            job: Job::Start {
                name: format!("chain-{n}"),
                work: Work {
                    workflow: "chain".to_owned(),
                    input: serde_json::to_value(ChainInput {
                        links: 30,
                        salt: n,
                        sleeps_every: 40,
                        sleep_ms: 0,
                    })
                    .expect("an input is JSON"),
                },
                delay_ms: 0,
                priority: 5,
                tags: Vec::new(),
            },
        })
        .collect();
    let fault = Fault { kind, host: host.to_owned(), other: String::new(), span_ms, extent: 0 };
    plan.faults = [700, 4_700].map(|at_ms| TimedFault { at_ms, fault: fault.clone() }).into();
    plan
}

/// The zombie: its leases are others' when it wakes, and what it reports then changes nothing (G3).
#[test]
fn a_worker_that_slept_past_its_lease_is_not_heard() {
    let mut plan = paused(FaultKind::WorkerPaused, "worker-1", 0);
    for fault in &mut plan.faults {
        fault.fault.span_ms = plan.settings.session_timeout_ms + 500;
    }
    let report = run(plan);
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.faults[&FaultKind::WorkerPaused], 2);
    assert_eq!(report.runs["Completed"], 20, "{report}");
    let absorbed = report.seen.get("effects absorbed").copied();
    assert!(absorbed > Some(0), "its steps were done again by others: {report}");
    let revoked = report.seen.get(REVOKED).copied();
    assert!(revoked > Some(0), "what it holds and says counts no more: {report}");
}

/// Shorter than the session timeout: its connection is whole, nothing is taken from it.
#[test]
fn a_short_pause_costs_nothing_but_time() {
    let plan = paused(FaultKind::WorkerPaused, "worker-1", 150);
    assert!(plan.settings.session_timeout_ms > 400);
    let report = run(plan);
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.seen.get(REVOKED), None, "{report}");
}

#[test]
fn a_server_or_client_that_stands_still_goes_on() {
    for (kind, host) in [(FaultKind::ServerPaused, "server"), (FaultKind::ClientPaused, "client-1")]
    {
        let report = run(paused(kind, host, 3_000));
        assert!(report.is_sound(), "{report}");
        assert_eq!(report.runs["Completed"], 20, "{report}");
    }
}
