//! Whether a node gets new sessions of a listener, for people and monitoring.

use super::eligibility::{self, Eligibility};
use super::pools;
use super::rule::{Rule, Target};
use crate::cluster::health::Health;
use crate::cluster::topology::Topology;
use crate::cluster::{AdminState, NodeId};

/// A node as a listener sees it, whatever its administrative state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerState {
    /// It gets new sessions.
    Serves,
    /// It gets new sessions while no other node can serve them: a backup, or the leader, if it replaces replicas.
    Backup,
    /// It does not answer its checks, and is still the leader: it gets new sessions until `leader_grace` has passed.
    SilentLeader,
    /// It gets no new sessions, for this reason: text that follows "is". A silent replica may get some as the last resort.
    Down(String),
}

/// The state of a node for a listener with this rule.
pub fn server_state(topology: &Topology, rule: &Rule, id: NodeId) -> ServerState {
    let node = topology.node(id);
    let is_silent = matches!(node.health, Health::Silent { .. });
    if rule.target == Target::Leader {
        return match topology.leader() == Some(id) {
            true if is_silent => ServerState::SilentLeader,
            true => ServerState::Serves,
            false if is_silent => ServerState::Down(node.health.label().to_owned()),
            false => ServerState::Down(node.role_label().to_owned()),
        };
    }
    match eligibility::by_state(topology, id, rule) {
        Eligibility::Eligible if node.member.is_backup => ServerState::Backup,
        Eligibility::Eligible => ServerState::Serves,
        Eligibility::NotEligible { .. } if pools::is_fallback_leader(topology, rule, id) && !is_silent => {
            ServerState::Backup
        }
        Eligibility::Silent => ServerState::Down(node.health.label().to_owned()),
        Eligibility::NotEligible { why, .. } => ServerState::Down(why),
    }
}

/// Whether a listener with this rule has a node that gets new sessions.
pub fn has_server(topology: &Topology, rule: &Rule) -> bool {
    topology.members().any(|(id, node)| {
        node.admin == AdminState::Ready && !matches!(server_state(topology, rule, id), ServerState::Down(_))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cluster::fixtures::{at_ms, leader, member, replica};
    use crate::cluster::leadership::Leadership;
    use crate::cluster::node::{CheckError, Report};
    use crate::cluster::topology::NodeView;

    fn topology() -> Topology {
        let node = |name, report: Arc<Report>| NodeView {
            health: Health::Answering { report, asked_at: at_ms(1), since: at_ms(1), missed: 0 },
            ..NodeView::unchecked(Arc::new(member(name)))
        };
        let nodes = vec![node("a", leader(1)), node("b", replica(1)), NodeView::unchecked(Arc::new(member("c")))];
        let leadership = Leadership::Led { leader: NodeId::new(0), timeline: Some(1), since: at_ms(1) };
        Topology { leadership, ..Topology::unchecked(nodes) }
    }

    fn silence(topology: &mut Topology, node: usize, report: Arc<Report>) {
        topology.nodes[node].health =
            Health::Silent { report, asked_at: at_ms(1), since: at_ms(2), error: CheckError::Refused, risen: 0 };
    }

    fn states(topology: &Topology, rule: &Rule) -> Vec<ServerState> {
        (0..3).map(|node| server_state(topology, rule, NodeId::new(node))).collect()
    }

    fn down(why: &str) -> ServerState {
        ServerState::Down(why.to_owned())
    }

    #[test]
    fn the_leader_serves_writes_and_the_replicas_serve_reads() {
        let mut topology = topology();
        let writes = Rule::new(Target::Leader);
        assert_eq!(states(&topology, &writes), [ServerState::Serves, down("replica"), down("unknown")]);
        let reads = Rule { falls_back_to_leader: false, ..Rule::new(Target::Replica) };
        assert_eq!(states(&topology, &reads), [down("leader"), ServerState::Serves, down("unknown")]);
        assert!(has_server(&topology, &reads) && has_server(&topology, &writes));
        topology.nodes[1].admin = AdminState::Drain;
        assert_eq!(states(&topology, &reads)[1], ServerState::Serves, "the administrative state is shown separately");
        assert!(!has_server(&topology, &reads), "and a drained node gets no new sessions");
    }

    #[test]
    fn a_node_that_serves_only_in_place_of_others_is_a_backup() {
        let mut topology = topology();
        let reads = Rule { falls_back_to_leader: true, ..Rule::new(Target::Replica) };
        assert_eq!(states(&topology, &reads)[..2], [ServerState::Backup, ServerState::Serves]);
        let mut backup = member("b");
        backup.is_backup = true;
        topology.nodes[1].member = Arc::new(backup);
        assert_eq!(states(&topology, &reads)[1], ServerState::Backup);
        topology.nodes[0].admin = AdminState::Maint;
        assert_eq!(states(&topology, &reads)[0], ServerState::Backup, "the administrative state is shown separately");
    }

    #[test]
    fn a_silent_leader_still_gets_sessions_and_a_silent_replica_gets_none() {
        let mut topology = topology();
        silence(&mut topology, 0, leader(1));
        silence(&mut topology, 1, replica(1));
        assert_eq!(states(&topology, &Rule::new(Target::Leader))[..2], [ServerState::SilentLeader, down("silent")]);
        let reads = Rule::new(Target::Replica);
        assert_eq!(states(&topology, &reads)[1], down("silent"));
    }
}
