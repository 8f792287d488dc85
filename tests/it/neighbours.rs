//! Before neighbours and strangers that behave as they do in the field: poolers, frozen and restarted Patronis, clients that
//! cause errors at will, servers that are lost in the middle of a login, logs that cannot be written.

use std::fs::File;
use std::time::{Duration, Instant};

use pgvane_loadtest::bench::usage;
use pgvane_loadtest::wait;
use serde_json::json;

use crate::fake::{FakeCluster, LONG_ANSWER, MANY_ROWS, Manner};
use crate::metrics;
use crate::wire::{SOON, Session, Wire, message, plain_startup};

const CHECKS: &str = "pgvane_checks_total{cluster=\"main\",outcome=\"answered\"}";
const HELD: &str = "pgvane_sessions_held{listener=\"write\"}";

/// The answer to `AuthenticationSASL`, longer than a small read.
fn proof() -> Vec<u8> {
    let first = b"SCRAM-SHA-256\0\0\0\0\x40n,,n=,r=abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz01234567";
    message(b'p', first)
}

// ---- suspicions -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_client_that_causes_suspicions_at_will_keeps_no_new_writer_waiting_though_patroni_is_frozen() {
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
async fn a_stranger_that_speaks_tls_to_a_server_without_is_no_suspicion() {
    let cluster = FakeCluster::of(1).await.rarely_checked();
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let checks = metrics::value(&pgvane, CHECKS).await;
    cluster[0].postgres.next(&[Manner::HangsUp; 5]);
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
async fn a_leader_that_patroni_could_not_query_goes_on_leading() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    cluster[0].patroni.says(200, json!({"role": "primary", "state": "unknown", "timeline": null}));
    let checks = metrics::value(&pgvane, CHECKS).await;
    metrics::wait_for_more(&pgvane, CHECKS, checks + 4.0).await;
    assert_eq!(Session::through(pgvane.write_addr).await.value("who").await, "node1");
}

#[tokio::test]
async fn a_cluster_that_is_made_again_is_followed_leader_first() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.hold_max("15s")).await;
    Session::through(pgvane.write_addr).await;
    let log = pgvane.log_text().len();
    cluster[1].patroni.leaves();
    cluster[0].patroni.says(200, json!({"role": "primary", "database_system_identifier": "7999999999999999999"}));
    pgvane.wait_for_log("another system identifier than before", log, SOON).await.expect("is told");
    assert_eq!(Session::through(pgvane.write_addr).await.value("who").await, "node1");
}

#[tokio::test]
async fn nodes_with_each_others_patroni_are_told_and_get_no_writes() {
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
    cluster[0].postgres.usually(Manner::ReadsWholeMessages);
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    for _ in 0..20 {
        let mut client = Wire::to(pgvane.write_addr).await;
        client.send(&plain_startup()).await;
        client.message().await.expect("the server wants a proof");
        assert_eq!(client.log_in(&proof()).await.value("who").await, "node1");
    }
}

#[tokio::test]
async fn a_login_goes_on_at_another_node_after_the_first_answer_of_the_client() {
    let cluster = FakeCluster::of(3).await;
    for node in [1, 2] {
        cluster[node].postgres.usually(Manner::Challenges);
        cluster[node].postgres.next(&[Manner::VanishesAfterProof]);
    }
    let pgvane = cluster.pgvane(|pgvane| pgvane.read_listener("fallback = \"none\"")).await;
    let mut client = Wire::to(pgvane.read_addr).await;
    client.send(&plain_startup()).await;
    client.message().await.expect("the server wants a proof");
    let mut session = client.log_in(&proof()).await;
    assert!(session.value("who").await.starts_with("node"), "both failed it once");
    let proofs: Vec<Vec<u8>> = [1, 2].into_iter().flat_map(|node| cluster[node].postgres.seen().proofs).collect();
    assert_eq!(proofs.len(), 3, "it was sent to each of them, and to one again");
    assert!(proofs.iter().all(|seen| *seen == proof()[5..]), "byte for byte");
}

