//! A connected socket, TCP or Unix, registered with a runtime.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net as unix;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Time between two looks whether a client has closed, while bytes from it are unread.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// A connected socket.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// Unix.
    Unix(UnixStream),
}

/// A connected socket that is being moved to another runtime.
#[derive(Debug)]
pub enum Incoming {
    /// Registered with the right runtime already.
    Watched(Socket),
    /// TCP, not registered with a runtime.
    Tcp(std::net::TcpStream),
    /// Unix, not registered with a runtime.
    Unix(unix::UnixStream),
}

/// Makes the same call on both variants.
macro_rules! either {
    ($socket:expr, $inner:ident => $call:expr) => {
        match $socket {
            Socket::Tcp($inner) => $call,
            Socket::Unix($inner) => $call,
        }
    };
}

impl Socket {
    /// Removes it from its runtime, so that another one can register it.
    pub fn unwatch(self) -> io::Result<Incoming> {
        match self {
            Socket::Tcp(stream) => stream.into_std().map(Incoming::Tcp),
            Socket::Unix(stream) => stream.into_std().map(Incoming::Unix),
        }
    }

    /// Waits until there may be bytes to read or the end of the stream. A read after it can still return `WouldBlock`.
    /// Cancel safe.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, inner => inner.poll_read_ready(cx))
    }

    /// Waits until there may be room to write. Cancel safe.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, inner => inner.poll_write_ready(cx))
    }

    /// Makes `call`, a system call on this socket, and clears the readiness if it returns `WouldBlock`.
    pub fn try_io<T>(&self, interest: Interest, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        either!(self, inner => inner.try_io(interest, call))
    }

    /// Waits until there are bytes to read, and copies the first ones without consuming them (`MSG_PEEK`). Returns zero
    /// at the end of the stream. Cancel safe.
    pub async fn peek(&self, into: &mut [u8]) -> io::Result<usize> {
        let peek = || {
            let (copied, _) = rustix::net::recv(self, &mut *into, RecvFlags::PEEK)?;
            Ok(copied)
        };
        match self {
            Socket::Tcp(stream) => stream.async_io(Interest::READABLE, peek).await,
            Socket::Unix(stream) => stream.async_io(Interest::READABLE, peek).await,
        }
    }

    /// The address that the other side has connected to; `None` on a Unix socket.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Socket::Tcp(stream) => stream.local_addr().ok(),
            Socket::Unix(_) => None,
        }
    }

    /// Sends as many bytes as there is room for, without waiting, and returns their number. It does not need readiness
    /// from the runtime, which a new connection does not have yet.
    pub fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        match rustix::net::send(self, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            sent => Ok(sent?),
        }
    }

    /// Waits until the other side has closed, or the connection has failed, whether bytes from it are unread or not.
    /// Cancel safe.
    pub async fn closed(&self) {
        let mut has_more = false;
        let unread = poll_fn(|cx| {
            while !has_more {
                if ready!(self.poll_read_ready(cx)).is_err() {
                    return Poll::Ready(false);
                }
                let peek = || Ok(rustix::net::recv(self, &mut [MaybeUninit::uninit()], RecvFlags::PEEK)?.1);
                match self.try_io(Interest::READABLE, peek) {
                    Ok(length) => has_more = length > 0,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    Err(_) => {}
                }
                if !has_more {
                    return Poll::Ready(false);
                }
            }
            Poll::Ready(true)
        });
        if unread.await {
            self.closed_behind_unread().await;
        }
    }

    /// Waits until the other side has closed, although bytes from it are unread. Looks from time to time, because the
    /// runtime reports nothing new while bytes are unread. Cancel safe.
    pub async fn closed_behind_unread(&self) {
        while !self.is_closed_by_peer() {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    fn is_closed_by_peer(&self) -> bool {
        let mut poll = [PollFd::new(self, PollFlags::RDHUP)];
        let looked = rustix::event::poll(&mut poll, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        looked.is_ok() && poll[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
    }
}

impl Incoming {
    /// The socket of this descriptor. Errors: it is no connected TCP or Unix socket.
    pub fn of(descriptor: OwnedFd) -> io::Result<Incoming> {
        let socket = socket2::Socket::from(descriptor);
        socket.set_nonblocking(true)?;
        match socket.domain()? {
            socket2::Domain::IPV4 | socket2::Domain::IPV6 => Ok(Incoming::Tcp(socket.into())),
            socket2::Domain::UNIX => Ok(Incoming::Unix(socket.into())),
            other => Err(io::Error::other(format!("a socket of the unexpected domain {other:?}"))),
        }
    }

    /// Registers it with the current runtime; if it is registered already, that must be the current one. Errors: the
    /// kernel accepts no more descriptors in epoll.
    pub fn watch(self) -> io::Result<Socket> {
        match self {
            Incoming::Watched(socket) => Ok(socket),
            Incoming::Tcp(stream) => TcpStream::from_std(stream).map(Socket::Tcp),
            Incoming::Unix(stream) => UnixStream::from_std(stream).map(Socket::Unix),
        }
    }
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Socket {
        Socket::Tcp(stream)
    }
}

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Socket {
        Socket::Unix(stream)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        either!(self, inner => inner.as_fd())
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), inner => Pin::new(inner).poll_read(cx, into))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), inner => Pin::new(inner).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), inner => Pin::new(inner).poll_write_vectored(cx, slices))
    }

    /// So that TLS writes all its records with one call.
    fn is_write_vectored(&self) -> bool {
        either!(self, inner => inner.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), inner => Pin::new(inner).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), inner => Pin::new(inner).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// TLS hands over one piece for each of its records.
    #[tokio::test]
    async fn several_pieces_are_written_with_one_call() {
        let (one, mut other) = UnixStream::pair().expect("two sockets");
        let mut socket = Socket::from(one);
        assert!(socket.is_write_vectored());
        let pieces = [&b"first "[..], b"second"].map(IoSlice::new);
        assert_eq!(socket.write_vectored(&pieces).await.expect("fits"), 12);
        let mut received = [0; 12];
        other.read_exact(&mut received).await.expect("has arrived");
        assert_eq!(&received, b"first second");
    }
}
