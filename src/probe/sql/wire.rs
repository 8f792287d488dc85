//! The connection below a session. It sends Terminate before it is closed, whatever the reason.
//!
//! tokio-postgres sends Terminate when its client is dropped and no answer is outstanding. Where one is (the server
//! hangs, a check ran out of time, the whole program ends) the connection would just be closed, and PostgreSQL would
//! log "unexpected EOF" or "connection reset" later. So the drop sends Terminate, if it was not sent before.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

use super::auth_guard::AuthGuard;
use crate::net::Stream;
use crate::protocol::message::TERMINATE;
use crate::tls::binding_of;

/// A connection to a server for tokio-postgres, encrypted already or not at all.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Stream,
    terminate_needed: TerminateNeeded,
    guard: AuthGuard,
    has_closed: bool,
}

/// Whether Terminate has to be sent. Before `ReadyForQuery` the protocol does not allow it; closing is enough.
#[derive(Debug, Clone, Default)]
pub(super) struct TerminateNeeded(Arc<AtomicBool>);

impl TerminateNeeded {
    /// From now on Terminate has to be sent.
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Wire {
    pub(super) fn new(stream: Stream, terminate_needed: TerminateNeeded, guard: AuthGuard) -> Wire {
        Wire { stream, terminate_needed, guard, has_closed: false }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.terminate_needed.0.load(Ordering::Relaxed) && !self.has_closed {
            // Each request was written completely: it is smaller than any socket's buffer. So this is a message
            // boundary.
            self.stream.write_last(TERMINATE);
        }
    }
}

/// For tokio-postgres: encryption has been agreed on before it came into play, and there is nothing left to do.
#[derive(Debug)]
pub(super) struct AlreadyAgreed;

impl TlsConnect<Wire> for AlreadyAgreed {
    type Stream = Wire;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<Wire>>;

    fn connect(self, wire: Wire) -> Self::Future {
        std::future::ready(Ok(wire))
    }
}

impl TlsStream for Wire {
    fn channel_binding(&self) -> ChannelBinding {
        binding_of(&self.stream).map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, into))?;
        Poll::Ready(self.guard.check(&into.filled()[before..]))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.guard.request_sent();
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// tokio-postgres comes here after it has sent its own Terminate.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.has_closed = true;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
