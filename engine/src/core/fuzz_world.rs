//! A small world around a core: three workers that run scripted workflows, a client, a clock that
//! jumps, a disk that loses power. What happens in it is a list of steps; after each the
//! invariants are checked. For tests and fuzzing.

mod schedule;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use stepwell_storage::{Store, block_on};

use super::clock::JUMP_MAX;
use super::invariants::{Facts, Invariants};
use super::output::Action;
use super::run::RunFold;
use super::stepped_core::SteppedCore;
use super::{Input, OpenRefused, Settings};
use crate::model::dead::Superseded;
use crate::model::entry::{Entry, FunctionEnd, SourceLocation};
use crate::model::failure::Failure;
use crate::model::id::{
    CommandIndex, MemoKey, Namespace, ProcessInstance, RequestId, RunId, RunNo, SessionId, Token,
};
use crate::model::limits::Limits;
use crate::model::payload::Payload;
use crate::model::queue::{QueueChange, RateLimit};
use crate::model::request::{Caller, StartRun};
use crate::model::retry::Retry;
use crate::model::run::{Outcome, RunState};
use crate::model::time::Time;
use crate::model::unique::{Unique, UniqueKey};
use crate::store_reader;
use crate::wire::message::{
    Answered, Answer, AskOutcome, AskQueues, AskStatus, AtomicStart, AttemptFailedReport, Cancel, Discard,
    EditInput, Heartbeat, Held, Hello, MemoReleased, MemoRequested, Message, Offer, QueueSlots,
    Redrive, Register, Reply, Requeue, Resume, SetQueue, Start, StartBatch, StepCompletedReport,
    TimerRequested, TurnCompleted, TurnFailed, TurnMismatched, TurnSuspended, WorkflowOffer,
    call_as,
};

/// One step: what happens, and three numbers that say to whom and how.
pub(crate) type DrillStep = (u8, u8, u8, u8);

/// How many kinds of steps there are.
pub(crate) const DRILL_STEP_KINDS: u8 = 68;

const WORKERS: usize = 3;
const WORKFLOWS: [&str; 9] =
    ["two", "sleeper", "flaky", "doomed", "whole", "picky", "racer", "long", "shared"];
/// Keys of memoized steps.
const MEMO: [&str; 2] = ["k0", "k1"];
const QUEUES: [&str; 2] = ["a", "b"];
const TAG: &str = "gpu";
const RETENTION: Duration = Duration::from_secs(3_600);
const DEAD_RETENTION: Duration = Duration::from_secs(3 * 3_600);
const START: Time = Time(1_000_000 * 86_400);

/// What a scripted workflow does next.
#[derive(Debug, Clone, Copy)]
enum ScriptCommand {
    Step {
        fails: u32,
        terminal: bool,
    },
    Sleep {
        ms: u64,
    },
    /// A step whose first result is everybody's.
    Memo {
        key: usize,
        fails: u32,
    },
    /// Two timers; the first one counts, the other one is dropped.
    Race {
        short_ms: u64,
        long_ms: u64,
    },
    /// Build `b1` does not know what comes here.
    Mismatch,
}

fn script(workflow: &str) -> &'static [ScriptCommand] {
    const STEP: ScriptCommand = ScriptCommand::Step { fails: 0, terminal: false };
    match workflow {
        "two" => &[STEP, STEP],
        "sleeper" => &[STEP, ScriptCommand::Sleep { ms: 3_000 }, STEP],
        "flaky" => &[ScriptCommand::Step { fails: 2, terminal: false }, STEP],
        "doomed" => &[STEP, ScriptCommand::Step { fails: 1, terminal: true }],
        "picky" => &[STEP, ScriptCommand::Mismatch, ScriptCommand::Sleep { ms: 1_000 }, STEP],
        "racer" => &[
            ScriptCommand::Race { short_ms: 1_000, long_ms: 60_000 },
            ScriptCommand::Step { fails: 1, terminal: false },
            ScriptCommand::Sleep { ms: 2_000 },
        ],
        "shared" => &[
            ScriptCommand::Memo { key: 0, fails: 1 },
            STEP,
            ScriptCommand::Memo { key: 1, fails: 0 },
            ScriptCommand::Memo { key: 0, fails: 1 },
        ],
        "long" => &[STEP, STEP, STEP, STEP, STEP, STEP, STEP, STEP, STEP, STEP],
        _ => &[],
    }
}

/// A run in a worker's hands.
#[derive(Debug)]
struct Holding {
    token: Token,
    workflow: String,
    entries: Vec<Entry>,
    /// The report that has no answer yet.
    asked: Option<Message>,
    /// The memoized step that may make its attempt.
    memo: Option<CommandIndex>,
}

/// What arrives at a worker, in order.
#[derive(Debug)]
enum Arrival {
    Dispatch { run: RunNo, token: Token, entries: Vec<Bytes> },
    ContinueLease { run: RunNo, old: Token, token: Token, from: u32, entries: Vec<Entry> },
    Message(Message),
}

#[derive(Debug, Default)]
struct FuzzWorker {
    process: ProcessInstance,
    build: String,
    session: Option<SessionId>,
    slots: u32,
    holds: BTreeMap<RunNo, Holding>,
    inbox: VecDeque<Arrival>,
}

/// See the module.
pub(crate) struct FuzzWorld {
    stepped: SteppedCore,
    invariants: Invariants,
    workers: Vec<FuzzWorker>,
    client: Option<SessionId>,
    next_session: u64,
    next_process: u128,
    next_request: u64,
    asked: BTreeMap<u64, RunId>,
    /// The largest token of each run that was ever to be dispatched.
    tokens: BTreeMap<RunNo, Token>,
    /// To whom each token was given.
    given: BTreeMap<Token, SessionId>,
    /// Messages that were sent, to be sent again.
    sent: Vec<(SessionId, Message)>,
}

