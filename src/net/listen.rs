//! A socket that listens, by TCP or on a file.

use std::io;
use std::net::SocketAddr;
use std::os::unix;

use socket2::{Domain, Protocol, SockRef, Socket as NewSocket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::dial::TcpOptions;
use super::unix_listener::{self, SocketFile};
use super::{Bind, Peer, Socket};

/// Connections that the kernel keeps ready for us; bounded further by `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A socket that listens and that no runtime watches yet.
#[derive(Debug)]
pub enum BoundListener {
    /// By TCP.
    Tcp(std::net::TcpListener),
    /// On a file.
    Unix(unix::net::UnixListener, SocketFile),
}

/// A socket that listens. Dropping it closes it, and removes the file if it has one.
#[derive(Debug)]
pub enum Listener {
    /// By TCP.
    Tcp(TcpListener),
    /// On a file.
    Unix(UnixListener, SocketFile),
}

impl BoundListener {
    /// Listens; by TCP with so many sockets, one for each thread that accepts, among which the kernel spreads new
    /// connections (`SO_REUSEPORT`). What is accepted by TCP has these options.
    ///
    /// Errors: as from the kernel; the port may be taken, or need privileges; see also [`unix_listener::listen`].
    pub fn open(bind: &Bind, options: TcpOptions, sockets: usize) -> io::Result<Vec<BoundListener>> {
        let address = match bind {
            Bind::Tcp(address) => *address,
            Bind::Unix(unix) => {
                let (listener, file) = unix_listener::listen(unix, BACKLOG)?;
                return Ok(vec![BoundListener::Unix(listener, file)]);
            }
        };
        // the first shares its port only once it listens there: that another program does is an error, and stays one for
        // programs that come later, or at the same moment, and do the same
        let first = tcp_socket(address, options)?;
        first.bind(&address.into())?;
        first.listen(BACKLOG)?;
        first.set_reuse_port(true)?;
        let chosen = first.local_addr()?; // where the kernel was to choose
        let mut all = vec![first];
        for _ in 1..sockets {
            let next = tcp_socket(address, options)?;
            next.set_reuse_port(true)?;
            next.bind(&chosen)?;
            next.listen(BACKLOG)?;
            all.push(next);
        }
        Ok(all.into_iter().map(|socket| BoundListener::Tcp(socket.into())).collect())
    }

    /// Has the present runtime watch it. Errors: the kernel watches no more descriptors.
    pub fn watch(self) -> io::Result<Listener> {
        match self {
            BoundListener::Tcp(listener) => TcpListener::from_std(listener).map(Listener::Tcp),
            BoundListener::Unix(listener, file) => {
                UnixListener::from_std(listener).map(|listener| Listener::Unix(listener, file))
            }
        }
    }
}

fn tcp_socket(address: SocketAddr, options: TcpOptions) -> io::Result<NewSocket> {
    let socket = NewSocket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    options.apply(&SockRef::from(&socket))?; // accepted connections inherit the options
    Ok(socket)
}

impl Listener {
    /// Waits for a connection. Cancel safe. Errors: the process has no descriptors left, or the connection is gone.
    pub async fn accept(&self) -> io::Result<(Socket, Peer)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok((stream.into(), address.into()))
            }
            Listener::Unix(listener, _file) => {
                let (stream, _nameless) = listener.accept().await?;
                Ok((stream.into(), Peer::Unix))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpStream};
    use std::time::Duration;

    use super::*;

    const OPTIONS: TcpOptions = TcpOptions {
        keepalive: Duration::from_secs(30),
        unacknowledged_max: Duration::from_secs(60),
        ends_with_shut_window: false,
    };

    fn port(bound: &[BoundListener]) -> SocketAddr {
        let Some(BoundListener::Tcp(listener)) = bound.first() else { panic!("listens by TCP") };
        listener.local_addr().expect("is bound")
    }

    /// Between taking a port and listening there others may take it too: whoever listens first has it.
    #[test]
    fn a_port_is_not_shared_with_who_comes_at_the_same_moment() {
        let other = tcp_socket(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), OPTIONS).expect("a socket");
        other.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a port");
        let address = other.local_addr().expect("is bound").as_socket().expect("of TCP");
        let _bound = BoundListener::open(&Bind::Tcp(address), OPTIONS, 2).expect("nobody listens there");
        assert_eq!(other.listen(BACKLOG).expect_err("somebody does").kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn several_sockets_share_a_port_that_nobody_else_gets() {
        let bind = |port| Bind::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let bound = BoundListener::open(&bind(0), OPTIONS, 3).expect("a port");
        let address = port(&bound);
        assert_eq!(bound.len(), 3);
        let taken = BoundListener::open(&bind(address.port()), OPTIONS, 3);
        assert_eq!(taken.expect_err("is taken").kind(), io::ErrorKind::AddrInUse);

        let _clients: Vec<TcpStream> = (0..60).map(|_| TcpStream::connect(address).expect("connects")).collect();
        let accepted = bound.iter().map(|one| {
            let BoundListener::Tcp(listener) = one else { panic!("listens by TCP") };
            std::iter::from_fn(|| listener.accept().ok()).count()
        });
        let accepted: Vec<usize> = accepted.collect();
        assert_eq!(accepted.iter().sum::<usize>(), 60);
        assert!(accepted.iter().all(|count| *count > 0), "{accepted:?}");
    }
}
