//! A worker process of the demo: what it runs, and how many of each at a time.

use clap::Args;
use stepwell::Worker;

use super::exports::{EXPORT, EXPORTS, export};
use super::schedule::{REPORTS, STOCK_REPORT, stock_report};
use super::shop::Shop;
use super::workflow::{CHECKOUT, ORDERS, checkout};
use crate::failure::{Answer, CommandError};
use crate::process;

/// How many orders a worker has at a time.
pub(crate) const ORDER_SLOTS: u32 = 16;
/// How many exports a worker has at a time. They take none of the orders' slots.
pub(crate) const EXPORT_SLOTS: u32 = 1;
/// How many stock reports a worker has at a time.
const REPORT_SLOTS: u32 = 1;

/// `stepwell demo-worker`: a worker process of the demo.
#[derive(Debug, Args)]
pub(crate) struct DemoWorker {
    /// The server's address
    #[arg(long, value_name = "ADDR")]
    server: String,
    /// The provider's address
    #[arg(long, value_name = "ADDR")]
    provider: String,
}

impl DemoWorker {
    /// Works until the parent is gone.
    pub(crate) async fn execute(self) -> Result<Answer, CommandError> {
        let shop = Shop::new(self.provider);
        let reporter = shop.clone();
        let worker = Worker::connect(&self.server)
            .build("demo")
            .register(CHECKOUT, move |ctx, order| checkout(shop.clone(), ctx, order))
            .register(EXPORT, export)
            .register(STOCK_REPORT, move |ctx, shelf| stock_report(reporter.clone(), ctx, shelf))
            .queue(ORDERS, ORDER_SLOTS)
            .queue(EXPORTS, EXPORT_SLOTS)
            .queue(REPORTS, REPORT_SLOTS)
            .start()
            .map_err(|e| CommandError::fault("the worker does not start").caused_by(&e))?;
        process::lifeline_cut().await;
        worker.drain().await;
        Ok(Answer::Yes)
    }
}
