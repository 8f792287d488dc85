//! The relay: copies bytes between client and server, in both directions, until the session ends.
//!
//! An idle session owns no buffer. Each thread has one scratch buffer, which a session borrows between a read and the
//! write that follows; only the bytes that the write did not accept are kept. For a direction that streams, the kernel
//! moves the bytes through a pipe, which the direction owns while bytes are in it; see `splice.rs`.

mod another_server;
mod asking;
pub mod client_side;
mod pipes;
mod pump;
mod splice;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};

use self::pump::{Chunk, EndOfStream, Flow, Pump, PumpError, Seen};
use crate::config::RelayMode;
use crate::net::{Socket, Stream};
use crate::protocol::ServerError;
use crate::protocol::framing::Framing;
use crate::protocol::message::TERMINATE;
use crate::proxy::byte_counters::ByteCounters;

/// How long a client may continue to send after its server has closed.
const LINGER: Duration = Duration::from_secs(5);

/// If one side closes within this time after the other, it closed because of the other.
const A_MOMENT: Duration = Duration::from_secs(1);

/// How a relay ended.
#[derive(Debug)]
pub enum Outcome {
    /// The client closed first, or sent `Terminate`.
    ClientClosed,
    /// The server closed, with this SQLSTATE if its last message was an error.
    ServerClosed(Option<[u8; 5]>),
    /// The connection to the client failed.
    ClientFailed(io::Error),
    /// The connection to the server failed.
    ServerFailed(io::Error),
    /// The session was draining, and its transaction has ended.
    Drained,
    /// The session was parked, and the server has begun to say why it closes. The client has not got that.
    ServerClosedParked,
}

/// What there is of a relay besides its two connections.
#[derive(Debug, Clone)]
pub struct RelayState {
    /// The position in the protocol; `None` if client and server encrypt end to end.
    pub framing: Option<Framing>,
    /// Bytes from the client that the server has not got.
    pub for_server: Vec<u8>,
    /// Bytes from the server that the client has not got.
    pub for_client: Vec<u8>,
}

/// Two connections and the bytes in flight between them.
#[derive(Debug)]
pub struct Relay {
    client: Stream,
    server: Stream,
    up: Pump,
    down: Pump,
    /// The position in the protocol; `None` if client and server encrypt end to end, so that it cannot be known.
    framing: Option<Framing>,
    client_terminated: bool,
    /// Writes to the server fail. Bytes that it sent before may still arrive, and among them the error that says why.
    server_write_failed: bool,
    is_draining: bool,
    /// The session is to stop between two transactions.
    is_parking: bool,
    /// It has: nothing is read from the client.
    is_parked: bool,
}

impl Relay {
    /// A relay between the two; `for_server` and `for_client` are bytes that were received and not yet forwarded.
    pub fn new(
        mode: RelayMode,
        client: Stream,
        server: Stream,
        mut framing: Option<Framing>,
        for_server: BytesMut,
        for_client: BytesMut,
    ) -> Relay {
        if let Some(framing) = &mut framing {
            framing.client_sent(&for_server);
            framing.take_error(); // of the login; if the server closes after it, `last_error` still has it
        }
        Relay::of(mode, client, server, framing, [for_server, for_client])
    }

    /// A relay that goes on where another one, perhaps in another process, had this state.
    pub fn resumed(mode: RelayMode, client: Stream, server: Stream, state: RelayState) -> Relay {
        let in_flight = [state.for_server, state.for_client].map(|bytes| BytesMut::from(bytes.as_slice()));
        Relay::of(mode, client, server, state.framing, in_flight)
    }

    fn of(mode: RelayMode, client: Stream, server: Stream, framing: Option<Framing>, bytes: [BytesMut; 2]) -> Relay {
        let [for_server, for_client] = bytes;
        Relay {
            client,
            server,
            up: Pump::new(for_server, EndOfStream::PassOn, mode),
            down: Pump::new(for_client, EndOfStream::Withhold, mode),
            framing,
            client_terminated: false,
            server_write_failed: false,
            is_draining: false,
            is_parking: false,
            is_parked: false,
        }
    }

