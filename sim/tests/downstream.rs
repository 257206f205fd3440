//! What is started while a downstream is dead, under faults.

use stepwell::{Ctx, Failure, Retry, Workflow, days, mins, secs};
use stepwell_sim::{Faults, Outside, Seeds, Sim};

const ORDER: Workflow<u64, u64> = Workflow::new("order").queue("orders");
const ORDERS: usize = 40;
/// When the downstream is up again, in simulated milliseconds: long after the last start and the
/// last fault.
const HEALS_MS: u64 = 20_000;

async fn order(ctx: Ctx, n: u64, world: Outside) -> Result<u64, Failure> {
    let call = |_| {
        let is_down = world.now_ms() < HEALS_MS;
        async move {
            match is_down {
                true => Err(Failure::retryable("connection refused")),
                false => Ok(n),
            }
        }
    };
    let patient = Retry::exponential(secs(1)).cap(mins(5)).retries(100_000);
    ctx.step("call", call).retry(patient.give_up_after(days(3_650))).await
}

// A2: a dead downstream must not hurt the starts. It refuses every call, while processes die, the
// power goes, links are cut and clocks jump: every start succeeds (a client repeats one until it is
// answered, and a refusal is a violation), nothing is lost, and once the downstream is up every job
// completes.
#[test]
fn a_downstream_that_refuses_everything_stops_no_start_under_faults() {
    Sim::suite("dead downstream")
        .workers(3, |w| {
            let world = w.world();
            w.register(ORDER, move |ctx, n| order(ctx, n, world.clone()))
        })
        .workload(|w| {
            w.start_many(ORDER, ORDERS as u32, |draw| draw.between(1, 1_000));
        })
        .faults(Faults::swarm())
        .always("nothing completes while the downstream is down", |h| {
            h.now_ms() >= HEALS_MS || h.runs().all(|run| run.output::<u64>().is_none())
        })
        // A run that was alone with three workers that died is a dead letter, whatever the
        // downstream does.
        .always("no job is given up because of the downstream", |h| {
            h.runs().filter_map(|run| run.failure()).all(|failure| failure.class == "worker lost")
        })
        .sometimes("all were started, and all complete", |h| {
            h.runs().filter(|run| run.output::<u64>().is_some()).count() == ORDERS
        })
        .eventually("every job ends once it is up", mins(3))
        .seeds(Seeds::fresh_only(20).from(0).budget(secs(60)))
        .run();
}
