//! The server's store, watched: the checkers hear of every batch when it has become durable, and of no other.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use stepwell_storage::{
    Batch, BoxFuture, CommitFailure, Identity, MemOptions, MemStore, Op, OpenRefusal, ReadFailure,
    Receipt, Row, Scan, Seq, Space, Store, SubmitRefusal, Usage,
};

use super::{Host, World};
use crate::event::What;
use crate::plan::{Point, Strike};

/// Batches that were submitted and are not known to be durable, over all lives of the server.
#[derive(Default)]
pub(crate) struct InAir(VecDeque<(Seq, Vec<Op>)>);

impl InAir {
    fn take_until(&mut self, seq: Seq) -> Vec<(Seq, Vec<Op>)> {
        let count = self.0.iter().take_while(|(at, _)| *at <= seq).count();
        self.0.drain(..count).collect()
    }
}

/// A [`MemStore`] that tells what it commits.
pub(crate) struct WatchedStore {
    inner: MemStore,
    host: Arc<Host>,
    air: Arc<Mutex<InAir>>,
}

impl WatchedStore {
    /// Opens the server's disk for this life of it.
    pub(crate) fn acquire(host: Arc<Host>, air: Arc<Mutex<InAir>>) -> Result<Self, OpenRefusal> {
        let world = host.world.clone();
        let options = MemOptions {
            entropy: crate::draw::hash(world.plan.seed, "store id"),
            sync_time: Duration::from_millis(world.plan.settings.sync_ms),
            pause: {
                let host = host.clone();
                Arc::new(move |span| {
                    let host = host.clone();
                    Box::pin(async move { host.rest(span).await })
                })
            },
        };
        // Which of the batches in the air survived, the disk alone knows.
        let kept = world.disk.committed_seq();
        let inner = MemStore::acquire(&world.disk, options)?;
        let store = Self { inner, host, air };
        store.tell(kept, &world);
        store.air().0.clear();
        world.store_opens();
        Ok(store)
    }

    fn air(&self) -> std::sync::MutexGuard<'_, InAir> {
        self.air.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, seq: Seq, world: &World) {
        let batches = self.air().take_until(seq);
        if !batches.is_empty() {
            world.committed(self.host.now_ms(), seq, &batches);
        }
    }
}

impl Store for WatchedStore {
    fn identity(&self) -> Identity {
        self.inner.identity()
    }

    fn submit(&self, batch: Batch) -> Result<Seq, SubmitRefusal> {
        let ops: Vec<Op> = batch.iter().cloned().collect();
        let seq = self.inner.submit(batch)?;
        self.host.world.submitted(&self.host, seq, &ops);
        self.air().0.push_back((seq, ops));
        Ok(seq)
    }

    fn commit(&self) -> BoxFuture<'_, Result<Receipt, CommitFailure>> {
        Box::pin(async move {
            let world = &self.host.world;
            if world
                .passes(&Point::BeforeFsync, None)
                .is_some_and(Strike::hits_server)
            {
                std::future::pending::<()>().await;
            }
            let receipt = self.inner.commit().await;
            match &receipt {
                Ok(receipt) => self.tell(receipt.seq(), &self.host.world),
                Err(failure) => self
                    .host
                    .tell(format_args!("commit failed: {failure}"), || {
                        What::CommitFailed {
                            text: failure.to_string(),
                        }
                    }),
            }
            if world
                .passes(&Point::AfterFsync, None)
                .is_some_and(Strike::hits_server)
            {
                std::future::pending::<()>().await;
            }
            receipt
        })
    }

    fn submitted(&self) -> Seq {
        self.inner.submitted()
    }

    fn committed(&self) -> Seq {
        self.inner.committed()
    }

    fn get(&self, space: Space, key: &[u8]) -> BoxFuture<'_, Result<Option<Bytes>, ReadFailure>> {
        self.inner.get(space, key)
    }

    fn scan(&self, scan: Scan) -> BoxFuture<'_, Result<Vec<Row>, ReadFailure>> {
        self.inner.scan(scan)
    }

    fn generations(&self) -> BoxFuture<'_, Result<Vec<u32>, ReadFailure>> {
        self.inner.generations()
    }

    fn drop_generation(&self, generation: u32) -> BoxFuture<'_, Result<(), CommitFailure>> {
        Box::pin(async move {
            let dropped = self.inner.drop_generation(generation).await;
            let world = &self.host.world;
            self.tell(self.inner.committed(), world);
            if dropped.is_ok() {
                world.generation_dropped(self.host.now_ms(), generation);
            }
            dropped
        })
    }

    fn usage(&self) -> Usage {
        self.inner.usage()
    }
}
