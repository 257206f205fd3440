//! What clients do.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use stepwell::{QueueChange, Workflow};

use super::poison::PlannedAction;
use super::schedule::Scheduled;
use super::settings::Settings;
use super::starts::Hold;
use crate::draw::Draw;
use crate::workload::{CHAIN, CHECKOUT, SOLO};

/// The input of a chain of steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainInput {
    /// How many steps.
    pub links: u32,
    /// The value before the first.
    pub salt: u64,
    /// Sleeps after every so many steps.
    pub sleeps_every: u32,
    /// How long.
    pub sleep_ms: u64,
}

/// The input of a checkout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// What is charged.
    pub cents: u64,
    /// Whether the card is declined, for good.
    pub declined: bool,
    /// How long the order waits before it is shipped.
    pub wait_ms: u64,
    /// How long an answer of the customer is waited for.
    pub patience_ms: u64,
    /// How many mails are sent at once.
    pub mails: u32,
}

/// The input of a workflow without steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Solo {
    /// Attempts that fail before one succeeds.
    pub failures: u32,
    /// What it answers.
    pub answer: u64,
    /// So much text goes in and comes out.
    pub pad: String,
}

/// What a run does: its workflow, and the input as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// The workflow's name.
    pub workflow: String,
    /// Its input.
    pub input: Value,
}

impl Work {
    /// `workflow` with this input.
    ///
    /// Panics if the input cannot be written as JSON.
    pub fn of<In: Serialize, Out>(workflow: Workflow<In, Out>, input: &In) -> Self {
        let name = workflow.name();
        let input = serde_json::to_value(input)
            .unwrap_or_else(|e| panic!("an input of `{name}` is not JSON: {e}"));
        Self { workflow: name.to_owned(), input }
    }
}

/// What a client does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Job {
    /// Starts a run, again and again until it is answered.
    Start {
        /// The run's name.
        name: String,
        /// What it does.
        work: Work,
        /// Not before so many milliseconds.
        delay_ms: u64,
        /// 0 to 9.
        priority: u8,
        /// What its workers must offer.
        #[serde(default)]
        tags: Vec<String>,
    },
    /// Starts several runs in one call, again and again until it is answered.
    StartMany {
        /// Their workflow.
        workflow: String,
        /// Their names and inputs.
        runs: Vec<(String, Value)>,
    },
    /// Starts a run with a unique key, again and again until it is answered.
    StartUnique {
        /// The run's name, if it is this one that begins.
        name: String,
        /// The key.
        key: String,
        /// Until when it is held.
        hold: Hold,
        /// What it does.
        work: Work,
    },
    /// Starts all of several runs in one call, or none, again and again until it is answered.
    #[serde(rename = "StartTogether")]
    AtomicStart {
        /// Their workflow.
        workflow: String,
        /// Their names and inputs.
        runs: Vec<(String, Value)>,
    },
    /// Adds runs to a batch, part by part, each again and again until it is answered, and seals it
    /// with the last.
    Batch {
        /// The batch's name.
        name: String,
        /// The workflow of its runs.
        workflow: String,
        /// The names and inputs of each part.
        parts: Vec<Vec<(String, Value)>>,
        /// What the run gets that follows.
        salt: u64,
    },
    /// Asks a run to stop, once.
    Cancel {
        /// The run's name.
        name: String,
    },
    /// Asks all runs of a batch to stop, once.
    CancelBatch {
        /// The batch's name.
        name: String,
        /// The names of those that it may have.
        runs: Vec<String>,
    },
    /// Waits for a run's outcome.
    Wait {
        /// The run's name.
        name: String,
    },
    /// Asks where a run is, once.
    Ask {
        /// The run's name.
        name: String,
    },
    /// Sets something on a queue, once.
    SetQueue {
        /// The queue's name.
        queue: String,
        /// What.
        change: QueueChange,
    },
    /// Asks how the queues are, once.
    Gauges,
    /// Does something with a dead letter, again and again until it is answered.
    Act {
        /// The run's name.
        name: String,
        /// What.
        act: PlannedAction,
    },
    /// Sets a schedule, again and again until it is answered.
    SetSchedule(Box<Scheduled>),
    /// Pauses a schedule, once.
    PauseSchedule {
        /// The schedule's name.
        name: String,
    },
    /// Lets a paused schedule go on, once.
    ResumeSchedule {
        /// The schedule's name.
        name: String,
    },
    /// Removes a schedule, once.
    RemoveSchedule {
        /// The schedule's name.
        name: String,
    },
    /// Starts a schedule's occurrences up to now, page by page.
    Backfill {
        /// The schedule's name.
        name: String,
        /// From so long ago.
        back_ms: u64,
    },
}

