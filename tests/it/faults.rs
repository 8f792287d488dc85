//! pgvane before nodes that misbehave in ways a real cluster does not show on demand.

use std::time::{Duration, Instant};

use pgvane_loadtest::fake::{
    Behaviour, LONG_ANSWER, STARTING_UP, TOO_MANY_CLIENTS, TOO_MANY_CLIENTS_TEXT, WRONG_PASSWORD,
};
use pgvane_loadtest::messages::{PROTOCOL_3_2, cancel_request, gss_request, message, query, ssl_request, startup};
use pgvane_loadtest::wait;
use serde_json::json;

use crate::fake::FakeCluster;
use crate::metrics;
use crate::wire::{Message, SOON, Session, Wire, plain_startup};

const HAS_LEADER: &str = "pgvane_cluster_has_leader{cluster=\"main\"}";
const CONTESTED: &str = "pgvane_cluster_contested{cluster=\"main\"}";
const CHECKS: &str = "pgvane_checks_total{cluster=\"main\",outcome=\"answered\"}";
const SESSIONS: &str = "pgvane_sessions{listener=\"write\"}";
const HELD: &str = "pgvane_sessions_held{listener=\"write\"}";
const RETRIES: &str = "pgvane_connect_retries_total{listener=\"write\"}";

// ---- a leader that cannot take a session yet is a pause, not an error ----------------------------------------------

#[tokio::test]
async fn a_leader_that_is_starting_up_is_only_a_pause() {
    let cluster = FakeCluster::of(1).await;
    cluster[0].postgres.next(&[STARTING_UP, STARTING_UP]);
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;

    let unheard_of = startup(PROTOCOL_3_2, &[("user", "trusting"), ("_pq_.unheard_of", "1"), ("database", "app")]);
    let mut session = Wire::to(pgvane.write_addr).await.log_in(&unheard_of).await;

    assert_eq!(session.value("who").await, "node1");
    let seen = cluster[0].postgres.seen().startups;
    assert_eq!(
        seen,
        [unheard_of.clone(), unheard_of.clone(), unheard_of],
        "every attempt brings the client's own bytes"
    );
    assert!(metrics::value(&pgvane, RETRIES).await >= 2.0);
}

#[tokio::test]
async fn a_leader_whose_port_is_closed_is_only_a_pause() {
    let mut cluster = FakeCluster::of(1).await;
    cluster.postgres_of(0).closes().await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;

    let client = tokio::spawn(Session::through(pgvane.write_addr));
    metrics::wait_for(&pgvane, HELD, 1.0).await;
    cluster.postgres_of(0).opens().await;

    assert_eq!(client.await.expect("is served").value("who").await, "node1");
}

#[tokio::test]
async fn a_leader_that_accepts_and_says_nothing_is_only_a_pause() {
    let cluster = FakeCluster::of(1).await;
    cluster[0].postgres.next(&[Behaviour::AnswersNothing]);
    let pgvane = cluster.pgvane(|pgvane| pgvane.write_listener("login_timeout = \"200ms\"")).await;
    assert_eq!(Session::through(pgvane.write_addr).await.value("who").await, "node1");
}

#[tokio::test]
async fn a_leader_that_closes_at_once_is_only_a_pause() {
    let cluster = FakeCluster::of(1).await;
    cluster[0].postgres.next(&[Behaviour::ClosesAtOnce, Behaviour::ClosesAtOnce]);
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    assert_eq!(Session::through(pgvane.write_addr).await.value("who").await, "node1");
}

/// Every answered check wakes whoever is held; that must not put off the next attempt for ever.
#[tokio::test]
async fn a_refusing_leader_is_tried_again_soon_however_often_checks_are_answered() {
    let cluster = FakeCluster::of(3).await;
    cluster[0].postgres.next(&[STARTING_UP; 4]);
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;

    let arrived = Instant::now();
    assert_eq!(Session::through(pgvane.write_addr).await.value("who").await, "node1");
    // four waits that begin with 50 ms and double: 0.75 s; the rest is for a busy machine
    assert!(arrived.elapsed() < Duration::from_secs(3), "it took {:?}", arrived.elapsed());
}

