//! What a power cut leaves.

use super::{Case, Harness, commit, get, put, scan, submit, text};
use crate::store::{Scan, Space, Store};
use crate::wait::block_on;
use crate::{CommitFailure, ReadFailure, Seq, SubmitRefusal, WriteBatch};

pub(super) const CASES: &[Case] = &[
    ("what_a_receipt_covered_survives", acknowledged_survives),
    ("what_survives_is_a_prefix_of_whole_batches", prefix_survives),
    ("life_goes_on_after_each_of_many_crashes", many_crashes),
    ("a_handle_whose_machine_lost_power_never_answers_again", dead_handle),
];

fn acknowledged_survives(harness: &mut dyn Harness) {
    for cut in [0, 1, 2, 77, u64::MAX] {
        let store = harness.open();
        let seq = submit(&*store, put(Space::LongLived, &format!("acknowledged {cut}"), "v"));
        submit(&*store, put(Space::Generation(3), &format!("acknowledged {cut}"), "v"));
        commit(&*store);
        submit(&*store, put(Space::LongLived, "perhaps", "v"));
        harness.crash(store, cut);
        let store = harness.open();
        assert!(store.committed() > seq);
        assert!(get(&*store, Space::LongLived, &format!("acknowledged {cut}")).is_some());
        assert!(get(&*store, Space::Generation(3), &format!("acknowledged {cut}")).is_some());
        drop(store);
    }
}

/// Batch `n` writes three rows, in three spaces, one of which no batch before it wrote to.
fn three(n: u64) -> WriteBatch {
    let key = format!("{n:03}");
    let mut batch = put(Space::LongLived, &key, "v");
    batch.put(Space::ShortLived, key.clone(), "v");
    batch.put(Space::Generation(n as u32), key, "v");
    batch
}

fn rows_of(store: &dyn Store, n: u64) -> usize {
    let key = format!("{n:03}");
    let spaces = [Space::LongLived, Space::ShortLived, Space::Generation(n as u32)];
    spaces.into_iter().filter(|space| get(store, *space, &key).is_some()).count()
}

fn prefix_survives(harness: &mut dyn Harness) {
    let mut next = 1;
    for cut in [1, 2, 3, 5, 60, 150, 1_000, 12_345] {
        let store = harness.open();
        assert_eq!(store.submitted(), Seq(next - 1));
        let acknowledged = next;
        submit(&*store, three(next));
        commit(&*store);
        for n in next + 1..next + 5 {
            submit(&*store, three(n));
        }
        harness.crash(store, cut);
        let store = harness.open();
        let kept = store.committed().0;
        assert!((acknowledged..next + 5).contains(&kept), "cut {cut}: {kept} of {}", next + 4);
        for n in 1..next + 5 {
            assert_eq!(
                rows_of(&*store, n),
                if n <= kept { 3 } else { 0 },
                "cut {cut}: batch {n}, kept up to {kept}"
            );
        }
        next = kept + 1;
        drop(store);
    }
}

fn many_crashes(harness: &mut dyn Harness) {
    let mut epoch = None;
    for cut in 0..12 {
        let store = harness.open();
        assert!(Some(store.identity().epoch) > epoch);
        epoch = Some(store.identity().epoch);
        submit(&*store, put(Space::ShortLived, &format!("{cut:02}"), "v"));
        commit(&*store);
        let rows = scan(&*store, Scan::range(Space::ShortLived, "", ""));
        assert_eq!(rows.len(), cut as usize + 1);
        harness.crash(store, cut);
    }
    assert_eq!(text(&*harness.open(), Space::ShortLived).split(' ').count(), 12);
}

fn dead_handle(harness: &mut dyn Harness) {
    let store = harness.open();
    let last_words = store.clone();
    submit(&*store, put(Space::LongLived, "a", "1"));
    harness.crash(store, 0);
    // A harness that cannot let a process live on after its machine has nothing more to show here.
    if block_on(last_words.commit()).is_ok() {
        return;
    }
    assert!(matches!(block_on(last_words.commit()), Err(CommitFailure::Unknown { .. })));
    assert!(matches!(last_words.submit(WriteBatch::new()), Err(SubmitRefusal::Poisoned { .. })));
    let read = block_on(last_words.get(Space::LongLived, b"a"));
    assert!(matches!(read, Err(ReadFailure::Poisoned { .. })));
}
