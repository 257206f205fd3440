//! Schedules, with a real engine and a real worker.

use stepwell::model::schedule::ScheduleInfo;
use stepwell::{Engine, Refusal, Time, secs};
use stepwell_tests::workflow::{self, Entry, LEDGER, World};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::timeout;

use crate::host::PATIENCE;

// A18: an occurrence becomes a run that a worker runs, under the name of its instant; the schedule
// is there after a restart, and goes on.
#[tokio::test]
async fn a_schedule_starts_runs_and_goes_on_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut before: Option<ScheduleInfo> = None;
    for life in 0..2 {
        let engine = Engine::open(&data).await.unwrap();
        let (tell, mut happened) = unbounded_channel();
        let world = World::new(directory.path().join("effects"), move |line| {
            let _ = tell.send(line.to_owned());
        });
        let worker = workflow::register(engine.worker(), &world).start().unwrap();
        let client = engine.client();
        let set =
            client.schedule("beat", LEDGER, &Entry::of(21)).every(secs(1)).set().await.unwrap();
        assert_eq!(set.changed, life == 0);
        let line = timeout(PATIENCE, happened.recv()).await.unwrap().unwrap();
        assert!(line.starts_with("begun write"), "{line}");

        let schedules = client.schedules();
        let shown = schedules.show("beat").await.unwrap();
        let last = shown.state.last.unwrap();
        assert!(last.0.is_multiple_of(1_000) && shown.state.next > Some(last));
        assert!(before.is_none_or(|before| before.state.last < Some(last)));
        let run = client.run::<u64>(schedules.run_id(&shown.spec, last));
        assert_eq!(run.outcome().await.unwrap(), 42);
        assert!(run.status().await.unwrap().started_at >= last);

        worker.drain().await;
        before = Some(shown);
        engine.close().await;
    }
    let engine = Engine::open(&data).await.unwrap();
    let schedules = engine.client().schedules();
    assert_eq!(schedules.list().await.unwrap().len(), 1);
    schedules.remove("beat").await.unwrap();
    let gone = schedules.pause("beat").await;
    assert!(
        matches!(&gone, Err(stepwell::ClientError::Refused(Refusal::NoSuchSchedule(_)))),
        "{gone:?}"
    );
    assert_eq!(schedules.list().await.unwrap(), []);
    engine.close().await;
}

#[tokio::test]
async fn the_calls_of_a_client_say_what_they_mean() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::open(directory.path().join("data")).await.unwrap();
    let client = engine.client();
    let nightly = || {
        client.schedule("nightly", LEDGER, &Entry::of(1)).cron("0 6 * * *").zone("Europe/Berlin")
    };
    assert!(nightly().set().await.unwrap().changed);
    assert!(!nightly().set().await.unwrap().changed);
    let schedules = client.schedules();
    let (_, next) = schedules.next("nightly", 3).await.unwrap();
    assert_eq!(next.len(), 3);
    assert!(schedules.pause("nightly").await.unwrap());
    assert_eq!(schedules.show("nightly").await.unwrap().state.next, None);
    assert!(schedules.resume("nightly").await.unwrap());
    let (from, to) = (Time(1_772_323_200_000), Time(1_772_323_200_000 + 7 * 86_400_000));
    let filled = schedules.backfill("nightly", from, to, 5).await.unwrap();
    assert_eq!((filled.started, filled.existed), (5, 0));
    let rest = schedules.backfill("nightly", filled.next.unwrap(), to, 5).await.unwrap();
    assert_eq!((rest.started, rest.next), (2, None));
    let wrong = client.schedule("wrong", LEDGER, &Entry::of(1)).cron("61 * * * *").set().await;
    assert!(
        matches!(&wrong, Err(stepwell::ClientError::Refused(Refusal::BadCron(bad))) if bad.position == 1),
        "{wrong:?}"
    );
    engine.close().await;
}