#[tokio::test]
async fn a_lock_holder_whose_postgresql_is_starting_gets_nothing_until_it_runs() {
    let cluster = FakeCluster::of(1).await;
    cluster[0].patroni.says(200, json!({"role": "primary", "state": "starting"}));
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;

    let client = tokio::spawn(Session::through(pgvane.write_addr));
    metrics::wait_for(&pgvane, HELD, 1.0).await;
    assert_eq!(cluster[0].postgres.seen().connections, 0, "nobody is sent to a server that is starting");
    cluster[0].patroni.leads(1);

    assert_eq!(client.await.expect("is served").value("who").await, "node1");
}

#[tokio::test]
async fn a_client_that_waits_longer_than_hold_max_gets_the_reason() {
    let cluster = FakeCluster::of(1).await;
    cluster[0].patroni.says(200, json!({"role": "primary", "state": "starting"}));
    let pgvane = cluster.pgvane(|pgvane| pgvane.hold_max("300ms")).await;

    let arrived = Instant::now();
    let mut client = Wire::to(pgvane.write_addr).await;
    client.send(&plain_startup()).await;
    let end = client.fatal().await;

    assert!(arrived.elapsed() >= Duration::from_millis(300), "it was held for {:?} only", arrived.elapsed());
    assert_eq!(end.sqlstate().as_deref(), Some("57P03"));
    let detail = end.field(b'D').expect("there is a reason");
    assert!(detail.contains("node1 holds the leader lock, but its PostgreSQL is starting"), "{detail}");
    assert!(end.field(b'H').is_some(), "and a hint: {end:?}");
}

// ---- the wrong node -------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_leader_in_recovery_whose_patroni_is_frozen_is_given_up_without_the_client_noticing_before_authentication() {
    let cluster = FakeCluster::of(2).await;
    cluster[0].postgres.is_in_recovery(true);
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    cluster[0].patroni.freezes();

    let client = tokio::spawn(Session::through(pgvane.write_addr));
    metrics::wait_for(&pgvane, HELD, 1.0).await;
    assert!(!cluster[0].postgres.seen().startups.is_empty(), "it was tried");
    cluster.switch_over(0, 1);

    assert_eq!(client.await.expect("hears of none of it").value("who").await, "node2");
}

#[tokio::test]
async fn a_leader_in_recovery_after_authentication_ends_the_login_with_a_reason_unless_patroni_says_that_it_leads() {
    let cluster = FakeCluster::of(1).await;
    cluster[0].postgres.usually(Behaviour::AsksForScram);
    cluster[0].postgres.is_in_recovery(true);
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    cluster[0].patroni.freezes();

    let mut client = Wire::to(pgvane.write_addr).await;
    client.send(&plain_startup()).await;
    let challenge = client.message().await.expect("the server wants a proof");
    assert_eq!(&challenge.body[..4], [0, 0, 0, 10]);
    client.send(&message(b'p', b"any proof will do")).await;
    let rest = client.messages_until(b'E').await;
    drop(client);

    assert!(rest.iter().all(|message| message.kind != b'Z'), "never ready, but came {rest:?}");
    assert_eq!(rest.last().and_then(Message::sqlstate).as_deref(), Some("57P01"), "{rest:?}");
    metrics::wait_for_ends(&pgvane, "write", "wrong-node", 1).await;
}

/// As behind a PgBouncer, which tells each client what its server said when PgBouncer first connected to it.
#[tokio::test]
async fn what_a_login_says_of_recovery_does_not_outvote_a_patroni_that_was_asked_after_it() {
    let cluster = FakeCluster::of(2).await.rarely_checked();
    cluster[0].postgres.is_in_recovery(true);
    cluster[1].postgres.is_in_recovery(false);
    let pgvane = cluster.pgvane(|pgvane| pgvane.read_listener("fallback = \"none\"")).await;
    let checks = metrics::value(&pgvane, CHECKS).await;
    for _ in 0..20 {
        assert_eq!(Session::through(pgvane.write_addr).await.value("who").await, "node1");
        assert_eq!(Session::through(pgvane.read_addr).await.value("who").await, "node2");
    }
    let asked = metrics::value(&pgvane, CHECKS).await - checks;
    assert!((1.0..=4.0).contains(&asked), "once for each node, and then it is known: {asked} checks");
    metrics::wait_for(&pgvane, "pgvane_login_hints_ignored_total{listener=\"write\"}", 20.0).await;
    pgvane.wait_for_log("is the node's address a pooler?", 0, SOON).await.expect("is logged");
}