    /// Its state, if the state and the two connections are all there is of it: then another relay can go on with them.
    /// `None` while the kernel has bytes in a pipe, while it drains, or if it ends soon.
    pub fn state(&self) -> Option<RelayState> {
        if self.client_terminated || self.server_write_failed || self.is_draining {
            return None;
        }
        let [for_server, for_client] = [self.up.undelivered()?, self.down.undelivered()?].map(<[u8]>::to_vec);
        Some(RelayState { framing: self.framing.clone(), for_server, for_client })
    }

    /// Whether its connections are nothing but sockets, because no TLS ends at pgvane.
    pub fn is_plain(&self) -> bool {
        self.client.plain().is_some() && self.server.plain().is_some()
    }

    /// Its two connections, without what is in flight.
    pub fn into_streams(self) -> [Stream; 2] {
        [self.client, self.server]
    }

    /// Whether no bytes are in flight in either direction.
    pub fn is_empty(&self) -> bool {
        self.up.is_empty() && self.down.is_empty()
    }

    /// From now on all bytes are copied, so that soon none are in a pipe.
    pub fn stop_splicing(&mut self) {
        self.up.stop_splicing();
        self.down.stop_splicing();
    }

    /// Sets whether the relay ends as soon as no transaction is open and no request is running. Requests that the client
    /// sends after that are not sent to the server, so that the client's error message can say that they were not executed.
    ///
    /// A session that pipelines requests would never reach that state by itself: while it drains, the next request is
    /// sent only after the answer to the previous one. Sessions that are encrypted end to end are not affected.
    pub fn set_draining(&mut self, is_draining: bool) {
        self.is_draining = is_draining;
        if is_draining {
            self.up.stop_splicing(); // spliced bytes can neither be parsed nor held back
        }
    }

    /// Sets whether the session stops as soon as no transaction is open and no request is running: then nothing is read
    /// from the client, and what the server still sends is passed on, except the error with which it closes. Until then
    /// it is as if the session drained.
    pub fn set_parking(&mut self, is_parking: bool) {
        if is_parking == self.is_parking {
            return;
        }
        self.is_parking = is_parking;
        self.is_parked = false;
        if is_parking && !self.is_between_transactions() {
            self.up.stop_splicing();
        }
    }

    /// Whether the session is between two transactions, and the client has got all that the server has sent.
    pub fn is_at_rest(&self) -> bool {
        self.is_between_transactions() && self.down.is_empty()
    }

    /// Whether nothing is read from the client, because the session has stopped between two transactions.
    pub fn is_parked(&self) -> bool {
        self.is_parked
    }

