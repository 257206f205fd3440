//! Two processes, one directory.

use stepwell::Client;
use stepwell_tests::process_spec::{EngineSpec, ProcessSpec};
use stepwell_tests::workflow::{Entry, LEDGER};

use crate::host::Host;

// Two engines on one directory would each acknowledge what the other overwrites. The refusal names
// the file, so that an operator knows what is meant, and the process, so that they know whom to
// stop.
#[tokio::test]
async fn a_second_process_on_the_same_directory_is_refused_naming_the_lock() {
    let directory = tempfile::tempdir().unwrap();
    let spec = EngineSpec::new(directory.path().join("data"));
    let (mut engine, server) = Host::engine(&spec).await;
    let second = Host::start(&ProcessSpec::Engine(spec.clone())).ended().await;
    assert_eq!(second.code, Some(1), "{second:?}");
    let lock = spec.data.join("LOCK");
    for part in ["is in use by process", "is locked", lock.to_str().unwrap()] {
        assert!(second.stdout.contains(part), "`{part}` in {second:?}");
    }
    // The first one has not noticed; and its lock goes with it, however it ends.
    let client = Client::connect(&server).await.unwrap();
    client.start(LEDGER, &Entry::of(1)).name("first").await.unwrap();
    engine.kill();
    engine.ended().await;
    let (engine, server) = Host::engine(&spec).await;
    let client = Client::connect(&server).await.unwrap();
    assert!(client.find::<u64>("first").status().await.is_ok());
    engine.close().await;
}
