//! Runs the seeds of a suite on all cores.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use super::suite_report::{Failed, SuiteReport};
use super::{Ready, Seeds, Stopwatch, gate, unreached};
use crate::plan::{Disk, Plan, Point};
use crate::report::Report;
use crate::shrink::shrink;

/// Real time for shrinking a failing plan.
const SHRINK_BUDGET: Duration = Duration::from_secs(60);
/// Every so many seeds one is run twice; and each that is on the production store.
const TWICE_EVERY: u64 = 10;
/// How often a line tells how far a suite is.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Failing seeds after which no further ones are begun.
const FAILURES_MAX: usize = 3;

/// How a suite is run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// This seed alone.
    pub seed: Option<u64>,
    /// This plan alone.
    pub plan: Option<PathBuf>,
    /// So many fresh seeds, whatever the suite says.
    pub seeds: Option<u64>,
    /// The first of them.
    pub from: Option<u64>,
    /// So many at a time. Default: as many as there are cores.
    pub jobs: Option<usize>,
    /// Where plans and reports go. Default: `sim` in the target directory.
    pub report: Option<PathBuf>,
    /// Run on after failures, and shrink none.
    pub keeps_going: bool,
    /// The program may be called again with its own arguments, to compare a seed in two processes;
    /// it must come to this suite first. Tests are called by their names.
    pub calls_itself: bool,
}

impl Options {
    /// What the environment says: `SIM_SEED`, `SIM_PLAN`, `SIM_SEEDS`, `SIM_FROM`, `SIM_JOBS`,
    /// `SIM_REPORT`.
    pub fn from_env() -> Result<Self, String> {
        fn number<T: std::str::FromStr>(name: &str) -> Result<Option<T>, String> {
            match std::env::var(name) {
                Ok(text) => {
                    text.parse().map(Some).map_err(|_| format!("{name} is not a number: `{text}`"))
                }
                Err(_) => Ok(None),
            }
        }
        let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
        Ok(Self {
            seed: number("SIM_SEED")?,
            plan: path("SIM_PLAN"),
            seeds: number("SIM_SEEDS")?,
            from: number("SIM_FROM")?,
            jobs: number("SIM_JOBS")?,
            report: path("SIM_REPORT"),
            keeps_going: false,
            calls_itself: false,
        })
    }

    pub(super) fn directory(&self) -> PathBuf {
        if let Some(directory) = &self.report {
            return directory.clone();
        }
        // target/debug/deps/NAME
        let target = std::env::current_exe().ok().and_then(|exe| {
            let target = exe.ancestors().find(|path| path.join("CACHEDIR.TAG").exists())?;
            Some(target.join("sim"))
        });
        let target = target.unwrap_or_else(|| PathBuf::from("sim-reports"));
        // Shorter where it can be: the working directory of a test is its package's.
        let here = std::env::current_dir();
        let beside = here.ok().and_then(|here| {
            let below = target.strip_prefix(here).ok()?;
            Some(below.to_owned())
        });
        beside.unwrap_or(target)
    }
}

/// One thing to play.
#[derive(Debug, Clone)]
enum Item {
    Seed { seed: u64, why: String },
    Plan { file: PathBuf, why: String },
}

/// How far a suite is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Seeds and plans that were run.
    pub played: u64,
    /// Seeds and plans to be run.
    pub total: u64,
    /// Those that failed.
    pub failed: u64,
    /// Faults that struck in them.
    pub faults: u64,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { played, total, failed, .. } = self;
        write!(f, "{played} of {total} seeds, {failed} failed")
    }
}

/// Who is told how far a suite is.
pub(super) enum Watch<'a> {
    /// Whoever looks at stderr, now and then.
    Lines,
    /// This, after each seed.
    Call(&'a (dyn Fn(&Progress) + Sync)),
}

impl Watch<'_> {
    /// A line past the capture of the test runner: it is read while the suite runs.
    fn line(&self, suite: &Ready, text: fmt::Arguments<'_>) {
        if matches!(self, Self::Lines) {
            let line = format!("suite `{}`: {text}\n", suite.program.name);
            // Nobody reads it, perhaps.
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }
}

