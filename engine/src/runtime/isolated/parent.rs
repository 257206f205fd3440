//! The worker's side: starts the process of an attempt, gives it its journal, takes its answer,
//! ends it.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::process::{Child, ChildStderr, ChildStdin, Command};
use tokio::sync::{mpsc, oneshot};

use super::pipe::{Page, Pipe, Said, Task};
use super::{ISOLATED_VARIABLE, PROCESS, WORKFLOW_VARIABLE};
use crate::model::failure::TIMEOUT_CLASS;
use crate::model::failure::{Failure, FailureKind};
use crate::model::payload::Payload;
use crate::model::time::as_ms;
use crate::replay::isolated_step::{IsolatedAttempt, IsolatedRunner};
use crate::replay::mismatch::span_text;
use crate::runtime::env::{Clock, Env};
use crate::runtime::worker::{PageWanted, SessionControl};

/// How much of the end of its stderr is kept for the failure.
const TAIL_BYTES: usize = 1_024;
/// How long a child that has answered may take to exit.
const EXIT_TIMEOUT: Duration = Duration::from_millis(500);
/// The wait before a journal is asked for again, if the connection to the engine was not there.
const AGAIN: Duration = Duration::from_millis(100);

/// An attempt to be made, and whom to tell.
struct Launch {
    attempt: IsolatedAttempt,
    /// When the attempt began.
    began: Duration,
    answer: oneshot::Sender<Result<Payload, Failure>>,
}

/// See the module. Its thread is started with the first attempt.
pub(crate) struct Processes {
    env: Env,
    session: mpsc::UnboundedSender<SessionControl>,
    launches: Mutex<Option<mpsc::UnboundedSender<Launch>>>,
}

impl Processes {
    pub(crate) fn new(env: Env, session: mpsc::UnboundedSender<SessionControl>) -> Self {
        Self { env, session, launches: Mutex::new(None) }
    }

    /// The way to the thread that sees to the processes: no user code runs there, so that nothing
    /// holds up a kill (I3).
    fn thread(&self) -> io::Result<mpsc::UnboundedSender<Launch>> {
        let mut launches = self.launches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*launches {
            return Ok(known.clone());
        }
        let (orders, mut ordered) = mpsc::unbounded_channel();
        let (env, session) = (self.env.clone(), self.session.clone());
        let supervising = async move {
            while let Some(launch) = ordered.recv().await {
                tokio::spawn(supervise(env.clone(), session.clone(), launch));
            }
        };
        self.env.exec.isolated("stepwell-processes", Box::pin(supervising))?;
        Ok(launches.insert(orders).clone())
    }
}

impl IsolatedRunner for Processes {
    fn run(&self, attempt: IsolatedAttempt) -> BoxFuture<'static, Result<Payload, Failure>> {
        let began = self.env.clock.mono();
        let (answer, answered) = oneshot::channel();
        let launch = Launch { attempt, began, answer };
        let sent = self.thread().map(|thread| thread.send(launch).is_ok());
        Box::pin(async move {
            match sent {
                Ok(_) => answered
                    .await
                    .unwrap_or_else(|_| Err(failed("the thread of the processes is gone"))),
                Err(error) => Err(failed(format!("no thread for the step's process: {error}"))),
            }
        })
    }
}

fn failed(text: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Retryable, PROCESS, text)
}

/// Why there was no answer.
enum Broken {
    /// It ended, or closed its socket.
    Gone,
    /// Something of ours went wrong.
    Failed(Failure),
}

/// One attempt, from its process's start to its end.
async fn supervise(env: Env, session: mpsc::UnboundedSender<SessionControl>, launch: Launch) {
    let Launch { attempt, began, mut answer } = launch;
    let clock = env.clock.clone();
    let mut process = match Process::start(env.entropy.next_u128(), &attempt.workflow) {
        Ok(process) => process,
        Err(error) => {
            let text = format!("the step's process cannot be started: {error}");
            let _ = answer.send(Err(failed(text)));
            return;
        }
    };
    let left = attempt.hard.saturating_sub(clock.mono() - began);
    let ended = tokio::select! {
        biased;
        () = answer.closed() => None,
        () = clock.sleep(left) => Some(Err(Broken::Failed(killed(attempt.hard)))),
        heard = process.converse(&*clock, began, &session, &attempt) => Some(heard),
    };
    match ended {
        None => {
            process.end().await;
        }
        Some(Ok(answered)) => {
            let _ = answer.send(answered);
            process.leave(&*clock).await;
            process.end().await;
        }
        Some(Err(Broken::Failed(failure))) => {
            process.end().await;
            let _ = answer.send(Err(failure));
        }
        Some(Err(Broken::Gone)) => {
            let status = process.end().await;
            let _ = answer.send(Err(process.crashed(status).await));
        }
    }
}

