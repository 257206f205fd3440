//! Starting runs: idempotent by run id. The same id with another workflow, input or name is
//! refused.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Core;
use super::asked::Asked;
use super::atomic_start::AtomicCall;
use super::batch::BatchCall;
use super::load::{Lookup, Want};
use super::output::Output;
use super::output::ReplyTo;
use super::run::{Run, hash_of};
use super::unique;
use crate::canary::canary;
use crate::model::name::{check_name, check_name_length};
use crate::model::batch::BatchNo;
use crate::model::entry::{Entry, Started};
use crate::model::id::{RUN_NAME_BYTES_MAX, RunId, RunNo};
use crate::model::limits::{
    NAME_BYTES_MAX, QUEUES_MAX, START_MANY_MAX, TAG_BYTES_MAX, TAGS_MAX, TRACEPARENT_BYTES_MAX,
    UNIQUE_KEY_BYTES_MAX,
};
use crate::model::request::{
    Caller, IdTaken, NotUnderstood, OutOfRange, PayloadTooLarge, Refusal, StartRun,
    TooMany,
};
use crate::model::run::RunState;
use crate::model::time::Time;
use crate::model::unique::UniqueKey;
use crate::tables::unique::UniqueRecord;
use crate::tables::{GenerationKey, GenerationRecord, IndexKey, IndexRecord, TimerRecord};
use crate::wire::message::{Answer, BackfillReply, Start, StartAnswer, StartReply};

/// The longest delay: ten years.
const DELAY_MAX: Duration = Duration::from_secs(10 * 366 * 86_400);

/// A call of which not all answers are known yet.
#[derive(Debug)]
pub(super) struct PendingStart {
    pub(super) to: ReplyTo,
    pub(super) caller: Caller,
    pub(super) answers: Vec<Option<StartAnswer>>,
    pub(super) left: usize,
    pub(super) kind: CallKind,
}

/// What is to come of a call.
#[derive(Debug)]
pub(super) enum CallKind {
    /// Each of its runs by itself.
    Each,
    /// All of them or none.
    Atomic(AtomicCall),
    /// Each by itself, as runs of a batch.
    Batch(BatchCall),
    /// Each by itself, a page of a backfill, and behind it comes this.
    Page(Option<Time>),
}

impl Core {
    /// Looks for the run that an operator request is about, if what its caller says can be kept.
    pub(super) fn act_on_run(
        &mut self,
        to: ReplyTo,
        caller: &Caller,
        (id, want): (RunId, Want),
        out: &mut Output,
    ) {
        match check_caller(caller) {
            Ok(()) => self.ask(caller.namespace, id, want, out),
            Err(reason) => out.refuse(to, reason),
        }
    }

    pub(super) fn start(&mut self, start: Asked<Start>, out: &mut Output) {
        let Asked { to, caller, request: Start { runs } } = start;
        let checked = check_count(runs.len(), 1).and_then(|()| check_caller(&caller));
        if let Err(reason) = checked {
            return out.refuse(to, reason);
        }
        let number = self.begin_call(to, caller, runs.len(), CallKind::Each);
        self.look_up_all(number, runs, out);
    }

    /// A call that waits for answers about its runs.
    pub(super) fn begin_call(
        &mut self,
        to: ReplyTo,
        caller: Caller,
        runs: usize,
        kind: CallKind,
    ) -> u64 {
        self.next_start += 1;
        let answers = vec![None; runs];
        self.starts.insert(self.next_start, PendingStart { to, caller, answers, left: runs, kind });
        self.next_start
    }

    /// Refuses what cannot be, and looks the others up.
    pub(super) fn look_up_all(&mut self, number: u64, runs: Vec<StartRun>, out: &mut Output) {
        let Some(call) = self.starts.get(&number) else {
            return;
        };
        let namespace = call.caller.namespace;
        for (at, run) in runs.into_iter().enumerate() {
            match self.check_start(&run) {
                Err(reason) => self.answer_start(number, at, run.id, Err(reason), out),
                Ok(()) => {
                    let id = run.id;
                    self.lookup(
                        namespace,
                        id,
                        Lookup::Start { start: number, at, run: Box::new(run) },
                        out,
                    );
                }
            }
        }
    }

    pub(super) fn check_start(&self, run: &StartRun) -> Result<(), Refusal> {
        check_name("workflow", &run.workflow, NAME_BYTES_MAX)?;
        check_name("queue", &run.queue, NAME_BYTES_MAX)?;
        if let Some(name) = &run.name {
            check_name("run", name, RUN_NAME_BYTES_MAX)?;
        }
        check_tags(&run.tags)?;
        let (bytes, bytes_max) =
            (run.input.len() as u64, self.settings.limits.payload_bytes_max as u64);
        if bytes > bytes_max {
            return Err(PayloadTooLarge { bytes, bytes_max }.into());
        }
        check_range("priority", u64::from(run.priority), 9)?;
        check_range("delay in milliseconds", run.delay_ms, DELAY_MAX.as_millis() as u64)?;
        self.check_new_queues(std::iter::once(run.queue.as_str()))?;
        match &run.unique {
            Some(unique) => check_unique(unique),
            None => Ok(()),
        }
    }

