//! What clients ask of schedules. All of it is in memory, so that it is answered at once.

use super::Core;
use super::asked::Asked;
use super::load::Lookup;
use super::output::{Note, Output, ReplyTo};
use super::schedule::Schedule;
use super::start::CallKind;
use super::start::check_range;
use crate::canary::canary;
use crate::model::name::{check_name, check_name_length};
use crate::model::calendar::Calendar;
use crate::model::limits::NAME_BYTES_MAX;
use crate::model::request::{
    BadBackfill, BadSpan, Caller, NoSuchSchedule, Refusal, ScheduleInputTooLarge, TooManySchedules,
};
use crate::model::schedule::{
    BACKFILL_PAGE_MAX, CATCH_UP_MIN, NEXT_MAX, SCHEDULE_INPUT_BYTES_MAX, SCHEDULE_ROWS_MAX,
    SCHEDULES_MAX, SPAN_MAX, ScheduleInfo, ScheduleSpec, ScheduleState,
};
use crate::model::time::Time;
use crate::tables::{ScheduleKey, ScheduleRecord, ScheduleStateKey};
use crate::wire::message::{
    Answer, AskOccurrences, AskSchedules, Backfill, BackfillReply, DoneReply, PauseSchedule,
    RemoveSchedule, ResumeSchedule, ScheduleReply, SchedulesReply, SetSchedule,
};

impl Core {
    /// A request that changes a schedule, and acts once. One that was applied and comes again is
    /// told how its schedule is now.
    pub(super) fn change_of_schedule<R: ScheduleChange>(
        &mut self,
        ask: Asked<R>,
        out: &mut Output,
    ) {
        let (to, caller) = (ask.to, ask.caller.clone());
        let answer = match self.was_applied(&caller) {
            true if R::REMOVES => return out.reply(to, DoneReply {}),
            true => {
                let schedule = self.schedule_of(&caller, ask.request.name());
                schedule.map(|(_, schedule)| reply(schedule, false))
            }
            false => {
                let answer = ask.request.apply(self, &caller, out);
                if answer.is_ok() {
                    self.remember_applied(&caller, out);
                }
                answer
            }
        };
        answer_or_refuse(to, answer, out);
    }

    /// Answers a question about schedules.
    pub(super) fn ask_schedules(&mut self, ask: &Asked<AskSchedules>, out: &mut Output) {
        out.reply(ask.to, self.list_schedules(ask));
    }

    /// Answers a question about a schedule.
    pub(super) fn ask_occurrences(&mut self, ask: &Asked<AskOccurrences>, out: &mut Output) {
        answer_or_refuse(ask.to, self.occurrences(ask), out);
    }

    /// Starts a page of occurrences of the past. It is remembered when all its runs are decided.
    pub(super) fn ask_backfill(&mut self, ask: Asked<Backfill>, out: &mut Output) {
        let to = ask.to;
        match self.backfill(ask, out) {
            Ok(Some(answer)) => out.reply(to, answer),
            Ok(None) => {} // answered later
            Err(reason) => out.refuse(to, reason),
        }
    }

    /// Sets a schedule: idempotent by its content. Another content is the same schedule: it goes on
    /// where it was if its times are the same, and what waits goes on waiting if the policy is;
    /// else its next occurrence is the first from now.
    fn set_schedule(
        &mut self,
        spec: ScheduleSpec,
        caller: &Caller,
        out: &mut Output,
    ) -> Result<Answer, Refusal> {
        let calendar = self.check_schedule(caller, &spec)?;
        let (now, namespace) = (self.now(), caller.namespace);
        let known = self.schedules.find(namespace, &spec.name);
        if let Some((_, schedule)) = known.filter(|(_, schedule)| schedule.record.spec == spec) {
            return Ok(reply(schedule, false));
        }
        let (number, before) = match known {
            Some((number, schedule)) => (number, schedule.state.clone()),
            None if self.schedules.len() >= SCHEDULES_MAX => {
                let count_max = SCHEDULES_MAX as u64;
                return Err(TooManySchedules { count_max }.into());
            }
            None => (self.schedules.next_number(), ScheduleState::default()),
        };
        let spec_before = known.map(|(_, schedule)| &schedule.record.spec);
        let goes_on = spec_before.is_some_and(|known| known.when == spec.when);
        let waits_on = spec_before.is_some_and(|known| goes_on && known.overlap == spec.overlap);
        let next = match before.next {
            Some(next) if goes_on => Some(next),
            _ => calendar.after(now),
        };
        let (pending, missed) = match waits_on {
            true => (before.pending.clone(), 0),
            false => (Vec::new(), before.pending.len() as u64),
        };
        if missed > 0 {
            out.note(Note::OccurrencesMissed {
                schedule: spec.name.clone(),
                missed,
                from: before.pending.first().copied(),
            });
        }
        let state = ScheduleState {
            at: now,
            next: next.filter(|_| before.paused_by.is_none()),
            missed: before.missed + missed,
            pending,
            ..before
        };
        let record =
            ScheduleRecord { namespace, spec, set_at: now, set_by: caller.principal.clone() };
        self.queue_number(&record.spec.queue, out);
        out.put(&ScheduleKey { schedule: number }, &record);
        out.put(&ScheduleStateKey { schedule: number }, &state);
        let name = record.spec.name.clone();
        note(&name, "set", &record.set_by, out);
        self.schedules.insert(number, record, state, calendar);
        let (_, schedule) = self.schedule_of(caller, &name)?;
        Ok(reply(schedule, true))
    }

