//! Another process takes over from a running pgvane: no connection is refused, and no session is cut.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, Instant};

use pgvane_loadtest::messages::{cancel_request, query};
use pgvane_loadtest::pgvane::Pgvane;
use pgvane_loadtest::wait;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::certificates::Certificates;
use crate::command_line::{FAILURE, OK};
use crate::fake::FakeCluster;
use crate::figures::{status, wait_for_status};
use crate::metrics;
use crate::operators::Operator;
use crate::reload::{text_of, write};
use crate::wire::{SOON, Session, Wire, in_time, plain_startup};

const ENDED: &str = "ended; the new process has all that was here";
const FAILED: &str = "the upgrade failed; this process goes on";

async fn logs(pgvane: &Pgvane, text: &str, from: usize) {
    let logged = pgvane.wait_for_log(text, from, SOON).await;
    logged.unwrap_or_else(|error| panic!("{error}: {}", pgvane.log_text()));
}

/// The numbers of all sessions, oldest first.
async fn ids(pgvane: &Pgvane) -> Vec<u64> {
    let answer = pgvane.admin_get("/api/sessions?limit=5000").await.expect("is served").body;
    let list: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
    let sessions = list["sessions"].as_array().unwrap_or_else(|| panic!("{list}"));
    sessions.iter().map(|session| session["id"].as_u64().expect("a number")).collect()
}

#[tokio::test]
async fn sessions_go_on_wherever_they_are_and_the_old_process_ends() {
    let cluster = FakeCluster::of(3).await;
    let users = Operator::line(cluster.directory());
    let mut pgvane = cluster.pgvane(|pgvane| pgvane.admin(&users)).await;
    let operator = Operator::at(&pgvane, cluster.directory());
    let mut at_rest = Session::through(pgvane.write_addr).await;
    let mut in_transaction = Session::through(pgvane.write_addr).await;
    in_transaction.ask("begin").await;
    let mut reader = Session::through(pgvane.read_addr).await;
    let read_by = reader.value("who").await;
    let mut in_an_answer = Session::through(pgvane.write_addr).await;
    in_an_answer.wire.send(&query("half")).await;
    let first_half = in_an_answer.wire.bytes(4).await;
    let mut in_a_request = Session::through(pgvane.write_addr).await;
    let request = query("who");
    in_a_request.wire.send(&request[..5]).await;
    let mut slow_reader = Session::through(pgvane.write_addr).await;
    slow_reader.wire.send(&query("many")).await;
    let mut key = Vec::new();
    let of_cancel = Session::through(pgvane.write_addr).await;
    key.extend_from_slice(&of_cancel.key);

    let before = ids(&pgvane).await;
    let answer = operator.says(&["upgrade"]).await;
    answer.ended_with(OK);
    assert!(answer.out.contains("accepts connections now"), "{}", answer.out);

    assert_eq!(at_rest.value("who").await, "node1");
    assert_eq!(reader.value("who").await, read_by);
    in_transaction.ask("commit").await;
    assert_eq!(in_transaction.value("who").await, "node1");
    in_a_request.wire.send(&request[5..]).await;
    let answered = in_a_request.wire.messages_until(b'Z').await;
    assert!(answered.iter().any(|message| message.body.ends_with(b"node1")), "{answered:?}");
    assert_eq!(first_half.len(), 4);
    let many = slow_reader.wire.messages_until(b'Z').await;
    let rows: usize = many.iter().filter(|message| message.kind == b'D').map(|row| row.body.len()).sum();
    assert!(rows >= 8 * (8 << 20), "every byte of the long answer: {rows}");
    Wire::to(pgvane.read_addr).await.send(&cancel_request(&key)).await;
    cluster[0].postgres.has_seen("the cancel request", |seen| seen.cancels.len() == 1).await;
    Session::through(pgvane.write_addr).await.value("who").await;

    assert!(pgvane.wait(SOON).await.expect("it ends").success(), "{}", pgvane.log_text());
    logs(&pgvane, ENDED, 0).await;
    metrics::wait_for(&pgvane, "pgvane_sessions{listener=\"write\"}", 6.0).await;
    metrics::wait_for(&pgvane, "pgvane_sessions{listener=\"read\"}", 1.0).await;
    let mut after = ids(&pgvane).await;
    after.sort_unstable();
    assert_eq!(after, before, "each has the number that it had");
}

