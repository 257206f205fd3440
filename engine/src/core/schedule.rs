//! Schedules: all of them in memory, in line by when their next occurrence is due.
//!
//! ```text
//!   in line ── due ──► is the last run to be looked at? ── read ──┐
//!      ▲                        │ no                              │
//!      │                        ▼                                 ▼
//!      │               the run's id is looked up ◄──────── it has ended
//!      │                        │                                 │ it has not: left out, pending, asked to stop
//!      └── one batch: the run, and the record moved on ◄──────────┘
//! ```
//!
//! # Invariants
//!
//! - **O1** An occurrence is started at or after its instant, in engine time.
//! - **O2** A schedule has one run for each nominal time: the run's id is made of both.
//! - **O3** The run of an occurrence and the record that has moved on are in one batch.
//! - **O4** Of the occurrences that came due together only the newest is started, and only within
//!   the catch-up window.
//! - **O5** A paused schedule starts nothing; a backfill is nothing it starts.
//! - **O6** While the last run has not ended, the overlap policy says what happens. One that is
//!   redriven goes on.

use std::collections::{BTreeMap, BTreeSet};

use super::Core;
use super::load::{Lookup, Want};
use super::output::{Note, Output};
use crate::canary::canary;
use crate::model::calendar::Calendar;
use crate::model::id::{Namespace, RequestId, RunNo};
use crate::model::request::Caller;
use crate::model::schedule::{Overlap, PENDING_MAX, Passed, ScheduleSpec, ScheduleState};
use crate::model::time::Time;
use crate::tables::{ScheduleRecord, ScheduleStateKey};

/// Schedules attended to in one transition at most.
const FIRE_MAX: usize = 64;

/// A schedule as stored: its number, what it is, how far it is.
pub type ScheduleRow = (u32, ScheduleRecord, ScheduleState);

/// What is known of the last run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LastRun {
    /// It must be looked at.
    Unknown,
    Goes,
    /// It has ended, or was asked to stop by the policy, or there is none.
    Over,
}

#[derive(Debug)]
pub(super) struct Schedule {
    pub(super) record: ScheduleRecord,
    pub(super) state: ScheduleState,
    pub(super) calendar: Calendar,
    last_run: LastRun,
    /// When it is in line for.
    due: Option<Time>,
    /// What is under way is about this; an answer to something older is not looked at.
    revision: u64,
    /// Something is being read.
    busy: bool,
}

/// An occurrence that is about to be started.
#[derive(Debug, Clone, Copy)]
pub(super) struct Starting {
    number: u32,
    revision: u64,
    nominal: Time,
    /// What has come due, if it is not one that was pending.
    moves: Option<(u64, Option<Time>)>,
}

/// A check whether a schedule's last run has ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct LastRunCheck {
    number: u32,
    revision: u64,
    /// It is asked to stop, if it has not ended.
    pub(super) stops: bool,
}

/// All schedules.
#[derive(Debug, Default)]
pub(super) struct ScheduleTable {
    rows: BTreeMap<u32, Schedule>,
    numbers: BTreeMap<(Namespace, String), u32>,
    line: BTreeSet<(Time, u32)>,
    /// Whose last run is which.
    watched: BTreeMap<RunNo, u32>,
    revisions: u64,
}

impl ScheduleTable {
    /// From what is stored. An error if this build cannot read an expression that was taken by
    /// another.
    pub(super) fn open(rows: Vec<ScheduleRow>) -> Result<Self, String> {
        let mut schedules = Self::default();
        for (number, record, state) in rows {
            let calendar = Calendar::new(&record.spec.when)
                .map_err(|refusal| format!("schedule `{}`: {refusal}", record.spec.name))?;
            schedules.insert(number, record, state, calendar);
        }
        Ok(schedules)
    }

