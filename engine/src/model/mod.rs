//! The nouns: plain data, without behaviour that needs a clock, a disk or a network.

pub mod batch;
pub mod calendar;
pub mod chain;
#[cfg(feature = "calendar")]
mod cron;
pub mod dead;
pub mod entry;
pub mod failure;
pub mod id;
mod json;
pub mod limits;
#[cfg(any(feature = "worker", feature = "inspect"))]
pub(crate) mod name;
pub mod payload;
pub mod queue;
pub mod request;
pub mod retry;
pub mod run;
pub mod schedule;
pub(crate) mod setters;
pub mod time;
pub mod unique;
