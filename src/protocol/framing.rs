//! Follows the server's stream from message to message without holding any of it back.
//!
//! Message format: one byte of type, four of length (which counts itself), the body. See PostgreSQL's
//! documentation, "Message Formats".

use super::error_response::sqlstate_in;

const ERROR_RESPONSE: u8 = b'E';
const READY_FOR_QUERY: u8 = b'Z';
const COMMAND_COMPLETE: u8 = b'C';
const HEADER_LENGTH: usize = 5;

/// How much of an error's body is kept to find its SQLSTATE: severity twice, even translated, and the code fit. Of a
/// stream whose thread is lost, as much of the end is kept: a command's tag and `ReadyForQuery` fit.
const KEPT_MAX: usize = 48;

/// A session's state as its last `ReadyForQuery` told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transaction {
    /// Not in a transaction.
    Idle,
    /// In a transaction, whether sound or failed.
    Open,
}

/// Whether it is known where messages begin and end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Thread {
    /// Known. Exits: to `Lost` when bytes pass by unseen, to `Broken` at a length that no message has.
    Followed,
    /// Unknown. Exits: to `Followed` when the stream rests behind an end that is recognised.
    Lost,
    /// This is not the protocol as we know it. No exit.
    Broken,
}

/// Where the server's stream stands.
#[derive(Debug, Clone)]
pub struct Framing {
    header: [u8; HEADER_LENGTH],
    header_filled: u8,
    thread: Thread,
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
            thread: Thread::Followed,
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
        if self.thread == Thread::Lost {
            return self.keep_end(bytes);
        }
        while !bytes.is_empty() && self.thread == Thread::Followed {
            bytes = if self.body_left > 0 { self.follow_body(bytes) } else { self.follow_header(bytes) };
        }
    }

    /// Takes in that bytes have passed by unseen: the thread is lost.
    pub fn lose(&mut self) {
        if self.thread != Thread::Broken {
            *self = Framing { thread: Thread::Lost, ..Framing::default() };
        }
    }

    /// Takes in that the client has sent something: an answer to it is due, and until that is complete the stream
    /// does not rest.
    pub fn asked(&mut self) {
        self.transaction = None;
        if self.thread == Thread::Lost {
            self.kept_length = 0; // the end of an earlier answer is not that of this one
        }
    }

    /// Takes in that the stream has stopped for the moment: a lost thread is found again if it has stopped behind a
    /// whole `CommandComplete` and `ReadyForQuery`.
    ///
    /// `ReadyForQuery` alone would not do: its six bytes may stand in a row of data. Both messages whole, with lengths
    /// that agree and a command's tag in capitals, cannot stand in a row in text format, whose values have no zero
    /// bytes. What is left are values in binary format that were made to look so, at the very place where the stream
    /// stops. An `ErrorResponse` before `ReadyForQuery` is not recognised; the next command's end will be.
    pub fn comes_to_rest(&mut self) {
        if self.thread == Thread::Lost
            && let Some(transaction) = end_of_command(&self.kept[..usize::from(self.kept_length)])
        {
            *self = Framing { transaction: Some(transaction), ..Framing::default() };
        }
    }

    /// Whether the last byte followed was the last of a message, so that another message may be put behind it.
    pub fn is_at_boundary(&self) -> bool {
        self.thread == Thread::Followed && self.header_filled == 0
    }

    /// Whether the stream is at rest after a `ReadyForQuery`, and in which state. `None` while a reply is on its way.
    pub fn resting(&self) -> Option<Transaction> {
        self.transaction.filter(|_| self.is_at_boundary())
    }

    /// The SQLSTATE of the newest `ErrorResponse` since this was last asked.
    pub fn take_error(&mut self) -> Option<[u8; 5]> {
        self.newest_error.take()
    }

    /// Keeps the last bytes of the stream.
    fn keep_end(&mut self, bytes: &[u8]) {
        let taken = &bytes[bytes.len().saturating_sub(KEPT_MAX)..];
        let kept = usize::from(self.kept_length);
        let gone = (kept + taken.len()).saturating_sub(KEPT_MAX);
        self.kept.copy_within(gone..kept, 0);
        self.kept[kept - gone..kept - gone + taken.len()].copy_from_slice(taken);
        self.kept_length = (kept - gone + taken.len()) as u8;
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
                None => self.thread = Thread::Broken,
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
        if self.thread == Thread::Broken || self.body_left > 0 {
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

/// The state in `ReadyForQuery`, if `stream` ends with that and a whole `CommandComplete` before it.
fn end_of_command(stream: &[u8]) -> Option<Transaction> {
    let (command, ready) = stream.split_last_chunk::<6>()?;
    let transaction = match ready {
        [READY_FOR_QUERY, 0, 0, 0, 5, b'I'] => Transaction::Idle,
        [READY_FOR_QUERY, 0, 0, 0, 5, b'T' | b'E'] => Transaction::Open,
        _ => return None,
    };
    let is_whole = |at: usize| {
        let message = &command[at..];
        let Some((&[kind, ref length @ ..], body)) = message.split_first_chunk::<HEADER_LENGTH>() else { return false };
        kind == COMMAND_COMPLETE
            && u32::from_be_bytes(*length) as usize + 1 == message.len()
            && body.split_last().is_some_and(|(end, tag)| *end == 0 && is_command_tag(tag))
    };
    (0..command.len()).any(is_whole).then_some(transaction)
}

/// `src/include/tcop/cmdtaglist.h`: words in capitals, and the numbers that some carry.
fn is_command_tag(tag: &[u8]) -> bool {
    tag.first().is_some_and(u8::is_ascii_uppercase)
        && tag.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b' ')
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

    fn end(tag: &[u8], state: u8) -> Vec<u8> {
        [message(b'C', tag), message(b'Z', &[state])].concat()
    }

    #[test]
    fn a_lost_thread_is_found_at_the_end_of_a_command_at_rest() {
        let mut framing = Framing::default();
        framing.lose();
        framing.follow(&[b"the rest of a row".to_vec(), end(b"SELECT 1000000\0", b'T')].concat());
        assert_eq!(framing.resting(), None, "more may follow at once");
        framing.comes_to_rest();
        assert_eq!(framing.resting(), Some(Transaction::Open));
        assert!(framing.is_at_boundary());
        framing.follow(&end(b"COMMIT\0", b'I'));
        assert_eq!(framing.resting(), Some(Transaction::Idle));
    }

    #[test]
    fn who_has_been_asked_does_not_rest() {
        let mut framing = Framing::default();
        framing.follow(&end(b"SELECT 1\0", b'I'));
        framing.asked();
        assert_eq!(framing.resting(), None);
        assert!(framing.is_at_boundary());
        framing.lose();
        framing.follow(&end(b"SELECT 1\0", b'I'));
        framing.asked();
        framing.comes_to_rest();
        assert_eq!(framing.resting(), None);
    }

    #[test]
    fn a_lost_thread_is_not_found_in_something_else() {
        let error = message(b'E', b"SERROR\0VERROR\0C42601\0Mno\0\0");
        let not_the_end = [end(b"SELECT 1\0", b'I'), b"D".to_vec()].concat();
        let bad_length = [b"C\0\0\0\x0eSELECT 1\0".to_vec(), message(b'Z', b"I")].concat();
        for stream in [
            message(b'Z', b"I"),
            [error, message(b'Z', b"I")].concat(),
            end(b"select 1\0", b'I'),
            end(b"SELECT 1", b'I'),
            end(b"SELECT 1\0", b'X'),
            not_the_end,
            bad_length,
        ] {
            let mut framing = Framing::default();
            framing.lose();
            framing.follow(&[vec![b'x'; 60], stream.clone()].concat());
            framing.comes_to_rest();
            assert_eq!(framing.resting(), None, "{stream:?}");
            assert!(!framing.is_at_boundary());
        }
    }

    proptest! {
        /// The end is kept however it is cut up.
        #[test]
        fn a_lost_thread_is_found_in_any_portions(
            before in proptest::collection::vec(any::<u8>(), 0..200),
            cuts in proptest::collection::vec(1usize..60, 1..200),
        ) {
            let stream = [before, end(b"COPY 123456789\0", b'I')].concat();
            let mut framing = Framing::default();
            framing.lose();
            let (mut rest, mut cuts) = (stream.as_slice(), cuts.into_iter().cycle());
            while !rest.is_empty() {
                let (now, later) = rest.split_at(cuts.next().expect("cycles").min(rest.len()));
                framing.follow(now);
                rest = later;
            }
            framing.comes_to_rest();
            prop_assert_eq!(framing.resting(), Some(Transaction::Idle));
        }

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
