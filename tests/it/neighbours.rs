//! Before neighbours and strangers that behave as they do in the field: poolers, frozen and restarted Patronis, clients that
//! cause errors at will, servers that are lost in the middle of a login, logs that cannot be written.

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pgvane_loadtest::fake::{Behaviour, LONG_ANSWER, MANY_ROWS, PAUSE};
use pgvane_loadtest::messages::{message, query};
use pgvane_loadtest::namespace::{self, Cut, Namespace};
use pgvane_loadtest::pgvane::Pgvane;
use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::fake::FakeCluster;
use crate::metrics;
use crate::wire::{SOON, Session, Wire, plain_startup};

const CHECKS: &str = "pgvane_checks_total{cluster=\"main\",outcome=\"answered\"}";
const HELD: &str = "pgvane_sessions_held{listener=\"write\"}";

/// The answer to `AuthenticationSASL`, longer than a small read.
fn proof() -> Vec<u8> {
    let first = b"SCRAM-SHA-256\0\0\0\0\x40n,,n=,r=abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz01234567";
    message(b'p', first)
}

// ---- suspicions -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_client_that_causes_many_suspicions_does_not_delay_new_writers_although_patroni_is_frozen() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let mut careless = Session::through(pgvane.write_addr).await;
    cluster[0].patroni.freezes();
    let causing = tokio::spawn(async move {
        for _ in 0..40 {
            careless.ask("write").await;
            tokio::time::sleep(Duration::from_millis(100)).await; // the rate at which it causes them
        }
    });
    for _ in 0..5 {
        let came = Instant::now();
        Session::through(pgvane.write_addr).await;
        assert!(came.elapsed() < Duration::from_secs(3), "it waited for {:?}", came.elapsed());
    }
    causing.abort();
}

#[tokio::test]
async fn errors_that_a_client_can_cause_do_not_multiply_the_checks() {
    let cluster = FakeCluster::of(1).await.rarely_checked();
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let mut careless = Session::through(pgvane.write_addr).await;
    let (checks, begun) = (metrics::value(&pgvane, CHECKS).await, Instant::now());
    while begun.elapsed() < Duration::from_secs(3) {
        careless.ask("write").await;
    }
    let asked = metrics::value(&pgvane, CHECKS).await - checks;
    assert!((1.0..=8.0).contains(&asked), "{asked} checks in three seconds");
}

#[tokio::test]
async fn a_code_of_shutting_down_that_a_function_raises_is_no_suspicion() {
    let cluster = FakeCluster::of(1).await.rarely_checked();
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let mut session = Session::through(pgvane.write_addr).await;
    let checks = metrics::value(&pgvane, CHECKS).await;
    for _ in 0..5 {
        assert_eq!(session.ask("raise 57P01").await[0].sqlstate().as_deref(), Some("57P01"));
    }
    Session::through(pgvane.write_addr).await;
    assert_eq!(metrics::value(&pgvane, CHECKS).await, checks, "checks were made for no good reason");
}

#[tokio::test]
async fn a_client_that_begins_tls_with_a_server_without_tls_causes_no_suspicion() {
    let cluster = FakeCluster::of(1).await.rarely_checked();
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let checks = metrics::value(&pgvane, CHECKS).await;
    cluster[0].postgres.next(&[Behaviour::ClosesAtOnce; 5]);
    for _ in 0..5 {
        let mut stranger = Wire::to(pgvane.write_addr).await;
        stranger.send(&[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]).await;
        stranger.rest().await;
    }
    Session::through(pgvane.write_addr).await;
    assert_eq!(metrics::value(&pgvane, CHECKS).await, checks, "checks were made for no good reason");
}

