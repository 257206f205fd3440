//! The driver: feeds the core, submits its writes, answers its reads, and releases its actions
//! against receipts.
//!
//! ```text
//!   connections ──► inbox ──► core.handle … ──► submit ──► committer ──► fsync
//!        ▲                       ▲   │                                     │ receipt
//!        │                       │   └─► reads ──► answers                 │
//!        └──── actions ◄── gate ◄──────────────────────────────────────────┘
//! ```
//!
//! The core runs ahead of the disk in memory; the gate holds every action until the last write
//! before it is durable (R1). Refusals and answers to questions go through the same gate, because
//! what they tell may not be durable yet.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use stepwell_storage::{Receipt, Seq, Store, SubmitRefusal};
use tokio::sync::{mpsc, oneshot, watch};

use super::committer::{self, CommitterReply, Work};
use super::env::Env;
use super::link::LinkSender;
use super::query::{self, Query};
use crate::canary::canary;
use crate::core::clock::ClockSample;
use crate::core::output::{Action, Output, Withheld};
use crate::core::{Core, Input};
use crate::model::id::{RunNo, SessionId, Token};
use crate::model::request::StaleToken;
use crate::store_reader::{self, Unreadable};
use crate::wire::frame::JOURNAL_FRAME_BYTES;
use crate::wire::message::{
    Call, Closing, Dispatch, Heartbeat, Journal, JournalPage, JournalPageRequested, LeaseContinued,
    Message, Reply, Requested,
};

/// Events handled between two submits at most.
const EVENTS_MAX: usize = 512;
/// Bytes collected between two submits at most (soft).
const BYTES_MAX: usize = 1 << 20;

/// How long connections may take to write the engine's goodbye.
const FAREWELL: Duration = Duration::from_millis(20);

/// What reaches the driver.
pub(super) enum Event {
    /// A connection was opened.
    Opened { session: SessionId, sender: LinkSender, from: String, closer: Closer },
    /// It said something.
    Message { session: SessionId, message: Message },
    /// It is gone.
    Closed { session: SessionId },
    /// The committer has news.
    Store(CommitterReply),
    /// A question has its answer, to be released like any other action.
    Answer { session: SessionId, message: Message },
    /// Close in peace.
    Close(oneshot::Sender<()>),
}

/// Ends the reading side of a connection.
pub(super) type Closer = Option<tokio::task::AbortHandle>;

/// The way to a driver.
#[derive(Clone)]
pub(super) struct DriverHandle {
    pub(super) inbox: mpsc::UnboundedSender<Event>,
    /// Events in the inbox, so that readers of sockets can hold back.
    pub(super) depth: Arc<AtomicUsize>,
    next_session: Arc<AtomicU64>,
}