pub(super) fn play(
    suite: &Ready,
    seeds: &Seeds,
    options: &Options,
    watch: &Watch<'_>,
) -> Result<SuiteReport, String> {
    if suite.program.versions.is_empty() {
        return Err("it has no workers: call `workers`".to_owned());
    }
    let clock = Stopwatch::begin();
    let Items { banked, fresh, notes } = items(seeds, options)?;
    let alone = options.seed.is_some() || options.plan.is_some();
    let (from, count) = fresh.unwrap_or((0, 0));
    let total = banked.len() as u64 + count;
    let tally = Mutex::new(Tally::default());
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let cut_short = AtomicBool::new(false);
    let problem = Mutex::new(None);
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= total {
                return;
            }
            let item = match banked.get(number as usize) {
                Some(item) => item.clone(),
                None if number > 0 && seeds.budget.is_some_and(|b| clock.passed() > b) => {
                    cut_short.store(true, Ordering::Relaxed);
                    return;
                }
                None => {
                    Item::Seed { seed: from + number - banked.len() as u64, why: String::new() }
                }
            };
            let twice = alone || number.is_multiple_of(TWICE_EVERY);
            match played(suite, &item, twice) {
                Ok(played) => {
                    let mut tally = locked(&tally);
                    tally.add(played);
                    if let Watch::Call(watch) = watch {
                        watch(&tally.progress(total));
                    }
                    if tally.failed.len() >= FAILURES_MAX && !options.keeps_going {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
                Err(text) => {
                    *locked(&problem) = Some(text);
                    stop.store(true, Ordering::Relaxed);
                }
            }
        }
    };
    let jobs = options
        .jobs
        .or_else(|| std::thread::available_parallelism().ok().map(Into::into))
        .unwrap_or(1)
        .clamp(1, 64);
    let (playing, is_over) = std::sync::mpsc::channel::<()>();
    let told = &tally;
    let tell = move || {
        while is_over.recv_timeout(TELL_EVERY) == Err(RecvTimeoutError::Timeout) {
            let progress = locked(told).progress(total);
            watch.line(suite, format_args!("{progress}"));
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(tell);
        let others: Vec<_> = (1..jobs).map(|_| scope.spawn(work)).collect();
        // Whatever becomes of this thread and the others, the one that tells is let go.
        let _playing = playing;
        work();
        for other in others {
            if let Err(panic) = other.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
    if let Some(problem) = problem.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        return Err(problem);
    }
    let mut tally = tally.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let seconds = clock.passed().as_secs_f64();
    if !alone {
        // One on the production store besides, if there was one.
        let seeds = std::iter::once(from).chain(tally.on_fjall.filter(|seed| *seed != from));
        let compared =
            seeds.filter_map(|seed| gate::other_process(suite, seed, options.calls_itself));
        tally.differences.extend(compared);
    }
    tally.failed.sort_by_key(|(_, report)| report.seed);
    let mut report = tally.report(suite, seconds, (!alone && count > 0).then_some(from));
    report.notes = notes;
    if cut_short.into_inner() {
        report.is_cut_short(total);
    }
    if alone {
        report.sometimes_unmet.clear();
    } else if tally.drawn > 0 {
        report.unreached = unreached::unreached(suite, &tally.passed, &tally.runs);
    }
    write_up(suite, options, watch, tally.failed, &mut report)?;
    if alone && report.is_sound() && options.report.is_some() {
        let plan = one_plan(suite, &banked)?;
        let files = crate::report::write(suite, &plan, &options.directory())?;
        report.files.extend(files);
    }
    Ok(report)
}

fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What is to be run.
#[derive(Default)]
struct Items {
    /// What comes from the bank, or was asked for alone.
    banked: Vec<Item>,
    /// The first of the fresh seeds, and how many.
    fresh: Option<(u64, u64)>,
    /// What is to be told of it.
    notes: Vec<String>,
}

fn items(seeds: &Seeds, options: &Options) -> Result<Items, String> {
    let alone = |item| Items { banked: vec![item], ..Items::default() };
    if let Some(file) = &options.plan {
        let (file, why) = (file.clone(), String::new());
        return Ok(alone(Item::Plan { file, why }));
    }
    if let Some(seed) = options.seed {
        let why = String::new();
        return Ok(alone(Item::Seed { seed, why }));
    }
    let missing = seeds.bank.iter().filter(|path| !path.exists());
    let notes = missing.map(|path| {
        format!("the bank {} is missing: its seeds and plans are not run", path.display())
    });
    let bank = match &seeds.bank {
        Some(path) => super::seeds::Bank::read(path)?,
        None => super::seeds::Bank::default(),
    };
    let plans = bank.plan.into_iter().map(|plan| Item::Plan { file: plan.file, why: plan.why });
    let known = bank.seed.into_iter().map(|seed| Item::Seed { seed: seed.seed, why: seed.why });
    let count = options.seeds.unwrap_or(seeds.fresh);
    let from = options.from.or(seeds.from).unwrap_or_else(any_seed);
    Ok(Items {
        banked: plans.chain(known).collect(),
        fresh: Some((from, count)),
        notes: notes.collect(),
    })
}

/// A seed that nobody chose: small enough to be typed again.
fn any_seed() -> u64 {
    use std::hash::BuildHasher;
    std::collections::hash_map::RandomState::new().hash_one(0) % 1_000_000_000
}

struct Played {
    plan: Plan,
    report: Report,
    why: String,
    /// How often each point was passed.
    passed: BTreeMap<Point, u32>,
    difference: Option<String>,
    compared: bool,
    /// The plan is the one that the suite draws from the seed.
    fresh: bool,
}

fn played(suite: &Ready, item: &Item, twice: bool) -> Result<Played, String> {
    let (plan, why) = match item {
        Item::Seed { seed, why } => (suite.plan(*seed), why),
        Item::Plan { file, why } => (read_plan(suite, file)?, why),
    };
    let (report, passed) = suite.simulate_and_points(plan.clone());
    // Threads and files of this machine take part there.
    let twice = twice || plan.settings.disk == Disk::Fjall;
    let difference = if twice { gate::twice(suite, &plan, &report) } else { None };
    Ok(Played {
        plan,
        report,
        why: why.clone(),
        passed,
        difference,
        compared: twice,
        fresh: matches!(item, Item::Seed { .. }),
    })
}

fn one_plan(suite: &Ready, items: &[Item]) -> Result<Plan, String> {
    match items.first() {
        Some(Item::Plan { file, .. }) => read_plan(suite, file),
        Some(Item::Seed { seed, .. }) => Ok(suite.plan(*seed)),
        None => Err("there is nothing to run".to_owned()),
    }
}

fn read_plan(suite: &Ready, file: &Path) -> Result<Plan, String> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("the plan {} cannot be read: {error}", file.display()))?;
    let plan: Plan = serde_json::from_str(&text)
        .map_err(|error| format!("the plan {} is not understood: {error}", file.display()))?;
    if plan.suite != suite.program.name {
        return Err(format!(
            "the plan {} is one of the suite `{}`, not of `{}`",
            file.display(),
            plan.suite,
            suite.program.name
        ));
    }
    Ok(plan)
}

