//! A link: messages both ways, over a byte stream or within a process.
//!
//! Everything above works on messages and cannot tell a socket from an embedded engine. Over a
//! stream two tasks pump: one decodes what arrives, one writes all that has queued up with as few
//! writes as possible.

use std::io;
use std::sync::{Arc, OnceLock};

use bytes::{Buf, BytesMut};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use super::env::{Env, Stream};
use crate::wire::frame::{self, FRAME_BYTES_MAX, LongFirstFrame};
use crate::wire::handshake::{HELLO_BYTES_MAX, Protocols};
use crate::wire::message::{Closing, HelloV1, Message};

/// One write carries at most about this many bytes.
const WRITE_BYTES: usize = 64 << 10;

/// A link has been closed; the message was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection is closed")]
pub struct Closed;

/// The sending end. Never blocks.
#[derive(Clone)]
pub struct LinkSender(Arc<dyn Fn(Message) -> Result<(), Closed> + Send + Sync>);

impl LinkSender {
    /// A sender that calls `send`.
    pub fn new(send: impl Fn(Message) -> Result<(), Closed> + Send + Sync + 'static) -> Self {
        Self(Arc::new(send))
    }

    /// Queues one message.
    pub fn send(&self, message: impl Into<Message>) -> Result<(), Closed> {
        (self.0)(message.into())
    }
}

impl std::fmt::Debug for LinkSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LinkSender")
    }
}

/// Both ends of one side. Dropping the sender (all clones of it) closes the link.
#[derive(Debug)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct Link {
    /// To the other side.
    pub sender: LinkSender,
    /// From the other side; `None` once the link is closed.
    pub receiver: mpsc::UnboundedReceiver<Message>,
    /// Why it was closed, if something is known.
    pub reason: Arc<OnceLock<String>>,
}

impl Link {
    /// Two sides within one process.
    pub fn pair() -> (Self, Self) {
        let (to_a, from_b) = mpsc::unbounded_channel();
        let (to_b, from_a) = mpsc::unbounded_channel();
        let reason = Arc::new(OnceLock::new());
        let side = |sender: mpsc::UnboundedSender<Message>, receiver| Self {
            sender: LinkSender::new(move |m| sender.send(m).map_err(|_| Closed)),
            receiver,
            reason: reason.clone(),
        };
        (side(to_b, from_b), side(to_a, from_a))
    }

    /// Pumps a byte stream, on tasks of the current runtime, until either side closes it.
    pub fn over(stream: Box<dyn Stream>, protocols: Protocols) -> Self {
        let (read, write) = tokio::io::split(stream);
        let (outward, to_write) = mpsc::unbounded_channel();
        let (to_user, receiver) = mpsc::unbounded_channel();
        let reason = Arc::new(OnceLock::new());
        let told = reason.clone();
        let answer = outward.downgrade();
        tokio::spawn(async move {
            let mut reader = FrameReader::new(read);
            let problem = loop {
                match reader.next().await {
                    Ok(Some(message)) => {
                        if to_user.send(message).is_err() {
                            return;
                        }
                    }
                    Ok(None) => return,
                    Err(problem) => break problem,
                }
            };
            if let Some(answer) = answer.upgrade() {
                let _ = answer.send(Closing { reason: problem.clone() }.into());
            }
            let _ = told.set(problem);
        });
        tokio::spawn(write_frames(write, to_write, protocols, |_| {}));
        Self {
            sender: LinkSender::new(move |m| outward.send(m).map_err(|_| Closed)),
            receiver,
            reason,
        }
    }
}

/// Reads a byte stream as messages.
pub(crate) struct FrameReader {
    read: ReadHalf<Box<dyn Stream>>,
    buffer: BytesMut,
    /// It has not said hello yet, and must not fill memory.
    is_stranger: bool,
}

impl FrameReader {
    pub(crate) fn new(read: ReadHalf<Box<dyn Stream>>) -> Self {
        let buffer = BytesMut::with_capacity(WRITE_BYTES);
        Self { read, buffer, is_stranger: false }
    }

    /// A reader whose first frame is a hello, and so is short.
    #[cfg(feature = "server")]
    pub(crate) fn of_stranger(read: ReadHalf<Box<dyn Stream>>) -> Self {
        Self { is_stranger: true, ..Self::new(read) }
    }