fn killed(hard: Duration) -> Failure {
    let text = format!(
        "the attempt took longer than its timeout of {}; its process was killed",
        span_text(hard)
    );
    Failure::new(FailureKind::Retryable, TIMEOUT_CLASS, text)
}

/// A child, and what is known of it.
struct Process {
    child: Child,
    // Waiting for the child would close it: whoever goes by its end must not take it for the end of
    // its owner.
    _stdin: Option<ChildStdin>,
    socket: ChildSocket,
    pipe: Option<Pipe>,
    tail: Arc<Mutex<Vec<u8>>>,
    tailing: Option<tokio::task::JoinHandle<()>>,
}

impl Process {
    fn start(drawn: u128, workflow: &str) -> io::Result<Self> {
        let socket = ChildSocket::open(drawn)?;
        let mut arguments = std::env::args_os();
        let mut command = Command::new(program()?);
        if let Some(name) = arguments.next() {
            command.arg0(name);
        }
        command
            .args(arguments)
            .env(ISOLATED_VARIABLE, &socket.path)
            .env(WORKFLOW_VARIABLE, workflow)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let stdin = child.stdin.take();
        let tail = Arc::new(Mutex::new(Vec::new()));
        let tailing = child.stderr.take().map(|stderr| tokio::spawn(pass_on(stderr, tail.clone())));
        Ok(Self { child, _stdin: stdin, socket, pipe: None, tail, tailing })
    }

    /// Gives the child what it needs and waits for its answer.
    async fn converse(
        &mut self,
        clock: &dyn Clock,
        began: Duration,
        session: &mpsc::UnboundedSender<SessionControl>,
        attempt: &IsolatedAttempt,
    ) -> Result<Result<Payload, Failure>, Broken> {
        let gone = |_: io::Error| Broken::Gone;
        let mut pipe = self.connected().await?;
        let Some(Said::Ready(_)) = pipe.hear().await.map_err(gone)? else {
            return Err(Broken::Gone);
        };
        let age = clock.mono() - began;
        let task = Task {
            run: attempt.run,
            number: attempt.number,
            seen: attempt.seen,
            age_ms: as_ms(age),
            memory_bytes_max: attempt.memory_bytes_max,
            payload_bytes_max: attempt.payload_bytes_max as u64,
            now: attempt.now,
        };
        pipe.say(task).await.map_err(gone)?;
        let mut from = 0;
        while from < attempt.seen {
            let entries = page(clock, session, attempt, from).await?;
            let count = entries.len() as u32;
            if count == 0 {
                let text = "the run's journal is shorter than it was";
                return Err(Broken::Failed(failed(text)));
            }
            pipe.say(Page { from, entries }).await.map_err(gone)?;
            from += count;
        }
        let heard = pipe.hear().await.map_err(gone)?;
        self.pipe = Some(pipe);
        match heard {
            Some(Said::Returned(returned)) => Ok(Ok(returned.output)),
            Some(Said::Failed(said)) => Ok(Err(said.failure)),
            _ => Err(Broken::Gone),
        }
    }

    /// The connection of the child itself (I6).
    async fn connected(&mut self) -> Result<Pipe, Broken> {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        loop {
            let stream = tokio::select! {
                biased;
                accepted = self.socket.listener.accept() => accepted.map_err(|_| Broken::Gone)?.0,
                _ = self.child.wait() => return Err(Broken::Gone),
            };
            let peer = stream.peer_cred().ok().and_then(|peer| peer.pid());
            if peer.is_none() || peer == id {
                self.socket.shut();
                return Ok(Pipe::new(stream));
            }
        }
    }

