//! What the scenes of the demo share: a client, a way to say something, and a hand on the killer's
//! arm.

use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use stepwell::model::entry::Entry;
use stepwell::{Client, ClientError, Outcome, Refusal, RunId};
use tokio::sync::mpsc;

use crate::clock;
use crate::connection;
use crate::failure::CommandError;

/// How long a question is asked again while the server is dead.
const INSIST: Duration = Duration::from_secs(60);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(50);

/// Who may be spared for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Victim {
    /// The server.
    Server,
    /// All workers.
    Workers,
}

/// The stage, cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct SceneContext {
    /// Reaches the server in all its lives.
    pub(crate) client: Client,
    told: mpsc::UnboundedSender<String>,
    server: Arc<AtomicBool>,
    workers: Arc<AtomicBool>,
}

/// A victim is not killed while this lives: a scene is measuring.
#[derive(Debug)]
pub(crate) struct Spared(Arc<AtomicBool>);

impl Drop for Spared {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl SceneContext {
    /// A stage, and what is told on it.
    pub(crate) fn new(client: Client) -> (Self, mpsc::UnboundedReceiver<String>) {
        let (told, heard) = mpsc::unbounded_channel();
        let context = Self { client, told, server: Arc::default(), workers: Arc::default() };
        (context, heard)
    }

    /// Says something that stays on the screen.
    pub(crate) fn tell(&self, what: impl Display) {
        // Nobody listens any more once the demo is over.
        let _ = self.told.send(what.to_string());
    }

    fn flag(&self, victim: Victim) -> &Arc<AtomicBool> {
        match victim {
            Victim::Server => &self.server,
            Victim::Workers => &self.workers,
        }
    }

    /// Holds the killer back from a victim. One scene at a time does.
    pub(crate) fn spare(&self, victim: Victim) -> Spared {
        let flag = self.flag(victim).clone();
        flag.store(true, Ordering::Relaxed);
        Spared(flag)
    }

    /// Whether the killer is held back from a victim.
    pub(crate) fn spares(&self, victim: Victim) -> bool {
        self.flag(victim).load(Ordering::Relaxed)
    }

    /// Asks until there is an answer: the server may be dead just now. What is asked must be
    /// harmless when repeated.
    pub(crate) async fn insist<T, F>(&self, ask: impl Fn(Client) -> F) -> Result<T, CommandError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let begin = clock::now();
        loop {
            match ask(self.client.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(error @ ClientError::Refused(_)) => return Err(connection::asked(&error)),
                Err(error) if clock::now().duration_since(begin) > INSIST => {
                    return Err(connection::asked(&error));
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// How a run ended, or that it has not, and its journal; none if there is no such run.
    pub(crate) async fn run(
        &self,
        id: RunId,
    ) -> Result<Option<(Outcome, Vec<Entry>)>, CommandError> {
        self.insist(|client| async move {
            match client.outcome(id, false).await {
                Ok(outcome) => Ok(Some((outcome, client.journal(id).await?))),
                Err(ClientError::Refused(Refusal::NoSuchRun(_))) => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
    }
}
