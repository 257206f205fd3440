//! Engine time from the machine's two clocks.
//!
//! Engine time moves with the monotonic clock and is slewed towards the wall clock: a tenth faster
//! while it is behind, a tenth slower while it is ahead. A wall clock more than a second ahead (the
//! machine slept, or was set) is followed in one jump, up to 48 h, with an alert; a larger jump is
//! not believed. It never goes backwards.
//!
//! Across restarts: a mark that engine time does not pass is stored ahead of time, in the order of
//! all other writes; an engine that opens starts at the mark or at the wall, whichever is later. If
//! that is the mark, engine time stands there until the wall has come as far, and the mark with it:
//! were the mark moved on at once, each restart of a crash loop would carry engine time further
//! away from the wall, until the store is refused.

use std::time::Duration;

use crate::canary::canary;
use crate::model::time::Time;

/// The wall may lead by this much before engine time jumps to it instead of being slewed.
const SLEW_MAX: Duration = Duration::from_secs(1);
/// The largest forward jump of the wall that is believed.
pub const JUMP_MAX: Duration = Duration::from_secs(48 * 3_600);
/// A stored mark this far ahead of the wall wants an operator's consent at open.
pub const MARK_AHEAD_MAX: Duration = Duration::from_secs(60);
/// How far ahead of engine time the mark is stored.
pub const MARK_LEAD: Duration = Duration::from_secs(2);
/// A mark at most this far ahead of the wall at open is waited for. It is more than [`MARK_LEAD`],
/// since the wall may have been set back a little.
const HOLD_MAX: Duration = Duration::from_secs(5);
/// How much faster or slower engine time moves while it is slewed: one part in this many.
const SLEW_PART: u32 = 10;

/// What the machine's clocks say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockSample {
    /// Monotonic time of this process.
    pub mono: Duration,
    /// The wall clock.
    pub wall: Time,
}

/// The wall clock moved in a way somebody should know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockAlert {
    /// Engine time jumped forward with the wall.
    Jumped {
        /// By how much.
        by: Duration,
    },
    /// The wall jumped further than is believed; engine time did not follow.
    NotBelieved {
        /// By how much.
        by: Duration,
    },
}

/// Engine time.
#[derive(Debug)]
pub struct EngineClock {
    mono: Duration,
    /// Microseconds since 1970, so that slewing short spans loses nothing.
    micros: u64,
    told_not_believed: bool,
    accept_any: bool,
    /// Stands at the mark it was opened with, until this monotonic time at the latest.
    held_until: Option<Duration>,
}

impl EngineClock {
    /// Starts at the stored mark or at the wall, whichever is later.
    pub fn open(sample: ClockSample, mark: Time, accept_any: bool) -> Self {
        let begin = match canary!("engine time begins at the wall clock") {
            true => sample.wall,
            false => sample.wall.max(mark),
        };
        let micros = begin.0.saturating_mul(1_000);
        let ahead = mark.since(sample.wall);
        let held_until = (!ahead.is_zero() && ahead <= HOLD_MAX).then(|| sample.mono + HOLD_MAX);
        Self { mono: sample.mono, micros, told_not_believed: false, accept_any, held_until }
    }

    /// Whether it stands at the mark it was opened with. It does not pass that mark meanwhile.
    pub fn is_held(&self) -> bool {
        self.held_until.is_some()
    }

    /// Engine time as last advanced.
    pub fn now(&self) -> Time {
        Time(self.micros / 1_000)
    }

