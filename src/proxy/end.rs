//! How connections end: one list for the log, the metrics, and what the client is told.

use std::fmt;
use std::io;

use crate::protocol::opening::NotPostgres;
use crate::protocol::proxy_header::Malformed;
use crate::protocol::{Fatal, SqlState};
use crate::routing::{Cause, NoRoute};

/// What a client may rely on whose session ended between transactions: it may ask anew elsewhere.
const NOTHING_UNDER_WAY: &str = "No transaction was open; what was asked after the last one was not executed.";

/// Why a connection ended. Each variant says who is to blame.
#[derive(Debug)]
pub enum End {
    /// The client closed the session. Nobody is to blame.
    ClientClosed,
    /// The client's connection broke.
    ClientFailed(io::Error),
    /// The client closed before it had sent a whole opening: a port scan, or a load balancer's check.
    ClientLeftEarly,
    /// The client sent no whole opening in time.
    OpeningTimedOut,
    /// The client does not speak PostgreSQL's protocol.
    NotPostgres(NotPostgres),
    /// The client and we did not agree on TLS.
    TlsFailed(io::Error),
    /// The client asked for no TLS, and the listener takes nobody without.
    TlsRequired,
    /// The client bound its proof to our certificate, and the server would look for its own in it.
    ChannelBinding,
    /// A proxy that has to say for whom it speaks did not, or not well.
    Proxy(ProxyFault),
    /// The listener takes no connections from this address.
    AddressNotAllowed(String),
    /// The listener takes no sessions of this user.
    UserNotAllowed(String),
    /// The listener takes no sessions in this database.
    DatabaseNotAllowed(String),
    /// The listener takes certain users or databases only, and encryption would hide them.
    NamesHidden,
    /// Too many connections have not yet said what they want: this one was the newest, or has taken longest.
    PendingFull,
    /// The client left while it was held.
    ClientLeftHeld,
    /// The server ended the session, saying why by this SQLSTATE, or without a word.
    ServerClosed(Option<[u8; 5]>),
    /// The server's connection broke.
    ServerFailed(io::Error),
    /// No node in time, and why.
    NoNode(String),
    /// Too many connections are waiting for a node already.
    HoldFull,
    /// The listener carries as many sessions as it may.
    SessionsFull,
    /// The client has as many sessions on the listener as one address may have.
    ClientFull(String),
    /// Every node that could serve carries as many sessions as it may.
    NodesFull,
    /// The node turned out to have another role, after the client had been let in.
    WrongNode(Cause),
    /// The session was in the wrong place and had to end at once.
    Cut(Cause),
    /// The session was in the wrong place and ended between two transactions.
    Drained(Cause),
    /// The session was in the wrong place, and did not end between two transactions in time.
    DrainTimedOut(Cause),
    /// The session ended between two transactions, so that its client may be given a node with fewer sessions.
    Rebalanced,
    /// pgvane is stopping.
    Stopped,
    /// It was a cancel request, with this outcome.
    Cancel(CancelOutcome),
    /// The task ended without saying how: a defect.
    Lost,
}

/// What has become of a cancel request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelOutcome {
    /// The node that runs the session has it.
    Delivered,
    /// Every node has it that runs sessions whose keys could not be seen.
    FannedOut,
    /// It names no session that runs, and went nowhere.
    NoSession,
    /// It was to go to several nodes, as were too many others; it would have come too late.
    Limited,
    /// The node, or none of the nodes, could be reached in time.
    Failed,
}

impl CancelOutcome {
    /// Every outcome, in the order of its discriminant.
    pub const ALL: [CancelOutcome; 5] = [
        CancelOutcome::Delivered,
        CancelOutcome::FannedOut,
        CancelOutcome::NoSession,
        CancelOutcome::Limited,
        CancelOutcome::Failed,
    ];

    /// The word for it in the metrics.
    pub fn label(self) -> &'static str {
        match self {
            CancelOutcome::Delivered => "delivered",
            CancelOutcome::FannedOut => "fanned-out",
            CancelOutcome::NoSession => "no-session",
            CancelOutcome::Limited => "limited",
            CancelOutcome::Failed => "failed",
        }
    }
}

/// What is wrong with how a proxy said for whom it speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyFault {
    /// It did not say so.
    NoHeader(String),
    /// Nobody can tell.
    Malformed(Malformed),
}

impl End {
    /// The end of a connection that broke before the client had said what it wants. A reset is how many a check by a
    /// load balancer ends.
    pub fn early(error: io::Error) -> End {
        match error.kind() {
            io::ErrorKind::ConnectionReset => End::ClientLeftEarly,
            _ => End::ClientFailed(error),
        }
    }

    /// The end of a session that could not be given a node.
    pub fn no_node(why: &NoRoute, newest_failure: Option<&str>) -> End {
        match (why, newest_failure) {
            (NoRoute::AllFull, _) => End::NodesFull,
            (_, Some(failure)) => End::NoNode(format!("{why}; last: {failure}")),
            (_, None) => End::NoNode(why.to_string()),
        }
    }

