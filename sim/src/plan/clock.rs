//! How far the hosts' clocks are off.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::draw::Draw;

/// The largest error of a wall clock's rate, in parts of a million.
const WALL_PPM_MAX: u64 = 200_000;
/// The largest error of a monotonic clock's rate, in parts of a million.
const MONO_PPM_MAX: u64 = 10_000;
/// A wall clock is behind at the beginning by this much at most.
const BEHIND_MAX_MS: u64 = 60_000;
/// A wall clock is ahead at the beginning by this much at most.
const AHEAD_MAX_MS: u64 = 3 * 3_600_000;

/// What is wrong with a host's clocks, all the time. Jumps are faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClockError {
    /// How far the wall clock is ahead (or behind) when the simulation begins, in milliseconds.
    pub offset_ms: i64,
    /// How much too fast (or too slow) the wall clock is, in parts of a million.
    pub wall_ppm: i64,
    /// How much too fast (or too slow) monotonic time is, in parts of a million.
    pub mono_ppm: i64,
}

/// Draws the errors of all hosts; those that are not named are right.
pub(super) fn draw_all(seed: u64, hosts: &[String]) -> BTreeMap<String, ClockError> {
    let mut world = Draw::of(seed, "clocks");
    let (wrong, drift) = (*world.pick(&[0, 0, 300, 1_000]), world.chance(500));
    hosts
        .iter()
        .filter_map(|host| {
            let mut draw = Draw::of(seed, format_args!("clocks of {host}"));
            draw.chance(wrong).then(|| (host.clone(), draw_one(&mut draw, drift)))
        })
        .collect()
}

fn draw_one(draw: &mut Draw, drift: bool) -> ClockError {
    let offset_ms = match draw.between(0, 4) {
        0 => 0,
        1 => draw.between(0, 1_000) as i64,
        2 => -(draw.between(0, BEHIND_MAX_MS) as i64),
        3 => draw.between(0, 60_000) as i64,
        _ => draw.between(0, AHEAD_MAX_MS) as i64,
    };
    let wall_max = *draw.pick(&[0, 200, 20_000, WALL_PPM_MAX]);
    let mono_max = *draw.pick(&[0, 200, MONO_PPM_MAX]);
    let mut rate = |max: u64| draw.between(0, 2 * max) as i64 - max as i64;
    let (wall_ppm, mono_ppm) = (rate(wall_max), rate(mono_max));
    ClockError {
        offset_ms,
        wall_ppm: if drift { wall_ppm } else { 0 },
        mono_ppm: if drift { mono_ppm } else { 0 },
    }
}
