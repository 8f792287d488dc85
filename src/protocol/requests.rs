//! Follows the client's stream: which requests the server has not answered yet, and whether the next message begins a
//! new request.
//!
//! `Query`, `Sync` and `FunctionCall` are answered by one `ReadyForQuery` each. The messages of the extended protocol
//! before a `Sync` belong to it. The exception: while the server reads `CopyData`, it ignores `Sync`
//! (`src/backend/commands/copyfromparse.c`, `CopyGetData`), and libpq does send one after the `Execute` of a `COPY`.
//!
//! If the count is wrong, it is too high: then the server seems to owe an answer, which does no other harm.

use serde::{Deserialize, Serialize};

use super::message::from_client::{
    BIND, CLOSE, COPY_DATA, COPY_DONE, COPY_FAIL, DESCRIBE, EXECUTE, FLUSH, FUNCTION_CALL, PARSE, QUERY, RESPONSE,
    SYNC, TERMINATE,
};
use super::message::{HEADER_LENGTH, Tail};
use super::walk::Walk;

/// Messages that begin or continue a request, except those that end one.
const OTHER_STEPS: &[u8] = &[PARSE, BIND, DESCRIBE, CLOSE, EXECUTE];

/// Messages that begin no request.
const NO_STEPS: &[u8] = &[COPY_DATA, FLUSH, TERMINATE, RESPONSE];

/// All of them.
const KINDS: [&[u8]; 3] = [&[QUERY, FUNCTION_CALL, SYNC, COPY_DONE, COPY_FAIL], OTHER_STEPS, NO_STEPS];

/// `CopyDone`, the end of a stream of `CopyData` at which a lost sync is found again.
const COPY_END: &[u8] = b"c\0\0\0\x04";

/// As much of it as can be the end of a chunk.
const KEPT_MAX: usize = 4;

/// Of a request that follows a stream of `CopyData` at once: longer ones are rare, and data looks like them more easily.
const LENGTH_MAX: usize = 16 * 1024 * 1024;

/// Whether it is known where messages begin and end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
enum SyncState {
    /// Known. Exits: to `Lost` when bytes pass unread, to `Unparseable` at a message that no client sends.
    #[default]
    InSync,
    /// Unknown. Exits: to `InSync` at the end of the `CopyData` that the server has requested.
    Lost,
    /// This is not PostgreSQL's protocol. No exit.
    Unparseable,
}

/// The client's requests.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Requests {
    walk: Walk,
    sync: SyncState,
    /// Messages of the extended protocol have been sent, and their `Sync` has not.
    is_open: bool,
    /// The server has requested `CopyData`, and the client has not sent its end yet. Most clients send the end even if
    /// the server has failed meanwhile.
    takes_copy: bool,
    /// The last bytes of a stream whose sync is lost.
    kept: Tail<KEPT_MAX>,
    /// `ReadyForQuery` messages that are due.
    awaited: u32,
    /// Of these, the ones whose `Sync` came after the last message that can begin a `COPY`.
    awaited_since_execute: u32,
}

impl Requests {
    /// Reads the client's bytes.
    pub(super) fn follow(&mut self, bytes: &[u8]) {
        self.follow_while(bytes, |_, _| true);
    }

    /// Reads the client's bytes, up to the first message that begins a new request while another one is in progress.
    /// Returns the number of bytes read.
    pub(super) fn follow_up_to_next(&mut self, bytes: &[u8]) -> usize {
        self.follow_while(bytes, |requests, kind| {
            let begins = [QUERY, FUNCTION_CALL].contains(&kind) || OTHER_STEPS.contains(&kind);
            !begins || requests.is_open || requests.awaited == 0
        })
    }

    /// Notes that bytes passed unread.
    pub(super) fn pass(&mut self, length: usize) {
        match self.sync {
            SyncState::InSync if self.walk.pass(length) => {
                if self.walk.is_at_boundary() {
                    self.end_message();
                }
            }
            SyncState::InSync | SyncState::Lost => {
                self.sync = SyncState::Lost;
                self.kept.clear();
            }
            SyncState::Unparseable => {}
        }
    }

    /// Notes that the server has sent `ReadyForQuery`.
    pub(super) fn answered(&mut self) {
        self.awaited = self.awaited.saturating_sub(1);
        self.awaited_since_execute = self.awaited_since_execute.min(self.awaited);
    }

