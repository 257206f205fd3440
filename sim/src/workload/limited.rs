//! A step whose attempts do what their run's input says, one after the other: fail, come later,
//! hang, clean up.

use std::time::Duration;

use stepwell::{Ctx, Failure, Step};

use crate::outside::Outside;
use crate::plan::{Behavior, Limited};

/// The class of an attempt that was planned to fail.
pub(crate) const PLANNED: &str = "planned";
/// The class of an attempt that cleaned up.
pub(crate) const CLEANED: &str = "cleaned up";

pub(super) async fn limited(ctx: Ctx, input: Limited, outside: Outside) -> Result<u64, Failure> {
    let (soft, hard) = (Duration::from_millis(input.soft_ms), Duration::from_millis(input.hard_ms));
    let deeds = &input.deeds;
    ctx.step("limited", |step| attempt(outside.clone(), step, deeds, (soft, hard)))
        .retry(input.retry)
        .soft_timeout(soft)
        .timeout(hard)
        .await
}

async fn attempt(
    outside: Outside,
    step: Step,
    deeds: &[Behavior],
    (soft, hard): (Duration, Duration),
) -> Result<u64, Failure> {
    let nth = step.attempt() as usize;
    let Some(deed) = deeds.get(nth - 1) else {
        return super::call(outside, step, "limited".to_owned(), hard).await;
    };
    // The others do not listen.
    let soft = matches!(deed, Behavior::CleansUp { .. }).then_some(soft);
    let mut watch = outside.watches(&step, soft, hard);
    match *deed {
        Behavior::Fails => Err(Failure::retryable("so it was planned").class(PLANNED)),
        Behavior::ComesLater { after_ms } => {
            let after = Duration::from_millis(after_ms);
            Err(Failure::retry_after(after, "come back later"))
        }
        Behavior::Hangs => std::future::pending().await,
        Behavior::CleansUp { takes_ms } => {
            let Err(passed) =
                step.until_soft_timeout(std::future::pending::<std::convert::Infallible>()).await;
            watch.told();
            outside.rest(Duration::from_millis(takes_ms)).await;
            watch.cleaned();
            Err(Failure::from(passed).class(CLEANED))
        }
    }
}
