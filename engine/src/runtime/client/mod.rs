//! The client: starts runs, asks about them, stops them.
//!
//! All calls of a client and its clones share one connection, on which calls carry numbers.
//! After a reconnect, what has no answer is sent again as the same request; starts are idempotent
//! by run id, operator requests by their request id, cancel and resume by what they ask for. So
//! nothing is lost or done twice, and a call ends with an answer, a refusal, or within its time
//! limit.

mod batch;
pub mod dead;
mod error;
pub(crate) mod get_or_run;
mod pending_requests;
mod queues;
mod run;
mod schedule;
mod start;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

pub use self::batch::{BatchBuilder, BatchCancelled, BatchStarted};
pub use self::error::{ClientError, RunError};
use self::pending_requests::{ClientPeer, PendingRequests};
pub use self::queues::Queues;
pub use self::run::Run;
pub use self::schedule::{Filled, ScheduleBuilder, ScheduleSet, Schedules};
pub use self::start::{StartBuilder, StartMany};
use super::env::Env;
use super::link::{Dial, NetDial};
use super::session::{PeerSession, SessionError, within};
use crate::model::entry::Entry;
use crate::model::id::{Namespace, ProcessInstance, RequestId, RunId};
use crate::model::request::{Caller, ListRuns};
use crate::model::run::{Outcome, RunSummary, Stats};
use crate::wire::message::{
    AskDead, AskJournal, AskList, AskOutcome, AskStats, AskStatus, Cancel, Message, Resume,
};

/// How long a call may take unless told otherwise. Waiting for an outcome has no timeout.
pub const CALL_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// Entries asked for at once.
const JOURNAL_PAGE: u32 = 1_000;

/// Starts runs and asks about them. Cheap to clone; the clones share a connection, which closes
/// with the last of them.
///
/// ```no_run
/// use stepwell::{Client, Workflow};
///
/// const GREET: Workflow<String, String> = Workflow::new("greet");
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::connect("127.0.0.1:7400").await?;
/// let run = client.start(GREET, &"you".to_owned()).id("greet-you").await?; // durable when it returns
/// println!("{}", run.outcome().await?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    caller: Caller,
    timeout: Duration,
    shared: Arc<ClientInner>,
}

struct ClientInner {
    env: Env,
    dial: Arc<dyn Dial>,
    requests: Arc<PendingRequests>,
    serving: Mutex<Option<Serving>>,
}

/// The task that serves the connection. Dropping this ends it.
struct Serving {
    alive: mpsc::UnboundedSender<std::convert::Infallible>,
    reached: watch::Receiver<Option<Result<(), SessionError>>>,
}

impl Client {
    /// A client of the engine at `address` (`HOST:PORT` or `unix:PATH`), connected.
    ///
    /// Errors: [`ClientError::NotReachable`] at once if nobody answers there;
    /// [`ClientError::HelloRefused`].
    pub async fn connect(address: impl Into<String>) -> Result<Self, ClientError> {
        let env = Env::real();
        let client = Self::new(Arc::new(NetDial::new(env.clone(), address)), env);
        client.connected().await?;
        Ok(client)
    }

    /// A client that reaches its engine by `dial`, in the world that `env` is. It connects with the
    /// first call.
    pub fn new(dial: Arc<dyn Dial>, env: Env) -> Self {
        let requests = Arc::new(PendingRequests::numbered_from(env.entropy.next_u64()));
        let shared = ClientInner { env, dial, requests, serving: Mutex::default() };
        let caller = Caller { principal: "client".to_owned(), ..Caller::default() };
        Self { caller, timeout: CALL_TIMEOUT_DEFAULT, shared: Arc::new(shared) }
    }

