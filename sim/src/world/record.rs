//! The recorder: takes down events while a plan is recorded, and does nothing otherwise.
//!
//! Events are given as closures, so that a plain seed does not even make them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use stepwell::model::chain;
use stepwell::model::entry::{Entry, Started};
use stepwell::model::id::{ProcessInstance, RunId, RunNo, Token};
use stepwell::tables::journal::{Joiner, JournalRow};
use stepwell::tables::{JournalKey, TableKey};
use stepwell::wire::message::{Answer, Answered, Message, Request, Requested};
use stepwell_storage::{Op, Seq};

use super::frame::kind_name;
use super::{Host, World, lock};
use crate::checker::Checkers;
use crate::client_log::run_id;
use crate::durable::Durable;
use crate::event::{Copies, EntryAt, Event, Frame, What};
use crate::plan::Plan;

/// What was taken down so far, and whose name is whose.
#[derive(Default)]
pub(crate) struct Recorder {
    events: Vec<Event>,
    names: BTreeMap<RunNo, String>,
    ids: BTreeMap<RunId, String>,
    holders: BTreeMap<ProcessInstance, String>,
    /// The runs that a client's requests are about, by client and number.
    requests: BTreeMap<(String, u64), Vec<String>>,
    /// Violations that were taken down.
    violations: usize,
}

/// Connections, by the address they were dialled from.
#[derive(Default)]
pub(super) struct Connections {
    count: u32,
    dialled: BTreeMap<SocketAddr, u32>,
}

impl Connections {
    /// The server's end is there first: a dial is answered by an accept.
    pub(super) fn accepted(&mut self, from: SocketAddr) -> u32 {
        self.count += 1;
        self.dialled.insert(from, self.count);
        self.count
    }

    pub(super) fn dialled(&mut self, from: SocketAddr) -> u32 {
        match self.dialled.get(&from) {
            Some(connection) => *connection,
            None => self.accepted(from),
        }
    }
}

impl Recorder {
    /// A recorder that knows the names which the plan's clients use.
    pub(super) fn new(plan: &Plan) -> Self {
        let names = plan.jobs.iter().flat_map(|job| job.job.brief().1);
        Self { ids: names.map(|name| (run_id(&name), name)).collect(), ..Self::default() }
    }

    fn push(&mut self, at_ms: u64, host: &str, life: u32, what: What) {
        self.events.push(Event { at_ms, host: host.to_owned(), life, what });
    }

    /// What checkers have found since, pinned to what was taken down last.
    fn pin(&mut self, checkers: &Checkers) {
        for violation in checkers.violations().iter().skip(self.violations) {
            let (checker, text) = (violation.checker.clone(), violation.text.clone());
            let at_ms = violation.at_ms;
            self.push(at_ms, "", 0, What::Violated { checker, text });
        }
        self.violations = self.violations.max(checkers.violations().len());
    }

    fn name(&self, run: RunNo) -> String {
        self.names.get(&run).cloned().unwrap_or_else(|| format!("#{run}"))
    }

    fn name_of_id(&self, id: RunId) -> String {
        self.ids.get(&id).cloned().unwrap_or_else(|| id.to_string())
    }

    fn entries(&mut self, ops: &[Op]) -> Vec<EntryAt> {
        for op in ops {
            if let Some((run, started)) = start_in(op) {
                self.names.insert(run, started.name.unwrap_or_else(|| started.id.to_string()));
            }
        }
        ops.iter()
            .filter(|op| op.value().is_some())
            .filter_map(|op| JournalKey::from_bytes(op.key()))
            .filter(|key| key.part == 0)
            .map(|key| EntryAt { run: self.name(key.run), index: key.entry })
            .collect()
    }

