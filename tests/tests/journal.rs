//! What is told of a run's journal.

use std::path::Path;

use stepwell::Engine;
use stepwell::model::entry::Entry;
use stepwell::tables::{JournalKey, Table, TableKey, journal};
use stepwell_storage::{FjallStore, Options, Scan, Store, WriteBatch};
use stepwell_tests::process_spec::ProcessSpec;
use stepwell_tests::verdict::Known;
use stepwell_tests::workflow::{self, BOOK, Book, World};

use crate::damage::{Draw, End, copy, furnished};
use crate::host::Host;

// A journal is told a page at a time, and each page is verified against the one before it.
#[tokio::test]
async fn a_journal_of_many_pages_is_told_whole() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::open(directory.path().join("data")).await.unwrap();
    let world = World::new(directory.path().join("effects"), |_| {});
    let worker = workflow::register(engine.worker(), &world).start().unwrap();
    let client = engine.client();
    // By bytes (256 KiB a page), and by entries (1,000 a page).
    for book in [Book { steps: 30, letters: 30_000 }, Book { steps: 2_100, letters: 1 }] {
        let run = client.start(BOOK, &book).await.unwrap();
        run.outcome().await.unwrap();
        let entries = client.journal(run.id()).await.unwrap();
        let numbers = entries.iter().filter_map(Entry::number).map(|number| number.0);
        assert!(numbers.eq(0..book.steps), "{book:?}");
        assert_eq!(entries.len() as u32, book.steps + 2);
    }
    worker.drain().await;
    engine.close().await;
}

// What the store's checksums do not cover: a row that was written wrong. The chain over a run's
// entries finds it, and it costs that run alone.
#[tokio::test]
async fn a_run_whose_journal_does_not_fit_its_chain_is_stopped_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let content = furnished(&data, End::Killed).await;
    let known = directory.path().join("content.json");
    std::fs::write(&known, serde_json::to_vec(&content).unwrap()).unwrap();
    let mut draw = Draw(3);
    for number in 0..12 {
        let copied = directory.path().join(number.to_string());
        copy(&data, &copied);
        let run = rewrite_one_entry(&copied, &mut draw).await;
        let Known { name, .. } = &content.0[run as usize - 1];
        let spec = ProcessSpec::Judge { data: copied, content: known.clone() };
        let ending = Host::start(&spec).ended().await;
        let verdict =
            ending.stdout.lines().find_map(|line| line.strip_prefix("verdict: stopped: "));
        let verdict = verdict.unwrap_or_else(|| panic!("{name}: {ending:?}"));
        let its_own = format!("run {name}: ");
        assert!(
            verdict.split(" | ").all(|reason| reason.starts_with(&its_own)),
            "of {name}: {verdict}"
        );
        assert!(!ending.stderr.contains("panicked"), "{ending:?}");
    }
}

/// Flips a bit of some entry of some run, as a bug would; the run's number.
async fn rewrite_one_entry(data: &Path, draw: &mut Draw) -> u64 {
    let store = FjallStore::open(data, Options::default()).unwrap();
    let generation = journal::space(*store.generations().await.unwrap().first().unwrap());
    let rows = store.scan(Scan::range(generation, "", "")).await.unwrap();
    let rows: Vec<_> =
        rows.iter().filter(|row| Table::from_key(&row.key) == Some(Table::Journal)).collect();
    let row = rows[draw.next().unwrap() as usize % rows.len()];
    let mut value = row.value.to_vec();
    let at = draw.next().unwrap() as usize % value.len();
    value[at] ^= 1 << (draw.next().unwrap() % 8);
    let mut batch = WriteBatch::new();
    batch.put(generation, row.key.clone(), value);
    store.submit(batch).unwrap();
    store.commit().await.unwrap();
    JournalKey::from_bytes(&row.key).unwrap().run.0
}
