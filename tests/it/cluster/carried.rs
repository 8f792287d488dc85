//! Write sessions are carried to the new leader with their state: their clients see a pause and no error.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use pgvane_loadtest::lab::Lab;
use pgvane_loadtest::login::Login;
use pgvane_loadtest::messages::{cancel_request, message, query};
use pgvane_loadtest::pgvane::PgvaneBuilder;
use pgvane_loadtest::programs::Postgresql;
use pgvane_loadtest::wait;
use tokio::task::JoinHandle;

use super::parked::{Hook, restart};
use crate::certificates::Certificates;
use crate::command_line::OK;
use crate::figures::wait_for_status;
use crate::operators::Operator;
use crate::stage::{PATRONI_WITHIN, leader_and_replicas, pgvane_before, sound_cluster, sound_cluster_of};
use crate::wire::{Message, SOON, Session, Wire, in_time, plain_startup};

/// Sessions with state of their own, and sessions that write all the time.
const CLIENTS: usize = 10;

pub(super) const PROCESS: &str = "select pg_backend_pid()";

/// What a session sees of its state.
pub(super) const STATE: &str = "select concat_ws('|', current_setting('work_mem'), current_setting('app.tenant', true), \
                     current_setting('application_name'), current_user, current_setting('search_path'), \
                     (select string_agg(name || statement || parameter_types::text, ',' order by name) \
                     from pg_prepared_statements), \
                     (select string_agg(channel, ',' order by channel) from pg_listening_channels() as l (channel)))";

pub(super) fn carrying(lab: &Lab) -> impl Fn(PgvaneBuilder) -> PgvaneBuilder + use<> {
    let users = Operator::line(lab.directory());
    move |pgvane| {
        let pgvane =
            pgvane.admin(&users).cluster("park = true").cluster("park_grace = \"20s\"").cluster("carry = true");
        pgvane.cluster("carry_settings = [\"app.tenant\"]").hold_max("60s")
    }
}

/// What the sessions of these tests need in the database.
pub(super) async fn prepared(lab: &Lab) {
    let leader = lab.wait_for_leader(SOON).await.expect("a leader");
    let superuser = Login::Superuser.connect(lab.nodes()[leader].pg, SOON).await.expect("a session");
    let role = "do $$ begin create role carried_role; exception when duplicate_object then null; end $$; \
                grant carried_role to trusting; alter role trusting reset all; alter role trusting login";
    in_time("a role", superuser.batch_execute(role)).await.expect("is created");
    let owner = Login::App.connect(lab.nodes()[leader].pg, SOON).await.expect("a session");
    let tables = "drop table if exists carried_counter; create table carried_counter (session integer, number integer); \
                  grant all on carried_counter to trusting";
    in_time("a table", owner.batch_execute(tables)).await.expect("is created");
}

pub(super) async fn with_state(address: SocketAddr, number: usize) -> Session {
    let mut session = Session::through(address).await;
    for statement in [
        format!("set application_name = 'client {number}'; set work_mem = '{}MB'", number + 5),
        format!("set app.tenant = 'tenant {number}'; set search_path = public, \"schema {number}\""),
        format!("prepare mine (integer) as select $1 + {number}"),
        format!("listen channel_{number}"),
        "set role carried_role".to_owned(),
    ] {
        session.ask(&statement).await;
    }
    session.wire.send(&[message(b'P', b"theirs\0select $1 || 'x'\0\0\0"), message(b'S', b"")].concat()).await;
    session.wire.messages_until(b'Z').await;
    session
}

/// A session that writes all the time.
pub(super) struct Writing {
    stop: Arc<AtomicBool>,
    task: JoinHandle<(u32, Duration, Session)>,
}

