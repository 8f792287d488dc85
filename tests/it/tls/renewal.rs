//! Certificates that are replaced while they are in use.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use pgvane_loadtest::messages::ssl_request;
use pgvane_loadtest::pgvane::Pgvane;
use pgvane_loadtest::wait;

use super::{certificates, encrypted, terminating};
use crate::certificates::Certificates;
use crate::fake::FakeCluster;
use crate::metrics;
use crate::wire::{SOON, Wire, plain_startup};

const EXPIRY: &str = "pgvane_tls_certificate_expiry_timestamp_seconds{listener=\"write\"}";
const FAILURES: &str = "pgvane_tls_reload_failures_total{listener=\"write\"}";

#[tokio::test]
async fn a_new_certificate_is_shown_to_new_clients_and_old_sessions_continue() {
    let (cluster, files) = (FakeCluster::of(1).await, certificates());
    let pgvane = cluster.pgvane(|pgvane| terminating(pgvane, &files, "")).await;
    let told = "certificate for clients loaded listener=write names=\"localhost\" expires=";
    pgvane.wait_for_log(told, 0, SOON).await.expect("is logged");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
    assert!(metrics::value(&pgvane, EXPIRY).await > now);
    let mut old = encrypted(&pgvane, &files).await.log_in(&plain_startup()).await;

    // found by itself; and at once where it is told to look
    files.issue("pgvane", "elsewhere.example.org");
    is_read(&pgvane, &files, "elsewhere.example.org").await;
    files.issue("pgvane", "localhost");
    let from = pgvane.log_text().len();
    pgvane.reload().expect("it runs");
    pgvane.wait_for_log("names=\"localhost\"", from, SOON).await.expect("read");
    encrypted(&pgvane, &files).await.log_in(&plain_startup()).await;
    assert_eq!(old.value("who").await, "node1");
    assert_eq!(metrics::value(&pgvane, FAILURES).await, 0.0);
}

/// Waits until a client meets a certificate that is not in the name of `localhost`, and the log says in whose it is.
async fn is_read(pgvane: &Pgvane, files: &Certificates, name: &str) {
    let look = || async {
        let mut client = Wire::to(pgvane.write_addr).await;
        client.send(&ssl_request()).await;
        assert_eq!(client.bytes(1).await, b"S");
        match client.begins_tls(&files.client(&[])).await {
            Ok(_) => Err("the old one is shown".to_owned()),
            Err(error) => Ok(error.to_string()),
        }
    };
    let refused = wait::until("a new certificate", SOON, look).await.unwrap_or_else(|error| panic!("{error}"));
    assert!(refused.contains("not valid for name"), "{refused}");
    let told = format!("names=\"{name}\"");
    pgvane.wait_for_log(&told, 0, SOON).await.expect("is logged");
}

#[tokio::test]
async fn a_broken_certificate_is_logged_and_the_old_one_stays_in_use() {
    let (cluster, files) = (FakeCluster::of(1).await, certificates());
    let pgvane = cluster.pgvane(|pgvane| terminating(pgvane, &files, "")).await;
    let before = metrics::value(&pgvane, EXPIRY).await;
    // the key of another certificate: half of a renewal
    files.issue("other", "localhost");
    fs::rename(files.path("other.key"), files.path("pgvane.key")).expect("is there");
    metrics::wait_for(&pgvane, FAILURES, 1.0).await;
    let told = "cannot load changed certificates; the previous ones stay in use listener=write key=\"tls\" \
                error=the private key does not match the certificate in";
    pgvane.wait_for_log(told, 0, SOON).await.expect("is logged");
    encrypted(&pgvane, &files).await.log_in(&plain_startup()).await;
    assert_eq!(metrics::value(&pgvane, EXPIRY).await, before);

    fs::rename(files.path("other.pem"), files.path("pgvane.pem")).expect("is there");
    pgvane.wait_for_log("names=\"localhost\"", pgvane.log_text().len(), SOON).await.expect("the other half");
    encrypted(&pgvane, &files).await.log_in(&plain_startup()).await;
}
