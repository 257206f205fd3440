//! Calls as large as they may be: what one of them writes has room in one batch, whatever its runs
//! are.

use super::*;
use crate::core::capacity::{CLIENT, Capacity, slots};
use crate::model::id::SessionId;
use crate::model::unique::UniqueKey;
use crate::wire::message::{Answered, Answer, Message, Reply, call_as};

const WORKER: SessionId = SessionId(2);

fn run(n: usize) -> StartRun {
    StartRun {
        id: RunId(n as u128 + 1),
        name: None,
        workflow: "order".into(),
        version: 1,
        queue: "q".to_owned(),
        priority: 5,
        delay_ms: 0,
        input: Default::default(),
        tags: Vec::new(),
        unique: None,
    }
}

/// Starts the most runs of a sort that a call takes, at an engine whose worker has room for all;
/// tells how many.
fn most(made: impl Fn(usize, &mut StartRun)) -> usize {
    let runs = |count: usize| -> Vec<StartRun> {
        let made = |n| {
            let mut run = run(n);
            made(n, &mut run);
            run
        };
        (0..count).map(made).collect()
    };
    let ask = |runs: Vec<StartRun>| call_as(1, Caller::default(), AtomicStart { runs });
    let taken = |count: usize| {
        let mut capacity = Capacity::new();
        capacity.hello(WORKER, &[slots("q", 5_000)], Vec::new());
        capacity.settle();
        capacity.sent.clear();
        capacity.hear(CLIENT, ask(runs(count)));
        capacity.settle();
        let refused = |message: &Message| {
            matches!(message, Message::Reply(Reply { answer: Answered::Known(Answer::RefusedReply(_)), .. }))
        };
        match capacity.sent.iter().any(refused) {
            true => false,
            false => {
                let started = capacity.sent.iter().find_map(|message| match message {
                    Message::Reply(Reply { answer: Answered::Known(Answer::StartReply(reply)), .. }) => {
                        Some(reply.runs.len())
                    }
                    _ => None,
                });
                assert_eq!(started, Some(count));
                true
            }
        }
    };
    // The stage submits what is written: a batch that is too large fails the test.
    let (mut fits, mut does_not) = (1, 10_000);
    while does_not - fits > 1 {
        let middle = (fits + does_not) / 2;
        match taken(middle) {
            true => fits = middle,
            false => does_not = middle,
        }
    }
    fits
}

fn key(n: usize, scope: Unique) -> Option<UniqueKey> {
    Some(UniqueKey::new(format!("key-{n}"), scope))
}

#[test]
fn the_largest_call_of_each_sort_fits_one_batch() {
    assert_eq!(most(|_, _| {}), 1_343);
    assert_eq!(most(|n, run| run.unique = key(n, Unique::UntilEnded)), 1_007);
    assert_eq!(most(|n, run| run.unique = key(n, Unique::UntilStarted)), 806);
    let ttl = Unique::For(std::time::Duration::from_secs(60));
    assert_eq!(most(|n, run| run.unique = key(n, ttl)), 671);
    assert_eq!(most(|n, run| run.queue = format!("q{n}")), 806);
    assert_eq!(most(|_, run| run.delay_ms = 1_000), 1_343);
}

// Tags of full length are in two rows of each run.
#[test]
fn tags_count() {
    let tag = |n: usize| format!("{n}{}", "t".repeat(63));
    let fits = most(|_, run| run.tags = (0..8).map(tag).collect());
    assert!((500..700).contains(&fits), "{fits}");
    let long = most(|n, run| {
        run.queue = "q".repeat(128);
        run.workflow = "w".repeat(128);
        run.name = Some(format!("{n:0>256}"));
        run.id = RunId::from_name(Namespace::default(), &format!("{n:0>256}"));
        run.unique = Some(UniqueKey::new(format!("{n:0>256}"), Unique::UntilStarted));
    });
    assert!((600..806).contains(&long), "{long}");
}
