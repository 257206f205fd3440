//! Redriving and discarding, one dead letter or many.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use stepwell::model::dead::DeadFilter;
use stepwell::model::id::RunId;
use stepwell::runtime::client::dead::BulkAction;
use stepwell::{Client, ClientError, Refusal, RunState};

use super::{Filter, letter_json, letters, list_text};
use crate::connection::{ConnectArgs, Connection, asked};
use crate::failure::{Answer, CommandError};
use crate::quantity::{counted, per_second};
use crate::terminal::{Terminal, spinner};

/// Letters counted beforehand at most, for the bar and the question.
const COUNT_MAX: usize = 100_000;
/// Letters that a dry run prints.
const SHOWN: usize = 50;

/// Which of them, and how fast.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// These runs: ids (`run_…`) or names
    #[arg(value_name = "RUN")]
    runs: Vec<String>,
    /// All dead letters matching the filters
    #[arg(long, conflicts_with = "runs")]
    all: bool,
    #[command(flatten)]
    filter: Filter,
    /// Limit the rate to N dead letters per second: 50/s
    #[arg(long, value_name = "N/s", value_parser = per_second)]
    rate: Option<u32>,
    /// Print the dead letters that match, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RedriveCommand {
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
pub(crate) struct DiscardCommand {
    #[command(flatten)]
    which: Which,
    /// The reason, kept in the journal and the audit log
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

impl RedriveCommand {
    pub(super) async fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        self.which.execute(&BulkAction::Redrive, terminal).await
    }
}

impl DiscardCommand {
    pub(super) async fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        let action = BulkAction::Discard(self.reason);
        self.which.execute(&action, terminal).await
    }
}

/// What has been done.
#[derive(Default)]
struct Done {
    done: Vec<RunId>,
    refused: Vec<(RunId, Refusal)>,
    /// What who asked calls them.
    names: BTreeMap<RunId, String>,
}

impl Done {
    fn take(&mut self, id: RunId, answer: Result<(), Refusal>) {
        match answer {
            Ok(()) => self.done.push(id),
            Err(refusal) => self.refused.push((id, refusal)),
        }
    }
}

impl Which {
    async fn execute(
        &self,
        action: &BulkAction,
        terminal: Terminal,
    ) -> Result<Answer, CommandError> {
        if self.runs.is_empty() && !self.all && !self.filter.is_set() {
            return Err(CommandError::bad_input("no run is named, and no filter")
                .hint("name runs, or some of --queue, --workflow, --class, --older-than, --younger-than, or --all"));
        }
        if !self.runs.is_empty() && self.filter.is_set() {
            return Err(CommandError::bad_input("runs are named, and a filter is given")
                .hint("name the runs, or say by a filter which are meant, not both"));
        }
        let connection = self.connect.open().await?;
        let answer = match self.runs.is_empty() {
            false => self.named(&connection, action, terminal).await,
            true => self.filtered(&connection, action, terminal).await,
        };
        connection.close().await;
        answer
    }

    /// The runs that are named, one after the other.
    async fn named(
        &self,
        connection: &Connection,
        action: &BulkAction,
        terminal: Terminal,
    ) -> Result<Answer, CommandError> {
        let ids: Vec<RunId> = self.runs.iter().map(|run| connection.run(run)).collect();
        if self.dry_run {
            return self.named_dry(&ids, connection, action, terminal).await;
        }
        let mut done = Done::default();
        done.names.extend(ids.iter().copied().zip(self.runs.iter().cloned()));
        for (id, name) in ids.into_iter().zip(&self.runs) {
            let answer = match action {
                BulkAction::Redrive => connection.client.redrive(id).await,
                BulkAction::Discard(reason) => connection.client.discard(id, reason).await,
            };
            match answer {
                // What is said of the only one is the command's own answer.
                Err(error) if self.runs.len() == 1 => {
                    return Err(explained(&error, id).calling(id, name));
                }
                Err(ClientError::Refused(refusal)) => done.take(id, Err(refusal)),
                answer => done.take(id, Ok(answer.map_err(|e| asked(&e))?)),
            }
            if let Some(rate) = self.rate {
                tokio::time::sleep(Duration::from_secs(1) / rate).await;
            }
        }
        tell(&done, action, terminal)
    }

    /// Which of the named runs are dead letters, and what the others are.
    async fn named_dry(
        &self,
        ids: &[RunId],
        connection: &Connection,
        action: &BulkAction,
        terminal: Terminal,
    ) -> Result<Answer, CommandError> {
        let (mut dead, mut others) = (Vec::new(), Vec::new());
        for (id, name) in ids.iter().zip(&self.runs) {
            match connection.client.status(*id).await {
                Ok(run) if run.state == RunState::Dead => dead.push(*id),
                Ok(run) => others.push((name, format!("it is {}", run.state))),
                Err(ClientError::Refused(refusal)) => others.push((name, refusal.to_string())),
                Err(error) => return Err(asked(&error)),
            }
        }
        let document = json!({
            "dry_run": true, "count": dead.len(),
            "runs": dead.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "others": others.iter().map(|(run, why)| json!({ "run": run, "why": why })).collect::<Vec<_>>(),
        });
        terminal.data(&document, || lines(&dead))?;
        if !terminal.json {
            for (run, why) in &others {
                terminal.note(format!("{run} would not be {}: {why}", word(action)));
            }
            let count = counted(dead.len() as u64, "dead letter", "dead letters");
            terminal.note(format!("{count} would be {}; nothing was changed", word(action)));
        }
        Ok(match others.is_empty() {
            true => Answer::Yes,
            false => Answer::No,
        })
    }

