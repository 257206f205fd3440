//! Cron expressions in a time zone. The rule for clocks that are put forward and back is the
//! calendar's.

use croner::Cron as Pattern;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};

use super::request::{BadCron, NeverFires, Refusal, UnknownZone};
use super::schedule::CRON_BYTES_MAX;
use super::time::Time;
use crate::canary::canary;

/// The names of the fields, and what may stand in them.
const FIELDS: [(&str, &str); 6] = [
    ("second", "0 to 59"),
    ("minute", "0 to 59"),
    ("hour", "0 to 23"),
    ("day of month", "1 to 31, or L"),
    ("month", "1 to 12, or JAN to DEC"),
    ("day of week", "0 to 7 (0 and 7 are Sunday), or SUN to SAT"),
];
/// Names of zones that are told to somebody who mistyped one.
const NEAR_MAX: usize = 3;
/// Wall times looked at for one occurrence: all those of a gap are one instant, and no gap of a
/// zone is seen more than once.
const LOOK_MAX: usize = 8;

/// A cron expression in a zone.
#[derive(Debug, Clone)]
pub(super) struct Cron {
    pattern: Pattern,
    zone: TimeZone,
}

impl Cron {
    pub(super) fn new(expression: &str, zone: &str) -> Result<Self, Refusal> {
        let pattern = parsed(expression)?;
        let zone = zone_of(zone)?;
        let cron = Self { pattern, zone };
        match cron.after(Time(0)) {
            Some(_) => Ok(cron),
            None => Err(NeverFires { expression: expression.to_owned() }.into()),
        }
    }

    pub(super) fn after(&self, t: Time) -> Option<Time> {
        self.after_ms(i64::try_from(t.0).ok()?)
    }

    /// The first occurrence at or behind the beginning of 1970.
    pub(super) fn first_of_all(&self) -> Option<Time> {
        self.after_ms(-1)
    }

    fn after_ms(&self, ms: i64) -> Option<Time> {
        let now = Timestamp::from_millisecond(ms).ok()?;
        let (mut wall, mut inclusive) = (self.wall(now)?, true);
        for _ in 0..LOOK_MAX {
            let found = self.pattern.find_next_occurrence(&wall, inclusive).ok()?;
            let at = self.instant(found)?;
            if at > now {
                return u64::try_from(at.as_millisecond()).ok().map(Time);
            }
            (wall, inclusive) = (found, false);
        }
        None
    }

    /// The wall time from which on there may be occurrences behind `now`.
    fn wall(&self, now: Timestamp) -> Option<DateTime> {
        let wall = self.zone.to_datetime(now).with().subsec_nanosecond(0).build().ok()?;
        let ambiguous = self.zone.to_ambiguous_timestamp(wall);
        match ambiguous.offset() {
            // The second pass of repeated wall times: all of them have been.
            AmbiguousOffset::Fold { before, after } if self.zone.to_offset(now) == after => {
                let first = before.to_timestamp(wall).ok()?;
                let back = self.zone.following(first).next()?.timestamp();
                Some(before.to_datetime(back))
            }
            _ => Some(wall),
        }
    }

    /// The instant of a wall time.
    fn instant(&self, wall: DateTime) -> Option<Timestamp> {
        match self.zone.to_ambiguous_timestamp(wall).offset() {
            AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(wall).ok(),
            AmbiguousOffset::Fold { before, .. } => before.to_timestamp(wall).ok(),
            AmbiguousOffset::Gap { .. }
                if canary!("what a gap of the clocks skips is left out") =>
            {
                Some(Timestamp::MIN)
            }
            AmbiguousOffset::Gap { after, .. } => {
                let before_the_gap = after.to_timestamp(wall).ok()?;
                Some(self.zone.following(before_the_gap).next()?.timestamp())
            }
        }
    }
}

fn parser() -> CronParser {
    let parser = CronParser::builder();
    parser.seconds(Seconds::Optional).year(Year::Disallowed).build()
}

fn parsed(expression: &str) -> Result<Pattern, Refusal> {
    if expression.len() > CRON_BYTES_MAX {
        let short: String = expression.chars().take(64).collect();
        let bytes = expression.len();
        let problem = format!("it has {bytes} bytes, more than {CRON_BYTES_MAX}");
        return Err(bad(&short, 1, problem));
    }
    let problem = match parser().parse(expression) {
        Ok(pattern) => return Ok(pattern),
        Err(error) => error.to_string(),
    };
    let fields: Vec<&str> = expression.split_whitespace().collect();
    if !(5..=6).contains(&fields.len()) {
        let problem = format!(
            "it has {} fields: 5 are expected (minute, hour, day of month, month, day of week), or 6 with the second in front",
            fields.len()
        );
        return Err(bad(expression, 1, problem));
    }
    // Which field it is: the first that is wrong among stars.
    for (at, field) in fields.iter().enumerate() {
        let mut alone = vec!["*"; fields.len()];
        alone[at] = field;
        if parser().parse(&alone.join(" ")).is_err() {
            let (name, range) = FIELDS[at + FIELDS.len() - fields.len()];
            let position = field.as_ptr() as usize - expression.as_ptr() as usize + 1;
            let problem = format!(
                "`{field}` is not a valid {name}: {range}, or lists, ranges and steps of them, or *"
            );
            return Err(bad(expression, position, problem));
        }
    }
    Err(bad(expression, 1, problem))
}

fn bad(expression: &str, position: usize, problem: String) -> Refusal {
    BadCron { expression: expression.to_owned(), position: position as u32, problem }.into()
}

fn zone_of(name: &str) -> Result<TimeZone, Refusal> {
    let zones = TimeZoneDatabase::bundled();
    if let Ok(zone) = zones.get(name) {
        return Ok(zone);
    }
    let wanted = name.to_lowercase();
    let mut near: Vec<(usize, String)> = zones
        .available()
        .map(|known| (distance(&wanted, &known.as_str().to_lowercase()), known.as_str().to_owned()))
        .collect();
    near.sort();
    let nearest = near.first().map_or(0, |(distance, _)| *distance);
    near.retain(|(distance, _)| *distance <= nearest + 1);
    near.truncate(NEAR_MAX);
    Err(UnknownZone {
        zone: name.chars().take(64).collect(),
        near: near.into_iter().map(|(_, name)| name).collect::<Vec<_>>().join(" or "),
    }
    .into())
}

/// How far two names are apart: letters to change, and a part of it if one is in the other.
fn distance(wanted: &str, known: &str) -> usize {
    let (wanted, known): (Vec<char>, Vec<char>) =
        (wanted.chars().take(64).collect(), known.chars().collect());
    let city: String = known.rsplit(|c| *c == '/').next().unwrap_or_default().iter().collect();
    if wanted.iter().collect::<String>() == city {
        return 0;
    }
    let mut row: Vec<usize> = (0..=known.len()).collect();
    for (i, a) in wanted.iter().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, b) in known.iter().enumerate() {
            let change = corner + usize::from(a != b);
            corner = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(corner + 1);
        }
    }
    row[known.len()]
}
