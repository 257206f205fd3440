//! Runs memoized steps. A result tells which body came to it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use stepwell::{Ctx, Failure, RunId, Step, join_all};

use crate::outside::Outside;
use crate::plan::Shared;

/// A result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Found {
    /// What the outside world answered under the key.
    pub(crate) value: u64,
    /// The run whose body it was.
    pub(crate) by: RunId,
    /// Its step.
    pub(crate) number: u32,
    /// And which attempt.
    pub(crate) attempt: u32,
}

pub(super) async fn shared(
    ctx: Ctx,
    input: Shared,
    outside: Outside,
) -> Result<Vec<Found>, Failure> {
    let rest = Duration::from_millis(input.rest_ms);
    let ask = |key: &String| {
        let (outside, request) = (outside.clone(), key.clone());
        ctx.memoize(key.clone(), move |step| find(outside.clone(), step, request.clone(), rest))
            .retry(super::retry())
            .soft_timeout(super::HARD)
            .timeout(super::HARD)
    };
    let mut found = Vec::new();
    if input.at_once {
        let asked: Vec<_> = input.keys.iter().map(ask).collect();
        for each in join_all(asked).await {
            found.push(each?);
        }
        return Ok(found);
    }
    for key in &input.keys {
        found.push(ask(key).await?);
    }
    Ok(found)
}

async fn find(
    outside: Outside,
    step: Step,
    request: String,
    rest: Duration,
) -> Result<Found, Failure> {
    outside.finds(&step);
    let (by, number, attempt) = (step.run(), step.number().0, step.attempt());
    outside.rest(rest).await;
    let value = super::call_for(super::MEMO, outside.clone(), step, request).await?;
    Ok(Found { value, by, number, attempt })
}
