//! Logs one client in to one node: sends its startup packet there and follows the login until the session is ready.
//!
//! Until the node asks the client to authenticate, the client gets nothing that the node sends, and the login can
//! continue at another node without the client noticing. The same holds after the first such request, as long as the
//! other node sends the same request: the client's first answer to `AuthenticationSASL`, and a plain password, fit any
//! node of the cluster. What a node sends after that answer belongs to this node alone.

mod authentication;
mod role;

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout_at};

use super::failure::{NodeFailure, Reachability};
use crate::cluster::Suspicion;
use crate::config::Listener;
use crate::net::Stream;
use crate::probe::ClusterHandle;
use crate::protocol::ServerError;
use crate::protocol::framing::Framing;
use crate::protocol::login::{Next, ServerMessage, is_whole_message, next};
use crate::protocol::sasl::{self, Choice};
use crate::protocol::scram_exchange::Exchange;
use crate::proxy::end::End;
use crate::proxy::intake::handshake::{CancelRequest, Client, SessionOpening};
use crate::proxy::intake::tls_answers::TlsAnswers;
use crate::proxy::metrics::ListenerMetrics;
use crate::proxy::sessions::control::SessionOrder;
use crate::proxy::sessions::guard::SessionGuard;
use crate::proxy::sessions::openings::Opening;

/// Room for a server's usual startup response, so that one read is enough.
const STARTUP_RESPONSE_LENGTH: usize = 1000;

/// The maximum that a server may send before the session is ready, in bytes: many times what any server sends.
const STARTUP_RESPONSE_LENGTH_MAX: usize = 1024 * 1024;

/// The longest message of a client during its login (`PG_MAX_AUTH_TOKEN_LENGTH` of PostgreSQL's `libpq/auth.h`).
const CLIENT_MESSAGE_LENGTH_MAX: usize = 65_535 + 5;

/// The minimum time that a server gets to check a client's password: PostgreSQL itself ends a login after a minute
/// (`authentication_timeout`), and may have to ask an LDAP or RADIUS server.
const AUTHENTICATION_TIMEOUT: Duration = Duration::from_secs(60);

/// How a login ended.
pub enum LoginOutcome {
    /// The session is ready, or it is encrypted and nothing more of it can be seen.
    Ready(Ready),
    /// This node cannot take the session; another node may. The client has not noticed.
    TryElsewhere(NodeFailure),
    /// The connection ends.
    End(End),
    /// The client sent a cancel request after its request for encryption was refused.
    Cancel(CancelRequest),
}

/// A session that is ready to be relayed.
pub struct Ready {
    /// The state of the server's stream; `None` if it is encrypted.
    pub framing: Option<Framing>,
    /// Bytes of the server that the client has not been sent yet.
    pub for_client: BytesMut,
}

impl From<NodeFailure> for LoginOutcome {
    fn from(failure: NodeFailure) -> LoginOutcome {
        LoginOutcome::TryElsewhere(failure)
    }
}

/// One login.
pub struct Login<'a> {
    /// The client.
    pub client: &'a mut Client,
    /// The connection to the node.
    pub server: &'a mut Stream,
    /// The session's registration on the node, which gets the cancel key and receives orders.
    pub guard: &'a mut SessionGuard,
    /// The listener's settings.
    pub listener: &'a Listener,
    /// What is known of the node.
    pub cluster: &'a ClusterHandle,
    /// The listener's counters.
    pub metrics: &'a ListenerMetrics,
    /// What the nodes answer when a client asks for TLS.
    pub tls_answers: &'a TlsAnswers,
    /// How long the node may take for its first answer.
    pub answer_timeout: Duration,
}

/// The state of a login that is being followed.
struct Following {
    /// What the server has sent and the client has not been sent.
    received: BytesMut,
    /// How many of these bytes are whole messages that have been examined.
    examined: usize,
    /// What the client has sent and the server has not been sent.
    for_server: BytesMut,
    framing: Framing,
    /// How many messages of the client this node has been sent.
    answers_sent: usize,
    /// The client has been sent something that belongs to this node alone.
    is_bound_to_node: bool,
    /// The client's next message chooses a mechanism, and must not choose channel binding.
    must_not_bind: bool,
    /// When the server must have answered; `None` while it waits for the client.
    answer_due: Option<Instant>,
    /// How the server authenticates the client, if the session may be carried to another server later.
    exchange: Option<Box<Exchange>>,
}

