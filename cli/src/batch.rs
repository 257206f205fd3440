//! `stepwell batch …`: start many runs with a follow-up run, watch their progress, and cancel them.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use stepwell::model::payload::Payload;
use stepwell::{BatchCancelled, BatchSummary};

use crate::connection::{ConnectArgs, Connection, asked};
use crate::failure::{Answer, CommandError};
use crate::quantity::{self, counted, grouped};
use crate::terminal::{Terminal, pairs, spinner};

/// How often a batch is asked for while it is watched.
const LOOK: Duration = Duration::from_millis(500);
/// Runs in one call, so that progress shows.
const CALL: usize = 2_000;

#[derive(Debug, Subcommand)]
pub(crate) enum BatchCommand {
    /// Start one run per line of a file, as one batch; durable when it returns
    Start(StartBatch),
    /// Print the state and the counts of a batch
    Show(Show),
    /// Request cancellation of all runs of a batch that have not ended; the follow-up run starts
    /// when they have
    Cancel(CancelBatch),
}

#[derive(Debug, Args)]
pub(crate) struct StartBatch {
    /// A file of JSON lines, one input per line, or - for stdin
    #[arg(value_name = "FILE.jsonl")]
    file: String,
    /// The workflow of the runs
    #[arg(long, value_name = "WORKFLOW")]
    workflow: String,
    /// The batch's name [default: the file's, without its extension]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The queue of the runs
    #[arg(long, value_name = "QUEUE", default_value = "default")]
    queue: String,
    /// The priority of the runs, 0 (first) to 9
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: u8,
    /// Queue the runs after this delay (10s, 5m, 7d)
    #[arg(long, value_name = "DURATION", value_parser = quantity::span)]
    delay: Option<Duration>,
    /// Require workers with this tag; may be given more than once
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Name each run BATCH/VALUE, after this field of its input, so that the command can be
    /// repeated [default: BATCH/LINE]
    #[arg(long, value_name = "FIELD")]
    name_field: Option<String>,
    /// The workflow of the follow-up run, which starts when all runs have ended
    #[arg(long, value_name = "WORKFLOW")]
    then: Option<String>,
    /// The input of the follow-up run, besides the counts: JSON of at most 2 KB
    #[arg(long, value_name = "JSON", default_value = "null", requires = "then")]
    then_input: String,
    /// Require workers with this tag for the follow-up run; may be given more than once
    #[arg(long, value_name = "TAG", requires = "then")]
    then_tag: Vec<String>,
    /// Do not seal the batch, so that runs can be added later
    #[arg(long)]
    open: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The batch's name
    name: String,
    /// Print the progress until the batch has ended
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CancelBatch {
    /// The batch's name
    name: String,
    /// The reason, kept in the journals
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    connect: ConnectArgs,
}

impl BatchCommand {
    pub(crate) async fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        match self {
            Self::Start(start) => start.execute(terminal).await,
            Self::Show(show) => show.execute(terminal).await,
            Self::Cancel(cancel) => cancel.execute(terminal).await,
        }
    }
}

