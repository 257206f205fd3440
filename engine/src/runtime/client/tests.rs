//! The client's calls, against an engine that says what the test tells it to.

use std::time::Duration;

use super::{Client, ClientError, RunError};
use crate::model::entry::{Cancelled, Entry};
use crate::model::failure::Failure;
use crate::model::id::RunId;
use crate::model::payload::Payload;
use crate::model::request::{NoSuchRun, Refusal};
use crate::model::run::{Outcome, OutcomeCancelled, OutcomeCompleted, OutcomeDead};
use crate::model::time::Time;
use crate::numbered::Undecodable;
use crate::runtime::fake_engine::{
    DialAnswer, FakeConnection, FakeEngine, asked, env, settle, started,
};
use crate::wire::message::{
    Answered, Closing, DoneReply, JournalReply, Message, OutcomeReply, RefusedReply, Reply,
    Request, Start, StartAnswer, StartReply,
};
use crate::workflow::{Workflow, secs};

const GREET: Workflow<String, u32> = Workflow::new("greet").version(3).queue("mail");

fn client() -> (FakeEngine, Client) {
    let (engine, dial) = FakeEngine::new();
    (engine, Client::new(dial, env()))
}

async fn start(connection: &mut FakeConnection) -> (u64, Start) {
    match connection.next_call().await {
        (call_number, Request::Start(start)) => (call_number, start),
        other => panic!("not a start: {other:?}"),
    }
}

fn answer(start: &Start) -> StartReply {
    let runs = start
        .runs
        .iter()
        .map(|run| StartAnswer { id: run.id, started: true, refused: None })
        .collect();
    StartReply { runs }
}

#[tokio::test(start_paused = true)]
async fn a_start_says_all_it_was_given() {
    let (mut engine, client) = client();
    let client = client.principal("web");
    let starting = client
        .start(GREET, &"you".to_owned())
        .name("greet-you")
        .delay(secs(3))
        .priority(2)
        .into_future();
    let starting = tokio::spawn(starting);
    let mut connection = engine.accept().await;
    let (call_number, asked) = start(&mut connection).await;
    let run = &asked.runs[0];
    assert_eq!((run.workflow.as_str(), run.version, run.queue.as_str()), ("greet", 3, "mail"));
    assert_eq!((run.delay_ms, run.priority, run.name.as_deref()), (3_000, 2, Some("greet-you")));
    assert_eq!(run.id, RunId::from_name(Default::default(), "greet-you"));
    assert_eq!(connection.hello.principal, "web");
    connection.reply(call_number, answer(&asked));
    connection.reply(call_number, answer(&asked));
    let run = starting.await.unwrap().unwrap();
    assert!(run.started() && run.id() == asked.runs[0].id);
}

