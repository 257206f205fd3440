//! Commands on dead letters, against a real server with a real worker.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod stepwell;

use std::io::Write;

use serde_json::json;
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

    fn json(&self, args: &[&str]) -> serde_json::Value {
        let answer = self.ask(&[args, &["--json"]].concat());
        assert_eq!(answer.code, 0, "{args:?}: {}", answer.stderr);
        answer.json()
    }

    fn fail(&self, name: &str) {
        let input = r#"{"steps":2,"payload":3,"fail_at":1}"#;
        let failed = self.ask(&[
            "run",
            "start",
            "bench-sequence",
            "--name",
            name,
            "--input",
            input,
            "--wait",
        ]);
        assert_eq!(failed.code, 1, "{}", failed.stderr);
    }

    /// The names of the dead letters that a listing has.
    fn dead(&self, args: &[&str]) -> Vec<String> {
        let listed = self.json(&[&["dead", "list"], args].concat());
        let letters = listed["dead_letters"].as_array().unwrap();
        let name = |letter: &serde_json::Value| letter["name"].as_str().unwrap().to_owned();
        letters.iter().map(name).collect()
    }
}

// A15, A49: list, filter, show, edit the input, redrive, and all of it audited.
#[test]
fn a_dead_letter_is_found_edited_and_redriven() {
    let scene = Scene::set();
    scene.fail("order-1");
    assert_eq!(scene.dead(&["--workflow", "bench-sequence"]), ["order-1"]);
    assert_eq!(scene.dead(&["--queue", "elsewhere"]), [""; 0]);
    assert_eq!(scene.dead(&["--class", "nothing"]), [""; 0]);
    assert_eq!(scene.dead(&["--older-than", "1h"]), [""; 0]);
    assert_eq!(scene.dead(&["--younger-than", "1h"]), ["order-1"]);
    let listed = scene.json(&["dead", "list"])["dead_letters"][0].clone();
    assert_eq!(scene.dead(&["--class", listed["class"].as_str().unwrap()]), ["order-1"]);

    let shown = scene.json(&["dead", "show", "order-1"]);
    assert_eq!(shown["input"]["fail_at"], 1);
    for key in ["class", "died_at", "redriven", "edited"] {
        assert!(!shown[key].is_null(), "{key}: {shown}");
        assert_eq!(shown[key], listed[key], "{key}: {shown}");
    }
    let attempts = shown["attempts"].as_array().unwrap();
    assert!(attempts.len() >= 2, "{attempts:?}");
    for attempt in attempts {
        assert!(attempt["failure"]["class"].is_string(), "{attempt}");
        assert!(attempt["at"].is_string(), "{attempt}");
        assert!(attempt["worker"].as_str().unwrap().starts_with("inc_"), "{attempt}");
        assert!(attempt["build"].is_string(), "{attempt}");
    }
    let text = scene.ask(&["dead", "show", "order-1"]).stdout;
    assert!(text.contains("\"fail_at\": 1") && text.contains("FAILED"), "{text}");

    let bad = scene.ask(&["dead", "edit", "order-1", "--input", "{fail_at:}"]);
    assert_eq!(bad.code, 2, "{}", bad.stderr);
    let input = r#"{"steps":2,"payload":3}"#;
    let edited = scene.json(&["dead", "edit", "order-1", "--input", input]);
    assert_eq!(edited["edited"], true);
    assert_eq!(scene.json(&["dead", "show", "order-1"])["edited"], true);
    let redriven = scene.json(&["dead", "redrive", "order-1"]);
    assert_eq!(redriven["redriven"].as_array().unwrap().len(), 1);
    let ended = scene.json(&["run", "wait", "order-1"]);
    assert_eq!(ended["state"], "completed");
    assert_eq!(scene.dead(&[]), [""; 0]);

    // The first step has one outcome: it was not run again.
    let journal = scene.json(&["run", "show", "order-1"])["journal"].clone();
    let of_first = |entry: &&serde_json::Value| entry["command_index"] == 0;
    assert_eq!(journal.as_array().unwrap().iter().filter(of_first).count(), 1);
    let entries = scene.json(&["audit"]);
    let entries: Vec<_> = entries["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|act| (act["action"].clone(), act["principal"].clone(), act["subject"].clone()))
        .collect();
    let act = |what| (json!(what), json!("ada@shop"), json!("order-1"));
    assert_eq!(entries, [act("redrive"), act("edit")]);
    let again = scene.ask(&["dead", "redrive", "order-1"]);
    assert_eq!(again.code, 1);
    assert!(again.stderr.contains("it is not a dead letter"), "{}", again.stderr);
}

// A49: many by filter, dry run first, at a rate; what is discarded leaves the list.
#[test]
fn many_dead_letters_are_redriven_or_discarded_by_filter() {
    let scene = Scene::set();
    for n in 1..=5 {
        scene.fail(&format!("order-{n}"));
    }
    let nobody = scene.ask(&["dead", "redrive"]);
    assert_eq!(nobody.code, 2, "{}", nobody.stderr);
    let unasked = scene.ask(&["dead", "redrive", "--all"]);
    assert_eq!(unasked.code, 2);
    assert!(unasked.stderr.contains("--yes"), "{}", unasked.stderr);
    let both = scene.ask(&["dead", "discard", "order-1", "--older-than", "30d", "--yes"]);
    assert_eq!(both.code, 2, "{}", both.stdout);
    assert!(both.stderr.contains("not both"), "{}", both.stderr);
    let named = ["dead", "discard", "--dry-run", "order-1", "order-99", "--json"];
    let named = scene.ask(&named);
    assert_eq!(named.code, 1, "one of them is no dead letter");
    let dry: serde_json::Value = serde_json::from_str(&named.stdout).unwrap();
    assert_eq!((&dry["count"], &dry["others"][0]["run"]), (&json!(1), &json!("order-99")));
    let filter = ["--workflow", "bench-sequence", "--queue", "default"];
    let dry = scene.json(&[&["dead", "redrive", "--dry-run"], &filter[..]].concat());
    assert_eq!((dry["count"].clone(), dry["dry_run"].clone()), (json!(5), json!(true)));
    assert_eq!(scene.json(&["audit"])["entries"].as_array().unwrap().len(), 0);
    let many = scene.json(&[&["dead", "redrive", "--yes", "--rate", "50/s"], &filter[..]].concat());
    assert_eq!(many["redriven"].as_array().unwrap().len(), 5);
    for n in 1..=5 {
        // They fail as they did before.
        assert_eq!(scene.ask(&["run", "wait", &format!("order-{n}")]).code, 1);
    }
    let some = scene.json(&["dead", "discard", "order-1", "order-2", "--reason", "of no use"]);
    assert_eq!(some["discarded"].as_array().unwrap().len(), 2);
    assert_eq!(scene.dead(&["--limit", "2"]).len(), 2);
    assert_eq!(scene.dead(&[]).len(), 3);
    let all = scene.json(&["dead", "discard", "--all", "--yes"]);
    assert_eq!(all["discarded"].as_array().unwrap().len(), 3);
    assert_eq!(scene.dead(&[]), [""; 0]);
    assert_eq!(scene.json(&["run", "show", "order-1"])["state"], "discarded");
    assert_eq!(scene.json(&["stats"])["runs"]["discarded"], 5);
    let entries = scene.json(&["audit", "order-1"]);
    assert_eq!(entries["entries"][0]["detail"], "of no use");
    assert_eq!(entries["entries"].as_array().unwrap().len(), 2);
}

// A49: the editor that $EDITOR names.
#[test]
fn an_input_is_edited_in_an_editor() {
    let scene = Scene::set();
    scene.fail("order-1");
    let script = scene.dir.path().join("editor");
    let mut file = std::fs::File::create(&script).unwrap();
    writeln!(file, "sed -i 's/\"fail_at\": 1/\"fail_at\": null/' \"$1\"").unwrap();
    let editor = format!("sh {}", script.display());
    let address = scene.server.address();
    let edit = || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_stepwell"));
        command.args(["dead", "edit", "order-1", "--server", &address]);
        command.env("EDITOR", &editor).env_remove("VISUAL");
        command.output().unwrap()
    };
    let output = edit();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let same = edit();
    assert_eq!(same.status.code(), Some(1), "nothing is changed");
    assert_eq!(scene.json(&["dead", "redrive", "order-1"])["refused"], json!([]));
    assert_eq!(scene.json(&["run", "wait", "order-1"])["state"], "completed");
}

/// Who names runs is answered in these names; who has no editor and no terminal is told how to do
/// without.
#[test]
fn refusals_call_runs_as_they_were_called() {
    let scene = Scene::set();
    scene.fail("order-1");
    let address = scene.server.address();
    let answer =
        stepwell(&["dead", "redrive", "nosuch", "order-1", "neither", "--server", &address]);
    assert_eq!(answer.code, 1, "{}{}", answer.stdout, answer.stderr);
    for name in ["`nosuch`", "`neither`"] {
        assert!(answer.stderr.contains(name), "{}", answer.stderr);
    }
    assert!(!answer.stderr.contains("run_"), "{}", answer.stderr);
    scene.fail("order-2");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_stepwell"));
    command.args(["dead", "edit", "order-2", "--server", &address]);
    command.env_remove("EDITOR").env_remove("VISUAL");
    let output = command.stdin(std::process::Stdio::null()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("--input"), "{stderr}");
}
