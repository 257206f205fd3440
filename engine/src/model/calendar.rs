//! When occurrences are: pure arithmetic over wall times and instants.
//!
//! A cron expression names wall times of a zone. They are searched as if there were no zones, and
//! each is then taken for an instant by one rule:
//!
//! - a wall time that is there once is that instant;
//! - a wall time that is skipped (clocks go forward over it) is the first instant after the gap;
//! - a wall time that is repeated (clocks go back over it) is the first of the two.
//!
//! The rule keeps the order of wall times, and several of them may become one instant: all those of
//! a gap do. So the occurrences are the *different* instants, in order; an interval knows no zones
//! and is not touched by any of this.
//!
//! The time zones are those compiled in, so that all machines agree; a build without the feature
//! `calendar` has none.

use super::request::{BadSpan, Refusal};
use super::schedule::{EVERY_MIN, SPAN_MAX, When};
use super::time::Time;

/// A parsed [`When`].
#[derive(Debug, Clone)]
pub struct Calendar(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Every {
        every_ms: u64,
        anchor: Time,
    },
    #[cfg(feature = "calendar")]
    Cron(Box<super::cron::Cron>),
}

impl Calendar {
    /// Reads what a schedule says.
    ///
    /// Errors: [`Refusal::BadCron`], [`Refusal::UnknownZone`], [`Refusal::NeverFires`],
    /// [`Refusal::BadSpan`].
    pub fn new(when: &When) -> Result<Self, Refusal> {
        match when {
            When::EveryTimes(every) => {
                let (min, max) = (EVERY_MIN.as_millis() as u64, SPAN_MAX.as_millis() as u64);
                if !(min..=max).contains(&every.every_ms) {
                    return Err(BadSpan::of("the interval", every.every_ms, min, max));
                }
                let (every_ms, anchor) = (every.every_ms, every.anchor);
                Ok(Self(Kind::Every { every_ms, anchor }))
            }
            #[cfg(feature = "calendar")]
            When::CronTimes(cron) => {
                let cron = super::cron::Cron::new(&cron.expression, &cron.zone)?;
                Ok(Self(Kind::Cron(Box::new(cron))))
            }
            #[cfg(not(feature = "calendar"))]
            When::CronTimes(_) => Err(super::request::NotUnderstood {
                cause: "this build has no cron expressions".to_owned(),
            }
            .into()),
        }
    }

    /// The first occurrence behind `t`.
    pub fn after(&self, t: Time) -> Option<Time> {
        match &self.0 {
            Kind::Every { every_ms, anchor } if t < *anchor => {
                let back = (anchor.0 - t.0 - 1) / every_ms;
                Some(Time(anchor.0 - back * every_ms))
            }
            Kind::Every { every_ms, anchor } => {
                let gone = (t.0 - anchor.0) / every_ms + 1;
                let next = gone.checked_mul(*every_ms)?.checked_add(anchor.0)?;
                Some(Time(next))
            }
            #[cfg(feature = "calendar")]
            Kind::Cron(cron) => cron.after(t),
        }
    }

    /// The first occurrence at or behind `t`.
    pub fn from(&self, t: Time) -> Option<Time> {
        match t.0.checked_sub(1) {
            Some(before) => self.after(Time(before)),
            None => self.first_of_all(),
        }
    }

    /// The first occurrence at or behind the beginning of 1970, in front of which there is no
    /// instant.
    fn first_of_all(&self) -> Option<Time> {
        match &self.0 {
            Kind::Every { every_ms, anchor } => Some(Time(anchor.0 % every_ms)),
            #[cfg(feature = "calendar")]
            Kind::Cron(cron) => cron.first_of_all(),
        }
    }

    /// The last occurrence between `first`, which is one, and `until`.
    pub(crate) fn last_within(&self, first: Time, until: Time) -> Option<Time> {
        if first > until {
            return None;
        }
        // No occurrence is behind `hi` and at or before `until`.
        let (mut last, mut hi) = (first, until);
        while hi.0 - last.0 > 1 {
            let mid = Time(last.0 + (hi.0 - last.0) / 2);
            match self.after(mid).filter(|next| *next <= until) {
                Some(next) => last = next,
                None => hi = mid,
            }
        }
        match self.after(last).filter(|next| *next <= until) {
            Some(next) => Some(next),
            None => Some(last),
        }
    }

    /// How many occurrences are between `first`, which is one, and `end`, not counted beyond `max`
    /// unless that is easy.
    #[cfg_attr(not(feature = "calendar"), allow(unused_variables))]
    pub(crate) fn count(&self, first: Time, end: Time, max: u64) -> u64 {
        match &self.0 {
            Kind::Every { every_ms, .. } => end.0.saturating_sub(first.0).div_ceil(*every_ms),
            #[cfg(feature = "calendar")]
            Kind::Cron(_) => {
                let nominals = std::iter::successors(Some(first), |nominal| self.after(*nominal));
                let before = nominals.take_while(|nominal| *nominal < end);
                before.take(usize::try_from(max).unwrap_or(usize::MAX)).count() as u64
            }
        }
    }
}
