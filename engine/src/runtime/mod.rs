//! The only code that touches tokio: connections, worker, client, and (with the `server` feature)
//! the engine's driver.

// A message, a state or a want that is new must not be forgotten anywhere.
#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]

pub mod client;
pub mod env;
#[cfg(test)]
mod fake_engine;
pub mod isolated;
pub mod link;
pub mod session;
pub mod worker;

#[cfg(feature = "server")]
#[cfg(test)]
mod bulk;
#[cfg(feature = "server")]
mod committer;
#[cfg(feature = "server")]
mod dead_letters;
#[cfg(feature = "server")]
mod driver;
#[cfg(feature = "server")]
pub mod engine;
#[cfg(feature = "server")]
pub mod inspect;
#[cfg(feature = "server")]
mod log;
#[cfg(feature = "server")]
mod query;
#[cfg(feature = "server")]
#[cfg(test)]
mod retry_tests;
#[cfg(feature = "server")]
mod server;
#[cfg(feature = "server")]
#[cfg(test)]
mod wire_tests;
