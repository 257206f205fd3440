//! Atomic starts: either all runs of the call begin, in one write batch, or
//! none.
//!
//! All its ids and keys are looked up first. While some are being read, others may change: what
//! begins meanwhile is noted in each such call that is open, and what it had found free is looked
//! at again. Once nothing is open it begins all its runs in one transition, in a batch that has
//! room for them; what that is, is a limit (`ATOMIC_START_WRITES_MAX`).
//!
//! # Invariants
//!
//! - **M1** The runs that a call begins are written in one batch.
//! - **M2** It begins none if one of its runs is refused. One that exists already, the same, is not
//!   refused.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use super::Core;
use super::asked::Asked;
use super::load::Lookup;
use super::output::Output;
use super::start::{CallKind, PendingStart, check_caller, check_count};
use super::unique::{self, KeyId, Waiter};
use crate::canary::canary;
use crate::model::id::{Namespace, RunId};
use crate::model::limits::{ATOMIC_START_BYTES_MAX, ATOMIC_START_WRITES_MAX};
use crate::model::request::{
    Caller, Damaged, NotAllStarted, Offender, Offenders, Refusal, StartRun, TooMany,
};
use crate::model::unique::Unique;
use crate::tables::unique::UniqueRecord;
use crate::wire::message::{AtomicStart, StartAnswer, StartReply};

/// What the rows of a run hold besides names, tags and input, at most; 128 of it is the build of a
/// worker that gets it at once.
const RUN_BYTES: usize = 320;
/// Offenders that a refusal names.
const OFFENDERS_MAX: usize = 100;

/// What is known of the runs of a call.
#[derive(Debug, Default)]
pub(super) struct AtomicCall {
    /// Those whose id and key were found free, and what is stored under the key.
    free: BTreeMap<usize, (Box<StartRun>, Option<UniqueRecord>)>,
    /// Runs that are in the call twice, and where they are first.
    twins: BTreeMap<usize, usize>,
    /// Ids that were given, and keys that were taken, since this was found out.
    begun: BTreeSet<RunId>,
    taken: BTreeSet<KeyId>,
}

impl Core {
    pub(super) fn start_atomic(&mut self, start: Asked<AtomicStart>, out: &mut Output) {
        let Asked { to, caller, request: AtomicStart { runs } } = start;
        let checked = check_count(runs.len(), 1)
            .and_then(|()| check_caller(&caller))
            .and_then(|()| self.check_fits(&caller, &runs));
        if let Err(reason) = checked {
            return out.refuse(to, reason);
        }
        let namespace = caller.namespace;
        let atomic = CallKind::Atomic(AtomicCall::default());
        let number = self.begin_call(to, caller, runs.len(), atomic);
        self.atomic_starts.insert(number);
        let mut seen: BTreeMap<RunId, usize> = BTreeMap::new();
        let mut wanted = Vec::new();
        for (at, run) in runs.iter().enumerate() {
            match (self.check_start(run), seen.get(&run.id)) {
                (Ok(()), Some(first)) => match same_run(&runs[*first], run) {
                    Ok(()) => self.twin(number, at, *first),
                    Err(reason) => wanted.push((at, Err(reason))),
                },
                (Ok(()), None) => {
                    seen.insert(run.id, at);
                    wanted.push((at, Ok(())));
                }
                (Err(reason), _) => wanted.push((at, Err(reason))),
            }
        }
        for (at, checked) in wanted {
            let run = runs[at].clone();
            match checked {
                Err(reason) => self.answer_start(number, at, run.id, Err(reason), out),
                Ok(()) => self.look_up_one(number, at, Box::new(run), namespace, out),
            }
        }
    }

