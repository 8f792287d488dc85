//! The sessions on each node of a cluster, counted. The proxy counts them; routing, the monitor and the stats page read
//! the numbers.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use tokio::sync::Notify;

use crate::cluster::node::NODES_MAX;
use crate::cluster::{NodeId, NodeSet};
use crate::telemetry::RateMeter;

const SESSIONS_HIGHEST: &str = "sessions_highest";
const PER_SECOND_HIGHEST: &str = "per_second_highest";

/// The sessions on each node of one cluster.
#[derive(Debug)]
pub struct NodeSessions {
    on: [AtomicU32; NODES_MAX],
    totals: Box<[Totals]>,
    ended: Notify,
}

/// What has been counted of one node since the start.
#[derive(Debug, Default)]
struct Totals {
    highest: AtomicU32,
    established: AtomicU64,
    rate: RateMeter,
    failed: AtomicU64,
    lost: AtomicU64,
    ended_bytes_to_server: AtomicU64,
    ended_bytes_to_client: AtomicU64,
}

impl Totals {
    /// The numbers that only grow, with their names.
    fn counters(&self) -> [(&'static str, &AtomicU64); 5] {
        [
            ("established", &self.established),
            ("failed", &self.failed),
            ("lost", &self.lost),
            ("bytes_to_server", &self.ended_bytes_to_server),
            ("bytes_to_client", &self.ended_bytes_to_client),
        ]
    }
}

/// The counts of one node at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeCounts {
    /// Sessions on it now, including those that are logging in.
    pub sessions: u32,
    /// The most that it has had at the same time.
    pub sessions_highest: u32,
    /// Sessions whose login succeeded.
    pub established: u64,
    /// The same in the last full second.
    pub per_second: u32,
    /// The same in the busiest second.
    pub per_second_highest: u32,
    /// Attempts to open a session that failed because of the node.
    pub failed: u64,
    /// Sessions that broke because the connection to the node was lost.
    pub lost: u64,
}

impl Default for NodeSessions {
    /// No sessions.
    fn default() -> NodeSessions {
        NodeSessions {
            on: std::array::from_fn(|_| AtomicU32::new(0)),
            totals: (0..NODES_MAX).map(|_| Totals::default()).collect(),
            ended: Notify::new(),
        }
    }
}

impl NodeSessions {
    /// Counts a new session.
    pub fn add(&self, node: NodeId) {
        let sessions = self.on[node.index()].fetch_add(1, Relaxed) + 1;
        let highest = &self.totals[node.index()].highest;
        if sessions > highest.load(Relaxed) {
            highest.fetch_max(sessions, Relaxed);
        }
    }

    /// Counts the end of a session, and wakes the caller that has waited longest for that.
    pub fn remove(&self, node: NodeId) {
        self.on[node.index()].fetch_sub(1, Relaxed);
        self.ended.notify_one();
    }

    /// Counts a session whose login succeeded.
    pub fn established(&self, node: NodeId) {
        let totals = &self.totals[node.index()];
        totals.established.fetch_add(1, Relaxed);
        totals.rate.count();
    }

    /// Counts an attempt to open a session that failed because of the node.
    pub fn failed(&self, node: NodeId) {
        self.totals[node.index()].failed.fetch_add(1, Relaxed);
    }

    /// Counts a session that broke because the connection to the node was lost.
    pub fn lost(&self, node: NodeId) {
        self.totals[node.index()].lost.fetch_add(1, Relaxed);
    }

    /// Adds the bytes of a session that has ended.
    pub fn add_ended_bytes(&self, node: NodeId, [to_server, to_client]: [u64; 2]) {
        let totals = &self.totals[node.index()];
        totals.ended_bytes_to_server.fetch_add(to_server, Relaxed);
        totals.ended_bytes_to_client.fetch_add(to_client, Relaxed);
    }

    /// What was counted of a node so far, by name. Another process can add it to its own.
    pub fn figures(&self, node: NodeId) -> Vec<(&'static str, u64)> {
        let totals = &self.totals[node.index()];
        let highest = [(SESSIONS_HIGHEST, totals.highest.load(Relaxed)), (PER_SECOND_HIGHEST, totals.rate.highest())];
        let highest = highest.map(|(name, value)| (name, u64::from(value)));
        totals.counters().map(|(name, counter)| (name, counter.load(Relaxed))).into_iter().chain(highest).collect()
    }

    /// Adds what another process has counted of a node. False if the name is unknown.
    pub fn add_figure(&self, node: NodeId, name: &str, value: u64) -> bool {
        let totals = &self.totals[node.index()];
        let highest = u32::try_from(value).unwrap_or(u32::MAX);
        match name {
            SESSIONS_HIGHEST => _ = totals.highest.fetch_max(highest, Relaxed),
            PER_SECOND_HIGHEST => totals.rate.was(highest),
            name => match totals.counters().into_iter().find(|(known, _)| *known == name) {
                Some((_, counter)) => _ = counter.fetch_add(value, Relaxed),
                None => return false,
            },
        }
        true
    }

    /// Forgets what has been counted since the start: the number is another node's from now on.
    pub fn forget(&self, node: NodeId) {
        let totals = &self.totals[node.index()];
        totals.highest.store(self.on(node), Relaxed);
        totals.rate.forget();
        totals.counters().iter().for_each(|(_, counter)| counter.store(0, Relaxed));
    }

    /// Bytes that ended sessions have relayed to a node and from it.
    pub fn ended_bytes(&self, node: NodeId) -> [u64; 2] {
        let totals = &self.totals[node.index()];
        [totals.ended_bytes_to_server.load(Relaxed), totals.ended_bytes_to_client.load(Relaxed)]
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

    /// All counts of a node.
    pub fn counts(&self, node: NodeId) -> NodeCounts {
        let totals = &self.totals[node.index()];
        NodeCounts {
            sessions: self.on(node),
            sessions_highest: totals.highest.load(Relaxed),
            established: totals.established.load(Relaxed),
            per_second: totals.rate.per_second(),
            per_second_highest: totals.rate.highest(),
            failed: totals.failed.load(Relaxed),
            lost: totals.lost.load(Relaxed),
        }
    }

    /// The nodes that have sessions.
    pub fn busy(&self) -> NodeSet {
        let mut busy = NodeSet::default();
        let nodes = self.on.iter().enumerate().filter(|(_, sessions)| sessions.load(Relaxed) > 0);
        nodes.for_each(|(number, _)| busy.insert(NodeId::new(number)));
        busy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_sessions_returns_to_zero_and_totals_stay() {
        let (sessions, node) = (NodeSessions::default(), NodeId::new(1));
        for _ in 0..3 {
            sessions.add(node);
            sessions.established(node);
        }
        sessions.failed(node);
        sessions.lost(node);
        (0..3).for_each(|_| sessions.remove(node));
        sessions.add_ended_bytes(node, [5, 7]);
        let counts = sessions.counts(node);
        assert_eq!((counts.sessions, counts.sessions_highest, counts.established), (0, 3, 3));
        assert_eq!((counts.failed, counts.lost), (1, 1));
        assert!((1..=3).contains(&counts.per_second_highest), "all in one second, or spread over several");
        assert_eq!(sessions.ended_bytes(node), [5, 7]);
        assert_eq!(sessions.counts(NodeId::new(2)), NodeCounts::default(), "each node has its own");
        sessions.forget(node);
        assert_eq!(sessions.counts(node), NodeCounts::default(), "the number is another node's now");
    }
}
