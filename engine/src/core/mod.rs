//! The engine as a function: `(now, input) -> (writes, actions, reads)`.
//!
//! No tokio, no clock, no randomness, no unordered map, no waiting. The runtime feeds inputs and
//! clock readings, submits the writes in order, releases the actions against the receipt of their
//! commit, and answers the reads.
//!
//! ```text
//!                 ┌──────────────── Core ────────────────┐
//!   Input ──────► │ sessions  queues  leases  timers     │ ──► writes ──► store ──► receipt ─┐
//!   (past tense)  │ (memory is a sum of stated parts;    │ ──► actions, withheld ◄───────────┘
//!                 │  runs that wait are not in memory)   │ ──► reads ──► store ──► Input
//!                 └──────────────────────────────────────┘
//! ```
//!
//! A run's states and what is stored in each (besides its journal):
//!
//! ```text
//!   Delayed ─── due ──► Queued ── lease ──► Running ── wait ──► Suspended
//!   (timer)            (queued)   ▲    │   (lease)               (timer)
//!                          ▲      │    └─► Completed | Dead | Cancelled     Dead: (dead)
//!                          │      └── session lost, requeued
//!                          └──────────── due ─────────────────────┘
//!   Parked, Paused (stopped) ── resume, another build ──► Queued
//!   Dead ── redrive ──► Queued,  Dead ── discard ──► Discarded
//! ```
//!
//! # Invariants
//!
//! - **Q1** A run that has not ended is in exactly one of queued, leased, timer, stopped.
//! - **G1** A slot holds one run and a run has at most one slot.
//! - **G2** Tokens only rise: (epoch, lease) of a later lease is larger.
//! - **G3** A report changes something only if its token equals the run's current one and comes
//!   from its session.
//! - **J1** Entries are numbered without a gap and nothing follows the last entry.
//! - **S1** A command has at most one outcome.
//! - **T1** A timer fires at or after its instant, in engine time.
//! - **D1–D5** Dead letters: see `core/dead.rs`.
//! - **C1** The tally equals the states of all runs; what a queue counts equals the states of its
//!   runs.
//! - **L1** to **L4** What a queue's settings let through: see `admission`.
//! - **O1**–**O6** are about schedules, in `schedule.rs`; **N1**, **N2** about operator requests,
//!   in `applied_request.rs`.
//!
//! Those of unique keys (U) are in `unique.rs`, of memoized steps (E) in `memo.rs`, of
//! atomic starts (M) in `atomic_start.rs`, of batches (B) in `batch.rs`.

// A message, a state or a want that is new must not be forgotten anywhere.
#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]

mod admission;
mod applied_request;
mod asked;
mod atomic_start;
mod audit_log;
mod batch;
pub mod clock;
mod dead;
mod expiry;
#[cfg(any(test, feature = "inspect"))]
#[allow(clippy::wildcard_enum_match_arm, reason = "a world of its own, which answers nobody")]
pub(crate) mod fuzz_world;
mod gauge;
#[cfg(any(test, feature = "inspect"))]
#[allow(clippy::wildcard_enum_match_arm, reason = "it looks, and answers nobody")]
mod inspect;
#[cfg(any(test, feature = "inspect"))]
#[allow(clippy::wildcard_enum_match_arm, reason = "it looks, and answers nobody")]
mod invariants;
mod lane;
mod lease;
mod load;
mod memo;
mod open;
pub mod output;
mod queue;
mod retention;
pub mod run;
mod schedule;
mod schedule_request;
mod session;
mod start;
mod step;
#[cfg(any(test, feature = "inspect"))]
mod stepped_core;
mod stop;
mod timer;
mod turn;
mod unique;
mod unregistered;