impl Writing {
    pub(super) fn start(mut session: Session, number: usize) -> Writing {
        let stop = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let (mut written, mut longest) = (0, Duration::ZERO);
            while !is_over.load(SeqCst) {
                let begun = Instant::now();
                let insert = format!("insert into carried_counter values ({number}, {written})");
                let is_in_transaction = written % 2 == 0;
                let steps = if is_in_transaction { vec!["begin", &insert, "commit"] } else { vec![insert.as_str()] };
                for step in steps {
                    let answer = session.ask(step).await;
                    let errors: Vec<&Message> = answer.iter().filter(|message| message.kind == b'E').collect();
                    assert!(errors.is_empty(), "{step}: {errors:?}");
                    assert_eq!(answer.last().map(|message| message.kind), Some(b'Z'), "{step}: {answer:?}");
                }
                written += 1;
                longest = longest.max(begun.elapsed());
                tokio::time::sleep(Duration::from_millis(5)).await; // a client's pace, not a wait
            }
            (written, longest, session)
        });
        Writing { stop, task }
    }

    /// The number of rows that were acknowledged, the longest pause, and the session.
    pub(super) async fn finish(self) -> (u32, Duration, Session) {
        self.stop.store(true, SeqCst);
        in_time("the end", self.task).await.expect("no error")
    }
}

/// Ends the sessions that write: of each, every acknowledged row is there, and none twice. Returns the longest pause of one.
pub(super) async fn longest_pause(writing: Vec<Writing>) -> Duration {
    let mut longest = Duration::ZERO;
    for (number, writing) in writing.into_iter().enumerate() {
        let (written, pause, mut session) = writing.finish().await;
        let found = session.value(&format!("select count(*) from carried_counter where session = {number}")).await;
        assert_eq!(found, written.to_string(), "each acknowledged row is there, and none twice");
        longest = longest.max(pause);
    }
    longest
}

/// A session with its state and its server process.
pub(super) type Known = (Session, [String; 2]);

pub(super) async fn known(mut session: Session) -> Known {
    let before = [session.value(STATE).await, session.value(PROCESS).await];
    (session, before)
}

/// The session has its state at another server process, which is that of the leader and is known from now on.
pub(super) async fn is_carried((session, [state, process]): &mut Known, lab: &Lab, leader: usize) {
    assert_eq!(session.value(STATE).await, *state);
    let now = session.value(PROCESS).await;
    assert_ne!(now, *process, "another server serves it");
    *process = now;
    let port = lab.nodes()[leader].pg.port().to_string();
    assert_eq!(session.value("select inet_server_port()").await, port);
}

async fn through_switchovers(postgresql: Postgresql) {
    let lab = sound_cluster_of(postgresql).await;
    prepared(&lab).await;
    let files = Certificates::new();
    files.issue("server", "localhost");
    let [certificate, key] = ["server.pem", "server.key"].map(|name| files.path(name));
    let tls = format!("tls = {{ mode = \"terminate\", cert_file = \"{certificate}\", key_file = \"{key}\" }}");
    let configured = carrying(&lab);
    let pgvane = pgvane_before(&lab, |pgvane| configured(pgvane).write_listener(&tls)).await;
    let hooked = Hook::set(&lab, &pgvane).await;
    let mut idle = Vec::new();
    for number in 0..CLIENTS {
        idle.push(known(with_state(pgvane.write_addr, number).await).await);
    }
    let mut writing = Vec::new();
    for number in 0..CLIENTS {
        let session = match number % 2 {
            0 => Session::through(pgvane.write_addr).await,
            _ => {
                let wire = Wire::to(pgvane.write_addr).await.asks_for_tls(&files.client(&[])).await;
                wire.log_in(&plain_startup()).await
            }
        };
        writing.push(Writing::start(session, number));
    }
    for round in 0..2 {
        let leader = switch_over(&lab).await;
        println!("round {round}");
        for (number, one) in idle.iter_mut().enumerate() {
            is_carried(one, &lab, leader).await;
            assert_eq!(one.0.value("execute mine (1)").await, (number + 1).to_string());
        }
        lab.wait_until_all_streaming(SOON).await.expect("a sound cluster");
    }
    // cancel requests reach the server on which the session is
    let (mut session, [_, process]) = idle.pop().expect("there is one");
    session.wire.send(&query("select pg_sleep(60)")).await;
    let is_asleep =
        format!("select count(*) from pg_stat_activity where pid = {process} and query like '%pg_sleep(60)%'");
    let mut other = Session::through(pgvane.write_addr).await;
    wait_until(&mut other, &is_asleep, "1").await;
    Wire::to(pgvane.write_addr).await.send(&cancel_request(&session.key)).await;
    let answer = session.wire.messages_until(b'Z').await;
    assert_eq!(answer[0].sqlstate().or_else(|| answer[1].sqlstate()).as_deref(), Some("57014"), "{answer:?}");

    let longest = longest_pause(writing).await;
    println!("the longest pause of a client: {longest:?}");
    // each listens again
    for (number, (session, _)) in idle.iter_mut().enumerate() {
        other.ask(&format!("notify channel_{number}")).await;
        assert_eq!(session.wire.message().await.expect("it listens").kind, b'A');
    }
    hooked.removed(&lab).await;
}