#[tokio::test]
async fn a_leader_that_asks_for_authentication_gets_the_session() {
    let cluster = FakeCluster::of(1).await;
    cluster[0].postgres.usually(Behaviour::AsksForScram);
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;

    let mut client = Wire::to(pgvane.write_addr).await;
    client.send(&plain_startup()).await;
    client.message().await.expect("the server wants a proof");
    let mut session = client.log_in(&message(b'p', b"any proof will do")).await;
    assert_eq!(session.value("who").await, "node1");
}

/// A doubted leader gets no new writes before it has answered: nobody should be able to bring that about by a typo.
#[tokio::test]
async fn a_wrong_password_does_not_make_the_leader_doubtful() {
    let cluster = FakeCluster::of(1).await.rarely_checked();
    cluster[0].postgres.usually(WRONG_PASSWORD);
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let checks = metrics::value(&pgvane, CHECKS).await;
    for _ in 0..5 {
        let mut client = Wire::to(pgvane.write_addr).await;
        client.send(&plain_startup()).await;
        assert_eq!(client.messages_until(b'E').await[0].sqlstate().as_deref(), Some("28P01"));
        client.rest().await;
    }
    metrics::wait_for(&pgvane, SESSIONS, 0.0).await;
    assert_eq!(metrics::value(&pgvane, CHECKS).await, checks, "checks were made for no good reason");
}

#[tokio::test]
async fn a_server_that_says_it_shuts_down_is_checked_at_once() {
    let cluster = FakeCluster::of(1).await.rarely_checked();
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let checks = metrics::value(&pgvane, CHECKS).await;
    let mut session = Session::through(pgvane.write_addr).await;
    assert_eq!(session.ask("shut down").await[0].sqlstate().as_deref(), Some("57P01"));
    metrics::wait_for_more(&pgvane, CHECKS, checks).await;
}

#[tokio::test]
async fn a_replica_that_says_at_login_that_it_leads_is_left_for_another_and_checked() {
    let cluster = FakeCluster::of(3).await.rarely_checked();
    cluster[1].postgres.is_in_recovery(false);
    let strict = "fallback = \"none\"\nbalance = \"round-robin\"";
    let pgvane = cluster.pgvane(|pgvane| pgvane.read_listener(strict)).await;
    cluster[1].patroni.freezes();
    let checks = metrics::value(&pgvane, CHECKS).await;
    for _ in 0..4 {
        assert_eq!(Session::through(pgvane.read_addr).await.value("who").await, "node3");
    }
    assert!(!cluster[1].postgres.seen().startups.is_empty(), "node2 had its turn");
    metrics::wait_for_more(&pgvane, CHECKS, checks).await;
}

#[tokio::test]
async fn a_replica_that_says_after_authentication_that_it_leads_ends_the_login_with_a_reason() {
    let cluster = FakeCluster::of(2).await.rarely_checked();
    cluster[1].postgres.usually(Behaviour::AsksForScram);
    cluster[1].postgres.is_in_recovery(false);
    let pgvane = cluster.pgvane(|pgvane| pgvane.read_listener("fallback = \"none\"")).await;
    cluster[1].patroni.freezes();
    let checks = metrics::value(&pgvane, CHECKS).await;
    let mut client = Wire::to(pgvane.read_addr).await;
    client.send(&plain_startup()).await;
    client.message().await.expect("the server wants a proof");
    client.send(&message(b'p', b"any proof will do")).await;
    let rest = client.messages_until(b'E').await;
    drop(client);
    let end = rest.last().expect("an error");
    assert_eq!(end.sqlstate().as_deref(), Some("57P01"), "{rest:?}");
    assert_eq!(end.field(b'M').as_deref(), Some("pgvane: the login ends because the server's role has changed"));
    metrics::wait_for_ends(&pgvane, "read", "wrong-node", 1).await;
    metrics::wait_for_more(&pgvane, CHECKS, checks).await;
}

