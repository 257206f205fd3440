//! One seed, from its plan to its report.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use stepwell::model::entry::Entry;
use stepwell::model::id::MemoKey;
use stepwell_storage::{Fate, ReadFailure};
use turmoil::Sim;

use crate::checker;
use crate::client_log::Progress;
use crate::durable::Durable;
use crate::event::What;
use crate::host::{client, server, worker};
use crate::idempotency::Observed;
use crate::panics;
use crate::plan::{Disk, Fault, FaultKind, Job, Plan, Point, Scripted, Strike};
use crate::program::Program;
use crate::recording::Recording;
use crate::report::{ON_FJALL, Report, Violation};
use crate::skip;
use crate::world::{InAir, Keeps, World};

/// How often it is looked whether a program ended by itself, and whether all is done.
const LOOK_MS: u64 = 50;
/// How often everything may be asked about again, because a run began meanwhile.
const AUDITS_AGAIN_MAX: u32 = 20;
/// A program that ended by itself is started again after this time.
const RESTART_MS: u64 = 150;
/// When for so many session timeouts after the faults only parked and paused runs were left,
/// nothing ends any more.
const STUCK_TIMEOUTS: u64 = 3;
/// A server's wall clock that is further ahead of engine time than this is set right in the end.
const BELIEVED_MS: i64 = 47 * 3_600_000;
/// Segments on their way between two hosts; beyond this turmoil panics.
const SEGMENTS_MAX: usize = 10_000;

/// Simulates a plan.
///
/// Panics if the plan is not one of the engine's own suite: the workflows of others are in their
/// suites.
pub fn run(plan: Plan) -> Report {
    run_of(plan, Arc::new(Program::engine()))
}

/// Simulates a plan, and tells all that happened, line by line.
pub fn run_traced(plan: Plan) -> (Report, Vec<String>) {
    let (world, violations) = simulate(plan, Arc::new(Program::engine()), Keeps::Lines);
    report(&world, violations)
}

/// Simulates a plan of the engine's own suite, and takes down all that happened, for a report.
pub fn run_recorded(plan: Plan) -> Recording {
    run_recorded_of(plan, Arc::new(Program::engine()))
}

/// Simulates a plan of `program`.
pub(crate) fn run_of(plan: Plan, program: Arc<Program>) -> Report {
    let (world, violations) = simulate(plan, program, Keeps::Nothing);
    report(&world, violations).0
}

/// Simulates a plan of `program`, unless `is_over` says underway that nobody waits for it any more.
pub(crate) fn run_unless(
    plan: Plan,
    program: Arc<Program>,
    is_over: &dyn Fn() -> bool,
) -> Option<Report> {
    let (world, violations) = simulate_unless(plan, program, Keeps::Nothing, is_over)?;
    Some(report(&world, violations).0)
}

/// Simulates a plan of `program`, and tells besides how often each point was passed.
pub(crate) fn run_and_points_of(
    plan: Plan,
    program: Arc<Program>,
) -> (Report, BTreeMap<Point, u32>) {
    let (world, violations) = simulate(plan, program, Keeps::Nothing);
    (report(&world, violations).0, world.passed())
}

/// Simulates a plan of `program`, and tells all that happened, line by line.
pub(crate) fn run_traced_of(plan: Plan, program: Arc<Program>) -> (Report, Vec<String>) {
    let (world, violations) = simulate(plan, program, Keeps::Lines);
    report(&world, violations)
}

/// Simulates a plan of `program`, and takes down all that happened, for a report.
pub(crate) fn run_recorded_of(plan: Plan, program: Arc<Program>) -> Recording {
    let (world, violations) = simulate(plan, program, Keeps::Events);
    let (report, _) = report(&world, violations);
    let events = world.take_events();
    Recording::new(world.plan.clone(), report, events, &world.checkers().durable)
}

