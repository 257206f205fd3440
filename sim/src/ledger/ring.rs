//! A ring that must stay a ring: a map from each node to the next, which many runs change at once.
//!
//! The outside world knows no moves, only one pointer at a time, swapped if it is what the caller
//! believes. A run moves a node by three swaps: out of its own lane, ahead of the first of another,
//! and in. Between the first and the last the node is off the ring, and all others are on it. A
//! swap that is lost, done twice or done in another order leaves more off it, or a loop that is no
//! ring; so the world looks after each, and in the end.
//!
//! ```text
//!   ┌─► lane 0 ─► a ─► b ─► lane 1 ─► c ─► lane 2 ─► d ─┐       1  lane 0 ─► b         a is off
//!   └────────────────────────────────────────────────────┘      2  a ─► c
//!                                                               3  lane 1 ─► a
//! ```
//!
//! Only a lane's own run takes from it and anybody puts in, always at its head: so no swap succeeds
//! by mistake. (It is the stack of Treiber, 1986, with one who pops.)

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Nodes that each lane begins with.
const NODES_IN_LANE: u32 = 2;
/// No node: what a swap finds that was settled before it came.
const NONE: u32 = u32::MAX;

/// What a step asks of the ring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ask {
    /// How many lanes the ring has, in which all that ask agree. They are nodes too: the first
    /// ones.
    pub(crate) lanes: u32,
    /// Which of its run's questions it is.
    pub(crate) nth: u32,
    /// What.
    pub(crate) what: AskWhat,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum AskWhat {
    /// Which two nodes follow this one.
    Look(u32),
    /// The node that is followed by `from` is to be followed by `to`. Answered with what followed
    /// it.
    Swap { node: u32, from: u32, to: u32 },
    /// Whether the swap of this number happened. If not, it never will.
    Settle(u32),
}

/// Two nodes as one number.
fn pair(first: u32, second: u32) -> u64 {
    u64::from(first) << 32 | u64::from(second)
}

/// And back.
pub(crate) fn unpaired(value: u64) -> (u32, u32) {
    ((value >> 32) as u32, value as u32)
}

/// The ring. Who asks is a run, by its id as text.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    next: Vec<u32>,
    /// Nodes that are not on it, and who took them.
    off: BTreeMap<u32, String>,
    /// Swaps that happened, by who asked and their numbers.
    swapped: BTreeSet<(String, u32)>,
    /// Swaps that never shall.
    settled: BTreeSet<(String, u32)>,
    /// How many nodes each has put back.
    returned: BTreeMap<String, u64>,
    /// Swaps that found something else.
    pub(super) missed: u64,
    /// Moves in all.
    pub(super) moved: u64,
}

impl Ring {
    fn of(lanes: u32) -> Self {
        let mut ring =
            Self { next: vec![NONE; (lanes * (1 + NODES_IN_LANE)) as usize], ..Self::default() };
        for lane in 0..lanes {
            let mut last = lane;
            for nth in 0..NODES_IN_LANE {
                let node = lanes + lane * NODES_IN_LANE + nth;
                ring.next[last as usize] = node;
                last = node;
            }
            ring.next[last as usize] = (lane + 1) % lanes;
        }
        ring
    }

    /// Does what is asked. An error if the ring is none any more.
    pub(super) fn answer(&mut self, who: &str, request: &str) -> Result<u64, String> {
        let ask: Ask = serde_json::from_str(request).map_err(|error| error.to_string())?;
        if self.next.is_empty() {
            *self = Self::of(ask.lanes);
        }
        let label = |nth| (who.to_owned(), nth);
        match ask.what {
            AskWhat::Look(node) => {
                let first = self.after(node)?;
                Ok(pair(first, self.after(first)?))
            }
            AskWhat::Settle(nth) => {
                let happened = self.swapped.contains(&label(nth));
                if !happened {
                    self.settled.insert(label(nth));
                }
                Ok(happened.into())
            }
            AskWhat::Swap { .. } if self.settled.contains(&label(ask.nth)) => Ok(NONE.into()),
            AskWhat::Swap { node, from, to } => {
                let found = self.after(node)?;
                if found == from {
                    self.next[node as usize] = to;
                    self.swapped.insert(label(ask.nth));
                    self.look_at_it(who)
                        .map_err(|problem| format!("{problem}, after {request} of {who}"))?;
                } else {
                    self.missed += 1;
                }
                Ok(found.into())
            }
        }
    }

    fn after(&self, node: u32) -> Result<u32, String> {
        let next = self.next.get(node as usize).copied();
        next.ok_or_else(|| format!("there is no node {node}"))
    }