#[tokio::test]
async fn where_the_leader_may_stand_in_a_replica_that_leads_is_good_enough_and_is_checked() {
    let cluster = FakeCluster::of(2).await.rarely_checked();
    cluster[1].postgres.is_in_recovery(false);
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let checks = metrics::value(&pgvane, CHECKS).await;
    assert_eq!(Session::through(pgvane.read_addr).await.value("who").await, "node2");
    metrics::wait_for_more(&pgvane, CHECKS, checks).await;
}

/// On the port for reads it is the client's mistake, and no client shall be able to bring about checks by it.
#[tokio::test]
async fn a_server_that_refuses_to_write_is_checked_if_it_should_write() {
    let cluster = FakeCluster::of(2).await.rarely_checked();
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let checks = metrics::value(&pgvane, CHECKS).await;
    let mut reading = Session::through(pgvane.read_addr).await;
    assert_eq!(reading.ask("write").await[0].sqlstate().as_deref(), Some("25006"));
    assert_eq!(reading.value("who").await, "node2", "the session goes on");
    assert_eq!(metrics::value(&pgvane, CHECKS).await, checks);
    let mut writing = Session::through(pgvane.write_addr).await;
    assert_eq!(writing.ask("write").await[0].sqlstate().as_deref(), Some("25006"));
    metrics::wait_for_more(&pgvane, CHECKS, checks).await;
}

/// The error was answered; that the server then vanishes has nothing to do with it.
#[tokio::test]
async fn a_server_that_closes_after_an_error_is_checked_at_once() {
    let cluster = FakeCluster::of(1).await.rarely_checked();
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let checks = metrics::value(&pgvane, CHECKS).await;
    let mut session = Session::through(pgvane.write_addr).await;
    assert_eq!(session.ask("fail").await[0].sqlstate().as_deref(), Some("22012"));
    assert_eq!(metrics::value(&pgvane, CHECKS).await, checks);
    session.wire.send(&query("close")).await;
    assert_eq!(session.wire.fatal().await.sqlstate().as_deref(), Some("08006"));
    metrics::wait_for_more(&pgvane, CHECKS, checks).await;
}

#[tokio::test]
async fn two_leaders_of_one_timeline_get_no_writes_and_raise_the_alarm() {
    let cluster = FakeCluster::of(2).await;
    cluster[1].patroni.leads(1);
    cluster[1].postgres.is_in_recovery(false);
    let pgvane = cluster.pgvane(|pgvane| pgvane.hold_max("300ms")).await;
    metrics::wait_for(&pgvane, CONTESTED, 1.0).await;

    let mut client = Wire::to(pgvane.write_addr).await;
    client.send(&plain_startup()).await;
    let end = client.fatal().await;
    assert_eq!(end.sqlstate().as_deref(), Some("57P03"));
    let detail = end.field(b'D').expect("there is a reason");
    assert!(detail.contains("node1 and node2 claim to be the leader at the same time"), "{detail}");
    for node in [0, 1] {
        assert_eq!(cluster[node].postgres.seen().connections, 0, "node{} was not to be touched", node + 1);
    }

    cluster[0].patroni.follows();
    metrics::wait_for(&pgvane, CONTESTED, 0.0).await;
    assert_eq!(Session::through(pgvane.write_addr).await.value("who").await, "node2");
}

#[tokio::test]
async fn a_node_of_another_cluster_gets_nothing() {
    let cluster = FakeCluster::of(3).await;
    cluster[2].patroni.says(503, json!({"role": "replica", "database_system_identifier": "1"}));
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    metrics::wait_for(&pgvane, "pgvane_node_role{cluster=\"main\",node=\"node3\",role=\"foreign\"}", 1.0).await;
    for _ in 0..4 {
        assert_eq!(Session::through(pgvane.read_addr).await.value("who").await, "node2");
    }
    assert_eq!(cluster[2].postgres.seen().connections, 0, "node3 was not to be touched");
}

#[tokio::test]
async fn patroni_3_calls_the_leader_master() {
    let cluster = FakeCluster::of(1).await;
    cluster[0].patroni.says(200, json!({"role": "master", "patroni": {"version": "3.3.2", "scope": "fake"}}));
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    assert_eq!(Session::through(pgvane.write_addr).await.value("who").await, "node1");
}

// ---- running sessions when the roles change -------------------------------------------------------------------------

