//! Another process takes over while real clients work: pgbench, a COPY out and one in, LISTEN, a query that is cancelled.

use std::process::Command;
use std::time::Duration;

use pgvane_loadtest::login::Login;
use pgvane_loadtest::messages::{cancel_request, query};
use pgvane_loadtest::pgvane::Pgvane;
use pgvane_loadtest::process::Process;
use pgvane_loadtest::programs::Postgresql;

use crate::metrics;
use crate::stage::{leader_and_replicas, pgvane_before, sound_cluster};
use crate::wire::{SOON, Session, Wire, in_time};

const UPGRADES: usize = 5;

/// Rows that are copied: some ten megabytes.
const COPIED: &str = "select n, md5(n::text) from generate_series(1, 250000) n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half a minute: make test-long"]
async fn real_clients_notice_nothing_of_an_upgrade() {
    let lab = sound_cluster().await;
    let pgvane = pgvane_before(&lab, |pgvane| pgvane).await;
    let mut listening = Session::through(pgvane.write_addr).await;
    listening.ask("listen news").await;
    let mut asleep = Session::through(pgvane.write_addr).await;
    asleep.wire.send(&query("select pg_sleep(600)")).await;
    let mut owner = Session::through(pgvane.write_addr).await;
    let (leader, _) = leader_and_replicas(&lab).await;
    let of_table = Login::App.connect(lab.nodes()[leader].pg, SOON).await.expect("it runs");
    let made = "drop table if exists copied; create table copied (n int, hash text); grant all on copied to public";
    of_table.batch_execute(made).await.expect("is made");
    let expected = owner
        .value(&format!("select md5(string_agg(n || hash, ',' order by n)) from ({COPIED}) as rows (n, hash)"))
        .await;
    let benches = ["simple", "prepared"].map(|mode| pgbench(lab.directory(), &pgvane, mode));
    let server = pgvane.write_addr;
    let copying = tokio::task::spawn_blocking(move || {
        for _ in 0..3 {
            copy_through(server);
        }
    });

    for upgrade in 0..UPGRADES {
        let chosen = "pgvane_bytes_total{direction=\"to_client\",listener=\"write\"}";
        metrics::wait_for_more(&pgvane, chosen, metrics::value(&pgvane, chosen).await + 200_000.0).await;
        pgvane.upgrade().await.unwrap_or_else(|error| panic!("{error}: {}", pgvane.log_text()));
        let word = format!("number {upgrade}");
        owner.ask(&format!("notify news, '{word}'")).await;
        let news = in_time("a notification", listening.wire.message()).await.expect("the session is open");
        assert!(news.kind == b'A' && String::from_utf8_lossy(&news.body).contains(&word), "{news:?}");
    }
    Wire::to(pgvane.write_addr).await.send(&cancel_request(&asleep.key)).await;
    let ended = asleep.wire.messages_until(b'Z').await;
    assert!(ended.iter().any(|message| message.sqlstate().as_deref() == Some("57014")), "{ended:?}");

    tokio::time::timeout(Duration::from_secs(60), copying).await.expect("in time").expect("no copy fails");
    assert_eq!(owner.value("select count(*) || ' ' || count(distinct hash) from copied").await, "750000 250000");
    let once = "select md5(string_agg(n || hash, ',' order by n)) from (select distinct n, hash from copied) rows";
    assert_eq!(owner.value(once).await, expected, "what was copied out and in again is the same");
    for mut bench in benches {
        let ended = bench.wait(Duration::from_secs(60)).await.expect("it ends");
        let log = bench.log_text();
        assert!(ended.success() && log.contains("number of failed transactions: 0 "), "{log}");
    }
    of_table.batch_execute("drop table copied").await.expect("is dropped");
}

/// pgbench on the write port, for some seconds.
fn pgbench(directory: &std::path::Path, pgvane: &Pgvane, mode: &str) -> Process {
    let file = directory.join(format!("upgrade-{mode}.pgbench"));
    std::fs::write(&file, "begin;\nselect count(*) from pg_class;\nselect 1;\nend;\n").expect("is writable");
    let mut command = Command::new(Postgresql::Packaged.program("pgbench").expect("comes with the server"));
    command.args(["-n", "-T", "15", "-j", "2", "-c", "10", "--max-tries", "1", "-M", mode, "-f"]).arg(&file);
    let server = pgvane.write_addr;
    command.args(["-h", &server.ip().to_string(), "-p", &server.port().to_string(), "-U", Login::Trusting.user()]);
    command.arg(Login::Trusting.database()).env("PGSSLMODE", "disable").env("LC_ALL", "C.UTF-8");
    let log = directory.join(format!("upgrade-{mode}.pgbench.log"));
    Process::start("pgbench", command, directory, &log).expect("it starts")
}

/// Copies rows out through one session and in through another.
fn copy_through(server: std::net::SocketAddr) {
    let psql = |statement: &str| {
        let psql = Postgresql::Packaged.program("psql").expect("comes with the server");
        let login = format!(
            "host={} port={} user={} dbname={} sslmode=disable",
            server.ip(),
            server.port(),
            Login::Trusting.user(),
            Login::Trusting.database()
        );
        format!("{} \"{login}\" -v ON_ERROR_STOP=1 -qc \"{statement}\"", psql.display())
    };
    let script = format!(
        "set -o pipefail; {} | {}",
        psql(&format!("copy ({COPIED}) to stdout")),
        psql("copy copied from stdin")
    );
    let output = Command::new("bash").args(["-c", &script]).output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
