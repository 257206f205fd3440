//! **Nobody is sent what its protocol does not have.**
//!
//! Source: the wire's handshake. A welcome names the highest protocol that both sides speak, and
//! what follows it is of that protocol; before it, nothing is sent but what is frozen for ever. Each
//! life of a host draws what it speaks, and says so in its hello.

use stepwell::wire::handshake::Protocols;
use stepwell::wire::message::Message;

/// What the two sides of a connection have said of their protocols, as one of them sees it.
#[derive(Debug, Default)]
pub(crate) struct Agreement {
    /// What the peer speaks, by its hello.
    offered: Option<Protocols>,
    /// The protocol that the welcome names.
    agreed: Option<u16>,
}

impl Agreement {
    pub(crate) const NAME: &str = "nobody is sent what its protocol does not have";

    /// Whether this side has said or heard a welcome.
    pub(crate) fn is_made(&self) -> bool {
        self.agreed.is_some()
    }

    /// Which versions meet on a connection of a server that speaks `own`.
    pub(crate) fn between(&self, own: Protocols) -> &'static str {
        let is_later = |protocols: Protocols| protocols.max >= Protocols::LATER.max;
        match (is_later(own), self.offered.is_some_and(is_later)) {
            (false, false) => "sessions: this peer, this engine",
            (false, true) => "sessions: newer peer, this engine",
            (true, false) => "sessions: this peer, newer engine",
            (true, true) => "sessions: newer peer, newer engine",
        }
    }

    /// A frame has arrived.
    pub(crate) fn received(&mut self, message: &Message) {
        match message {
            Message::Hello(hello) => self.offered = self.offered.or(Some(hello.protocols())),
            Message::Welcome(welcome) => self.agreed = self.agreed.or(Some(welcome.protocol)),
            _ => {}
        }
    }

    /// A side that speaks `own` sends a frame. Says what is wrong with that.
    pub(crate) fn sent(&mut self, own: Protocols, message: &Message) -> Result<(), String> {
        match message {
            Message::Hello(hello) if hello.protocols() != own => {
                return Err(format!("it speaks {own}, and says {}", hello.protocols()));
            }
            Message::Welcome(welcome) => {
                let highest = self.offered.and_then(|offered| {
                    let highest = offered.max.min(own.max);
                    (highest >= offered.min.max(own.min)).then_some(highest)
                });
                self.agreed = Some(welcome.protocol);
                if highest != Some(welcome.protocol) {
                    return Err(format!(
                        "it speaks {own}, the peer {:?}, and it welcomes in protocol {}",
                        self.offered, welcome.protocol
                    ));
                }
            }
            _ => {}
        }
        let (needed, name) = (protocol_of(message), message.kind_name());
        match (needed, self.agreed) {
            (None, _) => Ok(()),
            (Some(_), None) => Err(format!("a {name} is sent before the welcome")),
            (Some(needed), Some(agreed)) if needed > agreed => {
                Err(format!("a {name} is of protocol {needed}, and {agreed} was agreed"))
            }
            (Some(_), Some(_)) => Ok(()),
        }
    }
}

/// The first protocol that has a frame; none if it is of all of them.
fn protocol_of(message: &Message) -> Option<u16> {
    match message {
        Message::HelloV1(_)
        | Message::Hello(_)
        | Message::Welcome(_)
        | Message::Heartbeat(_)
        | Message::Closing(_) => None,
        Message::Register(_)
        | Message::Registered(_)
        | Message::Call(_)
        | Message::Reply(_)
        | Message::Dispatch(_)
        | Message::Journal(_)
        | Message::Appended(_)
        | Message::TurnEnded(_)
        | Message::Revoked(_)
        | Message::LeaseContinued(_)
        | Message::ReportRefused(_)
        | Message::StepCompletedReport(_)
        | Message::AttemptFailedReport(_)
        | Message::TimerRequested(_)
        | Message::TurnSuspended(_)
        | Message::TurnCompleted(_)
        | Message::TurnFailed(_)
        | Message::TurnMismatched(_)
        | Message::Requeue(_)
        | Message::Offer(_)
        | Message::MemoRequested(_)
        | Message::AttemptMemo(_)
        | Message::MemoReleased(_)
        | Message::JournalPageRequested(_)
        | Message::JournalPage(_) => Some(Protocols::OWN.min),
        Message::Later(_) => Some(Protocols::LATER.max),
    }
}
