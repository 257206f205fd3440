//! Waits of hours, days and years, in the worlds that skip time.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::job::{ChainInput, Job, Order, TimedJob};
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
            Job::Start { name, work, delay_ms, .. } => {
                let mut draw = Draw::of(seed, format_args!("long delay of {name}"));
                if draw.chance(settings.long_waits_per_mille / 4) {
                    *delay_ms = long_ms(&mut draw);
                }
                let name = work.workflow.as_str();
                if name == CHAIN.name() {
                    changed(&mut work.input, |input| {
                        lengthen_chain(seed, settings, input);
                    });
                } else if name == CHECKOUT.name() {
                    changed(&mut work.input, |order: &mut Order| {
                        let label = hash(order.cents, order.wait_ms);
                        let mut draw = Draw::of(seed, format_args!("long wait of {label:016x}"));
                        if draw.chance(settings.long_waits_per_mille) {
                            order.wait_ms = long_ms(&mut draw);
                        }
                    });
                }
            }
            Job::StartMany { runs, .. } => {
                for (_, input) in runs {
                    changed(input, |input| lengthen_chain(seed, settings, input));
                }
            }
            _ => {}
        }
    }
}

/// Changes an input of ours that was written as JSON.
fn changed<T: Serialize + DeserializeOwned>(json: &mut Value, change: impl FnOnce(&mut T)) {
    let read = serde_json::from_value(json.take());
    let mut input: T = read.unwrap_or_else(|error| panic!("an input of ours is read: {error}"));
    change(&mut input);
    let written = serde_json::to_value(input);
    *json = written.unwrap_or_else(|error| panic!("an input of ours is JSON: {error}"));
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
