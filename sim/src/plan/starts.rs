//! Starts of other sorts: with unique keys, atomic ones, in batches, and items of a bulk handler.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use stepwell::Unique;

use super::job::{ChainInput, Job, TimedJob, Work};
use super::poison::PlannedAction;
use super::settings::Settings;
use crate::draw::Draw;
use crate::workload::{CHAIN, ITEM, ItemInput};

/// Until when a run holds its unique key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hold {
    /// Until it is leased for the first time.
    Queued,
    /// Until it ends.
    Running,
    /// For so many milliseconds.
    Ttl(u64),
}

impl Hold {
    pub(crate) fn scope(self) -> Unique {
        match self {
            Self::Queued => Unique::UntilStarted,
            Self::Running => Unique::UntilEnded,
            Self::Ttl(ms) => Unique::For(Duration::from_millis(ms)),
        }
    }
}

/// The drawn jobs of this sort. Each has a stream of its own.
pub(super) fn draw_all(seed: u64, settings: &Settings) -> Vec<TimedJob> {
    let mut jobs = Vec::new();
    let mut counts = Draw::of(seed, "starts");
    for key in 0..counts.between(0, 2) {
        let draw = &mut Draw::of(seed, format_args!("unique {key}"));
        draw_unique(key, draw, settings, &mut jobs);
    }
    let draw = &mut Draw::of(seed, "unique redrives");
    if draw.chance(300) {
        draw_unique_items(draw, settings, &mut jobs);
    }
    for call in 0..counts.between(0, 2) {
        let draw = &mut Draw::of(seed, format_args!("together {call}"));
        draw_atomic(call, draw, settings, &mut jobs);
    }
    if counts.chance(500) {
        draw_batch(seed, settings, &mut jobs);
    }
    if counts.chance(400) {
        draw_items(&mut Draw::of(seed, "items"), settings, &mut jobs);
    }
    jobs
}

fn at(draw: &mut Draw, settings: &Settings) -> u64 {
    draw.between(100, settings.faults_end_ms - 1_000)
}

fn client(draw: &mut Draw, settings: &Settings) -> u32 {
    draw.between(1, u64::from(settings.clients)) as u32
}

fn short_chain(draw: &mut Draw) -> ChainInput {
    ChainInput {
        links: draw.between(1, 3) as u32,
        salt: draw.bits(),
        sleeps_every: 2,
        sleep_ms: draw.between(0, 800),
    }
}

/// Several starts with one key, some of them at the same time.
fn draw_unique(key: u64, draw: &mut Draw, settings: &Settings, jobs: &mut Vec<TimedJob>) {
    let begin = at(draw, settings);
    let hold = *draw.pick(&[Hold::Queued, Hold::Running, Hold::Running, Hold::Ttl(0)]);
    for n in 0..draw.between(3, 8) {
        let hold = match hold {
            Hold::Ttl(_) => Hold::Ttl(draw.between(200, 4_000)),
            other => other,
        };
        let late = *draw.pick(&[0, 0, 500, 3_000, 6_000]);
        let job = Job::StartUnique {
            name: format!("unique-{key}-{n}"),
            key: format!("key-{key}"),
            hold,
            work: Work::of(CHAIN, &short_chain(draw)),
        };
        jobs.push(TimedJob {
            at_ms: begin + draw.between(0, late),
            client: client(draw, settings),
            job,
        });
    }
}

/// Starts with one key of which most fail for good, and are redriven while another has the key, or
/// nobody.
fn draw_unique_items(draw: &mut Draw, settings: &Settings, jobs: &mut Vec<TimedJob>) {
    let begin = at(draw, settings);
    let hold = *draw.pick(&[Hold::Queued, Hold::Running, Hold::Running, Hold::Ttl(3_000)]);
    for n in 0..draw.between(3, 8) {
        let input = ItemInput {
            value: draw.bits(),
            failures: draw.between(0, 4) as u32,
            doomed: draw.chance(700),
        };
        let cured = ItemInput { doomed: false, ..input.clone() };
        let cured = PlannedAction::Edit(Work::of(ITEM, &cured).input);
        let (name, work) = (format!("unique-item-{n}"), Work::of(ITEM, &input));
        let at_ms = begin + draw.between(0, 4_000);
        let acts = [PlannedAction::Redrive, PlannedAction::Redrive, cured];
        let start =
            Job::StartUnique { name: name.clone(), key: "key-of-items".to_owned(), hold, work };
        let mut push = |draw: &mut Draw, at_ms, job| {
            let client = client(draw, settings);
            jobs.push(TimedJob { at_ms, client, job });
        };
        push(draw, at_ms, start);
        let mut act_at = at_ms;
        for _ in 0..draw.between(0, 3) {
            act_at += draw.between(200, 2_500);
            let (name, act) = (name.clone(), draw.pick(&acts).clone());
            push(draw, act_at, Job::Act { name, act });
        }
    }
}

