//! pgvane's own question to a server, on a session's connection and between two of its requests: what is the session's
//! state? The client gets nothing of the answer, and everything that the server says besides.
//!
//! It is asked by the extended protocol: a simple query would destroy the client's unnamed statement. Statement and portal
//! have names of their own. A portal ends with its transaction; the statement is closed, after an error by a request of
//! its own, because the server has then ignored the first one.

use std::fmt;

use bytes::BytesMut;

use super::error_response::read_message;
use super::message::from_client::{BIND, CLOSE, EXECUTE, PARSE, SYNC};
use super::message::from_server::{
    DATA_ROW, ERROR_RESPONSE, NOTIFICATION, PARAMETER_STATUS, PARSE_COMPLETE, READY_FOR_QUERY,
};
use super::message::{HEADER_LENGTH, put_message};
use super::session_state::{COLUMNS, QUESTION, SessionState};

/// The name of the statement and of the portal.
const NAME: &[u8] = b"_pgvane_question\0";

/// Type number of `text[]`.
const TEXTS: u32 = 1009;

/// The maximum number of bytes of an answer that are kept, and of one message.
const KEPT_MAX: usize = 1 << 20;

/// Why a session's state is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoState {
    /// The server has answered with this error.
    Error(String),
    /// The answer is longer than pgvane keeps.
    TooLong,
    /// The answer is none to this question.
    Unexpected,
    /// The server has closed the connection.
    Closed,
}

impl fmt::Display for NoState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoState::Error(text) => write!(f, "its state is not known: {text}"),
            NoState::TooLong => write!(f, "its state has more than {KEPT_MAX} bytes"),
            NoState::Unexpected => f.write_str("its state is not known: the server gave another answer"),
            NoState::Closed => f.write_str("its server has closed the connection"),
        }
    }
}

/// The server's answer.
pub type Answer = Result<SessionState, NoState>;

/// What is to be done after some bytes of the answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Wait for more.
    Wait,
    /// Send this to the server, and wait for more.
    Send(Vec<u8>),
    /// The answer is complete. Bytes after it have been passed on to the client.
    Done(Answer),
}

/// A question that has been asked.
#[derive(Debug, Default)]
pub struct Question {
    /// The beginning of a message.
    partial: BytesMut,
    /// This many bytes of a message are dropped.
    dropped: usize,
    kept: usize,
    state: SessionState,
    /// The server has the statement.
    has_statement: bool,
    failure: Option<NoState>,
    /// The server has answered with an error, and ignores the rest of the request.
    has_failed: bool,
}

impl Question {
    /// What has to be sent to the server. `custom_settings` are the names of settings that the server tells only to those
    /// who name them.
    pub fn request(custom_settings: &[String]) -> Vec<u8> {
        let mut request = Vec::new();
        let names = array(custom_settings);
        let length = (names.len() as u32).to_be_bytes();
        put_message(&mut request, PARSE, &[NAME, QUESTION.as_bytes(), b"\0", &[0, 1], &TEXTS.to_be_bytes()]);
        put_message(&mut request, BIND, &[NAME, NAME, &[0, 0, 0, 1], &length, names.as_bytes(), &[0, 0]]);
        put_message(&mut request, EXECUTE, &[NAME, &[0, 0, 0, 0]]);
        request.extend(close());
        request
    }

    /// Takes the next bytes that the server has sent, and adds to `for_client` those that are not of the answer.
    pub fn take(&mut self, bytes: &[u8], for_client: &mut Vec<u8>) -> Step {
        let dropped = self.dropped.min(bytes.len());
        self.dropped -= dropped;
        self.partial.extend_from_slice(&bytes[dropped..]);
        while let Some(whole) = self.next_message() {
            match self.take_message(&whole, for_client) {
                Step::Wait => {}
                Step::Done(outcome) => {
                    for_client.extend_from_slice(&self.partial);
                    return Step::Done(outcome);
                }
                send => return send,
            }
        }
        Step::Wait
    }

    /// The next message, if it is complete. One that is too long is dropped.
    fn next_message(&mut self) -> Option<BytesMut> {
        let (header, _) = self.partial.split_first_chunk::<HEADER_LENGTH>()?;
        let [_, length @ ..] = *header;
        let length = 1 + (u32::from_be_bytes(length) as usize).max(4);
        if length > KEPT_MAX {
            self.failure.get_or_insert(NoState::TooLong);
            let here = length.min(self.partial.len());
            self.dropped = length - here;
            let _ = self.partial.split_to(here);
            return self.next_message();
        }
        (self.partial.len() >= length).then(|| self.partial.split_to(length))
    }

