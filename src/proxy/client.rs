//! The client's side of a session before the relay: its opening packets, and how it is told that it cannot be served.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::end::End;
use crate::config::Listener;
use crate::net::{Peer, Stream};
use crate::protocol::opening::{self, Opening, Progress};
use crate::protocol::{Fatal, application_name};

/// Answers to a request for encryption, from PostgreSQL's "Message Flow".
const REFUSED: u8 = b'N';

/// Requests for encryption that one client may make before it says who it is: SSL and GSSAPI, once each.
const NEGOTIATIONS_MAX: usize = 2;

/// How long a refused client gets to read why, before the connection is closed under it.
const FAREWELL: Duration = Duration::from_secs(2);

/// A client that has said what it wants, and is not served yet.
#[derive(Debug)]
pub struct Client {
    peer: Peer,
    stream: Stream,
    /// Bytes received and not yet handed on; begins with the present opening packet.
    inbox: BytesMut,
    opening: Opening,
    opening_length: usize,
}

impl Client {
    /// Reads a connection's first packet. Ends within `patience`.
    pub async fn meet(peer: Peer, stream: Stream, patience: Duration) -> Result<Client, (Box<Client>, End)> {
        let unsaid = Opening::DirectTls;
        let mut client = Client { peer, stream, inbox: BytesMut::new(), opening: unsaid, opening_length: 0 };
        match client.read_opening(patience).await {
            Ok(()) => Ok(client),
            Err(end) => Err((Box::new(client), end)),
        }
    }

    /// Holds the present opening packet against the listener's lists of users and databases, and puts the client's
    /// address behind its name where the listener is told to. To be called once for each packet that was read.
    pub fn take_in(&mut self, listener: &Listener) -> Result<(), End> {
        match &self.opening {
            Opening::Startup(who) => listener.access.admit(who)?,
            Opening::DirectTls if listener.access.asks_for_names() => return Err(End::NamesHidden),
            _ => return Ok(()),
        }
        if listener.application_name_add_host
            && let Some(packet) = application_name::add_host(self.opening_packet(), &self.peer.to_string())
        {
            let behind = self.inbox.split_off(self.opening_length);
            self.opening_length = packet.len();
            self.inbox = BytesMut::from(&packet[..]);
            self.inbox.unsplit(behind);
        }
        Ok(())
    }

    /// What the client asks for.
    pub fn opening(&self) -> &Opening {
        &self.opening
    }

    /// The present opening packet, as the client sent it. For TLS without asking: all that has come so far.
    pub fn opening_packet(&self) -> &[u8] {
        match self.opening {
            Opening::DirectTls => &self.inbox,
            _ => &self.inbox[..self.opening_length],
        }
    }

    /// The client's connection.
    pub fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// Hands over the connection, and what the client has sent beyond its opening packet.
    pub fn into_parts(mut self) -> (Stream, BytesMut) {
        self.inbox.advance(self.opening_packet().len());
        if self.inbox.is_empty() {
            self.inbox = BytesMut::new(); // gives the memory back
        }
        (self.stream, self.inbox)
    }

    /// Passes on the answer to the present request for encryption, and reads the next packet if it was refused.
    pub async fn answer_negotiation(&mut self, answer: u8, patience: Duration) -> Result<(), End> {
        self.inbox.advance(self.opening_length);
        self.opening_length = 0;
        self.stream.write_all(&[answer]).await.map_err(End::ClientFailed)?;
        if answer == REFUSED { self.read_opening(patience).await } else { Ok(()) }
    }

    async fn read_opening(&mut self, patience: Duration) -> Result<(), End> {
        let whole_packet = async {
            loop {
                match opening::read(&self.inbox).map_err(End::NotPostgres)? {
                    Progress::Complete { opening, length } => return Ok((opening, length)),
                    Progress::Incomplete => self.inbox.reserve(512),
                }
                match self.stream.read_buf(&mut self.inbox).await {
                    Ok(0) => return Err(End::ClientLeftEarly),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(End::ClientLeftEarly),
                    Err(error) => return Err(End::ClientFailed(error)),
                }
            }
        };
        let read = timeout(patience, whole_packet).await;
        (self.opening, self.opening_length) = read.unwrap_or(Err(End::OpeningTimedOut))?;
        Ok(())
    }

    /// Waits until the client hangs up. Never returns if it sends something instead. Cancel safe.
    pub async fn hangs_up(&self) {
        self.stream.socket().hangs_up().await;
    }

    /// Tells the client that it cannot be served, in the form in which it can hear it: requests for encryption are
    /// refused first, until it says who it is.
    ///
    /// A client that speaks TLS without asking cannot be told. Ends within a few seconds.
    pub async fn refuse(mut self, fatal: &Fatal) {
        for _ in 0..NEGOTIATIONS_MAX {
            if !matches!(self.opening, Opening::Ssl | Opening::Gss) {
                break;
            }
            if self.answer_negotiation(REFUSED, FAREWELL).await.is_err() {
                return;
            }
        }
        if matches!(self.opening, Opening::Startup(_)) || self.opening_length == 0 && self.inbox.first() != Some(&0x16)
        {
            farewell(&mut self.stream, &fatal.encode()).await;
        }
    }
}

/// Sends last words and waits a moment for the client to take them in: closing with unread bytes in the socket
/// would make the kernel reset the connection, and the words be lost.
pub async fn farewell(stream: &mut Stream, words: &[u8]) {
    let said = async {
        stream.write_all(words).await?;
        stream.shutdown().await?;
        let mut sink = [0; 256];
        while stream.read(&mut sink).await? > 0 {}
        io::Result::Ok(())
    };
    // the client's going away first is no news
    let _ = timeout(FAREWELL, said).await;
}