impl StartBatch {
    async fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => named_after(&self.file)?,
        };
        let runs = self.runs(&name, &text_of(&self.file)?)?;
        let follow_up = match &self.then {
            Some(workflow) => Some((workflow.clone(), payload(&self.then_input, "--then-input")?)),
            None => None,
        };
        let connection = self.connect.open().await?;
        let bar = bar(terminal, runs.len() as u64, "started");
        let (mut started, mut existed, mut refused) = (0, 0, Vec::new());
        let mut calls: Vec<_> = runs.chunks(CALL).map(<[_]>::to_vec).collect();
        let last = calls.pop().unwrap_or_default();
        let calls = calls.into_iter().map(|runs| (runs, false));
        let mut batch = None;
        for (runs, is_last) in calls.chain([(last, true)]) {
            let seals = is_last && !self.open && refused.is_empty();
            let mut call = connection
                .client
                .batch(&name)
                .starts_raw(&self.workflow, &self.queue, runs)
                .priority(self.priority)
                .delay(self.delay.unwrap_or_default())
                .tags(self.tag.iter().cloned());
            if let Some((workflow, input)) = &follow_up {
                call = call
                    .then_raw(workflow, &self.queue, input.clone())
                    .then_tags(self.then_tag.iter().cloned());
            }
            let told = match seals {
                true => call.start().await,
                false => call.add().await,
            };
            let told = told.map_err(|e| asked(&e))?;
            for run in told.runs {
                match run {
                    Ok(run) if run.started() => started += 1,
                    Ok(_) => existed += 1,
                    Err(refusal) => refused.push(refusal.to_string()),
                }
            }
            bar.set_position(started + existed);
            batch = Some(told.batch);
        }
        bar.finish_and_clear();
        connection.close().await;
        let Some(batch) = batch else {
            return Ok(Answer::No);
        };
        let mut document = document(&batch);
        document["started"] = json!(started);
        document["existed"] = json!(existed);
        document["refused"] = json!(refused);
        terminal.data(&document, || started_text(&batch, started, existed))?;
        for reason in refused.iter().take(10) {
            terminal.note(format_args!("refused: {reason}"));
        }
        Ok(match refused.is_empty() {
            true => Answer::Yes,
            false => Answer::No,
        })
    }

    /// A run for each line that is not empty.
    fn runs(
        &self,
        batch: &str,
        text: &str,
    ) -> Result<Vec<(Option<String>, Payload)>, CommandError> {
        let mut runs = Vec::new();
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let lines = text.lines().enumerate();
        for (index, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
            let number = index + 1;
            let place = format!("line {number} of {}", self.file);
            let input: Value = serde_json::from_str(line).map_err(|e| {
                CommandError::bad_input(format!("{place} is not JSON")).caused_by(&e)
            })?;
            let name = match &self.name_field {
                None => number.to_string(),
                Some(field) => field_of(&input, field).ok_or_else(|| {
                    CommandError::bad_input(format!(
                        "{place} has no field `{field}` that is a text or a number"
                    ))
                })?,
            };
            if let Some(before) = seen.insert(name.clone(), number) {
                return Err(CommandError::bad_input(format!(
                    "{place} names the same run as line {before}: `{name}`"
                )));
            }
            let payload = Payload::from_json(&input).map_err(|e| {
                CommandError::bad_input(format!("{place} does not become a payload")).caused_by(&e)
            })?;
            runs.push((Some(format!("{batch}/{name}")), payload));
        }
        Ok(runs)
    }
}

fn field_of(input: &Value, field: &str) -> Option<String> {
    match input.get(field)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn named_after(file: &str) -> Result<String, CommandError> {
    let stem = std::path::Path::new(file).file_stem();
    match stem.and_then(|stem| stem.to_str()) {
        Some(name) if file != "-" => Ok(name.to_owned()),
        _ => Err(CommandError::bad_input("the batch has no name").hint("give it one: --name NAME")),
    }
}

fn text_of(file: &str) -> Result<String, CommandError> {
    let read = match file {
        "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        }
        path => std::fs::read_to_string(path),
    };
    read.map_err(|e| CommandError::bad_input(format!("{file} cannot be read")).caused_by(&e))
}

fn payload(json: &str, from: &str) -> Result<Payload, CommandError> {
    let value: Value = serde_json::from_str(json)
        .map_err(|e| CommandError::bad_input(format!("{from} is not JSON")).caused_by(&e))?;
    Payload::from_json(&value).map_err(|e| {
        CommandError::bad_input(format!("{from} does not become a payload")).caused_by(&e)
    })
}

impl Show {
    async fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        let connection = self.connect.open().await?;
        let mut batch = self.ask(&connection).await?;
        if self.watch && batch.ended_at.is_none() {
            if connection.is_still() {
                terminal.note("no engine runs here: nothing moves while this command has it open");
            } else {
                batch = self.follow(&connection, batch, terminal).await?;
            }
        }
        connection.close().await;
        terminal.data(&document(&batch), || text(&batch))?;
        let is_well = batch.counts.dead == 0 || batch.ended_at.is_none();
        Ok(match is_well {
            true => Answer::Yes,
            false => Answer::No,
        })
    }

    async fn ask(&self, connection: &Connection) -> Result<BatchSummary, CommandError> {
        let status = connection.client.batch_status(&self.name).await;
        status.map_err(|e| asked(&e))
    }

    /// Shows how it goes on, until it has ended.
    async fn follow(
        &self,
        connection: &Connection,
        batch: BatchSummary,
        terminal: Terminal,
    ) -> Result<BatchSummary, CommandError> {
        let bar = bar(terminal, batch.counts.total, "ended");
        let mut batch = batch;
        let mut told = u64::MAX;
        while batch.ended_at.is_none() {
            let counts = batch.counts;
            bar.set_length(counts.total);
            bar.set_position(counts.ended());
            bar.set_message(format!("{} dead", grouped(counts.dead)));
            if !terminal.draws() && counts.ended() != told {
                told = counts.ended();
                let (ended, total) = (grouped(told), grouped(counts.total));
                terminal.note(format_args!("{ended} of {total} ended"));
            }
            tokio::time::sleep(LOOK).await;
            batch = self.ask(connection).await?;
        }
        bar.finish_and_clear();
        Ok(batch)
    }
}

