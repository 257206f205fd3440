//! The only code that touches tokio: connections, worker, client, and (with the `server` feature) the engine's driver.

pub mod env;
pub mod link;
