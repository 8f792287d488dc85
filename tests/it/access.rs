//! Who is let in, and who a client is: networks, users and databases, limits, PROXY headers, Unix sockets.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use pgvane_loadtest::fake::{Behaviour, STARTING_UP};
use pgvane_loadtest::messages::{PROTOCOL_3_0, PROTOCOL_3_2, cancel_request, gss_request, ssl_request, startup};
use pgvane_loadtest::pgvane::Pgvane;
use pgvane_loadtest::process::Process;
use pgvane_loadtest::{ports, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fake::FakeCluster;
use crate::metrics;
use crate::wire::{Message, SOON, Session, Wire, plain_startup};

/// Other hosts, as far as pgvane can tell: all of 127.0.0.0/8 is this host's.
const FRIEND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 7);
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 9, 9, 9);

const SESSIONS: &str = "pgvane_sessions{listener=\"write\"}";
const OPENINGS_FULL: &str = "pgvane_session_ends_total{listener=\"write\",reason=\"pending-full\"}";
const OPENINGS: &str = "pgvane_connections_pending{listener=\"write\"}";

async fn wire_from(client: Ipv4Addr, pgvane: &Pgvane) -> Wire {
    Wire::from(client, pgvane.write_addr).await.0
}

/// The error that a client is told that says this.
async fn told(mut client: Wire, opening: &[u8]) -> Message {
    client.send(opening).await;
    client.fatal().await
}

fn says(end: &Message, sqlstate: &str, words: &str) {
    assert_eq!(end.sqlstate().as_deref(), Some(sqlstate), "{end:?}");
    assert!(end.field(b'M').is_some_and(|text| text.contains(words)), "{words:?} is not in {end:?}");
    assert!(end.field(b'H').is_some(), "there is no hint in {end:?}");
}

/// A PROXY header of version 2 for a client at 192.0.2.x.
fn header_v2(host: u8) -> Vec<u8> {
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02", &[host][..], b"\x0a\0\0\x01\x30\x39\x19\x20"].concat()
}

const HEADER_V1: &[u8] = b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 6432\r\n";
const HEADER_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

// ---- by address -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn addresses_that_are_not_allowed_get_an_error_and_their_cancel_requests_are_dropped() {
    let cluster = FakeCluster::of(1).await;
    let allowed = "allow = [\"127.0.0.0/24\", \"2001:db8::/32\"]";
    let pgvane = cluster.pgvane(|pgvane| pgvane.write_listener(allowed)).await;
    let friend = wire_from(FRIEND, &pgvane).await.log_in(&plain_startup()).await;

    let end = told(wire_from(STRANGER, &pgvane).await, &plain_startup()).await;
    says(&end, "28000", "does not allow connections from 127.9.9.9");
    // one that asks for encryption first cannot hear anything but yes or no
    let mut asking = wire_from(STRANGER, &pgvane).await;
    for request in [gss_request(), ssl_request()] {
        asking.send(&request).await;
        assert_eq!(asking.bytes(1).await, b"N");
    }
    says(&told(asking, &plain_startup()).await, "28000", "127.9.9.9");
    let mut canceller = wire_from(STRANGER, &pgvane).await;
    canceller.send(&cancel_request(&friend.key)).await;
    canceller.rest().await;
    metrics::wait_for_ends(&pgvane, "write", "address-not-allowed", 3).await;
    assert_eq!(cluster[0].postgres.seen().connections, 1, "nothing of it has reached the server");

    let mut canceller = wire_from(FRIEND, &pgvane).await;
    canceller.send(&cancel_request(&friend.key)).await;
    canceller.rest().await;
    assert_eq!(cluster[0].postgres.seen().cancels.len(), 1);
}

#[tokio::test]
async fn one_client_cannot_take_all_places() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.write_listener("sessions_max_per_client = 1")).await;
    let first = Session::through(pgvane.write_addr).await;
    says(
        &told(Wire::to(pgvane.write_addr).await, &plain_startup()).await,
        "53300",
        "127.0.0.1 has reached sessions_max_per_client (1)",
    );
    metrics::wait_for_ends(&pgvane, "write", "client-full", 1).await;
    wire_from(FRIEND, &pgvane).await.log_in(&plain_startup()).await;

    let mut canceller = Wire::to(pgvane.write_addr).await;
    canceller.send(&cancel_request(&first.key)).await;
    canceller.rest().await;
    assert_eq!(cluster[0].postgres.seen().cancels.len(), 1, "who has all its places can still cancel");

    drop(first);
    metrics::wait_for(&pgvane, SESSIONS, 0.0).await;
    Session::through(pgvane.write_addr).await;
}

