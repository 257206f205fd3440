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
use self::pending_requests::{ClientPeer, PendingCall, PendingRequests};
pub use self::queues::Queues;
pub use self::run::Run;
pub use self::schedule::{Filled, ScheduleBuilder, ScheduleSet, Schedules};
pub use self::start::{StartBuilder, StartMany};
use super::env::Env;
use super::link::{Dial, NetDial};
use super::session::{PeerSession, SessionError, within};
use crate::model::entry::Entry;
use crate::model::id::{Namespace, ProcessInstance, RequestId, RunId};
use crate::model::name::check_name_length;
use crate::model::request::ListRuns;
use crate::model::run::{Outcome, RunSummary, Stats};
use crate::wire::message::{
    Answer, Ask, AskDead, AskJournal, AskList, AskOutcome, AskStats, AskStatus, Call, Cancel,
    DoneReply, OnBehalf, Request, Requested, Resume,
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
/// let run = client.start(GREET, &"you".to_owned()).name("greet-you").await?; // durable when it returns
/// println!("{}", run.outcome().await?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    timeout: Duration,
    shared: Arc<ClientInner>,
    /// Who a gateway's requests are for.
    on_behalf: Option<OnBehalf>,
}

struct ClientInner {
    env: Env,
    dial: Arc<dyn Dial>,
    identity: Identity,
    requests: Arc<PendingRequests>,
    serving: Mutex<Option<Serving>>,
}

/// Who a client is, as it says in its hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) namespace: Namespace,
    pub(crate) principal: String,
}