async fn wait_until(session: &mut Session, question: &str, expected: &str) {
    let begun = Instant::now();
    while session.value(question).await != expected {
        assert!(begun.elapsed() < SOON, "{question}: not {expected} within {SOON:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switchovers_by_patronictl_are_a_pause_for_sessions_with_all_kinds_of_state() {
    through_switchovers(Postgresql::Packaged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes over a minute: make test-long"]
async fn switchovers_are_a_pause_with_postgresql_18() {
    through_switchovers(Postgresql::Eighteen).await;
}

/// The same node leads again. What cannot be carried ends, and each client learns why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_leader_is_a_pause_but_for_sessions_that_are_tied_to_it() {
    let lab = sound_cluster().await;
    prepared(&lab).await;
    let configured = carrying(&lab);
    let pgvane = pgvane_before(&lab, &configured).await;
    let operator = Operator::at(&pgvane, lab.directory());
    let (leader, _) = leader_and_replicas(&lab).await;
    let hooked = Hook::set(&lab, &pgvane).await;
    let mut free = with_state(pgvane.write_addr, 1).await;
    let before = free.value(STATE).await;
    let mut tied = Vec::new();
    for (state, why) in [
        ("create temporary table mine (number integer)", "1 temporary object"),
        ("select pg_advisory_lock(7)", "1 advisory lock"),
        ("select 1; prepare mine as select 1", "PREPARE \"mine\" together with other statements"),
    ] {
        let mut session = Session::through(pgvane.write_addr).await;
        session.ask(state).await;
        tied.push((session, why));
    }
    // an authentication that pgvane cannot repeat without the role's key
    let certified = Login::App.connect(pgvane.write_addr, SOON).await.expect("a session");
    let mut waits = with_state(pgvane.write_addr, 2).await;

    // requests that the client sends while there is no server are answered by the next one
    let asking = async {
        wait_for_status(&pgvane, "a park", |status| status["clusters"][0]["park"]["parked"] == 6).await;
        waits.wire.send(&[query("select 1"), query("begin"), query("select 2")].concat()).await;
        for _ in 0..3 {
            let answer = waits.wire.messages_until(b'Z').await;
            assert!(answer.iter().all(|message| message.kind != b'E'), "{answer:?}");
        }
        assert_eq!(waits.ask("rollback").await[0].body, b"ROLLBACK\0");
    };
    tokio::join!(restart(&lab, leader), asking);
    assert_eq!(free.value(STATE).await, before);
    for (session, why) in tied {
        let end = session.wire.fatal().await;
        assert_eq!(end.sqlstate().as_deref(), Some("57P01"));
        let told = end.field(b'M').expect("a message");
        assert_eq!(
            told,
            format!("pgvane: terminating connection because it could not be carried to the new leader: {why}")
        );
        assert!(end.field(b'D').is_some_and(|detail| detail.contains("were not executed")), "{end:?}");
    }
    drop(certified);
    wait_for_status(&pgvane, "no park", |status| status["clusters"][0]["park"].is_null()).await;
    assert_eq!(waits.value("execute mine (1)").await, "3");
    operator.says(&["status"]).await.ended_with(OK);
    pgvane.wait_for_log("not all sessions without a server were carried", 0, SOON).await.expect("is logged");
    let log = pgvane.log_text();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("sessions without a server were carried")).collect();
    let told = |text| lines[0].contains(text);
    assert!(lines.len() == 1 && told("carried=2 ") && told("not_carried=4 reasons=\"1 login, 3 state\""), "{lines:?}");
    hooked.removed(&lab).await;
}

/// As soon as Patroni does it: in synchronous mode it refuses while there is no synchronous standby.
pub(super) async fn switch_over(lab: &Lab) -> usize {
    let attempt = || async { lab.switchover().await.map_err(|error| error.to_string()) };
    wait::until("a switchover", PATRONI_WITHIN, attempt).await.unwrap_or_else(|error| panic!("{error}"))
}

// ---- faults ---------------------------------------------------------------------------------------------------------

/// If the same leader goes on, nothing is carried: each session keeps its server process, and even what no server tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_are_let_go_on_keep_their_server_and_their_unnamed_statement() {
    let lab = sound_cluster().await;
    prepared(&lab).await;
    let configured = carrying(&lab);
    let pgvane = pgvane_before(&lab, &configured).await;
    let operator = Operator::at(&pgvane, lab.directory());
    let mut session = with_state(pgvane.write_addr, 1).await;
    let before = [session.value(STATE).await, session.value(PROCESS).await];
    session.wire.send(&[message(b'P', b"\0select 42\0\0\0"), message(b'S', b"")].concat()).await;
    session.wire.messages_until(b'Z').await;
    operator.says(&["park"]).await.ended_with(OK);
    // what is held back when the session is asked for its state comes after the question
    session
        .wire
        .send(&[message(b'B', b"\0\0\0\0\0\0\0\0"), message(b'E', b"\0\0\0\0\0"), message(b'S', b"")].concat())
        .await;
    operator.says(&["unpark"]).await.ended_with(OK);
    let answer = session.wire.messages_until(b'Z').await;
    assert!(answer.iter().any(|message| message.kind == b'D' && message.body.ends_with(b"42")), "{answer:?}");
    assert_eq!([session.value(STATE).await, session.value(PROCESS).await], before);
}

/// The next transaction was pipelined behind the one that is finished: it begins on the new leader. A statement that the
/// client closes was prepared there again before, and is closed there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_client_sends_until_its_session_is_carried_is_executed_once_on_the_new_leader() {
    let lab = sound_cluster().await;
    prepared(&lab).await;
    let configured = carrying(&lab);
    let pgvane = pgvane_before(&lab, &configured).await;
    let operator = Operator::at(&pgvane, lab.directory());
    let mut session = Session::through(pgvane.write_addr).await;
    for name in ["one", "two", "three"] {
        let parse = message(b'P', format!("{name}\0select 1\0\0\0").as_bytes());
        session.wire.send(&[parse, message(b'S', b"")].concat()).await;
        session.wire.messages_until(b'Z').await;
    }
    let close = |name: &str| [message(b'C', format!("S{name}\0").as_bytes()), message(b'S', b"")].concat();
    session.ask("begin").await;
    let parking = tokio::spawn(async move { operator.says(&["park", "--wait", "20s"]).await });
    wait_for_status(&pgvane, "a park", |status| status["clusters"][0]["park"]["finishing"] == 1).await;
    let insert = "insert into carried_counter values (1, 1)";
    let pipeline = [query("commit"), query("begin"), query(insert), query("commit"), close("one")].concat();
    session.wire.send(&pipeline).await;
    assert_eq!(session.wire.messages_until(b'Z').await[0].body, b"COMMIT\0");
    parking.await.expect("no panic").ended_with(OK);
    session.wire.send(&close("two")).await; // nobody reads it now
    let leader = switch_over(&lab).await;
    for expected in [&b"BEGIN\0"[..], b"INSERT 0 1\0", b"COMMIT\0"] {
        let answer = session.wire.messages_until(b'Z').await;
        assert!(answer.iter().any(|message| message.body == expected), "{answer:?}");
    }
    for _ in 0..2 {
        let answer = session.wire.messages_until(b'Z').await;
        assert_eq!(answer.iter().map(|message| message.kind).collect::<Vec<_>>(), b"3Z", "{answer:?}");
    }
    assert_eq!(session.value("select string_agg(name, ' ') from pg_prepared_statements").await, "three");
    assert_eq!(session.value("select count(*) from carried_counter").await, "1");
    assert_eq!(session.value("select inet_server_port()").await, lab.nodes()[leader].pg.port().to_string());
}