// ---- by name --------------------------------------------------------------------------------------------------------

const NAMES: &str = "users = [\"trusting\"]\ndatabases = [\"app\", \"replication\"]";

#[tokio::test]
async fn users_and_databases_that_are_not_listed_are_refused() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.write_listener(NAMES)).await;
    let packet = |parameters: &[(&str, &str)]| startup(PROTOCOL_3_2, parameters);

    let end = told(Wire::to(pgvane.write_addr).await, &packet(&[("user", "root"), ("database", "app")])).await;
    says(&end, "28000", "does not allow user \"root\"");
    metrics::wait_for_ends(&pgvane, "write", "user-not-allowed", 1).await;
    let end = told(Wire::to(pgvane.write_addr).await, &packet(&[("user", "trusting"), ("database", "vault")])).await;
    says(&end, "28000", "does not allow database \"vault\"");
    metrics::wait_for_ends(&pgvane, "write", "database-not-allowed", 1).await;
    assert_eq!(cluster[0].postgres.seen().connections, 0, "the server has not been asked");

    Session::through(pgvane.write_addr).await;
    let wal = packet(&[("user", "trusting"), ("replication", "true")]);
    Wire::to(pgvane.write_addr).await.log_in(&wal).await;
}

/// After the server's no to encryption the client says in clear who it is.
#[tokio::test]
async fn names_are_looked_at_after_encryption_was_refused_too() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.write_listener(NAMES)).await;
    for (user, is_let_in) in [("trusting", true), ("root", false)] {
        let mut client = Wire::to(pgvane.write_addr).await;
        client.send(&ssl_request()).await;
        assert_eq!(client.bytes(1).await, b"N");
        let opening = startup(PROTOCOL_3_2, &[("user", user), ("database", "app")]);
        match is_let_in {
            true => drop(client.log_in(&opening).await),
            false => says(&told(client, &opening).await, "28000", "does not allow user \"root\""),
        }
    }
    assert_eq!(cluster[0].postgres.seen().startups.len(), 1);
}

#[tokio::test]
async fn encryption_that_would_hide_the_names_is_refused_with_a_reason() {
    let cluster = FakeCluster::of(1).await;
    cluster[0].postgres.usually(Behaviour::EchoesInsteadOfTls);
    let pgvane = cluster.pgvane(|pgvane| pgvane.write_listener(NAMES)).await;

    let mut client = Wire::to(pgvane.write_addr).await;
    client.send(&ssl_request()).await;
    assert_eq!(client.bytes(1).await, b"N", "though the server says yes");
    says(&told(client, &plain_startup()).await, "28000", "allows certain users or databases only");
    let mut direct = Wire::to(pgvane.write_addr).await;
    direct.send(&[0x16, 3, 1, 0, 200]).await;
    assert_eq!(direct.rest().await, b"", "that one cannot be told");
    metrics::wait_for_ends(&pgvane, "write", "names-hidden", 2).await;
    assert_eq!(cluster[0].postgres.seen().startups.len(), 0);
}

// ---- openings -------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn clients_that_send_nothing_take_no_places_from_others() {
    let cluster = FakeCluster::of(1).await;
    let limits = "sessions_max = 1\npending_connections_max = 3\nstartup_timeout = \"1h\"";
    let pgvane = cluster.pgvane(|pgvane| pgvane.write_listener(limits)).await;
    let mut silent = Vec::new();
    for count in [1.0, 2.0, 3.0] {
        let mut client = Wire::to(pgvane.write_addr).await;
        client.send(&plain_startup()[..5]).await;
        silent.push(client);
        metrics::wait_for(&pgvane, OPENINGS, count).await; // several threads accept: only now it is in its place
    }
    assert_eq!(metrics::value(&pgvane, SESSIONS).await, 0.0);

    // within the first second it is the newest that is turned away
    let served = wait::until("a place", SOON, || async {
        let mut client = TcpStream::connect(pgvane.write_addr).await.map_err(|error| error.to_string())?;
        client.write_all(&plain_startup()).await.map_err(|error| error.to_string())?;
        match client.read_u8().await {
            Ok(b'R') => Ok(client),
            other => Err(format!("{other:?}")),
        }
    });
    let served = served.await.expect("somebody gives way");
    assert_eq!(silent.remove(0).rest().await, b"", "the first one did");
    metrics::wait_for_more(&pgvane, OPENINGS_FULL, 0.0).await;

    // and a slow client is not a lost one
    drop(served);
    metrics::wait_for(&pgvane, SESSIONS, 0.0).await;
    let slow = silent.pop().expect("two are left");
    assert_eq!(slow.log_in(&plain_startup()[5..]).await.value("who").await, "node1");
}