// ---- Patroni --------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_restart_of_the_leaders_patroni_cuts_no_session_and_another_lock_does() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let mut writer = Session::through(pgvane.write_addr).await;
    cluster[0].patroni.says(503, json!({"role": "primary", "cluster_unlocked": true}));
    metrics::wait_for(&pgvane, "pgvane_cluster_has_leader{cluster=\"main\"}", 0.0).await;
    assert_eq!(writer.value("who").await, "node1", "its PostgreSQL has not noticed anything");
    let held = tokio::spawn(Session::through(pgvane.write_addr));
    metrics::wait_for(&pgvane, HELD, 1.0).await;
    cluster[0].patroni.leads(1);
    assert_eq!(held.await.expect("is served").value("who").await, "node1");
    assert_eq!(writer.value("who").await, "node1");

    cluster[0].patroni.says(503, json!({"role": "primary"}));
    cluster[1].patroni.says(200, json!({"role": "replica"}));
    let end = writer.wire.fatal().await;
    assert_eq!(end.sqlstate().as_deref(), Some("57P01"));
}

#[tokio::test]
async fn writers_of_a_leader_that_froze_end_when_the_lock_is_seen_elsewhere() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let writer = Session::through(pgvane.write_addr).await;
    cluster[0].patroni.freezes();
    // as during a `pre_promote` that takes its time
    cluster[1].patroni.says(200, json!({"role": "replica"}));
    assert_eq!(writer.wire.fatal().await.sqlstate().as_deref(), Some("57P01"));
}

#[tokio::test]
async fn a_leader_that_patroni_could_not_query_keeps_the_lead() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    cluster[0].patroni.says(200, json!({"role": "primary", "state": "unknown", "timeline": null}));
    let checks = metrics::value(&pgvane, CHECKS).await;
    metrics::wait_for_more(&pgvane, CHECKS, checks + 4.0).await;
    assert_eq!(Session::through(pgvane.write_addr).await.value("who").await, "node1");
}

#[tokio::test]
async fn a_cluster_that_was_created_again_is_followed_its_leader_first() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.hold_max("15s")).await;
    Session::through(pgvane.write_addr).await;
    let (log, checks) = (pgvane.log_text().len(), metrics::value(&pgvane, CHECKS).await);
    cluster[1].patroni.closes().await;
    cluster[0].patroni.says(200, json!({"role": "primary", "database_system_identifier": "7999999999999999999"}));
    metrics::wait_for_more(&pgvane, CHECKS, checks + 4.0).await;
    assert_eq!(Session::through(pgvane.write_addr).await.value("who").await, "node1");
    pgvane.wait_for_log("another system identifier than before", log, SOON).await.expect("is told");
}

#[tokio::test]
async fn nodes_with_each_others_patroni_are_reported_and_get_no_writes() {
    let cluster = FakeCluster::of(2).await;
    cluster[0]
        .patroni
        .says(200, json!({"role": "primary", "patroni": {"version": "4", "scope": "fake", "name": "node2"}}));
    cluster[1]
        .patroni
        .says(503, json!({"role": "replica", "patroni": {"version": "4", "scope": "fake", "name": "node1"}}));
    let pgvane = cluster.pgvane(|pgvane| pgvane.hold_max("500ms")).await;
    let mut writer = Wire::to(pgvane.write_addr).await;
    writer.send(&plain_startup()).await;
    let end = writer.fatal().await;
    assert_eq!(end.sqlstate().as_deref(), Some("57P03"));
    assert!(end.field(b'D').is_some_and(|why| why.contains("answers as node2, not as node1")), "{end:?}");
}

// ---- logins ---------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn messages_of_a_login_arrive_in_one_piece_as_they_were_sent() {
    let cluster = FakeCluster::of(1).await;
    cluster[0].postgres.usually(Behaviour::RefusesPartialMessages);
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    for _ in 0..100 {
        let mut client = Wire::to(pgvane.write_addr).await;
        client.send(&plain_startup()).await;
        client.message().await.expect("the server wants a proof");
        assert_eq!(client.log_in(&proof()).await.value("who").await, "node1");
    }
}

