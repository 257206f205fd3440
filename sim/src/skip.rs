//! Time that nobody needs is skipped: when every run waits for a timer that is far away, all wall
//! clocks are put forward at once, until just before the first one is due, or the next occurrence
//! of a schedule.
//!
//! Leases, heartbeats and timeouts live on monotonic time, durable timers on engine time, which
//! follows the wall clock. So a skip is what a world sees in which all machines slept: nothing was
//! on its way, everybody's date has moved on, and no monotonic clock. A running engine follows a
//! forward jump of up to 48 hours; a step is shorter, and the next one comes once the server has
//! looked at its clock.

use crate::client_log::Progress;
use crate::plan::Job;
use crate::world::World;

/// A timer that is due within this time is waited for.
const MOMENT_MS: u64 = 2_000;
/// So long before a timer is due a skip ends.
const BEFORE_MS: u64 = 100;
/// The longest step.
const STEP_MAX_MS: u64 = 47 * 3_600_000;

/// By how much all wall clocks may be put forward now. The server is up.
pub(crate) fn skippable_ms(world: &World) -> Option<u64> {
    // The server's clock, read since the last skip; and engine time, which may not have followed
    // it.
    let server = world.clocks().server()?;
    let due = {
        let checkers = world.checkers();
        let durable = &checkers.durable;
        let rest = durable.leases.is_empty() && durable.waiting.is_empty();
        let timer = durable.timers.keys().next().map(|(due, _)| *due);
        let occurrence = durable.schedules.values().filter_map(|schedule| schedule.due);
        timer.into_iter().chain(occurrence).min().filter(|_| rest)?
    };
    if due <= server.engine.after(std::time::Duration::from_millis(MOMENT_MS)) || asks(world) {
        return None;
    }
    let until = (due.0 - BEFORE_MS).min(server.engine.0 + STEP_MAX_MS);
    until.checked_sub(server.wall.0).filter(|by_ms| *by_ms > MOMENT_MS - BEFORE_MS)
}

/// Whether a client's call is under way that wants an answer now.
fn asks(world: &World) -> bool {
    let told = world.client_log();
    let mut jobs = told.jobs.iter().zip(&world.plan.jobs);
    jobs.any(|(progress, timed)| {
        matches!(progress, Progress::Runs(_)) && !matches!(timed.job, Job::Wait { .. })
    })
}
