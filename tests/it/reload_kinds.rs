//! What a reload changes, for each part of a configuration, before fakes.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use pgvane_loadtest::pgvane::Pgvane;
use pgvane_loadtest::wait;

use crate::certificates::Certificates;
use crate::fake::FakeCluster;
use crate::metrics;
use crate::reload::{REFUSED, RELOADED, hangup, text_of, write};
use crate::wire::{SOON, Session, Wire, plain_startup};

/// Reloads with this text, which must be accepted.
async fn reloaded(pgvane: &Pgvane, text: &str) -> String {
    write(pgvane, text);
    let log = hangup(pgvane, RELOADED).await;
    assert!(!log.contains(REFUSED), "{log}");
    log
}

/// The text with these lines for the write listener.
fn with_lines(text: &str, lines: &str) -> String {
    text.replacen("target = \"leader\"", &format!("target = \"leader\"\n{lines}"), 1)
}

async fn refusal(server: SocketAddr) -> String {
    let mut wire = Wire::to(server).await;
    wire.send(&plain_startup()).await;
    wire.fatal().await.sqlstate().expect("an error has one")
}

#[tokio::test]
async fn a_listener_begins_to_terminate_tls_with_the_next_connection_and_changes_its_certificate() {
    let (cluster, files) = (FakeCluster::of(1).await, Certificates::new());
    files.issue("one", "localhost");
    files.issue("two", "localhost");
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let mut plain = Session::through(pgvane.write_addr).await;
    let before = text_of(&pgvane);
    let terminate = |name: &str, more: &str| {
        let [cert, key] = ["pem", "key"].map(|kind| files.path(&format!("{name}.{kind}")));
        let tls = format!("tls = {{ mode = \"terminate\", cert_file = \"{cert}\", key_file = \"{key}\"{more} }}");
        with_lines(&before, &tls)
    };
    let connector = files.client(&[]);
    let encrypted = || async {
        let wire = Wire::to(pgvane.write_addr).await.asks_for_tls(&connector).await;
        wire.log_in(&plain_startup()).await
    };
    let log = reloaded(&pgvane, &terminate("one", "")).await;
    assert!(log.contains("tls.mode: passthrough → terminate"), "{log}");
    let mut first = encrypted().await;
    let log = reloaded(&pgvane, &terminate("two", ", sslmode = \"require\"")).await;
    assert!(log.contains("tls.sslmode: prefer → require") && log.contains("two.pem"), "{log}");
    let mut second = encrypted().await;
    assert_eq!(refusal(pgvane.write_addr).await, "28000", "plaintext is refused now");

    files.write("two.key", "not a key");
    write(&pgvane, &terminate("two", ""));
    let log = hangup(&pgvane, REFUSED).await;
    assert!(log.contains("two.key"), "{log}");
    encrypted().await.value("who").await;
    for session in [&mut plain, &mut first, &mut second] {
        session.value("who").await;
    }
}

#[tokio::test]
async fn access_lists_are_for_new_connections() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let before = text_of(&pgvane);
    let mut session = Session::through(pgvane.write_addr).await;
    for lines in ["allow = [\"192.0.2.0/24\"]", "users = [\"nobody\"]", "databases = [\"nothing\"]"] {
        reloaded(&pgvane, &with_lines(&before, lines)).await;
        assert_eq!(refusal(pgvane.write_addr).await, "28000", "{lines}");
    }
    reloaded(&pgvane, &before).await;
    Session::through(pgvane.write_addr).await.value("who").await;
    session.value("who").await;
}

#[tokio::test]
async fn a_cluster_is_added_a_listener_moves_there_and_the_cluster_is_removed_again() {
    let (cluster, other) = (FakeCluster::of(1).await, FakeCluster::of(2).await);
    other[1].leads(3);
    other[0].follows();
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let before = text_of(&pgvane);
    let mut old = Session::through(pgvane.write_addr).await;
    assert_eq!(old.value("who").await, "node1");

    let mut added = "\n[[cluster]]\nname = \"other\"\ninterval = \"100ms\"\n".to_owned();
    for node in other.addresses() {
        let (name, address, rest) = (node.name, node.pg, node.rest);
        added +=
            &format!("[[cluster.node]]\nname = \"{name}\"\naddress = \"{address}\"\npatroni = \"http://{rest}\"\n");
    }
    let in_main = before.replace("[[listener]]", "[[listener]]\ncluster = \"main\"");
    let moved = in_main.replacen("cluster = \"main\"", "cluster = \"other\"", 1) + &added;
    let log = reloaded(&pgvane, &moved).await;
    assert!(log.contains("cluster \\\"other\\\" added"), "{log}");
    assert!(log.contains("listener \\\"write\\\": cluster: main → other"), "{log}");
    assert_eq!(Session::through(pgvane.write_addr).await.value("who").await, "node2", "the other's leader");
    assert_eq!(old.value("who").await, "node1", "a running session stays where it is");
    metrics::wait_for(&pgvane, "pgvane_node_sessions{cluster=\"main\",node=\"node1\"}", 1.0).await;

    let mut there = Session::through(pgvane.write_addr).await;
    reloaded(&pgvane, &before).await;
    assert_eq!(Session::through(pgvane.write_addr).await.value("who").await, "node1");
    assert_eq!(there.value("who").await, "node2", "the removed cluster's sessions go on");
    let page = pgvane.admin_get("/api/status").await.expect("is served").body;
    assert!(!page.contains("\"other\",\"leader\""), "{page}");
}

