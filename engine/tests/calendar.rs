//! When occurrences are, against an oracle that looks at every minute.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, ToSpan};
use proptest::prelude::*;
use stepwell::Time;
use stepwell::model::calendar::Calendar;
use stepwell::model::payload::Payload;
use stepwell::model::request::Refusal;
use stepwell::model::schedule::{CronTimes, EveryTimes, Overlap, ScheduleSpec, When};

const ZONES: [&str; 4] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe", // half an hour of summer time
];
const MINUTE: u64 = 60_000;
const DAY: u64 = 1_440 * MINUTE;

fn cron(expression: &str, zone: &str) -> Calendar {
    let times = CronTimes { expression: expression.to_owned(), zone: zone.to_owned() };
    Calendar::new(&When::CronTimes(times)).unwrap_or_else(|refusal| panic!("{refusal}"))
}

fn at(text: &str) -> Time {
    let instant: Timestamp = text.parse().unwrap();
    Time(instant.as_millisecond() as u64)
}

fn from(calendar: &Calendar, first: Time) -> impl Iterator<Item = Time> + '_ {
    std::iter::successors(calendar.from(first), |t| calendar.after(*t))
}

/// The occurrences of a day, as text.
fn on(calendar: &Calendar, begin: &str, end: &str) -> Vec<String> {
    let end = at(end);
    let day = from(calendar, at(begin)).take_while(|t| *t < end);
    day.map(|t| t.to_string().replace(".000Z", "Z")).collect()
}

// A18: 06:00 daily is 365 times a year, every 15 minutes 35,040 times.
#[test]
fn a_year_has_365_mornings_and_35_040_quarters_of_an_hour() {
    let (begin, end) = (at("2026-01-01T00:00:00Z"), at("2027-01-01T00:00:00Z"));
    let count = |calendar: Calendar| from(&calendar, begin).take_while(|t| *t < end).count();
    for zone in ZONES {
        assert_eq!(count(cron("0 6 * * *", zone)), 365, "{zone}");
        assert_eq!(count(cron("0 0 6 * * *", zone)), 365, "{zone}");
        assert_eq!(count(cron("30 2 * * *", zone)), 365, "{zone}");
    }
    assert_eq!(count(cron("*/15 * * * *", "UTC")), 35_040);
    // The four quarters of the skipped hour are the instant behind it; those of the repeated one
    // are once.
    assert_eq!(count(cron("*/15 * * * *", "Europe/Berlin")), 35_036);
    assert_eq!(count(cron("*/15 * * * *", "Australia/Lord_Howe")), 35_038);
    let anchor = at("2001-01-01T00:00:00Z");
    let every = EveryTimes { every_ms: 15 * MINUTE, anchor };
    assert_eq!(count(Calendar::new(&When::EveryTimes(every)).unwrap()), 35_040);
}

#[test]
fn a_skipped_wall_time_is_the_first_instant_after_the_gap() {
    let berlin = cron("30 2 * * *", "Europe/Berlin");
    let gap = on(&berlin, "2026-03-28T12:00:00Z", "2026-03-30T12:00:00Z");
    assert_eq!(gap, ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]);
    let new_york = cron("0 30 2 * * *", "America/New_York");
    let gap = on(&new_york, "2026-03-07T12:00:00Z", "2026-03-09T12:00:00Z");
    assert_eq!(gap, ["2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"]);
    let lord_howe = cron("10 2 * * *", "Australia/Lord_Howe");
    let gap = on(&lord_howe, "2026-10-03T00:00:00Z", "2026-10-05T00:00:00Z");
    assert_eq!(gap, ["2026-10-03T15:30:00Z", "2026-10-04T15:10:00Z"]);
    // All that is skipped is one instant.
    let often = cron("*/10 * * * *", "Europe/Berlin");
    let gap = on(&often, "2026-03-29T00:40:00Z", "2026-03-29T01:20:00Z");
    assert_eq!(
        gap,
        [
            "2026-03-29T00:40:00Z",
            "2026-03-29T00:50:00Z",
            "2026-03-29T01:00:00Z",
            "2026-03-29T01:10:00Z"
        ]
    );
}

