//! Why a node cannot take a session, and what that says about the node.

use std::io;

use bytes::BytesMut;

use crate::cluster::Suspicion;
use crate::routing::Cause;

/// Why a node cannot take a session.
pub struct NodeFailure {
    /// For the log, and for the client if no other node can take the session. Follows the node's name.
    pub why: String,
    /// The node's own error message, which the client gets if no other node can take the session.
    pub server_error: Option<BytesMut>,
    /// Why the node's role has to be checked, if it has.
    pub suspicion: Option<Suspicion>,
    /// Whether the node's PostgreSQL can be reached.
    pub reachability: Reachability,
}

/// What a failure says about the connection from pgvane to a node's PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reachability {
    /// Nothing: the node has another role, or it refuses for a reason of its own.
    Reachable,
    /// It fails now. It may work a moment later.
    Failing,
    /// It fails because of how pgvane or the node is configured: trying again does not help.
    Misconfigured,
}

impl NodeFailure {
    /// A failure without an error message of the node.
    pub fn new(why: impl Into<String>, suspicion: impl Into<Option<Suspicion>>) -> NodeFailure {
        let suspicion = suspicion.into();
        let reachability = if suspicion.is_some() { Reachability::Failing } else { Reachability::Reachable };
        NodeFailure { why: why.into(), server_error: None, suspicion, reachability }
    }

    /// The node is no longer the right one for the session, because of this.
    pub fn no_longer_eligible(cause: Cause) -> NodeFailure {
        NodeFailure::new(format!("is no longer eligible: {}", cause.reason()), None)
    }

    /// The node accepted the connection and then sent nothing.
    pub fn no_answer() -> NodeFailure {
        NodeFailure::new("accepted the connection but did not answer in time", Suspicion::ConnectFailed)
    }

    /// The connection ended before the node answered.
    pub fn closed_early(error: &io::Error) -> NodeFailure {
        let why = match error.kind() {
            io::ErrorKind::UnexpectedEof => "closed the connection before it answered".to_owned(),
            _ => format!("the connection failed before it answered: {error}"),
        };
        NodeFailure::new(why, Suspicion::ConnectFailed)
    }
}