/// One call; sometimes one of its names is that of another run, now or soon.
fn draw_atomic(call: u64, draw: &mut Draw, settings: &Settings, jobs: &mut Vec<TimedJob>) {
    let mut runs: Vec<_> = (0..draw.between(2, 6))
        .map(|n| {
            let work = Work::of(CHAIN, &short_chain(draw));
            (format!("together-{call}-{n}"), work.input)
        })
        .collect();
    if draw.chance(400) {
        let place = draw.between(0, runs.len() as u64) as usize;
        let work = Work::of(CHAIN, &short_chain(draw));
        runs.insert(place, (format!("run-{}", draw.between(0, 7)), work.input));
    }
    let job = Job::AtomicStart { workflow: CHAIN.name().to_owned(), runs };
    jobs.push(TimedJob { at_ms: at(draw, settings), client: client(draw, settings), job });
}

/// A run of a batch: of a batch of items some fail for good.
fn draw_member(items: bool, draw: &mut Draw) -> Work {
    if !items {
        return Work::of(CHAIN, &short_chain(draw));
    }
    let input = ItemInput { value: draw.bits(), failures: 0, doomed: draw.chance(300) };
    Work::of(ITEM, &input)
}

/// A batch in one to three parts.
fn draw_batch(seed: u64, settings: &Settings, jobs: &mut Vec<TimedJob>) {
    let draw = &mut Draw::of(seed, "batch");
    let items = draw.chance(500);
    let mut parts = Vec::new();
    for part in 0..draw.between(1, 3) {
        let count = draw.between(0, 4);
        let one = |n| {
            let work = draw_member(items, draw);
            (format!("batch-{part}-{n}"), work.input)
        };
        parts.push((0..count).map(one).collect::<Vec<_>>());
    }
    let names: Vec<String> = parts.iter().flatten().map(|(name, _)| name.clone()).collect();
    let at_ms = at(draw, settings);
    let (owner, salt) = (client(draw, settings), draw.bits());
    if items {
        draw_redrives(seed, at_ms, settings, &mut parts, jobs);
    }
    jobs.push(TimedJob {
        at_ms,
        client: owner,
        job: Job::Batch {
            name: "batch".to_owned(),
            workflow: if items { ITEM.name() } else { CHAIN.name() }.to_owned(),
            parts,
            salt,
        },
    });
    let stops = &mut Draw::of(seed, "batch cancel");
    if stops.chance(250) {
        jobs.push(TimedJob {
            at_ms: at_ms + stops.between(0, 4_000),
            client: client(stops, settings),
            job: Job::CancelBatch { name: "batch".to_owned(), runs: names.clone() },
        });
    }
    for name in names {
        if draw.chance(150) {
            jobs.push(TimedJob {
                at_ms: at_ms + draw.between(0, 3_000),
                client: client(draw, settings),
                job: Job::Cancel { name },
            });
        }
    }
}

/// Of a batch of items some take longer, so that it is open still when others have died; and of
/// those that die many are redriven, with the same input or with one that is not doomed.
fn draw_redrives(
    seed: u64,
    at_ms: u64,
    settings: &Settings,
    parts: &mut [Vec<(String, Value)>],
    jobs: &mut Vec<TimedJob>,
) {
    let draw = &mut Draw::of(seed, "batch redrives");
    for (name, input) in parts.iter_mut().flatten() {
        let is_doomed = input["doomed"] == true;
        if !is_doomed && draw.chance(400) {
            input["failures"] = draw.between(1, 15).into();
        }
        if !draw.chance(if is_doomed { 800 } else { 100 }) {
            continue;
        }
        let mut cured = input.clone();
        cured["doomed"] = false.into();
        let mut act_at = at_ms;
        for _ in 0..draw.between(1, 4) {
            act_at += draw.between(100, 1_500);
            let act = match draw.between(0, 9) {
                0..=5 => PlannedAction::Redrive,
                6..=8 => PlannedAction::Edit(cured.clone()),
                _ => PlannedAction::Discard,
            };
            let name = name.clone();
            jobs.push(TimedJob {
                at_ms: act_at,
                client: client(draw, settings),
                job: Job::Act { name, act },
            });
        }
    }
}

/// Items that come together, some of which fail now and then, or for good.
fn draw_items(draw: &mut Draw, settings: &Settings, jobs: &mut Vec<TimedJob>) {
    let begin = at(draw, settings);
    for n in 0..draw.between(4, 10) {
        let input = ItemInput {
            value: draw.bits(),
            failures: if draw.chance(300) { 1 } else { 0 },
            doomed: draw.chance(100),
        };
        let job = Job::Start {
            name: format!("item-{n}"),
            work: Work::of(ITEM, &input),
            delay_ms: 0,
            priority: 5,
            tags: Vec::new(),
        };
        jobs.push(TimedJob {
            at_ms: begin + draw.between(0, 400),
            client: client(draw, settings),
            job,
        });
    }
}
