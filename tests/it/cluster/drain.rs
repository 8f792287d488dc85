//! A replica is drained while it is read from: no transaction that was under way fails.

use std::process::Command;

use pgvane_loadtest::lab::Lab;
use pgvane_loadtest::login::Login;
use pgvane_loadtest::pgvane::Pgvane;
use pgvane_loadtest::process::Process;
use pgvane_loadtest::programs::Postgresql;
use pgvane_loadtest::wait;

use crate::command_line::OK;
use crate::metrics;
use crate::operators::Operator;
use crate::stage::{leader_and_replicas, pgvane_before, sound_cluster};
use crate::wire::SOON;

/// Clients of pgbench; half of them are on each replica.
const CLIENTS: usize = 16;

const TRANSACTION: &str = "begin;\nselect count(*) from pg_class;\nselect 1;\nselect 2;\nend;\n";

/// The same, sent in one go.
const PIPELINE: &str = "\\startpipeline\nbegin;\nselect count(*) from pg_class;\nselect 1;\nend;\n\\endpipeline\n";

/// pgbench asks without a rest, in every way it knows. Each client's session ends between two of its transactions: it
/// says so itself by the number of the command that failed, and PostgreSQL by the number of transactions rolled back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_under_load_ends_every_session_between_two_transactions() {
    let lab = sound_cluster().await;
    let users = Operator::line(lab.directory());
    let configured = |pgvane: pgvane_loadtest::pgvane::PgvaneBuilder| {
        pgvane.admin(&users).top("drain_timeout = \"60s\"").read_listener("fallback = \"none\"")
    };
    let pgvane = pgvane_before(&lab, configured).await;
    let operator = Operator::at(&pgvane, lab.directory());
    let (_, [drained, _]) = leader_and_replicas(&lab).await;
    let node = lab.nodes()[drained].name.as_str();
    let sessions = format!("pgvane_node_sessions{{cluster=\"main\",node=\"{node}\"}}");
    let ends = |reason: &str| format!("pgvane_session_ends_total{{listener=\"read\",reason=\"{reason}\"}}");

    for (mode, script) in [("simple", TRANSACTION), ("prepared", TRANSACTION), ("extended", PIPELINE)] {
        let before = rollbacks(&lab, drained).await;
        let were_drained = metrics::value(&pgvane, &ends("drained")).await;
        let bench = pgbench(&lab, &pgvane, mode, script);
        metrics::wait_for(&pgvane, &sessions, (CLIENTS / 2) as f64).await;
        let written = metrics::value(&pgvane, TO_CLIENTS).await;
        metrics::wait_for_more(&pgvane, TO_CLIENTS, written + 100_000.0).await;

        operator.says(&["drain", node, "--wait", "20s"]).await.ended_with(OK);
        metrics::wait_for(&pgvane, &ends("drained"), were_drained + (CLIENTS / 2) as f64).await;
        wait_for_aborted(&bench, mode, script).await;
        wait_until_left(&lab, drained).await;
        assert_eq!(rollbacks(&lab, drained).await, before, "{mode}: transactions were rolled back");
        assert_eq!(metrics::value(&pgvane, &ends("drain-timed-out")).await, 0.0, "{mode}");
        assert_eq!(metrics::value(&pgvane, &ends("cut")).await, 0.0, "{mode}");

        drop(bench);
        metrics::wait_for(&pgvane, "pgvane_sessions{listener=\"read\"}", 0.0).await;
        operator.says(&["ready", node]).await.ended_with(OK);
    }
}

// ---------------------------------------------------------------------------------------------------------------------

const TO_CLIENTS: &str = "pgvane_bytes_total{direction=\"to_client\",listener=\"read\"}";

/// pgbench on the read port, for longer than any test lasts.
fn pgbench(lab: &Lab, pgvane: &Pgvane, mode: &str, script: &str) -> Process {
    let file = lab.directory().join(format!("{mode}.pgbench"));
    std::fs::write(&file, script).expect("is writable");
    let mut command = Command::new(Postgresql::Packaged.program("pgbench").expect("comes with the server"));
    command.args(["-n", "-T", "600", "-j", "2", "-M", mode, "-c", &CLIENTS.to_string(), "-f"]).arg(&file);
    let server = pgvane.read_addr;
    command.args(["-h", &server.ip().to_string(), "-p", &server.port().to_string(), "-U", Login::Trusting.user()]);
    command.arg(Login::Trusting.database()).env("PGSSLMODE", "disable").env("LC_ALL", "C.UTF-8");
    let log = lab.directory().join(format!("{mode}.pgbench.log"));
    Process::start("pgbench", command, lab.directory(), &log).expect("it starts")
}

/// Waits until pgbench has told of every client whose session was ended, and looks at what it was doing.
async fn wait_for_aborted(bench: &Process, mode: &str, script: &str) {
    let told = || async {
        let log = bench.log_text();
        if log.matches("aborted in command").count() == CLIENTS / 2 { Ok(log) } else { Err(log) }
    };
    let log = wait::until("every client's word", SOON, told).await.unwrap_or_else(|error| panic!("{mode}: {error}"));
    let reason = "FATAL:  pgvane: terminating connection because the server is being taken out of service";
    assert_eq!(log.matches(reason).count(), CLIENTS / 2, "{mode}:\n{log}");
    if script == TRANSACTION {
        assert_eq!(log.matches("aborted in command 0 ").count(), CLIENTS / 2, "{mode}: not at its begin:\n{log}");
    }
}

/// Transactions of the users' database that were rolled back on a node, by its own count.
async fn rollbacks(lab: &Lab, node: usize) -> i64 {
    let client = lab.connect_direct(node).await.expect("it runs");
    let statement = "select xact_rollback from pg_stat_database where datname = $1";
    client.query_one(statement, &[&Login::Trusting.database()]).await.expect("an answer").get(0)
}

/// Waits until no user is left on a node. Each has then told what became of his transactions.
async fn wait_until_left(lab: &Lab, node: usize) {
    let look = || async {
        let client = lab.connect_direct(node).await.map_err(|error| error.to_string())?;
        let statement = "select count(*) from pg_stat_activity where usename = $1";
        let row = client.query_one(statement, &[&Login::Trusting.user()]).await.map_err(|error| error.to_string())?;
        match row.get::<_, i64>(0) {
            0 => Ok(()),
            left => Err(format!("{left} are left")),
        }
    };
    wait::until("a deserted node", SOON, look).await.unwrap_or_else(|error| panic!("{error}"));
}
