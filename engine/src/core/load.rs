//! Runs that are not in memory: what wants one waits in its mailbox, and other runs go on.
//!
//! A run is in memory while it is leased, or queued and started just now. Everything else is read
//! when something is wanted of it, looked at or changed, and forgotten. While a read is under way
//! nothing changes that run but its own timer, and then it is read once more; so what was read is
//! the truth when it arrives.

use std::collections::BTreeMap;

use super::Core;
use super::asked::Asked;
use super::output::ReplyTo;
use super::output::{Note, Output, StoreRead};
use super::queue::QueuedItem;
use super::run::{Run, RunImage};
use super::schedule::{LastRunCheck, Starting};
use super::unique;
use crate::canary::canary;
use crate::model::failure::displayed_failure;
use crate::model::id::{Namespace, ProcessInstance, RunId, RunNo, SessionId};
use crate::model::request::{Caller, Damaged, NoSuchRun, Refusal, StartRun};
use crate::model::run::{Outcome, OutcomePending, RunState, RunSummary};
use crate::model::time::Time;
use crate::wire::message::{
    AskOutcome, AskStatus, Cancel, Held, OutcomeReply, Resume, Revoked, StatusReply,
};

/// Waits for a run's number.
#[derive(Debug)]
pub(super) enum Lookup {
    /// A start, number `at` of the call `start`.
    Start { start: u64, at: usize, run: Box<StartRun> },
    /// An occurrence of a schedule.
    Occurrence(Starting),
    /// Anything else.
    Want(Want),
}

/// What waits for a run that is being read.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    pub(super) wants: Vec<Want>,
    /// The run's timer fired meanwhile: what the read finds may be no longer true.
    stale: bool,
}

/// Waits for a run.
#[derive(Debug)]
pub(super) enum Want {
    Start {
        start: u64,
        at: usize,
        run: Box<StartRun>,
    },
    Outcome {
        to: ReplyTo,
        wait: bool,
    },
    Status {
        to: ReplyTo,
    },
    Cancel {
        to: ReplyTo,
        caller: Caller,
        reason: String,
    },
    Resume {
        to: ReplyTo,
        caller: Caller,
    },
    /// To be leased to a session that has a slot reserved.
    Lease {
        session: SessionId,
        item: QueuedItem,
    },
    /// To be leased again to the worker that came back with it.
    ContinueLease {
        session: SessionId,
        held: Held,
    },
    /// To be put back into its queue, with or without a death to be counted.
    Return {
        death: bool,
    },
    /// To be edited, redriven or discarded.
    OperatorRequest(super::dead::OperatorRequest),
    /// To become a dead letter because nobody knows its workflow.
    Unregistered {
        item: QueuedItem,
    },
    /// To be resumed because a build is here that it has not been tried on.
    TryBuild,
    /// To be woken, if it sleeps until something becomes of memo keys.
    Wake,
    /// Whether it has ended, for the schedule that started it.
    LastRunCheck(LastRunCheck),
}

/// A question that is answered by how its run stands.
#[derive(Debug)]
enum Question {
    Start { start: u64, at: usize, run: Box<StartRun> },
    Outcome { to: ReplyTo, wait: bool },
    Status { to: ReplyTo },
    /// Of a run that is neither parked nor paused.
    Resume { to: ReplyTo },
    /// Of a run that is no dead letter.
    OperatorRequest(super::dead::OperatorRequest),
}

impl Want {
    pub(super) fn outcome(ask: &Asked<AskOutcome>) -> Self {
        Self::Outcome { to: ask.to, wait: ask.request.wait }
    }

    pub(super) fn status(ask: &Asked<AskStatus>) -> Self {
        Self::Status { to: ask.to }
    }

    pub(super) fn cancel(ask: &Asked<Cancel>) -> Self {
        let (caller, reason) = (ask.caller.clone(), super::dead::cut(ask.request.reason.clone()));
        Self::Cancel { to: ask.to, caller, reason }
    }

    pub(super) fn resume(ask: &Asked<Resume>) -> Self {
        Self::Resume { to: ask.to, caller: ask.caller.clone() }
    }