#[tokio::test]
async fn a_login_continues_at_another_node_after_the_first_answer_of_the_client() {
    let cluster = FakeCluster::of(3).await;
    for node in [1, 2] {
        cluster[node].postgres.usually(Behaviour::AsksForScram);
        cluster[node].postgres.next(&[Behaviour::ClosesAfterScram]);
    }
    let pgvane = cluster.pgvane(|pgvane| pgvane.read_listener("fallback = \"none\"")).await;
    let mut client = Wire::to(pgvane.read_addr).await;
    client.send(&plain_startup()).await;
    client.message().await.expect("the server wants a proof");
    let mut session = client.log_in(&proof()).await;
    assert!(session.value("who").await.starts_with("node"), "both failed it once");
    let proofs: Vec<Vec<u8>> = [1, 2].into_iter().flat_map(|node| cluster[node].postgres.seen().passwords).collect();
    assert_eq!(proofs.len(), 3, "it was sent to each of them, and to one again");
    assert!(proofs.iter().all(|seen| *seen == proof()[5..]), "byte for byte");
}

#[tokio::test]
async fn a_login_on_a_node_that_froze_ends_when_another_leads() {
    let cluster = FakeCluster::of(2).await;
    cluster[0].postgres.usually(Behaviour::HangsAfterScram);
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let mut client = Wire::to(pgvane.write_addr).await;
    client.send(&plain_startup()).await;
    client.message().await.expect("the server wants a proof");
    cluster[1].postgres.usually(Behaviour::AsksForScram);
    client.send(&proof()).await;
    cluster.switch_over(0, 1);
    let mut session = client.log_in(b"").await;
    assert_eq!(session.value("who").await, "node2", "the same question was answered already");
}

#[tokio::test]
async fn a_replica_that_froze_delays_one_reader_by_two_seconds_and_no_later_one() {
    let cluster = FakeCluster::of(3).await;
    cluster[1].postgres.usually(Behaviour::AnswersNothing);
    let pgvane = cluster.pgvane(|pgvane| pgvane.read_listener("balance = \"round-robin\"")).await;
    for _ in 0..3 {
        let came = Instant::now();
        assert_eq!(Session::through(pgvane.read_addr).await.value("who").await, "node3");
        assert!(came.elapsed() < Duration::from_secs(4), "{:?}", came.elapsed());
    }
}

#[tokio::test]
async fn a_server_without_tls_where_tls_is_required_is_refused_at_once() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster
        .pgvane(|pgvane| pgvane.hold_max("20s").write_listener("tls = \"disable\"\nserver_tls = \"require\""))
        .await;
    let came = Instant::now();
    let mut client = Wire::to(pgvane.write_addr).await;
    client.send(&plain_startup()).await;
    let end = client.fatal().await;
    assert!(came.elapsed() < Duration::from_secs(5), "{:?}", came.elapsed());
    assert!(end.field(b'D').is_some_and(|why| why.contains("node1")), "{end:?}");
}

// ---- what operators are told ----------------------------------------------------------------------------------------

#[tokio::test]
async fn a_closed_port_of_the_leaders_postgresql_is_reported_to_operators() {
    // an answer to a later check would let the port be tried and reported again
    let mut cluster = FakeCluster::of(1).await.rarely_checked();
    let pgvane = cluster.pgvane(|pgvane| pgvane.hold_max("300ms")).await;
    const REACHABLE: &str = "pgvane_node_reachable{cluster=\"main\",node=\"node1\"}";
    let log = pgvane.log_text().len();
    cluster.postgres_of(0).closes().await;
    for _ in 0..3 {
        let mut client = Wire::to(pgvane.write_addr).await;
        client.send(&plain_startup()).await;
        client.fatal().await;
    }
    let warns_of = |line: &str| line.contains("WARN") && line.contains("node1");
    let new_lines = pgvane.log_text().split_off(log);
    assert!(new_lines.lines().any(warns_of), "no warning names the node: {new_lines}");
    metrics::wait_for(&pgvane, REACHABLE, 0.0).await;
    let told = "clients cannot reach this node's PostgreSQL";
    assert_eq!(pgvane.log_text().matches(told).count(), 1, "once, not for each client: {}", pgvane.log_text());
    cluster.postgres_of(0).opens().await;
    Session::through(pgvane.write_addr).await;
    metrics::wait_for(&pgvane, REACHABLE, 1.0).await;
}

