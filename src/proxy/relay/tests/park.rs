//! Parking: a session stops between two transactions, and goes on as if nothing had been.

use super::*;
use crate::protocol::session_question::Question;

pub(super) fn query() -> Vec<u8> {
    message(b'Q', b"select\0")
}

pub(super) fn answer(tag: &[u8], state: u8) -> Vec<u8> {
    [message(b'C', tag), message(b'Z', &[state])].concat()
}

/// Reads the expected bytes while the relay runs.
pub(super) async fn reads(relay: &mut Relay, counters: &ByteCounters, stream: &mut Stream, expected: &[u8]) {
    let mut received = vec![0; expected.len()];
    let read = timeout(DEADLINE, async {
        tokio::select! {
            read = stream.read_exact(&mut received) => read.map(drop),
            ended = run_to_end(relay, counters) => panic!("the relay has ended: {ended:?}"),
        }
    });
    read.await.expect("comes in time").expect("comes");
    assert_eq!(received, expected);
}

pub(super) const WAYS: [[Way; 2]; 3] = [[Way::Tcp, Way::Tcp], [Way::Tls, Way::Tcp], [Way::Tls, Way::Tls]];

#[tokio::test]
async fn a_parked_session_passes_on_what_the_server_says_and_nothing_that_the_client_says() {
    for ways in WAYS {
        let counters = &ByteCounters::default();
        let (mut client, mut server, mut relay) = session(ways).await;
        relay.set_parking(true);
        run_until(&mut relay, counters, Relay::is_parked).await.expect("is at rest");
        client.send(&[query(), query()].concat()).await.expect("goes");
        let news = message(b'A', b"\0\0\0\x07news\0all is well\0");
        server.send(&news).await.expect("goes");
        reads(&mut relay, counters, &mut client, &news).await;
        assert_eq!(counters.read(), [0, news.len() as u64], "{ways:?}");
        relay.set_parking(false);
        assert!(!relay.is_parked());
        reads(&mut relay, counters, &mut server, &[query(), query()].concat()).await;
        let answers = [answer(b"SELECT 1\0", b'I'), answer(b"SELECT 1\0", b'I')].concat();
        server.send(&answers).await.expect("goes");
        reads(&mut relay, counters, &mut client, &answers).await;
    }
}

#[tokio::test]
async fn a_transaction_is_finished_first_and_what_follows_it_waits() {
    for ways in WAYS {
        let counters = &ByteCounters::default();
        let (mut client, mut server, mut relay) = session(ways).await;
        client.send(&query()).await.expect("goes");
        reads(&mut relay, counters, &mut server, &query()).await;
        relay.set_parking(true);
        server.send(&answer(b"BEGIN\0", b'T')).await.expect("goes");
        reads(&mut relay, counters, &mut client, &answer(b"BEGIN\0", b'T')).await;
        assert!(!relay.is_parked(), "a transaction is open");
        client.send(&[query(), query(), query()].concat()).await.expect("goes");
        reads(&mut relay, counters, &mut server, &query()).await;
        server.send(&answer(b"SELECT 1\0", b'T')).await.expect("goes");
        reads(&mut relay, counters, &mut server, &query()).await;
        server.send(&answer(b"COMMIT\0", b'I')).await.expect("goes");
        run_until(&mut relay, counters, Relay::is_parked).await.expect("the transaction has ended");
        let answers = [answer(b"SELECT 1\0", b'T'), answer(b"COMMIT\0", b'I')].concat();
        reads(&mut relay, counters, &mut client, &answers).await;
        assert_eq!(counters.read()[0], 3 * query().len() as u64, "the fourth query waits");
        relay.set_parking(false);
        reads(&mut relay, counters, &mut server, &query()).await;
    }
}

