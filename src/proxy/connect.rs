//! Connections to nodes, and the socket options of both sides.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::config::KEEPALIVE_INTERVAL;

/// The socket options that every connection gets.
#[derive(Debug, Clone, Copy)]
pub struct TcpOptions {
    /// Idle time after which the kernel asks whether the other side is still there.
    pub keepalive: Duration,
    /// How long sent data may stay unacknowledged.
    pub user_timeout: Duration,
}

impl TcpOptions {
    /// Sets the options on a socket. Set on a listening socket, they are inherited by what it accepts.
    pub fn apply(&self, socket: &SockRef<'_>) -> io::Result<()> {
        let keepalive = TcpKeepalive::new().with_time(self.keepalive).with_interval(KEEPALIVE_INTERVAL);
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(&keepalive)?;
        socket.set_tcp_user_timeout(Some(self.user_timeout))
    }
}

/// Why a node could not be connected to.
#[derive(Debug)]
pub enum ConnectFailure {
    /// The name is unknown; with the resolver's reason.
    Unresolved(io::Error),
    /// Nobody listens, no route, …
    Failed(io::Error),
    /// No answer in time.
    TimedOut,
}

impl fmt::Display for ConnectFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectFailure::Unresolved(error) => write!(f, "its name cannot be resolved: {error}"),
            ConnectFailure::Failed(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                f.write_str("connection refused")
            }
            ConnectFailure::Failed(error) => write!(f, "cannot be connected to: {error}"),
            ConnectFailure::TimedOut => f.write_str("does not answer a connect in time"),
        }
    }
}

/// Connects to `address` (`host:port`) by `deadline`, trying each of the host's addresses in turn, and says `preamble`
/// first of all: a PROXY header, or nothing.
///
/// Cancel safe: dropped half-way, it leaves nothing behind.
pub async fn connect(
    address: &str,
    options: TcpOptions,
    preamble: &[u8],
    deadline: Instant,
) -> Result<TcpStream, ConnectFailure> {
    let attempt = async {
        let mut stream = match address.parse::<SocketAddr>() {
            Ok(literal) => TcpStream::connect(literal).await.map_err(ConnectFailure::Failed)?,
            Err(_) => by_name(address).await?,
        };
        options.apply(&SockRef::from(&stream)).map_err(ConnectFailure::Failed)?;
        if !preamble.is_empty() {
            stream.write_all(preamble).await.map_err(ConnectFailure::Failed)?;
        }
        Ok(stream)
    };
    timeout_at(deadline, attempt).await.unwrap_or(Err(ConnectFailure::TimedOut))
}

async fn by_name(address: &str) -> Result<TcpStream, ConnectFailure> {
    let resolved = tokio::net::lookup_host(address).await.map_err(ConnectFailure::Unresolved)?;
    let mut newest = ConnectFailure::Unresolved(io::Error::other("the name has no address"));
    for one in resolved {
        match TcpStream::connect(one).await {
            Ok(stream) => return Ok(stream),
            Err(error) => newest = ConnectFailure::Failed(error),
        }
    }
    Err(newest)
}
