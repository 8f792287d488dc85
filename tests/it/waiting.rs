//! What clients are told while they wait for a node.

use std::time::Duration;

use pgvane_loadtest::fake::Behaviour;
use pgvane_loadtest::messages::ssl_request;

use crate::fake::FakeCluster;
use crate::wire::{SOON, Wire, plain_startup};

/// How long pgjdbc waits for the answer to its request for TLS (`sslResponseTimeout`).
const DRIVER_WAITS: Duration = Duration::from_secs(5);

/// How a TLS handshake begins; the fake node sends every byte back.
const CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x00\x05hello";

/// A leader and a replica whose PostgreSQLs do this.
async fn two_nodes(behaviour: Behaviour) -> FakeCluster {
    let cluster = FakeCluster::of(2).await;
    for node in [0, 1] {
        cluster[node].postgres.usually(behaviour);
    }
    cluster
}

/// A client that asks for TLS; with the answer, which must come before the driver gives up.
async fn answer_to_tls_request(mut client: Wire) -> (Wire, Vec<u8>) {
    client.send(&ssl_request()).await;
    let answer = tokio::time::timeout(DRIVER_WAITS, client.bytes(1)).await.expect("an answer while it is held");
    (client, answer)
}

#[tokio::test]
async fn a_driver_that_waits_five_seconds_for_tls_waits_longer_for_a_leader() {
    let cluster = two_nodes(Behaviour::EchoesInsteadOfTls).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.hold_max("60s")).await;
    let (_earlier, answer) = answer_to_tls_request(Wire::to(pgvane.write_addr).await).await;
    assert_eq!(answer, b"S", "the node says so");
    cluster[0].follows();
    pgvane.wait_for_log("no leader", 0, SOON).await.expect("it notices");

    let (mut client, answer) = answer_to_tls_request(Wire::to(pgvane.write_addr).await).await;
    assert_eq!(answer, b"S", "all nodes have said so before");
    client.send(CLIENT_HELLO).await;
    cluster[1].leads(2);
    assert_eq!(client.bytes(CLIENT_HELLO.len()).await, CLIENT_HELLO, "the handshake goes on with the new leader");
}

#[tokio::test]
async fn a_client_that_was_told_that_tls_begins_is_given_no_node_that_refuses_it() {
    let cluster = two_nodes(Behaviour::EchoesInsteadOfTls).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.hold_max("6s")).await;
    let (_earlier, _) = answer_to_tls_request(Wire::to(pgvane.write_addr).await).await;
    cluster[0].follows();
    pgvane.wait_for_log("no leader", 0, SOON).await.expect("it notices");
    let (mut client, answer) = answer_to_tls_request(Wire::to(pgvane.write_addr).await).await;
    assert_eq!(answer, b"S");
    client.send(CLIENT_HELLO).await;
    cluster[1].postgres.usually(Behaviour::Serves);
    cluster[1].leads(2);
    assert_eq!(client.rest().await, b"", "it is not sent a message that is not encrypted");
    assert!(cluster[1].postgres.seen().startups.is_empty());
}

#[tokio::test]
async fn a_client_that_asks_for_tls_where_no_node_has_it_logs_in_when_another_leads() {
    let cluster = two_nodes(Behaviour::Serves).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.hold_max("60s")).await;
    let (_earlier, answer) = answer_to_tls_request(Wire::to(pgvane.write_addr).await).await;
    assert_eq!(answer, b"N");
    cluster[0].follows();
    pgvane.wait_for_log("no leader", 0, SOON).await.expect("it notices");

    let (client, answer) = answer_to_tls_request(Wire::to(pgvane.write_addr).await).await;
    assert_eq!(answer, b"N", "all nodes have said so before");
    cluster[1].leads(2);
    assert_eq!(client.log_in(&plain_startup()).await.value("who").await, "node2");
}