#[cfg(test)]
mod capacity;
#[cfg(all(test, feature = "calendar"))]
mod occurrences;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod queue_tests;
#[cfg(test)]
mod scenarios;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use self::applied_request::AppliedRequests;
use self::asked::Asked;
use self::audit_log::AuditLog;
use self::batch::Batches;
use self::clock::{ClockAlert, ClockSample, EngineClock, MARK_LEAD};
use self::expiry::Expiries;
use self::gauge::UnservedQueues;
use self::lease::{Lease, RecordSlots};
pub use self::load::summary;
use self::load::{Lookup, Mailbox, Want};
use self::memo::Memos;
#[cfg(feature = "inspect")]
pub use self::open::QueueRow;
pub use self::open::{OpenRefused, Opened};
use self::output::{Note, Output, ReplyTo};
use self::queue::Queue;
use self::retention::Cleaner;
pub use self::retention::{DEAD_RETENTION_DEFAULT, GenerationRow, RETENTION_DEFAULT};
use self::run::{Run, RunImage};
pub use self::schedule::ScheduleRow;
use self::schedule::ScheduleTable;
use self::session::{Absent, Session};
use self::start::PendingStart;
use self::timer::Timers;
use self::unique::Uniques;
pub use self::unregistered::UNREGISTERED_WORKFLOW_AFTER_DEFAULT;
use self::unregistered::UnregisteredWorkflows;
use crate::canary::canary;
use crate::model::id::{
    CommandIndex, LeaseNo, Namespace, ProcessInstance, RunId, RunNo, SessionId, Token,
};
use crate::model::limits::Limits;
use crate::model::payload::Payload;
use crate::model::request::NotUnderstood;
use crate::model::time::as_ms;
use crate::model::run::{InMemory, RunState, Stats};
use crate::model::time::Time;
use crate::tables::batch::BatchRecord;
use crate::tables::expiry::Expiry;
use crate::tables::memo::{MemoRecord, MemoWait};
use crate::tables::unique::UniqueRecord;
use crate::tables::{Mark, MarkKey, QueuedRecord, StoppedRecord, Tally, TallyKey, TimerRecord};
use crate::wire::handshake::Protocols;
use crate::wire::message::{AskQueues, Call, Held, Message, Request, Requested};
use bytes::Bytes;

/// How a core behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Limits on what users put in.
    pub limits: Limits,
    /// How often peers send heartbeats. Default 2 s.
    pub heartbeat: Duration,
    /// A session not heard of for this long is gone; so are leases whose worker does not come back
    /// for this long after the engine has opened. Default 10 s.
    pub session_timeout: Duration,
    /// A worker whose connection broke without a goodbye may come back for this long. Default 500
    /// ms.
    pub disconnect_grace: Duration,
    /// Ended runs are kept for this long. Default 7 days.
    pub retention: Duration,
    /// Dead letters about which nobody has decided are kept for this long, and so are audit
    /// entries; not shorter than other ended runs. Default 30 days.
    pub dead_retention: Duration,
    /// A run becomes a dead letter when it has been queued for so long, and no worker that
    /// registers its workflow was connected while others served its queue. Default 10 min.
    pub unregistered_workflow_after: Duration,
    /// Follow the wall clock wherever it goes, by an operator's consent.
    pub accept_clock: bool,
    /// A queue is reported as unserved after work in it was offered by no connected worker for this
    /// long. Default 60 s.
    pub unserved_queue_after: Duration,
    /// Whether the workers of an engine that ended are known to have ended with it (embedded).
    pub workers_die_with_engine: bool,
    /// The protocols it speaks. Default: those of this version.
    pub protocols: Protocols,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            heartbeat: Duration::from_secs(2),
            session_timeout: Duration::from_secs(10),
            disconnect_grace: Duration::from_millis(500),
            retention: RETENTION_DEFAULT,
            dead_retention: DEAD_RETENTION_DEFAULT,
            unregistered_workflow_after: UNREGISTERED_WORKFLOW_AFTER_DEFAULT,
            accept_clock: false,
            unserved_queue_after: Duration::from_secs(60),
            workers_die_with_engine: false,
            protocols: Protocols::OWN,
        }
    }
}

