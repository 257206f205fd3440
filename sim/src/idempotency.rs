//! The idempotency check and the crash map: each step killed right after its outside effect, and
//! each point of a workflow once.
//!
//! Both begin with a calm world, in which nothing goes wrong, and one run of each workflow. What
//! happens in it, point by point, is then struck, one point a simulation, and the worlds are
//! compared.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ledger::Happened;
use crate::plan::{Job, Plan, Point, Scripted, Strike};
use crate::program::Program;
use crate::report::Report;
use crate::simulation::observe;
use crate::suite::{Faults, Ready};

/// What a simulation left behind.
pub(crate) struct Observed {
    pub(crate) report: Report,
    /// How often each point was passed.
    pub(crate) passed: BTreeMap<Point, u32>,
    pub(crate) happened: Vec<Happened>,
    /// Workflow and name of each step, by its key.
    pub(crate) steps: BTreeMap<String, (String, String)>,
    /// How each run ended, by name.
    pub(crate) ends: BTreeMap<String, String>,
}

/// Whether a step may be repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckedStep {
    /// The workflow, if the key is a step's own.
    pub workflow: String,
    /// The step, if the key is a step's own; else the key.
    pub step: String,
    /// The effect.
    pub effect: String,
    /// Whether the outside world was the same although the step was repeated.
    pub is_safe: bool,
    /// What was seen.
    pub text: String,
}

/// What an idempotency check found. See [`Suite::idempotency`](crate::Suite::idempotency).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idempotency {
    /// Every effect of the calm world.
    pub steps: Vec<CheckedStep>,
}

impl Idempotency {
    /// Whether every step may be repeated.
    pub fn is_sound(&self) -> bool {
        self.steps.iter().all(|step| step.is_safe)
    }
}

/// One point and what striking it showed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrashPoint {
    /// Where and what.
    pub scripted: Scripted,
    /// Whether it was reached and struck.
    pub struck: bool,
    /// What did not hold; empty if all is well.
    pub problems: Vec<String>,
}

/// What a crash map found. See [`Suite::crash_map`](crate::Suite::crash_map).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrashMap {
    /// Every point of the calm world, with every strike.
    pub points: Vec<CrashPoint>,
}

impl CrashMap {
    /// Whether every point was struck and nothing went wrong.
    pub fn is_sound(&self) -> bool {
        self.points.iter().all(|point| point.struck && point.problems.is_empty())
    }
}

/// A world in which nothing goes wrong, with one run of each workflow.
fn calm(suite: &Ready, seed: u64) -> Plan {
    let mut plan = suite.plan(seed).calm();
    Faults::none().limit(&mut plan.settings);
    plan.settings.kinds.clear();
    plan.settings.clocks.clear();
    plan.settings.splits_per_mille = 0;
    plan.settings.slots = 4;
    plan.script.clear();
    let mut seen = std::collections::BTreeSet::new();
    plan.jobs.retain(|timed| match &timed.job {
        Job::Start { work, .. } => seen.insert(work.workflow.clone()),
        _ => false,
    });
    for timed in &mut plan.jobs {
        timed.at_ms = 200;
    }
    // All is mended before the first strike, and so what a strike does lasts as long as it should.
    plan.settings.faults_end_ms = 100;
    plan
}

fn base(suite: &Ready, seed: u64) -> Result<(Plan, Observed), String> {
    let plan = calm(suite, seed);
    if plan.jobs.is_empty() {
        return Err("its workload starts no run with `start` or `start_many`".to_owned());
    }
    let observed = observe(plan.clone(), suite.program.clone());
    if let Some(violation) = observed.report.violations.first() {
        let (checker, text) = (&violation.checker, &violation.text);
        return Err(format!("it does not even hold when nothing goes wrong: {checker}: {text}"));
    }
    Ok((plan, observed))
}

fn struck(plan: &Plan, program: &Arc<Program>, scripted: &Scripted) -> Observed {
    let mut plan = plan.clone();
    plan.script = vec![scripted.clone()];
    observe(plan, program.clone())
}

/// How often each effect happened with each request.
fn counted(happened: &[Happened]) -> BTreeMap<(&str, &str), u32> {
    let mut counts = BTreeMap::new();
    for effect in happened {
        *counts.entry((effect.effect.as_str(), effect.request.as_str())).or_default() += 1;
    }
    counts
}

/// What happened more or less often than in the calm world.
fn differences(program: &Program, calm: &Observed, now: &Observed) -> Vec<String> {
    let (before, after) = (counted(&calm.happened), counted(&now.happened));
    let may_lack = |effect: &str| program.effects.get(effect).is_some_and(|e| e.is_optional());
    let mut told = Vec::new();
    for (place, count) in &after {
        let usual = before.get(place).copied().unwrap_or_default();
        let holds = match may_lack(place.0) {
            true => *count <= usual.max(1),
            false => *count == usual,
        };
        if !holds {
            told.push(format!(
                "`{}` of {} happened {count} times instead of {usual}",
                place.0, place.1
            ));
        }
    }
    for (place, usual) in
        before.iter().filter(|(place, _)| !after.contains_key(*place) && !may_lack(place.0))
    {
        told.push(format!(
            "`{}` of {} did not happen; it happens {usual} times when all is calm",
            place.0, place.1
        ));
    }
    for (run, end) in &calm.ends {
        let now = now.ends.get(run);
        if now != Some(end) {
            let now = now.map_or("not at all", String::as_str);
            told.push(format!("{run} ended {now} instead of {end}"));
        }
    }
    told
}

