//! The relay: bytes from one side to the other, both ways, until an end.
//!
//! A session at rest owns no buffer. Each thread has one scratch buffer, which a session borrows for the moment
//! between a read and the write that follows; only what a write did not take is kept. A direction that streams is
//! moved by the kernel, through a pipe that it owns while bytes are in it: `splice.rs` says when.

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

use self::pump::{Chunk, EndOfStream, Flow, Pump, PumpError};
use crate::config::RelayMode;
use crate::net::{Socket, Stream};
use crate::protocol::ServerError;
use crate::protocol::framing::Framing;
use crate::proxy::byte_counters::ByteCounters;

/// `Terminate`, as a client sends it before it closes.
const TERMINATE: &[u8] = b"X\0\0\0\x04";

/// How long a client may go on sending after its server has closed.
const LINGER: Duration = Duration::from_secs(5);

/// Both sides of a session close within such a time where one closes because the other does.
const A_MOMENT: Duration = Duration::from_secs(1);

/// How a relay ended.
#[derive(Debug)]
pub enum Outcome {
    /// The client closed first, or said that it would.
    ClientClosed,
    /// The server closed, with this SQLSTATE if its last message was an error.
    ServerClosed(Option<[u8; 5]>),
    /// The client's connection broke.
    ClientFailed(io::Error),
    /// The server's connection broke.
    ServerFailed(io::Error),
    /// The session was draining, and its transaction is over.
    Drained,
}

/// Two connections and what is on its way between them.
#[derive(Debug)]
pub struct Relay {
    client: Stream,
    server: Stream,
    up: Pump,
    down: Pump,
    /// Where the server's stream stands; `None` if it is encrypted, so that nobody but the two ends can tell.
    framing: Option<Framing>,
    client_terminated: bool,
    /// The server takes no more. What it has said before may still be on its way, the reason among it.
    server_is_deaf: bool,
    is_draining: bool,
}

impl Relay {
    /// A relay between the two; `for_server` and `for_client` are bytes that were received and not yet passed on.
    pub fn new(
        mode: RelayMode,
        client: Stream,
        server: Stream,
        mut framing: Option<Framing>,
        for_server: BytesMut,
        for_client: BytesMut,
    ) -> Relay {
        if let Some(framing) = &mut framing {
            framing.ask(&for_server);
            framing.take_error(); // of the login: if the server then closes, that is noted
        }
        Relay {
            client,
            server,
            up: Pump::new(for_server, EndOfStream::PassOn, mode),
            down: Pump::new(for_client, EndOfStream::KeepBack, mode),
            framing,
            client_terminated: false,
            server_is_deaf: false,
            is_draining: false,
        }
    }

    /// Whether it is to end as soon as no transaction is open and nothing is under way. What the client asks then is
    /// not passed on any more, so that it can be told that nothing of it was done.
    ///
    /// A session that asks without waiting for answers would never come to that by itself: while it drains, it is
    /// given one answer before the next question is passed on. Encrypted sessions show nothing of it all and go on.
    pub fn set_draining(&mut self, is_draining: bool) {
        self.is_draining = is_draining;
        if is_draining {
            self.up.copies(); // what is spliced can neither be followed nor held back
        }
    }

