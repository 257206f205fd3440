//! The server's store, watched: the checkers hear of every batch when it has become durable, and of
//! no other.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use stepwell_storage::{
    BoxFuture, CommitFailure, FjallStore, Identity, MemOptions, MemStore, Op, OpenRefusal,
    ReadFailure, Receipt, Row, Scan, Seq, Space, Store, SubmitRefusal, Usage, WriteBatch,
};

use super::{Host, World};
use crate::durable;
use crate::event::What;
use crate::plan::Point;

/// Batches that were submitted and are not known to be durable, over all lives of the server.
#[derive(Default)]
pub(crate) struct InAir {
    batches: VecDeque<(Seq, Vec<Op>)>,
    /// The last that is.
    committed: Seq,
}

impl InAir {
    fn take_until(&mut self, seq: Seq) -> Vec<(Seq, Vec<Op>)> {
        let known = self.batches.iter().take_while(|(at, _)| *at <= seq);
        let count = known.count();
        self.batches.drain(..count).collect()
    }

    fn clear(&mut self) {
        self.batches.clear();
    }
}

/// A store that tells what it commits.
pub(crate) struct WatchedStore {
    inner: Inner,
    host: Arc<Host>,
    air: Arc<Mutex<InAir>>,
}

enum Inner {
    Simulated(MemStore),
    /// Every call of it is done when it returns: the trace cannot see the threads that it has.
    Fjall(Arc<FjallStore>),
}

impl WatchedStore {
    /// Opens the server's disk for this life of it.
    pub(crate) fn acquire(host: Arc<Host>, air: Arc<Mutex<InAir>>) -> Result<Self, OpenRefusal> {
        let world = host.world.clone();
        // Which of the batches in the air survived, the disk alone knows.
        let (inner, kept) = match &world.directory {
            Some(directory) => {
                let store = directory.open()?;
                let kept = store.committed();
                (Inner::Fjall(store), kept)
            }
            None => {
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
                let kept = world.disk.committed_seq();
                let store = MemStore::acquire(&world.disk, options)?;
                (Inner::Simulated(store), kept)
            }
        };
        let store = Self { inner, host, air };
        store.tell(kept, &world);
        store.air().clear();
        world.store_opens();
        Ok(store)
    }

    fn air(&self) -> std::sync::MutexGuard<'_, InAir> {
        self.air.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, seq: Seq, world: &World) {
        let batches = {
            let mut air = self.air();
            air.committed = seq;
            air.take_until(seq)
        };
        if !batches.is_empty() {
            world.committed(self.host.now_ms(), seq, &batches);
        }
    }

    fn store(&self) -> &dyn Store {
        match &self.inner {
            Inner::Simulated(store) => store,
            Inner::Fjall(store) => &**store,
        }
    }

    async fn commit_group(&self) -> Result<Receipt, CommitFailure> {
        match &self.inner {
            Inner::Simulated(store) => store.commit().await,
            Inner::Fjall(store) => self.commit_on(store).await,
        }
    }

    /// The bytes are on the real disk at once; the sync takes its simulated time all the same.
    async fn commit_on(&self, store: &FjallStore) -> Result<Receipt, CommitFailure> {
        let Some(directory) = &self.host.world.directory else {
            return store.commit().await;
        };
        if store.committed() == store.submitted() {
            return store.commit().await;
        }
        let receipt = directory.commit(store)?;
        self.sync_time().await;
        directory.acknowledged();
        Ok(receipt)
    }

    async fn sync_time(&self) {
        let world = &self.host.world;
        let usual = Duration::from_millis(world.plan.settings.sync_ms);
        let span = usual + world.disk.faults().sync_delay();
        if !span.is_zero() {
            self.host.rest(span).await;
        }
    }
}

impl Store for WatchedStore {
    fn identity(&self) -> Identity {
        self.store().identity()
    }

    fn submit(&self, batch: WriteBatch) -> Result<Seq, SubmitRefusal> {
        let ops: Vec<Op> = batch.iter().cloned().collect();
        let seq = self.store().submit(batch)?;
        self.host.world.submitted(&self.host, seq, &ops);
        for id in ops.iter().filter_map(durable::forgets) {
            let at_ms = self.host.now_ms();
            self.host.world.client_log().calls.forgets(id, at_ms);
        }
        self.air().batches.push_back((seq, ops));
        Ok(seq)
    }

    fn commit(&self) -> BoxFuture<'_, Result<Receipt, CommitFailure>> {
        Box::pin(async move {
            self.host.passes(&Point::BeforeFsync).await;
            let receipt = self.commit_group().await;
            match &receipt {
                Ok(receipt) => self.tell(receipt.seq(), &self.host.world),
                Err(failure) => self.host.tell(format_args!("commit failed: {failure}"), || {
                    What::CommitFailed { text: failure.to_string() }
                }),
            }
            self.host.passes(&Point::AfterFsync).await;
            receipt
        })
    }

    fn submitted(&self) -> Seq {
        self.store().submitted()
    }

    fn committed(&self) -> Seq {
        match &self.inner {
            Inner::Simulated(store) => store.committed(),
            // What is on the disk and not acknowledged is nobody's business.
            Inner::Fjall(_) => self.air().committed,
        }
    }

    fn get(&self, space: Space, key: &[u8]) -> BoxFuture<'_, Result<Option<Bytes>, ReadFailure>> {
        self.store().get(space, key)
    }

    fn scan(&self, scan: Scan) -> BoxFuture<'_, Result<Vec<Row>, ReadFailure>> {
        self.store().scan(scan)
    }

    fn generations(&self) -> BoxFuture<'_, Result<Vec<u32>, ReadFailure>> {
        self.store().generations()
    }

    fn drop_generation(&self, generation: u32) -> BoxFuture<'_, Result<(), CommitFailure>> {
        Box::pin(async move {
            let world = &self.host.world;
            let committed = match &self.inner {
                Inner::Simulated(store) => {
                    let dropped = store.drop_generation(generation).await;
                    self.tell(store.committed(), world);
                    if dropped.is_ok() {
                        world.generation_dropped(self.host.now_ms(), generation);
                    }
                    return dropped;
                }
                Inner::Fjall(store) => {
                    while store.committed() < store.submitted() {
                        self.commit_on(store).await?;
                    }
                    self.sync_time().await;
                    store.drop_generation(generation).await?;
                    store.committed()
                }
            };
            self.tell(committed, world);
            world.generation_dropped(self.host.now_ms(), generation);
            Ok(())
        })
    }

    /// Bytes are the disk's own business, and not the same on every one.
    fn usage(&self) -> Usage {
        Usage { disk_bytes: 0, wal_bytes_written: 0, ..self.store().usage() }
    }
}
