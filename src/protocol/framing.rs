//! Follows the messages of a session in both directions, without buffering them: where the server's stream is, and
//! whether a request is in progress.

use std::mem;

use serde::{Deserialize, Serialize};

use super::error_response::{ServerError, read_error};
use super::message::from_server::{COMMAND_COMPLETE, COPY_IN_RESPONSE, ERROR_RESPONSE, READY_FOR_QUERY};
use super::message::{HEADER_LENGTH, Tail};
use super::requests::Requests;
use super::walk::Walk;

/// How many bytes of an error's body are kept to find its SQLSTATE: enough for the severity twice, even translated, and
/// the code. Of a stream whose sync is lost, the same number of last bytes is kept: enough for a command's tag and
/// `ReadyForQuery`.
const KEPT_MAX: usize = 48;

/// A session's transaction state, from its last `ReadyForQuery`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Transaction {
    /// Not in a transaction.
    Idle,
    /// In a transaction, failed or not.
    Open,
}

/// Whether it is known where messages begin and end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum SyncState {
    /// Known. Exits: to `Lost` when bytes pass unread, to `Unparseable` at a length that no message can have.
    InSync,
    /// Unknown. Exits: to `InSync` when the stream pauses after an end of a command that is recognised.
    Lost,
    /// This is not PostgreSQL's protocol. No exit.
    Unparseable,
}

/// The state of a session's two streams. Written down, it is a part of the format in which a session moves to another
/// process (`proxy::session::move_state`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Framing {
    walk: Walk,
    sync: SyncState,
    kept: Tail<KEPT_MAX>,
    /// From the last `ReadyForQuery`. `None` before the first one.
    transaction: Option<Transaction>,
    #[serde(skip)] // it is taken after each chunk
    newest_error: Option<ServerError>,
    /// An error that no `ReadyForQuery` has followed.
    last_error: Option<[u8; 5]>,
    requests: Requests,
}

impl Default for Framing {
    /// At the start of a message.
    fn default() -> Framing {
        Framing {
            walk: Walk::default(),
            sync: SyncState::InSync,
            kept: Tail::default(),
            transaction: None,
            newest_error: None,
            last_error: None,
            requests: Requests::default(),
        }
    }
}

impl Framing {
    /// Reads the next bytes that the server has sent, in any chunks.
    pub fn server_sent(&mut self, bytes: &[u8]) {
        self.server_sent_while(bytes, |_| true);
    }

    /// The same up to the first `ErrorResponse`: where no request is in progress, it says why the server ends the
    /// session. Returns the number of bytes read.
    pub fn server_sent_up_to_error(&mut self, bytes: &[u8]) -> usize {
        self.server_sent_while(bytes, |kind| kind != ERROR_RESPONSE)
    }

    fn server_sent_while(&mut self, bytes: &[u8], may_pass: impl Fn(u8) -> bool) -> usize {
        if self.sync == SyncState::Lost {
            self.kept.push(bytes);
            return bytes.len();
        }
        let mut at = 0;
        while at < bytes.len() && self.sync == SyncState::InSync {
            if self.walk.is_at_boundary() && !may_pass(bytes[at]) {
                return at;
            }
            match self.walk.step(&bytes[at..]) {
                Ok((taken, body)) => {
                    self.keep_beginning(body);
                    if self.walk.is_at_boundary() {
                        self.end_message();
                    }
                    at += taken;
                }
                Err(_) => self.sync = SyncState::Unparseable,
            }
        }
        bytes.len()
    }

    /// Notes that the server has sent bytes that pgvane has not read. The sync is lost, unless they belong to one message.
    pub fn server_sent_unread(&mut self, length: usize) {
        match self.sync {
            SyncState::InSync if self.walk.pass(length) => {
                if self.walk.is_at_boundary() {
                    self.end_message();
                }
            }
            SyncState::InSync | SyncState::Lost => {
                self.sync = SyncState::Lost;
                self.kept.clear();
                (self.transaction, self.newest_error, self.last_error) = (None, None, None);
            }
            SyncState::Unparseable => {}
        }
    }

    /// How many of the server's next bytes may pass unread without harm. While several answers are due, only the rest of the
    /// present message: it could not be told which of the answers ended.
    pub fn server_may_pass_unread(&self) -> usize {
        match self.sync {
            SyncState::InSync if !self.requests.is_one_answer_due_at_most() => self.walk.body_left(),
            SyncState::InSync | SyncState::Lost | SyncState::Unparseable => usize::MAX,
        }
    }

    /// How many of the client's next bytes may pass unread without harm: the rest of the present message, or a stream of
    /// `CopyData`.
    pub fn client_may_pass_unread(&self) -> usize {
        self.requests.may_pass_unread()
    }

    /// Reads the next bytes that the client has sent, in any chunks.
    pub fn client_sent(&mut self, bytes: &[u8]) {
        self.requests.follow(bytes);
        self.forget_end();
    }

    /// Reads the next bytes that the client has sent, up to the first message that begins a new request while another one
    /// is in progress. Returns the number of bytes read.
    pub fn client_sent_up_to_next_request(&mut self, bytes: &[u8]) -> usize {
        self.forget_end();
        self.requests.follow_up_to_next(bytes)
    }

    /// Notes that the client has sent bytes that pgvane has not read.
    pub fn client_sent_unread(&mut self, length: usize) {
        self.requests.pass(length);
        self.forget_end();
    }