/// Shrinks the first failing plan and writes it down.
fn write_up(
    suite: &Ready,
    options: &Options,
    watch: &Watch<'_>,
    failed: Vec<(Plan, Report)>,
    report: &mut SuiteReport,
) -> Result<(), String> {
    let Some((plan, first)) = failed.into_iter().next() else {
        return Ok(());
    };
    let (faults, client_operations) = (plan.faults.len(), plan.jobs.len());
    let clock = Stopwatch::begin();
    let not_shrunk = match options.keeps_going {
        true => None,
        false => parts_from_itself(suite, &plan, &first, report),
    };
    let (plan, shown, tried) = if options.keeps_going || not_shrunk.is_some() {
        (plan, first, 0)
    } else {
        watch.line(
            suite,
            format_args!(
                "seed {} fails and is shrunk, for {} s at most",
                first.seed,
                SHRINK_BUDGET.as_secs()
            ),
        );
        let checker = first.violations.first().map(|v| v.checker.clone());
        let same = move |report: &Report| {
            report.violations.first().map(|v| &v.checker) == checker.as_ref()
        };
        let shrunk = shrink(&suite.program, plan, first, SHRINK_BUDGET, &same);
        (shrunk.plan, shrunk.report, shrunk.tried)
    };
    let files = crate::report::write(suite, &plan, &options.directory())?;
    report.failure = Some(Failed {
        seed: shown.seed,
        violations: shown.violations,
        faults_before: faults,
        client_operations_before: client_operations,
        faults: plan
            .faults
            .iter()
            .map(|timed| format!("{:>6} ms  {}", timed.at_ms, timed.fault))
            .collect(),
        client_operations: plan.jobs.len(),
        tried,
        shrink_s: clock.passed().as_secs_f64(),
        not_shrunk,
        test: gate::test_name(),
    });
    report.files.extend(files);
    Ok(())
}

