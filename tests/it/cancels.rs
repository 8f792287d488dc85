//! Which node a cancel request goes to, and which go nowhere: before fakes, that note what reaches them.
//!
//! That PostgreSQL does what it is asked to then, is shown with real clients in `clients/cancelling.rs`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use pgvane_loadtest::fake::Behaviour;
use pgvane_loadtest::messages::{cancel_request, ssl_request};
use pgvane_loadtest::pgvane::Pgvane;
use tokio::task::JoinSet;

use crate::fake::FakeCluster;
use crate::metrics;
use crate::wire::{Session, Wire};

const READ_SESSIONS: &str = "pgvane_sessions{listener=\"read\"}";

/// A key as protocol 3.2 allows it: a process id and a secret of 256 bytes.
fn long_key() -> Vec<u8> {
    [&[0, 0, 0x12, 0x67][..], &(0..=255).collect::<Vec<u8>>()].concat()
}

/// Sends the request and waits until pgvane closes, which is after the node has acted.
async fn cancel(port: SocketAddr, key: &[u8]) -> Vec<u8> {
    let packet = cancel_request(key);
    let mut canceller = Wire::to(port).await;
    canceller.send(&packet).await;
    assert_eq!(canceller.rest().await, b"");
    packet
}

/// A session that nobody but the node can look into.
async fn encrypted_session(port: SocketAddr) -> Wire {
    let mut client = Wire::to(port).await;
    client.send(&ssl_request()).await;
    assert_eq!(client.bytes(1).await, b"S");
    client
}

async fn outcomes(pgvane: &Pgvane, listener: &str, outcome: &str) -> f64 {
    metrics::value(pgvane, &format!("pgvane_cancels_total{{listener=\"{listener}\",outcome=\"{outcome}\"}}")).await
}

/// What each node has been asked to cancel.
fn cancels(cluster: &FakeCluster) -> [usize; 3] {
    [0, 1, 2].map(|node| cluster[node].postgres.seen().cancels.len())
}

#[tokio::test]
async fn a_cancel_goes_to_the_node_that_runs_the_session_and_to_no_other() {
    let cluster = FakeCluster::of(3).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.read_listener("balance = \"round-robin\"")).await;
    let mut sessions = Vec::new();
    for _ in 0..4 {
        sessions.push(Session::through(pgvane.read_addr).await);
    }
    for (number, session) in sessions.iter_mut().enumerate() {
        let runs_on = session.value("who").await;
        // whoever has the key may come by any port of the cluster
        let port = if number % 2 == 0 { pgvane.read_addr } else { pgvane.write_addr };
        let packet = cancel(port, &session.key).await;
        for node in [0, 1, 2].map(|node| &cluster[node]) {
            let reached = node.postgres.seen().cancels.contains(&packet);
            assert_eq!(reached, node.name == runs_on, "a cancel for {runs_on}, {} seen", node.name);
        }
    }
    assert_eq!(outcomes(&pgvane, "read", "delivered").await, 2.0);
    assert_eq!(outcomes(&pgvane, "write", "delivered").await, 2.0);
}

#[tokio::test]
async fn a_cancel_is_delivered_though_it_was_refused_encryption_first() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let session = Session::through(pgvane.write_addr).await;
    let packet = cancel_request(&session.key);
    let mut canceller = Wire::to(pgvane.write_addr).await;
    canceller.send(&ssl_request()).await;
    assert_eq!(canceller.bytes(1).await, b"N");
    canceller.send(&packet).await;
    assert_eq!(canceller.rest().await, b"");
    assert_eq!(cluster[0].postgres.seen().cancels, [packet]);
}

#[tokio::test]
async fn a_cancel_for_no_session_that_runs_goes_nowhere() {
    let cluster = FakeCluster::of(3).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let Session { wire, key } = Session::through(pgvane.read_addr).await;
    drop(wire);
    metrics::wait_for(&pgvane, READ_SESSIONS, 0.0).await;
    cancel(pgvane.read_addr, &key).await;
    cancel(pgvane.write_addr, &long_key()).await;
    assert_eq!(cancels(&cluster), [0, 0, 0]);
    assert_eq!(outcomes(&pgvane, "read", "no-session").await, 1.0);
    assert_eq!(outcomes(&pgvane, "write", "no-session").await, 1.0);
}

