//! Connecting to a node by TCP, and the socket options of both sides.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::resolver::{NameError, Resolver};
use crate::cluster::ports::SessionPort;
use crate::cluster::{HostPort, Member};

/// The minimum time for which keepalive probes are sent before a connection counts as broken.
pub const KEEPALIVE_PATIENCE: Duration = Duration::from_secs(30);

/// Time between two keepalive probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// The socket options that every connection gets.
#[derive(Debug, Clone, Copy)]
pub struct TcpOptions {
    /// Idle time after which the kernel begins to send keepalive probes.
    pub keepalive: Duration,
    /// How long a peer may acknowledge nothing before the connection counts as broken. On an idle connection, keepalive
    /// probes ask for acknowledgements.
    pub unacknowledged_max: Duration,
    /// The kernel ends the connection after this time also if sent data is not acknowledged, *even if the peer is alive
    /// but does not read* (`TCP_USER_TIMEOUT`). For checks; not for sessions.
    pub ends_with_shut_window: bool,
}

impl TcpOptions {
    /// Sets the options on a socket. Set on a listening socket, they are inherited by what it accepts.
    pub fn apply(&self, socket: &SockRef<'_>) -> io::Result<()> {
        let probing = self.unacknowledged_max.saturating_sub(self.keepalive).max(KEEPALIVE_INTERVAL);
        let probes = probing.as_secs().div_ceil(KEEPALIVE_INTERVAL.as_secs()).min(127) as u32;
        let keepalive =
            TcpKeepalive::new().with_time(self.keepalive).with_interval(KEEPALIVE_INTERVAL).with_retries(probes);
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(&keepalive)?;
        if self.ends_with_shut_window {
            socket.set_tcp_user_timeout(Some(self.unacknowledged_max))?;
        }
        Ok(())
    }
}

/// Time until the next address of a name is tried too, while the one before it does not answer (RFC 8305, section 5).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// Why a node could not be connected to.
#[derive(Debug)]
pub enum ConnectFailure {
    /// There is no address for its name.
    Unresolved(NameError),
    /// No address of a node that discovery has found is within `discover_allow`; with the one that is not.
    NotAllowed(IpAddr),
    /// Nobody listens, no route, …
    Failed(io::Error),
    /// No answer in time.
    TimedOut,
    /// None of the addresses of its name could be connected to; with the error of each, or `None` where no answer came.
    AllFailed(Vec<(SocketAddr, Option<io::Error>)>),
}

impl std::error::Error for ConnectFailure {}

impl fmt::Display for ConnectFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectFailure::Unresolved(error) => write!(f, "{error}"),
            ConnectFailure::NotAllowed(ip) => write!(f, "its address {ip} is not within discover_allow"),
            ConnectFailure::Failed(error) => f.write_str(&why_failed(error)),
            ConnectFailure::TimedOut => f.write_str(NO_ANSWER),
            ConnectFailure::AllFailed(tried) => {
                for (at, (address, error)) in tried.iter().enumerate() {
                    let separator = if at == 0 { "" } else { "; " };
                    let why = error.as_ref().map_or_else(|| NO_ANSWER.to_owned(), why_failed);
                    write!(f, "{separator}{address} {why}")?;
                }
                Ok(())
            }
        }
    }
}

const NO_ANSWER: &str = "does not answer a connect in time";

fn why_failed(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        _ => format!("cannot be connected to: {error}"),
    }
}

/// Where to connect to, and how every connection there begins.
#[derive(Debug, Clone, Copy)]
pub struct Destination<'a> {
    /// The server.
    pub address: &'a HostPort,
    /// The server's port, which may be another one than that of `address`.
    pub port: u16,
    /// Looks up its name, if it has one.
    pub names: &'a Arc<Resolver>,
    /// Only addresses within these networks are connected to; any address if empty.
    pub within: &'a [IpNet],
    /// The socket's options.
    pub options: TcpOptions,
    /// What is sent first: a PROXY header, or nothing.
    pub preamble: &'a [u8],
}

/// How the nodes of one cluster are connected to. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NodeDialer {
    /// Looks up the nodes' names.
    pub names: Arc<Resolver>,
    /// Nodes that discovery has found may only be in these networks; in any network if there are none.
    pub discover_allow: Arc<[IpNet]>,
}

impl NodeDialer {
    /// How to connect to a node, for sessions that use this port of it.
    pub fn destination<'a>(
        &'a self,
        member: &'a Member,
        port: SessionPort,
        options: TcpOptions,
        preamble: &'a [u8],
    ) -> Destination<'a> {
        let within: &[IpNet] = if member.is_discovered { &self.discover_allow } else { &[] };
        let address = &member.address;
        let port = port.map_or(address.port(), NonZeroU16::get);
        Destination { address, port, names: &self.names, within, options, preamble }
    }
}