fn run_id(id: u8) -> RunId {
    RunId(u128::from(id % 12) + 1)
}

/// A share of the ids has a unique key, which several ids share.
fn unique(id: u8, how: u8) -> Option<UniqueKey> {
    let scope = match how % 8 {
        0 | 4 => Unique::UntilStarted,
        1 => Unique::UntilEnded,
        2 => Unique::For(Duration::from_secs(u64::from(how) / 16 + 1)),
        _ => return None,
    };
    id.is_multiple_of(3).then(|| UniqueKey::new("key", scope))
}

fn caller() -> Caller {
    Caller { principal: "drill".to_owned(), ..Caller::default() }
}

/// The caller of a request about a queue or a schedule; some requests are copies of older ones.
fn repeating_caller(call_number: u64) -> Caller {
    match call_number % 8 {
        0 => Caller { request_id: RequestId(u128::from(call_number / 16)), ..caller() },
        _ => new_caller(call_number),
    }
}

/// The caller of a request that was never made before.
fn new_caller(call_number: u64) -> Caller {
    Caller { request_id: RequestId(1_000 + u128::from(call_number)), ..caller() }
}

impl FuzzWorld {
    pub(crate) fn new(seed: u8) -> Self {
        let small =
            Limits { payload_bytes_max: 5_000, journal_entries_warn: 4, journal_entries_max: 8 };
        let limits = if seed & 1 == 1 { small } else { Limits::default() };
        let workers_die_with_engine = seed & 2 == 2;
        let settings = Settings {
            limits,
            retention: RETENTION,
            dead_retention: DEAD_RETENTION,
            workers_die_with_engine,
            ..Settings::default()
        };
        let mut fuzz_world = Self {
            stepped: SteppedCore::new(settings, START),
            invariants: Invariants::default(),
            workers: Vec::new(),
            client: None,
            next_session: 0,
            next_process: 0,
            next_request: 0,
            asked: BTreeMap::new(),
            tokens: BTreeMap::new(),
            given: BTreeMap::new(),
            sent: Vec::new(),
        };
        for _ in 0..WORKERS {
            fuzz_world.workers.push(FuzzWorker::default());
        }
        (0..WORKERS).for_each(|worker| fuzz_world.restart(worker, 0));
        (0..WORKERS)
            .filter(|worker| seed >> worker & 4 == 0)
            .for_each(|worker| fuzz_world.hello(worker, seed / 32));
        fuzz_world
    }

    /// Does the steps, and checks after each.
    pub(crate) fn run(&mut self, steps: &[DrillStep]) {
        for step in steps {
            self.follow(*step);
            self.check_store(false);
            // Mostly the disk is quick; sometimes reads and commits lag behind what happens.
            if step.3 >= 96 {
                self.settle();
            }
        }
    }

    /// Checks the store, once what was collected is submitted.
    fn check_store(&mut self, crashed: bool) {
        self.flush();
        let now = self.stepped.core.now();
        let kept = (RETENTION, DEAD_RETENTION);
        let facts = self.invariants.check(&self.stepped.store, now, kept, crashed);
        let asleep = facts.timers.iter().filter(|(_, row)| row.memo.is_some());
        for ((_, run), _) in asleep {
            let known = self.stepped.core.memos.knows_sleeper(*run);
            assert!(known, "E6: {run} sleeps, and nobody knows it");
        }
    }

    fn follow(&mut self, (step, a, b, c): DrillStep) {
        let worker = usize::from(a) % WORKERS;
        match step % DRILL_STEP_KINDS {
            0..=8 => self.start(a, b, c),
            9..=13 => self.hello(worker, b),
            14..=15 => self.close(worker, b),
            16..=30 => self.work(worker, b, c),
            31..=34 => self.deliver(worker, usize::from(b)),
            35..=36 => self.send_again(a, b),
            37 => self.requeue(worker, b),
            38 => self.offer(worker, b),
            39 => self.cancel(a),
            40 => self.lag(a, b, c),
            41 if b >= 64 => self.act(a, b, c),
            41 => self.resume(a),
            42 if b >= 96 => self.schedule(a, b, c),
            42 => self.ask(a, b),
            43..=46 => self.pass(Duration::from_millis(u64::from(a) * 20), b),
            47..=48 | 51 => self.pass(Duration::from_millis(u64::from(a) * 100), b),
            49 => self.turn_wall(a, b),
            50 => self.die(worker, b),
            52 => self.crash(u64::from(a)),
            53..=55 => self.commit(),
            56..=58 => self.stepped.read(usize::from(a)),
            59..=61 => self.stepped.answer(usize::from(a)),
            62 => self.settle(),
            64..=65 => self.set_queue(a, b, c),
            66 => self.ask_queues(a),
            67 => self.pass(Duration::from_millis(u64::from(a)), 0),
            _ => self.forge(a, b, c),
        }
    }

    // What the machine does.

    fn handle(&mut self, input: Input) {
        self.stepped.handle(input);
    }

    fn flush(&mut self) {
        // What is told of queues is what is there then, and not after further inputs.
        let is_told_last = !self.stepped.wrote_since_action();
        let (_, actions) = self.stepped.flush();
        if let [
            Action::Send {
                message: Message::Reply(Reply { answer: Answered::Known(Answer::QueuesReply(told)), .. }),
                ..
            },
        ] = &actions[..]
            && is_told_last
        {
            Facts::of(&self.stepped.store).check_gauges(&told.queues);
        }
        for action in actions {
            if let Action::Dispatch { session, run, token, .. }
            | Action::ContinueLease { session, run, token, .. } = action
            {
                let before = self.tokens.insert(run, token);
                assert!(
                    before.is_none_or(|before| before < token),
                    "G2: {token} of {run} follows {before:?}"
                );
                self.given.insert(token, session);
            }
        }
    }

