//! The numbered invariants, checked against what is in the store. For tests, checkers and fuzzing.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use stepwell_storage::{MemStore, Row, Space, block_on};

use crate::model::entry::NOT_ATTEMPTED;
use super::run::{Run, RunFold};
use super::unique::KeyId;
use crate::model::batch::BatchCounts;
use crate::model::chain::CHAIN_BYTES;
use crate::model::dead::{AuditAction, Superseded};
use crate::model::entry::{Entry, StepCompleted};
use crate::model::id::{CommandIndex, MemoKey, RequestId, RunId, RunNo};
use crate::model::queue::QueueSummary;
use crate::model::run::{Outcome, RunState};
use crate::model::time::Time;
use crate::store_reader;
use crate::tables::batch::BatchRecord;
use crate::tables::expiry::{Expires, ExpiryKey};
use crate::tables::memo::MemoRecord;
use crate::tables::unique::UniqueRecord;
use crate::tables::{
    DeadRecord, IndexKey, LeaseRecord, Mark, PoolRecord, QueueRecord, QueuedRecord, StoppedRecord,
    TableRow, Tally, TimerRecord,
};

/// A run as the store has it.
#[derive(Debug, Clone)]
pub(super) struct RunFacts {
    pub(super) run: Run,
    pub(super) entries: Vec<Entry>,
    pub(super) state: RunState,
}

/// All that is in a store.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) runs: BTreeMap<RunNo, RunFacts>,
    pub(super) ids: BTreeMap<RunId, RunNo>,
    pub(super) queued: Vec<((u32, u8, u64), QueuedRecord)>,
    pub(super) leases: BTreeMap<u32, LeaseRecord>,
    pub(super) timers: BTreeMap<(Time, RunNo), TimerRecord>,
    pub(super) stopped: BTreeMap<RunNo, StoppedRecord>,
    dead: BTreeMap<(Time, RunNo), DeadRecord>,
    queues: BTreeMap<u32, QueueRecord>,
    pools: BTreeMap<u32, PoolRecord>,
    /// How often each request of an operator is recorded in the audit log.
    acts: BTreeMap<RequestId, u32>,
    unique: BTreeMap<KeyId, UniqueRecord>,
    /// The first results of memoized steps, and until when rows of them expire.
    memos: BTreeMap<KeyId, MemoRecord>,
    memo_until: BTreeMap<KeyId, Vec<Time>>,
    batches: Vec<BatchRecord>,
    tally: Option<Tally>,
    mark: Option<Mark>,
}

/// What says in which generation each journal is.
#[derive(Debug, Default)]
struct Homes {
    index: Vec<(IndexKey, RunNo)>,
    generations: BTreeMap<RunNo, u32>,
    moved: BTreeMap<RunNo, u32>,
}

impl Facts {
    pub(super) fn of(store: &MemStore) -> Self {
        let mut facts = Self::default();
        let mut homes = Homes::default();
        for space in [Space::LongLived, Space::ShortLived] {
            let each = |row: &Row| {
                let row = TableRow::read(space, &row.key, &row.value);
                let row = row.unwrap_or_else(|e| panic!("a row the core wrote: {e}"));
                facts.take(row, &mut homes);
                Ok(())
            };
            block_on(store_reader::all_rows(store, space, Bytes::new(), Bytes::new(), each))
                .expect("the store can be read");
        }
        facts.read_runs(store, homes);
        facts
    }

