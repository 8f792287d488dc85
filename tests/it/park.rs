//! Parking: the write sessions of a cluster are held between two transactions and go on as if nothing had been.

use std::time::{Duration, Instant};

use pgvane_loadtest::fake::Behaviour;
use pgvane_loadtest::messages::{query, ssl_request};
use pgvane_loadtest::pgvane::{Pgvane, PgvaneBuilder};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::certificates::Certificates;
use crate::command_line::{FAILURE, OK, USAGE};
use crate::fake::FakeCluster;
use crate::figures::{status, wait_for_status};
use crate::metrics;
use crate::operators::{Operator, run};
use crate::wire::{SOON, Session, Wire, plain_startup};

/// A pgvane whose write sessions can be parked, and its operator.
async fn attended(
    cluster: &FakeCluster,
    configured: impl FnOnce(PgvaneBuilder) -> PgvaneBuilder,
) -> (Pgvane, Operator) {
    let users = Operator::line(cluster.directory());
    let pgvane = cluster.pgvane(|pgvane| configured(pgvane.admin(&users).cluster("park = true"))).await;
    let operator = Operator::at(&pgvane, cluster.directory());
    (pgvane, operator)
}

/// The park as `/api/status` shows it; null without one.
fn park(status: &Value) -> &Value {
    &status["clusters"][0]["park"]
}

/// A query that is answered while the test does something else.
fn asked(mut session: Session, text: &'static str) -> JoinHandle<(Session, String)> {
    tokio::spawn(async move {
        let answer = session.value(text).await;
        (session, answer)
    })
}

/// A leader whose PostgreSQL stops, as Patroni tells of it while it runs its hook.
fn stops(cluster: &FakeCluster, node: usize) {
    cluster[node].patroni.says(200, json!({"role": "primary", "state": "stopping"}));
}

async fn leaderless(pgvane: &Pgvane) {
    metrics::wait_for(pgvane, "pgvane_cluster_has_leader{cluster=\"main\"}", 0.0).await;
}

const PARKED: &str = "pgvane_sessions_parked{cluster=\"main\"}";

fn outcome(outcome: &str) -> String {
    format!("pgvane_parked_sessions_total{{cluster=\"main\",outcome=\"{outcome}\"}}")
}

// ---- park and let go ------------------------------------------------------------------------------------------------

#[tokio::test]
async fn parked_sessions_and_new_clients_wait_and_go_on_without_an_error() {
    let (cluster, files) = (FakeCluster::of(2).await, Certificates::new());
    files.issue("server", "localhost");
    let [certificate, key] = ["server.pem", "server.key"].map(|name| files.path(name));
    let tls = format!("tls = {{ mode = \"terminate\", cert_file = \"{certificate}\", key_file = \"{key}\" }}");
    let (pgvane, operator) = attended(&cluster, |pgvane| pgvane.write_listener(&tls).hold_max("60s")).await;
    let plain = Session::through(pgvane.write_addr).await;
    let encrypted = Wire::to(pgvane.write_addr).await.asks_for_tls(&files.client(&[])).await;
    let encrypted = encrypted.log_in(&plain_startup()).await;
    let mut reader = Session::through(pgvane.read_addr).await;

    let answer = operator.says(&["park"]).await;
    answer.ended_with(OK);
    assert!(answer.out.ends_with(": 2 sessions parked\n"), "{}", answer.out);
    let waiting = [asked(plain, "who"), asked(encrypted, "who")];
    let write = pgvane.write_addr;
    let newcomer = tokio::spawn(async move { Session::through(write).await });
    metrics::wait_for(&pgvane, "pgvane_sessions_held{listener=\"write\"}", 1.0).await;
    assert_eq!(reader.value("who").await, "node2", "readers are not concerned");
    assert!(waiting.iter().all(|query| !query.is_finished()), "a parked session waits");

    let seen = status(&pgvane).await;
    assert_eq!((&park(&seen)["parked"], &park(&seen)["reason"]), (&json!(2), &json!("by ops")), "{seen:#}");
    assert_eq!(metrics::value(&pgvane, PARKED).await, 2.0);
    assert_eq!(metrics::value(&pgvane, "pgvane_cluster_parked{cluster=\"main\"}").await, 1.0);
    let page = pgvane.admin_get("/stats").await.expect("is served").body;
    assert!(page.contains("write sessions have been parked for"), "{page}");
    let shown = operator.says(&["status"]).await;
    assert!(shown.out.contains("(by ops), at most"), "{}", shown.out);
    let list = operator.says(&["sessions", "--listener", "write"]).await;
    assert_eq!(list.out.matches("  parked ").count(), 2, "{}", list.out);

    operator.says(&["unpark"]).await.ended_with(OK);
    for query in waiting {
        assert_eq!(query.await.expect("no panic").1, "node1");
    }
    assert_eq!(newcomer.await.expect("no panic").value("who").await, "node1");
    assert!(park(&status(&pgvane).await).is_null());
    assert_eq!(metrics::value(&pgvane, &outcome("let-go")).await, 2.0);
    let log = pgvane.log_text();
    for line in ["write sessions are parked", "parked sessions go on"] {
        assert!(log.lines().any(|said| said.contains(line) && said.contains("user=\"ops\"")), "{line}: {log}");
    }
    let again = operator.says(&["unpark"]).await;
    again.ended_with(OK);
    assert!(again.out.contains("the write sessions are not parked"), "{}", again.out);
}

