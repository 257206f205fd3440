//! Tags of runs that are not started one by one.

use stepwell::model::entry::Entry;
use stepwell::{BatchEnded, Client, Engine, RunId, Workflow, secs};
use tokio::time::{Instant, sleep};

use crate::host::PATIENCE;

const RENDER: Workflow<u64, u64> = Workflow::new("render").queue("renders").tags(&["gpu"]);
const COLLECT: Workflow<BatchEnded<u64>, u64> = Workflow::new("collect").tags(&["disk", "fast"]);
const PLAIN: Workflow<u64, u64> = Workflow::new("plain");

/// The tags, the queue, the priority and the wait that a run was started with.
async fn started(client: &Client, id: RunId) -> (Vec<String>, String, u8, bool) {
    let journal = client.journal(id).await.unwrap();
    match journal.into_iter().next() {
        Some(Entry::Started(e)) => (e.tags, e.queue, e.priority, e.not_before.is_some()),
        other => panic!("{other:?}"),
    }
}

// A32: a schedule of a workflow with tags starts runs that go only where these are offered; others
// may be given.
#[tokio::test]
async fn runs_of_a_schedule_have_its_workflows_tags() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::open(directory.path()).await.unwrap();
    let client = engine.client();
    let render = client.schedule("render", RENDER, &1).every(secs(1));
    let set = render.set().await.unwrap();
    assert_eq!(set.schedule.spec.tags, ["gpu"]);
    let other = client.schedule("other", RENDER, &1).every(secs(1));
    other.tags(["big"]).set().await.unwrap();
    for (name, tag) in [("render", "gpu"), ("other", "big")] {
        let until = Instant::now() + PATIENCE;
        let schedules = client.schedules();
        let last = loop {
            let shown = schedules.show(name).await.unwrap();
            if let Some(last) = shown.state.last {
                break schedules.run_id(&shown.spec, last);
            }
            assert!(Instant::now() < until, "no run of `{name}`");
            sleep(secs(1) / 10).await;
        };
        let expected = (vec![tag.to_owned()], "renders".to_owned(), 5, false);
        assert_eq!(started(&client, last).await, expected);
    }
    engine.close().await;
}

// A32, A20: so do the runs of a batch and the one that follows it; and all of a call may be put
// behind others.
#[tokio::test]
async fn runs_of_one_call_have_what_the_call_says() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::open(directory.path()).await.unwrap();
    let client = engine.client();
    let begun = client
        .batch("frames")
        .starts(RENDER, vec![(None, 1), (None, 2)])
        .priority(9)
        .starts(PLAIN, vec![(None, 3)])
        .then(COLLECT, &7)
        .start()
        .await
        .unwrap();
    let mut runs = Vec::new();
    for run in begun.runs {
        let run = run.unwrap();
        runs.push(started(&client, run.id()).await);
        run.cancel("enough").await.unwrap();
    }
    let gpu = (vec!["gpu".to_owned()], "renders".to_owned(), 9, false);
    let plain = (Vec::new(), "default".to_owned(), 5, false);
    assert_eq!(runs, [gpu.clone(), gpu, plain]);
    let ended = client.batch_status("frames").await.unwrap();
    let follow_up = ended.follow_up.expect("all of it has ended");
    let (tags, ..) = started(&client, follow_up).await;
    assert_eq!(tags, ["disk", "fast"]);

    let many = client
        .start_many(PLAIN, vec![(None, 1), (None, 2)])
        .queue("backfill")
        .priority(9)
        .delay(secs(60))
        .tags(["big"]);
    for run in many.await.unwrap() {
        let id = run.unwrap().id();
        let expected = (vec!["big".to_owned()], "backfill".to_owned(), 9, true);
        assert_eq!(started(&client, id).await, expected);
    }
    engine.close().await;
}
