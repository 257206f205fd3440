//! The worker's side of the connection: which runs it holds, and what becomes of them when the
//! connection goes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

use super::outlet::Outlet;
use super::turn_task::{Gone, ToTurn, TurnTask};
use crate::canary::canary;
use crate::model::id::{Namespace, ProcessInstance, RunId, RunNo, Token};
use crate::model::time::Time;
use crate::replay::turn::Turn;
use crate::replay::watch::Watch;
use crate::replay::world::{World, count};
use crate::runtime::link::LinkSender;
use crate::runtime::session::{Peer, SessionError};
use crate::wire::handshake::Protocols;
use crate::wire::message::{
    Appended, AttemptMemo, Dispatch, Held, Hello, Journal, JournalPage, LeaseContinued,
    MemoReleased, Message, Offer, QueueSlots, Register, ReportRefused, Requeue, Welcome,
    WorkflowOffer,
};

/// How many ended turns are remembered, so that a late copy of a dispatch does not begin one of
/// them again.
const ENDED_MAX: usize = 1_024;
/// How long turns that were told to stop may take to do so. Code that never awaits cannot be
/// stopped.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);
/// What is assumed of the engine before it says so.
const SESSION_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// What handles and turns tell the session.
#[derive(Debug)]
pub(crate) enum SessionControl {
    /// Take no more work, finish what runs, leave.
    Drain,
    /// Leave.
    Stop,
    /// The task of a turn is no more.
    Gone { run: RunNo, turn: u64 },
    /// An isolated step wants a page of its run's journal.
    Read(PageWanted),
}

/// A page of a run's journal, for an isolated step. Without an answer, there was no connection, or
/// it was lost.
#[derive(Debug)]
pub(crate) struct PageWanted {
    pub(crate) run: RunId,
    pub(crate) from: u32,
    pub(crate) limit: u32,
    pub(crate) answer: oneshot::Sender<Result<Vec<Bytes>, String>>,
}

/// Who the worker is and what it offers.
#[derive(Debug, Clone)]
pub(crate) struct Introduction {
    pub(crate) principal: String,
    pub(crate) protocols: Protocols,
    pub(crate) process: ProcessInstance,
    pub(crate) build: String,
    pub(crate) workflows: Vec<WorkflowOffer>,
    pub(crate) queues: Vec<QueueSlots>,
    pub(crate) tags: Vec<String>,
    pub(crate) grace: Duration,
}

/// Whether the engine has welcomed the worker, or why not.
pub(crate) type Reached = Option<Result<(), SessionError>>;

/// See the module.
pub(crate) struct WorkerPeer {
    pub(super) introduction: Introduction,
    pub(super) world: Arc<World>,
    runtime: Handle,
    reached: watch::Sender<Reached>,
    to_session: mpsc::UnboundedSender<SessionControl>,
    pub(super) outlet: Arc<Outlet>,
    pub(super) connection: u64,
    pub(super) turns: BTreeMap<RunNo, HeldTurn>,
    pub(super) ended: EndedTurns,
    /// Tasks that have not said that they are gone.
    tasks: usize,
    /// Those among them whose turns are not held any more.
    pub(super) parted: BTreeMap<u64, Arc<Watch>>,
    /// Those among them that block their threads and will not be waited for.
    pub(super) stuck: BTreeSet<u64>,
    /// One of them was met: the worker leaves.
    pub(super) condemned: bool,
    /// Not looked for again before this.
    pub(super) look_at: Duration,
    /// Pages that were asked for over this connection.
    pub(super) pages: BTreeMap<u64, PageWanted>,
    pub(super) next_page: u64,
    next_turn: u64,
    session_timeout: Duration,
    heard_at: Duration,
    /// While the connection is away: until when turns are held.
    hold_until: Option<Duration>,
    stage: WorkerStage,
}

