//! The twin of `workflow`: runs a function against a journal.
//!
//! A [`turn::Turn`] owns the author's future and what is known of the run. It is a sans-IO machine:
//! entries, refusals and wake-ups come in, reports come out; the worker's turn task carries them to
//! and from the engine.
//!
//! ```text
//!   Dispatch, Journal ──► history ──► one resolution ──► poll the function ──► asks: step 3, timer 4, …
//!   Appended ─────────►    ▲   │            ▲                 │                     │
//!                          │   └── notes ───┼──► commands ◄───┘          live only: start bodies,
//!                          │  (retry, due)  └───────────────────────      queue reports
//!                     the engine  ◄──── reports, kept until answered ◄───────┘
//! ```
//!
//! Invariants, cited by the assertions and tests:
//!
//! - **W1** Entries are looked at in the order of their indexes, without gaps. A copy of an entry
//!   changes nothing.
//! - **W2** Between two polls of the function at most one resolving entry is resolved.
//! - **W3** No body starts and nothing is asked of the engine before the recorded entries are used
//!   up.
//! - **W4** A step resolves only by its journal entry, never by its body's return.
//! - **W5** A command's number is given where the code asks; each entry meets the command of its
//!   number, of the same kind and name, after the code has asked for it. Otherwise code and journal
//!   disagree, and nothing more happens.
//! - **W6** A report is kept until an entry or the end of the turn answers it, and is sent once
//!   under each token.
//! - **W7** After a turn has ended, been suspended or been stopped, its function is not polled
//!   again.
//! - **W8** Whatever lets the function go on (an outcome, a failed attempt to be made again, an
//!   open gate) is followed by a poll of the future it concerns: at once by the turn, or by a
//!   waker.
//! - **W9** What a redrive supersedes ([`Superseded`](crate::model::dead::Superseded)) resolves
//!   nothing: such an entry is compared with the code (W5) and passed over. All others resolve as
//!   they did, and their steps are not run again.
//! - **W10** The function gets the input of the last edit, or of its start if there is none.
//! - **W11** How a function came to its failure is told with it: the entry of the first failed step
//!   it saw after it had asked for its last command, or the step whose failure it ended with
//!   although it had gone on.
//! - **W12** A body of a memoized step starts only when the engine has let it make an attempt. An
//!   attempt that the engine counts on and that is not made is released, and the release is kept
//!   until it is answered (W6).
//!
//! Why a redrive is sound: let `i` be the first superseded entry. Up to there the function sees
//! what it saw before, so it gives the same commands, under the same numbers. Behind `i` it gave
//! none in the life that failed (W11), so every number that the journal knows belongs to a command
//! that it gives again, and every number that comes is new. What was recorded behind `i` of
//! commands given before is as true as it was, and resolves in its order.
//!
//! What a function that ends leaves unread is legal for commands it has asked for: their outcomes
//! were under way when it ended the first time too. An unread entry of a command it never asked for
//! is a disagreement.

pub(crate) mod command;
pub(crate) mod failure_origin;
pub(crate) mod history;
pub(crate) mod isolated_step;
pub(crate) mod mismatch;
pub(crate) mod report;
pub(crate) mod shared;
#[cfg(test)]
mod tests;
pub(crate) mod turn;
pub(crate) mod watch;
pub(crate) mod world;
