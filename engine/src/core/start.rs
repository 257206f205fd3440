//! Starting runs: idempotent by run id. The same id with another workflow, input or name is refused.

use std::time::Duration;

use stepwell_storage::Space;

use super::Core;
use super::load::{Lookup, Want};
use super::output::Output;
use super::run::{Run, hash_of};
use crate::canary::canary;
use crate::keys::{self, GenerationRecord, IndexRecord, Record, TimerRecord};
use crate::model::command::{
    BadName, Caller, IdTaken, OutOfRange, PayloadTooLarge, Refusal, StartRun, TooMany,
};
use crate::model::entry::{Entry, Started};
use crate::model::id::{RUN_NAME_BYTES_MAX, RunId, RunNo, SessionId};
use crate::model::limits::{NAME_BYTES_MAX, QUEUES_MAX, START_MANY_MAX};
use crate::model::run::RunState;
use crate::model::time::Time;
use crate::wire::message::{BackfillReply, RefusedReply, Start, StartAnswer, StartReply};

/// The longest delay: ten years.
const DELAY_MAX: Duration = Duration::from_secs(10 * 366 * 86_400);

/// A call of which not all answers are known yet.
#[derive(Debug)]
pub(super) struct PendingStart {
    pub(super) session: SessionId,
    request: u64,
    caller: Caller,
    answers: Vec<Option<StartAnswer>>,
    left: usize,
    /// It is a page of a backfill, and behind it comes this.
    page: Option<Option<Time>>,
}

impl Core {
    pub(super) fn start(&mut self, session: SessionId, start: Start, out: &mut Output) {
        let Start {
            request,
            caller,
            runs,
        } = start;
        if runs.is_empty() || runs.len() > START_MANY_MAX {
            let (count, count_max) = (runs.len() as u64, START_MANY_MAX as u64);
            let reason = TooMany {
                what: "runs".to_owned(),
                count,
                count_max,
            }
            .into();
            return out.send(session, RefusedReply { request, reason });
        }
        if let Err(reason) = check_name_length("principal", &caller.principal) {
            return out.send(session, RefusedReply { request, reason });
        }
        self.next_start += 1;
        let (number, namespace) = (self.next_start, caller.namespace);
        let answers = runs.iter().map(|_| None).collect();
        self.starts.insert(
            number,
            PendingStart {
                session,
                request,
                caller,
                answers,
                left: runs.len(),
                page: None,
            },
        );
        for (at, run) in runs.into_iter().enumerate() {
            match self.check_start(&run) {
                Err(reason) => self.answer_start(number, at, run.id, Err(reason), out),
                Ok(()) => {
                    let id = run.id;
                    self.lookup(
                        namespace,
                        id,
                        Lookup::Start {
                            start: number,
                            at,
                            run: Box::new(run),
                        },
                        out,
                    );
                }
            }
        }
    }

    /// A call that starts `count` occurrences of the past, behind which comes `next`.
    pub(super) fn begin_page(
        &mut self,
        session: SessionId,
        (request, caller): (u64, Caller),
        count: usize,
        next: Option<Time>,
    ) -> u64 {
        self.next_start += 1;
        let pending = PendingStart {
            session,
            request,
            caller,
            answers: (0..count).map(|_| None).collect(),
            left: count,
            page: Some(next),
        };
        self.starts.insert(self.next_start, pending);
        self.next_start
    }

    pub(super) fn check_start(&self, run: &StartRun) -> Result<(), Refusal> {
        check_name("workflow", &run.workflow, NAME_BYTES_MAX)?;
        check_name("queue", &run.queue, NAME_BYTES_MAX)?;
        if let Some(name) = &run.name {
            check_name("run", name, RUN_NAME_BYTES_MAX)?;
        }
        let (bytes, bytes_max) = (
            run.input.len() as u64,
            self.settings.limits.payload_bytes_max as u64,
        );
        if bytes > bytes_max {
            return Err(PayloadTooLarge { bytes, bytes_max }.into());
        }
        check_range("priority", u64::from(run.priority), 9)?;
        check_range(
            "delay in milliseconds",
            run.delay_ms,
            DELAY_MAX.as_millis() as u64,
        )?;
        if !self.queue_numbers.contains_key(&run.queue) {
            check_range(
                "the number of queues",
                self.queues.len() as u64 + 1,
                QUEUES_MAX as u64,
            )?;
        }
        Ok(())
    }

    /// Starts a run of whose id nothing is known. Nothing happens if the call is gone.
    pub(super) fn begin_run(
        &mut self,
        start: u64,
        at: usize,
        asked: StartRun,
        out: &mut Output,
    ) -> Option<RunNo> {
        let caller = self.starts.get(&start)?.caller.clone();
        let id = asked.id;
        let no = self.begin_asked(caller, asked, out);
        self.answer_start(start, at, id, Ok(true), out);
        Some(no)
    }

