//! How the world of a seed is made.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::clock::{self, ClockError};
use super::fault::FaultKind;
use crate::draw::Draw;

/// The length of a day, in milliseconds.
const DAY_MS: u64 = 86_400_000;
/// 2026-03-01, in days since 1970.
const FIRST_DAY: u64 = 20_513;
/// Days on which a zone of the plans puts its clocks forward or back: 8 and 29 March, 5 April, 4
/// and 25 October and 1 November 2026. Those that skip wall times are there twice.
const CHANGES: [(u64, &str); 9] = [
    (20_520, "America/New_York"),
    (20_520, "America/New_York"),
    (20_541, "Europe/Berlin"),
    (20_541, "Europe/Berlin"),
    (20_548, "Australia/Lord_Howe"),
    (20_730, "Australia/Lord_Howe"),
    (20_730, "Australia/Lord_Howe"),
    (20_751, "Europe/Berlin"),
    (20_758, "America/New_York"),
];

/// Grains of simulated time. A simulated second costs 200 ticks on average: what a tick costs does
/// not depend on its length.
const TICKS_MS: [u64; 18] = [2, 3, 4, 4, 5, 5, 5, 5, 5, 5, 5, 7, 7, 7, 7, 10, 10, 10];

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
    /// The engine's session timeout.
    pub session_timeout_ms: u64,
    /// The engine's grace for broken connections.
    pub disconnect_grace_ms: u64,
    /// How long a sync of the disk takes.
    pub sync_ms: u64,
    /// How many workers there are: `worker-1` and so on.
    pub workers: u32,
    /// How many clients there are: `client-1` and so on.
    pub clients: u32,
    /// Slots of each worker.
    pub slots: u32,
    /// Frames sent twice.
    pub duplicates_per_mille: u64,
    /// Frames sent again up to three seconds later, over whatever connection there is then.
    pub late_copies_per_mille: u64,
    /// Frames sent again hours later, by the wall clocks; there must be time to skip for that to
    /// happen.
    pub very_late_copies_per_mille: u64,
    /// Answers of the server that never leave: its connection is cut when they are due, after the
    /// commit.
    pub cut_replies_per_mille: u64,
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
    /// What is wrong with the clocks of which hosts.
    pub clocks: BTreeMap<String, ClockError>,
    /// Whether all wall clocks are put forward while every run waits for a timer that is far away.
    /// The times of a plan do not count what is skipped.
    pub skips_time: bool,
    /// Waits that take hours, days or longer, if time is skipped.
    pub long_waits_per_mille: u64,
    /// The phase of faults ends then.
    pub faults_end_ms: u64,
    /// After it, all runs end within this time, not counting what is skipped.
    pub heal_max_ms: u64,
    /// The fewest and the most faults.
    pub faults: (u64, u64),
    /// The kinds of faults that occur.
    pub kinds: Vec<FaultKind>,
    /// What the server's store lies on.
    #[serde(default)]
    pub disk: Disk,
    /// After so long a run dies whose workflow nobody knows; by the engine's own setting if it is
    /// 0.
    #[serde(default)]
    #[serde(rename = "unknown_after_ms")]
    pub unregistered_after_ms: u64,
}

/// What a server's store lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Disk {
    /// The simulated disk, with all its faults.
    #[default]
    Simulated,
    /// The production store, in a temporary directory of this machine. Kills and power cuts are
    /// real: what was written stays, what was not synced is cut somewhere. Syncs do not fail there
    /// and there is always room. Power cuts need Linux: where to cut is read from `/proc`.
    Fjall,
}

impl Settings {
    /// The names of all hosts, the server's first.
    pub(crate) fn hosts(&self) -> Vec<String> {
        hosts(self.workers, self.clients)
    }

