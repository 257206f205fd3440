//! Queues: a lane for each priority, and who is next in line for runs.
//!
//! Within a queue there is a lane per priority, in the order of sequence numbers, which are given
//! in the order of arrival over the whole engine: the run that waits longest is at the head of some
//! lane. A lane keeps at most [`WINDOW_MAX`] runs in memory; while the store may hold more
//! (`tail_in_memory` is false) new ones are not added to the window, because they belong behind
//! those not yet read. No scan starts where deletes happen: everything before the window has been
//! deleted, and the window's start is kept in the mark.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::admission::{Admission, Shut};
use super::lane::{LOOK_PAST_MAX, Lane, WINDOW_LOW, WINDOW_MAX};
use super::output::{Output, StoreRead};
use super::run::Run;
use super::{Core, Session};
use crate::canary::canary;
use crate::model::id::{RunNo, SessionId};
use crate::model::run::RunState;
use crate::model::time::Time;
use crate::tables::{QueuedKey, QueuedRecord};

/// How far is looked for a run to be leased alone that somebody can take.
const LOOK_MAX: usize = 64;
/// Runs leased in one transition at most, so that its writes fit a batch.
const SETTLE_MAX: usize = 256;
/// Workers lost in a row from which on a run is leased alone.
pub(super) const DEATHS_MAX: u32 = 2;

/// A run that waits for a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QueuedItem {
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
    /// Only workers that offer all of these get it.
    pub tags: Vec<String>,
    /// Since when it has its place.
    pub since: Time,
    /// Whether it has a row in the store.
    pub stored: bool,
    /// It was chosen because it waits longest, whatever its priority.
    pub as_oldest: bool,
}

impl QueuedItem {
    fn record(&self) -> QueuedRecord {
        QueuedRecord {
            run: self.run,
            workflow: self.workflow.clone(),
            deaths: self.deaths,
            avoid: self.avoid.clone(),
            tags: self.tags.clone(),
            since: self.since,
        }
    }

    fn key(&self) -> QueuedKey {
        QueuedKey { queue: self.queue, priority: self.priority, sequence: self.sequence }
    }
}

/// One queue.
#[derive(Debug)]
pub(super) struct Queue {
    lanes: BTreeMap<u8, Lane>,
    /// Sessions that may have a free slot, in the order in which they are next.
    offers: VecDeque<SessionId>,
    /// Runs that are leased alone.
    solitary: VecDeque<QueuedItem>,
    /// What its settings let through.
    pub(super) admission: Admission,
}

impl Queue {
    /// A queue that begins to exist now.
    pub(super) fn new(next_sequence: u64) -> Self {
        Self::with_lanes(Admission::new(), |_| Lane::read_to(next_sequence.saturating_sub(1), true))
    }

    /// A queue with stored runs; `head` tells per priority the sequence before which there are
    /// none.
    pub(super) fn stored(admission: Admission, head: impl Fn(u8) -> u64) -> Self {
        Self::with_lanes(admission, |priority| {
            Lane::read_to(head(priority).saturating_sub(1), false)
        })
    }

    fn with_lanes(admission: Admission, lane: impl Fn(u8) -> Lane) -> Self {
        Self {
            lanes: (0..=9).map(|priority| (priority, lane(priority))).collect(),
            offers: VecDeque::new(),
            solitary: VecDeque::new(),
            admission,
        }
    }