    fn asker(&self) -> Option<ReplyTo> {
        match self {
            Self::Outcome { to, .. }
            | Self::Status { to }
            | Self::Cancel { to, .. }
            | Self::Resume { to, .. } => Some(*to),
            Self::OperatorRequest(request) => Some(request.to),
            Self::Start { .. } // a call of several: each of its runs has a place in the answer
            | Self::Lease { .. }
            | Self::ContinueLease { .. }
            | Self::Return { .. }
            | Self::Unregistered { .. }
            | Self::TryBuild
            | Self::Wake
            | Self::LastRunCheck(_) => None,
        }
    }
}

impl Core {
    /// A client asks something of a run by its id.
    pub(super) fn ask(&mut self, namespace: Namespace, id: RunId, want: Want, out: &mut Output) {
        self.lookup(namespace, id, Lookup::Want(want), out);
    }

    pub(super) fn lookup(
        &mut self,
        namespace: Namespace,
        id: RunId,
        lookup: Lookup,
        out: &mut Output,
    ) {
        let waiting = self.lookups.entry((namespace, id)).or_default();
        if waiting.is_empty() {
            out.read(StoreRead::Index { namespace, id });
        }
        waiting.push(lookup);
    }

    pub(super) fn index_loaded(
        &mut self,
        namespace: Namespace,
        id: RunId,
        found: Result<Option<RunNo>, String>,
        out: &mut Output,
    ) {
        let lookups = self.lookups.remove(&(namespace, id)).unwrap_or_default();
        let begun = self.begun_meanwhile.remove(&(namespace, id));
        let found = begun.map_or(found, |no| Ok(Some(no)));
        self.resolve_lookups((namespace, id), found, lookups, out);
    }

    /// Does what waits for an id, of which this is known.
    pub(super) fn resolve_lookups(
        &mut self,
        (namespace, id): (Namespace, RunId),
        found: Result<Option<RunNo>, String>,
        lookups: Vec<Lookup>,
        out: &mut Output,
    ) {
        let mut found = found;
        let mut lookups = lookups.into_iter();
        while let Some(lookup) = lookups.next() {
            match (&found, lookup) {
                (Ok(Some(no)), Lookup::Start { start, at, run }) => {
                    self.want(*no, Want::Start { start, at, run }, out);
                }
                (Ok(Some(no)), Lookup::Want(want)) => self.want(*no, want, out),
                (Ok(None), Lookup::Start { start, at, run }) if self.is_atomic(start) => {
                    // The call may have waited for this alone, and begin its runs now.
                    self.resolving = Some((namespace, id));
                    self.id_is_free((start, at), run, out);
                    self.resolving = None;
                    if let Some(no) = self.begun_meanwhile.remove(&(namespace, id)) {
                        found = Ok(Some(no));
                    }
                }
                (Ok(None), Lookup::Start { start, at, run })
                    if run.unique.is_some() && self.starts.contains_key(&start) =>
                {
                    // Until its key has been read, the id stays as it is: all others wait behind.
                    let key = unique::key_id_of(namespace, &run);
                    let first = Lookup::Start { start, at, run };
                    let line = std::iter::once(first).chain(lookups).collect();
                    self.lookups.insert((namespace, id), line);
                    if let Some(key) = key {
                        self.look_up_key(key, unique::Waiter::Id(id), out);
                    }
                    return;
                }
                (Ok(run), Lookup::Occurrence(starting)) => {
                    let begun = self.occurrence_looked_up(starting, *run, out);
                    found = begun.map(Some).map_or(found, Ok);
                }
                (Err(what), Lookup::Occurrence(starting)) => {
                    self.occurrence_lost(starting, what, out);
                }
                (Ok(None), Lookup::Start { start, at, run }) => {
                    if let Some(no) = self.begin_run(start, at, *run, None, out)
                        && !canary!("two starts wait for one look-up")
                    {
                        found = Ok(Some(no));
                    }
                }
                (Ok(None), Lookup::Want(want)) => self.refuse(&want, NoSuchRun { id }, out),
                (Err(what), Lookup::Start { start, at, .. }) => {
                    let reason = Damaged { id: Some(id), what: what.clone() };
                    self.answer_start(start, at, id, Err(reason.into()), out);
                }
                (Err(what), Lookup::Want(want)) => {
                    self.refuse(&want, Damaged { id: Some(id), what: what.clone() }, out);
                }
            }
        }
    }

