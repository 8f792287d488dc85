//! An encrypted connection whose end is that of the connection below it, and which is never left without a farewell.

use std::future::poll_fn;
use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::pki_types::CertificateDer;
use rustls::{CommonState, ConnectionCommon};
use socket2::SockRef;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;

use super::Socket;

/// A socket with TLS around it, to a client or a server.
///
/// Dropping it sends TLS's farewell (`close_notify`) as far as that can be done without waiting: PostgreSQL's log and
/// libpq's users would else hear of an unexpected end of file.
#[derive(Debug)]
pub struct Encrypted(Box<TlsStream<Socket>>); // boxed, because rustls' state is some kilobytes

impl Encrypted {
    /// What carries it.
    pub fn socket(&self) -> &Socket {
        self.0.get_ref().0
    }

    /// The other side's certificate, if it has shown one.
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.session().peer_certificates()?.first()
    }

    /// The protocol that was agreed on within TLS (ALPN).
    pub fn application_protocol(&self) -> Option<&[u8]> {
        self.session().alpn_protocol()
    }

    fn session(&self) -> &CommonState {
        self.0.get_ref().1
    }

    /// See [`super::Stream::closed`].
    pub(super) async fn closed(&mut self) {
        let has_more = poll_fn(|cx| {
            let unread = Pin::new(&mut *self.0).poll_fill_buf(cx);
            unread.map(|unread| unread.is_ok_and(|bytes| !bytes.is_empty()))
        });
        if has_more.await {
            self.socket().closed_behind_unread().await;
        }
    }

    /// See [`super::Stream::write_last`].
    pub(super) fn write_last(&mut self, bytes: &[u8]) {
        // into rustls' own buffer; if that is full, what does not go out now never will
        let _ = match &mut *self.0 {
            TlsStream::Client(stream) => stream.get_mut().1.writer().write_all(bytes),
            TlsStream::Server(stream) => stream.get_mut().1.writer().write_all(bytes),
        };
    }
}

impl Drop for Encrypted {
    fn drop(&mut self) {
        match &mut *self.0 {
            TlsStream::Client(stream) => {
                let (socket, session) = stream.get_mut();
                say_farewell(socket, session);
            }
            TlsStream::Server(stream) => {
                let (socket, session) = stream.get_mut();
                say_farewell(socket, session);
            }
        }
    }
}

/// Says nothing if it has been said, or if the session has failed.
fn say_farewell<Data>(socket: &Socket, session: &mut ConnectionCommon<Data>) {
    session.send_close_notify();
    let socket = SockRef::from(socket);
    while session.wants_write() && session.write_tls(&mut &*socket).is_ok_and(|written| written > 0) {}
}

impl From<TlsStream<Socket>> for Encrypted {
    fn from(stream: TlsStream<Socket>) -> Encrypted {
        Encrypted(Box::new(stream))
    }
}

impl AsyncRead for Encrypted {
    /// An end without TLS's farewell is an end all the same, as it is of a connection in clear: what has come is whole
    /// or not by PostgreSQL's own lengths, so nobody can gain by cutting it short.
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, into).map(|read| match read {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            read => read,
        })
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }
}
