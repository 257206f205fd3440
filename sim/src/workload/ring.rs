//! Moves along a ring that many runs share. Whatever stops a run, it puts back what it has taken.
//!
//! A cancel finds a swap under way, perhaps, of which nobody knows whether it happened: it is
//! settled first.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use stepwell::{Ctx, Failure};

use super::{HARD, RING_EFFECT, call_for, retry};
use crate::ledger::{Ask, AskWhat, unpaired};
use crate::outside::Outside;
use crate::plan::RingInput;

/// Answers with the number of nodes it has moved.
pub(super) async fn ring(ctx: Ctx, input: RingInput, outside: Outside) -> Result<u64, Failure> {
    let mover = Mover { ctx: &ctx, outside: &outside, input: &input, asked: AtomicU32::new(0) };
    let mut moved = 0;
    for lane in &input.to {
        // Its own may be empty.
        if let Some((node, next, stopped)) = mover.take().await? {
            mover.put(node, next, *lane, stopped).await?;
            moved += 1;
        }
    }
    Ok(moved)
}

struct Mover<'a> {
    ctx: &'a Ctx,
    outside: &'a Outside,
    input: &'a RingInput,
    asked: AtomicU32,
}

/// How a swap ended.
enum Swapped {
    Done,
    /// Something else was found.
    Missed,
    /// It was cancelled, and will never happen.
    Settled,
}

impl Mover<'_> {
    /// Takes the first node of its own lane: which, what follows it, and whether the run was asked
    /// to stop meanwhile.
    async fn take(&self) -> Result<Option<(u32, u32, Option<Failure>)>, Failure> {
        let lane = self.input.lane;
        let mut stopped = None;
        loop {
            let (node, next) = unpaired(self.ask("look", AskWhat::Look(lane)).await?);
            if node < self.input.lanes {
                return Ok(None);
            }
            match self.swap((lane, node, next), &mut stopped).await? {
                Swapped::Done => return Ok(Some((node, next, stopped))),
                Swapped::Missed | Swapped::Settled => stopped.take().map_or(Ok(()), Err)?,
            }
        }
    }

    /// Puts a node at the head of a lane, even if the run was asked to stop.
    async fn put(
        &self,
        node: u32,
        mut next: u32,
        lane: u32,
        mut stopped: Option<Failure>,
    ) -> Result<(), Failure> {
        let slept = self.ctx.sleep(Duration::from_millis(self.input.pause_ms));
        unless_stopped(slept.await, &mut stopped)?;
        loop {
            let looked = self.ask("look", AskWhat::Look(lane)).await;
            let Some(looked) = unless_stopped(looked, &mut stopped)? else {
                continue;
            };
            let (first, _) = unpaired(looked);
            match self.swap((node, next, first), &mut stopped).await? {
                Swapped::Done => {}
                Swapped::Settled => continue,
                Swapped::Missed => {
                    let told = "somebody else swapped a node that was taken";
                    return Err(Failure::terminal(told));
                }
            }
            next = first;
            if let Swapped::Done = self.swap((lane, first, node), &mut stopped).await? {
                return stopped.map_or(Ok(()), Err);
            }
        }
    }

    /// Swaps what follows a node. One that was cancelled has happened or never will.
    async fn swap(
        &self,
        (node, from, to): (u32, u32, u32),
        stopped: &mut Option<Failure>,
    ) -> Result<Swapped, Failure> {
        let nth = self.asked.load(Ordering::Relaxed);
        let found = self.ask("swap", AskWhat::Swap { node, from, to }).await;
        Ok(match unless_stopped(found, stopped)? {
            Some(found) if found == u64::from(from) => Swapped::Done,
            Some(_) => Swapped::Missed,
            None if self.ask("settle", AskWhat::Settle(nth)).await? == 1 => Swapped::Done,
            None => Swapped::Settled,
        })
    }

    async fn ask(&self, name: &'static str, what: AskWhat) -> Result<u64, Failure> {
        let ask =
            Ask { lanes: self.input.lanes, nth: self.asked.fetch_add(1, Ordering::Relaxed), what };
        let step = self
            .ctx
            .step(name, |step| call_for(RING_EFFECT, self.outside.clone(), step, ask.clone()));
        step.retry(retry()).soft_timeout(HARD).timeout(HARD).await
    }
}

/// A cancel is kept for later.
fn unless_stopped<T>(
    answer: Result<T, Failure>,
    stopped: &mut Option<Failure>,
) -> Result<Option<T>, Failure> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(failure) if failure.is_cancelled() => {
            *stopped = Some(failure);
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}
