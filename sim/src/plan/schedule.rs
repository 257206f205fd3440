//! Schedules that clients set, pause, change, fill and remove, in a share of the worlds.

use serde::{Deserialize, Serialize};
use stepwell::Overlap;

use super::job::{ChainInput, Job, TimedJob, Work};
use super::settings::{Settings, zone_that_changes};
use crate::draw::Draw;
use crate::workload::CHAIN;

const HOUR_MS: u64 = 3_600_000;
/// The zones: none, and three that put their clocks forward and back on days of their own, one by
/// half an hour.
pub(crate) const ZONES: [&str; 4] =
    ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"];

/// A schedule as a plan has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scheduled {
    /// Its name.
    pub name: String,
    /// What its runs do.
    pub work: Work,
    /// A cron expression, if it has one.
    pub cron: Option<String>,
    /// Its zone.
    pub zone: String,
    /// An interval in milliseconds, if it has none.
    pub every_ms: u64,
    /// How far occurrences are put off.
    pub jitter_ms: u64,
    /// The word for its overlap policy.
    pub overlap: String,
    /// Its catch-up window.
    pub catch_up_ms: u64,
}

/// How often the schedules of a world fire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    Seconds,
    Quarters,
    Days,
}

pub(super) fn draw_all(seed: u64, settings: &Settings) -> Vec<TimedJob> {
    let mut world = Draw::of(seed, "schedules");
    if !world.chance(350) {
        return Vec::new();
    }
    let pace = match settings.skips_time {
        true => *world.pick(&[Pace::Quarters, Pace::Days, Pace::Days]),
        false => Pace::Seconds,
    };
    let mut jobs = Vec::new();
    for number in 0..world.between(1, 4) {
        let mut draw = Draw::of(seed, format_args!("schedule {number}"));
        draw_one(number, pace, &mut draw, settings, &mut jobs);
    }
    jobs
}

/// All that happens to one schedule.
fn draw_one(
    number: u64,
    pace: Pace,
    draw: &mut Draw,
    settings: &Settings,
    jobs: &mut Vec<TimedJob>,
) {
    let name = format!("schedule-{number}");
    let at_ms = draw.between(100, 3_000);
    let latest = settings.faults_end_ms - 500;
    let mut push = |at_ms: u64, draw: &mut Draw, job| {
        let client = draw.between(1, u64::from(settings.clients)) as u32;
        let at_ms = at_ms.min(latest);
        jobs.push(TimedJob { at_ms, client, job });
    };
    let changing = zone_that_changes(settings.epoch_ms);
    let first = draw_spec(&name, (pace, changing), draw);
    push(at_ms, draw, Job::SetSchedule(Box::new(first.clone())));
    if draw.chance(300) {
        let mut other = draw_spec(&name, (pace, changing), draw);
        other.work = first.work.clone();
        let after = at_ms + draw.between(500, 6_000);
        push(after, draw, Job::SetSchedule(Box::new(other)));
    }
    if draw.chance(400) {
        let after = at_ms + draw.between(500, 6_000);
        push(after, draw, Job::PauseSchedule { name: name.clone() });
        if draw.chance(800) {
            let again = after + draw.between(500, 4_000);
            push(again, draw, Job::ResumeSchedule { name: name.clone() });
        }
    }
    if draw.chance(400) {
        let back_ms = match pace {
            Pace::Seconds => draw.between(1_000, 40_000),
            Pace::Quarters => draw.between(HOUR_MS, 12 * HOUR_MS),
            Pace::Days => draw.between(24 * HOUR_MS, 120 * HOUR_MS),
        };
        let after = at_ms + draw.between(500, 8_000);
        let name = name.clone();
        push(after, draw, Job::Backfill { name, back_ms });
    }
    if draw.chance(150) {
        let after = at_ms + draw.between(2_000, 8_000);
        push(after, draw, Job::RemoveSchedule { name });
    }
}

fn draw_spec(name: &str, (pace, changing): (Pace, Option<&str>), draw: &mut Draw) -> Scheduled {
    let (crons, every_ms): (&[&str], u64) = match pace {
        Pace::Seconds => (&["*/2 * * * * *", "*/3 * * * * *"], draw.between(1_000, 4_000)),
        Pace::Quarters => (&["*/15 * * * *", "*/20 * * * *", "7 * * * *"], 900_000),
        Pace::Days => (
            // Most of them at wall times that are skipped or repeated on some day.
            &["0 6 * * *", "30 2 * * *", "10 2 * * *", "45 1 * * *"],
            24 * HOUR_MS,
        ),
    };
    let cron = draw.chance(750).then(|| (*draw.pick(crons)).to_owned());
    let short = match pace {
        Pace::Seconds => 1_000,
        Pace::Quarters => 120_000,
        Pace::Days => HOUR_MS,
    };
    let input = ChainInput {
        links: draw.between(1, 4) as u32,
        salt: draw.bits(),
        sleeps_every: 2,
        sleep_ms: *draw.pick(&[0, 100, short, 2 * short]),
    };
    let zone = match changing.filter(|_| draw.chance(700)) {
        Some(zone) => zone,
        None => draw.pick(&ZONES),
    };
    Scheduled {
        name: name.to_owned(),
        work: Work::of(CHAIN, &input),
        cron,
        zone: zone.to_owned(),
        every_ms,
        jitter_ms: *draw.pick(&[0, 0, short]),
        overlap: draw.pick(&Overlap::ALL).as_str().to_owned(),
        catch_up_ms: *draw.pick(&[HOUR_MS, HOUR_MS, 10_000, 24 * HOUR_MS]),
    }
}
