//! Whether what the core holds in memory agrees with itself. For tests, checkers and fuzzing.

use std::collections::{BTreeMap, BTreeSet};

use super::Core;
use super::load::Want;
use super::output::ReplyTo;
use crate::model::id::{RunNo, SessionId};

impl Core {
    /// Panics if two parts of the core's memory contradict each other.
    pub fn check(&self) {
        self.check_memos();
        self.check_leases();
        self.schedules.check();
        for no in self.schedules.over() {
            let held = self.leases.contains_key(&no);
            assert!(!held, "O6: run number {no} is over for its schedule");
        }
        self.check_slots();
        self.check_places();
        self.check_items();
        self.check_timers();
        self.check_waiters();
    }

    /// The sessions that hold leases are recorded in two places, alike.
    fn check_leases(&self) {
        for (no, lease) in &self.leases {
            assert_eq!(lease.record.run, *no, "G1: the record of run number {no} is its own");
            if let Some(holder) = lease.holder {
                let session = self
                    .sessions
                    .get(&holder)
                    .unwrap_or_else(|| panic!("G1: {no} is held by nobody"));
                assert!(
                    session.leased.contains(no),
                    "G1: session {holder} knows that it holds {no}"
                );
                assert_eq!(session.process, lease.record.process, "G1: {no} is held by its worker");
            }
        }
        for (id, session) in &self.sessions {
            for no in &session.leased {
                let holder = self.leases.get(no).and_then(|lease| lease.holder);
                assert_eq!(holder, Some(*id), "G1: {no} is held by session {id}");
            }
            assert_eq!(session.id, *id);
        }
        for (process, session) in &self.session_of_instance {
            assert_eq!(
                self.sessions.get(session).map(|s| s.process),
                Some(*process),
                "an instance has the session that it is found by"
            );
        }
        for no in self.absent.values().flat_map(|absent| &absent.runs) {
            let lease = self
                .leases
                .get(no)
                .unwrap_or_else(|| panic!("{no} is kept for a worker but not leased"));
            assert_eq!(
                lease.holder, None,
                "{no} is kept for an absent worker and held by a present one"
            );
        }
        let used: BTreeSet<u32> = self.leases.values().map(|lease| lease.slot).collect();
        assert_eq!(used.len(), self.leases.len(), "G1: a slot holds one run");
    }

    /// A session's slots are taken by what it holds and by what is being read for it.
    fn check_slots(&self) {
        let mut taken: BTreeMap<(SessionId, u32), u32> = BTreeMap::new();
        let mut reserved: BTreeMap<SessionId, u32> = BTreeMap::new();
        for lease in self.leases.values() {
            if let Some(holder) = lease.holder {
                *taken.entry((holder, lease.record.queue)).or_default() += 1;
            }
        }
        for (session, item) in self.reservations() {
            *taken.entry((session, item.queue)).or_default() += 1;
            *reserved.entry(session).or_default() += 1;
        }
        for (id, session) in &self.sessions {
            assert_eq!(
                session.reserved,
                reserved.get(id).copied().unwrap_or(0),
                "session {id}: runs being read for it"
            );
            for (queue, used) in session.slots_used() {
                let counted = taken.get(&(*id, queue)).copied().unwrap_or(0);
                assert_eq!(used, counted, "session {id}, queue {queue}: slots in use");
            }
            if let Some(queue) = session.held_back {
                let waits = self.queues.get(&queue).is_some_and(|queue| queue.has_solitary());
                let settled = self.unsettled.is_empty();
                assert!(
                    waits || !settled,
                    "session {id} is kept free though nobody waits to be alone"
                );
            }
        }
    }

    /// L1: the places in the limits are those of leased runs and of runs being read to be leased.
    fn check_places(&self) {
        let mut leased: BTreeMap<u32, u64> = BTreeMap::new();
        let mut stranded: BTreeMap<u32, u64> = BTreeMap::new();
        for (no, held) in &self.leases {
            *leased.entry(held.record.queue).or_default() += 1;
            *stranded.entry(held.record.queue).or_default() += u64::from(held.stranded);
            let nobody = held.holder.is_none();
            assert!(!held.stranded || nobody, "L1: whoever holds {no} has a place");
        }
        let mut reserved: BTreeMap<u32, u64> = BTreeMap::new();
        for mailbox in self.mailboxes.values() {
            for want in &mailbox.wants {
                if let Want::Lease { item, .. } = want {
                    *reserved.entry(item.queue).or_default() += 1;
                }
            }
        }
        for (number, queue) in &self.queues {
            let of = |counts: &BTreeMap<u32, u64>| counts.get(number).copied().unwrap_or(0);
            assert_eq!(
                queue.admission.counts(),
                (of(&leased), of(&stranded), of(&reserved)),
                "L1: places of queue {number} (leased, of them without a place, kept)"
            );
        }
    }

    fn reservations(&self) -> impl Iterator<Item = (SessionId, &super::queue::QueuedItem)> {
        self.mailboxes.values().flat_map(|mailbox| &mailbox.wants).filter_map(|want| match want {
            Want::Lease { session, item } if self.sessions.contains_key(session) => {
                Some((*session, item))
            }
            _ => None,
        })
    }

    /// A queued run is in memory once, and nobody holds it.
    fn check_items(&self) {
        let mut seen: BTreeSet<RunNo> = BTreeSet::new();
        let wanted = self.mailboxes.values().flat_map(|mailbox| &mailbox.wants).filter_map(
            |want| match want {
                Want::Lease { item, .. } | Want::Unregistered { item } => Some(item),
                _ => None,
            },
        );
        for item in self.queues.values().flat_map(|queue| queue.items()).chain(wanted) {
            assert!(seen.insert(item.run), "Q1: run number {} waits in one place", item.run);
            assert!(
                !self.leases.contains_key(&item.run),
                "Q1: run number {} waits or is held, not both",
                item.run
            );
            assert!(item.stored, "run number {} waits with a row", item.run);
        }
        for queue in self.queues.values() {
            queue.check();
        }
        for no in self.fresh.keys() {
            assert!(seen.contains(no), "run number {no} is in memory because it waits");
        }
    }

    /// The timers of leased runs are those their journals name.
    fn check_timers(&self) {
        let runs = self.leases.values().filter_map(|lease| lease.run.as_ref());
        let open: BTreeSet<_> = runs
            .flat_map(|run| run.commands.timers().map(|(number, due)| (due, run.no, number)))
            .collect();
        assert_eq!(self.armed, open, "T1: the armed timers are the open ones");
        for (due, no) in self.timers.keys() {
            assert!(
                !self.leases.contains_key(&no),
                "Q1: run number {no} sleeps until {due} and is held"
            );
        }
    }

    /// The calls that wait for the end of a run are recorded in two places, alike.
    fn check_waiters(&self) {
        for (no, waiting) in &self.waiters {
            assert!(!waiting.is_empty(), "somebody waits for {no}");
            for ReplyTo { session, .. } in waiting {
                assert!(
                    self.sessions.get(session).is_some_and(|s| s.waits.contains(no)),
                    "{session} waits for {no}"
                );
            }
        }
        for (id, session) in &self.sessions {
            for no in &session.waits {
                let waits = self
                    .waiters
                    .get(no)
                    .is_some_and(|w| w.iter().any(|waiter| waiter.session == *id));
                assert!(waits, "session {id} waits for {no}");
            }
        }
    }
}
