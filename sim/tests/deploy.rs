//! Code deployed over running work: it completes, or stops with a precise error. Never wrong
//! output.

use stepwell::{Ctx, Failure, Workflow, mins, secs};
use stepwell_sim::{Effect, Faults, Outside, Point, Sim, Strike, Suite};

const LIST: Workflow<u64, Vec<String>> = Workflow::new("list");
const OLD: [&str; 4] = ["a", "b", "c", "d"];
/// A step more, between others: runs that have passed its place cannot go on.
const NEW: [&str; 5] = ["a", "b", "x", "c", "d"];

async fn list(
    ctx: Ctx,
    world: Outside,
    steps: &'static [&'static str],
) -> Result<Vec<String>, Failure> {
    let mut done = Vec::new();
    for &step in steps {
        let line = ctx
            .step(step, |s| {
                let call = world.call("line", s.key(), step);
                async move { call.await.map(|_: u64| step.to_owned()) }
            })
            .soft_timeout(secs(5))
            .timeout(secs(10));
        done.push(line.await?);
    }
    Ok(done)
}

fn suite(new: &'static [&'static str]) -> Suite {
    Sim::suite("list")
        .workers(1, |w| {
            let world = w.world();
            w.register(LIST, move |ctx, _| list(ctx, world.clone(), &OLD))
        })
        .deploy(move |w| {
            let world = w.world();
            w.register(LIST, move |ctx, _| list(ctx, world.clone(), new))
        })
        .workload(|w| {
            w.start_many(LIST, 1, |_| 0);
        })
        .faults(Faults::none())
        .effect("line", Effect::once_per_key())
        .always("what is done is what the old code does, or what the new one does", |h| {
            let lines: Vec<String> = h.effects("line").map(|e| e.text().to_owned()).collect();
            OLD.iter().zip(&lines).all(|(step, line)| step == line)
                || NEW.iter().zip(&lines).all(|(step, line)| step == line)
        })
        .always("what is returned is of one version", |h| {
            let outputs = h.runs().filter_map(|run| run.output::<Vec<String>>());
            outputs.into_iter().all(|output| output == OLD || output == NEW)
        })
        .eventually("all lists end", mins(2))
}

// A36, A37: the same steps in another build go on wherever the deploy hits.
#[test]
fn a_fitting_version_deployed_at_every_point_completes_every_run() {
    let map = suite(&OLD).crash_map(1, &[Strike::Deploy]).unwrap();
    println!("{map}");
    assert!(map.points.iter().filter(|point| point.struck).count() >= 10, "{map}");
    assert!(map.is_sound(), "{map}");
}

// A37: v1 is swapped for v2 at every step; a run that has passed the place where they differ is
// parked, and says why.
#[test]
fn an_unfitting_version_deployed_at_every_step_completes_a_run_or_parks_it() {
    let (mut completed, mut parked) = (0, 0);
    for nth in 1..=5 {
        let suite = suite(&NEW).at_nth(Point::after_ack(), nth, Strike::Deploy);
        let recording = suite.record(suite.plan(1));
        let report = &recording.report;
        if report.is_sound() {
            completed += 1;
            continue;
        }
        for violation in &report.violations {
            assert_eq!(violation.checker, "all lists end", "{report}");
        }
        let says = |text: &str| {
            assert!(report.violations.iter().any(|v| v.text.contains(text)), "{report}");
        };
        says("it is in [Parked]");
        says("holds    step \"c\"");
        says("the code asked    step \"x\"");
        parked += 1;
    }
    assert!(completed >= 2 && parked >= 1, "{completed} completed, {parked} parked");
}
