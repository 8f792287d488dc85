//! Sessions whose messages arrive in any chunks, and of which parts pass unread.

use pgvane_loadtest::messages::message;
use proptest::prelude::*;

use super::*;
use crate::protocol::error_response::{Fatal, SqlState};

/// A session after its login.
fn ready() -> Framing {
    let mut framing = Framing::default();
    framing.server_sent(&message(b'Z', b"I"));
    framing
}

fn query() -> Vec<u8> {
    message(b'Q', b"select\0")
}

#[test]
fn a_session_is_between_transactions_once_all_is_answered_and_none_is_open() {
    let mut framing = Framing::default();
    assert!(framing.is_server_at_boundary());
    assert!(!framing.is_between_transactions(), "no message yet");
    framing = ready();
    assert!(framing.is_between_transactions());
    framing.client_sent(&query());
    assert!(!framing.is_between_transactions(), "an answer is due");
    framing.server_sent(&end(b"BEGIN\0", b'T'));
    assert!(!framing.is_between_transactions());
    framing.client_sent(&[query(), query()].concat());
    framing.server_sent(&end(b"COMMIT\0", b'I'));
    assert!(!framing.is_between_transactions(), "the second answer is due");
    framing.server_sent(&end(b"SELECT 1\0", b'I'));
    assert!(framing.is_between_transactions());
}

#[test]
fn a_query_sent_before_the_end_of_the_login_is_answered_after_it() {
    let mut framing = Framing::default();
    framing.client_sent(&[message(b'p', b"proof"), query()].concat());
    framing.server_sent(&message(b'Z', b"I"));
    assert!(!framing.is_between_transactions(), "that was the login's");
    framing.server_sent(&end(b"SELECT 1\0", b'I'));
    assert!(framing.is_between_transactions());
}

#[test]
fn asynchronous_messages_open_no_transaction() {
    let mut framing = ready();
    for unasked in [message(b'A', b"\0\0\0\x07news\0\0"), message(b'N', b"\0"), message(b'S', b"TimeZone\0UTC\0")] {
        framing.server_sent(&unasked);
        assert!(framing.is_between_transactions(), "{unasked:?}");
        framing.server_sent(&unasked[..3]);
        assert!(!framing.is_between_transactions(), "in the middle of a message");
        framing.server_sent(&unasked[3..]);
    }
}

#[test]
fn errors_show_their_sqlstate_once() {
    let fatal = Fatal { sqlstate: SqlState::AdminShutdown, message: "m".repeat(500), detail: None, hint: None };
    let mut framing = Framing::default();
    framing.server_sent(&fatal.encode());
    assert_eq!(framing.take_error().map(|error| error.sqlstate), Some(*b"57P01"));
    assert_eq!(framing.take_error(), None);
    assert_eq!(framing.last_error(), Some(*b"57P01"));
}

#[test]
fn an_error_between_two_requests_can_be_kept_from_the_client() {
    let news = message(b'A', b"\0\0\0\x07E\0E\0");
    let fatal = message(b'E', b"SFATAL\0VFATAL\0C57P01\0Mbye\0\0");
    let stream = [news.clone(), fatal].concat();
    for cut in 0..stream.len() {
        let mut framing = ready();
        let passed = framing.server_sent_up_to_error(&stream[..cut]);
        assert_eq!(passed, cut.min(news.len()), "of {cut} bytes");
        if cut <= news.len() {
            assert_eq!(framing.server_sent_up_to_error(&stream[cut..]), news.len() - cut);
        }
        assert!(framing.is_between_transactions(), "the error has not been read");
    }
}

#[test]
fn an_error_that_was_followed_by_readiness_is_not_the_end() {
    let mut framing = ready();
    framing.client_sent(&query());
    framing.server_sent(&[message(b'E', b"SERROR\0VERROR\0C22012\0Mdivision\0\0"), message(b'Z', b"I")].concat());
    assert_eq!(framing.take_error().map(|error| error.sqlstate), Some(*b"22012"));
    assert_eq!(framing.last_error(), None);
}

#[test]
fn an_invalid_length_loses_the_sync_for_good() {
    let mut framing = Framing::default();
    framing.server_sent(&[b'D', 0, 0, 0, 3]);
    framing.server_sent(&message(b'Z', b"I"));
    assert!(!framing.is_server_at_boundary() && !framing.is_between_transactions());
}

fn end(tag: &[u8], state: u8) -> Vec<u8> {
    [message(b'C', tag), message(b'Z', &[state])].concat()
}

/// A session in which a part of the answer to a query has passed unread.
fn streaming() -> Framing {
    let mut framing = ready();
    framing.client_sent(&query());
    framing.server_sent_unread(1000);
    framing
}

#[test]
fn a_lost_sync_is_found_at_the_end_of_a_command_when_the_stream_pauses() {
    let mut framing = streaming();
    framing.server_sent(&[b"the rest of a row".to_vec(), end(b"SELECT 1000000\0", b'T')].concat());
    assert!(!framing.is_server_at_boundary(), "more may follow at once");
    framing.server_paused();
    assert!(framing.is_server_at_boundary() && !framing.is_between_transactions());
    framing.client_sent(&query());
    framing.server_sent(&end(b"COMMIT\0", b'I'));
    assert!(framing.is_between_transactions());
}

