//! A configuration that changes while pgvane runs, before fakes.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use pgvane_loadtest::pgvane::Pgvane;
use pgvane_loadtest::{ports, wait};
use tokio::net::TcpListener;

use crate::command_line::{FAILURE, OK};
use crate::fake::FakeCluster;
use crate::figures::status;
use crate::metrics;
use crate::operators::Operator;
use crate::wire::{SOON, Session};

const CONFIG: i32 = 78;
pub const RELOADED: &str = "configuration reloaded";
pub const REFUSED: &str = "the new configuration was not accepted; nothing was changed";

pub fn text_of(pgvane: &Pgvane) -> String {
    fs::read_to_string(pgvane.config_path()).expect("it was started with one")
}

pub fn write(pgvane: &Pgvane, text: &str) {
    fs::write(pgvane.config_path(), text).expect("is writable");
}

/// Sends SIGHUP and returns what the log says from then on, up to `until`.
pub async fn hangup(pgvane: &Pgvane, until: &str) -> String {
    let from = pgvane.log_text().len();
    pgvane.reload().expect("it runs");
    pgvane.wait_for_log(until, from, SOON).await.unwrap_or_else(|error| panic!("{error}: {}", pgvane.log_text()));
    pgvane.log_text()[from..].to_owned()
}

fn listener(name: &str, bind: std::net::SocketAddr, lines: &str) -> String {
    format!("\n[[listener]]\nname = \"{name}\"\nbind = \"{bind}\"\n{lines}\n")
}

#[tokio::test]
async fn a_changed_file_is_applied_to_new_sessions_and_running_ones_stay() {
    let cluster = FakeCluster::of(3).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.write_listener("sessions_max = 50")).await;
    let mut old = Session::through(pgvane.write_addr).await;
    let other = ports::free().expect("a port");
    let before = text_of(&pgvane);
    let changed = before.replace("sessions_max = 50", "sessions_max = 1\nhold_max = \"1s\"");
    write(&pgvane, &(changed + &listener("reports", other, "target = \"any\"")));

    let log = hangup(&pgvane, RELOADED).await;
    for told in ["listener \\\"write\\\": sessions_max: 50 → 1", "hold_max: 40s → 1s", "listener \\\"reports\\\" added"]
    {
        assert!(log.contains(told), "{told} is not in\n{log}");
    }
    assert_eq!(old.value("who").await, "node1", "a running session stays");
    let refused = crate::wire::Wire::to(pgvane.write_addr).await;
    let mut refused = refused;
    refused.send(&crate::wire::plain_startup()).await;
    let why = refused.fatal().await.field(b'M').expect("a message");
    assert!(why.contains("has reached sessions_max (1)"), "{why}");
    Session::through(other).await.value("who").await;

    let log = hangup(&pgvane, RELOADED).await;
    assert!(log.contains("changes=0"), "the same file changes nothing: {log}");
}