    /// Per priority, the sequence before which no run waits.
    pub(super) fn heads(&self, next_sequence: u64) -> impl Iterator<Item = (u8, u64)> + '_ {
        self.lanes.iter().map(move |(priority, lane)| {
            let first = self
                .solitary
                .iter()
                .filter(|item| item.priority == *priority)
                .map(|item| item.sequence)
                .min();
            let window = lane.first().map(|item| item.sequence);
            let behind = if lane.tail_in_memory { next_sequence } else { lane.read_to + 1 };
            (*priority, first.into_iter().chain(window).fold(behind, u64::min))
        })
    }

    /// Puts a session in line for runs.
    pub(super) fn offer(&mut self, session: SessionId) {
        if !self.offers.contains(&session) {
            self.offers.push_back(session);
        }
    }

    /// Takes a session out of line. Whether it was in it.
    pub(super) fn withdraw(&mut self, session: SessionId) -> bool {
        let before = self.offers.len();
        self.offers.retain(|s| *s != session);
        self.offers.len() < before
    }

    fn insert(&mut self, item: QueuedItem) {
        if item.deaths >= DEATHS_MAX && !canary!("a suspect is not leased alone") {
            self.solitary.push_back(item);
        } else if let Some(lane) = self.lanes.get_mut(&item.priority) {
            lane.insert(item);
        }
    }

    /// Whether a run that arrives at the end can be held in memory.
    fn admits(&self, priority: u8) -> bool {
        self.lanes.get(&priority).is_some_and(|lane| lane.tail_in_memory && lane.len() < WINDOW_MAX)
    }

    /// The next run that `session` can take: of the smallest priority, or, when that is owed, the
    /// one that waits longest. None also if one that is being read may go before it.
    fn take_for(&mut self, session: &Session, number: u32) -> Option<QueuedItem> {
        let as_oldest = self.owes_oldest(session, number);
        let (priority, sequence) = match as_oldest || canary!("priorities are not looked at") {
            true => self.oldest_for(session)?,
            false => self.most_urgent_for(session)?,
        };
        let mut item = self.lanes.get_mut(&priority)?.remove(sequence)?;
        item.as_oldest = as_oldest;
        Some(item)
    }

    fn owes_oldest(&self, session: &Session, number: u32) -> bool {
        self.admission.owes_oldest() || self.admission.owes_oldest_of(session.passed_over(number))
    }

    fn most_urgent_for(&self, session: &Session) -> Option<(u8, u64)> {
        for (priority, lane) in &self.lanes {
            if let Some(sequence) = lane.first_for(session) {
                return Some((*priority, sequence));
            }
            if !lane.tail_in_memory && lane.len() < LOOK_PAST_MAX {
                return None; // being read: what comes may go before the lanes behind
            }
        }
        None
    }

    fn oldest_for(&self, session: &Session) -> Option<(u8, u64)> {
        let mut oldest: Option<(u8, u64)> = None;
        for (priority, lane) in &self.lanes {
            let first = lane.first_for(session);
            let older = |sequence: u64| oldest.is_none_or(|(_, known)| sequence < known);
            match first.filter(|sequence| older(*sequence)) {
                Some(sequence) => oldest = Some((*priority, sequence)),
                // What is yet to be read may be older than what is known.
                None if first.is_none() && lane.may_hold_before(oldest.map(|(_, at)| at)) => {
                    return None;
                }
                None => {}
            }
        }
        oldest
    }

    /// A run in line, if it is in memory there.
    pub(super) fn find(&self, run: RunNo, priority: u8) -> Option<&QueuedItem> {
        let lane = self.lanes.get(&priority).into_iter().flat_map(Lane::items);
        lane.chain(&self.solitary).find(|item| item.run == run)
    }

    /// Takes a run out of line, if it is in memory there.
    pub(super) fn remove(&mut self, run: RunNo, priority: u8) -> Option<QueuedItem> {
        if let Some(at) = self.solitary.iter().position(|item| item.run == run) {
            return self.solitary.remove(at);
        }
        let lane = self.lanes.get_mut(&priority)?;
        let sequence = lane.items().find(|item| item.run == run)?.sequence;
        lane.remove(sequence)
    }

    /// Since when the first run in line has its place, of those in memory.
    pub(super) fn oldest_since(&self) -> Option<Time> {
        let heads = self.lanes.values().filter_map(Lane::first);
        heads.chain(&self.solitary).map(|item| item.since).min()
    }

    /// Whether some lane must be read to tell where it begins.
    pub(super) fn is_unread(&self) -> bool {
        self.lanes.values().any(Lane::is_unread)
    }

    /// What the runs in memory need: workflow, tags, builds to avoid.
    pub(super) fn needs(&self) -> impl Iterator<Item = (&String, &[String], &[String])> {
        let alone = self.solitary.iter();
        let alone = alone.map(|item| (&item.workflow, &item.tags[..], &item.avoid[..]));
        let classes = self.lanes.values().flat_map(Lane::classes);
        let classes = classes.map(|class| (&class.workflow, &class.tags[..], &class.avoid[..]));
        classes.chain(alone)
    }

    /// Takes up to `left` of the runs in memory that came before `sequence` and are of a workflow
    /// that nobody knows.
    pub(super) fn take_out(
        &mut self,
        left: usize,
        sequence: u64,
        nobody_knows: impl Fn(&str) -> bool,
    ) -> Vec<QueuedItem> {
        let mut taken = Vec::new();
        for lane in self.lanes.values_mut() {
            taken.extend(lane.take_out(left - taken.len(), sequence, &nobody_knows));
        }
        let wanted = |item: &QueuedItem| item.sequence < sequence && nobody_knows(&item.workflow);
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
    pub(super) fn items(&self) -> impl Iterator<Item = &QueuedItem> {
        let lanes = self.lanes.values().flat_map(Lane::items);
        lanes.chain(&self.solitary)
    }

    /// Panics if its parts contradict each other.
    #[cfg(any(test, feature = "inspect"))]
    pub(super) fn check(&self) {
        let offers: BTreeSet<_> = self.offers.iter().collect();
        assert_eq!(offers.len(), self.offers.len(), "a session is in line once");
        self.lanes.values().for_each(Lane::check);
    }

    /// Reads on in lanes with fewer than `low` runs in memory.
    pub(super) fn refills(&mut self, number: u32, low: usize, out: &mut Output) {
        for (priority, lane) in &mut self.lanes {
            if !lane.tail_in_memory && !lane.reading && lane.len() < low {
                lane.reading = true;
                lane.grown = false;
                let (from, limit) = (lane.read_to + 1, WINDOW_MAX - WINDOW_LOW);
                out.read(StoreRead::Queued { queue: number, priority: *priority, from, limit });
            }
        }
    }
}

