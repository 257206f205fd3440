//! The stores against their promises, with real files.

#![expect(clippy::unwrap_used, reason = "a test fails where it meets what it did not expect")]

mod conformance;
mod crash;
mod damage;
mod model;
mod open;
mod reader;
mod support;
