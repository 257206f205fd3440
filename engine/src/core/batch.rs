//! Batches: many runs, how many of them have ended, and one run that follows when all have.
//!
//! ```text
//!   open ──(runs are added, and end)──► sealed ──(the last one ends)──► ended: the follow-up begins
//! ```
//!
//! A batch that has not ended is in memory and in a slot of its own; its row is written with every
//! write batch in which a run of it begins or ends. The call that seals it does so once all
//! runs of the call have begun or existed already; if one is refused, the batch stays open.
//!
//! # Invariants
//!
//! - **B1** A batch's counts equal the states of its runs, at every commit until it ends; then they
//!   stay.
//! - **B2** A run is added to a batch when it begins and at no other time, and only while the batch
//!   is not sealed.
//! - **B3** A batch ends in the transition in which it is sealed and its last run has ended; its
//!   follow-up begins in it.
//! - **B4** A run that is redriven goes on for its batch while that has not ended, and leaves it
//!   for good otherwise. Which, its journal says: a batch never counts a run twice.

use std::collections::{BTreeMap, BTreeSet};

use super::Core;
use super::asked::Asked;
use super::lease::RecordSlots;
use super::output::ReplyTo;
use super::output::{Output, StoreRead};
use super::run::Run;
use super::start::{CallKind, PendingStart, check_caller, check_count};
use crate::canary::canary;
use crate::model::name::check_name;
use crate::model::batch::{
    BatchCounts, BatchNo, BatchSummary, Span, batch_hash, ended_payload, follow_up_id,
};
use crate::model::id::{Namespace, RunId, RunNo};
use crate::model::limits::{BATCH_RUNS_MAX, BATCHES_OPEN_MAX, FOLLOW_UP_BYTES_MAX, NAME_BYTES_MAX};
use crate::model::payload::CODEC_MESSAGEPACK;
use crate::model::request::{
    BatchSealed, Damaged, NoSuchBatch, NotUnderstood, OtherFollowUp, PayloadTooLarge, Refusal,
    StartRun,
};
use crate::tables::batch::{BatchRecord, FollowUpRecord, OpenBatchRow};
use crate::tables::expiry::{Expires, Expiry};
use crate::tables::{EndedBatchKey, FollowUpKey, OpenBatchKey};
use crate::wire::message::{AskBatch, BatchReply, StartAnswer, StartBatch};

/// A batch's name, in its namespace.
type BatchKey = (Namespace, u128);

/// Batches that have not ended.
#[derive(Debug, Default)]
pub(super) struct Batches {
    open: BTreeMap<BatchNo, OpenBatch>,
    names: BTreeMap<BatchKey, BatchNo>,
    slots: RecordSlots,
    /// Those whose rows are written with the current write batch.
    dirty: BTreeSet<BatchNo>,
    reading: BTreeMap<BatchKey, Vec<BatchWaiter>>,
    /// The one that ended last.
    ended: Option<BatchRecord>,
}

#[derive(Debug)]
struct OpenBatch {
    slot: u32,
    record: BatchRecord,
    follow_up: Option<FollowUpRecord>,
}

/// Waits for a batch to be read.
#[derive(Debug)]
enum BatchWaiter {
    Start(Box<Asked<StartBatch>>),
    Show(Asked<AskBatch>),
}

/// What a call is about that adds runs to a batch.
#[derive(Debug)]
pub(super) struct BatchCall {
    pub(super) no: BatchNo,
    name: String,
    seal: bool,
    /// As it was when it ended, if it has.
    ended: Option<Box<BatchRecord>>,
}

impl Batches {
    pub(super) fn restore(rows: Vec<OpenBatchRow>) -> Self {
        let mut batches = Self::default();
        for OpenBatchRow { slot, record, follow_up } in rows {
            batches.slots.take(slot);
            let batch_key = batch_key_of(&record);
            batches.names.insert(batch_key, record.no);
            let open = OpenBatch { slot, record, follow_up };
            batches.open.insert(open.record.no, open);
        }
        batches
    }

    pub(super) fn len(&self) -> usize {
        self.reading.len()
    }

    /// Whether a row is to be written: sealing a batch may be all that a transition does.
    pub(super) fn are_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }
}

fn batch_key_of(record: &BatchRecord) -> BatchKey {
    (record.namespace, batch_hash(&record.name))
}

fn summary(record: &BatchRecord) -> BatchSummary {
    BatchSummary {
        name: record.name.clone(),
        sealed: record.sealed,
        counts: record.counts,
        opened_at: record.opened_at,
        ended_at: record.ended_at,
        follow_up: record.follow_up,
        no: record.no,
        span: record.span,
    }
}

