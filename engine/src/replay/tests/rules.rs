//! The rules, one by one.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::harness::{START, TurnHarness, cancel, completed, fired, token};
use crate::model::entry::{Entry, SourceLocation, TimerArmed};
use crate::model::failure::Failure;
use crate::model::id::CommandIndex;
use crate::model::request::{JournalFull, PayloadTooLarge, Refusal};
use crate::model::retry::Retry;
use crate::model::time::Time;
use crate::replay::turn::Phase;
use crate::workflow::{Ctx, Step, days, millis, mins, secs};

async fn ok<T>(value: T) -> Result<T, Failure> {
    Ok(value)
}

fn armed(at: u64, number: u32, ms: u64) -> TimerArmed {
    let (at, location) = (
        Time(START + at),
        SourceLocation { at: "order.rs:38".into(), version: 3, ..SourceLocation::default() },
    );
    TimerArmed { at, number: CommandIndex(number), location, due: at.after(millis(ms)) }
}

/// Two steps, a sleep between them.
async fn two_steps(ctx: Ctx, (): ()) -> Result<u32, Failure> {
    let one = ctx.step("one", |_| ok(1u32)).await?;
    ctx.sleep(secs(60)).await?;
    let two = ctx.step("two", |_| ok(2u32)).await?;
    Ok(one + two)
}

// W4: a step whose report is lost must not be seen by the function, or a later replay would not
// know its outcome.
#[test]
fn a_step_resolves_by_its_entry_and_not_by_its_body() {
    let mut harness = TurnHarness::new(&(), two_steps);
    assert_eq!(harness.poll().told_engine(), ["completed 0 = 1"]);
    harness.poll().poll();
    assert_eq!(harness.told_engine(), ["completed 0 = 1"]);
    harness.answer().poll();
    assert_eq!(harness.told_engine(), ["timer 1 60000 ms"]);
}

// W3
#[test]
fn a_replay_runs_no_body_that_is_recorded_and_asks_nothing_twice() {
    let bodies = Arc::new(AtomicU32::new(0));
    let counted = bodies.clone();
    let mut harness = TurnHarness::new(&(), move |ctx, (): ()| {
        let bodies = counted.clone();
        async move {
            let count = || {
                bodies.fetch_add(1, Ordering::SeqCst);
                ok(1u32)
            };
            let mut sum = 0;
            for _ in 0..3 {
                sum += ctx.step("count", |_| count()).await?;
            }
            ctx.sleep(days(3)).await?;
            Ok(sum)
        }
    });
    for _ in 0..3 {
        harness.poll().answer();
    }
    harness.poll().answer().poll();
    assert_eq!(bodies.load(Ordering::SeqCst), 3);
    harness.commit(fired(10, 3)).dispatch();
    assert_eq!(harness.poll().told_engine(), ["returned 3"]);
    assert_eq!(bodies.load(Ordering::SeqCst), 3);
}

// W2: `select!` must answer alike whether two outcomes arrive together or one by one.
#[test]
fn outcomes_that_arrive_together_are_resolved_one_by_one_in_journal_order() {
    async fn race(ctx: Ctx, (): ()) -> Result<(String, u64), Failure> {
        let first = crate::select! {
            a = ctx.step("a", |_| ok("a".to_owned())) => a?,
            b = ctx.step("b", |_| ok("b".to_owned())) => b?,
        };
        Ok((first, ctx.now().0 - START))
    }
    let mut harness = TurnHarness::new(&(), race);
    harness.poll();
    harness.commit(completed(5, 1, "b", "b")).commit(completed(6, 0, "a", "a"));
    harness.poll();
    assert_eq!(harness.told_engine().pop().unwrap(), "returned [\"b\",5]");
    harness.dispatch();
    assert_eq!(harness.poll().told_engine(), ["returned [\"b\",5]"]);
}

