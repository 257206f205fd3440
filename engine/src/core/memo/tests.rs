//! Memo keys by the thousand, and with damaged journals.

use std::time::Duration;

use super::*;
use crate::core::Input;
use crate::core::crowds::{Crowd, slots};
use crate::core::session::RETURN_MAX;
use crate::model::id::{MemoKey, Namespace};
use crate::model::run::RunState;
use crate::store_reader;
use crate::wire::message::{Held, Message, TurnSuspended};

const WORKER: SessionId = SessionId(2);

fn asks(crowd: &mut Crowd, at: usize, number: u32) {
    let (run, token) = crowd.leased[at];
    let location = SourceLocation { name: "rate".to_owned(), ..SourceLocation::default() };
    let ask = MemoRequested {
        run,
        token,
        number: CommandIndex(number),
        location,
        memo: MemoKey::of(Namespace::default(), "rate"),
    };
    crowd.hear(WORKER, ask);
}

fn succeeds(crowd: &mut Crowd, at: usize, bytes: usize) {
    let (run, token) = crowd.leased[at];
    let report = StepCompletedReport {
        run,
        token,
        number: CommandIndex(0),
        location: SourceLocation { name: "rate".to_owned(), ..SourceLocation::default() },
        attempt: 1,
        output: Payload(vec![7; bytes].into()),
        memo: Some(MemoKey::of(Namespace::default(), "rate")),
    };
    crowd.hear(WORKER, report);
}

fn crowd(runs: u32) -> Crowd {
    let mut crowd = Crowd::new();
    crowd.hello(WORKER, &[slots("q", runs)], Vec::new());
    crowd.start_as(u64::from(runs), |_, _| {});
    assert_eq!(crowd.leased.len(), runs as usize);
    crowd.sent.clear();
    crowd
}

// Those who wait are told a few at a time, so that no transition grows with their number; then
// nothing of them is kept.
#[test]
fn thousands_that_wait_are_told_of_one_result() {
    let mut crowd = crowd(5_000);
    for at in 0..5_000 {
        asks(&mut crowd, at, 0);
    }
    crowd.settle();
    assert_eq!(crowd.sent.len(), 1, "one begins its attempt");
    assert_eq!(crowd.stage.core.stats().in_memory.memos, 5_000);
    crowd.sent.clear();
    succeeds(&mut crowd, 0, 200);
    let (batches, _) = crowd.stage.flush();
    let ops: usize = batches.iter().map(|batch| batch.len()).sum();
    assert!(ops < 2 * TELL_MAX + 8, "{ops} operations in one transition");
    crowd.settle();
    let told = |message: &Message| matches!(message, Message::Appended(_));
    assert_eq!(crowd.sent.iter().filter(|message| told(message)).count(), 5_000);
    assert_eq!(crowd.stage.core.stats().in_memory.memos, 0);
    crowd.stage.core.check_memos();
}

// Those who sleep cost no slot and few bytes; when there is a result all of them are woken, a few
// read at a time. When the holder merely fails, one of them is called, and another one a second
// later if that does not come.
#[test]
fn thousands_that_sleep_are_called_one_by_one_and_woken_all() {
    let mut crowd = crowd(5_000);
    for at in 0..5_000 {
        asks(&mut crowd, at, 0);
    }
    crowd.settle();
    for at in 1..5_000 {
        let (run, token) = crowd.leased[at];
        let report = TurnSuspended {
            run,
            token,
            seen: 1,
            wakes_at: Time::NEVER,
            memos: vec![CommandIndex(0)],
        };
        crowd.hear(WORKER, report);
    }
    crowd.settle();
    crowd.stage.core.check_memos();
    let counts = |crowd: &Crowd| {
        let of = |state| crowd.runs_in(state);
        (of(RunState::Running), of(RunState::Suspended))
    };
    assert_eq!(counts(&crowd), (1, 4_999));
    assert_eq!(crowd.stage.core.stats().in_memory.memos, 5_000);
    let (run, token) = crowd.leased[0];
    let number = CommandIndex(0);
    crowd.leased.truncate(1);
    crowd.hear(WORKER, MemoReleased { run, token, number });
    crowd.settle();
    assert_eq!(counts(&crowd), (2, 4_998), "one is called");
    crowd.pass(Duration::from_millis(1_001), &[WORKER]);
    assert_eq!(counts(&crowd), (3, 4_997), "another one, a second later");
    asks(&mut crowd, 1, 0);
    crowd.settle();
    crowd.pass(Duration::from_millis(2_000), &[WORKER]);
    assert_eq!(counts(&crowd), (3, 4_997), "it is held");
    crowd.sent.clear();
    succeeds(&mut crowd, 1, 200);
    crowd.settle();
    assert_eq!(counts(&crowd), (5_000, 0), "there is a result");
    assert_eq!(crowd.stage.core.stats().in_memory.memos, 0);
    crowd.stage.core.check_memos();
}

