//! One seed, from its plan to its report.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use stepwell_storage::Fate;
use turmoil::Sim;

use crate::checker;
use crate::host::{client, server, worker};
use crate::panics;
use crate::plan::{CLIENTS, Fault, FaultKind, Plan, WORKERS};
use crate::report::{Report, Violation};
use crate::world::{InAir, World};

/// How often it is looked whether a program ended by itself, and whether all is done.
const LOOK_MS: u64 = 50;
/// A program that ended by itself is started again after this time.
const RESTART_MS: u64 = 150;
/// Segments on their way between two hosts; beyond this turmoil panics.
const SEGMENTS_MAX: usize = 10_000;

/// Simulates a plan.
pub fn run(plan: Plan) -> Report {
    simulate(plan, false).0
}

/// Simulates a plan, and tells all that happened, line by line.
pub fn run_traced(plan: Plan) -> (Report, Vec<String>) {
    simulate(plan, true)
}

fn simulate(plan: Plan, keeps_lines: bool) -> (Report, Vec<String>) {
    let world = World::new(plan, keeps_lines);
    let (_, panics) = panics::caught(|| {
        let mut simulation = Simulation::new(&world);
        let in_time = simulation.run();
        drop(simulation);
        // What was found underway would be found again, in other words.
        if !world.court().has_charges() {
            checker::at_the_end(&world, in_time);
        }
    });
    let mut violations = world.court().take_charges();
    let at_ms = world.now_ms();
    violations.extend(panics.into_iter().map(|text| Violation {
        checker: "nothing panics".to_owned(),
        at_ms,
        text,
    }));
    report(&world, violations)
}

fn report(world: &World, violations: Vec<Violation>) -> (Report, Vec<String>) {
    let mut runs = BTreeMap::new();
    let (absorbed, late_bodies) = {
        let (ledger, court) = (world.ledger(), world.court());
        for run in court.durable.runs.values() {
            let end = run.entries.last().map_or("", |entry| entry.kind_name());
            *runs.entry(end.to_owned()).or_default() += 1;
        }
        (
            ledger
                .effects()
                .values()
                .map(|effect| u64::from(effect.absorbed))
                .sum(),
            court.late_bodies,
        )
    };
    world.saw_many("effects absorbed", absorbed);
    world.saw_many("bodies begun late", late_bodies);
    let counts = world.counts();
    let mut trace = world.trace();
    let report = Report {
        seed: world.plan.seed,
        trace_hash: trace.hash(),
        events: trace.count(),
        simulated_ms: world.now_ms(),
        healed_in_ms: world
            .now_ms()
            .saturating_sub(world.plan.settings.faults_end_ms),
        runs,
        faults: counts.faults,
        seen: counts
            .seen
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(what, count)| (what.to_owned(), count))
            .collect(),
        violations,
    };
    (report, trace.take_lines())
}

/// What the harness does next.
enum Action {
    Strike(Fault),
    /// A fault on a link or the disk is over.
    Mend(Fault),
    /// A host comes up.
    Bounce(String),
}

struct Simulation<'a> {
    world: Arc<World>,
    sim: Sim<'a>,
    agenda: BTreeMap<(u64, u64), Action>,
    next: u64,
    /// Hosts that are down, or will be bounced.
    down: BTreeMap<String, ()>,
    hosts: Vec<String>,
}

