//! The `stepwell` binary: the engine as a process, conduct at the terminal, a demo and a load
//! generator.
//!
//! Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 not done, or the answer is
//! no, 2 wrong usage or bad input, 3 not reachable.

mod audit;
mod batch;
mod bench;
mod clock;
mod connection;
mod dead;
mod demo;
mod failure;
mod process;
mod quantity;
mod queue;
#[cfg(test)]
mod requests;
mod run;
mod schedule;
mod serve;
mod sim;
mod stats;
mod store;
mod terminal;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use failure::{Answer, CommandError, USAGE};
use terminal::Terminal;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Durable workflows: runs that survive the death of their worker, their engine and their machine
#[derive(Debug, Parser)]
#[command(name = "stepwell", version)]
struct Arguments {
    /// Print data as one JSON document
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the engine as a server
    Serve(serve::Serve),
    /// Start, list, show, cancel and resume runs
    #[command(subcommand)]
    Run(run::RunCommand),
    /// List, pause and limit queues
    #[command(subcommand)]
    Queue(queue::QueueCommand),
    /// Start many runs as one batch and watch its progress
    #[command(subcommand)]
    Batch(batch::BatchCommand),
    /// List, edit, redrive and discard dead letters: runs that failed for good
    #[command(subcommand)]
    Dead(dead::DeadCommand),
    /// List edits, redrives, discards and resumes of runs, newest first (changes of queues and
    /// schedules are in the server's log)
    Audit(audit::AuditCommand),
    /// Start runs at the times of cron expressions and at intervals
    #[command(subcommand)]
    Schedule(schedule::ScheduleCommand),
    /// Check or dump a store that no engine has open
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Print the number of runs in each state and the counters of the engine
    Stats(stats::StatsCommand),
    /// Work through 2,000 orders while workers and the server are killed
    Demo(demo::Demo),
    /// Simulate workflows under faults, from seeds
    #[command(subcommand)]
    Sim(sim::SimCommand),
    /// Measure this machine
    Bench(bench::Bench),
    #[command(hide = true)]
    DemoWorker(demo::DemoWorker),
    #[command(hide = true)]
    BenchWorker(bench::BenchWorker),
    #[command(hide = true)]
    BenchClient(bench::BenchClient),
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    log(&arguments.command);
    let terminal = Terminal { json: arguments.json };
    let answered = match arguments.command {
        // A simulation brings runtimes of its own.
        Command::Sim(command) => command.execute(terminal),
        command => run(command, terminal),
    };
    match answered {
        Ok(answer) => answer.into(),
        Err(error) => {
            terminal.error(&error);
            ExitCode::from(error.exit)
        }
    }
}

fn run(command: Command, terminal: Terminal) -> Result<Answer, CommandError> {
    // One thread is enough: the engine brings its own, and what else runs here waits for it most of
    // the time.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| CommandError::fault("no runtime can be started").caused_by(&e))?;
    let answer = runtime.block_on(async {
        match command {
            Command::Serve(command) => command.execute(terminal).await,
            Command::Run(command) => command.execute(terminal).await,
            Command::Queue(command) => command.execute(terminal).await,
            Command::Batch(command) => command.execute(terminal).await,
            Command::Dead(command) => command.execute(terminal).await,
            Command::Audit(command) => command.execute(terminal).await,
            Command::Schedule(command) => command.execute(terminal).await,
            Command::Store(command) => command.execute(terminal).await,
            Command::Stats(command) => command.execute(terminal).await,
            Command::Demo(command) => command.execute(terminal).await,
            Command::Bench(command) => command.execute(terminal).await,
            Command::Sim(command) => command.execute(terminal),
            Command::DemoWorker(command) => command.execute().await,
            Command::BenchWorker(command) => command.execute().await,
            Command::BenchClient(command) => command.execute().await,
        }
    });
    // Reading stdin takes a thread that cannot be interrupted.
    runtime.shutdown_background();
    answer
}

/// What clap has to say: help and version are data, the rest is wrong usage.
fn usage(error: &clap::Error) -> ExitCode {
    let is_data = !error.use_stderr();
    if !is_data && std::env::args_os().any(|arg| arg == "--json") {
        let text = error.to_string();
        let text = text.split("\n\n").next().unwrap_or_default();
        let message = text.trim_start_matches("error: ").trim_end();
        Terminal { json: true }
            .error(&CommandError { kind: "usage", ..CommandError::bad_input(message) });
    } else {
        let _ = error.print();
    }
    if is_data { ExitCode::SUCCESS } else { ExitCode::from(USAGE) }
}

/// Logs to stderr: warnings, from a server also the changes of queues and schedules, from a
/// simulation nothing, because there the faults are on purpose. `STEPWELL_LOG` overrides it.
fn log(command: &Command) {
    let usual = match command {
        Command::Serve(_) => "warn,stepwell::runtime::log=info",
        Command::Sim(_) => "off",
        _ => "warn",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("STEPWELL_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(usual));
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(std::io::stderr)
        .init();
}
