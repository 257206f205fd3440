//! Queues beside each other, priorities, tags and gauges, in numbers.

use std::time::Duration;

use bytes::Bytes;

use super::capacity::{CLIENT, Capacity, slots};
use crate::model::id::{ProcessInstance, RunNo, SessionId};
use crate::model::payload::Payload;
use crate::model::queue::{QueueChange, QueueSummary, RateLimit};
use crate::model::request::{Caller, StartRun};
use crate::model::run::RunState;
use crate::tables::{JournalKey, TableKey};
use crate::wire::message::{
    Answered, Answer, AskQueues, Held, Hello, Message, Offer, QueueSlots, Register, Reply, SetQueue,
    TurnCompleted, WorkflowOffer, call_as,
};

const WORKER: SessionId = SessionId(2);

impl Capacity {
    /// Ends a run that a worker holds, and tells which runs are dispatched in its place.
    fn complete(&mut self, by: SessionId, run: RunNo) -> Vec<RunNo> {
        let before = self.leased.len();
        let token = self.leased.iter().rev().find(|(no, _)| *no == run);
        let token = token.expect("it was dispatched").1;
        self.hear(by, TurnCompleted { run, token, output: Payload::default() });
        self.settle();
        self.leased[before..].iter().map(|(no, _)| *no).collect()
    }

    fn set(&mut self, queue: &str, change: QueueChange) {
        let change = QueueChange { create: true, ..change };
        self.hear(
            CLIENT,
            call_as(1, Caller::default(), SetQueue { queue: queue.to_owned(), change }),
        );
        self.settle();
    }

    fn queue(&mut self, name: &str) -> QueueSummary {
        let queue = Some(name.to_owned());
        self.hear(CLIENT, call_as(1, Caller::default(), AskQueues { queue }));
        self.settle();
        match self.sent.last() {
            Some(Message::Reply(Reply { answer: Answered::Known(Answer::QueuesReply(reply)), .. })) => {
                reply.queues[0].clone()
            }
            other => panic!("{other:?}"),
        }
    }

