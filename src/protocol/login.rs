//! Reads what the server says between the startup packet and the first `ReadyForQuery`.
//!
//! Until the server asks the client to prove who it is, nothing has been promised to anybody: its answers can be
//! held back, thrown away, and the client's opening sent to another node. [`next`] tells what comes next.

use super::cancel::CancelKey;
use super::error_response::{ServerError, read_error};

const HEADER_LENGTH: usize = 5;

/// Messages before `ReadyForQuery` are small. One that is longer than this ends our reading along.
const MESSAGE_LENGTH_MAX: usize = 64 * 1024;

/// One whole message of the server's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// `AuthenticationOk`: the client is let in; no more will be asked of it.
    LetIn,
    /// Any other authentication request: the client has to answer.
    Challenge,
    /// The key that cancels this session's queries.
    Key(CancelKey),
    /// `in_hot_standby`, reported at login since PostgreSQL 14: whether the server is in recovery.
    InHotStandby(bool),
    /// An error. What follows is the end.
    Error(ServerError),
    /// `ReadyForQuery`: the login is complete.
    Ready,
    /// Something that needs no attention.
    Other,
}

/// What lies at the beginning of the bytes received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Less than a message.
    Incomplete,
    /// A whole message of this many bytes.
    Message(Said, usize),
    /// Not the protocol as we know it: it cannot be followed any further.
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

/// Whether these bytes are one whole message or several.
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

fn meaning(kind: u8, body: &[u8]) -> Said {
    match kind {
        b'R' if body == [0, 0, 0, 0] => Said::LetIn,
        b'R' => Said::Challenge,
        b'K' => CancelKey::from_backend_key_data(body).map_or(Said::Other, Said::Key),
        b'S' => match body {
            b"in_hot_standby\0on\0" => Said::InHotStandby(true),
            b"in_hot_standby\0off\0" => Said::InHotStandby(false),
            _ => Said::Other,
        },
        b'E' => Said::Error(read_error(body).unwrap_or(ServerError { sqlstate: *b"XX000", is_fatal: true })),
        b'Z' => Said::Ready,
        _ => Said::Other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend((body.len() as u32 + 4).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn said(kind: u8, body: &[u8]) -> Said {
        match next(&message(kind, body)) {
            Next::Message(said, length) => {
                assert_eq!(length, body.len() + 5);
                said
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_words_of_a_login_are_understood() {
        assert_eq!(said(b'R', &[0, 0, 0, 0]), Said::LetIn);
        assert_eq!(said(b'R', &[0, 0, 0, 10, b'S', 0, 0]), Said::Challenge);
        assert_eq!(said(b'S', b"in_hot_standby\0on\0"), Said::InHotStandby(true));
        assert_eq!(said(b'S', b"server_version\x0015.8\0"), Said::Other);
        assert_eq!(
            said(b'E', b"SFATAL\0VFATAL\0C57P03\0Mstarting up\0\0"),
            Said::Error(ServerError { sqlstate: *b"57P03", is_fatal: true })
        );
        assert_eq!(said(b'Z', b"I"), Said::Ready);
        assert!(matches!(said(b'K', &[0; 8]), Said::Key(_)));
    }

    #[test]
    fn old_protocol_errors_and_other_noise_are_unreadable() {
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
