//! Limits: every step has both.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::harness::{START, TurnHarness, cancel, completed};
use crate::model::entry::{AttemptFailed, SourceLocation};
use crate::model::failure::Failure;
use crate::model::id::{CommandIndex, ProcessInstance};
use crate::model::retry::Retry;
use crate::model::time::Time;
use crate::workflow::{Ctx, Isolation, Step, StepFuture, secs};

/// A step that waits for ever, with what `with` sets, is told after `soft` and ended after `hard`.
fn is_limited(with: fn(Slow) -> Slow, soft: Duration, hard: Duration) {
    let told = Arc::new(AtomicBool::new(false));
    let tell = told.clone();
    let mut harness = TurnHarness::new(&(), move |ctx: Ctx, (): ()| {
        let tell = tell.clone();
        async move {
            let body: Box<dyn FnMut(Step) -> SlowBody + Send> = Box::new(move |s: Step| {
                let tell = tell.clone();
                Box::pin(async move {
                    let Err(passed) = s
                        .until_soft_timeout(std::future::pending::<std::convert::Infallible>())
                        .await;
                    tell.store(true, Ordering::SeqCst);
                    assert!(passed.to_string().contains("soft timeout"), "{passed}");
                    std::future::pending().await
                })
            });
            with(ctx.step("slow", body)).await
        }
    });
    harness.poll();
    let ms = |span: Duration| span.as_millis() as u64;
    harness.clock.advance(ms(soft) - 1);
    harness.poll();
    assert!(!told.load(Ordering::SeqCst), "not before {soft:?}");
    harness.clock.advance(1);
    assert!(harness.poll().told_engine().is_empty() || soft == hard);
    assert!(told.load(Ordering::SeqCst), "told at {soft:?}");
    harness.clock.advance(ms(hard - soft).saturating_sub(1));
    assert!(harness.poll().told_engine().is_empty() || soft == hard);
    harness.clock.advance(1);
    let ended = harness.poll().told_engine();
    assert!(ended[0].contains("time limit"), "{ended:?}");
}

type SlowBody = BoxFuture<'static, Result<(), Failure>>;
type Slow = StepFuture<Box<dyn FnMut(Step) -> SlowBody + Send>, SlowBody, ()>;

// A41: whatever an author says or leaves out, a step has a soft timeout and a timeout.
#[test]
fn no_step_is_without_a_soft_timeout_and_a_timeout() {
    let (soft, hard) = (secs(300), secs(330));
    is_limited(|step| step, soft, hard);
    is_limited(|step| step.retry(Retry::never()), soft, hard);
    is_limited(|step| step.isolation(Isolation::process()), soft, hard);
    is_limited(|step| step.soft_timeout(secs(7)).timeout(secs(9)), secs(7), secs(9));
    is_limited(|step| step.soft_timeout(secs(60)).timeout(secs(9)), secs(9), secs(9));
}

// A41: a function without steps is one step, and ends like one.
#[test]
fn a_function_without_steps_has_a_timeout() {
    let mut harness =
        TurnHarness::new(&(), |_: Ctx, (): ()| std::future::pending::<Result<(), Failure>>());
    harness.poll();
    harness.clock.advance(329_999);
    assert!(harness.poll().told_engine().is_empty());
    harness.clock.advance(1);
    let told = harness.poll().told_engine();
    assert!(told[0].contains("time limit") && told[0].ends_with("whole true"), "{told:?}");
}

