//! Schedules over a year and over their policies, stepped by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stepwell_storage::block_on;

use super::capacity::slots;
use super::output::{Action, Note};
use super::stepped_core::SteppedCore;
use super::{Input, OpenRefused, Settings};
use crate::model::calendar::Calendar;
use crate::model::chain::CHAIN_BYTES;
use crate::model::entry::{Entry, Started};
use crate::model::failure::Failure;
use crate::model::id::{Namespace, ProcessInstance, RequestId, RunId, RunNo, SessionId, Token};
use crate::model::payload::Payload;
use crate::model::request::{Caller, Refusal};
use crate::model::schedule::{
    CronTimes, EveryTimes, Overlap, ScheduleInfo, ScheduleSpec, When, nominal_text,
};
use crate::model::time::Time;
use crate::store_reader;
use crate::tables::{JournalKey, TableKey};
use crate::wire::message::{
    Answered, Answer, AskOccurrences, AskStatus, Backfill, BackfillReply, Cancel, Heartbeat, Hello, Message,
    PauseSchedule, Redrive, Register, RemoveSchedule, Reply, ResumeSchedule, ScheduleReply,
    SetSchedule, TurnFailed, WorkflowOffer, call_as,
};

const CLIENT: SessionId = SessionId(1);
const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// 2026-01-01T00:00:00Z.
const NEW_YEAR: Time = Time(20_454 * DAY);

struct Desk {
    stepped: SteppedCore,
    /// The id of the next request; zero names none.
    request_id: u128,
    heard: Vec<Message>,
    notes: Vec<Note>,
    /// Runs whose start is durable, by name, and when they were started.
    runs: BTreeMap<String, Vec<Time>>,
    /// Those whose start is not durable yet.
    air: Vec<(RunNo, Started)>,
    /// Those that were seen: a journal that outlives its generation is written again.
    seen: BTreeSet<RunNo>,
    /// The run dispatched last, and the session it went to.
    dispatched: Option<(SessionId, RunNo, Token)>,
}

fn cron(expression: &str, zone: &str) -> When {
    When::CronTimes(CronTimes { expression: expression.to_owned(), zone: zone.to_owned() })
}

fn every(every_ms: u64, anchor: Time) -> When {
    When::EveryTimes(EveryTimes { every_ms, anchor })
}

fn spec(name: &str, when: When, overlap: Overlap) -> ScheduleSpec {
    ScheduleSpec {
        name: name.to_owned(),
        workflow: "report".to_owned(),
        version: 1,
        queue: "default".to_owned(),
        priority: 5,
        input: Payload::default(),
        when,
        jitter_ms: 0,
        overlap,
        catch_up_ms: HOUR,
        tags: Vec::new(),
    }
}

fn caller() -> Caller {
    Caller { principal: "desk".to_owned(), ..Caller::default() }
}

impl Desk {
    fn new(wall: Time) -> Self {
        let mut desk = Self {
            stepped: SteppedCore::new(Settings::default(), wall),
            request_id: 0,
            heard: Vec::new(),
            notes: Vec::new(),
            runs: BTreeMap::new(),
            air: Vec::new(),
            seen: BTreeSet::new(),
            dispatched: None,
        };
        desk.hello();
        desk
    }

    fn hello(&mut self) {
        self.hear(Hello::test(ProcessInstance(1), "desk"));
    }

    fn hear(&mut self, message: impl Into<Message>) {
        self.stepped.handle(Input::Received { session: CLIENT, message: message.into() });
    }

    /// The caller of the next request: a request id of its own, if the test names one.
    fn operator(&self) -> Caller {
        Caller { request_id: RequestId(self.request_id), ..caller() }
    }

    /// Says something and hears the answer.
    fn ask(&mut self, message: impl Into<Message>) -> Message {
        self.heard.clear();
        self.hear(Heartbeat { beat: 0 });
        self.hear(message);
        self.settle();
        self.heard.pop().expect("an answer")
    }

    fn set(&mut self, spec: ScheduleSpec) -> ScheduleReply {
        let (call_number, caller, spec) = (1, self.operator(), Box::new(spec));
        match self.ask(call_as(call_number, caller, SetSchedule { spec })) {
            Message::Reply(Reply { answer: Answered::Known(Answer::ScheduleReply(reply)), .. }) => reply,
            other => panic!("{other:?}"),
        }
    }

