//! Runs that die, and what operators do about them. Drawn from streams of their own.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::job::{Job, TimedJob, Work};
use super::script::{Point, Scripted, Strike};
use super::settings::Settings;
use crate::draw::Draw;
use crate::workload::{KILL, ORPHAN, POISON};

/// What is wrong with a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ill {
    /// A step fails for good.
    Terminal,
    /// A step fails until its retries are used up.
    Retries,
    /// Its own code fails, after all its steps.
    Own,
    /// A step fails for good, and the function undoes what it did before.
    Compensates,
    /// A step in which the script kills workers.
    Killer,
}

/// The input of a run that dies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Poison {
    /// Told by the result: which input the function had.
    pub salt: u64,
    /// Steps before the one that counts.
    pub before: u32,
    /// What is wrong with it.
    pub ill: Ill,
    /// From this simulated millisecond on the step works.
    pub heals_at_ms: u64,
    /// Nothing is wrong with it any more.
    pub cured: bool,
}

/// What an operator does with a dead letter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum PlannedAction {
    /// Sends it back to work.
    Redrive,
    /// Gives it another input, as JSON.
    Edit(Value),
    /// Takes it off the list.
    Discard,
}

/// The jobs of this part.
pub(super) fn draw_all(seed: u64, settings: &Settings) -> Vec<TimedJob> {
    let runs = *Draw::of(seed, "poisons").pick(&[0, 1, 2, 4]);
    let mut jobs = Vec::new();
    for run in 0..runs {
        let draw = &mut Draw::of(seed, format_args!("poison {run}"));
        draw_run(run, draw, settings, &mut jobs);
    }
    // Now and then a run that may be anything is taken for a dead letter.
    let draw = &mut Draw::of(seed, "acts");
    for _ in 0..draw.between(0, 3) {
        let name = format!("run-{}", draw.between(0, 12));
        let at_ms = draw.between(1_000, settings.faults_end_ms + 2_000);
        let act = if draw.chance(800) { PlannedAction::Redrive } else { PlannedAction::Discard };
        push(&mut jobs, draw, settings, at_ms, Job::Act { name, act });
    }
    jobs
}

fn push(jobs: &mut Vec<TimedJob>, draw: &mut Draw, settings: &Settings, at_ms: u64, job: Job) {
    let client = draw.between(1, u64::from(settings.clients)) as u32;
    jobs.push(TimedJob { at_ms, client, job });
}

fn draw_poison(draw: &mut Draw, settings: &Settings) -> Poison {
    let ills = [
        Ill::Terminal,
        Ill::Terminal,
        Ill::Retries,
        Ill::Retries,
        Ill::Own,
        Ill::Compensates,
        Ill::Killer,
    ];
    Poison {
        salt: draw.bits(),
        before: draw.between(0, 2) as u32,
        ill: *draw.pick(&ills),
        heals_at_ms: draw.between(2_000, settings.faults_end_ms + 3_000),
        cured: false,
    }
}

fn draw_run(run: u64, draw: &mut Draw, settings: &Settings, jobs: &mut Vec<TimedJob>) {
    let name = format!("poison-{run}");
    let at_ms = draw.between(100, settings.faults_end_ms - 2_000);
    let poison = draw_poison(draw, settings);
    let cured = Poison { salt: draw.bits(), cured: true, ..poison.clone() };
    let (work, other) = match draw.between(0, 9) {
        0 => {
            let rubbish = json!({ "salt": "none", "of": draw.bits() });
            let workflow = POISON.name().to_owned();
            let input = rubbish;
            (Work { workflow, input }, Work::of(POISON, &cured).input)
        }
        1 | 2 => (Work::of(ORPHAN, &draw.bits()), json!(draw.bits())),
        _ => {
            let work = Work::of(POISON, &poison);
            (work, Work::of(POISON, &cured).input)
        }
    };
    let start = Job::Start {
        name: name.clone(),
        work,
        delay_ms: 0,
        priority: draw.between(4, 6) as u8,
        tags: Vec::new(),
    };
    push(jobs, draw, settings, at_ms, start);
    let mut act_at = at_ms;
    for _ in 0..draw.between(0, 4) {
        act_at += draw.between(300, 4_000);
        let act = match draw.between(0, 9) {
            0..=5 => PlannedAction::Redrive,
            6..=8 => PlannedAction::Edit(other.clone()),
            _ => PlannedAction::Discard,
        };
        let name = name.clone();
        push(jobs, draw, settings, act_at, Job::Act { name, act });
    }
    if draw.chance(300) {
        let after = at_ms + draw.between(500, 8_000);
        push(jobs, draw, settings, after, Job::Wait { name: name.clone() });
    }
    if draw.chance(200) {
        let after = at_ms + draw.between(500, 8_000);
        push(jobs, draw, settings, after, Job::Ask { name: name.clone() });
    }
    if draw.chance(100) {
        let after = at_ms + draw.between(500, 8_000);
        push(jobs, draw, settings, after, Job::Cancel { name });
    }
}

/// Workers that killers kill: some of them so many in a row that the run is a dead letter.
pub(super) fn draw_kills(seed: u64, jobs: &[TimedJob]) -> Vec<Scripted> {
    let kills = |timed: &TimedJob| match &timed.job {
        Job::Start { work, .. } => work.input["ill"] == json!(Ill::Killer),
        _ => false,
    };
    if !jobs.iter().any(kills) {
        return Vec::new();
    }
    let strike =
        |nth| Scripted { point: Point::before_effect(KILL), nth, strike: Strike::KillWorker };
    let count = *Draw::of(seed, "kills").pick(&[1, 3, 3, 4]);
    (1..=count).map(strike).collect()
}
