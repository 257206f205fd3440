//! How the world of a seed is made.

use serde::{Deserialize, Serialize};

use super::fault::FaultKind;
use crate::draw::Draw;

/// How many workers there are.
pub(crate) const WORKERS: u32 = 3;
/// How many clients there are.
pub(crate) const CLIENTS: u32 = 2;
/// The length of a day, in milliseconds.
const DAY_MS: u64 = 86_400_000;
/// Midnight of 2026-03-01, in milliseconds since 1970.
const MIDNIGHT_MS: u64 = 20_513 * DAY_MS;

/// How the world is made. Times are in milliseconds, rates in parts of a thousand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The grain of simulated time.
    pub tick_ms: u64,
    /// What the wall clocks say when the simulation begins.
    pub epoch_ms: u64,
    /// The longest a message takes.
    pub latency_max_ms: u64,
    /// The engine's heartbeats.
    pub heartbeat_ms: u64,
    /// The engine's session time-out.
    pub session_timeout_ms: u64,
    /// The engine's grace for broken connections.
    pub disconnect_grace_ms: u64,
    /// How long a sync of the disk takes.
    pub sync_ms: u64,
    /// Slots of each worker.
    pub slots: u32,
    /// Frames sent twice.
    pub duplicates_per_mille: u64,
    /// Frames sent again up to three seconds later, over whatever connection there is then.
    pub late_copies_per_mille: u64,
    /// Writes that arrive in pieces.
    pub splits_per_mille: u64,
    /// Calls to the outside world that fail before their effect.
    pub failures_per_mille: u64,
    /// Calls whose effect happens and whose answer is lost.
    pub lost_replies_per_mille: u64,
    /// Calls that never end.
    pub hangs_per_mille: u64,
    /// Calls in which the step's code panics.
    pub panics_per_mille: u64,
    /// How far the server's wall clock is ahead of the others.
    pub server_ahead_ms: u64,
    /// The phase of faults ends then.
    pub faults_end_ms: u64,
    /// After it, all runs end within this time.
    pub heal_max_ms: u64,
    /// The kinds of faults that occur.
    pub kinds: Vec<FaultKind>,
    /// What the server's store lies on.
    #[serde(default)]
    pub disk: Disk,
}

/// What a server's store lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Disk {
    /// The simulated disk, with all its faults.
    #[default]
    Simulated,
    /// The production store, in a temporary directory of this machine. Kills and power cuts are real: what was written
    /// stays, what was not synced is cut somewhere. Syncs do not fail there and there is always room. Power cuts need Linux:
    /// where to cut is read from `/proc`.
    Fjall,
}

impl Settings {
    pub(super) fn draw(draw: &mut Draw) -> Self {
        let heartbeat_ms = draw.between(100, 300);
        // A fifth of the worlds see a midnight, where journals of new runs go into another generation.
        let before_midnight = if draw.chance(200) {
            draw.between(1_000, 10_000)
        } else {
            DAY_MS / 2
        };
        Self {
            tick_ms: draw.between(2, 5),
            epoch_ms: MIDNIGHT_MS - before_midnight,
            latency_max_ms: *draw.pick(&[2, 10, 30, 80]),
            heartbeat_ms,
            session_timeout_ms: heartbeat_ms * draw.between(4, 8),
            disconnect_grace_ms: draw.between(0, 400),
            sync_ms: *draw.pick(&[0, 1, 5, 20]),
            slots: draw.between(1, 8) as u32,
            duplicates_per_mille: *draw.pick(&[0, 20, 100, 300]),
            late_copies_per_mille: *draw.pick(&[0, 20, 100, 400]),
            splits_per_mille: *draw.pick(&[0, 50, 300]),
            failures_per_mille: *draw.pick(&[0, 50, 200]),
            lost_replies_per_mille: *draw.pick(&[0, 50, 200]),
            hangs_per_mille: *draw.pick(&[0, 0, 30]),
            panics_per_mille: *draw.pick(&[0, 20, 100]),
            server_ahead_ms: *draw.pick(&[0, 0, 700, 30_000]),
            faults_end_ms: draw.between(8_000, 14_000),
            heal_max_ms: 60_000,
            kinds: FaultKind::ALL
                .into_iter()
                .filter(|_| draw.chance(500))
                .collect(),
            disk: Disk::Simulated,
        }
    }
}
