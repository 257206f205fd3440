//! A connection that knows where frames begin: it writes them down, sends some of them twice, some
//! again much later, perhaps over another connection, and cuts what it sends into pieces.
//!
//! TCP never delivers bytes twice, so a copy of a message can only come from above it: a peer that
//! sends again. That is what is simulated here.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use stepwell::model::id::ProcessInstance;
use stepwell::wire::message::Message;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::TcpStream;
use twox_hash::XxHash3_64;

use super::frame::{brief, is_answer, is_of_schedule, kind_name, may_come_late};
use super::{Host, SERVER_NAME};
use crate::checker::Agreement;
use crate::draw::Draw;
use crate::event::{Copies, What};

/// The bytes before each frame that tell its length.
const HEAD_BYTES: usize = 4;
/// The latest a copy comes.
const LATE_MAX_MS: u64 = 3_000;
/// The latest a copy comes that is late by hours.
const VERY_LATE_MAX_MS: u64 = 47 * 3_600_000;

/// A connection as the simulator has it; empty once it is closed.
pub(super) type Socket = Arc<Mutex<Option<TcpStream>>>;

pub(super) struct FrameStream {
    host: Arc<Host>,
    peer: String,
    socket: Socket,
    label: Arc<str>,
    draw: Draw,
    order_draw: Draw,
    /// Whoever waits for something to read, to be told if the connection is cut from here.
    reader: Option<Waker>,
    /// The first frame is out.
    greeted: bool,
    /// The process at the other end, if this is the server's.
    who: Option<ProcessInstance>,
    /// The process at this end, if it is not the server's.
    own: Option<ProcessInstance>,
    agreement: Agreement,
    opened_ms: u64,
    heard_ms: u64,
    sent: Frames,
    received: Frames,
    /// Which connection this is, and how many frames went out and came in, for those who look.
    connection: u32,
    sent_count: u32,
    received_count: u32,
    /// What is still to be written, one piece a write.
    pieces: VecDeque<Bytes>,
}

impl FrameStream {
    pub(super) fn new(
        host: Arc<Host>,
        peer: String,
        label: &str,
        connection: u32,
        socket: Socket,
    ) -> Self {
        let label = format!("frames {} {} {peer} {label} {}", host.name, host.life, host.now_ms());
        let draw = Draw::of(host.world.plan.seed, &label);
        let order_draw = Draw::of(host.world.plan.seed, format_args!("orders {label}"));
        let (sent, received) = (Frames::default(), Frames::default());
        let now_ms = host.now_ms();
        Self {
            host,
            peer,
            socket,
            label: label.into(),
            draw,
            order_draw,
            reader: None,
            greeted: false,
            who: None,
            own: None,
            agreement: Agreement::default(),
            opened_ms: now_ms,
            heard_ms: now_ms,
            sent,
            received,
            connection,
            sent_count: 0,
            received_count: 0,
            pieces: VecDeque::new(),
        }
    }

    /// Takes what is written: whole frames go on, some twice, in pieces.
    fn take(&mut self, bytes: &[u8]) {
        let world = self.host.world.clone();
        let settings = &world.plan.settings;
        self.sent.0.extend_from_slice(bytes);
        let mut out = BytesMut::new();
        while let Some(frame) = self.sent.next() {
            let message = Message::decode(&frame[HEAD_BYTES..]).ok();
            if message.as_ref().is_some_and(|message| self.is_cut_before(message)) {
                return self.cut(&frame);
            }
            self.count_sent(message.as_ref(), Copies::First);
            self.look_at_sent(&frame, message.as_ref());
            out.extend_from_slice(&frame);
            let again = message.as_ref().and_then(|message| self.comes_again_after(message));
            if let Some(after_ms) = again {
                self.host.send_again(&self.peer, &self.label, after_ms, frame.clone());
            }
            if self.draw.chance(settings.duplicates_per_mille) {
                self.host.world.saw("frames sent twice");
                self.count_sent(message.as_ref(), Copies::Twice);
                out.extend_from_slice(&frame);
            }
        }
        // A hello comes first, in any case.
        if self.greeted {
            for frame in self.host.due_again(&self.peer, &self.label) {
                self.host.line(format_args!(
                    "> {} again {:016x}",
                    self.peer,
                    XxHash3_64::oneshot(&frame)
                ));
                if self.host.world.is_recording() {
                    let message = Message::decode(&frame[HEAD_BYTES..]).ok();
                    self.count_sent(message.as_ref(), Copies::Late);
                }
                out.extend_from_slice(&frame);
            }
        }
        self.greeted = true;
        let mut out = out.freeze();
        if self.draw.chance(settings.splits_per_mille) {
            self.host.world.saw("writes cut into pieces");
            for _ in 0..self.draw.between(1, 3) {
                let at = self.draw.between(0, out.len() as u64) as usize;
                if at > 0 && at < out.len() {
                    self.pieces.push_back(out.split_to(at));
                }
            }
        }
        if !out.is_empty() {
            self.pieces.push_back(out);
        }
    }

