//! What must hold, one file per property. Each says where the property is promised.
//!
//! Some are checked after every commit, against what is durable by then; some at every frame that
//! leaves the server; some in the end, when all runs have ended.

mod admission;
mod answer;
mod applied_request;
mod atomic_start;
mod attempt;
mod batch;
mod damage;
mod effect;
mod ending;
mod fence;
mod gauge;
mod item;
mod journal;
mod limit;
mod liveness;
mod memo;
mod model;
mod outcome;
mod place;
mod proof;
mod protocol;
mod redrive;
mod release;
mod replay;
mod retention;
mod ring;
mod schedule;
mod share;
mod start;
mod suspect;
mod tally;
mod timer;
mod unique;
mod unregistered;

use stepwell::QueueSummary;

pub(crate) use self::attempt::Moment;
pub(crate) use self::limit::Attempt;
pub(crate) use self::protocol::Agreement;

use stepwell::model::id::{CommandIndex, ProcessInstance, RunId, RunNo};
use stepwell::model::time::Time;
use stepwell::wire::message::Message;
use stepwell_storage::{Op, Seq};

pub(crate) use self::unique::KeysBegun;
use crate::durable::{Change, Durable};
use crate::plan::Plan;
use crate::report::Violation;
use crate::world::World;

/// No more violations than this are written down.
const VIOLATIONS_MAX: usize = 20;

/// The checkers and what they know.
#[derive(Default)]
pub(crate) struct Checkers {
    pub(crate) durable: Durable,
    fence: fence::Fence,
    attempts: attempt::Attempts,
    suspects: suspect::Suspects,
    acts: redrive::Audit,
    patience: unregistered::Patience,
    liveness: liveness::Liveness,
    pub(crate) limits: limit::Limits,
    engine_time: timer::EngineTime,
    admissions: admission::Admissions,
    shares: share::Shares,
    gauges: gauge::Gauges,
    keys: unique::Keys,
    memo: memo::Memos,
    batches: batch::Batches,
    applied: applied_request::AppliedRequests,
    requests: answer::Requests,
    atomic_start: atomic_start::AtomicCalls,
    schedules: schedule::Schedules,
    tally: tally::Tallies,
    violations: Vec<Violation>,
    /// Bodies that began although the outcome of their step was durable: allowed for a worker that
    /// has not heard yet.
    pub(crate) late_bodies: u64,
}

/// Where a checker says what it found.
pub(crate) struct Findings<'a> {
    now_ms: u64,
    violations: &'a mut Vec<Violation>,
}

impl Findings<'_> {
    /// Something does not hold.
    pub(crate) fn report(&mut self, checker: &str, text: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(Violation {
                checker: checker.to_owned(),
                at_ms: self.now_ms,
                text,
            });
        }
    }
}

impl Checkers {
    pub(crate) fn new(plan: &Plan) -> Self {
        let mut checkers = Self::default();
        checkers.patience.limit_ms = plan.settings.unregistered_after_ms;
        checkers.patience.told_late_ms = unregistered::told_late_ms(plan);
        checkers
    }

    pub(crate) fn report(&mut self, checker: &str, now_ms: u64, text: String) {
        Findings { now_ms, violations: &mut self.violations }.report(checker, text);
    }

    pub(crate) fn has_violations(&self) -> bool {
        !self.violations.is_empty()
    }

    /// What was found so far.
    pub(crate) fn violations(&self) -> &[Violation] {
        &self.violations
    }

    pub(crate) fn take_violations(&mut self) -> Vec<Violation> {
        std::mem::take(&mut self.violations)
    }