/// Without that, a session that has moved could not log in again at another server.
#[tokio::test]
async fn how_a_session_has_begun_goes_along() {
    let cluster = FakeCluster::of(2).await;
    let users = Operator::line(cluster.directory());
    let mut pgvane = cluster.pgvane(|pgvane| pgvane.admin(&users).cluster("park = true")).await;
    let operator = Operator::at(&pgvane, cluster.directory());
    let mut before_carry = Session::through(pgvane.write_addr).await;
    let carry = text_of(&pgvane).replace("park = true", "park = true\ncarry = true\ncarry_settings = []");
    write(&pgvane, &carry);
    operator.says(&["reload"]).await.ended_with(OK);
    let mut session = Session::through(pgvane.write_addr).await;
    pgvane.upgrade().await.expect("upgrades");
    assert!(pgvane.wait(SOON).await.expect("it ends").success(), "{}", pgvane.log_text());
    for session in [&mut before_carry, &mut session] {
        assert_eq!(session.value("who").await, "node1");
    }
    let answer = operator.says(&["switchover", "--dry-run", "--json"]).await;
    answer.ended_with(OK);
    let run: serde_json::Value = serde_json::from_str(&answer.out).expect("JSON");
    let reasons = [0, 1].map(|session| run["not_carried"][session]["reasons"].to_string());
    assert!(reasons[0].contains("its login is not known"), "{run:#}");
    assert!(reasons[1].len() > 2 && !reasons[1].contains("its login"), "{run:#}");
}

#[tokio::test]
async fn what_is_known_and_counted_goes_along() {
    let cluster = FakeCluster::of(3).await;
    let users = Operator::line(cluster.directory());
    let mut pgvane = cluster.pgvane(|pgvane| pgvane.admin(&users)).await;
    let operator = Operator::at(&pgvane, cluster.directory());
    operator.says(&["maint", "node2"]).await.ended_with(OK);
    operator.says(&["weight", "node3", "7"]).await.ended_with(OK);
    cluster.switch_over(0, 2);
    metrics::wait_for(&pgvane, "pgvane_node_role{cluster=\"main\",node=\"node3\",role=\"leader\"}", 1.0).await;
    let mut session = Session::through(pgvane.write_addr).await;
    session.value("who").await;
    drop(Session::through(pgvane.write_addr).await);
    metrics::wait_for_ends(&pgvane, "write", "client-closed", 1).await;
    let before = status(&pgvane).await;
    pgvane.upgrade().await.expect("upgrades");
    assert!(pgvane.wait(SOON).await.expect("it ends").success(), "{}", pgvane.log_text());
    let after = status(&pgvane).await;

    let in_maint = "pgvane_node_admin_state{cluster=\"main\",node=\"node2\",state=\"maint\"}";
    assert_eq!(metrics::value(&pgvane, in_maint).await, 1.0);
    assert_eq!(after["clusters"][0]["nodes"][2]["weight"], 7);
    assert_eq!(after["clusters"][0]["changes"], before["clusters"][0]["changes"], "the changes of the lead");
    assert_eq!(after["operators"], before["operators"], "who has changed what");
    for figure in ["sessions", "sessions_total", "sessions_highest", "bytes_to_server", "bytes_to_client", "ended"] {
        assert_eq!(after["listeners"][0][figure], before["listeners"][0][figure], "{figure}");
    }
    let servers = |status: &serde_json::Value| status["listeners"][0]["servers"].clone();
    for (server, number) in [("node3", 2)] {
        let [before, after] = [&before, &after].map(|status| servers(status)[number].clone());
        for figure in ["sessions", "chosen", "bytes_to_server", "bytes_to_client"] {
            assert_eq!(after[figure], before[figure], "{server} {figure}");
        }
    }
    metrics::wait_for_ends(&pgvane, "write", "client-closed", 1).await;
    session.value("who").await;
}

