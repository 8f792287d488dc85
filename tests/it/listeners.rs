//! What a listener's settings do on the wire: where it listens, which port of the nodes and which nodes it uses, and how
//! clients wait and are refused.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use pgvane_loadtest::fake::{Behaviour, FakePostgres};
use pgvane_loadtest::lab::Node;
use pgvane_loadtest::messages::{cancel_request, ssl_request};
use pgvane_loadtest::pgvane::Pgvane;
use pgvane_loadtest::ports;
use pgvane_loadtest::wait;
use serde_json::json;

use crate::fake::FakeCluster;
use crate::metrics;
use crate::stage::{leader_and_replicas, sound_cluster};
use crate::wire::{SOON, Session, Wire, plain_startup};

// ---- bind -----------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_listener_serves_at_each_address_of_its_list_and_counts_them_together() {
    let cluster = FakeCluster::of(1).await;
    let file = cluster.directory().join(".s.PGSQL.6432");
    let (first, second) = (ports::free().expect("a port"), ports::free().expect("a port"));
    let listener = format!(
        "[[listener]]\nname = \"several\"\nbind = [\"{first}\", \"{second}\", \"unix:{}\"]\ntarget = \"leader\"\n\
         sessions_max = 3\nunix_socket_mode = \"0700\"",
        file.display()
    );
    let mut pgvane = cluster.pgvane(|pgvane| pgvane.more(&listener)).await;

    let mut sessions = vec![Session::through(first).await, Session::through(second).await];
    sessions.push(Wire::by(&file).await.log_in(&plain_startup()).await);
    for session in &mut sessions {
        assert_eq!(session.value("who").await, "node1");
    }
    metrics::wait_for(&pgvane, "pgvane_sessions{listener=\"several\"}", 3.0).await;
    let mut one_too_many = Wire::to(second).await;
    one_too_many.send(&plain_startup()).await;
    assert_eq!(one_too_many.fatal().await.sqlstate().as_deref(), Some("53300"), "sessions_max is the listener's");

    pgvane.terminate().expect("it runs");
    drop(sessions);
    assert!(pgvane.wait(SOON).await.expect("it ends").success());
    assert!(!file.exists());
}

#[tokio::test]
async fn a_listener_that_cannot_listen_at_one_of_its_addresses_says_at_which() {
    let cluster = FakeCluster::of(1).await;
    let (free, taken) = (ports::free().expect("a port"), cluster[0].postgres.address());
    let listener = format!("[[listener]]\nname = \"several\"\nbind = [\"{free}\", \"{taken}\"]\ntarget = \"leader\"");
    let mut pgvane = cluster.spawn_pgvane(|pgvane| pgvane.more(&listener));
    assert_eq!(pgvane.wait(SOON).await.expect("it ends").code(), Some(1));
    let told = pgvane.log_text();
    assert!(told.contains(&format!("listener \"several\" cannot listen on {taken}: ")), "{told}");
}

// ---- port -----------------------------------------------------------------------------------------------------------

/// A third listener that reaches the leader's node by another port.
fn pooled(port: u16, lines: &str) -> (SocketAddr, String) {
    let bind = ports::free().expect("a port");
    let head = format!("[[listener]]\nname = \"pooled\"\nbind = \"{bind}\"\ntarget = \"leader\"\nport = {port}");
    (bind, format!("{head}\n{lines}\n"))
}

#[tokio::test]
async fn sessions_and_their_cancels_use_the_listeners_own_port_of_the_node() {
    let cluster = FakeCluster::of(1).await;
    let pooler = FakePostgres::start("pooler").await;
    let (address, listener) = pooled(pooler.address().port(), "");
    let pgvane = cluster.pgvane(|pgvane| pgvane.more(&listener)).await;

    let mut direct = Session::through(pgvane.write_addr).await;
    let mut through_pooler = Session::through(address).await;
    assert_eq!(direct.value("who").await, "node1");
    assert_eq!(through_pooler.value("who").await, "pooler");

    // whichever port of the cluster a cancel request comes to, it goes where its session is
    for (comes_to, key) in [(address, &through_pooler.key), (pgvane.write_addr, &through_pooler.key)] {
        let mut canceller = Wire::to(comes_to).await;
        canceller.send(&cancel_request(key)).await;
        canceller.rest().await;
    }
    let mut canceller = Wire::to(address).await;
    canceller.send(&cancel_request(&direct.key)).await;
    canceller.rest().await;
    assert_eq!(pooler.seen().cancels, vec![cancel_request(&through_pooler.key); 2]);
    assert_eq!(cluster[0].postgres.seen().cancels, [cancel_request(&direct.key)]);
}