    /// What a frame says. Remembers who is who.
    fn frame(&mut self, from: &str, to: &str, message: &Message) -> Frame {
        let mut frame = Frame {
            peer: to.to_owned(),
            connection: 0,
            number: 0,
            kind: Cow::Borrowed(kind_name(message)),
            copy: Copies::First,
            runs: Vec::new(),
            token: None,
            entry: None,
            step: None,
            call_number: None,
            text: String::new(),
        };
        let mut turn = |run: RunNo, token: Token| {
            frame.runs = vec![self.name(run)];
            frame.token = Some(token.to_string());
        };
        match message {
            Message::Hello(m) => {
                self.holders.insert(m.process, from.to_owned());
            }
            Message::Register(m) => {
                frame.runs = m.held.iter().map(|held| self.name(held.run)).collect();
            }
            Message::Welcome(m) => frame.text = m.session.to_string(),
            Message::Closing(m) => frame.text.clone_from(&m.reason),
            Message::Dispatch(m) => {
                turn(m.run, m.token);
                frame.entry = Some(m.count);
            }
            Message::Journal(m) => {
                turn(m.run, m.token);
                frame.entry = Some(m.from);
            }
            Message::Appended(m) => {
                turn(m.run, m.token);
                frame.entry = Some(m.index);
            }
            Message::TurnEnded(m) => turn(m.run, m.token),
            Message::Revoked(m) => {
                turn(m.run, m.token);
                frame.text = m.reason.to_string();
            }
            Message::LeaseContinued(m) => {
                turn(m.run, m.token);
                frame.entry = Some(m.count);
                frame.text = format!("before: {}", m.old);
            }
            Message::ReportRefused(m) => {
                turn(m.run, m.token);
                frame.step = Some(m.number.0);
                frame.text = m.reason.to_string();
            }
            Message::StepCompletedReport(m) => {
                turn(m.run, m.token);
                frame.step = Some(m.number.0);
                frame.text = format!("{}, attempt {}", m.location.name, m.attempt);
            }
            Message::AttemptFailedReport(m) => {
                turn(m.run, m.token);
                frame.step = Some(m.number.0);
                frame.text =
                    format!("{}, attempt {}: {}", m.location.name, m.attempt, m.failure.message);
            }
            Message::TimerRequested(m) => {
                turn(m.run, m.token);
                frame.step = Some(m.number.0);
                frame.text = format!("{} ms", m.delay_ms);
            }
            Message::TurnSuspended(m) => {
                turn(m.run, m.token);
                frame.entry = Some(m.seen);
            }
            Message::TurnCompleted(m) => turn(m.run, m.token),
            Message::TurnFailed(m) => {
                turn(m.run, m.token);
                frame.text.clone_from(&m.failure.message);
            }
            Message::TurnMismatched(m) => {
                turn(m.run, m.token);
                frame.entry = Some(m.index);
                frame.text = format!("{} / {}", m.journal_holds, m.code_asked);
            }
            Message::Requeue(m) => turn(m.run, m.token),
            Message::Call(m) => {
                frame.call_number = Some(m.call_number);
                if let Requested::Known(request) = &m.request {
                    self.request(request, &mut frame);
                }
            }
            Message::Reply(m) => {
                frame.call_number = Some(m.call_number);
                frame.text = match &m.answer {
                    Answered::Known(known) => answer(known),
                    Answered::Unreadable { why, .. } => why.to_string(),
                };
            }
            Message::HelloV1(_)
            | Message::Heartbeat(_)
            | Message::Registered(_)
            | Message::Offer(_)
            | Message::MemoRequested(_)
            | Message::AttemptMemo(_)
            | Message::MemoReleased(_)
            | Message::JournalPageRequested(_)
            | Message::JournalPage(_)
            | Message::Later(_) => {}
        }
        if let Some(call_number) = frame.call_number {
            if to == super::SERVER_NAME {
                self.requests.insert((from.to_owned(), call_number), frame.runs.clone());
            } else if let Some(runs) = self.requests.get(&(to.to_owned(), call_number)) {
                frame.runs.clone_from(runs);
            }
        }
        frame
    }