    fn bytes_max(&self) -> usize {
        if self.is_stranger { HELLO_BYTES_MAX } else { FRAME_BYTES_MAX }
    }

    /// The next message; `None` at the end of the stream; an error if it is not our protocol or
    /// reading fails.
    pub(crate) async fn next(&mut self) -> Result<Option<Message>, String> {
        loop {
            let long = self.is_stranger.then(|| LongFirstFrame::of(&self.buffer)).flatten();
            if let Some(LongFirstFrame::HelloV1(bytes)) = long {
                return self.skip(bytes).await.map(|()| Some(HelloV1 { protocol: 1 }.into()));
            }
            let bytes_max = self.bytes_max();
            if long.is_none()
                && let Some(message) =
                    frame::decode(&mut self.buffer, bytes_max).map_err(|e| chain(&e))?
            {
                self.is_stranger &= !matches!(message, Message::Hello(_));
                return Ok(Some(message));
            }
            match self.read.read_buf(&mut self.buffer).await {
                Ok(0) if self.buffer.is_empty() => return Ok(None),
                Ok(0) => return Err("the peer closed the connection within a frame".to_owned()),
                Ok(_) => {}
                Err(e) => return Err(format!("reading failed: {e}")),
            }
        }
    }
}

impl FrameReader {
    /// Reads and drops so many bytes: with unread ones the close of a connection takes back what was
    /// written to the peer.
    async fn skip(&mut self, bytes: usize) -> Result<(), String> {
        let mut left = bytes;
        loop {
            let now = left.min(self.buffer.len());
            self.buffer.advance(now);
            left -= now;
            if left == 0 {
                return Ok(());
            }
            match self.read.read_buf(&mut self.buffer).await {
                Ok(0) => return Err("the peer closed the connection within a frame".to_owned()),
                Ok(_) => {}
                Err(e) => return Err(format!("reading failed: {e}")),
            }
        }
    }
}

/// Writes what queues up, many frames a write, until all senders are gone or writing fails.
///
/// `written` is told how many messages have left the queue.
pub(crate) async fn write_frames(
    mut write: WriteHalf<Box<dyn Stream>>,
    mut queue: mpsc::UnboundedReceiver<Message>,
    protocols: Protocols,
    written: impl Fn(usize) + Send,
) {
    let mut buffer = Vec::with_capacity(WRITE_BYTES);
    while let Some(message) = queue.recv().await {
        buffer.clear();
        frame::encode(&message, protocols, &mut buffer);
        let mut closing = matches!(message, Message::Closing(_));
        let mut taken = 1;
        while buffer.len() < WRITE_BYTES && !closing {
            let Ok(message) = queue.try_recv() else { break };
            closing = matches!(message, Message::Closing(_));
            frame::encode(&message, protocols, &mut buffer);
            taken += 1;
        }
        written(taken);
        if write.write_all(&buffer).await.is_err() || closing {
            break;
        }
        if buffer.capacity() > 16 * WRITE_BYTES {
            buffer = Vec::with_capacity(WRITE_BYTES);
        }
    }
    let _ = write.shutdown().await;
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Opens links to an engine, again and again.
pub trait Dial: Send + Sync {
    /// One attempt. The caller puts a time limit around it.
    fn dial(&self) -> BoxFuture<'static, io::Result<Link>>;
    /// What it dials, for messages.
    fn address(&self) -> String;
}

/// Dials over the network.
#[derive(Debug, Clone)]
pub struct NetDial {
    env: Env,
    address: String,
}

impl NetDial {
    /// Dials `address` (`HOST:PORT` or `unix:PATH`).
    pub fn new(env: Env, address: impl Into<String>) -> Self {
        Self { env, address: address.into() }
    }
}

impl Dial for NetDial {
    fn dial(&self) -> BoxFuture<'static, io::Result<Link>> {
        let connecting = self.env.net.connect(&self.address);
        let protocols = self.env.protocols;
        Box::pin(async move { Ok(Link::over(connecting.await?, protocols)) })
    }

    fn address(&self) -> String {
        self.address.clone()
    }
}
