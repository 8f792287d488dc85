//! How connections end: each end once, with its text for operators and its name for metrics and logs.

use std::io;
use std::time::Duration;

use strum::{EnumDiscriminants, IntoStaticStr, VariantArray};
use thiserror::Error;

use crate::config::ConnectionRate;
use crate::protocol::opening::NotPostgres;
use crate::protocol::proxy_header::Malformed;
use crate::protocol::startup::cut_to_name_length;
use crate::routing::{Cause, NoRoute};

/// Why a connection ended. `Display` is for operators, after "session ended: "; what clients get is in `client_message`.
///
/// [`EndKind`] is the same without the details, for counting.
#[derive(Debug, Error, EnumDiscriminants)]
#[strum_discriminants(name(EndKind), derive(Hash, VariantArray, IntoStaticStr), strum(serialize_all = "kebab-case"))]
#[strum_discriminants(doc = "An [`End`] without its details, for counting.")]
pub enum End {
    /// The client closed the session. This is the normal end.
    #[error("the client closed the session")]
    ClientClosed,
    /// The connection to the client failed.
    #[error("the connection to the client failed: {0}")]
    ClientFailed(#[source] io::Error),
    /// The client closed before its startup packet was complete: a port scan, or a load balancer's check.
    #[error("the client closed the connection before its startup packet was complete")]
    ClientLeftEarly,
    /// The client's startup packet was not complete in time.
    #[error("the client sent no complete startup packet within startup_timeout")]
    StartupTimedOut,
    /// The client does not use PostgreSQL's protocol.
    #[error("{0}")]
    NotPostgres(NotPostgres),
    /// The TLS handshake with the client failed.
    #[error("TLS with the client failed: {0}")]
    TlsFailed(#[source] io::Error),
    /// The listener requires TLS, and the client did not ask for it.
    #[error("the listener requires TLS, and the client did not use it")]
    TlsRequired,
    /// The client bound its SCRAM proof to pgvane's certificate; the server would compare it with its own.
    #[error("the client used channel binding (SCRAM-SHA-256-PLUS), and pgvane's certificate is not the server's")]
    ChannelBinding,
    /// A trusted proxy sent no PROXY header, or a malformed one.
    #[error("{0}")]
    ProxyHeader(ProxyFault),
    /// The address is not in the listener's `allow`.
    #[error("connections from {0} are not allowed")]
    AddressNotAllowed(String),
    /// The user is not in the listener's `users`.
    #[error("user {:?} is not allowed", cut_to_name_length(.0))]
    UserNotAllowed(String),
    /// The database is not in the listener's `databases`.
    #[error("database {:?} is not allowed", cut_to_name_length(.0))]
    DatabaseNotAllowed(String),
    /// The listener restricts users or databases, and encryption to the server would hide them.
    #[error("encryption between client and server would hide user and database, which this listener restricts")]
    NamesHidden,
    /// The listener has reached `pending_connections_max`: this connection was the newest, or the one that was pending
    /// longest.
    #[error("the listener has reached pending_connections_max ({0})")]
    PendingFull(usize),
    /// The client closed while it waited for a server.
    #[error("the client closed the connection while it waited for a server")]
    ClientLeftHeld,
    /// The server closed the session, with this SQLSTATE if its last message was an error.
    #[error("{}", server_closed(.0.as_ref()))]
    ServerClosed(Option<[u8; 5]>),
    /// The connection to the server failed.
    #[error("the connection to the server failed: {0}")]
    ServerFailed(#[source] io::Error),
    /// The client's host has not acknowledged anything for this time.
    #[error("the client has acknowledged nothing for {} s (tcp_user_timeout)", .0.as_secs())]
    ClientUnresponsive(Duration),
    /// The server's host has not acknowledged anything for this time.
    #[error("the server has acknowledged nothing for {} s (tcp_user_timeout)", .0.as_secs())]
    ServerUnresponsive(Duration),
    /// No server was available within `hold_max`; with the reason.
    #[error("no server within hold_max: {0}")]
    NoNode(String),
    /// No server was available, and `hold_sessions_max` connections were waiting already.
    #[error("no server{}, and the listener has reached hold_sessions_max ({max})", if *.are_nodes_full { " has room" } else { "" })]
    HoldFull {
        /// The limit.
        max: usize,
        /// There are servers, and all have reached their `sessions_max`.
        are_nodes_full: bool,
    },
    /// The listener has reached `sessions_max`.
    #[error("the listener has reached sessions_max ({0})")]
    SessionsFull(usize),
    /// The process has too few file descriptors left for another session.
    #[error("no file descriptors are left for another session (limit {0})")]
    DescriptorsFull(usize),
    /// The client's address has reached `sessions_max_per_client`.
    #[error("{host} has reached sessions_max_per_client ({max})")]
    ClientFull {
        /// The client's address.
        host: String,
        /// The limit.
        max: usize,
    },
    /// The client connects more often than `connection_rate_max_per_client` allows.
    #[error("{host} connects more often than connection_rate_max_per_client ({rate})")]
    ClientTooFast {
        /// The client's address.
        host: String,
        /// The limit.
        rate: ConnectionRate,
    },
    /// Every server that could be used has reached its `sessions_max`, and none had room within `hold_max`.
    #[error("every available server has reached its sessions_max")]
    NodesFull,
    /// The server was lost in the middle of the login, when the client could not be moved to another server any more.
    #[error("the login failed: {0}")]
    LoginBroken(String),
    /// The server stated another role, after it had authenticated the client.
    #[error("the server's answer at login shows that {}", .0.reason())]
    WrongNode(Cause),
    /// The session was on the wrong server and was ended at once.
    #[error("at once because {}", .0.reason())]
    Cut(Cause),
    /// The session was on the wrong server and was ended between two transactions.
    #[error("between two transactions because {}", .0.reason())]
    Drained(Cause),
    /// The session was on the wrong server, and its transaction did not end within `drain_timeout`.
    #[error("after drain_timeout because {}", .0.reason())]
    DrainTimedOut(Cause),
    /// The session was ended between two transactions, so that its client connects to a server with fewer sessions.
    #[error("between two transactions because another server has fewer sessions")]
    Rebalanced,
    /// An operator has closed the session.
    #[error("an operator has closed the session")]
    ClosedByOperator,
    /// The session was parked between two transactions, and could not go on.
    #[error("while it was parked because {}", .0.reason())]
    Parked(ParkEnd),
    /// The session was parked between two transactions, has lost its server, and could not be carried to the leader.
    #[error("it was parked and could not be carried to the new leader: {0}")]
    NotCarried(NotCarried),
    /// A reload has removed the listener, and the session did not end within `drain_timeout`.
    #[error("after drain_timeout because the listener was removed from the configuration")]
    ListenerRemoved,
    /// pgvane is stopping.
    #[error("pgvane is stopping")]
    Stopped,
    /// It was a cancel request, with this outcome.
    #[error("{}", .0.text())]
    Cancel(CancelOutcome),
    /// The session's task ended without a reason: a defect of pgvane.
    #[error("the session's task ended without a reason; this is a defect of pgvane")]
    Lost,
}

/// What ends of connections mean to operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndClass {
    /// Nothing went wrong: the client left, or it was a cancel request.
    Normal,
    /// pgvane refused the client: an access list, or a limit.
    Denied,
    /// There was no session, or it broke.
    Failed,
    /// pgvane ended a session: the node was not the right one any more, or an operator wanted it.
    Ended,
}

/// What became of a cancel request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, VariantArray, IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum CancelOutcome {
    /// It was sent to the server that runs the session.
    Delivered,
    /// It was sent to every server with sessions whose keys could not be seen.
    FannedOut,
    /// It names no running session and was dropped.
    NoSession,
    /// It was to be sent to several servers, and there were too many such requests to send it in time.
    Limited,
    /// No server could be reached in time.
    Failed,
}

/// Why a parked session could not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParkEnd {
    /// No node has led for `park_max`.
    NoLeader,
    /// Another node leads.
    NewLeader,
    /// The server has closed the connection: it was shut down, or it failed.
    ServerClosed,
}

