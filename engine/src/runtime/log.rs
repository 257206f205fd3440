//! Logs what an operator should know.

use crate::core::output::Note;

/// Logs one note.
pub(super) fn log(note: &Note) {
    match note {
        Note::ClockJumped { by_ms } => tracing::warn!(
            by_ms,
            "clock_jumped: the wall clock jumped forward, engine time followed"
        ),
        Note::ClockNotBelieved { by_ms } => tracing::error!(
            by_ms,
            "the wall clock's jump exceeds the accepted limit, engine time did not follow: set the clock right, or open with `--accept-clock`"
        ),
        Note::SessionLost { process, runs } => {
            tracing::warn!(%process, runs, "a worker was lost, its runs go back to their queues")
        }
        Note::Parked { id, reason } => tracing::error!(%id, "parked: {reason}"),
        Note::Paused { id, reason } => tracing::warn!(%id, "paused: {reason}"),
        Note::Died { id, reason } => tracing::warn!(%id, reason, "a run became a dead letter"),
        Note::LongJournal { id, entries } => {
            tracing::warn!(%id, entries, "a journal has become long")
        }
        Note::QueueSet { queue, what, by } => match what.as_str() {
            "paused" | "resumed" => tracing::info!(queue, by, "queue {what}"),
            limits => tracing::info!(queue, by, "queue limits set: {limits}"),
        },
        Note::UnservedQueue { queue, reason, for_ms } => {
            tracing::warn!(queue, for_ms, "unserved_queue: runs are queued, and {reason}")
        }
        Note::UnservedQueueCleared { queue, reason } => {
            tracing::warn!(queue, "unserved_queue resolved: {reason}")
        }
        Note::LettersForgotten { count } => tracing::warn!(
            count,
            "dead letters were deleted: they were neither redriven nor discarded within their retention (`--dead-retention`)"
        ),
        Note::NotCleaned { generation, what } => {
            tracing::error!(
                generation,
                what,
                "a generation is kept beyond its retention: something in it cannot be read"
            );
        }
        Note::ScheduleSet { schedule, what, by } => {
            tracing::info!(schedule, by, "schedule {what}")
        }
        Note::OccurrencesMissed { schedule, missed, from } => {
            let from = from.map(|from| from.to_string());
            tracing::warn!(schedule, missed, from, "occurrences of a schedule were missed");
        }
        Note::ScheduleUnreadable { schedule, what } => {
            tracing::error!(
                schedule,
                what,
                "an occurrence of a schedule is missed: its run cannot be looked up"
            );
        }
        Note::Damaged { run, what } => {
            tracing::error!(%run, what, "a run is stopped: what is stored of it is damaged")
        }
    }
}
