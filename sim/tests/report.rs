//! The report: what is drawn agrees with what happened, and the page needs nothing but itself.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde::Deserialize;
use stepwell_sim::event::What;
use stepwell_sim::picture::Picture;
use stepwell_sim::plan::{ClockError, Fault, FaultKind, TimedFault};
use stepwell_sim::{Plan, Recording, Violation, run, run_recorded};

static RECORDED: LazyLock<Recording> = LazyLock::new(|| run_recorded(plan()));

/// The same world, in which nobody was given time to end: the checkers complain, and rightly.
static VIOLATING: LazyLock<Recording> = LazyLock::new(|| {
    let mut plan = plan();
    plan.settings.heal_max_ms = 0;
    run_recorded(plan)
});

/// Kills, a slow disk that loses its power with batches in the air, a link cut and a slow one,
/// copies, and a clock that is off.
fn plan() -> Plan {
    let mut plan = Plan::from_seed(84);
    plan.settings.duplicates_per_mille = 50;
    plan.settings.late_copies_per_mille = 50;
    plan.settings.skips_time = false;
    plan.settings.workers = 3;
    plan.settings.clients = 2;
    for job in &mut plan.jobs {
        job.client = 1 + job.client % 2;
    }
    plan.settings.clocks =
        [("server".to_owned(), ClockError { offset_ms: 30_000, ..ClockError::default() })].into();
    let fault = |at_ms, kind, host: &str, other: &str, span_ms, extent| TimedFault {
        at_ms,
        fault: Fault { kind, host: host.to_owned(), other: other.to_owned(), span_ms, extent },
    };
    plan.faults = vec![
        fault(2_000, FaultKind::WorkerKilled, "worker-1", "", 300, 0),
        fault(3_500, FaultKind::Partitioned, "server", "worker-2", 900, 0),
        fault(4_000, FaultKind::SlowLink, "server", "worker-3", 900, 200),
        fault(5_000, FaultKind::SlowDisk, "server", "", 900, 400),
        fault(5_700, FaultKind::PowerLost, "server", "", 700, 0),
        fault(7_000, FaultKind::ClientKilled, "client-2", "", 200, 0),
        fault(8_000, FaultKind::WorkerKilledSilently, "worker-3", "", 400, 0),
    ];
    plan
}

fn data_in(page: &str) -> serde_json::Value {
    let (_, rest) = page.split_once("id=\"data\">").expect("there is data");
    let (data, _) = rest.split_once("</script>").expect("it ends");
    serde_json::from_str(data).expect("the data is JSON")
}

/// Recording must change nothing: what one looks at is what failed.
#[test]
fn what_is_recorded_is_what_is_run() {
    assert_eq!(RECORDED.report, run(plan()));
    assert_eq!(run_recorded(plan()), *RECORDED);
}

#[test]
fn a_recording_is_data() {
    let again: Recording = serde_json::from_str(&RECORDED.to_json()).unwrap();
    assert_eq!(again, *RECORDED);
}

/// A run is called by one name from the first question about it on, or a filter would miss a part
/// of its story.
#[test]
fn runs_have_one_name() {
    let known: BTreeSet<&str> =
        RECORDED.journals.iter().map(|journal| journal.run.as_str()).collect();
    for event in &RECORDED.events {
        for run in event.what.runs() {
            let asked = RECORDED.plan.jobs.iter().any(|job| format!("{job:?}").contains(run));
            assert!(known.contains(run.as_str()) || asked, "{event:?}");
        }
        if let What::Submitted { entries, .. } = &event.what {
            assert!(entries.iter().all(|entry| !entry.run.starts_with('#')), "{event:?}");
        }
    }
}

#[test]
fn every_arrow_has_both_ends_or_is_lost() {
    let (events, picture) = (&RECORDED.events, Picture::of(&RECORDED));
    let count = |is: fn(&What) -> bool| events.iter().filter(|event| is(&event.what)).count();
    let arrived: Vec<usize> = picture.arrows.iter().filter_map(|arrow| arrow.1).collect();
    assert_eq!(picture.arrows.len(), count(|what| matches!(what, What::Sent(_))));
    assert_eq!(
        arrived.len(),
        count(|what| matches!(what, What::Received { .. })),
        "something arrived that nobody sent"
    );
    assert_eq!(arrived.iter().collect::<BTreeSet<_>>().len(), arrived.len());
    let lost = picture.arrows.len() - arrived.len();
    assert!((1..picture.arrows.len() / 4).contains(&lost), "{lost}");
    for arrow in picture.arrows {
        let (What::Sent(frame), Some(received)) = (&events[arrow.0].what, arrow.1) else {
            continue;
        };
        assert!(arrow.0 < received, "a frame arrives before it is sent");
        assert_eq!(events[received].host, frame.peer);
    }
}

