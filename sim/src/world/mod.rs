//! The simulated world: what its hosts share and what outlives them, and the engine's
//! [`Env`](stepwell::runtime::env::Env) on it.

mod clock;
mod directory;
mod entropy;
mod exec;
mod frame;
mod net;
mod pause;
mod point;
mod record;
mod store;
mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use stepwell::model::id::ProcessInstance;
use stepwell::model::request::Refusal;
use stepwell::runtime::env::Env;
use stepwell::wire::handshake::Protocols;
use stepwell::wire::message::Message;
use stepwell_storage::{Crash, MemDisk, MemOptions, MemStore, Op, OpenRefusal, Seq, Store};
use turmoil::net::TcpStream;

use crate::checker::{Checkers, Moment};
use crate::client_log::ClientLog;
use crate::draw::hash;
use crate::event::What;
use crate::history::History;
use crate::ledger::Ledger;
use crate::plan::{ClockError, Disk, FaultKind, Plan, Point, Strike};
use crate::program::Program;
use crate::trace::Trace;

use self::directory::Directory;
use self::record::{Connections, Recorder};
use self::stream::Socket;

pub(crate) use self::clock::Clocks;
pub(crate) use self::store::{InAir, WatchedStore};

/// The host the engine is on.
const SERVER_NAME: &str = "server";

/// What all hosts of one simulation share.
pub(crate) struct World {
    pub(crate) plan: Plan,
    /// What runs in it.
    pub(crate) program: Arc<Program>,
    /// The server's disk.
    pub(crate) disk: MemDisk,
    /// Where the server's store lies instead, if it is the production store.
    directory: Option<Directory>,
    now_ms: AtomicU64,
    trace: Mutex<Trace>,
    /// Takes events down, if somebody will look at them.
    recorder: Option<Mutex<Recorder>>,
    connections: Mutex<Connections>,
    /// Calls to the outside world, counted.
    calls: AtomicU64,
    checkers: Mutex<Checkers>,
    ledger: Mutex<Ledger>,
    client_log: Mutex<ClientLog>,
    counts: Mutex<Counts>,
    lives: Mutex<BTreeMap<String, u32>>,
    drains: Mutex<BTreeSet<String>>,
    /// The version of the code that each worker has; the first where nothing is said.
    deployed: Mutex<BTreeMap<String, usize>>,
    /// Recorded outcomes that were sent to workers to be replayed.
    replays: AtomicU64,
    /// How often each point was passed.
    passed: Mutex<BTreeMap<Point, u32>>,
    /// What the script strikes with, and the worker it is about, once this tick is over.
    strikes: Mutex<Vec<(Strike, Option<String>)>>,
    /// Something has happened that rules look at.
    news: AtomicBool,
    clocks: Mutex<Clocks>,
    pauses: pause::Pauses,
    stood_still: AtomicU64,
    /// A host's tasks are being dropped.
    crashing: AtomicBool,
    /// All runs have ended: one client asks about everything.
    pub(crate) audit: AtomicBool,
    /// It has.
    pub(crate) audited: AtomicBool,
}

/// What was reached, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Faults that struck, by kind.
    pub(crate) faults: BTreeMap<FaultKind, u64>,
    /// Other things worth knowing.
    pub(crate) seen: BTreeMap<&'static str, u64>,
}