#[tokio::test]
async fn a_new_process_that_cannot_start_changes_nothing() {
    let cluster = FakeCluster::of(2).await;
    let users = Operator::line(cluster.directory());
    let pgvane = cluster.pgvane(|pgvane| pgvane.admin(&users)).await;
    let operator = Operator::at(&pgvane, cluster.directory());
    let mut session = Session::through(pgvane.write_addr).await;
    let good = text_of(&pgvane);
    write(&pgvane, &(good.clone() + "\nnonsense = 1\n"));
    let answer = operator.says(&["upgrade"]).await;
    answer.ended_with(FAILURE);
    assert!(answer.err.contains("ended before it was ready: exit status: 78"), "{}", answer.err);
    logs(&pgvane, FAILED, 0).await;
    assert!(pgvane.log_text().contains("nonsense"), "the new process has said why: {}", pgvane.log_text());
    session.value("who").await;
    Session::through(pgvane.write_addr).await.value("who").await;

    write(&pgvane, &good);
    operator.says(&["upgrade"]).await.ended_with(OK);
    session.value("who").await;
}

/// Parked sessions cannot move, and the new process would know nothing of their park.
#[tokio::test]
async fn there_is_no_upgrade_while_sessions_are_parked_not_even_if_the_park_began_after_it() {
    let cluster = FakeCluster::of(2).await;
    let users = Operator::line(cluster.directory());
    let [link, slow, may_start] = ["pgvane", "slow", "may-start"].map(|name| cluster.directory().join(name));
    let pgvane = cluster
        .pgvane(|pgvane| pgvane.admin(&users).cluster("park = true").cluster("park_max = \"10min\"").by_link(&link));
    let pgvane = pgvane.await;
    let operator = Operator::at(&pgvane, cluster.directory());
    let mut session = Session::through(pgvane.write_addr).await;
    operator.says(&["park"]).await.ended_with(OK);
    let why = "the sessions of cluster \"main\" are parked: try again later, or pgvane unpark";
    let refused = operator.says(&["upgrade"]).await;
    refused.ended_with(FAILURE);
    assert!(refused.err.contains(why), "{}", refused.err);
    let from = pgvane.log_length();
    pgvane.ask_to_upgrade().expect("it runs");
    logs(&pgvane, FAILED, from).await;
    operator.says(&["unpark"]).await.ended_with(OK);

    // the new process takes its time to start, and the sessions are parked meanwhile
    let program = format!(
        "#!/bin/sh\nuntil [ -e {} ]; do sleep 0.05; done\nexec {} \"$@\"\n",
        may_start.display(),
        crate::binary::pgvane().display()
    );
    fs::write(&slow, program).expect("is writable");
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o755)).expect("an option");
    fs::remove_file(&link).expect("is there");
    symlink(&slow, &link).expect("is writable");
    let from = pgvane.log_length();
    let upgrading = tokio::spawn(async move { (operator.says(&["upgrade"]).await, operator) });
    logs(&pgvane, "upgrading: starting a new process", from).await;
    let second = Operator::at(&pgvane, cluster.directory());
    second.says(&["park"]).await.ended_with(OK);
    fs::write(&may_start, "").expect("is writable");
    let (refused, operator) = upgrading.await.expect("no panic");
    refused.ended_with(FAILURE);
    assert!(refused.err.contains(why), "{}", refused.err);
    wait_for_status(&pgvane, "the park goes on", |status| status["clusters"][0]["park"]["parked"] == 1).await;
    operator.says(&["unpark"]).await.ended_with(OK);
    assert_eq!(session.value("who").await, "node1");
    operator.says(&["upgrade"]).await.ended_with(OK);
    assert_eq!(session.value("who").await, "node1");
}

