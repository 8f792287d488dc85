//! Draining: a session ends between two transactions, and the client knows which requests were executed.

use std::collections::VecDeque;

use super::*;

/// A client that sends nothing, and still has bytes to receive, does not keep the session until the deadline.
#[tokio::test]
async fn a_session_that_drains_before_its_client_has_the_startup_response_ends_once_it_has_it() {
    let registry = Arc::new(Registry::new(1, vec![Arc::default()]));
    let guard = registry.guard(&origin(), NodeId::new(0));
    let [(mut client, client_inside), (server_inside, _server)] =
        [connected(Way::Tcp).await, connected(Way::Tcp).await];
    let ready = message(b'Z', b"I");
    let mut framing = Framing::default();
    framing.server_sent(&ready);
    let for_client = BytesMut::from(&*ready);
    let mode = RelayMode::Auto;
    let mut relay = Relay::new(mode, client_inside, server_inside, Some(framing), BytesMut::new(), for_client);
    relay.set_draining(true);
    poll_fn(|cx| relay.client.socket().poll_write_ready(cx)).await.expect("has room");
    let polled = poll_fn(|cx| Poll::Ready(relay.poll(cx, guard.control().bytes(), |_| {}))).await;
    assert!(matches!(polled, Poll::Ready(Outcome::Drained)), "nothing would wake it: {polled:?}");
    reads(&mut client, &ready).await;
}

fn query() -> Vec<u8> {
    message(b'Q', b"select\0")
}

/// Reads the expected bytes, and checks that no more come.
async fn reads(stream: &mut Stream, expected: &[u8]) {
    let mut received = vec![0; expected.len()];
    stream.read_exact(&mut received).await.expect("comes");
    assert_eq!(received, expected);
    let more = timeout(Duration::from_millis(20), stream.read(&mut [0])).await;
    assert!(more.is_err(), "more than was expected: {more:?}");
}

#[tokio::test]
async fn a_session_that_waits_for_an_answer_is_not_drained_before_it_has_it() {
    let registry = Arc::new(Registry::new(1, vec![Arc::default()]));
    let guard = registry.guard(&origin(), NodeId::new(0));
    let (mut client, mut server, mut relay) = session([Way::Tcp; 2]).await;
    client.send(&query()).await.expect("goes");
    let bytes = guard.control().bytes();
    run_until(&mut relay, bytes, |_| arrived(server.socket()) == query().len()).await.expect("passes the query on");
    relay.set_draining(true);
    run_until(&mut relay, bytes, |_| true).await.expect("the answer is due");
    server.send(&message(b'Z', b"I")).await.expect("goes");
    assert!(matches!(run_to_end(&mut relay, guard.control().bytes()).await, Some(Outcome::Drained)));
}

/// A session after its login, whose bytes are spliced wherever that is possible.
async fn splicing_session() -> (Stream, Stream, Relay) {
    let [(client, client_inside), (server_inside, server)] = [connected(Way::Tcp).await, connected(Way::Tcp).await];
    let mut framing = Framing::default();
    framing.server_sent(&message(b'Z', b"I"));
    let nothing = BytesMut::new;
    let relay = Relay::new(RelayMode::Splice, client_inside, server_inside, Some(framing), nothing(), nothing());
    (client, server, relay)
}

/// Sends `sent` through the relay from one side to the other, which begins to read late.
async fn transfer(relay: &mut Relay, bytes: &ByteCounters, from: &mut Stream, to: &mut Stream, sent: &[u8]) {
    let mut received = vec![0; sent.len()];
    let moved = async {
        let (sending, receiving) = tokio::join!(from.write_all(sent), to.read_exact(&mut received));
        sending.expect("goes");
        receiving.expect("comes");
    };
    tokio::select! {
        () = moved => {}
        end = run_to_end(relay, bytes) => panic!("nobody has closed: {end:?}"),
    }
    run_until(relay, bytes, |relay| relay.up.is_empty() && relay.down.is_empty()).await.expect("delivers all");
    assert!(received == sent);
}

/// As every client does that sends a batch.
#[tokio::test]
async fn a_session_that_pipelines_requests_with_large_results_can_be_drained_after_them() {
    let registry = Arc::new(Registry::new(1, vec![Arc::default()]));
    let guard = registry.guard(&origin(), NodeId::new(0));
    let bytes = guard.control().bytes();
    let (mut client, mut server, mut relay) = splicing_session().await;
    transfer(&mut relay, bytes, &mut client, &mut server, &[query(), query()].concat()).await;
    transfer(&mut relay, bytes, &mut server, &mut client, &[large_result(), large_result()].concat()).await;
    relay.set_draining(true);
    assert!(matches!(run_to_end(&mut relay, bytes).await, Some(Outcome::Drained)), "no answer is due");
}

