//! A connection, plaintext or encrypted, with the same reads and writes for both.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::{Encrypted, Incoming, Socket};

/// A connection to a client or a server.
#[derive(Debug)]
pub enum Stream {
    /// Plaintext.
    Plain(Socket),
    /// Encrypted.
    Tls(Encrypted),
}

/// A connection that is being moved to another runtime.
#[derive(Debug)]
pub enum IncomingStream {
    /// Plaintext.
    Plain(Incoming),
    /// Encrypted, and the socket below it.
    Tls(Encrypted, Incoming),
}

/// Makes the same call on both variants.
macro_rules! either {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream {
            Stream::Plain($inner) => $call,
            Stream::Tls($inner) => $call,
        }
    };
}

impl Stream {
    /// The socket below it.
    pub fn socket(&self) -> &Socket {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(stream) => stream.socket(),
        }
    }

    /// The socket, if the connection is plaintext.
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

    /// Removes it from its runtime, so that another one can register it.
    pub fn unwatch(self) -> io::Result<IncomingStream> {
        match self {
            Stream::Plain(socket) => socket.unwatch().map(IncomingStream::Plain),
            Stream::Tls(mut stream) => stream.unwatch().map(|socket| IncomingStream::Tls(stream, socket)),
        }
    }

    /// Waits until the other side has closed or reset the connection. Does not return while there are bytes to read.
    /// Cancel safe.
    pub async fn closed(&mut self) {
        match self {
            Stream::Plain(socket) => socket.closed().await,
            Stream::Tls(stream) => stream.closed().await,
        }
    }

    /// Writes all of `bytes` and flushes them: TLS may buffer what the socket did not accept at once. Not cancel safe.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = match self {
            Stream::Plain(socket) => socket.send_now(bytes)?,
            Stream::Tls(_) => 0,
        };
        self.write_all(&bytes[sent..]).await?;
        self.flush().await
    }

    /// Writes as many of `bytes` as possible without waiting. For use before the drop: all bytes before must have been
    /// sent, and nothing can be written after it.
    pub fn write_last(&mut self, bytes: &[u8]) {
        match self {
            // bytes that do not fit are never sent
            Stream::Plain(socket) => _ = socket.send_now(bytes),
            Stream::Tls(stream) => stream.write_last(bytes),
        }
    }
}

impl IncomingStream {
    /// Registers it with the current runtime, see [`Incoming::watch`].
    pub fn watch(self) -> io::Result<Stream> {
        match self {
            IncomingStream::Plain(socket) => socket.watch().map(Stream::Plain),
            IncomingStream::Tls(mut stream, socket) => {
                stream.watch(socket)?;
                Ok(Stream::Tls(stream))
            }
        }
    }
}

impl From<Incoming> for IncomingStream {
    fn from(socket: Incoming) -> IncomingStream {
        IncomingStream::Plain(socket)
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
