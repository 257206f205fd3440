//! **Every occurrence of a schedule has one run, at its nominal time, and none is early, missing or
//! there twice.**
//!
//! Source: the core's invariants O1 to O6, in `core/schedule.rs`, and the rule for clocks that are
//! put forward and back, in `model/calendar.rs`. What is durable of a schedule goes from one state
//! to the next; each such step must be one that the rules allow at the engine time written with it:
//! a run was started, and it is that of the newest occurrence due; or the last run goes on, and the
//! policy says what became of the occurrence; or somebody set, paused or resumed it. Which instants
//! are occurrences is worked out here once more, by looking at every minute (or second) there is.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use stepwell::Overlap;
use stepwell::model::calendar::Calendar;
use stepwell::model::entry::{Entry, Started};
use stepwell::model::id::RunNo;
use stepwell::model::schedule::{CronTimes, ScheduleSpec, ScheduleState, When, nominal_text};
use stepwell::model::time::Time;

use super::Findings;
use crate::durable::{Durable, DurableRun, DurableSchedule};

const NAME: &str = "an occurrence has one run";
const EARLY: &str = "an occurrence is never early";
const MISSING: &str = "no occurrence is missing";
const PAUSED: &str = "a paused schedule starts nothing";
const OVERLAP: &str = "the overlap policy is kept";
const MISSED: &str = "of what was missed only the newest is started";
/// Who starts what schedules start.
const ENGINE: &str = "schedule";
/// An occurrence that was due for so long, while the engine wrote so many batches, is missing.
const OVERDUE_MS: u64 = 5_000;
const OVERDUE_BATCHES: u32 = 20;
/// Occurrences counted at most.
const COUNT_MAX: usize = 1_000;
/// An occurrence is looked for this far.
const LOOK_MINUTES: u64 = 3 * 1_440;
/// The seconds of a day.
const DAY_S: i64 = 86_400;

/// The schedules as of the last batch.
#[derive(Default)]
pub(super) struct Schedules {
    known: BTreeMap<u32, DurableSchedule>,
    /// In this batch, one after the other: a batch holds what several inputs brought about.
    written: Vec<(u32, Option<DurableSchedule>)>,
    begun: Vec<RunNo>,
    ends: Vec<RunNo>,
    /// Dead letters that went on in this batch.
    redriven: BTreeSet<RunNo>,
    /// In batches before it, and did not go on since.
    ended: BTreeSet<RunNo>,
    /// Runs of schedules, by name.
    named: BTreeMap<String, RunNo>,
    /// The latest engine time that was written.
    now: Time,
    /// Schedules whose next occurrence is due: since when, for how many batches, in which life of
    /// the server.
    overdue: BTreeMap<u32, (u64, u32, u32)>,
}

impl Schedules {
    /// How far a schedule is was written, or the schedule deleted.
    pub(super) fn written(&mut self, durable: &Durable, number: u32) {
        let schedule = durable.schedules.get(&number).cloned();
        self.written.push((number, schedule));
    }

    /// An entry was written.
    pub(super) fn appended(&mut self, durable: &Durable, no: RunNo, index: u32) {
        let entry = durable.runs.get(&no).and_then(|run| run.entries.get(index as usize));
        let Some(entry) = entry else { return };
        self.now = self.now.max(entry.at());
        match entry {
            Entry::Started(_) => self.begun.push(no),
            Entry::Redriven(_) => {
                self.redriven.insert(no);
            }
            end if end.ends() => self.ends.push(no),
            _ => {}
        }
    }

    pub(super) fn batch_ended(&mut self, durable: &Durable, findings: &mut Findings<'_>) {
        let begun = std::mem::take(&mut self.begun);
        let mut owed = self.begin(durable, &begun, findings);
        for (number, after) in std::mem::take(&mut self.written) {
            let before = self.known.remove(&number);
            self.overdue.remove(&number);
            if let Some(after) = &after {
                self.now = self.now.max(after.state.at);
                self.known.insert(number, after.clone());
            }
            let after = after.as_ref();
            let (Some(before), Some(after)) = (before.as_ref(), after) else {
                if let Some(after) = after {
                    is_set(None, after, findings);
                }
                continue;
            };
            if before.record != after.record {
                is_set(Some(before), after, findings);
            } else {
                self.moves(durable, before, after, &mut owed, findings);
            }
        }
        for no in owed {
            let name = durable.runs.get(&no).map(DurableRun::name).unwrap_or_default();
            findings
                .report(NAME, format!("{name} was started, and its schedule does not know of it"));
        }
        for no in std::mem::take(&mut self.redriven) {
            self.ended.remove(&no);
        }
        let ends = std::mem::take(&mut self.ends);
        let over = |no: &RunNo| durable.runs.get(no).is_some_and(DurableRun::has_ended);
        self.ended.extend(ends.into_iter().filter(over));
        self.look_for_overdue(durable, findings);
    }

