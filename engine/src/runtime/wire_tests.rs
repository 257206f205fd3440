//! What an engine does with what strangers, older and later versions say over a socket: byte by
//! byte, on simulated time.

use std::io;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use stepwell_storage::{MemDisk, MemOptions, MemStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;

use super::client::{Client, ClientError};
use super::engine::{Engine, EngineOptions};
use super::env::{Env, Listener, Net, Stream};
use super::link::NetDial;
use super::retry_tests;
use super::session::SessionError;
use super::worker::Worker;
use crate::model::dead::AuditAction;
use crate::model::entry::Entry;
use crate::model::failure::Failure;
use crate::model::id::{LeaseNo, Namespace, ProcessInstance, RequestId, RunId, RunNo, Token};
use crate::model::limits::NAME_BYTES_MAX;
use crate::model::request::Refusal;
use crate::wire::frame::{self, FRAME_BYTES_MAX};
use crate::wire::handshake::{HELLO_BYTES_MAX, Protocols};
use crate::wire::message::{
    Answer, AskStats, Call, Held, Hello, JournalPageRequested, Message, Offer, OnBehalf,
    QueueSlots, Readable, Register, Reply, Request, Requested, Start, WorkflowOffer,
};
use crate::wire::samples::HELLO_V1;
use crate::workflow::{Ctx, Workflow, millis};

const WORK: Workflow<u32, u32> = Workflow::new("work");

type Accepted = (Box<dyn Stream>, String);

/// A network of pipes with one listener at a time.
#[derive(Default)]
struct Pipes(Mutex<Option<mpsc::UnboundedSender<Accepted>>>);

struct PipeListener(mpsc::UnboundedReceiver<Accepted>);

impl Pipes {
    fn open(&self) -> io::Result<DuplexStream> {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let listener = self.0.lock().unwrap();
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let accepted: Accepted = (Box::new(theirs), "a pipe".to_owned());
        listener.as_ref().ok_or_else(refused)?.send(accepted).map_err(|_| refused())?;
        Ok(ours)
    }
}

impl Net for Pipes {
    fn connect(&self, _: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let opened = self.open().map(|stream| Box::new(stream) as Box<dyn Stream>);
        Box::pin(async { opened })
    }

    fn bind(&self, _: &str) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        let (sender, accepted) = mpsc::unbounded_channel();
        *self.0.lock().unwrap() = Some(sender);
        Box::pin(async { Ok(Box::new(PipeListener(accepted)) as Box<dyn Listener>) })
    }
}

impl Listener for PipeListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Accepted>> {
        Box::pin(async { self.0.recv().await.ok_or_else(|| io::ErrorKind::BrokenPipe.into()) })
    }

    fn address(&self) -> String {
        "the engine".to_owned()
    }
}

/// An engine that listens at a network of pipes.
struct Listening {
    engine: Engine,
    env: Env,
    pipes: Arc<Pipes>,
}

impl Listening {
    async fn open(protocols: Protocols) -> Self {
        let pipes = Arc::new(Pipes::default());
        let env = Env { net: pipes.clone(), protocols, ..retry_tests::env() };
        let store = MemStore::acquire(&MemDisk::new(), MemOptions::default()).unwrap();
        let options = EngineOptions { socket: false, ..EngineOptions::default() };
        let engine = options.open_on(env.clone(), Arc::new(store)).await.unwrap();
        engine.listen("the engine").await.unwrap();
        Self { engine, env, pipes }
    }

    /// The world of a peer that speaks these protocols.
    fn env(&self, protocols: Protocols) -> Env {
        Env { protocols, ..self.env.clone() }
    }

    fn dial(&self, protocols: Protocols) -> Arc<NetDial> {
        Arc::new(NetDial::new(self.env(protocols), "the engine"))
    }

    fn client(&self, protocols: Protocols) -> Client {
        Client::new(self.dial(protocols), self.env(protocols))
    }

    fn worker(&self, protocols: Protocols) -> Worker {
        Worker::new(self.dial(protocols), self.env(protocols)).exit_when_stuck(false)
    }

    fn stranger(&self) -> Stranger {
        Stranger { stream: self.pipes.open().unwrap(), buffer: BytesMut::new() }
    }

