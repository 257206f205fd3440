//! `stepwell run …`: start, list, show, cancel and resume runs.

pub(crate) mod journal;
pub(crate) mod summary;

use std::io::Read;
use std::pin::pin;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use stepwell::model::id::RunId;
use stepwell::model::payload::Payload;
use stepwell::model::request::ListRuns;
use stepwell::model::run::{Outcome, RunState, RunSummary};
use stepwell::{Client, Unique};

use crate::connection::{ConnectArgs, Connection, asked};
use crate::failure::{Answer, CommandError};
use crate::quantity;
use crate::terminal::Terminal;

pub(crate) use self::journal::payload_json;

/// After waiting this long for a run, the command tells where it is.
const TELL_AFTER: Duration = Duration::from_secs(2);
/// How many rows a listing has unless told otherwise.
const ROWS: u32 = 50;

#[derive(Debug, Subcommand)]
pub(crate) enum RunCommand {
    /// Start a run; durable when it returns
    Start(Start),
    /// List runs, newest first
    List(List),
    /// Print a run and its journal
    Show(One),
    /// Wait until a run has ended and print its output
    Wait(One),
    /// Request cancellation of a run; its function may clean up
    Cancel(Cancel),
    /// Resume a parked or paused run
    Resume(One),
}

#[derive(Debug, Args)]
pub(crate) struct Start {
    /// The workflow's name
    workflow: String,
    /// The input: JSON, @FILE, or - for stdin
    #[arg(long, value_name = "JSON", default_value = "null")]
    input: String,
    /// Name the run; starting the same name again returns the existing run
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The queue in which the run waits for a worker
    #[arg(long, value_name = "QUEUE", default_value = "default")]
    queue: String,
    /// The priority of the run, 0 (first) to 9 [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: Option<u8>,
    /// Require workers with this tag; may be given more than once
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Queue the run after this delay (10s, 5m, 7d)
    #[arg(long, value_name = "DURATION", value_parser = quantity::span)]
    delay: Option<Duration>,
    /// Return the run that already holds this key instead of starting one
    #[arg(long, value_name = "KEY")]
    unique: Option<String>,
    /// Release the key when a worker first runs it (`started`), when it ends (`ended`), or after a
    /// duration (10s, 5m, 7d)
    #[arg(long, value_name = "UNTIL", default_value = "ended", value_parser = until, requires = "unique")]
    unique_until: Unique,
    /// Wait until the run has ended and print its output
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only runs in this state: delayed, queued, running, suspended, parked, paused, completed,
    /// dead, cancelled, discarded
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Option<RunState>,
    #[command(flatten)]
    page: Page,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Which part of a listing.
#[derive(Debug, Args)]
pub(crate) struct Page {
    /// Only runs of this workflow
    #[arg(long, value_name = "WORKFLOW")]
    workflow: Option<String>,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = ROWS, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct One {
    /// The run: its id (`run_…`) or its name
    pub(crate) run: String,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct Cancel {
    #[command(flatten)]
    one: One,
    /// The reason, kept in the journal
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

impl RunCommand {
    pub(crate) async fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        match self {
            Self::Start(start) => start.execute(terminal).await,
            Self::List(list) => list.execute(terminal).await,
            Self::Show(one) => show(&one, terminal).await,
            Self::Wait(one) => wait(&one, terminal).await,
            Self::Cancel(cancel) => cancel.execute(terminal).await,
            Self::Resume(one) => resume(&one, terminal).await,
        }
    }
}

impl Start {
    async fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        let input = input(&self.input)?;
        let payload = Payload::from_json(&input).map_err(|e| {
            CommandError::bad_input("the input does not become a payload").caused_by(&e)
        })?;
        let connection = self.connect.open().await?;
        let mut start =
            connection.client.start_raw(&self.workflow, payload).queue(&self.queue).tags(&self.tag);
        if let Some(priority) = self.priority {
            start = start.priority(priority);
        }
        if let Some(name) = &self.name {
            start = start.name(name);
        }
        if let Some(key) = &self.unique {
            start = start.unique(key, self.unique_until);
        }
        if let Some(delay) = self.delay {
            start = start.delay(delay);
        }
        let run = start.await.map_err(|e| match &self.name {
            Some(name) => asked(&e).calling(connection.run(name), name),
            None => asked(&e),
        })?;
        let (id, started) = (run.id(), run.started());
        if !self.wait {
            let document = json!({ "id": id.to_string(), "name": self.name, "started": started });
            terminal.data(&document, || {
                match &self.unique {
                    _ if started => id.to_string(),
                    // The name that was asked for, if one was, means another run.
                    Some(key)
                        if self.name.as_ref().is_none_or(|name| connection.run(name) != id) =>
                    {
                        format!("{id} (holds the key {key} already)")
                    }
                    _ => format!("{id} (existed already)"),
                }
            })?;
            connection.close().await;
            return Ok(Answer::Yes);
        }
        terminal.note(if started {
            format!("started {id}")
        } else {
            format!("{id} existed already")
        });
        let name = self.name.unwrap_or_else(|| id.to_string());
        ended(connection, (id, &name), terminal).await
    }
}

impl List {
    async fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        let connection = self.connect.open().await?;
        let list = self.page.list().state(self.state);
        let (runs, more) =
            pages(list, self.page.limit, async |list| connection.client.list(list).await).await?;
        print_list(&runs, more, terminal)?;
        connection.close().await;
        Ok(Answer::Yes)
    }
}

impl Page {
    /// The first page of it.
    pub(crate) fn list(&self) -> ListRuns {
        let mut list = ListRuns::default().limit(self.limit.min(PAGE));
        list.workflow.clone_from(&self.workflow);
        list
    }
}

/// Rows asked for at once.
const PAGE: u32 = stepwell::model::limits::PAGE_ROWS_MAX;

/// Up to `limit` rows, page by page, and whether there are more.
pub(crate) async fn pages(
    mut list: ListRuns,
    limit: u32,
    ask: impl AsyncFn(ListRuns) -> Result<(Vec<RunSummary>, Option<u64>), stepwell::ClientError>,
) -> Result<(Vec<RunSummary>, bool), CommandError> {
    let mut runs = Vec::new();
    loop {
        let left = limit - u32::try_from(runs.len()).unwrap_or(limit).min(limit);
        list.limit = left.min(PAGE);
        let (page, next) = ask(list.clone()).await.map_err(|e| asked(&e))?;
        runs.extend(page);
        list.before = next;
        if next.is_none() || runs.len() >= limit as usize {
            return Ok((runs, next.is_some()));
        }
    }
}

/// Prints a listing.
pub(crate) fn print_list(
    runs: &[RunSummary],
    more: bool,
    terminal: Terminal,
) -> Result<(), CommandError> {
    let document =
        json!({ "runs": runs.iter().map(summary::json).collect::<Vec<_>>(), "more": more });
    terminal.data(&document, || summary::list_text(runs))?;
    if more && !terminal.json {
        terminal.note("there are more: ask with a higher --limit");
    }
    Ok(())
}

/// Prints a run and its journal.
async fn show(one: &One, terminal: Terminal) -> Result<Answer, CommandError> {
    let connection = one.connect.open().await?;
    let id = connection.run(&one.run);
    let run = connection.client.status(id).await.map_err(|e| asked(&e).calling(id, &one.run))?;
    let entries =
        connection.client.journal(id).await.map_err(|e| asked(&e).calling(id, &one.run))?;
    let mut document = summary::json(&run);
    document["journal"] = json!(journal::json(&entries));
    terminal.data(&document, || {
        format!("{}\n{}", summary::header_text(&run), journal::text(&entries))
    })?;
    connection.close().await;
    Ok(Answer::Yes)
}

async fn wait(one: &One, terminal: Terminal) -> Result<Answer, CommandError> {
    let connection = one.connect.open().await?;
    let id = connection.run(&one.run);
    ended(connection, (id, &one.run), terminal).await
}

/// In what state a run is, and why it does not begin if it does not.
async fn where_it_is(client: &Client, id: RunId) -> Option<String> {
    let run = client.status(id).await.ok()?;
    if run.state != RunState::Queued {
        return Some(format!("it is {}", run.state));
    }
    let queue = client.queues().show(&run.queue).await.ok()?;
    let why = queue.reasons.first();
    let why = why.map_or_else(String::new, |why| format!(": {why}"));
    Some(format!("it is queued in `{}`{why}", run.queue))
}

/// Waits for the end of a run and prints it.
async fn ended(
    connection: Connection,
    (id, name): (RunId, &str),
    terminal: Terminal,
) -> Result<Answer, CommandError> {
    // An engine that this command opened has no workers: the run cannot move, so there is nothing
    // to wait for.
    let outcome = {
        let mut outcome = pin!(connection.client.outcome(id, !connection.is_still()));
        let told = async {
            tokio::time::sleep(TELL_AFTER).await;
            where_it_is(&connection.client, id).await
        };
        tokio::select! {
            biased;
            outcome = &mut outcome => outcome,
            told = told => {
                if let Some(told) = told.filter(|_| !terminal.json) {
                    terminal.note(format!("waiting for {name}: {told}"));
                }
                outcome.await
            }
        }
    };
    let outcome = outcome.map_err(|e| asked(&e).calling(id, name))?;
    connection.close().await;
    let (document, text, answer) = outcome_of(id, &outcome);
    if answer == Answer::Yes || terminal.json {
        terminal.data(&document, || text)?;
        return Ok(answer);
    }
    terminal.error(
        &CommandError::fault(text)
            .hint(format!("`stepwell run show {id}` prints its journal"))
            .calling(id, name),
    );
    Ok(answer)
}

fn outcome_of(id: RunId, outcome: &Outcome) -> (Value, String, Answer) {
    let of = |state: RunState, output: Value, failure: Value| json!({ "id": id.to_string(), "state": state.as_str(), "output": output, "failure": failure });
    match outcome {
        Outcome::OutcomeCompleted(done) => {
            let output = journal::payload_json(&done.output);
            let text = serde_json::to_string_pretty(&output).unwrap_or_default();
            (of(RunState::Completed, output, Value::Null), text, Answer::Yes)
        }
        Outcome::OutcomeDead(dead) => (
            of(RunState::Dead, Value::Null, journal::failure_json(&dead.failure)),
            format!("{id} is a dead letter: {}", dead.failure),
            Answer::No,
        ),
        Outcome::OutcomeCancelled(_) => (
            of(RunState::Cancelled, Value::Null, Value::Null),
            format!("{id} was cancelled"),
            Answer::No,
        ),
        Outcome::OutcomePending(pending) => (
            of(pending.state, Value::Null, Value::Null),
            format!("{id} has not ended: it is {}", pending.state),
            Answer::No,
        ),
    }
}

impl Cancel {
    async fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        let connection = self.one.connect.open().await?;
        let id = connection.run(&self.one.run);
        connection
            .client
            .cancel(id, &self.reason)
            .await
            .map_err(|e| asked(&e).calling(id, &self.one.run))?;
        let done = format!("cancellation requested for {}", self.one.run);
        asked_to(&connection, id, "cancel_requested", &done, terminal).await?;
        connection.close().await;
        Ok(Answer::Yes)
    }
}

