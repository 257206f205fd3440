//! The slow work beside the orders: exports, page after page, in a queue with slots of its own.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use stepwell::{Ctx, Failure, Workflow};

use super::scene_context::SceneContext;
use crate::failure::CommandError;

/// The queue of the exports.
pub(crate) const EXPORTS: &str = "exports";
/// One export of the order book.
pub(crate) const EXPORT: Workflow<Export, u64> = Workflow::new("export").queue(EXPORTS);

/// Pages of one export, a step each. Short ones: what a kill undoes is one page, not one export.
pub(crate) const PAGES: u64 = 80;
/// Rows of a page.
pub(crate) const PAGE_ROWS: u64 = 25;
/// How long a page takes.
const PAGE: Duration = Duration::from_millis(10);
/// Exports for each second in which orders come in: a backlog, but one that is gone when the last
/// order is.
const EXPORTS_PER_S: f64 = 1.8;

/// Which export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Export {
    /// One of so many parts of the order book.
    pub(crate) part: u64,
}

/// Writes page after page. Returns how many rows there are.
pub(crate) async fn export(ctx: Ctx, _: Export) -> Result<u64, Failure> {
    let mut rows = 0;
    for _ in 0..PAGES {
        rows += ctx
            .step("page", |_| async {
                tokio::time::sleep(PAGE).await;
                Ok::<_, Failure>(PAGE_ROWS)
            })
            .await?;
    }
    Ok(rows)
}

/// How many exports there are while orders come in for so long.
pub(crate) fn count_beside(orders_take: Duration) -> u64 {
    (orders_take.as_secs_f64() * EXPORTS_PER_S).ceil() as u64
}

/// The name of an export's run.
pub(crate) fn name_of(part: u64) -> String {
    format!("export/{part:03}")
}

/// Starts all of them at once.
pub(crate) async fn start(context: &SceneContext, count: u64) -> Result<(), CommandError> {
    let runs: Vec<_> = (1..=count).map(|part| (Some(name_of(part)), Export { part })).collect();
    let answers = context
        .insist(|client| {
            let runs = runs.clone();
            async move { client.start_many(EXPORT, runs).await }
        })
        .await?;
    match answers.into_iter().find_map(Result::err) {
        Some(refusal) => Err(CommandError::refused(&refusal)),
        None => Ok(()),
    }
}
