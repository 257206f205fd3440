//! Processes that the tests start and kill.

use std::collections::VecDeque;
use std::future::Future;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stepwell::Client;
use stepwell::model::run::Stats;
use stepwell_tests::process_spec::{EngineSpec, ProcessSpec, WorkerSpec};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{sleep, timeout};

/// The program.
const HOST: &str = env!("CARGO_BIN_EXE_stepwell-tests-host");

/// How long anything may take that happens by itself. Nothing waits for it to pass.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A process, which ends with the test.
pub(crate) struct Host {
    child: Child,
    // Its lifeline.
    _stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    /// Lines that were read and not asked for.
    passed: VecDeque<String>,
    stderr: Arc<Mutex<String>>,
}

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Ending {
    /// Its exit code; none if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Host {
    /// Starts one.
    pub(crate) fn start(spec: &ProcessSpec) -> Self {
        let shell = match spec {
            ProcessSpec::Engine(engine) => engine.shell.clone(),
            _ => None,
        };
        let mut command = match shell {
            Some(script) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &script, "sh", HOST]);
                shell
            }
            None => Command::new(HOST),
        };
        command.arg(serde_json::to_string(spec).unwrap());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let stderr = Arc::new(Mutex::new(String::new()));
        let (mut pipe, log) = (child.stderr.take().unwrap(), stderr.clone());
        tokio::spawn(async move {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut bytes).await {
                log.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Self {
            _stdin: child.stdin.take().unwrap(),
            stdout: BufReader::new(child.stdout.take().unwrap()).lines(),
            child,
            passed: VecDeque::new(),
            stderr,
        }
    }

    /// Starts an engine and waits until it listens; its address.
    pub(crate) async fn engine(spec: &EngineSpec) -> (Self, String) {
        let mut host = Self::start(&ProcessSpec::Engine(spec.clone()));
        let line = host.says("listening ").await;
        (host, line["listening ".len()..].to_owned())
    }

    /// Starts a worker.
    pub(crate) fn worker(spec: &WorkerSpec) -> Self {
        Self::start(&ProcessSpec::Worker(spec.clone()))
    }

    /// The next line that starts with `prefix`; the lines before it are kept for others to ask for.
    pub(crate) async fn says(&mut self, prefix: &str) -> String {
        if let Some(at) = self.passed.iter().position(|line| line.starts_with(prefix)) {
            return self.passed.remove(at).unwrap();
        }
        let waiting = async {
            while let Some(line) = self.stdout.next_line().await.unwrap() {
                if line.starts_with(prefix) {
                    return Some(line);
                }
                self.passed.push_back(line);
            }
            None
        };
        match timeout(PATIENCE, waiting).await {
            Ok(Some(line)) => line,
            ended => {
                let log = self.log();
                panic!("no line `{prefix}…` ({ended:?}), but {:?} and {log}", self.passed)
            }
        }
    }

    /// What it has said on stderr so far.
    pub(crate) fn log(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// `kill -9`. The signal is on its way when this returns.
    pub(crate) fn kill(&mut self) {
        self.child.start_kill().unwrap();
    }

    /// `kill -9`, and waits until it is gone: its lock and its port are free.
    pub(crate) async fn killed(&mut self) {
        let gone = timeout(PATIENCE, self.child.kill()).await;
        gone.expect("a killed process ends").unwrap();
    }

    /// SIGTERM.
    pub(crate) async fn terminate(&mut self) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    }

    /// Waits for its end.
    pub(crate) async fn ended(mut self) -> Ending {
        let rest = async {
            while let Some(line) = self.stdout.next_line().await.unwrap() {
                self.passed.push_back(line);
            }
            self.child.wait().await.unwrap()
        };
        let status = timeout(PATIENCE, rest).await;
        let (stdout, stderr) = (self.passed.make_contiguous().join("\n"), self.log());
        match status {
            Ok(status) => Ending { code: status.code(), stdout, stderr },
            Err(_) => panic!("the process does not end: {stdout}\n{stderr}"),
        }
    }

    /// SIGTERM to an engine or worker, which must end in peace.
    pub(crate) async fn close(mut self) {
        self.terminate().await;
        let ending = self.ended().await;
        assert_eq!(ending.code, Some(0), "{ending:?}");
    }
}

/// Asks again until it is so: for what a server can only be asked, and does not tell by itself.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let asking = async {
        while !is_so().await {
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(PATIENCE, asking).await.is_ok(), "not within {PATIENCE:?}: {what}");
}

/// Waits until the engine's counts are as wanted.
pub(crate) async fn until_stats(
    client: &Client,
    what: &str,
    is_so: impl Fn(&Stats) -> bool,
) -> Stats {
    let seen = Mutex::new(Stats::default());
    until(what, || async {
        let stats = client.stats().await.unwrap();
        let so = is_so(&stats);
        *seen.lock().unwrap() = stats;
        so
    })
    .await;
    seen.into_inner().unwrap()
}

/// How often a span that is promised is measured at most. A machine with other work to do makes one
/// measurement longer, and not all of them; a promise that is broken is broken each time.
const MEASUREMENTS_MAX: usize = 4;

/// Measures until it took no longer than `limit`.
pub(crate) async fn within<F: Future<Output = Duration>>(
    limit: Duration,
    mut measure: impl FnMut() -> F,
) {
    let mut taken = Vec::new();
    while taken.len() < MEASUREMENTS_MAX {
        taken.push(measure().await);
        if taken.last() < Some(&limit) {
            return println!("{taken:?}, within {limit:?}");
        }
    }
    panic!("never within {limit:?}: {taken:?}")
}

/// The lines of an effects file.
pub(crate) fn effects(path: &std::path::Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// How many of `lines` start so.
pub(crate) fn count(lines: &[String], prefix: &str) -> usize {
    lines.iter().filter(|line| line.starts_with(prefix)).count()
}