/// The leader dies while its sessions are parked, and a replica that could lead dies too: they wait until a node leads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "kills two nodes and waits for their recovery: make test-long"]
async fn sessions_are_carried_to_the_node_that_leads_in_the_end() {
    let lab = sound_cluster().await;
    prepared(&lab).await;
    let configured = carrying(&lab);
    let pgvane = pgvane_before(&lab, |pgvane| configured(pgvane).cluster("park_max = \"90s\"")).await;
    let operator = Operator::at(&pgvane, lab.directory());
    let leader = lab.wait_for_leader(SOON).await.expect("a leader");
    let mut sessions = Vec::new();
    for number in 0..CLIENTS {
        let mut session = with_state(pgvane.write_addr, number).await;
        let state = session.value(STATE).await;
        sessions.push((session, state));
    }
    operator.says(&["park"]).await.ended_with(OK);
    let replica = (leader + 1) % lab.nodes().len();
    for node in [leader, replica] {
        lab.kill_node(node).expect("it runs");
    }
    // no node leads meanwhile: the lock of the leader lasts for longer
    for node in [leader, replica] {
        lab.start_node(node).expect("it starts");
    }
    let asked: Vec<JoinHandle<()>> = sessions
        .into_iter()
        .map(|(mut session, state)| {
            tokio::spawn(async move {
                session.wire.send(&query(STATE)).await;
                let row = loop {
                    // some kill and some wait: longer than one step of other tests takes
                    match tokio::time::timeout(PATRONI_WITHIN, session.wire.message_whenever()).await {
                        Ok(Some(message)) if message.kind == b'D' => break message,
                        Ok(Some(message)) if message.kind == b'E' => panic!("{message:?}"),
                        Ok(Some(_)) => {}
                        other => panic!("{other:?}"),
                    }
                };
                assert_eq!(String::from_utf8_lossy(&row.body[6..]), state);
            })
        })
        .collect();
    for one in asked {
        one.await.expect("has its state");
    }
}