    /// When to look next.
    pub(super) fn next_due(&self) -> Option<Time> {
        self.line.first().map(|(due, _)| *due)
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn find(&self, namespace: Namespace, name: &str) -> Option<(u32, &Schedule)> {
        let number = *self.numbers.get(&(namespace, name.to_owned()))?;
        Some((number, self.rows.get(&number)?))
    }

    /// Those of a namespace behind a name, in order.
    pub(super) fn page(
        &self,
        namespace: Namespace,
        after: Option<&str>,
    ) -> impl Iterator<Item = &Schedule> {
        let from = (namespace, after.unwrap_or_default().to_owned());
        let behind = move |name: &str| after.is_none_or(|after| name > after);
        self.numbers
            .range(from..)
            .take_while(move |((of, _), _)| *of == namespace)
            .filter(move |((_, name), _)| behind(name))
            .filter_map(|(_, number)| self.rows.get(number))
    }

    pub(super) fn next_number(&self) -> u32 {
        self.rows.keys().next_back().map_or(1, |last| last + 1)
    }

    /// Takes a schedule in, in place of what has its number.
    pub(super) fn insert(
        &mut self,
        number: u32,
        record: ScheduleRecord,
        state: ScheduleState,
        calendar: Calendar,
    ) {
        let known = self.rows.get(&number).map(|schedule| schedule.last_run);
        self.remove(number);
        let key = (record.namespace, record.spec.name.clone());
        self.numbers.insert(key, number);
        if let Some(run) = state.last_run {
            self.watched.insert(run, number);
        }
        // What another policy took for over may have been asked to stop only.
        let known = known.filter(|known| *known != LastRun::Over);
        let last_run = match state.last_run {
            Some(_) => known.unwrap_or(LastRun::Unknown),
            None => LastRun::Over,
        };
        self.revisions += 1;
        let schedule = Schedule {
            record,
            state,
            calendar,
            last_run,
            due: None,
            revision: self.revisions,
            busy: false,
        };
        self.rows.insert(number, schedule);
        self.line_up(number);
    }

    /// How far a schedule is, from somebody who decided that: what is under way for it does not
    /// count any more.
    pub(super) fn replace_state(&mut self, number: u32, state: ScheduleState) {
        self.revisions += 1;
        if let Some(schedule) = self.rows.get_mut(&number) {
            (schedule.state, schedule.revision, schedule.busy) = (state, self.revisions, false);
            self.line_up(number);
        }
    }

    pub(super) fn remove(&mut self, number: u32) {
        let Some(gone) = self.rows.remove(&number) else {
            return;
        };
        if let Some(due) = gone.due {
            self.line.remove(&(due, number));
        }
        if let Some(run) = gone.state.last_run {
            self.watched.remove(&run);
        }
        let key = (gone.record.namespace, gone.record.spec.name);
        self.numbers.remove(&key);
    }

    /// Puts a schedule in line for when there is something to do.
    fn line_up(&mut self, number: u32) {
        let Some(schedule) = self.rows.get_mut(&number) else {
            return;
        };
        if let Some(due) = schedule.due.take() {
            self.line.remove(&(due, number));
        }
        schedule.due = schedule.wants_at();
        if let Some(due) = schedule.due {
            self.line.insert((due, number));
        }
    }

    /// Last runs that are known to have ended.
    #[cfg(any(test, feature = "inspect"))]
    pub(super) fn over(&self) -> impl Iterator<Item = RunNo> + '_ {
        let over = |schedule: &&Schedule| {
            let asked_to_stop = schedule.spec().overlap == Overlap::CancelOld;
            schedule.last_run == LastRun::Over && !asked_to_stop
        };
        let over = self.rows.values().filter(over);
        over.filter_map(|schedule| schedule.state.last_run)
    }