/// What has happened.
#[derive(Debug)]
// Nearly all inputs are messages; boxing them would cost each an allocation.
#[allow(clippy::large_enum_variant)]
pub enum Input {
    /// A connection said this.
    Received {
        /// Which session.
        session: SessionId,
        /// What.
        message: Message,
    },
    /// A connection is gone.
    SessionClosed {
        /// Which session.
        session: SessionId,
        /// Whether it said goodbye.
        goodbye: bool,
    },
    /// An answer to [`StoreRead::Index`](output::StoreRead::Index).
    IndexLoaded {
        /// Whose run.
        namespace: Namespace,
        /// Which.
        id: RunId,
        /// Its number, if there is such a run, or what is damaged.
        found: Result<Option<RunNo>, String>,
    },
    /// An answer to [`StoreRead::Run`](output::StoreRead::Run).
    RunLoaded {
        /// Which.
        run: RunNo,
        /// The run, or what is damaged.
        found: Result<Option<Box<RunImage>>, String>,
    },
    /// An answer to [`StoreRead::Queued`](output::StoreRead::Queued).
    QueuedLoaded {
        /// The queue.
        queue: u32,
        /// The priority.
        priority: u8,
        /// The rows, in order.
        rows: Vec<(u64, QueuedRecord)>,
        /// Whether there are no more behind them.
        end: bool,
    },
    /// An answer to [`StoreRead::Timers`](output::StoreRead::Timers).
    TimersLoaded {
        /// The rows, in order.
        rows: Vec<(Time, RunNo, TimerRecord)>,
        /// Whether there are no more behind them.
        end: bool,
    },
    /// An answer to [`StoreRead::Stopped`](output::StoreRead::Stopped).
    StoppedLoaded {
        /// The rows, in order.
        rows: Vec<(RunNo, StoppedRecord)>,
        /// Whether there are no more behind them.
        end: bool,
    },
    /// An answer to [`StoreRead::Generation`](output::StoreRead::Generation).
    GenerationLoaded {
        /// Which.
        generation: u32,
        /// The runs, in order.
        rows: Vec<GenerationRow>,
        /// Whether there are no more behind them.
        end: bool,
    },
    /// An answer to [`StoreRead::Copy`](output::StoreRead::Copy).
    RunCopied {
        /// Which.
        run: RunNo,
        /// Its entries as stored.
        entries: Vec<Bytes>,
    },
    /// An answer to [`StoreRead::Audit`](output::StoreRead::Audit).
    AuditLoaded {
        /// When each was done, and its number, in order.
        rows: Vec<(Time, u64)>,
        /// Whether there are no more behind them.
        end: bool,
    },
    /// A generation cannot be emptied because something in it cannot be read. It is kept.
    CleaningFailed {
        /// Which.
        generation: u32,
        /// What is damaged.
        what: String,
    },
    /// An answer to [`StoreRead::Unique`](output::StoreRead::Unique).
    UniqueLoaded {
        /// Whose key.
        namespace: Namespace,
        /// What it is stored under.
        hash: u128,
        /// Who holds it, or what is damaged.
        found: Result<Option<UniqueRecord>, String>,
    },
    /// An answer to [`StoreRead::Memo`](output::StoreRead::Memo).
    MemoLoaded {
        /// Whose key.
        namespace: Namespace,
        /// What it is stored under.
        hash: u128,
        /// Where its first result is, if there is one, or what is damaged.
        found: Result<Option<MemoRecord>, String>,
    },
    /// An answer to [`StoreRead::MemoWaits`](output::StoreRead::MemoWaits).
    MemoWaitsLoaded {
        /// The runs and what they wait for, in order.
        rows: Vec<(RunNo, Option<MemoWait>)>,
        /// Whether there are no more behind them.
        end: bool,
    },
    /// An answer to [`StoreRead::MemoResult`](output::StoreRead::MemoResult).
    MemoResultLoaded {
        /// Whose key.
        namespace: Namespace,
        /// What it is stored under.
        hash: u128,
        /// The result, unless the run is gone, or what is damaged.
        found: Result<Option<Payload>, String>,
    },
    /// An answer to [`StoreRead::Batch`](output::StoreRead::Batch).
    BatchLoaded {
        /// Whose batch.
        namespace: Namespace,
        /// What it is stored under.
        hash: u128,
        /// The batch, if one of this name has ended, or what is damaged.
        found: Result<Option<BatchRecord>, String>,
    },
    /// An answer to [`StoreRead::Expired`](output::StoreRead::Expired).
    ExpiredLoaded {
        /// What has expired, in order.
        rows: Vec<Expiry>,
        /// When the next thing expires, or the end of time; none if more has expired already.
        first: Option<Time>,
    },
    /// Time has passed.
    Ticked,
}

