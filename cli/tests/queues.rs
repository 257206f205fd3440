//! Commands on queues, against a real server with a real worker.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod stepwell;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use stepwell::{Answer, Running, stepwell, until};
use tempfile::TempDir;

struct Scene {
    server: Running,
    _dir: TempDir,
}

impl Scene {
    fn set() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { server: Running::server(dir.path()), _dir: dir }
    }

    fn ask(&self, args: &[&str]) -> Answer {
        let address = self.server.address();
        stepwell(&[args, &["--server", &address, "--principal", "ada@shop"]].concat())
    }

    fn start(&self, name: &str, more: &[&str]) -> Answer {
        let input = r#"{"steps":1,"payload":3}"#;
        let start = ["run", "start", "bench-sequence", "--name", name];
        self.ask(&[&start, &["--input", input][..], more].concat())
    }
}

/// The age of what waits differs from run to run.
fn ageless(answer: &Answer) -> String {
    let ages = ["0.0 s", "0.1 s", "0.2 s", "0.3 s", "0.4 s", "0.5 s", "0.6 s"];
    let text = answer.golden();
    ages.iter().fold(text, |text, age| text.replace(age, "N.N s"))
}

// A46: what waits in each queue is told, with why it waits. A47: what is delayed is not old.
#[test]
fn queues_are_listed_with_what_waits_and_why() {
    let scene = Scene::set();
    scene.start("order-1", &["--queue", "mail", "--delay", "1h"]);
    scene.start("order-2", &["--queue", "exports", "--tag", "gpu", "--priority", "9"]);
    let limit = ["queue", "limit", "exports", "--concurrency", "4"];
    let limited = scene.ask(&[&limit[..], &["--rate", "100/s", "--burst", "20"]].concat());
    insta::assert_snapshot!("limit", limited.golden());
    insta::assert_snapshot!("list", ageless(&scene.ask(&["queue", "list"])));
    insta::assert_snapshot!("show", ageless(&scene.ask(&["queue", "show", "exports"])));
    let told = scene.ask(&["queue", "show", "mail", "--json"]).json();
    assert_eq!((&told["delayed"], &told["queued"]), (&1.into(), &0.into()));
    assert!(told["oldest_queued_ms"].is_null());
}

#[test]
fn a_paused_queue_takes_starts_and_dispatches_nothing() {
    let scene = Scene::set();
    let _worker = Running::worker(&scene.server.address());
    let paused = scene.ask(&["queue", "pause", "default"]);
    insta::assert_snapshot!("pause", paused.golden());
    scene.start("order-1", &[]);
    let told = scene.ask(&["queue", "show", "default", "--json"]).json();
    assert_eq!((&told["paused"], &told["queued"]), (&true.into(), &1.into()));
    assert_eq!(told["reasons"], serde_json::json!(["paused"]));
    let drained = scene.ask(&["queue", "drain", "default"]);
    assert_eq!(drained.code, 0, "no run of it is running");
    scene.ask(&["queue", "resume", "default"]);
    assert_eq!(scene.ask(&["run", "wait", "order-1"]).code, 0);
}

/// A run is running and goes on: the drain tells so and waits for it, and what was started
/// meanwhile stays in line.
#[test]
fn a_drain_waits_for_running_runs() {
    let scene = Scene::set();
    let _worker = Running::worker(&scene.server.address());
    let export = ["run", "start", "bench-export", "--queue", "bench-exports"];
    let long = ["--name", "long", "--input", r#"{"ms":3600000}"#];
    scene.ask(&[&export[..], &long].concat());
    let exports = || scene.ask(&["queue", "show", "bench-exports", "--json"]).json();
    until("it runs", || exports()["running"] == 1);

    let address = scene.server.address();
    let mut drain = Command::new(env!("CARGO_BIN_EXE_stepwell"))
        .args(["queue", "drain", "bench-exports", "--server", &address])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(drain.stderr.take().unwrap()).lines();
    let line = told.next().unwrap().unwrap();
    assert!(line.contains("1 run is still running"), "{line}");
    scene.ask(&[&export[..], &["--name", "behind", "--input", r#"{"ms":1}"#]].concat());
    let told = exports();
    assert_eq!((&told["running"], &told["queued"]), (&1.into(), &1.into()));
    assert_eq!(told["paused"], true);
    assert!(drain.try_wait().unwrap().is_none(), "it waits");

    assert_eq!(scene.ask(&["run", "cancel", "long"]).code, 0);
    let drained = drain.wait_with_output().unwrap();
    assert_eq!(drained.status.code(), Some(0));
    let text = String::from_utf8(drained.stdout).unwrap();
    assert_eq!(text, "`bench-exports` is paused (0 running, 1 queued)\n");
    scene.ask(&["queue", "resume", "bench-exports"]);
    assert_eq!(scene.ask(&["run", "wait", "behind"]).code, 0);
}

#[test]
fn a_queue_that_is_not_there_is_told() {
    let scene = Scene::set();
    insta::assert_snapshot!("unknown", scene.ask(&["queue", "pause", "typo"]).golden());
    insta::assert_snapshot!("nothing_to_set", scene.ask(&["queue", "limit", "q"]).golden());
}
