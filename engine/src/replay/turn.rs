//! One pass of a run's function, from its first poll to the report that ends it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::failure_origin::FailureOrigin;
use super::history::{History, UnreadableEntry};
use super::mismatch::{Mismatch, span_text};
use super::report::{Outstanding, Report};
use super::shared::{EntryEffect, Halt, Shared, Waits};
use super::watch::Watch;
use super::world::{Running, World, count};
use crate::canary::canary;
use crate::model::dead::Superseded;
use crate::model::entry::Entry;
use crate::model::failure::{Failure, FailureKind, ONCE, PANIC, PAYLOAD, TIMEOUT_CLASS};
use crate::model::id::{CommandIndex, RunId, RunNo, Token};
use crate::model::payload::Payload;
use crate::model::request::Refusal;
use crate::model::retry::Retry;
use crate::model::time::Time;
use crate::wire::message::Message;
use crate::workflow::{Ctx, TIMEOUT_DEFAULT, over_time};

/// A wait shorter than this is waited for in memory; a longer one suspends the run.
pub(crate) const MOMENT: Duration = Duration::from_millis(250);

/// See the module `replay`.
pub(crate) struct Turn {
    run: RunNo,
    id: RunId,
    token: Token,
    /// How many entries the engine has announced.
    count: u32,
    world: Arc<World>,
    watch: Arc<Watch>,
    history: History,
    /// Entries below this index have been looked at as they came.
    noted: u32,
    function: Option<Function>,
    outstanding: Outstanding,
    phase: Phase,
    warned: bool,
    /// How long the function may go without its context.
    timeout: Duration,
    /// The end of a function that waits for something foreign.
    foreign: Option<Foreign>,
    /// The end of the moment for which it has waited for memo keys in memory.
    moment: Option<BoxFuture<'static, ()>>,
    superseded: Superseded,
    failure_origin: FailureOrigin,
}

/// The author's future and what it shares with us.
struct Function {
    shared: Arc<Shared>,
    future: Running,
    polled: bool,
}

/// The function awaits a future that does not come from its context.
struct Foreign {
    /// What it had asked for before.
    asked: u32,
    ends: BoxFuture<'static, ()>,
}

/// Where a turn is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waits for its journal.
    Loading,
    /// The function is polled.
    Running,
    /// Nothing but the wait is left to do; the engine has been told.
    Suspending,
    /// The engine has been told how it ended.
    Ended,
    /// It must not go on; the engine knows why.
    Stopped,
    /// This worker does not know the workflow.
    Unregistered(String),
}

impl Turn {
    pub(crate) fn new(run: RunNo, id: RunId, token: Token, count: u32, world: Arc<World>) -> Self {
        Self {
            run,
            id,
            token,
            count,
            world,
            watch: Arc::default(),
            history: History::new(id),
            noted: 0,
            function: None,
            outstanding: Outstanding::default(),
            phase: Phase::Loading,
            warned: false,
            timeout: TIMEOUT_DEFAULT,
            foreign: None,
            moment: None,
            superseded: Superseded::default(),
            failure_origin: FailureOrigin::default(),
        }
    }

    pub(crate) fn phase(&self) -> &Phase {
        &self.phase
    }

    /// How many bodies run.
    #[cfg(unix)]
    pub(crate) fn bodies(&self) -> u32 {
        self.function.as_ref().map_or(0, |f| f.shared.bodies())
    }

    /// What the session may know of its bodies.
    pub(crate) fn watch(&self) -> Arc<Watch> {
        self.watch.clone()
    }

    /// How many entries it has, without gaps: what a worker that comes back tells the engine.
    pub(crate) fn seen(&self) -> u32 {
        self.history.seen()
    }

    /// Whether nothing would be lost if another worker had the run: no body runs and no report is
    /// without an answer.
    pub(crate) fn is_idle(&self) -> bool {
        match self.phase {
            Phase::Loading => true,
            Phase::Running => {
                self.outstanding.only_asks()
                    && self.function.as_ref().is_none_or(|f| f.shared.bodies() == 0)
            }
            _ => false,
        }
    }

    /// A page of the journal.
    pub(crate) fn stored(&mut self, from: u32, entries: Vec<Bytes>) {
        let added = self.history.stored(from, entries);
        self.note(added);
    }

