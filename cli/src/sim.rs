//! `stepwell sim …`: run the suites that come with Stepwell from the terminal.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use stepwell_sim::canary::{Budget, hunt_all};
use stepwell_sim::plan::FaultKind;
use stepwell_sim::{
    Options, Plan, Progress, Recording, Report, Shipped, Strike, Suite, SuiteReport,
};

use crate::failure::{Answer, CommandError};
use crate::quantity::{counted, grouped, span};
use crate::terminal::{Column, Terminal, table};

#[derive(Debug, Subcommand)]
pub(crate) enum SimCommand {
    /// Run seeds of a suite; fail if a rule is broken or a seed is not deterministic
    Run(RunSeeds),
    /// Run a plan again
    Rerun(RerunPlan),
    /// Shrink a failing plan or seed to what it needs to fail
    Shrink(ShrinkPlan),
    /// Draw a plan or seed as a page (HTML)
    Report(DrawReport),
    /// Kill a worker right after each outside effect and report which steps are not safe to repeat
    Idempotency(CheckSuite),
    /// Inject each kind of crash at every failpoint that a run passes
    Map(CheckSuite),
    /// Look for each deliberately planted bug, in a build that contains them (`tests/canaries`)
    Canaries(HuntCanaries),
    /// List the suites
    List,
}

#[derive(Debug, Args)]
pub(crate) struct HuntCanaries {
    /// Only canaries whose names contain this
    #[arg(default_value = "")]
    pattern: String,
    /// Processor time for each canary
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = span)]
    cpu: Duration,
    /// Shrink each plan that caught a canary, for at most this long
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = span)]
    shrink: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct RunSeeds {
    /// The suite; `stepwell sim list` prints them
    #[arg(long, value_name = "SUITE", default_value = "engine")]
    suite: String,
    /// How many seeds to run
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first seed [default: random]
    #[arg(long)]
    from: Option<u64>,
    /// Seeds to run in parallel [default: one per core]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=64))]
    jobs: Option<u64>,
    /// Run all seeds, also after failures, and shrink none
    #[arg(long)]
    keep_going: bool,
    /// Also print how often notable events were seen
    #[arg(long)]
    verbose: bool,
    /// The directory for the plans and pages of failures
    #[arg(long, default_value = "sim-reports")]
    out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RerunPlan {
    /// The plan file that a failing suite wrote
    plan: PathBuf,
}

/// A plan from a file or a seed.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Chosen {
    /// A plan file
    plan: Option<PathBuf>,
    /// A seed of the suite
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct ShrinkPlan {
    #[command(flatten)]
    chosen: Chosen,
    /// The suite of the seed
    #[arg(long, default_value = "engine", requires = "seed")]
    suite: String,
    /// How long to search for a smaller plan
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = span)]
    budget: Duration,
    /// The directory for the shrunk plan
    #[arg(long, default_value = "sim-reports")]
    out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct DrawReport {
    #[command(flatten)]
    chosen: Chosen,
    /// The suite of the seed
    #[arg(long, default_value = "engine", requires = "seed")]
    suite: String,
    /// The directory for the page and its data
    #[arg(long, default_value = "sim-reports")]
    out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct CheckSuite {
    /// The suite; `stepwell sim list` prints them
    #[arg(long, default_value = "checkout")]
    suite: String,
    /// The seed of the inputs
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl SimCommand {
    pub(crate) fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        match self {
            Self::Run(command) => command.execute(terminal),
            Self::Rerun(command) => command.execute(terminal),
            Self::Shrink(command) => command.execute(terminal),
            Self::Report(command) => command.execute(terminal),
            Self::Idempotency(command) => command.idempotency(terminal),
            Self::Map(command) => command.map(terminal),
            Self::Canaries(command) => command.execute(terminal),
            Self::List => list(terminal),
        }
    }
}

fn suite_of(name: &str) -> Result<Suite, CommandError> {
    Shipped::named(name).map(|shipped| shipped.suite()).ok_or_else(|| {
        CommandError::bad_input(format!("there is no suite `{name}`"))
            .hint("`stepwell sim list` prints them; suites of your own are tests: `cargo test`")
    })
}

fn read_plan(file: &Path) -> Result<Plan, CommandError> {
    let text = std::fs::read_to_string(file).map_err(|e| {
        CommandError::bad_input(format!("the plan {} cannot be read", file.display())).caused_by(&e)
    })?;
    serde_json::from_str(&text).map_err(|e| {
        CommandError::bad_input(format!("{} is not a plan", file.display()))
            .caused_by(&e)
            .hint("a plan is the `.json` file that a failing suite names")
    })
}

impl Chosen {
    fn plan(&self, suite: &str) -> Result<(Suite, Plan), CommandError> {
        match (&self.plan, self.seed) {
            (Some(file), _) => {
                let plan = read_plan(file)?;
                Ok((suite_of(&plan.suite)?, plan))
            }
            (None, seed) => {
                let suite = suite_of(suite)?;
                let plan = suite.plan(seed.unwrap_or_default());
                Ok((suite, plan))
            }
        }
    }
}

impl RunSeeds {
    fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        let suite = suite_of(&self.suite)?;
        let options = Options {
            seeds: Some(self.seeds),
            from: self.from,
            jobs: self.jobs.map(|jobs| jobs as usize),
            report: Some(self.out),
            keeps_going: self.keep_going,
            calls_itself: true,
            ..Options::default()
        };
        // Where no bar is drawn, the suite tells now and then how far it is.
        let report = match Bar::begin(terminal) {
            Some(bar) => {
                let report = suite.check_with(options, |progress| bar.show(progress));
                bar.end();
                report
            }
            None => suite.check(options),
        };
        let report = report.map_err(CommandError::bad_input)?;
        tell(&report, self.verbose, terminal)
    }
}

