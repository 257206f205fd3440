//! `stepwell audit`: the log of what operators did.

use clap::Args;
use serde_json::{Value, json};
use stepwell::model::dead::AuditEntry;

use crate::clock;
use crate::connection::{ConnectArgs, asked};
use crate::failure::{Answer, CommandError};
use crate::terminal::{Column, Terminal, table};

/// How many rows a listing has unless told otherwise.
const ROWS: u32 = 50;
/// Rows asked for at once.
const PAGE: u32 = 200;

#[derive(Debug, Args)]
pub(crate) struct AuditCommand {
    /// List only the entries of this run, by its id (`run_…`) or its name
    run: Option<String>,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = ROWS, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    connect: ConnectArgs,
}

impl AuditCommand {
    pub(crate) async fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        let connection = self.connect.open().await?;
        let run = self.run.as_ref().map(|run| connection.run(run));
        let (limit, mut entries, mut behind) = (self.limit as usize, Vec::new(), None);
        loop {
            let left = u32::try_from(limit - entries.len()).unwrap_or(PAGE).min(PAGE);
            let page = connection.client.audit(run, behind, left).await;
            let (page, next) = page.map_err(|e| asked(&e))?;
            entries.extend(page);
            behind = next;
            if behind.is_none() || entries.len() >= limit {
                break;
            }
        }
        let more = behind.is_some();
        let document =
            json!({ "entries": entries.iter().map(entry_json).collect::<Vec<_>>(), "more": more });
        terminal.data(&document, || entries_text(&entries))?;
        if more && !terminal.json {
            terminal.note("there are more: ask with a higher --limit");
        }
        connection.close().await;
        Ok(Answer::Yes)
    }
}

fn entries_text(entries: &[AuditEntry]) -> String {
    let row = |entry: &AuditEntry| {
        let run = entry.run.map(|id| id.to_string()).unwrap_or_default();
        let subject = match entry.subject.is_empty() {
            true => run,
            false => entry.subject.clone(),
        };
        vec![
            clock::seconds(&entry.at.to_string()),
            entry.principal.clone(),
            entry.action.to_string(),
            subject,
            entry.detail.clone(),
        ]
    };
    table(
        &[
            Column::Left("WHEN"),
            Column::Left("WHO"),
            Column::Left("ACTION"),
            Column::Left("ON"),
            Column::Left("DETAIL"),
        ],
        entries.iter().map(row).collect(),
    )
}

fn entry_json(entry: &AuditEntry) -> Value {
    json!({
        "at": entry.at.to_string(),
        "principal": entry.principal,
        "action": entry.action.as_str(),
        "run": entry.run.map(|id| id.to_string()),
        "subject": entry.subject,
        "detail": entry.detail,
    })
}
