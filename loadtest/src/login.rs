//! The accounts of a lab's cluster, and plain connections with them.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Socket};

use crate::failure::{Failure, FailureClass};
use crate::tls::{Encrypted, Endpoint, Unverified};
use crate::{Error, Result};

/// The `application_name` of clients that have no other one.
const APPLICATION: &str = "pgvane-loadtest";

/// The connection's end follows the failure of a statement at once.
const REASON_WITHIN: Duration = Duration::from_millis(200);

/// A connection and, beside it, how it ends: the reason may arrive while no statement is being executed.
#[derive(Debug)]
pub struct Session {
    /// What statements are executed with.
    pub client: Client,
    connection: JoinHandle<Option<tokio_postgres::Error>>,
}

/// The payloads of notifications, in order.
pub type Notified = mpsc::UnboundedReceiver<String>;

impl Session {
    /// Waits for the connection's end, and returns what the server or a proxy reported. Must not be called again after
    /// it has returned. Cancel safe.
    pub async fn ended(&mut self) -> Failure {
        match (&mut self.connection).await {
            Ok(Some(error)) => Failure::of_statement(&error),
            Ok(None) | Err(_) => Failure::closed(),
        }
    }

    /// `failure`, or the connection's own end if that has an SQLSTATE and `failure` has none.
    pub async fn reason(&mut self, failure: Failure) -> Failure {
        if failure.sqlstate.is_some() || failure.class != FailureClass::SessionBroken {
            return failure;
        }
        match tokio::time::timeout(REASON_WITHIN, self.ended()).await {
            Ok(end) if end.sqlstate.is_some() => end,
            _ => failure,
        }
    }
}

/// A role and its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    /// `app`, password `app`, owner of the database `app`; SCRAM.
    App,
    /// `trusting`, without password, into the database `app`: no CPU time for SCRAM.
    Trusting,
    /// `postgres`, password `postgres`, into the database `postgres`; SCRAM.
    Superuser,
}

impl Login {
    /// Name of the role.
    pub const fn user(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Trusting => "trusting",
            Self::Superuser => "postgres",
        }
    }

    /// Its password, if it needs one.
    pub const fn password(self) -> Option<&'static str> {
        match self {
            Self::App => Some("app"),
            Self::Trusting => None,
            Self::Superuser => Some("postgres"),
        }
    }

    /// The database it belongs to.
    pub const fn database(self) -> &'static str {
        match self {
            Self::App | Self::Trusting => "app",
            Self::Superuser => "postgres",
        }
    }

    /// How this login connects to `server`.
    pub fn config(self, server: impl Into<Endpoint>) -> Config {
        let Endpoint { address, tls } = server.into();
        let mut config = Config::new();
        config.host(address.ip().to_string()).port(address.port());
        config.ssl_mode(if tls { SslMode::Require } else { SslMode::Disable });
        config.user(self.user()).dbname(self.database()).application_name(APPLICATION);
        if let Some(password) = self.password() {
            config.password(password);
        }
        config
    }

    /// Connects to `server` within the time given. The connection ends when the client is dropped.
    pub async fn connect(self, server: impl Into<Endpoint>, within: Duration) -> Result<Client> {
        Ok(self.open(server, within).await?.client)
    }

    /// Connects to whichever of these nodes is read-write, as libpq does with `target_session_attrs=read-write`.
    pub async fn connect_to_leader_of(self, nodes: &[SocketAddr], within: Duration) -> Result<Client> {
        let mut config = Config::new();
        for node in nodes {
            config.host(node.ip().to_string()).port(node.port());
        }
        config.target_session_attrs(TargetSessionAttrs::ReadWrite).ssl_mode(SslMode::Disable);
        config.user(self.user()).dbname(self.database()).connect_timeout(Duration::from_secs(3));
        self.password().inspect(|password| _ = config.password(password));
        let doing = || "connecting to the node that is read-write".to_owned();
        let (client, connection) = match tokio::time::timeout(within, config.connect(Unverified)).await {
            Ok(connected) => connected.map_err(|source| Error::Postgres { doing: doing(), source })?,
            Err(_elapsed) => {
                return Err(Error::TooLate { waited_for: doing(), within, last_seen: "no answer".to_owned() });
            }
        };
        tokio::spawn(connection);
        Ok(client)
    }

    /// The same, with how the connection ends.
    pub async fn open(self, server: impl Into<Endpoint>, within: Duration) -> Result<Session> {
        self.open_as(APPLICATION, server, within).await
    }

    /// The same, with this `application_name`.
    pub async fn open_as(self, name: &str, server: impl Into<Endpoint>, within: Duration) -> Result<Session> {
        let (client, connection) = self.establish(name, server.into(), within).await?;
        // The client gets its error too, as the result of its statement.
        Ok(Session { client, connection: tokio::spawn(async move { connection.await.err() }) })
    }

    /// The same, with the payloads of the notifications that arrive. Their queue ends with the connection.
    pub async fn open_to_listen(
        self,
        name: &str,
        server: impl Into<Endpoint>,
        within: Duration,
    ) -> Result<(Session, Notified)> {
        let (client, mut connection) = self.establish(name, server.into(), within).await?;
        let (sender, notified) = mpsc::unbounded_channel(); // its reader waits for each one before the next is sent
        let reading = async move {
            loop {
                match poll_fn(|context| connection.poll_message(context)).await {
                    Some(Ok(AsyncMessage::Notification(one))) => _ = sender.send(one.payload().to_owned()),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Some(error),
                    None => return None,
                }
            }
        };
        Ok((Session { client, connection: tokio::spawn(reading) }, notified))
    }

    async fn establish(
        self,
        name: &str,
        server: Endpoint,
        within: Duration,
    ) -> Result<(Client, Connection<Socket, Encrypted<Socket>>)> {
        let mut config = self.config(server);
        config.application_name(name);
        let connecting = config.connect(Unverified);
        match tokio::time::timeout(within, connecting).await {
            Ok(connected) => connected.map_err(|source| Error::Postgres { doing: self.connecting_to(server), source }),
            Err(_elapsed) => {
                let waited_for = self.connecting_to(server);
                Err(Error::TooLate { waited_for, within, last_seen: "no answer".to_owned() })
            }
        }
    }

    fn connecting_to(self, server: Endpoint) -> String {
        format!("connecting to {} as {}", server.address, self.user())
    }
}