    fn refuse(&mut self, want: &Want, reason: impl Into<Refusal>, out: &mut Output) {
        if let Some(to) = want.asker() {
            out.refuse(to, reason);
        }
    }

    /// Does what is wanted of a run now, or once it has been read.
    pub(super) fn want(&mut self, no: RunNo, want: Want, out: &mut Output) {
        if let Some(mailbox) = self.mailboxes.get_mut(&no) {
            return mailbox.wants.push(want);
        }
        let leased = self.leases.get(&no).is_some_and(|lease| lease.run.is_some());
        if leased {
            return self.serve_leased(no, want, out);
        }
        if let Some(run) = self.fresh.remove(&no) {
            let image = RunImage { run, stopped: None, sleeps: None };
            return self.serve(image, want, true, out);
        }
        // Most that come from a long line have never been leased.
        let brief = matches!(&want, Want::Lease { item, .. } if item.deaths == 0);
        self.mailboxes.insert(no, Mailbox { wants: vec![want], stale: false });
        self.read_run(no, brief, out);
    }

    fn read_run(&self, no: RunNo, brief: bool, out: &mut Output) {
        let (generation, moved) = self.birth_of(no);
        out.read(StoreRead::Run { run: no, generation, moved, brief });
    }

    /// A run has changed by itself. If it is being read, it is read once more.
    pub(super) fn changed_while_read(&mut self, no: RunNo) {
        if let Some(mailbox) = self.mailboxes.get_mut(&no) {
            mailbox.stale = true;
        }
    }

    pub(super) fn run_loaded(
        &mut self,
        no: RunNo,
        found: Result<Option<Box<RunImage>>, String>,
        out: &mut Output,
    ) {
        if let Some(mailbox) = self.mailboxes.get_mut(&no).filter(|mailbox| mailbox.stale) {
            mailbox.stale = false;
            return self.read_run(no, false, out);
        }
        let Some(Mailbox { wants, .. }) = self.mailboxes.remove(&no) else {
            return;
        };
        let image = match found {
            Ok(Some(image)) => image,
            Ok(None) => return self.cannot_find(no, wants, out),
            Err(what) => return self.cannot_serve(no, wants, &what, out),
        };
        let mut wants = wants.into_iter();
        if let Some(lease) = self.leases.get_mut(&no) {
            lease.adopt(image.run);
            self.arm_timers(no);
        } else if let Some(want) = wants.next() {
            self.serve(*image, want, false, out);
        }
        // What the first one did may have changed the run: the others ask afresh.
        for want in wants {
            self.want(no, want, out);
        }
    }

    /// A run that was cancelled in line leaves its row there, even longer than its retention.
    /// Nothing else is wanted of a run without a journal.
    fn cannot_find(&mut self, no: RunNo, wants: Vec<Want>, out: &mut Output) {
        let mut others = Vec::new();
        for want in wants {
            match want {
                Want::Lease { session, item } => {
                    self.release_reserved(session, &item);
                    Self::dequeue_row(&item, out);
                }
                Want::Unregistered { item } => {
                    self.unregistered.one_less();
                    Self::dequeue_row(&item, out);
                }
                Want::Wake => self.memos.woken(no),
                // It ended longer ago than its retention.
                Want::LastRunCheck(look) => self.last_run_checked(look, false, out),
                Want::Start { .. }
                | Want::Outcome { .. }
                | Want::Status { .. }
                | Want::Cancel { .. }
                | Want::Resume { .. }
                | Want::ContinueLease { .. }
                | Want::Return { .. }
                | Want::OperatorRequest(_)
                | Want::TryBuild => others.push(want),
            }
        }
        if !others.is_empty() {
            self.cannot_serve(no, others, "it has no journal", out);
        }
    }

