//! Who dies when: a worker every second or so, the server twice.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::processes::{Processes, WORKERS};
use super::progress::Progress;
use super::scene_context::{SceneContext, Victim};
use super::tally::Tally;
use crate::clock;
use crate::failure::CommandError;

/// A worker dies after this many milliseconds, and again, and again.
const WORKER_EVERY_MS: std::ops::Range<u64> = 700..1_300;

/// The killer.
pub(crate) struct Killer {
    random: StdRng,
    worker_at: Option<Instant>,
    /// The server dies when this many orders have ended; the next one last.
    server_at: Vec<u64>,
}

impl Killer {
    /// One that means it.
    pub(crate) fn new(seed: u64, orders: u64) -> Self {
        let mut killer = Self {
            random: StdRng::seed_from_u64(seed),
            worker_at: None,
            server_at: vec![orders * 2 / 3, orders / 3],
        };
        killer.worker_at = Some(killer.next_worker());
        killer
    }

    /// One that does nothing.
    pub(crate) fn peaceful() -> Self {
        Self { random: StdRng::seed_from_u64(0), worker_at: None, server_at: Vec::new() }
    }

    /// Kills what is due, unless a scene holds it back.
    pub(crate) async fn strike(
        &mut self,
        processes: &mut Processes,
        context: &SceneContext,
        tally: &mut Tally,
        progress: &mut Progress,
    ) -> Result<(), CommandError> {
        let due = |at| clock::now() >= at && !context.spares(Victim::Workers);
        if self.worker_at.is_some_and(due) {
            self.worker_at = Some(self.next_worker());
            let index = self.random.random_range(0..WORKERS);
            let pid = processes.kill_worker(index).await?;
            progress.happened(format!(
                "kill -9 worker {} (process {pid}); another one has taken its place",
                index + 1
            ));
        }
        let due = |at: &u64| tally.orders_ended() >= *at && !context.spares(Victim::Server);
        if self.server_at.last().is_some_and(due) {
            self.server_at.pop();
            // A killed server forgets what it has counted.
            super::hear(&context.client, tally).await;
            let kill = processes.kill_server().await?;
            let down = clock::span(kill.down);
            progress.tell(&format!(
                "kill -9 server (process {}); started again, listening after {down}",
                kill.pid
            ));
        }
        Ok(())
    }

    fn next_worker(&mut self) -> Instant {
        clock::now() + Duration::from_millis(self.random.random_range(WORKER_EVERY_MS))
    }
}
