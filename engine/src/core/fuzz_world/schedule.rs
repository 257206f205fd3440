//! Schedules in the fuzz world: set, paused, resumed, removed, filled, like everything else in any
//! order.

use super::{FuzzWorld, caller, new_caller, repeating_caller};
use crate::model::id::{Namespace, RunId};
use crate::model::payload::Payload;
use crate::model::schedule::{EveryTimes, Overlap, ScheduleSpec};
use crate::model::time::Time;
use crate::wire::message::{
    AskOccurrences, Backfill, PauseSchedule, Redrive, RemoveSchedule, ResumeSchedule, SetSchedule,
    call_as,
};

const NAMES: [&str; 3] = ["x", "y", "z"];

impl FuzzWorld {
    /// Asks something of a schedule.
    pub(super) fn schedule(&mut self, which: u8, what: u8, how: u8) {
        let name = NAMES[usize::from(which) % NAMES.len()].to_owned();
        if what % 9 == 8 {
            return self.redrive_last(&name);
        }
        let now = self.stepped.core.now();
        self.request(RunId(0), |call_number| {
            let caller = repeating_caller(call_number);
            match what % 9 {
                0..=2 => {
                    call_as(call_number, caller, SetSchedule { spec: Box::new(spec(name, how)) })
                }
                3 => call_as(call_number, caller, PauseSchedule { name }),
                4 => call_as(call_number, caller, ResumeSchedule { name }),
                5 => call_as(call_number, caller, RemoveSchedule { name }),
                6 => call_as(
                    call_number,
                    caller,
                    Backfill { name, from: Time(now.0 - u64::from(how) * 200), to: now, limit: 5 },
                ),
                _ => call_as(call_number, caller, AskOccurrences { name, count: 3 }),
            }
        });
    }

    /// The last run of a schedule is sent back to work, if it is a dead letter.
    fn redrive_last(&mut self, name: &str) {
        let schedules = &self.stepped.core.schedules;
        let found = schedules.find(Namespace::default(), name);
        let last = found.and_then(|(_, schedule)| {
            let nominal = schedule.state.last?;
            Some(schedule.record.spec.run_name(nominal))
        });
        let Some(last) = last else { return };
        let id = RunId::from_name(Namespace::default(), &last);
        self.request(id, |call_number| {
            let caller = new_caller(call_number);
            call_as(call_number, caller, Redrive { id })
        });
    }

    /// No run comes any more that nobody asks for.
    pub(super) fn remove_schedules(&mut self) {
        let rows = self.stepped.core.schedules.page(Namespace::default(), None);
        let names: Vec<String> = rows.map(|row| row.record.spec.name.clone()).collect();
        for name in names {
            self.request(RunId(0), |call_number| {
                call_as(call_number, caller(), RemoveSchedule { name })
            });
        }
    }
}

fn spec(name: String, how: u8) -> ScheduleSpec {
    ScheduleSpec {
        name,
        workflow: ["two", "sleeper", "doomed"][usize::from(how) % 3].to_owned(),
        version: 1,
        queue: "a".to_owned(),
        priority: how % 10,
        input: Payload::default(),
        when: EveryTimes { every_ms: 2_000 + u64::from(how % 4) * 3_000, anchor: Time(0) }.into(),
        jitter_ms: u64::from(how % 3) * 1_000,
        overlap: Overlap::ALL[usize::from(how / 16) % 5],
        catch_up_ms: 10_000 + u64::from(how / 2) * 1_000,
        tags: Vec::new(),
    }
}
