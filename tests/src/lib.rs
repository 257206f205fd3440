//! The promises of Stepwell, tested across crates with real processes and real kills.
//!
//! The tests stand in `tests/`, a file for each promise, and start processes of
//! `stepwell-tests-host`: an engine, a worker, a judge of a damaged directory. What both sides need
//! to know is here.
//!
//! - [`workflow`]: the workflows that the workers run, and how they tell what they do.
//! - [`process_spec`]: what a process is told to do, as the one argument of its command line.
//! - [`verdict`]: what became of a directory that was damaged, judged by somebody who knows what
//!   was in it.

pub mod process_spec;
pub mod verdict;
pub mod workflow;
