//! Ready queues: a window in memory over what is stored, refilled behind a cursor.
//!
//! Within a queue there is a lane per priority, in the order of sequence numbers. A lane keeps at most
//! [`WINDOW_MAX`] runs in memory; while the store may hold more (`tail_in_memory` is false) new ones are not added to
//! the window, because they belong behind those not yet read. No scan starts where deletes happen: everything before
//! the window has been deleted, and the window's start is kept in the mark.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use stepwell_storage::Space;

use super::output::{Output, Read};
use super::run::Run;
use super::{Core, Session};
use crate::canary::canary;
use crate::keys::{self, ReadyRecord, Record};
use crate::model::id::{RunNo, SessionId};
use crate::model::run::RunState;

/// Ready runs of one lane held in memory at most (plus those that came back to the front).
pub(super) const WINDOW_MAX: usize = 4_096;
/// A lane with fewer is refilled.
const WINDOW_LOW: usize = 512;
/// Runs set aside because no worker knows their workflow, per queue at most.
const ASIDE_MAX: usize = 4_096;
/// How far a session looks for a run it can take.
const LOOK_MAX: usize = 64;
/// Runs granted in one transition at most, so that its writes fit a batch.
const SETTLE_MAX: usize = 256;
/// Workers lost in a row from which on a run is granted alone.
pub(super) const DEATHS_MAX: u32 = 2;

/// A run that waits for a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ReadyItem {
    /// The run.
    pub run: RunNo,
    /// Its queue.
    pub queue: u32,
    /// Its priority.
    pub priority: u8,
    /// Its place in the lane.
    pub sequence: u64,
    /// Its workflow.
    pub workflow: String,
    /// Workers lost in a row while they held it.
    pub deaths: u32,
    /// Builds not to give it to.
    pub avoid: Vec<String>,
    /// Whether it has a row in the store.
    pub stored: bool,
}

impl ReadyItem {
    fn record(&self) -> ReadyRecord {
        ReadyRecord {
            run: self.run,
            workflow: self.workflow.clone(),
            deaths: self.deaths,
            avoid: self.avoid.clone(),
        }
    }

    fn key(&self) -> bytes::Bytes {
        keys::ready(self.queue, self.priority, self.sequence)
    }
}

#[derive(Debug, Default)]
struct Lane {
    window: BTreeMap<u64, ReadyItem>,
    /// All rows up to this sequence have been read (or were born in memory).
    read_to: u64,
    /// Whether there are no rows behind `read_to`.
    tail_in_memory: bool,
    reading: bool,
    /// Rows were added behind `read_to` while a read was under way: its end is not the end.
    grown: bool,
    /// Runs that came back to places behind `read_to` while a read was under way, which may have been too early to
    /// see them.
    late: Vec<ReadyItem>,
}

impl Lane {
    fn loaded(&mut self, last: Option<u64>, end: bool, next_sequence: u64) {
        self.reading = false;
        self.read_to = self.read_to.max(last.unwrap_or(0));
        if end && !self.grown {
            self.tail_in_memory = true;
            // Sequences are given in order: what comes later comes behind all that there is.
            self.read_to = self.read_to.max(next_sequence - 1);
        }
    }
}

/// One queue.
#[derive(Debug)]
pub(super) struct Queue {
    lanes: BTreeMap<u8, Lane>,
    /// Sessions that may have a free slot, in the order in which they are next.
    offers: VecDeque<SessionId>,
    aside: BTreeMap<String, Vec<ReadyItem>>,
    aside_count: usize,
    /// Runs that are granted alone.
    solitary: VecDeque<ReadyItem>,
}

impl Queue {
    /// A queue that begins to exist now.
    pub(super) fn new(next_sequence: u64) -> Self {
        let lane = || Lane {
            tail_in_memory: true,
            read_to: next_sequence.saturating_sub(1),
            ..Lane::default()
        };
        Self::with_lanes(|_| lane())
    }

    /// A queue with stored runs; `head` tells per priority the sequence before which there are none.
    pub(super) fn stored(head: impl Fn(u8) -> u64) -> Self {
        Self::with_lanes(|priority| Lane {
            read_to: head(priority).saturating_sub(1),
            ..Lane::default()
        })
    }

    fn with_lanes(lane: impl Fn(u8) -> Lane) -> Self {
        Self {
            lanes: (0..=9).map(|priority| (priority, lane(priority))).collect(),
            offers: VecDeque::new(),
            aside: BTreeMap::new(),
            aside_count: 0,
            solitary: VecDeque::new(),
        }
    }

