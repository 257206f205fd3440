//! The life of a peer's connection: dial, hello, heartbeats, loss, and again. Shared by worker and
//! client.
//!
//! ```text
//!   away ── dial (5 s) ── Hello ──► Welcome (5 s) ──► connected ──┐
//!    ▲        │ no                     │ Closing        │ closed, or silent for the timeout
//!    └─ backoff, 50 ms … 5 s ◄─────────┴────────────────┴─ the first new dial is made at once; not
//!                                                          so the next, if that ends within a second
//! ```
//!
//! What both sides rely on:
//!
//! - **P1** The first frame each way is `Hello` and `Welcome`; nothing else is believed before. A worker
//!   then says `Register`, and holds and gets nothing before it is `Registered`.
//! - **P2** Each side sends a heartbeat every `heartbeat_ms`, whatever else it sends. Any frame
//!   counts as heard.
//! - **P3** A side that has heard nothing for `session_timeout_ms` closes the connection.
//! - **P4** All that is sent over a connection arrives in its order or not at all; over the next
//!   one it is sent again.
//! - **P5** The last frame of a side that leaves in peace is `Closing`.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::sync::mpsc;

use super::env::Env;
use super::link::{Dial, Link, LinkSender};
use crate::wire::message::{Closing, Heartbeat, Hello, Message, Register, Welcome};

/// How long opening a connection may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the engine may take to answer a hello.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a goodbye may take to be written.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);
/// The wait before a second dial.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// The longest wait between two dials.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// After a second connection in a row that ends sooner there is a wait: what ended it may end each
/// of them, such as a frame that is not readable.
const LASTS_AFTER: Duration = Duration::from_secs(1);
/// That wait grows up to this step of the backoff, 200 ms, and stays below the time for which an
/// engine keeps the leases of a worker whose connection broke.
const SHORT_MAX: u32 = 3;
/// Messages taken at a time, so that heartbeats keep their turn.
const MESSAGES_MAX: usize = 256;

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub enum SessionError {
    /// Nobody answers there.
    #[error("{address} is not reachable: {cause}")]
    NotReachable {
        /// What was dialled.
        address: String,
        /// What the system said.
        cause: String,
    },
    /// The engine answered and does not want us.
    #[error("the engine at {address} refuses the connection: {reason}")]
    HelloRefused {
        /// What was dialled.
        address: String,
        /// What it said.
        reason: String,
    },
}

/// What sits on the connection: a worker or a client.
pub(crate) trait Peer: Send {
    /// What its handles tell it.
    type Control: Send;

    /// What it says first.
    fn hello(&mut self) -> Hello;
    /// What a worker says next: what it can run, and what it holds.
    fn register(&mut self) -> Option<Register>;
    /// The connection is there.
    fn welcomed(&mut self, welcome: &Welcome, sender: LinkSender, now: Duration);
    /// Something arrived; called before the messages are handed on.
    fn heard(&mut self, now: Duration);
    /// A message arrived.
    fn received(&mut self, message: Message, now: Duration);
    /// The connection is gone.
    fn lost(&mut self, reason: &str, now: Duration);
    /// A try to connect has failed.
    fn failed(&mut self, error: &SessionError);
    /// A handle said something.
    fn control(&mut self, control: Self::Control, now: Duration);
    /// All its handles are gone.
    fn deserted(&mut self);
    /// When it wants [`Self::tick`] to be called, in monotonic time.
    fn deadline(&self) -> Option<Duration>;
    /// Its deadline has passed.
    fn tick(&mut self, now: Duration);
    /// Why it wants to leave, if it does.
    fn leaves(&self) -> Option<String>;
}

/// Runs a peer until it leaves.
pub(crate) struct PeerSession<P: Peer> {
    env: Env,
    dial: Arc<dyn Dial>,
    peer: P,
    controls: mpsc::UnboundedReceiver<P::Control>,
    /// All handles are gone.
    deserted: bool,
}

/// The peer wants to leave.
struct Leaving;

/// A connection that has been welcomed.
struct Connected {
    link: Link,
    welcome: Welcome,
}

impl<P: Peer> PeerSession<P> {
    pub(crate) fn new(
        env: Env,
        dial: Arc<dyn Dial>,
        peer: P,
        controls: mpsc::UnboundedReceiver<P::Control>,
    ) -> Self {
        Self { env, dial, peer, controls, deserted: false }
    }