/// Why a plan is not shrunk: it is another one each time. Then that is told of the suite besides.
fn parts_from_itself(
    suite: &Ready,
    plan: &Plan,
    first: &Report,
    told: &mut SuiteReport,
) -> Option<String> {
    let known = format!("seed {}: ", plan.seed);
    if !told.differences.iter().any(|told| told.starts_with(&known)) {
        let difference = gate::twice(suite, plan, first)?;
        told.non_deterministic += 1;
        told.differences.push(difference);
    }
    Some(super::NOT_SHRUNK.to_owned())
}

/// What was seen over all seeds.
#[derive(Default)]
struct Tally {
    seeds: u64,
    /// Of these, such as were drawn: plans may have been shrunk.
    drawn: u64,
    /// How often each point was passed in the seed that passed it most.
    passed: BTreeMap<Point, u32>,
    compared: u64,
    /// The first seed on the production store.
    on_fjall: Option<u64>,
    simulated_ms: u64,
    skipped_ms: u64,
    failed: Vec<(Plan, Report)>,
    known: Vec<String>,
    differences: Vec<String>,
    reached: BTreeSet<String>,
    faults: BTreeMap<crate::plan::FaultKind, u64>,
    seen: BTreeMap<String, u64>,
    runs: BTreeMap<String, u64>,
}

impl Tally {
    fn progress(&self, total: u64) -> Progress {
        Progress {
            played: self.seeds,
            total,
            failed: self.failed.len() as u64,
            faults: self.faults.values().sum(),
        }
    }

    fn add(&mut self, played: Played) {
        let report = played.report;
        if played.fresh && played.plan.settings.disk == Disk::Fjall {
            let first = self.on_fjall.map_or(report.seed, |seed| seed.min(report.seed));
            self.on_fjall = Some(first);
        }
        self.seeds += 1;
        self.drawn += u64::from(played.fresh);
        for (point, count) in played.passed {
            let most = self.passed.entry(point).or_default();
            *most = count.max(*most);
        }
        self.compared += u64::from(played.compared);
        self.simulated_ms += report.simulated_ms;
        self.skipped_ms += report.skipped_ms;
        self.reached.extend(report.reached.iter().cloned());
        self.differences.extend(played.difference);
        for (kind, count) in &report.faults {
            *self.faults.entry(*kind).or_default() += count;
        }
        for (what, count) in &report.seen {
            *self.seen.entry(what.clone()).or_default() += count;
        }
        for (end, count) in &report.runs {
            *self.runs.entry(end.clone()).or_default() += count;
        }
        if !report.is_sound() {
            if !played.why.is_empty() {
                self.known.push(format!("seed {} is back: {}", report.seed, played.why));
            }
            self.failed.push((played.plan, report));
        }
    }

    fn report(&self, suite: &Ready, seconds: f64, from: Option<u64>) -> SuiteReport {
        let rules = suite.program.sometimes.iter();
        let unmet =
            rules.filter(|rule| !self.reached.contains(&rule.name)).map(|rule| rule.name.clone());
        let simulated_s = self.simulated_ms as f64 / 1_000.0;
        SuiteReport {
            suite: suite.program.name.clone(),
            seeds: self.seeds,
            from,
            failed: self.failed.len() as u64,
            failing_seeds: self.failed.iter().map(|(_, report)| report.seed).collect(),
            non_deterministic: self.differences.len() as u64,
            rerun: self.compared,
            differences: self.differences.clone(),
            seconds,
            seeds_per_min: (self.seeds + self.compared) as f64 * 60.0 / seconds.max(0.001),
            sim_seconds_per_s: simulated_s / seconds.max(0.001),
            skipped_s: self.skipped_ms as f64 / 1_000.0,
            sometimes_unmet: unmet.collect(),
            unreached: Vec::new(),
            notes: Vec::new(),
            known: self.known.clone(),
            runs: self.runs.clone(),
            faults: self.faults.clone(),
            seen: self.seen.clone(),
            failure: None,
            files: Vec::new(),
        }
    }
}
