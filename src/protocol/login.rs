//! Reads the server's messages between the startup packet and the first `ReadyForQuery`.
//!
//! Until the server asks the client to authenticate, its answers can be held back or discarded, and the client's
//! startup packet can be sent to another node. [`next`] reads one message.

use super::cancel::CancelKey;
use super::error_response::{ServerError, read_error};
use super::message::HEADER_LENGTH;
use super::message::from_server::{
    AUTHENTICATION, BACKEND_KEY_DATA, ERROR_RESPONSE, PARAMETER_STATUS, READY_FOR_QUERY,
};

/// Messages before `ReadyForQuery` are small. A longer one is [`Next::Unreadable`].
const MESSAGE_LENGTH_MAX: usize = 64 * 1024;

/// One whole message of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerMessage {
    /// The client is authenticated; the server asks it nothing more.
    AuthenticationOk,
    /// Any other authentication request: the client has to answer.
    AuthenticationRequest,
    /// The key that cancels this session's queries.
    Key(CancelKey),
    /// `in_hot_standby`, reported at login since PostgreSQL 14: whether the server is in recovery.
    InHotStandby(bool),
    /// An error. The server closes the connection after it.
    Error(ServerError),
    /// `ReadyForQuery`: the login is complete.
    Ready,
    /// Any other message.
    Other,
}

/// What the received bytes begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// A part of a message.
    Incomplete,
    /// A whole message of this many bytes.
    Message(ServerMessage, usize),
    /// This is not PostgreSQL's protocol; nothing more can be read.
    Unreadable,
}

/// Reads the first message in `received`.
pub fn next(received: &[u8]) -> Next {
    let Some((&[kind, ref length @ ..], _)) = received.split_first_chunk::<HEADER_LENGTH>() else {
        return Next::Incomplete;
    };
    let length = u32::from_be_bytes(*length) as usize + 1;
    if !(HEADER_LENGTH..=MESSAGE_LENGTH_MAX).contains(&length) {
        return Next::Unreadable;
    }
    match received.get(HEADER_LENGTH..length) {
        Some(body) => Next::Message(meaning(kind, body), length),
        None => Next::Incomplete,
    }
}

/// Whether these bytes are one or more whole messages.
pub fn is_whole_message(mut bytes: &[u8]) -> bool {
    while let Some((&[_, ref length @ ..], _)) = bytes.split_first_chunk::<HEADER_LENGTH>() {
        match bytes.get(u32::from_be_bytes(*length) as usize + 1..) {
            Some([]) => return true,
            Some(rest) => bytes = rest,
            None => return false,
        }
    }
    false
}

fn meaning(kind: u8, body: &[u8]) -> ServerMessage {
    match kind {
        AUTHENTICATION if body == [0, 0, 0, 0] => ServerMessage::AuthenticationOk,
        AUTHENTICATION => ServerMessage::AuthenticationRequest,
        BACKEND_KEY_DATA => CancelKey::from_backend_key_data(body).map_or(ServerMessage::Other, ServerMessage::Key),
        PARAMETER_STATUS => match body {
            b"in_hot_standby\0on\0" => ServerMessage::InHotStandby(true),
            b"in_hot_standby\0off\0" => ServerMessage::InHotStandby(false),
            _ => ServerMessage::Other,
        },
        ERROR_RESPONSE => {
            ServerMessage::Error(read_error(body).unwrap_or(ServerError { sqlstate: *b"XX000", is_fatal: true }))
        }
        READY_FOR_QUERY => ServerMessage::Ready,
        _ => ServerMessage::Other,
    }
}

#[cfg(test)]
mod tests {
    use pgvane_loadtest::messages::message;
    use proptest::prelude::*;

    use super::*;

    fn server_message(kind: u8, body: &[u8]) -> ServerMessage {
        match next(&message(kind, body)) {
            Next::Message(message, length) => {
                assert_eq!(length, body.len() + 5);
                message
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_messages_of_a_login_are_recognised() {
        assert_eq!(server_message(b'R', &[0, 0, 0, 0]), ServerMessage::AuthenticationOk);
        assert_eq!(server_message(b'R', &[0, 0, 0, 10, b'S', 0, 0]), ServerMessage::AuthenticationRequest);
        assert_eq!(server_message(b'S', b"in_hot_standby\0on\0"), ServerMessage::InHotStandby(true));
        assert_eq!(server_message(b'S', b"server_version\x0015.8\0"), ServerMessage::Other);
        assert_eq!(
            server_message(b'E', b"SFATAL\0VFATAL\0C57P03\0Mstarting up\0\0"),
            ServerMessage::Error(ServerError { sqlstate: *b"57P03", is_fatal: true })
        );
        assert_eq!(server_message(b'Z', b"I"), ServerMessage::Ready);
        assert!(matches!(server_message(b'K', &[0; 8]), ServerMessage::Key(_)));
    }

    #[test]
    fn errors_of_the_old_protocol_and_other_bytes_are_unreadable() {
        assert_eq!(next(b"EFATAL:  sorry, too many clients\n\0"), Next::Unreadable);
        assert_eq!(next(&[b'R', 0, 0, 0, 3]), Next::Unreadable);
        assert_eq!(next(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Next::Unreadable);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_overrun(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Next::Message(_, length) = next(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