/// A turn as the session sees it.
pub(super) struct HeldTurn {
    pub(super) token: Token,
    id: RunId,
    inbox: mpsc::UnboundedSender<ToTurn>,
    seen: Arc<AtomicU32>,
    pub(super) watch: Arc<Watch>,
    pub(super) turn: u64,
    /// After a return: dropped if the engine has not said by then that the lease goes on.
    pub(super) answer_by: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum WorkerStage {
    Working,
    Draining { until: Duration },
    Stopping { until: Duration, gave_up: bool, reason: &'static str },
}

impl WorkerPeer {
    pub(crate) fn new(
        introduction: Introduction,
        world: Arc<World>,
        runtime: Handle,
        reached: watch::Sender<Reached>,
        to_session: mpsc::UnboundedSender<SessionControl>,
    ) -> Self {
        Self {
            introduction,
            world,
            runtime,
            reached,
            to_session,
            outlet: Arc::default(),
            connection: 0,
            turns: BTreeMap::new(),
            ended: EndedTurns::default(),
            tasks: 0,
            parted: BTreeMap::new(),
            stuck: BTreeSet::new(),
            condemned: false,
            look_at: Duration::ZERO,
            pages: BTreeMap::new(),
            next_page: 0,
            next_turn: 0,
            session_timeout: SESSION_TIMEOUT_DEFAULT,
            heard_at: Duration::ZERO,
            hold_until: None,
            stage: WorkerStage::Working,
        }
    }

    /// Bodies start for two thirds of the session timeout after the engine was heard.
    fn quiet_after(&self) -> Duration {
        self.heard_at + self.session_timeout * 2 / 3
    }

    fn dispatch(
        &mut self,
        Dispatch { run, token, id, count, entries, now }: Dispatch,
        mono: Duration,
    ) {
        if self.ended.holds(run, token)
            || self.turns.get(&run).is_some_and(|held| held.token >= token)
        {
            return; // a copy, or older than what is held
        }
        if now > Time(0) && !canary!("a dispatch does not tell the time") {
            self.world.engine_time.heard(now, mono);
        }
        if self.stage != WorkerStage::Working {
            self.outlet.send(self.connection, Requeue { run, token });
            return;
        }
        let (inbox, from_session) = mpsc::unbounded_channel();
        let _ = inbox.send(ToTurn::Stored { from: 0, entries });
        self.next_turn += 1;
        self.tasks += 1;
        let turn = Turn::new(run, id, token, count, self.world.clone());
        let task = TurnTask {
            run,
            token,
            watch: turn.watch(),
            turn,
            inbox: from_session,
            outlet: self.outlet.clone(),
            connection: self.connection,
            world: self.world.clone(),
            seen: Arc::default(),
            draining: false,
            stopping: false,
            gone: Gone { run, turn: self.next_turn, session: self.to_session.clone() },
        };
        let held = HeldTurn {
            token,
            id,
            inbox,
            seen: task.seen.clone(),
            watch: task.watch.clone(),
            turn: self.next_turn,
            answer_by: None,
        };
        self.part(run);
        self.turns.insert(run, held);
        self.runtime.spawn(task.run());
    }

    /// Hands a message to the turn it is for. One for a turn that is not held, or under another
    /// token, is old.
    fn tell(&self, run: RunNo, token: Token, message: ToTurn) {
        if let Some(held) = self.turns.get(&run).filter(|held| held.token == token) {
            let _ = held.inbox.send(message);
        }
    }

    fn lease_continued(&mut self, LeaseContinued { run, old, token, count }: LeaseContinued) {
        match self.turns.get_mut(&run) {
            Some(held) if held.token == token => {} // a copy
            Some(held) if held.token == old => {
                held.token = token;
                held.answer_by = None;
                let _ = held.inbox.send(ToTurn::LeaseContinued {
                    token,
                    count,
                    connection: self.connection,
                });
            }
            _ if self.ended.holds(run, token) => {}
            // It was dropped after the hello that listed it.
            _ => {
                self.outlet.send(self.connection, Requeue { run, token });
            }
        }
    }

    /// The turn of a run by its id, once the engine has said over this connection that its lease
    /// goes on.
    pub(super) fn confirmed(&self, id: RunId) -> Option<(RunNo, Token)> {
        let mut turns = self.turns.iter();
        let found = turns.find(|(_, held)| held.id == id && held.answer_by.is_none());
        found.map(|(run, held)| (*run, held.token))
    }

    /// The engine says that a turn is over; dropping its channel ends the task.
    fn over(&mut self, run: RunNo, token: Token) -> bool {
        if self.turns.get(&run).is_none_or(|held| held.token != token) {
            return false;
        }
        self.part(run);
        self.ended.add(run, token);
        true
    }

    /// Lets go of a turn, whose task then ends, unless its code blocks its thread.
    fn part(&mut self, run: RunNo) {
        if let Some(held) = self.turns.remove(&run) {
            self.parted.insert(held.turn, held.watch);
        }
    }

    /// Lets go of turns that somebody else may hold by now.
    fn drop_turns(&mut self, which: impl Fn(&HeldTurn) -> bool) {
        let these = self.turns.iter().filter(|(_, held)| which(held));
        let these: Vec<RunNo> = these.map(|(run, _)| *run).collect();
        let dropped = these.len();
        these.into_iter().for_each(|run| self.part(run));
        if dropped > 0 {
            tracing::warn!(
                turns = dropped,
                "turns are dropped: the engine was not heard of for the session timeout"
            );
            self.world.counts.dropped.fetch_add(dropped as u64, Ordering::Relaxed);
        }
    }

    fn tell_all(&self, message: impl Fn() -> ToTurn) {
        for held in self.turns.values() {
            let _ = held.inbox.send(message());
        }
    }

    pub(super) fn drain(&mut self, now: Duration) {
        if self.stage == WorkerStage::Working {
            self.stage =
                WorkerStage::Draining { until: now.saturating_add(self.introduction.grace) };
            self.world.gate.shut();
            self.outlet.send(self.connection, Offer { queues: Vec::new() });
            self.tell_all(|| ToTurn::Drain);
        }
    }

    fn stop(&mut self, now: Duration, reason: &'static str) {
        if self.stage == WorkerStage::Working {
            self.world.gate.shut();
            self.outlet.send(self.connection, Offer { queues: Vec::new() });
        }
        if !matches!(self.stage, WorkerStage::Stopping { .. }) {
            self.stage =
                WorkerStage::Stopping { until: now + STOP_TIMEOUT, gave_up: false, reason };
            self.tell_all(|| ToTurn::Stop);
        }
    }
}

impl Peer for WorkerPeer {
    type Control = SessionControl;

    fn hello(&mut self) -> Hello {
        let me = &self.introduction;
        Hello {
            protocol_min: me.protocols.min,
            protocol_max: me.protocols.max,
            process: me.process,
            namespace: Namespace::default(),
            principal: me.principal.clone(),
            credentials: None,
            proof: None,
        }
    }

    fn register(&mut self) -> Option<Register> {
        let me = &self.introduction;
        let held = |(run, held): (&RunNo, &HeldTurn)| Held {
            run: *run,
            token: held.token,
            seen: held.seen.load(Ordering::Relaxed),
        };
        let register = Register {
            build: me.build.clone(),
            workflows: me.workflows.clone(),
            queues: if self.stage == WorkerStage::Working { me.queues.clone() } else { Vec::new() },
            tags: me.tags.clone(),
            held: self.turns.iter().map(held).collect(),
        };
        Some(register)
    }

    fn welcomed(&mut self, welcome: &Welcome, sender: LinkSender, now: Duration) {
        self.session_timeout = Duration::from_millis(welcome.session_timeout_ms);
        self.world.set_payload_bytes_max(welcome.payload_bytes_max);
        self.world.engine_time.heard(welcome.now, now);
        self.connection = self.outlet.open(sender);
        self.hold_until = None;
        let answer_by = Some(now + self.session_timeout);
        self.turns.values_mut().for_each(|held| held.answer_by = answer_by);
        if self.stage != WorkerStage::Working {
            // The hello may be from before the drain.
            self.outlet.send(self.connection, Offer { queues: Vec::new() });
        }
        tracing::info!(session = %welcome.session, epoch = welcome.epoch, "connected to the engine");
        let _ = self.reached.send(Some(Ok(())));
    }

    fn heard(&mut self, now: Duration) {
        self.heard_at = now;
        if self.world.gate.open_until(self.quiet_after()) {
            self.tell_all(|| ToTurn::GateOpened);
        }
    }

    fn received(&mut self, message: Message, now: Duration) {
        match message {
            Message::Dispatch(dispatch) => self.dispatch(dispatch, now),
            Message::Journal(Journal { run, token, from, entries }) => {
                self.tell(run, token, ToTurn::Stored { from, entries });
            }
            Message::Appended(Appended { run, token, index, entry }) => {
                self.tell(run, token, ToTurn::Told { index, entry });
            }
            Message::ReportRefused(ReportRefused { run, token, number, reason }) => {
                tracing::warn!(%run, step = %number, %reason, "a report was refused");
                self.tell(run, token, ToTurn::Refused { number, reason });
            }
            Message::AttemptMemo(AttemptMemo { run, token, number }) => {
                self.tell(run, token, ToTurn::AttemptMemo { number });
            }
            Message::MemoReleased(MemoReleased { run, token, number }) => {
                self.tell(run, token, ToTurn::MemoReleased { number });
            }
            Message::LeaseContinued(continued) => self.lease_continued(continued),
            Message::JournalPage(JournalPage { page, entries, refused }) => {
                if let Some(wanted) = self.pages.remove(&page) {
                    let found = refused.map_or(Ok(entries), |reason| Err(reason.to_string()));
                    let _ = wanted.answer.send(found);
                }
            }
            Message::TurnEnded(ended) => {
                self.over(ended.run, ended.token);
            }
            Message::Revoked(revoked) => {
                if self.over(revoked.run, revoked.token) {
                    tracing::warn!(run = %revoked.run, reason = %revoked.reason, "a lease was revoked");
                    count(&self.world.counts.revoked);
                }
            }
            #[cfg(any(test, feature = "inspect"))]
            Message::Later(_) => {}
            message @ (Message::HelloV1(_)
            | Message::Hello(_)
            | Message::Heartbeat(_)
            | Message::Closing(_)
            | Message::Call(_)
            | Message::Welcome(_)
            | Message::Registered(_)
            | Message::Reply(_)
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
            | Message::JournalPageRequested(_)) => {
                tracing::warn!(
                    kind = message.kind_name(),
                    "the engine said something that is not for a worker"
                );
            }
        }
    }

    fn lost(&mut self, _reason: &str, now: Duration) {
        self.outlet.close();
        self.pages.clear();
        // A connection that broke while the engine was well heard: the engine has died and may be
        // back within the timeout, and keeps our leases for us. After a silence we cannot know
        // since when we are given up.
        let since = if now < self.quiet_after() { now } else { self.heard_at };
        self.hold_until = Some(since + self.session_timeout);
        self.turns.values_mut().for_each(|held| held.answer_by = None);
    }

    fn failed(&mut self, error: &SessionError) {
        let first = self.reached.borrow().is_none();
        if first || matches!(error, SessionError::HelloRefused { .. }) {
            tracing::warn!(%error, "no connection to the engine");
        }
        let never_welcomed = !matches!(*self.reached.borrow(), Some(Ok(())));
        if never_welcomed {
            let _ = self.reached.send(Some(Err(error.clone())));
        }
    }

    fn control(&mut self, control: SessionControl, now: Duration) {
        match control {
            SessionControl::Drain => self.drain(now),
            SessionControl::Stop => self.stop(now, "stopped"),
            SessionControl::Read(wanted) => self.ask_page(wanted),
            SessionControl::Gone { run, turn } => {
                self.tasks -= 1;
                self.stuck.remove(&turn);
                self.parted.remove(&turn);
                if let Some(held) = self.turns.get(&run)
                    && held.turn == turn
                {
                    let token = held.token;
                    self.turns.remove(&run);
                    self.ended.add(run, token);
                }
            }
        }
    }

    fn deserted(&mut self) {}

    fn deadline(&self) -> Option<Duration> {
        let hold = self.hold_until.filter(|_| !self.turns.is_empty());
        let answer = self.turns.values().filter_map(|held| held.answer_by).min();
        let stage = match self.stage {
            WorkerStage::Working => None,
            WorkerStage::Draining { until }
            | WorkerStage::Stopping { until, gave_up: false, .. } => Some(until),
            WorkerStage::Stopping { .. } => None,
        };
        hold.into_iter().chain(answer).chain(stage).chain([self.look_at]).min()
    }

    fn tick(&mut self, now: Duration) {
        if self.hold_until.is_some_and(|until| until <= now) {
            self.drop_turns(|_| true);
        }
        self.drop_turns(|held| held.answer_by.is_some_and(|by| by <= now));
        self.look_for_stuck(now);
        match &mut self.stage {
            WorkerStage::Working => {}
            WorkerStage::Draining { until } => {
                if *until <= now {
                    self.stop(now, "drained");
                }
            }
            WorkerStage::Stopping { until, gave_up, .. } => {
                if *until <= now && !*gave_up {
                    *gave_up = true;
                    let blocking = self.turns.values().filter(|held| held.watch.blocks(now));
                    self.world.counts.stuck.fetch_add(blocking.count() as u64, Ordering::Relaxed);
                }
            }
        }
    }

    fn leaves(&self) -> Option<String> {
        let is_done = self.tasks == self.stuck.len();
        match &self.stage {
            WorkerStage::Working => None,
            WorkerStage::Draining { .. } => is_done.then(|| "drained".to_owned()),
            WorkerStage::Stopping { gave_up, reason, .. } => {
                (is_done || *gave_up).then(|| (*reason).to_owned())
            }
        }
    }
}

/// The turns that ended last.
#[derive(Debug, Default)]
pub(super) struct EndedTurns {
    order: VecDeque<(RunNo, Token)>,
    set: BTreeSet<(RunNo, Token)>,
}

impl EndedTurns {
    pub(super) fn add(&mut self, run: RunNo, token: Token) {
        if self.set.insert((run, token)) {
            self.order.push_back((run, token));
        }
        if self.order.len() > ENDED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
    }

    fn holds(&self, run: RunNo, token: Token) -> bool {
        self.set.contains(&(run, token))
    }
}
