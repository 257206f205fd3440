//! Why a call gave no answer, or a run no output.

use std::time::Duration;

use crate::model::failure::Failure;
use crate::model::payload::PayloadError;
use crate::model::request::Refusal;
use crate::numbered::Undecodable;
use crate::runtime::session::SessionError;

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub enum ClientError {
    /// There is no connection, and the request was never sent: it has taken no effect.
    #[error("{address} is not reachable: {cause}")]
    NotReachable {
        /// What was dialled.
        address: String,
        /// What the system said.
        cause: String,
    },
    /// The engine answered and does not want this client. The request has taken no effect.
    #[error("the engine at {address} refuses the connection: {reason}")]
    HelloRefused {
        /// What was dialled.
        address: String,
        /// What it said.
        reason: String,
    },
    /// The engine says no, and nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The request was sent and not answered: whether it has taken effect is unknown. A start with
    /// an id may be repeated.
    #[error("no answer within {timeout:?}: whether the request has taken effect is unknown")]
    TimedOut {
        /// The timeout of the call.
        timeout: Duration,
    },
    /// A value that does not become a payload.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// A journal of a newer engine, or a damaged one.
    #[error("entry {index} of the journal cannot be read")]
    Unreadable {
        /// Which entry.
        index: u32,
        /// Why.
        #[source]
        cause: Undecodable,
    },
    /// The request was carried out or refused, and the answer cannot be read: the engine is of a
    /// later version. Ask for what became of it with a client of that version.
    #[error("the engine's answer cannot be read: it is of a later version")]
    UnreadableAnswer {
        /// Why.
        #[source]
        cause: Undecodable,
    },
    /// An answer that does not fit the question.
    #[error("the engine answered with a {kind}, which does not fit the question")]
    Misfit {
        /// The kind of the message.
        kind: &'static str,
    },
    /// The runtime that served the connection has been shut down. Whether the request has taken
    /// effect is unknown.
    #[error("the connection's runtime has been shut down")]
    Closed,
}

impl From<SessionError> for ClientError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::NotReachable { address, cause } => Self::NotReachable { address, cause },
            SessionError::HelloRefused { address, reason } => {
                Self::HelloRefused { address, reason }
            }
        }
    }
}

/// Why a run has no output.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub enum RunError {
    /// It failed and is a dead letter.
    #[error("the run failed: {0}")]
    Failed(Failure),
    /// It was cancelled.
    #[error("the run was cancelled")]
    Cancelled,
    /// It is not known.
    #[error("the run's outcome is not known")]
    Client(#[from] ClientError),
    /// The output is not of the expected type.
    #[error("the run completed with something else than was expected")]
    Payload(#[from] PayloadError),
}
