//! What a rename must not change in the simulation: the labels that streams are drawn from, the
//! fields of plans, and what seeds mean, compared with `golden/fixed.txt`.
//!
//! A label decides what a seed means, and the plans in a bank were written by earlier versions.
//! With `UPDATE_GOLDEN=1` the file is written anew.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::Value;
use twox_hash::XxHash3_64;

use crate::plan::{FaultKind, Plan};

/// Plans whose JSON holds every field and nearly every variant.
const PLANS: u64 = 400;
/// Labels that the file does not have: of a stream that is newer than it, from which nothing was
/// drawn before, and of an old one that these seeds did not draw from when it was written.
const ADDED: [&str; 3] =
    ["label protocols # #", "label protocols server #", "label effect kill # #"];
/// Seeds that are run for their labels.
const PLAYED: u64 = 6;

/// A label without its numbers: `fault 3` and `fault 12` are one.
fn shape(label: &str) -> String {
    let mut shape = String::new();
    for word in label.split(' ') {
        let word = match word.contains(|c: char| c.is_ascii_digit()) {
            true => "#",
            false => word,
        };
        let gap = if shape.is_empty() { "" } else { " " };
        let _ = write!(shape, "{gap}{word}");
    }
    shape
}

/// The paths of all fields, and the names of all variants, in a value.
fn paths(at: &str, value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                // Hosts and runs by their names are no fields.
                let name = if name.contains(|c: char| c.is_ascii_digit()) { "#" } else { name };
                let path = format!("{at}.{name}");
                found.insert(path.clone());
                paths(&path, value, found);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| paths(at, value, found)),
        Value::String(text) if text.chars().next().is_some_and(char::is_uppercase) => {
            found.insert(format!("{at} {text}"));
        }
        _ => {}
    }
}

fn lines() -> String {
    let (mut text, mut fields) = (String::new(), BTreeSet::new());
    let mut hashes = 0;
    for seed in 0..PLANS {
        for plan in [Plan::from_seed(seed), Plan::timer_heavy(seed)] {
            let json = serde_json::to_value(&plan).expect("a plan is data");
            paths("plan", &json, &mut fields);
            // The order of fields in the text is theirs in the code, and may change.
            hashes ^= XxHash3_64::oneshot_with_seed(seed, json.to_string().as_bytes());
        }
    }
    crate::draw::listen();
    for seed in 0..PLAYED {
        let _ = crate::run(Plan::from_seed(seed));
    }
    let labels: BTreeSet<String> = crate::draw::heard().iter().map(|label| shape(label)).collect();
    let kinds: Vec<String> = FaultKind::ALL
        .iter()
        .map(|kind| serde_json::to_string(kind).expect("a kind is data"))
        .collect();
    let _ = writeln!(text, "{PLANS} plans = {hashes:016x}");
    let _ = writeln!(text, "fault kinds = {}", kinds.join(" "));
    for label in labels {
        let _ = writeln!(text, "label {label}");
    }
    for field in fields {
        let _ = writeln!(text, "{field}");
    }
    text
}

#[test]
fn labels_and_plans_have_not_changed() {
    let found = lines();
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/fixed.txt");
    if std::env::var("UPDATE_GOLDEN").is_ok_and(|value| value == "1") {
        std::fs::write(&file, &found).unwrap();
    }
    let golden = std::fs::read_to_string(&file).unwrap();
    let is_label = |line: &&str| line.starts_with("label ");
    let known: BTreeSet<&str> = golden.lines().filter(is_label).collect();
    // A label that is not drawn in these few seeds any more is no fault; another text is.
    let is_new = |label: &&str| !known.contains(label) && !ADDED.contains(label);
    let new: Vec<&str> = found.lines().filter(is_label).filter(is_new).collect();
    assert!(new.is_empty(), "{new:?} not in golden/fixed.txt: seeds mean something else now");
    let others = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !is_label(line)).map(str::to_owned).collect()
    };
    for (now, then) in others(&found).iter().zip(&others(&golden)) {
        assert_eq!(now, then, "golden/fixed.txt: plans mean something else now");
    }
    assert_eq!(others(&found).len(), others(&golden).len(), "lines were added or taken away");
}
