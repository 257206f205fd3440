//! Sessions: connections of workers and clients, their credits, their loss and their return.
//!
//! ```text
//!   hello ──► open ── silence for the timeout ───► lost ─┐
//!              │  └─── closed with a goodbye ────────────┼─► its leases go back to their queues
//!              └── closed without ──► absent ── grace ───┘   (lost or absent: as suspects)
//!                                       └── the same instance says hello ──►    leases go on, under new tokens
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use twox_hash::XxHash3_128;

use crate::model::name::{check_name, check_name_length};
use crate::model::time::as_ms;
use super::Core;
use super::load::Want;
use super::output::{Action, Note, Output, StoreRead};
use super::queue::QueuedItem;
use super::start::{check_range, check_tags};
use crate::canary::canary;
use crate::tables::StoppedRecord;
use crate::model::id::Namespace;
use crate::model::id::{ProcessInstance, RunNo, SessionId};
#[cfg(feature = "server")]
use crate::model::id::{RunId, Token};
use crate::model::limits::{NAME_BYTES_MAX, QUEUES_MAX};
use crate::model::request::{Refusal, StaleToken};
use crate::wire::message::{Hello, Message, QueueSlots, Register, Registered, Revoked, Welcome};

/// Runs returned to their queues in one transition at most.
pub(super) const RETURN_MAX: usize = 128;
/// Stopped runs looked at in one transition at most.
const STOPPED_PAGE: usize = 128;
/// Queues one worker may offer slots to: each new one is a record of the same transition.
const WORKFLOWS_PER_WORKER_MAX: u64 = 1_024;
/// More than this, and all are asked for again, once each.
const ABILITIES_SEEN_MAX: usize = 10_000;
const QUEUES_PER_WORKER_MAX: u64 = 256;

#[derive(Debug, Clone, Copy, Default)]
struct QueueSlotUse {
    offered: u32,
    used: u32,
    /// Dispatches of the queue since one went to the oldest.
    passed_over: u32,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) process: ProcessInstance,
    pub(super) namespace: Namespace,
    pub(super) principal: String,
    /// It has said what it can run and what it holds. A client never does.
    registered: bool,
    pub(super) build: String,
    workflows: BTreeSet<String>,
    tags: BTreeSet<String>,
    slots: BTreeMap<u32, QueueSlotUse>,
    pub(super) leased: BTreeSet<RunNo>,
    /// Slots taken for runs that are being read.
    pub(super) reserved: u32,
    pub(super) last_heard: Duration,
    /// Runs whose end it waits for.
    pub(super) waits: BTreeSet<RunNo>,
    /// The run it was given alone.
    pub(super) solitary: Option<RunNo>,
    /// It gets nothing more until it is empty, because a run of this queue waits to be alone with
    /// it.
    pub(super) held_back: Option<u32>,
}

impl Session {
    /// Whether a hello is that of this process, for the same principal.
    fn is_of(&self, hello: &Hello) -> bool {
        (self.process, self.namespace) == (hello.process, hello.namespace)
            && self.principal == hello.principal
    }

    pub(super) fn offers_anything(&self) -> bool {
        self.slots.values().any(|slots| slots.offered > 0)
    }

    pub(super) fn is_held_back(&self) -> bool {
        self.held_back.is_some() || self.solitary.is_some()
    }

    pub(super) fn has_room(&self, queue: u32) -> bool {
        !self.is_held_back()
            && self.slots.get(&queue).is_some_and(|slots| slots.used < slots.offered)
    }

    pub(super) fn serves(&self, queue: u32) -> bool {
        self.slots.get(&queue).is_some_and(|slots| slots.offered > 0)
    }

