//! How runs become dead letters, and what is done about them. No user code is on the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use stepwell::model::dead::{AuditAction, DeadFilter, DeadLetter};
use stepwell::model::entry::Entry;
use stepwell::runtime::client::dead::BulkAction;
use stepwell::wire::message::Message;
use stepwell::{
    Client, ClientError, Ctx, Engine, EngineOptions, Failure, Outcome, Payload, Refusal, Retry,
    RunId, RunState, WorkerHandle, Workflow, millis,
};
use tempfile::TempDir;

use crate::host::{PATIENCE, until_stats};
use crate::peer::{Peer, hello, register};

const FAILS: Workflow<String, u32> = Workflow::new("fails");
const PANICS: Workflow<u32, u32> = Workflow::new("panics");

/// An engine and a worker in this process. The worker counts the bodies of first steps, and of
/// second ones.
struct Shop {
    engine: Engine,
    worker: WorkerHandle,
    first: Arc<AtomicU32>,
    second: Arc<AtomicU32>,
    _directory: TempDir,
}

impl Shop {
    async fn open() -> Self {
        Self::open_with(EngineOptions::default()).await
    }

    /// One that does not wait long for somebody who knows a workflow.
    async fn open_impatient() -> Self {
        let after = Duration::from_millis(400);
        Self::open_with(EngineOptions::default().unregistered_workflow_after(after)).await
    }

    async fn open_with(options: EngineOptions) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = options.disconnect_grace(Duration::from_millis(10)).embedded(false);
        let engine = options.open(directory.path().join("data")).await.unwrap();
        let (first, second) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let counts = (first.clone(), second.clone());
        let fails = move |ctx: Ctx, how: String| {
            let (first, second) = counts.clone();
            async move {
                ctx.step("first", |_| {
                    first.fetch_add(1, Ordering::SeqCst);
                    async { Ok::<_, Failure>(1u32) }
                })
                .await?;
                let step = ctx.step("second", |_| {
                    let tries = second.fetch_add(1, Ordering::SeqCst);
                    let how = how.clone();
                    async move {
                        match how.as_str() {
                            "terminal" => Err(Failure::terminal("never").class("declined")),
                            "retryable" => Err(Failure::retryable("not yet").class("downstream")),
                            "panic" => panic!("in a step, try {tries}"),
                            _ => Ok(2u32),
                        }
                    }
                });
                let charged = step.retry(Retry::fixed(millis(1)).retries(2)).await?;
                Ok(charged)
            }
        };
        let panics = |_: Ctx, input: u32| async move {
            assert!(input > 100, "the function panics over {input}");
            Ok(input)
        };
        let worker = engine.worker().build("b17");
        let worker = worker.register(FAILS, fails).register(PANICS, panics);
        let worker = worker.queue("default", 4).start().unwrap();
        Self { engine, worker, first, second, _directory: directory }
    }

    fn client(&self) -> Client {
        self.engine.client().principal("ada")
    }

    /// Starts a run of any workflow with any input, and waits for its death.
    async fn dies(&self, workflow: &str, name: &str, input: Payload) -> (RunId, Failure) {
        let run = self.client().start_raw(workflow, input).name(name).await.unwrap();
        let outcome = self.client().outcome(run.id(), true).await.unwrap();
        match outcome {
            Outcome::OutcomeDead(dead) => (run.id(), dead.failure),
            other => panic!("{name} is not dead: {other:?}"),
        }
    }

    async fn attempts(&self, id: RunId) -> usize {
        let journal = self.client().journal(id).await.unwrap();
        let failed = |e: &&Entry| matches!(e, Entry::AttemptFailed(_) | Entry::StepFailed(_));
        journal.iter().filter(failed).count()
    }

    async fn dead(&self, filter: &DeadFilter) -> Vec<DeadLetter> {
        let (letters, next) = self.client().dead_letters(filter, None, 100).await.unwrap();
        assert_eq!(next, None);
        letters
    }

    async fn close(self) {
        self.worker.drain().await;
        self.engine.close().await;
    }
}

fn text(how: &str) -> Payload {
    Payload::of(how).unwrap()
}

// A13: what is retryable is retried, what is terminal is a dead letter on attempt 1.
// A48: retries are bounded; a poison job leaves the queue.
#[tokio::test]
async fn a_terminal_failure_is_dead_on_attempt_one_and_a_retryable_one_after_its_retries() {
    let shop = Shop::open().await;
    let (terminal, failure) = shop.dies("fails", "terminal", text("terminal")).await;
    assert_eq!((failure.class.as_str(), shop.attempts(terminal).await), ("declined", 1));
    let (retried, failure) = shop.dies("fails", "retried", text("retryable")).await;
    assert_eq!((failure.class.as_str(), shop.attempts(retried).await), ("downstream", 3));
    let stats = shop.client().stats().await.unwrap();
    assert_eq!((stats.runs_in(RunState::Dead), stats.runs_in(RunState::Queued)), (2, 0));
    shop.close().await;
}