#[tokio::test]
async fn the_error_with_which_a_server_closes_does_not_reach_a_parked_client() {
    let counters = &ByteCounters::default();
    let (mut client, mut server, mut relay) = session([Way::Tls, Way::Tcp]).await;
    relay.set_parking(true);
    run_until(&mut relay, counters, Relay::is_parked).await.expect("is at rest");
    let news = message(b'A', b"\0\0\0\x07news\0all is well\0");
    let fatal = message(b'E', b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0");
    server.send(&[news.clone(), fatal[..9].to_vec()].concat()).await.expect("goes");
    let outcome = run_to_end(&mut relay, counters).await;
    assert!(matches!(outcome, Some(Outcome::ServerClosedParked)), "{outcome:?}");
    assert!(relay.can_send_own_message());
    drop(relay);
    let mut received = Vec::new();
    client.read_to_end(&mut received).await.expect("comes");
    assert_eq!(received, news);
}

#[tokio::test]
async fn a_parked_session_can_be_drained() {
    let counters = &ByteCounters::default();
    let (_client, _server, mut relay) = session([Way::Tcp; 2]).await;
    relay.set_parking(true);
    run_until(&mut relay, counters, Relay::is_parked).await.expect("is at rest");
    relay.set_draining(true);
    assert!(matches!(run_to_end(&mut relay, counters).await, Some(Outcome::Drained)));
}

#[tokio::test]
async fn a_session_at_rest_that_was_parked_still_splices_what_its_client_streams() {
    let counters = &ByteCounters::default();
    let (mut client, mut server, mut relay) = session([Way::Tcp; 2]).await;
    relay.set_parking(true);
    run_until(&mut relay, counters, Relay::is_parked).await.expect("is at rest");
    relay.set_parking(false);
    client.send(&query()).await.expect("goes");
    reads(&mut relay, counters, &mut server, &query()).await;
    let in_copy = message(b'G', b"\0\0\0");
    server.send(&in_copy).await.expect("goes");
    reads(&mut relay, counters, &mut client, &in_copy).await;
    let data = message(b'd', &bytes(100_000, 3)).repeat(100);
    let sending = data.clone();
    let sender = tokio::spawn(async move {
        client.send(&sending).await.expect("goes");
        client
    });
    reads(&mut relay, counters, &mut server, &data).await;
    sender.await.expect("no panic");
    assert!(relay.up.spliced > 0, "a park must not make every later bulk load dearer");
}

/// A row of an answer with four columns.
fn row(columns: [&str; 4]) -> Vec<u8> {
    let columns = columns.map(|text| [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat()).concat();
    message(b'D', &[&[0, 4][..], &columns].concat())
}

#[tokio::test]
async fn the_answer_to_a_question_of_pgvane_does_not_reach_the_client_and_all_else_does() {
    for ways in WAYS {
        let counters = &ByteCounters::default();
        let (mut client, mut server, mut relay) = session(ways).await;
        assert!(relay.ask(&[]).is_none(), "it has not stopped");
        relay.set_parking(true);
        run_until(&mut relay, counters, Relay::is_parked).await.expect("is at rest");
        let mut question = relay.ask(&[]).expect("it has stopped");
        client.send(&query()).await.expect("goes");
        let asked = Question::request(&[]);
        let news = message(b'A', b"\0\0\0\x07news\0all is well\0");
        let answering = async {
            let mut heard = vec![0; asked.len()];
            server.read_exact(&mut heard).await.expect("the question comes");
            assert_eq!(heard, asked);
            let rows = [row(["advisory", "0", "", ""]), row(["temporary", "0", "", ""]), row(["process", "7", "", ""])];
            let answer = [
                vec![message(b'1', b""), message(b'2', b""), news.clone()],
                rows.to_vec(),
                vec![
                    row(["login", "a", "", ""]),
                    row(["users", "a", "a", "none"]),
                    message(b'C', b"SELECT 5\0"),
                    message(b'3', b""),
                ],
                vec![message(b'Z', b"I"), news.clone()],
            ];
            server.send(&answer.concat().concat()).await.expect("goes");
            server
        };
        let asking = poll_fn(|cx| relay.poll_answer(cx, counters, &mut question));
        let (answer, mut server) = timeout(DEADLINE, async { tokio::join!(asking, answering) }).await.expect("in time");
        assert_eq!(answer.expect("an answer").process_id(), Some(7), "{ways:?}");
        reads(&mut relay, counters, &mut client, &news.repeat(2)).await;
        relay.set_parking(false);
        reads(&mut relay, counters, &mut server, &query()).await;
        assert_eq!(counters.read(), [query().len() as u64, 2 * news.len() as u64]);
    }
}
