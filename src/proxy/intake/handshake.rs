//! The client's side of a session before the relay: its opening packets, and how it is told that it cannot be served.

use std::io;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use super::tls::{Encryption, Offer};
use crate::config::Listener;
use crate::net::{Peer, Socket, Stream};
use crate::protocol::opening::{self, NotPostgres, Opening, Progress};
use crate::protocol::startup::{Replication, Who};
use crate::protocol::{Fatal, application_name};
use crate::proxy::end::End;
use crate::tls::Acceptor;

/// Answers to a request for encryption, from PostgreSQL's "Message Flow".
const REFUSED: u8 = b'N';
const AGREED: u8 = b'S';

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
    /// Whose certificate it has been shown, if that was ours.
    acceptor: Option<Arc<Acceptor>>,
}

/// What an opening packet calls for where pgvane itself agrees on encryption.
enum Step {
    /// The client has said what it wants.
    Go,
    Refuse,
    ShakeHands(Arc<Acceptor>),
}

impl Client {
    /// Reads a connection's first packet, and agrees on encryption where that is ours to do: such a client asks for a
    /// session or for a cancel. Ends by `deadline`.
    ///
    /// The error has the client if it can still be told.
    pub async fn meet(
        peer: Peer,
        socket: Socket,
        encryption: &Encryption,
        deadline: Instant,
    ) -> Result<Client, (Option<Box<Client>>, End)> {
        let mut client = Client::of(peer, socket.into(), None);
        let offer = encryption.offer();
        if matches!(offer, Offer::PassOn) {
            let read = timeout_at(deadline, client.read_opening()).await.unwrap_or(Err(End::OpeningTimedOut));
            return match read {
                Ok(()) => Ok(client),
                Err(end) => Err((Some(Box::new(client)), end)),
            };
        }
        let agreed = timeout_at(deadline, Box::pin(client.agree(encryption, offer))).await;
        agreed.unwrap_or(Err((None, End::OpeningTimedOut)))
    }

    fn of(peer: Peer, stream: Stream, acceptor: Option<Arc<Acceptor>>) -> Client {
        let unsaid = Opening::DirectTls;
        Client { peer, stream, inbox: BytesMut::new(), opening: unsaid, opening_length: 0, acceptor }
    }

    async fn agree(mut self, encryption: &Encryption, offer: Offer) -> Result<Client, (Option<Box<Client>>, End)> {
        let mut refusals = 0;
        loop {
            let read = self.read_opening().await;
            match read.and_then(|()| self.step(&offer, encryption.is_required(), refusals)) {
                Ok(Step::Go) => return Ok(self),
                Ok(Step::Refuse) => {
                    refusals += 1;
                    self.answer(REFUSED).await.map_err(|end| (None, end))?;
                }
                Ok(Step::ShakeHands(acceptor)) => {
                    let shaken = self.shake_hands(acceptor, encryption).await;
                    self = shaken.map_err(|end| (None, end))?;
                }
                Err(end) => return Err((Some(Box::new(self)), end)),
            }
        }
    }

    fn step(&self, offer: &Offer, is_required: bool, refusals: usize) -> Result<Step, End> {
        let is_encrypted = self.stream.is_encrypted();
        match (&self.opening, offer) {
            (_, Offer::PassOn) | (Opening::Cancel(_), _) => Ok(Step::Go),
            (Opening::Startup(_), _) if is_required && !is_encrypted => Err(End::TlsRequired),
            (Opening::Startup(_), _) => Ok(Step::Go),
            (Opening::Ssl | Opening::Gss, _) if is_encrypted || refusals == NEGOTIATIONS_MAX => {
                Err(End::NotPostgres(NotPostgres::AskedAgain))
            }
            (Opening::DirectTls, _) if is_encrypted || refusals > 0 => Err(End::NotPostgres(NotPostgres::AskedAgain)),
            (Opening::DirectTls, Offer::Refuse) => Err(End::TlsFailed(io::Error::other("this listener has no TLS"))),
            (Opening::Gss, _) | (Opening::Ssl, Offer::Refuse) => Ok(Step::Refuse),
            // whoever is in between could have put it there (CVE-2021-23214)
            (Opening::Ssl, Offer::Accept(_)) if self.inbox.len() > self.opening_length => {
                Err(End::NotPostgres(NotPostgres::DataBeforeTls))
            }
            (Opening::Ssl | Opening::DirectTls, Offer::Accept(acceptor)) => Ok(Step::ShakeHands(Arc::clone(acceptor))),
        }
    }

