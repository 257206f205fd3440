//! The workflows of the tests.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stepwell::model::failure::FailureKind;
use stepwell::{
    BulkPolicy, Ctx, Failure, Isolation, Item, Retry, Step, Worker, Workflow, hours, millis, secs,
};

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
/// An isolated step that never ends by itself, and never awaits.
pub const SPIN: Workflow<Spin, ()> = Workflow::new("spin");
/// An isolated step, after another, whose first attempt ends its process.
pub const CRASH: Workflow<Crash, String> = Workflow::new("crash");
/// A step whose first attempt blocks its thread until a file is there.
pub const BLOCK: Workflow<Block, String> = Workflow::new("block");
/// A function whose first attempt blocks its thread until a file is there: without steps, or
/// between two.
pub const STALL: Workflow<Stall, String> =
    Workflow::new("stall").timeout(Duration::from_millis(300));
/// Of a bulk handler whose first call blocks its thread until the file that each item names is
/// there.
pub const JAM: Workflow<PathBuf, u32> = Workflow::new("jam");
/// A step that waits for ever and cleans up when its soft timeout has passed; isolated, if its
/// input is so.
pub const EXPORT: Workflow<bool, u32> = Workflow::new("export");
/// Many steps, one after the other.
pub const BOOK: Workflow<Book, ()> = Workflow::new("book");
/// A memoized step; answers with the run whose body ran.
pub const RATE: Workflow<Rate, String> = Workflow::new("rate");

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
        Self { number, weight: String::new() }
    }
}

/// What `long` gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Long {
    /// How long its first step takes.
    pub work: Duration,
}

/// What `spin` gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spin {
    /// How long an attempt may take.
    pub hard: Duration,
}

/// What `crash` gets: how its process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Crash {
    /// By a memory access that is not allowed.
    Segfault,
    /// By itself, as after a broken invariant.
    Abort,
    /// By an exit in the middle of the work.
    Exit,
    /// By asking for more memory than it may have.
    Memory,
}

/// What `block` gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// How long an attempt may take.
    pub hard: Duration,
    /// The file that ends the first attempt.
    pub until: PathBuf,
}

/// What `stall` gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stall {
    /// Whether there is a step before and one after.
    pub between: bool,
    /// The file that ends the first attempt.
    pub until: PathBuf,
}

/// What `rate` gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// How long the work takes.
    pub work: Duration,
    /// Whether it is done in a process of its own.
    pub isolated: bool,
}

/// What `book` gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    /// How many steps.
    pub steps: u32,
    /// How long the output of each is.
    pub letters: usize,
}

/// The world: a file to which each attempt at a step appends a line, and somebody who hears of it
/// at once.
///
/// A line is `begun NAME KEY` or `done NAME KEY`.
#[derive(Clone)]
pub struct World {
    effects: PathBuf,
    tell: Arc<dyn Fn(&str) + Send + Sync>,
}

impl World {
    /// A world whose effects are in the file `effects`; `tell` gets each line, once it is in the
    /// file.
    pub fn new(effects: impl Into<PathBuf>, tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { effects: effects.into(), tell: Arc::new(tell) }
    }

    fn note(&self, what: &str, name: &str, step: &Step) -> std::io::Result<()> {
        self.say(&format!("{what} {name} {}", step.key()))
    }

