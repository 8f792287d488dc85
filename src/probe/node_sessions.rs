//! How many sessions each node of a cluster has: the proxy counts, routing and the monitor read.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::cluster::node::NODES_MAX;
use crate::cluster::{NodeId, NodeSet};

/// The sessions on each node of one cluster.
#[derive(Debug)]
pub struct NodeSessions([AtomicU32; NODES_MAX]);

impl Default for NodeSessions {
    /// None.
    fn default() -> NodeSessions {
        NodeSessions(std::array::from_fn(|_| AtomicU32::new(0)))
    }
}

impl NodeSessions {
    /// Counts a session in.
    pub fn add(&self, node: NodeId) {
        self.0[node.index()].fetch_add(1, Relaxed);
    }

    /// Counts a session out that was counted in.
    pub fn remove(&self, node: NodeId) {
        self.0[node.index()].fetch_sub(1, Relaxed);
    }

    /// How many a node has now.
    pub fn on(&self, node: NodeId) -> u32 {
        self.0[node.index()].load(Relaxed)
    }

    /// How many each node has now, by its number.
    pub fn all(&self) -> Vec<u32> {
        self.0.iter().map(|sessions| sessions.load(Relaxed)).collect()
    }

    /// The nodes that have sessions.
    pub fn busy(&self) -> NodeSet {
        let mut busy = NodeSet::default();
        let nodes = self.0.iter().enumerate().filter(|(_, sessions)| sessions.load(Relaxed) > 0);
        nodes.for_each(|(number, _)| busy.insert(NodeId::new(number)));
        busy
    }
}
