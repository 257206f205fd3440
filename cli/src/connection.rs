//! How a command reaches an engine: over TCP, over the socket of an embedded one, or by opening the
//! store itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use stepwell::model::id::{Namespace, RunId};
use stepwell::runtime::env::Env;
use stepwell::runtime::link::NetDial;
use stepwell::{Client, ClientError, Engine, EngineOptions, OpenError};

use crate::failure::CommandError;

/// Where `stepwell serve` listens unless told otherwise.
pub(crate) const SERVER: &str = "127.0.0.1:7400";
/// Names the server where `--server` does not.
const SERVER_VARIABLE: &str = "STEPWELL_SERVER";
/// The socket of an engine, in its data directory.
const SOCKET: &str = "stepwell.sock";

/// The engine to connect to, and the principal to connect as.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConnectArgs {
    /// The server's address [env: STEPWELL_SERVER] [default: 127.0.0.1:7400]
    #[arg(long, value_name = "ADDR", conflicts_with = "data")]
    server: Option<String>,
    /// The data directory of an engine on this machine; the command opens the store itself if no
    /// engine runs there
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The namespace of the runs
    #[arg(long, value_name = "N", default_value_t = 0)]
    namespace: u32,
    /// The principal to act as
    #[arg(help = "The principal to act as [default: USER@HOST]", long, value_name = "NAME")]
    principal: Option<String>,
}

/// A connection to the engine. It lives as long as the command.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Asks.
    pub(crate) client: Client,
    /// The engine, if the command opened it.
    engine: Option<Engine>,
    namespace: Namespace,
}

impl ConnectArgs {
    /// Finds the engine.
    pub(crate) async fn open(&self) -> Result<Connection, CommandError> {
        let (client, engine) = match &self.data {
            None => (self.reach(self.server()).await.map_err(|e| asked(&e))?, None),
            Some(dir) => match self.reach_socket(dir).await? {
                Some(client) => (client, None),
                None => {
                    let engine = open_store(dir).await?;
                    (self.identified(engine.client()), Some(engine))
                }
            },
        };
        Ok(Connection { client, engine, namespace: Namespace(self.namespace) })
    }

    /// The client of whoever asks.
    fn identified(&self, client: Client) -> Client {
        let principal = self.principal.clone().unwrap_or_else(user_at_host);
        client.namespace(Namespace(self.namespace)).principal(principal)
    }

    /// Connects to the engine at `address`.
    async fn reach(&self, address: String) -> Result<Client, ClientError> {
        let env = Env::real();
        let client = Client::new(Arc::new(NetDial::new(env.clone(), address)), env);
        let client = self.identified(client);
        client.connected().await?;
        Ok(client)
    }

    /// Connects to the engine that runs in `dir`, if one does.
    async fn reach_socket(&self, dir: &Path) -> Result<Option<Client>, CommandError> {
        let socket = dir.join(SOCKET);
        if !socket.exists() {
            return Ok(None);
        }
        match self.reach(format!("unix:{}", socket.display())).await {
            Ok(client) => Ok(Some(client)),
            // What an engine that was killed has left behind.
            Err(ClientError::NotReachable { .. }) => Ok(None),
            Err(error) => Err(asked(&error)),
        }
    }

    fn server(&self) -> String {
        let named = self.server.clone().or_else(|| std::env::var(SERVER_VARIABLE).ok());
        named.filter(|server| !server.is_empty()).unwrap_or_else(|| SERVER.to_owned())
    }
}

impl Connection {
    /// The run that a person named, by its id or its name.
    pub(crate) fn run(&self, text: &str) -> RunId {
        RunId::from_id_or_name(self.namespace, text)
    }

    /// Whether the command runs the engine itself, without workers: nothing moves.
    pub(crate) fn is_still(&self) -> bool {
        self.engine.is_some()
    }

    /// Leaves in peace.
    pub(crate) async fn close(self) {
        drop(self.client);
        if let Some(engine) = self.engine {
            engine.close().await;
        }
    }
}

/// A client of the engine at `address`.
pub(crate) async fn connect(address: &str) -> Result<Client, CommandError> {
    Client::connect(address).await.map_err(|e| asked(&e))
}

async fn open_store(dir: &Path) -> Result<Engine, CommandError> {
    require_directory(dir).map_err(|e| match dir.exists() {
        true => e,
        false => e.hint("`stepwell serve --data DIR` creates one"),
    })?;
    // Workers of a server that has died may still be there: their leases are theirs for a while.
    let options = EngineOptions::default().embedded(false).socket(false);
    options.open(dir).await.map_err(|e| opened(&e))
}

/// An error unless `dir` is a directory.
pub(crate) fn require_directory(dir: &Path) -> Result<(), CommandError> {
    let shown = dir.display();
    match (dir.is_dir(), dir.exists()) {
        (true, _) => Ok(()),
        (false, true) => {
            Err(CommandError::bad_input(format!("{shown} is a file, not a data directory")))
        }
        (false, false) => {
            Err(CommandError::bad_input(format!("there is no data directory {shown}")))
        }
    }
}

/// An engine that did not open, as the command's error.
pub(crate) fn opened(error: &OpenError) -> CommandError {
    let refused = match error {
        OpenError::Setting { .. } => CommandError::bad_input(error),
        _ => CommandError::store(error),
    };
    let refused =
        std::error::Error::source(error).into_iter().fold(refused, CommandError::caused_by);
    error.hint().into_iter().fold(refused, CommandError::hint)
}

/// A question that was not answered, as the command's error.
pub(crate) fn asked(error: &ClientError) -> CommandError {
    match error {
        ClientError::NotReachable { address, cause } => CommandError::not_reachable(format!(
            "no server answers at {address}"
        ))
        .cause(cause)
        .hint(
            "start one with `stepwell serve --data DIR`, or name another with --server or --data",
        ),
        ClientError::Refused(refusal) => CommandError::refused(refusal),
        ClientError::HelloRefused { .. } => CommandError::not_reachable(error),
        ClientError::UnreadableAnswer { cause } => CommandError::refused_as("later_version", error)
            .caused_by(cause)
            .hint("ask what became of it with a `stepwell` of the server's version"),
        other => CommandError::fault("the engine gave no answer").caused_by(other),
    }
}

fn user_at_host() -> String {
    let user = std::env::var("USER")
        .or_else(|_| std::env::var("LOGNAME"))
        .unwrap_or_else(|_| "unknown".to_owned());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .map_or_else(|| "localhost".to_owned(), |host| host.trim().to_owned());
    format!("{user}@{host}")
}