    /// Panics if its parts contradict each other.
    #[cfg(any(test, feature = "inspect"))]
    pub(super) fn check(&self) {
        assert_eq!(self.rows.len(), self.numbers.len(), "a schedule has a name");
        for (number, schedule) in &self.rows {
            let key = (schedule.record.namespace, schedule.record.spec.name.clone());
            assert_eq!(self.numbers.get(&key), Some(number), "a schedule has its own name");
            let name = &schedule.record.spec.name;
            assert_eq!(
                schedule.due,
                schedule.wants_at(),
                "O3: `{name}` is in line for what it wants"
            );
            let due = schedule.due.map(|due| (due, *number));
            assert!(due.is_none_or(|due| self.line.contains(&due)), "`{name}` is in line");
        }
        let lined = self.rows.values().filter(|schedule| schedule.due.is_some());
        assert_eq!(lined.count(), self.line.len(), "nothing else is in line");
    }
}

impl Schedule {
    fn spec(&self) -> &ScheduleSpec {
        &self.record.spec
    }

    /// When there is something to do, if nothing is being read.
    fn wants_at(&self) -> Option<Time> {
        if self.busy || (self.state.paused_by.is_some() && !canary!("a paused schedule fires")) {
            return None;
        }
        let may_go_on = !self.state.pending.is_empty() && self.last_run != LastRun::Goes;
        let next = self.state.next.map(|next| self.spec().due(&self.calendar, next));
        match may_go_on {
            true => Some(Time(0)),
            false => next,
        }
    }

    /// What has come due.
    fn passed(&self, now: Time) -> Option<Passed> {
        let next = self.state.next?;
        let now = match canary!("an occurrence fires early") {
            true => now.after(std::time::Duration::from_secs(1)),
            false => now,
        };
        let passed = self.spec().passed(&self.calendar, next, now)?;
        // Not of hours: a world that starts a hundred thousand runs at once shows nothing more.
        if canary!("all that was missed is started") && (1..100).contains(&passed.missed) {
            let (newest, next) = (Some(next), self.calendar.after(next));
            return Some(Passed { newest, missed: 0, next });
        }
        Some(passed)
    }

    /// Whether an occurrence may start as far as the last run is concerned; none if that must be
    /// looked at.
    fn is_free(&self) -> Option<bool> {
        if self.spec().overlap == Overlap::Allow
            || canary!("the last run of a schedule is not looked at")
        {
            return Some(true);
        }
        match self.last_run {
            LastRun::Over => Some(true),
            LastRun::Goes if self.spec().overlap == Overlap::CancelOld => None,
            LastRun::Goes => Some(false),
            LastRun::Unknown => None,
        }
    }
}

impl Core {
    /// Attends to the schedules that are due.
    pub(super) fn fire_schedules(&mut self, out: &mut Output) {
        let mut horizon = self.now();
        if canary!("an occurrence fires early") {
            horizon = horizon.after(std::time::Duration::from_secs(1));
        }
        for _ in 0..FIRE_MAX {
            let first = self.schedules.line.first().copied();
            let Some((_, number)) = first.filter(|(due, _)| *due <= horizon) else {
                return;
            };
            self.attend(number, out);
        }
    }

    /// Does what a schedule wants, and puts it back in line.
    fn attend(&mut self, number: u32, out: &mut Output) {
        let now = self.now();
        let Some(schedule) = self.schedules.rows.get(&number) else {
            return;
        };
        let passed = schedule.passed(now);
        let pending = schedule.state.pending.first().copied();
        match (passed, pending, schedule.is_free()) {
            (None, None, _) => self.schedules.line_up(number),
            (Some(_), _, None) | (None, Some(_), None) => self.check_last_run(number, out),
            (Some(passed), pending, free) => {
                let free = free == Some(true) && pending.is_none();
                self.comes_due(number, passed, free, out);
            }
            (None, Some(nominal), Some(true)) => self.begin_occurrence(number, nominal, None, out),
            (None, Some(_), Some(false)) => self.schedules.line_up(number),
        }
    }