impl CancelBatch {
    async fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        let connection = self.connect.open().await?;
        let asks = spinner(terminal, "requesting cancellation of its runs");
        let told = connection.client.cancel_batch(&self.name, &self.reason).await;
        asks.finish_and_clear();
        let told = told.map_err(|e| asked(&e))?;
        connection.close().await;
        let mut document = document(&told.batch);
        document["cancel_requested"] = json!(told.asked);
        terminal.data(&document, || cancelled_text(&told))?;
        Ok(Answer::Yes)
    }
}

fn cancelled_text(told: &BatchCancelled) -> String {
    let (batch, counts) = (&told.batch, told.batch.counts);
    let runs = counted(told.asked, "run", "runs");
    let (ended, total) = (grouped(counts.ended()), grouped(counts.total));
    format!(
        "{}: cancellation requested for {runs}; {ended} of {total} ended; it is {}",
        batch.name,
        state(batch)
    )
}

fn bar(terminal: Terminal, total: u64, what: &str) -> ProgressBar {
    if !terminal.draws() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
    let template =
        format!("  [{{bar:50}}] {{human_pos}} of {{human_len}} {what}, {{elapsed}}  {{msg}}");
    let style = ProgressStyle::with_template(&template);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    bar
}

fn document(batch: &BatchSummary) -> Value {
    let counts = batch.counts;
    json!({
        "name": batch.name,
        "sealed": batch.sealed,
        "ended": batch.ended_at.is_some(),
        "opened_at": batch.opened_at.to_string(),
        "ended_at": batch.ended_at.map(|at| at.to_string()),
        "counts": {
            "total": counts.total,
            "ended": counts.ended(),
            "completed": counts.completed,
            "dead": counts.dead,
            "cancelled": counts.cancelled,
        },
        "follow_up": batch.follow_up.map(|id| id.to_string()),
    })
}

fn state(batch: &BatchSummary) -> &'static str {
    match (batch.ended_at, batch.sealed) {
        (Some(_), _) => "ended",
        (None, true) => "sealed",
        (None, false) => "open",
    }
}

fn started_text(batch: &BatchSummary, started: u64, existed: u64) -> String {
    let runs = counted(started, "run", "runs");
    let existed = match existed {
        0 => String::new(),
        some => format!(", {} existed already", grouped(some)),
    };
    format!("{}: {runs} started{existed}; it is {}", batch.name, state(batch))
}

fn text(batch: &BatchSummary) -> String {
    let counts = batch.counts;
    let mut rows = vec![
        ("batch", batch.name.clone()),
        ("state", state(batch).to_owned()),
        ("runs", grouped(counts.total)),
        ("ended", grouped(counts.ended())),
        ("completed", grouped(counts.completed)),
        ("dead", grouped(counts.dead)),
        ("cancelled", grouped(counts.cancelled)),
        ("opened", batch.opened_at.to_string()),
    ];
    rows.extend(batch.ended_at.map(|at| ("ended at", at.to_string())));
    rows.extend(batch.follow_up.map(|id| ("follow-up", id.to_string())));
    pairs(rows)
}
