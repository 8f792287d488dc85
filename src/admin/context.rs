//! What the pages read, and the actions change.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::{Config, Listener};
use crate::probe::ClusterHandle;
use crate::proxy::sessions::registry::{Census, Registry};
use crate::telemetry::MetricRegistry;

/// Everything that the pages read, and the actions change.
#[derive(Debug)]
pub struct AdminContext {
    /// What runs.
    pub config: Arc<Config>,
    /// The clusters, in the configuration's order.
    pub clusters: Vec<ClusterHandle>,
    /// All sessions.
    pub registry: Arc<Registry>,
    /// Everything that is counted.
    pub metrics: MetricRegistry,
    /// When the program began to serve.
    pub started: Instant,
    /// Comes true when the program stops.
    pub is_stopping: watch::Receiver<bool>,
}

impl AdminContext {
    /// Each listener's name and numbers.
    pub(super) fn census(&self) -> Vec<(String, Census)> {
        let listeners = self.config.listeners.iter();
        let named = |(settings, census): (&Listener, Census)| {
            (settings.name.clone(), Census { sessions_max: settings.sessions_max, ..census })
        };
        listeners.zip(self.registry.census()).map(named).collect()
    }

    /// Why new connections are better sent elsewhere; `None` if they are welcome.
    pub(super) fn why_not_ready(&self) -> Option<String> {
        if *self.is_stopping.borrow() {
            return Some("stopping".to_owned());
        }
        if let Some(cluster) = self.clusters.iter().find(|cluster| cluster.is_unattended()) {
            return Some(format!("no check of cluster \"{}\" has been attended to for some seconds", cluster.name()));
        }
        let blind = self
            .clusters
            .iter()
            .find(|cluster| !cluster.topology().members().any(|(_, node)| node.health.label() == "up"));
        blind.map(|cluster| format!("no node of cluster \"{}\" answers", cluster.name()))
    }
}