    /// Reads the last run, and asks it to stop if that is the policy.
    fn check_last_run(&mut self, number: u32, out: &mut Output) {
        let Some(schedule) = self.schedules.rows.get_mut(&number) else {
            return;
        };
        let Some(run) = schedule.state.last_run else {
            schedule.last_run = LastRun::Over;
            return self.schedules.line_up(number);
        };
        schedule.busy = true;
        let check = LastRunCheck {
            number,
            revision: schedule.revision,
            stops: schedule.spec().overlap == Overlap::CancelOld,
        };
        self.schedules.line_up(number);
        self.want(run, Want::LastRunCheck(check), out);
    }

    /// The check of the last run has come back.
    pub(super) fn last_run_checked(&mut self, check: LastRunCheck, goes: bool, out: &mut Output) {
        let Some(schedule) = self.take_busy(check.number, check.revision) else {
            return;
        };
        schedule.last_run = match goes {
            true => LastRun::Goes,
            false => LastRun::Over,
        };
        self.attend(check.number, out);
    }

    /// The schedule that something was read for, if it is still what it was then.
    fn take_busy(&mut self, number: u32, revision: u64) -> Option<&mut Schedule> {
        let schedule = self.schedules.rows.get_mut(&number);
        let schedule = schedule.filter(|schedule| schedule.revision == revision)?;
        schedule.busy = false;
        Some(schedule)
    }

    /// Occurrences have come due.
    fn comes_due(&mut self, number: u32, passed: Passed, free: bool, out: &mut Output) {
        let Some(schedule) = self.schedules.rows.get_mut(&number) else {
            return;
        };
        let Passed { newest, missed, next } = passed;
        let Some(nominal) = newest else {
            return self.moved_on(number, (missed, next), |_| {}, out);
        };
        if free {
            return self.begin_occurrence(number, nominal, Some((missed, next)), out);
        }
        let room = match schedule.spec().overlap {
            Overlap::QueueOne => 1,
            Overlap::QueueAll => PENDING_MAX,
            Overlap::Skip | Overlap::CancelOld | Overlap::Allow => 0,
        };
        let full = schedule.state.pending.len() >= room;
        let overflows = full && room == PENDING_MAX;
        let change = |state: &mut ScheduleState| match full {
            true => state.skipped += u64::from(!overflows),
            false => state.pending.push(nominal),
        };
        self.moved_on(number, (missed + u64::from(overflows), next), change, out);
    }

    /// Writes how far a schedule is.
    fn moved_on(
        &mut self,
        number: u32,
        (missed, next): (u64, Option<Time>),
        change: impl FnOnce(&mut ScheduleState),
        out: &mut Output,
    ) {
        let now = self.now();
        let Some(schedule) = self.schedules.rows.get_mut(&number) else {
            return;
        };
        if missed > 0 {
            out.note(Note::OccurrencesMissed {
                schedule: schedule.record.spec.name.clone(),
                missed,
                from: schedule.state.next,
            });
        }
        schedule.state.next = next;
        schedule.state.missed += missed;
        schedule.state.at = now;
        change(&mut schedule.state);
        out.put(&ScheduleStateKey { schedule: number }, &schedule.state);
        self.schedules.line_up(number);
    }

    /// Looks whether the occurrence has a run already; the answer starts it if not.
    fn begin_occurrence(
        &mut self,
        number: u32,
        nominal: Time,
        moves: Option<(u64, Option<Time>)>,
        out: &mut Output,
    ) {
        let now = self.now();
        let Some(schedule) = self.schedules.rows.get_mut(&number) else {
            return;
        };
        schedule.busy = true;
        let namespace = schedule.record.namespace;
        let id = schedule.spec().run(namespace, nominal, now).id;
        let starting = Starting { number, revision: schedule.revision, nominal, moves };
        self.schedules.line_up(number);
        if canary!("a schedule moves on without its run")
            && let Some(moves) = moves
        {
            // The record first, in a batch that may be the last one.
            self.moved_on(number, moves, |_| {}, out);
            out.close_batch();
        }
        self.lookup(namespace, id, Lookup::Occurrence(starting), out);
    }