impl Job {
    /// What it is in a word, and the names of the runs it is about.
    pub(crate) fn brief(&self) -> (&'static str, Vec<String>) {
        match self {
            Self::Start { name, .. } => ("start", vec![name.clone()]),
            Self::StartMany { runs, .. } => {
                ("start many", runs.iter().map(|(name, _)| name.clone()).collect())
            }
            Self::StartUnique { name, .. } => ("start unique", vec![name.clone()]),
            Self::AtomicStart { runs, .. } => {
                ("atomic start", runs.iter().map(|(name, _)| name.clone()).collect())
            }
            Self::Batch { parts, .. } => {
                ("batch", parts.iter().flatten().map(|(name, _)| name.clone()).collect())
            }
            Self::Cancel { name } => ("cancel", vec![name.clone()]),
            Self::CancelBatch { runs, .. } => ("cancel batch", runs.clone()),
            Self::Wait { name } => ("wait", vec![name.clone()]),
            Self::Ask { name } => ("ask", vec![name.clone()]),
            Self::SetQueue { .. } => ("set queue", Vec::new()),
            Self::Gauges => ("gauges", Vec::new()),
            Self::Act { name, act } => {
                let what = match act {
                    PlannedAction::Redrive => "redrive",
                    PlannedAction::Edit(_) => "edit",
                    PlannedAction::Discard => "discard",
                };
                (what, vec![name.clone()])
            }
            Self::SetSchedule(schedule) => ("set schedule", vec![schedule.name.clone()]),
            Self::PauseSchedule { name } => ("pause schedule", vec![name.clone()]),
            Self::ResumeSchedule { name } => ("resume schedule", vec![name.clone()]),
            Self::RemoveSchedule { name } => ("remove schedule", vec![name.clone()]),
            Self::Backfill { name, .. } => ("backfill", vec![name.clone()]),
        }
    }
}

/// A job, who does it, and when, in milliseconds from the beginning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TimedJob {
    /// When.
    pub at_ms: u64,
    /// By which client.
    pub client: u32,
    /// What.
    pub job: Job,
}

pub(super) fn draw_all(seed: u64, settings: &Settings) -> Vec<TimedJob> {
    let runs = Draw::of(seed, "jobs").between(8, 24);
    let mut jobs = Vec::new();
    for run in 0..runs {
        draw_run(run, &mut Draw::of(seed, format_args!("job {run}")), settings, &mut jobs);
    }
    for crowd in 0..Draw::of(seed, "crowds").between(0, 2) {
        jobs.push(draw_crowd(
            crowd,
            &mut Draw::of(seed, format_args!("crowd {crowd}")),
            settings,
            runs,
        ));
    }
    super::limited::draw_all(seed, settings, &mut jobs);
    jobs.extend(super::poison::draw_all(seed, settings));
    jobs.sort_by_key(|job| job.at_ms);
    jobs
}

/// All that happens to one run name.
fn draw_run(run: u64, draw: &mut Draw, settings: &Settings, jobs: &mut Vec<TimedJob>) {
    let name = format!("run-{run}");
    let at_ms = draw.between(100, settings.faults_end_ms - 1_000);
    let work = draw_work(draw);
    let delay_ms = if draw.chance(150) { draw.between(1, 2_000) } else { 0 };
    let priority = draw.between(4, 6) as u8;
    let mut push = |at_ms, draw: &mut Draw, job| {
        let client = draw.between(1, u64::from(settings.clients)) as u32;
        jobs.push(TimedJob { at_ms, client, job });
    };
    let start =
        |work| Job::Start { name: name.clone(), work, delay_ms, priority, tags: Vec::new() };
    push(at_ms, draw, start(work.clone()));
    if draw.chance(250) {
        let again = at_ms + draw.between(0, 3_000);
        push(again, draw, start(work));
    }
    if draw.chance(150) {
        let again = at_ms + draw.between(0, 3_000);
        let other = draw_work(draw);
        push(again, draw, start(other));
    }
    if draw.chance(200) {
        let after = at_ms + draw.between(0, 3_000);
        push(after, draw, Job::Cancel { name: name.clone() });
    }
    for _ in 0..draw.between(0, 2) {
        let after = at_ms + draw.between(0, 4_000);
        push(after, draw, Job::Wait { name: name.clone() });
    }
    if draw.chance(200) {
        let after = at_ms + draw.between(0, 4_000);
        push(after, draw, Job::Ask { name: name.clone() });
    }
}

/// Several runs in one call; some of the names are started alone too, with another input.
fn draw_crowd(crowd: u64, draw: &mut Draw, settings: &Settings, runs: u64) -> TimedJob {
    let chains = (0..draw.between(1, 5)).map(|n| {
        let taken = draw.chance(100);
        let name = if taken {
            format!("run-{}", draw.between(0, runs - 1))
        } else {
            format!("crowd-{crowd}-{n}")
        };
        (name, Work::of(CHAIN, &draw_chain(draw)).input)
    });
    let job = Job::StartMany { workflow: CHAIN.name().to_owned(), runs: chains.collect() };
    let at_ms = draw.between(100, settings.faults_end_ms - 1_000);
    TimedJob { at_ms, client: draw.between(1, u64::from(settings.clients)) as u32, job }
}

fn draw_chain(draw: &mut Draw) -> ChainInput {
    ChainInput {
        links: draw.between(1, 12) as u32,
        salt: draw.bits(),
        sleeps_every: draw.between(2, 6) as u32,
        sleep_ms: draw.between(0, 1_500),
    }
}

fn draw_work(draw: &mut Draw) -> Work {
    match draw.between(0, 9) {
        0..=3 => Work::of(CHAIN, &draw_chain(draw)),
        4..=8 => {
            let order = Order {
                cents: draw.between(1, 99_999),
                declined: draw.chance(100),
                wait_ms: draw.between(0, 2_000),
                patience_ms: draw.between(1, 600),
                mails: draw.between(0, 3) as u32,
            };
            Work::of(CHECKOUT, &order)
        }
        _ => {
            let solo = Solo {
                failures: draw.between(0, 2) as u32,
                answer: draw.bits(),
                // Entries are cut into parts beyond 3,400 bytes.
                pad: "pad ".repeat(*draw.pick(&[0, 840, 860, 4_000])),
            };
            Work::of(SOLO, &solo)
        }
    }
}
