//! Connecting to real sockets on the loopback interface, by address and by name.

use std::net::{Ipv4Addr, TcpListener};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Poll;

use super::*;
use crate::cluster::fixtures::member;

const DEADLINE: Duration = Duration::from_secs(20);

const OPTIONS: TcpOptions = TcpOptions {
    keepalive: Duration::from_secs(30),
    unacknowledged_max: Duration::from_secs(60),
    ends_with_shut_window: false,
};

fn to<'a>(address: &'a HostPort, names: &'a Arc<Resolver>) -> Destination<'a> {
    Destination { address, port: address.port(), names, within: &[], options: OPTIONS, preamble: b"hello" }
}

/// A server with room for one connection that it has not accepted yet.
fn narrow() -> TcpListener {
    narrow_at((Ipv4Addr::LOCALHOST, 0).into()).expect("a port")
}

fn narrow_at(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&address.into())?;
    socket.listen(0)?;
    Ok(socket.into())
}

/// Two servers at the same port of two addresses. The first one does not answer connects: its queue is full.
struct Pair {
    port: u16,
    silent: TcpListener,
    good: TcpListener,
    _first_in_queue: std::net::TcpStream,
}

const SILENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const GOOD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

impl Pair {
    fn new() -> Pair {
        for _ in 0..20 {
            let good = TcpListener::bind((GOOD, 0)).expect("a port");
            let port = good.local_addr().expect("is bound").port();
            let Ok(silent) = narrow_at((SILENT, port).into()) else { continue };
            let _first_in_queue = std::net::TcpStream::connect((SILENT, port)).expect("there is room for one");
            return Pair { port, silent, good, _first_in_queue };
        }
        panic!("no port is free at both addresses");
    }
}

/// A resolver that knows one name, `pg1`, and the number of lookups so far.
fn pg1(addresses: &[Ipv4Addr]) -> (Arc<Resolver>, Arc<AtomicUsize>) {
    let addresses: Vec<SocketAddr> = addresses.iter().map(|ip| (*ip, 0).into()).collect();
    let lookups = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&lookups);
    let names = Resolver::with_lookup(Box::new(move |_| {
        counted.fetch_add(1, Relaxed);
        let addresses = addresses.clone();
        Box::pin(async move { Ok(addresses) })
    }));
    (names, lookups)
}

fn at_port(port: u16) -> HostPort {
    HostPort::new("pg1", port).expect("is a host")
}

#[tokio::test]
async fn a_connection_that_takes_some_time_is_waited_for() {
    let listener = narrow();
    let (address, names) = (listener.local_addr().expect("is bound").into(), Resolver::system());
    let to = to(&address, &names);
    let first = connect(&to, Instant::now() + DEADLINE).await.expect("there is room for one");
    let mut second = pin!(connect(&to, Instant::now() + DEADLINE));
    let polled = poll_fn(|cx| Poll::Ready(second.as_mut().poll(cx))).await;
    assert!(polled.is_pending(), "there is no room for another");

    let (accepted, _) = listener.accept().expect("the first one waits");
    let second = second.await.expect("its next attempt finds room");
    let (also_accepted, _) = listener.accept().expect("it is there");
    for (near, far) in [(first, accepted), (second, also_accepted)] {
        assert_eq!(near.local_addr().ok(), far.peer_addr().ok());
        let mut said = [0; 5];
        io::Read::read_exact(&mut &far, &mut said).expect("comes");
        assert_eq!(&said, b"hello");
    }
}

#[tokio::test]
async fn a_refused_connection_and_one_without_an_answer_have_different_errors() {
    let gone = narrow();
    let (address, names) = (gone.local_addr().expect("is bound").into(), Resolver::system());
    drop(gone);
    let to = to(&address, &names);
    let refused = connect(&to, Instant::now() + DEADLINE).await.expect_err("nobody listens");
    assert_eq!(refused.to_string(), "connection refused");

    let full = narrow();
    let address = full.local_addr().expect("is bound");
    let _first = std::net::TcpStream::connect(address).expect("there is room for one");
    let address = address.into();
    let to = Destination { address: &address, port: address.port(), ..to };
    let late = connect(&to, Instant::now() + Duration::from_millis(50)).await.expect_err("there is no room");
    assert!(matches!(late, ConnectFailure::TimedOut), "{late}");
}

#[tokio::test]
async fn the_second_address_is_tried_while_the_first_is_silent_and_comes_first_the_next_time() {
    let pair = Pair::new();
    let (names, _) = pg1(&[SILENT, GOOD]);
    let address = at_port(pair.port);
    let to = to(&address, &names);
    let began = Instant::now();
    let stream = connect(&to, began + DEADLINE).await.expect("one of them answers");
    assert_eq!(stream.peer_addr().ok(), Some((GOOD, pair.port).into()));
    assert!(began.elapsed() >= NEXT_ADDRESS_AFTER, "the first one was not given its time");

    // within less than the time after which a second address would be tried
    let stream = connect(&to, Instant::now() + NEXT_ADDRESS_AFTER / 2).await.expect("it goes to the good one at once");
    assert_eq!(stream.peer_addr().ok(), Some((GOOD, pair.port).into()));
    let mut said = [0; 5];
    io::Read::read_exact(&mut pair.good.accept().expect("it is there").0, &mut said).expect("comes");
    assert_eq!(&said, b"hello");
}

