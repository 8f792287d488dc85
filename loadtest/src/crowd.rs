//! Many clients that come one after another; each connects once and sends one query.

use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::reader::Reader;
use crate::tls::Endpoint;

/// What all of them saw.
#[derive(Debug, Default)]
pub struct CrowdReport {
    /// For each client that was served: the time until its answer.
    pub served: Vec<Duration>,
    /// The failure of each of the others.
    pub failures: Vec<Failure>,
}

impl CrowdReport {
    /// The longest time that a client took until it was served.
    pub fn longest_wait(&self) -> Duration {
        self.served.iter().max().copied().unwrap_or_default()
    }
}

/// Sends `clients` to `server`, one every `every`, and waits for all of them.
pub async fn visit(server: impl Into<Endpoint>, clients: usize, every: Duration) -> CrowdReport {
    let server = server.into();
    let mut arrivals = tokio::time::interval(every);
    let mut under_way = Vec::with_capacity(clients);
    for _ in 0..clients {
        arrivals.tick().await;
        let arrived = Instant::now();
        under_way.push(tokio::spawn(async move { Reader::to(server).visit().await.map(|visit| visit.at - arrived) }));
    }
    let mut report = CrowdReport::default();
    for client in under_way {
        match client.await.expect("a visit does not panic") {
            Ok(took) => report.served.push(took),
            Err(failure) => report.failures.push(failure),
        }
    }
    report
}
