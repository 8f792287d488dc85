//! Follows the client's stream: what the server has been asked and has not answered, and whether the next message
//! begins something new.
//!
//! `Query`, `Sync` and `FunctionCall` are answered by a `ReadyForQuery` each. What the extended protocol sends before
//! its `Sync` belongs together with it. The exception: while the server takes `CopyData`, it overlooks `Sync`
//! (`src/backend/commands/copyfromparse.c`, `CopyGetData`), and libpq does send one behind the `Execute` of a `COPY`.
//!
//! Where the count may be wrong, it is too high: then the server seems to owe an answer, and nothing worse.

use super::walk::Walk;

const QUERY: u8 = b'Q';
const FUNCTION_CALL: u8 = b'F';
const SYNC: u8 = b'S';
const EXECUTE: u8 = b'E';
const COPY_DONE: u8 = b'c';
const COPY_FAIL: u8 = b'f';

/// Messages that begin something, or go on with it: all that is not named elsewhere here.
const OTHER_STEPS: &[u8] = b"PBDCE";

/// Messages that begin nothing: `CopyData`, `Flush`, `Terminate`, and answers to a request for a password.
const NO_STEPS: &[u8] = b"dHXp";

/// The ends of a stream of `CopyData` by which a lost sync is found again.
const COPY_ENDS: [&[u8]; 2] = [b"c\0\0\0\x04", b"c\0\0\0\x04S\0\0\0\x04"];

/// As long as the longer of them.
const KEPT_MAX: usize = 10;

/// Whether it is known where messages begin and end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Sync {
    /// Known. Exits: to `Lost` when bytes pass by unseen, to `Unparseable` at a message that no client sends.
    #[default]
    Followed,
    /// Unknown. Exits: to `Followed` at the end of the `CopyData` that the server has asked for.
    Lost,
    /// This is not the protocol as we know it. No exit.
    Unparseable,
}

/// What a server has been asked.
#[derive(Debug, Clone, Default)]
pub(super) struct Requests {
    walk: Walk,
    sync: Sync,
    /// Messages of the extended protocol have been sent whose `Sync` is still to come.
    is_open: bool,
    /// The server has asked for `CopyData`, and not yet been sent the end of it. Even if it has failed meanwhile, most
    /// clients send that.
    takes_copy: bool,
    /// The last bytes of a stream whose sync is lost.
    kept: [u8; KEPT_MAX],
    kept_length: u8,
    /// `ReadyForQuery` messages that are due.
    awaited: u32,
    /// Of these, the ones that were asked for after the last message that can begin a `COPY`.
    awaited_since_execute: u32,
}

impl Requests {
    /// Takes in what the client has sent.
    pub(super) fn follow(&mut self, bytes: &[u8]) {
        self.follow_while(bytes, |_, _| true);
    }

    /// Takes in what the client has sent, up to the first message that begins something new while the server is still
    /// busy with something else. Returns how much that is.
    pub(super) fn follow_up_to_next(&mut self, bytes: &[u8]) -> usize {
        self.follow_while(bytes, |requests, kind| {
            let begins = [QUERY, FUNCTION_CALL].contains(&kind) || OTHER_STEPS.contains(&kind);
            !begins || requests.is_open || requests.awaited == 0
        })
    }

    /// Takes in that bytes have passed by unseen.
    pub(super) fn pass(&mut self, length: usize) {
        match self.sync {
            Sync::Followed if self.walk.pass(length) => {
                if self.walk.is_at_boundary() {
                    self.end_message();
                }
            }
            Sync::Followed => (self.sync, self.kept_length) = (Sync::Lost, 0),
            Sync::Lost => self.kept_length = 0,
            Sync::Unparseable => {}
        }
    }

    /// Takes in that the server has said `ReadyForQuery`.
    pub(super) fn answered(&mut self) {
        self.awaited = self.awaited.saturating_sub(1);
        self.awaited_since_execute = self.awaited_since_execute.min(self.awaited);
    }

    /// Takes in that the server has asked for `CopyData`.
    pub(super) fn copy_begins(&mut self) {
        self.takes_copy = true;
    }

    /// Whether the server has answered all that it was asked, and the client is not in the middle of something.
    pub(super) fn are_answered(&self) -> bool {
        self.are_at_boundary() && !self.is_open && self.awaited == 0
    }

    /// Whether the last byte of the client's stream was the last of a message.
    pub(super) fn are_at_boundary(&self) -> bool {
        self.sync == Sync::Followed && self.walk.is_at_boundary()
    }

