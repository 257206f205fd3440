//! What a queue's settings let through: pause, concurrency limit, rate limit, and the share for the
//! oldest.
//!
//! A dispatch is admitted in the transition whose batch holds its lease, and that batch holds what
//! is left of the bucket. A run that must be read before it is leased has its place kept meanwhile
//! ([`Admission::reserve`]); when it has been read, it is looked at once more, since an operator
//! may have changed something.
//!
//! - **L1** A new lease leaves at most as many runs of its queue leased as the concurrency limit
//!   says. Going on with a worker that came back is no new lease; a run that waits is not leased.
//!   One that is damaged, and that nobody goes on with, stays leased and is not counted.
//! - **L2** In any span of engine time there are at most `burst` new leases and the rate's share of
//!   the span, since the limit was set.
//! - **L3** While a queue is paused there is no new lease in it.
//! - **L4** Of as many new leases of a queue in a row as `oldest_every` says, at least one went to
//!   the run that had its place first, of those its worker can take; and so with those of one
//!   worker. Otherwise the smallest priority goes first.

use super::Core;
use super::asked::Asked;
use super::output::{Note, Output};
use super::start::check_range;
use crate::canary::canary;
use crate::model::name::{check_name, check_name_length};
use crate::model::limits::{NAME_BYTES_MAX, QUEUE_BURST_MAX, QUEUES_MAX};
use crate::model::queue::{QueueChange, QueueSettings, RateLimit};
use crate::model::request::{BadRate, Caller, NoSuchQueue, Refusal};
use crate::model::run::RunState;
use crate::model::time::{Time, as_ms};
use crate::tables::{PoolKey, PoolRecord, QueueKey, QueueRecord};
use crate::wire::message::{DoneReply, SetQueue};

/// Counts of an older store's queues that are written with one batch.
const UNWRITTEN_MAX: usize = 64;

/// Why a queue dispatches nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shut {
    /// By an operator.
    Paused,
    /// As many runs are leased as may be.
    AtLimit,
    /// The bucket is empty; it is not before this instant.
    Empty { until: Time },
}

/// What is left of a rate limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bucket {
    /// What it held at `at`, in units of which a dispatch takes `per_ms` and a millisecond brings
    /// `count`.
    level: u64,
    at: Time,
}

impl Bucket {
    fn level(&self, rate: &RateLimit, now: Time) -> u64 {
        let passed_ms = as_ms(now.since(self.at));
        let brought = passed_ms.saturating_mul(u64::from(rate.count));
        self.level.saturating_add(brought).min(rate.full())
    }

    fn take(&mut self, rate: &RateLimit, now: Time) {
        let level = self.level(rate, now);
        // L2: nothing is dispatched from an empty bucket.
        assert!(level >= rate.per_ms || cfg!(canary), "L2: the bucket holds a dispatch");
        *self = Self { level: level.saturating_sub(rate.per_ms), at: now };
    }