/// What is kept of what happened, beside its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeps {
    /// Nothing.
    Nothing,
    /// The trace, line by line.
    Lines,
    /// Events.
    Events,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(crate) fn new(plan: Plan, program: Arc<Program>, keeps: Keeps) -> Arc<Self> {
        let checkers = Checkers::new(&plan);
        let told = ClientLog::new(&plan);
        let ledger = Ledger::new(program.effects.clone());
        let recorder = (keeps == Keeps::Events).then(|| Mutex::new(Recorder::new(&plan)));
        let directory = (plan.settings.disk == Disk::Fjall).then(|| Directory::new(&plan));
        Arc::new(Self {
            plan,
            program,
            disk: MemDisk::new(),
            directory,
            now_ms: AtomicU64::new(0),
            trace: Mutex::new(Trace::new(keeps == Keeps::Lines)),
            recorder,
            connections: Mutex::default(),
            calls: AtomicU64::new(0),
            checkers: Mutex::new(checkers),
            ledger: Mutex::new(ledger),
            client_log: Mutex::new(told),
            counts: Mutex::default(),
            lives: Mutex::default(),
            drains: Mutex::default(),
            deployed: Mutex::default(),
            replays: AtomicU64::new(0),
            passed: Mutex::default(),
            strikes: Mutex::default(),
            news: AtomicBool::new(false),
            clocks: Mutex::default(),
            pauses: pause::Pauses::default(),
            stood_still: AtomicU64::new(0),
            crashing: AtomicBool::new(false),
            audit: AtomicBool::new(false),
            audited: AtomicBool::new(false),
        })
    }

    /// Simulated time, as the last tick ended.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    pub(crate) fn set_now_ms(&self, now_ms: u64) {
        self.now_ms.store(now_ms, Ordering::Relaxed);
    }

    pub(crate) fn note(&self, line: fmt::Arguments<'_>) {
        lock(&self.trace).note(line);
        self.record(self.now_ms(), "", 0, |_| What::Noted { text: line.to_string() });
    }

    /// A line of the trace that has an event elsewhere.
    pub(crate) fn line(&self, line: fmt::Arguments<'_>) {
        lock(&self.trace).note(line);
    }

    pub(crate) fn trace(&self) -> MutexGuard<'_, Trace> {
        lock(&self.trace)
    }

    pub(crate) fn checkers(&self) -> MutexGuard<'_, Checkers> {
        lock(&self.checkers)
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    pub(crate) fn client_log(&self) -> MutexGuard<'_, ClientLog> {
        lock(&self.client_log)
    }

    pub(crate) fn clocks(&self) -> MutexGuard<'_, Clocks> {
        lock(&self.clocks)
    }

    pub(crate) fn struck(&self, kind: FaultKind) {
        *lock(&self.counts).faults.entry(kind).or_default() += 1;
    }

    pub(crate) fn saw(&self, what: &'static str) {
        self.saw_many(what, 1);
    }

    pub(crate) fn saw_many(&self, what: &'static str, count: u64) {
        *lock(&self.counts).seen.entry(what).or_default() += count;
    }

    pub(crate) fn counts(&self) -> Counts {
        lock(&self.counts).clone()
    }

    /// Drops a host's tasks by `crash`.
    pub(crate) fn while_crashing(&self, crash: impl FnOnce()) {
        self.crashing.store(true, Ordering::Relaxed);
        crash();
        self.crashing.store(false, Ordering::Relaxed);
    }

    pub(crate) fn is_crashing(&self) -> bool {
        self.crashing.load(Ordering::Relaxed)
    }

    /// How far a host's wall clock is off, what was skipped not counted.
    fn clock_error_ms(&self, host: &str, now_ms: u64) -> i64 {
        let clocks = self.clocks();
        let right = self.plan.settings.epoch_ms + now_ms + clocks.skipped_ms();
        let shown = clocks.wall(host, self, now_ms);
        i64::try_from(i128::from(shown.0) - i128::from(right)).unwrap_or(i64::MAX)
    }

    /// One wall clock jumps.
    pub(crate) fn jump_clock(&self, host: &str, by_ms: i64) {
        self.clocks().jump(host, by_ms);
        let (now, life) = (self.now_ms(), self.life_of(host));
        self.record(now, host, life, |_| What::Clock { offset_ms: self.clock_error_ms(host, now) });
    }

    /// The server's process is dead: decides what is left of what it had submitted, by `extent`
    /// where chance has a say.
    pub(crate) fn server_was_killed(&self, extent: u64) -> Crash {
        match &self.directory {
            None => self.disk.crash_process(extent),
            Some(directory) => directory.process_killed(),
        }
    }

    /// The server's machine is without power. The same.
    pub(crate) fn server_lost_power(&self, extent: u64) -> Crash {
        match &self.directory {
            None => self.disk.power_loss(extent),
            Some(directory) => directory.power_lost(extent),
        }
    }

    /// What is on the server's disk in the end.
    pub(crate) fn opened_disk(&self) -> Result<Arc<dyn Store>, OpenRefusal> {
        match &self.directory {
            None => MemStore::acquire(&self.disk, MemOptions::default())
                .map(|store| Arc::new(store) as Arc<dyn Store>),
            Some(directory) => directory.open().map(|store| store as Arc<dyn Store>),
        }
    }

    /// Asks a worker to leave in peace.
    pub(crate) fn ask_to_drain(&self, host: &str) {
        lock(&self.drains).insert(host.to_owned());
    }

    pub(crate) fn takes_drain(&self, host: &str) -> bool {
        lock(&self.drains).remove(host)
    }

    /// The version of the code that a worker has from its next life on.
    pub(crate) fn deployed(&self, host: &str) -> usize {
        lock(&self.deployed).get(host).copied().unwrap_or_default()
    }

    /// All workers have the next version of the code from their next lives on.
    pub(crate) fn deploy(&self, workers: impl Iterator<Item = String>) {
        let mut deployed = lock(&self.deployed);
        for worker in workers {
            let version = deployed.entry(worker).or_default();
            *version = (*version + 1).min(self.program.newest().max(1));
        }
    }

    /// Now, as checkers tell it.
    pub(crate) fn moment(&self, now_ms: u64) -> Moment {
        Moment {
            passed_ms: now_ms + self.clocks().skipped_ms(),
            server_life: self.life_of(SERVER_NAME),
        }
    }

    /// A worker or a client sends something.
    fn reported(&self, (host, process): (&str, Option<ProcessInstance>), message: &Message) {
        let now = self.moment(self.now_ms());
        self.checkers().reported(now, (host, process), message);
        if frame::is_report(message) {
            self.passes(&Point::Reported, Some(host));
        }
    }

    /// Something has happened outside.
    pub(crate) fn effect_happened(&self) {
        self.news.store(true, Ordering::Relaxed);
    }

    /// What rules look at.
    pub(crate) fn with_history<T>(&self, look: impl FnOnce(&History<'_>) -> T) -> T {
        let faults = lock(&self.counts).faults.values().sum();
        let (checkers, ledger) = (self.checkers(), self.ledger());
        look(&History {
            durable: &checkers.durable,
            ledger: &ledger,
            replays: self.replays.load(Ordering::Relaxed),
            faults,
            now_ms: self.now_ms(),
        })
    }

    /// Looks whether the suite's own rules hold, if anything has happened since the last look.
    pub(crate) fn check_rules(&self) {
        if self.program.always.is_empty() || !self.news.swap(false, Ordering::Relaxed) {
            return;
        }
        let broken: Vec<&str> = self.with_history(|history| {
            let rules = self.program.always.iter();
            rules
                .filter(|always| !(always.rule)(history))
                .map(|always| always.name.as_str())
                .collect()
        });
        for name in broken {
            let text = "the suite's rule does not hold".to_owned();
            self.checkers().report(name, self.now_ms(), text);
        }
    }

    /// Batches have become durable.
    fn committed(&self, now_ms: u64, seq: Seq, batches: &[(Seq, Vec<Op>)]) {
        lock(&self.trace).note(format_args!("{now_ms} committed {seq}: {} batches", batches.len()));
        self.news.store(true, Ordering::Relaxed);
        let engine_latest = self.clocks().engine_latest();
        let mut checkers = self.checkers();
        checkers.engine_latest(engine_latest);
        if self.is_recording() {
            self.record_committed(now_ms, seq, batches, &mut checkers);
        } else {
            for (seq, ops) in batches {
                checkers.committed(now_ms, *seq, ops, &self.plan);
            }
        }
        let forgotten = checkers.durable.take_forgotten();
        drop(checkers);
        for (run, id) in forgotten {
            self.saw("runs forgotten after their retention");
            self.ledger().forget(run, id);
            self.client_log().calls.has_forgotten(run, id, now_ms);
        }
    }

    /// The server opens its disk.
    fn store_opens(&self) {
        self.checkers().durable.opens();
    }

    /// A generation is gone from the disk.
    fn generation_dropped(&self, now_ms: u64, generation: u32) {
        self.note(format_args!("{now_ms} dropped generation {generation}"));
        self.saw("generations dropped");
        self.checkers().generation_dropped(now_ms, generation);
    }

    /// A frame leaves the server.
    fn released(&self, now_ms: u64, (to, who): (&str, Option<ProcessInstance>), message: &Message) {
        match message {
            Message::Revoked(revoked) if matches!(revoked.reason, Refusal::StaleToken(_)) => {
                self.saw("leases revoked from late workers");
            }
            Message::ReportRefused(_) => self.saw("late reports refused"),
            _ => {}
        }
        let mut checkers = self.checkers();
        if let Message::Dispatch(dispatch) = message
            && let Some(run) = checkers.durable.runs.get(&dispatch.run)
        {
            let replays = run.entries.iter().filter(|entry| entry.resolves()).count();
            self.replays.fetch_add(replays as u64, Ordering::Relaxed);
        }
        checkers.released(now_ms, (to, who), message);
        drop(checkers);
        match message {
            Message::Appended(_) => self.passes(&Point::AfterAck, Some(to)),
            Message::Dispatch(_) => self.passes(&Point::Dispatched, Some(to)),
            _ => None,
        };
    }
}

