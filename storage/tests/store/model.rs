//! The fjall store against the in-memory one: the same operations and the same cuts, the same
//! answers and the same recovered state.

use std::io::Write;

use proptest::prelude::*;
use stepwell_storage::conformance::Harness;
use stepwell_storage::{FjallStore, OpenRefusal, Scan, Seq, Space, Store, WriteBatch, block_on};

use crate::support::{
    DiskMachine, MemMachine, commit, content, copy, options, position, write_ahead_log,
};

/// What happens to both stores.
#[derive(Clone, Debug)]
enum Act {
    Submit(Vec<(Space, u8, Option<u8>)>),
    Commit,
    Scan { space: Space, from: u8, to: u8, limit: usize, reverse: bool },
    Get(Space, u8),
    DropGeneration(u32),
    Reopen,
    CutPower(u64),
}

fn a_space() -> impl Strategy<Value = Space> {
    prop_oneof![
        3 => Just(Space::LongLived),
        2 => Just(Space::ShortLived),
        2 => (0..3u32).prop_map(Space::Generation),
    ]
}

fn an_act() -> impl Strategy<Value = Act> {
    let op = (a_space(), 0..12u8, prop::option::weighted(0.7, any::<u8>()));
    let scan = (a_space(), 0..13u8, 0..13u8, 0..5usize, any::<bool>());
    prop_oneof![
        8 => prop::collection::vec(op, 0..6).prop_map(Act::Submit),
        3 => Just(Act::Commit),
        4 => scan.prop_map(|(space, from, to, limit, reverse)| Act::Scan { space, from, to, limit, reverse }),
        3 => (a_space(), 0..12u8).prop_map(|(space, key)| Act::Get(space, key)),
        1 => (0..3u32).prop_map(Act::DropGeneration),
        1 => Just(Act::Reopen),
        1 => any::<u64>().prop_map(Act::CutPower),
    ]
}

/// Every second key is a prefix of the next, so that order is more than the first byte.
fn key(number: u8) -> Vec<u8> {
    if number.is_multiple_of(2) { vec![number] } else { vec![number - 1, number] }
}

fn batch(ops: &[(Space, u8, Option<u8>)]) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for (space, number, value) in ops {
        match value {
            Some(value) => batch.put(*space, key(*number), vec![*value; usize::from(*value) % 7]),
            None => batch.delete(*space, key(*number)),
        }
    }
    batch
}

fn run(acts: &[Act]) {
    let (mut machine, mut model) = (DiskMachine::default(), MemMachine::default());
    let (mut store, mut like) = (machine.open(), model.open());
    for act in acts {
        match act {
            Act::Submit(ops) => assert_eq!(store.submit(batch(ops)), like.submit(batch(ops))),
            Act::Commit => assert_eq!(block_on(store.commit()), block_on(like.commit())),
            Act::Get(space, number) => {
                assert_eq!(
                    block_on(store.get(*space, &key(*number))),
                    block_on(like.get(*space, &key(*number)))
                );
            }
            Act::Scan { space, from, to, limit, reverse } => {
                let range =
                    Scan::range(*space, key(*from), if *to == 12 { vec![] } else { key(*to) });
                let scan = Scan { reverse: *reverse, ..range.limit(*limit) };
                assert_eq!(block_on(store.scan(scan.clone())), block_on(like.scan(scan)));
            }
            Act::DropGeneration(generation) => {
                let dropped = block_on(store.drop_generation(*generation));
                assert_eq!(dropped, block_on(like.drop_generation(*generation)));
            }
            Act::Reopen => {
                drop((store, like));
                (store, like) = (machine.open(), model.open());
            }
            Act::CutPower(cut) => {
                let (acknowledged, submitted) = (store.committed(), store.submitted());
                machine.cut_power(&*store, *cut);
                drop(store);
                store = machine.open();
                // A group is one unit on the disk: all of what was pending, or nothing of it.
                let kept = store.committed();
                assert!(
                    kept == acknowledged || kept == submitted,
                    "{acknowledged} {kept} {submitted}"
                );
                model.disk.power_loss(kept.0 - acknowledged.0);
                drop(like);
                like = model.open();
            }
        }
        assert_eq!((store.submitted(), store.committed()), (like.submitted(), like.committed()));
        assert_eq!(content(&*store), content(&*like));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_stores_answer_the_same_through_crashes_and_reopening(acts in prop::collection::vec(an_act(), 1..40)) {
        run(&acts);
    }
}

/// What lies in the write-ahead log behind the cut.
#[derive(Clone, Copy, Debug)]
enum Tail {
    Nothing,
    Zeros,
    Garbage,
}

// The finest cuts there are: at every byte of the last group, with whatever the disk put behind it.
#[test]
fn a_power_cut_at_any_byte_leaves_whole_groups() {
    let mut machine = DiskMachine::default();
    let store = machine.open();
    let ops =
        |number| [(Space::LongLived, number, Some(6)), (Space::Generation(1), number, Some(6))];
    store.submit(batch(&ops(1))).unwrap();
    commit(&*store);
    let watermark = std::fs::read(machine.path().join("watermark")).unwrap();
    let log = write_ahead_log(&machine.path().join("db"));
    let synced = position(&log);
    for number in 2..5 {
        store.submit(batch(&ops(number))).unwrap();
    }
    commit(&*store);
    let written = position(&log);

    let cut = machine.path().with_extension("cut");
    let tails = [Tail::Nothing, Tail::Zeros, Tail::Garbage].into_iter().cycle();
    let mut refused = 0;
    for (at, tail) in (synced..=written).zip(tails) {
        let _ = std::fs::remove_dir_all(&cut);
        copy(machine.path(), &cut, &log, at);
        let mut file = std::fs::OpenOptions::new().append(true).open(cut.join("db/0.jnl")).unwrap();
        match tail {
            Tail::Nothing => {}
            Tail::Zeros => file.write_all(&[0; 4096]).unwrap(),
            Tail::Garbage => file.write_all(&[0xa5; 4096]).unwrap(),
        }
        std::fs::write(cut.join("watermark"), &watermark).unwrap();
        let store = match FjallStore::open(&cut, options()) {
            Ok(store) => store,
            // An assertion that fjall makes in debug builds meets a torn length before the checks
            // for it do.
            Err(OpenRefusal::Damaged { what }) if cfg!(debug_assertions) => {
                assert!(what.contains("cannot be understood"), "{what}");
                refused += 1;
                continue;
            }
            Err(other) => panic!("{at} of {written}, {tail:?}: {other}"),
        };
        let (kept, rows) = if at == written { (Seq(4), 8) } else { (Seq(1), 2) };
        assert_eq!(
            (store.committed(), content(&store).len()),
            (kept, rows),
            "{at} of {written}, {tail:?}"
        );
    }
    assert!(refused * 5 < written - synced, "{refused} of {}", written - synced);
}
