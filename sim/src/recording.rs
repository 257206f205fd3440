//! A simulated plan with all that happened in it: what a report is made of.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stepwell::model::entry::Entry;
use stepwell::model::failure::displayed_failure;

use crate::durable::{Durable, DurableRun};
use crate::event::{EntryAt, Event, What};
use crate::page;
use crate::plan::Plan;
use crate::report::{Report, Violation};

/// Text from a payload or a failure is cut after so many characters.
const DETAIL_MAX: usize = 240;

/// A simulated plan, its report, and all that happened, in order.
///
/// ```
/// use stepwell_sim::{Plan, run_recorded};
///
/// let recording = run_recorded(Plan::from_seed(17).calm());
/// assert!(recording.to_html().starts_with("<!doctype html>"));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recording {
    /// What was run.
    pub plan: Plan,
    /// What it showed.
    pub report: Report,
    /// What happened, causes before effects.
    pub events: Vec<Event>,
    /// The journals of all runs, as they were on disk in the end.
    pub journals: Vec<Journal>,
}

/// The journal of one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// The name it was started under.
    pub run: String,
    /// Its number in the engine.
    pub number: u64,
    /// Its id.
    pub id: String,
    /// The workflow's name.
    pub workflow: String,
    /// What the function got.
    pub input: String,
    /// How it ended; empty if it has not.
    pub end: String,
    /// What is known of it.
    pub entries: Vec<JournalEntry>,
}

/// One entry of a journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// Its kind, `StepCompleted`.
    pub kind: String,
    /// The command it is about.
    pub step: Option<u32>,
    /// The step's name.
    pub name: String,
    /// Where in the code.
    pub location: String,
    /// Which attempt.
    pub attempt: Option<u32>,
    /// What it holds, cut.
    pub detail: String,
    /// When it was given to the disk, in simulated milliseconds.
    pub submitted_ms: Option<u64>,
    /// When it was on disk.
    pub durable_ms: Option<u64>,
    /// The batch it was in.
    pub seq: Option<u64>,
    /// The worker that held the run then.
    pub holder: Option<String>,
    /// Under which token.
    pub token: Option<String>,
}

impl Recording {
    pub(crate) fn new(plan: Plan, report: Report, events: Vec<Event>, durable: &Durable) -> Self {
        let known = Known::of(&events);
        let journals =
            durable.runs.iter().map(|(number, run)| journal(number.0, run, &known)).collect();
        Self { plan, report, events, journals }
    }

    /// Adds a verdict of your own, pinned to the last event until then: what a check of a test
    /// found afterwards.
    pub fn report(&mut self, violation: Violation) {
        let location = self
            .events
            .iter()
            .rposition(|event| event.at_ms <= violation.at_ms)
            .map_or(0, |last| last + 1);
        let (checker, text) = (violation.checker.clone(), violation.text.clone());
        self.events.insert(
            location,
            Event {
                at_ms: violation.at_ms,
                host: String::new(),
                life: 0,
                what: What::Violated { checker, text },
            },
        );
        self.report.violations.push(violation);
    }

    /// The report as one page that needs nothing else: open it with a browser.
    pub fn to_html(&self) -> String {
        page::render(self)
    }

    /// All of it, for programs.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self)
            .unwrap_or_else(|error| panic!("a recording of ours is data: {error}"))
    }

    /// Writes `seed-N.html` and `seed-N.json` into a directory, which is made if need be.
    pub fn write(&self, directory: impl AsRef<Path>) -> io::Result<Written> {
        let directory = directory.as_ref();
        std::fs::create_dir_all(directory)?;
        let name = format!("seed-{}", self.plan.seed);
        let written = Written {
            html: directory.join(format!("{name}.html")),
            json: directory.join(format!("{name}.json")),
        };
        std::fs::write(&written.html, self.to_html())?;
        std::fs::write(&written.json, self.to_json())?;
        Ok(written)
    }
}

/// Where a recording was written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The page.
    pub html: PathBuf,
    /// The data.
    pub json: PathBuf,
}

/// When entries went to the disk and were there, and who held the run.
#[derive(Default)]
struct Known {
    submitted: BTreeMap<EntryAt, u64>,
    durable: BTreeMap<EntryAt, (u64, u64)>,
    holders: BTreeMap<EntryAt, (String, String)>,
}