impl Simulation<'_> {
    fn new(world: &Arc<World>) -> Self {
        let settings = &world.plan.settings;
        let ms = Duration::from_millis;
        let mut sim = turmoil::Builder::new()
            .rng_seed(crate::draw::hash(world.plan.seed, "network"))
            .epoch(UNIX_EPOCH + ms(settings.epoch_ms))
            .tick_duration(ms(settings.tick_ms))
            .simulation_duration(ms(u64::from(u32::MAX)))
            .min_message_latency(ms(1))
            .max_message_latency(ms(settings.latency_max_ms))
            .tcp_capacity(SEGMENTS_MAX)
            .enable_random_order()
            .build();
        let air: Arc<Mutex<InAir>> = Arc::default();
        let here = world.clone();
        sim.host("server", move || server::serve(here.clone(), air.clone()));
        let mut hosts = vec!["server".to_owned()];
        for number in 1..=WORKERS {
            let (name, here) = (format!("worker-{number}"), world.clone());
            hosts.push(name.clone());
            sim.host(name.clone(), move || {
                worker::work(here.clone(), name.clone())
            });
        }
        for number in 1..=CLIENTS {
            let here = world.clone();
            hosts.push(format!("client-{number}"));
            sim.host(format!("client-{number}"), move || {
                client::ask(here.clone(), number)
            });
        }
        let mut simulation = Self {
            world: world.clone(),
            sim,
            agenda: BTreeMap::new(),
            next: 0,
            down: BTreeMap::new(),
            hosts,
        };
        for timed in &world.plan.faults {
            simulation.plan(timed.at_ms, Action::Strike(timed.fault.clone()));
        }
        simulation
    }

    fn plan(&mut self, at_ms: u64, action: Action) {
        self.next += 1;
        self.agenda.insert((at_ms, self.next), action);
    }

    /// Both phases. Tells whether everything ended within the time for it.
    fn run(&mut self) -> bool {
        let settings = self.world.plan.settings.clone();
        let deadline = settings.faults_end_ms + settings.heal_max_ms;
        let mut healed = false;
        let mut looked = 0;
        loop {
            let now = self.world.now_ms();
            if !healed && now >= settings.faults_end_ms {
                healed = true;
                self.heal();
            }
            while let Some(entry) = self
                .agenda
                .first_entry()
                .filter(|entry| entry.key().0 <= now)
            {
                match entry.remove() {
                    Action::Strike(fault) => self.strike(fault),
                    Action::Mend(fault) => self.mend(&fault),
                    Action::Bounce(host) => self.bounce(&host),
                }
            }
            if let Err(error) = self.sim.step() {
                self.world
                    .court()
                    .charge("no program fails", now, error.to_string());
            }
            self.world.set_now_ms(now + settings.tick_ms);
            if now < looked + LOOK_MS {
                continue;
            }
            looked = now;
            self.restart_what_ended();
            if self.world.court().has_charges() {
                return false;
            }
            if healed && self.is_done() {
                return true;
            }
            if now >= deadline {
                return false;
            }
        }
    }

    /// All runs have ended, and a client has asked about all of them.
    fn is_done(&mut self) -> bool {
        if !self.world.audit.load(Ordering::Relaxed) {
            let done = self.world.told().is_over() && self.world.court().durable.is_at_rest();
            self.world.audit.store(done, Ordering::Relaxed);
        }
        self.world.audited.load(Ordering::Relaxed)
    }

    fn restart_what_ended(&mut self) {
        for host in self.hosts.clone() {
            if !self.down.contains_key(&host) && !self.sim.is_host_running(host.as_str()) {
                self.down.insert(host.clone(), ());
                self.plan(self.world.now_ms() + RESTART_MS, Action::Bounce(host));
            }
        }
    }

    fn note(&self, what: &str, fault: &Fault) {
        self.world
            .note(format_args!("{} {what}: {fault}", self.world.now_ms()));
    }

    fn strike(&mut self, fault: Fault) {
        let ends_at = self.world.now_ms() + fault.span_ms;
        let (host, other) = (fault.host.clone(), fault.other.clone());
        let dies = matches!(
            fault.kind,
            FaultKind::WorkerKilled
                | FaultKind::WorkerKilledSilently
                | FaultKind::WorkerDrained
                | FaultKind::ClientKilled
                | FaultKind::ServerKilled
                | FaultKind::PowerLost
        );
        if dies && self.down.contains_key(&host) {
            return;
        }
        self.note("strikes", &fault);
        self.world.struck(fault.kind);
        match fault.kind {
            FaultKind::WorkerDrained => return self.world.ask_to_drain(&host),
            FaultKind::WorkerKilled | FaultKind::ClientKilled => self.crash(&host, ends_at),
            FaultKind::WorkerKilledSilently => {
                self.sim.partition(host.as_str(), "server");
                self.crash(&host, ends_at);
                self.plan(ends_at, Action::Mend(fault));
                return;
            }
            FaultKind::ServerKilled => {
                self.crash(&host, ends_at);
                let crash = self.world.server_was_killed(fault.extent);
                self.world.note(format_args!(
                    "of {} batches in the air {} were kept",
                    crash.unacknowledged, crash.kept
                ));
            }
            FaultKind::PowerLost => {
                // Nobody is told: a machine without power sends nothing.
                for peer in self.hosts.clone().iter().filter(|peer| **peer != host) {
                    self.sim.partition(host.as_str(), peer.as_str());
                }
                self.crash(&host, ends_at);
                let crash = self.world.server_lost_power(fault.extent);
                self.world.note(format_args!(
                    "of {} batches in the air {} were kept",
                    crash.unacknowledged, crash.kept
                ));
                self.plan(ends_at, Action::Mend(fault));
                return;
            }
            FaultKind::Partitioned => self.sim.partition(host.as_str(), other.as_str()),
            FaultKind::CutOneWay => self.sim.partition_oneway(host.as_str(), other.as_str()),
            FaultKind::Held => self.sim.hold(host.as_str(), other.as_str()),
            FaultKind::SlowLink => {
                self.sim.set_link_latency(
                    host.as_str(),
                    other.as_str(),
                    Duration::from_millis(fault.extent),
                );
            }
            FaultKind::SlowDisk => self
                .world
                .disk
                .faults()
                .slow_sync(Duration::from_millis(fault.extent)),
            FaultKind::DiskFull => self.world.disk.faults().fill(),
            FaultKind::SyncFailed => {
                let fate = match fault.extent % 3 {
                    0 => Fate::Kept,
                    1 => Fate::Lost,
                    _ => Fate::Partly(fault.extent),
                };
                self.world.disk.faults().fail_next_commit(fate);
                return;
            }
        }
        if !dies {
            self.plan(ends_at, Action::Mend(fault));
        }
    }

    fn crash(&mut self, host: &str, up_at: u64) {
        self.world.clone().while_crashing(|| self.sim.crash(host));
        self.down.insert(host.to_owned(), ());
        self.plan(up_at, Action::Bounce(host.to_owned()));
    }

    fn bounce(&mut self, host: &str) {
        if self.down.remove(host).is_some() {
            self.world
                .note(format_args!("{} {host} comes up", self.world.now_ms()));
            // One that ended by itself may have left tasks behind.
            self.world.clone().while_crashing(|| self.sim.bounce(host));
        }
    }

    fn mend(&mut self, fault: &Fault) {
        self.note("is over", fault);
        let (host, other) = (fault.host.as_str(), fault.other.as_str());
        match fault.kind {
            FaultKind::WorkerKilledSilently => self.sim.repair(host, "server"),
            FaultKind::PowerLost => {
                for peer in self.hosts.iter().filter(|peer| *peer != host) {
                    self.sim.repair(host, peer.as_str());
                }
            }
            FaultKind::Partitioned => self.sim.repair(host, other),
            FaultKind::CutOneWay => self.sim.repair_oneway(host, other),
            FaultKind::Held => self.sim.release(host, other),
            FaultKind::SlowLink => self.usual_latency(host, other),
            FaultKind::SlowDisk => self.world.disk.faults().slow_sync(Duration::ZERO),
            FaultKind::DiskFull => self.world.disk.faults().make_room(),
            _ => {}
        }
    }

    fn usual_latency(&self, host: &str, other: &str) {
        let usual = Duration::from_millis(self.world.plan.settings.latency_max_ms);
        self.sim.set_link_latency(host, other, usual);
    }

    /// The faults are over: every link is whole, every host comes up.
    fn heal(&mut self) {
        self.world
            .note(format_args!("{} all is mended", self.world.now_ms()));
        self.agenda.clear();
        self.world.disk.faults().slow_sync(Duration::ZERO);
        self.world.disk.faults().make_room();
        for peer in self.hosts.clone().iter().filter(|peer| *peer != "server") {
            self.sim.release("server", peer.as_str());
            self.sim.repair("server", peer.as_str());
            self.usual_latency("server", peer);
        }
        for host in std::mem::take(&mut self.down).into_keys() {
            self.down.insert(host.clone(), ());
            self.bounce(&host);
        }
    }
}
