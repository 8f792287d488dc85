//! `pgvane switchover --dry-run`: PostgreSQL itself tells which sessions could be carried, and which not, and why.

use pgvane_loadtest::messages::{message, query};
use pgvane_loadtest::pgvane::PgvaneBuilder;
use pgvane_loadtest::programs::Postgresql;
use serde_json::Value;

use crate::certificates::Certificates;
use crate::command_line::OK;
use crate::operators::Operator;
use crate::stage::{pgvane_before, sound_cluster_of};
use crate::wire::{Session, Wire, plain_startup};

/// What the dry run says of the session with this process; null if it could be carried.
fn why_not(run: &Value, process: &str) -> Value {
    let all = run["not_carried"].as_array().expect("is a list");
    let found = all.iter().find(|one| one["process_id"].as_i64().map(|id| id.to_string()).as_deref() == Some(process));
    found.map_or(Value::Null, |one| one["reasons"].clone())
}

async fn dry_run(operator: &Operator) -> Value {
    let answer = operator.says(&["switchover", "--dry-run", "--json"]).await;
    answer.ended_with(OK);
    serde_json::from_str(&answer.out).unwrap_or_else(|error| panic!("{error}: {}", answer.out))
}

const PROCESS: &str = "select pg_backend_pid()";

async fn every_session_is_asked(postgresql: Postgresql) {
    let lab = sound_cluster_of(postgresql).await;
    let (users, files) = (Operator::line(lab.directory()), Certificates::new());
    files.issue("server", "localhost");
    let [certificate, key] = ["server.pem", "server.key"].map(|name| files.path(name));
    let tls = format!("tls = {{ mode = \"terminate\", cert_file = \"{certificate}\", key_file = \"{key}\" }}");
    let configured = |pgvane: PgvaneBuilder| pgvane.admin(&users).cluster("park = true").write_listener(&tls);
    let pgvane = pgvane_before(&lab, configured).await;
    let operator = Operator::at(&pgvane, lab.directory());
    let through = async || Session::through(pgvane.write_addr).await;

    // one that can be carried, with state of every kind that can
    let mut free = through().await;
    free.ask("set work_mem = '7MB'").await;
    free.ask("prepare mine (integer) as select $1 + 1").await;
    free.ask("listen news").await;
    let named = [message(b'P', b"theirs\0select 3\0\0\0"), message(b'S', b"")].concat();
    free.wire.send(&named).await;
    free.wire.messages_until(b'Z').await;
    // an unnamed statement of a client that has sent no more yet
    let mut unnamed = Wire::to(pgvane.write_addr).await.asks_for_tls(&files.client(&[])).await;
    unnamed.send(&plain_startup()).await;
    unnamed.messages_until(b'Z').await;
    unnamed.send(&[message(b'P', b"\0select 42\0\0\0"), message(b'S', b"")].concat()).await;
    unnamed.messages_until(b'Z').await;

    let mut bound = Vec::new();
    for (state, why) in [
        ("create temporary table mine (number integer)", "1 temporary object"),
        ("select pg_advisory_lock(7), pg_advisory_lock(8)", "2 advisory locks"),
        ("begin; declare mine cursor with hold for select 1; commit", "a held cursor, \"mine\""),
        (
            "prepare _pgvane_question as select 'theirs'",
            "its state is not known: prepared statement \"_pgvane_question\" already exists (SQLSTATE 42P05)",
        ),
    ] {
        let mut session = through().await;
        session.ask(state).await;
        let process = session.value(PROCESS).await;
        bound.push((session, process, why));
    }
    let mut busy = through().await;
    busy.ask("begin").await;

    // twice: nothing of the first question may be left
    for _ in 0..2 {
        let run = dry_run(&operator).await;
        assert_eq!((&run["sessions"], &run["carried"]), (&7.into(), &2.into()), "{run:#}");
        let restore = &run["restore"];
        let counts =
            ["settings", "prepared_statements", "prepared_by_sql", "channels", "roles"].map(|key| &restore[key]);
        assert_eq!(counts, [1, 1, 1, 1, 0].map(Value::from).each_ref(), "{run:#}");
        for (_, process, why) in bound.iter().filter(|(.., why)| !why.contains("42P05")) {
            assert_eq!(why_not(&run, process), Value::from(vec![*why]), "{run:#}");
        }
        let told = run.to_string();
        assert!(told.contains("already exists (SQLSTATE 42P05)"), "{run:#}");
        assert!(told.contains("it has a transaction or a statement in progress"), "{run:#}");
    }
    let answer = operator.says(&["switchover", "--dry-run"]).await;
    answer.ended_with(OK);
    assert!(
        answer.out.contains("7 sessions for writes, 2 could be carried to another server, 5 could not"),
        "{}",
        answer.out
    );
    for (_, process, why) in bound.iter().filter(|(.., why)| !why.contains("42P05")) {
        let is_told = |line: &str| line.contains(process) && line.ends_with(why) && line.contains("trusting");
        assert!(answer.out.lines().any(is_told), "{process}: {why}\n{}", answer.out);
    }

    // parked sessions are asked too, and stay parked
    operator.says(&["park", "--wait", "200ms"]).await;
    let run = dry_run(&operator).await;
    assert_eq!(run["carried"], 2, "{run:#}");
    free.wire.send(&query("select 1")).await;
    operator.says(&["unpark"]).await.ended_with(OK);
    free.wire.messages_until(b'Z').await;

    // everything is as the clients have left it
    unnamed
        .send(&[message(b'B', b"\0\0\0\0\0\0\0\0"), message(b'E', b"\0\0\0\0\0"), message(b'S', b"")].concat())
        .await;
    let answer = unnamed.messages_until(b'Z').await;
    assert!(answer.iter().any(|message| message.kind == b'D' && message.body.ends_with(b"42")), "{answer:?}");
    assert_eq!(free.value("show work_mem").await, "7MB");
    assert_eq!(
        free.value("select string_agg(name, ' ' order by name) from pg_prepared_statements").await,
        "mine theirs"
    );
    assert_eq!(free.value("execute mine (41)").await, "42");
    let mut sender = through().await;
    sender.ask("notify news, 'all is well'").await;
    assert_eq!(free.wire.message().await.expect("it listens").kind, b'A');
    for (mut session, process, why) in bound {
        if why.contains("42P05") {
            assert_eq!(session.value("execute _pgvane_question").await, "theirs");
        }
        assert_eq!(session.value(PROCESS).await, process);
    }
    assert_eq!(busy.ask("commit").await[0].body, b"COMMIT\0", "the transaction was not touched");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_names_what_cannot_be_carried_and_leaves_no_trace() {
    every_session_is_asked(Postgresql::Packaged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_is_the_same_with_postgresql_18() {
    every_session_is_asked(Postgresql::Eighteen).await;
}
