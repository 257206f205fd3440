//! A harness around one turn: an engine that does what the test says, and a clock that stands
//! still.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::chain;
use crate::model::entry::NOT_ATTEMPTED;
use crate::model::entry::{
    AttemptFailed, CancelRequested, Entry, SourceLocation, Started, StepCompleted, StepFailed,
    TimerArmed, TimerFired,
};
use crate::model::failure::Failure;
use crate::model::id::{CommandIndex, LeaseNo, ProcessInstance, RunId, RunNo, Token};
use crate::model::payload::Payload;
use crate::model::time::Time;
use crate::replay::report::Report;
use crate::replay::turn::Turn;
use crate::replay::world::{Code, Registry, World};
use crate::runtime::env::Clock;
use crate::wire::message::Message;
use crate::workflow::{Ctx, TIMEOUT_DEFAULT, encode};

/// Engine time when a run of the harness starts.
pub(super) const START: u64 = 1_000_000;
pub(super) const RUN: RunId = RunId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);

/// A clock that moves when told.
#[derive(Default)]
pub(super) struct ManualClock {
    ms: AtomicU64,
    sleepers: Mutex<Vec<Waker>>,
}

impl ManualClock {
    pub(super) fn advance(&self, ms: u64) {
        self.ms.fetch_add(ms, Ordering::SeqCst);
        for sleeper in self.sleepers.lock().unwrap().drain(..) {
            sleeper.wake();
        }
    }
}

impl Clock for Handle {
    fn mono(&self) -> Duration {
        Duration::from_millis(self.0.ms.load(Ordering::SeqCst))
    }

    fn wall(&self) -> Time {
        Time(0)
    }

    fn sleep(&self, span: Duration) -> BoxFuture<'static, ()> {
        let (clock, until) = (Self(self.0.clone()), self.mono() + span);
        Box::pin(std::future::poll_fn(move |cx| {
            if clock.mono() >= until {
                return Poll::Ready(());
            }
            clock.0.sleepers.lock().unwrap().push(cx.waker().clone());
            Poll::Pending
        }))
    }
}

struct Handle(Arc<ManualClock>);

/// Counts wakes.
#[derive(Default)]
pub(super) struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// See the module.
pub(super) struct TurnHarness {
    pub(super) turn: Turn,
    pub(super) clock: Arc<ManualClock>,
    pub(super) world: Arc<World>,
    /// The journal as the engine has it.
    pub(super) journal: Vec<Entry>,
    wakes: Arc<Wakes>,
    /// Reports that were sent and not looked at by the test.
    pub(super) sent: Vec<Message>,
    leases: u64,
    /// Something was told to the turn since it was polled last.
    told: bool,
}

impl TurnHarness {
    /// A run of `function`, just started.
    pub(super) fn new<In, Out, F, Fut>(input: &(impl Serialize + ?Sized), function: F) -> Self
    where
        In: DeserializeOwned + 'static,
        Out: Serialize + 'static,
        F: Fn(Ctx, In) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Out, Failure>> + Send + 'static,
    {
        let started = Started {
            at: Time(START),
            id: RUN,
            name: Some("order-17".to_owned()),
            namespace: Default::default(),
            workflow: "checkout".to_owned(),
            version: 1,
            queue: "default".to_owned(),
            priority: 5,
            principal: "tester".to_owned(),
            request_id: Default::default(),
            traceparent: None,
            input: Payload::of(input).unwrap(),
            not_before: None,
            tags: Vec::new(),
            unique: None,
            batch: None,
        };
        Self::of_journal(vec![started.into()], function)
    }

    /// A run of `function` with this journal.
    pub(super) fn of_journal<In, Out, F, Fut>(journal: Vec<Entry>, function: F) -> Self
    where
        In: DeserializeOwned + 'static,
        Out: Serialize + 'static,
        F: Fn(Ctx, In) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Out, Failure>> + Send + 'static,
    {
        let clock = Arc::new(ManualClock::default());
        let code = Code {
            version: 4,
            timeout: TIMEOUT_DEFAULT,
            begin: Arc::new(move |ctx, input| {
                let input = input.to::<In>().map_err(|e| Failure::terminal(e).class("input"))?;
                let running = function(ctx, input);
                Ok(Box::pin(async move { encode(&running.await?, 1_000) }))
            }),
        };
        let world = World::new(
            Arc::new(Handle(clock.clone())),
            Registry::from([("checkout".to_owned(), code)]),
        );
        world.set_payload_bytes_max(1_000);
        world.gate.open_until(Duration::MAX);
        world.engine_time.heard(Time(START), Duration::ZERO);
        let world = Arc::new(world);
        let turn = Turn::new(RunNo(1), RUN, token(1), 0, world.clone());
        let mut harness = Self {
            turn,
            clock,
            world,
            journal,
            wakes: Arc::default(),
            sent: Vec::new(),
            leases: 0,
            told: false,
        };
        harness.dispatch();
        harness
    }

    /// The run is dispatched (again): another turn begins with the whole journal.
    pub(super) fn dispatch(&mut self) {
        self.dispatch_prefix(self.journal.len());
    }

    pub(super) fn dispatch_prefix(&mut self, count: usize) {
        self.leases += 1;
        self.sent.clear();
        self.turn = Turn::new(RunNo(1), RUN, token(self.leases), count as u32, self.world.clone());
        self.turn.stored(0, self.stored()[..count].to_vec());
        self.told = true;
    }

    /// The journal as it is stored.
    pub(super) fn stored(&self) -> Vec<Bytes> {
        let mut previous = chain::root(RUN);
        let seal = |entry| {
            let (bytes, chain) = chain::sealed(previous, entry);
            previous = chain;
            bytes.into()
        };
        self.journal.iter().map(seal).collect()
    }

