//! What two processes say to each other when one takes over from the other: the format, and its numbers.
//!
//! The two may be different versions of pgvane. The messages up to [`Message::Accepting`] never change their form, so any
//! two versions understand them: with them the listening sockets go over. What comes after depends on the format that both
//! know. Without one, no session moves: those that run end in the old process, as when pgvane is stopped.
//!
//! A packet is the length of the message in four bytes, the message in JSON, and for a session its bytes in flight.

use std::io;

use serde::{Deserialize, Serialize};

use crate::admin::WrittenLog;
use crate::net::packets::PACKET_LENGTH_MAX;
use crate::probe::history::Record;
use crate::proxy::sessions::moving::SessionState;

/// The formats that this version knows, the best one first. Change the number with any change of a message after
/// [`Message::Accepting`], or of what such a message contains.
///
/// - 3: the keys of roles go along
/// - 2: a session can have the key of the server to which it was carried, and how it has begun
/// - 1: of version 0.2.0, without these
pub(super) const FORMATS: &[u32] = &[3, 2, 1];

/// How many items there are in one message: a message has to fit into a packet.
pub(super) const ITEMS_MAX: usize = 100;

/// One message.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    /// New process: the formats that it knows, and its version.
    Hello { formats: Vec<u32>, version: String },
    /// Old process: the format of what follows [`Message::Accepting`], and its version.
    Welcome { format: Option<u32>, version: String },
    /// Old process: sockets of a listener, at this place of the configuration. Several messages can have the same place.
    Place { listener: String, bind: String },
    /// Old process: the socket of the admin port.
    Admin { bind: String },
    /// Old process: an admin socket at this path.
    AdminSocket { path: String },
    /// Old process: there are no more sockets.
    Opened,
    /// New process: it runs, and it knows its nodes.
    Ready,
    /// Old process, after the messages that say what it knows: it accepts no connections any more.
    TakeOver,
    /// New process: it accepts connections.
    Accepting,

    /// Old process: how long the clock of its sessions has run, and the number of the first session of the new process.
    Clock { age_ms: u64, first_session: u64 },
    /// Old process: what operators have set of a node.
    Administered { cluster: String, node: String, state: String, weight: Option<u32> },
    /// Old process: what operators have changed, and who.
    Operators(WrittenLog),
    /// Old process: changes of the lead that it has seen, oldest first.
    History { cluster: String, records: Vec<Record> },
    /// Old process: what it has counted since the last such message.
    Figures(Vec<Figure>),
    /// Old process: cancel keys of its sessions, which may stay there for a while.
    Keys(Vec<Key>),
    /// Old process: how many of its sessions on this node have keys that it cannot read.
    UnseenKeys { listener: String, node: String, sessions: u32 },
    /// Old process: it knows the key of this role, which follows.
    RoleKey { cluster: String, role: String },
    /// Old process: a session, with the client's socket and the server's. Then follow its bytes in flight: so many to the
    /// server, the rest to the client.
    Session { id: u64, for_server: usize, state: Box<SessionState> },
    /// New process: it serves this session.
    Taken { id: u64 },
    /// New process: it does not, and the old one has to.
    Refused { id: u64, why: String },
    /// Old process: so many sessions are left there.
    Left { sessions: usize },
    /// New process: it stops because it was told to, not because it failed.
    Stopping,
}

/// Something that has been counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Figure {
    /// What: the name of a metric or of a number on the stats page.
    pub(super) name: String,
    /// Of what: labels and their values.
    pub(super) of: Vec<(String, String)>,
    /// How much.
    pub(super) value: f64,
}

/// A cancel key: the body of `BackendKeyData`, and where the session is.
#[derive(Serialize, Deserialize)]
pub(super) struct Key {
    pub(super) key: Vec<u8>,
    /// The same by which the node knows the session, if it was carried there.
    #[serde(default)]
    pub(super) key_there: Option<Vec<u8>>,
    pub(super) cluster: String,
    pub(super) node: String,
    pub(super) port: Option<std::num::NonZeroU16>,
}

impl std::fmt::Debug for Key {
    /// Never shows the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a key on {}", self.node)
    }
}

/// The best format that both know.
pub(super) fn common_format(theirs: &[u32]) -> Option<u32> {
    FORMATS.iter().copied().find(|format| theirs.contains(format))
}

/// A packet with this message and, behind it, these bytes. Errors: it is too long.
pub(super) fn encode(message: &Message, in_flight: &[&[u8]]) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(message)?;
    let length = u32::try_from(json.len()).map_err(io::Error::other)?;
    let packet = [&[&length.to_be_bytes()[..], &json], in_flight].concat().concat();
    match packet.len() <= PACKET_LENGTH_MAX {
        true => Ok(packet),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is too long for a packet")),
    }
}

/// The message of a packet, and the bytes behind it. Errors: it is none that this version knows.
pub(super) fn decode(packet: &[u8]) -> io::Result<(Message, &[u8])> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "the packet is not a message");
    let (length, rest) = packet.split_first_chunk::<4>().ok_or_else(invalid)?;
    let (json, in_flight) = rest.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or_else(invalid)?;
    Ok((serde_json::from_slice(json)?, in_flight))
}
