//! The committer: makes what the driver submitted durable, over and over, apart from it.
//!
//! It takes all that was submitted while the last sync ran, commits it as one group, tells the
//! driver how far it got, and repeats. No timer, no artificial delay: a lone batch is committed at
//! once, a crowd shares one sync. A thread in production, a task in a simulation.

use std::sync::Arc;

use stepwell_storage::{CommitFailure, Receipt, Store};
use tokio::sync::mpsc;

use super::driver::{DriverHandle, Event};

/// What the committer is asked to do.
pub(super) enum Work {
    /// Something was submitted.
    Commit,
    /// Drop a generation.
    Drop(u32),
}

/// What the committer tells.
pub(super) enum CommitterReply {
    /// Durable up to here.
    Committed(Receipt),
    /// A generation is gone.
    Dropped,
    /// Nothing more will be committed.
    Failed(CommitFailure),
}

/// Runs until the driver is gone or a commit fails.
pub(super) async fn run(
    store: Arc<dyn Store>,
    mut work: mpsc::UnboundedReceiver<Work>,
    driver: DriverHandle,
) {
    while let Some(first) = work.recv().await {
        let mut drops = Vec::new();
        let mut take = |work| {
            if let Work::Drop(generation) = work {
                drops.push(generation);
            }
        };
        take(first);
        while let Ok(more) = work.try_recv() {
            take(more);
        }
        // A large backlog is committed in several groups.
        loop {
            match store.commit().await {
                Ok(receipt) => {
                    let all = receipt.covers(store.submitted());
                    if driver.send(Event::Store(CommitterReply::Committed(receipt))).is_err() {
                        return;
                    }
                    if all {
                        break;
                    }
                }
                Err(failure) => {
                    let _ = driver.send(Event::Store(CommitterReply::Failed(failure)));
                    return;
                }
            }
        }
        for generation in drops {
            if let Err(failure) = store.drop_generation(generation).await {
                let _ = driver.send(Event::Store(CommitterReply::Failed(failure)));
                return;
            }
            if driver.send(Event::Store(CommitterReply::Dropped)).is_err() {
                return;
            }
        }
    }
}
