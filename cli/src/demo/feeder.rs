//! Orders come in one after the other, as they do in a shop, also while the server is dead.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use stepwell::Client;
use tokio::task::JoinHandle;

use super::orders::Order;
use super::workflow::CHECKOUT;
use crate::clock;
use crate::failure::CommandError;

/// How many orders a second, as long as that takes neither too short nor too long.
const ORDERS_PER_S: f64 = 45.0;
/// All orders come in within at least this long: shorter, and there would be nothing to kill.
const SPREAD_MIN: Duration = Duration::from_secs(8);
/// All orders come in within at most this long.
const SPREAD_MAX: Duration = Duration::from_secs(45);
/// How often orders that arrived are started.
const TICK: Duration = Duration::from_millis(50);
/// At most this many starts in one call.
const BATCH: usize = 1_000;

/// How long it takes until all of so many orders have come in.
pub(crate) fn spread(orders: usize) -> Duration {
    Duration::from_secs_f64(orders as f64 / ORDERS_PER_S).clamp(SPREAD_MIN, SPREAD_MAX)
}

/// Starts runs in the background.
#[derive(Debug)]
pub(crate) struct Feeder {
    started: Arc<AtomicU64>,
    task: JoinHandle<Result<(), CommandError>>,
}

impl Feeder {
    /// Starts all `orders`, one after the other, on the server that `client` reaches.
    pub(crate) fn start(client: Client, orders: Vec<Order>) -> Self {
        let started = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(feed(client, orders, started.clone()));
        Self { started, task }
    }

    /// How many starts were acknowledged.
    pub(crate) fn started(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }

    /// What made it give up, if something did.
    pub(crate) async fn check(&mut self) -> Result<(), CommandError> {
        if self.task.is_finished()
            && let Ok(result) = (&mut self.task).await
        {
            self.task = tokio::spawn(async { Ok(()) });
            return result;
        }
        Ok(())
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn feed(
    client: Client,
    orders: Vec<Order>,
    started: Arc<AtomicU64>,
) -> Result<(), CommandError> {
    let spread = spread(orders.len());
    let begin = clock::now();
    let mut next = 0;
    while next < orders.len() {
        tokio::time::sleep(TICK).await;
        let elapsed = clock::now().duration_since(begin).as_secs_f64() / spread.as_secs_f64();
        let due =
            ((orders.len() as f64 * elapsed) as usize).clamp(next, orders.len()).min(next + BATCH);
        if due > next && start_all(&client, &orders[next..due]).await? {
            next = due;
            started.store(next as u64, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Starts these orders; `false` if that is unknown, and to be tried again: the names make it
/// harmless.
async fn start_all(client: &Client, orders: &[Order]) -> Result<bool, CommandError> {
    let runs = orders.iter().map(|order| (Some(order.order_id.clone()), order.clone())).collect();
    let Ok(answers) = client.start_many(CHECKOUT, runs).await else {
        return Ok(false);
    };
    match answers.into_iter().find_map(Result::err) {
        Some(refusal) => Err(CommandError::refused(&refusal)),
        None => Ok(true),
    }
}
