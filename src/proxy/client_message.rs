//! The error message that a client gets when pgvane ends its connection: SQLSTATE, message, detail, hint.
//!
//! The SQLSTATEs are those that PostgreSQL uses for the same situation (documentation, "PostgreSQL Error Codes").

use super::end::{End, ProxyFault};
use crate::protocol::opening::NotPostgres;
use crate::protocol::{Fatal, SqlState};

/// What is certain if a session ended between two transactions.
const NOTHING_WAS_OPEN: &str = "No transaction was open. Statements sent after the last transaction were not executed.";

/// The message for a client of this listener; `None` if it gets none.
pub(super) fn client_message(end: &End, listener: &str) -> Option<Fatal> {
    let fatal = |sqlstate, message: String, hint: &str| {
        Some(Fatal { sqlstate, message: format!("pgvane: {message}"), detail: None, hint: Some(hint.to_owned()) })
    };
    let with_detail = |fatal: Option<Fatal>, detail: String| fatal.map(|fatal| Fatal { detail: Some(detail), ..fatal });
    match end {
        End::NoNode(why) => with_detail(
            fatal(
                SqlState::CannotConnectNow,
                format!("no server for listener \"{listener}\" within hold_max"),
                "The cluster may be failing over: try again. The stats page shows the state of every node.",
            ),
            format!("{why}."),
        ),
        End::HoldFull { max, are_nodes_full: true } => fatal(
            SqlState::TooManyConnections,
            format!(
                "every server for listener \"{listener}\" has reached its sessions_max, and {max} connections wait \
                 already (hold_sessions_max)"
            ),
            "Close sessions, or raise sessions_max of the nodes.",
        ),
        End::ClientTooFast { host, rate } => fatal(
            SqlState::TooManyConnections,
            format!("{host} connects to listener \"{listener}\" too often: more than {rate}"),
            "Connect more slowly, keep connections open in a pool, or raise connection_rate_max_per_client.",
        ),
        End::HoldFull { max, are_nodes_full: false } => fatal(
            SqlState::CannotConnectNow,
            format!("no server for listener \"{listener}\", and it has reached hold_sessions_max ({max})"),
            "Try again later.",
        ),
        End::PendingFull(_) => None,
        End::SessionsFull(max) => fatal(
            SqlState::TooManyConnections,
            format!("listener \"{listener}\" has reached sessions_max ({max})"),
            "Close sessions, or raise sessions_max.",
        ),
        End::DescriptorsFull(max) => fatal(
            SqlState::TooManyConnections,
            format!("the proxy has no file descriptors left for another session (limit {max})"),
            "Close sessions, or raise the limit (ulimit -n, LimitNOFILE=) of the pgvane process.",
        ),
        End::ClientFull { host, max } => fatal(
            SqlState::TooManyConnections,
            format!("{host} has reached sessions_max_per_client ({max}) of listener \"{listener}\""),
            "Close sessions, or raise sessions_max_per_client.",
        ),
        End::NodesFull => fatal(
            SqlState::TooManyConnections,
            format!("every server for listener \"{listener}\" has reached its sessions_max"),
            "Close sessions, or raise sessions_max of the nodes.",
        ),
        End::NotPostgres(why) if why.gets_error_message() => {
            let sqlstate = match why {
                NotPostgres::Version { .. } => SqlState::FeatureNotSupported,
                NotPostgres::NoUser => SqlState::InvalidAuthorization,
                NotPostgres::Length(_)
                | NotPostgres::Cancel
                | NotPostgres::ProxyHeader
                | NotPostgres::Malformed(_)
                | NotPostgres::AskedAgain
                | NotPostgres::DataBeforeTls => SqlState::ProtocolViolation,
            };
            fatal(sqlstate, why.to_string(), "This port uses PostgreSQL's protocol, version 3.")
        }
        End::TlsRequired => fatal(
            SqlState::InvalidAuthorization,
            format!("listener \"{listener}\" requires TLS"),
            "Connect with sslmode=require or stricter.",
        ),
        End::ChannelBinding => with_detail(
            fatal(
                SqlState::InvalidAuthorization,
                format!("channel binding is not possible through listener \"{listener}\""),
                "Connect with channel_binding=disable. Or configure pgvane with server_tls = \"disable\", with the \
                 server's own certificate in [listener.tls], or with tls = \"passthrough\".",
            ),
            "TLS with the client ends at pgvane, and the server's certificate is a different one.".to_owned(),
        ),
        End::ProxyHeader(ProxyFault::NoHeader(proxy)) => fatal(
            SqlState::ProtocolViolation,
            format!("a connection from {proxy} must start with a PROXY protocol header"),
            "Let the proxy send one (HAProxy: send-proxy-v2), remove its address from proxy_protocol.trusted, or set \
             proxy_protocol.required = false.",
        ),
        End::AddressNotAllowed(host) => fatal(
            SqlState::InvalidAuthorization,
            format!("listener \"{listener}\" does not allow connections from {host}"),
            "The listener's setting \"allow\" lists the allowed networks.",
        ),
        End::UserNotAllowed(user) => fatal(
            SqlState::InvalidAuthorization,
            format!("listener \"{listener}\" does not allow user {user:?}"),
            "The listener's setting \"users\" lists the allowed users.",
        ),
        End::DatabaseNotAllowed(database) => fatal(
            SqlState::InvalidAuthorization,
            format!("listener \"{listener}\" does not allow database {database:?}"),
            "The listener's setting \"databases\" lists the allowed databases.",
        ),
        End::NamesHidden => with_detail(
            fatal(
                SqlState::InvalidAuthorization,
                format!("listener \"{listener}\" allows certain users or databases only, and cannot see them"),
                "Connect with sslmode=disable and gssencmode=disable, or let TLS end at pgvane.",
            ),
            "Encryption between client and server hides them.".to_owned(),
        ),
        End::LoginBroken(why) => fatal(
            SqlState::AdminShutdown,
            format!("the login failed: {why}"),
            "Connect again: pgvane chooses another server, or waits for one.",
        ),
        End::WrongNode(cause) => fatal(
            SqlState::AdminShutdown,
            format!("the login ends because {}", cause.reason()),
            "Connect again: pgvane chooses another server, or waits for one.",
        ),
        End::Cut(cause) => terminated(cause.reason(), None),
        End::Drained(cause) => terminated(cause.reason(), Some(NOTHING_WAS_OPEN)),
        End::DrainTimedOut(cause) => {
            terminated(cause.reason(), Some("The transaction did not end within drain_timeout."))
        }
        End::Rebalanced => terminated("another server has fewer sessions", Some(NOTHING_WAS_OPEN)),
        End::Parked(why) => terminated(why.reason(), Some(NOTHING_WAS_OPEN)),
        End::NotCarried(why) => {
            let reason = format!("it could not be carried to the new leader: {why}");
            terminated(&reason, Some(NOTHING_WAS_OPEN))
        }
        End::ListenerRemoved => terminated("the proxy does not serve this port any more", None),
        End::Stopped => terminated("the proxy is stopping", None),
        End::ClosedByOperator => terminated("an operator has closed the session", None),
        End::ServerClosed(None) | End::ServerFailed(_) | End::ServerUnresponsive(_) => with_detail(
            fatal(
                SqlState::ConnectionFailure,
                "the connection to the server was lost".to_owned(),
                "The server or its host may have crashed. Connect again.",
            ),
            format!("{end}."),
        ),
        End::ClientClosed
        | End::NotPostgres(_)
        | End::ClientFailed(_)
        | End::ClientUnresponsive(_)
        | End::ClientLeftEarly
        | End::StartupTimedOut
        | End::TlsFailed(_)
        | End::ProxyHeader(ProxyFault::Malformed(_))
        | End::ClientLeftHeld
        | End::ServerClosed(Some(_))
        | End::Cancel(_)
        | End::Lost => None,
    }
}