    fn tagged(&mut self, session: SessionId, queues: &[QueueSlots], tags: &[&str]) {
        let register = Register {
            build: "b1".into(),
            workflows: vec![WorkflowOffer::test("order")],
            queues: queues.to_vec(),
            held: Vec::new(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        };
        self.hear(session, Hello::test(ProcessInstance(u128::from(session.0)), ""));
        self.hear(session, register);
        self.settle();
    }
}

fn low(_: u64, run: &mut StartRun) {
    run.priority = 9;
}

fn urgent(_: u64, run: &mut StartRun) {
    run.priority = 0;
}

// A31: an urgent job behind 100,000 low ones starts next, when a slot is free.
#[test]
fn an_urgent_run_overtakes_a_hundred_thousand() {
    let mut capacity = Capacity::new();
    capacity.stepped.check_every = 50_000;
    for _ in 0..10 {
        capacity.start_as(10_000, low);
    }
    capacity.hello(WORKER, &[slots("q", 1)], Vec::new());
    capacity.settle();
    assert_eq!(capacity.leased[0].0, RunNo(1));
    capacity.start_as(1, urgent);
    assert_eq!(capacity.complete(WORKER, RunNo(1)), [RunNo(100_001)]);
    assert_eq!(capacity.complete(WORKER, RunNo(100_001)), [RunNo(2)]);
    assert_eq!(capacity.runs_in(RunState::Queued), 99_998);
}

// A31: low ones still move: one dispatch in ten is theirs, however many urgent ones there are.
#[test]
fn low_runs_move_while_urgent_ones_keep_coming() {
    let mut capacity = Capacity::new();
    capacity.start_as(20, low);
    capacity.start_as(1_000, urgent);
    capacity.hello(WORKER, &[slots("q", 1)], Vec::new());
    capacity.settle();
    let mut held = capacity.leased[0].0;
    for _ in 1..200 {
        held = capacity.complete(WORKER, held)[0];
    }
    let low: Vec<usize> = (0..200).filter(|n| capacity.leased[*n].0.0 <= 20).collect();
    let every_tenth: Vec<usize> = (0..20).map(|n| 10 * n + 9).collect();
    assert_eq!(low, every_tenth);
}

// A31: the same where nobody stays long: an engine that dies after each dispatch still gives the
// oldest its share.
#[test]
fn low_runs_move_in_a_crash_loop() {
    let mut capacity = Capacity::new();
    capacity.stepped.settings.workers_die_with_engine = true;
    capacity.start_as(5, low);
    capacity.start_as(100, urgent);
    let mut completed_low = 0;
    for life in 0..40 {
        capacity.stepped.reopen().unwrap();
        capacity.leased.clear();
        capacity.stepped.pass(Duration::from_millis(10));
        capacity.hello(SessionId(2 + 10 * life), &[slots("q", 1)], Vec::new());
        capacity.settle();
        let (run, _) = capacity.leased[0];
        completed_low += u32::from(run.0 <= 5);
        // It dies with this one done, before it dispatches another one.
        let none = Offer { queues: Vec::new() };
        capacity.hear(SessionId(2 + 10 * life), none);
        capacity.complete(SessionId(2 + 10 * life), run);
    }
    assert_eq!(completed_low, 4);
}

// A32: a run with a tag goes only where it is offered, and does not stand in the way of others,
// however many there are.
#[test]
fn tagged_runs_go_where_their_tags_are_offered() {
    let mut capacity = Capacity::new();
    let gpu = |_: u64, run: &mut StartRun| run.tags = vec!["gpu".to_owned()];
    capacity.start_as(6_000, gpu);
    capacity.start_as(3, |_, _| {});
    capacity.tagged(WORKER, &[slots("q", 2)], &["ssd"]);
    assert_eq!(capacity.leased.len(), 2, "of 6,003 it can take 3");
    assert!(capacity.leased.iter().all(|(run, _)| run.0 > 6_000));
    let told = capacity.queue("q").reasons;
    assert_eq!(told, ["no worker that has registered workflow `order` offers tag `gpu`"]);

    capacity.tagged(SessionId(3), &[slots("q", 5)], &["gpu"]);
    let taken: Vec<u64> = capacity.leased[2..].iter().map(|(run, _)| run.0).collect();
    assert_eq!(taken, [1, 2, 3, 4, 5], "in order");
    assert!(capacity.queue("q").reasons.is_empty());
}

// A45: 10,000 slow exports queued leave the start latency of mail unchanged: the two worlds are the
// same, to the instant.
#[test]
fn slow_runs_in_one_queue_do_not_delay_another() {
    assert_eq!(mail_starts(10_000), mail_starts(0));
}

/// When mails are dispatched, in milliseconds: one comes every 100 ms and takes 50 ms, beside so
/// many exports of 3 s.
fn mail_starts(exports: u64) -> Vec<(RunNo, u64)> {
    let mut capacity = Capacity::new();
    capacity.stepped.check_every = 10_007;
    let pools = [slots("mail", 2), slots("export", 8)];
    capacity.hello(WORKER, &pools, Vec::new());
    capacity.start_as(10_000, |n, run| {
        run.queue = "export".to_owned();
        run.delay_ms = if n < exports { 0 } else { 3_600_000 };
    });
    let (mut starts, mut ends) = (Vec::new(), Vec::<(u64, RunNo)>::new());
    let mut seen = 0;
    for now in (0..20_000).step_by(10) {
        if now % 100 == 0 {
            capacity.start_as(1, |_, run| run.queue = "mail".to_owned());
        }
        for (run, _) in &capacity.leased[seen..] {
            let is_mail = run.0 > 10_000;
            ends.push((now + if is_mail { 50 } else { 3_000 }, *run));
            if is_mail {
                starts.push((*run, now));
            }
        }
        seen = capacity.leased.len();
        let over: Vec<(u64, RunNo)> = ends.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, run) in over {
            capacity.complete(WORKER, run);
        }
        capacity.pass(Duration::from_millis(10), &[CLIENT, WORKER]);
    }
    assert_eq!(starts.len(), 200);
    starts
}

// A46: gauges of a queue follow what happens to its runs; A47: a delayed one that is not due is not
// old.
#[test]
fn gauges_follow_the_runs_of_their_queue() {
    let mut capacity = Capacity::new();
    capacity.start_as(3, |_, run| run.delay_ms = 60_000);
    capacity.start_as(2, |_, run| run.queue = "other".to_owned());
    capacity.pass(Duration::from_secs(5), &[CLIENT]);
    let told = capacity.queue("q");
    assert_eq!((told.delayed, told.queued, told.oldest_since), (3, 0, None));
    let begin = told.now;
    capacity.start_as(2, |_, _| {});
    capacity.pass(Duration::from_secs(5), &[CLIENT]);
    let told = capacity.queue("q");
    assert_eq!((told.delayed, told.queued), (3, 2));
    assert_eq!(told.oldest_since, Some(begin), "of what is queued");
    for _ in 0..10 {
        capacity.pass(Duration::from_secs(5), &[CLIENT]);
    }
    assert_eq!(capacity.queue("q").queued, 5, "they are due");
    capacity.hello(WORKER, &[slots("q", 3)], Vec::new());
    capacity.settle();
    let told = capacity.queue("q");
    assert_eq!((told.running, told.queued, told.slots), (3, 2, 3));
    assert!(told.oldest_since > Some(begin), "the oldest ones are gone");
}

