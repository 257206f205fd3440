//! What the server counts, summed over its lives: a killed server forgets its counts, so they are asked often.

use stepwell::model::run::{RunState, Stats};

/// Counts over all epochs seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    past: Counts,
    last: Stats,
}

/// Counts that start again at zero with each life of the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Outcomes answered from the journal.
    pub(crate) replayed: u64,
    /// Grants after a death.
    pub(crate) regrants: u64,
    /// Late reports refused.
    pub(crate) refused_late: u64,
    /// Repeated reports answered again.
    pub(crate) repeated: u64,
    /// Sessions lost without a goodbye.
    pub(crate) sessions_lost: u64,
}

impl Tally {
    /// Takes the latest counts.
    pub(crate) fn heard(&mut self, stats: Stats) {
        if stats.epoch != self.last.epoch {
            self.past = self.counts();
        }
        self.last = stats;
    }

    /// The sums.
    pub(crate) fn counts(&self) -> Counts {
        Counts {
            replayed: self.past.replayed + self.last.replayed,
            regrants: self.past.regrants + self.last.regrants,
            refused_late: self.past.refused_late + self.last.refused_late,
            repeated: self.past.repeated + self.last.repeated,
            sessions_lost: self.past.sessions_lost + self.last.sessions_lost,
        }
    }

    /// Runs in a state, as last heard.
    pub(crate) fn runs_in(&self, state: RunState) -> u64 {
        self.last.runs_in(state)
    }

    /// Runs that have ended, as last heard.
    pub(crate) fn ended(&self) -> u64 {
        RunState::ALL
            .into_iter()
            .filter(|s| s.is_final())
            .map(|s| self.runs_in(s))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A new epoch starts counting at zero; what was counted before must not be lost.
    #[test]
    fn counts_are_summed_over_epochs() {
        let mut tally = Tally::default();
        for (epoch, replayed) in [(1, 3), (1, 10), (2, 0), (2, 4), (3, 1)] {
            tally.heard(Stats {
                epoch,
                replayed,
                ..Stats::default()
            });
        }
        assert_eq!(tally.counts().replayed, 15);
    }
}
