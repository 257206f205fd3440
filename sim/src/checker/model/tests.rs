//! Histories made by hand: those that an engine may leave, and those that it may not.

use std::collections::BTreeMap;

use stepwell::model::failure::Failure;
use stepwell::model::id::{Namespace, RequestId, RunId, RunNo};
use stepwell::model::request::{
    HasEnded, IdTaken, NoSuchRun, NotAllStarted, NotDead, NotResumable, Offenders,
};
use stepwell::model::run::{
    OutcomeCancelled, OutcomeCompleted, OutcomeDead, OutcomePending, RunSummary,
};
use stepwell::model::time::Time;

use super::*;
use crate::client_log::{AskedAction, Moment};

fn payload(value: u64) -> Payload {
    Payload::of(&value).unwrap()
}

fn id() -> RunId {
    RunId::from_name(Namespace::default(), "r")
}

fn start(value: u64) -> Asked {
    Asked::Start { workflow: "w".to_owned(), input: payload(value), delayed: false }
}

fn start_delayed(value: u64) -> Asked {
    let (workflow, input) = ("w".to_owned(), payload(value));
    Asked::Start { workflow, input, delayed: true }
}

const WAIT: Asked = Asked::Outcome { waits: true };
const PEEK: Asked = Asked::Outcome { waits: false };

fn completed(value: u64) -> Outcome {
    let output = payload(value);
    OutcomeCompleted { output }.into()
}

fn cancelled() -> Outcome {
    OutcomeCancelled {}.into()
}

fn pending() -> Answer {
    let state = RunState::Running;
    Answer::Outcome(OutcomePending { state }.into())
}

fn status(state: RunState, entries: u32) -> Answer {
    Answer::Status(RunSummary {
        id: id(),
        name: Some("r".to_owned()),
        no: RunNo(1),
        workflow: "w".to_owned(),
        queue: "default".to_owned(),
        state,
        started_at: Time(0),
        changed_at: Time(0),
        entries,
        wakes_at: None,
        reason: None,
        process: None,
        batch: None,
    })
}

fn none_such() -> Answer {
    Answer::Refused(NoSuchRun { id: id() }.into())
}

fn taken() -> Answer {
    let (differs, existing, asked) = ("input".to_owned(), String::new(), String::new());
    let refusal = IdTaken { id: id(), differs, existing, asked };
    Answer::Refused(refusal.into())
}

fn has_ended(state: RunState) -> Answer {
    Answer::Refused(HasEnded { id: id(), state }.into())
}

fn not_resumable(state: RunState) -> Answer {
    Answer::Refused(NotResumable { id: id(), state }.into())
}

/// A journal of ten entries.
fn held(value: u64, asked: bool, end: Option<Outcome>) -> Option<Held> {
    Some(Held {
        workflow: "w".to_owned(),
        input: payload(value),
        asked,
        entries: 10,
        acts: Vec::new(),
        ends: vec![end.map(|end| (9, end))],
    })
}

fn dead() -> Outcome {
    let failure = Failure::terminal("no");
    OutcomeDead { failure }.into()
}

/// A journal of ten entries: dead with entry 3, edited by request 1, redriven by request 2, and
/// completed.
fn redriven() -> Option<Held> {
    let act = |index, request_id, kind| (index, RequestId(request_id), kind);
    Some(Held {
        acts: vec![act(4, 1, AuditAction::Edit), act(5, 2, AuditAction::Redrive)],
        ends: vec![Some((3, dead())), Some((9, completed(7)))],
        ..held(1, false, None)?
    })
}

fn act(request_id: u128, action: AskedAction) -> Asked {
    Asked::Operate { request_id: RequestId(request_id), action }
}

fn not_dead(state: RunState) -> Answer {
    Answer::Refused(NotDead { id: id(), state }.into())
}

