//! Leases: a run, its token and its journal go to a session with a free slot.
//!
//! A lease is held by a live session and never expires by age. It is durable: one small record in a
//! slot of its own, written in the batch whose commit causes the dispatch. After a restart of the
//! engine leased runs stay reserved for their worker process for one session timeout.

use std::collections::BTreeSet;

use super::Core;
use super::dead::{self, DeathCause};
use super::output::{Action, Output};
use super::queue::{DEATHS_MAX, QueuedItem};
use super::run::{Run, RunImage};
use crate::canary::canary;
use crate::model::entry::TimerFired;
use crate::model::id::{RunNo, SessionId, Token};
use crate::model::request::{Refusal, StaleToken};
use crate::model::run::RunState;
use crate::tables::{LeaseKey, LeaseRecord};
use crate::wire::message::{Held, Revoked, TurnEnded};

/// Timers fired within the transition that begins a lease; more of them fire right after it.
const FIRE_MAX: usize = 32;

/// Numbers of lease records, lowest first, so that they stay few and close together.
#[derive(Debug, Default)]
pub(super) struct RecordSlots {
    free: BTreeSet<u32>,
    next: u32,
}

impl RecordSlots {
    pub(super) fn take(&mut self, slot: u32) {
        while self.next <= slot {
            self.free.insert(self.next);
            self.next += 1;
        }
        self.free.remove(&slot);
    }

    pub(super) fn lowest(&mut self) -> u32 {
        self.free.pop_first().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })
    }

    pub(super) fn release(&mut self, slot: u32) {
        self.free.insert(slot);
    }
}

/// The right of one session to work on one run.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) slot: u32,
    pub(super) record: LeaseRecord,
    /// `None` after a restart until somebody needs it.
    pub(super) run: Option<Run>,
    /// The session that holds it, unless its worker is absent.
    pub(super) holder: Option<SessionId>,
    /// Its journal is damaged and nobody goes on with it: it takes no place in the limits of its
    /// queue.
    pub(super) stranded: bool,
}

impl Lease {
    pub(super) fn restored(slot: u32, record: LeaseRecord) -> Self {
        Self { slot, record, run: None, holder: None, stranded: false }
    }

    /// Takes what was read of the run.
    pub(super) fn adopt(&mut self, run: Run) {
        if run.next > self.record.entries {
            self.record.deaths = 0;
        }
        self.run = Some(run);
    }

    /// Progress clears the suspicion.
    pub(super) fn made_progress(&mut self) {
        if canary!("a suspect is never cleared") {
            return;
        }
        self.record.deaths = 0;
    }

    fn item(&self) -> QueuedItem {
        QueuedItem {
            run: self.record.run,
            queue: self.record.queue,
            priority: self.record.priority,
            sequence: self.record.sequence,
            workflow: self.record.workflow.clone(),
            deaths: self.record.deaths,
            avoid: self.record.avoid.clone(),
            tags: self.record.tags.clone(),
            since: self.record.since,
            stored: false,
            as_oldest: false,
        }
    }
}

impl Core {
    /// Leases a queued run to a session, reading it first if need be. The session's slot is taken
    /// at once.
    pub(super) fn lease_item(&mut self, session: SessionId, item: QueuedItem, out: &mut Output) {
        let Some(taker) = self.sessions.get_mut(&session) else {
            self.unchoose(session, &item);
            return self.put_back(item);
        };
        taker.take_slot(item.queue);
        taker.reserved += 1;
        if let Some(queue) = self.queues.get_mut(&item.queue) {
            queue.admission.reserve();
        }
        self.want(item.run, super::load::Want::Lease { session, item }, out);
    }