// A15: a dead letter keeps its input, every attempt's error and time, its worker and its build.
#[tokio::test]
async fn a_dead_letter_keeps_all_that_is_asked_of_it() {
    let shop = Shop::open().await;
    let (id, _) = shop.dies("fails", "kept", text("retryable")).await;
    let worker = shop.worker.process();
    let journal = shop.client().journal(id).await.unwrap();
    let Some(Entry::Started(started)) = journal.first() else {
        panic!("no start");
    };
    assert_eq!(started.input.to::<String>().unwrap(), "retryable");
    let mut failed = 0;
    for entry in &journal {
        let (failure, process, build) = match entry {
            Entry::AttemptFailed(e) => (&e.failure, e.process, &e.build),
            Entry::StepFailed(e) => (&e.failure, e.process, &e.build),
            Entry::Died(e) => (&e.failure, e.process, &e.build),
            _ => continue,
        };
        failed += 1;
        assert!(entry.at() >= started.at);
        let told = (failure.message.as_str(), process, build.as_str());
        assert_eq!(told, ("not yet", worker, "b17"));
    }
    assert_eq!(failed, 4);
    let letters = shop.dead(&DeadFilter::default()).await;
    let letter = letters.first().unwrap();
    assert_eq!((letter.process, letter.build.as_str()), (Some(worker), "b17"));
    assert_eq!((letter.class.as_str(), letter.queue.as_str()), ("downstream", "default"));
    shop.close().await;
}

// A16: panic, bad input, unregistered workflow, worker killed: all land there, and no user code is
// on the way.
#[tokio::test]
async fn a_panic_a_bad_input_and_an_unregistered_workflow_are_dead_letters() {
    let shop = Shop::open_impatient().await;
    shop.worker.connected().await.unwrap();
    let (_, failure) = shop.dies("panics", "function", Payload::of(&7).unwrap()).await;
    assert_eq!(failure.class, "panic");
    assert!(failure.message.contains("panics over 7"), "{failure}");
    let (_, failure) = shop.dies("fails", "step", text("panic")).await;
    assert_eq!(failure.class, "panic");
    let (_, failure) = shop.dies("fails", "shape", Payload::of(&[1, 2]).unwrap()).await;
    assert_eq!(failure.class, "input");
    let rubbish = Payload(vec![1, 0xc1].into());
    let (_, failure) = shop.dies("fails", "rubbish", rubbish).await;
    assert_eq!(failure.class, "input");
    let (_, failure) = shop.dies("nobody-knows", "type", text("x")).await;
    assert_eq!(failure.class, "unknown workflow");
    assert_eq!(shop.dead(&DeadFilter::default()).await.len(), 5);
    let letters = shop.dead(&DeadFilter::default().class("input")).await;
    let names: Vec<_> = letters.iter().map(|letter| letter.name.as_deref().unwrap()).collect();
    assert_eq!(names, ["rubbish", "shape"]);
    shop.close().await;
}

// A16, A48: a run that kills its worker every time.
#[tokio::test]
async fn a_run_that_kills_its_workers_is_a_dead_letter() {
    let shop = Shop::open().await;
    let address = shop.engine.listen("127.0.0.1:0").await.unwrap();
    let run = shop.client().start_raw("killer", text("x")).name("killer").await.unwrap();
    for number in 1..=3 {
        let offer = register("killer", 1);
        let mut victim = Peer::registered(&address, hello(number), offer).await;
        loop {
            match victim.next().await {
                Some(Message::Dispatch(dispatched)) if dispatched.id == run.id() => break,
                Some(_) => {}
                None => panic!("no run for victim {number}"),
            }
        }
        // The process is gone, without a word.
        drop(victim);
    }
    let Outcome::OutcomeDead(dead) = shop.client().outcome(run.id(), true).await.unwrap() else {
        panic!("it is dead");
    };
    assert_eq!(dead.failure.class, "worker lost");
    shop.close().await;
}