    /// Runs. **Cancel safety**: dropping it closes the connection without a goodbye.
    pub(crate) async fn run(mut self) {
        let (mut failures, mut short) = (0, 0);
        loop {
            let hello = self.peer.hello();
            let register = self.peer.register();
            let connecting = connect(self.env.clone(), self.dial.clone(), hello, register);
            match self.while_away(connecting).await {
                Err(Leaving) => return,
                Ok(Ok(connected)) => {
                    let began = self.now();
                    if let Err(Leaving) = self.attend(connected).await {
                        return;
                    }
                    failures = 0;
                    short = if self.now() >= began + LASTS_AFTER { 0 } else { short + 1 };
                    if short <= 1 {
                        continue;
                    }
                }
                Ok(Err(error)) => {
                    failures += 1;
                    tracing::debug!(%error, failures, "no connection to the engine");
                    self.peer.failed(&error);
                }
            }
            let nth = if failures > 0 { failures } else { short.min(SHORT_MAX) };
            let wait = backoff(nth, self.env.entropy.next_u64());
            let waiting = self.env.clock.sleep(wait);
            if let Err(Leaving) = self.while_away(waiting).await {
                return;
            }
        }
    }

    /// Serves handles and deadlines until `work` is done.
    async fn while_away<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Leaving> {
        let mut work = pin!(work);
        loop {
            if self.peer.leaves().is_some() {
                return Err(Leaving);
            }
            let tick = self.tick_at(None);
            tokio::select! {
                biased;
                control = self.controls.recv(), if !self.deserted => self.controlled(control),
                done = &mut work => return Ok(done),
                () = tick => self.ticked(),
            }
        }
    }

    /// Serves a connection until it is lost.
    async fn attend(&mut self, Connected { mut link, welcome }: Connected) -> Result<(), Leaving> {
        let heartbeat = Duration::from_millis(welcome.heartbeat_ms.max(1));
        let timeout = Duration::from_millis(welcome.session_timeout_ms.max(1));
        let mut heard_at = self.now();
        let mut beat_at = heard_at + heartbeat;
        let mut beat = 0;
        let mut messages = Vec::with_capacity(MESSAGES_MAX);
        self.peer.welcomed(&welcome, link.sender.clone(), heard_at);
        self.peer.heard(heard_at);
        let mut tick = self.tick_at(Some(beat_at));
        let lost = loop {
            if let Some(reason) = self.peer.leaves() {
                goodbye(&self.env, link, reason).await;
                return Err(Leaving);
            }
            tokio::select! {
                biased;
                () = &mut tick => {
                    let now = self.now();
                    if now >= heard_at + timeout {
                        break format!("nothing was heard for {timeout:?}");
                    }
                    if now >= beat_at {
                        beat += 1;
                        beat_at = now + heartbeat;
                        if link.sender.send(Heartbeat { beat }).is_err() {
                            break closed(&link);
                        }
                    }
                    self.ticked();
                    tick = self.tick_at(Some(beat_at.min(heard_at + timeout)));
                }
                control = self.controls.recv(), if !self.deserted => {
                    self.controlled(control);
                    tick = self.tick_at(Some(beat_at.min(heard_at + timeout)));
                }
                received = link.receiver.recv_many(&mut messages, MESSAGES_MAX) => {
                    if received == 0 {
                        break closed(&link);
                    }
                    heard_at = self.now();
                    self.peer.heard(heard_at);
                    let mut closing = None;
                    for message in messages.drain(..) {
                        match message {
                            Message::Heartbeat(_) | Message::Welcome(_) | Message::Registered(_) => {}
                            #[cfg(any(test, feature = "inspect"))]
                            Message::Later(_) => {}
                            Message::Closing(said) => closing = Some(said.reason),
                            message => self.peer.received(message, heard_at),
                        }
                    }
                    if let Some(reason) = closing {
                        break format!("the engine closed the connection: {reason}");
                    }
                }
            }
        };
        tracing::info!(address = %self.dial.address(), reason = %lost, "the connection to the engine is lost");
        let now = self.now();
        self.peer.lost(&lost, now);
        Ok(())
    }

    fn now(&self) -> Duration {
        self.env.clock.mono()
    }

    /// Ends when the peer's deadline or `at` is there, the earlier one.
    fn tick_at(&self, at: Option<Duration>) -> futures_util::future::BoxFuture<'static, ()> {
        match self.peer.deadline().into_iter().chain(at).min() {
            Some(at) => self.env.clock.sleep(at.saturating_sub(self.now())),
            None => Box::pin(std::future::pending()),
        }
    }

    fn ticked(&mut self) {
        let now = self.now();
        if self.peer.deadline().is_some_and(|at| at <= now) {
            self.peer.tick(now);
        }
    }

    fn controlled(&mut self, control: Option<P::Control>) {
        let now = self.now();
        match control {
            Some(control) => self.peer.control(control, now),
            None => {
                self.deserted = true;
                self.peer.deserted();
            }
        }
    }
}

