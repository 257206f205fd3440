//! Opening: from what is stored to a core that can go on. Reads what is in flight, not all runs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::admission::Admission;
use super::applied_request::AppliedRequests;
use super::audit_log::AuditLog;
use super::batch::Batches;
use super::clock::{ClockSample, EngineClock, MARK_AHEAD_MAX};
use super::expiry::Expiries;
use super::gauge::UnservedQueues;
use super::lease::{Lease, RecordSlots};
use super::load::Want;
use super::memo::Memos;
use super::queue::Queue;
use super::retention::Cleaner;
use super::schedule::ScheduleTable;
use super::session::Absent;
use super::timer::Timers;
use super::unique::Uniques;
use super::unregistered::UnregisteredWorkflows;
use super::{Core, Settings};
use crate::canary::canary;
use crate::model::id::RunNo;
use crate::model::queue::QueueSettings;
use crate::model::run::{RunState, Stats};
use crate::model::time::Time;
use crate::tables::applied_request::AppliedRequestRecord;
use crate::tables::batch::OpenBatchRow;
use crate::tables::{
    FORMAT, FORMAT_OLDEST, HEADS_MAX, LeaseRecord, Mark, PoolRecord, QueueKey, QueueRecord, Tally,
};

/// A queue as stored.
pub type QueueRow = (u32, QueueRecord);

/// What was read to open a core.
#[derive(Debug, Clone, Default)]
pub struct Opened {
    /// The store's identity.
    pub store: u64,
    /// The epoch of this opening.
    pub epoch: u64,
    /// The counters; none in a new store.
    pub tally: Option<Tally>,
    /// Engine time and cursors; none in a new store.
    pub mark: Option<Mark>,
    /// All queues.
    pub queues: Vec<QueueRow>,
    /// What the queues count. A queue that never held a run has none.
    pub pools: Vec<(u32, PoolRecord)>,
    /// The same of queues of which it is not written: it was counted now, and is to be written.
    pub uncounted: Vec<(u32, PoolRecord)>,
    /// All leases.
    pub leases: Vec<(u32, LeaseRecord)>,
    /// All schedules.
    pub schedules: Vec<super::ScheduleRow>,
    /// First run number of each generation.
    pub generations: Vec<(u32, RunNo)>,
    /// All batches that have not ended.
    pub batches: Vec<OpenBatchRow>,
    /// The last applied requests about queues and schedules, in any order.
    pub applied: Vec<AppliedRequestRecord>,
    /// When the first thing expires that does.
    pub first_expiry: Option<Time>,
    /// The generations the store has, also those that no record names.
    pub spaces: Vec<u32>,
}

/// Why a core does not open what was read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenRefused {
    /// Written by another version.
    #[error(
        "the engine's records have format {found}; this version opens formats {oldest} to {newest}: open the directory with the version that wrote it, or a later one"
    )]
    Format {
        /// The format of the store's records.
        found: u32,
        /// The oldest format that this version opens.
        oldest: u32,
        /// The newest, in which it writes.
        newest: u32,
    },
    /// The machine's clock is behind what was stored.
    #[error("the wall clock says {wall}, but engine time had reached {mark} already")]
    ClockBehind {
        /// The wall clock.
        wall: Time,
        /// Stored engine time.
        mark: Time,
    },
    /// Records contradict each other.
    #[error("the engine's records are damaged: {what}")]
    Damaged {
        /// What contradicts what.
        what: String,
    },
}

