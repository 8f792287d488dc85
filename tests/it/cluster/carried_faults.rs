//! Sessions are carried although something goes wrong: a pgvane that Patroni's hook asks is down, frozen or restarted, or
//! Patroni refuses the switchover.

use std::time::Duration;

use pgvane_loadtest::lab::Lab;
use pgvane_loadtest::messages::{message, query};
use pgvane_loadtest::pgvane::{Pgvane, PgvaneBuilder};

use super::carried::{
    Known, PROCESS, STATE, Writing, carrying, is_carried, known, longest_pause, prepared, switch_over, with_state,
};
use super::parked::Hook;
use super::switched::synchronous_standby;
use crate::command_line::{FAILURE, OK};
use crate::figures::wait_for_status;
use crate::operators::Operator;
use crate::stage::{PATRONI_WITHIN, leader_and_replicas, pgvane_before, sound_cluster};
use crate::wire::{SOON, Session};

/// How long the hook waits for a pgvane.
const HOOK_WAIT: Duration = Duration::from_secs(6);

/// Sessions of each kind.
const CLIENTS: usize = 4;

/// A pgvane with which nothing goes wrong, and its sessions: some between two transactions, and some that write.
struct Sound {
    pgvane: Pgvane,
    idle: Vec<Known>,
    writing: Vec<Writing>,
}

impl Sound {
    async fn before(lab: &Lab) -> Sound {
        let configured = carrying(lab);
        let pgvane = pgvane_before(lab, &configured).await;
        let (mut idle, mut writing) = (Vec::new(), Vec::new());
        for number in 0..CLIENTS {
            idle.push(known(with_state(pgvane.write_addr, number).await).await);
            writing.push(Writing::start(Session::through(pgvane.write_addr).await, number));
        }
        Sound { pgvane, idle, writing }
    }

    /// All its sessions were carried: none has met an error, and each has its state at another server. Returns the longest
    /// pause of one.
    async fn has_carried_all(self, lab: &Lab, leader: usize) -> Duration {
        let Sound { pgvane: _runs, idle, writing } = self;
        for mut one in idle {
            is_carried(&mut one, lab, leader).await;
        }
        let longest = longest_pause(writing).await;
        println!("the longest pause: {longest:?}");
        longest
    }
}

/// A new client through this pgvane gets the leader, and nothing is parked there any more.
async fn serves(pgvane: &Pgvane, lab: &Lab, leader: usize) {
    let mut session = Session::through(pgvane.write_addr).await;
    let port = lab.nodes()[leader].pg.port().to_string();
    assert_eq!(session.value("select inet_server_port()").await, port);
    wait_for_status(pgvane, "no park", |status| status["clusters"][0]["park"].is_null()).await;
}

/// The hook has cost a switchover no more than `--wait`, and the time to start a program on a busy machine.
fn took_no_longer_than_the_wait(took: Duration) {
    println!("the hook took {took:?}");
    assert!(took < HOOK_WAIT + SOON, "the hook took {took:?}");
}

