//! More of everything than fits in memory, in a record or in a batch.

use std::collections::BTreeMap;
use std::time::Duration;

use stepwell_storage::{Store, block_on};

use super::output::Action;
use super::stepped_core::SteppedCore;
use super::{Input, Settings};
use crate::model::id::{CommandIndex, ProcessInstance, RunId, RunNo, SessionId, Token};
use crate::model::payload::Payload;
use crate::model::request::{Caller, Refusal, StartRun};
use crate::model::run::RunState;
use crate::model::time::Time;
use crate::wire::message::{
    Answered, Answer, AtomicStart, Cancel, Heartbeat, Held, Hello, Message, QueueSlots, Register, Reply,
    Resume, Start, StartAnswer, TimerRequested, TurnCompleted, TurnSuspended, WorkflowOffer,
    call_as,
};

pub(super) const CLIENT: SessionId = SessionId(1);

pub(super) struct Capacity {
    pub(super) stepped: SteppedCore,
    started: u64,
    /// In the order in which they were dispatched.
    pub(super) leased: Vec<(RunNo, Token)>,
    continued: usize,
    /// What clients and workers were sent, beside runs.
    pub(super) sent: Vec<Message>,
}

impl Capacity {
    pub(super) fn new() -> Self {
        let mut stepped = SteppedCore::new(Settings::default(), Time(1_000 * 86_400_000));
        stepped.check_every = 997;
        let mut capacity =
            Self { stepped, started: 0, leased: Vec::new(), continued: 0, sent: Vec::new() };
        capacity.hello(CLIENT, &[], Vec::new());
        capacity
    }

    pub(super) fn hello(&mut self, session: SessionId, queues: &[QueueSlots], held: Vec<Held>) {
        let workflows = vec![WorkflowOffer::test("order")];
        self.hear(session, Hello::test(ProcessInstance(u128::from(session.0 % 10)), ""));
        if !queues.is_empty() {
            let (build, queues, tags) = ("b1".into(), queues.to_vec(), Vec::new());
            self.hear(session, Register { build, workflows, queues, tags, held });
        }
    }

    pub(super) fn hear(&mut self, session: SessionId, message: impl Into<Message>) {
        self.stepped.handle(Input::Received { session, message: message.into() });
    }

    fn start(&mut self, count: u64, queue: impl Fn(u64) -> String) {
        self.start_as(count, |n, run| run.queue = queue(n));
    }

    /// Starts runs, with what each is to have beside the usual.
    pub(super) fn start_as(&mut self, count: u64, what: impl Fn(u64, &mut StartRun)) {
        let run = |n: u64| {
            let mut run = plain(n);
            what(n, &mut run);
            run
        };
        let runs = (self.started..self.started + count).map(run).collect();
        self.started += count;
        self.hear(CLIENT, call_as(1, Caller::default(), Start { runs }));
        self.settle();
    }

    pub(super) fn settle(&mut self) {
        loop {
            self.stepped.flush();
            if !self.stepped.reads.is_empty() {
                self.stepped.read(0);
            } else if !self.stepped.answers.is_empty() {
                self.stepped.answer(0);
            } else if self.stepped.is_due() {
                self.stepped.handle(Input::Ticked);
            } else {
                break;
            }
        }
        for action in self.stepped.commit() {
            match action {
                Action::Dispatch { run, token, .. } => self.leased.push((run, token)),
                Action::ContinueLease { run, old, token, .. } => {
                    self.continued += 1;
                    let known = self.leased.iter_mut().find(|known| **known == (run, old)).unwrap();
                    known.1 = token;
                }
                Action::Send { message, .. } => self.sent.push(message),
                _ => {}
            }
        }
    }

    pub(super) fn runs_in(&self, state: RunState) -> u64 {
        self.stepped.core.stats().runs_in(state)
    }

    pub(super) fn pass(&mut self, span: Duration, sessions: &[SessionId]) {
        self.stepped.pass(span);
        sessions.iter().for_each(|session| self.hear(*session, Heartbeat { beat: 0 }));
        self.stepped.handle(Input::Ticked);
        self.settle();
    }
}

