//! A connection, in clear or encrypted, that reads and writes alike.

use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::ConnectionCommon;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::Socket;

/// A connection to a client or a server.
#[derive(Debug)]
pub enum Stream {
    /// In clear.
    Plain(Socket),
    /// Encrypted; boxed, because rustls' state is some kilobytes.
    Tls(Box<TlsStream<Socket>>),
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
            Stream::Tls(stream) => stream.get_ref().0,
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

    /// Writes `bytes` and, where it is encrypted, TLS's own farewell, as far as that can be done without waiting. For
    /// destructors: everything before must have been written, and nothing can be written after.
    pub fn write_last(&mut self, bytes: &[u8]) {
        match self {
            // what does not go out now never will
            Stream::Plain(socket) => drop(SockRef::from(&*socket).send(bytes)),
            Stream::Tls(stream) => match &mut **stream {
                TlsStream::Client(stream) => {
                    let (socket, session) = stream.get_mut();
                    write_last_encrypted(socket, session, bytes);
                }
                TlsStream::Server(stream) => {
                    let (socket, session) = stream.get_mut();
                    write_last_encrypted(socket, session, bytes);
                }
            },
        }
    }
}

fn write_last_encrypted<Data>(socket: &Socket, session: &mut ConnectionCommon<Data>, bytes: &[u8]) {
    let socket = SockRef::from(socket);
    let _ = session.writer().write_all(bytes); // into rustls' own buffer
    session.send_close_notify();
    while session.wants_write() && session.write_tls(&mut &*socket).is_ok_and(|written| written > 0) {}
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Stream {
        Stream::Plain(stream.into())
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
