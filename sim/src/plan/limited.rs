//! Runs whose step fails, waits, hangs and cleans up as planned, attempt by attempt.

use serde::{Deserialize, Serialize};
use stepwell::Retry;

use super::job::{Job, TimedJob, Work};
use super::settings::Settings;
use crate::draw::Draw;
use crate::workload::LIMITED;

/// More attempts than the world can spoil, and pauses of workers besides.
const RETRIES: u32 = 14;

/// What one attempt does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Behavior {
    /// Fails at once.
    Fails,
    /// Is told to come back later.
    ComesLater {
        /// After how many milliseconds.
        after_ms: u64,
    },
    /// Waits for ever and does not listen.
    Hangs,
    /// Waits for ever, until its soft timeout passes; then cleans up.
    CleansUp {
        /// For so many milliseconds.
        takes_ms: u64,
    },
}

/// The input of a run with planned attempts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limited {
    /// What the first attempts do. The next one calls the outside world.
    pub deeds: Vec<Behavior>,
    /// Whether no retry is left after the last of them.
    pub dies: bool,
    /// The step's soft timeout, in milliseconds.
    pub soft_ms: u64,
    /// Its timeout, in milliseconds.
    pub hard_ms: u64,
    /// Its policy.
    pub retry: Retry,
}

impl Limited {
    fn draw(draw: &mut Draw) -> Self {
        let hard_ms = draw.between(900, 1_500);
        let soft_ms = draw.between(150, hard_ms - 400);
        let deeds: Vec<Behavior> =
            (0..draw.between(1, 4)).map(|_| draw_deed(draw, hard_ms - soft_ms)).collect();
        let counted = deeds.iter().filter(|deed| deed.counts()).count() as u32;
        let dies = deeds.last().is_some_and(|deed| deed.counts()) && draw.chance(250);
        let retry = Retry {
            backoff_min_ms: draw.between(20, 400),
            backoff_max_ms: 1_500,
            factor_percent: *draw.pick(&[100, 150, 200]),
            jitter_percent: *draw.pick(&[0, 20, 100]),
            retries: if dies { counted - 1 } else { RETRIES },
            ..Retry::default()
        };
        Self { deeds, dies, soft_ms, hard_ms, retry }
    }
}

impl Behavior {
    /// Whether it uses up a retry.
    pub fn counts(self) -> bool {
        !matches!(self, Self::ComesLater { .. })
    }
}

fn draw_deed(draw: &mut Draw, left_ms: u64) -> Behavior {
    match draw.between(0, 3) {
        0 => Behavior::Fails,
        1 => Behavior::ComesLater { after_ms: draw.between(1, 2_500) },
        2 => Behavior::Hangs,
        _ => Behavior::CleansUp { takes_ms: draw.between(1, left_ms / 3) },
    }
}

/// Starts a few, and waits for some of them.
pub(super) fn draw_all(seed: u64, settings: &Settings, jobs: &mut Vec<TimedJob>) {
    for run in 0..Draw::of(seed, "limited runs").between(0, 4) {
        let draw = &mut Draw::of(seed, format_args!("limited {run}"));
        let name = format!("limited-{run}");
        let at_ms = draw.between(100, settings.faults_end_ms - 1_000);
        let client = draw.between(1, u64::from(settings.clients)) as u32;
        let work = Work::of(LIMITED, &Limited::draw(draw));
        let start = Job::Start {
            name: name.clone(),
            work,
            delay_ms: 0,
            priority: draw.between(4, 6) as u8,
            tags: Vec::new(),
        };
        jobs.push(TimedJob { at_ms, client, job: start });
        if draw.chance(300) {
            jobs.push(TimedJob {
                at_ms: at_ms + draw.between(0, 4_000),
                client: draw.between(1, u64::from(settings.clients)) as u32,
                job: Job::Wait { name },
            });
        }
    }
}