    /// Notes that the server has requested `CopyData`.
    pub(super) fn copy_begins(&mut self) {
        self.takes_copy = true;
    }

    /// Whether the server is to end one answer at most, before the client sends more.
    pub(super) fn is_one_answer_due_at_most(&self) -> bool {
        !self.is_open && self.awaited <= 1
    }

    /// How many of the client's next bytes may pass unread without harm.
    pub(super) fn may_pass_unread(&self) -> usize {
        match self.sync {
            SyncState::InSync if !self.takes_copy => self.walk.body_left(),
            SyncState::InSync | SyncState::Lost | SyncState::Unparseable => usize::MAX,
        }
    }

    /// Whether the server has answered all requests, and the client is not in the middle of one.
    pub(super) fn are_answered(&self) -> bool {
        self.are_at_boundary() && !self.is_open && self.awaited == 0
    }

    /// Whether the last byte of the client's stream was the last of a message.
    pub(super) fn are_at_boundary(&self) -> bool {
        self.sync == SyncState::InSync && self.walk.is_at_boundary()
    }

    fn follow_while(&mut self, bytes: &[u8], may_pass: impl Fn(&Requests, u8) -> bool) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            match self.sync {
                SyncState::Unparseable => return bytes.len(),
                SyncState::Lost => {
                    self.look_for_copy_end(&bytes[at..]);
                    return bytes.len();
                }
                SyncState::InSync if self.walk.is_at_boundary() && !may_pass(self, bytes[at]) => return at,
                SyncState::InSync => match self.walk.step(&bytes[at..]) {
                    Ok((taken, _)) => {
                        at += taken;
                        if self.walk.is_at_boundary() {
                            self.end_message();
                        }
                    }
                    Err(_) => self.sync = SyncState::Unparseable,
                },
            }
        }
        at
    }

    fn end_message(&mut self) {
        match self.walk.kind() {
            QUERY | FUNCTION_CALL => {
                (self.is_open, self.awaited_since_execute) = (false, 0);
                self.awaited = self.awaited.saturating_add(1);
            }
            SYNC => {
                self.is_open = false;
                self.awaited = self.awaited.saturating_add(1);
                self.awaited_since_execute = self.awaited_since_execute.saturating_add(1);
            }
            COPY_DONE | COPY_FAIL => self.end_copy(),
            kind if OTHER_STEPS.contains(&kind) => {
                self.is_open = true;
                if kind == EXECUTE {
                    self.awaited_since_execute = 0;
                }
            }
            kind if NO_STEPS.contains(&kind) => {}
            _ => self.sync = SyncState::Unparseable,
        }
    }

    /// The server has ignored every `Sync` that it received while it read `CopyData`.
    fn end_copy(&mut self) {
        if self.takes_copy {
            self.awaited = self.awaited.saturating_sub(self.awaited_since_execute);
            (self.takes_copy, self.awaited_since_execute) = (false, 0);
        }
    }

    /// A sync that was lost in a stream of `CopyData` is found again at the end of that stream, also if further requests
    /// follow it at once.
    ///
    /// The same bytes may be in a row of data in binary format. Then what follows is not a message, now or later, and the
    /// stream becomes unparseable: nothing is concluded from it.
    fn look_for_copy_end(&mut self, bytes: &[u8]) {
        let begun = self.kept.begun_with(COPY_END);
        self.kept.push(bytes);
        if !self.takes_copy {
            return;
        }
        let joined; // only if the end of the stream may be in two chunks
        let bytes = match begun {
            0 => bytes,
            begun => {
                joined = [&COPY_END[..begun], bytes].concat();
                &joined
            }
        };
        let ends = bytes.windows(COPY_END.len()).enumerate().filter(|(_, window)| *window == COPY_END);
        let Some((at, _)) = ends.into_iter().find(|(at, _)| are_messages(&bytes[*at..])) else { return };
        (self.sync, self.walk, self.is_open) = (SyncState::InSync, Walk::default(), false);
        self.follow(&bytes[at..]);
    }
}

