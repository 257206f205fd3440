//! Errands: short runs in a queue of their own, of all priorities, some with tags, while an
//! operator pauses the queue and limits it, and looks at its gauges.

use stepwell::{QueueChange, RateLimit, millis};

use super::job::{ChainInput, Job, TimedJob, Work};
use super::settings::Settings;
use crate::draw::Draw;
use crate::workload::ERRAND;

/// Draws errands and what is done about their queue.
pub(super) fn draw_all(seed: u64, settings: &Settings, jobs: &mut Vec<TimedJob>) {
    let mut draw = Draw::of(seed, "errands");
    if !draw.chance(600) {
        return;
    }
    // They come in bursts, so that some wait.
    let ends_ms = settings.faults_end_ms - 1_000;
    let bursts: Vec<u64> = (0..draw.between(1, 3)).map(|_| draw.between(300, ends_ms)).collect();
    for n in 0..draw.between(8, 36) {
        let mut draw = Draw::of(seed, format_args!("errand {n}"));
        let at_ms = (*draw.pick(&bursts) + draw.between(0, 200)).min(ends_ms);
        let job = errand(n, &mut draw);
        push(jobs, &mut draw, settings, at_ms, job.clone());
        if draw.chance(100) {
            let again = at_ms + draw.between(0, 2_000);
            push(jobs, &mut draw, settings, again, job);
        }
        if draw.chance(80) {
            let name = format!("errand-{n}");
            let after = at_ms + draw.between(0, 2_000);
            push(jobs, &mut draw, settings, after, Job::Cancel { name });
        }
    }
    operate(seed, settings, jobs);
}

fn errand(n: u64, draw: &mut Draw) -> Job {
    let input = ChainInput {
        links: draw.between(1, 3) as u32,
        salt: draw.bits(),
        sleeps_every: 2,
        sleep_ms: draw.between(0, 800),
    };
    let tags = *draw.pick(&["", "", "", "red", "blue", "red blue"]);
    Job::Start {
        name: format!("errand-{n}"),
        work: Work::of(ERRAND, &input),
        delay_ms: if draw.chance(150) { draw.between(1, 1_500) } else { 0 },
        priority: *draw.pick(&[0, 0, 3, 5, 9, 9]),
        tags: tags.split_whitespace().map(str::to_owned).collect(),
    }
}

/// What an operator does about the queue.
fn operate(seed: u64, settings: &Settings, jobs: &mut Vec<TimedJob>) {
    let mut draw = Draw::of(seed, "operator");
    let begins_ms = draw.between(50, 600);
    let oldest_every = *draw.pick(&[None, Some(2), Some(3), Some(4), Some(0)]);
    let first = limits(&mut draw).oldest_every(oldest_every);
    push(jobs, &mut draw, settings, begins_ms, set(first));
    for n in 0..draw.between(0, 4) {
        let mut draw = Draw::of(seed, format_args!("operator {n}"));
        let at_ms = draw.between(600, settings.faults_end_ms);
        if draw.chance(500) {
            push(jobs, &mut draw, settings, at_ms, set(paused(true)));
            let after = at_ms + draw.between(200, 4_000);
            push(jobs, &mut draw, settings, after, set(paused(false)));
        } else {
            let change = limits(&mut draw);
            push(jobs, &mut draw, settings, at_ms, set(change));
        }
    }
    for n in 0..draw.between(1, 6) {
        let mut draw = Draw::of(seed, format_args!("gauges {n}"));
        let at_ms = draw.between(600, settings.faults_end_ms);
        push(jobs, &mut draw, settings, at_ms, Job::Gauges);
    }
}

fn limits(draw: &mut Draw) -> QueueChange {
    let rate = RateLimit::new(draw.between(1, 4) as u32, millis(*draw.pick(&[100, 250, 400])))
        .burst(draw.between(1, 4) as u32);
    QueueChange::default()
        .concurrency(*draw.pick(&[None, Some(0), Some(1), Some(1), Some(2), Some(3)]))
        .rate(draw.chance(500).then_some(rate))
}

fn paused(paused: bool) -> QueueChange {
    QueueChange::default().paused(paused)
}

fn set(change: QueueChange) -> Job {
    Job::SetQueue { queue: ERRAND.queue_name().to_owned(), change: change.create(true) }
}

fn push(jobs: &mut Vec<TimedJob>, draw: &mut Draw, settings: &Settings, at_ms: u64, job: Job) {
    let client = draw.between(1, u64::from(settings.clients)) as u32;
    jobs.push(TimedJob { at_ms, client, job });
}
