//! Workflows that wait: for days and months, and between attempts.

use stepwell::{Ctx, Failure, Retry, Workflow, days, hours, mins};

use crate::draw::Draw;
use crate::ledger::Effect;
use crate::suite::{Seeds, Sim, Suite};

/// Sleeps so many days, says so, and so on.
const REMINDER: Workflow<Vec<u64>, u64> = Workflow::new("reminder");
/// Tries something every few hours until it works.
const STUBBORN: Workflow<u32, u32> = Workflow::new("stubborn");

pub(super) fn suite() -> Suite {
    Sim::suite("patient")
        .workers(2, |w| {
            let world = w.world();
            w.register(REMINDER, move |ctx: Ctx, waits: Vec<u64>| {
                let world = world.clone();
                async move {
                    let begun = ctx.now();
                    let mut waited = 0;
                    for wait in &waits {
                        ctx.sleep(days(*wait)).await?;
                        waited += wait;
                        let passed = ctx.now().since(begun);
                        if passed < days(waited) {
                            let text = format!("{passed:?} are less than {waited} days");
                            return Err(Failure::terminal(text).class("early"));
                        }
                        ctx.step("remind", |s| world.call("remind", s.key(), waited)).await?;
                    }
                    Ok(waited)
                }
            })
            .register(STUBBORN, async |ctx: Ctx, failures: u32| {
                ctx.step("try", |s| async move {
                    if s.attempt() <= failures {
                        return Err(Failure::retryable("not yet"));
                    }
                    Ok(s.attempt())
                })
                .retry(Retry::fixed(hours(5)).retries(20))
                .await
            })
        })
        .workload(|w| {
            w.start_many(REMINDER, 6, |draw: &mut Draw| {
                (0..draw.between(1, 5)).map(|_| draw.between(1, 90)).collect()
            })
            .start_many(STUBBORN, 4, |draw| draw.between(0, 9) as u32);
        })
        .effect("remind", Effect::once_per_key())
        .always("nobody is reminded early", |h| {
            h.runs().all(|run| run.failure().is_none_or(|failure| failure.class != "early"))
        })
        .sometimes("a completed step was replayed", |h| h.replays() > 0)
        .eventually("all wait to their end", mins(30))
        .seeds(Seeds::fresh_only(50))
}