    /// Whether there may be these queues, too. Looked at once more when runs begin: others may have
    /// begun meanwhile, those of the same call among them.
    pub(super) fn check_new_queues<'a>(
        &self,
        queues: impl Iterator<Item = &'a str>,
    ) -> Result<(), Refusal> {
        let new: BTreeSet<&str> =
            queues.filter(|queue| !self.queue_numbers.contains_key(*queue)).collect();
        match new.len() {
            0 => Ok(()),
            new => check_range(
                "the number of queues",
                (self.queues.len() + new) as u64,
                QUEUES_MAX as u64,
            ),
        }
    }

    /// Starts a run of whose id nothing is known, and whose key nobody holds; `before` is what is
    /// stored under the key. Nothing happens if the call is gone, or its batch takes no more.
    pub(super) fn begin_run(
        &mut self,
        start: u64,
        at: usize,
        asked: StartRun,
        before: Option<&UniqueRecord>,
        out: &mut Output,
    ) -> Option<RunNo> {
        let call = self.starts.get(&start)?;
        let (caller, id) = (call.caller.clone(), asked.id);
        let batch = match &call.kind {
            CallKind::Batch(batch) => Some(batch.no),
            CallKind::Each | CallKind::Atomic(_) | CallKind::Page(_) => None,
        };
        let admitted = batch.map_or(Ok(()), |batch| self.admits_run(batch, start));
        let queue = std::iter::once(asked.queue.as_str());
        if let Err(reason) = admitted.and_then(|()| self.check_new_queues(queue)) {
            self.answer_start(start, at, id, Err(reason), out);
            return None;
        }
        let no = self.create_run(caller, asked, batch, before, out);
        self.answer_start(start, at, id, Ok(true), out);
        Some(no)
    }

    /// A run begins to exist, with its key, in its batch.
    pub(super) fn create_run(
        &mut self,
        caller: Caller,
        asked: StartRun,
        batch: Option<BatchNo>,
        before: Option<&UniqueRecord>,
        out: &mut Output,
    ) -> RunNo {
        let (now, id) = (self.now(), asked.id);
        let key = unique::key_id_of(caller.namespace, &asked);
        self.begun(caller.namespace, id, key);
        let delayed = asked.delay_ms > 0;
        let not_before = delayed.then(|| now.after(Duration::from_millis(asked.delay_ms)));
        let no = RunNo(self.tally.next_run);
        self.tally.next_run += 1;
        self.tally_dirty = true;
        let generation = self.current_generation(no, out);
        let entry = Entry::from(Started {
            at: now,
            id,
            name: asked.name,
            namespace: caller.namespace,
            workflow: asked.workflow,
            version: asked.version,
            queue: asked.queue,
            priority: asked.priority,
            principal: caller.principal,
            request_id: caller.request_id,
            traceparent: caller.traceparent,
            input: asked.input,
            not_before,
            tags: asked.tags,
            unique: asked.unique,
            batch,
        });
        let Entry::Started(started) = &entry else {
            unreachable!("it was made of one");
        };
        let mut run = Run::new(no, generation, started);
        out.append(&mut run, &entry);
        if let (Some(key), Some(unique)) = (key, &started.unique) {
            self.take_key((no, id), key, unique, before, out);
        }
        if let Some(batch) = batch {
            self.joined_batch(batch, no);
        }
        if !canary!("a start leaves no index row") {
            out.put(&IndexKey { namespace: run.namespace, id }, &IndexRecord { run: no });
        }
        match not_before {
            Some(due) => self.schedule(&run, due, out),
            None => self.begin_queued(run, out),
        }
        let named = (caller.namespace, id);
        if self.lookups.contains_key(&named) || self.resolving == Some(named) {
            self.begun_meanwhile.insert(named, no);
        }
        no
    }

    /// A delayed run waits behind a timer.
    fn schedule(&mut self, run: &Run, due: crate::model::time::Time, out: &mut Output) {
        let queue = self.queue_number(&run.queue, out);
        let record = TimerRecord {
            memo: None,
            workflow: run.workflow.clone(),
            queue,
            priority: run.priority,
            delayed: true,
            tags: run.tags.clone(),
        };
        self.arm_stored(due, run.no, record, out);
        self.enters(queue, RunState::Delayed);
    }

    /// A new run goes straight to a worker if nobody waits before it; it never has a row in the
    /// queue then.
    fn begin_queued(&mut self, run: Run, out: &mut Output) {
        let queue = self.queue_number(&run.queue, out);
        self.enters(queue, RunState::Queued);
        let item = self.arrival_of(&run, queue);
        if let Some(session) = self.direct_taker(&item) {
            return self.lease(run, session, item, out);
        }
        if self.keeps_fresh(&item) {
            self.fresh.insert(run.no, run);
        }
        self.enqueue_item(item, out);
    }

    /// Today's generation, which begins with `no` if it is new.
    fn current_generation(&mut self, no: RunNo, out: &mut Output) -> u32 {
        let newest = self.generations.last_key_value().map(|(_, generation)| *generation);
        let today = self.now().day();
        match newest {
            Some(newest) if newest >= today => newest,
            _ => {
                out.put(&GenerationKey { generation: today }, &GenerationRecord { first: no });
                self.generations.insert(no, today);
                today
            }
        }
    }

    pub(super) fn answer_start(
        &mut self,
        start: u64,
        at: usize,
        id: RunId,
        answer: Result<bool, Refusal>,
        out: &mut Output,
    ) {
        let Some(pending) = self.starts.get_mut(&start) else {
            return;
        };
        let (started, refused) = match answer {
            Ok(started) => (started, None),
            Err(reason) => (false, Some(reason)),
        };
        let slot = &mut pending.answers[at];
        if slot.replace(StartAnswer { id, started, refused }).is_none() {
            pending.left -= 1;
        }
        if pending.left == 0 || canary!("a crowd is answered with its first") {
            self.conclude(start, out);
        }
    }

    /// All answers of a call are known.
    pub(super) fn conclude(&mut self, start: u64, out: &mut Output) {
        let Some(whole) = self.starts.remove(&start) else {
            return;
        };
        match whole.kind {
            CallKind::Atomic(_) => self.conclude_atomic(start, whole, out),
            CallKind::Batch(_) => self.conclude_batch(whole, out),
            CallKind::Each => {
                let runs = whole.answers.into_iter().flatten().collect();
                out.reply(whole.to, StartReply { runs });
            }
            CallKind::Page(next) => {
                let runs: Vec<StartAnswer> = whole.answers.into_iter().flatten().collect();
                let reply = BackfillReply::of(&runs, next);
                if !matches!(reply, Answer::RefusedReply(_)) {
                    self.remember_applied(&whole.caller, out);
                }
                out.reply(whole.to, reply);
            }
        }
    }

    /// Whether an existing run is what a start asks for.
    pub(super) fn same_start(run: &Run, asked: &StartRun) -> Result<(), Refusal> {
        let differs = |differs: &str, existing: String, asked: String| {
            Err(IdTaken { id: run.id, differs: differs.to_owned(), existing, asked }.into())
        };
        if run.name != asked.name {
            let text = |name: &Option<String>| {
                name.as_ref().map_or("no name".to_owned(), |n| format!("`{n}`"))
            };
            return differs("name", text(&run.name), text(&asked.name));
        }
        if run.workflow != asked.workflow {
            return differs(
                "workflow",
                format!("`{}`", run.workflow),
                format!("`{}`", asked.workflow),
            );
        }
        let hash = hash_of(&asked.input);
        if run.input_hash != hash && !canary!("another input is taken for the same") {
            let text = |hash: u128| format!("one with hash {:08x}", hash >> 96);
            return differs("input", text(run.input_hash), text(hash));
        }
        Ok(())
    }
}

