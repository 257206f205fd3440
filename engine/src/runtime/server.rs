//! The listening side: accepts connections and pumps their frames into the driver.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::driver::{DriverHandle, Event};
use super::env::{Env, Listener, Stream};
use super::link::{Closed, Dial, FrameReader, Link, LinkSender, write_frames};
use crate::model::id::SessionId;
use crate::wire::message::{Closing, Message};

/// While more events than this wait for the driver, nothing more is read from sockets.
const INBOX_MAX: usize = 16_384;
/// A connection whose peer lets this many messages pile up is closed.
const OUTBOX_MAX: usize = 200_000;
/// How long a connection may take to say its first word.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait after a failed accept (out of file descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until the driver is gone.
pub(super) async fn accept(mut listener: Box<dyn Listener>, driver: DriverHandle, env: Env) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = driver.inbox.closed() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => serve(stream, from, &driver, &env),
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                env.clock.sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn serve(stream: Box<dyn Stream>, from: String, driver: &DriverHandle, env: &Env) {
    let session = driver.next_session();
    let (read, write) = tokio::io::split(stream);
    let (outward, to_write) = mpsc::unbounded_channel::<Message>();
    let refusal = outward.downgrade();
    let queued = Arc::new(AtomicUsize::new(0));
    let leaving = queued.clone();
    tokio::spawn(write_frames(write, to_write, env.protocols, move |count| {
        leaving.fetch_sub(count, Ordering::Relaxed);
    }));
    let (driver, clock, inbox) = (driver.clone(), env.clock.clone(), driver.clone());
    let reader = tokio::spawn(async move {
        let mut reader = FrameReader::of_stranger(read);
        let mut patience = Some(clock.sleep(HELLO_TIMEOUT));
        let problem = loop {
            while inbox.depth.load(Ordering::Relaxed) > INBOX_MAX {
                clock.sleep(Duration::from_millis(1)).await;
            }
            let heard = match patience.take() {
                None => reader.next().await,
                Some(over) => tokio::select! {
                    biased;
                    heard = reader.next() => heard,
                    () = over => Err(format!("it said nothing for {} s", HELLO_TIMEOUT.as_secs())),
                },
            };
            match heard {
                Ok(Some(message)) => {
                    if inbox.send(Event::Message { session, message }).is_err() {
                        break None;
                    }
                }
                Ok(None) => break None,
                Err(problem) => break Some(problem),
            }
        };
        if let Some(reason) = problem {
            tracing::info!(%session, reason, "a connection is closed");
            if let Some(outward) = refusal.upgrade() {
                let _ = outward.send(Closing { reason }.into());
            }
        }
        let _ = inbox.send(Event::Closed { session });
    });
    let closer = Some(reader.abort_handle());
    let unread = reader.abort_handle();
    let gone = driver.clone();
    let sender = LinkSender::new(move |message| {
        // A peer that does not read must not fill the engine's memory.
        if queued.fetch_add(1, Ordering::Relaxed) > OUTBOX_MAX {
            if !unread.is_finished() {
                tracing::warn!(%session, OUTBOX_MAX, "a peer does not read what it is sent: its connection is closed");
                unread.abort();
                let _ = gone.send(Event::Closed { session });
            }
            return Err(Closed);
        }
        outward.send(message).map_err(|_| Closed)
    });
    let _ = driver.send(Event::Opened { session, sender, from, closer });
}

/// Dials the engine of this very process.
#[derive(Clone)]
pub(super) struct EmbeddedDial {
    pub(super) driver: DriverHandle,
}

/// Tells the driver that the peer is gone once the last sender is dropped.
struct Goodbye {
    driver: DriverHandle,
    session: SessionId,
}

impl Drop for Goodbye {
    fn drop(&mut self) {
        let _ = self.driver.send(Event::Closed { session: self.session });
    }
}

impl Dial for EmbeddedDial {
    fn dial(&self) -> BoxFuture<'static, std::io::Result<Link>> {
        let driver = self.driver.clone();
        Box::pin(async move {
            let session = driver.next_session();
            let gone =
                |_| std::io::Error::new(std::io::ErrorKind::NotConnected, "the engine is closed");
            let (to_peer, receiver) = mpsc::unbounded_channel::<Message>();
            let sender = LinkSender::new(move |message| to_peer.send(message).map_err(|_| Closed));
            driver
                .send(Event::Opened { session, sender, from: "embedded".to_owned(), closer: None })
                .map_err(gone)?;
            let goodbye = Goodbye { driver, session };
            let sender = LinkSender::new(move |message| {
                goodbye.driver.send(Event::Message { session, message })
            });
            Ok(Link { sender, receiver, reason: Arc::default() })
        })
    }

    fn address(&self) -> String {
        "the embedded engine".to_owned()
    }
}
