//! Encryption that ends at pgvane, on either side of it.
//!
//! - here: what a client meets at a port that terminates TLS, before fakes
//! - [`renewal`]: certificates that are replaced while they are in use
//! - [`binding`]: psql of two versions with every `channel_binding` and `sslmode`, before a real server
//! - [`servers`]: the way to real servers, and cancel requests over both ways

mod binding;
mod renewal;
mod servers;

use pgvane_loadtest::fake::{Behaviour, LONG_ANSWER, STARTING_UP};
use pgvane_loadtest::messages::{cancel_request, gss_request, message, query, ssl_request, startup};
use pgvane_loadtest::pgvane::{Pgvane, PgvaneBuilder};
use serde_json::json;
use tokio::net::TcpStream;

use crate::certificates::{Certificates, POSTGRESQL};
use crate::fake::FakeCluster;
use crate::metrics;
use crate::wire::{SOON, Session, Wire, plain_startup};

/// The listener's key for termination with the certificate in `pgvane.pem`, and more settings.
fn terminate(files: &Certificates, more: &str) -> String {
    terminate_as(&files.path("pgvane.pem"), &files.path("pgvane.key"), more)
}

fn terminate_as(cert: &str, key: &str, more: &str) -> String {
    format!("tls = {{ mode = \"terminate\", cert_file = \"{cert}\", key_file = \"{key}\"{more} }}")
}

fn certificates() -> Certificates {
    let files = Certificates::new();
    files.issue("pgvane", "localhost");
    files
}

/// Both listeners terminate TLS.
fn terminating(pgvane: PgvaneBuilder, files: &Certificates, more: &str) -> PgvaneBuilder {
    let line = terminate(files, more);
    pgvane.write_listener(&line).read_listener(&line)
}

async fn encrypted(pgvane: &Pgvane, files: &Certificates) -> Wire {
    Wire::to(pgvane.write_addr).await.asks_for_tls(&files.client(&[])).await
}

async fn ends(pgvane: &Pgvane, reason: &str, count: u32) {
    metrics::wait_for_ends(pgvane, "write", reason, count).await;
}

// ---- sessions -------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn an_encrypted_session_is_served_as_one_in_clear() {
    let (cluster, files) = (FakeCluster::of(2).await, certificates());
    let pgvane = cluster.pgvane(|pgvane| terminating(pgvane, &files, "")).await;
    let session = encrypted(&pgvane, &files).await.log_in(&plain_startup()).await;
    let mut direct = Wire::to(pgvane.write_addr).await.begins_tls(&files.client(&[POSTGRESQL])).await.expect("agrees");
    direct.send(&plain_startup()).await;
    assert_eq!(direct.messages_until(b'Z').await.last().map(|message| message.kind), Some(b'Z'));
    let mut in_clear = Session::through(pgvane.write_addr).await;
    assert_eq!(in_clear.value("who").await, "node1", "those who do not ask are welcome, too");

    let mut session = session;
    assert_eq!(session.value("who").await, "node1");
    assert_eq!(cluster[0].postgres.seen().startups[0], plain_startup(), "the client's own bytes");
    let handshakes = "pgvane_tls_handshakes_total{listener=\"write\",version=\"TLSv1.3\"}";
    assert_eq!(metrics::value(&pgvane, handshakes).await, 2.0);

    // more than all buffers hold, to a client that has finished sending
    session.wire.send(&query("long")).await;
    session.wire.finish_sending().await;
    let answer = session.wire.messages_until(b'Z').await;
    assert!(answer.iter().any(|message| message.body.len() > LONG_ANSWER), "{} messages", answer.len());
    assert_eq!(session.wire.rest().await, b"");
    ends(&pgvane, "client-closed", 1).await;
}

#[tokio::test]
async fn an_encrypted_session_that_has_to_end_gets_the_reason_encrypted() {
    let (mut cluster, files) = (FakeCluster::of(2).await, certificates());
    let mut pgvane = cluster.pgvane(|pgvane| terminating(pgvane, &files, "").top("drain_timeout = \"200ms\"")).await;
    let log_in = async || encrypted(&pgvane, &files).await.log_in(&plain_startup()).await;
    let (cut, mut vanishing) = (log_in().await, log_in().await);
    vanishing.wire.send(&query("close")).await;
    assert_eq!(vanishing.wire.fatal().await.sqlstate().as_deref(), Some("08006"));
    cluster.switch_over(0, 1);
    let end = cut.wire.fatal().await;
    assert_eq!(end.sqlstate().as_deref(), Some("57P01"), "{end:?}");

    let outstays = log_in().await;
    pgvane.terminate().expect("it runs");
    let end = outstays.wire.fatal().await;
    assert_eq!(end.sqlstate().as_deref(), Some("57P01"));
    assert!(end.field(b'M').is_some_and(|text| text.contains("the proxy is stopping")), "{end:?}");
    pgvane.wait(SOON).await.expect("it ends");
    cluster.postgres_of(0).closes().await;
}

