//! Processes that stand still, as after `SIGSTOP`: their sleeps do not end, nothing is read from or
//! written to their connections, nothing comes back from the outside world. Monotonic time goes on
//! meanwhile, and the wall clock, too.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::{Host, World};

/// Who stands still, and what goes on in each when it wakes.
#[derive(Debug, Default)]
pub(super) struct Pauses(Mutex<BTreeMap<String, Vec<Waker>>>);

impl Pauses {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Vec<Waker>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    /// Stops a host.
    pub(crate) fn pause(&self, host: &str) {
        self.stood_still.fetch_add(1, Ordering::Relaxed);
        self.pauses.lock().entry(host.to_owned()).or_default();
    }

    /// Lets a host go on where it was, or forgets that it stood still.
    pub(crate) fn resume(&self, host: &str) {
        self.stood_still.fetch_add(1, Ordering::Relaxed);
        let wakers = self.pauses.lock().remove(host).unwrap_or_default();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Changes whenever some host begins to stand still or goes on.
    pub(crate) fn stood_still(&self) -> u64 {
        self.stood_still.load(Ordering::Relaxed)
    }

    pub(crate) fn is_paused(&self, host: &str) -> bool {
        self.pauses.lock().contains_key(host)
    }
}

impl Host {
    /// Ready unless the host stands still.
    pub(super) fn poll_awake(&self, cx: &Context<'_>) -> Poll<()> {
        match self.world.pauses.lock().get_mut(&self.name) {
            None => Poll::Ready(()),
            Some(wakers) => {
                if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                    wakers.push(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    /// Waits until the host does not stand still.
    pub(crate) async fn awake(&self) {
        poll_fn(|cx| self.poll_awake(cx)).await;
    }

    /// Waits for so long, and until the host does not stand still.
    pub(crate) async fn rest(&self, span: Duration) {
        tokio::time::sleep(span).await;
        self.awake().await;
    }
}