// ---- slow peers -----------------------------------------------------------------------------------------------------

/// The kernel's own timer for unacknowledged data (`TCP_USER_TIMEOUT`) also counts the time in which a window is shut.
#[tokio::test]
#[ignore = "takes three quarters of a minute: make test-long"]
async fn a_client_that_does_not_read_for_longer_than_every_timeout_can_continue_afterwards() {
    let cluster = FakeCluster::of(1).await;
    let limits = "tcp_keepalive = \"1s\"\ntcp_user_timeout = \"31s\"";
    let pgvane = cluster.pgvane(|pgvane| pgvane.write_listener(limits)).await;
    let mut pager = Session::through(pgvane.write_addr).await;
    pager.wire.send(&query("many")).await;
    // how long it does not read is the very fault here: there is no condition to wait for
    tokio::time::sleep(Duration::from_secs(45)).await;
    let answer = pager.wire.messages_until(b'Z').await;
    assert_eq!(answer.iter().map(|message| message.body.len()).sum::<usize>() / LONG_ANSWER, MANY_ROWS);
    assert_eq!(pager.value("who").await, "node1");
}

/// As with `COPY FROM STDIN` whose first row waits for a lock.
#[tokio::test]
#[ignore = "takes three quarters of a minute: make test-long"]
async fn a_server_that_does_not_read_for_longer_than_every_timeout_can_continue_afterwards() {
    let cluster = FakeCluster::of(1).await;
    let limits = "tcp_keepalive = \"1s\"\ntcp_user_timeout = \"31s\"";
    let pgvane = cluster.pgvane(|pgvane| pgvane.write_listener(limits)).await;
    let mut session = Session::through(pgvane.write_addr).await;
    session.wire.send(&query("pause")).await;
    // more than the server's kernel takes while the server does not read, and less than all buffers on the way hold
    session.wire.send(&query(&"x".repeat(2 << 20))).await;
    let streaming = sends_without_end(pgvane.write_addr).await;
    tokio::time::sleep(PAUSE).await;
    let told = String::from_utf8_lossy(&streaming.await.expect("no panic")).into_owned();
    assert!(!told.contains("SFATAL") && told.matches("DONE").count() == 2, "{told}");
    for _ in 0..2 {
        let answer = session.wire.messages_until(b'Z').await;
        assert_eq!(answer.iter().map(|message| message.kind).collect::<Vec<_>>(), b"CZ", "{answer:?}");
    }
    assert_eq!(session.value("who").await, "node1");
}

#[tokio::test]
#[ignore = "takes three quarters of a minute: make test-long"]
async fn a_server_whose_host_is_down_is_not_reported_as_closing_the_connection() {
    if let Some(reason) = namespace::unavailable_because() {
        // the macros' output is shown of failed tests only
        let told = writeln!(std::io::stderr(), "SKIPPED, a host that is gone: {reason}");
        return told.expect("standard error is open");
    }
    let host = Namespace::new().expect("there is no obstacle");
    let cluster = FakeCluster::of(1).await;
    let limits = "tcp_keepalive = \"1s\"\ntcp_user_timeout = \"31s\"";
    let pgvane = cluster.pgvane(|pgvane| pgvane.in_namespace(&host).write_listener(limits)).await;
    let mut session = Session::through(pgvane.write_addr).await;
    host.cut_off(&cluster.addresses()[0], Cut::Silent).expect("is cut off");
    session.wire.send(&query("who")).await;
    // how long nothing is acknowledged is the very fault here: there is no condition to wait for
    tokio::time::sleep(Duration::from_secs(31)).await;
    let end = session.wire.fatal().await;
    assert_eq!(end.sqlstate().as_deref(), Some("08006"), "{end:?}");
    assert!(end.field(b'D').is_some_and(|why| !why.contains("closed")), "{end:?}");
    let closed = "pgvane_session_ends_total{listener=\"write\",reason=\"server-closed\"}";
    assert_eq!(metrics::value(&pgvane, closed).await, 0.0, "{}", pgvane.log_text());
}

