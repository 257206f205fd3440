//! The beginning of a connection: hello, welcome, registration.
//!
//! ```text
//!   worker or client                                  engine
//!     │ Hello(protocols, process, principal) ───────►   │
//!     │ ◄────── Welcome(protocol, session, …)           │   or Closing(reason)
//!     │ Register(workflows, slots, tags, held) ─────►   │   workers only
//!     │ ◄────────────────────────── Registered          │   or Closing(reason)
//!     │ ◄── LeaseContinued / Revoked for each held      │
//! ```
//!
//! [`Hello`], [`Welcome`], [`Heartbeat`] and [`Closing`] have a layout that is frozen for ever: any
//! two versions can read each other's, and so agree on a protocol or say why not. Everything else
//! follows in the protocol that was agreed: the highest that both sides speak.
//!
//! Protocol 1 had a hello of another number and layout. Its peers are refused by a [`Closing`],
//! which they read.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::canary::canary;
use crate::model::id::{Namespace, ProcessInstance, SessionId};
use crate::model::time::Time;

/// The longest frame that is read before the hello, in bytes: a stranger must not fill memory.
pub const HELLO_BYTES_MAX: usize = 4 << 10;

/// Protocols that one side speaks, from the lowest to the highest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocols {
    /// The lowest.
    pub min: u16,
    /// The highest.
    pub max: u16,
}

impl Protocols {
    /// Those of this version.
    pub const OWN: Self = Self { min: 2, max: 2 };

    /// Those of a version that is to come and exists for tests only: it writes every frame with one
    /// field more in everything, and has a frame that this version does not know.
    #[cfg(any(test, feature = "inspect"))]
    pub const LATER: Self = Self { min: 2, max: Self::OWN.max + 1 };

    /// The highest protocol that both sides speak.
    pub fn agreed(self, other: Self) -> Option<u16> {
        let (lowest, highest) = (self.min.max(other.min), self.max.min(other.max));
        let agreed = match canary!("the lowest common protocol is agreed") {
            true => lowest,
            false => highest,
        };
        (highest >= lowest).then_some(agreed)
    }
}

impl fmt::Display for Protocols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.min == self.max {
            true => write!(f, "protocol {}", self.min),
            false => write!(f, "protocols {} to {}", self.min, self.max),
        }
    }
}

/// The first frame of a connection, from the peer. At most [`HELLO_BYTES_MAX`]. **Frozen**: no field
/// is ever added, moved or taken away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The lowest protocol the peer speaks.
    pub protocol_min: u16,
    /// The highest.
    pub protocol_max: u16,
    /// The process instance that connects.
    pub process: ProcessInstance,
    /// The namespace of all its requests.
    pub namespace: Namespace,
    /// Who it is, as journals and audit entries name it.
    pub principal: String,
    /// What proves that it may be this principal; opaque. Not looked at so far.
    pub credentials: Option<Bytes>,
    /// What proves that it is this process instance; opaque. Not looked at so far.
    pub proof: Option<Bytes>,
}

impl Hello {
    /// As tests say it: in this version's protocols and the default namespace.
    #[cfg(any(test, feature = "inspect"))]
    pub(crate) fn test(process: ProcessInstance, principal: &str) -> Self {
        Self {
            protocol_min: Protocols::OWN.min,
            protocol_max: Protocols::OWN.max,
            process,
            namespace: Namespace::default(),
            principal: principal.to_owned(),
            credentials: None,
            proof: None,
        }
    }

    /// The protocols the peer speaks.
    pub fn protocols(&self) -> Protocols {
        Protocols { min: self.protocol_min, max: self.protocol_max }
    }
}

/// The engine's answer to a hello. **Frozen**.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The protocol of everything that follows: the highest that both sides speak.
    pub protocol: u16,
    /// The number of this session.
    pub session: SessionId,
    /// The store's identity.
    pub store: u64,
    /// The epoch of this opening of the store.
    pub epoch: u64,
    /// Send a heartbeat this often, in milliseconds.
    pub heartbeat_ms: u64,
    /// A peer not heard of for this long is gone, in milliseconds.
    pub session_timeout_ms: u64,
    /// The largest payload, in bytes.
    pub payload_bytes_max: u64,
    /// Engine time.
    pub now: Time,
}

/// Keep-alive, sent in both directions. **Frozen**.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Counts up, for traces.
    pub beat: u64,
}

/// The last frame before the sender closes. **Frozen**; protocol 1 reads it, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// Why.
    pub reason: String,
}

/// Said by either side right after the welcome, if [`Protocols::LATER`] was agreed; nothing follows
/// from it.
#[cfg(any(test, feature = "inspect"))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Later {}

#[cfg(any(test, feature = "inspect"))]
impl Later {
    /// What a side that speaks `own` says once `agreed` was.
    pub(crate) fn of(own: Protocols, agreed: u16) -> Option<Self> {
        let later = Protocols::LATER.max;
        let is_known = own.max >= later;
        let is_agreed =
            agreed >= later || canary!("a frame of a later protocol goes to a peer of protocol 2");
        (is_known && is_agreed).then_some(Self {})
    }
}

/// The kind number of [`HelloV1`].
#[cfg(feature = "worker")]
pub(crate) const HELLO_V1_KIND: u8 = 1;

/// The hello of protocol 1, as far as it is read: its peers are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloV1 {
    /// Always 1.
    pub protocol: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_protocol_of_both_is_agreed() {
        let range = |min, max| Protocols { min, max };
        assert_eq!(range(2, 2).agreed(range(2, 3)), Some(2));
        assert_eq!(range(2, 3).agreed(range(2, 3)), Some(3));
        assert_eq!(range(2, 5).agreed(range(4, 9)), Some(5));
        assert_eq!(range(2, 2).agreed(range(3, 4)), None);
        assert_eq!(range(3, 4).agreed(range(1, 2)), None);
    }
}
