//! The task that carries one turn: messages of the engine in, reports out, the function polled in
//! between.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::outlet::Outlet;
use super::peer::SessionControl;
use crate::model::id::{CommandIndex, RunNo, Token};
use crate::model::request::Refusal;
use crate::replay::turn::{Phase, Turn};
use crate::replay::watch::Watch;
use crate::replay::world::{World, count};
use crate::wire::message::Requeue;

/// What the session tells a turn. That the turn is over it tells by closing the channel.
#[derive(Debug)]
pub(crate) enum ToTurn {
    /// A page of the journal.
    Stored { from: u32, entries: Vec<Bytes> },
    /// An entry, live.
    Told { index: u32, entry: Bytes },
    /// A report was refused.
    Refused { number: CommandIndex, reason: Refusal },
    /// The lease goes on, over another connection.
    LeaseContinued { token: Token, count: u32, connection: u64 },
    /// A memoized step may make its attempt.
    AttemptMemo { number: CommandIndex },
    /// The engine knows that it makes none.
    MemoReleased { number: CommandIndex },
    /// Bodies may start again.
    GateOpened,
    /// Requeue the run as soon as nothing is lost by it.
    Drain,
    /// Requeue the run now.
    Stop,
}

/// See the module.
pub(crate) struct TurnTask {
    pub(crate) run: RunNo,
    pub(crate) token: Token,
    pub(crate) turn: Turn,
    pub(crate) watch: Arc<Watch>,
    pub(crate) inbox: mpsc::UnboundedReceiver<ToTurn>,
    pub(crate) outlet: Arc<Outlet>,
    /// The connection that the token belongs to.
    pub(crate) connection: u64,
    pub(crate) world: Arc<World>,
    /// How many entries it has, for a hello.
    pub(crate) seen: Arc<AtomicU32>,
    pub(crate) draining: bool,
    pub(crate) stopping: bool,
    /// Tells the session that it is gone, also if it is dropped.
    pub(crate) gone: Gone,
}

/// Tells the session, when dropped, that a turn's task is no more.
pub(crate) struct Gone {
    pub(crate) run: RunNo,
    pub(crate) turn: u64,
    pub(crate) session: mpsc::UnboundedSender<SessionControl>,
}

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = self.session.send(SessionControl::Gone { run: self.run, turn: self.turn });
    }
}

impl TurnTask {
    /// Carries the turn to its end.
    pub(crate) async fn run(mut self) {
        std::future::poll_fn(|cx| self.poll(cx)).await;
        // The function goes before the word that it is gone.
        self.stop_turn();
        drop(self.gone);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.inbox.poll_recv(cx) {
                Poll::Ready(Some(message)) => self.take(message),
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        if self.stopping {
            return self.requeue();
        }
        self.watch.poll_begins(self.world.clock.mono());
        self.turn.poll(cx);
        self.watch.poll_ends();
        self.seen.store(self.turn.seen(), Ordering::Relaxed);
        self.turn.flush(|message| self.outlet.send(self.connection, message));
        if let Phase::Unregistered(workflow) = self.turn.phase() {
            tracing::warn!(run = %self.run, workflow, "a run of a workflow that is not registered here was dispatched");
            return self.requeue();
        }
        if self.draining && self.turn.is_idle() {
            return self.requeue();
        }
        Poll::Pending
    }

    fn take(&mut self, message: ToTurn) {
        match message {
            ToTurn::Stored { from, entries } => self.turn.stored(from, entries),
            ToTurn::Told { index, entry } => self.turn.told(index, &entry),
            ToTurn::Refused { number, reason } => self.turn.refused(number, &reason),
            ToTurn::LeaseContinued { token, count, connection } => {
                (self.token, self.connection) = (token, connection);
                self.turn.lease_continued(token, count);
                self.turn.gate_opened();
            }
            ToTurn::AttemptMemo { number } => self.turn.attempt_memo(number),
            ToTurn::MemoReleased { number } => self.turn.memo_released(number),
            ToTurn::GateOpened => self.turn.gate_opened(),
            ToTurn::Drain => self.draining = true,
            ToTurn::Stop => self.stopping = true,
        }
    }

    /// Destructors may block, too.
    fn stop_turn(&mut self) {
        self.watch.poll_begins(self.world.clock.mono());
        self.turn.stop();
        self.watch.poll_ends();
    }

    /// The function is dropped first: the run may be leased to another worker as soon as the frame
    /// is there.
    fn requeue(&mut self) -> Poll<()> {
        self.stop_turn();
        if self.outlet.send(self.connection, Requeue { run: self.run, token: self.token }) {
            count(&self.world.counts.requeued);
        }
        Poll::Ready(())
    }
}