// W5: otherwise a `join` polled in another order would give the outcomes to the wrong steps.
#[test]
fn numbers_are_given_by_the_call_and_not_by_the_poll() {
    let mut harness = TurnHarness::new(&(), |ctx: Ctx, (): ()| async move {
        let first = ctx.step("first", |s: Step| ok(s.key()));
        let second = ctx.step("second", |s: Step| ok(s.key()));
        let second = second.await?;
        Ok((first.await?, second))
    });
    assert_eq!(
        harness.poll().told_engine(),
        [format!("completed 1 = \"{}-1\"", super::harness::RUN)]
    );
    harness.answer().poll();
    assert_eq!(harness.told_engine(), [format!("completed 0 = \"{}-0\"", super::harness::RUN)]);
}

#[test]
fn another_name_at_a_number_is_a_mismatch_with_both_sides() {
    let mut harness =
        TurnHarness::new(
            &(),
            |ctx: Ctx, (): ()| async move { ctx.step("refund", |_| ok(1u32)).await },
        );
    harness.commit(completed(5, 0, "charge-card", 1)).dispatch();
    let told = harness.poll().told_engine().pop().unwrap();
    let (front, line) = told.split_once("rules.rs:").unwrap();
    assert_eq!(
        front,
        "mismatch\n  entry 1 holds    step \"charge-card\"  order.rs:41, workflow version 3\n  the code asked   step \"refund\"  "
    );
    assert!(line.ends_with(", workflow version 4"), "{told}");
    assert_eq!(*harness.turn.phase(), Phase::Ended);
}

#[test]
fn another_kind_at_a_number_is_a_mismatch() {
    let mut harness =
        TurnHarness::new(
            &(),
            |ctx: Ctx, (): ()| async move { ctx.step("refund", |_| ok(1u32)).await },
        );
    harness.commit(armed(5, 0, 86_400_000)).dispatch();
    let told = harness.poll().told_engine().pop().unwrap();
    assert!(told.contains("entry 1 holds    timer 24h  order.rs:38, workflow version 3"), "{told}");
}

#[test]
fn an_outcome_of_something_not_yet_asked_for_is_a_mismatch() {
    let mut harness = TurnHarness::new(&(), two_steps);
    harness.commit(completed(5, 1, "charge", 1)).dispatch();
    let told = harness.poll().told_engine().pop().unwrap();
    assert!(told.contains("entry 1 holds    step \"charge\"  order.rs:41"), "{told}");
    assert!(
        told.contains("the code asked   nothing: it waits for step \"one\"  rules.rs:"),
        "{told}"
    );
}

#[test]
fn ending_before_the_journal_does_is_a_mismatch() {
    let mut harness =
        TurnHarness::new(
            &(),
            |ctx: Ctx, (): ()| async move { ctx.step("one", |_| ok(1u32)).await },
        );
    harness.commit(completed(5, 0, "one", 1)).commit(completed(6, 1, "two", 2)).dispatch();
    let told = harness.poll().told_engine().pop().unwrap();
    assert!(told.contains("entry 2 holds    step \"two\""), "{told}");
    assert!(told.contains("the code asked   nothing: it returned"), "{told}");
}

// An outcome that was under way when the function ended may have been committed behind it.
#[test]
fn what_was_under_way_when_the_function_ended_may_stay_unread() {
    let mut harness = TurnHarness::new(&(), |ctx: Ctx, (): ()| async move {
        crate::select! {
            one = ctx.step("one", |_| ok(1u32)) => one,
            two = ctx.step("two", |_| ok(2u32)) => two,
        }
    });
    harness
        .commit(completed(5, 0, "one", 1))
        .commit(completed(6, 1, "two", 2))
        .commit(cancel(7))
        .dispatch();
    assert_eq!(harness.poll().told_engine(), ["returned 1"]);
}

#[test]
fn outcomes_of_dropped_futures_are_skipped() {
    let mut harness = TurnHarness::new(&(), |ctx: Ctx, (): ()| async move {
        crate::select! {
            slow = ctx.step("slow", |_| std::future::pending::<Result<(), Failure>>()) => slow?,
            slept = ctx.sleep(secs(1)) => slept?,
        }
        ctx.step("after", |_| ok(3u32)).await
    });
    harness
        .commit(armed(0, 1, 1_000))
        .commit(fired(1_000, 1))
        .commit(completed(1_001, 0, "slow", 9))
        .dispatch();
    assert_eq!(harness.poll().told_engine(), ["completed 2 = 3"]);
    harness.answer();
    assert_eq!(harness.poll().told_engine(), ["returned 3"]);
}