fn plain(n: u64) -> StartRun {
    StartRun {
        id: RunId(u128::from(n) + 1),
        name: None,
        workflow: "order".into(),
        version: 1,
        queue: "q".to_owned(),
        priority: 5,
        delay_ms: 0,
        input: Payload::default(),
        tags: Vec::new(),
        unique: None,
    }
}

pub(super) fn slots(queue: &str, slots: u32) -> QueueSlots {
    QueueSlots { queue: queue.to_owned(), slots }
}

/// One peer that talks all the time does not keep another's silence from being noticed.
#[test]
fn inputs_that_keep_coming_do_not_put_a_tick_off() {
    let mut capacity = Capacity::new();
    capacity.hello(CLIENT, &[], Vec::new());
    capacity.hello(SessionId(2), &[slots("q", 1)], Vec::new());
    capacity.start(1, |_| "q".to_owned());
    assert_eq!(capacity.runs_in(RunState::Running), 1);
    let span = Duration::from_millis(40);
    for _ in 0..(11_000 / 40) {
        capacity.stepped.pass(span);
        capacity.hear(CLIENT, Heartbeat { beat: 0 });
        if capacity.stepped.is_due() {
            capacity.stepped.handle(Input::Ticked);
        }
        capacity.settle();
    }
    assert_eq!(capacity.runs_in(RunState::Queued), 1, "the silent worker is still trusted");
}

/// What callers say of themselves is in rows that must be short: it is refused where it is too
/// long, and the engine goes on.
#[test]
fn callers_that_say_too_much_of_themselves_are_refused() {
    let mut capacity = Capacity::new();
    capacity.start(1, |_| "q".to_owned());
    let caller = |principal: usize, context: usize| Caller {
        principal: "p".repeat(principal),
        traceparent: Some("t".repeat(context)),
        ..Caller::default()
    };
    let (call_number, id) = (7, RunId(1));
    let reason = "r".repeat(100_000);
    for (principal, context) in [(5_000, 0), (0, 5_000)] {
        let caller = caller(principal, context);
        let runs = || vec![plain(9)];
        let messages: [Message; 4] = [
            call_as(call_number, caller.clone(), Resume { id }),
            call_as(call_number, caller.clone(), Cancel { id, reason: reason.clone() }),
            call_as(call_number, caller.clone(), Start { runs: runs() }),
            call_as(call_number, caller, AtomicStart { runs: runs() }),
        ];
        for message in messages {
            capacity.sent.clear();
            capacity.hear(CLIENT, message);
            capacity.settle();
            assert!(
                matches!(&capacity.sent[..], [Message::Reply(Reply { answer: Answered::Known(Answer::RefusedReply(refused)), .. })] if matches!(refused.reason, Refusal::BadName(_))),
                "{:?}",
                capacity.sent
            );
        }
    }
    let caller = caller(128, 256);
    let cancel = call_as(call_number, caller, Cancel { id, reason });
    capacity.hear(CLIENT, cancel);
    capacity.settle();
    assert_eq!(capacity.runs_in(RunState::Cancelled), 1);
}

/// A registration is of a moderate size.
#[test]
fn a_worker_of_too_many_workflows_is_refused() {
    let mut capacity = Capacity::new();
    let offer = |n: u32| WorkflowOffer::test(&format!("w{n}"));
    for (count, taken) in [(1_024, true), (1_025, false)] {
        capacity.sent.clear();
        let register = Register {
            build: "b".into(),
            workflows: (0..count).map(offer).collect(),
            queues: vec![slots("q", 1)],
            held: Vec::new(),
            tags: Vec::new(),
        };
        capacity.hear(SessionId(7), Hello::test(ProcessInstance(7), ""));
        capacity.hear(SessionId(7), register);
        capacity.settle();
        let registered = |message: &Message| matches!(message, Message::Registered(_));
        assert_eq!(capacity.sent.iter().any(registered), taken, "{count}");
    }
}