#[tokio::test]
async fn a_client_with_many_silent_connections_does_not_delay_other_addresses() {
    let cluster = FakeCluster::of(1).await;
    let limits = "pending_connections_max = 20\nstartup_timeout = \"1h\"";
    let pgvane = cluster.pgvane(|pgvane| pgvane.write_listener(limits)).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        let mut client = Wire::to(pgvane.write_addr).await;
        client.send(&plain_startup()[..5]).await;
        silent.push(client);
    }
    metrics::wait_for(&pgvane, OPENINGS, 20.0).await;
    let started = Instant::now();
    for _ in 0..5 {
        let (client, _) = Wire::from(Ipv4Addr::new(127, 0, 0, 9), pgvane.write_addr).await;
        assert_eq!(client.log_in(&plain_startup()).await.value("who").await, "node1");
    }
    assert!(started.elapsed() < Duration::from_secs(1), "at once, not after {:?}", started.elapsed());
}

// ---- whom a proxy speaks for ----------------------------------------------------------------------------------------

const PROXIED: &str = "proxy_protocol = { trusted = [\"127.0.0.1\"] }";

async fn proxied(cluster: &FakeCluster, lines: &str) -> Pgvane {
    let (lines, top) = (lines.to_owned(), "log = { level = \"debug\" }");
    cluster.pgvane(|pgvane| pgvane.top(top).write_listener(PROXIED).write_listener(&lines)).await
}

#[tokio::test]
async fn the_client_is_the_one_that_a_trusted_proxy_names() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = proxied(&cluster, "allow = [\"192.0.2.0/29\"]\nsessions_max_per_client = 1").await;

    for header in [HEADER_V1, &header_v2(6)] {
        let opening = [header, &plain_startup()].concat();
        let mut session = Wire::to(pgvane.write_addr).await.log_in(&opening).await;
        assert_eq!(session.value("who").await, "node1");
        says(
            &told(Wire::to(pgvane.write_addr).await, &opening).await,
            "53300",
            "has reached sessions_max_per_client (1)",
        );
    }
    assert_eq!(
        cluster[0].postgres.seen().startups,
        [plain_startup(), plain_startup()],
        "none of it reaches the server"
    );
    for client in ["192.0.2.7:12345", "192.0.2.6:12345"] {
        let line = format!("session ended: the client closed the session listener=write peer={client}");
        pgvane.wait_for_log(&line, 0, SOON).await.expect("is logged under its own address");
    }
    let stranger = [&header_v2(200)[..], &plain_startup()].concat();
    says(
        &told(Wire::to(pgvane.write_addr).await, &stranger).await,
        "28000",
        "does not allow connections from 192.0.2.200",
    );
}

#[tokio::test]
async fn the_header_of_a_proxy_that_is_not_trusted_does_not_count() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = proxied(&cluster, "").await;
    let without = wire_from(FRIEND, &pgvane).await;
    drop(without.log_in(&plain_startup()).await);
    pgvane.wait_for_log("peer=127.0.0.7:", 0, SOON).await.expect("is logged");

    for header in [HEADER_V1, &header_v2(7)] {
        let opening = [header, &plain_startup()].concat();
        let end = told(wire_from(FRIEND, &pgvane).await, &opening).await;
        says(&end, "08P01", "received a PROXY protocol header from an address that is not trusted");
    }
    metrics::wait_for_ends(&pgvane, "write", "not-postgres", 2).await;
}

#[tokio::test]
async fn a_trusted_proxy_that_sends_no_header_gets_an_error() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = proxied(&cluster, "startup_timeout = \"300ms\"").await;
    for opening in [plain_startup(), startup(2 << 16, &[])] {
        let end = told(Wire::to(pgvane.write_addr).await, &opening).await;
        says(&end, "08P01", "a connection from 127.0.0.1 must start with a PROXY protocol header");
    }
    let mut broken = Wire::to(pgvane.write_addr).await;
    broken.send(b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 65536\r\n").await;
    assert_eq!(broken.rest().await, b"");
    metrics::wait_for_ends(&pgvane, "write", "proxy-header", 3).await;
    let mut half = Wire::to(pgvane.write_addr).await;
    half.send(&header_v2(7)[..20]).await;
    assert_eq!(half.rest().await, b"");
    metrics::wait_for_ends(&pgvane, "write", "startup-timed-out", 1).await;

    let speaks_for_itself = [HEADER_LOCAL, &plain_startup()].concat();
    drop(Wire::to(pgvane.write_addr).await.log_in(&speaks_for_itself).await);
    pgvane
        .wait_for_log("session ended: the client closed the session listener=write peer=127.0.0.1:", 0, SOON)
        .await
        .expect("is who it is");
}