    /// The end of an earlier answer must not count as the end of the next one.
    fn forget_end(&mut self) {
        if self.sync == SyncState::Lost {
            self.kept.clear();
        }
    }

    /// Notes that the server sends nothing more for the moment. A lost sync is found again if the stream has stopped
    /// after a whole `CommandComplete` and `ReadyForQuery`, or after short answers to further requests behind these.
    ///
    /// `ReadyForQuery` alone is not enough: its six bytes may occur in a row of data. Both whole messages, with lengths
    /// that agree and a command's tag in capitals, cannot occur in a row in text format, because its values have no
    /// zero bytes. Only values in binary format that were made to look like this could do so, and only exactly where
    /// the stream stops. An `ErrorResponse` before `ReadyForQuery` is not recognised; the end of the next command will
    /// be. If the client sent further requests during the stream, and their answers are longer than what is kept, some of
    /// them are not counted: then the server seems to owe these for good.
    pub fn server_paused(&mut self) {
        if self.sync == SyncState::Lost
            && let Some((transaction, answers)) = end_of_command(self.kept.as_slice())
        {
            (self.walk, self.sync) = (Walk::default(), SyncState::InSync);
            self.kept.clear();
            self.transaction = Some(transaction);
            (0..answers).for_each(|_| self.requests.answered());
        }
    }

    /// Whether the last byte of the server's stream was the last of a message, so that another message may follow.
    pub fn is_server_at_boundary(&self) -> bool {
        self.sync == SyncState::InSync && self.walk.is_at_boundary()
    }

    /// Whether the last byte of the client's stream was the last of a message, so that another message may follow.
    pub fn is_client_at_boundary(&self) -> bool {
        self.requests.are_at_boundary()
    }

    /// Whether no request is in progress: the server has answered all requests, and the client is not in the middle of
    /// one.
    pub fn is_idle(&self) -> bool {
        self.transaction.is_some() && self.is_server_at_boundary() && self.requests.are_answered()
    }

    /// Whether no request is in progress, and no transaction is open.
    pub fn is_between_transactions(&self) -> bool {
        self.transaction == Some(Transaction::Idle) && self.is_idle()
    }

    /// Whether the server owes an answer, or the client has not finished its request.
    pub fn awaits_answer(&self) -> bool {
        !self.requests.are_answered()
    }

    /// The newest `ErrorResponse` since the last call.
    pub fn take_error(&mut self) -> Option<ServerError> {
        self.newest_error.take()
    }

    /// The SQLSTATE of the error with which the server's stream ends, if it ends here.
    pub fn last_error(&self) -> Option<[u8; 5]> {
        self.last_error
    }

    /// Keeps the start of a body that will be read.
    fn keep_beginning(&mut self, body: &[u8]) {
        if matches!(self.walk.kind(), ERROR_RESPONSE | READY_FOR_QUERY) {
            self.kept.fill(body);
        }
    }

    fn end_message(&mut self) {
        match (self.walk.kind(), self.kept.as_slice()) {
            (READY_FOR_QUERY, [state]) => {
                // the first one ends the login, and answers no request
                if mem::replace(&mut self.transaction, state_of(*state)).is_some() {
                    self.requests.answered();
                }
                self.last_error = None;
            }
            (ERROR_RESPONSE, body) => {
                let error = read_error(body);
                self.last_error = error.map(|error| error.sqlstate);
                self.newest_error = error.or(self.newest_error);
            }
            (COPY_IN_RESPONSE, _) => self.requests.copy_begins(),
            _ => {}
        }
        self.kept.clear();
    }
}

fn state_of(state: u8) -> Option<Transaction> {
    match state {
        b'I' => Some(Transaction::Idle),
        b'T' | b'E' => Some(Transaction::Open),
        _ => None,
    }
}

/// The state in the last `ReadyForQuery`, if `stream` ends with that, and the number of these messages. Before the first of
/// them is a whole `CommandComplete`, and between them are only whole messages.
fn end_of_command(stream: &[u8]) -> Option<(Transaction, usize)> {
    (0..stream.len()).find_map(|at| {
        let (command, mut rest) = first_message(&stream[at..])?;
        let tag = (command[0] == COMMAND_COMPLETE).then(|| command[HEADER_LENGTH..].strip_suffix(&[0]))??;
        if !is_command_tag(tag) || rest.first() != Some(&READY_FOR_QUERY) {
            return None;
        }
        let (mut last, mut answers) = (None, 0);
        while !rest.is_empty() {
            let (message, next) = first_message(rest)?;
            last = match message {
                &[READY_FOR_QUERY, 0, 0, 0, 5, state] => Some(state_of(state)?),
                _ => None,
            };
            answers += usize::from(last.is_some());
            rest = next;
        }
        Some((last?, answers))
    })
}

/// The message at the start of `stream`, if it is whole, and what follows it.
fn first_message(stream: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[_, length @ ..], _) = stream.split_first_chunk::<HEADER_LENGTH>()?;
    let length = u32::from_be_bytes(length) as usize;
    (length >= HEADER_LENGTH - 1).then(|| stream.split_at_checked(length + 1))?
}

/// `src/include/tcop/cmdtaglist.h`: words in capitals, and the numbers that some carry.
fn is_command_tag(tag: &[u8]) -> bool {
    tag.first().is_some_and(u8::is_ascii_uppercase)
        && tag.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b' ')
}

#[cfg(test)]
mod tests;