/// A lane keeps some thousands in memory and reads the others when it is their turn, in order.
#[test]
fn more_runs_wait_than_memory_holds() {
    let mut capacity = Capacity::new();
    capacity.start(6_000, |_| "q".to_owned());
    assert_eq!(capacity.runs_in(RunState::Queued), 6_000);
    capacity.stepped.reopen().unwrap();
    capacity.hello(CLIENT, &[], Vec::new());
    capacity.hello(SessionId(2), &[slots("q", 40)], Vec::new());
    capacity.settle();
    let mut done = 0;
    while done < capacity.leased.len() {
        let (run, token) = capacity.leased[done];
        capacity.hear(SessionId(2), TurnCompleted { run, token, output: Payload::default() });
        done += 1;
        if done % 20 == 0 || done == capacity.leased.len() {
            capacity.settle();
        }
    }
    assert_eq!(capacity.runs_in(RunState::Completed), 6_000);
    assert!(capacity.leased.is_sorted_by_key(|(run, _)| run.0), "first come, first served");
}

/// The same for timers, which come in any order.
#[test]
fn more_runs_sleep_than_memory_holds() {
    let mut capacity = Capacity::new();
    let worker = SessionId(2);
    capacity.hello(worker, &[slots("q", 100_000)], Vec::new());
    capacity.start(6_000, |_| "q".to_owned());
    let mut due = BTreeMap::new();
    for (run, token) in std::mem::take(&mut capacity.leased) {
        let delay_ms = 1_000 + run.0 * 7_919 % 60_000;
        let (number, location) = (CommandIndex(0), Default::default());
        capacity.hear(worker, TimerRequested { run, token, number, location, delay_ms });
        capacity.hear(
            worker,
            TurnSuspended { run, token, seen: 2, wakes_at: Time(0), memos: Vec::new() },
        );
        due.insert(run, delay_ms);
    }
    capacity.settle();
    assert_eq!(capacity.runs_in(RunState::Suspended), 6_000);
    for second in 1..=62u64 {
        capacity.pass(Duration::from_secs(1), &[CLIENT, worker]);
        let woken = due.values().filter(|ms| **ms <= second * 1_000).count();
        assert_eq!(capacity.leased.len(), woken, "after {second} s");
    }
}

/// The mark names a limited number of lanes, so that it fits a value.
#[test]
fn runs_wait_in_more_queues_than_the_mark_names() {
    let mut capacity = Capacity::new();
    capacity.start(600, |n| format!("queue {}", n % 300));
    capacity.stepped.reopen().unwrap();
    capacity.hello(CLIENT, &[], Vec::new());
    for (at, from) in (0..300).step_by(150).enumerate() {
        let queues: Vec<_> = (from..from + 150).map(|n| slots(&format!("queue {n}"), 9)).collect();
        capacity.hello(SessionId(2 + at as u64), &queues, Vec::new());
    }
    capacity.settle();
    assert_eq!(capacity.runs_in(RunState::Running), 600);
}

/// What comes back with a worker is written a page at a time, so that it fits a batch.
#[test]
fn a_worker_comes_back_with_more_than_a_batch_holds() {
    let mut capacity = Capacity::new();
    capacity.hello(SessionId(2), &[slots("q", 100_000)], Vec::new());
    capacity.start(5_000, |_| "q".to_owned());
    assert_eq!(capacity.leased.len(), 5_000);
    let held = |(run, token): &(RunNo, Token)| Held { run: *run, token: *token, seen: 1 };
    let all = capacity.leased.iter().map(held).collect();
    capacity.hello(SessionId(12), &[slots("q", 100_000)], all);
    capacity.settle();
    assert_eq!((capacity.continued, capacity.runs_in(RunState::Running)), (5_000, 5_000));
    capacity.stepped.handle(Input::SessionClosed { session: SessionId(12), goodbye: true });
    capacity.settle();
    assert_eq!(capacity.runs_in(RunState::Queued), 5_000);
}