impl Core {
    /// A core that goes on where the records end.
    pub fn open(
        settings: Settings,
        sample: ClockSample,
        opened: Opened,
    ) -> Result<Self, OpenRefused> {
        let tally = opened.tally.unwrap_or(Tally {
            format: FORMAT,
            next_run: 1,
            next_sequence: 1,
            runs: vec![0; RunState::ALL.len()],
        });
        if !(FORMAT_OLDEST..=FORMAT).contains(&tally.format) {
            let (found, oldest, newest) = (tally.format, FORMAT_OLDEST, FORMAT);
            return Err(OpenRefused::Format { found, oldest, newest });
        }
        if tally.runs.is_empty() || tally.runs.len() > RunState::ALL.len() {
            return Err(OpenRefused::Damaged {
                what: format!("the tally counts {} states", tally.runs.len()),
            });
        }
        // States that came with later versions have no run yet.
        let mut tally = tally;
        tally.runs.resize(RunState::ALL.len(), 0);
        let is_older = std::mem::replace(&mut tally.format, FORMAT) != FORMAT;
        let is_new = opened.mark.is_none();
        let mark = opened.mark.unwrap_or(Mark {
            time: Time(0),
            heads: Vec::new(),
            timers: Time(0),
            rest: 0,
            audit: Time(0),
        });
        let wall = sample.wall;
        if mark.time > wall.after(MARK_AHEAD_MAX) && !settings.accept_clock {
            return Err(OpenRefused::ClockBehind { wall, mark: mark.time });
        }
        let clock = EngineClock::open(sample, mark.time, settings.accept_clock);
        let clock_now = clock.now();
        let schedules =
            ScheduleTable::open(opened.schedules).map_err(|what| OpenRefused::Damaged { what })?;
        let heads: BTreeMap<(u32, u8), u64> =
            mark.heads.iter().map(|(q, p, s)| ((*q, *p), *s)).collect();
        let mut core = Self {
            settings,
            store: opened.store,
            epoch: opened.epoch,
            clock,
            mono: sample.mono,
            watch_at: sample.mono,
            tally_dirty: is_older,
            mark_dirty: true,
            next_lease: 0,
            next_start: 0,
            sessions: BTreeMap::new(),
            session_of_instance: BTreeMap::new(),
            absent: BTreeMap::new(),
            queues: BTreeMap::new(),
            queue_numbers: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            pools_dirty: BTreeSet::new(),
            pools_unwritten: BTreeSet::new(),
            opens_at: BTreeSet::new(),
            asked_queues: Vec::new(),
            unserved: UnservedQueues::default(),
            leases: BTreeMap::new(),
            fresh: BTreeMap::new(),
            slots: RecordSlots::default(),
            timers: Timers::open(if canary!("timers are forgotten at a restart") {
                mark.time
            } else {
                mark.timers
            }),
            armed: BTreeSet::new(),
            lookups: BTreeMap::new(),
            mailboxes: BTreeMap::new(),
            starts: BTreeMap::new(),
            begun_meanwhile: BTreeMap::new(),
            atomic_starts: BTreeSet::new(),
            resolving: None,
            uniques: Uniques::opened_at(RunNo(tally.next_run)),
            memos: Memos::opened_at(RunNo(tally.next_run)),
            batches: Batches::restore(opened.batches),
            expiries: Expiries::opened(opened.first_expiry),
            waiters: BTreeMap::new(),
            generations: opened
                .generations
                .iter()
                .map(|(generation, first)| (*first, *generation))
                .collect(),
            cleaner: Cleaner::open(&opened.generations, opened.spaces),
            audit: AuditLog::open(if is_new { clock_now } else { mark.audit }),
            unregistered: UnregisteredWorkflows::default(),
            abilities_seen: BTreeSet::new(),
            returning: Vec::new(),
            continuing: VecDeque::new(),
            schedules,
            applied: match canary!("applied requests are forgotten at a restart") {
                true => AppliedRequests::default(),
                false => AppliedRequests::restore(opened.applied),
            },
            counts: Stats::default(),
            tally,
            mark,
        };
        core.pools_unwritten = opened.uncounted.iter().map(|(number, _)| *number).collect();
        let pools = opened.pools.into_iter().chain(opened.uncounted);
        let mut pools: BTreeMap<u32, PoolRecord> = pools.collect();
        for (number, QueueRecord { name, settings }) in opened.queues {
            core.queue_numbers.insert(name, number);
            let pool = pools.remove(&number);
            let admission = Admission::stored(settings, pool, core.now(), core.epoch);
            let head = |priority| {
                if canary!("queued runs are forgotten at a restart") {
                    return core.tally.next_sequence;
                }
                heads.get(&(number, priority)).copied().unwrap_or(core.mark.rest)
            };
            core.queues.insert(number, Queue::stored(admission, head));
        }
        core.restore_leases(opened.leases)?;
        Ok(core)
    }

