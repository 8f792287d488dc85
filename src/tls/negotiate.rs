//! From a fresh TCP connection to one that is encrypted, or known to be in clear.

use std::fmt;
use std::io::{self, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{ServerTls, SslMode, server_end_point};

/// `SSLRequest`: length 8 and NEGOTIATE_SSL_CODE (src/include/libpq/pqcomm.h), 1234 and 5679.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// A connection to a server, encrypted or not.
#[derive(Debug)]
pub enum ServerStream {
    /// In clear.
    Plain(TcpStream),
    /// Encrypted; boxed, because rustls' state is some kilobytes.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Why a connection could not be agreed on.
#[derive(Debug)]
pub enum NegotiationFailure {
    /// The connection broke, or the server closed it.
    Io(io::Error),
    /// The server has no TLS, and the mode asks for it.
    NotOffered,
    /// The server answered with something else than yes or no: an error of its own, or it is no PostgreSQL.
    Garbled(u8),
    /// The handshake failed; most often because the certificate is not believed.
    Handshake(io::Error),
    /// What was connected to has no name that a certificate could bear.
    BadHostName(String),
}

impl fmt::Display for NegotiationFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NegotiationFailure::Io(error) => write!(f, "{error}"),
            NegotiationFailure::NotOffered => f.write_str("the server does not support TLS, which sslmode asks for"),
            NegotiationFailure::Garbled(byte) => {
                write!(f, "the server answered the request for TLS with \"{}\"", byte.escape_ascii())
            }
            NegotiationFailure::Handshake(error) => write!(f, "TLS: {error}"),
            NegotiationFailure::BadHostName(host) => write!(f, "TLS: \"{host}\" is not a host name"),
        }
    }
}

impl ServerTls {
    /// Agrees with the server on `stream` whether to encrypt. `host` is the name or address that was connected to: the
    /// one that `verify-full` looks for in the certificate.
    ///
    /// Bounded by nothing of its own. Cancel safe: dropped half-way, it leaves no line in PostgreSQL's log, unless it
    /// was in the midst of the handshake.
    ///
    /// Errors: see [`NegotiationFailure`]. In mode `prefer` the caller may try again with [`ServerTls::in_clear`]
    /// after a failed handshake, as libpq does.
    pub async fn negotiate(&self, mut stream: TcpStream, host: &str) -> Result<ServerStream, NegotiationFailure> {
        let Some(config) = &self.client else { return Ok(ServerStream::Plain(stream)) };
        let named = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(named).map_err(|_| NegotiationFailure::BadHostName(host.to_owned()))?;

        stream.write_all(&SSL_REQUEST).await.map_err(NegotiationFailure::Io)?;
        // this byte and no more: what follows belongs to the handshake (CVE-2021-23222)
        match stream.read_u8().await.map_err(NegotiationFailure::Io)? {
            b'S' => {
                let handshake = TlsConnector::from(Arc::clone(config)).connect(name, stream);
                let stream = handshake.await.map_err(NegotiationFailure::Handshake)?;
                Ok(ServerStream::Tls(Box::new(stream)))
            }
            b'N' if self.mode == SslMode::Prefer => Ok(ServerStream::Plain(stream)),
            b'N' => Err(NegotiationFailure::NotOffered),
            other => Err(NegotiationFailure::Garbled(other)),
        }
    }
}

impl ServerStream {
    /// What SCRAM-SHA-256-PLUS binds to; `None` in clear, or where the certificate's algorithm has none.
    pub fn channel_binding(&self) -> Option<Vec<u8>> {
        match self {
            ServerStream::Plain(_) => None,
            ServerStream::Tls(stream) => server_end_point(stream.get_ref().1.peer_certificates()?.first()?),
        }
    }

    /// Whether it is encrypted.
    pub fn is_encrypted(&self) -> bool {
        matches!(self, ServerStream::Tls(_))
    }

    /// Writes `bytes` and, where it is encrypted, TLS's own farewell, as far as that can be done without waiting. For
    /// destructors: everything before must have been written, and nothing can be written after.
    pub fn write_last(&mut self, bytes: &[u8]) {
        match self {
            // what does not go out now never will
            ServerStream::Plain(stream) => drop(SockRef::from(&*stream).send(bytes)),
            ServerStream::Tls(stream) => {
                let (socket, session) = stream.get_mut();
                let socket = SockRef::from(&*socket);
                let _ = session.writer().write_all(bytes); // into rustls' own buffer
                session.send_close_notify();
                while session.wants_write() && session.write_tls(&mut &*socket).is_ok_and(|written| written > 0) {}
            }
        }
    }
}

impl AsyncRead for ServerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            ServerStream::Plain(stream) => Pin::new(stream).poll_read(cx, into),
            ServerStream::Tls(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for ServerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            ServerStream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            ServerStream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            ServerStream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            ServerStream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            ServerStream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            ServerStream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
