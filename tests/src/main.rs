//! A process of the tests: does what its one argument says, tells what happens in lines on stdout,
//! and ends with its stdin, so that none outlives a test that was killed.

use std::process::ExitCode;

use stepwell::{Client, Engine, Worker};
use stepwell_tests::process_spec::{EngineSpec, ProcessSpec, WorkerSpec};
use stepwell_tests::verdict;
use stepwell_tests::workflow::{self, CRASH, Crash, LEDGER, World};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let argument = std::env::args().nth(1).unwrap_or_default();
    let done = match serde_json::from_str(&argument) {
        Ok(spec) => execute(spec).await,
        Err(error) => Err(format!("the order is not understood: {error}")),
    };
    let code = match done {
        Ok(()) => 0,
        Err(reason) => {
            println!("refused: {reason}");
            1
        }
    };
    std::process::exit(code) // the thread that reads stdin would hold it up
}

async fn execute(spec: ProcessSpec) -> Result<(), String> {
    match spec {
        ProcessSpec::Engine(spec) => engine(spec).await,
        ProcessSpec::Worker(spec) => worker(spec).await,
        ProcessSpec::Client { server, run } => client(&server, &run).await,
        ProcessSpec::Embedded { data, effects, how } => embedded(&data, &effects, how).await,
        ProcessSpec::Judge { data, content } => {
            println!("verdict: {}", verdict::judge(&data, &content).await);
            Ok(())
        }
    }
}

async fn engine(spec: EngineSpec) -> Result<(), String> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
    let engine: Engine = spec.options().open(&spec.data).await.map_err(|e| verdict::chain(&e))?;
    let address = engine.listen(&spec.listen).await.map_err(|e| e.to_string())?;
    println!("listening {address}");
    tokio::select! {
        reason = engine.stopped() => return Err(format!("stopped: {reason}")),
        _ = terminate.recv() => {}
        () = stdin_closed() => {}
    }
    engine.close().await;
    println!("closed");
    Ok(())
}

async fn worker(spec: WorkerSpec) -> Result<(), String> {
    let world = World::new(&spec.effects, |line| println!("{line}"));
    let worker = workflow::register(Worker::connect(&spec.server), &world);
    let worker = worker.queue("default", spec.slots).grace(spec.grace);
    println!("working");
    tokio::select! {
        ended = worker.run_until_signal() => ended.map_err(|e| verdict::chain(&e)),
        () = stdin_closed() => Ok(()),
    }
}

async fn embedded(
    data: &std::path::Path,
    effects: &std::path::Path,
    how: Crash,
) -> Result<(), String> {
    let engine = Engine::open(data).await.map_err(|e| verdict::chain(&e))?;
    let world = World::new(effects, |line| println!("{line}"));
    let worker =
        workflow::register(engine.worker(), &world).start().map_err(|e| verdict::chain(&e))?;
    println!("started");
    let run = engine.client().start(CRASH, &how).await;
    let run = run.map_err(|e| verdict::chain(&e))?;
    println!("outcome {:?}", run.outcome().await);
    worker.drain().await;
    engine.close().await;
    Ok(())
}

async fn client(server: &str, run: &str) -> Result<(), String> {
    let client = Client::connect(server).await.map_err(|e| verdict::chain(&e))?;
    let run = client.find::<u64>(run);
    let status = run.status().await.map_err(|e| verdict::chain(&e))?;
    let output = run.outcome().await.map_err(|e| verdict::chain(&e))?;
    println!(
        "{} returned {output}",
        if status.workflow == LEDGER.name() { "ledger" } else { "something else" }
    );
    Ok(())
}

async fn stdin_closed() {
    let mut stdin = tokio::io::stdin();
    let mut bytes = [0; 64];
    while stdin.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
}
