//! What a listener's settings do on the wire: where it listens, which port of the nodes and which nodes it uses, and how
//! clients wait and are refused.

use pgvane_loadtest::ports;

use crate::fake::FakeCluster;
use crate::metrics;
use crate::wire::{SOON, Session, Wire, plain_startup};

// ---- bind -----------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_listener_serves_at_each_address_of_its_list_and_counts_them_together() {
    let cluster = FakeCluster::of(1).await;
    let file = cluster.directory().join(".s.PGSQL.6432");
    let (first, second) = (ports::free().expect("a port"), ports::free().expect("a port"));
    let listener = format!(
        "[[listener]]\nname = \"several\"\nbind = [\"{first}\", \"{second}\", \"unix:{}\"]\ntarget = \"leader\"\n\
         sessions_max = 3\nunix_socket_mode = \"0700\"",
        file.display()
    );
    let mut pgvane = cluster.pgvane(|pgvane| pgvane.more(&listener)).await;

    let mut sessions = vec![Session::through(first).await, Session::through(second).await];
    sessions.push(Wire::by(&file).await.log_in(&plain_startup()).await);
    for session in &mut sessions {
        assert_eq!(session.value("who").await, "node1");
    }
    metrics::wait_for(&pgvane, "pgvane_sessions{listener=\"several\"}", 3.0).await;
    let mut one_too_many = Wire::to(second).await;
    one_too_many.send(&plain_startup()).await;
    assert_eq!(one_too_many.fatal().await.sqlstate().as_deref(), Some("53300"), "sessions_max is the listener's");

    pgvane.terminate().expect("it runs");
    drop(sessions);
    assert!(pgvane.wait(SOON).await.expect("it ends").success());
    assert!(!file.exists());
}

#[tokio::test]
async fn a_listener_that_cannot_listen_at_one_of_its_addresses_says_at_which() {
    let cluster = FakeCluster::of(1).await;
    let (free, taken) = (ports::free().expect("a port"), cluster[0].postgres.address());
    let listener = format!("[[listener]]\nname = \"several\"\nbind = [\"{free}\", \"{taken}\"]\ntarget = \"leader\"");
    let mut pgvane = cluster.spawn_pgvane(|pgvane| pgvane.more(&listener));
    assert_eq!(pgvane.wait(SOON).await.expect("it ends").code(), Some(1));
    let told = pgvane.log_text();
    assert!(told.contains(&format!("listener \"several\" cannot listen on {taken}: ")), "{told}");
}
