//! What became of a directory that was damaged.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stepwell::model::entry::Entry;
use stepwell::model::payload::Payload;
use stepwell::model::request::{ListRuns, Refusal};
use stepwell::{Client, ClientError, Engine, Outcome, RunId, RunState};

use crate::workflow::{self, World};

/// How long a run may take to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// All runs of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Content(pub Vec<Known>);

/// What is known of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The run.
    pub id: RunId,
    /// The name it was given.
    pub name: String,
    /// Where it was in its life.
    pub state: RunState,
    /// Its journal, entries as they travel.
    pub journal: Vec<Vec<u8>>,
    /// What it returns in the end, as JSON, if it does.
    pub returns: Option<serde_json::Value>,
}

impl Content {
    /// All that a client is told, oldest run first.
    pub async fn of(client: &Client) -> Result<Self, ClientError> {
        let list = ListRuns::default().limit(1_000);
        let (rows, _) = client.list(list).await?;
        let mut all = Vec::new();
        for row in rows.into_iter().rev() {
            let journal = client.journal(row.id).await?;
            let journal = journal.iter().map(Entry::encode).collect();
            let name = row.name.unwrap_or_default();
            all.push(Known { id: row.id, name, state: row.state, journal, returns: None });
        }
        Ok(Self(all))
    }
}

/// Opens `data` and compares all of it with what `content` holds; then has all runs go on that can.
///
/// One of: `refused: …`; `stopped: …`, where a reason is given for each run that is not as it was;
/// `whole`; and what must never be: `WRONG: …`.
pub async fn judge(data: &Path, content: &Path) -> String {
    let read = std::fs::read(content).map_err(|e| e.to_string());
    let content =
        read.and_then(|bytes| serde_json::from_slice::<Content>(&bytes).map_err(|e| e.to_string()));
    let Content(runs) = match content {
        Ok(content) => content,
        Err(error) => return format!("WRONG: what was in it is not known: {error}"),
    };
    let engine = match Engine::open(data).await {
        Ok(engine) => engine,
        Err(refusal) => return format!("refused: {}", chain(&refusal)),
    };
    let mut findings = Findings::default();
    let client = engine.client().timeout(PATIENCE);
    for known in &runs {
        findings.add(known, journal_as_it_was(&client, known).await);
    }
    let told = Arc::new(|_: &str| {});
    let world = World::new(data.with_extension("effects"), move |line| told(line));
    let worker = workflow::register(engine.worker(), &world).start();
    for known in &runs {
        findings.add(known, outcome_as_it_must_be(&client, known).await);
    }
    if let Ok(worker) = worker {
        worker.drain().await;
    }
    let closing = async {
        tokio::select! {
            reason = engine.stopped() => findings.stops.push(format!("the engine: {reason}")),
            () = tokio::task::yield_now() => {}
        }
        engine.close().await;
    };
    if tokio::time::timeout(PATIENCE, closing).await.is_err() {
        return "WRONG: the engine does not close".to_owned();
    }
    findings.sum()
}

#[derive(Default)]
struct Findings {
    wrong: Vec<String>,
    stops: Vec<String>,
}

enum Finding {
    Same,
    Stopped(String),
    Wrong(String),
}

impl Findings {
    fn add(&mut self, known: &Known, finding: Finding) {
        match finding {
            Finding::Same => {}
            Finding::Stopped(reason) => self.stops.push(format!("run {}: {reason}", known.name)),
            Finding::Wrong(what) => self.wrong.push(format!("run {}: {what}", known.name)),
        }
    }

    fn sum(self) -> String {
        match (self.wrong.is_empty(), self.stops.is_empty()) {
            (false, _) => format!("WRONG: {}", self.wrong.join(" | ")),
            (true, false) => format!("stopped: {}", self.stops.join(" | ")),
            (true, true) => "whole".to_owned(),
        }
    }
}

async fn journal_as_it_was(client: &Client, known: &Known) -> Finding {
    match client.journal(known.id).await {
        Ok(entries) if entries.iter().map(Entry::encode).eq(known.journal.iter().cloned()) => {
            Finding::Same
        }
        Ok(entries) => Finding::Wrong(format!("its journal has become {entries:?}")),
        Err(error) => said_no(&error),
    }
}

async fn outcome_as_it_must_be(client: &Client, known: &Known) -> Finding {
    if let Some(expected) = &known.returns {
        let answered = tokio::time::timeout(PATIENCE, client.outcome(known.id, true)).await;
        return match answered {
            Err(_) => Finding::Wrong("it does not end".to_owned()),
            Ok(Ok(Outcome::OutcomeCompleted(done))) => returned(&done.output, expected),
            Ok(Ok(other)) => Finding::Wrong(format!("it ended with {other:?}")),
            Ok(Err(error)) => said_no(&error),
        };
    }
    match client.status(known.id).await {
        Ok(row) if row.state == known.state => Finding::Same,
        Ok(row) => Finding::Wrong(format!("it is {}, it was {}", row.state, known.state)),
        Err(error) => said_no(&error),
    }
}

fn returned(output: &Payload, expected: &serde_json::Value) -> Finding {
    match output.to_json() {
        Ok(value) if value == *expected => Finding::Same,
        other => Finding::Wrong(format!("it returned {other:?}")),
    }
}

fn said_no(error: &ClientError) -> Finding {
    match error {
        ClientError::Refused(Refusal::Damaged(damaged)) => Finding::Stopped(damaged.to_string()),
        error => Finding::Wrong(chain(error)),
    }
}

/// An error with its causes.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