fn tell(report: &SuiteReport, verbose: bool, terminal: Terminal) -> Result<Answer, CommandError> {
    let document = suite_json(report)?;
    terminal.data(&document, || text(report, verbose))?;
    Ok(if report.is_sound() { Answer::Yes } else { Answer::No })
}

/// What a suite showed, for programs: runs and faults counted under the words of the text.
fn suite_json(report: &SuiteReport) -> Result<Value, CommandError> {
    let document = serde_json::to_value(report);
    document
        .map(|document| in_words(document, report.ends(), &report.faults))
        .map_err(|e| no_json(&e))
}

/// What a seed showed, for programs.
fn seed_json(report: &Report) -> Result<Value, CommandError> {
    let document = serde_json::to_value(report);
    document
        .map(|document| in_words(document, report.ends(), &report.faults))
        .map_err(|e| no_json(&e))
}

fn in_words(
    mut document: Value,
    ends: Vec<(&'static str, u64)>,
    faults: &BTreeMap<FaultKind, u64>,
) -> Value {
    document["runs"] =
        ends.into_iter().map(|(how, count)| (how.to_owned(), json!(count))).collect();
    document["faults"] =
        faults.iter().map(|(kind, count)| (kind.to_string(), json!(count))).collect();
    document
}

fn no_json(error: &serde_json::Error) -> CommandError {
    CommandError::fault("the report does not become JSON").caused_by(error)
}

fn text(report: &SuiteReport, verbose: bool) -> String {
    let mut text = report.to_string();
    let rows = |counts: Vec<(String, u64)>| {
        let rows = counts.into_iter().map(|(name, count)| vec![name, grouped(count)]);
        rows.collect::<Vec<_>>()
    };
    let faults = report.faults.iter().map(|(kind, count)| (kind.to_string(), *count));
    if report.failure.is_none() {
        let faults = rows(faults.collect());
        let faults = table(&[Column::Left("FAULTS"), Column::Right("COUNT")], faults);
        text.push_str(&format!("\n\n{faults}"));
        if verbose {
            let seen = rows(report.seen.iter().map(|(what, n)| (what.clone(), *n)).collect());
            let seen = table(&[Column::Left("SEEN"), Column::Right("COUNT")], seen);
            text.push_str(&format!("\n{seen}"));
        }
    }
    if let Some(plan) = report.files.first().filter(|_| report.failure.is_some()) {
        text.push_str(&format!("\nagain    stepwell sim rerun {}\n", plan.display()));
    }
    text
}

impl RerunPlan {
    fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        let plan = read_plan(&self.plan)?;
        let suite = suite_of(&plan.suite)?;
        let recording = suite.record(plan);
        shown(&recording, &[], terminal)
    }
}

/// What a plan showed, and what was written about it.
fn shown(
    recording: &Recording,
    files: &[PathBuf],
    terminal: Terminal,
) -> Result<Answer, CommandError> {
    let report = &recording.report;
    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    let document = json!({ "ok": report.is_sound(), "report": seed_json(report)?, "files": files });
    terminal.data(&document, || {
        let mut text = report.to_string();
        for file in &files {
            text.push_str(&format!("{file}\n"));
        }
        text
    })?;
    Ok(if report.is_sound() { Answer::Yes } else { Answer::No })
}

fn written(recording: &Recording, out: &Path) -> Result<Vec<PathBuf>, CommandError> {
    let written = recording.write(out).map_err(|e| {
        CommandError::fault(format!("the page cannot be written into {}", out.display()))
            .caused_by(&e)
    })?;
    Ok(vec![written.html, written.json])
}