impl ParkEnd {
    /// The reason, after "because".
    pub fn reason(self) -> &'static str {
        match self {
            ParkEnd::NoLeader => "no server has become the leader within park_max",
            ParkEnd::NewLeader => "another server is the leader now",
            ParkEnd::ServerClosed => "the server has closed it",
        }
    }
}

/// Why a parked session could not be carried to the leader.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{why}")]
pub struct NotCarried {
    /// For counting.
    pub reason: NotCarriedReason,
    /// In words.
    pub why: String,
}

/// The same without the details.
#[derive(Debug, Clone, Copy, PartialEq, Eq, VariantArray, IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum NotCarriedReason {
    /// Its state is tied to its server: temporary objects, advisory locks and the like.
    State,
    /// The server did not tell its state.
    Unknown,
    /// pgvane cannot log in for it, or the new leader has refused the login.
    Login,
    /// The new leader has answered with an error when the state was restored.
    Restore,
    /// Its state on the new leader would not be the same.
    Different,
    /// The new leader could not be reached within `park_max`.
    Unreachable,
}

impl NotCarriedReason {
    /// Its name in metrics and logs.
    pub fn label(self) -> &'static str {
        self.into()
    }
}

/// What is wrong with the PROXY header of a trusted proxy.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProxyFault {
    /// There is none; with the proxy's address.
    #[error("no PROXY protocol header from {0}")]
    NoHeader(String),
    /// It cannot be read.
    #[error("{0}")]
    Malformed(Malformed),
}

