//! The faults of the simulated disk, and the handles that meet them.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use stepwell_storage::{
    CommitFailure, Fate, MemDisk, MemOptions, MemStore, OpenRefusal, ReadFailure, Seq, Space,
    Store, SubmitRefusal, block_on,
};

use crate::support::{content, put};

fn acquire(disk: &MemDisk) -> MemStore {
    MemStore::acquire(disk, MemOptions::default()).unwrap()
}

fn three_pending(disk: &MemDisk) -> MemStore {
    let store = acquire(disk);
    for key in ["a", "b", "c"] {
        store.submit(put(Space::LongLived, key, "v")).unwrap();
    }
    store
}

fn is_dead(store: &MemStore) {
    let failure = block_on(store.commit()).unwrap_err();
    assert_eq!(block_on(store.commit()), Err(failure.clone()), "the same for ever");
    assert_eq!(block_on(store.drop_generation(1)), Err(failure.clone()));
    let reason = failure.to_string();
    let refused = store.submit(put(Space::LongLived, "late", "v"));
    assert_eq!(refused, Err(SubmitRefusal::Poisoned { reason: reason.clone() }));
    assert_eq!(block_on(store.get(Space::LongLived, b"a")), Err(ReadFailure::Poisoned { reason }));
}

#[test]
fn a_failed_commit_ends_the_handle_whatever_became_of_the_data() {
    for (fate, kept) in
        [(Fate::Kept, 3), (Fate::Partly(2), 2), (Fate::Partly(5), 1), (Fate::Lost, 0)]
    {
        let disk = MemDisk::new();
        let store = three_pending(&disk);
        disk.faults().fail_next_commit(fate);
        assert!(matches!(block_on(store.commit()), Err(CommitFailure::Unknown { .. })));
        is_dead(&store);
        let store = acquire(&disk);
        assert_eq!(
            (store.committed(), content(&store).len()),
            (Seq(kept), kept as usize),
            "{fate:?}"
        );
    }
}

#[test]
fn a_full_disk_ends_the_handle_and_reopening_works_once_there_is_room() {
    let disk = MemDisk::new();
    let store = three_pending(&disk);
    disk.faults().fill();
    assert!(matches!(block_on(store.commit()), Err(CommitFailure::Full { .. })));
    let refused = MemStore::acquire(&disk, MemOptions::default()).err();
    assert!(matches!(refused, Some(OpenRefusal::Full { .. })));
    disk.faults().make_room();
    is_dead(&store);
    let store = three_pending(&disk);
    assert!(block_on(store.commit()).unwrap().covers(Seq(3)));
}

#[test]
fn the_cut_chooses_the_prefix_that_survives() {
    for cut in 0..8u64 {
        let disk = MemDisk::new();
        let store = three_pending(&disk);
        let crash =
            if cut.is_multiple_of(2) { disk.power_loss(cut) } else { disk.crash_process(cut) };
        assert_eq!((crash.unacknowledged, crash.kept), (3, cut % 4));
        is_dead(&store);
        assert_eq!(acquire(&disk).committed(), Seq(cut % 4));
    }
}

#[test]
fn a_power_cut_during_a_sync_takes_the_commit_with_it() {
    let disk = MemDisk::new();
    let slow = MemOptions {
        sync_time: Duration::from_millis(3),
        pause: Arc::new(|_| Box::pin(yield_once())),
        ..MemOptions::default()
    };
    let store = MemStore::acquire(&disk, slow).unwrap();
    store.submit(put(Space::LongLived, "a", "v")).unwrap();
    {
        let mut commit = pin!(store.commit());
        assert!(poll(&mut commit).is_pending());
        store.submit(put(Space::LongLived, "b", "v")).unwrap();
        assert_eq!(disk.power_loss(1).unacknowledged, 2);
        assert!(matches!(poll(&mut commit), Poll::Ready(Err(CommitFailure::Unknown { .. }))));
    }
    assert_eq!(disk.committed_seq(), Seq(1));
}

// Whoever drops a commit does not know what became of it.
#[test]
fn a_commit_that_is_dropped_during_its_sync_ends_the_handle() {
    let disk = MemDisk::new();
    disk.faults().slow_sync(Duration::from_secs(1));
    let pause = MemOptions {
        pause: Arc::new(|_| Box::pin(std::future::pending())),
        ..MemOptions::default()
    };
    let store = MemStore::acquire(&disk, pause).unwrap();
    store.submit(put(Space::LongLived, "a", "v")).unwrap();
    assert!(poll(&mut pin!(store.commit())).is_pending());
    is_dead(&store);
    assert_eq!(disk.power_loss(u64::MAX).unacknowledged, 1);
}

// What fencing is for: the old leader wakes up in the middle of its write.
#[test]
fn a_handle_that_is_fenced_during_its_sync_commits_nothing() {
    let disk = MemDisk::new();
    let slow = MemOptions {
        sync_time: Duration::from_millis(3),
        pause: Arc::new(|_| Box::pin(yield_once())),
        ..MemOptions::default()
    };
    let old = MemStore::acquire(&disk, slow).unwrap();
    old.submit(put(Space::LongLived, "a", "old")).unwrap();
    let mut commit = pin!(old.commit());
    assert!(poll(&mut commit).is_pending());
    let new = acquire(&disk);
    let (held, current) = (old.identity().epoch, new.identity().epoch);
    assert_eq!(poll(&mut commit), Poll::Ready(Err(CommitFailure::Fenced { held, current })));
    assert_eq!(content(&new), []);
}

#[test]
fn equal_histories_give_equal_digests_and_different_ones_do_not() {
    let digest = |value: &str| {
        let disk = MemDisk::new();
        let store = acquire(&disk);
        store.submit(put(Space::Generation(4), "k", value)).unwrap();
        block_on(store.commit()).unwrap();
        disk.digest()
    };
    assert_eq!(digest("a"), digest("a"));
    assert_ne!(digest("a"), digest("b"));
}

#[test]
fn a_planned_read_failure_meets_one_read() {
    let disk = MemDisk::new();
    let store = acquire(&disk);
    let failure = ReadFailure::Damaged { what: "a block".into() };
    disk.faults().fail_next_read(failure.clone());
    assert_eq!(block_on(store.get(Space::LongLived, b"a")), Err(failure));
    assert_eq!(block_on(store.get(Space::LongLived, b"a")), Ok(None));
}

fn poll<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Poll<T> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|_| {
        if std::mem::replace(&mut yielded, true) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await
}