    /// Runs began: those of schedules have names that nobody else has. Tells which their schedules
    /// must know of.
    fn begin(
        &mut self,
        durable: &Durable,
        begun: &[RunNo],
        findings: &mut Findings<'_>,
    ) -> BTreeSet<RunNo> {
        let mut owed = BTreeSet::new();
        for no in begun {
            let started = durable.runs.get(no).and_then(DurableRun::started);
            let Some((started, name)) = started.and_then(|s| Some((s, s.name.clone()?))) else {
                continue;
            };
            if !name.starts_with("schedule/") {
                continue;
            }
            if started.principal == ENGINE {
                owed.insert(*no);
            }
            is_not_early(started, &name, findings);
            if let Some(before) = self.named.insert(name.clone(), *no) {
                let first = durable.runs.get(&before).and_then(DurableRun::started);
                let forgotten = first.is_some_and(|first| durable.was_forgotten(first.id));
                if !forgotten {
                    findings.report(
                        NAME,
                        format!("{name} was started twice: as run {before} and as run {no}"),
                    );
                }
            }
        }
        owed
    }

    /// A schedule that is what it was is somewhere else.
    fn moves(
        &self,
        durable: &Durable,
        before: &DurableSchedule,
        after: &DurableSchedule,
        owed: &mut BTreeSet<RunNo>,
        findings: &mut Findings<'_>,
    ) {
        let (spec, from, to) = (&after.record.spec, &before.state, &after.state);
        let name = &spec.name;
        if from.paused_by.is_some() != to.paused_by.is_some() {
            let expected = match to.paused_by {
                Some(_) => None,
                None => Oracle::of(spec).after(to.at),
            };
            if to.next != expected {
                findings.report(
                    PAUSED,
                    format!(
                        "`{name}` was paused or resumed: its next is {:?}, not {expected:?}",
                        to.next
                    ),
                );
            }
            return;
        }
        let begins = to.last_run != from.last_run || to.started != from.started;
        if begins && from.paused_by.is_some() {
            findings.report(PAUSED, format!("`{name}` is paused and started {:?}", to.last));
        }
        match (begins, to.next == from.next) {
            (true, true) => self.pending_begins(before, after, findings),
            (_, false) => self.comes_due(before, after, begins, findings),
            (false, true) if to.missed > from.missed => {} // one that cannot be looked up
            (false, true) => {
                findings.report(NAME, format!("`{name}` was written, and nothing became of it"))
            }
        }
        if begins {
            self.has_run(durable, before, after, owed, findings);
        }
    }

    /// The first of those that wait is started.
    fn pending_begins(
        &self,
        before: &DurableSchedule,
        after: &DurableSchedule,
        findings: &mut Findings<'_>,
    ) {
        let (name, waits) = (&after.record.spec.name, &before.state.pending);
        let first = waits.first().copied();
        if first.is_none() || after.state.last != first || after.state.pending[..] != waits[1..] {
            let started = after.state.last;
            findings
                .report(OVERLAP, format!("`{name}` started {started:?} while {waits:?} waited"));
        }
    }

    /// The run of an occurrence: the schedule knows it, it is new with this batch, and the last one
    /// was no hindrance.
    fn has_run(
        &self,
        durable: &Durable,
        before: &DurableSchedule,
        after: &DurableSchedule,
        owed: &mut BTreeSet<RunNo>,
        findings: &mut Findings<'_>,
    ) {
        let (spec, state) = (&after.record.spec, &after.state);
        let (Some(nominal), Some(no)) = (state.last, state.last_run) else {
            return findings
                .report(NAME, format!("`{}` started something without a name", spec.name));
        };
        let name = spec.run_name(nominal);
        let run = durable.runs.get(&no);
        if run.map(DurableRun::name).as_ref() != Some(&name) {
            findings.report(NAME, format!("run {no} is not {name}, as its schedule says"));
        }
        let is_new = owed.remove(&no);
        if is_new != (state.started > before.state.started) {
            findings.report(NAME, format!("{name} was counted, and its run is of another batch"));
        }
        let last = before.state.last_run.filter(|last| *last != no);
        let last = last.and_then(|last| durable.runs.get(&last));
        let stopped =
            |run: &DurableRun| run.entries.iter().any(|e| matches!(e, Entry::CancelRequested(_)));
        // One that was redriven in this batch may have been over when the next one was started.
        let went_on = before.state.last_run;
        let went_on = went_on.is_some_and(|last| self.redriven.contains(&last));
        let hindered = match spec.overlap {
            _ if went_on => false,
            Overlap::Allow => false,
            Overlap::CancelOld => last.is_some_and(|last| !last.has_ended() && !stopped(last)),
            _ => last.is_some_and(|last| !last.has_ended()),
        };
        if hindered {
            let policy = spec.overlap.as_str();
            findings.report(
                OVERLAP,
                format!("{name} was started under `{policy}`, and the run before it has not ended"),
            );
        }
    }