// A49: each life of a run has its outcome, and what was told of one does not hold for the next.
#[test]
fn an_outcome_holds_until_the_run_is_redriven() {
    let begun = (1, 2, start(1), Answer::Started(true));
    let told = |from, outcome| (from, from + 1, PEEK, Answer::Outcome(outcome));
    let edited = (6, 7, act(1, AskedAction::Edit(payload(2))), Answer::Done);
    let redrive = (8, 9, act(2, AskedAction::Redrive), Answer::Done);
    let made = |more: &[Made]| {
        let first = [begun.clone(), told(4, dead()), edited.clone(), redrive.clone()];
        first.into_iter().chain(more.to_vec()).collect::<Vec<_>>()
    };
    holds(&made(&[told(10, completed(7))]), redriven());
    fails(&made(&[told(10, dead())]), redriven());
    let early = [begun.clone(), told(4, completed(7)), edited.clone(), redrive.clone()];
    fails(&early, redriven());
    // While it was dead it had four entries, and five once it was edited.
    let entries = |from, count| (from, from + 1, Asked::Status, status(RunState::Dead, count));
    holds(&[begun.clone(), entries(4, 4), edited.clone(), redrive.clone()], redriven());
    fails(&[begun.clone(), entries(4, 5), edited.clone(), redrive.clone()], redriven());
}

// D5: a request that was answered late, or twice, has acted once.
#[test]
fn a_request_takes_effect_once() {
    let begun = (1, 2, start(1), Answer::Started(true));
    let edit = |from, until, answer| (from, until, act(1, AskedAction::Edit(payload(2))), answer);
    let redrive = |from, until, answer| (from, until, act(2, AskedAction::Redrive), answer);
    holds(
        &[
            begun.clone(),
            edit(3, 0, Answer::Unknown),
            redrive(4, 5, Answer::Done),
            edit(6, 7, Answer::Done),
            redrive(8, 9, Answer::Done),
            (10, 11, act(3, AskedAction::Redrive), not_dead(RunState::Completed)),
        ],
        redriven(),
    );
    // One that has acted is not refused, one that was acknowledged is in the journal, and they are
    // in its order.
    let refused = redrive(10, 11, not_dead(RunState::Completed));
    fails(
        &[begun.clone(), edit(3, 4, Answer::Done), redrive(5, 6, Answer::Done), refused],
        redriven(),
    );
    let done = (10, 11, act(3, AskedAction::Redrive), Answer::Done);
    fails(
        &[begun.clone(), edit(3, 4, Answer::Done), redrive(5, 6, Answer::Done), done],
        redriven(),
    );
    fails(&[begun.clone(), redrive(3, 4, Answer::Done), edit(5, 6, Answer::Done)], redriven());
    // What nobody asked for is not done.
    fails(&[begun, edit(3, 4, Answer::Done)], redriven());
}

#[test]
fn what_is_discarded_stays_ended() {
    let begun = (1, 2, start(1), Answer::Started(true));
    let journal = || {
        Some(Held {
            acts: vec![(4, RequestId(1), AuditAction::Discard)],
            ends: vec![Some((3, dead()))],
            entries: 5,
            ..held(1, false, None)?
        })
    };
    let discard = (3, 4, act(1, AskedAction::Discard), Answer::Done);
    let peek = (5, 6, PEEK, Answer::Outcome(dead()));
    let gone = |state| (7, 8, act(2, AskedAction::Redrive), not_dead(state));
    let made = |last| [begun.clone(), discard.clone(), peek.clone(), last];
    holds(&made(gone(RunState::Discarded)), journal());
    fails(&made(gone(RunState::Running)), journal());
    let asked = (7, 8, Asked::Cancel, has_ended(RunState::Discarded));
    holds(&made(asked), journal());
}

fn done(value: u64) -> Option<Held> {
    held(value, false, Some(completed(7)))
}

/// A call from one time to another; 0 for one that never came back.
type Made = (u64, u64, Asked, Answer);

fn history(made: &[Made], journal: Option<Held>, repeats: bool) -> CallHistory {
    lives(made, journal.into_iter().collect(), &[], repeats)
}

/// Several runs of the name, forgotten at these times.
fn lives(made: &[Made], held: Vec<Held>, forgotten: &[(u64, u64)], repeats: bool) -> CallHistory {
    let mut times: BTreeMap<u64, u64> = BTreeMap::new();
    for (from, until, ..) in made {
        times.extend([(*from, 0), (*until, 0)]);
    }
    let moment = |at_ms: u64| Moment { order: at_ms, at_ms };
    let call = |(from, until, asked, answer): &Made| Call {
        client: "client-1.1".to_owned(),
        asked: asked.clone(),
        begun: moment(*from),
        ended: (*until > 0).then(|| moment(*until)),
        answer: answer.clone(),
    };
    let forgotten =
        forgotten.iter().map(|(from, until)| Forgotten { from: *from, until: *until }).collect();
    CallHistory::new(made.iter().map(call).collect(), (held, forgotten), (repeats, false))
}

