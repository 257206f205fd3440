//! What is required of runs that stop, wait, and try again.

use stepwell::model::entry::Entry as JournalEntry;
use stepwell::{Engine, RunError, RunState, WorkerHandle};
use stepwell_tests::workflow::{self, Entry, LEDGER, RETRIED, SLEEPER, TIDY, World};
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use crate::host::{PATIENCE, until_stats};

/// An engine and a worker in this process.
struct Shop {
    engine: Engine,
    worker: WorkerHandle,
    happened: UnboundedReceiver<String>,
    _directory: TempDir,
}

impl Shop {
    async fn open(slots: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let engine = Engine::open(directory.path().join("data")).await.unwrap();
        let (tell, happened) = unbounded_channel();
        let world = World::new(directory.path().join("effects"), move |line| {
            let _ = tell.send(line.to_owned());
        });
        let worker =
            workflow::register(engine.worker(), &world).queue("default", slots).start().unwrap();
        Self { engine, worker, happened, _directory: directory }
    }

    /// Waits for the next effect, which must be this one.
    async fn happens(&mut self, what: &str) {
        let line = timeout(PATIENCE, self.happened.recv()).await.unwrap().unwrap();
        assert!(line.starts_with(what), "{line}, not {what}");
    }

    async fn close(self) {
        self.worker.drain().await;
        self.engine.close().await;
    }
}

// To cancel is to ask: the step that runs is dropped, and the function gets to undo what it did,
// with steps like any other.
#[tokio::test]
async fn a_cancelled_run_cleans_up_and_is_cancelled() {
    let mut shop = Shop::open(4).await;
    let run = shop.engine.client().start(TIDY, &1).await.unwrap();
    shop.happens("begun occupy").await;
    run.cancel("the shop closes").await.unwrap();
    shop.happens("begun clean-up").await;
    shop.happens("done clean-up").await;
    assert_eq!(run.outcome().await, Err(RunError::Cancelled));
    assert_eq!(run.status().await.unwrap().state, RunState::Cancelled);
    let journal = shop.engine.client().journal(run.id()).await.unwrap();
    let kinds: Vec<&str> = journal.iter().map(JournalEntry::kind_name).collect();
    assert_eq!(kinds, ["Started", "CancelRequested", "StepCompleted", "Cancelled"]);
    shop.close().await;
}

// A run that waits for three days must not keep others from running: with one slot, fifty sleepers
// go to sleep one after the other, and the next run gets through.
#[tokio::test]
async fn a_suspended_run_holds_no_slot() {
    let shop = Shop::open(1).await;
    let client = shop.engine.client();
    let sleepers = (0..50).map(|number| (None, number)).collect();
    for started in client.start_many(SLEEPER, sleepers).await.unwrap() {
        started.unwrap();
    }
    let after = client.start(LEDGER, &Entry::of(4)).await.unwrap();
    assert_eq!(timeout(PATIENCE, after.outcome()).await.unwrap(), Ok(8));
    let stats =
        until_stats(&client, "all sleep", |stats| stats.runs_in(RunState::Suspended) == 50).await;
    assert_eq!((stats.runs_in(RunState::Running), stats.runs_in(RunState::Queued)), (0, 0));
    shop.close().await;
}

// So must a run that waits for its next attempt: a provider that is down for an hour would
// otherwise fill all slots.
#[tokio::test]
async fn a_run_in_backoff_frees_its_worker() {
    let mut shop = Shop::open(1).await;
    let client = shop.engine.client();
    let failing = client.start(RETRIED, &1).await.unwrap();
    shop.happens("begun try").await;
    shop.happens("done try").await;
    let between = client.start(LEDGER, &Entry::of(5)).await.unwrap();
    shop.happens("begun write").await;
    shop.happens("done write").await;
    shop.happens("begun try").await;
    assert_eq!(between.outcome().await, Ok(10));
    assert_eq!(failing.outcome().await, Ok(2), "the second attempt");
    shop.close().await;
}
