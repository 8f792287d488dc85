//! pgvane before a real cluster of three: PostgreSQL, Patroni and etcd, through switchovers, crashes and freezes.
//!
//! All stories play in the same cluster, one after another; see [`crate::stage`].

mod addresses;
mod carried;
mod carried_faults;
mod carried_logins;
mod drain;
mod examined;
mod logins;
mod names;
mod network;
mod parked;
mod passed_through;
mod rebalance;
mod roles;
mod switched;
mod upgrade;

use std::time::{Duration, Instant};

use pgvane_loadtest::crowd;
use pgvane_loadtest::failure::FailureClass;
use pgvane_loadtest::login::Login;
use pgvane_loadtest::messages::{message, query};
use pgvane_loadtest::reader::Reader;
use pgvane_loadtest::tokio_postgres::Client;
use pgvane_loadtest::wait;
use pgvane_loadtest::writer::Writer;
use tokio::net::TcpStream;

use crate::metrics;
use crate::stage::{Load, PATRONI_WITHIN, leader_and_replicas, pgvane_before, sound_cluster};
use crate::wire::{Message, SOON, Session, in_time};

// ---- every day ------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_reach_the_leader_and_reads_are_spread_over_both_replicas() {
    let lab = sound_cluster().await;
    let pgvane = pgvane_before(&lab, |pgvane| pgvane).await;
    let (leader, replicas) = leader_and_replicas(&lab).await;

    let writer = Writer::to("everyday", pgvane.write_addr).login(Login::App).start();
    writer.wait_for_acks(20, SOON).await.expect("the write port takes writes");
    let written = writer.finish().await;
    assert!(written.failures.is_empty(), "{:?}", written.failures);
    assert_eq!(written.missing_rows(&lab).await.expect("the table is there"), [] as [i64; 0]);
    let client = Login::App.connect(pgvane.write_addr, SOON).await.expect("a session");
    assert_eq!(port_of(&client).await, lab.nodes()[leader].pg.port());

    let reader = Reader::to(pgvane.read_addr).login(Login::App).start();
    for replica in replicas {
        reader.wait_for_answer_of(lab.nodes()[replica].pg.port(), SOON).await.expect("each replica has its share");
    }
    let report = reader.finish().await;
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    assert!(report.visits.iter().all(|visit| visit.in_recovery), "the leader answered reads: {:?}", report.visits);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_pipelines_and_notifications_pass_unchanged() {
    let lab = sound_cluster().await;
    let pgvane = pgvane_before(&lab, |pgvane| pgvane).await;
    let mut session = Session::through(pgvane.write_addr).await;

    // 50 MB in, and the same 50 MB out
    let line: String = ('!'..='~').filter(|letter| *letter != '\\').cycle().take(999).collect();
    let sent = format!("{line}\n").repeat(50_000);
    session.ask("create temporary table bulk (line text)").await;
    session.wire.send(&query("copy bulk from stdin")).await;
    assert_eq!(session.wire.message().await.map(|message| message.kind), Some(b'G'));
    for portion in sent.as_bytes().chunks(60_000) {
        session.wire.send(&message(b'd', portion)).await;
    }
    session.wire.send(&message(b'c', b"")).await;
    let done = session.wire.messages_until(b'Z').await;
    assert_eq!(done[0].body, b"COPY 50000\0", "{done:?}");
    let out = session.ask("copy bulk to stdout").await;
    let received: Vec<u8> = out.into_iter().filter(|message| message.kind == b'd').flat_map(|row| row.body).collect();
    assert!(received == sent.as_bytes(), "{} bytes in, {} out or not the same", sent.len(), received.len());

    // one value of 64 MB, to the server and back
    let value: String = sent.chars().filter(|letter| !"\n'".contains(*letter)).cycle().take(64 << 20).collect();
    let echoed = session.value(&format!("select '{value}'::text")).await;
    assert!(echoed == value, "{} bytes came back or not the same", echoed.len());

    // a thousand questions before the first answer is read
    let questions: Vec<u8> = (0..1000).flat_map(|number| query(&format!("select {number}"))).collect();
    session.wire.send(&questions).await;
    for number in 0..1000 {
        let answer = session.wire.messages_until(b'Z').await;
        assert_eq!(text_of_row(&answer), number.to_string());
    }

    // a word that the server sends unasked
    session.ask("listen news").await;
    let mut sender = Session::through(pgvane.write_addr).await;
    sender.ask("notify news, 'all is well'").await;
    let news = session.wire.message().await.expect("the session is open");
    assert_eq!(news.kind, b'A');
    assert!(news.body.ends_with(b"news\0all is well\0"), "{news:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_and_metrics_show_the_cluster_as_it_is() {
    let lab = sound_cluster().await;
    let pgvane = pgvane_before(&lab, |pgvane| pgvane).await;
    let (leader, replicas) = leader_and_replicas(&lab).await;
    let session = Session::through(pgvane.read_addr).await;

    let metrics = metrics::all(&pgvane).await;
    let one_of = |node: usize, role: &str| {
        let name = &lab.nodes()[node].name;
        let of_node = metrics.iter().filter(|(series, _)| {
            series.starts_with("pgvane_node_role{") && series.contains(&format!("node=\"{name}\""))
        });
        let held: Vec<_> = of_node.filter(|(_, value)| **value != 0.0).collect();
        assert_eq!(held.len(), 1, "{name} has exactly one role: {held:?}");
        assert!(held[0].0.contains(&format!("role=\"{role}\"")), "{name} is {role}: {held:?}");
        assert_eq!(*held[0].1, 1.0);
    };
    one_of(leader, "leader");
    replicas.iter().for_each(|replica| one_of(*replica, "replica"));
    assert_eq!(metrics["pgvane_cluster_has_leader{cluster=\"main\"}"], 1.0);
    assert_eq!(metrics["pgvane_sessions{listener=\"read\"}"], 1.0, "the one that we hold");

    let page = pgvane.admin_get("/stats").await.expect("is served").body;
    for node in lab.nodes() {
        assert!(page.contains(&node.name) && page.contains(&node.pg.to_string()), "{} is not on\n{page}", node.name);
    }
    for word in [">leader<", ">replica<", "write", "read"] {
        assert!(page.contains(word), "{word:?} is not on\n{page}");
    }
    assert_eq!(pgvane.admin_get("/").await.expect("is served").status, 200);
    assert_eq!(pgvane.admin_get("/readyz").await.expect("is served").status, 200);
    drop(session);
}

// ---- changes of lead ------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_is_a_pause() {
    let lab = sound_cluster().await;
    let pgvane = pgvane_before(&lab, |pgvane| pgvane.hold_max("30s")).await;
    let (old_leader, _) = leader_and_replicas(&lab).await;
    let names = |node: usize| &lab.nodes()[node].name;
    let patroni_logs: Vec<usize> = (0..3).map(|node| lab.log_text(node).len()).collect();
    let log = pgvane.log_text().len();

    let load = Load::start(&lab, &pgvane).await;
    let new_leader = lab.switchover().await.expect("a switchover");
    let seen = load.finish_once_it_flows(new_leader).await;
    seen.it_was_a_pause(&lab).await;

    let log = pgvane.log_text().split_off(log);
    let told: Vec<&str> = log.lines().filter(|line| line.contains("new leader")).collect();
    assert_eq!(told.len(), 1, "one line for one new leader:\n{log}");
    let (from, to) = (format!("from=\"{}\"", names(old_leader)), format!("to=\"{}\"", names(new_leader)));
    assert!(told[0].contains(&to) && told[0].contains("leaderless_ms="), "{}", told[0]);
    assert!(log.lines().any(|line| line.contains("leader") && line.contains(&from)), "{from} is not in:\n{log}");
    for (node, before) in patroni_logs.into_iter().enumerate() {
        let patroni = lab.log_text(node).split_off(before);
        assert!(!patroni.contains("Traceback"), "our checks upset Patroni on {}:\n{patroni}", names(node));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_the_leader_is_a_pause_and_clients_that_connect_meanwhile_are_served() {
    let lab = sound_cluster().await;
    let pgvane = pgvane_before(&lab, |pgvane| pgvane.hold_max("30s")).await;
    let (old_leader, _) = leader_and_replicas(&lab).await;

    let load = Load::start(&lab, &pgvane).await;
    lab.kill_node(old_leader).expect("it dies");
    // the crash leaves no leader for about Patroni's ttl, 20 s; these arrive in its first half
    let visitors = tokio::spawn(crowd::visit(pgvane.write_addr, 40, Duration::from_millis(250)));
    let new_leader = lab.wait_for_leader_other_than(old_leader, PATRONI_WITHIN).await.expect("a failover");
    let visitors = visitors.await.expect("no panic");
    assert!(visitors.failures.is_empty(), "{:?}", visitors.failures);
    assert_eq!(visitors.served.len(), 40);
    let waited = visitors.longest_wait();
    assert!(waited > Duration::from_secs(1), "there was a leader all the time: the longest wait was {waited:?}");

    let seen = load.finish_once_it_flows(new_leader).await;
    seen.it_was_a_pause(&lab).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_a_replica_ends_only_its_own_sessions() {
    let lab = sound_cluster().await;
    let pgvane = pgvane_before(&lab, |pgvane| pgvane).await;
    let (_, replicas) = leader_and_replicas(&lab).await;
    let doomed = &lab.nodes()[replicas[0]];
    let mut parked = Vec::new();
    for _ in 0..6 {
        let client = Login::Trusting.connect(pgvane.read_addr, SOON).await.expect("a session");
        parked.push((port_of(&client).await == doomed.pg.port(), client));
    }
    assert_eq!(parked.iter().filter(|(is_doomed, _)| *is_doomed).count(), 3, "balanced by number of sessions");
    let readers = [(); 2].map(|()| Reader::to(pgvane.read_addr).start());
    for reader in &readers {
        reader.wait_for_answer_of(doomed.pg.port(), SOON).await.expect("it has its share");
    }

    lab.kill_node(replicas[0]).expect("it dies");
    for (is_doomed, client) in parked {
        let outcome = client.simple_query("select 1").await;
        assert_eq!(outcome.is_err(), is_doomed, "on {}: {outcome:?}", doomed.name);
    }
    for reader in &readers {
        let other = lab.nodes()[replicas[1]].pg.port();
        reader.wait_for_answer_of(other, SOON).await.expect("the other replica serves");
    }
    lab.start_node(replicas[0]).expect("it starts");
    for reader in &readers {
        reader.wait_for_answer_of(doomed.pg.port(), PATRONI_WITHIN).await.expect("it serves again");
    }
    for reader in readers {
        let report = reader.finish().await;
        let broken = report.failures.iter().filter(|failure| failure.class == FailureClass::SessionBroken).count();
        assert!(broken <= 1 && broken == report.failures.len(), "{:?}", report.failures);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_patroni_that_hangs_is_not_a_leader_that_is_gone() {
    let lab = sound_cluster().await;
    let pgvane = pgvane_before(&lab, |pgvane| pgvane).await;
    let (leader, _) = leader_and_replicas(&lab).await;
    let up = format!("pgvane_node_up{{cluster=\"main\",node=\"{}\"}}", lab.nodes()[leader].name);

    let load = Load::start(&lab, &pgvane).await;
    let frozen = Instant::now();
    lab.freeze_patroni(leader).expect("it runs");
    metrics::wait_for(&pgvane, &up, 0.0).await;
    load.flows().await;
    Login::App.connect(pgvane.write_addr, SOON).await.expect("new sessions are let in as well");
    // Patroni has renewed its lock 5 s ago at the most, and the lock lasts 20 s
    let whole = Duration::from_secs(8);
    tokio::time::sleep(whole.saturating_sub(frozen.elapsed())).await;
    lab.thaw_patroni(leader).expect("it is there");
    metrics::wait_for(&pgvane, &up, 1.0).await;

    let seen = load.finish_once_it_flows(leader).await;
    assert!(seen.failures().is_empty(), "{:#?}", seen.failures());
    let pause = seen.longest_pause();
    assert!(pause < Duration::from_secs(2), "writes went on, but there was a pause of {pause:?}");
}

// ---- stopping -------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_waits_for_transactions_and_accepts_no_new_sessions() {
    let lab = sound_cluster().await;
    let mut pgvane = pgvane_before(&lab, |pgvane| pgvane).await;
    let mut session = Session::through(pgvane.write_addr).await;
    session.ask("begin").await;

    pgvane.terminate().expect("it runs");
    let refused = || async {
        match TcpStream::connect(pgvane.write_addr).await {
            Err(_) => Ok(()),
            Ok(_) => Err("the port is open".to_owned()),
        }
    };
    wait::until("a closed port", SOON, refused).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(session.value("select 1 + 1").await, "2", "the transaction goes on");
    assert_eq!(session.ask("commit").await[0].body, b"COMMIT\0");
    drop(session);
    let status = pgvane.wait(SOON).await.expect("it ends with its last session");
    assert_eq!(status.code(), Some(0), "{}", pgvane.log_text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_gives_the_reason_to_sessions_that_exceed_drain_timeout() {
    let lab = sound_cluster().await;
    let mut pgvane = pgvane_before(&lab, |pgvane| pgvane.top("drain_timeout = \"200ms\"")).await;
    let session = Session::through(pgvane.read_addr).await;
    pgvane.terminate().expect("it runs");
    let end = session.wire.fatal().await;
    assert_eq!(end.sqlstate().as_deref(), Some("57P01"));
    assert_eq!(end.field(b'M').as_deref(), Some("pgvane: terminating connection because the proxy is stopping"));
    let status = pgvane.wait(SOON).await.expect("it ends");
    assert_eq!(status.code(), Some(0), "{}", pgvane.log_text());
}

// ---------------------------------------------------------------------------------------------------------------------

/// The port of the server that a session has reached: it tells the node.
async fn port_of(client: &Client) -> u16 {
    let row = in_time("an answer", client.query_one("select inet_server_port()", &[])).await.expect("an answer");
    u16::try_from(row.get::<_, i32>(0)).expect("a port has 16 bits")
}

fn text_of_row(answer: &[Message]) -> String {
    let row = answer.iter().find(|message| message.kind == b'D').unwrap_or_else(|| panic!("no row in {answer:?}"));
    String::from_utf8(row.body[6..].to_vec()).expect("is text")
}