    /// An occurrence's id was looked up: its run is started, unless it exists. Answers the run that
    /// is new.
    pub(super) fn occurrence_looked_up(
        &mut self,
        starting: Starting,
        found: Option<RunNo>,
        out: &mut Output,
    ) -> Option<RunNo> {
        let now = self.now();
        let schedule = self.take_busy(starting.number, starting.revision)?;
        let namespace = schedule.record.namespace;
        let due = schedule.spec().due(&schedule.calendar, starting.nominal);
        assert!(
            due <= now || canary!("an occurrence fires early"),
            "O1: no occurrence fires early"
        );
        let asked = schedule.spec().run(namespace, starting.nominal, now);
        let caller = Caller {
            namespace,
            principal: "schedule".to_owned(),
            request_id: RequestId(asked.id.0),
            traceparent: None,
        };
        let begun = match found {
            Some(_) => None,
            None => Some(self.create_run(caller, asked, None, None, out)),
        };
        let run = begun.or(found)?;
        self.has_run(starting, run, begun.is_some(), out);
        begun
    }

    /// The occurrence has a run: the record moves on.
    fn has_run(&mut self, starting: Starting, run: RunNo, new: bool, out: &mut Output) {
        let Starting { number, nominal, .. } = starting;
        let schedules = &mut self.schedules;
        let Some(schedule) = schedules.rows.get_mut(&number) else {
            return;
        };
        if let Some(last) = schedule.state.last_run {
            schedules.watched.remove(&last);
        }
        schedules.watched.insert(run, number);
        schedule.last_run = match new {
            true => LastRun::Goes,
            false => LastRun::Unknown,
        };
        let pending = starting.moves.is_none();
        let moves = starting.moves.unwrap_or((0, schedule.state.next));
        let moves = match canary!("a schedule moves on without its run") {
            true => (0, schedule.state.next),
            false => moves,
        };
        let change = |state: &mut ScheduleState| {
            if pending {
                state.pending.retain(|waits| *waits != nominal);
            }
            state.last = Some(nominal);
            state.last_run = Some(run);
            state.started += u64::from(new);
        };
        self.moved_on(number, moves, change, out);
    }

    /// An occurrence's id cannot be looked up: it is missed, and said.
    pub(super) fn occurrence_lost(&mut self, starting: Starting, what: &str, out: &mut Output) {
        let Some(schedule) = self.take_busy(starting.number, starting.revision) else {
            return;
        };
        out.note(Note::ScheduleUnreadable {
            schedule: schedule.record.spec.name.clone(),
            what: what.to_owned(),
        });
        let next = schedule.state.next;
        let (missed, next) = starting.moves.unwrap_or((0, next));
        let nominal = starting.nominal;
        let change = |state: &mut ScheduleState| state.pending.retain(|waits| *waits != nominal);
        self.moved_on(starting.number, (missed + 1, next), change, out);
    }

    /// A run that had ended goes on. If it is the last one of a schedule, what is under way there
    /// was decided while it was over: that is decided anew.
    pub(super) fn schedule_hears_redrive(&mut self, run: RunNo) {
        let Some(number) = self.schedules.watched.get(&run).copied() else {
            return;
        };
        self.schedules.revisions += 1;
        let revision = self.schedules.revisions;
        if let Some(schedule) = self.schedules.rows.get_mut(&number) {
            (schedule.revision, schedule.busy) = (revision, false);
            schedule.last_run = LastRun::Goes;
            self.schedules.line_up(number);
        }
    }

    /// A run has ended: a schedule may have waited for that.
    pub(super) fn schedule_hears_end(&mut self, run: RunNo) {
        let Some(number) = self.schedules.watched.get(&run).copied() else {
            return;
        };
        if let Some(schedule) = self.schedules.rows.get_mut(&number) {
            schedule.last_run = LastRun::Over;
            self.schedules.line_up(number);
        }
    }
}
