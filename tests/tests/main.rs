//! The promises, a file each.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod host;
mod peer;

mod acknowledgement;
mod batch;
mod damage;
mod dead;
mod disk;
mod drain;
mod embedded;
mod feature;
mod format;
mod garbage;
mod heartbeat;
mod isolated;
mod journal;
mod limit;
mod lock;
mod memo;
mod namespace;
mod refusal;
mod requirement;
mod restart;
mod schedule;
mod starts;
mod tags;
mod worker;
