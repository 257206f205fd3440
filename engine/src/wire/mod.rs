//! The protocol between engine, workers and clients.
//!
//! ```text
//!   worker                                engine                               client
//!     │ Hello(workflows, queues, held) ──►  │  ◄────────────────── Hello()         │
//!     │ ◄────────── Welcome(session, …)     │  Welcome(…) ──────────────────────►  │
//!     │ ◄─ LeaseContinued/Revoked per held  │                                      │
//!     │                                     │  ◄───────────────── Start(request)   │
//!     │                                [commit: Started + lease]                   │
//!     │ ◄── Dispatch(run, token, journal)   │  ── Reply(request, Started) ───────► │
//!     │ StepCompletedReport ─────────────►  │                                      │
//!     │                                [commit: StepCompleted]                     │
//!     │ ◄── Appended(run, index, entry)     │                                      │
//!     │ TurnCompleted ───────────────────►  │                                      │
//!     │                                [commit: Completed, lease ends]             │
//!     │ ◄── TurnEnded(run)                  │  ── Reply(request, Outcome) ───────► │
//!     │ ◄─────────── Heartbeat ──────────►  │  ◄────────── Heartbeat ───────────►  │
//! ```
//!
//! A frame is a length (4 bytes, little endian, of what follows), a kind number and positional
//! MessagePack fields. A memoized step says `MemoRequested` before each attempt,
//! and hears `AttemptMemo`, or `Appended` with another step's result. What is not wanted any more
//! is said by `MemoReleased`, and answered by the same.
//!
//! Every frame of the engine was released by the commit that caused it. Duplicates are harmless:
//! requests carry a call number, starts are idempotent by run id, reports by (run, token, step).

pub mod frame;
pub mod message;
