//! What `get` and `scan` see.

use bytes::Bytes;

use super::{Case, Harness, commit, get, in_all_places, put, rows_text, scan, submit, text};
use crate::store::{Scan, Space, Store};
use crate::{KEY_BYTES_MAX, VALUE_BYTES_MAX, WriteBatch};

pub(super) const CASES: &[Case] = &[
    ("what_is_submitted_is_seen_at_once_and_stays_seen", seen_at_once),
    ("the_last_change_of_a_key_wins_within_a_batch_and_over_batches", last_change_wins),
    ("a_deleted_key_is_gone_whether_or_not_it_was_there", deletes),
    ("spaces_do_not_see_each_other", spaces_are_apart),
    ("a_scan_keeps_its_bounds_its_limit_and_its_direction", scan_bounds),
    ("a_scan_lays_what_is_submitted_over_what_is_stored", scan_over_both),
    ("keys_and_values_at_their_limits_come_back_whole", at_the_limits),
];

fn seen_at_once(harness: &mut dyn Harness) {
    let writes = |store: &dyn Store| {
        submit(store, put(Space::LongLived, "a", "1"));
    };
    in_all_places(harness, &writes, &|store| {
        assert_eq!(get(store, Space::LongLived, "a").as_deref(), Some(&b"1"[..]));
        assert_eq!(get(store, Space::LongLived, "b"), None);
        assert_eq!(text(store, Space::LongLived), "a=1");
    });
}

fn last_change_wins(harness: &mut dyn Harness) {
    let writes = |store: &dyn Store| {
        let mut batch = put(Space::LongLived, "a", "1");
        batch.put(Space::LongLived, "a", "2");
        batch.delete(Space::LongLived, "b");
        batch.put(Space::LongLived, "b", "3");
        batch.put(Space::LongLived, "c", "4");
        batch.delete(Space::LongLived, "c");
        submit(store, batch);
        submit(store, put(Space::LongLived, "d", "5"));
        submit(store, put(Space::LongLived, "d", "6"));
    };
    in_all_places(harness, &writes, &|store| {
        assert_eq!(text(store, Space::LongLived), "a=2 b=3 d=6")
    });
}

fn deletes(harness: &mut dyn Harness) {
    let store = harness.open();
    submit(&*store, put(Space::ShortLived, "a", "1"));
    commit(&*store);
    let mut batch = WriteBatch::new();
    batch.delete(Space::ShortLived, "a");
    batch.delete(Space::ShortLived, "never there");
    submit(&*store, batch);
    assert_eq!(
        (get(&*store, Space::ShortLived, "a"), text(&*store, Space::ShortLived)),
        (None, String::new())
    );
    commit(&*store);
    assert_eq!(
        (get(&*store, Space::ShortLived, "a"), text(&*store, Space::ShortLived)),
        (None, String::new())
    );
    drop(store);
    assert_eq!(text(&*harness.open(), Space::ShortLived), "");
}

fn spaces_are_apart(harness: &mut dyn Harness) {
    let writes = |store: &dyn Store| {
        let mut batch = put(Space::LongLived, "k", "lasting");
        batch.put(Space::ShortLived, "k", "passing");
        batch.put(Space::Generation(0), "k", "generation 0");
        batch.put(Space::Generation(1), "k", "generation 1");
        submit(store, batch);
    };
    in_all_places(harness, &writes, &|store| {
        for space in
            [Space::LongLived, Space::ShortLived, Space::Generation(0), Space::Generation(1)]
        {
            assert_eq!(get(store, space, "k"), Some(Bytes::from(space.to_string())));
            assert_eq!(text(store, space), format!("k={space}"));
        }
    });
}

fn scan_bounds(harness: &mut dyn Harness) {
    let writes = |store: &dyn Store| {
        for key in ["a", "b", "b1", "c", "d"] {
            submit(store, put(Space::LongLived, key, "v"));
        }
    };
    in_all_places(harness, &writes, &|store| {
        let keys = |wanted: Scan| rows_text(&scan(store, wanted)).replace("=v", "");
        let all = Scan::range(Space::LongLived, "", "");
        assert_eq!(keys(all.clone()), "a b b1 c d");
        assert_eq!(keys(all.clone().reversed()), "d c b1 b a");
        assert_eq!(keys(all.clone().limit(2)), "a b");
        assert_eq!(keys(all.clone().limit(2).reversed()), "d c");
        assert_eq!(keys(all.limit(0)), "");
        let range = |from: &'static str, to: &'static str| Scan::range(Space::LongLived, from, to);
        assert_eq!(keys(range("b", "d")), "b b1 c");
        assert_eq!(keys(range("b", "d").reversed()), "c b1 b");
        assert_eq!(keys(range("bb", "")), "c d");
        assert_eq!(keys(range("c", "c")), "");
        assert_eq!(keys(range("d", "a")), "");
        assert_eq!(keys(Scan::prefix(Space::LongLived, "b")), "b b1");
    });
}

fn scan_over_both(harness: &mut dyn Harness) {
    let store = harness.open();
    for (key, value) in [("a", "1"), ("b", "1"), ("c", "1"), ("e", "1")] {
        submit(&*store, put(Space::LongLived, key, value));
    }
    commit(&*store);
    let mut batch = put(Space::LongLived, "b", "2");
    batch.delete(Space::LongLived, "c");
    batch.put(Space::LongLived, "d", "2");
    submit(&*store, batch);
    for _ in 0..2 {
        let all = Scan::range(Space::LongLived, "", "");
        assert_eq!(rows_text(&scan(&*store, all.clone())), "a=1 b=2 d=2 e=1");
        assert_eq!(rows_text(&scan(&*store, all.clone().limit(3))), "a=1 b=2 d=2");
        assert_eq!(rows_text(&scan(&*store, all.clone().limit(3).reversed())), "e=1 d=2 b=2");
        assert_eq!(rows_text(&scan(&*store, Scan::range(Space::LongLived, "c", "d"))), "");
        commit(&*store);
    }
}

fn at_the_limits(harness: &mut dyn Harness) {
    let keys = [vec![0], vec![0; KEY_BYTES_MAX], vec![u8::MAX; KEY_BYTES_MAX]];
    let values = [vec![], vec![0; VALUE_BYTES_MAX], vec![u8::MAX; VALUE_BYTES_MAX]];
    let writes = |store: &dyn Store| {
        let mut batch = WriteBatch::new();
        for (key, value) in keys.iter().zip(&values) {
            batch.put(Space::Generation(u32::MAX), key.clone(), value.clone());
            batch.put(Space::LongLived, key.clone(), value.clone());
        }
        submit(store, batch);
    };
    in_all_places(harness, &writes, &|store| {
        for space in [Space::Generation(u32::MAX), Space::LongLived] {
            let rows = scan(store, Scan::range(space, "", ""));
            let found: Vec<_> =
                rows.iter().map(|row| (row.key.to_vec(), row.value.to_vec())).collect();
            assert_eq!(found, keys.iter().cloned().zip(values.iter().cloned()).collect::<Vec<_>>());
            assert_eq!(scan(store, Scan::range(space, "", vec![u8::MAX; 600])).len(), 3);
            assert_eq!(scan(store, Scan::range(space, vec![u8::MAX; 600], "")).len(), 0);
        }
        let long = "k".repeat(KEY_BYTES_MAX + 8);
        assert_eq!(get(store, Space::LongLived, &long), None);
        assert_eq!(get(store, Space::LongLived, ""), None);
    });
}
