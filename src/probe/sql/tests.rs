//! The SQL check against a fake server, which does what real servers rarely do, and records how it is treated.

use std::net::SocketAddr;
use std::time::Duration;

use pgvane_loadtest::fake::{Behaviour, FakePostgres, SHUTTING_DOWN, STARTING_UP, WRONG_PASSWORD};

use super::*;
use crate::cluster::HostPort;
use crate::cluster::node::Claim;
use crate::config::{Check, Config};
use crate::net::Resolver;

/// No single step takes this long unless something is wrong.
const SOON: Duration = Duration::from_secs(10);

async fn server(behaviour: Behaviour) -> FakePostgres {
    let server = FakePostgres::start("u").await;
    server.usually(behaviour);
    server
}

fn node_at(server: SocketAddr) -> SqlNode {
    let (access, member) = access_to(server, &[]);
    SqlNode::new(access, Arc::new(member))
}

/// How to log in to the server, if discovered nodes must be in one of these networks.
fn access_to(server: SocketAddr, discover_allow: &[&str]) -> (Access, Member) {
    let text = format!(
        "[[cluster]]\ncheck = \"sql\"\n[cluster.sql]\nuser = \"u\"\nsslmode = \"disable\"\n\
         [[cluster.node]]\naddress = \"{server}\"\n[[listener]]\nbind = \"*:1\"\ntarget = \"leader\"\n"
    );
    let config = Config::from_toml("test", &text).unwrap_or_else(|faults| panic!("{faults}"));
    let cluster = &config.clusters[0];
    let Check::Sql(sql) = &cluster.check else { panic!("is sql") };
    let mut access = Access::new(sql, cluster, Resolver::system()).expect("no files");
    access.dialer.discover_allow = discover_allow.iter().map(|net| net.parse().expect("is a network")).collect();
    (access, cluster.nodes[0].clone())
}

fn soon() -> Instant {
    Instant::now() + SOON
}

fn in_ms(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

#[tokio::test]
async fn one_connection_answers_many_checks_and_ends_with_terminate() {
    let server = server(Behaviour::Serves).await;
    let node = node_at(server.address());
    for _ in 0..5 {
        assert_eq!(node.ask(soon()).await.expect("an answer").claim, Claim::Leader);
    }
    drop(node);
    let seen = server.has_seen("the end of the connection", |seen| seen.ended == 1).await;
    assert_eq!((seen.connections, seen.terminated), (1, 1));
}

#[tokio::test]
async fn a_check_that_times_out_sends_terminate_and_the_next_one_logs_in_again() {
    let server = server(Behaviour::AnswersNoQuery).await;
    let node = node_at(server.address());
    assert_eq!(node.ask(in_ms(300)).await, Err(CheckError::TimedOut));
    assert_eq!(server.seen().connections, 1);
    assert_eq!(node.ask(in_ms(300)).await, Err(CheckError::TimedOut));
    assert_eq!(server.seen().connections, 2, "an answer may still come on the first: it is not asked again");
    let seen = server.has_seen("the end of both connections", |seen| seen.ended == 2).await;
    assert_eq!((seen.connections, seen.terminated), (2, 2));
}

#[tokio::test]
async fn checks_of_a_frozen_server_share_one_login() {
    let server = server(Behaviour::AnswersNothing).await;
    let node = node_at(server.address());
    for _ in 0..4 {
        assert_eq!(node.ask(in_ms(50)).await, Err(CheckError::TimedOut));
    }
    let seen = server.has_seen("the login", |seen| seen.connections > 0).await;
    assert_eq!((seen.connections, seen.ended), (1, 0), "no second login, and the first is not cancelled");
}

#[tokio::test]
async fn the_result_of_a_login_that_ended_after_its_check_is_not_used() {
    let server = server(STARTING_UP).await;
    server.holds_logins();
    let node = node_at(server.address());
    assert_eq!(node.ask(in_ms(50)).await, Err(CheckError::TimedOut));
    server.has_seen("the login", |seen| seen.startups.len() == 1).await;
    server.releases_logins();
    let ended = async {
        while !node.connection.lock().await.login.as_ref().is_some_and(JoinHandle::is_finished) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, ended).await.expect("it ends with the connection");
    let report = node.ask(soon()).await.expect("is an answer");
    assert_eq!(report.state, "starting");
    assert_eq!(server.seen().connections, 2, "it was asked again");
}

#[tokio::test]
async fn a_server_that_is_shutting_down_has_answered_and_one_that_refuses_the_password_has_not() {
    let stopping = server(SHUTTING_DOWN).await;
    let report = node_at(stopping.address()).ask(soon()).await.expect("is an answer");
    assert_eq!((report.claim, report.state.as_str()), (Claim::OutOfService, "stopping"));

    let refusing = server(WRONG_PASSWORD).await;
    let node = node_at(refusing.address());
    for _ in 0..3 {
        let error = node.ask(soon()).await.expect_err("is not an answer");
        assert_eq!(error.to_string(), "login refused: password authentication failed for user \"u\"");
    }
    assert_eq!(refusing.seen().connections, 1, "and there is no other attempt so soon");
}

#[tokio::test]
async fn a_role_without_rights_on_all_functions_asks_for_the_recovery_state() {
    let server = server(Behaviour::HidesControlData).await;
    server.is_in_recovery(true);
    let node = node_at(server.address());
    for _ in 0..2 {
        assert_eq!(node.ask(soon()).await.expect("an answer").claim, Claim::Replica);
    }
}

#[tokio::test]
async fn a_refused_connection_is_reported_as_such() {
    let mut server = server(Behaviour::Serves).await;
    server.closes().await;
    assert_eq!(node_at(server.address()).ask(soon()).await, Err(CheckError::Refused));
}

#[tokio::test]
async fn a_discovered_node_outside_the_allowed_networks_is_not_connected_to() {
    let server = server(Behaviour::Serves).await;
    let (access, configured) = access_to(server.address(), &["10.0.0.0/8"]);
    let name = HostPort::new("localhost", configured.address.port()).expect("is a host");
    let discovered = Member { is_discovered: true, ..configured.clone() };
    for stranger in [Member { address: name, ..discovered.clone() }, discovered] {
        let error = SqlNode::new(access.clone(), Arc::new(stranger)).ask(soon()).await.expect_err("is not asked");
        assert!(error.to_string().ends_with("is not within discover_allow"), "{error}");
    }
    let configured = SqlNode::new(access, Arc::new(configured));
    assert_eq!(configured.ask(soon()).await.expect("the operator has named it").claim, Claim::Leader);
}