    /// Whether an operator would want to read of it without having asked.
    pub fn is_trouble(&self) -> bool {
        match self {
            End::ClientClosed | End::ClientLeftEarly | End::ClientLeftHeld | End::Stopped => false,
            End::Cancel(outcome) => matches!(outcome, CancelOutcome::Limited | CancelOutcome::Failed),
            _ => true,
        }
    }

    /// What the client is told, if the protocol still allows it. `None` if there is nothing to tell or nobody to
    /// tell it to.
    pub fn client_message(&self, listener: &str) -> Option<Fatal> {
        let fatal = |sqlstate, message: String, detail: Option<String>, hint: &str| {
            Some(Fatal { sqlstate, message, detail, hint: Some(hint.to_owned()) })
        };
        match self {
            End::NoNode(why) => fatal(
                SqlState::CannotConnectNow,
                format!("pgvane: no server for listener \"{listener}\" in time"),
                Some(format!("{why}.")),
                "The cluster may be failing over: try again. The stats page shows every node's state.",
            ),
            End::HoldFull => fatal(
                SqlState::CannotConnectNow,
                format!("pgvane: no server for listener \"{listener}\", and too many connections wait already"),
                None,
                "Try again later; hold_sessions_max bounds how many may wait.",
            ),
            End::SessionsFull => fatal(
                SqlState::TooManyConnections,
                format!("pgvane: listener \"{listener}\" carries as many sessions as it may"),
                None,
                "Close sessions, or raise sessions_max.",
            ),
            End::ClientFull(host) => fatal(
                SqlState::TooManyConnections,
                format!("pgvane: listener \"{listener}\" carries as many sessions of {host} as it may"),
                None,
                "Close sessions, or raise sessions_max_per_client.",
            ),
            End::NodesFull => fatal(
                SqlState::TooManyConnections,
                format!("pgvane: every server for listener \"{listener}\" carries as many sessions as it may"),
                None,
                "Close sessions, or raise the nodes' sessions_max.",
            ),
            End::NotPostgres(why) => {
                let sqlstate = match why {
                    NotPostgres::Version { .. } => SqlState::FeatureNotSupported,
                    _ => SqlState::ProtocolViolation,
                };
                fatal(sqlstate, format!("pgvane: {why}"), None, "This port speaks PostgreSQL's protocol, version 3.")
            }
            End::TlsRequired => fatal(
                SqlState::InvalidAuthorization,
                format!("pgvane: listener \"{listener}\" takes encrypted connections only"),
                None,
                "Connect with sslmode=require, or a stricter one.",
            ),
            End::ChannelBinding => fatal(
                SqlState::InvalidAuthorization,
                format!("pgvane: channel binding cannot reach the server through listener \"{listener}\""),
                Some(
                    "TLS ends at pgvane and begins anew towards the server, and the two have different certificates."
                        .to_owned(),
                ),
                "Connect with channel_binding=disable. Or, at pgvane: server_tls = \"disable\", the server's own \
                 certificate in [listener.tls], or tls = \"passthrough\".",
            ),
            End::Proxy(ProxyFault::NoHeader(proxy)) => fatal(
                SqlState::ProtocolViolation,
                format!("pgvane: a connection from {} must begin with a PROXY protocol header", proxy),
                None,
                "Have the proxy there send one (HAProxy: send-proxy-v2), take it out of proxy_protocol.trusted, or set \
                 required = false.",
            ),
            End::AddressNotAllowed(host) => fatal(
                SqlState::InvalidAuthorization,
                format!("pgvane: listener \"{listener}\" takes no connections from {host}"),
                None,
                "The listener's allow names the networks that may connect.",
            ),
            End::UserNotAllowed(user) => fatal(
                SqlState::InvalidAuthorization,
                format!("pgvane: listener \"{listener}\" takes no sessions of user {user:?}"),
                None,
                "The listener's users names those who may connect.",
            ),
            End::DatabaseNotAllowed(database) => fatal(
                SqlState::InvalidAuthorization,
                format!("pgvane: listener \"{listener}\" takes no sessions in database {database:?}"),
                None,
                "The listener's databases names those that may be connected to.",
            ),
            End::NamesHidden => fatal(
                SqlState::InvalidAuthorization,
                format!("pgvane: listener \"{listener}\" takes certain users or databases only, and cannot see them"),
                Some("Encryption from end to end would hide them.".to_owned()),
                "Connect with sslmode=disable and gssencmode=disable, or have TLS end at pgvane.",
            ),
            End::WrongNode(cause) => fatal(
                SqlState::AdminShutdown,
                format!("pgvane: the login ends because {}", cause.reason()),
                None,
                "Connect again: the new connection is given another server, or held until there is one.",
            ),
            End::Cut(cause) | End::Drained(cause) | End::DrainTimedOut(cause) => fatal(
                SqlState::AdminShutdown,
                format!("pgvane: terminating connection because {}", cause.reason()),
                match self {
                    End::Drained(_) => Some(NOTHING_UNDER_WAY.to_owned()),
                    End::DrainTimedOut(_) => Some("The session was given drain_timeout to finish.".to_owned()),
                    _ => None,
                },
                "Connect again to be given another server; while there is none, the new connection is held.",
            ),
            End::Rebalanced => fatal(
                SqlState::AdminShutdown,
                "pgvane: terminating connection because another server has fewer sessions".to_owned(),
                Some(NOTHING_UNDER_WAY.to_owned()),
                "Connect again.",
            ),
            End::Stopped => fatal(
                SqlState::AdminShutdown,
                "pgvane: terminating connection because the proxy is stopping".to_owned(),
                None,
                "Connect again.",
            ),
            End::ServerClosed(None) | End::ServerFailed(_) => fatal(
                SqlState::ConnectionFailure,
                "pgvane: the connection to the server was lost".to_owned(),
                Some(format!("{self}.")),
                "The server may have crashed, or its host be gone. Connect again.",
            ),
            _ => None,
        }
    }
}

