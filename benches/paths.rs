//! Benchmarks of each path that a connection or a byte takes, so that a regression can be located.
//!
//! Run with `cargo bench`. `make bench` compares the whole proxy with other proxies.

#![allow(missing_docs, reason = "criterion's macro makes a function without documentation")]

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pgvane::cluster::event::{Action, Event};
use pgvane::cluster::health::Thresholds;
use pgvane::cluster::machine::Machine;
use pgvane::cluster::machine_settings::Settings;
use pgvane::cluster::node::{Claim, Observation, Report, SyncStanding};
use pgvane::cluster::{Member, Moment, NodeId, Topology};
use pgvane::config::{ClusterIndex, ListenerIndex, RelayMode};
use pgvane::protocol::framing::Framing;
use pgvane::protocol::message::SSL_REQUEST;
use pgvane::protocol::{login, opening};
use pgvane::proxy::relay::Relay;
use pgvane::proxy::sessions::origin::Origin;
use pgvane::proxy::sessions::registry::Registry;
use pgvane::routing::{Rule, Situation, Target, route};
use pgvane_loadtest::messages::message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

criterion_main!(paths);
criterion_group! {
    name = paths;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = routing, opening_packets, logins, framing, relay_conversation, relay_stream
}

fn report(claim: Claim) -> Arc<Report> {
    Arc::new(Report {
        claim,
        holds_lock: claim == Claim::Leader,
        state: "running".into(),
        timeline: Some(1),
        position: None,
        received: None,
        replay_delay: None,
        replication_state: (claim == Claim::Replica).then(|| "streaming".into()),
        sync: SyncStanding::Async,
        tags: BTreeMap::new(),
        noloadbalance: false,
        name: None,
        scope: Some("bench".into()),
        system_identifier: Some("7000000000000000001".into()),
        postmaster_start: None,
        server_version: Some(150_008),
        patroni_version: Some("4.1.5".into()),
        paused: false,
        failsafe: false,
        pending_restart: false,
        patroni_error: None,
    })
}

/// What is published once every node of a cluster has answered, the first one as its leader.
fn topology(nodes: usize) -> Arc<Topology> {
    let member = |n| {
        let address = format!("10.0.0.{n}:5432").parse().expect("is HOST:PORT");
        Member::new(format!("node{n}"), address, format!("http://10.0.0.{n}:8008"))
    };
    let settings = Settings {
        interval: Duration::from_secs(1),
        fast_interval: Duration::from_millis(100),
        leader_grace: Duration::from_secs(20),
        thresholds: Thresholds { rise: 2, fall: 3 },
        scope: None,
        seed: 1,
    };
    let mut machine = Machine::new(settings, (0..nodes).map(member).collect(), Moment::START);
    let asked_at = Moment::START;
    let now = Moment::after_start(Duration::from_millis(5));
    let mut newest = Arc::new(machine.topology());
    machine.handle(Event::Tick, Moment::START);
    for node in 0..nodes {
        let claim = if node == 0 { Claim::Leader } else { Claim::Replica };
        let observation =
            Observation { node: NodeId::new(node), asked_at, outcome: Ok(report(claim)), second_opinion: None };
        for action in machine.handle(Event::Checked(observation), now) {
            if let Action::Publish(topology) = action {
                newest = topology;
            }
        }
    }
    newest
}

fn routing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route");
    let now = Moment::after_start(Duration::from_secs(60));
    for nodes in [2, 10, 50] {
        let topology = topology(nodes);
        assert_eq!(topology.leader(), Some(NodeId::new(0)));
        for target in [Target::Leader, Target::Replica] {
            let rule = Rule::new(target);
            let mut turn = 0;
            group.bench_function(BenchmarkId::new(target.label(), nodes), |bencher| {
                bencher.iter(|| {
                    turn += 1;
                    let situation = Situation {
                        tried: &[],
                        turn,
                        load: |node: NodeId| node.index() as u32,
                        now,
                        arrived_at: now,
                        monitored_at: now,
                    };
                    route(black_box(&topology), &rule, &situation).expect("there is a node")
                });
            });
        }
    }
}

const STARTUP: &[u8] = b"\0\0\0\x3d\0\x03\0\0user\0bench\0database\0bench\0application_name\0loadtest\0\0";