    fn follow_while(&mut self, bytes: &[u8], may_pass: impl Fn(&Requests, u8) -> bool) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            match self.sync {
                Sync::Unparseable => return bytes.len(),
                Sync::Lost => {
                    self.look_for_copy_end(&bytes[at..]);
                    return bytes.len();
                }
                Sync::Followed if self.walk.is_at_boundary() && !may_pass(self, bytes[at]) => return at,
                Sync::Followed => match self.walk.step(&bytes[at..]) {
                    Ok((taken, _)) => {
                        at += taken;
                        if self.walk.is_at_boundary() {
                            self.end_message();
                        }
                    }
                    Err(_) => self.sync = Sync::Unparseable,
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
            _ => self.sync = Sync::Unparseable,
        }
    }

    /// A `Sync` that the server was sent while it took `CopyData` was overlooked.
    fn end_copy(&mut self) {
        if self.takes_copy {
            self.awaited = self.awaited.saturating_sub(self.awaited_since_execute);
            (self.takes_copy, self.awaited_since_execute) = (false, 0);
        }
    }

    /// A sync that was lost in a stream of `CopyData` is found at the end of that.
    ///
    /// The same bytes may stand at the end of a row, and of a portion. What follows is then not understood, and the
    /// sync breaks: nothing is concluded from it.
    fn look_for_copy_end(&mut self, bytes: &[u8]) {
        let taken = &bytes[bytes.len().saturating_sub(KEPT_MAX)..];
        let kept = usize::from(self.kept_length);
        let gone = (kept + taken.len()).saturating_sub(KEPT_MAX);
        self.kept.copy_within(gone..kept, 0);
        self.kept[kept - gone..kept - gone + taken.len()].copy_from_slice(taken);
        self.kept_length = (kept - gone + taken.len()) as u8;

        let end = &self.kept[..usize::from(self.kept_length)];
        let Some(found) = COPY_ENDS.iter().rev().find(|copy_end| end.ends_with(copy_end)) else { return };
        if self.takes_copy {
            self.sync = Sync::Followed;
            self.walk = Walk::default();
            self.is_open = false;
            self.follow(found);
        }
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
    fn what_awaits_its_sync_is_under_way_whatever_was_answered() {
        let mut requests = after(b"QPBEH");
        requests.answered();
        assert!(!requests.are_answered());
        requests.follow(&messages(b"S"));
        requests.answered();
        assert!(requests.are_answered());
    }

    #[test]
    fn half_a_message_is_under_way() {
        let mut requests = after(b"");
        requests.follow(&message(b'Q', b"select 1\0")[..8]);
        requests.answered();
        assert!(!requests.are_answered());
    }

    #[test]
    fn the_sync_that_a_copy_overlooks_is_not_waited_for() {
        let mut requests = after(b"PBDES");
        requests.copy_begins();
        requests.follow(&messages(b"ddcS"));
        assert!(!requests.are_answered());
        requests.answered();
        assert!(requests.are_answered(), "the second Sync is answered, the first was overlooked");

        let mut refused = after(b"PBDESdc");
        refused.follow(&messages(b"PBES"));
        refused.answered();
        assert!(!refused.are_answered(), "a server that never asked for CopyData overlooks nothing");

        let mut simple = after(b"Q");
        simple.copy_begins();
        simple.follow(&messages(b"ddf"));
        assert!(!simple.are_answered());
        simple.answered();
        assert!(simple.are_answered());
    }

    #[test]
    fn nothing_new_passes_before_all_is_answered_and_what_was_begun_does() {
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
    fn a_large_body_may_pass_unseen_and_a_stream_of_messages_may_not() {
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
        assert!(!requests.are_answered(), "nobody knows what has passed");
    }

    #[test]
    fn after_bulk_data_the_thread_is_found_at_its_end() {
        for (begin, end) in [(&b"Q"[..], &b"c"[..]), (b"PBDES", b"cS")] {
            let mut requests = after(begin);
            requests.copy_begins();
            requests.pass(1 << 20);
            let stream = [b"the rest of a row".to_vec(), messages(end)].concat();
            stream.chunks(3).for_each(|portion| requests.follow(portion));
            assert!(!requests.are_answered());
            requests.answered();
            assert!(requests.are_answered());
            requests.follow(&messages(b"Q"));
            assert!(!requests.are_answered());
        }
    }

    #[test]
    fn a_row_that_looks_like_the_end_of_the_bulk_proves_nothing() {
        let mut requests = after(b"Q");
        requests.copy_begins();
        requests.pass(1 << 20);
        requests.follow(&messages(b"c"));
        requests.follow(b"ontinued: the rest of the row");
        requests.answered();
        assert!(!requests.are_answered());
    }

    #[test]
    fn what_no_client_sends_breaks_the_thread_for_good() {
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
        /// However the stream is cut up, the same is under way.
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
