//! Batches at the terminal, against a real server with a real worker.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod stepwell;

use serde_json::json;
use stepwell::{Answer, Running, stepwell};

// A20: a file of records becomes a batch in one command, which may be repeated; its progress is
// shown, for people and as data, until the last run has ended and another follows.
#[test]
fn a_file_becomes_a_batch_that_is_watched_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::server(dir.path());
    let address = server.address();
    let _worker = Running::worker(&address);
    let ask = |args: &[&str]| -> Answer { stepwell(&[args, &["--server", &address]].concat()) };
    let file = dir.path().join("orders.jsonl");
    let lines = (0..30).map(|n| {
        let fail_at = (n == 7).then_some(1);
        json!({ "order": n, "steps": 2, "payload": 3, "fail_at": fail_at }).to_string()
    });
    std::fs::write(&file, lines.collect::<Vec<_>>().join("\n")).unwrap();
    let file = file.to_str().unwrap();
    let start = |more: &[&str]| {
        let args = ["batch", "start", file, "--workflow", "bench-sequence"];
        ask(&[&args[..], &["--name-field", "order", "--then", "report"], more].concat())
    };

    let open = start(&["--open", "--json"]);
    assert_eq!(
        (open.json()["started"].clone(), open.json()["sealed"].clone()),
        (json!(30), json!(false))
    );
    let sealed = start(&["--json"]);
    assert_eq!(sealed.code, 0, "{}", sealed.stderr);
    let document = sealed.json();
    assert_eq!((&document["started"], &document["existed"]), (&json!(0), &json!(30)));
    assert_eq!(document["counts"]["total"], json!(30));

    let watched = ask(&["batch", "show", "orders", "--watch"]);
    assert_eq!(watched.code, 1, "one run is dead: {}", watched.stdout);
    assert!(watched.stdout.contains("state      ended"), "{}", watched.stdout);
    let shown = ask(&["batch", "show", "orders", "--json"]).json();
    assert_eq!(shown["name"], json!("orders"));
    let counts = json!({ "total": 30, "ended": 30, "completed": 29, "dead": 1, "cancelled": 0 });
    assert_eq!(shown["counts"], counts);
    let follow_up = shown["follow_up"].as_str().unwrap().to_owned();
    let shown = ask(&["run", "show", &follow_up, "--json"]).json();
    assert_eq!(shown["workflow"], json!("report"));

    let again = start(&[]);
    assert_eq!(again.code, 0);
    assert!(again.stdout.contains("0 runs started, 30 existed already"), "{}", again.stdout);
    let none = ask(&["batch", "show", "none"]);
    assert_eq!(none.code, 1);
    assert!(none.stderr.contains("there is no batch `none`"), "{}", none.stderr);
}

// A20: the wrong file is stopped with one command, which may be repeated, and what follows begins
// all the same.
#[test]
fn a_batch_is_asked_to_stop() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::server(dir.path());
    let address = server.address();
    let ask = |args: &[&str]| -> Answer { stepwell(&[args, &["--server", &address]].concat()) };
    let file = dir.path().join("wrong.jsonl");
    std::fs::write(&file, "{\"order\":1}\n{\"order\":2}\n").unwrap();
    let start = ["batch", "start", file.to_str().unwrap(), "--workflow", "import"];
    assert_eq!(ask(&[&start[..], &["--open"]].concat()).code, 0);

    let asked = ask(&["batch", "cancel", "wrong", "--reason", "not this one"]);
    assert_eq!(asked.code, 0, "{}", asked.stderr);
    let told = "wrong: cancellation requested for 2 runs; 2 of 2 ended; it is open";
    assert!(asked.stdout.contains(told), "{}", asked.stdout);
    let shown = ask(&["run", "show", "wrong/1"]);
    assert!(shown.stdout.contains("not this one"), "{}", shown.stdout);

    let sealed = ask(&[&start[..], &["--then", "report", "--json"]].concat());
    assert_eq!(sealed.json()["ended"], json!(true), "{}", sealed.stdout);
    assert!(sealed.json()["follow_up"].is_string());
    let again = ask(&["batch", "cancel", "wrong", "--json"]);
    assert_eq!(again.code, 0, "{}", again.stderr);
    let document = again.json();
    assert_eq!(document["cancel_requested"], json!(0));
    assert_eq!(document["counts"]["cancelled"], json!(2));
    let none = ask(&["batch", "cancel", "none"]);
    assert_eq!(none.code, 1);
    assert!(none.stderr.contains("there is no batch `none`"), "{}", none.stderr);
}

// `unique` at the terminal: the second start is answered with the first run, and that is no error.
#[test]
fn a_unique_key_is_answered_with_its_holder() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::server(dir.path());
    let address = server.address();
    let start = |until: &str| {
        let args = ["run", "start", "bill", "--unique", "invoice-17", "--unique-until", until];
        stepwell(&[&args[..], &["--json", "--server", &address]].concat())
    };
    let (first, second) = (start("1h").json(), start("ended").json());
    assert_eq!((&first["started"], &second["started"]), (&json!(true), &json!(false)));
    assert_eq!(first["id"], second["id"]);
    let args = ["run", "start", "bill", "--unique", "invoice-17"];
    let told = stepwell(&[&args[..], &["--server", &address]].concat());
    let expected = "(holds the key invoice-17 already)";
    assert!(told.stdout.contains(expected), "{}", told.stdout);
    let wrong = start("soon");
    assert_eq!(wrong.code, 2);
}
