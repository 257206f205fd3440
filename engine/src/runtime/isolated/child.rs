//! The process of an isolated step: replays one run up to one step and runs that.

use std::ffi::OsString;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, kill_current_process_group, setrlimit};
use tokio::net::UnixStream;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::mpsc;

use super::pipe::{Failed, Pipe, Ready, Returned, Said, Task};
use super::{ISOLATED_VARIABLE, PROCESS};
use crate::model::failure::{Failure, FailureKind};
use crate::model::id::{CommandIndex, LeaseNo, RunNo, Token};
use crate::replay::isolated_step::IsolatedStep;
use crate::replay::turn::{Phase, Turn};
use crate::replay::world::World;
use crate::runtime::env::Env;
use crate::runtime::link::{Dial, Link};
use crate::wire::message::Message;

/// A replay that has used up its journal asks for its step within this time.
const ASKS_WITHIN: Duration = Duration::from_secs(10);
/// The exit code of a child that does not reach its parent.
const ALONE: i32 = 69;

/// The engine of those workers of the program that the step is none of: it never answers.
pub(crate) struct Nowhere;

impl Dial for Nowhere {
    fn dial(&self) -> BoxFuture<'static, io::Result<Link>> {
        Box::pin(std::future::pending())
    }

    fn address(&self) -> String {
        "nowhere".to_owned()
    }
}

/// Serves the parent. The function runs on the current runtime; `blocks` says that the caller will
/// not give its thread back, so that a runtime of one thread cannot be it.
pub(crate) fn serve(env: &Env, socket: OsString, world: World, blocks: bool) -> io::Result<()> {
    let (heard, inbox) = mpsc::unbounded_channel();
    let (outbox, to_say) = mpsc::unbounded_channel();
    let speaking: BoxFuture<'static, ()> = Box::pin(async move {
        match UnixStream::connect(&socket).await {
            Ok(stream) => speak(Pipe::new(stream), &heard, to_say).await,
            Err(error) => {
                eprintln!(
                    "{ISOLATED_VARIABLE} is set, which says that this is the process of an isolated step, but its worker \
                     is not reachable: {error}"
                );
                std::process::exit(ALONE);
            }
        }
    });
    env.exec.isolated("stepwell-socket", speaking)?;
    let replaying = replay(Arc::new(world), inbox, outbox);
    let runtime = Handle::current();
    match blocks && runtime.runtime_flavor() == RuntimeFlavor::CurrentThread {
        true => env.exec.isolated("stepwell-isolated", Box::pin(replaying)),
        false => {
            runtime.spawn(replaying);
            Ok(())
        }
    }
}

/// Carries frames until there is an answer, and ends the process.
async fn speak(
    mut pipe: Pipe,
    heard: &mpsc::UnboundedSender<Said>,
    mut to_say: mpsc::UnboundedReceiver<Said>,
) {
    if pipe.say(Ready {}).await.is_err() {
        end();
    }
    loop {
        tokio::select! {
            biased;
            said = pipe.hear() => match said {
                Ok(Some(said)) => {
                    let _ = heard.send(said);
                }
                Ok(None) | Err(_) => end(),
            },
            answer = to_say.recv() => {
                if let Some(answer) = answer {
                    let _ = pipe.say(answer).await;
                }
                std::process::exit(0);
            }
        }
    }
}

/// The parent is gone, or wants nothing more: so goes the child, with all that it has started (I4).
fn end() {
    let _ = kill_current_process_group(Signal::KILL);
    std::process::abort();
}

async fn replay(
    world: Arc<World>,
    mut inbox: mpsc::UnboundedReceiver<Said>,
    outbox: mpsc::UnboundedSender<Said>,
) {
    let task = match inbox.recv().await {
        Some(Said::Task(task)) => task,
        // The parent sees the end of this process, and the attempt fails.
        Some(Said::Ready(_) | Said::Page(_) | Said::Returned(_) | Said::Failed(_)) | None => {
            return end();
        }
    };
    let answer = match prepare(&world, &task) {
        Ok(()) => answer(&world, &task, inbox).await,
        Err(failure) => Failed { failure }.into(),
    };
    let _ = outbox.send(answer);
    std::future::pending::<()>().await; // the function stays until the process ends
}

