//! Where each run waits: kept up with the rows that come and go, so that nobody looks through all
//! of them to find one.

use std::collections::BTreeMap;

use stepwell::keys::TimerRecord;
use stepwell::model::id::RunNo;
use stepwell::model::run::RunState;

/// The rows of each run that are a place, by the states they stand for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places(BTreeMap<RunNo, Vec<RunState>>);

impl Places {
    /// A row of `run` was written in place of `before`, or deleted.
    pub(crate) fn changed(
        &mut self,
        run: RunNo,
        before: Option<RunState>,
        after: Option<RunState>,
    ) {
        let places = self.0.entry(run).or_default();
        if let Some(at) = before.and_then(|before| places.iter().position(|at| *at == before)) {
            places.remove(at);
        }
        places.extend(after);
        places.sort_by_key(|state| rank(*state));
        if places.is_empty() {
            self.0.remove(&run);
        }
    }

    /// In how many places a run waits, and the states they stand for.
    pub(crate) fn of(&self, run: RunNo) -> &[RunState] {
        self.0.get(&run).map_or(&[], Vec::as_slice)
    }
}

/// A run that is in several places by mistake counts as where it is leased, and so on.
fn rank(state: RunState) -> u8 {
    match state {
        RunState::Running => 0,
        RunState::Queued => 1,
        RunState::Delayed | RunState::Suspended => 2,
        _ => 3,
    }
}

/// What a timer's row stands for.
pub(crate) fn timed(timer: &TimerRecord) -> RunState {
    match timer.delayed {
        true => RunState::Delayed,
        false => RunState::Suspended,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: RunNo = RunNo(7);

    #[test]
    fn a_run_that_was_moved_is_in_one_place() {
        let mut places = Places::default();
        places.changed(RUN, None, Some(RunState::Queued));
        places.changed(RUN, None, Some(RunState::Running));
        assert_eq!(places.of(RUN), [RunState::Running, RunState::Queued]);
        places.changed(RUN, Some(RunState::Queued), None);
        assert_eq!(places.of(RUN), [RunState::Running]);
        places.changed(RUN, Some(RunState::Running), None);
        assert!(places.of(RUN).is_empty() && places.0.is_empty());
    }

    #[test]
    fn a_row_written_over_is_one_place() {
        let mut places = Places::default();
        places.changed(RUN, None, Some(RunState::Queued));
        places.changed(RUN, Some(RunState::Queued), Some(RunState::Queued));
        assert_eq!(places.of(RUN), [RunState::Queued]);
    }
}
