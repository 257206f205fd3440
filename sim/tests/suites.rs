//! Suites as a user writes them, of workflows that are sound and of workflows that are not.

use serde::{Deserialize, Serialize};
use stepwell::{Ctx, Failure, Workflow, days, millis, mins, secs};
use stepwell_sim::plan::FaultKind;
use stepwell_sim::{
    Draw, Effect, Faults, Options, Outside, Point, Progress, Seeds, Sim, Strike, Suite, SuiteReport,
};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Order {
    id: u64,
    cents: u64,
}

impl Order {
    fn arbitrary(draw: &mut Draw) -> Self {
        Self { id: draw.between(1, 1_000_000), cents: draw.between(100, 99_999) }
    }
}

const CHECKOUT: Workflow<Order, u64> = Workflow::new("checkout").queue("shop");

async fn checkout(ctx: Ctx, order: Order, world: Outside) -> Result<u64, Failure> {
    // Calls hang now and then: without limits of their own, two of them would take longer than all
    // orders may.
    let charge = ctx
        .step("charge", |s| world.call("charge", s.key(), &order))
        .soft_timeout(secs(5))
        .timeout(secs(10))
        .await?;
    ctx.step("mail", |s| world.call("mail", s.key(), order.id))
        .soft_timeout(secs(5))
        .timeout(secs(10))
        .await?;
    Ok(charge)
}

fn shop() -> Suite {
    Sim::suite("shop")
        .workers(3, |w| {
            let world = w.world();
            w.register(CHECKOUT, move |ctx, order| checkout(ctx, order, world.clone()))
        })
        .workload(|w| {
            w.start_many(CHECKOUT, 20, Order::arbitrary);
        })
        .effect("charge", Effect::once_per_key())
        .eventually("all orders settle", mins(10))
}

#[test]
fn checkout_survives_chaos() {
    shop()
        .faults(Faults::swarm())
        .always("nobody is charged twice", |h| {
            let mut ids: Vec<u64> = h
                .effects("charge")
                .filter_map(|e| e.request::<Order>())
                .map(|order| order.id)
                .collect();
            ids.sort_unstable();
            ids.windows(2).all(|pair| pair[0] != pair[1])
        })
        .sometimes("a completed step was replayed", |h| h.replays() > 0)
        .sometimes("a call found its effect done", |h| h.absorbed() > 0)
        .seeds(Seeds::fresh_only(20).from(0).budget(secs(20)))
        .run();
}

fn failing(suite: Suite, seeds: u64) -> SuiteReport {
    let directory = tempfile::tempdir().expect("a directory");
    let options = Options {
        report: Some(directory.path().to_owned()),
        seeds: Some(seeds),
        from: Some(0),
        ..Options::default()
    };
    let report = suite.check(options).expect("it can be run");
    println!("{report}");
    // What was written plays again, and fails again.
    if let Some(plan) = report.files.first() {
        assert!(plan.exists());
    }
    report
}

/// The key is another in each attempt: the provider cannot know that it is the same charge.
#[test]
fn a_key_that_changes_is_caught_and_reduced() {
    let careless = Sim::suite("careless")
        .workers(2, |w| {
            let world = w.world();
            w.register(CHECKOUT, move |ctx: Ctx, order: Order| {
                let world = world.clone();
                async move {
                    ctx.step("charge", |s| {
                        let key = format!("{} {}", order.id, s.attempt());
                        world.call("charge", key, &order)
                    })
                    .await
                }
            })
        })
        .workload(|w| {
            w.start_many(CHECKOUT, 10, Order::arbitrary);
        })
        .effect("charge", Effect::once_per_key().once_per_request());
    let report = failing(careless, 20);
    assert!(report.failed > 0, "{report}");
    let failure = report.failure.unwrap();
    assert!(failure.violations[0].text.contains("happened twice"), "{failure}");
    assert!(failure.faults.len() <= 5 && failure.client_operations <= 2, "{failure}");
}

/// The wall clock and a counter outside the journal decide: the gate says so.
#[test]
fn a_workflow_that_is_not_deterministic_is_caught() {
    use std::sync::atomic::{AtomicU64, Ordering};
    static TURNS: AtomicU64 = AtomicU64::new(0);
    let shifty = Sim::suite("shifty")
        .workers(2, |w| {
            let world = w.world();
            w.register(CHECKOUT, move |ctx: Ctx, order: Order| {
                let world = world.clone();
                async move {
                    let text = format!("turn {}", TURNS.fetch_add(1, Ordering::Relaxed));
                    ctx.step("say", |s| world.call("say", s.key(), &text)).await?;
                    Ok(order.cents)
                }
            })
        })
        .workload(|w| {
            w.start_many(CHECKOUT, 5, Order::arbitrary);
        })
        .faults(Faults::none());
    let report = failing(shifty, 3);
    assert!(report.non_deterministic > 0, "{report}");
    assert!(report.differences[0].contains("usual causes"), "{report}");
}