/// Simulates a plan of `program`, and tells what it leaves behind.
pub(crate) fn observe(plan: Plan, program: Arc<Program>) -> Observed {
    let (world, violations) = simulate(plan, program, Keeps::Nothing);
    let (report, _) = report(&world, violations);
    let (checkers, ledger) = (world.checkers(), world.ledger());
    let (mut steps, mut ends) = (BTreeMap::new(), BTreeMap::new());
    for run in checkers.durable.runs.values() {
        let Some(started) = run.started() else {
            continue;
        };
        for entry in &run.entries {
            if let Entry::StepCompleted(step) = entry {
                let key = format!("{}-{}", started.id, step.number);
                let place = (started.workflow.clone(), step.location.name.clone());
                let memo = MemoKey::of(started.namespace, &step.location.name);
                let is_memo = checkers.durable.memos.contains_key(&(started.namespace, memo.0));
                steps.insert(if is_memo { memo.to_string() } else { key }, place);
            }
        }
        let end = run.entries.last().map_or("", Entry::kind_name);
        ends.insert(run.name(), end.to_lowercase());
    }
    Observed { report, passed: world.passed(), happened: ledger.happened().to_vec(), steps, ends }
}

fn simulate(plan: Plan, program: Arc<Program>, keeps: Keeps) -> (Arc<World>, Vec<Violation>) {
    simulate_unless(plan, program, keeps, &|| false)
        .unwrap_or_else(|| unreachable!("nobody gives it up"))
}

fn simulate_unless(
    plan: Plan,
    program: Arc<Program>,
    keeps: Keeps,
    is_over: &dyn Fn() -> bool,
) -> Option<(Arc<World>, Vec<Violation>)> {
    assert!(
        plan.suite == program.name,
        "the plan is one of the suite `{}`, not of `{}`",
        plan.suite,
        program.name
    );
    let world = World::new(plan, program, keeps);
    let (end, panics) = panics::caught(|| {
        let mut simulation = Simulation::new(&world);
        let end = simulation.run(is_over);
        world.while_crashing(|| drop(simulation));
        // What was found underway would be found again, in other words.
        if end != End::GivenUp && !world.checkers().has_violations() {
            checker::at_the_end(&world, end == End::InTime);
        }
        end
    });
    if end == Some(End::GivenUp) {
        return None;
    }
    world.pin_violations();
    let mut violations = world.checkers().take_violations();
    let at_ms = world.now_ms();
    violations.extend(panics.into_iter().map(|text| Violation {
        checker: "nothing panics".to_owned(),
        at_ms,
        text,
    }));
    Some((world, violations))
}

fn report(world: &World, violations: Vec<Violation>) -> (Report, Vec<String>) {
    let mut runs = BTreeMap::new();
    let (absorbed, late_bodies, moves, (moved, missed)) = {
        let (checkers, ledger) = (world.checkers(), world.ledger());
        for run in checkers.durable.runs.values() {
            let end = run.entries.last().map_or("", |entry| entry.kind_name());
            *runs.entry(end.to_owned()).or_default() += 1;
        }
        let (late, moves) = (checkers.late_bodies, checkers.durable.moves);
        (ledger.absorbed(), late, moves, ledger.ring_counts())
    };
    world.saw_many("nodes moved along the ring", moved);
    world.saw_many("swaps in the ring that lost a race", missed);
    if world.plan.settings.disk == Disk::Fjall {
        world.saw(ON_FJALL);
    }
    world.saw_many("effects absorbed", absorbed);
    world.saw_many("step bodies started late", late_bodies);
    world.saw_many("journals that outlived their generation", moves);
    let counts = world.counts();
    let mut trace = world.trace();
    let report = Report {
        seed: world.plan.seed,
        trace_hash: trace.hash(),
        events: trace.count(),
        simulated_ms: world.now_ms(),
        skipped_ms: world.clocks().skipped_ms(),
        healed_in_ms: world.now_ms().saturating_sub(world.plan.settings.faults_end_ms),
        runs,
        faults: counts.faults,
        seen: counts
            .seen
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(what, count)| (what.to_owned(), count))
            .collect(),
        reached: reached(world),
        violations,
    };
    (report, trace.take_lines())
}

/// What the suite wants to see in some seed, and is so at the end of this one.
fn reached(world: &World) -> std::collections::BTreeSet<String> {
    world.with_history(|history| {
        let rules = world.program.sometimes.iter();
        rules
            .filter(|sometimes| (sometimes.rule)(history))
            .map(|sometimes| sometimes.name.clone())
            .collect()
    })
}

/// How a simulation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Everything ended within the time for it.
    InTime,
    /// It did not, or something is wrong already.
    Late,
    /// Nobody waits for it any more.
    GivenUp,
}