/// Whether these bytes are messages of a client, of which the last one may be incomplete.
fn are_messages(mut bytes: &[u8]) -> bool {
    while let Some(kind) = bytes.first() {
        let is_known = KINDS.iter().any(|kinds| kinds.contains(kind));
        let Some(header) = bytes.first_chunk::<HEADER_LENGTH>() else { return is_known };
        let [_, length @ ..] = *header;
        let length = u32::from_be_bytes(length) as usize;
        if !is_known || !(HEADER_LENGTH - 1..=LENGTH_MAX).contains(&length) {
            return false;
        }
        bytes = bytes.get(length + 1..).unwrap_or_default();
    }
    true
}

#[cfg(test)]
mod tests {
    use pgvane_loadtest::messages::message;
    use proptest::prelude::*;

    use super::*;

    /// Messages without a body worth mentioning, by their kinds.
    fn messages(kinds: &[u8]) -> Vec<u8> {
        kinds.iter().flat_map(|kind| message(*kind, b"")).collect()
    }

    fn after(kinds: &[u8]) -> Requests {
        let mut requests = Requests::default();
        requests.follow(&messages(kinds));
        requests
    }

    #[test]
    fn each_query_and_each_sync_is_answered_once() {
        for (kinds, answers) in [(&b"Q"[..], 1), (b"QQ", 2), (b"PBDES", 1), (b"PBESPBES", 2), (b"F", 1), (b"HX", 0)] {
            let mut requests = after(kinds);
            for _ in 0..answers {
                assert!(!requests.are_answered(), "{kinds:?}");
                requests.answered();
            }
            assert!(requests.are_answered(), "{kinds:?}");
        }
    }

    #[test]
    fn messages_before_their_sync_are_an_open_request() {
        let mut requests = after(b"QPBEH");
        requests.answered();
        assert!(!requests.are_answered());
        requests.follow(&messages(b"S"));
        requests.answered();
        assert!(requests.are_answered());
    }

    #[test]
    fn half_a_message_is_an_open_request() {
        let mut requests = after(b"");
        requests.follow(&message(b'Q', b"select 1\0")[..8]);
        requests.answered();
        assert!(!requests.are_answered());
    }

    #[test]
    fn the_sync_that_a_copy_ignores_is_not_waited_for() {
        let mut requests = after(b"PBDES");
        requests.copy_begins();
        requests.follow(&messages(b"ddcS"));
        assert!(!requests.are_answered());
        requests.answered();
        assert!(requests.are_answered(), "the second Sync is answered, the first was ignored");

        let mut refused = after(b"PBDESdc");
        refused.follow(&messages(b"PBES"));
        refused.answered();
        assert!(!refused.are_answered(), "a server that did not request CopyData ignores no Sync");

        let mut simple = after(b"Q");
        simple.copy_begins();
        simple.follow(&messages(b"ddf"));
        assert!(!simple.are_answered());
        simple.answered();
        assert!(simple.are_answered());
    }

    #[test]
    fn no_new_request_passes_before_all_are_answered_and_a_begun_one_does() {
        let mut requests = Requests::default();
        let pipeline = messages(b"PBESPBESQ");
        assert_eq!(requests.follow_up_to_next(&pipeline), 20);
        assert_eq!(requests.follow_up_to_next(&pipeline[20..]), 0);
        requests.answered();
        assert_eq!(requests.follow_up_to_next(&pipeline[20..30]), 10, "as much as is there");
        assert_eq!(requests.follow_up_to_next(&pipeline[30..]), 10);
        requests.answered();
        assert_eq!(requests.follow_up_to_next(&pipeline[40..]), 5);
        requests.copy_begins();
        assert_eq!(requests.follow_up_to_next(&messages(b"dddcQ")), 20, "the server waits for these");
    }

    #[test]
    fn a_large_body_may_pass_unread_and_a_stream_of_messages_may_not() {
        let mut requests = Requests::default();
        requests.follow(b"Q\0\x10\0\x04");
        requests.pass(0x0f_ffff);
        assert!(!requests.are_answered());
        requests.follow(b"\0");
        requests.answered();
        assert!(requests.are_answered());
        requests.pass(1);
        requests.follow(&messages(b"Q"));
        requests.answered();
        assert!(!requests.are_answered(), "the unread bytes are unknown");
    }