/// A key that is another in each turn parks its run for good. What will not end is not waited for,
/// and what is not the same twice cannot be reduced: the verdict must not take as long as the time
/// for everything to end, times a hundred plays.
#[test]
fn a_run_that_is_parked_for_good_is_told_at_once() {
    use std::sync::atomic::{AtomicU64, Ordering};
    static TURNS: AtomicU64 = AtomicU64::new(0);
    let drifting = Sim::suite("drifting")
        .workers(2, |w| {
            let world = w.world();
            w.register(CHECKOUT, move |ctx: Ctx, order: Order| {
                let world = world.clone();
                let turn = TURNS.fetch_add(1, Ordering::Relaxed);
                async move {
                    let name = format!("say {turn}");
                    ctx.step(name, |s| world.call("say", s.key(), order.id)).await?;
                    ctx.sleep(secs(30)).await?;
                    Ok(order.cents)
                }
            })
        })
        .workload(|w| {
            w.start_many(CHECKOUT, 3, Order::arbitrary);
        })
        .faults(Faults::none())
        .eventually("all end", days(1));
    let report = failing(drifting, 1);
    let failure = report.failure.clone().expect("it fails");
    assert!(failure.violations[0].text.contains("Parked"), "it is parked: {failure}");
    assert!(failure.violations[0].at_ms < 600_000, "{failure}");
    assert_eq!(failure.tried, 0, "{failure}");
    assert!(failure.to_string().contains("this seed is not deterministic"), "{failure}");
    let text = report.to_string();
    assert!(text.contains("broken: all end"), "{text}");
    assert!(text.contains(" not ended; "), "{text}");
    assert!(report.non_deterministic > 0, "{report}");
}

#[test]
fn what_is_never_reached_fails_the_suite() {
    let report =
        failing(shop().faults(Faults::none()).sometimes("a fault struck", |h| h.faults() > 0), 3);
    assert_eq!(report.sometimes_unmet, ["a fault struck"]);
    assert_eq!(report.failed, 0, "{report}");
}

/// A machine with other work to do plays fewer seeds in the same time; that must not look like a
/// suite that tests nothing.
#[test]
fn what_is_not_reached_in_seeds_cut_short_is_told_and_does_not_fail_the_suite() {
    let report = failing(
        shop()
            .faults(Faults::none())
            .sometimes("a fault struck", |h| h.faults() > 0)
            .seeds(Seeds::fresh_only(20).budget(millis(1))),
        20,
    );
    assert!(report.is_sound(), "{report}");
    assert!(report.seeds >= 1 && report.seeds < 20, "{report}");
    let told = format!(
        "the budget was used up after {} of 20 seeds; not reached in them: a fault struck",
        report.seeds
    );
    assert!(report.notes.contains(&told), "{report}");
}

/// A declaration that nothing refers to says nothing: a suite that passes with it tests less than
/// it seems to.
#[test]
fn an_effect_that_is_misspelt_fails_the_suite() {
    let report = failing(
        shop()
            .faults(Faults::none())
            .effect("chrage", Effect::once_per_key().once_per_request())
            .at(Point::after_effect("mial"), Strike::KillWorker)
            .at_nth(Point::before_effect("mail"), 1_000, Strike::KillWorker),
        1,
    );
    assert!(report.failed == 0 && !report.is_sound(), "{report}");
    assert_eq!(
        report.unreached,
        [
            "effect `chrage` was declared and never called; called were: `charge`, `mail`",
            "the script strikes after the effect `mial`, at passing 1, and that never came; called were: `charge`, `mail`",
            "the script strikes before the effect `mail`, at passing 1000, and that never came; no seed passes that more than 20 times",
        ]
    );
    let idempotency = shop().effect("mial", Effect::unguarded()).idempotency(1);
    assert_eq!(
        idempotency.expect_err("no call for it"),
        "effect `mial` was declared and never called; called were: `charge`, `mail`"
    );
}

#[test]
fn a_suite_that_starts_nothing_fails_and_a_bank_that_is_not_there_is_told() {
    let idle = Sim::suite("idle")
        .workers(1, |w| {
            let world = w.world();
            w.register(CHECKOUT, move |ctx, order| checkout(ctx, order, world.clone()))
        })
        .faults(Faults::none())
        .seeds(Seeds::bank("tests/nope.toml"));
    let report = failing(idle, 1);
    assert!(!report.is_sound(), "{report}");
    assert!(report.unreached[0].starts_with("no run was started"));
    let text = report.to_string();
    let told = "the bank tests/nope.toml is missing: its seeds and plans are not run";
    assert!(text.contains(told), "{text}");
    assert!(text.contains("runs: none"), "{text}");
}

