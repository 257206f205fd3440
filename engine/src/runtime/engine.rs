//! The engine, embedded in a program or behind a listener: the same thing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use stepwell_storage::{FjallStore, OpenRefusal, Options, Store};
use tokio::sync::{mpsc, oneshot, watch};

use super::client::Client;
use super::driver::{Driver, DriverEnd, DriverHandle, Event};
use super::env::Env;
use super::isolated::is_isolated;
use super::server::{self, EmbeddedDial};
use super::worker::Worker;
use crate::core::clock::ClockSample;
use crate::core::{Core, OpenRefused, RETENTION_DEFAULT, Settings};
use crate::model::limits::{Limits, PAYLOAD_BYTES_CEILING};
use crate::model::setters::setters;
use crate::runtime::client::Gateway;
use crate::store_reader::{self, Unreadable};
use crate::wire::handshake::Protocols;

/// The socket in an engine's directory, through which the command line reaches an embedded engine.
pub const SOCKET: &str = "stepwell.sock";

/// How an engine behaves.
///
/// ```no_run
/// use stepwell::{EngineOptions, Limits, days};
///
/// # async fn run() -> Result<(), stepwell::OpenError> {
/// let options = EngineOptions::default()
///     .retention(days(30))
///     .limits(Limits::default().payload_bytes_max(1 << 20));
/// let engine = options.open("data").await?;
/// # engine.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EngineOptions {
    /// Limits on what users put in.
    pub limits: Limits,
    /// How often peers send heartbeats. Default 2 s.
    pub heartbeat: Duration,
    /// A worker not heard of for this long has lost its leases. Default 10 s.
    pub session_timeout: Duration,
    /// A worker whose connection broke without a goodbye may come back for this long. Default 500
    /// ms.
    pub disconnect_grace: Duration,
    /// Ended runs are kept for this long, rounded up to whole days. Default 7 days.
    pub retention: Duration,
    /// Dead letters about which nobody has decided are kept for this long, rounded up to whole
    /// days, and so is what operators did; not shorter than other ended runs. Default 30 days.
    pub dead_retention: Duration,
    /// A run becomes a dead letter when it has been queued for so long, and no worker that
    /// registers its workflow was connected while others served its queue. Default 10 min.
    pub unregistered_workflow_after: Duration,
    /// Follow the wall clock wherever it goes (after it was wrong, and has been set right). Default
    /// no.
    pub accept_clock: bool,
    /// The log warns of an unserved queue after work in it was offered by no connected worker (its
    /// queue, workflow or tags) for this long. Default 60 s.
    pub unserved_queue_after: Duration,
    /// Memory for blocks read from disk, in bytes. Default 64 MiB.
    pub cache_bytes: u64,
    /// The directory is a restored copy: it gets a new store id, so that workers of its past are
    /// fenced. Default no.
    pub restored: bool,
    /// Whether to listen on `DIR/stepwell.sock`. Default yes.
    pub socket: bool,
    /// Whether workers live in this process only, so that they are known to have ended with it.
    /// Default yes; not so for an engine that listens.
    pub embedded: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        let settings = Settings::default();
        Self {
            limits: Limits::default(),
            heartbeat: settings.heartbeat,
            session_timeout: settings.session_timeout,
            disconnect_grace: settings.disconnect_grace,
            retention: RETENTION_DEFAULT,
            dead_retention: settings.dead_retention,
            unregistered_workflow_after: settings.unregistered_workflow_after,
            accept_clock: false,
            unserved_queue_after: settings.unserved_queue_after,
            cache_bytes: 64 << 20,
            restored: false,
            socket: true,
            embedded: true,
        }
    }
}