/// What the harness does next.
enum Action {
    Strike(Fault),
    /// A fault on a link, the disk or a clock is over.
    Mend(Fault),
    /// The link between the server and another host is cut for so long.
    Cut(String, u64),
    /// It is whole again.
    Join(String),
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
    /// When all is mended: later than the plan says, if the script strikes shortly before.
    faults_end_ms: u64,
    /// How often everything may be asked about again.
    audits_again: u32,
    /// How many entries were durable when everything was asked about.
    entries_at_audit: usize,
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
        let hosts = settings.hosts();
        for number in 1..=settings.workers {
            let (name, here) = (format!("worker-{number}"), world.clone());
            sim.host(name.clone(), move || worker::work(here.clone(), name.clone()));
        }
        for number in 1..=settings.clients {
            let here = world.clone();
            sim.host(format!("client-{number}"), move || client::ask(here.clone(), number));
        }
        let mut simulation = Self {
            world: world.clone(),
            sim,
            agenda: BTreeMap::new(),
            next: 0,
            down: BTreeMap::new(),
            hosts,
            faults_end_ms: settings.faults_end_ms,
            audits_again: AUDITS_AGAIN_MAX,
            entries_at_audit: 0,
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

    /// Both phases.
    fn run(&mut self, is_over: &dyn Fn() -> bool) -> End {
        let settings = self.world.plan.settings.clone();
        let mut healed = false;
        let mut stuck_since = None;
        let mut looked = 0;
        loop {
            let now = self.world.now_ms();
            if !healed && now >= self.faults_end_ms {
                healed = true;
                self.heal();
            }
            while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= now) {
                match entry.remove() {
                    Action::Strike(fault) => self.strike(fault),
                    Action::Mend(fault) => self.mend(&fault),
                    Action::Bounce(host) => self.bounce(&host),
                    Action::Cut(peer, span_ms) => {
                        self.sim.partition("server", peer.as_str());
                        self.plan(now + span_ms, Action::Join(peer));
                    }
                    Action::Join(peer) => self.sim.repair("server", peer.as_str()),
                }
            }
            if settings.skips_time {
                self.skip();
            }
            if let Err(error) = self.sim.step() {
                self.world.checkers().report("no program fails", now, error.to_string());
            }
            self.world.set_now_ms(now + settings.tick_ms);
            self.world.check_rules();
            for (strike, worker) in self.world.take_strikes() {
                self.strike_as_scripted(strike, worker);
            }
            if now < looked + LOOK_MS {
                continue;
            }
            looked = now;
            self.restart_what_ended();
            if self.world.checkers().has_violations() {
                return End::Late;
            }
            if healed && self.is_done() {
                return End::InTime;
            }
            if now >= self.faults_end_ms + settings.heal_max_ms {
                return End::Late;
            }
            stuck_since = match healed && self.is_stuck() {
                true => stuck_since.or(Some(now)),
                false => None,
            };
            if stuck_since.is_some_and(|at| now > at + STUCK_TIMEOUTS * settings.session_timeout_ms)
            {
                return End::Late;
            }
            if is_over() {
                return End::GivenUp;
            }
        }
    }

    /// Puts all wall clocks forward, if nothing can run before a timer that is far away.
    fn skip(&mut self) {
        // While a process stands still, calls may be under way in it.
        let up = |host: &String| host.starts_with("worker") || !self.world.is_paused(host);
        if self.down.contains_key("server") || !self.hosts.iter().all(up) {
            return;
        }
        if let Some(by_ms) = skip::skippable_ms(&self.world) {
            self.world.saw("clock skips");
            self.world.clocks().skip(by_ms);
            self.world.note(format_args!(
                "{} skips {by_ms} ms: all wall clocks are put forward",
                self.world.now_ms()
            ));
        }
    }

    /// All runs have ended, and a client has asked about all of them.
    fn is_done(&mut self) -> bool {
        if !self.world.audit.load(Ordering::Relaxed) {
            let done =
                self.world.client_log().is_over() && self.world.checkers().durable.is_at_rest();
            self.entries_at_audit = self.world.checkers().durable.entry_count();
            self.world.audit.store(done, Ordering::Relaxed);
        }
        self.world.audited.load(Ordering::Relaxed) && !self.went_on()
    }

