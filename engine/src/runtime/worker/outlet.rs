//! The way from the turns to the engine, while there is one.

use std::sync::{Mutex, PoisonError};

use crate::runtime::link::LinkSender;
use crate::wire::message::Message;

/// The current connection, numbered: a turn that has not heard yet of the next one sends nothing
/// over it, because its token is from before.
#[derive(Debug, Default)]
pub(crate) struct Outlet(Mutex<(u64, Option<LinkSender>)>);

impl Outlet {
    /// A new connection and its number.
    pub(crate) fn open(&self, sender: LinkSender) -> u64 {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *current = (current.0 + 1, Some(sender));
        current.0
    }

    /// The connection is gone.
    pub(crate) fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1 = None;
    }

    /// Sends over connection number `connection`, if it is there.
    pub(crate) fn send(&self, connection: u64, message: impl Into<Message>) -> bool {
        let current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current {
            (number, Some(sender)) if *number == connection => sender.send(message).is_ok(),
            _ => false,
        }
    }
}