/// As applications do that store documents or pictures.
#[tokio::test]
async fn a_session_that_sends_one_large_value_after_the_other_can_be_drained_after_them() {
    let registry = Arc::new(Registry::new(1, vec![Arc::default()]));
    let guard = registry.guard(&origin(), NodeId::new(0));
    let bytes = guard.control().bytes();
    let (mut client, mut server, mut relay) = splicing_session().await;
    let large = [message(b'B', &vec![1; 3 << 20]), message(b'E', b"\0\0\0\0\0"), message(b'S', b"")].concat();
    transfer(&mut relay, bytes, &mut client, &mut server, &large.repeat(2)).await;
    let answer = [message(b'2', b""), message(b'C', b"INSERT 0 1\0"), message(b'Z', b"I")].concat();
    transfer(&mut relay, bytes, &mut server, &mut client, &answer.repeat(2)).await;
    assert!(relay.up.spliced > 4 << 20, "large values are spliced: {}", relay.up.spliced);
    relay.set_draining(true);
    assert!(matches!(run_to_end(&mut relay, bytes).await, Some(Outcome::Drained)), "no answer is due");
}

#[tokio::test]
async fn a_request_that_comes_between_transactions_is_not_sent_on() {
    let registry = Arc::new(Registry::new(1, vec![Arc::default()]));
    let guard = registry.guard(&origin(), NodeId::new(0));
    let (mut client, mut server, mut relay) = session([Way::Tcp; 2]).await;
    client.send(&query()).await.expect("goes");
    relay.set_draining(true);
    assert!(matches!(run_to_end(&mut relay, guard.control().bytes()).await, Some(Outcome::Drained)));
    assert!(relay.can_send_own_message());
    relay.terminate_server();
    drop(relay);
    let mut heard = Vec::new();
    server.read_to_end(&mut heard).await.expect("is told");
    assert_eq!(heard, message(b'X', b""), "the server has heard nothing of it");
}

#[tokio::test]
async fn a_withdrawn_drain_forwards_what_was_held_back() {
    let registry = Arc::new(Registry::new(1, vec![Arc::default()]));
    let guard = registry.guard(&origin(), NodeId::new(0));
    let (mut client, mut server, mut relay) = session([Way::Tcp; 2]).await;
    client.send(&query()).await.expect("goes");
    let bytes = guard.control().bytes();
    run_until(&mut relay, bytes, |_| arrived(server.socket()) == query().len()).await.expect("passes the query on");
    reads(&mut server, &query()).await;
    relay.set_draining(true);
    client.send(&[query(), query()].concat()).await.expect("goes");
    run_until(&mut relay, bytes, |relay| relay.up.holds_back()).await.expect("holds back what follows");
    assert_eq!(bytes.read()[0], query().len() as u64, "it has passed on nothing of what follows");
    reads(&mut server, b"").await;
    relay.set_draining(false);
    run_until(&mut relay, bytes, |_| arrived(server.socket()) == 2 * query().len()).await.expect("passes it on");
    reads(&mut server, &[query(), query()].concat()).await;
    assert_eq!(registry.census().listeners[0].bytes_to_server, 3 * query().len() as u64);
}

#[tokio::test]
async fn bulk_data_reaches_its_end_in_a_draining_session() {
    for (begin, end) in [
        (query(), message(b'c', b"")),
        (
            [message(b'E', b"\0\0\0\0\0"), message(b'S', b"")].concat(),
            [message(b'c', b""), message(b'S', b"")].concat(),
        ),
    ] {
        let registry = Arc::new(Registry::new(1, vec![Arc::default()]));
        let guard = registry.guard(&origin(), NodeId::new(0));
        let (mut client, mut server, mut relay) = session([Way::Tcp; 2]).await;
        client.send(&begin).await.expect("goes");
        let counters = guard.control().bytes();
        run_until(&mut relay, counters, |_| arrived(server.socket()) == begin.len()).await.expect("asks");
        let answer = message(b'G', b"\0\0\0");
        server.send(&answer).await.expect("goes");
        run_until(&mut relay, counters, |_| arrived(client.socket()) == answer.len()).await.expect("answers");
        relay.set_draining(true);
        let data = message(b'd', &bytes(1000, 3)).repeat(10);
        client.send(&[data.clone(), end.clone()].concat()).await.expect("goes");
        let all = [begin, data, end].concat();
        run_until(&mut relay, counters, |_| arrived(server.socket()) == all.len()).await.expect("passes all on");
        reads(&mut server, &all).await;
        server.send(&[message(b'C', b"COPY 10\0"), message(b'Z', b"I")].concat()).await.expect("goes");
        assert!(matches!(run_to_end(&mut relay, guard.control().bytes()).await, Some(Outcome::Drained)));
    }
}

/// Requests that are answered by one `ReadyForQuery` each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Begin,
    Commit,
    Select,
}

impl Unit {
    fn name(self) -> u8 {
        match self {
            Unit::Begin => b'b',
            Unit::Commit => b'c',
            Unit::Select => b's',
        }
    }

