//! Connecting to a node by TCP, and the socket options of both sides.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// How long keepalive asks, at the least, before it gives a connection up.
pub const KEEPALIVE_PATIENCE: Duration = Duration::from_secs(30);

/// The time between two keepalive questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// The socket options that every connection gets.
#[derive(Debug, Clone, Copy)]
pub struct TcpOptions {
    /// Idle time after which the kernel asks whether the other side is still there.
    pub keepalive: Duration,
    /// How long a peer may leave everything unanswered. On an idle connection keepalive sees to that.
    pub unacknowledged_max: Duration,
    /// Has the kernel give the connection up after this time as well where data is not acknowledged, *even by a living peer
    /// that does not read* (`TCP_USER_TIMEOUT`): for connections on which no answer may be late, not for sessions.
    pub ends_with_shut_window: bool,
}

impl TcpOptions {
    /// Sets the options on a socket. Set on a listening socket, they are inherited by what it accepts.
    pub fn apply(&self, socket: &SockRef<'_>) -> io::Result<()> {
        let patience = self.unacknowledged_max.saturating_sub(self.keepalive).max(KEEPALIVE_INTERVAL);
        let questions = patience.as_secs().div_ceil(KEEPALIVE_INTERVAL.as_secs()).min(127) as u32;
        let keepalive =
            TcpKeepalive::new().with_time(self.keepalive).with_interval(KEEPALIVE_INTERVAL).with_retries(questions);
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(&keepalive)?;
        socket.set_tcp_user_timeout(self.ends_with_shut_window.then_some(self.unacknowledged_max))
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

/// Where to connect to, and how every connection there begins.
#[derive(Debug, Clone, Copy)]
pub struct Destination<'a> {
    /// `host:port`.
    pub address: &'a str,
    /// The socket's options.
    pub options: TcpOptions,
    /// What is said first of all: a PROXY header, or nothing.
    pub preamble: &'a [u8],
}

/// Connects by `deadline`, trying each of the host's addresses in turn, and says the preamble.
///
/// Cancel safe: dropped half-way, it leaves nothing behind.
pub async fn connect(to: &Destination<'_>, deadline: Instant) -> Result<TcpStream, ConnectFailure> {
    let attempt = async {
        let mut stream = match to.address.parse::<SocketAddr>() {
            Ok(literal) => open(literal, &to.options).await.map_err(ConnectFailure::Failed)?,
            Err(_) => Box::pin(by_name(to)).await?,
        };
        if !to.preamble.is_empty() {
            stream.write_all(to.preamble).await.map_err(ConnectFailure::Failed)?;
        }
        Ok(stream)
    };
    timeout_at(deadline, attempt).await.unwrap_or(Err(ConnectFailure::TimedOut))
}

/// Connects to one address.
async fn open(address: SocketAddr, options: &TcpOptions) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    options.apply(&SockRef::from(&socket))?;
    // what is said at once carries the handshake's last acknowledgement
    socket.set_tcp_quickack(false)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => return Err(error),
        _ => {}
    }
    let stream = TcpStream::from_std(socket.into())?;
    // on this host, and often on the next, that is at once: the runtime would tell it a round later
    if stream.peer_addr().is_ok() {
        return Ok(stream);
    }
    poll_fn(|cx| stream.poll_write_ready(cx)).await?;
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}

async fn by_name(to: &Destination<'_>) -> Result<TcpStream, ConnectFailure> {
    let resolved = tokio::net::lookup_host(to.address).await.map_err(ConnectFailure::Unresolved)?;
    let mut newest = ConnectFailure::Unresolved(io::Error::other("the name has no address"));
    for one in resolved {
        match open(one, &to.options).await {
            Ok(stream) => return Ok(stream),
            Err(error) => newest = ConnectFailure::Failed(error),
        }
    }
    Err(newest)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::pin::pin;
    use std::task::Poll;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    const OPTIONS: TcpOptions = TcpOptions {
        keepalive: Duration::from_secs(30),
        unacknowledged_max: Duration::from_secs(60),
        ends_with_shut_window: false,
    };

    /// A server with room for one connection that it has not accepted yet.
    fn narrow() -> TcpListener {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).expect("a socket");
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a port");
        socket.listen(0).expect("listens");
        socket.into()
    }

    #[tokio::test]
    async fn a_connection_is_waited_for_that_is_not_there_at_once() {
        let listener = narrow();
        let address = listener.local_addr().expect("is bound").to_string();
        let to = Destination { address: &address, options: OPTIONS, preamble: b"hello" };
        let first = connect(&to, Instant::now() + DEADLINE).await.expect("there is room for one");
        let mut second = pin!(connect(&to, Instant::now() + DEADLINE));
        let polled = poll_fn(|cx| Poll::Ready(second.as_mut().poll(cx))).await;
        assert!(polled.is_pending(), "there is no room for another");

        let (accepted, _) = listener.accept().expect("the first one waits");
        let second = second.await.expect("its next attempt finds room");
        let (also_accepted, _) = listener.accept().expect("it is there");
        for (near, far) in [(first, accepted), (second, also_accepted)] {
            assert_eq!(near.local_addr().ok(), far.peer_addr().ok());
            let mut said = [0; 5];
            io::Read::read_exact(&mut &far, &mut said).expect("comes");
            assert_eq!(&said, b"hello");
        }
    }

    #[tokio::test]
    async fn a_connection_that_is_refused_or_never_comes_is_told_apart() {
        let gone = narrow();
        let address = gone.local_addr().expect("is bound").to_string();
        drop(gone);
        let to = Destination { address: &address, options: OPTIONS, preamble: b"" };
        let refused = connect(&to, Instant::now() + DEADLINE).await.expect_err("nobody listens");
        assert_eq!(refused.to_string(), "connection refused");

        let full = narrow();
        let address = full.local_addr().expect("is bound");
        let _first = std::net::TcpStream::connect(address).expect("there is room for one");
        let address = address.to_string();
        let to = Destination { address: &address, ..to };
        let late = connect(&to, Instant::now() + Duration::from_millis(50)).await.expect_err("there is no room");
        assert!(matches!(late, ConnectFailure::TimedOut), "{late}");
    }
}