// A41: nobody else knows of what a function waits for without its context, so that has the
// function's timeout, too. Whatever it asks in between gives it its time anew.
#[test]
fn a_function_that_waits_for_something_foreign_ends_at_its_limit() {
    let mut harness = TurnHarness::new(&(), |ctx: Ctx, (): ()| async move {
        ctx.step("one", |_| async { Ok::<_, Failure>(1) }).await?;
        FOREIGN.fetch_add(1, Ordering::SeqCst);
        futures_util::future::poll_fn(|_| match FOREIGN.load(Ordering::SeqCst) {
            2.. => std::task::Poll::Ready(()),
            _ => std::task::Poll::Pending,
        })
        .await;
        ctx.step("two", |_| async { Ok::<_, Failure>(2) }).await?;
        std::future::pending::<Result<(), Failure>>().await
    });
    harness.poll().answer().poll();
    harness.clock.advance(329_000);
    assert!(harness.poll().told_engine().is_empty());
    FOREIGN.fetch_add(1, Ordering::SeqCst);
    harness.poll().answer().poll();
    harness.clock.advance(329_999);
    assert!(harness.poll().told_engine().is_empty(), "its time began anew");
    harness.clock.advance(1);
    let told = harness.poll().told_engine();
    assert!(
        told[0]
            .contains("(time limit): the function awaited a future that does not come from `ctx`")
            && told[0].ends_with("its timeout of 5m 30s whole true"),
        "{told:?}"
    );
}

static FOREIGN: AtomicU32 = AtomicU32::new(0);

// A41: what a function waits for of its context has timeouts of its own, or none.
#[test]
fn a_function_that_waits_for_its_context_has_no_limit() {
    let mut harness = TurnHarness::new(&(), |ctx: Ctx, (): ()| async move {
        ctx.step("long", |_| std::future::pending::<Result<(), Failure>>())
            .soft_timeout(secs(80_000))
            .timeout(secs(90_000))
            .await
    });
    for _ in 0..8 {
        assert!(harness.poll().told_engine().is_empty());
        harness.clock.advance(10_000_000);
    }
    let mut harness = TurnHarness::new(&(), |ctx: Ctx, (): ()| async move {
        ctx.sleep(secs(90_000)).await?;
        Ok::<_, Failure>(())
    });
    harness.poll().answer().poll();
    assert!(harness.told_engine()[0].starts_with("suspended"));
}

// A44: an attempt at the whole function that failed after a step is known to the code behind that
// step, and not before: it must see in a replay what it saw when the step was recorded.
#[test]
fn a_failed_attempt_at_the_whole_is_known_from_where_it_failed() {
    let mut harness = TurnHarness::new(&(), |ctx: Ctx, (): ()| async move {
        let first = ctx.attempt();
        ctx.step("one", |_| async { Ok::<_, Failure>(1) }).await?;
        Ok::<_, Failure>((first, ctx.attempt()))
    });
    harness.journal.push(failed_whole(1).into());
    harness.journal.push(completed(9, 0, "one", 1).into());
    harness.journal.push(failed_whole(2).into());
    harness.dispatch();
    let told = harness.poll().told_engine();
    assert!(told[0].starts_with("returned") && told[0].contains("[2,3]"), "{told:?}");
}

// A44: a cancel request is no command: a function that asks for nothing knows of the attempts that
// failed behind it, too, or it would fail as it did for ever.
#[test]
fn a_function_without_steps_knows_of_attempts_that_failed_after_a_cancel_request() {
    let mut harness =
        TurnHarness::new(&(), |ctx: Ctx, (): ()| async move { Ok::<_, Failure>(ctx.attempt()) });
    harness.journal.push(failed_whole(1).into());
    harness.journal.push(cancel(9).into());
    harness.journal.push(failed_whole(2).into());
    harness.dispatch();
    let told = harness.poll().told_engine();
    assert!(told[0].starts_with("returned 3"), "{told:?}");
}

fn failed_whole(attempt: u32) -> AttemptFailed {
    AttemptFailed {
        at: Time(START + 9),
        number: CommandIndex::FUNCTION,
        location: SourceLocation::default(),
        attempt,
        failure: Failure::retryable("stuck"),
        retry_at: Time(START + 10),
        counted: true,
        process: ProcessInstance(1),
        build: "b".to_owned(),
    }
}