/// The node is left for another before the client hears of it, and the role is looked at in the login: both need that
/// pgvane sees what is said.
#[tokio::test]
async fn a_login_is_followed_inside_tls() {
    let (cluster, files) = (FakeCluster::of(2).await.rarely_checked(), certificates());
    cluster[0].postgres.next(&[STARTING_UP]);
    let pgvane = cluster.pgvane(|pgvane| terminating(pgvane, &files, "").hold_max("300ms")).await;
    let mut session = encrypted(&pgvane, &files).await.log_in(&plain_startup()).await;
    assert_eq!(session.value("who").await, "node1");

    cluster[0].patroni.freezes();
    cluster[0].postgres.is_in_recovery(true);
    let mut refused = encrypted(&pgvane, &files).await;
    refused.send(&plain_startup()).await;
    let end = refused.fatal().await;
    assert_eq!(end.sqlstate().as_deref(), Some("57P03"));
    assert!(end.field(b'D').is_some_and(|text| text.contains("no longer the leader")), "{end:?}");
}

// ---- refusals -------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn refusals_are_sent_inside_tls() {
    let (cluster, files) = (FakeCluster::of(1).await, certificates());
    let pgvane =
        cluster.pgvane(|pgvane| terminating(pgvane, &files, "").write_listener("sessions_max = 1").hold_max("300ms"));
    let pgvane = pgvane.await;
    let told = async |bytes: &[u8]| {
        let mut client = encrypted(&pgvane, &files).await;
        client.send(bytes).await;
        client.fatal().await.sqlstate().unwrap_or_default()
    };
    let mut browser = encrypted(&pgvane, &files).await;
    browser.send(b"GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(browser.rest().await, b"", "a wrong length is closed without an answer, as PostgreSQL does it");
    assert_eq!(told(&startup(2 << 16, &[("user", "old")])).await, "0A000");
    assert_eq!(told(&ssl_request()).await, "08P01", "TLS within TLS");
    assert_eq!(told(&gss_request()).await, "08P01");
    let session = encrypted(&pgvane, &files).await.log_in(&plain_startup()).await;
    assert_eq!(told(&plain_startup()).await, "53300");
    drop(session);
    ends(&pgvane, "client-closed", 1).await;
    cluster[0].patroni.says(200, json!({"role": "primary", "state": "starting"}));
    metrics::wait_for(&pgvane, "pgvane_cluster_has_leader{cluster=\"main\"}", 0.0).await;
    assert_eq!(told(&plain_startup()).await, "57P03");
}

#[tokio::test]
async fn where_tls_is_required_only_cancel_requests_may_come_without_it() {
    let (cluster, files) = (FakeCluster::of(1).await, certificates());
    let pgvane = cluster.pgvane(|pgvane| terminating(pgvane, &files, ", sslmode = \"require\"")).await;
    let mut in_clear = Wire::to(pgvane.write_addr).await;
    in_clear.send(&plain_startup()).await;
    let end = in_clear.fatal().await;
    assert_eq!(end.sqlstate().as_deref(), Some("28000"));
    assert_eq!(end.field(b'M').as_deref(), Some("pgvane: listener \"write\" requires TLS"));
    assert!(end.field(b'H').is_some_and(|hint| hint.contains("sslmode=require")), "{end:?}");
    ends(&pgvane, "tls-required", 1).await;

    // libpq before version 17 cancels in clear whatever the session was
    let session = encrypted(&pgvane, &files).await.log_in(&plain_startup()).await;
    for is_encrypted in [false, true] {
        let mut canceller = Wire::to(pgvane.write_addr).await;
        if is_encrypted {
            canceller = canceller.asks_for_tls(&files.client(&[])).await;
        }
        canceller.send(&cancel_request(&session.key)).await;
        assert_eq!(canceller.rest().await, b"", "ends in order");
    }
    assert_eq!(cluster[0].postgres.seen().cancels, vec![cancel_request(&session.key); 2]);
}