/// PostgreSQL's own message for a session that an administrator ends, with the reason.
fn terminated(reason: &str, detail: Option<&str>) -> Option<Fatal> {
    Some(Fatal {
        sqlstate: SqlState::AdminShutdown,
        message: format!("pgvane: terminating connection because {reason}"),
        detail: detail.map(str::to_owned),
        hint: Some("Connect again: pgvane chooses another server, or waits for one.".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::io;
    use std::num::NonZeroU32;
    use std::time::Duration;

    use strum::VariantArray;

    use super::*;
    use crate::config::ConnectionRate;
    use crate::proxy::end::{EndKind, NotCarried, NotCarriedReason, ParkEnd};
    use crate::routing::{Cause, NoRoute};

    #[test]
    fn refusals_say_why_and_what_to_do() {
        let end = End::no_node(&NoRoute::NoLeader("no node claims to lead".into()), Some("node1: connection refused"));
        let fatal = client_message(&end, "write").expect("a client gets a message");
        assert_eq!(fatal.sqlstate, SqlState::CannotConnectNow);
        let detail = fatal.detail.expect("says why");
        assert_eq!(detail, "no leader: no node claims to lead; last failure: node1: connection refused.");
        assert!(fatal.hint.is_some());
    }

    const TROUBLESHOOTING: &str = include_str!("../../docs/troubleshooting.md");

    /// Ends of every kind that a client is told of, for the example values of the documentation.
    fn ends_that_are_told() -> Vec<End> {
        let host = || "192.0.2.7".to_owned();
        let rate = ConnectionRate { count: NonZeroU32::MIN.saturating_add(49), within: Duration::from_secs(1) };
        let broken = "the server closed the connection during the login";
        let mut ends = vec![
            End::NoNode("no leader".into()),
            End::HoldFull { max: 1000, are_nodes_full: false },
            End::HoldFull { max: 1000, are_nodes_full: true },
            End::NodesFull,
            End::SessionsFull(1000),
            End::ClientFull { host: host(), max: 100 },
            End::ClientTooFast { host: host(), rate },
            End::DescriptorsFull(1024),
            End::AddressNotAllowed(host()),
            End::UserNotAllowed("app".into()),
            End::DatabaseNotAllowed("shop".into()),
            End::NamesHidden,
            End::TlsRequired,
            End::ChannelBinding,
            End::ProxyHeader(ProxyFault::NoHeader(host())),
            End::LoginBroken(broken.into()),
            End::WrongNode(Cause::LostLead),
            End::DrainTimedOut(Cause::Operator),
            End::Rebalanced,
            End::NotCarried(NotCarried { reason: NotCarriedReason::State, why: "1 temporary object".into() }),
            End::ListenerRemoved,
            End::ClosedByOperator,
            End::Stopped,
            End::ServerClosed(None),
            End::ServerFailed(io::ErrorKind::ConnectionReset.into()),
            End::ServerUnresponsive(Duration::from_secs(90)),
            End::NotPostgres(NotPostgres::Version { major: 2, minor: 0 }),
            End::NotPostgres(NotPostgres::NoUser),
            End::NotPostgres(NotPostgres::ProxyHeader),
            End::NotPostgres(NotPostgres::AskedAgain),
            End::NotPostgres(NotPostgres::DataBeforeTls),
            End::NotPostgres(NotPostgres::Malformed("…".into())),
        ];
        let parked = [ParkEnd::NoLeader, ParkEnd::NewLeader, ParkEnd::ServerClosed];
        ends.extend(parked.map(End::Parked));
        ends.extend(Cause::ALL.into_iter().flat_map(|cause| [End::Cut(cause), End::Drained(cause)]));
        ends
    }

    #[test]
    fn the_documentation_lists_every_message_and_every_reason() {
        for end in ends_that_are_told() {
            let listener =
                ["write", "read"].map(|listener| client_message(&end, listener).expect("a client gets a message"));
            let is_listed = |fatal: &Fatal| {
                let code = fatal.sqlstate.code();
                TROUBLESHOOTING.contains(&format!("| {code} `{}`", fatal.message))
            };
            assert!(listener.iter().any(is_listed), "docs/troubleshooting.md does not list {:?}", listener[0]);
        }
        for kind in EndKind::VARIANTS {
            let reason = format!("`{}`", kind.label());
            assert!(TROUBLESHOOTING.contains(&reason), "docs/troubleshooting.md does not list {reason}");
        }
    }

    #[test]
    fn every_end_is_told_to_the_client_or_is_known_not_to_be() {
        let told: HashSet<EndKind> = ends_that_are_told().iter().map(EndKind::from).collect();
        let not_told = [
            EndKind::ClientClosed,
            EndKind::ClientFailed,
            EndKind::ClientLeftEarly,
            EndKind::StartupTimedOut,
            EndKind::TlsFailed,
            EndKind::PendingFull,
            EndKind::ClientLeftHeld,
            EndKind::ClientUnresponsive,
            EndKind::Cancel,
            EndKind::Lost,
        ];
        let all: HashSet<EndKind> = EndKind::VARIANTS.iter().copied().collect();
        assert_eq!(told.union(&not_told.into()).copied().collect::<HashSet<_>>(), all);
    }
}