    /// Per priority, the sequence before which no run waits.
    pub(super) fn heads(&self, next_sequence: u64) -> impl Iterator<Item = (u8, u64)> + '_ {
        self.lanes.iter().map(move |(priority, lane)| {
            let elsewhere = self.aside.values().flatten().chain(&self.solitary);
            let first = elsewhere
                .filter(|item| item.priority == *priority)
                .map(|item| item.sequence)
                .min();
            let window = lane.window.keys().next().copied();
            let behind = if lane.tail_in_memory {
                next_sequence
            } else {
                lane.read_to + 1
            };
            (
                *priority,
                first.into_iter().chain(window).fold(behind, u64::min),
            )
        })
    }

    /// Puts a session in line for runs.
    pub(super) fn offer(&mut self, session: SessionId) {
        if !self.offers.contains(&session) {
            self.offers.push_back(session);
        }
    }

    /// Takes a session out of line.
    pub(super) fn withdraw(&mut self, session: SessionId) {
        self.offers.retain(|s| *s != session);
    }

    /// Brings back what was set aside for a workflow.
    pub(super) fn recall(&mut self, workflow: &str) {
        for item in self.aside.remove(workflow).unwrap_or_default() {
            self.aside_count -= 1;
            self.insert(item);
        }
    }

    fn insert(&mut self, item: ReadyItem) {
        if item.deaths >= DEATHS_MAX && !canary!("a suspect is not granted alone") {
            self.solitary.push_back(item);
        } else if let Some(lane) = self.lanes.get_mut(&item.priority) {
            lane.window.insert(item.sequence, item);
        }
    }

    /// Whether a run that arrives at the end can be held in memory.
    fn admits(&self, priority: u8) -> bool {
        self.lanes
            .get(&priority)
            .is_some_and(|lane| lane.tail_in_memory && lane.window.len() < WINDOW_MAX)
    }

    /// The next run that `session` can take.
    fn take_for(&mut self, session: &Session) -> Option<ReadyItem> {
        for lane in self.lanes.values_mut() {
            let fitting = lane
                .window
                .values()
                .take(LOOK_MAX)
                .find(|item| session.can_run(item))
                .map(|i| i.sequence);
            if let Some(sequence) = fitting {
                return lane.window.remove(&sequence);
            }
            if lane.window.is_empty() && !lane.tail_in_memory {
                return None; // being read: what comes may go before the lanes behind
            }
        }
        None
    }

    /// Sets aside runs at the front of the lanes that nobody can take.
    fn set_aside(&mut self, can_run: impl Fn(&ReadyItem) -> bool) {
        for lane in self.lanes.values_mut() {
            while self.aside_count < ASIDE_MAX {
                let Some(entry) = lane.window.first_entry().filter(|e| !can_run(e.get())) else {
                    break;
                };
                let item = entry.remove();
                self.aside_count += 1;
                self.aside
                    .entry(item.workflow.clone())
                    .or_default()
                    .push(item);
            }
        }
    }

    /// Takes up to `left` of the runs that are set aside or wait to be granted alone, came before `sequence`, and are of a
    /// workflow that nobody knows.
    pub(super) fn take_out(
        &mut self,
        left: usize,
        sequence: u64,
        nobody_knows: impl Fn(&str) -> bool,
    ) -> Vec<ReadyItem> {
        let mut taken = Vec::new();
        self.aside.retain(|workflow, items| {
            if taken.len() < left && nobody_knows(workflow) {
                let (mut room, mut kept) = (left - taken.len(), Vec::new());
                for item in items.drain(..) {
                    if room > 0 && item.sequence < sequence {
                        room -= 1;
                        taken.push(item);
                    } else {
                        kept.push(item);
                    }
                }
                *items = kept;
            }
            !items.is_empty()
        });
        self.aside_count -= taken.len();
        let wanted = |item: &ReadyItem| item.sequence < sequence && nobody_knows(&item.workflow);
        while taken.len() < left
            && let Some(at) = self.solitary.iter().position(wanted)
        {
            taken.extend(self.solitary.remove(at));
        }
        taken
    }

    #[cfg(any(test, feature = "inspect"))]
    pub(super) fn has_solitary(&self) -> bool {
        !self.solitary.is_empty()
    }

    /// All runs it holds in memory.
    #[cfg(any(test, feature = "inspect"))]
    pub(super) fn items(&self) -> impl Iterator<Item = &ReadyItem> {
        let lanes = self.lanes.values().flat_map(|lane| lane.window.values());
        lanes
            .chain(self.aside.values().flatten())
            .chain(&self.solitary)
    }

    /// Panics if its parts contradict each other.
    #[cfg(any(test, feature = "inspect"))]
    pub(super) fn check(&self) {
        assert_eq!(
            self.aside_count,
            self.aside.values().map(Vec::len).sum::<usize>(),
            "what is set aside is counted"
        );
        let offers: BTreeSet<_> = self.offers.iter().collect();
        assert_eq!(offers.len(), self.offers.len(), "a session is in line once");
        for lane in self.lanes.values() {
            let last = lane.window.keys().next_back().copied().unwrap_or(0);
            assert!(last <= lane.read_to, "what waits in memory has been read");
            assert!(
                !(lane.reading && lane.tail_in_memory),
                "nothing is read behind the end"
            );
        }
    }

    fn refills(&mut self, number: u32, out: &mut Output) {
        for (priority, lane) in &mut self.lanes {
            if !lane.tail_in_memory && !lane.reading && lane.window.len() < WINDOW_LOW {
                lane.reading = true;
                lane.grown = false;
                let (from, limit) = (lane.read_to + 1, WINDOW_MAX - WINDOW_LOW);
                out.read(Read::Ready {
                    queue: number,
                    priority: *priority,
                    from,
                    limit,
                });
            }
        }
    }
}

