//! What is told without an engine: help, wrong usage, bad input, and that nobody answers.

mod stepwell;

use stepwell::stepwell;

#[test]
fn help_lists_the_commands_and_hides_the_inner_ones() {
    insta::assert_snapshot!(stepwell(&["--help"]).golden());
}

#[test]
fn every_client_command_says_where_it_looks_for_the_engine() {
    insta::assert_snapshot!(stepwell(&["run", "start", "--help"]).golden());
}

#[test]
fn wrong_usage_ends_with_2() {
    let answer = stepwell(&["run", "list", "--state", "gone"]);
    assert_eq!(answer.code, 2);
    insta::assert_snapshot!(answer.golden());
}

#[test]
fn wrong_usage_is_json_where_json_was_asked_for() {
    let answer = stepwell(&["run", "list", "--state", "gone", "--json"]);
    assert_eq!((answer.code, answer.stdout.as_str()), (2, ""));
    let error: serde_json::Value = serde_json::from_str(&answer.stderr).unwrap();
    assert_eq!(error["error"]["kind"], "usage");
}

#[test]
fn nobody_answering_ends_with_3() {
    // Port 1 is never listened on by an ordinary program.
    let answer = stepwell(&["run", "list", "--server", "127.0.0.1:1"]);
    assert_eq!(answer.code, 3);
    insta::assert_snapshot!(answer.golden());
}

#[test]
fn nobody_answering_is_json_where_json_was_asked_for() {
    let answer = stepwell(&["stats", "--json", "--server", "127.0.0.1:1"]);
    assert_eq!((answer.code, answer.stdout.as_str()), (3, ""));
    let error: serde_json::Value = serde_json::from_str(&answer.stderr).unwrap();
    assert_eq!(error["error"]["kind"], "not_reachable");
    assert_eq!(error["error"]["exit_code"], 3);
}

/// A misspelt file must cost nothing: no process is started before every row is sound.
#[test]
fn a_broken_file_of_orders_is_told_by_line_and_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("orders.csv");
    std::fs::write(&file, "order_id,customer,email,sku,quantity,cents,card\norder-1,Ada,ada@b.cd,mug,1,500,visa-1\norder-2,Ben,ben,mug,none,500,visa-2\n").unwrap();
    let answer = stepwell(&["demo", "--input", file.to_str().unwrap()]);
    assert_eq!(answer.code, 2);
    insta::assert_snapshot!(answer.golden().replace(dir.path().to_str().unwrap(), "DIR"));
}

#[test]
fn input_that_is_not_json_ends_with_2() {
    let answer = stepwell(&["run", "start", "greet", "--input", "{name:1}"]);
    assert_eq!(answer.code, 2);
    insta::assert_snapshot!(answer.golden());
}

#[test]
fn a_directory_that_is_not_there_ends_with_2() {
    let answer = stepwell(&["run", "list", "--data", "/nowhere/at/all"]);
    assert_eq!(answer.code, 2);
    insta::assert_snapshot!(answer.golden());
}

#[test]
fn what_cannot_be_listened_on_is_told_by_its_cause() {
    let dir = tempfile::tempdir().unwrap();
    let data = |name: &str| dir.path().join(name).display().to_string();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (name, listen, hint) in [
        ("a", taken.as_str(), "another process listens there"),
        ("b", "nonsense", "--listen takes HOST:PORT"),
    ] {
        let answer = stepwell(&["serve", "--data", &data(name), "--listen", listen]);
        assert_eq!(answer.code, 1, "{}", answer.stderr);
        assert!(answer.stderr.contains(hint), "{}", answer.stderr);
    }
    let file = data("file");
    std::fs::write(&file, "").unwrap();
    let answer = stepwell(&["run", "list", "--data", &file]);
    assert_eq!(answer.code, 2, "{}", answer.stderr);
    assert!(answer.stderr.contains("is a file, not a data directory"), "{}", answer.stderr);
}