    /// Occurrences have come due, and the schedule has moved on.
    fn comes_due(
        &self,
        before: &DurableSchedule,
        after: &DurableSchedule,
        begins: bool,
        findings: &mut Findings<'_>,
    ) {
        let (spec, from, to) = (&after.record.spec, &before.state, &after.state);
        let name = &spec.name;
        let Some(next) = from.next else {
            return findings
                .report(NAME, format!("`{name}` had no next occurrence and has {:?}", to.next));
        };
        let Some(passed) = Oracle::of(spec).passed(next, to.at) else {
            return findings
                .report(EARLY, format!("`{name}` moved on at {}, and {next} was not due", to.at));
        };
        if to.next != passed.next {
            let problem = format!(
                "`{name}` moved on at {} from {next} to {:?}, not to {:?}",
                to.at, to.next, passed.next
            );
            return findings.report(MISSED, problem);
        }
        let waits = to.pending.len() > from.pending.len();
        let skips = to.skipped > from.skipped;
        let missed = to.missed - from.missed;
        let in_time = passed.in_time.then_some(passed.newest);
        match in_time {
            None if begins || waits || skips => {
                findings.report(
                    MISSED,
                    format!("`{name}` started {} at {}, which is too late", passed.newest, to.at),
                );
            }
            None => is_counted(name, missed, passed.older + 1, findings),
            Some(nominal) if begins => {
                if to.last != Some(nominal) {
                    findings.report(
                        MISSED,
                        format!("`{name}` started {:?} and not {nominal}, the newest", to.last),
                    );
                }
                is_counted(name, missed, passed.older, findings);
            }
            Some(nominal) => {
                let full = missed > passed.older;
                is_counted(name, missed - u64::from(full), passed.older, findings);
                if waits && to.pending.last() != Some(&nominal) {
                    findings.report(
                        OVERLAP,
                        format!("`{name}` lets {:?} wait, not {nominal}", to.pending.last()),
                    );
                }
                self.may_wait(from, spec, (waits, skips, full), findings);
            }
        }
    }

    /// Whether the newest occurrence may be left out or made to wait.
    fn may_wait(
        &self,
        from: &ScheduleState,
        spec: &ScheduleSpec,
        (waits, skips, full): (bool, bool, bool),
        findings: &mut Findings<'_>,
    ) {
        let over = from
            .last_run
            .is_none_or(|last| self.ended.contains(&last) && !self.redriven.contains(&last));
        let allowed = match spec.overlap {
            Overlap::Skip => skips,
            Overlap::QueueOne if from.pending.is_empty() => waits,
            Overlap::QueueOne => skips,
            Overlap::QueueAll => waits || (full && from.pending.len() >= 100),
            Overlap::CancelOld | Overlap::Allow => false,
        };
        if !allowed || (over && from.pending.is_empty()) {
            let (name, policy) = (&spec.name, spec.overlap.as_str());
            findings.report(OVERLAP, format!("an occurrence of `{name}` was not started under `{policy}`: waits {waits}, left out {skips}, missed {full}; the last run is over: {over}"));
        }
    }

    /// What is due is attended to.
    fn look_for_overdue(&mut self, durable: &Durable, findings: &mut Findings<'_>) {
        for (number, schedule) in &self.known {
            if schedule.due.is_none_or(|due| due > self.now) {
                continue;
            }
            let fresh = (findings.now_ms, 0, durable.lives);
            let since = self.overdue.entry(*number).or_insert(fresh);
            if since.2 != durable.lives {
                *since = fresh;
            }
            since.1 += 1;
            if findings.now_ms > since.0 + OVERDUE_MS && since.1 > OVERDUE_BATCHES {
                let (name, next) = (&schedule.record.spec.name, schedule.state.next);
                findings.report(
                    MISSING,
                    format!(
                        "{next:?} of `{name}` is due since {} ms, and nothing becomes of it",
                        since.0
                    ),
                );
                *since = fresh;
            }
        }
    }
}