impl DriverHandle {
    /// A handle and the inbox it leads to.
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (inbox, events) = mpsc::unbounded_channel();
        let handle = Self {
            inbox,
            depth: Arc::new(AtomicUsize::new(0)),
            next_session: Arc::new(AtomicU64::new(1)),
        };
        (handle, events)
    }

    pub(super) fn next_session(&self) -> SessionId {
        SessionId(self.next_session.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn send(&self, event: Event) -> Result<(), super::link::Closed> {
        self.depth.fetch_add(1, Ordering::Relaxed);
        self.inbox.send(event).map_err(|_| super::link::Closed)
    }
}

struct Connection {
    sender: LinkSender,
    closer: Closer,
    from: String,
    said_hello: bool,
}

/// Why a driver ended.
#[derive(Debug, Clone)]
pub(super) enum DriverEnd {
    /// It was asked to.
    Closed,
    /// It poisoned itself (R9).
    Poisoned(String),
}

/// Owns the core.
pub(super) struct Driver {
    env: Env,
    store: Arc<dyn Store>,
    core: Core,
    out: Output,
    handle: DriverHandle,
    inbox: mpsc::UnboundedReceiver<Event>,
    connections: BTreeMap<SessionId, Connection>,
    gate: VecDeque<(Seq, Withheld)>,
    /// Answers to questions, by the sequence number they wait for.
    answers: VecDeque<(Seq, SessionId, Message)>,
    receipt: Option<Receipt>,
    /// Something was submitted that nobody has been asked to commit.
    uncommitted: bool,
    /// The committer is at work, and has been asked to commit up to here.
    committing: bool,
    asked: Seq,
    /// Generations the committer has been asked to drop and has not dropped yet.
    dropping: usize,
    work: mpsc::UnboundedSender<Work>,
    closing: Option<oneshot::Sender<()>>,
}

impl Driver {
    /// Runs the driver and its committer to their end.
    pub(super) async fn run(
        env: Env,
        store: Arc<dyn Store>,
        core: Core,
        handle: DriverHandle,
        inbox: mpsc::UnboundedReceiver<Event>,
        ended: watch::Sender<Option<DriverEnd>>,
    ) {
        let (work, orders) = mpsc::unbounded_channel();
        let (committer_gone, gone) = oneshot::channel::<()>();
        let committing = {
            let (store, driver) = (store.clone(), handle.clone());
            async move {
                committer::run(store, orders, driver).await;
                drop(committer_gone);
            }
        };
        let isolated = env.exec.isolated("stepwell-commit", Box::pin(committing));
        let mut driver = Self {
            env,
            store,
            core,
            out: Output::new(),
            handle,
            inbox,
            connections: BTreeMap::new(),
            gate: VecDeque::new(),
            answers: VecDeque::new(),
            receipt: None,
            uncommitted: false,
            committing: false,
            asked: Seq(0),
            dropping: 0,
            work,
            closing: None,
        };
        let outcome = match isolated {
            Ok(()) => driver.work().await,
            Err(e) => Err(format!("the committer's thread cannot be started: {e}")),
        };
        let reason = match &outcome {
            Ok(()) => "the engine is closing".to_owned(),
            Err(cause) => cause.clone(),
        };
        if let Err(cause) = &outcome {
            tracing::error!(%cause, "the engine stops: nothing more is acknowledged");
        }
        for connection in driver.connections.values() {
            let _ = connection.sender.send(Closing { reason: reason.clone() });
        }
        let closing = driver.closing.take();
        let farewell = (!driver.connections.is_empty()).then(|| driver.env.clock.sleep(FAREWELL));
        driver.inbox.close();
        drop(driver);
        let _ = gone.await; // the store is closed once both are gone
        if let Some(farewell) = farewell {
            farewell.await; // whoever hears that the engine has ended may end the process
        }
        let _ = ended.send(Some(outcome.map_or_else(DriverEnd::Poisoned, |()| DriverEnd::Closed)));
        if let Some(closing) = closing {
            let _ = closing.send(());
        }
    }

    async fn work(&mut self) -> Result<(), String> {
        self.handle(Input::Ticked);
        self.flush().await?;
        loop {
            let nap = match self.core.wakes_at() {
                Some(at) => at.saturating_sub(self.env.clock.mono()),
                None => Duration::from_secs(1),
            };
            let event = if nap.is_zero() {
                tokio::task::yield_now().await; // connections live on this thread, too
                self.inbox.try_recv().ok()
            } else {
                tokio::select! {
                    biased;
                    event = self.inbox.recv() => event,
                    () = self.env.clock.sleep(nap) => None,
                }
            };
            let mut next = event;
            for _ in 0..EVENTS_MAX {
                let Some(event) = next.take() else { break };
                self.handle.depth.fetch_sub(1, Ordering::Relaxed);
                self.event(event).await?;
                if self.out.size() >= BYTES_MAX {
                    break;
                }
                next = self.inbox.try_recv().ok();
            }
            if let Some(event) = next {
                // Taken off the inbox already: it must not be lost.
                self.handle.depth.fetch_sub(1, Ordering::Relaxed);
                self.event(event).await?;
            }
            let due = self.core.wakes_at();
            if due.is_some_and(|at| at <= self.env.clock.mono()) {
                self.handle(Input::Ticked);
            }
            self.flush().await?;
            if self.closing.is_some() && self.gate.is_empty() && self.answers.is_empty() {
                return Ok(());
            }
        }
    }

    fn sample(&self) -> ClockSample {
        ClockSample { mono: self.env.clock.mono(), wall: self.env.clock.wall() }
    }

    fn handle(&mut self, input: Input) {
        let sample = self.sample();
        self.core.handle(sample, input, &mut self.out);
    }

    async fn event(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Opened { session, sender, from, closer } => {
                tracing::debug!(%session, from, "connected");
                let connection = Connection { sender, closer, from, said_hello: false };
                self.connections.insert(session, connection);
            }
            Event::Message { session, message } => self.message(session, message),
            Event::Closed { session } => {
                if let Some(connection) = self.connections.remove(&session) {
                    tracing::debug!(%session, from = connection.from, "connection closed");
                    self.handle(Input::SessionClosed { session, goodbye: false });
                }
            }
            Event::Store(CommitterReply::Committed(receipt)) => {
                // Between two groups of a large backlog the committer goes on by itself.
                self.committing = !receipt.covers(self.asked);
                self.receipt = Some(receipt);
                self.release().await?;
            }
            Event::Store(CommitterReply::Dropped) => self.dropping -= 1,
            Event::Store(CommitterReply::Failed(failure)) => {
                let cause = failure.to_string();
                return Err(cause);
            }
            Event::Answer { session, message } => {
                // It may tell of what is submitted and not yet durable.
                self.flush().await?;
                self.answers.push_back((self.store.submitted(), session, message));
                self.release().await?;
            }
            Event::Close(done) => self.closing = Some(done),
        }
        Ok(())
    }

    fn message(&mut self, session: SessionId, message: Message) {
        let Some(connection) = self.connections.get_mut(&session) else {
            return;
        };
        if matches!(message, Message::Hello(_)) {
            connection.said_hello = true;
        }
        if let Message::HelloV1(hello) = &message {
            let own = self.core.settings().protocols;
            let reason = format!(
                "this engine speaks {own}, the peer speaks protocol {}: build it with a newer version",
                hello.protocol
            );
            return self.close(session, reason);
        }
        if let Message::Closing(closing) = &message {
            tracing::debug!(%session, reason = closing.reason, "the peer says goodbye");
            // It is gone with this: in the same process no socket will tell, and it waits for our
            // end to close. Nor does a socket whose link is cut: it would be read for ever.
            let connection = self.connections.remove(&session);
            if let Some(closer) = connection.and_then(|connection| connection.closer) {
                closer.abort();
            }
            return self.handle(Input::SessionClosed { session, goodbye: true });
        }
        if !connection.said_hello {
            let reason = "the first frame of a connection must be a hello".to_owned();
            return self.close(session, reason);
        }
        // An echo tells nothing but that the engine lives, so it does not wait for the disk.
        if let Message::Heartbeat(heartbeat) = &message
            && !canary!("heartbeats are not answered")
        {
            let _ = connection.sender.send(heartbeat.clone());
        }
        // Of what a reader answers the core hears that the peer lives. It matches all messages.
        let heard = Heartbeat { beat: 0 }.into();
        let message = match self.answer_of_reader(session, &message) {
            Some(answer) => {
                self.spawn_answer(session, answer);
                heard
            }
            None => message,
        };
        self.handle(Input::Received { session, message });
    }

    /// The answer to what only reads, and so is none of the core's.
    fn answer_of_reader(
        &self,
        session: SessionId,
        message: &Message,
    ) -> Option<BoxFuture<'static, Message>> {
        if let Message::Call(call) = message {
            return self.question(session, call);
        }
        let Message::JournalPageRequested(ask) = message else { return None };
        Some(self.journal_page(session, ask.clone()))
    }

    /// The answer to a call that only reads, and so is none of the core's.
    fn question(&self, session: SessionId, call: &Call) -> Option<BoxFuture<'static, Message>> {
        let request = match &call.request {
            Requested::Known(request) => request,
            Requested::Unreadable { .. } => return None, // the core refuses it
        };
        let query = Query::of(request)?;
        let namespace = match &call.on_behalf {
            Some(other) => other.namespace,
            None => self.core.namespace_of(session)?,
        };
        let (view, call_number) = (self.view(), call.call_number);
        Some(Box::pin(async move {
            let answer = query.answer(&view, namespace).await.into();
            Reply { call_number, answer }.into()
        }))
    }

    /// The answer to a worker that asks for the journal of a run it holds.
    fn journal_page(
        &self,
        session: SessionId,
        ask: JournalPageRequested,
    ) -> BoxFuture<'static, Message> {
        let Some(run) = self.core.held_run(session, (ask.run, ask.token)) else {
            let (token, page) = (ask.token, ask.page);
            let reason = StaleToken { id: None, number: None, token, current: None };
            let refused = Some(reason.into());
            let answer = JournalPage { page, entries: Vec::new(), refused };
            return Box::pin(std::future::ready(answer.into()));
        };
        let view = self.view();
        Box::pin(async move { query::journal_page(&view, run, ask).await.into() })
    }

    fn view(&self) -> query::View {
        query::View::of(&self.core, self.store.clone(), self.core.stats(), self.sample())
    }

    fn spawn_answer(&self, session: SessionId, answer: BoxFuture<'static, Message>) {
        let handle = self.handle.clone();
        tokio::spawn(async move {
            let message = answer.await;
            let _ = handle.send(Event::Answer { session, message });
        });
    }

    fn close(&mut self, session: SessionId, reason: String) {
        let Some(connection) = self.connections.remove(&session) else {
            return;
        };
        tracing::info!(%session, from = connection.from, reason, "connection closed by the engine");
        let _ = connection.sender.send(Closing { reason });
        if let Some(closer) = connection.closer {
            closer.abort();
        }
        self.handle(Input::SessionClosed { session, goodbye: false });
    }

    /// Submits what was collected, answers reads until there are none, and releases what is free
    /// already.
    async fn flush(&mut self) -> Result<(), String> {
        loop {
            let reads = self.submit()?;
            if reads.is_empty() {
                break;
            }
            let prefetched = store_reader::Prefetched::of(&*self.store, &reads).await;
            let mut prefetched = prefetched.map_err(|e| unreadable(&e))?;
            for read in reads {
                let input = store_reader::answer(&*self.store, read, &mut prefetched)
                    .await
                    .map_err(|e| unreadable(&e))?;
                self.handle(input);
            }
        }
        self.commit().await?;
        self.release().await
    }

    /// Has what was submitted made durable: by the committer, so that the core can go on meanwhile;
    /// or, while nothing else is going on, right here, which saves a lone run two switches of
    /// threads in each step.
    async fn commit(&mut self) -> Result<(), String> {
        if !self.uncommitted || self.committing || self.dropping > 0 {
            return self.ask_committer();
        }
        if self.core.lease_count() > 1 || !self.inbox.is_empty() {
            return self.ask_committer();
        }
        self.uncommitted = false;
        let receipt = self.store.commit().await.map_err(|failure| failure.to_string())?;
        self.uncommitted = !receipt.covers(self.store.submitted());
        self.receipt = Some(receipt);
        self.ask_committer()
    }

    fn ask_committer(&mut self) -> Result<(), String> {
        if std::mem::take(&mut self.uncommitted) {
            (self.committing, self.asked) = (true, self.store.submitted());
            self.work.send(Work::Commit).map_err(|_| "the committer is gone".to_owned())?;
        }
        Ok(())
    }

    fn submit(&mut self) -> Result<Vec<crate::core::output::StoreRead>, String> {
        self.core.seal(&mut self.out);
        let (batches, actions, reads) = self.out.take();
        let wrote = !batches.is_empty();
        for batch in batches {
            match self.store.submit(batch) {
                Ok(_) => {}
                Err(SubmitRefusal::Poisoned { reason }) => return Err(reason),
                Err(refusal) => panic!("the core writes batches the store takes: {refusal}"),
            }
        }
        self.uncommitted |= wrote;
        if !actions.is_empty() {
            let seq = if canary!("actions wait for the commit before theirs") {
                self.store.committed()
            } else {
                self.store.submitted()
            };
            self.gate.push_back((seq, actions));
        }
        Ok(reads)
    }

    /// Lets out, in order, what the receipt covers.
    async fn release(&mut self) -> Result<(), String> {
        loop {
            let durable = |seq: Seq, receipt: &Option<Receipt>| {
                receipt.as_ref().is_some_and(|r| r.covers(seq)) || seq <= self.store.committed()
            };
            let gate = self.gate.front().map(|(seq, _)| *seq);
            let answer = self.answers.front().map(|(seq, ..)| *seq);
            // Actions and answers leave in the order of what they wait for.
            if answer.is_some_and(|seq| {
                durable(seq, &self.receipt) && gate.is_none_or(|gate| seq < gate)
            }) {
                if let Some((_, session, message)) = self.answers.pop_front() {
                    self.send(session, message);
                }
                continue;
            }
            let Some((seq, withheld)) = self.gate.pop_front() else {
                return Ok(());
            };
            let released = match &self.receipt {
                Some(receipt) => withheld.release(seq, receipt),
                None => Err(withheld),
            };
            match released {
                Ok(actions) => {
                    for action in actions {
                        self.action(action).await?;
                    }
                }
                Err(withheld) => {
                    self.gate.push_front((seq, withheld));
                    // Nothing was written since the store was opened: its own commit gives the
                    // first receipt.
                    if self.receipt.is_none() && !self.committing {
                        self.uncommitted = true;
                        self.ask_committer()?;
                    }
                    return Ok(());
                }
            }
        }
    }

    fn send(&mut self, session: SessionId, message: Message) {
        if let Some(connection) = self.connections.get(&session) {
            let _ = connection.sender.send(message);
        }
    }

    async fn action(&mut self, action: Action) -> Result<(), String> {
        match action {
            Action::Send { session, message } => self.send(session, message),
            Action::Dispatch { session, run, id, token, generation, count, first } => {
                let first = match first {
                    Some(first) => vec![first],
                    None => self.page(generation, run, (0, count)).await?,
                };
                let (sent, now) = (first.len() as u32, self.core.now());
                self.send(session, Dispatch { run, token, id, count, entries: first, now }.into());
                self.ship((session, run, token), generation, (sent, count)).await?;
            }
            Action::ContinueLease { session, run, old, token, generation, from, count } => {
                self.send(session, LeaseContinued { run, old, token, count }.into());
                self.ship((session, run, token), generation, (from, count)).await?;
            }
            Action::Close { session, reason } => self.close(session, reason),
            Action::DropGeneration { generation } => {
                tracing::info!(
                    generation,
                    "a generation has outlived its retention and is dropped"
                );
                self.dropping += 1;
                let _ = self.work.send(Work::Drop(generation));
            }
            Action::Note(note) => super::log::log(&note),
        }
        Ok(())
    }

    async fn page(
        &self,
        generation: u32,
        run: RunNo,
        range: (u32, u32),
    ) -> Result<Vec<bytes::Bytes>, String> {
        store_reader::entries(&*self.store, generation, run, range, JOURNAL_FRAME_BYTES)
            .await
            .map_err(|e| unreadable(&e))
    }

    async fn ship(
        &mut self,
        (session, run, token): (SessionId, RunNo, Token),
        generation: u32,
        (mut from, count): (u32, u32),
    ) -> Result<(), String> {
        while from < count && self.connections.contains_key(&session) {
            let entries = self.page(generation, run, (from, count)).await?;
            if entries.is_empty() {
                return Err(format!("entry {from} of run number {run} is gone"));
            }
            let sent = entries.len() as u32;
            self.send(session, Journal { run, token, from, entries }.into());
            from += sent;
        }
        Ok(())
    }
}

fn unreadable(error: &Unreadable) -> String {
    error.chain()
}
