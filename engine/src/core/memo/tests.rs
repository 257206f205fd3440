//! Memo keys by the thousand, and with damaged journals.

use std::time::Duration;

use super::*;
use crate::core::Input;
use crate::core::capacity::{Capacity, slots};
use crate::core::session::RETURN_MAX;
use crate::model::id::{MemoKey, Namespace};
use crate::model::run::RunState;
use crate::store_reader;
use crate::wire::message::{Held, Message, TurnSuspended};

const WORKER: SessionId = SessionId(2);

fn asks(capacity: &mut Capacity, at: usize, number: u32) {
    let (run, token) = capacity.leased[at];
    let location = SourceLocation { name: "rate".to_owned(), ..SourceLocation::default() };
    let ask = MemoRequested {
        run,
        token,
        number: CommandIndex(number),
        location,
        memo: MemoKey::of(Namespace::default(), "rate"),
    };
    capacity.hear(WORKER, ask);
}

fn succeeds(capacity: &mut Capacity, at: usize, bytes: usize) {
    let (run, token) = capacity.leased[at];
    let report = StepCompletedReport {
        run,
        token,
        number: CommandIndex(0),
        location: SourceLocation { name: "rate".to_owned(), ..SourceLocation::default() },
        attempt: 1,
        output: Payload(vec![7; bytes].into()),
        memo: Some(MemoKey::of(Namespace::default(), "rate")),
    };
    capacity.hear(WORKER, report);
}

fn capacity(runs: u32) -> Capacity {
    let mut capacity = Capacity::new();
    capacity.hello(WORKER, &[slots("q", runs)], Vec::new());
    capacity.start_as(u64::from(runs), |_, _| {});
    assert_eq!(capacity.leased.len(), runs as usize);
    capacity.sent.clear();
    capacity
}

// Those who wait are told a few at a time, so that no transition grows with their number; then
// nothing of them is kept.
#[test]
fn thousands_that_wait_are_told_of_one_result() {
    let mut capacity = capacity(5_000);
    for at in 0..5_000 {
        asks(&mut capacity, at, 0);
    }
    capacity.settle();
    assert_eq!(capacity.sent.len(), 1, "one begins its attempt");
    assert_eq!(capacity.stepped.core.stats().in_memory.memos, 5_000);
    capacity.sent.clear();
    succeeds(&mut capacity, 0, 200);
    let (batches, _) = capacity.stepped.flush();
    let ops: usize = batches.iter().map(|batch| batch.len()).sum();
    assert!(ops < 2 * TELL_MAX + 8, "{ops} operations in one transition");
    capacity.settle();
    let told = |message: &Message| matches!(message, Message::Appended(_));
    assert_eq!(capacity.sent.iter().filter(|message| told(message)).count(), 5_000);
    assert_eq!(capacity.stepped.core.stats().in_memory.memos, 0);
    capacity.stepped.core.check_memos();
}

// Those who sleep cost no slot and few bytes; when there is a result all of them are woken, a few
// read at a time. When the holder merely fails, one of them is called, and another one a second
// later if that does not come.
#[test]
fn thousands_that_sleep_are_called_one_by_one_and_woken_all() {
    let mut capacity = capacity(5_000);
    for at in 0..5_000 {
        asks(&mut capacity, at, 0);
    }
    capacity.settle();
    for at in 1..5_000 {
        let (run, token) = capacity.leased[at];
        let report = TurnSuspended {
            run,
            token,
            seen: 1,
            wakes_at: Time::NEVER,
            memos: vec![CommandIndex(0)],
        };
        capacity.hear(WORKER, report);
    }
    capacity.settle();
    capacity.stepped.core.check_memos();
    let counts = |capacity: &Capacity| {
        let of = |state| capacity.runs_in(state);
        (of(RunState::Running), of(RunState::Suspended))
    };
    assert_eq!(counts(&capacity), (1, 4_999));
    assert_eq!(capacity.stepped.core.stats().in_memory.memos, 5_000);
    let (run, token) = capacity.leased[0];
    let number = CommandIndex(0);
    capacity.leased.truncate(1);
    capacity.hear(WORKER, MemoReleased { run, token, number });
    capacity.settle();
    assert_eq!(counts(&capacity), (2, 4_998), "one is called");
    capacity.pass(Duration::from_millis(1_001), &[WORKER]);
    assert_eq!(counts(&capacity), (3, 4_997), "another one, a second later");
    asks(&mut capacity, 1, 0);
    capacity.settle();
    capacity.pass(Duration::from_millis(2_000), &[WORKER]);
    assert_eq!(counts(&capacity), (3, 4_997), "it is held");
    capacity.sent.clear();
    succeeds(&mut capacity, 1, 200);
    capacity.settle();
    assert_eq!(counts(&capacity), (5_000, 0), "there is a result");
    assert_eq!(capacity.stepped.core.stats().in_memory.memos, 0);
    capacity.stepped.core.check_memos();
}

