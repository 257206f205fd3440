//! Steps that run in a process of their own ([`Isolation::Process`](crate::workflow::Isolation)).
//!
//! ```text
//!  engine            worker                                            child: the worker's own binary, again
//!    │                 │ step polled: errand                              │
//!    │                 ├──── socket in a directory of its own, spawn ────►│ main … Worker::start() sees the marker:
//!    │                 │◄──────────────────────────────────── Ready ──────┤ it does not connect to the engine
//!    │                 ├──── Task: run, step, entries seen, limits ──────►│ sets its memory limit
//!    │◄── AskJournal ──┤                                                  │
//!    ├─ JournalReply ─►├──── Page: entries, … up to those seen ──────────►│ replays exactly these, goes live,
//!    │                 │                                                  │ runs the one body
//!    │                 │◄──────────────────── Returned, or Failed ────────┤ exits
//!    │◄── StepCompleted│ waits a moment, kills the group, reaps           x
//! ```
//!
//! What both sides rely on:
//!
//! - **I1 The child never speaks to the engine.** It knows one run's journal up to where its
//!   parent's function had seen it, and starts one body. So nothing it does is fenced or recorded
//!   but by its parent's report (R2, G3).
//! - **I2 A replay of the entries seen asks for the step.** The function is the same, the binary is
//!   the same (`/proc/self/exe`: also if the file has been replaced), so the step is asked for with
//!   its number, or the attempt fails.
//! - **I3 The child ends before or with its attempt.** At the timeout, and when the step's
//!   future is dropped (cancelled, revoked, stopped), its process group gets SIGKILL, from a thread
//!   that no user code runs on.
//! - **I4 The child ends with its parent.** A thread of its own reads the socket; at its end the
//!   group kills itself.
//! - **I5 However the child ends, the parent learns it.** Without an answer, the socket's end and
//!   the exit status are one: a failed attempt of class `process`, with the last of what the child
//!   wrote to its stderr.
//! - **I6 Only the two of them speak over the socket.** Its directory is readable by nobody else,
//!   it is gone once the child has connected, and the peer's process id is the child's. Stdin is a
//!   pipe that stays open and empty, stdout is the worker's, stderr is passed on: whatever is
//!   printed is not taken for an answer.
//! - **I7 No process is signalled by a number that is no longer its own**: a group is killed only
//!   until its leader has been reaped.
//!
//! Soft timeouts hold in the child as they do in place: it is told how old the attempt is, and
//! counts from there.

#[cfg(unix)]
mod child;
#[cfg(unix)]
mod parent;
#[cfg(unix)]
mod pipe;

use std::ffi::OsString;

#[cfg(unix)]
pub(crate) use self::child::{Nowhere, serve};
#[cfg(unix)]
pub(crate) use self::parent::Processes;

/// The environment variable that tells a program that it is the process of an isolated step: its
/// value is the socket.
pub const ISOLATED_VARIABLE: &str = "STEPWELL_ISOLATED";
/// The one that tells it of which workflow: another worker of the same program leaves the step to
/// the one that knows it.
#[cfg(unix)]
const WORKFLOW_VARIABLE: &str = "STEPWELL_ISOLATED_WORKFLOW";

/// The class of attempts whose process ended without an answer.
#[cfg(unix)]
pub(crate) const PROCESS: &str = "process";

/// Where the parent listens, in the process of an isolated step.
pub(crate) fn marker() -> Option<OsString> {
    std::env::var_os(ISOLATED_VARIABLE)
}

/// Whether the step is one of this workflow.
#[cfg(unix)]
pub(crate) fn is_of(workflow: &str) -> bool {
    std::env::var_os(WORKFLOW_VARIABLE).is_some_and(|of| of == workflow)
}

/// Whether this program runs as the process of one isolated step. Then
/// [`Worker::start`](crate::Worker::start) does not return. A program that does things before it
/// starts its worker which must not be done again may ask for this first.
pub fn is_isolated() -> bool {
    marker().is_some()
}