    /// The queues it offers slots of.
    pub(super) fn queues(&self) -> impl Iterator<Item = u32> + '_ {
        let offered = self.slots.iter().filter(|(_, slots)| slots.offered > 0);
        offered.map(|(queue, _)| *queue)
    }

    pub(super) fn knows(&self, workflow: &str) -> bool {
        self.workflows.contains(workflow)
    }

    pub(super) fn can_run(&self, item: &QueuedItem) -> bool {
        self.can_take(&item.workflow, &item.tags, &item.avoid)
    }

    /// Whether it can take runs that need this.
    pub(super) fn can_take(&self, workflow: &str, tags: &[String], avoid: &[String]) -> bool {
        self.knows(workflow) && self.has(tags) && !avoid.contains(&self.build)
    }

    /// Whether it offers all of these tags.
    pub(super) fn has(&self, tags: &[String]) -> bool {
        tags.iter().all(|tag| self.tags.contains(tag)) || canary!("tags are not looked at")
    }

    /// Slots it offers to a queue.
    pub(super) fn offered(&self, queue: u32) -> u32 {
        self.slots.get(&queue).map_or(0, |slots| slots.offered)
    }

    /// Dispatches of a queue since one went to the oldest.
    pub(super) fn passed_over(&self, queue: u32) -> u32 {
        self.slots.get(&queue).map_or(0, |slots| slots.passed_over)
    }

    /// A run of a queue was chosen for it.
    pub(super) fn chosen(&mut self, queue: u32, as_oldest: bool) {
        if let Some(slots) = self.slots.get_mut(&queue) {
            slots.passed_over = if as_oldest { 0 } else { slots.passed_over.saturating_add(1) };
        }
    }

    /// A run that was chosen for it as the oldest does not come: the share is still owed.
    pub(super) fn owes_again(&mut self, queue: u32) {
        if let Some(slots) = self.slots.get_mut(&queue) {
            slots.passed_over = u32::MAX;
        }
    }

    pub(super) fn can_run_alone(&self, item: &QueuedItem) -> bool {
        self.serves(item.queue) && self.solitary.is_none() && self.can_run(item)
    }

    /// Whether a parked run could go on with it, as far as its row tells: that names neither queue
    /// nor tags.
    pub(super) fn could_try(&self, record: &StoppedRecord) -> bool {
        self.offers_anything()
            && self.knows(&record.workflow)
            && !record.builds.contains(&self.build)
    }

    /// What runs it can take, in one number: its build, its workflows, its tags, the queues it
    /// offers slots of. None if it takes none.
    fn abilities(&self) -> Option<u128> {
        if !self.offers_anything() || self.workflows.is_empty() {
            return None;
        }
        // No name holds a control character.
        let mut text = self.build.clone();
        let queues = self.queues().map(|queue| queue.to_string());
        let queues: Vec<String> = queues.collect();
        let lists: [&mut dyn Iterator<Item = &String>; 3] =
            [&mut self.workflows.iter(), &mut self.tags.iter(), &mut queues.iter()];
        for list in lists {
            text.push('\0');
            list.for_each(|name| text.extend([name, "\0"]));
        }
        Some(XxHash3_128::oneshot(text.as_bytes()))
    }

    /// Queues and how many slots of them are taken.
    #[cfg(any(test, feature = "inspect"))]
    pub(super) fn slots_used(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.slots.iter().map(|(queue, slots)| (*queue, slots.used))
    }

    pub(super) fn take_slot(&mut self, queue: u32) {
        self.slots.entry(queue).or_default().used += 1;
    }

    pub(super) fn free_slot(&mut self, queue: u32) {
        if let Some(slots) = self.slots.get_mut(&queue) {
            slots.used = slots.used.saturating_sub(1);
        }
    }
}

/// A worker process whose connection is gone, and what it held.
#[derive(Debug)]
pub(super) struct Absent {
    pub(super) until: Duration,
    /// Until then in any case; a hello without a registration adds to `until` alone.
    promised: Duration,
    /// Whose it is; not known after a restart.
    owner: Option<(Namespace, String)>,
    pub(super) runs: BTreeSet<RunNo>,
}

impl Absent {
    fn of(left: Left, until: Duration) -> Self {
        Self { until, promised: until, owner: Some(left.owner), runs: left.runs }
    }

