//! A core and a store in memory, stepped by hand. For tests, checkers and fuzzing.

use std::collections::VecDeque;
use std::time::Duration;

use stepwell_storage::{MemDisk, MemOptions, MemStore, Seq, Store, WriteBatch, block_on};

use super::clock::ClockSample;
use super::output::{Action, Output, StoreRead, Withheld};
use super::{Core, Input, OpenRefused, Settings};
use crate::model::time::Time;
use crate::store_reader::{self, Prefetched};

/// See the module.
pub(super) struct SteppedCore {
    pub(super) disk: MemDisk,
    pub(super) store: MemStore,
    pub(super) core: Core,
    pub(super) settings: Settings,
    pub(super) mono: Duration,
    pub(super) wall: Time,
    /// After how many inputs the core's memory is looked through.
    pub(super) check_every: u64,
    handled: u64,
    out: Output,
    /// How much was collected once the input was handled that caused the last action.
    written_at_action: usize,
    /// Reads that have been asked for and not been done.
    pub(super) reads: VecDeque<StoreRead>,
    /// Reads that have been done and not been told.
    pub(super) answers: VecDeque<Input>,
    gate: VecDeque<(Seq, Withheld)>,
}

fn open(
    disk: &MemDisk,
    settings: Settings,
    at: ClockSample,
) -> Result<(MemStore, Core), OpenRefused> {
    let store = MemStore::acquire(disk, MemOptions { entropy: 7, ..MemOptions::default() })
        .expect("the disk opens");
    let opened = block_on(store_reader::open(&store)).expect("what the core wrote can be read");
    let core = Core::open(settings, at, opened)?;
    Ok((store, core))
}

impl SteppedCore {
    pub(super) fn new(settings: Settings, wall: Time) -> Self {
        let (disk, mono) = (MemDisk::new(), Duration::ZERO);
        let (store, core) =
            open(&disk, settings, ClockSample { mono, wall }).expect("a new store opens");
        let (reads, answers, gate) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        Self {
            check_every: 1,
            handled: 0,
            disk,
            store,
            core,
            settings,
            mono,
            wall,
            out: Output::new(),
            written_at_action: 0,
            reads,
            answers,
            gate,
        }
    }

    /// The power fails, and a prefix of what was not durable survives; then the engine opens again.
    pub(super) fn crash(&mut self, cut: u64) -> Result<(), OpenRefused> {
        self.disk.power_loss(cut);
        self.reopen()
    }

    /// The engine opens again.
    pub(super) fn reopen(&mut self) -> Result<(), OpenRefused> {
        self.out = Output::new();
        self.written_at_action = 0;
        self.reads.clear();
        self.answers.clear();
        self.gate.clear();
        self.mono = Duration::ZERO; // another process, another origin
        let at = ClockSample { mono: self.mono, wall: self.wall };
        let (store, core) = open(&self.disk, self.settings, at)?;
        (self.store, self.core) = (store, core);
        Ok(())
    }

    /// Time passes on both clocks.
    pub(super) fn pass(&mut self, span: Duration) {
        self.mono += span;
        self.wall = self.wall.after(span);
    }

    /// Whether the core wants a tick now.
    #[cfg(test)]
    pub(super) fn is_due(&self) -> bool {
        self.core.wakes_at().is_some_and(|at| at <= self.mono)
    }

    pub(super) fn handle(&mut self, input: Input) {
        let at = ClockSample { mono: self.mono, wall: self.wall };
        let before = self.out.actions_collected();
        self.core.handle(at, input, &mut self.out);
        if self.out.actions_collected() > before {
            self.written_at_action = self.out.size();
        }
        self.handled += 1;
        if self.handled.is_multiple_of(self.check_every) {
            self.core.check();
        }
    }

    /// Whether something was written after the input that caused the last action.
    pub(super) fn wrote_since_action(&self) -> bool {
        self.out.size() > self.written_at_action
    }

    /// Submits what has been collected. Tells the batches and shows the actions, which stay
    /// withheld.
    pub(super) fn flush(&mut self) -> (Vec<WriteBatch>, Vec<Action>) {
        self.core.seal(&mut self.out);
        self.written_at_action = 0;
        let (batches, withheld, reads) = self.out.take();
        for batch in &batches {
            self.store.submit(batch.clone()).expect("the core writes batches that the store takes");
        }
        self.reads.extend(reads);
        let shown = withheld.peek().to_vec();
        if !withheld.is_empty() {
            self.gate.push_back((self.store.submitted(), withheld));
        }
        (batches, shown)
    }

    /// Makes durable what was submitted, and lets out the actions that waited for it.
    pub(super) fn commit(&mut self) -> Vec<Action> {
        let receipt = block_on(self.store.commit()).expect("the disk takes it");
        let mut released = Vec::new();
        while let Some((seq, withheld)) = self.gate.pop_front() {
            match withheld.release(seq, &receipt) {
                Ok(actions) => released.extend(actions),
                Err(withheld) => {
                    self.gate.push_front((seq, withheld));
                    break;
                }
            }
        }
        released
    }

    /// Does the read that is number `pick`, if there are any.
    pub(super) fn read(&mut self, pick: usize) {
        if self.reads.is_empty() {
            return;
        }
        let prefetched = block_on(Prefetched::of(&self.store, self.reads.make_contiguous()));
        let mut prefetched = prefetched.expect("the store can be read");
        if let Some(read) = self.reads.remove(pick % self.reads.len()) {
            let mut nothing = Prefetched::default();
            let alone = block_on(store_reader::answer(&self.store, read.clone(), &mut nothing))
                .expect("the store can be read");
            let answer = block_on(store_reader::answer(&self.store, read, &mut prefetched))
                .expect("the store can be read");
            assert_eq!(
                format!("{answer:?}"),
                format!("{alone:?}"),
                "what is read ahead is what is read alone"
            );
            self.answers.push_back(answer);
        }
    }

    /// Tells the core the answer that is number `pick`, if there are any.
    pub(super) fn answer(&mut self, pick: usize) {
        if self.answers.is_empty() {
            return;
        }
        if let Some(answer) = self.answers.remove(pick % self.answers.len()) {
            self.handle(answer);
        }
    }
}
