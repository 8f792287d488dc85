//! A connection, in clear or encrypted, that reads and writes alike.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::{Encrypted, Socket};

/// A connection to a client or a server.
#[derive(Debug)]
pub enum Stream {
    /// In clear.
    Plain(Socket),
    /// Encrypted.
    Tls(Encrypted),
}

/// The same call on whichever it is.
macro_rules! either {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream {
            Stream::Plain($inner) => $call,
            Stream::Tls($inner) => $call,
        }
    };
}

impl Stream {
    /// What carries it.
    pub fn socket(&self) -> &Socket {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(stream) => stream.socket(),
        }
    }

    /// The socket, if what is written to this connection is what the socket carries.
    pub fn plain(&self) -> Option<&Socket> {
        match self {
            Stream::Plain(socket) => Some(socket),
            Stream::Tls(_) => None,
        }
    }

    /// Whether it is encrypted.
    pub fn is_encrypted(&self) -> bool {
        matches!(self, Stream::Tls(_))
    }

    /// Waits until the other side has closed, or has broken off. Never returns while there is something to be read.
    /// Cancel safe.
    pub async fn closed(&mut self) {
        match self {
            Stream::Plain(socket) => socket.closed().await,
            Stream::Tls(stream) => stream.closed().await,
        }
    }

    /// Writes all of `bytes` and sees them on their way: TLS may keep back what the socket did not take at once. Not
    /// cancel safe.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = match self {
            Stream::Plain(socket) => socket.send_now(bytes)?,
            Stream::Tls(_) => 0,
        };
        self.write_all(&bytes[sent..]).await?;
        self.flush().await
    }

    /// Writes `bytes` as far as that can be done without waiting. For destructors: everything before must have been
    /// sent, and nothing can be written after.
    pub fn write_last(&mut self, bytes: &[u8]) {
        match self {
            // what does not go out now never will
            Stream::Plain(socket) => _ = socket.send_now(bytes),
            Stream::Tls(stream) => stream.write_last(bytes),
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Stream {
        Stream::Plain(stream.into())
    }
}

impl From<Encrypted> for Stream {
    fn from(stream: Encrypted) -> Stream {
        Stream::Tls(stream)
    }
}

impl From<Socket> for Stream {
    fn from(socket: Socket) -> Stream {
        Stream::Plain(socket)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), inner => Pin::new(inner).poll_read(cx, into))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), inner => Pin::new(inner).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), inner => Pin::new(inner).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), inner => Pin::new(inner).poll_shutdown(cx))
    }
}