    /// Takes a row. One without an invariant is named here too.
    fn take(&mut self, row: TableRow, homes: &mut Homes) {
        match row {
            TableRow::Queued(key, record) => {
                self.queued.push(((key.queue, key.priority, key.sequence), record));
            }
            TableRow::Lease(key, record) => {
                self.leases.insert(key.slot, record);
            }
            TableRow::Timer(key, record) => {
                self.timers.insert((key.due, key.run), record);
            }
            TableRow::Stopped(key, record) => {
                self.stopped.insert(key.run, record);
            }
            TableRow::Dead(key, record) => {
                self.dead.insert((key.died_at, key.run), record);
            }
            TableRow::Queue(key, record) => {
                self.queues.insert(key.queue, record);
            }
            TableRow::Pool(key, record) => {
                self.pools.insert(key.queue, record);
            }
            TableRow::Audit(_, act) => {
                if act.kind != AuditAction::Resume {
                    *self.acts.entry(act.request_id).or_default() += 1;
                }
            }
            TableRow::Unique(key, record) => {
                self.unique.insert((key.namespace, key.hash), record);
            }
            TableRow::Memo(key, record) => {
                self.memos.insert((key.namespace, key.hash), record);
            }
            TableRow::Expiry(ExpiryKey::Due(row), _) => {
                if row.what == Expires::Memo {
                    let key_id = (row.namespace, row.hash);
                    self.memo_until.entry(key_id).or_default().push(row.at);
                }
            }
            TableRow::Batch(_, record) | TableRow::EndedBatch(_, record) => {
                self.batches.push(record);
            }
            TableRow::Tally(_, record) => self.tally = Some(record),
            TableRow::Mark(_, record) => self.mark = Some(record),
            TableRow::Generation(key, record) => {
                homes.generations.insert(record.first, key.generation);
            }
            TableRow::Moved(key, record) => {
                homes.moved.insert(key.run, record.generation);
            }
            TableRow::Index(key, record) => homes.index.push((key, record.run)),
            // Not in these spaces: read run by run, as the engine reads it.
            TableRow::Journal(..) => {}
            // Checked by the simulation, against what was asked for.
            TableRow::Schedule(..) | TableRow::ScheduleState(..) | TableRow::AppliedRequest(..) => {
            }
            TableRow::Expiry(ExpiryKey::Mark, _) | TableRow::FollowUp(..) => {}
        }
    }

    fn read_runs(&mut self, store: &MemStore, homes: Homes) {
        for (key, no) in homes.index {
            let born = homes.generations.range(..=no).next_back().map(|(_, at)| *at);
            let generation = homes
                .moved
                .get(&no)
                .copied()
                .or(born)
                .unwrap_or_else(|| panic!("J1: {no} has no journal"));
            let facts = self.read_run(store, no, generation);
            let own = IndexKey { namespace: facts.run.namespace, id: facts.run.id };
            assert_eq!(key, own, "the index of {no} is its own");
            self.ids.insert(facts.run.id, no);
            self.runs.insert(no, facts);
        }
    }

    fn read_run(&self, store: &MemStore, no: RunNo, generation: u32) -> RunFacts {
        let stored =
            block_on(store_reader::entries(store, generation, no, (0, u32::MAX), usize::MAX))
                .unwrap_or_else(|e| panic!("J1: the journal of {no}: {}", e.chain()));
        let mut fold = RunFold::new(no, generation);
        let mut entries = Vec::new();
        for stored in &stored {
            fold.push(stored).unwrap_or_else(|e| panic!("J1, S1: the journal of {no}: {e}"));
            let body = &stored[..stored.len() - CHAIN_BYTES];
            entries.push(Entry::decode(body).expect("an entry that was folded"));
        }
        let run = fold.finish().unwrap_or_else(|| panic!("J1: {no} has no journal"));
        let state = self.state_of(&run);
        RunFacts { run, entries, state }
    }