    /// Whether one write batch has room for the call.
    fn check_fits(&self, caller: &Caller, runs: &[StartRun]) -> Result<(), Refusal> {
        let too_many = |what: &str, count: usize, count_max: usize| {
            Err(TooMany { what: what.to_owned(), count: count as u64, count_max: count_max as u64 }
                .into())
        };
        // The entry, the index, and the place in line or the lease; a key that is let go of at once
        // is written and deleted.
        let writes = |run: &StartRun| match run.unique.as_ref().and_then(|key| key.scope()) {
            None => 3,
            Some(Unique::UntilEnded) => 4,
            Some(Unique::UntilStarted) => 5,
            Some(Unique::For(_)) => 6,
        };
        // The counts of each queue's states, and the queue itself if it is new.
        let queues: BTreeSet<&str> = runs.iter().map(|run| run.queue.as_str()).collect();
        let new = |queue: &&&str| !self.queue_numbers.contains_key(**queue);
        let of_queues = queues.len() + queues.iter().filter(new).count();
        let writes = runs.iter().map(writes).sum::<usize>() + of_queues;
        if writes > ATOMIC_START_WRITES_MAX {
            let what = "writes (3 for a run, with a unique key 4 to 6, and 1 or 2 for a queue) of an atomic start";
            return too_many(what, writes, ATOMIC_START_WRITES_MAX);
        }
        let of_caller = caller.principal.len() + caller.traceparent.as_ref().map_or(0, String::len);
        let names = |run: &StartRun| {
            let name = run.name.as_ref().map_or(0, String::len);
            let key = run.unique.as_ref().map_or(0, |key| key.key.len());
            let tags: usize = run.tags.iter().map(|tag| tag.len() + 2).sum();
            name + key + run.queue.len() + 2 * (run.workflow.len() + tags)
        };
        let bytes_of = |run: &StartRun| RUN_BYTES + of_caller + names(run) + run.input.len();
        let bytes = runs.iter().map(bytes_of).sum::<usize>();
        if bytes > ATOMIC_START_BYTES_MAX {
            return too_many(
                "bytes (inputs, names, tags twice, and 320 for a run) of an atomic start",
                bytes,
                ATOMIC_START_BYTES_MAX,
            );
        }
        Ok(())
    }

    fn twin(&mut self, start: u64, at: usize, first: usize) {
        if let Some(call) = self.starts.get_mut(&start)
            && let CallKind::Atomic(atomic) = &mut call.kind
        {
            atomic.twins.insert(at, first);
            call.left -= 1;
        }
    }

    fn look_up_one(
        &mut self,
        start: u64,
        at: usize,
        run: Box<StartRun>,
        namespace: Namespace,
        out: &mut Output,
    ) {
        let id = run.id;
        self.lookup(namespace, id, Lookup::Start { start, at, run }, out);
    }

    pub(super) fn is_atomic(&self, start: u64) -> bool {
        let call = self.starts.get(&start);
        call.is_some_and(|call| matches!(call.kind, CallKind::Atomic(_)))
    }

    /// The id of a run of such a call is free; now its key.
    pub(super) fn id_is_free(
        &mut self,
        (start, at): (u64, usize),
        run: Box<StartRun>,
        out: &mut Output,
    ) {
        let Some(call) = self.starts.get(&start) else {
            return;
        };
        match unique::key_id_of(call.caller.namespace, &run) {
            Some(key) => self.look_up_key(key, Waiter::Atomic { start, at, run }, out),
            None => self.decide_atomic((start, at), run, Ok(None), None, out),
        }
    }

    /// The id of a run of such a call is free, and this is known of its key.
    pub(super) fn decide_atomic(
        &mut self,
        (start, at): (u64, usize),
        run: Box<StartRun>,
        held: Result<Option<RunId>, String>,
        before: Option<UniqueRecord>,
        out: &mut Output,
    ) {
        match held {
            Err(what) => {
                let reason = Damaged { id: None, what };
                self.answer_start(start, at, run.id, Err(reason.into()), out);
            }
            Ok(Some(holder)) => self.answer_start(start, at, holder, Ok(false), out),
            Ok(None) => {
                let Some(call) = self.starts.get_mut(&start) else {
                    return;
                };
                let CallKind::Atomic(atomic) = &mut call.kind else {
                    return;
                };
                atomic.free.insert(at, (run, before));
                call.left -= 1;
                if call.left == 0 {
                    self.conclude(start, out);
                }
            }
        }
    }

    /// A run begins: calls that found its id and its key free look again.
    pub(super) fn begun(&mut self, namespace: Namespace, id: RunId, key: Option<KeyId>) {
        let starts = &mut self.starts;
        self.atomic_starts.retain(|number| {
            let Some(call) = starts.get_mut(number) else {
                return false; // answered, or its session is gone
            };
            if call.caller.namespace == namespace
                && let CallKind::Atomic(atomic) = &mut call.kind
            {
                atomic.begun.insert(id);
                atomic.taken.extend(key);
            }
            true
        });
    }

