//! Stepwell: durable workflows.

pub mod core;
pub mod keys;
pub mod model;
pub mod numbered;
pub mod reading;
#[cfg(feature = "worker")]
mod replay;
#[cfg(feature = "worker")]
pub mod runtime;
pub mod wire;
#[cfg(feature = "worker")]
pub mod workflow;

pub use model::failure::Failure;
pub use model::retry::Retry;
#[cfg(feature = "worker")]
pub use runtime::client::{Client, ClientError, Run, RunError, StartBuilder};
#[cfg(feature = "worker")]
pub use runtime::session::SessionError;
#[cfg(feature = "worker")]
pub use runtime::worker::{Worker, WorkerError, WorkerHandle, WorkerStats};
#[cfg(feature = "worker")]
pub use workflow::{Ctx, Step, Workflow, days, hours, join_all, millis, mins, secs};
#[cfg(feature = "server")]
pub use runtime::engine::{Engine, EngineOptions, OpenError};
#[cfg(feature = "server")]
pub use runtime::inspect::{StoreReport, store_check, store_dump};
