//! One dead letter: its input, every attempt, why it died.

use serde_json::{Value, json};
use stepwell::model::dead::Superseded;
use stepwell::model::entry::Entry;
use stepwell::model::failure::Failure;
use stepwell::model::failure::displayed_class;
use stepwell::model::id::{CommandIndex, ProcessInstance};
use stepwell::model::payload::Payload;
use stepwell::model::run::RunState;
use stepwell::model::time::Time;

use crate::connection::asked;
use crate::failure::{Answer, CommandError};
use crate::run::{One, journal, summary};
use crate::terminal::{Column, Terminal, table};

/// A failure that the journal holds.
struct Attempt<'a> {
    at: Time,
    /// The step's number and name; none for the function itself.
    step: Option<(CommandIndex, &'a str)>,
    attempt: Option<u32>,
    failure: &'a Failure,
    worker: ProcessInstance,
    build: &'a str,
    superseded: bool,
}

impl Attempt<'_> {
    /// Whether it is the run's end, and no attempt.
    fn is_death(&self) -> bool {
        self.step.is_none() && self.attempt.is_none()
    }
}

pub(super) async fn show(one: &One, terminal: Terminal) -> Result<Answer, CommandError> {
    let connection = one.connect.open().await?;
    let id = connection.run(&one.run);
    let failed = |e| asked(&e).calling(id, &one.run);
    let run = connection.client.status(id).await.map_err(failed)?;
    if run.state != RunState::Dead {
        return Err(CommandError::refused_as(
            "not_dead",
            format!("{id} is {}: it is not a dead letter", run.state),
        )
        .hint(format!("`stepwell run show {id}` prints it"))
        .calling(id, &one.run));
    }
    let entries = connection.client.journal(id).await.map_err(failed)?;
    let attempts = attempts(&entries);
    let (input, edited) = input(&entries);
    let input = input.map_or(Value::Null, journal::payload_json);
    let mut document = summary::json(&run);
    document["input"] = input.clone();
    document["edited"] = json!(edited);
    let death = attempts.iter().rev().find(|attempt| attempt.is_death());
    document["class"] = json!(death.map(|death| displayed_class(&death.failure.class)));
    document["died_at"] = json!(death.map(|death| death.at.to_string()));
    document["redriven"] = json!(redriven(&entries));
    document["attempts"] = json!(attempts.iter().map(attempt_json).collect::<Vec<_>>());
    document["journal"] = json!(journal::json(&entries));
    terminal.data(&document, || {
        let pretty = serde_json::to_string_pretty(&input).unwrap_or_default();
        let head = if edited { "input, edited" } else { "input" };
        format!(
            "{}\n{head}\n{pretty}\n\n{}\n{}",
            summary::header_text(&run),
            attempts_text(&attempts),
            journal::text(&entries)
        )
    })?;
    connection.close().await;
    Ok(Answer::Yes)
}

/// What the function gets when it is redriven, and whether somebody edited it.
pub(super) fn input(entries: &[Entry]) -> (Option<&Payload>, bool) {
    let edited = entries.iter().rev().find_map(|entry| match entry {
        Entry::InputEdited(edited) => Some(&edited.input),
        _ => None,
    });
    let started = entries.iter().find_map(|entry| match entry {
        Entry::Started(started) => Some(&started.input),
        _ => None,
    });
    (edited.or(started), edited.is_some())
}

/// How often it was redriven.
fn redriven(entries: &[Entry]) -> usize {
    entries.iter().filter(|entry| matches!(entry, Entry::Redriven(_))).count()
}

fn attempts(entries: &[Entry]) -> Vec<Attempt<'_>> {
    let superseded = Superseded::of((0..).zip(entries));
    let step = |number, name| (number != CommandIndex::FUNCTION).then_some((number, name));
    let attempt = |(index, entry)| {
        let superseded = superseded.covers(index, entry);
        match entry {
            Entry::AttemptFailed(e) => Some(Attempt {
                at: e.at,
                step: step(e.number, e.location.name.as_str()),
                attempt: Some(e.attempt),
                failure: &e.failure,
                worker: e.process,
                build: &e.build,
                superseded,
            }),
            Entry::StepFailed(e) => Some(Attempt {
                at: e.at,
                step: step(e.number, e.location.name.as_str()),
                attempt: Some(e.attempt),
                failure: &e.failure,
                worker: e.process,
                build: &e.build,
                superseded,
            }),
            Entry::Died(e) => Some(Attempt {
                at: e.at,
                step: None,
                attempt: None,
                failure: &e.failure,
                worker: e.process,
                build: &e.build,
                superseded,
            }),
            _ => None,
        }
    };
    (0..).zip(entries).filter_map(attempt).collect()
}

fn attempt_json(attempt: &Attempt<'_>) -> Value {
    json!({
        "at": attempt.at.to_string(),
        "command_index": attempt.step.map(|(number, _)| number.0),
        "name": attempt.step.map(|(_, name)| name),
        "attempt": attempt.attempt,
        "failure": journal::failure_json(attempt.failure),
        "worker": journal::worker(attempt.worker),
        "build": attempt.build,
        "superseded": attempt.superseded,
    })
}

fn attempts_text(attempts: &[Attempt<'_>]) -> String {
    let row = |attempt: &Attempt<'_>| {
        let step = match (attempt.step, attempt.attempt) {
            (Some((number, name)), _) => format!("{number} {name}"),
            (None, Some(_)) => "the function".to_owned(),
            (None, None) => "died".to_owned(),
        };
        vec![
            attempt.at.to_string(),
            step,
            attempt.attempt.map_or_else(String::new, |n| n.to_string()),
            displayed_class(&attempt.failure.class).to_owned(),
            journal::worker(attempt.worker).unwrap_or_else(|| "no worker".to_owned()),
            attempt.build.to_owned(),
            match attempt.superseded {
                true => format!("(redriven since) {}", attempt.failure),
                false => attempt.failure.to_string(),
            },
        ]
    };
    table(
        &[
            Column::Left("FAILED"),
            Column::Left("STEP"),
            Column::Right("ATTEMPT"),
            Column::Left("CLASS"),
            Column::Left("WORKER"),
            Column::Left("BUILD"),
            Column::Left("WHY"),
        ],
        attempts.iter().map(row).collect(),
    )
}