// A49: edited and redriven, under the recorded request of an operator; finished steps are not run
// again.
#[tokio::test]
async fn a_dead_letter_is_edited_redriven_and_audited() {
    let shop = Shop::open().await;
    let client = shop.client();
    let (id, _) = shop.dies("fails", "edited", text("terminal")).await;
    let request_id = client.new_request_id();
    client.edit_input(id, text("well")).await.unwrap();
    client.redrive_as(request_id, id).await.unwrap();
    let Outcome::OutcomeCompleted(_) = client.outcome(id, true).await.unwrap() else {
        panic!("it completes with the other input");
    };
    let bodies = (shop.first.load(Ordering::SeqCst), shop.second.load(Ordering::SeqCst));
    assert_eq!(bodies, (1, 2));
    // The same request again, after the run has ended another way: it has acted.
    client.redrive_as(request_id, id).await.unwrap();
    let refused = client.redrive(id).await;
    assert!(matches!(refused, Err(ClientError::Refused(Refusal::NotDead(_)))), "{refused:?}");
    let (acts, _) = client.audit(Some(id), None, 10).await.unwrap();
    let acts: Vec<_> =
        acts.iter().map(|act| (act.action, act.principal.as_str(), act.run)).collect();
    let act = |kind| (kind, "ada", Some(id));
    assert_eq!(acts, [act(AuditAction::Redrive), act(AuditAction::Edit)]);
    shop.close().await;
}

// A49: many by filter, at a rate, and discarded.
#[tokio::test]
async fn many_dead_letters_are_redriven_and_discarded_by_filter() {
    let shop = Shop::open().await;
    let client = shop.client();
    for n in 0..7 {
        shop.dies("fails", &format!("many-{n}"), text("terminal")).await;
    }
    shop.dies("panics", "other", Payload::of(&7).unwrap()).await;
    let filter = DeadFilter::default().workflow("fails");
    let mut looked = Vec::new();
    let redriven = client.dead_many(&filter, &BulkAction::Redrive, Some(1_000), |one| {
        assert_eq!(one.answer, Ok(()));
        looked.push(one.letter.no);
    });
    redriven.await.unwrap();
    assert_eq!(looked.len(), 7);
    assert!(looked.is_sorted_by(|a, b| a > b), "newest first: {looked:?}");
    // They die again, of the same: none of them is redriven twice in one call.
    until_stats(&client, "all are dead again", |stats| stats.runs_in(RunState::Dead) == 8).await;
    // Pages of two are the list.
    let (mut behind, mut paged) = (None, Vec::new());
    loop {
        let (page, next) = client.dead_letters(&filter, behind, 2).await.unwrap();
        paged.extend(page.into_iter().map(|letter| (letter.died_at, letter.no, letter.redriven)));
        behind = next;
        if behind.is_none() {
            break;
        }
    }
    assert_eq!(paged.len(), 7);
    assert!(paged.is_sorted_by(|a, b| (a.0, a.1) > (b.0, b.1)), "{paged:?}");
    assert!(paged.iter().all(|(.., redriven)| *redriven == 1));
    let action = BulkAction::Discard("of no use".to_owned());
    client.dead_many(&filter, &action, None, |_| {}).await.unwrap();
    let left = shop.dead(&DeadFilter::default()).await;
    assert_eq!(
        left.iter().map(|letter| letter.name.as_deref()).collect::<Vec<_>>(),
        [Some("other")]
    );
    let stats = client.stats().await.unwrap();
    assert_eq!((stats.runs_in(RunState::Discarded), stats.runs_in(RunState::Dead)), (7, 1));
    shop.close().await;
}

// An operator's audit entries survive the engine, and so does what they did.
#[tokio::test]
async fn what_was_acknowledged_of_a_dead_letter_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let engine = Engine::open(&data).await.unwrap();
    let worker = engine.worker();
    let worker = worker.register(PANICS, |_: Ctx, input: u32| async move {
        assert!(input > 100, "over {input}");
        Ok(input)
    });
    let worker = worker.start().unwrap();
    let client = engine.client();
    let (one, two) = (
        client.start(PANICS, &1).name("one").await.unwrap(),
        client.start(PANICS, &2).name("two").await.unwrap(),
    );
    assert!(one.outcome().await.is_err() && two.outcome().await.is_err());
    worker.drain().await;
    client.edit_input(one.id(), Payload::of(&700).unwrap()).await.unwrap();
    client.redrive(one.id()).await.unwrap();
    client.discard(two.id(), "gone").await.unwrap();
    engine.close().await;

    let engine = Engine::open(&data).await.unwrap();
    let client = engine.client();
    let state = async |name: &str| client.find::<u32>(name).status().await.unwrap().state;
    assert_eq!((state("one").await, state("two").await), (RunState::Queued, RunState::Discarded));
    assert_eq!(client.audit(None, None, 10).await.unwrap().0.len(), 3);
    let worker = engine.worker().register(PANICS, |_: Ctx, input: u32| async move { Ok(input) });
    let worker = worker.start().unwrap();
    let one = client.find::<u32>("one");
    let ended = tokio::time::timeout(PATIENCE, one.outcome());
    assert_eq!(ended.await.unwrap().unwrap(), 700);
    worker.drain().await;
    engine.close().await;
}