/// Why an engine does not open.
#[derive(Debug, thiserror::Error)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub enum OpenError {
    /// The store does not.
    #[error("the store in {} does not open", path.display())]
    Store {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        cause: OpenRefusal,
    },
    /// The engine's records cannot be read.
    #[error("the engine's records cannot be read")]
    Records(#[source] Unreadable),
    /// The engine's records make no sense to this version, or the clock does not.
    #[error("the engine does not open its records")]
    Core(#[source] OpenRefused),
    /// A setting out of its range.
    #[error("{setting} is {value}, which is out of range: {range}")]
    Setting {
        /// Which.
        setting: &'static str,
        /// What was asked for.
        value: String,
        /// What is possible.
        range: &'static str,
    },
    /// The engine's thread does not start.
    #[error("the engine's thread cannot be started")]
    Thread(#[source] std::io::Error),
}

impl OpenError {
    /// Whether another process has the directory open.
    pub fn is_locked(&self) -> bool {
        matches!(self, Self::Store { cause: OpenRefusal::Locked { .. }, .. })
    }

    /// What to do about it, if something can be said.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Store { cause, .. } => cause.hint(),
            Self::Core(OpenRefused::ClockBehind { .. }) => Some(
                "set the machine's clock, or open with `--accept-clock` if the clock is right now",
            ),
            Self::Records(_)
            | Self::Core(OpenRefused::Format { .. } | OpenRefused::Damaged { .. })
            | Self::Setting { .. }
            | Self::Thread(_) => None,
        }
    }
}

impl EngineOptions {
    setters! {
        limits: Limits,
        /// Default 2 s, at least 10 ms.
        heartbeat: Duration,
        /// Default 10 s, at least two heartbeats.
        session_timeout: Duration,
        /// Default 500 ms.
        disconnect_grace: Duration,
        /// Default 7 days.
        retention: Duration,
        /// Default 30 days.
        dead_retention: Duration,
        /// Default 10 min.
        unregistered_workflow_after: Duration,
        /// Default no.
        accept_clock: bool,
        /// Default 60 s.
        unserved_queue_after: Duration,
        /// Default 64 MiB.
        cache_bytes: u64,
        /// Default no.
        restored: bool,
        /// Default yes.
        socket: bool,
        /// Default yes.
        embedded: bool,
    }

    fn settings(&self, protocols: Protocols) -> Result<Settings, OpenError> {
        let bad = |setting, value, range| Err(OpenError::Setting { setting, value, range });
        if self.limits.payload_bytes_max > PAYLOAD_BYTES_CEILING
            || self.limits.payload_bytes_max < 1_024
        {
            return bad(
                "payload_bytes_max",
                self.limits.payload_bytes_max.to_string(),
                "1 KiB to 16 MiB",
            );
        }
        if self.heartbeat < Duration::from_millis(10) || self.session_timeout < self.heartbeat * 2 {
            let value =
                format!("{:?} with heartbeats every {:?}", self.session_timeout, self.heartbeat);
            return bad(
                "session_timeout",
                value,
                "heartbeats of 10 ms or more, a timeout of two heartbeats or more",
            );
        }
        Ok(Settings {
            limits: self.limits,
            heartbeat: self.heartbeat,
            session_timeout: self.session_timeout,
            disconnect_grace: self.disconnect_grace,
            retention: self.retention,
            dead_retention: self.dead_retention,
            unregistered_workflow_after: self.unregistered_workflow_after,
            accept_clock: self.accept_clock,
            unserved_queue_after: self.unserved_queue_after,
            workers_die_with_engine: self.embedded,
            protocols,
        })
    }

    /// Opens the engine in `path`, creating it if there is nothing.
    pub async fn open(self, path: impl AsRef<Path>) -> Result<Engine, OpenError> {
        let path = path.as_ref().to_owned();
        let env = Env::real();
        let settings = self.settings(env.protocols)?;
        if is_isolated() {
            return Ok(Engine::closed(env));
        }
        let options = Options {
            entropy: env.entropy.next_u64(),
            cache_bytes: self.cache_bytes,
            restored: self.restored,
            ..Options::default()
        };
        let at = path.clone();
        let open = move || -> Result<Arc<dyn Store>, OpenError> {
            let store = FjallStore::open(&at, options)
                .map_err(|cause| OpenError::Store { path: at, cause })?;
            Ok(Arc::new(store))
        };
        let engine = Engine::launch(env, settings, open).await?;
        if self.socket {
            let socket = format!("unix:{}", path.join(SOCKET).display());
            if let Err(error) = engine.listen(&socket).await {
                tracing::warn!(socket, %error, "not listening on the directory's socket: `--data` will not reach this engine");
            }
        }
        Ok(engine)
    }