#[test]
fn a_recorded_output_of_another_type_is_a_mismatch() {
    let mut harness =
        TurnHarness::new(
            &(),
            |ctx: Ctx, (): ()| async move { ctx.step("one", |_| ok(1u32)).await },
        );
    harness.commit(completed(5, 0, "one", "a word")).dispatch();
    let told = harness.poll().told_engine().pop().unwrap();
    assert!(told.starts_with("mismatch\n  entry 1 holds"), "{told}");
    assert!(told.contains("does not decode as `u32`"), "{told}");
}

#[test]
fn a_damaged_journal_stops_the_turn_with_the_reason() {
    let mut harness = TurnHarness::new(&(), two_steps);
    harness.commit(completed(5, 0, "one", 1)).dispatch_prefix(1);
    let mut damaged = harness.stored()[1].to_vec();
    damaged[4] ^= 1;
    harness.turn.stored(1, vec![damaged.into()]);
    let told = harness.poll().told_engine().pop().unwrap();
    assert!(told.contains("entry 1 holds    a journal entry is damaged: its chain is"), "{told}");
}

#[test]
fn a_long_journal_comes_in_pages_and_a_live_entry_may_overtake_them() {
    let mut harness = TurnHarness::new(&(), two_steps);
    harness.commit(completed(5, 0, "one", 1)).commit(armed(6, 1, 60_000)).dispatch_prefix(2);
    let rest = harness.stored()[2..].to_vec();
    let mut turn = crate::replay::turn::Turn::new(
        crate::model::id::RunNo(1),
        super::harness::RUN,
        token(2),
        3,
        harness.world.clone(),
    );
    turn.stored(0, harness.stored()[..1].to_vec());
    turn.told(3, &Entry::from(fired(60_006, 1)).encode());
    turn.stored(1, harness.stored()[1..2].to_vec());
    harness.turn = turn;
    assert_eq!(
        (harness.poll().told_engine().len(), harness.turn.phase().clone()),
        (0, Phase::Loading)
    );
    harness.turn.stored(2, rest);
    assert_eq!(harness.poll().told_engine(), ["completed 2 = 2"]);
}

#[test]
fn a_failed_attempt_is_made_again_at_its_time_and_not_before() {
    let mut harness = TurnHarness::new(&(), |ctx: Ctx, (): ()| async move {
        let patience = Retry::fixed(millis(100)).retries(2);
        ctx.step("flaky", |s: Step| async move {
            if s.attempt() < 3 { Err(Failure::retryable("not yet")) } else { Ok(s.attempt()) }
        })
        .retry(patience)
        .await
    });
    for attempt in 1..3 {
        assert_eq!(
            harness.poll().told_engine(),
            [format!("failed 0 attempt {attempt}: Retryable (retryable): not yet")]
        );
        let message = harness.sent.remove(0);
        let entry = harness.entry_for(message, millis(100));
        harness.commit(entry);
        assert!(harness.poll().told_engine().is_empty());
        harness.clock.advance(99);
        assert!(harness.poll().told_engine().is_empty(), "attempt {} came early", attempt + 1);
        harness.wakes();
        harness.clock.advance(3);
        assert!(harness.wakes() > 0);
    }
    assert_eq!(harness.poll().told_engine(), ["completed 0 = 3"]);
}

// Both answers come between two polls; the failed step's is the last, and it wakes nobody but the
// turn itself.
#[test]
fn a_failed_attempt_that_comes_with_an_outcome_is_made_again() {
    let mut harness = TurnHarness::new(&(), |ctx: Ctx, (): ()| async move {
        let flaky = ctx.step("flaky", |s: Step| async move {
            match s.attempt() {
                1 => Err(Failure::retryable("not yet")),
                attempt => Ok(attempt),
            }
        });
        let (one, two) = crate::join!(ctx.step("one", |_| ok(1u32)), flaky);
        Ok::<_, Failure>(one? + two?)
    });
    assert_eq!(harness.poll().sent.len(), 2);
    for _ in 0..2 {
        let message = harness.sent.remove(0);
        let entry = harness.entry_for(message, millis(100));
        harness.commit(entry);
    }
    harness.poll().wakes();
    harness.clock.advance(102);
    assert!(harness.wakes() > 0, "nobody waits for the second attempt");
    assert_eq!(harness.poll().told_engine(), ["completed 0 = 2"]);
}

