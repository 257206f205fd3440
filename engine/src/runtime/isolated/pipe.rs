//! What parent and child say to one another: frames of a length and a record.

#![allow(dead_code, unreachable_pub, reason = "`numbered!` makes more than is needed here")]

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::model::failure::Failure;
use crate::model::id::RunId;
use crate::model::payload::Payload;
use crate::model::time::Time;
use crate::numbered::numbered;
use crate::wire::frame::FRAME_BYTES_MAX;

/// The child is there and asks for its step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ready {}

/// What the child is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Task {
    pub(super) run: RunId,
    /// The index of the command.
    pub(super) number: u32,
    /// How many entries of the journal follow.
    pub(super) seen: u32,
    /// How old the attempt is, in milliseconds.
    pub(super) age_ms: u64,
    pub(super) memory_bytes_max: Option<u64>,
    pub(super) payload_bytes_max: u64,
    /// Engine time.
    pub(super) now: Time,
}

/// Entries of the journal, encoded without their chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Page {
    /// The index of the first.
    pub(super) from: u32,
    pub(super) entries: Vec<Bytes>,
}

/// The body ended well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Returned {
    pub(super) output: Payload,
}

/// The attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failed {
    pub(super) failure: Failure,
}

numbered! {
    /// One frame, either way.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(super) enum Said {
        1 => Ready,
        2 => Task,
        3 => Page,
        4 => Returned,
        5 => Failed,
    }
}

/// One end of the socket.
pub(super) struct Pipe {
    stream: UnixStream,
    buffer: BytesMut,
}

impl Pipe {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, buffer: BytesMut::new() }
    }

    pub(super) async fn say(&mut self, said: impl Into<Said>) -> io::Result<()> {
        let record = said.into().encode();
        let mut frame = Vec::with_capacity(4 + record.len());
        frame.extend_from_slice(&(record.len() as u32).to_le_bytes());
        frame.extend_from_slice(&record);
        self.stream.write_all(&frame).await
    }

    /// The next frame; `None` at the end. **Cancel safety**: what was read is kept.
    pub(super) async fn hear(&mut self) -> io::Result<Option<Said>> {
        loop {
            if let Some(said) = self.take()? {
                return Ok(Some(said));
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    fn take(&mut self) -> io::Result<Option<Said>> {
        let Some(head) = self.buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let bytes = u32::from_le_bytes(*head) as usize;
        if bytes > FRAME_BYTES_MAX {
            return Err(io::Error::other(format!("a frame of {bytes} bytes")));
        }
        if self.buffer.len() < 4 + bytes {
            return Ok(None);
        }
        let said = Said::decode(&self.buffer[4..4 + bytes]).map_err(io::Error::other)?;
        self.buffer.advance(4 + bytes);
        Ok(Some(said))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_go_either_way_and_the_end_is_told() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut ours, mut theirs) = (Pipe::new(ours), Pipe::new(theirs));
        ours.say(Ready {}).await.unwrap();
        let output = Payload::of(&"x".repeat(50_000)).unwrap();
        let returned = Returned { output };
        let (said, heard) = tokio::join!(ours.say(returned.clone()), async {
            (theirs.hear().await.unwrap(), theirs.hear().await.unwrap())
        });
        said.unwrap();
        assert_eq!(heard, (Some(Ready {}.into()), Some(returned.into())));
        drop(ours);
        assert_eq!(theirs.hear().await.unwrap(), None);
    }
}
