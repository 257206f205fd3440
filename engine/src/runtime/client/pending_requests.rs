//! Requests on their way: numbered, kept until they are answered, sent again over the next
//! connection.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::Identity;
use super::error::ClientError;
use crate::canary::canary;
use crate::model::id::ProcessInstance;
use crate::runtime::link::LinkSender;
use crate::runtime::session::{Peer, SessionError};
use crate::wire::handshake::Protocols;
use crate::wire::message::{
    Answer, Answered, Call, Hello, Message, RefusedReply, Register, Reply, Requested, Welcome,
};

/// The requests of a client that have no answer yet, shared by all its calls. Callers send by it
/// themselves; the session hands the answers back.
#[derive(Debug)]
pub(crate) struct PendingRequests(Mutex<RequestsState>);

#[derive(Debug, Default)]
struct RequestsState {
    last: u64,
    pending: BTreeMap<u64, Pending>,
    sender: Option<LinkSender>,
    problem: Option<SessionError>,
}

/// A request without an answer.
#[derive(Debug)]
struct Pending {
    call: Call,
    answer: oneshot::Sender<Result<Answer, ClientError>>,
    sent: bool,
}

/// A call that waits for its answer. Dropping it forgets the request; it may have taken effect.
#[derive(Debug)]
pub(crate) struct PendingCall {
    requests: Arc<PendingRequests>,
    number: u64,
    answer: oneshot::Receiver<Result<Answer, ClientError>>,
}

impl PendingRequests {
    /// A table whose requests are numbered from some drawn number on, so that no late answer to an
    /// earlier life of this process, or to another client behind the same address, is taken for one
    /// to a request of ours.
    pub(crate) fn numbered_from(drawn: u64) -> Self {
        Self(Mutex::new(RequestsState {
            last: match canary!("requests are numbered from one in each life") {
                true => 0,
                false => drawn >> 32,
            },
            ..RequestsState::default()
        }))
    }

    fn state(&self) -> MutexGuard<'_, RequestsState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request, now or over the next connection.
    pub(crate) fn ask(self: &Arc<Self>, call: impl FnOnce(u64) -> Call) -> PendingCall {
        let (reply, answer) = oneshot::channel();
        let mut state = self.state();
        state.last += 1;
        let number = state.last;
        let call = call(number);
        let sent = state.sender.as_ref().is_some_and(|sender| sender.send(call.clone()).is_ok());
        state.pending.insert(number, Pending { call, answer: reply, sent });
        PendingCall { requests: self.clone(), number, answer }
    }

    /// The connection is there: all that has no answer goes out (again), in the order in which it
    /// was asked.
    fn open(&self, sender: LinkSender) {
        let mut state = self.state();
        for pending in state.pending.values_mut() {
            if canary!("requests are lost with their connection") && pending.sent {
                continue;
            }
            pending.sent |= sender.send(pending.call.clone()).is_ok();
        }
        state.sender = Some(sender);
        state.problem = None;
    }

    fn close(&self) {
        self.state().sender = None;
    }

    /// A reply. One to a call that nobody waits for any more is dropped.
    fn answered(&self, reply: Reply) {
        let pending = self.state().pending.remove(&reply.call_number);
        if let Some(pending) = pending {
            let answer = match reply.answer {
                Answered::Known(Answer::RefusedReply(RefusedReply { reason })) => {
                    Err(ClientError::Refused(reason))
                }
                Answered::Known(answer) => Ok(answer),
                Answered::Unreadable { why: cause, .. } => {
                    Err(ClientError::UnreadableAnswer { cause })
                }
            };
            let _ = pending.answer.send(answer);
        }
    }

    /// No connection for now; none at all if the engine does not want us. A request that went out
    /// over a connection before may have taken effect there: it keeps waiting, since the refusal
    /// says that it has not.
    fn failed(&self, error: &SessionError) {
        let mut state = self.state();
        state.problem = Some(error.clone());
        if matches!(error, SessionError::HelloRefused { .. }) {
            let (open, hopeless) =
                std::mem::take(&mut state.pending).into_iter().partition(|(_, pending)| {
                    pending.sent
                        && changes_state(&pending.call)
                        && !canary!("a refused hello answers for requests sent before")
                });
            state.pending = open;
            let hopeless: BTreeMap<u64, Pending> = hopeless;
            for pending in hopeless.into_values() {
                let _ = pending.answer.send(Err(error.clone().into()));
            }
        }
    }