impl Core {
    pub(super) fn start_batch(&mut self, start: Asked<StartBatch>, out: &mut Output) {
        if let Err(reason) = self.check_batch(&start) {
            return out.refuse(start.to, reason);
        }
        let batch_key = (start.caller.namespace, batch_hash(&start.request.name));
        self.with_batch(batch_key, BatchWaiter::Start(Box::new(start)), out);
    }

    pub(super) fn ask_batch(&mut self, ask: Asked<AskBatch>, out: &mut Output) {
        let batch_key = (ask.caller.namespace, batch_hash(&ask.request.name));
        self.with_batch(batch_key, BatchWaiter::Show(ask), out);
    }

    fn check_batch(&self, ask: &Asked<StartBatch>) -> Result<(), Refusal> {
        let start = &ask.request;
        check_name("batch", &start.name, NAME_BYTES_MAX)?;
        check_caller(&ask.caller)?;
        check_count(start.runs.len(), 0)?;
        let Some(follow_up) = &start.follow_up else {
            return Ok(());
        };
        self.check_start(follow_up)?;
        let (bytes, bytes_max) = (follow_up.input.len() as u64, FOLLOW_UP_BYTES_MAX as u64);
        if bytes > bytes_max {
            return Err(PayloadTooLarge { bytes, bytes_max }.into());
        }
        let not = |cause: &str| Err(NotUnderstood { cause: cause.to_owned() }.into());
        if follow_up.input.0.first() != Some(&CODEC_MESSAGEPACK) {
            return not("the input of what follows a batch must be MessagePack");
        }
        if follow_up.unique.is_some() || follow_up.name.is_some() {
            return not("what follows a batch has no name and no unique key of its own");
        }
        Ok(())
    }

    fn with_batch(&mut self, batch_key: BatchKey, asked: BatchWaiter, out: &mut Output) {
        if let Some(no) = self.batches.names.get(&batch_key).copied() {
            return self.serve_open(no, asked, out);
        }
        let waiting = self.batches.reading.entry(batch_key).or_default();
        if waiting.is_empty() {
            let (namespace, hash) = batch_key;
            out.read(StoreRead::Batch { namespace, hash });
        }
        waiting.push(asked);
    }

    pub(super) fn batch_loaded(
        &mut self,
        batch_key: BatchKey,
        found: Result<Option<BatchRecord>, String>,
        out: &mut Output,
    ) {
        let mut found = found;
        self.batches.ended = None;
        for asked in self.batches.reading.remove(&batch_key).unwrap_or_default() {
            self.close_if_full(out);
            // One that was opened just now may have ended at once.
            if let Some(ended) =
                self.batches.ended.take_if(|ended| batch_key_of(ended) == batch_key)
            {
                found = Ok(Some(ended));
            }
            if let Some(no) = self.batches.names.get(&batch_key).copied() {
                self.serve_open(no, asked, out);
                continue;
            }
            match (&found, asked) {
                (Ok(Some(record)), asked) => self.serve_ended(record, asked, out),
                (Ok(None), BatchWaiter::Start(start)) => self.open_batch(*start, out),
                (Ok(None), BatchWaiter::Show(ask)) => {
                    out.refuse(ask.to, NoSuchBatch { name: ask.request.name });
                }
                (Err(what), BatchWaiter::Start(start)) => {
                    refuse_damaged(start.to, what, out);
                }
                (Err(what), BatchWaiter::Show(ask)) => {
                    refuse_damaged(ask.to, what, out);
                }
            }
        }
    }

    fn serve_open(&mut self, no: BatchNo, asked: BatchWaiter, out: &mut Output) {
        let Some(open) = self.batches.open.get(&no) else {
            return;
        };
        match asked {
            BatchWaiter::Show(ask) => {
                out.reply(ask.to, BatchReply { batch: summary(&open.record), runs: Vec::new() })
            }
            BatchWaiter::Start(start) => self.add_to_batch(no, *start, out),
        }
    }

    /// A batch that has ended takes nothing; runs that exist are found all the same.
    fn serve_ended(&mut self, record: &BatchRecord, asked: BatchWaiter, out: &mut Output) {
        match asked {
            BatchWaiter::Show(ask) => {
                out.reply(ask.to, BatchReply { batch: summary(record), runs: Vec::new() })
            }
            BatchWaiter::Start(start) => {
                let ended = Some(Box::new(record.clone()));
                self.begin_batch_call(record.no, ended, *start, out);
            }
        }
    }

