//! **A timer never fires early.**
//!
//! Source: the core's invariant T1, in engine time, which never goes backwards within a journal either.

use stepwell::model::entry::Entry;
use stepwell::model::id::RunNo;

use super::Bench;
use crate::durable::Durable;

const NAME: &str = "a timer never fires early";

pub(super) fn appended(durable: &Durable, no: RunNo, index: u32, bench: &mut Bench<'_>) {
    let Some(run) = durable.runs.get(&no) else {
        return;
    };
    let (before, entry) = (&run.entries[..index as usize], &run.entries[index as usize]);
    if before.last().is_some_and(|last| last.at() > entry.at()) {
        bench.charge(
            NAME,
            format!(
                "{}: entry {index} is older than the one before it",
                run.name()
            ),
        );
    }
    let Entry::TimerFired(fired) = entry else {
        return;
    };
    let armed = before.iter().find_map(|entry| match entry {
        Entry::TimerArmed(armed) if armed.number == fired.number => Some(armed),
        _ => None,
    });
    match armed {
        Some(armed) if armed.due <= fired.at => {}
        Some(armed) => bench.charge(
            NAME,
            format!(
                "{}: entry {index} fired at {}, due at {}",
                run.name(),
                fired.at,
                armed.due
            ),
        ),
        None => bench.charge(
            NAME,
            format!("{}: entry {index} fired and was never armed", run.name()),
        ),
    }
}