// G3: what a step asked under a token that is replaced while its key is being read is asked again
// under the next one; it is not in line for it.
#[test]
fn who_asked_under_an_old_token_is_not_in_line_under_the_next() {
    let back = SessionId(12);
    let runs = RETURN_MAX + 1; // the last of them waits for its new token
    let mut crowd = crowd(runs as u32);
    let held = crowd.leased.iter().map(|(run, token)| Held { run: *run, token: *token, seen: 1 });
    let held: Vec<Held> = held.collect();
    let (run, token) = crowd.leased[runs - 1];
    crowd.stage.handle(Input::SessionClosed { session: WORKER, goodbye: false });
    crowd.hello(back, &[slots("q", runs as u32)], held);
    let (number, memo) = (CommandIndex(0), MemoKey::of(Namespace::default(), "rate"));
    let location = SourceLocation::default();
    let ask = MemoRequested { run, token, number, location, memo };
    crowd.hear(back, ask.clone());
    crowd.stage.handle(Input::Ticked);
    crowd.settle();
    let (_, next) = crowd.leased[runs - 1];
    assert_ne!(next, token, "its worker is back");
    let granted = |message: &Message| matches!(message, Message::AttemptMemo(_));
    assert!(!crowd.sent.iter().any(granted), "{:?}", crowd.sent);
    assert_eq!(crowd.stage.core.stats().in_memory.memos, 0);
    crowd.hear(back, MemoRequested { token: next, ..ask });
    crowd.settle();
    let expected = Message::from(AttemptMemo { run, token: next, number });
    assert_eq!(crowd.sent.iter().filter(|m| granted(m)).count(), 1);
    assert!(crowd.sent.contains(&expected), "{:?}", crowd.sent);
}

// What is damaged fails the attempts that ask for it, and is no answer that there is nothing.
#[test]
fn a_damaged_result_refuses_those_who_ask() {
    let mut crowd = crowd(3);
    asks(&mut crowd, 0, 0);
    crowd.settle();
    succeeds(&mut crowd, 0, 10);
    crowd.settle();
    crowd.sent.clear();
    asks(&mut crowd, 1, 0);
    succeeds(&mut crowd, 2, 20);
    crowd.stage.flush();
    crowd.stage.read(0);
    crowd.stage.answer(0);
    crowd.stage.flush();
    assert!(matches!(crowd.stage.reads[0], StoreRead::MemoResult { .. }));
    crowd.stage.reads.clear();
    crowd.stage.handle(Input::MemoResultLoaded {
        namespace: Namespace::default(),
        hash: MemoKey::of(Namespace::default(), "rate").0,
        found: Err("its chain is broken".to_owned()),
    });
    crowd.settle();
    let refused = |message: &Message| match message {
        Message::ReportRefused(refused) => matches!(refused.reason, Refusal::Damaged(_)),
        _ => false,
    };
    assert!(crowd.sent.iter().all(refused), "{:?}", crowd.sent);
    assert_eq!(crowd.sent.len(), 2);
    assert_eq!(crowd.stage.core.stats().in_memory.memos, 0);
    // They ask again, and it can be read.
    crowd.sent.clear();
    asks(&mut crowd, 1, 0);
    crowd.settle();
    assert!(matches!(crowd.sent[..], [Message::Appended(_)]), "{:?}", crowd.sent);
}

// A journal whose chain does not hold is damage; one that is gone was kept for less time than its
// row.
#[test]
fn a_result_is_read_from_its_journal_and_checked() {
    let mut crowd = crowd(1);
    asks(&mut crowd, 0, 0);
    crowd.settle();
    succeeds(&mut crowd, 0, 10);
    crowd.settle();
    let run = crowd.leased[0].0;
    let read = |run, entry| StoreRead::MemoResult {
        namespace: Namespace::default(),
        hash: 1,
        run,
        birth: (1_000, false),
        entry,
    };
    let found = |crowd: &Crowd, read| {
        let mut prefetched = store_reader::Prefetched::default();
        let answer = store_reader::answer(&crowd.stage.store, read, &mut prefetched);
        match stepwell_storage::block_on(answer) {
            Ok(Input::MemoResultLoaded { found, .. }) => found,
            other => panic!("{other:?}"),
        }
    };
    let output = Payload(vec![7; 10].into());
    assert_eq!(found(&crowd, read(run, 1)), Ok(Some(output)));
    assert_eq!(found(&crowd, read(RunNo(99), 1)), Ok(None));
    let wrong = found(&crowd, read(run, 0)).unwrap_err();
    assert!(wrong.contains("not the result of a step"), "{wrong}");
    let behind = found(&crowd, read(run, 2)).unwrap_err();
    assert!(behind.contains("not the result of a step"), "{behind}");
    let missing = found(&crowd, read(run, 5)).unwrap_err();
    assert!(missing.contains("not the result of a step"), "{missing}");
}