    /// Whether a run began while everything was asked about, or after it: a copy of a start arrived
    /// late, when the name or the unique key was free. Then everything is asked about again.
    fn went_on(&mut self) -> bool {
        let at_rest = self.world.checkers().durable.is_at_rest();
        let kept = self.world.checkers().durable.kept().count();
        let entries = self.world.checkers().durable.entry_count();
        let listed = self.world.client_log().listed.len();
        let same = at_rest && kept == listed && entries == self.entries_at_audit;
        if same || self.audits_again == 0 {
            return false;
        }
        self.audits_again -= 1;
        let mut told = self.world.client_log();
        told.listed.clear();
        told.stats = None;
        self.world.audit.store(false, Ordering::Relaxed);
        self.world.audited.store(false, Ordering::Relaxed);
        true
    }

    /// Only parked and paused runs are left, and nothing is to come that could set them going: no
    /// fault, no deployment, no call of a client but one that waits for an outcome. Waiting for the
    /// deadline would change nothing.
    fn is_stuck(&self) -> bool {
        let plan = &self.world.plan;
        let answered = {
            let told = self.world.client_log();
            let mut jobs = told.jobs.iter().zip(&plan.jobs);
            jobs.all(|(progress, timed)| match progress {
                Progress::Over => true,
                Progress::Runs(_) => matches!(timed.job, Job::Wait { .. }),
                Progress::Waits => false,
            })
        };
        let passed = self.world.passed();
        let deploys = |scripted: &Scripted| {
            let nth = passed.get(&scripted.point).copied().unwrap_or_default();
            scripted.strike == Strike::Deploy && nth < scripted.nth
        };
        answered
            && self.agenda.is_empty()
            && self.down.is_empty()
            && !plan.script.iter().any(deploys)
            && only_stopped(&self.world.checkers().durable)
    }

    fn restart_what_ended(&mut self) {
        let (now, plan) = (self.world.now_ms(), &self.world.plan);
        let clients: Vec<String> = (1..=plan.settings.clients)
            .filter(|number| self.world.client_log().has_left(plan, *number, now))
            .map(|number| format!("client-{number}"))
            .collect();
        for host in self.hosts.clone() {
            if !self.down.contains_key(&host)
                && !clients.contains(&host)
                && !self.sim.is_host_running(host.as_str())
            {
                self.down.insert(host.clone(), ());
                self.plan(self.world.now_ms() + RESTART_MS, Action::Bounce(host));
            }
        }
    }

    fn tell(&self, what: &str, fault: &Fault, event: impl FnOnce() -> What) {
        let line = format_args!("{} {what}: {fault}", self.world.now_ms());
        self.world.tell(&fault.host, line, event);
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
        let pauses = matches!(
            fault.kind,
            FaultKind::WorkerPaused | FaultKind::ServerPaused | FaultKind::ClientPaused
        );
        if (dies || pauses) && self.down.contains_key(&host) {
            return;
        }
        self.tell("strikes", &fault, || What::FaultStruck {
            kind: fault.kind,
            other: fault.other.clone(),
            span_ms: fault.span_ms,
            extent: fault.extent,
        });
        self.world.struck(fault.kind);
        match fault.kind {
            FaultKind::WorkerDrained => return self.world.ask_to_drain(&host),
            FaultKind::Deployed => return self.deploy(),
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
            FaultKind::SlowDisk => {
                self.world.disk.faults().slow_sync(Duration::from_millis(fault.extent))
            }
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
            FaultKind::ReadFailed => {
                let cause = server::READ_FAULT.to_owned();
                let failure = ReadFailure::Io { cause };
                self.world.disk.faults().fail_next_read(failure);
                return;
            }
            FaultKind::WorkerPaused | FaultKind::ServerPaused | FaultKind::ClientPaused => {
                self.world.pause(&host);
            }
            FaultKind::RollingPartition => return self.roll(fault.span_ms),
            FaultKind::AllCut => {
                for peer in self.hosts.clone().into_iter().skip(1) {
                    self.sim.partition("server", peer.as_str());
                    self.plan(ends_at, Action::Join(peer));
                }
                return;
            }
            FaultKind::WallForward | FaultKind::WallBack => {
                let by_ms = i64::try_from(fault.extent).unwrap_or(i64::MAX);
                let back = fault.kind == FaultKind::WallBack;
                let by_ms = if back { -by_ms } else { by_ms };
                return self.world.jump_clock(&host, by_ms);
            }
        }
        if !dies {
            self.plan(ends_at, Action::Mend(fault));
        }
    }

