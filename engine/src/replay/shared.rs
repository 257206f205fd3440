//! What the function's futures and the turn that polls them know in common.

mod claim;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use twox_hash::XxHash3_64;

use super::command::{Command, CommandStage, Resolution};
use super::mismatch::{Mismatch, command_text, span_of};
use super::report::Report;
use super::watch::{RunningAttempt, Watch};
use super::world::{World, count};
use crate::canary::canary;
use crate::model::entry::NOT_ATTEMPTED;
use crate::model::entry::{CommandKind, Entry, SourceLocation, Started};
use crate::model::failure::Failure;
use crate::model::id::CommandIndex;
use crate::model::limits::NAME_BYTES_MAX;
use crate::model::payload::{Payload, PayloadError};
use crate::model::retry::Retry;
use crate::model::time::{Time, as_ms};

/// See the module.
pub(crate) struct Shared {
    /// How the run began; its input has been taken out.
    pub(crate) started: Started,
    /// From how many entries on each failed attempt at the whole function is known.
    failed_whole: Vec<u32>,
    pub(crate) world: Arc<World>,
    version: u32,
    watch: Arc<Watch>,
    state: Mutex<State>,
    in_body: AtomicBool,
}

/// What a step's future is to do next.
pub(crate) enum Verdict {
    Wait,
    Backoff(Duration),
    Start {
        attempt: u32,
    },
    /// The attempt has failed before its body began.
    Failed(Failure),
    Running,
    Resolved(Resolution),
}

/// Why a function must not go on.
#[derive(Debug)]
pub(crate) enum Halt {
    Mismatch(Mismatch),
    Failure(Failure),
}

/// The first entry about a command the code has not asked for yet.
struct RecordedCommand {
    index: u32,
    kind: CommandKind,
    span: Option<Duration>,
    location: SourceLocation,
}

/// What an entry has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryEffect {
    /// It resolves something (W2).
    Resolved,
    /// A step that had been reported may be tried again.
    Reopened,
    /// Nothing the function could notice.
    Noted,
}

/// What a pending function waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waits {
    /// A body, an answer of the engine, or an outcome that is about to be noticed.
    Soon,
    /// Timers and backoffs, the first of them then.
    Until(Time),
    /// Attempts of other memoized steps with the same key, and perhaps timers and backoffs.
    Memo(Option<Time>),
    /// Nothing it has asked of its context.
    Foreign,
}

struct State {
    now: Time,
    /// How many entries have been looked at.
    passed: u32,
    asked: u32,
    commands: BTreeMap<u32, Command>,
    records: BTreeMap<u32, RecordedCommand>,
    live: bool,
    cancelled: bool,
    bodies: u32,
    draws: u64,
    outbox: Vec<Report>,
    halt: Option<Halt>,
    turn: Option<Waker>,
}