    /// An engine on another store and in another world: how a simulation opens one.
    pub async fn open_on(self, env: Env, store: Arc<dyn Store>) -> Result<Engine, OpenError> {
        let settings = self.settings(env.protocols)?;
        Engine::launch(env, settings, move || Ok(store)).await
    }
}

/// A durable workflow engine. Dropping it closes it without waiting; [`close`](Self::close) waits.
///
/// **Durability**: whatever a client or worker was told survives `kill -9` and a power cut.
pub struct Engine {
    env: Env,
    driver: DriverHandle,
    ended: watch::Receiver<Option<DriverEnd>>,
    listeners: mpsc::UnboundedSender<Listen>,
}

struct Listen {
    address: String,
    answer: oneshot::Sender<std::io::Result<String>>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engine")
    }
}

impl Engine {
    /// Opens the engine in `path` with the default options, creating it if there is nothing.
    ///
    /// In the process of an isolated step ([`Isolation::Process`](crate::Isolation::Process))
    /// nothing is opened: a program that uses such steps starts its worker before it asks its
    /// client for anything.
    ///
    /// Errors: [`OpenError`], by kind. Nothing is changed in a directory that is not ours.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        EngineOptions::default().open(path).await
    }

    /// What an engine is in the process of an isolated step, whose parent has the directory open:
    /// its worker serves the parent, its clients reach nobody.
    fn closed(env: Env) -> Self {
        Self {
            env,
            driver: DriverHandle::new().0,
            ended: watch::channel(Some(DriverEnd::Closed)).1,
            listeners: mpsc::unbounded_channel().0,
        }
    }

    async fn launch(
        env: Env,
        settings: Settings,
        open: impl FnOnce() -> Result<Arc<dyn Store>, OpenError> + Send + 'static,
    ) -> Result<Self, OpenError> {
        let (driver, inbox) = DriverHandle::new();
        let (opened, is_open) = oneshot::channel();
        let (ended_tx, ended) = watch::channel(None);
        let (listeners, mut to_listen) = mpsc::unbounded_channel::<Listen>();
        let (world, handle) = (env.clone(), driver.clone());
        let engine = async move {
            let core = match prepare(&world, settings, open).await {
                Ok(prepared) => prepared,
                Err(error) => {
                    let _ = opened.send(Err(error));
                    return;
                }
            };
            let (store, core) = core;
            let _ = opened.send(Ok(()));
            let (accepts, accepting) = (world.clone(), handle.clone());
            let listening = tokio::spawn(async move {
                while let Some(Listen { address, answer }) = to_listen.recv().await {
                    let bound = accepts.net.bind(&address).await.map(|listener| {
                        let real = listener.address();
                        tokio::spawn(server::accept(listener, accepting.clone(), accepts.clone()));
                        real
                    });
                    let _ = answer.send(bound);
                }
            });
            Driver::run(world, store, core, handle, inbox, ended_tx).await;
            listening.abort();
        };
        env.exec.isolated("stepwell-engine", Box::pin(engine)).map_err(OpenError::Thread)?;
        match is_open.await {
            Ok(Ok(())) => Ok(Self { env, driver, ended, listeners }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(OpenError::Thread(std::io::Error::other(
                "the engine's thread ended while it opened",
            ))),
        }
    }

    /// Listens on `HOST:PORT` (port 0: any free one) or `unix:PATH`, and tells the real address.
    pub async fn listen(&self, address: &str) -> std::io::Result<String> {
        let closed =
            || std::io::Error::new(std::io::ErrorKind::NotConnected, "the engine is closed");
        let (answer, answered) = oneshot::channel();
        let listen = Listen { address: address.to_owned(), answer };
        if is_isolated() {
            return Ok(address.to_owned());
        }
        self.listeners.send(listen).map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }

    /// A client of this engine.
    pub fn client(&self) -> Client {
        Client::new(Arc::new(self.dial()), self.env.clone())
    }

    /// A gateway to this engine: what turns the requests of others, of an HTTP server say, into the
    /// engine's own.
    pub fn gateway(&self) -> Gateway {
        Gateway(self.client())
    }

    /// A worker of this engine, in this process.
    pub fn worker(&self) -> Worker {
        Worker::new(Arc::new(self.dial()), self.env.clone()).exit_when_stuck(false)
    }

    fn dial(&self) -> EmbeddedDial {
        EmbeddedDial { driver: self.driver.clone() }
    }

    /// Ends when the engine has stopped by itself (a failed write, a full disk, a panic), with the
    /// reason; for ever pending if it is closed in peace first.
    pub async fn stopped(&self) -> String {
        let mut ended = self.ended.clone();
        let said = ended.wait_for(Option::is_some).await;
        let cause = match said.as_deref() {
            Ok(Some(DriverEnd::Poisoned(cause))) => Some(cause.clone()),
            Ok(_) => None,
            Err(_) => Some("its thread ended without a word, as after a panic".to_owned()),
        };
        drop(said);
        match cause {
            Some(cause) => cause,
            None => std::future::pending().await,
        }
    }

    /// Commits what is under way, says goodbye to all peers and closes the store. Workers of this
    /// process should have been drained before.
    pub async fn close(self) {
        let (done, closed) = oneshot::channel();
        if self.driver.send(Event::Close(done)).is_ok() {
            let _ = closed.await;
        }
    }
}

