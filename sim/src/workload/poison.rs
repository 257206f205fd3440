//! Runs that die: of a step that fails for good, of retries used up, of their own code, of workers
//! that they kill, of an input that nobody can read, of a workflow that nobody knows. Operators
//! edit, redrive and discard them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use stepwell::{Ctx, Failure, Retry};

use super::{HARD, call, retry};
use crate::draw::hash;
use crate::outside::{CallError, Outside};
use crate::plan::{Ill, Poison};

/// The class of all failures that the plan of a poison run says.
pub(crate) const POISONED: &str = "poisoned";
/// The effect before which the script kills workers.
pub(crate) const KILL: &str = "kill";

/// What a poison run answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dose {
    /// Of the input it was run with in the end.
    pub(crate) salt: u64,
    /// What its steps were answered.
    pub(crate) before: Vec<u64>,
    pub(crate) critical: u64,
}

fn poisoned(text: &str) -> Failure {
    Failure::terminal(text).class(POISONED)
}

pub(super) async fn poison(ctx: Ctx, input: Poison, outside: Outside) -> Result<Dose, Failure> {
    let mut before = Vec::new();
    for n in 0..input.before {
        let step =
            ctx.step("before", |step| call(outside.clone(), step, format!("before {n}"), HARD));
        before.push(step.retry(retry()).soft_timeout(HARD).timeout(HARD).await?);
    }
    let beside = ctx
        .step("beside", |step| call(outside.clone(), step, "beside".to_owned(), HARD))
        .retry(retry())
        .soft_timeout(HARD)
        .timeout(HARD);
    let critical = critical(&ctx, &input, &outside);
    let (beside, critical) = stepwell::join!(beside, critical);
    before.push(beside?);
    let critical = match critical {
        Ok(critical) => critical,
        Err(failure) if input.ill == Ill::Compensates => {
            let step =
                ctx.step("undo", |step| call(outside.clone(), step, "undo".to_owned(), HARD));
            step.retry(retry()).soft_timeout(HARD).timeout(HARD).await?;
            return Err(failure);
        }
        Err(failure) => return Err(failure),
    };
    if input.ill == Ill::Own && !input.cured {
        return Err(poisoned("its own code fails"));
    }
    Ok(Dose { salt: input.salt, before, critical })
}

async fn critical(ctx: &Ctx, input: &Poison, outside: &Outside) -> Result<u64, Failure> {
    let step = ctx.step("critical", |step| {
        let outside = outside.clone();
        async move {
            let ill = !input.cured && outside.now_ms() < input.heals_at_ms;
            match input.ill {
                Ill::Terminal | Ill::Compensates if ill => return Err(poisoned("it never works")),
                Ill::Retries if ill => {
                    return Err(Failure::retryable("it does not work yet").class(POISONED));
                }
                Ill::Killer if !input.cured => {
                    let answer = outside.call(KILL, step.key(), "kill").await;
                    answer.map_err(|error| match error {
                        CallError::NoAnswer { .. } => Failure::retryable(error).class("provider"),
                        CallError::Wrong(problem) => Failure::terminal(problem),
                    })?;
                }
                _ => {}
            }
            call(outside, step, "critical".to_owned(), HARD).await
        }
    });
    let retry = match input.ill {
        // So few retries that the provider's own failures may use them up.
        Ill::Retries => Retry::fixed(Duration::from_millis(150)).retries(2),
        _ => retry(),
    };
    step.retry(retry).soft_timeout(HARD).timeout(HARD).await
}

/// The workflow that only the second version of the code knows.
pub(super) async fn orphan(ctx: Ctx, salt: u64, outside: Outside) -> Result<u64, Failure> {
    let step = ctx.step("late", |step| call(outside.clone(), step, "late".to_owned(), HARD));
    let value = step.retry(retry()).soft_timeout(HARD).timeout(HARD).await?;
    Ok(orphan_expected(salt, value))
}

pub(crate) fn orphan_expected(salt: u64, value: u64) -> u64 {
    hash(salt, format_args!("late {value}"))
}
