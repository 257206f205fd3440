//! Redriven runs: W9 to W11, with the engine's own decision about what is superseded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::harness::{TurnHarness, completed};
use crate::core::run::{Run, RunFold};
use crate::model::entry::{AttemptFailed, Died, Entry, FunctionEnd, InputEdited, Redriven};
use crate::model::failure::Failure;
use crate::model::id::{CommandIndex, ProcessInstance, RequestId, RunNo};
use crate::model::payload::Payload;
use crate::wire::message::Message;
use crate::workflow::{Ctx, Step, secs};

async fn ok<T>(value: T) -> Result<T, Failure> {
    Ok(value)
}

/// The engine records the death that the turn has reported.
fn die(harness: &mut TurnHarness) -> FunctionEnd {
    let failed = harness.sent.iter().rev().find_map(|message| match message {
        Message::TurnFailed(failed) => Some(failed.clone()),
        _ => None,
    });
    let failed = failed.expect("the turn has failed");
    let end = failed.end.expect("it tells how");
    harness.journal.push(
        Died {
            at: harness.now(),
            failure: failed.failure,
            process: ProcessInstance(1),
            build: "b".into(),
            end: Some(end),
        }
        .into(),
    );
    end
}

fn run_of(harness: &TurnHarness) -> Run {
    let mut fold = RunFold::new(RunNo(1), 0);
    for stored in harness.stored() {
        fold.push(&stored).expect("a sound journal");
    }
    fold.finish().expect("a run")
}

/// An operator redrives it, and it is dispatched again.
fn redrive(harness: &mut TurnHarness) {
    let from = run_of(harness).redrive_from().expect("it may be redriven");
    harness.journal.push(
        Redriven {
            at: harness.now(),
            principal: "ops".into(),
            request_id: RequestId(harness.journal.len() as u128),
            from,
            rejoins: false,
        }
        .into(),
    );
    run_of(harness); // the journal folds
    harness.dispatch();
}

// A49: finished steps are kept, the failed one is tried again under the same key.
#[test]
fn a_redriven_run_tries_the_failed_step_again_and_no_finished_one() {
    let (first, second) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let counts = (first.clone(), second.clone());
    let mut harness = TurnHarness::new(&(), move |ctx: Ctx, (): ()| {
        let (first, second) = counts.clone();
        async move {
            let one = ctx
                .step("one", |_| {
                    first.fetch_add(1, Ordering::SeqCst);
                    ok(1u32)
                })
                .await?;
            let two = ctx
                .step("two", |step: Step| {
                    let tries = second.fetch_add(1, Ordering::SeqCst);
                    async move {
                        match tries {
                            0 => Err(Failure::terminal("no")),
                            _ => Ok((step.key().to_owned(), step.attempt())),
                        }
                    }
                })
                .await?;
            Ok((one, two))
        }
    });
    harness.poll().answer().poll().answer().poll();
    assert_eq!(harness.told_engine().pop().unwrap(), "died Terminal (terminal): no whole false");
    let end = die(&mut harness);
    assert_eq!((end.failed_at, end.went_on), (Some(2), None));
    redrive(&mut harness);
    let key = format!("completed 1 = [\"{}-1\",1]", super::harness::RUN);
    assert_eq!(harness.poll().told_engine(), [key]);
    harness.answer().poll();
    assert!(harness.told_engine().pop().unwrap().starts_with("returned [1,"));
    let counted = (first.load(Ordering::SeqCst), second.load(Ordering::SeqCst));
    assert_eq!(counted, (1, 2));
}

// W9: what others have finished behind the failure stays finished.
#[test]
fn steps_that_ended_beside_the_failed_one_are_kept() {
    async fn pair(ctx: Ctx, (): ()) -> Result<u32, Failure> {
        let a = ctx.step("a", |_| async { Err::<u32, _>(Failure::terminal("no")) });
        let b = ctx.step("b", |_| ok(2u32));
        let (a, b) = crate::join!(a, b);
        Ok(a? + b?)
    }
    let mut harness = TurnHarness::new(&(), pair);
    harness.poll().answer().poll().answer().poll();
    let end = die(&mut harness);
    assert_eq!((end.failed_at, end.went_on), (Some(1), None));
    redrive(&mut harness);
    let told = harness.poll().told_engine();
    assert_eq!(told, ["failed 0 attempt 1: Terminal (terminal): no"]);
}

