//! The rows that say in which state each run is: kept up as rows come and go, so that finding those
//! of one run needs no scan.

use std::collections::BTreeMap;

use stepwell::model::id::RunNo;
use stepwell::model::run::RunState;
use stepwell::tables::TimerRecord;

/// The rows of each run that stand for a state, by that state.
#[derive(Debug, Clone, Default)]
pub(crate) struct StateRows(BTreeMap<RunNo, Vec<RunState>>);

impl StateRows {
    /// A row of `run` was written in place of `before`, or deleted.
    pub(crate) fn changed(
        &mut self,
        run: RunNo,
        before: Option<RunState>,
        after: Option<RunState>,
    ) {
        let rows = self.0.entry(run).or_default();
        if let Some(at) = before.and_then(|before| rows.iter().position(|at| *at == before)) {
            rows.remove(at);
        }
        rows.extend(after);
        rows.sort_by_key(|state| rank(*state));
        if rows.is_empty() {
            self.0.remove(&run);
        }
    }

    /// The states that the rows of a run stand for.
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
        let mut rows = StateRows::default();
        rows.changed(RUN, None, Some(RunState::Queued));
        rows.changed(RUN, None, Some(RunState::Running));
        assert_eq!(rows.of(RUN), [RunState::Running, RunState::Queued]);
        rows.changed(RUN, Some(RunState::Queued), None);
        assert_eq!(rows.of(RUN), [RunState::Running]);
        rows.changed(RUN, Some(RunState::Running), None);
        assert!(rows.of(RUN).is_empty() && rows.0.is_empty());
    }

    #[test]
    fn a_row_written_over_is_one_place() {
        let mut rows = StateRows::default();
        rows.changed(RUN, None, Some(RunState::Queued));
        rows.changed(RUN, Some(RunState::Queued), Some(RunState::Queued));
        assert_eq!(rows.of(RUN), [RunState::Queued]);
    }
}