impl Core {
    /// Puts a run in line at the end. The state's count is the caller's.
    pub(super) fn enqueue(&mut self, run: &Run, out: &mut Output) {
        let queue = self.queue_number(&run.queue, out);
        let item = self.arrival_of(run, queue);
        self.enqueue_item(item, out);
    }

    /// A run for the end of its lane.
    pub(super) fn arrival_of(&mut self, run: &Run, queue: u32) -> QueuedItem {
        let what = (run.workflow.clone(), run.tags.clone());
        self.arrival(run.no, queue, run.priority, what)
    }

    /// An item for the end of a lane.
    pub(super) fn arrival(
        &mut self,
        run: RunNo,
        queue: u32,
        priority: u8,
        (workflow, tags): (String, Vec<String>),
    ) -> QueuedItem {
        let sequence = self.tally.next_sequence;
        self.tally.next_sequence += 1;
        self.tally_dirty = true;
        QueuedItem {
            run,
            queue,
            priority,
            sequence,
            workflow,
            deaths: 0,
            avoid: Vec::new(),
            tags,
            since: self.now(),
            stored: false,
            as_oldest: false,
        }
    }

    /// Writes an item and puts it in line by its sequence.
    pub(super) fn enqueue_item(&mut self, mut item: QueuedItem, out: &mut Output) {
        item.since = known_since(item.since, self.now());
        out.put(&item.key(), &item.record());
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
        } else if lane.tail_in_memory && lane.len() < WINDOW_MAX {
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

    /// Whether a run that becomes queued now would be leased at once, and to whom.
    pub(super) fn direct_taker(&mut self, item: &QueuedItem) -> Option<SessionId> {
        let now = self.now();
        let queue = self.queues.get_mut(&item.queue)?;
        if !queue.solitary.is_empty() || queue.admission.shut(now).is_some() {
            return None;
        }
        let before = |lanes| queue.lanes.range(lanes).all(|(_, lane)| lane.is_deserted());
        if !before(0..=item.priority) {
            return None;
        }
        let owed = |s: &Session| queue.owes_oldest(s, item.queue);
        let position = queue.offers.iter().position(|id| {
            self.sessions.get(id).is_some_and(|s| {
                s.has_room(item.queue) && s.can_run(item) && (!owed(s) || before(0..=9))
            })
        })?;
        let taker = queue.offers.get(position).and_then(|id| self.sessions.get(id));
        let as_oldest = taker.is_some_and(owed);
        let session = queue.offers.remove(position)?;
        queue.offers.push_back(session);
        let lane = queue.lanes.get_mut(&item.priority)?;
        lane.read_to = lane.read_to.max(item.sequence);
        self.choose(session, item.queue, as_oldest);
        Some(session)
    }

    /// Whether the queue holds runs at the end of a lane in memory.
    pub(super) fn keeps_fresh(&self, item: &QueuedItem) -> bool {
        self.queues.get(&item.queue).is_some_and(|queue| queue.admits(item.priority))
    }

    pub(super) fn queued_loaded(
        &mut self,
        number: u32,
        priority: u8,
        rows: Vec<(u64, QueuedRecord)>,
        end: bool,
    ) {
        let Some(queue) = self.queues.get_mut(&number) else {
            return;
        };
        let Some(lane) = queue.lanes.get_mut(&priority) else {
            return;
        };
        let now = self.clock.now();
        lane.loaded(rows.last().map(|(last, _)| *last), end, self.tally.next_sequence);
        let read_to = lane.read_to;
        let seen: BTreeSet<u64> = rows.iter().map(|(sequence, _)| *sequence).collect();
        let late: Vec<QueuedItem> = std::mem::take(&mut lane.late);
        for (sequence, record) in rows {
            queue.insert(QueuedItem {
                run: record.run,
                queue: number,
                priority,
                sequence,
                workflow: record.workflow,
                deaths: record.deaths,
                avoid: record.avoid,
                tags: record.tags,
                since: known_since(record.since, now),
                stored: true,
                as_oldest: false,
            });
        }
        let missed = |item: &QueuedItem| item.sequence <= read_to && !seen.contains(&item.sequence);
        late.into_iter().filter(missed).for_each(|item| queue.insert(item));
        self.unsettled.insert(number);
    }

    /// Brings queued runs and free slots together.
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
        let now = self.now();
        let mut idle = 0;
        let shut = loop {
            let Some(queue) = self.queues.get_mut(&number) else {
                return true;
            };
            let shut = queue.admission.shut(now);
            if shut.is_some() {
                break shut;
            }
            let Some(id) = queue.offers.front().copied().filter(|_| idle < queue.offers.len())
            else {
                break None;
            };
            let item = match self.sessions.get(&id) {
                Some(session) if session.has_room(number) => queue.take_for(session, number),
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
                    if let Some(mut item) = item {
                        item.as_oldest = false;
                        queue.insert(item);
                    }
                    return false;
                }
                Some(item) => {
                    idle = 0;
                    *left -= 1;
                    self.choose(id, number, item.as_oldest);
                    self.lease_item(id, item, out);
                }
            }
        };
        if let Some(Shut::Empty { until }) = shut {
            self.opens_at.insert((until, number));
        }
        if let Some(queue) = self.queues.get_mut(&number).filter(|queue| !queue.offers.is_empty()) {
            // Whoever is still in line found nothing to take in what is in memory.
            let low = if shut.is_some() { WINDOW_LOW } else { LOOK_PAST_MAX };
            queue.refills(number, low, out);
        }
        true
    }

    /// A run has been chosen to be dispatched: counts whose share it was.
    fn choose(&mut self, session: SessionId, number: u32, as_oldest: bool) {
        if let Some(queue) = self.queues.get_mut(&number) {
            queue.admission.chosen(as_oldest);
        }
        if let Some(session) = self.sessions.get_mut(&session) {
            session.chosen(number, as_oldest);
        }
    }

    /// A run that was chosen for a worker is not dispatched after all. If it was the oldest one's
    /// share, that is still owed, by the queue and by the worker.
    pub(super) fn unchoose(&mut self, session: SessionId, item: &QueuedItem) {
        if !item.as_oldest {
            return;
        }
        if let Some(queue) = self.queues.get_mut(&item.queue) {
            queue.admission.owe_again();
        }
        if let Some(session) = self.sessions.get_mut(&session) {
            session.owes_again(item.queue);
        }
    }

    /// Leases runs that killed workers, each to a session that holds nothing else; if none is idle,
    /// one is emptied.
    fn settle_solitary(&mut self, number: u32, out: &mut Output) {
        let (mut waits_for, now) = (None, self.now());
        while let Some((at, taker)) = self.solitary_taker(number, now) {
            let Some(session) = self.sessions.get_mut(&taker) else {
                break;
            };
            if !session.leased.is_empty() || session.reserved > 0 {
                session.held_back = Some(number);
                waits_for = Some(taker);
                break;
            }
            let Some(item) =
                self.queues.get_mut(&number).and_then(|queue| queue.solitary.remove(at))
            else {
                break;
            };
            session.held_back = None;
            session.solitary = Some(item.run);
            self.choose(taker, number, false);
            self.lease_item(taker, item, out);
        }
        self.stop_holding_back(number, waits_for);
    }

    /// The first run to be leased alone that somebody can take, and who.
    fn solitary_taker(&self, number: u32, now: Time) -> Option<(usize, SessionId)> {
        let queue = self.queues.get(&number)?;
        if queue.solitary.is_empty() || queue.admission.shut(now).is_some() {
            return None;
        }
        queue.solitary.iter().take(LOOK_MAX).enumerate().find_map(|(at, item)| {
            let able = self.sessions.values().filter(|session| session.can_run_alone(item));
            let taker = able.min_by_key(|s| (s.leased.len(), s.held_back != Some(number), s.id))?;
            Some((at, taker.id))
        })
    }

    /// Sessions that were emptied for this queue, and are not needed empty any more, get runs
    /// again.
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
        free.into_iter().for_each(|session| self.line_up_everywhere(session));
    }

    /// Takes a queued run's row away.
    pub(super) fn dequeue_row(item: &QueuedItem, out: &mut Output) {
        if item.stored && !canary!("a leased run keeps its queued row") {
            out.delete(&item.key());
        }
    }

    /// Puts an item back in memory where it was (its row was not touched).
    pub(super) fn put_back(&mut self, mut item: QueuedItem) {
        item.as_oldest = false;
        if let Some(queue) = self.queues.get_mut(&item.queue) {
            self.unsettled.insert(item.queue);
            queue.insert(item);
        }
    }

    /// Takes a run that ended in line out of it. One that is not in memory leaves its row there
    /// until its turn comes.
    pub(super) fn leave_line(&mut self, run: &Run, out: &mut Output) {
        let number = self.queue_numbers.get(&run.queue).copied();
        let queue = number.and_then(|number| self.queues.get_mut(&number));
        if let Some(item) = queue.and_then(|queue| queue.remove(run.no, run.priority)) {
            self.unsettled.insert(item.queue);
            Self::dequeue_row(&item, out);
        }
    }

    /// Counts a run that became queued.
    pub(super) fn becomes_queued(&mut self, queue: u32, from: RunState) {
        self.shift(queue, from, RunState::Queued);
    }
}

/// Since when a run has its place. Rows that were written before that was recorded do not tell:
/// they count from now.
fn known_since(since: Time, now: Time) -> Time {
    if since == Time(0) { now } else { since }
}
