//! The accounts of a lab's cluster, and plain connections with them.

use std::net::SocketAddr;
use std::time::Duration;

use tokio_postgres::{Client, Config, NoTls};

use crate::{Error, Result};

/// Who connects, and to which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    /// `app`, password `app`, owner of the database `app`; SCRAM.
    App,
    /// `trusting`, without password, into the database `app`: spares both sides SCRAM's arithmetic.
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
    pub fn config(self, server: SocketAddr) -> Config {
        let mut config = Config::new();
        config.host(server.ip().to_string()).port(server.port());
        config.user(self.user()).dbname(self.database()).application_name("pgvane-loadtest");
        if let Some(password) = self.password() {
            config.password(password);
        }
        config
    }

    /// Connects to `server` within the time given. The connection ends when the client is dropped.
    pub async fn connect(self, server: SocketAddr, within: Duration) -> Result<Client> {
        let config = self.config(server);
        let connecting = config.connect(NoTls);
        let (client, connection) = match tokio::time::timeout(within, connecting).await {
            Ok(connected) => {
                connected.map_err(|source| Error::Postgres { doing: self.connecting_to(server), source })?
            }
            Err(_elapsed) => {
                let waited_for = self.connecting_to(server);
                return Err(Error::TooLate { waited_for, within, last_seen: "no answer".to_owned() });
            }
        };
        // Its error reaches the client too, as the outcome of whatever it was asked for.
        tokio::spawn(async move { connection.await.ok() });
        Ok(client)
    }

    fn connecting_to(self, server: SocketAddr) -> String {
        format!("connecting to {server} as {}", self.user())
    }
}