    /// A batch has become durable.
    pub(crate) fn committed(&mut self, now_ms: u64, seq: Seq, ops: &[Op], plan: &Plan) {
        let mut findings = Findings { now_ms, violations: &mut self.violations };
        let mut batched = false;
        let mut touched = std::collections::BTreeSet::new();
        let mut forgotten = Vec::new();
        self.fence.batch_begins();
        self.acts.batch_begins();
        self.durable.new_acts.clear();
        for op in ops {
            let change = match self.durable.apply(op) {
                Ok(change) => change,
                Err(problem) => {
                    journal::not_ours(&problem, seq, &mut findings);
                    continue;
                }
            };
            match &change {
                Change::Appended { run, index } => {
                    touched.insert(*run);
                    journal::appended(&self.durable, *run, *index, &mut findings);
                    self.keys.appended(&self.durable, *run, *index, &mut findings);
                    self.memo.appended(&self.durable, *run, *index);
                    if *index == 0 {
                        let name = atomic_start::name_of(&self.durable, *run);
                        name.iter().for_each(|name| self.atomic_start.began(name));
                    }
                    batched |= self.durable.is_batched(*run);
                    timer::appended(&self.durable, *run, *index, &mut findings);
                    item::appended(&self.durable, *run, *index, &mut findings);
                    self.engine_time.appended(&self.durable, *run, *index, &mut findings);
                    self.schedules.appended(&self.durable, *run, *index);
                    self.fence.appended(&self.durable, *run, *index, &mut findings);
                    self.attempts.appended(&self.durable, *run, *index, &mut findings);
                    self.acts.appended(&self.durable, *run, *index, &mut findings);
                    self.batches.appended(&self.durable, *run, *index, &mut findings);
                    let admissions = &self.admissions;
                    self.patience.appended(&self.durable, *run, *index, admissions, &mut findings);
                    self.suspects.appended(
                        &self.durable,
                        *run,
                        *index,
                        &self.liveness,
                        &mut findings,
                    );
                }
                Change::Leased { slot, before } => {
                    touched.extend(before.as_ref().map(|before| before.run));
                    let lease = self.durable.leases.get(slot).map(|lease| lease.run);
                    touched.extend(lease);
                    lease.into_iter().for_each(|run| self.keys.leased(run));
                    self.fence.leased(&self.durable, *slot, before.as_ref(), &mut findings);
                    self.suspects.leased(&self.durable, *slot);
                    self.memo.leased(&self.durable, *slot, before.as_ref());
                    let lease = self.durable.leases.get(slot).filter(|lease| {
                        before.as_ref().is_none_or(|before| before.run != lease.run)
                    });
                    if let Some(lease) = lease {
                        self.admissions.leased(&self.durable, lease, &mut findings);
                        let admissions = &self.admissions;
                        self.shares.leased(&self.durable, lease, admissions, &mut findings);
                    }
                }
                Change::QueueSet { queue } => {
                    self.admissions.set(&self.durable, *queue);
                    self.applied.queue_set(&self.durable, *queue);
                }
                Change::Memo { key_id, before } => self.memo.written(*key_id, *before),
                Change::RequestApplied { request_id } => {
                    self.applied.applied(*request_id, &mut findings)
                }
                Change::Indexed { id, run, before } => {
                    start::indexed(*id, *run, *before, &mut findings)
                }
                Change::Queued { run, deaths } => {
                    touched.insert(*run);
                    self.patience.queued(*run, &findings);
                    self.suspects.queued(
                        &self.durable,
                        *run,
                        *deaths,
                        &self.liveness,
                        &mut findings,
                    );
                }
                Change::Tallied => self.tally.written(),
                Change::Batched => batched = true,
                Change::BatchForgotten { batch } => {
                    let latest = self.engine_time.latest;
                    retention::batch_forgotten(&self.durable, *batch, latest, &mut findings);
                }
                Change::Moved { run } => {
                    touched.insert(*run);
                    self.memo.moved(&self.durable, *run, &mut findings);
                }
                Change::Forgotten { run } => forgotten.push(*run),
                Change::Scheduled { number } => {
                    self.schedules.written(&self.durable, *number);
                    self.applied.scheduled(&self.durable, *number);
                }
                Change::Other => {}
            }
            self.gauges.changed(&self.durable);
        }
        self.applied.batch_ended(&self.durable, &mut findings);
        self.schedules.batch_ended(&self.durable, &mut findings);
        self.engine_time.batch_ended(&self.durable, &mut findings);
        self.engine_time.look_for_overdue(&self.durable, &mut findings);
        let latest = self.engine_time.latest;
        retention::batch_ended(&self.durable, &forgotten, latest, &mut findings);
        fence::one_lease_a_run(&self.durable, &mut findings);
        self.fence.batch_ended(&self.durable);
        place::batch_ended(&self.durable, &touched, &mut findings);
        suspect::batch_ended(&self.durable, &touched, &mut findings);
        self.acts.batch_ended(&self.durable, &mut findings);
        self.tally.batch_ended(&self.durable, &mut findings);
        self.keys.batch_ended(&self.durable, &mut findings);
        self.memo.batch_ended(&self.durable, latest, &mut findings);
        self.atomic_start.batch_ended(plan, &mut findings);
        if batched {
            self.batches.batch_ended(&self.durable, &mut findings);
        }
    }

