//! The messages, one struct each. Kind numbers are never used again; fields are only added at the
//! end.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::model::batch::BatchSummary;
use crate::model::dead::{AuditCursor, AuditEntry, DeadCursor, DeadFilter, DeadLetter};
use crate::model::entry::{FunctionEnd, SourceLocation};
use crate::model::failure::Failure;
use crate::model::id::{CommandIndex, MemoKey, ProcessInstance, RunId, RunNo, SessionId, Token};
use crate::model::payload::Payload;
use crate::model::queue::{QueueChange, QueueSummary};
use crate::model::request::{Caller, ListRuns, Refusal, StartRun};
use crate::model::retry::Retry;
use crate::model::run::{Outcome, RunSummary, Stats};
use crate::model::schedule::{Occurrence, ScheduleInfo, ScheduleSpec};
use crate::model::time::Time;
use crate::numbered::numbered;

/// The protocol's version. A hello with another one is refused with a reason.
pub const PROTOCOL: u16 = 1;

macro_rules! messages {
    ($($(#[$meta:meta])* $number:literal => $name:ident { $($(#[$fmeta:meta])* $field:ident : $type:ty),* $(,)? }),+ $(,)?) => {
        $(
            $(#[$meta])*
            #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
            pub struct $name { $($(#[$fmeta])* pub $field: $type),* }
        )+

        numbered! {
            /// One frame, either way.
            #[derive(Debug, Clone, PartialEq, Eq)]
            pub enum Message { $($(#[$meta])* $number => $name),+ }
        }
    };
}

/// A lease that a worker believes it still holds when it comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The run.
    pub run: RunNo,
    /// The token it was leased under.
    pub token: Token,
    /// How many entries of its journal the worker has.
    pub seen: u32,
}

/// Slots a worker offers to a queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueSlots {
    /// The queue's name.
    pub queue: String,
    /// How many runs of it at a time.
    pub slots: u32,
}

/// A workflow a worker can run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkflowOffer {
    /// The workflow's name.
    pub workflow: String,
    /// The version of its code.
    pub version: u32,
}

messages! {
    /// The first frame of a connection, from the peer.
    1 => Hello {
        /// [`PROTOCOL`].
        protocol: u16,
        /// The namespace, the principal, and a request id that names this connection.
        caller: Caller,
        /// What proves it. Unused so far.
        credentials: Option<Bytes>,
        /// The process instance that connects.
        process: ProcessInstance,
        /// What code it runs.
        build: String,
        /// Workflows it can run; empty for a client.
        workflows: Vec<WorkflowOffer>,
        /// Slots it offers; empty for a client.
        queues: Vec<QueueSlots>,
        /// Leases it still holds from before.
        held: Vec<Held>,
        /// Tags it offers: runs that ask for others go elsewhere.
        #[serde(default)]
        tags: Vec<String>,
    },
    /// The engine's answer to a hello.
    2 => Welcome {
        /// [`PROTOCOL`].
        protocol: u16,
        /// The number of this session.
        session: SessionId,
        /// The store's identity.
        store: u64,
        /// The epoch of this opening of the store.
        epoch: u64,
        /// Send a heartbeat this often, in milliseconds.
        heartbeat_ms: u64,
        /// A peer not heard of for this long is gone, in milliseconds.
        session_timeout_ms: u64,
        /// The largest payload.
        payload_bytes_max: u64,
        /// Engine time.
        now: Time,
        /// Whether a turn may be suspended that waits for memo keys.
        #[serde(default)]
        suspends_for_memo: bool,
    },
    /// I am there. Either way.
    3 => Heartbeat {
        /// Counts up, for traces.
        beat: u64,
    },
    /// The last frame before the sender closes, with the reason.
    4 => Closing {
        /// Why.
        reason: String,
    },

    /// Engine to worker: run this. Its journal follows in this and, if long, in further [`Journal`]
    /// frames.
    10 => Dispatch {
        /// The run.
        run: RunNo,
        /// The token of this lease.
        token: Token,
        /// Its id.
        id: RunId,
        /// How many entries its journal has.
        count: u32,
        /// The first of them as stored, from entry 0.
        entries: Vec<Bytes>,
        /// Engine time. A worker that goes on counting from what it heard long ago may be ahead of
        /// an engine whose clock stands or is slewed, and must not take a backoff for over that is
        /// not.
        #[serde(default)]
        now: Time,
    },
    /// Engine to worker: more of a run's journal.
    11 => Journal {
        /// The run.
        run: RunNo,
        /// The token of the lease.
        token: Token,
        /// The index of the first entry here.
        from: u32,
        /// Entries as stored.
        entries: Vec<Bytes>,
    },
    /// Engine to worker: this entry is now in the journal. Answers a report, or tells of a timer or
    /// a cancel request.
    12 => Appended {
        /// The run.
        run: RunNo,
        /// The token of the lease.
        token: Token,
        /// The entry's index.
        index: u32,
        /// The entry (not as stored: names and output are left out where the worker has them).
        entry: Bytes,
    },
    /// Engine to worker: the turn is over on the engine's side too; forget the run.
    13 => TurnEnded {
        /// The run.
        run: RunNo,
        /// The token of the lease.
        token: Token,
    },
    /// Engine to worker: the lease is not (or no longer) yours; drop the turn.
    14 => Revoked {
        /// The run.
        run: RunNo,
        /// The token that no longer counts.
        token: Token,
        /// Why.
        reason: Refusal,
    },
    /// Engine to worker: the held lease goes on under another token. Entries it has not seen follow
    /// as [`Journal`] frames up to `count`.
    15 => LeaseContinued {
        /// The run.
        run: RunNo,
        /// The token so far.
        old: Token,
        /// The token from now on.
        token: Token,
        /// How many entries the journal has now.
        count: u32,
    },
    /// Engine to worker: this report was refused, the lease goes on.
    16 => ReportRefused {
        /// The run.
        run: RunNo,
        /// The token of the lease.
        token: Token,
        /// The step it was about.
        number: CommandIndex,
        /// Why.
        reason: Refusal,
    },

    /// Worker to engine: a step ended well.
    20 => StepCompletedReport {
        /// The run.
        run: RunNo,
        /// The token of the lease.
        token: Token,
        /// The index of the command.
        number: CommandIndex,
        /// Where the code asked for the command.
        location: SourceLocation,
        /// Which attempt.
        attempt: u32,
        /// What it returned.
        output: Payload,
        /// The key, if it is a step whose first result is everybody's.
        #[serde(default)]
        memo: Option<MemoKey>,
    },
    /// Worker to engine: an attempt at a step failed. The engine decides by `retry` whether it was
    /// the last.
    21 => AttemptFailedReport {
        /// The run.
        run: RunNo,
        /// The token of the lease.
        token: Token,
        /// The index of the command.
        number: CommandIndex,
        /// Where the code asked for the command.
        location: SourceLocation,
        /// Which attempt.
        attempt: u32,
        /// Why.
        failure: Failure,
        /// The step's policy.
        retry: Retry,
    },
    /// Worker to engine: set a timer.
    22 => TimerRequested {
        /// The run.
        run: RunNo,
        /// The token of the lease.
        token: Token,
        /// The index of the command.
        number: CommandIndex,
        /// Where the code asked for the command.
        location: SourceLocation,
        /// Due after this many milliseconds.
        delay_ms: u64,
    },
    /// Worker to engine: nothing to do but wait; the slot is free.
    23 => TurnSuspended {
        /// The run.
        run: RunNo,
        /// The token of the lease.
        token: Token,
        /// How many entries of its journal the worker has seen.
        seen: u32,
        /// The first instant the function waits for. The journal alone does not tell: a timer or a
        /// backoff whose future was dropped stays open in it, and nobody waits for that.
        #[serde(default)]
        wakes_at: Time,
        /// Steps that have asked whether they may make a memoized attempt, and that
        /// the function waits for. If it waits for nothing else, `wakes_at` is the end of time.
        #[serde(default)]
        memos: Vec<CommandIndex>,
    },
    /// Worker to engine: the function returned.
    24 => TurnCompleted {
        /// The run.
        run: RunNo,
        /// The token of the lease.
        token: Token,
        /// What.
        output: Payload,
    },
    /// Worker to engine: the function failed.
    25 => TurnFailed {
        /// The run.
        run: RunNo,
        /// The token of the lease.
        token: Token,
        /// Why.
        failure: Failure,
        /// Whether it is an attempt at the whole function that failed, and is made again by the
        /// default policy: it asked no command at all before, or was ended at its limit.
        whole: bool,
        /// How the function came to it: what a redrive would have to supersede.
        #[serde(default)]
        end: Option<FunctionEnd>,
    },
    /// Worker to engine: code and journal disagree.
    26 => TurnMismatched {
        /// The run.
        run: RunNo,
        /// The token of the lease.
        token: Token,
        /// The entry they disagree at.
        index: u32,
        /// What the journal holds there.
        journal_holds: String,
        /// What the code asked.
        code_asked: String,
    },
    /// Worker to engine: requeue the run, which is unharmed (drain); it is queued at once.
    27 => Requeue {
        /// The run.
        run: RunNo,
        /// The token of the lease.
        token: Token,
    },
    /// Worker to engine: from now on I offer these slots (none while draining).
    28 => Offer {
        /// Slots per queue.
        queues: Vec<QueueSlots>,
    },
    /// Worker to engine: a step whose first result is everybody's wants to make an attempt.
    /// Answered with `AttemptMemo`, when nobody else makes one, or with `Appended`, when there is a
    /// result. Asking again changes nothing.
    35 => MemoRequested {
        /// The run.
        run: RunNo,
        /// The token of the lease.
        token: Token,
        /// The index of the command.
        number: CommandIndex,
        /// Where the code asked for the command.
        location: SourceLocation,
        /// The key.
        memo: MemoKey,
    },
    /// Engine to worker: make the attempt.
    36 => AttemptMemo {
        /// The run.
        run: RunNo,
        /// The token of the lease.
        token: Token,
        /// The index of the command.
        number: CommandIndex,
    },
    /// Worker to engine: the attempt is not made, or no longer. Engine to worker: so it is.
    37 => MemoReleased {
        /// The run.
        run: RunNo,
        /// The token of the lease.
        token: Token,
        /// The index of the command.
        number: CommandIndex,
    },

    /// Client to engine: start these runs.
    40 => Start {
        /// The call number, unique on this connection.
        call_number: u64,
        /// Who asks.
        caller: Caller,
        /// The runs.
        runs: Vec<StartRun>,
    },
    /// Client to engine: how did it end?
    41 => AskOutcome {
        /// The call number, unique on this connection.
        call_number: u64,
        /// Who asks.
        caller: Caller,
        /// The run.
        id: RunId,
        /// Answer only once it has ended.
        wait: bool,
    },
    /// Client to engine: where is it?
    42 => AskStatus {
        /// The call number, unique on this connection.
        call_number: u64,
        /// Who asks.
        caller: Caller,
        /// The run.
        id: RunId,
    },
    /// Client to engine: a page of runs, newest first.
    43 => AskList {
        /// The call number, unique on this connection.
        call_number: u64,
        /// Who asks.
        caller: Caller,
        /// Which.
        list: ListRuns,
    },
    /// Client to engine: a page of a run's journal.
    44 => AskJournal {
        /// The call number, unique on this connection.
        call_number: u64,
        /// Who asks.
        caller: Caller,
        /// The run.
        id: RunId,
        /// From this entry.
        from: u32,
        /// At most this many.
        limit: u32,
    },
    /// Client to engine: stop it.
    45 => Cancel {
        /// The call number, unique on this connection.
        call_number: u64,
        /// Who asks.
        caller: Caller,
        /// The run.
        id: RunId,
        /// Why.
        reason: String,
    },
    /// Client to engine: let a parked or paused run go on.
    46 => Resume {
        /// The call number, unique on this connection.
        call_number: u64,
        /// Who asks.
        caller: Caller,
        /// The run.
        id: RunId,
    },
    /// Client to engine: a page of the dead letters, newest first.
    47 => AskDead {
        /// The call number, unique on this connection.
        call_number: u64,
        /// Who asks.
        caller: Caller,
        /// Which; its `state` is not looked at.
        list: ListRuns,
    },
    /// Client to engine: the counts.
    48 => AskStats {
        /// The call number, unique on this connection.
        call_number: u64,
    },

    /// Client to engine: a page of the dead letters that fit, newest first.
    90 => AskLetters {
        /// The call number, unique on this connection.
        call_number: u64,
        /// Who asks.
        caller: Caller,
        /// Which.
        filter: DeadFilter,
        /// Behind this one.
        behind: Option<DeadCursor>,
        /// At most this many.
        limit: u32,
    },
    /// Client to engine: give a dead letter another input.
    91 => EditInput {
        /// The call number, unique on this connection.
        call_number: u64,
        /// The caller, whose request takes effect once.
        caller: Caller,
        /// The run.
        id: RunId,
        /// What its function gets from now on.
        input: Payload,
    },
    /// Client to engine: send a dead letter back to work.
    92 => Redrive {
        /// The call number, unique on this connection.
        call_number: u64,
        /// The caller, whose request takes effect once.
        caller: Caller,
        /// The run.
        id: RunId,
    },
    /// Client to engine: take a dead letter off the list.
    93 => Discard {
        /// The call number, unique on this connection.
        call_number: u64,
        /// The caller, whose request takes effect once.
        caller: Caller,
        /// The run.
        id: RunId,
        /// Why.
        reason: String,
    },
    /// Client to engine: a page of what operators did, newest first.
    94 => AskAudit {
        /// The call number, unique on this connection.
        call_number: u64,
        /// Who asks.
        caller: Caller,
        /// Only what was done with this run.
        run: Option<RunId>,
        /// Behind this one.
        behind: Option<AuditCursor>,
        /// At most this many.
        limit: u32,
    },

    /// Engine to client: a run each, in the order of the request.
    60 => StartReply {
        /// The number of the call that this answers.
        call_number: u64,
        /// The answers.
        runs: Vec<StartAnswer>,
    },
    /// Engine to client.
    61 => OutcomeReply {
        /// The number of the call that this answers.
        call_number: u64,
        /// How it ended, or that it has not.
        outcome: Outcome,
    },
    /// Engine to client.
    62 => StatusReply {
        /// The number of the call that this answers.
        call_number: u64,
        /// Where it is.
        run: RunSummary,
    },
    /// Engine to client.
    63 => ListReply {
        /// The number of the call that this answers.
        call_number: u64,
        /// The page.
        runs: Vec<RunSummary>,
        /// Ask for `before` this number for the next page, if there may be more.
        next: Option<u64>,
    },
    /// Engine to client.
    64 => JournalReply {
        /// The number of the call that this answers.
        call_number: u64,
        /// The index of the first entry here.
        from: u32,
        /// How many entries the journal has.
        count: u32,
        /// Entries, encoded without their chain.
        entries: Vec<Bytes>,
    },
    /// Engine to client: it is done (cancel, resume).
    65 => DoneReply {
        /// The number of the call that this answers.
        call_number: u64,
    },
    /// Engine to client.
    66 => StatsReply {
        /// The number of the call that this answers.
        call_number: u64,
        /// The counts.
        stats: Stats,
    },
    /// Engine to client: no, and nothing was changed.
    67 => RefusedReply {
        /// The number of the call that this answers.
        call_number: u64,
        /// Why.
        reason: Refusal,
    },

    /// Client to engine: how are the queues?
    80 => AskQueues {
        /// The call number, unique on this connection.
        call_number: u64,
        /// Only this one.
        queue: Option<String>,
    },
    /// Client to engine: set something on a queue.
    81 => SetQueue {
        /// The call number, unique on this connection.
        call_number: u64,
        /// Who asks.
        caller: Caller,
        /// The queue's name.
        queue: String,
        /// What to set.
        change: QueueChange,
    },
    /// Engine to client: the queues, by name.
    87 => QueuesReply {
        /// The number of the call that this answers.
        call_number: u64,
        /// The queues.
        queues: Vec<QueueSummary>,
    },
    /// Engine to client.
    97 => LettersReply {
        /// The number of the call that this answers.
        call_number: u64,
        /// The page.
        letters: Vec<DeadLetter>,
        /// Where to go on, if there may be more.
        next: Option<DeadCursor>,
    },
    /// Engine to client.
    98 => AuditReply {
        /// The number of the call that this answers.
        call_number: u64,
        /// The page.
        entries: Vec<AuditEntry>,
        /// Where to go on, if there may be more.
        next: Option<AuditCursor>,
    },
    /// Client to engine: add runs to a batch, which is opened if there is none of this name.
    110 => StartBatch {
        /// The call number, unique on this connection.
        call_number: u64,
        /// Who asks.
        caller: Caller,
        /// The batch's name.
        name: String,
        /// The runs.
        runs: Vec<StartRun>,
        /// The run that follows when all have ended; its id is the engine's.
        follow_up: Option<Box<StartRun>>,
        /// These are all.
        seal: bool,
    },
    /// Client to engine: how far is it?
    111 => AskBatch {
        /// The call number, unique on this connection.
        call_number: u64,
        /// Who asks.
        caller: Caller,
        /// The batch's name.
        name: String,
    },
    /// Client to engine: start all of these runs or none.
    112 => AtomicStart {
        /// The call number, unique on this connection.
        call_number: u64,
        /// Who asks.
        caller: Caller,
        /// The runs.
        runs: Vec<StartRun>,
    },
    /// Engine to client: the batch as it is now, and an answer for each run of the call.
    117 => BatchReply {
        /// The number of the call that this answers.
        call_number: u64,
        /// The batch.
        batch: BatchSummary,
        /// The answers, in the order of the request.
        runs: Vec<StartAnswer>,
    },
    /// Client to engine: there be this schedule. Answered by [`ScheduleReply`].
    100 => SetSchedule {
        /// The call number, unique on this connection.
        call_number: u64,
        /// Who asks.
        caller: Caller,
        /// The schedule.
        spec: Box<ScheduleSpec>,
    },
    /// Client to engine: a page of schedules, by name. Answered by [`SchedulesReply`].
    101 => AskSchedules {
        /// The call number, unique on this connection.
        call_number: u64,
        /// Who asks.
        caller: Caller,
        /// Only those behind this name (the last of the page before).
        after: Option<String>,
        /// At most this many.
        limit: u32,
    },
    /// Client to engine: a schedule, and its next occurrences. Answered by [`ScheduleReply`].
    102 => AskOccurrences {
        /// The call number, unique on this connection.
        call_number: u64,
        /// Who asks.
        caller: Caller,
        /// The schedule.
        name: String,
        /// At most this many.
        count: u32,
    },
    /// Client to engine: start no more occurrences. Answered by [`ScheduleReply`].
    103 => PauseSchedule {
        /// The call number, unique on this connection.
        call_number: u64,
        /// Who asks.
        caller: Caller,
        /// The schedule.
        name: String,
    },
    /// Client to engine: go on with the next occurrence from now. Answered by [`ScheduleReply`].
    104 => ResumeSchedule {
        /// The call number, unique on this connection.
        call_number: u64,
        /// Who asks.
        caller: Caller,
        /// The schedule.
        name: String,
    },
    /// Client to engine: forget this schedule; its runs go on. Answered by [`DoneReply`].
    105 => RemoveSchedule {
        /// The call number, unique on this connection.
        call_number: u64,
        /// Who asks.
        caller: Caller,
        /// The schedule.
        name: String,
    },
    /// Client to engine: start occurrences of the past. Answered by [`BackfillReply`].
    106 => Backfill {
        /// The call number, unique on this connection.
        call_number: u64,
        /// Who asks.
        caller: Caller,
        /// The schedule.
        name: String,
        /// Nominal times from here on.
        from: Time,
        /// And before this, which has passed.
        to: Time,
        /// At most this many.
        limit: u32,
    },
    /// Engine to client.
    107 => ScheduleReply {
        /// The number of the call that this answers.
        call_number: u64,
        /// The schedule as it is now.
        schedule: Box<ScheduleInfo>,
        /// Whether this call changed anything.
        changed: bool,
        /// Its next occurrences, if they were asked for.
        next: Vec<Occurrence>,
    },
    /// Engine to client.
    108 => SchedulesReply {
        /// The number of the call that this answers.
        call_number: u64,
        /// The page.
        schedules: Vec<ScheduleInfo>,
        /// Ask for those `after` this for the next page, if there may be more.
        next: Option<String>,
    },
    /// Engine to client.
    109 => BackfillReply {
        /// The number of the call that this answers.
        call_number: u64,
        /// Runs that were started.
        started: u64,
        /// Runs that were there already.
        existed: u64,
        /// Go on from here, if there is more.
        next: Option<Time>,
    },
}

#[cfg(any(feature = "server", feature = "inspect"))]
impl BackfillReply {
    /// What became of a page. A run that is there already is that of its occurrence, whatever it
    /// was started with.
    pub(crate) fn of(call_number: u64, runs: &[StartAnswer], next: Option<Time>) -> Message {
        let refused = runs.iter().filter_map(|run| run.refused.as_ref());
        let mut others = refused.filter(|reason| !matches!(reason, Refusal::IdTaken(_)));
        if let Some(reason) = others.next().cloned() {
            return RefusedReply { call_number, reason }.into();
        }
        let started = runs.iter().filter(|run| run.started).count() as u64;
        Self { call_number, started, existed: runs.len() as u64 - started, next }.into()
    }
}

/// The answer to one start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartAnswer {
    /// The run.
    pub id: RunId,
    /// Whether this call started it; `false` if it existed already, the same.
    pub started: bool,
    /// Why not, if it was refused.
    pub refused: Option<Refusal>,
}