/// A frame that will be sent again.
struct Copied {
    /// When, counting what is skipped.
    due_ms: u64,
    /// When it was sent first.
    sent_ms: u64,
    /// Over which connection.
    label: Arc<str>,
    frame: Bytes,
}

/// A copy that is older than this is not sent any more: nothing in a network lives as long as a
/// retention.
const COPY_AGE_MAX_MS: u64 = 72 * 3_600_000;
/// A copy is late by hours from here on.
const HOUR_MS: u64 = 3_600_000;

/// One life of a host: from its start to its crash.
pub(crate) struct Host {
    pub(crate) world: Arc<World>,
    pub(crate) name: String,
    pub(crate) life: u32,
    born_ms: u64,
    born: tokio::time::Instant,
    clock: ClockError,
    /// Copies of frames that will be sent again, by peer.
    again: Mutex<BTreeMap<String, Vec<Copied>>>,
    /// Its connections, in the order in which they were opened.
    sockets: Mutex<Vec<Weak<Mutex<Option<TcpStream>>>>>,
}

impl Host {
    /// Begins the next life of a host. To be called from within it.
    pub(crate) fn begin(world: &Arc<World>, name: &str) -> Arc<Self> {
        let life = {
            let mut lives = lock(&world.lives);
            let life = lives.entry(name.to_owned()).or_default();
            *life += 1;
            *life
        };
        let born_ms = world.now_ms();
        if name == "server" {
            world.clocks().server_begins();
        }
        let clock = clock::error_of(world, name);
        let (world, name, born) = (world.clone(), name.to_owned(), tokio::time::Instant::now());
        let host = Self {
            world,
            name,
            life,
            born_ms,
            born,
            clock,
            again: Mutex::default(),
            sockets: Mutex::default(),
        };
        host.tell(format_args!("begins"), || What::LifeBegan);
        host.record_clock();
        Arc::new(host)
    }

