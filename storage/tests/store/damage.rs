//! Files that are not as they were written: refused, or an error with a reason, or no effect. Never
//! wrong data, and never a panic of ours.
//!
//! fjall's manifest reader aborts the process over some damaged bytes, so that each damaged store
//! is opened by a child: this binary, run again for one test.

use std::path::{Path, PathBuf};
use std::process::Command;

use stepwell_storage::conformance::Harness;
use stepwell_storage::{FjallStore, OpenRefusal, Row, Space};

use crate::support::{DiskMachine, commit, content, image, options, put};

const ROWS: u32 = 40;

/// A store with tables as well as a log, as a power cut leaves it.
fn sound() -> DiskMachine {
    let mut machine = DiskMachine::default();
    machine.options.memtable_bytes = 16 << 10;
    let store = machine.open();
    for row in 0..ROWS {
        let mut batch = put(Space::LongLived, &format!("{row:03}"), &value(row));
        batch.put(Space::Generation(1), format!("{row:03}"), value(row));
        store.submit(batch).unwrap();
        commit(&*store);
    }
    // Flushed in the background; an image while files come and go would be no power cut's.
    let mut settled = (0, files(machine.path()));
    while settled.0 < 10
        || !settled.1.iter().any(|path| path.parent().unwrap().ends_with("1/tables"))
    {
        std::thread::sleep(std::time::Duration::from_millis(10));
        let now = files(machine.path());
        settled = if now == settled.1 { (settled.0 + 1, now) } else { (0, now) };
    }
    machine.crash(store, 0);
    machine
}

/// Long enough that a few dozen fill a memtable.
fn value(row: u32) -> String {
    row.to_string().repeat(500)
}

/// The child of the tests below: says what became of the store.
#[test]
#[ignore = "run by another test, in a process of its own"]
fn judge_the_store_named_in_the_environment() {
    let path = std::env::var("STEPWELL_TEST_STORE").unwrap();
    let store = match FjallStore::open(Path::new(&path), options()) {
        Ok(store) => store,
        Err(refusal) => return println!("verdict: refused: {refusal}"),
    };
    if !store.check().is_sound() {
        return println!("verdict: failed: a read");
    }
    let rows = content(&store);
    let sound = |row: &Row| {
        String::from_utf8_lossy(&row.key).parse().is_ok_and(|number| row.value == value(number))
    };
    let whole = rows.len() == 2 * ROWS as usize && rows.iter().all(|(_, row)| sound(row));
    println!("verdict: {}", if whole { "whole" } else { "WRONG DATA" });
}

fn judge(path: &Path) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "damage::judge_the_store_named_in_the_environment",
        "--ignored",
        "--nocapture",
    ]);
    let output = command.env("STEPWELL_TEST_STORE", path).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    match told.lines().find_map(|line| line.split_once("verdict: ")) {
        Some((_, verdict)) => verdict.to_owned(),
        None => format!("ended: {}", output.status),
    }
}

fn files(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Flips one bit in each of a few places of every file of the database, and has each damaged copy
/// judged.
#[test]
fn a_flipped_bit_never_gives_wrong_data() {
    let machine = sound();
    let copy = machine.path().with_extension("copy");
    let mut verdicts = Vec::new();
    for file in files(machine.path()) {
        let name = file.strip_prefix(machine.path()).unwrap().to_owned();
        let bytes = std::fs::metadata(&file).unwrap().len();
        if name.ends_with("LOCK") || bytes == 0 {
            continue;
        }
        for place in 0..8 {
            let _ = std::fs::remove_dir_all(&copy);
            crate::support::copy(machine.path(), &copy, Path::new(""), 0);
            let mut damaged = std::fs::read(&file).unwrap();
            damaged[(bytes * (2 * place + 1) / 16) as usize] ^= 1 << place;
            std::fs::write(copy.join(&name), damaged).unwrap();
            verdicts.push((name.clone(), judge(&copy)));
        }
    }
    assert!(verdicts.iter().all(|(_, verdict)| verdict != "WRONG DATA"), "{verdicts:#?}");
    assert!(
        verdicts.iter().filter(|(_, verdict)| verdict.starts_with("refused")).count() > 5,
        "{verdicts:#?}"
    );
}

// fjall opens some of these with nothing in it, without a word.
#[test]
fn a_missing_file_is_noticed_or_was_not_needed() {
    let machine = sound();
    let copy = machine.path().with_extension("copy");
    let mut needed = 0;
    for file in files(&machine.path().join("db")) {
        let name = file.strip_prefix(machine.path()).unwrap().to_owned();
        let _ = std::fs::remove_dir_all(&copy);
        crate::support::copy(machine.path(), &copy, Path::new(""), 0);
        std::fs::remove_file(copy.join(&name)).unwrap();
        let verdict = judge(&copy);
        let noticed = verdict.starts_with("refused");
        needed += usize::from(noticed);
        assert!(noticed || verdict == "whole", "without {}: {verdict}", name.display());
        let vital = name.ends_with("current") || name.parent().unwrap().ends_with("tables");
        assert!(noticed || !vital, "without {}: {verdict}", name.display());
    }
    assert!(needed > 10, "{needed}");
}

#[test]
fn a_database_that_was_emptied_is_refused() {
    let machine = sound();
    let db = machine.path().join("db");
    std::fs::remove_dir_all(&db).unwrap();
    std::fs::create_dir(&db).unwrap();
    assert!(judge(machine.path()).starts_with("refused"));
}

#[test]
fn the_data_of_another_store_is_refused() {
    let machine = sound();
    let mut other = DiskMachine::default();
    other.options.entropy = 9;
    let store = other.open();
    let copied = machine.path().with_extension("other");
    image(other.path(), &copied);
    drop(store);
    std::fs::remove_dir_all(machine.path().join("db")).unwrap();
    std::fs::rename(copied.join("db"), machine.path().join("db")).unwrap();
    let refused = FjallStore::open(machine.path(), options()).err();
    assert!(matches!(refused, Some(OpenRefusal::Damaged { .. })), "{refused:?}");
}
