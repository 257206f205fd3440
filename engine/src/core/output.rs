//! What a transition brings about: writes, actions that wait for them, and reads.

use bytes::Bytes;
use stepwell_storage::{Receipt, Seq, WRITE_BATCH_BYTES_MAX, WRITE_BATCH_OPS_MAX, WriteBatch};

use crate::canary::canary;
use crate::core::run::Run;
use crate::model::chain;
use crate::model::entry::Entry;
use crate::model::id::{Namespace, ProcessInstance, RunId, RunNo, SessionId, Token};
use crate::model::request::Refusal;
use crate::model::time::Time;
use crate::tables::{FixedSpace, TableKey, TableValue, journal};
use crate::wire::message::{Answer, Answered, Message, RefusedReply, Reply};

/// A batch this full is closed before the next transition, so that what one transition writes is in
/// one batch.
const FULL_OPS: usize = WRITE_BATCH_OPS_MAX / 4;
const FULL_BYTES: usize = WRITE_BATCH_BYTES_MAX / 4;

/// The longest start that is kept in memory until its run is dispatched.
const FIRST_BYTES_MAX: usize = 1_024;

/// Something to be done outside, once the writes before it are durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a message to a session.
    Send {
        /// To whom.
        session: SessionId,
        /// What.
        message: Message,
    },
    /// Dispatch a run to a worker, with its journal.
    Dispatch {
        /// To whom.
        session: SessionId,
        /// The run.
        run: RunNo,
        /// Its id.
        id: RunId,
        /// The token.
        token: Token,
        /// Where its journal is.
        generation: u32,
        /// How many entries it has.
        count: u32,
        /// Entry 0 as stored, if it is the only one and at hand.
        first: Option<Bytes>,
    },
    /// Tell a worker that its lease goes on, with the entries it has not seen.
    ContinueLease {
        /// To whom.
        session: SessionId,
        /// The run.
        run: RunNo,
        /// The token so far.
        old: Token,
        /// The token from now on.
        token: Token,
        /// Where its journal is.
        generation: u32,
        /// The first entry to send.
        from: u32,
        /// How many entries it has.
        count: u32,
    },
    /// Close a session's connection.
    Close {
        /// Whose.
        session: SessionId,
        /// Why.
        reason: String,
    },
    /// Drop a generation whose survivors have been copied.
    DropGeneration {
        /// Which.
        generation: u32,
    },
    /// Tell the operator.
    Note(Note),
}

/// Where the answer to a call goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ReplyTo {
    /// The session that called.
    pub(crate) session: SessionId,
    /// The number of its call.
    pub(crate) call_number: u64,
}

/// Something an operator should know; the runtime logs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The wall clock jumped forward and engine time with it.
    ClockJumped {
        /// By how many milliseconds.
        by_ms: u64,
    },
    /// The wall clock jumped further than is believed.
    ClockNotBelieved {
        /// By how many milliseconds.
        by_ms: u64,
    },
    /// A worker or client is gone without a goodbye.
    SessionLost {
        /// The process instance that was lost.
        process: ProcessInstance,
        /// How many runs it held.
        runs: usize,
    },
    /// A run is parked: its code and its journal disagree.
    Parked {
        /// The run.
        id: RunId,
        /// The message, several lines.
        reason: String,
    },
    /// A run is paused at a limit.
    Paused {
        /// The run.
        id: RunId,
        /// Why.
        reason: String,
    },
    /// A run became a dead letter.
    Died {
        /// The run.
        id: RunId,
        /// Why.
        reason: String,
    },
    /// A journal has become long.
    LongJournal {
        /// The run.
        id: RunId,
        /// Entries it holds.
        entries: u32,
    },
    /// An operator has set something on a queue.
    QueueSet {
        /// The queue.
        queue: String,
        /// What.
        what: String,
        /// Who.
        by: String,
    },
    /// A queue is unserved: work is queued in it that no connected worker offers.
    UnservedQueue {
        /// Its queue.
        queue: String,
        /// What nobody offers.
        reason: String,
        /// For how long, in milliseconds.
        for_ms: u64,
    },
    /// The queue is served again, or its work is gone.
    UnservedQueueCleared {
        /// Its queue.
        queue: String,
        /// What nobody offered.
        reason: String,
    },
    /// Dead letters have outlived their retention, and nobody had decided about them.
    LettersForgotten {
        /// How many.
        count: u64,
    },
    /// A generation is kept beyond its time because something in it cannot be read.
    NotCleaned {
        /// Which.
        generation: u32,
        /// What is damaged.
        what: String,
    },
    /// A schedule was set, paused, resumed or removed.
    ScheduleSet {
        /// Its name.
        schedule: String,
        /// What was done.
        what: String,
        /// By whom.
        by: String,
    },
    /// Occurrences of a schedule were missed: the engine was away, or too many were waiting.
    OccurrencesMissed {
        /// Which schedule.
        schedule: String,
        /// How many, at least.
        missed: u64,
        /// The nominal time of the first.
        from: Option<Time>,
    },
    /// What is stored of a schedule's run cannot be read.
    ScheduleUnreadable {
        /// Which schedule.
        schedule: String,
        /// What is wrong.
        what: String,
    },
    /// What is stored of a run is damaged.
    Damaged {
        /// The run.
        run: RunNo,
        /// What is wrong.
        what: String,
    },
}

