//! Opening the fjall store: who is let in, what is noticed.

use std::path::Path;
use std::process::Command;

use stepwell_storage::conformance::Harness;
use stepwell_storage::{
    Epoch, FjallStore, OpenRefusal, Options, Seq, Space, Store, StoreId, block_on,
};

use crate::support::{
    DiskMachine, ENTROPY, commit, content, image, options, position, put, write_ahead_log,
};

fn refusal(path: &Path, options: Options) -> OpenRefusal {
    FjallStore::open(path, options).err().expect("it is refused")
}

fn write(store: &dyn Store, keys: std::ops::Range<u32>) {
    for key in keys {
        store.submit(put(Space::LongLived, &format!("{key:04}"), "v")).unwrap();
        commit(store);
    }
}

/// The child of the test below.
#[test]
#[ignore = "run by another test, in a process of its own"]
fn open_the_store_named_in_the_environment() {
    let path = std::env::var("STEPWELL_TEST_STORE").unwrap();
    match FjallStore::open(Path::new(&path), options()) {
        Ok(_) => println!("opened"),
        Err(refusal) => println!("refused: {refusal}"),
    }
}

#[test]
fn a_second_process_is_refused_with_the_lock_and_the_holder() {
    let mut machine = DiskMachine::default();
    let store = machine.open();
    let other = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([
            "--exact",
            "open::open_the_store_named_in_the_environment",
            "--ignored",
            "--nocapture",
        ]);
        let output = command.env("STEPWELL_TEST_STORE", machine.path()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let told = other();
    assert!(told.contains("refused: the store is in use"), "{told}");
    assert!(
        told.contains(&format!("process {}", std::process::id())) && told.contains("LOCK"),
        "{told}"
    );
    drop(store);
    assert!(other().contains("opened"));
}

#[test]
fn a_new_store_has_its_entropy_for_an_id_and_epoch_one() {
    let mut machine = DiskMachine::default();
    let store = machine.open();
    assert_eq!((store.identity().store, store.identity().epoch), (StoreId(ENTROPY), Epoch(1)));
    drop(store);
    let again = FjallStore::open(machine.path(), Options { entropy: 9, ..options() }).unwrap();
    assert_eq!((again.identity().store, again.identity().epoch), (StoreId(ENTROPY), Epoch(2)));
    assert_eq!(again.path(), machine.path());
}

// An older copy of the data beside a newer watermark is what silent loss looks like.
#[test]
fn a_store_behind_its_watermark_is_refused_with_both_numbers() {
    let mut machine = DiskMachine::default();
    let store = machine.open();
    write(&*store, 0..10);
    let older = machine.path().with_extension("older");
    image(machine.path(), &older);
    write(&*store, 10..30);
    drop(store);
    let db = machine.path().join("db");
    std::fs::remove_dir_all(&db).unwrap();
    std::fs::rename(older.join("db"), &db).unwrap();
    assert_eq!(
        refusal(machine.path(), options()),
        OpenRefusal::Behind { store: Seq(10), watermark: Seq(30) }
    );

    // The operator's way out: it is a restored backup now, and those who remember the future are
    // strangers to it.
    let restored =
        FjallStore::open(machine.path(), Options { restored: true, entropy: 77, ..options() })
            .unwrap();
    assert_eq!((restored.identity().store, restored.committed()), (StoreId(77), Seq(10)));
    assert_eq!(content(&restored).len(), 10);
    drop(restored);
    let again = machine.open();
    assert_eq!((again.identity().store, again.committed()), (StoreId(77), Seq(10)));
}

// The loss that fjall cannot notice: its write-ahead log ends early, cleanly.
#[test]
fn a_shortened_log_of_committed_data_is_refused() {
    let mut machine = DiskMachine::default();
    let store = machine.open();
    write(&*store, 0..5);
    let log = write_ahead_log(&machine.path().join("db"));
    let synced = position(&log);
    write(&*store, 5..9);
    let copy = machine.path().with_extension("copy");
    crate::support::copy(machine.path(), &copy, &log, synced);
    assert_eq!(refusal(&copy, options()), OpenRefusal::Behind { store: Seq(5), watermark: Seq(9) });
}

#[test]
fn a_watermark_that_is_gone_or_another_stores_is_refused() {
    let mut machine = DiskMachine::default();
    write(&*machine.open(), 0..3);
    let watermark = machine.path().join("watermark");
    let sound = std::fs::read(&watermark).unwrap();
    std::fs::remove_file(&watermark).unwrap();
    assert!(matches!(refusal(machine.path(), options()), OpenRefusal::Damaged { .. }));
    std::fs::write(&watermark, [0; 64]).unwrap();
    assert!(matches!(refusal(machine.path(), options()), OpenRefusal::Damaged { .. }));

    let other = machine.path().with_extension("other");
    drop(FjallStore::open(&other, Options { entropy: 1, ..options() }).unwrap());
    std::fs::copy(other.join("watermark"), &watermark).unwrap();
    let told = refusal(machine.path(), options()).to_string();
    assert!(told.contains("the watermark belongs to store 0000000000000001"), "{told}");
    std::fs::write(&watermark, sound).unwrap();
    assert_eq!(content(&*machine.open()).len(), 3);
}

#[test]
fn a_creation_that_was_interrupted_is_started_over() {
    let machine = DiskMachine::default();
    std::fs::create_dir_all(machine.path().join("db.new/keyspaces")).unwrap();
    std::fs::write(machine.path().join("FORMAT"), "stepwell store format 1\n").unwrap();
    std::fs::write(machine.path().join("db.new/0.jnl"), "half").unwrap();
    let store = FjallStore::open(machine.path(), options()).unwrap();
    assert_eq!(store.committed(), Seq(0));
    assert!(!machine.path().join("db.new").exists());
}

#[test]
fn data_that_is_gone_is_not_taken_for_a_new_store() {
    let mut machine = DiskMachine::default();
    write(&*machine.open(), 0..3);
    std::fs::remove_dir_all(machine.path().join("db")).unwrap();
    let told = refusal(machine.path(), options()).to_string();
    assert!(told.contains("is gone; the store was at batch 3"), "{told}");
}

#[test]
fn check_counts_the_rows_of_every_space() {
    let mut machine = DiskMachine::default();
    let store = machine.open();
    write(&*store, 0..7);
    store.submit(put(Space::Generation(8), "key", "value")).unwrap();
    commit(&*store);
    drop(store);
    let report = FjallStore::open(machine.path(), options()).unwrap().check();
    assert!(report.is_sound());
    let rows: Vec<_> =
        report.spaces.iter().map(|found| (found.space, found.rows, found.key_bytes)).collect();
    assert_eq!(
        rows,
        [(Space::LongLived, 7, 28), (Space::ShortLived, 0, 0), (Space::Generation(8), 1, 3)]
    );
}

// The bytes are counted, not measured; they have to be the log's own.
#[test]
fn the_bytes_of_the_write_ahead_log_are_counted_exactly() {
    let mut machine = DiskMachine::default();
    let store = machine.open();
    let log = write_ahead_log(&machine.path().join("db"));
    let (begin, counted) = (position(&log), store.usage().wal_bytes_written);
    write(&*store, 0..20);
    store.submit(put(Space::Generation(8), "key", "value")).unwrap();
    let mut batch = put(Space::ShortLived, "key", &"value".repeat(400));
    batch.delete(Space::LongLived, "0003");
    store.submit(batch).unwrap();
    commit(&*store);
    assert_eq!(store.usage().wal_bytes_written - counted, position(&log) - begin);
}

#[test]
fn a_generation_whose_drop_was_interrupted_is_gone_after_reopening() {
    let mut machine = DiskMachine::default();
    let store = machine.open();
    for generation in [1, 2] {
        store.submit(put(Space::Generation(generation), "k", "v")).unwrap();
    }
    commit(&*store);
    // An image from before the drop has both keyspaces; cut to nothing after the drop, it has one
    // record.
    block_on(store.drop_generation(1)).unwrap();
    drop(store);
    let store = machine.open();
    assert_eq!(block_on(store.generations()), Ok(vec![2]));
}

/// What flushes and compacts stands back behind what commits; who opens the store does not.
#[cfg(target_os = "linux")]
#[test]
fn what_works_behind_has_a_lower_priority_than_who_opened() {
    let nice_of = |stat: &Path| -> Option<(String, i32)> {
        let stat = std::fs::read_to_string(stat).ok()?; // a thread of another test may have ended
        let (name, fields) = stat.split_once('(')?.1.rsplit_once(')')?;
        let nice = fields.split_whitespace().nth(16)?.parse().ok()?;
        Some((name.to_owned(), nice))
    };
    let own = || nice_of(Path::new("/proc/thread-self/stat")).unwrap().1;
    let before = own();
    let mut machine = DiskMachine::default();
    let _store = machine.open();
    assert_eq!(own(), before, "who opens goes on as before");
    let behind = || -> Vec<i32> {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        tasks
            .filter_map(|task| nice_of(&task.unwrap().path().join("stat")))
            .filter(|(name, _)| name.starts_with("fjall:worker"))
            .map(|(_, nice)| nice)
            .collect()
    };
    // A thread has its name only once it runs.
    let named = (0..1_000).find(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        behind().len() >= 3
    });
    let behind = behind();
    assert!(named.is_some(), "{behind:?}");
    assert!(behind.iter().all(|nice| *nice == (before + 5).min(19)), "{behind:?} behind {before}");
}
