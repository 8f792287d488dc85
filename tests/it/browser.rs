//! pgvane's pages in a real browser, Chromium without a window: what operators see, in light and dark, on a desk and on
//! a phone, and what they can do there. `browser/page_checks.js` has the checks; before fakes. The screenshots are in
//! `target/screenshots`.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use pgvane_loadtest::pgvane::Pgvane;
use pgvane_loadtest::programs;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::clients::program::checked;
use crate::fake::FakeCluster;
use crate::figures::wait_for_status;
use crate::metrics;
use crate::operators::Operator;
use crate::wire::{Session, Wire, plain_startup};

/// Runs the checks of a scenario that pgvane is in.
async fn look(pgvane: &Pgvane, scenario: &str) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    let screenshots = directory.join("target/screenshots");
    std::fs::create_dir_all(&screenshots).expect("can be made");
    let mut command = Command::new(programs::in_venv("node").expect("Node.js is installed"));
    command.env("NODE_PATH", programs::node_packages().expect("playwright-core is installed"));
    command.env("CHROMIUM", programs::on_path("chromium").expect("Chromium is installed"));
    command.arg(directory.join("tests/it/browser/page_checks.js"));
    command.arg(pgvane.admin_addr.to_string()).arg(screenshots).arg(scenario);
    let passed = checked(command).await.unwrap_or_else(|printed| panic!("{printed}\n{}", pgvane.log_text()));
    assert!(passed.len() >= 6, "{passed:?}");
}

/// A replica's answer with so many bytes still to be replayed.
fn lagging(bytes: u64) -> Value {
    let received: u64 = 67_110_128;
    let xlog = json!({"received_location": received, "replayed_location": received - bytes});
    json!({"role": "replica", "xlog": xlog, "replication_state": "streaming"})
}

/// Connects again when the session ends, and after so many seconds in any case, as a pool does.
async fn stay_connected(server: SocketAddr, seconds: u64) {
    loop {
        let session = Session::through(server).await;
        let _ = tokio::time::timeout(Duration::from_secs(seconds), session.wire.fatal()).await;
    }
}

#[tokio::test]
#[ignore = "starts a browser: make test-long"]
async fn a_calm_cluster_in_a_browser() {
    let cluster = FakeCluster::of(3).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.node("node2", "sessions_max = 80")).await;
    let mut sessions = Vec::new();
    for server in [pgvane.write_addr, pgvane.read_addr, pgvane.read_addr] {
        sessions.push(Session::through(server).await);
    }
    look(&pgvane, "calm").await;
}

#[tokio::test]
#[ignore = "starts a browser: make test-long"]
async fn two_leaders_in_a_browser() {
    let cluster = FakeCluster::of(3).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    cluster[1].patroni.leads(1);
    metrics::wait_for(&pgvane, "pgvane_cluster_contested{cluster=\"main\"}", 1.0).await;
    look(&pgvane, "two-leaders").await;
}

#[tokio::test]
#[ignore = "starts a browser: make test-long"]
async fn silent_nodes_without_a_leader_in_a_browser() {
    let cluster = FakeCluster::of(3).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.cluster("leader_grace = \"2s\"")).await;
    for node in 0..3 {
        cluster[node].patroni.closes().await;
    }
    wait_for_status(&pgvane, "no leader, and all nodes silent", |status| {
        let main = &status["clusters"][0];
        main["lead"] == "vacant" && (0..3).all(|node| main["nodes"][node]["health"] == "silent")
    })
    .await;
    look(&pgvane, "silent").await;
}

#[tokio::test]
#[ignore = "starts a browser: make test-long"]
async fn twenty_nodes_in_a_browser() {
    let cluster = FakeCluster::of(20).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    for (bytes, node) in (1..20).enumerate() {
        cluster[node].patroni.says(503, lagging(bytes as u64 * 12_000));
    }
    cluster[7].patroni.closes().await;
    cluster[12].patroni.says(503, json!({"state": "starting", "role": "replica"}));
    wait_for_status(&pgvane, "a silent node", |status| status["clusters"][0]["nodes"][7]["health"] == "silent").await;
    look(&pgvane, "twenty").await;
}

#[tokio::test]
#[ignore = "starts a browser: make test-long"]
async fn two_thousand_sessions_in_a_browser() {
    let cluster = FakeCluster::of(3).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let mut sessions = Vec::with_capacity(2000);
    for number in 0..2000 {
        let server = if number % 4 == 0 { pgvane.write_addr } else { pgvane.read_addr };
        sessions.push(Wire::to(server).await.log_in(&plain_startup()).await);
    }
    look(&pgvane, "crowd").await;
}

#[tokio::test]
#[ignore = "starts a browser: make test-long"]
async fn the_actions_of_operators_in_a_browser() {
    let cluster = FakeCluster::of(3).await;
    let admin = format!("{}\nhosts = [\"pgvane.test\"]", Operator::line(cluster.directory()));
    let pgvane = cluster.pgvane(|pgvane| pgvane.admin(&admin).read_listener("fallback = \"none\"")).await;
    let mut clients = tokio::task::JoinSet::new();
    for seconds in [4, 5, 6, 7] {
        clients.spawn(stay_connected(pgvane.read_addr, seconds));
    }
    wait_for_status(&pgvane, "a session on node2", |status| {
        status["clusters"][0]["nodes"][1]["sessions"].as_u64() > Some(0)
    })
    .await;
    look(&pgvane, "actions").await;
}
