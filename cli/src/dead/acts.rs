//! What operators did.

use clap::Args;
use serde_json::{Value, json};
use stepwell::model::dead::Act;

use crate::clock;
use crate::failure::{Answer, CommandError};
use crate::reach::{Reach, asked};
use crate::terminal::{Column, Terminal, table};

/// Rows asked for at once.
const PAGE: u32 = 200;

#[derive(Debug, Args)]
pub(crate) struct Acts {
    /// Only what was done with this run: its id (`run_…`) or its name
    run: Option<String>,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = super::ROWS, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    reach: Reach,
}

impl Acts {
    pub(super) async fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        let door = self.reach.open().await?;
        let run = self.run.as_ref().map(|run| door.run(run));
        let (limit, mut acts, mut behind) = (self.limit as usize, Vec::new(), None);
        loop {
            let left = u32::try_from(limit - acts.len()).unwrap_or(PAGE).min(PAGE);
            let page = door.client.acts(run, behind, left).await;
            let (page, next) = page.map_err(|e| asked(&e))?;
            acts.extend(page);
            behind = next;
            if behind.is_none() || acts.len() >= limit {
                break;
            }
        }
        let more = behind.is_some();
        let document =
            json!({ "acts": acts.iter().map(act_json).collect::<Vec<_>>(), "more": more });
        terminal.data(&document, || acts_text(&acts))?;
        if more && !terminal.json {
            terminal.note("there are more: ask with a higher --limit");
        }
        door.close().await;
        Ok(Answer::Yes)
    }
}

fn acts_text(acts: &[Act]) -> String {
    let row = |act: &Act| {
        let run = act.run.map(|id| id.to_string()).unwrap_or_default();
        let subject = match act.subject.is_empty() {
            true => run,
            false => act.subject.clone(),
        };
        vec![
            clock::seconds(&act.at.to_string()),
            act.principal.clone(),
            act.kind.to_string(),
            subject,
            act.detail.clone(),
        ]
    };
    table(
        &[
            Column::Left("WHEN"),
            Column::Left("WHO"),
            Column::Left("ACT"),
            Column::Left("ON"),
            Column::Left("DETAIL"),
        ],
        acts.iter().map(row).collect(),
    )
}

fn act_json(act: &Act) -> Value {
    json!({
        "at": act.at.to_string(),
        "principal": act.principal,
        "act": act.kind.word(),
        "run": act.run.map(|id| id.to_string()),
        "subject": act.subject,
        "detail": act.detail,
    })
}
