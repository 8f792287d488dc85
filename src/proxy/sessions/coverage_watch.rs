//! Logs when a replica begins or ceases to be excluded from a listener's new sessions, and when these sessions go to the
//! leader because no replica can serve.

use std::sync::Arc;

use tracing::{info, warn};

use super::registry::Registry;
use crate::cluster::NodeId;
use crate::cluster::health::Health;
use crate::cluster::node::Claim;
use crate::cluster::topology::{NodeView, Topology};
use crate::config::ListenerIndex;
use crate::probe::ClusterHandle;
use crate::routing::{Coverage, Excluded, Rule, has_server};

/// Watches one listener.
pub struct CoverageWatch {
    /// The listener's number and name.
    pub listener: (ListenerIndex, String),
    /// The listener's rule.
    pub rule: Rule,
    /// The listener's cluster.
    pub view: ClusterHandle,
    /// Is told whether there is a node for new sessions.
    pub registry: Arc<Registry>,
}

impl CoverageWatch {
    /// Runs until it is dropped. Says nothing before every node has been checked once.
    pub async fn run(self) {
        let mut last: Option<Coverage> = None;
        loop {
            let topology = self.view.topology_full();
            let is_checked = |node: &NodeView| node.health != Health::UNKNOWN;
            let are_checked = topology.members().all(|(_, node)| is_checked(node));
            let is_available = has_server(&topology, &self.rule);
            if is_available || are_checked {
                self.registry.set_available(self.listener.0, is_available);
            }
            if last.is_some() || are_checked {
                let coverage = Coverage::of(&topology, &self.rule);
                self.log_changes(last.as_ref(), &coverage, &topology);
                last = Some(coverage);
            }
            self.view.newer_than(topology.generation).await;
        }
    }

    fn log_changes(&self, last: Option<&Coverage>, coverage: &Coverage, topology: &Topology) {
        let was_excluded = |node: NodeId| last.is_some_and(|last| last.excludes(node));
        for excluded in coverage.excluded.iter().filter(|excluded| !was_excluded(excluded.node)) {
            // a condition that a node does not meet from the start is how the listener is configured
            if excluded.is_lag || last.is_some() {
                self.log_exclusion(excluded, topology);
            }
        }
        let listener = &self.listener.1;
        for before in last.iter().flat_map(|last| &last.excluded).filter(|before| !coverage.excludes(before.node)) {
            let node = topology.node(before.node);
            if node.claim() == Some(Claim::Replica) {
                info!(%listener, node = node.member.name, was = before.why, "replica gets new sessions again");
            }
        }
        match (last.and_then(|last| last.fallback), coverage.fallback) {
            (None, Some(leader)) => {
                let node = &topology.node(leader).member.name;
                warn!(%listener, %node, "no replica can serve: new sessions go to the leader (fallback)");
            }
            (Some(_), None) => info!(%listener, "new sessions no longer go to the leader in place of replicas"),
            _ => {}
        }
    }

    fn log_exclusion(&self, excluded: &Excluded, topology: &Topology) {
        let (listener, view) = (&self.listener.1, topology.node(excluded.node));
        let (node, reason) = (&view.member.name, &excluded.why);
        if excluded.is_lag {
            let lag = view.recent_lag.unwrap_or_default();
            let (lag_bytes, lag_seconds) = (lag.bytes, lag.time.as_secs_f64());
            warn!(%listener, %node, %reason, lag_bytes, lag_seconds, "replica gets no new sessions");
        } else {
            info!(%listener, %node, %reason, "replica gets no new sessions");
        }
    }
}