    async fn shake_hands(mut self, acceptor: Arc<Acceptor>, encryption: &Encryption) -> Result<Client, End> {
        let is_direct = self.opening == Opening::DirectTls;
        if !is_direct {
            self.answer(AGREED).await?;
        }
        let Stream::Plain(socket) = self.stream else { return Err(End::NotPostgres(NotPostgres::AskedAgain)) };
        let accepted = acceptor.accept(socket, &self.inbox).await.map_err(End::TlsFailed)?;
        if is_direct && !accepted.names_postgresql() {
            let why = "it was begun without asking and PostgreSQL's protocol not named in it (ALPN)";
            return Err(End::TlsFailed(io::Error::other(why)));
        }
        encryption.count_handshake(accepted.version);
        Ok(Client::of(self.peer, accepted.stream.into(), Some(acceptor)))
    }

    /// Whether the client, which speaks TLS with us, has been shown the certificate that `server` has shown us.
    pub fn has_seen_certificate_of(&self, server: &Stream) -> bool {
        self.acceptor.as_ref().is_some_and(|acceptor| acceptor.certificate().is_that_of(server))
    }

    /// Holds the present opening packet against the listener's lists of users and databases, and puts the client's
    /// address behind its name where the listener is told to. To be called once for each packet that was read.
    pub fn take_in(&mut self, listener: &Listener) -> Result<(), End> {
        let who = match &self.opening {
            Opening::Startup(who) => who,
            Opening::DirectTls if listener.access.asks_for_names() => return Err(End::NamesHidden),
            _ => return Ok(()),
        };
        listener.access.admit(who)?;
        // synchronous_standby_names knows replicas and subscribers by this name
        let may_be_renamed = who.replication == Replication::None;
        if listener.application_name_add_host
            && may_be_renamed
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

    /// Who asks for a session, as far as that was said in clear. To be called once.
    pub fn take_who(&mut self) -> Who {
        match &mut self.opening {
            Opening::Startup(who) => mem::take(who),
            _ => Who::default(),
        }
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
        self.answer(answer).await?;
        if answer != REFUSED {
            return Ok(());
        }
        timeout(patience, self.read_opening()).await.unwrap_or(Err(End::OpeningTimedOut))
    }

    async fn answer(&mut self, answer: u8) -> Result<(), End> {
        self.inbox.advance(self.opening_length);
        self.opening_length = 0;
        self.stream.send(&[answer]).await.map_err(End::ClientFailed)
    }

    async fn read_opening(&mut self) -> Result<(), End> {
        loop {
            match opening::read(&self.inbox).map_err(End::NotPostgres)? {
                Progress::Complete { opening, length } => {
                    (self.opening, self.opening_length) = (opening, length);
                    return Ok(());
                }
                Progress::Incomplete => self.inbox.reserve(512),
            }
            match self.stream.read_buf(&mut self.inbox).await {
                Ok(0) => return Err(End::ClientLeftEarly),
                Ok(_) => {}
                Err(error) => return Err(End::early(error)),
            }
        }
    }

    /// Waits until the client hangs up. Never returns if it sends something instead. Cancel safe.
    pub async fn closed(&mut self) {
        self.stream.closed().await;
    }

    /// Tells the client that it cannot be served, in the form in which it can hear it: requests for encryption are
    /// refused first, until it says who it is.
    ///
    /// A client that speaks TLS without asking cannot be told. Ends within a few seconds.
    pub async fn refuse(mut self, fatal: &Fatal) {
        let is_encrypted = self.stream.is_encrypted(); // then there is nothing to be refused first
        for _ in 0..NEGOTIATIONS_MAX {
            if is_encrypted || !matches!(self.opening, Opening::Ssl | Opening::Gss) {
                break;
            }
            if self.answer_negotiation(REFUSED, FAREWELL).await.is_err() {
                return;
            }
        }
        let is_none = self.opening_length == 0 && self.inbox.first() != Some(&0x16);
        if is_encrypted || is_none || matches!(self.opening, Opening::Startup(_)) {
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