/// A session whose client sends more than all buffers on the way hold, to a server that reads nothing for [`PAUSE`].
/// Returns all that it is told.
async fn sends_without_end(server: SocketAddr) -> JoinHandle<Vec<u8>> {
    let mut client = TcpStream::connect(server).await.expect("the port is open");
    client.write_all(&plain_startup()).await.expect("is open");
    client.read_exact(&mut [0; 9]).await.expect("it is let in");
    let (mut from, mut to) = client.into_split();
    let said = [query("pause"), query(&"x".repeat(64 << 20)), message(b'X', b"")].concat();
    tokio::spawn(async move {
        let sending = tokio::spawn(async move { to.write_all(&said).await });
        let mut told = Vec::new();
        from.read_to_end(&mut told).await.ok(); // a reset is an end, too
        sending.abort();
        told
    })
}

// ---- the log --------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_log_on_a_full_disk_does_not_stop_pgvane() {
    let full = File::options().write(true).open("/dev/full").expect("every Linux has it");
    let (cluster, pgvane) = logging_to(full, "trace").await;
    continues_to_serve(&cluster, &pgvane).await;
    metrics::wait_for_more(&pgvane, "pgvane_log_lines_lost_total", 0.0).await;
}

#[tokio::test]
async fn a_log_that_nobody_reads_does_not_stop_pgvane() {
    let (_reader, pipe) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
    let (cluster, pgvane) = logging_to(File::from(pipe), "trace").await;
    // they write more than a pipe holds
    for _ in 0..300 {
        Session::through(pgvane.read_addr).await;
    }
    continues_to_serve(&cluster, &pgvane).await;
}

#[tokio::test]
async fn a_log_whose_reader_has_ended_does_not_stop_the_checks() {
    let (reader, pipe) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
    let (cluster, pgvane) = logging_to(File::from(pipe), "info").await;
    drop(reader);
    continues_to_serve(&cluster, &pgvane).await;
}

async fn logging_to(log: File, level: &str) -> (FakeCluster, Pgvane) {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.spawn_pgvane(|pgvane| pgvane.env("PGVANE_LOG", level).log_to(log));
    let pgvane = pgvane.wait_until_ready(SOON).await.expect("is ready");
    (cluster, pgvane)
}

/// Follows two changes of the leader, each of which is logged.
async fn continues_to_serve(cluster: &FakeCluster, pgvane: &Pgvane) {
    assert_eq!(Session::through(pgvane.write_addr).await.value("who").await, "node1");
    cluster.switch_over(0, 1);
    metrics::wait_for(pgvane, "pgvane_node_role{cluster=\"main\",node=\"node2\",role=\"leader\"}", 1.0).await;
    assert_eq!(Session::through(pgvane.write_addr).await.value("who").await, "node2");
    cluster[1].follows();
    cluster[0].leads(3);
    metrics::wait_for(pgvane, "pgvane_node_role{cluster=\"main\",node=\"node1\",role=\"leader\"}", 1.0).await;
}

// ---- a suspended pgvane ---------------------------------------------------------------------------------------------

/// Clients that have been asked for their password cannot be moved to another node any more: they must not be sent to
/// the node that led before.
#[tokio::test]
async fn clients_that_came_while_pgvane_was_suspended_are_served_by_the_node_that_leads_now() {
    let cluster = FakeCluster::of(2).await;
    for node in [0, 1] {
        cluster[node].postgres.usually(Behaviour::AsksForScram);
    }
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    pgvane.suspend().await.expect("it runs");
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = Wire::to(pgvane.write_addr).await; // the kernel accepts for it
        client.send(&plain_startup()).await;
        clients.push(client);
    }
    cluster.switch_over(0, 1);
    // how long it is suspended is the very fault here: there is no condition to wait for
    tokio::time::sleep(Duration::from_secs(3)).await;
    pgvane.resume().expect("it runs");
    for mut client in clients {
        client.message().await.expect("the server wants a proof");
        assert_eq!(client.log_in(&proof()).await.value("who").await, "node2");
    }
}
