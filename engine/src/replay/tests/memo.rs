//! Steps whose first result is everybody's: what a turn asks, and what it does with the answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::select;

use super::bench::{Bench, cancel, completed, token};
use crate::model::failure::Failure;
use crate::model::id::{CommandIndex, MemoKey, Namespace};
use crate::model::request::Damaged;
use crate::model::retry::Retry;
use crate::model::time::Time;
use crate::replay::turn::Phase;
use crate::wire::message::Message;
use crate::workflow::{Ctx, millis, secs};

/// A run that does one thing once, and counts its bodies.
fn bench() -> (Bench, Arc<AtomicUsize>) {
    let bodies = Arc::new(AtomicUsize::new(0));
    let counted = bodies.clone();
    let bench = Bench::new(&(), move |ctx: Ctx, (): ()| {
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
    (bench, bodies)
}

fn asks(message: &Message) -> bool {
    matches!(message, Message::MemoRequested(ask) if ask.location.name == "rate")
}

// A turn that waits for others' attempts for more than a moment holds no slot. One that is not
// suspended after all, because its connection was lost, asks again.
#[test]
fn a_turn_that_waits_for_others_is_suspended() {
    let (mut bench, bodies) = bench();
    bench.world.set_suspends_for_memo(true);
    bench.poll();
    bench.clock.advance(249);
    bench.poll();
    assert!(bench.sent.len() == 1 && asks(&bench.sent[0]));
    bench.clock.advance(1);
    bench.poll();
    let suspended = |message: &Message| match message {
        Message::TurnSuspended(m) => m.wakes_at == Time::NEVER && m.memos == [CommandIndex(0)],
        _ => false,
    };
    assert!(suspended(&bench.sent[1]), "{:?}", bench.sent);
    assert_eq!(*bench.turn.phase(), Phase::Suspending);
    bench.sent.clear();
    bench.turn.lease_continued(token(9), 1);
    bench.poll();
    assert!(bench.sent.len() == 1 && asks(&bench.sent[0]));
    bench.clock.advance(250);
    bench.poll();
    assert!(suspended(&bench.sent[1]), "{:?}", bench.sent);
    bench.dispatch();
    bench.sent.clear();
    bench.poll();
    bench.turn.attempt_memo(CommandIndex(0));
    bench.clock.advance(250);
    assert_eq!(bench.poll().told_engine()[1..], ["completed 0 = 7"]);
    assert_eq!(bodies.load(Ordering::SeqCst), 1);
}

// What it waits for besides is told: the first instant, if that is more than a moment away.
#[test]
fn a_turn_that_waits_for_others_and_for_time_is_suspended_until_then() {
    for (ms, suspends) in [(5_000, true), (300, false)] {
        let mut bench = Bench::new(&(), move |ctx: Ctx, (): ()| async move {
            let memo = Box::pin(ctx.memoize("rate", |_| async { Ok::<u32, Failure>(7) }));
            let sleep = Box::pin(ctx.sleep(millis(ms)));
            drop(select(memo, sleep).await);
            Ok::<(), Failure>(())
        });
        bench.world.set_suspends_for_memo(true);
        bench.poll();
        let armed = bench.sent.pop();
        assert!(matches!(armed, Some(Message::TimerRequested(_))));
        let due = bench.now().after(millis(ms));
        let (number, location) = (CommandIndex(1), Default::default());
        let at = bench.now();
        bench.commit(crate::model::entry::TimerArmed { at, number, location, due });
        bench.poll();
        bench.sent.clear();
        bench.clock.advance(250);
        bench.poll();
        let suspended = bench.sent.iter().any(|message| match message {
            Message::TurnSuspended(m) => m.wakes_at == due && m.memos == [CommandIndex(0)],
            _ => false,
        });
        assert_eq!(suspended, suspends, "{:?}", bench.sent);
    }
}

// E3: no body begins before the engine has said so. A turn that waits is not in the way of a drain,
// and is not suspended while an older engine does not wake it.
#[test]
fn a_body_begins_when_the_engine_grants_it() {
    let (mut bench, bodies) = bench();
    bench.poll();
    assert!(bench.sent.len() == 1 && asks(&bench.sent[0]), "{:?}", bench.sent);
    assert!(bench.turn.is_idle());
    bench.sent.clear();
    bench.clock.advance(1_000);
    bench.poll();
    assert_eq!((bench.sent.len(), bodies.load(Ordering::SeqCst)), (0, 0));
    bench.turn.attempt_memo(CommandIndex(0));
    bench.turn.attempt_memo(CommandIndex(0)); // a copy
    assert_eq!(bench.poll().told_engine(), ["completed 0 = 7"]);
    assert!(matches!(&bench.sent[0], Message::StepCompletedReport(r) if r.memo.is_some()));
    assert_eq!(bench.answer().poll().told_engine(), ["returned 7"]);
    assert_eq!(bodies.load(Ordering::SeqCst), 1);
    // A replay asks for nothing.
    bench.dispatch();
    assert_eq!(bench.poll().told_engine(), ["returned 7"]);
}

// E2: what somebody else came to is the result, also for one that has a value of its own.
#[test]
fn the_first_result_is_the_result() {
    for own in [false, true] {
        let (mut bench, bodies) = bench();
        bench.poll();
        if own {
            bench.turn.attempt_memo(CommandIndex(0));
            bench.poll();
        }
        bench.sent.clear();
        let mut first = completed(5, 0, "rate", 8u32);
        first.attempt = 0;
        let index = bench.journal.len() as u32;
        bench.journal.push(first.clone().into());
        bench.turn.told(index, &crate::model::entry::Entry::from(first).encode());
        assert_eq!(bench.poll().told_engine(), ["returned 8"]);
        assert_eq!(bodies.load(Ordering::SeqCst), usize::from(own));
        bench.dispatch();
        assert_eq!(bench.poll().told_engine(), ["returned 8"]);
    }
}

// E5: the engine is told of each attempt that is not made. That is kept until it is answered, like
// a report.
#[test]
fn what_is_not_wanted_any_more_is_given_back() {
    let (mut bench, bodies) = bench();
    bench.poll();
    bench.sent.clear();
    bench.commit(cancel(5)).poll();
    assert!(
        matches!(bench.sent[..], [Message::MemoReleased(_), Message::TurnFailed(_)]),
        "{:?}",
        bench.sent
    );
    let mut bench = Bench::new(&(), |ctx: Ctx, (): ()| async move {
        let memo = Box::pin(ctx.memoize("rate", |_| async { Ok::<u32, Failure>(7) }));
        let other = Box::pin(ctx.step("other", |_| async { Ok::<u32, Failure>(1) }));
        drop(select(memo, other).await);
        ctx.step("last", |_| std::future::pending::<Result<(), Failure>>()).await
    });
    bench.poll();
    assert!(asks(&bench.sent.remove(0)));
    bench.answer().poll();
    let returned = |message: &Message| matches!(message, Message::MemoReleased(_));
    assert!(bench.sent.iter().any(returned), "{:?}", bench.sent);
    bench.sent.clear();
    bench.turn.attempt_memo(CommandIndex(0)); // it was on its way
    bench.poll();
    assert!(bench.sent.len() == 1 && returned(&bench.sent[0]), "{:?}", bench.sent);
    bench.turn.memo_released(CommandIndex(0));
    assert!(!bench.outstanding().iter().any(|report| format!("{report:?}").contains("Memo")));
    assert_eq!(bodies.load(Ordering::SeqCst), 0);
}

// Before each attempt, and again under each token.
#[test]
fn it_is_asked_before_each_attempt() {
    let (mut bench, bodies) = bench();
    bench.poll();
    bench.sent.clear();
    let damaged = Damaged { id: None, what: "the result".to_owned() };
    bench.turn.refused(CommandIndex(0), &damaged.into());
    bench.poll();
    assert!(
        matches!(&bench.sent[0], Message::AttemptFailedReport(r) if r.failure.is_retryable()),
        "{:?}",
        bench.sent
    );
    let failed = bench.sent.remove(0);
    let failed = bench.entry_for(failed, millis(200));
    bench.commit(failed).poll();
    assert!(bench.sent.is_empty(), "{:?}", bench.sent);
    bench.clock.advance(300);
    bench.poll();
    assert!(bench.sent.len() == 1 && asks(&bench.sent[0]), "{:?}", bench.sent);
    bench.sent.clear();
    bench.turn.lease_continued(super::bench::token(9), 2);
    bench.poll();
    assert!(bench.sent.len() == 1 && asks(&bench.sent[0]), "{:?}", bench.sent);
    bench.turn.attempt_memo(CommandIndex(0));
    bench.sent.clear();
    assert_eq!(bench.poll().told_engine(), ["completed 0 = 7"]);
    assert_eq!(bodies.load(Ordering::SeqCst), 1);
    // A result that the engine cannot compare with the first is a failed attempt, too.
    bench.sent.clear();
    let damaged = Damaged { id: None, what: "the result".to_owned() };
    bench.turn.refused(CommandIndex(0), &damaged.into());
    bench.poll();
    assert!(
        matches!(&bench.sent[0], Message::AttemptFailedReport(r) if r.attempt == 2),
        "{:?}",
        bench.sent
    );
}

// An engine that came back was asked again while the body ran, and cannot read what is there: the
// body goes on.
#[test]
fn a_body_goes_on_although_the_engine_cannot_read_the_result() {
    let mut bench = Bench::new(&(), |ctx: Ctx, (): ()| async move {
        ctx.memoize("rate", |_| std::future::pending::<Result<u32, Failure>>()).await
    });
    bench.poll();
    bench.turn.attempt_memo(CommandIndex(0));
    bench.poll();
    bench.turn.lease_continued(super::bench::token(9), 1);
    bench.sent.clear();
    bench.poll();
    assert!(asks(&bench.sent[0]), "{:?}", bench.sent);
    for number in [0, 7] {
        let damaged = Damaged { id: None, what: "the result".to_owned() };
        bench.turn.refused(CommandIndex(number), &damaged.into());
    }
    bench.sent.clear();
    bench.poll();
    assert!(bench.sent.is_empty(), "{:?}", bench.sent);
    assert_eq!(*bench.turn.phase(), crate::replay::turn::Phase::Running);
    let mut first = completed(5, 0, "rate", 8u32);
    first.attempt = 0;
    bench.turn.told(1, &crate::model::entry::Entry::from(first).encode());
    assert_eq!(bench.poll().told_engine(), ["returned 8"]);
}