    fn check_schedule(&self, caller: &Caller, spec: &ScheduleSpec) -> Result<Calendar, Refusal> {
        check_name("schedule", &spec.name, NAME_BYTES_MAX)?;
        check_name_length("principal", &caller.principal)?;
        let (bytes, bytes_max) = (spec.input.len() as u64, SCHEDULE_INPUT_BYTES_MAX as u64);
        if bytes > bytes_max {
            return Err(ScheduleInputTooLarge { bytes, bytes_max }.into());
        }
        let (min, max) = (CATCH_UP_MIN.as_millis() as u64, SPAN_MAX.as_millis() as u64);
        if !(min..=max).contains(&spec.catch_up_ms) {
            return Err(BadSpan::of("the catch-up window", spec.catch_up_ms, min, max));
        }
        if spec.jitter_ms > max {
            return Err(BadSpan::of("the jitter", spec.jitter_ms, 0, max));
        }
        self.check_start(&spec.run(caller.namespace, Time(0), Time(0)))?;
        Calendar::new(&spec.when)
    }

    fn schedule_of(&self, caller: &Caller, name: &str) -> Result<(u32, &Schedule), Refusal> {
        let found = self.schedules.find(caller.namespace, name);
        found.ok_or_else(|| {
            let name = name.chars().take(64).collect();
            NoSuchSchedule { name }.into()
        })
    }

    fn list_schedules(&self, ask: &Asked<AskSchedules>) -> SchedulesReply {
        let limit = ask.request.limit.clamp(1, SCHEDULE_ROWS_MAX) as usize;
        let rows = self.schedules.page(ask.caller.namespace, ask.request.after.as_deref());
        let schedules: Vec<ScheduleInfo> = rows.take(limit).map(info).collect();
        let last = schedules.last().filter(|_| schedules.len() == limit);
        let next = last.map(|last| last.spec.name.clone());
        SchedulesReply { schedules, next }
    }

    fn occurrences(&self, ask: &Asked<AskOccurrences>) -> Result<Answer, Refusal> {
        let AskOccurrences { name, count } = &ask.request;
        check_range("the number of occurrences", u64::from(*count), u64::from(NEXT_MAX))?;
        let (_, schedule) = self.schedule_of(&ask.caller, name)?;
        let calendar = &schedule.calendar;
        let first = schedule.state.next.or_else(|| calendar.after(self.now()));
        Ok(ScheduleReply {
            schedule: Box::new(info(schedule)),
            changed: false,
            next: schedule.record.spec.occurrences(calendar, first, *count),
        }
        .into())
    }

    fn pause_schedule(
        &mut self,
        name: &str,
        caller: &Caller,
        out: &mut Output,
    ) -> Result<Answer, Refusal> {
        check_name_length("principal", &caller.principal)?;
        let (number, schedule) = self.schedule_of(caller, name)?;
        let is_paused = schedule.state.paused_by.is_some();
        if is_paused || canary!("a request is acknowledged and has no effect") {
            return Ok(reply(schedule, false));
        }
        let state = ScheduleState {
            paused_by: Some(caller.principal.clone()),
            next: schedule.state.next.filter(|_| canary!("a paused schedule fires")),
            ..schedule.state.clone()
        };
        self.change_schedule(number, state, out);
        note(name, "paused", &caller.principal, out);
        let (_, schedule) = self.schedule_of(caller, name)?;
        Ok(reply(schedule, true))
    }

    /// What came due meanwhile is not made up for: the next occurrence is the first from now on.
    fn resume_schedule(
        &mut self,
        name: &str,
        caller: &Caller,
        out: &mut Output,
    ) -> Result<Answer, Refusal> {
        check_name_length("principal", &caller.principal)?;
        let (number, schedule) = self.schedule_of(caller, name)?;
        if schedule.state.paused_by.is_none() {
            return Ok(reply(schedule, false));
        }
        let state = ScheduleState {
            paused_by: None,
            next: schedule.calendar.after(self.now()),
            ..schedule.state.clone()
        };
        self.change_schedule(number, state, out);
        note(name, "resumed", &caller.principal, out);
        let (_, schedule) = self.schedule_of(caller, name)?;
        Ok(reply(schedule, true))
    }

    fn change_schedule(&mut self, number: u32, mut state: ScheduleState, out: &mut Output) {
        state.at = self.now();
        out.put(&ScheduleStateKey { schedule: number }, &state);
        self.schedules.replace_state(number, state);
    }

