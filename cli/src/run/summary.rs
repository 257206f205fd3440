//! A run as lists and headers tell it.

use serde_json::{Value, json};
use stepwell::model::run::{RunState, RunSummary};

use crate::clock;
use crate::terminal::{Column, pairs, table};

/// Runs as a table. The name stands for the id where there is one; both are accepted everywhere.
pub(crate) fn list_text(runs: &[RunSummary]) -> String {
    let rows = runs
        .iter()
        .map(|run| {
            vec![
                run.name.clone().unwrap_or_else(|| run.id.to_string()),
                run.workflow.clone(),
                run.queue.clone(),
                run.state.to_string(),
                run.entries.to_string(),
                clock::seconds(&run.started_at.to_string()),
                run.reason.as_deref().map(first_line).unwrap_or_default(),
            ]
        })
        .collect();
    table(
        &[
            Column::Left("RUN"),
            Column::Left("WORKFLOW"),
            Column::Left("QUEUE"),
            Column::Left("STATE"),
            Column::Right("ENTRIES"),
            Column::Left("STARTED"),
            Column::Left("REASON"),
        ],
        rows,
    )
}

/// A run's header.
pub(crate) fn header_text(run: &RunSummary) -> String {
    let mut rows = vec![("run", run.id.to_string())];
    rows.extend(run.name.clone().map(|name| ("name", name)));
    rows.extend([
        ("workflow", run.workflow.clone()),
        ("queue", run.queue.clone()),
        ("state", state_text(run)),
        ("started", run.started_at.to_string()),
        ("changed", run.changed_at.to_string()),
        ("entries", run.entries.to_string()),
    ]);
    rows.extend(run.process.map(|worker| ("worker", worker.to_string())));
    let mut text = pairs(rows);
    if let Some(reason) = &run.reason {
        text.push('\n');
        for line in reason.lines() {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// A run for programs.
pub(crate) fn json(run: &RunSummary) -> Value {
    json!({
        "id": run.id.to_string(),
        "name": run.name,
        "run_number": run.no.0,
        "workflow": run.workflow,
        "queue": run.queue,
        "state": run.state.as_str(),
        "started_at": run.started_at.to_string(),
        "changed_at": run.changed_at.to_string(),
        "entries": run.entries,
        "wakes_at": run.wakes_at.map(|t| t.to_string()),
        "reason": run.reason,
        "worker": run.process.map(|i| i.to_string()),
    })
}

fn state_text(run: &RunSummary) -> String {
    match run.wakes_at {
        Some(at) if matches!(run.state, RunState::Suspended | RunState::Delayed) => {
            format!("{}, wakes {at}", run.state)
        }
        _ => run.state.to_string(),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}