#[tokio::test]
async fn a_transaction_is_finished_before_its_session_is_parked() {
    let cluster = FakeCluster::of(2).await;
    let (pgvane, operator) = attended(&cluster, |pgvane| pgvane.cluster("park_grace = \"30s\"")).await;
    let mut session = Session::through(pgvane.write_addr).await;
    session.ask("begin").await;
    let parked = tokio::spawn(async move { (operator.says(&["park", "--wait", "20s"]).await, operator) });
    wait_for_status(&pgvane, "a park", |status| park(status)["finishing"] == 1).await;
    assert_eq!(session.value("who").await, "node1", "the transaction goes on");
    // the commit, and the beginning of the next transaction, in one go
    session.wire.send(&[query("commit"), query("begin")].concat()).await;
    assert_eq!(session.wire.messages_until(b'Z').await.last().map(|ready| ready.body.clone()), Some(b"I".to_vec()));
    let (answer, operator) = parked.await.expect("no panic");
    answer.ended_with(OK);
    assert!(answer.out.ends_with(": 1 session parked\n"), "{}", answer.out);
    operator.says(&["unpark"]).await.ended_with(OK);
    assert_eq!(session.wire.messages_until(b'Z').await.last().map(|ready| ready.body.clone()), Some(b"T".to_vec()));
}

#[tokio::test]
async fn a_transaction_that_outlasts_the_grace_goes_on_and_is_named() {
    let cluster = FakeCluster::of(2).await;
    let (pgvane, operator) = attended(&cluster, |pgvane| pgvane.cluster("park_grace = \"200ms\"")).await;
    let mut session = Session::through(pgvane.write_addr).await;
    session.ask("begin").await;
    let answer = operator.says(&["park"]).await;
    answer.ended_with(FAILURE);
    let told = "1 not parked: their transaction did not end within park_grace";
    assert!(answer.err.contains(told), "{}", answer.err);
    session.ask("commit").await;
    session.ask("begin").await;
    assert_eq!(session.value("who").await, "node1", "it goes on as if nothing had been");
    session.ask("commit").await;
    let again = operator.says(&["park"]).await;
    again.ended_with(OK);
    assert!(again.out.ends_with(": 1 session parked\n"), "asked again: {}", again.out);
    assert_eq!(metrics::value(&pgvane, &outcome("late")).await, 1.0);
    assert!(!asked(session, "who").is_finished());
}

// ---- the exits of a park --------------------------------------------------------------------------------------------

#[tokio::test]
async fn sessions_go_on_where_they_are_if_the_same_node_leads_again() {
    let cluster = FakeCluster::of(2).await;
    let (pgvane, operator) = attended(&cluster, |pgvane| pgvane).await;
    let session = Session::through(pgvane.write_addr).await;
    // Patroni says that PostgreSQL stops before it runs the hook
    stops(&cluster, 0);
    leaderless(&pgvane).await;
    let answer = operator.says(&["park", "--node", "node1"]).await;
    answer.ended_with(OK);
    assert!(answer.out.ends_with(": 1 session parked\n"), "{}", answer.out);
    let waiting = asked(session, "who");
    assert!(park(&status(&pgvane).await)["reason"] == "by ops, because node1 stops");
    cluster[0].leads(1);
    assert_eq!(waiting.await.expect("no panic").1, "node1");
    let log = pgvane.wait_for_log("the park is over", 0, SOON).await;
    log.unwrap_or_else(|error| panic!("{error}: {}", pgvane.log_text()));
}

