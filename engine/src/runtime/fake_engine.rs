//! A world on tokio's paused clock and an engine that says what the test tells it to.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::env::{Clock, Entropy, Env, Exec, Listener, Net, Stream};
use super::link::{Dial, Link};
use crate::model::chain;
use crate::model::entry::{Entry, Started};
use crate::model::id::{LeaseNo, RunId, RunNo, SessionId, Token};
use crate::model::payload::Payload;
use crate::model::time::Time;
use crate::wire::handshake::Protocols;
use crate::wire::message::{
    Answer, Answered, Call, Dispatch, Heartbeat, Hello, Message, Register, Registered, Reply,
    Request, Requested, Welcome,
};

struct PausedClock(Instant);

impl Clock for PausedClock {
    fn mono(&self) -> Duration {
        self.0.elapsed()
    }

    fn wall(&self) -> Time {
        Time(0)
    }

    fn sleep(&self, span: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(span))
    }
}

struct Counting(AtomicU64);

impl Entropy for Counting {
    fn next_u64(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

struct NoNet;

impl Net for NoNet {
    fn connect(&self, _: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }

    fn bind(&self, _: &str) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}

struct Tasks;

impl Exec for Tasks {
    fn isolated(&self, _: &str, future: BoxFuture<'static, ()>) -> io::Result<()> {
        tokio::spawn(future);
        Ok(())
    }
}

pub(crate) fn env() -> Env {
    Env {
        clock: Arc::new(PausedClock(Instant::now())),
        entropy: Arc::new(Counting(AtomicU64::new(1))),
        net: Arc::new(NoNet),
        exec: Arc::new(Tasks),
        protocols: Protocols::OWN,
    }
}

/// How the engine answers a dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DialAnswer {
    Open,
    Refused,
    Hangs,
}

struct Dialling {
    dial_answer: Arc<Mutex<DialAnswer>>,
    dialled: mpsc::UnboundedSender<Link>,
}

impl Dial for Dialling {
    fn dial(&self) -> BoxFuture<'static, io::Result<Link>> {
        let (dial_answer, dialled) = (*self.dial_answer.lock().unwrap(), self.dialled.clone());
        Box::pin(async move {
            match dial_answer {
                DialAnswer::Refused => Err(io::ErrorKind::ConnectionRefused.into()),
                DialAnswer::Hangs => std::future::pending().await,
                DialAnswer::Open => {
                    let (ours, theirs) = Link::pair();
                    let _ = dialled.send(ours);
                    Ok(theirs)
                }
            }
        })
    }

    fn address(&self) -> String {
        "the fake engine".to_owned()
    }
}

/// The engine's side of all connections.
pub(crate) struct FakeEngine {
    dial_answer: Arc<Mutex<DialAnswer>>,
    dialled: mpsc::UnboundedReceiver<Link>,
}

/// The engine's side of one connection.
pub(crate) struct FakeConnection {
    pub(crate) link: Link,
    pub(crate) hello: Hello,
    /// What a worker registered with.
    register: Option<Register>,
}

impl FakeEngine {
    pub(crate) fn new() -> (Self, Arc<dyn Dial>) {
        let (dialled, from_peer) = mpsc::unbounded_channel();
        let dial_answer = Arc::new(Mutex::new(DialAnswer::Open));
        (
            Self { dial_answer: dial_answer.clone(), dialled: from_peer },
            Arc::new(Dialling { dial_answer, dialled }),
        )
    }

    pub(crate) fn answer_dials(&self, dial_answer: DialAnswer) {
        *self.dial_answer.lock().unwrap() = dial_answer;
    }

    /// The next connection and its hello, not answered.
    pub(crate) async fn hello(&mut self) -> FakeConnection {
        let mut link = self.dialled.recv().await.unwrap();
        let Some(Message::Hello(hello)) = link.receiver.recv().await else { panic!("no hello") };
        FakeConnection { link, hello, register: None }
    }

    /// The next connection, a client's, welcomed.
    pub(crate) async fn accept(&mut self) -> FakeConnection {
        let connection = self.hello().await;
        connection.welcome();
        connection
    }

