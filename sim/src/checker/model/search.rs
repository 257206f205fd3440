//! The search for an order: after Wing and Gong, with the memory that Lowe added.
//!
//! It goes forward from the first call: any operation may be next that began before the first
//! answer among those that are left. What was tried is remembered as (the set of operations done,
//! the state), because two orders of the same operations that lead to the same state need not be
//! told apart; and an answer that changes nothing is not put off. Nothing in here depends on chance
//! or on addresses.

use std::collections::BTreeSet;

use super::{Answer, Asked, Call, CallHistory, Refusal, RunModel, is_at_fault};

/// Configurations looked at for one run. Histories of the simulation need a few hundred.
const CONFIGURATIONS_MAX: usize = 200_000;

/// Something that happens to the run at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Op {
    /// It happens after this moment
    pub(super) from: u64,
    /// and before this one,
    pub(super) until: u64,
    /// with the answer that was given, or durably; else unseen, and perhaps not at all.
    pub(super) answered: bool,
    /// What it is.
    pub(super) what: SearchItem,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum SearchItem {
    /// The call of this number takes effect.
    Call(usize),
    /// The run of this number is forgotten.
    Forgotten(usize),
    /// The journal is looked at, in the end.
    Journal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SearchVerdict {
    Explained,
    Unexplained,
    /// There are too many orders.
    GivenUp,
}

impl CallHistory {
    /// What happened to the run, as far as the answers until `cut` tell. The journal is looked at
    /// if that is for ever.
    pub(super) fn ops(&self, cut: u64) -> Vec<Op> {
        let mut ops = Vec::new();
        for (at, call) in self.calls.iter().enumerate() {
            let from = call.begun.order;
            if from > cut || call.answer == Answer::NotAsked {
                continue;
            }
            let answered_at = answered_at(call).filter(|at| *at <= cut);
            if let Some(until) = answered_at {
                ops.push(Op { from, until, answered: true, what: SearchItem::Call(at) });
            }
            if may_act_unseen(call) || self.may_act_later(call) {
                // One that was refused because of another run finds that gone, perhaps: afterwards,
                // if at all.
                let from = match self.may_act_later(call) {
                    true => answered_at.unwrap_or(from),
                    false => from,
                };
                let until = answered_at.filter(|_| !self.repeats).unwrap_or(u64::MAX);
                // A start begins a run of its own after each that was forgotten, if the network
                // keeps copies of it, and a cancel asks that one to stop, too.
                let again = matches!(call.asked, Asked::Start { .. } | Asked::Cancel);
                let again = again && self.repeats;
                let again = self.forgotten.iter().filter(|_| again);
                let again = again.map(|forgotten| forgotten.from.max(from));
                for from in std::iter::once(from).chain(again.filter(|from| *from <= cut)) {
                    ops.push(Op { from, until, answered: false, what: SearchItem::Call(at) });
                }
            }
        }
        for (nth, forgotten) in self.forgotten.iter().enumerate() {
            let durable = forgotten.until <= cut;
            if forgotten.from <= cut {
                ops.push(Op {
                    from: forgotten.from,
                    until: if durable { forgotten.until } else { u64::MAX },
                    answered: durable,
                    what: SearchItem::Forgotten(nth),
                });
            }
        }
        if cut == u64::MAX {
            ops.push(Op {
                from: u64::MAX,
                until: u64::MAX,
                answered: true,
                what: SearchItem::Journal,
            });
        }
        ops
    }

    /// Whether a copy of a refused call may have an effect after its answer: the run that was in
    /// its way has been forgotten.
    fn may_act_later(&self, call: &Call) -> bool {
        let others = matches!(&call.answer, Answer::Refused(Refusal::NotAllStarted(_)));
        others && self.repeats && self.forgets
    }
}

fn may_act_unseen(call: &Call) -> bool {
    let acts = matches!(call.asked, Asked::Start { .. } | Asked::Cancel | Asked::Operate { .. });
    acts && !matches!(&call.answer, Answer::Refused(refusal) if is_at_fault(refusal))
}

/// When a call was answered; not if nobody knows whether it was done.
pub(super) fn answered_at(call: &Call) -> Option<u64> {
    match call.answer {
        Answer::Unknown | Answer::NotAsked => None,
        _ => call.ended.map(|moment| moment.order),
    }
}

/// Whether there is an order.
pub(super) fn verdict(history: &CallHistory, ops: &[Op]) -> SearchVerdict {
    match walk(history, ops, |_| true) {
        Walked::Stopped => SearchVerdict::Explained,
        Walked::Through => SearchVerdict::Unexplained,
        Walked::GivenUp => SearchVerdict::GivenUp,
    }
}

/// What the run may be after all that was answered.
pub(super) fn states_after(history: &CallHistory, ops: &[Op]) -> BTreeSet<RunModel> {
    let mut states = BTreeSet::new();
    walk(history, ops, |state| {
        states.extend(history.with_time(state));
        false
    });
    states
}

enum Walked {
    Stopped,
    Through,
    GivenUp,
}

/// Tries all orders; `found` is told the state after each whole one and says whether to stop.
fn walk(history: &CallHistory, ops: &[Op], mut found: impl FnMut(RunModel) -> bool) -> Walked {
    let start = (Set::of(ops.len()), RunModel::Absent(0));
    let mut seen = BTreeSet::from([start.clone()]);
    let mut left = vec![start];
    while let Some((done, state)) = left.pop() {
        let open = |op: &(usize, &Op)| !done.has(op.0);
        let answered = ops.iter().enumerate().filter(|(_, op)| op.answered);
        // Nothing may come before an answer that began only after it, nor after one that was over.
        let first_answer = answered.filter(open).map(|(_, op)| op.until).min();
        if first_answer.is_none() && found(state) {
            return Walked::Stopped;
        }
        let first_answer = first_answer.unwrap_or(u64::MAX);
        let begun = |(at, op): (usize, &Op)| done.has(at).then_some(op.from);
        let latest = ops.iter().enumerate().filter_map(begun).max().unwrap_or(0);
        let may_be_next = |op: &Op| op.from <= first_answer && op.until >= latest;
        let nexts = ops.iter().enumerate().filter(open);
        let nexts: Vec<(usize, &Op)> = nexts.filter(|(_, op)| may_be_next(op)).collect();
        // An answer that is right as things are is best given at once: nothing becomes impossible
        // by it.
        let shuts_out = |op: &Op| nexts.iter().any(|(_, other)| other.until < op.from);
        let free = nexts.iter().find(|(_, op)| {
            op.answered && !shuts_out(op) && history.after(op, state).contains(&state)
        });
        let mut push = |next: (Set, RunModel)| {
            if seen.insert(next.clone()) {
                left.push(next);
            }
        };
        match free {
            Some((at, _)) => push((done.with(*at), state)),
            None => nexts.iter().for_each(|(at, op)| {
                let after = history.after(op, state).into_iter();
                after.for_each(|state| push((done.with(*at), state)));
            }),
        }
        if seen.len() > CONFIGURATIONS_MAX {
            return Walked::GivenUp;
        }
    }
    Walked::Through
}

/// A set of small numbers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Set(Vec<u64>);

impl Set {
    fn of(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)])
    }

    fn has(&self, at: usize) -> bool {
        self.0[at / 64] >> (at % 64) & 1 == 1
    }

    fn with(&self, at: usize) -> Self {
        let mut set = self.clone();
        set.0[at / 64] |= 1 << (at % 64);
        set
    }
}
