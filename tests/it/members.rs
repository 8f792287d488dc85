//! Before members that discovery finds: that come, go, move to other addresses, and are invented.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::Duration;

use pgvane_loadtest::fake::FakePostgres;
use pgvane_loadtest::pgvane::Pgvane;
use pgvane_loadtest::wait;
use serde_json::{Value, json};

use crate::fake::{FakeCluster, FakeNode};
use crate::metrics;
use crate::wire::{SOON, Session};

const DISCOVERS: &str = "discover = true";
const CHECKS: &str = "pgvane_checks_total{cluster=\"main\",outcome=\"answered\"}";

/// Discovery asks again after half a minute; a number of a node that has gone is free a minute later.
const LISTED_WITHIN: Duration = Duration::from_secs(45);
const NUMBERED_WITHIN: Duration = Duration::from_secs(180);

/// A replica that the configuration names, and that is asked for the other members.
async fn named_replica() -> FakeCluster {
    let cluster = FakeCluster::of(1).await;
    cluster[0].follows();
    cluster
}

fn member_at(name: &str, postgres: &FakePostgres, node: &FakeNode) -> Value {
    let mut member = node.as_member();
    member["name"] = name.into();
    member["port"] = postgres.address().port().into();
    member
}

/// Waits until new sessions for writes go to the server of this name.
async fn writes_reach(pgvane: &Pgvane, server: &str, within: Duration) {
    let waited_for = format!("writes on {server}");
    let looked = wait::until(&waited_for, within, || async {
        let series = metrics::all(pgvane).await;
        if series.get("pgvane_cluster_has_leader{cluster=\"main\"}") != Some(&1.0) {
            return Err("no leader".to_owned());
        }
        let answered = Session::through(pgvane.write_addr).await.value("who").await;
        if answered == server { Ok(()) } else { Err(answered) }
    });
    looked.await.unwrap_or_else(|error| panic!("{error}\n{}", pgvane.log_text()));
}

#[tokio::test]
async fn invented_members_of_another_cluster_get_no_sessions_however_many_they_are() {
    invented_members_get_no_sessions(&json!("7999999999999999999")).await;
}

#[tokio::test]
async fn invented_members_that_do_not_state_their_cluster_get_no_sessions() {
    invented_members_get_no_sessions(&Value::Null).await;
}

/// Four members that state this system identifier; one of them claims to lead with the newest timeline.
async fn invented_members_get_no_sessions(identifier: &Value) {
    let cluster = FakeCluster::of(1).await;
    let mut strangers = Vec::new();
    for number in 1..=4 {
        let stranger = FakeNode::replica(&format!("stranger{number}")).await;
        let role = if number == 1 { "primary" } else { "replica" };
        let status = if number == 1 { 200 } else { 503 };
        stranger.postgres.is_in_recovery(number != 1);
        stranger.patroni.says(status, json!({"role": role, "timeline": 9, "database_system_identifier": identifier}));
        strangers.push(stranger);
    }
    let listed = strangers.iter().chain([&cluster[0]]).map(FakeNode::as_member);
    cluster[0].patroni.lists_members(&listed.collect());
    let pgvane = cluster.pgvane(|pgvane| pgvane.cluster(DISCOVERS)).await;
    let mut writer = Session::through(pgvane.write_addr).await;
    metrics::wait_for_more(&pgvane, CHECKS, 25.0).await;
    assert_eq!(writer.value("who").await, "node1", "it goes on");
    assert_eq!(Session::through(pgvane.write_addr).await.value("who").await, "node1");
    assert_eq!(Session::through(pgvane.read_addr).await.value("who").await, "node1", "no replica is of this cluster");
    for stranger in &strangers {
        assert_eq!(stranger.postgres.seen().connections, 0, "{}", stranger.name);
    }
}