#[tokio::test]
async fn a_session_whose_node_no_longer_leads_ends_with_a_reason() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let mut session = Session::through(pgvane.write_addr).await;
    session.ask("begin").await;

    cluster.switch_over(0, 1);

    let end = session.wire.fatal().await;
    assert_eq!(end.sqlstate().as_deref(), Some("57P01"));
    let text = end.field(b'M').expect("a message");
    assert!(text.contains("the server is no longer the leader"), "{text}");
    metrics::wait_for_ends(&pgvane, "write", "cut", 1).await;
}

#[tokio::test]
async fn a_leader_that_restarts_its_postgresql_keeps_its_sessions() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let mut session = Session::through(pgvane.write_addr).await;
    cluster[0].patroni.says(200, json!({"role": "primary", "state": "restarting"}));
    metrics::wait_for(&pgvane, HAS_LEADER, 0.0).await;
    assert_eq!(session.value("who").await, "node1", "if the server ends it, it will say so itself");
}

#[tokio::test]
async fn a_node_on_a_newer_timeline_replaces_a_leader_that_no_longer_answers() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.cluster("leader_grace = \"1h\"")).await;
    let session = Session::through(pgvane.write_addr).await;

    cluster[0].patroni.closes().await;
    cluster[1].postgres.is_in_recovery(false);
    cluster[1].patroni.leads(2);

    assert_eq!(session.wire.fatal().await.sqlstate().as_deref(), Some("57P01"));
    assert_eq!(Session::through(pgvane.write_addr).await.value("who").await, "node2");
}

#[tokio::test]
async fn a_session_cut_within_a_message_gets_no_error_in_the_middle_of_it() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let mut session = Session::through(pgvane.write_addr).await;
    session.wire.send(&query("half")).await;
    let half = session.wire.bytes(20).await;
    assert_eq!(half[0], b'D');

    cluster.switch_over(0, 1);

    assert_eq!(session.wire.rest().await, b"", "a client would take them for the rest of its row");
    metrics::wait_for_ends(&pgvane, "write", "cut", 1).await;
}

#[tokio::test]
async fn a_promoted_replica_keeps_its_readers_until_their_transaction_is_over() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.read_listener("fallback = \"none\"")).await;
    let mut session = Session::through(pgvane.read_addr).await;
    session.ask("begin").await;

    cluster.switch_over(0, 1);
    metrics::wait_for(&pgvane, "pgvane_node_role{cluster=\"main\",node=\"node2\",role=\"leader\"}", 1.0).await;
    assert_eq!(session.value("who").await, "node2", "the transaction goes on");
    session.ask("commit").await;

    assert_eq!(session.wire.fatal().await.sqlstate().as_deref(), Some("57P01"));
    metrics::wait_for_ends(&pgvane, "read", "drained", 1).await;
}

#[tokio::test]
async fn readers_stay_where_the_leader_may_serve_reads() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.read_listener("fallback = \"leader\"")).await;
    let mut session = Session::through(pgvane.read_addr).await;
    cluster.switch_over(0, 1);
    metrics::wait_for(&pgvane, "pgvane_node_role{cluster=\"main\",node=\"node2\",role=\"leader\"}", 1.0).await;
    assert_eq!(session.value("who").await, "node2");
}

#[tokio::test]
async fn silence_of_every_patroni_ends_no_session_and_only_readiness() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let (mut writing, mut reading) =
        (Session::through(pgvane.write_addr).await, Session::through(pgvane.read_addr).await);
    assert_eq!(pgvane.admin_get("/readyz").await.expect("is served").status, 200);

    cluster[0].patroni.closes().await;
    cluster[1].patroni.closes().await;
    let unready = || async {
        let answer = pgvane.admin_get("/readyz").await.map_err(|error| error.to_string())?;
        if answer.status == 503 { Ok(answer.body) } else { Err(answer.body) }
    };
    let why = wait::until("an unready pgvane", SOON, unready).await.unwrap_or_else(|error| panic!("{error}"));
    assert!(why.contains("no node of cluster \"main\" answers"), "{why}");

    assert_eq!(writing.value("who").await, "node1");
    assert_eq!(reading.value("who").await, "node2");
    assert_eq!(metrics::value(&pgvane, HAS_LEADER).await, 1.0, "the leader's last word still counts");
    assert_eq!(Session::through(pgvane.write_addr).await.value("who").await, "node1");
    assert_eq!(pgvane.admin_get("/healthz").await.expect("is served").status, 200, "it is alive all the same");
}