    fn say(&self, line: &str) -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&self.effects)?;
        file.write_all(format!("{line}\n").as_bytes())?;
        (self.tell)(line);
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
    let (w7, w8, w9, w10, w11, w12) = (with(), with(), with(), with(), with(), with());
    let w13 = with();
    let jam_policy = BulkPolicy::new(2, millis(200))
        .soft_timeout(millis(200))
        .timeout(millis(300))
        .retry(Retry::fixed(millis(10)));
    worker
        .register(LEDGER, move |ctx, entry| ledger(ctx, entry, w1.clone()))
        .register(LONG, move |ctx, long| run_long(ctx, long, w2.clone()))
        .register(SLEEPER, move |ctx, number| sleeper(ctx, number, w3.clone()))
        .register(TIDY, move |ctx, number| tidy(ctx, number, w4.clone()))
        .register(RETRIED, move |ctx, number| retried(ctx, number, w5.clone()))
        .register(BOOK, write_book)
        .register(DOOMED, move |ctx, number| doomed(ctx, number, w6.clone()))
        .register(SPIN, move |ctx, spin| run_spin(ctx, spin, w7.clone()))
        .register(CRASH, move |ctx, how| crash(ctx, how, w8.clone()))
        .register(BLOCK, move |ctx, block| run_block(ctx, block, w9.clone()))
        .register(STALL, move |ctx, stall| run_stall(ctx, stall, w12.clone()))
        .register_bulk(JAM, jam_policy, move |items| jam(items, w13.clone()))
        .register(RATE, move |ctx, rate| find_rate(ctx, rate, w11.clone()))
        .register(EXPORT, move |ctx, isolated| export(ctx, isolated, w10.clone()))
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
    ctx.step("work", |s| async move { world.work("work", &s, span).await }).await?;
    ctx.step("after", |s| async move { world.work("after", &s, Duration::ZERO).await }).await?;
    Ok("both done".to_owned())
}

async fn find_rate(ctx: Ctx, rate: Rate, world: World) -> Result<String, Failure> {
    let (world, me) = (&world, ctx.run_id().to_string());
    let me = &me;
    let find = |s: Step| async move {
        world.work("rate", &s, rate.work).await?;
        Ok::<_, std::io::Error>(me.clone())
    };
    let isolation = match rate.isolated {
        true => Isolation::process(),
        false => Isolation::InPlace,
    };
    ctx.memoize("rate of the day", find).isolation(isolation).await
}

async fn sleeper(ctx: Ctx, _number: u64, world: World) -> Result<(), Failure> {
    let world = &world;
    ctx.step("lie-down", |s| async move { world.work("lie-down", &s, Duration::ZERO).await })
        .await?;
    ctx.sleep(hours(6)).await
}

