//! Simulation suites: your own workflows, run by the production engine, server, workers and client,
//! in a world that one seed decides.
//!
//! [`Sim::suite`] is where to begin; `docs/simulation.md` leads from nothing to a first caught bug
//! in five minutes.
//!
//! ```
//! use stepwell::{Ctx, Workflow};
//! use stepwell_sim::{Effect, Faults, Seeds, Sim};
//!
//! const CHECKOUT: Workflow<u64, u64> = Workflow::new("checkout");
//!
//! Sim::suite("checkout")
//!     .workers(3, |w| {
//!         let world = w.world(); // stands for your providers, and is as unreliable as the seed says
//!         w.register(CHECKOUT, move |ctx: Ctx, order: u64| {
//!             let world = world.clone();
//!             async move { ctx.step("charge", |s| world.call("charge", s.key(), order)).await }
//!         })
//!     })
//!     .workload(|w| {
//!         w.start_many(CHECKOUT, 5, |draw| draw.bits());
//!     })
//!     .faults(Faults::swarm())
//!     .effect("charge", Effect::once_per_key().once_per_request())
//!     .seeds(Seeds::fresh_only(3).from(0))
//!     .run(); // panics with the seed, the shrunk plan, a report, and the line that runs it again
//! ```
//!
//! The server, workers and clients run unchanged on simulated hosts, over a simulated network, on a
//! simulated disk. From a seed comes a [`Plan`]: how the world is made, what clients do, and what
//! goes wrong: processes die and stand still, the power goes, links are cut, held and slow, frames
//! come twice, late (by hours) and in pieces, answers are cut off, clocks are wrong, drift and
//! jump, syncs are slow and fail, reads fail, the disk is full, other versions of the code are
//! deployed, steps fail, hang and panic. Checkers look at what becomes durable, at what leaves the
//! server, at what clients are told and at what is left in the end. The engine's own suite
//! ([`Sim::engine`]) has workflows that carry their own proof:
//!
//! ```
//! use stepwell_sim::{Plan, run};
//!
//! let report = run(Plan::from_seed(17));
//! assert!(report.is_sound(), "{report}");
//! assert_eq!(run(Plan::from_seed(17)).trace_hash, report.trace_hash); // the same seed, the same world
//! ```
//!
//! - [`plan`]: all that chance decides before the run, as data, drawn from labelled streams.
//! - `world`: clock, entropy, network and disk as the engine sees them; the disk is simulated, or
//!   the production store.
//! - `host`: the programs. `workload`: the workflows, which carry their own proof. `ledger`: the
//!   outside world.
//! - `checker`: what must hold, one file per property. `skip`: time that nobody needs.
//! - [`run_recorded`]: a plan with all that happened, and its report as a page to look at.
//!   [`event`]: what is taken down; [`picture`]: what is drawn of it.
//! - [`first_difference`]: where two traces of one seed part.
//!
//! # What it is not
//!
//! Not a proof: a seed that holds says nothing of the next one. Not a simulation of the machine:
//! memory, threads and the file system are as they are; the disk is a model of one, tied to the
//! real store by the storage's conformance suite, and by seeds that are run on both
//! ([`Plan::on_fjall`]) and take the same path on both. TCP is simulated without retransmission: a
//! connection that lost a segment stays dead, as after a long cut.
//!
//! # Limits
//!
//! One server, one to five workers, one to three clients; up to 38 runs, and in a third of the
//! worlds those of one to four schedules; 8 to 14 simulated seconds of faults, and 60 to end in,
//! 180 where waits are long, 300 where all goes through one slot or two. What is skipped does not
//! count: in half of the worlds some runs wait for hours, days or a year, and all wall clocks are
//! put forward while every run waits.

pub mod canary;
mod checker;
mod client_log;
pub mod draw;
mod durable;
pub mod event;
#[cfg(test)]
mod fixed;
mod history;
mod host;
mod idempotency;
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
mod state_rows;
mod suite;
mod trace;
mod workload;
mod world;

pub use draw::Draw;
pub use history::{EffectSeen, History, RunSeen};
pub use idempotency::{CheckedStep, CrashMap, CrashPoint, Idempotency};
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