// ---- read listeners -------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_replica_without_a_free_connection_is_passed_over() {
    let cluster = FakeCluster::of(3).await;
    cluster[1].postgres.usually(TOO_MANY_CLIENTS);
    let pgvane = cluster.pgvane(|pgvane| pgvane.read_listener("balance = \"round-robin\"")).await;
    for _ in 0..6 {
        assert_eq!(Session::through(pgvane.read_addr).await.value("who").await, "node3");
    }
    assert!(!cluster[1].postgres.seen().startups.is_empty(), "node2 had its turn");
}

#[tokio::test]
async fn if_no_replica_has_a_free_connection_the_client_gets_the_servers_own_error() {
    let cluster = FakeCluster::of(2).await;
    cluster[1].postgres.usually(TOO_MANY_CLIENTS);
    let pgvane = cluster.pgvane(|pgvane| pgvane.read_listener("fallback = \"none\"").hold_max("300ms")).await;
    let mut client = Wire::to(pgvane.read_addr).await;
    client.send(&plain_startup()).await;
    let end = client.fatal().await;
    assert_eq!(end.sqlstate().as_deref(), Some("53300"));
    assert_eq!(end.field(b'M').as_deref(), Some(TOO_MANY_CLIENTS_TEXT));
}

#[tokio::test]
async fn on_the_write_port_a_full_leader_says_so_at_once() {
    let cluster = FakeCluster::of(1).await;
    cluster[0].postgres.usually(TOO_MANY_CLIENTS);
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let mut client = Wire::to(pgvane.write_addr).await;
    client.send(&plain_startup()).await;
    assert_eq!(client.fatal().await.sqlstate().as_deref(), Some("53300"));
    assert_eq!(cluster[0].postgres.seen().startups.len(), 1, "there is nowhere else to try");
}

// ---- encryption -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_client_whose_request_for_encryption_is_refused_continues_in_plaintext() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let mut client = Wire::to(pgvane.write_addr).await;
    client.send(&gss_request()).await;
    assert_eq!(client.bytes(1).await, b"N");
    client.send(&ssl_request()).await;
    assert_eq!(client.bytes(1).await, b"N");
    assert_eq!(client.log_in(&plain_startup()).await.value("who").await, "node1");
    let seen = cluster[0].postgres.seen();
    assert_eq!(
        (seen.connections, seen.startups.as_slice()),
        (1, [plain_startup()].as_slice()),
        "all on one connection"
    );
}

#[tokio::test]
async fn after_an_agreed_encryption_every_byte_passes_both_ways_unchanged() {
    let cluster = FakeCluster::of(1).await;
    cluster[0].postgres.usually(Behaviour::EchoesInsteadOfTls);
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let mut client = Wire::to(pgvane.write_addr).await;
    client.send(&ssl_request()).await;
    assert_eq!(client.bytes(1).await, b"S");
    every_byte_comes_back(client, &noise(300_000)).await;
}

#[tokio::test]
async fn tls_begun_without_asking_passes_both_ways_unchanged() {
    let cluster = FakeCluster::of(1).await;
    cluster[0].postgres.usually(Behaviour::EchoesInsteadOfTls);
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let client = Wire::to(pgvane.write_addr).await;
    let hello = [&[0x16, 3, 1, 2, 0], noise(300_000).as_slice()].concat();
    every_byte_comes_back(client, &hello).await;
}

#[tokio::test]
async fn while_the_leader_cannot_be_reached_an_encrypted_client_waits() {
    let cluster = FakeCluster::of(1).await;
    cluster[0].postgres.usually(Behaviour::EchoesInsteadOfTls);
    cluster[0].postgres.next(&[Behaviour::ClosesAtOnce, Behaviour::ClosesAtOnce]);
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let mut client = Wire::to(pgvane.write_addr).await;
    client.send(&ssl_request()).await;
    assert_eq!(client.bytes(1).await, b"S");
    every_byte_comes_back(client, &noise(1000)).await;
}

