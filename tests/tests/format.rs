//! Old bytes: a database of each format that was ever written, opened by this version.
//!
//! `data/format-N` holds one: its files without the zeros at their ends, what is needed to lay them
//! out again (the log is a sparse file of 64 MiB, and a repository keeps no empty directories), and
//! what was in it, as text.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use stepwell::model::dead::DeadFilter;
use stepwell::model::entry::Entry;
use stepwell::model::request::ListRuns;
use stepwell::runtime::env::{Clock, Env};
use stepwell::{Client, Engine, EngineOptions, Outcome, RunState, Time, days};
use stepwell_storage::{FjallStore, Options};
use stepwell_tests::workflow::{self, World};

use crate::damage::{End, copy, furnished, used_bytes};

/// The format that this version writes.
const FORMAT: &str = "format-1";

/// What the files do not say.
#[derive(Serialize, Deserialize)]
struct Layout {
    directories: Vec<PathBuf>,
    /// The lengths of files.
    files: BTreeMap<PathBuf, u64>,
}

fn fixture(format: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(format)
}

/// Lays a fixture out as it was.
fn unpack(fixture: &Path, to: &Path) {
    let layout = std::fs::read(fixture.join("layout.json")).unwrap();
    let layout: Layout = serde_json::from_slice(&layout).unwrap();
    for directory in layout.directories {
        std::fs::create_dir_all(to.join(directory)).unwrap();
    }
    for (file, bytes) in layout.files {
        std::fs::copy(fixture.join("files").join(&file), to.join(&file)).unwrap();
        let file = std::fs::File::options().write(true).open(to.join(&file)).unwrap();
        file.set_len(bytes).unwrap();
    }
}

/// The machine, some time from now: a fixture must not rot.
struct Later {
    clock: Arc<dyn Clock>,
    by: Duration,
}

impl Clock for Later {
    fn mono(&self) -> Duration {
        self.clock.mono()
    }

    fn wall(&self) -> Time {
        self.clock.wall().after(self.by)
    }

    fn sleep(&self, span: Duration) -> BoxFuture<'static, ()> {
        self.clock.sleep(span)
    }
}

/// An engine that takes the directory as it is, whatever the date: nothing is too old to be kept.
async fn open(data: &Path, later_by: Duration) -> Engine {
    let env = Env::real();
    let clock = Arc::new(Later { clock: env.clock.clone(), by: later_by });
    let store = FjallStore::open(data, Options::default()).unwrap();
    let options = EngineOptions::default().accept_clock(true).retention(days(36_500));
    options.open_on(Env { clock, ..env }, Arc::new(store)).await.unwrap()
}

/// Runs and their journals, for people: what any later version must still be able to tell.
async fn told(client: &Client) -> String {
    let all = ListRuns::default().limit(1_000);
    let (mut runs, _) = client.list(all).await.unwrap();
    runs.reverse();
    let mut text = String::new();
    for run in runs {
        let (name, workflow) = (run.name.unwrap_or_default(), run.workflow);
        // Of those that sleep the time may have come; of those that wait for a worker it has not.
        writeln!(text, "{name} {workflow} {} since {}", run.id, run.started_at).unwrap();
        for (index, entry) in client.journal(run.id).await.unwrap().iter().enumerate() {
            if !matches!(entry, Entry::TimerFired(_)) {
                writeln!(text, "  {index} {} {}", entry.at(), line(entry)).unwrap();
            }
        }
    }
    text
}

fn line(entry: &Entry) -> String {
    match entry {
        Entry::Started(e) => {
            let input = e.input.to_json().unwrap().to_string();
            let queue = format!("queue {} priority {}", e.queue, e.priority);
            format!(
                "started by {} in {queue} with {input:.60} ({} bytes)",
                e.principal,
                e.input.len()
            )
        }
        Entry::StepCompleted(e) => {
            let output = e.output.to_json().unwrap();
            format!(
                "step {} {} completed in attempt {}: {output}",
                e.number.0, e.location.name, e.attempt
            )
        }
        Entry::StepFailed(e) => {
            format!("step {} {} failed: {}", e.number.0, e.location.name, e.failure.message)
        }
        Entry::AttemptFailed(e) => {
            let until = e.retry_at;
            format!(
                "attempt {} at step {} failed: {}; again {until}",
                e.attempt, e.number.0, e.failure.message
            )
        }
        Entry::TimerArmed(e) => format!("timer {} is due {}", e.number.0, e.due),
        Entry::TimerFired(e) => format!("timer {} fired", e.number.0),
        Entry::CancelRequested(e) => format!("cancel requested by {}: {}", e.principal, e.reason),
        Entry::Completed(e) => format!("completed: {}", e.output.to_json().unwrap()),
        Entry::Died(e) => format!("died: {}", e.failure.message),
        Entry::Cancelled(_) => "cancelled".to_owned(),
        Entry::Redriven(e) => format!("redriven by {}", e.principal),
        Entry::InputEdited(e) => format!("input edited by {}", e.principal),
        Entry::Discarded(e) => format!("discarded by {}: {}", e.principal, e.reason),
    }
}