impl ClientInner {
    fn new(dial: Arc<dyn Dial>, env: Env, identity: Identity) -> Self {
        let requests = Arc::new(PendingRequests::numbered_from(env.entropy.next_u64()));
        Self { env, dial, identity, requests, serving: Mutex::default() }
    }
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
        let identity = Identity { namespace: Namespace::default(), principal: "client".to_owned() };
        let shared = Arc::new(ClientInner::new(dial, env, identity));
        Self { timeout: CALL_TIMEOUT_DEFAULT, shared, on_behalf: None }
    }

    /// A client of the same engine for runs of another namespace, over a connection of its own (a
    /// session has one namespace and one principal) unless it is a [`Gateway`]'s.
    #[must_use]
    pub fn namespace(self, namespace: Namespace) -> Self {
        if let Some(other) = self.on_behalf.clone() {
            return Self { on_behalf: Some(OnBehalf { namespace, ..other }), ..self };
        }
        let identity = Identity { namespace, ..self.shared.identity.clone() };
        self.with_identity(identity)
    }

    /// A client of the same engine for another principal, as journals and audit entries name it,
    /// over a connection of its own unless it is a [`Gateway`]'s. At most 128 bytes. Default
    /// `client`.
    #[must_use]
    pub fn principal(self, principal: impl Into<String>) -> Self {
        let principal = principal.into();
        if let Some(other) = self.on_behalf.clone() {
            return Self { on_behalf: Some(OnBehalf { principal, ..other }), ..self };
        }
        let identity = Identity { principal, ..self.shared.identity.clone() };
        self.with_identity(identity)
    }

    fn with_identity(self, identity: Identity) -> Self {
        if self.shared.identity == identity {
            return self;
        }
        let shared = &self.shared;
        let other = ClientInner::new(shared.dial.clone(), shared.env.clone(), identity);
        Self { shared: Arc::new(other), ..self }
    }

    /// The namespace of its requests.
    pub(super) fn own_namespace(&self) -> Namespace {
        match &self.on_behalf {
            Some(other) => other.namespace,
            None => self.shared.identity.namespace,
        }
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
        self.check_principal()?;
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
        self.run(RunId::from_id_or_name(self.own_namespace(), text))
    }

    /// How a run ended, or that it has not; with `wait`, only once it has ended, however long that
    /// takes.
    pub async fn outcome(&self, id: RunId, wait: bool) -> Result<Outcome, ClientError> {
        let ask = AskOutcome { id, wait };
        let reply = match wait {
            true => self.ask_without_limit(ask).await?,
            false => self.ask(ask).await?,
        };
        Ok(reply.outcome)
    }

    /// Where a run is in its life.
    pub async fn status(&self, id: RunId) -> Result<RunSummary, ClientError> {
        Ok(self.ask(AskStatus { id }).await?.run)
    }

    /// A page of runs, newest first, and what to ask `before` for the next page, if there may be
    /// more.
    pub async fn list(
        &self,
        list: ListRuns,
    ) -> Result<(Vec<RunSummary>, Option<u64>), ClientError> {
        let reply = self.ask(AskList { list }).await?;
        Ok((reply.runs, reply.next))
    }

    /// A page of the dead letters, newest first, and what to ask `before` for the next page, if
    /// there may be more.
    pub async fn dead_list(
        &self,
        list: ListRuns,
    ) -> Result<(Vec<RunSummary>, Option<u64>), ClientError> {
        let reply = self.ask(AskDead { list }).await?;
        Ok((reply.runs, reply.next))
    }

    /// All entries of a run's journal.
    pub async fn journal(&self, id: RunId) -> Result<Vec<Entry>, ClientError> {
        let mut entries = Vec::new();
        loop {
            let from = entries.len() as u32;
            let reply = self.ask(AskJournal { id, from, limit: JOURNAL_PAGE }).await?;
            if reply.from != from {
                return Err(misfit(&reply.into()));
            }
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
        self.done(Cancel { id, reason: reason.to_owned() }).await
    }

    /// Lets a parked or paused run go on. One that is queued for another build than those it failed
    /// on is queued for all again.
    pub async fn resume(&self, id: RunId) -> Result<(), ClientError> {
        self.done(Resume { id }).await
    }

    /// The engine's counts.
    pub async fn stats(&self) -> Result<Stats, ClientError> {
        Ok(self.ask(AskStats {}).await?.stats)
    }

    pub(super) async fn done<R: Ask<Reply = DoneReply>>(
        &self,
        request: R,
    ) -> Result<(), ClientError> {
        let DoneReply {} = self.ask(request).await?;
        Ok(())
    }

    /// Sends a request, and waits for its reply within the timeout.
    pub(super) async fn ask<R: Ask>(&self, request: R) -> Result<R::Reply, ClientError> {
        self.ask_as(self.new_request_id(), request).await
    }

    /// The same, as a request that may have been made before.
    pub(super) async fn ask_as<R: Ask>(
        &self,
        request_id: RequestId,
        request: R,
    ) -> Result<R::Reply, ClientError> {
        self.check_principal()?;
        let mut asked = self.send(request_id, request.into());
        match within(&self.shared.env, self.timeout, asked.answer()).await {
            Some(answer) => typed(answer?),
            None => Err(asked.unanswered(self.timeout, self.shared.dial.address())),
        }
    }

    async fn ask_without_limit<R: Ask>(&self, request: R) -> Result<R::Reply, ClientError> {
        self.check_principal()?;
        typed(self.send(self.new_request_id(), request.into()).answer().await?)
    }

    /// The principal goes into the hello, which is short. That of others whom a gateway acts for
    /// goes into calls, and the engine looks at it.
    fn check_principal(&self) -> Result<(), ClientError> {
        let checked = check_name_length("principal", &self.shared.identity.principal);
        checked.map_err(|bad| ClientError::Refused(bad.into()))
    }

    fn send(&self, request_id: RequestId, request: Request) -> PendingCall {
        self.serve();
        let on_behalf = self.on_behalf.clone();
        self.shared.requests.ask(|call_number| Call {
            call_number,
            request_id,
            traceparent: None,
            request: Requested::Known(request),
            on_behalf,
        })
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
                let peer = ClientPeer::new(
                    shared.requests.clone(),
                    shared.identity.clone(),
                    shared.env.protocols,
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

/// Acts for others over one connection of its own, within the engine's process: the part of an HTTP
/// server, say, that has found out who asks.
///
/// No peer on the network can do this: over a socket a session is one principal's.
///
/// ```no_run
/// # use stepwell::Engine;
/// # async fn serve(engine: Engine) {
/// let gateway = engine.gateway();
/// let ann = gateway.client(Default::default(), "ann"); // journals and audit entries name ann
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Gateway(pub(crate) Client);

impl Gateway {
    /// A client whose requests are made for `principal`, in `namespace`.
    pub fn client(&self, namespace: Namespace, principal: impl Into<String>) -> Client {
        let on_behalf = Some(OnBehalf { namespace, principal: principal.into() });
        Client { on_behalf, ..self.0.clone() }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client of {}", self.shared.dial.address())
    }
}

fn misfit(answer: &Answer) -> ClientError {
    ClientError::Misfit { kind: answer.kind_name() }
}

/// The answer as the reply that belongs to the request.
fn typed<R: TryFrom<Answer, Error = Answer>>(answer: Answer) -> Result<R, ClientError> {
    R::try_from(answer).map_err(|other| misfit(&other))
}