/// The state machine.
#[derive(Debug)]
pub struct Core {
    settings: Settings,
    store: u64,
    epoch: u64,
    clock: EngineClock,
    mono: Duration,
    /// When sessions are looked at next.
    watch_at: Duration,
    tally: Tally,
    tally_dirty: bool,
    mark: Mark,
    mark_dirty: bool,
    next_lease: u64,
    next_start: u64,
    sessions: BTreeMap<SessionId, Session>,
    /// The session that holds the leases of a process instance.
    session_of_instance: BTreeMap<ProcessInstance, SessionId>,
    absent: BTreeMap<ProcessInstance, Absent>,
    queues: BTreeMap<u32, Queue>,
    queue_numbers: BTreeMap<String, u32>,
    /// Queues in which a queued run and a free slot may have met.
    unsettled: BTreeSet<u32>,
    /// Queues whose counts, or what is left of whose rate limit, have changed since they were
    /// written last.
    pools_dirty: BTreeSet<u32>,
    /// Queues whose counts were never written: their store is older than these.
    pools_unwritten: BTreeSet<u32>,
    /// When a rate limit lets something through again.
    opens_at: BTreeSet<(Time, u32)>,
    /// Who asked for gauges that something must be read for.
    asked_queues: Vec<Asked<AskQueues>>,
    /// Unserved queues: work that no connected worker offers.
    unserved: UnservedQueues,
    leases: BTreeMap<RunNo, Lease>,
    /// Queued runs that need not be read, because they were started just now.
    fresh: BTreeMap<RunNo, Run>,
    slots: RecordSlots,
    timers: Timers,
    /// Timers of leased runs.
    armed: BTreeSet<(Time, RunNo, CommandIndex)>,
    /// What waits for a run's number.
    lookups: BTreeMap<(Namespace, RunId), Vec<Lookup>>,
    /// What waits for a run to be read. Inputs about other runs go on.
    mailboxes: BTreeMap<RunNo, Mailbox>,
    starts: BTreeMap<u64, PendingStart>,
    /// Runs that began while somebody waited for what is stored of their ids.
    begun_meanwhile: BTreeMap<(Namespace, RunId), RunNo>,
    /// Atomic starts that are not answered yet; some that are gone may be among them.
    atomic_starts: BTreeSet<u64>,
    /// The id whose look-ups are being answered, when an atomic start is among them.
    resolving: Option<(Namespace, RunId)>,
    uniques: Uniques,
    memos: Memos,
    batches: Batches,
    expiries: Expiries,
    /// Who waits for a run to end.
    waiters: BTreeMap<RunNo, Vec<ReplyTo>>,
    /// First run number of each generation.
    generations: BTreeMap<RunNo, u32>,
    cleaner: Cleaner,
    audit: AuditLog,
    unregistered: UnregisteredWorkflows,
    /// What workers can take for which parked runs have been looked through, since one was parked
    /// that none of them takes.
    abilities_seen: BTreeSet<u128>,
    /// Runs to put back into their queues, a few at a time.
    returning: Vec<(RunNo, bool)>,
    /// Leases to go on with workers that came back, a few at a time.
    continuing: VecDeque<(SessionId, Held)>,
    schedules: ScheduleTable,
    applied: AppliedRequests,
    counts: Stats,
}