impl EndKind {
    /// Its name in metrics and logs.
    pub fn label(self) -> &'static str {
        self.into()
    }
}

impl EndKind {
    /// What it means to operators.
    pub fn class(self) -> EndClass {
        match self {
            EndKind::ClientClosed | EndKind::ClientLeftEarly | EndKind::ClientLeftHeld | EndKind::Cancel => {
                EndClass::Normal
            }
            EndKind::TlsRequired
            | EndKind::AddressNotAllowed
            | EndKind::UserNotAllowed
            | EndKind::DatabaseNotAllowed
            | EndKind::NamesHidden
            | EndKind::PendingFull
            | EndKind::HoldFull
            | EndKind::SessionsFull
            | EndKind::DescriptorsFull
            | EndKind::ClientFull
            | EndKind::ClientTooFast => EndClass::Denied,
            EndKind::ClientFailed
            | EndKind::StartupTimedOut
            | EndKind::NotPostgres
            | EndKind::TlsFailed
            | EndKind::ChannelBinding
            | EndKind::ProxyHeader
            | EndKind::ServerClosed
            | EndKind::ServerFailed
            | EndKind::ClientUnresponsive
            | EndKind::ServerUnresponsive
            | EndKind::NoNode
            | EndKind::NodesFull
            | EndKind::LoginBroken
            | EndKind::WrongNode
            | EndKind::Lost => EndClass::Failed,
            EndKind::ClosedByOperator
            | EndKind::Parked
            | EndKind::NotCarried
            | EndKind::Cut
            | EndKind::Drained
            | EndKind::DrainTimedOut
            | EndKind::Rebalanced
            | EndKind::ListenerRemoved
            | EndKind::Stopped => EndClass::Ended,
        }
    }
}

impl CancelOutcome {
    /// Its name in metrics.
    pub fn label(self) -> &'static str {
        self.into()
    }

    fn text(self) -> &'static str {
        match self {
            CancelOutcome::Delivered => "cancel request sent to the server",
            CancelOutcome::FannedOut => "cancel request sent to every server with encrypted sessions",
            CancelOutcome::NoSession => "cancel request for no running session",
            CancelOutcome::Limited => "cancel request dropped: too many at once",
            CancelOutcome::Failed => "cancel request not sent: no server could be reached",
        }
    }
}

