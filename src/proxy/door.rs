//! A socket that listens, by TCP or on a file.

use std::io;
use std::os::unix;

use socket2::{Domain, Protocol, SockRef, Socket as NewSocket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::connect::TcpOptions;
use super::socket_file::{self, SocketFile};
use crate::config::Bind;
use crate::net::{Peer, Socket};

/// Connections that the kernel keeps ready for us; bounded further by `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A socket that listens and that no runtime watches yet.
#[derive(Debug)]
pub enum Door {
    /// By TCP.
    Tcp(std::net::TcpListener),
    /// On a file.
    Unix(unix::net::UnixListener, SocketFile),
}

/// A socket that listens. Dropping it closes it, and removes the file if it has one.
#[derive(Debug)]
pub enum WatchedDoor {
    /// By TCP.
    Tcp(TcpListener),
    /// On a file.
    Unix(UnixListener, SocketFile),
}

impl Door {
    /// Listens. What is accepted by TCP has these options.
    ///
    /// Errors: as from the kernel; the port may be taken, or need privileges; see also [`socket_file::listen`].
    pub fn open(bind: &Bind, options: TcpOptions) -> io::Result<Door> {
        let address = match bind {
            Bind::Tcp(address) => *address,
            Bind::Unix(unix) => {
                let (listener, file) = socket_file::listen(unix, BACKLOG)?;
                return Ok(Door::Unix(listener, file));
            }
        };
        let socket = NewSocket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_nonblocking(true)?;
        options.apply(&SockRef::from(&socket))?; // accepted connections inherit the options
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(Door::Tcp(socket.into()))
    }

    /// Has the present runtime watch it. Errors: the kernel watches no more descriptors.
    pub fn watch(self) -> io::Result<WatchedDoor> {
        match self {
            Door::Tcp(listener) => TcpListener::from_std(listener).map(WatchedDoor::Tcp),
            Door::Unix(listener, file) => {
                UnixListener::from_std(listener).map(|listener| WatchedDoor::Unix(listener, file))
            }
        }
    }
}

impl WatchedDoor {
    /// Waits for a connection. Cancel safe. Errors: the process has no descriptors left, or the connection is gone.
    pub async fn accept(&self) -> io::Result<(Socket, Peer)> {
        match self {
            WatchedDoor::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok((stream.into(), address.into()))
            }
            WatchedDoor::Unix(listener, _file) => {
                let (stream, _nameless) = listener.accept().await?;
                Ok((stream.into(), Peer::Unix))
            }
        }
    }
}
