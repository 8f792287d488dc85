//! The relay between real connections, in every mode and with random behaviour of both sides.

mod another_server;
mod drain;
mod encrypted;
mod park;
mod rest;

use std::net::Ipv4Addr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use pgvane_loadtest::messages::message;
use proptest::prelude::*;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, ReadHalf, WriteHalf, split};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use self::rest::{arrived, run_to_end, run_until};
use super::*;
use crate::cluster::NodeId;
use crate::config::{ClusterIndex, ListenerIndex};
use crate::proxy::sessions::origin::Origin;
use crate::proxy::sessions::registry::Registry;
use crate::routing::{Rule, Target};
use crate::tls::world::World;
use crate::tls::{Acceptor, Negotiation, ServerTls, SslMode, TlsSettings};

/// A test that takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(20);

/// How a side is connected.
#[derive(Debug, Clone, Copy)]
enum Way {
    Tcp,
    Unix,
    /// TLS over TCP.
    Tls,
}

static ACCEPTOR: LazyLock<Acceptor> = LazyLock::new(|| Acceptor::new(&World::new().terminate()).expect("sound files"));

/// The two ends of a connection; the first is the connecting side.
async fn connected(way: Way) -> (Stream, Stream) {
    if let Way::Unix = way {
        let (one, other) = UnixStream::pair().expect("sockets");
        return (Stream::Plain(one.into()), Stream::Plain(other.into()));
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("is bound");
    let (one, other) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (one, other) = (one.expect("connects"), other.expect("accepts").0);
    if let Way::Tcp = way {
        return (one.into(), other.into());
    }
    let settings = TlsSettings { negotiation: Negotiation::Direct, ..TlsSettings::of_mode(SslMode::Require) };
    let connecting = ServerTls::new(&settings).expect("no files");
    let (one, other) = tokio::join!(connecting.negotiate(one.into(), "localhost"), ACCEPTOR.accept(other.into(), &[]));
    (one.expect("agrees"), other.expect("agrees").stream.into())
}

/// How a relay ended, and what it counted.
struct Ended {
    outcome: Outcome,
    to_server: u64,
    to_client: u64,
    spliced: u64,
}

/// Where the sessions of these tests come from.
fn origin() -> Arc<Origin> {
    Origin::shared((ListenerIndex(0), "test"), ClusterIndex(0), Rule::new(Target::Any))
}

/// A running relay, and the client's and the server's ends of its connections.
async fn running(mode: RelayMode, ways: [Way; 2]) -> (Stream, Stream, JoinHandle<Ended>) {
    let [client, server] = ways.map(connected);
    let ((client, client_inside), (server_inside, server)) = tokio::join!(client, server);
    let ended = tokio::spawn(async move {
        let registry = Arc::new(Registry::new(1, vec![Arc::default()]));
        let guard = registry.guard(&origin(), NodeId::new(0));
        let (nothing, framing) = (BytesMut::new, Some(Framing::default()));
        let mut relay = Relay::new(mode, client_inside, server_inside, framing, nothing(), nothing());
        let outcome = poll_fn(|cx| relay.poll(cx, guard.control().bytes(), |_| {})).await;
        let census = registry.census().listeners[0];
        if matches!(outcome, Outcome::ServerClosed(_)) {
            relay.finish_for_client().await;
        }
        let (to_server, to_client) = (census.bytes_to_server, census.bytes_to_client);
        Ended { outcome, to_server, to_client, spliced: relay.up.spliced + relay.down.spliced }
    });
    (client, server, ended)
}

/// Pseudo-random bytes, so that lost, doubled or swapped bytes are detected.
fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// What one side does with its connection.
#[derive(Debug, Clone)]
struct Side {
    /// The lengths that it sends; it pauses after each one with `true`.
    sends: Vec<(usize, bool)>,
    /// The maximum that it reads at once.
    reads: usize,
    /// It pauses after this many reads.
    rests_every: usize,
    /// It resets its connection after it has read this many bytes.
    resets_after: Option<usize>,
}

async fn moment() {
    tokio::time::sleep(Duration::from_micros(300)).await;
}

async fn send(side: &Side, data: &[u8], stream: &mut WriteHalf<Stream>) -> io::Result<()> {
    let mut left = data;
    for (length, rests) in &side.sends {
        let (now, later) = left.split_at(*length);
        stream.write_all(now).await?;
        stream.flush().await?;
        left = later;
        if *rests {
            moment().await;
        }
    }
    stream.shutdown().await
}

/// Reads to the end, or until it resets. The second value: whether it saw the other side's close.
async fn receive(side: &Side, stream: &mut ReadHalf<Stream>) -> (Vec<u8>, bool) {
    let (mut all, mut room) = (Vec::new(), vec![0; side.reads]);
    for count in 1.. {
        if side.resets_after.is_some_and(|most| all.len() >= most) {
            return (all, false);
        }
        match stream.read(&mut room).await {
            Ok(0) | Err(_) => return (all, true),
            Ok(more) => all.extend_from_slice(&room[..more]),
        }
        if count % side.rests_every == 0 {
            moment().await;
        }
    }
    unreachable!("the loop has no other end")
}

/// Plays one side. Returns what it received, and whether it saw the other side's close.
async fn play(side: Side, data: Vec<u8>, stream: Stream) -> (Vec<u8>, bool) {
    let resets = side.resets_after.is_some();
    if resets {
        SockRef::from(stream.socket()).set_linger(Some(Duration::ZERO)).expect("a socket option");
    }
    let (mut reading, mut writing) = split(stream);
    if resets {
        // ends when it has read enough and resets, or when it sees a close
        let sent = async {
            let _ = send(&side, &data, &mut writing).await;
            std::future::pending::<()>().await;
        };
        return tokio::select! {
            received = receive(&side, &mut reading) => received,
            () = sent => unreachable!("never ends"),
        };
    }
    let (_, received) = tokio::join!(send(&side, &data, &mut writing), receive(&side, &mut reading));
    received
}

fn side(resets: impl Strategy<Value = Option<usize>>) -> impl Strategy<Value = Side> {
    let length = prop_oneof![3 => 1usize..2_000, 1 => 60_000usize..300_000];
    let sends = proptest::collection::vec((length, any::<bool>()), 0..10);
    let reads = prop_oneof![1usize..5_000, 50_000usize..200_000];
    (sends, reads, 1usize..50, resets).prop_map(|(sends, reads, rests_every, resets_after)| Side {
        sends,
        // tiny reads of long streams take long and test nothing more
        reads: reads.max(500),
        rests_every,
        resets_after,
    })
}

fn mode() -> impl Strategy<Value = RelayMode> {
    prop_oneof![Just(RelayMode::Auto), Just(RelayMode::Copy), Just(RelayMode::Splice)]
}

fn ways() -> impl Strategy<Value = [Way; 2]> {
    let way = || prop_oneof![2 => Just(Way::Tcp), 1 => Just(Way::Unix), 2 => Just(Way::Tls)];
    [way(), way()]
}

struct Played {
    sent_up: Vec<u8>,
    sent_down: Vec<u8>,
    at_client: (Vec<u8>, bool),
    at_server: (Vec<u8>, bool),
    ended: Ended,
}

fn played(mode: RelayMode, ways: [Way; 2], client: Side, server: Side) -> Played {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let total = |side: &Side| side.sends.iter().map(|(length, _)| length).sum();
        let (sent_up, sent_down) = (bytes(total(&client), 7), bytes(total(&server), 11));
        let (at_client, at_server, relay) = running(mode, ways).await;
        let client = tokio::spawn(play(client, sent_up.clone(), at_client));
        let server = tokio::spawn(play(server, sent_down.clone(), at_server));
        let all = timeout(DEADLINE, async { tokio::join!(client, server, relay) });
        let (at_client, at_server, ended) = all.await.expect("everybody comes to an end");
        Played {
            sent_up,
            sent_down,
            at_client: at_client.expect("no panic"),
            at_server: at_server.expect("no panic"),
            ended: ended.expect("no panic"),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// For all chunk lengths and delays, and for each side that closes first: all bytes arrive, and both sides see the
    /// close.
    #[test]
    fn all_bytes_arrive_in_order(
        mode in mode(),
        ways in ways(),
        client in side(Just(None)), server in side(Just(None))) {
        let played = played(mode, ways, client, server);
        prop_assert!(played.at_server.0 == played.sent_up, "up");
        prop_assert!(played.at_client.0 == played.sent_down, "down");
        prop_assert!(played.at_client.1 && played.at_server.1);
        prop_assert_eq!(played.ended.to_client, played.sent_down.len() as u64);
        match played.ended.outcome {
            // bytes that the client sends after that are not counted
            Outcome::ServerClosed(None) => {}
            Outcome::ClientClosed => prop_assert_eq!(played.ended.to_server, played.sent_up.len() as u64),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    /// After a reset, the bytes that arrived are a prefix of the bytes that were sent, and the other side sees the close.
    #[test]
    fn a_reset_reaches_the_other_side(
        mode in mode(),
        ways in ways(),
        breaker in side((0usize..400_000).prop_map(Some)),
        other in side(Just(None)),
        is_client in any::<bool>(),
    ) {
        let played = if is_client { played(mode, ways, breaker, other) } else { played(mode, ways, other, breaker) };
        prop_assert!(played.sent_up.starts_with(&played.at_server.0), "up");
        prop_assert!(played.sent_down.starts_with(&played.at_client.0), "down");
        let (_, is_told) = if is_client { played.at_server } else { played.at_client };
        prop_assert!(is_told);
    }
}

/// A result of many rows, the last one of which has a `ReadyForQuery` in its data.
fn large_result() -> Vec<u8> {
    let end = [message(b'C', b"SELECT 1\0"), message(b'Z', b"I")].concat();
    let mut result = message(b'D', &bytes(300, 3)).repeat(20_000);
    result.extend(message(b'D', &[b"\0\x01\0\0\0\x09Z\0\0\0\x05I".to_vec(), bytes(3, 5)].concat()));
    result.extend(end);
    result
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_spliced_and_short_messages_are_copied() {
    for ways in [[Way::Tcp, Way::Tcp], [Way::Unix, Way::Tcp]] {
        stream_after_short_messages(ways).await;
    }
}

async fn stream_after_short_messages(ways: [Way; 2]) {
    let large = large_result();
    let (mut client, mut server, relay) = running(RelayMode::Auto, ways).await;
    for _ in 0..100 {
        client.write_all(&message(b'Q', b"select 1\0")).await.expect("goes");
        server.read_exact(&mut [0; 14]).await.expect("comes");
        server.write_all(&message(b'Z', b"I")).await.expect("goes");
        client.read_exact(&mut [0; 6]).await.expect("comes");
    }
    let sent = async {
        for _ in 0..5 {
            server.write_all(&large).await.expect("goes");
        }
    };
    let received = async {
        // the client begins late, so that bytes queue up as in a network
        tokio::time::sleep(Duration::from_millis(30)).await;
        let mut received = vec![0; large.len()];
        for _ in 0..5 {
            client.read_exact(&mut received).await.expect("comes");
            assert!(received == large);
        }
    };
    tokio::join!(sent, received);
    drop(client);
    assert_eq!(server.read(&mut [0]).await.expect("is told"), 0);
    drop(server);
    let ended = timeout(DEADLINE, relay).await.expect("ends").expect("no panic");
    assert!(matches!(ended.outcome, Outcome::ClientClosed));
    assert_eq!(ended.to_client, 600 + 5 * large.len() as u64);
    assert!(ended.spliced > large.len() as u64, "spliced {} of {}", ended.spliced, ended.to_client);
}

#[tokio::test]
async fn after_a_stream_the_session_is_idle_owns_nothing_and_can_be_drained() {
    let ((mut client, client_inside), (mut server, server_inside)) =
        tokio::join!(connected(Way::Tcp), connected(Way::Tcp));
    let registry = Arc::new(Registry::new(1, vec![Arc::default()]));
    let guard = registry.guard(&origin(), NodeId::new(0));
    let (nothing, framing) = (BytesMut::new, Some(Framing::default()));
    let mut relay = Relay::new(RelayMode::Splice, client_inside, server_inside, framing, nothing(), nothing());
    let large = large_result();
    // stops in the middle of a row, where the bytes look like the end of an answer
    let (first, second) = large.split_at(large.len() - 20 - 3);
    assert!(first.ends_with(b"Z\0\0\0\x05I"));

    let reader = tokio::spawn(async move {
        let mut received = vec![0; large_result().len()];
        client.read_exact(&mut received).await.expect("comes");
        (client, received)
    });
    let bytes = guard.control().bytes();
    tokio::select! {
        sent = server.write_all(first) => sent.expect("goes"),
        end = run_to_end(&mut relay, bytes) => panic!("nobody has closed: {end:?}"),
    }
    let has_delivered = |relay: &Relay, length: usize| bytes.read()[1] == length as u64 && relay.down.is_empty();
    run_until(&mut relay, bytes, |relay| has_delivered(relay, first.len())).await.expect("delivers the first part");
    assert!(relay.down.spliced > 0, "something was spliced");
    assert!(!relay.can_send_own_message());
    assert!(relay.up.owns_nothing() && relay.down.owns_nothing());

    server.write_all(second).await.expect("goes");
    run_until(&mut relay, bytes, |relay| has_delivered(relay, large.len())).await.expect("delivers the rest");
    let (_client, received) = reader.await.expect("no panic");
    assert!(received == large);
    assert!(relay.can_send_own_message(), "the end of the command was seen");
    relay.set_draining(true);
    assert!(matches!(run_to_end(&mut relay, bytes).await, Some(Outcome::Drained)));
}

#[tokio::test]
async fn after_terminate_the_server_closes_the_connection() {
    let ((mut client, client_inside), (mut server, server_inside)) =
        tokio::join!(connected(Way::Tcp), connected(Way::Tcp));
    let registry = Arc::new(Registry::new(1, vec![Arc::default()]));
    let guard = registry.guard(&origin(), NodeId::new(0));
    let mut framing = Framing::default();
    framing.server_sent(&message(b'Z', b"I"));
    let nothing = BytesMut::new;
    let mut relay = Relay::new(RelayMode::Auto, client_inside, server_inside, Some(framing), nothing(), nothing());
    client.write_all(TERMINATE).await.expect("goes");
    drop(client);
    let bytes = guard.control().bytes();
    let is_done = |relay: &Relay| relay.up.is_done() && arrived(server.socket()) > 0;
    run_until(&mut relay, bytes, is_done).await.expect("passes it on");
    // a relay that had passed the close on could not write any more
    assert_eq!(relay.server.socket().send_now(b"?").expect("the server is not closed on"), 1);
    let mut heard = [0; TERMINATE.len() + 1];
    timeout(DEADLINE, server.read_exact(&mut heard)).await.expect("comes").expect("comes");
    assert_eq!(heard, *b"X\0\0\0\x04?");
    drop(server);
    assert!(matches!(run_to_end(&mut relay, bytes).await, Some(Outcome::ClientClosed)));
}

/// A relay whose session has logged in, and the client's and the server's ends of its connections.
async fn session(ways: [Way; 2]) -> (Stream, Stream, Relay) {
    let [client, server] = ways.map(connected);
    let ((client, client_inside), (server_inside, server)) = tokio::join!(client, server);
    let mut framing = Framing::default();
    framing.server_sent(&message(b'Z', b"I"));
    let nothing = BytesMut::new;
    let relay = Relay::new(RelayMode::Auto, client_inside, server_inside, Some(framing), nothing(), nothing());
    (client, server, relay)
}
