//! Any program, any order of acknowledgements, any restart: the same commands and the same result.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use proptest::prelude::*;

use super::harness::{START, TurnHarness, cancel, summary};
use crate::model::entry::NOT_ATTEMPTED;
use crate::model::entry::{Entry, SourceLocation, StepCompleted};
use crate::model::failure::Failure;
use crate::model::id::CommandIndex;
use crate::model::payload::Payload;
use crate::model::request::Damaged;
use crate::model::retry::Retry;
use crate::model::time::Time;
use crate::wire::message::Message;
use crate::workflow::{Ctx, join_all};

/// A workflow, as data.
#[derive(Debug, Clone)]
enum Program {
    /// A step whose first `failures` attempts fail, and whose body is polled `polls` times before
    /// it ends.
    Step {
        failures: u8,
        polls: u8,
        terminal: bool,
    },
    /// The same, memoized.
    Memo {
        failures: u8,
        polls: u8,
        terminal: bool,
    },
    Sleep {
        ms: u64,
    },
    /// A step that is asked for and never awaited.
    Forgotten,
    Draw,
    Sequence(Vec<Program>),
    Join(Vec<Program>),
    Select(Box<Program>, Box<Program>),
    Both(Box<Program>, Box<Program>),
    /// Asked in one order, awaited in the other.
    Crossed {
        first: u8,
        second: u8,
    },
}

fn program() -> impl Strategy<Value = Program> {
    let leaf = prop_oneof![
        4 => (0u8..3, 0u8..3, any::<bool>()).prop_map(|(failures, polls, terminal)| Program::Step { failures, polls, terminal }),
        2 => (0u8..3, 0u8..3, any::<bool>()).prop_map(|(failures, polls, terminal)| Program::Memo { failures, polls, terminal }),
        2 => prop_oneof![Just(0u64), 1..200u64, 300..100_000u64].prop_map(|ms| Program::Sleep { ms }),
        1 => Just(Program::Forgotten),
        1 => Just(Program::Draw),
        1 => (0u8..3, 0u8..3).prop_map(|(first, second)| Program::Crossed { first, second }),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            3 => prop::collection::vec(inner.clone(), 1..4).prop_map(Program::Sequence),
            3 => prop::collection::vec(inner.clone(), 1..4).prop_map(Program::Join),
            3 => (inner.clone(), inner.clone()).prop_map(|(a, b)| Program::Select(Box::new(a), Box::new(b))),
            1 => (inner.clone(), inner).prop_map(|(a, b)| Program::Both(Box::new(a), Box::new(b))),
        ]
    })
}

type Log = Arc<Mutex<Vec<String>>>;

