//! The socket below TLS. It can be taken to another runtime while TLS stays as it is.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Incoming, Socket};

/// The socket below TLS.
#[derive(Debug)]
pub struct TlsSocket {
    /// `None` while it is taken to another runtime.
    socket: Option<Socket>,
}

impl TlsSocket {
    /// The socket; `None` while it is taken to another runtime.
    pub(super) fn socket(&self) -> Option<&Socket> {
        self.socket.as_ref()
    }

    /// Removes the socket from its runtime, see [`Socket::unwatch`]. Until [`TlsSocket::watch`], nothing can be read or
    /// written.
    pub(super) fn unwatch(&mut self) -> io::Result<Incoming> {
        self.socket.take().ok_or(io::ErrorKind::NotConnected)?.unwatch()
    }

    /// Registers the socket with the current runtime, see [`Incoming::watch`].
    pub(super) fn watch(&mut self, socket: Incoming) -> io::Result<()> {
        self.socket = Some(socket.watch()?);
        Ok(())
    }

    fn pinned(&mut self) -> io::Result<Pin<&mut Socket>> {
        self.socket.as_mut().map(Pin::new).ok_or(io::ErrorKind::NotConnected.into())
    }
}

impl From<Socket> for TlsSocket {
    fn from(socket: Socket) -> TlsSocket {
        TlsSocket { socket: Some(socket) }
    }
}

impl AsyncRead for TlsSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.pinned()?.poll_read(cx, into)
    }
}

impl AsyncWrite for TlsSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.pinned()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.pinned()?.poll_write_vectored(cx, slices)
    }

    /// So that TLS writes all its records with one call.
    fn is_write_vectored(&self) -> bool {
        self.socket.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pinned()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pinned()?.poll_shutdown(cx)
    }
}