    /// Waits a moment for a child that has answered to exit by itself.
    async fn leave(&mut self, clock: &dyn Clock) {
        let Some(mut pipe) = self.pipe.take() else {
            return;
        };
        tokio::select! {
            biased;
            _ = pipe.hear() => {}
            () = clock.sleep(EXIT_TIMEOUT) => {}
        }
    }

    /// Kills the whole group, unless its leader has been reaped (I7), and reaps it.
    async fn end(&mut self) -> Option<ExitStatus> {
        self.kill();
        self.child.wait().await.ok()
    }

    fn kill(&self) {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = id.and_then(Pid::from_raw) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }

    /// What is to be said of a child that ended without an answer.
    async fn crashed(&mut self, status: Option<ExitStatus>) -> Failure {
        if let Some(tailing) = self.tailing.take() {
            let _ = tokio::time::timeout(EXIT_TIMEOUT, tailing).await;
        }
        let mut failure = failed(format!(
            "the step's process {} before it had an answer",
            status.map_or_else(|| "ended".to_owned(), how_it_ended)
        ));
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let tail = String::from_utf8_lossy(&tail);
        if !tail.trim().is_empty() {
            failure.causes.push(format!("it said last: {}", tail.trim()));
        }
        failure
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The program that runs: on Linux also if its file has been replaced or removed since.
fn program() -> io::Result<PathBuf> {
    let itself = Path::new("/proc/self/exe");
    match itself.exists() {
        true => Ok(itself.to_owned()),
        false => std::env::current_exe(),
    }
}

fn how_it_ended(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was ended by signal {signal}{}", name_of(signal)),
        (None, Some(code)) => format!("exited with code {code}"),
        (None, None) => "ended".to_owned(),
    }
}

fn name_of(signal: i32) -> &'static str {
    match signal {
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        15 => " (SIGTERM)",
        _ => "",
    }
}

/// A page of the journal, asked for until there is a connection to ask over.
async fn page(
    clock: &dyn Clock,
    session: &mpsc::UnboundedSender<SessionControl>,
    attempt: &IsolatedAttempt,
    from: u32,
) -> Result<Vec<bytes::Bytes>, Broken> {
    loop {
        let (answer, answered) = oneshot::channel();
        let wanted = PageWanted { run: attempt.run, from, limit: attempt.seen - from, answer };
        if session.send(SessionControl::Read(wanted)).is_err() {
            return Err(Broken::Failed(failed("the worker has left")));
        }
        match answered.await {
            Ok(Ok(entries)) => return Ok(entries),
            Ok(Err(refused)) => {
                let text = format!("the run's journal is not to be had: {refused}");
                return Err(Broken::Failed(failed(text)));
            }
            Err(_) => clock.sleep(AGAIN).await,
        }
    }
}

/// Passes the child's stderr on to ours and keeps its end.
async fn pass_on(mut from: ChildStderr, tail: Arc<Mutex<Vec<u8>>>) {
    let (mut to, mut bytes) = (tokio::io::stderr(), [0; 4_096]);
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        {
            let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
            tail.extend_from_slice(&bytes[..count]);
            let surplus = tail.len().saturating_sub(TAIL_BYTES);
            tail.drain(..surplus);
        }
        let _ = to.write_all(&bytes[..count]).await;
        let _ = to.flush().await;
    }
}

/// The socket before the child has connected, in a directory that nobody else may enter.
struct ChildSocket {
    listener: UnixListener,
    directory: PathBuf,
    path: PathBuf,
}

impl ChildSocket {
    fn open(drawn: u128) -> io::Result<Self> {
        let directory = std::env::temp_dir().join(format!("stepwell-{drawn:032x}"));
        DirBuilder::new().mode(0o700).create(&directory)?;
        let path = directory.join("step");
        match UnixListener::bind(&path) {
            Ok(listener) => Ok(Self { listener, directory, path }),
            Err(error) => {
                let _ = std::fs::remove_dir(&directory);
                Err(error)
            }
        }
    }

    fn shut(&self) {
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_dir(&self.directory);
    }
}

impl Drop for ChildSocket {
    fn drop(&mut self) {
        self.shut();
    }
}