/// A schedule was set: it goes on where it was if its times are the same, and so does what waits if
/// the policy is; else its next occurrence is the first from then on, and nothing waits.
fn is_set(
    before: Option<&DurableSchedule>,
    schedule: &DurableSchedule,
    findings: &mut Findings<'_>,
) {
    let (spec, state) = (&schedule.record.spec, &schedule.state);
    let goes_on = before.filter(|before| before.record.spec.when == spec.when);
    let waits_on = goes_on.filter(|before| before.record.spec.overlap == spec.overlap);
    let expected = match (&state.paused_by, goes_on.and_then(|before| before.state.next)) {
        (Some(_), _) => None,
        (None, Some(next)) => Some(next),
        (None, None) => Oracle::of(spec).after(state.at),
    };
    let waiting = waits_on.map_or(&[][..], |before| &before.state.pending[..]);
    if state.next != expected || state.pending != waiting {
        let problem = format!(
            "`{}` was set at {}: its next is {:?}, not {expected:?}, and {:?} wait, not {waiting:?}",
            spec.name, state.at, state.next, state.pending
        );
        findings.report(NAME, problem);
    }
}

/// No run of a schedule begins before the instant in its name.
fn is_not_early(started: &Started, name: &str, findings: &mut Findings<'_>) {
    let at = nominal_text(started.at);
    let nominal = name.rsplit('/').next().and_then(|text| text.parse::<Timestamp>().ok());
    let nominal = nominal.map(|nominal| nominal.as_millisecond() as u64);
    if nominal.is_none_or(|nominal| nominal > started.at.0) {
        findings.report(EARLY, format!("{name} was started at {at}"));
    }
}

/// Those that were missed are counted, those of a long time not all of them.
fn is_counted(name: &str, missed: u64, expected: u64, findings: &mut Findings<'_>) {
    if missed != expected && expected < COUNT_MAX as u64 {
        findings.report(MISSED, format!("`{name}` counts {missed} as missed, not {expected}"));
    }
}

/// What came due.
struct Passed {
    newest: Time,
    in_time: bool,
    older: u64,
    next: Option<Time>,
}

/// Occurrences, found by looking at every instant.
struct Oracle<'a> {
    spec: &'a ScheduleSpec,
    /// Only to draw the jitter.
    calendar: Option<Calendar>,
    walls: Option<Walls>,
    span: Cell<Span>,
}

impl<'a> Oracle<'a> {
    fn of(spec: &'a ScheduleSpec) -> Self {
        let walls = match &spec.when {
            When::CronTimes(cron) => Walls::of(cron),
            When::EveryTimes(_) => None,
        };
        let calendar = Calendar::new(&spec.when).ok().filter(|_| spec.jitter_ms > 0);
        Self { spec, calendar, walls, span: Cell::default() }
    }

    fn due(&self, nominal: Time) -> Time {
        match &self.calendar {
            Some(calendar) => self.spec.due(calendar, nominal),
            None => nominal,
        }
    }

    fn is_due(&self, nominal: Time, now: Time) -> bool {
        // No draw is longer than the jitter.
        nominal.0 + self.spec.jitter_ms <= now.0 || self.due(nominal) <= now
    }

    fn after(&self, t: Time) -> Option<Time> {
        if let When::EveryTimes(every) = &self.spec.when {
            let gone = (t.0 - every.anchor.0) / every.every_ms + 1;
            return Some(Time(every.anchor.0 + gone * every.every_ms));
        }
        let walls = self.walls.as_ref()?;
        let grain = walls.grain_ms;
        let first = t.0 / grain + 1;
        let mut instants = (first..first + LOOK_MINUTES * 60_000 / grain).map(|n| Time(n * grain));
        let mut span = self.span.get();
        let found = instants.find(|at| walls.is_occurrence(*at, &mut span));
        self.span.set(span);
        found
    }

    fn passed(&self, next: Time, now: Time) -> Option<Passed> {
        if self.due(next) > now {
            return None;
        }
        let (mut newest, mut older) = (next, 0);
        let mut after = self.after(next);
        while let Some(later) = after.filter(|later| self.is_due(*later, now)) {
            (newest, older) = (later, older + 1);
            after = self.after(later);
        }
        let late_ms = now.since(self.due(newest)).as_millis() as u64;
        Some(Passed { newest, in_time: late_ms <= self.spec.catch_up_ms, older, next: after })
    }
}