#[test]
#[should_panic(expected = "register no workflow")]
fn workers_without_a_workflow_are_refused() {
    let _ = Sim::suite("empty").workers(1, |w| w);
}

/// The mail goes out again if the worker dies before it is recorded, because nobody looks at its
/// key.
// A6: twice is once. Every step is forced to a second delivery; what has no key is named.
#[test]
fn the_idempotency_report_names_the_step_that_is_not_safe_to_repeat() {
    let idempotency =
        shop().effect("mail", Effect::unguarded()).idempotency(1).expect("it can be checked");
    println!("{idempotency}");
    let verdicts: Vec<(&str, bool)> =
        idempotency.steps.iter().map(|step| (step.step.as_str(), step.is_safe)).collect();
    assert_eq!(verdicts, [("charge", true), ("mail", false)], "{idempotency}");
    assert!(idempotency.steps[1].text.contains("happened 2 times instead of 1"), "{idempotency}");
    assert!(shop().idempotency(1).expect("it can be checked").is_sound());
}

// A5, A7: a job may run twice. It is struck at every point of it once, between the effect and the
// "done" mark too; it ends, and its effects, counted by key, are one.
#[test]
fn every_point_of_a_checkout_may_be_struck() {
    let map = shop().crash_map(1, &Strike::ALL).expect("it can be mapped");
    println!("{map}");
    assert!(map.points.len() >= 60, "{map}");
    assert!(map.is_sound(), "{map}");
}

/// An effect that races with a timer may be missed; that is not held against its workflow.
#[test]
fn every_point_of_the_engines_own_workflows_may_be_struck() {
    let map = Sim::engine()
        .crash_map(1, &[Strike::KillWorker, Strike::PauseWorker])
        .expect("it can be mapped");
    assert!(map.points.len() >= 60, "{map}");
    assert!(map.is_sound(), "{map}");
}

#[test]
fn a_script_strikes_where_it_says() {
    let report = failing(
        shop()
            .faults(Faults::none())
            .at(Point::after_effect("charge"), Strike::KillWorker)
            .sometimes("the charge was done again and found done", |h| h.absorbed() == 1),
        2,
    );
    assert!(report.is_sound(), "{report}");
}

/// Strikes after which the worker lives: the charge is done again by another, or told late, and
/// nobody pays twice.
fn survives(strike: Strike, kind: FaultKind) -> SuiteReport {
    let report = failing(
        shop()
            .workers(2, |w| {
                let world = w.world();
                w.register(CHECKOUT, move |ctx, order| checkout(ctx, order, world.clone()))
            })
            .effect("charge", Effect::once_per_key().once_per_request())
            .faults(Faults::none())
            .at(Point::after_effect("charge"), strike),
        5,
    );
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.faults.get(&kind), Some(&5), "once in each seed");
    assert_eq!(report.runs.get("Completed"), Some(&100), "{report}");
    report
}

#[test]
fn a_worker_that_is_cut_off_after_its_effect_is_fenced() {
    let report = survives(Strike::CutWorker, FaultKind::Partitioned);
    let absorbed = report.seen.get("effects absorbed").copied();
    assert!(absorbed >= Some(5), "the charge was done again: {report}");
}

/// It wakes when its session is gone, and reports what another worker has done meanwhile.
#[test]
fn a_zombie_after_its_effect_is_fenced() {
    let report = survives(Strike::PauseWorker, FaultKind::WorkerPaused);
    let absorbed = report.seen.get("effects absorbed").copied();
    assert!(absorbed >= Some(5), "the charge was done again: {report}");
}

#[test]
fn a_sync_that_fails_after_an_effect_is_survived() {
    let report = survives(Strike::FailSync, FaultKind::SyncFailed);
    let poisoned = report.seen.get("engines that stopped after a failed sync").copied();
    assert_eq!(poisoned, Some(5), "{report}");
}

/// The very commit that the point is about fails.
#[test]
fn a_sync_can_fail_where_the_script_says() {
    let report = failing(
        shop().faults(Faults::none()).at_nth(Point::before_fsync(), 3, Strike::FailSync),
        2,
    );
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.faults.get(&FaultKind::SyncFailed), Some(&2));
}

/// What stderr is told every ten seconds.
#[test]
fn progress_reads_as_a_line() {
    let progress = Progress { played: 17, total: 100, failed: 0, faults: 3 };
    assert_eq!(progress.to_string(), "17 of 100 seeds, 0 failed");
}