    fn commit(&mut self) {
        self.flush();
        for action in self.stepped.commit() {
            self.action(action);
        }
    }

    /// Does all that can be done at once.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            self.flush();
            if !self.stepped.reads.is_empty() {
                self.stepped.read(0);
            } else if !self.stepped.answers.is_empty() {
                self.stepped.answer(0);
            } else {
                return self.commit();
            }
        }
        panic!("the core asks for ever");
    }

    fn action(&mut self, action: Action) {
        match action {
            Action::Send { session, message } if Some(session) == self.client => {
                self.client_hears(message)
            }
            Action::Send { session, message } => self.arrives(session, Arrival::Message(message)),
            Action::Dispatch { session, run, id, token, generation, count, .. } => {
                let entries = self.journal(generation, run, (0, count));
                assert!(
                    entries.len() as u32 >= count,
                    "the journal of {id} is there when it is dispatched"
                );
                self.arrives(session, Arrival::Dispatch { run, token, entries });
            }
            Action::ContinueLease { session, run, old, token, generation, from, count } => {
                let stored = self.journal(generation, run, (from, count));
                let entry =
                    |stored: &Bytes| Entry::decode(&stored[..stored.len() - 8]).expect("an entry");
                let entries = stored.iter().map(entry).collect();
                self.arrives(session, Arrival::ContinueLease { run, old, token, from, entries });
            }
            Action::Close { session, .. } => {
                self.disconnect(session);
                self.handle(Input::SessionClosed { session, goodbye: false });
            }
            Action::DropGeneration { generation } => {
                block_on(self.stepped.store.drop_generation(generation))
                    .expect("a generation is dropped");
            }
            Action::Note(note) => {
                let damaged = matches!(
                    note,
                    super::output::Note::Damaged { .. } | super::output::Note::NotCleaned { .. }
                );
                assert!(!damaged, "nothing was damaged: {note:?}");
            }
        }
    }

    fn journal(&self, generation: u32, run: RunNo, range: (u32, u32)) -> Vec<Bytes> {
        block_on(store_reader::entries(&self.stepped.store, generation, run, range, usize::MAX))
            .expect("a journal is read")
    }

    fn arrives(&mut self, session: SessionId, arrival: Arrival) {
        if let Some(worker) = self.workers.iter_mut().find(|worker| worker.session == Some(session))
        {
            worker.inbox.push_back(arrival);
        }
    }

    fn disconnect(&mut self, session: SessionId) {
        if self.client == Some(session) {
            self.client = None;
        }
        for worker in self.workers.iter_mut().filter(|worker| worker.session == Some(session)) {
            worker.session = None;
            worker.inbox.clear();
        }
    }

    fn pass(&mut self, span: Duration, beats: u8) {
        self.stepped.pass(span);
        let workers = self.workers.iter().enumerate().filter(|(at, _)| beats >> at & 1 == 0);
        let sessions: Vec<SessionId> =
            workers.filter_map(|(_, w)| w.session).chain(self.client).collect();
        for session in sessions {
            self.handle(Input::Received { session, message: Heartbeat { beat: 0 }.into() });
        }
        self.handle(Input::Ticked);
    }

    fn turn_wall(&mut self, by: u8, how: u8) {
        let span = match how % 4 {
            0 => Duration::from_millis(u64::from(by)),
            1 => Duration::from_secs(u64::from(by) / 8),
            2 => Duration::from_secs(25 * 3_600),
            _ => JUMP_MAX + Duration::from_secs(1),
        };
        match how & 4 {
            0 => self.stepped.wall = self.stepped.wall.after(span),
            _ => {
                self.stepped.wall =
                    Time(self.stepped.wall.0.saturating_sub(span.as_millis() as u64).max(START.0))
            }
        }
        self.handle(Input::Ticked);
    }

    fn crash(&mut self, cut: u64) {
        for worker in &mut self.workers {
            worker.session = None;
            worker.inbox.clear();
        }
        self.client = None;
        self.asked.clear();
        self.flush();
        if self.stepped.settings.workers_die_with_engine {
            (0..WORKERS).for_each(|worker| self.restart(worker, 0));
        }
        match self.stepped.crash(cut) {
            Ok(()) => {}
            Err(OpenRefused::ClockBehind { mark, .. }) => {
                self.stepped.wall = mark; // an operator sets it right
                self.stepped.reopen().expect("a store with the right clock opens");
            }
            Err(refused) => panic!("what the core wrote opens: {refused}"),
        }
        self.check_store(true);
    }

    // What the workers do.

    fn session(&mut self) -> SessionId {
        self.next_session += 1;
        SessionId(self.next_session)
    }

    /// A new process in a worker's place.
    fn restart(&mut self, worker: usize, build: u8) {
        self.next_process += 1;
        let build = if build % 3 == 1 { "b1" } else { "b0" };
        self.workers[worker] = FuzzWorker {
            process: ProcessInstance(self.next_process),
            build: build.to_owned(),
            ..FuzzWorker::default()
        };
    }

    /// A worker process is killed.
    fn die(&mut self, worker: usize, how: u8) {
        let session = self.workers[worker].session;
        self.restart(worker, how / 2);
        if let Some(session) = session.filter(|_| how.is_multiple_of(2)) {
            self.handle(Input::SessionClosed { session, goodbye: false });
        }
    }

    fn hello(&mut self, at: usize, how: u8) {
        let session = self.session();
        let worker = &mut self.workers[at];
        worker.inbox.clear();
        worker.session = Some(session);
        worker.slots = u32::from(how % 4) + 1;
        let held = |(run, holding): (&RunNo, &Holding)| Held {
            run: *run,
            token: holding.token,
            seen: holding.entries.len() as u32,
        };
        let held = worker.holds.iter().map(held).collect();
        worker.holds.values_mut().for_each(|holding| holding.asked = None);
        // The third worker does not know all workflows.
        let known = if at == 2 { &WORKFLOWS[..5] } else { &WORKFLOWS[..] };
        let offer = |workflow: &&str| WorkflowOffer::test(workflow);
        let hello = Hello::test(worker.process, "drill");
        let register = Register {
            build: worker.build.clone(),
            workflows: known.iter().map(offer).collect(),
            queues: slots(worker.slots, how),
            held,
            // The first worker offers what no other does.
            tags: (at == 0).then(|| TAG.to_owned()).into_iter().collect(),
        };
        self.handle(Input::Received { session, message: hello.into() });
        // Now and then it gets no further than that.
        if how % 32 != 31 {
            self.handle(Input::Received { session, message: register.into() });
        }
    }

    fn close(&mut self, at: usize, how: u8) {
        let Some(session) = self.workers[at].session else {
            return;
        };
        self.disconnect(session);
        let goodbye = how.is_multiple_of(4);
        if goodbye {
            self.workers[at].holds.clear();
        }
        // Sometimes the engine does not hear of it.
        if how % 4 != 3 {
            self.handle(Input::SessionClosed { session, goodbye });
        }
    }

    fn deliver(&mut self, at: usize, count: usize) {
        for _ in 0..=count {
            let worker = &mut self.workers[at];
            let Some(arrival) = worker.inbox.pop_front() else {
                return;
            };
            if let Some(acknowledged) = worker.take(arrival) {
                self.invariants.acknowledged.insert(acknowledged, ());
            }
        }
    }

    /// A worker goes on with one of its runs.
    fn work(&mut self, at: usize, pick: u8, how: u8) {
        self.deliver(at, 255);
        let now = self.stepped.core.now();
        let worker = &mut self.workers[at];
        let Some(session) = worker.session else {
            return;
        };
        if worker.holds.is_empty() {
            return;
        }
        let nth = usize::from(pick) % worker.holds.len();
        let Some((run, holding)) = worker.holds.iter_mut().nth(nth) else {
            return;
        };
        let message = match &holding.asked {
            Some(asked) if how.is_multiple_of(4) => asked.clone(), // the same once more
            Some(Message::MemoRequested(asked)) if how % 4 == 1 => TurnSuspended {
                run: *run,
                token: holding.token,
                seen: holding.entries.len() as u32,
                wakes_at: Time::NEVER,
                memos: vec![asked.number],
            }
            .into(),
            Some(_) => return,
            None => holding.next(*run, &worker.build, now, how),
        };
        holding.asked = Some(message.clone());
        self.report(session, message);
    }

    fn report(&mut self, session: SessionId, message: Message) {
        if self.sent.len() < 512 {
            self.sent.push((session, message.clone()));
        }
        self.check_store(false);
        let about = report_of(&message);
        let facts = self.invariants.facts();
        let before = about.and_then(|(run, token)| {
            let current =
                facts.leases.values().find(|record| record.run == run).map(|record| record.token);
            let counts = current == Some(token) && self.given.get(&token) == Some(&session);
            Some((run, current, facts.runs.get(&run)?.entries.len())).filter(|_| !counts)
        });
        self.handle(Input::Received { session, message });
        self.check_store(false);
        let Some((run, current, entries)) = before else {
            return;
        };
        let facts = self.invariants.facts();
        let leased =
            facts.leases.values().find(|record| record.run == run).map(|record| record.token);
        let after = facts.runs.get(&run).map(|facts| facts.entries.len());
        assert!(
            after == Some(entries) || leased != current,
            "G3: a report of no lease changed the journal of {run}"
        );
    }

    /// What was said before is said again: late, twice, by another session.
    fn send_again(&mut self, pick: u8, how: u8) {
        if self.sent.is_empty() {
            return;
        }
        let (session, message) = self.sent[usize::from(pick) * 2 % self.sent.len()].clone();
        let other = self.workers[usize::from(how) % WORKERS].session;
        let session = if how & 4 == 0 { session } else { other.unwrap_or(session) };
        self.report(session, message);
    }

    /// A report about anything under a token that was never given.
    fn forge(&mut self, a: u8, b: u8, c: u8) {
        let Some(session) = self.workers[usize::from(a) % WORKERS].session else {
            return;
        };
        let run = RunNo(u64::from(b) % 8);
        let token = Token {
            store: 7,
            epoch: u64::from(c % 3),
            lease: crate::model::id::LeaseNo(u64::from(c / 3)),
        };
        let number = CommandIndex(u32::from(a) / 8);
        let (location, output) = (SourceLocation::default(), Payload::default());
        self.report(
            session,
            StepCompletedReport { run, token, number, location, attempt: 1, output, memo: None }
                .into(),
        );
    }

    fn requeue(&mut self, at: usize, pick: u8) {
        let worker = &mut self.workers[at];
        let Some(session) = worker.session else {
            return;
        };
        if worker.holds.is_empty() {
            return;
        }
        let nth = usize::from(pick) % worker.holds.len();
        let Some((run, holding)) = worker.holds.iter().nth(nth).filter(|(_, h)| h.asked.is_none())
        else {
            return;
        };
        let message: Message = Requeue { run: *run, token: holding.token }.into();
        let run = *run;
        worker.holds.remove(&run);
        self.report(session, message);
    }

    fn offer(&mut self, at: usize, how: u8) {
        let worker = &mut self.workers[at];
        let Some(session) = worker.session else {
            return;
        };
        worker.slots = u32::from(how % 4);
        let queues = slots(worker.slots, how);
        self.handle(Input::Received { session, message: Offer { queues }.into() });
    }

    // What the client does.

    fn client(&mut self) -> SessionId {
        if let Some(client) = self.client {
            return client;
        }
        let session = self.session();
        self.client = Some(session);
        let hello = Hello::test(ProcessInstance(u128::MAX), "drill");
        self.handle(Input::Received { session, message: hello.into() });
        session
    }

    fn request(&mut self, id: RunId, message: impl FnOnce(u64) -> Message) {
        let session = self.client();
        self.next_request += 1;
        self.asked.insert(self.next_request, id);
        let message = message(self.next_request);
        self.handle(Input::Received { session, message });
    }

    fn start(&mut self, id: u8, workflow: u8, how: u8) {
        // Mostly an id has its workflow; sometimes another one is asked for.
        let workflow = if workflow % 8 == 7 { id.wrapping_add(1) } else { id };
        let run = StartRun {
            id: run_id(id),
            name: None,
            workflow: WORKFLOWS[usize::from(workflow) % WORKFLOWS.len()].to_owned(),
            version: 1,
            queue: QUEUES[usize::from(how / 4) % 2].to_owned(),
            priority: how / 8 % 3,
            delay_ms: if how % 4 == 3 { u64::from(how) * 40 } else { 0 },
            input: Payload(vec![1; if how == 200 { 9_000 } else { 20 }].into()),
            tags: (how % 8 == 2).then(|| TAG.to_owned()).into_iter().collect(),
            unique: unique(id, how),
        };
        let runs = if how % 16 == 1 { vec![run.clone(), run] } else { vec![run] };
        if how % 16 == 5 {
            return self.start_atomic(id, runs);
        }
        if how % 16 >= 13 {
            return self.start_batch(id, how, runs);
        }
        self.request(run_id(id), |call_number| call_as(call_number, caller(), Start { runs }));
    }

    /// All or nothing, with a second run.
    fn start_atomic(&mut self, id: u8, runs: Vec<StartRun>) {
        let mut runs = runs;
        let (other, name) = (id.wrapping_add(5), WORKFLOWS[usize::from(id) % 8]);
        runs.push(StartRun {
            id: run_id(other),
            workflow: name.to_owned(),
            queue: QUEUES[0].to_owned(),
            input: Payload(vec![1; 20].into()),
            unique: unique(other, id),
            ..StartRun::default()
        });
        self.request(run_id(id), |call_number| {
            call_as(call_number, caller(), AtomicStart { runs })
        });
    }

    /// As runs of a batch. Names are used again and again, also those of batches that have ended.
    fn start_batch(&mut self, id: u8, how: u8, runs: Vec<StartRun>) {
        let follow_up = StartRun {
            workflow: "two".to_owned(),
            queue: QUEUES[1].to_owned(),
            input: Payload::of(&id).expect("a number"),
            ..StartRun::default()
        };
        let name = format!("b{}", self.next_request / 16);
        let (seal, follows) = (how & 32 == 0, how & 64 == 0);
        self.request(run_id(id), |call_number| {
            call_as(
                call_number,
                caller(),
                StartBatch { name, runs, follow_up: follows.then(|| Box::new(follow_up)), seal },
            )
        });
    }

    fn cancel(&mut self, id: u8) {
        let (id, reason) = (run_id(id), "no longer".to_owned());
        self.request(id, |call_number| call_as(call_number, caller(), Cancel { id, reason }));
    }

    /// Somebody wants something of a run; while it is being read, time passes.
    fn lag(&mut self, id: u8, span: u8, how: u8) {
        match how % 3 {
            0 => self.ask(id, how),
            1 => self.resume(id),
            _ => self.cancel(id),
        }
        self.flush();
        (0..self.stepped.reads.len()).for_each(|_| self.stepped.read(0));
        (0..self.stepped.answers.len()).for_each(|_| self.stepped.answer(0));
        self.flush();
        (0..self.stepped.reads.len()).for_each(|_| self.stepped.read(0));
        self.pass(Duration::from_millis(u64::from(span) * 40), 0);
    }

    /// An operator sets something on a queue.
    fn set_queue(&mut self, queue: u8, what: u8, number: u8) {
        let number = u32::from(number);
        let mut change = QueueChange { create: queue & 2 == 2, ..QueueChange::default() };
        match what % 8 {
            0..=1 => change.paused = Some(number.is_multiple_of(2)),
            2..=3 => change.concurrency = Some(number % 4),
            4 => change.oldest_every = Some(number % 5),
            _ => {
                change.rate = Some(RateLimit {
                    count: number % 6,
                    per_ms: u64::from(number) * 10,
                    burst: 1 + number % 3,
                });
            }
        }
        self.change_queue(usize::from(queue), change, repeating_caller);
    }

    fn change_queue(&mut self, queue: usize, change: QueueChange, who: fn(u64) -> Caller) {
        let queue = QUEUES[queue % QUEUES.len()].to_owned();
        self.request(RunId(0), |call_number| {
            call_as(call_number, who(call_number), SetQueue { queue, change })
        });
    }

    /// Somebody looks at the queues: what is told is what is stored then.
    fn ask_queues(&mut self, how: u8) {
        self.check_store(false);
        let queue = how.is_multiple_of(4).then(|| QUEUES[usize::from(how / 4) % 2].to_owned());
        self.request(RunId(0), |call_number| call_as(call_number, caller(), AskQueues { queue }));
        self.check_store(false);
    }

    fn resume(&mut self, id: u8) {
        self.request(run_id(id), |call_number| {
            call_as(call_number, caller(), Resume { id: run_id(id) })
        });
    }

    /// An operator does something with a run, or did it before.
    fn act(&mut self, id: u8, what: u8, how: u8) {
        let id = run_id(id);
        let new = self.next_request + 1;
        let request_id = if how.is_multiple_of(4) { u64::from(how) } else { 1_000 + new };
        let caller = Caller { request_id: RequestId(u128::from(request_id)), ..caller() };
        self.request(id, |call_number| match what % 8 {
            0 => call_as(call_number, caller, Discard { id, reason: "of no use".to_owned() }),
            1 | 2 => call_as(
                call_number,
                caller,
                EditInput { id, input: Payload(vec![1; 1 + usize::from(how) * 30].into()) },
            ),
            _ => call_as(call_number, caller, Redrive { id }),
        });
    }

    fn ask(&mut self, id: u8, how: u8) {
        let (id, wait) = (run_id(id), !how.is_multiple_of(4));
        match how % 5 {
            0 => self.request(id, |call_number| call_as(call_number, caller(), AskStatus { id })),
            _ => self
                .request(id, |call_number| call_as(call_number, caller(), AskOutcome { id, wait })),
        }
    }

    fn client_hears(&mut self, message: Message) {
        match message {
            Message::Reply(Reply { answer: Answered::Known(Answer::StartReply(reply)), .. }) => {
                for answer in reply.runs.iter().filter(|answer| answer.refused.is_none()) {
                    self.invariants.started.insert(answer.id, ());
                }
            }
            Message::Reply(Reply { answer: Answered::Known(Answer::BatchReply(reply)), .. }) => {
                for answer in reply.runs.iter().filter(|answer| answer.refused.is_none()) {
                    self.invariants.started.insert(answer.id, ());
                }
            }
            Message::Reply(Reply { call_number, answer: Answered::Known(Answer::OutcomeReply(reply)) }) => {
                let Some(id) = self.asked.get(&call_number).copied() else {
                    return;
                };
                if !matches!(reply.outcome, Outcome::OutcomePending(_)) {
                    // Another run of this id may have come after the retention of the first.
                    self.invariants.told.insert(id, reply.outcome);
                }
            }
            _ => {}
        }
    }

    /// Somebody says anything at all.
    pub(crate) fn say(&mut self, message: Message) {
        // A call is made in the namespace of its session, which its hello says.
        let namespace = match &message {
            Message::Hello(hello) => hello.namespace,
            _ => Namespace::default(),
        };
        // The auditor knows runs by their ids, which are of the default namespace.
        if namespace != Default::default() {
            return;
        }
        let sessions: Vec<SessionId> =
            self.workers.iter().filter_map(|worker| worker.session).collect();
        for session in sessions {
            match report_of(&message) {
                Some(_) => self.report(session, message.clone()),
                None => self.handle(Input::Received { session, message: message.clone() }),
            }
            self.settle();
            self.check_store(false);
        }
    }

    // The end.

    /// All is well from here on: everything that was started must end.
    pub(crate) fn finish(&mut self) {
        self.stepped.settings.limits = Limits::default();
        self.crash(0);
        for at in 0..WORKERS {
            self.restart(at, 0);
            self.hello(at, 3);
        }
        // What is paused goes on, and what is limited to little, slowly.
        for queue in 0..QUEUES.len() {
            let change = QueueChange {
                paused: Some(false),
                rate: Some(RateLimit { count: 0, per_ms: 1, burst: 1 }),
                create: true,
                ..QueueChange::default()
            };
            self.change_queue(queue, change, new_caller);
        }
        self.remove_schedules();
        for round in 0..600 {
            self.pass(Duration::from_secs(2), 0);
            self.settle();
            for _ in 0..8 {
                for at in 0..WORKERS {
                    self.deliver(at, usize::MAX - 1);
                    for pick in 0..self.workers[at].holds.len() as u8 {
                        self.work(at, pick, 1);
                    }
                }
                self.settle();
            }
            self.check_store(false);
            let facts = self.invariants.facts();
            if facts.runs.values().all(|run| run.state.is_final()) {
                return;
            }
            if round % 50 == 49 {
                let stopped: Vec<RunId> =
                    facts.stopped.keys().map(|no| facts.runs[no].run.id).collect();
                for id in stopped {
                    self.request(id, |call_number| call_as(call_number, caller(), Resume { id }));
                }
            }
        }
        let stuck = self.invariants.facts().runs.values().filter(|run| !run.state.is_final());
        let stuck: Vec<(RunNo, &str, RunState)> =
            stuck.map(|facts| (facts.run.no, facts.run.workflow.as_str(), facts.state)).collect();
        panic!("everything ends, but not {stuck:?}");
    }
}