    /// The state by what is stored, which must be in exactly one place (Q1).
    fn state_of(&self, run: &Run) -> RunState {
        let no = run.no;
        let queued = self.queued.iter().filter(|(_, record)| record.run == no).count();
        let leased = self.leases.values().filter(|record| record.run == no).count();
        let timers: Vec<_> = self.timers.iter().filter(|((_, run), _)| *run == no).collect();
        let stopped = self.stopped.get(&no);
        let places = (queued, leased, timers.len(), usize::from(stopped.is_some()));
        if let Some(ended) = run.ended_state() {
            let left = if ended == RunState::Cancelled { places.0.min(1) } else { 0 };
            assert_eq!(
                places,
                (left, 0, 0, 0),
                "Q1: {no} is {ended} and in (queued, leased, timer, stopped)"
            );
            return ended;
        }
        match places {
            (1, 0, 0, 0) => RunState::Queued,
            (0, 1, 0, 0) => RunState::Running,
            (0, 0, 1, 0) => {
                let ((due, _), record) = timers[0];
                let of_journal = match record.delayed {
                    true => run.not_before == Some(*due) && run.next == 1,
                    false if record.memo.is_some() => *due == Time::NEVER, // E6
                    false => run.commands.instants().contains(due),
                };
                assert!(of_journal, "T1: {no} sleeps until {due}, which its journal names");
                if record.delayed { RunState::Delayed } else { RunState::Suspended }
            }
            (0, 0, 0, 1) => stopped.map_or(RunState::Parked, |stopped| stopped.state),
            _ => panic!(
                "Q1: {no} is in (queued, leased, timer, stopped) {places:?} times; its journal: {run:?}"
            ),
        }
    }

    /// What must hold of any store, by itself.
    fn check(&self) {
        let mut counted = vec![0u64; RunState::ALL.len()];
        for facts in self.runs.values() {
            counted[usize::from(u8::from(facts.state)) - 1] += 1;
            facts.check();
            let dead = self.dead.keys().filter(|(_, no)| *no == facts.run.no);
            let dead: Vec<Time> = dead.map(|(at, _)| *at).collect();
            let death = facts.run.death.map(|death| death.at);
            let listed = death.filter(|_| facts.state == RunState::Dead);
            assert_eq!(
                dead,
                listed.into_iter().collect::<Vec<_>>(),
                "D1: {} is {}",
                facts.run.no,
                facts.state
            );
        }
        if let Some(tally) = &self.tally {
            assert_eq!(tally.runs, counted, "C1: the tally is the count");
            assert!(self.runs.keys().all(|no| no.0 < tally.next_run), "run numbers are given once");
            assert!(
                self.queued.iter().all(|((.., at), _)| *at < tally.next_sequence),
                "places are given once"
            );
        }
        self.check_pools();
        self.check_mark();
        self.check_keys();
        self.check_memo_rows();
        for batch in &self.batches {
            self.check_batch(batch);
        }
    }

    /// U1: a row names a run that holds the key, and a run that holds a key has its row.
    fn check_keys(&self) {
        let key_of = |run: &Run| run.unique.map(|held| (run.namespace, held.hash));
        for (key, record) in self.unique.iter().filter(|(_, row)| row.until == Time(0)) {
            let facts = self.runs.get(&record.run);
            let facts = facts.unwrap_or_else(|| panic!("U1: {} holds a key", record.run));
            assert_eq!(key_of(&facts.run).as_ref(), Some(key), "U1: its own key");
            assert!(facts.run.ended.is_none(), "U3: {} has ended", record.run);
            assert_eq!(facts.run.redriven, 0, "U3: {} had ended", record.run);
            let leased = facts.state == RunState::Running;
            let lets_go = facts.run.unique.is_some_and(|held| held.until_leased);
            assert!(!(leased && lets_go), "U3: {} is leased", record.run);
        }
        let goes_on = |facts: &&RunFacts| facts.run.ended.is_none() && facts.run.redriven == 0;
        for facts in self.runs.values().filter(goes_on) {
            let until_end = facts.run.unique.filter(|held| !held.until_leased);
            if let (Some(_), Some(key)) = (until_end, key_of(&facts.run)) {
                let row = self.unique.get(&key).map(|row| row.run);
                assert_eq!(row, Some(facts.run.no), "U1: {} holds its key", facts.run.no);
            }
        }
    }

    /// E1: a row names an attempt that succeeded, and will expire.
    fn check_memo_rows(&self) {
        for (key_id, row) in &self.memos {
            let until = self.memo_until.get(key_id);
            assert!(
                until.is_some_and(|until| until.contains(&row.until)),
                "E1: {key_id:?} expires: {row:?}"
            );
            if self.runs.contains_key(&row.run) {
                let result = self.result_of(row);
                let own = result.is_some_and(|result| result.attempt != NOT_ATTEMPTED);
                assert!(own, "E1: {row:?} is the result of an attempt");
            }
        }
    }