    /// The next connection, a worker's, welcomed and registered.
    pub(crate) async fn accept_worker(&mut self) -> FakeConnection {
        let mut connection = self.accept().await;
        match connection.next().await {
            Message::Register(register) => connection.register = Some(register),
            other => panic!("not a registration: {other:?}"),
        }
        connection.send(Registered {});
        connection
    }

    /// Whether a connection waits to be accepted.
    pub(crate) fn is_dialled(&mut self) -> bool {
        !self.dialled.is_empty()
    }
}

impl FakeConnection {
    fn welcome(&self) {
        self.send(Welcome {
            protocol: Protocols::OWN.max,
            session: SessionId(1),
            store: 7,
            epoch: 1,
            heartbeat_ms: 2_000,
            session_timeout_ms: 10_000,
            payload_bytes_max: 1_000,
            now: Time(1_000_000),
        });
    }

    /// What a worker registered with.
    pub(crate) fn register(&self) -> &Register {
        self.register.as_ref().expect("a worker registers")
    }

    /// The next message, which is a call: its number and what is asked.
    pub(crate) async fn next_call(&mut self) -> (u64, Request) {
        asked(self.next().await)
    }

    pub(crate) fn reply(&self, call_number: u64, answer: impl Into<Answer>) {
        let answer = Answered::Known(answer.into());
        self.send(Reply { call_number, answer });
    }

    pub(crate) fn send(&self, message: impl Into<Message>) {
        let _ = self.link.sender.send(message);
    }

    /// The next message that is not a heartbeat.
    pub(crate) async fn next(&mut self) -> Message {
        loop {
            match self.link.receiver.recv().await {
                Some(Message::Heartbeat(_)) => {}
                Some(message) => return message,
                None => panic!("the connection is closed"),
            }
        }
    }

    /// What has arrived and is not a heartbeat.
    pub(crate) async fn arrived(&mut self) -> Vec<Message> {
        settle().await;
        let mut messages = Vec::new();
        while let Ok(message) = self.link.receiver.try_recv() {
            if !matches!(message, Message::Heartbeat(_)) {
                messages.push(message);
            }
        }
        messages
    }

    /// Lets time pass, with heartbeats of the engine.
    pub(crate) async fn beat_for(&self, span: Duration) {
        let mut left = span;
        while !left.is_zero() {
            self.send(Heartbeat { beat: 1 });
            let part = left.min(Duration::from_secs(1));
            tokio::time::sleep(part).await;
            left -= part;
        }
        self.send(Heartbeat { beat: 1 });
        settle().await;
    }

    /// Dispatches run 1 with this journal.
    pub(crate) fn dispatch(&self, lease: u64, journal: &[Entry]) {
        let message = Dispatch {
            run: RunNo(1),
            token: token(lease),
            id: RunId(1),
            count: journal.len() as u32,
            entries: stored(journal),
            now: Time(0),
        };
        self.send(message);
    }
}

/// A call's number and what is asked.
pub(crate) fn asked(message: Message) -> (u64, Request) {
    match message {
        Message::Call(Call { call_number, request: Requested::Known(request), .. }) => {
            (call_number, request)
        }
        other => panic!("not a call: {other:?}"),
    }
}

/// Lets all tasks do what they can without time passing.
pub(crate) async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

pub(crate) fn token(lease: u64) -> Token {
    Token { store: 7, epoch: 1, lease: LeaseNo(lease) }
}

/// A journal as it is stored.
pub(crate) fn stored(journal: &[Entry]) -> Vec<bytes::Bytes> {
    let mut previous = chain::root(RunId(1));
    let seal = |entry| {
        let (bytes, chain) = chain::sealed(previous, entry);
        previous = chain;
        bytes.into()
    };
    journal.iter().map(seal).collect()
}

/// Entry 0 of a run of `workflow`.
pub(crate) fn started(workflow: &str) -> Entry {
    Started {
        at: Time(1_000_000),
        id: RunId(1),
        name: None,
        namespace: Default::default(),
        workflow: workflow.to_owned(),
        version: 1,
        queue: "default".to_owned(),
        priority: 5,
        principal: "tester".to_owned(),
        request_id: Default::default(),
        traceparent: None,
        input: Payload::of(&()).unwrap(),
        not_before: None,
        tags: Vec::new(),
        unique: None,
        batch: None,
    }
    .into()
}
