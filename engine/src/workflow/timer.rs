//! The future of `ctx.sleep`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::model::failure::Failure;
use crate::replay::shared::Shared;

/// A wait, recorded. See [`Ctx::sleep`](super::Ctx::sleep).
#[must_use = "nothing waits until it is awaited"]
pub struct SleepFuture {
    shared: Arc<Shared>,
    number: u32,
    span: Duration,
}

impl SleepFuture {
    pub(crate) fn new(shared: Arc<Shared>, number: u32, span: Duration) -> Self {
        Self { shared, number, span }
    }
}

impl Future for SleepFuture {
    type Output = Result<(), Failure>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.shared.poll_timer(self.number, self.span, cx.waker())
    }
}

impl Drop for SleepFuture {
    fn drop(&mut self) {
        self.shared.abandon(self.number);
    }
}

impl std::fmt::Debug for SleepFuture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sleep {} of {:?}", self.number, self.span)
    }
}