fn opening_packets(criterion: &mut Criterion) {
    criterion.bench_function("opening/startup", |bencher| {
        bencher.iter(|| opening::read(black_box(STARTUP)).expect("is a startup packet"));
    });
    criterion.bench_function("opening/ssl", |bencher| {
        bencher.iter(|| opening::read(black_box(SSL_REQUEST)).expect("is an SSLRequest"));
    });
}

fn logins(criterion: &mut Criterion) {
    let mut welcome = message(b'R', &[0; 4]);
    for parameter in ["server_version\x0015.8\0", "in_hot_standby\0off\0", "client_encoding\0UTF8\0", "TimeZone\0UTC\0"]
    {
        welcome.extend(message(b'S', parameter.as_bytes()));
    }
    welcome.extend(message(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]));
    welcome.extend(message(b'Z', b"I"));
    criterion.bench_function("login", |bencher| {
        bencher.iter(|| {
            let mut rest = black_box(welcome.as_slice());
            while let login::Next::Message(message, length) = login::next(rest) {
                black_box(message);
                rest = &rest[length..];
            }
        });
    });
}

fn framing(criterion: &mut Criterion) {
    let answer = [message(b'D', b"\0\x01\0\0\0\x011"), message(b'C', b"SELECT 1\0"), message(b'Z', b"I")].concat();
    let rows = message(b'D', &[b'x'; 123]).repeat(512);
    let mut group = criterion.benchmark_group("framing");
    for (name, bytes) in [("small answer", answer), ("64 kB of rows", rows)] {
        let mut framing = Framing::default();
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |bencher| bencher.iter(|| framing.server_sent(black_box(&bytes))));
    }
}

async fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("is bound");
    let (one, other) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (one, other) = (one.expect("connects"), other.expect("accepts").0);
    one.set_nodelay(true).expect("a socket option");
    other.set_nodelay(true).expect("a socket option");
    (one, other)
}

/// A relay that runs on the present runtime until its connections close, and their other ends.
async fn relayed(mode: RelayMode) -> (TcpStream, TcpStream) {
    let ((client, client_inside), (server, server_inside)) = (connected().await, connected().await);
    tokio::spawn(async move {
        let registry = Arc::new(Registry::new(1, vec![Arc::default()]));
        let guard = registry.guard(
            &Origin::shared((ListenerIndex(0), "bench"), ClusterIndex(0), Rule::new(Target::Any)),
            NodeId::new(0),
        );
        let (nothing, framing) = (BytesMut::new, Some(Framing::default()));
        let mut relay = Relay::new(mode, client_inside.into(), server_inside.into(), framing, nothing(), nothing());
        poll_fn(|cx| relay.poll(cx, guard.control().bytes(), |_| {})).await
    });
    (client, server)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A query and its answer, the two ends of the wire and the relay on one thread.
fn relay_conversation(criterion: &mut Criterion) {
    let runtime = runtime();
    let (mut client, mut server) = runtime.block_on(relayed(RelayMode::Auto));
    let (query, answer) = (message(b'Q', b"select 1\0"), message(b'Z', b"I"));
    criterion.bench_function("relay/round trip", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                client.write_all(&query).await.expect("goes");
                server.read_exact(&mut [0; 14]).await.expect("comes");
                server.write_all(&answer).await.expect("goes");
                client.read_exact(&mut [0; 6]).await.expect("comes");
            });
        });
    });
}

/// Sixteen megabytes of rows, the two ends of the wire and the relay on one thread.
fn relay_stream(criterion: &mut Criterion) {
    let rows = message(b'D', &[b'x'; 123]).repeat(512);
    let mut group = criterion.benchmark_group("relay/16 MB");
    group.sample_size(20).throughput(Throughput::Bytes(rows.len() as u64 * 256));
    for (name, mode) in [("copied", RelayMode::Copy), ("spliced", RelayMode::Splice), ("auto", RelayMode::Auto)] {
        let runtime = runtime();
        let (mut client, mut server) = runtime.block_on(relayed(mode));
        let mut room = vec![0; rows.len()];
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                runtime.block_on(async {
                    let sent = async {
                        for _ in 0..256 {
                            server.write_all(&rows).await.expect("goes");
                        }
                    };
                    let received = async {
                        for _ in 0..256 {
                            client.read_exact(&mut room).await.expect("comes");
                        }
                    };
                    tokio::join!(sent, received);
                });
            });
        });
    }
}
