//! The state that the HTTP handlers share.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use super::operator_log::OperatorLog;
use super::process::Process;
use super::reloads::Reloads;
use super::switchovers::Switchovers;
use super::trends::Trends;
use super::upgrades::Upgrades;
use crate::config::{ClusterIndex, Config, ListenerIndex};
use crate::net::Resolver;
use crate::probe::ClusterHandle;
use crate::proxy::metrics::ProxyMetrics;
use crate::proxy::sessions::registry::Registry;
use crate::proxy::sessions::tally::Census;
use crate::telemetry::{MetricRegistry, lines_lost};

/// Everything that the HTTP handlers read and change.
#[derive(Debug)]
pub struct AdminContext {
    /// The configuration in use.
    pub config: Arc<Config>,
    /// The clusters, in the configuration's order.
    pub clusters: Vec<ClusterHandle>,
    /// Looks up the nodes' names.
    pub names: Arc<Resolver>,
    /// The number of each cluster in the registry, in the configuration's order. It is not the position after a reload.
    pub cluster_numbers: Vec<ClusterIndex>,
    /// The number of each listener in the registry, in the configuration's order.
    pub listener_numbers: Vec<ListenerIndex>,
    /// All sessions.
    pub registry: Arc<Registry>,
    /// All counters and histograms.
    pub metrics: MetricRegistry,
    /// Those of the listeners, by name.
    pub listener_metrics: Arc<ProxyMetrics>,
    /// The last hour, for the plots of the stats page.
    pub trends: Arc<Trends>,
    /// What operators have changed.
    pub operators: Arc<OperatorLog>,
    /// When the program began to accept connections.
    pub started: Instant,
    /// Becomes true when the program begins to stop.
    pub is_stopping: watch::Receiver<bool>,
    /// Reloads of the configuration.
    pub reloads: Arc<Reloads>,
    /// Upgrades.
    pub upgrades: Arc<Upgrades>,
    /// Switchovers that operators have asked for here.
    pub switchovers: Arc<Switchovers>,
}

impl AdminContext {
    /// The numbers of each listener and of each cluster's nodes, in the configuration's order.
    pub(super) fn census(&self) -> Census {
        let all = self.registry.census();
        Census {
            listeners: self.listener_numbers.iter().map(|number| all.listeners[number.0]).collect(),
            node_bytes: self.cluster_numbers.iter().map(|number| all.node_bytes[number.0].clone()).collect(),
            servers: self.listener_numbers.iter().map(|number| all.servers[number.0].clone()).collect(),
        }
    }

    /// What is true of the whole process now.
    pub(super) fn process(&self) -> Process {
        let now = u64::try_from(Timestamp::now().as_second()).unwrap_or_default();
        Process {
            started_at: now.saturating_sub(self.started.elapsed().as_secs()),
            threads: self.config.threads,
            descriptors_max: self.registry.descriptors_max(),
            log_lines_lost: lines_lost(),
        }
    }

    /// Whether operators may change something: the configuration has users.
    pub(super) fn has_actions(&self) -> bool {
        self.config.admin.as_ref().is_some_and(|admin| !admin.users.is_empty())
    }

    /// Why a load balancer should not send connections here; `None` if it should.
    pub(super) fn why_not_ready(&self) -> Option<String> {
        if *self.is_stopping.borrow() {
            return Some("pgvane is stopping".to_owned());
        }
        if let Some(cluster) = self.clusters.iter().find(|cluster| cluster.is_monitor_stuck()) {
            return Some(format!("no check of cluster \"{}\" has been attended to for some seconds", cluster.name()));
        }
        let unanswered = self
            .clusters
            .iter()
            .find(|cluster| !cluster.topology().members().any(|(_, node)| node.health.label() == "up"));
        unanswered.map(|cluster| format!("no node of cluster \"{}\" answers its checks", cluster.name()))
    }
}