    /// The run has been read: lease it, unless it or the session has changed meanwhile.
    pub(super) fn lease_loaded(
        &mut self,
        image: RunImage,
        session: SessionId,
        item: QueuedItem,
        out: &mut Output,
    ) {
        let present = self.sessions.contains_key(&session);
        if let Some(taker) = self.sessions.get_mut(&session) {
            taker.reserved = taker.reserved.saturating_sub(1);
        }
        assert!(
            image.sleeps.is_none(),
            "Q1: run number {} is queued and waits for no timer",
            item.run
        );
        let admitted = self.claim(item.queue);
        if image.run.ended.is_some() || image.stopped.is_some() {
            self.unchoose(session, &item);
            Self::dequeue_row(&item, out); // it ended in line (cancelled): its row was left for now
            // Its place in the limits is free, also if the session is gone.
            self.unsettled.insert(item.queue);
            return self.freed(session, item.run, item.queue);
        }
        if !present {
            self.unchoose(session, &item);
            return self.put_back(item);
        }
        if !admitted {
            self.unchoose(session, &item);
            self.freed(session, item.run, item.queue); // an operator came in between
            return self.put_back(item);
        }
        Self::dequeue_row(&item, out);
        if let Some(taker) = self.sessions.get_mut(&session) {
            taker.free_slot(item.queue); // it is taken for good now
        }
        self.lease(image.run, session, item, out);
    }

    /// Leases `run`, whose item has no row any more, to a session.
    pub(super) fn lease(
        &mut self,
        mut run: Run,
        session: SessionId,
        item: QueuedItem,
        out: &mut Output,
    ) {
        let now = self.now();
        self.invalidate_copy(run.no);
        self.release_key_leased(&mut run, out);
        let until = match canary!("a timer fires early") {
            true => now.after(std::time::Duration::from_millis(100)),
            false => now,
        };
        let mut due: Vec<_> = run
            .commands
            .timers()
            .filter(|(_, due)| *due <= until)
            .map(|(n, due)| (due, n))
            .collect();
        due.sort_unstable();
        for (_, number) in due.into_iter().take(FIRE_MAX) {
            out.append(&mut run, &TimerFired { at: now, number }.into());
            Self::warn_if_long(&run, self.settings.limits, out);
        }
        let Some(taker) = self.sessions.get_mut(&session) else {
            return;
        };
        taker.take_slot(item.queue);
        taker.leased.insert(run.no);
        if item.deaths >= DEATHS_MAX {
            taker.solitary = Some(run.no);
        }
        let (process, build) = (taker.process, taker.build.clone());
        let (slot, token) = (self.slots.lowest(), self.next_token());
        let record = LeaseRecord {
            run: run.no,
            token,
            process,
            build,
            workflow: item.workflow,
            queue: item.queue,
            priority: item.priority,
            sequence: item.sequence,
            entries: run.next,
            deaths: item.deaths,
            avoid: item.avoid,
            tags: item.tags,
            since: item.since,
            at: now,
        };
        out.put(&LeaseKey { slot }, &record);
        out.action(Action::Dispatch {
            session,
            run: run.no,
            id: run.id,
            token,
            generation: run.generation,
            count: run.next,
            first: run.first.take(),
        });
        self.counts.dispatches += 1;
        self.counts.replayed += u64::from(run.next - 1);
        self.shift(item.queue, RunState::Queued, RunState::Running);
        self.admit(item.queue);
        let no = run.no;
        let lease = Lease { slot, record, run: Some(run), holder: Some(session), stranded: false };
        let before = self.leases.insert(no, lease);
        assert!(before.is_none(), "G1: run number {no} is leased once");
        self.arm_timers(no);
    }

    /// A worker came back with a run it holds: the lease goes on under a new token.
    pub(super) fn continue_lease(
        &mut self,
        no: RunNo,
        session: SessionId,
        held: &Held,
        out: &mut Output,
    ) {
        let Some(lease) = self.leases.get_mut(&no) else {
            return;
        };
        if lease.holder != Some(session) || lease.record.token != held.token {
            return; // gone again meanwhile
        }
        let Some(run) = &lease.run else { return };
        self.next_lease += 1;
        let token = Token {
            store: self.store,
            epoch: self.epoch,
            lease: crate::model::id::LeaseNo(self.next_lease),
        };
        assert!(
            (token.epoch, token.lease) > (held.token.epoch, held.token.lease),
            "G2: tokens only rise"
        );
        lease.record.token = token;
        // What was said under the old token and waits for a read is said again (G3).
        self.memos.stop_waiting(no);
        out.put(&LeaseKey { slot: lease.slot }, &lease.record);
        out.action(Action::ContinueLease {
            session,
            run: no,
            old: held.token,
            token,
            generation: run.generation,
            from: if canary!("a continued lease sends nothing that was missed") {
                run.next
            } else {
                held.seen.min(run.next)
            },
            count: run.next,
        });
        if canary!("who comes back loses its memo key") {
            self.leave_memos(no, out);
        }
    }