#[tokio::test]
async fn a_cancel_for_an_encrypted_session_goes_to_the_listeners_own_port() {
    let cluster = FakeCluster::of(1).await;
    let pooler = FakePostgres::start("pooler").await;
    pooler.usually(Behaviour::EchoesInsteadOfTls);
    let (address, listener) = pooled(pooler.address().port(), "");
    let _pgvane = cluster.pgvane(|pgvane| pgvane.more(&listener)).await;
    let mut unseen = Wire::to(address).await;
    unseen.send(&ssl_request()).await;
    assert_eq!(unseen.bytes(1).await, b"S");

    let request = cancel_request(&[0, 0, 0, 7, 0, 0, 0, 9]);
    let mut canceller = Wire::to(address).await;
    canceller.send(&request).await;
    canceller.rest().await;
    assert_eq!(pooler.seen().cancels, [request]);
    assert_eq!(cluster[0].postgres.seen().connections, 0);
}

#[tokio::test]
async fn a_closed_pooler_port_does_not_affect_listeners_that_do_not_use_it() {
    const REACHABLE: &str = "pgvane_node_reachable{cluster=\"main\",node=\"node2\"}";
    let cluster = FakeCluster::of(2).await;
    let mut pooler = FakePostgres::start("pooler").await;
    pooler.closes().await;
    let port = pooler.address().port();
    let port_reachable = format!("pgvane_node_port_reachable{{cluster=\"main\",node=\"node2\",port=\"{port}\"}}");
    let bind = ports::free().expect("a port");
    let pooled = format!(
        "[[listener]]\nname = \"pooled\"\nbind = \"{bind}\"\ntarget = \"replica\"\nport = {port}\n\
         fallback = \"none\"\nhold_max = \"300ms\""
    );
    let pgvane = cluster.pgvane(|pgvane| pgvane.more(&pooled)).await;
    metrics::wait_for(&pgvane, &port_reachable, 1.0).await;

    let mut refused = Wire::to(bind).await;
    refused.send(&plain_startup()).await;
    let end = refused.fatal().await;
    assert!(end.field(b'D').is_some_and(|why| why.contains("node2 connection refused")), "{end:?}");
    metrics::wait_for(&pgvane, &port_reachable, 0.0).await;
    assert_eq!(metrics::value(&pgvane, REACHABLE).await, 1.0, "PostgreSQL's own port is in order");
    let mut reader = Session::through(pgvane.read_addr).await;
    assert_eq!(reader.value("who").await, "node2", "it is not tried last on the other listener");
    drop(reader);
    metrics::wait_for(&pgvane, &port_reachable, 0.0).await;

    pooler.opens().await;
    assert_eq!(Session::through(bind).await.value("who").await, "pooler");
    metrics::wait_for(&pgvane, &port_reachable, 1.0).await;
}

// ---- poolers --------------------------------------------------------------------------------------------------------

/// The log of a check that was asked because of what was said at a login.
const SETTLED_BY_A_CHECK: &str = "login parameter ignored";

#[tokio::test]
async fn what_a_pooler_says_at_login_about_recovery_counts_for_nothing() {
    let cluster = FakeCluster::of(1).await.rarely_checked();
    let pooler = FakePostgres::start("pooler").await;
    for postgres in [&cluster[0].postgres, &pooler] {
        postgres.is_in_recovery(true); // says the pooler, which remembers it from before the last switchover
    }
    let (address, listener) = pooled(pooler.address().port(), "server_kind = \"pooler\"");
    let pgvane = cluster.pgvane(|pgvane| pgvane.node("node1", "kind = \"pooler\"").more(&listener)).await;
    cluster[0].patroni.freezes(); // no check could settle it

    assert_eq!(Session::through(pgvane.write_addr).await.value("who").await, "node1");
    assert_eq!(Session::through(address).await.value("who").await, "pooler");
    assert!(!pgvane.log_text().contains(SETTLED_BY_A_CHECK), "{}", pgvane.log_text());
}

