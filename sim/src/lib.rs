//! The world of a durable engine, simulated from one seed.
//!
//! The engine's own server, workers and clients run unchanged on simulated hosts, over a simulated network, on a simulated
//! disk. From a seed comes a [`Plan`]: how the world is made, what clients do, and what goes wrong: processes die, the
//! power goes, links are cut, held and slow, frames come twice, late and in pieces, syncs are slow and fail, the disk is
//! full, steps fail, hang and panic. [`run`] plays it, and checkers look at what becomes durable, at what leaves the server, and at what
//! is left in the end.
//!
//! ```
//! use stepwell_sim::{Plan, run};
//!
//! let report = run(Plan::of_seed(17));
//! assert!(report.is_sound(), "{report}");
//! assert_eq!(run(Plan::of_seed(17)).trace_hash, report.trace_hash); // the same seed, the same world
//! ```
//!
//! - [`plan`]: all that chance decides before the run, as data, drawn from labelled streams.
//! - `world`: clock, entropy, network and disk as the engine sees them.
//! - `host`: the programs. `workload`: the workflows, which carry their own proof. `ledger`: the outside world.
//! - `checker`: what must hold, one file per property.
//! - [`first_difference`]: where two traces of one seed part.
//!
//! # What it is not
//!
//! Not a proof: a seed that holds says nothing of the next one. Not a simulation of the machine: memory, threads and the
//! file system are as they are; the disk is a model of one, tied to the real store by the storage's conformance suite.
//! TCP is simulated without retransmission: a connection that lost a segment stays dead, as after a long cut.
//!
//! # Limits
//!
//! One server, three workers, two clients; up to 34 runs; 8 to 14 simulated seconds of faults, and 60 to end in.

pub mod canary;
mod checker;
pub mod draw;
mod durable;
mod host;
mod ledger;
mod panics;
pub mod plan;
mod report;
mod simulation;
mod told;
mod trace;
mod workload;
mod world;

pub use plan::Plan;
pub use report::{Report, Violation};
pub use simulation::{run, run_traced};
pub use trace::first_difference;