pub(crate) fn idempotency(suite: &Ready, seed: u64) -> Result<Idempotency, String> {
    let (plan, calm) = base(suite, seed)?;
    let mut idempotency = Idempotency::default();
    let mut nth: BTreeMap<&str, u32> = BTreeMap::new();
    for effect in &calm.happened {
        let nth = nth.entry(effect.effect.as_str()).or_default();
        *nth += 1;
        let scripted = Scripted {
            point: Point::after_effect(&effect.effect),
            nth: *nth,
            strike: Strike::KillWorker,
        };
        let now = struck(&plan, &suite.program, &scripted);
        let mut problems = differences(&suite.program, &calm, &now);
        problems.extend(now.report.violations.iter().map(|v| v.text.clone()));
        let absorbed: u64 = now.happened.iter().map(|e| u64::from(e.absorbed)).sum();
        let was_struck = !now.report.faults.is_empty();
        let (workflow, step) = calm
            .steps
            .get(&effect.key)
            .cloned()
            .unwrap_or_else(|| (String::new(), effect.key.clone()));
        idempotency.steps.push(CheckedStep {
            workflow,
            step,
            effect: effect.effect.clone(),
            is_safe: problems.is_empty() && was_struck,
            text: match (problems.first(), was_struck) {
                (Some(problem), _) => problem.clone(),
                (None, false) => {
                    "it was not reached again: the calm world is not deterministic".to_owned()
                }
                (None, true) if absorbed > 0 => {
                    "re-executed; deduplicated by its idempotency key".to_owned()
                }
                (None, true) => "not re-executed".to_owned(),
            },
        });
    }
    Ok(idempotency)
}

pub(crate) fn crash_map(suite: &Ready, seed: u64, strikes: &[Strike]) -> Result<CrashMap, String> {
    let (plan, calm) = base(suite, seed)?;
    let mut map = CrashMap::default();
    for (point, count) in &calm.passed {
        for nth in 1..=*count {
            for strike in strikes {
                let scripted = Scripted { point: point.clone(), nth, strike: *strike };
                let now = struck(&plan, &suite.program, &scripted);
                let mut problems = differences(&suite.program, &calm, &now);
                let violations = now.report.violations.iter();
                problems.extend(violations.map(|v| format!("{}: {}", v.checker, v.text)));
                map.points.push(CrashPoint {
                    scripted,
                    struck: !now.report.faults.is_empty(),
                    problems,
                });
            }
        }
    }
    Ok(map)
}

impl fmt::Display for Idempotency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |name: fn(&CheckedStep) -> usize, least: usize| {
            self.steps.iter().map(name).max().unwrap_or(0).max(least)
        };
        let (a, b, c) = (
            width(|s| s.workflow.len(), 8),
            width(|s| s.step.len(), 4),
            width(|s| s.effect.len(), 6),
        );
        write!(f, "{:<a$}  {:<b$}  {:<c$}  SAFE TO REPEAT", "WORKFLOW", "STEP", "EFFECT")?;
        for step in &self.steps {
            let verdict = if step.is_safe { "yes" } else { "NO" };
            write!(
                f,
                "\n{:<a$}  {:<b$}  {:<c$}  {verdict:<3}  {}",
                step.workflow, step.step, step.effect, step.text
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for CrashMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows: BTreeMap<&Point, BTreeMap<Strike, (u32, u32)>> = BTreeMap::new();
        let mut strikes = std::collections::BTreeSet::new();
        for point in &self.points {
            let strike = point.scripted.strike;
            strikes.insert(strike);
            let row = rows.entry(&point.scripted.point).or_default();
            let cell = row.entry(strike).or_default();
            cell.0 += 1;
            cell.1 += u32::from(!point.struck || !point.problems.is_empty());
        }
        let names: Vec<String> = rows.keys().map(|point| point.to_string()).collect();
        let width = names.iter().map(String::len).max().unwrap_or(0).max(5);
        write!(f, "{:<width$}", "POINT")?;
        for strike in &strikes {
            write!(f, "  {:>13}", strike.head())?;
        }
        for (name, row) in names.iter().zip(rows.values()) {
            write!(f, "\n{name:<width$}")?;
            for strike in &strikes {
                let cell = match row.get(strike) {
                    Some((count, 0)) => format!("{count} ok"),
                    Some((count, bad)) => format!("{bad} of {count} BAD"),
                    None => String::new(),
                };
                let width = strike.head().len().max(13);
                write!(f, "  {cell:>width$}")?;
            }
        }
        for point in self.points.iter().filter(|point| !point.problems.is_empty()) {
            write!(f, "\n\n{}", point.scripted)?;
            for problem in &point.problems {
                write!(f, "\n  {problem}")?;
            }
        }
        for point in self.points.iter().filter(|point| !point.struck) {
            write!(f, "\n\n{}\n  was not reached again", point.scripted)?;
        }
        Ok(())
    }
}