fn slots(slots: u32, how: u8) -> Vec<QueueSlots> {
    let both = QUEUES.iter().map(|queue| QueueSlots { queue: (*queue).to_owned(), slots });
    both.take(if how & 16 == 16 { 1 } else { 2 }).collect()
}

/// The run and token of a report.
fn report_of(message: &Message) -> Option<(RunNo, Token)> {
    match message {
        Message::StepCompletedReport(m) => Some((m.run, m.token)),
        Message::AttemptFailedReport(m) => Some((m.run, m.token)),
        Message::TimerRequested(m) => Some((m.run, m.token)),
        Message::MemoRequested(m) => Some((m.run, m.token)),
        Message::MemoReleased(m) => Some((m.run, m.token)),
        Message::TurnSuspended(m) => Some((m.run, m.token)),
        Message::TurnCompleted(m) => Some((m.run, m.token)),
        Message::TurnFailed(m) => Some((m.run, m.token)),
        Message::TurnMismatched(m) => Some((m.run, m.token)),
        Message::Requeue(m) => Some((m.run, m.token)),
        _ => None,
    }
}

impl FuzzWorker {
    /// Takes what arrives; tells the step whose outcome it acknowledges.
    fn take(&mut self, arrival: Arrival) -> Option<(RunNo, CommandIndex)> {
        match arrival {
            Arrival::Dispatch { run, token, entries } => {
                let mut fold = RunFold::new(run, 0);
                let mut known = Vec::new();
                for stored in &entries {
                    fold.push(stored)
                        .unwrap_or_else(|e| panic!("J1: the journal of {run} as shipped: {e}"));
                    known.push(Entry::decode(&stored[..stored.len() - 8]).expect("an entry"));
                }
                let workflow = fold.finish().map(|run| run.workflow).unwrap_or_default();
                self.holds.insert(
                    run,
                    Holding { token, workflow, entries: known, asked: None, memo: None },
                );
                None
            }
            Arrival::ContinueLease { run, old, token, from, entries } => {
                let holding = self.holds.get_mut(&run).filter(|holding| holding.token == old)?;
                holding.token = token;
                let asked = holding.asked.take();
                holding.asked = asked.filter(|asked| match asked {
                    Message::MemoRequested(_) => false, // asked again, under the new token
                    Message::TurnSuspended(m) => m.memos.is_empty(),
                    _ => true,
                });
                // An entry that was told between the hello and this comes again, and is dropped, as
                // a worker drops it.
                let seen = holding.entries.len().checked_sub(from as usize);
                let seen = seen.expect("what was not seen follows what was");
                holding.entries.extend(entries.into_iter().skip(seen));
                None
            }
            Arrival::Message(Message::Appended(told)) => {
                let holding =
                    self.holds.get_mut(&told.run).filter(|holding| holding.token == told.token)?;
                assert!(
                    told.index as usize <= holding.entries.len(),
                    "J1: entries of {} are told in order",
                    told.run
                );
                if (told.index as usize) < holding.entries.len() {
                    return None;
                }
                let entry = Entry::decode(&told.entry).expect("an entry");
                let step = matches!(entry, Entry::StepCompleted(_) | Entry::StepFailed(_));
                let number = entry.number();
                // Timers and cancel requests come unasked.
                if !matches!(entry, Entry::TimerFired(_)) {
                    (holding.asked, holding.memo) = (None, None);
                }
                holding.entries.push(entry);
                number.filter(|_| step).map(|number| (told.run, number))
            }
            Arrival::Message(Message::TurnEnded(ended)) => self.drop_run(ended.run, ended.token),
            Arrival::Message(Message::Revoked(revoked)) => {
                self.drop_run(revoked.run, revoked.token)
            }
            Arrival::Message(Message::ReportRefused(refused)) => {
                if let Some(holding) = self.holds.get_mut(&refused.run) {
                    (holding.asked, holding.memo) = (None, None);
                }
                None
            }
            Arrival::Message(Message::AttemptMemo(granted)) => {
                let holding = self
                    .holds
                    .get_mut(&granted.run)
                    .filter(|holding| holding.token == granted.token)?;
                if matches!(&holding.asked, Some(Message::MemoRequested(m)) if m.number == granted.number)
                {
                    (holding.asked, holding.memo) = (None, Some(granted.number));
                }
                None
            }
            Arrival::Message(Message::MemoReleased(returned)) => {
                let holding = self.holds.get_mut(&returned.run)?;
                (holding.asked, holding.memo) = (None, None);
                None
            }
            Arrival::Message(_) => None,
        }
    }