    /// What a request is about.
    fn request(&mut self, request: &Request, frame: &mut Frame) {
        let run = match request {
            Request::Start(m) => {
                for run in &m.runs {
                    let name = run.name.clone().unwrap_or_else(|| run.id.to_string());
                    self.ids.insert(run.id, name);
                }
                frame.runs = m.runs.iter().map(|run| self.name_of_id(run.id)).collect();
                return;
            }
            Request::AskOutcome(m) => m.id,
            Request::AskStatus(m) => m.id,
            Request::Cancel(m) => {
                frame.text.clone_from(&m.reason);
                m.id
            }
            Request::EditInput(m) => m.id,
            Request::Redrive(m) => m.id,
            Request::Discard(m) => {
                frame.text.clone_from(&m.reason);
                m.id
            }
            Request::SetQueue(m) => {
                frame.text = format!("{}: {}", m.queue, m.change);
                return;
            }
            Request::AskList(_)
            | Request::AskJournal(_)
            | Request::Resume(_)
            | Request::AskDead(_)
            | Request::AskStats(_)
            | Request::AskQueues(_)
            | Request::AskLetters(_)
            | Request::AskAudit(_)
            | Request::SetSchedule(_)
            | Request::AskSchedules(_)
            | Request::AskOccurrences(_)
            | Request::PauseSchedule(_)
            | Request::ResumeSchedule(_)
            | Request::RemoveSchedule(_)
            | Request::Backfill(_)
            | Request::StartBatch(_)
            | Request::AskBatch(_)
            | Request::AtomicStart(_) => return,
        };
        frame.runs = vec![self.name_of_id(run)];
    }
}

/// What an answer says.
fn answer(answer: &Answer) -> String {
    match answer {
        Answer::StartReply(m) => {
            let answers = m.runs.iter().map(|answer| match &answer.refused {
                Some(refused) => refused.to_string(),
                None if answer.started => "started".to_owned(),
                None => "was there".to_owned(),
            });
            answers.collect::<Vec<_>>().join(", ")
        }
        Answer::BatchReply(m) => {
            format!("{} of {} ended", m.batch.counts.ended(), m.batch.counts.total)
        }
        Answer::OutcomeReply(m) => m.outcome.kind_name().to_owned(),
        Answer::StatusReply(m) => m.run.state.to_string(),
        Answer::RefusedReply(m) => m.reason.to_string(),
        Answer::ListReply(_)
        | Answer::JournalReply(_)
        | Answer::DoneReply(_)
        | Answer::StatsReply(_)
        | Answer::QueuesReply(_)
        | Answer::LettersReply(_)
        | Answer::AuditReply(_)
        | Answer::ScheduleReply(_)
        | Answer::SchedulesReply(_)
        | Answer::BackfillReply(_) => String::new(),
    }
}

/// The start that an operation writes, if it writes one in one piece.
fn start_in(op: &Op) -> Option<(RunNo, Started)> {
    let key = JournalKey::from_bytes(op.key()).filter(|key| (key.entry, key.part) == (0, 0))?;
    let row = JournalRow(op.value()?.clone());
    let stored = Joiner::from(0).push(&key, row).ok()??;
    let (entry, _) = stored.split_last_chunk::<{ chain::CHAIN_BYTES }>()?;
    match Entry::decode(entry) {
        Ok(Entry::Started(started)) => Some((key.run, started)),
        _ => None,
    }
}

/// The leases and the lengths of journals, before a batch.
struct Before {
    leases: BTreeMap<u32, (RunNo, Token)>,
    entries: BTreeMap<RunNo, usize>,
}

impl Before {
    fn of(durable: &Durable) -> Self {
        let leases = durable.leases.iter().map(|(slot, lease)| (*slot, (lease.run, lease.token)));
        let entries = durable.runs.iter().map(|(run, journal)| (*run, journal.entries.len()));
        Self { leases: leases.collect(), entries: entries.collect() }
    }
}