fn server_closed(sqlstate: Option<&[u8; 5]>) -> String {
    match sqlstate {
        Some(code) => format!("the server ended the session with SQLSTATE {}", code.escape_ascii()),
        None => "the server closed the connection without an error message".to_owned(),
    }
}

impl End {
    /// Its kind.
    pub fn kind(&self) -> EndKind {
        self.into()
    }

    /// The end of a connection that failed before its startup packet was complete. Many load balancers end a check with
    /// a reset.
    pub fn early(error: io::Error) -> End {
        match error.kind() {
            io::ErrorKind::ConnectionReset => End::ClientLeftEarly,
            _ => End::ClientFailed(error),
        }
    }

    /// The end of a connection for which no server was found.
    pub fn no_node(why: &NoRoute, newest_failure: Option<&str>) -> End {
        match (why, newest_failure) {
            (NoRoute::AllFull, _) => End::NodesFull,
            (_, Some(failure)) => End::NoNode(format!("{why}; last failure: {failure}")),
            (_, None) => End::NoNode(why.to_string()),
        }
    }

    /// Whether a running session broke because its connection to the server was lost.
    pub fn is_loss_of_server(&self) -> bool {
        matches!(self, End::ServerFailed(_) | End::ServerUnresponsive(_) | End::ServerClosed(None))
    }

    /// Whether it is logged at level `info`; other ends are logged at `debug`.
    pub fn is_problem(&self) -> bool {
        match self {
            End::ClientClosed | End::ClientLeftEarly | End::ClientLeftHeld | End::ListenerRemoved | End::Stopped => {
                false
            }
            End::Cancel(outcome) => matches!(outcome, CancelOutcome::Limited | CancelOutcome::Failed),
            End::ClientFailed(_)
            | End::StartupTimedOut
            | End::NotPostgres(_)
            | End::TlsFailed(_)
            | End::TlsRequired
            | End::ChannelBinding
            | End::ProxyHeader(_)
            | End::AddressNotAllowed(_)
            | End::UserNotAllowed(_)
            | End::DatabaseNotAllowed(_)
            | End::NamesHidden
            | End::PendingFull(_)
            | End::ServerClosed(_)
            | End::ServerFailed(_)
            | End::ClientUnresponsive(_)
            | End::ServerUnresponsive(_)
            | End::NoNode(_)
            | End::HoldFull { .. }
            | End::ClientTooFast { .. }
            | End::SessionsFull(_)
            | End::DescriptorsFull(_)
            | End::ClientFull { .. }
            | End::NodesFull
            | End::LoginBroken(_)
            | End::WrongNode(_)
            | End::Cut(_)
            | End::Drained(_)
            | End::DrainTimedOut(_)
            | End::Rebalanced
            | End::ClosedByOperator
            | End::Parked(_)
            | End::NotCarried(_)
            | End::Lost => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn kinds_are_counted_under_names_of_their_own() {
        assert_eq!(EndKind::ClientLeftEarly.label(), "client-left-early");
        assert_eq!(End::ProxyHeader(ProxyFault::NoHeader("unix".into())).kind().label(), "proxy-header");
        for (place, kind) in EndKind::VARIANTS.iter().enumerate() {
            assert_eq!(*kind as usize, place, "{}", kind.label());
        }
        for (place, outcome) in CancelOutcome::VARIANTS.iter().enumerate() {
            assert_eq!(*outcome as usize, place, "{}", outcome.label());
        }
    }

    #[test]
    fn an_end_names_its_source_and_prints_no_raw_bytes() {
        let reset = End::ServerFailed(io::ErrorKind::ConnectionReset.into());
        assert!(reset.source().is_some());
        let strange = End::ServerClosed(Some(*b"57\nP1"));
        assert_eq!(strange.to_string(), "the server ended the session with SQLSTATE 57\\nP1");
    }
}
