//! `stepwell stats`: every state counted, and what the engine has done since it opened.

use clap::Args;
use serde_json::{Map, json};
use stepwell::model::run::{RunState, Stats};

use crate::connection::{ConnectArgs, asked};
use crate::failure::{Answer, CommandError};
use crate::quantity::{bytes_text, grouped};
use crate::terminal::{Terminal, pairs};

#[derive(Debug, Args)]
pub(crate) struct StatsCommand {
    #[command(flatten)]
    connect: ConnectArgs,
}

impl StatsCommand {
    pub(crate) async fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        let connection = self.connect.open().await?;
        let stats = connection.client.stats().await.map_err(|e| asked(&e))?;
        terminal.data(&json(&stats), || text(&stats))?;
        connection.close().await;
        Ok(Answer::Yes)
    }
}

fn json(stats: &Stats) -> serde_json::Value {
    let runs: Map<_, _> =
        RunState::ALL.iter().map(|s| (s.as_str().to_owned(), json!(stats.runs_in(*s)))).collect();
    json!({
        "runs": runs,
        "workers": stats.workers,
        "steps_completed": stats.steps,
        "outcomes_replayed": stats.replayed,
        "dispatches": stats.dispatches,
        "redeliveries": stats.redeliveries,
        "late_reports_refused": stats.refused_late,
        "duplicate_reports": stats.repeated,
        "sessions_lost": stats.sessions_lost,
        "commits": stats.commits,
        "wal_bytes": stats.wal_bytes,
        "disk_bytes": stats.disk_bytes,
        "store": format!("{:016x}", stats.store),
        "epoch": stats.epoch,
        "engine_time": stats.now.to_string(),
    })
}

fn text(stats: &Stats) -> String {
    let mut text =
        pairs(RunState::ALL.iter().map(|s| (s.as_str(), grouped(stats.runs_in(*s)))).collect());
    text.push('\n');
    text.push_str(&pairs(vec![
        ("workers connected", grouped(stats.workers)),
        ("disk", bytes_text(stats.disk_bytes)),
        ("engine time", stats.now.to_string()),
        ("store", format!("{:016x}, epoch {}", stats.store, stats.epoch)),
    ]));
    text.push_str("\nsince it was opened\n");
    text.push_str(&pairs(vec![
        ("steps completed", grouped(stats.steps)),
        ("outcomes replayed", grouped(stats.replayed)),
        ("dispatches", grouped(stats.dispatches)),
        ("redeliveries", grouped(stats.redeliveries)),
        ("late reports refused", grouped(stats.refused_late)),
        ("duplicate reports", grouped(stats.repeated)),
        ("sessions lost", grouped(stats.sessions_lost)),
        ("commits", grouped(stats.commits)),
        ("written to the write-ahead log", bytes_text(stats.wal_bytes)),
    ]));
    text
}