    /// Starts a run of whose id nothing is known.
    pub(super) fn begin_asked(
        &mut self,
        caller: Caller,
        asked: StartRun,
        out: &mut Output,
    ) -> RunNo {
        let (now, id) = (self.now(), asked.id);
        let delayed = asked.delay_ms > 0;
        let not_before = delayed.then(|| now.after(Duration::from_millis(asked.delay_ms)));
        let no = RunNo(self.tally.next_run);
        self.tally.next_run += 1;
        self.tally_dirty = true;
        let generation = self.current_generation(no, out);
        let started = Started {
            at: now,
            id,
            name: asked.name,
            namespace: caller.namespace,
            workflow: asked.workflow,
            version: asked.version,
            queue: asked.queue,
            priority: asked.priority,
            principal: caller.principal,
            command: caller.command,
            traceparent: caller.traceparent,
            input: asked.input,
            not_before,
        };
        let mut run = Run::new(no, generation, &started);
        out.append(&mut run, &Entry::from(started));
        if !canary!("a start leaves no index row") {
            out.put(
                Space::Lasting,
                keys::index(run.namespace, id),
                IndexRecord { run: no }.to_bytes(),
            );
        }
        match not_before {
            Some(due) => self.schedule(&run, due, out),
            None => self.begin_ready(run, out),
        }
        no
    }

    /// A delayed run waits behind a timer.
    fn schedule(&mut self, run: &Run, due: crate::model::time::Time, out: &mut Output) {
        let queue = self.queue_number(&run.queue, out);
        let record = TimerRecord {
            workflow: run.workflow.clone(),
            queue,
            priority: run.priority,
            delayed: true,
        };
        self.arm_stored(due, run.no, record, out);
        self.count(RunState::Scheduled, 1);
    }

    /// A new run goes straight to a worker if nobody waits before it; it never has a row in the queue then.
    fn begin_ready(&mut self, run: Run, out: &mut Output) {
        self.count(RunState::Ready, 1);
        let queue = self.queue_number(&run.queue, out);
        let item = self.arrival(run.no, queue, run.priority, run.workflow.clone());
        if let Some(session) = self.direct_taker(&item) {
            return self.grant(run, session, item, out);
        }
        if self.keeps_fresh(&item) {
            self.fresh.insert(run.no, run);
        }
        self.enqueue_item(item, out);
    }

    /// Today's generation, which begins with `no` if it is new.
    fn current_generation(&mut self, no: RunNo, out: &mut Output) -> u32 {
        let newest = self
            .generations
            .last_key_value()
            .map(|(_, generation)| *generation);
        let today = self.now().day();
        match newest {
            Some(newest) if newest >= today => newest,
            _ => {
                out.put(
                    Space::Lasting,
                    keys::generation(today),
                    GenerationRecord { first: no }.to_bytes(),
                );
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
        if slot
            .replace(StartAnswer {
                id,
                started,
                refused,
            })
            .is_none()
        {
            pending.left -= 1;
        }
        self.answer_if_whole(start, out);
    }

    /// Answers a call all of whose runs are decided.
    pub(super) fn answer_if_whole(&mut self, start: u64, out: &mut Output) {
        let left = self.starts.get(&start).map_or(0, |pending| pending.left);
        if (left == 0 || canary!("a crowd is answered with its first"))
            && let Some(whole) = self.starts.remove(&start)
        {
            let (session, request) = (whole.session, whole.request);
            let runs: Vec<StartAnswer> = whole.answers.into_iter().flatten().collect();
            match whole.page {
                None => out.send(session, StartReply { request, runs }),
                Some(next) => out.send(session, BackfillReply::of(request, &runs, next)),
            }
        }
    }

    /// Whether an existing run is what a start asks for.
    pub(super) fn same_start(run: &Run, asked: &StartRun) -> Result<(), Refusal> {
        let differs = |differs: &str, existing: String, asked: String| {
            Err(IdTaken {
                id: run.id,
                differs: differs.to_owned(),
                existing,
                asked,
            }
            .into())
        };
        if run.name != asked.name {
            let text = |name: &Option<String>| {
                name.as_ref()
                    .map_or("no name".to_owned(), |n| format!("`{n}`"))
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

/// A name that may be empty.
pub(super) fn check_name_length(what: &str, name: &str) -> Result<(), Refusal> {
    if name.is_empty() {
        Ok(())
    } else {
        check_name(what, name, NAME_BYTES_MAX)
    }
}

pub(super) fn check_name(what: &str, name: &str, bytes_max: usize) -> Result<(), Refusal> {
    let problem = match name {
        "" => "is empty".to_owned(),
        _ if name.len() > bytes_max => format!("has {} bytes, more than {bytes_max}", name.len()),
        _ if name.chars().any(char::is_control) => "holds control characters".to_owned(),
        _ => return Ok(()),
    };
    let name = name.chars().take(64).collect();
    Err(BadName {
        what: what.to_owned(),
        name,
        problem,
    }
    .into())
}

pub(super) fn check_range(what: &str, value: u64, max: u64) -> Result<(), Refusal> {
    if value <= max {
        Ok(())
    } else {
        Err(OutOfRange {
            what: what.to_owned(),
            value,
            max,
        }
        .into())
    }
}

impl From<Want> for Lookup {
    fn from(want: Want) -> Self {
        Self::Want(want)
    }
}