    fn open_batch(&mut self, start: Asked<StartBatch>, out: &mut Output) {
        if self.batches.open.len() >= BATCHES_OPEN_MAX {
            let reason = crate::model::request::OutOfRange {
                what: "the number of open batches".to_owned(),
                value: self.batches.open.len() as u64 + 1,
                max: BATCHES_OPEN_MAX as u64,
            };
            return out.refuse(start.to, reason);
        }
        let no = BatchNo(self.tally.next_sequence);
        self.tally.next_sequence += 1;
        self.tally_dirty = true;
        let namespace = start.caller.namespace;
        let record = BatchRecord {
            no,
            namespace,
            name: start.request.name.clone(),
            sealed: false,
            counts: BatchCounts::default(),
            opened_at: self.now(),
            ended_at: None,
            follow_up: None,
            span: Span::default(),
        };
        let slot = self.batches.slots.lowest();
        out.put(&OpenBatchKey { slot }, &record);
        self.batches.names.insert((namespace, batch_hash(&start.request.name)), no);
        let open = OpenBatch { slot, record, follow_up: None };
        self.batches.open.insert(no, open);
        self.add_to_batch(no, start, out);
    }

    fn add_to_batch(&mut self, no: BatchNo, start: Asked<StartBatch>, out: &mut Output) {
        if let Err(reason) = self.set_follow_up(no, &start, out) {
            return out.refuse(start.to, reason);
        }
        self.begin_batch_call(no, None, start, out);
    }

    /// The first call that names what follows a batch decides; others may name the same.
    fn set_follow_up(
        &mut self,
        no: BatchNo,
        ask: &Asked<StartBatch>,
        out: &mut Output,
    ) -> Result<(), Refusal> {
        let start = &ask.request;
        let (Some(asked), Some(open)) = (&start.follow_up, self.batches.open.get_mut(&no)) else {
            return Ok(());
        };
        let same = |known: &StartRun| {
            (&known.workflow, &known.queue, &known.input)
                == (&asked.workflow, &asked.queue, &asked.input)
        };
        match &open.follow_up {
            Some(known) if same(&known.run) => Ok(()),
            Some(known) => Err(OtherFollowUp {
                name: start.name.clone(),
                existing: known.run.workflow.clone(),
                asked: asked.workflow.clone(),
            }
            .into()),
            None if open.record.sealed => Err(BatchSealed { name: start.name.clone() }.into()),
            None => {
                let run = StartRun {
                    id: follow_up_id(open.record.namespace, &open.record.name, no),
                    ..StartRun::clone(asked)
                };
                let mut caller = ask.caller.clone();
                caller.traceparent = None; // of any length, and the row must be short
                let record = FollowUpRecord { caller, run };
                out.put(&FollowUpKey { slot: open.slot }, &record);
                open.follow_up = Some(record);
                Ok(())
            }
        }
    }

    fn begin_batch_call(
        &mut self,
        no: BatchNo,
        ended: Option<Box<BatchRecord>>,
        start: Asked<StartBatch>,
        out: &mut Output,
    ) {
        let Asked { to, caller, request: StartBatch { name, runs, seal, .. } } = start;
        let call = BatchCall { no, name, seal, ended };
        let kind = CallKind::Batch(call);
        let number = self.begin_call(to, caller, runs.len(), kind);
        match runs.is_empty() {
            true => self.conclude(number, out),
            false => self.look_up_all(number, runs, out),
        }
    }

    /// Whether a batch takes one more run (B2).
    pub(super) fn admits_run(&self, no: BatchNo, start: u64) -> Result<(), Refusal> {
        match self.batches.open.get(&no) {
            Some(open) if !open.record.sealed || canary!("a sealed batch takes a run") => {
                super::start::check_range(
                    "the number of runs of a batch",
                    open.record.counts.total + 1,
                    BATCH_RUNS_MAX,
                )
            }
            _ => {
                let name = match self.starts.get(&start).map(|call| &call.kind) {
                    Some(CallKind::Batch(call)) => call.name.clone(),
                    Some(CallKind::Each | CallKind::Atomic(_) | CallKind::Page(_)) | None => {
                        String::new()
                    }
                };
                Err(BatchSealed { name }.into())
            }
        }
    }

    /// A run of a batch begins.
    pub(super) fn joined_batch(&mut self, no: BatchNo, run: RunNo) {
        if let Some(open) = self.batches.open.get_mut(&no) {
            let record = &mut open.record;
            if record.counts.total == 0 {
                record.span.first = run;
            }
            record.span.last = run;
            record.counts.total += 1;
            self.batches.dirty.insert(no);
        }
    }

    /// Whether there is a batch, and it has not ended.
    pub(super) fn is_open(&self, batch: Option<BatchNo>) -> bool {
        batch.is_some_and(|no| self.batches.open.contains_key(&no))
    }