#[tokio::test]
async fn a_login_on_a_node_that_froze_ends_when_another_leads() {
    let cluster = FakeCluster::of(2).await;
    cluster[0].postgres.usually(Manner::FreezesAfterProof);
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let mut client = Wire::to(pgvane.write_addr).await;
    client.send(&plain_startup()).await;
    client.message().await.expect("the server wants a proof");
    cluster[1].postgres.usually(Manner::Challenges);
    client.send(&proof()).await;
    cluster.switch_over(0, 1);
    let mut session = client.log_in(b"").await;
    assert_eq!(session.value("who").await, "node2", "the same question was answered already");
}

#[tokio::test]
async fn a_replica_that_froze_costs_a_reader_two_seconds_and_the_next_one_nothing() {
    let cluster = FakeCluster::of(3).await;
    cluster[1].postgres.usually(Manner::KeepsSilent);
    let pgvane = cluster.pgvane(|pgvane| pgvane.read_listener("balance = \"round-robin\"")).await;
    for _ in 0..3 {
        let came = Instant::now();
        assert_eq!(Session::through(pgvane.read_addr).await.value("who").await, "node3");
        assert!(came.elapsed() < Duration::from_secs(4), "{:?}", came.elapsed());
    }
}

#[tokio::test]
async fn a_server_that_is_never_ready_and_never_silent_costs_a_bounded_memory() {
    let cluster = FakeCluster::of(1).await;
    cluster[0].postgres.usually(Manner::Babbles);
    let pgvane = cluster.pgvane(|pgvane| pgvane.hold_max("1s")).await;
    let mut client = Wire::to(pgvane.write_addr).await;
    client.send(&plain_startup()).await;
    let end = client.fatal().await;
    assert!(end.field(b'D').is_some_and(|why| why.contains("was not ready")), "{end:?}");
    let resident = usage::resident_bytes(pgvane.process_id()).expect("it runs");
    assert!(resident < 100_000_000, "{resident} bytes");
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

// ---- strangers ------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn who_is_no_client_is_closed_on_without_a_word() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let short_cancel = [&9u32.to_be_bytes()[..], &80_877_102u32.to_be_bytes(), b"x"].concat();
    for says in [&b"X\0\0\0\x04"[..], b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\x04", &short_cancel] {
        let mut stranger = Wire::to(pgvane.write_addr).await;
        stranger.send(says).await;
        assert_eq!(stranger.rest().await, b"", "{}", says.escape_ascii());
    }
    metrics::wait_for_ends(&pgvane, "write", "client-left-early", 1).await;
    let mut nobody = Wire::to(pgvane.write_addr).await;
    nobody.send(&[&9u32.to_be_bytes()[..], &196_608u32.to_be_bytes(), b"\0"].concat()).await;
    let end = nobody.fatal().await;
    assert_eq!(end.sqlstate().as_deref(), Some("28000"), "{end:?}");
}

#[tokio::test]
async fn a_closed_port_of_the_leaders_postgresql_is_told_to_operators() {
    let mut cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.hold_max("300ms")).await;
    const REACHABLE: &str = "pgvane_node_reachable{cluster=\"main\",node=\"node1\"}";
    metrics::wait_for(&pgvane, REACHABLE, 1.0).await;
    cluster.postgres_of(0).closes();
    for _ in 0..3 {
        let mut client = Wire::to(pgvane.write_addr).await;
        client.send(&plain_startup()).await;
        client.fatal().await;
    }
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
async fn a_client_that_does_not_read_for_longer_than_every_timeout_goes_on_afterwards() {
    let cluster = FakeCluster::of(1).await;
    let limits = "tcp_keepalive = \"1s\"\ntcp_user_timeout = \"31s\"";
    let pgvane = cluster.pgvane(|pgvane| pgvane.write_listener(limits)).await;
    let mut pager = Session::through(pgvane.write_addr).await;
    pager.wire.send(&crate::wire::query("many")).await;
    // how long it does not read is the very fault here: there is no condition to wait for
    tokio::time::sleep(Duration::from_secs(45)).await;
    let answer = pager.wire.messages_until(b'Z').await;
    assert_eq!(answer.iter().map(|message| message.body.len()).sum::<usize>() / LONG_ANSWER, MANY_ROWS);
    assert_eq!(pager.value("who").await, "node1");
}