    /// One entry, told live.
    pub(crate) fn told(&mut self, index: u32, entry: &[u8]) {
        let added = match Entry::decode(entry) {
            Ok(entry) => {
                self.world.engine_time.heard(entry.at(), self.world.clock.mono());
                self.history.told(index, entry)
            }
            Err(cause) => Err(UnreadableEntry { index, cause }),
        };
        self.note(added);
    }

    /// The lease goes on under another token; the journal has `count` entries.
    pub(crate) fn lease_continued(&mut self, token: Token, count: u32) {
        self.token = token;
        self.count = self.count.max(count);
        if self.phase == Phase::Suspending {
            self.outstanding.withdraw_end();
            self.phase = Phase::Running;
        }
        self.moment = None; // its steps ask again
    }

    /// The engine refused what was reported about a command ([`CommandIndex::FUNCTION`]: about the
    /// turn's end).
    pub(crate) fn refused(&mut self, number: CommandIndex, reason: &Refusal) {
        match reason {
            Refusal::Damaged(_) if number != CommandIndex::FUNCTION => {
                self.memo_failed(number, reason)
            }
            Refusal::JournalFull(_)
            | Refusal::Poisoned(_)
            | Refusal::Damaged(_)
            | Refusal::StaleToken(_) => self.stop(),
            Refusal::PayloadTooLarge(_) => {
                self.too_large(number, Failure::terminal(reason).class(PAYLOAD))
            }
            _ => {
                self.outstanding.withdraw_step(number.0);
                self.outstanding.withdraw_end();
                self.fail(Failure::terminal(reason).class("refused"), false);
            }
        }
    }

    /// A memoized step may make its attempt. If it wants to no more, the
    /// engine is told.
    pub(crate) fn attempt_memo(&mut self, number: CommandIndex) {
        let function = self.function.as_ref();
        let wanted = function.is_some_and(|function| function.shared.attempt_memo(number));
        if !wanted && matches!(self.phase, Phase::Running | Phase::Suspending) {
            let number = number.0;
            self.outstanding.is_returned(number);
            self.outstanding.push(Report::MemoReleased { number });
        }
    }

    /// The engine knows that an attempt is not made.
    pub(crate) fn memo_released(&mut self, number: CommandIndex) {
        self.outstanding.is_returned(number.0);
    }

    /// Steps that were not allowed to start may try again.
    pub(crate) fn gate_opened(&self) {
        if let Some(function) = &self.function {
            function.shared.gate_opened();
        }
    }

    /// Sends the reports that have not been sent under the current token, once the journal is known
    /// up to where the engine said it goes: it may hold the answers already.
    pub(crate) fn flush(&mut self, send: impl FnMut(Message) -> bool) {
        if self.history.seen() >= self.count || matches!(self.phase, Phase::Ended) {
            self.outstanding.flush(self.run, self.token, send);
        }
    }

    /// Polls the function as far as it goes: until it has ended, or waits and no further entry is
    /// there.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) {
        if self.phase == Phase::Loading && self.history.seen() >= self.count.max(1) {
            self.begin();
        }
        let mut woken = true;
        while self.phase == Phase::Running {
            let resolved = match self.advance() {
                Ok(resolved) => resolved,
                Err(mismatch) => return self.mismatched(mismatch),
            };
            if !resolved && !woken {
                return self.waits(cx);
            }
            woken = false;
            self.poll_function(cx, resolved);
        }
    }

    /// Drops the function. Its destructors are the author's code.
    pub(crate) fn stop(&mut self) {
        self.phase = Phase::Stopped;
        self.drop_function();
    }

    /// The reports without an answer.
    #[cfg(test)]
    pub(crate) fn outstanding(&self) -> Vec<Report> {
        self.outstanding.all().cloned().collect()
    }
}

impl Turn {
    /// Looks at entries as they come in: what they answer, and what they say about commands to
    /// come.
    fn note(&mut self, added: Result<(), UnreadableEntry>) {
        for index in self.noted.max(self.history.next())..self.history.seen() {
            if let Some(entry) = self.history.get_mut(index) {
                self.outstanding.answered_by(entry);
                if let Some(function) = &self.function {
                    function.shared.record(index, entry);
                }
            }
        }
        self.noted = self.history.seen();
        if let Err(UnreadableEntry { index, cause }) = added
            && matches!(self.phase, Phase::Loading | Phase::Running | Phase::Suspending)
        {
            self.outstanding.withdraw_end();
            let code_asked = "nothing: the entry cannot be read".to_owned();
            self.mismatched(Mismatch { index, journal_holds: cause.to_string(), code_asked });
        }
    }