    /// A damaged run is stopped where it is, with the reason; nothing is written about it.
    fn cannot_serve(&mut self, no: RunNo, wants: Vec<Want>, what: &str, out: &mut Output) {
        out.note(Note::Damaged { run: no, what: what.to_owned() });
        for want in wants {
            match want {
                Want::Lease { session, item } => self.release_reserved(session, &item),
                Want::Unregistered { .. } => self.unregistered.one_less(),
                Want::ContinueLease { session, held } => {
                    self.let_go(no);
                    self.leave_stranded(no);
                    let reason = Damaged { id: None, what: what.to_owned() }.into();
                    out.send(session, Revoked { run: no, token: held.token, reason });
                }
                Want::Start { start, at, run } => {
                    let reason = Damaged { id: Some(run.id), what: what.to_owned() };
                    self.answer_start(start, at, run.id, Err(reason.into()), out);
                }
                Want::Return { .. } => self.leave_stranded(no),
                Want::TryBuild => {}
                Want::Wake => self.memos.woken(no), // the next opening tries again
                Want::LastRunCheck(look) => self.last_run_checked(look, false, out), // it will not go on
                asked @ (Want::Outcome { .. }
                | Want::Status { .. }
                | Want::Cancel { .. }
                | Want::Resume { .. }
                | Want::OperatorRequest(_)) => {
                    self.refuse(&asked, Damaged { id: None, what: what.to_owned() }, out);
                }
            }
        }
    }

    /// What is wanted of a leased run.
    fn serve_leased(&mut self, no: RunNo, want: Want, out: &mut Output) {
        match want {
            Want::Return { death } => self.return_run(no, death, out),
            Want::ContinueLease { session, held } => self.continue_lease(no, session, &held, out),
            Want::Cancel { to, caller, reason } => {
                self.cancel_leased(no, Some(to), caller, reason, out);
            }
            Want::LastRunCheck(look) => {
                if look.stops {
                    let (caller, reason) = Self::replaced();
                    self.cancel_leased(no, None, caller, reason, out);
                }
                self.last_run_checked(look, !look.stops, out);
            }
            Want::Lease { session, item } => {
                self.release_reserved(session, &item); // leased meanwhile: the item was a ghost
                Self::dequeue_row(&item, out);
            }
            Want::Wake => self.memos.woken(no), // it was woken by something else
            Want::Unregistered { item } => {
                self.unregistered.one_less(); // a ghost too
                Self::dequeue_row(&item, out);
            }
            Want::TryBuild => {} // it goes on
            Want::Start { start, at, run } => {
                self.answer_leased(no, Question::Start { start, at, run }, out);
            }
            Want::Outcome { to, wait } => {
                self.answer_leased(no, Question::Outcome { to, wait }, out);
            }
            Want::Status { to } => self.answer_leased(no, Question::Status { to }, out),
            Want::Resume { to, .. } => self.answer_leased(no, Question::Resume { to }, out),
            Want::OperatorRequest(request) => {
                self.answer_leased(no, Question::OperatorRequest(request), out);
            }
        }
    }

    fn answer_leased(&mut self, no: RunNo, question: Question, out: &mut Output) {
        let Some(lease) = self.leases.get(&no) else { return };
        let Some(run) = &lease.run else { return };
        let process = lease.record.process;
        let mut summary = summary(run, RunState::Running);
        summary.process = Some(process);
        self.answer(question, run.clone(), summary, out);
    }