#[test]
fn a_repeated_wall_time_is_the_first_of_the_two() {
    let berlin = cron("30 2 * * *", "Europe/Berlin");
    let fold = on(&berlin, "2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z");
    assert_eq!(fold, ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
    let new_york = cron("30 1 * * *", "America/New_York");
    let fold = on(&new_york, "2026-10-31T12:00:00Z", "2026-11-02T12:00:00Z");
    assert_eq!(fold, ["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"]);
    let lord_howe = cron("45 1 * * *", "Australia/Lord_Howe");
    let fold = on(&lord_howe, "2026-04-04T00:00:00Z", "2026-04-06T00:00:00Z");
    assert_eq!(fold, ["2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"]);
    // Set in the second pass, it has been for that day.
    assert_eq!(berlin.after(at("2026-10-25T01:10:00Z")), Some(at("2026-10-26T01:30:00Z")));
}

#[test]
fn a_year_that_has_no_such_day_is_waited_for() {
    let leap = cron("0 0 29 2 *", "Europe/Berlin");
    assert_eq!(leap.after(at("2026-01-01T00:00:00Z")), Some(at("2028-02-28T23:00:00Z")));
    let never = CronTimes { expression: "0 0 31 4,6 *".to_owned(), zone: "UTC".to_owned() };
    let refused = Calendar::new(&When::CronTimes(never));
    assert!(matches!(refused, Err(Refusal::NeverFires(_))), "{refused:?}");
}

/// The fields of an expression, as the numbers they name; none says any.
#[derive(Debug, Clone)]
struct Fields {
    minutes: Option<Vec<i8>>,
    hours: Option<Vec<i8>>,
    days: Option<Vec<i8>>,
    months: Option<Vec<i8>>,
    weekdays: Option<Vec<i8>>,
}

fn field(range: std::ops::Range<i8>) -> impl Strategy<Value = Option<Vec<i8>>> {
    prop_oneof![
        Just(None),
        prop::collection::btree_set(range, 1..4).prop_map(|set| Some(set.into_iter().collect()))
    ]
}

fn fields() -> impl Strategy<Value = Fields> {
    // Most of them name something near a change of the clocks, at one to four in the morning.
    let hours = prop_oneof![field(0..24), field(0..4)];
    (field(0..60), hours, field(1..32), Just(None), field(0..7)).prop_map(
        |(minutes, hours, days, months, weekdays)| Fields {
            minutes,
            hours,
            days,
            months,
            weekdays,
        },
    )
}

impl Fields {
    fn expression(&self) -> String {
        let text = |field: &Option<Vec<i8>>| match field {
            None => "*".to_owned(),
            Some(values) => values.iter().map(i8::to_string).collect::<Vec<_>>().join(","),
        };
        let fields = [&self.minutes, &self.hours, &self.days, &self.months, &self.weekdays];
        fields.map(text).join(" ")
    }

    /// Days of the month and of the week are alternatives, if both are named.
    fn matches(&self, wall: DateTime) -> bool {
        let is =
            |field: &Option<Vec<i8>>, value: i8| field.as_ref().is_none_or(|f| f.contains(&value));
        let weekday = wall.weekday().to_sunday_zero_offset();
        let day = match (&self.days, &self.weekdays) {
            (Some(days), Some(weekdays)) => {
                days.contains(&wall.day()) || weekdays.contains(&weekday)
            }
            _ => is(&self.days, wall.day()) && is(&self.weekdays, weekday),
        };
        day && is(&self.minutes, wall.minute())
            && is(&self.hours, wall.hour())
            && is(&self.months, wall.month())
    }

    /// Whether a minute is an occurrence: its wall time is named and was not there before, or a
    /// named one was skipped just before it.
    fn is_occurrence(&self, zone: &TimeZone, instant: Timestamp) -> bool {
        let wall = zone.to_datetime(instant);
        let offset = zone.to_offset(instant);
        let second = match zone.to_ambiguous_timestamp(wall).offset() {
            AmbiguousOffset::Fold { before, .. } => before != offset,
            _ => false,
        };
        let minute_before = zone.to_datetime(instant - 1.minute());
        let mut skipped = minute_before + 1.minute();
        let mut was_skipped = false;
        while skipped < wall {
            was_skipped |= self.matches(skipped);
            skipped += 1.minute();
        }
        was_skipped || (self.matches(wall) && !second)
    }
}

/// Instants around changes of the clocks, and elsewhere in the year.
fn begins() -> impl Strategy<Value = Time> {
    const CHANGES: [&str; 6] = [
        "2026-03-08T07:00:00Z",
        "2026-03-29T01:00:00Z",
        "2026-04-04T15:00:00Z",
        "2026-10-03T15:30:00Z",
        "2026-10-25T01:00:00Z",
        "2026-11-01T06:00:00Z",
    ];
    prop_oneof![
        4 => (prop::sample::select(&CHANGES[..]), 0..2 * DAY).prop_map(|(change, before)| Time(at(change).0 - before)),
        1 => (0..365 * DAY).prop_map(|ms| Time(at("2026-01-01T00:00:00Z").0 + ms)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    // A18: none missing, none twice, whatever the expression, the zone and the clocks do.
    #[test]
    fn occurrences_are_those_of_an_oracle_that_looks_at_every_minute(
        fields in fields(),
        zone in prop::sample::select(&ZONES[..]),
        begin in begins(),
    ) {
        let parsed = Calendar::new(&When::CronTimes(CronTimes { expression: fields.expression(), zone: zone.to_owned() }));
        let Ok(calendar) = parsed else { return Ok(()) };
        let known = TimeZone::get(zone).unwrap();
        let end = Time(begin.0 + 3 * DAY);
        let first = begin.0.div_ceil(MINUTE);
        let expected: Vec<Time> = (first..end.0.div_ceil(MINUTE))
            .map(|minute| Time(minute * MINUTE))
            .filter(|t| fields.is_occurrence(&known, Timestamp::from_millisecond(t.0 as i64).unwrap()))
            .collect();
        let found: Vec<Time> = from(&calendar, begin).take_while(|t| *t < end).collect();
        prop_assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "strictly rising: {found:?}");
        prop_assert_eq!(&found, &expected, "{} in {}", fields.expression(), zone);
        // Asked from anywhere, it is the same.
        for t in (begin.0..end.0).step_by(1_234_567) {
            let next = expected.iter().find(|e| e.0 > t);
            if let Some(next) = next {
                prop_assert_eq!(calendar.after(Time(t)), Some(*next));
            }
        }
    }

    // A19: what has come due together is counted, and the newest of it found, as if each were
    // looked at.
    #[test]
    fn what_has_passed_is_what_was_due(
        fields in fields(),
        zone in prop::sample::select(&ZONES[..]),
        begin in begins(),
        passes in 0..3 * DAY,
        jitter_ms in prop_oneof![Just(0), 1..DAY],
        catch_up_ms in 10_000..DAY,
    ) {
        let when = When::CronTimes(CronTimes { expression: fields.expression(), zone: zone.to_owned() });
        let Ok(calendar) = Calendar::new(&when) else { return Ok(()) };
        let spec = ScheduleSpec {
            name: "s".into(), workflow: "w".into(), version: 1, queue: "q".into(), priority: 5, input: Payload::default(),
            when, jitter_ms, overlap: Overlap::Skip, catch_up_ms, tags: Vec::new(),
        };
        let next = calendar.from(begin).unwrap();
        let now = Time(next.0 + passes);
        let due: Vec<Time> = from(&calendar, next).take_while(|t| *t <= now).filter(|t| spec.due(&calendar, *t) <= now).collect();
        let rising: Vec<Time> = from(&calendar, next).take(20).map(|t| spec.due(&calendar, t)).collect();
        prop_assert!(rising.windows(2).all(|pair| pair[0] < pair[1]), "jitter keeps the order: {rising:?}");
        let passed = spec.passed(&calendar, next, now);
        match due.last() {
            None => prop_assert_eq!(passed, None),
            Some(newest) => {
                let passed = passed.unwrap();
                let in_time = now.since(spec.due(&calendar, *newest)).as_millis() as u64 <= catch_up_ms;
                prop_assert_eq!(passed.newest, in_time.then_some(*newest));
                prop_assert_eq!(passed.next, calendar.after(*newest));
                let older = (due.len() as u64 - 1).min(1_000);
                prop_assert_eq!(passed.missed, older + u64::from(!in_time));
            }
        }
    }
}

// A backfill may begin anywhere: the beginning of time is an occurrence only if it is one.
#[test]
fn the_first_instant_is_an_occurrence_only_if_it_is_one() {
    let cron = |expression: &str, zone: &str| {
        When::CronTimes(CronTimes { expression: expression.to_owned(), zone: zone.to_owned() })
    };
    let every = |every_ms, anchor| When::EveryTimes(EveryTimes { every_ms, anchor: Time(anchor) });
    let hour = 3_600_000;
    for (when, first) in [
        (cron("0 6 * * *", "UTC"), 6 * hour),
        (cron("0 * * * *", "UTC"), 0),
        (cron("0 1 * * *", "Europe/Berlin"), 0),
        (cron("0 6 * * *", "Europe/Berlin"), 5 * hour),
        (every(hour, 0), 0),
        (every(hour, 5 * hour + 1), 1),
        (every(hour, 7), 7),
    ] {
        let calendar = Calendar::new(&when).unwrap();
        assert_eq!(calendar.from(Time(0)), Some(Time(first)), "{when:?}");
        assert_eq!(calendar.from(Time(first + 1)), calendar.after(Time(first)));
    }
}