    /// Whether a hello may be that of its process.
    fn may_be_of(&self, hello: &Hello) -> bool {
        let is_same = |(namespace, principal): &(Namespace, String)| {
            *namespace == hello.namespace && *principal == hello.principal
        };
        self.owner.as_ref().is_none_or(is_same)
    }

    pub(super) fn until(until: Duration) -> Self {
        Self { until, promised: until, owner: None, runs: BTreeSet::new() }
    }
}

impl Core {
    /// A peer says who it is. What it can run and what it holds follows, if it is a worker.
    pub(super) fn hello(&mut self, session: SessionId, hello: Hello, out: &mut Output) {
        if let Some(known) = self.sessions.get(&session) {
            if !known.is_of(&hello) {
                let reason = "a session has one hello, and this is another".to_owned();
                out.action(Action::Close { session, reason });
            }
            return;
        }
        let own = self.settings.protocols;
        let Some(protocol) = own.agreed(hello.protocols()) else {
            let reason = format!("this engine speaks {own}, the peer speaks {}", hello.protocols());
            return out.action(Action::Close { session, reason });
        };
        if let Err(refusal) = check_name_length("principal", &hello.principal) {
            return out.action(Action::Close { session, reason: refusal.to_string() });
        }
        let older = self.session_of_instance.get(&hello.process).copied();
        let is_there = older.and_then(|older| self.sessions.get(&older));
        if is_there.is_some_and(|older| !older.is_of(&hello))
            || self.absent.get(&hello.process).is_some_and(|absent| !absent.may_be_of(&hello))
        {
            let reason = "this process is known as another principal's".to_owned();
            return out.action(Action::Close { session, reason });
        }
        if let Some(older) = older {
            out.action(Action::Close {
                session: older,
                reason: "the same process has connected again".to_owned(),
            });
            if let Some(left) = self.leave(older) {
                self.absent.insert(left.process, Absent::of(left, self.mono));
            }
        }
        // It is here, and says in a moment what it still holds.
        let until = self.mono.saturating_add(self.settings.session_timeout);
        if let Some(absent) = self.absent.get_mut(&hello.process) {
            absent.until = absent.until.max(until);
        }
        self.sessions.insert(
            session,
            Session {
                id: session,
                process: hello.process,
                namespace: hello.namespace,
                principal: hello.principal,
                registered: false,
                build: String::new(),
                workflows: BTreeSet::new(),
                tags: BTreeSet::new(),
                slots: BTreeMap::new(),
                leased: BTreeSet::new(),
                reserved: 0,
                last_heard: self.pulse(),
                waits: BTreeSet::new(),
                solitary: None,
                held_back: None,
            },
        );
        self.session_of_instance.insert(hello.process, session);
        out.send(
            session,
            Welcome {
                protocol,
                session,
                store: self.store,
                epoch: self.epoch,
                heartbeat_ms: as_ms(self.settings.heartbeat),
                session_timeout_ms: as_ms(self.settings.session_timeout),
                payload_bytes_max: self.settings.limits.payload_bytes_max as u64,
                now: self.now(),
            },
        );
        #[cfg(any(test, feature = "inspect"))]
        if let Some(later) = crate::wire::message::Later::of(own, protocol) {
            out.send(session, later);
        }
    }

    /// The namespace of a session.
    #[cfg(feature = "server")]
    pub(crate) fn namespace_of(&self, session: SessionId) -> Option<Namespace> {
        self.sessions.get(&session).map(|session| session.namespace)
    }

    /// The run that a session holds under this token, by namespace and id.
    #[cfg(feature = "server")]
    pub(crate) fn held_run(
        &self,
        session: SessionId,
        (no, token): (RunNo, Token),
    ) -> Option<(Namespace, RunId)> {
        let lease = self.leases.get(&no)?;
        let is_held = lease.holder == Some(session) && lease.record.token == token;
        let run = lease.run.as_ref().filter(|_| is_held)?;
        Some((run.namespace, run.id))
    }

