//! Strangers at the port.

use stepwell::model::run::RunState;
use stepwell::wire::frame::FRAME_BYTES_MAX;
use stepwell::wire::handshake::HELLO_BYTES_MAX;
use stepwell::wire::message::{Answer, Answered, AskStats, Heartbeat, Message, Reply};
use stepwell::{Client, secs};
use stepwell_tests::process_spec::{EngineSpec, WorkerSpec};
use stepwell_tests::workflow::{Entry, LEDGER, LONG, Long};

use crate::host::{Host, count, effects, until_stats};
use crate::peer::{Peer, call, hello};

/// Sends `bytes` over a connection of its own; the reason with which that is closed.
async fn told(address: &str, bytes: &[u8]) -> String {
    let mut peer = Peer::connect(address).await;
    peer.send_raw(bytes).await;
    peer.closed_with().await
}

// A port is found by scanners, health checks and wrong settings. None of that may cost anybody else
// their session, and whoever set the port wrong is told what is wrong.
#[tokio::test]
async fn garbage_closes_its_own_connection_with_a_reason_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let (engine, address) = Host::engine(&EngineSpec::new(directory.path().join("data"))).await;
    let world = directory.path().join("effects");
    let spec =
        WorkerSpec { server: address.clone(), slots: 4, grace: secs(1), effects: world.clone() };
    let mut worker = Host::worker(&spec);
    let client = Client::connect(&address).await.unwrap();
    let run = client.start(LONG, &Long { work: secs(1) }).await.unwrap();
    worker.says("begun work").await;
    let (mut bystander, _) = Peer::greeted(&address, hello(1)).await;

    let http = told(&address, b"GET / HTTP/1.1\r\nHost: stepwell\r\n\r\n").await;
    assert!(http.contains("the peer does not speak this protocol"), "{http}");
    let huge = told(&address, &[0xff; 4]).await;
    assert!(huge.contains("4294967295") && huge.contains(&HELLO_BYTES_MAX.to_string()), "{huge}");
    let unknown = told(&address, &[2, 0, 0, 0, 255, 255]).await;
    assert!(unknown.contains("does not decode") && unknown.contains("255"), "{unknown}");
    let empty = told(&address, &[0, 0, 0, 0]).await;
    assert!(empty.contains("empty"), "{empty}");
    for seed in 1..=40_u64 {
        // A plausible length before them, so that more than the length is looked at.
        let mut bytes = vec![60, 0, 0, 0];
        bytes.extend(random_bytes(seed, 60));
        let reason = told(&address, &bytes).await;
        assert!(!reason.is_empty(), "of seed {seed}");
    }
    let mut half = Peer::connect(&address).await;
    half.send_raw(&[60, 0, 0, 0, 1, 2, 3]).await;
    half.shut().await;
    assert_eq!(half.closed_with().await, "the peer closed the connection within a frame");
    let mut early = Peer::connect(&address).await;
    early.send(&[Heartbeat { beat: 1 }.into()]).await;
    assert_eq!(early.closed_with().await, "the first frame of a connection must be a hello");

    // Garbage from somebody who was welcomed is garbage.
    let (mut known, _) = Peer::greeted(&address, hello(2)).await;
    known.send_raw(&[0xff; 4]).await;
    let huge = known.closed_with().await;
    assert!(huge.contains("4294967295") && huge.contains(&FRAME_BYTES_MAX.to_string()), "{huge}");
    assert!(huge.contains("does not speak this protocol"), "{huge}");

    bystander.send(&[call(7, 7, AskStats {})]).await;
    let answer = bystander.next().await;
    assert!(
        matches!(
            &answer,
            Some(Message::Reply(Reply {
                call_number: 7,
                answer: Answered::Known(Answer::StatsReply(_))
            }))
        ),
        "{answer:?}"
    );
    assert_eq!(run.outcome().await.unwrap(), "both done");
    assert_eq!(client.start(LEDGER, &Entry::of(4)).await.unwrap().outcome().await, Ok(8));
    let lines = effects(&world);
    assert_eq!(count(&lines, "begun work"), 1, "{lines:#?}");
    let stats = until_stats(&client, "one worker", |stats| stats.workers == 1).await;
    assert_eq!((stats.sessions_lost, stats.runs_in(RunState::Completed)), (0, 2), "{stats:?}");
    worker.close().await;
    engine.close().await;
}

/// The same for the same seed (splitmix64).
fn random_bytes(seed: u64, count: usize) -> impl Iterator<Item = u8> {
    crate::damage::Draw(seed).flat_map(u64::to_le_bytes).take(count)
}
