//! The nodes that may take a session that reads, best first.

use super::Rule;
use super::fitness::{self, Fitness};
use crate::cluster::health::Health;
use crate::cluster::node::Claim;
use crate::cluster::topology::{NodeView, Topology};
use crate::cluster::{AdminState, NodeId};

/// Ranks of nodes within one kind: preferred ones, the others, and backups.
const RANKS: usize = 3;

/// Nodes of one kind, by rank.
type Ranked = [Vec<NodeId>; RANKS];

/// The eligible nodes, by kind.
#[derive(Debug, Default)]
pub(super) struct Pools {
    /// Nodes that answer and are eligible.
    pub(super) fresh: Ranked,
    /// The leader, where it may replace standbys.
    stand_in: Vec<NodeId>,
    /// Both kinds again, of the nodes that have just failed another client.
    failing: Ranked,
    failing_stand_in: Vec<NodeId>,
    /// Nodes that were eligible when they last answered.
    silent: Ranked,
}

impl Pools {
    pub(super) fn new(topology: &Topology, rule: &Rule) -> Pools {
        let mut pools = Pools::default();
        let fails_clients = |id: NodeId| topology.node(id).ports.fails_clients(rule.port);
        for (id, node) in topology.members() {
            let kind = match fitness::for_reads(topology, id, rule) {
                Fitness::Fresh if fails_clients(id) => &mut pools.failing,
                Fitness::Fresh => &mut pools.fresh,
                Fitness::Silent => &mut pools.silent,
                Fitness::Unfit { .. } => continue,
            };
            kind[rank(node, rule)].push(id);
        }
        if let Some(leader) = stand_in(topology, rule) {
            let kind = if fails_clients(leader) { &mut pools.failing_stand_in } else { &mut pools.stand_in };
            kind.push(leader);
        }
        pools
    }

    /// The leader, if it is the first choice only because no standby can serve.
    pub(super) fn fallback(&self) -> Option<NodeId> {
        let has_none = |ranked: &Ranked| ranked.iter().all(Vec::is_empty);
        if !has_none(&self.fresh) {
            return None;
        }
        let failing = if has_none(&self.failing) { self.failing_stand_in.first() } else { None };
        self.stand_in.first().or(failing).copied()
    }

    /// All pools in order of preference. The first one that has room is used.
    pub(super) fn in_order(&self) -> impl Iterator<Item = &Vec<NodeId>> {
        let kinds: [&[Vec<NodeId>]; 5] = [
            &self.fresh,
            std::slice::from_ref(&self.stand_in),
            &self.failing,
            std::slice::from_ref(&self.failing_stand_in),
            &self.silent,
        ];
        kinds.into_iter().flatten()
    }
}

fn rank(node: &NodeView, rule: &Rule) -> usize {
    match (node.member.is_backup, rule.prefers(node)) {
        (false, true) => 0,
        (false, false) => 1,
        (true, _) => 2,
    }
}

/// The leader, where it serves in place of standbys.
pub(super) fn stand_in(topology: &Topology, rule: &Rule) -> Option<NodeId> {
    let leader = topology.leader().or_else(|| standby_leader(topology))?;
    let is_ready = topology.node(leader).admin == AdminState::Ready;
    (is_ready && stands_in(topology, rule, leader)).then_some(leader)
}

/// Whether a node is the leader that serves in place of standbys, whatever its administrative state.
pub(super) fn stands_in(topology: &Topology, rule: &Rule, id: NodeId) -> bool {
    let leader = topology.leader().or_else(|| standby_leader(topology));
    rule.target.is_standbys() && rule.falls_back_to_leader && leader == Some(id)
}

/// The node that leads a standby cluster. Such a cluster has no leader that takes writes.
fn standby_leader(topology: &Topology) -> Option<NodeId> {
    let is_one =
        |node: &NodeView| node.claim() == Some(Claim::StandbyLeader) && matches!(node.health, Health::Answering { .. });
    topology.members().find(|(_, node)| is_one(node)).map(|(id, _)| id)
}