    /// It is one ring, and one node at most has left it or come back.
    fn look_at_it(&mut self, who: &str) -> Result<(), String> {
        let mut on = BTreeSet::new();
        let mut node = 0;
        while on.insert(node) {
            node = self.after(node)?;
        }
        if node != 0 {
            return Err(format!("the ring is a loop that begins at node {node}"));
        }
        let all = 0..self.next.len() as u32;
        let off: Vec<u32> = all.filter(|node| !on.contains(node)).collect();
        let left: Vec<u32> =
            off.iter().copied().filter(|node| !self.off.contains_key(node)).collect();
        let (before, returned) = (self.off.len(), self.off.len() + left.len() - off.len());
        if left.len() + returned > 1 {
            return Err(format!(
                "the ring lost the nodes {left:?} at once, and {returned} of {before} came back"
            ));
        }
        self.off.retain(|node, _| !on.contains(node));
        self.off.extend(left.into_iter().map(|node| (node, who.to_owned())));
        if returned == 1 {
            *self.returned.entry(who.to_owned()).or_default() += 1;
            self.moved += 1;
        }
        Ok(())
    }

    /// The run of this id is forgotten: what it asked is not remembered.
    pub(super) fn forget(&mut self, who: &str) {
        self.swapped.retain(|(of, _)| of != who);
        self.settled.retain(|(of, _)| of != who);
        self.returned.remove(who);
    }

    /// Nodes that are not on it, and who took them.
    pub(crate) fn off(&self) -> &BTreeMap<u32, String> {
        &self.off
    }

    /// How many nodes a run has put back.
    pub(crate) fn returned(&self, who: &str) -> u64 {
        self.returned.get(who).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks of a ring of three lanes: 0 ─► 3 ─► 4 ─► 1 ─► 5 ─► 6 ─► 2 ─► 7 ─► 8 ─► 0.
    fn ask(ring: &mut Ring, nth: u32, what: AskWhat) -> Result<u64, String> {
        let ask = Ask { lanes: 3, nth, what };
        ring.answer("run", &serde_json::to_string(&ask).unwrap())
    }

    /// Swaps, one after the other: the first that breaks the ring.
    fn swaps(ring: &mut Ring, made: &[(u32, u32, u32)]) -> Result<(), String> {
        for (nth, (node, from, to)) in (0..).zip(made.iter().copied()) {
            ask(ring, nth, AskWhat::Swap { node, from, to })?;
        }
        Ok(())
    }

    const TAKE: (u32, u32, u32) = (0, 3, 4);
    const AIM: (u32, u32, u32) = (3, 4, 5);
    const PUT: (u32, u32, u32) = (1, 5, 3);

    #[test]
    fn a_move_leaves_a_ring() {
        let mut ring = Ring::default();
        assert_eq!(ask(&mut ring, 9, AskWhat::Look(0)), Ok(pair(3, 4)));
        assert_eq!(swaps(&mut ring, &[TAKE, AIM]), Ok(()));
        assert_eq!(ring.off(), &BTreeMap::from([(3, "run".to_owned())]));
        assert_eq!(swaps(&mut ring, &[PUT]), Ok(()));
        assert_eq!((ring.off().len(), ring.returned("run")), (0, 1));
        assert_eq!(ask(&mut ring, 9, AskWhat::Look(1)), Ok(pair(3, 5)));
        // It is not there any more: the swap misses, and nothing happens.
        assert_eq!(swaps(&mut ring, &[TAKE]), Ok(()));
        assert_eq!((ring.missed, ring.off().len()), (1, 0));
    }

    #[test]
    fn a_swap_that_is_lost_or_done_too_early_breaks_it() {
        for made in [
            &[TAKE, PUT][..],             // lane 1 goes back to where the node was
            &[AIM],                       // it was not taken: the node behind it is lost
            &[PUT],                       // nor was that
            &[TAKE, PUT, AIM],            // in another order
            &[TAKE, AIM, PUT, (3, 5, 3)], // aimed at itself, as after a put that was done twice
        ] {
            let told = swaps(&mut Ring::default(), made).unwrap_err();
            assert!(told.starts_with("the ring "), "{told}");
        }
    }

    #[test]
    fn what_is_settled_never_happens() {
        let mut ring = Ring::default();
        assert_eq!(ask(&mut ring, 0, AskWhat::Settle(0)), Ok(0));
        assert_eq!(swaps(&mut ring, &[TAKE]), Ok(()));
        assert!(ring.off().is_empty());
        // One that has happened is not undone.
        let (node, from, to) = TAKE;
        ask(&mut ring, 5, AskWhat::Swap { node, from, to }).unwrap();
        assert_eq!(ask(&mut ring, 6, AskWhat::Settle(5)), Ok(1));
        assert_eq!(ring.off().len(), 1);
    }
}
