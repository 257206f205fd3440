//! Runs with memoized steps, in two fifths of the engine's seeds.

use serde::{Deserialize, Serialize};

use super::job::{Job, TimedJob, Work};
use super::script::{Point, Scripted, Strike};
use super::settings::Settings;
use crate::draw::Draw;
use crate::workload::{MEMO, SHARED};

/// The input of a run with memoized steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    /// What, by its keys.
    pub keys: Vec<String>,
    /// Whether it asks for all of it at once.
    pub at_once: bool,
    /// How long its bodies take before they do anything.
    pub rest_ms: u64,
}

/// Some at about the same time, so that they meet, and some later, which find what is there.
pub(super) fn draw_all(seed: u64, settings: &Settings) -> Vec<TimedJob> {
    let mut draw = Draw::of(seed, "once");
    if !draw.chance(400) {
        return Vec::new();
    }
    let (runs, keys) = (draw.between(2, 7), draw.between(1, 3));
    let begins_ms = draw.between(100, settings.faults_end_ms - 2_000);
    let mut jobs = Vec::new();
    for run in 0..runs {
        let draw = &mut Draw::of(seed, format_args!("once {run}"));
        let late_ms = if draw.chance(300) { 6_000 } else { 600 };
        let at_ms = begins_ms + draw.between(0, late_ms);
        let key = |_| format!("key {}", draw.between(0, keys - 1));
        let keys: Vec<String> = (0..3).map(key).collect();
        let asks = draw.between(1, 3) as usize;
        let input = Shared {
            keys: keys[..asks].to_vec(),
            at_once: draw.chance(300),
            rest_ms: *draw.pick(&[0, 20, 300, 900]),
        };
        let name = format!("shared-{run}");
        let start = Job::Start {
            name: name.clone(),
            work: Work::of(SHARED, &input),
            delay_ms: 0,
            priority: draw.between(4, 6) as u8,
            tags: Vec::new(),
        };
        let mut push = |at_ms: u64, draw: &mut Draw, job| {
            let client = draw.between(1, u64::from(settings.clients)) as u32;
            jobs.push(TimedJob { at_ms, client, job });
        };
        push(at_ms, draw, start);
        if draw.chance(150) {
            let after = at_ms + draw.between(0, 2_000);
            push(after, draw, Job::Cancel { name: name.clone() });
        }
        if draw.chance(300) {
            push(at_ms + draw.between(0, 2_000), draw, Job::Wait { name });
        }
    }
    jobs
}

/// Strikes at bodies: then somebody else may have the key while one goes on, or its result is there
/// and nobody was told.
pub(super) fn draw_strikes(seed: u64, jobs: &[TimedJob]) -> Vec<Scripted> {
    let asks = |timed: &TimedJob| match &timed.job {
        Job::Start { work, .. } => work.workflow == SHARED.name(),
        _ => false,
    };
    let mut draw = Draw::of(seed, "once strikes");
    if !jobs.iter().any(asks) || draw.chance(400) {
        return Vec::new();
    }
    let strikes = [
        Strike::KillServer,
        Strike::KillServer,
        Strike::LosePower,
        Strike::KillWorker,
        Strike::CutWorker,
    ];
    let strike = |_| Scripted {
        point: match draw.chance(500) {
            true => Point::before_effect(MEMO),
            false => Point::after_effect(MEMO),
        },
        nth: draw.between(1, 3) as u32,
        strike: *draw.pick(&strikes),
    };
    (0..2).map(strike).collect()
}