    /// All that fit, page by page.
    async fn filtered(
        &self,
        connection: &Connection,
        action: &BulkAction,
        terminal: Terminal,
    ) -> Result<Answer, CommandError> {
        let filter = self.filter.of(&connection.client).await?;
        let looks = spinner(terminal, "looking for dead letters");
        let found = letters(&connection.client, &filter, COUNT_MAX).await;
        looks.finish_and_clear();
        let (found, more) = found?;
        let count = match more {
            true => {
                format!("more than {}", counted(COUNT_MAX as u64, "dead letter", "dead letters"))
            }
            false => counted(found.len() as u64, "dead letter", "dead letters"),
        };
        if self.dry_run {
            let document = json!({
                "dry_run": true, "count": found.len(), "more": more,
                "dead_letters": found.iter().map(letter_json).collect::<Vec<_>>(),
            });
            terminal.data(&document, || list_text(&found[..found.len().min(SHOWN)]))?;
            if !terminal.json {
                terminal.note(format!("{count} would be {}; nothing was changed", word(action)));
            }
            return Ok(Answer::Yes);
        }
        if !found.is_empty() && !self.yes && !consents(&count, action)? {
            terminal.note("nothing was changed");
            return Ok(Answer::No);
        }
        let bar = bar(terminal, found.len() as u64);
        drop(found);
        let done = self.work(&connection.client, &filter, action, &bar).await;
        bar.finish_and_clear();
        tell(&done?, action, terminal)
    }

    async fn work(
        &self,
        client: &Client,
        filter: &DeadFilter,
        action: &BulkAction,
        bar: &ProgressBar,
    ) -> Result<Done, CommandError> {
        let mut done = Done::default();
        let worked = client.dead_many(filter, action, self.rate, |looked| {
            done.take(looked.letter.id, looked.answer);
            bar.inc(1);
        });
        worked
            .await
            .map_err(|e| asked(&e).hint("give the command again: it goes on with what is left"))?;
        Ok(done)
    }
}

/// Asks, if there is somebody to be asked.
fn consents(count: &str, action: &BulkAction) -> Result<bool, CommandError> {
    if !std::io::stdin().is_terminal() {
        return Err(CommandError::bad_input(format!(
            "{count} would be {}, and stdin is not a terminal: pass --yes",
            word(action)
        ))
        .hint("--yes goes on without asking, --dry-run prints the dead letters"));
    }
    let _ = write!(std::io::stderr(), "{count} will be {}: go on? [y/N] ", word(action));
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    read.map_err(|e| CommandError::bad_input("the answer cannot be read").caused_by(&e))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn word(action: &BulkAction) -> &'static str {
    match action {
        BulkAction::Redrive => "redriven",
        BulkAction::Discard(_) => "discarded",
    }
}

fn bar(terminal: Terminal, count: u64) -> ProgressBar {
    if !terminal.draws() || terminal.json {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(count), ProgressDrawTarget::stderr_with_hz(10));
    let style = ProgressStyle::with_template("  [{bar:50}] {human_pos} of {human_len}, {elapsed}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("=> "));
    bar
}

fn lines(ids: &[RunId]) -> String {
    ids.iter().map(|id| format!("{id}\n")).collect()
}

fn tell(done: &Done, action: &BulkAction, terminal: Terminal) -> Result<Answer, CommandError> {
    let refused = |(id, refusal): &(RunId, Refusal)| -> Value {
        json!({ "id": id.to_string(), "why": refusal.to_string() })
    };
    let mut document = json!({
        "refused": done.refused.iter().map(refused).collect::<Vec<_>>(),
    });
    document[word(action)] = json!(done.done.iter().map(ToString::to_string).collect::<Vec<_>>());
    terminal.data(&document, || {
        let count = counted(done.done.len() as u64, "dead letter", "dead letters");
        format!("{count} {}", word(action))
    })?;
    if !terminal.json {
        for (id, refusal) in &done.refused {
            let error = CommandError::refused(refusal);
            let error = match done.names.get(id) {
                Some(name) => error.calling(*id, name),
                None => error,
            };
            terminal.note(format!("refused: {}", error.message));
        }
    }
    Ok(match done.refused.is_empty() {
        true => Answer::Yes,
        false => Answer::No,
    })
}

/// A refusal of the only run that was named, with what to do.
fn explained(error: &ClientError, id: RunId) -> CommandError {
    match error {
        ClientError::Refused(Refusal::WentOn(_)) => asked(error)
            .hint(format!("`stepwell dead show {id}` prints what it did since"))
            .hint(format!("`stepwell dead discard {id}` takes it off the list")),
        ClientError::Refused(Refusal::NotDead(_)) => {
            asked(error).hint(format!("`stepwell run show {id}` prints it"))
        }
        other => asked(other),
    }
}