    /// Simulated time.
    pub(crate) fn now_ms(&self) -> u64 {
        self.born_ms + self.born.elapsed().as_millis() as u64
    }

    /// Something happens here that has no event of its own.
    pub(crate) fn note(&self, line: fmt::Arguments<'_>) {
        self.tell(line, || What::Noted { text: line.to_string() });
    }

    /// A line of the trace.
    pub(crate) fn line(&self, line: fmt::Arguments<'_>) {
        lock(&self.world.trace).note(format_args!(
            "{} {}.{} {line}",
            self.now_ms(),
            self.name,
            self.life
        ));
    }

    /// How far its wall clock is off, if it is.
    fn record_clock(&self) {
        let offset_ms = self.world.clock_error_ms(&self.name, self.now_ms());
        if offset_ms != 0 {
            self.record(|_| What::Clock { offset_ms });
        }
    }

    fn opened(&self, socket: &Socket) {
        let mut sockets = lock(&self.sockets);
        sockets.retain(|socket| socket.strong_count() > 0);
        sockets.push(Arc::downgrade(socket));
    }

    fn close_all(&self) {
        for socket in lock(&self.sockets).drain(..).filter_map(|socket| socket.upgrade()) {
            drop(lock(&socket).take());
        }
    }

    /// Simulated time and what was skipped of it.
    fn passed_ms(&self) -> u64 {
        self.now_ms() + self.world.clocks().skipped_ms()
    }

    /// Keeps a frame, to be sent to the peer again after that time, over whatever connection there
    /// is.
    fn send_again(&self, peer: &str, label: &Arc<str>, after_ms: u64, frame: Bytes) {
        let (sent_ms, label) = (self.passed_ms(), label.clone());
        let due_ms = sent_ms + after_ms;
        lock(&self.again).entry(peer.to_owned()).or_default().push(Copied {
            due_ms,
            sent_ms,
            label,
            frame,
        });
    }

    /// What is to be sent again now, over the connection of this label.
    fn due_again(&self, peer: &str, label: &Arc<str>) -> Vec<Bytes> {
        let (now_ms, mut again) = (self.passed_ms(), lock(&self.again));
        let Some(kept) = again.get_mut(peer) else {
            return Vec::new();
        };
        let (due, later) = std::mem::take(kept).into_iter().partition(|copy| copy.due_ms <= now_ms);
        *kept = later;
        let mut due: Vec<Copied> = due;
        due.retain(|copy| now_ms - copy.sent_ms <= COPY_AGE_MAX_MS);
        for copy in &due {
            self.world.saw("frames sent again late");
            if copy.label != *label {
                self.world.saw("frames sent again late over another connection");
            }
            if now_ms - copy.sent_ms >= HOUR_MS {
                self.world.saw("frames sent again hours late");
            }
        }
        due.into_iter().map(|copy| copy.frame).collect()
    }

    /// The world as the engine's code sees it from here.
    pub(crate) fn env(self: &Arc<Self>) -> Env {
        Env {
            clock: Arc::new(clock::HostClock(self.clone())),
            entropy: Arc::new(entropy::HostEntropy::new(self)),
            net: Arc::new(net::HostNet(self.clone())),
            exec: Arc::new(exec::Tasks),
            protocols: self.protocols(),
        }
    }

    /// The protocols that this life speaks: those of this version, or of the one to come.
    pub(crate) fn protocols(&self) -> Protocols {
        let label = format_args!("protocols {} {}", self.name, self.life);
        match hash(self.world.plan.seed, label).is_multiple_of(2) {
            true => Protocols::OWN,
            false => Protocols::LATER,
        }
    }
}
