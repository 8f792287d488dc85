//! The lab itself: a cluster survives the faults it is put through, and leaves nothing behind.

use std::path::Path;
use std::time::{Duration, Instant};

use pgvane_loadtest::failure::FailureClass;
use pgvane_loadtest::lab::{Frozen, Lab};
use pgvane_loadtest::libpq;
use pgvane_loadtest::login::Login;
use pgvane_loadtest::pgbouncer::{Pgbouncer, PoolMode};
use pgvane_loadtest::reader::Reader;
use pgvane_loadtest::tls::Endpoint;
use pgvane_loadtest::writer::{Writer, longest_gap};

const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes three quarters of a minute: make test-long"]
async fn a_cluster_fails_over_comes_back_and_leaves_nothing_behind() {
    let lab =
        Lab::builder().nodes(2).tag(1, "dc", "east").parameter("work_mem", "8MB").start().await.expect("a cluster");
    let directory = lab.directory().to_owned();

    every_account_gets_in(&lab).await;
    a_switchover_is_a_gap_in_the_acks(&lab).await;
    a_frozen_postmaster_takes_no_connection(&lab).await;
    a_killed_leader_is_replaced_and_returns(&lab).await;
    pausing_and_losing_the_dcs_leave_the_leader(&lab).await;

    drop(lab);
    assert!(!directory.exists());
    assert!(processes_in(&directory).is_empty());
}

async fn every_account_gets_in(lab: &Lab) {
    for login in [Login::App, Login::Trusting, Login::Superuser] {
        let client = login.connect(lab.nodes()[0].pg, SOON).await.expect("every role exists");
        let row = client.query_one("show work_mem", &[]).await.expect("the parameter is set");
        assert_eq!(row.get::<_, String>(0), "8MB");
    }
    assert!(Login::App.config(lab.nodes()[0].pg).password("wrong").connect(tokio_postgres::NoTls).await.is_err());
}

async fn a_switchover_is_a_gap_in_the_acks(lab: &Lab) {
    Writer::prepare(lab).await.expect("a leader");
    let writers: Vec<_> = Writer::direct(lab).into_iter().map(Writer::start).collect();
    writers[0].wait_for_acks(20, SOON).await.expect("the leader takes writes");
    let by_libpq = libpq::start_writer(lab).expect("a writer with all nodes in its connection string");
    by_libpq.wait_for_acks(20, SOON).await.expect("libpq finds the leader");
    let new_leader = lab.switchover_to(1).await.expect("a switchover");
    writers[new_leader].wait_for_acks(20, SOON).await.expect("the new leader takes writes");
    by_libpq.wait_for_acks(20, SOON).await.expect("libpq finds the new leader");
    let report = by_libpq.finish().await;
    assert!(report.missing_rows(lab).await.expect("the table is there").is_empty(), "acknowledged and lost");
    assert_eq!(report.count(FailureClass::SessionBroken), 1, "{:#?}", report.failures);
    assert!(report.count(FailureClass::ConnectFailed) > 0, "nobody waits for it: {:#?}", report.failures);
    let visited = libpq::visit(lab, 3, Duration::from_millis(10)).await.expect("clients that come one after another");
    assert_eq!((visited.served.len(), visited.failures.len()), (3, 0), "{:#?}", visited.failures);

    let mut acks = Vec::new();
    for writer in writers {
        let report = writer.finish().await;
        let missing = report.missing_rows(lab).await.expect("the table is there");
        assert!(missing.is_empty(), "acknowledged and lost: {missing:?}");
        acks.extend(report.acks);
    }
    let gap = longest_gap(&acks).expect("both wrote").length();
    assert!(gap > Duration::from_millis(100) && gap < SOON, "{gap:?}");
}

async fn a_frozen_postmaster_takes_no_connection(lab: &Lab) {
    lab.wait_until_all_streaming(SOON).await.expect("the old leader follows");
    let replica = 0;
    lab.freeze_postgres(replica, Frozen::Everything).expect("it runs");
    let refused = Login::App.connect(lab.nodes()[replica].pg, Duration::from_millis(300)).await;
    assert!(refused.is_err());
    lab.thaw_postgres(replica);
    let visit = Reader::to(lab.nodes()[replica].pg).visit().await.expect("it runs again");
    assert_eq!((visit.port, visit.in_recovery), (lab.nodes()[replica].pg.port(), true));
}

async fn a_killed_leader_is_replaced_and_returns(lab: &Lab) {
    lab.kill_node(1).expect("it dies");
    assert!(processes_in(&lab.nodes()[1].data_directory()).is_empty());
    assert_eq!(lab.wait_for_leader_other_than(1, SOON).await.expect("a failover"), 0);
    lab.start_node(1).expect("it starts");
    lab.wait_until_all_streaming(SOON).await.expect("it comes back");
}

async fn pausing_and_losing_the_dcs_leave_the_leader(lab: &Lab) {
    lab.freeze_patroni(1).expect("it runs");
    lab.thaw_patroni(1).expect("it is there");
    lab.pause().await.expect("patronictl works");
    lab.resume().await.expect("patronictl works");
    lab.stop_dcs();
    lab.start_dcs().await.expect("etcd keeps its data");
    lab.wait_until_all_streaming(SOON).await.expect("nothing has happened");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lab_that_nobody_drops_ends_with_its_program() {
    let program = env!("CARGO_BIN_EXE_loadtest");
    let mut command = std::process::Command::new(program);
    // Killed while it makes its cluster; the binary that it would start is not reached.
    command.env_remove("PGVANE_LAB_TMP").env_remove("PGVANE_KEEP_LAB");
    let mut child =
        command.args(["failover", "--haproxy"]).stderr(std::process::Stdio::null()).spawn().expect("it starts");
    let directory = Path::new("/tmp").join(format!("pgvane-lab-{}-0", child.id()));
    eventually("servers in the lab's directory", || processes_in(&directory).len() > 3).await;
    child.kill().expect("it runs");
    child.wait().expect("it is ours");
    eventually("the end of every server", || processes_in(&directory).is_empty() && !directory.exists()).await;
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    let look = || {
        let held = holds();
        async move { held.then_some(()).ok_or_else(|| "not yet".to_owned()) }
    };
    pgvane_loadtest::wait::until(what, SOON, look).await.unwrap_or_else(|error| panic!("{error}, {started:?}"));
}

/// Ids of the processes that run in `directory` or below it.
fn processes_in(directory: &Path) -> Vec<String> {
    let entries =
        std::fs::read_dir("/proc").expect("Linux").filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let runs_there =
        |id: &String| std::fs::read_link(format!("/proc/{id}/cwd")).is_ok_and(|cwd| cwd.starts_with(directory));
    entries.filter(runs_there).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_get_in_with_tls_and_through_a_pooler() {
    let lab = Lab::builder().nodes(1).tls().start().await.expect("a cluster");
    let pooler = Pgbouncer::start(&lab, 0, PoolMode::Transaction, true).await.expect("PgBouncer starts");
    for address in [lab.nodes()[0].pg, pooler.node().pg] {
        for tls in [false, true] {
            for login in [Login::App, Login::Trusting] {
                let visited = Reader::to(Endpoint { address, tls }).login(login).visit().await;
                let visit = visited.unwrap_or_else(|failure| panic!("{login:?}, TLS {tls}: {failure:?}"));
                assert_eq!(visit.port, lab.nodes()[0].pg.port());
            }
        }
    }
}
