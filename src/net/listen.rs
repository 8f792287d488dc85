//! Listening sockets: TCP and Unix.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix;

use socket2::{Domain, Protocol, SockRef, Socket as NewSocket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::dial::TcpOptions;
use super::unix_listener::{self, SocketFile};
use super::{Bind, Peer, Socket};

/// The accept queue's length; the kernel also limits it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A listening socket that is not registered with a runtime yet.
#[derive(Debug)]
pub enum BoundListener {
    /// TCP.
    Tcp(std::net::TcpListener),
    /// A Unix socket, with its file.
    Unix(unix::net::UnixListener, SocketFile),
}

/// A listening socket. The drop closes it, and removes its file if it has one.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket, with its file.
    Unix(UnixListener, SocketFile),
}

impl BoundListener {
    /// Listens. For TCP it opens `sockets` sockets, one for each thread that accepts; the kernel distributes new
    /// connections among them (`SO_REUSEPORT`). Accepted TCP connections have the `options`.
    ///
    /// With `beside_own`, this process listens on an address that contains this one already (`0.0.0.0` contains all), and
    /// goes on with that for a moment.
    ///
    /// Errors: those of the kernel: the port is in use or needs privileges; see also `unix_listener::listen`.
    pub fn open(bind: &Bind, options: TcpOptions, sockets: usize, beside_own: bool) -> io::Result<Vec<BoundListener>> {
        let address = match bind {
            Bind::Tcp(address) => *address,
            Bind::Unix(unix) => {
                let (listener, file) = unix_listener::listen(unix, BACKLOG)?;
                return Ok(vec![BoundListener::Unix(listener, file)]);
            }
        };
        // the first socket shares its port only after it listens: so a second program that listens on the port gets an
        // error, whether it starts before, at the same moment or later
        let first = tcp_socket(address, options)?;
        if beside_own {
            first.set_reuse_port(true)?;
        }
        first.bind(&address.into())?;
        first.listen(BACKLOG)?;
        first.set_reuse_port(true)?;
        let chosen = first.local_addr()?; // with port 0 the kernel has chosen it
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

    /// A socket that another process has opened at this place and handed over. Errors: the file of a Unix socket is gone.
    pub fn inherited(bind: &Bind, socket: OwnedFd) -> io::Result<BoundListener> {
        match bind {
            Bind::Tcp(_) => Ok(BoundListener::Tcp(socket.into())),
            Bind::Unix(unix) => Ok(BoundListener::Unix(socket.into(), SocketFile::of(&unix.path, false)?)),
        }
    }

    /// Registers it with the current runtime. Errors: the kernel accepts no more descriptors in epoll.
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

impl AsFd for BoundListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            BoundListener::Tcp(listener) => listener.as_fd(),
            BoundListener::Unix(listener, _) => listener.as_fd(),
        }
    }
}

impl Listener {
    /// Removes it from its runtime, so that another one can register it. Clients that have connected meanwhile wait in the
    /// kernel. Errors: those of the kernel; the listener is closed.
    pub fn unwatch(self) -> io::Result<BoundListener> {
        match self {
            Listener::Tcp(listener) => listener.into_std().map(BoundListener::Tcp),
            Listener::Unix(listener, file) => listener.into_std().map(|listener| BoundListener::Unix(listener, file)),
        }
    }

    /// Whether this process accepts there from now on, or another one: then the file of a Unix socket stays.
    pub fn set_ours(&self, is_ours: bool) {
        if let Listener::Unix(_, file) = self {
            file.set_ours(is_ours);
        }
    }

    /// Sets the options of the connections that it will accept. Errors: those of the kernel.
    pub fn set_options(&self, options: TcpOptions) -> io::Result<()> {
        match self {
            Listener::Tcp(listener) => options.apply(&SockRef::from(listener)),
            Listener::Unix(..) => Ok(()),
        }
    }

    /// Waits for a connection. Cancel safe. Errors: the process has no file descriptors left, or the connection was
    /// reset.
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

    /// Between bind and listen another program can bind the port too: the first that listens gets it.
    #[test]
    fn a_port_is_not_shared_with_a_program_that_starts_at_the_same_moment() {
        let other = tcp_socket(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), OPTIONS).expect("a socket");
        other.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a port");
        let address = other.local_addr().expect("is bound").as_socket().expect("of TCP");
        let _bound = BoundListener::open(&Bind::Tcp(address), OPTIONS, 2, false).expect("nobody listens there");
        assert_eq!(other.listen(BACKLOG).expect_err("somebody does").kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_narrower_address_can_be_opened_before_the_wider_one_is_closed() {
        let wide = BoundListener::open(&Bind::Tcp(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))), OPTIONS, 1, false);
        let wide = wide.expect("a port");
        let narrow = Bind::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port(&wide).port())));
        let refused = BoundListener::open(&narrow, OPTIONS, 1, false).expect_err("its own port");
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        let beside = BoundListener::open(&narrow, OPTIONS, 1, true).expect("is allowed");
        let client = TcpStream::connect(port(&beside)).expect("connects");
        let BoundListener::Tcp(listener) = &beside[0] else { panic!("listens by TCP") };
        assert_eq!(listener.accept().expect("the narrower one gets it").1, client.local_addr().expect("is bound"));
    }

    #[test]
    fn several_sockets_share_a_port_that_no_other_program_gets() {
        let bind = |port| Bind::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let bound = BoundListener::open(&bind(0), OPTIONS, 3, false).expect("a port");
        let address = port(&bound);
        assert_eq!(bound.len(), 3);
        let taken = BoundListener::open(&bind(address.port()), OPTIONS, 3, false);
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