#[tokio::test]
async fn a_member_whose_rest_api_is_outside_the_allowed_networks_is_left_out_and_never_asked() {
    let cluster = FakeCluster::of(1).await;
    let elsewhere = TcpListener::bind("127.0.0.2:0").expect("all of 127.0.0.0/8 is this machine");
    elsewhere.set_nonblocking(true).expect("can be set");
    let stranger = FakeNode::replica("stranger").await;
    let mut listed = stranger.as_member();
    listed["api_url"] = format!("http://{}/patroni", elsewhere.local_addr().expect("is bound")).into();
    cluster[0].patroni.lists_members(&json!([cluster[0].as_member(), listed]));
    let allow = "discover_allow = [\"127.0.0.1/32\"]";
    let pgvane = cluster.pgvane(|pgvane| pgvane.cluster(DISCOVERS).cluster(allow)).await;
    pgvane.wait_for_log("127.0.0.2 is not within discover_allow", 0, SOON).await.expect("it says so");
    metrics::wait_for_more(&pgvane, CHECKS, 10.0).await;
    let asked = elsewhere.accept().map(|(_, from)| from);
    assert_eq!(asked.expect_err("nobody connects to it").kind(), ErrorKind::WouldBlock);
    let known = metrics::all(&pgvane).await;
    assert!(!known.keys().any(|series| series.contains("stranger")), "{known:?}");
}

#[tokio::test]
#[ignore = "takes three quarters of a minute: make test-long"]
async fn a_writer_on_a_leader_whose_address_has_changed_ends_when_another_node_leads() {
    let cluster = named_replica().await;
    let leader = FakeNode::replica("node2").await;
    leader.leads(1);
    cluster[0].patroni.lists_members(&json!([cluster[0].as_member(), leader.as_member()]));
    let pgvane = cluster.pgvane(|pgvane| pgvane.cluster(DISCOVERS).hold_max("15s")).await;
    let mut writer = Session::through(pgvane.write_addr).await;
    assert_eq!(writer.value("who").await, "node2");

    let elsewhere = FakePostgres::start("node2, elsewhere").await;
    let moved = member_at("node2", &elsewhere, &leader);
    cluster[0].patroni.lists_members(&json!([cluster[0].as_member(), moved]));
    writes_reach(&pgvane, "node2, elsewhere", LISTED_WITHIN).await;
    assert_eq!(writer.value("who").await, "node2", "it is the same node");

    leader.patroni.freezes();
    cluster[0].leads(2);
    assert_eq!(writer.wire.fatal().await.sqlstate().as_deref(), Some("57P01"));
    assert_eq!(Session::through(pgvane.write_addr).await.value("who").await, "node1");
}

#[tokio::test]
#[ignore = "takes two minutes: make test-long"]
async fn after_more_members_than_there_are_numbers_a_new_leader_still_gets_the_writes() {
    // a hundred nodes that are checked often would keep this machine busy
    let cluster = named_replica().await.rarely_checked();
    let gone = |number: u32| {
        json!({"name": format!("gone{number}"), "host": format!("127.0.9.{number}"), "port": 1, "state": "stopped",
            "api_url": format!("http://127.0.9.{number}:1/patroni")})
    };
    let listed = (1..=127).map(gone).chain([cluster[0].as_member()]);
    cluster[0].patroni.lists_members(&listed.collect());
    let pgvane = cluster.pgvane(|pgvane| pgvane.cluster(DISCOVERS).hold_max("1s")).await;
    let known = wait::until("the members", SOON, || async {
        let count = metrics::all(&pgvane).await.keys().filter(|series| series.starts_with("pgvane_node_up")).count();
        if count > 100 { Ok(()) } else { Err(format!("{count} nodes")) }
    });
    known.await.unwrap_or_else(|error| panic!("{error}"));

    let leader = FakeNode::replica("node2").await;
    leader.leads(2);
    cluster[0].patroni.lists_members(&json!([cluster[0].as_member(), leader.as_member()]));
    writes_reach(&pgvane, "node2", NUMBERED_WITHIN).await;
}
