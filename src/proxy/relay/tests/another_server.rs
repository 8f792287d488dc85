//! A session that has stopped is asked with bytes held back, and goes on with another server.

use super::park::{WAYS, answer, query, reads};
use super::*;
use crate::protocol::session_question::Question;

/// A session that has stopped, with the client's next request held back.
async fn stopped(ways: [Way; 2], counters: &ByteCounters) -> (Stream, Stream, Relay) {
    let (mut client, mut server, mut relay) = session(ways).await;
    client.send(&query()).await.expect("goes");
    reads(&mut relay, counters, &mut server, &query()).await;
    relay.set_parking(true);
    server.send(&answer(b"BEGIN\0", b'T')).await.expect("goes");
    reads(&mut relay, counters, &mut client, &answer(b"BEGIN\0", b'T')).await;
    client.send(&query().repeat(2)).await.expect("goes");
    reads(&mut relay, counters, &mut server, &query()).await;
    server.send(&answer(b"COMMIT\0", b'I')).await.expect("goes");
    reads(&mut relay, counters, &mut client, &answer(b"COMMIT\0", b'I')).await;
    run_until(&mut relay, counters, Relay::is_parked).await.expect("is at rest");
    (client, server, relay)
}

#[tokio::test]
async fn a_question_goes_before_what_is_held_back() {
    for ways in WAYS {
        let counters = &ByteCounters::default();
        let (_client, mut server, mut relay) = stopped(ways, counters).await;
        let mut question = relay.ask(&[]).expect("it has stopped");
        let asked = Question::request(&[]);
        let mut heard = vec![0; asked.len()];
        let refusing = async {
            server.read_exact(&mut heard).await.expect("the question comes");
            let error = message(b'E', b"SERROR\0VERROR\0C57014\0Mno\0\0");
            server.send(&[error, message(b'Z', b"I")].concat()).await.expect("goes");
            server
        };
        let asking = poll_fn(|cx| relay.poll_answer(cx, counters, &mut question));
        let (refused, mut server) = timeout(DEADLINE, async { tokio::join!(asking, refusing) }).await.expect("in time");
        assert!(refused.is_err() && heard == asked, "{ways:?}");
        relay.set_parking(false);
        reads(&mut relay, counters, &mut server, &query()).await;
    }
}

#[tokio::test]
async fn a_session_goes_on_with_another_server_and_nothing_is_lost_or_doubled() {
    for ways in WAYS {
        let counters = &ByteCounters::default();
        let (mut client, mut server, relay) = stopped(ways, counters).await;
        assert!(relay.can_leave_server());
        let mut side = relay.leave_server().expect("it has stopped");
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.expect("is closed in order");
        assert_eq!(rest, TERMINATE, "{ways:?}: and nothing of what was held back");
        assert_eq!(side.for_server, query()[..]);
        let status = message(b'S', b"server_version\x0018\0");
        side.for_client.extend_from_slice(&status);
        let (mut other, for_relay) = connected(ways[1]).await;
        let mut relay = Relay::with_another_server(RelayMode::Auto, side, for_relay);
        reads(&mut relay, counters, &mut client, &status).await;
        reads(&mut relay, counters, &mut other, &query()).await;
        other.send(&answer(b"SELECT 1\0", b'I')).await.expect("goes");
        reads(&mut relay, counters, &mut client, &answer(b"SELECT 1\0", b'I')).await;
    }
}

#[tokio::test]
async fn a_session_does_not_leave_its_server_in_the_middle_of_a_message_or_of_a_transaction() {
    let counters = &ByteCounters::default();
    let (mut client, mut server, mut relay) = stopped([Way::Tcp, Way::Tcp], counters).await;
    let news = message(b'A', b"\0\0\0\x07news\0all is well\0");
    server.send(&news[..7]).await.expect("goes");
    reads(&mut relay, counters, &mut client, &news[..7]).await;
    assert!(!relay.can_leave_server() && relay.leave_server().is_err());

    let (mut client, mut server, mut relay) = session([Way::Tcp, Way::Tcp]).await;
    assert!(relay.can_leave_server());
    client.send(&query()).await.expect("goes");
    reads(&mut relay, counters, &mut server, &query()).await;
    assert!(!relay.can_leave_server(), "an answer is due");
    server.send(&answer(b"BEGIN\0", b'T')).await.expect("goes");
    reads(&mut relay, counters, &mut client, &answer(b"BEGIN\0", b'T')).await;
    assert!(!relay.can_leave_server(), "a transaction is open");
}