// G3: what a step asked under a token that is replaced while its key is being read is asked again
// under the next one; it is not in line for it.
#[test]
fn who_asked_under_an_old_token_is_not_in_line_under_the_next() {
    let back = SessionId(12);
    let runs = RETURN_MAX + 1; // the last of them waits for its new token
    let mut capacity = capacity(runs as u32);
    let held =
        capacity.leased.iter().map(|(run, token)| Held { run: *run, token: *token, seen: 1 });
    let held: Vec<Held> = held.collect();
    let (run, token) = capacity.leased[runs - 1];
    capacity.stepped.handle(Input::SessionClosed { session: WORKER, goodbye: false });
    capacity.hello(back, &[slots("q", runs as u32)], held);
    let (number, memo) = (CommandIndex(0), MemoKey::of(Namespace::default(), "rate"));
    let location = SourceLocation::default();
    let ask = MemoRequested { run, token, number, location, memo };
    capacity.hear(back, ask.clone());
    capacity.stepped.handle(Input::Ticked);
    capacity.settle();
    let (_, next) = capacity.leased[runs - 1];
    assert_ne!(next, token, "its worker is back");
    let granted = |message: &Message| matches!(message, Message::AttemptMemo(_));
    assert!(!capacity.sent.iter().any(granted), "{:?}", capacity.sent);
    assert_eq!(capacity.stepped.core.stats().in_memory.memos, 0);
    capacity.hear(back, MemoRequested { token: next, ..ask });
    capacity.settle();
    let expected = Message::from(AttemptMemo { run, token: next, number });
    assert_eq!(capacity.sent.iter().filter(|m| granted(m)).count(), 1);
    assert!(capacity.sent.contains(&expected), "{:?}", capacity.sent);
}

// What is damaged fails the attempts that ask for it, and is no answer that there is nothing.
#[test]
fn a_damaged_result_refuses_those_who_ask() {
    let mut capacity = capacity(3);
    asks(&mut capacity, 0, 0);
    capacity.settle();
    succeeds(&mut capacity, 0, 10);
    capacity.settle();
    capacity.sent.clear();
    asks(&mut capacity, 1, 0);
    succeeds(&mut capacity, 2, 20);
    capacity.stepped.flush();
    capacity.stepped.read(0);
    capacity.stepped.answer(0);
    capacity.stepped.flush();
    assert!(matches!(capacity.stepped.reads[0], StoreRead::MemoResult { .. }));
    capacity.stepped.reads.clear();
    capacity.stepped.handle(Input::MemoResultLoaded {
        namespace: Namespace::default(),
        hash: MemoKey::of(Namespace::default(), "rate").0,
        found: Err("its chain is broken".to_owned()),
    });
    capacity.settle();
    let refused = |message: &Message| match message {
        Message::ReportRefused(refused) => matches!(refused.reason, Refusal::Damaged(_)),
        _ => false,
    };
    assert!(capacity.sent.iter().all(refused), "{:?}", capacity.sent);
    assert_eq!(capacity.sent.len(), 2);
    assert_eq!(capacity.stepped.core.stats().in_memory.memos, 0);
    // They ask again, and it can be read.
    capacity.sent.clear();
    asks(&mut capacity, 1, 0);
    capacity.settle();
    assert!(matches!(capacity.sent[..], [Message::Appended(_)]), "{:?}", capacity.sent);
}

// A journal whose chain does not hold is damage; one that is gone was kept for less time than its
// row.
#[test]
fn a_result_is_read_from_its_journal_and_checked() {
    let mut capacity = capacity(1);
    asks(&mut capacity, 0, 0);
    capacity.settle();
    succeeds(&mut capacity, 0, 10);
    capacity.settle();
    let run = capacity.leased[0].0;
    let read = |run, entry| StoreRead::MemoResult {
        namespace: Namespace::default(),
        hash: 1,
        run,
        birth: (1_000, false),
        entry,
    };
    let found = |capacity: &Capacity, read| {
        let mut prefetched = store_reader::Prefetched::default();
        let answer = store_reader::answer(&capacity.stepped.store, read, &mut prefetched);
        match stepwell_storage::block_on(answer) {
            Ok(Input::MemoResultLoaded { found, .. }) => found,
            other => panic!("{other:?}"),
        }
    };
    let output = Payload(vec![7; 10].into());
    assert_eq!(found(&capacity, read(run, 1)), Ok(Some(output)));
    assert_eq!(found(&capacity, read(RunNo(99), 1)), Ok(None));
    let wrong = found(&capacity, read(run, 0)).unwrap_err();
    assert!(wrong.contains("not the result of a step"), "{wrong}");
    let behind = found(&capacity, read(run, 2)).unwrap_err();
    assert!(behind.contains("not the result of a step"), "{behind}");
    let missing = found(&capacity, read(run, 5)).unwrap_err();
    assert!(missing.contains("not the result of a step"), "{missing}");
}
