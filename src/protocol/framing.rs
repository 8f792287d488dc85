//! Follows the server's stream from message to message without holding any of it back.
//!
//! Message format: one byte of type, four of length (which counts itself), the body. See PostgreSQL's
//! documentation, "Message Formats".

use super::error_response::sqlstate_in;

const ERROR_RESPONSE: u8 = b'E';
const READY_FOR_QUERY: u8 = b'Z';
const HEADER_LENGTH: usize = 5;

/// How much of an error's body is kept to find its SQLSTATE: severity twice, even translated, and the code fit.
const KEPT_MAX: usize = 48;

/// A session's state as its last `ReadyForQuery` told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transaction {
    /// Not in a transaction.
    Idle,
    /// In a transaction, whether sound or failed.
    Open,
}

/// Where the server's stream stands.
#[derive(Debug, Clone)]
pub struct Framing {
    header: [u8; HEADER_LENGTH],
    header_filled: u8,
    is_lost: bool,
    kept_length: u8,
    body_left: u32,
    kept: [u8; KEPT_MAX],
    transaction: Option<Transaction>,
    newest_error: Option<[u8; 5]>,
}

impl Default for Framing {
    /// At the beginning of a message.
    fn default() -> Framing {
        Framing {
            header: [0; HEADER_LENGTH],
            header_filled: 0,
            is_lost: false,
            kept_length: 0,
            body_left: 0,
            kept: [0; KEPT_MAX],
            transaction: None,
            newest_error: None,
        }
    }
}

impl Framing {
    /// Takes in the next bytes of the stream, in any portions.
    pub fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.is_lost {
            bytes = if self.body_left > 0 { self.follow_body(bytes) } else { self.follow_header(bytes) };
        }
    }

    /// Whether the last byte followed was the last of a message, so that another message may be put behind it.
    pub fn is_at_boundary(&self) -> bool {
        !self.is_lost && self.header_filled == 0
    }

    /// Whether the stream is at rest after a `ReadyForQuery`, and in which state. `None` while a reply is on its way.
    pub fn resting(&self) -> Option<Transaction> {
        self.transaction.filter(|_| self.is_at_boundary())
    }

    /// The SQLSTATE of the newest `ErrorResponse` since this was last asked.
    pub fn take_error(&mut self) -> Option<[u8; 5]> {
        self.newest_error.take()
    }

    fn kind(&self) -> u8 {
        self.header[0]
    }

    fn follow_header<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let filled = usize::from(self.header_filled);
        let (taken, rest) = bytes.split_at(bytes.len().min(HEADER_LENGTH - filled));
        self.header[filled..filled + taken.len()].copy_from_slice(taken);
        self.header_filled += taken.len() as u8;
        self.transaction = None;
        if usize::from(self.header_filled) == HEADER_LENGTH {
            let [_, length @ ..] = self.header;
            match u32::from_be_bytes(length).checked_sub(4) {
                Some(body_length) => self.body_left = body_length,
                None => self.is_lost = true,
            }
            self.kept_length = 0;
            self.end_message_if_whole();
        }
        rest
    }

    fn follow_body<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let here = bytes.len().min(self.body_left as usize);
        let (taken, rest) = bytes.split_at(here);
        if matches!(self.kind(), ERROR_RESPONSE | READY_FOR_QUERY) {
            let kept = usize::from(self.kept_length);
            let more = taken.len().min(KEPT_MAX - kept);
            self.kept[kept..kept + more].copy_from_slice(&taken[..more]);
            self.kept_length += more as u8;
        }
        self.body_left -= here as u32;
        self.end_message_if_whole();
        rest
    }

    fn end_message_if_whole(&mut self) {
        if self.is_lost || self.body_left > 0 {
            return;
        }
        self.header_filled = 0;
        let body = &self.kept[..usize::from(self.kept_length)];
        match (self.header[0], body) {
            (READY_FOR_QUERY, [b'I']) => self.transaction = Some(Transaction::Idle),
            (READY_FOR_QUERY, [b'T' | b'E']) => self.transaction = Some(Transaction::Open),
            (ERROR_RESPONSE, body) => self.newest_error = sqlstate_in(body),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::error_response::{Fatal, SqlState};

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend((body.len() as u32 + 4).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn a_resting_session_shows_its_transaction() {
        let mut framing = Framing::default();
        assert!(framing.is_at_boundary());
        assert_eq!(framing.resting(), None, "nothing said yet");
        framing.follow(&message(b'C', b"SELECT 1\0"));
        framing.follow(&message(b'Z', b"I"));
        assert_eq!(framing.resting(), Some(Transaction::Idle));
        framing.follow(&message(b'C', b"BEGIN\0"));
        assert_eq!(framing.resting(), None, "a reply is on its way");
        framing.follow(&message(b'Z', b"T"));
        assert_eq!(framing.resting(), Some(Transaction::Open));
    }

    #[test]
    fn errors_show_their_sqlstate_once() {
        let fatal = Fatal { sqlstate: SqlState::AdminShutdown, message: "m".repeat(500), detail: None, hint: None };
        let mut framing = Framing::default();
        framing.follow(&fatal.encode());
        assert_eq!(framing.take_error(), Some(*b"57P01"));
        assert_eq!(framing.take_error(), None);
    }

    #[test]
    fn an_impossible_length_loses_the_thread_for_good() {
        let mut framing = Framing::default();
        framing.follow(&[b'D', 0, 0, 0, 3]);
        framing.follow(&message(b'Z', b"I"));
        assert!(!framing.is_at_boundary());
        assert_eq!(framing.resting(), None);
    }

    proptest! {
        /// However the stream is cut up, the boundaries are seen where they are and nowhere else.
        #[test]
        fn boundaries_do_not_depend_on_chunking(
            bodies in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..90)), 1..12),
            cuts in proptest::collection::vec(1usize..40, 1..200),
        ) {
            let mut stream = Vec::new();
            let mut boundaries = std::collections::HashSet::new();
            for (kind, body) in &bodies {
                stream.extend(message(*kind, body));
                boundaries.insert(stream.len());
            }
            let mut framing = Framing::default();
            let (mut at, mut cuts) = (0, cuts.into_iter().cycle());
            while at < stream.len() {
                let next = (at + cuts.next().expect("cycles")).min(stream.len());
                framing.follow(&stream[at..next]);
                at = next;
                prop_assert_eq!(framing.is_at_boundary(), boundaries.contains(&at));
            }
        }
    }
}