    /// Relays until an end. `on_error` hears the SQLSTATE of every error that the server sends.
    ///
    /// What was read and not yet written stays in the relay, and a later call goes on with it.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &ByteCounters,
        mut on_error: impl FnMut(ServerError),
    ) -> Poll<Outcome> {
        loop {
            let is_over = self.is_draining && self.is_between_transactions();
            if is_over && self.down.is_empty() {
                return Poll::Ready(Outcome::Drained);
            }
            if !is_over && let Some(end) = self.poll_up(cx, bytes) {
                return Poll::Ready(end);
            }
            let down = self.poll_down(cx, bytes, &mut on_error);
            let goes_on = down.is_pending() && (self.is_draining || self.up.holds_back());
            if !(goes_on && self.has_come_further()) {
                return down;
            }
        }
    }

    /// Whether the answers that have just been passed on let a draining session end, or let something be passed on that
    /// was held back.
    fn has_come_further(&self) -> bool {
        let is_over = self.is_draining && self.is_between_transactions();
        let may_ask = self.up.holds_back() && !self.server_is_deaf && !self.awaits_answer();
        if is_over { self.down.is_empty() } else { may_ask }
    }

    fn is_between_transactions(&self) -> bool {
        self.framing.as_ref().is_some_and(Framing::is_between_transactions)
    }

    fn awaits_answer(&self) -> bool {
        self.framing.as_ref().is_some_and(Framing::awaits_answer)
    }

    /// From the client to the server. Returns an end that this brings about.
    fn poll_up(&mut self, cx: &mut Context<'_>, bytes: &ByteCounters) -> Option<Outcome> {
        if self.server_is_deaf {
            return None;
        }
        let Relay { client, server, up, framing, client_terminated, is_draining, .. } = self;
        let mut see = |chunk: Chunk<'_>| {
            let length = chunk.length();
            let Some(framing) = framing else {
                bytes.add_to_server(length);
                *client_terminated = matches!(chunk, Chunk::Read(bytes) if bytes.ends_with(TERMINATE));
                return Flow::More;
            };
            // said while nothing else was under way it is no accident: the server will close, and be the first to, so
            // that the port which lingers in TIME_WAIT is its own and none of ours
            let is_farewell = framing.rests() && matches!(chunk, Chunk::Read(TERMINATE));
            let passed_on = match chunk {
                Chunk::Read(read) if *is_draining => framing.ask_up_to_next(read),
                Chunk::Read(read) => {
                    framing.ask(read);
                    length
                }
                Chunk::Spliced(_) => {
                    framing.ask_unseen(length);
                    length
                }
            };
            bytes.add_to_server(passed_on);
            // the last bytes of a burst are always read
            *client_terminated = matches!(chunk, Chunk::Read(bytes) if bytes[..passed_on].ends_with(TERMINATE));
            match length - passed_on {
                0 if is_farewell => Flow::Over,
                0 => Flow::More,
                held_back => Flow::HoldBack(held_back),
            }
        };
        if up.holds_back() {
            up.reconsider(&mut see);
        }
        match up.poll(cx, client, server, see) {
            Poll::Ready(Err(PumpError::Read(error))) => return Some(Outcome::ClientFailed(error)),
            // the kernel gave the connection up: the server has closed nothing
            Poll::Ready(Err(PumpError::Write(error))) if error.kind() == io::ErrorKind::TimedOut => {
                return Some(Outcome::ServerFailed(error));
            }
            Poll::Ready(Err(PumpError::Write(_))) => self.server_is_deaf = true,
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        None
    }

    /// From the server to the client.
    fn poll_down(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &ByteCounters,
        on_error: &mut impl FnMut(ServerError),
    ) -> Poll<Outcome> {
        let Relay { client, server, down, framing, .. } = self;
        let polled = down.poll(cx, server, client, |chunk| {
            bytes.add_to_client(chunk.length());
            if let Some(framing) = framing {
                match chunk {
                    Chunk::Read(bytes) => framing.follow(bytes),
                    Chunk::Spliced(length) => framing.pass(length),
                }
                if let Some(error) = framing.take_error() {
                    on_error(error);
                }
            }
            Flow::More
        });
        match polled {
            Poll::Pending => {
                if let Some(framing) = framing
                    && down.is_empty()
                {
                    framing.comes_to_rest();
                }
                Poll::Pending
            }
            Poll::Ready(Ok(())) if self.client_terminated || self.up.is_done() => Poll::Ready(Outcome::ClientClosed),
            Poll::Ready(Ok(())) => Poll::Ready(Outcome::ServerClosed(self.last_error())),
            Poll::Ready(Err(PumpError::Read(error))) => Poll::Ready(self.server_gone(error)),
            Poll::Ready(Err(PumpError::Write(error))) => Poll::Ready(Outcome::ClientFailed(error)),
        }
    }

    /// A server that breaks off after the client's farewell, as one does that is in a hurry, has not failed.
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

    /// Whether a message of our own may be put behind what the client has been sent.
    pub fn can_speak(&self) -> bool {
        self.down.is_empty() && self.framing.as_ref().is_some_and(Framing::is_at_boundary)
    }

    /// Says goodbye to the server, as far as that goes without waiting: what the session holds there, its locks and its
    /// place, is free before the client has taken in why it ends.
    pub fn leave_server(&mut self) {
        if self.up.has_delivered() && self.framing.as_ref().is_some_and(Framing::may_be_asked) {
            self.server.write_last(TERMINATE);
        } else {
            // it may be closed already
            let _ = SockRef::from(self.server.socket()).shutdown(Shutdown::Write);
        }
    }

    /// The client's connection, for last words.
    pub fn client(&mut self) -> &mut Stream {
        &mut self.client
    }

    /// The peers' sockets: the client's and the server's.
    pub fn sockets(&self) -> [&Socket; 2] {
        [self.client.socket(), self.server.socket()]
    }

    /// Whether the session is encrypted between client and server, so that nothing of it can be seen.
    pub fn is_opaque(&self) -> bool {
        self.framing.is_none()
    }

    /// After the server has closed: passes the close on, and lets the client finish what it is sending. Returns whether the
    /// client closed in a moment.
    pub async fn finish_for_client(&mut self) -> bool {
        let started = Instant::now();
        if self.client.shutdown().await.is_err() {
            return true; // it has closed before
        }
        if self.server_is_deaf {
            return timeout(A_MOMENT, self.client.closed()).await.is_ok();
        }
        let rest = poll_fn(|cx| self.up.poll(cx, &mut self.client, &mut self.server, |_| Flow::More));
        // whichever side fails now, the session is over all the same
        timeout(LINGER, rest).await.is_ok() && started.elapsed() < A_MOMENT
    }
}