#[test]
fn a_long_backoff_suspends_and_the_next_turn_knows_the_attempts() {
    let mut harness = TurnHarness::new(&(), |ctx: Ctx, (): ()| async move {
        ctx.step("flaky", |s: Step| async move {
            if s.attempt() < 2 { Err(Failure::retryable("not yet")) } else { Ok(s.attempt()) }
        })
        .await
    });
    harness.poll().answer();
    assert_eq!(harness.poll().told_engine(), ["suspended seen 2 until +2001 ms"]);
    harness.clock.advance(2_001);
    harness.dispatch();
    assert_eq!(harness.poll().told_engine(), ["completed 0 = 2"]);
}

// A timer and a running body: the timer alone does not send the run to sleep.
#[test]
fn a_run_is_suspended_only_when_nothing_runs_and_nothing_is_unanswered() {
    let go = Arc::new(AtomicBool::new(false));
    let gate = go.clone();
    let mut harness = TurnHarness::new(&(), move |ctx: Ctx, (): ()| {
        let go = gate.clone();
        async move {
            let body = |_| {
                let go = go.clone();
                std::future::poll_fn(move |_| match go.load(Ordering::SeqCst) {
                    true => std::task::Poll::Ready(Ok::<_, Failure>(1u32)),
                    false => std::task::Poll::Pending,
                })
            };
            let (one, slept) = crate::join!(ctx.step("one", body), ctx.sleep(mins(5)));
            slept?;
            one
        }
    });
    assert_eq!(harness.poll().told_engine(), ["timer 1 300000 ms"]);
    assert!(harness.answer().poll().told_engine().is_empty());
    go.store(true, Ordering::SeqCst);
    assert_eq!(harness.poll().told_engine(), ["completed 0 = 1"]);
    assert_eq!(harness.answer().poll().told_engine(), ["suspended seen 3 until +300001 ms"]);
    assert_eq!(*harness.turn.phase(), Phase::Suspending);
    harness.commit(fired(300_001, 1)).poll();
    assert_eq!(harness.told_engine().len(), 1, "nothing goes on while the engine has not answered");
}

#[test]
fn a_short_wait_stays_in_memory() {
    let mut harness =
        TurnHarness::new(&(), |ctx: Ctx, (): ()| async move { ctx.sleep(millis(200)).await });
    harness.poll().answer();
    assert!(harness.poll().told_engine().is_empty());
    assert_eq!(harness.commit(fired(201, 0)).poll().told_engine(), ["returned null"]);
}