#[tokio::test]
async fn sessions_with_tls_at_pgvane_stay_in_the_old_process_until_drain_timeout() {
    let (cluster, files) = (FakeCluster::of(2).await, Certificates::new());
    files.issue("pgvane", "localhost");
    let (cert, key) = (files.path("pgvane.pem"), files.path("pgvane.key"));
    let tls = format!("tls = {{ mode = \"terminate\", cert_file = \"{cert}\", key_file = \"{key}\" }}");
    let mut pgvane = cluster.pgvane(|pgvane| pgvane.write_listener(&tls).top("drain_timeout = \"3s\"")).await;
    let encrypted = Wire::to(pgvane.write_addr).await.asks_for_tls(&files.client(&[])).await;
    let mut encrypted = encrypted.log_in(&plain_startup()).await;
    let mut other = Wire::to(pgvane.write_addr).await.asks_for_tls(&files.client(&[])).await;
    other.send(&plain_startup()).await;
    other.messages_until(b'Z').await;
    let mut in_clear = Session::through(pgvane.write_addr).await;
    pgvane.upgrade().await.expect("upgrades");
    in_clear.value("who").await;
    encrypted.value("who").await;
    Wire::to(pgvane.write_addr).await.send(&cancel_request(&encrypted.key)).await;
    cluster[0]
        .postgres
        .has_seen("a cancel by the new process for a session of the old", |seen| seen.cancels.len() == 1)
        .await;
    let left = wait_for_status(&pgvane, "what is left", |status| status["predecessor"]["sessions"] == 2).await;
    assert_eq!(left["predecessor"]["version"], env!("CARGO_PKG_VERSION"));
    drop(other);

    let end = encrypted.wire.fatal().await;
    assert_eq!(end.sqlstate().as_deref(), Some("57P01"), "{end:?}");
    assert!(pgvane.wait(SOON).await.expect("it ends").success());
    in_clear.value("who").await;
    wait_for_status(&pgvane, "nothing is left", |status| status["predecessor"].is_null()).await;
}

#[tokio::test]
async fn if_the_new_process_dies_the_old_one_serves_again_with_the_sessions_that_it_still_has() {
    let (cluster, files) = (FakeCluster::of(2).await, Certificates::new());
    files.issue("pgvane", "localhost");
    let (cert, key) = (files.path("pgvane.pem"), files.path("pgvane.key"));
    let tls = format!("tls = {{ mode = \"terminate\", cert_file = \"{cert}\", key_file = \"{key}\" }}");
    let file = cluster.directory().join("socket");
    let local = format!("[[listener]]\nname = \"local\"\nbind = \"unix:{}\"\ntarget = \"leader\"", file.display());
    let admin_socket = cluster.directory().join("admin.sock");
    let local = local + &format!("\n[[admin.sockets]]\npath = \"{}\"", admin_socket.display());
    let pgvane = cluster.pgvane(|pgvane| pgvane.write_listener(&tls).more(&local)).await;
    let serves_commands = async || {
        let mut client = in_time("a connection", UnixStream::connect(&admin_socket)).await.expect("somebody listens");
        client.write_all(b"show info\n").await.expect("is open");
        let mut answer = String::new();
        in_time("an answer", client.read_to_string(&mut answer)).await.expect("text");
        assert!(answer.contains(&format!("Pid: {}", pgvane.newest_process_id())), "{answer}");
    };
    let encrypted = Wire::to(pgvane.write_addr).await.asks_for_tls(&files.client(&[])).await;
    let mut encrypted = encrypted.log_in(&plain_startup()).await;
    for _ in 0..2 {
        let from = pgvane.log_text().len();
        pgvane.upgrade().await.expect("upgrades");
        let new = i32::try_from(pgvane.newest_process_id()).ok().and_then(Pid::from_raw).expect("a number");
        kill_process(new, Signal::KILL).expect("it runs");
        logs(&pgvane, "the new process has ended too early: this one goes on", from).await;
        encrypted.value("who").await;
        Session::through(pgvane.write_addr).await.value("who").await;
        Wire::by(&file).await.log_in(&plain_startup()).await.value("who").await;
        serves_commands().await;
    }
    let counted = metrics::value(&pgvane, "pgvane_sessions_total{listener=\"write\"}").await;
    pgvane.upgrade().await.expect("upgrades");
    let after = metrics::value(&pgvane, "pgvane_sessions_total{listener=\"write\"}").await;
    assert_eq!(after, counted, "all is counted that was counted before the processes that have failed");
    encrypted.value("who").await;
    Session::through(pgvane.write_addr).await.value("who").await;
    let mut by_file = Wire::by(&file).await.log_in(&plain_startup()).await;
    pgvane.upgrade().await.expect("upgrades once more, while the first process still has a session");
    encrypted.value("who").await;
    by_file.value("who").await;
    serves_commands().await;
    Wire::by(&file).await.log_in(&plain_startup()).await.value("who").await;
    Wire::to(pgvane.write_addr).await.send(&cancel_request(&encrypted.key)).await;
    cluster[0].postgres.has_seen("a cancel over two processes", |seen| seen.cancels.len() == 1).await;
}