/// PostgreSQL may be back before the next check: that it has started anew tells that its sessions are lost.
#[tokio::test]
async fn a_restart_that_is_quicker_than_the_checks_ends_the_park() {
    let cluster = FakeCluster::of(2).await;
    let (pgvane, operator) = attended(&cluster, |pgvane| pgvane).await;
    let says = |start: &str| {
        let xlog = json!({"location": 67_110_128});
        let report = json!({"role": "primary", "timeline": 1, "xlog": xlog, "postmaster_start_time": start});
        cluster[0].patroni.says(200, report);
    };
    says("2026-11-21 02:00:00+00:00");
    let session = Session::through(pgvane.write_addr).await;
    operator.says(&["park"]).await.ended_with(OK);
    // each look at the leader is one of a check: two of them, so that the park has seen the first start
    let checks = "pgvane_checks_total{cluster=\"main\",outcome=\"answered\"}";
    let before = metrics::value(&pgvane, checks).await;
    metrics::wait_for_more(&pgvane, checks, before + 3.0).await;
    let waiting = asked(session, "who");
    says("2026-11-21 03:00:00+00:00");
    assert_eq!(waiting.await.expect("no panic").1, "node1", "the fake has not really restarted");
    assert_eq!(metrics::value(&pgvane, "pgvane_parks_total{cluster=\"main\",reason=\"led\"}").await, 1.0);
}

#[tokio::test]
async fn sessions_go_on_after_park_max_if_the_same_node_still_leads() {
    let cluster = FakeCluster::of(2).await;
    let limits = |pgvane: PgvaneBuilder| pgvane.cluster("park_max = \"1s\"").cluster("park_grace = \"1s\"");
    let (pgvane, operator) = attended(&cluster, limits).await;
    let session = Session::through(pgvane.write_addr).await;
    let parked = Instant::now();
    operator.says(&["park"]).await.ended_with(OK);
    let (_session, answer) = asked(session, "who").await.expect("no panic");
    assert_eq!(answer, "node1");
    assert!(parked.elapsed() >= Duration::from_secs(1), "after {:?}", parked.elapsed());
    assert_eq!(metrics::value(&pgvane, "pgvane_parks_total{cluster=\"main\",reason=\"park-max\"}").await, 1.0);
}

#[tokio::test]
async fn sessions_end_with_the_reason_if_no_node_leads_for_park_max() {
    let cluster = FakeCluster::of(2).await;
    let limits = |pgvane: PgvaneBuilder| pgvane.cluster("park_max = \"1s\"").cluster("park_grace = \"1s\"");
    let (pgvane, operator) = attended(&cluster, limits).await;
    let mut session = Session::through(pgvane.write_addr).await;
    operator.says(&["park"]).await.ended_with(OK);
    session.wire.send(&query("who")).await;
    stops(&cluster, 0);
    let end = session.wire.fatal().await;
    assert_eq!(end.sqlstate().as_deref(), Some("57P01"));
    let why = "pgvane: terminating connection because no server has become the leader within park_max";
    assert_eq!(end.field(b'M').as_deref(), Some(why));
    assert!(end.field(b'D').is_some_and(|detail| detail.contains("were not executed")), "{end:?}");
    metrics::wait_for_ends(&pgvane, "write", "parked", 1).await;
    assert_eq!(metrics::value(&pgvane, &outcome("ended")).await, 1.0);
}

#[tokio::test]
async fn sessions_on_the_old_leader_end_when_another_node_leads_and_new_clients_are_served() {
    let cluster = FakeCluster::of(2).await;
    let (pgvane, operator) = attended(&cluster, |pgvane| pgvane).await;
    let session = Session::through(pgvane.write_addr).await;
    operator.says(&["park"]).await.ended_with(OK);
    let write = pgvane.write_addr;
    let newcomer = tokio::spawn(async move { Session::through(write).await });
    metrics::wait_for(&pgvane, "pgvane_sessions_held{listener=\"write\"}", 1.0).await;
    cluster.switch_over(0, 1);
    assert_eq!(session.wire.fatal().await.sqlstate().as_deref(), Some("57P01"));
    assert_eq!(newcomer.await.expect("no panic").value("who").await, "node2");
    wait_for_status(&pgvane, "no park", |status| park(status).is_null()).await;
}