impl fmt::Display for End {
    /// For operators.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::ClientClosed => f.write_str("the client closed the session"),
            End::ClientFailed(error) => write!(f, "the client's connection broke: {error}"),
            End::ClientLeftEarly => f.write_str("the client left before it had said what it wants"),
            End::OpeningTimedOut => f.write_str("the client did not say in time what it wants"),
            End::NotPostgres(why) => write!(f, "{why}"),
            End::TlsFailed(error) => write!(f, "TLS with the client failed: {error}"),
            End::TlsRequired => f.write_str("the client asked for no TLS, and the listener takes nobody without"),
            End::ChannelBinding => f.write_str(
                "the client bound its proof to our certificate (SCRAM-SHA-256-PLUS), and the server has another one",
            ),
            End::Proxy(ProxyFault::NoHeader(proxy)) => write!(f, "no PROXY protocol header from {proxy}"),
            End::Proxy(ProxyFault::Malformed(why)) => write!(f, "{why}"),
            End::AddressNotAllowed(host) => write!(f, "no connections are taken from {host}"),
            End::UserNotAllowed(user) => write!(f, "no sessions of user {user:?} are taken"),
            End::DatabaseNotAllowed(database) => write!(f, "no sessions in database {database:?} are taken"),
            End::NamesHidden => f.write_str("encryption would have hidden user and database, which are restricted"),
            End::PendingFull => f.write_str("gave way: too many connections have not yet said what they want"),
            End::ClientLeftHeld => f.write_str("the client left while it was held"),
            End::ServerClosed(Some(code)) => {
                write!(f, "the server ended the session with SQLSTATE {}", String::from_utf8_lossy(code))
            }
            End::ServerClosed(None) => f.write_str("the server closed the connection without a word"),
            End::ServerFailed(error) => write!(f, "the server's connection broke: {error}"),
            End::NoNode(why) => write!(f, "no server in time: {why}"),
            End::HoldFull => f.write_str("no server, and too many connections wait already"),
            End::SessionsFull => f.write_str("the listener carries as many sessions as it may"),
            End::ClientFull(host) => write!(f, "{host} has as many sessions as one client may"),
            End::NodesFull => f.write_str("every server that could serve carries as many sessions as it may"),
            End::WrongNode(cause) => write!(f, "the server's answer at login shows that {}", cause.reason()),
            End::Cut(cause) => write!(f, "cut because {}", cause.reason()),
            End::Drained(cause) => write!(f, "drained because {}", cause.reason()),
            End::DrainTimedOut(cause) => write!(f, "cut at the end of drain_timeout because {}", cause.reason()),
            End::Rebalanced => f.write_str("ended between transactions because another server has fewer sessions"),
            End::Stopped => f.write_str("pgvane is stopping"),
            End::Cancel(CancelOutcome::Delivered) => f.write_str("cancel request delivered"),
            End::Cancel(CancelOutcome::FannedOut) => {
                f.write_str("cancel request handed to every node with encrypted sessions")
            }
            End::Cancel(CancelOutcome::NoSession) => f.write_str("cancel request for no session that runs"),
            End::Cancel(CancelOutcome::Limited) => f.write_str("cancel request dropped: there were too many at once"),
            End::Cancel(CancelOutcome::Failed) => f.write_str("cancel request could not be delivered"),
            End::Lost => f.write_str("the session's task ended in an unforeseen way"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_stands_at_its_own_place() {
        for (place, outcome) in CancelOutcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, place, "{}", outcome.label());
        }
    }

    #[test]
    fn refusals_say_why_and_what_to_do() {
        let end = End::no_node(&NoRoute::NoLeader("no node claims to lead".into()), Some("node1: connection refused"));
        let fatal = end.client_message("write").expect("a client is told");
        assert_eq!(fatal.sqlstate, SqlState::CannotConnectNow);
        let detail = fatal.detail.expect("says why");
        assert_eq!(detail, "no leader: no node claims to lead; last: node1: connection refused.");
        assert!(fatal.hint.is_some());
    }
}
