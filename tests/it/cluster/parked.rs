//! Write sessions are parked: by an operator, and by Patroni's hook when the leader is restarted.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use pgvane_loadtest::http;
use pgvane_loadtest::lab::{BeforeStop, Lab};
use pgvane_loadtest::login::Login;
use pgvane_loadtest::pgvane::{Pgvane, PgvaneBuilder};
use pgvane_loadtest::tokio_postgres::Client;
use pgvane_loadtest::wait;

use crate::binary;
use crate::certificates::Certificates;
use crate::command_line::OK;
use crate::figures::wait_for_status;
use crate::metrics;
use crate::operators::Operator;
use crate::stage::{PATRONI_WITHIN, leader_and_replicas, pgvane_before, sound_cluster};
use crate::wire::{SOON, Session, Wire, in_time, plain_startup};

/// Runs a command, and says how long it took.
const TIMED: &str = "#!/bin/sh\nbegun=$(date +%s%N)\n\"$@\"\ncode=$?\n\
                     echo \"the hook took $(( ($(date +%s%N) - begun) / 1000000 )) ms, exit code $code\"\nexit $code\n";

/// Each has state of its own.
const CLIENTS: usize = 20;

fn attended(lab: &Lab) -> impl FnOnce(PgvaneBuilder) -> PgvaneBuilder + use<> {
    let users = Operator::line(lab.directory());
    move |pgvane| pgvane.admin(&users).cluster("park = true").cluster("park_grace = \"20s\"").hold_max("60s")
}

/// A session with state that is its own: a setting, a prepared statement, a temporary table, an advisory lock.
async fn with_state(pgvane: &Pgvane, number: usize) -> Client {
    let client = Login::App.connect(pgvane.write_addr, SOON).await.expect("a session");
    let state = format!(
        "set application_name = 'client {number}'; prepare mine as select {number}; \
         create temporary table mine as select {number} as number; select pg_advisory_lock({number})"
    );
    in_time("its state", client.batch_execute(&state)).await.expect("is set");
    client
}

