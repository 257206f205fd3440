//! The workflows of the tests.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stepwell::model::failure::FailureKind;
use stepwell::{Ctx, Failure, Retry, Step, Worker, Workflow, hours, secs};

/// One step, `write`, that returns twice the input.
pub const LEDGER: Workflow<Entry, u64> = Workflow::new("ledger");
/// A step of some length, and one after it.
pub const LONG: Workflow<Long, String> = Workflow::new("long");
/// A step, and then a long sleep.
pub const SLEEPER: Workflow<u64, ()> = Workflow::new("sleeper");
/// A step that cleans up after itself when the run is cancelled.
pub const TIDY: Workflow<u64, ()> = Workflow::new("tidy");
/// A step whose first attempt fails, and which is tried again two seconds later.
pub const RETRIED: Workflow<u64, u32> = Workflow::new("retried");
/// A step that fails for good.
pub const DOOMED: Workflow<u64, ()> = Workflow::new("doomed");
/// Many steps, one after the other.
pub const BOOK: Workflow<Book, ()> = Workflow::new("book");

/// What `ledger` gets: a number, and weight to carry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The number.
    pub number: u64,
    /// Makes the input as long as it is.
    pub weight: String,
}

impl Entry {
    /// A light one.
    pub fn of(number: u64) -> Self {
        Self {
            number,
            weight: String::new(),
        }
    }
}

/// What `long` gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Long {
    /// How long its first step takes.
    pub work: Duration,
}

/// What `book` gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    /// How many steps.
    pub steps: u32,
    /// How long the output of each is.
    pub letters: usize,
}

/// The world: a file to which each attempt at a step appends a line, and somebody who hears of it at once.
///
/// A line is `begun NAME KEY` or `done NAME KEY`.
#[derive(Clone)]
pub struct World {
    effects: PathBuf,
    tell: Arc<dyn Fn(&str) + Send + Sync>,
}

impl World {
    /// A world whose effects are in the file `effects`; `tell` gets each line, once it is in the file.
    pub fn new(effects: impl Into<PathBuf>, tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self {
            effects: effects.into(),
            tell: Arc::new(tell),
        }
    }

    fn note(&self, what: &str, name: &str, step: &Step) -> std::io::Result<()> {
        let line = format!("{what} {name} {}", step.key());
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.effects)?;
        file.write_all(format!("{line}\n").as_bytes())?;
        (self.tell)(&line);
        Ok(())
    }

    async fn work(&self, name: &str, step: &Step, span: Duration) -> std::io::Result<()> {
        self.note("begun", name, step)?;
        tokio::time::sleep(span).await;
        self.note("done", name, step)
    }
}

/// Registers all of them.
pub fn register(worker: Worker, world: &World) -> Worker {
    let with = || world.clone();
    let (w1, w2, w3, w4, w5, w6) = (with(), with(), with(), with(), with(), with());
    worker
        .register(LEDGER, move |ctx, entry| ledger(ctx, entry, w1.clone()))
        .register(LONG, move |ctx, long| run_long(ctx, long, w2.clone()))
        .register(SLEEPER, move |ctx, number| sleeper(ctx, number, w3.clone()))
        .register(TIDY, move |ctx, number| tidy(ctx, number, w4.clone()))
        .register(RETRIED, move |ctx, number| retried(ctx, number, w5.clone()))
        .register(BOOK, write_book)
        .register(DOOMED, move |ctx, number| doomed(ctx, number, w6.clone()))
}

async fn ledger(ctx: Ctx, entry: Entry, world: World) -> Result<u64, Failure> {
    let (world, number) = (&world, entry.number);
    ctx.step("write", |s| async move {
        world.work("write", &s, Duration::ZERO).await?;
        Ok::<_, std::io::Error>(number * 2)
    })
    .await
}

async fn run_long(ctx: Ctx, long: Long, world: World) -> Result<String, Failure> {
    let (world, span) = (&world, long.work);
    ctx.step(
        "work",
        |s| async move { world.work("work", &s, span).await },
    )
    .await?;
    ctx.step("after", |s| async move {
        world.work("after", &s, Duration::ZERO).await
    })
    .await?;
    Ok("both done".to_owned())
}

async fn sleeper(ctx: Ctx, _number: u64, world: World) -> Result<(), Failure> {
    let world = &world;
    ctx.step("lie-down", |s| async move {
        world.work("lie-down", &s, Duration::ZERO).await
    })
    .await?;
    ctx.sleep(hours(6)).await
}

async fn tidy(ctx: Ctx, _number: u64, world: World) -> Result<(), Failure> {
    let world = &world;
    let work = ctx.step("occupy", |s| async move {
        world.work("occupy", &s, secs(600)).await
    });
    match work.await {
        Err(failure) if failure.kind == FailureKind::Cancelled => {
            ctx.step("clean-up", |s| async move {
                world.work("clean-up", &s, Duration::ZERO).await
            })
            .await?;
            Err(failure)
        }
        other => other,
    }
}

async fn retried(ctx: Ctx, _number: u64, world: World) -> Result<u32, Failure> {
    let world = &world;
    let attempt = |s: Step| async move {
        world.work("try", &s, Duration::ZERO).await?;
        match s.attempt() {
            1 => Err(Failure::retryable("the first attempt fails")),
            attempt => Ok(attempt),
        }
    };
    ctx.step("try", attempt)
        .retry(Retry::fixed(secs(2)).retries(3))
        .await
}

async fn doomed(ctx: Ctx, number: u64, world: World) -> Result<(), Failure> {
    let world = &world;
    ctx.step("fail", |s| async move {
        world.work("fail", &s, Duration::ZERO).await?;
        Err::<(), _>(Failure::terminal(format!(
            "number {number} is refused by the bank"
        )))
    })
    .await
}

async fn write_book(ctx: Ctx, book: Book) -> Result<(), Failure> {
    for _ in 0..book.steps {
        ctx.step("page", |_| async {
            Ok::<_, Failure>("a".repeat(book.letters))
        })
        .await?;
    }
    Ok(())
}
