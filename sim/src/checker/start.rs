//! **No acknowledged start is lost, and a name is one run.**
//!
//! Source: `Client::start`: the run survives a kill and a power cut once it has answered; if the
//! request is sent again it takes effect once; the same id with another input is refused.

use std::collections::BTreeMap;

use stepwell::model::entry::Started;
use stepwell::model::id::{RunId, RunNo};

use super::Findings;
use crate::client_log::{ClientLog, StartAnswer, run_id};
use crate::durable::Durable;
use crate::host::client::payload_of;

const NAME: &str = "no acknowledged start is lost";
const ONE: &str = "a name is one run";

/// An id was given a number.
pub(super) fn indexed(id: RunId, run: RunNo, before: Option<RunNo>, findings: &mut Findings<'_>) {
    if let Some(before) = before {
        findings.report(ONE, format!("{id} was run {before} and is run {run} now"));
    }
}

pub(super) fn at_the_end(durable: &Durable, told: &ClientLog, findings: &mut Findings<'_>) {
    let mut begun: BTreeMap<&str, u32> = BTreeMap::new();
    for start in &told.starts {
        // More than one, if the name was used again after the retention.
        let runs: Vec<_> =
            durable.runs_of(run_id(&start.name)).filter_map(|run| run.started()).collect();
        if runs.is_empty() {
            findings.report(
                NAME,
                format!("{} was answered with {:?} and is not there", start.name, start.answer),
            );
            continue;
        }
        let input = payload_of(&start.work);
        let is_same =
            |started: &&Started| started.workflow == start.work.workflow && started.input == input;
        let same = runs.iter().filter(|started| is_same(started)).count();
        match &start.answer {
            StartAnswer::Exists { .. } if same == 0 => {
                findings.report(
                    NAME,
                    format!("{} was acknowledged with another input than it has", start.name),
                );
            }
            StartAnswer::Taken if same == runs.len() => {
                findings.report(ONE, format!("{} was refused its own input", start.name))
            }
            StartAnswer::Exists { started: true } => *begun.entry(&start.name).or_default() += 1,
            StartAnswer::Exists { started: false } | StartAnswer::Taken => {}
        }
    }
    for (name, count) in begun {
        if count as usize > durable.runs_of(run_id(name)).count() {
            findings.report(ONE, format!("{count} calls were told that they had begun {name}"));
        }
    }
    let ids: std::collections::BTreeSet<RunId> =
        durable.kept().filter_map(|(_, run)| run.started().map(|started| started.id)).collect();
    let kept = durable.kept().count();
    if ids.len() != kept || durable.index.len() != kept {
        findings.report(
            ONE,
            format!(
                "{} runs have {} ids and {} rows in the index",
                kept,
                ids.len(),
                durable.index.len()
            ),
        );
    }
    for name in &told.cancels {
        let asked = durable.runs_of(run_id(name)).any(|run| {
            run.entries
                .iter()
                .any(|entry| matches!(entry.kind_name(), "CancelRequested" | "Cancelled"))
        });
        if !asked {
            findings.report(
                NAME,
                format!("{name} was to be cancelled, and its journal does not know of it"),
            );
        }
    }
    for wrong in &told.wrong {
        findings.report(NAME, wrong.clone());
    }
}
