//! Limits: every step has both.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::bench::Bench;
use crate::model::failure::Failure;
use crate::model::retry::Retry;
use crate::workflow::{Ctx, Isolation, Step, StepFuture, secs};

/// A step that waits for ever, with what `with` sets, is told after `soft` and ended after `hard`.
fn is_limited(with: fn(Slow) -> Slow, soft: Duration, hard: Duration) {
    let told = Arc::new(AtomicBool::new(false));
    let tell = told.clone();
    let mut bench = Bench::new(&(), move |ctx: Ctx, (): ()| {
        let tell = tell.clone();
        async move {
            let body: Box<dyn FnMut(Step) -> SlowBody + Send> = Box::new(move |s: Step| {
                let tell = tell.clone();
                Box::pin(async move {
                    let Err(passed) = s
                        .until_soft_limit(std::future::pending::<std::convert::Infallible>())
                        .await;
                    tell.store(true, Ordering::SeqCst);
                    assert!(passed.to_string().contains("soft limit"), "{passed}");
                    std::future::pending().await
                })
            });
            with(ctx.step("slow", body)).await
        }
    });
    bench.poll();
    let ms = |span: Duration| span.as_millis() as u64;
    bench.clock.advance(ms(soft) - 1);
    bench.poll();
    assert!(!told.load(Ordering::SeqCst), "not before {soft:?}");
    bench.clock.advance(1);
    assert!(bench.poll().told_engine().is_empty() || soft == hard);
    assert!(told.load(Ordering::SeqCst), "told at {soft:?}");
    bench.clock.advance(ms(hard - soft).saturating_sub(1));
    assert!(bench.poll().told_engine().is_empty() || soft == hard);
    bench.clock.advance(1);
    let ended = bench.poll().told_engine();
    assert!(ended[0].contains("time limit"), "{ended:?}");
}

type SlowBody = BoxFuture<'static, Result<(), Failure>>;
type Slow = StepFuture<Box<dyn FnMut(Step) -> SlowBody + Send>, SlowBody, ()>;

// A41: whatever an author says or leaves out, a step has a soft and a hard limit.
#[test]
fn no_step_is_without_a_soft_and_a_hard_limit() {
    let (soft, hard) = (secs(300), secs(330));
    is_limited(|step| step, soft, hard);
    is_limited(|step| step.retry(Retry::never()), soft, hard);
    is_limited(|step| step.isolation(Isolation::process()), soft, hard);
    is_limited(|step| step.limits(secs(7), secs(9)), secs(7), secs(9));
    is_limited(|step| step.limits(secs(60), secs(9)), secs(9), secs(9));
}

// A41: a function without steps is one step, and ends like one.
#[test]
fn a_function_without_steps_has_a_hard_limit() {
    let mut bench = Bench::new(&(), |_: Ctx, (): ()| {
        std::future::pending::<Result<(), Failure>>()
    });
    bench.poll();
    bench.clock.advance(329_999);
    assert!(bench.poll().told_engine().is_empty());
    bench.clock.advance(1);
    let told = bench.poll().told_engine();
    assert!(
        told[0].contains("time limit") && told[0].ends_with("whole true"),
        "{told:?}"
    );
}