impl Known {
    fn of(events: &[Event]) -> Self {
        let (mut known, mut leases) = (Self::default(), BTreeMap::new());
        // Entry 0 is submitted before anybody knows the run's name; its batch tells when.
        let mut batches = BTreeMap::new();
        for event in events {
            match &event.what {
                What::Submitted { seq, entries, .. } => {
                    batches.insert(*seq, event.at_ms);
                    for entry in entries {
                        known.submitted.insert(entry.clone(), event.at_ms);
                    }
                }
                What::EntryDurable { run, index, seq, .. } => {
                    let entry = EntryAt { run: run.clone(), index: *index };
                    if let Some(at_ms) = batches.get(seq) {
                        known.submitted.entry(entry.clone()).or_insert(*at_ms);
                    }
                    if let Some(lease) = leases.get(run) {
                        known.holders.insert(entry.clone(), Clone::clone(lease));
                    }
                    known.durable.insert(entry, (event.at_ms, *seq));
                }
                What::LeaseBegan { run, token, holder } => {
                    leases.insert(run.clone(), (holder.clone(), token.clone()));
                }
                What::LeaseEnded { run, token, .. }
                    if leases.get(run).is_some_and(|(_, current)| current == token) =>
                {
                    leases.remove(run);
                }
                _ => {}
            }
        }
        known
    }
}

fn journal(number: u64, run: &DurableRun, known: &Known) -> Journal {
    let name = run.name();
    let entries = run.entries.iter().enumerate().map(|(index, entry)| {
        let at = EntryAt { run: name.clone(), index: index as u32 };
        journal_entry(&at, entry, known)
    });
    let end = run.entries.last().filter(|entry| entry.ends());
    let started = run.started();
    Journal {
        number,
        id: started.map_or_else(String::new, |started| started.id.to_string()),
        workflow: started.map_or_else(String::new, |started| started.workflow.clone()),
        input: started.map_or_else(String::new, |started| cut(&format!("{:?}", started.input))),
        end: end.map_or_else(String::new, |entry| entry.kind_name().to_owned()),
        entries: entries.collect(),
        run: name,
    }
}

fn journal_entry(at: &EntryAt, entry: &Entry, known: &Known) -> JournalEntry {
    let (attempt, detail) = match entry {
        Entry::Started(e) => (None, format!("by {}, input {:?}", e.principal, e.input)),
        Entry::StepCompleted(e) => (Some(e.attempt), format!("{:?}", e.output)),
        Entry::StepFailed(e) => (Some(e.attempt), e.failure.message.clone()),
        Entry::AttemptFailed(e) => (
            Some(e.attempt),
            format!("{}; again in {} ms", e.failure.message, e.retry_at.0.saturating_sub(e.at.0)),
        ),
        Entry::TimerArmed(e) => (None, format!("due in {} ms", e.due.0.saturating_sub(e.at.0))),
        Entry::CancelRequested(e) => (None, format!("by {}: {}", e.principal, e.reason)),
        Entry::Completed(e) => (None, format!("{:?}", e.output)),
        Entry::Died(e) => (None, displayed_failure(&e.failure)),
        Entry::TimerFired(_) | Entry::Cancelled(_) => (None, String::new()),
        Entry::Redriven(e) => (None, format!("by {}, from entry {}", e.principal, e.from)),
        Entry::InputEdited(e) => (None, format!("by {}, input {:?}", e.principal, e.input)),
        Entry::Discarded(e) => (None, format!("by {}: {}", e.principal, e.reason)),
    };
    let location = entry.source_location().map(|(_, location)| location);
    let (durable, holder) = (known.durable.get(at), known.holders.get(at));
    JournalEntry {
        kind: entry.kind_name().to_owned(),
        step: entry.number().map(|number| number.0),
        name: location.map_or_else(String::new, |location| location.name.clone()),
        location: location.map_or_else(String::new, |location| location.at.clone()),
        attempt,
        detail: cut(&detail),
        submitted_ms: known.submitted.get(at).copied(),
        durable_ms: durable.map(|(at_ms, _)| *at_ms),
        seq: durable.map(|(_, seq)| *seq),
        holder: holder.map(|(holder, _)| holder.clone()),
        token: holder.map(|(_, token)| token.clone()),
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(DETAIL_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