// D4: the commands given since have numbers, and keys, that others would get.
#[test]
fn a_function_that_went_on_is_not_redriven() {
    async fn saga(ctx: Ctx, (): ()) -> Result<(), Failure> {
        let charged =
            ctx.step("charge", |_| async { Err::<u32, _>(Failure::terminal("no")) }).await;
        if let Err(failure) = charged {
            ctx.step("release", |_| ok(1u32)).await?;
            return Err(failure);
        }
        Ok(())
    }
    let mut harness = TurnHarness::new(&(), saga);
    harness.poll().answer().poll().answer().poll();
    let end = die(&mut harness);
    assert_eq!((end.failed_at, end.went_on), (None, Some(CommandIndex(0))));
    assert_eq!(run_of(&harness).redrive_from(), Err(CommandIndex(0)));
}

// The compensation failed, not what it compensates: it may be tried again.
#[test]
fn a_step_that_failed_after_another_was_dealt_with_may_be_tried_again() {
    async fn fallback(ctx: Ctx, (): ()) -> Result<(), Failure> {
        let _ = ctx.step("first", |_| async { Err::<u32, _>(Failure::terminal("no")) }).await;
        ctx.step("second", |_| async { Err::<u32, _>(Failure::terminal("nor this")) }).await?;
        Ok(())
    }
    let mut harness = TurnHarness::new(&(), fallback);
    harness.poll().answer().poll().answer().poll();
    let end = die(&mut harness);
    assert_eq!((end.failed_at, end.went_on), (Some(2), None));
    redrive(&mut harness);
    let told = harness.poll().told_engine();
    assert_eq!(told, ["failed 1 attempt 1: Terminal (terminal): nor this"]);
}

// D3: attempts are counted anew, at steps and at the function itself.
#[test]
fn attempts_are_counted_anew() {
    let failed = |harness: &TurnHarness, number, attempt| {
        Entry::from(AttemptFailed {
            at: harness.now(),
            number,
            location: Default::default(),
            attempt,
            failure: Failure::retryable("no"),
            retry_at: harness.now().after(secs(3_600)),
            counted: true,
            process: ProcessInstance(1),
            build: "b".into(),
        })
    };
    async fn whole(ctx: Ctx, (): ()) -> Result<(), Failure> {
        Err(Failure::terminal(format!("attempt {}", ctx.attempt())))
    }
    let mut harness = TurnHarness::new(&(), whole);
    for attempt in 1..3 {
        let entry = failed(&harness, CommandIndex::FUNCTION, attempt);
        harness.journal.push(entry);
    }
    harness.dispatch();
    assert_eq!(harness.poll().told_engine(), ["died Terminal (terminal): attempt 3 whole true"]);
    die(&mut harness);
    redrive(&mut harness);
    assert_eq!(harness.poll().told_engine(), ["died Terminal (terminal): attempt 1 whole true"]);
    assert_eq!(run_of(&harness).commands, Default::default());
}

// W10, and W5 for what follows from it.
#[test]
fn the_function_gets_the_last_edited_input() {
    let mut harness = TurnHarness::new(&7u32, |ctx: Ctx, input: u32| async move {
        let one = ctx.step("one", |_| ok(1u32)).await?;
        match input {
            7 => Err(Failure::terminal("not seven")),
            _ => Ok(one + input),
        }
    });
    harness.poll().answer().poll();
    let end = die(&mut harness);
    assert_eq!(end, FunctionEnd::default());
    for input in [7u32, 40] {
        harness.journal.push(
            InputEdited {
                at: harness.now(),
                principal: "ops".into(),
                request_id: RequestId(u128::from(input)),
                input: Payload::of(&input).unwrap(),
                died_at: harness.now(),
            }
            .into(),
        );
    }
    redrive(&mut harness);
    assert_eq!(harness.poll().told_engine(), ["returned 41"]);
}

// W9: superseded entries are compared all the same. Code that goes another way stops, and does no
// harm.
#[test]
fn code_that_no_longer_asks_for_the_failed_step_is_a_mismatch() {
    let mut harness =
        TurnHarness::new(
            &(),
            |ctx: Ctx, (): ()| async move { ctx.step("other", |_| ok(1u32)).await },
        );
    let failure = Failure::terminal("no");
    let end = Some(FunctionEnd { failed_at: Some(1), went_on: None });
    let mut failed = completed(1, 0, "charge", 1);
    failed.attempt = 1;
    harness.journal.push(
        crate::model::entry::StepFailed {
            at: failed.at,
            number: failed.number,
            location: failed.location,
            attempt: 1,
            failure: failure.clone(),
            process: ProcessInstance(1),
            build: "b".into(),
        }
        .into(),
    );
    harness.journal.push(
        Died { at: harness.now(), failure, process: ProcessInstance(1), build: "b".into(), end }
            .into(),
    );
    redrive(&mut harness);
    let told = harness.poll().told_engine().pop().unwrap();
    assert!(told.starts_with("mismatch\n  entry 1 holds    step \"charge\""), "{told}");
}
