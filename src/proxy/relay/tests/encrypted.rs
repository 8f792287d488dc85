//! Encrypted sides: rustls has buffers of its own.

use super::*;

/// rustls accepts more bytes than its socket. Those in its buffer must be sent as soon as the socket has room, also if no
/// new bytes come.
#[tokio::test]
async fn bytes_that_rustls_buffers_are_sent_on() {
    for mode in [RelayMode::Auto, RelayMode::Splice] {
        let ((mut client, client_inside), (server_inside, mut server)) =
            tokio::join!(connected(Way::Tls), connected(Way::Tcp));
        SockRef::from(client.socket()).set_recv_buffer_size(4096).expect("a socket option");
        SockRef::from(client_inside.socket()).set_send_buffer_size(4096).expect("a socket option");
        let registry = Arc::new(Registry::new(1, vec![Arc::default()]));
        let guard = registry.guard(&origin(), NodeId::new(0));
        let (nothing, framing) = (BytesMut::new, Some(Framing::default()));
        let mut relay = Relay::new(mode, client_inside, server_inside, framing, nothing(), nothing());
        let answer = message(b'D', &bytes(50_000, 9));
        server.send(&answer).await.expect("fits");
        let counters = guard.control().bytes();
        let arrives = async {
            while arrived(relay.server.socket()) < answer.len() {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, arrives).await.expect("all of it arrives before any is relayed");
        // nobody reads: the relay waits for the client, with all that it has taken
        let has_taken_all = |relay: &Relay| counters.read()[1] == answer.len() as u64 && !relay.down.is_empty();
        run_until(&mut relay, counters, has_taken_all).await.expect("something is on its way");
        assert!(!relay.can_send_own_message());

        let mut received = vec![0; answer.len()];
        let relaying = poll_fn(|cx| relay.poll(cx, counters, |_| {}));
        let read = timeout(DEADLINE, async {
            tokio::select! {
                _ = relaying => panic!("nobody has closed"),
                read = client.read_exact(&mut received) => read,
            }
        });
        read.await.expect("all comes").expect("nothing fails");
        assert!(received == answer);
        run_until(&mut relay, counters, |relay| relay.down.is_empty()).await.expect("has delivered all");
        assert!(relay.can_send_own_message() && relay.down.owns_nothing());
    }
}

/// With a slow client, bytes wait in the relay and in rustls, and the server is slowed down.
#[tokio::test]
async fn a_slow_encrypted_client_gets_everything_and_is_not_polled_while_it_waits() {
    let ((mut client, client_inside), (server_inside, mut server)) =
        tokio::join!(connected(Way::Tls), connected(Way::Tcp));
    let registry = Arc::new(Registry::new(1, vec![Arc::default()]));
    let guard = registry.guard(&origin(), NodeId::new(0));
    let (nothing, framing) = (BytesMut::new, Some(Framing::default()));
    let mut relay = Relay::new(RelayMode::Auto, client_inside, server_inside, framing, nothing(), nothing());
    let large = large_result().repeat(6);

    let sent = async {
        server.send(&large).await.expect("goes, sooner or later");
        server
    };
    let mut sent = Box::pin(sent);
    let mut polls = 0;
    // nobody reads: at some point all buffers are full, and nothing is polled any more
    let stuck = async {
        let relaying = poll_fn(|cx| {
            polls += 1;
            relay.poll(cx, guard.control().bytes(), |_| {})
        });
        tokio::select! {
            _ = relaying => panic!("nobody has closed"),
            _ = &mut sent => panic!("more than all buffers hold"),
        }
    };
    assert!(timeout(Duration::from_millis(300), stuck).await.is_err());
    assert!(polls < 2000, "{polls} polls: it spins");
    assert!(!relay.can_send_own_message() && !relay.down.is_empty());

    let mut received = vec![0; large.len()];
    let relaying = poll_fn(|cx| relay.poll(cx, guard.control().bytes(), |_| {}));
    let (_server, _) = tokio::select! {
        _ = relaying => panic!("nobody has closed"),
        both = async { tokio::join!(sent, client.read_exact(&mut received)) } => both,
    };
    assert!(received == large);
    let bytes = guard.control().bytes();
    run_until(&mut relay, bytes, |relay| relay.down.is_empty()).await.expect("has delivered all");
    assert!(relay.can_send_own_message() && relay.down.owns_nothing());
    relay.set_draining(true);
    assert!(matches!(run_to_end(&mut relay, bytes).await, Some(Outcome::Drained)));
}
