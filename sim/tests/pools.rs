//! Queues beside each other, over a network: a line of ten thousand slow runs in one does not delay
//! another.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stepwell::{Ctx, Failure, Workflow, secs};
use stepwell_sim::plan::{Job, TimedJob, Work};
use stepwell_sim::{Faults, Options, Plan, Seeds, Sim};

const MAIL: Workflow<u64, ()> = Workflow::new("mail").queue("mail");
const EXPORT: Workflow<u64, ()> = Workflow::new("export").queue("exports");
const MAILS: u64 = 100;
/// A mail comes so often, from here on.
const EVERY_MS: u64 = 100;
const FIRST_MS: u64 = 3_000;
/// All exports are in line before the first mail, and slow until the last has been sent.
const EXPORTS: u64 = 10_000;
const SLOW: Duration = secs(3);

/// When each mail's step began, in simulated time.
type Begun = Arc<Mutex<Vec<(u64, Duration)>>>;

async fn mail(ctx: Ctx, begun: Begun, n: u64) -> Result<(), Failure> {
    ctx.step("send", async |_| {
        let now = turmoil::sim_elapsed().unwrap_or_default();
        begun.lock().expect("nobody panicked").push((n, now));
        Ok::<_, Failure>(())
    })
    .await
}

async fn export(ctx: Ctx, _: u64) -> Result<(), Failure> {
    ctx.step("write", async |_| {
        let mails_end = Duration::from_millis(FIRST_MS + MAILS * EVERY_MS);
        if turmoil::sim_elapsed() < Some(mails_end) {
            tokio::time::sleep(SLOW).await;
        }
        Ok::<_, Failure>(())
    })
    .await
}

/// A calm world whose messages take the same time each, with so many exports.
fn world(mut plan: Plan, exports: u64) -> Plan {
    let settings = &mut plan.settings;
    (settings.tick_ms, settings.latency_max_ms, settings.sync_ms) = (1, 1, 1);
    (settings.workers, settings.clients, settings.skips_time) = (1, 2, false);
    settings.faults_end_ms = FIRST_MS + MAILS * EVERY_MS + 1_000;
    settings.heal_max_ms = 600_000;
    let run = |name: &str, n: u64| (format!("{name}-{n}"), n.into());
    let exports: Vec<_> = (0..exports).map(|n| run("export", n)).collect();
    let mails = (0..MAILS).map(|n| TimedJob {
        at_ms: FIRST_MS + n * EVERY_MS,
        client: 1,
        job: Job::Start {
            name: format!("mail-{n}"),
            work: Work::of(MAIL, &n),
            delay_ms: 0,
            priority: 5,
            tags: Vec::new(),
        },
    });
    let calls = exports.chunks(1_000).map(|runs| TimedJob {
        at_ms: 200,
        client: 2,
        job: Job::StartMany { workflow: EXPORT.name().to_owned(), runs: runs.to_vec() },
    });
    plan.jobs = calls.chain(mails).collect();
    plan
}

/// How long after its call each mail's step begins beside so many exports.
fn delays(exports: u64) -> Vec<Duration> {
    let begun = Begun::default();
    let sent = begun.clone();
    let suite = Sim::suite("pools")
        .workers(1, move |w| {
            let sent = sent.clone();
            w.register(MAIL, move |ctx, n| mail(ctx, sent.clone(), n))
                .register(EXPORT, export)
                .queue("mail", 2)
                .queue("exports", 8)
        })
        .workload(|w| {
            w.start(MAIL, "mail", &0);
        })
        .faults(Faults::none())
        .seeds(Seeds::fresh_only(1));
    let plan = world(suite.plan(7), exports);
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("pools-{exports}.json"));
    std::fs::write(&file, serde_json::to_vec(&plan).expect("a plan is data"))
        .expect("it is written");
    let report = suite.check(Options { plan: Some(file), ..Options::default() });
    let report = report.expect("it can be played");
    assert!(report.is_sound(), "{report}");
    let mut begun = std::mem::take(&mut *begun.lock().expect("nobody panicked"));
    begun.sort_unstable();
    begun.dedup_by_key(|(n, _)| *n);
    let delay = |(n, at): (u64, Duration)| at - Duration::from_millis(FIRST_MS + n * EVERY_MS);
    begun.into_iter().map(delay).collect()
}

// A45: 10,000 slow exports queued leave the start latency of mail unchanged.
#[test]
fn ten_thousand_slow_exports_do_not_delay_mail() {
    let (alone, beside) = (delays(0), delays(EXPORTS));
    assert_eq!(alone.len() as u64, MAILS);
    assert_eq!(alone, beside);
}