/// Actions that must not happen before their writes are durable. There is no other way to them than
/// a receipt.
#[derive(Debug, Default)]
pub struct Withheld(Vec<Action>);

impl Withheld {
    /// The actions, if `receipt` covers `seq`, the last write before them; otherwise they stay
    /// withheld.
    pub fn release(self, seq: Seq, receipt: &Receipt) -> Result<Vec<Action>, Self> {
        if receipt.covers(seq) { Ok(self.0) } else { Err(self) }
    }

    /// How many there are.
    #[cfg(feature = "inspect")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing to release.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The actions, for scenarios and checkers, which release nothing.
    #[cfg(any(test, feature = "inspect"))]
    pub fn peek(&self) -> &[Action] {
        &self.0
    }
}

/// Something the core must see before it can go on. Answered by an input; other runs go on
/// meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreRead {
    /// The number of a run.
    Index {
        /// Whose run.
        namespace: Namespace,
        /// Which.
        id: RunId,
    },
    /// All the core needs to know of a run.
    Run {
        /// Which.
        run: RunNo,
        /// The generation it was born in, where its journal is unless it was moved.
        generation: u32,
        /// Whether it may have been moved.
        moved: bool,
        /// Whether its journal probably holds one entry: a guess, which only makes the reading
        /// faster.
        brief: bool,
    },
    /// The next queued runs of a lane.
    Queued {
        /// The queue.
        queue: u32,
        /// The priority.
        priority: u8,
        /// From this sequence.
        from: u64,
        /// How many.
        limit: usize,
    },
    /// The next timers.
    Timers {
        /// From this instant and run.
        from: (Time, RunNo),
        /// How many.
        limit: usize,
    },
    /// All stopped runs behind one.
    Stopped {
        /// From this run.
        from: RunNo,
        /// How many.
        limit: usize,
    },
    /// The next runs whose journals are in a generation.
    Generation {
        /// Which.
        generation: u32,
        /// From this run.
        from: RunNo,
        /// How many.
        limit: usize,
    },
    /// The oldest entries of the audit log.
    Audit {
        /// From this instant.
        from: Time,
        /// How many.
        limit: usize,
    },
    /// Who holds a unique key.
    Unique {
        /// Whose key.
        namespace: Namespace,
        /// What it is stored under.
        hash: u128,
    },
    /// Where the first result for a memo key is.
    Memo {
        /// Whose key.
        namespace: Namespace,
        /// What it is stored under.
        hash: u128,
    },
    /// The next of the runs that sleep until something becomes of memo keys.
    MemoWaits {
        /// From this run on.
        from: RunNo,
        /// At most this many.
        limit: usize,
    },
    /// The first result for a memo key.
    MemoResult {
        /// Whose key.
        namespace: Namespace,
        /// What it is stored under.
        hash: u128,
        /// The run that came to it.
        run: RunNo,
        /// The generation that was born in, and whether it may have been moved.
        birth: (u32, bool),
        /// The entry that holds it.
        entry: u32,
    },
    /// A batch that has ended.
    Batch {
        /// Whose batch.
        namespace: Namespace,
        /// What it is stored under.
        hash: u128,
    },
    /// What has expired and was not deleted yet.
    Expired {
        /// By this instant.
        until: Time,
        /// How many.
        limit: usize,
    },
    /// All entries of a run, to be copied.
    Copy {
        /// Which.
        run: RunNo,
        /// Where they are.
        generation: u32,
    },
}

/// Collects what transitions bring about.
#[derive(Debug, Default)]
pub struct Output {
    batches: Vec<WriteBatch>,
    current: WriteBatch,
    actions: Withheld,
    reads: Vec<StoreRead>,
}