/// The wall times that a cron expression names, in its zone.
struct Walls {
    /// Of seconds, minutes and hours, or of minutes and hours. Plans name no days.
    fields: Vec<Field>,
    grain_ms: u64,
    zone: TimeZone,
}

/// `*`, `*/n` or a number: what plans name.
enum Field {
    Step(i64),
    Number(i64),
}

/// Instants among which the clocks of a zone are not changed. More than a day after a change all of
/// them have one offset, and every wall time among them is there once.
#[derive(Default, Clone, Copy)]
struct Span {
    from_ms: u64,
    until_ms: u64,
    /// Of such ones.
    offset_ms: Option<i64>,
}

impl Walls {
    fn of(cron: &CronTimes) -> Option<Self> {
        let fields: Vec<&str> = cron.expression.split(' ').collect();
        let of = |field: &&str| match field.strip_prefix("*/") {
            Some(step) => step.parse().ok().map(Field::Step),
            None if *field == "*" => Some(Field::Step(1)),
            None => field.parse().ok().map(Field::Number),
        };
        let (seconds, named) = match fields.len() {
            6 => (true, &fields[..3]),
            _ => (false, &fields[..2]),
        };
        Some(Self {
            fields: named.iter().map(of).collect::<Option<_>>()?,
            grain_ms: if seconds { 1_000 } else { 60_000 },
            zone: TimeZone::get(&cron.zone).ok()?,
        })
    }

    /// Whether the wall time of an instant is named and was not there before, or one that was
    /// skipped just before it is.
    fn is_occurrence(&self, at: Time, span: &mut Span) -> bool {
        if !(span.from_ms..span.until_ms).contains(&at.0) {
            *span = self.span(at);
        }
        if let Some(offset_ms) = span.offset_ms {
            let second = (at.0 as i64 + offset_ms).div_euclid(1_000);
            return self.names(second.rem_euclid(DAY_S));
        }
        let wall = self.zone.to_datetime(instant(at.0));
        let offset = self.zone.to_offset(instant(at.0));
        let before = self.zone.to_offset(instant(at.0 - self.grain_ms));
        // Clocks were put forward: the wall times between are skipped.
        if offset.seconds() > before.seconds() {
            let step = jiff::SignedDuration::from_millis(self.grain_ms as i64);
            let mut skipped = self.zone.to_datetime(instant(at.0 - self.grain_ms)) + step;
            while skipped < wall {
                if self.names(second_of_day(skipped)) {
                    return true;
                }
                skipped += step;
            }
        }
        let again = match self.zone.to_ambiguous_timestamp(wall).offset() {
            AmbiguousOffset::Fold { before, .. } => before != offset,
            _ => false,
        };
        !again && self.names(second_of_day(wall))
    }

    /// The span in which an instant is.
    fn span(&self, at: Time) -> Span {
        let now = instant(at.0);
        let change = |change: Timestamp| change.as_millisecond().max(0) as u64;
        // One at this very instant, too.
        let last = self.zone.preceding(instant(at.0 + 1)).next();
        let last = last.map(|last| change(last.timestamp()));
        let quiet = last.map_or(0, |last| last + DAY_S as u64 * 1_000);
        let next = self.zone.following(now).next();
        let next = next.map_or(u64::MAX, |next| change(next.timestamp()));
        if at.0 < quiet {
            return Span { from_ms: last.unwrap_or(0), until_ms: next.min(quiet), offset_ms: None };
        }
        Span {
            from_ms: quiet,
            until_ms: next,
            offset_ms: Some(i64::from(self.zone.to_offset(now).seconds()) * 1_000),
        }
    }

    fn names(&self, second_of_day: i64) -> bool {
        let values = [second_of_day % 60, second_of_day / 60 % 60, second_of_day / 3_600];
        let values = &values[3 - self.fields.len()..];
        self.fields.iter().zip(values).all(|(field, value)| match field {
            Field::Step(step) => value % step == 0,
            Field::Number(number) => value == number,
        })
    }
}

fn instant(ms: u64) -> Timestamp {
    Timestamp::from_millisecond(ms as i64).unwrap_or_default()
}

fn second_of_day(wall: DateTime) -> i64 {
    i64::from(wall.hour()) * 3_600 + i64::from(wall.minute()) * 60 + i64::from(wall.second())
}