    /// One that has said hello and was welcomed.
    async fn peer(&self) -> Stranger {
        let mut stranger = self.stranger();
        stranger.say(&Hello::test(ProcessInstance(77), "eve").into()).await;
        assert!(matches!(stranger.hear().await, Some(Message::Welcome(_))));
        stranger
    }
}

/// Bytes to and from an engine.
struct Stranger {
    stream: DuplexStream,
    buffer: BytesMut,
}

impl Stranger {
    async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    async fn framed(&mut self, bytes: &[u8]) {
        let length = (bytes.len() as u32).to_le_bytes();
        self.write(&[&length[..], bytes].concat()).await;
    }

    async fn say(&mut self, message: &Message) {
        let mut bytes = Vec::new();
        frame::encode(message, Protocols::OWN, &mut bytes);
        self.write(&bytes).await;
    }

    /// The next message but heartbeats; none once the connection is closed.
    async fn hear(&mut self) -> Option<Message> {
        loop {
            match frame::decode(&mut self.buffer, FRAME_BYTES_MAX).unwrap() {
                Some(Message::Heartbeat(_)) => {}
                Some(message) => return Some(message),
                None if self.stream.read_buf(&mut self.buffer).await.unwrap() == 0 => return None,
                None => {}
            }
        }
    }

    /// The reason that it closes the connection for, which is the last it says.
    async fn refusal(&mut self) -> String {
        let Some(Message::Closing(closing)) = self.hear().await else { panic!("not refused") };
        assert_eq!(self.hear().await, None);
        closing.reason
    }

    /// Whether the engine still answers.
    async fn is_served(&mut self) -> bool {
        self.say(&call(99, AskStats {}.into())).await;
        let answer = self.hear().await;
        matches!(
            answer,
            Some(Message::Reply(Reply {
                call_number: 99,
                answer: Readable::Known(Answer::StatsReply(_))
            }))
        )
    }
}

fn call(call_number: u64, request: Request) -> Message {
    let request = Requested::Known(request);
    let (request_id, traceparent, on_behalf) = (RequestId(1), None, None);
    Call { call_number, request_id, traceparent, request, on_behalf }.into()
}

#[tokio::test(start_paused = true)]
async fn a_peer_of_protocol_1_is_told_why_in_its_own_layout() {
    let listening = Listening::open(Protocols::OWN).await;
    let mut old = listening.stranger();
    old.framed(HELLO_V1).await;
    let mut heard = Vec::new();
    old.stream.read_to_end(&mut heard).await.unwrap();
    // As protocol 1 reads it: a length, kind 4, an array of one string.
    let (length, frame) = heard.split_first_chunk::<4>().unwrap();
    assert_eq!(u32::from_le_bytes(*length) as usize, frame.len());
    assert_eq!(frame[0], 4);
    let (reason,): (String,) = rmp_serde::from_slice(&frame[1..]).unwrap();
    assert_eq!(
        reason,
        "this engine speaks protocol 2, the peer speaks protocol 1: build it with a newer version"
    );
}

