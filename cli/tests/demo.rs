//! The demo, small, with its kills.

mod stepwell;

use serde_json::Value;
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
    assert_eq!(report["steps_completed"], 240);
    assert_eq!(report["server_kills"], 2);
    assert!(report["worker_kills"].as_u64().unwrap() >= 5, "{report}");
    assert!(report["outcomes_replayed"].as_u64().unwrap() >= 60, "{report}");
    assert_eq!(report["broken"], serde_json::json!([]));
    exports_did_not_delay_orders(&report["queues"]);
    the_urgent_one_overtook_the_others(&report["urgent"]);
    the_dead_letter_was_repaired(&report["dead_letter"]);
    each_occurrence_ran_once(&report["schedule"]);
}

fn exports_did_not_delay_orders(queues: &Value) {
    assert!(number(queues, "exports") > 0, "{queues}");
    assert_eq!(queues["exports_completed"], queues["exports"], "{queues}");
    assert!(number(queues, "exports_queued_max") > 0, "{queues}");
    assert!(number(queues, "orders_beside_exports") > 0, "{queues}");
    let (waited, took) = ("order_waited_ms_p50", "export_took_ms_min");
    assert!(number(queues, waited) <= number(queues, took), "{queues}");
}

fn the_urgent_one_overtook_the_others(urgent: &Value) {
    assert_eq!(urgent["priority"], 0, "{urgent}");
    assert!(number(urgent, "queued_before") > 0, "{urgent}");
    assert!(number(urgent, "dispatched_before") <= 9, "{urgent}");
}

fn the_dead_letter_was_repaired(letter: &Value) {
    assert_eq!(letter["class"], "refused", "{letter}");
    let acts: Vec<&Value> = letter["audit"].as_array().into_iter().flatten().collect();
    let kinds: Vec<&Value> = acts.iter().map(|act| &act["action"]).collect();
    assert_eq!(kinds, ["edit", "redrive"], "{letter}");
    assert!(acts.iter().all(|act| act["principal"] == "support"));
    assert_eq!(letter["completed"], true, "{letter}");
    assert_eq!((number(letter, "charges"), number(letter, "mails")), (1, 1));
}

fn each_occurrence_ran_once(schedule: &Value) {
    assert!(number(schedule, "occurrences") >= 3, "{schedule}");
    for key in ["ran_once", "reported_once"] {
        assert_eq!(schedule[key], schedule["occurrences"], "{key}: {schedule}");
    }
    assert_eq!(schedule["runs_too_many"], 0, "{schedule}");
}

fn number(document: &Value, key: &str) -> u64 {
    let found = document[key].as_u64();
    found.unwrap_or_else(|| panic!("{key} is no number in {document}"))
}

/// However few there are, and whatever they are called: with one order nobody can be urgent.
#[test]
fn orders_of_ones_own_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("own.csv");
    let header = "order_id,customer,email,sku,quantity,cents,card";
    let rows = ["a 1,Ada,ada@b.cd,mug,1,500,visa-1", "b,Ben,ben@b.cd,mug,2,700,visa-2"];
    for (count, cents) in [(1, 500), (2, 1_200)] {
        std::fs::write(&file, format!("{header}\n{}\n", rows[..count].join("\n"))).unwrap();
        let file = file.to_str().unwrap();
        let answer = stepwell(&["demo", "--input", file, "--no-kills", "--json"]);
        assert_eq!(answer.code, 0, "{}{}", answer.stdout, answer.stderr);
        let report = answer.json();
        assert_eq!(report["orders_charged_once"], count, "{report}");
        assert_eq!(report["charged_cents"], cents, "{report}");
        assert_eq!(report["dead_letter"]["order"], "a 1", "{report}");
        assert_eq!(report["urgent"].is_null(), count == 1, "{report}");
        assert_eq!(report["worker_kills"], 0, "{report}");
    }
}

/// A kept directory is there to be looked at with the printed command.
#[test]
fn a_kept_directory_shows_its_orders() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    let answer = stepwell(&["demo", "--orders", "5", "--no-kills", "--keep", "--data", data]);
    assert_eq!(answer.code, 0, "{}{}", answer.stdout, answer.stderr);
    assert!(
        answer.stderr.contains(&format!("stepwell run show order-0001 --data {data}")),
        "{}",
        answer.stderr
    );
    for heading in [
        "PROMISE ",
        "WHAT HAPPENED\n",
        "TWO QUEUES, SLOTS OF THEIR OWN\n",
        "AN URGENT ORDER, PRIORITY 0\n",
        "A DEAD LETTER\n",
        "A SCHEDULE\n",
    ] {
        assert!(answer.stdout.contains(heading), "{}", answer.stdout);
    }
    assert!(!answer.stdout.to_lowercase().contains("broken"));
    let acts = stepwell(&["audit", "order-0002", "--data", data]);
    assert_eq!(acts.stdout.matches("support").count(), 2, "{}", acts.stdout);
    let shown = stepwell(&["run", "show", "order-0001", "--data", data]);
    assert_eq!(shown.code, 0, "{}", shown.stderr);
    assert!(shown.stdout.contains("charge"), "{}", shown.stdout);
    let again = stepwell(&["demo", "--orders", "5", "--data", data]);
    assert_eq!(again.code, 2, "{}", again.stderr);
}
