//! Limits of steps, in a world in which a downstream hangs.

use std::time::Duration;

use stepwell::{Ctx, Failure, Retry, Workflow, millis, secs};
use stepwell_sim::{Faults, Seeds, Sim};

const EXPORT: Workflow<u64, u64> = Workflow::new("export").queue("work");
const MAIL: Workflow<u64, u64> = Workflow::new("mail").queue("work");
const SOFT: Duration = secs(2);
const HARD: Duration = secs(4);

/// Its downstream never answers. Every second one listens to its soft timeout.
async fn export(ctx: Ctx, n: u64) -> Result<u64, Failure> {
    ctx.step("export", |s| async move {
        if n.is_multiple_of(2) {
            return std::future::pending().await;
        }
        let never = std::future::pending::<std::convert::Infallible>();
        let Err(passed) = s.until_soft_timeout(never).await;
        Err::<u64, _>(Failure::from(passed).class("cleaned up"))
    })
    .soft_timeout(SOFT)
    .timeout(HARD)
    .retry(Retry::fixed(millis(500)).retries(1))
    .await
}

async fn mail(ctx: Ctx, n: u64) -> Result<u64, Failure> {
    ctx.step("mail", |_| async move { Ok::<_, Failure>(n) }).await
}

// A44: all slots of all workers are taken by steps that hang for ever; what is queued behind them
// gets through, under faults too. Without timeouts nothing of it would ever end.
#[test]
fn a_downstream_that_hangs_for_ever_starves_nobody() {
    Sim::suite("hangs")
        .workers(2, |w| w.register(EXPORT, export).register(MAIL, mail).queue("work", 2))
        .workload(|w| {
            w.start_many(EXPORT, 12, |draw| draw.between(0, 1_000));
            w.start_many(MAIL, 40, |draw| draw.between(0, 1_000));
        })
        .faults(Faults::swarm())
        // Twelve runs of two attempts of 4 s, through four slots, are 24 s of work for each.
        .eventually("throughput recovers", secs(60))
        .always("mail is never lost behind exports", |h| {
            h.runs().filter(|run| run.workflow() == "mail" && run.has_ended()).all(|run| {
                run.output::<u64>().is_some()
                    || run.failure().is_some_and(|f| f.class == "worker lost")
            })
        })
        .sometimes("an export was ended at its timeout", |h| {
            h.runs().any(|run| run.failure().is_some_and(|f| f.class == "time limit"))
        })
        .sometimes("an export cleaned up at its soft timeout", |h| {
            h.runs().any(|run| run.failure().is_some_and(|f| f.class == "cleaned up"))
        })
        .seeds(Seeds::fresh_only(12).from(0).budget(secs(60)))
        .run();
}