    /// A worker says what it can run and what it holds.
    pub(super) fn register(&mut self, session: SessionId, register: Register, out: &mut Output) {
        if let Err(refusal) = self.check_register(&register) {
            return out.action(Action::Close { session, reason: refusal.to_string() });
        }
        let Some(worker) = self.sessions.get_mut(&session).filter(|session| !session.registered)
        else {
            return; // the same registration again
        };
        worker.registered = true;
        worker.build = register.build;
        worker.workflows = register.workflows.into_iter().map(|offer| offer.workflow).collect();
        worker.tags = register.tags.into_iter().collect();
        let process = worker.process;
        out.send(session, Registered {});
        self.take_back(session, process, register.held, out);
        self.set_slots(session, &register.queues, out);
    }

    /// What a worker calls itself and offers goes into records, which are short.
    fn check_register(&self, register: &Register) -> Result<(), Refusal> {
        check_name_length("build", &register.build)?;
        for offer in &register.workflows {
            check_name("workflow", &offer.workflow, NAME_BYTES_MAX)?;
            check_name("queue", &offer.defaults.queue, NAME_BYTES_MAX)?;
            check_tags(&offer.defaults.tags)?;
        }
        check_range(
            "the number of workflows of one worker",
            register.workflows.len() as u64,
            WORKFLOWS_PER_WORKER_MAX,
        )?;
        check_tags(&register.tags)?;
        self.check_queues(&register.queues)
    }

    fn check_queues(&self, queues: &[QueueSlots]) -> Result<(), Refusal> {
        queues.iter().try_for_each(|queue| check_name("queue", &queue.queue, NAME_BYTES_MAX))?;
        check_range(
            "the number of queues of one worker",
            queues.len() as u64,
            QUEUES_PER_WORKER_MAX,
        )?;
        let new =
            queues.iter().filter(|queue| !self.queue_numbers.contains_key(&queue.queue)).count();
        match new {
            0 => Ok(()),
            _ => check_range(
                "the number of queues",
                (self.queues.len() + new) as u64,
                QUEUES_MAX as u64,
            ),
        }
    }

    /// Matches what a returning worker holds with what was kept for it.
    fn take_back(
        &mut self,
        session: SessionId,
        process: ProcessInstance,
        held: Vec<crate::wire::message::Held>,
        out: &mut Output,
    ) {
        let mut kept = self.absent.remove(&process).map(|absent| absent.runs).unwrap_or_default();
        let mut told = BTreeSet::new();
        for held in held {
            if !told.insert(held.run) {
                continue; // it holds a run once
            }
            let current = self.leases.get(&held.run).map(|lease| lease.record.token);
            if current == Some(held.token) && kept.remove(&held.run) {
                self.reserve_again(session, held.run);
                self.continuing.push_back((session, held));
            } else {
                self.counts.refused_late += 1;
                let reason =
                    StaleToken { id: None, number: None, token: held.token, current }.into();
                out.send(session, Revoked { run: held.run, token: held.token, reason });
            }
        }
        // It never got these, or has let go of them: no harm was done.
        if !canary!("a dispatch lost with its connection is forgotten") {
            self.returning.extend(kept.into_iter().map(|run| (run, false)));
        }
        self.continue_some_leases(out);
    }

    /// Goes on with some of the leases whose workers came back.
    pub(super) fn continue_some_leases(&mut self, out: &mut Output) {
        for _ in 0..RETURN_MAX {
            let Some((session, held)) = self.continuing.pop_front() else {
                return;
            };
            self.want(held.run, Want::ContinueLease { session, held }, out);
        }
    }

    fn reserve_again(&mut self, session: SessionId, run: RunNo) {
        let Some(lease) = self.leases.get_mut(&run) else {
            return;
        };
        lease.holder = Some(session);
        if let Some(session) = self.sessions.get_mut(&session) {
            session.leased.insert(run);
            session.take_slot(lease.record.queue);
            if lease.record.deaths >= super::queue::DEATHS_MAX {
                session.solitary = Some(run);
            }
        }
    }