// What is asked after the cancellation runs normally, so that the function can clean up.
#[test]
fn a_cancel_request_answers_all_that_is_pending_and_nothing_after_it() {
    let dropped = Arc::new(AtomicBool::new(false));
    struct Told(Arc<AtomicBool>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let tell = dropped.clone();
    let mut harness = TurnHarness::new(&(), move |ctx: Ctx, (): ()| {
        let tell = tell.clone();
        async move {
            let later = ctx.step("later", |_| ok(1u32));
            let body = |_| {
                let told = Told(tell.clone());
                async move {
                    let _told = told;
                    std::future::pending::<Result<u32, Failure>>().await
                }
            };
            let (one, slept) = crate::join!(ctx.step("one", body), ctx.sleep(mins(5)));
            assert!(
                one.unwrap_err().is_cancelled()
                    && slept.unwrap_err().is_cancelled()
                    && ctx.is_cancelled()
            );
            assert!(later.await.unwrap_err().is_cancelled());
            ctx.step("refund", |_| ok(1u32)).await?;
            Err::<(), _>(Failure::cancelled("done"))
        }
    });
    harness.poll().answer();
    harness.commit(cancel(7)).poll();
    assert!(dropped.load(Ordering::SeqCst), "the body goes on");
    assert_eq!(harness.told_engine(), ["completed 3 = 1"]);
    harness.commit(completed(8, 1, "one", 1)).answer().poll();
    assert_eq!(harness.told_engine(), ["died Cancelled (cancelled): done whole false"]);
}

#[test]
fn a_panic_in_a_step_is_a_retryable_failure_of_the_step() {
    let mut harness = TurnHarness::new(&(), |ctx: Ctx, (): ()| async move {
        ctx.step("sync", |_| -> std::future::Ready<Result<(), Failure>> { panic!("at the call") })
            .await?;
        ctx.step("async", |_| async { if true { panic!("in the body") } else { ok(()).await } })
            .await
    });
    assert_eq!(
        harness.poll().told_engine(),
        ["failed 0 attempt 1: Retryable (panic): at the call"]
    );
    harness.commit(completed(5, 0, "sync", ())).dispatch();
    harness.poll();
    assert_eq!(harness.told_engine(), ["failed 1 attempt 1: Retryable (panic): in the body"]);
}

#[test]
fn a_panic_in_the_function_ends_the_run() {
    let mut harness = TurnHarness::new(&(), |ctx: Ctx, (): ()| async move {
        ctx.step("one", |_| ok(())).await?;
        let list: Vec<u32> = Vec::new();
        Ok(list[ctx.now().0 as usize])
    });
    harness.poll().answer().poll();
    let told = harness.told_engine();
    assert!(told[0].starts_with("died Terminal (panic): index out of bounds"), "{told:?}");
}

#[test]
fn asking_the_context_from_within_a_body_fails_the_step() {
    let mut harness = TurnHarness::new(&(), |ctx: Ctx, (): ()| async move {
        let inner = ctx.clone();
        ctx.step("outer", |_| {
            let inner = inner.clone();
            async move { inner.sleep(secs(1)).await }
        })
        .await
    });
    let told = harness.poll().told_engine();
    assert!(
        told[0].contains("Retryable (panic): the context was asked for something from within"),
        "{told:?}"
    );
}

#[test]
fn the_timeout_drops_the_body_and_the_soft_timeout_warns_it() {
    let warned = Arc::new(AtomicBool::new(false));
    let warn = warned.clone();
    let mut harness = TurnHarness::new(&(), move |ctx: Ctx, (): ()| {
        let warned = warn.clone();
        async move {
            ctx.step("slow", |s: Step| {
                let warned = warned.clone();
                async move {
                    s.soft_timeout().await;
                    warned.store(true, Ordering::SeqCst);
                    std::future::pending::<Result<(), Failure>>().await
                }
            })
            .soft_timeout(secs(30))
            .timeout(secs(40))
            .await
        }
    });
    harness.poll();
    harness.clock.advance(29_999);
    harness.poll();
    assert!(!warned.load(Ordering::SeqCst));
    harness.clock.advance(1);
    assert!(harness.poll().told_engine().is_empty());
    assert!(warned.load(Ordering::SeqCst));
    harness.clock.advance(10_000);
    let told = harness.poll().told_engine();
    assert_eq!(
        told,
        [
            "failed 0 attempt 1: Retryable (time limit): the attempt took longer than its timeout of 40s"
        ]
    );
}

#[test]
fn an_output_that_is_too_large_is_final() {
    let mut harness = TurnHarness::new(&(), |ctx: Ctx, (): ()| async move {
        ctx.step("big", |_| ok("x".repeat(2_000))).await
    });
    let told = harness.poll().told_engine();
    assert!(
        told[0].starts_with("failed 0 attempt 1: Terminal (payload): the payload has 2004 bytes"),
        "{told:?}"
    );
    let mut harness =
        TurnHarness::new(&(), |_ctx: Ctx, (): ()| async move { Ok("x".repeat(2_000)) });
    let told = harness.poll().told_engine();
    assert!(told[0].starts_with("died Terminal (payload): the payload has 2004 bytes"), "{told:?}");
}

#[test]
fn a_report_refused_for_its_size_is_made_again_as_a_final_failure() {
    let mut harness = TurnHarness::new(&(), two_steps);
    harness.poll();
    let refusal = Refusal::from(PayloadTooLarge { bytes: 5, bytes_max: 4 });
    harness.turn.refused(CommandIndex(0), &refusal);
    harness.sent.clear();
    let told = harness.poll().told_engine();
    assert!(
        told[0].starts_with("failed 0 attempt 1: Terminal (payload): the payload has 5 bytes"),
        "{told:?}"
    );
    let failed = harness.sent.remove(0);
    let entry = harness.entry_for(failed, Duration::ZERO);
    harness.commit(entry).poll();
    assert!(harness.told_engine()[0].starts_with("died Terminal (payload)"));
}

#[test]
fn a_full_journal_stops_the_turn() {
    let mut harness = TurnHarness::new(&(), two_steps);
    harness.poll();
    let full = JournalFull { id: super::harness::RUN, entries: 5, entries_max: 5 };
    harness.turn.refused(CommandIndex(0), &full.into());
    assert_eq!(*harness.turn.phase(), Phase::Stopped);
}

// W6: what was sent over a lost connection may or may not have arrived.
#[test]
fn after_a_lease_is_continued_only_what_the_journal_does_not_answer_is_sent_again() {
    let mut harness = TurnHarness::new(&(), |ctx: Ctx, (): ()| async move {
        let (a, b) = crate::join!(ctx.step("a", |_| ok(1u32)), ctx.step("b", |_| ok(2u32)));
        Ok(a? + b?)
    });
    assert_eq!(harness.poll().told_engine(), ["completed 0 = 1", "completed 1 = 2"]);
    assert_eq!(harness.turn.seen(), 1);
    // The first arrived, its acknowledgement did not.
    let first = harness.sent.remove(0);
    let entry = harness.entry_for(first, Duration::ZERO);
    harness.journal.push(entry);
    harness.turn.lease_continued(token(2), 2);
    harness.sent.clear();
    assert!(
        harness.poll().told_engine().is_empty(),
        "nothing goes out before the journal is known"
    );
    let rest = harness.stored()[1..].to_vec();
    harness.turn.stored(1, rest);
    assert_eq!(harness.poll().told_engine(), ["completed 1 = 2"]);
    harness.turn.lease_continued(token(2), 2);
    assert_eq!(harness.poll().told_engine().len(), 1, "once under each token");
    assert_eq!(harness.answer().poll().told_engine(), ["returned 3"]);
}

#[test]
fn a_continued_lease_wakes_a_turn_that_was_about_to_be_suspended() {
    let mut harness =
        TurnHarness::new(&(), |ctx: Ctx, (): ()| async move { ctx.sleep(secs(60)).await });
    harness.poll().answer().poll();
    assert_eq!(*harness.turn.phase(), Phase::Suspending);
    harness.sent.clear();
    harness.turn.lease_continued(token(2), 3);
    harness.journal.push(fired(60_000, 0).into());
    let rest = harness.stored()[2..].to_vec();
    harness.turn.stored(2, rest);
    assert_eq!(harness.poll().told_engine(), ["returned null"]);
}

#[test]
fn no_body_starts_while_the_gate_is_closed() {
    let mut harness = TurnHarness::new(&(), two_steps);
    harness.world.gate.open_until(Duration::ZERO);
    assert!(harness.poll().told_engine().is_empty());
    assert!(harness.turn.is_idle());
    harness.world.gate.open_until(Duration::MAX);
    harness.turn.gate_opened();
    assert_eq!(harness.poll().told_engine(), ["completed 0 = 1"]);
}

#[test]
fn the_failure_of_a_function_that_asked_nothing_is_the_failure_of_a_step() {
    let mut harness = TurnHarness::new(&17u32, |ctx: Ctx, n: u32| async move {
        Err::<(), _>(Failure::retryable(format!("{n} at attempt {}", ctx.attempt())))
    });
    assert_eq!(
        harness.poll().told_engine(),
        ["died Retryable (retryable): 17 at attempt 1 whole true"]
    );
    let mut failed = match harness.entry_for(
        crate::wire::message::AttemptFailedReport {
            run: Default::default(),
            token: token(1),
            number: CommandIndex::FUNCTION,
            location: SourceLocation::default(),
            attempt: 1,
            failure: Failure::retryable("no"),
            retry: Retry::default(),
        }
        .into(),
        secs(2),
    ) {
        Entry::AttemptFailed(e) => e,
        other => panic!("{other:?}"),
    };
    failed.number = CommandIndex::FUNCTION;
    harness.journal.push(failed.into());
    harness.dispatch();
    assert_eq!(
        harness.poll().told_engine(),
        ["died Retryable (retryable): 17 at attempt 2 whole true"]
    );
}

#[test]
fn an_input_of_another_type_ends_the_run() {
    let mut harness = TurnHarness::new("word", |_: Ctx, n: u32| ok(n));
    let told = harness.poll().told_engine();
    assert!(
        told[0]
            .starts_with("died Terminal (input): the payload (6 bytes) does not decode as `u32`"),
        "{told:?}"
    );
}

#[test]
fn a_bad_step_name_ends_the_run() {
    let mut harness =
        TurnHarness::new(&(), |ctx: Ctx, (): ()| async move { ctx.step("", |_| ok(1u32)).await });
    assert_eq!(
        harness.poll().told_engine(),
        ["died Terminal (name): the step name `` is empty whole false"]
    );
}

// Combinators that poll only what was woken must make progress too.
#[test]
fn futures_behind_wakers_of_their_own_are_woken() {
    use futures_util::stream::{FuturesUnordered, StreamExt};
    let mut harness = TurnHarness::new(&(), |ctx: Ctx, (): ()| async move {
        let mut steps: FuturesUnordered<_> =
            (0..40u32).map(|n| ctx.step("n", move |_| ok(n))).collect();
        let mut order = Vec::new();
        while let Some(done) = steps.next().await {
            order.push(done?);
        }
        Ok(order)
    });
    assert_eq!(harness.poll().told_engine().len(), 40);
    let reports = std::mem::take(&mut harness.sent);
    for message in reports.into_iter().rev() {
        let entry = harness.entry_for(message, Duration::ZERO);
        harness.commit(entry);
    }
    let order: Vec<u32> = (0..40).rev().collect();
    let expected = format!("returned {}", serde_json::to_string(&order).unwrap());
    assert_eq!(harness.poll().told_engine(), std::slice::from_ref(&expected));
    harness.dispatch();
    assert_eq!(harness.poll().told_engine(), [expected]);
}

// A tokio primitive whose task has used up its budget answers "pending" without looking.
#[tokio::test]
async fn a_used_up_budget_skips_no_resolution() {
    async fn race(ctx: Ctx, (): ()) -> Result<u32, Failure> {
        let mut sum = 0;
        for round in 0..300u32 {
            sum += tokio::select! {
                biased;
                a = ctx.step("a", |_| ok(1u32)) => a?,
                b = ctx.step("b", |_| ok(2u32)) => b? + round,
            };
        }
        Ok(sum)
    }
    let mut harness = TurnHarness::new(&(), race);
    for round in 0..300u32 {
        harness.journal.push(completed(5, round * 2, "a", 1).into());
        harness.journal.push(completed(5, round * 2 + 1, "b", 2).into());
    }
    harness.dispatch();
    assert_eq!(harness.poll().told_engine(), ["returned 300"]);
}

#[test]
fn try_join_answers_with_the_first_error_and_select_drops_before_its_arm() {
    let log = Arc::new(Mutex::new(Vec::new()));
    struct Told(Arc<Mutex<Vec<&'static str>>>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.lock().unwrap().push("dropped");
        }
    }
    let to = log.clone();
    let mut harness = TurnHarness::new(&(), move |ctx: Ctx, (): ()| {
        let log = to.clone();
        async move {
            let waits = {
                let told = Told(log.clone());
                async move {
                    let _told = told;
                    std::future::pending::<()>().await;
                }
            };
            crate::select! {
                () = waits => log.lock().unwrap().push("never"),
                one = ctx.step("one", |_| ok(1u32)) => {
                    one?;
                    log.lock().unwrap().push("arm");
                }
            }
            let (a, b): (u32, u32) = crate::try_join!(ctx.step("two", |_| ok(1u32)), async {
                Err(Failure::terminal("no"))
            })?;
            Ok(a + b)
        }
    });
    harness.poll().answer().poll();
    assert_eq!(*log.lock().unwrap(), ["dropped", "arm"]);
    assert_eq!(harness.told_engine().pop().unwrap(), "died Terminal (terminal): no whole false");
}
