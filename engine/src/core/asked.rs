//! A request as its handler gets it: with the way back, and with who asks.

use super::Core;
use super::output::ReplyTo;
use crate::model::request::Caller;
use crate::wire::message::Call;

/// A request of a client.
#[derive(Debug)]
pub(super) struct Asked<R> {
    /// Where the answer goes.
    pub(super) to: ReplyTo,
    /// The namespace and the principal of the session, or of whom its gateway acts for, and the
    /// request id.
    pub(super) caller: Caller,
    /// What is asked.
    pub(super) request: R,
}

impl Core {
    /// Who asks by a call: the session's principal, or the one that a gateway acts for.
    pub(super) fn caller_of(&self, to: ReplyTo, call: &Call) -> Caller {
        let session = self.sessions.get(&to.session);
        let (namespace, principal) = match (&call.on_behalf, session) {
            (Some(other), _) => (other.namespace, other.principal.clone()),
            (None, Some(session)) => (session.namespace, session.principal.clone()),
            (None, None) => Default::default(),
        };
        let traceparent = call.traceparent.clone();
        Caller { namespace, principal, request_id: call.request_id, traceparent }
    }
}