    /// What is wanted of a run that nobody holds. `fresh` runs go back to memory unless they were
    /// changed.
    fn serve(&mut self, image: RunImage, want: Want, fresh: bool, out: &mut Output) {
        self.invalidate_copy(image.run.no);
        match want {
            Want::Lease { session, item } => self.lease_loaded(image, session, item, out),
            Want::Cancel { to, caller, reason } => {
                self.cancel_waiting(image, Some(to), caller, reason, out);
            }
            Want::LastRunCheck(look) => {
                let goes = image.run.ended.is_none();
                if goes && look.stops {
                    let (caller, reason) = Self::replaced();
                    self.cancel_waiting(image, None, caller, reason, out);
                } else if fresh {
                    self.fresh.insert(image.run.no, image.run);
                }
                self.last_run_checked(look, goes && !look.stops, out);
            }
            Want::Unregistered { item } => self.unregistered_loaded(image, item, out),
            Want::Wake => self.wake_loaded(&image, out),
            Want::OperatorRequest(request) if image.run.is_dead_letter() => {
                self.follow_request(image, request, out);
            }
            Want::Resume { to, caller } if image.stopped.is_some() => {
                self.record_resume(&image.run, &caller, out);
                self.resume_stopped(image, Some(to), out);
            }
            Want::Resume { to, caller } if self.avoids_builds(&image) => {
                self.avoid_nothing(&image.run, to, &caller, out);
            }
            Want::TryBuild if image.stopped.is_some() => self.try_build(image, out),
            Want::Return { .. } | Want::ContinueLease { .. } => {} // it is not leased any more
            Want::TryBuild if fresh => {
                self.fresh.insert(image.run.no, image.run);
            }
            Want::TryBuild => {}
            Want::Start { start, at, run } => {
                self.answer_waiting(image, Question::Start { start, at, run }, fresh, out);
            }
            Want::Outcome { to, wait } => {
                self.answer_waiting(image, Question::Outcome { to, wait }, fresh, out);
            }
            Want::Status { to } => {
                self.answer_waiting(image, Question::Status { to }, fresh, out);
            }
            Want::Resume { to, .. } => {
                self.answer_waiting(image, Question::Resume { to }, fresh, out);
            }
            Want::OperatorRequest(request) => {
                self.answer_waiting(image, Question::OperatorRequest(request), fresh, out);
            }
        }
    }

    fn answer_waiting(
        &mut self,
        image: RunImage,
        question: Question,
        fresh: bool,
        out: &mut Output,
    ) {
        let state = Self::state_of(&image);
        let mut summary = summary(&image.run, state);
        summary.reason =
            image.stopped.as_ref().map(|stopped| stopped.reason.clone()).or(summary.reason);
        summary.wakes_at = image.sleeps.filter(|at| *at < Time::NEVER);
        self.answer(question, image.run.clone(), summary, out);
        if fresh {
            self.fresh.insert(image.run.no, image.run);
        }
    }

    /// The state of a run that nobody holds.
    pub fn state_of(image: &RunImage) -> RunState {
        if let Some(ended) = image.run.ended_state() {
            return ended;
        }
        match &image.stopped {
            Some(stopped) => stopped.state,
            None if image.sleeps.is_none() => RunState::Queued,
            None if image.run.next == 1 && image.sleeps == image.run.not_before => {
                RunState::Delayed
            }
            None => RunState::Suspended,
        }
    }

    /// How many runs are leased.
    pub fn lease_count(&self) -> usize {
        self.leases.len()
    }

    /// Which runs are leased, and to which worker processes, for listings.
    pub fn leased_runs(&self) -> BTreeMap<RunNo, ProcessInstance> {
        self.leases.iter().map(|(no, lease)| (*no, lease.record.process)).collect()
    }

    /// The newest run's number and generation ranges, for listings.
    pub fn newest_run(&self) -> RunNo {
        RunNo(self.tally.next_run.saturating_sub(1))
    }

