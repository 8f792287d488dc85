//! Makes the state of a session that has just logged in the same as that of another one: its settings, its prepared
//! statements, the channels that it listens on. What cannot be made so is an error, and the session must not be used then.
//!
//! All in one request of the extended protocol, which leaves no unnamed statement. The order matters: first the encoding,
//! because all other texts are in it; then the settings, as the user of the login, who may be the only one allowed to set
//! them; then the role, and as this role the statements, whose names are looked up in its `search_path`.
//!
//! The text of a `PREPARE` is sent only if it is that and nothing else, and only in a message that the server refuses if
//! there is more than one statement in it: see `sql_prepare`.

use std::collections::VecDeque;
use std::fmt;

use bytes::BytesMut;

use super::error_response::read_message;
use super::message::from_client::{BIND, CLOSE, EXECUTE, PARSE, SYNC};
use super::message::from_server::{
    BIND_COMPLETE, CLOSE_COMPLETE, COMMAND_COMPLETE, DATA_ROW, ERROR_RESPONSE, NOTICE, NOTIFICATION, PARAMETER_STATUS,
    PARSE_COMPLETE, READY_FOR_QUERY,
};
use super::message::{HEADER_LENGTH, put_message};
use super::session_state::SessionState;

/// The name of pgvane's own statement, while it exists. Its portal has no name: clients have none between transactions.
const NAME: &[u8] = b"_pgvane_restore\0";

/// Type number of `text`.
const TEXT: u32 = 25;

/// The maximum length of a message of the answer: it has no data.
const MESSAGE_LENGTH_MAX: usize = 64 * 1024;

/// The server's answer to a select of one row.
const ANSWER_WITH_A_ROW: &[u8] = &[PARSE_COMPLETE, BIND_COMPLETE, DATA_ROW, COMMAND_COMPLETE, CLOSE_COMPLETE];

/// Why a state could not be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotRestored {
    /// The server has answered to a part of it with this error.
    Error {
        /// The part.
        part: String,
        /// The server's words.
        text: String,
    },
    /// The answer is none to this request.
    Unexpected,
    /// What is known of the state cannot be written as a request.
    Unreadable,
}

impl fmt::Display for NotRestored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotRestored::Error { part, text } => write!(f, "{part}: {text}"),
            NotRestored::Unexpected => f.write_str("the server gave another answer than expected"),
            NotRestored::Unreadable => f.write_str("a part of its state cannot be read"),
        }
    }
}

/// What is to be done after some bytes of the answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Restored {
    /// Wait for more.
    Wait,
    /// The answer is complete.
    Done(Result<(), NotRestored>),
}

/// A part of the request: what it restores, and how the server answers.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    name: String,
    answer: &'static [u8],
}

/// A state that is being restored.
#[derive(Debug)]
pub struct Restoring {
    request: Vec<u8>,
    /// Those that are not answered yet.
    parts: VecDeque<Part>,
    /// This many messages of the answer to the first of them have come.
    answered: usize,
    partial: BytesMut,
    failure: Option<NotRestored>,
}

impl Restoring {
    /// Makes the state of a session the same as this one. The session has just logged in as the same user.
    ///
    /// # Errors
    ///
    /// If what is known of the state cannot be written as a request.
    pub fn new(state: &SessionState) -> Result<Restoring, NotRestored> {
        let mut restoring = Restoring::empty();
        restoring.set_and_prepare(state)?;
        restoring.listen(state);
        Ok(restoring.ended())
    }

    /// The first half of it, at a server that may be in recovery: all but the channels. Such a server refuses `LISTEN`.
    ///
    /// # Errors
    ///
    /// If what is known of the state cannot be written as a request.
    pub fn in_recovery(state: &SessionState) -> Result<Restoring, NotRestored> {
        let mut restoring = Restoring::empty();
        restoring.set_and_prepare(state)?;
        Ok(restoring.ended())
    }

    /// The second half of it, when the server leads: the channels. It fails if the server is still in recovery.
    pub fn after_promotion(state: &SessionState) -> Restoring {
        let mut restoring = Restoring::empty();
        // refused in recovery, and without any effect otherwise
        restoring.parse(NAME, b"select pg_catalog.pg_current_wal_lsn()", &[]);
        put_message(&mut restoring.request, BIND, &[b"\0", NAME, &[0; 6]]);
        restoring.execute_bound();
        restoring.parts.push_back(Part { name: "the end of recovery".to_owned(), answer: ANSWER_WITH_A_ROW });
        restoring.listen(state);
        restoring.ended()
    }

    fn empty() -> Restoring {
        Restoring { request: Vec::new(), parts: VecDeque::new(), answered: 0, partial: BytesMut::new(), failure: None }
    }

    fn set_and_prepare(&mut self, state: &SessionState) -> Result<(), NotRestored> {
        let is_encoding = |(name, _): &(&[u8], &[u8])| *name == b"client_encoding";
        let (encoding, mut settings): (Vec<_>, Vec<_>) = state.settings().into_iter().partition(is_encoding);
        settings.push((b"role", state.role()));
        for settings in [encoding, settings].iter().filter(|settings| !settings.is_empty()) {
            self.set(settings);
        }
        for prepared in state.prepared() {
            let part = format!("prepared statement {:?}", String::from_utf8_lossy(prepared.name));
            match prepared.is_by_sql {
                true => self.execute(part, prepared.text),
                false => {
                    let types = prepared.parameter_types().ok_or(NotRestored::Unreadable)?;
                    let name = [prepared.name, b"\0"].concat();
                    self.parse(&name, prepared.text, &types);
                    self.parts.push_back(Part { name: part, answer: &[PARSE_COMPLETE] });
                }
            }
        }
        Ok(())
    }

