//! The worker's protocol (K1 to K7), against an engine that says what the test tells it to.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;

use super::{Worker, WorkerError, WorkerHandle};
use crate::model::entry::{Entry, SourceLocation, StepCompleted, TimerArmed, TimerFired};
use crate::model::failure::Failure;
use crate::model::id::{CommandIndex, RunId, RunNo, Token};
use crate::model::payload::Payload;
use crate::model::request::{HasEnded, Refusal};
use crate::model::run::RunState;
use crate::model::time::Time;
use crate::runtime::fake_engine::{
    DialAnswer, FakeConnection, FakeEngine, env, settle, started, stored, token,
};
use crate::runtime::session::SessionError;
use crate::wire::message::{
    Appended, Closing, Heartbeat, Journal, LeaseContinued, Message, Requeue, Revoked,
    StepCompletedReport, TurnEnded,
};
use crate::workflow::{Ctx, Workflow, secs};

const WORK: Workflow<(), u32> = Workflow::new("work");
const RUN: RunNo = RunNo(1);

/// What the steps of the tests do: they begin, wait until they may end, and are dropped.
#[derive(Clone, Default)]
struct Bodies {
    begun: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
    go: Arc<Notify>,
}

struct Told(Arc<AtomicUsize>);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Bodies {
    async fn run(self) -> Result<u32, Failure> {
        let _told = Told(self.dropped.clone());
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.go.notified().await;
        Ok(7)
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    fn dropped(&self) -> usize {
        self.dropped.load(Ordering::SeqCst)
    }
}

/// A worker with one workflow of two steps.
fn worker() -> (FakeEngine, WorkerHandle, Bodies) {
    let (engine, dial) = FakeEngine::new();
    let bodies = Bodies::default();
    let captured = bodies.clone();
    let function = move |ctx: Ctx, (): ()| {
        let bodies = captured.clone();
        async move {
            let one = ctx.step("one", |_| bodies.clone().run()).await?;
            let two = ctx.step("two", |_| bodies.clone().run()).await?;
            Ok(one + two)
        }
    };
    let handle = Worker::new(dial, env()).register(WORK, function).start().unwrap();
    (engine, handle, bodies)
}

fn completed(number: u32) -> Entry {
    StepCompleted {
        at: Time(1_000_500),
        number: CommandIndex(number),
        location: SourceLocation {
            name: if number == 0 { "one" } else { "two" }.to_owned(),
            ..SourceLocation::default()
        },
        attempt: 1,
        output: Payload::of(&7u32).unwrap(),
    }
    .into()
}

fn appended(lease: u64, index: u32, entry: &Entry) -> Appended {
    Appended { run: RUN, token: token(lease), index, entry: entry.encode().into() }
}

fn report(message: Message) -> (u32, Token) {
    match message {
        Message::StepCompletedReport(StepCompletedReport { number, token, .. }) => {
            (number.0, token)
        }
        other => panic!("not a step's outcome: {other:?}"),
    }
}

/// A connected worker whose first step runs.
async fn running() -> (FakeEngine, FakeConnection, WorkerHandle, Bodies) {
    let (mut engine, handle, bodies) = worker();
    let connection = engine.accept_worker().await;
    connection.dispatch(1, &[started("work")]);
    settle().await;
    assert_eq!(bodies.begun(), 1);
    (engine, connection, handle, bodies)
}

#[tokio::test(start_paused = true)]
async fn a_run_goes_from_dispatch_to_the_end_of_its_turn() {
    let (_engine, mut connection, handle, bodies) = running().await;
    assert_eq!(connection.register().queues.len(), 1);
    assert!(connection.register().held.is_empty());
    for number in 0..2 {
        bodies.go.notify_one();
        assert_eq!(report(connection.next().await), (number, token(1)));
        connection.send(appended(1, number + 1, &completed(number)));
        settle().await;
    }
    let Message::TurnCompleted(done) = connection.next().await else { panic!() };
    assert_eq!(done.output.to::<u32>().unwrap(), 14);
    connection.send(TurnEnded { run: RUN, token: token(1) });
    settle().await;
    assert_eq!((handle.stats().turns, handle.stats().attempts, handle.stats().steps), (1, 2, 2));
}

// K6: the network may repeat any frame.
#[tokio::test(start_paused = true)]
async fn copies_of_frames_change_nothing() {
    let (_engine, mut connection, handle, bodies) = running().await;
    connection.dispatch(1, &[started("work")]);
    settle().await;
    assert_eq!(bodies.begun(), 1);
    for number in 0..2 {
        bodies.go.notify_one();
        connection.next().await;
        for _ in 0..3 {
            connection.send(appended(1, number + 1, &completed(number)));
        }
        settle().await;
    }
    connection.next().await;
    connection.send(TurnEnded { run: RUN, token: token(1) });
    connection.send(TurnEnded { run: RUN, token: token(1) });
    connection.dispatch(1, &[started("work")]);
    connection.send(appended(1, 1, &completed(0)));
    connection.send(appended(9, 1, &completed(0)));
    assert!(connection.arrived().await.is_empty());
    assert_eq!((handle.stats().turns, bodies.begun()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn heartbeats_keep_their_pace() {
    let (mut engine, _handle, _bodies) = worker();
    let mut connection = engine.accept_worker().await;
    let before = tokio::time::Instant::now();
    for beat in 1..=20u64 {
        connection.send(Heartbeat { beat });
        let Some(Message::Heartbeat(heard)) = connection.link.receiver.recv().await else {
            panic!()
        };
        assert_eq!(heard.beat, beat);
    }
    let passed = before.elapsed().as_millis();
    assert!((40_000..40_100).contains(&passed), "{passed} ms");
}

// K3: only the connection broke; the step is still running and the lease is still ours.
#[tokio::test(start_paused = true)]
async fn a_step_outlives_a_broken_connection_and_reports_under_the_next_token() {
    let (mut engine, connection, handle, bodies) = running().await;
    drop(connection);
    settle().await;
    assert!(engine.is_dialled(), "the first new dial is made at once");
    let mut connection = engine.accept_worker().await;
    let held = &connection.register().held;
    assert_eq!((held.len(), held[0].run, held[0].token, held[0].seen), (1, RUN, token(1), 1));
    bodies.go.notify_one();
    assert!(
        connection.arrived().await.is_empty(),
        "nothing is reported under a token that no longer counts"
    );
    connection.send(LeaseContinued { run: RUN, old: token(1), token: token(2), count: 1 });
    connection.send(LeaseContinued { run: RUN, old: token(1), token: token(2), count: 1 });
    assert_eq!(report(connection.next().await), (0, token(2)));
    assert!(connection.arrived().await.is_empty());
    assert_eq!((bodies.begun(), bodies.dropped(), handle.stats().dropped), (1, 1, 0));
}

// K4: it was committed, its acknowledgement was lost; asking again would only be counted as
// repeated.
#[tokio::test(start_paused = true)]
async fn a_report_that_the_journal_answers_is_not_sent_again() {
    let (mut engine, mut connection, _handle, bodies) = running().await;
    bodies.go.notify_one();
    connection.next().await;
    drop(connection);
    let mut connection = engine.accept_worker().await;
    connection.send(LeaseContinued { run: RUN, old: token(1), token: token(2), count: 2 });
    assert!(connection.arrived().await.is_empty());
    let journal = stored(&[started("work"), completed(0)]);
    connection.send(Journal { run: RUN, token: token(2), from: 1, entries: journal[1..].to_vec() });
    assert!(connection.arrived().await.is_empty());
    assert_eq!(bodies.begun(), 2, "the next step runs");
    bodies.go.notify_one();
    assert_eq!(report(connection.next().await), (1, token(2)));
}

#[tokio::test(start_paused = true)]
async fn a_report_that_got_lost_is_sent_again() {
    let (mut engine, mut connection, _handle, bodies) = running().await;
    bodies.go.notify_one();
    connection.next().await;
    drop(connection);
    let mut connection = engine.accept_worker().await;
    connection.send(LeaseContinued { run: RUN, old: token(1), token: token(2), count: 1 });
    assert_eq!(report(connection.next().await), (0, token(2)));
}

#[tokio::test(start_paused = true)]
async fn a_revoked_turn_is_dropped() {
    let (mut engine, connection, handle, bodies) = running().await;
    drop(connection);
    let mut connection = engine.accept_worker().await;
    let reason = Refusal::from(HasEnded { id: RunId(1), state: RunState::Cancelled });
    connection.send(Revoked { run: RUN, token: token(9), reason: reason.clone() });
    settle().await;
    assert_eq!(bodies.dropped(), 0, "another token");
    connection.send(Revoked { run: RUN, token: token(1), reason });
    settle().await;
    assert_eq!((bodies.dropped(), handle.stats().revoked), (1, 1));
    assert!(connection.arrived().await.is_empty());
}

// K3: an engine that is away for less than the timeout finds its worker at work.
#[tokio::test(start_paused = true)]
async fn turns_are_held_for_one_time_out_after_a_break() {
    let (mut engine, connection, handle, bodies) = running().await;
    connection.beat_for(secs(5)).await;
    engine.answer_dials(DialAnswer::Refused);
    drop(connection);
    tokio::time::sleep(Duration::from_millis(9_900)).await;
    assert_eq!(bodies.dropped(), 0);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!((bodies.dropped(), handle.stats().dropped), (1, 1));
    engine.answer_dials(DialAnswer::Open);
    assert!(engine.accept_worker().await.register().held.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_hangs_when_dialled_is_given_up_in_time() {
    let (mut engine, connection, _handle, bodies) = running().await;
    engine.answer_dials(DialAnswer::Hangs);
    drop(connection);
    tokio::time::sleep(Duration::from_millis(9_900)).await;
    assert_eq!(bodies.dropped(), 0);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(bodies.dropped(), 1);
    engine.answer_dials(DialAnswer::Open);
    engine.accept_worker().await;
}

// K3: after a silence nobody knows since when the engine has given us up.
#[tokio::test(start_paused = true)]
async fn turns_are_dropped_after_one_time_out_of_silence() {
    let (engine, _connection, _handle, bodies) = running().await;
    engine.answer_dials(DialAnswer::Refused);
    tokio::time::sleep(Duration::from_millis(9_900)).await;
    assert_eq!(bodies.dropped(), 0);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(bodies.dropped(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_break_after_a_silence_prolongs_nothing() {
    let (engine, connection, _handle, bodies) = running().await;
    engine.answer_dials(DialAnswer::Refused);
    tokio::time::sleep(secs(8)).await;
    drop(connection);
    tokio::time::sleep(Duration::from_millis(1_900)).await;
    assert_eq!(bodies.dropped(), 0);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(bodies.dropped(), 1);
}

// K2
#[tokio::test(start_paused = true)]
async fn a_closed_gate_opens_when_the_engine_is_heard_again() {
    let (engine, dial) = FakeEngine::new();
    let order = Arc::new(Mutex::new(Vec::new()));
    let to = order.clone();
    let release = Arc::new(Notify::new());
    let released = release.clone();
    let function = move |ctx: Ctx, (): ()| {
        let (order, released) = (to.clone(), released.clone());
        async move {
            // A foreign wait, to start a body at a time of the test's choosing.
            released.notified().await;
            ctx.step("late", |_| {
                order.lock().unwrap().push("begun");
                std::future::ready(Ok::<u32, Failure>(1))
            })
            .await
        }
    };
    let mut engine = engine;
    let _handle = Worker::new(dial, env()).register(WORK, function).start().unwrap();
    let connection = engine.accept_worker().await;
    connection.dispatch(1, &[started("work")]);
    tokio::time::sleep(Duration::from_millis(6_700)).await;
    release.notify_one();
    settle().await;
    assert!(
        order.lock().unwrap().is_empty(),
        "the engine was not heard for two thirds of the timeout"
    );
    connection.send(Heartbeat { beat: 1 });
    settle().await;
    assert_eq!(*order.lock().unwrap(), ["begun"]);
}

#[tokio::test(start_paused = true)]
async fn a_continued_lease_of_a_dropped_turn_is_requeued() {
    let (mut engine, connection, _handle, _bodies) = running().await;
    connection.beat_for(secs(1)).await;
    engine.answer_dials(DialAnswer::Refused);
    drop(connection);
    tokio::time::sleep(secs(11)).await;
    engine.answer_dials(DialAnswer::Open);
    let mut connection = engine.accept_worker().await;
    connection.send(LeaseContinued { run: RUN, old: token(1), token: token(2), count: 1 });
    assert!(
        matches!(connection.next().await, Message::Requeue(Requeue { token: t, .. }) if t == token(2))
    );
}

#[tokio::test(start_paused = true)]
async fn a_held_turn_that_the_engine_does_not_mention_is_dropped() {
    let (mut engine, connection, _handle, bodies) = running().await;
    drop(connection);
    let connection = engine.accept_worker().await;
    connection.beat_for(Duration::from_millis(9_900)).await;
    assert_eq!(bodies.dropped(), 0);
    connection.beat_for(Duration::from_millis(200)).await;
    assert_eq!(bodies.dropped(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_run_of_an_unregistered_workflow_is_requeued() {
    let (mut engine, _handle, _bodies) = worker();
    let mut connection = engine.accept_worker().await;
    connection.dispatch(1, &[started("other")]);
    assert!(matches!(connection.next().await, Message::Requeue(_)));
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_the_running_step_end_and_starts_no_other() {
    let (_engine, mut connection, handle, bodies) = running().await;
    let draining = tokio::spawn(async move { handle.drain().await });
    assert!(matches!(connection.next().await, Message::Offer(offer) if offer.queues.is_empty()));
    connection.beat_for(secs(3)).await;
    connection.dispatch_other(5);
    assert!(matches!(connection.next().await, Message::Requeue(g) if g.run == RunNo(2)));
    bodies.go.notify_one();
    assert_eq!(report(connection.next().await), (0, token(1)));
    assert!(connection.arrived().await.is_empty(), "not requeued before the report is answered");
    connection.send(appended(1, 1, &completed(0)));
    assert!(matches!(connection.next().await, Message::Requeue(g) if g.token == token(1)));
    assert_eq!((bodies.begun(), bodies.dropped()), (1, 1));
    assert!(matches!(connection.next().await, Message::Closing(c) if c.reason == "drained"));
    drop(connection);
    draining.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drain_requeues_runs_that_only_wait() {
    let (mut engine, dial) = FakeEngine::new();
    let function = |ctx: Ctx, (): ()| async move {
        ctx.sleep(Duration::from_millis(200)).await.map(|()| 1u32)
    };
    let handle = Worker::new(dial, env()).register(WORK, function).start().unwrap();
    let mut connection = engine.accept_worker().await;
    connection.dispatch(1, &[started("work")]);
    let Message::TimerRequested(asked) = connection.next().await else { panic!() };
    let (at, due) = (Time(1_000_000), Time(1_000_200));
    connection.send(appended(
        1,
        1,
        &TimerArmed { at, number: CommandIndex(0), location: asked.location, due }.into(),
    ));
    assert!(connection.arrived().await.is_empty());
    let draining = tokio::spawn(async move { handle.drain().await });
    assert!(matches!(connection.next().await, Message::Offer(_)));
    assert!(matches!(connection.next().await, Message::Requeue(_)));
    connection.send(appended(1, 2, &TimerFired { at: due, number: CommandIndex(0) }.into()));
    assert!(matches!(connection.next().await, Message::Closing(_)));
    drop(connection);
    draining.await.unwrap();
}

// K7
#[tokio::test(start_paused = true)]
async fn a_run_that_outlasts_the_grace_is_dropped_before_it_is_requeued() {
    let (_engine, mut connection, handle, bodies) = running().await;
    let before = tokio::time::Instant::now();
    let draining = tokio::spawn(async move { handle.drain().await });
    connection.next().await;
    connection.beat_for(secs(9)).await;
    assert_eq!(bodies.dropped(), 0);
    assert!(matches!(connection.next().await, Message::Requeue(_)));
    assert_eq!(bodies.dropped(), 1);
    assert_eq!(before.elapsed().as_secs(), 10);
    assert!(matches!(connection.next().await, Message::Closing(c) if c.reason == "drained"));
    drop(connection);
    draining.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drain_without_a_connection_ends_too() {
    let (engine, connection, handle, bodies) = running().await;
    engine.answer_dials(DialAnswer::Refused);
    drop(connection);
    let before = tokio::time::Instant::now();
    handle.drain().await;
    assert_eq!(bodies.dropped(), 1);
    assert!(before.elapsed() < secs(12));
}

#[tokio::test(start_paused = true)]
async fn stop_drops_and_requeues_at_once() {
    let (_engine, mut connection, handle, bodies) = running().await;
    handle.stop();
    assert!(matches!(connection.next().await, Message::Offer(_)));
    assert!(matches!(connection.next().await, Message::Requeue(_)));
    assert_eq!(bodies.dropped(), 1);
    assert!(matches!(connection.next().await, Message::Closing(c) if c.reason == "stopped"));
    drop(connection);
    handle.finished().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_hello_is_told_and_tried_again() {
    let (mut engine, handle, _bodies) = worker();
    engine.hello().await.send(Closing { reason: "protocol 9 is spoken here".to_owned() });
    let Err(SessionError::HelloRefused { reason, .. }) = handle.connected().await else { panic!() };
    assert_eq!(reason, "protocol 9 is spoken here");
    engine.accept_worker().await;
    settle().await;
    assert_eq!(handle.connected().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_can_do_nothing_does_not_start() {
    let build = |worker: Worker| worker.register(WORK, |_, ()| async { Ok(1) });
    let (_engine, dial) = FakeEngine::new();
    let new = || Worker::new(dial.clone(), env());
    assert!(matches!(new().start(), Err(WorkerError::NothingRegistered)));
    assert!(matches!(build(build(new())).start(), Err(WorkerError::RegisteredTwice { .. })));
    assert!(matches!(
        build(new()).queue("", 1).start(),
        Err(WorkerError::BadName(bad)) if bad.what == "queue"
    ));
    let tagged = (0..9).fold(build(new()), |worker, n| worker.tag(format!("tag {n}")));
    assert!(matches!(tagged.start(), Err(WorkerError::TooManyTags { tags: 9 })));
    assert!(build(new()).principal("").start().is_ok());
}

impl FakeConnection {
    /// Dispatches run 2.
    fn dispatch_other(&self, lease: u64) {
        let entries = stored(&[started("work")]);
        let token = token(lease);
        self.send(crate::wire::message::Dispatch {
            run: RunNo(2),
            token,
            id: RunId(1),
            count: 1,
            entries,
            now: Time(0),
        });
    }
}