    /// The journal is here: calls the function.
    fn begin(&mut self) {
        let Some((_, Entry::Started(mut started))) = self.history.take() else {
            let (journal_holds, code_asked) =
                ("something else than the start of a run".to_owned(), "its input".to_owned());
            return self.mismatched(Mismatch { index: 0, journal_holds, code_asked });
        };
        let Some(code) = self.world.registry.get(&started.workflow).cloned() else {
            self.phase = Phase::Unregistered(started.workflow);
            return;
        };
        count(&self.world.counts.turns);
        self.timeout = code.timeout;
        self.watch.set_timeout(code.timeout);
        // Nobody redrives a run that is running: what is superseded now stays so for this turn.
        self.superseded = Superseded::of(self.history.waiting());
        let input = self.input(std::mem::take(&mut started.input));
        let shared = Arc::new(Shared::new(
            started,
            self.failed_whole(),
            code.version,
            self.world.clone(),
            self.watch.clone(),
        ));
        for index in self.history.next()..self.history.seen() {
            if let Some(entry) = self.history.get_mut(index) {
                shared.record(index, entry);
            }
        }
        let begun =
            catch_unwind(AssertUnwindSafe(|| (code.begin)(Ctx::new(shared.clone()), &input)));
        match begun {
            Ok(Ok(future)) => {
                self.function = Some(Function { shared, future, polled: false });
                self.phase = Phase::Running;
            }
            Ok(Err(failure)) => self.fail(failure, true),
            Err(panic) => self.fail(panicked(panic.as_ref()), true),
        }
    }

    /// From how many entries on the function knows of each failed attempt at the whole of it: code
    /// that has run before must see in a replay what it saw then.
    fn failed_whole(&self) -> Vec<u32> {
        let (mut failed, mut seen) = (Vec::new(), 1);
        for (index, entry) in self.history.waiting() {
            match entry {
                Entry::AttemptFailed(e) if e.number == CommandIndex::FUNCTION => {
                    failed.extend((!self.superseded.covers(index, entry)).then_some(seen));
                }
                entry if entry.number().is_some() => seen = index + 1,
                _ => {}
            }
        }
        failed
    }

    /// What the function gets (W10).
    fn input(&self, first: Payload) -> Payload {
        let edits = self.history.waiting().filter_map(|(_, entry)| match entry {
            Entry::InputEdited(edited) => Some(&edited.input),
            _ => None,
        });
        match edits.last() {
            Some(input) if !canary!("an edit is forgotten at replay") => input.clone(),
            _ => first,
        }
    }

    /// Looks at entries in order up to one that resolves (W2), or goes live (W3). Tells whether the
    /// function must be polled (W8).
    fn advance(&mut self) -> Result<bool, Mismatch> {
        let Some(function) = self.function.as_ref().filter(|f| f.polled) else {
            return Ok(false);
        };
        let mut reopened = false;
        while let Some((index, entry)) = self.history.take() {
            let finished = matches!(&entry, Entry::StepCompleted(_));
            let again = finished
                && self.superseded.redrives() > 0
                && canary!("a redrive runs finished steps again");
            if self.superseded.covers(index, &entry) || again {
                function.shared.meets(index, &entry)?;
                continue;
            }
            if let Entry::StepFailed(failed) = &entry {
                self.failure_origin.sees(index, failed.number, &failed.failure);
            }
            match function.shared.pass(index, entry)? {
                EntryEffect::Resolved
                    if canary!("two outcomes between two polls")
                        && self.history.waiting().next().is_some_and(|(_, entry)| {
                            let asked = function.shared.asked();
                            entry.number().is_some_and(|number| number.0 < asked)
                        }) => {}
                EntryEffect::Resolved => return Ok(true),
                EntryEffect::Reopened => reopened = true,
                EntryEffect::Noted => {}
            }
        }
        Ok(function.shared.go_live() || reopened)
    }