#[test]
fn a_large_row_that_passes_unread_does_not_lose_the_sync() {
    let mut framing = ready();
    framing.client_sent(&query());
    framing.server_sent(&[b'D', 0, 0x10, 0, 4]);
    framing.server_sent_unread(0x10_0000 - 10);
    framing.server_sent(&[0; 10]);
    assert!(framing.is_server_at_boundary());
    framing.server_sent(&end(b"SELECT 1\0", b'I'));
    assert!(framing.is_between_transactions());
}

#[test]
fn the_end_of_an_earlier_answer_is_not_that_of_the_next() {
    let mut framing = streaming();
    framing.server_sent(&end(b"SELECT 1\0", b'I'));
    framing.client_sent(&query());
    framing.server_paused();
    assert!(!framing.is_server_at_boundary() && !framing.is_between_transactions());
}

#[test]
fn of_two_answers_that_passed_unread_one_stays_due() {
    let mut framing = ready();
    framing.client_sent(&[query(), query()].concat());
    framing.server_sent_unread(1000);
    framing.server_sent(&end(b"SELECT 1\0", b'I'));
    framing.server_paused();
    assert!(framing.is_server_at_boundary() && !framing.is_between_transactions());
}

#[test]
fn short_answers_to_pipelined_requests_after_an_unread_one_are_counted() {
    // As tokio-postgres does at the end of a COPY: it closes its statement without waiting for the rows.
    let close = [message(b'C', b"Ss1\0"), message(b'S', b"")].concat();
    let closed = [message(b'3', b""), message(b'Z', b"I")].concat();
    for (state, is_between) in [(b'I', true), (b'T', false)] {
        let mut framing = streaming();
        framing.client_sent(&close);
        framing.server_sent(&[b"of a row".to_vec(), end(b"COPY 4000\0", state), closed.clone()].concat());
        framing.server_paused();
        assert!(framing.is_server_at_boundary(), "{state}");
        assert!(framing.is_between_transactions(), "{state}: the state is that of the last answer");
        framing.client_sent(&query());
        framing.server_sent(&end(b"SELECT 1\0", state));
        assert_eq!(framing.is_between_transactions(), is_between);
    }
}

#[test]
fn the_server_s_bytes_may_pass_unread_while_one_answer_is_due() {
    const ALL: usize = usize::MAX;
    let mut framing = ready();
    assert_eq!(framing.server_may_pass_unread(), ALL);
    framing.client_sent(&query());
    assert_eq!(framing.server_may_pass_unread(), ALL);
    framing.client_sent(&query());
    assert_eq!(framing.server_may_pass_unread(), 0, "which of the two answers would have ended?");
    framing.server_sent(&message(b'D', &[0; 100])[..25]);
    assert_eq!(framing.server_may_pass_unread(), 80, "the rest of the row");
    framing.server_sent_unread(80);
    framing.server_sent(&end(b"SELECT 1\0", b'I'));
    assert_eq!(framing.server_may_pass_unread(), ALL);
    framing.server_sent(&end(b"SELECT 1\0", b'I'));
    framing.client_sent(&[message(b'P', b""), message(b'H', b"")].concat());
    assert_eq!(framing.server_may_pass_unread(), 0, "the answer may end before the client asks for its end");
    framing.client_sent(&message(b'S', b""));
    assert_eq!(framing.server_may_pass_unread(), ALL);
    framing.server_sent_unread(1000);
    framing.client_sent(&query());
    assert_eq!(framing.server_may_pass_unread(), ALL, "nothing can be learnt from the rest");
}

#[test]
fn a_lost_sync_is_not_found_in_other_bytes() {
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
        let mut framing = streaming();
        framing.server_sent(&[vec![b'x'; 60], stream.clone()].concat());
        framing.server_paused();
        assert!(!framing.is_server_at_boundary() && !framing.is_between_transactions(), "{stream:?}");
    }
}

proptest! {
    /// The end is found for every division into chunks.
    #[test]
    fn a_lost_sync_is_found_in_any_chunks(
        before in proptest::collection::vec(any::<u8>(), 0..200),
        cuts in proptest::collection::vec(1usize..60, 1..200),
    ) {
        let stream = [before, end(b"COPY 123456789\0", b'I')].concat();
        let mut framing = streaming();
        let (mut rest, mut cuts) = (stream.as_slice(), cuts.into_iter().cycle());
        while !rest.is_empty() {
            let (now, later) = rest.split_at(cuts.next().expect("cycles").min(rest.len()));
            framing.server_sent(now);
            rest = later;
        }
        framing.server_paused();
        prop_assert!(framing.is_between_transactions());
    }

    /// The boundaries are the same for every division into chunks.
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
            framing.server_sent(&stream[at..next]);
            at = next;
            prop_assert_eq!(framing.is_server_at_boundary(), boundaries.contains(&at));
        }
    }
}