async fn resume(one: &One, terminal: Terminal) -> Result<Answer, CommandError> {
    let connection = one.connect.open().await?;
    let id = connection.run(&one.run);
    connection.client.resume(id).await.map_err(|e| asked(&e).calling(id, &one.run))?;
    asked_to(&connection, id, "resumed", &format!("{} resumed", one.run), terminal).await?;
    connection.close().await;
    Ok(Answer::Yes)
}

async fn asked_to(
    connection: &Connection,
    id: RunId,
    key: &str,
    done: &str,
    terminal: Terminal,
) -> Result<(), CommandError> {
    let run = connection.client.status(id).await.map_err(|e| asked(&e))?;
    let mut document = summary::json(&run);
    document[key] = json!(true);
    terminal.data(&document, || format!("{done}; it is {}", run.state))
}

/// Reads the input of a run.
pub(crate) fn input(text: &str) -> Result<Value, CommandError> {
    let (json, from) = match text {
        "-" => {
            let mut json = String::new();
            std::io::stdin().read_to_string(&mut json).map_err(|e| {
                CommandError::bad_input("the input cannot be read from stdin").caused_by(&e)
            })?;
            (json, "stdin".to_owned())
        }
        _ => match text.strip_prefix('@') {
            Some(path) => {
                let json = std::fs::read_to_string(path).map_err(|e| {
                    CommandError::bad_input(format!("the input {path} cannot be read"))
                        .caused_by(&e)
                })?;
                (json, path.to_owned())
            }
            None => (text.to_owned(), "--input".to_owned()),
        },
    };
    serde_json::from_str(&json).map_err(|e| {
        CommandError::bad_input(format!("the input from {from} is not JSON"))
            .caused_by(&e)
            .hint("text needs its quotes: --input '\"text\"'; @FILE reads a file, - reads stdin")
    })
}

fn until(text: &str) -> Result<Unique, String> {
    match text {
        "started" => Ok(Unique::UntilStarted),
        "ended" => Ok(Unique::UntilEnded),
        span => quantity::span(span)
            .map(Unique::For)
            .map_err(|e| format!("{e}; or `started`, or `ended`")),
    }
}

fn state(word: &str) -> Result<RunState, String> {
    let words = || RunState::ALL.map(RunState::as_str).join(", ");
    word.parse::<RunState>().map_err(|_| format!("the states are {}", words()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_json() {
        assert_eq!(input("{\"a\":1}").unwrap(), json!({ "a": 1 }));
        let error = input("{a:1}").unwrap_err();
        assert_eq!(error.exit, crate::failure::USAGE);
        assert_eq!(error.message, "the input from --input is not JSON");
    }

    #[test]
    fn the_help_lists_every_state() {
        let help = List::augment_args(clap::Command::new("list")).render_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(help.contains(&RunState::ALL.map(RunState::as_str).join(", ")), "{help}");
    }

    #[test]
    fn states_are_told_by_their_word() {
        assert_eq!(state("parked"), Ok(RunState::Parked));
        assert!(state("gone").unwrap_err().contains("delayed, queued, running"));
    }
}
