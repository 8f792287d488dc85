//! The client's side of a connection before the relay: reads its first packets, negotiates TLS where that ends at pgvane,
//! and sends the client the reason if it gets no session.

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
use crate::protocol::startup::{Replication, StartupParameters};
use crate::protocol::{CancelKey, Fatal, application_name};
use crate::proxy::end::End;
use crate::tls::Acceptor;

/// Answers to a request for encryption (PostgreSQL's documentation, "Message Flow", "SSL Session Encryption").
const REFUSED: u8 = b'N';
const AGREED: u8 = b'S';

/// Requests for encryption that a client may send before its startup packet: SSL and GSSAPI, once each.
const NEGOTIATIONS_MAX: usize = 2;

/// How long a client may take to read its last message before the connection is closed.
const LAST_MESSAGE_MAX: Duration = Duration::from_secs(2);

/// What a connection asks for. The client is in a box, because it goes through many hands on its way to a session.
#[derive(Debug)]
pub enum Request {
    /// A session.
    Session(Box<Client>),
    /// The cancellation of another session's query; with the connection, which the client waits to be closed once the
    /// request is delivered.
    Cancel(CancelRequest, Box<Client>),
}

/// A cancel request.
#[derive(Debug)]
pub struct CancelRequest {
    /// Names the session.
    pub key: CancelKey,
    /// The packet, as the client sent it.
    pub packet: Vec<u8>,
}

/// Why no request could be read.
#[derive(Debug)]
pub struct HandshakeError {
    /// The client, if it can still get an error message.
    pub client: Option<Box<Client>>,
    /// The reason.
    pub end: End,
}

impl From<End> for HandshakeError {
    /// The client gets no error message.
    fn from(end: End) -> HandshakeError {
        HandshakeError { client: None, end }
    }
}

/// A client that asks for a session and has none yet.
#[derive(Debug)]
pub struct Client {
    peer: Peer,
    stream: Stream,
    /// Bytes received and not yet forwarded; starts with the present packet.
    inbox: BytesMut,
    opening: SessionOpening,
    opening_length: usize,
    /// The certificate that the client was shown, if TLS ends at pgvane.
    acceptor: Option<Arc<Acceptor>>,
    /// The first authentication request that it was sent.
    authentication: Option<Authentication>,
    /// It has been told that TLS begins, and no node has agreed to that yet.
    expects_tls: bool,
}

/// A node's first authentication request, and the client's answer if it has sent one. Another node that sends the same
/// request can be sent the same answer.
#[derive(Debug, Clone)]
pub struct Authentication {
    /// The message as the client was sent it.
    pub request: BytesMut,
    /// The client's answer.
    pub answer: Option<BytesMut>,
}

/// What a client's present packet asks for, where it is not a cancel request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionOpening {
    /// No packet has been read.
    Unread,
    /// A session.
    Startup(StartupParameters),
    /// TLS (`SSLRequest`).
    Ssl,
    /// GSSAPI encryption (`GSSENCRequest`).
    Gss,
    /// TLS without asking first (`sslnegotiation=direct`, PostgreSQL 17).
    DirectTls,
}

/// What follows a packet where pgvane itself negotiates encryption.
enum Step {
    /// The client has asked for a session.
    Done,
    Refuse,
    Handshake(Arc<Acceptor>),
}

impl Request {
    /// Reads a connection's first packet, and negotiates encryption where TLS ends at pgvane. Ends by `deadline`.
    pub async fn read(
        peer: Peer,
        socket: Socket,
        encryption: &Encryption,
        deadline: Instant,
    ) -> Result<Request, HandshakeError> {
        let mut client = Box::new(Client::new(peer, socket.into(), None));
        let offer = encryption.offer();
        if matches!(offer, Offer::PassOn) {
            return match timeout_at(deadline, client.read_opening()).await {
                Ok(Ok(None)) => Ok(Request::Session(client)),
                Ok(Ok(Some(cancel))) => Ok(Request::Cancel(cancel, client)),
                Ok(Err(end)) => Err(HandshakeError { client: Some(client), end }),
                Err(_) => Err(HandshakeError { client: Some(client), end: End::StartupTimedOut }),
            };
        }
        let negotiated = timeout_at(deadline, Box::pin(client.negotiate(encryption, offer))).await;
        negotiated.unwrap_or(Err(End::StartupTimedOut.into()))
    }
}

impl Client {
    fn new(peer: Peer, stream: Stream, acceptor: Option<Arc<Acceptor>>) -> Client {
        Client {
            peer,
            stream,
            inbox: BytesMut::new(),
            opening: SessionOpening::Unread,
            opening_length: 0,
            acceptor,
            authentication: None,
            expects_tls: false,
        }
    }

