//! Brings one client to one node: sends its opening there and follows the login until the session is ready.
//!
//! Until the node asks the client to prove who it is, nothing that the node says is shown to the client. A node that
//! turns out to be the wrong one by then can be left without the client's ever knowing of it.

use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout_at};

use crate::config::Listener;
use crate::net::Stream;
use crate::probe::ClusterHandle;
use crate::protocol::framing::Framing;
use crate::protocol::login::{Next, Said, next};
use crate::protocol::sasl::{self, Choice};
use crate::proxy::end::End;
use crate::proxy::intake::handshake::{CancelRequest, Client, SessionOpening};
use crate::proxy::sessions::registry::SessionGuard;
use crate::routing::{Cause, Target};

/// Room for a server's whole welcome, so that one read takes it in.
const STARTUP_RESPONSE_LENGTH: usize = 1000;

/// How a login ended.
pub enum Verdict {
    /// The session is ready, or encrypted and none of our business from here on.
    Ready(Ready),
    /// This node will not do; why. The client has seen nothing of it.
    NotHere(Failure),
    /// It is over, for the client too.
    Over(End),
    /// The client sent a cancel request after its request for encryption was refused.
    Cancel(CancelRequest),
}

/// A session that is ready to be relayed.
pub struct Ready {
    /// Where the server's stream stands; `None` if it is encrypted.
    pub framing: Option<Framing>,
    /// What the server has said and the client has not been told yet.
    pub for_client: BytesMut,
}

/// Why a node will not do.
pub struct Failure {
    /// For the log, and for the client if no other node does.
    pub why: String,
    /// The node's own refusal, which the client is given if no other node does.
    pub server_error: Option<BytesMut>,
    /// Whether this casts doubt on the node's role.
    pub is_suspicious: bool,
}

impl Verdict {
    fn not_here(why: impl Into<String>) -> Verdict {
        Verdict::NotHere(Failure { why: why.into(), server_error: None, is_suspicious: true })
    }
}

/// One login under way.
pub struct Login<'a> {
    /// Whoever wants a session.
    pub client: &'a mut Client,
    /// The node's connection.
    pub server: &'a mut Stream,
    /// The session's place on the node, which learns the cancel key.
    pub guard: &'a mut SessionGuard,
    /// The rules.
    pub listener: &'a Listener,
    /// What is known of the node.
    pub cluster: &'a ClusterHandle,
}

/// What a client's binding of its proof to a certificate would come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Binding {
    /// It reaches the server.
    Possible,
    /// The client, in clear, has seen no certificate: the offer must not reach it.
    Impossible,
    /// The client has seen another certificate: the offer must reach it, and it must not be taken.
    InVain,
}

