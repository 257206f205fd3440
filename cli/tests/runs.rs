//! Commands on runs, against a real server with a real worker.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod stepwell;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use stepwell::{Answer, Running, stepwell};
use tempfile::TempDir;

struct Scene {
    server: Running,
    _worker: Running,
    dir: TempDir,
}

impl Scene {
    fn set() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Running::server(dir.path());
        let worker = Running::worker(&server.address());
        Self { server, _worker: worker, dir }
    }

    fn ask(&self, args: &[&str]) -> Answer {
        let address = self.server.address();
        stepwell(&[args, &["--server", &address, "--principal", "ada@shop"]].concat())
    }

    fn complete(&self, name: &str) -> Answer {
        let input = r#"{"steps":2,"payload":3}"#;
        self.ask(&["run", "start", "bench-sequence", "--name", name, "--input", input, "--wait"])
    }

    fn fail(&self, name: &str) -> Answer {
        let input = r#"{"steps":2,"payload":3,"fail_at":1}"#;
        self.ask(&["run", "start", "bench-sequence", "--name", name, "--input", input, "--wait"])
    }
}

#[test]
fn a_run_is_started_waited_for_and_shown() {
    let scene = Scene::set();
    insta::assert_snapshot!("start_and_wait", scene.complete("order-1").golden());
    insta::assert_snapshot!("show", scene.ask(&["run", "show", "order-1"]).golden());
    insta::assert_snapshot!("show_json", scene.ask(&["run", "show", "order-1", "--json"]).golden());
    insta::assert_snapshot!("wait_json", scene.ask(&["run", "wait", "order-1", "--json"]).golden());
    insta::assert_snapshot!("list", scene.ask(&["run", "list"]).golden());
    insta::assert_snapshot!("list_json", scene.ask(&["run", "list", "--json"]).golden());
}

#[test]
fn the_same_start_twice_finds_the_first_and_another_one_is_refused() {
    let scene = Scene::set();
    scene.complete("order-1");
    let again = scene.ask(&[
        "run",
        "start",
        "bench-sequence",
        "--name",
        "order-1",
        "--input",
        r#"{"steps":2,"payload":3}"#,
        "--json",
    ]);
    assert_eq!((again.code, &again.json()["started"]), (0, &serde_json::json!(false)));
    let other = scene.ask(&[
        "run",
        "start",
        "bench-sequence",
        "--name",
        "order-1",
        "--input",
        r#"{"steps":9,"payload":3}"#,
    ]);
    assert_eq!(other.code, 1);
    insta::assert_snapshot!("another_input", other.golden());
}

#[test]
fn a_dead_letter_keeps_its_input_and_its_attempts() {
    let scene = Scene::set();
    let failed = scene.fail("order-2");
    assert_eq!(failed.code, 1);
    insta::assert_snapshot!("dead_wait", failed.golden());
    insta::assert_snapshot!("dead_list", scene.ask(&["dead", "list"]).golden());
    insta::assert_snapshot!("dead_show", scene.ask(&["dead", "show", "order-2"]).golden());
    scene.complete("order-3");
    let alive = scene.ask(&["dead", "show", "order-3"]);
    assert_eq!(alive.code, 1);
    insta::assert_snapshot!("dead_show_of_a_completed_run", alive.golden());
}

#[test]
fn an_unknown_run_ends_with_1() {
    let scene = Scene::set();
    let answer = scene.ask(&["run", "show", "order-404"]);
    assert_eq!(answer.code, 1);
    insta::assert_snapshot!("unknown_run", answer.golden());
}

#[test]
fn a_sleeping_run_can_be_cancelled() {
    let scene = Scene::set();
    let start = scene.ask(&[
        "run",
        "start",
        "bench-nap",
        "--name",
        "nap-1",
        "--input",
        r#"{"ms":86400000}"#,
    ]);
    assert_eq!(start.code, 0, "{}", start.stderr);
    assert_eq!(scene.ask(&["run", "cancel", "nap-1", "--reason", "changed my mind"]).code, 0);
    let waited = scene.ask(&["run", "wait", "nap-1"]);
    assert_eq!(waited.code, 1);
    insta::assert_snapshot!("cancelled", waited.golden());
    let again = scene.ask(&["run", "cancel", "nap-1"]);
    assert_eq!(again.code, 1);
    insta::assert_snapshot!("cancel_again", again.golden());
    assert_eq!(scene.ask(&["run", "resume", "nap-1"]).code, 1);
}

/// An engine's directory serves the same commands: through its socket while it runs, by opening the
/// store afterwards.
#[test]
fn a_directory_is_as_good_as_an_address() {
    let scene = Scene::set();
    scene.complete("order-1");
    let data = scene.dir.path().to_str().unwrap().to_owned();
    let live = stepwell(&["run", "show", "order-1", "--data", &data]);
    assert_eq!(live.code, 0, "{}", live.stderr);
    let Scene { server, _worker: worker, dir } = scene;
    drop(worker);
    assert_eq!(server.terminate(), 0);
    let still = stepwell(&["run", "show", "order-1", "--data", &data]);
    assert_eq!((still.code, still.stdout), (0, live.stdout), "{}", still.stderr);
    let checked = stepwell(&["store", "check", &data, "--json"]);
    assert_eq!(checked.code, 0, "{}{}", checked.stdout, checked.stderr);
    let dumped = stepwell(&["store", "dump", &data]);
    assert!(dumped.code == 0 && dumped.stdout.contains("order-1"), "{}", dumped.stderr);
    drop(dir);
}

#[test]
fn a_second_server_on_a_directory_is_refused() {
    let scene = Scene::set();
    let second = stepwell(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--data",
        scene.dir.path().to_str().unwrap(),
    ]);
    assert_eq!(second.code, 1);
    insta::assert_snapshot!(
        "second_server",
        second
            .golden()
            .replace(scene.dir.path().to_str().unwrap(), "DIR")
            .replace(&scene.server.child.id().to_string(), "PID")
    );
}

#[test]
fn stats_count_every_state() {
    let scene = Scene::set();
    scene.complete("order-1");
    let stats = scene.ask(&["stats", "--json"]).json();
    assert_eq!(stats["runs"]["completed"], 1);
    assert_eq!(stats["runs"].as_object().unwrap().len(), 10);
    assert_eq!(stats["steps_completed"], 2);
    assert!(scene.ask(&["stats"]).stdout.contains("steps completed"));
}

/// A command that waits for a run tells why it does not begin.
#[test]
fn who_waits_for_a_run_that_nobody_takes_is_told_why() {
    let scene = Scene::set();
    let address = scene.server.address();
    let started = scene.ask(&["run", "start", "of-nobody", "--queue", "empty", "--name", "late"]);
    assert_eq!(started.code, 0, "{}", started.stderr);
    let mut waiting = Command::new(env!("CARGO_BIN_EXE_stepwell"))
        .args(["run", "wait", "late", "--server", &address])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let stderr = waiting.stderr.take().unwrap();
    BufReader::new(stderr).read_line(&mut line).unwrap();
    waiting.kill().unwrap();
    waiting.wait().unwrap();
    let expected = "waiting for late: it is queued in `empty`: no worker offers this queue\n";
    assert_eq!(line, expected);
}