/// Nobody has said that there is a pooler at the listener's port. Patroni settles it, and for that port alone.
#[tokio::test]
async fn an_unknown_pooler_at_a_listeners_own_port_is_found_out_by_a_check() {
    let cluster = FakeCluster::of(1).await;
    let pooler = FakePostgres::start("pooler").await;
    pooler.is_in_recovery(true);
    let (address, listener) = pooled(pooler.address().port(), "");
    let pgvane = cluster.pgvane(|pgvane| pgvane.more(&listener).hold_max("500ms")).await;
    assert_eq!(Session::through(address).await.value("who").await, "pooler");
    pgvane.wait_for_log(SETTLED_BY_A_CHECK, 0, SOON).await.expect("is told");

    cluster[0].patroni.freezes();
    cluster[0].postgres.is_in_recovery(true);
    let mut writer = Wire::to(pgvane.write_addr).await;
    writer.send(&plain_startup()).await;
    let end = writer.fatal().await;
    assert_eq!(end.sqlstate().as_deref(), Some("57P03"), "PostgreSQL's own word still counts: {end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sql_check_asks_postgresql_itself_behind_a_pooler() {
    let lab = sound_cluster().await;
    let mut poolers = Vec::new();
    for node in lab.nodes() {
        poolers.push(FakePostgres::start(&format!("pooler of {}", node.name)).await);
    }
    let nodes: Vec<Node> = lab
        .nodes()
        .iter()
        .zip(&poolers)
        .map(|(node, pooler)| Node::elsewhere(&node.name, pooler.address(), node.rest))
        .collect();
    let mut builder = Pgvane::builder(env!("CARGO_BIN_EXE_pgvane").as_ref(), &nodes)
        .cluster("check = \"sql\"")
        .cluster("[cluster.sql]\nuser = \"trusting\"");
    for node in lab.nodes() {
        let lines = format!("kind = \"pooler\"\ncheck_address = \"{}\"", node.pg);
        builder = builder.node(&node.name, &lines);
    }
    let pgvane = builder.start(lab.directory()).await.unwrap_or_else(|error| panic!("{error}"));

    let (leader, replicas) = leader_and_replicas(&lab).await;
    assert_eq!(
        Session::through(pgvane.write_addr).await.value("who").await,
        format!("pooler of {}", lab.nodes()[leader].name)
    );
    let read_from = Session::through(pgvane.read_addr).await.value("who").await;
    assert!(replicas.iter().any(|node| read_from == format!("pooler of {}", lab.nodes()[*node].name)), "{read_from}");
}

// ---- which nodes ----------------------------------------------------------------------------------------------------

/// Where four sessions, one after the other, are sent.
async fn four_readers(listener: SocketAddr) -> BTreeSet<String> {
    let mut nodes = BTreeSet::new();
    for _ in 0..4 {
        nodes.insert(Session::through(listener).await.value("who").await);
    }
    nodes
}

fn only(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn preferred_replicas_come_first_then_the_others_then_backups_then_the_leader() {
    let mut cluster = FakeCluster::of(4).await;
    let xlog = json!({"received_location": 67_110_128, "replayed_location": 67_110_128});
    let tagged = json!({"role": "replica", "xlog": xlog, "replication_state": "streaming", "tags": {"dc": "east"}});
    cluster[1].patroni.says(503, tagged);
    let pgvane = cluster
        .pgvane(|pgvane| {
            pgvane.node("node4", "backup = true").read_listener("prefer = { dc = \"east\" }\nbalance = \"round-robin\"")
        })
        .await;
    assert_eq!(four_readers(pgvane.read_addr).await, only(&["node2"]));
    for (closed, then) in [(1, "node3"), (2, "node4"), (3, "node1")] {
        cluster.postgres_of(closed).closes().await;
        assert_eq!(four_readers(pgvane.read_addr).await, only(&[then]));
    }
    cluster.postgres_of(1).opens().await;
    let served_again = || async {
        let nodes = four_readers(pgvane.read_addr).await;
        if nodes == only(&["node2"]) { Ok(()) } else { Err(format!("{nodes:?}")) }
    };
    wait::until("the preferred node's sessions", SOON, served_again).await.expect("it gets them again");
}

/// As Patroni's /synchronous, /quorum, /read-only-sync and /read-only-quorum.
#[tokio::test]
async fn listeners_tell_synchronous_replicas_from_those_of_a_quorum() {
    let cluster = FakeCluster::of(4).await;
    let standing = |kind: &str| {
        let xlog = json!({"received_location": 67_110_128, "replayed_location": 67_110_128});
        json!({"role": "replica", "xlog": xlog, "replication_state": "streaming", kind: true})
    };
    cluster[1].patroni.says(503, standing("sync_standby"));
    cluster[2].patroni.says(503, standing("quorum_standby"));
    let expected: [(&str, &[&str]); 7] = [
        ("target = \"sync\"", &["node2", "node3"]),
        ("target = \"sync-only\"", &["node2"]),
        ("target = \"quorum\"", &["node3"]),
        ("target = \"async\"", &["node4"]),
        ("target = \"sync-only\"\ninclude_leader = true", &["node1", "node2"]),
        ("target = \"quorum\"\ninclude_leader = true", &["node1", "node3"]),
        ("target = \"async\"\ninclude_leader = true", &["node1", "node4"]),
    ];
    let mut listeners = String::new();
    let mut addresses = Vec::new();
    for (number, (lines, _)) in expected.iter().enumerate() {
        let bind = ports::free().expect("a port");
        let head = format!("[[listener]]\nname = \"l{number}\"\nbind = \"{bind}\"\nbalance = \"round-robin\"");
        listeners += &format!("{head}\n{lines}\n");
        addresses.push(bind);
    }
    let _pgvane = cluster.pgvane(|pgvane| pgvane.more(&listeners)).await;
    for ((lines, nodes), address) in expected.iter().zip(&addresses) {
        assert_eq!(four_readers(*address).await, only(nodes), "{lines}");
    }
    // nobody is synchronous any more: the leader serves where it may
    cluster[1].patroni.follows();
    cluster[2].patroni.follows();
    let leader_serves = || async {
        let nodes = [four_readers(addresses[0]).await, four_readers(addresses[1]).await];
        if nodes == [only(&["node1"]), only(&["node1"])] { Ok(()) } else { Err(format!("{nodes:?}")) }
    };
    wait::until("sessions on the leader", SOON, leader_serves).await.expect("fallback = \"leader\" is the default");
}

// ---- full nodes and fast clients --------------------------------------------------------------------------------------

#[tokio::test]
async fn a_session_waits_for_room_on_a_full_node_and_no_more_wait_than_may() {
    const HELD: &str = "pgvane_sessions_held{listener=\"write\"}";
    let cluster = FakeCluster::of(1).await.rarely_checked();
    let pgvane =
        cluster.pgvane(|pgvane| pgvane.node("node1", "sessions_max = 1").write_listener("hold_sessions_max = 1")).await;
    let first = Session::through(pgvane.write_addr).await;
    let second = tokio::spawn(Session::through(pgvane.write_addr));
    metrics::wait_for(&pgvane, HELD, 1.0).await;
    let mut third = Wire::to(pgvane.write_addr).await;
    third.send(&plain_startup()).await;
    let end = third.fatal().await;
    assert_eq!(end.sqlstate().as_deref(), Some("53300"), "{end:?}");
    assert!(end.field(b'M').is_some_and(|text| text.contains("hold_sessions_max")), "{end:?}");

    drop(first);
    assert_eq!(second.await.expect("is served").value("who").await, "node1");
}

#[tokio::test]
async fn a_session_that_gets_no_place_within_hold_max_gets_the_reason() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.node("node1", "sessions_max = 1").hold_max("300ms")).await;
    let _first = Session::through(pgvane.write_addr).await;
    let came = Instant::now();
    let mut second = Wire::to(pgvane.write_addr).await;
    second.send(&plain_startup()).await;
    assert_eq!(second.fatal().await.sqlstate().as_deref(), Some("53300"));
    assert!(came.elapsed() >= Duration::from_millis(300), "it waited for {:?} only", came.elapsed());
}