#[tokio::test]
async fn a_header_may_be_left_out_where_that_is_said() {
    let cluster = FakeCluster::of(1).await;
    let lines = "proxy_protocol = { trusted = [\"127.0.0.1\"], required = false }";
    let pgvane = cluster.pgvane(|pgvane| pgvane.write_listener(lines)).await;
    assert_eq!(Session::through(pgvane.write_addr).await.value("who").await, "node1");
    let opening = [HEADER_V1, &plain_startup()].concat();
    assert_eq!(Wire::to(pgvane.write_addr).await.log_in(&opening).await.value("who").await, "node1");
}

/// The real thing, with both versions of the header, its own checks among the connections.
#[tokio::test]
async fn haproxy_says_who_its_clients_are() {
    let cluster = FakeCluster::of(1).await;
    let (file, listener) = on_file(&cluster, "proxy_protocol = { trusted = [\"unix\"] }");
    let by_tcp = [PROXIED, "allow = [\"127.0.0.0/30\", \"127.0.0.7\"]"].join("\n");
    let pgvane =
        cluster.pgvane(|pgvane| pgvane.top("log = { level = \"debug\" }").write_listener(&by_tcp).more(&listener));
    let pgvane = pgvane.await;
    let fronts = [
        (format!("{} send-proxy", pgvane.write_addr), "write"),
        (format!("{} send-proxy-v2 proxy-v2-options unique-id,authority", pgvane.write_addr), "write"),
        (format!("unix@{} send-proxy-v2", file.display()), "local"),
    ];
    let mut text = "defaults\n mode tcp\n timeout connect 5s\n timeout client 1m\n timeout server 1m\n".to_owned();
    let mut ports_of_fronts = Vec::new();
    for (server, _) in &fronts {
        let port = ports::free().expect("a port");
        text +=
            &format!("listen {0}\n bind {port}\n server one {server} check check-send-proxy inter 50ms\n", port.port());
        ports_of_fronts.push(port);
    }
    let config = cluster.directory().join("haproxy.cfg");
    fs::write(&config, text).expect("a writable directory");
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(&config);
    let log = cluster.directory().join("haproxy.log");
    let haproxy = Process::start("haproxy", command, cluster.directory(), &log).expect("haproxy is installed");

    for (port, (_, listener)) in ports_of_fronts.into_iter().zip(&fronts) {
        let open = || async { TcpStream::connect(port).await.map(drop).map_err(|error| error.to_string()) };
        wait::until("HAProxy's port", SOON, open)
            .await
            .unwrap_or_else(|error| panic!("{error}\n{}", haproxy.log_text()));
        let (wire, client) = Wire::from(FRIEND, port).await;
        assert_eq!(wire.log_in(&plain_startup()).await.value("who").await, "node1");
        let line = format!("session ended: the client closed the session listener={listener} peer={client} ");
        pgvane.wait_for_log(&line, 0, SOON).await.expect("the client is logged under its own address");
        let checks = format!("pgvane_session_ends_total{{listener=\"{listener}\",reason=\"client-left-early\"}}");
        metrics::wait_for_more(&pgvane, &checks, 0.0).await;
    }
    for listener in ["write", "local"] {
        let refused = format!("pgvane_session_ends_total{{listener=\"{listener}\",reason=\"proxy-header\"}}");
        assert_eq!(metrics::value(&pgvane, &refused).await, 0.0, "{}", pgvane.log_text());
    }
}

// ---- the one change to what a client says ---------------------------------------------------------------------------