    fn result_of(&self, row: &MemoRecord) -> Option<&StepCompleted> {
        match self.runs.get(&row.run)?.entries.get(row.entry as usize)? {
            Entry::StepCompleted(completed) => Some(completed),
            _ => None,
        }
    }

    /// E2: what a run was told is the result of the row that counts, or did a moment ago.
    fn check_told(&self, before: &Self, run: &Run, told: &StepCompleted) {
        let key_id = (run.namespace, MemoKey::of(run.namespace, &told.location.name).0);
        let rows = [self.memos.get(&key_id), before.memos.get(&key_id)];
        let mut rows = rows.into_iter().flatten().peekable();
        assert!(rows.peek().is_some(), "E2: {} was told of a row", run.no);
        let same = |row: &MemoRecord| match self.result_of(row) {
            Some(result) => result.output == told.output,
            None => !self.runs.contains_key(&row.run),
        };
        assert!(rows.any(same), "E2: {} was told the first result", run.no);
    }

    /// B1, B3. Runs that have outlived their retention are counted still.
    fn check_batch(&self, batch: &BatchRecord) {
        let mine = || {
            let runs = self.runs.values();
            runs.filter(|facts| facts.run.batch == Some(batch.no))
        };
        let is = |state| mine().filter(|facts| facts.state == state).count() as u64;
        let found = BatchCounts {
            total: mine().count() as u64,
            completed: is(RunState::Completed),
            dead: is(RunState::Dead) + is(RunState::Discarded),
            cancelled: is(RunState::Cancelled),
        };
        let counts = batch.counts;
        let (open, left) = (found.total - found.ended(), counts.total - counts.ended());
        assert_eq!(open, left, "B1: runs of `{}` that go on", batch.name);
        if found.total == counts.total {
            assert_eq!(found, counts, "B1: the counts of `{}`", batch.name);
        }
        let over = batch.sealed && left == 0;
        assert_eq!(over, batch.ended_at.is_some(), "B3: `{}`", batch.name);
        if let Some(follow_up) = batch.follow_up.filter(|_| found.total > 0) {
            assert!(self.ids.contains_key(&follow_up), "B3: `{}`", batch.name);
        }
    }

    /// C1: what a queue counts is the states of its runs.
    fn check_pools(&self) {
        for (number, queue) in &self.queues {
            let count = |state| self.runs_in(&queue.name, state);
            let pool = self.pools.get(number);
            let pool = pool.unwrap_or_else(|| panic!("C1: queue {} is counted", queue.name));
            assert_eq!(
                (pool.queued, pool.delayed, pool.suspended),
                (count(RunState::Queued), count(RunState::Delayed), count(RunState::Suspended)),
                "C1: queue {} counts (queued, delayed, suspended)",
                queue.name
            );
        }
    }

    fn runs_in(&self, queue: &str, state: RunState) -> u64 {
        let of = |facts: &&RunFacts| facts.run.queue == queue && facts.state == state;
        self.runs.values().filter(of).count() as u64
    }

    /// What is told of queues is what is there.
    pub(super) fn check_gauges(&self, told: &[QueueSummary]) {
        for told in told {
            let (number, queue) = self
                .queues
                .iter()
                .find(|(_, queue)| queue.name == told.name)
                .unwrap_or_else(|| panic!("queue {} is stored", told.name));
            let count = |state| self.runs_in(&queue.name, state);
            assert_eq!(told.settings, queue.settings, "of queue {}", told.name);
            assert_eq!(
                (told.queued, told.running, told.delayed, told.suspended),
                (
                    count(RunState::Queued),
                    count(RunState::Running),
                    count(RunState::Delayed),
                    count(RunState::Suspended)
                ),
                "C1: queue {} is told to hold (queued, running, delayed, suspended)",
                told.name
            );
            let waiting = self.queued.iter().filter(|((of, ..), _)| of == number);
            let oldest = waiting.map(|(_, record)| record.since).min();
            assert_eq!(
                told.oldest_since,
                oldest.filter(|_| told.queued > 0),
                "of queue {}",
                told.name
            );
        }
    }