#[tokio::test]
async fn a_client_that_waits_longer_than_hold_max_is_told_that_the_sessions_are_parked() {
    let cluster = FakeCluster::of(2).await;
    let (pgvane, operator) = attended(&cluster, |pgvane| pgvane.hold_max("300ms")).await;
    operator.says(&["park"]).await.ended_with(OK);
    let mut wire = Wire::to(pgvane.write_addr).await;
    wire.send(&plain_startup()).await;
    let end = wire.fatal().await;
    assert_eq!(end.sqlstate().as_deref(), Some("57P03"));
    let detail = "the write sessions of the cluster are parked (by ops).";
    assert_eq!(end.field(b'D').as_deref(), Some(detail));
}

// ---- what is not parked ---------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_node_that_does_not_lead_parks_nothing() {
    let cluster = FakeCluster::of(2).await;
    let (pgvane, operator) = attended(&cluster, |pgvane| pgvane).await;
    let mut session = Session::through(pgvane.write_addr).await;
    let answer = operator.says(&["park", "--node", "node2"]).await;
    answer.ended_with(OK);
    assert!(answer.out.contains("node2 does not lead: it has no write sessions"), "{}", answer.out);
    assert_eq!(session.value("who").await, "node1");
    let unknown = operator.says(&["park", "--node", "node7"]).await;
    unknown.ended_with(FAILURE);
    assert!(unknown.err.contains("no node \"node7\""), "{}", unknown.err);
}

#[tokio::test]
async fn encrypted_sessions_that_pass_through_cannot_be_parked_and_that_is_told() {
    let cluster = FakeCluster::of(2).await;
    cluster[0].postgres.usually(Behaviour::EchoesInsteadOfTls);
    let (pgvane, operator) = attended(&cluster, |pgvane| pgvane).await;
    let mut wire = Wire::to(pgvane.write_addr).await;
    wire.send(&ssl_request()).await;
    assert_eq!(wire.bytes(1).await, b"S");
    let encrypted = "pgvane_node_sessions{cluster=\"main\",node=\"node1\"}";
    metrics::wait_for(&pgvane, encrypted, 1.0).await;
    wait_for_status(&pgvane, "a session", |status| status["clusters"][0]["nodes"][0]["sessions_total"] == 1).await;
    let answer = operator.says(&["park"]).await;
    answer.ended_with(OK);
    let told = ": 0 sessions parked, 1 cannot be parked: client and server encrypt end to end\n";
    assert!(answer.out.ends_with(told), "{}", answer.out);
    wire.send(b"hello").await;
    assert_eq!(wire.bytes(5).await, b"hello", "it goes on");
}

#[tokio::test]
async fn parking_is_off_unless_it_is_configured() {
    let cluster = FakeCluster::of(2).await;
    let users = Operator::line(cluster.directory());
    let pgvane = cluster.pgvane(|pgvane| pgvane.admin(&users)).await;
    let operator = Operator::at(&pgvane, cluster.directory());
    let answer = operator.says(&["park"]).await;
    answer.ended_with(FAILURE);
    let told = "sessions cannot be parked: the configuration has no park = true for cluster \"main\"";
    assert!(answer.err.contains(told), "{}", answer.err);
    let admin = format!("http://{}", pgvane.admin_addr);
    run(&["park", "--admin", &admin]).await.ended_with(USAGE);
}

// ---- Patroni waits for the command ----------------------------------------------------------------------------------

/// Patroni's hook must not wait for a proxy that is down or frozen, and the other proxies park nevertheless.
#[tokio::test]
async fn a_pgvane_that_is_down_or_frozen_costs_the_wait_at_most() {
    let cluster = FakeCluster::of(2).await;
    let (pgvane, operator) = attended(&cluster, |pgvane| pgvane).await;
    let session = Session::through(pgvane.write_addr).await;
    let frozen = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let down = {
        let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        closed.local_addr().expect("is bound")
    };
    let urls = [down, frozen.local_addr().expect("is bound"), pgvane.admin_addr].map(|at| format!("http://{at}"));
    let began = Instant::now();
    let answer = operator.says_at(&urls.join(","), &["park", "--wait", "1s"]).await;
    let took = began.elapsed();
    answer.ended_with(FAILURE);
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(answer.out.contains(&format!("{}: 1 session parked", urls[2])), "{}", answer.out);
    assert!(answer.err.contains(&format!("{}/api/park does not answer", urls[0])), "{}", answer.err);
    assert!(answer.err.contains(&format!("{}: not within --wait: no answer yet", urls[1])), "{}", answer.err);
    let waiting = asked(session, "who");
    operator.says(&["unpark"]).await.ended_with(OK);
    assert_eq!(waiting.await.expect("no panic").1, "node1");
}
