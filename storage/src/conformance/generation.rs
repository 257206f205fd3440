//! Generations: made by a put, dropped whole.

use super::{Case, Harness, commit, get, in_all_places, put, submit, text};
use crate::store::{Space, Store};
use crate::wait::block_on;
use crate::{Seq, WriteBatch};

pub(super) const CASES: &[Case] = &[
    ("an_absent_generation_is_empty_and_a_delete_does_not_make_it", absent),
    ("a_generation_is_listed_from_the_commit_of_its_first_put", listed),
    ("a_put_that_is_undone_in_its_own_group_makes_the_generation", undone_put),
    ("a_dropped_generation_is_gone_for_good", dropped),
    ("a_dropped_generation_can_be_made_again_and_has_nothing_old_in_it", made_again),
    ("dropping_commits_what_was_submitted_before_it", dropping_commits),
];

fn generations(store: &dyn Store) -> Vec<u32> {
    block_on(store.generations()).expect("a sound handle reads")
}

fn drop_generation(store: &dyn Store, generation: u32) {
    block_on(store.drop_generation(generation)).expect("a sound handle drops");
}

fn absent(harness: &mut dyn Harness) {
    let writes = |store: &dyn Store| {
        let mut batch = WriteBatch::new();
        batch.delete(Space::Generation(7), "k");
        submit(store, batch);
    };
    in_all_places(harness, &writes, &|store| {
        assert_eq!(
            (get(store, Space::Generation(7), "k"), text(store, Space::Generation(7))),
            (None, String::new())
        );
        assert_eq!(generations(store), []);
    });
    let store = harness.open();
    drop_generation(&*store, 7);
    assert_eq!(generations(&*store), []);
}

fn listed(harness: &mut dyn Harness) {
    let store = harness.open();
    for generation in [300, 2, 100_000] {
        submit(&*store, put(Space::Generation(generation), "k", "v"));
    }
    assert_eq!(generations(&*store), []);
    commit(&*store);
    assert_eq!(generations(&*store), [2, 300, 100_000]);
    drop(store);
    assert_eq!(generations(&*harness.open()), [2, 300, 100_000]);
}

fn undone_put(harness: &mut dyn Harness) {
    let store = harness.open();
    submit(&*store, put(Space::Generation(1), "k", "v"));
    let mut batch = WriteBatch::new();
    batch.delete(Space::Generation(1), "k");
    submit(&*store, batch);
    commit(&*store);
    assert_eq!(
        (generations(&*store), text(&*store, Space::Generation(1))),
        (vec![1], String::new())
    );
    drop(store);
    assert_eq!(generations(&*harness.open()), [1]);
}

fn dropped(harness: &mut dyn Harness) {
    let store = harness.open();
    submit(&*store, put(Space::Generation(1), "k", "v"));
    submit(&*store, put(Space::Generation(2), "k", "v"));
    commit(&*store);
    drop_generation(&*store, 1);
    let check = |store: &dyn Store| {
        assert_eq!(generations(store), [2]);
        assert_eq!(
            (get(store, Space::Generation(1), "k"), text(store, Space::Generation(1))),
            (None, String::new())
        );
        assert_eq!(text(store, Space::Generation(2)), "k=v");
    };
    check(&*store);
    harness.crash(store, 0);
    let store = harness.open();
    check(&*store);
    drop(store);
    check(&*harness.open());
}

fn made_again(harness: &mut dyn Harness) {
    let store = harness.open();
    for round in 0..3 {
        assert_eq!(text(&*store, Space::Generation(1)), "");
        submit(&*store, put(Space::Generation(1), &format!("k{round}"), "v"));
        commit(&*store);
        assert_eq!(text(&*store, Space::Generation(1)), format!("k{round}=v"));
        drop_generation(&*store, 1);
    }
    submit(&*store, put(Space::Generation(1), "last", "v"));
    commit(&*store);
    harness.crash(store, 0);
    assert_eq!(text(&*harness.open(), Space::Generation(1)), "last=v");
}

fn dropping_commits(harness: &mut dyn Harness) {
    let store = harness.open();
    submit(&*store, put(Space::LongLived, "copied forward", "v"));
    submit(&*store, put(Space::Generation(1), "k", "v"));
    drop_generation(&*store, 1);
    assert_eq!(store.committed(), Seq(2));
    assert_eq!(text(&*store, Space::Generation(1)), "");
    harness.crash(store, 0);
    let store = harness.open();
    assert_eq!(
        (text(&*store, Space::LongLived), generations(&*store)),
        ("copied forward=v".to_owned(), vec![])
    );
}
