//! Numbers, receipts, identity.

use super::{Case, Harness, commit, get, put, submit};
use crate::refusal::OpenRefusal;
use crate::store::Space;
use crate::wait::block_on;
use crate::{CommitFailure, Seq, SubmitRefusal, WRITE_BATCH_OPS_MAX, WriteBatch};

pub(super) const CASES: &[Case] = &[
    ("numbers_rise_by_one_and_a_receipt_covers_what_came_before_it", numbers_rise_by_one),
    ("a_commit_with_nothing_pending_gives_the_last_receipt", nothing_pending),
    ("an_empty_batch_is_numbered_and_committed", an_empty_batch),
    ("a_refused_batch_takes_no_number_and_leaves_nothing", a_refused_batch),
    ("a_large_backlog_is_committed_in_order_to_its_end", a_large_backlog),
    ("numbers_and_store_go_on_after_reopening_under_a_higher_epoch", reopening),
    ("two_handles_never_both_commit", two_handles),
    ("what_is_committed_is_counted", what_is_committed_is_counted),
];

fn numbers_rise_by_one(harness: &mut dyn Harness) {
    let store = harness.open();
    assert_eq!((store.submitted(), store.committed()), (Seq(0), Seq(0)));
    assert_eq!(submit(&*store, put(Space::LongLived, "a", "1")), Seq(1));
    assert_eq!(submit(&*store, put(Space::ShortLived, "b", "2")), Seq(2));
    assert_eq!((store.submitted(), store.committed()), (Seq(2), Seq(0)));
    let receipt = commit(&*store);
    assert_eq!(receipt.seq(), Seq(2));
    assert!(receipt.covers(Seq(1)) && receipt.covers(Seq(2)) && !receipt.covers(Seq(3)));
    assert_eq!(store.committed(), Seq(2));
}

fn nothing_pending(harness: &mut dyn Harness) {
    let store = harness.open();
    assert_eq!(commit(&*store).seq(), Seq(0));
    submit(&*store, put(Space::LongLived, "a", "1"));
    commit(&*store);
    assert_eq!(commit(&*store).seq(), Seq(1));
}

fn an_empty_batch(harness: &mut dyn Harness) {
    let store = harness.open();
    assert_eq!(submit(&*store, WriteBatch::new()), Seq(1));
    assert_eq!(commit(&*store).seq(), Seq(1));
    drop(store);
    assert_eq!(harness.open().submitted(), Seq(1));
}

fn a_refused_batch(harness: &mut dyn Harness) {
    let store = harness.open();
    let mut batch = WriteBatch::new();
    for _ in 0..=WRITE_BATCH_OPS_MAX {
        batch.put(Space::LongLived, "k", "v");
    }
    assert!(matches!(store.submit(batch), Err(SubmitRefusal::TooManyOps { .. })));
    assert!(matches!(
        store.submit(put(Space::LongLived, "", "v")),
        Err(SubmitRefusal::KeyEmpty { .. })
    ));
    assert_eq!(store.submitted(), Seq(0));
    assert_eq!(get(&*store, Space::LongLived, "k"), None);
}

fn a_large_backlog(harness: &mut dyn Harness) {
    let store = harness.open();
    for round in 0..12u32 {
        let mut batch = WriteBatch::new();
        for i in 0..290u32 {
            batch.put(
                Space::ShortLived,
                (round * 1000 + i).to_be_bytes().to_vec(),
                vec![round as u8; 3_500],
            );
        }
        batch.put(Space::ShortLived, "last", round.to_string());
        submit(&*store, batch);
    }
    assert!(block_on(store.commit()).expect("commits").seq() < Seq(12), "a group is bounded");
    assert_eq!(get(&*store, Space::ShortLived, "last").as_deref(), Some(&b"11"[..]));
    assert_eq!(commit(&*store).seq(), Seq(12));
    assert_eq!(get(&*store, Space::ShortLived, "last").as_deref(), Some(&b"11"[..]));
}

fn reopening(harness: &mut dyn Harness) {
    let first = harness.open();
    submit(&*first, put(Space::LongLived, "a", "1"));
    commit(&*first);
    let was = first.identity();
    drop(first);
    let second = harness.open();
    assert_eq!(second.identity().store, was.store);
    assert!(second.identity().epoch > was.epoch);
    assert_eq!((second.submitted(), second.committed()), (Seq(1), Seq(1)));
    assert_eq!(submit(&*second, put(Space::LongLived, "b", "2")), Seq(2));
}

fn two_handles(harness: &mut dyn Harness) {
    let first = harness.open();
    submit(&*first, put(Space::LongLived, "a", "first"));
    match harness.open_beside() {
        Err(OpenRefusal::Locked { .. }) => assert!(commit(&*first).covers(Seq(1))),
        Err(other) => panic!("refused for another reason: {other}"),
        Ok(second) => {
            let (held, current) = (first.identity().epoch, second.identity().epoch);
            assert_eq!(block_on(first.commit()), Err(CommitFailure::Fenced { held, current }));
            assert_eq!(
                block_on(first.commit()),
                Err(CommitFailure::Fenced { held, current }),
                "for ever"
            );
            assert!(matches!(first.submit(WriteBatch::new()), Err(SubmitRefusal::Poisoned { .. })));
            assert_eq!(get(&*second, Space::LongLived, "a"), None);
            submit(&*second, put(Space::LongLived, "a", "second"));
            commit(&*second);
        }
    }
}

fn what_is_committed_is_counted(harness: &mut dyn Harness) {
    let store = harness.open();
    let before = store.usage();
    submit(&*store, put(Space::LongLived, "a", "1"));
    submit(&*store, put(Space::LongLived, "b", "2"));
    assert_eq!(store.usage().ops, before.ops);
    commit(&*store);
    let after = store.usage();
    assert_eq!((after.commits - before.commits, after.ops - before.ops), (1, 2));
    assert!(after.wal_bytes_written >= before.wal_bytes_written + 4);
    assert!(after.disk_bytes > 0);
}