    /// Tells the generation a run was born in and whether it may have been moved; for listings.
    pub fn births(&self) -> impl Fn(RunNo) -> (u32, bool) + Send + Sync + 'static {
        let generations = self.generations.clone();
        move |no| super::birth(&generations, no)
    }

    fn answer(&mut self, question: Question, run: Run, summary: RunSummary, out: &mut Output) {
        match question {
            Question::Start { start, at, run: asked } => {
                let answer = Self::same_start(&run, &asked);
                self.answer_start(start, at, run.id, answer.map(|()| false), out);
            }
            Question::Status { to } => out.reply(to, StatusReply { run: summary }),
            Question::Outcome { to, wait } => match run.ended {
                Some(outcome) => out.reply(to, OutcomeReply { outcome }),
                None if wait => self.wait_for_end(run.no, to),
                None => {
                    let outcome: Outcome = OutcomePending { state: summary.state }.into();
                    out.reply(to, OutcomeReply { outcome });
                }
            },
            Question::OperatorRequest(request) => {
                Self::no_dead_letter(&run, summary.state, &request, out)
            }
            Question::Resume { to } => {
                let reason =
                    crate::model::request::NotResumable { id: run.id, state: summary.state };
                out.refuse(to, reason);
            }
        }
    }

    fn wait_for_end(&mut self, no: RunNo, to: ReplyTo) {
        let Some(waiter) = self.sessions.get_mut(&to.session) else {
            return;
        };
        waiter.waits.insert(no);
        let waiting = self.waiters.entry(no).or_default();
        if !waiting.contains(&to) {
            waiting.push(to);
        }
    }

    /// Tells those who wait that the run has ended.
    pub(super) fn tell_end(&mut self, run: &Run, out: &mut Output) {
        let Some(outcome) = &run.ended else { return };
        self.release_key(run, out);
        self.left_batch(run, out);
        self.schedule_hears_end(run.no);
        let waiters = if canary!("an outcome goes to those who wait for another run") {
            self.waiters.pop_first().map(|(_, waiters)| waiters)
        } else {
            self.waiters.remove(&run.no)
        };
        for to in waiters.unwrap_or_default() {
            if let Some(waiter) = self.sessions.get_mut(&to.session) {
                waiter.waits.remove(&run.no);
                out.reply(to, OutcomeReply { outcome: outcome.clone() });
            }
        }
    }

    /// The slot taken for a run that is being read is free again.
    pub(super) fn release_reserved(&mut self, session: SessionId, item: &QueuedItem) {
        self.unchoose(session, item);
        if let Some(queue) = self.queues.get_mut(&item.queue) {
            queue.admission.release();
            self.unsettled.insert(item.queue);
        }
        if let Some(known) = self.sessions.get_mut(&session) {
            known.reserved = known.reserved.saturating_sub(1);
            self.freed(session, item.run, item.queue);
        }
    }

    /// A session's slot is free again: it is put in line for more.
    pub(super) fn freed(&mut self, session: SessionId, run: RunNo, queue: u32) {
        let Some(known) = self.sessions.get_mut(&session) else {
            return;
        };
        known.free_slot(queue);
        let was_held_back = known.is_held_back();
        if known.solitary == Some(run) {
            known.solitary = None;
        }
        match was_held_back {
            true => self.line_up_everywhere(session), // it was held back in all its queues
            false => self.line_up(session, queue),
        }
        self.unsettled.insert(queue);
    }

    fn line_up(&mut self, session: SessionId, number: u32) {
        let serves = self.sessions.get(&session).is_some_and(|s| s.serves(number));
        if let Some(queue) = self.queues.get_mut(&number).filter(|_| serves) {
            queue.offer(session);
            self.unsettled.insert(number);
        }
    }

    /// Puts a session in line in all its queues.
    pub(super) fn line_up_everywhere(&mut self, session: SessionId) {
        let queues: Vec<u32> = self.queues.keys().copied().collect();
        queues.into_iter().for_each(|queue| self.line_up(session, queue));
    }
}

/// A run as listings tell it.
pub fn summary(run: &Run, state: RunState) -> RunSummary {
    let wakes_at = match state {
        RunState::Delayed => run.not_before,
        RunState::Suspended => run.commands.instants().first().copied(),
        RunState::Queued | RunState::Running | RunState::Parked | RunState::Paused | RunState::Completed | RunState::Dead | RunState::Cancelled | RunState::Discarded => None,
    };
    let reason = match &run.ended {
        Some(Outcome::OutcomeDead(dead)) => Some(displayed_failure(&dead.failure)),
        _ => None,
    };
    RunSummary {
        id: run.id,
        name: run.name.clone(),
        no: run.no,
        workflow: run.workflow.clone(),
        queue: run.queue.clone(),
        state,
        started_at: run.started_at,
        changed_at: run.changed_at,
        entries: run.next,
        wakes_at,
        reason,
        process: None,
        batch: run.batch,
    }
}
