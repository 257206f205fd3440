//! What was acknowledged is there after `kill -9`.

use std::collections::BTreeMap;

use stepwell::model::entry::{Entry, SourceLocation, StepCompleted};
use stepwell::model::id::CommandIndex;
use stepwell::wire::message::{
    Answer, Answered, Dispatch, Message, Reply, StepCompletedReport, TurnCompleted,
};
use stepwell::{Client, Payload, RunId, RunState, Worker, millis};
use stepwell_tests::process_spec::EngineSpec;
use stepwell_tests::workflow::{self, Entry as Input, LEDGER, World};

use crate::host::{Host, until_stats};
use crate::peer::{Peer, hello, register, start};

/// How often the engine dies.
const CYCLES: u64 = 100;
/// Starts under way at a time.
const AHEAD: u64 = 40;

/// What one life of an engine has acknowledged.
#[derive(Default)]
struct Acknowledged {
    starts: Vec<RunId>,
    /// Outcomes of steps, and what they returned.
    steps: BTreeMap<RunId, u64>,
}

// A3: fire and forget, durably. R1: nothing leaves before it is durable. The kill comes in the
// moment in which an acknowledgement has arrived, with others under way: one that was sent ahead of
// its sync would be of a run that is not there afterwards. A worker by hand reports outcomes of
// steps meanwhile, and the same holds for the entry that acknowledges a report.
#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_engine_is_killed_at_that_instant() {
    let directory = tempfile::tempdir().unwrap();
    let mut spec = EngineSpec::new(directory.path().join("data"));
    spec.session_timeout = millis(2_500);
    let mut all = Acknowledged::default();
    for cycle in 0..CYCLES {
        let (engine, address) = Host::engine(&spec).await;
        let life = killed_at_an_acknowledgement(engine, &address, cycle).await;
        all.starts.extend(life.starts);
        all.steps.extend(life.steps);
    }
    let (starts, steps) = (all.starts.len() as u64, all.steps.len() as u64);
    assert!(starts > CYCLES && steps > CYCLES, "{starts} starts, {steps} outcomes of steps");

    let (engine, address) = Host::engine(&spec).await;
    let client = Client::connect(&address).await.unwrap();
    for (run, output) in &all.steps {
        let entries = client.journal(*run).await.unwrap();
        let found = entries.iter().find_map(|entry| match entry {
            Entry::StepCompleted(StepCompleted { output, .. }) => Some(output.to::<u64>().unwrap()),
            _ => None,
        });
        assert_eq!(found, Some(*output), "of {run}: {entries:?}");
    }
    let world = World::new(directory.path().join("effects"), |_| {});
    let worker =
        workflow::register(Worker::connect(&address), &world).queue("default", 64).start().unwrap();
    for run in &all.starts {
        let output = client.run::<u64>(*run).outcome().await.unwrap();
        assert_eq!(output, run.0 as u64 * 2);
    }
    // Those that were started and not acknowledged end like the others.
    let stats = until_stats(&client, "all runs end", |stats| {
        RunState::ALL
            .iter()
            .all(|state| *state == RunState::Completed || stats.runs_in(*state) == 0)
    });
    assert!(stats.await.runs_in(RunState::Completed) >= all.starts.len() as u64);
    worker.drain().await;
    engine.close().await;
}

/// One life of an engine: starts and outcomes of steps, as fast as it takes them, until a certain
/// acknowledgement.
async fn killed_at_an_acknowledgement(mut engine: Host, address: &str, cycle: u64) -> Acknowledged {
    let fatal = 1 + cycle * 37 % 101;
    let (mut client, _) = Peer::greeted(address, hello(u128::from(cycle) + 1_000)).await;
    let offer = register(LEDGER.name(), 16);
    let mut worker = Peer::registered(address, hello(u128::from(cycle) + 2_000), offer).await;
    let (mut life, mut sent) = (Acknowledged::default(), 0);
    let mut next = |count: u64| -> Vec<Message> {
        let numbers = sent..sent + count;
        sent += count;
        numbers
            .map(|n| cycle * 10_000 + n)
            .map(|n| start(n, LEDGER.name(), RunId(n.into()), &Input::of(n)))
            .collect()
    };
    let mut reported = BTreeMap::new();
    client.send(&next(AHEAD)).await;
    // After the kill: all that had left the engine before counts, and so do both ends of the
    // connections.
    let (mut client_is_there, mut worker_is_there, mut acknowledged) = (true, true, 0);
    while client_is_there || worker_is_there {
        let mut is_acknowledgement = false;
        tokio::select! {
            message = client.next(), if client_is_there => match message {
                Some(Message::Reply(Reply { answer: Answered::Known(Answer::StartReply(reply)), .. })) => {
                    assert!(reply.runs.iter().all(|run| run.started && run.refused.is_none()), "{reply:?}");
                    life.starts.extend(reply.runs.iter().map(|run| run.id));
                    is_acknowledgement = true;
                }
                Some(other) => panic!("not asked for: {other:?}"),
                None => client_is_there = false,
            },
            message = worker.next(), if worker_is_there => match message {
                Some(Message::Dispatch(dispatch)) => {
                    let (id, report) = outcome(&dispatch);
                    reported.insert(dispatch.run, id);
                    worker.send(&[report]).await;
                }
                Some(Message::Appended(appended)) => {
                    let id = reported[&appended.run];
                    life.steps.insert(id, id.0 as u64 * 2);
                    is_acknowledgement = true;
                    let (run, token, output) = (appended.run, appended.token, doubled(id));
                    worker.send(&[TurnCompleted { run, token, output }.into()]).await;
                }
                Some(Message::TurnEnded(_)) => {}
                Some(other) => panic!("not asked for: {other:?}"),
                None => worker_is_there = false,
            },
        }
        if is_acknowledgement {
            acknowledged += 1;
            if acknowledged == fatal {
                engine.kill();
            } else if acknowledged < fatal {
                client.send(&next(1)).await;
            }
        }
    }
    engine.ended().await;
    life
}

/// What a worker reports of the one step of `ledger`.
fn outcome(dispatch: &Dispatch) -> (RunId, Message) {
    let location =
        SourceLocation { name: "write".to_owned(), at: "by hand".to_owned(), version: 1 };
    let (run, token, output) = (dispatch.run, dispatch.token, doubled(dispatch.id));
    (
        dispatch.id,
        StepCompletedReport {
            run,
            token,
            number: CommandIndex(0),
            location,
            attempt: 1,
            output,
            memo: None,
        }
        .into(),
    )
}

fn doubled(id: RunId) -> Payload {
    Payload::of(&(id.0 as u64 * 2)).unwrap()
}
