//! A bulk handler: items that come together are handled in one call, each with an outcome of its
//! own. And what follows a batch of runs.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use serde::{Deserialize, Serialize};
use stepwell::{BatchEnded, BulkPolicy, Ctx, Failure, Item, Retry};

use super::checkout::DECLINED;
use super::{CALL, HARD};
use crate::outside::{CallError, Outside};

/// Items handled in one call.
const ITEMS_MAX: u32 = 4;
/// How long a call waits for more of them.
const WAIT_MAX: Duration = Duration::from_millis(200);

/// The input of an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ItemInput {
    /// What is done for it.
    pub(crate) value: u64,
    /// Attempts that fail before one succeeds.
    pub(crate) failures: u32,
    /// It fails for good.
    pub(crate) doomed: bool,
}

/// How wrong the number of outcomes is of a call with an item that is in it for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Miscount {
    TooFew,
    TooMany,
}

impl ItemInput {
    /// What an item does to its first call, whatever else is in it.
    pub(crate) fn miscounts(&self) -> Option<Miscount> {
        match self.value % 8 {
            1 => Some(Miscount::TooFew),
            5 => Some(Miscount::TooMany),
            _ => None,
        }
    }
}

/// What the run answers that follows a batch: all that it was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Follow {
    pub(crate) batch: String,
    pub(crate) total: u64,
    pub(crate) ended: (u64, u64, u64),
    pub(crate) salt: u64,
}

/// A call may fail as a whole, by each of its items: there are retries for all of that.
pub(super) fn policy() -> BulkPolicy {
    BulkPolicy::new(ITEMS_MAX, WAIT_MAX)
        .soft_timeout(HARD)
        .timeout(HARD)
        .retry(Retry::fixed(Duration::from_millis(200)).retries(60))
}

/// One call for each item, one after the other, in the order in which they came.
pub(super) async fn handle(
    items: Vec<Item<ItemInput>>,
    outside: Outside,
) -> Vec<Result<u64, Failure>> {
    outside.handles(items.iter().map(|item| (item.run(), item.attempt())));
    let firsts = items.iter().filter(|item| item.attempt() == 1);
    let miscount = firsts.filter_map(|item| item.input.miscounts()).next();
    let calls = items.into_iter().map(|item| one(item, outside.clone()));
    let mut outcomes = futures_util::future::join_all(calls).await;
    match miscount {
        Some(Miscount::TooFew) => drop(outcomes.pop()),
        Some(Miscount::TooMany) => outcomes.push(Ok(0)),
        None => {}
    }
    outcomes
}

async fn one(item: Item<ItemInput>, outside: Outside) -> Result<u64, Failure> {
    if item.input.doomed {
        return Err(Failure::terminal("the item is doomed").class(DECLINED));
    }
    if item.attempt() <= item.input.failures {
        return Err(Failure::retryable("not yet"));
    }
    let request = format!("item {:016x}", item.input.value);
    let call = outside.call(CALL, item.key(), &request);
    // Half of the panics of the world are the handler's own, the others those of one item.
    let called = match item.input.value.is_multiple_of(2) {
        true => Ok(call.await),
        false => AssertUnwindSafe(call).catch_unwind().await,
    };
    match called {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(CallError::Wrong(problem))) => Err(Failure::terminal(problem)),
        Ok(Err(error)) => Err(Failure::retryable(error).class("provider")),
        Err(_) => Err(Failure::retryable("the item panicked")),
    }
}

pub(super) async fn follow(_ctx: Ctx, ended: BatchEnded<u64>) -> Result<Follow, Failure> {
    Ok(Follow {
        batch: ended.batch,
        total: ended.total,
        ended: (ended.completed, ended.dead, ended.cancelled),
        salt: ended.input,
    })
}