// Whoever upgrades has runs under way that were begun months ago. They are there, with every entry,
// and go on.
#[tokio::test]
async fn a_database_of_format_1_opens_with_all_its_runs_and_they_go_on() {
    for later_by in [Duration::ZERO, days(3 * 365)] {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        unpack(&fixture("format-1"), &data);
        let expected = std::fs::read_to_string(fixture("format-1").join("content.txt")).unwrap();
        let engine = open(&data, later_by).await;
        let client = engine.client();
        assert_eq!(told(&client).await, expected);
        let state = async |name: &str| client.find::<()>(name).status().await.unwrap().state;
        for (name, expected) in [
            ("ledger-0", RunState::Completed),
            ("doomed-1", RunState::Dead),
            ("tidy", RunState::Cancelled),
            ("ready-10", RunState::Queued),
        ] {
            assert_eq!(state(name).await, expected, "{name}");
        }
        let world = World::new(directory.path().join("effects"), |_| {});
        let worker = workflow::register(engine.worker(), &world).start().unwrap();
        for number in 10..14 {
            let run = client.find::<u64>(&format!("ready-{number}"));
            assert_eq!(run.outcome().await, Ok(number * 2));
        }
        if later_by > Duration::ZERO {
            // Its time has come.
            assert_eq!(client.find::<()>("sleeper-0").outcome().await, Ok(()));
        }
        worker.drain().await;
        engine.close().await;
    }
}

// A49: dead letters that an older version wrote are listed by their queue, and redriven: the failed
// step is tried again.
#[tokio::test]
async fn dead_letters_of_format_1_are_listed_and_redriven() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    unpack(&fixture("format-1"), &data);
    let engine = open(&data, Duration::ZERO).await;
    let client = engine.client();
    let listed = async |queue: &str| {
        let filter = DeadFilter::default().queue(queue).workflow("doomed");
        client.dead_letters(&filter, None, 100).await.unwrap().0
    };
    let letters = listed("default").await;
    assert!(letters.iter().any(|letter| letter.name.as_deref() == Some("doomed-0")));
    assert_eq!(listed("elsewhere").await.len(), 0);
    let id = client.find::<()>("doomed-0").id();
    client.redrive(id).await.unwrap();
    let world = World::new(directory.path().join("effects"), |_| {});
    let worker = workflow::register(engine.worker(), &world).start().unwrap();
    let Outcome::OutcomeDead(_) = client.outcome(id, true).await.unwrap() else {
        panic!("the bank refuses it again");
    };
    let journal = client.journal(id).await.unwrap();
    let failed = journal.iter().filter(|entry| matches!(entry, Entry::StepFailed(_)));
    assert_eq!(failed.count(), 2, "{journal:?}");
    worker.drain().await;
    engine.close().await;
}

/// Writes the fixture of the format that this version writes. To be run by hand, once for each new
/// format: `cargo nextest run -p stepwell-tests --run-ignored only write_the_fixture`.
#[tokio::test]
#[ignore = "writes into the repository"]
async fn write_the_fixture() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    furnished(&data, End::Closed).await;
    let read = directory.path().join("read");
    copy(&data, &read);
    let engine = open(&read, Duration::ZERO).await;
    let content = told(&engine.client()).await;
    engine.close().await;

    let to = fixture(FORMAT);
    let _ = std::fs::remove_dir_all(&to);
    let mut layout = Layout { directories: Vec::new(), files: BTreeMap::new() };
    pack(&data, Path::new(""), &to.join("files"), &mut layout);
    std::fs::write(to.join("layout.json"), serde_json::to_vec_pretty(&layout).unwrap()).unwrap();
    std::fs::write(to.join("content.txt"), content).unwrap();
}

fn pack(data: &Path, within: &Path, to: &Path, layout: &mut Layout) {
    std::fs::create_dir_all(to.join(within)).unwrap();
    layout.directories.push(within.to_owned());
    let mut entries: Vec<_> =
        std::fs::read_dir(data.join(within)).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = within.join(path.file_name().unwrap());
        if path.is_dir() {
            pack(data, &name, to, layout);
        } else if path.is_file() {
            let mut bytes = std::fs::read(&path).unwrap();
            layout.files.insert(name.clone(), bytes.len() as u64);
            bytes.truncate(used_bytes(&path) as usize);
            std::fs::write(to.join(name), bytes).unwrap();
        }
    }
}