/// A generation with more runs than a page is emptied: ended ones go, others are copied.
#[test]
fn a_generation_of_many_runs_is_emptied() {
    let mut capacity = Capacity::new();
    capacity.hello(SessionId(2), &[slots("q", 100_000)], Vec::new());
    capacity.start(600, |_| "q".to_owned());
    for (run, token) in capacity.leased.clone().into_iter().filter(|(run, _)| run.0 % 3 != 0) {
        capacity.hear(SessionId(2), TurnCompleted { run, token, output: Payload::default() });
    }
    capacity.settle();
    capacity.stepped.wall = capacity.stepped.wall.after(Duration::from_secs(40 * 3_600));
    capacity.stepped.handle(Input::Ticked);
    for _ in 0..5 {
        capacity.stepped.wall = capacity.stepped.wall.after(Duration::from_secs(40 * 3_600));
        capacity.pass(Duration::from_millis(10), &[CLIENT, SessionId(2)]);
    }
    capacity.start(1, |_| "q".to_owned());
    capacity.pass(Duration::from_secs(5), &[CLIENT, SessionId(2)]);
    for _ in 0..14 {
        capacity.pass(Duration::from_secs(5), &[CLIENT, SessionId(2)]);
    }
    assert_eq!(
        (capacity.runs_in(RunState::Completed), capacity.runs_in(RunState::Running)),
        (0, 201)
    );
    block_on(capacity.stepped.store.commit()).unwrap();
}

// A16: they die a bounded number at a time, from the front of their lane; there is no object for
// each.
#[test]
fn a_backlog_of_a_workflow_that_nobody_knows_dies() {
    const RUNS: u64 = 10_000;
    let mut capacity = Capacity::new();
    capacity.start(RUNS, |_| "q".to_owned());
    let worker = SessionId(2);
    let register = Register {
        build: "b1".into(),
        workflows: vec![WorkflowOffer::test("another")],
        queues: vec![slots("q", 1)],
        held: Vec::new(),
        tags: Vec::new(),
    };
    capacity.hear(worker, Hello::test(ProcessInstance(2), ""));
    capacity.hear(worker, register);
    capacity.settle();
    let limit = Settings::default().unregistered_workflow_after;
    let (mut passed, mut most) = (Duration::ZERO, 0);
    while passed < limit - Duration::from_secs(10) {
        capacity.pass(Duration::from_secs(5), &[CLIENT, worker]);
        passed += Duration::from_secs(5);
        assert_eq!(capacity.runs_in(RunState::Dead), 0, "after {passed:?}");
    }
    for _ in 0..60 {
        capacity.pass(Duration::from_secs(5), &[CLIENT, worker]);
        most = most.max(capacity.stepped.core.stats().in_memory.reads);
    }
    assert_eq!(capacity.runs_in(RunState::Dead), RUNS);
    assert!(most <= 128, "{most} were read at a time");
}

/// The most queues there may be hold for a call as a whole, not only for each of its runs.
#[test]
fn one_call_does_not_make_more_queues_than_there_may_be() {
    let queue = |n: u64| format!("queue {n}");
    let mut capacity = Capacity::new();
    capacity.stepped.check_every = u64::MAX;
    capacity.start(9_999, queue);
    let atomic = (20_000..20_002).map(|n| StartRun { queue: queue(n), ..plain(n) });
    let (call_number, caller, runs) = (2, Caller::default(), atomic.collect());
    capacity.hear(CLIENT, call_as(call_number, caller, AtomicStart { runs }));
    capacity.settle();
    let Some(Message::Reply(Reply { answer: Answered::Known(Answer::RefusedReply(refused)), .. })) =
        capacity.sent.last()
    else {
        panic!("two more are too many");
    };
    assert!(matches!(&refused.reason, Refusal::OutOfRange(_)), "{}", refused.reason);
    capacity.start(3, queue);
    let Some(Message::Reply(Reply { answer: Answered::Known(Answer::StartReply(reply)), .. })) =
        capacity.sent.last()
    else {
        panic!("an answer for each");
    };
    let started: Vec<bool> = reply.runs.iter().map(|run| run.started).collect();
    assert_eq!(started, [true, false, false]);
    let refused = |run: &StartAnswer| matches!(run.refused, Some(Refusal::OutOfRange(_)));
    assert!(reply.runs[1..].iter().all(refused));
    capacity.start(3, |n| queue(n % 100));
    assert_eq!(capacity.runs_in(RunState::Queued), 10_003);
}