#[tokio::test]
async fn the_clients_address_is_put_behind_its_name_and_all_else_is_left() {
    let cluster = FakeCluster::of(1).await;
    cluster[0].postgres.next(&[STARTING_UP, STARTING_UP]);
    let pgvane = proxied(&cluster, "application_name_add_host = true").await;
    let said = |name: &str| {
        startup(
            PROTOCOL_3_2,
            &[("user", "trusting"), ("_pq_.unheard_of", "1"), ("application_name", name), ("database", "app")],
        )
    };
    let mut client = Wire::to(pgvane.write_addr).await;
    client.send(&[HEADER_V1, &ssl_request()].concat()).await;
    assert_eq!(client.bytes(1).await, b"N");
    client.log_in(&said("shop")).await;

    let heard = said("shop - 192.0.2.7:12345");
    let startups = cluster[0].postgres.seen().startups;
    assert_eq!(startups.last(), Some(&heard));
    assert!(startups.iter().all(|startup| *startup == heard), "however often it is said");

    // standbys are known by their name
    let standby = startup(PROTOCOL_3_2, &[("user", "trusting"), ("replication", "1"), ("application_name", "node2")]);
    Wire::to(pgvane.write_addr).await.log_in(&[HEADER_V1, &standby].concat()).await;
    assert_eq!(cluster[0].postgres.seen().startups.last(), Some(&standby));
}

// ---- Unix sockets ---------------------------------------------------------------------------------------------------

/// A third listener, on a file in the cluster's directory.
fn on_file(cluster: &FakeCluster, lines: &str) -> (PathBuf, String) {
    let file = cluster.directory().join(".s.PGSQL.6432");
    let listener = format!("[[listener]]\nname = \"local\"\nbind = \"unix:{}\"\ntarget = \"leader\"", file.display());
    (file, format!("{listener}\n{lines}\n"))
}

#[tokio::test]
async fn a_unix_socket_serves_and_is_gone_when_pgvane_is() {
    let cluster = FakeCluster::of(1).await;
    let (file, listener) = on_file(&cluster, "unix_socket_mode = \"0750\"\napplication_name_add_host = true");
    // left behind by somebody who was killed
    drop(std::os::unix::net::UnixListener::bind(&file).expect("a writable directory"));
    let mut pgvane = cluster.pgvane(|pgvane| pgvane.top("log = { level = \"debug\" }").more(&listener)).await;

    assert_eq!(fs::metadata(&file).expect("it is there").permissions().mode() & 0o777, 0o750);
    let mut session = Wire::by(&file).await.log_in(&plain_startup()).await;
    assert_eq!(session.value("who").await, "node1");
    let startup_heard =
        startup(PROTOCOL_3_0, &[("user", "trusting"), ("database", "app"), ("application_name", "app - unix")]);
    assert_eq!(cluster[0].postgres.seen().startups, [startup_heard]);
    let mut canceller = Wire::by(&file).await;
    canceller.send(&cancel_request(&session.key)).await;
    canceller.rest().await;
    assert_eq!(cluster[0].postgres.seen().cancels.len(), 1);
    drop(session);
    pgvane.wait_for_log("listener=local peer=unix", 0, SOON).await.expect("is logged");

    pgvane.terminate().expect("it runs");
    assert!(pgvane.wait(SOON).await.expect("it ends").success());
    assert!(!file.exists());
}

#[tokio::test]
async fn a_unix_socket_on_which_another_program_answers_is_not_replaced() {
    let cluster = FakeCluster::of(1).await;
    let (file, listener) = on_file(&cluster, "");
    let _owner = std::os::unix::net::UnixListener::bind(&file).expect("a writable directory");
    let mut pgvane = cluster.spawn_pgvane(|pgvane| pgvane.more(&listener));
    assert_eq!(pgvane.wait(SOON).await.expect("it ends").code(), Some(1));
    let told = pgvane.log_text();
    assert!(told.contains(&format!("listener \"local\" cannot listen on unix:{}: ", file.display())), "{told}");
    assert!(told.contains("another program is listening on it"), "{told}");
    assert!(file.exists());
}

#[tokio::test]
async fn a_proxy_may_speak_for_its_clients_by_a_unix_socket() {
    let cluster = FakeCluster::of(1).await;
    let (file, listener) = on_file(&cluster, "proxy_protocol = { trusted = [\"unix\"] }\nallow = [\"192.0.2.7\"]");
    let pgvane = cluster.pgvane(|pgvane| pgvane.more(&listener)).await;
    let opening = [HEADER_V1, &plain_startup()].concat();
    assert_eq!(Wire::by(&file).await.log_in(&opening).await.value("who").await, "node1");
    let opening = [HEADER_LOCAL, &plain_startup()].concat();
    says(&told(Wire::by(&file).await, &opening).await, "28000", "does not allow connections from unix");
    drop(pgvane);
}