    fn set_slots(&mut self, session: SessionId, queues: &[QueueSlots], out: &mut Output) {
        let numbers: Vec<(u32, u32)> = queues
            .iter()
            .map(|queue| (self.queue_number(&queue.queue, out), queue.slots))
            .collect();
        let Some(known) = self.sessions.get_mut(&session) else {
            return;
        };
        known.slots.values_mut().for_each(|slots| slots.offered = 0);
        for (number, offered) in &numbers {
            known.slots.entry(*number).or_default().offered = *offered;
        }
        let (held_back, abilities) = (known.held_back, known.abilities());
        for (number, queue) in &mut self.queues {
            match numbers.iter().any(|(offered, slots)| offered == number && *slots > 0) {
                // A run of the queue may wait to be alone with it: it waits for another one now.
                false => {
                    if queue.withdraw(session) || held_back == Some(*number) {
                        self.unsettled.insert(*number);
                    }
                }
                true => {
                    queue.offer(session);
                    self.unsettled.insert(*number);
                }
            }
        }
        if self.abilities_seen.len() > ABILITIES_SEEN_MAX {
            self.abilities_seen.clear();
        }
        if abilities.is_some_and(|abilities| self.abilities_seen.insert(abilities)) {
            out.read(StoreRead::Stopped { from: RunNo(0), limit: STOPPED_PAGE });
        }
    }

    /// A worker changes what it offers. Whoever has not registered has nothing to offer.
    pub(super) fn offer(&mut self, session: SessionId, queues: &[QueueSlots], out: &mut Output) {
        let registered = self.sessions.get(&session).is_some_and(|session| session.registered);
        let checked = match registered {
            true => self.check_queues(queues).map_err(|refusal| refusal.to_string()),
            false => Err("slots are offered by a worker that has registered".to_owned()),
        };
        match checked {
            Ok(()) => self.set_slots(session, queues, out),
            Err(reason) => out.action(Action::Close { session, reason }),
        }
    }

    pub(super) fn session_closed(&mut self, session: SessionId, goodbye: bool, out: &mut Output) {
        let process = self.sessions.get(&session).map(|session| session.process);
        let Some(left) = self.leave(session) else {
            // A worker that was here and had not said yet what it holds has the grace again, and what
            // it had been promised before.
            let until = self.mono.saturating_add(self.settings.disconnect_grace);
            if let Some(absent) = process.and_then(|process| self.absent.get_mut(&process)) {
                absent.until = absent.until.min(until.max(absent.promised));
                self.watch_at = self.watch_at.min(absent.until);
            }
            return;
        };
        if goodbye {
            self.returning.extend(left.runs.into_iter().map(|run| (run, false)));
            return self.return_some(out);
        }
        let until = self.mono.saturating_add(self.settings.disconnect_grace);
        self.watch_at = self.watch_at.min(until);
        self.absent.insert(left.process, Absent::of(left, until));
    }

    /// Forgets a session; its leases, if any, have no holder until somebody decides about them.
    fn leave(&mut self, id: SessionId) -> Option<Left> {
        let session = self.sessions.remove(&id)?;
        if self.session_of_instance.get(&session.process) == Some(&id) {
            self.session_of_instance.remove(&session.process);
        }
        for queue in self.queues.values_mut() {
            queue.withdraw(id);
        }
        self.unsettled.extend(session.slots.keys());
        for run in &session.waits {
            if let Some(waiting) = self.waiters.get_mut(run) {
                waiting.retain(|waiter| waiter.session != id);
                if waiting.is_empty() {
                    self.waiters.remove(run);
                }
            }
        }
        self.starts.retain(|_, start| start.to.session != id);
        let others = &self.sessions;
        let lost =
            session.workflows.iter().filter(|workflow| !others.values().any(|s| s.knows(workflow)));
        self.unregistered.nobody_knows(lost.cloned(), self.mono);
        for run in &session.leased {
            if let Some(lease) = self.leases.get_mut(run) {
                lease.holder = None;
            }
            self.memos.stop_waiting(*run);
        }
        (!session.leased.is_empty())
            .then_some(Left {
                process: session.process,
                owner: (session.namespace, session.principal),
                runs: session.leased,
            })
    }