    fn check_mark(&self) {
        let Some(mark) = &self.mark else { return };
        for ((queue, priority, sequence), record) in &self.queued {
            let head = mark
                .heads
                .iter()
                .find(|(q, p, _)| (q, p) == (queue, priority))
                .map_or(mark.rest, |h| h.2);
            assert!(
                head <= *sequence,
                "Q1: {} waits at {sequence}, before the mark's {head}",
                record.run
            );
        }
        for (due, no) in self.timers.keys() {
            assert!(
                mark.timers <= *due,
                "Q1: {no} sleeps until {due}, before the mark's {}",
                mark.timers
            );
        }
        for facts in self.runs.values() {
            let last = facts.run.changed_at;
            assert!(
                last <= mark.time,
                "R4: {} changed at {last}, behind the mark {}",
                facts.run.no,
                mark.time
            );
        }
    }
}

impl RunFacts {
    /// Whether this was its outcome before it was redriven.
    fn died_as(&self, outcome: &Outcome) -> bool {
        self.entries.iter().any(|entry| match (entry, outcome) {
            (Entry::Died(died), Outcome::OutcomeDead(told)) => died.failure == told.failure,
            _ => false,
        })
    }

    /// Whether a failure of this step counts no more.
    fn has_superseded(&self, number: CommandIndex) -> bool {
        let superseded = Superseded::of((0..).zip(&self.entries));
        (0..).zip(&self.entries).any(|(index, entry)| {
            let failed = matches!(entry, Entry::StepFailed(e) if e.number == number);
            failed && superseded.covers(index, entry)
        })
    }

    /// D5, and each operator's entry of a journal is recorded once, while audit entries are kept.
    fn check_audit(&self, acts: &BTreeMap<RequestId, u32>, now: Time, retention: Duration) {
        let mut seen = BTreeMap::new();
        for entry in &self.entries {
            let Some(request_id) = entry.act() else { continue };
            let twice = seen.insert(request_id, ()).is_some();
            assert!(!twice, "D5: {request_id} acted twice on {}", self.run.no);
            if entry.at().after(retention) > now {
                let recorded = acts.get(&request_id).copied().unwrap_or(0);
                assert!(recorded >= 1, "{request_id} on {} is an act", self.run.no);
            }
        }
    }

    fn check(&self) {
        let no = self.run.no;
        let mut due: BTreeMap<CommandIndex, Time> = BTreeMap::new();
        let mut before = Time(0);
        for entry in &self.entries {
            assert!(entry.at() >= before, "R4: the journal of {no} goes back in time at {entry:?}");
            before = entry.at();
            match entry {
                Entry::TimerArmed(armed) => {
                    due.insert(armed.number, armed.due);
                }
                Entry::TimerFired(fired) => {
                    let due = due
                        .get(&fired.number)
                        .unwrap_or_else(|| panic!("T1: {no} fires what was never armed"));
                    assert!(fired.at >= *due, "T1: {no} fires at {}, due at {due}", fired.at);
                }
                _ => {}
            }
        }
    }
}

/// What was seen so far, to which the store must stay true.
#[derive(Debug, Default)]
pub(super) struct Invariants {
    last: Facts,
    /// Starts whose answer has left.
    pub(super) started: BTreeMap<RunId, ()>,
    /// Outcomes that were told.
    pub(super) told: BTreeMap<RunId, Outcome>,
    /// Steps whose outcome was acknowledged.
    pub(super) acknowledged: BTreeMap<(RunNo, CommandIndex), ()>,
}

