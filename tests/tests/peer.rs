//! A peer that speaks frames by hand, so that a test decides what is sent when, and sees what
//! arrives.

use bytes::BytesMut;
use serde::Serialize;
use stepwell::model::id::{ProcessInstance, RequestId};
use stepwell::model::request::{Caller, StartRun};
use stepwell::wire::frame::{self, FRAME_BYTES_MAX};
use stepwell::wire::message::{
    Hello, Message, PROTOCOL, QueueSlots, Start, Welcome, WorkflowOffer,
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

    /// Sends bytes as they are; whether they went out.
    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Sends frames, in one write; whether they went out.
    pub(crate) async fn send(&mut self, messages: &[Message]) -> bool {
        let mut bytes = Vec::new();
        messages.iter().for_each(|message| frame::encode(message, &mut bytes));
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

/// The hello of a client.
pub(crate) fn hello(number: u128) -> Hello {
    let principal = "by hand".to_owned();
    Hello {
        protocol: PROTOCOL,
        caller: Caller { principal, request_id: RequestId(number), ..Caller::default() },
        credentials: None,
        process: ProcessInstance(number),
        build: "by hand".to_owned(),
        workflows: Vec::new(),
        queues: Vec::new(),
        held: Vec::new(),
        tags: Vec::new(),
    }
}

/// The hello of a worker of `workflow`.
pub(crate) fn worker_hello(number: u128, workflow: &str, slots: u32) -> Hello {
    let queue = "default".to_owned();
    Hello {
        workflows: vec![WorkflowOffer { workflow: workflow.to_owned(), version: 1 }],
        queues: vec![QueueSlots { queue, slots }],
        ..hello(number)
    }
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
    let caller = Caller { request_id: RequestId(id.0), ..Caller::default() };
    Start { call_number, caller, runs: vec![run] }.into()
}