/// What a session sees of its state, and the process that serves it.
async fn state(client: &Client) -> [String; 2] {
    let statement = "select concat_ws(' ', current_setting('application_name'), (select number from mine), \
                     (select count(*) from pg_prepared_statements where name = 'mine'), \
                     (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())), \
                     pg_backend_pid()::text";
    let row = in_time("an answer", client.query_one(statement, &[])).await.expect("no error");
    [row.get(0), row.get(1)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half a minute: make test-long"]
async fn parked_sessions_have_all_their_state_and_their_server_process_after_it() {
    let lab = sound_cluster().await;
    let files = Certificates::new();
    files.issue("server", "localhost");
    let [certificate, key] = ["server.pem", "server.key"].map(|name| files.path(name));
    let tls = format!("tls = {{ mode = \"terminate\", cert_file = \"{certificate}\", key_file = \"{key}\" }}");
    let configured = attended(&lab);
    let pgvane = pgvane_before(&lab, |pgvane| configured(pgvane).write_listener(&tls)).await;
    let operator = Operator::at(&pgvane, lab.directory());
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let client = with_state(&pgvane, number).await;
        let before = state(&client).await;
        clients.push((client, before));
    }
    let mut encrypted =
        Wire::to(pgvane.write_addr).await.asks_for_tls(&files.client(&[])).await.log_in(&plain_startup()).await;
    encrypted.ask("set application_name = 'encrypted'").await;
    let mut busy = Session::through(pgvane.write_addr).await;
    busy.ask("begin").await;

    let parking = tokio::spawn(async move { (operator.says(&["park", "--wait", "20s"]).await, operator) });
    wait_for_status(&pgvane, "one in a transaction", |status| {
        let park = &status["clusters"][0]["park"];
        park["finishing"] == 1 && park["parked"] == CLIENTS + 1
    })
    .await;
    assert_eq!(busy.value("select 1 + 1").await, "2", "the transaction goes on");
    assert_eq!(busy.ask("commit").await[0].body, b"COMMIT\0");
    let (answer, operator) = parking.await.expect("no panic");
    answer.ended_with(OK);
    assert!(answer.out.ends_with(&format!(": {} sessions parked\n", CLIENTS + 2)), "{}", answer.out);

    let waiting: Vec<_> = clients
        .into_iter()
        .map(|(client, before)| tokio::spawn(async move { (state(&client).await, before, client) }))
        .collect();
    let pipelined = tokio::spawn(async move { (encrypted.value("show application_name").await, encrypted) });
    tokio::task::yield_now().await;
    assert!(waiting.iter().all(|client| !client.is_finished()) && !pipelined.is_finished());
    operator.says(&["unpark"]).await.ended_with(OK);
    for client in waiting {
        let (after, before, _client) = client.await.expect("no panic");
        assert_eq!(after, before);
    }
    assert_eq!(pipelined.await.expect("no panic").0, "encrypted");
    assert_eq!(busy.value("select 2").await, "2");
    metrics::wait_for(
        &pgvane,
        "pgvane_parked_sessions_total{cluster=\"main\",outcome=\"let-go\"}",
        (CLIENTS + 2) as f64,
    )
    .await;
}

/// Patroni waits for its hook: a transaction that is open when the restart is asked for is committed before PostgreSQL
/// stops, a client that is between two transactions learns that nothing was executed, and a new client waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a third of a minute, and carried.rs restarts the leader too: make test-long"]
async fn a_restart_of_the_leader_waits_for_transactions_and_a_restart_of_a_replica_parks_nothing() {
    let lab = sound_cluster().await;
    let configured = attended(&lab);
    let pgvane = pgvane_before(&lab, configured).await;
    let (leader, replicas) = leader_and_replicas(&lab).await;
    let hooked = Hook::set(&lab, &pgvane).await;

    let mut reader = Session::through(pgvane.write_addr).await;
    restart(&lab, replicas[0]).await;
    assert_eq!(reader.value("select 1").await, "1", "a write session is not concerned");
    hooked.has_run(&lab, replicas[0]).await;
    pgvane.wait_for_log("nothing is parked: the node does not lead", 0, SOON).await.expect("is logged");
    drop(reader);

    let mut idle = Session::through(pgvane.write_addr).await;
    idle.ask("set application_name = 'idle'").await;
    let mut busy = Session::through(pgvane.write_addr).await;
    busy.ask("begin; create temporary table mine (number integer) on commit drop").await;
    let restarting = async {
        restart(&lab, leader).await;
        hooked.has_run(&lab, leader).await;
    };
    let sessions = async {
        wait_for_status(&pgvane, "one in a transaction", |status| status["clusters"][0]["park"]["finishing"] == 1)
            .await;
        // PostgreSQL runs as long as the transaction is open
        busy.ask("insert into mine values (1)").await;
        assert_eq!(busy.ask("commit").await[0].body, b"COMMIT\0");
        for session in [idle, busy] {
            let end = session.wire.fatal().await;
            assert_eq!(end.sqlstate().as_deref(), Some("57P01"));
            let why = "pgvane: terminating connection because the server has closed it";
            assert_eq!(end.field(b'M').as_deref(), Some(why));
            assert!(end.field(b'D').is_some_and(|detail| detail.contains("were not executed")), "{end:?}");
        }
        let mut newcomer = Session::through(pgvane.write_addr).await;
        assert_eq!(newcomer.value("select 1").await, "1");
    };
    tokio::join!(restarting, sessions);
    wait_for_status(&pgvane, "no park", |status| status["clusters"][0]["park"].is_null()).await;
    hooked.removed(&lab).await;
}

// ---------------------------------------------------------------------------------------------------------------------

pub(super) async fn restart(lab: &Lab, node: usize) {
    let name = lab.nodes()[node].name.clone();
    let answer = http::post(lab.nodes()[node].rest, "/restart", &serde_json::json!({}), PATRONI_WITHIN).await;
    let answer = answer.unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(answer.status, 200, "{name}: {}", answer.body);
}

/// `before_stop` in each node's configuration of Patroni.
pub(super) struct Hook(BeforeStop);

impl Hook {
    pub(super) async fn set(lab: &Lab, pgvane: &Pgvane) -> Hook {
        Hook::at(lab, &[pgvane], "30s").await
    }

    /// It asks all of these, and waits so long at most. Each run writes how long it took into the log of its node's Patroni.
    pub(super) async fn at(lab: &Lab, pgvanes: &[&Pgvane], wait: &str) -> Hook {
        let password = lab.directory().join("password");
        let [program, timed] = ["pgvane-for-the-hook", "timed"].map(|name| lab.directory().join(name));
        fs::copy(binary::pgvane(), &program).expect("can be copied to where Patroni's account can read it");
        fs::write(&timed, TIMED).expect("is writable");
        fs::set_permissions(&timed, fs::Permissions::from_mode(0o755)).expect("an option");
        let admin: Vec<String> = pgvanes.iter().map(|pgvane| format!("http://{}", pgvane.admin_addr)).collect();
        let hook = BeforeStop::set(lab, |node| {
            format!(
                "{} {} park --node {} --admin {} --user ops --password-file {} --wait {wait}",
                timed.display(),
                program.display(),
                node.name,
                admin.join(","),
                password.display()
            )
        });
        Hook(hook.await.expect("Patroni reloads"))
    }

    /// How long its newest run on this node took, and its exit code.
    pub(super) async fn newest_run(&self, lab: &Lab, node: usize) -> (Duration, i32) {
        let look = || async {
            let log = lab.log_text(node);
            let numbers = log.rsplit_once("the hook took ").and_then(|(_, rest)| rest.split_once(" ms, exit code "));
            let numbers = numbers.and_then(|(ms, rest)| Some((ms.parse().ok()?, rest.lines().next()?.parse().ok()?)));
            numbers.ok_or(log)
        };
        let (ms, code) = wait::until("the hook", PATRONI_WITHIN, look).await.unwrap_or_else(|error| panic!("{error}"));
        (Duration::from_millis(ms), code)
    }

    async fn has_run(&self, lab: &Lab, node: usize) {
        let look = || async {
            let log = lab.log_text(node);
            if log.contains("before_stop script") { Ok(()) } else { Err(log) }
        };
        wait::until("the hook", PATRONI_WITHIN, look).await.unwrap_or_else(|error| panic!("{error}"));
    }

    pub(super) async fn removed(self, lab: &Lab) {
        self.0.remove(lab).await.expect("Patroni reloads");
    }
}