    fn take_message(&mut self, whole: &[u8], for_client: &mut Vec<u8>) -> Step {
        match whole[0] {
            NOTIFICATION | PARAMETER_STATUS => for_client.extend_from_slice(whole),
            PARSE_COMPLETE => self.has_statement = true,
            DATA_ROW => self.take_row(&whole[HEADER_LENGTH..]),
            ERROR_RESPONSE => {
                let text = read_message(&whole[HEADER_LENGTH..]).unwrap_or_else(|| "an unreadable error".to_owned());
                self.failure = Some(NoState::Error(text));
                self.has_failed = true;
            }
            READY_FOR_QUERY => return self.ready(whole),
            // answers to the other messages of the question; notices are about the question
            _ => {}
        }
        Step::Wait
    }

    fn ready(&mut self, whole: &[u8]) -> Step {
        if self.has_statement && self.has_failed {
            (self.has_statement, self.has_failed) = (false, false);
            return Step::Send(close());
        }
        let is_idle = whole.ends_with(b"I");
        Step::Done(match self.failure.take() {
            Some(failure) => Err(failure),
            None if is_idle && self.state.is_complete() => Ok(std::mem::take(&mut self.state)),
            None => Err(NoState::Unexpected),
        })
    }

    fn take_row(&mut self, body: &[u8]) {
        self.kept += body.len();
        if self.kept > KEPT_MAX {
            self.failure.get_or_insert(NoState::TooLong);
        } else if !columns(body).is_some_and(|columns| self.state.add(columns)) {
            self.failure.get_or_insert(NoState::Unexpected);
        }
    }
}

/// The notifications among these messages. `None` if the last message is not complete.
pub fn notifications(mut messages: &[u8]) -> Option<Vec<u8>> {
    let mut notifications = Vec::new();
    while !messages.is_empty() {
        let (&[kind, ref length @ ..], _) = messages.split_first_chunk::<HEADER_LENGTH>()?;
        let length = 1 + (u32::from_be_bytes(*length) as usize).max(4);
        let (whole, rest) = messages.split_at_checked(length)?;
        if kind == NOTIFICATION {
            notifications.extend_from_slice(whole);
        }
        messages = rest;
    }
    Some(notifications)
}

/// Adds `ParameterStatus`.
pub fn put_parameter(to: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    put_message(to, PARAMETER_STATUS, &[name, b"\0", value, b"\0"]);
}

/// `Close` of the statement, and `Sync`.
fn close() -> Vec<u8> {
    let mut request = Vec::new();
    put_message(&mut request, CLOSE, &[b"S", NAME]);
    put_message(&mut request, SYNC, &[]);
    request
}

/// An array of texts, as PostgreSQL reads it.
fn array(items: &[String]) -> String {
    let quoted = items.iter().map(|item| format!("\"{}\"", item.replace('\\', "\\\\").replace('"', "\\\"")));
    format!("{{{}}}", quoted.collect::<Vec<_>>().join(","))
}

