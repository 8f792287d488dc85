//! A connection with TLS. Its end is the end of the socket, and the drop sends `close_notify`.

use std::future::poll_fn;
use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::pki_types::CertificateDer;
use rustls::{CommonState, ConnectionCommon};
use socket2::SockRef;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;

use super::{Incoming, Socket, TlsSocket};

/// A TLS connection to a client or a server.
///
/// The drop sends `close_notify` without waiting: else PostgreSQL would log, and libpq would report, an unexpected end
/// of file.
#[derive(Debug)]
pub struct Encrypted(Box<TlsStream<TlsSocket>>); // boxed: rustls' state is some kilobytes

impl Encrypted {
    /// The socket below TLS.
    pub fn socket(&self) -> &Socket {
        self.0.get_ref().0.socket().expect("a connection that is used has a socket")
    }

    /// The other side's certificate, if it has sent one.
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.session().peer_certificates()?.first()
    }

    /// The negotiated application protocol (ALPN).
    pub fn application_protocol(&self) -> Option<&[u8]> {
        self.session().alpn_protocol()
    }

    fn session(&self) -> &CommonState {
        self.0.get_ref().1
    }

    /// Removes the socket from its runtime. Until [`Encrypted::watch`], the connection must not be used.
    pub(super) fn unwatch(&mut self) -> io::Result<Incoming> {
        self.tls_socket().unwatch()
    }

    /// Registers the socket with the current runtime.
    pub(super) fn watch(&mut self, socket: Incoming) -> io::Result<()> {
        self.tls_socket().watch(socket)
    }

    fn tls_socket(&mut self) -> &mut TlsSocket {
        match &mut *self.0 {
            TlsStream::Client(stream) => stream.get_mut().0,
            TlsStream::Server(stream) => stream.get_mut().0,
        }
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
        // into rustls' buffer; bytes that do not fit are never sent
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
                send_close_notify(socket, session);
            }
            TlsStream::Server(stream) => {
                let (socket, session) = stream.get_mut();
                send_close_notify(socket, session);
            }
        }
    }
}

/// Sends nothing if `close_notify` was sent already, if the TLS session has failed, or if there is no socket.
fn send_close_notify<Data>(socket: &TlsSocket, session: &mut ConnectionCommon<Data>) {
    let Some(socket) = socket.socket().map(SockRef::from) else { return };
    session.send_close_notify();
    while session.wants_write() && session.write_tls(&mut &*socket).is_ok_and(|written| written > 0) {}
}

impl From<TlsStream<TlsSocket>> for Encrypted {
    fn from(stream: TlsStream<TlsSocket>) -> Encrypted {
        Encrypted(Box::new(stream))
    }
}

impl AsyncRead for Encrypted {
    /// An end without `close_notify` is a normal end, as on a plaintext connection: PostgreSQL's messages have lengths,
    /// so an attacker gains nothing by cutting the stream short.
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