    fn drop_run(&mut self, run: RunNo, token: Token) -> Option<(RunNo, CommandIndex)> {
        if self.holds.get(&run).is_some_and(|holding| holding.token == token) {
            self.holds.remove(&run);
        }
        None
    }
}

impl Holding {
    /// How the function came to its failure: it asks for nothing once it has seen a step fail. An
    /// older worker says nothing.
    fn end(&self) -> Option<FunctionEnd> {
        let superseded = Superseded::of((0..).zip(&self.entries));
        let failed = (0..).zip(&self.entries).find(|(index, entry)| {
            matches!(entry, Entry::StepFailed(_)) && !superseded.covers(*index, entry)
        });
        let end = FunctionEnd { failed_at: failed.map(|(index, _)| index), went_on: None };
        (self.token.lease.0.is_multiple_of(2)).then_some(end)
    }

    /// Asks before each attempt. An attempt it may make is mostly made, sometimes released; a
    /// worker that an engine left in the middle of it comes with a result without having asked this
    /// one.
    fn next_memo(
        &self,
        (run, number): (RunNo, CommandIndex),
        location: SourceLocation,
        (attempts, fails): (u32, u32),
        how: u8,
    ) -> Message {
        let (token, memo) = (self.token, MemoKey::of(Namespace::default(), &location.name));
        match self.memo == Some(number) || how % 32 == 7 {
            false => MemoRequested { run, token, number, location, memo }.into(),
            true if how % 32 == 9 => MemoReleased { run, token, number }.into(),
            true if attempts < fails && run.0.is_multiple_of(2) => AttemptFailedReport {
                run,
                token,
                number,
                location,
                attempt: attempts + 1,
                failure: Failure::retryable("not yet"),
                retry: Retry::fixed(Duration::from_secs(1)).retries(u32::from(how % 2)),
            }
            .into(),
            true => StepCompletedReport {
                run,
                token,
                number,
                location,
                attempt: attempts + 1,
                output: Payload(
                    vec![(run.0 % 250) as u8; if how % 16 == 5 { 4_500 } else { 10 }].into(),
                ),
                memo: Some(memo),
            }
            .into(),
        }
    }

