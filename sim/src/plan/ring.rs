//! Runs that move nodes along a ring, in a third of the engine's seeds.

use serde::{Deserialize, Serialize};

use super::job::{Job, TimedJob, Work};
use super::settings::Settings;
use crate::draw::Draw;
use crate::workload::RING;

/// The input of a run that moves nodes along the ring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingInput {
    /// How many lanes the ring has.
    pub lanes: u32,
    /// The lane it takes from, which is nobody else's.
    pub lane: u32,
    /// The lanes it moves nodes to, one after the other.
    pub to: Vec<u32>,
    /// How long each is off the ring.
    pub pause_ms: u64,
}

/// One run a lane, at about the same time, so that they meet.
pub(super) fn draw_all(seed: u64, settings: &Settings) -> Vec<TimedJob> {
    let mut draw = Draw::of(seed, "ring");
    if !draw.chance(333) {
        return Vec::new();
    }
    let lanes = draw.between(2, 4) as u32;
    let begins_ms = draw.between(100, settings.faults_end_ms - 2_000);
    let mut jobs = Vec::new();
    for lane in 0..lanes {
        let draw = &mut Draw::of(seed, format_args!("ring {lane}"));
        let name = format!("ring-{lane}");
        let mut to = |_| draw.between(0, u64::from(lanes) - 1) as u32;
        let to = (0..3).map(&mut to).collect::<Vec<_>>();
        let moves = draw.between(1, 3) as usize;
        let input = RingInput {
            lanes,
            lane,
            to: to[..moves].to_vec(),
            pause_ms: *draw.pick(&[0, 50, 400]),
        };
        let start = Job::Start {
            name: name.clone(),
            work: Work::of(RING, &input),
            delay_ms: 0,
            priority: 5,
        };
        let mut push = |at_ms: u64, draw: &mut Draw, job| {
            let client = draw.between(1, u64::from(settings.clients)) as u32;
            jobs.push(TimedJob { at_ms, client, job });
        };
        let at_ms = begins_ms + draw.between(0, 500);
        push(at_ms, draw, start.clone());
        if draw.chance(250) {
            push(at_ms + draw.between(0, 1_000), draw, start);
        }
        if draw.chance(300) {
            let after = at_ms + draw.between(0, 2_000);
            push(after, draw, Job::Cancel { name: name.clone() });
        }
        if draw.chance(300) {
            push(at_ms + draw.between(0, 2_000), draw, Job::Wait { name });
        }
    }
    jobs
}