    /// As one message, or as several.
    fn encoded(self, is_extended: bool) -> Vec<u8> {
        let name = [self.name(), 0];
        match is_extended {
            false => message(b'Q', &name),
            true => [message(b'P', &name), message(b'E', b"\0"), message(b'H', b""), message(b'S', b"")].concat(),
        }
    }
}

/// A client that always has `depth` units outstanding, among them transactions of `length` units.
struct Pipeliner {
    depth: usize,
    length: usize,
    is_extended: bool,
    /// Cuts what it sends into chunks of this length.
    chunk: usize,
}

impl Pipeliner {
    /// Works until the connection ends. Returns how many units were answered.
    async fn work(self, client: Stream) -> usize {
        let (mut reading, mut writing) = split(client);
        let mut units = [&[Unit::Begin][..], &vec![Unit::Select; self.length], &[Unit::Commit, Unit::Select]]
            .concat()
            .into_iter()
            .cycle();
        let (mut sent, mut answered, mut unsent) = (0, 0, Vec::new());
        loop {
            while sent < answered + self.depth {
                unsent.extend(units.next().expect("cycles").encoded(self.is_extended));
                sent += 1;
            }
            for chunk in unsent.chunks(self.chunk) {
                if writing.write_all(chunk).await.is_err() || writing.flush().await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            unsent.clear();
            let mut answer = [0; 6];
            match reading.read_exact(&mut answer).await {
                Ok(_) => answered += 1,
                Err(_) => return answered,
            }
        }
    }
}

/// What a server has done when its connection ends.
#[derive(Debug, Default)]
struct Done {
    units: usize,
    is_in_transaction: bool,
    /// Messages without a `ReadyForQuery` yet, plus the bytes of an incomplete message.
    unfinished: usize,
}

/// Executes the units one after the other, with a short delay for each.
async fn serve(mut server: Stream) -> Done {
    let (mut done, mut received, mut open) = (Done::default(), VecDeque::new(), 0);
    let mut room = [0; 4096];
    loop {
        match server.read(&mut room).await {
            Ok(0) | Err(_) => break,
            Ok(length) => received.extend(&room[..length]),
        }
        while let Some(whole) = whole_message(&mut received) {
            let is_last = matches!(whole[0], b'Q' | b'S');
            match (whole[0], whole.get(5)) {
                (b'Q' | b'P', Some(b'b')) => done.is_in_transaction = true,
                (b'Q' | b'P', Some(b'c')) => done.is_in_transaction = false,
                _ => {}
            }
            open = if is_last { 0 } else { open + 1 };
            if is_last {
                moment().await;
                done.units += 1;
                let state = if done.is_in_transaction { b"T" } else { b"I" };
                if server.send(&message(b'Z', state)).await.is_err() {
                    break;
                }
            }
        }
    }
    done.unfinished = open + received.len();
    done
}

fn whole_message(received: &mut VecDeque<u8>) -> Option<Vec<u8>> {
    let length = u32::from_be_bytes([1, 2, 3, 4].map(|at| received.get(at).copied().unwrap_or(0xff))) as usize + 1;
    (received.len() >= length).then(|| received.drain(..length).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// For any pipelining client: its session ends soon, between transactions, and every unit that the server received
    /// was executed and answered.
    #[test]
    fn a_busy_session_ends_between_transactions_and_loses_nothing(
        depth in 1usize..9,
        length in 0usize..6,
        is_extended in any::<bool>(),
        chunk in prop_oneof![Just(1usize << 20), 1usize..40],
        drained_after in 0u64..8,
        ways in ways(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (answered, done) = runtime.block_on(async {
            let registry = Arc::new(Registry::new(1, vec![Arc::default()]));
            let guard = registry.guard(&origin(), NodeId::new(0));
            let (client, server, mut relay) = session(ways).await;
            let client = tokio::spawn(Pipeliner { depth, length, is_extended, chunk }.work(client));
            let server = tokio::spawn(serve(server));
            let drain_at = Duration::from_micros(drained_after * 1_700);
            let outcome = timeout(drain_at, poll_fn(|cx| relay.poll(cx, guard.control().bytes(), |_| {}))).await;
            assert!(outcome.is_err(), "nobody has closed: {outcome:?}");
            relay.set_draining(true);
            let drained = timeout(DEADLINE, poll_fn(|cx| relay.poll(cx, guard.control().bytes(), |_| {}))).await;
            assert!(matches!(drained, Ok(Outcome::Drained)), "{drained:?}");
            assert!(relay.can_send_own_message(), "the client can be told");
            drop(relay);
            (client.await.expect("no panic"), server.await.expect("no panic"))
        });
        prop_assert!(!done.is_in_transaction, "{:?}", done);
        prop_assert_eq!(done.unfinished, 0);
        prop_assert_eq!(done.units, answered);
    }
}