/// What became of a run whose lease is over.
fn end_of_lease(durable: &Durable, run: RunNo) -> String {
    if let Some(again) = durable.leases.values().find(|lease| lease.run == run) {
        return format!("leased anew under {}", again.token);
    }
    let journal = durable.runs.get(&run);
    match journal.and_then(|journal| journal.entries.last()) {
        Some(last) if last.ends() => format!("the run ended: {}", last.kind_name()),
        _ => match durable.stored_states(run).first() {
            Some(state) => format!("the run is {state}"),
            None => "the run is nowhere".to_owned(),
        },
    }
}

impl World {
    pub(crate) fn is_recording(&self) -> bool {
        self.recorder.is_some()
    }

    /// Takes an event down.
    pub(crate) fn record(
        &self,
        at_ms: u64,
        host: &str,
        life: u32,
        what: impl FnOnce(&mut Recorder) -> What,
    ) {
        let Some(recorder) = &self.recorder else {
            return;
        };
        let mut recorder = lock(recorder);
        // A checker that is at work is looked at next time.
        if let Ok(checkers) = self.checkers.try_lock() {
            recorder.pin(&checkers);
        }
        let what = what(&mut recorder);
        recorder.push(at_ms, host, life, what);
    }

    /// Something happens to a host from outside: a line of the trace, and an event of the host.
    pub(crate) fn tell(&self, host: &str, line: fmt::Arguments<'_>, what: impl FnOnce() -> What) {
        lock(&self.trace).note(line);
        self.record(self.now_ms(), host, self.life_of(host), |_| what());
    }

    /// The number of the life a host is in, or was in last.
    pub(crate) fn life_of(&self, host: &str) -> u32 {
        lock(&self.lives).get(host).copied().unwrap_or_default()
    }

    /// A batch went to the disk.
    pub(super) fn submitted(&self, host: &Host, seq: Seq, ops: &[Op]) {
        host.record(|recorder| What::Submitted {
            seq: seq.0,
            ops: ops.len() as u32,
            entries: recorder.entries(ops),
        });
    }

    /// Batches have become durable, as the checkers hear of them.
    pub(super) fn record_committed(
        &self,
        now_ms: u64,
        seq: Seq,
        batches: &[(Seq, Vec<Op>)],
        checkers: &mut Checkers,
    ) {
        let Some(recorder) = &self.recorder else {
            return;
        };
        let (mut recorder, server) = (lock(recorder), super::SERVER_NAME);
        let life = self.life_of(server);
        recorder.pin(checkers);
        let committed = What::Committed { seq: seq.0, batches: batches.len() as u32 };
        recorder.push(now_ms, server, life, committed);
        for (seq, ops) in batches {
            let before = Before::of(&checkers.durable);
            checkers.committed(now_ms, *seq, ops, &self.plan);
            for what in changes(&mut recorder, *seq, &before, &checkers.durable) {
                recorder.push(now_ms, server, life, what);
            }
            recorder.pin(checkers);
        }
    }

    /// Takes down what checkers have found.
    pub(crate) fn pin_violations(&self) {
        if let Some(recorder) = &self.recorder {
            lock(recorder).pin(&self.checkers());
        }
    }

    /// What was taken down.
    pub(crate) fn take_events(&self) -> Vec<Event> {
        let recorder = self.recorder.as_ref();
        recorder.map_or_else(Vec::new, |recorder| std::mem::take(&mut lock(recorder).events))
    }
}