    /// Moves on to `sample`.
    pub fn advance(&mut self, sample: ClockSample) -> Option<ClockAlert> {
        let passed = sample.mono.saturating_sub(self.mono);
        self.mono = self.mono.max(sample.mono);
        let plain = self.micros.saturating_add(micros(passed));
        let wall = sample.wall.0.saturating_mul(1_000);
        if let Some(until) = self.held_until {
            if wall < self.micros && sample.mono < until {
                return None;
            }
            self.held_until = None;
        }
        if wall <= plain {
            let slower = match canary!("engine time is set back with the wall clock") {
                true => plain - wall,
                false => micros(passed / SLEW_PART).min(plain - wall),
            };
            self.micros = plain - slower;
            self.told_not_believed = false;
            return None;
        }
        let ahead = Duration::from_micros(wall - plain);
        if ahead <= SLEW_MAX {
            self.micros = plain + micros(passed / SLEW_PART).min(wall - plain);
            self.told_not_believed = false;
            return None;
        }
        if ahead > JUMP_MAX && !self.accept_any {
            self.micros = plain;
            let told = std::mem::replace(&mut self.told_not_believed, true);
            return (!told).then_some(ClockAlert::NotBelieved { by: ahead });
        }
        self.micros = wall;
        Some(ClockAlert::Jumped { by: ahead })
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_ms: u64, wall_ms: u64) -> ClockSample {
        ClockSample { mono: Duration::from_millis(mono_ms), wall: Time(wall_ms) }
    }

    #[test]
    fn never_goes_backwards() {
        let mut clock = EngineClock::open(at(0, 1_000_000), Time(0), false);
        assert_eq!(clock.advance(at(1_000, 500_000)), None);
        assert_eq!(clock.now(), Time(1_000_900));
    }

    #[test]
    fn is_slewed_to_a_wall_slightly_ahead() {
        let mut clock = EngineClock::open(at(0, 1_000_000), Time(0), false);
        clock.advance(at(1_000, 1_001_500));
        assert_eq!(clock.now(), Time(1_001_100));
    }

    #[test]
    fn follows_a_jump_and_says_so() {
        let mut clock = EngineClock::open(at(0, 1_000_000), Time(0), false);
        assert_eq!(
            clock.advance(at(10, 4_600_010)),
            Some(ClockAlert::Jumped { by: Duration::from_secs(3_600) })
        );
        assert_eq!(clock.now(), Time(4_600_010));
    }

    #[test]
    fn does_not_believe_a_year() {
        let mut clock = EngineClock::open(at(0, 0), Time(0), false);
        let year = 365 * 86_400_000;
        assert!(matches!(clock.advance(at(10, year)), Some(ClockAlert::NotBelieved { .. })));
        assert_eq!(clock.advance(at(20, year)), None);
        assert_eq!(clock.now(), Time(20));
    }

    #[test]
    fn opens_at_the_mark_if_the_wall_is_behind() {
        assert_eq!(EngineClock::open(at(0, 10_000), Time(12_000), false).now(), Time(12_000));
    }

    // What an engine does that is killed twice a second.
    #[test]
    fn restarts_do_not_carry_it_away_from_the_wall() {
        let mut mark = Time(0);
        for life in 0..1_000 {
            let begin = 1_000_000 + life * 500;
            let mut clock = EngineClock::open(at(0, begin), mark, false);
            for mono in (0..500).step_by(100) {
                let before = clock.now();
                clock.advance(at(mono, begin + mono));
                assert!(clock.now() >= before && clock.now() >= Time(begin));
                if !clock.is_held() {
                    mark = mark.max(clock.now().after(MARK_LEAD));
                }
                assert!(clock.now() <= mark, "in life {life}");
            }
            assert!(
                mark.since(Time(begin)) <= MARK_LEAD + Duration::from_millis(500),
                "in life {life}"
            );
        }
    }

    #[test]
    fn stands_at_the_mark_for_some_seconds_at_most() {
        let mut clock = EngineClock::open(at(0, 10_000), Time(12_000), false);
        clock.advance(at(1_000, 11_000));
        assert_eq!((clock.now(), clock.is_held()), (Time(12_000), true));
        clock.advance(at(5_000, 4_000)); // set back meanwhile
        assert!(clock.now() > Time(12_000) && !clock.is_held());
        assert!(!EngineClock::open(at(0, 10_000), Time(40_000), false).is_held());
    }
}
