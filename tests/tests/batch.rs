//! What is promised of batches: who of them counts when, and how they are stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use stepwell::model::batch::BatchCounts;
use stepwell::model::entry::Entry;
use stepwell::{
    BatchEnded, BatchSummary, Client, ClientError, Ctx, Engine, Failure, Refusal, RunError, Worker,
    WorkerHandle, Workflow,
};
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::host::PATIENCE;

const MEMBER: Workflow<u64, u64> = Workflow::new("member");
const REPORT: Workflow<BatchEnded<String>, (u64, u64, u64)> = Workflow::new("report");

/// An engine and a worker in this process: run 0 fails until it is healed, others wait at the gate.
struct Mill {
    engine: Engine,
    worker: WorkerHandle,
    healed: Arc<AtomicBool>,
    gate: Arc<Semaphore>,
    _directory: TempDir,
}

impl Mill {
    async fn open() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let engine = Engine::open(directory.path().join("data")).await.unwrap();
        let (healed, gate) = (Arc::new(AtomicBool::new(false)), Arc::new(Semaphore::new(0)));
        let worker = member(engine.worker(), (healed.clone(), gate.clone()));
        let worker = worker.register(REPORT, |_ctx, ended: BatchEnded<String>| async move {
            Ok((ended.completed, ended.dead, ended.cancelled))
        });
        let worker = worker.queue("default", 8).start().unwrap();
        Self { engine, worker, healed, gate, _directory: directory }
    }

    async fn close(self) {
        self.worker.drain().await;
        self.engine.close().await;
    }
}

fn member(worker: Worker, shared: (Arc<AtomicBool>, Arc<Semaphore>)) -> Worker {
    worker.register(MEMBER, move |ctx: Ctx, number: u64| {
        let (healed, gate) = shared.clone();
        async move {
            let work = move |_| {
                let (healed, gate) = (healed.clone(), gate.clone());
                async move {
                    if number > 0 {
                        gate.acquire().await.unwrap().forget();
                    } else if !healed.load(Ordering::SeqCst) {
                        return Err(Failure::terminal("not healed"));
                    }
                    Ok(number)
                }
            };
            ctx.step("work", work).await
        }
    })
}

/// The batch, once it is as expected.
async fn until(client: &Client, name: &str, is: impl Fn(&BatchSummary) -> bool) -> BatchSummary {
    let look = async {
        loop {
            let batch = client.batch_status(name).await.unwrap();
            if is(&batch) {
                return batch;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, look).await.unwrap()
}

fn counts(total: u64, completed: u64, dead: u64, cancelled: u64) -> BatchCounts {
    BatchCounts { total, completed, dead, cancelled }
}

// A20, A49: who repairs a run of a batch while the batch goes on wants the report to tell of the
// repaired run. So it has not ended for its batch any more, what follows waits for it, and is told
// how it ended in the end. Once the batch is over it stays so, and a run that is redriven then is
// on its own.
#[tokio::test]
async fn a_redriven_run_of_a_batch_counts_as_not_ended_while_the_batch_goes_on() {
    let mill = Mill::open().await;
    let client = mill.engine.client();
    let member = |n| (Some(format!("member-{n}")), n);
    let batch = client.batch("repaired").starts(MEMBER, vec![member(0), member(1)]);
    let started = batch.then(REPORT, &String::new()).start().await.unwrap();
    let runs: Vec<_> = started.runs.into_iter().map(Result::unwrap).collect();
    let failed = runs[0].outcome().await;
    assert!(matches!(failed, Err(RunError::Failed(_))), "{failed:?}");
    let batch = client.batch_status("repaired").await.unwrap();
    assert_eq!(batch.counts, counts(2, 0, 1, 0));

    mill.healed.store(true, Ordering::SeqCst);
    client.redrive(runs[0].id()).await.unwrap();
    assert_eq!(runs[0].outcome().await, Ok(0));
    let batch = client.batch_status("repaired").await.unwrap();
    assert_eq!((batch.counts, batch.ended_at), (counts(2, 1, 0, 0), None));
    mill.gate.add_permits(1);
    let batch = until(&client, "repaired", |batch| batch.ended_at.is_some()).await;
    assert_eq!(batch.counts, counts(2, 2, 0, 0));
    let follow_up = client.run::<(u64, u64, u64)>(batch.follow_up.unwrap());
    assert_eq!(follow_up.outcome().await, Ok((2, 0, 0)));

    mill.healed.store(false, Ordering::SeqCst);
    let alone = vec![(Some("alone".to_owned()), 0)];
    let batch = client.batch("over").starts(MEMBER, alone);
    let started = batch.then(REPORT, &String::new()).start().await.unwrap();
    let run = started.runs.into_iter().next().unwrap().unwrap();
    let over = until(&client, "over", |batch| batch.ended_at.is_some()).await;
    mill.healed.store(true, Ordering::SeqCst);
    client.redrive(run.id()).await.unwrap();
    assert_eq!(run.outcome().await, Ok(0));
    assert_eq!(client.batch_status("over").await.unwrap(), over);
    let follow_up = client.run::<(u64, u64, u64)>(over.follow_up.unwrap());
    assert_eq!(follow_up.outcome().await, Ok((0, 1, 0)));
    mill.close().await;
}

// A20: an operator who has started the wrong file stops it with one command. Whoever has not ended
// is asked, once; what has ended stays, other runs are left alone, and the report comes all the
// same and tells how many were cancelled.
#[tokio::test]
async fn a_batch_is_cancelled_run_by_run_and_followed_all_the_same() {
    let mill = Mill::open().await;
    let client = mill.engine.client();
    mill.healed.store(true, Ordering::SeqCst);
    let mut other = Vec::new();
    for half in [0..1_100, 1_100..2_200] {
        let runs = half.map(|n| (Some(format!("wrong-{n}")), n));
        let batch = client.batch("wrong").starts(MEMBER, runs.collect());
        batch.add().await.unwrap();
        other.push(client.start(MEMBER, &7).await.unwrap());
    }
    let seal = client.batch("wrong").then(REPORT, &String::new());
    seal.start().await.unwrap();
    until(&client, "wrong", |batch| batch.counts.completed == 1).await;

    let told = client.cancel_batch("wrong", "the wrong file").await.unwrap();
    assert_eq!(told.asked, 2_199);
    let batch = until(&client, "wrong", |batch| batch.ended_at.is_some()).await;
    assert_eq!(batch.counts, counts(2_200, 1, 0, 2_199));
    let follow_up = client.run::<(u64, u64, u64)>(batch.follow_up.unwrap());
    assert_eq!(follow_up.outcome().await, Ok((1, 0, 2_199)));
    let run = client.batch("wrong").starts(MEMBER, vec![(Some("wrong-1500".to_owned()), 1_500)]);
    let run = run.add().await.unwrap().runs.remove(0).unwrap();
    let asked = client.journal(run.id()).await.unwrap();
    let asked = asked.iter().filter(|entry| match entry {
        Entry::CancelRequested(asked) => asked.reason == "the wrong file",
        _ => false,
    });
    assert_eq!(asked.count(), 1);

    let again = client.cancel_batch("wrong", "once more").await.unwrap();
    assert_eq!((again.asked, again.batch), (0, batch));
    let none = client.cancel_batch("none", "").await;
    assert!(matches!(none, Err(ClientError::Refused(Refusal::NoSuchBatch(_)))));
    mill.gate.add_permits(2);
    for run in other {
        assert_eq!(run.outcome().await, Ok(7));
    }
    mill.close().await;
}
