//! A run's journal, readable.

use serde_json::{Value, json};
use stepwell::model::entry::{Entry, SourceLocation};
use stepwell::model::failure::{Failure, FailureKind, displayed_class, displayed_failure};
use stepwell::model::id::{CommandIndex, ProcessInstance};
use stepwell::model::payload::Payload;
use stepwell::model::time::Time;

use crate::clock;
use crate::terminal::{Column, table};

/// The longest payload or message in a table's cell, in characters.
const CELL_CHARS: usize = 100;

/// The journal as a table: index, time since the start, kind, command index, name, where in the
/// code, what.
pub(crate) fn text(entries: &[Entry]) -> String {
    let start = entries.first().map_or(Time(0), Entry::at);
    let rows = entries
        .iter()
        .enumerate()
        .map(|(index, entry)| {
            let (name, at) =
                place_of(entry).map_or_else(Default::default, |p| (p.name.clone(), p.at.clone()));
            vec![
                index.to_string(),
                format!("+{:.3} s", entry.at().since(start).as_secs_f64()),
                kind(entry).to_owned(),
                number(entry).map_or_else(String::new, |n| n.to_string()),
                name,
                at,
                cut(&what(entry)),
            ]
        })
        .collect();
    table(
        &[
            Column::Right("ENTRY"),
            Column::Right("TIME"),
            Column::Left("KIND"),
            Column::Right("COMMAND"),
            Column::Left("NAME"),
            Column::Left("LOCATION"),
            Column::Left("WHAT"),
        ],
        rows,
    )
}

/// The journal for programs.
pub(crate) fn json(entries: &[Entry]) -> Vec<Value> {
    entries.iter().enumerate().map(|(index, entry)| entry_json(index, entry)).collect()
}

/// The payload as JSON, or a note of what it is.
pub(crate) fn payload_json(payload: &Payload) -> Value {
    payload
        .to_json()
        .unwrap_or_else(|e| json!({ "undecodable": e.to_string(), "bytes": payload.len() }))
}

/// A failure for programs.
pub(crate) fn failure_json(failure: &Failure) -> Value {
    json!({
        "kind": failure_kind(failure.kind),
        "class": displayed_class(&failure.class),
        "message": failure.message,
        "causes": failure.causes,
        "retry_after_ms": failure.retry_after_ms,
    })
}

/// The worker that made an attempt; none if the engine itself wrote the failure.
pub(crate) fn worker(process: ProcessInstance) -> Option<String> {
    (process != ProcessInstance::default()).then(|| process.to_string())
}

/// The word for a kind of failure.
pub(crate) fn failure_kind(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Retryable => "retryable",
        FailureKind::Terminal => "terminal",
        FailureKind::Cancelled => "cancelled",
    }
}

/// The entry's kind as people read it.
fn kind(entry: &Entry) -> &'static str {
    match entry {
        Entry::Started(_) => "started",
        Entry::StepCompleted(_) => "step completed",
        Entry::StepFailed(_) => "step failed",
        Entry::AttemptFailed(_) => "attempt failed",
        Entry::TimerArmed(_) => "timer armed",
        Entry::TimerFired(_) => "timer fired",
        Entry::CancelRequested(_) => "cancel requested",
        Entry::Completed(_) => "completed",
        Entry::Died(_) => "died",
        Entry::Cancelled(_) => "cancelled",
        Entry::Redriven(_) => "redriven",
        Entry::InputEdited(_) => "input edited",
        Entry::Discarded(_) => "discarded",
    }
}

fn number(entry: &Entry) -> Option<CommandIndex> {
    entry.number().filter(|n| *n != CommandIndex::FUNCTION)
}

fn place_of(entry: &Entry) -> Option<&SourceLocation> {
    match entry {
        Entry::StepCompleted(e) => Some(&e.location),
        Entry::StepFailed(e) => Some(&e.location),
        Entry::AttemptFailed(e) => Some(&e.location),
        Entry::TimerArmed(e) => Some(&e.location),
        _ => None,
    }
}

fn what(entry: &Entry) -> String {
    match entry {
        Entry::Started(e) => payload_json(&e.input).to_string(),
        Entry::StepCompleted(e) if e.attempt > 1 => {
            format!("attempt {}: {}", e.attempt, payload_json(&e.output))
        }
        Entry::StepCompleted(e) if e.attempt == 0 => {
            format!("memoized by another run: {}", payload_json(&e.output))
        }
        Entry::StepCompleted(e) => payload_json(&e.output).to_string(),
        Entry::StepFailed(e) => {
            format!("after attempt {}: {}", e.attempt, displayed_failure(&e.failure))
        }
        Entry::AttemptFailed(e) => {
            format!(
                "attempt {}, again after {}{}: {}",
                e.attempt,
                clock::span(e.retry_at.since(e.at)),
                if e.counted { "" } else { ", no retry used up" },
                displayed_failure(&e.failure)
            )
        }
        Entry::TimerArmed(e) => format!("due in {}, {}", clock::span(e.due.since(e.at)), e.due),
        Entry::TimerFired(_) | Entry::Cancelled(_) => String::new(),
        Entry::CancelRequested(e) if e.reason.is_empty() => format!("by {}", e.principal),
        Entry::CancelRequested(e) => format!("by {}: {}", e.principal, e.reason),
        Entry::Completed(e) => payload_json(&e.output).to_string(),
        Entry::Died(e) => displayed_failure(&e.failure),
        Entry::Redriven(e) => format!("by {}, from entry {}", e.principal, e.from),
        Entry::InputEdited(e) => format!("by {}: {}", e.principal, payload_json(&e.input)),
        Entry::Discarded(e) if e.reason.is_empty() => format!("by {}", e.principal),
        Entry::Discarded(e) => format!("by {}: {}", e.principal, e.reason),
    }
}