#[tokio::test]
async fn a_faulty_file_changes_nothing_and_says_why_everywhere() {
    let cluster = FakeCluster::of(1).await;
    let users = Operator::line(cluster.directory());
    let pgvane = cluster.pgvane(|pgvane| pgvane.admin(&users)).await;
    let operator = Operator::at(&pgvane, cluster.directory());
    let before = text_of(&pgvane);
    write(&pgvane, &before.replace("target = \"leader\"", "target = \"leader\"\nhold_max = \"soon\"\nhold_min = 1"));

    let log = hangup(&pgvane, REFUSED).await;
    assert!(log.contains("not a duration") && log.contains("hold_min"), "every fault: {log}");
    let answer = operator.says(&["reload"]).await;
    answer.ended_with(CONFIG);
    assert!(answer.err.contains("\"soon\" is not a duration"), "{}", answer.err);
    let page = pgvane.admin_get("/stats").await.expect("is served").body;
    assert!(page.contains("the changed configuration was not accepted at") && page.contains("hold_min"), "{page}");
    assert_eq!(metrics::value(&pgvane, "pgvane_config_last_reload_successful").await, 0.0);
    Session::through(pgvane.write_addr).await.value("who").await;
    let [by_user, by_signal] = [0, 1].map(|place| format!("/operators/{place}"));
    let recorded = status(&pgvane).await;
    let told = |place: &str, key: &str| recorded.pointer(place).map(|one| one[key].to_string()).unwrap_or_default();
    assert!(
        told(&by_user, "what").contains("was not accepted") && told(&by_user, "user").contains("ops"),
        "{recorded:#}"
    );
    assert!(
        told(&by_signal, "what").contains("hold_min") && told(&by_signal, "from").contains("SIGHUP"),
        "{recorded:#}"
    );

    write(&pgvane, &before.replace("target = \"leader\"", "target = \"leader\"\nhold_max = \"7s\""));
    let answer = operator.says(&["reload"]).await;
    answer.ended_with(OK);
    assert_eq!(answer.out, "reloaded:\n  listener \"write\": hold_max: 40s → 7s\n");
    let page = pgvane.admin_get("/stats").await.expect("is served").body;
    assert!(
        !page.contains("the changed configuration was not accepted at") && page.contains("hold_max: 40s"),
        "{page}"
    );
    assert!(page.contains("user ops from 127.0.0.1"), "{page}");
    let operators = &page[page.find("changes by operators").expect("is there")..];
    assert!(operators.contains("configuration reloaded: listener &#34;write&#34;: hold_max: 40s → 7s"), "{operators}");
    assert_eq!(metrics::value(&pgvane, "pgvane_config_last_reload_successful").await, 1.0);
}

#[tokio::test]
async fn a_port_in_use_refuses_the_reload_as_a_whole() {
    let cluster = FakeCluster::of(1).await;
    let users = Operator::line(cluster.directory());
    let pgvane = cluster.pgvane(|pgvane| pgvane.admin(&users)).await;
    let operator = Operator::at(&pgvane, cluster.directory());
    let [free, taken] = [ports::free(), ports::free()].map(|port| port.expect("a port"));
    let _other_program = TcpListener::bind(taken).await.expect("is free");
    let more = listener("free", free, "target = \"any\"") + &listener("taken", taken, "target = \"any\"");
    let changed = text_of(&pgvane).replace("target = \"leader\"", "target = \"leader\"\nsessions_max = 1");
    write(&pgvane, &(changed + &more));
    let answer = operator.says(&["reload"]).await;
    answer.ended_with(FAILURE);
    assert!(answer.err.contains(&format!("listener \"taken\" cannot listen on {taken}")), "{}", answer.err);
    TcpListener::bind(free).await.expect("the port that could be opened is closed again");
    let _several = [Session::through(pgvane.write_addr).await, Session::through(pgvane.write_addr).await];
}

#[tokio::test]
async fn the_sessions_of_a_removed_listener_have_drain_timeout_to_end() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.top("drain_timeout = \"1s\"")).await;
    let before = text_of(&pgvane);
    let (without, _) = before.split_once("[[listener]]\nname = \"read\"").expect("is the last one");
    let mut session = Session::through(pgvane.read_addr).await;
    let mut other = Session::through(pgvane.write_addr).await;
    write(&pgvane, without);
    hangup(&pgvane, RELOADED).await;
    let closed = || async {
        let connected = tokio::net::TcpStream::connect(pgvane.read_addr).await;
        connected.map_or(Ok(()), |_| Err("it is open".to_owned()))
    };
    wait::until("its port is closed", SOON, closed).await.expect("within a moment");
    session.value("who").await;

    let end = session.wire.fatal().await;
    assert_eq!(end.sqlstate().as_deref(), Some("57P01"));
    let text = "pgvane: terminating connection because the proxy does not serve this port any more";
    assert_eq!(end.field(b'M').as_deref(), Some(text));
    other.value("who").await;
}

