//! The way to real servers, and cancel requests over both ways.

use pgvane_loadtest::lab::Lab;
use pgvane_loadtest::login::Login;
use pgvane_loadtest::messages::{message, query};
use pgvane_loadtest::pgvane::Pgvane;
use pgvane_loadtest::programs::{self, Postgresql};
use pgvane_loadtest::wait;
use tokio::process::Command;

use super::{certificates, encrypted, terminate, terminating};
use crate::metrics;
use crate::stage::{leader_and_replicas, pgvane_before, sound_cluster_of};
use crate::wire::{SOON, Session, in_time, plain_startup};

/// The leader's certificate, which it has signed itself.
async fn leaders_certificate(lab: &Lab) -> String {
    let (leader, _) = leader_and_replicas(lab).await;
    let node = lab.nodes()[leader].data_directory();
    node.parent().expect("the data is in the node's directory").join("server.crt").display().to_string()
}

/// Whether the server sees the session encrypted, and in which version.
async fn seen_by_server(session: &mut Session) -> String {
    session.value("select ssl || ' ' || coalesce(version, '') from pg_stat_ssl where pid = pg_backend_pid()").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_connection_to_the_server_is_encrypted_and_verified_as_the_settings_say() {
    let files = certificates();
    files.stranger();
    let lab = sound_cluster_of(Postgresql::Eighteen).await;
    let server = leaders_certificate(&lab).await;
    let own = terminate(&files, "");
    let before = async |server_tls: &str| {
        let lines = format!("{own}\nserver_tls = {server_tls}\nhold_max = \"500ms\"");
        pgvane_before(&lab, |pgvane| pgvane.write_listener(&lines)).await
    };
    for server_tls in [
        "\"prefer\"".to_owned(),
        "\"require\"".to_owned(),
        format!("{{ sslmode = \"verify-full\", ca_file = \"{server}\" }}"),
        format!("{{ sslmode = \"verify-full\", ca_file = \"{server}\", sslnegotiation = \"direct\" }}"),
    ] {
        let pgvane = before(&server_tls).await;
        let mut session = encrypted(&pgvane, &files).await.log_in(&plain_startup()).await;
        assert_eq!(seen_by_server(&mut session).await, "true TLSv1.3", "{server_tls}");
        let mut in_clear = Session::through(pgvane.write_addr).await;
        assert_eq!(seen_by_server(&mut in_clear).await, "true TLSv1.3", "{server_tls}");
    }

    let pgvane = before(&format!("{{ sslmode = \"verify-ca\", ca_file = \"{}\" }}", files.path("stranger.pem"))).await;
    let mut client = encrypted(&pgvane, &files).await;
    client.send(&plain_startup()).await;
    let end = client.fatal().await;
    assert_eq!(end.sqlstate().as_deref(), Some("57P03"));
    let detail = end.field(b'D').expect("there is a reason");
    assert!(detail.contains("TLS negotiation failed: TLS: invalid peer certificate"), "{detail}");
    let log = pgvane.log_text();
    assert!(!log.contains("no leader"), "a certificate says nothing of a node's role:\n{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_passes_unchanged_through_tls_on_both_sides_and_leaves_no_traces_in_the_servers_log() {
    let files = certificates();
    let lab = sound_cluster_of(Postgresql::Eighteen).await;
    let lines = format!("{}\nserver_tls = \"require\"", terminate(&files, ""));
    let mut pgvane = pgvane_before(&lab, |pgvane| pgvane.write_listener(&lines).top("drain_timeout = \"0s\"")).await;
    let (leader, _) = leader_and_replicas(&lab).await;
    let from = lab.postgres_log_text(leader).len();
    let mut session = encrypted(&pgvane, &files).await.log_in(&plain_startup()).await;

    let line: String = ('!'..='~').filter(|letter| *letter != '\\').cycle().take(999).collect();
    let sent = format!("{line}\n").repeat(10_000);
    session.ask("create temporary table bulk (line text)").await;
    session.wire.send(&query("copy bulk from stdin")).await;
    assert_eq!(session.wire.message().await.map(|message| message.kind), Some(b'G'));
    for portion in sent.as_bytes().chunks(60_000) {
        session.wire.send(&message(b'd', portion)).await;
    }
    session.wire.send(&message(b'c', b"")).await;
    assert_eq!(session.wire.messages_until(b'Z').await[0].body, b"COPY 10000\0");
    let out = session.ask("copy bulk to stdout").await;
    let received: Vec<u8> = out.into_iter().filter(|message| message.kind == b'd').flat_map(|row| row.body).collect();
    assert!(received == sent.as_bytes(), "{} bytes in, {} out or not the same", sent.len(), received.len());

    // one that says goodbye, one that just goes, and one that pgvane ends
    session.wire.send(&message(b'X', b"")).await;
    assert_eq!(session.wire.rest().await, b"");
    drop(encrypted(&pgvane, &files).await.log_in(&plain_startup()).await);
    let stays = encrypted(&pgvane, &files).await.log_in(&plain_startup()).await;
    pgvane.terminate().expect("it runs");
    assert_eq!(stays.wire.fatal().await.sqlstate().as_deref(), Some("57P01"));
    pgvane.wait(SOON).await.expect("it ends");

    let look = || async {
        let log = lab.postgres_log_text(leader).split_off(from);
        if log.matches("disconnection: ").count() >= 3 { Ok(log) } else { Err(log) }
    };
    let log = wait::until("three sessions' ends in PostgreSQL's log", SOON, look).await;
    let log = log.unwrap_or_else(|error| panic!("{error}"));
    for traces in ["SSL error", "could not", "EOF", "eof", "onnection reset"] {
        assert!(!log.contains(traces), "{log}");
    }
}

// ---- cancel requests ------------------------------------------------------------------------------------------------

async fn handshakes(pgvane: &Pgvane) -> f64 {
    let all = metrics::all(pgvane).await;
    all.iter()
        .filter(|(series, _)| series.starts_with("pgvane_tls_handshakes_total{listener=\"read\""))
        .map(|(_, n)| n)
        .sum()
}

/// By libpq's newer functions, of version 17, which encrypt a request as its session is.
const CANCEL_IN_PRIVATE: &str = "
import sys, threading, psycopg
session = psycopg.connect(sys.argv[1])
session.add_notice_handler(lambda _: threading.Thread(target=session.cancel_safe).start())
try:
    session.execute(\"do $$ begin raise notice 'asleep'; perform pg_sleep(60); end $$\")
except psycopg.errors.QueryCanceled:
    print('cancelled')
";

async fn psycopg_sends_encrypted_cancel_requests(port: u16) {
    let mut command = Command::new(programs::in_venv("python").expect("psycopg is installed"));
    let server = format!("host=127.0.0.1 port={port} user=app password=app dbname=app sslmode=require");
    command.args(["-c", CANCEL_IN_PRIVATE, &server]).env("PGCHANNELBINDING", "disable");
    let output = in_time("a cancel", command.output()).await.expect("it starts");
    assert_eq!(output.stdout, b"cancelled\n", "{}", String::from_utf8_lossy(&output.stderr));
}

/// Those in clear, which psql's Ctrl-C sends in every version, are with the other clients' in `clients/cancelling.rs`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_encrypted_cancel_request_ends_its_query() {
    let files = certificates();
    let lab = sound_cluster_of(Postgresql::Eighteen).await;
    for server_tls in ["disable", "require"] {
        let line = format!("server_tls = \"{server_tls}\"");
        let required = |pgvane| terminating(pgvane, &files, ", sslmode = \"require\"").read_listener(&line);
        let pgvane = pgvane_before(&lab, required).await;
        psycopg_sends_encrypted_cancel_requests(pgvane.read_addr.port()).await;
        assert_eq!(handshakes(&pgvane).await, 2.0, "one for the session, one for the cancel");
        let delivered = "pgvane_cancels_total{listener=\"read\",outcome=\"delivered\"}";
        assert_eq!(metrics::value(&pgvane, delivered).await, 1.0);
    }
}

/// As most clients but libpq log in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_in_clear_that_knows_no_binding_logs_in_by_scram_to_an_encrypted_server() {
    let lab = sound_cluster_of(Postgresql::Eighteen).await;
    let lines = "tls = \"disable\"\nserver_tls = \"require\"";
    let pgvane = pgvane_before(&lab, |pgvane| pgvane.write_listener(lines)).await;
    let client = Login::App.connect(pgvane.write_addr, SOON).await.expect("a session");
    let row = client.query_one("select ssl from pg_stat_ssl where pid = pg_backend_pid()", &[]).await.expect("a row");
    assert!(row.get::<_, bool>(0));
}
