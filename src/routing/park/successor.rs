//! The node that will probably lead next: a parked session that has lost its server logs in there in advance.
//!
//! A wrong guess costs one login in vain. The session goes on only at a node that leads.

use std::cmp::Reverse;

use crate::cluster::NodeId;
use crate::cluster::node::{Claim, Report, ServerKind, SyncStanding};
use crate::cluster::topology::{NodeView, Topology};

/// The node that will probably lead after `left`, where its sessions have lost their server. `None` if no other node can.
///
/// A node that holds Patroni's leader lock and is still in recovery is being promoted. Before that: `asked`, the node that
/// a switchover was asked for; in synchronous mode a synchronous standby, because Patroni promotes no other node; else the
/// replica that has received most.
pub fn successor(topology: &Topology, left: NodeId, asked: Option<NodeId>) -> Option<NodeId> {
    let others = || topology.members().filter(|(id, node)| *id != left && can_lead(node));
    let holder = others().find(|(_, node)| node.claim() == Some(Claim::LockHolder));
    if let Some((id, _)) = holder {
        return Some(id);
    }
    let replicas = || others().filter(|(_, node)| node.claim() == Some(Claim::Replica));
    if let Some((id, _)) = replicas().find(|(id, _)| Some(*id) == asked) {
        return Some(id);
    }
    let report = |node: &NodeView| node.health.report().cloned();
    let is_sync = |node: &NodeView| report(node).is_some_and(|report| report.sync != SyncStanding::Async);
    let received = |node: &NodeView| report(node).and_then(|report| report.received.max(report.position));
    replicas().max_by_key(|(id, node)| (is_sync(node), received(node), Reverse(*id))).map(|(id, _)| id)
}

/// Patroni may promote it, and sessions can log in there.
fn can_lead(node: &NodeView) -> bool {
    let has_tag = |report: &Report, name: &str, value: &str| report.tags.get(name).is_some_and(|found| found == value);
    let is_excluded = |report: &Report| {
        // both of Patroni: "nofailover", and since 3.2 "failover_priority"
        has_tag(report, "nofailover", "true") || has_tag(report, "failover_priority", "0")
    };
    node.foreign.is_none()
        && node.member.kind == ServerKind::Postgresql
        && node.admin.why_not_eligible().is_none()
        && node.health.report().is_some_and(|report| report.state == "running" && !is_excluded(report))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cluster::fixtures::report;
    use crate::cluster::node::Lsn;
    use crate::routing::fixtures::{node, replica_with, three};

    const LEFT: NodeId = NodeId::new(0);

    fn found(topology: &Topology) -> Option<usize> {
        successor(topology, LEFT, None).map(NodeId::index)
    }

    #[test]
    fn it_is_the_node_that_holds_the_leader_lock() {
        let mut topology = three();
        topology.nodes[1] = replica_with(|report| report.received = Some(Lsn(9999)));
        topology.nodes[2] = node("c", Some(Arc::new(report(Claim::LockHolder, 1))));
        assert_eq!(found(&topology), Some(2));
        assert_eq!(successor(&topology, LEFT, Some(NodeId::new(1))), Some(NodeId::new(2)), "whatever was asked for");
    }

    #[test]
    fn it_is_never_the_node_that_was_left() {
        let mut topology = three();
        topology.nodes[0] = node("a", Some(Arc::new(report(Claim::LockHolder, 1)))); // it is stopping
        assert_eq!(found(&topology), Some(1));
        topology.nodes.truncate(1);
        assert_eq!(found(&topology), None);
    }

    #[test]
    fn without_a_lock_it_is_the_one_asked_for_then_a_synchronous_one_then_the_one_that_has_received_most() {
        let mut topology = three();
        assert_eq!(found(&topology), Some(1));
        topology.nodes[2] = replica_with(|report| report.received = Some(Lsn(1001)));
        assert_eq!(found(&topology), Some(2));
        topology.nodes[1] = replica_with(|report| report.sync = SyncStanding::Sync);
        assert_eq!(found(&topology), Some(1));
        assert_eq!(successor(&topology, LEFT, Some(NodeId::new(2))), Some(NodeId::new(2)));
    }

    #[test]
    fn nodes_that_cannot_lead_are_left_out() {
        for (tag, value) in [("nofailover", "true"), ("failover_priority", "0")] {
            let mut topology = three();
            let excluded = replica_with(|report| _ = report.tags.insert(tag.to_owned(), value.to_owned()));
            topology.nodes[1] = excluded;
            assert_eq!(found(&topology), Some(2), "{tag}");
        }
        let mut topology = three();
        topology.nodes[1] = replica_with(|report| report.state = "starting".to_owned());
        topology.nodes[2].foreign = Some("another cluster".to_owned());
        assert_eq!(found(&topology), None);
    }
}
