//! `stepwell demo`: a shop under fire.
//!
//! ```text
//!   orders.csv ─► this process ──starts──► server ◄──turns──► worker 1..3
//!                      │  kill -9 (twice)  ──▲                  ▲   │
//!                      │  kill -9 (every second or so) ─────────┘   │
//!                      └─ provider: payments and mails ◄────HTTP────┘
//! ```
//!
//! The server and the workers are real processes, the kills are real kills. At the end every order is audited: its
//! run, its journal, and the provider's books.

mod audit;
mod feeder;
mod killer;
pub(crate) mod orders;
mod processes;
mod progress;
mod provider;
mod report;
mod tally;
mod workflow;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use stepwell::Client;
use tempfile::TempDir;

pub(crate) use workflow::DemoWorker;

use crate::clock;
use crate::failure::{Answer, CommandError};
use crate::quantity::counted;
use crate::reach;
use crate::terminal::Terminal;
use feeder::Feeder;
use killer::Killer;
use orders::Order;
use processes::{Processes, WORKERS};
use progress::Progress;
use provider::Provider;
use tally::Tally;

/// How often things are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How long the server may take to answer a question.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Without a single order ended for this long, the demo gives up.
const STUCK_AFTER: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// A CSV file of orders; 2,000 orders are shipped
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Keep the data here; must be empty [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Leave the data directory for `stepwell run show`
    #[arg(long)]
    keep: bool,
    /// Take only the first N orders
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    orders: Option<u32>,
    /// What to kill when, and when the provider fails
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Kill nothing
    #[arg(long)]
    no_kills: bool,
}

impl Demo {
    pub(crate) async fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        let orders = orders::read(self.input.as_deref(), self.orders.map(|n| n as usize))?;
        let place = Place::make(self.data.clone(), self.keep)?;
        tokio::select! {
            ended = self.run(&place, &orders, terminal) => ended,
            _ = tokio::signal::ctrl_c() => Err(CommandError::interrupted()),
        }
    }

    async fn run(
        &self,
        place: &Place,
        orders: &[Order],
        terminal: Terminal,
    ) -> Result<Answer, CommandError> {
        let provider = Provider::start(self.seed).await?;
        let mut processes = Processes::start(&place.data, &place.logs, &provider.address).await?;
        terminal.note(format!(
            "{}, {WORKERS} workers, server on {}, data in {}",
            counted(orders.len() as u64, "order", "orders"),
            processes.address,
            place.data.display()
        ));
        let mut tally = Tally::default();
        let mut progress = Progress::begin(terminal, orders.len() as u64);
        let killer = if self.no_kills {
            Killer::peaceful()
        } else {
            Killer::new(self.seed, orders.len() as u64)
        };
        work(&mut processes, orders, killer, &mut tally, &mut progress).await?;
        let elapsed = progress.elapsed();
        progress.end();
        terminal.note("");

        let client = reach::connect(&processes.address).await?;
        let mut report = audit::audit(&client, orders, &provider.ledger()).await?;
        (report.counts, report.kills, report.seconds) =
            (tally.counts(), processes.kills, elapsed.as_secs_f64());
        drop(client);
        processes.close().await?;
        terminal.data(&report.json(), || report.text())?;
        if self.keep {
            let (dir, order) = (place.data.display(), &orders[0].order_id);
            terminal.note(format!("\nthe data is in {dir}; look at an order with\n  stepwell run show {order} --data {dir}"));
        }
        Ok(if report.is_kept() {
            Answer::Yes
        } else {
            Answer::No
        })
    }
}

/// Until every order has ended, or nothing moves any more.
async fn work(
    processes: &mut Processes,
    orders: &[Order],
    mut killer: Killer,
    tally: &mut Tally,
    progress: &mut Progress,
) -> Result<(), CommandError> {
    // One client through all lives of the server: it connects again by itself.
    let client = reach::connect(&processes.address)
        .await?
        .limit(ANSWER_WITHIN);
    let mut feeder = Feeder::start(client.clone(), orders.to_vec());
    let (mut ended, mut moved_at) = (0, clock::now());
    loop {
        tokio::time::sleep(TICK).await;
        ask(&client, tally).await;
        progress.show(tally, processes.kills, feeder.started());
        feeder.check().await?;
        processes.check()?;
        if tally.ended() >= orders.len() as u64 {
            return Ok(());
        }
        if tally.ended() > ended {
            (ended, moved_at) = (tally.ended(), clock::now());
        }
        if clock::now().duration_since(moved_at) > STUCK_AFTER {
            progress.tell(&format!(
                "no order has ended for {}: giving up",
                clock::span(STUCK_AFTER)
            ));
            return Ok(());
        }
        killer.strike(processes, &client, tally, progress).await?;
    }
}

/// Asks for the server's counts, if it answers just now.
async fn ask(client: &Client, tally: &mut Tally) {
    if let Ok(stats) = client.stats().await {
        tally.heard(stats);
    }
}

/// Where the server keeps its data and all processes write their logs.
struct Place {
    data: PathBuf,
    logs: PathBuf,
    /// Removed with it.
    _temporary: Option<TempDir>,
}

impl Place {
    fn make(data: Option<PathBuf>, keep: bool) -> Result<Self, CommandError> {
        let fault = |e: std::io::Error| {
            CommandError::fault("there is no room for the demo's data").caused_by(&e)
        };
        let temporary = tempfile::Builder::new()
            .prefix("stepwell-demo-")
            .tempdir()
            .map_err(fault)?;
        let (home, temporary) = if keep && data.is_none() {
            (temporary.keep(), None)
        } else {
            (temporary.path().to_owned(), Some(temporary))
        };
        let data = match data {
            Some(data) => {
                empty(&data)?;
                data
            }
            None => home.join("data"),
        };
        let logs = home.join("logs");
        for dir in [&data, &logs] {
            std::fs::create_dir_all(dir).map_err(fault)?;
        }
        Ok(Self {
            data,
            logs,
            _temporary: temporary,
        })
    }
}

/// Refuses a directory with something in it: runs of an earlier demo would be found instead of started.
fn empty(dir: &Path) -> Result<(), CommandError> {
    let is_empty = std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
    if is_empty || !dir.exists() {
        return Ok(());
    }
    Err(CommandError::bad_input(format!("{} is not an empty directory", dir.display()))
        .hint("the demo's runs are named after its orders: those of an earlier demo would be found instead of started"))
}