/// What a batch changed.
fn changes(recorder: &mut Recorder, seq: Seq, before: &Before, durable: &Durable) -> Vec<What> {
    let mut found = Vec::new();
    for (run, journal) in &durable.runs {
        let known = before.entries.get(run).copied().unwrap_or_default();
        for (index, entry) in journal.entries.iter().enumerate().skip(known) {
            if let Entry::Started(started) = entry {
                recorder.names.insert(*run, journal.name());
                recorder.ids.insert(started.id, journal.name());
            }
            found.push(What::EntryDurable {
                run: recorder.name(*run),
                index: index as u32,
                kind: entry.kind_name().to_owned(),
                name: entry
                    .source_location()
                    .map(|(_, location)| location.name.clone())
                    .unwrap_or_default(),
                seq: seq.0,
            });
        }
    }
    for (slot, (run, token)) in &before.leases {
        let kept = durable.leases.get(slot).map(|now| (now.run, now.token));
        if kept != Some((*run, *token)) {
            found.push(What::LeaseEnded {
                run: recorder.name(*run),
                token: token.to_string(),
                how: end_of_lease(durable, *run),
            });
        }
    }
    for (slot, lease) in &durable.leases {
        if before.leases.get(slot) != Some(&(lease.run, lease.token)) {
            found.push(What::LeaseBegan {
                run: recorder.name(lease.run),
                token: lease.token.to_string(),
                holder: recorder.holders.get(&lease.process).cloned().unwrap_or_default(),
            });
        }
    }
    found
}

impl Host {
    /// Takes an event of this host down.
    pub(crate) fn record(&self, what: impl FnOnce(&mut Recorder) -> What) {
        if self.world.is_recording() {
            let at_ms = self.now_ms();
            self.world.record(at_ms, &self.name, self.life, what);
        }
    }

    /// Something happens on this host: a line of the trace, and an event.
    pub(crate) fn tell(&self, line: fmt::Arguments<'_>, what: impl FnOnce() -> What) {
        self.line(line);
        self.record(|_| what());
    }

    /// A frame goes out.
    pub(super) fn record_sent(
        &self,
        peer: &str,
        connection: u32,
        number: u32,
        message: Option<&Message>,
        copy: Copies,
    ) {
        self.record(|recorder| {
            let frame = message.map(|message| recorder.frame(&self.name, peer, message));
            let frame = frame.unwrap_or_else(|| Frame {
                peer: peer.to_owned(),
                connection,
                number,
                kind: Cow::Borrowed("garbage"),
                copy,
                runs: Vec::new(),
                token: None,
                entry: None,
                step: None,
                call_number: None,
                text: String::new(),
            });
            What::Sent(Frame { connection, number, copy, ..frame })
        });
    }

    /// A call to the outside world begins. It is over when what is returned is dropped.
    pub(crate) fn record_call(
        self: &Arc<Self>,
        run: Option<RunId>,
        key: &str,
        request: &str,
        attempt: u32,
        plan: impl fmt::Debug,
    ) -> CallRecord {
        let call = self.world.calls.fetch_add(1, Ordering::Relaxed) + 1;
        self.record(|recorder| What::CallBegan {
            call,
            run: run.map_or(String::new(), |run| recorder.name_of_id(run)),
            key: key.to_owned(),
            request: request.to_owned(),
            attempt,
            plan: format!("{plan:?}"),
        });
        CallRecord { host: self.clone(), call, how: "given up" }
    }
}

/// A call to the outside world that goes on.
pub(crate) struct CallRecord {
    host: Arc<Host>,
    call: u64,
    how: &'static str,
}

impl CallRecord {
    /// The outside world was changed.
    pub(crate) fn effect(&self, again: bool) {
        let call = self.call;
        self.host.record(|_| What::CallEffect { call, again });
    }

    /// How it ends.
    pub(crate) fn ends(mut self, how: &'static str) {
        self.how = how;
    }
}

impl Drop for CallRecord {
    /// Not while its host crashes: then all its calls end with its life, and in what order they are
    /// dropped is chance.
    fn drop(&mut self) {
        if !self.host.world.is_crashing() {
            let (call, how) = (self.call, self.how.to_owned());
            self.host.record(|_| What::CallEnded { call, how });
        }
    }
}
