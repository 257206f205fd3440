//! Readers beside the committer, on threads.

use std::sync::atomic::{AtomicBool, Ordering};

use stepwell_storage::conformance::Harness;
use stepwell_storage::{Scan, Space, Store, WriteBatch, block_on};

use crate::support::{DiskMachine, MemMachine};

/// Each batch writes its number under all keys; a reader that sees two numbers has seen half a
/// batch, and one that sees a lower one than before has missed one on its way from the overlay to
/// the tree.
fn batches_stay_whole(store: &dyn Store, rounds: u64) {
    const KEYS: u8 = 8;
    let done = AtomicBool::new(false);
    let space = Space::Generation(1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=rounds {
                let mut batch = WriteBatch::new();
                for key in 0..KEYS {
                    batch.put(space, vec![b'k', key], round.to_be_bytes().to_vec());
                }
                store.submit(batch).unwrap();
                if round.is_multiple_of(3) {
                    std::thread::yield_now();
                }
            }
        });
        scope.spawn(|| {
            while store.committed().0 < rounds {
                block_on(store.commit()).unwrap();
            }
            done.store(true, Ordering::Release);
        });
        for reverse in [false, true] {
            let done = &done;
            scope.spawn(move || {
                let mut last = 0;
                while !done.load(Ordering::Acquire) {
                    let limit = if reverse { usize::MAX } else { KEYS.into() };
                    let scan = Scan { reverse, ..Scan::range(space, "k", "l").limit(limit) };
                    let rows = block_on(store.scan(scan)).unwrap();
                    let rounds: Vec<_> = rows.iter().map(|row| number(&row.value)).collect();
                    assert!(
                        rounds.windows(2).all(|pair| pair[0] == pair[1]),
                        "half a batch: {rounds:?}"
                    );
                    assert!(rows.is_empty() || rows.len() == KEYS.into());
                    let seen = rounds.first().copied().unwrap_or(0);
                    assert!(seen >= last, "{seen} after {last}");
                    last = seen;
                    let got = block_on(store.get(space, b"k\x03"))
                        .unwrap()
                        .map_or(0, |value| number(&value));
                    assert!(got >= last, "get {got} after scan {last}");
                    last = got;
                }
            });
        }
    });
}

fn number(value: &[u8]) -> u64 {
    u64::from_be_bytes(value.try_into().unwrap())
}

#[test]
fn readers_see_whole_batches_while_fjall_commits() {
    batches_stay_whole(&*DiskMachine::default().open(), 4_000);
}

#[test]
fn readers_see_whole_batches_while_memory_commits() {
    batches_stay_whole(&*MemMachine::default().open(), 4_000);
}