    /// Everything is known of the call: all of it begins, or nothing.
    pub(super) fn conclude_atomic(&mut self, start: u64, call: PendingStart, out: &mut Output) {
        let mut call = call;
        let CallKind::Atomic(atomic) = &mut call.kind else {
            return;
        };
        let namespace = call.caller.namespace;
        let changed = |(_, (run, _)): &(&usize, &(Box<StartRun>, _))| {
            let key = unique::key_id_of(namespace, run);
            atomic.begun.contains(&run.id) || key.is_some_and(|key| atomic.taken.contains(&key))
        };
        let again: Vec<usize> = atomic.free.iter().filter(changed).map(|(at, _)| *at).collect();
        if !again.is_empty() {
            atomic.begun.clear();
            atomic.taken.clear();
            call.left = again.len();
            let again: Vec<_> =
                again.into_iter().filter_map(|at| Some((at, atomic.free.remove(&at)?.0))).collect();
            self.starts.insert(start, call);
            for (at, run) in again {
                self.look_up_one(start, at, run, namespace, out);
            }
            return;
        }
        let queues = atomic.free.values().map(|(run, _)| run.queue.as_str());
        let queues = self.check_new_queues(queues).err();
        let to = call.to;
        match refusal(&call).or(queues) {
            Some(reason) if !canary!("an atomic start starts some") => {
                out.refuse(to, reason);
            }
            _ => {
                let runs = self.begin_atomic(call, out);
                out.reply(to, StartReply { runs });
            }
        }
    }

    /// Begins all its runs, in a batch that holds nothing else.
    fn begin_atomic(&mut self, call: PendingStart, out: &mut Output) -> Vec<StartAnswer> {
        let CallKind::Atomic(atomic) = call.kind else {
            return Vec::new();
        };
        let mut answers = call.answers;
        let mut taken: BTreeMap<KeyId, RunId> = BTreeMap::new();
        self.close_for_room(out);
        let half = atomic.free.len() / 2;
        for (begun, (at, (run, before))) in atomic.free.into_iter().enumerate() {
            if canary!("an atomic start is cut in two") && begun == half {
                self.close_for_room(out);
            }
            let key = unique::key_id_of(call.caller.namespace, &run);
            let holder = key.and_then(|key| taken.get(&key).copied());
            let (id, started) = (holder.unwrap_or(run.id), holder.is_none());
            if started {
                self.create_run(call.caller.clone(), *run, None, before.as_ref(), out);
                taken.extend(key.map(|key| (key, id)));
            }
            answers[at] = Some(StartAnswer { id, started, refused: None });
        }
        for (at, first) in atomic.twins {
            answers[at] =
                answers[first].clone().map(|answer| StartAnswer { started: false, ..answer });
        }
        // What this transition goes on with has a batch of its own.
        if out.is_full() {
            self.close_for_room(out);
        }
        answers.into_iter().flatten().collect()
    }

    fn close_for_room(&mut self, out: &mut Output) {
        if out.writes_anything() {
            self.seal(out);
            out.close_batch();
        }
    }
}

/// Whether two starts of one id in one call ask for the same.
fn same_run(first: &StartRun, other: &StartRun) -> Result<(), Refusal> {
    if (&first.name, &first.workflow, &first.input) == (&other.name, &other.workflow, &other.input)
    {
        return Ok(());
    }
    Err(crate::model::request::IdTaken {
        id: other.id,
        differs: "start in the same call".to_owned(),
        existing: format!("`{}`", first.workflow),
        asked: format!("`{}`", other.workflow),
    }
    .into())
}

/// Why nothing of the call can begin, if so.
fn refusal(call: &PendingStart) -> Option<Refusal> {
    let refused = || {
        call.answers.iter().enumerate().filter_map(|(at, answer)| {
            let answer = answer.as_ref()?;
            Some((at, answer.id, answer.refused.clone()?))
        })
    };
    let offending = refused().count() as u64;
    let offenders = refused()
        .take(OFFENDERS_MAX)
        .map(|(at, id, reason)| Offender { at: at as u32, id, reason })
        .collect();
    let count = call.answers.len() as u64;
    (offending > 0)
        .then(|| NotAllStarted { count, offending, offenders: Offenders(offenders) }.into())
}