#[track_caller]
fn holds(made: &[Made], journal: Option<Held>) {
    let history = history(made, journal, false);
    let verdict = history.verdict();
    assert_eq!(verdict, SearchVerdict::Explained, "{}", history.story("r"));
}

/// It does not hold; the story, without the spaces that only align it.
#[track_caller]
fn fails(made: &[Made], journal: Option<Held>) -> String {
    let history = history(made, journal, false);
    assert_eq!(history.verdict(), SearchVerdict::Unexplained);
    let story = history.story("r");
    println!("{story}\n");
    let lines = story.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn an_ordinary_life_is_explained() {
    holds(
        &[
            (1, 4, PEEK, none_such()),
            (5, 20, start(1), Answer::Started(true)),
            (6, 90, WAIT, Answer::Outcome(completed(7))),
            (21, 30, start(1), Answer::Started(false)),
            (22, 31, start(2), taken()),
            (32, 40, PEEK, pending()),
            (41, 45, Asked::Status, status(RunState::Suspended, 4)),
            (46, 50, Asked::Resume, not_resumable(RunState::Running)),
            (80, 91, Asked::Status, status(RunState::Completed, 10)),
            (92, 95, Asked::Cancel, has_ended(RunState::Completed)),
            (96, 99, Asked::Resume, not_resumable(RunState::Completed)),
            (97, 98, start(1), Answer::Started(false)),
        ],
        done(1),
    );
    holds(&[(1, 2, Asked::Status, none_such())], None);
}

// The engine's first promise.
#[test]
fn a_start_that_was_acknowledged_and_is_gone_is_found() {
    let begun = (1, 10, start(1), Answer::Started(true));
    let story = fails(&[begun.clone(), (20, 30, Asked::Status, none_such())], None);
    assert_eq!(
        story,
        "r: no order of the calls explains the answer marked `->`\n\
         client-1.1 1..10 ms start w 1 began it\n\
         -> client-1.1 20..30 ms status refused: there is no run run_1s98m85rv9jya4vegb3rstnhnp\n\
         until then it was, in every order: live as w 1"
            .replace("run_1s98m85rv9jya4vegb3rstnhnp", &id().to_string())
    );
    let story = fails(&[begun], None);
    assert!(story.contains("-> journal in the end: no such run"), "{story}");
}

// Asked while the start was under way, both answers are right; asked in the other order, one of
// them is not.
#[test]
fn answers_that_overlap_may_come_in_either_order() {
    let begun = (1, 10, start(1), Answer::Started(true));
    holds(&[begun.clone(), (2, 9, PEEK, none_such())], done(1));
    holds(&[begun.clone(), (2, 9, PEEK, pending())], done(1));
    let both = [begun, (2, 5, PEEK, pending()), (6, 9, PEEK, none_such())];
    fails(&both, done(1));
}

#[test]
fn an_outcome_that_changes_is_found() {
    let made = [
        (1, 10, start(1), Answer::Started(true)),
        (11, 50, WAIT, Answer::Outcome(completed(7))),
        (60, 61, PEEK, pending()),
    ];
    fails(&made, done(1));
    let made =
        [(1, 10, start(1), Answer::Started(true)), (11, 50, WAIT, Answer::Outcome(completed(8)))];
    let story = fails(&made, done(1));
    assert!(
        story.contains("-> client-1.1 11..50 ms outcome, once it has ended completed 8"),
        "{story}"
    );
    let made = [
        (1, 10, start(1), Answer::Started(true)),
        (20, 50, Asked::Status, status(RunState::Completed, 10)),
        (51, 60, Asked::Status, status(RunState::Running, 9)),
    ];
    fails(&made, done(1));
}

#[test]
fn a_wait_is_not_answered_before_the_end() {
    let begun = (1, 10, start(1), Answer::Started(true));
    fails(&[begun.clone(), (11, 12, WAIT, pending())], done(1));
    fails(&[begun, (11, 12, WAIT, Answer::Outcome(completed(7)))], held(1, false, None));
}

// A request to stop is cooperative: the function may have been done, or clean up and return.
#[test]
fn a_run_may_complete_though_it_was_asked_to_stop() {
    let begun = (1, 10, start(1), Answer::Started(true));
    let cancel = (11, 20, Asked::Cancel, Answer::Done);
    let asked = |end| held(1, true, Some(end));
    holds(&[begun.clone(), cancel.clone()], asked(completed(7)));
    holds(&[begun.clone(), cancel.clone()], asked(cancelled()));
    let failure = Failure::terminal("no");
    holds(&[begun.clone(), cancel.clone()], asked(OutcomeDead { failure }.into()));
    // Twice is as good as once.
    holds(&[begun, cancel.clone(), cancel], asked(cancelled()));
}

#[test]
fn a_cancel_that_was_acknowledged_and_forgotten_is_found() {
    let begun = (1, 10, start(1), Answer::Started(true));
    let cancel = (11, 20, Asked::Cancel, Answer::Done);
    let story = fails(&[begun.clone(), cancel.clone()], done(1));
    assert!(story.contains("explains its journal"), "{story}");
    assert!(story.contains("ended as w 1, asked to stop, completed 7"), "{story}");
    // And of a run that had ended, or never was.
    fails(&[(1, 2, Asked::Cancel, Answer::Done)], None);
    let ended = (11, 15, PEEK, Answer::Outcome(completed(7)));
    fails(
        &[begun, ended, (16, 20, Asked::Cancel, Answer::Done)],
        held(1, true, Some(completed(7))),
    );
}

#[test]
fn nothing_is_cancelled_that_nobody_asked_to_stop() {
    let begun = (1, 10, start(1), Answer::Started(true));
    let gone = held(1, true, Some(cancelled()));
    fails(&[begun.clone(), (11, 20, WAIT, Answer::Outcome(cancelled()))], gone.clone());
    // A cancel that began after the answer explains nothing.
    let late = (21, 30, Asked::Cancel, has_ended(RunState::Cancelled));
    let told = (11, 20, WAIT, Answer::Outcome(cancelled()));
    fails(&[begun.clone(), told.clone(), late], gone.clone());
    // Its own first copy cancelled it, the second found it so.
    let twice = (11, 30, Asked::Cancel, has_ended(RunState::Cancelled));
    holds(&[begun.clone(), twice], gone.clone());
    let refused = (2, 3, Asked::Cancel, none_such());
    fails(&[(5, 10, start(1), Answer::Started(true)), refused.clone(), told.clone()], gone.clone());
    // Unless the network keeps copies of what was answered.
    let made = [refused, (5, 10, start(1), Answer::Started(true)), told];
    assert_eq!(history(&made, gone, true).verdict(), SearchVerdict::Explained);
}

#[test]
fn a_call_without_an_answer_may_take_effect_late_or_never() {
    let lost = (1, 0, start(1), Answer::Unknown);
    let given_up = (1, 5, start(1), Answer::Unknown);
    for unknown in [lost, given_up] {
        holds(std::slice::from_ref(&unknown), None);
        holds(std::slice::from_ref(&unknown), done(1));
        let late = [
            unknown.clone(),
            (10, 20, Asked::Status, none_such()),
            (30, 40, Asked::Status, status(RunState::Queued, 1)),
        ];
        holds(&late, done(1));
        let back = [unknown.clone(), (10, 20, PEEK, pending()), (30, 40, PEEK, none_such())];
        fails(&back, done(1));
        let found = (10, 20, start(1), Answer::Started(false));
        holds(&[unknown.clone(), found], done(1));
        let began = (10, 20, start(1), Answer::Started(true));
        holds(&[unknown.clone(), began], done(1));
        let other = (10, 20, start(2), Answer::Started(true));
        holds(&[unknown, other], done(2));
    }
    let cancel = (11, 0, Asked::Cancel, Answer::Unknown);
    let begun = (1, 10, start(1), Answer::Started(true));
    holds(&[begun.clone(), cancel.clone()], done(1));
    holds(&[begun, cancel], held(1, true, Some(cancelled())));
}

#[test]
fn a_call_that_was_never_sent_has_no_effect() {
    let unsent = (1, 5, start(1), Answer::NotAsked);
    holds(std::slice::from_ref(&unsent), None);
    fails(&[unsent, (10, 20, PEEK, pending())], None);
}

#[test]
fn a_run_that_two_calls_began_is_found() {
    let made = [(1, 10, start(1), Answer::Started(true)), (5, 15, start(1), Answer::Started(true))];
    fails(&made, done(1));
    // One call may be told that it found what it began itself: its first answer was lost with a
    // connection.
    holds(&[(1, 10, start(1), Answer::Started(false))], done(1));
    let made =
        [(1, 10, start(1), Answer::Started(false)), (11, 20, start(1), Answer::Started(true))];
    fails(&made, done(1));
}

#[test]
fn a_name_is_one_run() {
    let begun = (1, 10, start(1), Answer::Started(true));
    fails(&[begun.clone(), (11, 20, start(1), taken())], done(1));
    fails(&[begun.clone(), (11, 20, start(2), Answer::Started(false))], done(1));
    fails(std::slice::from_ref(&begun), done(2));
    fails(&[(1, 10, start(2), taken())], None);
    holds(&[begun, (2, 9, start(2), taken())], done(1));
}

#[test]
fn a_run_is_delayed_only_at_first_and_only_if_it_was_started_so() {
    let delayed = |from, until| (from, until, Asked::Status, status(RunState::Delayed, 1));
    let queued = |from, until| (from, until, Asked::Status, status(RunState::Queued, 1));
    let begun = (1, 10, start_delayed(1), Answer::Started(true));
    holds(&[begun.clone(), delayed(11, 12), queued(13, 14)], done(1));
    fails(&[begun, queued(11, 12), delayed(13, 14)], done(1));
    let begun = (1, 10, start(1), Answer::Started(true));
    fails(&[begun, delayed(11, 12)], done(1));
}

#[test]
fn a_journal_never_gets_shorter() {
    let entries = |from, count| (from, from + 1, Asked::Status, status(RunState::Running, count));
    let begun = (1, 10, start(1), Answer::Started(true));
    holds(&[begun.clone(), entries(11, 3), entries(13, 3), entries(15, 5)], done(1));
    let story = fails(&[begun.clone(), entries(11, 3), entries(13, 5), entries(15, 4)], done(1));
    // The question that says nothing about it is not in the story.
    assert!(!story.contains("11..12"), "{story}");
    fails(&[begun, entries(11, 11)], done(1));
}

// Forty calls at once have more orders than there are atoms; remembering sets and states makes them
// a few.
#[test]
fn many_calls_at_once_are_no_trouble() {
    let mut made: Vec<Made> = (1..20).map(|n| (n, 100 + n, PEEK, pending())).collect();
    made.extend((20..25).map(|n| (n, 100 + n, start(1), Answer::Started(n == 22))));
    made.extend((25..30).map(|n| (n, 100 + n, Asked::Cancel, Answer::Done)));
    assert_eq!(
        history(&made, held(1, true, Some(cancelled())), true).verdict(),
        SearchVerdict::Explained
    );
}

/// A run that ends and is forgotten between 100 and 110, and what is asked about it.
fn forgotten(more: &[Made], second: Option<Held>) -> SearchVerdict {
    let mut made = vec![
        (1, 10, start(1), Answer::Started(true)),
        (11, 20, WAIT, Answer::Outcome(completed(7))),
    ];
    made.extend_from_slice(more);
    let held = done(1).into_iter().chain(second).collect();
    let history = lives(&made, held, &[(100, 110)], false);
    let verdict = history.verdict();
    if verdict == SearchVerdict::Unexplained {
        println!("{}\n", history.story("r"));
    }
    verdict
}

// Retention ends: nobody knows the run, and its name is free.
#[test]
fn a_run_may_be_forgotten_and_begun_anew() {
    assert_eq!(forgotten(&[], None), SearchVerdict::Explained);
    let unknown = (120, 130, PEEK, none_such());
    let cancel = (121, 131, Asked::Cancel, none_such());
    assert_eq!(forgotten(&[unknown, cancel], None), SearchVerdict::Explained);
    // Somebody who asks while it happens is told the one or the other.
    for answer in [none_such(), Answer::Outcome(completed(7))] {
        let during = (90, 105, PEEK, answer);
        assert_eq!(forgotten(&[during], None), SearchVerdict::Explained);
    }
    // Another run of the name, with another input, which lives, and one that is told of that.
    let second = [
        (120, 130, start(2), Answer::Started(true)),
        (131, 140, start(1), taken()),
        (141, 150, PEEK, pending()),
        (151, 160, Asked::Status, status(RunState::Running, 4)),
    ];
    assert_eq!(forgotten(&second, held(2, false, None)), SearchVerdict::Explained);
    // The same again, by a call that has no answer.
    let again = (120, 0, start(1), Answer::Unknown);
    assert_eq!(forgotten(&[again], done(1)), SearchVerdict::Explained);
}

#[test]
fn a_run_is_not_forgotten_before_its_time() {
    for made in [
        (30, 40, PEEK, none_such()),
        (30, 40, start(1), Answer::Started(true)),
        (30, 99, Asked::Status, none_such()),
    ] {
        assert_eq!(forgotten(&[made], None), SearchVerdict::Unexplained);
    }
    // Nor while it lives.
    let made = [(1, 10, start(1), Answer::Started(true))];
    let live = held(1, false, None).into_iter().collect();
    let history = lives(&made, live, &[(100, 110)], false);
    assert_eq!(history.verdict(), SearchVerdict::Unexplained);
}

#[test]
fn what_is_forgotten_stays_so() {
    for made in [
        (120, 130, PEEK, Answer::Outcome(completed(7))),
        (120, 130, start(1), Answer::Started(false)),
        (120, 130, Asked::Cancel, has_ended(RunState::Completed)),
    ] {
        assert_eq!(forgotten(&[made], None), SearchVerdict::Unexplained);
    }
    // A second run that nobody began, one that a call began and that is gone, and one that is told
    // the first one's end.
    assert_eq!(forgotten(&[], done(1)), SearchVerdict::Unexplained);
    let begun = (120, 130, start(2), Answer::Started(true));
    assert_eq!(forgotten(std::slice::from_ref(&begun), None), SearchVerdict::Unexplained);
    let old = (131, 140, PEEK, Answer::Outcome(completed(7)));
    let second = held(2, false, Some(completed(8)));
    assert_eq!(forgotten(&[begun, old], second), SearchVerdict::Unexplained);
}

// A start that goes out twice begins a run by its first copy and is told that there is one by its
// second; a third comes when the name is free again.
#[test]
fn a_late_copy_of_a_start_begins_another_run_after_the_first_is_forgotten() {
    let made = [
        (1, 20, start(1), Answer::Started(false)),
        (120, 130, PEEK, Answer::Outcome(completed(7))),
    ];
    let held: Vec<Held> = done(1).into_iter().chain(done(1)).collect();
    let history = lives(&made, held.clone(), &[(100, 110)], true);
    assert_eq!(history.verdict(), SearchVerdict::Explained);
    let history = lives(&made, held, &[(100, 110)], false);
    assert_eq!(history.verdict(), SearchVerdict::Unexplained);
}

/// A call that starts all or none was refused because of another run. Once that is forgotten, a
/// copy of the call may start all of them; while nothing was forgotten, or where nothing is
/// repeated, it may not, and before its answer never.
#[test]
fn a_refused_call_starts_its_runs_only_after_what_was_in_its_way_is_forgotten() {
    let refused = Answer::Refused(
        NotAllStarted { count: 2, offending: 1, offenders: Offenders(Vec::new()) }.into(),
    );
    let verdict = |made: &[Made], journal: Option<Held>, repeats, forgets| {
        let mut history = history(made, journal, repeats);
        history.forgets = forgets;
        history.verdict()
    };
    let call = [(1, 9, start(1), refused.clone())];
    let explained = SearchVerdict::Explained;
    let unexplained = SearchVerdict::Unexplained;
    assert_eq!(verdict(&call, done(1), true, true), explained);
    assert_eq!(verdict(&call, done(1), true, false), unexplained);
    assert_eq!(verdict(&call, done(1), false, true), unexplained);
    assert_eq!(verdict(&call, None, true, true), explained);
    let seen_before = [
        (1, 9, start(1), refused),
        (2, 5, PEEK, pending()),
        (20, 25, PEEK, Answer::Outcome(completed(7))),
    ];
    assert_eq!(verdict(&seen_before, done(1), true, true), unexplained);
}
