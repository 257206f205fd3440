//! A checkout: concurrent steps, a charge that may be declined, sleeps, a wait with a limit, mails,
//! compensation.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use stepwell::{Ctx, Failure};

use super::{ASK, CHECKOUT, HARD, effect_of, retry};
use crate::outside::Outside;
use crate::plan::Order;

/// The class of a declined charge.
pub(crate) const DECLINED: &str = "declined";

/// What a checkout answers: all that it saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Receipt {
    pub(crate) reserved: u64,
    pub(crate) quoted: u64,
    pub(crate) charged: u64,
    /// What the customer said, if in time.
    pub(crate) answer: Option<u64>,
    pub(crate) mails: Vec<u64>,
    /// Derived values must be the same in every replay.
    pub(crate) now: u64,
    pub(crate) random: u64,
}

pub(super) async fn checkout(ctx: Ctx, order: Order, outside: Outside) -> Result<Receipt, Failure> {
    let call = |name, request| call(&ctx, &outside, name, request);
    let (reserved, quoted) = stepwell::join!(
        call("reserve", "reserve".to_owned()),
        call("quote", format!("quote {}", order.cents))
    );
    let (reserved, quoted) = (reserved?, quoted?);
    let charged = match charge(&ctx, &order, &outside).await {
        Ok(charged) => charged,
        Err(failure) => {
            call("release", format!("release {reserved:016x}")).await?;
            return Err(failure);
        }
    };
    match deliver(&ctx, &order, &outside).await {
        Ok((answer, mails)) => {
            let (now, random) = (ctx.now().0, ctx.random());
            Ok(Receipt { reserved, quoted, charged, answer, mails, now, random })
        }
        Err(failure) => {
            call("refund", format!("refund {charged:016x}")).await?;
            Err(failure)
        }
    }
}

async fn charge(ctx: &Ctx, order: &Order, outside: &Outside) -> Result<u64, Failure> {
    let charge = ctx.step("charge", |step| {
        let outside = outside.clone();
        async move {
            if order.declined {
                return Err(Failure::terminal("the card is declined").class(DECLINED));
            }
            super::call(outside, step, format!("charge {}", order.cents), HARD).await
        }
    });
    charge.retry(retry()).soft_timeout(HARD).timeout(HARD).await
}

async fn deliver(
    ctx: &Ctx,
    order: &Order,
    outside: &Outside,
) -> Result<(Option<u64>, Vec<u64>), Failure> {
    ctx.sleep(Duration::from_millis(order.wait_ms)).await?;
    let answer = stepwell::select! {
        answer = call(ctx, outside, ASK, ASK.to_owned()) => Some(answer?),
        slept = ctx.sleep(Duration::from_millis(order.patience_ms)) => {
            slept?;
            None
        }
    };
    let mails = (0..order.mails).map(|n| call(ctx, outside, "mail", format!("mail {n}"))).collect();
    let mails =
        stepwell::join_all(mails).await.into_iter().collect::<Result<Vec<u64>, Failure>>()?;
    Ok((answer, mails))
}

/// A step that calls the outside world.
fn call<'a>(
    ctx: &'a Ctx,
    outside: &'a Outside,
    name: &'static str,
    request: String,
) -> impl Future<Output = Result<u64, Failure>> + Send + 'a {
    ctx.step(name, move |step| {
        let effect = effect_of(CHECKOUT.name(), name);
        super::call_for(effect, outside.clone(), step, request.clone())
    })
    .retry(retry())
    .soft_timeout(HARD)
    .timeout(HARD)
}