async fn prepare(
    env: &Env,
    settings: Settings,
    open: impl FnOnce() -> Result<Arc<dyn Store>, OpenError>,
) -> Result<(Arc<dyn Store>, Core), OpenError> {
    let store = open()?;
    let opened = store_reader::open(&*store).await.map_err(OpenError::Records)?;
    let now = ClockSample { mono: env.clock.mono(), wall: env.clock.wall() };
    let settings = Settings { protocols: env.protocols, ..settings };
    let core = Core::open(settings, now, opened).map_err(OpenError::Core)?;
    Ok((store, core))
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;
    use stepwell_storage::{MemDisk, MemOptions, MemStore};
    use tokio::task::AbortHandle;

    use super::*;
    use crate::runtime::env::Exec;
    use crate::runtime::fake_engine;

    /// Threads that the test can end.
    #[derive(Default)]
    struct Mortal(Mutex<Vec<AbortHandle>>);

    impl Exec for Mortal {
        fn isolated(&self, _: &str, future: BoxFuture<'static, ()>) -> io::Result<()> {
            self.0.lock().unwrap().push(tokio::spawn(future).abort_handle());
            Ok(())
        }
    }

    async fn open() -> (Engine, Arc<Mortal>) {
        let threads = Arc::new(Mortal::default());
        let env = Env { exec: threads.clone(), ..fake_engine::env() };
        let store = MemStore::acquire(&MemDisk::new(), MemOptions::default()).unwrap();
        let options = EngineOptions { socket: false, ..EngineOptions::default() };
        (options.open_on(env, Arc::new(store)).await.unwrap(), threads)
    }

    // R9: whoever waits for the end of an engine is told of it also if it could not say why.
    #[tokio::test(start_paused = true)]
    async fn an_engine_whose_thread_is_gone_has_stopped() {
        let (engine, threads) = open().await;
        assert_eq!(engine.stopped().now_or_never(), None, "it works");
        threads.0.lock().unwrap().iter().for_each(AbortHandle::abort);
        let why = engine.stopped().await;
        assert!(why.contains("without a word"), "{why}");
    }
}