/// A month costs next to nothing.
#[test]
fn a_month_passes() {
    const PATIENT: Workflow<u64, u64> = Workflow::new("patient");
    Sim::suite("patient")
        .workers(1, |w| {
            w.register(PATIENT, async |ctx: Ctx, n: u64| {
                ctx.sleep(days(30)).await?;
                Ok(n)
            })
        })
        .workload(|w| {
            w.start_many(PATIENT, 5, |draw| draw.bits());
        })
        .eventually("a month passes", mins(10))
        .seeds(Seeds::fresh_only(5).from(0))
        .run();
}

const CONVERT: Workflow<Order, u64> = Workflow::new("convert").queue("shop");

async fn convert(ctx: Ctx, order: Order, world: Outside) -> Result<u64, Failure> {
    let rate = ctx
        .memoize("the rate of the day", |s| world.call("rate", s.key(), "the rate of the day"))
        .soft_timeout(secs(5))
        .timeout(secs(10))
        .await?;
    ctx.step("charge", |s| world.call("charge", s.key(), (order.id, rate)))
        .soft_timeout(secs(5))
        .timeout(secs(10))
        .await
}

fn bureau() -> Suite {
    Sim::suite("bureau")
        .workers(3, |w| {
            let world = w.world();
            w.register(CONVERT, move |ctx, order| convert(ctx, order, world.clone()))
        })
        .workload(|w| {
            w.start_many(CONVERT, 12, Order::arbitrary);
        })
        .effect("rate", Effect::once_per_key().once_per_request())
        .eventually("all orders settle", mins(10))
}

// A38: a memoized step, among faults: every run charges by one rate,
// whoever found it.
#[test]
fn memoized_steps_survive_chaos() {
    bureau()
        .faults(Faults::swarm())
        .always("all charge by one rate", |h| {
            let rates: std::collections::BTreeSet<u64> = h
                .effects("charge")
                .filter_map(|e| e.request::<(u64, u64)>())
                .map(|(_, rate)| rate)
                .collect();
            rates.len() <= 1
        })
        .seeds(Seeds::fresh_only(20).from(0).budget(secs(20)))
        .run();
}

const WAIT: Workflow<u64, u64> = Workflow::new("wait").queue("shop");
const WORK: Workflow<u64, u64> = Workflow::new("work").queue("shop");

/// A memoized step that takes long.
async fn rate_of_the_day(ctx: Ctx, _: u64, world: Outside) -> Result<u64, Failure> {
    ctx.memoize("the rate of the day", async |s| {
        tokio::time::sleep(mins(2)).await;
        world.call("rate", s.key(), "the rate of the day").await
    })
    .soft_timeout(mins(4))
    .timeout(mins(4))
    .await
}

async fn work(ctx: Ctx, n: u64, world: Outside) -> Result<u64, Failure> {
    ctx.step("work", |s| world.call("work", s.key(), n)).await
}

// A38, A44: a run that waits for a key holds no slot. Of two slots one is taken by the run that
// finds the rate; five others want it, too, and do not keep the second from work that comes later.
#[test]
fn runs_that_wait_for_a_key_do_not_keep_others_from_working() {
    Sim::suite("waits")
        .workers(1, |w| {
            let (waits, works) = (w.world(), w.world());
            w.register(WAIT, move |ctx, n| rate_of_the_day(ctx, n, waits.clone()))
                .register(WORK, move |ctx, n| work(ctx, n, works.clone()))
                .queue("shop", 2)
        })
        .workload(|w| {
            w.start_many(WAIT, 6, |draw| draw.bits());
            w.start_many(WORK, 6, |draw| draw.bits());
        })
        .effect("rate", Effect::once_per_key().once_per_request())
        .effect("work", Effect::once_per_key())
        .faults(Faults::none())
        .always("other work is done first", |h| {
            let asked = h.runs().filter(|run| run.workflow() == "work").count();
            h.effects("rate").next().is_none() || h.effects("work").count() == asked
        })
        .sometimes("there is work", |h| h.effects("work").count() == 6)
        .seeds(Seeds::fresh_only(3).from(0))
        .run();
}

// Its worker is killed after the effect and before the record, and at every other point: the check
// knows the step by its key.
#[test]
fn memoized_steps_survive_a_strike_at_every_point() {
    let idempotency = bureau().idempotency(1).expect("it can be checked");
    println!("{idempotency}");
    assert!(idempotency.is_sound(), "{idempotency}");
    assert_eq!(idempotency.steps[0].step, "the rate of the day", "{idempotency}");
    assert_eq!(
        idempotency.steps[0].text, "re-executed; deduplicated by its idempotency key",
        "{idempotency}"
    );
    let strikes = [Strike::KillWorker, Strike::KillServer, Strike::LosePower];
    let map = bureau().crash_map(1, &strikes).expect("it can be mapped");
    println!("{map}");
    assert!(map.is_sound(), "{map}");
}
