//! What is left of a relay that has left its server.

use bytes::BytesMut;

use crate::net::Stream;
use crate::protocol::framing::Framing;

/// What is left of a relay without its server.
#[derive(Debug)]
pub struct ClientSide {
    /// The connection to the client.
    pub stream: Stream,
    /// Bytes of the client that no server has got.
    pub for_server: BytesMut,
    /// Bytes that the client has not got: whole messages, or the end of one.
    pub for_client: BytesMut,
    /// The position in the protocol.
    pub(super) framing: Framing,
}