    fn show(&mut self, name: &str) -> ScheduleInfo {
        let (call_number, caller, name) = (1, caller(), name.to_owned());
        match self.ask(call_as(call_number, caller, AskOccurrences { name, count: 0 })) {
            Message::Reply(Reply { answer: Answered::Known(Answer::ScheduleReply(reply)), .. }) => *reply.schedule,
            other => panic!("{other:?}"),
        }
    }

    fn pause(&mut self, name: &str) -> Message {
        let (call_number, caller, name) = (1, self.operator(), name.to_owned());
        self.ask(call_as(call_number, caller, PauseSchedule { name }))
    }

    fn resume(&mut self, name: &str) -> Message {
        let (call_number, caller, name) = (1, self.operator(), name.to_owned());
        self.ask(call_as(call_number, caller, ResumeSchedule { name }))
    }

    fn remove(&mut self, name: &str) -> Message {
        let (call_number, caller, name) = (1, self.operator(), name.to_owned());
        self.ask(call_as(call_number, caller, RemoveSchedule { name }))
    }

    fn backfill(&mut self, name: &str, from: Time, to: Time) -> Result<BackfillReply, Refusal> {
        let (call_number, caller, name) = (1, self.operator(), name.to_owned());
        match self.ask(call_as(call_number, caller, Backfill { name, from, to, limit: u32::MAX })) {
            Message::Reply(Reply { answer: Answered::Known(Answer::BackfillReply(reply)), .. }) => Ok(reply),
            Message::Reply(Reply { answer: Answered::Known(Answer::RefusedReply(refused)), .. }) => {
                Err(refused.reason)
            }
            other => panic!("{other:?}"),
        }
    }

    /// A run that no worker ever held ends with a cancel.
    fn end(&mut self, name: &str) {
        let id = RunId::from_name(Namespace::default(), name);
        let (call_number, caller, reason) = (1, caller(), String::new());
        let answer = self.ask(call_as(call_number, caller, Cancel { id, reason }));
        assert!(
            matches!(answer, Message::Reply(Reply { answer: Answered::Known(Answer::DoneReply(_)), .. })),
            "{answer:?}"
        );
    }

    fn flush(&mut self) {
        for op in self.stepped.flush().0.iter().flat_map(|batch| batch.iter()) {
            let Some(key) = JournalKey::from_bytes(op.key()) else {
                continue;
            };
            if let Some(value) = op.value().filter(|_| key.entry == 0) {
                let stored = &value[1..value.len() - CHAIN_BYTES];
                if let Ok(Entry::Started(started)) = Entry::decode(stored) {
                    self.air.push((key.run, started));
                }
            }
        }
    }

    fn is_there(&mut self, no: RunNo, started: Started) {
        if !self.seen.insert(no) {
            return;
        }
        let name = started.name.expect("a name");
        self.runs.entry(name).or_default().push(started.at);
    }

    fn settle(&mut self) {
        loop {
            self.flush();
            if !self.stepped.reads.is_empty() {
                self.stepped.read(0);
            } else if !self.stepped.answers.is_empty() {
                self.stepped.answer(0);
            } else if self.stepped.is_due() {
                self.stepped.handle(Input::Ticked);
            } else {
                break;
            }
        }
        let actions = self.stepped.commit();
        let durable = std::mem::take(&mut self.air);
        durable.into_iter().for_each(|(no, started)| self.is_there(no, started));
        for action in actions {
            match action {
                Action::Send { message, .. } => self.heard.push(message),
                Action::Note(note) => self.notes.push(note),
                Action::Dispatch { session, run, token, .. } => {
                    self.dispatched = Some((session, run, token))
                }
                _ => {}
            }
        }
    }

    /// Both clocks go on, from one thing to do to the next.
    fn pass_until(&mut self, end: Time) {
        while self.stepped.wall < end {
            let left = end.since(self.stepped.wall);
            let wakes = self.stepped.core.wakes_at().map(|at| at.saturating_sub(self.stepped.mono));
            let span = wakes.map_or(left, |nap| nap.max(Duration::from_millis(1)).min(left));
            self.stepped.pass(span);
            self.stepped.handle(Input::Ticked);
            self.settle();
        }
    }

    /// Over an occurrence, as far as it comes in so many steps, and nothing of it is committed.
    fn work_on_uncommitted(&mut self, steps: u64) {
        self.stepped.pass(Duration::from_secs(5));
        self.stepped.handle(Input::Ticked);
        for _ in 0..steps {
            self.flush();
            if self.stepped.answers.is_empty() {
                self.stepped.read(0);
            }
            self.stepped.answer(0);
        }
        self.flush();
    }