    #[test]
    fn only_the_rest_of_a_message_and_copy_data_may_pass_unread() {
        let mut requests = after(b"");
        assert_eq!(requests.may_pass_unread(), 0, "the next message has to be seen");
        requests.follow(&message(b'B', &[0; 100])[..3]);
        assert_eq!(requests.may_pass_unread(), 0, "its length has to be seen");
        requests.follow(&message(b'B', &[0; 100])[3..25]);
        assert_eq!(requests.may_pass_unread(), 80);
        requests.pass(80);
        assert_eq!(requests.may_pass_unread(), 0);
        requests.follow(&messages(b"ES"));
        requests.copy_begins();
        assert_eq!(requests.may_pass_unread(), usize::MAX);
        requests.follow(&messages(b"ddc"));
        assert_eq!(requests.may_pass_unread(), 0);
    }

    #[test]
    fn after_copy_data_the_sync_is_found_at_its_end() {
        for (begin, end) in [(&b"Q"[..], &b"c"[..]), (b"PBDES", b"cS")] {
            let mut requests = after(begin);
            requests.copy_begins();
            requests.pass(1 << 20);
            let stream = [b"the rest of a row".to_vec(), messages(end)].concat();
            stream.chunks(3).for_each(|chunk| requests.follow(chunk));
            assert!(!requests.are_answered());
            requests.answered();
            assert!(requests.are_answered());
            requests.follow(&messages(b"Q"));
            assert!(!requests.are_answered());
        }
    }

    #[test]
    fn after_copy_data_the_sync_is_found_before_pipelined_requests() {
        // As tokio-postgres does: it closes its statement without waiting for the answer to the COPY.
        let close = [message(b'C', b"Ss1\0"), messages(b"S")].concat();
        let next = message(b'Q', &vec![b'x'; 5000]);
        for (begin, end, answers) in
            [(&b"PBDE"[..], [messages(b"cS"), close].concat(), 2), (b"Q", [messages(b"c"), next].concat(), 2)]
        {
            for chunk in [1, 7, end.len() + 100] {
                let mut requests = after(begin);
                requests.copy_begins();
                requests.pass(1 << 20);
                let stream = [b"the rest of a row".to_vec(), end.clone()].concat();
                stream.chunks(chunk).for_each(|chunk| requests.follow(chunk));
                for answer in 0..answers {
                    assert!(!requests.are_answered(), "{chunk}: {answer}");
                    requests.answered();
                }
                assert!(requests.are_answered(), "{chunk}");
            }
        }
    }

    #[test]
    fn a_row_that_looks_like_the_end_of_copy_data_proves_nothing() {
        let mut requests = after(b"Q");
        requests.copy_begins();
        requests.pass(1 << 20);
        requests.follow(&messages(b"c"));
        requests.follow(b"ontinued: the rest of the row");
        requests.answered();
        assert!(!requests.are_answered());
    }

    #[test]
    fn what_no_client_sends_loses_the_sync_for_good() {
        for bytes in [&b"Q\0\0\0\x03"[..], b"z\0\0\0\x04"] {
            let mut requests = Requests::default();
            requests.follow(bytes);
            requests.follow(&messages(b"S"));
            requests.answered();
            assert!(!requests.are_answered());
            assert_eq!(requests.follow_up_to_next(&messages(b"QQ")), 10, "and nothing is held up any more");
        }
    }

    proptest! {
        /// The result is the same for every division into chunks.
        #[test]
        fn requests_do_not_depend_on_chunking(
            kinds in proptest::collection::vec(proptest::sample::select(b"QPBDESFHdcX".to_vec()), 0..30),
            cuts in proptest::collection::vec(1usize..12, 1..100),
            answers in 0usize..12,
        ) {
            let stream: Vec<u8> = kinds.iter().enumerate().flat_map(|(at, kind)| message(*kind, &vec![7; at])).collect();
            let (mut whole, mut cut_up) = (Requests::default(), Requests::default());
            whole.follow(&stream);
            let (mut rest, mut cuts) = (stream.as_slice(), cuts.into_iter().cycle());
            while !rest.is_empty() {
                let (now, later) = rest.split_at(cuts.next().expect("cycles").min(rest.len()));
                cut_up.follow(now);
                rest = later;
            }
            for _ in 0..answers {
                whole.answered();
                cut_up.answered();
                prop_assert_eq!(whole.are_answered(), cut_up.are_answered());
            }
        }
    }
}
