//! The demo, small, with its kills.

mod stepwell;

use stepwell::stepwell;

/// Everything the demo promises, while workers and the server die.
#[test]
fn sixty_orders_survive_the_kills() {
    let answer = stepwell(&["demo", "--orders", "60", "--json"]);
    assert_eq!(answer.code, 0, "{}{}", answer.stdout, answer.stderr);
    let report = answer.json();
    assert_eq!(report["promises_kept"], true);
    for key in [
        "orders_completed",
        "orders_charged_once",
        "orders_mailed_once",
        "charges",
        "mails",
        "receipts_right",
    ] {
        assert_eq!(report[key], 60, "{key}: {report}");
    }
    for key in ["orders_lost", "dead_letters", "steps_wrong"] {
        assert_eq!(report[key], 0, "{key}: {report}");
    }
    assert_eq!(report["steps"], 240);
    assert_eq!(report["server_kills"], 2);
    assert!(report["worker_kills"].as_u64().unwrap() >= 5, "{report}");
    assert!(report["replays"].as_u64().unwrap() >= 60, "{report}");
}

/// A kept directory is there to be looked at with the printed command.
#[test]
fn a_kept_directory_shows_its_orders() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    let answer = stepwell(&[
        "demo",
        "--orders",
        "5",
        "--no-kills",
        "--keep",
        "--data",
        data,
    ]);
    assert_eq!(answer.code, 0, "{}{}", answer.stdout, answer.stderr);
    assert!(
        answer
            .stderr
            .contains(&format!("stepwell run show order-0001 --data {data}")),
        "{}",
        answer.stderr
    );
    let shown = stepwell(&["run", "show", "order-0001", "--data", data]);
    assert_eq!(shown.code, 0, "{}", shown.stderr);
    assert!(shown.stdout.contains("charge"), "{}", shown.stdout);
    let again = stepwell(&["demo", "--orders", "5", "--data", data]);
    assert_eq!(again.code, 2, "{}", again.stderr);
}