    /// What silence is measured by.
    pub(super) fn pulse(&self) -> Duration {
        if canary!("silence is measured by the wall clock") {
            return Duration::from_millis(self.now().0);
        }
        self.mono
    }

    /// Ends sessions that have gone silent and the patience with those that are absent.
    pub(super) fn watch_sessions(&mut self, out: &mut Output) {
        let silent: Vec<SessionId> = self
            .sessions
            .values()
            .filter(|session| {
                self.pulse().saturating_sub(session.last_heard) > self.settings.session_timeout
            })
            .map(|session| session.id)
            .collect();
        for id in silent {
            let reason = format!("nothing was heard for {:?}", self.settings.session_timeout);
            out.action(Action::Close { session: id, reason });
            if let Some(left) = self.leave(id) {
                self.lose(left.process, left.runs, out);
            }
        }
        #[cfg(canary)]
        self.lose_the_old();
        let gone: Vec<ProcessInstance> = self
            .absent
            .iter()
            .filter(|(_, absent)| absent.until <= self.mono)
            .map(|(id, _)| *id)
            .collect();
        for process in gone {
            if let Some(absent) = self.absent.remove(&process) {
                self.lose(process, absent.runs, out);
            }
        }
    }

    #[cfg(canary)]
    fn lose_the_old(&mut self) {
        if !canary!("a lease expires by its age") {
            return;
        }
        let (now, age) = (self.now(), self.settings.session_timeout);
        let is_old = |lease: &super::lease::Lease| {
            let changed = lease.run.as_ref().map(|run| run.changed_at);
            lease.holder.is_some() && changed.is_some_and(|at| at.after(age) < now)
        };
        let old = self.leases.iter().filter(|(_, lease)| is_old(lease));
        for run in old.map(|(run, _)| *run).collect::<Vec<_>>() {
            self.let_go(run);
            self.returning.push((run, true));
        }
    }

    /// What a dead worker held goes back, as suspects.
    fn lose(&mut self, process: ProcessInstance, runs: BTreeSet<RunNo>, out: &mut Output) {
        self.counts.sessions_lost += 1;
        out.note(Note::SessionLost { process, runs: runs.len() });
        self.returning.extend(runs.into_iter().map(|run| (run, true)));
    }

    /// Puts some of the runs whose worker is gone back into their queues.
    pub(super) fn return_some(&mut self, out: &mut Output) {
        for _ in 0..RETURN_MAX {
            let Some((run, death)) = self.returning.pop() else {
                return;
            };
            self.want(run, Want::Return { death }, out);
        }
    }

    pub(super) fn not_understood(
        &mut self,
        session: SessionId,
        message: &Message,
        out: &mut Output,
    ) {
        let reason = format!("a {} is not something a peer may send", message.kind_name());
        out.action(Action::Close { session, reason });
    }

    /// Parked runs try again by themselves on a build that they have not failed on.
    pub(super) fn stopped_loaded(
        &mut self,
        rows: Vec<(RunNo, StoppedRecord)>,
        end: bool,
        out: &mut Output,
    ) {
        let last = rows.last().map(|(run, _)| *run);
        for (run, record) in rows {
            let parked = record.state == crate::model::run::RunState::Parked;
            if parked && self.sessions.values().any(|session| session.could_try(&record)) {
                self.want(run, Want::TryBuild, out);
            }
        }
        if let (false, Some(last)) = (end, last) {
            out.read(StoreRead::Stopped { from: RunNo(last.0 + 1), limit: STOPPED_PAGE });
        }
    }
}

/// What a session left behind.
struct Left {
    process: ProcessInstance,
    owner: (Namespace, String),
    runs: BTreeSet<RunNo>,
}
