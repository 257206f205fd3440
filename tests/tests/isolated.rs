//! Steps in processes of their own.

use std::path::Path;
use std::time::Duration;

use stepwell::model::entry::Entry as JournalEntry;
use stepwell::{Client, Failure, RunError, millis, secs};
use stepwell_tests::process_spec::{EngineSpec, ProcessSpec, WorkerSpec};
use stepwell_tests::workflow::{CRASH, Crash, Entry, LEDGER, SPIN, Spin};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::host::{Host, count, effects, until, within};

/// An engine and a worker, each a process.
struct Shop {
    engine: Host,
    worker: Host,
    client: Client,
    directory: TempDir,
}

impl Shop {
    async fn open() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let spec = EngineSpec::new(directory.path().join("data"));
        let (engine, server) = Host::engine(&spec).await;
        let client = Client::connect(&server).await.unwrap();
        let worker = Host::worker(&WorkerSpec {
            server,
            slots: 4,
            grace: secs(1),
            effects: directory.path().join("effects"),
        });
        Self { engine, worker, client, directory }
    }

    async fn close(self) {
        self.worker.close().await;
        self.engine.close().await;
    }
}

fn is_there(pid: &str) -> bool {
    Path::new("/proc").join(pid).exists()
}

/// The process id in `pid N spin KEY`.
fn pid_of(line: &str) -> String {
    line.split(' ').nth(1).unwrap().to_owned()
}

/// What `spin` may take.
const HARD: Duration = millis(1_500);

// A43: the timeout ends what cannot be asked to end. The loop is observed to be gone, not before
// its limit and within a second of it; its worker goes on, and the attempt has failed with its
// reason.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_loop_in_an_isolated_step_is_killed_at_its_timeout() {
    within(HARD + secs(1), a_loop_is_killed).await;
}

/// How long a loop goes on.
#[cfg(target_os = "linux")]
async fn a_loop_is_killed() -> Duration {
    let mut shop = Shop::open().await;
    let asked_at = Instant::now();
    let run = shop.client.start(SPIN, &Spin { hard: HARD }).await.unwrap();
    let pid = pid_of(&shop.worker.says("pid ").await);
    let begun_at = Instant::now();
    assert!(is_there(&pid), "it runs in a process of its own: {pid}");
    assert_ne!(pid, shop.worker.pid().to_string());
    let beside = shop.client.start(LEDGER, &Entry::of(4)).await.unwrap();
    assert_eq!(beside.outcome().await, Ok(8), "the worker is not held up");
    until("the process is gone", || async { !is_there(&pid) }).await;
    let (taken, since_asked) = (begun_at.elapsed(), asked_at.elapsed());
    // The attempt began between the two.
    assert!(since_asked >= HARD, "gone after {since_asked:?}");
    let Err(RunError::Failed(failure)) = run.outcome().await else {
        panic!("it cannot have ended well")
    };
    assert_eq!(failure.class, "time limit");
    assert!(failure.message.contains("its process was killed"), "{failure}");
    shop.close().await;
    taken
}

// A43: the process goes with its worker, however that dies: nobody would end it later.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_process_of_a_step_does_not_outlive_its_worker() {
    let mut shop = Shop::open().await;
    shop.client.start(SPIN, &Spin { hard: secs(600) }).await.unwrap();
    let pid = pid_of(&shop.worker.says("pid ").await);
    shop.worker.kill();
    until("the process is gone", || async { !is_there(&pid) }).await;
    shop.engine.close().await;
}

// A cancelled run's step is dropped; here that means killed.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_process_of_a_step_ends_when_its_run_is_cancelled() {
    let mut shop = Shop::open().await;
    let hard = secs(600);
    let run = shop.client.start(SPIN, &Spin { hard }).await.unwrap();
    let pid = pid_of(&shop.worker.says("pid ").await);
    run.cancel("it spins").await.unwrap();
    until("the process is gone", || async { !is_there(&pid) }).await;
    assert_eq!(run.outcome().await, Err(RunError::Cancelled));
    shop.close().await;
}

/// A crash in an isolated step: the failure of its first attempt.
async fn crashes(how: Crash) -> Failure {
    let shop = Shop::open().await;
    let run = shop.client.start(CRASH, &how).await.unwrap();
    let outcome = run.outcome().await.unwrap();
    assert_eq!(outcome, "attempt 2, in place: false", "{how:?}");
    let journal = shop.client.journal(run.id()).await.unwrap();
    let failed: Vec<Failure> = journal
        .into_iter()
        .filter_map(|entry| match entry {
            JournalEntry::AttemptFailed(e) => Some(e.failure),
            _ => None,
        })
        .collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    let lines = effects(&shop.directory.path().join("effects"));
    // The step before it is not run again in the process of this one.
    assert_eq!(count(&lines, "begun before"), 1, "{lines:#?}");
    assert_eq!(count(&lines, "begun crash"), 2, "{lines:#?}");
    let stats = shop.client.stats().await.unwrap();
    assert_eq!((stats.sessions_lost, stats.dispatches), (0, 1), "{stats:?}");
    shop.close().await;
    failed.into_iter().next().unwrap()
}

// A43: what kills the process of a step is a failed attempt and not a dead worker.
#[tokio::test]
async fn a_segfault_in_an_isolated_step_is_a_failed_attempt() {
    let failure = crashes(Crash::Segfault).await;
    assert_eq!(failure.class, "process");
    assert!(failure.message.contains("signal 11 (SIGSEGV)"), "{failure}");
    assert!(failure.to_string().contains("about to end by Segfault"), "{failure}");
}

// A43.
#[tokio::test]
async fn an_abort_or_exit_in_an_isolated_step_is_a_failed_attempt() {
    let failure = crashes(Crash::Abort).await;
    assert!(failure.message.contains("signal 6 (SIGABRT)"), "{failure}");
    let failure = crashes(Crash::Exit).await;
    assert!(failure.message.contains("exited with code 3"), "{failure}");
}

// A43: the limit is of the process, so its exhaustion ends nothing else.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_isolated_step_that_wants_too_much_memory_is_a_failed_attempt() {
    let failure = crashes(Crash::Memory).await;
    assert_eq!(failure.class, "process");
    let text = failure.to_string();
    assert!(text.contains("SIGABRT") && text.contains("memory allocation of"), "{text}");
}

// A43: a program with the engine in it cannot be opened twice: its copy for a step opens nothing
// and comes to its worker.
#[tokio::test]
async fn an_embedded_engine_runs_isolated_steps_too() {
    let directory = tempfile::tempdir().unwrap();
    let mut host = Host::start(&ProcessSpec::Embedded {
        data: directory.path().join("data"),
        effects: directory.path().join("effects"),
        how: Crash::Abort,
    });
    let outcome = host.says("outcome").await;
    assert_eq!(outcome, r#"outcome Ok("attempt 2, in place: false")"#);
    let ended = host.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    // Past the start of its worker the program runs once only.
    assert_eq!(ended.stdout.matches("started").count(), 1, "{ended:?}");
}