impl Core {
    /// Engine time as of the last input.
    pub fn now(&self) -> Time {
        self.clock.now()
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The counts, without what only the store knows.
    pub fn stats(&self) -> Stats {
        let workers = self.sessions.values().filter(|s| s.offers_anything()).count() as u64;
        Stats {
            runs: self.tally.runs.clone(),
            workers,
            store: self.store,
            epoch: self.epoch,
            now: self.now(),
            in_memory: self.in_memory(),
            ..self.counts.clone()
        }
    }

    fn in_memory(&self) -> InMemory {
        let count = |count: usize| count as u64;
        InMemory {
            sessions: count(self.sessions.len()),
            leases: count(self.leases.len()),
            fresh: count(self.fresh.len()),
            timers: count(self.timers.len()),
            armed: count(self.armed.len()),
            waiters: count(self.waiters.values().map(Vec::len).sum()),
            reads: count(
                self.lookups.len()
                    + self.mailboxes.len()
                    + self.starts.len()
                    + self.uniques.len()
                    + self.batches.len(),
            ),
            memos: count(self.memos.len()),
        }
    }

    /// One transition.
    pub fn handle(&mut self, sample: ClockSample, input: Input, out: &mut Output) {
        self.advance(sample, out);
        self.close_if_full(out);
        match input {
            Input::Received { session, message } => self.route(session, message, out),
            Input::SessionClosed { session, goodbye } => self.session_closed(session, goodbye, out),
            Input::IndexLoaded { namespace, id, found } => {
                self.index_loaded(namespace, id, found, out)
            }
            Input::RunLoaded { run, found } => self.run_loaded(run, found, out),
            Input::QueuedLoaded { queue, priority, rows, end } => {
                self.queued_loaded(queue, priority, rows, end)
            }
            Input::TimersLoaded { rows, end } => self.timers_loaded(rows, end),
            Input::StoppedLoaded { rows, end } => self.stopped_loaded(rows, end, out),
            Input::GenerationLoaded { generation, rows, end } => {
                self.generation_loaded(generation, rows, end, out)
            }
            Input::AuditLoaded { rows, end } => self.audit_loaded(rows, end, out),
            Input::RunCopied { run, entries } => self.run_copied(run, &entries, out),
            Input::CleaningFailed { generation, what } => {
                self.cleaning_failed(generation, what, out)
            }
            Input::UniqueLoaded { namespace, hash, found } => {
                self.unique_loaded((namespace, hash), found, out)
            }
            Input::MemoLoaded { namespace, hash, found } => {
                self.memo_loaded((namespace, hash), found, out)
            }
            Input::MemoResultLoaded { namespace, hash, found } => {
                self.memo_result_loaded((namespace, hash), found, out)
            }
            Input::MemoWaitsLoaded { rows, end } => self.memo_waits_loaded(rows, end, out),
            Input::BatchLoaded { namespace, hash, found } => {
                self.batch_loaded((namespace, hash), found, out)
            }
            Input::ExpiredLoaded { rows, first } => self.expired_loaded(rows, first, out),
            Input::Ticked => self.ticked(out),
        }
        self.settle(out);
        self.answer_queues(out);
    }

    /// Closes a batch that might have no room for what is written next.
    fn close_if_full(&mut self, out: &mut Output) {
        if out.is_full() {
            self.seal(out);
            out.close_batch();
        }
    }

    /// Completes what has been collected: counters and clock go into the last batch. Call it before
    /// taking the output.
    pub fn seal(&mut self, out: &mut Output) {
        let sealed_alone = self.batches.are_dirty() && !canary!("a seal alone is not written");
        if !out.writes_anything() && !sealed_alone {
            return;
        }
        self.seal_pools(out);
        self.write_batches(out);
        if std::mem::take(&mut self.tally_dirty) {
            out.put(&TallyKey {}, &self.tally);
        }
        // A clock that stands at the mark does not pass it.
        let held = self.clock.is_held();
        if self.mark_dirty || (!held && self.now().after(MARK_LEAD / 2) > self.mark.time) {
            self.mark_dirty = false;
            let (heads, rest) = self.heads();
            let time = if held { self.mark.time } else { self.now().after(MARK_LEAD) };
            self.mark =
                Mark { time, heads, timers: self.timers.cursor(), rest, audit: self.audit.cursor };
            out.put(&MarkKey {}, &self.mark);
        }
    }

    /// The router of frames: passes each to the part of the core that handles it.
    fn route(&mut self, session: SessionId, message: Message, out: &mut Output) {
        if let Message::Hello(hello) = message {
            return self.hello(session, hello, out);
        }
        let pulse = self.pulse();
        let Some(heard) = self.sessions.get_mut(&session) else {
            return;
        };
        if !canary!("heartbeats do not count as heard") || !matches!(message, Message::Heartbeat(_))
        {
            heard.last_heard = pulse;
        }
        match message {
            Message::Heartbeat(_) => {}
            #[cfg(any(test, feature = "inspect"))]
            Message::Later(_) => {}
            Message::Register(register) => self.register(session, register, out),
            Message::StepCompletedReport(report) => self.step_completed(session, report, out),
            Message::AttemptFailedReport(report) => self.attempt_failed(session, report, out),
            Message::TimerRequested(report) => self.timer_requested(session, report, out),
            Message::TurnSuspended(report) => self.turn_suspended(session, report, out),
            Message::TurnCompleted(report) => self.turn_completed(session, report, out),
            Message::TurnFailed(report) => self.turn_failed(session, report, out),
            Message::TurnMismatched(report) => self.turn_mismatched(session, report, out),
            Message::Requeue(report) => self.requeue(session, report, out),
            Message::MemoRequested(ask) => self.memo_requested(session, ask, out),
            Message::MemoReleased(report) => self.memo_released(session, &report, out),
            Message::Offer(offer) => self.offer(session, &offer.queues, out),
            Message::Call(call) => self.route_call(session, call, out),
            // The driver answers this, and passes the others on to nobody.
            Message::JournalPageRequested(_)
            | Message::HelloV1(_)
            | Message::Hello(_)
            | Message::Welcome(_)
            | Message::Closing(_)
            | Message::Registered(_)
            | Message::Reply(_)
            | Message::Dispatch(_)
            | Message::Journal(_)
            | Message::JournalPage(_)
            | Message::Appended(_)
            | Message::TurnEnded(_)
            | Message::Revoked(_)
            | Message::LeaseContinued(_)
            | Message::ReportRefused(_)
            | Message::AttemptMemo(_) => self.not_understood(session, &message, out),
        }
    }

    /// The router of requests.
    fn route_call(&mut self, session: SessionId, call: Call, out: &mut Output) {
        let to = ReplyTo { session, call_number: call.call_number };
        let caller = self.caller_of(to, &call);
        let request = match call.request {
            Requested::Known(request) => request,
            Requested::Unreadable { why, .. } => {
                let cause = format!("this version of the engine cannot read it: {why}");
                return out.refuse(to, NotUnderstood { cause });
            }
        };
        macro_rules! asked {
            ($request:expr) => {
                Asked { to, caller, request: $request }
            };
        }
        match request {
            Request::Start(start) => self.start(asked!(start), out),
            Request::AtomicStart(start) => self.start_atomic(asked!(start), out),
            Request::StartBatch(start) => self.start_batch(asked!(start), out),
            Request::AskBatch(ask) => self.ask_batch(asked!(ask), out),
            Request::AskOutcome(ask) => {
                let (namespace, id) = (caller.namespace, ask.id);
                self.ask(namespace, id, Want::outcome(&asked!(ask)), out);
            }
            Request::AskStatus(ask) => {
                let (namespace, id) = (caller.namespace, ask.id);
                self.ask(namespace, id, Want::status(&asked!(ask)), out);
            }
            Request::Cancel(ask) => {
                let ask = asked!(ask);
                let want = Want::cancel(&ask);
                self.act_on_run(to, &ask.caller, (ask.request.id, want), out);
            }
            Request::Resume(ask) => {
                let ask = asked!(ask);
                let want = Want::resume(&ask);
                self.act_on_run(to, &ask.caller, (ask.request.id, want), out);
            }
            Request::AskQueues(ask) => self.ask_queues(asked!(ask)),
            Request::SetQueue(ask) => self.set_queue(asked!(ask), out),
            Request::EditInput(ask) => self.operator_request(asked!(ask), out),
            Request::Redrive(ask) => self.operator_request(asked!(ask), out),
            Request::Discard(ask) => self.operator_request(asked!(ask), out),
            Request::SetSchedule(ask) => self.change_of_schedule(asked!(ask), out),
            Request::PauseSchedule(ask) => self.change_of_schedule(asked!(ask), out),
            Request::ResumeSchedule(ask) => self.change_of_schedule(asked!(ask), out),
            Request::RemoveSchedule(ask) => self.change_of_schedule(asked!(ask), out),
            Request::AskSchedules(ask) => self.ask_schedules(&asked!(ask), out),
            Request::AskOccurrences(ask) => self.ask_occurrences(&asked!(ask), out),
            Request::Backfill(ask) => self.ask_backfill(asked!(ask), out),
            // The reader answers these, outside the core.
            Request::AskList(_)
            | Request::AskJournal(_)
            | Request::AskDead(_)
            | Request::AskStats(_)
            | Request::AskLetters(_)
            | Request::AskAudit(_) => {
                let cause = "this question is for the reader, not for the core".to_owned();
                out.refuse(to, NotUnderstood { cause });
            }
        }
    }

    fn advance(&mut self, sample: ClockSample, out: &mut Output) {
        self.mono = self.mono.max(sample.mono);
        match self.clock.advance(sample) {
            Some(ClockAlert::Jumped { by }) => out.note(Note::ClockJumped { by_ms: as_ms(by) }),
            Some(ClockAlert::NotBelieved { by }) => {
                out.note(Note::ClockNotBelieved { by_ms: as_ms(by) })
            }
            None => {}
        }
    }

    /// When the core wants to be called with [`Input::Ticked`] at the latest, in monotonic time;
    /// the past says at once.
    ///
    /// It is an instant and not a span: inputs that keep coming must not put it off.
    pub fn wakes_at(&self) -> Option<Duration> {
        let at_once =
            !self.unsettled.is_empty() || self.unregistered.goes_on() || self.memos.has_news();
        if at_once || !self.returning.is_empty() || !self.continuing.is_empty() {
            return Some(self.mono);
        }
        // A slewed clock may need a little more real time: called early, the core does nothing and
        // is called again.
        let due = |due: Time| self.mono + due.since(self.now());
        let armed = self.armed.first().map(|(at, _, _)| due(*at));
        let timers = self.timers.next_due().map(due);
        let anybody = !self.sessions.is_empty() || !self.absent.is_empty();
        let watch = match canary!("inputs put the watch over sessions off") {
            true => anybody.then_some(self.mono + self.watch_interval()),
            false => anybody.then_some(self.watch_at),
        };
        let opens = self.opens_at.first().map(|(at, _)| due(*at));
        let memos = self.memos.next_due().map(due);
        let schedules = self.schedules.next_due().map(due);
        [
            armed,
            timers,
            schedules,
            memos,
            self.memos.calls_at(),
            watch,
            self.cleans_at(),
            opens,
            self.looks_for_workers_at(),
            self.expires_at(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// How often sessions are looked at.
    fn watch_interval(&self) -> Duration {
        (self.settings.heartbeat / 4).clamp(Duration::from_millis(50), Duration::from_millis(500))
    }

    fn ticked(&mut self, out: &mut Output) {
        self.watch_at = self.mono + self.watch_interval();
        self.watch_sessions(out);
        self.open_pools();
        self.return_some(out);
        self.continue_some_leases(out);
        self.tell_results(out);
        self.wake_for_memos(out);
        self.fire_armed(out);
        self.fire_timers(out);
        self.look_for_workers(out);
        self.fire_schedules(out);
        self.clean(out);
        self.look_for_unregistered(out);
        self.forget_audit(out);
        self.expire(out);
    }

    fn next_token(&mut self) -> Token {
        self.next_lease += 1;
        Token {
            store: self.store,
            epoch: if canary!("tokens forget their epoch") { 1 } else { self.epoch },
            lease: LeaseNo(self.next_lease),
        }
    }

    fn count(&mut self, state: RunState, change: i64) {
        let index = usize::from(u8::from(state)) - 1;
        let count = &mut self.tally.runs[index];
        *count = count
            .checked_add_signed(change)
            .unwrap_or_else(|| panic!("C1: more runs left {state} than entered"));
        self.tally_dirty = true;
    }

    /// The generation a run was born in, and whether it may have been moved since.
    fn birth_of(&self, run: RunNo) -> (u32, bool) {
        birth(&self.generations, run)
    }
}

/// Every generation but the newest may be being emptied, or have been when the engine last ended.
fn birth(generations: &BTreeMap<RunNo, u32>, run: RunNo) -> (u32, bool) {
    let newest = generations.values().next_back().copied();
    let before = match canary!("the first run of a day is looked for in the day before") {
        true => generations.range(..run).next_back(),
        false => generations.range(..=run).next_back(),
    };
    match before {
        Some((_, generation)) => (*generation, Some(*generation) != newest),
        None => (0, true), // born in a generation that is gone
    }
}