    /// When it holds `count` dispatches.
    fn holds_at(&self, rate: &RateLimit, count: u64, now: Time) -> Time {
        let wanted = count.saturating_mul(rate.per_ms).min(rate.full());
        let missing = wanted.saturating_sub(self.level(rate, now));
        let ms = missing.div_ceil(u64::from(rate.count)).max(1);
        now.after(std::time::Duration::from_millis(ms))
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Admission {
    settings: QueueSettings,
    running: u64,
    /// Those of them that take no place, because they are damaged and nobody goes on with them.
    stranded: u64,
    /// Places kept for runs that are being read to be leased.
    reserved: u64,
    bucket: Bucket,
    /// Dispatches since one went to the oldest.
    passed_over: u32,
    pub(super) queued: u64,
    pub(super) delayed: u64,
    pub(super) suspended: u64,
    /// What is stored of it.
    written: Option<PoolRecord>,
}

impl Admission {
    /// Of a queue that begins to exist.
    pub(super) fn new() -> Self {
        Self {
            settings: QueueSettings::default(),
            running: 0,
            stranded: 0,
            reserved: 0,
            bucket: Bucket { level: 0, at: Time(0) },
            passed_over: 0,
            queued: 0,
            delayed: 0,
            suspended: 0,
            written: None,
        }
    }

    /// Of a queue as it is stored. In which life this is decides when the oldest gets its first
    /// share: an engine that is killed again and again must not begin to count anew each time.
    pub(super) fn stored(
        settings: QueueSettings,
        pool: Option<PoolRecord>,
        now: Time,
        epoch: u64,
    ) -> Self {
        let every = u64::from(settings.oldest_every().max(1));
        let mut admission = Self {
            settings,
            passed_over: u32::try_from(epoch % every).unwrap_or(0),
            ..Self::new()
        };
        if let Some(pool) = pool {
            (admission.queued, admission.delayed, admission.suspended) =
                (pool.queued, pool.delayed, pool.suspended);
            admission.bucket = Bucket { level: pool.level, at: pool.at };
        }
        if let Some(rate) =
            settings.rate.filter(|_| canary!("the bucket is full again after a restart"))
        {
            admission.bucket = Bucket { level: rate.full(), at: now };
        }
        admission
    }

    pub(super) fn settings(&self) -> QueueSettings {
        self.settings
    }

    pub(super) fn running(&self) -> u64 {
        self.running
    }

    #[cfg(any(test, feature = "inspect"))]
    pub(super) fn counts(&self) -> (u64, u64, u64) {
        (self.running, self.stranded, self.reserved)
    }

    /// What is stored of it is no longer true, or never was there.
    fn outdated(&mut self) -> Option<PoolRecord> {
        let record = self.record();
        (self.written.as_ref() != Some(&record)).then(|| {
            self.written = Some(record.clone());
            record
        })
    }

    fn record(&self) -> PoolRecord {
        PoolRecord {
            queued: self.queued,
            delayed: self.delayed,
            suspended: self.suspended,
            level: self.bucket.level,
            at: self.bucket.at,
        }
    }

    /// Why nothing may be dispatched now, beyond what places are kept for. Without settings it is
    /// three looks.
    pub(super) fn shut(&self, now: Time) -> Option<Shut> {
        if self.settings.paused && !canary!("a paused queue dispatches") {
            return Some(Shut::Paused);
        }
        if let Some(limit) = self.settings.concurrency {
            let late = canary!("the limit is looked at after the lease");
            let taken = self.running - self.stranded + if late { 0 } else { self.reserved };
            if taken >= u64::from(limit) + u64::from(late) {
                return Some(Shut::AtLimit);
            }
        }
        let rate = self.settings.rate?;
        let wanted = self.reserved + 1;
        (self.bucket.level(&rate, now) < wanted.saturating_mul(rate.per_ms))
            .then(|| Shut::Empty { until: self.bucket.holds_at(&rate, wanted, now) })
    }

    /// Keeps a place for a run that is being read.
    pub(super) fn reserve(&mut self) {
        self.reserved += 1;
    }

    /// The run has been read, or cannot be.
    pub(super) fn release(&mut self) {
        self.reserved = self.reserved.saturating_sub(1);
    }

    /// A new lease begins.
    fn admit(&mut self, now: Time) {
        self.running += 1;
        if let Some(rate) = self.settings.rate {
            self.bucket.take(&rate, now);
        }
    }

    /// Whether the next dispatch is the oldest one's.
    pub(super) fn owes_oldest(&self) -> bool {
        let every = self.settings.oldest_every();
        every > 0
            && self.passed_over.saturating_add(1) >= every
            && !canary!("the oldest never gets its share")
    }

    /// Whether a worker that took so many in a row owes one to the oldest.
    pub(super) fn owes_oldest_of(&self, passed_over: u32) -> bool {
        let every = self.settings.oldest_every();
        every > 0
            && passed_over.saturating_add(1) >= every
            && !canary!("the oldest never gets its share of a worker")
    }

    /// A run has been chosen.
    pub(super) fn chosen(&mut self, as_oldest: bool) {
        self.passed_over = if as_oldest { 0 } else { self.passed_over.saturating_add(1) };
    }

    /// A run that was chosen as the oldest is not dispatched: the share is still owed.
    pub(super) fn owe_again(&mut self) {
        self.passed_over = self.passed_over.max(self.settings.oldest_every());
    }

    fn set(&mut self, settings: QueueSettings, now: Time) {
        match (self.settings.rate, settings.rate) {
            (before, Some(rate)) if before != Some(rate) => {
                // What is left stays, in dispatches; a limit that is new begins with a full bucket.
                let left = before.map_or(rate.full(), |before| {
                    let left = self.bucket.level(&before, now) / before.per_ms;
                    left.saturating_mul(rate.per_ms).min(rate.full())
                });
                self.bucket = Bucket { level: left, at: now };
            }
            _ => {}
        }
        self.settings = settings;
    }
}

impl Core {
    /// Sets something on a queue, at once for what is decided from now on.
    pub(super) fn set_queue(&mut self, ask: Asked<SetQueue>, out: &mut Output) {
        let SetQueue { queue, change } = ask.request;
        let done = match self.was_applied(&ask.caller) {
            true => Ok(()),
            false if canary!("a request is acknowledged and has no effect") => Ok(()),
            false => self.change_queue(&queue, change, &ask.caller, out),
        };
        match done {
            Ok(()) => {
                self.remember_applied(&ask.caller, out);
                out.reply(ask.to, DoneReply {});
            }
            Err(reason) => out.refuse(ask.to, reason),
        }
    }

    fn change_queue(
        &mut self,
        name: &str,
        change: QueueChange,
        caller: &Caller,
        out: &mut Output,
    ) -> Result<(), Refusal> {
        check_name("queue", name, NAME_BYTES_MAX)?;
        check_name_length("principal", &caller.principal)?;
        self.check_change(name, &change)?;
        let (number, now) = (self.queue_number(name, out), self.now());
        let Some(queue) = self.queues.get_mut(&number) else {
            return Ok(());
        };
        let before = queue.admission.settings();
        let settings = changed(before, &change);
        if settings == before {
            return Ok(()); // the same again, asked for twice
        }
        queue.admission.set(settings, now);
        let record = QueueRecord { name: name.to_owned(), settings };
        out.put(&QueueKey { queue: number }, &record);
        out.note(Note::QueueSet {
            queue: name.to_owned(),
            what: change.to_string(),
            by: caller.principal.clone(),
        });
        self.pools_dirty.insert(number);
        self.unsettled.insert(number);
        Ok(())
    }

    fn check_change(&self, name: &str, change: &QueueChange) -> Result<(), Refusal> {
        if !self.queue_numbers.contains_key(name) {
            if !change.create {
                return Err(NoSuchQueue { queue: name.to_owned() }.into());
            }
            let count = self.queues.len() as u64 + 1;
            check_range("the number of queues", count, QUEUES_MAX as u64)?;
        }
        let most = u64::from(QUEUE_BURST_MAX);
        let concurrency = u64::from(change.concurrency.unwrap_or(0));
        check_range("the concurrency limit", concurrency, most)?;
        let every = u64::from(change.oldest_every.unwrap_or(0));
        check_range("the share for the oldest, one in", every, most)?;
        match change.rate.filter(|rate| rate.count > 0 && !rate.is_in_range()) {
            Some(rate) => Err(BadRate { rate: rate.to_string() }.into()),
            None => Ok(()),
        }
    }

    /// Counts a run of a queue that leaves one state for another; `None` stands for all that is not
    /// counted by queue.
    fn count_pool(&mut self, number: u32, state: RunState, change: i64) {
        let Some(queue) = self.queues.get_mut(&number) else {
            return;
        };
        let pool = &mut queue.admission;
        let count = match state {
            RunState::Queued => &mut pool.queued,
            RunState::Delayed => &mut pool.delayed,
            RunState::Suspended => &mut pool.suspended,
            RunState::Running | RunState::Parked | RunState::Paused | RunState::Completed | RunState::Dead | RunState::Cancelled | RunState::Discarded => return,
        };
        *count = count
            .checked_add_signed(change)
            .unwrap_or_else(|| panic!("C1: more runs of a queue left {state} than entered"));
        self.pools_dirty.insert(number);
    }

    /// A run enters the life of a queue in this state.
    pub(super) fn enters(&mut self, queue: u32, state: RunState) {
        self.count(state, 1);
        self.count_pool(queue, state, 1);
    }

    /// A run of a queue goes from one state to another.
    pub(super) fn shift(&mut self, queue: u32, from: RunState, to: RunState) {
        self.count(from, -1);
        self.count(to, 1);
        self.count_pool(queue, from, -1);
        self.count_pool(queue, to, 1);
    }

    /// A new lease: it takes its place in the limits of its queue.
    pub(super) fn admit(&mut self, number: u32) {
        let now = self.now();
        if let Some(queue) = self.queues.get_mut(&number) {
            queue.admission.admit(now);
            if queue.admission.settings.rate.is_some() {
                self.pools_dirty.insert(number);
            }
        }
    }

    /// A lease that was there when the engine opened.
    pub(super) fn admit_restored(&mut self, number: u32) {
        if let Some(queue) = self.queues.get_mut(&number)
            && !canary!("restored leases have no place in the limit")
        {
            queue.admission.running += 1;
        }
    }

    /// A run is no longer leased: its place is free.
    pub(super) fn dismiss(&mut self, number: u32, held: bool) {
        if !held && canary!("a dead worker's place in the limit is lost") {
            return;
        }
        if let Some(queue) = self.queues.get_mut(&number) {
            queue.admission.running = queue.admission.running.saturating_sub(1);
            self.unsettled.insert(number);
        }
    }

    /// One more or one less of the leased runs of a queue takes no place.
    pub(super) fn strand(&mut self, number: u32, change: i64) {
        if let Some(queue) = self.queues.get_mut(&number) {
            let stranded = &mut queue.admission.stranded;
            *stranded = stranded.saturating_add_signed(change);
            self.unsettled.insert(number);
        }
    }

    /// Whether a run that has been read may be leased still; its place is no longer kept.
    pub(super) fn claim(&mut self, number: u32) -> bool {
        let now = self.now();
        let Some(queue) = self.queues.get_mut(&number) else {
            return true;
        };
        queue.admission.release();
        queue.admission.shut(now).is_none()
    }

    /// Queues whose buckets hold something again are looked at.
    pub(super) fn open_pools(&mut self) {
        let now = self.now();
        while let Some((_, number)) = self.opens_at.first().copied().filter(|(at, _)| *at <= now) {
            self.opens_at.pop_first();
            self.unsettled.insert(number);
        }
    }

    /// Writes what the queues count, once a batch.
    pub(super) fn seal_pools(&mut self, out: &mut Output) {
        let mut due = std::mem::take(&mut self.pools_dirty);
        // A few at a time, since there may be more of them than fit a batch.
        for _ in 0..UNWRITTEN_MAX {
            due.extend(self.pools_unwritten.pop_first());
        }
        for number in due {
            let queue = self.queues.get_mut(&number);
            if let Some(record) = queue.and_then(|queue| queue.admission.outdated()) {
                out.put(&PoolKey { queue: number }, &record);
            }
        }
    }
}

/// The settings with what is to change.
fn changed(before: QueueSettings, change: &QueueChange) -> QueueSettings {
    QueueSettings {
        paused: change.paused.unwrap_or(before.paused),
        concurrency: match change.concurrency {
            Some(limit) => Some(limit).filter(|limit| *limit > 0),
            None => before.concurrency,
        },
        rate: match change.rate {
            Some(rate) => Some(rate).filter(|rate| rate.count > 0),
            None => before.rate,
        },
        oldest_every: change.oldest_every.or(before.oldest_every),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: RateLimit = RateLimit { count: 3, per_ms: 100, burst: 4 };

    fn limited(rate: RateLimit) -> Admission {
        let mut admission = Admission::new();
        let settings = QueueSettings { rate: Some(rate), ..QueueSettings::default() };
        admission.set(settings, Time(1_000));
        admission
    }

    // L2, to the millisecond: whoever asks at every instant gets never more than burst + rate x
    // span.
    #[test]
    fn a_bucket_lets_its_burst_and_its_rate_through_and_no_more() {
        let mut admission = limited(RATE);
        let mut admitted: Vec<u64> = Vec::new();
        for now in 1_000..3_000 {
            while admission.shut(Time(now)).is_none() {
                admission.admit(Time(now));
                admitted.push(now);
            }
        }
        for (index, from) in admitted.iter().enumerate() {
            for (until, to) in admitted.iter().enumerate().skip(index) {
                let (count, span) = ((until - index + 1) as u64, to - from);
                assert!(count * 100 <= 4 * 100 + 3 * span, "{from} to {to}");
            }
        }
        assert_eq!(admitted.len() as u64, 4 + 1_999 * 3 / 100, "and all of that");
    }

    #[test]
    fn an_empty_bucket_says_when_it_holds_something() {
        let mut admission = limited(RATE);
        (0..4).for_each(|_| admission.admit(Time(1_000)));
        let Some(Shut::Empty { until }) = admission.shut(Time(1_000)) else {
            panic!("it is empty");
        };
        assert_eq!(until, Time(1_034));
        assert!(admission.shut(Time(1_033)).is_some());
        assert_eq!(admission.shut(Time(1_034)), None);
    }

    #[test]
    fn a_place_that_is_kept_counts() {
        let mut admission = Admission::new();
        let limit = QueueSettings { concurrency: Some(2), ..QueueSettings::default() };
        admission.set(limit, Time(0));
        admission.reserve();
        admission.admit(Time(0));
        assert_eq!(admission.shut(Time(0)), Some(Shut::AtLimit));
        admission.release();
        assert_eq!(admission.shut(Time(0)), None);
    }

    #[test]
    fn another_rate_does_not_fill_the_bucket() {
        let mut admission = limited(RATE);
        (0..3).for_each(|_| admission.admit(Time(1_000)));
        let slower = RateLimit { count: 1, per_ms: 60_000, burst: 10 };
        let settings = QueueSettings { rate: Some(slower), ..QueueSettings::default() };
        admission.set(settings, Time(1_000));
        admission.admit(Time(1_000));
        assert!(admission.shut(Time(1_000)).is_some());
    }

    // An engine that dies after each dispatch gives the oldest its share in one life of ten.
    #[test]
    fn a_crash_loop_gives_the_oldest_its_share() {
        let lives = (1..=30).filter(|epoch| {
            Admission::stored(QueueSettings::default(), None, Time(0), *epoch).owes_oldest()
        });
        assert_eq!(lives.count(), 3);
    }

    #[test]
    fn a_share_that_is_owed_stays_owed() {
        let mut admission = Admission::new();
        admission.owe_again();
        (0..3).for_each(|_| admission.chosen(false)); // what is leased alone is nobody's share
        assert!(admission.owes_oldest());
        admission.chosen(true);
        assert!(!admission.owes_oldest());
    }
}
