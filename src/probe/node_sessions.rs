//! The number of sessions on each node of a cluster. The proxy counts them; routing and the monitor read the numbers.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use tokio::sync::Notify;

use crate::cluster::node::NODES_MAX;
use crate::cluster::{NodeId, NodeSet};

/// The sessions on each node of one cluster.
#[derive(Debug)]
pub struct NodeSessions {
    on: [AtomicU32; NODES_MAX],
    ended: Notify,
}

impl Default for NodeSessions {
    /// No sessions.
    fn default() -> NodeSessions {
        NodeSessions { on: std::array::from_fn(|_| AtomicU32::new(0)), ended: Notify::new() }
    }
}

impl NodeSessions {
    /// Counts a new session.
    pub fn add(&self, node: NodeId) {
        self.on[node.index()].fetch_add(1, Relaxed);
    }

    /// Counts the end of a session, and wakes the caller that has waited longest for that.
    pub fn remove(&self, node: NodeId) {
        self.on[node.index()].fetch_sub(1, Relaxed);
        self.ended.notify_one();
    }

    /// Waits until a session ends on any node. Cancel safe: the next caller that waits is woken instead. It may return
    /// once although no session has ended since the call.
    pub async fn session_ended(&self) {
        self.ended.notified().await;
    }

    /// The number on a node now.
    pub fn on(&self, node: NodeId) -> u32 {
        self.on[node.index()].load(Relaxed)
    }

    /// The number on each node now, indexed by the node's number.
    pub fn all(&self) -> Vec<u32> {
        self.on.iter().map(|sessions| sessions.load(Relaxed)).collect()
    }

    /// The nodes that have sessions.
    pub fn busy(&self) -> NodeSet {
        let mut busy = NodeSet::default();
        let nodes = self.on.iter().enumerate().filter(|(_, sessions)| sessions.load(Relaxed) > 0);
        nodes.for_each(|(number, _)| busy.insert(NodeId::new(number)));
        busy
    }
}
