//! `stepwell demo`: a shop under fire.
//!
//! ```text
//!   orders.csv ─► this process ──starts──► server ◄──turns──► worker 1..3
//!                      │  kill -9 (twice)  ──▲                  ▲   │
//!                      │  kill -9 (every second or so) ─────────┘   │
//!                      └─ provider: payments and mails ◄────HTTP────┘
//! ```
//!
//! The server and the workers are real processes, the kills are real kills. Meanwhile slow exports
//! go through a queue of their own, an urgent order overtakes many others, one order becomes a dead
//! letter and is repaired, and a schedule fires. At the end every order is reconciled: its run, its
//! journal, and the provider's books; and each of those scenes.

mod dead_letter;
mod directories;
mod exports;
mod feeder;
mod killer;
pub(crate) mod orders;
mod processes;
mod progress;
mod promise;
mod provider;
mod queue_facts;
mod queue_time;
mod reconcile;
mod report;
mod roles;
mod scene_context;
mod scenes;
mod schedule;
mod sections;
mod shop;
mod tally;
mod urgent;
mod worker;
mod workflow;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use stepwell::Client;
use tokio::sync::mpsc::UnboundedReceiver;

pub(crate) use worker::DemoWorker;

use crate::clock;
use crate::connection;
use crate::failure::{Answer, CommandError};
use crate::quantity::counted;
use crate::terminal::Terminal;
use directories::Directories;
use feeder::Feeder;
use killer::Killer;
use orders::Order;
use processes::{Processes, WORKERS};
use progress::Progress;
use provider::Provider;
use roles::Roles;
use scene_context::SceneContext;
use scenes::{Played, Scenes};
use tally::Tally;
use worker::EXPORT_SLOTS;

/// How often things are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How long the server may take to answer a question.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Without a single order or export ended for this long, the demo gives up.
const STUCK_AFTER: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// A CSV file of orders [default: 2,000 built-in orders]
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
        let stop = crate::process::told_to_stop();
        let directories = Directories::make(self.data.clone(), self.keep)?;
        tokio::select! {
            ended = self.run(&directories, &orders, terminal) => ended,
            () = stop => Err(CommandError::interrupted()),
        }
    }

    async fn run(
        &self,
        directories: &Directories,
        orders: &[Order],
        terminal: Terminal,
    ) -> Result<Answer, CommandError> {
        let provider = Provider::start(self.seed).await?;
        let mut processes =
            Processes::start(&directories.data, &directories.logs, &provider.address).await?;
        terminal.note(format!(
            "{}, {WORKERS} workers, server on {}, data in {}",
            counted(orders.len() as u64, "order", "orders"),
            processes.address,
            directories.data.display()
        ));
        let mut shop = Shopping {
            roles: Roles::of(orders),
            killer: match self.no_kills {
                true => Killer::peaceful(),
                false => Killer::new(self.seed, orders.len() as u64),
            },
            tally: Tally::default(),
            progress: Progress::begin(terminal, orders.len() as u64),
            orders: orders.len() as u64,
        };
        // One client through all lives of the server: it connects again by itself.
        let client = connection::connect(&processes.address).await?;
        let (context, heard) = SceneContext::new(client.timeout(ANSWER_WITHIN));
        let played = shop.work(&mut processes, &context, heard).await?;
        let elapsed = shop.progress.elapsed();
        shop.progress.end();
        terminal.note("");

        let mut report =
            reconcile::reconcile(&context, orders, &shop.roles, played, &provider.ledger()).await?;
        (report.counts, report.kills, report.seconds) =
            (shop.tally.counts(), processes.kills, elapsed.as_secs_f64());
        drop(context);
        processes.close().await?;
        terminal.data(&report.json(), || report.text())?;
        if self.keep {
            let (dir, order) = (directories.data.display(), &orders[0].order_id);
            terminal.note(format!("\nthe data is in {dir}; look at an order with\n  stepwell run show {order} --data {dir}"));
        }
        Ok(if report.is_kept() { Answer::Yes } else { Answer::No })
    }
}

/// The demo while it goes on.
struct Shopping {
    roles: Roles,
    killer: Killer,
    tally: Tally,
    progress: Progress,
    orders: u64,
}

impl Shopping {
    /// Until every order and every export has ended and every scene is over, or nothing moves any
    /// more.
    async fn work(
        &mut self,
        processes: &mut Processes,
        context: &SceneContext,
        mut heard: UnboundedReceiver<String>,
    ) -> Result<Played, CommandError> {
        let schedule = schedule::set(context).await?;
        let exports = exports::count_beside(feeder::spread(self.orders as usize));
        exports::start(context, exports).await?;
        self.tally = Tally::new(exports);
        self.progress.tell(&format!(
            "{} queued for {} slots of their own; a stock report every {} s",
            counted(exports, "export", "exports"),
            WORKERS as u32 * EXPORT_SLOTS,
            schedule::EVERY.as_secs()
        ));
        let mut feeder = Feeder::start(context.client.clone(), self.roles.coming.clone());
        let mut scenes = Scenes::begin(context, &self.roles);
        let (mut ended, mut moved_at) = (0, clock::now());
        loop {
            tokio::time::sleep(TICK).await;
            scenes.look(context, &self.roles, feeder.started()).await?;
            let (started, over) = (feeder.started() + scenes.started(), scenes.are_over());
            let is_heard = see(&context.client, &mut self.tally, started).await;
            self.progress.show(&self.tally, processes.kills);
            self.tell(&mut heard);
            feeder.check().await?;
            processes.check()?;
            if is_heard && over && self.tally.all_ended(self.orders) {
                break;
            }
            let ended_now = self.tally.orders_ended() + self.tally.exports_ended();
            if ended_now > ended {
                (ended, moved_at) = (ended_now, clock::now());
            }
            if clock::now().duration_since(moved_at) > STUCK_AFTER {
                let span = clock::span(STUCK_AFTER);
                self.progress.tell(&format!("nothing has ended for {span}: giving up"));
                break;
            }
            self.killer.strike(processes, context, &mut self.tally, &mut self.progress).await?;
        }
        let times = schedule::end(context, schedule).await?;
        see(&context.client, &mut self.tally, self.orders).await;
        self.tell(&mut heard);
        Ok(scenes.played(exports, times, self.tally.standstills()))
    }

    /// What scenes have said.
    fn tell(&self, heard: &mut UnboundedReceiver<String>) {
        while let Ok(line) = heard.try_recv() {
            self.progress.tell(&line);
        }
    }
}

/// Asks for the server's counts and gauges; `false` if it does not answer just now.
async fn see(client: &Client, tally: &mut Tally, started: u64) -> bool {
    let heard = hear(client, tally).await;
    match client.queues().list().await {
        Ok(queues) => tally.saw(queues, started),
        Err(_) => return false,
    }
    heard
}

/// Asks for the server's counts; `false` if it does not answer just now.
async fn hear(client: &Client, tally: &mut Tally) -> bool {
    match client.stats().await {
        Ok(stats) => {
            tally.heard(stats);
            true
        }
        Err(_) => false,
    }
}
