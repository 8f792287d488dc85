//! Connects to a node, and agrees with it on encryption where the settings ask for that.

use std::fmt;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::net::Stream;
use crate::net::dial::{ConnectFailure, Destination, connect};
use crate::tls::{NegotiationFailure, ServerTls, SslMode};

/// Why there is no connection to a node as the settings ask.
#[derive(Debug)]
pub enum ReachFailure {
    /// There is none at all.
    Connect(ConnectFailure),
    /// It could not be encrypted as the settings ask.
    Encryption(NegotiationFailure),
    /// The node accepted it, and did not say in time whether it supports TLS.
    Silent,
}

impl ReachFailure {
    /// Whether trying again may help. It does not if settings or certificates are the reason.
    pub fn is_passing(&self) -> bool {
        match self {
            ReachFailure::Connect(_) | ReachFailure::Silent => true,
            ReachFailure::Encryption(failure) => {
                matches!(failure, NegotiationFailure::Io(_) | NegotiationFailure::UnknownAnswer(_))
            }
        }
    }
}

impl std::error::Error for ReachFailure {}

impl fmt::Display for ReachFailure {
    /// Follows a node's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReachFailure::Connect(failure) => write!(f, "{failure}"),
            ReachFailure::Encryption(failure) => write!(f, "TLS negotiation failed: {failure}"),
            ReachFailure::Silent => f.write_str("accepts connections and does not answer"),
        }
    }
}

/// Connects within the first of `patience`, see [`connect`], and agrees on encryption within the second.
///
/// With `prefer`, a connection without TLS follows a handshake that fails, as in libpq.
///
/// Cancel safe: if it is dropped before its end, only a line in PostgreSQL's log remains.
pub async fn reach(to: &Destination<'_>, tls: &ServerTls, patience: [Duration; 2]) -> Result<Stream, ReachFailure> {
    let socket = connect(to, Instant::now() + patience[0]).await.map_err(ReachFailure::Connect)?;
    match tls.mode() {
        SslMode::Disable => Ok(socket.into()),
        // boxed, so that connections without TLS do not carry its size
        _ => Box::pin(encrypt(socket, to, tls, patience)).await,
    }
}

async fn encrypt(
    socket: TcpStream,
    to: &Destination<'_>,
    tls: &ServerTls,
    [connect_max, answer_max]: [Duration; 2],
) -> Result<Stream, ReachFailure> {
    match timeout(answer_max, tls.negotiate(socket.into(), to.address.host())).await {
        Err(_) => Err(ReachFailure::Silent),
        Ok(Err(NegotiationFailure::Handshake(_))) if tls.mode() == SslMode::Prefer => {
            let again = connect(to, Instant::now() + connect_max).await;
            again.map(Stream::from).map_err(ReachFailure::Connect)
        }
        Ok(outcome) => outcome.map_err(ReachFailure::Encryption),
    }
}