#[tokio::test]
async fn a_version_that_knows_no_common_format_gets_the_ports_and_the_old_sessions_drain() {
    let cluster = FakeCluster::of(2).await;
    let link = cluster.directory().join("pgvane");
    let mut pgvane = cluster.pgvane(|pgvane| pgvane.by_link(&link).top("drain_timeout = \"2s\"")).await;
    let mut session = Session::through(pgvane.write_addr).await;
    let other_version = cluster.directory().join("other-version");
    fs::write(&other_version, OTHER_VERSION).expect("is writable");
    fs::set_permissions(&other_version, fs::Permissions::from_mode(0o755)).expect("an option");
    fs::remove_file(&link).expect("is there");
    symlink(&other_version, &link).expect("is writable");
    pgvane.upgrade().await.unwrap_or_else(|error| panic!("{error}: {}", pgvane.log_text()));
    assert!(pgvane.log_text().contains("version=\"99.0\" sessions=1 can_move_sessions=false"), "{}", pgvane.log_text());
    session.value("who").await;
    let mut served = TcpStream::connect(pgvane.write_addr).await.expect("the port is open");
    let mut said = String::new();
    in_time("an answer", served.read_to_string(&mut said)).await.expect("an answer");
    assert_eq!(said, "served by version 99");
    let end = session.wire.fatal().await;
    assert_eq!(end.sqlstate().as_deref(), Some("57P01"), "{end:?}");
    assert!(pgvane.wait(SOON).await.expect("it ends").success());
}

/// A version of the future: it knows the messages that never change, takes the ports, and serves in its own way.
const OTHER_VERSION: &str = r#"#!/usr/bin/env python3
import json, select, socket, struct

old = socket.socket(fileno=0)
send = lambda message: old.send(struct.pack("!I", len(json.dumps(message))) + json.dumps(message).encode())
send({"Hello": {"formats": [99], "version": "99.0", "more": "that nobody knows"}})
ports = []
while True:
    packet, descriptors, _, _ = socket.recv_fds(old, 1 << 17, 64)
    message = json.loads(packet[4:])
    if "Place" in message:
        ports += [socket.socket(fileno=descriptor) for descriptor in descriptors]
    elif message == "Opened":
        send("Ready")
    elif message == "TakeOver":
        break
    else:
        assert "Admin" in message or message["Welcome"]["format"] is None, message
send("Accepting")
for _ in range(2):
    for port in select.select(ports, [], [])[0]:
        try:
            client, _ = port.accept()
            client.sendall(b"served by version 99")
            client.close()
        except BlockingIOError:
            pass
