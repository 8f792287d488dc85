//! `pgvane check --connect`: what it says of nodes that answer, that do not, and of what is in front of them.

use std::fmt::Write as _;
use std::path::Path;

use pgvane_loadtest::lab::Node;

use crate::command_line::{Answer, FAILURE, OK, pgvane};
use crate::fake::FakeCluster;

/// Runs `pgvane check --connect` with these nodes, while the fakes go on.
async fn check(directory: &Path, nodes: &[Node]) -> Answer {
    let mut text = "[[cluster]]\ntimeout = \"500ms\"\nleader_grace = \"5s\"\n".to_owned();
    for Node { name, pg, rest, .. } in nodes {
        let _ = writeln!(text, "[[cluster.node]]\nname = \"{name}\"\naddress = \"{pg}\"\npatroni = \"http://{rest}\"");
    }
    for (name, port, target) in [("write", 6432, "leader"), ("read", 6433, "replica")] {
        let _ = writeln!(text, "[[listener]]\nname = \"{name}\"\nbind = \"127.0.0.1:{port}\"\ntarget = \"{target}\"");
    }
    let file = directory.join("check.toml");
    std::fs::write(&file, text).expect("is written");
    let run = move || pgvane(&["check", "--connect", &file.display().to_string()]);
    tokio::task::spawn_blocking(run).await.expect("no panic")
}

#[tokio::test]
async fn a_check_that_connects_says_where_each_listener_would_send_its_sessions() {
    let cluster = FakeCluster::of(3).await;
    let answer = check(cluster.directory(), &cluster.addresses()).await;
    answer.ended_with(OK);
    assert!(
        answer.out.contains("listener write on 127.0.0.1:6432: sessions go to node1, the leader\n"),
        "{}",
        answer.out
    );
    assert!(answer.out.contains("listener read on 127.0.0.1:6433: sessions go to node2, node3\n"), "{}", answer.out);
}

#[tokio::test]
async fn a_check_that_connects_names_the_port_that_nobody_can_reach_and_the_node_that_is_silent() {
    let mut cluster = FakeCluster::of(3).await;
    cluster.postgres_of(1).closes().await;
    cluster[2].patroni.freezes();
    let answer = check(cluster.directory(), &cluster.addresses()).await;
    answer.ended_with(FAILURE);
    assert!(answer.out.contains("  PostgreSQL of node2: connection refused\n"), "{}", answer.out);
    assert!(answer.out.contains("node3 at") && answer.out.contains("no answer in time"), "{}", answer.out);
    assert!(answer.out.contains("sessions go to node1, the leader\n"), "{}", answer.out);
}

#[tokio::test]
async fn a_check_that_connects_says_why_writes_would_wait() {
    let cluster = FakeCluster::of(2).await;
    cluster[0].patroni.follows();
    let answer = check(cluster.directory(), &cluster.addresses()).await;
    answer.ended_with(FAILURE);
    let wanted =
        "listener write on 127.0.0.1:6432: sessions wait, at most for hold_max (40s): no node claims to be the leader";
    assert!(answer.out.contains(wanted), "{}", answer.out);
}
