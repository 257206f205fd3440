//! Points of the program that are passed, and what the script strikes with there.
//!
//! A strike takes place at the end of the tick in which its point is passed, from outside all
//! hosts. Whoever passes does nothing more until then, so that what comes behind the point comes
//! behind the strike.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Host, SERVER_NAME, World, lock};
use crate::plan::{Point, Strike};

impl World {
    /// A point is passed, on behalf of `worker` if it is about one. Tells whether the script
    /// strikes here.
    pub(super) fn passes(&self, point: &Point, worker: Option<&str>) -> Option<Strike> {
        let nth = {
            let mut passed = lock(&self.passed);
            match passed.get_mut(point) {
                Some(nth) => {
                    *nth += 1;
                    *nth
                }
                None => {
                    passed.insert(point.clone(), 1);
                    1
                }
            }
        };
        let scripted = self.plan.script.iter();
        let strike = scripted
            .filter(|scripted| scripted.nth == nth && scripted.point == *point)
            .map(|scripted| scripted.strike)
            .next()?;
        self.note(format_args!("{} the script strikes {point}: {strike}", self.now_ms()));
        lock(&self.strikes).push((strike, worker.map(str::to_owned)));
        Some(strike)
    }

    /// What strikes now, and the worker each is about.
    pub(crate) fn take_strikes(&self) -> Vec<(Strike, Option<String>)> {
        std::mem::take(&mut *lock(&self.strikes))
    }

    /// How often each point was passed.
    pub(crate) fn passed(&self) -> BTreeMap<Point, u32> {
        lock(&self.passed).clone()
    }
}

impl Host {
    /// Passes a point. If the script strikes here, who dies of it goes no further, and who does not
    /// goes on after it.
    pub(crate) async fn passes(&self, point: &Point) {
        let is_server = self.name == SERVER_NAME;
        let worker = (!is_server).then_some(self.name.as_str());
        let Some(strike) = self.world.passes(point, worker) else {
            return;
        };
        let dies = match is_server {
            true => strike.kills_server(),
            false => strike.kills_worker(),
        };
        if dies {
            std::future::pending::<()>().await;
        }
        self.rest(Duration::from_millis(self.world.plan.settings.tick_ms)).await;
    }
}
