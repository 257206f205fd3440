//! The nouns: plain data, without behaviour that needs a clock, a disk or a network.

pub mod calendar;
pub mod chain;
pub mod command;
#[cfg(feature = "calendar")]
mod cron;
pub mod entry;
pub mod failure;
pub mod id;
mod json;
pub mod limits;
pub mod payload;
pub mod retry;
pub mod run;
pub mod schedule;
pub mod time;