async fn hook_at(lab: &Lab, pgvanes: &[&Pgvane]) -> Hook {
    Hook::at(lab, pgvanes, &format!("{}s", HOOK_WAIT.as_secs())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: make test-long"]
async fn a_switchover_goes_on_and_the_others_are_carried_if_a_pgvane_that_the_hook_asks_is_down() {
    let lab = sound_cluster().await;
    prepared(&lab).await;
    let (old_leader, _) = leader_and_replicas(&lab).await;
    let sound = Sound::before(&lab).await;
    let down = pgvane_before(&lab, carrying(&lab)).await;
    let hook = hook_at(&lab, &[&down, &sound.pgvane]).await;
    drop(down);
    let leader = switch_over(&lab).await;
    let (took, code) = hook.newest_run(&lab, old_leader).await;
    took_no_longer_than_the_wait(took);
    assert_eq!(code, FAILURE, "it says so, and Patroni goes on");
    sound.has_carried_all(&lab, leader).await;
    hook.removed(&lab).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: make test-long"]
async fn a_switchover_goes_on_and_the_others_are_carried_if_a_pgvane_that_the_hook_asks_is_frozen() {
    let lab = sound_cluster().await;
    prepared(&lab).await;
    let (old_leader, _) = leader_and_replicas(&lab).await;
    let sound = Sound::before(&lab).await;
    let frozen = pgvane_before(&lab, carrying(&lab)).await;
    let hook = hook_at(&lab, &[&frozen, &sound.pgvane]).await;
    let idle = with_state(frozen.write_addr, CLIENTS).await;
    let mut asking = Session::through(frozen.write_addr).await;
    frozen.suspend().await.expect("it runs");
    asking.wire.send(&query("select 1")).await;
    let leader = switch_over(&lab).await;
    let (took, _) = hook.newest_run(&lab, old_leader).await;
    assert!(took >= HOOK_WAIT, "it was asked: {took:?}");
    took_no_longer_than_the_wait(took);
    sound.has_carried_all(&lab, leader).await;

    // it learns all at once: that the sessions are to be parked, that their server has closed them, and who leads
    frozen.resume().expect("it is there");
    for session in [idle, asking] {
        let end = session.wire.fatal().await;
        println!("{:?}", end.field(b'M'));
        assert_eq!(end.sqlstate().as_deref(), Some("57P01"), "{end:?}");
    }
    serves(&frozen, &lab, leader).await;
    hook.removed(&lab).await;
}

/// The sessions of those that answer are parked meanwhile, so they must not wait for one frozen pgvane after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: make test-long"]
async fn frozen_pgvanes_keep_the_sessions_of_the_others_waiting_for_some_seconds_only() {
    let lab = sound_cluster().await;
    prepared(&lab).await;
    leader_and_replicas(&lab).await;
    let first = pgvane_before(&lab, carrying(&lab)).await;
    let sound = Sound::before(&lab).await;
    let frozen = [pgvane_before(&lab, carrying(&lab)).await, pgvane_before(&lab, carrying(&lab)).await];
    for pgvane in &frozen {
        pgvane.suspend().await.expect("it runs");
    }
    let admin = [&first, &sound.pgvane, &frozen[0], &frozen[1]].map(|pgvane| format!("http://{}", pgvane.admin_addr));
    let operator = Operator::at(&first, lab.directory());
    let candidate = lab.nodes()[synchronous_standby(&lab).await].name.clone();
    let answer = operator.says_at(&admin.join(","), &["switchover", "--to", &candidate]).await;
    answer.ended_with(OK);
    let without = answer.err.matches("no answer within 5 s; the switchover goes on without it").count();
    assert_eq!(without, 2, "{}", answer.err);
    let leader = lab.wait_for_leader(PATRONI_WITHIN).await.expect("a leader");
    let longest = sound.has_carried_all(&lab, leader).await;
    assert!(longest < Duration::from_secs(20), "{longest:?}");
    for pgvane in &frozen {
        pgvane.resume().expect("it is there");
        serves(pgvane, &lab, leader).await;
    }
}

/// Its sessions were parked before: it carries them as soon as it runs again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: make test-long"]
async fn sessions_that_were_parked_are_carried_when_their_pgvane_was_frozen_after_that() {
    let lab = sound_cluster().await;
    prepared(&lab).await;
    let (old_leader, _) = leader_and_replicas(&lab).await;
    let frozen = pgvane_before(&lab, carrying(&lab)).await;
    let hook = hook_at(&lab, &[&frozen]).await;
    let mut idle = Vec::new();
    for number in 0..CLIENTS {
        idle.push(known(with_state(frozen.write_addr, number).await).await);
    }
    // its transaction keeps the hook waiting
    let mut busy = Session::through(frozen.write_addr).await;
    busy.ask("begin").await;
    let freezing = async {
        wait_for_status(&frozen, "all but one parked", |status| {
            let park = &status["clusters"][0]["park"];
            park["parked"] == CLIENTS && park["finishing"] == 1
        })
        .await;
        frozen.suspend().await.expect("it runs");
    };
    let (leader, ()) = tokio::join!(switch_over(&lab), freezing);
    let (took, code) = hook.newest_run(&lab, old_leader).await;
    assert!(took >= HOOK_WAIT && code == FAILURE, "{took:?}, {code}");
    took_no_longer_than_the_wait(took);
    frozen.resume().expect("it is there");
    for mut one in idle {
        is_carried(&mut one, &lab, leader).await;
    }
    let end = busy.wire.fatal().await;
    assert_eq!(end.sqlstate().as_deref(), Some("57P01"), "its transaction ended with its server: {end:?}");
    serves(&frozen, &lab, leader).await;
    hook.removed(&lab).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: make test-long"]
async fn a_switchover_goes_on_and_the_others_are_carried_if_a_pgvane_is_restarted_while_the_hook_waits_for_it() {
    let lab = sound_cluster().await;
    prepared(&lab).await;
    let (old_leader, _) = leader_and_replicas(&lab).await;
    let sound = Sound::before(&lab).await;
    let configured = carrying(&lab);
    let configured = |pgvane: PgvaneBuilder| configured(pgvane).top("drain_timeout = \"1s\"");
    let mut stopped = pgvane_before(&lab, configured).await;
    let hook = hook_at(&lab, &[&stopped, &sound.pgvane]).await;
    let idle = with_state(stopped.write_addr, CLIENTS).await;
    let mut busy = Session::through(stopped.write_addr).await;
    busy.ask("begin").await;
    let ports = [stopped.write_addr, stopped.read_addr, stopped.admin_addr].map(|address| address.port());
    let restarting = async {
        wait_for_status(&stopped, "one in a transaction", |status| {
            let park = &status["clusters"][0]["park"];
            park["parked"] == 1 && park["finishing"] == 1
        })
        .await;
        stopped.terminate().expect("it runs");
        for session in [idle, busy] {
            let end = session.wire.fatal().await;
            assert_eq!(end.sqlstate().as_deref(), Some("57P01"), "{end:?}");
            let told = end.field(b'M').expect("a message");
            assert_eq!(told, "pgvane: terminating connection because the proxy is stopping");
        }
        let ended = stopped.wait(SOON).await.expect("it ends");
        assert!(ended.success(), "{}", stopped.log_text());
        pgvane_before(&lab, |pgvane| configured(pgvane).ports(ports[0], ports[1], ports[2])).await
    };
    let (leader, started) = tokio::join!(switch_over(&lab), restarting);
    // it fails, unless it hears that the last session has ended before the process has
    let (took, _) = hook.newest_run(&lab, old_leader).await;
    took_no_longer_than_the_wait(took);
    sound.has_carried_all(&lab, leader).await;
    serves(&started, &lab, leader).await;
    hook.removed(&lab).await;
}

// ---- Patroni refuses ------------------------------------------------------------------------------------------------

/// Also sessions that could not be carried go on: nothing is lost that only their server has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: make test-long"]
async fn sessions_go_on_with_all_their_state_if_patroni_refuses_the_switchover() {
    let lab = sound_cluster().await;
    prepared(&lab).await;
    let (leader, replicas) = leader_and_replicas(&lab).await;
    let configured = carrying(&lab);
    let pgvane = pgvane_before(&lab, &configured).await;
    let operator = Operator::at(&pgvane, lab.directory());
    let (mut free, before) = known(with_state(pgvane.write_addr, 0).await).await;
    let mut tied = Session::through(pgvane.write_addr).await;
    tied.ask("create temporary table mine as select 7 as number; select pg_advisory_lock(7)").await;
    tied.ask("begin; declare held cursor with hold for select generate_series(1, 3); commit").await;
    let tied_to = tied.value(PROCESS).await;
    let writing = Writing::start(Session::through(pgvane.write_addr).await, 1);
    let unnamed = [message(b'P', b"\0select 42\0\0\0"), message(b'S', b"")].concat();
    free.wire.send(&unnamed).await;
    free.wire.messages_until(b'Z').await;

    lab.pause().await.expect("is paused");
    let in_pause = operator.says(&["switchover"]).await;
    lab.resume().await.expect("is resumed");
    in_pause.ended_with(FAILURE);
    assert!(in_pause.err.contains("possible only to a specific candidate in a paused state"), "{}", in_pause.err);
    // in synchronous mode no other node may lead than the synchronous standby
    let standby = synchronous_standby(&lab).await;
    let other = replicas.into_iter().find(|replica| *replica != standby).expect("there are two");
    let no_candidate = operator.says(&["switchover", "--to", &lab.nodes()[other].name]).await;
    no_candidate.ended_with(FAILURE);
    println!("{}", no_candidate.err);
    assert!(no_candidate.err.starts_with("pgvane: there is no switchover: Patroni says: "), "{}", no_candidate.err);
    assert!(no_candidate.err.ends_with("; the sessions go on\n"), "{}", no_candidate.err);
    assert_eq!(lab.leader().await, Some(leader));
    let bound = [message(b'B', b"\0\0\0\0\0\0\0\0"), message(b'E', b"\0\0\0\0\0"), message(b'S', b"")].concat();
    free.wire.send(&bound).await;
    let answer = free.wire.messages_until(b'Z').await;
    assert!(answer.iter().any(|message| message.kind == b'D' && message.body.ends_with(b"42")), "{answer:?}");
    assert_eq!([free.value(STATE).await, free.value(PROCESS).await], before);
    assert_eq!(tied.value("select number from mine").await, "7");
    assert_eq!(tied.value("fetch 1 from held").await, "1");
    assert_eq!(tied.value("select pg_advisory_unlock(7)").await, "t");
    assert_eq!(tied.value(PROCESS).await, tied_to);
    let (written, pause, mut session) = writing.finish().await;
    assert_eq!(session.value("select count(*) from carried_counter where session = 1").await, written.to_string());
    println!("the longest pause of a client that writes: {pause:?}");
    wait_for_status(&pgvane, "no park", |status| status["clusters"][0]["park"].is_null()).await;
}

// ---- on their way ---------------------------------------------------------------------------------------------------

/// They log in so slowly that most of them have no server for the whole test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: make test-long"]
async fn a_session_without_a_server_can_be_closed_or_left_by_its_client_and_ends_when_pgvane_stops() {
    let lab = sound_cluster().await;
    prepared(&lab).await;
    let configured = carrying(&lab);
    let mut pgvane = pgvane_before(&lab, |pgvane| {
        configured(pgvane).cluster("carry_rate = \"1/min\"").top("drain_timeout = \"1s\"")
    })
    .await;
    let operator = Operator::at(&pgvane, lab.directory());
    let mut sessions = Vec::new();
    for number in 0..CLIENTS {
        sessions.push(with_state(pgvane.write_addr, number).await);
    }
    operator.says(&["park"]).await.ended_with(OK);
    switch_over(&lab).await;
    let left = async |sessions: usize| {
        let what = format!("{sessions} without a server");
        wait_for_status(&pgvane, &what, |status| {
            let cluster = &status["clusters"][0];
            cluster["park"].is_null() && cluster["carry_counts"]["under_way"] == sessions
        })
        .await;
    };
    left(CLIENTS - 1).await;
    let listed = operator.says(&["sessions", "--state", "parked", "--json"]).await;
    let listed: serde_json::Value = serde_json::from_str(&listed.out).expect("JSON");
    assert_eq!(listed["total"], CLIENTS - 1, "{listed}");
    let ids: Vec<String> = (0..CLIENTS - 1).map(|at| listed["sessions"][at]["id"].to_string()).collect();
    let all = operator.says(&["sessions", "--json"]).await;
    let all: serde_json::Value = serde_json::from_str(&all.out).expect("JSON");
    let order: Vec<String> = (0..CLIENTS).map(|at| all["sessions"][at]["id"].to_string()).collect();
    let mut waiting: Vec<Session> =
        sessions.into_iter().zip(&order).filter(|(_, id)| ids.contains(id)).map(|(session, _)| session).collect();
    operator.says(&["close", "--session", &ids[0], "--yes"]).await.ended_with(OK);
    let end = waiting.remove(0).wire.fatal().await;
    assert_eq!(end.sqlstate().as_deref(), Some("57P01"), "{end:?}");
    let why = "pgvane: terminating connection because an operator has closed the session";
    assert_eq!(end.field(b'M').as_deref(), Some(why));
    left(CLIENTS - 2).await;
    drop(waiting.remove(0));
    left(CLIENTS - 3).await;
    pgvane.terminate().expect("it runs");
    for session in waiting {
        let end = session.wire.fatal().await;
        let told = end.field(b'M').expect("a message");
        assert_eq!(told, "pgvane: terminating connection because the proxy is stopping");
    }
    assert!(pgvane.wait(SOON).await.expect("it ends").success(), "{}", pgvane.log_text());
}

/// The candidate dies while the old leader stops: the sessions wait until a node leads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: make test-long"]
async fn sessions_are_carried_also_if_the_candidate_dies_during_the_switchover() {
    let lab = sound_cluster().await;
    prepared(&lab).await;
    let configured = carrying(&lab);
    let pgvane = pgvane_before(&lab, |pgvane| configured(pgvane).cluster("park_max = \"90s\"")).await;
    let hook = Hook::set(&lab, &pgvane).await;
    let candidate = synchronous_standby(&lab).await;
    let mut idle = Vec::new();
    for number in 0..CLIENTS {
        idle.push(known(with_state(pgvane.write_addr, number).await).await);
    }
    let dying = async {
        wait_for_status(&pgvane, "a park", |status| !status["clusters"][0]["park"].is_null()).await;
        lab.kill_node(candidate).expect("it runs");
    };
    let (asked, ()) = tokio::join!(lab.ask_for_switchover(), dying);
    println!("{asked:?}");
    lab.start_node(candidate).expect("it starts");
    let leader = lab.wait_for_leader(PATRONI_WITHIN).await.expect("a leader");
    println!("{} leads", lab.nodes()[leader].name);
    let asked = idle.into_iter().map(|(mut session, [state, _])| {
        tokio::spawn(async move {
            session.wire.send(&query(STATE)).await;
            // longer than one step of other tests takes: Patroni waits until the lock of the leader is over
            let answered = async {
                loop {
                    match session.wire.message_whenever().await {
                        Some(message) if message.kind == b'D' => break message,
                        Some(message) if message.kind != b'E' => {}
                        other => panic!("{other:?}"),
                    }
                }
            };
            let row = tokio::time::timeout(PATRONI_WITHIN, answered).await.expect("an answer");
            assert_eq!(String::from_utf8_lossy(&row.body[6..]), state);
        })
    });
    for one in asked.collect::<Vec<_>>() {
        one.await.expect("has its state");
    }
    lab.wait_until_all_streaming(PATRONI_WITHIN).await.expect("a sound cluster");
    hook.removed(&lab).await;
}
