//! The programs on the simulated hosts: the engine's own server, worker and client code.

pub(crate) mod client;
mod schedule;
pub(crate) mod server;
mod starts;
pub(crate) mod worker;

pub(crate) use self::starts::late_run;

/// Where the server listens.
pub(crate) const SERVER: &str = "server:7400";
