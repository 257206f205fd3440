//! The simulated network.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use stepwell::runtime::env::{Listener, Net, Stream};
use turmoil::net::{TcpListener, TcpStream};

use super::stream::{FrameStream, Socket};
use super::{Host, lock};
use crate::event::What;

/// TCP between hosts by their names.
pub(super) struct HostNet(pub(super) Arc<Host>);

impl Net for HostNet {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let (host, address) = (self.0.clone(), address.to_owned());
        Box::pin(async move {
            host.awake().await;
            let stream = TcpStream::connect(address.as_str()).await;
            let from = stream.as_ref().ok().map(TcpStream::local_addr);
            let opening = stream.map(|stream| Opening::new(host.clone(), stream));
            host.awake().await;
            let peer = address.split(':').next().unwrap_or_default().to_owned();
            let from = from.transpose()?;
            let connection = from.map(|from| lock(&host.world.connections).dialled(from));
            let answer = connection.map_or("refused", |_| "connected");
            host.tell(format_args!("dials {peer}: {answer}"), || What::Dialled {
                peer: peer.clone(),
                connection,
            });
            let connection = connection.unwrap_or_default();
            let socket = opening?.socket.clone();
            let stream: Box<dyn Stream> =
                Box::new(FrameStream::new(host, peer, "dialled", connection, socket));
            Ok(stream)
        })
    }

    fn bind(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        let (host, address) = (self.0.clone(), address.to_owned());
        Box::pin(async move {
            let listener = TcpListener::bind(address.as_str()).await?;
            let listening: Box<dyn Listener> =
                Box::new(Listening { host, listener, address, accepted: AtomicU64::new(0) });
            Ok(listening)
        })
    }
}

/// A connection that the operating system has opened and the program has not seen: it may stand
/// still.
struct Opening {
    host: Arc<Host>,
    socket: Socket,
}

impl Opening {
    fn new(host: Arc<Host>, stream: TcpStream) -> Self {
        let socket = Arc::new(Mutex::new(Some(stream)));
        host.opened(&socket);
        Self { host, socket }
    }
}

impl Drop for Opening {
    /// As with a [`FrameStream`]: all connections of a host that crashes are closed in the order in
    /// which they were opened.
    fn drop(&mut self) {
        if self.host.world.is_crashing() {
            self.host.close_all();
        }
    }
}

struct Listening {
    host: Arc<Host>,
    listener: TcpListener,
    address: String,
    accepted: AtomicU64,
}

impl Listener for Listening {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, String)>> {
        Box::pin(async move {
            self.host.awake().await;
            let (stream, from) = self.listener.accept().await?;
            let opening = Opening::new(self.host.clone(), stream);
            self.host.awake().await;
            let peer = turmoil::reverse_lookup(from.ip()).unwrap_or_else(|| from.ip().to_string());
            let number = self.accepted.fetch_add(1, Ordering::Relaxed);
            let connection = lock(&self.host.world.connections).accepted(from);
            self.host.tell(format_args!("accepts {peer}"), || What::Accepted {
                peer: peer.clone(),
                connection,
            });
            let label = format!("accepted {number}");
            let stream: Box<dyn Stream> = Box::new(FrameStream::new(
                self.host.clone(),
                peer.clone(),
                &label,
                connection,
                opening.socket.clone(),
            ));
            Ok((stream, peer))
        })
    }

    fn address(&self) -> String {
        self.address.clone()
    }
}
