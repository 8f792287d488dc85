//! Moves a listener's sessions, one at a time, until each of its nodes has its share again.

use std::sync::Arc;

use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info};

use super::registry::Registry;
use crate::config::{ClusterIndex, ListenerIndex};
use crate::probe::ClusterHandle;
use crate::routing::{Phase, Rebalance, Rule};

/// Rebalances one listener.
pub struct Rebalancer {
    /// The listener's index and name.
    pub listener: (ListenerIndex, String),
    /// The index of the listener's cluster.
    pub cluster: ClusterIndex,
    /// The listener's rule.
    pub rule: Rule,
    /// The rebalance settings.
    pub settings: Rebalance,
    /// The listener's cluster.
    pub view: ClusterHandle,
    /// All running sessions.
    pub registry: Arc<Registry>,
}

impl Rebalancer {
    /// Runs until it is dropped.
    pub async fn run(self) {
        let (listener, name) = &self.listener;
        let mut ticks = interval(self.settings.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut phase = Phase::default();
        loop {
            ticks.tick().await;
            let was_moving = phase == Phase::Moving;
            let topology = self.view.topology_full();
            let node_loads = self.registry.node_loads(*listener, self.cluster);
            let node_load = |node: crate::cluster::NodeId| node_loads[node.index()];
            let donor = phase.step(&self.settings, &topology, &self.rule, node_load, self.view.now());
            match (was_moving, phase == Phase::Moving) {
                (false, true) => info!(listener = name, "rebalancing started: sessions are moved between transactions"),
                (true, false) => info!(listener = name, "rebalancing finished"),
                _ => {}
            }
            if let Some(node) = donor {
                debug!(listener = name, node = topology.node(node).member.name, "moving a session");
                self.registry.move_one(*listener, node);
            }
        }
    }
}