/// A body that is polled a few times.
async fn body(failures: u8, polls: u8, terminal: bool, attempt: u32) -> Result<u32, Failure> {
    let mut left = polls;
    std::future::poll_fn(|cx| {
        if left == 0 {
            return std::task::Poll::Ready(());
        }
        left -= 1;
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
    match attempt <= u32::from(failures) {
        true if terminal => Err(Failure::terminal("no")),
        true => Err(Failure::retryable("not yet")),
        false => Ok(attempt),
    }
}

/// Runs a program; the answer tells all that it saw, with the time and a drawn number.
fn run<'a>(ctx: &'a Ctx, log: &'a Log, program: &'a Program) -> BoxFuture<'a, String> {
    let asked = move |what: String| {
        let mut log = log.lock().unwrap();
        let number = log.len();
        log.push(what.clone());
        format!("{what}-{number}")
    };
    let step = move |failures: u8, polls: u8, terminal: bool| {
        let name = asked("step".to_owned());
        ctx.step(name, move |s| body(failures, polls, terminal, s.attempt()))
            .retry(Retry::default().retries(2))
    };
    let seen = move |what: String| {
        format!("{what}@{}{}", ctx.now().0 - START, if ctx.is_cancelled() { "!" } else { "" })
    };
    Box::pin(async move {
        match program {
            Program::Step { failures, polls, terminal } => {
                match step(*failures, *polls, *terminal).await {
                    Ok(value) => seen(format!("ok{value}")),
                    Err(failure) => seen(failure.class),
                }
            }
            Program::Memo { failures, polls, terminal } => {
                let (failures, polls, terminal) = (*failures, *polls, *terminal);
                let memo = ctx.memoize(asked("memo".to_owned()), move |s| {
                    body(failures, polls, terminal, s.attempt())
                });
                match memo.retry(Retry::default().retries(2)).await {
                    Ok(value) => seen(format!("memo{value}")),
                    Err(failure) => seen(failure.class),
                }
            }
            Program::Sleep { ms } => {
                asked("timer".to_owned());
                match ctx.sleep(Duration::from_millis(*ms)).await {
                    Ok(()) => seen("slept".to_owned()),
                    Err(failure) => seen(failure.class),
                }
            }
            Program::Forgotten => {
                drop(step(0, 0, false));
                seen("forgot".to_owned())
            }
            Program::Draw => format!("{:x}", ctx.random()),
            Program::Sequence(parts) => {
                let mut told = Vec::new();
                for part in parts {
                    told.push(run(ctx, log, part).await);
                }
                format!("[{}]", told.join(" "))
            }
            Program::Join(parts) => {
                let told = join_all(parts.iter().map(|part| run(ctx, log, part)).collect()).await;
                format!("({})", told.join(" "))
            }
            Program::Select(a, b) => crate::select! {
                told = run(ctx, log, a) => format!("<{told}"),
                told = run(ctx, log, b) => { format!("{told}>") }
            },
            Program::Both(a, b) => {
                let (a, b) = crate::join!(run(ctx, log, a), run(ctx, log, b));
                format!("{{{a} {b}}}")
            }
            Program::Crossed { first, second } => {
                let one = step(0, *first, false);
                let two = step(0, *second, false);
                let two = two.await.map_or_else(|f| f.class, |v| v.to_string());
                let one = one.await.map_or_else(|f| f.class, |v| v.to_string());
                seen(format!("x{one}{two}"))
            }
        }
    })
}

/// A bench on which `program` runs, and the log of what it asks.
fn harness(program: &Program) -> (TurnHarness, Log) {
    let (program, log) = (program.clone(), Log::default());
    let to = log.clone();
    let harness = TurnHarness::new(&(), move |ctx, (): ()| {
        let (program, log) = (program.clone(), to.clone());
        log.lock().unwrap().clear();
        async move { Ok(run(&ctx, &log, &program).await) }
    });
    (harness, log)
}

/// Choices of a run of the engine, from one seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % sides
    }
}

/// Runs to the end under an engine that acknowledges in any order, several at a time, and
/// dispatches again at any time.
fn live(harness: &mut TurnHarness, dice: &mut Dice, cancels: bool) -> String {
    let mut cancelled = !cancels;
    // Few, so that they do not hide a turn that has stopped.
    let mut continuations = dice.roll(4);
    for _ in 0..5_000 {
        // Only what a task would be polled for: a turn that relies on being polled for nothing
        // stands still here.
        if harness.is_woken() {
            harness.poll();
        }
        // Timers that are due fire, but not always at once.
        for _ in 0..=dice.roll(3) {
            let now = harness.now();
            if let Some(number) = due(&harness.journal, now)
                && dice.roll(2) == 0
            {
                harness.commit(crate::model::entry::TimerFired {
                    at: now,
                    number: CommandIndex(number),
                });
            }
            let ends = |m: &Message| {
                matches!(
                    m,
                    Message::TurnCompleted(_)
                        | Message::TurnFailed(_)
                        | Message::TurnMismatched(_)
                        | Message::TurnSuspended(_)
                )
            };
            let choices = harness.sent.iter().filter(|m| !ends(m)).count();
            if choices > 0 && dice.roll(3) > 0 {
                let message = harness.sent.remove(dice.roll(choices));
                acknowledge(harness, dice, message);
            } else if !cancelled && dice.roll(12) == 0 {
                cancelled = true;
                harness.commit(cancel(harness.now().0 - START));
            }
        }
        let end = harness.sent.iter().find(|m| {
            matches!(
                m,
                Message::TurnCompleted(_) | Message::TurnFailed(_) | Message::TurnMismatched(_)
            )
        });
        if let Some(end) = end {
            return summary(end);
        }
        if let Some(Message::TurnSuspended(suspended)) = harness.sent.last() {
            let wait = suspended.wakes_at.0.saturating_sub(harness.now().0);
            assert!(
                wait > 0 || harness.journal.len() as u32 > suspended.seen,
                "suspended for nothing"
            );
            // A run that sleeps for a key may be woken at any time.
            let wait = match suspended.memos.is_empty() {
                true => wait,
                false => wait.min(dice.roll(3_000) as u64),
            };
            harness.clock.advance(wait + dice.roll(50) as u64);
            harness.dispatch();
        } else if continuations > 0 && dice.roll(15) == 0 {
            continuations -= 1;
            harness.dispatch();
        }
        harness.clock.advance([0, 1, 20, 300][dice.roll(4)]);
    }
    panic!("does not end: {:?}", harness.outstanding());
}