#[tokio::test]
async fn a_listener_that_comes_back_in_time_keeps_its_sessions() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.top("drain_timeout = \"2s\"")).await;
    let before = text_of(&pgvane);
    let (without, _) = before.split_once("[[listener]]\nname = \"read\"").expect("is the last one");
    let mut session = Session::through(pgvane.read_addr).await;
    write(&pgvane, without);
    hangup(&pgvane, "listener removed").await;
    write(&pgvane, &before);
    hangup(&pgvane, RELOADED).await;
    tokio::time::sleep(Duration::from_secs(3)).await; // longer than drain_timeout
    session.value("who").await;
    Session::through(pgvane.read_addr).await.value("who").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_removed_under_load_and_comes_back_at_once_is_open_again() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let before = text_of(&pgvane);
    let (without, _) = before.split_once("[[listener]]\nname = \"read\"").expect("is the last one");
    let server = pgvane.read_addr;
    let load = tokio::spawn(async move {
        loop {
            drop(tokio::net::TcpStream::connect(server).await); // refused while the port is closed
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    for _ in 0..5 {
        write(&pgvane, without);
        hangup(&pgvane, RELOADED).await;
        write(&pgvane, &before);
        hangup(&pgvane, RELOADED).await;
    }
    load.abort();
    assert!(!pgvane.log_text().contains(REFUSED), "{}", pgvane.log_text());
    Session::through(pgvane.read_addr).await.value("who").await;
}

#[tokio::test]
async fn nodes_come_and_go_and_what_is_known_of_the_others_stays() {
    let cluster = FakeCluster::of(3).await;
    let users = Operator::line(cluster.directory());
    let pgvane = cluster.pgvane(|pgvane| pgvane.admin(&users).read_listener("fallback = \"none\"")).await;
    let operator = Operator::at(&pgvane, cluster.directory());
    operator.says(&["maint", "node2"]).await.ended_with(OK);
    let mut writer = Session::through(pgvane.write_addr).await;
    let before = text_of(&pgvane);
    let (first, rest) = before.split_once("[[cluster.node]]\nname = \"node3\"").expect("is the last node");
    let (_, after) = rest.split_once("[[listener]]").expect("behind the nodes");
    write(&pgvane, &format!("{first}[[listener]]{after}"));
    let log = hangup(&pgvane, RELOADED).await;
    assert!(log.contains("node \\\"node3\\\" removed"), "{log}");
    assert!(!log.contains("no leader") && !log.contains("new leader"), "the lead is known as before: {log}");
    let in_maint = "pgvane_node_admin_state{cluster=\"main\",node=\"node2\",state=\"maint\"}";
    assert_eq!(metrics::value(&pgvane, in_maint).await, 1.0);
    writer.value("who").await;

    write(&pgvane, &before);
    hangup(&pgvane, RELOADED).await;
    metrics::wait_for(&pgvane, "pgvane_node_up{cluster=\"main\",node=\"node3\"}", 1.0).await;
    assert_eq!(Session::through(pgvane.read_addr).await.value("who").await, "node3", "node2 is in maint");
    assert_eq!(metrics::value(&pgvane, in_maint).await, 1.0);
}

#[tokio::test]
async fn a_listener_that_is_renamed_or_narrowed_keeps_its_port() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let before = text_of(&pgvane);
    let mut session = Session::through(pgvane.write_addr).await;
    write(&pgvane, &before.replace("name = \"write\"", "name = \"leader\""));
    hangup(&pgvane, RELOADED).await;
    Session::through(pgvane.write_addr).await.value("who").await;
    session.value("who").await;

    let bind = format!("bind = \"{}\"", pgvane.write_addr);
    let wide = format!("bind = \"0.0.0.0:{}\"", pgvane.write_addr.port());
    for text in [before.replace(&bind, &wide), before.clone()] {
        write(&pgvane, &text);
        hangup(&pgvane, RELOADED).await;
        Session::through(pgvane.write_addr).await.value("who").await;
    }
}

#[tokio::test]
async fn what_a_reload_cannot_change_is_said_and_the_rest_is_applied() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.top("threads = 2")).await;
    let text = text_of(&pgvane).replace("threads = 2", "threads = 3\ndrain_timeout = \"9s\"");
    write(&pgvane, &text);
    let log = hangup(&pgvane, RELOADED).await;
    let restart = log.lines().find(|line| line.contains("takes effect when pgvane is started again"));
    assert!(restart.is_some_and(|line| line.contains("threads: 2 → 3")), "{log}");
    assert!(log.contains("drain_timeout: 30s → 9s"), "{log}");
}