    /// A client is about to start a run with a unique key.
    pub(crate) fn keys_asked(&self, workflow: &str, key: &str) -> KeysBegun {
        self.keys.asked(&self.durable, workflow, key)
    }

    /// It was answered with a run: the start's name, the run, and whether this call began it.
    pub(crate) fn key_answered(
        &mut self,
        now_ms: u64,
        begun: &KeysBegun,
        answer: (&str, RunId, bool),
    ) {
        let mut findings = Findings { now_ms, violations: &mut self.violations };
        self.keys.answered(&self.durable, begun, answer, &mut findings);
    }

    /// A client is about to ask all runs of a batch to stop: those that are meant for sure.
    pub(crate) fn batch_goes_on(&self, name: &str) -> Vec<(RunNo, usize)> {
        batch::going_on(&self.durable, name)
    }

    /// It was told that they are asked.
    pub(crate) fn batch_cancelled(&mut self, now_ms: u64, name: &str, meant: &[(RunNo, usize)]) {
        let mut findings = Findings { now_ms, violations: &mut self.violations };
        batch::cancelled(&self.durable, name, meant, &mut findings);
    }

    /// The body of a memoized step begins.
    pub(crate) fn memo_begins(&mut self, now_ms: u64, run: RunId, number: CommandIndex) {
        let mut findings = Findings { now_ms, violations: &mut self.violations };
        self.memo.begins(&self.durable, (run, number), &mut findings);
    }

    /// A bulk handler was called.
    pub(crate) fn items_handled(&mut self, now_ms: u64, host: &str, items: &[(RunId, u32)]) {
        let mut findings = Findings { now_ms, violations: &mut self.violations };
        item::handled(host, items, &mut findings);
    }

    /// Engine time cannot be later than this, by all that the server's clocks have shown.
    pub(crate) fn engine_latest(&mut self, latest: Option<Time>) {
        self.engine_time.latest = latest;
    }

    /// A generation is gone from the disk.
    pub(crate) fn generation_dropped(&mut self, now_ms: u64, generation: u32) {
        self.durable.doomed.remove(&generation);
        if let Err(problem) = self.durable.nobody_is_in(generation) {
            self.report(retention::NAME, now_ms, problem);
        }
    }

    /// Somebody asks how the queues are: tells from where on the answer may be true.
    pub(crate) fn gauges_asked(&mut self) -> usize {
        self.gauges.asked(&self.durable)
    }

    /// And is told.
    pub(crate) fn gauges_told(&mut self, now_ms: u64, from: usize, queues: &[QueueSummary]) {
        let mut findings = Findings { now_ms, violations: &mut self.violations };
        self.gauges.told(from, queues, &mut findings);
    }

    /// A worker or a client sends something.
    pub(crate) fn reported(
        &mut self,
        now: Moment,
        (from, process): (&str, Option<ProcessInstance>),
        message: &Message,
    ) {
        self.requests.sent(from, message);
        self.applied.given(message);
        match (message, process) {
            (Message::Hello(hello), _) => self.shares.session_begins(hello.process),
            (Message::Register(register), Some(who)) => self.admissions.registers(who, register),
            _ => {}
        }
        self.memo.reported(message);
        self.fence.reported(message);
        self.attempts.reported(now, message);
    }

    /// An attempt begins.
    pub(crate) fn attempt_begins(
        &mut self,
        now_ms: u64,
        attempt: (RunId, CommandIndex, u32),
        at: Moment,
        right_clocks: bool,
    ) {
        let mut findings = Findings { now_ms, violations: &mut self.violations };
        if right_clocks {
            self.attempts.begins(&self.durable, attempt, at, &mut findings);
        }
    }

    /// An attempt was told of its soft timeout.
    pub(crate) fn soft_timeout_told(&mut self, now_ms: u64, id: u64, pauses: u64) {
        let mut findings = Findings { now_ms, violations: &mut self.violations };
        self.limits.told(id, pauses, &mut findings);
    }

    /// An attempt is gone.
    pub(crate) fn attempt_ends(&mut self, now_ms: u64, id: u64, pauses: u64) {
        let mut findings = Findings { now_ms, violations: &mut self.violations };
        self.limits.ends(id, pauses, &mut findings);
    }