    /// The tags that a worker offers. Each is offered by some worker.
    pub(crate) fn tags_of(&self, worker: &str) -> Vec<&'static str> {
        let is = |number: u32| worker == format!("worker-{number}");
        let (red, blue) = (is(1), is(self.workers));
        let both = self.workers > 1 && is(2);
        let offered = [("red", red || both), ("blue", blue || both)];
        let offered = offered.into_iter().filter(|(_, offers)| *offers);
        offered.map(|(tag, _)| tag).collect()
    }

    pub(super) fn draw(seed: u64) -> Self {
        let draw = &mut Draw::of(seed, "settings");
        let (workers, clients) = {
            let mut draw = Draw::of(seed, "hosts");
            let workers = *draw.pick(&[1, 2, 3, 3, 3, 4, 5]);
            (workers, *draw.pick(&[1, 2, 2, 3]))
        };
        let mut skipping = Draw::of(seed, "skipping");
        let skips_time = skipping.chance(500);
        let long_waits_per_mille = *skipping.pick(&[100, 300, 700]);
        let very_late_copies_per_mille = *skipping.pick(&[0, 100, 500]);
        let heartbeat_ms = draw.between(100, 300);
        // A fifth of the worlds see a midnight, where journals of new runs go into another
        // generation.
        let before_midnight =
            if draw.chance(200) { draw.between(1_000, 10_000) } else { DAY_MS / 2 };
        let mut settings = Self {
            tick_ms: *Draw::of(seed, "tick").pick(&TICKS_MS),
            epoch_ms: draw_day(seed) * DAY_MS - before_midnight,
            latency_max_ms: *draw.pick(&[2, 10, 30, 80]),
            heartbeat_ms,
            session_timeout_ms: heartbeat_ms * draw.between(4, 8),
            disconnect_grace_ms: draw.between(0, 400),
            sync_ms: *draw.pick(&[0, 1, 5, 20]),
            workers,
            clients,
            slots: draw.between(1, 8) as u32,
            duplicates_per_mille: *draw.pick(&[0, 20, 100, 300]),
            late_copies_per_mille: *draw.pick(&[0, 20, 100, 400]),
            very_late_copies_per_mille,
            cut_replies_per_mille: *Draw::of(seed, "cut replies").pick(&[0, 0, 5, 30]),
            splits_per_mille: *draw.pick(&[0, 50, 300]),
            failures_per_mille: *draw.pick(&[0, 50, 200]),
            lost_replies_per_mille: *draw.pick(&[0, 50, 200]),
            hangs_per_mille: *draw.pick(&[0, 0, 30]),
            panics_per_mille: *draw.pick(&[0, 20, 100]),
            clocks: clock::draw_all(seed, &hosts(workers, clients)),
            skips_time,
            long_waits_per_mille,
            faults_end_ms: draw.between(7_000, 13_000),
            heal_max_ms: 0,
            faults: *Draw::of(seed, "weather").pick(&[(0, 3), (2, 14), (2, 14), (10, 30)]),
            kinds: FaultKind::ALL.into_iter().filter(|_| draw.chance(500)).collect(),
            disk: Disk::Simulated,
            unregistered_after_ms: Draw::of(seed, "unknown").between(1_000, 8_000),
        };
        settings.heal_max_ms = heal_max_ms(settings.workers * settings.slots, skips_time);
        settings
    }
}

/// The day at whose midnight, or in the twelve hours before it, the world begins.
fn draw_day(seed: u64) -> u64 {
    let mut draw = Draw::of(seed, "day");
    match draw.chance(400) {
        true => draw.pick(&CHANGES).0,
        false => FIRST_DAY,
    }
}

/// The zone whose clocks are changed on the day after the world begins.
pub(super) fn zone_that_changes(epoch_ms: u64) -> Option<&'static str> {
    let day = epoch_ms.div_ceil(DAY_MS);
    let change = CHANGES.iter().find(|(changes, _)| *changes == day);
    change.map(|(_, zone)| *zone)
}

/// How long all runs may take to end. Of 38 runs of 12 steps, through one slot, over a slow
/// network, with retries, each step takes half a second.
fn heal_max_ms(slots: u32, skips_time: bool) -> u64 {
    match slots {
        1..=2 => 300_000,
        _ if skips_time => 180_000,
        _ => 60_000,
    }
}

/// The names of all hosts.
fn hosts(workers: u32, clients: u32) -> Vec<String> {
    let workers = (1..=workers).map(|number| format!("worker-{number}"));
    let clients = (1..=clients).map(|number| format!("client-{number}"));
    let server = std::iter::once("server".to_owned());
    server.chain(workers).chain(clients).collect()
}