// Its hello held all that it registered and every lease, and so could be long.
#[tokio::test(start_paused = true)]
async fn a_long_hello_of_protocol_1_is_refused_in_its_own_layout_too() {
    let listening = Listening::open(Protocols::OWN).await;
    let mut old = listening.stranger();
    let long = [HELLO_V1, &[0; 20 * HELLO_BYTES_MAX]].concat();
    // Its length comes alone: what it is, is not known yet.
    old.write(&(long.len() as u32).to_le_bytes()).await;
    tokio::time::sleep(crate::workflow::secs(1)).await;
    old.write(&long).await;
    let reason = old.refusal().await;
    assert!(reason.contains("the peer speaks protocol 1"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_session_has_one_hello() {
    let listening = Listening::open(Protocols::OWN).await;
    let mut peer = listening.peer().await;
    let hello = Hello::test(ProcessInstance(77), "eve");
    peer.say(&hello.clone().into()).await;
    assert!(peer.is_served().await, "the same again is taken for a copy");
    peer.say(&Hello { namespace: Namespace(2), ..hello.clone() }.into()).await;
    assert_eq!(peer.refusal().await, "a session has one hello, and this is another");

    // Nor does another principal take the place of a process that is connected.
    let mut eve = listening.peer().await;
    let mut other = listening.stranger();
    other.say(&Hello { principal: "mallory".to_owned(), ..hello }.into()).await;
    assert_eq!(other.refusal().await, "this process is known as another principal's");
    assert!(eve.is_served().await);
}

// What an absent worker holds is kept for it, and for nobody who has read its id in a listing.
#[tokio::test(start_paused = true)]
async fn nobody_takes_the_place_of_an_absent_worker() {
    let listening = Listening::open(Protocols::OWN).await;
    let client = listening.client(Protocols::OWN);
    let mut eve = listening.peer().await;
    let queues = vec![QueueSlots { queue: "default".to_owned(), slots: 1 }];
    let register = Register {
        build: "b".to_owned(),
        workflows: vec![WorkflowOffer::test("work")],
        queues,
        tags: Vec::new(),
        held: Vec::new(),
    };
    eve.say(&register.clone().into()).await;
    assert!(matches!(eve.hear().await, Some(Message::Registered(_))));
    client.start(WORK, &1).await.unwrap();
    let Some(Message::Dispatch(dispatch)) = eve.hear().await else { panic!("a dispatch") };
    drop(eve);
    tokio::time::sleep(millis(50)).await;

    let hello = Hello::test(ProcessInstance(77), "eve");
    let mut mallory = listening.stranger();
    mallory.say(&Hello { principal: "mallory".to_owned(), ..hello }.into()).await;
    assert_eq!(mallory.refusal().await, "this process is known as another principal's");
    let mut eve = listening.peer().await;
    let held = vec![Held { run: dispatch.run, token: dispatch.token, seen: 1 }];
    eve.say(&Register { held, ..register }.into()).await;
    assert!(matches!(eve.hear().await, Some(Message::Registered(_))));
    let heard = eve.hear().await;
    assert!(matches!(&heard, Some(Message::LeaseContinued(lease)) if lease.old == dispatch.token));
}

#[tokio::test(start_paused = true)]
async fn who_has_not_registered_offers_nothing_and_reads_no_journal() {
    let listening = Listening::open(Protocols::OWN).await;
    let client = listening.client(Protocols::OWN);
    let run = client.start(WORK, &1).name("mine").await.unwrap();
    let mut peer = listening.peer().await;
    for number in 0..3 {
        let (run, token) = (RunNo(number), Token { store: 0, epoch: 0, lease: LeaseNo(number) });
        let ask = JournalPageRequested { page: 5, run, token, from: 0, limit: 9 };
        peer.say(&ask.into()).await;
        let Some(Message::JournalPage(page)) = peer.hear().await else { panic!("no answer") };
        assert_eq!((page.page, page.entries.len()), (5, 0));
        assert!(matches!(page.refused, Some(Refusal::StaleToken(_))));
    }
    let queues = vec![QueueSlots { queue: "default".to_owned(), slots: 1 }];
    peer.say(&Offer { queues }.into()).await;
    assert_eq!(peer.refusal().await, "slots are offered by a worker that has registered");
    assert_eq!(client.stats().await.unwrap().workers, 0);
    assert!(client.status(run.id()).await.is_ok());
}

// Values of a later version within frames that this one knows concern their call alone.
#[tokio::test(start_paused = true)]
async fn a_request_that_is_not_readable_is_refused_and_the_connection_goes_on() {
    let listening = Listening::open(Protocols::OWN).await;
    let mut peer = listening.peer().await;
    let bytes = |bytes: &'static [u8]| Bytes::from_static(bytes);
    for request in [bytes(&[100, 0x91, 0x9a]), bytes(&[45]), bytes(&[])] {
        let call = (12u64, RequestId(3), None::<String>, request);
        peer.framed(&[vec![50], rmp_serde::to_vec(&call).unwrap()].concat()).await;
        let heard = peer.hear().await;
        let Some(Message::Reply(Reply {
            call_number: 12,
            answer: Readable::Known(Answer::RefusedReply(refused)),
        })) = heard
        else {
            panic!("{heard:?}")
        };
        assert!(matches!(refused.reason, Refusal::NotUnderstood(_)), "{}", refused.reason);
    }
    assert!(peer.is_served().await);
}

#[tokio::test(start_paused = true)]
async fn protocols_that_do_not_meet_are_refused_with_both_ranges() {
    let listening = Listening::open(Protocols::OWN).await;
    let later = Protocols { min: 3, max: 4 };
    let expected = "this engine speaks protocol 2, the peer speaks protocols 3 to 4";
    let Err(ClientError::HelloRefused { reason, .. }) = listening.client(later).connected().await
    else {
        panic!("refused")
    };
    assert_eq!(reason, expected);
    let worker = listening.worker(later).register(WORK, |_: Ctx, n: u32| async move { Ok(n) });
    let handle = worker.start().unwrap();
    let Err(SessionError::HelloRefused { reason, .. }) = handle.connected().await else {
        panic!("refused")
    };
    assert_eq!(reason, expected);
}

#[tokio::test(start_paused = true)]
async fn a_request_of_a_later_version_is_refused_and_the_connection_goes_on() {
    let listening = Listening::open(Protocols::OWN).await;
    let mut peer = listening.peer().await;
    // Call 12, request 250 with a field.
    let unknown = (12u64, RequestId(3), None::<String>, Bytes::from_static(&[250, 0x91, 7]));
    peer.framed(&[vec![50], rmp_serde::to_vec(&unknown).unwrap()].concat()).await;
    let Some(Message::Reply(Reply {
        call_number: 12,
        answer: Readable::Known(Answer::RefusedReply(refused)),
    })) = peer.hear().await
    else {
        panic!("refused")
    };
    assert!(matches!(&refused.reason, Refusal::NotUnderstood(why) if why.cause.contains("250")));
    assert!(peer.is_served().await);
}

#[tokio::test(start_paused = true)]
async fn the_first_frame_is_a_short_hello() {
    let listening = Listening::open(Protocols::OWN).await;
    let mut long = listening.stranger();
    long.write(&(HELLO_BYTES_MAX as u32 + 1).to_le_bytes()).await;
    long.write(&[5]).await;
    assert!(long.refusal().await.contains("4097 bytes"));

    let mut rude = listening.stranger();
    rude.say(&call(1, AskStats {}.into())).await;
    assert_eq!(rude.refusal().await, "the first frame of a connection must be a hello");

    // Names at their limits, and half a frame for credentials and proof.
    let mut hello = Hello::test(ProcessInstance(u128::MAX), &"p".repeat(NAME_BYTES_MAX));
    (hello.protocol_max, hello.namespace) = (u16::MAX, Namespace(u32::MAX));
    hello.credentials = Some(vec![0; 2_048].into());
    hello.proof = Some(vec![0; 1_500].into());
    let message = Message::from(hello);
    assert!(message.encode().len() <= HELLO_BYTES_MAX, "{} bytes", message.encode().len());
    let mut full = listening.stranger();
    full.say(&message).await;
    assert!(matches!(full.hear().await, Some(Message::Welcome(welcome)) if welcome.protocol == 2));

    // What follows may be long.
    let name = "n".repeat(2 * HELLO_BYTES_MAX);
    full.say(&call(7, crate::wire::message::AskBatch { name }.into())).await;
    let answer = full.hear().await;
    assert!(
        matches!(
            &answer,
            Some(Message::Reply(Reply {
                call_number: 7,
                answer: Readable::Known(Answer::RefusedReply(_))
            }))
        ),
        "{answer:?}"
    );
    assert!(full.is_served().await);
}

/// Starts a run that dies, has it redriven and cancelled by `client`, and tells who did that as
/// the journal and the audit log have it.
async fn names_of(client: &Client, id: &str) -> (Vec<String>, Vec<(AuditAction, String)>) {
    let run = client.start(WORK, &0).name(id).await.unwrap();
    run.outcome().await.unwrap_err();
    client.redrive(run.id()).await.unwrap();
    run.outcome().await.unwrap_err();
    let entries = client.journal(run.id()).await.unwrap();
    let names = entries.into_iter().filter_map(|entry| match entry {
        Entry::Started(started) => Some(started.principal),
        Entry::Redriven(redriven) => Some(redriven.principal),
        _ => None,
    });
    let audit = client.audit(Some(run.id()), None, 10).await.unwrap();
    let audit = audit.0.into_iter().map(|entry| (entry.action, entry.principal)).collect();
    (names.collect(), audit)
}

#[tokio::test(start_paused = true)]
async fn a_gateway_acts_for_others_and_a_client_does_not() {
    let listening = Listening::open(Protocols::OWN).await;
    let failing = |_: Ctx, _: u32| async move { Err::<u32, _>(Failure::terminal("no")) };
    let _worker = listening.worker(Protocols::OWN).register(WORK, failing).start().unwrap();
    let gateway = listening.engine.gateway();
    let (ann, bob) = (gateway.client(Namespace(3), "ann"), gateway.client(Namespace(4), "bob"));
    for (client, name) in [(&ann, "ann"), (&bob, "bob")] {
        let (names, audit) = names_of(client, "order-17").await;
        assert_eq!(names, [name, name]);
        assert_eq!(audit, [(AuditAction::Redrive, name.to_owned())]);
    }
    let id = RunId::from_name(Namespace(3), "order-17");
    assert!(ann.status(id).await.is_ok() && bob.status(id).await.is_err(), "of ann's namespace");

    // A peer over a socket that says whom it acts for is nobody but itself.
    let mut eve = listening.peer().await;
    let run = crate::model::request::StartRun {
        id: RunId(5),
        workflow: "work".to_owned(),
        queue: "default".to_owned(),
        input: crate::model::payload::Payload::of(&1u32).unwrap(),
        ..Default::default()
    };
    let Message::Call(start) = call(1, Start { runs: vec![run] }.into()) else { panic!() };
    let on_behalf = OnBehalf { namespace: Namespace(3), principal: "ann".to_owned() };
    eve.say(&Call { on_behalf: Some(on_behalf), ..start.clone() }.into()).await;
    let reply = eve.hear().await;
    let Some(Message::Reply(Reply { answer: Readable::Known(Answer::StartReply(reply)), .. })) =
        reply
    else {
        panic!("{reply:?}")
    };
    assert!(reply.runs[0].started);
    let longer = (2u64, start.request_id, None::<String>, start.request, (3u32, "ann"));
    eve.framed(&[vec![50], rmp_serde::to_vec(&longer).unwrap()].concat()).await;
    let reply = eve.hear().await;
    let Some(Message::Reply(Reply { answer: Readable::Known(Answer::StartReply(reply)), .. })) =
        reply
    else {
        panic!("{reply:?}")
    };
    assert!(!reply.runs[0].started && reply.runs[0].refused.is_none(), "the same run again");
    assert!(ann.status(RunId(5)).await.is_err());
    let journal = listening.client(Protocols::OWN).journal(RunId(5)).await.unwrap();
    assert!(matches!(&journal[0], Entry::Started(started) if started.principal == "eve"));
}

// Each side in either version: what the later one adds is skipped, both ways.
#[tokio::test(start_paused = true)]
async fn engines_workers_and_clients_of_two_versions_work_together() {
    let versions = [Protocols::OWN, Protocols::LATER];
    for engine in versions {
        let listening = Listening::open(engine).await;
        for peers in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let (worker, client) = (versions[peers.0], versions[peers.1]);
            let function = |ctx: Ctx, n: u32| async move {
                let more = ctx.step("more", |_| async move { Ok::<_, Failure>(n + 1) }).await?;
                ctx.sleep(crate::workflow::secs(5)).await?;
                Ok(more)
            };
            let worker = listening.worker(worker).register(WORK, function).start().unwrap();
            let client = listening.client(client);
            let run = client.start(WORK, &7).await.unwrap();
            assert_eq!(run.outcome().await, Ok(8), "{engine:?} with {peers:?}");
            assert_eq!(client.stats().await.unwrap().sessions_lost, 0);
            worker.drain().await;
        }
        let mut peer = listening.stranger();
        let max = Protocols::LATER.max;
        let hello = Hello { protocol_max: max, ..Hello::test(ProcessInstance(7), "eve") };
        peer.say(&hello.into()).await;
        let agreed = engine.agreed(Protocols::LATER).unwrap();
        let heard = peer.hear().await;
        assert!(matches!(&heard, Some(Message::Welcome(welcome)) if welcome.protocol == agreed));
    }
}
