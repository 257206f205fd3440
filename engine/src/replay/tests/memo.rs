//! Steps whose first result is everybody's: what a turn asks, and what it does with the answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::select;

use super::harness::{TurnHarness, cancel, completed, token};
use crate::model::failure::Failure;
use crate::model::id::{CommandIndex, MemoKey, Namespace};
use crate::model::request::Damaged;
use crate::model::retry::Retry;
use crate::model::time::Time;
use crate::replay::turn::Phase;
use crate::wire::message::Message;
use crate::workflow::{Ctx, millis, secs};

/// A run that does one thing once, and counts its bodies.
fn harness() -> (TurnHarness, Arc<AtomicUsize>) {
    let bodies = Arc::new(AtomicUsize::new(0));
    let counted = bodies.clone();
    let harness = TurnHarness::new(&(), move |ctx: Ctx, (): ()| {
        let counted = counted.clone();
        async move {
            let key = MemoKey::of(Namespace::default(), "rate").to_string();
            let body = |s: crate::Step| {
                counted.fetch_add(1, Ordering::SeqCst);
                assert_eq!(s.key(), key, "the same in all runs");
                async move { Ok::<u32, Failure>(7) }
            };
            let retry = Retry::fixed(secs(2)).retries(1);
            ctx.memoize("rate", body).retry(retry).await
        }
    });
    (harness, bodies)
}

fn asks(message: &Message) -> bool {
    matches!(message, Message::MemoRequested(ask) if ask.location.name == "rate")
}

// A turn that waits for others' attempts for more than a moment holds no slot. One that is not
// suspended after all, because its connection was lost, asks again.
#[test]
fn a_turn_that_waits_for_others_is_suspended() {
    let (mut harness, bodies) = harness();
    harness.poll();
    harness.clock.advance(249);
    harness.poll();
    assert!(harness.sent.len() == 1 && asks(&harness.sent[0]));
    harness.clock.advance(1);
    harness.poll();
    let suspended = |message: &Message| match message {
        Message::TurnSuspended(m) => m.wakes_at == Time::NEVER && m.memos == [CommandIndex(0)],
        _ => false,
    };
    assert!(suspended(&harness.sent[1]), "{:?}", harness.sent);
    assert_eq!(*harness.turn.phase(), Phase::Suspending);
    harness.sent.clear();
    harness.turn.lease_continued(token(9), 1);
    harness.poll();
    assert!(harness.sent.len() == 1 && asks(&harness.sent[0]));
    harness.clock.advance(250);
    harness.poll();
    assert!(suspended(&harness.sent[1]), "{:?}", harness.sent);
    harness.dispatch();
    harness.sent.clear();
    harness.poll();
    harness.turn.attempt_memo(CommandIndex(0));
    harness.clock.advance(250);
    assert_eq!(harness.poll().told_engine()[1..], ["completed 0 = 7"]);
    assert_eq!(bodies.load(Ordering::SeqCst), 1);
}

// What it waits for besides is told: the first instant, if that is more than a moment away.
#[test]
fn a_turn_that_waits_for_others_and_for_time_is_suspended_until_then() {
    for (ms, suspends) in [(5_000, true), (300, false)] {
        let mut harness = TurnHarness::new(&(), move |ctx: Ctx, (): ()| async move {
            let memo = Box::pin(ctx.memoize("rate", |_| async { Ok::<u32, Failure>(7) }));
            let sleep = Box::pin(ctx.sleep(millis(ms)));
            drop(select(memo, sleep).await);
            Ok::<(), Failure>(())
        });
        harness.poll();
        let armed = harness.sent.pop();
        assert!(matches!(armed, Some(Message::TimerRequested(_))));
        let due = harness.now().after(millis(ms));
        let (number, location) = (CommandIndex(1), Default::default());
        let at = harness.now();
        harness.commit(crate::model::entry::TimerArmed { at, number, location, due });
        harness.poll();
        harness.sent.clear();
        harness.clock.advance(250);
        harness.poll();
        let suspended = harness.sent.iter().any(|message| match message {
            Message::TurnSuspended(m) => m.wakes_at == due && m.memos == [CommandIndex(0)],
            _ => false,
        });
        assert_eq!(suspended, suspends, "{:?}", harness.sent);
    }
}

// E3: no body begins before the engine has said so. A turn that waits is not in the way of a drain.
#[test]
fn a_body_begins_when_the_engine_grants_it() {
    let (mut harness, bodies) = harness();
    harness.poll();
    assert!(harness.sent.len() == 1 && asks(&harness.sent[0]), "{:?}", harness.sent);
    assert!(harness.turn.is_idle());
    harness.sent.clear();
    harness.clock.advance(249);
    harness.poll();
    assert_eq!((harness.sent.len(), bodies.load(Ordering::SeqCst)), (0, 0));
    harness.turn.attempt_memo(CommandIndex(0));
    harness.turn.attempt_memo(CommandIndex(0)); // a copy
    assert_eq!(harness.poll().told_engine(), ["completed 0 = 7"]);
    assert!(matches!(&harness.sent[0], Message::StepCompletedReport(r) if r.memo.is_some()));
    assert_eq!(harness.answer().poll().told_engine(), ["returned 7"]);
    assert_eq!(bodies.load(Ordering::SeqCst), 1);
    // A replay asks for nothing.
    harness.dispatch();
    assert_eq!(harness.poll().told_engine(), ["returned 7"]);
}