impl Core {
    /// Puts a run in line at the end. The state's count is the caller's.
    pub(super) fn enqueue(&mut self, run: &Run, out: &mut Output) {
        let queue = self.queue_number(&run.queue, out);
        let item = self.arrival(run.no, queue, run.priority, run.workflow.clone());
        self.enqueue_item(item, out);
    }

    /// An item for the end of a lane.
    pub(super) fn arrival(
        &mut self,
        run: RunNo,
        queue: u32,
        priority: u8,
        workflow: String,
    ) -> ReadyItem {
        let sequence = self.tally.next_sequence;
        self.tally.next_sequence += 1;
        self.tally_dirty = true;
        ReadyItem {
            run,
            queue,
            priority,
            sequence,
            workflow,
            deaths: 0,
            avoid: Vec::new(),
            stored: false,
        }
    }

    /// Writes an item and puts it in line by its sequence.
    pub(super) fn enqueue_item(&mut self, mut item: ReadyItem, out: &mut Output) {
        out.put(Space::Passing, item.key(), item.record().to_bytes());
        item.stored = true;
        let Some(queue) = self.queues.get_mut(&item.queue) else {
            return;
        };
        let Some(lane) = queue.lanes.get_mut(&item.priority) else {
            return;
        };
        self.unsettled.insert(item.queue);
        if item.sequence <= lane.read_to {
            self.mark_dirty |= !canary!("a run comes back before the stored cursor"); // it may be in front of it
            queue.insert(item);
        } else if lane.tail_in_memory && lane.window.len() < WINDOW_MAX {
            lane.read_to = item.sequence;
            queue.insert(item);
        } else {
            lane.tail_in_memory = false;
            lane.grown = true;
            self.fresh.remove(&item.run);
            if lane.reading && item.sequence + 1 < self.tally.next_sequence {
                lane.late.push(item);
            }
        }
    }

    /// Whether a run that becomes ready now would be granted at once, and to whom.
    pub(super) fn direct_taker(&mut self, item: &ReadyItem) -> Option<SessionId> {
        let queue = self.queues.get_mut(&item.queue)?;
        let empty = |lane: &Lane| lane.tail_in_memory && lane.window.is_empty();
        if !queue.solitary.is_empty()
            || !queue
                .lanes
                .range(..=item.priority)
                .all(|(_, lane)| empty(lane))
        {
            return None;
        }
        let position = queue.offers.iter().position(|id| {
            self.sessions
                .get(id)
                .is_some_and(|s| s.has_room(item.queue) && s.can_run(item))
        })?;
        let session = queue.offers.remove(position)?;
        queue.offers.push_back(session);
        let lane = queue.lanes.get_mut(&item.priority)?;
        lane.read_to = lane.read_to.max(item.sequence);
        Some(session)
    }

    /// Whether the queue holds runs at the end of a lane in memory.
    pub(super) fn keeps_fresh(&self, item: &ReadyItem) -> bool {
        self.queues
            .get(&item.queue)
            .is_some_and(|queue| queue.admits(item.priority))
    }

    pub(super) fn ready_loaded(
        &mut self,
        number: u32,
        priority: u8,
        rows: Vec<(u64, ReadyRecord)>,
        end: bool,
    ) {
        let Some(queue) = self.queues.get_mut(&number) else {
            return;
        };
        let Some(lane) = queue.lanes.get_mut(&priority) else {
            return;
        };
        lane.loaded(
            rows.last().map(|(last, _)| *last),
            end,
            self.tally.next_sequence,
        );
        let read_to = lane.read_to;
        let seen: BTreeSet<u64> = rows.iter().map(|(sequence, _)| *sequence).collect();
        let late: Vec<ReadyItem> = std::mem::take(&mut lane.late);
        for (sequence, record) in rows {
            queue.insert(ReadyItem {
                run: record.run,
                queue: number,
                priority,
                sequence,
                workflow: record.workflow,
                deaths: record.deaths,
                avoid: record.avoid,
                stored: true,
            });
        }
        let missed = |item: &ReadyItem| item.sequence <= read_to && !seen.contains(&item.sequence);
        late.into_iter()
            .filter(missed)
            .for_each(|item| queue.insert(item));
        self.unsettled.insert(number);
    }