/// What happened while a login waited.
enum Wakeup {
    Order(Option<SessionOrder>),
    Server(io::Result<usize>),
    ServerTimedOut,
    Client(io::Result<usize>),
    ClientClosed,
}

impl Login<'_> {
    /// Logs in. Every wait for the server has a limit; PostgreSQL limits the client's time to authenticate
    /// (`authentication_timeout`). Ends at once when the node is no longer the right one.
    pub async fn run(&mut self) -> LoginOutcome {
        loop {
            if let Err(error) = self.server.send(self.client.opening_packet()).await {
                let why = format!("the connection failed: {error}");
                return NodeFailure::new(why, Suspicion::ConnectFailed).into();
            }
            self.guard.control().bytes().add_to_server(self.client.opening_packet().len());
            match self.client.opening() {
                SessionOpening::Startup(_) => return self.follow().await,
                SessionOpening::Unread | SessionOpening::DirectTls => return encrypted(),
                SessionOpening::Ssl | SessionOpening::Gss => {
                    if let Some(outcome) = self.negotiate().await {
                        return outcome;
                    }
                }
            }
        }
    }

    /// Forwards the server's answer to a request for encryption. `None` if the client continues without encryption.
    async fn negotiate(&mut self) -> Option<LoginOutcome> {
        let deadline = Instant::now() + self.answer_timeout;
        let answer = tokio::select! {
            answer = timeout_at(deadline, self.server.read_u8()) => match answer {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => return Some(NodeFailure::closed_early(&error).into()),
                Err(_) => return Some(NodeFailure::no_answer().into()),
            },
            order = order_to(self.guard) => return Some(self.ordered(order, false)),
            () = self.client.closed() => return Some(LoginOutcome::End(End::ClientLeftEarly)),
        };
        if *self.client.opening() == SessionOpening::Ssl {
            self.tls_answers.record(answer);
        }
        if self.client.expects_tls() {
            if answer == b'S' {
                self.guard.mark_opaque();
                return Some(encrypted());
            }
            let failure = NodeFailure::new("refuses TLS, and the client was told that TLS begins", None);
            return Some(NodeFailure { reachability: Reachability::Reachable, ..failure }.into());
        }
        if answer != b'N' && self.listener.access.restricts_names() {
            return Some(LoginOutcome::End(End::NamesHidden));
        }
        if answer != b'N' {
            self.guard.mark_opaque(); // before the client knows it: a cancel request may come at once
        }
        self.guard.control().bytes().add_to_client(1);
        match self.client.answer_negotiation(answer, self.listener.startup_timeout).await {
            Err(end) => return Some(LoginOutcome::End(end)),
            Ok(Some(cancel)) => return Some(LoginOutcome::Cancel(cancel)), // for the server that its key belongs to
            Ok(None) => {}
        }
        match self.client.check_access(self.listener) {
            Err(end) => Some(LoginOutcome::End(end)),
            Ok(()) if answer == b'N' && *self.client.opening() == SessionOpening::DirectTls => {
                Some(LoginOutcome::End(End::ClientLeftEarly)) // TLS was refused, and the client uses it anyway
            }
            Ok(()) if answer == b'N' => None,
            Ok(()) => Some(encrypted()),
        }
    }

    /// Follows the login from the startup packet on.
    async fn follow(&mut self) -> LoginOutcome {
        let mut login = Following {
            received: BytesMut::with_capacity(STARTUP_RESPONSE_LENGTH),
            examined: 0,
            for_server: BytesMut::new(),
            framing: Framing::default(),
            answers_sent: 0,
            is_bound_to_node: false,
            must_not_bind: false,
            answer_due: Some(Instant::now() + self.answer_timeout),
            exchange: self.guard.may_be_carried().then(Box::default),
        };
        loop {
            if let Some(outcome) = self.examine_messages(&mut login).await {
                return outcome;
            }
            if login.received.len() > STARTUP_RESPONSE_LENGTH_MAX {
                let why = format!("sent more than {STARTUP_RESPONSE_LENGTH_MAX} bytes before the session was ready");
                return self.server_lost(&login, NodeFailure::new(why, None));
            }
            if self.client.authentication().is_some()
                && let Err(error) = self.send_to_client(&mut login).await
            {
                return LoginOutcome::End(End::ClientFailed(error));
            }
            let outcome = match self.wait(&mut login).await {
                Wakeup::Order(order) => Some(self.ordered(order, login.is_bound_to_node)),
                Wakeup::Server(Ok(0)) => {
                    let failure = NodeFailure::new("closed the connection during the login", Suspicion::ConnectFailed);
                    Some(self.server_lost(&login, failure))
                }
                Wakeup::Server(Ok(_)) => None,
                Wakeup::Server(Err(error)) => Some(self.server_lost(&login, NodeFailure::closed_early(&error))),
                Wakeup::ServerTimedOut => Some(self.server_lost(&login, NodeFailure::no_answer())),
                Wakeup::Client(Ok(0)) | Wakeup::ClientClosed => Some(LoginOutcome::End(End::ClientClosed)),
                Wakeup::Client(Ok(_)) => self.forward_client_messages(&mut login).await,
                Wakeup::Client(Err(error)) => Some(LoginOutcome::End(End::ClientFailed(error))),
            };
            if let Some(outcome) = outcome {
                return outcome;
            }
        }
    }

    async fn wait(&mut self, login: &mut Following) -> Wakeup {
        let due = login.answer_due;
        let timed_out = async move {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        let is_asked = self.client.authentication().is_some();
        let from_client = async {
            match is_asked {
                true => Wakeup::Client(self.client.stream().read_buf(&mut login.for_server).await),
                false => {
                    self.client.closed().await;
                    Wakeup::ClientClosed
                }
            }
        };
        tokio::select! {
            order = order_to(self.guard) => Wakeup::Order(order),
            read = self.server.read_buf(&mut login.received) => Wakeup::Server(read),
            wakeup = from_client => wakeup,
            () = timed_out => Wakeup::ServerTimedOut,
        }
    }

    /// Examines those of the server's messages that are whole. An outcome ends the login.
    async fn examine_messages(&mut self, login: &mut Following) -> Option<LoginOutcome> {
        loop {
            let (message, length) = match next(&login.received[login.examined..]) {
                Next::Message(message, length) => (message, length),
                Next::Incomplete => return None,
                Next::Unreadable => return Some(unreadable(std::mem::take(&mut login.received))),
            };
            let length = match message {
                ServerMessage::AuthenticationRequest => match self.authentication_request(login, length).await {
                    Ok(length) => length,
                    Err(outcome) => return Some(outcome),
                },
                ServerMessage::InHotStandby(in_recovery) => {
                    if let Some(cause) = self.why_wrong_role(in_recovery).await {
                        return Some(self.wrong_role(login, cause).await);
                    }
                    length
                }
                ServerMessage::Error(error) if self.is_to_be_tried_elsewhere(login, error) => {
                    return Some(LoginOutcome::TryElsewhere(NodeFailure {
                        why: format!("refuses new sessions with SQLSTATE {}", error.sqlstate.escape_ascii()),
                        server_error: Some(login.received.split_off(login.examined)),
                        suspicion: error.is_shutting_down().then_some(Suspicion::ShuttingDown),
                        reachability: Reachability::Reachable,
                    }));
                }
                ServerMessage::Ready | ServerMessage::Error(_) => {
                    if message == ServerMessage::Ready {
                        self.keep_login(login);
                    }
                    return Some(ready(std::mem::take(&mut login.framing), std::mem::take(&mut login.received)));
                }
                ServerMessage::Key(key) => {
                    self.guard.set_key(key, self.listener.rule.port);
                    length
                }
                ServerMessage::AuthenticationOk => {
                    login.is_bound_to_node |= self.client.authentication().is_some();
                    length
                }
                ServerMessage::Other => length,
            };
            login.examined += length;
        }
    }

    /// Sends the client what has been examined.
    async fn send_to_client(&mut self, login: &mut Following) -> io::Result<()> {
        if login.examined == 0 {
            return Ok(());
        }
        self.client.stream().send(&login.received[..login.examined]).await?;
        self.guard.control().bytes().add_to_client(login.examined);
        login.received.advance(login.examined);
        login.examined = 0;
        Ok(())
    }

    /// Forwards what the client has sent, whole messages in one piece: if a message arrives in two pieces during a login,
    /// some servers take it for an attack (PgBouncer before 1.19).
    async fn forward_client_messages(&mut self, login: &mut Following) -> Option<LoginOutcome> {
        if login.must_not_bind {
            match sasl::choice(&login.for_server) {
                Choice::Incomplete => return None,
                Choice::Plus => return Some(LoginOutcome::End(End::ChannelBinding)),
                Choice::Other => login.must_not_bind = false,
            }
        }
        if !is_whole_message(&login.for_server) && login.for_server.len() < CLIENT_MESSAGE_LENGTH_MAX {
            return None;
        }
        let message = login.for_server.split();
        if !login.has_answered() && !login.is_bound_to_node {
            self.client.note_authentication_answer(&message);
        }
        self.send_to_server(login, &message).await.err()
    }

    async fn send_to_server(&mut self, login: &mut Following, message: &[u8]) -> Result<(), LoginOutcome> {
        if let Err(error) = self.server.send(message).await {
            return Err(self.server_lost(login, NodeFailure::closed_early(&error)));
        }
        self.guard.control().bytes().add_to_server(message.len());
        login.exchange.iter_mut().for_each(|exchange| exchange.client_sends(message));
        login.framing.client_sent(message); // a client may have sent a query already
        login.answers_sent += 1;
        login.answer_due = Some(Instant::now() + self.answer_timeout.max(AUTHENTICATION_TIMEOUT));
        Ok(())
    }

    /// The session is ready: keeps what it needs to log in again at another server, if it may be carried there.
    fn keep_login(&self, login: &mut Following) {
        let Some(exchange) = login.exchange.take() else { return };
        let (authenticated_by, proof) = exchange.accepted();
        let packet = self.client.opening_packet();
        if let Some(proof) = proof {
            self.guard.note_proof(packet, proof);
        }
        self.guard.keep_opening(Opening { packet: packet.into(), authenticated_by });
    }

    /// The node cannot continue with this login. Another node may, unless the client has been sent something that
    /// belongs to this node alone.
    fn server_lost(&self, login: &Following, failure: NodeFailure) -> LoginOutcome {
        if !login.is_bound_to_node {
            return failure.into();
        }
        if let Some(suspicion) = failure.suspicion {
            let node = self.guard.node();
            let suspicion = self.listener.suspicion(suspicion, &self.cluster.topology().node(node).member);
            self.cluster.suspect(node, suspicion);
        }
        LoginOutcome::End(End::LoginBroken(format!("the server {}", failure.why)))
    }

    /// An order came during the login: the node is no longer the right one, or pgvane stops.
    fn ordered(&self, order: Option<SessionOrder>, is_bound_to_node: bool) -> LoginOutcome {
        match order {
            Some(SessionOrder::Cut(cause) | SessionOrder::Drain(cause)) if is_bound_to_node => {
                LoginOutcome::End(End::WrongNode(cause))
            }
            Some(SessionOrder::Cut(cause) | SessionOrder::Drain(cause)) => {
                NodeFailure::no_longer_eligible(cause).into()
            }
            Some(SessionOrder::ListenerRemoved) => LoginOutcome::End(End::ListenerRemoved),
            Some(SessionOrder::Close) => LoginOutcome::End(End::ClosedByOperator),
            Some(SessionOrder::Stop) => LoginOutcome::End(End::Stopped),
            Some(SessionOrder::Move) | None => {
                NodeFailure::new("gets fewer sessions, because sessions are being rebalanced", None).into()
            }
        }
    }

    /// Whether another node, or the same one later, may take the session that this one refuses: it starts or shuts down,
    /// or, if the listener has other nodes, it has no connection left.
    fn is_to_be_tried_elsewhere(&self, login: &Following, error: ServerError) -> bool {
        if error.is_shutting_down() {
            return !login.is_bound_to_node;
        }
        error.sqlstate == *b"53300" && self.listener.rule.has_alternatives() && self.client.authentication().is_none()
    }
}

impl Following {
    /// Whether this node has been sent an answer of the client.
    fn has_answered(&self) -> bool {
        self.answers_sent > 0
    }
}

/// Waits for an order to the session.
async fn order_to(guard: &SessionGuard) -> Option<SessionOrder> {
    poll_fn(|cx| guard.control().poll_order(cx, None)).await
}

fn encrypted() -> LoginOutcome {
    LoginOutcome::Ready(Ready { framing: None, for_client: BytesMut::new() })
}

/// The server does not use the protocol as pgvane knows it: its bytes are forwarded unread, as in an encrypted session.
fn unreadable(received: BytesMut) -> LoginOutcome {
    LoginOutcome::Ready(Ready { framing: None, for_client: received })
}

/// The login has ended within `received`, which starts with a message; what follows belongs to the session.
fn ready(mut framing: Framing, received: BytesMut) -> LoginOutcome {
    framing.server_sent(&received);
    LoginOutcome::Ready(Ready { framing: Some(framing), for_client: received })
}
