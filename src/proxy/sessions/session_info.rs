//! What operators see of a session.

use std::fmt;
use std::sync::Arc;

use super::control::SessionControl;
use super::origin::Origin;
use super::owner::Owner;
use crate::cluster::NodeId;
use crate::routing::SessionPark;

/// What operators see of a session.
#[derive(Debug, Clone)]
pub struct SessionInfo {
    /// Its number: of this session only, as long as the process lives. It keeps the number when another process takes over.
    pub id: u64,
    /// Its listener and cluster.
    pub origin: Arc<Origin>,
    /// The node.
    pub node: NodeId,
    /// Address, user, database and application of the client; `None` during the login.
    pub owner: Option<Owner>,
    /// How long it has been on the node.
    pub seconds: u32,
    /// It is to end between two transactions.
    pub is_draining: bool,
    /// Whether it is parked.
    pub park: SessionPark,
    /// Client and server encrypt end to end.
    pub is_encrypted: bool,
    /// Bytes to the server and to the client.
    pub bytes: [u64; 2],
}

impl fmt::Display for SessionInfo {
    /// The client and the age of the session.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.owner {
            Some(owner) => write!(f, "{owner} for {} s", self.seconds),
            None => write!(f, "a client that is logging in, for {} s", self.seconds),
        }
    }
}

impl SessionInfo {
    /// Its state in a word: `login`, `open`, `draining` or `parked`.
    pub fn state(&self) -> &'static str {
        match (&self.owner, self.is_draining) {
            (None, _) => "login",
            (Some(_), true) => "draining",
            (Some(_), false) if matches!(self.park, SessionPark::Parked | SessionPark::Carrying) => "parked",
            (Some(_), false) => "open",
        }
    }

    pub(super) fn of(id: u64, control: &SessionControl, now: u32) -> SessionInfo {
        SessionInfo {
            id,
            origin: Arc::clone(&control.origin),
            node: control.node(),
            owner: control.owner().cloned(),
            seconds: now.saturating_sub(control.since_seconds()),
            is_draining: control.is_draining(),
            park: control.park(),
            is_encrypted: control.is_visible() == Some(false),
            bytes: control.bytes().read(),
        }
    }
}