impl ShrinkPlan {
    fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        let (suite, plan) = self.chosen.plan(&self.suite)?;
        let (faults, client_operations) = (plan.faults.len(), plan.jobs.len());
        let name = format!("{}-{}.json", plan.suite, plan.seed);
        let shrunk = suite.shrink(plan, self.budget).map_err(|problem| {
            CommandError::bad_input(problem).hint(
                "only a failing plan can be shrunk; `stepwell sim rerun` shows whether it fails",
            )
        })?;
        let file = self.out.join(name);
        let cannot = |e: &std::io::Error| {
            CommandError::fault(format!("{} cannot be written", file.display())).caused_by(e)
        };
        std::fs::create_dir_all(&self.out).map_err(|e| cannot(&e))?;
        let text = serde_json::to_string_pretty(&shrunk.plan)
            .map_err(|e| CommandError::fault("the plan does not become JSON").caused_by(&e))?;
        std::fs::write(&file, text).map_err(|e| cannot(&e))?;
        let document = json!({
            "plan": file,
            "tried": shrunk.tried,
            "faults_before": faults,
            "client_operations_before": client_operations,
            "faults": shrunk.plan.faults.len(),
            "client_operations": shrunk.plan.jobs.len(),
            "report": seed_json(&shrunk.report)?,
        });
        terminal.data(&document, || {
            format!(
                "{}shrunk from {} and {} to {} and {}; {} run\n{}",
                shrunk.report,
                counted(faults as u64, "fault", "faults"),
                counted(client_operations as u64, "client operation", "client operations"),
                shrunk.plan.faults.len(),
                shrunk.plan.jobs.len(),
                counted(shrunk.tried, "plan", "plans"),
                file.display()
            )
        })?;
        Ok(Answer::No)
    }
}

impl DrawReport {
    fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        let (suite, plan) = self.chosen.plan(&self.suite)?;
        let recording = suite.record(plan);
        let files = written(&recording, &self.out)?;
        shown(&recording, &files, terminal)?;
        Ok(Answer::Yes)
    }
}

impl CheckSuite {
    fn idempotency(self, terminal: Terminal) -> Result<Answer, CommandError> {
        let idempotency =
            suite_of(&self.suite)?.idempotency(self.seed).map_err(CommandError::bad_input)?;
        terminal.data(&idempotency, || idempotency.to_string())?;
        Ok(if idempotency.is_sound() { Answer::Yes } else { Answer::No })
    }

    fn map(self, terminal: Terminal) -> Result<Answer, CommandError> {
        let map = suite_of(&self.suite)?
            .crash_map(self.seed, &Strike::ALL)
            .map_err(CommandError::bad_input)?;
        terminal.data(&map, || map.to_string())?;
        Ok(if map.is_sound() { Answer::Yes } else { Answer::No })
    }
}

impl HuntCanaries {
    fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        let budget = Budget { cpu: self.cpu, shrink: self.shrink, ..Budget::default() };
        let hunts = hunt_all(&self.pattern, &budget, |hunt| {
            if !terminal.json {
                terminal.note(format_args!(
                    "{} {}",
                    if hunt.caught { "caught" } else { "MISSED" },
                    hunt.name
                ));
            }
        });
        let hunts = hunts.map_err(|none| {
            CommandError::bad_input(none)
                .hint("`tests/canaries` builds with them and runs the search for each")
        })?;
        terminal.data(&hunts, || {
            let rows = hunts.iter().map(|hunt| {
                let checker = hunt.checker.clone().unwrap_or_else(|| "-".to_owned());
                vec![
                    hunt.name.to_owned(),
                    checker,
                    grouped(hunt.seeds),
                    format!("{:.1}", hunt.cpu_s),
                ]
            });
            table(
                &[
                    Column::Left("CANARY"),
                    Column::Left("CAUGHT BY"),
                    Column::Right("SEEDS"),
                    Column::Right("CPU S"),
                ],
                rows.collect(),
            )
        })?;
        Ok(if hunts.iter().all(|hunt| hunt.caught) { Answer::Yes } else { Answer::No })
    }
}

fn list(terminal: Terminal) -> Result<Answer, CommandError> {
    let document: Vec<_> = Shipped::ALL
        .iter()
        .map(|shipped| json!({ "name": shipped.name, "about": shipped.about }))
        .collect();
    terminal.data(&document, || {
        let rows = Shipped::ALL
            .iter()
            .map(|shipped| vec![shipped.name.to_owned(), shipped.about.to_owned()]);
        table(&[Column::Left("SUITE"), Column::Left("ABOUT")], rows.collect())
    })?;
    Ok(Answer::Yes)
}

/// How far it is, as a bar.
struct Bar(Mutex<ProgressBar>);

impl Bar {
    /// On a terminal.
    fn begin(terminal: Terminal) -> Option<Self> {
        terminal.draws().then(|| {
            let bar =
                ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr_with_hz(10));
            let style = ProgressStyle::with_template(
                "[{bar:40}] {human_pos} of {human_len} seeds, {per_sec}, {msg}",
            );
            bar.set_style(
                style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "),
            );
            Self(Mutex::new(bar))
        })
    }

    fn show(&self, progress: &Progress) {
        let bar = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        bar.set_length(progress.total);
        bar.set_position(progress.played);
        bar.set_message(format!(
            "{}, {} failed",
            counted(progress.faults, "fault", "faults"),
            progress.failed
        ));
    }

    fn end(self) {
        self.0.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_for_programs_are_in_the_words_of_the_text() {
        let faults = BTreeMap::from([(FaultKind::WorkerKilled, 2)]);
        let document = in_words(json!({ "seeds": 1 }), vec![("dead", 3)], &faults);
        let words = json!({ "seeds": 1, "runs": { "dead": 3 }, "faults": { "worker killed": 2 } });
        assert_eq!(document, words);
    }
}