    /// The same connection, for runs of another namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        self.caller.namespace = namespace;
        self
    }

    /// The same connection, for another principal: who asks, as the journal names it. Default
    /// `client`.
    #[must_use]
    pub fn principal(mut self, principal: impl Into<String>) -> Self {
        self.caller.principal = principal.into();
        self
    }

    /// The same connection, with another timeout for its calls. Default 30 s. Waiting for an
    /// outcome has none.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Ends with the next attempt to connect, if there is no connection yet.
    pub async fn connected(&self) -> Result<(), ClientError> {
        let mut reached = self.serve();
        loop {
            if let Some(answer) = reached.borrow_and_update().clone() {
                return answer.map_err(ClientError::from);
            }
            reached.changed().await.map_err(|_| ClientError::Closed)?;
        }
    }

    /// A handle on a run that was started before.
    pub fn run<Out>(&self, id: RunId) -> Run<Out> {
        Run::new(self.clone(), id, false)
    }

    /// A handle on the run that a person means: by its id as printed, or by its name.
    pub fn find<Out>(&self, text: &str) -> Run<Out> {
        self.run(RunId::from_id_or_name(self.caller.namespace, text))
    }

    /// How a run ended, or that it has not; with `wait`, only once it has ended, however long that
    /// takes.
    pub async fn outcome(&self, id: RunId, wait: bool) -> Result<Outcome, ClientError> {
        let caller = self.calls();
        let ask = |call_number| AskOutcome { call_number, caller, id, wait }.into();
        let answer = match wait {
            true => self.call_without_limit(ask).await?,
            false => self.call(ask).await?,
        };
        match answer {
            Message::OutcomeReply(reply) => Ok(reply.outcome),
            other => Err(misfit(&other)),
        }
    }

    /// Where a run is in its life.
    pub async fn status(&self, id: RunId) -> Result<RunSummary, ClientError> {
        let caller = self.calls();
        match self.call(|call_number| AskStatus { call_number, caller, id }.into()).await? {
            Message::StatusReply(reply) => Ok(reply.run),
            other => Err(misfit(&other)),
        }
    }

    /// A page of runs, newest first, and what to ask `before` for the next page, if there may be
    /// more.
    pub async fn list(
        &self,
        list: ListRuns,
    ) -> Result<(Vec<RunSummary>, Option<u64>), ClientError> {
        let caller = self.calls();
        match self.call(|call_number| AskList { call_number, caller, list }.into()).await? {
            Message::ListReply(reply) => Ok((reply.runs, reply.next)),
            other => Err(misfit(&other)),
        }
    }

    /// A page of the dead letters, newest first, and what to ask `before` for the next page, if
    /// there may be more.
    pub async fn dead_list(
        &self,
        list: ListRuns,
    ) -> Result<(Vec<RunSummary>, Option<u64>), ClientError> {
        let caller = self.calls();
        match self.call(|call_number| AskDead { call_number, caller, list }.into()).await? {
            Message::ListReply(reply) => Ok((reply.runs, reply.next)),
            other => Err(misfit(&other)),
        }
    }

    /// All entries of a run's journal.
    pub async fn journal(&self, id: RunId) -> Result<Vec<Entry>, ClientError> {
        let mut entries = Vec::new();
        loop {
            let (caller, from) = (self.calls(), entries.len() as u32);
            let ask = |call_number| {
                AskJournal { call_number, caller, id, from, limit: JOURNAL_PAGE }.into()
            };
            let reply = match self.call(ask).await? {
                Message::JournalReply(reply) if reply.from == from => reply,
                other => return Err(misfit(&other)),
            };
            for (index, bytes) in (from..).zip(&reply.entries) {
                entries.push(
                    Entry::decode(bytes)
                        .map_err(|cause| ClientError::Unreadable { index, cause })?,
                );
            }
            if reply.entries.is_empty() || entries.len() as u32 >= reply.count {
                return Ok(entries);
            }
        }
    }

    /// Asks a run to stop. Answers once the request is durable, not once the run has stopped.
    ///
    /// Errors: [`Refusal::NoSuchRun`](crate::model::request::Refusal::NoSuchRun),
    /// [`Refusal::HasEnded`](crate::model::request::Refusal::HasEnded).
    pub async fn cancel(&self, id: RunId, reason: &str) -> Result<(), ClientError> {
        let (caller, reason) = (self.calls(), reason.to_owned());
        self.done(|call_number| Cancel { call_number, caller, id, reason }.into()).await
    }

    /// Lets a parked or paused run go on. One that is queued for another build than those it failed
    /// on is queued for all again.
    pub async fn resume(&self, id: RunId) -> Result<(), ClientError> {
        let caller = self.calls();
        self.done(|call_number| Resume { call_number, caller, id }.into()).await
    }

    /// The engine's counts.
    pub async fn stats(&self) -> Result<Stats, ClientError> {
        match self.call(|call_number| AskStats { call_number }.into()).await? {
            Message::StatsReply(reply) => Ok(reply.stats),
            other => Err(misfit(&other)),
        }
    }

    async fn done(&self, request: impl FnOnce(u64) -> Message) -> Result<(), ClientError> {
        match self.call(request).await? {
            Message::DoneReply(_) => Ok(()),
            other => Err(misfit(&other)),
        }
    }

    async fn call(&self, request: impl FnOnce(u64) -> Message) -> Result<Message, ClientError> {
        self.serve();
        let mut asked = self.shared.requests.ask(request);
        match within(&self.shared.env, self.timeout, asked.answer()).await {
            Some(answer) => answer,
            None => Err(asked.unanswered(self.timeout, self.shared.dial.address())),
        }
    }

    async fn call_without_limit(
        &self,
        request: impl FnOnce(u64) -> Message,
    ) -> Result<Message, ClientError> {
        self.serve();
        self.shared.requests.ask(request).answer().await
    }

    /// Makes sure that there is a task that serves the connection: none yet, or its runtime was
    /// shut down.
    fn serve(&self) -> watch::Receiver<Option<Result<(), SessionError>>> {
        let shared = &self.shared;
        let mut serving = shared.serving.lock().unwrap_or_else(PoisonError::into_inner);
        match &*serving {
            Some(serving) if !serving.alive.is_closed() => serving.reached.clone(),
            _ => {
                let (alive, is_alive) = mpsc::unbounded_channel();
                let (reached, is_reached) = watch::channel(None);
                let caller = Caller { request_id: RequestId(self.random()), ..self.caller.clone() };
                let peer = ClientPeer::new(
                    shared.requests.clone(),
                    caller,
                    ProcessInstance(self.random()),
                    reached,
                );
                let session =
                    PeerSession::new(shared.env.clone(), shared.dial.clone(), peer, is_alive);
                tokio::spawn(session.run());
                *serving = Some(Serving { alive, reached: is_reached.clone() });
                is_reached
            }
        }
    }

    fn random(&self) -> u128 {
        self.shared.env.entropy.next_u128()
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client of {}", self.shared.dial.address())
    }
}

fn misfit(message: &Message) -> ClientError {
    ClientError::Misfit { kind: message.kind_name() }
}
