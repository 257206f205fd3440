//! What the clients of a suite do, drawn.

use serde::Serialize;
use stepwell::Workflow;

use super::job::{Job, TimedJob, Work};
use super::settings::Settings;
use crate::draw::Draw;

/// Collects what clients do. A suite's own draws come from streams named after the call and its
/// number, so that one workload more leaves the others as they are.
#[derive(Debug)]
pub struct Workload {
    seed: u64,
    settings: Settings,
    calls: u32,
    jobs: Vec<TimedJob>,
}

impl Workload {
    pub(super) fn new(seed: u64, settings: &Settings) -> Self {
        Self { seed, settings: settings.clone(), calls: 0, jobs: Vec::new() }
    }

    pub(super) fn into_jobs(mut self) -> Vec<TimedJob> {
        self.jobs.sort_by_key(|job| job.at_ms);
        self.jobs
    }

    fn stream(&mut self, what: &str) -> Draw {
        self.calls += 1;
        Draw::of(self.seed, format_args!("workload {what} {}", self.calls))
    }

    fn push(&mut self, draw: &mut Draw, at_ms: u64, job: Job) {
        let client = draw.between(1, u64::from(self.settings.clients)) as u32;
        self.jobs.push(TimedJob { at_ms, client, job });
    }

    /// Starts `count` runs named `WORKFLOW-0`, `WORKFLOW-1`, …, at times of the seed's choosing,
    /// while things go wrong. A client starts a run again, under its name, until it is answered;
    /// now and then another does so too.
    pub fn start_many<In: Serialize, Out>(
        &mut self,
        workflow: Workflow<In, Out>,
        count: u32,
        mut input: impl FnMut(&mut Draw) -> In,
    ) -> &mut Self {
        for n in 0..count {
            let name = format!("{}-{n}", workflow.name());
            let mut draw = self.stream(&name);
            let input = input(&mut draw);
            self.start_drawn(workflow, name, &input, draw);
        }
        self
    }

    /// Starts one run of this name.
    pub fn start<In: Serialize, Out>(
        &mut self,
        workflow: Workflow<In, Out>,
        name: impl Into<String>,
        input: &In,
    ) -> &mut Self {
        let name = name.into();
        let draw = self.stream(&name);
        self.start_drawn(workflow, name, input, draw);
        self
    }

    fn start_drawn<In: Serialize, Out>(
        &mut self,
        workflow: Workflow<In, Out>,
        name: String,
        input: &In,
        mut draw: Draw,
    ) {
        let at_ms = draw.between(100, self.settings.faults_end_ms - 1_000);
        let job = Job::Start {
            name: name.clone(),
            work: Work::of(workflow, input),
            delay_ms: 0,
            priority: 5,
            tags: Vec::new(),
        };
        self.push(&mut draw, at_ms, job.clone());
        if draw.chance(100) {
            let again = at_ms + draw.between(0, 3_000);
            self.push(&mut draw, again, job);
        }
        if draw.chance(250) {
            let after = at_ms + draw.between(0, 4_000);
            self.push(&mut draw, after, Job::Wait { name });
        }
    }

    /// Asks the run of this name to stop, at a time of the seed's choosing.
    pub fn cancel(&mut self, name: impl Into<String>) -> &mut Self {
        let name = name.into();
        let mut draw = self.stream("cancel");
        let at_ms = draw.between(100, self.settings.faults_end_ms);
        self.push(&mut draw, at_ms, Job::Cancel { name });
        self
    }

    /// Asks each run that was started so far to stop with this chance, in parts of a thousand, up
    /// to three seconds after its start.
    pub fn cancel_some(&mut self, per_mille: u64) -> &mut Self {
        let mut draw = self.stream("cancel some");
        let started: Vec<(u64, String)> = self
            .jobs
            .iter()
            .filter_map(|timed| match &timed.job {
                Job::Start { name, .. } => Some((timed.at_ms, name.clone())),
                _ => None,
            })
            .collect();
        for (at_ms, name) in started {
            if draw.chance(per_mille) {
                let after = at_ms + draw.between(0, 3_000);
                self.push(&mut draw, after, Job::Cancel { name });
            }
        }
        self
    }
}
