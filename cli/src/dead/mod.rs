//! `stepwell dead …`: list, edit, redrive and discard runs that failed for good.

mod edit;
mod many;
mod show;

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use stepwell::model::dead::{DeadFilter, DeadLetter};
use stepwell::model::failure::displayed_class;
use stepwell::{Client, Time};

use crate::clock;
use crate::connection::{ConnectArgs, asked};
use crate::failure::{Answer, CommandError};
use crate::quantity;
use crate::run::One;
use crate::terminal::{Column, Terminal, table};

/// How many rows a listing has unless told otherwise.
const ROWS: u32 = 50;
/// Rows asked for at once.
const PAGE: u32 = 200;

#[derive(Debug, Subcommand)]
pub(crate) enum DeadCommand {
    /// List dead letters, newest first
    List(ListDead),
    /// Print a dead letter: its input, every attempt and its failure
    Show(One),
    /// Replace the input of a dead letter; takes effect at the next redrive
    Edit(edit::Edit),
    /// Send dead letters back to their queues: completed steps are kept, the failed one is retried
    Redrive(many::RedriveCommand),
    /// Take dead letters off the list; the runs stay ended
    Discard(many::DiscardCommand),
}

/// Which dead letters are meant.
#[derive(Debug, Clone, Args)]
pub(crate) struct Filter {
    /// Only dead letters of this queue
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// Only dead letters of this workflow
    #[arg(long, value_name = "WORKFLOW")]
    workflow: Option<String>,
    /// Only dead letters of this error class, as `dead list` prints it
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
    /// Only runs that died longer ago than this (10m, 2h, 7d)
    #[arg(long, value_name = "DURATION", value_parser = quantity::span)]
    older_than: Option<Duration>,
    /// Only runs that died within this time
    #[arg(long, value_name = "DURATION", value_parser = quantity::span)]
    younger_than: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct ListDead {
    #[command(flatten)]
    filter: Filter,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = ROWS, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    connect: ConnectArgs,
}

impl DeadCommand {
    pub(crate) async fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        match self {
            Self::List(list) => list.execute(terminal).await,
            Self::Show(one) => show::show(&one, terminal).await,
            Self::Edit(edit) => edit.execute(terminal).await,
            Self::Redrive(redrive) => redrive.execute(terminal).await,
            Self::Discard(discard) => discard.execute(terminal).await,
        }
    }
}

impl Filter {
    /// Whether it leaves anything out.
    fn is_set(&self) -> bool {
        let texts = [&self.queue, &self.workflow, &self.class];
        texts.into_iter().any(Option::is_some)
            || self.older_than.is_some()
            || self.younger_than.is_some()
    }

    /// The filter; ages are counted by the engine's time.
    async fn of(&self, client: &Client) -> Result<DeadFilter, CommandError> {
        let ages = self.older_than.is_some() || self.younger_than.is_some();
        let now = match ages {
            true => client.stats().await.map_err(|e| asked(&e))?.now,
            false => Time(0),
        };
        let ago = |span: Duration| {
            let ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
            Time(now.0.saturating_sub(ms))
        };
        let mut filter = DeadFilter::default()
            .since(self.younger_than.map(ago))
            .before(self.older_than.map(ago));
        filter.queue.clone_from(&self.queue);
        filter.workflow.clone_from(&self.workflow);
        filter.class.clone_from(&self.class);
        Ok(filter)
    }
}

/// Up to `limit` dead letters, page by page, and whether there are more.
async fn letters(
    client: &Client,
    filter: &DeadFilter,
    limit: usize,
) -> Result<(Vec<DeadLetter>, bool), CommandError> {
    let (mut found, mut behind) = (Vec::new(), None);
    loop {
        let left = u32::try_from(limit - found.len()).unwrap_or(PAGE).min(PAGE);
        let page = client.dead_letters(filter, behind, left).await;
        let (page, next) = page.map_err(|e| asked(&e))?;
        found.extend(page);
        behind = next;
        if behind.is_none() || found.len() >= limit {
            return Ok((found, behind.is_some()));
        }
    }
}

impl ListDead {
    async fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        let connection = self.connect.open().await?;
        let filter = self.filter.of(&connection.client).await?;
        let (found, more) = letters(&connection.client, &filter, self.limit as usize).await?;
        let document = json!({ "dead_letters": found.iter().map(letter_json).collect::<Vec<_>>(), "more": more });
        terminal.data(&document, || list_text(&found))?;
        if more && !terminal.json {
            terminal.note("there are more: ask with a higher --limit");
        }
        connection.close().await;
        Ok(Answer::Yes)
    }
}

/// Dead letters as a table. The name stands for the id where there is one; both are accepted
/// everywhere.
fn list_text(letters: &[DeadLetter]) -> String {
    let row = |letter: &DeadLetter| {
        vec![
            letter.name.clone().unwrap_or_else(|| letter.id.to_string()),
            letter.workflow.clone(),
            letter.queue.clone(),
            displayed_class(&letter.class).to_owned(),
            clock::seconds(&letter.died_at.to_string()),
            letter.redriven.to_string(),
            letter.message.lines().next().unwrap_or_default().to_owned(),
        ]
    };
    table(
        &[
            Column::Left("RUN"),
            Column::Left("WORKFLOW"),
            Column::Left("QUEUE"),
            Column::Left("CLASS"),
            Column::Left("DIED"),
            Column::Right("REDRIVEN"),
            Column::Left("WHY"),
        ],
        letters.iter().map(row).collect(),
    )
}

/// A dead letter for programs.
fn letter_json(letter: &DeadLetter) -> Value {
    json!({
        "id": letter.id.to_string(),
        "name": letter.name,
        "run_number": letter.no.0,
        "workflow": letter.workflow,
        "queue": letter.queue,
        "class": displayed_class(&letter.class),
        "message": letter.message,
        "started_at": letter.started_at.to_string(),
        "died_at": letter.died_at.to_string(),
        "entries": letter.entries,
        "worker": letter.process.map(|who| who.to_string()),
        "build": letter.build,
        "redriven": letter.redriven,
        "edited": letter.edited,
    })
}