    /// Polls the turn and takes what it sends.
    pub(super) fn poll(&mut self) -> &mut Self {
        self.told = false;
        let waker = Waker::from(self.wakes.clone());
        self.turn.poll(&mut Context::from_waker(&waker));
        let sent = &mut self.sent;
        self.turn.flush(|message| {
            sent.push(message);
            true
        });
        self
    }

    /// How often the turn's task was woken since the last call.
    pub(super) fn wakes(&self) -> usize {
        self.wakes.0.swap(0, Ordering::SeqCst)
    }

    /// Whether its task would poll the turn now.
    pub(super) fn is_woken(&self) -> bool {
        self.told || self.wakes() > 0
    }

    /// Engine time now.
    pub(super) fn now(&self) -> Time {
        Time(START + 1 + self.clock.ms.load(Ordering::SeqCst))
    }

    /// The engine commits an entry and tells the turn, which is not polled yet.
    pub(super) fn commit(&mut self, entry: impl Into<Entry>) -> &mut Self {
        let index = self.journal.len() as u32;
        let entry = entry.into();
        let mut told = entry.clone();
        match &mut told {
            Entry::StepCompleted(e) if e.attempt == NOT_ATTEMPTED => {}
            Entry::StepCompleted(e) => {
                (e.location, e.output) = (SourceLocation::default(), Payload::default())
            }
            Entry::TimerArmed(e) => e.location = SourceLocation::default(),
            _ => {}
        }
        self.journal.push(entry);
        self.turn.told(index, &told.encode());
        self.told = true;
        self
    }

    /// The engine says something about a step that is no entry; the turn is not polled yet.
    pub(super) fn say(&mut self, what: impl FnOnce(&mut Turn)) {
        what(&mut self.turn);
        self.told = true;
    }

    /// The engine takes the first report that it has not answered; the turn is told, not polled.
    pub(super) fn answer(&mut self) -> &mut Self {
        let message = self.sent.remove(0);
        let entry = self.entry_for(message, Duration::from_secs(2));
        self.commit(entry)
    }

    /// What the engine appends for a report about a command; a failed attempt is made again after
    /// `backoff`.
    pub(super) fn entry_for(&self, message: Message, backoff: Duration) -> Entry {
        let at = self.now();
        match message {
            Message::StepCompletedReport(r) => StepCompleted {
                at,
                number: r.number,
                location: r.location,
                attempt: r.attempt,
                output: r.output,
            }
            .into(),
            Message::TimerRequested(r) => {
                let due = at.after(Duration::from_millis(r.delay_ms));
                TimerArmed { at, number: r.number, location: r.location, due }.into()
            }
            Message::AttemptFailedReport(r) => {
                let (number, location, attempt, failure) =
                    (r.number, r.location, r.attempt, r.failure);
                if !failure.is_retryable() || attempt > r.retry.retries {
                    return StepFailed {
                        at,
                        number,
                        location,
                        attempt,
                        failure,
                        process: ProcessInstance(1),
                        build: "b".to_owned(),
                    }
                    .into();
                }
                AttemptFailed {
                    at,
                    number,
                    location,
                    attempt,
                    failure,
                    retry_at: at.after(backoff),
                    counted: true,
                    process: ProcessInstance(1),
                    build: "b".to_owned(),
                }
                .into()
            }
            other => panic!("not a report about a command: {other:?}"),
        }
    }

    /// Names of what was sent since the last look: `completed 0`, `timer 1`, …
    pub(super) fn told_engine(&mut self) -> Vec<String> {
        self.sent.iter().map(summary).collect()
    }

    pub(super) fn outstanding(&self) -> Vec<Report> {
        self.turn.outstanding()
    }
}

pub(super) fn token(lease: u64) -> Token {
    Token { store: 7, epoch: 1, lease: LeaseNo(lease) }
}

pub(super) fn summary(message: &Message) -> String {
    match message {
        Message::StepCompletedReport(r) => format!("completed {} = {:?}", r.number, r.output),
        Message::AttemptFailedReport(r) => {
            format!("failed {} attempt {}: {:?}", r.number, r.attempt, r.failure)
        }
        Message::TimerRequested(r) => format!("timer {} {} ms", r.number, r.delay_ms),
        Message::TurnSuspended(r) => {
            format!("suspended seen {} until +{} ms", r.seen, r.wakes_at.0 - START)
        }
        Message::TurnCompleted(r) => format!("returned {:?}", r.output),
        Message::TurnFailed(r) => format!("died {:?} whole {}", r.failure, r.whole),
        Message::TurnMismatched(r) => {
            format!(
                "mismatch\n  entry {} holds    {}\n  the code asked   {}",
                r.index, r.journal_holds, r.code_asked
            )
        }
        other => format!("{other:?}"),
    }
}

pub(super) fn fired(at: u64, number: u32) -> TimerFired {
    TimerFired { at: Time(START + at), number: CommandIndex(number) }
}

pub(super) fn completed(at: u64, number: u32, name: &str, output: impl Serialize) -> StepCompleted {
    let location =
        SourceLocation { name: name.to_owned(), at: "order.rs:41".to_owned(), version: 3 };
    StepCompleted {
        at: Time(START + at),
        number: CommandIndex(number),
        location,
        attempt: 1,
        output: Payload::of(&output).unwrap(),
    }
}

pub(super) fn cancel(at: u64) -> CancelRequested {
    CancelRequested {
        at: Time(START + at),
        principal: "ops".to_owned(),
        reason: "not wanted".to_owned(),
    }
}