/// A call starts at least `least` runs.
pub(super) fn check_count(count: usize, least: usize) -> Result<(), Refusal> {
    if (least..=START_MANY_MAX).contains(&count) {
        return Ok(());
    }
    Err(TooMany { what: "runs".to_owned(), count: count as u64, count_max: START_MANY_MAX as u64 }
        .into())
}

fn check_unique(unique: &UniqueKey) -> Result<(), Refusal> {
    check_name("unique key", &unique.key, UNIQUE_KEY_BYTES_MAX)?;
    let ttl_max = DELAY_MAX.as_millis() as u64;
    check_range("duration of a unique key, in milliseconds,", unique.ttl_ms, ttl_max)?;
    match unique.scope() {
        Some(_) => Ok(()),
        None => {
            Err(NotUnderstood { cause: format!("release {} of a unique key", unique.scope) }
                .into())
        }
    }
}

/// What a caller says of itself is in rows that must be short.
pub(super) fn check_caller(caller: &Caller) -> Result<(), Refusal> {
    check_name_length("principal", &caller.principal)?;
    match caller.traceparent.as_deref() {
        None | Some("") => Ok(()),
        Some(context) => Ok(check_name("trace context", context, TRACEPARENT_BYTES_MAX)?),
    }
}

/// Tags are in every record of a run.
pub(super) fn check_tags(tags: &[String]) -> Result<(), Refusal> {
    check_range("the number of tags", tags.len() as u64, TAGS_MAX as u64)?;
    for tag in tags {
        check_name("tag", tag, TAG_BYTES_MAX)?;
    }
    Ok(())
}

pub(super) fn check_range(what: &str, value: u64, max: u64) -> Result<(), Refusal> {
    if value <= max { Ok(()) } else { Err(OutOfRange { what: what.to_owned(), value, max }.into()) }
}

impl From<Want> for Lookup {
    fn from(want: Want) -> Self {
        Self::Want(want)
    }
}