/// What is in clear behind the request could have been put there by somebody in between (CVE-2021-23214).
#[tokio::test]
async fn bytes_in_clear_before_the_handshake_are_refused() {
    let (cluster, files) = (FakeCluster::of(1).await, certificates());
    let pgvane = cluster.pgvane(|pgvane| terminating(pgvane, &files, "")).await;
    let mut client = Wire::to(pgvane.write_addr).await;
    client.send(&[ssl_request(), plain_startup()].concat()).await;
    assert_eq!(client.bytes(1).await, b"N", "no TLS with somebody in between");
    let end = client.fatal().await;
    assert_eq!(end.sqlstate().as_deref(), Some("08P01"));
    assert!(end.field(b'M').is_some_and(|text| text.contains("unencrypted data after SSL request")), "{end:?}");
    ends(&pgvane, "not-postgres", 1).await;
    assert_eq!(cluster[0].postgres.seen().connections, 0);
}

#[tokio::test]
async fn tls_that_is_begun_without_asking_must_name_the_protocol() {
    let (cluster, files) = (FakeCluster::of(1).await, certificates());
    let pgvane = cluster.pgvane(|pgvane| terminating(pgvane, &files, "")).await;
    let direct = async |protocols: &[&[u8]]| {
        Wire::to(pgvane.write_addr).await.begins_tls(&files.client(protocols)).await.map_err(|error| error.to_string())
    };
    let mut silent = direct(&[]).await.expect("a handshake");
    assert_eq!(silent.rest().await, b"", "and nothing after it, as at PostgreSQL's own port");
    ends(&pgvane, "tls-failed", 1).await;
    let refused = direct(&[b"http/1.1"]).await.expect_err("a browser");
    assert!(refused.contains("NoApplicationProtocol"), "{refused}");
    ends(&pgvane, "tls-failed", 2).await;
    pgvane.wait_for_log("TLS with the client failed", 0, SOON).await.expect("is logged");
    direct(&[b"http/1.1", POSTGRESQL]).await.expect("agrees").log_in(&plain_startup()).await;
}

#[tokio::test]
async fn gssapi_encryption_is_refused_and_tls_may_be_asked_for_then() {
    let (cluster, files) = (FakeCluster::of(1).await, certificates());
    let pgvane = cluster.pgvane(|pgvane| terminating(pgvane, &files, "")).await;
    let mut client = Wire::to(pgvane.write_addr).await;
    client.send(&gss_request()).await;
    assert_eq!(client.bytes(1).await, b"N");
    client.asks_for_tls(&files.client(&[])).await.log_in(&plain_startup()).await;
    // but not for ever
    let mut client = Wire::to(pgvane.write_addr).await;
    for _ in 0..2 {
        client.send(&gss_request()).await;
        assert_eq!(client.bytes(1).await, b"N");
    }
    client.send(&gss_request()).await;
    assert_eq!(client.bytes(1).await, b"N");
    client.send(&plain_startup()).await;
    assert_eq!(client.fatal().await.sqlstate().as_deref(), Some("08P01"));
}

#[tokio::test]
async fn a_port_without_tls_says_so() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.write_listener("tls = \"disable\"")).await;
    // a server that would agree is not asked
    cluster[0].postgres.usually(Behaviour::Serves);
    let mut client = Wire::to(pgvane.write_addr).await;
    for question in [ssl_request(), gss_request()] {
        client.send(&question).await;
        assert_eq!(client.bytes(1).await, b"N");
    }
    client.log_in(&plain_startup()).await;
    assert_eq!(cluster[0].postgres.seen().connections, 1);

    let files = certificates();
    let direct = Wire::to(pgvane.write_addr).await.begins_tls(&files.client(&[POSTGRESQL])).await;
    direct.expect_err("is closed");
    ends(&pgvane, "tls-failed", 1).await;
}

#[tokio::test]
async fn a_handshake_that_does_not_continue_is_ended() {
    let (cluster, files) = (FakeCluster::of(1).await, certificates());
    let settled = |pgvane| terminating(pgvane, &files, "").write_listener("startup_timeout = \"300ms\"");
    let pgvane = cluster.pgvane(settled).await;
    let mut slow = Wire::to(pgvane.write_addr).await;
    slow.send(&ssl_request()).await;
    assert_eq!(slow.bytes(1).await, b"S");
    slow.send(&[0x16, 3, 1]).await;
    assert_eq!(slow.rest().await, b"");
    let mut silent = encrypted(&pgvane, &files).await;
    assert_eq!(silent.rest().await, b"");
    let mut garbled = Wire::to(pgvane.write_addr).await;
    garbled.send(&[0x16, 3, 1, 0, 5, 1, 2, 3, 4, 5]).await;
    garbled.rest().await; // perhaps an alert
    ends(&pgvane, "startup-timed-out", 2).await;
    ends(&pgvane, "tls-failed", 1).await;
}