    /// Brings ready runs and free slots together.
    pub(super) fn settle(&mut self, out: &mut Output) {
        let mut left = SETTLE_MAX;
        while let Some(number) = self.unsettled.pop_first() {
            if !self.settle_queue(number, &mut left, out) {
                self.unsettled.insert(number);
                return;
            }
        }
    }

    /// Whether the queue is settled; not so if `left` ran out.
    fn settle_queue(&mut self, number: u32, left: &mut usize, out: &mut Output) -> bool {
        self.settle_solitary(number, out);
        let Some(queue) = self.queues.get_mut(&number) else {
            return true;
        };
        let serving = || {
            self.sessions
                .values()
                .filter(|session| session.serves(number))
        };
        if serving().next().is_some() {
            queue.set_aside(|item| serving().any(|session| session.can_run(item)));
        }
        let mut idle = 0;
        loop {
            let Some(queue) = self.queues.get_mut(&number) else {
                return true;
            };
            let Some(id) = queue
                .offers
                .front()
                .copied()
                .filter(|_| idle < queue.offers.len())
            else {
                break;
            };
            let item = match self.sessions.get(&id) {
                Some(session) if session.has_room(number) => queue.take_for(session),
                Some(session) if session.is_held_back() => None,
                _ => {
                    queue.offers.pop_front(); // it comes back in line when a slot becomes free
                    continue;
                }
            };
            queue.offers.rotate_left(1);
            match item {
                None => idle += 1,
                Some(_) if *left == 0 => {
                    if let Some(item) = item {
                        queue.insert(item);
                    }
                    return false;
                }
                Some(item) => {
                    idle = 0;
                    *left -= 1;
                    self.grant_item(id, item, out);
                }
            }
        }
        if let Some(queue) = self
            .queues
            .get_mut(&number)
            .filter(|queue| !queue.offers.is_empty())
        {
            queue.refills(number, out);
        }
        true
    }

    /// Grants runs that killed workers, each to a session that holds nothing else; if none is idle, one is emptied.
    fn settle_solitary(&mut self, number: u32, out: &mut Output) {
        let mut waits_for = None;
        while let Some((at, taker)) = self.solitary_taker(number) {
            let Some(session) = self.sessions.get_mut(&taker) else {
                break;
            };
            if !session.granted.is_empty() || session.reserved > 0 {
                session.held_back = Some(number);
                waits_for = Some(taker);
                break;
            }
            let Some(item) = self
                .queues
                .get_mut(&number)
                .and_then(|queue| queue.solitary.remove(at))
            else {
                break;
            };
            session.held_back = None;
            session.solitary = Some(item.run);
            self.grant_item(taker, item, out);
        }
        self.stop_holding_back(number, waits_for);
    }

    /// The first run to be granted alone that somebody can take, and who.
    fn solitary_taker(&self, number: u32) -> Option<(usize, SessionId)> {
        let queue = self.queues.get(&number)?;
        queue
            .solitary
            .iter()
            .take(LOOK_MAX)
            .enumerate()
            .find_map(|(at, item)| {
                let able = self
                    .sessions
                    .values()
                    .filter(|session| session.can_run_alone(item));
                let taker =
                    able.min_by_key(|s| (s.granted.len(), s.held_back != Some(number), s.id))?;
                Some((at, taker.id))
            })
    }

    /// Sessions that were emptied for this queue, and are not needed empty any more, get runs again.
    fn stop_holding_back(&mut self, number: u32, but: Option<SessionId>) {
        let held_back = |s: &&mut Session| s.held_back == Some(number) && Some(s.id) != but;
        let free: Vec<SessionId> = self
            .sessions
            .values_mut()
            .filter(held_back)
            .map(|session| {
                session.held_back = None;
                session.id
            })
            .collect();
        free.into_iter()
            .for_each(|session| self.line_up_everywhere(session));
    }

    /// Takes a ready run's row away.
    pub(super) fn dequeue_row(item: &ReadyItem, out: &mut Output) {
        if item.stored && !canary!("a granted run keeps its ready row") {
            out.delete(Space::Passing, item.key());
        }
    }

    /// Puts an item back in memory where it was (its row was not touched).
    pub(super) fn put_back(&mut self, item: ReadyItem) {
        if let Some(queue) = self.queues.get_mut(&item.queue) {
            self.unsettled.insert(item.queue);
            queue.insert(item);
        }
    }

    /// Counts a run that became ready.
    pub(super) fn becomes_ready(&mut self, from: RunState) {
        self.shift(from, RunState::Ready);
    }
}