/// One line of at most [`CELL_CHARS`] characters.
fn cut(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(CELL_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

fn entry_json(index: usize, entry: &Entry) -> Value {
    let mut json = match entry {
        Entry::Started(e) => json!({
            "workflow": e.workflow,
            "workflow_version": e.version,
            "queue": e.queue,
            "priority": e.priority,
            "principal": e.principal,
            "request_id": e.request_id.to_string(),
            "traceparent": e.traceparent,
            "not_before": e.not_before.map(|t| t.to_string()),
            "input": payload_json(&e.input),
        }),
        Entry::StepCompleted(e) => {
            json!({ "attempt": e.attempt, "output": payload_json(&e.output) })
        }
        Entry::StepFailed(e) => json!({
            "attempt": e.attempt,
            "failure": failure_json(&e.failure),
            "worker": worker(e.process),
            "build": e.build,
        }),
        Entry::AttemptFailed(e) => json!({
            "attempt": e.attempt,
            "failure": failure_json(&e.failure),
            "retry_at": e.retry_at.to_string(),
            "counts_as_retry": e.counted,
            "worker": worker(e.process),
            "build": e.build,
        }),
        Entry::TimerArmed(e) => json!({ "due_at": e.due.to_string() }),
        Entry::TimerFired(_) | Entry::Cancelled(_) => json!({}),
        Entry::CancelRequested(e) => json!({ "principal": e.principal, "reason": e.reason }),
        Entry::Completed(e) => json!({ "output": payload_json(&e.output) }),
        Entry::Died(e) => json!({
            "failure": failure_json(&e.failure),
            "worker": worker(e.process),
            "build": e.build,
        }),
        Entry::Redriven(e) => json!({
            "principal": e.principal,
            "request_id": e.request_id.to_string(),
            "from": e.from,
        }),
        Entry::InputEdited(e) => json!({
            "principal": e.principal,
            "request_id": e.request_id.to_string(),
            "input": payload_json(&e.input),
        }),
        Entry::Discarded(e) => json!({
            "principal": e.principal,
            "request_id": e.request_id.to_string(),
            "reason": e.reason,
        }),
    };
    json["index"] = json!(index);
    json["at"] = json!(entry.at().to_string());
    json["kind"] = json!(kind(entry).replace(' ', "_"));
    if let Some(number) = number(entry) {
        json["command_index"] = json!(number.0);
    }
    if let Some(location) = place_of(entry) {
        json["name"] = json!(location.name);
        json["location"] = json!(location.at);
        json["workflow_version"] = json!(location.version);
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use stepwell::model::entry::{AttemptFailed, Completed, StepCompleted, TimerArmed};

    // A14, A42, A43: why an attempt failed, and when the next one is made, stands in `run show`.
    #[test]
    fn failed_attempts_tell_their_class_and_when_they_are_made_again() {
        let failed = |failure: Failure, counted| {
            let entry = Entry::from(AttemptFailed {
                at: Time(1_000),
                number: CommandIndex(0),
                location: SourceLocation::default(),
                attempt: 2,
                failure,
                retry_at: Time(3_000),
                counted,
                process: Default::default(),
                build: String::new(),
            });
            what(&entry)
        };
        let killed = Failure::retryable("its process was killed").class("time limit");
        assert_eq!(
            failed(killed, true),
            "attempt 2, again after 2.0 s: timeout: its process was killed"
        );
        let later = Failure::retry_after(std::time::Duration::from_secs(2), "slow down");
        assert_eq!(
            failed(later, false),
            "attempt 2, again after 2.0 s, no retry used up: slow down"
        );
    }

    // A38: a result that another run came to is told as such.
    #[test]
    fn a_result_memoized_by_another_run_is_shown_as_such() {
        let entry = Entry::from(StepCompleted {
            at: Time(1_000),
            number: CommandIndex(0),
            location: SourceLocation::default(),
            attempt: 0,
            output: Payload::of(&17).unwrap(),
        });
        assert_eq!(what(&entry), "memoized by another run: 17");
    }

    #[test]
    fn a_journal_reads_like_a_table() {
        let location =
            |name: &str, at: &str| SourceLocation { name: name.into(), at: at.into(), version: 1 };
        let entries: Vec<Entry> = vec![
            StepCompleted {
                at: Time(1_000),
                number: CommandIndex(0),
                location: location("charge", "order.rs:41"),
                attempt: 2,
                output: Payload::of("charge-17").unwrap(),
            }
            .into(),
            TimerArmed {
                at: Time(1_020),
                number: CommandIndex(1),
                location: location("", "order.rs:45"),
                due: Time(3_020),
            }
            .into(),
            Completed { at: Time(3_100), output: Payload::of(&17).unwrap() }.into(),
        ];
        assert_eq!(
            text(&entries),
            "\
ENTRY      TIME  KIND            COMMAND  NAME    LOCATION     WHAT
    0  +0.000 s  step completed        0  charge  order.rs:41  attempt 2: \"charge-17\"
    1  +0.020 s  timer armed           1          order.rs:45  due in 2.0 s, 1970-01-01T00:00:03.020Z
    2  +2.100 s  completed                                     17
"
        );
    }
}
