//! Brings one client to one node: sends its startup packet there and follows the login until the session is ready.
//!
//! Until the node asks the client for a proof of who it is, nothing that the node says is shown to the client, and the login
//! can go on at another node unseen. The same holds after the first such question, as long as the other node asks the same:
//! the client's first answer to `AuthenticationSASL`, and a plain password, fit any node of the cluster. What a node says
//! after that answer belongs to this node alone.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout_at};

use crate::cluster::Suspicion;
use crate::cluster::node::ServerKind;
use crate::config::Listener;
use crate::net::Stream;
use crate::probe::ClusterHandle;
use crate::protocol::ServerError;
use crate::protocol::framing::Framing;
use crate::protocol::login::{Next, ServerMessage, is_whole_message, next};
use crate::protocol::sasl::{self, Choice};
use crate::proxy::end::End;
use crate::proxy::intake::handshake::{Asked, CancelRequest, Client, SessionOpening};
use crate::proxy::intake::tls_answers::TlsAnswers;
use crate::proxy::metrics::ListenerMetrics;
use crate::proxy::sessions::control::SessionOrder;
use crate::proxy::sessions::registry::SessionGuard;
use crate::routing::Cause;

/// Room for a server's usual startup response, so that one read takes it in.
const STARTUP_RESPONSE_LENGTH: usize = 1000;

/// The most that a server may say before the session is ready, in bytes: many times what any server says.
const STARTUP_RESPONSE_LENGTH_MAX: usize = 1024 * 1024;

/// The longest message of a client during its login (`PG_MAX_AUTH_TOKEN_LENGTH` of PostgreSQL's `libpq/auth.h`).
const CLIENT_MESSAGE_LENGTH_MAX: usize = 65_535 + 5;

/// How long a server may take for its verdict on a proof, at the least: PostgreSQL itself ends a login after a minute
/// (`authentication_timeout`), and may have to ask an LDAP or RADIUS server meanwhile.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(60);

/// How a login ended.
pub enum LoginOutcome {
    /// The session is ready, or it is encrypted and nothing more of it can be seen.
    Ready(Ready),
    /// This node cannot take the session; another may. The client has seen nothing of it.
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

/// Why a node cannot take a session.
pub struct NodeFailure {
    /// For the log, and for the client if no other node can take the session. Goes behind the node's name.
    pub why: String,
    /// The node's own error message, which the client gets if no other node can take the session.
    pub server_error: Option<BytesMut>,
    /// What this makes of the node's role, if it casts doubt on it.
    pub suspicion: Option<Suspicion>,
    /// What it says of the way to the node's PostgreSQL.
    pub way: Way,
}

/// What a failure says of the way from pgvane to a node's PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Nothing: the node's role is another, or it refuses for a reason of its own.
    Open,
    /// It fails now, and may not a moment later.
    Fails,
    /// It fails by how pgvane or the node is configured: trying again does not help.
    Misconfigured,
}

impl NodeFailure {
    /// A failure without an error message of the node's.
    pub fn new(why: impl Into<String>, suspicion: impl Into<Option<Suspicion>>) -> NodeFailure {
        let suspicion = suspicion.into();
        let way = if suspicion.is_some() { Way::Fails } else { Way::Open };
        NodeFailure { why: why.into(), server_error: None, suspicion, way }
    }

    /// The failure of a node that an order takes the session from.
    pub fn no_longer_eligible(cause: Cause) -> NodeFailure {
        NodeFailure::new(format!("is no longer eligible: {}", cause.reason()), None)
    }
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
    /// The session's registration on the node, which learns the cancel key and gets orders.
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

/// What a client's binding of its proof to a certificate would lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Binding {
    /// It reaches the server.
    Possible,
    /// The client's connection is not encrypted, so it has seen no certificate: the offer must not reach it.
    NotOffered,
    /// The client has seen another certificate: the offer must reach it, and the client must not choose it.
    MustNotBeChosen,
}