#[tokio::test]
async fn the_log_level_changes() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.more("[log]\nlevel = \"info\"")).await;
    Session::through(pgvane.write_addr).await.value("who").await;
    assert!(!pgvane.log_text().contains("DEBUG"), "{}", pgvane.log_text());
    write(&pgvane, &text_of(&pgvane).replace("level = \"info\"", "level = \"info,pgvane::proxy=debug\""));
    hangup(&pgvane, RELOADED).await;
    let from = pgvane.log_text().len();
    drop(Session::through(pgvane.write_addr).await);
    pgvane.wait_for_log("DEBUG", from, SOON).await.expect("is logged from now on");
}

#[tokio::test]
async fn the_admin_port_moves_and_its_users_change() {
    let cluster = FakeCluster::of(1).await;
    let users = Operator::line(cluster.directory());
    let pgvane = cluster.pgvane(|pgvane| pgvane.admin(&users)).await;
    let operator = Operator::at(&pgvane, cluster.directory());
    let (before, moved) = (text_of(&pgvane), ports::free().expect("a port"));
    write(&pgvane, &before.replace(&pgvane.admin_addr.to_string(), &moved.to_string()));
    operator.says(&["reload"]).await.ended_with(OK);
    let answer = pgvane_loadtest::http::get(moved, "/readyz", SOON).await.expect("is served there");
    assert_eq!(answer.status, 200);
    write(&pgvane, &before.replace("name = \"ops\"", "name = \"others\""));
    hangup(&pgvane, RELOADED).await;
    operator.says(&["reload"]).await.ended_with(crate::command_line::NO_PERMISSION);
}

/// While sessions run and clients connect all the time: nodes, listeners and limits change with each reload.
async fn reloads_under_load(reloads: usize) {
    let cluster = FakeCluster::of(3).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.write_listener("sessions_max = 1000")).await;
    let mut long = Vec::new();
    for _ in 0..20 {
        long.push(Session::through(pgvane.write_addr).await);
        long.push(Session::through(pgvane.read_addr).await);
    }
    let (is_over, connects) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = [pgvane.write_addr, pgvane.read_addr, pgvane.write_addr, pgvane.read_addr]
        .map(|server| {
            let (is_over, connects) = (Arc::clone(&is_over), Arc::clone(&connects));
            tokio::spawn(async move {
                while !is_over.load(Relaxed) {
                    Session::through(server).await.value("who").await; // panics where anything fails
                    connects.fetch_add(1, Relaxed);
                }
            })
        })
        .into();
    let (before, extra) = (text_of(&pgvane), ports::free().expect("a port"));
    let (first, rest) = before.split_once("[[cluster.node]]\nname = \"node3\"").expect("is the last node");
    let (_, after) = rest.split_once("[[listener]]").expect("behind the nodes");
    let fewer = format!("{first}[[listener]]{after}");
    for reload in 0..reloads {
        let base = if reload % 2 == 0 { &fewer } else { &before };
        let mut text = base.replace("sessions_max = 1000", &format!("sessions_max = {}", 1000 + reload));
        if reload % 3 == 0 {
            text += &listener("extra", extra, "target = \"any\"");
        }
        write(&pgvane, &text);
        hangup(&pgvane, RELOADED).await;
    }
    is_over.store(true, Relaxed);
    for client in clients {
        client.await.expect("every connection is served");
    }
    for session in &mut long {
        session.value("who").await;
    }
    let connects = connects.load(Relaxed);
    println!("{reloads} reloads, {connects} connections, none failed; {} sessions, none cut", long.len());
    assert!(connects > reloads, "there was no load: {connects}");
    assert!(!pgvane.log_text().contains(REFUSED));
}

#[tokio::test(flavor = "multi_thread")]
async fn reloads_under_load_fail_no_connection_and_cut_no_session() {
    reloads_under_load(12).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute"]
async fn a_hundred_reloads_under_load_fail_no_connection_and_cut_no_session() {
    reloads_under_load(100).await;
}