select.select([], [], [], 60)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_lose_no_byte_and_refuse_no_connection() {
    upgrades_under_load(4, 100).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute"]
async fn fifty_upgrades_with_two_thousand_sessions_lose_no_byte_and_refuse_no_connection() {
    upgrades_under_load(50, 2000).await;
}

/// How many sessions stream without a rest.
const STREAMS: usize = 4;

/// Upgrades while sessions rest, ask and stream, while clients connect, and with a cancel request after each.
async fn upgrades_under_load(upgrades: usize, sessions: usize) {
    let cluster = FakeCluster::of(3).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.write_listener("pending_connections_max = 1000")).await;
    let (server, stop) = (pgvane.write_addr, tokio::sync::watch::Sender::new(false));
    let mut resting = Vec::new();
    for _ in 0..sessions / 2 {
        resting.push(Session::through(server).await);
    }
    let pace = Duration::from_micros(100) * u32::try_from(sessions).expect("few");
    let mut asking = Vec::new();
    for number in 0..sessions / 2 {
        let (mut session, stopped) = (Session::through(server).await, stop.subscribe());
        asking.push(tokio::spawn(async move {
            let mut waits = Vec::new();
            let mut first = None;
            while !*stopped.borrow() {
                let began = Instant::now();
                if number < STREAMS {
                    let answer = session.ask("many").await;
                    assert!(answer.len() > 8, "{} messages", answer.len());
                    assert!(*first.get_or_insert_with(|| answer.clone()) == answer, "a byte is lost or doubled");
                } else {
                    assert_eq!(session.value("who").await, "node1");
                    waits.push(began.elapsed());
                    tokio::time::sleep(pace).await;
                }
            }
            waits
        }));
    }
    let stopped = stop.subscribe();
    let connecting = tokio::spawn(async move {
        let mut count = 0;
        while !*stopped.borrow() {
            Session::through(server).await.value("who").await;
            count += 1;
        }
        count
    });
    for upgrade in 1..=upgrades {
        pgvane.upgrade().await.unwrap_or_else(|error| panic!("{error}: {}", pgvane.log_text()));
        Wire::to(server).await.send(&cancel_request(&resting[upgrade % resting.len()].key)).await;
        cluster[0].postgres.has_seen("its cancel request", |seen| seen.cancels.len() == upgrade).await;
    }
    stop.send_replace(true);
    let connected = connecting.await.expect("no connection fails");
    let mut waits = Vec::new();
    for one in asking {
        waits.extend(one.await.expect("no session fails"));
    }
    waits.sort();
    for session in &mut resting {
        assert_eq!(session.value("who").await, "node1");
    }
    let share = |share: usize| waits[(waits.len() - 1) * share / 1000];
    let [half, p99, p999, longest] = [500, 990, 999, 1000].map(share);
    let asked = waits.len();
    println!(
        "{upgrades} upgrades, {sessions} sessions, {connected} connections, {asked} questions: \
         p50 {half:?}, p99 {p99:?}, p99.9 {p999:?}, longest {longest:?}"
    );
    let log = pgvane.log_text();
    let field = |line: &str, name: &str| line.split(name).nth(1)?.split(' ').next()?.parse::<f64>().ok();
    let moves: Vec<&str> = log.lines().filter(|line| line.contains("each waited so long")).collect();
    let of_moves = |name: &str| {
        let mut all: Vec<f64> = moves.iter().filter_map(|line| field(line, name)).collect();
        all.sort_by(f64::total_cmp);
        all
    };
    println!("p99 of the waits in ms: {:.1?}, longest: {:.1?}", of_moves("p99_ms="), of_moves("longest_ms="));
    let mut seen = HashSet::new();
    assert!(ids(&pgvane).await.into_iter().all(|id| seen.insert(id)), "each session has its own number");
    let ended = || async {
        let log = pgvane.log_text();
        let ended = log.lines().filter(|line| line.contains(ENDED)).count();
        if ended == upgrades { Ok(()) } else { Err(format!("{ended} have ended")) }
    };
    wait::until("the ends of the old processes", SOON, ended).await.expect("they end");
    let log = pgvane.log_text();
    assert!(!log.contains("ERROR") && !log.contains("session ended"), "{log}");
}