#[tokio::test]
async fn certificates_of_clients_are_verified() {
    let (cluster, files) = (FakeCluster::of(1).await, certificates());
    files.issue("client", "app");
    let more =
        format!(", sslmode = \"require\", verify_client = \"required\", client_ca_file = \"{}\"", files.path("ca.pem"));
    let pgvane = cluster.pgvane(|pgvane| terminating(pgvane, &files, &more)).await;
    let with = Wire::to(pgvane.write_addr).await.asks_for_tls(&files.client_with("client")).await;
    with.log_in(&plain_startup()).await;
    // TLS 1.3: the client hears of it with the first answer that it waits for
    let mut without = Wire::to(pgvane.write_addr).await;
    without.send(&ssl_request()).await;
    assert_eq!(without.bytes(1).await, b"S");
    let stream = without.begins_tls(&files.client(&[])).await;
    ends(&pgvane, "tls-failed", 1).await;
    drop(stream);
    pgvane.wait_for_log("peer sent no certificates", 0, SOON).await.expect("is logged");
}

/// The proxy's header comes first and in clear; what the lists of users look at is inside.
#[tokio::test]
async fn a_proxys_header_comes_before_tls_and_the_lists_of_users_see_behind_it() {
    let (cluster, files) = (FakeCluster::of(1).await, certificates());
    let more = "proxy_protocol = { trusted = [\"127.0.0.1\"] }\nusers = [\"trusting\"]";
    let pgvane = cluster.pgvane(|pgvane| terminating(pgvane, &files, "").write_listener(more)).await;
    let announced = async || {
        let mut client = Wire::to(pgvane.write_addr).await;
        client.send(b"PROXY TCP4 192.0.2.7 192.0.2.1 51234 6432\r\n").await;
        client
    };
    announced().await.asks_for_tls(&files.client(&[])).await.log_in(&plain_startup()).await;
    let direct = announced().await.begins_tls(&files.client(&[POSTGRESQL])).await.expect("agrees");
    direct.log_in(&plain_startup()).await;

    let mut stranger = announced().await.asks_for_tls(&files.client(&[])).await;
    stranger.send(&startup(3 << 16, &[("user", "stranger")])).await;
    assert_eq!(stranger.fatal().await.sqlstate().as_deref(), Some("28000"));
    ends(&pgvane, "user-not-allowed", 1).await;
    pgvane.wait_for_log("peer=192.0.2.7:51234", 0, SOON).await.expect("is logged");
}

// ---- a client that leaves -------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_client_that_closes_while_it_is_held_is_no_longer_held() {
    let (cluster, files) = (FakeCluster::of(1).await, certificates());
    cluster[0].patroni.says(200, json!({"role": "primary", "state": "starting"}));
    let pgvane = cluster.pgvane(|pgvane| terminating(pgvane, &files, "").hold_max("60s")).await;
    let held = "pgvane_sessions_held{listener=\"write\"}";
    let mut client = encrypted(&pgvane, &files).await;
    client.send(&plain_startup()).await;
    metrics::wait_for(&pgvane, held, 1.0).await;
    client.finish_sending().await; // with TLS's own farewell, which is something to read
    metrics::wait_for(&pgvane, held, 0.0).await;
    ends(&pgvane, "client-left-held", 1).await;

    let mut client = encrypted(&pgvane, &files).await;
    client.send(&plain_startup()).await;
    metrics::wait_for(&pgvane, held, 1.0).await;
    drop(client); // without
    metrics::wait_for(&pgvane, held, 0.0).await;
    ends(&pgvane, "client-left-held", 2).await;
}

#[tokio::test]
async fn a_port_scan_is_no_trouble() {
    let (cluster, files) = (FakeCluster::of(1).await, certificates());
    let pgvane = cluster.pgvane(|pgvane| terminating(pgvane, &files, "")).await;
    drop(TcpStream::connect(pgvane.write_addr).await.expect("is open"));
    drop(encrypted(&pgvane, &files).await);
    ends(&pgvane, "client-left-early", 2).await;
}

/// The client's messages may come in one piece with each other and with the end of the handshake.
#[tokio::test]
async fn what_follows_the_startup_packet_at_once_is_not_lost() {
    let (cluster, files) = (FakeCluster::of(1).await, certificates());
    let pgvane = cluster.pgvane(|pgvane| terminating(pgvane, &files, "")).await;
    let mut eager = encrypted(&pgvane, &files).await;
    eager.send(&[plain_startup(), query("who"), message(b'X', b"")].concat()).await;
    let said = eager.messages_until(b'D').await;
    assert!(said.last().is_some_and(|row| row.body.ends_with(b"node1")), "{said:?}");
}
