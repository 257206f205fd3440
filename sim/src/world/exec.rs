//! Threads are tasks here.

use std::io;

use futures_util::future::BoxFuture;
use stepwell::runtime::env::Exec;

/// Everything runs on the host's own executor: a thread would make the order of events a matter of
/// chance.
pub(super) struct Tasks;

impl Exec for Tasks {
    fn isolated(&self, _name: &str, future: BoxFuture<'static, ()>) -> io::Result<()> {
        tokio::spawn(future);
        Ok(())
    }
}