    /// What the script strikes with, at the end of the tick in which its point was passed.
    fn strike_as_scripted(&mut self, strike: Strike, worker: Option<String>) {
        let is_worker = |host: &String| host.starts_with("worker-");
        let worker = worker.filter(is_worker).unwrap_or_else(|| "worker-1".to_owned());
        let (now, settings) = (self.world.now_ms(), &self.world.plan.settings);
        let chance = crate::draw::hash(self.world.plan.seed, format_args!("strike at {now}"));
        let fault = strike.fault(worker, settings, chance);
        self.faults_end_ms = self.faults_end_ms.max(now + fault.span_ms);
        self.strike(fault);
    }

    /// Every worker is asked to leave, and comes back with the next version of the code.
    fn deploy(&mut self) {
        let workers = self.hosts.iter().filter(|host| host.starts_with("worker-"));
        let workers: Vec<String> = workers.cloned().collect();
        self.world.deploy(workers.iter().cloned());
        workers.iter().for_each(|worker| self.world.ask_to_drain(worker));
    }

    /// Cuts one link after another, each for a part of the time; the next one goes just before the
    /// last one is whole.
    fn roll(&mut self, span_ms: u64) {
        let peers = self.hosts.len() as u64 - 1;
        let (now, part) = (self.world.now_ms(), (span_ms / peers).max(10));
        for (place, peer) in (0..).zip(self.hosts.clone().into_iter().skip(1)) {
            self.plan(now + place * part, Action::Cut(peer, part + part / 10));
        }
    }

    fn crash(&mut self, host: &str, up_at: u64) {
        self.world.clone().while_crashing(|| self.sim.crash(host));
        let (now, life) = (self.world.now_ms(), self.world.life_of(host));
        self.world.record(now, host, life, |_| What::LifeEnded { how: "it is killed".to_owned() });
        self.world.resume(host);
        self.down.insert(host.to_owned(), ());
        self.plan(up_at, Action::Bounce(host.to_owned()));
    }

    fn bounce(&mut self, host: &str) {
        if self.down.remove(host).is_some() {
            self.world.line(format_args!("{} {host} comes up", self.world.now_ms()));
            // One that ended by itself may have left tasks behind.
            self.world.clone().while_crashing(|| self.sim.bounce(host));
        }
    }

    fn mend(&mut self, fault: &Fault) {
        self.tell("is over", fault, || What::FaultOver {
            kind: fault.kind,
            other: fault.other.clone(),
        });
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
            FaultKind::WorkerPaused | FaultKind::ServerPaused | FaultKind::ClientPaused => {
                self.world.resume(host);
            }
            _ => {}
        }
    }

    fn usual_latency(&self, host: &str, other: &str) {
        let usual = Duration::from_millis(self.world.plan.settings.latency_max_ms);
        self.sim.set_link_latency(host, other, usual);
    }

    /// The faults are over: every link is whole, every host comes up.
    fn heal(&mut self) {
        let line = format_args!("{} all is mended", self.world.now_ms());
        self.world.tell("", line, || What::Mended);
        self.agenda.clear();
        self.world.disk.faults().slow_sync(Duration::ZERO);
        self.world.disk.faults().make_room();
        self.world.disk.faults().read_again();
        self.set_clocks();
        for host in &self.hosts {
            self.world.resume(host);
        }
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

    /// A server's clock that its engine does not believe is set to where engine time is. It is the
    /// clock as it is now that counts, which the server may not have seen yet: it may have stood
    /// still, or be down.
    fn set_clocks(&self) {
        let mark = self.world.checkers().durable.mark.as_ref().map(|mark| mark.time);
        let mut clocks = self.world.clocks();
        let Some(engine) = clocks.engine().or(mark) else {
            return;
        };
        let wall = clocks.wall("server", &self.world, self.world.now_ms());
        let ahead_ms = wall.0 as i64 - engine.0 as i64;
        if ahead_ms > BELIEVED_MS {
            clocks.jump("server", -ahead_ms);
        }
    }
}

/// Whether runs that have not ended are left, and all of them are parked or paused.
fn only_stopped(durable: &Durable) -> bool {
    let mut left = durable.runs.iter().filter(|(_, run)| !run.has_ended());
    !durable.stopped.is_empty()
        && durable.leases.is_empty()
        && durable.waiting.is_empty()
        && durable.timers.is_empty()
        && left.all(|(no, _)| durable.stopped.contains_key(no))
}