    /// Leases stay reserved for their worker processes, which may be alive and on their way back.
    fn restore_leases(&mut self, leases: Vec<(u32, LeaseRecord)>) -> Result<(), OpenRefused> {
        let patience = if self.settings.workers_die_with_engine {
            Duration::ZERO
        } else {
            self.settings.session_timeout
        };
        if !leases.is_empty() {
            self.memos.call_from(self.mono + patience);
        }
        for (slot, record) in leases {
            let (run, process) = (record.run, record.process);
            self.slots.take(slot);
            self.admit_restored(record.queue);
            if let Some(twice) = self.leases.insert(run, Lease::restored(slot, record)) {
                let what =
                    format!("G1: run number {run} is leased in slots {} and {slot}", twice.slot);
                return Err(OpenRefused::Damaged { what });
            }
            if canary!("leases are forgotten at a restart") {
                continue;
            }
            let until = self.mono + patience;
            self.absent.entry(process).or_insert_with(|| Absent::until(until)).runs.insert(run);
        }
        Ok(())
    }

    /// Where the lanes begin, for the mark: those that wait longest, and where all others
    /// begin.
    pub(super) fn heads(&self) -> (Vec<(u32, u8, u64)>, u64) {
        let next = self.tally.next_sequence;
        let lanes = self
            .queues
            .iter()
            .flat_map(|(number, queue)| queue.heads(next).map(|(p, s)| ((*number, p), s)));
        let mut heads: BTreeMap<(u32, u8), u64> = lanes.filter(|(_, head)| *head < next).collect();
        // Runs that are being read to be leased have left the window, but their rows are there.
        for want in self.mailboxes.values().flat_map(|mailbox| &mailbox.wants) {
            if let Want::Lease { item, .. } | Want::Unregistered { item } = want
                && !canary!("the stored cursor passes a run that is being leased")
            {
                let head = heads.entry((item.queue, item.priority)).or_insert(next);
                *head = (*head).min(item.sequence);
            }
        }
        let mut heads: Vec<_> =
            heads.into_iter().map(|((queue, priority), head)| (queue, priority, head)).collect();
        heads.sort_unstable_by_key(|(queue, priority, head)| (*head, *queue, *priority));
        let rest = heads.get(HEADS_MAX).map_or(next, |(.., head)| *head);
        heads.truncate(HEADS_MAX);
        (heads, rest)
    }

    /// The stored name of a queue.
    pub(super) fn queue_number(&mut self, name: &str, out: &mut super::Output) -> u32 {
        if let Some(number) = self.queue_numbers.get(name) {
            return *number;
        }
        let number = self.queues.keys().next_back().map_or(1, |last| last + 1);
        let record = QueueRecord { name: name.to_owned(), settings: QueueSettings::default() };
        out.put(&QueueKey { queue: number }, &record);
        self.queue_numbers.insert(name.to_owned(), number);
        self.pools_dirty.insert(number);
        self.queues.insert(number, Queue::new(self.tally.next_sequence));
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(format: u32) -> Result<Core, OpenRefused> {
        let runs = vec![0; RunState::ALL.len()];
        let tally = Tally { format, next_run: 1, next_sequence: 1, runs };
        let mark = Mark {
            time: Time(1),
            heads: Vec::new(),
            timers: Time(0),
            rest: 0,
            audit: Time(0),
        };
        let opened = Opened { tally: Some(tally), mark: Some(mark), ..Opened::default() };
        let sample = ClockSample { mono: Duration::ZERO, wall: Time(1) };
        Core::open(Settings::default(), sample, opened)
    }

    // A directory of the format before goes on in this one, so that older versions refuse it from
    // then on instead of stumbling over a longer record; one of a later format is refused.
    #[test]
    fn older_records_go_on_in_this_format_and_later_ones_are_refused() {
        for format in FORMAT_OLDEST..=FORMAT {
            let core = opened(format).unwrap();
            assert_eq!((core.tally.format, core.tally_dirty), (FORMAT, format != FORMAT));
        }
        let (oldest, newest) = (FORMAT_OLDEST, FORMAT);
        let refused = opened(FORMAT + 1).unwrap_err();
        assert_eq!(refused, OpenRefused::Format { found: FORMAT + 1, oldest, newest });
        assert!(opened(0).is_err());
    }
}
