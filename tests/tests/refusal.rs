//! How the engine says no: by type, with the figures in it, and without any effect.

use stepwell::model::request::{IdTaken, ListRuns, PayloadTooLarge};
use stepwell::wire::handshake::Protocols;
use stepwell::wire::message::Hello;
use stepwell::{Client, ClientError, Refusal, RunState};
use stepwell_tests::process_spec::EngineSpec;
use stepwell_tests::workflow::{Entry, LEDGER, SLEEPER};

use crate::host::Host;
use crate::peer::{Peer, hello};

// A worker and an engine without a protocol in common must not guess at frames.
#[tokio::test]
async fn another_protocol_version_is_refused_naming_both() {
    let directory = tempfile::tempdir().unwrap();
    let (engine, address) = Host::engine(&EngineSpec::new(directory.path().join("data"))).await;
    let mut peer = Peer::connect(&address).await;
    let (own, other) = (Protocols::OWN, Protocols::OWN.max + 1);
    let hello = Hello { protocol_min: other, protocol_max: other, ..hello(1) };
    peer.send(&[hello.into()]).await;
    let (ours, theirs) = (format!("speaks {own}"), format!("speaks protocol {other}"));
    let reason = peer.closed_with().await;
    assert!(reason.contains(&ours) && reason.contains(&theirs), "{reason}");
    engine.close().await;
}

/// The hello of a worker of protocol 1, as it was recorded then, without its length.
const HELLO_V1: &[u8] = b"\x01\x98\x01\x94\x00\xa3ann\xc4\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x03\xc0\xc0\xc4\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x04\xa2b1\x91\x92\xa5order\x01\x91\x92\xa1q\x08\x91\x93\x01\x93\x07\x02\x09\x03";

// A binary of before protocol 2 reads one thing that this engine says: why it is refused.
#[tokio::test]
async fn a_binary_of_protocol_1_is_told_in_its_own_layout_that_it_is_too_old() {
    let directory = tempfile::tempdir().unwrap();
    let (engine, address) = Host::engine(&EngineSpec::new(directory.path().join("data"))).await;
    let mut peer = Peer::connect(&address).await;
    peer.send_raw(&(HELLO_V1.len() as u32).to_le_bytes()).await;
    peer.send_raw(HELLO_V1).await;
    // What it was sent, byte by byte: a frame of kind 4 with one text, and the end.
    let bytes = peer.rest().await;
    let (head, frame) = bytes.split_at(4);
    assert_eq!(head, (frame.len() as u32).to_le_bytes(), "one frame, and nothing after it");
    let [4, 0x91, 0xd9, length, reason @ ..] = frame else {
        panic!("not a closing: {frame:?}");
    };
    assert_eq!(usize::from(*length), reason.len());
    let reason = std::str::from_utf8(reason).unwrap();
    let own = format!("speaks {}", Protocols::OWN);
    assert!(reason.contains(&own) && reason.contains("speaks protocol 1"), "{reason}");
    assert!(reason.contains("newer version"), "{reason}");

    // It changes nothing, and others are served.
    let client = Client::connect(&address).await.unwrap();
    let run = client.start(LEDGER, &Entry::of(1)).await.unwrap();
    assert_eq!(run.status().await.unwrap().state, RunState::Queued);
    engine.close().await;
}

// A start is repeated after an unknown outcome, and is then to find its run; a start of something
// else under the same name is a mistake, which silence would turn into a lost order.
#[tokio::test]
async fn the_same_name_finds_its_run_and_another_input_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (engine, address) = Host::engine(&EngineSpec::new(directory.path().join("data"))).await;
    let client = Client::connect(&address).await.unwrap();
    let first = client.start(LEDGER, &Entry::of(1)).name("order-1").await.unwrap();
    let again = client.start(LEDGER, &Entry::of(1)).name("order-1").await.unwrap();
    assert!(first.started() && !again.started() && first.id() == again.id());

    let differs = |error: ClientError| match error {
        ClientError::Refused(Refusal::IdTaken(IdTaken { id, differs, .. })) if id == first.id() => {
            differs
        }
        other => panic!("{other}"),
    };
    assert_eq!(
        differs(client.start(LEDGER, &Entry::of(2)).name("order-1").await.unwrap_err()),
        "input"
    );
    assert_eq!(differs(client.start(SLEEPER, &1).name("order-1").await.unwrap_err()), "workflow");
    let all = ListRuns::default().limit(10);
    assert_eq!(client.list(all).await.unwrap().0.len(), 1);
    engine.close().await;
}

// A4: pass ids, not objects. R7: a limit has a name and a figure, and whoever meets it is told both
// what they have and what is allowed.
#[tokio::test]
async fn a_payload_over_the_limit_is_refused_naming_size_and_limit() {
    const LIMIT: usize = 2_048;
    let directory = tempfile::tempdir().unwrap();
    let mut spec = EngineSpec::new(directory.path().join("data"));
    spec.payload_bytes_max = LIMIT;
    let (engine, address) = Host::engine(&spec).await;
    let client = Client::connect(&address).await.unwrap();
    let entry = |bytes| Entry { number: 1, weight: "x".repeat(bytes) };
    let error = client.start(LEDGER, &entry(LIMIT)).await.unwrap_err();
    let ClientError::Refused(Refusal::PayloadTooLarge(PayloadTooLarge { bytes, bytes_max })) =
        error
    else {
        panic!("{error}");
    };
    assert!(bytes > LIMIT as u64 && bytes_max == LIMIT as u64, "{bytes} {bytes_max}");
    let text = error.to_string();
    assert!(
        text.contains(&bytes.to_string())
            && text.contains("2048")
            && text.contains("payload_bytes_max"),
        "{text}"
    );

    let fits = client.start(LEDGER, &entry(LIMIT / 2)).await.unwrap();
    assert_eq!(fits.status().await.unwrap().state, RunState::Queued);
    engine.close().await;
}