    /// After how many milliseconds a copy of the frame comes, if one does.
    fn comes_again_after(&mut self, message: &Message) -> Option<u64> {
        let settings = &self.host.world.plan.settings;
        let draw = match is_of_schedule(message) {
            true => &mut self.order_draw,
            false => &mut self.draw,
        };
        if !may_come_late(message) || !draw.chance(settings.late_copies_per_mille) {
            return None;
        }
        let very = settings.very_late_copies_per_mille;
        let latest_ms =
            if settings.skips_time && draw.chance(very) { VERY_LATE_MAX_MS } else { LATE_MAX_MS };
        Some(draw.between(20, latest_ms))
    }

    /// Whether this answer of the server never leaves.
    fn is_cut_before(&mut self, message: &Message) -> bool {
        let settings = &self.host.world.plan.settings;
        let per_mille = settings.cut_replies_per_mille;
        if per_mille == 0 || self.host.name != SERVER_NAME || !is_answer(message) {
            return false;
        }
        self.host.now_ms() < settings.faults_end_ms && self.draw.chance(per_mille)
    }

    /// The connection is gone, before this frame could leave.
    fn cut(&mut self, frame: &Bytes) {
        let kind = frame.get(HEAD_BYTES).copied().unwrap_or(0);
        self.host.note(format_args!("x {} cut before kind {kind}", self.peer));
        self.host.world.saw("replies cut off after their commit");
        self.pieces.clear();
        drop(self.socket.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn look_at_sent(&mut self, frame: &Bytes, message: Option<&Message>) {
        let kind = message.map_or("garbage", kind_name);
        let about = message.map_or(String::new(), brief);
        self.host.line(format_args!(
            "> {} {kind}{about} {:016x}",
            self.peer,
            XxHash3_64::oneshot(frame)
        ));
        let Some(message) = message else {
            return;
        };
        let (world, now_ms) = (&self.host.world, self.host.now_ms());
        if let Err(text) = self.agreement.sent(self.host.protocols(), message) {
            world.checkers().report(Agreement::NAME, now_ms, format!("{}: {text}", self.host.name));
        }
        if self.host.name == SERVER_NAME {
            if matches!(message, Message::Welcome(_)) {
                world.saw(self.agreement.between(self.host.protocols()));
            }
            return world.released(now_ms, (&self.peer, self.who), message);
        }
        if let Message::Hello(hello) = message {
            self.own = Some(hello.process);
        }
        world.reported((&self.host.name, self.own), message);
    }

    fn count_sent(&mut self, message: Option<&Message>, copy: Copies) {
        let number = self.sent_count;
        self.sent_count += 1;
        self.host.record_sent(&self.peer, self.connection, number, message, copy);
    }

    fn look_at_received(&mut self, frame: &Bytes) {
        self.heard_ms = self.host.now_ms();
        let number = self.received_count;
        self.received_count += 1;
        self.host.record(|_| What::Received {
            peer: self.peer.clone(),
            connection: self.connection,
            number,
        });
        self.host.line(format_args!(
            "< {} kind {} {:016x}",
            self.peer,
            frame.get(HEAD_BYTES).unwrap_or(&0),
            XxHash3_64::oneshot(frame)
        ));
        if !self.agreement.is_made()
            && let Ok(message) = Message::decode(&frame[HEAD_BYTES..])
        {
            self.agreement.received(&message);
            if let Message::Hello(hello) = &message {
                self.who = self.who.or(Some(hello.process));
            }
        }
        if self.host.name != SERVER_NAME {
            return;
        }
        if let Some(who) = self.who {
            let world = &self.host.world;
            world.checkers().heard(self.heard_ms, who, &world.plan);
        }
    }

    /// The server has noticed that the connection is gone.
    fn parts(&self) {
        if let Some(who) = self.who {
            let now_ms = self.host.world.now_ms();
            self.host.world.checkers().parted(now_ms, who);
        }
    }

    /// Once all is mended, the engine is heard on every connection that is opened, and the other
    /// way round.
    fn look_at_end(&self) {
        self.parts();
        let (world, settings) = (&self.host.world, &self.host.world.plan.settings);
        let now_ms = world.now_ms();
        let mended_ms = settings.faults_end_ms + 3 * settings.session_timeout_ms;
        let silent_ms = now_ms.saturating_sub(self.heard_ms);
        if !world.is_crashing()
            && world.plan.script.is_empty()
            && self.opened_ms > mended_ms
            && silent_ms >= settings.session_timeout_ms
        {
            let (host, peer) = (&self.host.name, &self.peer);
            let text = format!("{host} heard nothing of {peer} for {silent_ms} ms on a whole link");
            world.checkers().report("a whole link is not silent", now_ms, text);
        }
    }

    fn poll_pieces(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(piece) = self.pieces.front_mut() {
            let written = ready!(on(&self.socket, |inner| inner.poll_write(cx, piece)));
            match written {
                Ok(written) => piece.advance(written),
                Err(error) => {
                    self.parts();
                    return Poll::Ready(Err(error));
                }
            }
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for FrameStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.host.poll_awake(cx));
        self.reader = Some(cx.waker().clone());
        let before = into.filled().len();
        let read = ready!(on(&self.socket, |inner| inner.poll_read(cx, into)));
        if read.is_err() || into.filled().len() == before {
            self.parts();
        }
        read?;
        let this = &mut *self;
        this.received.0.extend_from_slice(&into.filled()[before..]);
        while let Some(frame) = this.received.next() {
            this.look_at_received(&frame);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FrameStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.host.poll_awake(cx));
        ready!(self.poll_pieces(cx))?;
        self.take(bytes);
        // What does not go out now goes out before the next write, flush or shutdown.
        if let Poll::Ready(Err(error)) = self.poll_pieces(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.host.poll_awake(cx));
        ready!(self.poll_pieces(cx))?;
        on(&self.socket, |inner| inner.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.host.poll_awake(cx));
        ready!(self.poll_pieces(cx))?;
        on(&self.socket, |inner| inner.poll_shutdown(cx))
    }
}

impl Drop for FrameStream {
    /// When a host crashes, its tasks are dropped in an order that depends on their ids, which are
    /// counted over the whole process. So all connections are closed at once then, in the order in
    /// which they were opened.
    fn drop(&mut self) {
        self.look_at_end();
        if self.host.world.is_crashing() {
            self.host.close_all();
        }
    }
}

/// Works on the connection, if it is still open.
fn on<T>(
    socket: &Socket,
    work: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<T>>,
) -> Poll<io::Result<T>> {
    match socket.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        Some(inner) => work(Pin::new(inner)),
        None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
    }
}

/// Bytes, taken off frame by frame.
#[derive(Default)]
struct Frames(BytesMut);

impl Frames {
    /// The next whole frame with its head.
    fn next(&mut self) -> Option<Bytes> {
        let head = self.0.first_chunk::<HEAD_BYTES>()?;
        let bytes = HEAD_BYTES + u32::from_le_bytes(*head) as usize;
        (self.0.len() >= bytes).then(|| self.0.split_to(bytes).freeze())
    }
}