    /// A frame of this process has arrived at the server.
    pub(crate) fn heard(&mut self, now_ms: u64, who: ProcessInstance, plan: &Plan) {
        let mut findings = Findings { now_ms, violations: &mut self.violations };
        self.liveness.heard(who, plan, &mut findings);
    }

    /// The server's end of its connection is gone.
    pub(crate) fn parted(&mut self, now_ms: u64, who: ProcessInstance) {
        self.liveness.parted(who);
        self.patience.parted(now_ms, who);
    }

    /// The server sends something, `to` a host and, if that has said so, to `who` on it.
    pub(crate) fn released(
        &mut self,
        now_ms: u64,
        (to, who): (&str, Option<ProcessInstance>),
        message: &Message,
    ) {
        let mut findings = Findings { now_ms, violations: &mut self.violations };
        self.memo.released(message, self.durable.lives, &mut findings);
        match (message, who) {
            (Message::Closing(closing), Some(who)) => {
                self.liveness.closes(who, closing, &mut findings);
            }
            (Message::Welcome(_), Some(who)) => self.shares.session_begins(who),
            (Message::Registered(_), Some(who)) => self.patience.registered(now_ms, who),
            _ => {}
        }
        release::released(&self.durable, to, message, &mut findings);
        let answer = (to, message);
        self.requests.answered(&self.durable, &self.applied, answer, &mut findings);
    }

    /// A step's body has begun.
    pub(crate) fn body_started(&mut self, now_ms: u64, run: RunId, number: CommandIndex) {
        let mut findings = Findings { now_ms, violations: &mut self.violations };
        effect::body_started(&self.durable, run, &mut findings);
        if self.durable.run_of(run).is_some_and(|run| run.resolves(number)) {
            self.late_bodies += 1;
        }
    }
}

/// All runs have ended, or time is up: what is left to check.
pub(crate) fn at_the_end(world: &World, in_time: bool) {
    let (told, ledger) = (world.client_log(), world.ledger());
    let mut checkers = world.checkers();
    let checkers = &mut *checkers;
    let mut findings = Findings { now_ms: world.now_ms(), violations: &mut checkers.violations };
    checkers.limits.at_the_end(world.stood_still(), &mut findings);
    let ending = &world.program.ending;
    checkers.shares.at_the_end(&checkers.durable, &mut findings);
    ending::at_the_end(&checkers.durable, &told, ending, in_time, &mut findings);
    start::at_the_end(&checkers.durable, &told, &mut findings);
    outcome::at_the_end(&checkers.durable, &told, &mut findings);
    let checked =
        model::at_the_end(&checkers.durable, &told.calls, &world.plan.settings, &mut findings);
    world.saw_many("calls with a consistent outcome", checked.calls);
    world.saw_many("calls with unknown outcome, consistent", checked.unknown);
    world.saw_many("runs consistent beyond their retention", checked.forgotten);
    world.saw_many("runs with too many possible orders of calls", checked.given_up);
    world.saw_many("memoized results recorded", checkers.memo.results);
    world.saw_many("memoized results given to other runs", checkers.memo.told);
    world.saw_many("requests to attempt a memoized step", checkers.memo.waited);
    world.saw_many("waits for memo keys", checkers.memo.slept);
    world.saw_many("operator requests applied", checkers.applied.count());
    world.saw_many("runs of open batches redriven", checkers.batches.rejoined);
    world.saw_many("runs of batches redriven after their end", checkers.batches.left());
    if world.program.is_engine {
        effect::at_the_end(&checkers.durable, &ledger, &mut findings);
        ring::at_the_end(&checkers.durable, &ledger, &mut findings);
        batch::at_the_end(&checkers.durable, &mut findings);
        proof::at_the_end(&checkers.durable, &ledger, &world.plan, &mut findings);
    }
    if in_time {
        tally::at_the_end(&checkers.durable, &told, &mut findings);
    }
    redrive::at_the_end(&checkers.durable, &told, &mut findings);
    journal::at_the_end(&checkers.durable, world.opened_disk(), &mut findings);
    replay::at_the_end(&checkers.durable, &world.program, &mut findings);
    damage::at_the_end(&checkers.durable, world.plan.seed, &world.disk, &mut findings);
}