#[tokio::test]
async fn a_cancel_that_may_belong_to_an_encrypted_session_goes_to_every_node_that_has_one() {
    let cluster = FakeCluster::of(3).await;
    for node in [0, 1, 2] {
        cluster[node].postgres.usually(Behaviour::EchoesInsteadOfTls);
    }
    let pgvane = cluster.pgvane(|pgvane| pgvane.read_listener("balance = \"round-robin\"")).await;
    cancel(pgvane.read_addr, &long_key()).await;
    assert_eq!(cancels(&cluster), [0, 0, 0], "nobody has one");

    let first = encrypted_session(pgvane.read_addr).await;
    let packet = cancel(pgvane.read_addr, &long_key()).await;
    let [_, second_node, third_node] = cancels(&cluster);
    assert_eq!(second_node + third_node, 1, "one of the replicas has one");
    let second = encrypted_session(pgvane.read_addr).await;
    cancel(pgvane.read_addr, &long_key()).await;
    cancel(pgvane.write_addr, &long_key()).await;
    assert_eq!(cancels(&cluster), [0, second_node + 1, third_node + 1], "both have, and none by the other port");
    for node in [1, 2] {
        assert!(cluster[node].postgres.seen().cancels.iter().all(|cancel| *cancel == packet), "whole and unchanged");
    }
    assert_eq!(outcomes(&pgvane, "read", "fanned-out").await, 2.0);
    assert_eq!(outcomes(&pgvane, "read", "no-session").await, 1.0);

    drop([first, second]);
    metrics::wait_for(&pgvane, READ_SESSIONS, 0.0).await;
    cancel(pgvane.read_addr, &long_key()).await;
    assert_eq!(outcomes(&pgvane, "read", "no-session").await, 2.0);
}

#[tokio::test]
async fn a_session_whose_key_was_seen_is_not_taken_for_an_encrypted_one_even_if_it_has_ended() {
    let cluster = FakeCluster::of(3).await;
    cluster[1].postgres.usually(Behaviour::EchoesInsteadOfTls);
    cluster[2].postgres.usually(Behaviour::EchoesInsteadOfTls);
    let pgvane = cluster.pgvane(|pgvane| pgvane.read_listener("balance = \"round-robin\"")).await;
    let _encrypted = [encrypted_session(pgvane.read_addr).await, encrypted_session(pgvane.read_addr).await];
    cluster[1].postgres.usually(Behaviour::Serves);
    cluster[2].postgres.usually(Behaviour::Serves);
    let Session { wire, key } = Session::through(pgvane.read_addr).await;
    cancel(pgvane.read_addr, &key).await;
    assert_eq!(cancels(&cluster).iter().sum::<usize>(), 1, "one node, and not both");
    drop(wire);
    metrics::wait_for(&pgvane, READ_SESSIONS, 2.0).await;
    cancel(pgvane.read_addr, &key).await;
    assert_eq!(cancels(&cluster).iter().sum::<usize>(), 1);
    assert_eq!(outcomes(&pgvane, "read", "no-session").await, 1.0);
}