/// Whether an address is within one of these networks. An empty list allows every address. An IPv4 address that is
/// written as an IPv6 address counts as IPv4.
pub fn is_within(networks: &[IpNet], ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    networks.is_empty() || networks.iter().any(|network| network.contains(&ip))
}

/// Connects by `deadline` and sends the preamble. If the server has a name with several addresses, the next one is
/// tried when one fails, or does not answer for a quarter of a second; the first that answers is used, and is tried
/// first the next time.
///
/// Cancel safe: if it is dropped before its end, no connection remains.
pub async fn connect(to: &Destination<'_>, deadline: Instant) -> Result<TcpStream, ConnectFailure> {
    let Some(mut address) = to.address.ip_address() else {
        return Box::pin(connect_by_name(to, deadline)).await;
    };
    if !is_within(to.within, address.ip()) {
        return Err(ConnectFailure::NotAllowed(address.ip()));
    }
    address.set_port(to.port);
    let attempt = async { greet(open(address, &to.options).await?, to.preamble).await };
    match timeout_at(deadline, attempt).await {
        Ok(outcome) => outcome.map_err(ConnectFailure::Failed),
        Err(_) => Err(ConnectFailure::TimedOut),
    }
}

/// Sends the preamble.
async fn greet(mut stream: TcpStream, preamble: &[u8]) -> io::Result<TcpStream> {
    if !preamble.is_empty() {
        stream.write_all(preamble).await?;
    }
    Ok(stream)
}

/// Connects to one address.
async fn open(address: SocketAddr, options: &TcpOptions) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    options.apply(&SockRef::from(&socket))?;
    // the first bytes that are sent carry the handshake's last acknowledgement
    socket.set_tcp_quickack(false)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => return Err(error),
        _ => {}
    }
    let stream = TcpStream::from_std(socket.into())?;
    // On this host, and often to a host nearby, it is connected at once. The runtime would report that one round
    // later.
    if stream.peer_addr().is_ok() {
        return Ok(stream);
    }
    poll_fn(|cx| stream.poll_write_ready(cx)).await?;
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}

async fn connect_by_name(to: &Destination<'_>, deadline: Instant) -> Result<TcpStream, ConnectFailure> {
    let (host, port) = (to.address.host(), to.port);
    let addresses = allowed_addresses(to.names, to.within, host, port, deadline).await?;
    let (address, stream) = match race(&addresses, &to.options, deadline).await {
        Ok(connected) => connected,
        Err(tried) => {
            to.names.not_connected(host);
            return Err(ConnectFailure::AllFailed(tried));
        }
    };
    to.names.connected(host, port, address.ip());
    match timeout_at(deadline, greet(stream, to.preamble)).await {
        Ok(greeted) => greeted.map_err(|error| ConnectFailure::AllFailed(vec![(address, Some(error))])),
        Err(_) => Err(ConnectFailure::AllFailed(vec![(address, None)])),
    }
}

/// The addresses of a name that are within these networks, of which there is at least one; see
/// [`Resolver::addresses`].
pub async fn allowed_addresses(
    names: &Arc<Resolver>,
    within: &[IpNet],
    host: &str,
    port: u16,
    deadline: Instant,
) -> Result<Vec<SocketAddr>, ConnectFailure> {
    let mut addresses = names.addresses(host, port, deadline).await.map_err(ConnectFailure::Unresolved)?;
    let first = addresses[0].ip();
    addresses.retain(|address| is_within(within, address.ip()));
    if addresses.is_empty() { Err(ConnectFailure::NotAllowed(first)) } else { Ok(addresses) }
}

/// Tries one address after the other until one answers ("happy eyeballs"). The error lists the addresses that were
/// tried. Cancel safe: all attempts end with it.
async fn race(
    addresses: &[SocketAddr],
    options: &TcpOptions,
    deadline: Instant,
) -> Result<(SocketAddr, TcpStream), Vec<(SocketAddr, Option<io::Error>)>> {
    let mut tried: Vec<(SocketAddr, Option<io::Error>)> = Vec::with_capacity(addresses.len());
    let mut untried = addresses.iter().copied();
    let mut attempts = JoinSet::new();
    loop {
        let next_at = match untried.next() {
            Some(address) => {
                let options = *options;
                attempts.spawn(async move { (address, open(address, &options).await) });
                tried.push((address, None));
                if untried.len() > 0 { deadline.min(Instant::now() + NEXT_ADDRESS_AFTER) } else { deadline }
            }
            None => deadline,
        };
        // the next address is due when this time is over or when an attempt has failed
        match timeout_at(next_at, attempts.join_next()).await {
            Ok(Some(Ok((address, Ok(stream))))) => return Ok((address, stream)),
            Ok(Some(Ok((address, Err(error))))) => {
                if let Some((_, why)) = tried.iter_mut().find(|(one, _)| *one == address) {
                    *why = Some(error);
                }
            }
            Ok(Some(Err(_panic))) => {}
            Ok(None) => return Err(tried),
            Err(_) if Instant::now() >= deadline => return Err(tried),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