    async fn negotiate(mut self: Box<Self>, encryption: &Encryption, offer: Offer) -> Result<Request, HandshakeError> {
        let mut refusals = 0;
        loop {
            let step = match self.read_opening().await {
                Ok(Some(cancel)) => return Ok(Request::Cancel(cancel, self)),
                Ok(None) => self.step(&offer, encryption.is_required(), refusals),
                Err(end) => Err(end),
            };
            match step {
                Ok(Step::Done) => return Ok(Request::Session(self)),
                Ok(Step::Refuse) => {
                    refusals += 1;
                    self.answer(REFUSED).await?;
                }
                Ok(Step::Handshake(acceptor)) => self = self.accept_tls(acceptor, encryption).await?,
                Err(end) => return Err(HandshakeError { client: Some(self), end }),
            }
        }
    }

    fn step(&self, offer: &Offer, is_required: bool, refusals: usize) -> Result<Step, End> {
        let is_encrypted = self.stream.is_encrypted();
        match (&self.opening, offer) {
            (SessionOpening::Unread, _) | (_, Offer::PassOn) => Ok(Step::Done),
            (SessionOpening::Startup(_), _) if is_required && !is_encrypted => Err(End::TlsRequired),
            (SessionOpening::Startup(_), _) => Ok(Step::Done),
            (SessionOpening::Ssl | SessionOpening::Gss, _) if is_encrypted || refusals == NEGOTIATIONS_MAX => {
                Err(End::NotPostgres(NotPostgres::AskedAgain))
            }
            (SessionOpening::DirectTls, _) if is_encrypted || refusals > 0 => {
                Err(End::NotPostgres(NotPostgres::AskedAgain))
            }
            (SessionOpening::DirectTls, Offer::Refuse) => {
                Err(End::TlsFailed(io::Error::other("this listener has no TLS")))
            }
            (SessionOpening::Gss, _) | (SessionOpening::Ssl, Offer::Refuse) => Ok(Step::Refuse),
            // an attacker between client and pgvane could have added these bytes (CVE-2021-23214)
            (SessionOpening::Ssl, Offer::Accept(_)) if self.inbox.len() > self.opening_length => {
                Err(End::NotPostgres(NotPostgres::DataBeforeTls))
            }
            (SessionOpening::Ssl | SessionOpening::DirectTls, Offer::Accept(acceptor)) => {
                Ok(Step::Handshake(Arc::clone(acceptor)))
            }
        }
    }

    async fn accept_tls(
        mut self: Box<Self>,
        acceptor: Arc<Acceptor>,
        encryption: &Encryption,
    ) -> Result<Box<Self>, End> {
        let is_direct = self.opening == SessionOpening::DirectTls;
        if !is_direct {
            self.answer(AGREED).await?;
        }
        let Stream::Plain(socket) = self.stream else { return Err(End::NotPostgres(NotPostgres::AskedAgain)) };
        let accepted = acceptor.accept(socket, &self.inbox).await.map_err(End::TlsFailed)?;
        if is_direct && !accepted.names_postgresql() {
            let why = "direct TLS without the ALPN protocol \"postgresql\"";
            return Err(End::TlsFailed(io::Error::other(why)));
        }
        encryption.count_handshake(accepted.version);
        Ok(Box::new(Client::new(self.peer, accepted.stream.into(), Some(acceptor))))
    }

    /// Whether the client, whose TLS ends at pgvane, was shown the same certificate that `server` has shown to pgvane.
    pub fn has_seen_certificate_of(&self, server: &Stream) -> bool {
        self.acceptor.as_ref().is_some_and(|acceptor| acceptor.certificate().is_that_of(server))
    }

