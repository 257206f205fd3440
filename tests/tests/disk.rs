//! A disk that is full.

use std::path::{Path, PathBuf};

use stepwell::wire::message::{Answer, Answered, Message};
use stepwell::{Client, RunId, Worker};
use stepwell_tests::process_spec::{EngineSpec, ProcessSpec};
use stepwell_tests::workflow::{self, Entry, LEDGER, World};
use tokio::process::Command;

use crate::host::Host;
use crate::peer::{Peer, hello, start};

/// Starts under way at a time.
const AHEAD: u64 = 8;

/// Starts runs until the engine stops: what it acknowledged, and the reason it closed the
/// connection with.
async fn fill(address: &str, lives: u128) -> (Vec<u64>, String) {
    let (mut client, _) = Peer::greeted(address, hello(lives)).await;
    let (mut acknowledged, mut sent) = (Vec::new(), 0_u64);
    let mut reason = String::new();
    let next = |number: u64| {
        let weight = "x".repeat(32 << 10);
        let id = RunId(number.into());
        start(number, LEDGER.name(), id, &Entry { number, weight })
    };
    for _ in 0..AHEAD {
        client.send(&[next(sent)]).await;
        sent += 1;
    }
    while let Some(message) = client.next().await {
        match message {
            Message::Reply(reply) => {
                assert!(
                    matches!(reply.answer, Answered::Known(Answer::StartReply(_))),
                    "not a start: {reply:?}"
                );
                assert!(reason.is_empty(), "acknowledged after it had stopped: {reply:?}");
                acknowledged.push(reply.call_number);
                client.send(&[next(sent)]).await;
                sent += 1;
            }
            Message::Closing(closing) => reason = closing.reason,
            other => panic!("not asked for: {other:?}"),
        }
    }
    (acknowledged, reason)
}

/// All that was acknowledged is there, and goes on.
async fn is_whole(spec: &EngineSpec, acknowledged: &[u64], effects: PathBuf) {
    let (engine, address) = Host::engine(spec).await;
    let client = Client::connect(&address).await.unwrap();
    let world = World::new(effects, |_| {});
    let worker = workflow::register(Worker::connect(&address), &world).start().unwrap();
    for number in acknowledged {
        let run = client.run::<u64>(RunId((*number).into()));
        assert_eq!(run.outcome().await, Ok(number * 2), "of run {number}");
    }
    worker.drain().await;
    engine.close().await;
}

/// The engine ends by itself and says why.
async fn stops(engine: Host, reason: &str) {
    assert!(reason.contains("no room for a commit"), "{reason}");
    let ending = engine.ended().await;
    assert_eq!(ending.code, Some(1), "{ending:?}");
    assert!(ending.stdout.contains("stopped: no room for a commit"), "{ending:?}");
    assert!(!ending.stderr.contains("panicked"), "{ending:?}");
}

/// Set to anything, it lets these tests pass where they cannot be made.
const MAY_SKIP: &str = "STEPWELL_TESTS_MAY_SKIP";

/// A test that cannot be made here has not passed, unless somebody has said that it need not.
fn skipped(what: &str, reason: &str) {
    assert!(
        std::env::var_os(MAY_SKIP).is_some(),
        "{what}: {reason}\nhint: it takes a right or a program that is missing here; with {MAY_SKIP}=1 the test is skipped"
    );
    println!("skipped: {what}: {reason}");
}

/// A disk of our own, which goes with the test.
struct Disk(PathBuf);

impl Disk {
    async fn mount(path: &Path, size: &str) -> Result<Self, String> {
        std::fs::create_dir_all(path).unwrap();
        let options = format!("size={size}");
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &options, "stepwell-tests"]).arg(path);
        let output = command.output().await.map_err(|e| e.to_string())?;
        match output.status.success() {
            true => Ok(Self(path.to_owned())),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }

    async fn resize(&self, size: &str) {
        let options = format!("remount,size={size}");
        let done = Command::new("mount").args(["-o", &options]).arg(&self.0).status().await;
        assert!(done.unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

// R9: after a failed write nothing more is acknowledged, whatever may have become of it; the
// operator reads what to do, does it, and everything that was acknowledged is there.
#[tokio::test]
async fn a_full_disk_stops_the_engine_and_costs_nothing_that_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let disk = match Disk::mount(&directory.path().join("disk"), "6m").await {
        Ok(disk) => disk,
        Err(reason) => return skipped("a small disk cannot be mounted here", &reason),
    };
    let spec = EngineSpec::new(disk.0.join("data"));
    let (engine, address) = Host::engine(&spec).await;
    let (mut acknowledged, reason) = fill(&address, 1).await;
    assert!(acknowledged.len() > 50, "{acknowledged:?}");
    stops(engine, &reason).await;

    // No room has been made: it says so at once, or opens and says so as soon as its last corner is
    // full.
    let mut again = Host::start(&ProcessSpec::Engine(spec.clone()));
    let line = again.says("").await;
    match line.strip_prefix("listening ") {
        Some(address) => {
            let (more, reason) = fill(address, 2).await;
            // The same numbers were acknowledged again, or further ones.
            acknowledged.extend(more);
            stops(again, &reason).await;
        }
        None => assert!(line.contains("no room to open the store"), "{line}"),
    }

    disk.resize("64m").await;
    is_whole(&spec, &acknowledged, directory.path().join("effects")).await;
}

// The same for those who may not mount: a limit on the size of files, set while the engine runs.
#[tokio::test]
async fn a_file_size_limit_stops_the_engine_and_costs_nothing_that_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let mut spec = EngineSpec::new(directory.path().join("data"));
    // The signal that comes with the error would end the process.
    spec.shell = Some("trap '' XFSZ; exec \"$@\"".to_owned());
    let (engine, address) = Host::engine(&spec).await;
    let pid = engine.pid().to_string();
    let limit = Command::new("prlimit").args(["--pid", &pid, "--fsize=3000000"]).status().await;
    match limit {
        Ok(status) if !status.success() => {
            return skipped("limits cannot be set here", &status.to_string());
        }
        Ok(_) => {}
        Err(reason) => return skipped("limits cannot be set here", &reason.to_string()),
    }
    let (acknowledged, reason) = fill(&address, 1).await;
    assert!(acknowledged.len() > 50, "{acknowledged:?}");
    stops(engine, &reason).await;
    spec.shell = None;
    is_whole(&spec, &acknowledged, directory.path().join("effects")).await;
}