#[test]
fn every_lease_ends_or_is_open_in_the_end() {
    let events = &RECORDED.events;
    let picture = Picture::of(&RECORDED);
    assert!(picture.leases.len() > 20);
    for lease in &picture.leases {
        let What::LeaseBegan { run, holder, .. } = &events[lease.began].what else {
            panic!("a bar begins with {:?}", events[lease.began]);
        };
        assert!(holder.starts_with("worker-"), "{run} is held by `{holder}`");
        let ended = lease.ended.expect("all runs ended, and so did their leases");
        assert!(
            matches!(&events[ended].what, What::LeaseEnded { run: ended, .. } if ended == run),
            "{:?}",
            events[ended]
        );
    }
    let mut rows = BTreeSet::new();
    for lease in &picture.leases {
        for other in picture.leases.iter().filter(|other| other.began > lease.began) {
            let apart = (other.host != lease.host || other.row != lease.row)
                || lease.to_ms.is_some_and(|to_ms| to_ms < other.from_ms);
            assert!(apart, "bars lie over one another");
        }
        rows.insert(lease.row);
    }
    assert!(rows.len() > 1);
    // A plan that stops in the middle leaves leases open, and they are drawn so.
    let open = Picture::of(&VIOLATING).leases;
    assert!(open.iter().any(|lease| lease.to_ms.is_none()));
}

#[test]
fn calls_asks_batches_and_faults_are_joined() {
    let picture = Picture::of(&RECORDED);
    assert!(picture.calls.iter().all(|call| call.to_ms.is_some()));
    assert!(picture.calls.iter().any(|call| call.effect_ms.is_some()));
    assert!(picture.asks.iter().all(|ask| ask.to_ms.is_some()));
    assert_eq!(picture.asks.len(), RECORDED.plan.jobs.len());
    let struck: u64 = RECORDED.report.faults.values().sum();
    assert_eq!(picture.bands.len() as u64, struck);
    assert!(picture.bands.iter().all(|band| band.to_ms >= band.from_ms));
    let lost = picture.batches.iter().filter(|batch| batch.committed.is_none());
    assert!(lost.count() > 0, "the power cut takes a batch with it");
    let server = picture.lanes.iter().find(|lane| lane.host == "server");
    let server = server.expect("there is a server");
    assert!(server.lives.len() > 1);
    assert!(server.clock.iter().any(|(_, offset_ms)| *offset_ms == 30_000));
}

#[test]
fn journals_tell_when_each_entry_became_durable() {
    let runs: u64 = RECORDED.report.runs.values().sum();
    assert_eq!(RECORDED.journals.len() as u64, runs);
    for journal in &RECORDED.journals {
        assert!(!journal.end.is_empty(), "{} has ended", journal.run);
        let mut before = 0;
        for entry in &journal.entries {
            let (submitted, durable) = (entry.submitted_ms.unwrap(), entry.durable_ms.unwrap());
            assert!(submitted <= durable && before <= durable, "{journal:?}");
            before = durable;
            if entry.kind == "StepCompleted" {
                assert!(entry.holder.is_some() && !entry.location.is_empty());
            }
        }
    }
}

#[test]
fn a_verdict_is_pinned_to_the_run_it_names() {
    let (recording, picture) = (&*VIOLATING, Picture::of(&VIOLATING));
    assert!(!recording.report.is_sound());
    assert_eq!(picture.verdicts.len(), recording.report.violations.len());
    let named = picture
        .verdicts
        .iter()
        .find(|verdict| verdict.runs.len() == 1)
        .expect("some run has not ended");
    assert!(named.in_the_end);
    let pinned = &recording.events[named.event];
    assert_eq!(pinned.what.runs(), named.runs);
    assert!(matches!(pinned.what, What::EntryDurable { .. }));
}

/// A verdict of a user's own lies where it was put, and not at the end.
#[test]
fn a_verdict_underway_is_pinned_to_what_was_looked_at() {
    let (recording, at) = accused();
    let picture = Picture::of(&recording);
    assert_eq!(picture.verdicts.len(), 1);
    assert_eq!(picture.verdicts[0].event, at);
    assert!(!picture.verdicts[0].in_the_end);
    assert_eq!(picture.verdicts[0].runs, recording.events[at].what.runs());
}

/// A recording with a violation at the last entry of that instant, and where it is.
fn accused() -> (Recording, usize) {
    let mut recording = RECORDED.clone();
    let is_entry = |what: &What| matches!(what, What::EntryDurable { .. });
    let entries: Vec<usize> =
        (0..recording.events.len()).filter(|at| is_entry(&recording.events[*at].what)).collect();
    let mut at = entries[entries.len() / 2];
    let at_ms = recording.events[at].at_ms;
    while recording.events[at + 1..].iter().any(|later| later.at_ms <= at_ms) {
        at += 1;
    }
    let text = match recording.events[at].what.runs().first() {
        Some(run) => format!("{run}: </script> is no end & <!-- no beginning"),
        None => "</script> is no end".to_owned(),
    };
    recording.report(Violation { checker: "what a test believes".to_owned(), at_ms, text });
    (recording, at)
}

