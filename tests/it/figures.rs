//! The figures of listeners and nodes: what `/api/status` shows of sessions, and `/metrics` the same.

use pgvane_loadtest::pgvane::Pgvane;
use pgvane_loadtest::wait;
use serde_json::Value;

use crate::fake::FakeCluster;
use crate::metrics;
use crate::wire::{SOON, Session, Wire};

/// The state as JSON.
pub async fn status(pgvane: &Pgvane) -> Value {
    let body = pgvane.admin_get("/api/status").await.expect("is served").body;
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// Waits until the state is as wanted.
pub async fn wait_for_status(pgvane: &Pgvane, wanted: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
    let look = || async {
        let status = status(pgvane).await;
        if is_wanted(&status) { Ok(status) } else { Err(format!("{status:#}")) }
    };
    wait::until(wanted, SOON, look).await.unwrap_or_else(|error| panic!("{error}"))
}

fn node(status: &Value, number: usize) -> &Value {
    &status["clusters"][0]["nodes"][number]
}

#[tokio::test]
async fn sessions_bytes_and_rates_are_counted_for_each_listener_and_node() {
    let cluster = FakeCluster::of(2).await;
    let configured = |pgvane: pgvane_loadtest::pgvane::PgvaneBuilder| {
        pgvane.node("node2", "sessions_max = 70").node("node2", "weight = 30").read_listener("sessions_max = 50")
    };
    let pgvane = cluster.pgvane(configured).await;
    let mut first = Session::through(pgvane.read_addr).await;
    let second = Session::through(pgvane.read_addr).await;
    first.value("who").await;
    drop(second);
    let status = wait_for_status(&pgvane, "one session left", |status| node(status, 1)["sessions"] == 1).await;
    let (read, replica) = (&status["listeners"][1], node(&status, 1));
    assert_eq!((&read["sessions_total"], &read["sessions_highest"]), (&2.into(), &2.into()), "{read:#}");
    assert_eq!((&read["sessions_max"], &read["denied"], &read["failed"]), (&50.into(), &0.into(), &0.into()));
    assert!(read["connects_per_second_highest"].as_u64() >= Some(1), "{read:#}");
    assert_eq!((&replica["sessions_total"], &replica["sessions_highest"]), (&2.into(), &2.into()), "{replica:#}");
    assert_eq!((&replica["sessions_max"], &replica["weight"]), (&70.into(), &30.into()), "{replica:#}");
    assert_eq!((&replica["check_result"], &node(&status, 0)["check_result"]), (&"503".into(), &"200".into()));
    assert!(replica["check_seconds"].as_f64() > Some(0.0), "{replica:#}");
    assert_eq!((&replica["downs"], &replica["downtime_seconds"]), (&0.into(), &0.0.into()), "{replica:#}");
    assert!(replica["bytes_to_client"].as_u64() > Some(0), "{replica:#}");
    assert_eq!(node(&status, 0)["sessions_total"], 0);
    drop(first);
    wait_for_status(&pgvane, "no session left", |status| status["listeners"][1]["sessions"] == 0).await;

    let status = wait_for_status(&pgvane, "a quiet second", |status| {
        status["listeners"][1]["connects_per_second"] == 0 && node(status, 1)["sessions_per_second"] == 0
    })
    .await;
    let (read, replica) = (&status["listeners"][1], node(&status, 1));
    let all = metrics::all(&pgvane).await;
    let labels = "{cluster=\"main\",node=\"node2\"}";
    for (series, figure) in [
        (format!("pgvane_node_sessions_total{labels}"), &replica["sessions_total"]),
        (format!("pgvane_node_sessions_highest{labels}"), &replica["sessions_highest"]),
        (format!("pgvane_node_sessions_max{labels}"), &replica["sessions_max"]),
        (format!("pgvane_node_weight{labels}"), &replica["weight"]),
        (format!("pgvane_node_connect_failures_total{labels}"), &replica["connect_failures"]),
        (
            "pgvane_node_bytes_total{cluster=\"main\",direction=\"to_client\",node=\"node2\"}".to_owned(),
            &replica["bytes_to_client"],
        ),
        ("pgvane_bytes_total{direction=\"to_client\",listener=\"read\"}".to_owned(), &read["bytes_to_client"]),
        ("pgvane_sessions_highest{listener=\"read\"}".to_owned(), &read["sessions_highest"]),
        ("pgvane_connects_per_second_highest{listener=\"read\"}".to_owned(), &read["connects_per_second_highest"]),
    ] {
        assert_eq!(all.get(&series).copied(), figure.as_f64(), "{series}: {status:#}");
    }
    assert_eq!(read["bytes_to_client"], replica["bytes_to_client"], "the only node of the only busy listener");
}

#[tokio::test]
async fn a_node_that_refuses_connections_is_counted_and_one_that_is_silent_has_downtime() {
    let mut cluster = FakeCluster::of(3).await;
    cluster.postgres_of(1).closes().await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.read_listener("fallback = \"none\"")).await;
    let look = || async {
        drop(Session::through(pgvane.read_addr).await);
        let status = status(&pgvane).await;
        if node(&status, 1)["connect_failures"].as_u64() > Some(0) { Ok(status) } else { Err(format!("{status:#}")) }
    };
    let status = wait::until("a failed attempt on node2", SOON, look).await.unwrap_or_else(|error| panic!("{error}"));
    assert!(status["listeners"][1]["retries"].as_u64() > Some(0), "{status:#}");
    assert_eq!(node(&status, 1)["sessions_total"], 0, "{status:#}");

    cluster[2].patroni.closes().await;
    let silent = wait_for_status(&pgvane, "downtime of node3", |status| {
        node(status, 2)["downtime_seconds"].as_f64() > Some(0.3)
    })
    .await;
    let downtime = |status: &Value| node(status, 2)["downtime_seconds"].as_f64().unwrap_or_default();
    assert_eq!((&node(&silent, 2)["downs"], &node(&silent, 2)["check_result"]), (&1.into(), &"failed".into()));
    assert!(node(&silent, 2)["health_seconds"].as_f64() < Some(downtime(&silent) + 0.1), "{silent:#}");
}

#[tokio::test]
async fn a_refused_client_is_denied_and_named_with_its_reason() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.write_listener("users = [\"somebody else\"]")).await;
    let mut refused = Wire::to(pgvane.write_addr).await;
    refused.send(&crate::wire::plain_startup()).await;
    refused.rest().await;
    let status = wait_for_status(&pgvane, "a denied client", |status| status["listeners"][0]["denied"] == 1).await;
    let write = &status["listeners"][0];
    assert_eq!(write["ends"]["user-not-allowed"], 1, "{write:#}");
    assert_eq!((&write["failed"], &write["sessions_total"]), (&0.into(), &1.into()), "{write:#}");
}