/// What the engine makes of a message that does not end the turn.
fn acknowledge(harness: &mut TurnHarness, dice: &mut Dice, message: Message) {
    match message {
        Message::MemoRequested(ask) => match dice.roll(8) {
            0 => {
                let result = somebody_elses(harness, ask.number, ask.location);
                harness.commit(result);
            }
            1 => {
                let damaged = Damaged { id: None, what: "the result".to_owned() };
                harness.say(|turn| turn.refused(ask.number, &damaged.into()));
            }
            copies => {
                for _ in 0..copies.min(2) {
                    harness.say(|turn| turn.attempt_memo(ask.number));
                }
            }
        },
        Message::MemoReleased(returned) => {
            harness.say(|turn| turn.memo_released(returned.number));
        }
        Message::StepCompletedReport(report) if report.memo.is_some() && dice.roll(4) == 0 => {
            let result = somebody_elses(harness, report.number, report.location);
            harness.commit(result);
        }
        message => {
            let backoff = Duration::from_millis([1, 100, 5_000][dice.roll(3)]);
            let entry = harness.entry_for(message, backoff);
            harness.commit(entry);
        }
    }
}

/// A memoized result that another run came to first.
fn somebody_elses(
    harness: &TurnHarness,
    number: CommandIndex,
    location: SourceLocation,
) -> StepCompleted {
    StepCompleted {
        at: harness.now(),
        number,
        location,
        attempt: NOT_ATTEMPTED,
        output: Payload::of(&77u32).unwrap(),
    }
}

/// A timer of the journal that is due and has not fired.
fn due(journal: &[Entry], now: Time) -> Option<u32> {
    let fired = |n: CommandIndex| {
        journal.iter().any(|e| matches!(e, Entry::TimerFired(f) if f.number == n))
    };
    journal.iter().find_map(|entry| match entry {
        Entry::TimerArmed(armed) if armed.due <= now && !fired(armed.number) => {
            Some(armed.number.0)
        }
        _ => None,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    // W1 to W7, and the reason for all of them.
    #[test]
    fn every_replay_of_every_prefix_asks_the_same_and_ends_the_same(
        program in program(), seed in any::<u64>(), cancels in any::<bool>()
    ) {
        let (mut harness, log) = harness(&program);
        let result = live(&mut harness, &mut Dice(seed), cancels);
        prop_assert!(result.starts_with("returned"), "{result}");
        let asked = log.lock().unwrap().clone();
        for count in 1..=harness.journal.len() {
            harness.dispatch_prefix(count);
            harness.poll();
            let told = harness.told_engine();
            prop_assert!(!told.iter().any(|m| m.starts_with("mismatch") || m.starts_with("died")), "{count}: {told:?}");
            let again = log.lock().unwrap().clone();
            prop_assert!(asked.starts_with(&again), "{count}: {again:?} is not how {asked:?} begins");
            if let Some(end) = told.iter().find(|m| m.starts_with("returned")) {
                prop_assert_eq!(end, &result, "{}", count);
            }
            if count == harness.journal.len() {
                prop_assert!(told.contains(&result), "{told:?} does not hold {result}");
                prop_assert_eq!(&again, &asked);
            }
        }
    }
}