/// Fifty of one source may come together, and 25 in a second after that. Another source has a share of its own.
#[tokio::test]
async fn made_up_keys_do_not_flood_the_nodes_nor_delay_others() {
    let cluster = FakeCluster::of(1).await;
    cluster[0].postgres.next(&[Behaviour::EchoesInsteadOfTls]);
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let _encrypted = encrypted_session(pgvane.write_addr).await;
    let session = Session::through(pgvane.write_addr).await;

    let started = Instant::now();
    let port = pgvane.write_addr;
    let made_up = |number: u8| [&long_key()[..259], &[number]].concat();
    let mut flood: JoinSet<_> = (0..200).map(|number| async move { cancel(port, &made_up(number)).await }).collect();
    while cluster[0].postgres.seen().cancels.len() < 50 {
        flood.join_next().await.expect("fifty at once").expect("no panic");
    }
    for number in 200..212 {
        let (mut canceller, _) = Wire::from(Ipv4Addr::new(127, 0, 0, 9), port).await;
        canceller.send(&cancel_request(&made_up(number))).await;
        assert_eq!(canceller.rest().await, b"");
        assert_eq!(cancels_of(&cluster, &made_up(number)), 1, "another source's requests arrive");
    }
    assert!(started.elapsed() < Duration::from_secs(2), "within {:?}", started.elapsed());
    cancel(pgvane.write_addr, &session.key).await;
    assert_eq!(cancels_of(&cluster, &session.key), 1, "a known key does not wait for those that are made up");
    flood.join_all().await;
    assert!(started.elapsed() >= Duration::from_millis(2900), "128 of one source within {:?}", started.elapsed());
    let [sent, dropped] = [outcomes(&pgvane, "write", "fanned-out").await, outcomes(&pgvane, "write", "limited").await];
    assert!(dropped > 20.0 && (sent + dropped - 212.0).abs() < 0.5, "{sent} sent, {dropped} dropped");
}

/// Requests for encrypted sessions carry keys that pgvane does not know, as made-up ones do.
#[tokio::test]
async fn a_steady_stream_of_invented_keys_does_not_stop_the_requests_of_another_client() {
    let cluster = FakeCluster::of(1).await;
    cluster[0].postgres.next(&[Behaviour::EchoesInsteadOfTls]);
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let _encrypted = encrypted_session(pgvane.write_addr).await;
    let port = pgvane.write_addr;
    let made_up = |number: u16| [&long_key()[..258], &number.to_be_bytes()].concat();
    let stream = tokio::spawn(async move {
        let mut requests = JoinSet::new();
        for number in 0..u16::MAX {
            let key = made_up(number);
            requests.spawn(async move { cancel(port, &key).await });
            tokio::time::sleep(Duration::from_millis(4)).await; // the rate of the stream
        }
    });
    let limited = "pgvane_cancels_total{listener=\"write\",outcome=\"limited\"}";
    metrics::wait_for_more(&pgvane, limited, 0.0).await;
    for number in 0..12 {
        let key = [&long_key()[..259], &[number]].concat().into_iter().rev().collect::<Vec<u8>>();
        let (mut canceller, _) = Wire::from(Ipv4Addr::new(127, 0, 0, 9), port).await;
        canceller.send(&cancel_request(&key)).await;
        assert_eq!(canceller.rest().await, b"");
        assert_eq!(cancels_of(&cluster, &key), 1, "request {number} has not arrived");
    }
    stream.abort();
}

/// Whoever knows a key, its owner or not, cannot make the server start a process for each request at once.
#[tokio::test]
async fn many_requests_for_one_key_are_sent_one_after_the_other() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let session = Session::through(pgvane.write_addr).await;
    let (port, key) = (pgvane.write_addr, session.key.clone());
    let flood: JoinSet<_> = (0..300)
        .map(|_| {
            let key = key.clone();
            async move { cancel(port, &key).await }
        })
        .collect();
    flood.join_all().await;
    let [sent, dropped] = [outcomes(&pgvane, "write", "delivered").await, outcomes(&pgvane, "write", "limited").await];
    assert!(sent >= 1.0 && dropped > 100.0 && (sent + dropped - 300.0).abs() < 0.5, "{sent} sent, {dropped} dropped");
    cancel(port, &key).await;
    assert_eq!(outcomes(&pgvane, "write", "delivered").await, sent + 1.0, "and the next one goes at once");
}

fn cancels_of(cluster: &FakeCluster, key: &[u8]) -> usize {
    let packet = cancel_request(key);
    cluster[0].postgres.seen().cancels.iter().filter(|cancel| **cancel == packet).count()
}
