//! Waits of hours, days and years, in the worlds that skip time.

use super::job::{ChainInput, Job, Order, TimedJob, Work};
use super::settings::Settings;
use crate::draw::{Draw, hash};
use crate::workload::{CHAIN, CHECKOUT};

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// Sleeps of a chain that is made long.
const LONG_SLEEPS_MAX: u32 = 3;

/// Makes some of the waits long. What is started twice under one name stays the same.
pub(super) fn lengthen(seed: u64, settings: &Settings, jobs: &mut [TimedJob]) {
    if !settings.skips_time || settings.long_waits_per_mille == 0 {
        return;
    }
    for timed in jobs {
        match &mut timed.job {
            Job::Start {
                name,
                work,
                delay_ms,
                ..
            } => {
                let mut draw = Draw::of(seed, format_args!("long delay of {name}"));
                if draw.chance(settings.long_waits_per_mille / 4) {
                    *delay_ms = long_ms(&mut draw);
                }
                lengthen_work(seed, settings, work);
            }
            Job::StartMany { workflow, runs } => {
                for (_, input) in runs {
                    let mut work = Work {
                        workflow: workflow.clone(),
                        input: std::mem::take(input),
                    };
                    lengthen_work(seed, settings, &mut work);
                    *input = work.input;
                }
            }
            _ => {}
        }
    }
}

fn lengthen_work(seed: u64, settings: &Settings, work: &mut Work) {
    if work.workflow == CHAIN.name()
        && let Ok(mut input) = serde_json::from_value(work.input.clone())
    {
        lengthen_chain(seed, settings, &mut input);
        *work = Work::of(CHAIN, &input);
    }
    if work.workflow == CHECKOUT.name()
        && let Ok(mut order) = serde_json::from_value::<Order>(work.input.clone())
    {
        let label = hash(order.cents, order.wait_ms);
        let mut draw = Draw::of(seed, format_args!("long wait of {label:016x}"));
        if draw.chance(settings.long_waits_per_mille) {
            order.wait_ms = long_ms(&mut draw);
            *work = Work::of(CHECKOUT, &order);
        }
    }
}

fn lengthen_chain(seed: u64, settings: &Settings, input: &mut ChainInput) {
    let mut draw = Draw::of(seed, format_args!("long sleep of {:016x}", input.salt));
    if draw.chance(settings.long_waits_per_mille) {
        input.sleep_ms = long_ms(&mut draw);
        input.sleeps_every = input.sleeps_every.max(input.links / LONG_SLEEPS_MAX);
    }
}

/// Minutes, hours, days, a month; a year now and then.
fn long_ms(draw: &mut Draw) -> u64 {
    match draw.between(0, 19) {
        0..=5 => draw.between(60_000, HOUR_MS),
        6..=12 => draw.between(HOUR_MS, DAY_MS),
        13..=17 => draw.between(DAY_MS, 10 * DAY_MS),
        18 => 30 * DAY_MS,
        _ => *draw.pick(&[60 * DAY_MS, 365 * DAY_MS]),
    }
}