    /// The next report by the script and the journal.
    fn next(&self, run: RunNo, build: &str, now: Time, how: u8) -> Message {
        let token = self.token;
        let mut known = JournalFacts::of(&self.entries);
        if self.workflow == "whole" {
            let failure = Failure::retryable("not yet");
            return match known.whole < 2 && !known.cancelled {
                true => TurnFailed { run, token, failure, whole: true, end: None }.into(),
                false => TurnCompleted { run, token, output: Payload(vec![2].into()) }.into(),
            };
        }
        let seen = self.entries.len() as u32;
        let mut number = 0;
        let commands: &[ScriptCommand] = if known.cancelled {
            &[ScriptCommand::Step { fails: 0, terminal: false }]
        } else {
            script(&self.workflow)
        };
        if known.cancelled {
            number = 50;
            known.failed.clear();
        }
        for command in commands {
            let at = CommandIndex(number);
            number += 1;
            let location =
                SourceLocation { name: format!("c{at}"), at: "drill.rs:1".to_owned(), version: 1 };
            match *command {
                ScriptCommand::Step { fails, terminal } => {
                    if known.failed.contains(&at) {
                        return TurnFailed {
                            run,
                            token,
                            failure: Failure::terminal("no"),
                            whole: false,
                            end: self.end(),
                        }
                        .into();
                    }
                    if known.resolved.contains(&at) {
                        continue;
                    }
                    let (attempts, retry_at) =
                        known.attempts.get(&at).copied().unwrap_or((0, Time(0)));
                    if retry_at > now {
                        return TurnSuspended {
                            run,
                            token,
                            seen,
                            wakes_at: retry_at,
                            memos: Vec::new(),
                        }
                        .into();
                    }
                    let attempt = attempts + 1;
                    if attempts < fails {
                        let failure = match (terminal, how % 8) {
                            (true, _) => Failure::terminal("never"),
                            (false, 2) => Failure::retry_after(Duration::from_secs(1), "later"),
                            (false, _) => Failure::retryable("not yet"),
                        };
                        let retry = Retry::default();
                        return AttemptFailedReport {
                            run,
                            token,
                            number: at,
                            location,
                            attempt,
                            failure,
                            retry,
                        }
                        .into();
                    }
                    let bytes = if how % 16 == 5 { 4_500 } else { 10 };
                    let output = Payload(vec![3; bytes].into());
                    return StepCompletedReport {
                        run,
                        token,
                        number: at,
                        location,
                        attempt,
                        output,
                        memo: None,
                    }
                    .into();
                }
                ScriptCommand::Memo { key, fails } => {
                    if known.failed.contains(&at) || known.resolved.contains(&at) {
                        continue;
                    }
                    let (attempts, retry_at) =
                        known.attempts.get(&at).copied().unwrap_or((0, Time(0)));
                    if retry_at > now {
                        return TurnSuspended {
                            run,
                            token,
                            seen,
                            wakes_at: retry_at,
                            memos: Vec::new(),
                        }
                        .into();
                    }
                    let location = SourceLocation { name: MEMO[key].to_owned(), ..location };
                    return self.next_memo((run, at), location, (attempts, fails), how);
                }
                ScriptCommand::Sleep { ms } => match known.due.get(&at) {
                    _ if known.resolved.contains(&at) => {}
                    Some(due) => {
                        return TurnSuspended {
                            run,
                            token,
                            seen,
                            wakes_at: *due,
                            memos: Vec::new(),
                        }
                        .into();
                    }
                    None => {
                        return TimerRequested { run, token, number: at, location, delay_ms: ms }
                            .into();
                    }
                },
                ScriptCommand::Race { short_ms, long_ms } => {
                    let other = CommandIndex(number);
                    number += 1;
                    if known.resolved.contains(&at) {
                        continue;
                    }
                    match (known.due.get(&at), known.due.get(&other)) {
                        (Some(due), Some(_)) => {
                            return TurnSuspended {
                                run,
                                token,
                                seen,
                                wakes_at: *due,
                                memos: Vec::new(),
                            }
                            .into();
                        }
                        (Some(_), None) => {
                            return TimerRequested {
                                run,
                                token,
                                number: other,
                                location,
                                delay_ms: long_ms,
                            }
                            .into();
                        }
                        _ => {
                            return TimerRequested {
                                run,
                                token,
                                number: at,
                                location,
                                delay_ms: short_ms,
                            }
                            .into();
                        }
                    }
                }
                ScriptCommand::Mismatch if build == "b1" => {
                    let (journal_holds, code_asked) =
                        ("step `c1`".to_owned(), "timer 1s".to_owned());
                    return TurnMismatched { run, token, index: 2, journal_holds, code_asked }
                        .into();
                }
                ScriptCommand::Mismatch => {}
            }
        }
        match known.cancelled {
            true => TurnFailed {
                run,
                token,
                failure: Failure::cancelled("stopped"),
                whole: false,
                end: None,
            }
            .into(),
            false => TurnCompleted { run, token, output: Payload(vec![4].into()) }.into(),
        }
    }
}

/// What a journal says of its commands.
#[derive(Default)]
struct JournalFacts {
    resolved: Vec<CommandIndex>,
    failed: Vec<CommandIndex>,
    attempts: BTreeMap<CommandIndex, (u32, Time)>,
    due: BTreeMap<CommandIndex, Time>,
    whole: u32,
    cancelled: bool,
}

impl JournalFacts {
    fn of(entries: &[Entry]) -> Self {
        let mut known = Self::default();
        let superseded = Superseded::of((0..).zip(entries));
        for (index, entry) in (0..).zip(entries) {
            match entry {
                entry if superseded.covers(index, entry) => {}
                Entry::StepCompleted(e) => known.resolved.push(e.number),
                Entry::TimerFired(e) => known.resolved.push(e.number),
                Entry::StepFailed(e) => known.failed.push(e.number),
                Entry::AttemptFailed(e) if e.number == CommandIndex::FUNCTION => known.whole += 1,
                Entry::AttemptFailed(e) => {
                    known.attempts.insert(e.number, (e.attempt, e.retry_at));
                }
                Entry::TimerArmed(e) => {
                    known.due.insert(e.number, e.due);
                }
                Entry::CancelRequested(_) => known.cancelled = true,
                _ => {}
            }
        }
        known
    }
}
