//! A cluster of three nodes, and rules, for the tests of routing.

use std::sync::Arc;

use super::{Balance, NoRoute, Rule, Situation, Target, route};
use crate::cluster::NodeId;
use crate::cluster::fixtures::{at_ms, leader, member, replica, report};
use crate::cluster::health::Health;
use crate::cluster::leadership::Leadership;
use crate::cluster::node::{CheckError, Claim, Report};
use crate::cluster::topology::{NodeView, Topology};

pub(super) fn read() -> Rule {
    Rule { balance: Balance::RoundRobin, lag_bytes_max: Some(64), ..Rule::new(Target::Replica) }
}

pub(super) fn strict(rule: Rule) -> Rule {
    Rule { falls_back_to_leader: false, ..rule }
}

pub(super) fn node(name: &str, report: Option<Arc<Report>>) -> NodeView {
    let health = match report {
        Some(report) => Health::Answering { report, asked_at: at_ms(1), since: at_ms(1), missed: 0 },
        None => Health::UNKNOWN,
    };
    NodeView { health, ..NodeView::unchecked(Arc::new(member(name))) }
}

/// A leader and two replicas, in this order.
pub(super) fn three() -> Topology {
    let nodes = vec![node("a", Some(leader(1))), node("b", Some(replica(1))), node("c", Some(replica(1)))];
    let leadership = Leadership::Led { leader: NodeId::new(0), timeline: Some(1), since: at_ms(1) };
    Topology { leadership, ..Topology::unchecked(nodes) }
}

pub(super) fn replica_with(change: impl FnOnce(&mut Report)) -> NodeView {
    let mut changed = report(Claim::Replica, 1);
    change(&mut changed);
    node("c", Some(Arc::new(changed)))
}

pub(super) fn routed(topology: &Topology, rule: &Rule, tried: &[NodeId]) -> Result<NodeId, NoRoute> {
    route(
        topology,
        rule,
        &Situation { tried, turn: 0, load: |_| 0, now: at_ms(1), arrived_at: at_ms(1), monitored_at: at_ms(1) },
    )
}

pub(super) fn readers(topology: &Topology, rule: &Rule, tried: &[NodeId]) -> Vec<usize> {
    let at_turn = |turn| {
        route(
            topology,
            rule,
            &Situation { tried, turn, load: |_| 0, now: at_ms(1), arrived_at: at_ms(1), monitored_at: at_ms(1) },
        )
    };
    (0..4).filter_map(|turn| at_turn(turn).ok()).map(|id| id.index()).collect()
}

pub(super) fn stop_answering(topology: &mut Topology, id: usize) {
    let report = Arc::clone(topology.nodes[id].health.report().expect("has answered"));
    let error = CheckError::TimedOut;
    topology.nodes[id].health = Health::Silent { report, asked_at: at_ms(1), since: at_ms(2), error, risen: 0 };
}
