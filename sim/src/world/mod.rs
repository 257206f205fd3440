//! The simulated world: what its hosts share and what outlives them, and the engine's [`Env`](stepwell::runtime::env::Env) on it.

mod clock;
mod entropy;
mod exec;
mod net;
mod store;
mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use stepwell::model::id::Incarnation;
use stepwell::runtime::env::Env;
use stepwell::wire::message::Message;
use stepwell_storage::{MemDisk, Op, Seq};
use turmoil::net::TcpStream;

use crate::checker::Court;
use crate::ledger::Ledger;
use crate::plan::{FaultKind, Plan};
use crate::told::Told;
use crate::trace::Trace;

use self::stream::Socket;

pub(crate) use self::store::{InAir, WatchedStore};

/// What all hosts of one simulation share.
pub(crate) struct World {
    pub(crate) plan: Plan,
    /// The server's disk.
    pub(crate) disk: MemDisk,
    now_ms: AtomicU64,
    trace: Mutex<Trace>,
    court: Mutex<Court>,
    ledger: Mutex<Ledger>,
    told: Mutex<Told>,
    counts: Mutex<Counts>,
    lives: Mutex<BTreeMap<String, u32>>,
    drains: Mutex<BTreeSet<String>>,
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(crate) fn new(plan: Plan, keeps_lines: bool) -> Arc<Self> {
        let told = Told::new(&plan);
        Arc::new(Self {
            plan,
            disk: MemDisk::new(),
            now_ms: AtomicU64::new(0),
            trace: Mutex::new(Trace::new(keeps_lines)),
            court: Mutex::new(Court::new()),
            ledger: Mutex::default(),
            told: Mutex::new(told),
            counts: Mutex::default(),
            lives: Mutex::default(),
            drains: Mutex::default(),
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
    }

    pub(crate) fn trace(&self) -> MutexGuard<'_, Trace> {
        lock(&self.trace)
    }

    pub(crate) fn court(&self) -> MutexGuard<'_, Court> {
        lock(&self.court)
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    pub(crate) fn told(&self) -> MutexGuard<'_, Told> {
        lock(&self.told)
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

    fn is_crashing(&self) -> bool {
        self.crashing.load(Ordering::Relaxed)
    }

    /// Asks a worker to leave in peace.
    pub(crate) fn ask_to_drain(&self, host: &str) {
        lock(&self.drains).insert(host.to_owned());
    }

    pub(crate) fn takes_drain(&self, host: &str) -> bool {
        lock(&self.drains).remove(host)
    }

    /// Batches have become durable.
    fn committed(&self, now_ms: u64, seq: Seq, batches: &[(Seq, Vec<Op>)]) {
        self.note(format_args!(
            "{now_ms} committed {seq}: {} batches",
            batches.len()
        ));
        let mut court = self.court();
        for (seq, ops) in batches {
            court.committed(now_ms, *seq, ops);
        }
    }

    /// A frame leaves the server.
    fn released(&self, now_ms: u64, to: (&str, Option<Incarnation>), message: &Message) {
        self.court().released(now_ms, to, message);
    }
}

/// One life of a host: from its start to its crash.
pub(crate) struct Host {
    pub(crate) world: Arc<World>,
    pub(crate) name: String,
    pub(crate) life: u32,
    born_ms: u64,
    born: tokio::time::Instant,
    /// Copies of frames that will be sent again, by peer.
    again: Mutex<BTreeMap<String, Vec<(u64, Bytes)>>>,
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
        let (world, name, born) = (world.clone(), name.to_owned(), tokio::time::Instant::now());
        let host = Self {
            world,
            name,
            life,
            born_ms,
            born,
            again: Mutex::default(),
            sockets: Mutex::default(),
        };
        host.note(format_args!("begins"));
        Arc::new(host)
    }

    /// Simulated time.
    pub(crate) fn now_ms(&self) -> u64 {
        self.born_ms + self.born.elapsed().as_millis() as u64
    }

    pub(crate) fn note(&self, line: fmt::Arguments<'_>) {
        self.world.note(format_args!(
            "{} {}.{} {line}",
            self.now_ms(),
            self.name,
            self.life
        ));
    }

    fn opened(&self, socket: &Socket) {
        let mut sockets = lock(&self.sockets);
        sockets.retain(|socket| socket.strong_count() > 0);
        sockets.push(Arc::downgrade(socket));
    }

    fn close_all(&self) {
        for socket in lock(&self.sockets)
            .drain(..)
            .filter_map(|socket| socket.upgrade())
        {
            drop(lock(&socket).take());
        }
    }

    /// Keeps a frame, to be sent to the peer again from that time on, over whatever connection there is.
    fn send_again(&self, peer: &str, due_ms: u64, frame: Bytes) {
        lock(&self.again)
            .entry(peer.to_owned())
            .or_default()
            .push((due_ms, frame));
    }

    fn due_again(&self, peer: &str) -> Vec<Bytes> {
        let (now_ms, mut again) = (self.now_ms(), lock(&self.again));
        let Some(kept) = again.get_mut(peer) else {
            return Vec::new();
        };
        let (due, later) = std::mem::take(kept)
            .into_iter()
            .partition(|(due_ms, _)| *due_ms <= now_ms);
        *kept = later;
        let due: Vec<(u64, Bytes)> = due;
        due.into_iter().map(|(_, frame)| frame).collect()
    }

    /// The world as the engine's code sees it from here.
    pub(crate) fn env(self: &Arc<Self>) -> Env {
        Env {
            clock: Arc::new(clock::HostClock(self.clone())),
            entropy: Arc::new(entropy::HostEntropy::new(self)),
            net: Arc::new(net::HostNet(self.clone())),
            exec: Arc::new(exec::Tasks),
        }
    }
}