#[tokio::test]
async fn the_next_address_is_tried_at_once_when_one_refuses() {
    let pair = Pair::new();
    drop(pair.silent);
    let (names, _) = pg1(&[SILENT, GOOD]);
    let address = at_port(pair.port);
    let in_time = Instant::now() + NEXT_ADDRESS_AFTER / 2;
    let stream = connect(&to(&address, &names), in_time).await.expect("the other one answers");
    assert_eq!(stream.peer_addr().ok(), Some((GOOD, pair.port).into()));
}

#[tokio::test]
async fn the_reason_names_every_address_that_was_tried() {
    let pair = Pair::new();
    drop(pair.good);
    let (names, lookups) = pg1(&[GOOD, SILENT]);
    let address = at_port(pair.port);
    let to = to(&address, &names);
    let failure = connect(&to, Instant::now() + Duration::from_millis(100)).await.expect_err("none of them answers");
    let port = pair.port;
    let expected = format!("127.0.0.3:{port} connection refused; 127.0.0.2:{port} does not answer a connect in time");
    assert_eq!(failure.to_string(), expected);
    let _ = connect(&to, Instant::now() + Duration::from_millis(100)).await;
    assert_eq!(lookups.load(Relaxed), 2, "the addresses may have changed, so they are looked up again");
}

#[tokio::test]
async fn only_allowed_addresses_are_connected_to() {
    let pair = Pair::new();
    let within = ["127.0.0.3/32".parse().expect("is a network")];
    let (names, _) = pg1(&[SILENT, GOOD]);
    let name = at_port(pair.port);
    let soon = || Instant::now() + NEXT_ADDRESS_AFTER / 2;
    let stream = connect(&Destination { within: &within, ..to(&name, &names) }, soon()).await.expect("one is allowed");
    assert_eq!(stream.peer_addr().ok(), Some((GOOD, pair.port).into()));

    let (moved, _) = pg1(&[Ipv4Addr::LOCALHOST]);
    let elsewhere = SocketAddr::from((Ipv4Addr::LOCALHOST, pair.port)).into();
    for (address, names) in [(&name, &moved), (&elsewhere, &names)] {
        let failure = connect(&Destination { within: &within, ..to(address, names) }, soon()).await;
        let failure = failure.expect_err("it is a stranger's").to_string();
        assert_eq!(failure, "its address 127.0.0.1 is not within discover_allow");
    }
}

#[test]
fn an_ipv4_address_in_the_form_of_ipv6_is_allowed_as_ipv4() {
    let within = |networks: &[&str], ip: &str| {
        let networks: Vec<IpNet> = networks.iter().map(|net| net.parse().expect("is a network")).collect();
        is_within(&networks, ip.parse().expect("is an address"))
    };
    assert!(within(&[], "192.0.2.1") && within(&["10.0.0.0/8"], "::ffff:10.1.2.3"));
    assert!(!within(&["10.0.0.0/8"], "::ffff:192.0.2.1") && !within(&["::/0"], "::ffff:192.0.2.1"));
}

#[tokio::test]
async fn a_listeners_own_port_takes_the_place_of_the_addresss() {
    let (names, _) = pg1(&[Ipv4Addr::LOCALHOST]);
    let dialer = NodeDialer { names, discover_allow: Arc::default() };
    let pooler = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = pooler.local_addr().expect("is bound").port();
    for host in ["127.0.0.1", "pg1"] {
        let address = HostPort::new(host, 1).expect("is a host");
        let member = Member { address, ..member("a") };
        let to = dialer.destination(&member, NonZeroU16::new(port), OPTIONS, b"");
        connect(&to, Instant::now() + DEADLINE).await.expect("the pooler listens");
        assert_eq!(dialer.destination(&member, None, OPTIONS, b"").port, 1, "no port of its own");
    }
}

#[test]
fn only_discovered_nodes_have_to_be_within_discover_allow() {
    let allow: Arc<[IpNet]> = Arc::new(["10.0.0.0/8".parse().expect("is a network")]);
    let dialer = NodeDialer { names: Resolver::system(), discover_allow: Arc::clone(&allow) };
    let configured = member("a");
    let discovered = Member { is_discovered: true, ..member("a") };
    assert_eq!(dialer.destination(&discovered, None, OPTIONS, b"").within, &*allow);
    assert!(dialer.destination(&configured, None, OPTIONS, b"").within.is_empty());
}