#[tokio::test]
async fn discovery_begins_and_ends() {
    let cluster = FakeCluster::of(3).await;
    let listed = (0..3).map(|node| cluster[node].as_member()).collect();
    cluster[0].patroni.lists_members(&listed);
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let before = text_of(&pgvane);
    let (first, rest) = before.split_once("[[cluster.node]]\nname = \"node2\"").expect("is the second node");
    let (_, after) = rest.split_once("[[listener]]").expect("behind the nodes");
    let one_node = format!("{first}[[listener]]{after}");
    let up = |node: &str| format!("pgvane_node_up{{cluster=\"main\",node=\"{node}\"}}");
    reloaded(&pgvane, &one_node).await;
    is_gone(&pgvane, &up("node2")).await;

    let discovers = one_node.replacen("[[cluster]]\n", "[[cluster]]\ndiscover = true\n", 1);
    let log = reloaded(&pgvane, &discovers).await;
    assert!(log.contains("discover: false → true"), "{log}");
    for node in ["node2", "node3"] {
        metrics::wait_for(&pgvane, &up(node), 1.0).await;
    }
    reloaded(&pgvane, &one_node).await;
    is_gone(&pgvane, &up("node3")).await;
    metrics::wait_for(&pgvane, &up("node1"), 1.0).await;
}

async fn is_gone(pgvane: &Pgvane, series: &str) {
    let gone = wait::until("the node to be gone", SOON, || async {
        let all = metrics::all(pgvane).await;
        if all.contains_key(series) { Err("it is there".to_owned()) } else { Ok(()) }
    });
    gone.await.expect("in time");
}

fn mode_of(file: &Path) -> u32 {
    fs::metadata(file).expect("it is there").permissions().mode() & 0o777
}

#[tokio::test]
async fn a_unix_socket_is_added_gets_other_permissions_and_is_removed() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let (before, file) = (text_of(&pgvane), cluster.directory().join("socket"));
    let tcp = format!("bind = \"{}\"", pgvane.write_addr);
    let both = format!("bind = [\"{}\", \"unix:{}\"]", pgvane.write_addr, file.display());
    let with_unix = |mode: &str| before.replace(&tcp, &format!("{both}\nunix_socket_mode = \"{mode}\""));
    reloaded(&pgvane, &with_unix("0750")).await;
    assert_eq!(mode_of(&file), 0o750);
    let mut session = Wire::by(&file).await.log_in(&plain_startup()).await;
    let log = reloaded(&pgvane, &with_unix("0700")).await;
    assert!(log.contains("unix_socket_mode: 0750 → 0700"), "{log}");
    assert_eq!(mode_of(&file), 0o700);
    Wire::by(&file).await.log_in(&plain_startup()).await.value("who").await;
    reloaded(&pgvane, &before).await;
    let gone = wait::until("the socket's file to be gone", SOON, || async {
        if file.exists() { Err("it is there".to_owned()) } else { Ok(()) }
    });
    gone.await.expect("in time");
    session.value("who").await;
    Session::through(pgvane.write_addr).await.value("who").await;
}

#[tokio::test]
async fn limits_for_each_client_count_the_sessions_from_before() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.write_listener("sessions_max_per_client = 5")).await;
    let before = text_of(&pgvane);
    let session = Session::through(pgvane.write_addr).await;
    let one = before.replace("sessions_max_per_client = 5", "sessions_max_per_client = 1");
    reloaded(&pgvane, &one).await;
    assert_eq!(refusal(pgvane.write_addr).await, "53300");
    drop(session);
    metrics::wait_for(&pgvane, "pgvane_node_sessions{cluster=\"main\",node=\"node1\"}", 0.0).await;
    Session::through(pgvane.write_addr).await.value("who").await;
    let rate = before.replace("sessions_max_per_client = 5", "connection_rate_max_per_client = \"1/h\"");
    reloaded(&pgvane, &rate).await;
    Session::through(pgvane.write_addr).await.value("who").await;
    assert_eq!(refusal(pgvane.write_addr).await, "53300");
    reloaded(&pgvane, &before).await;
    Session::through(pgvane.write_addr).await.value("who").await;
}

#[tokio::test]
async fn a_changed_port_on_the_nodes_is_used_by_the_next_session() {
    let mut cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let pooler = pgvane_loadtest::fake::FakePostgres::start("pooler").await;
    let port = pooler.address().port();
    let text = with_lines(&text_of(&pgvane), &format!("port = {port}\nserver_kind = \"pooler\""));
    reloaded(&pgvane, &text).await;
    assert_eq!(Session::through(pgvane.write_addr).await.value("who").await, "pooler");
    cluster.postgres_of(0).closes().await;
    assert_eq!(Session::through(pgvane.write_addr).await.value("who").await, "pooler");
}
