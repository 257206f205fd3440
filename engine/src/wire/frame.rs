//! Frames on a byte stream: a length, then a message.

use bytes::{Buf, BytesMut};

#[cfg(feature = "worker")]
use super::handshake::{HELLO_BYTES_MAX, HELLO_V1_KIND};
use super::handshake::Protocols;
use super::message::Message;
use crate::numbered::Undecodable;

/// The longest frame, in bytes, its length field not counted: the largest payload and room for the
/// rest.
pub const FRAME_BYTES_MAX: usize = (16 << 20) + (1 << 20);

/// What a first frame that is longer than a hello may be, is.
#[cfg(feature = "worker")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LongFirstFrame {
    /// Its kind has not come yet.
    Unknown,
    /// A hello of protocol 1, of so many bytes with its length: it held all that a worker registers,
    /// and its peer must still hear why it is refused.
    HelloV1(usize),
}

#[cfg(feature = "worker")]
impl LongFirstFrame {
    /// Looks at the front of what a stranger says.
    pub(crate) fn of(buffer: &[u8]) -> Option<Self> {
        let (head, frame) = buffer.split_first_chunk::<4>()?;
        let bytes = u32::from_le_bytes(*head) as usize;
        if bytes <= HELLO_BYTES_MAX || bytes > FRAME_BYTES_MAX {
            return None;
        }
        match frame.first() {
            None => Some(Self::Unknown),
            Some(&HELLO_V1_KIND) => Some(Self::HelloV1(4 + bytes)),
            Some(_) => None,
        }
    }
}

#[cfg(any(feature = "server", feature = "inspect"))]
/// A page of journal entries in one frame stays around this size, so that heartbeats are not held
/// up behind it.
pub const JOURNAL_FRAME_BYTES: usize = 256 << 10;

/// Room for a frame that is on its way is made in steps of this.
const RESERVE_BYTES: usize = 256 << 10;

/// Why a stream of frames cannot be read on. Ends the connection, nothing else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length over the limit: most likely not our protocol at all.
    #[error(
        "a frame of {bytes} bytes was announced, more than the {bytes_max} allowed: the peer does not speak this protocol"
    )]
    TooLong {
        /// The announced length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// A frame that is not one of our messages.
    #[error("a frame does not decode")]
    Undecodable(#[from] Undecodable),
}

/// Appends one frame, as a side writes it that speaks `protocols`.
pub fn encode(message: &Message, protocols: Protocols, into: &mut Vec<u8>) {
    let start = into.len();
    into.extend_from_slice(&[0; 4]);
    encode_message(message, protocols, into);
    let length = (into.len() - start - 4) as u32;
    into[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

#[cfg(any(test, feature = "inspect"))]
fn encode_message(message: &Message, protocols: Protocols, into: &mut Vec<u8>) {
    // A later version writes longer frames to everybody, but for those that are frozen.
    if protocols.max >= Protocols::LATER.max && !message.is_frozen() {
        return crate::numbered::later::write(|| message.encode_into(into));
    }
    message.encode_into(into);
}

#[cfg(not(any(test, feature = "inspect")))]
fn encode_message(message: &Message, _protocols: Protocols, into: &mut Vec<u8>) {
    message.encode_into(into);
}

/// Takes the next whole frame off the front of `buffer`, if there is one.
pub fn decode(buffer: &mut BytesMut, bytes_max: usize) -> Result<Option<Message>, FrameError> {
    let Some(head) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let bytes = u32::from_le_bytes(*head) as usize;
    if bytes > bytes_max {
        return Err(FrameError::TooLong { bytes, bytes_max });
    }
    if buffer.len() < 4 + bytes {
        // Not for all of it at once: it was announced, and has not come.
        buffer.reserve((4 + bytes - buffer.len()).min(RESERVE_BYTES));
        return Ok(None);
    }
    let message = Message::decode(&buffer[4..4 + bytes])?;
    buffer.advance(4 + bytes);
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::{Closing, Heartbeat, Requeue};

    #[test]
    fn frames_survive_any_split() {
        let messages = [
            Message::from(Heartbeat { beat: 300 }),
            Requeue { run: Default::default(), token: Default::default() }.into(),
            Closing { reason: "done".into() }.into(),
        ];
        for protocols in [Protocols::OWN, Protocols::LATER] {
            let mut bytes = Vec::new();
            messages.iter().for_each(|m| encode(m, protocols, &mut bytes));
            for cut in 0..=bytes.len() {
                let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
                for part in [&bytes[..cut], &bytes[cut..]] {
                    buffer.extend_from_slice(part);
                    while let Some(message) = decode(&mut buffer, FRAME_BYTES_MAX).unwrap() {
                        found.push(message);
                    }
                }
                assert_eq!(found, messages);
            }
        }
    }

    #[test]
    fn garbage_is_an_error() {
        let mut buffer = BytesMut::from(&b"GET / HTTP/1.1\r\n\r\n"[..]);
        assert!(matches!(decode(&mut buffer, FRAME_BYTES_MAX), Err(FrameError::TooLong { .. })));
        let mut buffer = BytesMut::from(&[2, 0, 0, 0, 255, 255][..]);
        assert!(matches!(decode(&mut buffer, FRAME_BYTES_MAX), Err(FrameError::Undecodable(_))));
    }
}
