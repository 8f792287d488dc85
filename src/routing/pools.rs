//! The nodes that may take a session that reads, best first.

use super::Rule;
use super::eligibility::{self, Eligibility};
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
    pub(super) eligible: Ranked,
    /// The leader, if it may replace standbys.
    fallback_leader: Vec<NodeId>,
    /// Both kinds again: those nodes that have just failed for another client.
    failing: Ranked,
    failing_fallback_leader: Vec<NodeId>,
    /// Nodes that were eligible when they last answered.
    silent: Ranked,
}

impl Pools {
    pub(super) fn new(topology: &Topology, rule: &Rule) -> Pools {
        let mut pools = Pools::default();
        let fails_clients = |id: NodeId| topology.node(id).ports.fails_clients(rule.port);
        for (id, node) in topology.members() {
            let kind = match eligibility::for_reads(topology, id, rule) {
                Eligibility::Eligible if fails_clients(id) => &mut pools.failing,
                Eligibility::Eligible => &mut pools.eligible,
                Eligibility::Silent => &mut pools.silent,
                Eligibility::NotEligible { .. } => continue,
            };
            kind[rank(node, rule)].push(id);
        }
        if let Some(leader) = fallback_leader(topology, rule) {
            let kind =
                if fails_clients(leader) { &mut pools.failing_fallback_leader } else { &mut pools.fallback_leader };
            kind.push(leader);
        }
        pools
    }

    /// The leader, if it is the first choice only because no standby can serve.
    pub(super) fn fallback(&self) -> Option<NodeId> {
        let has_none = |ranked: &Ranked| ranked.iter().all(Vec::is_empty);
        if !has_none(&self.eligible) {
            return None;
        }
        let failing = if has_none(&self.failing) { self.failing_fallback_leader.first() } else { None };
        self.fallback_leader.first().or(failing).copied()
    }

    /// All pools in order of preference. The first one that has room is used.
    pub(super) fn in_order(&self) -> impl Iterator<Item = &Vec<NodeId>> {
        let kinds: [&[Vec<NodeId>]; 5] = [
            &self.eligible,
            std::slice::from_ref(&self.fallback_leader),
            &self.failing,
            std::slice::from_ref(&self.failing_fallback_leader),
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
pub(super) fn fallback_leader(topology: &Topology, rule: &Rule) -> Option<NodeId> {
    let leader = topology.leader().or_else(|| standby_leader(topology))?;
    let is_ready = topology.node(leader).admin == AdminState::Ready;
    (is_ready && is_fallback_leader(topology, rule, leader)).then_some(leader)
}

/// Whether a node is the leader that serves in place of standbys, whatever its administrative state.
pub(super) fn is_fallback_leader(topology: &Topology, rule: &Rule, id: NodeId) -> bool {
    let leader = topology.leader().or_else(|| standby_leader(topology));
    rule.target.is_standbys() && rule.falls_back_to_leader && leader == Some(id)
}

/// The node that leads a standby cluster. Such a cluster has no leader that takes writes.
fn standby_leader(topology: &Topology) -> Option<NodeId> {
    let is_one =
        |node: &NodeView| node.claim() == Some(Claim::StandbyLeader) && matches!(node.health, Health::Answering { .. });
    topology.members().find(|(_, node)| is_one(node)).map(|(id, _)| id)
}
