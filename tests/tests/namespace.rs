//! Names are of a namespace: what is called the same in another one is something else.

use stepwell::model::id::Namespace;
use stepwell::model::request::ListRuns;
use stepwell::{
    BatchEnded, Client, ClientError, Ctx, Engine, Failure, Refusal, Unique, Workflow, secs,
};
use stepwell_tests::process_spec::{EngineSpec, WorkerSpec};
use stepwell_tests::workflow::{CRASH, Crash};

use crate::host::Host;

const DOUBLE: Workflow<u64, u64> = Workflow::new("double");
const SHARED: Workflow<u64, u64> = Workflow::new("shared");
const DOOMED: Workflow<u64, u64> = Workflow::new("doomed");
const REPORT: Workflow<BatchEnded<u64>, u64> = Workflow::new("report");

async fn double(_: Ctx, number: u64) -> Result<u64, Failure> {
    Ok(number * 2)
}

async fn shared(ctx: Ctx, number: u64) -> Result<u64, Failure> {
    ctx.memoize("rate", move |_| async move { Ok::<u64, Failure>(number) }).await
}

async fn doomed(_: Ctx, _: u64) -> Result<u64, Failure> {
    Err(Failure::terminal("no"))
}

/// All that has a name, in one namespace. Tells what each came to.
async fn fill(client: &Client, number: u64) -> Vec<u64> {
    let run = client.start(DOUBLE, &number).name("order").await.unwrap();
    assert!(run.started(), "its name is free");
    let sleeper = client.start(DOUBLE, &number).delay(secs(3_600));
    let held = sleeper.unique("key", Unique::UntilEnded).await.unwrap();
    assert!(held.started(), "its key is free");
    let mut came_to = vec![run.outcome().await.unwrap()];
    let run = client.start(SHARED, &number).name("shared").await.unwrap();
    came_to.push(run.outcome().await.unwrap());
    let run = client.start(DOOMED, &number).name("doomed").await.unwrap();
    run.outcome().await.unwrap_err();
    let batch = client.batch("all").starts(DOUBLE, vec![(None, number)]);
    let batch = batch.then(REPORT, &number).start().await.unwrap();
    assert_eq!(batch.runs.len(), 1);
    let schedule = client.schedule("nightly", DOUBLE, &number).cron("0 6 * * *");
    assert!(schedule.set().await.unwrap().changed, "its name is free");
    came_to
}

// A6, A20: names, keys, batches, schedules, listings and audit entries of two namespaces have
// nothing to do with each other.
#[tokio::test]
async fn what_has_the_same_name_in_another_namespace_is_something_else() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::open(directory.path()).await.unwrap();
    let worker = engine
        .worker()
        .register(DOUBLE, double)
        .register(SHARED, shared)
        .register(DOOMED, doomed)
        .register(REPORT, |_: Ctx, ended: BatchEnded<u64>| async move { Ok(ended.input) });
    let worker = worker.start().unwrap();
    let (one, two) =
        (engine.client().namespace(Namespace(1)), engine.client().namespace(Namespace(2)));
    assert_eq!(fill(&one, 10).await, [20, 10]);
    assert_eq!(fill(&two, 30).await, [60, 30]);
    for (client, number) in [(&one, 10), (&two, 30)] {
        assert_eq!(client.find::<u64>("order").outcome().await, Ok(number * 2));
        let (runs, _) = client.list(ListRuns::default().limit(100)).await.unwrap();
        assert_eq!(runs.len(), 6, "{runs:?}");
        let (letters, _) = client.dead_letters(&Default::default(), None, 100).await.unwrap();
        assert_eq!(letters.len(), 1, "{letters:?}");
        let schedules = client.schedules().list().await.unwrap();
        assert_eq!(schedules.len(), 1, "{schedules:?}");
    }
    let foreign = one.find::<u64>("doomed").id();
    let not_there = |answer: Result<(), ClientError>| {
        assert!(matches!(&answer, Err(ClientError::Refused(Refusal::NoSuchRun(_)))), "{answer:?}");
    };
    not_there(two.redrive(foreign).await);
    not_there(two.cancel(foreign, "no").await);
    not_there(two.outcome(foreign, false).await.map(drop));
    not_there(two.journal(foreign).await.map(drop));
    two.schedules().remove("nightly").await.unwrap();
    assert_eq!(one.schedules().list().await.unwrap().len(), 1);
    worker.drain().await;
    engine.close().await;
}

// A43: an isolated step gets the journal of its run, whoever's that is.
#[tokio::test]
async fn a_step_of_another_namespace_runs_in_a_process_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let spec = EngineSpec::new(directory.path().join("data"));
    let (engine, server) = Host::engine(&spec).await;
    let client = Client::connect(&server).await.unwrap().namespace(Namespace(3));
    let worker = Host::worker(&WorkerSpec {
        server,
        slots: 4,
        grace: secs(1),
        effects: directory.path().join("effects"),
    });
    let run = client.start(CRASH, &Crash::Exit).await.unwrap();
    assert_eq!(run.outcome().await.unwrap(), "attempt 2, in place: false");
    worker.close().await;
    engine.close().await;
}
