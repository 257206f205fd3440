//! The world as the runtime sees it: time, entropy, network and threads, injected.
//!
//! [`Env::real`] is the machine. A simulation puts its own there; the code above cannot tell. This
//! is an argument and not a cargo feature, because features unify: a test dependency would switch
//! the production binary.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::model::time::{Time, as_ms};
use crate::wire::handshake::Protocols;

/// Clocks. All instants of one process are told by one clock.
pub trait Clock: Send + Sync {
    /// Monotonic time since some fixed instant of this process; leases and timeouts live on it.
    fn mono(&self) -> Duration;
    /// The machine's idea of the date. May jump either way; no decision is made by it alone.
    fn wall(&self) -> Time;
    /// Ends once `mono` has moved on by `span`.
    fn sleep(&self, span: Duration) -> BoxFuture<'static, ()>;
}

/// Random bits for ids and for the jitter of reconnects; nothing a replay depends on.
pub trait Entropy: Send + Sync {
    /// 64 random bits.
    fn next_u64(&self) -> u64;
    /// 128 random bits.
    fn next_u128(&self) -> u128 {
        u128::from(self.next_u64()) << 64 | u128::from(self.next_u64())
    }
}

/// A connection's bytes.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Accepts connections.
pub trait Listener: Send {
    /// The next connection and where it comes from. Cancel safe.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, String)>>;
    /// The address it really listens on.
    fn address(&self) -> String;
}

/// Networks. An address is `HOST:PORT`, or `unix:PATH` where there are Unix sockets.
pub trait Net: Send + Sync {
    /// Opens a connection. Callers put a time limit around it.
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>>;
    /// Listens.
    fn bind(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Listener>>>;
}

/// Where code runs that must not be held up by other code (heartbeats) or would hold up other code
/// (fsync).
pub trait Exec: Send + Sync {
    /// Runs `future` to its end apart from the caller: on a thread with a runtime of its own in
    /// production, as a task in a simulation.
    fn isolated(&self, name: &str, future: BoxFuture<'static, ()>) -> io::Result<()>;

    /// Whether this process may execute itself again, for isolated steps. In a simulation they run
    /// in place.
    fn has_processes(&self) -> bool {
        false
    }
}

/// All of it. Cheap to clone.
#[derive(Clone)]
pub struct Env {
    /// Clocks.
    pub clock: Arc<dyn Clock>,
    /// Random bits.
    pub entropy: Arc<dyn Entropy>,
    /// Networks.
    pub net: Arc<dyn Net>,
    /// Threads.
    pub exec: Arc<dyn Exec>,
    /// The protocols that this side speaks.
    pub protocols: Protocols,
}

impl Env {
    /// The machine itself.
    pub fn real() -> Self {
        Self {
            clock: Arc::new(RealClock::new()),
            entropy: Arc::new(RealEntropy),
            net: Arc::new(RealNet),
            exec: Arc::new(RealExec),
            protocols: Protocols::OWN,
        }
    }
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Env")
    }
}

struct RealClock {
    start: std::time::Instant,
}

impl RealClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the edge: the injected clock of production"
    )]
    fn new() -> Self {
        Self { start: std::time::Instant::now() }
    }
}

impl Clock for RealClock {
    fn mono(&self) -> Duration {
        self.start.elapsed()
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this is the edge: the injected clock of production"
    )]
    fn wall(&self) -> Time {
        let since =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Time(as_ms(since))
    }

    fn sleep(&self, span: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(span))
    }
}

struct RealEntropy;

impl Entropy for RealEntropy {
    fn next_u64(&self) -> u64 {
        rand::random()
    }
}

struct RealNet;

struct TcpListening(tokio::net::TcpListener, String);
#[cfg(unix)]
struct UnixListening(tokio::net::UnixListener, String);

impl Listener for TcpListening {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, String)>> {
        Box::pin(async move {
            let (stream, from) = self.0.accept().await?;
            stream.set_nodelay(true)?;
            Ok((Box::new(stream) as Box<dyn Stream>, from.to_string()))
        })
    }

    fn address(&self) -> String {
        self.1.clone()
    }
}

#[cfg(unix)]
impl Listener for UnixListening {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, String)>> {
        Box::pin(async move {
            let (stream, _) = self.0.accept().await?;
            Ok((Box::new(stream) as Box<dyn Stream>, self.1.clone()))
        })
    }

    fn address(&self) -> String {
        self.1.clone()
    }
}

/// The path of a Unix address.
fn unix_path(address: &str) -> Option<PathBuf> {
    address.strip_prefix("unix:").map(PathBuf::from)
}

impl Net for RealNet {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let address = address.to_owned();
        Box::pin(async move {
            #[cfg(unix)]
            if let Some(path) = unix_path(&address) {
                return Ok(
                    Box::new(tokio::net::UnixStream::connect(path).await?) as Box<dyn Stream>
                );
            }
            let stream = tokio::net::TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }

    fn bind(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        let address = address.to_owned();
        Box::pin(async move {
            #[cfg(unix)]
            if let Some(path) = unix_path(&address) {
                // What is left of an engine that was killed. The store's lock says that no other
                // one lives here.
                match std::fs::remove_file(&path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
                let listener = tokio::net::UnixListener::bind(path)?;
                return Ok(Box::new(UnixListening(listener, address)) as Box<dyn Listener>);
            }
            let listener = tokio::net::TcpListener::bind(&address).await?;
            let real = listener.local_addr()?.to_string();
            Ok(Box::new(TcpListening(listener, real)) as Box<dyn Listener>)
        })
    }
}

struct RealExec;

impl Exec for RealExec {
    fn isolated(&self, name: &str, future: BoxFuture<'static, ()>) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || runtime.block_on(future))?;
        Ok(())
    }

    fn has_processes(&self) -> bool {
        cfg!(unix)
    }
}