    /// Relays until the session ends. `on_error` is called with every error that the server sends.
    ///
    /// Bytes that were read and not yet written stay in the relay; the next call continues with them.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &ByteCounters,
        mut on_error: impl FnMut(ServerError),
    ) -> Poll<Outcome> {
        loop {
            if self.has_stopped() {
                if self.is_draining {
                    return Poll::Ready(Outcome::Drained);
                }
                self.is_parked = true;
            }
            if !(self.is_parked || self.is_about_to_stop())
                && let Some(end) = self.poll_up(cx, bytes)
            {
                return Poll::Ready(end);
            }
            let down = self.poll_down(cx, bytes, &mut on_error);
            let may_continue = down.is_pending() && (self.is_stopping() || self.up.holds_back());
            if !(may_continue && self.can_continue()) {
                return down;
            }
        }
    }

    /// Whether the session is to stop between two transactions, to end or to be parked.
    fn is_stopping(&self) -> bool {
        self.is_draining || self.is_parking
    }

    /// Whether it is to stop, and is between two transactions.
    fn is_about_to_stop(&self) -> bool {
        self.is_stopping() && self.is_between_transactions()
    }

    /// Whether the client has everything, too.
    fn has_stopped(&self) -> bool {
        self.is_about_to_stop() && self.down.is_empty()
    }

    /// Whether, after the answers that were just forwarded, a session can stop or a held-back request can be sent.
    fn can_continue(&self) -> bool {
        if self.is_parked {
            return false;
        }
        let may_send = self.up.holds_back() && !self.server_write_failed && !self.awaits_answer();
        if self.is_about_to_stop() { self.down.is_empty() } else { may_send }
    }

    fn is_between_transactions(&self) -> bool {
        self.framing.as_ref().is_some_and(Framing::is_between_transactions)
    }

    fn awaits_answer(&self) -> bool {
        self.framing.as_ref().is_some_and(Framing::awaits_answer)
    }

    /// Moves bytes from the client to the server. Returns the outcome if the session ends here.
    fn poll_up(&mut self, cx: &mut Context<'_>, bytes: &ByteCounters) -> Option<Outcome> {
        if self.server_write_failed {
            return None;
        }
        let is_stopping = self.is_stopping();
        let Relay { client, server, up, framing, client_terminated, .. } = self;
        // bytes that were held back may allow more; too few do no harm
        let splice_max = framing.as_ref().map_or(usize::MAX, Framing::client_may_pass_unread);
        let mut see = |chunk: Chunk<'_>| {
            let length = chunk.length();
            let Some(framing) = framing else {
                bytes.add_to_server(length);
                *client_terminated = matches!(chunk, Chunk::Read(bytes) if bytes.ends_with(TERMINATE));
                return Flow::More.into();
            };
            // sent while no request was running, this is the message `Terminate` and not data that looks like it: the
            // server will close first, so the port in TIME_WAIT is the server's and not one of pgvane's
            let is_terminate = framing.is_idle() && matches!(chunk, Chunk::Read(TERMINATE));
            let passed_on = match chunk {
                Chunk::Read(read) if is_stopping => framing.client_sent_up_to_next_request(read),
                Chunk::Read(read) => {
                    framing.client_sent(read);
                    length
                }
                Chunk::Spliced(_) => {
                    framing.client_sent_unread(length);
                    length
                }
            };
            bytes.add_to_server(passed_on);
            // the last bytes of a burst are always read
            *client_terminated = matches!(chunk, Chunk::Read(bytes) if bytes[..passed_on].ends_with(TERMINATE));
            let flow = match length - passed_on {
                0 if is_terminate => Flow::Stop,
                0 => Flow::More,
                held_back => Flow::HoldBack(held_back),
            };
            Seen { flow, splice_max: framing.client_may_pass_unread() }
        };
        if up.holds_back() {
            up.reconsider(&mut see);
        }
        match up.poll(cx, client, server, splice_max, see) {
            Poll::Ready(Err(PumpError::Read(error))) => return Some(Outcome::ClientFailed(error)),
            // the kernel has ended the connection: the server has not closed it
            Poll::Ready(Err(PumpError::Write(error))) if error.kind() == io::ErrorKind::TimedOut => {
                return Some(Outcome::ServerFailed(error));
            }
            Poll::Ready(Err(PumpError::Write(_))) => self.server_write_failed = true,
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        None
    }

    /// Moves bytes from the server to the client.
    fn poll_down(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &ByteCounters,
        on_error: &mut impl FnMut(ServerError),
    ) -> Poll<Outcome> {
        let Relay { client, server, down, framing, is_parked, .. } = self;
        let splice_max = framing.as_ref().map_or(usize::MAX, Framing::server_may_pass_unread);
        let polled = down.poll(cx, server, client, splice_max, |chunk| {
            let mut passed_on = chunk.length();
            if let Some(framing) = framing {
                match chunk {
                    Chunk::Read(bytes) if *is_parked => passed_on = framing.server_sent_up_to_error(bytes),
                    Chunk::Read(bytes) => framing.server_sent(bytes),
                    Chunk::Spliced(length) => framing.server_sent_unread(length),
                }
                if let Some(error) = framing.take_error() {
                    on_error(error);
                }
            }
            bytes.add_to_client(passed_on);
            let held_back = chunk.length() - passed_on;
            let flow = if held_back > 0 { Flow::HoldBack(held_back) } else { Flow::More };
            Seen { flow, splice_max: framing.as_ref().map_or(usize::MAX, Framing::server_may_pass_unread) }
        });
        match polled {
            Poll::Pending if down.holds_back() && down.has_delivered() => {
                down.discard_held_back();
                Poll::Ready(Outcome::ServerClosedParked)
            }
            Poll::Pending => {
                if let Some(framing) = framing
                    && down.is_empty()
                {
                    framing.server_paused();
                }
                Poll::Pending
            }
            Poll::Ready(Ok(())) if self.client_terminated || self.up.is_done() => Poll::Ready(Outcome::ClientClosed),
            Poll::Ready(Ok(())) => Poll::Ready(Outcome::ServerClosed(self.last_error())),
            Poll::Ready(Err(PumpError::Read(error))) => Poll::Ready(self.server_gone(error)),
            Poll::Ready(Err(PumpError::Write(error))) => Poll::Ready(Outcome::ClientFailed(error)),
        }
    }

    /// The outcome when reading from the server fails. A server that resets the connection after the client's `Terminate`
    /// has not failed.
    fn server_gone(&self, error: io::Error) -> Outcome {
        match self.last_error() {
            _ if self.client_terminated || self.up.has_read_all() => Outcome::ClientClosed,
            Some(code) => Outcome::ServerClosed(Some(code)),
            None => Outcome::ServerFailed(error),
        }
    }

    fn last_error(&self) -> Option<[u8; 5]> {
        self.framing.as_ref().and_then(Framing::last_error)
    }

    /// Whether pgvane may send the client a message of its own now.
    pub fn can_send_own_message(&self) -> bool {
        self.down.is_empty() && self.framing.as_ref().is_some_and(Framing::is_server_at_boundary)
    }

    /// Sends `Terminate` to the server, without waiting: the session's locks and its connection slot there are free
    /// before the client has read why it ends.
    pub fn terminate_server(&mut self) {
        if self.up.has_delivered() && self.framing.as_ref().is_some_and(Framing::is_client_at_boundary) {
            self.server.write_last(TERMINATE);
        } else {
            // it may be closed already
            let _ = SockRef::from(self.server.socket()).shutdown(Shutdown::Write);
        }
    }

    /// The connection to the client, for the final error message.
    pub fn client(&mut self) -> &mut Stream {
        &mut self.client
    }

    /// The peers' sockets: the client's and the server's.
    pub fn sockets(&self) -> [&Socket; 2] {
        [self.client.socket(), self.server.socket()]
    }

    /// Whether client and server encrypt end to end, so that pgvane cannot read the session.
    pub fn is_opaque(&self) -> bool {
        self.framing.is_none()
    }

    /// After the server has closed: closes the connection to the client, and lets the client finish what it is sending.
    /// Returns whether the client closed within `A_MOMENT`.
    pub async fn finish_for_client(&mut self) -> bool {
        let started = Instant::now();
        if self.client.shutdown().await.is_err() {
            return true; // it had closed already
        }
        if self.server_write_failed {
            return timeout(A_MOMENT, self.client.closed()).await.is_ok();
        }
        let rest = poll_fn(|cx| self.up.poll(cx, &mut self.client, &mut self.server, usize::MAX, |_| Flow::More));
        // the session has ended; a failure of either side changes nothing
        timeout(LINGER, rest).await.is_ok() && started.elapsed() < A_MOMENT
    }
}
