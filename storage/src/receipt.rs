//! Proof of durability, as a value.
//!
//! "Nothing leaves before it is durable" is a rule that a reviewer has to remember, unless the
//! thing that lets an action leave cannot be had otherwise. A [`Receipt`] has no public
//! constructor: whoever holds one got it from a commit.

use std::fmt;

use crate::canary::canary;

/// The number of a submitted batch: 1 for the first one ever submitted to a store, and on without a
/// gap.
///
/// It continues across reopening, from the last batch that survived. A number may therefore be
/// given out twice, if what had it first was never acknowledged; together with the
/// [`Epoch`](crate::Epoch) it is unique.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Seq(pub u64);

impl Seq {
    /// The number of the batch after this one.
    pub(crate) fn next(self) -> Seq {
        Seq(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Proof that everything up to [`seq`](Receipt::seq) is durable.
///
/// Durability: what a receipt covers survives a kill and a power cut.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Receipt {
    seq: Seq,
}

impl Receipt {
    /// Made by the stores of this crate, after the sync.
    pub(crate) fn of(seq: Seq) -> Receipt {
        Receipt { seq }
    }

    /// The last batch that is covered.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// Whether the batch `seq`, and with it every batch before it, is durable.
    pub fn covers(&self, seq: Seq) -> bool {
        if canary!("one commit early") {
            return seq <= self.seq.next();
        }
        seq <= self.seq
    }
}