    /// Why a request has no answer after `timeout`.
    fn unanswered(&self, number: u64, timeout: Duration, address: String) -> ClientError {
        let state = self.state();
        if state.pending.get(&number).is_some_and(|pending| pending.sent) {
            return ClientError::TimedOut { timeout };
        }
        match &state.problem {
            Some(problem) => problem.clone().into(),
            None => ClientError::NotReachable {
                address,
                cause: format!("no connection within {timeout:?}"),
            },
        }
    }
}

impl PendingCall {
    /// The answer.
    pub(crate) async fn answer(&mut self) -> Result<Answer, ClientError> {
        match (&mut self.answer).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Closed),
        }
    }

    /// Why there is none after `timeout`.
    pub(crate) fn unanswered(&self, timeout: Duration, address: String) -> ClientError {
        self.requests.unanswered(self.number, timeout, address)
    }
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        self.requests.state().pending.remove(&self.number);
    }
}

/// Whether a call changes something, or may: else it only asks.
fn changes_state(call: &Call) -> bool {
    match &call.request {
        Requested::Known(request) => request.changes(),
        Requested::Unreadable { .. } => true,
    }
}

/// The client's side of the connection.
pub(crate) struct ClientPeer {
    requests: Arc<PendingRequests>,
    identity: Identity,
    protocols: Protocols,
    process: ProcessInstance,
    reached: watch::Sender<Option<Result<(), SessionError>>>,
    deserted: bool,
}

impl ClientPeer {
    pub(crate) fn new(
        requests: Arc<PendingRequests>,
        identity: Identity,
        protocols: Protocols,
        process: ProcessInstance,
        reached: watch::Sender<Option<Result<(), SessionError>>>,
    ) -> Self {
        Self { requests, identity, protocols, process, reached, deserted: false }
    }
}

impl Peer for ClientPeer {
    /// Handles say nothing to the session but that they exist.
    type Control = std::convert::Infallible;

    fn hello(&mut self) -> Hello {
        Hello {
            protocol_min: self.protocols.min,
            protocol_max: self.protocols.max,
            process: self.process,
            namespace: self.identity.namespace,
            principal: self.identity.principal.clone(),
            credentials: None,
            proof: None,
        }
    }

    fn register(&mut self) -> Option<Register> {
        None
    }

    fn welcomed(&mut self, _welcome: &Welcome, sender: LinkSender, _now: Duration) {
        self.requests.open(sender);
        let _ = self.reached.send(Some(Ok(())));
    }

    fn heard(&mut self, _now: Duration) {}

    fn received(&mut self, message: Message, _now: Duration) {
        match message {
            Message::Reply(reply) => self.requests.answered(reply),
            #[cfg(any(test, feature = "inspect"))]
            Message::Later(_) => {}
            message @ (Message::HelloV1(_)
            | Message::Hello(_)
            | Message::Heartbeat(_)
            | Message::Closing(_)
            | Message::Call(_)
            | Message::Welcome(_)
            | Message::Registered(_)
            | Message::Dispatch(_)
            | Message::Journal(_)
            | Message::JournalPage(_)
            | Message::Appended(_)
            | Message::TurnEnded(_)
            | Message::Revoked(_)
            | Message::LeaseContinued(_)
            | Message::ReportRefused(_)
            | Message::AttemptMemo(_)
            | Message::Register(_)
            | Message::StepCompletedReport(_)
            | Message::AttemptFailedReport(_)
            | Message::TimerRequested(_)
            | Message::TurnSuspended(_)
            | Message::TurnCompleted(_)
            | Message::TurnFailed(_)
            | Message::TurnMismatched(_)
            | Message::Requeue(_)
            | Message::Offer(_)
            | Message::MemoRequested(_)
            | Message::MemoReleased(_)
            | Message::JournalPageRequested(_)) => {
                tracing::warn!(
                    kind = message.kind_name(),
                    "the engine said something that is not for a client"
                );
            }
        }
    }

    fn lost(&mut self, _reason: &str, _now: Duration) {
        self.requests.close();
    }

    fn failed(&mut self, error: &SessionError) {
        self.requests.failed(error);
        let _ = self.reached.send(Some(Err(error.clone())));
    }

    fn control(&mut self, control: Self::Control, _now: Duration) {
        match control {}
    }

    fn deserted(&mut self) {
        self.deserted = true;
        self.requests.close();
    }

    fn deadline(&self) -> Option<Duration> {
        None
    }

    fn tick(&mut self, _now: Duration) {}

    fn leaves(&self) -> Option<String> {
        self.deserted.then(|| "done".to_owned())
    }
}
