//! Stepwell: durable workflows.

pub mod model;
pub mod numbered;
#[cfg(feature = "worker")]
pub mod runtime;
pub mod wire;

pub use model::failure::Failure;