// ---- the log --------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_log_that_cannot_be_written_blinds_nobody() {
    let cluster = FakeCluster::of(2).await;
    let full = File::options().write(true).open("/dev/full").expect("every Linux has it");
    let (_reader, pipe) = rustix::pipe::pipe().expect("a pipe");
    for (error_output, is_refused) in [(full, true), (File::from(pipe), false)] {
        let pgvane = cluster.spawn_pgvane(|pgvane| pgvane.env("PGVANE_LOG", "trace").log_to(error_output));
        let pgvane = pgvane.wait_until_ready(SOON).await.expect("is ready");
        assert_eq!(Session::through(pgvane.write_addr).await.value("who").await, "node1");
        // more than a pipe holds
        for _ in 0..300 {
            Session::through(pgvane.read_addr).await;
        }
        cluster.switch_over(0, 1);
        assert_eq!(Session::through(pgvane.write_addr).await.value("who").await, "node2");
        if is_refused {
            metrics::wait_for_more(&pgvane, "pgvane_log_lines_lost_total", 0.0).await;
        }
        cluster.switch_over(1, 0);
        metrics::wait_for(&pgvane, "pgvane_node_role{cluster=\"main\",node=\"node1\",role=\"leader\"}", 1.0).await;
    }
}

// ---- the admin port -------------------------------------------------------------------------------------------------

#[tokio::test]
async fn connections_to_the_stats_page_that_say_nothing_stop_neither_it_nor_the_checks() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let mut silent = Vec::new();
    for _ in 0..1000 {
        silent.push(tokio::net::TcpStream::connect(pgvane.admin_addr).await.expect("is accepted"));
    }
    // the oldest of the silent ones is closed for it, once that has had a second
    let served = wait::until("the stats page", SOON, || async {
        let answer = pgvane.admin_get("/readyz").await.map_err(|error| error.to_string())?;
        if answer.status == 200 { Ok(()) } else { Err(answer.body) }
    });
    served.await.expect("is served");
    cluster.switch_over(0, 1);
    assert_eq!(Session::through(pgvane.write_addr).await.value("who").await, "node2");
    let mut first = silent.swap_remove(0);
    let mut byte = [0];
    let closed = tokio::io::AsyncReadExt::read(&mut first, &mut byte);
    assert!(matches!(tokio::time::timeout(SOON, closed).await, Ok(Ok(0) | Err(_))), "it is not kept for ever");
}

#[tokio::test]
async fn the_stats_page_answers_as_health_checks_ask_and_tells_browsers_what_it_is() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    for (method, path) in [("OPTIONS", "/readyz"), ("HEAD", "/readyz"), ("GET", "/readyz/"), ("GET", "/stats/")] {
        let mut client = Wire::to(pgvane.admin_addr).await;
        client.send(format!("{method} {path} HTTP/1.0\r\nHost: x\r\n\r\n").as_bytes()).await;
        let answer = String::from_utf8_lossy(&client.rest().await).into_owned();
        assert!(answer.starts_with("HTTP/1.0 200"), "{method} {path}: {answer}");
        assert!(answer.contains("frame-ancestors 'none'") && answer.contains("nosniff"), "{answer}");
    }
}

#[tokio::test]
async fn a_page_for_users_only_is_for_users_only_and_guessing_is_slow() {
    let cluster = FakeCluster::of(1).await;
    let users = "require_login = true\nusers = [{ name = \"ops\", password = \"open sesame\" }]";
    let pgvane = cluster.pgvane(|pgvane| pgvane.admin(users)).await;
    let ask = async |path: &str, credentials: &str| {
        let mut client = Wire::to(pgvane.admin_addr).await;
        let line =
            if credentials.is_empty() { String::new() } else { format!("Authorization: Basic {credentials}\r\n") };
        client.send(format!("GET {path} HTTP/1.0\r\n{line}\r\n").as_bytes()).await;
        String::from_utf8_lossy(&client.rest().await).into_owned()
    };
    for path in ["/", "/stats", "/api/status", "/api/events"] {
        assert!(ask(path, "").await.starts_with("HTTP/1.0 401"), "{path}");
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert!(ask(path, "").await.starts_with("HTTP/1.0 200"), "{path}");
    }
    assert!(ask("/", "b3BzOm9wZW4gc2VzYW1l").await.starts_with("HTTP/1.0 200"), "ops:open sesame");
    for _ in 0..5 {
        assert!(ask("/", "b3BzOndyb25n").await.starts_with("HTTP/1.0 401"), "ops:wrong");
    }
    assert!(ask("/", "b3BzOndyb25n").await.starts_with("HTTP/1.0 429"), "not even looked at");
    let told = pgvane.log_text().matches("wrong name or password").count();
    assert_eq!(told, 2, "the first one, and that it is too many: {}", pgvane.log_text());
}