/// Dials, says hello and, if it is a worker, registers.
async fn connect(
    env: Env,
    dial: Arc<dyn Dial>,
    hello: Hello,
    register: Option<Register>,
) -> Result<Connected, SessionError> {
    let address = dial.address();
    let not = |cause: String| SessionError::NotReachable { address: address.clone(), cause };
    let mut link = match within(&env, DIAL_TIMEOUT, dial.dial()).await {
        None => return Err(not(format!("no connection within {DIAL_TIMEOUT:?}"))),
        Some(Err(error)) => return Err(not(error.to_string())),
        Some(Ok(link)) => link,
    };
    let own = hello.protocols();
    let _ = link.sender.send(hello);
    let answered = async {
        let mut welcomed = None;
        loop {
            let Some(message) = link.receiver.recv().await else {
                return Err(not("the connection was closed before the engine answered".to_owned()));
            };
            match message {
                Message::Welcome(welcome) => {
                    if !(own.min..=own.max).contains(&welcome.protocol) {
                        let agreed = welcome.protocol;
                        let reason =
                            format!("it answers in protocol {agreed}, this side speaks {own}");
                        return Err(refused(&address, reason));
                    }
                    #[cfg(any(test, feature = "inspect"))]
                    if let Some(later) = crate::wire::message::Later::of(own, welcome.protocol) {
                        let _ = link.sender.send(later);
                    }
                    let Some(register) = &register else {
                        return Ok(welcome);
                    };
                    let _ = link.sender.send(register.clone());
                    welcomed = Some(welcome);
                }
                Message::Registered(_) => {
                    if let Some(welcome) = welcomed.take() {
                        return Ok(welcome);
                    }
                }
                Message::Closing(Closing { reason }) => {
                    return Err(refused(&address, reason));
                }
                Message::Heartbeat(_) => {}
                #[cfg(any(test, feature = "inspect"))]
                Message::Later(_) => {}
                other @ (Message::HelloV1(_)
                | Message::Hello(_)
                | Message::Call(_)
                | Message::Reply(_)
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
                    let what = other.kind_name();
                    return Err(refused(
                        &address,
                        format!("it says a {what} before the session begins"),
                    ));
                }
            }
        }
    };
    let answer = within(&env, WELCOME_TIMEOUT, answered).await;
    let welcome = answer.unwrap_or_else(|| {
        Err(not(format!("no answer to the hello within {WELCOME_TIMEOUT:?}")))
    })?;
    Ok(Connected { link, welcome })
}

fn refused(address: &str, reason: String) -> SessionError {
    // As an engine of protocol 1 says it.
    let reason = match reason.contains("kind 5 of Message is not known") {
        true => {
            format!("it is of an earlier version and speaks protocol 1 only: upgrade it ({reason})")
        }
        false => reason,
    };
    SessionError::HelloRefused { address: address.to_owned(), reason }
}

/// The future's output, unless it takes longer than `limit`.
pub(crate) async fn within<T>(
    env: &Env,
    limit: Duration,
    future: impl Future<Output = T>,
) -> Option<T> {
    // `select` polls its first argument first.
    match select(pin!(future), env.clock.sleep(limit)).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(_) => None,
    }
}

/// The last frame, and time for it to be written.
async fn goodbye(env: &Env, mut link: Link, reason: String) {
    let _ = link.sender.send(Closing { reason });
    drop(link.sender);
    let closed = async { while link.receiver.recv().await.is_some() {} };
    within(env, GOODBYE_TIMEOUT, closed).await;
}

/// 50 ms, 100 ms, … 5 s, each up to half shorter. Peers that lost the same engine do not come back
/// as one.
fn backoff(failures: u32, drawn: u64) -> Duration {
    let longest = BACKOFF_MIN.saturating_mul(1 << (failures - 1).min(7)).min(BACKOFF_MAX);
    let ms = longest.as_millis() as u64;
    Duration::from_millis(ms / 2 + drawn % (ms / 2 + 1))
}

fn closed(link: &Link) -> String {
    link.reason.get().cloned().unwrap_or_else(|| "the engine closed the connection".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "server")]
    #[test]
    fn short_connections_do_not_cost_a_worker_its_leases() {
        let grace = crate::core::Settings::default().disconnect_grace;
        let waits = (0..200).map(|drawn| backoff(SHORT_MAX, drawn));
        assert!(waits.max() <= Some(grace / 2), "{grace:?}");
    }

    #[test]
    fn backoffs_grow_to_five_seconds() {
        let longest: Vec<u128> = (1..=9).map(|n| backoff(n, 0).as_millis() * 2).collect();
        assert_eq!(longest, [50, 100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        for drawn in 0..200 {
            let wait = backoff(3, drawn * 7_919);
            assert!((100..=200).contains(&wait.as_millis()), "{wait:?}");
        }
    }
}