impl Shared {
    pub(crate) fn new(
        started: Started,
        failed_whole: Vec<u32>,
        version: u32,
        world: Arc<World>,
        watch: Arc<Watch>,
    ) -> Self {
        let state = State {
            now: started.at,
            passed: 1,
            asked: 0,
            commands: BTreeMap::new(),
            records: BTreeMap::new(),
            live: false,
            cancelled: false,
            bodies: 0,
            draws: 0,
            outbox: Vec::new(),
            halt: None,
            turn: None,
        };
        Self {
            started,
            failed_whole,
            version,
            world,
            watch,
            state: Mutex::new(state),
            in_body: AtomicBool::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code of the author's runs under the lock, so nothing is ever half done in there.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For the context.
impl Shared {
    /// Numbers a command (W5).
    #[track_caller]
    pub(crate) fn ask(
        &self,
        kind: CommandKind,
        name: Cow<'static, str>,
        span: Duration,
        location: &'static Location<'static>,
    ) -> u32 {
        self.only_outside_bodies();
        self.watch.asks();
        let mut state = self.state();
        let number = state.asked;
        state.asked += 1;
        let command = Command::new(kind, name, span, location);
        if let Some(problem) = problem_of_name(kind, &command.name) {
            let text = format!("the step name `{}` {problem}", command.name);
            state.halt(Halt::Failure(Failure::terminal(text).class("name")));
        }
        if let Some(record) = state.records.remove(&number)
            && (record.kind != kind || record.location.name != command.name)
        {
            state.halt(Halt::Mismatch(Mismatch {
                index: record.index,
                journal_holds: command_text(record.kind, record.span, &record.location),
                code_asked: command_text(kind, Some(span), &command.source_location(self.version)),
            }));
        }
        state.commands.insert(number, command);
        number
    }

    pub(crate) fn now(&self) -> Time {
        if canary!("the time of a replay is its own") {
            return self.world.engine_now();
        }
        self.state().now
    }

    /// Which attempt at the whole function it is, as far as the function can know by now.
    pub(crate) fn whole_attempt(&self) -> u32 {
        let passed = self.state().passed;
        1 + self.failed_whole.partition_point(|from| *from <= passed) as u32
    }

    #[track_caller]
    pub(crate) fn random(&self) -> u64 {
        self.only_outside_bodies();
        let mut state = self.state();
        let mut seed = [0u8; 24];
        seed[..16].copy_from_slice(&self.started.id.0.to_be_bytes());
        seed[16..].copy_from_slice(&state.draws.to_be_bytes());
        state.draws += 1;
        XxHash3_64::oneshot(&seed)
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.state().cancelled
    }

    #[track_caller]
    fn only_outside_bodies(&self) {
        assert!(
            !self.in_body.load(Ordering::Relaxed),
            "the context was asked for something from within a step's body: that would not repeat in a replay"
        );
    }
}

/// For the futures of steps and timers.
impl Shared {
    /// What a step that is polled is to do.
    pub(crate) fn poll_step(&self, number: u32, waker: &Waker) -> Verdict {
        let mut state = self.state();
        let may_move = (state.live || canary!("a replay executes steps")) && state.halt.is_none();
        let Some(command) = state.commands.get_mut(&number) else {
            return Verdict::Wait;
        };
        command.polled = true;
        if let Some(resolution) = command.resolution.take() {
            if let Some(command) = state.commands.remove(&number) {
                state.return_claim(number, &command);
            }
            return Verdict::Resolved(resolution);
        }
        command.woken_by(waker);
        match command.stage {
            CommandStage::Running => Verdict::Running,
            CommandStage::Asked if may_move => {
                let only = self.world.isolated_step.get();
                if only.is_some_and(|only| only.number != number) {
                    return Verdict::Wait;
                }
                if let Some(at) = command.wakes_at
                    && only.is_none()
                    && !canary!("no backoff")
                {
                    let left = at.since(self.world.engine_now());
                    if !left.is_zero() {
                        return Verdict::Backoff(left);
                    }
                }
                command.gated = only.is_none() && !self.world.may_start(); // if not, the gate tells us when
                if command.gated {
                    return Verdict::Wait;
                }
                let attempt = command.attempts + 1;
                if let Some(claim) = command.claim.as_mut().filter(|_| only.is_none()) {
                    if let Some(failure) = claim.failure.take() {
                        command.stage = CommandStage::Running;
                        state.bodies += 1;
                        return Verdict::Failed(failure);
                    }
                    if !claim.granted {
                        claim.asked = true;
                        let memo = claim.key;
                        command.stage = CommandStage::Claiming;
                        let location = command.source_location(self.version);
                        state.outbox.push(Report::MemoRequested {
                            number,
                            location,
                            attempt,
                            memo,
                        });
                        return Verdict::Wait;
                    }
                }
                command.stage = CommandStage::Running;
                state.bodies += 1;
                count(&self.world.counts.bodies);
                Verdict::Start { attempt }
            }
            _ => Verdict::Wait,
        }
    }

    /// What the session sees of it.
    pub(crate) fn watch(&self) -> Arc<Watch> {
        self.watch.clone()
    }

    /// A body begins in place, and should have ended by `hard_at`.
    pub(crate) fn watches(
        &self,
        number: u32,
        (attempt, retry): (u32, Retry),
        (hard, hard_at): (Duration, Duration),
    ) {
        let state = self.state();
        let Some(command) = state.commands.get(&number) else {
            return;
        };
        let body = RunningAttempt {
            name: command.name.clone(),
            location: command.location,
            version: self.version,
            attempt,
            retry,
            hard,
            hard_at,
        };
        self.watch.begins(number, body);
    }

    /// A body that was watched is gone.
    pub(crate) fn watches_no_more(&self, number: u32) {
        self.watch.ends(number);
    }

    /// How many entries the function has seen.
    pub(crate) fn seen(&self) -> u32 {
        self.state().passed
    }

    /// What a timer that is polled answers.
    pub(crate) fn poll_timer(
        &self,
        number: u32,
        span: Duration,
        waker: &Waker,
    ) -> Poll<Result<(), Failure>> {
        let mut state = self.state();
        let may_move = state.live && state.halt.is_none();
        let Some(command) = state.commands.get_mut(&number) else {
            return Poll::Pending;
        };
        command.polled = true;
        if let Some(resolution) = command.resolution.take() {
            state.commands.remove(&number);
            return Poll::Ready(match resolution {
                Resolution::Failed(failure) => Err(failure),
                _ => Ok(()),
            });
        }
        command.woken_by(waker);
        if may_move && command.stage == CommandStage::Asked {
            command.stage = CommandStage::Reported;
            let delay_ms = as_ms(span);
            let location = command.source_location(self.version);
            state.outbox.push(Report::TimerRequested { number, location, delay_ms });
        }
        Poll::Pending
    }

    /// A body has ended; its outcome goes to the engine and comes back as an entry (W4).
    pub(crate) fn body_ended(&self, number: u32, ended: Result<Payload, Failure>, retry: Retry) {
        let mut state = self.state();
        let Some(command) = state.commands.get_mut(&number) else {
            return;
        };
        command.stage = CommandStage::Reported;
        let (location, attempt) = (command.source_location(self.version), command.attempts + 1);
        let memo = command.claim.as_mut().map(|claim| {
            claim.settled();
            (claim.key, retry)
        });
        state.bodies -= 1;
        let report = match ended {
            Ok(output) => Report::StepCompleted { number, location, attempt, output, memo },
            Err(failure) => Report::AttemptFailed { number, location, attempt, failure, retry },
        };
        state.outbox.push(report);
    }

    /// The future of a command is gone; what is still to come for it is skipped.
    pub(crate) fn abandon(&self, number: u32) {
        let mut state = self.state();
        if let Some(command) = state.commands.remove(&number) {
            state.bodies -= u32::from(command.stage == CommandStage::Running);
            state.return_claim(number, &command);
        }
    }

    /// A recorded output is not what the code's type wants.
    pub(crate) fn does_not_decode(&self, number: u32, index: u32, error: &PayloadError) {
        let mismatch = Mismatch {
            index,
            journal_holds: format!(
                "the output of command {number}, which the code's type does not fit"
            ),
            code_asked: error.to_string(),
        };
        self.state().halt(Halt::Mismatch(mismatch));
    }

    /// Runs a piece of a body, marked as such. It must not panic.
    pub(crate) fn in_body<R>(&self, number: u32, run: impl FnOnce() -> R) -> R {
        self.in_body.store(true, Ordering::Relaxed);
        self.watch.enters_body(number);
        let result = run();
        self.watch.leaves_body(self.world.clock.mono());
        self.in_body.store(false, Ordering::Relaxed);
        result
    }
}

/// For the turn.
impl Shared {
    /// Who polls the function.
    pub(crate) fn polled_by(&self, turn: &Waker) {
        match &mut self.state().turn {
            Some(known) => known.clone_from(turn),
            none => *none = Some(turn.clone()),
        }
    }

    /// Remembers the first entry about each command to come, so that `ask` can compare. Takes the
    /// place out of it.
    pub(crate) fn record(&self, index: u32, entry: &mut Entry) {
        let span = span_of(entry);
        let (number, kind, location) = match entry {
            Entry::StepCompleted(e) => (e.number, CommandKind::Step, &mut e.location),
            Entry::StepFailed(e) => (e.number, CommandKind::Step, &mut e.location),
            Entry::AttemptFailed(e) if e.number != CommandIndex::FUNCTION => {
                (e.number, CommandKind::Step, &mut e.location)
            }
            Entry::TimerArmed(e) => (e.number, CommandKind::Timer, &mut e.location),
            _ => return,
        };
        let mut state = self.state();
        if number.0 >= state.asked {
            let location = std::mem::take(location);
            state.records.entry(number.0).or_insert(RecordedCommand {
                index,
                kind,
                span,
                location,
            });
        }
    }

    /// Whether the code has asked for the command that an entry is about (W5).
    pub(crate) fn meets(&self, index: u32, entry: &Entry) -> Result<(), Mismatch> {
        let state = self.state();
        if let Some(number) = entry.number()
            && number != CommandIndex::FUNCTION
            && number.0 >= state.asked
        {
            let code_asked = state.waits_text(self.version);
            return Err(Mismatch { index, journal_holds: state.holds_text(number), code_asked });
        }
        Ok(())
    }

    /// Looks at one entry, in order.
    pub(crate) fn pass(&self, index: u32, entry: Entry) -> Result<EntryEffect, Mismatch> {
        self.meets(index, &entry)?;
        let mut state = self.state();
        let (resolves, at) = (entry.resolves(), entry.at());
        state.passed = index + 1;
        if resolves {
            state.now = at;
            if !state.live {
                count(&self.world.counts.replayed);
            }
        }
        state.pass(index, entry)
    }

    /// The recorded entries are used up: from now on bodies run (W3). Tells whether that is new.
    pub(crate) fn go_live(&self) -> bool {
        let mut state = self.state();
        if state.live {
            return false;
        }
        state.live = true;
        state.wake(|command| command.polled);
        true
    }

    /// Wakes steps that were not allowed to start.
    pub(crate) fn gate_opened(&self) {
        self.state().wake(|command| command.gated);
    }

    pub(crate) fn take_outbox(&self) -> Vec<Report> {
        std::mem::take(&mut self.state().outbox)
    }

    pub(crate) fn take_halt(&self) -> Option<Halt> {
        self.state().halt.take()
    }

    /// How many commands the code has asked for.
    pub(crate) fn asked(&self) -> u32 {
        self.state().asked
    }

    /// How many bodies run.
    pub(crate) fn bodies(&self) -> u32 {
        self.state().bodies
    }

    /// What the journal holds about a command the code never asked for.
    pub(crate) fn holds_text(&self, number: CommandIndex) -> String {
        self.state().holds_text(number)
    }

    /// What the function waits for.
    pub(crate) fn waits(&self) -> Waits {
        let state = self.state();
        if !state.live || state.bodies > 0 {
            return Waits::Soon;
        }
        let (mut first, mut memo): (Option<Time>, bool) = (None, false);
        for command in state.commands.values().filter(|c| c.polled && c.resolution.is_none()) {
            match (command.stage, command.wakes_at) {
                (CommandStage::Armed | CommandStage::Asked, Some(at)) => {
                    first = Some(first.map_or(at, |earlier| earlier.min(at)));
                }
                (CommandStage::Claiming, _) => memo = true,
                _ => return Waits::Soon,
            }
        }
        match first {
            _ if memo => Waits::Memo(first),
            Some(at) => Waits::Until(at),
            None => Waits::Foreign,
        }
    }

    /// Steps that wait for the engine to say whether they may make a memoized attempt.
    pub(crate) fn claiming(&self) -> Vec<CommandIndex> {
        let state = self.state();
        let commands = state.commands.iter();
        let claiming = commands.filter(|(_, c)| c.polled && c.stage == CommandStage::Claiming);
        claiming.map(|(number, _)| CommandIndex(*number)).collect()
    }
}

impl State {
    /// The first reason stays.
    fn halt(&mut self, why: Halt) {
        self.halt.get_or_insert(why);
    }

    fn pass(&mut self, index: u32, entry: Entry) -> Result<EntryEffect, Mismatch> {
        let (number, kind, resolution) = match entry {
            Entry::StepCompleted(e) => {
                let (own, output) = (e.attempt != NOT_ATTEMPTED, e.output);
                let resolution = Resolution::Completed { index, own, output };
                if let Some(claim) = self.claim_of(e.number) {
                    claim.settled(); // the engine knows that it is over
                }
                (e.number, CommandKind::Step, resolution)
            }
            Entry::StepFailed(e) => (e.number, CommandKind::Step, Resolution::Failed(e.failure)),
            Entry::TimerFired(e) => (e.number, CommandKind::Timer, Resolution::Fired),
            Entry::CancelRequested(e) => {
                self.cancel(&e.reason);
                return Ok(EntryEffect::Resolved);
            }
            Entry::AttemptFailed(e) => {
                let Some(command) = self.commands.get_mut(&e.number.0) else {
                    return Ok(EntryEffect::Noted);
                };
                command.attempts = command.attempts.max(e.attempt);
                command.wakes_at = Some(e.retry_at);
                if command.stage != CommandStage::Reported {
                    return Ok(EntryEffect::Noted);
                }
                command.stage = CommandStage::Asked;
                command.wake(self.turn.as_ref());
                if canary!("a failed attempt that comes with an outcome is not made again") {
                    return Ok(EntryEffect::Noted);
                }
                return Ok(EntryEffect::Reopened);
            }
            Entry::TimerArmed(e) => {
                if let Some(command) = self.commands.get_mut(&e.number.0) {
                    (command.wakes_at, command.stage) = (Some(e.due), CommandStage::Armed);
                }
                return Ok(EntryEffect::Noted);
            }
            Entry::Started(_) | Entry::Completed(_) | Entry::Died(_) | Entry::Cancelled(_) => {
                return Ok(EntryEffect::Noted);
            }
            Entry::Redriven(_) | Entry::InputEdited(_) | Entry::Discarded(_) => {
                return Ok(EntryEffect::Noted);
            }
        };
        self.resolve(number, index, kind, resolution)?;
        Ok(EntryEffect::Resolved)
    }

    fn resolve(
        &mut self,
        number: CommandIndex,
        index: u32,
        kind: CommandKind,
        resolution: Resolution,
    ) -> Result<(), Mismatch> {
        // Not there: its future was dropped, or the run was cancelled before. Resolved: cancelled,
        // and not yet noticed.
        let Some(command) = self.commands.get_mut(&number.0) else {
            return Ok(());
        };
        if command.kind != kind {
            let code_asked = format!("{} {number}", command.kind);
            return Err(Mismatch {
                index,
                journal_holds: format!("the outcome of {kind} {number}"),
                code_asked,
            });
        }
        if command.resolution.is_none() {
            self.bodies -= u32::from(command.stage == CommandStage::Running);
            command.stage = CommandStage::Reported;
            command.resolution = Some(resolution);
            command.wake(self.turn.as_ref());
        }
        Ok(())
    }

    /// All that is pending answers with a cancelled failure.
    fn cancel(&mut self, reason: &str) {
        self.cancelled = true;
        if canary!("a cancel is passed over in replay") && !self.live {
            return;
        }
        for command in self.commands.values_mut().filter(|c| c.resolution.is_none()) {
            self.bodies -= u32::from(command.stage == CommandStage::Running);
            command.stage = CommandStage::Reported;
            command.resolution = Some(Resolution::Failed(Failure::cancelled(reason)));
            command.wake(self.turn.as_ref());
        }
    }

    fn wake(&self, which: impl Fn(&Command) -> bool) {
        for command in self.commands.values().filter(|command| which(command)) {
            command.wake(self.turn.as_ref());
        }
    }

    fn holds_text(&self, number: CommandIndex) -> String {
        match self.records.get(&number.0) {
            Some(record) => command_text(record.kind, record.span, &record.location),
            None => format!("the outcome of command {number}"),
        }
    }

    fn waits_text(&self, version: u32) -> String {
        let first = self.commands.values().find(|c| c.polled && c.resolution.is_none());
        match first {
            Some(command) => {
                let text = command_text(
                    command.kind,
                    Some(command.span),
                    &command.source_location(version),
                );
                format!("nothing: it waits for {text}")
            }
            None => "nothing: it awaits a future that does not come from `ctx`".to_owned(),
        }
    }
}

fn problem_of_name(kind: CommandKind, name: &str) -> Option<&'static str> {
    match name {
        _ if kind == CommandKind::Timer => None,
        "" => Some("is empty"),
        name if name.len() > NAME_BYTES_MAX => Some("is longer than 128 bytes"),
        name if name.chars().any(char::is_control) => Some("holds control characters"),
        _ => None,
    }
}