impl Login<'_> {
    /// Goes through the login. Every wait is bounded, but for those in which PostgreSQL waits for the client's
    /// password: these it bounds itself (`authentication_timeout`).
    pub async fn run(&mut self) -> Verdict {
        loop {
            if let Err(error) = self.server.send(self.client.opening_packet()).await {
                return Verdict::not_here(format!("the connection broke: {error}"));
            }
            self.guard.control().bytes().add_to_server(self.client.opening_packet().len());
            match self.client.opening() {
                SessionOpening::Startup(_) => return self.follow_startup().await,
                SessionOpening::Unread | SessionOpening::DirectTls => return encrypted(),
                SessionOpening::Ssl | SessionOpening::Gss => {
                    if let Some(verdict) = self.negotiate().await {
                        return verdict;
                    }
                }
            }
        }
    }

    /// Passes on the server's answer to a request for encryption. `None` if the client goes on in plain text.
    async fn negotiate(&mut self) -> Option<Verdict> {
        let deadline = Instant::now() + self.listener.login_timeout;
        let answer = tokio::select! {
            answer = timeout_at(deadline, self.server.read_u8()) => match answer {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => return Some(Verdict::not_here(closed_before_answer(&error))),
                Err(_) => return Some(Verdict::not_here("accepts connections and does not answer")),
            },
            () = self.client.closed() => return Some(Verdict::Over(End::ClientLeftEarly)),
        };
        if answer != b'N' && self.listener.access.asks_for_names() {
            return Some(Verdict::Over(End::NamesHidden));
        }
        self.guard.control().bytes().add_to_client(1);
        let answered = self.client.answer_negotiation(answer, self.listener.startup_timeout).await;
        match answered {
            Err(end) => return Some(Verdict::Over(end)),
            Ok(Some(cancel)) => return Some(Verdict::Cancel(cancel)), // for the server that it names, not for this one
            Ok(None) => {}
        }
        match self.client.check_access(self.listener) {
            Err(end) => Some(Verdict::Over(end)),
            Ok(()) if answer == b'N' && *self.client.opening() == SessionOpening::DirectTls => {
                Some(Verdict::Over(End::ClientLeftEarly)) // was refused TLS and speaks it all the same
            }
            Ok(()) if answer == b'N' => None,
            Ok(()) => Some(encrypted()),
        }
    }

    async fn follow_startup(&mut self) -> Verdict {
        let deadline = Instant::now() + self.listener.login_timeout;
        let mut heard = BytesMut::with_capacity(STARTUP_RESPONSE_LENGTH);
        // how much of `heard` is whole messages that may be passed on
        let mut followed = 0;
        loop {
            let read = tokio::select! {
                read = timeout_at(deadline, self.server.read_buf(&mut heard)) => read,
                () = self.client.closed() => return Verdict::Over(End::ClientClosed),
            };
            match read {
                Ok(Ok(0)) => return Verdict::not_here("closed the connection before it answered"),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Verdict::not_here(closed_before_answer(&error)),
                Err(_) => return Verdict::not_here("accepts connections and does not answer"),
            }
            loop {
                let (said, length) = match next(&heard[followed..]) {
                    Next::Message(said, length) => (said, length),
                    Next::Incomplete => break,
                    Next::Unreadable => return unreadable(heard),
                };
                match said {
                    Said::Challenge => return self.follow_proof(heard, followed).await,
                    Said::InHotStandby(in_recovery) => {
                        if let Some(cause) = self.why_wrong(in_recovery) {
                            return Verdict::not_here(format!("answers at login that {}", cause.reason()));
                        }
                    }
                    Said::Error(code) if self.can_be_made_good(code) => {
                        let server_error = Some(heard.split_off(followed));
                        let code = String::from_utf8_lossy(&code);
                        return Verdict::NotHere(Failure {
                            why: format!("refuses new sessions with SQLSTATE {code}"),
                            server_error,
                            is_suspicious: code == "57P03",
                        });
                    }
                    Said::Ready | Said::Error(_) => return ready(Framing::default(), heard),
                    Said::Key(key) => self.guard.learn_key(key),
                    Said::LetIn | Said::Other => {}
                }
                followed += length;
            }
        }
    }

    /// The server wants proof of who the client is: from here on the client hears everything, at once.
    async fn follow_proof(&mut self, mut heard: BytesMut, mut followed: usize) -> Verdict {
        let mut to_server = BytesMut::new();
        let mut framing = Framing::default();
        let mut must_not_bind = false;
        loop {
            loop {
                let (said, mut length) = match next(&heard[followed..]) {
                    Next::Message(said, length) => (said, length),
                    Next::Incomplete => break,
                    Next::Unreadable => return unreadable(heard),
                };
                match said {
                    Said::InHotStandby(in_recovery) => {
                        if let Some(cause) = self.why_wrong(in_recovery) {
                            heard.truncate(followed);
                            return match self.client.stream().send(&heard).await {
                                Ok(()) => Verdict::Over(End::WrongNode(cause)),
                                Err(error) => Verdict::Over(End::ClientFailed(error)),
                            };
                        }
                    }
                    Said::Ready | Said::Error(_) => return ready(framing, heard),
                    Said::Key(key) => self.guard.learn_key(key),
                    Said::Challenge => {
                        match (self.binding(), sasl::without_plus(&heard[followed..followed + length])) {
                            (Binding::Impossible, Some(without)) => {
                                let behind = heard.split_off(followed + length);
                                heard.truncate(followed);
                                heard.extend_from_slice(&without);
                                heard.unsplit(behind);
                                length = without.len();
                            }
                            (Binding::InVain, Some(_)) => must_not_bind = true,
                            _ => {}
                        }
                    }
                    _ => {}
                }
                followed += length;
            }
            if let Err(error) = self.client.stream().send(&heard[..followed]).await {
                return Verdict::Over(End::ClientFailed(error));
            }
            self.guard.control().bytes().add_to_client(followed);
            heard.advance(followed);
            followed = 0;
            tokio::select! {
                read = self.server.read_buf(&mut heard) => match read {
                    Ok(0) => return Verdict::Over(End::ServerClosed(None)),
                    Ok(_) => {}
                    Err(error) => return Verdict::Over(End::ServerFailed(error)),
                },
                read = self.client.stream().read_buf(&mut to_server) => match read {
                    Ok(0) => return Verdict::Over(End::ClientClosed),
                    Ok(_) => {
                        if must_not_bind {
                            match sasl::choice(&to_server) {
                                Choice::Incomplete => continue,
                                Choice::Plus => return Verdict::Over(End::ChannelBinding),
                                Choice::Other => must_not_bind = false,
                            }
                        }
                        if let Err(error) = self.server.send(&to_server).await {
                            return Verdict::Over(End::ServerFailed(error));
                        }
                        self.guard.control().bytes().add_to_server(to_server.len());
                        framing.ask(&to_server); // a client may have asked something already
                        to_server.clear();
                    }
                    Err(error) => return Verdict::Over(End::ClientFailed(error)),
                },
            }
        }
    }

    /// Why a node that says this will not do, if so. Its word counts for this session alone; where it is not what was
    /// believed, the node is checked.
    fn why_wrong(&self, in_recovery: bool) -> Option<Cause> {
        let believed = self.cluster.topology().node(self.guard.node()).believed_in_recovery();
        if believed.is_some_and(|believed| believed != in_recovery) {
            self.cluster.suspect(self.guard.node());
        }
        self.listener.rule.why_wrong(in_recovery)
    }

    /// What would become of a client's choice to bind its proof to the server's certificate (SCRAM-SHA-256-PLUS), which
    /// an encrypted server offers.
    fn binding(&mut self) -> Binding {
        match (self.client.stream().is_encrypted(), self.server.is_encrypted()) {
            (_, false) => Binding::Possible, // but not offered
            // libpq takes the offer to a connection in clear for an attack
            (false, true) => Binding::Impossible,
            (true, true) if self.client.has_seen_certificate_of(self.server) => Binding::Possible,
            // without the offer the client would say that it could have bound, and the server take that for an attack
            (true, true) => Binding::InVain,
        }
    }

    fn leads_to_leader(&self) -> bool {
        self.listener.rule.target == Target::Leader
    }

    /// Whether another node, or the same one later, may take the session that this one refuses: it starts up or
    /// shuts down, or, where there are others, has no connection left.
    fn can_be_made_good(&self, code: [u8; 5]) -> bool {
        match &code {
            b"57P03" => true,
            b"53300" => !self.leads_to_leader(),
            _ => false,
        }
    }
}

fn closed_before_answer(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "closed the connection before it answered".to_owned(),
        _ => format!("broke the connection before it answered: {error}"),
    }
}

fn encrypted() -> Verdict {
    Verdict::Ready(Ready { framing: None, for_client: BytesMut::new() })
}

/// What the server says is not the protocol as we know it: passed on unread, as an encrypted session would be.
fn unreadable(heard: BytesMut) -> Verdict {
    Verdict::Ready(Ready { framing: None, for_client: heard })
}

/// The login has ended within what was `heard` last, which begins with a message; what follows belongs to the session.
fn ready(mut framing: Framing, heard: BytesMut) -> Verdict {
    framing.follow(&heard);
    Verdict::Ready(Ready { framing: Some(framing), for_client: heard })
}