/// A login that is being followed.
struct Following {
    /// What the server has said and the client has not been sent.
    heard: BytesMut,
    /// How much of it is whole messages that have been looked at.
    looked_at: usize,
    /// What the client says during its login.
    to_server: BytesMut,
    framing: Framing,
    /// How many messages the client has sent this node.
    answers_sent: usize,
    /// The client has been sent something that belongs to this node alone.
    is_bound_to_node: bool,
    /// The client's next message chooses a mechanism, and must not choose to bind its proof.
    must_not_bind: bool,
    /// When the server must have answered; `None` while the client is to speak.
    answer_due: Option<Instant>,
}

/// What woke a login.
enum Woken {
    Order(Option<SessionOrder>),
    Server(io::Result<usize>),
    ServerLate,
    Client(io::Result<usize>),
    ClientClosed,
}

impl Login<'_> {
    /// Goes through the login. Every wait for the server is bounded; the client's time for its proof is bounded by
    /// PostgreSQL (`authentication_timeout`). Ends at once when the node is no longer the right one.
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

    /// Passes on the server's answer to a request for encryption. `None` if the client goes on without.
    async fn negotiate(&mut self) -> Option<LoginOutcome> {
        let deadline = Instant::now() + self.answer_timeout;
        let answer = tokio::select! {
            answer = timeout_at(deadline, self.server.read_u8()) => match answer {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => return Some(closed_early(&error).into()),
                Err(_) => return Some(no_answer().into()),
            },
            order = ordered(self.guard) => return Some(self.obey(order, false)),
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
            return Some(NodeFailure { way: Way::Open, ..failure }.into());
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
            Ok(Some(cancel)) => return Some(LoginOutcome::Cancel(cancel)), // for the server that it names
            Ok(None) => {}
        }
        match self.client.check_access(self.listener) {
            Err(end) => Some(LoginOutcome::End(end)),
            Ok(()) if answer == b'N' && *self.client.opening() == SessionOpening::DirectTls => {
                Some(LoginOutcome::End(End::ClientLeftEarly)) // it was refused TLS and uses it nevertheless
            }
            Ok(()) if answer == b'N' => None,
            Ok(()) => Some(encrypted()),
        }
    }

    /// Follows the login from the startup packet on.
    async fn follow(&mut self) -> LoginOutcome {
        let mut login = Following {
            heard: BytesMut::with_capacity(STARTUP_RESPONSE_LENGTH),
            looked_at: 0,
            to_server: BytesMut::new(),
            framing: Framing::default(),
            answers_sent: 0,
            is_bound_to_node: false,
            must_not_bind: false,
            answer_due: Some(Instant::now() + self.answer_timeout),
        };
        loop {
            if let Some(outcome) = self.look_at_messages(&mut login).await {
                return outcome;
            }
            if login.heard.len() > STARTUP_RESPONSE_LENGTH_MAX {
                let why = format!("said more than {STARTUP_RESPONSE_LENGTH_MAX} bytes and was not ready");
                return self.lost(&login, NodeFailure::new(why, None));
            }
            if self.client.asked().is_some()
                && let Err(error) = self.pass_on(&mut login).await
            {
                return LoginOutcome::End(End::ClientFailed(error));
            }
            let outcome = match self.wait(&mut login).await {
                Woken::Order(order) => Some(self.obey(order, login.is_bound_to_node)),
                Woken::Server(Ok(0)) => {
                    let failure = NodeFailure::new("closed the connection during the login", Suspicion::ConnectFailed);
                    Some(self.lost(&login, failure))
                }
                Woken::Server(Ok(_)) => None,
                Woken::Server(Err(error)) => Some(self.lost(&login, closed_early(&error))),
                Woken::ServerLate => Some(self.lost(&login, no_answer())),
                Woken::Client(Ok(0)) | Woken::ClientClosed => Some(LoginOutcome::End(End::ClientClosed)),
                Woken::Client(Ok(_)) => self.take_client_messages(&mut login).await,
                Woken::Client(Err(error)) => Some(LoginOutcome::End(End::ClientFailed(error))),
            };
            if let Some(outcome) = outcome {
                return outcome;
            }
        }
    }

    async fn wait(&mut self, login: &mut Following) -> Woken {
        let due = login.answer_due;
        let late = async move {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        let is_asked = self.client.asked().is_some();
        let from_client = async {
            match is_asked {
                true => Woken::Client(self.client.stream().read_buf(&mut login.to_server).await),
                false => {
                    self.client.closed().await;
                    Woken::ClientClosed
                }
            }
        };
        tokio::select! {
            order = ordered(self.guard) => Woken::Order(order),
            read = self.server.read_buf(&mut login.heard) => Woken::Server(read),
            woken = from_client => woken,
            () = late => Woken::ServerLate,
        }
    }

    /// Looks at the server's messages that are whole. An outcome ends the login.
    async fn look_at_messages(&mut self, login: &mut Following) -> Option<LoginOutcome> {
        loop {
            let (said, length) = match next(&login.heard[login.looked_at..]) {
                Next::Message(said, length) => (said, length),
                Next::Incomplete => return None,
                Next::Unreadable => return Some(unreadable(std::mem::take(&mut login.heard))),
            };
            let length = match said {
                ServerMessage::AuthenticationRequest => match self.take_challenge(login, length).await {
                    Ok(length) => length,
                    Err(outcome) => return Some(outcome),
                },
                ServerMessage::InHotStandby(in_recovery) => {
                    if let Some(cause) = self.why_wrong(in_recovery).await {
                        return Some(self.wrong_role(login, cause).await);
                    }
                    length
                }
                ServerMessage::Error(error) if self.another_may_take_it(login, error) => {
                    return Some(LoginOutcome::TryElsewhere(NodeFailure {
                        why: format!("refuses new sessions with SQLSTATE {}", error.sqlstate.escape_ascii()),
                        server_error: Some(login.heard.split_off(login.looked_at)),
                        suspicion: error.is_shutting_down().then_some(Suspicion::ShuttingDown),
                        way: Way::Open,
                    }));
                }
                ServerMessage::Ready | ServerMessage::Error(_) => {
                    return Some(ready(std::mem::take(&mut login.framing), std::mem::take(&mut login.heard)));
                }
                ServerMessage::Key(key) => {
                    self.guard.set_key(key, self.listener.rule.port);
                    length
                }
                ServerMessage::AuthenticationOk => {
                    login.is_bound_to_node |= self.client.asked().is_some();
                    length
                }
                ServerMessage::Other => length,
            };
            login.looked_at += length;
        }
    }

    /// The server asks the client for a proof. The first such question is the client's to answer; where it has answered the
    /// same question of another node, that answer is sent again.
    ///
    /// Returns the length of what the client is to be sent of it.
    async fn take_challenge(&mut self, login: &mut Following, length: usize) -> Result<usize, LoginOutcome> {
        let length = self.without_unusable_binding(login, length);
        let question = &login.heard[login.looked_at..login.looked_at + length];
        login.answer_due = None;
        let Some(Asked { question: asked, answer }) = self.client.asked() else {
            self.client.ask(question);
            return Ok(length);
        };
        if login.is_bound_to_node || login.has_answered() {
            login.is_bound_to_node = true;
            return Ok(length);
        }
        if asked[..] != *question || !sasl::fits_any_server(question) {
            let why = "the server was lost during the login, and another asks for another proof".to_owned();
            return Err(LoginOutcome::End(End::LoginBroken(why)));
        }
        let answer = answer.clone();
        let rest = login.heard.split_off(login.looked_at + length);
        login.heard.truncate(login.looked_at);
        login.heard.unsplit(rest);
        if let Some(answer) = answer {
            self.send_to_server(login, &answer).await?;
        }
        Ok(0)
    }

    /// Takes the offer to bind the proof to a certificate away where it must not reach the client.
    fn without_unusable_binding(&mut self, login: &mut Following, length: usize) -> usize {
        let end = login.looked_at + length;
        let Some(without) = sasl::without_plus(&login.heard[login.looked_at..end]) else { return length };
        match self.binding() {
            Binding::Possible => length,
            Binding::MustNotBeChosen => {
                login.must_not_bind = true;
                length
            }
            Binding::NotOffered => {
                let behind = login.heard.split_off(end);
                login.heard.truncate(login.looked_at);
                login.heard.extend_from_slice(&without);
                login.heard.unsplit(behind);
                without.len()
            }
        }
    }

    /// Sends the client what has been looked at.
    async fn pass_on(&mut self, login: &mut Following) -> io::Result<()> {
        if login.looked_at == 0 {
            return Ok(());
        }
        self.client.stream().send(&login.heard[..login.looked_at]).await?;
        self.guard.control().bytes().add_to_client(login.looked_at);
        login.heard.advance(login.looked_at);
        login.looked_at = 0;
        Ok(())
    }

    /// Passes on what the client says, one whole message or several in one piece: some servers take a message that arrives in
    /// two pieces during a login for an attack (PgBouncer before 1.19).
    async fn take_client_messages(&mut self, login: &mut Following) -> Option<LoginOutcome> {
        if login.must_not_bind {
            match sasl::choice(&login.to_server) {
                Choice::Incomplete => return None,
                Choice::Plus => return Some(LoginOutcome::End(End::ChannelBinding)),
                Choice::Other => login.must_not_bind = false,
            }
        }
        if !is_whole_message(&login.to_server) && login.to_server.len() < CLIENT_MESSAGE_LENGTH_MAX {
            return None;
        }
        let message = login.to_server.split();
        if !login.has_answered() && !login.is_bound_to_node {
            self.client.answers(&message);
        }
        self.send_to_server(login, &message).await.err()
    }

    async fn send_to_server(&mut self, login: &mut Following, message: &[u8]) -> Result<(), LoginOutcome> {
        if let Err(error) = self.server.send(message).await {
            return Err(self.lost(login, closed_early(&error)));
        }
        self.guard.control().bytes().add_to_server(message.len());
        login.framing.ask(message); // a client may have asked something already
        login.answers_sent += 1;
        login.answer_due = Some(Instant::now() + self.answer_timeout.max(VERDICT_TIMEOUT));
        Ok(())
    }

    /// The node cannot go on with this login. Another may, unless the client has been sent something that is of this node
    /// alone.
    fn lost(&self, login: &Following, failure: NodeFailure) -> LoginOutcome {
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

    /// Follows an order that came during the login: the node is no longer the right one, or pgvane stops.
    fn obey(&self, order: Option<SessionOrder>, is_bound_to_node: bool) -> LoginOutcome {
        match order {
            Some(SessionOrder::Cut(cause) | SessionOrder::Drain(cause)) if is_bound_to_node => {
                LoginOutcome::End(End::WrongNode(cause))
            }
            Some(SessionOrder::Cut(cause) | SessionOrder::Drain(cause)) => {
                NodeFailure::no_longer_eligible(cause).into()
            }
            Some(SessionOrder::ListenerRemoved) => LoginOutcome::End(End::ListenerRemoved),
            Some(SessionOrder::Stop) => LoginOutcome::End(End::Stopped),
            Some(SessionOrder::Close) => LoginOutcome::End(End::ClosedByOperator),
            Some(SessionOrder::Move) | None => NodeFailure::new("is to get fewer sessions", None).into(),
        }
    }

    /// The node says that its role is not the one that the client needs.
    async fn wrong_role(&mut self, login: &mut Following, cause: Cause) -> LoginOutcome {
        if self.client.asked().is_none() {
            return NodeFailure::new(format!("said at login that {}", cause.reason()), None).into();
        }
        // the client hears what belongs to its proof, and then the reason
        login.heard.truncate(login.looked_at);
        match self.pass_on(login).await {
            Ok(()) => LoginOutcome::End(End::WrongNode(cause)),
            Err(error) => LoginOutcome::End(End::ClientFailed(error)),
        }
    }

    /// Why a node cannot take the session that says this of its recovery, if so.
    ///
    /// Where it is not what is believed, a check that is asked now settles it: what is said at a login may come from a pooler
    /// that remembers another server, and then it says the same for ever.
    async fn why_wrong(&mut self, in_recovery: bool) -> Option<Cause> {
        let node = self.guard.node();
        let believed = {
            let topology = self.cluster.topology();
            let view = topology.node(node);
            if self.listener.server_kind_on(&view.member) == ServerKind::Pooler {
                return None;
            }
            view.believed_in_recovery()
        };
        let cause = self.listener.rule.why_wrong(in_recovery);
        if believed == Some(in_recovery) {
            return cause;
        }
        let port = self.listener.rule.port;
        if self.cluster.topology().node(node).ports.login_hints_are_stale(port, self.cluster.now()) {
            self.metrics.login_hints_ignored.inc();
            return None;
        }
        if cause.is_none() {
            self.cluster.suspect(node, Suspicion::HotStandby);
            return None;
        }
        let settled = self.cluster.settle_login_hint(node, port, in_recovery);
        let (hinted_at, topology) = tokio::time::timeout(self.listener.login_timeout, settled).await.ok()?;
        let view = topology.node(node);
        let is_answered = view.health.answer_asked_at().is_some_and(|asked_at| asked_at >= hinted_at);
        let is_refuted = is_answered && view.believed_in_recovery() == Some(!in_recovery);
        if is_refuted {
            self.metrics.login_hints_ignored.inc();
        }
        cause.filter(|_| !is_refuted)
    }

    /// What would become of a client's choice to bind its proof to the server's certificate (SCRAM-SHA-256-PLUS), which
    /// a server offers over TLS.
    fn binding(&mut self) -> Binding {
        match (self.client.stream().is_encrypted(), self.server.is_encrypted()) {
            (_, false) => Binding::Possible, // but not offered
            // libpq takes this offer for an attack on a connection without TLS
            (false, true) => Binding::NotOffered,
            (true, true) if self.client.has_seen_certificate_of(self.server) => Binding::Possible,
            // without the offer the client would say that it could have bound, and the server takes that for an attack
            (true, true) => Binding::MustNotBeChosen,
        }
    }

    /// Whether another node, or the same one later, may take the session that this one refuses: it starts or shuts down,
    /// or, where there are others, has no connection left.
    fn another_may_take_it(&self, login: &Following, error: ServerError) -> bool {
        if error.is_shutting_down() {
            return !login.is_bound_to_node;
        }
        error.sqlstate == *b"53300" && self.listener.rule.has_alternatives() && self.client.asked().is_none()
    }
}

impl Following {
    /// Whether the client has sent this node an answer.
    fn has_answered(&self) -> bool {
        self.answers_sent > 0
    }
}

/// Waits for an order to the session.
async fn ordered(guard: &SessionGuard) -> Option<SessionOrder> {
    poll_fn(|cx| guard.control().poll_order(cx, None)).await
}

fn no_answer() -> NodeFailure {
    NodeFailure::new("accepted the connection but did not answer in time", Suspicion::ConnectFailed)
}

fn closed_early(error: &io::Error) -> NodeFailure {
    let why = match error.kind() {
        io::ErrorKind::UnexpectedEof => "closed the connection before it answered".to_owned(),
        _ => format!("the connection failed before it answered: {error}"),
    };
    NodeFailure::new(why, Suspicion::ConnectFailed)
}

fn encrypted() -> LoginOutcome {
    LoginOutcome::Ready(Ready { framing: None, for_client: BytesMut::new() })
}

/// The server does not use the protocol as pgvane knows it: the bytes are passed on unread, as in an encrypted session.
fn unreadable(heard: BytesMut) -> LoginOutcome {
    LoginOutcome::Ready(Ready { framing: None, for_client: heard })
}

/// The login has ended within `heard`, which starts with a message; what follows belongs to the session.
fn ready(mut framing: Framing, heard: BytesMut) -> LoginOutcome {
    framing.follow(&heard);
    LoginOutcome::Ready(Ready { framing: Some(framing), for_client: heard })
}
