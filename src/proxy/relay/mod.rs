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
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use self::pump::{EndOfStream, Onward, Portion, Pump, PumpError};
use super::registry::Card;
use crate::config::RelayMode;
use crate::net::Stream;
use crate::protocol::framing::{Framing, Transaction};

/// `Terminate`, as a client sends it before it closes.
const TERMINATE: &[u8] = b"X\0\0\0\x04";

/// How long a client may go on sending after its server has closed.
const LINGER: Duration = Duration::from_secs(5);

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
    /// An error that the server has sent, not yet taken note of.
    newest_error: Option<[u8; 5]>,
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
        let newest_error = framing.as_mut().and_then(Framing::take_error);
        Relay {
            client,
            server,
            up: Pump::new(for_server, EndOfStream::PassOn, mode),
            down: Pump::new(for_client, EndOfStream::KeepBack, mode),
            framing,
            client_terminated: false,
            server_is_deaf: false,
            newest_error,
            is_draining: false,
        }
    }

    /// From now on ends as soon as no transaction is open. Encrypted sessions show no transactions and go on.
    pub fn drain(&mut self) {
        self.is_draining = true;
    }

    /// Relays until an end. `on_error` hears the SQLSTATE of every error that the server sends.
    ///
    /// What was read and not yet written stays in the relay, and a later call goes on with it.
    pub fn poll(&mut self, cx: &mut Context<'_>, card: &Card, mut on_error: impl FnMut([u8; 5])) -> Poll<Outcome> {
        if !self.server_is_deaf {
            let terminated = &mut self.client_terminated;
            let framing = &mut self.framing;
            let up = self.up.poll(cx, &mut self.client, &mut self.server, |portion| {
                card.add_to_server(portion.length());
                // the last bytes of a burst are always read
                *terminated = matches!(portion, Portion::Read(bytes) if bytes.ends_with(TERMINATE));
                let Some(framing) = framing else { return Onward::More };
                // said while nothing else was under way it is no accident: the server will close, and be the first to,
                // so that the port which lingers in TIME_WAIT is its own and none of ours
                let is_farewell = framing.resting().is_some() && matches!(portion, Portion::Read(TERMINATE));
                framing.asked();
                if is_farewell { Onward::Over } else { Onward::More }
            });
            match up {
                Poll::Ready(Err(PumpError::Read(error))) => return Poll::Ready(Outcome::ClientFailed(error)),
                Poll::Ready(Err(PumpError::Write(_))) => self.server_is_deaf = true,
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        let framing = &mut self.framing;
        let newest_error = &mut self.newest_error;
        let down = self.down.poll(cx, &mut self.server, &mut self.client, |portion| {
            card.add_to_client(portion.length());
            if let Some(framing) = framing {
                match portion {
                    Portion::Read(bytes) => framing.follow(bytes),
                    Portion::Spliced(_) => {
                        framing.lose();
                        *newest_error = None;
                    }
                }
                if let Some(code) = framing.take_error() {
                    *newest_error = Some(code);
                    on_error(code);
                } else if framing.resting().is_some() {
                    *newest_error = None;
                }
            }
            Onward::More
        });
        if down.is_pending()
            && self.down.is_empty()
            && let Some(framing) = &mut self.framing
        {
            framing.comes_to_rest();
        }
        match down {
            Poll::Ready(Ok(())) if self.client_terminated || self.up.is_done() => Poll::Ready(Outcome::ClientClosed),
            Poll::Ready(Ok(())) => Poll::Ready(Outcome::ServerClosed(self.newest_error)),
            Poll::Ready(Err(PumpError::Read(error))) => Poll::Ready(self.server_gone(error)),
            Poll::Ready(Err(PumpError::Write(error))) => Poll::Ready(Outcome::ClientFailed(error)),
            Poll::Pending if self.is_draining && self.rests_outside_a_transaction() => Poll::Ready(Outcome::Drained),
            Poll::Pending => Poll::Pending,
        }
    }

    /// A server that breaks off after the client's farewell, as one does that is in a hurry, has not failed.
    fn server_gone(&self, error: io::Error) -> Outcome {
        match self.newest_error {
            _ if self.client_terminated || self.up.has_read_all() => Outcome::ClientClosed,
            Some(code) => Outcome::ServerClosed(Some(code)),
            None => Outcome::ServerFailed(error),
        }
    }

    fn rests_outside_a_transaction(&self) -> bool {
        let idle = self.framing.as_ref().and_then(Framing::resting) == Some(Transaction::Idle);
        idle && self.up.is_empty() && self.down.is_empty()
    }

    /// Whether a message of our own may be put behind what the client has been sent.
    pub fn can_speak(&self) -> bool {
        self.down.is_empty() && self.framing.as_ref().is_some_and(Framing::is_at_boundary)
    }

    /// The client's connection, for last words.
    pub fn client(&mut self) -> &mut Stream {
        &mut self.client
    }

    /// After the server has closed: passes the close on, and lets the client finish what it is sending.
    pub async fn finish_for_client(&mut self) {
        if self.client.shutdown().await.is_ok() && !self.server_is_deaf {
            let rest = poll_fn(|cx| self.up.poll(cx, &mut self.client, &mut self.server, |_| Onward::More));
            // whichever side breaks now, the session is over all the same
            let _ = timeout(LINGER, rest).await;
        }
    }
}