impl Output {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes what has been collected: batches to submit in order, actions that wait for the last of
    /// them, reads to do after they have been submitted.
    pub fn take(&mut self) -> (Vec<WriteBatch>, Withheld, Vec<StoreRead>) {
        if !self.current.is_empty() {
            self.batches.push(std::mem::take(&mut self.current));
        }
        (
            std::mem::take(&mut self.batches),
            std::mem::take(&mut self.actions),
            std::mem::take(&mut self.reads),
        )
    }

    /// How many actions have been collected.
    #[cfg(any(test, feature = "inspect"))]
    pub(crate) fn actions_collected(&self) -> usize {
        self.actions.peek().len()
    }

    /// Bytes and operations collected so far, so that a driver can stop adding to them.
    pub fn size(&self) -> usize {
        self.batches.iter().map(WriteBatch::bytes).sum::<usize>() + self.current.bytes()
    }

    /// Whether nothing was collected.
    #[cfg(feature = "inspect")]
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
            && self.current.is_empty()
            && self.actions.is_empty()
            && self.reads.is_empty()
    }

    /// Whether anything is to be written.
    pub(crate) fn writes_anything(&self) -> bool {
        !self.current.is_empty()
    }

    /// Whether the current batch should be closed before another transition.
    pub(crate) fn is_full(&self) -> bool {
        self.current.len() >= FULL_OPS || self.current.bytes() >= FULL_BYTES
    }

    /// Closes the current batch.
    pub(crate) fn close_batch(&mut self) {
        self.batches.push(std::mem::take(&mut self.current));
    }

    /// Writes a row, where rows of its table are.
    pub(crate) fn put<K: FixedSpace>(&mut self, key: &K, record: &K::Record) {
        self.current.put(K::SPACE, key.to_bytes(), record.to_value());
    }

    /// Deletes a row.
    pub(crate) fn delete<K: FixedSpace>(&mut self, key: &K) {
        self.current.delete(K::SPACE, key.to_bytes());
    }

    /// Writes `stored` as entry `index`. The parts of a long one go first, in batches of their own;
    /// only the row that makes the entry exist is written with the transition.
    pub(crate) fn put_entry(&mut self, generation: u32, run: RunNo, index: u32, stored: Vec<u8>) {
        let space = journal::space(generation);
        let rows = journal::rows(run, index, stored);
        let mut rows: Vec<_> = rows.map(|(key, row)| (key.to_bytes(), row.0)).collect();
        let Some((key, value)) = rows.pop() else {
            return;
        };
        if canary!("a long entry's first row goes first") && !rows.is_empty() {
            self.current.put(space, key.clone(), value.clone());
            self.close_batch();
        }
        let mut parts = WriteBatch::new();
        for (key, value) in rows {
            if parts.bytes() >= FULL_BYTES {
                self.batches.push(std::mem::take(&mut parts));
            }
            parts.put(space, key, value);
        }
        if !parts.is_empty() {
            self.batches.push(parts);
        }
        self.current.put(space, key, value);
    }

    /// Appends an entry to a run's journal and to what is known of the run.
    pub(crate) fn append(&mut self, run: &mut Run, entry: &Entry) -> u32 {
        assert!(run.may_go_on_with(entry), "J1: nothing follows the last entry of {}", run.id);
        let (stored, sealed) = chain::sealed(run.chain, entry);
        let index = run.next;
        run.first = (index == 0 && stored.len() <= FIRST_BYTES_MAX)
            .then(|| Bytes::copy_from_slice(&stored));
        self.put_entry(run.generation, run.no, index, stored);
        run.apply(entry);
        run.chain = sealed;
        index
    }

    pub(crate) fn action(&mut self, action: Action) {
        self.actions.0.push(action);
    }

    pub(crate) fn note(&mut self, note: Note) {
        self.actions.0.push(Action::Note(note));
    }

    pub(crate) fn send(&mut self, session: SessionId, message: impl Into<Message>) {
        self.actions.0.push(Action::Send { session, message: message.into() });
    }

    /// Answers a call.
    pub(crate) fn reply(&mut self, to: ReplyTo, answer: impl Into<Answer>) {
        let ReplyTo { session, call_number } = to;
        let answer = Answered::Known(answer.into());
        self.send(session, Reply { call_number, answer });
    }

    /// Answers a call: it is refused.
    pub(crate) fn refuse(&mut self, to: ReplyTo, reason: impl Into<Refusal>) {
        self.reply(to, RefusedReply { reason: reason.into() });
    }

    pub(crate) fn read(&mut self, read: StoreRead) {
        self.reads.push(read);
    }
}