    fn listen(&mut self, state: &SessionState) {
        for channel in state.channels() {
            let part = format!("LISTEN {:?}", String::from_utf8_lossy(channel));
            self.execute(part, &[b"listen ", quoted(channel).as_slice()].concat());
        }
    }

    fn ended(mut self) -> Restoring {
        put_message(&mut self.request, SYNC, &[]);
        self
    }

    /// What has to be sent to the server.
    pub fn request(&self) -> &[u8] {
        &self.request
    }

    /// Takes the next bytes that the server has sent, and adds to `for_client` the notifications in them.
    pub fn take(&mut self, bytes: &[u8], for_client: &mut Vec<u8>) -> Restored {
        self.partial.extend_from_slice(bytes);
        while let Some((header, _)) = self.partial.split_first_chunk::<HEADER_LENGTH>() {
            let [kind, length @ ..] = *header;
            let length = 1 + (u32::from_be_bytes(length) as usize).max(4);
            if length > MESSAGE_LENGTH_MAX {
                return Restored::Done(Err(NotRestored::Unexpected));
            }
            if self.partial.len() < length {
                break;
            }
            let whole = self.partial.split_to(length);
            match kind {
                NOTIFICATION => for_client.extend_from_slice(&whole),
                PARAMETER_STATUS | NOTICE => {}
                ERROR_RESPONSE => self.take_error(&whole),
                READY_FOR_QUERY => return Restored::Done(self.end(&whole)),
                kind => self.take_answer(kind),
            }
        }
        Restored::Wait
    }

    /// What the server has sent after the answer.
    pub fn rest(self) -> BytesMut {
        self.partial
    }

    fn take_answer(&mut self, kind: u8) {
        match self.parts.front().map(|part| part.answer) {
            Some(answer) if answer[self.answered] == kind => {
                self.answered += 1;
                if self.answered == answer.len() {
                    self.answered = 0;
                    self.parts.pop_front();
                }
            }
            _ => _ = self.failure.get_or_insert(NotRestored::Unexpected),
        }
    }

    fn take_error(&mut self, whole: &[u8]) {
        let text = read_message(&whole[HEADER_LENGTH..]).unwrap_or_else(|| "an unreadable error".to_owned());
        let part = self.parts.front().map_or_else(|| "the end".to_owned(), |part| part.name.clone());
        self.failure.get_or_insert(NotRestored::Error { part, text });
    }

    fn end(&mut self, ready: &[u8]) -> Result<(), NotRestored> {
        match self.failure.take() {
            Some(failure) => Err(failure),
            None if self.parts.is_empty() && ready.ends_with(b"I") => Ok(()),
            None => Err(NotRestored::Unexpected),
        }
    }

    /// Sets all of them by one statement, in their order.
    fn set(&mut self, settings: &[(&[u8], &[u8])]) {
        let calls =
            (0..settings.len()).map(|n| format!("pg_catalog.set_config(${}, ${}, false)", 2 * n + 1, 2 * n + 2));
        let text = format!("select {}", calls.collect::<Vec<_>>().join(", "));
        self.parse(NAME, text.as_bytes(), &vec![TEXT; 2 * settings.len()]);
        let mut bind = [b"\0", NAME, &[0, 0]].concat();
        bind.extend((2 * settings.len() as u16).to_be_bytes());
        for value in settings.iter().flat_map(|(name, value)| [name, value]) {
            bind.extend((value.len() as u32).to_be_bytes());
            bind.extend_from_slice(value);
        }
        bind.extend([0, 0]); // the results as text
        put_message(&mut self.request, BIND, &[&bind]);
        let names: Vec<_> = settings.iter().map(|(name, _)| String::from_utf8_lossy(name)).collect();
        self.execute_bound();
        let name = format!("settings {}", names.join(", "));
        self.parts.push_back(Part { name, answer: ANSWER_WITH_A_ROW });
    }

    /// Executes a statement without parameters and results.
    fn execute(&mut self, part: String, text: &[u8]) {
        self.parse(NAME, text, &[]);
        put_message(&mut self.request, BIND, &[b"\0", NAME, &[0; 6]]);
        self.execute_bound();
        let answer = &[PARSE_COMPLETE, BIND_COMPLETE, COMMAND_COMPLETE, CLOSE_COMPLETE];
        self.parts.push_back(Part { name: part, answer });
    }

    fn parse(&mut self, name: &[u8], text: &[u8], types: &[u32]) {
        let count = (types.len() as u16).to_be_bytes();
        let types: Vec<u8> = types.iter().flat_map(|number| number.to_be_bytes()).collect();
        put_message(&mut self.request, PARSE, &[name, text, b"\0", &count, &types]);
    }

    fn execute_bound(&mut self) {
        put_message(&mut self.request, EXECUTE, &[&[0; 5]]);
        put_message(&mut self.request, CLOSE, &[b"S", NAME]);
    }
}

/// As an identifier of SQL. A quotation mark is a byte of its own in every encoding of clients.
fn quoted(name: &[u8]) -> Vec<u8> {
    let mut quoted = vec![b'"'];
    for byte in name {
        quoted.extend(std::iter::repeat_n(*byte, if *byte == b'"' { 2 } else { 1 }));
    }
    quoted.push(b'"');
    quoted
}