#[tokio::test]
async fn without_descriptors_for_another_session_it_is_refused_and_the_checks_go_on() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.descriptors_max(256)).await;
    let mut sessions = Vec::new();
    let refused = loop {
        let mut client = Wire::to(pgvane.write_addr).await;
        client.send(&plain_startup()).await;
        let first = client.message().await.expect("an answer");
        if first.kind == b'E' {
            break first;
        }
        sessions.push(client);
    };
    assert_eq!(refused.sqlstate().as_deref(), Some("53300"), "{refused:?}");
    assert!((20..=60).contains(&sessions.len()), "{} sessions", sessions.len());
    cluster.switch_over(0, 1);
    metrics::wait_for(&pgvane, "pgvane_node_role{cluster=\"main\",node=\"node2\",role=\"leader\"}", 1.0).await;
    drop(sessions);
    assert_eq!(Session::through(pgvane.write_addr).await.value("who").await, "node2");
}

// ---- strangers in numbers -------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_client_that_has_gone_keeps_no_place_though_it_sent_a_byte_too_many() {
    let cluster = FakeCluster::of(1).await;
    cluster[0].patroni.follows();
    let pgvane = cluster.spawn_pgvane(|pgvane| pgvane.hold_max("60s"));
    let pgvane = pgvane.wait_until_ready(SOON).await.expect("is ready");
    let mut clients = Vec::new();
    for _ in 0..50 {
        let mut client = Wire::to(pgvane.write_addr).await;
        client.send(&[&plain_startup()[..], b"x"].concat()).await;
        clients.push(client);
    }
    metrics::wait_for(&pgvane, HELD, 50.0).await;
    drop(clients);
    metrics::wait_for(&pgvane, HELD, 0.0).await;
    metrics::wait_for_ends(&pgvane, "write", "client-left-held", 50).await;
}

#[tokio::test]
async fn refusals_in_numbers_fill_no_log() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.write_listener("users = [\"app\"]")).await;
    let log = pgvane.log_text().len();
    let name = "x".repeat(9000);
    let parameters = ["user\0".as_bytes(), name.as_bytes(), b"\0\0"].concat();
    let length = u32::try_from(parameters.len() + 8).expect("is short");
    let startup = [&length.to_be_bytes()[..], &196_608u32.to_be_bytes(), &parameters].concat();
    for _ in 0..100 {
        let mut stranger = Wire::to(pgvane.write_addr).await;
        stranger.send(&startup).await;
        assert_eq!(stranger.fatal().await.sqlstate().as_deref(), Some("28000"));
    }
    metrics::wait_for_ends(&pgvane, "write", "user-not-allowed", 100).await;
    let written = pgvane.log_text().len() - log;
    assert!((1_000..20_000).contains(&written), "{written} bytes for a hundred refusals of nine kilobytes each");
}

#[tokio::test]
async fn strangers_in_numbers_turn_no_honest_client_away() {
    let cluster = FakeCluster::of(1).await;
    let pgvane =
        cluster.pgvane(|pgvane| pgvane.write_listener("allow = [\"127.0.0.1\"]\npending_connections_max = 20")).await;
    let mut strangers = Vec::new();
    for _ in 0..200 {
        strangers.push(Wire::from("127.9.9.9".parse().expect("an address"), pgvane.write_addr).await.0);
    }
    for _ in 0..20 {
        assert_eq!(Session::through(pgvane.write_addr).await.value("who").await, "node1");
    }
}