#[test]
fn the_page_holds_all_of_it_and_asks_nobody() {
    let (recording, _) = accused();
    let page = recording.to_html();
    assert_eq!(page.matches("<script").count(), 2);
    assert_eq!(page.matches("</script>").count(), 2);
    for outside in [
        "src=",
        "href=",
        "@import",
        "url(",
        "http:",
        "https:",
        "fetch(",
        "import(",
        "XMLHttp",
        "WebSocket",
        "<link",
        "<img",
        "<iframe",
    ] {
        assert!(!page.contains(outside), "the page holds `{outside}`");
    }
    let data = data_in(&page);
    let again = Recording::deserialize(&data["recording"]).unwrap();
    assert_eq!(again, recording);
    let picture = Picture::deserialize(&data["picture"]).unwrap();
    assert_eq!(picture, Picture::of(&recording));
    let directory = scratch("files");
    let written = recording.write(&directory).unwrap();
    assert_eq!(std::fs::read_to_string(written.html).unwrap(), page);
    assert!(written.json.ends_with("seed-84.json"));
    std::fs::remove_dir_all(directory).unwrap();
}

/// A tab among many says what it shows.
#[test]
fn the_page_is_called_by_its_suite_its_seed_and_what_failed() {
    let title = |recording: &Recording| {
        let page = recording.to_html();
        let (_, rest) = page.split_once("<title>").expect("it has a title");
        let (title, _) = rest.split_once("</title>").expect("it ends");
        title.to_owned()
    };
    assert_eq!(title(&RECORDED), "engine, seed 84: all held");
    let (mut accused, _) = accused();
    assert_eq!(title(&accused), "engine, seed 84: broken: what a test believes");
    accused.plan.suite = "<b> & Co".to_owned();
    assert!(title(&accused).starts_with("&lt;b> &amp; Co, seed 84: "));
}

fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("stepwell-report-{name}-{}", std::process::id()))
}

fn browser() -> Option<&'static str> {
    ["chromium", "chromium-browser", "google-chrome", "chrome"].into_iter().find(|name| {
        let found = Command::new(name).arg("--version").output();
        found.is_ok_and(|output| output.status.success())
    })
}

/// What the page says of itself after it has drawn everything.
fn self_check(browser: &str, page: &Path, run: &str) -> serde_json::Value {
    let profile = page.with_extension("profile");
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"])
        .args(["--window-size=1400,900", "--virtual-time-budget=10000"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("file://{}#selfcheck={run}", page.display()))
        .output()
        .expect("the browser runs");
    let dom = String::from_utf8_lossy(&output.stdout);
    let (_, rest) = dom.split_once("<pre id=\"selfcheck\">").unwrap_or_else(|| {
        panic!("the page did not come to its end: {}", String::from_utf8_lossy(&output.stderr))
    });
    let (told, _) = rest.split_once("</pre>").expect("it ends");
    serde_json::from_str(told).expect("it is JSON")
}

/// Loads the page in a browser, lets it draw everything, and compares what it drew with the data.
#[test]
fn a_browser_draws_what_the_data_says() {
    let Some(browser) = browser() else {
        println!("skipped: there is no chromium here (apt-get install chromium)");
        return;
    };
    let (recording, _) = accused();
    let directory = scratch("browser");
    let written = recording.write(&directory).unwrap();
    let longest = recording.journals.iter().max_by_key(|journal| journal.entries.len());
    let run = longest.unwrap().run.as_str();
    let told = self_check(browser, &written.html, run);
    let picture = Picture::of(&recording);
    let lives: usize = picture.lanes.iter().map(|lane| lane.lives.len()).sum();
    let lost = picture.arrows.iter().filter(|arrow| arrow.1.is_none());
    let about = |event: usize| recording.events[event].what.runs().iter().any(|r| r == run);
    let of_run = [
        picture.arrows.iter().filter(|arrow| about(arrow.0)).count(),
        picture.leases.iter().filter(|bar| about(bar.began)).count(),
        picture.calls.iter().filter(|bar| about(bar.began)).count(),
    ];
    let expected = serde_json::json!({
        "lanes": picture.lanes.len(),
        "lives": lives,
        "leases": picture.leases.len(),
        "calls": picture.calls.len(),
        "asks": picture.asks.len(),
        "batches": picture.batches.len(),
        "bands": picture.bands.len(),
        "arrows": picture.arrows.len(),
        "lost": lost.count(),
        "pins": 1,
        "title": "engine, seed 84: broken: what a test believes",
        "clocks": picture.lanes.iter().map(|lane| lane.clock.len()).sum::<usize>(),
        "words": true,
        "filtered": { "run": run, "arrows": of_run[0], "leases": of_run[1], "calls": of_run[2] },
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(told[name], *value, "{name} in {told}");
    }
    assert!(of_run.iter().all(|count| *count > 0));
    assert_eq!(told["rows"]["runs"], recording.journals.len());
    assert_eq!(told["rows"]["verdicts"], 1);
    std::fs::remove_dir_all(directory).unwrap();
}