/// The columns of a `DataRow`; null is empty.
fn columns(body: &[u8]) -> Option<[Box<[u8]>; COLUMNS]> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    if usize::from(u16::from_be_bytes(*count)) != COLUMNS {
        return None;
    }
    let mut columns: [Box<[u8]>; COLUMNS] = Default::default();
    for column in &mut columns {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        *column = after.get(..length)?.into();
        rest = &after[length..];
    }
    rest.is_empty().then_some(columns)
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;
    use pgvane_loadtest::messages::message as built;
    use proptest::prelude::*;

    use super::*;

    fn row(columns: [&str; COLUMNS]) -> Vec<u8> {
        let mut body = vec![0, COLUMNS as u8];
        for column in columns {
            body.put_u32(column.len() as u32);
            body.extend_from_slice(column.as_bytes());
        }
        built(b'D', &body)
    }

    fn complete() -> Vec<Vec<u8>> {
        let rows = [
            row(["advisory", "0", "", ""]),
            row(["temporary", "0", "", ""]),
            row(["process", "7", "", ""]),
            row(["login", "app", "", ""]),
            row(["users", "app", "app", "none"]),
        ];
        let end = [built(b'C', b"SELECT 4\0"), built(b'3', b""), built(b'Z', b"I")];
        [built(b'1', b""), built(b'2', b"")].into_iter().chain(rows).chain(end).collect()
    }

    fn notification() -> Vec<u8> {
        built(b'A', b"\0\0\0\x07news\0all is well\0")
    }

    proptest! {
        /// Whatever the chunks are, the client gets what is not of the answer, in order, and nothing else.
        #[test]
        fn the_client_gets_all_that_is_not_of_the_answer(
            places in proptest::collection::vec(0usize..10, 0..4),
            cuts in proptest::collection::vec(1usize..60, 1..50),
        ) {
            let mut stream = complete();
            for place in &places {
                stream.insert((*place).min(stream.len()), notification());
            }
            let (mut question, mut for_client, stream) = (Question::default(), Vec::new(), stream.concat());
            let (mut rest, mut cuts, mut done) = (stream.as_slice(), cuts.into_iter().cycle(), None);
            while !rest.is_empty() {
                let (now, later) = rest.split_at(cuts.next().expect("cycles").min(rest.len()));
                match done {
                    None => match question.take(now, &mut for_client) {
                        Step::Wait => {}
                        Step::Done(outcome) => done = Some(outcome),
                        Step::Send(bytes) => panic!("{bytes:?}"),
                    },
                    Some(_) => for_client.extend_from_slice(now),
                }
                rest = later;
            }
            prop_assert_eq!(for_client, notification().repeat(places.len()));
            prop_assert_eq!(done.expect("is complete").map(|state| state.process_id()), Ok(Some(7)));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut question = Question::default();
            let _ = question.take(&bytes, &mut Vec::new());
        }
    }

    #[test]
    fn notifications_are_told_from_the_rest() {
        let status = built(b'S', b"TimeZone\0UTC\0");
        let mut written = Vec::new();
        put_parameter(&mut written, b"TimeZone", b"UTC");
        assert_eq!(written, status);
        let messages = [notification(), status, notification()].concat();
        assert_eq!(notifications(&messages), Some(notification().repeat(2)));
        assert_eq!(notifications(&messages[..messages.len() - 1]), None, "the last one is not complete");
    }

    #[test]
    fn names_are_written_as_an_array() {
        assert_eq!(array(&[]), "{}");
        assert_eq!(array(&["app.tenant".to_owned(), "a\"b\\".to_owned()]), r#"{"app.tenant","a\"b\\"}"#);
    }

    #[test]
    fn after_an_error_the_statement_is_closed_and_the_reason_known() {
        let error = built(b'E', b"SERROR\0VERROR\0C57014\0Mcanceling statement due to statement timeout\0\0");
        let (mut question, mut for_client) = (Question::default(), Vec::new());
        let answer = [built(b'1', b""), built(b'2', b""), error.clone(), built(b'Z', b"I")].concat();
        assert_eq!(question.take(&answer, &mut for_client), Step::Send(close()));
        let why = "canceling statement due to statement timeout (SQLSTATE 57014)".to_owned();
        let closed = [built(b'3', b""), built(b'Z', b"I")].concat();
        assert_eq!(question.take(&closed, &mut for_client), Step::Done(Err(NoState::Error(why))));

        let mut question = Question::default();
        let refused = [error, built(b'Z', b"I")].concat();
        assert!(matches!(question.take(&refused, &mut for_client), Step::Done(Err(NoState::Error(_)))), "no statement");
        assert!(for_client.is_empty());
    }

    #[test]
    fn an_answer_that_is_too_long_is_read_to_its_end_and_not_kept() {
        let (mut question, mut for_client) = (Question::default(), Vec::new());
        question.take(&built(b'1', b""), &mut for_client);
        let large = built(b'D', &vec![0; 3 * KEPT_MAX]);
        for chunk in large.chunks(65_536) {
            assert_eq!(question.take(chunk, &mut for_client), Step::Wait);
            assert!(question.partial.len() < KEPT_MAX);
        }
        let end = [notification(), built(b'Z', b"I")].concat();
        assert_eq!(question.take(&end, &mut for_client), Step::Done(Err(NoState::TooLong)));
        assert_eq!(for_client, notification());
    }

    #[test]
    fn notices_about_the_question_do_not_reach_the_client() {
        let (mut question, mut for_client) = (Question::default(), Vec::new());
        let mut answer = complete();
        answer.insert(1, built(b'N', b"SDEBUG\0VDEBUG\0C00000\0Mparse\0\0"));
        assert!(matches!(question.take(&answer.concat(), &mut for_client), Step::Done(Ok(_))));
        assert!(for_client.is_empty());
    }
}