fn prepare(world: &World, task: &Task) -> Result<(), Failure> {
    world.set_payload_bytes_max(task.payload_bytes_max);
    world.engine_time.heard(task.now, world.clock.mono());
    let _ = world
        .isolated_step
        .set(IsolatedStep { number: task.number, age: Duration::from_millis(task.age_ms) });
    match task.memory_bytes_max {
        Some(bytes_max) => limit_memory(bytes_max).map_err(|error| {
            let text = format!("the memory of the step's process cannot be limited: {error}");
            Failure::new(FailureKind::Retryable, PROCESS, text)
        }),
        None => Ok(()),
    }
}

/// What the process may have for its data: never more than it was allowed before.
fn limit_memory(bytes_max: u64) -> io::Result<()> {
    let before = getrlimit(Resource::Data).maximum;
    let limit = Some(before.map_or(bytes_max, |before| before.min(bytes_max)));
    setrlimit(Resource::Data, Rlimit { current: limit, maximum: limit })?;
    Ok(())
}

/// Replays until the step has answered.
async fn answer(world: &Arc<World>, task: &Task, mut inbox: mpsc::UnboundedReceiver<Said>) -> Said {
    let token = Token { store: 0, epoch: 0, lease: LeaseNo(0) };
    let mut turn = Turn::new(RunNo(0), task.run, token, task.seen, world.clone());
    let mut asks_within = None;
    std::future::poll_fn(move |cx| {
        while let Poll::Ready(Some(said)) = inbox.poll_recv(cx) {
            if let Said::Page(page) = said {
                for (index, entry) in (page.from..).zip(page.entries) {
                    turn.told(index, &entry);
                }
            }
        }
        turn.poll(cx);
        let mut answer = None;
        turn.flush(|message| {
            answer = answer.take().or_else(|| answer_of(message, task.number));
            true
        });
        if let Phase::Unregistered(workflow) = turn.phase() {
            answer = Some(astray(&format!("the workflow `{workflow}` is not registered there")));
        }
        if let Some(answer) = answer {
            return Poll::Ready(answer);
        }
        if turn.seen() >= task.seen && turn.bodies() == 0 {
            let limit = asks_within.get_or_insert_with(|| world.clock.sleep(ASKS_WITHIN));
            if limit.as_mut().poll(cx).is_ready() {
                return Poll::Ready(astray("it waits for something else"));
            }
        }
        Poll::Pending
    })
    .await
}

/// What a report of the replay says to the parent, if it is about the step or ends the replay.
fn answer_of(message: Message, number: u32) -> Option<Said> {
    match message {
        Message::StepCompletedReport(r) if r.number == CommandIndex(number) => {
            Some(Returned { output: r.output }.into())
        }
        Message::AttemptFailedReport(r) if r.number == CommandIndex(number) => {
            Some(Failed { failure: r.failure }.into())
        }
        Message::TurnMismatched(m) => {
            let (holds, asked) = (m.journal_holds, m.code_asked);
            let text = format!("entry {} holds {holds}, the code asked {asked}", m.index);
            Some(astray(&text))
        }
        Message::TurnCompleted(_) => Some(astray("the function returned")),
        Message::TurnFailed(failed) => {
            Some(astray(&format!("the function failed: {}", failed.failure)))
        }
        Message::TurnSuspended(_) => Some(astray("the function waits for a timer")),
        // Of other steps, or none of what a turn says.
        #[cfg(any(test, feature = "inspect"))]
        Message::Later(_) => None,
        Message::HelloV1(_)
        | Message::Hello(_)
        | Message::Heartbeat(_)
        | Message::Closing(_)
        | Message::Call(_)
        | Message::Welcome(_)
        | Message::Registered(_)
        | Message::Reply(_)
        | Message::Dispatch(_)
        | Message::Journal(_)
        | Message::JournalPage(_)
        | Message::Appended(_)
        | Message::TurnEnded(_)
        | Message::Revoked(_)
        | Message::LeaseContinued(_)
        | Message::ReportRefused(_)
        | Message::AttemptMemo(_)
        | Message::Register(_)
        | Message::StepCompletedReport(_)
        | Message::AttemptFailedReport(_)
        | Message::TimerRequested(_)
        | Message::Requeue(_)
        | Message::Offer(_)
        | Message::MemoRequested(_)
        | Message::MemoReleased(_)
        | Message::JournalPageRequested(_) => None,
    }
}

/// The replay did not come to the step (I2).
fn astray(how: &str) -> Said {
    let text = format!(
        "the step's process replayed the run's journal and did not come to the step: {how}; the function does not ask the \
         same each time"
    );
    let failure = Failure::new(FailureKind::Retryable, PROCESS, text);
    Failed { failure }.into()
}