    /// Checks the present packet's user and database against the listener's allow-lists, and adds the client's address to
    /// its `application_name` where the listener is configured so. To be called once for each packet that was read.
    pub fn check_access(&mut self, listener: &Listener) -> Result<(), End> {
        let parameters = match &self.opening {
            SessionOpening::Startup(parameters) => parameters,
            SessionOpening::DirectTls if listener.access.restricts_names() => return Err(End::NamesHidden),
            _ => return Ok(()),
        };
        listener.access.check_names(parameters)?;
        // synchronous_standby_names lists replicas and subscribers by this name
        let may_be_renamed = parameters.replication == Replication::None;
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

    /// The address that it connects from.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// What the client's present packet asks for.
    pub fn opening(&self) -> &SessionOpening {
        &self.opening
    }

    /// The user, database and application of the startup packet, where it was not encrypted. To be called once.
    pub fn take_parameters(&mut self) -> StartupParameters {
        match &mut self.opening {
            SessionOpening::Startup(parameters) => mem::take(parameters),
            _ => StartupParameters::default(),
        }
    }

    /// The present packet, as the client sent it. For direct TLS: all bytes received so far.
    pub fn opening_packet(&self) -> &[u8] {
        match self.opening {
            SessionOpening::DirectTls => &self.inbox,
            _ => &self.inbox[..self.opening_length],
        }
    }

    /// The first authentication request that it was sent, if there was one.
    pub fn authentication(&self) -> Option<&Authentication> {
        self.authentication.as_ref()
    }

    /// Notes the first authentication request.
    pub fn note_authentication_request(&mut self, request: &[u8]) {
        self.authentication = Some(Authentication { request: BytesMut::from(request), answer: None });
    }

    /// Notes its answer to the first authentication request.
    pub fn note_authentication_answer(&mut self, message: &[u8]) {
        if let Some(authentication) = &mut self.authentication {
            authentication.answer.get_or_insert_with(|| BytesMut::from(message));
        }
    }

    /// The client's connection.
    pub fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// The connection, and what the client has sent after its present packet.
    pub fn into_parts(mut self) -> (Stream, BytesMut) {
        self.inbox.advance(self.opening_packet().len());
        if self.inbox.is_empty() {
            self.inbox = BytesMut::new(); // gives the memory back
        }
        (self.stream, self.inbox)
    }

    /// Forwards the server's answer to the present request for encryption, and reads the next packet if it was refused.
    ///
    /// Returns the cancel request, if the next packet is one.
    pub async fn answer_negotiation(&mut self, answer: u8, patience: Duration) -> Result<Option<CancelRequest>, End> {
        self.answer(answer).await?;
        if answer != REFUSED {
            return Ok(None);
        }
        timeout(patience, self.read_opening()).await.unwrap_or(Err(End::StartupTimedOut))
    }

    /// Whether it has asked for TLS and waits for the answer.
    pub fn awaits_tls_answer(&self) -> bool {
        // bytes that came with the request are the node's to judge
        self.opening == SessionOpening::Ssl && !self.expects_tls && self.inbox.len() == self.opening_length
    }

    /// Whether it has been told that TLS begins, so that it goes to a node that agrees, or nowhere.
    pub fn expects_tls(&self) -> bool {
        self.expects_tls
    }

    /// Gives the client the answer that a node will probably give. Otherwise like [`Client::answer_negotiation`].
    pub async fn answer_in_advance(&mut self, answer: u8, patience: Duration) -> Result<Option<CancelRequest>, End> {
        if answer == REFUSED {
            return self.answer_negotiation(answer, patience).await;
        }
        // the request stays the present packet: the node is still to be asked
        self.expects_tls = true;
        self.stream.send(&[answer]).await.map_err(End::ClientFailed)?;
        Ok(None)
    }

    async fn answer(&mut self, answer: u8) -> Result<(), End> {
        self.inbox.advance(self.opening_length);
        self.opening_length = 0;
        self.stream.send(&[answer]).await.map_err(End::ClientFailed)
    }

    /// Reads the next packet: into [`Client::opening`], unless it is a cancel request.
    async fn read_opening(&mut self) -> Result<Option<CancelRequest>, End> {
        loop {
            match opening::read(&self.inbox).map_err(End::NotPostgres)? {
                Progress::Complete { opening, length } => {
                    self.opening_length = length;
                    self.opening = match opening {
                        Opening::Cancel(key) => {
                            return Ok(Some(CancelRequest { key, packet: self.inbox[..length].to_vec() }));
                        }
                        Opening::Startup(parameters) => SessionOpening::Startup(parameters),
                        Opening::Ssl => SessionOpening::Ssl,
                        Opening::Gss => SessionOpening::Gss,
                        Opening::DirectTls => SessionOpening::DirectTls,
                    };
                    return Ok(None);
                }
                Progress::Left => return Err(End::ClientLeftEarly),
                Progress::Incomplete => self.inbox.reserve(512),
            }
            match self.stream.read_buf(&mut self.inbox).await {
                Ok(0) => return Err(End::ClientLeftEarly),
                Ok(_) => {}
                Err(error) => return Err(End::early(error)),
            }
        }
    }

    /// Waits until the client closes. Never returns if it sends something instead. Cancel safe.
    pub async fn closed(&mut self) {
        self.stream.closed().await;
    }

    /// Sends the client the reason why it gets no session. libpq shows an error only after it has sent its startup packet, so requests
    /// for encryption are answered with `N` first.
    ///
    /// A client that uses direct TLS, or that has been told that TLS begins, gets no message. Ends within a few seconds.
    pub async fn refuse(mut self, fatal: &Fatal) {
        if self.expects_tls {
            return;
        }
        let is_encrypted = self.stream.is_encrypted(); // then the startup packet is the next one
        for _ in 0..NEGOTIATIONS_MAX {
            if is_encrypted || !matches!(self.opening, SessionOpening::Ssl | SessionOpening::Gss) {
                break;
            }
            let next = self.answer_negotiation(REFUSED, LAST_MESSAGE_MAX).await;
            if !matches!(next, Ok(None)) {
                return;
            }
        }
        let is_none = self.opening_length == 0 && self.inbox.first() != Some(&0x16);
        if is_encrypted || is_none || matches!(self.opening, SessionOpening::Startup(_)) {
            send_last_message(&mut self.stream, &fatal.encode()).await;
        }
    }
}

/// Sends a last message and waits a moment until the client has read it and closed: if pgvane closed a socket with unread
/// bytes in it, the kernel would reset the connection and the message could be lost.
pub async fn send_last_message(stream: &mut Stream, message: &[u8]) {
    let sent = async {
        stream.write_all(message).await?;
        stream.shutdown().await?;
        let mut sink = [0; 256];
        while stream.read(&mut sink).await? > 0 {}
        io::Result::Ok(())
    };
    // a client that closes first does not need it
    let _ = timeout(LAST_MESSAGE_MAX, sent).await;
}