    /// Polls the function once.
    fn poll_function(&mut self, cx: &mut Context<'_>, resolved: bool) {
        let Some(function) = &mut self.function else {
            return;
        };
        // A poll that follows a resolution must not be skipped by a tokio primitive whose task has
        // used up its budget: the next resolution would come before this one was noticed.
        let unconstrained = resolved || !function.polled;
        function.polled = true;
        function.shared.polled_by(cx.waker());
        self.watch.has_failed_at(self.failure_origin.failed_at());
        let future = &mut function.future;
        let polled = catch_unwind(AssertUnwindSafe(|| {
            if unconstrained {
                pin!(tokio::task::unconstrained(future)).poll(cx)
            } else {
                future.as_mut().poll(cx)
            }
        }));
        for report in function.shared.take_outbox() {
            if matches!(report, Report::StepCompleted { .. }) {
                count(&self.world.counts.steps);
            }
            self.outstanding.push(report);
        }
        self.failure_origin.asked(function.shared.asked());
        let (halt, whole) = (function.shared.take_halt(), function.shared.asked() == 0);
        match (halt, polled) {
            (Some(Halt::Mismatch(mismatch)), _) => self.mismatched(mismatch),
            (Some(Halt::Failure(failure)), _) => self.fail(failure, false),
            (None, Ok(Poll::Pending)) => {}
            (None, Ok(Poll::Ready(returned))) => self.returned(returned, whole),
            (None, Err(panic)) => self.fail(panicked(panic.as_ref()), whole),
        }
    }

    /// The function has ended. Unread entries of commands it never asked for say that it ended too
    /// early.
    fn returned(&mut self, returned: Result<Payload, Failure>, whole: bool) {
        if let Some(function) = &self.function {
            let asked = function.shared.asked();
            let foreign =
                |number: &CommandIndex| *number != CommandIndex::FUNCTION && number.0 >= asked;
            let unread =
                self.history.waiting().find_map(|(i, e)| Some((i, e.number().filter(foreign)?)));
            if let Some((index, number)) = unread {
                let code_asked = match &returned {
                    Ok(_) => "nothing: it returned".to_owned(),
                    Err(failure) => format!("nothing: it failed with {failure:?}"),
                };
                let journal_holds = function.shared.holds_text(number);
                return self.mismatched(Mismatch { index, journal_holds, code_asked });
            }
        }
        match returned {
            Ok(output) => self.end(Report::Completed { output }),
            Err(failure) => self.fail(failure, whole),
        }
    }

    /// The function has failed, in a way that a redrive goes by (W11).
    fn fail(&mut self, failure: Failure, whole: bool) {
        let end = self.failure_origin.end(&failure);
        self.end(Report::Failed { failure, whole, end });
    }

    /// The function waits, and no entry is there that would change it.
    fn waits(&mut self, cx: &mut Context<'_>) {
        let Some(function) = &self.function else {
            return;
        };
        let (waits, asked) = (function.shared.waits(), function.shared.asked());
        if !matches!(waits, Waits::Memo(_)) {
            self.moment = None;
        }
        if !matches!(waits, Waits::Foreign) && self.foreign.take().is_some() {
            self.watch.waits_foreign(None);
        }
        match waits {
            Waits::Foreign => self.waits_foreign(asked, cx),
            Waits::Until(at) => self.suspend_until(at),
            Waits::Memo(at) => self.suspend_for_memo(at, cx),
            Waits::Soon => {}
        }
    }

    /// Suspends the run if all it waits for is a moment away or more, and nothing is under way.
    fn suspend_until(&mut self, at: Time) {
        let under_way = !self.outstanding.is_empty() || self.history.seen() < self.count;
        if !under_way && at > self.world.engine_now().after(MOMENT) {
            self.suspend(at, Vec::new());
        }
    }

    /// The same if it waits for others to make an attempt. How long they take is not known: after a
    /// moment it is taken for long.
    fn suspend_for_memo(&mut self, at: Option<Time>, cx: &mut Context<'_>) {
        let under_way = !self.outstanding.only_asks() || self.history.seen() < self.count;
        let soon = self.world.engine_now().after(MOMENT);
        if under_way || at.is_some_and(|at| at <= soon) {
            return;
        }
        let clock = &self.world.clock;
        let moment = self.moment.get_or_insert_with(|| clock.sleep(MOMENT));
        if moment.as_mut().poll(cx).is_ready() {
            self.moment = None;
            let claiming = self.function.as_ref().map(|f| f.shared.claiming());
            self.suspend(at.unwrap_or(Time::NEVER), claiming.unwrap_or_default());
        }
    }