    fn remove_schedule(
        &mut self,
        name: &str,
        caller: &Caller,
        out: &mut Output,
    ) -> Result<Answer, Refusal> {
        check_name_length("principal", &caller.principal)?;
        let (number, _) = self.schedule_of(caller, name)?;
        note(name, "removed", &caller.principal, out);
        out.delete(&ScheduleKey { schedule: number });
        out.delete(&ScheduleStateKey { schedule: number });
        self.schedules.remove(number);
        Ok(DoneReply {}.into())
    }

    /// Starts a page of the occurrences of a part of the past; the answer comes when all of them
    /// are decided.
    fn backfill(
        &mut self,
        ask: Asked<Backfill>,
        out: &mut Output,
    ) -> Result<Option<Answer>, Refusal> {
        let Asked { to, caller, request: ask } = ask;
        let (now, namespace) = (self.now(), caller.namespace);
        check_name_length("principal", &caller.principal)?;
        let (_, schedule) = self.schedule_of(&caller, &ask.name)?;
        let bad =
            |problem: &str| BadBackfill { from: ask.from, to: ask.to, problem: problem.to_owned() };
        if ask.from > ask.to {
            return Err(bad("it ends before it begins").into());
        }
        if ask.to > now {
            return Err(bad("it ends in the future, and only what is past can be filled").into());
        }
        let (spec, calendar) = (&schedule.record.spec, &schedule.calendar);
        let count = ask.limit.clamp(1, BACKFILL_PAGE_MAX) as usize;
        let nominals = std::iter::successors(calendar.from(ask.from), |at| calendar.after(*at));
        let mut nominals = nominals.take_while(|at| *at < ask.to);
        let runs: Vec<_> = nominals
            .by_ref()
            .take(count)
            .map(|nominal| spec.run(namespace, nominal, now))
            .collect();
        let next = nominals.next();
        if self.was_applied(&caller) {
            let again = BackfillReply { started: 0, existed: runs.len() as u64, next };
            return Ok(Some(again.into()));
        }
        let kind = CallKind::Page(next);
        let start = self.begin_call(to, caller, runs.len(), kind);
        if runs.is_empty() {
            self.conclude(start, out);
        }
        for (at, run) in runs.into_iter().enumerate() {
            let (id, run) = (run.id, Box::new(run));
            self.lookup(namespace, id, Lookup::Start { start, at, run }, out);
        }
        Ok(None)
    }
}

/// What an operator did is in the log.
fn note(schedule: &str, what: &str, by: &str, out: &mut Output) {
    out.note(Note::ScheduleSet {
        schedule: schedule.to_owned(),
        what: what.to_owned(),
        by: by.to_owned(),
    });
}

/// A request that changes a schedule.
pub(super) trait ScheduleChange {
    /// Whether there is no schedule any more once it was applied.
    const REMOVES: bool = false;

    /// The schedule's name.
    fn name(&self) -> &str;

    /// Carries it out.
    fn apply(self, core: &mut Core, by: &Caller, out: &mut Output) -> Result<Answer, Refusal>;
}

impl ScheduleChange for SetSchedule {
    fn name(&self) -> &str {
        &self.spec.name
    }

    fn apply(self, core: &mut Core, by: &Caller, out: &mut Output) -> Result<Answer, Refusal> {
        core.set_schedule(*self.spec, by, out)
    }
}

impl ScheduleChange for PauseSchedule {
    fn name(&self) -> &str {
        &self.name
    }

    fn apply(self, core: &mut Core, by: &Caller, out: &mut Output) -> Result<Answer, Refusal> {
        core.pause_schedule(&self.name, by, out)
    }
}

impl ScheduleChange for ResumeSchedule {
    fn name(&self) -> &str {
        &self.name
    }

    fn apply(self, core: &mut Core, by: &Caller, out: &mut Output) -> Result<Answer, Refusal> {
        core.resume_schedule(&self.name, by, out)
    }
}

impl ScheduleChange for RemoveSchedule {
    const REMOVES: bool = true;

    fn name(&self) -> &str {
        &self.name
    }

    fn apply(self, core: &mut Core, by: &Caller, out: &mut Output) -> Result<Answer, Refusal> {
        core.remove_schedule(&self.name, by, out)
    }
}

fn answer_or_refuse(to: ReplyTo, answer: Result<Answer, Refusal>, out: &mut Output) {
    match answer {
        Ok(answer) => out.reply(to, answer),
        Err(reason) => out.refuse(to, reason),
    }
}

fn info(schedule: &Schedule) -> ScheduleInfo {
    let record = &schedule.record;
    ScheduleInfo {
        spec: record.spec.clone(),
        set_at: record.set_at,
        set_by: record.set_by.clone(),
        state: schedule.state.clone(),
    }
}

fn reply(schedule: &Schedule, changed: bool) -> Answer {
    ScheduleReply { schedule: Box::new(info(schedule)), changed, next: Vec::new() }.into()
}