/// Few at a time: a second switchover and a reload come while most of the sessions still wait for their turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute: make test-long"]
async fn a_second_switchover_and_a_reload_during_the_first_lose_no_session() {
    let lab = sound_cluster_of(Postgresql::Eighteen).await;
    prepared(&lab).await;
    let configured = carrying(&lab);
    let pgvane = pgvane_before(&lab, |pgvane| configured(pgvane).cluster("carry_rate = \"1/s\"")).await;
    let hooked = Hook::set(&lab, &pgvane).await;
    let mut sessions = Vec::new();
    for number in 0..CLIENTS {
        let mut session = with_state(pgvane.write_addr, number).await;
        let state = [session.value(STATE).await, session.value(PROCESS).await];
        sessions.push((session, state));
    }
    switch_over(&lab).await;
    // its client waits, so it comes before those whose clients do not
    let begun = Instant::now();
    let (last, [state, _]) = sessions.last_mut().expect("there is one");
    assert_eq!(last.value(STATE).await, *state);
    let urgent = begun.elapsed();
    pgvane.reload().expect("it runs");
    let leader = switch_over(&lab).await;
    for (session, [state, process]) in &mut sessions {
        assert_eq!(session.value(STATE).await, *state);
        assert_ne!(session.value(PROCESS).await, *process);
        assert_eq!(session.value("select inet_server_port()").await, lab.nodes()[leader].pg.port().to_string());
    }
    println!("the one whose client waited had its answer after {urgent:?}");
    hooked.removed(&lab).await;
}