// E2: what somebody else came to is the result, also for one that has a value of its own.
#[test]
fn the_first_result_is_the_result() {
    for own in [false, true] {
        let (mut harness, bodies) = harness();
        harness.poll();
        if own {
            harness.turn.attempt_memo(CommandIndex(0));
            harness.poll();
        }
        harness.sent.clear();
        let mut first = completed(5, 0, "rate", 8u32);
        first.attempt = 0;
        let index = harness.journal.len() as u32;
        harness.journal.push(first.clone().into());
        harness.turn.told(index, &crate::model::entry::Entry::from(first).encode());
        assert_eq!(harness.poll().told_engine(), ["returned 8"]);
        assert_eq!(bodies.load(Ordering::SeqCst), usize::from(own));
        harness.dispatch();
        assert_eq!(harness.poll().told_engine(), ["returned 8"]);
    }
}

// E5: the engine is told of each attempt that is not made. That is kept until it is answered, like
// a report.
#[test]
fn what_is_not_wanted_any_more_is_given_back() {
    let (mut harness, bodies) = harness();
    harness.poll();
    harness.sent.clear();
    harness.commit(cancel(5)).poll();
    assert!(
        matches!(harness.sent[..], [Message::MemoReleased(_), Message::TurnFailed(_)]),
        "{:?}",
        harness.sent
    );
    let mut harness = TurnHarness::new(&(), |ctx: Ctx, (): ()| async move {
        let memo = Box::pin(ctx.memoize("rate", |_| async { Ok::<u32, Failure>(7) }));
        let other = Box::pin(ctx.step("other", |_| async { Ok::<u32, Failure>(1) }));
        drop(select(memo, other).await);
        ctx.step("last", |_| std::future::pending::<Result<(), Failure>>()).await
    });
    harness.poll();
    assert!(asks(&harness.sent.remove(0)));
    harness.answer().poll();
    let returned = |message: &Message| matches!(message, Message::MemoReleased(_));
    assert!(harness.sent.iter().any(returned), "{:?}", harness.sent);
    harness.sent.clear();
    harness.turn.attempt_memo(CommandIndex(0)); // it was on its way
    harness.poll();
    assert!(harness.sent.len() == 1 && returned(&harness.sent[0]), "{:?}", harness.sent);
    harness.turn.memo_released(CommandIndex(0));
    assert!(!harness.outstanding().iter().any(|report| format!("{report:?}").contains("Memo")));
    assert_eq!(bodies.load(Ordering::SeqCst), 0);
}

// Before each attempt, and again under each token.
#[test]
fn it_is_asked_before_each_attempt() {
    let (mut harness, bodies) = harness();
    harness.poll();
    harness.sent.clear();
    let damaged = Damaged { id: None, what: "the result".to_owned() };
    harness.turn.refused(CommandIndex(0), &damaged.into());
    harness.poll();
    assert!(
        matches!(&harness.sent[0], Message::AttemptFailedReport(r) if r.failure.is_retryable()),
        "{:?}",
        harness.sent
    );
    let failed = harness.sent.remove(0);
    let failed = harness.entry_for(failed, millis(200));
    harness.commit(failed).poll();
    assert!(harness.sent.is_empty(), "{:?}", harness.sent);
    harness.clock.advance(300);
    harness.poll();
    assert!(harness.sent.len() == 1 && asks(&harness.sent[0]), "{:?}", harness.sent);
    harness.sent.clear();
    harness.turn.lease_continued(super::harness::token(9), 2);
    harness.poll();
    assert!(harness.sent.len() == 1 && asks(&harness.sent[0]), "{:?}", harness.sent);
    harness.turn.attempt_memo(CommandIndex(0));
    harness.sent.clear();
    assert_eq!(harness.poll().told_engine(), ["completed 0 = 7"]);
    assert_eq!(bodies.load(Ordering::SeqCst), 1);
    // A result that the engine cannot compare with the first is a failed attempt, too.
    harness.sent.clear();
    let damaged = Damaged { id: None, what: "the result".to_owned() };
    harness.turn.refused(CommandIndex(0), &damaged.into());
    harness.poll();
    assert!(
        matches!(&harness.sent[0], Message::AttemptFailedReport(r) if r.attempt == 2),
        "{:?}",
        harness.sent
    );
}

// An engine that came back was asked again while the body ran, and cannot read what is there: the
// body goes on.
#[test]
fn a_body_goes_on_although_the_engine_cannot_read_the_result() {
    let mut harness = TurnHarness::new(&(), |ctx: Ctx, (): ()| async move {
        ctx.memoize("rate", |_| std::future::pending::<Result<u32, Failure>>()).await
    });
    harness.poll();
    harness.turn.attempt_memo(CommandIndex(0));
    harness.poll();
    harness.turn.lease_continued(super::harness::token(9), 1);
    harness.sent.clear();
    harness.poll();
    assert!(asks(&harness.sent[0]), "{:?}", harness.sent);
    for number in [0, 7] {
        let damaged = Damaged { id: None, what: "the result".to_owned() };
        harness.turn.refused(CommandIndex(number), &damaged.into());
    }
    harness.sent.clear();
    harness.poll();
    assert!(harness.sent.is_empty(), "{:?}", harness.sent);
    assert_eq!(*harness.turn.phase(), crate::replay::turn::Phase::Running);
    let mut first = completed(5, 0, "rate", 8u32);
    first.attempt = 0;
    harness.turn.told(1, &crate::model::entry::Entry::from(first).encode());
    assert_eq!(harness.poll().told_engine(), ["returned 8"]);
}
