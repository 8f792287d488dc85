//! What every message has in common, and the messages that are always the same bytes.
//!
//! Source: PostgreSQL's documentation, "Message Formats"
//! (<https://www.postgresql.org/docs/current/protocol-message-formats.html>).

use bytes::BufMut;
use serde::{Deserialize, Serialize};

/// One byte of type and four bytes of length. The length counts itself and the body, not the type. The packets that a
/// client sends before its session (startup, `SSLRequest`, `CancelRequest`) have no type.
pub const HEADER_LENGTH: usize = 5;

/// The types of the messages that clients send.
pub(super) mod from_client {
    pub(in crate::protocol) const BIND: u8 = b'B';
    pub(in crate::protocol) const CLOSE: u8 = b'C';
    pub(in crate::protocol) const COPY_DATA: u8 = b'd';
    pub(in crate::protocol) const COPY_DONE: u8 = b'c';
    pub(in crate::protocol) const COPY_FAIL: u8 = b'f';
    pub(in crate::protocol) const DESCRIBE: u8 = b'D';
    pub(in crate::protocol) const EXECUTE: u8 = b'E';
    pub(in crate::protocol) const FLUSH: u8 = b'H';
    pub(in crate::protocol) const FUNCTION_CALL: u8 = b'F';
    pub(in crate::protocol) const PARSE: u8 = b'P';
    pub(in crate::protocol) const QUERY: u8 = b'Q';
    /// Every answer to a request for authentication: `PasswordMessage`, `SASLInitialResponse` and the like.
    pub(in crate::protocol) const RESPONSE: u8 = b'p';
    pub(in crate::protocol) const SYNC: u8 = b'S';
    pub(in crate::protocol) const TERMINATE: u8 = b'X';
}

/// The types of the messages that servers send.
pub(super) mod from_server {
    pub(in crate::protocol) const AUTHENTICATION: u8 = b'R';
    pub(in crate::protocol) const BACKEND_KEY_DATA: u8 = b'K';
    pub(in crate::protocol) const BIND_COMPLETE: u8 = b'2';
    pub(in crate::protocol) const CLOSE_COMPLETE: u8 = b'3';
    pub(in crate::protocol) const COMMAND_COMPLETE: u8 = b'C';
    pub(in crate::protocol) const COPY_IN_RESPONSE: u8 = b'G';
    pub(in crate::protocol) const DATA_ROW: u8 = b'D';
    pub(in crate::protocol) const ERROR_RESPONSE: u8 = b'E';
    pub(in crate::protocol) const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
    pub(in crate::protocol) const NOTICE: u8 = b'N';
    pub(in crate::protocol) const NOTIFICATION: u8 = b'A';
    pub(in crate::protocol) const PARAMETER_STATUS: u8 = b'S';
    pub(in crate::protocol) const PARSE_COMPLETE: u8 = b'1';
    pub(in crate::protocol) const READY_FOR_QUERY: u8 = b'Z';
}

/// `Terminate`: the client closes the connection. Length 4, no body.
pub const TERMINATE: &[u8] = b"X\0\0\0\x04";

/// `SSLRequest`: the client asks for TLS. Length 8 and the code 80877103, which is 1234 and 5679
/// (`NEGOTIATE_SSL_CODE` in `src/include/libpq/pqcomm.h`).
pub const SSL_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";

/// Adds a message with this body.
pub(super) fn put_message(to: &mut Vec<u8>, kind: u8, body: &[&[u8]]) {
    let length: usize = body.iter().map(|part| part.len()).sum();
    to.put_u8(kind);
    to.put_u32(length as u32 + 4);
    body.iter().for_each(|part| to.extend_from_slice(part));
}

/// The last `N` bytes of a stream that arrives in chunks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(into = "Vec<u8>", from = "Vec<u8>")]
pub(super) struct Tail<const N: usize> {
    bytes: [u8; N],
    length: u8,
}

impl<const N: usize> Default for Tail<N> {
    fn default() -> Tail<N> {
        const { assert!(N <= u8::MAX as usize, "the length is one byte") };
        Tail { bytes: [0; N], length: 0 }
    }
}

impl<const N: usize> From<Tail<N>> for Vec<u8> {
    fn from(tail: Tail<N>) -> Vec<u8> {
        tail.as_slice().to_vec()
    }
}

impl<const N: usize> From<Vec<u8>> for Tail<N> {
    fn from(bytes: Vec<u8>) -> Tail<N> {
        let mut tail = Tail::default();
        tail.push(&bytes);
        tail
    }
}

impl<const N: usize> Tail<N> {
    /// Adds the next bytes of the stream, and forgets the oldest ones where there is no room.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let added = &bytes[bytes.len().saturating_sub(N)..];
        let length = usize::from(self.length);
        let forgotten = (length + added.len()).saturating_sub(N);
        self.bytes.copy_within(forgotten..length, 0);
        let end = length - forgotten + added.len();
        self.bytes[length - forgotten..end].copy_from_slice(added);
        self.length = end as u8;
    }

    /// How many of its last bytes are the first ones of `text`, which is longer than it.
    pub(super) fn begun_with(&self, text: &[u8]) -> usize {
        (1..=self.as_slice().len()).rev().find(|length| self.as_slice().ends_with(&text[..*length])).unwrap_or_default()
    }

    /// Adds bytes as long as there is room, and ignores the others.
    pub(super) fn fill(&mut self, bytes: &[u8]) {
        let room = N - usize::from(self.length);
        self.push(&bytes[..bytes.len().min(room)]);
    }

    /// The bytes.
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Forgets all bytes.
    pub(super) fn clear(&mut self) {
        self.length = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_the_last_bytes_in_any_chunks() {
        let stream = b"0123456789";
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let mut tail = Tail::<4>::default();
                for chunk in [&stream[..first], &stream[first..second], &stream[second..]] {
                    tail.push(chunk);
                }
                assert_eq!(tail.as_slice(), b"6789", "{first}, {second}");
            }
        }
    }

    #[test]
    fn a_full_tail_takes_no_more_when_it_is_filled() {
        let mut tail = Tail::<4>::default();
        tail.fill(b"012");
        tail.fill(b"345");
        assert_eq!(tail.as_slice(), b"0123");
        tail.clear();
        assert_eq!(tail.as_slice(), b"");
    }
}