async fn tidy(ctx: Ctx, _number: u64, world: World) -> Result<(), Failure> {
    let world = &world;
    let work = ctx.step("occupy", |s| async move { world.work("occupy", &s, secs(600)).await });
    match work.await {
        Err(failure) if failure.kind == FailureKind::Cancelled => {
            ctx.step(
                "clean-up",
                |s| async move { world.work("clean-up", &s, Duration::ZERO).await },
            )
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
    ctx.step("try", attempt).retry(Retry::fixed(secs(2)).retries(3)).await
}

async fn doomed(ctx: Ctx, number: u64, world: World) -> Result<(), Failure> {
    let world = &world;
    ctx.step("fail", |s| async move {
        world.work("fail", &s, Duration::ZERO).await?;
        Err::<(), _>(Failure::terminal(format!("number {number} is refused by the bank")))
    })
    .await
}

async fn run_spin(ctx: Ctx, spin: Spin, world: World) -> Result<(), Failure> {
    let world = &world;
    ctx.step("spin", |s| async move {
        world.note(&format!("pid {}", std::process::id()), "spin", &s)?;
        loop {
            std::hint::black_box(s.attempt());
        }
        #[allow(unreachable_code, reason = "it tells the type")]
        Ok::<(), std::io::Error>(())
    })
    .isolation(Isolation::process())
    .soft_timeout(spin.hard)
    .timeout(spin.hard)
    .retry(Retry::never())
    .await
}

async fn crash(ctx: Ctx, how: Crash, world: World) -> Result<String, Failure> {
    let world = &world;
    let before = ctx
        .step("before", |s| async move {
            world.work("before", &s, Duration::ZERO).await?;
            Ok::<_, std::io::Error>(std::process::id())
        })
        .await?;
    let attempt = |s: Step| async move {
        world.work("crash", &s, Duration::ZERO).await?;
        println!("noise on stdout, without an end of line: \u{1}\u{2}");
        if s.attempt() == 1 {
            eprintln!("about to end by {how:?}");
            end_by(how);
        }
        Ok::<_, std::io::Error>((s.attempt(), before == std::process::id()))
    };
    let (attempt, in_place) = ctx
        .step("crash", attempt)
        .isolation(Isolation::process().memory(512 << 20))
        .retry(Retry::fixed(Duration::from_millis(10)).retries(2))
        .await?;
    Ok(format!("attempt {attempt}, in place: {in_place}"))
}

/// Ends this process, in the way that is asked for.
fn end_by(how: Crash) {
    match how {
        Crash::Segfault => loop {
            let pid = std::process::id().to_string();
            let _ = std::process::Command::new("kill").args(["-SEGV", &pid]).status();
        },
        Crash::Abort => std::process::abort(),
        Crash::Exit => std::process::exit(3),
        Crash::Memory => {
            let mut hoard: Vec<Vec<u8>> = Vec::new();
            loop {
                hoard.push(std::hint::black_box(vec![1; 16 << 20]));
            }
        }
    }
}

async fn run_stall(ctx: Ctx, stall: Stall, world: World) -> Result<String, Failure> {
    let world = &world;
    let beside = |name: &'static str| {
        ctx.step(name, move |s| async move { world.work(name, &s, Duration::ZERO).await })
    };
    if stall.between {
        beside("before").await?;
    }
    world.say(&format!("begun stall {}", ctx.run_id()))?;
    while ctx.attempt() == 1 && !stall.until.exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    world.say(&format!("done stall {}", ctx.run_id()))?;
    if stall.between {
        beside("after").await?;
    }
    Ok(format!("attempt {}", ctx.attempt()))
}

async fn jam(items: Vec<Item<PathBuf>>, world: World) -> Vec<Result<u32, Failure>> {
    let say = |what: &str| world.say(&format!("{what} jam {}", items.len()));
    let said = say("begun");
    let waits = |item: &Item<PathBuf>| item.attempt() == 1 && !item.input.exists();
    while items.iter().all(waits) {
        std::thread::sleep(millis(5));
    }
    let said = said.and_then(|()| say("done"));
    let outcome = |item: &Item<PathBuf>| match &said {
        Ok(()) => Ok(item.attempt()),
        Err(error) => Err(Failure::retryable(error)),
    };
    items.iter().map(outcome).collect()
}

async fn run_block(ctx: Ctx, block: Block, world: World) -> Result<String, Failure> {
    let (world, until) = (&world, &block.until);
    ctx.step("block", |s| async move {
        world.note("begun", "block", &s)?;
        while s.attempt() == 1 && !until.exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        world.note("done", "block", &s)?;
        Ok::<_, std::io::Error>(format!("attempt {}", s.attempt()))
    })
    .soft_timeout(block.hard)
    .timeout(block.hard)
    .retry(Retry::fixed(Duration::from_millis(10)))
    .await
}

async fn export(ctx: Ctx, isolated: bool, world: World) -> Result<u32, Failure> {
    let world = &world;
    let isolation = match isolated {
        true => Isolation::process(),
        false => Isolation::InPlace,
    };
    ctx.step("export", |s| async move {
        world.note("begun", "export", &s)?;
        if s.attempt() > 1 {
            return Ok(s.attempt());
        }
        match s.until_soft_timeout(std::future::pending::<()>()).await {
            Ok(()) => Ok(0),
            Err(passed) => {
                world.note("cleaned", "export", &s)?;
                Err(Failure::from(passed))
            }
        }
    })
    .isolation(isolation)
    .soft_timeout(Duration::from_millis(300))
    .timeout(secs(600))
    .retry(Retry::fixed(Duration::from_millis(10)))
    .await
}

async fn write_book(ctx: Ctx, book: Book) -> Result<(), Failure> {
    for _ in 0..book.steps {
        ctx.step("page", |_| async { Ok::<_, Failure>("a".repeat(book.letters)) }).await?;
    }
    Ok(())
}
