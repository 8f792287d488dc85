//! With what pgvane logs sessions in again at the new leader, and what an upgrade of pgvane changes about that.

use pgvane_loadtest::login::Login;
use pgvane_loadtest::wait;

use super::carried::{carrying, is_carried, known, prepared, switch_over, with_state};
use super::parked::Hook;
use crate::command_line::{FAILURE, OK};
use crate::figures::wait_for_status;
use crate::operators::Operator;
use crate::stage::{pgvane_before, sound_cluster};
use crate::wire::{SOON, Session, in_time};

/// A session whose login the new leader refuses ends with the server's words; the others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_whose_login_is_refused_ends_with_the_reason_and_the_others_go_on() {
    let lab = sound_cluster().await;
    prepared(&lab).await;
    let configured = carrying(&lab);
    let pgvane = pgvane_before(&lab, &configured).await;
    let operator = Operator::at(&pgvane, lab.directory());
    let leader = lab.wait_for_leader(SOON).await.expect("a leader");
    let session = Session::through(pgvane.write_addr).await;
    operator.says(&["park"]).await.ended_with(OK);
    let superuser = Login::Superuser.connect(lab.nodes()[leader].pg, SOON).await.expect("a session");
    in_time("no login", superuser.batch_execute("alter role trusting nologin")).await.expect("is set");
    switch_over(&lab).await;
    let end = session.wire.fatal().await;
    assert_eq!(end.sqlstate().as_deref(), Some("57P01"));
    let told = end.field(b'M').expect("a message");
    assert!(told.contains("could not be carried") && told.contains("is not permitted to log in"), "{told}");
    prepared(&lab).await;
}

/// pgvane has never seen the password: it answers the new leader with what it has learnt when the client logged in, also
/// if that was another process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_has_logged_in_by_scram_is_carried_without_its_password() {
    let lab = sound_cluster().await;
    prepared(&lab).await;
    let leader = lab.wait_for_leader(SOON).await.expect("a leader");
    let superuser = Login::Superuser.connect(lab.nodes()[leader].pg, SOON).await.expect("a session");
    let role = "drop schema if exists pgvane cascade; \
                do $$ begin create role vane login password 'vane'; exception when duplicate_object then null; end $$";
    in_time("a role", superuser.batch_execute(role)).await.expect("is created");
    let configured = carrying(&lab);
    let query = "carry_auth_query = \"select rolname, verifier from pgvane.verifier($1)\"\n\
                 sql = { user = \"vane\", password = \"vane\" }";
    let pgvane = pgvane_before(&lab, |pgvane| configured(pgvane).cluster(query)).await;
    let operator = Operator::at(&pgvane, lab.directory());
    let client = Login::App.connect(pgvane.write_addr, SOON).await.expect("a session");
    let statement = in_time("a statement", client.prepare("select $1::integer + 1")).await.expect("is prepared");
    let could_be_carried = async |sessions: usize| {
        let look = || async {
            let answer = operator.says(&["switchover", "--dry-run"]).await;
            if answer.out.contains(&format!(", {sessions} could be carried")) { Ok(()) } else { Err(answer.out) }
        };
        wait::until("the key of the role", SOON, look).await.unwrap_or_else(|error| panic!("{error}"));
    };
    // no key is known yet, and the login was in another process
    let missing = "the process before has not sent the keys of their roles";
    let from = pgvane.log_length();
    pgvane.upgrade().await.expect("upgrades");
    pgvane.wait_for_log(missing, from, SOON).await.expect("is logged");
    assert!(pgvane.log_from(from).contains("cluster=\"main\" sessions=1"), "{}", pgvane.log_from(from));
    let why = "no client of its role has logged in since this process was started";
    for command in [&["switchover", "--dry-run"][..], &["sessions"]] {
        let answer = operator.says(command).await;
        assert!(answer.out.contains(why), "{}", answer.out);
    }
    let page = pgvane.admin_get("/stats/sessions").await.expect("is served").body;
    assert!(page.contains(why), "{page}");
    let function = include_str!("../../../config/carry-verifier.sql").replace("TO pgvane", "TO vane");
    in_time("a function", superuser.batch_execute(&function)).await.expect("is created");
    let _other = Login::App.connect(pgvane.write_addr, SOON).await.expect("a session");
    could_be_carried(2).await;
    assert!(!operator.says(&["sessions"]).await.out.contains(why));

    // a key that is known goes along
    let from = pgvane.log_length();
    pgvane.upgrade().await.expect("upgrades");
    could_be_carried(2).await;
    pgvane.wait_for_log("the process before has ended; its sessions are here", from, SOON).await.expect("is logged");
    let log = pgvane.log_text();
    assert!(!log[from..].contains(missing) && !log.contains("SCRAM-SHA-256$"), "{log}");
    let process = async || -> i32 {
        let row = in_time("an answer", client.query_one("select pg_backend_pid()", &[])).await.expect("no error");
        row.get(0)
    };
    let before = process().await;
    operator.says(&["park"]).await.ended_with(OK);
    switch_over(&lab).await;
    assert_ne!(process().await, before);
    let summed_up = "all sessions without a server were carried to the leader";
    pgvane.wait_for_log(summed_up, from, SOON).await.expect("is logged");
    assert!(
        pgvane.log_from(from).contains("carried=2 in_advance=2 longest_wait_seconds="),
        "{}",
        pgvane.log_from(from)
    );
    let row = in_time("an answer", client.query_one(&statement, &[&41])).await.expect("it is prepared there too");
    assert_eq!(row.get::<_, i32>(0), 42);
}

/// One at a time: most of the sessions have no server for some seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: make test-long"]
async fn there_is_no_upgrade_while_sessions_have_no_server_and_after_it_they_have_their_state() {
    let lab = sound_cluster().await;
    prepared(&lab).await;
    let configured = carrying(&lab);
    let pgvane = pgvane_before(&lab, |pgvane| configured(pgvane).cluster("carry_rate = \"1/s\"")).await;
    let operator = Operator::at(&pgvane, lab.directory());
    let hook = Hook::set(&lab, &pgvane).await;
    let mut idle = Vec::new();
    for number in 0..8 {
        idle.push(known(with_state(pgvane.write_addr, number).await).await);
    }
    let upgrading = async {
        wait_for_status(&pgvane, "some are being carried", |status| {
            let cluster = &status["clusters"][0];
            cluster["park"].is_null() && cluster["carry_counts"]["under_way"].as_u64() > Some(1)
        })
        .await;
        operator.says(&["upgrade"]).await
    };
    let (leader, refused) = tokio::join!(switch_over(&lab), upgrading);
    refused.ended_with(FAILURE);
    assert!(refused.err.contains("are being carried to another leader: try again"), "{}", refused.err);
    wait_for_status(&pgvane, "all were carried", |status| status["clusters"][0]["carry_counts"]["under_way"] == 0)
        .await;
    operator.says(&["upgrade"]).await.ended_with(OK);
    for mut one in idle {
        is_carried(&mut one, &lab, leader).await;
    }
    hook.removed(&lab).await;
}