    /// The leased run a report is about, if the report counts (G3); otherwise the reporter is
    /// told.
    pub(super) fn current(
        &mut self,
        session: SessionId,
        no: RunNo,
        token: Token,
        out: &mut Output,
    ) -> Option<&mut Lease> {
        let found = self.leases.get(&no);
        let holds = found.is_some_and(|g| {
            if canary!("no fence") {
                return g.run.is_some();
            }
            if canary!("an older token counts") {
                return token <= g.record.token && g.run.is_some();
            }
            g.record.token == token && g.holder == Some(session) && g.run.is_some()
        });
        if !holds {
            let current = found.map(|lease| lease.record.token);
            let id = found.and_then(|lease| lease.run.as_ref()).map(|run| run.id);
            self.counts.refused_late += 1;
            let reason: Refusal = StaleToken { id, number: None, token, current }.into();
            out.send(session, Revoked { run: no, token, reason });
            return None;
        }
        self.leases.get_mut(&no)
    }

    /// Ends a lease: its record, its slot, its timers. The state's count is the caller's.
    pub(super) fn end_lease(&mut self, no: RunNo, out: &mut Output) -> Option<(Lease, Run)> {
        self.invalidate_copy(no);
        let mut lease = self.leases.remove(&no)?;
        self.leave_memos(no, out);
        out.delete(&LeaseKey { slot: lease.slot });
        if canary!("a transition is cut in two") {
            out.close_batch();
        }
        self.slots.release(lease.slot);
        if lease.stranded {
            self.strand(lease.record.queue, -1);
        }
        self.dismiss(lease.record.queue, lease.holder.is_some());
        let run = lease.run.take()?;
        for (number, due) in run.commands.timers() {
            self.armed.remove(&(due, no, number));
        }
        if let Some(holder) = lease.holder {
            self.took_back(holder, no, lease.record.queue);
        }
        Some((lease, run))
    }

    /// Ends a turn: the worker forgets the run.
    pub(super) fn end_turn(lease: &Lease, out: &mut Output) {
        if let Some(session) = lease.holder {
            out.send(session, TurnEnded { run: lease.record.run, token: lease.record.token });
        }
    }

    /// Takes a leased run off its session; somebody decides about it next.
    pub(super) fn let_go(&mut self, no: RunNo) {
        let Some(lease) = self.leases.get_mut(&no) else {
            return;
        };
        let queue = lease.record.queue;
        if let Some(holder) = lease.holder.take() {
            self.took_back(holder, no, queue);
        }
    }

    fn took_back(&mut self, holder: SessionId, no: RunNo, queue: u32) {
        if let Some(session) = self.sessions.get_mut(&holder) {
            session.leased.remove(&no);
            if canary!("a slot is never free again") {
                return;
            }
            self.freed(holder, no, queue);
        }
    }

    /// A leased run cannot be read, and nobody holds it: it stays leased, and others get its
    /// place.
    pub(super) fn leave_stranded(&mut self, no: RunNo) {
        let lease = self.leases.get_mut(&no);
        let Some(lease) = lease.filter(|g| g.holder.is_none() && !g.stranded) else {
            return;
        };
        lease.stranded = true;
        let queue = lease.record.queue;
        self.strand(queue, 1);
    }

    /// A leased run comes back: in peace, or because its worker died with it.
    pub(super) fn return_run(&mut self, no: RunNo, death: bool, out: &mut Output) {
        let Some(lease) = self.leases.get(&no) else {
            return;
        };
        if lease.holder.is_some() {
            return; // its worker came back meanwhile
        }
        let alone = lease.record.deaths >= DEATHS_MAX;
        let Some((lease, mut run)) = self.end_lease(no, out) else {
            return;
        };
        if death && alone {
            let death = DeathCause {
                from: RunState::Running,
                failure: dead::worker_lost(lease.record.deaths + 1),
                end: None,
                worker: (lease.record.process, lease.record.build.clone()),
            };
            return self.die(&mut run, death, out);
        }
        let mut item = lease.item();
        if death {
            item.deaths += 1;
            self.counts.redeliveries += 1;
        }
        self.becomes_queued(item.queue, RunState::Running);
        self.enqueue_item(item, out);
    }
}
