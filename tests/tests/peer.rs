//! A peer that speaks frames by hand, so that a test decides what is sent when, and sees what
//! arrives.

use bytes::BytesMut;
use serde::Serialize;
use stepwell::model::id::{Namespace, ProcessInstance, RequestId};
use stepwell::model::request::StartRun;
use stepwell::wire::frame::{self, FRAME_BYTES_MAX};
use stepwell::wire::handshake::Protocols;
use stepwell::wire::message::{
    Call, Hello, Message, QueueSlots, Register, Request, Requested, Start, Welcome, WorkflowOffer,
};
use stepwell::{Payload, RunId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::host::PATIENCE;

/// A connection.
pub(crate) struct Peer {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Peer {
    /// A connection over which nothing was said yet.
    pub(crate) async fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: BytesMut::new() }
    }

    /// A connection that was welcomed.
    pub(crate) async fn greeted(address: &str, hello: Hello) -> (Self, Welcome) {
        let mut peer = Self::connect(address).await;
        peer.send(&[hello.into()]).await;
        match peer.next().await {
            Some(Message::Welcome(welcome)) => (peer, welcome),
            other => panic!("not welcomed: {other:?}"),
        }
    }

    /// A connection of a worker that is registered.
    pub(crate) async fn registered(address: &str, hello: Hello, register: Register) -> Self {
        let (mut peer, _) = Self::greeted(address, hello).await;
        peer.send(&[register.into()]).await;
        match peer.next().await {
            Some(Message::Registered(_)) => peer,
            other => panic!("not registered: {other:?}"),
        }
    }

    /// Sends bytes as they are; whether they went out.
    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Sends frames, in one write; whether they went out.
    pub(crate) async fn send(&mut self, messages: &[Message]) -> bool {
        let mut bytes = Vec::new();
        messages.iter().for_each(|message| frame::encode(message, Protocols::OWN, &mut bytes));
        self.send_raw(&bytes).await
    }

    /// Says that nothing more will be sent.
    pub(crate) async fn shut(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// The next message, heartbeats left out; `None` at the end of the connection.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        loop {
            match frame::decode(&mut self.buffer, FRAME_BYTES_MAX).unwrap() {
                Some(Message::Heartbeat(_)) => {}
                Some(message) => return Some(message),
                None => match timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await {
                    Ok(Ok(1..)) => {}
                    Ok(Ok(0) | Err(_)) => return None,
                    Err(_) => panic!("neither a message nor the end within {PATIENCE:?}"),
                },
            }
        }
    }

    /// All bytes that come until the end of the connection.
    pub(crate) async fn rest(mut self) -> Vec<u8> {
        let mut bytes = self.buffer.to_vec();
        let read = timeout(PATIENCE, self.stream.read_to_end(&mut bytes)).await;
        read.expect("the end within reach").unwrap();
        bytes
    }

    /// The reason that the connection is closed with.
    pub(crate) async fn closed_with(&mut self) -> String {
        let mut reason = None;
        while let Some(message) = self.next().await {
            if let Message::Closing(closing) = message {
                reason = Some(closing.reason);
            }
        }
        reason.expect("the last frame tells why")
    }
}

/// The hello of a client or of a worker.
pub(crate) fn hello(number: u128) -> Hello {
    Hello {
        protocol_min: Protocols::OWN.min,
        protocol_max: Protocols::OWN.max,
        process: ProcessInstance(number),
        namespace: Namespace::default(),
        principal: "by hand".to_owned(),
        credentials: None,
        proof: None,
    }
}

/// What a worker of `workflow` says next.
pub(crate) fn register(workflow: &str, slots: u32) -> Register {
    Register {
        build: "by hand".to_owned(),
        workflows: vec![WorkflowOffer::test(workflow)],
        queues: vec![QueueSlots { queue: "default".to_owned(), slots }],
        tags: Vec::new(),
        held: Vec::new(),
    }
}

/// A request.
pub(crate) fn call(call_number: u64, request_id: u128, request: impl Into<Request>) -> Message {
    Call {
        call_number,
        request_id: RequestId(request_id),
        traceparent: None,
        request: Requested::Known(request.into()),
        on_behalf: None,
    }
    .into()
}

/// A request to start one run.
pub(crate) fn start(
    call_number: u64,
    workflow: &str,
    id: RunId,
    input: &impl Serialize,
) -> Message {
    let run = StartRun {
        id,
        name: None,
        workflow: workflow.to_owned(),
        version: 1,
        queue: "default".to_owned(),
        priority: 5,
        delay_ms: 0,
        input: Payload::of(input).unwrap(),
        tags: Vec::new(),
        unique: None,
    };
    call(call_number, id.0, Start { runs: vec![run] })
}
