//! The world of a durable engine, simulated from one seed.
//!
//! The engine's own server, workers and clients run unchanged on simulated hosts, over a simulated network, on a simulated
//! disk. From a seed comes a [`Plan`]: how the world is made, what clients do, and what goes wrong: processes die and stand
//! still, the power goes, links are cut, held and slow, frames come twice, late (by hours) and in pieces, answers are cut off,
//! clocks are wrong, drift and jump, syncs are slow and fail, reads fail, the disk is full, steps fail, hang and panic. [`run`] plays it, and checkers look at what becomes durable, at what leaves the server, and at what
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
//! - `world`: clock, entropy, network and disk as the engine sees them; the disk is simulated, or the production store.
//! - `host`: the programs. `workload`: the workflows, which carry their own proof. `ledger`: the outside world.
//! - `checker`: what must hold, one file per property. `skip`: time that nobody needs.
//! - [`run_recorded`]: a plan with all that happened, and its report as a page to look at. [`event`]: what is taken down;
//!   [`picture`]: what is drawn of it.
//! - [`first_difference`]: where two traces of one seed part.
//!
//! # What it is not
//!
//! Not a proof: a seed that holds says nothing of the next one. Not a simulation of the machine: memory, threads and the
//! file system are as they are; the disk is a model of one, tied to the real store by the storage's conformance suite, and
//! by seeds that are played on both ([`Plan::on_fjall`]) and take the same path on both.
//! TCP is simulated without retransmission: a connection that lost a segment stays dead, as after a long cut.
//!
//! # Limits
//!
//! One server, one to five workers, one to three clients; up to 34 runs; 8 to 14 simulated seconds of faults, and 60 to end
//! in, 180 where waits are long, 300 where all goes through one slot or two. What is skipped does not count: in half of the worlds some runs wait for hours, days or
//! a year, and all wall clocks are put forward while every run waits.

mod audit;
pub mod canary;
mod checker;
pub mod draw;
mod durable;
pub mod event;
mod history;
mod host;
mod ledger;
mod outside;
mod page;
mod panics;
pub mod picture;
pub mod plan;
mod program;
mod recording;
mod report;
mod shipped;
mod shrink;
mod simulation;
mod skip;
mod suite;
mod told;
mod trace;
mod workload;
mod world;

pub use audit::{Audit, AuditedStep, CrashMap, CrashPoint};
pub use draw::Draw;
pub use history::{EffectSeen, History, RunSeen};
pub use ledger::Effect;
pub use outside::{CallError, Outside};
pub use plan::{Plan, Point, Strike, Workload};
pub use program::SimWorker;
pub use recording::{Journal, JournalEntry, Recording, Written};
pub use report::{Report, Violation};
pub use shipped::Shipped;
pub use shrink::Shrunk;
pub use simulation::{run, run_recorded, run_traced};
pub use suite::{Failed, FaultClass, Faults, Options, Progress, Seeds, Sim, Suite, SuiteReport};
pub use trace::first_difference;