#[tokio::test]
async fn a_client_that_asked_for_encryption_first_can_read_why_it_is_refused() {
    let cluster = FakeCluster::of(1).await;
    cluster[0].patroni.follows();
    let pgvane = cluster.pgvane(|pgvane| pgvane.hold_max("100ms")).await;
    let mut client = Wire::to(pgvane.write_addr).await;
    client.send(&ssl_request()).await;
    assert_eq!(client.bytes(1).await, b"N", "an error right here would not be shown to the user");
    client.send(&plain_startup()).await;
    assert_eq!(client.fatal().await.sqlstate().as_deref(), Some("57P03"));
}

/// Sends in a few portions, half-closes, and reads until the end.
async fn every_byte_comes_back(mut client: Wire, sent: &[u8]) {
    let mut received = Vec::new();
    for portion in sent.chunks(70_000) {
        client.send(portion).await;
        received.extend(client.bytes(portion.len()).await);
    }
    client.finish_sending().await;
    received.extend(client.rest().await);
    assert!(received == sent, "{} bytes sent, {} came back or not the same", sent.len(), received.len());
}

/// Bytes without a pattern, the same in every run.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..count).map(|_| next()).collect()
}

// ---- limits ---------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn no_more_connections_wait_than_may() {
    let cluster = FakeCluster::of(1).await;
    cluster[0].patroni.follows();
    let pgvane = cluster.pgvane(|pgvane| pgvane.write_listener("hold_sessions_max = 2")).await;
    let waiting =
        [tokio::spawn(Session::through(pgvane.write_addr)), tokio::spawn(Session::through(pgvane.write_addr))];
    metrics::wait_for(&pgvane, HELD, 2.0).await;

    let mut one_too_many = Wire::to(pgvane.write_addr).await;
    one_too_many.send(&plain_startup()).await;
    let end = one_too_many.fatal().await;
    assert_eq!(end.sqlstate().as_deref(), Some("57P03"));
    assert!(end.field(b'M').is_some_and(|text| text.contains("has reached hold_sessions_max (2)")), "{end:?}");
    metrics::wait_for_ends(&pgvane, "write", "hold-full", 1).await;

    cluster[0].patroni.leads(1);
    for client in waiting {
        client.await.expect("those that waited are served");
    }
}

#[tokio::test]
async fn no_more_sessions_are_carried_than_may_and_a_free_place_is_given_again() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.write_listener("sessions_max = 1")).await;
    let first = Session::through(pgvane.write_addr).await;

    let mut second = Wire::to(pgvane.write_addr).await;
    second.send(&plain_startup()).await;
    let end = second.fatal().await;
    assert_eq!(end.sqlstate().as_deref(), Some("53300"));
    assert!(end.field(b'M').is_some_and(|text| text.contains("has reached sessions_max (1)")), "{end:?}");

    let mut canceller = Wire::to(pgvane.write_addr).await;
    canceller.send(&cancel_request(&first.key)).await;
    canceller.rest().await;
    assert_eq!(cluster[0].postgres.seen().cancels.len(), 1, "a full port still cancels");

    drop(first);
    metrics::wait_for(&pgvane, SESSIONS, 0.0).await;
    Session::through(pgvane.write_addr).await;
}

// ---- clients that are none ------------------------------------------------------------------------------------------

#[tokio::test]
async fn openings_that_are_none_end_their_own_connection_and_are_counted() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.write_listener("startup_timeout = \"300ms\"")).await;
    let mut bystander = Session::through(pgvane.write_addr).await;

    for not_postgres in [b"GET / HTTP/1.1\r\nHost: db\r\n\r\n".to_vec(), noise(64), startup(2 << 16, &[])] {
        let mut client = Wire::to(pgvane.write_addr).await;
        client.send(&not_postgres).await;
        match not_postgres.len() {
            9 => assert_eq!(client.fatal().await.sqlstate().as_deref(), Some("0A000"), "an old version is told"),
            _ => assert_eq!(client.rest().await, b"", "as PostgreSQL does it"),
        }
    }
    metrics::wait_for_ends(&pgvane, "write", "not-postgres", 3).await;

    let mut truncated = Wire::to(pgvane.write_addr).await;
    truncated.send(&plain_startup()[..10]).await;
    truncated.finish_sending().await;
    assert_eq!(truncated.rest().await, b"");
    metrics::wait_for_ends(&pgvane, "write", "client-left-early", 1).await;

    let mut slow = Wire::to(pgvane.write_addr).await;
    slow.send(&plain_startup()[..10]).await;
    assert_eq!(slow.rest().await, b"", "nobody waits for it for ever");
    metrics::wait_for_ends(&pgvane, "write", "startup-timed-out", 1).await;

    assert_eq!(bystander.value("who").await, "node1", "the others notice nothing");
    assert_eq!(cluster[0].postgres.seen().startups.len(), 1, "and neither does the server");
}