impl Invariants {
    /// Checks the store as it is now. `crashed`: what was not durable may have gone since the last
    /// time.
    pub(super) fn check(
        &mut self,
        store: &MemStore,
        now: Time,
        retention: (Duration, Duration),
        crashed: bool,
    ) -> &Facts {
        let facts = Facts::of(store);
        facts.check();
        self.forget_dropped(&facts, now, retention, crashed);
        if !crashed {
            self.check_change(&facts, now);
            self.check_batches(&facts, now, retention.0);
        }
        let self_audit = facts.acts.clone();
        for id in self.started.keys() {
            assert!(facts.ids.contains_key(id), "R1: {id} was started");
        }
        for (id, outcome) in &self.told {
            let ended = facts.ids.get(id).and_then(|no| facts.runs[no].run.ended.as_ref());
            let was = facts.ids.get(id).is_some_and(|no| facts.runs[no].died_as(outcome));
            assert!(
                ended == Some(outcome) || was,
                "R1: {id} ended and that was told: {outcome:?}, not {ended:?}"
            );
        }
        for facts in facts.runs.values() {
            facts.check_audit(&self_audit, now, retention.1);
        }
        for (no, number) in self.acknowledged.keys() {
            let resolved = facts.runs.get(no).is_some_and(|facts| {
                facts.run.commands.is_resolved(*number) || facts.has_superseded(*number)
            });
            assert!(resolved, "R1: step {number} of {no} was acknowledged");
        }
        self.last = facts;
        &self.last
    }

    /// Nothing is promised of runs that were dropped after their retention: of all, and of dead
    /// letters.
    fn forget_dropped(
        &mut self,
        facts: &Facts,
        now: Time,
        retention: (Duration, Duration),
        crashed: bool,
    ) {
        for (no, before) in self.last.runs.iter().filter(|(no, _)| !facts.runs.contains_key(no)) {
            let retention = match before.state {
                RunState::Dead => retention.1,
                _ => retention.0,
            };
            let in_time = before.state.is_final() && before.run.changed_at.after(retention) <= now;
            assert!(
                in_time || crashed,
                "{no} was dropped at {now}, {} since {}",
                before.state,
                before.run.changed_at
            );
            if in_time {
                self.started.remove(&before.run.id);
                self.told.remove(&before.run.id);
                self.acknowledged.retain(|(of, _), ()| of != no);
            }
        }
    }

    /// A batch that has ended is kept for the retention; one that is sealed gets no more runs (B2).
    fn check_batches(&self, facts: &Facts, now: Time, retention: Duration) {
        for before in &self.last.batches {
            let after = facts.batches.iter().find(|after| after.no == before.no);
            let name = &before.name;
            match (after, before.ended_at) {
                (Some(after), _) => assert!(
                    !before.sealed || after.counts.total == before.counts.total,
                    "B2: `{name}` was sealed"
                ),
                (None, Some(at)) => assert!(
                    at.after(retention) <= now,
                    "`{name}` was forgotten at {now}, it ended at {at}"
                ),
                (None, None) => panic!("B3: `{name}` is gone and had not ended"),
            }
        }
    }

    fn check_change(&self, facts: &Facts, now: Time) {
        for (key_id, before) in self.last.memos.iter().filter(|(_, row)| row.until > now) {
            let after = facts.memos.get(key_id);
            assert_eq!(after, Some(before), "E1: {key_id:?} has one result");
        }
        for (no, before) in &self.last.runs {
            let Some(after) = facts.runs.get(no) else {
                continue;
            };
            assert!(
                after.entries.starts_with(&before.entries),
                "J1: the journal of {no} only grows"
            );
            for entry in &after.entries[before.entries.len()..] {
                match entry {
                    Entry::StepCompleted(told) if told.attempt == NOT_ATTEMPTED => {
                        facts.check_told(&self.last, &after.run, told);
                    }
                    _ => {}
                }
            }
            let slept = self.last.timers.keys().find(|(_, run)| run == no);
            if let Some((due, _)) = slept.filter(|key| !facts.timers.contains_key(key)) {
                let cancelled = after.run.cancel_requested && !before.run.cancel_requested;
                assert!(
                    cancelled || *due <= now || *due == Time::NEVER,
                    "T1: {no} slept until {due} and was woken at {now}"
                );
            }
        }
    }

    pub(super) fn facts(&self) -> &Facts {
        &self.last
    }
}
