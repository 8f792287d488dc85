//! The state that the HTTP handlers share.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::Config;
use crate::net::Resolver;
use crate::probe::ClusterHandle;
use crate::proxy::metrics::ProxyMetrics;
use crate::proxy::sessions::registry::Registry;
use crate::telemetry::MetricRegistry;

/// Everything that the HTTP handlers read and change.
#[derive(Debug)]
pub struct AdminContext {
    /// The configuration in use.
    pub config: Arc<Config>,
    /// The clusters, in the configuration's order.
    pub clusters: Vec<ClusterHandle>,
    /// Looks up the nodes' names.
    pub names: Arc<Resolver>,
    /// All sessions.
    pub registry: Arc<Registry>,
    /// All counters and histograms.
    pub metrics: MetricRegistry,
    /// Those of the listeners, by name.
    pub listener_metrics: ProxyMetrics,
    /// When the program began to accept connections.
    pub started: Instant,
    /// Becomes true when the program begins to stop.
    pub is_stopping: watch::Receiver<bool>,
}

impl AdminContext {
    /// Why a load balancer should not send connections here; `None` if it should.
    pub(super) fn why_not_ready(&self) -> Option<String> {
        if *self.is_stopping.borrow() {
            return Some("pgvane is stopping".to_owned());
        }
        if let Some(cluster) = self.clusters.iter().find(|cluster| cluster.is_unattended()) {
            return Some(format!("no check of cluster \"{}\" has been attended to for some seconds", cluster.name()));
        }
        let unanswered = self
            .clusters
            .iter()
            .find(|cluster| !cluster.topology().members().any(|(_, node)| node.health.label() == "up"));
        unanswered.map(|cluster| format!("no node of cluster \"{}\" answers its checks", cluster.name()))
    }
}