/// A limit that is set while thousands wait admits just what it says, and paused just nothing.
#[test]
fn limits_hold_over_a_backlog() {
    let mut capacity = Capacity::new();
    capacity.start_as(5_000, |_, _| {});
    let rate = RateLimit { count: 10, per_ms: 1_000, burst: 5 };
    capacity.set(
        "q",
        QueueChange { rate: Some(rate), concurrency: Some(30), ..QueueChange::default() },
    );
    capacity.hello(WORKER, &[slots("q", 1_000)], Vec::new());
    capacity.settle();
    assert_eq!(capacity.leased.len(), 5);
    for tenth in 1..=20 {
        capacity.pass(Duration::from_millis(100), &[CLIENT, WORKER]);
        assert_eq!(capacity.leased.len(), 5 + tenth, "one every tenth of a second");
    }
    for _ in 0..50 {
        capacity.pass(Duration::from_millis(100), &[CLIENT, WORKER]);
    }
    assert_eq!(capacity.leased.len(), 30, "at its limit");
    let paused = QueueChange { paused: Some(true), concurrency: Some(0), ..QueueChange::default() };
    capacity.set("q", paused);
    capacity.pass(Duration::from_secs(5), &[CLIENT, WORKER]);
    assert_eq!(capacity.leased.len(), 30, "paused");
}

impl Capacity {
    /// A bit of a run's journal is turned, as a failing disk would.
    fn damage(&mut self, run: RunNo) {
        let content = self.stepped.disk.content();
        let of_run = |key: &Bytes| JournalKey::from_bytes(key).is_some_and(|key| key.run == run);
        let row = content.into_iter().find(|(_, row)| of_run(&row.key));
        let (space, row) = row.expect("it has a journal");
        let mut value = row.value.to_vec();
        value[1] ^= 1;
        let value = Some(Bytes::from(value));
        self.stepped.disk.tamper(space, row.key, value);
    }

    /// The engine opens again, and the clients come back.
    fn restart(&mut self, sessions: &[SessionId]) {
        self.stepped.reopen().unwrap();
        self.hello(CLIENT, &[], Vec::new());
        for session in sessions {
            self.hello(*session, &[slots("q", 2)], Vec::new());
        }
        self.settle();
    }
}

/// A run that nobody can go on with stays leased, since nothing can be written about it, and takes
/// no place of others.
#[test]
fn a_damaged_leased_run_gives_its_place_up() {
    let mut capacity = Capacity::new();
    let one = QueueChange { concurrency: Some(1), ..QueueChange::default() };
    capacity.set("q", one);
    capacity.hello(WORKER, &[slots("q", 2)], Vec::new());
    capacity.start_as(1, |_, _| {});
    capacity.damage(RunNo(1));
    let other = SessionId(3);
    for first in [2, 4] {
        capacity.restart(&[other]);
        capacity.start_as(2, |_, _| {});
        let before = capacity.leased.len();
        assert_eq!(before as u64, first - 1, "its place is kept for its worker");
        for _ in 0..3 {
            capacity.pass(Duration::from_secs(4), &[CLIENT, other]);
        }
        let leased: Vec<RunNo> = capacity.leased[before..].iter().map(|(no, _)| *no).collect();
        assert_eq!(leased, [RunNo(first)], "one at a time, as before");
        assert_eq!(capacity.queue("q").running, 2, "and it is leased still");
        assert_eq!(capacity.complete(other, RunNo(first)), [RunNo(first + 1)]);
        capacity.complete(other, RunNo(first + 1));
    }
    assert_eq!(capacity.runs_in(RunState::Running), 1);
}

#[test]
fn a_damaged_run_that_its_worker_comes_back_with_gives_its_place_up() {
    let mut capacity = Capacity::new();
    let one = QueueChange { concurrency: Some(1), ..QueueChange::default() };
    capacity.set("q", one);
    capacity.hello(WORKER, &[slots("q", 1)], Vec::new());
    capacity.start_as(2, |_, _| {});
    capacity.damage(RunNo(1));
    let (run, token) = capacity.leased[0];
    capacity.restart(&[]);
    let held = Held { run, token, seen: 1 };
    capacity.hello(WORKER, &[slots("q", 1)], vec![held]);
    capacity.settle();
    let revoked = |message: &Message| matches!(message, Message::Revoked(told) if told.run == run);
    assert!(capacity.sent.iter().any(revoked));
    assert_eq!(capacity.leased.last().map(|(no, _)| *no), Some(RunNo(2)));
}