    fn restart(&mut self, cut: u64) {
        match self.stepped.crash(cut) {
            Ok(()) => {}
            Err(OpenRefused::ClockBehind { mark, .. }) => {
                self.stepped.wall = mark; // an operator sets it right
                self.stepped.reopen().expect("a store with the right clock opens");
            }
            Err(refused) => panic!("{refused}"),
        }
        for (no, started) in std::mem::take(&mut self.air) {
            let index = store_reader::index(&self.stepped.store, started.namespace, started.id);
            if block_on(index).expect("an index row can be read").is_some() {
                self.is_there(no, started);
            }
        }
    }

    /// All runs by name, and when they were started.
    fn runs(&self) -> BTreeMap<String, Vec<Time>> {
        self.runs.clone()
    }
}

/// Steps back and forward by up to five minutes, from one number.
struct Skew(u64);

impl Skew {
    fn next(&mut self, below: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// 06:00 of every day of 2026 in a zone that is `winter` and `summer` minutes ahead of UTC.
fn at_six(winter: i64, summer: i64, summer_is: std::ops::Range<u64>) -> Vec<Time> {
    let at = |day: u64| {
        let wall = (NEW_YEAR.0 + day * DAY + 6 * HOUR) as i64;
        let utc = |offset: i64| (wall - offset * MINUTE as i64) as u64;
        let at = utc(summer);
        Time(if summer_is.contains(&at) { at } else { utc(winter) })
    };
    (0..365).map(at).collect()
}

// A18, A19: a year of schedules in three zones, each occurrence once, under restarts and power cuts
// at the tick, clocks up to five minutes off, and steps back. The core is stepped by hand, on a
// store in memory that loses power.
#[test]
fn a_year_of_schedules_has_every_occurrence_once() {
    let mut desk = Desk::new(Time(NEW_YEAR.0 - 10 * MINUTE));
    desk.stepped.check_every = 499;
    for (name, when) in [
        ("utc", cron("0 6 * * *", "UTC")),
        ("berlin", cron("0 6 * * *", "Europe/Berlin")),
        ("new-york", cron("0 0 6 * * *", "America/New_York")),
        ("quarters", cron("*/15 * * * *", "UTC")),
        ("interval", every(15 * MINUTE, Time(0))),
    ] {
        // Runs end, since the next one takes their place.
        desk.set(spec(name, when, Overlap::CancelOld));
    }
    let (mut skew, mut restarts, mut steps) = (Skew(1), 0, 0);
    let end = Time(NEW_YEAR.0 + 365 * DAY);
    while desk.stepped.core.now() < Time(end.0 - 20 * MINUTE) {
        // To just before, onto, or just behind the next occurrence.
        let quarter = desk.stepped.core.now().0 / (15 * MINUTE) * (15 * MINUTE) + 15 * MINUTE;
        let to = Time(quarter + skew.next(4_000)).0 - 2_000;
        let ahead = Time(to).since(desk.stepped.core.now());
        let wall = desk.stepped.wall.after(ahead);
        desk.pass_until(wall);
        match skew.next(48) {
            0 => {
                restarts += 1;
                desk.work_on_uncommitted(skew.next(12));
                desk.restart(skew.next(u64::MAX));
            }
            1 => {
                desk.stepped.wall =
                    desk.stepped.wall.after(Duration::from_millis(skew.next(5 * MINUTE)))
            }
            2 => desk.stepped.wall = Time(desk.stepped.wall.0 - skew.next(5 * MINUTE)),
            _ => continue,
        }
        steps += 1;
        desk.stepped.handle(Input::Ticked);
        desk.settle();
    }
    let last = desk.stepped.wall.after(end.since(desk.stepped.core.now()) + Duration::from_secs(1));
    desk.pass_until(last);
    assert!(restarts > 500 && steps > 1_500, "{restarts} restarts of {steps}");

    let berlin = NEW_YEAR.0 + 87 * DAY + HOUR..NEW_YEAR.0 + 297 * DAY + HOUR;
    let new_york = NEW_YEAR.0 + 66 * DAY + 7 * HOUR..NEW_YEAR.0 + 304 * DAY + 6 * HOUR;
    let quarters: Vec<Time> = (0..35_040).map(|n| Time(NEW_YEAR.0 + n * 15 * MINUTE)).collect();
    let runs = desk.runs();
    for (name, nominals) in [
        ("utc", at_six(0, 0, 0..0)),
        ("berlin", at_six(60, 120, berlin)),
        ("new-york", at_six(-300, -240, new_york)),
        ("quarters", quarters.clone()),
        ("interval", quarters),
    ] {
        let of = |run: &&String| run.starts_with(&format!("schedule/{name}/"));
        let in_year = |run: &&String| !run.contains("/2025-") && !run.contains("/2027-");
        let found = runs.keys().filter(of).filter(in_year).count();
        assert_eq!(found, nominals.len(), "{name}");
        for nominal in nominals {
            let run = format!("schedule/{name}/{}", nominal_text(nominal));
            let started = runs.get(&run).unwrap_or_else(|| panic!("{run} is missing"));
            assert_eq!(started.len(), 1, "{run} is there once");
            assert!(started[0] >= nominal, "{run} was started at {}", started[0]);
        }
    }
}

#[test]
fn an_occurrence_is_started_at_its_instant_and_never_before() {
    let mut desk = Desk::new(NEW_YEAR);
    desk.set(spec("often", every(10_000, NEW_YEAR), Overlap::Allow));
    desk.pass_until(Time(NEW_YEAR.0 + 9_999));
    assert!(desk.runs().is_empty());
    desk.pass_until(Time(NEW_YEAR.0 + 10_000));
    let run = "schedule/often/2026-01-01T00:00:10Z";
    assert_eq!(desk.runs()[run], [Time(NEW_YEAR.0 + 10_000)]);
}

#[test]
fn jitter_puts_an_occurrence_off_and_leaves_its_nominal_time() {
    let mut desk = Desk::new(NEW_YEAR);
    let mut jittered = spec("jittered", every(10_000, NEW_YEAR), Overlap::Allow);
    jittered.jitter_ms = HOUR; // never beyond the next one
    desk.set(jittered);
    desk.pass_until(Time(NEW_YEAR.0 + 1_000_500));
    let mut delays = Vec::new();
    for (n, (run, started)) in (1u64..).zip(desk.runs()) {
        let nominal = Time(NEW_YEAR.0 + n * 10_000);
        assert_eq!(run, format!("schedule/jittered/{}", nominal_text(nominal)));
        delays.push(started[0].since(nominal).as_millis());
    }
    assert!(delays.len() >= 99 && delays.iter().all(|delay| *delay < 10_000), "{delays:?}");
    assert!(delays.iter().any(|delay| *delay > 5_000) && delays.iter().any(|delay| *delay < 2_000));
}

// A19: what was missed while the engine was away is not made up for, but for the newest of the last
// hour.
#[test]
fn of_what_was_missed_only_the_newest_in_the_window_is_started() {
    let mut desk = Desk::new(NEW_YEAR);
    desk.set(spec("quarters", every(15 * MINUTE, NEW_YEAR), Overlap::Allow));
    desk.set(spec("daily", cron("0 6 * * *", "UTC"), Overlap::Allow));
    desk.settle();
    desk.stepped.pass(Duration::from_millis(8 * HOUR + 5 * MINUTE));
    desk.restart(0);
    desk.stepped.handle(Input::Ticked);
    desk.settle();
    let runs: Vec<String> = desk.runs().into_keys().collect();
    assert_eq!(runs, ["schedule/quarters/2026-01-01T08:00:00Z"]);
    desk.hello();
    let (quarters, daily) = (desk.show("quarters").state, desk.show("daily").state);
    assert_eq!((quarters.started, quarters.missed), (1, 31));
    assert_eq!((daily.started, daily.missed), (0, 1));
    let noted = desk.notes.iter().filter(|note| matches!(note, Note::OccurrencesMissed { .. }));
    assert_eq!(noted.count(), 2);
}

#[test]
fn a_paused_schedule_starts_nothing_and_goes_on_from_now() {
    let mut desk = Desk::new(NEW_YEAR);
    desk.set(spec("often", every(MINUTE, NEW_YEAR), Overlap::Allow));
    desk.pass_until(Time(NEW_YEAR.0 + 61_000));
    desk.hello();
    assert!(
        matches!(desk.pause("often"), Message::Reply(Reply { answer: Answered::Known(Answer::ScheduleReply(reply)), .. }) if reply.changed)
    );
    assert!(
        matches!(desk.pause("often"), Message::Reply(Reply { answer: Answered::Known(Answer::ScheduleReply(reply)), .. }) if !reply.changed)
    );
    desk.pass_until(Time(NEW_YEAR.0 + 10 * MINUTE + 1_000));
    desk.restart(0);
    desk.hello();
    assert_eq!(desk.runs().len(), 1);
    assert_eq!(desk.show("often").state.paused_by.as_deref(), Some("desk"));
    assert!(
        matches!(desk.resume("often"), Message::Reply(Reply { answer: Answered::Known(Answer::ScheduleReply(reply)), .. }) if reply.changed)
    );
    desk.pass_until(Time(NEW_YEAR.0 + 11 * MINUTE + 500));
    let runs: Vec<String> = desk.runs().into_keys().collect();
    assert_eq!(runs[1..], ["schedule/often/2026-01-01T00:11:00Z"]);
}

// A18: a deploy sets its schedules again, with another version: what is due and put off by its
// jitter comes all the same, and what waits for the last run goes on waiting.
#[test]
fn a_schedule_that_is_set_to_the_same_times_loses_no_occurrence() {
    let mut desk = Desk::new(NEW_YEAR);
    let mut nightly = spec("nightly", cron("0 6 * * *", "UTC"), Overlap::QueueAll);
    nightly.jitter_ms = 30 * MINUTE;
    let next = desk.set(nightly.clone()).schedule.state.next;
    let due = nightly.due(&Calendar::new(&nightly.when).unwrap(), next.unwrap());
    assert!(due > Time(NEW_YEAR.0 + 6 * HOUR + MINUTE), "{due}");
    desk.pass_until(Time(NEW_YEAR.0 + 6 * HOUR + MINUTE));
    desk.hello();
    nightly.version = 2;
    let reply = desk.set(nightly.clone());
    assert!(reply.changed);
    assert_eq!(reply.schedule.state.next, next);
    desk.pass_until(Time(due.0 + 1_000));
    let runs = || "schedule/nightly/2026-01-01T06:00:00Z".to_owned();
    assert_eq!(desk.runs().into_keys().collect::<Vec<_>>(), [runs()]);

    // The next one waits for the first.
    desk.pass_until(Time(NEW_YEAR.0 + 31 * HOUR));
    desk.hello();
    nightly.version = 3;
    let waits = desk.set(nightly.clone()).schedule.state;
    assert_eq!((waits.pending.len(), waits.missed), (1, 0));
    nightly.overlap = Overlap::Skip;
    let missed = desk.set(nightly).schedule.state;
    assert_eq!((missed.pending.len(), missed.missed), (0, 1));
    let noted = |note: &Note| matches!(note, Note::OccurrencesMissed { missed: 1, .. });
    assert!(desk.notes.iter().any(noted), "{:?}", desk.notes);
    let who = |note: &&Note| matches!(note, Note::ScheduleSet { by, .. } if by == "desk");
    assert_eq!(desk.notes.iter().filter(who).count(), 4);
}

#[test]
fn set_again_it_is_the_same_and_changed_it_goes_on_from_now() {
    let mut desk = Desk::new(NEW_YEAR);
    let hourly = spec("report", cron("0 * * * *", "UTC"), Overlap::Skip);
    assert!(desk.set(hourly.clone()).changed);
    assert!(!desk.set(hourly.clone()).changed);
    let mut other = hourly;
    other.when = cron("30 * * * *", "UTC");
    let reply = desk.set(other);
    assert!(reply.changed);
    assert_eq!(reply.schedule.state.next, Some(Time(NEW_YEAR.0 + 30 * MINUTE)));
    assert!(matches!(
        desk.remove("report"),
        Message::Reply(Reply { answer: Answered::Known(Answer::DoneReply(_)), .. })
    ));
    let gone = desk.remove("report");
    assert!(
        matches!(&gone, Message::Reply(Reply { answer: Answered::Known(Answer::RefusedReply(refused)), .. }) if matches!(refused.reason, Refusal::NoSuchSchedule(_))),
        "{gone:?}"
    );
    desk.pass_until(Time(NEW_YEAR.0 + 2 * HOUR));
    assert!(desk.runs().is_empty());
}

fn names(desk: &Desk) -> Vec<String> {
    let names = desk.runs().into_keys();
    names.map(|name| name.trim_start_matches("schedule/s/2026-01-01T00:").to_owned()).collect()
}

fn overlapping(overlap: Overlap) -> Desk {
    let mut desk = Desk::new(NEW_YEAR);
    desk.set(spec("s", every(MINUTE, NEW_YEAR), overlap));
    desk.pass_until(Time(NEW_YEAR.0 + 3 * MINUTE + 500));
    desk.restart(0); // what is known of the last run is read again
    desk.pass_until(Time(NEW_YEAR.0 + 4 * MINUTE + 500));
    desk.hello();
    desk
}

#[test]
fn skip_leaves_out_what_comes_due_while_the_last_run_goes() {
    let mut desk = overlapping(Overlap::Skip);
    assert_eq!(names(&desk), ["01:00Z"]);
    desk.end("schedule/s/2026-01-01T00:01:00Z");
    desk.pass_until(Time(NEW_YEAR.0 + 6 * MINUTE + 500));
    assert_eq!(names(&desk), ["01:00Z", "05:00Z"]);
    desk.hello();
    assert_eq!(desk.show("s").state.skipped, 4);
}

#[test]
fn queue_one_keeps_one_and_queue_all_keeps_all() {
    let mut desk = overlapping(Overlap::QueueOne);
    desk.end("schedule/s/2026-01-01T00:01:00Z");
    assert_eq!(names(&desk), ["01:00Z", "02:00Z"]);
    assert_eq!(desk.show("s").state.skipped, 2);
    let mut desk = overlapping(Overlap::QueueAll);
    assert_eq!(desk.show("s").state.pending.len(), 3);
    for minute in 1..=3 {
        desk.end(&format!("schedule/s/2026-01-01T00:0{minute}:00Z"));
    }
    assert_eq!(names(&desk), ["01:00Z", "02:00Z", "03:00Z", "04:00Z"]);
    assert!(desk.show("s").state.pending.is_empty());
}

#[test]
fn queue_all_keeps_a_hundred_and_misses_the_others() {
    let mut desk = Desk::new(NEW_YEAR);
    desk.set(spec("s", every(MINUTE, NEW_YEAR), Overlap::QueueAll));
    desk.pass_until(Time(NEW_YEAR.0 + 110 * MINUTE + 500));
    desk.hello();
    let state = desk.show("s").state;
    assert_eq!((state.started, state.pending.len(), state.missed), (1, 100, 9));
}

#[test]
fn cancel_old_stops_the_last_run_and_allow_does_not_look_at_it() {
    let desk = overlapping(Overlap::CancelOld);
    assert_eq!(names(&desk), ["01:00Z", "02:00Z", "03:00Z", "04:00Z"]);
    let stats = desk.stepped.core.stats();
    assert_eq!(stats.runs_in(crate::model::run::RunState::Cancelled), 3);
    let desk = overlapping(Overlap::Allow);
    assert_eq!(names(&desk), ["01:00Z", "02:00Z", "03:00Z", "04:00Z"]);
    let stats = desk.stepped.core.stats();
    assert_eq!(stats.runs_in(crate::model::run::RunState::Queued), 4);
}

impl Desk {
    /// A worker comes, and the run dispatched to it fails for good.
    fn fail(&mut self) {
        let session = SessionId(2);
        let message = Hello::test(ProcessInstance(2), "desk").into();
        self.stepped.handle(Input::Received { session, message });
        let register = Register {
            build: "b1".to_owned(),
            workflows: vec![WorkflowOffer::test("report")],
            queues: vec![slots("default", 1)],
            held: Vec::new(),
            tags: Vec::new(),
        };
        let message = register.into();
        self.stepped.handle(Input::Received { session, message });
        self.settle();
        let (session, run, token) = self.dispatched.take().expect("a run is dispatched");
        let message = TurnFailed {
            run,
            token,
            failure: Failure::terminal("broken"),
            whole: false,
            end: None,
        };
        let message = message.into();
        self.stepped.handle(Input::Received { session, message });
        let goodbye = true;
        self.stepped.handle(Input::SessionClosed { session, goodbye });
        self.settle();
    }

    fn redrive(&mut self, name: &str) {
        let id = RunId::from_name(Namespace::default(), name);
        let (call_number, caller) = (1, self.operator());
        let answer = self.ask(call_as(call_number, caller, Redrive { id }));
        assert!(
            matches!(answer, Message::Reply(Reply { answer: Answered::Known(Answer::DoneReply(_)), .. })),
            "{answer:?}"
        );
    }
}

// O6: a dead letter is over, and redriven it is not.
#[test]
fn the_last_run_of_a_schedule_goes_on_when_it_is_redriven() {
    let first = "schedule/s/2026-01-01T00:01:00Z";
    let redriven = |overlap| {
        let mut desk = Desk::new(NEW_YEAR);
        desk.set(spec("s", every(MINUTE, NEW_YEAR), overlap));
        desk.pass_until(Time(NEW_YEAR.0 + MINUTE + 500));
        desk.fail();
        desk.hello();
        desk.redrive(first);
        desk.pass_until(Time(NEW_YEAR.0 + 3 * MINUTE + 500));
        desk
    };
    for (overlap, begun) in [(Overlap::Skip, "04:00Z"), (Overlap::QueueAll, "02:00Z")] {
        let mut desk = redriven(overlap);
        assert_eq!(names(&desk), ["01:00Z"], "{overlap:?}");
        desk.fail();
        desk.pass_until(Time(NEW_YEAR.0 + 4 * MINUTE + 500));
        assert_eq!(names(&desk), ["01:00Z", begun], "{overlap:?}");
    }
    let mut desk = redriven(Overlap::CancelOld);
    assert_eq!(names(&desk), ["01:00Z", "02:00Z", "03:00Z"]);
    desk.hello();
    let id = RunId::from_name(Namespace::default(), first);
    let (call_number, caller) = (1, caller());
    let status = desk.ask(call_as(call_number, caller, AskStatus { id }));
    let Message::Reply(Reply { answer: Answered::Known(Answer::StatusReply(status)), .. }) = status else {
        panic!("{status:?}");
    };
    assert_eq!(status.run.entries, 4, "started, died, redriven, asked to stop");
}

// O6: also if that comes between the decision to start the next one and its start.
#[test]
fn a_run_that_is_redriven_while_the_next_one_is_looked_up_hinders_it() {
    let mut desk = Desk::new(NEW_YEAR);
    desk.set(spec("s", every(MINUTE, NEW_YEAR), Overlap::Skip));
    desk.pass_until(Time(NEW_YEAR.0 + MINUTE + 500));
    desk.fail();
    desk.hello();
    let first = RunId::from_name(Namespace::default(), "schedule/s/2026-01-01T00:01:00Z");
    desk.stepped.pass(Duration::from_millis(MINUTE - 500));
    desk.hear(Heartbeat { beat: 0 });
    desk.hear(call_as(1, caller(), Redrive { id: first }));
    desk.flush();
    desk.stepped.handle(Input::Ticked);
    desk.flush();
    // Its id, then the run itself; the id of the next one is looked up meanwhile, and told last.
    desk.stepped.read(0);
    desk.stepped.answer(0);
    desk.flush();
    desk.stepped.read(1);
    desk.stepped.answer(0);
    desk.settle();
    assert_eq!(names(&desk), ["01:00Z"]);
    assert_eq!(desk.show("s").state.skipped, 1);
}

// N1: a request that comes again, late and over another connection, must not undo what was asked
// since: not while the schedule is there, not once it is gone, and not after a restart.
#[test]
fn a_late_copy_of_a_request_undoes_nothing() {
    let mut desk = Desk::new(NEW_YEAR);
    let (daily, hourly) = (every(DAY, NEW_YEAR), every(HOUR, NEW_YEAR));
    let set = |desk: &mut Desk, request_id, when: &When| {
        desk.request_id = request_id;
        desk.set(spec("s", when.clone(), Overlap::Skip))
    };
    assert!(set(&mut desk, 1, &daily).changed);
    desk.request_id = 2;
    desk.pause("s");
    desk.request_id = 3;
    desk.resume("s");
    assert!(set(&mut desk, 4, &hourly).changed);
    for restarts in [false, true] {
        if restarts {
            desk.restart(0);
            desk.hello();
        }
        desk.request_id = 2;
        let Message::Reply(Reply { answer: Answered::Known(Answer::ScheduleReply(again)), .. }) = desk.pause("s")
        else {
            panic!("the schedule as it is");
        };
        assert!(!again.changed && again.schedule.state.paused_by.is_none());
        let again = set(&mut desk, 1, &daily);
        assert!(!again.changed && again.schedule.spec.when == hourly);
    }

    desk.pass_until(Time(NEW_YEAR.0 + HOUR + MINUTE));
    desk.hello();
    desk.request_id = 5;
    let day = (Time(NEW_YEAR.0 - DAY), NEW_YEAR);
    let filled = desk.backfill("s", day.0, day.1).unwrap();
    assert_eq!((filled.started, filled.existed), (24, 0));
    set(&mut desk, 6, &every(MINUTE, NEW_YEAR));
    desk.request_id = 5;
    let filled = desk.backfill("s", day.0, day.1).unwrap();
    assert_eq!((filled.started, filled.existed), (0, 100));

    desk.request_id = 7;
    desk.remove("s");
    desk.request_id = 1;
    let spec = Box::new(spec("s", daily, Overlap::Skip));
    let (call_number, caller) = (1, desk.operator());
    let again = desk.ask(call_as(call_number, caller, SetSchedule { spec }));
    let gone = |answer: &Message| matches!(answer, Message::Reply(Reply { answer: Answered::Known(Answer::RefusedReply(refused)), .. }) if matches!(refused.reason, Refusal::NoSuchSchedule(_)));
    assert!(gone(&again), "{again:?}");
    desk.request_id = 7;
    let again = desk.remove("s");
    assert!(
        matches!(again, Message::Reply(Reply { answer: Answered::Known(Answer::DoneReply(_)), .. })),
        "{again:?}"
    );
    desk.request_id = 8;
    let other = desk.remove("s");
    assert!(gone(&other), "{other:?}");
}

// A19: firing twice is harmless: a backfill over what has been started starts nothing again.
#[test]
fn a_backfill_starts_what_is_missing_page_by_page() {
    let mut desk = Desk::new(NEW_YEAR);
    desk.set(spec("s", every(MINUTE, NEW_YEAR), Overlap::Skip));
    desk.pass_until(Time(NEW_YEAR.0 + 3 * MINUTE + 500));
    desk.hello();
    let (from, to) = (Time(NEW_YEAR.0 - 147 * MINUTE), Time(NEW_YEAR.0 + 3 * MINUTE + 1));
    let first = desk.backfill("s", from, to).unwrap();
    assert_eq!((first.started, first.existed), (100, 0));
    let next = first.next.unwrap();
    let second = desk.backfill("s", next, to).unwrap();
    assert_eq!((second.started, second.existed, second.next), (50, 1, None));
    let again = desk.backfill("s", next, to).unwrap();
    assert_eq!((again.started, again.existed, again.next), (0, 51, None));
    assert!(desk.runs().values().all(|started| started.len() == 1));
    assert_eq!(desk.runs().len(), 151);
    let empty = desk.backfill("s", from, from).unwrap();
    assert_eq!((empty.started, empty.existed, empty.next), (0, 0, None));
    let future = desk.backfill("s", from, Time(NEW_YEAR.0 + HOUR));
    assert!(matches!(future, Err(Refusal::BadBackfill(_))), "{future:?}");
}

#[test]
fn a_schedule_that_cannot_be_is_refused_with_what_to_do() {
    let mut desk = Desk::new(NEW_YEAR);
    let mut refused = |change: &dyn Fn(&mut ScheduleSpec)| {
        let mut spec = spec("s", every(MINUTE, NEW_YEAR), Overlap::Skip);
        change(&mut spec);
        let (call_number, caller, spec) = (1, caller(), Box::new(spec));
        match desk.ask(call_as(call_number, caller, SetSchedule { spec })) {
            Message::Reply(Reply { answer: Answered::Known(Answer::RefusedReply(refused)), .. }) => {
                refused.reason.to_string()
            }
            other => panic!("{other:?}"),
        }
    };
    let hour = refused(&|spec| spec.when = cron("0 25 * * *", "UTC"));
    assert!(hour.contains("wrong at character 3: `25` is not a valid hour: 0 to 23"), "{hour}");
    let zone = refused(&|spec| spec.when = cron("0 5 * * *", "Europe/Berln"));
    assert!(
        zone.contains("there is no time zone `Europe/Berln`: did you mean Europe/Berlin"),
        "{zone}"
    );
    let fields = refused(&|spec| spec.when = cron("0 5 *", "UTC"));
    assert!(fields.contains("it has 3 fields: 5 are expected"), "{fields}");
    let never = refused(&|spec| spec.when = cron("0 0 30 2 *", "UTC"));
    assert!(never.contains("never matches"), "{never}");
    let short = refused(&|spec| spec.when = every(10, NEW_YEAR));
    assert!(short.contains("the interval is 10ms: from 1s to 366d are allowed"), "{short}");
    let large = refused(&|spec| spec.input = Payload(vec![0; 2_049].into()));
    assert!(large.contains("the input has 2049 bytes"), "{large}");
    let window = refused(&|spec| spec.catch_up_ms = 0);
    assert!(window.contains("the catch-up window is 0ms"), "{window}");
}