    /// A dead letter of a batch goes back to work (B4). What has left its batch has none any more.
    pub(super) fn rejoined_batch(&mut self, run: &Run) {
        if canary!("a redriven run counts twice for its batch") {
            return;
        }
        if let Some(no) = run.batch
            && let Some(open) = self.batches.open.get_mut(&no)
        {
            let dead = &mut open.record.counts.dead;
            *dead = dead
                .checked_sub(1)
                .unwrap_or_else(|| panic!("B1: `{}` has not counted {}", open.record.name, run.no));
            self.batches.dirty.insert(no);
        }
    }

    /// A run of a batch has ended.
    pub(super) fn left_batch(&mut self, run: &Run, out: &mut Output) {
        let (Some(no), Some(state)) = (run.batch, run.ended_state()) else {
            return;
        };
        let Some(open) = self.batches.open.get_mut(&no) else {
            return;
        };
        if canary!("a batch does not count its dead") && state == crate::model::run::RunState::Dead
        {
            return;
        }
        open.record.counts.count(state);
        self.batches.dirty.insert(no);
        self.end_batch(no, out);
    }

    /// All runs of a call have begun, or existed already; or some were refused, and the batch stays
    /// open.
    pub(super) fn conclude_batch(&mut self, call: PendingStart, out: &mut Output) {
        let CallKind::Batch(batch) = call.kind else {
            return;
        };
        let runs: Vec<StartAnswer> = call.answers.into_iter().flatten().collect();
        let refused = runs.iter().any(|answer| answer.refused.is_some());
        if batch.seal
            && !refused
            && let Some(open) = self.batches.open.get_mut(&batch.no)
            && !open.record.sealed
        {
            open.record.sealed = true;
            self.batches.dirty.insert(batch.no);
        }
        let ended = self.end_batch(batch.no, out);
        let record = match self.batches.open.get(&batch.no) {
            Some(open) => Some(&open.record),
            None => ended.as_ref().or(batch.ended.as_deref()),
        };
        let to = call.to;
        match record {
            Some(record) => {
                let batch = summary(record);
                out.reply(to, BatchReply { batch, runs });
            }
            // It ended while the call was under way: another call had sealed it.
            None => {
                let reason = BatchSealed { name: batch.name };
                out.refuse(to, reason);
            }
        }
    }

    /// Ends a batch, if it is sealed and all its runs have ended (B3).
    fn end_batch(&mut self, no: BatchNo, out: &mut Output) -> Option<BatchRecord> {
        let record = &self.batches.open.get(&no)?.record;
        let early = u64::from(canary!("a follow-up starts one early"));
        if !record.sealed || record.counts.ended() + early < record.counts.total {
            return None;
        }
        let OpenBatch { slot, mut record, follow_up } = self.batches.open.remove(&no)?;
        self.batches.dirty.remove(&no);
        let (namespace, hash) = batch_key_of(&record);
        self.batches.names.remove(&(namespace, hash));
        self.batches.slots.release(slot);
        out.delete(&OpenBatchKey { slot });
        record.ended_at = Some(self.now());
        if let Some(FollowUpRecord { caller, mut run }) = follow_up {
            out.delete(&FollowUpKey { slot });
            record.follow_up = Some(run.id);
            run.input = ended_payload(&record.name, record.counts, &run.input);
            if !canary!("a follow-up never starts") {
                self.create_run(caller.clone(), run.clone(), None, None, out);
            }
            if canary!("a follow-up starts twice") {
                run.id = RunId(run.id.0 ^ 1);
                self.create_run(caller, run, None, None, out);
            }
        }
        out.put(&EndedBatchKey { namespace, hash }, &record);
        let at = match canary!("a batch is forgotten before its retention") {
            true => self.now().after(self.settings.retention / 7),
            false => self.now().after(self.settings.retention),
        };
        let what = Expires::Batch;
        self.expires(Expiry { at, what, namespace, hash }, out);
        self.batches.ended = Some(record.clone());
        Some(record)
    }

    /// Writes the rows of batches of which runs began or ended (B1).
    pub(super) fn write_batches(&mut self, out: &mut Output) {
        for no in std::mem::take(&mut self.batches.dirty) {
            if let Some(open) = self.batches.open.get(&no) {
                out.put(&OpenBatchKey { slot: open.slot }, &open.record);
            }
        }
    }
}

fn refuse_damaged(to: ReplyTo, what: &str, out: &mut Output) {
    let reason = Damaged { id: None, what: what.to_owned() };
    out.refuse(to, reason);
}
