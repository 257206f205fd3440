//! A host's clocks: tokio's simulated time, and a wall clock that may be off.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use stepwell::model::time::Time;
use stepwell::runtime::env::Clock;

use super::Host;

/// Monotonic time starts at zero in each life.
pub(super) struct HostClock(pub(super) Arc<Host>);

impl Clock for HostClock {
    fn mono(&self) -> Duration {
        self.0.born.elapsed()
    }

    fn wall(&self) -> Time {
        let settings = &self.0.world.plan.settings;
        let ahead = if self.0.name == "server" {
            settings.server_ahead_ms
        } else {
            0
        };
        Time(settings.epoch_ms + ahead + self.0.now_ms())
    }

    fn sleep(&self, span: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(span))
    }
}