#[tokio::test]
async fn a_client_that_connects_too_often_is_refused_and_others_and_cancels_are_not() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.write_listener("connection_rate_max_per_client = \"3/h\"")).await;
    let (hasty, calm) = (Ipv4Addr::new(127, 0, 0, 7), Ipv4Addr::new(127, 0, 0, 8));
    let mut key = Vec::new();
    for _ in 0..3 {
        key = Wire::from(hasty, pgvane.write_addr).await.0.log_in(&plain_startup()).await.key;
    }
    let kept = Wire::from(calm, pgvane.write_addr).await.0.log_in(&plain_startup()).await;
    for _ in 0..30 {
        let (mut fourth, _) = Wire::from(hasty, pgvane.write_addr).await;
        fourth.send(&plain_startup()).await;
        let end = fourth.fatal().await;
        assert_eq!(end.sqlstate().as_deref(), Some("53300"), "{end:?}");
        assert!(end.field(b'M').is_some_and(|text| text.contains("127.0.0.7 connects")), "{end:?}");
    }
    metrics::wait_for_ends(&pgvane, "write", "client-too-fast", 30).await;
    let told = pgvane.log_text().matches("connection_rate_max_per_client").count();
    assert!((1..30).contains(&told), "{told} lines");

    let (mut canceller, _) = Wire::from(hasty, pgvane.write_addr).await;
    canceller.send(&cancel_request(&kept.key)).await;
    canceller.rest().await;
    assert_eq!(cluster[0].postgres.seen().cancels, [cancel_request(&kept.key)]);
    assert_ne!(key, kept.key);
}
