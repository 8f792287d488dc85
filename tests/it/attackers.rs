//! Before strangers in numbers, servers and members that lie, and descriptors that run out.

use std::time::Duration;

use pgvane_loadtest::bench::usage;
use pgvane_loadtest::fake::Behaviour;
use pgvane_loadtest::messages::{PROTOCOL_3_0, startup};
use pgvane_loadtest::wait;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::fake::FakeCluster;
use crate::metrics;
use crate::wire::{SOON, Session, Wire, plain_startup};

const HELD: &str = "pgvane_sessions_held{listener=\"write\"}";

// ---- strangers ------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_connection_that_is_not_postgresql_is_closed_without_a_message() {
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
async fn a_server_that_sends_without_end_and_is_never_ready_uses_limited_memory() {
    let cluster = FakeCluster::of(1).await;
    cluster[0].postgres.usually(Behaviour::SendsNoticesForever);
    let pgvane = cluster.pgvane(|pgvane| pgvane.hold_max("1s")).await;
    let mut client = Wire::to(pgvane.write_addr).await;
    client.send(&plain_startup()).await;
    let end = client.fatal().await;
    let resident = usage::resident_bytes_max(pgvane.process_id()).expect("it runs");
    assert!(resident < 100_000_000, "{resident} bytes");
    assert!(end.field(b'D').is_some_and(|why| why.contains("before the session was ready")), "{end:?}");
}

/// PostgreSQL reads the list from its beginning, and a `database` that came before a `true` still counts.
#[tokio::test]
async fn a_startup_packet_that_asks_for_replication_twice_opens_no_database_that_is_not_allowed() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.write_listener("databases = [\"replication\"]")).await;
    for values in [["database", "true"], ["true", "database"], ["database", "database"], ["database", "off"]] {
        let [first, second] = values.map(|value| ("replication", value));
        let mut stranger = Wire::to(pgvane.write_addr).await;
        stranger.send(&startup(PROTOCOL_3_0, &[("user", "app"), first, ("database", "vault"), second])).await;
        let end = stranger.message().await.expect("an answer");
        assert_eq!(end.sqlstate().as_deref(), Some("28000"), "{values:?}: {end:?}");
    }
    assert!(cluster[0].postgres.seen().startups.is_empty(), "no server has seen it");
}

#[tokio::test]
async fn a_server_that_asks_for_the_password_of_the_checks_in_plaintext_or_as_md5_does_not_get_it() {
    for md5 in [false, true] {
        let cluster = FakeCluster::of(1).await;
        cluster[0].postgres.usually(Behaviour::AsksForPassword { md5 });
        let sql = "check = \"sql\"\n[cluster.sql]\nuser = \"pgvane\"\npassword = \"open sesame\"";
        let _pgvane = cluster.spawn_pgvane(|pgvane| pgvane.cluster(sql));
        let ended = wait::until("the end of a login", SOON, || async {
            let ended = cluster[0].postgres.seen().ended;
            // the first may be the question for TLS
            if ended >= 1 { Ok(()) } else { Err(format!("{ended} have ended")) }
        });
        ended.await.unwrap_or_else(|error| panic!("{error}"));
        let seen = cluster[0].postgres.seen();
        assert!(!seen.startups.is_empty(), "it has logged in");
        assert!(seen.passwords.is_empty(), "md5 {md5}: it was sent {:?}", String::from_utf8_lossy(&seen.passwords[0]));
    }
}

// ---- the admin port -------------------------------------------------------------------------------------------------

#[tokio::test]
async fn connections_to_the_stats_page_that_say_nothing_stop_neither_it_nor_the_checks() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.descriptors_max(300)).await;
    let mut silent = Vec::new();
    for _ in 0..400 {
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
async fn while_no_descriptor_is_left_the_log_gets_some_lines_and_clients_wait() {
    const DESCRIPTORS_MAX: u32 = 300;
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.descriptors_max(DESCRIPTORS_MAX)).await;
    let limit_to = |current: u32| {
        let process = i32::try_from(pgvane.process_id()).ok().and_then(Pid::from_raw);
        let limits = Rlimit { current: Some(current.into()), maximum: Some(DESCRIPTORS_MAX.into()) };
        prlimit(process, Resource::Nofile, limits).expect("is our child");
    };
    limit_to(0);
    let (writer, admin) = (tokio::spawn(Session::through(pgvane.write_addr)), pgvane.admin_get("/readyz"));
    let exhausted = tokio::time::sleep(Duration::from_secs(3)); // accepting is tried ten times a second
    tokio::join!(exhausted, async { drop(admin.await) });
    limit_to(DESCRIPTORS_MAX);
    assert_eq!(writer.await.expect("is served").value("who").await, "node1");
    for text in [" cannot accept a connection listener", "the stats page cannot accept a connection"] {
        let lines = pgvane.log_text().matches(text).count();
        assert!((1..=4).contains(&lines), "{lines} lines with {text:?}");
    }
}

#[tokio::test]
async fn the_stats_page_answers_as_health_checks_ask_and_tells_browsers_what_it_is() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    for (method, path) in [("OPTIONS", "/readyz"), ("HEAD", "/readyz"), ("GET", "/readyz/"), ("GET", "/stats/")] {
        let mut client = Wire::to(pgvane.admin_addr).await;
        client.send(format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes()).await;
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

/// A byte that pgvane has not read must not hide that the client has closed.
#[tokio::test]
async fn a_client_that_has_closed_keeps_no_place_although_it_sent_one_byte_too_many() {
    let cluster = FakeCluster::of(1).await;
    cluster[0].patroni.follows();
    let pgvane = cluster.spawn_pgvane(|pgvane| pgvane.hold_max("60s"));
    let pgvane = pgvane.wait_until_ready(SOON).await.expect("is ready");
    for is_late in [false, true] {
        let mut clients = Vec::new();
        for _ in 0..50 {
            let mut client = Wire::to(pgvane.write_addr).await;
            let too_many: &[u8] = if is_late { b"" } else { b"x" };
            client.send(&[&plain_startup()[..], too_many].concat()).await;
            clients.push(client);
        }
        metrics::wait_for(&pgvane, HELD, 50.0).await;
        for client in clients.iter_mut().filter(|_| is_late) {
            client.send(b"x").await;
        }
        drop(clients);
        metrics::wait_for(&pgvane, HELD, 0.0).await;
    }
    metrics::wait_for_ends(&pgvane, "write", "client-left-held", 100).await;
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
async fn many_clients_that_are_not_allowed_do_not_keep_an_allowed_one_from_connecting() {
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