#[tokio::test]
async fn an_opening_in_single_bytes_is_an_opening() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let mut client = Wire::to(pgvane.write_addr).await;
    let packet = plain_startup();
    for byte in &packet[..packet.len() - 1] {
        client.send(&[*byte]).await;
    }
    assert_eq!(client.log_in(&packet[packet.len() - 1..]).await.value("who").await, "node1");
}

// ---- the ends of a session ------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_client_that_has_finished_sending_still_gets_the_whole_answer() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let mut session = Session::through(pgvane.write_addr).await;
    session.wire.send(&query("long")).await;
    session.wire.finish_sending().await;
    let answer = session.wire.messages_until(b'Z').await;
    let kinds: Vec<u8> = answer.iter().map(|message| message.kind).collect();
    assert_eq!(kinds, b"DCZ");
    assert_eq!(answer[0].body.len(), LONG_ANSWER + 6);
    metrics::wait_for_ends(&pgvane, "write", "client-closed", 1).await;
}

#[tokio::test]
async fn a_client_that_leaves_while_it_is_held_gives_its_place_back() {
    let cluster = FakeCluster::of(1).await;
    cluster[0].patroni.follows();
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let mut client = Wire::to(pgvane.write_addr).await;
    client.send(&plain_startup()).await;
    metrics::wait_for(&pgvane, HELD, 1.0).await;
    drop(client);
    metrics::wait_for(&pgvane, HELD, 0.0).await;
    metrics::wait_for_ends(&pgvane, "write", "client-left-held", 1).await;
}

#[tokio::test]
async fn a_client_that_is_held_when_pgvane_stops_gets_the_reason() {
    let cluster = FakeCluster::of(1).await;
    cluster[0].patroni.follows();
    let mut pgvane = cluster.pgvane(|pgvane| pgvane.hold_max("30s").top("drain_timeout = \"200ms\"")).await;
    let mut client = Wire::to(pgvane.write_addr).await;
    client.send(&plain_startup()).await;
    metrics::wait_for(&pgvane, HELD, 1.0).await;

    pgvane.terminate().expect("it runs");
    let end = client.fatal().await;
    assert!(matches!(end.sqlstate().as_deref(), Some("57P01" | "57P03")), "{end:?}");
    assert!(pgvane.wait(SOON).await.expect("it ends").success());
}

#[tokio::test]
async fn a_second_signal_ends_the_wait_for_sessions() {
    let cluster = FakeCluster::of(1).await;
    let mut pgvane = cluster.pgvane(|pgvane| pgvane.top("drain_timeout = \"1h\"")).await;
    let mut session = Session::through(pgvane.write_addr).await;
    pgvane.terminate().expect("it runs");
    pgvane.wait_for_log("draining", 0, SOON).await.expect("it says that it waits");
    assert_eq!(session.value("who").await, "node1", "the session goes on");
    pgvane.terminate().expect("it runs");
    assert_eq!(session.wire.fatal().await.sqlstate().as_deref(), Some("57P01"));
    assert!(pgvane.wait(SOON).await.expect("it ends").success());
}

#[tokio::test]
async fn a_server_that_closes_is_given_as_the_reason() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let mut session = Session::through(pgvane.write_addr).await;
    session.wire.send(&query("close")).await;
    let end = session.wire.fatal().await;
    assert_eq!(end.sqlstate().as_deref(), Some("08006"));
    assert!(end.field(b'M').is_some_and(|text| text.starts_with("pgvane:")), "whose words these are: {end:?}");
    metrics::wait_for_ends(&pgvane, "write", "server-closed", 1).await;
}
