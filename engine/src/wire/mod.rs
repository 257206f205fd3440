//! The protocol between engine, workers and clients.
//!
//! ```text
//!   worker                                engine                               client
//!     │ Hello ───────────────────────────►  │  ◄────────────────────────── Hello   │
//!     │ ◄────────── Welcome(protocol, …)    │  Welcome(protocol, …) ────────────►  │
//!     │ Register(workflows, slots, held) ►  │                                      │
//!     │ ◄──────────────────── Registered    │                                      │
//!     │ ◄─ LeaseContinued/Revoked per held  │                                      │
//!     │                                     │  ◄────────── Call(number, Start)     │
//!     │                                [commit: Started + lease]                   │
//!     │ ◄── Dispatch(run, token, journal)   │  ── Reply(number, StartReply) ─────► │
//!     │ StepCompletedReport ─────────────►  │                                      │
//!     │                                [commit: StepCompleted]                     │
//!     │ ◄── Appended(run, index, entry)     │                                      │
//!     │ TurnCompleted ───────────────────►  │                                      │
//!     │                                [commit: Completed, lease ends]             │
//!     │ ◄── TurnEnded(run)                  │  ── Reply(number, OutcomeReply) ───► │
//!     │ ◄─────────── Heartbeat ──────────►  │  ◄────────── Heartbeat ───────────►  │
//! ```
//!
//! A frame is a length (4 bytes, little endian, of what follows), a kind number and positional
//! MessagePack fields. A memoized step says `MemoRequested` before each attempt, and hears
//! `AttemptMemo`, or `Appended` with the result of another run. `MemoReleased` says that an attempt
//! is not wanted any more, and is answered by the same.
//!
//! Every frame of the engine was released by the commit that caused it. Duplicates are harmless:
//! calls carry a number, starts are idempotent by run id, reports by (run, token, step).
//!
//! # How it grows
//!
//! - Fields are only added at the end, and a reader skips those it does not know, at every depth.
//! - New kinds of frames belong to a higher protocol, and are sent only where that was agreed
//!   ([`handshake`]).
//! - A new request ([`request`]) may be sent to any engine: one that does not know it refuses it and
//!   goes on.

// A message, a state or a want that is new must not be forgotten anywhere.
#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]

pub mod frame;
pub mod handshake;
pub mod message;
pub mod request;
#[cfg(test)]
pub(crate) mod samples;