// A start that was committed and whose answer was lost must not become a second run.
#[tokio::test(start_paused = true)]
async fn what_has_no_answer_is_sent_again_as_the_same_request() {
    let (mut engine, client) = client();
    let starting = tokio::spawn(client.start(GREET, &"you".to_owned()).into_future());
    let mut connection = engine.accept().await;
    let Message::Call(first) = connection.next().await else { panic!("not a call") };
    drop(connection);
    let mut connection = engine.accept().await;
    let Message::Call(second) = connection.next().await else { panic!("not a call") };
    assert_eq!(first, second);
    assert_ne!(first.request_id, Default::default());
    let (call_number, Request::Start(start)) = asked(second.into()) else { panic!("not a start") };
    connection.reply(call_number, answer(&start));
    starting.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_sent_request_without_an_answer_is_unknown_and_an_unsent_one_is_not() {
    let (mut engine, client) = client();
    let client = client.timeout(secs(3));
    let asking = tokio::spawn({
        let client = client.clone();
        async move { client.resume(RunId(1)).await }
    });
    let mut connection = engine.accept().await;
    let (call_number, Request::Resume(_)) = connection.next_call().await else { panic!() };
    assert_eq!(asking.await.unwrap(), Err(ClientError::TimedOut { timeout: secs(3) }));
    connection.reply(call_number, DoneReply {});
    engine.answer_dials(DialAnswer::Refused);
    drop(connection);
    settle().await;
    assert!(matches!(client.resume(RunId(1)).await, Err(ClientError::NotReachable { .. })));
    engine.answer_dials(DialAnswer::Open);
    let mut connection = engine.accept().await;
    assert!(connection.arrived().await.is_empty(), "what was given up is not sent again");
}

#[tokio::test(start_paused = true)]
async fn connecting_to_nobody_fails_at_once() {
    let (engine, client) = client();
    engine.answer_dials(DialAnswer::Refused);
    let before = tokio::time::Instant::now();
    let error = client.connected().await.unwrap_err();
    assert!(
        matches!(&error, ClientError::NotReachable { address, .. } if address == "the fake engine"),
        "{error}"
    );
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_refused_hello_ends_the_calls() {
    let (mut engine, client) = client();
    let asking = tokio::spawn(async move { client.stats().await });
    engine.hello().await.send(Closing { reason: "not you".to_owned() });
    assert!(
        matches!(asking.await.unwrap(), Err(ClientError::HelloRefused { reason, .. }) if reason == "not you")
    );
}

// An engine that fails closes the door on those who come back, and may have committed what they had
// sent before.
#[tokio::test(start_paused = true)]
async fn a_refused_hello_does_not_say_that_a_request_sent_before_took_no_effect() {
    let (mut engine, client) = client();
    let client = client.timeout(secs(3));
    let cancelling = tokio::spawn({
        let client = client.clone();
        async move { client.cancel(RunId(1), "no more").await }
    });
    let waiting = tokio::spawn(async move { client.outcome(RunId(1), true).await });
    let mut connection = engine.accept().await;
    assert_eq!(connection.arrived().await.len(), 2);
    drop(connection);
    let reason = "no room".to_owned();
    engine.hello().await.send(Closing { reason });
    assert!(matches!(waiting.await.unwrap(), Err(ClientError::HelloRefused { .. })));
    assert_eq!(cancelling.await.unwrap(), Err(ClientError::TimedOut { timeout: secs(3) }));
}

#[tokio::test(start_paused = true)]
async fn many_wait_for_outcomes_on_one_connection_for_longer_than_a_call_may_take() {
    let (mut engine, client) = client();
    let waiting: Vec<_> = (0..600u128)
        .map(|id| {
            let run = client.run::<u32>(RunId(id));
            tokio::spawn(async move { run.outcome().await })
        })
        .collect();
    let mut connection = engine.accept().await;
    let arrived = connection.arrived().await;
    assert_eq!(arrived.len(), 600);
    connection.beat_for(secs(100)).await;
    for message in arrived.into_iter().rev() {
        let (call_number, Request::AskOutcome(ask)) = asked(message) else { panic!() };
        assert!(ask.wait);
        let outcome: Outcome = match ask.id.0 {
            0 => OutcomeCancelled {}.into(),
            1 => OutcomeDead { failure: Failure::terminal("no") }.into(),
            2 => OutcomeCompleted { output: Payload::of("word").unwrap() }.into(),
            id => OutcomeCompleted { output: Payload::of(&(id as u32)).unwrap() }.into(),
        };
        connection.reply(call_number, OutcomeReply { outcome });
    }
    for (id, waiting) in waiting.into_iter().enumerate() {
        match (id, waiting.await.unwrap()) {
            (0, Err(RunError::Cancelled)) | (2, Err(RunError::Payload(_))) => {}
            (1, Err(RunError::Failed(failure))) => assert_eq!(failure.message, "no"),
            (id, outcome) => assert_eq!(outcome, Ok(id as u32)),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_as_it_is() {
    let (mut engine, client) = client();
    let asking = tokio::spawn(async move { client.find::<u32>("order-17").status().await });
    let mut connection = engine.accept().await;
    let (call_number, Request::AskStatus(ask)) = connection.next_call().await else { panic!() };
    let reason = Refusal::from(NoSuchRun { id: ask.id });
    connection.reply(call_number, RefusedReply { reason: reason.clone() });
    assert_eq!(asking.await.unwrap(), Err(ClientError::Refused(reason)));
}

// An answer of a later version, or with a value of one, concerns its call alone.
#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_readable_fails_its_call_and_no_other() {
    let (mut engine, client) = client();
    let both = tokio::spawn(async move {
        let (first, second) = (client.status(RunId(1)), client.cancel(RunId(2), "enough"));
        tokio::join!(first, second)
    });
    let mut connection = engine.accept().await;
    let (first, second) = (connection.next_call().await.0, connection.next_call().await.0);
    let why = Undecodable::UnknownKind { what: "Answer", kind: 250 };
    let answer = Answered::Unreadable { bytes: vec![250, 0x90], why: why.clone() };
    connection.send(Reply { call_number: first, answer });
    connection.reply(second, DoneReply {});
    let both = both.await.unwrap();
    assert_eq!(both, (Err(ClientError::UnreadableAnswer { cause: why }), Ok(())));
}

#[tokio::test(start_paused = true)]
async fn connections_that_end_at_once_are_dialled_with_a_backoff() {
    let (mut engine, client) = client();
    let asking = tokio::spawn(async move { client.status(RunId(1)).await });
    let mut dials = 0;
    let until = tokio::time::Instant::now() + secs(20);
    while tokio::time::Instant::now() < until {
        tokio::select! {
            biased;
            connection = engine.accept() => drop(connection),
            () = tokio::time::sleep_until(until) => break,
        }
        dials += 1;
    }
    assert!(
        (100..=210).contains(&dials),
        "{dials} dials in 20 s: at once, then 50 to 200 ms later"
    );
    asking.abort();
}

#[tokio::test(start_paused = true)]
async fn a_principal_that_no_engine_takes_is_refused_before_anything_is_dialled() {
    let (mut engine, client) = client();
    for name in ["p".repeat(129), "p\n".to_owned()] {
        let client = client.clone().principal(name);
        let refused = client.status(RunId(1)).await.unwrap_err();
        assert!(
            matches!(&refused, ClientError::Refused(Refusal::BadName(bad)) if bad.what == "principal")
        );
        assert_eq!(client.connected().await, Err(refused));
    }
    settle().await;
    assert!(!engine.is_dialled());
}

#[tokio::test(start_paused = true)]
async fn a_journal_is_read_page_by_page() {
    let (mut engine, client) = client();
    let asking = tokio::spawn(async move { client.journal(RunId(1)).await });
    let mut connection = engine.accept().await;
    let journal: Vec<Entry> =
        vec![started("greet"), Cancelled { at: Time(2) }.into(), Cancelled { at: Time(3) }.into()];
    for _ in 0..2 {
        let (call_number, Request::AskJournal(ask)) = connection.next_call().await else {
            panic!()
        };
        let entries =
            journal[ask.from as usize..].iter().take(2).map(|e| e.encode().into()).collect();
        connection.reply(call_number, JournalReply { from: ask.from, count: 3, entries });
    }
    assert_eq!(asking.await.unwrap(), Ok(journal));
}

#[tokio::test(start_paused = true)]
async fn a_bulk_start_goes_in_frames_of_bounded_size() {
    let (mut engine, client) = client();
    let runs: Vec<_> = (0..25_000).map(|n| (Some(format!("n-{n}")), n.to_string())).collect();
    let starting = tokio::spawn(async move { client.start_many(GREET, runs).await });
    let mut connection = engine.accept().await;
    let (mut frames, mut seen) = (0, 0);
    while seen < 25_000 {
        let (call_number, asked) = start(&mut connection).await;
        (frames, seen) = (frames + 1, seen + asked.runs.len());
        assert!(asked.runs.len() <= 10_000);
        connection.reply(call_number, answer(&asked));
    }
    let started = starting.await.unwrap().unwrap();
    assert_eq!((frames, started.len()), (3, 25_000));
    assert_eq!(started[17].as_ref().unwrap().id(), RunId::from_name(Default::default(), "n-17"));
}

#[tokio::test(start_paused = true)]
async fn the_connection_closes_with_the_last_clone() {
    let (mut engine, client) = client();
    let connecting = tokio::spawn({
        let client = client.clone();
        async move { client.connected().await }
    });
    let mut connection = engine.accept().await;
    connecting.await.unwrap().unwrap();
    assert!(connection.arrived().await.is_empty());
    drop(client);
    assert!(matches!(connection.next().await, Message::Closing(_)));
}
