//! Schedules from the command line, against a real server.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod stepwell;

use stepwell::{Answer, Running, masked, stepwell};
use tempfile::TempDir;

struct Scene {
    server: Running,
    _dir: TempDir,
}

impl Scene {
    fn set() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Running::server(dir.path());
        Self { server, _dir: dir }
    }

    fn ask(&self, args: &[&str]) -> Answer {
        let address = self.server.address();
        stepwell(&[args, &["--server", &address, "--principal", "ada@shop"]].concat())
    }

    fn nightly(&self) -> Answer {
        self.ask(&[
            "schedule",
            "set",
            "nightly",
            "--workflow",
            "report",
            "--cron",
            "0 6 * * *",
            "--zone",
            "Europe/Berlin",
            "--input",
            r#"{"of":"all"}"#,
        ])
    }
}

/// Weekdays differ from day to day, too, and so do zones from summer to winter.
fn golden(answer: &Answer) -> String {
    let text = masked(&format!(
        "exit {}\n--- stdout\n{}--- stderr\n{}",
        answer.code, answer.stdout, answer.stderr
    ));
    let days = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    let zones = [("CEST", "CET"), ("CET ", "CET")];
    let text = days.iter().fold(text, |text, day| text.replace(&format!("{day} 2"), "Day 2"));
    let text = zones.iter().fold(text, |text, (from, to)| text.replace(from, to));
    let digits = text.split_inclusive('\n').map(|line| match line.contains("Day ") {
        true => line.replace(|c: char| c.is_ascii_digit(), "0"),
        false => line.to_owned(),
    });
    digits.collect()
}

#[test]
fn a_schedule_is_set_listed_and_shown() {
    let scene = Scene::set();
    insta::assert_snapshot!("set", golden(&scene.nightly()));
    insta::assert_snapshot!("set_again", golden(&scene.nightly()));
    let quarters = [
        "schedule",
        "set",
        "quarters",
        "--workflow",
        "sync",
        "--every",
        "15m",
        "--overlap",
        "queue-one",
        "--jitter",
        "1m",
    ];
    assert_eq!(scene.ask(&quarters).code, 0);
    insta::assert_snapshot!("list", golden(&scene.ask(&["schedule", "list"])));
    insta::assert_snapshot!(
        "next",
        golden(&scene.ask(&["schedule", "show", "nightly", "--count", "2"]))
    );
    insta::assert_snapshot!(
        "next_json",
        golden(&scene.ask(&["schedule", "next", "nightly", "--count", "1", "--json"]))
    );
    let rows = scene.ask(&["schedule", "next", "quarters", "--count", "40", "--json"]).json();
    let nominals: Vec<&str> =
        rows["next"].as_array().unwrap().iter().map(|at| at["nominal"].as_str().unwrap()).collect();
    assert_eq!(nominals.len(), 40);
    assert!(
        nominals.is_sorted()
            && nominals.iter().all(|at| at.ends_with(":00Z")
                || at.contains(":15:")
                || at.contains(":30:")
                || at.contains(":45:"))
    );
}

#[test]
fn a_schedule_is_paused_resumed_and_removed() {
    let scene = Scene::set();
    scene.nightly();
    insta::assert_snapshot!("pause", golden(&scene.ask(&["schedule", "pause", "nightly"])));
    insta::assert_snapshot!("paused", golden(&scene.ask(&["schedule", "list"])));
    insta::assert_snapshot!("resume", golden(&scene.ask(&["schedule", "resume", "nightly"])));
    insta::assert_snapshot!("remove", golden(&scene.ask(&["schedule", "remove", "nightly"])));
    let gone = scene.ask(&["schedule", "next", "nightly"]);
    assert_eq!(gone.code, 1);
    insta::assert_snapshot!("gone", golden(&gone));
}

// A19: a backfill starts what has no run, and done again it starts nothing.
#[test]
fn the_past_is_filled_once() {
    let scene = Scene::set();
    scene.nightly();
    let fill = [
        "schedule",
        "backfill",
        "nightly",
        "--from",
        "2026-03-01T00:00:00Z",
        "--to",
        "2026-09-01T00:00:00Z",
        "--rate",
        "10000",
        "--json",
    ];
    let filled = scene.ask(&fill).json();
    assert_eq!((filled["started"].as_u64(), filled["existed"].as_u64()), (Some(184), Some(0)));
    let again = scene.ask(&fill).json();
    assert_eq!((again["started"].as_u64(), again["existed"].as_u64()), (Some(0), Some(184)));
    // 06:00 in Berlin before and after the clocks were put forward.
    for run in ["2026-03-28T05:00:00Z", "2026-03-29T04:00:00Z"] {
        let shown =
            scene.ask(&["run", "show", &format!("schedule/nightly/{run}"), "--json"]).json();
        assert_eq!(shown["state"], "queued");
    }
}

#[test]
fn what_cannot_be_is_refused_with_what_to_do() {
    let scene = Scene::set();
    let set = |args: &[&str]| {
        let answer = scene.ask(&[&["schedule", "set", "s", "--workflow", "w"], args].concat());
        assert_eq!(answer.code, 2, "{}", answer.stderr);
        answer.stderr
    };
    insta::assert_snapshot!("bad_cron", set(&["--cron", "0 25 * * *"]));
    insta::assert_snapshot!("unknown_zone", set(&["--cron", "0 6 * * *", "--zone", "Berlin"]));
    insta::assert_snapshot!("neither", set(&[]));
    insta::assert_snapshot!("bad_overlap", set(&["--every", "1m", "--overlap", "wait"]));
    insta::assert_snapshot!("too_often", set(&["--every", "10ms"]));
}
