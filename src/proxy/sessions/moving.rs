//! What goes along when a session moves to another process: a few words beside its two sockets. The two may be different
//! versions of pgvane, so this is a format: a change of [`SessionState`], or of what it contains, needs another number for
//! the format (`app::upgrade::message`).

use std::os::fd::OwnedFd;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::openings::Opening;
use super::owner::Owner;
use crate::cluster::ports::SessionPort;
use crate::protocol::framing::Framing;

/// How many sessions may wait to be sent to the other process.
pub const QUEUE_LENGTH: usize = 64;

/// What there is of a session besides its sockets and the bytes in flight.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionState {
    /// Its number.
    pub id: u64,
    /// The name of its listener.
    pub listener: String,
    /// The name of its cluster.
    pub cluster: String,
    /// The name of its node.
    pub node: String,
    /// Whose session it is.
    pub owner: Owner,
    /// How long ago its client connected.
    pub age_ms: u64,
    /// How long it has been on the node.
    pub node_seconds: u32,
    /// Bytes to the server and to the client so far.
    pub bytes: [u64; 2],
    /// The body of `BackendKeyData`, if the server has sent one that pgvane could read.
    pub key: Option<Vec<u8>>,
    /// The same by which its node knows it, if it was carried there from another one.
    #[serde(default)]
    pub key_there: Option<Vec<u8>>,
    /// How it has begun, if it may have to log in again at another server.
    #[serde(default)]
    pub opening: Option<Opening>,
    /// The port of the node that it uses.
    pub port: SessionPort,
    /// The position in the protocol; `None` if client and server encrypt end to end.
    pub framing: Option<Framing>,
}

/// A session on its way to another process.
#[derive(Debug)]
pub struct MovingSession {
    /// Its state.
    pub state: SessionState,
    /// Bytes in flight, to the server and to the client.
    pub in_flight: [Vec<u8>; 2],
    /// The client's socket and the server's. Where the session leaves, it keeps its own until it is told the answer.
    pub sockets: [OwnedFd; 2],
    /// Since when nothing of it is read.
    pub since: Instant,
}

/// A session that waits for the answer of the other process: whether that has taken it. Dropping the answer is a no.
pub type Departure = (MovingSession, oneshot::Sender<bool>);

/// Where sessions go that move out.
pub type Exit = mpsc::Sender<Departure>;