    fn suspend(&mut self, wakes_at: Time, memos: Vec<CommandIndex>) {
        count(&self.world.counts.suspended);
        self.end(Report::Suspended { seen: self.history.seen(), wakes_at, memos });
        self.phase = Phase::Suspending;
    }

    /// What is not asked of the context ends at the function's timeout: nobody else knows that it
    /// is waited for.
    fn waits_foreign(&mut self, asked: u32, cx: &mut Context<'_>) {
        if !self.warned {
            self.warned = true;
            tracing::warn!(
                run = %self.id,
                timeout = ?self.timeout,
                "the function awaits a future that does not come from `ctx`: that is not recorded and not replayed"
            );
        }
        let known = self.foreign.take().filter(|known| known.asked == asked);
        let mut foreign = known.unwrap_or_else(|| {
            self.watch.waits_foreign(Some(self.world.clock.mono()));
            let ends = self.world.clock.sleep(self.timeout);
            Foreign { asked, ends }
        });
        match foreign.ends.as_mut().poll(cx) {
            Poll::Pending => self.foreign = Some(foreign),
            Poll::Ready(()) if asked == 0 => self.fail(over_time(self.timeout), true),
            Poll::Ready(()) => self.fail(waited_in_vain(self.timeout), true),
        }
    }

    /// The engine cannot read the first result for a step's key: an attempt that waits for it, or
    /// comes with another one, fails. One that is being made goes on; its result is looked at then.
    fn memo_failed(&mut self, number: CommandIndex, reason: &Refusal) {
        let failure = Failure::retryable(reason).class(ONCE);
        let result = self.outstanding.withdraw_result(number.0);
        if let Some(Report::StepCompleted {
            number,
            location,
            attempt,
            memo: Some((_, retry)),
            ..
        }) = result
        {
            self.outstanding.push(Report::AttemptFailed {
                number,
                location,
                attempt,
                failure,
                retry,
            });
        } else if let Some(function) = &self.function {
            function.shared.memo_failed(number, failure);
        }
    }

    fn too_large(&mut self, number: CommandIndex, failure: Failure) {
        match self.outstanding.withdraw_step(number.0) {
            Some(
                Report::StepCompleted { number, location, attempt, .. }
                | Report::AttemptFailed { number, location, attempt, .. },
            ) => {
                let retry = Retry::never();
                self.outstanding.push(Report::AttemptFailed {
                    number,
                    location,
                    attempt,
                    failure,
                    retry,
                });
            }
            _ if self.outstanding.withdraw_end().is_some() => self.fail(failure, false),
            _ => {}
        }
    }

    fn mismatched(&mut self, mismatch: Mismatch) {
        count(&self.world.counts.mismatches);
        tracing::warn!(
            run = %self.id,
            entry = mismatch.index,
            journal_holds = %mismatch.journal_holds,
            code_asked = %mismatch.code_asked,
            "the run's code took another path than its journal"
        );
        self.end(Report::Mismatched(mismatch));
    }

    /// The last report of the turn (W7). A suspended function stays in memory until the engine has
    /// answered.
    fn end(&mut self, report: Report) {
        if !matches!(report, Report::Suspended { .. }) {
            self.drop_function();
        }
        self.outstanding.push(report);
        self.phase = Phase::Ended;
    }

    fn drop_function(&mut self) {
        if let Some(function) = self.function.take() {
            let _ = catch_unwind(AssertUnwindSafe(|| drop(function)));
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.drop_function();
    }
}

fn waited_in_vain(timeout: Duration) -> Failure {
    let text = format!(
        "the function awaited a future that does not come from `ctx`, for longer than its timeout of {}",
        span_text(timeout)
    );
    Failure::new(FailureKind::Retryable, TIMEOUT_CLASS, text)
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Failure {
    Failure::terminal(crate::workflow::panic_text(panic)).class(PANIC)
}
