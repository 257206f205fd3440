//! The engine inside of a program.

use stepwell::{Engine, RunState};
use stepwell_tests::process_spec::ProcessSpec;
use stepwell_tests::workflow::{self, Entry, LEDGER, World};

use crate::host::Host;

// The default way of use: no server, no port; and still the command line can look into the program
// through the socket in its directory.
#[tokio::test]
async fn an_embedded_engine_is_reached_by_another_process_through_its_directory() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let engine = Engine::open(&data).await.unwrap();
    let client = engine.client();
    let run = client.start(LEDGER, &Entry::of(21)).name("answer").await.unwrap();

    let server = format!("unix:{}", data.join("stepwell.sock").display());
    let mut other = Host::start(&ProcessSpec::Client { server, run: "answer".to_owned() });
    let world = World::new(directory.path().join("effects"), |_| {});
    let worker = workflow::register(engine.worker(), &world).start().unwrap();
    assert_eq!(other.says("ledger").await, "ledger returned 42");
    assert_eq!(other.ended().await.code, Some(0));
    assert_eq!(run.outcome().await.unwrap(), 42);
    worker.drain().await;
    engine.close().await;

    // All of it is in the directory.
    let engine = Engine::open(&data).await.unwrap();
    let row = engine.client().find::<u64>("answer").status().await.unwrap();
    assert_eq!((row.state, row.id), (RunState::Completed, run.id()));
    engine.close().await;
}
