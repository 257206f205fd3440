use super::samples::sample;
use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn golden_records() {
    let tally = Tally { format: 1, next_run: 2, next_sequence: 3, runs: vec![1, 0] };
    assert_eq!(hex(&tally.to_bytes()), "94010203920100");
    let lease = LeaseRecord {
        run: RunNo(1),
        token: Token { store: 2, epoch: 3, lease: crate::model::id::LeaseNo(4) },
        process: ProcessInstance(5),
        build: "b".into(),
        workflow: "w".into(),
        queue: 6,
        priority: 7,
        sequence: 8,
        entries: 9,
        deaths: 0,
        avoid: vec![],
        tags: vec!["t".into()],
        since: Time(10),
        at: Time(11),
    };
    assert_eq!(
        hex(&lease.to_bytes()),
        "9e0193020304c41000000000000000000000000000000005a162a17706070809009091a1740a0b"
    );
    let pool = PoolRecord { queued: 1, delayed: 2, suspended: 3, level: 4, at: Time(5) };
    assert_eq!(hex(&pool.to_bytes()), "950102030405");
    let queue = QueueRecord {
        name: "q".into(),
        settings: QueueSettings { paused: true, concurrency: Some(2), ..QueueSettings::default() },
    };
    assert_eq!(hex(&queue.to_bytes()), "92a17194c302c0c0");
    let old = QueueRecord::from_bytes(&[0x91, 0xa1, 0x71]).unwrap();
    assert_eq!((old.name.as_str(), old.settings), ("q", QueueSettings::default()));
    assert_eq!(LeaseRecord::from_bytes(&lease.to_bytes()).unwrap(), lease);
}

#[test]
fn golden_records_of_dead_letters_and_audit_entries() {
    let dead = DeadRecord { workflow: "w".into(), class: "c".into(), queue: "q".into() };
    assert_eq!(hex(&dead.to_bytes()), "93a177a163a171");
    let old = DeadRecord::from_bytes(&[0x92, 0xa1, b'w', 0xa1, b'c']).unwrap();
    assert_eq!(old.queue, "");
    let act = AuditRecord {
        namespace: Namespace(1),
        principal: "ops".into(),
        kind: AuditAction::Redrive,
        run: Some(RunId(2)),
        subject: "n".into(),
        detail: String::new(),
        request_id: RequestId(3),
    };
    assert_eq!(
        hex(&act.to_bytes()),
        "9701a36f707302c41000000000000000000000000000000002a16ea0c41000000000000000000000000000000003"
    );
}

#[test]
fn golden_schedules() {
    use crate::model::schedule::{CronTimes, EveryTimes, Overlap, ScheduleSpec};
    let spec = ScheduleSpec {
        name: "n".into(),
        workflow: "w".into(),
        version: 1,
        queue: "q".into(),
        priority: 5,
        input: crate::model::payload::Payload(Bytes::from_static(&[1, 0xc0])),
        when: CronTimes { expression: "0 6 * * *".into(), zone: "UTC".into() }.into(),
        jitter_ms: 0,
        overlap: Overlap::QueueAll,
        catch_up_ms: 10_000,
        tags: Vec::new(),
    };
    let record =
        ScheduleRecord { namespace: Namespace(1), spec, set_at: Time(2), set_by: "p".into() };
    let bytes = record.to_bytes();
    assert_eq!(
        hex(&bytes),
        "94019ba16ea17701a17105c40201c0c4100192a9302036202a202a202aa35554430003cd27109002a170"
    );
    assert_eq!(ScheduleRecord::from_bytes(&bytes).unwrap(), record);
    // As format 1 wrote it: a schedule without tags did not say so.
    let before = b"\x94\x01\x9a\xa1n\xa1w\x01\xa1q\x05\xc4\x02\x01\xc0\xc4\x10\x01\x92\xa90 6 * * *\xa3UTC\x00\x03\xcd\x27\x10\x02\xa1p";
    assert_eq!(ScheduleRecord::from_bytes(before).unwrap(), record);
    let every = EveryTimes { every_ms: 900_000, anchor: Time(0) };
    assert_eq!(hex(&crate::model::schedule::When::from(every).encode()), "0292ce000dbba000");
    let state = ScheduleState {
        at: Time(1),
        paused_by: None,
        next: Some(Time(3)),
        last: Some(Time(2)),
        last_run: Some(RunNo(7)),
        pending: vec![Time(4)],
        started: 5,
        skipped: 6,
        missed: 0,
    };
    assert_eq!(hex(&state.to_bytes()), "9901c00302079104050600");
    assert_eq!(ScheduleState::from_bytes(&state.to_bytes()).unwrap(), state);
}

#[test]
fn every_table_has_a_golden_row() {
    let lines = Table::ALL.map(|table| {
        let (key, value) = sample(table).to_stored();
        format!("{}: {} = {}\n", table as u8, hex(&key), hex(&value))
    });
    insta::assert_snapshot!(lines.concat());
}

#[test]
fn every_row_is_read_as_it_was_written() {
    for table in Table::ALL {
        let row = sample(table);
        let (key, value) = row.to_stored();
        assert_eq!((row.table(), Table::from_key(&key)), (table, Some(table)));
        let spaces = [Space::LongLived, Space::ShortLived, Space::Generation(6)];
        for space in spaces {
            let read = TableRow::read(space, &key, &value);
            if table.space() == SpaceKind::of(space) {
                assert_eq!(read.as_ref(), Ok(&row));
            } else {
                assert_eq!(read, Err(BadRow::Space { table, space }));
            }
        }
        let space = spaces.into_iter().find(|space| table.space() == SpaceKind::of(*space));
        let space = space.expect("one of them");
        for wrong in [[&key[..], &[0]].concat(), key[..key.len() - 1].to_vec()] {
            let read = TableRow::read(space, &wrong, &value);
            let bad = [Err(BadRow::Unknown), Err(BadRow::Key { table })];
            assert!(bad.contains(&read), "{table:?}: {read:?}");
        }
        let mut other_shard = key.to_vec();
        other_shard[1] = 1;
        assert_eq!(TableRow::read(space, &other_shard, &value), Err(BadRow::Unknown));
    }
}

#[test]
fn a_write_is_read_as_what_it_changes() {
    for table in Table::ALL {
        let (key, value) = sample(table).to_stored();
        let space = match table.space() {
            SpaceKind::LongLived => Space::LongLived,
            SpaceKind::ShortLived => Space::ShortLived,
            SpaceKind::Generation => Space::Generation(6),
        };
        let put = Op::Put { space, key: key.clone(), value };
        let delete = Op::Delete { space, key };
        assert!(TableChange::read(&put).is_ok(), "{table:?}");
        let read = TableChange::read(&delete).map(|change| format!("{change:?}"));
        assert!(read.is_ok_and(|text| text.ends_with("None)")), "{table:?}");
    }
}

#[test]
fn a_table_lies_between_its_prefix_and_its_end() {
    assert_eq!(end_of(&[0, 255]), Bytes::from_static(&[1]));
    assert_eq!(end_of(&[255]), Bytes::new());
    for pair in Table::ALL.windows(2) {
        assert!(end_of(&pair[0].prefix()) <= pair[1].prefix(), "{pair:?}");
    }
}

proptest::proptest! {
    // The same as the fuzz target: of each table, keys in the order of their values, which come
    // back out, and which no other table has.
    #[test]
    fn keys_are_in_the_order_of_their_values(data in proptest::collection::vec(0u8.., 0..80)) {
        crate::fuzzing::key_order(&data);
    }
}
